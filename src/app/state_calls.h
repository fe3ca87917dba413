/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What calls in the state's log are about, and which calls later ones make needless. Pure.
 *
 * A call is about an object: a name in a space (bdevs, controllers, disks, ...), which a table finds by method and
 * parameter. Creates make the object, deletes end it, all others change something about it. Calls that are about no
 * object (options of a module) are always needed.
 */
#ifndef APP_STATE_CALLS_H
#define APP_STATE_CALLS_H

#include <jansson.h>
#include <stdbool.h>

enum state_verb { STATE_CHANGES, STATE_CREATES, STATE_DELETES };

/* STATE_CHANGES also for methods that are about no object. */
enum state_verb state_verb_of(const char *method);

/* Whether a call that was refused may succeed once some bdev is there. Bdevs that stand on others wait for them by themselves. */
bool state_may_need_bdev(const char *method);

/* "bdev/Malloc0": what the call is about; for free(). NULL: about no object, or memory is out. params may be NULL. */
char *state_object_of(const char *method, const json_t *params);

/* Whether the call's method begins with prefix, and the object it is about has this name. */
bool state_call_is(const json_t *call, const char *prefix, const char *name);

/*
 * The calls that are needed, in their order: a new array, or NULL when memory is out. Left out are a delete and all calls
 * before it on its object; a delete of what no call here made stays. A further create of an object is what the object has
 * become: it takes the place of the first, in whose order others rely, and of what else the methods of its module did to
 * it. The time it takes grows with the number of calls, not with its square.
 */
json_t *state_calls_needed(json_t *calls);

#endif
