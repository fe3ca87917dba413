/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/crypto/crypto.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/stack.h"
#include "bdevs/crypto/key.h"
#include "testkit/bdev_over.h"

#define K1 "00112233445566778899aabbccddeeff"
#define K2 "ffeeddccbbaa99887766554433221100"

static int
make_key(const char *name)
{
	struct crypto_key_options o = {.name = name, .cipher = "AES_XTS", .key = K1, .key2 = K2};

	return crypto_key_create(&o, NULL);
}

static int
make_crypto(const char *name, const char *base, const char *key, bool wait, struct bdev **ret, struct err *err)
{
	struct crypto_bdev_options o = {.name = name, .base_name = base, .key_name = key, .wait_for_key = wait};

	return bdev_crypto_create(&o, ret, err);
}

/* ---- The battery: one on a scripted bdev, and one on another one ---- */

static bool two;

static int
create(const struct over *over, struct err *err)
{
	if (crypto_key_find("k") == NULL) {
		EXPECT(make_key("k") == 0);
	}
	if (two) {
		int rc = make_crypto("lower", OVER_BASE, "k", false, NULL, err);

		/* The battery tries a second one of the upper's name. */
		EXPECT(rc == 0 || rc == -EEXIST);
	}
	return make_crypto(over->battery.name, two ? "lower" : OVER_BASE, "k", false, NULL, err);
}

struct removal {
	void (*done)(void *ctx, int status);
	void *ctx;
};

static void
upper_gone(void *ctx, int status)
{
	struct removal r = *(struct removal *)ctx;

	free(ctx);
	EXPECT(status == 0);
	if (two) {
		EXPECT(bdev_crypto_delete("lower", r.done, r.ctx, NULL) == 0);
	} else {
		r.done(r.ctx, 0);
	}
}

static int
remove_bdev(const struct over *over, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct removal *r = malloc(sizeof(*r));
	int rc;

	*r = (struct removal){done, ctx};
	rc = bdev_crypto_delete(over->battery.name, upper_gone, r, err);
	if (rc != 0) {
		free(r);
	}
	return rc;
}

static void
passes_battery(void **state)
{
	struct over over = {
		.battery = {.name = "crypto", .requests = 1000},
		.base_blocks = 16384,
		.base_block_size = 512,
		.create = create,
		.remove = remove_bdev,
		.resizes = true,
	};

	over_run_all(&over);
	over.base_blocks = 2048;
	over.base_block_size = 4096;
	over_run(&over, REACTOR_ADAPTIVE, true);
	two = true;
	over_run(&over, REACTOR_INTERRUPT, true);
	over_run(&over, REACTOR_POLL, false);
	EXPECT(crypto_key_destroy("k", NULL) == 0);
}

/* ---- On a scripted base, one look at a time ---- */

struct stage {
	struct env env;
	struct scripted_bdev base;
	struct err err;
	struct bdev *bdev;
	int rc;
	atomic_bool gone;
};

static void
add_base(void *arg)
{
	struct stage *s = arg;

	s->rc = scripted_bdev_add(&s->base, &s->err);
}

static void
add_crypto(void *arg)
{
	struct stage *s = arg;

	s->rc = make_crypto("c", "base", "k", true, &s->bdev, &s->err);
}

static void
add_key(void *arg)
{
	struct stage *s = arg;

	s->rc = make_key("k");
}

static void
noted(void *ctx, int status)
{
	EXPECT(status == 0);
	atomic_store((atomic_bool *)ctx, true);
}

static void
delete_crypto(void *arg)
{
	struct stage *s = arg;

	s->rc = bdev_crypto_delete("c", noted, &s->gone, &s->err);
}

static void
remove_base(void *arg)
{
	struct stage *s = arg;

	atomic_store(&s->gone, false);
	scripted_bdev_remove(&s->base, noted, &s->gone);
}

static void
destroy_key(void *arg)
{
	struct stage *s = arg;

	s->rc = crypto_key_destroy("k", &s->err);
}

static void
call(struct stage *s, void (*fn)(void *arg), int rc)
{
	s->err = ERR_NONE;
	s->rc = 0;
	env_call(&s->env, s->env.app, fn, s);
	EXPECT_SAY(s->rc == rc, "%d: %s", s->rc, err_text(&s->err));
}

static void
stage_open(struct stage *s)
{
	memset(s, 0, sizeof(*s));
	env_start(&s->env, REACTOR_INTERRUPT, false);
	scripted_bdev_init(&s->base, "base", 4096, 512);
	call(s, add_base, 0);
	call(s, add_key, 0);
	call(s, add_crypto, 0);
	EXPECT(s->bdev != NULL);
	EXPECT(env_open(&s->env, "c", true) == 0);
}

static void
stage_close(struct stage *s)
{
	env_close(&s->env);
	atomic_store(&s->gone, false);
	call(s, delete_crypto, 0);
	env_wait(&s->env, &s->gone);
	call(s, destroy_key, 0);
	call(s, remove_base, 0);
	env_wait(&s->env, &s->gone);
	scripted_bdev_release(&s->base);
	env_stop(&s->env);
}

/* What the base holds is what the cipher makes of it, for zeroes too. */
static void
base_holds_cipher_text(void **state)
{
	static uint8_t plain[24 * 512], want[24 * 512], before[24 * 512];
	struct iovec iov = {plain, sizeof(plain)};
	struct stage s;
	struct xts *x;

	stage_open(&s);
	EXPECT(xts_create(crypto_key_secret(crypto_key_find("k")), 512, &x) == 0);
	for (unsigned i = 0; i < sizeof(plain); i++) {
		plain[i] = (uint8_t)(i * 31 + i / 512);
	}
	memcpy(before, plain, sizeof(plain));
	EXPECT(env_rw(&s.env.workers[0], BDEV_WRITE, 1000, 24, plain) == 0);
	EXPECT(memcmp(plain, before, sizeof(plain)) == 0);
	EXPECT(xts_encrypt(x, 1000, &iov, 1, want, sizeof(want)) == 0);
	EXPECT(memcmp(s.base.data + 1000 * 512, want, sizeof(want)) == 0);

	EXPECT(env_rw(&s.env.workers[0], BDEV_WRITE_ZEROES, 1002, 3, NULL) == 0);
	memset(plain + 2 * 512, 0, 3 * 512);
	EXPECT(xts_encrypt(x, 1000, &iov, 1, want, sizeof(want)) == 0);
	EXPECT(memcmp(s.base.data + 1000 * 512, want, sizeof(want)) == 0);
	EXPECT(env_rwv(&s.env.workers[0], BDEV_WRITE_ZEROES, BDEV_IO_MAY_UNMAP, 1010, 1, NULL, 0) == 0);
	memset(plain + 10 * 512, 0, 512);
	memset(before, 1, sizeof(before));
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 1000, 24, before) == 0);
	EXPECT(memcmp(plain, before, sizeof(plain)) == 0);
	xts_free(x);
	stage_close(&s);
}

/* A failed read leaves the memory of who asked for it alone, and a base never sees a guest's. */
static void
failed_reads_change_nothing(void **state)
{
	static uint8_t buf[8 * 512], zero[8 * 512];
	struct stage s;

	stage_open(&s);
	atomic_store(&s.base.fail_with, -EIO);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 8, buf) == -EIO);
	EXPECT(memcmp(buf, zero, sizeof(buf)) == 0);
	EXPECT(env_rw(&s.env.workers[0], BDEV_WRITE, 0, 8, buf) == -EIO);
	atomic_store(&s.base.fail_with, 0);
	EXPECT(env_rw(&s.env.workers[0], BDEV_WRITE, 0, 8, buf) == 0);
	EXPECT(env_rw(&s.env.workers[0], BDEV_UNMAP, 0, 8, NULL) == 0);
	EXPECT(env_rw(&s.env.workers[0], BDEV_FLUSH, 0, 0, NULL) == 0);
	stage_close(&s);
}

static void
kick_base(void *arg)
{
	struct env_worker *w = arg;
	struct stack_channel *c = w->ch->module_ctx;

	scripted_channel_kick(c->base);
}

/* More requests than there are large buffers: none fails, each waits for its turn. */
static void
waits_for_buffers(void **state)
{
	enum { COUNT = 600 };
	static struct env_io ios[COUNT];
	static struct iovec iovs[COUNT];
	struct stage s;

	stage_open(&s);
	atomic_store(&s.base.hold, true);
	for (unsigned i = 0; i < COUNT; i++) {
		iovs[i] = (struct iovec){malloc(32 * 512), 32 * 512};
		memset(iovs[i].iov_base, (int)i, 32 * 512);
		ios[i] = (struct env_io){
			.op = BDEV_WRITE, .lba = i % 100 * 32, .num_blocks = 32, .iov = &iovs[i], .iovcnt = 1};
		env_submit(&s.env.workers[i % 2], &ios[i]);
	}
	/* All pool buffers, and each channel's own. */
	EXPECT_SAY(atomic_load(&s.base.submitted) == 514, "%u", atomic_load(&s.base.submitted));
	atomic_store(&s.base.hold, false);
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		env_call(&s.env, s.env.workers[i].thread, kick_base, &s.env.workers[i]);
	}
	for (unsigned i = 0; i < COUNT; i++) {
		EXPECT(env_finish(&ios[i]) == 0);
		free(iovs[i].iov_base);
	}
	stage_close(&s);
}

/* ---- What is not there yet ---- */

static unsigned waiting_for_key, waiting_for_base;

static void
count_waiting(void *ctx, const struct crypto_bdev_options *o, bool for_key)
{
	EXPECT(strcmp(o->name, "c") == 0 && strcmp(o->base_name, "base") == 0 && strcmp(o->key_name, "k") == 0);
	++*(for_key ? &waiting_for_key : &waiting_for_base);
}

static void
expect_waiting(void *arg)
{
	waiting_for_key = waiting_for_base = 0;
	bdev_crypto_for_each_waiting(count_waiting, NULL);
}

static void
try_without_key(void *arg)
{
	struct stage *s = arg;

	EXPECT(make_crypto("c", "base", "no such", false, NULL, &s->err) == -ENOKEY);
	EXPECT(strstr(s->err.text, "no such") != NULL);
	EXPECT(bdev_crypto_delete("c", noted, NULL, &s->err) == -ENODEV);
}

/* The key comes, then the base; both go and come in other orders. */
static void
waits_for_key_and_base(void **state)
{
	struct crypto_bdev_options o;
	struct stage s = {0};

	env_start(&s.env, REACTOR_INTERRUPT, false);
	call(&s, try_without_key, 0);
	call(&s, add_crypto, 0);
	EXPECT(s.bdev == NULL);
	call(&s, add_crypto, -EEXIST);
	env_call(&s.env, s.env.app, expect_waiting, NULL);
	EXPECT(waiting_for_key == 1 && waiting_for_base == 0);
	scripted_bdev_init(&s.base, "base", 4096, 512);
	call(&s, add_base, 0);
	EXPECT(env_open(&s.env, "c", true) == -ENODEV);

	call(&s, add_key, 0);
	env_call(&s.env, s.env.app, expect_waiting, NULL);
	EXPECT(waiting_for_key == 0 && waiting_for_base == 0);
	EXPECT(env_open(&s.env, "c", true) == 0);
	EXPECT(bdev_crypto_get_options(s.env.bdev, &o) && o.wait_for_key && strcmp(o.key_name, "k") == 0);
	call(&s, destroy_key, -EBUSY);

	/* Hot remove: what it stands on goes, and it waits again. */
	call(&s, remove_base, 0);
	env_wait_count(&s.env, &s.env.removes, 1);
	env_close(&s.env);
	env_wait(&s.env, &s.gone);
	scripted_bdev_release(&s.base);
	env_call(&s.env, s.env.app, expect_waiting, NULL);
	EXPECT(waiting_for_key == 0 && waiting_for_base == 1);
	call(&s, add_crypto, -EEXIST);
	scripted_bdev_init(&s.base, "base", 4096, 512);
	call(&s, add_base, 0);
	EXPECT(env_open(&s.env, "c", true) == 0);
	stage_close(&s);
}

/* One that waits for its key can be deleted, and the name is free. */
static void
deletes_what_waits(void **state)
{
	struct stage s = {0};

	env_start(&s.env, REACTOR_INTERRUPT, false);
	call(&s, add_crypto, 0);
	call(&s, delete_crypto, 0);
	EXPECT(atomic_load(&s.gone));
	call(&s, delete_crypto, -ENODEV);
	call(&s, add_key, 0);
	EXPECT(bdev_find("c") == NULL);
	call(&s, destroy_key, 0);
	env_stop(&s.env);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(base_holds_cipher_text), cmocka_unit_test(failed_reads_change_nothing),
		cmocka_unit_test(waits_for_buffers),	  cmocka_unit_test(waits_for_key_and_base),
		cmocka_unit_test(deletes_what_waits),	  cmocka_unit_test(passes_battery),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
