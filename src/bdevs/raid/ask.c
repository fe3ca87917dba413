/* SPDX-License-Identifier: BSD-3-Clause */
/* Bases that users add to an array, and take out of it. Context: the app thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bdevs/raid/internal.h"

static struct raid_base *
empty_slot(struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_base *b = &raid->bases[i];

		if (b->name == NULL && b->desc == NULL &&
		    (raid->lives || raid->sb == NULL)) {
			return b;
		}
	}
	return NULL;
}

static bool
is_rebuilt(const struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		if (raid->bases[i].target && raid->bases[i].out == OUT_NO) {
			return true;
		}
	}
	return false;
}

int
raid_add_base(const char *name, const char *base,
	      void (*done)(void *ctx, int status, const struct err *err), void *ctx,
	      struct err *err)
{
	struct raid *raid = raid_find(name);
	struct bdev *bdev = bdev_find(base);
	struct raid_base *b;
	int rc;

	if (raid == NULL || raid->deleting) {
		return err_set(err, -ENODEV, "there is no RAID bdev '%s'", name);
	}
	if (is_rebuilt(raid)) {
		return err_set(err, -EPERM, "RAID '%s' is being rebuilt: one base at a time", name);
	}
	b = raid->state == RAID_OFFLINE ? NULL : empty_slot(raid);
	if (b == NULL) {
		return err_set(err, -EINVAL, "RAID '%s' has no empty slot for '%s'", name, base);
	}
	b->name = strdup(base);
	if (b->name == NULL) {
		return err_set(err, -ENOMEM, "RAID '%s': out of memory", name);
	}
	b->left_out = false;
	if (bdev == NULL) {
		if (raid->lives) {
			raid_base_forget(b);
			return err_set(err, -ENODEV, "there is no bdev '%s'", base);
		}
		raid_base_await(b);
		done(ctx, 0, NULL);
		return 0;
	}
	rc = raid_base_open(b, bdev, false, err);
	if (rc != 0) {
		raid_base_forget(b);
		return rc;
	}
	b->added = done;
	b->added_ctx = ctx;
	return 0;
}

static struct raid_base *
find_base(const struct bdev *bdev, const char *name)
{
	struct raid *raid;

	LIST_FOREACH (raid, &raid_all, link) {
		for (unsigned i = 0; i < raid->num_bases; i++) {
			struct raid_base *b = &raid->bases[i];

			if (bdev != NULL ? b->bdev == bdev
					 : b->name != NULL && strcmp(b->name, name) == 0) {
				return b;
			}
		}
	}
	return NULL;
}

/* A member that an array waits for, by its UUID. */
static struct raid_base *
find_awaited(const char *text)
{
	struct raid *raid;
	uuid_t uuid;

	if (uuid_parse(text, uuid) != 0) {
		return NULL;
	}
	LIST_FOREACH (raid, &raid_all, link) {
		for (unsigned i = 0; i < raid->num_bases && raid->state == RAID_CONFIGURING; i++) {
			const struct raid_sb_base *e = raid_sb_entry(raid, i);

			if (e != NULL && e->state == RAID_SB_CONFIGURED &&
			    raid->bases[i].desc == NULL && uuid_compare(e->uuid, uuid) == 0) {
				return &raid->bases[i];
			}
		}
	}
	return NULL;
}

static int
give_up(struct raid_base *b, struct err *err)
{
	struct raid *raid = b->raid;
	struct raid_sb_base *e = raid_sb_entry(raid, b->slot);

	if (raid_count_expected(raid) <= raid->min_working || raid->busy) {
		return err_set(err, -EBUSY, "RAID '%s' cannot start without base %u", raid->name,
			       b->slot);
	}
	LOG_WARNING(BDEV, raid->name, "base %u is given up", b->slot);
	e->state = RAID_SB_MISSING;
	e->stays_out = true;
	uuid_clear(b->uuid);
	raid_proceed(raid);
	return 0;
}

/* The superblock would go on saying that it is a member: the array would be assembled on it again. */
static bool
cannot_spare(const struct raid_base *b)
{
	const struct raid *raid = b->raid;

	return raid->superblock && raid->lives && b->role >= ROLE_JOINING &&
	       raid_count_members(raid) <= raid->min_working;
}

int
raid_remove_base(const char *base, void (*done)(void *ctx, int status), void *ctx,
		 struct err *err)
{
	struct raid_base *b = find_base(bdev_find(base), base);

	if (b == NULL && (b = find_awaited(base)) != NULL) {
		int rc = give_up(b, err);

		if (rc == 0) {
			done(ctx, 0);
		}
		return rc;
	}
	if (b == NULL || b->raid->deleting || b->closing || b->out != OUT_NO ||
	    b->raid->state == RAID_OFFLINE) {
		return err_set(err, -ENODEV, "'%s' is not a base bdev of any RAID", base);
	}
	if (b->desc == NULL) { /* awaited */
		bdev_watch_stop(&b->watch);
		raid_base_forget(b);
		done(ctx, 0);
		return 0;
	}
	if (cannot_spare(b)) {
		return err_set(err, -EBUSY,
			       "RAID '%s' cannot do without '%s', and its superblock would bring it "
			       "back: delete the array",
			       b->raid->name, base);
	}
	b->removed = done;
	b->removed_ctx = ctx;
	raid_base_leave(b, OUT_REMOVED);
	return 0;
}
