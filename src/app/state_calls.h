/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What calls in the state's log are about: families of methods on one kind of object, and which calls later ones
 * make needless. Pure.
 */
#ifndef APP_STATE_CALLS_H
#define APP_STATE_CALLS_H

#include <jansson.h>
#include <stdbool.h>

/* Calls on one kind of object, and the parameter that names it. */
struct state_family {
	const char *prefix; /* of the methods */
	const char *key;
};

/* NULL: a method that is not about one object. */
const struct state_family *state_family_of(const char *method);

/* What a create takes the place of: bdevs of all kinds share their names. */
const char *state_rival_prefix(const struct state_family *family);

bool state_is_create(const char *method);
bool state_is_delete(const char *method);

/* Whether the call's method begins with prefix, and its parameter key is name. */
bool state_call_is(const json_t *call, const char *prefix, const char *key, const char *name);

/*
 * The calls that are needed, in their order: a new array, or NULL when memory is out. Left out are a delete and the calls before
 * it on its object; a delete that has none of these stays: what made its object is of another family. A second
 * create means that the first had failed, or its object was lost: what was before it is left out. The time it takes grows with
 * the number of calls, not with its square.
 */
json_t *state_calls_needed(json_t *calls);

#endif
