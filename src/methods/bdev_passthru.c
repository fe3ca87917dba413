/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on passthru bdevs. */
#include "bdevs/passthru/passthru.h"

#include <errno.h>

#include "base/check.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

static bool
is(const struct bdev *bdev)
{
	struct passthru_bdev_options o;

	return bdev_passthru_get_options(bdev, &o);
}

static json_t *
options_json(const struct passthru_bdev_options *o)
{
	json_t *params = json_pack("{s:o, s:o}", "base_bdev_name", text_json(o->base_name), "name",
				   text_json(o->name));

	set_uuid(params, o->uuid);
	return params;
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct passthru_bdev_options o;

	CHECK(bdev_passthru_get_options(bdev, &o));
	return options_json(&o);
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	struct passthru_bdev_options o;

	CHECK(bdev_passthru_get_options(bdev, &o));
	json_object_set_new(object, "passthru",
			    json_pack("{s:o, s:o}", "name", text_json(o.name), "base_bdev_name",
				      text_json(o.base_name)));
}

static void
waiting(json_t *calls)
{
	struct passthru_bdev_options o;

	for (unsigned i = 0; bdev_passthru_list(i, &o); i++) {
		if (bdev_find(o.name) == NULL) {
			json_array_append_new(calls,
					      call_json("bdev_passthru_create", options_json(&o)));
		}
	}
}

const struct bdev_kind bdev_passthru_kind = {
	.create_method = "bdev_passthru_create",
	.is = is,
	.params = params_json,
	.driver_specific = driver_specific,
	.waiting = waiting,
};

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_passthru_create_params *p = params;
	struct passthru_bdev_options o = {.name = p->name, .base_name = p->base_bdev_name};
	struct err err = ERR_NONE;
	struct bdev *bdev;
	int rc;

	uuid_copy(o.uuid, p->uuid);
	rc = bdev_passthru_create(&o, &bdev, &err);
	bdev_created_or_waits(req, rc, &err, bdev, p->name);
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct bdev_passthru_delete_params *p = params;

	delete_by_name(req, p->name, "bdev_passthru_", bdev_passthru_delete);
}

const struct rpc_method bdev_passthru_methods[] = {
	{"bdev_passthru_create", create},
	{"bdev_passthru_delete", delete},
	{NULL, NULL},
};
