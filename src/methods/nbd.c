/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on NBD servers, exports, and the kernel's devices. */
#include "nbd/nbd.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "bdev/bdev.h"
#include "lvol/lvol.h"
#include "methods/lvol_internal.h"
#include "rpc/schema_gen.h"

#define SERVER_FAMILY "berth_nbd_server_"
#define EXPORT_FAMILY "berth_nbd_export_"
#define DISK_FAMILY "nbd_"

static const char *const tls_names[] = {[NBD_TLS_OFF] = "off", [NBD_TLS_OPTIONAL] = "optional", [NBD_TLS_REQUIRED] = "required"};

static json_t *
text_or_null(const char *text)
{
	return text != NULL ? text_json(text) : json_null();
}

static bool
lent(const char *name)
{
	return strncmp(name, NBD_LENT_PREFIX, strlen(NBD_LENT_PREFIX)) == 0;
}

/* True when the request may go on; else it has been answered. */
static bool
check_name(struct rpc_request *req, const char *name)
{
	if (lent(name)) {
		rpc_error(req, -EINVAL, "'%.128s': names that begin with " NBD_LENT_PREFIX " are not free to take", name);
		return false;
	}
	return true;
}

/* ---- Servers ---- */

static json_t *
server_json(const struct nbd_server *s)
{
	struct nbd_server_info info;
	const struct nbd_server_options *o;

	nbd_server_get_info(s, &info);
	o = info.options;
	return json_pack("{s:o, s:o, s:o, s:o, s:s, s:o, s:o, s:b, s:I, s:I, s:I, s:I}", "name", text_json(o->name), "path",
			 text_or_null(o->unix_path), "tcp", text_or_null(o->tcp), "address",
			 text_or_null(info.address[0] != '\0' ? info.address : NULL), "tls", tls_names[o->tls], "tls_certs",
			 text_or_null(o->tls_certs), "tls_psk", text_or_null(o->tls_psk), "tls_verify_peer", o->tls_verify_peer,
			 "max_connections", (json_int_t)o->max_connections, "connections", (json_int_t)info.connections,
			 "handshakes", (json_int_t)info.handshakes, "accepted", (json_int_t)info.accepted);
}

/* What makes the very same server again: files by absolute paths. */
static json_t *
server_params(const struct nbd_server *s)
{
	struct nbd_server_info info;
	const struct nbd_server_options *o;
	json_t *params;

	nbd_server_get_info(s, &info);
	o = info.options;
	params = json_pack("{s:o, s:s, s:b, s:I}", "name", text_json(o->name), "tls", tls_names[o->tls], "tls_verify_peer",
			   o->tls_verify_peer, "max_connections", (json_int_t)o->max_connections);
	set_text(params, "path", o->unix_path);
	set_text(params, "tcp", o->tcp);
	if (o->tls_certs != NULL) {
		set_path(params, "tls_certs", o->tls_certs);
	}
	if (o->tls_psk != NULL) {
		set_path(params, "tls_psk", o->tls_psk);
	}
	return params;
}

static enum nbd_tls
tls_of(const struct berth_nbd_server_create_params *p)
{
	if (p->tls == NULL) {
		return p->tls_certs != NULL || p->tls_psk != NULL ? NBD_TLS_REQUIRED : NBD_TLS_OFF;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(tls_names); i++) {
		if (strcmp(p->tls, tls_names[i]) == 0) {
			return (enum nbd_tls)i;
		}
	}
	return NBD_TLS_OFF;
}

static void
server_create(struct rpc_request *req, const void *params)
{
	const struct berth_nbd_server_create_params *p = params;
	struct nbd_server_options o = {
		.name = p->name,
		.unix_path = p->path,
		.tcp = p->tcp,
		.tls = tls_of(p),
		.tls_certs = p->tls_certs,
		.tls_psk = p->tls_psk,
		.tls_verify_peer = p->tls_verify_peer,
		.max_connections = p->max_connections,
	};
	struct err err = ERR_NONE;
	struct nbd_server *s;
	int rc;

	if (!check_name(req, p->name)) {
		return;
	}
	rc = nbd_server_create(&o, &s, &err);
	if (rc != 0) {
		rpc_error_from(req, rc, &err);
		return;
	}
	rpc_set_recorded_params(req, server_params(s));
	rpc_result(req, server_json(s));
}

static void
server_delete(struct rpc_request *req, const void *params)
{
	const struct berth_nbd_server_delete_params *p = params;
	struct err err = ERR_NONE;
	int rc = nbd_server_delete(p->name, delete_done, req, &err);

	if (rc != 0) {
		delete_refused(req, rc, &err, SERVER_FAMILY, p->name);
	}
}

static void
get_servers(struct rpc_request *req, const void *params)
{
	const struct berth_nbd_get_servers_params *p = params;
	json_t *array;

	if (p->name != NULL && nbd_server_find(p->name) == NULL) {
		rpc_error(req, -ENODEV, "there is no NBD server '%.128s'", p->name);
		return;
	}
	array = json_array();
	for (struct nbd_server *s = nbd_server_first(); s != NULL; s = nbd_server_next(s)) {
		struct nbd_server_info info;

		nbd_server_get_info(s, &info);
		if (p->name == NULL ? !lent(info.options->name) : strcmp(info.options->name, p->name) == 0) {
			json_array_append_new(array, server_json(s));
		}
	}
	rpc_result(req, array);
}

/* ---- Exports ---- */

static void
add_client(void *ctx, const struct nbd_client_info *c)
{
	const char *replies = c->extended ? "extended" : c->structured ? "structured" : "simple";

	json_array_append_new(
		ctx, json_pack("{s:I, s:s, s:o, s:o, s:b, s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I}", "id", (json_int_t)c->id,
			       "peer", c->peer, "server", text_or_null(c->server), "user", text_or_null(c->user), "tls", c->tls,
			       "replies", replies, "thread", c->thread, "reads", (json_int_t)c->reads, "writes",
			       (json_int_t)c->writes, "others", (json_int_t)c->others, "bytes_read", (json_int_t)c->read_bytes,
			       "bytes_written", (json_int_t)c->written_bytes, "errors", (json_int_t)c->errors));
}

static json_t *
export_json(const struct nbd_export *e)
{
	json_t *clients = json_array();
	struct nbd_export_info info;

	nbd_export_get_info(e, &info);
	nbd_export_for_each_client(e, add_client, clients);
	return json_pack("{s:o, s:o, s:o, s:b, s:o, s:o, s:b, s:I, s:I, s:o}", "name", text_json(info.options->name),
			 "bdev_name", text_or_null(info.bdev_name), "description", text_or_null(info.options->description),
			 "readonly", info.options->readonly, "server", text_or_null(info.options->server), "changed_since",
			 text_or_null(info.options->changed_since), "since_lost", info.options->since_lost, "size",
			 (json_int_t)info.size_bytes, "connections",
			 (json_int_t)info.connections, "clients", clients);
}

static json_t *
export_params(const struct nbd_export *e)
{
	struct nbd_export_info info;
	json_t *params;

	nbd_export_get_info(e, &info);
	params = json_pack("{s:o, s:o, s:b}", "name", text_json(info.options->name), "bdev_name",
			   text_json(info.options->bdev_name), "readonly", info.options->readonly);
	set_text(params, "description", info.options->description);
	set_text(params, "server", info.options->server);
	set_text(params, "changed_since", info.options->changed_since);
	return params;
}

/*
 * What the export compares with. False: answered, it is no snapshot that what is exported stands on. Once that is so it may end:
 * all has changed then; and so it has when the snapshot is no more at the next start, rather than that there is no export.
 */
static bool
take_since(struct rpc_request *req, const char *name, const struct bdev *bdev, struct nbd_export_options *o)
{
	struct lvol *lvol = lvol_below(bdev), *since = lvol_behind(name);
	struct bdev *snapshot = since != NULL ? lvol_bdev(since) : NULL;
	struct err err = ERR_NONE;
	struct bdev_extent first;
	unsigned count;

	o->changed_since = snapshot != NULL ? bdev_name(snapshot) : name;
	if (snapshot == NULL && rpc_is_replayed(req)) {
		o->since_lost = true;
		LOG_WARNING(NBD, o->name, "%s, the snapshot that it is compared with, is no more: all of it counts as changed",
			    name);
		return true;
	}
	if (snapshot == NULL) {
		rpc_error(req, -ENODEV, "changed_since: there is no volume '%.128s'", name);
	} else if (lvol == NULL) {
		rpc_error(req, -EINVAL, "changed_since: bdev '%.128s' is no volume, nor stands on one", bdev_name(bdev));
	} else if (since == lvol) {
		rpc_error(req, -EINVAL, "changed_since: '%.128s' is the volume itself", name);
	} else if (!rpc_is_replayed(req) && lvol_extents(lvol, since, 0, &first, 1, &count, &err) != 0) {
		rpc_error(req, -EINVAL, "changed_since: %s", err_text(&err));
	} else {
		return true;
	}
	return false;
}

static void
export_create(struct rpc_request *req, const void *params)
{
	const struct berth_nbd_export_create_params *p = params;
	struct bdev *bdev = bdev_find(p->bdev_name);
	struct nbd_export_options o = {
		.name = p->name,
		.bdev_name = bdev != NULL ? bdev_name(bdev) : p->bdev_name,
		.description = p->description,
		.server = p->server,
		.readonly = p->readonly,
	};
	struct err err = ERR_NONE;
	struct nbd_export *e;
	int rc;

	if (o.name == NULL) {
		/* A volume's own name is its UUID: what it was called says more. */
		o.name = bdev != NULL && lvol_of_bdev(bdev) == NULL ? bdev_name(bdev) : p->bdev_name;
	}
	if (!check_name(req, o.name)) {
		return;
	}
	if (p->changed_since != NULL && bdev != NULL && !take_since(req, p->changed_since, bdev, &o)) {
		return;
	}
	rc = nbd_export_create(&o, &e, &err);
	if (rc != 0) {
		rpc_error_from(req, rc, &err);
		return;
	}
	rpc_set_recorded_params(req, export_params(e));
	rpc_result(req, export_json(e));
}

static void
export_delete(struct rpc_request *req, const void *params)
{
	const struct berth_nbd_export_delete_params *p = params;
	struct err err = ERR_NONE;
	int rc = nbd_export_delete(p->name, delete_done, req, &err);

	if (rc != 0) {
		delete_refused(req, rc, &err, EXPORT_FAMILY, p->name);
	}
}

static json_t *
export_item(const void *ctx, const char *name)
{
	struct nbd_export *e = nbd_export_find(name);

	return e != NULL ? export_json(e) : NULL;
}

static void
get_exports(struct rpc_request *req, const void *params)
{
	const struct berth_nbd_get_exports_params *p = params;
	struct rpc_list *list;

	if (p->name != NULL && nbd_export_find(p->name) == NULL) {
		rpc_error(req, -ENODEV, "there is no export '%.128s'", p->name);
		return;
	}
	list = rpc_list_begin(req, export_item, NULL);
	for (struct nbd_export *e = nbd_export_first(); e != NULL; e = nbd_export_next(e)) {
		struct nbd_export_info info;

		nbd_export_get_info(e, &info);
		if (p->name == NULL ? !lent(info.options->name) : strcmp(info.options->name, p->name) == 0) {
			rpc_list_add(list, info.options->name);
		}
	}
	rpc_list_end(list);
}

/* ---- The kernel's devices ---- */

static json_t *
disk_params(const struct nbd_disk_info *info)
{
	return json_pack("{s:o, s:s, s:I}", "bdev_name", text_json(info->bdev_name), "nbd_device", info->device, "dead_timeout_s",
			 (json_int_t)info->timeout_s);
}

static bool
find_disk(const char *device, struct nbd_disk_info *ret)
{
	for (unsigned i = 0; nbd_disk_get(i, ret); i++) {
		if (strcmp(ret->device, device) == 0) {
			return true;
		}
	}
	return false;
}

static void
disk_started(void *ctx, int status, const char *device, const struct err *err)
{
	struct rpc_request *req = ctx;
	struct nbd_disk_info info;

	if (status != 0) {
		rpc_error_from(req, status, err);
		return;
	}
	if (find_disk(device, &info)) {
		rpc_set_recorded_params(req, disk_params(&info));
	}
	rpc_result(req, json_string(device));
}

static void
start_disk(struct rpc_request *req, const void *params)
{
	const struct nbd_start_disk_params *p = params;
	const struct bdev *bdev = bdev_find(p->bdev_name);
	const char *name = bdev != NULL ? bdev_name(bdev) : p->bdev_name;
	struct nbd_disk_options o = {.bdev_name = name, .device = p->nbd_device, .timeout_s = p->dead_timeout_s};
	struct err err = ERR_NONE;
	int rc = nbd_disk_start(&o, disk_started, req, &err);

	if (rc != 0) {
		rpc_error_from(req, rc, &err);
	}
}

static void
stop_disk(struct rpc_request *req, const void *params)
{
	const struct nbd_stop_disk_params *p = params;
	struct err err = ERR_NONE;
	int rc = nbd_disk_stop(p->nbd_device, delete_done, req, &err);

	if (rc != 0) {
		delete_refused(req, rc, &err, DISK_FAMILY, p->nbd_device);
	}
}

static void
get_disks(struct rpc_request *req, const void *params)
{
	const struct nbd_get_disks_params *p = params;
	struct nbd_disk_info info;
	json_t *array;

	if (p->nbd_device != NULL && !find_disk(p->nbd_device, &info)) {
		rpc_error(req, -ENODEV, "no bdev is at %.64s", p->nbd_device);
		return;
	}
	array = json_array();
	for (unsigned i = 0; nbd_disk_get(i, &info); i++) {
		if (p->nbd_device == NULL || strcmp(p->nbd_device, info.device) == 0) {
			json_array_append_new(array, json_pack("{s:s, s:o}", "nbd_device", info.device, "bdev_name",
							       text_json(info.bdev_name)));
		}
	}
	rpc_result(req, array);
}

/* ---- Configuration ---- */

void
nbd_config(json_t *calls, bool for_state)
{
	struct nbd_disk_info disk;

	for (struct nbd_server *s = nbd_server_first(); s != NULL; s = nbd_server_next(s)) {
		struct nbd_server_info info;

		nbd_server_get_info(s, &info);
		if (!lent(info.options->name)) {
			json_array_append_new(calls, call_json("berth_nbd_server_create", server_params(s)));
		}
	}
	for (struct nbd_export *e = nbd_export_first(); e != NULL; e = nbd_export_next(e)) {
		struct nbd_export_info info;

		nbd_export_get_info(e, &info);
		/* One that has lost its bdev could not be made again. */
		if (info.bdev_name != NULL && !lent(info.options->name)) {
			json_array_append_new(calls, call_json("berth_nbd_export_create", export_params(e)));
		}
	}
	for (unsigned i = 0; nbd_disk_get(i, &disk); i++) {
		json_array_append_new(calls, call_json("nbd_start_disk", disk_params(&disk)));
	}
}

const struct rpc_method nbd_methods[] = {
	{"berth_nbd_server_create", server_create},
	{"berth_nbd_server_delete", server_delete},
	{"berth_nbd_get_servers", get_servers},
	{"berth_nbd_export_create", export_create},
	{"berth_nbd_export_delete", export_delete},
	{"berth_nbd_get_exports", get_exports},
	{"nbd_start_disk", start_disk},
	{"nbd_stop_disk", stop_disk},
	{"nbd_get_disks", get_disks},
	{NULL, NULL},
};
