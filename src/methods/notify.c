/* SPDX-License-Identifier: BSD-3-Clause */
/* Events: the log of the last NOTIFICATIONS_MAX, and those pushed to clients as they happen. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/check.h"
#include "bdev/bdev.h"
#include "event/notice.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

#define NOTIFICATIONS_MAX 1024

struct notification {
	const char *type;
	char name[BDEV_NAME_BYTES];
};

/* All that notice_send() is called with. */
static const struct {
	const char *name;
	bool kept; /* in the log: what comes again and again would drive the rest out of it */
} types[] = {
	{"bdev_register", true}, {"bdev_unregister", true}, {"bdev_resize", true},
	{"job_started", true},   {"job_progress", false},   {"job_ended", true},
	{"raid_degraded", true}, {"raid_rebuilt", true},
	{"lvol_store_low", true}, {"lvol_store_low_ends", true}, {"lvol_store_full", true},
	{"lvol_store_full_ends", true}, {"lvol_store_stalled", true},
	{"lvol_store_stalled_ends", true}, {"lvol_store_broken", true}, {"lvol_degraded", true}, {"lvol_complete", true},
};

#define TYPE_BIT(type) (UINT64_C(1) << (type))
_Static_assert(ARRAY_SIZE(types) <= 64, "a bit each");

static const char *const bdev_types[] = {
	[BDEV_REGISTERED] = "bdev_register",
	[BDEV_UNREGISTERED] = "bdev_unregister",
	[BDEV_RESIZED] = "bdev_resize",
};

static struct notification kept[NOTIFICATIONS_MAX]; /* number n is at n % NOTIFICATIONS_MAX */
static uint64_t next_id;
static struct notice_watcher watcher;

static int
type_index(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		if (strcmp(types[i].name, name) == 0) {
			return (int)i;
		}
	}
	return -1;
}

static void
keep(int type, const struct notice *notice)
{
	struct notification *n = &kept[next_id++ % NOTIFICATIONS_MAX];
	const char *name = notice->count > 0 ? notice->fields[0].text : NULL;

	n->type = types[type].name;
	strncpy(n->name, name != NULL ? name : "", sizeof(n->name) - 1);
}

/* kept: it has just been put into the log. */
static json_t *
event_json(const struct notice *notice, bool is_kept)
{
	json_t *event = json_pack("{s:s}", "type", notice->type);
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	json_object_set_new(event, "time", json_real((double)now.tv_sec + (double)(now.tv_nsec / 1000000) / 1000));
	if (is_kept) {
		json_object_set_new(event, "id", json_integer((json_int_t)(next_id - 1)));
	}
	for (unsigned i = 0; i < notice->count; i++) {
		const struct notice_field *f = &notice->fields[i];

		json_object_set_new(event, f->key, f->text != NULL ? text_json(f->text) : json_integer((json_int_t)f->number));
	}
	return event;
}

static void
on_notice(struct notice_watcher *w, const struct notice *notice)
{
	int type = type_index(notice->type);

	CHECK(type >= 0);
	if (types[type].kept) {
		keep(type, notice);
	}
	if ((rpc_subscribed() & TYPE_BIT(type)) != 0) {
		rpc_push(TYPE_BIT(type), event_json(notice, types[type].kept));
	}
}

static void
on_bdev(void *ctx, const char *name, enum bdev_notice what)
{
	if (what == BDEV_LEAVES) {
		kept_bdev_leaves(name);
		return;
	}
	if (what == BDEV_REGISTERED) {
		kept_bdev_came(name); /* before anybody is told */
	}
	notice_send(bdev_types[what], NOTICE_TEXT("name", name));
	if (what == BDEV_REGISTERED) {
		bdev_waiters_check(name);
	} else if (what == BDEV_UNREGISTERED) {
		disk_bdev_gone(name);
		malloc_bdev_gone(name);
	}
}

void
notify_start(void)
{
	notice_watch(&watcher, on_notice);
	bdev_set_notice(on_bdev, NULL);
}

void
notify_stop(void)
{
	bdev_set_notice(NULL, NULL);
	notice_unwatch(&watcher);
}

static void
get_types(struct rpc_request *req, const void *params)
{
	json_t *result = json_array();

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		json_array_append_new(result, json_string(types[i].name));
	}
	rpc_result(req, result);
}

static void
get_notifications(struct rpc_request *req, const void *params)
{
	const struct notify_get_notifications_params *p = params;
	uint64_t oldest = next_id > NOTIFICATIONS_MAX ? next_id - NOTIFICATIONS_MAX : 0;
	json_t *result = json_array();

	for (uint64_t id = MAX(p->id, oldest), n = 0; id < next_id && n < p->max; id++, n++) {
		const struct notification *entry = &kept[id % NOTIFICATIONS_MAX];

		json_array_append_new(result,
				      json_pack("{s:s, s:o, s:I}", "type", entry->type, "ctx",
						text_json(entry->name), "id", (json_int_t)id));
	}
	rpc_result(req, result);
}

/* ---- Subscriptions ---- */

static void
subscribe(struct rpc_request *req, const void *params)
{
	const struct berth_subscribe_params *p = params;
	uint64_t wanted = p->has_types ? 0 : UINT64_MAX;
	json_t *names;

	for (size_t i = 0; p->has_types && i < p->types.count; i++) {
		int type = type_index(p->types.items[i]);

		if (type < 0) {
			rpc_error(req, RPC_ERROR_INVALID_PARAMS, "there is no type of events '%.64s': see notify_get_types",
				  p->types.items[i]);
			return;
		}
		wanted |= TYPE_BIT(type);
	}
	if (rpc_subscribe(wanted) != 0) {
		rpc_error(req, RPC_ERROR_INVALID_REQUEST, "events are sent to clients only");
		return;
	}
	names = json_array();
	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		if ((wanted & TYPE_BIT(i)) != 0) {
			json_array_append_new(names, json_string(types[i].name));
		}
	}
	rpc_result(req, names);
}

static void
unsubscribe(struct rpc_request *req, const void *params)
{
	(void)rpc_subscribe(0);
	rpc_true(req);
}

const struct rpc_method notify_methods[] = {
	{"berth_subscribe", subscribe},
	{"berth_unsubscribe", unsubscribe},
	{"notify_get_types", get_types},
	{"notify_get_notifications", get_notifications},
	{NULL, NULL},
};
