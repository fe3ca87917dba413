/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on NBD bdevs. */
#include "bdevs/nbd/nbd.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

static bool
is(const struct bdev *bdev)
{
	struct nbd_bdev_info info;

	return bdev_nbd_info(bdev, &info);
}

static void
set_file(json_t *object, const char *key, const char *path)
{
	if (path != NULL) {
		set_path(object, key, path);
	}
}

static json_t *
options_json(const struct nbd_bdev_options *o)
{
	json_t *params = json_pack("{s:o, s:i, s:b}", "name", text_json(o->name), "reconnect_timeout_sec",
				   (int)o->reconnect_s, "wait", 1);

	set_text(params, "uri", o->uri);
	set_file(params, "socket", o->socket);
	set_text(params, "host", o->host);
	set_text(params, "port", o->port);
	set_text(params, "export", o->export);
	set_file(params, "tls_certificates", o->tls_certificates);
	set_file(params, "tls_psk_file", o->tls_psk_file);
	set_text(params, "tls_username", o->tls_username);
	if (o->connections != 0) {
		json_object_set_new(params, "connections", json_integer(o->connections));
	}
	return params;
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct nbd_bdev_info info;

	CHECK(bdev_nbd_info(bdev, &info));
	return options_json(&info.options);
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	struct nbd_bdev_info info;
	json_t *nbd;

	CHECK(bdev_nbd_info(bdev, &info));
	nbd = json_pack("{s:b, s:i, s:i}", "connected", (int)info.connected, "connections", (int)info.connections, "connects",
			(int)info.connects);
	set_text(nbd, "uri", info.options.uri);
	set_text(nbd, "socket", info.options.socket);
	set_text(nbd, "host", info.options.host);
	set_text(nbd, "export", info.options.export);
	json_object_set_new(object, "nbd", nbd);
}

static void
add_waiting(void *ctx, const struct nbd_bdev_options *o)
{
	json_array_append_new(ctx, call_json("bdev_nbd_create", options_json(o)));
}

static void
waiting(json_t *calls)
{
	bdev_nbd_for_each_waiting(add_waiting, calls);
}

const struct bdev_kind bdev_nbd_kind = {
	.create_method = "bdev_nbd_create",
	.is = is,
	.params = params_json,
	.driver_specific = driver_specific,
	.waiting = waiting,
};

/* Of the parameters of the request, which are there until it is answered. */
struct attachment {
	struct rpc_request *req;
	struct nbd_bdev_options options;
};

static void
attached(void *ctx, struct bdev *bdev, const struct err *err)
{
	struct attachment *a = ctx;

	if (err->code != 0) {
		rpc_error_from(a->req, err->code, err);
	} else {
		rpc_set_recorded_params(a->req, options_json(&a->options));
		rpc_result(a->req, text_json(a->options.name));
	}
	free(a);
}

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_nbd_create_params *p = params;
	struct attachment *a = calloc(1, sizeof(*a));
	struct err err = ERR_NONE;
	int rc;

	if (a == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
		return;
	}
	a->req = req;
	a->options = (struct nbd_bdev_options){
		.name = p->name,
		.uri = p->uri,
		.socket = p->socket,
		.host = p->host,
		.port = p->port,
		.export = p->export,
		.tls_certificates = p->tls_certificates,
		.tls_psk_file = p->tls_psk_file,
		.tls_username = p->tls_username,
		.connections = p->connections,
		.connections_default = methods->thread_count,
		.reconnect_s = p->reconnect_timeout_sec,
		.wait = p->wait,
	};
	rc = bdev_nbd_attach(&a->options, attached, a, &err);
	if (rc != 0) {
		free(a);
		rpc_error_from(req, rc, &err);
	}
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct bdev_nbd_delete_params *p = params;

	delete_by_name(req, p->name, "bdev_nbd_", bdev_nbd_detach);
}

const struct rpc_method bdev_nbd_methods[] = {
	{"bdev_nbd_create", create},
	{"bdev_nbd_delete", delete},
	{NULL, NULL},
};
