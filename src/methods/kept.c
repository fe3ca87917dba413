/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is set by a bdev's name (limits, weights, sampling, histograms) while the bdev is away: its base is gone and may come
 * again. It is kept as the calls that set it, shown in the configuration, and made before anybody can use the bdev.
 *
 * Invariants
 *  1. There is an entry only for a name that no bdev has, but for the moment between a bdev's leaving and its last user's.
 *  2. Of bdevs that wait for their base an entry ends when they come, or with the first deletion of anything after they
 *     stopped waiting: a name that is given to something new begins with nothing.
 *  3. Partitions and volumes are found, not configured, and so wait for ever; FOUND_MAX entries of them are kept, the newest.
 *     That of a volume ends when it is deleted.
 * Context: the app thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/list.h"
#include "base/log.h"
#include "bdev/bdev.h"
#include "methods/internal.h"

#define FOUND_MAX 1024

struct kept {
	struct list link;
	json_t *calls;
	bool found; /* comes by examination */
	char name[BDEV_NAME_BYTES];
};

static struct list all = {&all, &all};
static unsigned found_count;

static struct kept *
find(const char *name)
{
	struct kept *k;

	LIST_FOREACH (k, &all, link) {
		if (strcmp(k->name, name) == 0) {
			return k;
		}
	}
	return NULL;
}

static void
drop(struct kept *k)
{
	found_count -= k->found;
	list_remove(&k->link);
	json_decref(k->calls);
	free(k);
}

/* Takes calls. */
static struct kept *
add(const char *name, json_t *calls, bool found)
{
	struct kept *k = calloc(1, sizeof(*k)), *first;

	if (k == NULL || calls == NULL) {
		LOG_ERROR(BDEV, name, "out of memory: limits and what else was set are forgotten");
		json_decref(calls);
		free(k);
		return NULL;
	}
	if (found && found_count == FOUND_MAX) {
		first = LIST_FIRST(&all, struct kept, link);
		while (!first->found) {
			first = LIST_ENTRY(first->link.next, struct kept, link);
		}
		drop(first);
	}
	k->calls = calls;
	k->found = found;
	found_count += found;
	snprintf(k->name, sizeof(k->name), "%s", name);
	list_append(&all, &k->link);
	return k;
}

/* ---- Bdevs that leave and come ---- */

static bool
comes_by_itself(const struct bdev_kind *kind)
{
	return kind == &bdev_gpt_kind || kind == &bdev_lvol_kind;
}

void
kept_bdev_leaves(const char *name)
{
	struct bdev *b = bdev_find(name);
	const struct bdev_kind *kind = b != NULL ? bdev_kind_find(b, NULL) : NULL;
	json_t *calls;

	if (kind == NULL || (kind->waiting == NULL && !comes_by_itself(kind))) {
		return;
	}
	calls = json_array();
	qos_calls(calls, b);
	if (json_array_size(calls) == 0) {
		json_decref(calls);
		return;
	}
	(void)add(bdev_name(b), calls, comes_by_itself(kind));
}

static void
made(void *ctx, const json_t *result, const json_t *error)
{
	if (error != NULL) {
		LOG_WARNING(BDEV, (const char *)ctx, "what was set while it was away: %s",
			    json_string_value(json_object_get(error, "message")));
	}
}

void
kept_bdev_came(const char *name)
{
	struct kept *k = find(name);
	json_t *calls, *call;
	size_t i;

	if (k == NULL) {
		return;
	}
	calls = json_incref(k->calls);
	drop(k);
	/* The setters answer later, when all channels know, and there are none; a failure they answer at once. */
	json_array_foreach(calls, i, call) {
		rpc_call(json_string_value(json_object_get(call, "method")), json_object_get(call, "params"), false, made,
			 "a bdev that came again");
	}
	json_decref(calls);
}

/* ---- Who waits ---- */

/* Whether the create makes a bdev of this name: most say it in `name`. */
static bool
makes(const json_t *call, const char *name)
{
	const json_t *params = json_object_get(call, "params");
	const char *own = json_string_value(json_object_get(params, "name"));
	const char *error_base = json_string_value(json_object_get(params, "base_name"));
	const char *split_base = json_string_value(json_object_get(params, "base_bdev"));
	size_t bytes = split_base != NULL ? strlen(split_base) : 0;

	if (own != NULL) {
		return strcmp(own, name) == 0;
	}
	if (error_base != NULL) {
		return strncmp(name, "EE_", 3) == 0 && strcmp(name + 3, error_base) == 0;
	}
	return split_base != NULL && strncmp(name, split_base, bytes) == 0 && name[bytes] == 'p';
}

static bool
waits(const json_t *waiting, const char *name)
{
	const json_t *call;
	size_t i;

	json_array_foreach(waiting, i, call) {
		if (makes(call, name)) {
			return true;
		}
	}
	return false;
}

void
kept_sweep(void)
{
	struct kept *k, *next;
	json_t *waiting;

	if (list_empty(&all)) {
		return;
	}
	waiting = json_array();
	bdev_waiting_config(waiting);
	LIST_FOREACH_SAFE (k, next, &all, link) {
		if (!k->found && !waits(waiting, k->name)) {
			drop(k);
		}
	}
	json_decref(waiting);
}

void
kept_drop(const char *name)
{
	struct kept *k = find(name);

	if (k != NULL) {
		drop(k);
	}
}

/* ---- Set while it waits ---- */

static bool
same_text(const json_t *a, const json_t *b, const char *key)
{
	const json_t *x = json_object_get(a, key), *y = json_object_get(b, key);

	return x == y || (x != NULL && y != NULL && json_equal(x, y));
}

/* A later call of a method is added to the one that is there: what it does not name stays. */
static void
set(struct kept *k, const char *method, const json_t *params)
{
	json_t *call;
	size_t i;

	json_array_foreach(k->calls, i, call) {
		json_t *before = json_object_get(call, "params");

		if (strcmp(json_string_value(json_object_get(call, "method")), method) == 0 &&
		    same_text(before, params, "user")) {
			json_object_update(before, (json_t *)params);
			return;
		}
	}
	json_array_append_new(k->calls, call_json(method, json_copy((json_t *)params)));
}

bool
kept_set(struct rpc_request *req, const char *method, const char *name)
{
	json_t *waiting = json_array();
	struct kept *k = find(name);
	bool is;

	bdev_waiting_config(waiting);
	is = bdev_find(name) == NULL && waits(waiting, name);
	json_decref(waiting);
	if (!is) {
		return false;
	}
	if (k == NULL) {
		k = add(name, json_array(), false);
	}
	if (k == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
		return true;
	}
	set(k, method, rpc_request_params(req));
	rpc_true(req);
	return true;
}

/* A configuration that is loaded elsewhere has no partitions yet. */
void
kept_config(json_t *calls, bool for_state)
{
	const struct kept *k;

	LIST_FOREACH (k, &all, link) {
		if ((for_state || !k->found) && bdev_find(k->name) == NULL) {
			json_array_extend(calls, k->calls);
		}
	}
}
