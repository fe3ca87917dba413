/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on virtio bdevs. */
#include "bdevs/virtio/virtio.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

static bool
is(const struct bdev *bdev)
{
	struct virtio_bdev_info info;

	return bdev_virtio_info(bdev, &info);
}

static json_t *
options_json(const struct virtio_bdev_options *o)
{
	json_t *params = json_pack("{s:o, s:s, s:s, s:i, s:i, s:b}", "name", text_json(o->name), "trtype", "user", "dev_type",
				   "blk", "vq_size", (int)o->vq_size, "reconnect_timeout_sec", (int)o->reconnect_s, "wait",
				   1);

	set_path(params, "traddr", o->path);
	if (o->vq_count != 0) {
		json_object_set_new(params, "vq_count", json_integer(o->vq_count));
	}
	return params;
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct virtio_bdev_info info;

	CHECK(bdev_virtio_info(bdev, &info));
	return options_json(&info.options);
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	struct virtio_bdev_info info;

	CHECK(bdev_virtio_info(bdev, &info));
	json_object_set_new(object, "virtio",
			    json_pack("{s:s, s:o, s:b, s:i, s:i}", "type", "user", "socket", text_json(info.options.path),
				      "connected", (int)info.connected, "vq_count", (int)info.queues, "connects",
				      (int)info.connects));
}

static void
add_waiting(void *ctx, const struct virtio_bdev_options *o)
{
	json_array_append_new(ctx, call_json("bdev_virtio_attach_controller", options_json(o)));
}

static void
waiting(json_t *calls)
{
	bdev_virtio_for_each_waiting(add_waiting, calls);
}

const struct bdev_kind bdev_virtio_kind = {
	.create_method = "bdev_virtio_attach_controller",
	.is = is,
	.params = params_json,
	.driver_specific = driver_specific,
	.waiting = waiting,
};

/* Of the parameters of the request, which are there until it is answered. */
struct attachment {
	struct rpc_request *req;
	struct virtio_bdev_options options;
};

static void
attached(void *ctx, struct bdev *bdev, const struct err *err)
{
	struct attachment *a = ctx;

	if (err->code != 0) {
		rpc_error_from(a->req, err->code, err);
	} else {
		rpc_set_recorded_params(a->req, options_json(&a->options));
		rpc_result(a->req, json_pack("[o]", text_json(a->options.name)));
	}
	free(a);
}

static void
attach(struct rpc_request *req, const void *params)
{
	const struct bdev_virtio_attach_controller_params *p = params;
	struct attachment *a;
	struct err err = ERR_NONE;
	int rc;

	if (strcmp(p->trtype, "user") != 0 || strcmp(p->dev_type, "blk") != 0) {
		rpc_error(req, -EOPNOTSUPP, "bdev '%.128s': trtype %s with dev_type %s is not offered: user with blk is",
			  p->name, p->trtype, p->dev_type);
		return;
	}
	a = calloc(1, sizeof(*a));
	if (a == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
		return;
	}
	a->req = req;
	a->options = (struct virtio_bdev_options){
		.name = p->name,
		.path = p->traddr,
		.vq_count = p->vq_count,
		.vq_default = methods->thread_count,
		.vq_size = p->vq_size != 0 ? p->vq_size : VIRTIO_QUEUE_SIZE_DEFAULT,
		.reconnect_s = p->reconnect_timeout_sec,
		.wait = p->wait,
	};
	rc = bdev_virtio_attach(&a->options, attached, a, &err);
	if (rc != 0) {
		free(a);
		rpc_error_from(req, rc, &err);
	}
}

static void
detach(struct rpc_request *req, const void *params)
{
	const struct bdev_virtio_detach_controller_params *p = params;
	struct err err = ERR_NONE;
	int rc = bdev_virtio_detach(p->name, delete_done, req, &err);

	if (rc != 0) {
		delete_refused(req, rc, &err, "bdev_virtio_", p->name);
	}
}

const struct rpc_method bdev_virtio_methods[] = {
	{"bdev_virtio_attach_controller", attach},
	{"bdev_virtio_detach_controller", detach},
	{NULL, NULL},
};
