/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of bench/waiting; docs/waiting.md says what is measured and why. */
#ifndef BENCH_WAITING_H
#define BENCH_WAITING_H

#include <liburing.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>

#include "base/check.h"
#include "base/clock.h"

/* ---- Options and results (waiting.c, waiting_table.c) ---- */

#define RUNS_MAX 9
#define COLUMNS_MAX 8
/* A run is cut into laps, in each of which all rows have their turn: so they share what happens to the machine. */
#define LAPS_MAX 20
#define ROWS_MAX 48

struct options {
	const char *dir;  /* where the file for disk I/O is made */
	const char *only; /* letters of the sections to run; NULL: all */
	unsigned runs;
	bool quick; /* few events, for the test: figures mean nothing */
	int cpus[2];
};

extern struct options options;

/* To the terminal and to the file that --output names. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Says which variant is measured, for whoever finds it hung: the process ends then. */
void watch(const char *what);

/* An event got lost, or data was wrong: says so and ends the process with an error. */
_Noreturn void lost(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Ends the process: the benchmark itself could not go on. */
_Noreturn void give_up(const char *what, int rc);

struct row {
	char name[64];
	char skipped[96]; /* why there are no figures; empty: there are */
	unsigned runs;
	double values[COLUMNS_MAX][RUNS_MAX];
};

struct table {
	const char *title;
	const char *columns[COLUMNS_MAX + 1];
	unsigned column_count;
	unsigned row_count;
	struct row rows[ROWS_MAX];
};

void table_init(struct table *t, const char *title, const char *const *columns);
/* One run of the row; values are in the order of the columns. */
void table_add(struct table *t, const char *row, const double *values);
/* rc is a negative errno. */
void table_skip(struct table *t, const char *row, int rc);
extern unsigned rows_skipped;
void table_print(const struct table *t);

struct samples {
	uint64_t *ns;
	size_t count;
	size_t max;
};

void samples_init(struct samples *s, size_t max);
void samples_release(struct samples *s);
static inline void
samples_add(struct samples *s, uint64_t ns)
{
	if (s->count < s->max) {
		s->ns[s->count++] = ns;
	}
}
void samples_append(struct samples *to, const struct samples *from);
/* Sorts. In nanoseconds; share 0.5 is the median. */
double samples_at(struct samples *s, double share);

/* Median over laps of value[i] / base[i], in per cent: a comparison lap by lap, which stands a machine that changes. */
double laps_compare(const double *values, const double *base, unsigned laps);

/* ---- System threads ---- */

void pin(int cpu);
uint64_t thread_cpu_ns(void);
uint64_t process_cpu_ns(void);
/* Looks at the clock; in between it lets others run once it has waited for long. False: gave up after seconds. */
bool spin_until(bool (*there)(void *ctx), void *ctx);
void spin_ns(uint64_t ns);

/* ---- Primitives (waiting_wait.c, waiting_ring.c) ---- */

/* As many as a reactor takes from the kernel at once. */
#define EVENTS_MAX 64
/* Descriptors of one lightweight thread, where each has an epoll of its own. */
#define INNER_FDS 100

struct waiter;

struct primitive {
	const char *name;
	int (*open)(struct waiter *w);               /* 0 or a negative errno */
	int (*wait)(struct waiter *w, bool block);   /* calls waiter_event(); 0 or a negative errno */
	void (*kick)(struct waiter *w);              /* NULL: writes the eventfd */
	void (*close)(struct waiter *w);             /* also after an open that failed */
	unsigned ring_flags;
	int timeout_s; /* epoll_pwait2 with it, instead of epoll_wait */
};

struct waiter {
	const struct primitive *how;
	unsigned count;
	int *fds;
	uint8_t *expected; /* by descriptor: kicked, and not seen yet */
	unsigned missing;  /* how many of these */
	int epoll_fd;
	int *inner;
	struct pollfd *pollfds;
	uint64_t *values; /* where reads of eventfds go to */
	struct io_uring ring;
	bool ring_open;
	struct epoll_event events[EVENTS_MAX];
	/* What futex and spinning look at. */
	_Alignas(CACHE_LINE_BYTES) _Atomic uint32_t word;
	_Alignas(CACHE_LINE_BYTES) uint32_t word_seen;
};

extern const struct primitive wait_spin, wait_futex, wait_read, wait_epoll_edge, wait_epoll_timeout, wait_epoll_level,
	wait_epoll_nested, wait_poll;
extern const struct primitive ring_poll_defer, ring_poll_coop, ring_poll_plain, ring_read_defer, ring_read_plain,
	ring_epoll_wait, ring_epoll_poll;

/* Made by the thread that waits. 0 or a negative errno: the system does not have it. */
int waiter_open(struct waiter *w, const struct primitive *how, unsigned count);
void waiter_close(struct waiter *w);
/* Any thread. */
void waiter_kick(struct waiter *w, unsigned index);
/* Whether this process may have so many descriptors more. */
bool descriptors_suffice(unsigned count);

static inline void
waiter_expect(struct waiter *w, unsigned index)
{
	w->expected[index] = 1;
	w->missing++;
}

static inline void
waiter_event(struct waiter *w, unsigned index)
{
	if (w->expected[index]) {
		w->expected[index] = 0;
		w->missing--;
	}
}

/* 0 or a negative errno. The kernel's flags are one of those below. */
#define RING_DEFER (IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG)
#define RING_COOP (IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG)
#define RING_PLAIN 0u
int ring_open(struct io_uring *ring, unsigned flags);
bool ring_knows(struct io_uring *ring, int op);
void ring_prep_epoll_wait(struct io_uring_sqe *sqe, int epoll_fd, struct epoll_event *events, unsigned max);
/* In Linux since 6.15. */
#define RING_OP_EPOLL_WAIT 59

static inline bool
ring_has_work(const struct io_uring *ring)
{
	return (IO_URING_READ_ONCE(*ring->sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

/* ---- Disk I/O (waiting_disk.c, waiting_engine.c) ---- */

#define BLOCK_BYTES 4096u
#define SLOTS 64u

struct slot {
	char *buffer;
	uint64_t block;
	uint64_t begin_ns;
};

struct disk;

struct engine {
	const char *name;
	int (*open)(struct disk *d);
	void (*prepare)(struct disk *d, unsigned slot);
	/* Hands over what was prepared, sleeps until a kick or a completion, calls disk_complete(). */
	int (*round)(struct disk *d);
	void (*close)(struct disk *d);
	unsigned ring_flags;
	bool over_epoll; /* the ring itself is in epoll, or epoll in the ring */
};

struct disk {
	const struct engine *how;
	int fd;
	int kick_fd;
	uint64_t blocks;
	uint64_t now_ns;
	uint64_t random;
	uint64_t taken;
	uint64_t done;
	uint64_t calls; /* system calls that the engine made */
	unsigned prepared;
	unsigned free_count;
	unsigned free[SLOTS];
	struct slot slots[SLOTS];
	struct samples latency;
	void *state; /* the engine's */
	/* Written by the guest. */
	_Alignas(CACHE_LINE_BYTES) _Atomic uint64_t avail;
	uint64_t stamps[SLOTS];
	_Atomic bool stop;
	/* Written by the reactor. */
	_Alignas(CACHE_LINE_BYTES) _Atomic uint64_t used;
};

extern const struct engine engines[];
extern const unsigned engine_count;

/* Takes what the guest asked for, and prepares it. */
void disk_take(struct disk *d);
void disk_complete(struct disk *d, unsigned slot, int64_t res);

/* ---- Sections ---- */

void section_wake(void);
void section_look(void);
void section_many(void);
void section_disk(void);
void section_timer(void);
void section_sleep(void);

#endif
