/* SPDX-License-Identifier: BSD-3-Clause */
/* Writes to what a blob has not itself: copies, commits, space, errors. */
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

struct stage {
	struct blob_env env;
	struct blob_mem *mem;
	uint64_t units; /* of a cluster */
	bool copies;    /* the device does */
};

static void
stage_open(struct stage *s, enum reactor_mode mode, bool real, const struct blob_mem_options *options, uint32_t cluster_bytes)
{
	memset(s, 0, sizeof(*s));
	blob_env_start(&s->env, mode, real);
	s->mem = blob_mem_create(options);
	s->env.options.cluster_bytes = cluster_bytes;
	s->units = cluster_bytes / 512;
	s->copies = options->copies;
	EXPECT_SAY(blob_env_create(&s->env, blob_mem_dev(s->mem)) == 0, "%s", s->env.err.text);
}

static void
stage_close(struct stage *s)
{
	EXPECT_SAY(blob_env_unload(&s->env) == 0, "%s", s->env.err.text);
	blob_env_stop(&s->env);
	blob_mem_free(s->mem);
}

static const struct blob_mem_options plain = {.bytes = 64 << 20, .write_cache = true, .unmap_fills = true};
static const struct blob_mem_options copying = {.bytes = 64 << 20, .write_cache = true, .unmap_fills = true, .copies = true};

static void
in_all_modes(void (*fn)(struct stage *s), const struct blob_mem_options *options, uint32_t cluster_bytes)
{
	for (unsigned i = 0; i < 6; i++) {
		struct stage s;

		stage_open(&s, hand_modes[i % 3], i >= 3, options, cluster_bytes);
		fn(&s);
		stage_close(&s);
	}
}

static void
wait_held(struct stage *s, unsigned n)
{
	for (unsigned i = 0; blob_mem_held(s->mem) < n; i++) {
		EXPECT_SAY(i < 10000, "%u of %u are held", blob_mem_held(s->mem), n);
		blob_env_linger(&s->env, 1);
	}
}

/* Nothing was lost, nothing is in use that no blob has. */
static void
expect_counts(struct stage *s, struct blob *const *blobs, unsigned n)
{
	struct blob_store_info info;
	uint64_t used = 0;

	blob_env_idle(&s->env);
	info = blob_env_info(&s->env);
	for (unsigned i = 0; i < n; i++) {
		used += blob_env_allocated(&s->env, blobs[i]);
	}
	EXPECT_SAY(info.free_clusters + used == info.total_data_clusters, "%lu free, %lu used, %lu in all",
		   (unsigned long)info.free_clusters, (unsigned long)used, (unsigned long)info.total_data_clusters);
}

/* ---- Copies ---- */

static void
copies(struct stage *s)
{
	uint64_t u = s->units;
	struct blob *b[2];
	struct blob_env_channel *c;
	struct blob_mem_stats before;

	b[0] = blob_env_volume(&s->env, 9, true);
	c = blob_env_open(&s->env, 0, b[0]);
	EXPECT(blob_env_fill(c, 7, 3, 1) == 0); /* into nothing */
	EXPECT(blob_env_holds(c, 0, 7, 0));
	EXPECT(blob_env_holds(c, 7, 3, 1));
	EXPECT(blob_env_holds(c, 10, u - 10, 0));
	EXPECT(blob_env_fill(c, 0, 6 * u, 1) == 0);
	EXPECT(blob_env_snapshot(&s->env, b[0], &b[1]) == 0);
	before = blob_mem_get_stats(s->mem);
	EXPECT(blob_env_fill(c, u - 2, 5, 2) == 0);
	EXPECT(blob_env_fill(c, 3 * u - 1, 1, 3) == 0);
	/* By the device, where it can: three clusters, and nothing is read. */
	EXPECT(!s->copies || (blob_mem_get_stats(s->mem).copies >= before.copies + 3 &&
						blob_mem_get_stats(s->mem).reads == before.reads));
	EXPECT(blob_env_holds(c, 0, u - 2, 1));
	EXPECT(blob_env_holds(c, u - 2, 5, 2));
	EXPECT(blob_env_holds(c, u + 3, 2 * u - 4, 1));
	EXPECT(blob_env_holds(c, 3 * u - 1, 1, 3));
	EXPECT(blob_env_holds(c, 3 * u, 3 * u, 1));
	before = blob_mem_get_stats(s->mem);
	EXPECT(blob_env_fill(c, 4 * u, u, 4) == 0); /* whole: nothing is read */
	EXPECT(blob_mem_get_stats(s->mem).reads == before.reads);
	EXPECT(blob_mem_get_stats(s->mem).writes == before.writes + 2);
	EXPECT(blob_env_holds(c, 4 * u, u, 4));
	EXPECT(blob_env_blob_holds(&s->env, b[1], 0, 6 * u, 1));
	EXPECT(blob_env_allocated(&s->env, b[0]) == 4);
	EXPECT(blob_env_allocated(&s->env, b[1]) == 6);
	expect_counts(s, b, 2);
	blob_env_close(c);
}

static void
copies_what_was_there(void **state)
{
	(void)state;
	in_all_modes(copies, &plain, 65536);
	in_all_modes(copies, &plain, 1 << 20);
	in_all_modes(copies, &copying, 65536);
	in_all_modes(copies, &copying, 1 << 20);
}

/* ---- One cluster, many writers ---- */

static void
many(struct stage *s)
{
	struct blob *vol = blob_env_volume(&s->env, 4, true);
	struct blob_env_channel *c[2] = {blob_env_open(&s->env, 0, vol), blob_env_open(&s->env, 1, vol)};
	struct blob_env_io io[40];
	uint8_t buf[40][512];

	EXPECT(blob_env_fill(c[0], 2 * s->units, 1, 9) == 0); /* the extent page is there */
	blob_mem_hold(s->mem, BLOB_MEM_OP(BLOB_DEV_WRITE));
	for (unsigned i = 0; i < 40; i++) {
		blob_env_pattern(buf[i], 512, i, 1, 1);
		blob_env_submit(c[i % 2], &io[i], BLOB_WRITE, i, 1, buf[i]);
	}
	wait_held(s, 1);
	blob_env_linger(&s->env, 3);
	EXPECT(blob_mem_held(s->mem) == 1); /* one fills it, the others wait */
	blob_mem_hold(s->mem, 0);
	for (unsigned i = 0; i < 40; i++) {
		EXPECT(blob_env_finish(&io[i]) == 0);
	}
	EXPECT(blob_env_holds(c[1], 0, 40, 1));
	EXPECT(blob_env_holds(c[1], 40, s->units - 40, 0));
	EXPECT(blob_env_allocated(&s->env, vol) == 2);
	expect_counts(s, &vol, 1);
	blob_env_close(c[0]);
	blob_env_close(c[1]);
}

static void
one_allocates_others_wait(void **state)
{
	(void)state;
	in_all_modes(many, &plain, 65536);
}

/* More at once than there are slots and buffers. */
static void
crowd(struct stage *s)
{
	enum { N = 300 };
	struct blob *b[2];
	struct blob_env_channel *c;
	struct blob_env_io *io = calloc(N, sizeof(*io));
	uint8_t *buf = malloc(N * 512);
	uint64_t writes;

	EXPECT(io != NULL && buf != NULL);
	b[0] = blob_env_volume(&s->env, N, true);
	c = blob_env_open(&s->env, 1, b[0]);
	EXPECT(blob_env_fill(c, 0, N / 2 * s->units, 1) == 0);
	EXPECT(blob_env_snapshot(&s->env, b[0], &b[1]) == 0);
	writes = blob_mem_get_stats(s->mem).writes;
	blob_mem_hold(s->mem, BLOB_MEM_OP(BLOB_DEV_READ));
	for (uint64_t i = 0; i < N; i++) {
		blob_env_pattern(buf + i * 512, 512, i * s->units + 3, 1, 2);
		blob_env_submit(c, &io[i], BLOB_WRITE, i * s->units + 3, 1, buf + i * 512);
	}
	wait_held(s, 1);
	blob_mem_hold(s->mem, 0);
	for (uint64_t i = 0; i < N; i++) {
		EXPECT(blob_env_finish(&io[i]) == 0);
	}
	for (uint64_t i = 0; i < N; i++) {
		EXPECT(blob_env_holds(c, i * s->units, 3, i < N / 2 ? 1 : 0));
		EXPECT(blob_env_holds(c, i * s->units + 3, 1, 2));
		EXPECT(blob_env_holds(c, i * s->units + 4, s->units - 4, i < N / 2 ? 1 : 0));
	}
	/* They are committed together. */
	if (!s->env.real_threads) {
		EXPECT_SAY(blob_mem_get_stats(s->mem).writes - writes < N + N / 4, "%lu writes",
			   (unsigned long)(blob_mem_get_stats(s->mem).writes - writes));
	}
	expect_counts(s, b, 2);
	blob_env_close(c);
	free(io);
	free(buf);
}

static void
a_crowd_waits_its_turn(void **state)
{
	(void)state;
	in_all_modes(crowd, &plain, 16384);
}

/* ---- Touch ---- */

struct touching {
	struct blob_env_channel *c;
	struct blob_io *io;
	uint64_t unit, count;
	int status;
	atomic_bool done;
};

static struct touching *touched;

static void
touch_done(struct blob_io *io, int status)
{
	(void)io;
	touched->status = status;
	atomic_store(&touched->done, true);
}

static void
touch_on_worker(void *arg)
{
	struct touching *t = arg;

	t->io->done = touch_done;
	t->io->unit = t->unit;
	t->io->count = t->count;
	blob_touch(&t->c->ch, t->io);
	EXPECT(!atomic_load(&t->done));
}

static int
touch(struct blob_env_channel *c, uint64_t unit, uint64_t count)
{
	struct touching t = {.c = c, .unit = unit, .count = count};
	size_t bytes = (blob_io_bytes(blob_store_of(c->ch.blob)) + 63) & ~(size_t)63;

	t.io = aligned_alloc(64, bytes);
	EXPECT(t.io != NULL);
	memset(t.io, 0xa5, bytes);
	touched = &t;
	blob_env_call(c->worker->env, c->worker->thread, touch_on_worker, &t);
	blob_env_wait(c->worker->env, &t.done);
	free(t.io);
	return t.status;
}

static void
touches(struct stage *s)
{
	uint64_t u = s->units;
	struct blob *b[2];
	struct blob_env_channel *c;

	b[0] = blob_env_volume(&s->env, 12, true);
	c = blob_env_open(&s->env, 0, b[0]);
	EXPECT(blob_env_fill(c, u, 4 * u, 1) == 0);
	EXPECT(blob_env_snapshot(&s->env, b[0], &b[1]) == 0);
	EXPECT(blob_env_fill(c, 2 * u, 4, 2) == 0);
	EXPECT(touch(c, 3, 9 * u) == 0);
	EXPECT(blob_env_allocated(&s->env, b[0]) == 10);
	EXPECT(blob_env_holds(c, 0, u, 0));
	EXPECT(blob_env_holds(c, u, u, 1));
	EXPECT(blob_env_holds(c, 2 * u, 4, 2));
	EXPECT(blob_env_holds(c, 2 * u + 4, 3 * u - 4, 1));
	EXPECT(blob_env_holds(c, 5 * u, 7 * u, 0));
	expect_counts(s, b, 2);
	blob_env_close(c);
}

static void
a_touch_gives_clusters(void **state)
{
	(void)state;
	in_all_modes(touches, &plain, 65536);
	in_all_modes(touches, &plain, 1 << 20);
	in_all_modes(touches, &copying, 65536);
}

/* ---- What is answered is there ---- */

static void
reload(struct stage *s, struct blob_mem *mem)
{
	EXPECT(blob_env_abandon(&s->env) == 0);
	if (mem != NULL) {
		blob_mem_free(s->mem);
		s->mem = mem;
	}
	EXPECT_SAY(blob_env_load(&s->env, blob_mem_dev(s->mem)) == 0, "%s", s->env.err.text);
}

static void
survives(struct stage *s, bool rle)
{
	const struct blob_options options = {.num_clusters = 1200, .thin = true, .extent_rle = rle};
	struct blob *vol, *snap;
	struct blob_env_channel *c;
	uint64_t id;

	EXPECT(blob_env_make(&s->env, &options, &vol) == 0);
	id = blob_id(vol);
	c = blob_env_open(&s->env, 1, vol);
	EXPECT(blob_env_fill(c, 100 * s->units + 1, 3 * s->units, 1) == 0);
	EXPECT(blob_env_fill(c, 1199 * s->units + 1, 3, 2) == 0);
	EXPECT(blob_env_fill(c, 511 * s->units, 2 * s->units, 3) == 0);
	EXPECT(blob_env_rw(c, BLOB_UNMAP, 101 * s->units, s->units, NULL) == 0);
	blob_env_close(c);
	reload(s, blob_mem_survivor(s->mem, NULL)); /* the process ends, nothing was flushed */
	vol = blob_env_find(&s->env, id);
	EXPECT(vol != NULL);
	EXPECT(blob_env_blob_holds(&s->env, vol, 100 * s->units + 1, s->units - 1, 1));
	EXPECT(blob_env_blob_holds(&s->env, vol, 101 * s->units, s->units, 0));
	EXPECT(blob_env_blob_holds(&s->env, vol, 102 * s->units, s->units, 1));
	EXPECT(blob_env_blob_holds(&s->env, vol, 1199 * s->units + 1, 3, 2));
	EXPECT(blob_env_blob_holds(&s->env, vol, 511 * s->units, 2 * s->units, 3));
	EXPECT(blob_env_allocated(&s->env, vol) == 6);
	EXPECT(blob_env_snapshot(&s->env, vol, &snap) == 0);
	EXPECT(blob_env_fill_blob(&s->env, vol, 511 * s->units + 2, 2, 4) == 0);
	EXPECT(blob_env_blob_holds(&s->env, vol, 511 * s->units + 2, 2, 4));
	EXPECT(blob_env_blob_holds(&s->env, vol, 511 * s->units + 4, 2 * s->units - 4, 3));
}

static void
survives_table(struct stage *s)
{
	survives(s, false);
}

static void
survives_rle(struct stage *s)
{
	survives(s, true);
}

static void
answered_writes_survive_the_process(void **state)
{
	(void)state;
	in_all_modes(survives_table, &plain, 16384);
	in_all_modes(survives_rle, &plain, 16384);
}

/* ---- Space ---- */

static const struct blob_mem_options little = {.bytes = 4 << 20};

static void
no_space(struct stage *s)
{
	uint64_t clusters = blob_env_info(&s->env).free_clusters;
	struct blob *vol = blob_env_volume(&s->env, clusters + 4, true);
	struct blob_env_channel *c = blob_env_open(&s->env, 1, vol);

	EXPECT(blob_env_fill(c, 0, clusters * s->units, 1) == 0);
	EXPECT(blob_env_fill(c, clusters * s->units, 1, 2) == -ENOSPC);
	EXPECT(blob_env_fill(c, 5, 1, 2) == 0); /* what it has can be written */
	blob_env_wait_count(&s->env, &s->env.events[BLOB_STORE_FULL], 1);
	EXPECT(blob_env_fill(c, clusters * s->units, 1, 2) == -ENOSPC);
	blob_env_linger(&s->env, 2);
	EXPECT(atomic_load(&s->env.events[BLOB_STORE_FULL]) == 1);
	EXPECT(atomic_load(&s->env.events[BLOB_STORE_FULL_ENDS]) == 0);
	EXPECT(blob_env_info(&s->env).full);
	EXPECT(blob_env_rw(c, BLOB_UNMAP, 3 * s->units, s->units, NULL) == 0);
	blob_env_idle(&s->env);
	blob_env_wait_count(&s->env, &s->env.events[BLOB_STORE_FULL_ENDS], 1);
	EXPECT(blob_env_fill(c, clusters * s->units, 1, 2) == 0);
	expect_counts(s, &vol, 1);
	blob_env_close(c);
}

static void
without_space_writes_fail(void **state)
{
	(void)state;
	in_all_modes(no_space, &little, 65536);
}

static void
cancel_on_worker(void *arg)
{
	blob_channel_cancel(&((struct blob_env_channel *)arg)->ch, -ECANCELED);
}

static unsigned
count_done(struct blob_env_io *io, unsigned n)
{
	unsigned done = 0;

	for (unsigned i = 0; i < n; i++) {
		done += atomic_load(&io[i].done);
	}
	return done;
}

/* So many end, and no more. */
static void
expect_done(struct stage *s, struct blob_env_io *io, unsigned n, unsigned expected)
{
	for (unsigned i = 0; count_done(io, n) < expected; i++) {
		EXPECT_SAY(i < 10000, "%u of %u are done", count_done(io, n), expected);
		blob_env_linger(&s->env, 1);
	}
	blob_env_linger(&s->env, 3);
	EXPECT_SAY(count_done(io, n) == expected, "%u", count_done(io, n));
}

static void
pause_writes(struct stage *s)
{
	uint64_t clusters = blob_env_info(&s->env).free_clusters, u = s->units;
	struct blob *b[2];
	struct blob_env_channel *c, *d;
	struct blob_env_io io[4];
	unsigned good = 0, cancelled = 0;
	uint8_t buf[512] = {0};

	b[0] = blob_env_volume(&s->env, clusters + 4, true);
	c = blob_env_open(&s->env, 0, b[0]);
	d = blob_env_open(&s->env, 1, b[0]);
	blob_env_limits(&s->env, 0, true);
	EXPECT(blob_env_fill(c, 0, clusters * u, 1) == 0);
	blob_env_pattern(buf, 512, 7, 1, 7);
	for (unsigned i = 0; i < 4; i++) {
		blob_env_submit(i % 2 == 0 ? c : d, &io[i], BLOB_WRITE, (clusters + i) * u, 1, buf);
	}
	blob_env_wait_count(&s->env, &s->env.events[BLOB_STORE_FULL], 1);
	blob_env_linger(&s->env, 5);
	EXPECT(atomic_load(&s->env.events[BLOB_STORE_FULL]) == 1);
	for (unsigned i = 0; i < 4; i++) {
		EXPECT(!atomic_load(&io[i].done));
	}
	EXPECT(blob_env_holds(d, 0, clusters * u, 1));
	/* One cluster comes back: one of them goes on. */
	EXPECT(blob_env_rw(d, BLOB_UNMAP, 3 * u, u, NULL) == 0);
	blob_env_idle(&s->env);
	expect_done(s, io, 4, 1);
	/* They hold up no gate. */
	EXPECT(blob_env_snapshot(&s->env, b[0], &b[1]) == 0);
	blob_env_linger(&s->env, 2);
	blob_mem_resize(s->mem, (4 << 20) + 65536);
	EXPECT_SAY(blob_env_grow(&s->env) == 0, "%s", s->env.err.text);
	expect_done(s, io, 4, 2);
	blob_env_call(&s->env, c->worker->thread, cancel_on_worker, c);
	blob_env_call(&s->env, d->worker->thread, cancel_on_worker, d);
	for (unsigned i = 0; i < 4; i++) {
		int status = blob_env_finish(&io[i]);

		good += status == 0;
		cancelled += status == -ECANCELED;
	}
	EXPECT(good == 2 && cancelled == 2);
	expect_counts(s, b, 2);
	blob_env_close(c);
	blob_env_close(d);
}

static void
writes_wait_for_space(void **state)
{
	(void)state;
	in_all_modes(pause_writes, &little, 65536);
}

/* ---- Errors ---- */

#define WRITES 12

/* Two clusters each, half of it below, one hole; waits for all at once. */
static unsigned
write_all(struct stage *s, struct blob *vol, bool failed[WRITES])
{
	struct blob_env_channel *c[2] = {blob_env_open(&s->env, 0, vol), blob_env_open(&s->env, 1, vol)};
	struct blob_env_io io[WRITES];
	uint8_t buf[WRITES][1024];
	unsigned n = 0;

	for (unsigned i = 0; i < WRITES; i++) {
		blob_env_pattern(buf[i], 512, (i + 1) * s->units - 1, 2, 2);
		blob_env_submit(c[i % 2], &io[i], BLOB_WRITE, (i + 1) * s->units - 1, 2, buf[i]);
	}
	for (unsigned i = 0; i < WRITES; i++) {
		failed[i] = blob_env_finish(&io[i]) != 0;
		n += failed[i];
	}
	blob_env_close(c[0]);
	blob_env_close(c[1]);
	return n;
}

static void
expect_written(struct stage *s, struct blob *vol, const bool failed[WRITES])
{
	struct blob_env_channel *c = blob_env_open(&s->env, 0, vol);

	for (unsigned i = 0; i < WRITES; i++) {
		uint64_t at = (i + 1) * s->units;

		for (unsigned k = 0; k < 2; k++) {
			uint32_t old = at - 1 + k < 8 * s->units ? 1 : 0;

			EXPECT_SAY(blob_env_holds(c, at - 1 + k, 1, 2) || (failed[i] && blob_env_holds(c, at - 1 + k, 1, old)),
				   "write %u", i);
		}
		EXPECT_SAY(blob_env_holds(c, at + 1, s->units - 2, i + 1 < 8 ? 1 : 0), "write %u", i);
	}
	blob_env_close(c);
}

/* The k-th request of these kinds fails; false: there were not so many. fresh: there is no extent page yet. */
static bool
fault_at(unsigned ops, uint64_t k, bool fresh, bool real)
{
	const struct blob_mem_fault fault = {.ops = ops, .after = k, .count = 1};
	bool failed[WRITES];
	struct stage s;
	struct blob *b[2];
	uint64_t id[2], hits;
	uint32_t pages = UINT32_MAX; /* free ones */
	unsigned n;

	stage_open(&s, hand_modes[k % 3], real, &plain, 16384);
	b[0] = blob_env_volume(&s.env, 20, true);
	EXPECT(blob_env_fill_blob(&s.env, b[0], 0, 8 * s.units, 1) == 0);
	EXPECT(blob_env_snapshot(&s.env, b[0], &b[1]) == 0);
	if (!fresh) {
		EXPECT(blob_env_fill_blob(&s.env, b[0], 15 * s.units, 1, 1) == 0);
	}
	blob_env_idle(&s.env);
	id[0] = blob_id(b[0]);
	id[1] = blob_id(b[1]);
	blob_mem_set_fault(s.mem, &fault);
	n = write_all(&s, b[0], failed);
	hits = blob_mem_faults(s.mem);
	blob_mem_set_fault(s.mem, NULL);
	EXPECT_SAY((n > 0) == (hits > 0), "%u writes failed", n);
	expect_written(&s, b[0], failed);
	if (!blob_env_info(&s.env).broken) {
		expect_counts(&s, b, 2);
		EXPECT(write_all(&s, b[0], failed) == 0); /* nothing is stuck */
		expect_written(&s, b[0], failed);
		expect_counts(&s, b, 2);
		pages = blob_env_info(&s.env).free_md_pages;
	} else {
		EXPECT(atomic_load(&s.env.events[BLOB_STORE_BROKEN]) == 1);
	}
	reload(&s, NULL);
	b[0] = blob_env_find(&s.env, id[0]);
	b[1] = blob_env_find(&s.env, id[1]);
	EXPECT(b[0] != NULL && b[1] != NULL);
	EXPECT(pages == UINT32_MAX || pages == blob_env_info(&s.env).free_md_pages);
	expect_written(&s, b[0], failed);
	EXPECT(blob_env_blob_holds(&s.env, b[1], 0, 8 * s.units, 1));
	expect_counts(&s, b, 2);
	EXPECT(write_all(&s, b[0], failed) == 0);
	expect_written(&s, b[0], failed);
	stage_close(&s);
	return hits > 0;
}

static void
errors_lose_nothing(void **state)
{
	static const unsigned ops[] = {
		BLOB_MEM_OP(BLOB_DEV_READ), BLOB_MEM_OP(BLOB_DEV_WRITE), BLOB_MEM_OP(BLOB_DEV_FLUSH),
	};

	(void)state;
	for (unsigned i = 0; i < 2 * ARRAY_SIZE(ops); i++) {
		unsigned kind = i / 2;
		bool fresh = i % 2 == 1;
		uint64_t k = 0;

		while (fault_at(ops[kind], k, fresh, false)) {
			k++;
			EXPECT(k < 200);
		}
		EXPECT_SAY(k >= (kind == 0 ? 7 : kind == 1 ? 14 : 1), "%lu requests of kind %u", (unsigned long)k, kind);
		for (k = i; k < 6; k += 3) {
			fault_at(ops[kind], k, fresh, true);
		}
	}
}

/* Many errors under load, on several threads. */
static void
errors_under_load(void **state)
{
	(void)state;
	for (unsigned round = 0; round < 2; round++) {
		const struct blob_mem_fault fault = {.ops = BLOB_MEM_OP(BLOB_DEV_READ), .after = 50 + round, .count = 40};
		struct blob_mem_options options = plain;
		struct hammer h[2] = {0};
		struct blob *b[2];
		struct stage s;

		options.shuffle = true;
		stage_open(&s, REACTOR_ADAPTIVE, round == 1, &options, 16384);
		b[0] = blob_env_volume(&s.env, 200, true);
		EXPECT(blob_env_fill_blob(&s.env, b[0], 0, 200 * s.units, 0) == 0);
		EXPECT(blob_env_snapshot(&s.env, b[0], &b[1]) == 0);
		blob_mem_set_fault(s.mem, &fault);
		for (unsigned i = 0; i < 2; i++) {
			h[i] = (struct hammer){.c = blob_env_open(&s.env, i, b[0]), .share = i, .shares = 2, .seed = i + 1,
					       .count = 1500, .units = 200 * s.units, .direct = true, .errors_ok = true};
			hammer_start(&h[i]);
		}
		for (unsigned i = 0; i < 2; i++) {
			hammer_finish(&h[i]);
		}
		EXPECT(blob_mem_faults(s.mem) == 40);
		EXPECT(atomic_load(&h[0].failed) + atomic_load(&h[1].failed) > 0);
		for (unsigned i = 0; i < 2; i++) {
			hammer_verify(&h[i]);
			blob_env_close(h[i].c);
			hammer_free(&h[i]);
		}
		expect_counts(&s, b, 2);
		stage_close(&s);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(copies_what_was_there),
		cmocka_unit_test(one_allocates_others_wait),
		cmocka_unit_test(a_crowd_waits_its_turn),
		cmocka_unit_test(a_touch_gives_clusters),
		cmocka_unit_test(answered_writes_survive_the_process),
		cmocka_unit_test(without_space_writes_fail),
		cmocka_unit_test(writes_wait_for_space),
		cmocka_unit_test(errors_lose_nothing),
		cmocka_unit_test(errors_under_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
