/* SPDX-License-Identifier: BSD-3-Clause */
/* Limits of bdevs, the shares of those who use them, and the sampling of queue depths. */
#include "bdev/qos.h"

#include <errno.h>

#include "base/check.h"
#include "bdev/histogram.h"
#include "bdev/sampling.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

/* There is no such bdev: one that waits for its base gets what was set when it comes. */
static void
find_later(struct rpc_request *req, const char *method, const char *name)
{
	if (!kept_set(req, method, name)) {
		rpc_error(req, -ENODEV, "there is no bdev '%.128s'", name);
	}
}

/* ---- JSON ---- */

json_t *
qos_limits_json(const struct bdev *b)
{
	struct bdev_qos_limits l;

	bdev_get_qos_limits(b, &l);
	return json_pack("{s:I, s:I, s:I, s:I}", "rw_ios_per_sec", (json_int_t)l.rw_ios_per_sec,
			 "rw_mbytes_per_sec", (json_int_t)l.rw_mbytes_per_sec, "r_mbytes_per_sec",
			 (json_int_t)l.r_mbytes_per_sec, "w_mbytes_per_sec",
			 (json_int_t)l.w_mbytes_per_sec);
}

static json_t *
limit_params(const struct bdev *b)
{
	json_t *params = json_pack("{s:o}", "name", text_json(bdev_name(b)));
	json_t *limits = qos_limits_json(b);
	struct bdev_qos_limits l;

	bdev_get_qos_limits(b, &l);
	json_object_update(params, limits);
	json_decref(limits);
	json_object_set_new(params, "burst_ms", json_integer(l.burst_ms));
	return params;
}

static json_t *
user_json(const char *user, uint32_t weight)
{
	return json_pack("{s:o, s:I}", "user", text_json(user), "weight", (json_int_t)weight);
}

static bool
has_qos(const struct bdev *b)
{
	struct bdev_qos_limits l;
	uint32_t weight;
	const char *user;

	bdev_get_qos_limits(b, &l);
	return l.rw_ios_per_sec != 0 || l.rw_mbytes_per_sec != 0 || l.r_mbytes_per_sec != 0 ||
	       l.w_mbytes_per_sec != 0 || l.burst_ms != BDEV_QOS_BURST_MS_DEFAULT ||
	       bdev_get_qos_weight(b, 0, &user, &weight);
}

static json_t *
qos_json(struct bdev *b)
{
	json_t *object = limit_params(b), *weights = json_array(), *users = json_array();
	struct bdev_desc *desc;
	const char *user;
	uint32_t weight;

	for (unsigned i = 0; bdev_get_qos_weight(b, i, &user, &weight); i++) {
		json_array_append_new(weights, user_json(user, weight));
	}
	for (desc = bdev_next_desc(b, NULL); desc != NULL; desc = bdev_next_desc(b, desc)) {
		json_array_append_new(users,
				      user_json(bdev_desc_user(desc), bdev_desc_weight(desc)));
	}
	json_object_set_new(object, "weights", weights);
	json_object_set_new(object, "users", users);
	return object;
}

/* ---- Methods ---- */

static void
limits_set(void *ctx)
{
	rpc_true(ctx);
}

static void
set_limit(struct rpc_request *req, const void *params)
{
	const struct bdev_set_qos_limit_params *p = params;
	struct bdev *b = bdev_find(p->name);
	struct bdev_qos_limits l = {.burst_ms = BDEV_QOS_BURST_MS_DEFAULT};
	struct err err = ERR_NONE;
	int rc;

	if (!p->has_rw_ios_per_sec && !p->has_rw_mbytes_per_sec && !p->has_r_mbytes_per_sec &&
	    !p->has_w_mbytes_per_sec && !p->has_burst_ms) {
		rpc_error(req, -EINVAL, "no limits were given for bdev '%.128s'", p->name);
		return;
	}
	if (b != NULL) {
		bdev_get_qos_limits(b, &l);
	}
	l.rw_ios_per_sec = p->has_rw_ios_per_sec ? p->rw_ios_per_sec : l.rw_ios_per_sec;
	l.rw_mbytes_per_sec = p->has_rw_mbytes_per_sec ? p->rw_mbytes_per_sec
						       : l.rw_mbytes_per_sec;
	l.r_mbytes_per_sec = p->has_r_mbytes_per_sec ? p->r_mbytes_per_sec : l.r_mbytes_per_sec;
	l.w_mbytes_per_sec = p->has_w_mbytes_per_sec ? p->w_mbytes_per_sec : l.w_mbytes_per_sec;
	l.burst_ms = p->has_burst_ms ? p->burst_ms : l.burst_ms;
	rc = bdev_qos_check_limits(&l, &err);
	if (rc == 0 && b == NULL) {
		find_later(req, "bdev_set_qos_limit", p->name);
		return;
	}
	if (rc == 0) {
		rc = bdev_set_qos_limits(b, &l, limits_set, req, &err);
	}
	if (rc != 0) {
		rpc_error_from(req, rc, &err);
		return;
	}
	rpc_set_recorded_params(req, limit_params(b));
}

static void
set_weight(struct rpc_request *req, const void *params)
{
	const struct bdev_set_qos_weight_params *p = params;
	struct bdev *b = bdev_find(p->name);
	struct err err = ERR_NONE;
	int rc;

	if (b == NULL) {
		find_later(req, "bdev_set_qos_weight", p->name);
		return;
	}
	rc = bdev_set_qos_weight(b, p->user, p->weight, &err);
	if (rc != 0) {
		rpc_error_from(req, rc, &err);
		return;
	}
	rpc_set_recorded_params(req, json_pack("{s:o, s:o, s:I}", "name", text_json(bdev_name(b)),
					       "user", text_json(p->user), "weight",
					       (json_int_t)p->weight));
	rpc_true(req);
}

static void
get_qos(struct rpc_request *req, const void *params)
{
	const struct bdev_get_qos_params *p = params;
	json_t *array;

	if (p->name != NULL) {
		struct bdev *b = bdev_find(p->name);

		if (b != NULL) {
			rpc_result(req, json_pack("[o]", qos_json(b)));
		} else {
			rpc_error(req, -ENODEV, "there is no bdev '%.128s'", p->name);
		}
		return;
	}
	array = json_array();
	for (struct bdev *b = bdev_first(); b != NULL; b = bdev_next(b)) {
		if (has_qos(b)) {
			json_array_append_new(array, qos_json(b));
		}
	}
	rpc_result(req, array);
}

static json_t *
period_params(const struct bdev *b)
{
	struct bdev_queue_depth qd;

	bdev_get_queue_depth(b, &qd);
	return json_pack("{s:o, s:I}", "name", text_json(bdev_name(b)), "period",
			 (json_int_t)qd.period_us);
}

static void
set_period(struct rpc_request *req, const void *params)
{
	const struct bdev_set_qd_sampling_period_params *p = params;
	struct bdev *b = bdev_find(p->name);

	if (b == NULL) {
		find_later(req, "bdev_set_qd_sampling_period", p->name);
		return;
	}
	if (bdev_set_qd_sampling_period(b, p->period) != 0) {
		rpc_error(req, -ENOMEM, "out of memory");
		return;
	}
	rpc_set_recorded_params(req, period_params(b));
	rpc_true(req);
}

/* ---- Configuration ---- */

static void
weights_config(json_t *calls, const struct bdev *b)
{
	const char *user;
	uint32_t weight;

	for (unsigned i = 0; bdev_get_qos_weight(b, i, &user, &weight); i++) {
		json_t *params = user_json(user, weight);

		json_object_set_new(params, "name", text_json(bdev_name(b)));
		json_array_append_new(calls, call_json("bdev_set_qos_weight", params));
	}
}

void
qos_calls(json_t *calls, const struct bdev *b)
{
	struct bdev_histogram_options o;
	struct bdev_queue_depth qd;

	if (has_qos(b)) {
		json_array_append_new(calls, call_json("bdev_set_qos_limit", limit_params(b)));
		weights_config(calls, b);
	}
	bdev_get_queue_depth(b, &qd);
	if (qd.period_us != 0) {
		json_array_append_new(calls,
				      call_json("bdev_set_qd_sampling_period", period_params(b)));
	}
	if (bdev_get_histogram_options(b, &o)) {
		json_array_append_new(calls,
				      call_json("bdev_enable_histogram", histogram_params(b)));
	}
}

void
qos_config(json_t *calls, bool for_state)
{
	for (struct bdev *b = bdev_first(); b != NULL; b = bdev_next(b)) {
		qos_calls(calls, b);
	}
}

const struct rpc_method qos_methods[] = {
	{"bdev_set_qos_limit", set_limit},
	{"bdev_set_qos_weight", set_weight},
	{"bdev_get_qos", get_qos},
	{"bdev_set_qd_sampling_period", set_period},
	{NULL, NULL},
};
