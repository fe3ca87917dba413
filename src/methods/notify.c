/* SPDX-License-Identifier: BSD-3-Clause */
/* The log of notifications: what has happened, the last NOTIFICATIONS_MAX of it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

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
};

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
on_notice(struct notice_watcher *w, const struct notice *notice)
{
	int type = type_index(notice->type);

	CHECK(type >= 0);
	if (types[type].kept) {
		struct notification *n = &kept[next_id++ % NOTIFICATIONS_MAX];
		const char *name = notice->count > 0 ? notice->fields[0].text : NULL;

		n->type = types[type].name;
		strncpy(n->name, name != NULL ? name : "", sizeof(n->name) - 1);
	}
}

static void
on_bdev(void *ctx, const char *name, enum bdev_notice what)
{
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

const struct rpc_method notify_methods[] = {
	{"notify_get_types", get_types},
	{"notify_get_notifications", get_notifications},
	{NULL, NULL},
};
