/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A client's life: pause -> burst of writes -> reads -> pause -> ... and at the end a pass that
 * reads back everything. It waits in epoll on the eventfds of all queues; pauses are a heap of deadlines.
 *
 * Invariants
 *  1. A client either has requests in flight, or is in the heap, or has finished.
 *  2. Reads begin after the last write of their burst was answered: what a unit must hold is always known.
 *     It is the pattern of (client, unit, generation), the generation being the number of writes so far.
 *  3. Every wait is bounded: ANSWER_NS without any answer while one is owed is an error.
 */
#include "density_crowd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "app/perf_pattern.h"
#include "base/clock.h"
#include "base/heap.h"
#include "base/list.h"
#include "virtio/driver/blk.h"

#define ANSWER_NS (30 * NS_PER_S)
#define EVENTS_MAX 256
#define POLL_MAX 16
#define POISON 0xa5
#define DESCS_PER_REQUEST 4
/* More of a disk than that is left alone: four bytes a unit are kept. */
#define UNITS_MAX 65536u

enum phase { PAUSED, WRITING, READING, CHECKING, FINISHED };

struct request {
	struct driver_blk_request blk;
	struct iovec iov;
	uint32_t unit;
};

struct client {
	struct crowd *crowd;
	struct driver_blk *blk;
	struct driver_blk_queue *queue;
	struct crowd_result *result;
	struct heap_node pause; /* key: when it ends */
	enum phase phase;
	unsigned number;
	unsigned inflight;
	unsigned burst; /* of the burst under way */
	uint32_t first; /* unit of that */
	uint32_t units;
	uint32_t next; /* CHECKING: next unit to look at */
	uint32_t *generations;
	uint64_t random;
	uint64_t begun_ns;
	struct request *requests;
};

struct crowd {
	struct crowd_options options;
	struct client *clients;
	unsigned connected;
	unsigned busy; /* clients that have not finished */
	int epoll_fd;
	struct heap pauses;
	uint64_t end_ns; /* no burst begins afterwards */
	bool pauses_on;
	struct err err; /* the first one */
};

static uint64_t
next_random(struct client *c)
{
	uint64_t x = c->random;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	c->random = x;
	return x * UINT64_C(0x2545f4914f6cdd1d);
}

static uint32_t
random_below(struct client *c, uint32_t bound)
{
	return (uint32_t)((next_random(c) >> 32) * bound >> 32);
}

static void
fail(struct client *c, int rc, const char *text)
{
	if (c->crowd->err.code == 0) {
		err_set(&c->crowd->err, rc, "client %u (%s): %s", c->number, c->blk->dev->path, text);
	}
}

/* ---- Requests ---- */

static struct perf_pattern
pattern_of(const struct client *c, uint32_t unit)
{
	return (struct perf_pattern){.seed = c->crowd->options.seed << 32 | c->number,
				     .generation = c->generations[unit],
				     .block_size = DRIVER_BLK_SECTOR_BYTES};
}

static void
submit(struct client *c, struct request *r, uint32_t unit, bool read)
{
	uint64_t sector = (uint64_t)unit * (CROWD_UNIT_BYTES / DRIVER_BLK_SECTOR_BYTES);
	int rc;

	r->unit = unit;
	if (read) {
		/* What a read does not bring must not look right. */
		memset(r->iov.iov_base, POISON, CROWD_UNIT_BYTES);
	} else {
		struct perf_pattern p = pattern_of(c, unit);

		perf_pattern_fill(&p, sector, CROWD_UNIT_BYTES / DRIVER_BLK_SECTOR_BYTES, r->iov.iov_base);
	}
	r->blk.type = read ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
	r->blk.in = read;
	r->blk.sector = sector;
	rc = driver_blk_submit(c->queue, &r->blk);
	if (rc != 0) {
		fail(c, rc, strerror(-rc));
		return;
	}
	c->inflight++;
}

static void
compare(struct client *c, const struct request *r)
{
	struct perf_pattern p = pattern_of(c, r->unit);
	char text[256];

	if (!c->crowd->options.compare) {
		return;
	}
	if (perf_pattern_check(&p, r->blk.sector, CROWD_UNIT_BYTES / DRIVER_BLK_SECTOR_BYTES, r->iov.iov_base, text,
			       sizeof(text))) {
		c->result->compared++;
	} else {
		fail(c, -EILSEQ, text);
	}
}

/* ---- Phases ---- */

static void
finish(struct client *c)
{
	c->phase = FINISHED;
	c->crowd->busy--;
}

static void
begin_burst(struct client *c)
{
	unsigned max = MIN(c->crowd->options.burst, c->units);

	c->phase = WRITING;
	c->burst = 1 + random_below(c, max);
	c->first = random_below(c, c->units);
	c->begun_ns = clock_now_ns();
	for (unsigned i = 0; i < c->burst; i++) {
		uint32_t unit = (c->first + i) % c->units;

		c->generations[unit]++;
		submit(c, &c->requests[i], unit, false);
	}
	driver_blk_kick(c->queue);
}

/* Half of what was just written, and half from anywhere. */
static void
begin_reads(struct client *c)
{
	c->phase = READING;
	for (unsigned i = 0; i < c->burst; i++) {
		uint32_t unit = random_below(c, c->units);

		if (i % 2 == 0 || c->generations[unit] == 0) {
			unit = (c->first + i) % c->units;
		}
		submit(c, &c->requests[i], unit, true);
	}
	driver_blk_kick(c->queue);
}

/* Up to a burst of the units that were ever written; finishes when there are no more. */
static void
check_more(struct client *c)
{
	c->phase = CHECKING;
	for (unsigned i = 0; i < c->crowd->options.burst; i++) {
		while (c->next < c->units && c->generations[c->next] == 0) {
			c->next++;
		}
		if (c->next == c->units) {
			break;
		}
		submit(c, &c->requests[i], c->next++, true);
	}
	if (c->inflight == 0) {
		finish(c);
	}
	driver_blk_kick(c->queue);
}

static void
pause_or_end(struct client *c)
{
	struct crowd *crowd = c->crowd;
	uint64_t now = clock_now_ns();

	c->result->bursts++;
	c->result->burst_ns += now - c->begun_ns;
	c->result->burst_ns_max = MAX(c->result->burst_ns_max, now - c->begun_ns);
	if (!crowd->pauses_on) {
		finish(c);
	} else if (heap_insert(&crowd->pauses, &c->pause,
			       now + (next_random(c) >> 32) * (crowd->options.pause_us * NS_PER_US) / (UINT64_C(1) << 32)) != 0) {
		fail(c, -ENOMEM, "out of memory");
	} else {
		c->phase = PAUSED;
	}
}

static void
advance(struct client *c)
{
	switch (c->phase) {
	case WRITING:
		begin_reads(c);
		break;
	case READING:
		pause_or_end(c);
		break;
	case CHECKING:
		check_more(c);
		break;
	default:
		break;
	}
}

/* ---- The loop ---- */

static void
answered(struct client *c, struct driver_blk_request **done, int n)
{
	for (int i = 0; i < n; i++) {
		struct request *r = CONTAINER_OF(done[i], struct request, blk);

		c->inflight--;
		if (r->blk.status != 0) {
			fail(c, -EIO, r->blk.in ? "a read failed" : "a write failed");
		} else if (r->blk.in) {
			compare(c, r);
		}
	}
	if (clock_now_ns() < c->crowd->end_ns) {
		c->result->ios += (unsigned)n;
	}
}

/* Takes all answers there are, goes on where the last was waited for, then waits for the next. */
static void
serve(struct client *c)
{
	struct driver_blk_request *done[POLL_MAX];
	int n;

	driver_blk_disarm(c->queue);
	do {
		while ((n = driver_blk_poll(c->queue, done, POLL_MAX)) > 0) {
			answered(c, done, n);
			if (c->inflight == 0) {
				advance(c);
			}
		}
		if (n < 0) {
			fail(c, n, "the device broke its queue");
			return;
		}
	} while (c->inflight > 0 && driver_blk_arm(c->queue));
}

static void
wake_paused(struct crowd *crowd, uint64_t now)
{
	struct heap_node *top;

	while ((top = heap_top(&crowd->pauses)) != NULL && (top->key <= now || now >= crowd->end_ns)) {
		struct client *c = CONTAINER_OF(top, struct client, pause);

		heap_remove(&crowd->pauses, top);
		if (now < crowd->end_ns) {
			begin_burst(c);
		} else {
			check_more(c);
		}
		serve(c);
	}
}

static int
wait_ms(const struct crowd *crowd, uint64_t now)
{
	const struct heap_node *top = heap_top(&crowd->pauses);
	uint64_t until = top == NULL ? UINT64_MAX : MIN(top->key, crowd->end_ns);

	return until <= now ? 0 : (int)(MIN(until - now, NS_PER_S) / NS_PER_MS);
}

static int
loop(struct crowd *crowd, struct err *err)
{
	struct epoll_event events[EVENTS_MAX];
	uint64_t now = clock_now_ns(), heard_ns = now;

	while (crowd->busy > 0 && crowd->err.code == 0) {
		int n = epoll_wait(crowd->epoll_fd, events, EVENTS_MAX, wait_ms(crowd, now));

		for (int i = 0; i < n; i++) {
			serve(events[i].data.ptr);
		}
		now = clock_now_ns();
		if (n > 0 || heap_top(&crowd->pauses) != NULL) {
			heard_ns = now;
		} else if (now - heard_ns > ANSWER_NS) {
			return err_set(err, -ETIMEDOUT, "%u clients had no answer for 30 s", crowd->busy);
		}
		wake_paused(crowd, now);
	}
	if (crowd->err.code != 0) {
		*err = crowd->err;
	}
	return crowd->err.code;
}

int
crowd_touch(struct crowd *crowd, struct err *err)
{
	crowd->end_ns = UINT64_MAX;
	crowd->pauses_on = false;
	crowd->busy = crowd->connected;
	for (unsigned i = 0; i < crowd->connected; i++) {
		begin_burst(&crowd->clients[i]);
		serve(&crowd->clients[i]);
	}
	return loop(crowd, err);
}

static void
forget_touch(struct client *c)
{
	c->result->ios = c->result->bursts = c->result->burst_ns = c->result->burst_ns_max = 0;
	c->next = 0;
}

int
crowd_run(struct crowd *crowd, uint64_t time_us, struct err *err)
{
	uint64_t now = clock_now_ns();

	crowd->end_ns = now + time_us * NS_PER_US;
	crowd->pauses_on = true;
	crowd->busy = crowd->connected;
	/* They begin at random moments of the first pause. */
	for (unsigned i = 0; i < crowd->connected; i++) {
		struct client *c = &crowd->clients[i];
		uint64_t delay = (uint64_t)random_below(c, (uint32_t)crowd->options.pause_us + 1) * NS_PER_US;

		forget_touch(c);
		c->phase = PAUSED;
		if (heap_insert(&crowd->pauses, &c->pause, now + delay) != 0) {
			return err_set(err, -ENOMEM, "out of memory");
		}
	}
	return loop(crowd, err);
}

/* ---- Life ---- */

static unsigned
queue_size(const struct crowd *crowd)
{
	unsigned size = 16;

	while (size < crowd->options.burst * DESCS_PER_REQUEST) {
		size *= 2;
	}
	return size;
}

static int
set_up(struct client *c, struct err *err)
{
	unsigned burst = c->crowd->options.burst;
	uint8_t *buffers = driver_blk_alloc(c->blk, (size_t)burst * CROWD_UNIT_BYTES, CROWD_UNIT_BYTES);
	uint64_t units = driver_blk_sectors(c->blk) / (CROWD_UNIT_BYTES / DRIVER_BLK_SECTOR_BYTES);

	c->units = (uint32_t)MIN(units, (uint64_t)UNITS_MAX);
	c->requests = calloc(burst, sizeof(*c->requests));
	c->generations = calloc(c->units, sizeof(*c->generations));
	if (buffers == NULL || c->requests == NULL || c->generations == NULL || c->units == 0) {
		return err_set(err, -ENOMEM, "%s: out of memory, or a disk without a block", c->blk->dev->path);
	}
	for (unsigned i = 0; i < burst; i++) {
		struct request *r = &c->requests[i];

		r->iov = (struct iovec){buffers + (size_t)i * CROWD_UNIT_BYTES, CROWD_UNIT_BYTES};
		r->blk.iov = &r->iov;
		r->blk.iovcnt = 1;
	}
	return 0;
}

static int
connect_one(struct crowd *crowd, struct client *c, struct err *err)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.ptr = c};
	char path[128];
	struct driver_blk_options o = {
		.path = path,
		.timeout_ms = 30000,
		.queue_size = queue_size(crowd),
		.no_backend_channel = true,
		.data_bytes = ((size_t)crowd->options.burst + 1) * CROWD_UNIT_BYTES,
	};
	int rc;

/* The caller has checked that it has one %u and nothing else. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(path, sizeof(path), crowd->options.pattern, c->number);
#pragma GCC diagnostic pop
	rc = driver_blk_open(&o, &c->blk, err);
	if (rc != 0) {
		return rc;
	}
	c->queue = &c->blk->queues[0];
	/* Any value but 0, another one for each. */
	c->random = (crowd->options.seed + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)(c->number + 1) << 20;
	c->random += c->random == 0;
	rc = set_up(c, err);
	if (rc == 0 && epoll_ctl(crowd->epoll_fd, EPOLL_CTL_ADD, driver_blk_fd(c->queue), &event) != 0) {
		rc = err_set(err, -errno, "%s: cannot watch the queue: %s", path, strerror(errno));
	}
	return rc;
}

int
crowd_connect(const struct crowd_options *options, struct crowd_result *results, struct crowd **ret_crowd,
	      struct err *err)
{
	struct crowd *crowd = calloc(1, sizeof(*crowd));
	int rc = 0;

	if (crowd == NULL) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	crowd->options = *options;
	crowd->clients = calloc(options->count, sizeof(*crowd->clients));
	crowd->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (crowd->clients == NULL || crowd->epoll_fd < 0) {
		rc = err_set(err, -ENOMEM, "out of memory or of descriptors");
	}
	while (rc == 0 && crowd->connected < options->count) {
		struct client *c = &crowd->clients[crowd->connected];

		c->crowd = crowd;
		c->number = options->first + crowd->connected;
		c->result = &results[crowd->connected];
		/* Counted also when half made: crowd_free() undoes it. */
		crowd->connected++;
		rc = connect_one(crowd, c, err);
	}
	if (rc != 0) {
		crowd_free(crowd);
		return rc;
	}
	*ret_crowd = crowd;
	return 0;
}

void
crowd_free(struct crowd *crowd)
{
	if (crowd == NULL) {
		return;
	}
	for (unsigned i = 0; i < crowd->connected; i++) {
		struct client *c = &crowd->clients[i];

		heap_remove(&crowd->pauses, &c->pause);
		driver_blk_close(c->blk);
		free(c->requests);
		free(c->generations);
	}
	heap_release(&crowd->pauses);
	if (crowd->epoll_fd >= 0) {
		close(crowd->epoll_fd);
	}
	free(crowd->clients);
	free(crowd);
}
