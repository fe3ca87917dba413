/* SPDX-License-Identifier: BSD-3-Clause */
#include "event/notice.h"

static struct list watchers = {&watchers, &watchers};

void
notice_watch(struct notice_watcher *w, void (*fn)(struct notice_watcher *w, const struct notice *notice))
{
	CHECK(!list_linked(&w->link));
	w->fn = fn;
	list_append(&watchers, &w->link);
}

void
notice_unwatch(struct notice_watcher *w)
{
	list_remove(&w->link);
}

bool
notice_watched(void)
{
	return !list_empty(&watchers);
}

void
notice_tell(const struct notice *notice)
{
	struct notice_watcher *w, *next;

	LIST_FOREACH_SAFE (w, next, &watchers, link) {
		w->fn(w, notice);
	}
}
