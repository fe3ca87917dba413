/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Batching over queues, disks and VMs: what several queues of several controllers, on two files, ask for in one turn of their
 * reactor goes to the kernel in one system call. Beside the units because it joins two of them, the vhost back end and a
 * file backend.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "bdevs/aio/aio.h"
#include "bdevs/uring/uring.h"
#include "testkit/hand.h"
#include "testkit/vhost_stage.h"

#define VMS 3u
#define RINGS 2u
#define FILES 2u
#define PER_RING 4u
#define ROUNDS 20u

struct counts {
	uint64_t calls, requests, mixed;
};

struct backend {
	const char *name;
	int (*create)(const char *name, const char *path);
	int (*delete)(const char *name, void (*done)(void *ctx, int status), void *ctx);
	struct counts (*counts)(void); /* on the I/O thread */
};

static struct stage st;
static struct front vms[VMS];
static char paths[FILES][64];
static const char *const names[FILES] = {"file0", "file1"};
static const struct backend *backend;
static enum reactor_mode mode;

/* ---- Backends ---- */

static int
aio_create(const char *name, const char *path)
{
	struct aio_bdev_options options = {.name = name, .filename = path, .block_size = 512};

	return bdev_aio_create(&options, NULL, NULL);
}

static int
aio_delete(const char *name, void (*done)(void *ctx, int status), void *ctx)
{
	return bdev_aio_delete(name, done, ctx, NULL);
}

static struct counts
aio_counts(void)
{
	struct aio_stats s;

	bdev_aio_thread_stats(&s);
	return (struct counts){s.submits, s.requests, s.mixed};
}

static int
uring_create(const char *name, const char *path)
{
	struct uring_bdev_options options = {.name = name, .filename = path, .block_size = 512};

	return bdev_uring_create(&options, NULL, NULL);
}

static int
uring_delete(const char *name, void (*done)(void *ctx, int status), void *ctx)
{
	return bdev_uring_delete(name, done, ctx, NULL);
}

static struct counts
uring_counts(void)
{
	struct uring_stats s;

	bdev_uring_thread_stats(&s);
	return (struct counts){s.enters, s.requests, s.mixed};
}

static const struct backend aio = {"aio", aio_create, aio_delete, aio_counts};
static const struct backend uring = {"uring", uring_create, uring_delete, uring_counts};

/* ---- Fixture ---- */

/* A file with the contents of the stage's disk; false where there is no direct I/O: then nothing is gathered. */
static bool
make_file(char *path)
{
	int fd;

	strcpy(path, "/var/tmp/batching-XXXXXX");
	fd = mkstemp(path);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, st.disk.data, STAGE_BLOCKS * 512), STAGE_BLOCKS * 512);
	assert_int_equal(fsync(fd), 0);
	close(fd);
	fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	if (fd >= 0) {
		close(fd);
	}
	return fd >= 0;
}

static void
create_bdevs(void *ctx)
{
	for (unsigned i = 0; i < FILES; i++) {
		assert_int_equal(backend->create(names[i], paths[i]), 0);
	}
}

static void
deleted(void *ctx, int status)
{
	assert_int_equal(status, 0);
	++*(unsigned *)ctx;
}

static void
delete_bdevs(void *ctx)
{
	for (unsigned i = 0; i < FILES; i++) {
		assert_int_equal(backend->delete(names[i], deleted, ctx), 0);
	}
}

static void
get_counts(void *ctx)
{
	*(struct counts *)ctx = backend->counts();
}

static struct counts
counts(void)
{
	struct counts c;

	stage_call(&st, st.io[0], get_counts, &c);
	return c;
}

static void
start_vms(void)
{
	char name[16];

	for (unsigned i = 0; i < VMS; i++) {
		snprintf(name, sizeof(name), "vm%u", i);
		assert_int_equal(stage_create_on(&st, name, names[i % FILES], "0x1", false, NULL), 0);
		front_open(&vms[i], &st);
		front_start(&vms[i], name);
		for (unsigned r = 1; r < RINGS; r++) {
			front_ring_start(&vms[i], r, 64, 0);
		}
	}
	stage_quiet(&st);
}

/* All queues in the same state, so that they are served in the same turn: asleep, or in poll mode awake. */
static void
rest(void)
{
	stage_quiet(&st);
	if (mode != REACTOR_POLL) {
		clock_set_fake_ns(clock_now_ns() + 10 * NS_PER_MS);
		stage_quiet(&st);
	}
}

/* Every queue of every VM asks for PER_RING blocks, and only then the reactor gets a turn. */
static void
one_round(unsigned round)
{
	rest();
	for (unsigned n = 0; n < VMS * RINGS * PER_RING; n++) {
		front_offer(&vms[n % VMS], n / VMS % RINGS, round * PER_RING + n / (VMS * RINGS));
	}
	for (unsigned i = 0; i < 200000; i++) {
		unsigned done = 0;

		stage_poll(&st);
		for (unsigned n = 0; n < VMS * RINGS; n++) {
			done += front_used(&vms[n % VMS], n / VMS) == vms[n % VMS].avail[n / VMS];
		}
		if (done == VMS * RINGS) {
			return;
		}
	}
	fail_msg("round %u does not end", round);
}

static void
run(const struct backend *b)
{
	struct counts before, after;
	unsigned gone = 0;

	backend = b;
	stage_call(&st, st.control, create_bdevs, NULL);
	start_vms();
	/* The first brings what is made on first use. */
	one_round(0);
	before = counts();
	for (unsigned round = 1; round <= ROUNDS; round++) {
		one_round(round);
	}
	after = counts();
	assert_int_equal(after.requests - before.requests, ROUNDS * VMS * RINGS * PER_RING);
	assert_int_equal(after.calls - before.calls, ROUNDS);
	assert_int_equal(after.mixed - before.mixed, ROUNDS);
	for (unsigned i = 0; i < VMS; i++) {
		assert_true(front_read(&vms[i], 0, 77));
		front_close(&vms[i]);
	}
	stage_quiet(&st);
	assert_int_equal(stage_delete(&st, "vm0") + stage_delete(&st, "vm1") + stage_delete(&st, "vm2"), 0);
	stage_call(&st, st.control, delete_bdevs, &gone);
	for (unsigned i = 0; i < 200000 && gone < FILES; i++) {
		stage_poll(&st);
	}
	assert_int_equal(gone, FILES);
}

static int
setup(void **state)
{
	mode = *(const enum reactor_mode *)*state;
	hand_clock_start();
	stage_start(&st, mode);
	return 0;
}

static int
teardown(void **state)
{
	for (unsigned i = 0; i < FILES; i++) {
		unlink(paths[i]);
	}
	stage_stop(&st);
	hand_clock_stop();
	return 0;
}

static void
test_aio(void **state)
{
	if (!make_file(paths[0]) || !make_file(paths[1])) {
		skip();
	}
	run(&aio);
}

static void
test_uring(void **state)
{
	if (!make_file(paths[0]) || !make_file(paths[1]) || !uring_available(NULL)) {
		skip();
	}
	run(&uring);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		HAND_IN_MODES(test_aio, setup, teardown),
		HAND_IN_MODES(test_uring, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
