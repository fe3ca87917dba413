/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/error/error.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "testkit/bdev_over.h"

#define NAME ERROR_NAME_PREFIX OVER_BASE

static int
create(const struct over *over, struct err *err)
{
	struct error_bdev_options options = {.base_name = OVER_BASE};

	return bdev_error_create(&options, NULL, err);
}

static int
remove_error(const struct over *over, void (*done)(void *ctx, int status), void *ctx,
	     struct err *err)
{
	return bdev_error_delete(NAME, done, ctx, err);
}

static const struct over template = {
	.battery = {.name = NAME, .unmap_zeroes = true},
	.base_blocks = 8192,
	.base_block_size = 512,
	.create = create,
	.remove = remove_error,
	.resizes = true,
};

static void
awkward(struct scripted_bdev *base)
{
	base->bdev.max_rw_blocks = 100;
	base->bdev.write_cache = true;
	atomic_store(&base->refuse_every, 7);
	atomic_store(&base->shuffle, true);
}

static void
passes_battery(void **state)
{
	struct over over = template;

	over_run_all(&over);
	over.set_up = awkward;
	over_run(&over, REACTOR_ADAPTIVE, true);
}

/* ---- Injections ---- */

static struct env env;
static struct over over;
static uint8_t buf[4096];
static enum reactor_mode mode = REACTOR_INTERRUPT;

static void
begin(bool real_threads)
{
	over = template;
	env_start(&env, mode, real_threads);
	over_open(&over, &env);
}

static void
end(void)
{
	over_close(&over, &env);
	env_stop(&env);
}

struct injecting {
	uint32_t ops;
	struct error_injection what;
	int rc;
};

static void
inject_on_app(void *arg)
{
	struct injecting *i = arg;
	struct err err = ERR_NONE;

	i->rc = bdev_error_inject(NAME, i->ops, &i->what, &err);
	EXPECT(i->rc == err.code && (i->rc == 0 || strstr(err.text, NAME) != NULL));
}

static int
inject(uint32_t ops, struct error_injection what)
{
	struct injecting i = {.ops = ops, .what = what};

	env_call(&env, env.app, inject_on_app, &i);
	return i.rc;
}

static void
clear_on_app(void *arg)
{
	EXPECT(bdev_error_clear(NAME, NULL) == 0);
}

static int
rw(enum bdev_op op)
{
	return env_rw(&env.workers[0], op, 8, 8, op == BDEV_READ || op == BDEV_WRITE ? buf : NULL);
}

static void
fails_as_often_as_told(void **state)
{
	begin(false);
	EXPECT(inject(1u << ERROR_READ, (struct error_injection){.type = ERROR_FAILURE, .num = 2}) == 0);
	EXPECT(rw(BDEV_WRITE) == 0);
	EXPECT(rw(BDEV_READ) == -EIO && rw(BDEV_UNMAP) == 0 && rw(BDEV_READ) == -EIO);
	EXPECT(rw(BDEV_READ) == 0);
	EXPECT(inject(ERROR_ALL_OPS, (struct error_injection){.type = ERROR_FAILURE, .num = 1}) == 0);
	EXPECT(rw(BDEV_READ) == -EIO && rw(BDEV_WRITE) == -EIO && rw(BDEV_UNMAP) == -EIO &&
	       rw(BDEV_FLUSH) == -EIO && rw(BDEV_WRITE_ZEROES) == 0);
	EXPECT(rw(BDEV_READ) == 0 && rw(BDEV_WRITE) == 0 && rw(BDEV_UNMAP) == 0 &&
	       rw(BDEV_FLUSH) == 0);
	EXPECT(inject(ERROR_ALL_OPS, (struct error_injection){.type = ERROR_FAILURE, .num = 9}) == 0);
	EXPECT(inject(1u << ERROR_WRITE, (struct error_injection){.type = ERROR_FAILURE, .num = 0}) == 0);
	EXPECT(rw(BDEV_WRITE) == 0 && rw(BDEV_READ) == -EIO);
	env_call(&env, env.app, clear_on_app, NULL);
	EXPECT(rw(BDEV_READ) == 0 && rw(BDEV_FLUSH) == 0);
	end();
}

static void
nvme_statuses(void **state)
{
	static const struct {
		uint32_t sct, sc;
		int status;
	} cases[] = {{2, 0x81, -EIO}, {2, 0x85, -EILSEQ}, {0, 0x81, -ENOSPC}, {7, 0xff, -EIO}};

	begin(false);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		EXPECT(inject(1u << ERROR_WRITE,
			      (struct error_injection){.type = ERROR_NVME_FAILURE,
						       .num = 1,
						       .nvme_sct = cases[i].sct,
						       .nvme_sc = cases[i].sc}) == 0);
		EXPECT(rw(BDEV_WRITE) == cases[i].status);
	}
	EXPECT(inject(1, (struct error_injection){.type = ERROR_NVME_FAILURE, .num = 1}) == -EINVAL);
	EXPECT(inject(1, (struct error_injection){.type = ERROR_FAILURE, .num = 1, .nvme_sc = 1}) ==
	       -EINVAL);
	EXPECT(inject(1, (struct error_injection){.type = ERROR_CORRUPT_DATA, .num = 1}) == -EINVAL);
	end();
}

/* The core asks again and again, until it is let through. */
static void
no_memory(void **state)
{
	struct iovec iov = {buf, sizeof(buf)};
	struct env_io io = {.op = BDEV_READ, .num_blocks = 8, .iov = &iov, .iovcnt = 1};

	begin(false);
	EXPECT(inject(1u << ERROR_READ, (struct error_injection){.type = ERROR_NOMEM, .num = 5}) == 0);
	EXPECT(rw(BDEV_READ) == 0);
	EXPECT(inject(1u << ERROR_READ,
		      (struct error_injection){.type = ERROR_NOMEM, .num = UINT32_MAX}) == 0);
	env_submit(&env.workers[0], &io);
	env_linger(&env, 3);
	EXPECT(!atomic_load(&io.done));
	env_call(&env, env.app, clear_on_app, NULL);
	EXPECT(env_finish(&io) == 0);
	end();
}

static void
corrupts(void **state)
{
	struct iovec iov[2] = {{buf, 1000}, {buf + 1000, 3096}};
	struct error_injection what = {.type = ERROR_CORRUPT_DATA,
				       .num = 1,
				       .corrupt_offset = 1500,
				       .corrupt_value = 0xff};

	begin(false);
	memset(buf, 0x11, sizeof(buf));
	EXPECT(inject(1u << ERROR_WRITE, what) == 0);
	EXPECT(env_rwv(&env.workers[0], BDEV_WRITE, 0, 8, 8, iov, 2) == 0);
	for (unsigned i = 0; i < sizeof(buf); i++) {
		EXPECT(buf[i] == 0x11);
		EXPECT(over.base.data[8 * 512 + i] == (i == 1500 ? 0xee : 0x11));
	}
	EXPECT(env_rwv(&env.workers[0], BDEV_WRITE, 0, 8, 8, iov, 2) == 0);
	EXPECT(over.base.data[8 * 512 + 1500] == 0x11);
	EXPECT(inject(1u << ERROR_READ, what) == 0);
	EXPECT(env_rwv(&env.workers[0], BDEV_READ, 0, 8, 8, iov, 2) == 0);
	for (unsigned i = 0; i < sizeof(buf); i++) {
		EXPECT(buf[i] == (i == 1500 ? 0xee : 0x11));
	}
	EXPECT(rw(BDEV_READ) == 0 && buf[1500] == 0x11);
	what.corrupt_offset = sizeof(buf);
	EXPECT(inject(ERROR_ALL_OPS, what) == 0);
	EXPECT(rw(BDEV_READ) == 0 && buf[4095] == 0x11);
	EXPECT(rw(BDEV_WRITE) == 0 && rw(BDEV_UNMAP) == 0 && rw(BDEV_FLUSH) == 0);
	end();
}

/* ---- Pending ---- */

static struct env_io ios[8];
static uint8_t own_buf[ENV_WORKERS][4096];
static struct iovec iov[ENV_WORKERS] = {{own_buf[0], 4096}, {own_buf[1], 4096}};

static void
submit_pending(unsigned count)
{
	EXPECT(inject(1u << ERROR_READ,
		      (struct error_injection){.type = ERROR_PENDING, .num = count}) == 0);
	for (unsigned i = 0; i < count; i++) {
		ios[i] = (struct env_io){.op = BDEV_READ,
					 .num_blocks = 8,
					 .iov = &iov[i % ENV_WORKERS],
					 .iovcnt = 1};
		env_submit(&env.workers[i % ENV_WORKERS], &ios[i]);
	}
	EXPECT(rw(BDEV_READ) == 0);
	env_linger(&env, 3);
	for (unsigned i = 0; i < count; i++) {
		EXPECT(!atomic_load(&ios[i].done));
	}
}

static void
expect_all(unsigned count, int status)
{
	for (unsigned i = 0; i < count; i++) {
		EXPECT(env_finish(&ios[i]) == status);
	}
}

static atomic_bool resumed_flag;

static void
resumed(void *ctx, int status)
{
	EXPECT(status == 0);
	atomic_store(&resumed_flag, true);
}

static void
resume_on_app(void *arg)
{
	atomic_store(&resumed_flag, false);
	EXPECT(bdev_error_resume(NAME, resumed, NULL, NULL) == 0);
}

static void
pending(void **state)
{
	for (int real = 0; real < 2; real++) {
		begin(real != 0);
		submit_pending(8);
		env_call(&env, env.app, clear_on_app, NULL);
		env_linger(&env, 2);
		EXPECT(!atomic_load(&ios[0].done));
		env_call(&env, env.app, resume_on_app, NULL);
		env_wait(&env, &resumed_flag);
		expect_all(8, 0);

		/* Resuming ends the injection too. */
		EXPECT(inject(1u << ERROR_WRITE,
			      (struct error_injection){.type = ERROR_PENDING, .num = 99}) == 0);
		env_call(&env, env.app, resume_on_app, NULL);
		env_wait(&env, &resumed_flag);
		EXPECT(rw(BDEV_WRITE) == 0);

		submit_pending(8);
		EXPECT(env_rw(&env.workers[1], BDEV_RESET, 0, 0, NULL) == 0);
		expect_all(8, -ECANCELED);

		submit_pending(8);
		over_pull(&over, &env);
		expect_all(8, -ENODEV);
		end();
	}
}

static int abort_status;
static atomic_bool abort_ended;

static void
abort_done(struct bdev_io *io, int status)
{
	abort_status = status;
	atomic_store(&abort_ended, true);
}

static void
abort_on_worker(void *arg)
{
	struct bdev_io *io = arg;

	bdev_io_init(io, BDEV_ABORT, 0, 0, NULL, 0, abort_done);
	io->target = ios[0].io;
	bdev_submit(env.workers[0].ch, io);
}

static void
aborts(void **state)
{
	struct bdev_io *io;

	begin(false);
	io = aligned_alloc(64, bdev_io_bytes(env.bdev));
	submit_pending(3);
	env_call(&env, env.workers[0].thread, abort_on_worker, io);
	env_wait(&env, &abort_ended);
	EXPECT(abort_status == 0 && env_finish(&ios[0]) == -ECANCELED);
	EXPECT(!atomic_load(&ios[1].done) && !atomic_load(&ios[2].done));
	EXPECT(env_rw(&env.workers[1], BDEV_RESET, 0, 0, NULL) == 0);
	EXPECT(env_finish(&ios[1]) == -ECANCELED && env_finish(&ios[2]) == -ECANCELED);
	free(io);
	end();
}

/* ---- Depth, and several threads ---- */

static void
only_when_deep(void **state)
{
	begin(false);
	EXPECT(inject(1u << ERROR_READ, (struct error_injection){.type = ERROR_FAILURE,
								 .num = 1,
								 .queue_depth = 3}) == 0);
	EXPECT(rw(BDEV_READ) == 0);
	atomic_store(&over.base.hold, true);
	for (unsigned i = 0; i < 4; i++) {
		ios[i] = (struct env_io){
			.op = BDEV_READ, .num_blocks = 8, .iov = &iov[0], .iovcnt = 1};
		env_submit(&env.workers[0], &ios[i]);
	}
	EXPECT(env_finish(&ios[3]) == -EIO);
	over_let_go(&over, &env);
	expect_all(3, 0);
	end();
}

#define STORM 2000

/* Exactly as many as told, on all threads together, while injections come and go. */
static void
exact_on_threads(void **state)
{
	struct env_io *storm = calloc(STORM, sizeof(*storm));
	struct iovec bufs[ENV_WORKERS];
	unsigned failed = 0;

	begin(true);
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		bufs[i] = (struct iovec){calloc(1, 4096), 4096};
	}
	EXPECT(inject(1u << ERROR_READ, (struct error_injection){.type = ERROR_FAILURE, .num = 700}) == 0);
	for (unsigned i = 0; i < STORM; i++) {
		storm[i] = (struct env_io){
			.op = BDEV_READ, .num_blocks = 8, .iov = &bufs[i % ENV_WORKERS], .iovcnt = 1};
		env_submit(&env.workers[i % ENV_WORKERS], &storm[i]);
		if (i % 100 == 0) { /* of another operation; frees rules that others may look at */
			EXPECT(inject(1u << ERROR_WRITE,
				      (struct error_injection){.type = ERROR_FAILURE, .num = i}) == 0);
		}
	}
	for (unsigned i = 0; i < STORM; i++) {
		int status = env_finish(&storm[i]);

		EXPECT(status == 0 || status == -EIO);
		failed += status != 0;
	}
	EXPECT_SAY(failed == 700, "%u", failed);
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		free(bufs[i].iov_base);
	}
	free(storm);
	end();
}

static void
options_on_app(void *arg)
{
	struct error_bdev_options o;
	bool waits;

	EXPECT(bdev_error_get_options(bdev_find(NAME), &o) && strcmp(o.base_name, OVER_BASE) == 0);
	EXPECT(!bdev_error_get_options(bdev_find(OVER_BASE), &o));
	EXPECT(bdev_error_list(0, &o, &waits) && !waits && !bdev_error_list(1, &o, &waits));
	EXPECT(bdev_error_delete("EE_none", NULL, NULL, NULL) == -ENODEV);
	EXPECT(bdev_error_clear("EE_none", NULL) == -ENODEV);
	EXPECT(bdev_error_resume("EE_none", resumed, NULL, NULL) == -ENODEV);
}

static void
tells_its_options(void **state)
{
	begin(false);
	env_call(&env, env.app, options_on_app, NULL);
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(passes_battery),
		cmocka_unit_test(fails_as_often_as_told),
		cmocka_unit_test(nvme_statuses),
		cmocka_unit_test(no_memory),
		cmocka_unit_test(corrupts),
		cmocka_unit_test(pending),
		cmocka_unit_test(aborts),
		cmocka_unit_test(only_when_deep),
		cmocka_unit_test(exact_on_threads),
		cmocka_unit_test(tells_its_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
