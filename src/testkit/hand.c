/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/hand.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "base/check.h"
#include "base/clock.h"

#define WAIT_SLICE_US 2000

const enum reactor_mode hand_modes[3] = {REACTOR_POLL, REACTOR_INTERRUPT, REACTOR_ADAPTIVE};

_Noreturn static void
fail(const char *what)
{
	fprintf(stderr, "hand: %s\n", what);
	abort();
}

void
hand_clock_start(void)
{
	clock_set_fake_ns(HAND_CLOCK_START_NS);
}

void
hand_clock_stop(void)
{
	clock_set_fake_ns(UINT64_MAX);
}

struct reactor *
hand_reactor(enum reactor_mode mode)
{
	struct err err = ERR_NONE;
	struct reactor *r = reactor_create(0, -1, mode, &err);

	if (r == NULL) {
		fail(err_text(&err));
	}
	return r;
}

int
hand_run(struct reactor *r)
{
	int sum = 0;

	for (int i = 0; i < HAND_ROUNDS_MAX; i++) {
		int work = reactor_poll_once(r);

		if (work == 0) {
			return sum;
		}
		sum += work;
	}
	fail("a reactor does not come to rest");
}

/* The test's own patience: not the clock that is under its control. */
static uint64_t
real_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

bool
hand_wait(struct reactor *r, bool (*cond)(void *ctx), void *ctx, unsigned timeout_ms)
{
	uint64_t end = real_ms() + timeout_ms;

	while (!cond(ctx)) {
		if (real_ms() >= end) {
			return false;
		}
		reactor_poll_wait(r, WAIT_SLICE_US);
	}
	return true;
}

/* ---- On a thread ---- */

struct call {
	struct msg msg;
	void (*fn)(void *ctx);
	void *ctx;
	bool called;
};

static void
call_msg(struct msg *msg)
{
	struct call *call = CONTAINER_OF(msg, struct call, msg);

	call->fn(call->ctx);
	call->called = true;
}

void
hand_call(struct thread *t, void (*fn)(void *ctx), void *ctx)
{
	struct reactor *r = thread_reactor(t);
	struct call call = {.fn = fn, .ctx = ctx};

	thread_send(t, &call.msg, call_msg);
	for (int i = 0; !call.called; i++) {
		if (i == HAND_ROUNDS_MAX) {
			fail("a call to a thread never ran");
		}
		reactor_poll_once(r);
	}
	hand_run(r);
}

void
hand_advance(struct reactor *r, uint64_t us)
{
	uint64_t end = clock_now_ns() + us * NS_PER_US;

	hand_run(r);
	for (int i = 0; clock_now_ns() < end; i++) {
		uint64_t next = reactor_next_timer_ns(r);

		if (i == HAND_ROUNDS_MAX) {
			fail("a timer restarts itself without end");
		}
		/* A deadline that has passed already: let the clock move all the same. */
		clock_set_fake_ns(MIN(MAX(next, clock_now_ns() + 1), end));
		hand_run(r);
	}
}

/* ---- The end ---- */

struct exits {
	struct thread **threads;
	size_t count;
	size_t room;
};

static void
count_thread(void *ctx, struct thread *t)
{
	((struct exits *)ctx)->room++;
}

static void
note_thread(void *ctx, struct thread *t)
{
	struct exits *e = ctx;

	e->threads[e->count++] = t;
}

static void
exit_msg(struct msg *msg)
{
	thread_exit();
	free(msg);
}

void
hand_free(struct reactor *r)
{
	struct exits e = {0}, left = {0};

	if (r == NULL) {
		return;
	}
	reactor_for_each_thread(r, count_thread, &e);
	e.threads = calloc(e.room + 1, sizeof(*e.threads));
	CHECK(e.threads != NULL);
	reactor_for_each_thread(r, note_thread, &e);
	for (size_t i = 0; i < e.count; i++) {
		struct msg *msg = malloc(sizeof(*msg));

		CHECK(msg != NULL);
		thread_send(e.threads[i], msg, exit_msg);
	}
	free(e.threads);
	hand_run(r);
	reactor_for_each_thread(r, count_thread, &left);
	if (left.room > 0) {
		fail("a thread did not exit");
	}
	reactor_free(r);
}
