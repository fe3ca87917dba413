/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/trio.h"

#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"

/* ---- Waiting ---- */

void
trio_step(struct trio *t)
{
	if (t->real_threads) {
		usleep(20);
	} else {
		reactor_poll_wait(t->reactors[0], 1000);
	}
}

void
trio_wait(struct trio *t, atomic_bool *flag)
{
	uint64_t end_ns = clock_now_ns() + TRIO_TIMEOUT_NS;

	while (!atomic_load(flag)) {
		EXPECT_SAY(clock_now_ns() < end_ns, "nothing came");
		trio_step(t);
	}
}

void
trio_wait_count(struct trio *t, atomic_uint *count, unsigned at_least)
{
	uint64_t end_ns = clock_now_ns() + TRIO_TIMEOUT_NS;

	while (atomic_load(count) < at_least) {
		EXPECT_SAY(clock_now_ns() < end_ns, "%u of %u came", atomic_load(count), at_least);
		trio_step(t);
	}
}

struct call {
	struct msg msg;
	void (*fn)(void *arg);
	void *arg;
	atomic_bool done;
};

static void
called(struct msg *msg)
{
	struct call *call = CONTAINER_OF(msg, struct call, msg);

	call->fn(call->arg);
	atomic_store(&call->done, true);
}

void
trio_call(struct trio *t, struct thread *thread, void (*fn)(void *arg), void *arg)
{
	struct call call = {.fn = fn, .arg = arg};

	thread_send(thread, &call.msg, called);
	trio_wait(t, &call.done);
}

/* ---- Threads ---- */

void
trio_start(struct trio *t, enum reactor_mode mode, bool real_threads)
{
	static const char *const names[TRIO_WORKERS] = {"io0", "io1"};
	struct err err = ERR_NONE;

	memset(t, 0, sizeof(*t));
	t->real_threads = real_threads;
	t->reactor_count = real_threads ? 1 + TRIO_WORKERS : 1;
	for (unsigned i = 0; i < t->reactor_count; i++) {
		t->reactors[i] = reactor_create(i, -1, mode, &err);
		EXPECT_SAY(t->reactors[i] != NULL, "%s", err_text(&err));
	}
	t->app = thread_create("app", t->reactors[0]);
	for (unsigned i = 0; i < TRIO_WORKERS; i++) {
		t->workers[i] = thread_create(names[i], t->reactors[real_threads ? 1 + i : 0]);
	}
	for (unsigned i = 0; real_threads && i < t->reactor_count; i++) {
		EXPECT_SAY(reactor_start(t->reactors[i], &err) == 0, "%s", err_text(&err));
	}
}

static void
end_thread(void *arg)
{
	thread_exit();
}

static void
count_thread(void *ctx, struct thread *thread)
{
	++*(unsigned *)ctx;
}

/* A thread goes after its last turn, a moment after its last message. */
static void
wait_threads_gone(struct trio *t, struct reactor *r)
{
	uint64_t end_ns = clock_now_ns() + TRIO_TIMEOUT_NS;
	unsigned count;

	for (;;) {
		count = 0;
		reactor_for_each_thread(r, count_thread, &count);
		if (count == 0) {
			return;
		}
		EXPECT(clock_now_ns() < end_ns);
		trio_step(t);
	}
}

void
trio_stop(struct trio *t)
{
	for (unsigned i = 0; i < TRIO_WORKERS; i++) {
		trio_call(t, t->workers[i], end_thread, NULL);
	}
	trio_call(t, t->app, end_thread, NULL);
	for (unsigned i = 0; i < t->reactor_count; i++) {
		wait_threads_gone(t, t->reactors[i]);
		if (t->real_threads) {
			reactor_stop(t->reactors[i]);
			reactor_join(t->reactors[i]);
		}
		reactor_free(t->reactors[i]);
	}
}
