/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on split bdevs. The configuration has a split with its first part. */
#include "bdevs/split/split.h"

#include <errno.h>

#include "base/check.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

static bool
is(const struct bdev *bdev)
{
	struct split_info info;

	return bdev_split_info(bdev, &info);
}

static json_t *
options_json(const struct split_options *o)
{
	return json_pack("{s:o, s:I, s:I}", "base_bdev", text_json(o->base_name), "split_count",
			 (json_int_t)o->count, "split_size_mb", (json_int_t)o->size_mb);
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct split_options o;
	struct split_info info;

	CHECK(bdev_split_info(bdev, &info));
	if (bdev_split_next_part(info.base_name, NULL) != bdev) {
		return NULL;
	}
	for (unsigned i = 0; bdev_split_get(i, &o); i++) {
		if (o.base_name == info.base_name) {
			return options_json(&o);
		}
	}
	return NULL;
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	struct split_info info;

	CHECK(bdev_split_info(bdev, &info));
	json_object_set_new(object, "split",
			    json_pack("{s:o, s:I}", "base_bdev", text_json(info.base_name),
				      "offset_blocks", (json_int_t)info.offset_blocks));
}

static void
waiting(json_t *calls)
{
	struct split_options o;

	for (unsigned i = 0; bdev_split_get(i, &o); i++) {
		if (bdev_split_next_part(o.base_name, NULL) == NULL) {
			json_array_append_new(calls, call_json("bdev_split_create", options_json(&o)));
		}
	}
}

const struct bdev_kind bdev_split_kind = {
	.create_method = "bdev_split_create",
	.is = is,
	.params = params_json,
	.driver_specific = driver_specific,
	.waiting = waiting,
};

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_split_create_params *p = params;
	struct split_options o = {.base_name = p->base_bdev, .count = p->split_count,
				  .size_mb = p->split_size_mb};
	struct err err = ERR_NONE;
	const struct bdev *part = NULL;
	json_t *names;
	int rc = bdev_split_create(&o, &err);

	if (rc != 0) {
		rpc_error_from(req, rc, &err);
		return;
	}
	names = json_array();
	while ((part = bdev_split_next_part(p->base_bdev, part)) != NULL) {
		json_array_append_new(names, text_json(bdev_name(part)));
	}
	rpc_result(req, names);
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct bdev_split_delete_params *p = params;
	struct err err = ERR_NONE;
	int rc = bdev_split_delete(p->base_bdev, delete_done, req, &err);

	if (rc != 0) {
		delete_refused(req, rc, &err, "bdev_split_", p->base_bdev);
	}
}

const struct rpc_method bdev_split_methods[] = {
	{"bdev_split_create", create},
	{"bdev_split_delete", delete},
	{NULL, NULL},
};
