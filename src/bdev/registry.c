/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which bdevs there are, and by what names. Names, aliases and UUIDs share one namespace.
 *
 * Invariants
 *  1. A text is the name of at most one bdev. The first entry of core->names is the bdev's own
 *     name.
 *  2. A bdev is in the registry from bdev_register() until bdev_unregister(); its core lives on
 *     until nobody has it open and no visit or reset is under way (core->holds). destruct and done
 *     are called once, by a message, never from inside bdev_unregister() or bdev_close().
 * Context: the app thread, the first thread to register a bdev when there was none.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/names.h"
#include "bdev/internal.h"

struct name {
	struct names_node node;
	struct list core_link;
	struct bdev *bdev;
	char text[];
};

static struct names by_name;
static struct list bdevs;
static unsigned alive; /* cores, those being removed included */
static void (*all_gone)(void *ctx); /* not NULL: there will be no more bdevs */
static void *all_gone_ctx;
static _Atomic(struct thread *) the_app_thread;
static void (*notice_fn)(void *ctx, const char *name, enum bdev_notice what);
static void *notice_ctx;

struct thread *
app_thread(void)
{
	return atomic_load_explicit(&the_app_thread, memory_order_acquire);
}

void
app_thread_check(void)
{
	CHECK(app_thread() == NULL || app_thread() == thread_self());
}

void
bdev_set_notice(void (*fn)(void *ctx, const char *name, enum bdev_notice what), void *ctx)
{
	notice_fn = fn;
	notice_ctx = ctx;
}

void
notice(const struct bdev *bdev, enum bdev_notice what)
{
	if (notice_fn != NULL) {
		notice_fn(notice_ctx, bdev->name, what);
	}
}

/* ---- Names ---- */

static struct name *
find_name(const char *text)
{
	struct names_node *node = names_find(&by_name, text);

	return node != NULL ? CONTAINER_OF(node, struct name, node) : NULL;
}

static int
add_name(struct bdev *bdev, const char *text, struct err *err)
{
	size_t len = strlen(text);
	struct name *n;

	if (len == 0 || len >= BDEV_NAME_BYTES) {
		return err_set(err, -EINVAL, "bdev name '%.64s' must have 1 to %d characters", text,
			       BDEV_NAME_BYTES - 1);
	}
	if (find_name(text) != NULL) {
		return err_set(err, -EEXIST, "a bdev named '%s' exists already", text);
	}
	n = calloc(1, sizeof(*n) + len + 1);
	if (n == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", text);
	}
	n->bdev = bdev;
	memcpy(n->text, text, len + 1);
	names_add(&by_name, &n->node, n->text);
	list_append(&bdev->core->names, &n->core_link);
	return 0;
}

static void
free_name(struct name *n)
{
	names_remove(&by_name, &n->node);
	list_remove(&n->core_link);
	free(n);
}

static void
free_names(struct bdev_core *core)
{
	while (!list_empty(&core->names)) {
		free_name(LIST_FIRST(&core->names, struct name, core_link));
	}
}

struct bdev *
bdev_find(const char *text)
{
	char canonical[UUID_STR_LEN];
	struct name *n = find_name(text);
	uuid_t uuid;

	app_thread_check();
	if (n == NULL && uuid_parse(text, uuid) == 0) {
		uuid_unparse_lower(uuid, canonical);
		n = find_name(canonical);
	}
	return n == NULL ? NULL : n->bdev;
}

const char *
bdev_alias(const struct bdev *bdev, unsigned i)
{
	struct list *names = &bdev->core->names;
	struct list *l = names->next;

	do {
		l = l->next;
	} while (l != names && i-- > 0);
	return l == names ? NULL : LIST_ENTRY(l, struct name, core_link)->text;
}

int
bdev_alias_add(struct bdev *bdev, const char *alias, struct err *err)
{
	int rc;

	app_thread_check();
	rc = add_name(bdev, alias, err);
	if (rc == 0) {
		examine_tell_watches(bdev);
	}
	return rc;
}

int
bdev_alias_remove(struct bdev *bdev, const char *alias)
{
	struct name *n = find_name(alias);

	app_thread_check();
	if (n == NULL || n->bdev != bdev || bdev->core->names.next == &n->core_link ||
	    strcmp(alias, bdev->core->uuid_text) == 0) {
		return -ENOENT;
	}
	free_name(n);
	return 0;
}

/* ---- Registration ---- */

static bool
power_of_two(uint64_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

/* Checks what the module filled in, and puts the real values where 0 stands for a default. */
static int
check_fields(struct bdev *bdev, struct err *err)
{
	if (bdev->block_size < BDEV_BLOCK_SIZE_MIN || bdev->block_size > BDEV_BLOCK_SIZE_MAX ||
	    !power_of_two(bdev->block_size)) {
		return err_set(err, -EINVAL,
			       "bdev '%s': block size %u is not a power of two from %d to %d",
			       bdev->name, bdev->block_size, BDEV_BLOCK_SIZE_MIN,
			       BDEV_BLOCK_SIZE_MAX);
	}
	if (bdev->physical_block_size == 0) {
		bdev->physical_block_size = bdev->block_size;
	}
	if (!power_of_two(bdev->physical_block_size) ||
	    bdev->physical_block_size < bdev->block_size) {
		return err_set(err, -EINVAL,
			       "bdev '%s': physical block size %u is not a power of two of at "
			       "least the block size %u",
			       bdev->name, bdev->physical_block_size, bdev->block_size);
	}
	if (bdev->num_blocks == 0 || bdev->num_blocks > INT64_MAX / bdev->block_size) {
		return err_set(err, -EINVAL,
			       "bdev '%s': a size of %llu blocks of %u bytes is not possible",
			       bdev->name, (unsigned long long)bdev->num_blocks, bdev->block_size);
	}
	bdev->buffer_align = MAX(bdev->buffer_align, 1u);
	if (!power_of_two(bdev->buffer_align) || bdev->buffer_align > BDEV_BUFFER_ALIGN_MAX) {
		return err_set(err, -EINVAL, "bdev '%s': buffers cannot be aligned to %u bytes",
			       bdev->name, bdev->buffer_align);
	}
	if (bdev->max_iovcnt == 0 || bdev->max_iovcnt > BDEV_IOV_MAX) {
		bdev->max_iovcnt = BDEV_IOV_MAX;
	}
	bdev->unmap_granularity_blocks = MAX(bdev->unmap_granularity_blocks, 1u);
	return md_check(bdev, err);
}

static struct bdev_core *
create_core(struct bdev *bdev)
{
	struct bdev_core *core = calloc(1, sizeof(*core));

	if (core == NULL) {
		return NULL;
	}
	core->bdev = bdev;
	list_init(&core->names);
	list_init(&core->descs);
	list_init(&core->resets_waiting);
	list_init(&core->resets_running);
	list_init(&core->locks);
	pthread_mutex_init(&core->closed_lock, NULL);
	stats_init(&core->closed);
	channel_set_init(&core->channels);
	return core;
}

static void
free_core(struct bdev_core *core)
{
	CHECK(list_empty(&core->channels.channels));
	free_names(core);
	CHECK(list_empty(&core->locks));
	free(atomic_load(&core->ranges));
	qos_release(core);
	stats_release(core);
	pthread_mutex_destroy(&core->closed_lock);
	free(core);
}

/* Its own name; its UUID, where that is not the name itself. */
static int
add_first_names(struct bdev *bdev, struct err *err)
{
	int rc = add_name(bdev, bdev->name, err);

	if (rc != 0) {
		return rc;
	}
	if (uuid_is_null(bdev->uuid)) {
		uuid_generate_random(bdev->uuid);
	}
	uuid_unparse_lower(bdev->uuid, bdev->core->uuid_text);
	return strcmp(bdev->core->uuid_text, bdev->name) == 0
		       ? 0
		       : add_name(bdev, bdev->core->uuid_text, err);
}

int
bdev_register(struct bdev *bdev, struct err *err)
{
	int rc;

	CHECK(thread_self() != NULL && bdev->ops != NULL && bdev->name != NULL);
	CHECK(bdev->ops_mask & (1u << BDEV_READ));
	app_thread_check();
	if (all_gone != NULL) {
		return err_set(err, -ESHUTDOWN, "bdev '%s': berthd is stopping", bdev->name);
	}
	rc = check_fields(bdev, err);
	if (rc != 0) {
		return rc;
	}
	if (mem_zeroes() == NULL || (bdev->core = create_core(bdev)) == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", bdev->name);
	}
	rc = add_first_names(bdev, err);
	if (rc != 0) {
		free_core(bdev->core);
		bdev->core = NULL;
		return rc;
	}
	if (alive++ == 0) {
		atomic_store_explicit(&the_app_thread, thread_self(), memory_order_release);
		list_init(&bdevs);
	}
	list_append(&bdevs, &bdev->core->link);
	notice(bdev, BDEV_REGISTERED);
	examine_new(bdev);
	return 0;
}

/* ---- Removal ---- */

static void
tell_if_all_gone(void)
{
	void (*done)(void *ctx) = all_gone;

	if (alive == 0 && done != NULL) {
		all_gone = NULL;
		done(all_gone_ctx);
	}
}

static void
destroy(struct msg *msg)
{
	struct bdev_core *core = CONTAINER_OF(msg, struct bdev_core, destroy_msg);
	void (*gone)(void *ctx, int status) = core->gone;
	struct bdev *bdev = core->bdev;
	void *ctx = core->gone_ctx;

	core->destroying = false;
	if (core->holds > 0 || !list_empty(&core->descs)) {
		return; /* something began meanwhile: its end comes by here again */
	}
	free_core(core);
	bdev->core = NULL;
	if (bdev->ops->destruct != NULL) {
		bdev->ops->destruct(bdev);
	}
	if (--alive == 0) {
		atomic_store_explicit(&the_app_thread, NULL, memory_order_release);
	}
	if (gone != NULL) {
		gone(ctx, 0);
	}
	tell_if_all_gone();
}

void
core_try_destroy(struct bdev_core *core)
{
	if (atomic_load(&core->removed) && list_empty(&core->descs) && core->holds == 0 &&
	    !core->destroying) {
		core->destroying = true;
		thread_send(app_thread(), &core->destroy_msg, destroy);
	}
}

void
core_hold(struct bdev_core *core)
{
	core->holds++;
}

void
core_unhold(struct bdev_core *core)
{
	core->holds--;
	core_try_destroy(core);
}

static void
remove_channel(struct bdev_core *core, struct bdev_channel *ch, void *ctx)
{
	channel_remove(core_channel(ch));
}

static void
removed_everywhere(struct bdev_core *core, void *ctx)
{
	send_event(core, BDEV_EVENT_REMOVE);
}

void
bdev_unregister(struct bdev *bdev, void (*done)(void *ctx, int status), void *ctx)
{
	struct bdev_core *core = bdev->core;

	app_thread_check();
	if (all_gone != NULL && (core == NULL || atomic_load(&core->removed))) {
		CHECK(done == NULL);
		return;
	}
	CHECK(!atomic_load(&core->removed));
	notice(bdev, BDEV_LEAVES);
	core->gone = done;
	core->gone_ctx = ctx;
	atomic_store(&core->removed, true);
	free_names(core);
	list_remove(&core->link);
	examine_forget(core);
	notice(bdev, BDEV_UNREGISTERED);
	visit_start(&core->remove_visit, core, remove_channel, removed_everywhere, NULL);
}

void
bdev_shutdown(void (*done)(void *ctx), void *ctx)
{
	CHECK(all_gone == NULL);
	all_gone = done;
	all_gone_ctx = ctx;
	while (alive > 0 && !list_empty(&bdevs)) {
		bdev_unregister(bdev_first(), NULL, NULL);
	}
	tell_if_all_gone();
}

/* ---- What a bdev is ---- */

struct bdev *
bdev_first(void)
{
	app_thread_check();
	return list_empty(&bdevs) ? NULL : LIST_FIRST(&bdevs, struct bdev_core, link)->bdev;
}

struct bdev *
bdev_next(struct bdev *bdev)
{
	struct list *next = bdev->core->link.next;

	app_thread_check();
	return next == &bdevs ? NULL : LIST_ENTRY(next, struct bdev_core, link)->bdev;
}

const char *
bdev_name(const struct bdev *bdev)
{
	return bdev->name;
}

const char *
bdev_product_name(const struct bdev *bdev)
{
	return bdev->product_name;
}

void
bdev_uuid(const struct bdev *bdev, uuid_t ret_uuid)
{
	uuid_copy(ret_uuid, bdev->uuid);
}

uint32_t
bdev_block_size(const struct bdev *bdev)
{
	return bdev->block_size;
}

uint64_t
bdev_num_blocks(const struct bdev *bdev)
{
	return __atomic_load_n(&bdev->num_blocks, __ATOMIC_ACQUIRE);
}

uint32_t
bdev_physical_block_size(const struct bdev *bdev)
{
	return bdev->physical_block_size;
}

uint32_t
bdev_buffer_align(const struct bdev *bdev)
{
	return bdev->buffer_align;
}

bool
bdev_write_cache(const struct bdev *bdev)
{
	return bdev->write_cache;
}

bool
bdev_tells_changes(const struct bdev *bdev)
{
	/* A stack says what its base says, and may not ask it. */
	return bdev->tells_changes && bdev_supports_natively(bdev, BDEV_BLOCK_STATUS);
}

const uint8_t *
bdev_memory(const struct bdev *bdev)
{
	return bdev->memory;
}

bool
bdev_readonly(const struct bdev *bdev)
{
	return bdev->readonly;
}

uint32_t
bdev_unmap_granularity(const struct bdev *bdev)
{
	return bdev->unmap_granularity_blocks;
}

bool
bdev_claimed(const struct bdev *bdev)
{
	return bdev->core->claim != BDEV_CLAIM_NONE;
}

uint32_t
bdev_md_bytes(const struct bdev *bdev)
{
	return bdev->md_bytes;
}

const struct bdev_hints *
bdev_hints(const struct bdev *bdev)
{
	return &bdev->hints;
}

bool
bdev_zoned(const struct bdev *bdev)
{
	return bdev->zone_blocks != 0;
}

bool
bdev_supports_natively(const struct bdev *bdev, enum bdev_op op)
{
	return (bdev->ops_mask >> op) & 1;
}

bool
bdev_supports(const struct bdev *bdev, enum bdev_op op)
{
	switch (op) {
	case BDEV_RESET:
	case BDEV_ABORT:
	case BDEV_COMPARE:
	case BDEV_SEEK_DATA:
	case BDEV_SEEK_HOLE:
	case BDEV_BLOCK_STATUS:
		return true;
	case BDEV_COPY: /* zones are written in order */
		return !bdev->readonly && bdev->zone_blocks == 0 &&
		       (bdev->ops_mask & (1u << op | 1u << BDEV_WRITE)) != 0;
	case BDEV_WRITE_ZEROES:
	case BDEV_COMPARE_AND_WRITE:
		return !bdev->readonly && (bdev->ops_mask & (1u << op | 1u << BDEV_WRITE)) != 0;
	case BDEV_WRITE:
	case BDEV_UNMAP:
	case BDEV_ZONE_MANAGE:
	case BDEV_ZONE_APPEND:
		return !bdev->readonly && bdev_supports_natively(bdev, op);
	default:
		return bdev_supports_natively(bdev, op);
	}
}

const char *
bdev_op_name(enum bdev_op op)
{
	static const char *const names[BDEV_OP_COUNT] = {
		[BDEV_READ] = "read",
		[BDEV_WRITE] = "write",
		[BDEV_FLUSH] = "flush",
		[BDEV_UNMAP] = "unmap",
		[BDEV_WRITE_ZEROES] = "write_zeroes",
		[BDEV_RESET] = "reset",
		[BDEV_COMPARE] = "compare",
		[BDEV_COMPARE_AND_WRITE] = "compare_and_write",
		[BDEV_COPY] = "copy",
		[BDEV_ABORT] = "abort",
		[BDEV_SEEK_DATA] = "seek_data",
		[BDEV_SEEK_HOLE] = "seek_hole",
		[BDEV_BLOCK_STATUS] = "block_status",
		[BDEV_ZONE_REPORT] = "get_zone_info",
		[BDEV_ZONE_MANAGE] = "zone_management",
		[BDEV_ZONE_APPEND] = "zone_append",
	};

	return names[op];
}
