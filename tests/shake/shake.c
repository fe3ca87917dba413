/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Makes races happen: loaded before a program (LD_PRELOAD; tools/shake.py does it), it delays system calls, locks, signals of
 * conditions and starts of threads at random, as a busy machine does now and then.
 *
 *     SHAKE_SEED      what is chosen (1)
 *     SHAKE_RATE      one call in so many is delayed (64)
 *     SHAKE_US        the longest delay; most are much shorter (3000)
 *     SHAKE_STALL_MS  once, somewhere among the first STALL_CALLS calls, everything stands still for so long (0: never)
 *
 * 1. A delay changes nothing but the time: arguments, results and errno of a call are those that it has anyway.
 * 2. A thread is slow for a while, then not: what one does while another rests is what breaks, not what all do slowly.
 * 3. With the same seed each thread makes the same choices at its same calls. What happens between threads still varies a
 *    little: a failure that does not come again at once comes in one of a few runs.
 *
 * Runs on any thread of the program, and in its signal handlers: takes no locks.
 */
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define STALL_CALLS 1000
/* One call in so many of a slow thread is delayed. */
#define SLOW_RATE 4

static uint64_t seed = 1, rate = 64, longest_us = 3000, stall_ms;
static uint64_t stall_call;
static atomic_uint threads;

/* Of a process and what it has forked. */
struct standstill {
	atomic_uint_fast64_t calls, end_ns;
};

static struct standstill *standstill;

struct thread_state {
	uint64_t random;
	unsigned left; /* calls until it is chosen anew whether the thread is slow */
	bool slow;
};

static _Thread_local struct thread_state me;

/* ---- Choices ---- */

static uint64_t
mixed(uint64_t a, uint64_t b)
{
	uint64_t x = a * UINT64_C(0x9e3779b97f4a7c15) + b * UINT64_C(0xbf58476d1ce4e5b9) + UINT64_C(0x94d049bb133111eb);

	x ^= x >> 31;
	x *= UINT64_C(0xd6e8feb86659fd93);
	return (x ^ (x >> 32)) | 1;
}

static uint64_t
choose(uint64_t below)
{
	if (me.random == 0) {
		me.random = mixed(seed, atomic_fetch_add(&threads, 1));
	}
	me.random ^= me.random << 13;
	me.random ^= me.random >> 7;
	me.random ^= me.random << 17;
	return (me.random >> 11) % below;
}

static uint64_t
setting(const char *name, uint64_t otherwise)
{
	const char *text = getenv(name);

	return text == NULL || *text == '\0' ? otherwise : strtoull(text, NULL, 10);
}

__attribute__((constructor)) static void
read_settings(void)
{
	seed = setting("SHAKE_SEED", seed);
	rate = setting("SHAKE_RATE", rate);
	rate = rate == 0 ? 1 : rate;
	longest_us = setting("SHAKE_US", longest_us);
	stall_ms = setting("SHAKE_STALL_MS", 0);
	standstill = mmap(NULL, sizeof(*standstill), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (standstill == MAP_FAILED) {
		stall_ms = 0;
	}
	stall_call = mixed(seed, UINT64_MAX) % STALL_CALLS;
}

/* ---- Delays ---- */

static uint64_t
now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* Not by the C library: a test may count its calls, or have its own clock. */
static void
rest_ns(uint64_t ns)
{
	struct timespec ts = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};

	(void)syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &ts, NULL);
}

/* The moment at which everything stands still: begun by one thread, kept by all. */
static void
stall(void)
{
	uint64_t now, end;

	if (atomic_fetch_add(&standstill->calls, 1) == stall_call) {
		atomic_store(&standstill->end_ns, now_ns() + stall_ms * 1000000);
	}
	end = atomic_load(&standstill->end_ns);
	if (end != 0 && (now = now_ns()) < end) {
		rest_ns(end - now);
	}
}

static void
shake(void)
{
	int was = errno;

	if (stall_ms != 0) {
		stall();
	}
	if (me.left == 0) {
		me.slow = choose(4) == 0;
		me.left = 50 + (unsigned)choose(400);
	}
	me.left--;
	if (choose(me.slow ? SLOW_RATE : rate) == 0) {
		uint64_t most_us = choose(8) == 0 ? longest_us : longest_us / 20;

		rest_ns(1000 + choose(most_us * 1000 + 1));
	}
	errno = was;
}

/* ---- What is delayed ---- */

/* A call of the C library with a delay before it, and one after it where its result tells of something that has happened. */
#define DELAYED_AS(symbol, type, name, parameters, arguments, after) \
	type name parameters \
	{ \
		static type(*_Atomic real) parameters; \
		type result; \
		if (real == NULL) { \
			real = (type(*) parameters)(uintptr_t)dlsym(RTLD_NEXT, symbol); \
		} \
		shake(); \
		result = real arguments; \
		if ((after) && result > 0) { \
			shake(); \
		} \
		return result; \
	}
#define BEFORE(type, name, parameters, arguments) DELAYED_AS(#name, type, name, parameters, arguments, false)
#define AROUND(type, name, parameters, arguments) DELAYED_AS(#name, type, name, parameters, arguments, true)

AROUND(int, epoll_wait, (int fd, struct epoll_event *e, int n, int ms), (fd, e, n, ms))
AROUND(int, epoll_pwait2, (int fd, struct epoll_event *e, int n, const struct timespec *ts, const sigset_t *mask),
       (fd, e, n, ts, mask))
AROUND(int, poll, (struct pollfd *fds, nfds_t n, int ms), (fds, n, ms))
AROUND(ssize_t, read, (int fd, void *buf, size_t n), (fd, buf, n))
BEFORE(ssize_t, write, (int fd, const void *buf, size_t n), (fd, buf, n))
BEFORE(ssize_t, readv, (int fd, const struct iovec *iov, int n), (fd, iov, n))
BEFORE(ssize_t, writev, (int fd, const struct iovec *iov, int n), (fd, iov, n))
AROUND(ssize_t, recv, (int fd, void *buf, size_t n, int flags), (fd, buf, n, flags))
BEFORE(ssize_t, send, (int fd, const void *buf, size_t n, int flags), (fd, buf, n, flags))
AROUND(ssize_t, recvmsg, (int fd, struct msghdr *msg, int flags), (fd, msg, flags))
BEFORE(ssize_t, sendmsg, (int fd, const struct msghdr *msg, int flags), (fd, msg, flags))
BEFORE(int, connect, (int fd, const struct sockaddr *addr, socklen_t len), (fd, addr, len))
AROUND(int, accept4, (int fd, struct sockaddr *addr, socklen_t *len, int flags), (fd, addr, len, flags))
BEFORE(int, close, (int fd), (fd))
BEFORE(int, fsync, (int fd), (fd))
BEFORE(int, fdatasync, (int fd), (fd))
/* By the names that files with offsets of 64 bits have in the C library. */
DELAYED_AS("preadv64", ssize_t, preadv, (int fd, const struct iovec *iov, int n, off_t at), (fd, iov, n, at), false)
DELAYED_AS("pwritev64", ssize_t, pwritev, (int fd, const struct iovec *iov, int n, off_t at), (fd, iov, n, at), false)
DELAYED_AS("pread64", ssize_t, pread, (int fd, void *buf, size_t n, off_t at), (fd, buf, n, at), false)
DELAYED_AS("pwrite64", ssize_t, pwrite, (int fd, const void *buf, size_t n, off_t at), (fd, buf, n, at), false)
BEFORE(int, pthread_mutex_lock, (pthread_mutex_t *m), (m))
BEFORE(int, pthread_cond_signal, (pthread_cond_t *c), (c))
BEFORE(int, pthread_cond_broadcast, (pthread_cond_t *c), (c))
BEFORE(int, pthread_join, (pthread_t t, void **ret), (t, ret))

/* ---- Threads, which start late ---- */

struct start {
	void *(*run)(void *arg);
	void *arg;
	uint64_t random;
};

static void *
start_late(void *arg)
{
	struct start start = *(struct start *)arg;

	free(arg);
	me.random = start.random;
	if (choose(3) == 0) {
		rest_ns(1000 + choose(longest_us * 3000 + 1));
	}
	return start.run(start.arg);
}

int
pthread_create(pthread_t *t, const pthread_attr_t *attr, void *(*run)(void *arg), void *arg)
{
	static int (*_Atomic real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
	struct start *start = malloc(sizeof(*start));
	int rc;

	if (start == NULL) {
		return EAGAIN;
	}
	if (real == NULL) {
		real = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))(uintptr_t)
			dlsym(RTLD_NEXT, "pthread_create");
	}
	/* The creator's place in line, not the moment at which the thread runs, makes its choices. */
	*start = (struct start){.run = run, .arg = arg, .random = mixed(seed, 1000 + atomic_fetch_add(&threads, 1))};
	rc = real(t, attr, start_late, start);
	if (rc != 0) {
		free(start);
	}
	return rc;
}
