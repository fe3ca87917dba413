/* SPDX-License-Identifier: BSD-3-Clause */
/* Threads that move between reactors: all that belongs to them comes along, nothing that is sent or signalled is lost. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "event/channel.h"
#include "testkit/hand.h"

#define WAIT_MS 60000

/* ---- By hand: two reactors, the thread that asks, and the one that moves ---- */

static struct reactor *a, *b;
static struct reactor *current_on; /* the one that the test polls */
static struct thread *asker, *t;

static int
setup(void **state)
{
	enum reactor_mode mode = *(const enum reactor_mode *)*state;

	hand_clock_start();
	a = hand_reactor(mode);
	b = hand_reactor(mode);
	asker = thread_create("asker", a);
	t = thread_create("t", a);
	return 0;
}

static int
teardown(void **state)
{
	hand_free(a);
	hand_free(b);
	hand_clock_stop();
	return 0;
}

static void
run_both(void)
{
	while (hand_run(a) + hand_run(b) > 0) {
	}
}

static struct thread_move move;
static int move_status;

static void
moved(struct thread_move *m, int status)
{
	CHECK(thread_self() == asker);
	move_status = status;
}

static void
start_move(void *ctx)
{
	thread_move(&move, t, ctx, moved);
}

static void
move_to(struct reactor *to)
{
	move_status = 1;
	hand_call(asker, start_move, to);
	run_both();
}

static struct thread *seen_on;
static struct reactor *seen_reactor;

static void
see(void *ctx)
{
	seen_on = thread_self();
	seen_reactor = thread_reactor(seen_on);
}

static int fired;

static void
fire(struct timer *timer)
{
	CHECK(thread_self() == t);
	fired++;
}

static int polled;
static int pending;

static int
poll_pending(struct poller *p)
{
	int n = pending;

	CHECK(thread_self() == t);
	polled++;
	pending = 0;
	return n;
}

static bool
arm_pending(struct poller *p)
{
	return pending > 0;
}

static const struct poller_ops ops = {.name = "source", .poll = poll_pending, .arm = arm_pending};

static char received[8];
static size_t received_bytes;

static void
on_readable(struct watch *w, uint32_t events)
{
	ssize_t n = read(w->fd, received, sizeof(received));

	CHECK(thread_self() == t && n > 0);
	received_bytes = (size_t)n;
}

struct belongings {
	struct timer timer, later;
	struct poller source, timed;
	struct watch watch;
	int fd;
	int pair[2];
};

static void
start_all(void *ctx)
{
	struct belongings *x = ctx;

	assert_int_equal(timer_start(&x->timer, 1000, fire), 0);
	assert_int_equal(timer_start(&x->later, 3600000000, fire), 0);
	assert_int_equal(poller_start(&x->source, &ops, x->fd), 0);
	assert_int_equal(poller_start_timed(&x->timed, &ops, 500000), 0);
	assert_int_equal(watch_start(&x->watch, x->pair[0], EPOLLIN, on_readable), 0);
}

static void
stop_all(void *ctx)
{
	struct belongings *x = ctx;

	timer_stop(&x->timer);
	timer_stop(&x->later);
	poller_stop(&x->source);
	poller_stop(&x->timed);
	watch_stop(&x->watch);
}

static void
all_that_belongs_to_a_thread_moves_with_it(void **state)
{
	struct belongings x = {.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
	uint64_t one = 1;
	int before;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, x.pair), 0);
	hand_call(t, start_all, &x);
	hand_advance(a, 500);
	move_to(b);
	assert_int_equal(move_status, 0);
	assert_ptr_equal(thread_reactor(t), b);
	hand_call(t, see, NULL);
	assert_ptr_equal(seen_on, t);
	assert_ptr_equal(seen_reactor, b);

	/* The timers: at the time that was asked for, there. */
	fired = 0;
	hand_advance(b, 499);
	assert_int_equal(fired, 0);
	assert_int_equal(reactor_next_timer_ns(a), UINT64_MAX);
	hand_advance(b, 1);
	assert_int_equal(fired, 1);

	/* The descriptors: once each. */
	pending = 3;
	assert_int_equal(write(x.fd, &one, sizeof(one)), sizeof(one));
	assert_int_equal(write(x.pair[1], "hello", 5), 5);
	before = polled;
	received_bytes = 0;
	hand_run(a);
	assert_int_equal(pending, 3);
	assert_int_equal(received_bytes, 0);
	assert_int_equal(polled, before);
	hand_run(b);
	assert_int_equal(pending, 0);
	assert_int_equal(received_bytes, 5);

	move_to(a);
	assert_int_equal(move_status, 0);
	hand_call(t, stop_all, &x);
	close(x.fd);
	close(x.pair[0]);
	close(x.pair[1]);
}

static int arrived;

static void
arrive_msg(struct msg *msg)
{
	CHECK(thread_self() == t);
	arrived++;
}

/* What comes while the thread is on no reactor: events stay in the descriptor, messages in its inbox. */
static void
what_comes_on_the_way_is_there_on_arrival(void **state)
{
	struct belongings x = {.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
	struct msg msg;
	uint64_t one = 1;

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, x.pair), 0);
	hand_call(t, start_all, &x);
	hand_advance(a, 10000); /* armed, where the mode arms */
	move_status = 1;
	hand_call(asker, start_move, b);
	hand_run(a); /* it has left, and b did nothing yet */
	assert_ptr_equal(thread_reactor(t), b);
	arrived = 0;
	pending = 2;
	received_bytes = 0;
	thread_send(t, &msg, arrive_msg);
	assert_int_equal(write(x.fd, &one, sizeof(one)), sizeof(one));
	assert_int_equal(write(x.pair[1], "hello", 5), 5);
	hand_run(a);
	assert_int_equal(arrived, 0);
	assert_int_equal(move_status, 1);
	run_both();
	assert_int_equal(move_status, 0);
	assert_int_equal(arrived, 1);
	assert_int_equal(pending, 0);
	assert_int_equal(received_bytes, 5);
	hand_call(t, stop_all, &x);
	close(x.fd);
	close(x.pair[0]);
	close(x.pair[1]);
}

static void
a_move_to_where_it_is_does_nothing(void **state)
{
	move_to(a);
	assert_int_equal(move_status, 0);
	assert_ptr_equal(thread_reactor(t), a);
}

static struct thread_move second;
static int second_status;

static void
second_moved(struct thread_move *m, int status)
{
	second_status = status;
}

static void
start_two(void *ctx)
{
	thread_move(&move, t, b, moved);
	thread_move(&second, t, b, second_moved);
}

static void
exit_msg(struct msg *msg)
{
	thread_exit();
}

static void
exit_then_ask(void *ctx)
{
	static struct msg msg;

	/* What was sent before the end is still delivered: the question comes after the exit, in the same turn. */
	thread_send(t, &msg, exit_msg);
	start_move(b);
}

static void
a_second_move_and_a_thread_that_exits_are_refused(void **state)
{
	move_status = second_status = 1;
	hand_call(asker, start_two, NULL);
	run_both();
	assert_int_equal(move_status, 0);
	assert_int_equal(second_status, -EBUSY);

	move_status = 1;
	hand_call(asker, exit_then_ask, NULL);
	run_both();
	assert_int_equal(move_status, -EBUSY);
}

/* ---- Channels that belong to a system thread ---- */

struct tied {
	struct channel channel;
	struct reactor *on;
	bool busy;
	bool leaving;
	struct defer batch;
	int batches;
};

static struct device device;
static int fail_on_arrival;
static struct tied *tied;

static int
tied_create(struct device *dev, struct channel *ch)
{
	tied = CONTAINER_OF(ch, struct tied, channel);
	tied->on = thread_reactor(thread_self());
	return 0;
}

static void
tied_destroy(struct device *dev, struct channel *ch)
{
	tied = NULL;
}

static void
tied_batch(struct defer *d)
{
	struct tied *x = CONTAINER_OF(d, struct tied, batch);

	CHECK(x->on == thread_reactor(thread_self()));
	x->batches++;
}

static void
tied_leave(struct device *dev, struct channel *ch)
{
	struct tied *x = CONTAINER_OF(ch, struct tied, channel);

	CHECK(x->on == thread_reactor(thread_self()));
	thread_batch(&x->batch, tied_batch);
	if (x->busy) {
		x->leaving = true;
	} else {
		channel_left(ch);
	}
}

static int
tied_arrive(struct device *dev, struct channel *ch)
{
	struct tied *x = CONTAINER_OF(ch, struct tied, channel);

	if (fail_on_arrival > 0) {
		fail_on_arrival--;
		return -ENOMEM;
	}
	x->on = thread_reactor(thread_self());
	return 0;
}

static const struct device_ops tied_ops = {
	.channel_create = tied_create,
	.channel_destroy = tied_destroy,
	.channel_leave = tied_leave,
	.channel_arrive = tied_arrive,
};

static void
get_tied(void *ctx)
{
	assert_non_null(channel_get(&device, NULL));
}

static void
put_tied(void *ctx)
{
	channel_put(&tied->channel);
}

static void
tied_is_free(void *ctx)
{
	tied->busy = false;
	if (tied->leaving) {
		tied->leaving = false;
		channel_left(&tied->channel);
	}
}

static void
a_thread_waits_for_its_channels_to_leave(void **state)
{
	device_register(&device, "tied", &tied_ops, sizeof(struct tied));
	hand_call(t, get_tied, NULL);
	tied->busy = true;
	move_to(b);
	assert_int_equal(move_status, 1); /* what is in flight holds it */
	assert_ptr_equal(thread_reactor(t), a);
	hand_call(t, see, NULL);
	assert_ptr_equal(seen_reactor, a);
	hand_call(t, tied_is_free, NULL);
	run_both();
	assert_int_equal(move_status, 0);
	assert_ptr_equal(thread_reactor(t), b);
	assert_ptr_equal(tied->on, b);
	assert_int_equal(tied->batches, 1);
	hand_call(t, put_tied, NULL);
	device_unregister(&device);
}

/* Its last channel leaves while one of its events is handled, and another was fetched by the same look at epoll. */
struct reader {
	struct watch watch;
	int pair[2];
	struct reactor *on; /* that ran its handler */
};

static struct reader readers[2];

static void
on_first_or_second(struct watch *w, uint32_t events)
{
	struct reader *x = CONTAINER_OF(w, struct reader, watch);
	char c;

	CHECK(read(w->fd, &c, 1) == 1);
	x->on = current_on;
	if (tied->busy) {
		tied_is_free(NULL);
	}
}

static void
start_readers(void *ctx)
{
	for (int i = 0; i < 2; i++) {
		assert_int_equal(watch_start(&readers[i].watch, readers[i].pair[0], EPOLLIN, on_first_or_second), 0);
	}
}

static void
stop_readers(void *ctx)
{
	for (int i = 0; i < 2; i++) {
		watch_stop(&readers[i].watch);
		close(readers[i].pair[0]);
		close(readers[i].pair[1]);
	}
}

static void
an_event_fetched_before_the_move_is_handled_after_it(void **state)
{
	device_register(&device, "tied", &tied_ops, sizeof(struct tied));
	hand_call(t, get_tied, NULL);
	memset(readers, 0, sizeof(readers));
	for (int i = 0; i < 2; i++) {
		assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, readers[i].pair), 0);
	}
	hand_call(t, start_readers, NULL);
	tied->busy = true;
	move_to(b);
	assert_int_equal(move_status, 1);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(write(readers[i].pair[1], "x", 1), 1);
	}
	current_on = a;
	hand_run(a);
	current_on = b;
	run_both();
	assert_int_equal(move_status, 0);
	assert_true((readers[0].on == a && readers[1].on == b) || (readers[0].on == b && readers[1].on == a));
	hand_call(t, stop_readers, NULL);
	hand_call(t, put_tied, NULL);
	device_unregister(&device);
}

static void
a_channel_that_goes_away_does_not_hold_a_move(void **state)
{
	device_register(&device, "tied", &tied_ops, sizeof(struct tied));
	hand_call(t, get_tied, NULL);
	tied->busy = true;
	move_to(b);
	assert_int_equal(move_status, 1);
	hand_call(t, put_tied, NULL);
	run_both();
	assert_int_equal(move_status, 0);
	assert_ptr_equal(thread_reactor(t), b);
	device_unregister(&device);
}

static void
a_thread_goes_back_when_a_channel_cannot_arrive(void **state)
{
	device_register(&device, "tied", &tied_ops, sizeof(struct tied));
	hand_call(t, get_tied, NULL);
	fail_on_arrival = 1;
	move_to(b);
	assert_int_equal(move_status, -ENOMEM);
	assert_ptr_equal(thread_reactor(t), a);
	assert_ptr_equal(tied->on, a);
	/* The next one is a new move. */
	move_to(b);
	assert_int_equal(move_status, 0);
	assert_ptr_equal(tied->on, b);
	hand_call(t, put_tied, NULL);
	device_unregister(&device);
}

/* ---- The end in the first turn on the new reactor ---- */

static struct poller leaver;

static int
leave_on_b(struct poller *p)
{
	if (thread_reactor(thread_self()) != b) {
		return 0;
	}
	poller_stop(p);
	thread_exit();
	return 1;
}

static const struct poller_ops leaver_ops = {.name = "leaver", .poll = leave_on_b};

static void
start_leaver(void *ctx)
{
	assert_int_equal(poller_start(&leaver, &leaver_ops, -1), 0);
}

static void
count_thread(void *ctx, struct thread *thread)
{
	++*(int *)ctx;
}

static void
a_thread_that_exits_on_arrival_is_freed(void **state)
{
	int left = 0;

	memset(&leaver, 0, sizeof(leaver));
	hand_call(t, start_leaver, NULL);
	move_to(b);
	assert_int_equal(move_status, 0);
	reactor_for_each_thread(b, count_thread, &left);
	assert_int_equal(left, 0);
}

/* ---- On system threads ---- */

#define REACTORS 3
#define MOVES_MIN 100

static void
sleep_us(unsigned us)
{
	struct timespec ts = {.tv_nsec = (long)us * 1000};

	nanosleep(&ts, NULL);
}

/* A thread with a ring whose producer is asked for kicks or not, a timer that is always running, and messages. */
struct nomad {
	struct thread *thread;
	struct poller p;
	struct timer timer;
	int fd;
	_Atomic bool wanted;
	_Atomic uint64_t produced;
	_Atomic uint64_t consumed;
	_Atomic uint64_t messages;
	_Atomic uint64_t ticks;
	_Atomic bool stopped;
	struct msg msg;
	struct thread_move move;
	_Atomic uint64_t moves;
};

static struct nomad nomad;
static struct reactor *reactors[REACTORS];
static struct thread *mover;
static _Atomic bool moving;

static int
consume(struct poller *p)
{
	uint64_t have = atomic_load_explicit(&nomad.produced, memory_order_acquire);
	uint64_t old = atomic_load_explicit(&nomad.consumed, memory_order_relaxed);

	CHECK(thread_self() == nomad.thread && have >= old);
	atomic_store_explicit(&nomad.consumed, have, memory_order_release);
	return (int)(have - old);
}

static bool
want(struct poller *p)
{
	atomic_store(&nomad.wanted, true);
	return atomic_load(&nomad.produced) != atomic_load(&nomad.consumed);
}

static void
want_not(struct poller *p)
{
	atomic_store(&nomad.wanted, false);
}

static const struct poller_ops nomad_ops = {.name = "nomad", .poll = consume, .arm = want, .disarm = want_not};

static void
tick(struct timer *timer)
{
	CHECK(thread_self() == nomad.thread);
	atomic_fetch_add(&nomad.ticks, 1);
	CHECK(timer_start(timer, 100, tick) == 0);
}

static void
start_nomad(struct msg *msg)
{
	CHECK(poller_start(&nomad.p, &nomad_ops, nomad.fd) == 0);
	CHECK(timer_start(&nomad.timer, 100, tick) == 0);
}

static void
stop_nomad(struct msg *msg)
{
	poller_stop(&nomad.p);
	timer_stop(&nomad.timer);
	atomic_store(&nomad.stopped, true);
}

static void
take_message(struct msg *msg)
{
	CHECK(thread_self() == nomad.thread);
	atomic_fetch_add(&nomad.messages, 1);
}

static void
on_moved(struct thread_move *m, int status)
{
	static unsigned seed = 17;

	CHECK(status == 0 && thread_self() == mover);
	atomic_fetch_add(&nomad.moves, 1);
	if (atomic_load(&moving)) {
		thread_move(m, nomad.thread, reactors[(unsigned)rand_r(&seed) % REACTORS], on_moved);
	} else {
		atomic_store(&nomad.stopped, true);
	}
}

static void
start_moving(struct msg *msg)
{
	thread_move(&nomad.move, nomad.thread, reactors[1], on_moved);
}

static void
wait_until(_Atomic uint64_t *value, uint64_t at_least)
{
	uint64_t limit = clock_now_ns() + WAIT_MS * NS_PER_MS;

	for (unsigned i = 0; atomic_load(value) < at_least; i++) {
		assert_true(clock_now_ns() < limit);
		if (i > 200) {
			sched_yield();
		}
	}
}

static void
wait_stopped(void)
{
	uint64_t limit = clock_now_ns() + WAIT_MS * NS_PER_MS;

	while (!atomic_load(&nomad.stopped)) {
		assert_true(clock_now_ns() < limit);
		sleep_us(50);
	}
	atomic_store(&nomad.stopped, false);
}

static void
nothing_is_lost_on_a_thread_that_moves_all_the_time(void **state)
{
	enum reactor_mode mode = *(const enum reactor_mode *)*state;
	uint64_t end = clock_now_ns() + NS_PER_S, n = 0, ticks, one = 1;
	struct msg start_msg, msg;
	unsigned seed = 3;

	memset(&nomad, 0, sizeof(nomad));
	nomad.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	for (int i = 0; i < REACTORS; i++) {
		reactors[i] = hand_reactor(mode);
	}
	mover = thread_create("mover", reactors[0]);
	nomad.thread = thread_create("nomad", reactors[0]);
	for (int i = 0; i < REACTORS; i++) {
		assert_int_equal(reactor_start(reactors[i], NULL), 0);
	}
	atomic_store(&moving, true);
	thread_send(nomad.thread, &nomad.msg, start_nomad);
	thread_send(mover, &start_msg, start_moving);
	/* Each round is bounded by its waits. */
	while (clock_now_ns() < end || atomic_load(&nomad.moves) <= MOVES_MIN) {
		atomic_fetch_add(&nomad.produced, 1);
		n++;
		if (atomic_load(&nomad.wanted)) {
			assert_int_equal(write(nomad.fd, &one, sizeof(one)), sizeof(one));
		}
		thread_send(nomad.thread, &msg, take_message);
		wait_until(&nomad.consumed, n);
		wait_until(&nomad.messages, n);
		if (n % 16 == 0) {
			sleep_us((unsigned)rand_r(&seed) % 200);
		}
	}
	ticks = atomic_load(&nomad.ticks);
	wait_until(&nomad.ticks, ticks + 3);
	atomic_store(&moving, false);
	wait_stopped();
	thread_send(nomad.thread, &nomad.msg, stop_nomad);
	wait_stopped();
	for (int i = 0; i < REACTORS; i++) {
		reactor_stop(reactors[i]);
	}
	for (int i = 0; i < REACTORS; i++) {
		reactor_join(reactors[i]);
	}
	for (int i = 0; i < REACTORS; i++) {
		hand_free(reactors[i]);
	}
	close(nomad.fd);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		HAND_IN_MODES(all_that_belongs_to_a_thread_moves_with_it, setup, teardown),
		HAND_IN_MODES(what_comes_on_the_way_is_there_on_arrival, setup, teardown),
		HAND_IN_MODES(a_move_to_where_it_is_does_nothing, setup, teardown),
		HAND_IN_MODES(a_second_move_and_a_thread_that_exits_are_refused, setup, teardown),
		HAND_IN_MODES(a_thread_waits_for_its_channels_to_leave, setup, teardown),
		HAND_IN_MODES(an_event_fetched_before_the_move_is_handled_after_it, setup, teardown),
		HAND_IN_MODES(a_channel_that_goes_away_does_not_hold_a_move, setup, teardown),
		HAND_IN_MODES(a_thread_goes_back_when_a_channel_cannot_arrive, setup, teardown),
		HAND_IN_MODES(a_thread_that_exits_on_arrival_is_freed, setup, teardown),
		HAND_IN_MODES(nothing_is_lost_on_a_thread_that_moves_all_the_time, NULL, NULL),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
