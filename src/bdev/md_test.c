/* SPDX-License-Identifier: BSD-3-Clause */
/* What the core does with metadata, on a bdev that checks what it gets. */
#include "bdev/module.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/dif.h"
#include "testkit/bdev_battery.h"
#include "testkit/scripted_bdev.h"

#define BLOCKS 8192

static const struct kind {
	uint32_t block, md;
	uint8_t type, format;
	bool head;
} kinds[] = {
	{512, 8, 1, DIF_PI_16, false},    {512, 128, 1, DIF_PI_16, true},
	{4096, 16, 2, DIF_PI_32, false},  {4096, 64, 1, DIF_PI_64, false},
	{4096, 32, 3, DIF_PI_64, true},   {512, 16, 3, DIF_PI_16, false},
	{512, 64, 0, 0, false}, /* metadata that means nothing to us */
};

/* ---- The battery: nobody gives metadata ---- */

static struct scripted_bdev disk;
static const struct kind *kind;
static uint32_t max_rw, boundary, align;

static void
set_up(struct scripted_bdev *s, const struct kind *k, const char *name)
{
	scripted_bdev_init(s, name, BLOCKS, k->block);
	s->bdev.md_bytes = k->md;
	s->bdev.dif_type = k->type;
	s->bdev.dif_pi_format = k->format;
	s->bdev.dif_head_of_md = k->head;
	s->bdev.dif_check_flags = DIF_CHECK_DEFAULT(k->type);
}

static int
create(const struct battery *b, struct err *err)
{
	struct scripted_bdev *s = &disk, second;
	bool taken = bdev_find(b->name) != NULL;
	int rc;

	s = taken ? &second : &disk;
	set_up(s, kind, b->name);
	s->bdev.max_rw_blocks = max_rw;
	s->bdev.optimal_boundary_blocks = boundary;
	s->bdev.buffer_align = align;
	atomic_store(&s->shuffle, true);
	atomic_store(&s->refuse_every, 7);
	rc = scripted_bdev_add(s, err);
	if (rc != 0) {
		scripted_bdev_release(s);
	}
	return rc;
}

static struct {
	void (*done)(void *ctx, int status);
	void *ctx;
} removal;

static void
removed(void *ctx, int status)
{
	scripted_bdev_release(&disk);
	removal.done(removal.ctx, status);
}

static int
remove_disk(const struct battery *b, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	if (bdev_find(b->name) == NULL) {
		return -ENODEV;
	}
	removal.done = done;
	removal.ctx = ctx;
	scripted_bdev_remove(&disk, removed, NULL);
	return 0;
}

static int
resize(const struct battery *b, uint64_t num_blocks, struct err *err)
{
	return scripted_bdev_resize(&disk, num_blocks);
}

static const struct battery battery = {
	.name = "md0",
	.create = create,
	.remove = remove_disk,
	.resize = resize,
	.unmap_zeroes = true,
	.may_cancel = true,
	.requests = 600,
};

static void
passes_battery(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		kind = &kinds[i];
		max_rw = i % 3 == 1 ? 5 : 0;
		boundary = i % 3 == 2 ? 24 : 0;
		align = i % 2 == 0 ? 1 : 512;
		bdev_battery_run(&battery, (enum reactor_mode)(i % 3), i % 2 == 0);
	}
}

/* ---- Submitters that give metadata ---- */

struct stage {
	struct env env;
	struct scripted_bdev disk;
	const struct kind *kind;
	struct dif dif;
	uint8_t *data;
	uint8_t *md;
	uint64_t n; /* blocks in them: more than one part has */
};

static void
open_stage(struct stage *s, const struct kind *k)
{
	memset(s, 0, sizeof(*s));
	s->kind = k;
	s->n = (160u << 10) / k->block + 3;
	s->data = malloc(s->n * k->block);
	s->md = malloc(s->n * k->md);
	for (uint64_t i = 0; i < s->n * k->block; i++) {
		s->data[i] = (uint8_t)(i * 7 + i / 512);
	}
	memset(s->md, 0x42, s->n * k->md);
	env_start(&s->env, REACTOR_INTERRUPT, false);
	set_up(&s->disk, k, "md1");
	scripted_open(&s->disk, &s->env);
	if (k->type != 0) {
		assert_int_equal(dif_init(&s->dif, k->block, k->md, k->type, k->format, k->head,
					  DIF_CHECK_DEFAULT(k->type), NULL),
				 0);
		s->dif.app_tag = 0x0707;
	}
}

static void
close_stage(struct stage *s)
{
	scripted_close(&s->disk, &s->env);
	env_stop(&s->env);
	free(s->data);
	free(s->md);
}

static void
protect(struct stage *s, uint64_t lba)
{
	struct iovec iov = {s->data, s->n * s->kind->block}, md = {s->md, s->n * s->kind->md};
	struct dif_list list = {&iov, 1, &md, 1};

	if (s->kind->type != 0) {
		dif_generate(&s->dif, &list, s->n, lba);
	}
}

static int
rw(struct stage *s, enum bdev_op op, uint64_t lba, uint64_t n, void *data, void *md)
{
	struct iovec iov = {data, n * s->kind->block};
	struct env_io io = {.op = op,
			    .flags = md != NULL ? BDEV_IO_MD : 0,
			    .lba = lba,
			    .num_blocks = n,
			    .iov = &iov,
			    .iovcnt = 1,
			    .md = md};

	env_submit(&s->env.workers[0], &io);
	return env_finish(&io);
}

/* All of it comes back, application tags and what is beside the PI too. */
static void
metadata_goes_through(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct stage s;
		uint8_t *data, *md;

		open_stage(&s, &kinds[i]);
		data = calloc(s.n, s.kind->block);
		md = calloc(s.n, s.kind->md);
		protect(&s, 77);
		EXPECT(rw(&s, BDEV_WRITE, 77, s.n, s.data, s.md) == 0);
		assert_memory_equal(s.disk.md + 77 * s.kind->md, s.md, s.n * s.kind->md);
		EXPECT(rw(&s, BDEV_READ, 77, s.n, data, md) == 0);
		assert_memory_equal(data, s.data, s.n * s.kind->block);
		assert_memory_equal(md, s.md, s.n * s.kind->md);
		/* Who wants none gets none. */
		memset(data, 0, s.n * s.kind->block);
		EXPECT(rw(&s, BDEV_READ, 78, s.n - 1, data, NULL) == 0);
		assert_memory_equal(data, s.data + s.kind->block, (s.n - 1) * s.kind->block);
		/* Compared with it. */
		EXPECT(rw(&s, BDEV_COMPARE, 77, s.n, s.data, s.md) == 0);
		EXPECT(rw(&s, BDEV_COMPARE, 77, s.n, s.data, NULL) == 0);
		md[(s.n - 1) * s.kind->md] ^= 1;
		EXPECT(rw(&s, BDEV_COMPARE, 77, s.n, s.data, md) == -EILSEQ);
		free(data);
		free(md);
		close_stage(&s);
	}
}

/* What the core makes up is right, byte by byte; and what was never written reads as such. */
static void
metadata_is_made_up(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct stage s;
		uint8_t *data, *md;

		open_stage(&s, &kinds[i]);
		data = calloc(s.n, s.kind->block);
		md = calloc(s.n, s.kind->md);
		EXPECT(rw(&s, BDEV_WRITE, 5, s.n, s.data, NULL) == 0);
		memset(s.md, 0, s.n * s.kind->md);
		s.dif.app_tag = 0;
		protect(&s, 5);
		assert_memory_equal(s.disk.md + 5 * s.kind->md, s.md, s.n * s.kind->md);
		EXPECT(rw(&s, BDEV_READ, 4000, 9, data, md) == 0);
		if (s.kind->type != 0) {
			dif_fill_unwritten(&s.dif, s.md, 9);
			assert_memory_equal(md, s.md, 9 * s.kind->md);
		}
		free(data);
		free(md);
		close_stage(&s);
	}
}

static void
wrong_metadata_is_refused(void **state)
{
	struct stage s;
	uint32_t bs;

	open_stage(&s, &kinds[0]);
	bs = s.kind->block;
	protect(&s, 10);
	EXPECT(rw(&s, BDEV_WRITE, 10, s.n, s.data, s.md) == 0);
	/* A write of data that does not fit: nothing of that block is written. */
	s.data[(s.n - 2) * bs] ^= 1;
	EXPECT(rw(&s, BDEV_WRITE, 10, s.n, s.data, s.md) == -EILSEQ);
	s.data[(s.n - 2) * bs] ^= 1;
	EXPECT(memcmp(s.disk.data + 10 * bs, s.data, s.n * bs) == 0);
	/* Written where it does not belong. */
	EXPECT(rw(&s, BDEV_WRITE, 11, s.n, s.data, s.md) == -EILSEQ);
	/* On the disk, data has changed: the block is found, the others can be read. */
	s.disk.data[20 * bs + 7] ^= 1;
	EXPECT(rw(&s, BDEV_READ, 10, s.n, s.data, NULL) == -EILSEQ);
	EXPECT(rw(&s, BDEV_READ, 10, s.n, s.data, s.md) == -EILSEQ);
	EXPECT(rw(&s, BDEV_READ, 20, 1, s.data, NULL) == -EILSEQ);
	EXPECT(rw(&s, BDEV_READ, 10, 10, s.data, NULL) == 0);
	EXPECT(rw(&s, BDEV_READ, 21, 10, s.data, NULL) == 0);
	EXPECT(rw(&s, BDEV_COMPARE, 20, 1, s.disk.data + 20 * bs, NULL) == -EILSEQ);
	s.disk.data[20 * bs + 7] ^= 1;
	/* Block 31's data in the place of block 30. */
	memcpy(s.disk.data + 30 * bs, s.disk.data + 31 * bs, bs);
	memcpy(s.disk.md + 30 * s.kind->md, s.disk.md + 31 * s.kind->md, s.kind->md);
	EXPECT(rw(&s, BDEV_READ, 30, 1, s.data, NULL) == -EILSEQ);
	EXPECT(rw(&s, BDEV_READ, 31, 1, s.data, NULL) == 0);
	close_stage(&s);

	/* Metadata for a bdev that has none. */
	open_stage(&s, &(struct kind){512, 0, 0, 0, false});
	EXPECT(rw(&s, BDEV_WRITE, 0, 1, s.data, s.data) == -EINVAL);
	close_stage(&s);
}

/* A copy takes metadata along; what is compared and written gets new. */
static void
copies_keep_metadata(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct stage s;
		uint8_t *data, *md;
		struct env_io copy = {.op = BDEV_COPY, .src_lba = 3, .lba = 2000};

		open_stage(&s, &kinds[i]);
		data = calloc(s.n, s.kind->block);
		md = calloc(s.n, s.kind->md);
		protect(&s, 3);
		EXPECT(rw(&s, BDEV_WRITE, 3, s.n, s.data, s.md) == 0);
		copy.num_blocks = s.n;
		env_submit(&s.env.workers[0], &copy);
		EXPECT(env_finish(&copy) == 0);
		EXPECT(rw(&s, BDEV_READ, 2000, s.n, data, md) == 0);
		assert_memory_equal(data, s.data, s.n * s.kind->block);
		if (s.kind->type != 0) {
			dif_remap(&s.dif, s.md, s.n, 2000 - 3);
		}
		assert_memory_equal(md, s.md, s.n * s.kind->md);
		free(data);
		free(md);
		close_stage(&s);
	}
}

/* Guests change what is being written: what is on the disk fits nevertheless. */
static void
data_is_stable(void **state)
{
	struct stage s;
	struct iovec iov;
	struct env_io io = {.op = BDEV_WRITE, .lba = 8, .iovcnt = 1, .iov = &iov};

	open_stage(&s, &kinds[0]);
	io.num_blocks = 100;
	iov = (struct iovec){s.data, 100 * s.kind->block};
	atomic_store(&s.disk.hold, true);
	env_submit(&s.env.workers[0], &io);
	env_wait_count(&s.env, &s.disk.log_count, 1);
	memset(s.data, 0xee, 100 * s.kind->block);
	scripted_let_go(&s.disk, &s.env);
	EXPECT(env_finish(&io) == 0);
	EXPECT(rw(&s, BDEV_READ, 8, 100, s.data, NULL) == 0);
	EXPECT(s.data[0] != 0xee);
	close_stage(&s);
}

/* What does not go together is refused when it is registered. */
static void
register_wrong(void *arg)
{
	static const struct kind bad[] = {
		{512, 4, 1, DIF_PI_16, false}, {512, 16, 1, DIF_PI_32, false},
		{512, 8, 4, DIF_PI_16, false}, {512, 8, 1, 3, false},
		{512, 129, 0, 0, false},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct scripted_bdev s;
		struct err err = ERR_NONE;

		set_up(&s, &bad[i], "md2");
		EXPECT(scripted_bdev_add(&s, &err) == -EINVAL);
		EXPECT_SAY(strstr(err.text, "md2") != NULL, "%s", err.text);
		scripted_bdev_release(&s);
	}
}

static void
wrong_kinds_are_refused(void **state)
{
	struct env env;

	env_start(&env, REACTOR_POLL, false);
	env_call(&env, env.app, register_wrong, NULL);
	env_stop(&env);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(passes_battery),
		cmocka_unit_test(metadata_goes_through),
		cmocka_unit_test(metadata_is_made_up),
		cmocka_unit_test(wrong_metadata_is_refused),
		cmocka_unit_test(copies_keep_metadata),
		cmocka_unit_test(data_is_stable),
		cmocka_unit_test(wrong_kinds_are_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
