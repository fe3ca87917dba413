/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on bdevs through Linux AIO. */
#include "bdevs/aio/aio.h"

#include <errno.h>

#include "bdev/bdev.h"
#include "base/check.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

static bool
is(const struct bdev *bdev)
{
	struct aio_bdev_info info;

	return bdev_aio_info(bdev, &info);
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct aio_bdev_info info;
	json_t *params;
	uuid_t uuid;

	CHECK(bdev_aio_info(bdev, &info));
	bdev_uuid(bdev, uuid);
	params = json_pack("{s:o, s:I, s:b, s:b, s:o, s:b}", "name", text_json(bdev_name(bdev)),
			   "block_size", (json_int_t)bdev_block_size(bdev), "readonly",
			   info.readonly, "fallocate", info.fallocate, "uuid", uuid_json(uuid),
			   "nowait", info.nowait);
	/* The daemon that reads this may run in another folder. */
	set_path(params, "filename", info.filename);
	return params;
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	struct aio_bdev_info info;

	if (bdev_aio_info(bdev, &info)) {
		json_object_set_new(object, "aio",
				    json_pack("{s:o, s:b, s:b, s:b, s:b, s:s}", "filename",
					      text_json(info.filename), "block_size_override",
					      info.block_size_override, "readonly", info.readonly,
					      "fallocate", info.fallocate, "nowait", info.nowait,
					      "access", info.access));
	}
}

const struct bdev_kind bdev_aio_kind = {
	.create_method = "bdev_aio_create",
	.is = is,
	.params = params_json,
	.driver_specific = driver_specific,
};

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_aio_create_params *p = params;
	struct aio_bdev_options o = {
		.name = p->name,
		.filename = p->filename,
		.block_size = p->block_size,
		.readonly = p->readonly,
		.fallocate = p->fallocate,
		.nowait = p->nowait,
	};
	struct err err = ERR_NONE;
	struct bdev *bdev;
	int rc;

	if (!check_block_size(req, p->block_size)) {
		return;
	}
	uuid_copy(o.uuid, p->uuid);
	rc = bdev_aio_create(&o, &bdev, &err);
	if (rc != 0) {
		rpc_error_from(req, rc, &err);
	} else {
		bdev_created(req, bdev);
	}
}

static void
rescan(struct rpc_request *req, const void *params)
{
	struct err err = ERR_NONE;
	int rc = bdev_aio_rescan(((const struct bdev_aio_rescan_params *)params)->name, &err);

	if (rc != 0) {
		rpc_error_from(req, rc, &err);
	} else {
		rpc_true(req);
	}
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct bdev_aio_delete_params *p = params;

	delete_by_name(req, p->name, "bdev_aio_", bdev_aio_delete);
}

const struct rpc_method bdev_aio_methods[] = {
	{"bdev_aio_create", create},
	{"bdev_aio_rescan", rescan},
	{"bdev_aio_delete", delete},
	{NULL, NULL},
};
