/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A worker of `berth perf`: keeps `depth` requests in flight on one queue of one target.
 *
 * Invariants
 *  1. Each request is either in flight (counted in `inflight`) or, within one poll, in the hands of
 *     this file. A request that is not submitted again is never touched again.
 *  2. One batch: poll, next requests, flush, one look at the clock for all of them. On a socket the
 *     clock is read after the flush, so that the target works meanwhile: a latency is then the time
 *     from one submission's flush to the flush of what follows its completion, our own turn included.
 *  3. verify: a unit (the place of one request) has at most one request at it, marked by AT_WORK. Its
 *     generation is the number of writes begun; 0: never written, so nothing is known of it.
 *
 * RUNNING -stop-> ENDING -nothing in flight-> FINISHED, or for verify CHECKING -everything read->
 * FINISHED. An error goes to ENDING at once, and from there to FINISHED.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "app/perf_internal.h"
#include "app/perf_pattern.h"
#include "base/clock.h"

/* Most completions of one turn of the thread. */
#define TURN_MAX 256
#define AT_WORK UINT32_C(0x80000000)
#define GENERATION_MASK UINT32_C(0x7fffffff)
/* verify keeps four bytes for each unit. */
#define VERIFY_UNITS_MAX (UINT64_C(1) << 24)
#define POISON 0xa5

/* ---- What comes next ---- */

/* xorshift64*: the upper bits are good enough to spread places evenly. */
static inline uint64_t
next_random(struct perf_worker *w)
{
	uint64_t x = w->random;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	w->random = x;
	return x * UINT64_C(0x2545f4914f6cdd1d);
}

static inline uint64_t
random_unit(struct perf_worker *w)
{
	return (uint64_t)(((unsigned __int128)next_random(w) * w->units) >> 64);
}

static inline uint64_t
sequential_unit(struct perf_worker *w)
{
	uint64_t unit = w->next_unit++;

	if (w->next_unit == w->units) {
		w->next_unit = 0;
	}
	return unit;
}

static inline bool
chooses_read(struct perf_worker *w)
{
	return (next_random(w) >> 32) * 100 >> 32 < w->read_percent;
}

static inline void
choose(struct perf_worker *w, struct perf_request *req)
{
	uint64_t unit = 0;

	switch (w->workload) {
	case PERF_RANDREAD:
	case PERF_READ:
		req->op = BDEV_READ;
		break;
	case PERF_RANDRW:
	case PERF_RW:
		req->op = chooses_read(w) ? BDEV_READ : BDEV_WRITE;
		break;
	case PERF_FLUSH:
		req->op = BDEV_FLUSH;
		break;
	case PERF_UNMAP:
		req->op = BDEV_UNMAP;
		break;
	case PERF_WRITE_ZEROES:
		req->op = BDEV_WRITE_ZEROES;
		break;
	default:
		req->op = BDEV_WRITE;
	}
	switch (w->workload) {
	case PERF_READ:
	case PERF_WRITE:
	case PERF_RW:
		unit = sequential_unit(w);
		break;
	default:
		unit = random_unit(w);
	}
	req->lba = w->first_block + unit * w->blocks;
}

/* ---- Errors ---- */

static void
fail(struct perf_worker *w, int rc, const char *what)
{
	if (w->err.code == 0) {
		err_set(&w->err, rc, "%s: %s: %s", w->job->name, w->target->name, what);
	}
	if (w->phase == PERF_RUNNING) {
		w->result.end_ns = clock_now_ns();
	}
	w->phase = PERF_ENDING;
}

static void
fail_request(struct perf_worker *w, const struct perf_request *req, int rc)
{
	char text[160];

	snprintf(text, sizeof(text), "%s of %u blocks at block %" PRIu64 ": %s",
		 bdev_op_name((enum bdev_op)req->op), w->blocks, req->lba, strerror(-rc));
	fail(w, rc, text);
}

static inline void
submit(struct perf_worker *w, struct perf_request *req)
{
	int rc = w->ops->submit(w, req);

	if (UNLIKELY(rc != 0)) {
		fail_request(w, req, rc);
		return;
	}
	w->inflight++;
}

/* ---- verify ---- */

static void
pattern_of(const struct perf_worker *w, uint64_t unit, struct perf_pattern *ret)
{
	*ret = (struct perf_pattern){.seed = w->job->seed,
				     .generation = w->generations[unit] & GENERATION_MASK,
				     .block_size = w->target->block_size};
}

static void
submit_unit(struct perf_worker *w, struct perf_request *req, enum bdev_op op, uint64_t unit)
{
	w->generations[unit] |= AT_WORK;
	req->op = (uint8_t)op;
	req->unit = unit;
	req->lba = w->first_block + unit * w->blocks;
	if (op == BDEV_READ) {
		/* What a read does not bring must not look right. */
		memset(req->iov.iov_base, POISON, req->iov.iov_len);
	}
	submit(w, req);
}

/* There are more units than requests, so the search ends. */
static void
verify_write(struct perf_worker *w, struct perf_request *req)
{
	uint64_t unit = random_unit(w);
	struct perf_pattern pattern;

	while ((w->generations[unit] & AT_WORK) != 0) {
		unit = unit + 1 == w->units ? 0 : unit + 1;
	}
	if (w->generations[unit] == 0) {
		w->written++;
	}
	w->generations[unit] =
		w->generations[unit] == GENERATION_MASK ? 1 : w->generations[unit] + 1;
	pattern_of(w, unit, &pattern);
	perf_pattern_fill(&pattern, w->first_block + unit * w->blocks, w->blocks,
			  req->iov.iov_base);
	submit_unit(w, req, BDEV_WRITE, unit);
}

/*
 * After a write: reads another unit that was written before, when chance hits one, else the
 * same.
 */
static void
verify_read(struct perf_worker *w, struct perf_request *req)
{
	uint64_t unit = random_unit(w);

	w->generations[req->unit] &= GENERATION_MASK;
	if (w->generations[unit] == 0 || (w->generations[unit] & AT_WORK) != 0) {
		unit = req->unit;
	}
	submit_unit(w, req, BDEV_READ, unit);
}

static void
verify_compare(struct perf_worker *w, struct perf_request *req)
{
	struct perf_pattern pattern;
	char text[256];

	w->generations[req->unit] &= GENERATION_MASK;
	pattern_of(w, req->unit, &pattern);
	if (perf_pattern_check(&pattern, req->lba, w->blocks, req->iov.iov_base, text,
			       sizeof(text))) {
		w->result.checked += w->blocks;
	} else {
		fail(w, -EILSEQ, text);
	}
}

/* The last pass: the next unit that was ever written. */
static void
verify_pass(struct perf_worker *w, struct perf_request *req)
{
	while (w->next_unit < w->units && w->generations[w->next_unit] == 0) {
		w->next_unit++;
	}
	if (w->next_unit < w->units) {
		submit_unit(w, req, BDEV_READ, w->next_unit++);
	}
}

static void
verify_next(struct perf_worker *w, struct perf_request *req)
{
	if (req->op == BDEV_READ) {
		verify_compare(w, req);
	} else {
		w->generations[req->unit] &= GENERATION_MASK;
	}
	if (w->phase == PERF_CHECKING) {
		verify_pass(w, req);
	} else if (w->phase == PERF_RUNNING && req->op == BDEV_READ) {
		verify_write(w, req);
	} else if (w->phase == PERF_RUNNING) {
		verify_read(w, req);
	}
}

/* ---- The loop ---- */

static inline void
next(struct perf_worker *w, struct perf_request *req)
{
	w->inflight--;
	if (UNLIKELY(req->status != 0)) {
		fail_request(w, req, req->status);
	} else if (UNLIKELY(w->generations != NULL)) {
		verify_next(w, req);
	} else if (LIKELY(w->phase == PERF_RUNNING)) {
		choose(w, req);
		submit(w, req);
	}
}

static inline void
count(struct perf_worker *w, struct perf_request **done, unsigned n, uint64_t now)
{
	struct perf_result *r = &w->result;

	/* Whoever ended meanwhile does not count what comes after its end. */
	if (LIKELY(w->phase == PERF_RUNNING)) {
		atomic_store_explicit(&r->ios,
				      atomic_load_explicit(&r->ios, memory_order_relaxed) + n,
				      memory_order_relaxed);
		for (unsigned i = 0; i < n; i++) {
			hist_add(&r->latency, now - done[i]->stamp_ns);
		}
	}
	for (unsigned i = 0; i < n; i++) {
		done[i]->stamp_ns = now;
	}
}

/* Handles up to PERF_BATCH completions; how many, or a negative errno of the target. */
static int
batch(struct perf_worker *w)
{
	struct perf_request *done[PERF_BATCH];
	uint64_t now = 0;
	int n = w->ops->poll(w, done);

	if (n <= 0) {
		return n;
	}
	if (!w->ops->stamp_after_flush) {
		now = clock_now_ns();
	}
	for (int i = 0; i < n; i++) {
		next(w, done[i]);
	}
	if (w->ops->flush != NULL) {
		w->ops->flush(w);
	}
	if (w->ops->stamp_after_flush) {
		now = clock_now_ns();
	}
	count(w, done, (unsigned)n, now);
	return n;
}

static void
finish(struct perf_worker *w)
{
	w->phase = PERF_FINISHED;
	poller_stop(&w->poller);
	w->ops->stop(w);
	thread_send(w->run->control, &w->finished_msg, w->finished_msg.fn);
}

static void
submit_all(struct perf_worker *w)
{
	uint64_t now = clock_now_ns();

	for (unsigned i = 0; i < w->depth && w->phase != PERF_ENDING; i++) {
		struct perf_request *req = perf_worker_request(w, i);

		req->stamp_ns = now;
		if (w->phase == PERF_CHECKING) {
			verify_pass(w, req);
		} else if (w->generations != NULL) {
			verify_write(w, req);
		} else {
			choose(w, req);
			submit(w, req);
		}
	}
	if (w->ops->flush != NULL) {
		w->ops->flush(w);
	}
}

/* Nothing is in flight any more. */
static void
settle(struct perf_worker *w)
{
	if (w->phase == PERF_ENDING && w->generations != NULL && w->err.code == 0) {
		w->phase = PERF_CHECKING;
		w->next_unit = 0;
		submit_all(w);
	}
	if (w->inflight == 0) {
		finish(w);
	}
}

static int
worker_poll(struct poller *p)
{
	struct perf_worker *w = CONTAINER_OF(p, struct perf_worker, poller);
	int total = 0, n;

	do {
		n = batch(w);
		total += n;
	} while (n == PERF_BATCH && total < TURN_MAX);
	if (UNLIKELY(n < 0)) {
		fail(w, n, "the target broke its queue");
		w->inflight = 0;
	}
	if (UNLIKELY(w->phase != PERF_RUNNING && w->inflight == 0)) {
		settle(w);
		return 1;
	}
	return total;
}

static bool
worker_arm(struct poller *p)
{
	struct perf_worker *w = CONTAINER_OF(p, struct perf_worker, poller);

	return w->ops->arm(w);
}

static void
worker_disarm(struct poller *p)
{
	struct perf_worker *w = CONTAINER_OF(p, struct perf_worker, poller);

	if (w->ops->disarm != NULL) {
		w->ops->disarm(w);
	}
}

static const struct poller_ops poller_ops = {
	.name = "perf",
	.poll = worker_poll,
	.arm = worker_arm,
	.disarm = worker_disarm,
};

/* ---- Life ---- */

static int
check_workload(struct perf_worker *w, struct err *err)
{
	static const uint32_t needs[] = {
		[PERF_RANDREAD] = 1 << BDEV_READ,
		[PERF_READ] = 1 << BDEV_READ,
		[PERF_RANDWRITE] = 1 << BDEV_WRITE,
		[PERF_WRITE] = 1 << BDEV_WRITE,
		[PERF_RANDRW] = 1 << BDEV_READ | 1 << BDEV_WRITE,
		[PERF_RW] = 1 << BDEV_READ | 1 << BDEV_WRITE,
		[PERF_VERIFY] = 1 << BDEV_READ | 1 << BDEV_WRITE,
		[PERF_FLUSH] = 1 << BDEV_FLUSH,
		[PERF_UNMAP] = 1 << BDEV_UNMAP,
		[PERF_WRITE_ZEROES] = 1 << BDEV_WRITE_ZEROES,
	};
	const struct perf_job_options *job = w->job;
	uint32_t missing = needs[job->workload] & ~w->target->ops_mask;

	if (w->target->readonly &&
	    (needs[job->workload] & ~(1u << BDEV_READ | 1u << BDEV_FLUSH)) != 0) {
		return err_set(err, -EROFS, "%s: %s is read-only", job->name, w->target->name);
	}
	if (missing != 0) {
		return err_set(err, -EOPNOTSUPP, "%s: %s has no %s", job->name, w->target->name,
			       bdev_op_name((enum bdev_op)__builtin_ctz(missing)));
	}
	if (job->io_size % w->target->block_size != 0) {
		return err_set(err, -EINVAL,
			       "%s: io-size %u is no multiple of the %u-byte blocks of %s",
			       job->name, job->io_size, w->target->block_size, w->target->name);
	}
	return 0;
}

/* The job's range in equal parts for its workers. */
static int
set_range(struct perf_worker *w, unsigned workers, struct err *err)
{
	const struct perf_job_options *job = w->job;
	const struct perf_target *t = w->target;
	uint64_t bytes = t->num_blocks * t->block_size;
	uint64_t range = job->size != 0 ? job->size : bytes - MIN(job->offset, bytes);
	uint64_t units = range / job->io_size;

	if (job->offset > bytes || range > bytes - job->offset) {
		return err_set(err, -EINVAL, "%s: the range ends past the %" PRIu64 " bytes of %s",
			       job->name, bytes, t->name);
	}
	if (job->offset % t->block_size != 0) {
		return err_set(err, -EINVAL,
			       "%s: offset is no multiple of the %u-byte blocks of %s", job->name,
			       t->block_size, t->name);
	}
	w->blocks = job->io_size / t->block_size;
	w->sectors_per_block = t->block_size / DRIVER_BLK_SECTOR_BYTES;
	w->units = units / workers;
	if (job->workload == PERF_VERIFY) {
		w->units = MIN(w->units, VERIFY_UNITS_MAX);
	}
	w->first_block = job->offset / t->block_size + w->number * w->units * w->blocks;
	if (w->units < (job->workload == PERF_VERIFY ? w->depth : 1u)) {
		return err_set(err, -EINVAL, "%s: the range of %" PRIu64 " bytes is too small",
			       job->name, range);
	}
	return 0;
}

int
perf_worker_init(struct perf_worker *w, unsigned workers_of_job, struct err *err)
{
	const struct perf_job_options *job = w->job;
	unsigned queue = w->number % job->queues;
	int rc;

	w->ops = w->target->ops;
	w->workload = job->workload;
	w->read_percent = job->read_percent;
	w->depth = job->depth / job->queues + (queue < job->depth % job->queues);
	/* Any value but 0, different for each worker. */
	w->random = (job->seed + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ ((uint64_t)w->number + 1)
									     << 32;
	w->random += w->random == 0;
	w->fd = -1;
	w->buffer_bytes = MAX(job->io_size, w->target->buffer_align);
	rc = check_workload(w, err);
	if (rc == 0) {
		rc = set_range(w, workers_of_job, err);
	}
	return rc;
}

static int
allocate(struct perf_worker *w)
{
	w->request_bytes = PERF_REQUEST_BYTES + (w->target->request_extra + CACHE_LINE_BYTES - 1) /
							CACHE_LINE_BYTES * CACHE_LINE_BYTES;
	w->requests = aligned_alloc(CACHE_LINE_BYTES, w->depth * w->request_bytes);
	w->ready = calloc(w->depth, sizeof(struct perf_request *));
	if (w->workload == PERF_VERIFY) {
		w->generations = calloc(w->units, sizeof(*w->generations));
	}
	if (w->requests == NULL || w->ready == NULL ||
	    (w->workload == PERF_VERIFY && w->generations == NULL)) {
		return -ENOMEM;
	}
	memset(w->requests, 0, w->depth * w->request_bytes);
	for (unsigned i = 0; i < w->depth; i++) {
		struct perf_request *req = perf_worker_request(w, i);

		req->worker = w;
		req->iov = (struct iovec){w->buffers + i * w->buffer_bytes, w->job->io_size};
	}
	return 0;
}

void
perf_worker_start(struct msg *msg)
{
	struct perf_worker *w = CONTAINER_OF(msg, struct perf_worker, start_msg);
	int rc = allocate(w);

	if (rc != 0) {
		err_set(&w->err, rc, "%s: out of memory", w->job->name);
	} else {
		rc = w->ops->start(w, &w->err);
	}
	if (rc == 0) {
		rc = poller_start(&w->poller, &poller_ops, w->fd);
		if (rc != 0) {
			err_set(&w->err, rc, "%s: cannot start polling: %s", w->job->name,
				strerror(-rc));
			w->ops->stop(w);
		}
	}
	w->result.start_ns = clock_now_ns();
	if (rc != 0) {
		w->phase = PERF_FINISHED;
		thread_send(w->run->control, &w->finished_msg, w->finished_msg.fn);
		return;
	}
	submit_all(w);
	thread_send(w->run->control, &w->started_msg, w->started_msg.fn);
}

void
perf_worker_reset(struct msg *msg)
{
	struct perf_worker *w = CONTAINER_OF(msg, struct perf_worker, reset_msg);

	if (w->phase == PERF_RUNNING) {
		memset(&w->result.latency, 0, sizeof(w->result.latency));
		atomic_store(&w->result.ios, 0);
		w->result.start_ns = clock_now_ns();
	}
}

static void
end(struct perf_worker *w)
{
	if (w->phase == PERF_RUNNING) {
		w->phase = PERF_ENDING;
		w->result.end_ns = clock_now_ns();
	}
}

void
perf_worker_stop(struct msg *msg)
{
	struct perf_worker *w = CONTAINER_OF(msg, struct perf_worker, stop_msg);

	end(w);
	if (w->phase != PERF_FINISHED && w->inflight == 0) {
		settle(w);
	}
}

void
perf_worker_abandon(struct msg *msg)
{
	struct perf_worker *w = CONTAINER_OF(msg, struct perf_worker, abandon_msg);

	end(w);
	if (w->phase != PERF_FINISHED) {
		w->inflight = 0;
		finish(w);
	}
}

void
perf_worker_exit(struct msg *msg)
{
	struct perf_worker *w = CONTAINER_OF(msg, struct perf_worker, exit_msg);

	free(w->requests);
	free(w->ready);
	free(w->generations);
	thread_exit();
}
