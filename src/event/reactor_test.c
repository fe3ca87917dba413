/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reactors on system threads of their own: crossings, sleeping and waking, idleness, stopping. In every mode.
 * Each loop is bounded in time; what must happen has WAIT_MS to do so.
 */
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "testkit/hand.h"

#define WAIT_MS 60000
#define RUN_NS (NS_PER_S / 4)
#define EVENTS_MIN 100 /* on a machine that stands still meanwhile */

struct fixture {
	enum reactor_mode mode;
	struct reactor *r;
	struct thread *t;
};

static struct fixture fx;

static void
sleep_us(unsigned us)
{
	struct timespec ts = {.tv_nsec = (long)us * 1000};

	nanosleep(&ts, NULL);
}

/* Answers come in a microsecond, if the machine has a processor to spare. */
static void
be_patient(unsigned tries)
{
	if (tries > 200) {
		sched_yield();
	}
}

static void
wait_for(_Atomic uint64_t *value, uint64_t at_least)
{
	uint64_t end = clock_now_ns() + WAIT_MS * NS_PER_MS;

	while (atomic_load(value) < at_least) {
		if (clock_now_ns() >= end) {
			fail_msg("%llu of %llu events arrived", (unsigned long long)atomic_load(value),
				 (unsigned long long)at_least);
		}
		sleep_us(50);
	}
}

static int
setup(void **state)
{
	fx.mode = *(const enum reactor_mode *)*state;
	fx.r = hand_reactor(fx.mode);
	fx.t = thread_create("t", fx.r);
	return reactor_start(fx.r, NULL);
}

static int
teardown(void **state)
{
	reactor_stop(fx.r);
	reactor_join(fx.r);
	hand_free(fx.r);
	return 0;
}

/* Runs fn(ctx) on t, waits for it. */
struct call {
	struct msg msg;
	void (*fn)(void *ctx);
	void *ctx;
	_Atomic uint64_t called;
};

static void
call_msg(struct msg *msg)
{
	struct call *c = CONTAINER_OF(msg, struct call, msg);

	c->fn(c->ctx);
	atomic_store(&c->called, 1);
}

static void
call_on(struct thread *t, void (*fn)(void *ctx), void *ctx)
{
	struct call c = {.fn = fn, .ctx = ctx};

	thread_send(t, &c.msg, call_msg);
	wait_for(&c.called, 1);
}

static uint64_t
wakeups(struct reactor *r)
{
	struct reactor_stats stats;

	reactor_get_stats(r, &stats);
	return stats.wakeups;
}

/* ---- Messages from many system threads ---- */

#define SENDERS 3
#define SENDER_MSGS 64

struct sender {
	pthread_t pthread;
	struct {
		struct msg msg;
		struct sender *sender;
		_Atomic bool free; /* back with its sender */
		uint64_t number;
	} m[SENDER_MSGS];
	uint64_t sent;
	uint64_t received; /* on t */
};

static struct sender senders[SENDERS];
static _Atomic uint64_t received;

static void
receive(struct msg *msg)
{
	__typeof__(&senders[0].m[0]) m = CONTAINER_OF(msg, __typeof__(senders[0].m[0]), msg);

	/* In the order of their sender. (An assertion of cmocka would jump off another system thread's stack.) */
	CHECK(m->number == m->sender->received);
	m->sender->received++;
	atomic_fetch_add_explicit(&received, 1, memory_order_relaxed);
	atomic_store_explicit(&m->free, true, memory_order_release);
}

static void *
send_many(void *arg)
{
	struct sender *s = arg;
	uint64_t end = clock_now_ns() + RUN_NS;
	unsigned seed = (unsigned)(s - senders) + 1;

	for (int i = 0; i < SENDER_MSGS; i++) {
		s->m[i].sender = s;
		atomic_store(&s->m[i].free, true);
	}
	while (clock_now_ns() < end || s->sent < EVENTS_MIN) {
		__typeof__(&s->m[0]) m = &s->m[s->sent % SENDER_MSGS];

		if (!atomic_load_explicit(&m->free, memory_order_acquire)) {
			sched_yield();
			continue;
		}
		atomic_store_explicit(&m->free, false, memory_order_relaxed);
		m->number = s->sent++;
		thread_send(fx.t, &m->msg, receive);
		/* Now and then long enough for the reactor to fall asleep, at every point of its way there. */
		if (s->sent % 128 == 0) {
			sleep_us((unsigned)rand_r(&seed) % 200);
		}
	}
	return NULL;
}

static void
messages_of_many_senders_all_arrive_in_order(void **state)
{
	uint64_t sum = 0;

	memset(senders, 0, sizeof(senders));
	atomic_store(&received, 0);
	for (int i = 0; i < SENDERS; i++) {
		assert_int_equal(pthread_create(&senders[i].pthread, NULL, send_many, &senders[i]), 0);
	}
	for (int i = 0; i < SENDERS; i++) {
		pthread_join(senders[i].pthread, NULL);
		sum += senders[i].sent;
	}
	wait_for(&received, sum);
	assert_int_equal(atomic_load(&received), sum);
}

/* One message at a time, each sent as the reactor is falling asleep. */
static _Atomic uint64_t pings;

static void
ping(struct msg *msg)
{
	atomic_fetch_add(&pings, 1);
}

static void
no_message_misses_a_reactor_falling_asleep(void **state)
{
	uint64_t end = clock_now_ns() + RUN_NS, n = 0;
	struct msg msg;
	unsigned seed = 7;

	atomic_store(&pings, 0);
	while (clock_now_ns() < end || n < EVENTS_MIN) {
		uint64_t limit = clock_now_ns() + WAIT_MS * NS_PER_MS;

		thread_send(fx.t, &msg, ping);
		n++;
		for (unsigned i = 0; atomic_load(&pings) < n; i++) {
			assert_true(clock_now_ns() < limit);
			be_patient(i);
		}
		for (int spin = rand_r(&seed) % 2000; spin > 0; spin--) {
			atomic_load_explicit(&pings, memory_order_relaxed);
		}
	}
}

/* Two reactors play ball. */
struct ball {
	struct msg msg;
	struct thread *to[2];
	uint64_t left;
	_Atomic uint64_t done;
};

static void
bounce(struct msg *msg)
{
	struct ball *b = CONTAINER_OF(msg, struct ball, msg);

	if (--b->left == 0) {
		atomic_store(&b->done, 1);
		return;
	}
	CHECK(thread_self() == b->to[(b->left + 1) % 2]);
	thread_send(b->to[b->left % 2], &b->msg, bounce);
}

static void
nothing(void *ctx)
{
}

static void
messages_go_to_and_fro(void **state)
{
	struct reactor *other = hand_reactor(fx.mode);
	struct ball b = {.to = {fx.t, thread_create("other", other)}, .left = 4000};

	assert_int_equal(reactor_start(other, NULL), 0);
	thread_send(b.to[0], &b.msg, bounce);
	wait_for(&b.done, 1);
	call_on(fx.t, nothing, NULL); /* it may still have been about to wake the other one */
	reactor_stop(other);
	reactor_join(other);
	hand_free(other);
}

/* ---- Pollers on descriptors ---- */

/*
 * A producer in shared memory, as a guest is: it raises `produced` and writes the eventfd only while it is
 * asked to (`wanted`), like a virtqueue with notifications suppressed.
 */
struct source {
	struct poller p;
	int fd;
	_Atomic bool wanted;
	_Atomic uint64_t produced;
	_Atomic uint64_t consumed;
	bool always; /* signals every event: no arm needed */
};

static int
consume(struct poller *p)
{
	struct source *s = CONTAINER_OF(p, struct source, p);
	uint64_t have = atomic_load_explicit(&s->produced, memory_order_acquire);
	uint64_t old = atomic_load_explicit(&s->consumed, memory_order_relaxed);

	atomic_store_explicit(&s->consumed, have, memory_order_release);
	return (int)(have - old);
}

static bool
want(struct poller *p)
{
	struct source *s = CONTAINER_OF(p, struct source, p);

	/* Pairs with produce(). */
	atomic_store(&s->wanted, true);
	return atomic_load(&s->produced) != atomic_load(&s->consumed);
}

static void
want_not(struct poller *p)
{
	atomic_store(&CONTAINER_OF(p, struct source, p)->wanted, false);
}

static void
produce(struct source *s)
{
	uint64_t one = 1;

	atomic_fetch_add(&s->produced, 1);
	if (s->always || atomic_load(&s->wanted)) {
		assert_int_equal(write(s->fd, &one, sizeof(one)), sizeof(one));
	}
}

static const struct poller_ops consume_ops = {.name = "consume", .poll = consume, .arm = want, .disarm = want_not};
static const struct poller_ops signalled_ops = {.name = "signalled", .poll = consume};

static void
start_source(void *ctx)
{
	struct source *s = ctx;

	CHECK(poller_start(&s->p, s->always ? &signalled_ops : &consume_ops, s->fd) == 0);
}

static void
stop_source(void *ctx)
{
	poller_stop(&((struct source *)ctx)->p);
}

static void
check_events(bool always)
{
	struct source s = {.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .always = always};
	uint64_t end = clock_now_ns() + RUN_NS, n = 0;
	unsigned seed = 3;

	call_on(fx.t, start_source, &s);
	while (clock_now_ns() < end || n < EVENTS_MIN) {
		uint64_t limit = clock_now_ns() + WAIT_MS * NS_PER_MS;

		produce(&s);
		n++;
		for (unsigned i = 0; atomic_load(&s.consumed) < n; i++) {
			assert_true(clock_now_ns() < limit);
			be_patient(i);
		}
		for (int spin = rand_r(&seed) % 1000; spin > 0; spin--) {
			atomic_load_explicit(&s.consumed, memory_order_relaxed);
		}
		if (n % 64 == 0) {
			sleep_us((unsigned)rand_r(&seed) % 300); /* adaptive: about the time it gives up polling */
		}
	}
	call_on(fx.t, stop_source, &s);
	close(s.fd);
}

static void
no_event_of_an_armed_source_is_lost(void **state)
{
	check_events(false);
}

static void
no_event_of_a_signalled_source_is_lost(void **state)
{
	check_events(true);
}

/* ---- Idleness ---- */

static void
far_timer_fires(struct timer *t)
{
	abort();
}

static void
start_far_timer(void *ctx)
{
	CHECK(timer_start(ctx, UINT64_C(3600) * 1000000, far_timer_fires) == 0);
}

static void
stop_far_timer(void *ctx)
{
	timer_stop(ctx);
}

/* It does not wake up, and is not scheduled, for not a nanosecond; one that polls may be. */
static bool
sleeps_for(unsigned us, clockid_t cpu_clock)
{
	uint64_t before = wakeups(fx.r);
	struct timespec cpu[2];

	assert_int_equal(clock_gettime(cpu_clock, &cpu[0]), 0);
	sleep_us(us);
	assert_int_equal(clock_gettime(cpu_clock, &cpu[1]), 0);
	return wakeups(fx.r) == before && (fx.mode == REACTOR_POLL || memcmp(&cpu[0], &cpu[1], sizeof(cpu[0])) == 0);
}

static void
idle_reactor_does_not_wake(void **state)
{
	struct source s = {.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
	struct timer far = {0};
	struct reactor_stats stats;
	bool asleep = false;

	call_on(fx.t, start_source, &s);
	call_on(fx.t, start_far_timer, &far);
	sleep_us(20000);
	reactor_get_stats(fx.r, &stats);
	assert_true(stats.tid > 0 && stats.tid != gettid());
	/* On a busy machine what went before may take its time to end. */
	for (unsigned tries = 0; tries < 20 && !asleep; tries++) {
		asleep = sleeps_for(300000, (clockid_t)((~(unsigned)stats.tid << 3) | 6)); /* CLOCK_THREAD_CPUTIME_ID of tid */
	}
	assert_true(asleep);
	call_on(fx.t, stop_far_timer, &far);
	call_on(fx.t, stop_source, &s);
	close(s.fd);
}

static _Atomic uint64_t turns;

static int
spin(struct poller *p)
{
	atomic_store_explicit(&turns, atomic_load_explicit(&turns, memory_order_relaxed) + 1, memory_order_relaxed);
	return 0;
}

static const struct poller_ops spin_ops = {.name = "spin", .poll = spin};

static void
start_spin(void *ctx)
{
	CHECK(poller_start(ctx, &spin_ops, -1) == 0);
}

static void
stop_spin(void *ctx)
{
	poller_stop(ctx);
}

static void
poller_that_cannot_be_woken_keeps_its_reactor_awake(void **state)
{
	struct poller p = {0};
	uint64_t before, woken;

	call_on(fx.t, start_spin, &p);
	before = atomic_load(&turns);
	woken = wakeups(fx.r);
	wait_for(&turns, before + 1000);
	assert_int_equal(wakeups(fx.r), woken);
	call_on(fx.t, stop_spin, &p);
}

/* ---- Time ---- */

struct tick {
	struct poller p;
	uint64_t begin_ns;
	_Atomic uint64_t count;
};

static int
tick(struct poller *p)
{
	atomic_fetch_add(&CONTAINER_OF(p, struct tick, p)->count, 1);
	return 1;
}

static const struct poller_ops tick_ops = {.name = "tick", .poll = tick};

static void
start_tick(void *ctx)
{
	struct tick *t = ctx;

	t->begin_ns = clock_now_ns();
	CHECK(poller_start_timed(&t->p, &tick_ops, 2000) == 0);
}

static void
stop_tick(void *ctx)
{
	poller_stop(&((struct tick *)ctx)->p);
}

static void
periods_keep_real_time(void **state)
{
	struct tick t = {0};
	uint64_t took, woken = wakeups(fx.r);

	call_on(fx.t, start_tick, &t);
	wait_for(&t.count, 50);
	took = clock_now_ns() - t.begin_ns;
	call_on(fx.t, stop_tick, &t);
	/* Never early; late only as the machine is. */
	assert_true(took >= 100 * NS_PER_MS);
	/* And asleep in between. */
	if (fx.mode != REACTOR_POLL) {
		assert_true(wakeups(fx.r) - woken <= atomic_load(&t.count) + 5);
	}
}

/* ---- Statistics ---- */

static void
work_5_ms(void *ctx)
{
	uint64_t end = clock_now_ns() + 5 * NS_PER_MS;

	while (clock_now_ns() < end) {
	}
}

static void
busy_and_idle_time_add_up(void **state)
{
	struct reactor_stats a, b;
	uint64_t begin = clock_now_ns(), end = begin + WAIT_MS * NS_PER_MS;

	call_on(fx.t, work_5_ms, NULL);
	reactor_get_stats(fx.r, &a);
	for (int i = 0; i < 5; i++) {
		call_on(fx.t, work_5_ms, NULL);
		sleep_us(5000);
	}
	call_on(fx.t, work_5_ms, NULL);
	/* A turn is counted when it has ended. */
	do {
		sleep_us(2000);
		reactor_get_stats(fx.r, &b);
	} while (b.busy_ns - a.busy_ns < 30 * NS_PER_MS && clock_now_ns() < end);
	assert_true(b.busy_ns - a.busy_ns >= 30 * NS_PER_MS);
	assert_true(b.idle_ns > a.idle_ns);
	assert_true(b.busy_ns - a.busy_ns <= clock_now_ns() - begin);
	assert_int_equal(b.mode, fx.mode);
}

/* ---- Stopping ---- */

static void
stop_wakes_a_sleeping_reactor(void **state)
{
	uint64_t begin;

	sleep_us(5000);
	begin = clock_now_ns();
	reactor_stop(fx.r);
	reactor_join(fx.r);
	assert_true(clock_now_ns() - begin < WAIT_MS * NS_PER_MS);
}

static void
messages_sent_before_stop_arrive(void **state)
{
	for (uint64_t i = 0; i < 200; i++) {
		struct reactor *r = hand_reactor(fx.mode);
		struct thread *t = thread_create("x", r);
		struct msg msg;

		assert_int_equal(reactor_start(r, NULL), 0);
		if (i % 2 == 0) {
			sleep_us(100);
		}
		atomic_store(&pings, 0);
		thread_send(t, &msg, ping);
		reactor_stop(r);
		reactor_join(r);
		assert_int_equal(atomic_load(&pings), 1);
		hand_free(r);
	}
}

/* ---- A system that does not know epoll_pwait2 ---- */

static int
forbid_epoll_pwait2(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_epoll_pwait2, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = ARRAY_SIZE(filter), .filter = filter};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
		return -errno;
	}
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) != 0 ? -errno : 0;
}

static bool
ticked_ten_times(void *ctx)
{
	return atomic_load(&((struct tick *)ctx)->count) >= 10;
}

/* In a child, by hand: 0 when it slept its way through ten periods. */
static int
tick_without_epoll_pwait2(void)
{
	struct tick t = {0};
	struct reactor *r = hand_reactor(fx.mode);
	struct thread *thread = thread_create("x", r);
	uint64_t begin = clock_now_ns();
	bool ok;

	if (forbid_epoll_pwait2() != 0) {
		return 0; /* filters cannot be set here: nothing to see */
	}
	hand_call(thread, start_tick, &t);
	ok = hand_wait(r, ticked_ten_times, &t, WAIT_MS) && clock_now_ns() - begin >= 20 * NS_PER_MS;
	/* A reactor that did not know how to wait would come back thousands of times. */
	ok = ok && wakeups(r) <= 100;
	hand_call(thread, stop_tick, &t);
	hand_free(r);
	return ok ? 0 : 1;
}

static void
waits_without_epoll_pwait2(void **state)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		_exit(tick_without_epoll_pwait2());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* ---- Names ---- */

static void
modes_have_names(void **state)
{
	enum reactor_mode mode = REACTOR_POLL;

	for (unsigned i = 0; i < ARRAY_SIZE(hand_modes); i++) {
		assert_int_equal(reactor_mode_parse(reactor_mode_name(hand_modes[i]), &mode), 0);
		assert_int_equal(mode, hand_modes[i]);
	}
	assert_int_equal(reactor_mode_parse("polling", &mode), -EINVAL);
	assert_int_equal(mode, REACTOR_ADAPTIVE);
}

#define IN_MODES(f) HAND_IN_MODES(f, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(modes_have_names),
		IN_MODES(messages_of_many_senders_all_arrive_in_order),
		IN_MODES(no_message_misses_a_reactor_falling_asleep),
		IN_MODES(messages_go_to_and_fro),
		IN_MODES(no_event_of_an_armed_source_is_lost),
		IN_MODES(no_event_of_a_signalled_source_is_lost),
		IN_MODES(idle_reactor_does_not_wake),
		IN_MODES(poller_that_cannot_be_woken_keeps_its_reactor_awake),
		IN_MODES(periods_keep_real_time),
		IN_MODES(busy_and_idle_time_add_up),
		IN_MODES(stop_wakes_a_sleeping_reactor),
		IN_MODES(messages_sent_before_stop_arrive),
		IN_MODES(waits_without_epoll_pwait2),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
