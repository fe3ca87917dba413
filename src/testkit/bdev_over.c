/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/bdev_over.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "bdev/stack.h"
#include "testkit/bdev_load.h"

static struct over *
over_of(const struct battery *b)
{
	return b->ctx;
}

/* ---- The base ---- */

static void
add_base(struct over *over)
{
	struct err err = ERR_NONE;

	if (over->base_there) {
		return;
	}
	scripted_bdev_init(&over->base, OVER_BASE, over->base_blocks, over->base_block_size);
	if (over->set_up != NULL) {
		over->set_up(&over->base);
	}
	EXPECT_SAY(scripted_bdev_add(&over->base, &err) == 0, "%s", err_text(&err));
	over->base_there = true;
}

static void
base_gone(void *ctx, int status)
{
	struct over *over = ctx;

	EXPECT(status == 0 && atomic_load(&over->base.destructed));
	scripted_bdev_release(&over->base);
	over->base_there = false;
	if (over->done != NULL) {
		over->done(over->done_ctx, 0);
	}
}

static void
remove_base(struct over *over, void (*done)(void *ctx, int status), void *ctx)
{
	over->done = done;
	over->done_ctx = ctx;
	scripted_bdev_remove(&over->base, base_gone, over);
}

/* ---- The battery's part ---- */

static int
create(const struct battery *b, struct err *err)
{
	struct over *over = over_of(b);

	add_base(over);
	return over->create(over, err);
}

static void
module_gone(void *ctx, int status)
{
	struct over *over = ctx;

	EXPECT(status == 0);
	remove_base(over, over->done, over->done_ctx);
}

static int
remove_both(const struct battery *b, void (*done)(void *ctx, int status), void *ctx,
	    struct err *err)
{
	struct over *over = over_of(b);

	over->done = done;
	over->done_ctx = ctx;
	return over->remove(over, module_gone, over, err);
}

static int
resize(const struct battery *b, uint64_t num_blocks, struct err *err)
{
	struct over *over = over_of(b);
	uint64_t now = bdev_num_blocks(bdev_find(b->name));

	return scripted_bdev_resize(&over->base, over->base.bdev.num_blocks + num_blocks - now);
}

static void
prepare(struct over *over)
{
	over->battery.ctx = over;
	over->battery.create = create;
	over->battery.remove = remove_both;
	over->battery.resize = over->resizes ? resize : NULL;
}

const struct battery *
over_battery(struct over *over)
{
	prepare(over);
	return &over->battery;
}

void
over_run(struct over *over, enum reactor_mode mode, bool real_threads)
{
	prepare(over);
	bdev_battery_run(&over->battery, mode, real_threads);
	over_base_goes(over, mode, real_threads);
}

void
over_run_all(struct over *over)
{
	for (int mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		over_run(over, (enum reactor_mode)mode, false);
		over_run(over, (enum reactor_mode)mode, true);
	}
}

/* ---- On a stage ---- */

static void
create_on_app(void *arg)
{
	struct over *over = arg;
	struct err err = ERR_NONE;

	EXPECT_SAY(over->create(over, &err) == 0, "%s", err_text(&err));
}

static void
add_base_on_app(void *arg)
{
	add_base(arg);
}

struct removal {
	struct over *over;
	atomic_bool done;
};

static void
removed(void *ctx, int status)
{
	struct removal *r = ctx;

	EXPECT(status == 0);
	atomic_store(&r->done, true);
}

static void
remove_on_app(void *arg)
{
	struct removal *r = arg;

	EXPECT(r->over->remove(r->over, removed, r, NULL) == 0);
}

static void
remove_base_on_app(void *arg)
{
	struct removal *r = arg;

	remove_base(r->over, removed, r);
}

void
over_open(struct over *over, struct env *env)
{
	prepare(over);
	env_call(env, env->app, add_base_on_app, over);
	env_call(env, env->app, create_on_app, over);
	EXPECT(env_open(env, over->battery.name, true) == 0);
}

static void
remove_module(struct over *over, struct env *env)
{
	struct removal r = {.over = over};

	env_call(env, env->app, remove_on_app, &r);
	env_wait(env, &r.done);
}

void
over_close(struct over *over, struct env *env)
{
	struct removal r = {.over = over};

	env_close(env);
	remove_module(over, env);
	if (over->pulled) {
		env_wait(env, &over->base_gone);
	} else if (over->base_there) {
		env_call(env, env->app, remove_base_on_app, &r);
		env_wait(env, &r.done);
	}
}

static void
note_base_gone(void *ctx, int status)
{
	struct over *over = ctx;

	atomic_store(&over->base_gone, true);
}

static void
pull_on_app(void *arg)
{
	struct over *over = arg;

	remove_base(over, note_base_gone, over);
}

void
over_pull(struct over *over, struct env *env)
{
	over->pulled = true;
	env_call(env, env->app, pull_on_app, over);
}

static void
kick_base(void *arg)
{
	struct bdev_channel *ch = arg;

	scripted_channel_kick(((struct stack_channel *)ch->module_ctx)->base);
}

void
over_let_go(struct over *over, struct env *env)
{
	atomic_store(&over->base.hold, false);
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		env_call(env, env->workers[i].thread, kick_base, env->workers[i].ch);
	}
}

static void
expect_there(void *arg)
{
	EXPECT(bdev_find(((struct over *)arg)->battery.name) != NULL);
}

static void
expect_not_there(void *arg)
{
	EXPECT(bdev_find(((struct over *)arg)->battery.name) == NULL);
}

static void
pull_base(struct over *over, struct env *env)
{
	struct removal r = {.over = over};
	struct load loads[ENV_WORKERS];

	memset(loads, 0, sizeof(loads));
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		loads[i].worker = &env->workers[i];
		loads[i].first_block = i * 128;
		loads[i].num_blocks = 128;
		loads[i].depth = 16;
		loads[i].count = UINT64_MAX;
		loads[i].no_data = over->battery.no_data;
		loads[i].removal_ok = true;
		load_start(&loads[i]);
	}
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		env_wait_count(env, &loads[i].completed, 20);
	}
	env_call(env, env->app, remove_base_on_app, &r);
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		env_wait(env, &loads[i].done);
		EXPECT(loads[i].removed);
		load_finish(&loads[i]);
	}
	EXPECT(!atomic_load(&r.done));
	env_close(env);
	env_wait(env, &r.done);
	env_call(env, env->app, expect_not_there, over);
}

void
over_base_goes(struct over *over, enum reactor_mode mode, bool real_threads)
{
	struct env env;

	prepare(over);
	env_start(&env, mode, real_threads);
	over_open(over, &env);
	pull_base(over, &env);
	env_call(&env, env.app, add_base_on_app, over);
	env_call(&env, env.app, expect_there, over);
	EXPECT(env_open(&env, over->battery.name, true) == 0);
	over_close(over, &env);

	env_call(&env, env.app, create_on_app, over);
	env_call(&env, env.app, expect_not_there, over);
	remove_module(over, &env);
	env_call(&env, env.app, create_on_app, over);
	env_call(&env, env.app, add_base_on_app, over);
	env_call(&env, env.app, expect_there, over);
	EXPECT(env_open(&env, over->battery.name, true) == 0);
	over_close(over, &env);
	env_stop(&env);
}
