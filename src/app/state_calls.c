/* SPDX-License-Identifier: BSD-3-Clause */
#include "app/state_calls.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/names.h"

static const struct state_family families[] = {
	{"bdev_null_", "name"},  {"bdev_malloc_", "name"}, {"bdev_aio_", "name"},
	{"bdev_uring_", "name"}, {"vhost_", "ctrlr"},      {"berth_disk_", "name"},
};

const struct state_family *
state_family_of(const char *method)
{
	for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
		if (strncmp(method, families[i].prefix, strlen(families[i].prefix)) == 0) {
			return &families[i];
		}
	}
	return NULL;
}

const char *
state_rival_prefix(const struct state_family *family)
{
	return strncmp(family->prefix, "bdev_", strlen("bdev_")) == 0 ? "bdev_" : family->prefix;
}

bool
state_is_delete(const char *method)
{
	return state_family_of(method) != NULL && strstr(method, "_delete") != NULL;
}

bool
state_is_create(const char *method)
{
	return state_family_of(method) != NULL && strstr(method, "_create") != NULL;
}

static const char *
method_of(const json_t *call)
{
	return json_string_value(json_object_get(call, "method"));
}

static const char *
param_of(const json_t *call, const char *key)
{
	return json_string_value(json_object_get(json_object_get(call, "params"), key));
}

bool
state_call_is(const json_t *call, const char *prefix, const char *key, const char *name)
{
	const char *method = method_of(call);
	const char *value = param_of(call, key);

	return method != NULL && value != NULL && strncmp(method, prefix, strlen(prefix)) == 0 &&
	       strcmp(value, name) == 0;
}

/* ---- What is needed ---- */

/* An object, and the calls on it that are needed so far. */
struct object {
	struct names_node node;
	struct list link;
	bool made; /* by a create */
	size_t *calls;
	size_t count;
	size_t room;
	char key[]; /* the rivals' prefix and the name */
};

struct pruning {
	json_t *calls;
	bool *needless; /* of each call */
	struct names by_key;
	struct list objects;
};

static struct object *
object_of(struct pruning *p, const struct state_family *family, const char *name)
{
	const char *prefix = state_rival_prefix(family);
	size_t bytes = strlen(prefix) + strlen(name) + 1;
	struct object *o = calloc(1, sizeof(*o) + bytes);
	struct names_node *found;

	if (o == NULL) {
		return NULL;
	}
	snprintf(o->key, bytes, "%s%s", prefix, name);
	found = names_find(&p->by_key, o->key);
	if (found != NULL) {
		free(o);
		return CONTAINER_OF(found, struct object, node);
	}
	names_add(&p->by_key, &o->node, o->key);
	list_append(&p->objects, &o->link);
	return o;
}

static bool
remember(struct object *o, size_t index)
{
	if (o->count == o->room) {
		size_t room = MAX(2 * o->room, (size_t)4);
		size_t *calls = realloc(o->calls, room * sizeof(*calls));

		if (calls == NULL) {
			return false;
		}
		o->calls = calls;
		o->room = room;
	}
	o->calls[o->count++] = index;
	return true;
}

/* Leaves out the object's calls whose method begins with prefix; how many there were. */
static size_t
leave_out(struct pruning *p, struct object *o, const char *prefix)
{
	size_t left = 0, count = o->count;

	for (size_t i = 0; i < count; i++) {
		if (strncmp(method_of(json_array_get(p->calls, o->calls[i])), prefix, strlen(prefix)) == 0) {
			p->needless[o->calls[i]] = true;
		} else {
			o->calls[left++] = o->calls[i];
		}
	}
	o->count = left;
	return count - left;
}

/* Looks at call number i; false when memory is out. */
static bool
look_at(struct pruning *p, size_t i)
{
	const char *method = method_of(json_array_get(p->calls, i));
	const struct state_family *family = state_family_of(method);
	const char *name = family != NULL ? param_of(json_array_get(p->calls, i), family->key) : NULL;
	struct object *o;

	if (name == NULL) {
		return true;
	}
	o = object_of(p, family, name);
	if (o == NULL) {
		return false;
	}
	if (state_is_create(method)) {
		if (o->made) {
			leave_out(p, o, state_rival_prefix(family));
		}
		o->made = true;
	} else if (state_is_delete(method) && o->made && leave_out(p, o, family->prefix) > 0) {
		p->needless[i] = true;
		return true;
	}
	return remember(o, i);
}

static void
release(struct pruning *p)
{
	struct object *o, *next;

	LIST_FOREACH_SAFE (o, next, &p->objects, link) {
		list_remove(&o->link);
		free(o->calls);
		free(o);
	}
	names_release(&p->by_key);
	free(p->needless);
}

json_t *
state_calls_needed(json_t *calls)
{
	size_t count = json_array_size(calls);
	struct pruning p = {.calls = calls, .needless = calloc(count + 1, sizeof(*p.needless))};
	json_t *needed = json_array();
	bool good = needed != NULL && p.needless != NULL;

	list_init(&p.objects);
	for (size_t i = 0; good && i < count; i++) {
		good = look_at(&p, i);
	}
	for (size_t i = 0; good && i < count; i++) {
		if (!p.needless[i]) {
			good = json_array_append(needed, json_array_get(calls, i)) == 0;
		}
	}
	release(&p);
	if (!good) {
		json_decref(needed);
		return NULL;
	}
	return needed;
}
