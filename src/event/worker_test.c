/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <pthread.h>

#include <cmocka.h>

#include "base/check.h"
#include "event/reactor.h"
#include "event/worker.h"

#define JOBS 100

struct test_job {
	struct worker_job job;
	int number;
};

static struct test_job jobs[JOBS];
static struct worker *worker;
static struct thread *thread;
static pthread_t main_thread;
static int ran, finished;

static void
job_run(struct worker_job *job)
{
	CHECK(!pthread_equal(pthread_self(), main_thread));
	CHECK(CONTAINER_OF(job, struct test_job, job)->number == ran);
	ran++;
}

static void
job_finished(struct worker_job *job)
{
	assert_ptr_equal(thread_self(), thread);
	assert_int_equal(CONTAINER_OF(job, struct test_job, job)->number, finished);
	finished++;
}

static void
give(struct msg *msg)
{
	for (int i = 0; i < JOBS; i++) {
		jobs[i].number = i;
		worker_submit(worker, &jobs[i].job, job_run, job_finished);
	}
}

static void
end(struct msg *msg)
{
	thread_exit();
}

static void
test_order(void **state)
{
	struct reactor *r = reactor_create(0, -1, REACTOR_INTERRUPT, NULL);
	struct msg msg = {0};

	main_thread = pthread_self();
	worker = worker_create("test", NULL);
	assert_non_null(worker);
	thread = thread_create("t", r);
	thread_send(thread, &msg, give);
	for (int i = 0; i < 60000 && finished < JOBS; i++) {
		reactor_poll_wait(r, 1000);
	}
	assert_int_equal(finished, JOBS);
	/* What is left runs before the worker ends. */
	finished = ran = 0;
	thread_send(thread, &msg, give);
	reactor_poll_once(r);
	worker_free(worker);
	assert_int_equal(ran, JOBS);
	for (int i = 0; i < 60000 && finished < JOBS; i++) {
		reactor_poll_wait(r, 1000);
	}
	assert_int_equal(finished, JOBS);
	thread_send(thread, &msg, end);
	reactor_poll_once(r);
	reactor_free(r);
}

/* As many jobs run at once as the pool has threads: each waits for all the others. */
#define POOL 4

static pthread_barrier_t together;

static void
pool_run(struct worker_job *job)
{
	pthread_barrier_wait(&together);
}

static void
pool_finished(struct worker_job *job)
{
	finished++;
}

static void
give_pool(struct msg *msg)
{
	for (int i = 0; i < 2 * POOL; i++) {
		worker_submit(worker, &jobs[i].job, pool_run, pool_finished);
	}
}

static void
test_pool(void **state)
{
	struct reactor *r = reactor_create(0, -1, REACTOR_INTERRUPT, NULL);
	struct msg msg = {0};

	pthread_barrier_init(&together, NULL, POOL);
	worker = worker_create_pool("test", POOL, NULL);
	assert_non_null(worker);
	thread = thread_create("t", r);
	finished = 0;
	thread_send(thread, &msg, give_pool);
	for (int i = 0; i < 60000 && finished < 2 * POOL; i++) {
		reactor_poll_wait(r, 1000);
	}
	assert_int_equal(finished, 2 * POOL);
	worker_free(worker);
	thread_send(thread, &msg, end);
	reactor_poll_once(r);
	reactor_free(r);
	pthread_barrier_destroy(&together);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_order), cmocka_unit_test(test_pool)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
