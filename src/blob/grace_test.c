/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests that are slow while what they were sent to is given up: nobody else gets those clusters, and nothing clears them,
 * before the requests have ended.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "blob/harness.h"
#include "blob/internal.h"

#define OLD 1000

static struct blob_env *env;
static struct play p;
static uint8_t buf[HARNESS_UNIT_BYTES], want[HARNESS_UNIT_BYTES];

static void
begin(bool direct)
{
	/* What is cleared is seen to be. */
	const struct blob_mem_options options = {
		.bytes = 2 << 20, .block_size = 512, .write_cache = true, .unmap_fills = true};

	play_open(&p, &options, false);
	play_create(&p);
	p.direct = direct;
	env = &p.env;
}

static void
end(void)
{
	play_idle(&p);
	play_check_space(&p);
	EXPECT(play_unload(&p));
	play_close(&p);
}

static struct blob_env_channel *
begin_read(struct blob *blob, struct blob_env_io *io)
{
	struct blob_env_channel *c = blob_env_open(env, 1, blob);

	c->direct = p.direct;
	blob_mem_hold(p.mem, BLOB_MEM_OP(BLOB_DEV_READ));
	blob_env_submit(c, io, BLOB_READ, 1, 1, buf);
	blob_mem_hold(p.mem, BLOB_MEM_NO_MORE);
	blob_env_linger(env, 100);
	EXPECT(blob_mem_held(p.mem) == 1);
	return c;
}

/* Whoever gets clusters now writes something else there. Two are, or were, the volume's. */
static void
fill_the_store(void)
{
	uint64_t free_clusters = blob_env_info(env).total_data_clusters - 2;
	struct blob *other = blob_env_volume(env, free_clusters, false);

	EXPECT(blob_env_fill_blob(env, other, 0, free_clusters * HARNESS_UNITS, 77) == 0);
}

static void
end_read(struct blob_env_channel *c, struct blob_env_io *io)
{
	EXPECT(!atomic_load(&io->done));
	blob_mem_hold(p.mem, 0);
	EXPECT(blob_env_finish(io) == 0);
	blob_env_close(c);
	blob_env_pattern(want, HARNESS_UNIT_BYTES, 1, 1, OLD);
	EXPECT_SAY(memcmp(buf, want, sizeof(want)) == 0, "the read got what came afterwards");
}

/* A clone's read is on its way to the snapshot when the clone gets a cluster of its own and the snapshot goes. */
static void
snapshot_goes(void **state)
{
	struct blob_env_channel *c;
	struct blob_env_io io;
	struct blob *blob, *snapshot;

	begin(false);
	blob = blob_env_volume(env, 4, true);
	EXPECT(blob_env_fill_blob(env, blob, 0, 4, OLD) == 0);
	EXPECT(blob_env_snapshot(env, blob, &snapshot) == 0);
	c = begin_read(blob, &io);
	EXPECT(blob_env_fill_blob(env, blob, 0, 4, OLD + 1) == 0);
	EXPECT(blob_env_delete(env, snapshot) == 0);
	blob_env_linger(env, 1000);
	EXPECT(blob_env_info(env).blobs == 1 && env->store->reaped == 0); /* merged, and its map as it was */
	fill_the_store();
	end_read(c, &io);
	play_idle(&p);
	EXPECT(blob_env_blob_holds(env, blob, 0, 4, OLD + 1));
	end();
}

/* A read is on its way to a cluster when that is unmapped. */
static void
unmapped(bool direct)
{
	struct blob_env_channel *c;
	struct blob_env_io io, unmap;
	struct blob *blob;

	begin(direct);
	blob = blob_env_volume(env, 4, true);
	EXPECT(blob_env_fill_blob(env, blob, 0, 4, OLD) == 0);
	c = begin_read(blob, &io);
	blob_env_submit(c, &unmap, BLOB_UNMAP, 0, HARNESS_UNITS, NULL);
	blob_env_linger(env, 1000);
	fill_the_store();
	EXPECT(!atomic_load(&io.done));
	blob_mem_hold(p.mem, 0);
	EXPECT(blob_env_finish(&io) == 0 && blob_env_finish(&unmap) == 0);
	blob_env_close(c);
	blob_env_pattern(want, HARNESS_UNIT_BYTES, 1, 1, OLD);
	EXPECT_SAY(memcmp(buf, want, sizeof(want)) == 0, "the read got what came afterwards");
	end();
}

static void
cluster_is_unmapped(void **state)
{
	unmapped(false);
	unmapped(true);
}

/* A deleted volume's map stays whole, be it that of another that is read: whoever began before may be looking at it. */
static void
map_stays(void **state)
{
	struct blob_env_channel *c;
	struct blob_env_io io;
	struct blob *blob, *other;

	begin(false);
	blob = blob_env_volume(env, 4, true);
	other = blob_env_volume(env, 4, true);
	EXPECT(blob_env_fill_blob(env, blob, 0, 4, OLD) == 0);
	EXPECT(blob_env_fill_blob(env, other, 0, 4 * HARNESS_UNITS, OLD) == 0);
	c = begin_read(blob, &io);
	EXPECT(blob_env_delete(env, other) == 0);
	blob_env_linger(env, 1000);
	EXPECT(env->store->reaped == 4); /* none of it was looked at */
	end_read(c, &io);
	play_idle(&p);
	EXPECT(env->store->reaped == 0);
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(snapshot_goes),
		cmocka_unit_test(cluster_is_unmapped),
		cmocka_unit_test(map_stays),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
