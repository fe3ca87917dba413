/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on error bdevs. */
#include "bdevs/error/error.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

static bool
is(const struct bdev *bdev)
{
	struct error_bdev_options o;

	return bdev_error_get_options(bdev, &o);
}

static json_t *
options_json(const struct error_bdev_options *o)
{
	json_t *params = json_pack("{s:o}", "base_name", text_json(o->base_name));

	set_uuid(params, o->uuid);
	return params;
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct error_bdev_options o;

	CHECK(bdev_error_get_options(bdev, &o));
	return options_json(&o);
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	struct error_bdev_options o;

	CHECK(bdev_error_get_options(bdev, &o));
	json_object_set_new(object, "error_disk",
			    json_pack("{s:o}", "base_bdev", text_json(o.base_name)));
}

static void
waiting(json_t *calls)
{
	struct error_bdev_options o;
	bool waits;

	for (unsigned i = 0; bdev_error_list(i, &o, &waits); i++) {
		if (waits) {
			json_array_append_new(calls, call_json("bdev_error_create", options_json(&o)));
		}
	}
}

const struct bdev_kind bdev_error_kind = {
	.create_method = "bdev_error_create",
	.is = is,
	.params = params_json,
	.driver_specific = driver_specific,
	.waiting = waiting,
};

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_error_create_params *p = params;
	struct error_bdev_options o = {.base_name = p->base_name};
	struct err err = ERR_NONE;
	struct bdev *bdev;
	int rc;

	uuid_copy(o.uuid, p->uuid);
	rc = bdev_error_create(&o, &bdev, &err);
	if (rc != 0) {
		rpc_error_from(req, rc, &err);
	} else if (bdev != NULL) {
		bdev_changed(req, bdev);
	} else {
		rpc_true(req);
	}
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct bdev_error_delete_params *p = params;

	delete_by_name(req, p->name, "bdev_error_", bdev_error_delete);
}

/* ---- Injecting ---- */

static uint32_t
ops_of(const char *io_type)
{
	static const char *const names[] = {
		[ERROR_READ] = "read",
		[ERROR_WRITE] = "write",
		[ERROR_UNMAP] = "unmap",
		[ERROR_FLUSH] = "flush",
	};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(names[i], io_type) == 0) {
			return 1u << i;
		}
	}
	return ERROR_ALL_OPS;
}

static enum error_type
type_of(const char *error_type)
{
	static const char *const names[] = {
		[ERROR_FAILURE] = "failure",
		[ERROR_NVME_FAILURE] = "nvme_failure",
		[ERROR_PENDING] = "pending",
		[ERROR_CORRUPT_DATA] = "corrupt_data",
		[ERROR_NOMEM] = "nomem",
	};
	enum error_type type = 0;

	while (strcmp(names[type], error_type) != 0) {
		type++;
	}
	return type;
}

static void
inject(struct rpc_request *req, const void *params)
{
	const struct bdev_error_inject_error_params *p = params;
	struct error_injection what = {
		.type = type_of(p->error_type),
		.num = p->num,
		.queue_depth = p->queue_depth,
		.corrupt_offset = p->corrupt_offset,
		.corrupt_value = (uint8_t)p->corrupt_value,
		.nvme_sct = p->nvme_sct,
		.nvme_sc = p->nvme_sc,
	};
	struct err err = ERR_NONE;
	int rc = strcmp(p->io_type, "clear") == 0
			 ? bdev_error_clear(p->name, &err)
			 : bdev_error_inject(p->name, ops_of(p->io_type), &what, &err);

	if (rc != 0) {
		rpc_error_from(req, rc, &err);
	} else {
		rpc_true(req);
	}
}

static void
resumed(void *ctx, int status)
{
	rpc_true(ctx);
}

static void
resume(struct rpc_request *req, const void *params)
{
	struct err err = ERR_NONE;
	int rc = bdev_error_resume(((const struct bdev_error_resume_pending_params *)params)->name,
				   resumed, req, &err);

	if (rc != 0) {
		rpc_error_from(req, rc, &err);
	}
}

const struct rpc_method bdev_error_methods[] = {
	{"bdev_error_create", create},
	{"bdev_error_delete", delete},
	{"bdev_error_inject_error", inject},
	{"bdev_error_resume_pending", resume},
	{NULL, NULL},
};
