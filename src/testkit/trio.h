/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What stages of tests stand on (bdev_env.h, blob_env.h): an app thread and two I/O threads, on one reactor that is polled by
 * hand while a test waits, or on three reactors with system threads of their own; waiting, and calling on a thread. A test that
 * waits too long aborts.
 */
#ifndef TESTKIT_TRIO_H
#define TESTKIT_TRIO_H

#include <stdatomic.h>
#include <stdbool.h>

#include "event/reactor.h"
#include "testkit/expect.h"

#define TRIO_WORKERS 2
#define TRIO_TIMEOUT_NS (UINT64_C(60) * 1000000000)

struct trio {
	bool real_threads;
	struct reactor *reactors[1 + TRIO_WORKERS]; /* by hand: one */
	unsigned reactor_count;
	struct thread *app;
	struct thread *workers[TRIO_WORKERS];
};

void trio_start(struct trio *t, enum reactor_mode mode, bool real_threads);
void trio_stop(struct trio *t);
/* Lets happen what does next, or a moment pass. */
void trio_step(struct trio *t);
void trio_wait(struct trio *t, atomic_bool *flag); /* until *flag is true */
void trio_wait_count(struct trio *t, atomic_uint *count, unsigned at_least);
/* Runs fn(arg) on the thread and returns when it has. */
void trio_call(struct trio *t, struct thread *thread, void (*fn)(void *arg), void *arg);

#endif
