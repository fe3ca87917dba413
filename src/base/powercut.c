/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Every block that was written has a node in a skip list, in the order of the blocks, and a version for each write, the
 * oldest first.
 *
 * Invariants
 *  1. A node has at least one version; versions of a node are in the order of their writes.
 *  2. A sector's fate depends on the seed, the number of the write and the sector, in ordered mode besides on the first and
 *     last number in the log: not on when or in which pieces the question is asked.
 */
#include "base/powercut.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/iov.h"
#include "base/list.h"

#define LEVELS 16
/* A version's cost besides its data, for the limit: zeroes are not free either. */
#define VERSION_BYTES sizeof(struct version)

/* ---- The rule ---- */

static uint64_t
mix(uint64_t x)
{
	x ^= x >> 30;
	x *= UINT64_C(0xbf58476d1ce4e5b9);
	x ^= x >> 27;
	x *= UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

uint64_t
powercut_seed(uint64_t seed, uint64_t n)
{
	return mix(seed + n * UINT64_C(0x9e3779b97f4a7c15));
}

const char *
powercut_mode_name(enum powercut_mode mode)
{
	static const char *const names[] = {
		[POWERCUT_RANDOM] = "random",
		[POWERCUT_ORDERED] = "ordered",
		[POWERCUT_LOST] = "lost",
		[POWERCUT_KEPT] = "kept",
	};

	return names[mode];
}

static bool
survives_at_random(uint64_t seed, uint64_t seq, uint64_t sector)
{
	uint64_t fate = powercut_seed(seed, seq);

	switch (fate % 3) {
	case 0:
		return false;
	case 1:
		return true;
	default: /* torn */
		return (powercut_seed(fate, sector) & 1) != 0;
	}
}

bool
powercut_survives(const struct powercut_rule *rule, uint64_t first_seq, uint64_t last_seq,
		  uint64_t seq, uint64_t first_sector, uint64_t sectors, uint64_t sector)
{
	uint64_t point;

	switch (rule->mode) {
	case POWERCUT_RANDOM:
		return survives_at_random(rule->seed, seq, sector);
	case POWERCUT_ORDERED:
		point = first_seq + mix(rule->seed) % (last_seq - first_seq + 2);
		return seq < point ||
		       (seq == point && sector - first_sector < powercut_seed(rule->seed, seq) % sectors);
	case POWERCUT_LOST:
		return false;
	case POWERCUT_KEPT:
		break;
	}
	return true;
}

/* ---- The log ---- */

struct version {
	struct list link; /* of the node's */
	uint64_t seq;
	uint64_t write_lba; /* of the write it is part of */
	uint64_t write_blocks;
	bool zero;
	uint8_t data[];
};

struct node {
	uint64_t lba;
	struct list versions;
	unsigned levels;
	struct node *next[];
};

struct powercut_log {
	uint32_t block_bytes;
	size_t max_bytes;
	size_t bytes;
	uint64_t last_seq;
	uint64_t random; /* heights of nodes; no part of any rule */
	struct node *first[LEVELS];
};

struct powercut_log *
powercut_log_create(uint32_t block_bytes, size_t max_bytes)
{
	struct powercut_log *log = calloc(1, sizeof(*log));

	if (log != NULL) {
		log->block_bytes = block_bytes;
		log->max_bytes = max_bytes;
		log->random = 1;
	}
	return log;
}

uint64_t
powercut_log_last_seq(const struct powercut_log *log)
{
	return log->last_seq;
}

bool
powercut_log_empty(const struct powercut_log *log)
{
	return log->first[0] == NULL;
}

size_t
powercut_log_bytes(const struct powercut_log *log)
{
	return log->bytes;
}

/* ---- Nodes ---- */

/* The first node of block lba or a later one; links: what points to it, or would, on each level. */
static struct node *
seek(const struct powercut_log *log, uint64_t lba, struct node ***links)
{
	struct node **next = (struct node **)(uintptr_t)log->first;

	for (int level = LEVELS - 1; level >= 0; level--) {
		while (next[level] != NULL && next[level]->lba < lba) {
			next = next[level]->next;
		}
		if (links != NULL) {
			links[level] = &next[level];
		}
	}
	return next[0];
}

static struct node *
get_node(struct powercut_log *log, uint64_t lba)
{
	struct node **links[LEVELS];
	struct node *node = seek(log, lba, links);
	unsigned levels = 1;

	if (node != NULL && node->lba == lba) {
		return node;
	}
	log->random = powercut_seed(log->random, 1);
	while (levels < LEVELS && ((log->random >> 2 * levels) & 3) == 0) {
		levels++;
	}
	node = calloc(1, sizeof(*node) + levels * sizeof(node->next[0]));
	if (node == NULL) {
		return NULL;
	}
	node->lba = lba;
	node->levels = levels;
	list_init(&node->versions);
	for (unsigned i = 0; i < levels; i++) {
		node->next[i] = *links[i];
		*links[i] = node;
	}
	return node;
}

/* One that has no versions left. */
static void
remove_node(struct powercut_log *log, uint64_t lba)
{
	struct node **links[LEVELS];
	struct node *node = seek(log, lba, links);

	for (unsigned i = 0; i < node->levels; i++) {
		*links[i] = node->next[i];
	}
	free(node);
}

static struct version *
oldest(const struct node *node)
{
	return LIST_FIRST(&node->versions, struct version, link);
}

/* By write seq or one before; NULL: there is none. */
static struct version *
newest(const struct node *node, uint64_t seq)
{
	struct list *l = node->versions.prev;

	while (l != &node->versions) {
		struct version *v = LIST_ENTRY(l, struct version, link);

		if (v->seq <= seq) {
			return v;
		}
		l = l->prev;
	}
	return NULL;
}

static void
free_version(struct powercut_log *log, struct version *v)
{
	log->bytes -= VERSION_BYTES + (v->zero ? 0 : log->block_bytes);
	list_remove(&v->link);
	free(v);
}

void
powercut_log_free(struct powercut_log *log)
{
	if (log != NULL) {
		powercut_log_drop(log, UINT64_MAX, 0, UINT64_MAX);
		free(log);
	}
}

/* ---- Writing ---- */

static bool
add_version(struct powercut_log *log, const struct version *like, uint64_t lba)
{
	size_t data_bytes = like->zero ? 0 : log->block_bytes;
	struct version *v = malloc(sizeof(*v) + data_bytes);
	struct node *node = v != NULL ? get_node(log, lba) : NULL;

	if (node == NULL) {
		free(v);
		return false;
	}
	*v = *like;
	list_append(&node->versions, &v->link);
	log->bytes += VERSION_BYTES + data_bytes;
	return true;
}

/* Of a write that could not be remembered as a whole. */
static void
forget(struct powercut_log *log, uint64_t seq, uint64_t lba, uint64_t blocks)
{
	for (uint64_t i = 0; i < blocks; i++) {
		struct node *node = seek(log, lba + i, NULL);
		struct version *v = newest(node, UINT64_MAX);

		CHECK(node->lba == lba + i && v->seq == seq);
		free_version(log, v);
		if (list_empty(&node->versions)) {
			remove_node(log, lba + i);
		}
	}
}

uint64_t
powercut_log_write(struct powercut_log *log, uint64_t lba, uint64_t blocks, const struct iovec *iov,
		   int iovcnt)
{
	const struct version like = {.seq = log->last_seq + 1,
				     .write_lba = lba,
				     .write_blocks = blocks,
				     .zero = iov == NULL};
	size_t block_cost = VERSION_BYTES + (like.zero ? 0 : log->block_bytes);

	if (blocks > (log->max_bytes - MIN(log->bytes, log->max_bytes)) / block_cost) {
		return 0;
	}
	for (uint64_t i = 0; i < blocks; i++) {
		if (!add_version(log, &like, lba + i)) {
			forget(log, like.seq, lba, i);
			return 0;
		}
	}
	for (uint64_t i = 0; i < blocks && !like.zero; i++) {
		struct version *v = newest(seek(log, lba + i, NULL), UINT64_MAX);

		iov_to_buf(iov, iovcnt, i * log->block_bytes, v->data, log->block_bytes);
	}
	return ++log->last_seq;
}

/* ---- Reading ---- */

void
powercut_log_read(const struct powercut_log *log, uint64_t lba, uint64_t blocks,
		  const struct iovec *iov, int iovcnt, size_t offset)
{
	for (struct node *node = seek(log, lba, NULL); node != NULL && node->lba - lba < blocks;
	     node = node->next[0]) {
		struct version *v = newest(node, UINT64_MAX);
		size_t at = offset + (node->lba - lba) * log->block_bytes;

		if (v->zero) {
			iov_fill(iov, iovcnt, at, 0, log->block_bytes);
		} else {
			iov_from_buf(iov, iovcnt, at, v->data, log->block_bytes);
		}
	}
}

uint64_t
powercut_log_run(const struct powercut_log *log, uint64_t seq, uint64_t from, uint64_t end,
		 uint64_t max, uint64_t *ret_lba)
{
	struct node *node = seek(log, from, NULL);
	uint64_t blocks = 0;

	while (node != NULL && node->lba < end && oldest(node)->seq > seq) {
		node = node->next[0];
	}
	if (node == NULL || node->lba >= end) {
		return 0;
	}
	*ret_lba = node->lba;
	while (node != NULL && node->lba < end && node->lba == *ret_lba + blocks && blocks < max &&
	       oldest(node)->seq <= seq) {
		blocks++;
		node = node->next[0];
	}
	return blocks;
}

void
powercut_log_copy(const struct powercut_log *log, uint64_t seq, uint64_t lba, uint64_t blocks,
		  void *buf)
{
	for (struct node *node = seek(log, lba, NULL); node != NULL && node->lba - lba < blocks;
	     node = node->next[0]) {
		uint8_t *to = (uint8_t *)buf + (node->lba - lba) * log->block_bytes;
		struct version *v = newest(node, seq);

		if (v != NULL && v->zero) {
			memset(to, 0, log->block_bytes);
		} else if (v != NULL) {
			memcpy(to, v->data, log->block_bytes);
		}
	}
}

void
powercut_log_drop(struct powercut_log *log, uint64_t seq, uint64_t lba, uint64_t blocks)
{
	struct node *node = seek(log, lba, NULL);

	while (node != NULL && node->lba - lba < blocks) {
		struct node *next = node->next[0];
		uint64_t node_lba = node->lba;

		while (!list_empty(&node->versions) && oldest(node)->seq <= seq) {
			free_version(log, oldest(node));
		}
		if (list_empty(&node->versions)) {
			remove_node(log, node_lba);
		}
		node = next;
	}
}

/* ---- A cut ---- */

static uint64_t
first_seq(const struct powercut_log *log)
{
	uint64_t seq = log->last_seq;

	for (struct node *node = log->first[0]; node != NULL; node = node->next[0]) {
		seq = MIN(seq, oldest(node)->seq);
	}
	return seq;
}

/* The part of block lba that is in sector number sector, in bytes from the block's beginning. */
static void
apply(const struct powercut_log *log, const struct powercut_rule *rule, uint64_t first,
      const struct version *v, uint64_t lba, uint8_t *block)
{
	uint32_t piece = MIN(rule->sector_bytes, log->block_bytes);
	uint64_t per_sector = MAX(rule->sector_bytes / log->block_bytes, 1u);
	uint64_t per_block = log->block_bytes / piece;
	uint64_t first_sector = v->write_lba * per_block / per_sector;
	uint64_t end_sector = (v->write_lba + v->write_blocks - 1) * per_block / per_sector + per_block;

	for (uint64_t i = 0; i < per_block; i++) {
		uint64_t sector = lba * per_block / per_sector + i;

		if (!powercut_survives(rule, first, log->last_seq, v->seq, first_sector,
				       end_sector - first_sector, sector)) {
			continue;
		}
		if (v->zero) {
			memset(block + i * piece, 0, piece);
		} else {
			memcpy(block + i * piece, v->data + i * piece, piece);
		}
	}
}

void
powercut_log_survive(const struct powercut_log *log, const struct powercut_rule *rule, uint64_t lba,
		     uint64_t blocks, void *buf)
{
	uint64_t first = rule->mode == POWERCUT_ORDERED ? first_seq(log) : 0;

	for (struct node *node = seek(log, lba, NULL); node != NULL && node->lba - lba < blocks;
	     node = node->next[0]) {
		struct version *v;

		LIST_FOREACH (v, &node->versions, link) {
			apply(log, rule, first, v, node->lba,
			      (uint8_t *)buf + (node->lba - lba) * log->block_bytes);
		}
	}
}
