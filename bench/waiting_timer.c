/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Section e: sleeping until a moment. One thread sets a time and sleeps, again and again, as a reactor does with the next
 * timer of its heap; what it then is late is the overshoot.
 *
 * The kernel lets sleeps take longer by a thread's timer slack (50 us unless set), to wake for several at once. Each way
 * is measured with that and with the least, 1 ns.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "waiting.h"

struct clockwork {
	int epoll_fd;
	int timer_fd;
	struct io_uring ring;
	bool ring_open;
	uint64_t sleep_ns;
};

/* begin_ns: when the sleep begins. 0 or a negative errno; may return early. */
struct sleep {
	const char *name;
	int (*open)(struct clockwork *c);
	int (*sleep)(struct clockwork *c, uint64_t begin_ns);
};

static struct __kernel_timespec
ring_time(uint64_t ns)
{
	return (struct __kernel_timespec){.tv_sec = (long long)(ns / NS_PER_S), .tv_nsec = (long long)(ns % NS_PER_S)};
}

static struct timespec
time_of(uint64_t ns)
{
	return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};
}

static int
open_epoll(struct clockwork *c)
{
	c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	return c->epoll_fd < 0 ? -errno : 0;
}

static int
sleep_pwait2(struct clockwork *c, uint64_t begin_ns)
{
	struct timespec ts = time_of(c->sleep_ns);
	struct epoll_event ev;

	return epoll_pwait2(c->epoll_fd, &ev, 1, &ts, NULL) < 0 ? -errno : 0;
}

static int
open_timerfd(struct clockwork *c)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
	int rc = open_epoll(c);

	c->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (rc == 0 && (c->timer_fd < 0 || epoll_ctl(c->epoll_fd, EPOLL_CTL_ADD, c->timer_fd, &ev) != 0)) {
		rc = -errno;
	}
	return rc;
}

/* Never read: setting it again makes it unreadable. */
static int
sleep_timerfd(struct clockwork *c, uint64_t begin_ns)
{
	struct itimerspec it = {.it_value = time_of(begin_ns + c->sleep_ns)};
	struct epoll_event ev;

	if (timerfd_settime(c->timer_fd, TFD_TIMER_ABSTIME, &it, NULL) != 0) {
		return -errno;
	}
	return epoll_wait(c->epoll_fd, &ev, 1, -1) < 0 ? -errno : 0;
}

static int
open_ring(struct clockwork *c)
{
	int rc = ring_open(&c->ring, RING_DEFER);

	c->ring_open = rc == 0;
	return rc;
}

static int
sleep_enter(struct clockwork *c, uint64_t begin_ns)
{
	struct __kernel_timespec ts = ring_time(c->sleep_ns);
	struct io_uring_cqe *cqe;
	int rc = io_uring_submit_and_wait_timeout(&c->ring, &cqe, 1, &ts, NULL);

	return rc == -ETIME || rc > 0 ? 0 : rc;
}

static int
sleep_timeout(struct clockwork *c, uint64_t begin_ns)
{
	struct __kernel_timespec ts = ring_time(begin_ns + c->sleep_ns);
	struct io_uring_cqe *cqe;
	int rc;

	io_uring_prep_timeout(io_uring_get_sqe(&c->ring), &ts, 0, IORING_TIMEOUT_ABS);
	rc = io_uring_submit_and_wait(&c->ring, 1);
	if (rc >= 0 && io_uring_peek_cqe(&c->ring, &cqe) == 0) {
		rc = cqe->res == -ETIME ? 0 : cqe->res;
		io_uring_cqe_seen(&c->ring, cqe);
	}
	return MIN(rc, 0);
}

static const struct sleep sleeps[] = {
	{"epoll_pwait2", open_epoll, sleep_pwait2},
	{"timerfd in epoll, set each time", open_timerfd, sleep_timerfd},
	{"io_uring_enter with a time-out", open_ring, sleep_enter},
	{"io_uring TIMEOUT request", open_ring, sleep_timeout},
};

static void
sleep_until_late(struct clockwork *c, const struct sleep *how, struct samples *late)
{
	uint64_t begin = clock_now_ns(), now = begin;

	/* Early by rounding is possible; never more than some times. */
	for (unsigned tries = 0; now < begin + c->sleep_ns; tries++) {
		int rc = how->sleep(c, begin);

		if (rc != 0 && rc != -EINTR) {
			give_up(how->name, rc);
		}
		if (tries > 1000) {
			lost("it does not sleep");
		}
		now = clock_now_ns();
	}
	samples_add(late, now - begin - c->sleep_ns);
}

static void
measure(struct table *t, const char *row, struct clockwork *c, const struct sleep *how, uint32_t rounds)
{
	struct samples late;
	uint64_t cpu;

	samples_init(&late, rounds);
	sleep_until_late(c, how, &late);
	late.count = 0;
	cpu = thread_cpu_ns();
	for (uint32_t i = 0; i < rounds; i++) {
		sleep_until_late(c, how, &late);
	}
	cpu = thread_cpu_ns() - cpu;
	table_add(t, row, (double[]){samples_at(&late, 0) / 1e3, samples_at(&late, 0.5) / 1e3, samples_at(&late, 0.99) / 1e3,
				     (double)cpu / 1e3 / rounds});
	samples_release(&late);
}

static void
timer_run(struct table *t, const struct sleep *how, uint64_t sleep_us, unsigned long slack_ns)
{
	struct clockwork c = {.epoll_fd = -1, .timer_fd = -1, .sleep_ns = sleep_us * NS_PER_US};
	char row[64];
	int rc;

	snprintf(row, sizeof(row), "%s, %s", how->name, slack_ns == 0 ? "default slack" : "slack 1 ns");
	/* 0 is the default. */
	(void)prctl(PR_SET_TIMERSLACK, slack_ns, 0, 0, 0);
	watch(how->name);
	rc = how->open(&c);
	if (rc != 0) {
		table_skip(t, row, rc);
	} else {
		measure(t, row, &c, how, options.quick ? 10 : sleep_us >= 1000 ? 500 : 3000);
	}
	if (c.ring_open) {
		io_uring_queue_exit(&c.ring);
	}
	if (c.timer_fd >= 0) {
		close(c.timer_fd);
	}
	if (c.epoll_fd >= 0) {
		close(c.epoll_fd);
	}
	(void)prctl(PR_SET_TIMERSLACK, 0, 0, 0, 0);
}

void
section_timer(void)
{
	static const char *const columns[] = {"overshoot us, min", "median", "p99", "CPU us a sleep", NULL};
	static const struct {
		uint64_t us;
		const char *title;
	} lengths[] = {
		{100, "e. Timers: a sleep of 100 us"},
		{1000, "e. Timers: a sleep of 1 ms"},
	};

	pin(options.cpus[0]);
	for (size_t l = 0; l < ARRAY_SIZE(lengths); l++) {
		struct table t;

		table_init(&t, lengths[l].title, columns);
		for (unsigned run = 0; run < options.runs; run++) {
			for (size_t i = 0; i < ARRAY_SIZE(sleeps); i++) {
				timer_run(&t, &sleeps[i], lengths[l].us, 0);
				timer_run(&t, &sleeps[i], lengths[l].us, 1);
			}
		}
		table_print(&t);
	}
}
