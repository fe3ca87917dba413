/* SPDX-License-Identifier: BSD-3-Clause */
/* Registration, helpers that all modules' methods share, and the configuration as a whole. */
#include "methods/methods.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/cpumask.h"
#include "base/path.h"
#include "bdevs/iscsi/iscsi.h"
#include "bdevs/nbd/nbd.h"
#include "bdevs/rbd/rbd.h"
#include "bdevs/virtio/virtio.h"
#include "methods/internal.h"

const struct methods_options *methods;
uint64_t methods_start_ns;

/* What JSON values hold may be secrets (keys of crypto bdevs): none is left in memory that others get. */
static void
free_and_wipe(void *ptr)
{
	if (ptr != NULL) {
		explicit_bzero(ptr, malloc_usable_size(ptr));
	}
	free(ptr);
}

void
methods_init(const struct methods_options *options)
{
	static const struct rpc_method *const tables[] = {
		process_methods,     framework_methods, thread_methods,     log_methods,
		notify_methods,      bdev_methods,      iostat_methods,     bdev_null_methods,
		qos_methods,
		histogram_methods,
		bdev_malloc_methods, bdev_aio_methods,  bdev_uring_methods, vhost_methods,
		disk_methods,        disk_store_methods,        scheduler_methods, job_methods,
		bdev_passthru_methods,
		bdev_qcow2_methods,
		bdev_raid_methods,
		bdev_zone_block_methods,
		bdev_crypto_methods,
		bdev_virtio_methods,
		bdev_powercut_methods,
		bdev_split_methods,
		nbd_methods,
		nbd_lend_methods,
		bdev_delay_methods,
		bdev_error_methods,
		lvol_store_methods,
		lvol_methods,
		lvol_data_methods,
	};

	CHECK(methods == NULL);
	methods = options;
	json_set_alloc_funcs(malloc, free_and_wipe);
	methods_start_ns = clock_now_ns();
	for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
		rpc_register(tables[i]);
	}
	if (bdev_nbd_supported()) {
		rpc_register(bdev_nbd_methods);
	}
	if (bdev_iscsi_supported()) {
		rpc_register(bdev_iscsi_methods);
	}
	if (bdev_rbd_supported()) {
		rpc_register(bdev_rbd_methods);
	}
	notify_start();
}

void
methods_shutdown(void)
{
	bdev_waiters_end();
	bdev_virtio_shutdown();
	bdev_nbd_shutdown();
	bdev_iscsi_shutdown();
	nbd_lend_stop();
	notify_stop();
}

/* ---- JSON ---- */

json_t *
call_json(const char *method, json_t *params)
{
	return json_pack("{s:s, s:o}", "method", method, "params", params);
}

json_t *
uuid_json(const uuid_t uuid)
{
	char text[UUID_STR_LEN];

	uuid_unparse_lower(uuid, text);
	return json_string(text);
}

void
set_uuid(json_t *object, const uuid_t uuid)
{
	if (!uuid_is_null(uuid)) {
		json_object_set_new(object, "uuid", uuid_json(uuid));
	}
}

json_t *
text_json(const char *text)
{
	json_t *json = json_string(text);
	char *clean;

	if (json != NULL) {
		return json;
	}
	clean = strdup(text);
	for (char *p = clean; p != NULL && *p != '\0'; p++) {
		*p = (unsigned char)*p < 0x80 ? *p : '?';
	}
	json = clean != NULL ? json_string(clean) : NULL;
	free(clean);
	return json;
}

void
set_text(json_t *object, const char *key, const char *text)
{
	if (text != NULL) {
		json_object_set_new(object, key, text_json(text));
	}
}

void
set_path(json_t *object, const char *key, const char *path)
{
	char *absolute = path_absolute(path);

	json_object_set_new(object, key, text_json(absolute != NULL ? absolute : path));
	free(absolute);
}

bool
mask_is_all(const char *text)
{
	struct cpumask mask;

	if (cpumask_parse(text, &mask, NULL) != 0) {
		return false;
	}
	for (unsigned i = 0; i < methods->reactor_count; i++) {
		if (!cpumask_test(&mask, reactor_lcore(methods->reactors[i]))) {
			return false;
		}
	}
	return true;
}

/* ---- Deleting ---- */

void
delete_done(void *ctx, int status)
{
	struct rpc_request *req = ctx;

	kept_sweep();
	if (status == 0) {
		rpc_true(req);
	} else {
		rpc_error(req, status, "%s", strerror(-status));
	}
}

void
delete_refused(struct rpc_request *req, int rc, const struct err *err, const char *family,
	       const char *name)
{
	if (rc == -ENODEV && methods->forget != NULL &&
	    methods->forget(methods->ctx, family, name)) {
		rpc_true(req);
	} else {
		rpc_error_from(req, rc, err);
	}
}

void
delete_by_name(struct rpc_request *req, const char *name, const char *family,
	       int (*fn)(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err))
{
	struct err err = ERR_NONE;
	int rc = fn(name, delete_done, req, &err);

	if (rc != 0) {
		delete_refused(req, rc, &err, family, name);
	}
}

/* ---- Configuration ---- */

const struct methods_subsystem methods_subsystems[] = {
	{"scheduler", ""},
	{"accel", ""},
	{"bdev", "accel"},
	{"vhost_blk", "bdev"},
	{"nbd", "bdev"},
	{NULL, NULL},
};

/*
 * What there is to configure, in the order in which it is made again: what others need comes first. A subsystem may have
 * several parts; NULL is in the state only.
 */
static const struct {
	const char *subsystem;
	void (*add)(json_t *calls, bool for_state);
} parts[] = {
	{"scheduler", scheduler_config},
	{"accel", accel_config},
	{"bdev", bdev_options_config},
	{"bdev", iscsi_options_config},
	{"bdev", rbd_clusters_config},
	{"bdev", raid_options_config},
	{"bdev", bdev_config},
	{"bdev", bdev_examine_config},
	{NULL, disk_config},
	{"bdev", qos_config},
	{"bdev", kept_config},
	{"vhost_blk", vhost_config},
	{"nbd", nbd_config},
};

json_t *
methods_config(const char *subsystem)
{
	const struct methods_subsystem *s = methods_subsystems;
	json_t *calls;

	while (s->name != NULL && strcmp(s->name, subsystem) != 0) {
		s++;
	}
	if (s->name == NULL) {
		return NULL;
	}
	calls = json_array();
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++) {
		if (parts[i].subsystem != NULL && strcmp(parts[i].subsystem, subsystem) == 0) {
			parts[i].add(calls, false);
		}
	}
	return calls;
}

json_t *
methods_state(void)
{
	json_t *calls = json_array();

	for (size_t i = 0; calls != NULL && i < ARRAY_SIZE(parts); i++) {
		parts[i].add(calls, true);
	}
	return calls;
}

/* ---- Visiting all threads ---- */

static void
gather_back(struct msg *msg)
{
	struct gather *g = CONTAINER_OF(msg, struct gather, msg);

	g->done(g);
}

static void
gather_visit(struct msg *msg)
{
	struct gather *g = CONTAINER_OF(msg, struct gather, msg);

	g->visit(g);
	if (++g->next < methods->thread_count) {
		thread_send(methods->threads[g->next], &g->msg, gather_visit);
	} else {
		thread_send(g->origin, &g->msg, gather_back);
	}
}

void
gather_start(struct gather *g, void (*visit)(struct gather *g), void (*done)(struct gather *g))
{
	g->next = 0;
	g->origin = thread_self();
	g->visit = visit;
	g->done = done;
	thread_send(methods->threads[0], &g->msg, gather_visit);
}
