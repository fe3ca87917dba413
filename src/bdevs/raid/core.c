/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Arrays: which there are, and what they do next. life.c brings them up and takes them down.
 *
 *                        all expected bases are configured
 *   raid_new -> CONFIGURING ------------------------------> ONLINE
 *                                                             |  fewer members than it needs
 *            OFFLINE <----------------------------------------+
 *               +---- the missing bases are back -----------> ONLINE
 *
 * Invariants
 *  1. At most one procedure (busy) at a time. raid_proceed() begins the most urgent one; each ends
 *     in raid_free_to_go(), which calls it again.
 *  2. An array is freed when it is deleted, its bdev is gone, no procedure or process is under way,
 *     and every base is closed.
 * Context: the app thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bdevs/raid/internal.h"

struct list raid_all = {&raid_all, &raid_all};
struct raid_settings raid_settings = RAID_SETTINGS_DEFAULT;
bool raid_ending;
static void (*ended)(void *ctx);
static void *ended_ctx;

static const struct raid_level_ops *const levels[] = {&raid0_level, &raid1_level, &raid5f_level,
						      &concat_level};

/* ---- Finding, counting ---- */

const struct raid_level_ops *
raid_level_find(enum raid_level level)
{
	for (size_t i = 0; i < ARRAY_SIZE(levels); i++) {
		if (levels[i]->level == level) {
			return levels[i];
		}
	}
	return NULL;
}

struct raid *
raid_find(const char *name)
{
	struct raid *raid;

	LIST_FOREACH (raid, &raid_all, link) {
		if (strcmp(raid->name, name) == 0) {
			return raid;
		}
	}
	return NULL;
}

struct raid *
raid_find_uuid(const uuid_t uuid)
{
	struct raid *raid;

	LIST_FOREACH (raid, &raid_all, link) {
		if (uuid_compare(raid->uuid, uuid) == 0) {
			return raid;
		}
	}
	return NULL;
}

unsigned
raid_count_configured(const struct raid *raid)
{
	unsigned n = 0;

	for (unsigned i = 0; i < raid->num_bases; i++) {
		n += raid->bases[i].configured && raid->bases[i].out == OUT_NO;
	}
	return n;
}

unsigned
raid_count_members(const struct raid *raid)
{
	unsigned n = 0;

	for (unsigned i = 0; i < raid->num_bases; i++) {
		n += raid->bases[i].role >= ROLE_JOINING && raid->bases[i].out == OUT_NO;
	}
	return n;
}

/* How many bases the array is to start with. */
unsigned
raid_count_expected(const struct raid *raid)
{
	unsigned n = 0;

	for (unsigned i = 0; i < raid->num_bases && raid->sb == NULL; i++) {
		n += !raid->bases[i].left_out;
	}
	if (raid->sb == NULL) {
		return n;
	}
	for (unsigned i = 0; i < raid->sb->count; i++) {
		n += raid->sb->bases[i].state == RAID_SB_CONFIGURED;
	}
	return n;
}

/* ---- Making and freeing ---- */

static int
check_shape(const char *name, const struct raid_level_ops *level, uint32_t strip_kb,
	    unsigned num_bases, struct err *err)
{
	if (name[0] == '\0' || strlen(name) >= RAID_SB_NAME_BYTES) {
		return err_set(err, -EINVAL, "RAID name '%.80s' must have 1 to %d characters", name,
			       RAID_SB_NAME_BYTES - 1);
	}
	if (raid_find(name) != NULL || bdev_find(name) != NULL) {
		return err_set(err, -EEXIST, "a bdev named '%s' exists already", name);
	}
	if (level->level == RAID_LEVEL_1 && strip_kb != 0) {
		return err_set(err, -EINVAL, "RAID '%s': raid1 has no strips: strip_size_kb %u",
			       name, strip_kb);
	}
	if (level->level != RAID_LEVEL_1 &&
	    (strip_kb == 0 || (strip_kb & (strip_kb - 1)) != 0 || strip_kb > 1024 * 1024)) {
		return err_set(err, -EINVAL,
			       "RAID '%s': %s needs strip_size_kb, a power of two up to 1048576, not %u", name,
			       level->name, strip_kb);
	}
	if (num_bases < level->least_bases || num_bases > RAID_SB_BASES_MAX) {
		return err_set(err, -EINVAL, "RAID '%s': %s takes %u to %d base bdevs, not %u",
			       name, level->name, level->least_bases, RAID_SB_BASES_MAX, num_bases);
	}
	return 0;
}

static void
free_raid(struct raid *raid)
{
	list_remove(&raid->link);
	timer_stop(&raid->patience);
	timer_stop(&raid->meta.timer);
	job_end(raid->join_job, -ENODEV, "the array is being deleted");
	raid_repair_release(raid);
	for (unsigned i = 0; raid->bases != NULL && i < raid->num_bases; i++) {
		bdev_watch_stop(&raid->bases[i].watch);
		free(raid->bases[i].name);
	}
	free(raid->meta.buf);
	free(raid->bases);
	free(raid->starts);
	free(raid->sb);
	free(raid->name);
	pthread_mutex_destroy(&raid->lock);
	free(raid);
}

int
raid_new(const char *name, const uuid_t uuid, enum raid_level level_id, uint32_t strip_kb,
	 unsigned num_bases, bool superblock, struct raid **ret_raid, struct err *err)
{
	const struct raid_level_ops *level = raid_level_find(level_id);
	struct raid *raid;
	int rc;

	if (level == NULL) {
		return err_set(err, -EINVAL, "RAID '%s': there is no level %d", name, level_id);
	}
	rc = check_shape(name, level, strip_kb, num_bases, err);
	if (rc != 0) {
		return rc;
	}
	raid = calloc(1, sizeof(*raid));
	if (raid == NULL) {
		return err_set(err, -ENOMEM, "RAID '%s': out of memory", name);
	}
	pthread_mutex_init(&raid->lock, NULL);
	list_append(&raid_all, &raid->link);
	raid->name = strdup(name);
	raid->bases = calloc(num_bases, sizeof(*raid->bases));
	if (raid->name == NULL || raid->bases == NULL || raid_repair_init(raid) != 0) {
		free_raid(raid);
		return err_set(err, -ENOMEM, "RAID '%s': out of memory", name);
	}
	uuid_copy(raid->uuid, uuid);
	if (uuid_is_null(uuid)) {
		uuid_generate_random(raid->uuid);
	}
	raid->level = level;
	raid->strip_kb = strip_kb;
	raid->num_bases = num_bases;
	raid->min_working = level->min_working(num_bases);
	raid->superblock = superblock;
	raid->state = RAID_CONFIGURING;
	raid->app = thread_self();
	for (unsigned i = 0; i < num_bases; i++) {
		raid->bases[i].raid = raid;
		raid->bases[i].slot = i;
	}
	*ret_raid = raid;
	return 0;
}

void
raid_finish(struct raid *raid)
{
	void (*deleted)(void *ctx, int status) = raid->deleted;
	void *ctx = raid->deleted_ctx;

	raid_examinations_over(raid);
	free_raid(raid);
	if (deleted != NULL) {
		deleted(ctx, 0);
	}
	if (list_empty(&raid_all) && ended != NULL) {
		void (*fn)(void *ctx) = ended;

		ended = NULL;
		raid_ending = false;
		fn(ended_ctx);
	}
}

/* ---- Going on ---- */

static bool
any_looking(const struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		if (raid->bases[i].looking) {
			return true;
		}
	}
	return false;
}

static bool
any_out(const struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		if (raid->bases[i].out != OUT_NO && raid->bases[i].role != ROLE_NONE) {
			return true;
		}
	}
	return false;
}

/* No base is on its way out still. */
static bool
all_settled(const struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		if (raid->bases[i].desc != NULL && !raid->bases[i].configured) {
			return false;
		}
	}
	return true;
}

bool
raid_unsettled(const struct raid *raid)
{
	return !raid->lives && !raid->deleting && !all_settled(raid);
}

/* A base that is in its place, and not a member yet. */
static struct raid_base *
next_target(struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_base *b = &raid->bases[i];

		if (b->target && b->configured && b->role == ROLE_NONE && b->out == OUT_NO &&
		    !b->closing) {
			return b;
		}
	}
	return NULL;
}

/* The bases that are missing are taken for lost. */
static void
start_without(struct timer *timer)
{
	struct raid *raid = CONTAINER_OF(timer, struct raid, patience);

	if (raid->state != RAID_CONFIGURING || raid->busy || raid->deleting) {
		return;
	}
	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_sb_base *e = raid_sb_entry(raid, i);

		if (!raid->bases[i].configured && e != NULL && e->state == RAID_SB_CONFIGURED) {
			LOG_WARNING(BDEV, raid->name, "starts without base %u, which has not come",
				    i);
			e->state = RAID_SB_MISSING;
		}
	}
	raid_proceed(raid);
}

static void
be_patient(struct raid *raid)
{
	/*
	 * Whether those that are there have the newest superblock is sure only where no more than one
	 * base can have been left behind. Of mirrors any number can; and so somebody has to say that
	 * the others are lost: raid_remove_base().
	 */
	if (raid->sb != NULL && raid_settings.patience_sec != 0 &&
	    raid->min_working + 1 == raid->num_bases && raid->num_bases > 2 &&
	    raid_count_configured(raid) >= raid->min_working &&
	    !heap_linked(&raid->patience.node)) {
		CHECK(timer_start(&raid->patience, raid_settings.patience_sec * UINT64_C(1000000),
				  start_without) == 0);
	}
}

/* Not up: waits for bases, starts, or says why it cannot be created. */
static void
assemble(struct raid *raid)
{
	unsigned expected = raid_count_expected(raid);

	if (any_looking(raid)) {
		return;
	}
	if (raid->create_status != 0 && raid->created != NULL) {
		raid->deleting = true;
		raid_answer_create(raid, raid->create_status);
		raid_proceed(raid);
		return;
	}
	if (raid_count_configured(raid) == expected && expected >= raid->min_working &&
	    all_settled(raid) && !raid->stuck) {
		raid_start(raid);
		return;
	}
	be_patient(raid);
	raid_answer_create(raid, 0);
	if (all_settled(raid)) {
		raid_examinations_over(raid);
	}
}

static void
proceed_online(struct raid *raid)
{
	struct raid_base *target = next_target(raid);

	if (raid->joining != NULL) {
		raid_join_start(raid);
	} else if (raid->process == NULL && target != NULL) {
		raid_target_start(raid, target);
	} else if (raid->process != NULL && target != NULL && raid_process_is_resync(raid)) {
		raid_process_stop(raid, -ECANCELED, "a rebuild comes first");
	} else if (atomic_exchange(&raid->doubtful, false)) {
		raid_trust_start(raid, false);
	} else if (raid->resync_done) {
		raid_trust_start(raid, true);
	} else if (raid->clean_wanted) {
		raid_clean_start(raid);
	} else if (raid->process == NULL && !raid_readd(raid) && raid->resync_wanted &&
		   !raid->resync_failed) {
		raid_process_start(raid, NULL);
	}
}

void
raid_proceed(struct raid *raid)
{
	if (raid->busy) {
		return;
	}
	if (raid->lives) {
		if (atomic_load(&raid->broken)) {
			return; /* until destruct */
		}
		if (any_out(raid)) {
			raid_out_start(raid);
		} else if (atomic_load(&raid->dirty_wanted) && !raid->writable) {
			raid_dirty_start(raid);
		} else if (raid->registered) {
			proceed_online(raid);
		}
	} else if (raid->deleting) {
		raid_end(raid);
	} else if (!raid_ending) {
		assemble(raid);
	}
}

void
raid_free_to_go(struct raid *raid)
{
	raid->busy = false;
	raid_proceed(raid);
}

/* ---- What users ask for ---- */

static void
take_base(struct raid *raid, unsigned slot)
{
	struct raid_base *b = &raid->bases[slot];
	struct bdev *bdev = bdev_find(b->name);
	struct err err = ERR_NONE;
	int rc;

	if (bdev == NULL) {
		raid_base_await(b);
		return;
	}
	rc = raid_base_open(b, bdev, false, &err);
	if (rc != 0 && raid->create_status == 0) {
		raid->create_status = rc;
		raid->err = err;
	}
}

int
raid_create(const struct raid_options *o,
	    void (*done)(void *ctx, int status, const struct err *err), void *ctx, struct err *err)
{
	struct raid *raid;
	int rc;

	if (raid_ending) {
		return err_set(err, -EBUSY, "RAID '%s': berth is ending", o->name);
	}
	rc = raid_new(o->name, o->uuid, o->level, o->strip_kb, o->num_bases, o->superblock, &raid,
		      err);
	if (rc != 0) {
		return rc;
	}
	for (unsigned i = 0; i < o->num_bases && rc == 0; i++) {
		if (o->bases[i] == NULL) {
			raid->bases[i].left_out = raid->level->redundant && !o->superblock;
			continue;
		}
		raid->bases[i].name = strdup(o->bases[i]);
		if (raid->bases[i].name == NULL) {
			rc = err_set(err, -ENOMEM, "RAID '%s': out of memory", o->name);
		} else if (o->bases[i][0] == '\0') {
			rc = err_set(err, -EINVAL, "RAID '%s': a base bdev has no name", o->name);
		}
	}
	if (rc != 0) {
		free_raid(raid);
		return rc;
	}
	raid->created = done;
	raid->created_ctx = ctx;
	raid->busy = true; /* not before all have been asked for */
	for (unsigned i = 0; i < o->num_bases && raid->create_status == 0; i++) {
		if (raid->bases[i].name != NULL) {
			take_base(raid, i);
		}
	}
	raid_free_to_go(raid);
	return 0;
}

int
raid_delete(const char *name, bool clear_sb, void (*done)(void *ctx, int status), void *ctx,
	    struct err *err)
{
	struct raid *raid = raid_find(name);

	if (raid == NULL) {
		return err_set(err, -ENODEV, "there is no RAID bdev '%s'", name);
	}
	if (raid->deleting) {
		return err_set(err, -EBUSY, "RAID '%s' is being deleted", name);
	}
	raid->clear_sb = clear_sb;
	raid->deleted = done;
	raid->deleted_ctx = ctx;
	raid_delete_it(raid);
	raid_proceed(raid);
	return 0;
}

void
raid_shutdown(void (*done)(void *ctx), void *ctx)
{
	struct raid *raid, *next;

	raid_ending = true;
	if (list_empty(&raid_all)) {
		raid_ending = false;
		done(ctx);
		return;
	}
	ended = done;
	ended_ctx = ctx;
	LIST_FOREACH_SAFE (raid, next, &raid_all, link) {
		if (!raid->deleting) {
			raid_delete_it(raid);
			raid_proceed(raid);
		}
	}
}

void
raid_get_settings(struct raid_settings *ret_settings)
{
	*ret_settings = raid_settings;
}

int
raid_set_settings(const struct raid_settings *settings, struct err *err)
{
	if (settings->window_kb == 0) {
		return err_set(err, -EINVAL, "the window of a rebuild cannot be 0");
	}
	raid_settings = *settings;
	return 0;
}
