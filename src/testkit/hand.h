/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Time and threads by hand: reactors that no system thread runs, polled by the test, and a clock that moves
 * only when told. A whole system of lightweight threads becomes one deterministic function call.
 * A thing that does not come to rest within HAND_ROUNDS_MAX rounds ends the test with a message.
 */
#ifndef TESTKIT_HAND_H
#define TESTKIT_HAND_H

#include <stdbool.h>
#include <stdint.h>

#include "event/reactor.h"
#include "event/thread.h"

#define HAND_ROUNDS_MAX 100000
#define HAND_CLOCK_START_NS UINT64_C(1000000000)

/* Three entries of a cmocka table: test f in every mode. setup finds a pointer to the mode in *state. */
#define HAND_IN_MODES(f, setup, teardown) \
	{#f " (poll)", f, setup, teardown, (void *)(uintptr_t)&hand_modes[REACTOR_POLL]}, \
	{#f " (interrupt)", f, setup, teardown, (void *)(uintptr_t)&hand_modes[REACTOR_INTERRUPT]}, \
	{#f " (adaptive)", f, setup, teardown, (void *)(uintptr_t)&hand_modes[REACTOR_ADAPTIVE]}

extern const enum reactor_mode hand_modes[3];

/* From now on the clock stands at HAND_CLOCK_START_NS and moves by hand_advance() only. */
void hand_clock_start(void);
/* The real clock again. */
void hand_clock_stop(void);

/* A reactor without a system thread; failure ends the test. */
struct reactor *hand_reactor(enum reactor_mode mode);

/* Asks every thread of r to exit, runs r until they are gone, and frees it. Accepts NULL. */
void hand_free(struct reactor *r);

/* Polls r until a round finds nothing to do; the work done. */
int hand_run(struct reactor *r);

/* Polls r until cond(ctx) holds, sleeping as r's mode does; false when it did not within timeout_ms of real time. */
bool hand_wait(struct reactor *r, bool (*cond)(void *ctx), void *ctx, unsigned timeout_ms);

/* Calls fn(ctx) on t, a thread of a reactor polled by hand, and then runs that reactor until quiet. */
void hand_call(struct thread *t, void (*fn)(void *ctx), void *ctx);

/* Moves the fake clock by us microseconds, stopping at each deadline of r on the way; runs r until quiet at each. */
void hand_advance(struct reactor *r, uint64_t us);

#endif
