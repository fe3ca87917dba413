/* SPDX-License-Identifier: BSD-3-Clause */
/* Who hears of a bdev that comes, who may claim it, and what can be aborted. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/module.h"
#include "testkit/scripted_bdev.h"

static struct scripted_bdev a, b, third;
static struct env env;
static char order[64];
static unsigned pending;

static void
note(char c)
{
	size_t n = strlen(order);

	EXPECT(n + 1 < sizeof(order));
	order[n] = c;
	order[n + 1] = '\0';
}

static void
on_app(void (*fn)(void *arg))
{
	env_start(&env, REACTOR_INTERRUPT, false);
	order[0] = '\0';
	env_call(&env, env.app, fn, NULL);
	env_stop(&env);
}

static void
add(struct scripted_bdev *s, const char *name)
{
	scripted_bdev_init(s, name, 64, 512);
	EXPECT(scripted_bdev_add(s, NULL) == 0);
}

static void
leave(struct scripted_bdev *s)
{
	scripted_bdev_remove(s, NULL, NULL);
}

/* The removal's messages run when the stage ends. */
static void
gone(struct scripted_bdev *s)
{
	assert_true(atomic_load(&s->destructed));
	scripted_bdev_release(s);
}

/* ---- Waiting for names, and examiners ---- */

static void
named(struct bdev_watch *w, struct bdev *bdev)
{
	EXPECT(bdev == &a.bdev);
	note('w');
}

static struct bdev_watch again;

static void
could_not(struct bdev_watch *w, struct bdev *bdev)
{
	note('n');
	bdev_watch_start(w, "A", could_not);
}

static void
look_later(struct bdev *bdev)
{
	note('1');
	pending++;
}

static void
look_at_once(struct bdev *bdev)
{
	note('2');
	bdev_examine_done();
}

static void
all_examined(struct bdev_examine_wait *w)
{
	note('d');
}

static const struct bdev_examiner slow = {"slow", look_later}, quick = {"quick", look_at_once};
static const struct bdev_examiner *const both[] = {&slow, &quick, NULL};

static void
call_order(void *arg)
{
	static struct bdev_watch by_name, by_uuid, stopped;
	struct bdev_examine_wait wait, none;
	uuid_t uuid;
	char text[UUID_STR_LEN];

	bdev_set_examiners(both);
	bdev_wait_for_examine(&none, all_examined);
	EXPECT(strcmp(order, "d") == 0);
	order[0] = '\0';
	uuid_generate_random(uuid);
	uuid_unparse_upper(uuid, text);
	bdev_watch_start(&by_uuid, text, named);
	bdev_watch_start(&again, "A", could_not);
	bdev_watch_start(&stopped, "A", named);
	bdev_watch_start(&by_name, "A", named);
	bdev_watch_stop(&stopped);
	bdev_watch_stop(&stopped);
	scripted_bdev_init(&a, "A", 64, 512);
	uuid_copy(a.bdev.uuid, uuid);
	EXPECT(scripted_bdev_add(&a, NULL) == 0);
	EXPECT(strcmp(order, "wnw12") == 0);
	bdev_wait_for_examine(&wait, all_examined);
	EXPECT(strcmp(order, "wnw12") == 0);
	bdev_examine_done();
	pending--;
	EXPECT(strcmp(order, "wnw12d") == 0);
	EXPECT(bdev_examine("A", NULL) == 0 && strcmp(order, "wnw12d12") == 0);
	bdev_examine_done();
	EXPECT(bdev_examine("none", NULL) == -ENODEV);
	bdev_watch_stop(&again);
	/* A name that comes later. */
	order[0] = '\0';
	bdev_watch_start(&by_name, "store/a", named);
	EXPECT(bdev_alias_add(&a.bdev, "other", NULL) == 0 && order[0] == '\0');
	EXPECT(bdev_alias_add(&a.bdev, "store/a", NULL) == 0 && strcmp(order, "w") == 0);
	bdev_set_examiners(NULL);
	leave(&a);
}

static void
names_first_then_examiners(void **state)
{
	on_app(call_order);
	gone(&a);
}

static struct bdev_desc *claimed_by;

static void
claim_it(struct bdev_watch *w, struct bdev *bdev)
{
	EXPECT(bdev_open("A", true, NULL, NULL, &claimed_by, NULL) == 0);
	EXPECT(bdev_claim(claimed_by, BDEV_CLAIM_WRITE_ONE, 0, "test", NULL) == 0);
}

static void
call_claimed(void *arg)
{
	static struct bdev_watch w;
	struct bdev_options options, off;

	bdev_set_examiners(both);
	bdev_watch_start(&w, "A", claim_it);
	add(&a, "A");
	EXPECT(order[0] == '\0');
	bdev_get_options(&options);
	off = options;
	off.auto_examine = false;
	EXPECT(bdev_set_options(&off, NULL) == 0);
	add(&b, "B");
	EXPECT(order[0] == '\0');
	EXPECT(bdev_set_options(&options, NULL) == 0);
	bdev_close(claimed_by);
	/* Held until those that are configured are there. */
	leave(&b);
	bdev_examine_hold();
	scripted_bdev_init(&third, "C", 64, 512);
	EXPECT(scripted_bdev_add(&third, NULL) == 0 && order[0] == '\0');
	bdev_examine_release();
	EXPECT(strcmp(order, "12") == 0);
	bdev_examine_done();
	bdev_set_examiners(NULL);
	leave(&third);
	leave(&a);
}

static void
claimed_ones_are_not_examined(void **state)
{
	on_app(call_claimed);
	gone(&a);
	gone(&b);
	gone(&third);
}

/* ---- Claims ---- */

static struct bdev_desc *
opened(const char *name, bool write)
{
	struct bdev_desc *desc;

	EXPECT(bdev_open(name, write, NULL, NULL, &desc, NULL) == 0);
	return desc;
}

static void
call_claims(void *arg)
{
	struct bdev_desc *one, *two, *three, *none;
	struct err err = ERR_NONE;

	add(&a, "A");
	/* Nobody writes: several may say so, who opened to write may not. */
	one = opened("A", false);
	two = opened("A", true);
	EXPECT(bdev_claim(one, BDEV_CLAIM_WRITE_NONE, 0, "m1", &err) == -EPERM);
	EXPECT(bdev_claim(two, BDEV_CLAIM_WRITE_NONE, 0, "m1", &err) == -EPERM);
	bdev_close(two);
	two = opened("A", false);
	EXPECT(bdev_claim(one, BDEV_CLAIM_WRITE_NONE, 0, "m1", NULL) == 0);
	EXPECT(bdev_claim(two, BDEV_CLAIM_WRITE_ONE, 0, "m2", &err) == -EPERM && strstr(err.text, "m1"));
	EXPECT(bdev_claim(two, BDEV_CLAIM_WRITE_NONE, 0, "m2", NULL) == 0);
	EXPECT(bdev_open("A", true, NULL, NULL, &none, NULL) == -EPERM);
	bdev_close(one);
	EXPECT(bdev_open("A", true, NULL, NULL, &none, NULL) == -EPERM);
	bdev_close(two);
	EXPECT(!bdev_claimed(&a.bdev));
	/* Those with the key write. */
	one = opened("A", false);
	two = opened("A", false);
	three = opened("A", false);
	EXPECT(bdev_claim(one, BDEV_CLAIM_WRITE_SHARED, 7, "m1", NULL) == 0);
	EXPECT(bdev_claim(two, BDEV_CLAIM_WRITE_SHARED, 8, "m2", NULL) == -EPERM);
	EXPECT(bdev_claim(two, BDEV_CLAIM_WRITE_SHARED, 7, "m2", NULL) == 0);
	EXPECT(bdev_claim(three, BDEV_CLAIM_WRITE_NONE, 0, "m3", NULL) == -EPERM);
	bdev_close(one);
	bdev_close(two);
	/* One writes, who had opened to read before. */
	EXPECT(bdev_claim(three, BDEV_CLAIM_WRITE_ONE, 0, "m3", NULL) == 0);
	EXPECT(bdev_open("A", true, NULL, NULL, &none, NULL) == -EPERM);
	bdev_close(three);
	/* Of what is read-only nothing that writes. */
	scripted_bdev_init(&b, "B", 64, 512);
	b.bdev.readonly = true;
	EXPECT(scripted_bdev_add(&b, NULL) == 0);
	one = opened("B", false);
	EXPECT(bdev_claim(one, BDEV_CLAIM_WRITE_ONE, 0, "m", &err) == -EROFS && strstr(err.text, "'B'"));
	EXPECT(bdev_claim(one, BDEV_CLAIM_WRITE_NONE, 0, "m", NULL) == 0);
	bdev_close(one);
	leave(&a);
	leave(&b);
}

static void
claims(void **state)
{
	on_app(call_claims);
	gone(&a);
	gone(&b);
}

/* ---- Aborts ---- */

/* During a reset that hangs: what waits for its end can be aborted, what the module has cannot. */
static void
aborts(void **state)
{
	static uint8_t buf[512];
	struct iovec iov = {buf, 512};
	struct env_io first = {.op = BDEV_WRITE, .num_blocks = 1, .iov = &iov, .iovcnt = 1};
	struct env_io second = first, other = first, reset = {.op = BDEV_RESET}, abort = {.op = BDEV_ABORT};

	env_start(&env, REACTOR_POLL, false);
	scripted_bdev_init(&a, "A", 64, 512);
	scripted_open(&a, &env);
	atomic_store(&a.hold, true);
	env_submit(&env.workers[0], &first);
	env_submit(&env.workers[0], &reset);
	env_linger(&env, 2);
	env_submit(&env.workers[0], &second);
	env_submit(&env.workers[1], &other);
	abort.target = &first;
	env_submit(&env.workers[0], &abort);
	assert_int_equal(env_finish(&abort), -ENOENT);
	abort.target = &other; /* of another channel */
	env_submit(&env.workers[0], &abort);
	assert_int_equal(env_finish(&abort), -EINVAL);
	abort.target = &second;
	env_submit(&env.workers[0], &abort);
	assert_int_equal(env_finish(&abort), 0);
	assert_int_equal(env_finish(&second), -ECANCELED);
	scripted_let_go(&a, &env);
	assert_int_equal(env_finish(&first), 0);
	assert_int_equal(env_finish(&reset), 0);
	assert_int_equal(env_finish(&other), 0);
	scripted_close(&a, &env);
	env_stop(&env);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_first_then_examiners),
		cmocka_unit_test(claimed_ones_are_not_examined),
		cmocka_unit_test(claims),
		cmocka_unit_test(aborts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
