/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where a volume's contents came from, said when it is made and dropped when it is renamed: whichever request is the last that
 * the disk carries out, the volume has both name and origin of before, or both of after.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "lvol/harness.h"

#define MIB (UINT64_C(1) << 20)
#define LAST_MAX 1000

static struct env env;

struct step {
	const char *name;
	void (*run)(const struct step *step);
	const char *of, *to; /* of: NULL: made from nothing */
	uint8_t origin;      /* every byte of it; 0: nobody's */
	const char *gone;    /* afterwards; with its origin: */
	uint8_t gone_origin;
};

static atomic_bool done;
static int status;

static void
changed(void *ctx, int rc, const struct err *err)
{
	status = rc;
	atomic_store(&done, true);
}

static void
made(void *ctx, struct lvol *lvol, int rc, const struct err *err)
{
	changed(ctx, rc, err);
}

static void
origin_of(const struct step *step, uuid_t ret_origin)
{
	memset(ret_origin, step->origin, sizeof(uuid_t));
}

static void
create(const struct step *step)
{
	struct lvol_options options = {.name = step->to + strlen("vs/"), .bytes = MIB, .thin = true};

	origin_of(step, options.origin);
	lvol_create(lvol_store_find("vs"), &options, made, NULL);
}

static void
snapshot(const struct step *step)
{
	uuid_t origin;

	origin_of(step, origin);
	lvol_snapshot_with_origin(lvol_find(step->of), step->to + strlen("vs/"), origin, made, NULL);
}

static void
clone(const struct step *step)
{
	uuid_t origin;

	origin_of(step, origin);
	lvol_clone_with_origin(lvol_find(step->of), step->to + strlen("vs/"), origin, made, NULL);
}

static void
rename_it(const struct step *step)
{
	uuid_t origin;

	origin_of(step, origin);
	lvol_rename_with_origin(lvol_find(step->of), step->to + strlen("vs/"), origin, changed, NULL);
}

/* Each is there at the end of the one before. */
static const struct step steps[] = {
	{.name = "create", .run = create, .to = "vs/a", .origin = 0x11},
	{.name = "snapshot", .run = snapshot, .of = "vs/a", .to = "vs/s", .origin = 0x22},
	{.name = "clone", .run = clone, .of = "vs/s", .to = "vs/c", .origin = 0x33},
	{.name = "rename", .run = rename_it, .of = "vs/c", .to = "vs/d", .gone = "vs/c", .gone_origin = 0x33},
	{.name = "rename a snapshot",
	 .run = rename_it,
	 .of = "vs/s",
	 .to = "vs/t",
	 .origin = 0x44,
	 .gone = "vs/s",
	 .gone_origin = 0x22},
};

/* ---- Looking ---- */

struct look {
	const char *name;
	bool there;
	uuid_t origin; /* all zero: nobody's */
};

static void
look_on_app(void *arg)
{
	struct look *l = arg;
	struct lvol *lvol = lvol_find(l->name);

	uuid_clear(l->origin);
	l->there = lvol != NULL;
	if (l->there && !lvol_origin(lvol, l->origin)) {
		uuid_clear(l->origin);
	}
}

/* There, with that origin; or not there. */
static bool
is_there(const char *name, uint8_t origin)
{
	struct look l = {.name = name};
	uuid_t shall;

	if (name == NULL) {
		return false;
	}
	h_on_app(&env, look_on_app, &l);
	memset(shall, origin, sizeof(shall));
	EXPECT_SAY(!l.there || uuid_compare(l.origin, shall) == 0, "%s: another's origin", name);
	return l.there;
}

/* True: it has happened. */
static bool
has_happened(const struct step *step)
{
	bool after = is_there(step->to, step->origin);

	EXPECT_SAY(step->gone == NULL || is_there(step->gone, step->gone_origin) != after, "%s: both, or none", step->name);
	return after;
}

/* ---- Cuts ---- */

static void
run_on_app(void *arg)
{
	const struct step *step = arg;

	step->run(step);
}

static void
come_again(void)
{
	h_disk_pull(&env, "d");
	atomic_store(&h_disk_of("d")->fail_with, 0);
	h_disk_push(&env, "d");
	h_examined(&env);
	EXPECT_SAY(h_store_info(&env, "vs").blob.damaged == 0, "damaged");
}

/* The disk carries out so many requests more. True: it has happened. */
static bool
cut_after(const struct step *step, unsigned last)
{
	bool answered;

	atomic_store(&done, false);
	atomic_store(&h_disk_of("d")->fail_skip, last);
	atomic_store(&h_disk_of("d")->fail_with, -EIO);
	h_on_app(&env, run_on_app, (void *)(uintptr_t)step);
	env_wait(&env, &done);
	answered = status == 0;
	come_again();
	EXPECT_SAY(has_happened(step) || !answered, "%s: answered, and not there", step->name);
	return has_happened(step);
}

static void
name_and_origin_are_one(void **state)
{
	h_start(&env, REACTOR_INTERRUPT, false);
	h_disk(&env, "d", 32 * MIB, 512, NULL);
	EXPECT(h_store_create(&env, "d", "vs") == 0);
	for (unsigned i = 0; i < sizeof(steps) / sizeof(steps[0]); i++) {
		unsigned last = 0;

		while (!cut_after(&steps[i], last)) {
			last++;
			EXPECT(last < LAST_MAX);
		}
		EXPECT_SAY(last > 0, "%s: nothing was cut", steps[i].name);
	}
	h_stop(&env);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(name_and_origin_are_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
