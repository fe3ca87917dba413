/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Notices: what has happened, for whoever watches (the log of notifications, RPC clients that subscribed). A notice has
 * a type, by name, and a few fields of plain text or numbers; it is told to all watchers at once and then forgotten.
 * App thread only; other threads send it a message. A new type is also added to the table in methods/notify.c.
 *
 *	notice_send("raid_degraded", NOTICE_TEXT("name", raid->name), NOTICE_NUMBER("missing", raid->missing));
 */
#ifndef EVENT_NOTICE_H
#define EVENT_NOTICE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

/* Key and text are borrowed during the call. */
struct notice_field {
	const char *key;
	const char *text; /* NULL: a number */
	uint64_t number;
};

#define NOTICE_TEXT(key_, text_) ((struct notice_field){.key = (key_), .text = (text_)})
#define NOTICE_NUMBER(key_, number_) ((struct notice_field){.key = (key_), .number = (number_)})

struct notice {
	const char *type;
	const struct notice_field *fields; /* the first names what the notice is about */
	unsigned count;
};

/* In the watcher's memory. */
struct notice_watcher {
	struct list link;
	/* May stop its own watching and send other notices; may not start or stop others. */
	void (*fn)(struct notice_watcher *w, const struct notice *notice);
};

/* Does not own w. */
void notice_watch(struct notice_watcher *w, void (*fn)(struct notice_watcher *w, const struct notice *notice));
/* Also for a zeroed one that never watched. */
void notice_unwatch(struct notice_watcher *w);

/* Whether anyone watches: what is costly to say need not be said otherwise. */
bool notice_watched(void);

void notice_tell(const struct notice *notice);

#define notice_send(type_, ...) \
	do { \
		const struct notice_field notice_fields_[] = {__VA_ARGS__}; \
		notice_tell(&(const struct notice){(type_), notice_fields_, ARRAY_SIZE(notice_fields_)}); \
	} while (0)

#endif
