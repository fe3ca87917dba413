/* SPDX-License-Identifier: BSD-3-Clause */
/* Latency histograms of bdevs, in SPDK's encoding. */
#include "bdev/histogram.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/base64.h"
#include "base/check.h"
#include "base/clock.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

#define BORDERS_MAX 4096

static struct bdev *
find(struct rpc_request *req, const char *name)
{
	struct bdev *b = bdev_find(name);

	if (b == NULL) {
		rpc_error(req, -ENODEV, "there is no bdev '%.128s'", name);
	}
	return b;
}

/* False: there is no such operation, and the request is answered. NULL is all of them. */
static bool
find_op(struct rpc_request *req, const char *name, enum bdev_op *ret_op)
{
	*ret_op = BDEV_OP_ANY;
	for (unsigned op = 0; name != NULL && op < BDEV_OP_COUNT; op++) {
		if (strcmp(name, bdev_op_name(op)) == 0) {
			*ret_op = op;
		}
	}
	if (name != NULL && *ret_op == BDEV_OP_ANY) {
		rpc_error(req, RPC_ERROR_INTERNAL, "there is no operation '%.64s'", name);
		return false;
	}
	return true;
}

/* ---- What is kept ---- */

json_t *
histogram_params(const struct bdev *b)
{
	struct bdev_histogram_options o = BDEV_HISTOGRAM_DEFAULTS;
	bool enabled = bdev_get_histogram_options(b, &o);
	json_t *params = json_pack("{s:o, s:b}", "name", text_json(bdev_name(b)), "enable", enabled);

	if (enabled) {
		if (o.op != BDEV_OP_ANY) {
			json_object_set_new(params, "opc", json_string(bdev_op_name(o.op)));
		}
		json_object_set_new(params, "granularity", json_integer(o.granularity));
		json_object_set_new(params, "min_nsec", json_integer((json_int_t)o.min_ns));
		json_object_set_new(params, "max_nsec", json_integer((json_int_t)o.max_ns));
	}
	return params;
}

static void
enabled(void *ctx)
{
	rpc_true(ctx);
}

static void
enable(struct rpc_request *req, const void *params)
{
	const struct bdev_enable_histogram_params *p = params;
	struct bdev *b = bdev_find(p->name);
	struct bdev_histogram_options o;
	struct err err = ERR_NONE;
	int rc;

	/* An answered request has no params any more. */
	if (!find_op(req, p->opc, &o.op)) {
		return;
	}
	if (b == NULL) {
		if (p->min_nsec >= p->max_nsec || !kept_set(req, "bdev_enable_histogram", p->name)) {
			(void)find(req, p->name);
		}
		return;
	}
	o.granularity = p->granularity;
	o.min_ns = p->min_nsec;
	o.max_ns = p->max_nsec;
	rc = bdev_set_histogram(b, p->enable ? &o : NULL, enabled, req, &err);
	if (rc != 0) {
		rpc_error_from(req, rc, &err);
		return;
	}
	rpc_set_recorded_params(req, histogram_params(b));
}

/* ---- What was counted ---- */

static void
got(void *ctx, const struct bdev_histogram *h)
{
	char *text = base64_encode((const uint8_t *)h->buckets,
				   h->bucket_count * sizeof(h->buckets[0]));

	if (text == NULL) {
		rpc_error(ctx, -ENOMEM, "out of memory");
		return;
	}
	rpc_result(ctx, json_pack("{s:s, s:I, s:I, s:I, s:I}", "histogram", text, "granularity",
				  (json_int_t)h->granularity, "min_range",
				  (json_int_t)h->min_range, "max_range", (json_int_t)h->max_range,
				  "tsc_rate", (json_int_t)CLOCK_TICKS_PER_SECOND));
	free(text);
}

static void
get(struct rpc_request *req, const void *params)
{
	const struct bdev_get_histogram_params *p = params;
	struct bdev *b = find(req, p->name);
	struct err err = ERR_NONE;
	enum bdev_op op;

	if (b != NULL && find_op(req, p->opc, &op) &&
	    bdev_get_histogram(b, op, got, req, &err) != 0) {
		rpc_error_from(req, RPC_ERROR_INTERNAL, &err);
	}
}

struct borders {
	struct rpc_request *req;
	size_t count;
	uint64_t ns[];
};

/* As in SPDK: a bucket that a border goes through counts as below it. */
static void
got_borders(void *ctx, const struct bdev_histogram *h)
{
	struct borders *b = ctx;
	json_t *counts = json_array();
	uint64_t so_far = 0, begin = 0;
	size_t bucket = 0;

	for (size_t i = 0; i < b->count; i++) {
		for (; bucket < h->bucket_count && begin <= b->ns[i]; bucket++) {
			so_far += h->buckets[bucket];
			begin = bdev_histogram_end(h, bucket);
		}
		json_array_append_new(counts, json_integer((json_int_t)so_far));
	}
	for (; bucket < h->bucket_count; bucket++) {
		so_far += h->buckets[bucket];
	}
	json_array_append_new(counts, json_integer((json_int_t)so_far));
	rpc_result(b->req, json_pack("{s:o}", "borders_count", counts));
	free(b);
}

/* NULL: the request is answered. */
static struct borders *
read_borders(struct rpc_request *req, const json_t *array)
{
	size_t count = json_array_size(array);
	struct borders *b;

	if (!json_is_array(array) || count == 0 || count > BORDERS_MAX) {
		rpc_error(req, -EINVAL, "borders must be an array of 1 to %d numbers", BORDERS_MAX);
		return NULL;
	}
	b = calloc(1, sizeof(*b) + count * sizeof(b->ns[0]));
	if (b == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
		return NULL;
	}
	b->req = req;
	for (; b->count < count; b->count++) {
		json_int_t us = json_integer_value(json_array_get(array, b->count));

		if (us <= 0 || us > INT64_MAX / (json_int_t)NS_PER_US ||
		    (b->count > 0 && (uint64_t)us * NS_PER_US <= b->ns[b->count - 1])) {
			rpc_error(req, -EINVAL, "borders must be whole microseconds, ascending");
			free(b);
			return NULL;
		}
		b->ns[b->count] = (uint64_t)us * NS_PER_US;
	}
	return b;
}

static void
get_borders(struct rpc_request *req, const void *params)
{
	const struct bdev_get_histogram_borders_params *p = params;
	struct bdev *bdev = find(req, p->name);
	struct borders *b = bdev != NULL ? read_borders(req, p->borders) : NULL;
	struct err err = ERR_NONE;

	if (b != NULL && bdev_get_histogram(bdev, BDEV_OP_ANY, got_borders, b, &err) != 0) {
		free(b);
		rpc_error_from(req, RPC_ERROR_INTERNAL, &err);
	}
}

const struct rpc_method histogram_methods[] = {
	{"bdev_enable_histogram", enable},
	{"bdev_get_histogram", get},
	{"bdev_get_histogram_borders", get_borders},
	{NULL, NULL},
};
