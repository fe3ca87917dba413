/* SPDX-License-Identifier: BSD-3-Clause */
/* Bdevs from a configuration, for `berth perf`. Contracts: perf_config.h. */
#include "app/perf_config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "app/config_file.h"
#include "bdev/bdev.h"
#include "bdev/module.h"
#include "bdevs/raid/raid.h"
#include "bdevs/rbd/rbd.h"
#include "lvol/lvol.h"
#include "methods/methods.h"
#include "rpc/rpc.h"

static int
add_call(struct perf_config *c, json_t *call, struct err *err)
{
	if (c->calls == NULL) {
		c->calls = json_array();
	}
	if (c->calls == NULL || json_array_append(c->calls, call) != 0) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	return 0;
}

static bool
makes_bdevs(const json_t *call)
{
	const char *method = json_string_value(json_object_get(call, "method"));

	return method != NULL && strncmp(method, "bdev_", 5) == 0;
}

int
perf_config_add_file(struct perf_config *c, const char *path, struct err *err)
{
	json_t *calls, *call;
	size_t i;
	int rc = config_file_read(path, &calls, err);

	if (rc != 0) {
		return rc;
	}
	json_array_foreach (calls, i, call) {
		if (rc == 0 && makes_bdevs(call)) {
			rc = add_call(c, call, err);
		}
	}
	json_decref(calls);
	return rc;
}

int
perf_config_add_json(struct perf_config *c, const char *text, char **ret_name, struct err *err)
{
	json_error_t error;
	json_t *call = json_loads(text, 0, &error);
	const char *name;
	int rc;

	if (call == NULL) {
		return err_set(err, -EINVAL, "bdev '%.60s': no JSON: %s", text, error.text);
	}
	name = json_string_value(json_object_get(json_object_get(call, "params"), "name"));
	if (!makes_bdevs(call) || name == NULL) {
		json_decref(call);
		return err_set(err, -EINVAL,
			       "bdev '%.60s': this is not "
			       "{\"method\":\"bdev_...\",\"params\":{\"name\":...}}",
			       text);
	}
	*ret_name = strdup(name);
	rc = *ret_name == NULL ? err_set(err, -ENOMEM, "out of memory") : add_call(c, call, err);
	json_decref(call);
	return rc;
}

/* ---- Making ---- */

static void
start_methods(struct perf_config *c)
{
	static struct methods_options options; /* borrowed for ever */

	options = (struct methods_options){
		.rpc_socket = "",
		.socket_dir = "",
		.mode = reactor_get_mode(c->reactor),
		.reactors = &c->reactor,
		.reactor_count = 1,
		.threads = &c->thread,
		.thread_count = 1,
	};
	methods_init(&options);
	rpc_set_state(RPC_RUNTIME);
	c->started = true;
}

static void go(struct perf_config *c);

static void
answered(void *ctx, const json_t *result, const json_t *error)
{
	struct perf_config *c = ctx;

	if (error != NULL) {
		const json_t *call = json_array_get(c->calls, c->next);
		const char *why = json_string_value(json_object_get(error, "message"));
		const char *where = json_string_value(json_object_get(call, "where"));

		err_set(&c->err, -EINVAL, "%s%s%s: %s", where != NULL ? where : "",
			where != NULL ? ": " : "",
			json_string_value(json_object_get(call, "method")),
			why != NULL ? why : "unknown error");
	}
	c->next++;
	c->answered = true;
	if (!c->inside) {
		go(c);
	}
}

/* Most answers come from inside rpc_call(): a loop, no recursion. */
static void
go(struct perf_config *c)
{
	while (c->err.code == 0 && c->next < json_array_size(c->calls)) {
		const json_t *call = json_array_get(c->calls, c->next);

		c->inside = true;
		c->answered = false;
		rpc_call(json_string_value(json_object_get(call, "method")),
			 json_object_get(call, "params"), false, answered, c);
		c->inside = false;
		if (!c->answered) {
			return;
		}
	}
	c->loaded(c, c->err.code, &c->err);
}

void
perf_config_load(struct perf_config *c)
{
	c->thread = thread_self();
	c->reactor = thread_reactor(c->thread);
	if (c->calls != NULL) {
		start_methods(c);
	}
	go(c);
}

/* ---- The end ---- */

static void
images_gone(void *ctx)
{
	struct perf_config *c = ctx;

	if (c->started) {
		methods_shutdown();
	}
	json_decref(c->calls);
	c->calls = NULL;
	c->unloaded(c);
}

static void
bdevs_gone(void *ctx)
{
	bdev_rbd_shutdown(images_gone, ctx);
}

static void
arrays_gone(void *ctx)
{
	bdev_shutdown(bdevs_gone, ctx);
}

static void
stores_gone(void *ctx)
{
	raid_shutdown(arrays_gone, ctx);
}

void
perf_config_unload(struct perf_config *c)
{
	if (c->started) {
		lvol_shutdown(stores_gone, c);
	} else {
		images_gone(c);
	}
}
