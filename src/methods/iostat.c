/* SPDX-License-Identifier: BSD-3-Clause */
/* What bdevs have done so far. A bdev's numbers are gathered from its channels by messages, so
 * bdevs are asked one after another. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "bdev/bdev.h"
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

static void
set_stats(json_t *object, const struct bdev_stats *stats)
{
	static const struct bdev_op_stats none;
	const struct {
		const char *name, *bytes;
		const struct bdev_op_stats *op;
	} rows[] = {
		{"read", "read", &stats->op[BDEV_READ]},
		{"write", "written", &stats->op[BDEV_WRITE]},
		{"unmap", "unmapped", &stats->op[BDEV_UNMAP]},
		{"copy", "copied", &none},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		set_op(object, rows[i].name, rows[i].bytes, rows[i].op);
	}
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		set_latency(object, rows[i].name, rows[i].op);
	}
	json_object_set_new(object, "io_error",
			    stats->errors == 0
				    ? json_object()
				    : json_pack("{s:I}", "failed", (json_int_t)stats->errors));
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
add_channel(void *ctx, const struct bdev_stats *stats)
{
	struct job *job = ctx;
	json_t *object = json_pack("{s:I}", "thread_id", (json_int_t)thread_id(thread_self()));

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
