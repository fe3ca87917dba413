/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on vhost-user controllers. SPDK's clients know most errors here as -32602, so that is
 * the code; the words say which. */
#include "vhost/vhost.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "bdev/bdev.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

#define TRANSPORT "vhost_user_blk"

/* As it came, but with the bdev's own name: a volume's alias may be another's later. */
static void
record_created(struct rpc_request *req, const char *dev_name)
{
	const struct bdev *bdev = bdev_find(dev_name);
	json_t *recorded = json_copy((json_t *)rpc_request_params(req));

	if (bdev != NULL && recorded != NULL) {
		json_object_set_new(recorded, "dev_name", text_json(bdev_name(bdev)));
		rpc_set_recorded_params(req, recorded);
	} else {
		json_decref(recorded);
	}
}

static void
create(struct rpc_request *req, const void *params)
{
	const struct vhost_create_blk_controller_params *p = params;
	struct vhost_blk_options o = {
		.name = p->ctrlr,
		.bdev_name = p->dev_name,
		.cpumask = p->cpumask,
		.readonly = p->readonly,
		.packed_ring = p->packed_ring,
	};
	struct vhost_controller *ctrlr;
	struct err err = ERR_NONE;
	int rc = vhost_blk_create(&o, &ctrlr, &err);

	if (rc != 0) {
		rpc_error_from(req, rc == -EOPNOTSUPP ? rc : RPC_ERROR_INVALID_PARAMS, &err);
	} else {
		record_created(req, p->dev_name);
		rpc_true(req);
	}
}

static void
deleted(void *ctx, int status)
{
	if (status == 0) {
		rpc_true(ctx);
	} else {
		rpc_error(ctx, RPC_ERROR_INVALID_PARAMS, "%s", strerror(-status));
	}
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct vhost_delete_controller_params *p = params;
	struct err err = ERR_NONE;

	if (vhost_delete(p->ctrlr, deleted, req, &err) != 0) {
		if (err.code == -ENODEV && methods->forget != NULL &&
		    methods->forget(methods->ctx, "vhost_", p->ctrlr)) {
			rpc_true(req);
		} else {
			rpc_error_from(req, RPC_ERROR_INVALID_PARAMS, &err);
		}
	}
}

static void
set_coalescing(struct rpc_request *req, const void *params)
{
	const struct vhost_controller_set_coalescing_params *p = params;
	struct vhost_controller *ctrlr = vhost_find(p->ctrlr);
	struct err err = ERR_NONE;

	if (ctrlr == NULL) {
		rpc_error(req, RPC_ERROR_INVALID_PARAMS, "there is no controller '%.128s'",
			  p->ctrlr);
	} else if (vhost_set_coalescing(ctrlr, p->delay_base_us, p->iops_threshold, &err) != 0) {
		rpc_error_from(req, RPC_ERROR_INVALID_PARAMS, &err);
	} else {
		rpc_true(req);
	}
}

static void
add_name(struct rpc_list *list, const struct vhost_controller *ctrlr)
{
	struct vhost_info info;

	vhost_get_info(ctrlr, &info);
	rpc_list_add(list, info.name);
}

/* ---- vhost_get_controllers ---- */

static json_t *
session_json(const struct vhost_info *info)
{
	const struct vhost_session_info *s = &info->session;

	return json_pack("{s:I, s:I, s:s, s:b, s:i, s:i, s:i, s:I, s:I}", "vid", (json_int_t)s->id,
			 "id", (json_int_t)s->id, "name", info->name, "started", s->started,
			 "max_queues", (int)s->max_queues, "queues_started", (int)s->queues_started,
			 "memory_regions", (int)s->memory_regions, "negotiated_features",
			 (json_int_t)s->negotiated_features, "protocol_features",
			 (json_int_t)s->protocol_features);
}

static json_t *
controller_json(const void *ctx, const char *name)
{
	const struct vhost_controller *ctrlr = vhost_find(name);
	struct vhost_info info;
	json_t *sessions;

	if (ctrlr == NULL) {
		return NULL;
	}
	vhost_get_info(ctrlr, &info);
	sessions = json_array();
	if (info.has_session) {
		json_array_append_new(sessions, session_json(&info));
	}
	return json_pack("{s:s, s:s, s:I, s:I, s:o, s:o, s:{s:{s:b, s:o, s:s}}}", "ctrlr",
			 info.name, "cpumask", info.cpumask, "delay_base_us",
			 (json_int_t)info.delay_base_us, "iops_threshold",
			 (json_int_t)info.iops_threshold, "socket", text_json(info.socket_path),
			 "sessions", sessions, "backend_specific", "block", "readonly",
			 info.readonly, "bdev",
			 info.bdev_name[0] != '\0' ? text_json(info.bdev_name) : json_null(),
			 "transport", TRANSPORT);
}

static void
get_controllers(struct rpc_request *req, const void *params)
{
	const struct vhost_get_controllers_params *p = params;
	struct rpc_list *list;

	if (p->name != NULL) {
		if (vhost_find(p->name) == NULL) {
			rpc_error(req, RPC_ERROR_INTERNAL, "there is no controller '%.128s'",
				  p->name);
		} else {
			rpc_result(req, json_pack("[o]", controller_json(NULL, p->name)));
		}
		return;
	}
	list = rpc_list_begin(req, controller_json, NULL);
	for (struct vhost_controller *c = vhost_first(); c != NULL; c = vhost_next(c)) {
		add_name(list, c);
	}
	rpc_list_end(list);
}

/* ---- vhost_get_stats ---- */

static json_t *
queues_json(const struct vhost_controller *ctrlr)
{
	struct vhost_queue_info queues[VHOST_QUEUES_MAX];
	unsigned count = vhost_get_queues(ctrlr, queues, VHOST_QUEUES_MAX);
	json_t *array = json_array();

	for (unsigned i = 0; i < count; i++) {
		const struct vhost_queue_info *q = &queues[i];

		json_array_append_new(
			array, json_pack("{s:i, s:i, s:s, s:I, s:I}", "index", (int)q->index,
					 "lcore", (int)reactor_lcore(thread_reactor(q->thread)),
					 "thread", thread_name(q->thread), "inflight",
					 (json_int_t)q->inflight, "requests",
					 (json_int_t)q->requests));
	}
	return array;
}

static json_t *
stats_json(const void *ctx, const char *name)
{
	struct vhost_controller *ctrlr = vhost_find(name);
	struct vhost_stats stats, *s = &stats;
	struct vhost_info info;

	if (ctrlr == NULL) {
		return NULL;
	}
	vhost_get_info(ctrlr, &info);
	vhost_get_stats(ctrlr, s);
	return json_pack("{s:s, s:o, s:b, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}",
			 "ctrlr", info.name, "bdev",
			 info.bdev_name[0] != '\0' ? text_json(info.bdev_name) : json_null(),
			 "session", info.has_session, "queues", queues_json(ctrlr), "inflight",
			 (json_int_t)s->inflight, "read_ops", (json_int_t)s->read_ops, "write_ops",
			 (json_int_t)s->write_ops, "other_ops", (json_int_t)s->other_ops,
			 "bytes_read", (json_int_t)s->bytes_read, "bytes_written",
			 (json_int_t)s->bytes_written, "latency_ns_total",
			 (json_int_t)s->latency_ns, "errors", (json_int_t)s->errors, "malformed",
			 (json_int_t)s->malformed, "calls", (json_int_t)s->calls, "kicks",
			 (json_int_t)s->kicks);
}

static void
get_stats(struct rpc_request *req, const void *params)
{
	const struct vhost_get_stats_params *p = params;
	struct vhost_controller *c = p->ctrlr != NULL ? vhost_find(p->ctrlr) : vhost_first();
	uint64_t now = clock_now_ns(), window = p->active_ms * UINT64_C(1000000);
	struct rpc_list *list;

	if (p->ctrlr != NULL && c == NULL) {
		rpc_error(req, -ENODEV, "there is no controller '%.128s'", p->ctrlr);
		return;
	}
	list = rpc_list_begin(req, stats_json, NULL);
	for (; c != NULL; c = p->ctrlr != NULL ? NULL : vhost_next(c)) {
		struct vhost_stats s;

		vhost_get_stats(c, &s);
		if (p->active_ms == 0 || s.inflight > 0 || (s.active_ns != 0 && s.active_ns + window >= now)) {
			add_name(list, c);
		}
	}
	rpc_list_end(list);
}

/* ---- Transports ---- */

static void
create_transport(struct rpc_request *req, const void *params)
{
	const struct virtio_blk_create_transport_params *p = params;

	if (strcmp(p->name, TRANSPORT) == 0) {
		rpc_error(req, -EEXIST, "the transport " TRANSPORT " exists already");
	} else {
		rpc_error(req, RPC_ERROR_INVALID_PARAMS,
			  "there is no transport '%.64s', only " TRANSPORT, p->name);
	}
}

static void
get_transports(struct rpc_request *req, const void *params)
{
	const struct virtio_blk_get_transports_params *p = params;

	if (p->name != NULL && strcmp(p->name, TRANSPORT) != 0) {
		rpc_error(req, -ENODEV, "there is no transport '%.64s'", p->name);
	} else {
		rpc_result(req, json_pack("[{s:s}]", "name", TRANSPORT));
	}
}

/* ---- Configuration ---- */

/* SPDK writes the mask without 0x; in the state, a controller on all reactors is on all of
 * another machine's, too. */
static json_t *
create_json(const struct vhost_info *info, bool for_state)
{
	const char *mask = strncmp(info->cpumask, "0x", 2) == 0 ? info->cpumask + 2 : info->cpumask;
	json_t *params = json_pack("{s:s, s:o, s:b, s:s}", "ctrlr", info->name, "dev_name",
				   text_json(info->bdev_name), "readonly", info->readonly,
				   "transport", TRANSPORT);

	if (!for_state || !mask_is_all(info->cpumask)) {
		json_object_set_new(params, "cpumask", json_string(mask));
	}
	return call_json("vhost_create_blk_controller", params);
}

void
vhost_config(json_t *calls, bool for_state)
{
	for (struct vhost_controller *c = vhost_first(); c != NULL; c = vhost_next(c)) {
		struct vhost_info info;

		vhost_get_info(c, &info);
		/* One that has lost its bdev could not be made again. */
		if (info.bdev_name[0] == '\0') {
			continue;
		}
		if (!for_state || !disk_has_controller(&info)) {
			json_array_append_new(calls, create_json(&info, for_state));
		}
		if (info.delay_base_us != 0) {
			json_array_append_new(
				calls,
				call_json("vhost_controller_set_coalescing",
					  json_pack("{s:s, s:I, s:I}", "ctrlr", info.name,
						    "delay_base_us", (json_int_t)info.delay_base_us,
						    "iops_threshold",
						    (json_int_t)info.iops_threshold)));
		}
	}
}

const struct rpc_method vhost_methods[] = {
	{"vhost_create_blk_controller", create},
	{"vhost_get_controllers", get_controllers},
	{"vhost_get_stats", get_stats},
	{"vhost_delete_controller", delete},
	{"vhost_controller_set_coalescing", set_coalescing},
	{"virtio_blk_create_transport", create_transport},
	{"virtio_blk_get_transports", get_transports},
	{NULL, NULL},
};
