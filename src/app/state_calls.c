/* SPDX-License-Identifier: BSD-3-Clause */
#include "app/state_calls.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/names.h"

/*
 * The first rule whose prefix a method begins with counts; most modules of bdevs are covered by the one for all of them.
 * Two objects of one space never have the same name at the same time.
 */
static const struct rule {
	const char *prefix; /* of methods */
	const char *key;    /* the parameter that names the object; NULL: about no object */
	const char *space;
	const char *before; /* what the object's name has in front of the parameter; NULL: nothing */
	bool on_bdev;       /* what its creates make stands on a bdev, and is refused while that is not there */
	bool found;         /* no call makes it: its deletion ends what was set for it, and is not carried out again */
} rules[] = {
	{"bdev_delay_update_latency", "delay_bdev_name", "bdev", NULL, false, false},
	{"bdev_error_create", "base_name", "bdev", "EE_", false, false},
	{"bdev_raid_add_base_bdev", "raid_bdev", "bdev", NULL, false, false},
	{"bdev_raid_remove_base_bdev", NULL, NULL, NULL, false, false},
	{"bdev_lvol_delete_lvstore", NULL, NULL, NULL, false, false},
	{"bdev_lvol_delete", "name", "bdev", NULL, false, true},
	{"bdev_lvol_", NULL, NULL, NULL, false, false},
	{"bdev_rbd_register_cluster", "name", "cluster", NULL, false, false},
	{"bdev_rbd_unregister_cluster", "name", "cluster", NULL, false, false},
	{"bdev_split_", "base_bdev", "split", NULL, false, false},
	{"bdev_", "name", "bdev", NULL, false, false},
	{"accel_crypto_key_destroy", "key_name", "key", NULL, false, false},
	{"accel_crypto_key_", "name", "key", NULL, false, false},
	{"nbd_", "nbd_device", "nbd", NULL, true, false},
	{"vhost_", "ctrlr", "controller", NULL, true, false},
	{"berth_disk_", "name", "disk", NULL, true, false},
	{"berth_nbd_server_", "name", "nbd server", NULL, false, false},
	{"berth_nbd_export_", "name", "nbd export", NULL, true, false},
};

static const char *const creates[] = {"_create", "_attach_", "_start_disk", "_register_cluster"};
static const char *const deletes[] = {"_delete", "_detach_", "_stop_disk", "_unregister_cluster", "_destroy"};

static const struct rule *
rule_of(const char *method)
{
	for (size_t i = 0; i < ARRAY_SIZE(rules); i++) {
		if (strncmp(method, rules[i].prefix, strlen(rules[i].prefix)) == 0) {
			return rules[i].key != NULL ? &rules[i] : NULL;
		}
	}
	return NULL;
}

/* Where a verb of the list begins in the method, NULL when there is none. */
static const char *
find_verb(const char *method, const char *const *verbs, size_t count)
{
	const char *at = NULL;

	for (size_t i = 0; i < count && at == NULL; i++) {
		at = strstr(method, verbs[i]);
	}
	return at;
}

enum state_verb
state_verb_of(const char *method)
{
	if (rule_of(method) == NULL) {
		return STATE_CHANGES;
	}
	if (find_verb(method, creates, ARRAY_SIZE(creates)) != NULL) {
		return STATE_CREATES;
	}
	return find_verb(method, deletes, ARRAY_SIZE(deletes)) != NULL ? STATE_DELETES : STATE_CHANGES;
}

bool
state_may_need_bdev(const char *method)
{
	const struct rule *rule = rule_of(method);

	return rule != NULL && (rule->on_bdev || state_verb_of(method) == STATE_CHANGES);
}

static const char *
param_of(const json_t *params, const struct rule *rule)
{
	return json_string_value(json_object_get(params, rule->key));
}

char *
state_object_of(const char *method, const json_t *params)
{
	const struct rule *rule = rule_of(method);
	const char *name = rule != NULL ? param_of(params, rule) : NULL;
	char *object;

	if (name == NULL) {
		return NULL;
	}
	return asprintf(&object, "%s/%s%s", rule->space, rule->before != NULL ? rule->before : "", name) < 0 ? NULL : object;
}

static const char *
method_of(const json_t *call)
{
	return json_string_value(json_object_get(call, "method"));
}

bool
state_call_is(const json_t *call, const char *prefix, const char *name)
{
	const char *method = method_of(call);
	char *object;
	bool is;

	if (method == NULL || strncmp(method, prefix, strlen(prefix)) != 0) {
		return false;
	}
	object = state_object_of(method, json_object_get(call, "params"));
	is = object != NULL && strcmp(strchr(object, '/') + 1, name) == 0;
	free(object);
	return is;
}

/* ---- What is needed ---- */

#define NONE SIZE_MAX

/* An object, and the calls on it that are needed so far. */
struct object {
	struct names_node node;
	struct list link;
	size_t create; /* the call that made it, NONE */
	size_t *calls;
	size_t count;
	size_t room;
	char *key;
};

struct pruning {
	json_t *calls;
	size_t *take; /* for each call: the one to be made in its place, itself, or NONE */
	struct names by_key;
	struct list objects;
};

/* Takes key. */
static struct object *
object_of(struct pruning *p, char *key)
{
	struct names_node *found = names_find(&p->by_key, key);
	struct object *o;

	if (found != NULL) {
		free(key);
		return CONTAINER_OF(found, struct object, node);
	}
	o = calloc(1, sizeof(*o));
	if (o == NULL) {
		free(key);
		return NULL;
	}
	o->key = key;
	o->create = NONE;
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

/* Leaves out the object's calls whose method begins with the first `bytes` of prefix. */
static void
leave_out(struct pruning *p, struct object *o, const char *prefix, size_t bytes)
{
	size_t left = 0;

	for (size_t i = 0; i < o->count; i++) {
		if (strncmp(method_of(json_array_get(p->calls, o->calls[i])), prefix, bytes) == 0) {
			p->take[o->calls[i]] = NONE;
		} else {
			o->calls[left++] = o->calls[i];
		}
	}
	o->count = left;
}

/* Call number i makes the object once more. */
static void
make_again(struct pruning *p, struct object *o, const char *method, size_t i)
{
	const char *verb = find_verb(method, creates, ARRAY_SIZE(creates));

	leave_out(p, o, method, (size_t)(verb - method) + 1);
	p->take[o->create] = i;
	p->take[i] = NONE;
}

/* Looks at call number i; false when memory is out. */
static bool
look_at(struct pruning *p, size_t i)
{
	const json_t *call = json_array_get(p->calls, i);
	const char *method = method_of(call);
	enum state_verb verb = state_verb_of(method);
	char *key = state_object_of(method, json_object_get(call, "params"));
	struct object *o;

	p->take[i] = i;
	if (key == NULL) {
		return true;
	}
	o = object_of(p, key);
	if (o == NULL) {
		return false;
	}
	if (verb == STATE_CREATES && o->create != NONE) {
		make_again(p, o, method, i);
		return true;
	}
	if (verb == STATE_CREATES) {
		o->create = i;
		return true;
	}
	if (verb == STATE_DELETES && (o->create != NONE || rule_of(method)->found)) {
		leave_out(p, o, "", 0);
		p->take[i] = NONE;
		if (o->create != NONE) {
			p->take[o->create] = NONE;
		}
		o->create = NONE;
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
		free(o->key);
		free(o);
	}
	names_release(&p->by_key);
	free(p->take);
}

json_t *
state_calls_needed(json_t *calls)
{
	size_t count = json_array_size(calls);
	struct pruning p = {.calls = calls, .take = calloc(count + 1, sizeof(*p.take))};
	json_t *needed = json_array();
	bool good = needed != NULL && p.take != NULL;

	list_init(&p.objects);
	for (size_t i = 0; good && i < count; i++) {
		good = look_at(&p, i);
	}
	for (size_t i = 0; good && i < count; i++) {
		if (p.take[i] != NONE) {
			good = json_array_append(needed, json_array_get(calls, p.take[i])) == 0;
		}
	}
	release(&p);
	if (!good) {
		json_decref(needed);
		return NULL;
	}
	return needed;
}
