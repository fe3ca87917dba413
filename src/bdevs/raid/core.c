/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The life of an array.
 *
 *                        all expected bases are configured
 *   raid_new -> CONFIGURING ------------------------------> ONLINE
 *                                                             |  fewer members than it needs
 *            OFFLINE <----------------------------------------+
 *               +---- the missing bases are back -----------> ONLINE
 *
 * Invariants
 *  1. The bdev exists (lives) from the end of start() until destruct(); it is registered from the
 *     same moment until somebody asks for its removal.
 *  2. At most one procedure (busy) at a time. raid_proceed() begins the most urgent one; each ends
 *     in raid_free_to_go(), which calls it again.
 *  3. An array is freed when it is deleted, its bdev is gone, no procedure or process is under way,
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

	if (raid->sb == NULL) {
		return raid->num_bases;
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
			       "RAID '%s': a strip of %u KiB is no power of two up to 1 GiB", name,
			       strip_kb);
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

/* ---- Starting ---- */

static void
answer_create(struct raid *raid, int status)
{
	void (*created)(void *ctx, int status, const struct err *err) = raid->created;

	if (created != NULL) {
		raid->created = NULL;
		created(raid->created_ctx, status, &raid->err);
	}
}

static void
start_failed(struct raid *raid, int status)
{
	raid->starting = false;
	raid->stuck = true;
	LOG_ERROR(BDEV, raid->name, "cannot start: %s", err_text(&raid->err));
	if (raid->created != NULL) {
		raid_delete_it(raid);
		answer_create(raid, status);
	}
	raid_examinations_over(raid);
	raid->busy = false;
	raid_proceed(raid);
}

/* The first superblock of a new array. */
static int
make_superblock(struct raid *raid)
{
	struct raid_sb *sb = calloc(1, sizeof(*sb));

	if (sb == NULL) {
		return err_set(&raid->err, -ENOMEM, "RAID '%s': out of memory", raid->name);
	}
	uuid_copy(sb->uuid, raid->uuid);
	strncpy(sb->name, raid->name, sizeof(sb->name) - 1);
	sb->raid_size = raid->bdev.num_blocks;
	sb->block_size = raid->bdev.block_size;
	sb->level = raid->level->level;
	sb->strip_size = raid->strip_blocks;
	sb->num_bases = sb->count = raid->num_bases;
	sb->synced = true;
	for (unsigned i = 0; i < raid->num_bases; i++) {
		const struct raid_base *b = &raid->bases[i];

		sb->bases[i] = (struct raid_sb_base){
			.data_offset = b->data_offset,
			.data_size = b->data_size,
			.state = RAID_SB_CONFIGURED,
			.slot = (uint8_t)i,
		};
		uuid_copy(sb->bases[i].uuid, b->uuid);
	}
	raid->sb = sb;
	return 0;
}

static int
prepare_superblock(struct raid *raid)
{
	const struct raid_sb *sb = raid->sb;

	if (!raid->superblock) {
		return 0;
	}
	if (sb == NULL) {
		return make_superblock(raid);
	}
	if (sb->block_size != raid->bdev.block_size || sb->raid_size != raid->bdev.num_blocks) {
		return err_set(&raid->err, -EINVAL,
			       "RAID '%s': its bases give %llu blocks of %u bytes, its superblock "
			       "says %llu of %u",
			       raid->name, (unsigned long long)raid->bdev.num_blocks,
			       raid->bdev.block_size, (unsigned long long)sb->raid_size,
			       sb->block_size);
	}
	return 0;
}

static void
self_event(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
	struct raid *raid = ctx;

	if (ev != BDEV_EVENT_REMOVE) {
		return;
	}
	raid->self_removed = true;
	if (raid->registered) { /* not by us: it is gone for good, then */
		raid->registered = false;
		raid->deleting = true;
	}
	raid_process_stop(raid, -ENODEV, "the array is being removed");
	raid_self_put(raid);
	raid_proceed(raid);
}

bool
raid_self_get(struct raid *raid)
{
	if (!raid->lives || raid->self_removed || raid->self == NULL) {
		return false;
	}
	raid->self_users++;
	return true;
}

void
raid_self_put(struct raid *raid)
{
	struct bdev_desc *self = raid->self;

	if (--raid->self_users == 0) {
		raid->self = NULL;
		bdev_close(self);
	}
}

static int
bring_up(struct raid *raid)
{
	struct bdev *bdev = &raid->bdev;
	int rc;

	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_base *b = &raid->bases[i];

		pthread_mutex_lock(&raid->lock);
		b->role = b->configured ? ROLE_MEMBER : ROLE_NONE;
		b->open = b->configured;
		pthread_mutex_unlock(&raid->lock);
		atomic_store(&b->failing, 0);
		b->stays_away = false;
	}
	raid_intent_start(raid);
	atomic_store(&raid->broken, false);
	device_register(&raid->device, raid->name, &raid_device_ops,
			sizeof(struct raid_channel) + raid->num_bases * sizeof(struct raid_slot));
	raid->self_removed = false;
	raid->lives = true;
	raid->state = RAID_ONLINE;
	rc = bdev_register(bdev, &raid->err);
	if (rc != 0) {
		raid->lives = false;
		raid->state = RAID_CONFIGURING;
		raid_intent_stop(raid);
		device_unregister(&raid->device);
		return rc;
	}
	raid->registered = true;
	raid->self_users = 1;
	if (bdev_open(raid->name, false, self_event, raid, &raid->self, NULL) != 0) {
		raid->self_users = 0; /* no memory: no rebuild */
		raid->self = NULL;
	}
	return 0;
}

static void
superblock_written(struct raid *raid, bool complete)
{
	int rc = 0;

	if (!complete) {
		rc = err_set(&raid->err, -EIO, "RAID '%s': a superblock could not be written",
			     raid->name);
	} else if (raid->deleting) {
		rc = err_set(&raid->err, -ENODEV, "RAID '%s': deleted", raid->name);
	} else {
		rc = bring_up(raid);
	}
	for (unsigned i = 0; i < raid->num_bases && rc != 0; i++) {
		if (raid->bases[i].out != OUT_NO) {
			raid_base_close(&raid->bases[i]);
		}
	}
	if (rc != 0) {
		if (raid->level->stop != NULL) {
			raid->level->stop(raid);
		}
		start_failed(raid, rc);
		return;
	}
	raid->starting = false;
	raid->from_disk = raid->superblock;
	LOG_NOTICE(BDEV, raid->name, "%s on %u of %u bases", raid->level->name,
		   raid_count_members(raid), raid->num_bases);
	answer_create(raid, 0);
	raid_examinations_over(raid);
	raid_free_to_go(raid);
}

static void
start(struct raid *raid)
{
	int rc = 0;

	raid->busy = true;
	raid->starting = true;
	raid->err = ERR_NONE;
	timer_stop(&raid->patience);
	memset(&raid->bdev, 0, sizeof(raid->bdev));
	raid->strip_blocks = 0;
	raid->bdev.name = raid->name;
	raid->bdev.product_name = "Raid Volume";
	raid->bdev.ops = raid->level->bdev_ops;
	raid->bdev.channel_ctx_bytes = sizeof(struct raid_channel *);
	uuid_copy(raid->bdev.uuid, raid->uuid);
	for (unsigned i = 0; i < raid->num_bases && raid->bdev.block_size == 0; i++) {
		if (raid->bases[i].configured) {
			raid->bdev.block_size = bdev_block_size(raid->bases[i].bdev);
		}
	}
	if (raid->strip_kb != 0) {
		raid->strip_blocks = (uint32_t)((uint64_t)raid->strip_kb * 1024 / raid->bdev.block_size);
		if (raid->strip_blocks == 0) {
			rc = err_set(&raid->err, -EINVAL,
				     "RAID '%s': a strip of %u KiB is smaller than a block of %u "
				     "bytes",
				     raid->name, raid->strip_kb, raid->bdev.block_size);
		}
	}
	rc = rc == 0 ? raid->level->start(raid, &raid->err) : rc;
	if (rc == 0) {
		rc = prepare_superblock(raid);
		if (rc != 0 && raid->level->stop != NULL) {
			raid->level->stop(raid);
		}
	}
	if (rc != 0) {
		start_failed(raid, rc);
		return;
	}
	raid_meta_write(raid, superblock_written);
}

/* ---- Ending ---- */

void
raid_go_offline(struct raid *raid)
{
	LOG_ERROR(BDEV, raid->name, "offline: %u of %u bases are left, it needs %u",
		  raid_count_members(raid), raid->num_bases, raid->min_working);
	raid->state = RAID_OFFLINE;
	atomic_store(&raid->broken, true);
	raid_process_stop(raid, -EIO, "the array has gone offline");
	if (raid->registered) {
		raid->registered = false;
		bdev_unregister(&raid->bdev, NULL, NULL);
	}
}

void
raid_delete_it(struct raid *raid)
{
	raid->deleting = true;
	raid_process_stop(raid, -ENODEV, "the array is being deleted");
	if (raid->registered) {
		raid->registered = false;
		bdev_unregister(&raid->bdev, NULL, NULL);
	}
}

void
raid_bdev_destruct(struct bdev *bdev)
{
	struct raid *raid = CONTAINER_OF(bdev, struct raid, bdev);

	raid->lives = false;
	raid_intent_stop(raid);
	device_unregister(&raid->device);
	if (raid->level->stop != NULL) {
		raid->level->stop(raid);
	}
	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_base *b = &raid->bases[i];

		raid_set_role(b, ROLE_NONE);
		b->open = false;
		if (b->target || b->out != OUT_NO) {
			raid_base_close(b);
		}
	}
	raid_proceed(raid);
}

static void
close_all(struct raid *raid, bool complete)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		raid_base_close(&raid->bases[i]);
	}
	raid->busy = false;
	raid->state = RAID_OFFLINE;
	raid_proceed(raid);
}

static void
flushed_for_end(struct raid *raid, bool complete)
{
	if (!complete) {
		close_all(raid, false);
		return;
	}
	raid->sb->synced = true;
	raid_meta_write(raid, close_all);
}

/* What the superblocks are to say in the end. */
static void
last_words(struct raid *raid)
{
	raid->busy = true;
	if (raid->clear_sb && raid->superblock) {
		raid_meta_clear(raid, close_all);
	} else if (raid->keeps_intent && !raid->resync_wanted && !raid->sb->synced &&
		   raid->state == RAID_ONLINE) {
		raid_meta_flush(raid, flushed_for_end);
	} else {
		close_all(raid, true);
	}
}

static bool
all_closed(const struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		if (raid->bases[i].desc != NULL) {
			return false;
		}
	}
	return true;
}

static void
finish(struct raid *raid)
{
	void (*deleted)(void *ctx, int status) = raid->deleted;
	void *ctx = raid->deleted_ctx;

	free_raid(raid);
	if (deleted != NULL) {
		deleted(ctx, 0);
	}
	if (list_empty(&raid_all) && ended != NULL) {
		void (*fn)(void *ctx) = ended;

		ended = NULL;
		fn(ended_ctx);
	}
}

/* True when raid is gone. */
static bool
end(struct raid *raid)
{
	if (raid->lives || raid->process != NULL || raid_repair_busy(raid)) {
		return false;
	}
	for (unsigned i = 0; i < raid->num_bases; i++) {
		if (raid->bases[i].looking) {
			return false;
		}
	}
	if (all_closed(raid)) {
		finish(raid);
		return true;
	}
	for (unsigned i = 0; i < raid->num_bases; i++) {
		if (raid->bases[i].desc != NULL && !raid->bases[i].closing) {
			last_words(raid);
			return true;
		}
	}
	return false;
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
		answer_create(raid, raid->create_status);
		raid_proceed(raid);
		return;
	}
	if (raid_count_configured(raid) == expected && expected >= raid->min_working &&
	    all_settled(raid) && !raid->stuck) {
		start(raid);
		return;
	}
	be_patient(raid);
	answer_create(raid, 0);
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
		end(raid);
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
		take_base(raid, i);
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
