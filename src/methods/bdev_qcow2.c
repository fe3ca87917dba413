/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on qcow2 bdevs. */
#include "bdevs/qcow2/qcow2.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

static bool
is(const struct bdev *bdev)
{
	struct qcow2_bdev_options o;

	return bdev_qcow2_get(bdev, &o, NULL);
}

static json_t *
options_json(const struct qcow2_bdev_options *o)
{
	json_t *params = json_pack("{s:o, s:o}", "name", text_json(o->name), "base_bdev_name",
				   text_json(o->base_name));

	set_uuid(params, o->uuid);
	return params;
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct qcow2_bdev_options o;

	CHECK(bdev_qcow2_get(bdev, &o, NULL));
	return options_json(&o);
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	struct qcow2_bdev_options o;
	struct qcow2_info info;

	CHECK(bdev_qcow2_get(bdev, &o, &info));
	json_object_set_new(object, "qcow2",
			    json_pack("{s:o, s:i, s:I, s:b, s:s}", "base_bdev_name",
				      text_json(o.base_name), "version", (int)info.version,
				      "cluster_size", (json_int_t)info.cluster_bytes, "subclusters",
				      info.subclusters, "compression", info.compression));
}

static void
waiting(json_t *calls)
{
	struct qcow2_bdev_options o;
	bool waits;

	for (unsigned i = 0; bdev_qcow2_list(i, &o, &waits); i++) {
		if (waits) {
			json_array_append_new(calls, call_json("bdev_qcow2_create", options_json(&o)));
		}
	}
}

const struct bdev_kind bdev_qcow2_kind = {
	.create_method = "bdev_qcow2_create",
	.is = is,
	.params = params_json,
	.driver_specific = driver_specific,
	.waiting = waiting,
};

struct creation {
	struct rpc_request *req;
	char name[BDEV_NAME_BYTES];
};

static void
created(void *ctx, struct bdev *bdev, const struct err *err)
{
	struct creation *c = ctx;

	if (err->code != 0) {
		rpc_error_from(c->req, err->code, err);
	} else if (bdev != NULL) {
		bdev_created(c->req, bdev);
	} else {
		rpc_result(c->req, text_json(c->name));
	}
	free(c);
}

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_qcow2_create_params *p = params;
	struct qcow2_bdev_options o = {.name = p->name, .base_name = p->base_bdev_name};
	struct creation *c = calloc(1, sizeof(*c));
	struct err err = ERR_NONE;
	int rc;

	if (c == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
		return;
	}
	c->req = req;
	snprintf(c->name, sizeof(c->name), "%s", p->name);
	uuid_copy(o.uuid, p->uuid);
	rc = bdev_qcow2_create(&o, created, c, &err);
	if (rc != 0) {
		free(c);
		rpc_error_from(req, rc, &err);
	}
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct bdev_qcow2_delete_params *p = params;

	delete_by_name(req, p->name, "bdev_qcow2_", bdev_qcow2_delete);
}

const struct rpc_method bdev_qcow2_methods[] = {
	{"bdev_qcow2_create", create},
	{"bdev_qcow2_delete", delete},
	{NULL, NULL},
};
