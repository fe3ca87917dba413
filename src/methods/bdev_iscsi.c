/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on iSCSI bdevs. */
#include "bdevs/iscsi/iscsi.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

static bool
is(const struct bdev *bdev)
{
	struct iscsi_bdev_info info;

	return bdev_iscsi_info(bdev, &info);
}

/* Of what the module keeps, whose URL has no password. */
static json_t *
options_json(const struct iscsi_bdev_options *o)
{
	json_t *params = json_pack("{s:o, s:o, s:o, s:i, s:b}", "name", text_json(o->name), "initiator_iqn",
				   text_json(o->initiator_iqn), "url", text_json(o->url), "reconnect_timeout_sec",
				   (int)o->reconnect_s, "wait", 1);

	if (o->secret_file != NULL) {
		set_path(params, "chap_secret_file", o->secret_file);
	}
	if (o->sessions != 0) {
		json_object_set_new(params, "max_sessions", json_integer(o->sessions));
	}
	return params;
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct iscsi_bdev_info info;

	CHECK(bdev_iscsi_info(bdev, &info));
	return options_json(&info.options);
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	struct iscsi_bdev_info info;

	CHECK(bdev_iscsi_info(bdev, &info));
	json_object_set_new(object, "iscsi",
			    json_pack("{s:o, s:o, s:b, s:i, s:i}", "initiator_name", text_json(info.options.initiator_iqn), "url",
				      text_json(info.options.url), "connected", (int)info.connected, "sessions",
				      (int)info.sessions, "connects", (int)info.connects));
}

static void
add_waiting(void *ctx, const struct iscsi_bdev_options *o)
{
	json_array_append_new(ctx, call_json("bdev_iscsi_create", options_json(o)));
}

static void
waiting(json_t *calls)
{
	bdev_iscsi_for_each_waiting(add_waiting, calls);
}

const struct bdev_kind bdev_iscsi_kind = {
	.create_method = "bdev_iscsi_create",
	.is = is,
	.params = params_json,
	.driver_specific = driver_specific,
	.waiting = waiting,
};

static json_t *
timeout_json(void)
{
	return json_pack("{s:I}", "timeout_sec", (json_int_t)bdev_iscsi_get_timeout());
}

void
iscsi_options_config(json_t *calls, bool for_state)
{
	if (bdev_iscsi_supported() && (!for_state || bdev_iscsi_get_timeout() != ISCSI_TIMEOUT_S_DEFAULT)) {
		json_array_append_new(calls, call_json("bdev_iscsi_set_options", timeout_json()));
	}
}

static void
set_options(struct rpc_request *req, const void *params)
{
	const struct bdev_iscsi_set_options_params *p = params;
	struct err err = ERR_NONE;
	int rc = bdev_iscsi_set_timeout(p->timeout_sec, &err);

	if (rc != 0) {
		rpc_error_from(req, rc, &err);
	} else {
		rpc_set_recorded_params(req, timeout_json());
		rpc_true(req);
	}
}

struct creation {
	struct rpc_request *req;
	const char *name; /* the request's */
};

static void
created(void *ctx, struct bdev *bdev, const struct err *err)
{
	struct creation *c = ctx;
	struct iscsi_bdev_options kept;

	if (err->code != 0) {
		rpc_error_from(c->req, err->code, err);
	} else {
		CHECK(bdev_iscsi_options(c->name, &kept));
		rpc_set_recorded_params(c->req, options_json(&kept));
		rpc_result(c->req, text_json(c->name));
	}
	free(c);
}

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_iscsi_create_params *p = params;
	const struct iscsi_bdev_options options = {
		.name = p->name,
		.initiator_iqn = p->initiator_iqn,
		.url = p->url,
		.secret_file = p->chap_secret_file,
		.sessions = p->max_sessions,
		.reconnect_s = p->reconnect_timeout_sec,
		.wait = p->wait,
	};
	struct creation *c = calloc(1, sizeof(*c));
	struct err err = ERR_NONE;
	int rc;

	if (c == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
		return;
	}
	*c = (struct creation){req, p->name};
	rc = bdev_iscsi_create(&options, created, c, &err);
	if (rc != 0) {
		free(c);
		rpc_error_from(req, rc, &err);
	}
}

static void
rescan(struct rpc_request *req, const void *params)
{
	const struct bdev_iscsi_rescan_params *p = params;
	struct err err = ERR_NONE;
	int rc = bdev_iscsi_rescan(p->name, &err);

	if (rc != 0) {
		rpc_error_from(req, rc, &err);
	} else {
		rpc_true(req);
	}
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct bdev_iscsi_delete_params *p = params;

	delete_by_name(req, p->name, "bdev_iscsi_", bdev_iscsi_delete);
}

const struct rpc_method bdev_iscsi_methods[] = {
	{"bdev_iscsi_set_options", set_options},
	{"bdev_iscsi_create", create},
	{"bdev_iscsi_rescan", rescan},
	{"bdev_iscsi_delete", delete},
	{NULL, NULL},
};
