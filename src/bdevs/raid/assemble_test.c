/* SPDX-License-Identifier: BSD-3-Clause */
/* Arrays found on their bases: after a power cut at every superblock, in any order, in part, among
 * stale and foreign ones, as SPDK wrote them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdevs/raid/harness.h"
#include "bdevs/raid/sb.h"

#define DISK_BLOCKS 2560u /* 1.25 MiB */
#define DATA 2048u
#define BLOCKS 48u /* that the scenario writes */

static const struct raid_settings quick = {.window_kb = 64, .patience_sec = 1};

static int
rw(struct stage *s, enum bdev_op op, uint64_t lba, uint64_t n, uint8_t *buf)
{
	return env_rw(&s->env.workers[0], op, lba, n, buf);
}

static void
begin(struct stage *s, unsigned disks)
{
	stage_start(s, REACTOR_ADAPTIVE, false, disks, DISK_BLOCKS);
	stage_settings(s, &quick);
	for (unsigned i = 0; i < disks; i++) {
		disk_add(s, i);
	}
}

/* ---- Power cuts ---- */

/* What the guest knows: what it wrote and got an answer for, and what it is writing. */
struct model {
	uint8_t acked[BLOCKS];
	uint8_t pending[BLOCKS];
};

struct cut {
	unsigned at;   /* the superblock write during which power is cut */
	bool torn;     /* half of it reached the disk */
	unsigned seen;
	bool happened;
	struct model model;     /* now */
	struct model then;      /* at the cut */
	uint8_t *images[DISKS_MAX];
};

static void
take_images(struct stage *s, struct disk *d, uint64_t lba, const uint8_t *block)
{
	struct cut *c = s->ctx;

	if (c->seen++ != c->at) {
		return;
	}
	c->happened = true;
	c->then = c->model;
	for (unsigned i = 0; i < s->num_disks; i++) {
		c->images[i] = malloc((size_t)DISK_BLOCKS * BS);
		memcpy(c->images[i], s->disks[i].data, (size_t)DISK_BLOCKS * BS);
		if (&s->disks[i] == d && c->torn) {
			memcpy(c->images[i] + lba * BS, block, 200);
		}
	}
}

static void
write_version(struct stage *s, uint8_t version)
{
	struct cut *c = s->ctx;
	uint8_t block[BS];

	for (unsigned b = 0; b < BLOCKS; b += 5) {
		memset(block, version, sizeof(block));
		c->model.pending[b] = version;
		EXPECT_SAY(rw(s, BDEV_WRITE, b, 1, block) == 0, "version %u, block %u", version, b);
		c->model.acked[b] = version;
	}
}

/* A life: written, a base fails, another is rebuilt, one is taken out, and the end. */
static void
live(struct stage *s, enum raid_level level)
{
	unsigned n = level == RAID_LEVEL_1 ? 2 : 3;
	char spare[8];

	EXPECT(array_create(s, "R", level, level == RAID_LEVEL_1 ? 0 : 4, n, true) == 0);
	EXPECT(env_open(&s->env, "R", true) == 0);
	write_version(s, 1);
	atomic_store(&s->disks[0].write_status, -EIO);
	write_version(s, 2);
	array_wait_whole(s, "R", n - 1);
	snprintf(spare, sizeof(spare), "d%u", n);
	EXPECT(array_add_base(s, "R", spare) == 0);
	write_version(s, 3);
	array_wait_whole(s, "R", n);
	write_version(s, 4);
	EXPECT(array_remove_base(s, "d1") == 0);
	write_version(s, 5);
	env_close(&s->env);
	EXPECT(array_delete(s, "R", false) == 0);
}

static void
expect_model(struct stage *s, const struct cut *c)
{
	uint8_t block[BS];

	for (unsigned b = 0; b < BLOCKS; b++) {
		EXPECT(rw(s, BDEV_READ, b, 1, block) == 0);
		EXPECT_SAY(block[0] == c->then.acked[b] || block[0] == c->then.pending[b],
			   "cut %u%s, block %u: %u instead of %u or %u", c->at,
			   c->torn ? ", torn" : "", b, block[0], c->then.acked[b],
			   c->then.pending[b]);
	}
}

static void
expect_agreement(struct stage *s, enum raid_level level)
{
	struct raid_info info;
	unsigned first = DISKS_MAX;

	stage_wait_jobs(s);
	EXPECT(array_info(s, "R", &info));
	for (unsigned i = 0; level == RAID_LEVEL_1 && i < info.num_bases; i++) {
		unsigned disk;

		if (info.bases[i].configured) {
			EXPECT(sscanf(info.bases[i].name, "d%u", &disk) == 1);
			if (first != DISKS_MAX) {
				EXPECT(memcmp(s->disks[first].data + DATA * BS,
					      s->disks[disk].data + DATA * BS,
					      (DISK_BLOCKS - DATA) * BS) == 0);
			}
			first = disk;
		}
	}
}

static bool
run_with_cut(enum raid_level level, unsigned at, bool torn)
{
	struct cut c = {.at = at, .torn = torn};
	struct raid_info info;
	struct stage s;

	begin(&s, level == RAID_LEVEL_1 ? 3 : 4);
	s.ctx = &c;
	s.on_superblock = take_images;
	live(&s, level);
	s.on_superblock = NULL;
	stage_restart(&s, false);
	if (!c.happened) {
		stage_stop(&s);
		return false;
	}
	for (unsigned i = 0; i < s.num_disks; i++) {
		memcpy(s.disks[i].data, c.images[i], (size_t)DISK_BLOCKS * BS);
		free(c.images[i]);
	}
	for (unsigned i = 0; i < s.num_disks; i++) {
		disk_add(&s, (i + at) % s.num_disks);
	}
	env_linger(&s.env, 2);
	if (c.then.pending[0] != 0) {
		array_wait_state(&s, "R", RAID_ONLINE);
		EXPECT(env_open(&s.env, "R", true) == 0);
		expect_model(&s, &c);
		expect_agreement(&s, level);
		expect_model(&s, &c);
	} else { /* it was never up: if it is now, there is nothing to lose */
		array_info(&s, "R", &info);
	}
	stage_stop(&s);
	return true;
}

static void
power_cut_at_every_superblock(void **state)
{
	static const enum raid_level levels[] = {RAID_LEVEL_1, RAID_LEVEL_5F};

	for (unsigned l = 0; l < 2; l++) {
		unsigned at = 0;

		while (run_with_cut(levels[l], at, false) && run_with_cut(levels[l], at, true)) {
			at++;
		}
		EXPECT_SAY(at > 12, "%u", at);
	}
}

/* ---- Order, and what is missing ---- */

static void
make_and_fill(struct stage *s, enum raid_level level, uint32_t strip_kb, unsigned n)
{
	uint8_t block[BS];

	EXPECT(array_create(s, "R", level, strip_kb, n, true) == 0);
	EXPECT(env_open(&s->env, "R", true) == 0);
	for (unsigned b = 0; b < BLOCKS; b++) {
		memset(block, (int)b + 1, sizeof(block));
		EXPECT(rw(s, BDEV_WRITE, b, 1, block) == 0);
	}
}

static void
expect_filled(struct stage *s)
{
	uint8_t block[BS];

	EXPECT(env_open(&s->env, "R", true) == 0);
	for (unsigned b = 0; b < BLOCKS; b++) {
		EXPECT(rw(s, BDEV_READ, b, 1, block) == 0 && block[0] == b + 1);
	}
}

static void
any_order(void **state)
{
	static const struct {
		enum raid_level level;
		uint32_t strip_kb;
	} shapes[] = {{RAID_LEVEL_0, 4}, {RAID_LEVEL_CONCAT, 4}, {RAID_LEVEL_1, 0}, {RAID_LEVEL_5F, 8}};
	static const unsigned orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
					      {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};

	for (unsigned i = 0; i < 4; i++) {
		struct raid_info info;
		struct stage s;

		begin(&s, 3);
		make_and_fill(&s, shapes[i].level, shapes[i].strip_kb, 3);
		for (unsigned o = 0; o < 6; o++) {
			stage_restart(&s, o % 2 == 1);
			for (unsigned k = 0; k < 3; k++) {
				EXPECT(!array_info(&s, "R", &info) ||
				       info.state == RAID_CONFIGURING);
				disk_add(&s, orders[o][k]);
				env_linger(&s.env, 1);
			}
			array_wait_state(&s, "R", RAID_ONLINE);
			expect_filled(&s);
			stage_wait_jobs(&s);
		}
		stage_stop(&s);
	}
}

static void
parts_are_missing(void **state)
{
	struct raid_info info;
	struct stage s;

	/* A raid5f starts without one after a while. */
	begin(&s, 3);
	make_and_fill(&s, RAID_LEVEL_5F, 8, 3);
	stage_restart(&s, false);
	disk_add(&s, 2);
	disk_add(&s, 0);
	env_linger(&s.env, 10);
	EXPECT(array_info(&s, "R", &info) && info.state == RAID_CONFIGURING &&
	       info.discovered == 2 && info.operational == 3);
	array_wait_state(&s, "R", RAID_ONLINE);
	expect_filled(&s);
	/* And takes it back. */
	disk_add(&s, 1);
	array_wait_whole(&s, "R", 3);
	stage_stop(&s);

	/* A raid1 has to be told. */
	begin(&s, 2);
	make_and_fill(&s, RAID_LEVEL_1, 0, 2);
	stage_restart(&s, false);
	disk_add(&s, 1);
	env_linger(&s.env, 1200);
	EXPECT(array_info(&s, "R", &info) && info.state == RAID_CONFIGURING);
	EXPECT(array_remove_base(&s, "0badcafe-0000-4000-8000-000000000001") == 0);
	array_wait_state(&s, "R", RAID_ONLINE);
	expect_filled(&s);
	disk_add(&s, 0);
	env_linger(&s.env, 20);
	EXPECT(array_info(&s, "R", &info) && info.discovered == 1);
	EXPECT(array_add_base(&s, "R", "d0") == 0);
	array_wait_whole(&s, "R", 2);
	stage_stop(&s);
}

/* A base that the array went on without is none of it, whichever comes first. */
static void
stale_member(void **state)
{
	for (unsigned first = 0; first < 2; first++) {
		struct stage s;
		uint8_t block[BS];

		begin(&s, 2);
		make_and_fill(&s, RAID_LEVEL_1, 0, 2);
		disk_pull(&s, 0);
		memset(block, 0x99, sizeof(block));
		EXPECT(rw(&s, BDEV_WRITE, 7, 1, block) == 0);
		stage_restart(&s, true);
		disk_add(&s, first);
		disk_add(&s, 1 - first);
		array_wait_state(&s, "R", RAID_ONLINE);
		EXPECT(env_open(&s.env, "R", false) == 0);
		EXPECT(rw(&s, BDEV_READ, 7, 1, block) == 0 && block[0] == 0x99);
		array_wait_whole(&s, "R", 2);
		stage_wait_jobs(&s);
		EXPECT(rw(&s, BDEV_READ, 7, 1, block) == 0 && block[0] == 0x99);
		expect_mirrors(&s, 0, 2, DATA, DISK_BLOCKS - DATA);
		stage_stop(&s);
	}
}

struct both {
	struct bdev_examine_wait wait;
	bool online;
	atomic_bool done;
};

static void
examined(struct bdev_examine_wait *w)
{
	struct both *both = CONTAINER_OF(w, struct both, wait);

	both->online = bdev_find("R") != NULL;
	atomic_store(&both->done, true);
}

static void
wait_on_app(void *arg)
{
	struct both *both = arg;

	bdev_examine_release();
	bdev_wait_for_examine(&both->wait, examined);
}

static void
hold_on_app(void *arg)
{
	bdev_examine_hold();
}

/* Who waits for the end of examinations finds the array, though the stale base had to go first. */
static void
stale_member_is_awaited(void **state)
{
	struct stage s;
	uint8_t block[BS];
	struct both both = {0};

	begin(&s, 2);
	make_and_fill(&s, RAID_LEVEL_1, 0, 2);
	disk_pull(&s, 0);
	memset(block, 0x99, sizeof(block));
	EXPECT(rw(&s, BDEV_WRITE, 7, 1, block) == 0);
	stage_restart(&s, true);
	env_call(&s.env, s.env.app, hold_on_app, NULL);
	disk_add(&s, 0);
	disk_add(&s, 1);
	env_call(&s.env, s.env.app, wait_on_app, &both);
	env_wait(&s.env, &both.done);
	EXPECT(both.online);
	array_wait_whole(&s, "R", 2);
	stage_stop(&s);
}

/* ---- An unclean stop ---- */

static void
unclean_stop_is_mended(void **state)
{
	static const enum raid_level levels[] = {RAID_LEVEL_1, RAID_LEVEL_5F};

	for (unsigned l = 0; l < 2; l++) {
		for (unsigned clean = 0; clean < 2; clean++) {
			uint8_t block[BS];
			struct stage s;

			begin(&s, 3);
			make_and_fill(&s, levels[l], l == 0 ? 0 : 8, 3);
			stage_restart(&s, clean == 0);
			/* One part of a write had come to its disk. */
			memset(s.disks[2].data + (DATA + 3) * BS, 0xab, BS);
			for (unsigned i = 0; i < 3; i++) {
				disk_add(&s, i);
			}
			array_wait_state(&s, "R", RAID_ONLINE);
			EXPECT(env_open(&s.env, "R", false) == 0);
			EXPECT(rw(&s, BDEV_READ, 3, 1, block) == 0);
			stage_wait_jobs(&s);
			if (clean == 0 && l == 0) {
				EXPECT(block[0] == 4);
				expect_mirrors(&s, 0, 3, DATA, DISK_BLOCKS - DATA);
			} else if (clean == 0) {
				expect_parity(&s, 3, DATA, DISK_BLOCKS - DATA);
			} else { /* it said that all was well, and was believed */
				EXPECT(s.disks[2].data[(DATA + 3) * BS] == 0xab);
			}
			stage_stop(&s);
		}
	}
}

/* ---- Strangers ---- */

static void
put_superblock(struct stage *s, unsigned disk, const struct raid_sb *sb)
{
	raid_sb_encode(sb, s->disks[disk].data);
}

static struct raid_sb
superblock_of(struct stage *s, const char *name, unsigned id, unsigned first)
{
	struct raid_sb sb = {.raid_size = 512,
			     .block_size = BS,
			     .level = RAID_LEVEL_1,
			     .seq = 5,
			     .num_bases = 2,
			     .count = 2};

	snprintf(sb.name, sizeof(sb.name), "%s", name);
	uuid_parse("0badcafe-1111-4000-8000-000000000000", sb.uuid);
	sb.uuid[15] = (unsigned char)id;
	for (unsigned i = 0; i < 2; i++) {
		sb.bases[i] = (struct raid_sb_base){.data_offset = 2048,
						    .data_size = 512,
						    .state = RAID_SB_CONFIGURED,
						    .slot = (uint8_t)i};
		uuid_copy(sb.bases[i].uuid, s->disks[first + i].bdev.uuid);
	}
	return sb;
}

static void
two_arrays_of_one_name(void **state)
{
	struct raid_info info;
	struct raid_sb a, b;
	struct stage s;

	stage_start(&s, REACTOR_ADAPTIVE, false, 4, DISK_BLOCKS);
	a = superblock_of(&s, "R", 1, 0);
	b = superblock_of(&s, "R", 2, 2);
	put_superblock(&s, 0, &a);
	put_superblock(&s, 1, &a);
	put_superblock(&s, 2, &b);
	put_superblock(&s, 3, &b);
	for (unsigned i = 0; i < 4; i++) {
		disk_add(&s, i == 1 ? 2 : i == 2 ? 1 : i);
	}
	array_wait_state(&s, "R", RAID_ONLINE);
	env_linger(&s.env, 5);
	EXPECT(array_info(&s, "R", &info) && uuid_compare(info.uuid, a.uuid) == 0);
	/* What belongs to another array is not taken for a new one. */
	EXPECT(array_delete(&s, "R", true) == 0);
	disk_pull(&s, 3);
	EXPECT(array_create(&s, "Q", RAID_LEVEL_1, 0, 3, true) == -EEXIST);
	EXPECT_SAY(strstr(s.err.text, "d2") != NULL, "%s", s.err.text);
	EXPECT(!array_info(&s, "Q", &info));
	stage_stop(&s);
}

/* Superblocks that fit their checksum, and say what cannot be. */
static void
hostile_superblocks(void **state)
{
	for (unsigned i = 0; i < 9; i++) {
		struct raid_info info;
		struct raid_sb sb;
		struct stage s;

		stage_start(&s, REACTOR_ADAPTIVE, false, 3, DISK_BLOCKS);
		sb = superblock_of(&s, "R", 1, 0);
		sb.bases[1].data_size = i == 0 ? UINT64_C(1) << 40 : sb.bases[1].data_size;
		sb.bases[0].data_offset = i == 1 ? DISK_BLOCKS - 1 : sb.bases[0].data_offset;
		sb.raid_size = i == 2 ? 500 : sb.raid_size;
		sb.block_size = i == 3 ? 4096 : sb.block_size;
		sb.bases[0].slot = i == 4 ? 1 : 0;
		uuid_copy(sb.bases[0].uuid, s.disks[i == 5 ? 2 : 0].bdev.uuid);
		sb.bases[0].state = i == 6 ? RAID_SB_FAILED : RAID_SB_CONFIGURED;
		sb.bases[1].state = i == 6 ? RAID_SB_FAILED : RAID_SB_CONFIGURED;
		snprintf(sb.name, sizeof(sb.name), "%s", i == 7 ? "d0" : i == 8 ? "" : "R");
		put_superblock(&s, 0, &sb);
		put_superblock(&s, 1, &sb);
		for (unsigned d = 0; d < 3; d++) {
			disk_add(&s, d);
		}
		env_linger(&s.env, 5);
		EXPECT_SAY(!array_info(&s, "R", &info) || info.state != RAID_ONLINE, "%u", i);
		stage_stop(&s);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(power_cut_at_every_superblock),
		cmocka_unit_test(any_order),
		cmocka_unit_test(parts_are_missing),
		cmocka_unit_test(stale_member),
		cmocka_unit_test(stale_member_is_awaited),
		cmocka_unit_test(unclean_stop_is_mended),
		cmocka_unit_test(two_arrays_of_one_name),
		cmocka_unit_test(hostile_superblocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
