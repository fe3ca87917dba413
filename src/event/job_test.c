/* SPDX-License-Identifier: BSD-3-Clause */
/* Jobs and the notices about them, with time by hand. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "event/job.h"
#include "event/notice.h"
#include "testkit/hand.h"

static struct reactor *reactor;
static struct thread *thread;
static struct notice_watcher watcher, other;
static char heard[4096];
static unsigned cancels;
static struct job *job;
static struct job_info info;

static void
hear(struct notice_watcher *w, const struct notice *n)
{
	size_t len = strlen(heard);

	len += (size_t)snprintf(heard + len, sizeof(heard) - len, "%s", n->type);
	for (unsigned i = 0; i < n->count; i++) {
		const struct notice_field *f = &n->fields[i];

		if (f->text != NULL) {
			len += (size_t)snprintf(heard + len, sizeof(heard) - len, " %s=%s", f->key, f->text);
		} else {
			len += (size_t)snprintf(heard + len, sizeof(heard) - len, " %s=%llu", f->key,
						(unsigned long long)f->number);
		}
		assert_true(len < sizeof(heard));
	}
	snprintf(heard + len, sizeof(heard) - len, ";");
}

static int
setup(void **state)
{
	hand_clock_start();
	reactor = hand_reactor(REACTOR_ADAPTIVE);
	thread = thread_create("app", reactor);
	notice_watch(&watcher, hear);
	heard[0] = '\0';
	cancels = 0;
	return 0;
}

static int
teardown(void **state)
{
	notice_unwatch(&watcher);
	/* Whatever was kept is too old from now on. */
	hand_advance(reactor, JOB_KEPT_S * UINT64_C(1000000) + 1);
	assert_false(job_find(UINT64_MAX, &info));
	hand_free(reactor); /* fails if a timer were left */
	hand_clock_stop();
	return 0;
}

static void
start(void *cancel)
{
	job = job_start(&(struct job_options){.kind = "raid_rebuild", .object = "r", .unit = "blocks", .text = "rebuilds r",
					      .total = 100, .cancel = (void (*)(void *))(uintptr_t)cancel});
	assert_non_null(job);
}

static void
end(void *status)
{
	job_end(job, *(int *)status, *(int *)status == -EIO ? "the disk is gone" : NULL);
}

static void
cancel_at_once(void *ctx)
{
	cancels++;
	job_end(job, -ECANCELED, NULL);
}

static void
cancel_later(void *ctx)
{
	cancels++;
}

static void
count_one(void *ctx, const struct job_info *i)
{
	unsigned *count = ctx;

	(*count)++;
	info = *i;
}

static unsigned
count(void)
{
	unsigned n = 0;

	job_for_each(count_one, &n);
	return n;
}

/* The numbers of ids go on from test to test: they are cut out of what was heard. */
static const char *
heard_without_ids(void)
{
	char *at;

	while ((at = strstr(heard, " job=")) != NULL) {
		size_t len = 5 + strspn(at + 5, "0123456789");

		memmove(at, at + len, strlen(at + len) + 1);
	}
	return heard;
}

static void
test_progress(void **state)
{
	hand_call(thread, start, NULL);
	job_progress(job, 30);
	job_progress(job, 40);
	hand_advance(reactor, 1000000);
	hand_advance(reactor, 1000000); /* nothing moved: nothing is said */
	job_progress(job, 50);
	hand_advance(reactor, 1000000);
	assert_int_equal(count(), 1);
	assert_int_equal(info.done, 50);
	assert_int_equal(info.total, 100);
	assert_int_equal(info.state, JOB_RUNNING);
	assert_false(info.cancellable);
	assert_int_equal(info.elapsed_ns, 3 * NS_PER_S);
	assert_string_equal(info.text, "rebuilds r");
	hand_call(thread, end, &(int){0});
	assert_string_equal(heard_without_ids(),
			    "job_started name=r kind=raid_rebuild unit=blocks done=0 total=100 state=running;"
			    "job_progress name=r kind=raid_rebuild unit=blocks done=40 total=100 state=running;"
			    "job_progress name=r kind=raid_rebuild unit=blocks done=50 total=100 state=running;"
			    "job_ended name=r kind=raid_rebuild unit=blocks done=100 total=100 state=done;");
	hand_advance(reactor, 10000000);
	assert_int_equal(count(), 1);
	assert_int_equal(info.elapsed_ns, 3 * NS_PER_S); /* it stands still */
}

static void
test_failure(void **state)
{
	hand_call(thread, start, NULL);
	hand_call(thread, end, &(int){-EIO});
	assert_int_equal(count(), 1);
	assert_int_equal(info.state, JOB_FAILED);
	assert_int_equal(info.status, -EIO);
	assert_string_equal(info.error, "the disk is gone");
	assert_non_null(strstr(heard, "state=failed error=the disk is gone;"));
	hand_call(thread, start, NULL);
	hand_call(thread, end, &(int){-ENOMEM});
	assert_int_equal(count(), 2);
	assert_string_equal(info.error, strerror(ENOMEM));
}

static void
cancel(void *rc)
{
	*(int *)rc = job_cancel(info.id);
}

static int
cancelled(void)
{
	int rc = 1;

	hand_call(thread, cancel, &rc);
	return rc;
}

static void
test_cancel(void **state)
{
	hand_call(thread, start, NULL);
	count();
	assert_int_equal(cancelled(), -ENOTSUP);
	hand_call(thread, end, &(int){0});
	assert_int_equal(cancelled(), -EALREADY);

	hand_call(thread, start, (void *)(uintptr_t)cancel_later);
	count();
	assert_true(info.cancellable);
	assert_int_equal(cancelled(), 0);
	assert_int_equal(cancelled(), 0);
	assert_int_equal(cancels, 1);
	count();
	assert_int_equal(info.state, JOB_CANCELLING);
	hand_call(thread, end, &(int){-ECANCELED});
	count();
	assert_int_equal(info.state, JOB_CANCELLED);
	assert_string_equal(info.error, "");

	hand_call(thread, start, (void *)(uintptr_t)cancel_at_once);
	count();
	assert_int_equal(cancelled(), 0);
	assert_int_equal(cancels, 2);
	assert_true(job_find(info.id, &info));
	assert_int_equal(info.state, JOB_CANCELLED);
	info.id += 1000;
	assert_int_equal(cancelled(), -ENOENT);
}

/* Ended ones are forgotten, those under way never. */
static void
test_bounds(void **state)
{
	struct job *first;
	uint64_t first_id;

	hand_call(thread, start, NULL);
	first = job;
	count();
	first_id = info.id;
	for (int i = 0; i < JOB_KEPT_MAX + 5; i++) {
		heard[0] = '\0';
		hand_call(thread, start, NULL);
		hand_call(thread, end, &(int){0});
		hand_advance(reactor, 10);
	}
	assert_int_equal(count(), JOB_KEPT_MAX + 1);
	assert_true(job_find(first_id, &info));
	assert_false(job_find(first_id + 5, &info)); /* the fifth after it */
	assert_true(job_find(first_id + 6, &info));
	hand_advance(reactor, JOB_KEPT_S * UINT64_C(1000000));
	assert_int_equal(count(), 1);
	job = first;
	hand_call(thread, end, &(int){0});
	/* No memory: no job, and nobody minds. */
	job_progress(NULL, 1);
	job_set_total(NULL, 1);
	job_end(NULL, 0, NULL);
}

static void
leave(struct notice_watcher *w, const struct notice *n)
{
	notice_unwatch(w);
	hear(w, n);
}

static void
test_watchers(void **state)
{
	notice_unwatch(&other); /* never watched */
	notice_watch(&other, leave);
	notice_send("one", NOTICE_TEXT("name", "a"));
	notice_send("two", NOTICE_TEXT("name", "a"), NOTICE_NUMBER("n", 7));
	assert_string_equal(heard, "one name=a;one name=a;two name=a n=7;");
	assert_true(notice_watched());
	notice_unwatch(&watcher);
	assert_false(notice_watched());
	notice_send("three", NOTICE_TEXT("name", "a"));
	assert_null(strstr(heard, "three"));
	notice_watch(&watcher, hear);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_progress, setup, teardown),
		cmocka_unit_test_setup_teardown(test_failure, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cancel, setup, teardown),
		cmocka_unit_test_setup_teardown(test_bounds, setup, teardown),
		cmocka_unit_test_setup_teardown(test_watchers, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
