/* SPDX-License-Identifier: BSD-3-Clause */
/* Stores that are found, go with their base, and give way; many volumes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "event/notice.h"
#include "lvol/harness.h"
#include "lvol/internal.h"
#include "testkit/bdev_load.h"

#define MIB (UINT64_C(1) << 20)

static struct env env;

static void
begin(void)
{
	h_start(&env, REACTOR_INTERRUPT, false);
	h_disk(&env, "d", 64 * MIB, 512, NULL);
	EXPECT(h_store_create(&env, "d", "vs") == 0);
}

/* The disk goes after its store was unloaded, and comes again. */
static void
come_again(const char *store)
{
	if (store != NULL) {
		EXPECT(h_store_unload(&env, store) == 0);
	}
	h_disk_pull(&env, "d");
	h_disk_push(&env, "d");
	h_examined(&env);
}

/* ---- Examination ---- */

static void
what_was_made_is_found(void **state)
{
	struct lvol_info before, after;

	begin();
	EXPECT(h_create(&env, "vs", "v", 4 * MIB, true) == 0 && h_create(&env, "vs", "w", MIB, false) == 0);
	h_write(&env, "vs/v", 0, 256, 1);
	EXPECT(h_snapshot(&env, "vs/v", "s") == 0 && h_clone(&env, "vs/s", "c") == 0);
	h_write(&env, "vs/c", 8, 8, 2);
	EXPECT(h_rename(&env, "vs/w", "x") == 0);
	before = h_info(&env, "vs/c");
	come_again("vs");
	EXPECT(h_store_info(&env, "vs").volumes == 4 && !h_store_info(&env, "vs").blob.recovered);
	after = h_info(&env, "vs/c");
	EXPECT(after.blob_id == before.blob_id && after.allocated_clusters == before.allocated_clusters && after.clone);
	h_expect(&env, "vs/v", 0, 256, 1);
	h_expect(&env, "vs/c", 8, 8, 2);
	h_expect(&env, "vs/s", 0, 256, 1);
	EXPECT(h_has_bdev(&env, "vs/x") && h_info(&env, "vs/x").allocated_clusters == 16);
	h_stop(&env);
}

/* Blobs that somebody else has made, without a name or a UUID, or with the name of another. */
static atomic_uint blobs_made;

static void
blob_made(void *ctx, struct blob *blob, int status, const struct err *err)
{
	EXPECT(status == 0);
	*(uint64_t *)ctx = blob_id(blob);
	atomic_fetch_add(&blobs_made, 1);
}

static void
make_strange_blobs(void *arg)
{
	static const struct blob_xattr same[] = {{LVOL_XATTR_NAME, "v", 2}, {LVOL_XATTR_UUID, "not one", 8}};
	static const struct blob_xattr endless[] = {{LVOL_XATTR_NAME, "xxx", 3}};
	struct blob_options o = {.num_clusters = 32, .thin = true};
	struct blob_store *blobs = lvol_store_find("vs")->blobs;
	uint64_t *ids = arg;

	blob_create(blobs, &o, blob_made, &ids[0]);
	o.xattrs = same;
	o.num_xattrs = 2;
	blob_create(blobs, &o, blob_made, &ids[1]);
	o.xattrs = endless;
	o.num_xattrs = 1;
	blob_create(blobs, &o, blob_made, &ids[2]);
}

static void
volumes_without_identity(void **state)
{
	char uuid[UUID_STR_LEN], id[LVOL_ID_BYTES], name[32];
	struct lvol_store_info info;
	uint64_t ids[3];

	begin();
	EXPECT(h_create(&env, "vs", "v", MIB, true) == 0);
	info = h_store_info(&env, "vs");
	uuid_unparse_lower(info.uuid, uuid);
	atomic_store(&blobs_made, 0);
	h_on_app(&env, make_strange_blobs, ids);
	env_wait_count(&env, &blobs_made, 3);
	come_again("vs");
	EXPECT(h_store_info(&env, "vs").volumes == 4);
	for (unsigned i = 0; i < 3; i++) {
		snprintf(id, sizeof(id), "%s_%llu", uuid, (unsigned long long)ids[i]);
		EXPECT_SAY(h_has_bdev(&env, id) && strcmp(h_info(&env, id).id, id) == 0, "%s", id);
		h_write(&env, id, 0, 8, i);
	}
	snprintf(name, sizeof(name), "vs/blob_%llu", (unsigned long long)ids[0]);
	EXPECT(h_has_bdev(&env, name));
	h_expect(&env, name, 0, 8, 0);
	EXPECT(h_info(&env, "vs/v").bytes == MIB || h_info(&env, "vs/v").blob_id == ids[1]);
	EXPECT(h_rename(&env, id, "fine") == 0 && h_has_bdev(&env, "vs/fine"));
	EXPECT(h_delete(&env, id) == 0);
	h_stop(&env);
}

static void
names_that_are_taken(void **state)
{
	begin();
	EXPECT(h_create(&env, "vs", "v", MIB, true) == 0);
	EXPECT(h_store_unload(&env, "vs") == 0);
	h_disk_pull(&env, "d");
	h_disk(&env, "e", 64 * MIB, 512, NULL);
	EXPECT(h_store_create(&env, "e", "vs") == 0);
	h_disk_push(&env, "d");
	h_examined(&env);
	EXPECT(!h_has_bdev(&env, "vs/v") && strcmp(h_store_info(&env, "vs").base_name, "e") == 0);
	EXPECT(h_store_load(&env, "d") == -EEXIST);
	EXPECT(h_store_rename(&env, "vs", "other") == 0);
	EXPECT(h_store_load(&env, "d") == 0 && h_has_bdev(&env, "vs/v"));
	h_stop(&env);
}

static void
damage_is_left_alone(void **state)
{
	uint8_t before[4096];
	struct scripted_bdev *s;

	begin();
	EXPECT(h_store_unload(&env, "vs") == 0);
	h_disk_pull(&env, "d");
	s = h_disk_of("d");
	s->data[60] ^= 1; /* the type's: the checksum is wrong */
	memcpy(before, s->data, sizeof(before));
	h_disk_push(&env, "d");
	h_examined(&env);
	EXPECT(memcmp(before, s->data, sizeof(before)) == 0);
	EXPECT(h_store_load(&env, "d") == -EILSEQ);
	h_write(&env, "d", 1000, 8, 1); /* it is nobody's */
	h_stop(&env);
}

static struct bdev_desc *user;
static int open_rc;

static void
open_base(void *arg)
{
	struct err err = ERR_NONE;

	open_rc = bdev_open(arg, true, NULL, NULL, &user, &err);
}

static void
close_user(void *arg)
{
	bdev_close(user);
}

static void
open_volume(void *arg)
{
	EXPECT(bdev_open(arg, true, NULL, NULL, &user, NULL) == 0);
}

/* A store that nobody asked for gives way to who wants the disk, unless somebody uses it. */
static void
what_was_found_gives_way(void **state)
{
	struct bdev_desc *volume_user;
	uint8_t *before = malloc(MIB);

	begin();
	EXPECT(h_create(&env, "vs", "v", MIB, true) == 0);
	h_on_app(&env, open_base, (void *)(uintptr_t)"d");
	EXPECT(open_rc == -EPERM);
	come_again("vs");
	memcpy(before, h_disk_of("d")->data, MIB);
	EXPECT(h_has_bdev(&env, "vs/v"));
	h_on_app(&env, open_volume, (void *)(uintptr_t)"vs/v");
	volume_user = user;
	h_on_app(&env, open_base, (void *)(uintptr_t)"d");
	EXPECT(open_rc == -EPERM);
	user = volume_user;
	h_on_app(&env, close_user, NULL);
	h_on_app(&env, open_base, (void *)(uintptr_t)"d");
	EXPECT(open_rc == 0);
	env_linger(&env, 5);
	EXPECT(!h_has_bdev(&env, "vs/v"));
	EXPECT(memcmp(before, h_disk_of("d")->data, MIB) == 0);
	h_on_app(&env, close_user, NULL);
	/* Once it was used it stays. */
	come_again(NULL);
	EXPECT(h_create(&env, "vs", "w", MIB, true) == 0);
	h_on_app(&env, open_base, (void *)(uintptr_t)"d");
	EXPECT(open_rc == -EPERM && h_has_bdev(&env, "vs/w"));
	come_again("vs");
	h_write(&env, "vs/w", 0, 1, 1);
	h_on_app(&env, open_base, (void *)(uintptr_t)"d");
	EXPECT(open_rc == -EPERM);
	come_again("vs");
	EXPECT(h_store_rename(&env, "vs", "ws") == 0);
	h_on_app(&env, open_base, (void *)(uintptr_t)"d");
	EXPECT(open_rc == -EPERM);
	come_again("ws");
	EXPECT(h_rename(&env, "ws/w", "x") == 0);
	h_on_app(&env, open_base, (void *)(uintptr_t)"d");
	EXPECT(open_rc == -EPERM);
	free(before);
	h_stop(&env);
}

/* ---- Bases that go ---- */

static void
remove_base(void *arg)
{
	scripted_bdev_remove(h_disk_of("d"), NULL, NULL);
}

/* The load's volume goes; its user lets go then. */
static void
pulled_under_load(enum reactor_mode mode, bool real_threads)
{
	struct load loads[ENV_WORKERS];
	struct scripted_bdev *s;

	h_start(&env, mode, real_threads);
	h_disk(&env, "d", 64 * MIB, 512, NULL);
	EXPECT(h_store_create(&env, "d", "vs") == 0);
	EXPECT(h_create(&env, "vs", "v", 8 * MIB, true) == 0 && h_snapshot(&env, "vs/v", "s") == 0);
	h_examined(&env);
	EXPECT(env_open(&env, "vs/v", true) == 0);
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		loads[i] = (struct load){.worker = &env.workers[i],
					 .first_block = i * 4096,
					 .num_blocks = 4096,
					 .depth = 16,
					 .count = UINT64_MAX,
					 .removal_ok = true,
					 .io_error_ok = true,
					 .cancel_ok = true,
					 .seed = i + 1};
		load_start(&loads[i]);
	}
	env_linger(&env, 30);
	s = h_disk_of("d");
	h_on_app(&env, remove_base, NULL);
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		load_finish(&loads[i]);
	}
	env_wait_count(&env, &env.removes, 1);
	env_close(&env);
	while (!atomic_load(&s->destructed)) {
		env_linger(&env, 1);
	}
	EXPECT(!h_has_bdev(&env, "vs/v") && !h_has_bdev(&env, "vs/s"));
	h_disk_push(&env, "d");
	h_examined(&env);
	EXPECT(h_has_bdev(&env, "vs/v") && h_store_info(&env, "vs").blob.recovered);
	EXPECT(h_store_info(&env, "vs").blob.damaged == 0 && h_store_info(&env, "vs").volumes == 2);
	h_write(&env, "vs/v", 0, 64, 1);
	h_expect(&env, "vs/v", 0, 64, 1);
	h_stop(&env);
}

static void
bases_are_pulled(void **state)
{
	pulled_under_load(REACTOR_POLL, false);
	pulled_under_load(REACTOR_INTERRUPT, true);
	pulled_under_load(REACTOR_ADAPTIVE, true);
}

/* What is asked for at that moment is answered. */
static atomic_uint answers;

static void
made(void *ctx, struct lvol *lvol, int status, const struct err *err)
{
	atomic_fetch_add(&answers, 1);
}

static void
done(void *ctx, int status, const struct err *err)
{
	atomic_fetch_add(&answers, 1);
}

static void
ask_and_pull(void *arg)
{
	struct lvol_options o = {.name = "new", .bytes = MIB};

	lvol_create(lvol_store_find("vs"), &o, made, NULL);
	lvol_snapshot(lvol_find("vs/v"), "s", made, NULL);
	lvol_resize(lvol_find("vs/w"), 4 * MIB, done, NULL);
	lvol_inflate(lvol_find("vs/v"), done, NULL);
	lvol_delete(lvol_find("vs/x"), done, NULL);
	lvol_store_unload(lvol_store_find("vs"), done, NULL);
	scripted_bdev_remove(h_disk_of("d"), NULL, NULL);
}

static void
changes_end_with_the_base(void **state)
{
	begin();
	EXPECT(h_create(&env, "vs", "v", MIB, true) == 0 && h_create(&env, "vs", "w", MIB, true) == 0 &&
	       h_create(&env, "vs", "x", MIB, true) == 0);
	h_examined(&env);
	atomic_store(&answers, 0);
	h_on_app(&env, ask_and_pull, NULL);
	env_wait_count(&env, &answers, 6);
	while (!atomic_load(&h_disk_of("d")->destructed)) {
		env_linger(&env, 1);
	}
	EXPECT(!h_has_bdev(&env, "vs/v"));
	h_disk_push(&env, "d");
	h_examined(&env);
	EXPECT(h_has_bdev(&env, "vs/v") && h_has_bdev(&env, "vs/w"));
	h_stop(&env);
}

static atomic_bool shut;

static void
is_shut(void *ctx)
{
	atomic_store(&shut, true);
}

static void
shut_down(void *arg)
{
	lvol_shutdown(is_shut, NULL);
}

/* A store on a volume of another is closed clean before that one. */
static void
stacked_stores_end_in_order(void **state)
{
	begin();
	EXPECT(h_create(&env, "vs", "v", 32 * MIB, true) == 0);
	EXPECT(h_store_create(&env, "vs/v", "ws") == 0);
	EXPECT(h_create(&env, "ws", "inner", MIB, true) == 0);
	h_write(&env, "ws/inner", 0, 8, 5);
	EXPECT(h_store_unload(&env, "ws") == 0);
	come_again("vs"); /* both are found */
	EXPECT(h_has_bdev(&env, "ws/inner") && !h_store_info(&env, "ws").blob.recovered);
	h_expect(&env, "ws/inner", 0, 8, 5);
	h_write(&env, "ws/inner", 1024, 8, 6);
	EXPECT(h_create(&env, "vs", "late", MIB, true) == 0 && h_create(&env, "ws", "late", MIB, true) == 0);
	atomic_store(&shut, false);
	h_on_app(&env, shut_down, NULL);
	env_wait(&env, &shut);
	EXPECT(!h_has_bdev(&env, "vs/v") && h_has_bdev(&env, "d"));
	come_again(NULL);
	EXPECT(!h_store_info(&env, "vs").blob.recovered && !h_store_info(&env, "ws").blob.recovered);
	EXPECT(h_has_bdev(&env, "vs/late") && h_has_bdev(&env, "ws/late"));
	h_expect(&env, "ws/inner", 1024, 8, 6);
	h_stop(&env);
}

/* ---- Space ---- */

static struct notice_watcher watcher;
static char told[256];

static void
on_notice(struct notice_watcher *w, const struct notice *n)
{
	if (strncmp(n->type, "lvol_", 5) == 0) {
		EXPECT(strcmp(n->fields[0].text, "vs") == 0);
		strcat(strcat(told, n->type + 5), " ");
	}
}

static void
watch(void *arg)
{
	notice_watch(&watcher, on_notice);
}

static void
unwatch(void *arg)
{
	notice_unwatch(&watcher);
}

static void
space_is_watched(void **state)
{
	begin();
	told[0] = '\0';
	h_on_app(&env, watch, NULL);
	EXPECT(h_store_limits(&env, "vs", 50, false) == 0);
	EXPECT(h_create(&env, "vs", "a", 20 * MIB, false) == 0 && told[0] == '\0');
	EXPECT(h_create(&env, "vs", "b", 20 * MIB, false) == 0);
	env_linger(&env, 5);
	EXPECT_SAY(strcmp(told, "store_low ") == 0, "%s", told);
	EXPECT(h_delete(&env, "vs/b") == 0 && h_store_idle(&env, "vs") == 0);
	env_linger(&env, 5);
	EXPECT_SAY(strcmp(told, "store_low store_low_ends ") == 0, "%s", told);
	h_on_app(&env, unwatch, NULL);
	h_stop(&env);
}

/* Metadata that cannot be written: nothing is changed any more, what is there goes on. */
static void
a_store_breaks(void **state)
{
	static uint8_t buf[512];
	struct scripted_bdev *s;

	begin();
	s = h_disk_of("d");
	EXPECT(h_create(&env, "vs", "v", MIB, true) == 0);
	h_write(&env, "vs/v", 0, 8, 1);
	h_examined(&env);
	told[0] = '\0';
	h_on_app(&env, watch, NULL);
	EXPECT(env_open(&env, "vs/v", true) == 0);
	atomic_store(&s->fail_skip, 1); /* the data */
	atomic_store(&s->fail_with, -EIO);
	EXPECT(env_rw(&env.workers[0], BDEV_WRITE, CLUSTER_BLOCKS, 1, buf) == -EIO);
	atomic_store(&s->fail_with, 0);
	EXPECT_SAY(strcmp(told, "store_broken ") == 0, "%s", told);
	EXPECT(env_rw(&env.workers[0], BDEV_WRITE, 2 * CLUSTER_BLOCKS, 1, buf) == -EIO);
	EXPECT(env_rw(&env.workers[0], BDEV_WRITE, 16, 1, buf) == 0 && env_rw(&env.workers[1], BDEV_READ, 0, 1, buf) == 0);
	env_close(&env);
	EXPECT(h_store_info(&env, "vs").blob.broken);
	EXPECT(h_create(&env, "vs", "w", MIB, true) == -EROFS && h_delete(&env, "vs/v") == -EROFS);
	EXPECT(h_has_bdev(&env, "vs/v"));
	h_on_app(&env, unwatch, NULL);
	come_again("vs");
	EXPECT(!h_store_info(&env, "vs").blob.broken && h_create(&env, "vs", "w", MIB, true) == 0);
	h_expect(&env, "vs/v", 0, 8, 1);
	h_stop(&env);
}

/* ---- Many ---- */

#define MANY 1000

static unsigned made_many;
static atomic_bool all_made;

static void
make_next(void *ctx, struct lvol *lvol, int status, const struct err *err)
{
	struct lvol_options o = {.bytes = 4 * MIB, .thin = true};
	char name[16];

	EXPECT_SAY(status == 0, "%s", err_text(err));
	if (made_many == MANY) {
		atomic_store(&all_made, true);
		return;
	}
	snprintf(name, sizeof(name), "v%u", made_many++);
	o.name = name;
	lvol_create(ctx, &o, make_next, ctx);
}

static void
make_many(void *arg)
{
	make_next(lvol_store_find("vs"), NULL, 0, NULL);
}

static void
a_thousand_volumes(void **state)
{
	struct lvol_store_options o = {.base_name = "d", .name = "vs", .cluster_bytes = CLUSTER, .md_ratio = 300};

	h_start(&env, REACTOR_INTERRUPT, false);
	h_disk(&env, "d", 64 * MIB, 512, NULL);
	EXPECT(h_store_create_with(&env, &o) == 0);
	made_many = 0;
	atomic_store(&all_made, false);
	h_on_app(&env, make_many, NULL);
	env_wait(&env, &all_made);
	h_write(&env, "vs/v7", 0, 8, 7);
	h_write(&env, "vs/v999", 0, 8, 999);
	come_again("vs");
	EXPECT(h_store_info(&env, "vs").volumes == MANY);
	h_expect(&env, "vs/v999", 0, 8, 999);
	h_expect(&env, "vs/v7", 0, 8, 7);
	EXPECT(h_store_destroy(&env, "vs") == 0);
	h_stop(&env);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_made_is_found),
		cmocka_unit_test(volumes_without_identity),
		cmocka_unit_test(names_that_are_taken),
		cmocka_unit_test(damage_is_left_alone),
		cmocka_unit_test(what_was_found_gives_way),
		cmocka_unit_test(bases_are_pulled),
		cmocka_unit_test(changes_end_with_the_base),
		cmocka_unit_test(stacked_stores_end_in_order),
		cmocka_unit_test(space_is_watched),
		cmocka_unit_test(a_store_breaks),
		cmocka_unit_test(a_thousand_volumes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
