/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on delay bdevs. */
#include "bdevs/delay/delay.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

static bool
is(const struct bdev *bdev)
{
	struct delay_bdev_options o;

	return bdev_delay_get_options(bdev, &o);
}

static json_t *
options_json(const struct delay_bdev_options *o)
{
	json_t *params = json_pack(
		"{s:o, s:o, s:I, s:I, s:I, s:I}", "name", text_json(o->name), "base_bdev_name",
		text_json(o->base_name), "avg_read_latency",
		(json_int_t)o->latency_us[DELAY_AVG_READ], "p99_read_latency",
		(json_int_t)o->latency_us[DELAY_P99_READ], "avg_write_latency",
		(json_int_t)o->latency_us[DELAY_AVG_WRITE], "p99_write_latency",
		(json_int_t)o->latency_us[DELAY_P99_WRITE]);

	set_uuid(params, o->uuid);
	return params;
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct delay_bdev_options o;

	CHECK(bdev_delay_get_options(bdev, &o));
	return options_json(&o);
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	json_object_set_new(object, "delay", params_json(bdev));
}

static void
waiting(json_t *calls)
{
	struct delay_bdev_options o;
	bool waits;

	for (unsigned i = 0; bdev_delay_list(i, &o, &waits); i++) {
		if (waits) {
			json_array_append_new(calls, call_json("bdev_delay_create", options_json(&o)));
		}
	}
}

const struct bdev_kind bdev_delay_kind = {
	.create_method = "bdev_delay_create",
	.is = is,
	.params = params_json,
	.driver_specific = driver_specific,
	.waiting = waiting,
};

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_delay_create_params *p = params;
	struct delay_bdev_options o = {
		.name = p->name,
		.base_name = p->base_bdev_name,
		.latency_us = {
			[DELAY_AVG_READ] = p->avg_read_latency,
			[DELAY_P99_READ] = p->p99_read_latency,
			[DELAY_AVG_WRITE] = p->avg_write_latency,
			[DELAY_P99_WRITE] = p->p99_write_latency,
		},
	};
	struct err err = ERR_NONE;
	struct bdev *bdev;
	int rc;

	uuid_copy(o.uuid, p->uuid);
	rc = bdev_delay_create(&o, &bdev, &err);
	bdev_created_or_waits(req, rc, &err, bdev, p->name);
}

static void
update_latency(struct rpc_request *req, const void *params)
{
	static const char *const names[] = {
		[DELAY_AVG_READ] = "avg_read",
		[DELAY_P99_READ] = "p99_read",
		[DELAY_AVG_WRITE] = "avg_write",
		[DELAY_P99_WRITE] = "p99_write",
	};
	const struct bdev_delay_update_latency_params *p = params;
	enum delay_latency which = 0;
	const struct bdev *bdev;
	struct err err = ERR_NONE;
	int rc;

	while (strcmp(names[which], p->latency_type) != 0) {
		which++;
	}
	rc = bdev_delay_update_latency(p->delay_bdev_name, which, p->latency_us, &err);
	bdev = bdev_find(p->delay_bdev_name);
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
	const struct bdev_delay_delete_params *p = params;

	delete_by_name(req, p->name, "bdev_delay_", bdev_delay_delete);
}

const struct rpc_method bdev_delay_methods[] = {
	{"bdev_delay_create", create},
	{"bdev_delay_update_latency", update_latency},
	{"bdev_delay_delete", delete},
	{NULL, NULL},
};
