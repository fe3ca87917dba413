/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who hears of a bdev that has come: those that wait for its name, at once; then the examiners,
 * modules that look for what is theirs in it. Names come first: a bdev that was configured to stand on
 * this one has claimed it before anybody looks.
 *
 * Invariants
 *  1. Bdevs wait in `queue` for their turn; a few are looked at at once. When none waits and none is
 *     looked at, those that wait for that are told, after bdevs that examinations brought up, too.
 *  2. A bdev somebody has claimed is not examined, nor one that goes before its turn.
 *  3. While examination is held all wait: by the time it is let go those that are configured have their
 *     names, and users have their disks open.
 * Context: the app thread.
 */
#include <errno.h>
#include <string.h>

#include "bdev/internal.h"

/* Examiners have channels and buffers: of ten thousand bdevs at once they would be hundreds of MiB. */
#define AT_ONCE 16

static struct list watches = {&watches, &watches};
static struct list waits = {&waits, &waits};
static const struct bdev_examiner *const *examiners;
static struct list queue = {&queue, &queue};
static unsigned under_way; /* calls of examiners that are not answered */
static unsigned held;
static bool going_on;

/* ---- Names ---- */

void
bdev_watch_start(struct bdev_watch *w, const char *name,
		 void (*fn)(struct bdev_watch *w, struct bdev *bdev))
{
	CHECK(!list_linked(&w->link));
	w->name = name;
	w->fn = fn;
	list_append(&watches, &w->link);
}

void
bdev_watch_stop(struct bdev_watch *w)
{
	if (list_linked(&w->link)) {
		list_remove(&w->link);
	}
}

static struct bdev_watch *
first_that_waits_for(const struct bdev *bdev)
{
	struct bdev_watch *w;

	LIST_FOREACH (w, &watches, link) {
		if (bdev_find(w->name) == bdev) {
			return w;
		}
	}
	return NULL;
}

/* From the start each time: what fn does may have changed the list. A watch that starts again is
 * not for a bdev that is there, so this ends. */
void
examine_tell_watches(struct bdev *bdev)
{
	struct list done;
	struct bdev_watch *w;

	list_init(&done);
	while ((w = first_that_waits_for(bdev)) != NULL) {
		list_remove(&w->link);
		w->fn(w, bdev);
		if (list_linked(&w->link)) { /* it could not use it: not this time */
			list_remove(&w->link);
			list_append(&done, &w->link);
		}
	}
	list_splice(&watches, &done);
}

/* ---- Examiners ---- */

void
bdev_set_examiners(const struct bdev_examiner *const *list)
{
	examiners = list;
}

static void
examine(struct bdev *bdev)
{
	for (size_t i = 0; examiners != NULL && examiners[i] != NULL; i++) {
		if (bdev->core->claim == BDEV_CLAIM_NONE) {
			under_way++;
			examiners[i]->examine(bdev);
		}
	}
}

static void
tell_waits(void)
{
	while (under_way == 0 && list_empty(&queue) && !list_empty(&waits)) {
		struct bdev_examine_wait *w = LIST_FIRST(&waits, struct bdev_examine_wait, link);

		list_remove(&w->link);
		w->done(w);
	}
}

/* What is answered at once comes by here again from inside. */
static void
go_on(void)
{
	if (going_on) {
		return;
	}
	going_on = true;
	while (held == 0 && under_way < AT_ONCE && !list_empty(&queue)) {
		struct bdev_core *core = LIST_FIRST(&queue, struct bdev_core, examine_link);

		list_remove(&core->examine_link);
		examine(core->bdev);
	}
	going_on = false;
	tell_waits();
}

void
bdev_examine_done(void)
{
	CHECK(under_way > 0);
	under_way--;
	go_on();
}

static void
enqueue(struct bdev *bdev)
{
	if (!list_linked(&bdev->core->examine_link)) {
		list_append(&queue, &bdev->core->examine_link);
	}
	go_on();
}

int
bdev_examine(const char *name, struct err *err)
{
	struct bdev *bdev = bdev_find(name);

	if (bdev == NULL) {
		return err_set(err, -ENODEV, "there is no bdev '%s'", name);
	}
	enqueue(bdev);
	return 0;
}

void
bdev_wait_for_examine(struct bdev_examine_wait *w, void (*done)(struct bdev_examine_wait *w))
{
	w->done = done;
	if (under_way == 0 && (held > 0 || list_empty(&queue))) {
		done(w);
	} else {
		list_append(&waits, &w->link);
	}
}

void
examine_new(struct bdev *bdev)
{
	struct bdev_options options;

	examine_tell_watches(bdev);
	bdev_get_options(&options);
	if (options.auto_examine) {
		enqueue(bdev);
	}
}

void
examine_forget(struct bdev_core *core)
{
	if (list_linked(&core->examine_link)) {
		list_remove(&core->examine_link);
		tell_waits();
	}
}

void
bdev_examine_hold(void)
{
	held++;
}

void
bdev_examine_release(void)
{
	CHECK(held > 0);
	held--;
	go_on();
}
