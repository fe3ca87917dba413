/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Ways to wait that need no ring. A waiter belongs to the thread that opened it; others only kick.
 *
 * Descriptors are blocking: a read of a ring waits on these, and on others it would fail at once. Nobody reads one that
 * has nothing.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "waiting.h"

/* ---- Life ---- */

bool
descriptors_suffice(unsigned count)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= count + 64;
}

static int
open_fds(struct waiter *w)
{
	for (unsigned i = 0; i < w->count; i++) {
		w->fds[i] = eventfd(0, EFD_CLOEXEC);
		if (w->fds[i] < 0) {
			return -errno;
		}
	}
	return 0;
}

int
waiter_open(struct waiter *w, const struct primitive *how, unsigned count)
{
	int rc;

	memset(w, 0, sizeof(*w));
	w->how = how;
	w->count = count;
	w->epoll_fd = -1;
	w->fds = malloc(count * sizeof(w->fds[0]));
	w->expected = calloc(count, 1);
	w->values = calloc(count, sizeof(w->values[0]));
	CHECK(w->fds != NULL && w->expected != NULL && w->values != NULL);
	memset(w->fds, 0xff, count * sizeof(w->fds[0]));
	rc = open_fds(w);
	return rc != 0 ? rc : how->open(w);
}

void
waiter_close(struct waiter *w)
{
	w->how->close(w);
	if (w->epoll_fd >= 0) {
		close(w->epoll_fd);
	}
	for (unsigned i = 0; i < w->count && w->fds[i] >= 0; i++) {
		close(w->fds[i]);
	}
	free(w->fds);
	free(w->expected);
	free(w->values);
}

void
waiter_kick(struct waiter *w, unsigned index)
{
	uint64_t one = 1;

	if (w->how->kick != NULL) {
		w->how->kick(w);
	} else {
		CHECK(write(w->fds[index], &one, sizeof(one)) == sizeof(one));
	}
}

static int
open_nothing(struct waiter *w)
{
	return 0;
}

static void
close_nothing(struct waiter *w)
{
}

static int
read_fd(struct waiter *w, unsigned index)
{
	return read(w->fds[index], &w->values[index], sizeof(uint64_t)) == sizeof(uint64_t) ? 0 : -errno;
}

/* ---- The floor: one thing to wait for ---- */

static bool
word_moved(void *ctx)
{
	struct waiter *w = ctx;

	return atomic_load_explicit(&w->word, memory_order_acquire) != w->word_seen;
}

static void
word_event(struct waiter *w)
{
	w->word_seen = atomic_load_explicit(&w->word, memory_order_acquire);
	waiter_event(w, 0);
}

static int
spin_wait(struct waiter *w, bool block)
{
	if (!spin_until(word_moved, w)) {
		return -ETIME;
	}
	word_event(w);
	return 0;
}

static void
spin_kick(struct waiter *w)
{
	atomic_fetch_add_explicit(&w->word, 1, memory_order_release);
}

static int
futex_wait(struct waiter *w, bool block)
{
	while (!word_moved(w)) {
		if (syscall(SYS_futex, &w->word, FUTEX_WAIT_PRIVATE, w->word_seen, NULL, NULL, 0) != 0 && errno != EAGAIN &&
		    errno != EINTR) {
			return -errno;
		}
	}
	word_event(w);
	return 0;
}

static void
futex_kick(struct waiter *w)
{
	spin_kick(w);
	syscall(SYS_futex, &w->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static int
read_wait(struct waiter *w, bool block)
{
	int rc = read_fd(w, 0);

	if (rc == 0) {
		waiter_event(w, 0);
	}
	return rc;
}

/* ---- epoll ---- */

static int
epoll_add(int epoll_fd, int fd, uint32_t events, uint32_t index)
{
	struct epoll_event ev = {.events = events, .data.u32 = index};

	return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0 ? 0 : -errno;
}

static int
epoll_open(struct waiter *w, uint32_t events)
{
	int rc = 0;

	w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (w->epoll_fd < 0) {
		return -errno;
	}
	for (unsigned i = 0; i < w->count && rc == 0; i++) {
		rc = epoll_add(w->epoll_fd, w->fds[i], events, i);
	}
	return rc;
}

static int
edge_open(struct waiter *w)
{
	return epoll_open(w, EPOLLIN | EPOLLET);
}

static int
level_open(struct waiter *w)
{
	return epoll_open(w, EPOLLIN);
}

static int
fetch(struct waiter *w, bool block)
{
	const struct timespec ts = {.tv_sec = w->how->timeout_s};
	int n;

	if (w->how->timeout_s != 0 && block) {
		n = epoll_pwait2(w->epoll_fd, w->events, EVENTS_MAX, &ts, NULL);
	} else {
		n = epoll_wait(w->epoll_fd, w->events, EVENTS_MAX, block ? -1 : 0);
	}
	return n < 0 ? -errno : n;
}

static int
edge_wait(struct waiter *w, bool block)
{
	int n = fetch(w, block);

	for (int i = 0; i < n; i++) {
		waiter_event(w, w->events[i].data.u32);
	}
	return MIN(n, 0);
}

static int
level_wait(struct waiter *w, bool block)
{
	int n = fetch(w, block), rc = MIN(n, 0);

	for (int i = 0; i < n && rc == 0; i++) {
		waiter_event(w, w->events[i].data.u32);
		rc = read_fd(w, w->events[i].data.u32);
	}
	return rc;
}

/* ---- An epoll for each lightweight thread, in the reactor's ---- */

static unsigned
inner_count(const struct waiter *w)
{
	return (w->count + INNER_FDS - 1) / INNER_FDS;
}

static int
nested_open(struct waiter *w)
{
	unsigned n = inner_count(w);
	int rc = 0;

	w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	w->inner = malloc(n * sizeof(w->inner[0]));
	CHECK(w->inner != NULL);
	memset(w->inner, 0xff, n * sizeof(w->inner[0]));
	for (unsigned i = 0; i < n && rc == 0; i++) {
		w->inner[i] = epoll_create1(EPOLL_CLOEXEC);
		rc = w->inner[i] < 0 ? -errno : epoll_add(w->epoll_fd, w->inner[i], EPOLLIN, i);
	}
	for (unsigned i = 0; i < w->count && rc == 0; i++) {
		rc = epoll_add(w->inner[i / INNER_FDS], w->fds[i], EPOLLIN | EPOLLET, i);
	}
	return rc;
}

static int
nested_wait(struct waiter *w, bool block)
{
	struct epoll_event events[EVENTS_MAX];
	int n = fetch(w, block);

	for (int i = 0; i < n; i++) {
		int m = epoll_wait(w->inner[w->events[i].data.u32], events, EVENTS_MAX, 0);

		for (int j = 0; j < m; j++) {
			waiter_event(w, events[j].data.u32);
		}
	}
	return MIN(n, 0);
}

static void
nested_close(struct waiter *w)
{
	for (unsigned i = 0; w->inner != NULL && i < inner_count(w) && w->inner[i] >= 0; i++) {
		close(w->inner[i]);
	}
	free(w->inner);
}

/* ---- poll(2) ---- */

static int
poll_open(struct waiter *w)
{
	w->pollfds = calloc(w->count, sizeof(w->pollfds[0]));
	CHECK(w->pollfds != NULL);
	for (unsigned i = 0; i < w->count; i++) {
		w->pollfds[i] = (struct pollfd){.fd = w->fds[i], .events = POLLIN};
	}
	return 0;
}

static int
poll_wait(struct waiter *w, bool block)
{
	int n = poll(w->pollfds, w->count, block ? -1 : 0), rc = n < 0 ? -errno : 0;

	for (unsigned i = 0; n > 0 && rc == 0; i++) {
		if (w->pollfds[i].revents != 0) {
			n--;
			waiter_event(w, i);
			rc = read_fd(w, i);
		}
	}
	return rc;
}

static void
poll_close(struct waiter *w)
{
	free(w->pollfds);
}

const struct primitive wait_spin = {
	"spinning on a word", open_nothing, spin_wait, spin_kick, close_nothing, 0, 0};
const struct primitive wait_futex = {
	"futex", open_nothing, futex_wait, futex_kick, close_nothing, 0, 0};
const struct primitive wait_read = {
	"read(eventfd)", open_nothing, read_wait, NULL, close_nothing, 0, 0};
const struct primitive wait_epoll_edge = {
	"epoll, edge, never read", edge_open, edge_wait, NULL, close_nothing, 0, 0};
const struct primitive wait_epoll_timeout = {
	"epoll, edge, epoll_pwait2 with a time-out", edge_open, edge_wait, NULL, close_nothing, 0, 10};
const struct primitive wait_epoll_level = {
	"epoll, level, read", level_open, level_wait, NULL, close_nothing, 0, 0};
const struct primitive wait_epoll_nested = {
	"epoll in epoll, edge", nested_open, nested_wait, NULL, nested_close, 0, 0};
const struct primitive wait_poll = {
	"poll(2), read", poll_open, poll_wait, NULL, poll_close, 0, 0};
