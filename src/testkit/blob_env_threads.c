/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/blob_env.h"

#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"

/* ---- Waiting ---- */

static void
step(struct blob_env *env)
{
	if (env->real_threads) {
		usleep(20);
	} else {
		reactor_poll_wait(env->reactors[0], 1000);
	}
}

void
blob_env_wait(struct blob_env *env, atomic_bool *flag)
{
	uint64_t end_ns = clock_now_ns() + BLOB_ENV_TIMEOUT_NS;

	while (!atomic_load(flag)) {
		EXPECT_SAY(clock_now_ns() < end_ns, "nothing came");
		step(env);
	}
}

void
blob_env_wait_count(struct blob_env *env, atomic_uint *count, unsigned at_least)
{
	uint64_t end_ns = clock_now_ns() + BLOB_ENV_TIMEOUT_NS;

	while (atomic_load(count) < at_least) {
		EXPECT_SAY(clock_now_ns() < end_ns, "%u of %u came", atomic_load(count), at_least);
		step(env);
	}
}

void
blob_env_linger(struct blob_env *env, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		if (env->real_threads) {
			usleep(1000);
		} else {
			reactor_poll_once(env->reactors[0]);
		}
	}
}

struct call {
	struct msg msg;
	void (*fn)(void *arg);
	void *arg;
	atomic_bool done;
};

static void
called(struct msg *msg)
{
	struct call *call = CONTAINER_OF(msg, struct call, msg);

	call->fn(call->arg);
	atomic_store(&call->done, true);
}

void
blob_env_call(struct blob_env *env, struct thread *t, void (*fn)(void *arg), void *arg)
{
	struct call call = {.fn = fn, .arg = arg};

	thread_send(t, &call.msg, called);
	blob_env_wait(env, &call.done);
}

/* ---- Threads ---- */

void
blob_env_start(struct blob_env *env, enum reactor_mode mode, bool real_threads)
{
	static const char *const names[BLOB_ENV_WORKERS] = {"io0", "io1"};
	struct err err = ERR_NONE;

	memset(env, 0, sizeof(*env));
	env->real_threads = real_threads;
	env->reactor_count = real_threads ? 1 + BLOB_ENV_WORKERS : 1;
	for (unsigned i = 0; i < env->reactor_count; i++) {
		env->reactors[i] = reactor_create(i, -1, mode, &err);
		EXPECT_SAY(env->reactors[i] != NULL, "%s", err_text(&err));
	}
	env->app = thread_create("app", env->reactors[0]);
	for (unsigned i = 0; i < BLOB_ENV_WORKERS; i++) {
		env->workers[i].env = env;
		env->workers[i].thread = thread_create(names[i], env->reactors[real_threads ? 1 + i : 0]);
	}
	for (unsigned i = 0; real_threads && i < env->reactor_count; i++) {
		EXPECT_SAY(reactor_start(env->reactors[i], &err) == 0, "%s", err_text(&err));
	}
}

static void
end_thread(void *arg)
{
	thread_exit();
}

static void
count_thread(void *ctx, struct thread *t)
{
	++*(unsigned *)ctx;
}

static void
wait_threads_gone(struct blob_env *env, struct reactor *r)
{
	uint64_t end_ns = clock_now_ns() + BLOB_ENV_TIMEOUT_NS;
	unsigned count;

	for (;;) {
		count = 0;
		reactor_for_each_thread(r, count_thread, &count);
		if (count == 0) {
			return;
		}
		EXPECT(clock_now_ns() < end_ns);
		step(env);
	}
}

void
blob_env_stop(struct blob_env *env)
{
	EXPECT_SAY(env->store == NULL, "a store is open");
	for (unsigned i = 0; i < BLOB_ENV_WORKERS; i++) {
		blob_env_call(env, env->workers[i].thread, end_thread, NULL);
	}
	blob_env_call(env, env->app, end_thread, NULL);
	for (unsigned i = 0; i < env->reactor_count; i++) {
		wait_threads_gone(env, env->reactors[i]);
		if (env->real_threads) {
			reactor_stop(env->reactors[i]);
			reactor_join(env->reactors[i]);
		}
		reactor_free(env->reactors[i]);
	}
}
