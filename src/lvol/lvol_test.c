/* SPDX-License-Identifier: BSD-3-Clause */
/* Stores and volumes: what they are called, what is refused, what becomes of them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "lvol/harness.h"

#define MIB (UINT64_C(1) << 20)

static struct env env;

static void
begin(void)
{
	h_start(&env, REACTOR_INTERRUPT, false);
	h_disk(&env, "d", 64 * MIB, 512, NULL);
	EXPECT(h_store_create(&env, "d", "vs") == 0);
}

/* ---- Stores ---- */

static void
stores_have_names(void **state)
{
	char long_name[LVOL_NAME_BYTES + 1];
	struct lvol_store_info info;
	char uuid[UUID_STR_LEN];

	begin();
	memset(long_name, 'x', LVOL_NAME_BYTES);
	long_name[LVOL_NAME_BYTES] = '\0';
	info = h_store_info(&env, "vs");
	EXPECT(strcmp(info.name, "vs") == 0 && strcmp(info.base_name, "d") == 0 && info.volumes == 0);
	EXPECT(info.blob.cluster_bytes == CLUSTER && info.blob.io_unit_bytes == 512);
	EXPECT(info.blob.free_clusters == info.blob.total_data_clusters && info.blob.total_data_clusters > 900);
	EXPECT(info.max_growable_bytes >= 64 * MIB);
	uuid_unparse_lower(info.uuid, uuid);
	EXPECT(strcmp(h_store_info(&env, uuid).name, "vs") == 0);

	h_disk(&env, "e", 64 * MIB, 512, NULL);
	EXPECT(h_store_create(&env, "e", "") == -EINVAL);
	EXPECT(h_store_create(&env, "e", long_name) == -EINVAL);
	EXPECT(h_store_create(&env, "e", "a/b") == -EINVAL);
	EXPECT(h_store_create(&env, "e", "vs") == -EEXIST && strstr(h_err.text, "vs") != NULL);
	EXPECT(h_store_create(&env, "none", "ws") == -ENODEV);
	EXPECT(h_store_create(&env, "d", "ws") == -EPERM);
	long_name[LVOL_NAME_BYTES - 1] = '\0';
	EXPECT(h_store_create(&env, "e", long_name) == 0);
	EXPECT(h_store_rename(&env, long_name, "vs") == -EEXIST);
	EXPECT(h_store_rename(&env, long_name, "") == -EINVAL);
	EXPECT(h_store_rename(&env, long_name, long_name) == 0);
	EXPECT(h_create(&env, long_name, "v", MIB, true) == 0);
	EXPECT(h_store_rename(&env, long_name, "ws") == 0);
	EXPECT(h_has_bdev(&env, "ws/v") && h_exists(&env, "ws/v"));
	EXPECT(h_store_rename(&env, "ws", "ws") == 0 && h_store_rename(&env, "none", "x") == -ENODEV);
	h_stop(&env);
}

static void
bad_sizes_are_refused(void **state)
{
	struct lvol_store_options o = {.base_name = "d", .name = "vs"};

	h_start(&env, REACTOR_INTERRUPT, false);
	h_disk(&env, "d", 64 * MIB, 512, NULL);
	o.md_page_bytes = 2048;
	EXPECT(h_store_create_with(&env, &o) == -EINVAL);
	o.md_page_bytes = 12288;
	EXPECT(h_store_create_with(&env, &o) == -EINVAL);
	o.md_page_bytes = 131072;
	EXPECT(h_store_create_with(&env, &o) == -EINVAL);
	o.md_page_bytes = 0;
	o.cluster_bytes = 100;
	EXPECT(h_store_create_with(&env, &o) == -EINVAL);
	o.cluster_bytes = 1024 * MIB;
	EXPECT(h_store_create_with(&env, &o) < 0);
	o.cluster_bytes = 1 * MIB;
	o.md_page_bytes = 8192;
	o.md_ratio = 50;
	EXPECT_SAY(h_store_create_with(&env, &o) == 0, "%s", h_err.text);
	EXPECT(h_store_info(&env, "vs").blob.md_page_bytes == 8192 && h_store_info(&env, "vs").blob.cluster_bytes == MIB);
	EXPECT(h_store_info(&env, "vs").blob.md_pages == 32);
	h_stop(&env);
}

static struct bdev_desc *user;

static void
open_writer(void *arg)
{
	EXPECT(bdev_open(arg, true, NULL, NULL, &user, NULL) == 0);
}

static void
close_user(void *arg)
{
	bdev_close(user);
}

/* Somebody writes to it: it is refused before a byte of it is changed. */
static void
a_base_in_use_is_left_alone(void **state)
{
	struct scripted_bdev *s;
	uint8_t before[8192];

	h_start(&env, REACTOR_INTERRUPT, false);
	h_disk(&env, "d", 64 * MIB, 512, NULL);
	h_examined(&env);
	h_write(&env, "d", 0, 4096, 7);
	s = h_disk_of("d");
	memcpy(before, s->data, sizeof(before));
	h_on_app(&env, open_writer, (void *)(uintptr_t)"d");
	EXPECT(h_store_create(&env, "d", "vs") == -EPERM);
	env_linger(&env, 5);
	EXPECT(memcmp(before, s->data, sizeof(before)) == 0);
	h_on_app(&env, close_user, NULL);
	h_expect(&env, "d", 0, 4096, 7);
	EXPECT(h_store_create(&env, "d", "vs") == 0);
	h_stop(&env);
}

static void
a_store_is_not_overwritten_by_mistake(void **state)
{
	struct lvol_store_options o = {.base_name = "d", .name = "ws", .cluster_bytes = CLUSTER};

	begin();
	EXPECT(h_create(&env, "vs", "v", MIB, true) == 0);
	EXPECT(h_store_unload(&env, "vs") == 0);
	EXPECT(!h_has_bdev(&env, "vs/v"));
	EXPECT(h_store_create_with(&env, &o) == -EEXIST);
	EXPECT(h_store_load(&env, "d") == 0 && h_has_bdev(&env, "vs/v"));
	EXPECT(h_store_load(&env, "d") == -EEXIST);
	EXPECT(h_store_unload(&env, "vs") == 0);
	o.overwrite = true;
	EXPECT(h_store_create_with(&env, &o) == 0);
	EXPECT(!h_has_bdev(&env, "vs/v") && h_store_info(&env, "ws").volumes == 0);
	h_stop(&env);
}

static void
a_destroyed_store_is_not_found_again(void **state)
{
	begin();
	EXPECT(h_create(&env, "vs", "v", MIB, false) == 0);
	EXPECT(h_snapshot(&env, "vs/v", "s") == 0 && h_clone(&env, "vs/s", "c") == 0);
	EXPECT(h_store_destroy(&env, "vs") == 0);
	EXPECT(!h_has_bdev(&env, "vs/v") && !h_has_bdev(&env, "vs/s"));
	EXPECT(h_store_load(&env, "d") == -EINVAL);
	EXPECT(h_store_create(&env, "d", "vs") == 0);
	EXPECT(h_store_info(&env, "vs").volumes == 0);
	h_stop(&env);
}

static void
stores_grow_with_their_base(void **state)
{
	uint64_t before;

	begin();
	before = h_store_info(&env, "vs").blob.total_data_clusters;
	EXPECT(h_store_grow(&env, "vs") == -ENOSPC);
	h_disk_resize(&env, "d", 80 * MIB);
	env_linger(&env, 5);
	EXPECT(h_store_info(&env, "vs").blob.total_data_clusters == before);
	EXPECT_SAY(h_store_grow(&env, "vs") == 0, "%s", h_err.text);
	EXPECT(h_store_info(&env, "vs").blob.total_data_clusters == before + 16 * MIB / CLUSTER);
	EXPECT(h_create(&env, "vs", "v", 70 * MIB, false) == 0);
	h_write(&env, "vs/v", 70 * MIB / 512 - 8, 8, 1);
	EXPECT(h_store_unload(&env, "vs") == 0 && h_store_load(&env, "d") == 0);
	h_expect(&env, "vs/v", 70 * MIB / 512 - 8, 8, 1);
	h_stop(&env);
}

static void
limits_are_kept(void **state)
{
	begin();
	EXPECT(h_store_info(&env, "vs").low_percent == LVOL_LOW_PERCENT_DEFAULT && !h_store_info(&env, "vs").pause_when_full);
	EXPECT(h_store_limits(&env, "vs", 101, false) == -EINVAL);
	EXPECT(h_store_limits(&env, "vs", 25, true) == 0);
	EXPECT(h_store_info(&env, "vs").low_percent == 25 && h_store_info(&env, "vs").pause_when_full);
	EXPECT(h_store_unload(&env, "vs") == 0 && h_store_load(&env, "d") == 0);
	EXPECT(h_store_info(&env, "vs").low_percent == 25 && h_store_info(&env, "vs").pause_when_full);
	h_stop(&env);
}

/* ---- Volumes ---- */

static void
volumes_have_names(void **state)
{
	struct lvol_info info;

	begin();
	EXPECT(h_create(&env, "vs", "v", MIB, true) == 0);
	EXPECT(h_create(&env, "vs", "v", MIB, true) == -EEXIST && strstr(h_err.text, "vs/v") != NULL);
	EXPECT(h_create(&env, "vs", "", MIB, true) == -EINVAL && h_create(&env, "vs", "a/b", MIB, true) == -EINVAL);
	EXPECT(h_create(&env, "vs", ".deleted-x", MIB, true) == -EINVAL);
	EXPECT(h_create(&env, "vs", "w", 0, true) == -EINVAL);
	EXPECT(h_create(&env, "none", "w", MIB, true) == -ENODEV);
	EXPECT(h_create(&env, "vs", "w", 1000 * MIB, false) == -ENOSPC);
	EXPECT(h_create(&env, "vs", "w", MIB + 1, true) == 0);
	info = h_info(&env, "vs/w");
	EXPECT(info.bytes == MIB + CLUSTER && info.thin && info.allocated_clusters == 0 && !info.snapshot && !info.clone);
	EXPECT(strcmp(info.alias, "vs/w") == 0 && strcmp(info.base_name, "d") == 0 && !info.degraded && !info.damaged);
	EXPECT(h_has_bdev(&env, info.id) && strcmp(h_info(&env, info.id).name, "w") == 0);
	EXPECT(h_rename(&env, "vs/w", "v") == -EEXIST && h_rename(&env, "vs/w", "w") == 0);
	EXPECT(h_rename(&env, "vs/w", "x/y") == -EINVAL);
	EXPECT(h_rename(&env, "vs/w", "x") == 0);
	EXPECT(h_has_bdev(&env, "vs/x") && !h_has_bdev(&env, "vs/w") && !h_exists(&env, "vs/w"));
	EXPECT(h_create(&env, "vs", "w", MIB, false) == 0);
	info = h_info(&env, "vs/w");
	EXPECT(!info.thin && info.allocated_clusters == MIB / CLUSTER);
	EXPECT(h_store_unload(&env, "vs") == 0 && h_store_load(&env, "d") == 0);
	EXPECT(h_has_bdev(&env, "vs/x") && h_has_bdev(&env, "vs/w") && h_has_bdev(&env, "vs/v"));
	EXPECT(h_store_info(&env, "vs").volumes == 3);
	h_stop(&env);
}

/* Asked for at the same moment: one gets it. */
static unsigned got, refused;
static atomic_bool both_done;

static void
one_made(void *ctx, struct lvol *lvol, int status, const struct err *err)
{
	if (status == 0) {
		got++;
	} else {
		EXPECT(status == -EEXIST);
		refused++;
	}
	if (got + refused == 4) {
		atomic_store(&both_done, true);
	}
}

static void
renamed_meanwhile(void *ctx, int status, const struct err *err)
{
	one_made(ctx, NULL, status, err);
}

static void
ask_for_the_same(void *arg)
{
	struct lvol_store *store = lvol_store_find("vs");
	struct lvol_options o = {.name = "same", .bytes = MIB, .thin = true};

	lvol_create(store, &o, one_made, NULL);
	lvol_create(store, &o, one_made, NULL);
	lvol_snapshot(lvol_find("vs/v"), "same", one_made, NULL);
	lvol_rename(lvol_find("vs/v"), "same", renamed_meanwhile, NULL);
	EXPECT(lvol_find("vs/same") == NULL);
}

static void
rename_to_the_same(void *arg)
{
	struct lvol_options o = {.name = "new", .bytes = MIB, .thin = true};

	lvol_rename(lvol_find("vs/v"), "new", renamed_meanwhile, NULL);
	lvol_create(lvol_store_find("vs"), &o, one_made, NULL);
}

static void
a_name_is_taken_when_it_is_asked_for(void **state)
{
	begin();
	EXPECT(h_create(&env, "vs", "v", MIB, true) == 0);
	got = refused = 0;
	atomic_store(&both_done, false);
	h_on_app(&env, ask_for_the_same, NULL);
	env_wait(&env, &both_done);
	EXPECT(got == 1 && refused == 3);
	EXPECT(h_has_bdev(&env, "vs/same") && h_store_info(&env, "vs").volumes == 2);
	got = 2;
	refused = 0;
	atomic_store(&both_done, false);
	h_on_app(&env, rename_to_the_same, NULL);
	env_wait(&env, &both_done);
	EXPECT(got == 3 && refused == 1);
	EXPECT(h_has_bdev(&env, "vs/new") && !h_exists(&env, "vs/v") && h_store_info(&env, "vs").volumes == 2);
	h_stop(&env);
}

static void
snapshots_and_clones(void **state)
{
	struct lvol_info info;

	begin();
	EXPECT(h_create(&env, "vs", "v", 4 * MIB, true) == 0);
	h_write(&env, "vs/v", 0, 256, 1);
	EXPECT(h_snapshot(&env, "vs/v", "s") == 0);
	h_write(&env, "vs/v", 128, 128, 2);
	h_expect(&env, "vs/s", 0, 256, 1);
	h_expect(&env, "vs/v", 128, 128, 2);
	h_expect(&env, "vs/v", 0, 128, 1);
	info = h_info(&env, "vs/s");
	EXPECT(info.snapshot && info.readonly && !info.clone && info.allocated_clusters == 2);
	info = h_info(&env, "vs/v");
	EXPECT(!info.snapshot && info.clone && info.parent != NULL && strcmp(lvol_name(info.parent), "s") == 0);
	EXPECT(h_clone(&env, "vs/v", "c") == -EINVAL);
	EXPECT(h_clone(&env, "vs/s", "c") == 0);
	h_expect(&env, "vs/c", 0, 256, 1);
	h_write(&env, "vs/c", 0, 8, 3);
	h_expect(&env, "vs/s", 0, 256, 1);
	EXPECT(h_snapshot(&env, "vs/s", "t") < 0);
	EXPECT(h_set_read_only(&env, "vs/c") == 0 && h_info(&env, "vs/c").readonly);
	EXPECT(env_open(&env, "vs/c", true) == -EROFS && env_open(&env, "vs/s", true) == -EROFS);
	h_expect(&env, "vs/c", 0, 8, 3);
	EXPECT(h_store_unload(&env, "vs") == 0 && h_store_load(&env, "d") == 0);
	h_expect(&env, "vs/c", 0, 8, 3);
	h_expect(&env, "vs/c", 8, 248, 1);
	EXPECT(h_info(&env, "vs/c").readonly);
	h_stop(&env);
}

static struct lvol_info hidden_info;
static unsigned clones_seen;

static void
look_at_clones(void *arg)
{
	struct lvol *lvol = lvol_find(arg), *clone = NULL;

	clones_seen = 0;
	while ((clone = lvol_next_clone(lvol, clone)) != NULL) {
		struct lvol_info info;

		clones_seen++;
		lvol_get_info(clone, &info);
		EXPECT(info.parent == lvol);
	}
	lvol_get_info(lvol, &hidden_info);
}

static void
a_deleted_snapshot_stays_for_its_clones(void **state)
{
	begin();
	EXPECT(h_create(&env, "vs", "v", 4 * MIB, true) == 0);
	h_write(&env, "vs/v", 0, 256, 1);
	EXPECT(h_snapshot(&env, "vs/v", "base") == 0);
	h_write(&env, "vs/v", 256, 256, 2);
	EXPECT(h_snapshot(&env, "vs/v", "s") == 0);
	EXPECT(h_clone(&env, "vs/s", "c") == 0);
	h_on_app(&env, look_at_clones, (void *)(uintptr_t)"vs/s");
	EXPECT(clones_seen == 2);
	EXPECT_SAY(h_delete(&env, "vs/s") == 0, "%s", h_err.text);
	EXPECT(!h_has_bdev(&env, "vs/s") && !h_exists(&env, "vs/s") && h_store_info(&env, "vs").volumes == 3);
	/* They are the clones of what is below it now, as far as anybody sees. */
	h_on_app(&env, look_at_clones, (void *)(uintptr_t)"vs/base");
	EXPECT(clones_seen == 2);
	EXPECT(h_create(&env, "vs", "s", MIB, true) == 0); /* the name is free */
	EXPECT(h_store_unload(&env, "vs") == 0 && h_store_load(&env, "d") == 0);
	EXPECT(h_store_info(&env, "vs").volumes == 4);
	h_expect(&env, "vs/c", 0, 256, 1);
	h_expect(&env, "vs/c", 256, 256, 2);
	EXPECT(h_delete(&env, "vs/v") == 0);
	EXPECT(h_store_idle(&env, "vs") == 0); /* merged into c */
	h_expect(&env, "vs/c", 256, 256, 2);
	h_expect(&env, "vs/c", 0, 256, 1);
	EXPECT(h_delete(&env, "vs/c") == 0 && h_delete(&env, "vs/base") == 0 && h_delete(&env, "vs/s") == 0);
	EXPECT(h_store_idle(&env, "vs") == 0);
	EXPECT(h_store_info(&env, "vs").blob.free_clusters == h_store_info(&env, "vs").blob.total_data_clusters);
	EXPECT(h_delete(&env, "vs/c") == -ENODEV);
	h_stop(&env);
}

static atomic_bool group_done;
static int group_status;
static struct lvol_group_member members[2];

static void
group_made(void *ctx, int status, const struct err *err)
{
	group_status = status;
	atomic_store(&group_done, true);
}

struct group {
	const char *volumes[2], *names[2];
	unsigned count;
};

static void
group_on_app(void *arg)
{
	const struct group *g = arg;

	for (unsigned i = 0; i < g->count; i++) {
		members[i] = (struct lvol_group_member){.lvol = lvol_find(g->volumes[i]), .name = g->names[i]};
	}
	lvol_snapshot_group(members, g->count, group_made, NULL);
}

static int
group(const char *a, const char *a_name, const char *b, const char *b_name, unsigned count)
{
	struct group g = {{a, b}, {a_name, b_name}, count};

	atomic_store(&group_done, false);
	h_on_app(&env, group_on_app, &g);
	env_wait(&env, &group_done);
	return group_status;
}

static void
groups(void **state)
{
	begin();
	h_disk(&env, "e", 64 * MIB, 512, NULL);
	EXPECT(h_store_create(&env, "e", "ws") == 0);
	EXPECT(h_create(&env, "vs", "v", MIB, true) == 0 && h_create(&env, "vs", "w", MIB, true) == 0);
	EXPECT(h_create(&env, "ws", "x", MIB, true) == 0);
	h_write(&env, "vs/v", 0, 8, 1);
	h_write(&env, "vs/w", 0, 8, 2);
	EXPECT(group("vs/v", "a", "vs/v", "b", 2) == -EINVAL);
	EXPECT(group("vs/v", "a", "ws/x", "b", 2) == -EXDEV);
	EXPECT(group("vs/v", "a", "vs/w", "a", 2) == -EEXIST);
	EXPECT(group("vs/v", "a", "vs/w", "b", 0) == -EINVAL);
	EXPECT(!h_exists(&env, "vs/a") && h_store_info(&env, "vs").volumes == 2);
	EXPECT(group("vs/v", "a", "vs/w", "b", 2) == 0);
	EXPECT(strcmp(lvol_name(members[1].snapshot), "b") == 0);
	h_write(&env, "vs/w", 0, 8, 3);
	h_expect(&env, "vs/a", 0, 8, 1);
	h_expect(&env, "vs/b", 0, 8, 2);
	h_stop(&env);
}

struct both {
	uint64_t bytes[2];
	int status[2];
	atomic_uint done;
};

static struct both both;

static void
one_resized(void *ctx, int status, const struct err *err)
{
	both.status[(uintptr_t)ctx] = status;
	atomic_fetch_add(&both.done, 1);
}

static void
resize_twice(void *arg)
{
	for (uintptr_t i = 0; i < 2; i++) {
		lvol_resize(lvol_find("vs/v"), both.bytes[i], one_resized, (void *)i);
	}
}

/* Whether it becomes smaller is known when the one before it is over: an open volume does not. */
static void
sizes_one_after_another(void **state)
{
	for (unsigned thin = 0; thin < 2; thin++) {
		begin();
		EXPECT(h_create(&env, "vs", "v", 2 * MIB, thin == 1) == 0);
		h_examined(&env);
		h_on_app(&env, open_writer, (void *)(uintptr_t)"vs/v");
		both = (struct both){.bytes = {8 * MIB, 4 * MIB}};
		env_call(&env, env.app, resize_twice, NULL);
		env_wait_count(&env, &both.done, 2);
		EXPECT_SAY(both.status[0] == 0 && both.status[1] == -EBUSY, "%d %d", both.status[0], both.status[1]);
		EXPECT(h_info(&env, "vs/v").bytes == 8 * MIB);
		h_on_app(&env, close_user, NULL);
		both = (struct both){.bytes = {4 * MIB, 6 * MIB}};
		env_call(&env, env.app, resize_twice, NULL);
		env_wait_count(&env, &both.done, 2);
		EXPECT(both.status[0] == 0 && both.status[1] == 0 && h_info(&env, "vs/v").bytes == 6 * MIB);
		EXPECT(env_open(&env, "vs/v", true) == 0 && bdev_num_blocks(env.bdev) == 6 * MIB / 512);
		env_close(&env);
		h_stop(&env);
	}
}

static void
resize_and_leave(void *arg)
{
	bool delete = arg != NULL;

	lvol_resize(lvol_find("vs/v"), 8 * MIB, one_resized, (void *)0);
	if (delete) {
		lvol_delete(lvol_find("vs/v"), one_resized, (void *)1);
	} else {
		lvol_store_unload(lvol_store_find("vs"), one_resized, (void *)1);
	}
}

/* Its bdev has gone when the new size is there, and does not come back. */
static void
leaves_while_sizes_change(void **state)
{
	for (uintptr_t delete = 0; delete < 2; delete++) {
		begin();
		EXPECT(h_create(&env, "vs", "v", 2 * MIB, false) == 0);
		h_examined(&env);
		both = (struct both){.status = {1, 1}};
		/* The disk takes nothing for a while: the bdev has time to go. */
		atomic_store(&h_disk_of("d")->refuse_every, 1);
		env_call(&env, env.app, resize_and_leave, (void *)delete);
		env_linger(&env, 5);
		atomic_store(&h_disk_of("d")->refuse_every, 0);
		env_wait_count(&env, &both.done, 2);
		EXPECT_SAY(both.status[0] == 0 && both.status[1] == 0, "%d %d", both.status[0], both.status[1]);
		EXPECT(!h_has_bdev(&env, "vs/v"));
		h_stop(&env);
	}
}

static void
sizes_change(void **state)
{
	begin();
	EXPECT(h_create(&env, "vs", "v", 4 * MIB, true) == 0);
	h_examined(&env);
	h_write(&env, "vs/v", 4 * MIB / 512 - 8, 8, 1);
	EXPECT(h_resize(&env, "vs/v", 0) == -EINVAL);
	EXPECT(h_resize(&env, "vs/v", 6 * MIB) == 0 && h_info(&env, "vs/v").bytes == 6 * MIB);
	h_expect(&env, "vs/v", 4 * MIB / 512 - 8, 8, 1);
	h_write(&env, "vs/v", 6 * MIB / 512 - 8, 8, 2);
	h_on_app(&env, open_writer, (void *)(uintptr_t)"vs/v");
	EXPECT(h_resize(&env, "vs/v", 2 * MIB) == -EBUSY);
	EXPECT(h_resize(&env, "vs/v", 7 * MIB) == 0);
	h_on_app(&env, close_user, NULL);
	EXPECT(h_resize(&env, "vs/v", 2 * MIB) == 0);
	EXPECT(env_open(&env, "vs/v", true) == 0 && bdev_num_blocks(env.bdev) == 2 * MIB / 512);
	env_close(&env);
	EXPECT(h_resize(&env, "vs/v", 4 * MIB) == 0);
	h_expect_zero(&env, "vs/v", 4 * MIB / 512 - 8, 8);
	h_stop(&env);
}

static void
storage_of_their_own(void **state)
{
	begin();
	EXPECT(h_create(&env, "vs", "v", 2 * MIB, true) == 0);
	h_write(&env, "vs/v", 0, 256, 1);
	EXPECT(h_snapshot(&env, "vs/v", "s") == 0 && h_clone(&env, "vs/s", "c") == 0 && h_clone(&env, "vs/s", "e") == 0);
	EXPECT(h_decouple(&env, "vs/s") == -EINVAL);
	EXPECT(h_decouple(&env, "vs/c") == 0 && h_info(&env, "vs/c").allocated_clusters == 2 && !h_info(&env, "vs/c").clone);
	EXPECT(h_inflate(&env, "vs/e") == 0 && h_info(&env, "vs/e").allocated_clusters == 32 && !h_info(&env, "vs/e").thin);
	h_expect(&env, "vs/c", 0, 256, 1);
	h_expect(&env, "vs/e", 0, 256, 1);
	h_expect_zero(&env, "vs/e", 256, 256);
	EXPECT(h_create(&env, "vs", "w", 2 * MIB, true) == 0);
	EXPECT(h_set_parent(&env, "vs/w", "vs/v") == -EINVAL);
	EXPECT(h_set_parent(&env, "vs/w", "vs/s") == 0 && h_set_parent(&env, "vs/w", "vs/s") == -EEXIST);
	h_expect(&env, "vs/w", 0, 256, 1);
	h_stop(&env);
}

static uint32_t copy_id;
static int copy_rc;
static struct lvol_copy_status copy_status;

struct copy_args {
	const char *volume, *target;
};

static void
copy_on_app(void *arg)
{
	const struct copy_args *a = arg;

	h_err = ERR_NONE;
	copy_rc = lvol_shallow_copy_start(lvol_find(a->volume), a->target, &copy_id, &h_err);
}

static void
check_on_app(void *arg)
{
	copy_rc = lvol_shallow_copy_check(copy_id, &copy_status);
}

static int
copy(const char *volume, const char *target)
{
	struct copy_args a = {volume, target};

	h_on_app(&env, copy_on_app, &a);
	return copy_rc;
}

static void
shallow_copies(void **state)
{
	begin();
	h_disk(&env, "small", MIB, 512, NULL);
	h_disk(&env, "big", 4 * MIB, 512, NULL);
	h_examined(&env);
	EXPECT(h_create(&env, "vs", "v", 2 * MIB, true) == 0);
	h_write(&env, "vs/v", 0, 128, 1);
	EXPECT(h_snapshot(&env, "vs/v", "s") == 0);
	h_write(&env, "vs/v", 256, 128, 2);
	EXPECT(copy("vs/v", "big") == -EPERM);
	EXPECT(h_snapshot(&env, "vs/v", "t") == 0);
	EXPECT(copy("vs/t", "small") == -EINVAL && copy("vs/t", "none") == -ENODEV && copy("vs/t", "d") == -EPERM);
	h_write(&env, "big", 0, 1024, 9);
	EXPECT(copy("vs/t", "big") == 0);
	do {
		env_linger(&env, 2);
		h_on_app(&env, check_on_app, NULL);
		EXPECT(copy_rc == 0);
	} while (!copy_status.ended);
	EXPECT(copy_status.status == 0 && copy_status.total_clusters == 1 && copy_status.copied_clusters == 1);
	h_on_app(&env, check_on_app, NULL);
	EXPECT(copy_rc == -ENODEV);
	env_linger(&env, 2);
	h_expect(&env, "big", 256, 128, 2);
	h_expect(&env, "big", 0, 256, 9); /* the parent's are not its own */
	h_stop(&env);
}

struct extents_args {
	const char *volume, *since;
	struct bdev_extent extents[8];
	unsigned count;
	int rc;
};

static void
extents_on_app(void *arg)
{
	struct extents_args *a = arg;

	a->rc = lvol_extents(lvol_find(a->volume), a->since == NULL ? NULL : lvol_find(a->since), 0, a->extents, 8, &a->count,
			     &h_err);
}

static void
what_has_changed(void **state)
{
	struct extents_args a = {.volume = "vs/v", .since = "vs/s"};

	begin();
	EXPECT(h_create(&env, "vs", "v", 8 * CLUSTER, true) == 0);
	h_write(&env, "vs/v", 0, 2 * CLUSTER_BLOCKS, 1);
	EXPECT(h_snapshot(&env, "vs/v", "s") == 0);
	h_write(&env, "vs/v", CLUSTER_BLOCKS, 1, 2);
	EXPECT(h_snapshot(&env, "vs/v", "t") == 0);
	h_write(&env, "vs/v", 4 * CLUSTER_BLOCKS, 1, 2);
	h_on_app(&env, extents_on_app, &a);
	EXPECT_SAY(a.rc == 0 && a.count == 5, "%d %u %s", a.rc, a.count, h_err.text);
	EXPECT((a.extents[0].flags & BDEV_EXTENT_CHANGED) == 0 && a.extents[0].num_blocks == CLUSTER_BLOCKS);
	EXPECT((a.extents[1].flags & BDEV_EXTENT_CHANGED) != 0 && a.extents[1].num_blocks == CLUSTER_BLOCKS);
	EXPECT((a.extents[2].flags & BDEV_EXTENT_CHANGED) == 0 && a.extents[2].num_blocks == 2 * CLUSTER_BLOCKS);
	EXPECT((a.extents[3].flags & BDEV_EXTENT_CHANGED) != 0 && a.extents[3].num_blocks == CLUSTER_BLOCKS);
	EXPECT((a.extents[4].flags & BDEV_EXTENT_CHANGED) == 0 && a.extents[4].num_blocks == 3 * CLUSTER_BLOCKS);
	/* One in between that is shorter hides what was there before: it reads as zeroes now. */
	EXPECT(h_resize(&env, "vs/v", CLUSTER) == 0);
	EXPECT(h_snapshot(&env, "vs/v", "short") == 0);
	EXPECT(h_resize(&env, "vs/v", 8 * CLUSTER) == 0);
	a = (struct extents_args){.volume = "vs/v", .since = "vs/s"};
	h_on_app(&env, extents_on_app, &a);
	EXPECT_SAY(a.rc == 0 && a.count == 2, "%d %u %s", a.rc, a.count, h_err.text);
	EXPECT((a.extents[0].flags & BDEV_EXTENT_CHANGED) == 0 && a.extents[0].num_blocks == CLUSTER_BLOCKS);
	EXPECT(a.extents[1].flags == (BDEV_EXTENT_CHANGED | BDEV_EXTENT_ZERO) && a.extents[1].num_blocks == 7 * CLUSTER_BLOCKS);
	h_expect_zero(&env, "vs/v", CLUSTER_BLOCKS, 7 * CLUSTER_BLOCKS);
	a = (struct extents_args){.volume = "vs/v", .since = "vs/v"};
	h_on_app(&env, extents_on_app, &a);
	EXPECT(a.rc == -EINVAL);
	a = (struct extents_args){.volume = "vs/s", .since = "vs/t"};
	h_on_app(&env, extents_on_app, &a);
	EXPECT(a.rc == -EINVAL);
	h_stop(&env);
}

/* ---- What the base gets, what is where ---- */

static unsigned
flushes_of(const struct scripted_bdev *s, unsigned from)
{
	unsigned n = 0;

	for (unsigned i = from; i < atomic_load(&s->log_count) && i < SCRIPTED_LOG; i++) {
		n += s->log[i].op == BDEV_FLUSH;
	}
	return n;
}

static void
flushes_reach_the_base(void **state)
{
	static uint8_t buf[512];
	struct iovec iov = {buf, sizeof(buf)};
	struct scripted_bdev *s;

	h_start(&env, REACTOR_INTERRUPT, false);
	h_disk(&env, "d", 64 * MIB, 512, NULL);
	s = h_disk_of("d");
	s->bdev.write_cache = true;
	EXPECT(h_store_create(&env, "d", "vs") == 0 && h_create(&env, "vs", "v", MIB, true) == 0);
	h_examined(&env);
	EXPECT(env_open(&env, "vs/v", true) == 0 && bdev_write_cache(env.bdev));
	EXPECT(env_rw(&env.workers[0], BDEV_WRITE, 0, 1, buf) == 0);
	atomic_store(&s->log_count, 0);
	EXPECT(env_rw(&env.workers[0], BDEV_WRITE, 1, 1, buf) == 0);
	EXPECT(atomic_load(&s->log_count) == 1 && flushes_of(s, 0) == 0);
	EXPECT(env_rw(&env.workers[0], BDEV_FLUSH, 0, 0, NULL) == 0);
	EXPECT(flushes_of(s, 0) == 1);
	EXPECT(env_rwv(&env.workers[0], BDEV_WRITE, BDEV_IO_FUA, 1, 1, &iov, 1) == 0);
	EXPECT(flushes_of(s, 0) == 2 && atomic_load(&s->log_count) == 4);
	env_close(&env);
	h_stop(&env);
}

/* Runs that lie together are one request of the base. */
static void
long_runs_stay_whole(void **state)
{
	static uint8_t buf[4 * CLUSTER];
	struct scripted_bdev *s;

	begin();
	s = h_disk_of("d");
	EXPECT(h_create(&env, "vs", "v", MIB, false) == 0);
	h_examined(&env);
	EXPECT(env_open(&env, "vs/v", true) == 0);
	atomic_store(&s->log_count, 0);
	EXPECT(env_rw(&env.workers[0], BDEV_WRITE, 8, 4 * CLUSTER_BLOCKS, buf) == 0);
	EXPECT_SAY(atomic_load(&s->log_count) == 1, "%u requests", atomic_load(&s->log_count));
	env_close(&env);
	h_stop(&env);
}

static void
holes_are_seen(void **state)
{
	struct bdev_extent extents[8];
	struct env_io io = {.op = BDEV_BLOCK_STATUS, .num_blocks = 8 * CLUSTER_BLOCKS, .extents = extents, .max_results = 8};
	struct env_io seek = {.op = BDEV_SEEK_DATA, .lba = 3 * CLUSTER_BLOCKS};

	begin();
	EXPECT(h_create(&env, "vs", "v", 8 * CLUSTER, true) == 0);
	h_write(&env, "vs/v", 0, 1, 1);
	h_write(&env, "vs/v", 5 * CLUSTER_BLOCKS, 1, 1);
	EXPECT(h_snapshot(&env, "vs/v", "s") == 0);
	h_write(&env, "vs/v", CLUSTER_BLOCKS, 1, 2);
	h_examined(&env);
	EXPECT(env_open(&env, "vs/v", true) == 0);
	env_submit(&env.workers[0], &io);
	EXPECT(env_finish(&io) == 0 && io.result == 5);
	EXPECT(extents[0].num_blocks == CLUSTER_BLOCKS && extents[0].flags == 0); /* the parent's */
	EXPECT(extents[1].flags == (BDEV_EXTENT_ALLOCATED | BDEV_EXTENT_CHANGED));
	EXPECT(extents[2].num_blocks == 3 * CLUSTER_BLOCKS && extents[2].flags == BDEV_EXTENT_ZERO);
	EXPECT(extents[3].flags == 0 && extents[4].flags == BDEV_EXTENT_ZERO);
	env_submit(&env.workers[0], &seek);
	EXPECT(env_finish(&seek) == 0 && seek.result == 5 * CLUSTER_BLOCKS);
	env_close(&env);
	h_stop(&env);
}

/* ---- A volume that waits for its users to let go ---- */

static void
user_event(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
	if (ev == BDEV_EVENT_REMOVE) {
		bdev_close(user);
	}
}

static void
open_polite_user(void *arg)
{
	EXPECT(bdev_open(arg, true, user_event, NULL, &user, NULL) == 0);
}

static void
delete_waits_for_users(void **state)
{
	begin();
	EXPECT(h_create(&env, "vs", "v", MIB, true) == 0 && h_create(&env, "vs", "w", MIB, true) == 0);
	h_on_app(&env, open_polite_user, (void *)(uintptr_t)"vs/v");
	EXPECT(h_delete(&env, "vs/v") == 0 && !h_has_bdev(&env, "vs/v"));
	h_on_app(&env, open_polite_user, (void *)(uintptr_t)"vs/w");
	EXPECT(h_store_unload(&env, "vs") == 0);
	h_stop(&env);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stores_have_names),
		cmocka_unit_test(bad_sizes_are_refused),
		cmocka_unit_test(a_base_in_use_is_left_alone),
		cmocka_unit_test(a_store_is_not_overwritten_by_mistake),
		cmocka_unit_test(a_destroyed_store_is_not_found_again),
		cmocka_unit_test(stores_grow_with_their_base),
		cmocka_unit_test(limits_are_kept),
		cmocka_unit_test(volumes_have_names),
		cmocka_unit_test(a_name_is_taken_when_it_is_asked_for),
		cmocka_unit_test(snapshots_and_clones),
		cmocka_unit_test(a_deleted_snapshot_stays_for_its_clones),
		cmocka_unit_test(groups),
		cmocka_unit_test(sizes_change),
		cmocka_unit_test(sizes_one_after_another),
		cmocka_unit_test(leaves_while_sizes_change),
		cmocka_unit_test(storage_of_their_own),
		cmocka_unit_test(shallow_copies),
		cmocka_unit_test(what_has_changed),
		cmocka_unit_test(flushes_reach_the_base),
		cmocka_unit_test(long_runs_stay_whole),
		cmocka_unit_test(holes_are_seen),
		cmocka_unit_test(delete_waits_for_users),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
