/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/blob_env.h"

#include <string.h>
#include <unistd.h>

/* ---- Threads, waiting ---- */

void
blob_env_start(struct blob_env *env, enum reactor_mode mode, bool real_threads)
{
	memset(env, 0, sizeof(*env));
	trio_start(&env->trio, mode, real_threads);
	env->real_threads = real_threads;
	env->reactors = env->trio.reactors;
	env->app = env->trio.app;
	for (unsigned i = 0; i < TRIO_WORKERS; i++) {
		env->workers[i].env = env;
		env->workers[i].thread = env->trio.workers[i];
	}
}

void
blob_env_stop(struct blob_env *env)
{
	EXPECT_SAY(env->store == NULL, "a store is open");
	trio_stop(&env->trio);
}

void
blob_env_wait(struct blob_env *env, atomic_bool *flag)
{
	trio_wait(&env->trio, flag);
}

void
blob_env_wait_count(struct blob_env *env, atomic_uint *count, unsigned at_least)
{
	trio_wait_count(&env->trio, count, at_least);
}

void
blob_env_call(struct blob_env *env, struct thread *t, void (*fn)(void *arg), void *arg)
{
	trio_call(&env->trio, t, fn, arg);
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
