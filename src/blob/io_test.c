/* SPDX-License-Identifier: BSD-3-Clause */
/* The long way of requests: where data comes from and goes to, in one piece or many. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "blob/harness_hammer.h"
#include "blob/internal.h"
#include "testkit/hand.h"

#define CLUSTER 128u /* I/O units of 512 bytes */

struct stage {
	struct blob_env env;
	struct blob_mem *mem;
	struct blob_mem *image; /* an external snapshot */
};

static struct blob_dev *
open_image(void *ctx, struct blob *blob, const void *id, size_t id_bytes)
{
	struct stage *s = ctx;

	(void)blob;
	return s->image != NULL && id_bytes == 5 && memcmp(id, "image", 5) == 0 ? blob_mem_dev(s->image) : NULL;
}

static void
stage_open(struct stage *s, enum reactor_mode mode, bool real, const struct blob_mem_options *options,
	   uint32_t cluster_bytes, uint32_t unit_bytes)
{
	memset(s, 0, sizeof(*s));
	blob_env_start(&s->env, mode, real);
	s->mem = blob_mem_create(options);
	s->env.options.cluster_bytes = cluster_bytes;
	s->env.options.io_unit_bytes = unit_bytes;
	s->env.options.open_external = open_image;
	s->env.options.ctx = s;
	EXPECT_SAY(blob_env_create(&s->env, blob_mem_dev(s->mem)) == 0, "%s", s->env.err.text);
}

static void
stage_close(struct stage *s)
{
	EXPECT_SAY(blob_env_unload(&s->env) == 0, "%s", s->env.err.text);
	blob_env_stop(&s->env);
	blob_mem_free(s->mem);
	blob_mem_free(s->image);
}

static const struct blob_mem_options plain = {.bytes = 64 << 20, .write_cache = true, .unmap_fills = true};

static void
in_all_modes(void (*fn)(struct stage *s), const struct blob_mem_options *options, uint32_t cluster_bytes, uint32_t unit_bytes)
{
	for (unsigned i = 0; i < 6; i++) {
		struct stage s;

		stage_open(&s, hand_modes[i % 3], i >= 3, options, cluster_bytes, unit_bytes);
		fn(&s);
		stage_close(&s);
	}
}

static uint64_t
reads_of(struct stage *s)
{
	return blob_mem_get_stats(s->mem).reads;
}

/* ---- Reads ---- */

static void
reads(struct stage *s)
{
	struct blob *vol = blob_env_volume(&s->env, 20, true), *snap;
	struct blob_env_channel *c = blob_env_open(&s->env, 0, vol);
	uint64_t before = reads_of(s);

	EXPECT(blob_env_holds(c, 0, 20 * CLUSTER, 0));
	EXPECT(reads_of(s) == before); /* what nobody has costs nothing */
	EXPECT(blob_env_fill(c, 3 * CLUSTER + 5, 2 * CLUSTER, 1) == 0);
	EXPECT(blob_env_snapshot(&s->env, vol, &snap) == 0);
	EXPECT(blob_env_fill(c, 4 * CLUSTER, 10, 2) == 0);
	EXPECT(blob_env_holds(c, 3 * CLUSTER, 5, 0));
	EXPECT(blob_env_holds(c, 3 * CLUSTER + 5, CLUSTER - 5, 1));
	EXPECT(blob_env_holds(c, 4 * CLUSTER, 10, 2));
	EXPECT(blob_env_holds(c, 4 * CLUSTER + 10, CLUSTER - 5, 1));
	EXPECT(blob_env_holds(c, 5 * CLUSTER + 5, 15 * CLUSTER - 5, 0));
	EXPECT(blob_env_blob_holds(&s->env, snap, 3 * CLUSTER + 5, 2 * CLUSTER, 1));
	blob_env_close(c);
}

static void
reads_find_their_way(void **state)
{
	(void)state;
	in_all_modes(reads, &plain, 65536, 512);
}

/* A run of clusters that lie together is one request, be they one's own or below. */
static void
runs(struct stage *s)
{
	struct blob *vol = blob_env_volume(&s->env, 40, true), *snap;
	struct blob_env_channel *c = blob_env_open(&s->env, 0, vol);
	uint64_t before;

	EXPECT(blob_env_fill(c, 0, 30 * CLUSTER, 1) == 0);
	before = reads_of(s);
	EXPECT(blob_env_holds(c, 0, 40 * CLUSTER, 1) == false);
	EXPECT_SAY(reads_of(s) == before + 1, "%lu", (unsigned long)(reads_of(s) - before));
	EXPECT(blob_env_snapshot(&s->env, vol, &snap) == 0);
	before = reads_of(s);
	EXPECT(blob_env_holds(c, 0, 30 * CLUSTER, 1));
	EXPECT(reads_of(s) == before + 1);
	blob_env_close(c);
}

static void
runs_are_one_request(void **state)
{
	(void)state;
	in_all_modes(runs, &plain, 65536, 512);
}

/* ---- What may not be ---- */

static void
refusals(struct stage *s)
{
	struct blob *vol = blob_env_volume(&s->env, 4, true), *snap;
	struct blob_env_channel *c = blob_env_open(&s->env, 0, vol), *r;
	uint8_t buf[1024] = {0};

	EXPECT(blob_env_rw(c, BLOB_READ, 4 * CLUSTER, 1, buf) == -EINVAL);
	EXPECT(blob_env_rw(c, BLOB_READ, 4 * CLUSTER - 1, 2, buf) == -EINVAL);
	EXPECT(blob_env_rw(c, BLOB_WRITE, UINT64_MAX, 2, buf) == -EINVAL);
	EXPECT(blob_env_rw(c, BLOB_UNMAP, 1, UINT64_MAX, NULL) == -EINVAL);
	EXPECT(blob_env_rw(c, BLOB_READ, 4 * CLUSTER, 0, NULL) == 0);
	EXPECT(blob_env_rw(c, BLOB_WRITE, 0, 2, buf) == 0);
	EXPECT(blob_env_snapshot(&s->env, vol, &snap) == 0);
	r = blob_env_open(&s->env, 1, snap);
	EXPECT(blob_env_rw(r, BLOB_WRITE, 0, 1, buf) == -EROFS);
	EXPECT(blob_env_rw(r, BLOB_UNMAP, 0, CLUSTER, NULL) == -EROFS);
	EXPECT(blob_env_rw(r, BLOB_WRITE_ZEROES, 0, CLUSTER, NULL) == -EROFS);
	EXPECT(blob_env_rw(r, BLOB_READ, 0, 2, buf) == 0);
	blob_env_close(r);
	EXPECT(blob_env_set_read_only(&s->env, vol) == 0); /* under its channel */
	EXPECT(blob_env_rw(c, BLOB_WRITE, 0, 2, buf) == -EROFS);
	c->direct = true;
	EXPECT(blob_env_rw(c, BLOB_WRITE, 0, 2, buf) == -EROFS);
	blob_env_close(c);
}

static void
refusals_are_errors(void **state)
{
	(void)state;
	in_all_modes(refusals, &plain, 65536, 512);
}

/* ---- Scatter lists ---- */

struct scattered {
	struct blob_env_channel *c;
	struct blob_io *io;
	struct iovec *iov;
	int iovcnt;
	enum blob_op op;
	uint64_t unit, count;
	int status;
	atomic_bool done;
};

static void
scattered_done(struct blob_io *io, int status)
{
	struct scattered *x = *(struct scattered **)(void *)((uint8_t *)io - 64);

	x->status = status;
	atomic_store(&x->done, true);
}

static void
submit_scattered(void *arg)
{
	struct scattered *x = arg;

	x->io->done = scattered_done;
	x->io->op = x->op;
	x->io->iov = x->iov;
	x->io->iovcnt = x->iovcnt;
	x->io->unit = x->unit;
	x->io->count = x->count;
	blob_submit(&x->c->ch, x->io);
}

/* buf in entries of random lengths up to `most` bytes. */
static int
rw_scattered(struct blob_env_channel *c, enum blob_op op, uint64_t unit, uint64_t count, uint8_t *buf, size_t most, uint64_t seed)
{
	struct scattered x = {.c = c, .op = op, .unit = unit, .count = count};
	size_t bytes = count * c->unit_bytes;
	uint8_t *memory = aligned_alloc(64, (64 + blob_io_bytes(blob_store_of(c->ch.blob)) + 63) & ~(size_t)63);

	x.iov = calloc(bytes, sizeof(*x.iov));
	EXPECT(x.iov != NULL && memory != NULL);
	for (size_t at = 0; at < bytes;) {
		size_t len = MIN(1 + powercut_seed(seed, at) % most, bytes - at);

		x.iov[x.iovcnt++] = (struct iovec){buf + at, len};
		at += len;
	}
	*(struct scattered **)(void *)memory = &x;
	x.io = (struct blob_io *)(void *)(memory + 64);
	blob_env_call(c->worker->env, c->worker->thread, submit_scattered, &x);
	blob_env_wait(c->worker->env, &x.done);
	free(memory);
	free(x.iov);
	return x.status;
}

static void
scatter_lists(struct stage *s)
{
	static const size_t most[] = {8, 40, 700, 5000, 100000};
	struct blob *vol = blob_env_volume(&s->env, 8, true), *snap;
	struct blob_env_channel *c = blob_env_open(&s->env, 0, vol);
	uint64_t units = 5 * CLUSTER;
	uint8_t *data = malloc(units * 512), *back = malloc(units * 512);

	EXPECT(data != NULL && back != NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(most); i++) {
		blob_env_pattern(data, 512, 0, units, 100 + i);
		EXPECT(rw_scattered(c, BLOB_WRITE, 70, units, data, most[i], i) == 0);
		memset(back, 0xa5, units * 512);
		EXPECT(rw_scattered(c, BLOB_READ, 70, units, back, most[i], i + 50) == 0);
		EXPECT_SAY(memcmp(data, back, units * 512) == 0, "entries of up to %zu bytes", most[i]);
		if (i % 2 == 1) {
			EXPECT(blob_env_snapshot(&s->env, vol, &snap) == 0);
		}
	}
	free(data);
	free(back);
	blob_env_close(c);
}

static void
scatter_lists_may_be_fine(void **state)
{
	(void)state;
	in_all_modes(scatter_lists, &plain, 65536, 512);
}

/* ---- Unmap, write zeroes ---- */

static void
give_back(struct stage *s)
{
	struct blob *vol = blob_env_volume(&s->env, 16, true);
	struct blob_env_channel *c = blob_env_open(&s->env, 0, vol), *d = blob_env_open(&s->env, 1, vol);
	uint64_t empty = blob_env_info(&s->env).free_clusters;

	EXPECT(blob_env_fill(c, 0, 10 * CLUSTER, 1) == 0);
	EXPECT(blob_env_allocated(&s->env, vol) == 10);
	EXPECT(blob_env_rw(d, BLOB_UNMAP, CLUSTER - 1, 3 * CLUSTER + 2, NULL) == 0);
	EXPECT(blob_env_allocated(&s->env, vol) == 7);
	EXPECT(blob_env_holds(c, CLUSTER, 3 * CLUSTER, 0));
	EXPECT(blob_env_holds(c, 0, CLUSTER - 1, 1));
	EXPECT(blob_env_rw(c, BLOB_WRITE_ZEROES, 5 * CLUSTER + 3, 4 * CLUSTER, NULL) == 0);
	EXPECT(blob_env_allocated(&s->env, vol) == 4);
	EXPECT(blob_env_holds(d, 5 * CLUSTER, 3, 1));
	EXPECT(blob_env_holds(d, 5 * CLUSTER + 3, 4 * CLUSTER, 0));
	EXPECT(blob_env_holds(d, 9 * CLUSTER + 3, CLUSTER - 3, 1));
	blob_env_idle(&s->env);
	EXPECT(blob_env_info(&s->env).free_clusters == empty - 4);
	EXPECT(blob_env_rw(c, BLOB_UNMAP, 0, 16 * CLUSTER, NULL) == 0);
	EXPECT(blob_env_rw(c, BLOB_UNMAP, 0, 16 * CLUSTER, NULL) == 0); /* nothing is there */
	blob_env_idle(&s->env);
	EXPECT(blob_env_info(&s->env).free_clusters == empty);
	EXPECT(blob_env_fill(d, 3, 12 * CLUSTER, 5) == 0); /* into clusters that are full of something else */
	EXPECT(blob_env_holds(c, 3, 12 * CLUSTER, 5));
	EXPECT(blob_env_holds(c, 0, 3, 0));
	EXPECT(blob_env_holds(c, 12 * CLUSTER + 3, CLUSTER - 3, 0));
	blob_env_close(c);
	blob_env_close(d);
}

static void
whole_clusters_are_given_back(void **state)
{
	(void)state;
	in_all_modes(give_back, &plain, 65536, 512);
}

static void
zero_clone(struct stage *s)
{
	struct blob *vol = blob_env_volume(&s->env, 10, true), *snap;
	struct blob_env_channel *c = blob_env_open(&s->env, 0, vol);

	EXPECT(blob_env_fill(c, 0, 6 * CLUSTER, 1) == 0);
	EXPECT(blob_env_snapshot(&s->env, vol, &snap) == 0);
	EXPECT(blob_env_fill(c, 0, 2 * CLUSTER, 2) == 0);
	/* What is its own reads as zeroes, what is not stays. */
	EXPECT(blob_env_rw(c, BLOB_UNMAP, CLUSTER, 2 * CLUSTER, NULL) == 0);
	EXPECT(blob_env_holds(c, 0, CLUSTER, 2));
	EXPECT(blob_env_holds(c, CLUSTER, CLUSTER, 0));
	EXPECT(blob_env_holds(c, 2 * CLUSTER, CLUSTER, 1));
	EXPECT(blob_env_allocated(&s->env, vol) == 2);
	/* Zeroes where the parent has something take clusters, where nobody has they do not. */
	EXPECT(blob_env_rw(c, BLOB_WRITE_ZEROES, 3 * CLUSTER + 7, 6 * CLUSTER, NULL) == 0);
	EXPECT(blob_env_allocated(&s->env, vol) == 5);
	EXPECT(blob_env_holds(c, 3 * CLUSTER, 7, 1));
	EXPECT(blob_env_holds(c, 3 * CLUSTER + 7, 6 * CLUSTER, 0));
	EXPECT(blob_env_blob_holds(&s->env, snap, 0, 6 * CLUSTER, 1));
	blob_env_close(c);
}

static void
zeroes_over_a_parent(void **state)
{
	(void)state;
	in_all_modes(zero_clone, &plain, 65536, 512);
}

static void
zero_thick(struct stage *s)
{
	struct blob *vol = blob_env_volume(&s->env, 6, false);
	struct blob_env_channel *c = blob_env_open(&s->env, 0, vol);

	EXPECT(blob_env_fill(c, 0, 6 * CLUSTER, 1) == 0);
	EXPECT(blob_env_rw(c, BLOB_WRITE_ZEROES, 5, 4 * CLUSTER, NULL) == 0);
	EXPECT(blob_env_rw(c, BLOB_UNMAP, 5 * CLUSTER, CLUSTER, NULL) == 0);
	EXPECT(blob_env_allocated(&s->env, vol) == 6);
	EXPECT(blob_env_holds(c, 5, 4 * CLUSTER, 0));
	EXPECT(blob_env_holds(c, 4 * CLUSTER + 5, CLUSTER - 5, 1));
	blob_env_close(c);
}

static void
thick_blobs_keep_theirs(void **state)
{
	(void)state;
	in_all_modes(zero_thick, &plain, 65536, 512);
}

/* Zeroes over what is just being given back are answered when that is on the disk. */
static void
zero_what_goes(struct stage *s)
{
	struct blob *vol = blob_env_volume(&s->env, 4, true);
	struct blob_env_channel *c = blob_env_open(&s->env, 0, vol), *d = blob_env_open(&s->env, 1, vol);
	struct blob_env_io unmap, zeroes;

	EXPECT(blob_env_fill(c, 0, 4 * CLUSTER, 1) == 0);
	blob_mem_hold(s->mem, BLOB_MEM_OP(BLOB_DEV_WRITE));
	blob_env_submit(c, &unmap, BLOB_UNMAP, CLUSTER, 2 * CLUSTER, NULL);
	for (unsigned i = 0; blob_mem_held(s->mem) == 0; i++) {
		EXPECT_SAY(i < 10000, "%s", "nothing is held");
		blob_env_linger(&s->env, 1);
	}
	blob_env_submit(d, &zeroes, BLOB_WRITE_ZEROES, CLUSTER + 3, CLUSTER, NULL);
	blob_env_linger(&s->env, 20);
	EXPECT(!atomic_load(&unmap.done) && !atomic_load(&zeroes.done));
	blob_mem_hold(s->mem, 0);
	EXPECT(blob_env_finish(&unmap) == 0 && blob_env_finish(&zeroes) == 0);
	EXPECT(blob_env_allocated(&s->env, vol) == 2);
	EXPECT(blob_env_holds(c, CLUSTER, 2 * CLUSTER, 0));
	blob_env_close(c);
	blob_env_close(d);
}

static void
zeroes_wait_for_what_goes(void **state)
{
	(void)state;
	in_all_modes(zero_what_goes, &plain, 65536, 512);
}

/* ---- External snapshots ---- */

static void
external(struct stage *s)
{
	const struct blob_mem_options options = {.bytes = 5 * 65536 + 512};
	const struct blob_options clone = {.num_clusters = 8, .thin = true, .external_id = "image", .external_id_bytes = 5};
	struct blob *vol;
	struct blob_env_channel *c;
	uint8_t *data = malloc(options.bytes), *back = malloc(8 * 65536);

	EXPECT(data != NULL && back != NULL);
	s->image = blob_mem_create(&options);
	blob_env_pattern(data, 512, 0, options.bytes / 512, 3);
	blob_mem_write(s->image, 0, data, options.bytes);
	EXPECT_SAY(blob_env_make(&s->env, &clone, &vol) == 0, "%s", s->env.err.text);
	c = blob_env_open(&s->env, 1, vol);
	EXPECT(blob_env_holds(c, 0, 5 * CLUSTER + 1, 3));
	EXPECT(blob_env_holds(c, 5 * CLUSTER + 1, 3 * CLUSTER - 1, 0));
	EXPECT(blob_env_fill(c, CLUSTER + 1, 3, 4) == 0);
	EXPECT(blob_env_fill(c, 5 * CLUSTER + 9, 3, 4) == 0);
	EXPECT(blob_env_allocated(&s->env, vol) == 2);
	EXPECT(blob_env_holds(c, CLUSTER, 1, 3));
	EXPECT(blob_env_holds(c, CLUSTER + 1, 3, 4));
	EXPECT(blob_env_holds(c, CLUSTER + 4, 4 * CLUSTER - 3, 3));
	EXPECT(blob_env_holds(c, 5 * CLUSTER + 1, 8, 0));
	EXPECT(rw_scattered(c, BLOB_READ, 2 * CLUSTER, 2 * CLUSTER, back, 20, 9) == 0);
	EXPECT(memcmp(back, data + 2 * 65536, 2 * 65536) == 0);
	EXPECT(rw_scattered(c, BLOB_READ, 2 * CLUSTER, 2 * CLUSTER, back, 2000, 9) == 0);
	EXPECT(memcmp(back, data + 2 * 65536, 2 * 65536) == 0);
	blob_env_close(c);
	EXPECT(blob_env_delete(&s->env, vol) == 0);
	blob_env_idle(&s->env);
	free(data);
	free(back);
}

static void
external_snapshots_are_read(void **state)
{
	(void)state;
	in_all_modes(external, &plain, 65536, 512);
}

/* ---- Several threads ---- */

static void
threads(struct stage *s)
{
	struct blob *vol = blob_env_volume(&s->env, 100, true), *snap;
	struct hammer h[3];

	memset(h, 0, sizeof(h));
	for (unsigned i = 0; i < 3; i++) {
		h[i] = (struct hammer){
			.c = blob_env_open(&s->env, i % 2, vol), .share = i, .shares = 3, .seed = i + 1, .count = 1500,
			.units = blob_num_clusters(vol) * s->env.store->cluster_units, .direct = i > 0,
		};
	}
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < 3; i++) {
			h[i].seed += 10;
			hammer_start(&h[i]);
		}
		for (unsigned i = 0; i < 3; i++) {
			EXPECT(blob_env_snapshot(&s->env, vol, &snap) == 0); /* under load */
			blob_env_linger(&s->env, 2);
		}
		for (unsigned i = 0; i < 3; i++) {
			hammer_finish(&h[i]);
		}
	}
	for (unsigned i = 0; i < 3; i++) {
		hammer_verify(&h[i]);
		blob_env_close(h[i].c);
		hammer_free(&h[i]);
	}
}

static void
threads_share_clusters(void **state)
{
	struct blob_mem_options options = plain;

	(void)state;
	in_all_modes(threads, &options, 16384, 512);
	options.shuffle = true;
	in_all_modes(threads, &options, 12288, 4096); /* no power of two; units of several blocks */
}

/* ---- How far a request may reach ---- */

struct reach {
	struct blob_env_channel *c;
	uint64_t unit, count, reach;
	bool write;
};

static void
reach_on_worker(void *arg)
{
	struct reach *r = arg;

	r->reach = blob_reach(&r->c->ch, r->unit, r->count, r->write);
}

static uint64_t
reach(struct blob_env_channel *c, uint64_t unit, uint64_t count, bool write)
{
	struct reach r = {c, unit, count, 0, write};

	blob_env_call(c->worker->env, c->worker->thread, reach_on_worker, &r);
	return r.reach;
}

static void
reaches(struct stage *s)
{
	struct blob *vol = blob_env_volume(&s->env, 20, true);
	struct blob_env_channel *c = blob_env_open(&s->env, 0, vol);

	EXPECT(reach(c, 5, 7 * CLUSTER, false) == 7 * CLUSTER);
	EXPECT(reach(c, 5, 7 * CLUSTER, true) == CLUSTER - 5);
	EXPECT(blob_env_fill(c, 2 * CLUSTER, 4 * CLUSTER, 1) == 0);
	EXPECT(reach(c, 5, 7 * CLUSTER, false) == 2 * CLUSTER - 5);
	EXPECT(reach(c, 2 * CLUSTER + 5, 7 * CLUSTER, false) == 4 * CLUSTER - 5);
	EXPECT(reach(c, 2 * CLUSTER + 5, 7 * CLUSTER, true) == 4 * CLUSTER - 5);
	EXPECT(reach(c, 2 * CLUSTER + 5, 7, true) == 7);
	blob_env_close(c);
}

static void
reach_says_how_far(void **state)
{
	(void)state;
	in_all_modes(reaches, &plain, 65536, 512);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_find_their_way),
		cmocka_unit_test(runs_are_one_request),
		cmocka_unit_test(refusals_are_errors),
		cmocka_unit_test(scatter_lists_may_be_fine),
		cmocka_unit_test(whole_clusters_are_given_back),
		cmocka_unit_test(zeroes_over_a_parent),
		cmocka_unit_test(zeroes_wait_for_what_goes),
		cmocka_unit_test(thick_blobs_keep_theirs),
		cmocka_unit_test(external_snapshots_are_read),
		cmocka_unit_test(threads_share_clusters),
		cmocka_unit_test(reach_says_how_far),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
