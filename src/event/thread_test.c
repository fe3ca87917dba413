/* SPDX-License-Identifier: BSD-3-Clause */
/* Messages, deferred calls, batch hooks, the end of a thread. By hand, in every mode. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "testkit/hand.h"

#define LOG_MAX 4096

struct fixture {
	struct reactor *r;
	struct thread *a, *b;
};

/* What happened, in order, as one letter each. */
static char trail[LOG_MAX];
static size_t trail_len;

static void
note(char what)
{
	assert_true(trail_len + 1 < sizeof(trail));
	trail[trail_len++] = what;
	trail[trail_len] = '\0';
}

static int
setup(void **state)
{
	static struct fixture f;

	hand_clock_start();
	f.r = hand_reactor(*(const enum reactor_mode *)*state);
	f.a = thread_create("a", f.r);
	f.b = thread_create("b", f.r);
	trail_len = 0;
	trail[0] = '\0';
	*state = &f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	hand_free(f->r);
	hand_clock_stop();
	return 0;
}

/* ---- Messages ---- */

struct letter {
	struct msg msg;
	char what;
	struct thread *expect;
};

static void
letter_arrives(struct msg *msg)
{
	struct letter *l = CONTAINER_OF(msg, struct letter, msg);

	assert_ptr_equal(thread_self(), l->expect);
	note(l->what);
}

static void
messages_arrive_in_order(void **state)
{
	struct fixture *f = *state;
	struct letter l[26];

	for (int i = 0; i < 26; i++) {
		l[i] = (struct letter){.what = (char)('a' + i), .expect = f->a};
		thread_send(f->a, &l[i].msg, letter_arrives);
	}
	assert_null(thread_self());
	hand_run(f->r);
	assert_string_equal(trail, "abcdefghijklmnopqrstuvwxyz");
	assert_null(thread_self());
}

struct hop {
	struct msg msg;
	struct thread *to;
	int left;
};

static void
hop_on(struct msg *msg)
{
	struct hop *h = CONTAINER_OF(msg, struct hop, msg);

	if (--h->left > 0) {
		/* The message is ours again: it may be sent from inside its own handler, to this thread too. */
		thread_send(h->to, &h->msg, hop_on);
	}
}

/* A thousand messages at once to one thread: the other one gets its turns between them, and they arrive in order. */
#define FLOOD 1000

static struct { struct msg msg; int number; } flood[FLOOD];
static int flood_arrived, other_turns;

static void
flood_arrives(struct msg *msg)
{
	assert_int_equal(CONTAINER_OF(msg, __typeof__(flood[0]), msg)->number, flood_arrived);
	flood_arrived++;
}

static int
other_turn(struct poller *p)
{
	other_turns += flood_arrived < FLOOD;
	return 0;
}

static const struct poller_ops other_ops = {.name = "other", .poll = other_turn};

static void
start_other(void *ctx)
{
	assert_int_equal(poller_start(ctx, &other_ops, -1), 0);
}

static void
stop_other(void *ctx)
{
	poller_stop(ctx);
}

static void
a_flood_of_messages_starves_nobody(void **state)
{
	struct fixture *f = *state;
	struct poller p = {0};

	flood_arrived = other_turns = 0;
	hand_call(f->b, start_other, &p);
	for (int i = 0; i < FLOOD; i++) {
		flood[i].number = i;
		thread_send(f->a, &flood[i].msg, flood_arrives);
	}
	hand_run(f->r);
	assert_int_equal(flood_arrived, FLOOD);
	assert_true(other_turns >= 1);
	hand_call(f->b, stop_other, &p);
}

static void
message_to_self_waits_for_the_next_round(void **state)
{
	struct fixture *f = *state;
	struct hop h = {.to = f->a, .left = 3};

	thread_send(f->a, &h.msg, hop_on);
	reactor_poll_once(f->r);
	assert_int_equal(h.left, 2);
	hand_run(f->r);
	assert_int_equal(h.left, 0);
}

static void
free_self(struct msg *msg)
{
	note('f');
	memset(msg, 0xa5, sizeof(*msg));
	free(msg);
}

static void
message_is_freed_in_its_handler(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 4; i++) {
		struct msg *msg = malloc(sizeof(*msg));

		assert_non_null(msg);
		thread_send(i % 2 == 0 ? f->a : f->b, msg, free_self);
	}
	hand_run(f->r);
	assert_string_equal(trail, "ffff");
}

/* ---- Deferred calls and batch hooks ---- */

struct call {
	struct defer d;
	char what;
	struct call *then; /* deferred by this one */
	bool batch;
};

static void
call_runs(struct defer *d)
{
	struct call *c = CONTAINER_OF(d, struct call, d);
	size_t before = trail_len;

	note(c->what);
	if (c->then != NULL) {
		(c->then->batch ? thread_batch : thread_defer)(&c->then->d, call_runs);
	}
	/* Nothing ran inside thread_defer. */
	assert_int_equal(trail_len, before + 1);
}

static void
defer_some(void *ctx)
{
	struct call *c = ctx;

	for (int i = 0; i < 3; i++) {
		(c[i].batch ? thread_batch : thread_defer)(&c[i].d, call_runs);
	}
	note('|');
}

static void
deferred_calls_are_fifo_and_never_nested(void **state)
{
	struct fixture *f = *state;
	struct call last = {.what = '4'};
	struct call c[3] = {{.what = '1', .then = &last}, {.what = '2'}, {.what = '3'}};

	hand_call(f->a, defer_some, c);
	assert_string_equal(trail, "|1234");
}

static void
batch_hooks_run_at_the_end_of_the_turn(void **state)
{
	struct fixture *f = *state;
	struct call again = {.what = 'C', .batch = true};
	struct call from_hook = {.what = '2', .then = &again};
	struct call c[3] = {{.what = 'A', .batch = true, .then = &from_hook}, {.what = '1'}, {.what = 'B', .batch = true}};

	hand_call(f->a, defer_some, c);
	/* Deferred first, hooks then, what hooks deferred after all hooks, and hooks asked for by that last. */
	assert_string_equal(trail, "|1AB2C");
}

struct defers {
	struct msg msg;
	struct call *c;
};

static void
defer_in_message(struct msg *msg)
{
	defer_some(CONTAINER_OF(msg, struct defers, msg)->c);
}

static void
deferred_calls_run_between_messages(void **state)
{
	struct fixture *f = *state;
	struct letter x = {.what = 'x', .expect = f->a};
	struct call c[3] = {{.what = '1'}, {.what = '2'}, {.what = 'B', .batch = true}};
	struct defers defers = {.c = c};

	thread_send(f->a, &defers.msg, defer_in_message);
	thread_send(f->a, &x.msg, letter_arrives);
	hand_run(f->r);
	/* Both messages came in one turn. */
	assert_string_equal(trail, "|12xB");
}

/* Completes at once and submits again, for ever: the shape of a benchmark on a device that needs no time. */
struct loop {
	struct defer d;
	struct defer hook;
	bool hook_queued;
	bool stop;
	uint64_t count;
};

static void
loop_again(struct defer *d)
{
	struct loop *l = CONTAINER_OF(d, struct loop, d);

	l->count++;
	if (!l->stop) {
		thread_defer(&l->d, loop_again);
	}
}

static void
hook_again(struct defer *d)
{
	struct loop *l = CONTAINER_OF(d, struct loop, hook);

	l->count++;
	if (!l->stop) {
		thread_batch(&l->hook, hook_again);
	}
}

struct loop_start {
	struct msg msg;
	struct loop *l;
};

static void
start_loops(struct msg *msg)
{
	struct loop *l = CONTAINER_OF(msg, struct loop_start, msg)->l;

	thread_defer(&l->d, loop_again);
	thread_batch(&l->hook, hook_again);
}

static void
endless_completions_starve_nobody(void **state)
{
	struct fixture *f = *state;
	struct loop l = {0};
	struct loop_start start = {.l = &l};
	struct letter x = {.what = 'x', .expect = f->a}, y = {.what = 'y', .expect = f->b};
	uint64_t before;

	thread_send(f->a, &start.msg, start_loops);
	reactor_poll_once(f->r);
	before = l.count;
	assert_true(before > 0);
	thread_send(f->a, &x.msg, letter_arrives);
	thread_send(f->b, &y.msg, letter_arrives);
	reactor_poll_once(f->r);
	assert_true(strchr(trail, 'x') != NULL && strchr(trail, 'y') != NULL);
	/* Nothing but what is left over keeps the reactor awake, in every mode. */
	before = l.count;
	for (int i = 0; i < 10; i++) {
		assert_true(reactor_poll_wait(f->r, 1000000) > 0);
	}
	assert_true(l.count >= before + 20);
	l.stop = true;
	hand_run(f->r);
	before = l.count;
	hand_run(f->r);
	assert_int_equal(l.count, before);
}

/* ---- The end of a thread ---- */

static void
count_one(void *ctx, struct thread *t)
{
	++*(unsigned *)ctx;
}

static unsigned
thread_count(struct reactor *r)
{
	unsigned n = 0;

	reactor_for_each_thread(r, count_one, &n);
	return n;
}

static void
exit_now(void *ctx)
{
	thread_exit();
}

static void
thread_exits_after_its_turn(void **state)
{
	struct fixture *f = *state;
	struct letter x = {.what = 'x', .expect = f->b};

	assert_int_equal(thread_count(f->r), 2);
	hand_call(f->a, exit_now, NULL);
	assert_int_equal(thread_count(f->r), 1);
	thread_send(f->b, &x.msg, letter_arrives);
	hand_run(f->r);
	assert_string_equal(trail, "x");
}

static void
exit_with_words_to_self(void *ctx)
{
	struct letter *l = ctx;

	thread_send(thread_self(), &l[0].msg, letter_arrives);
	thread_exit();
	thread_send(thread_self(), &l[1].msg, letter_arrives);
}

static void
exiting_thread_gets_its_last_messages(void **state)
{
	struct fixture *f = *state;
	struct letter l[2] = {{.what = 'x', .expect = f->a}, {.what = 'y', .expect = f->a}};

	hand_call(f->a, exit_with_words_to_self, l);
	assert_string_equal(trail, "xy");
	assert_int_equal(thread_count(f->r), 1);
}

static struct timer exit_timer;

static void
exit_in_timer(struct timer *t)
{
	thread_exit();
}

static void
start_exit_timer(void *ctx)
{
	assert_int_equal(timer_start(&exit_timer, 10, exit_in_timer), 0);
}

static void
thread_exits_in_a_timer(void **state)
{
	struct fixture *f = *state;

	hand_call(f->a, start_exit_timer, NULL);
	hand_advance(f->r, 9);
	assert_int_equal(thread_count(f->r), 2);
	hand_advance(f->r, 1);
	assert_int_equal(thread_count(f->r), 1);
}

static void
look_at_self(void *ctx)
{
	struct fixture *f = ctx;
	struct thread_stats stats;

	assert_string_equal(thread_name(thread_self()), "a");
	assert_ptr_equal(thread_reactor(thread_self()), f->r);
	assert_int_not_equal(thread_id(f->a), thread_id(f->b));
	thread_get_stats(&stats);
	assert_int_equal(stats.active_pollers + stats.timed_pollers + stats.armed_pollers, 0);
	assert_int_equal(reactor_now_ns(), clock_now_ns());
}

static void
thread_knows_itself(void **state)
{
	struct fixture *f = *state;

	hand_call(f->a, look_at_self, f);
}

#define IN_MODES(f) HAND_IN_MODES(f, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		IN_MODES(messages_arrive_in_order),
		IN_MODES(a_flood_of_messages_starves_nobody),
		IN_MODES(message_to_self_waits_for_the_next_round),
		IN_MODES(message_is_freed_in_its_handler),
		IN_MODES(deferred_calls_are_fifo_and_never_nested),
		IN_MODES(batch_hooks_run_at_the_end_of_the_turn),
		IN_MODES(deferred_calls_run_between_messages),
		IN_MODES(endless_completions_starve_nobody),
		IN_MODES(thread_exits_after_its_turn),
		IN_MODES(exiting_thread_gets_its_last_messages),
		IN_MODES(thread_exits_in_a_timer),
		IN_MODES(thread_knows_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
