/* SPDX-License-Identifier: BSD-3-Clause */
/* What bdevs have done so far. A bdev's numbers are gathered from its channels by messages, so
 * bdevs are asked one after another. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "bdev/bdev.h"
#include "bdev/sampling.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

enum reset { RESET_NONE, RESET_EXTREMES, RESET_ALL };

/* One request: the names that are left to ask, and what was found. */
struct job {
	struct rpc_request *req;
	char **names;
	size_t count, next;
	enum reset reset;
	bool read; /* bdev_get_iostat, not bdev_reset_iostat */
	json_t *stats;
};

static enum reset
reset_of(const char *mode)
{
	return strcmp(mode, "all") == 0      ? RESET_ALL
	       : strcmp(mode, "maxmin") == 0 ? RESET_EXTREMES
					     : RESET_NONE;
}

static void
job_free(struct job *job)
{
	for (size_t i = 0; i < job->count; i++) {
		free(job->names[i]);
	}
	free(job->names);
	json_decref(job->stats);
	free(job);
}

static int
job_add(struct job *job, const char *name)
{
	char **names = realloc(job->names, (job->count + 1) * sizeof(*names));

	if (names == NULL) {
		return -ENOMEM;
	}
	job->names = names;
	names[job->count] = strdup(name);
	return names[job->count] != NULL ? (void)job->count++, 0 : -ENOMEM;
}

/* Names given, or all bdevs. On errors the request is answered. */
static struct job *
job_create(struct rpc_request *req, const char *const *names, size_t count)
{
	struct job *job = calloc(1, sizeof(*job));
	int rc = job != NULL ? 0 : -ENOMEM;

	for (size_t i = 0; rc == 0 && i < count; i++) {
		if (bdev_find(names[i]) == NULL) {
			rpc_error(req, -ENODEV, "there is no bdev '%.128s'", names[i]);
			job_free(job);
			return NULL;
		}
		rc = job_add(job, names[i]);
	}
	for (struct bdev *b = bdev_first(); rc == 0 && count == 0 && b != NULL; b = bdev_next(b)) {
		rc = job_add(job, bdev_name(b));
	}
	if (rc != 0) {
		if (job != NULL) {
			job_free(job);
		}
		rpc_error(req, rc, "out of memory");
		return NULL;
	}
	job->req = req;
	job->stats = json_array();
	return job;
}

/* ---- One bdev ---- */

static void
set_op(json_t *object, const char *name, const char *bytes, const struct bdev_op_stats *op)
{
	char key[64];

	snprintf(key, sizeof(key), "bytes_%s", bytes);
	json_object_set_new(object, key, json_integer((json_int_t)op->bytes));
	snprintf(key, sizeof(key), "num_%s_ops", name);
	json_object_set_new(object, key, json_integer((json_int_t)op->ops));
}

static void
set_latency(json_t *object, const char *name, const struct bdev_op_stats *op)
{
	char key[64];

	snprintf(key, sizeof(key), "%s_latency_ticks", name);
	json_object_set_new(object, key, json_integer((json_int_t)op->latency_ns));
	snprintf(key, sizeof(key), "max_%s_latency_ticks", name);
	json_object_set_new(object, key, json_integer((json_int_t)op->max_ns));
	snprintf(key, sizeof(key), "min_%s_latency_ticks", name);
	json_object_set_new(object, key,
			    json_integer(op->min_ns != UINT64_MAX ? (json_int_t)op->min_ns : 0));
}

/* Operations that SPDK does not count, those that there were. */
static void
set_others(json_t *object, const struct bdev_stats *stats)
{
	const unsigned shown = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_UNMAP |
			       1u << BDEV_COPY;
	json_t *others = json_object();

	for (unsigned i = 0; i < BDEV_OP_COUNT; i++) {
		const struct bdev_op_stats *op = &stats->op[i];

		if ((shown >> i & 1) == 0 && op->ops != 0) {
			json_object_set_new(
				others, bdev_op_name(i),
				json_pack("{s:I, s:I, s:I, s:I, s:I}", "num_ops",
					  (json_int_t)op->ops, "bytes", (json_int_t)op->bytes,
					  "latency_ticks", (json_int_t)op->latency_ns,
					  "max_latency_ticks", (json_int_t)op->max_ns,
					  "min_latency_ticks",
					  op->min_ns != UINT64_MAX ? (json_int_t)op->min_ns : 0));
		}
	}
	json_object_set_new(object, "other_ops", others);
}

static void
set_count(json_t *object, const char *key, uint64_t count)
{
	if (count != 0) {
		json_object_set_new(object, key, json_integer((json_int_t)count));
	}
}

/* io_error: SPDK's kinds; errors: ours, for each operation. */
static void
set_errors(json_t *object, const struct bdev_stats *stats)
{
	json_t *spdk = json_object(), *ours = json_object();
	uint64_t aborted = 0, miscompared = 0;

	for (unsigned op = 0; stats->by_kind != NULL && op < BDEV_OP_COUNT; op++) {
		const uint64_t *counts = stats->by_kind->count[op];
		json_t *kinds = json_object();

		aborted += counts[BDEV_ERROR_ABORTED];
		miscompared += counts[BDEV_ERROR_MISCOMPARE];
		for (unsigned i = 0; i < BDEV_ERROR_COUNT; i++) {
			set_count(kinds, bdev_error_name(i), counts[i]);
		}
		if (json_object_size(kinds) != 0) {
			json_object_set(ours, bdev_op_name(op), kinds);
		}
		json_decref(kinds);
	}
	set_count(spdk, "aborted", aborted);
	set_count(spdk, "miscompare", miscompared);
	set_count(spdk, "failed", stats->errors - aborted - miscompared);
	json_object_set_new(object, "io_error", spdk);
	json_object_set_new(object, "errors", ours);
}

static void
set_stats(json_t *object, const struct bdev_stats *stats)
{
	const struct {
		const char *name, *bytes;
		const struct bdev_op_stats *op;
	} rows[] = {
		{"read", "read", &stats->op[BDEV_READ]},
		{"write", "written", &stats->op[BDEV_WRITE]},
		{"unmap", "unmapped", &stats->op[BDEV_UNMAP]},
		{"copy", "copied", &stats->op[BDEV_COPY]},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		set_op(object, rows[i].name, rows[i].bytes, rows[i].op);
	}
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		set_latency(object, rows[i].name, rows[i].op);
	}
	set_others(object, stats);
	set_errors(object, stats);
}

static void
set_queue_depth(json_t *object, const struct bdev *b)
{
	struct bdev_queue_depth qd;

	bdev_get_queue_depth(b, &qd);
	if (qd.period_us != 0) {
		json_object_set_new(object, "queue_depth_polling_period",
				    json_integer((json_int_t)qd.period_us));
		json_object_set_new(object, "queue_depth",
				    json_integer((json_int_t)qd.queue_depth));
		json_object_set_new(object, "io_time", json_integer((json_int_t)qd.io_time_us));
		json_object_set_new(object, "weighted_io_time",
				    json_integer((json_int_t)qd.weighted_io_time_us));
	}
}

/* ---- The way through the list ---- */

static void next_bdev(struct job *job);

static void
was_reset(void *ctx)
{
	struct job *job = ctx;

	job->next++;
	next_bdev(job);
}

static void
reset_one(struct job *job)
{
	struct bdev *b = bdev_find(job->names[job->next]);

	if (job->reset == RESET_NONE || b == NULL ||
	    bdev_reset_stats(b, job->reset == RESET_EXTREMES, was_reset, job) != 0) {
		was_reset(job);
	}
}

static void
got_stats(void *ctx, const struct bdev_stats *stats)
{
	struct job *job = ctx;
	const char *name = job->names[job->next];
	const struct bdev *b = bdev_find(name);
	json_t *object = json_object();

	/* SPDK shows the bdev's own name, also when it was asked for by an alias. */
	json_object_set_new(object, "name", text_json(b != NULL ? bdev_name(b) : name));
	set_stats(object, stats);
	if (b != NULL) {
		set_queue_depth(object, b);
	}
	json_array_append_new(job->stats, object);
	reset_one(job);
}

static void
finish(struct job *job)
{
	struct rpc_request *req = job->req;

	if (job->read) {
		rpc_result(req, json_pack("{s:I, s:I, s:O}", "tick_rate",
					  (json_int_t)CLOCK_TICKS_PER_SECOND, "ticks",
					  (json_int_t)clock_now_ns(), "bdevs", job->stats));
	} else {
		rpc_true(req);
	}
	job_free(job);
}

/* A bdev that went away meanwhile is left out. */
static void
next_bdev(struct job *job)
{
	while (job->next < job->count) {
		struct bdev *b = bdev_find(job->names[job->next]);

		if (b != NULL && !job->read) {
			reset_one(job);
			return;
		}
		if (b != NULL && bdev_get_stats(b, got_stats, job) == 0) {
			return;
		}
		job->next++;
	}
	finish(job);
}

/* ---- Each channel by itself ---- */

static void
add_channel(void *ctx, const char *user, const struct bdev_stats *stats)
{
	struct job *job = ctx;
	json_t *object = json_pack("{s:I}", "thread_id", (json_int_t)thread_id(thread_self()));

	json_object_set_new(object, "user", text_json(user));
	set_stats(object, stats);
	json_array_append_new(job->stats, object);
}

static void
channels_done(void *ctx)
{
	struct job *job = ctx;

	rpc_result(job->req, json_pack("{s:I, s:I, s:o, s:O}", "tick_rate",
				       (json_int_t)CLOCK_TICKS_PER_SECOND, "ticks",
				       (json_int_t)clock_now_ns(), "name", text_json(job->names[0]),
				       "channels", job->stats));
	job_free(job);
}

static void
get_channels(struct job *job)
{
	struct rpc_request *req = job->req;

	if (bdev_for_each_channel_stats(bdev_find(job->names[0]), add_channel, channels_done,
					job) != 0) {
		job_free(job);
		rpc_error(req, -ENOMEM, "out of memory");
	}
}

/* ---- Methods ---- */

static void
get_iostat(struct rpc_request *req, const void *params)
{
	const struct bdev_get_iostat_params *p = params;
	struct job *job;

	if (p->per_channel && p->names.count != 1) {
		rpc_error(req, -EINVAL, "per_channel needs exactly one name in names");
		return;
	}
	job = job_create(req, p->names.items, p->names.count);
	if (job == NULL) {
		return;
	}
	job->read = true;
	job->reset = reset_of(p->reset_mode);
	if (p->per_channel) {
		get_channels(job);
	} else {
		next_bdev(job);
	}
}

static void
reset_iostat(struct rpc_request *req, const void *params)
{
	const struct bdev_reset_iostat_params *p = params;
	struct job *job = job_create(req, &p->name, p->name != NULL ? 1 : 0);

	if (job != NULL) {
		job->reset = reset_of(p->mode);
		next_bdev(job);
	}
}

const struct rpc_method iostat_methods[] = {
	{"bdev_get_iostat", get_iostat},
	{"bdev_reset_iostat", reset_iostat},
	{NULL, NULL},
};
