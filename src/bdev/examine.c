/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who hears of a bdev that has come: those that wait for its name, at once; then the examiners,
 * modules that look for what is theirs in it. Names come first: a bdev that was configured to stand on
 * this one has claimed it before anybody looks.
 *
 * Invariants
 *  1. under_way counts examinations begun and not answered; when it comes to 0, those that wait for
 *     that are told, also of bdevs that examinations brought up meanwhile.
 *  2. A bdev somebody has claimed is not examined.
 *  3. While examination is held, those that come are marked (core->unexamined), and looked at when it
 *     is let go: by then those that are configured have their names, and users have their disks open.
 * Context: the app thread.
 */
#include <errno.h>
#include <string.h>

#include "bdev/internal.h"

static struct list watches = {&watches, &watches};
static struct list waits = {&waits, &waits};
static const struct bdev_examiner *const *examiners;
static unsigned under_way;
static unsigned held;

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
static void
tell_watches(struct bdev *bdev)
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

void
bdev_examine_done(void)
{
	CHECK(under_way > 0);
	under_way--;
	while (under_way == 0 && !list_empty(&waits)) {
		struct bdev_examine_wait *w = LIST_FIRST(&waits, struct bdev_examine_wait, link);

		list_remove(&w->link);
		w->done(w);
	}
}

static void
examine(struct bdev *bdev)
{
	under_way++; /* so that nobody is told before all have begun */
	for (size_t i = 0; examiners != NULL && examiners[i] != NULL; i++) {
		if (bdev->core->claim == BDEV_CLAIM_NONE) {
			under_way++;
			examiners[i]->examine(bdev);
		}
	}
	bdev_examine_done();
}

int
bdev_examine(const char *name, struct err *err)
{
	struct bdev *bdev = bdev_find(name);

	if (bdev == NULL) {
		return err_set(err, -ENODEV, "there is no bdev '%s'", name);
	}
	examine(bdev);
	return 0;
}

void
bdev_wait_for_examine(struct bdev_examine_wait *w, void (*done)(struct bdev_examine_wait *w))
{
	w->done = done;
	if (under_way == 0) {
		done(w);
	} else {
		list_append(&waits, &w->link);
	}
}

void
examine_new(struct bdev *bdev)
{
	struct bdev_options options;

	tell_watches(bdev);
	bdev_get_options(&options);
	if (!options.auto_examine) {
		return;
	}
	bdev->core->unexamined = held > 0;
	if (held == 0) {
		examine(bdev);
	}
}

void
bdev_examine_hold(void)
{
	held++;
}

/* What an examination brings up goes to the end of the list, examined already. */
void
bdev_examine_release(void)
{
	CHECK(held > 0);
	if (--held > 0) {
		return;
	}
	under_way++;
	for (struct bdev *b = bdev_first(), *next; b != NULL; b = next) {
		bool wanted = b->core->unexamined;

		b->core->unexamined = false;
		if (wanted) {
			examine(b);
		}
		next = bdev_next(b);
	}
	bdev_examine_done();
}
