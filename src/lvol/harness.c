/* SPDX-License-Identifier: BSD-3-Clause */
#include "lvol/harness.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

struct err h_err;

static const struct bdev_examiner *const examiners[] = {&lvol_examiner, NULL};

enum what {
	STORE_CREATE, STORE_LOAD, STORE_RENAME, STORE_GROW, STORE_UNLOAD, STORE_DESTROY, STORE_IDLE, STORE_LIMITS, STORE_INFO,
	CREATE, SNAPSHOT, CLONE, CLONE_BDEV, RENAME, RESIZE, SET_READ_ONLY, DELETE, INFLATE, DECOUPLE, SET_PARENT,
	SET_PARENT_BDEV, INFO, EXISTS, HAS_BDEV,
};

struct ask {
	enum what what;
	const char *object, *name, *other;
	const struct lvol_store_options *options;
	uint64_t bytes;
	bool thin;
	unsigned percent;
	struct lvol_store_info store_info;
	struct lvol_info info;
	int status;
	atomic_bool done;
};

static void
answered(void *ctx, int status, const struct err *err)
{
	struct ask *a = ctx;

	a->status = status;
	h_err = err == NULL ? ERR_NONE : *err;
	EXPECT((status == 0) == (err == NULL) && (err == NULL || err->code == status));
	atomic_store(&a->done, true);
}

static void
store_made(void *ctx, struct lvol_store *store, int status, const struct err *err)
{
	EXPECT((status == 0) == (store != NULL));
	answered(ctx, status, err);
}

static void
made(void *ctx, struct lvol *lvol, int status, const struct err *err)
{
	EXPECT((status == 0) == (lvol != NULL));
	answered(ctx, status, err);
}

static void
ask_store(struct ask *a)
{
	struct lvol_store *store = lvol_store_find(a->object);
	struct lvol_options options = {.name = a->name, .bytes = a->bytes, .thin = a->thin};

	if (store == NULL) {
		struct err err = ERR_NONE;

		answered(a, err_set(&err, -ENODEV, "there is no store '%s'", a->object), &err);
		return;
	}
	switch (a->what) {
	case STORE_RENAME:
		lvol_store_rename(store, a->name, answered, a);
		break;
	case STORE_GROW:
		lvol_store_grow(store, answered, a);
		break;
	case STORE_UNLOAD:
		lvol_store_unload(store, answered, a);
		break;
	case STORE_DESTROY:
		lvol_store_destroy(store, answered, a);
		break;
	case STORE_IDLE:
		lvol_store_wait_idle(store, answered, a);
		break;
	case STORE_LIMITS:
		lvol_store_set_limits(store, a->percent, a->thin, answered, a);
		break;
	case STORE_INFO:
		lvol_store_get_info(store, &a->store_info);
		answered(a, 0, NULL);
		break;
	case CLONE_BDEV:
		lvol_clone_bdev(store, a->other, a->name, made, a);
		break;
	default:
		lvol_create(store, &options, made, a);
	}
}

static void
ask_volume(struct ask *a)
{
	struct lvol *lvol = lvol_find(a->object);

	if (lvol == NULL) {
		struct err err = ERR_NONE;

		answered(a, err_set(&err, -ENODEV, "there is no volume '%s'", a->object), &err);
		return;
	}
	switch (a->what) {
	case SNAPSHOT:
		lvol_snapshot(lvol, a->name, made, a);
		break;
	case CLONE:
		lvol_clone(lvol, a->name, made, a);
		break;
	case RENAME:
		lvol_rename(lvol, a->name, answered, a);
		break;
	case RESIZE:
		lvol_resize(lvol, a->bytes, answered, a);
		break;
	case SET_READ_ONLY:
		lvol_set_read_only(lvol, answered, a);
		break;
	case DELETE:
		lvol_delete(lvol, answered, a);
		break;
	case INFLATE:
		lvol_inflate(lvol, answered, a);
		break;
	case DECOUPLE:
		lvol_decouple(lvol, answered, a);
		break;
	case SET_PARENT:
		lvol_set_parent(lvol, lvol_find(a->other), answered, a);
		break;
	case SET_PARENT_BDEV:
		lvol_set_parent_bdev(lvol, a->other, answered, a);
		break;
	default:
		lvol_get_info(lvol, &a->info);
		answered(a, 0, NULL);
	}
}

static void
ask_on_app(void *arg)
{
	struct ask *a = arg;

	switch (a->what) {
	case STORE_CREATE:
		lvol_store_create(a->options, store_made, a);
		break;
	case STORE_LOAD:
		lvol_store_load(a->object, store_made, a);
		break;
	case EXISTS:
		a->thin = lvol_find(a->object) != NULL;
		atomic_store(&a->done, true);
		break;
	case HAS_BDEV:
		a->thin = bdev_find(a->object) != NULL;
		atomic_store(&a->done, true);
		break;
	case CREATE:
	case CLONE_BDEV:
	case STORE_RENAME:
	case STORE_GROW:
	case STORE_UNLOAD:
	case STORE_DESTROY:
	case STORE_IDLE:
	case STORE_LIMITS:
	case STORE_INFO:
		ask_store(a);
		break;
	default:
		ask_volume(a);
	}
	/* What is asynchronous is not answered from inside. */
	EXPECT(a->what >= INFO || a->what == STORE_INFO || !atomic_load(&a->done) || a->status == -ENODEV);
}

static int
ask(struct env *env, struct ask *a)
{
	env_call(env, env->app, ask_on_app, a);
	env_wait(env, &a->done);
	return a->status;
}

#define ASK(what_, ...) ask(env, &(struct ask){.what = (what_), __VA_ARGS__})

/* ---- The stage ---- */

void
h_on_app(struct env *env, void (*fn)(void *arg), void *arg)
{
	env_call(env, env->app, fn, arg);
}

static void
set_examiners(void *arg)
{
	bdev_set_examiners(arg);
}

void
h_start(struct env *env, enum reactor_mode mode, bool real_threads)
{
	env_start(env, mode, real_threads);
	env_call(env, env->app, set_examiners, (void *)(uintptr_t)examiners);
}

static void
finished(void *ctx)
{
	atomic_store((atomic_bool *)ctx, true);
}

static void
shut_lvol(void *arg)
{
	lvol_shutdown(finished, arg);
}

static void
shut_bdev(void *arg)
{
	bdev_set_examiners(NULL);
	bdev_shutdown(finished, arg);
}

#define DISKS_MAX 64

static struct scripted_bdev disks[DISKS_MAX]; /* bdev.name NULL: free */

struct disk {
	struct scripted_bdev *s;
	uint64_t blocks;
	atomic_bool gone;
};

struct scripted_bdev *
h_disk_of(const char *name)
{
	unsigned i = 0;

	while (disks[i].bdev.name == NULL || strcmp(disks[i].bdev.name, name) != 0) {
		i++;
		EXPECT_SAY(i < DISKS_MAX, "there is no disk %s", name);
	}
	return &disks[i];
}

static void
add_on_app(void *arg)
{
	struct disk *d = arg;
	struct err err = ERR_NONE;

	EXPECT_SAY(scripted_bdev_add(d->s, &err) == 0, "%s", err_text(&err));
}

void
h_disk(struct env *env, const char *name, uint64_t bytes, uint32_t block_size, const char *uuid)
{
	struct disk d = {.s = disks};

	while (d.s->bdev.name != NULL) {
		d.s++;
		EXPECT(d.s < disks + DISKS_MAX);
	}
	scripted_bdev_init(d.s, name, bytes / block_size, block_size);
	if (uuid != NULL) {
		EXPECT(uuid_parse(uuid, d.s->bdev.uuid) == 0);
	}
	env_call(env, env->app, add_on_app, &d);
}

static void
release_disk(struct scripted_bdev *s)
{
	scripted_bdev_release(s);
	memset(s, 0, sizeof(*s));
}

static void
disk_gone(void *ctx, int status)
{
	struct disk *d = ctx;

	EXPECT(status == 0);
	atomic_store(&d->gone, true);
}

static void
remove_on_app(void *arg)
{
	struct disk *d = arg;

	scripted_bdev_remove(d->s, disk_gone, d);
}

void
h_disk_pull(struct env *env, const char *name)
{
	struct disk d = {.s = h_disk_of(name)};

	env_call(env, env->app, remove_on_app, &d);
	env_wait(env, &d.gone);
}

void
h_disk_push(struct env *env, const char *name)
{
	struct disk d = {.s = h_disk_of(name)};

	d.s->removing = false;
	atomic_store(&d.s->destructed, false);
	env_call(env, env->app, add_on_app, &d);
}

void
h_disk_delete(struct env *env, const char *name)
{
	h_disk_pull(env, name);
	release_disk(h_disk_of(name));
}

static void
resize_on_app(void *arg)
{
	struct disk *d = arg;

	EXPECT(scripted_bdev_resize(d->s, d->blocks) == 0);
}

void
h_disk_resize(struct env *env, const char *name, uint64_t bytes)
{
	struct disk d = {.s = h_disk_of(name)};

	d.blocks = bytes / d.s->bdev.block_size;
	env_call(env, env->app, resize_on_app, &d);
}

struct examined {
	struct bdev_examine_wait wait;
	atomic_bool done;
};

static void
all_examined(struct bdev_examine_wait *w)
{
	atomic_store(&CONTAINER_OF(w, struct examined, wait)->done, true);
}

static void
wait_on_app(void *arg)
{
	bdev_wait_for_examine(&((struct examined *)arg)->wait, all_examined);
}

void
h_examined(struct env *env)
{
	struct examined x = {.done = false};

	env_call(env, env->app, wait_on_app, &x);
	env_wait(env, &x.done);
}

void
h_stop(struct env *env)
{
	atomic_bool done = false;

	env_call(env, env->app, shut_lvol, &done);
	env_wait(env, &done);
	atomic_store(&done, false);
	env_call(env, env->app, shut_bdev, &done);
	env_wait(env, &done);
	env_stop(env);
	for (unsigned i = 0; i < DISKS_MAX; i++) {
		if (disks[i].bdev.name != NULL) {
			release_disk(&disks[i]);
		}
	}
}

/* ---- Stores ---- */

int
h_store_create_with(struct env *env, const struct lvol_store_options *options)
{
	int rc;

	h_examined(env);
	rc = ASK(STORE_CREATE, .options = options);
	return rc;
}

int
h_store_create(struct env *env, const char *base, const char *name)
{
	return h_store_create_with(env, &(struct lvol_store_options){
						.base_name = base, .name = name, .cluster_bytes = CLUSTER});
}

int
h_store_load(struct env *env, const char *base)
{
	return ASK(STORE_LOAD, .object = base);
}

int
h_store_rename(struct env *env, const char *store, const char *name)
{
	return ASK(STORE_RENAME, .object = store, .name = name);
}

int
h_store_grow(struct env *env, const char *store)
{
	return ASK(STORE_GROW, .object = store);
}

int
h_store_unload(struct env *env, const char *store)
{
	return ASK(STORE_UNLOAD, .object = store);
}

int
h_store_destroy(struct env *env, const char *store)
{
	return ASK(STORE_DESTROY, .object = store);
}

int
h_store_idle(struct env *env, const char *store)
{
	return ASK(STORE_IDLE, .object = store);
}

int
h_store_limits(struct env *env, const char *store, unsigned low_percent, bool pause)
{
	return ASK(STORE_LIMITS, .object = store, .percent = low_percent, .thin = pause);
}

struct lvol_store_info
h_store_info(struct env *env, const char *store)
{
	struct ask a = {.what = STORE_INFO, .object = store};

	EXPECT_SAY(ask(env, &a) == 0, "%s", h_err.text);
	return a.store_info;
}

/* ---- Volumes ---- */

int
h_create(struct env *env, const char *store, const char *name, uint64_t bytes, bool thin)
{
	return ASK(CREATE, .object = store, .name = name, .bytes = bytes, .thin = thin);
}

int
h_snapshot(struct env *env, const char *volume, const char *name)
{
	return ASK(SNAPSHOT, .object = volume, .name = name);
}

int
h_clone(struct env *env, const char *volume, const char *name)
{
	return ASK(CLONE, .object = volume, .name = name);
}

int
h_clone_bdev(struct env *env, const char *store, const char *bdev, const char *name)
{
	return ASK(CLONE_BDEV, .object = store, .other = bdev, .name = name);
}

int
h_rename(struct env *env, const char *volume, const char *name)
{
	return ASK(RENAME, .object = volume, .name = name);
}

int
h_resize(struct env *env, const char *volume, uint64_t bytes)
{
	return ASK(RESIZE, .object = volume, .bytes = bytes);
}

int
h_set_read_only(struct env *env, const char *volume)
{
	return ASK(SET_READ_ONLY, .object = volume);
}

int
h_delete(struct env *env, const char *volume)
{
	return ASK(DELETE, .object = volume);
}

int
h_inflate(struct env *env, const char *volume)
{
	return ASK(INFLATE, .object = volume);
}

int
h_decouple(struct env *env, const char *volume)
{
	return ASK(DECOUPLE, .object = volume);
}

int
h_set_parent(struct env *env, const char *volume, const char *parent)
{
	return ASK(SET_PARENT, .object = volume, .other = parent);
}

int
h_set_parent_bdev(struct env *env, const char *volume, const char *bdev)
{
	return ASK(SET_PARENT_BDEV, .object = volume, .other = bdev);
}

struct lvol_info
h_info(struct env *env, const char *volume)
{
	struct ask a = {.what = INFO, .object = volume};

	EXPECT_SAY(ask(env, &a) == 0, "%s", h_err.text);
	return a.info;
}

bool
h_exists(struct env *env, const char *volume)
{
	struct ask a = {.what = EXISTS, .object = volume};

	ask(env, &a);
	return a.thin;
}

bool
h_has_bdev(struct env *env, const char *name)
{
	struct ask a = {.what = HAS_BDEV, .object = name};

	ask(env, &a);
	return a.thin;
}

/* ---- Data ---- */

static void
fill(uint8_t *p, size_t bytes, uint64_t lba, unsigned seed)
{
	for (size_t i = 0; i < bytes; i += 8) {
		uint64_t x = (lba * 512 + i) * UINT64_C(0x9e3779b97f4a7c15) + seed;

		memcpy(p + i, &x, 8);
	}
}

/* A volume may just be looked at by an examination. */
static void
open_it(struct env *env, const char *name, bool write)
{
	int rc = env_open(env, name, write);

	EXPECT_SAY(rc == 0, "%s: %d", name, rc);
}

void
h_write(struct env *env, const char *volume, uint64_t lba, uint64_t blocks, unsigned seed)
{
	uint8_t *p;

	open_it(env, volume, true);
	p = aligned_alloc(4096, (blocks * bdev_block_size(env->bdev) + 4095) & ~(size_t)4095);
	EXPECT(p != NULL);
	fill(p, blocks * bdev_block_size(env->bdev), lba, seed);
	EXPECT(env_rw(&env->workers[0], BDEV_WRITE, lba, blocks, p) == 0);
	free(p);
	env_close(env);
}

static void
expect(struct env *env, const char *volume, uint64_t lba, uint64_t blocks, unsigned seed, bool zero)
{
	uint8_t *want, *got;
	size_t bytes;
	int rc;

	open_it(env, volume, false);
	bytes = (blocks * bdev_block_size(env->bdev) + 4095) & ~(size_t)4095;
	want = aligned_alloc(4096, bytes);
	got = aligned_alloc(4096, bytes);
	EXPECT(want != NULL && got != NULL);
	bytes = blocks * bdev_block_size(env->bdev);
	memset(want, 0, bytes);
	memset(got, 0xee, bytes);
	if (!zero) {
		fill(want, bytes, lba, seed);
	}
	rc = env_rw(&env->workers[1], BDEV_READ, lba, blocks, got);
	EXPECT_SAY(rc == 0, "%s: %d", volume, rc);
	EXPECT_SAY(memcmp(got, want, bytes) == 0, "%s: blocks %llu+%llu are not of %u", volume, (unsigned long long)lba,
		   (unsigned long long)blocks, seed);
	free(want);
	free(got);
	env_close(env);
}

void
h_expect(struct env *env, const char *volume, uint64_t lba, uint64_t blocks, unsigned seed)
{
	expect(env, volume, lba, blocks, seed, false);
}

void
h_expect_zero(struct env *env, const char *volume, uint64_t lba, uint64_t blocks)
{
	expect(env, volume, lba, blocks, 0, true);
}
