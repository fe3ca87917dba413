/* SPDX-License-Identifier: BSD-3-Clause */
/* Devices and channels: references, errors, visits while channels and threads come and go. In every mode. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "event/channel.h"
#include "testkit/hand.h"

#define THREADS 8
#define WAIT_NS (60 * NS_PER_S)

struct thing {
	struct device dev;
	int error; /* of the next create */
	_Atomic int created, destroyed;
	struct thing *below;
};

struct thing_channel {
	struct channel ch;
	struct channel *below;
	int visits;
	char zeroes[100];
};

static int
create(struct device *dev, struct channel *ch)
{
	struct thing *thing = CONTAINER_OF(dev, struct thing, dev);
	struct thing_channel *tc = CONTAINER_OF(ch, struct thing_channel, ch);

	CHECK(ch->thread == thread_self() && ch->dev == dev);
	for (size_t i = 0; i < sizeof(tc->zeroes); i++) {
		CHECK(tc->zeroes[i] == 0);
	}
	memset(tc->zeroes, 0xff, sizeof(tc->zeroes));
	if (thing->error != 0) {
		return thing->error;
	}
	if (thing->below != NULL) {
		int rc = -EIO;

		tc->below = channel_get(&thing->below->dev, &rc);
		if (tc->below == NULL) {
			return rc;
		}
	}
	atomic_fetch_add(&thing->created, 1);
	return 0;
}

static void
destroy(struct device *dev, struct channel *ch)
{
	CHECK(ch->thread == thread_self());
	atomic_fetch_add(&CONTAINER_OF(dev, struct thing, dev)->destroyed, 1);
	channel_put(CONTAINER_OF(ch, struct thing_channel, ch)->below);
}

static const struct device_ops thing_ops = {.channel_create = create, .channel_destroy = destroy};

struct fixture {
	enum reactor_mode mode;
	struct reactor *r;
	struct thread *t[THREADS];
	struct thing thing, below;
	struct channel *ch[THREADS];
};

static struct fixture fx;

static int
setup(void **state)
{
	memset(&fx, 0, sizeof(fx));
	fx.mode = *(const enum reactor_mode *)*state;
	fx.r = hand_reactor(fx.mode);
	for (int i = 0; i < THREADS; i++) {
		fx.t[i] = thread_create("t", fx.r);
	}
	device_register(&fx.thing.dev, "thing", &thing_ops, sizeof(struct thing_channel));
	device_register(&fx.below.dev, "below", &thing_ops, sizeof(struct thing_channel));
	return 0;
}

static int
teardown(void **state)
{
	hand_free(fx.r);
	device_unregister(&fx.thing.dev);
	device_unregister(&fx.below.dev);
	return fx.thing.created == fx.thing.destroyed && fx.below.created == fx.below.destroyed ? 0 : -1;
}

static void
get(void *ctx)
{
	struct channel **ch = ctx;

	*ch = channel_get(&fx.thing.dev, NULL);
	assert_non_null(*ch);
}

static void
put(void *ctx)
{
	channel_put(ctx);
}

static void
channel_is_shared_on_its_thread(void **state)
{
	struct channel *a, *b, *c;

	hand_call(fx.t[0], get, &a);
	hand_call(fx.t[0], get, &b);
	hand_call(fx.t[1], get, &c);
	assert_ptr_equal(a, b);
	assert_ptr_not_equal(a, c);
	assert_int_equal((uintptr_t)a % CACHE_LINE_BYTES, 0);
	assert_int_equal(fx.thing.created, 2);
	hand_call(fx.t[0], put, a);
	assert_int_equal(fx.thing.destroyed, 0);
	hand_call(fx.t[0], put, b);
	assert_int_equal(fx.thing.destroyed, 1);
	hand_call(fx.t[1], put, c);
	hand_call(fx.t[1], put, NULL);
	assert_int_equal(fx.thing.destroyed, 2);
}

static void
get_fails(void *ctx)
{
	int rc = 0;

	assert_null(channel_get(&fx.thing.dev, &rc));
	assert_int_equal(rc, *(int *)ctx);
	assert_null(channel_get(&fx.thing.dev, NULL));
}

static void
create_error_reaches_the_caller(void **state)
{
	int error = -EMFILE;
	struct channel *ch;

	fx.thing.error = error;
	hand_call(fx.t[0], get_fails, &error);
	assert_int_equal(fx.thing.created, 0);
	/* From further down. */
	fx.thing.error = 0;
	fx.thing.below = &fx.below;
	fx.below.error = error;
	hand_call(fx.t[0], get_fails, &error);
	/* And nothing of it stays. */
	fx.below.error = 0;
	hand_call(fx.t[0], get, &ch);
	hand_call(fx.t[0], put, ch);
}

static int seen;

static void
see(void *ctx, const struct channel *ch)
{
	assert_true(ch->dev == &fx.thing.dev || ch->dev == &fx.below.dev);
	assert_ptr_equal(ch->thread, thread_self());
	seen++;
}

static void
list_channels(void *ctx)
{
	seen = 0;
	channel_for_each_of_thread(see, NULL);
	assert_int_equal(seen, *(int *)ctx);
}

static void
thread_lists_its_channels(void **state)
{
	struct channel *ch;
	int two = 2, none = 0;

	fx.thing.below = &fx.below;
	hand_call(fx.t[0], get, &ch);
	hand_call(fx.t[0], list_channels, &two);
	hand_call(fx.t[1], list_channels, &none);
	hand_call(fx.t[0], put, ch);
	hand_call(fx.t[0], list_channels, &none);
}

/* ---- Visits ---- */

static int visits, finished;

static void
visit(void *ctx, struct channel *ch)
{
	CHECK(ch->thread == thread_self());
	CONTAINER_OF(ch, struct thing_channel, ch)->visits++;
	visits++;
}

static void
visits_done(void *ctx)
{
	CHECK(thread_self() == ctx);
	finished++;
}

static void
visit_all(void *ctx)
{
	assert_int_equal(device_for_each_channel(&fx.thing.dev, visit, visits_done, thread_self()), 0);
	/* Never from inside. */
	assert_int_equal(finished, 0);
}

static void
every_channel_is_visited_once(void **state)
{
	visits = finished = 0;
	hand_call(fx.t[0], visit_all, NULL); /* there is none */
	assert_int_equal(visits, 0);
	assert_int_equal(finished, 1);
	for (int i = 0; i < THREADS; i++) {
		hand_call(fx.t[i], get, &fx.ch[i]);
		hand_call(fx.t[i], get, &fx.ch[i]);
	}
	finished = 0;
	hand_call(fx.t[3], visit_all, NULL);
	assert_int_equal(visits, THREADS);
	assert_int_equal(finished, 1);
	for (int i = 0; i < THREADS; i++) {
		assert_int_equal(CONTAINER_OF(fx.ch[i], struct thing_channel, ch)->visits, 1);
		hand_call(fx.t[i], put, fx.ch[i]);
		hand_call(fx.t[i], put, fx.ch[i]);
	}
}

static void
put_and_exit(struct msg *msg)
{
	for (int i = 0; i < THREADS; i++) {
		if (fx.t[i] == thread_self()) {
			channel_put(fx.ch[i]);
		}
	}
	thread_exit();
}

/* A visit is on its way while channels go, with their threads. */
static void
visit_outlives_channels_and_threads(void **state)
{
	struct msg msgs[THREADS];

	for (int i = 0; i < THREADS; i++) {
		hand_call(fx.t[i], get, &fx.ch[i]);
	}
	visits = finished = 0;
	/* In one turn the visit starts; the others put and exit before it can reach all of them. */
	for (int i = THREADS - 1; i > 0; i--) {
		thread_send(fx.t[i], &msgs[i], put_and_exit);
	}
	hand_call(fx.t[0], visit_all, NULL);
	assert_int_equal(finished, 1);
	assert_in_range(visits, 1, THREADS);
	hand_call(fx.t[0], put, fx.ch[0]);
}

static void
start_visit_and_exit(void *ctx)
{
	visit_all(ctx);
	thread_exit();
}

static void
visitor_is_answered_before_it_exits(void **state)
{
	hand_call(fx.t[1], get, &fx.ch[1]);
	visits = finished = 0;
	hand_call(fx.t[0], start_visit_and_exit, NULL);
	assert_int_equal(visits, 1);
	assert_int_equal(finished, 1);
	hand_call(fx.t[1], put, fx.ch[1]);
}

/* ---- Visits of the channels of several devices ---- */

#define MEMBERS 3

static struct channel_set together;
static struct thing member[MEMBERS];
static struct channel *of_member[THREADS][MEMBERS];

static void
get_members(void *ctx)
{
	struct channel **ch = ctx;

	for (int i = 0; i < MEMBERS; i++) {
		ch[i] = channel_get(&member[i].dev, NULL);
	}
}

static void
put_members(void *ctx)
{
	struct channel **ch = ctx;

	for (int i = 0; i < MEMBERS; i++) {
		channel_put(ch[i]);
	}
}

/* Puts what it visits. */
static void
visit_and_put(void *ctx, struct channel *ch)
{
	int i = (int)(CONTAINER_OF(ch->dev, struct thing, dev) - member);

	for (int t = 0; t < THREADS; t++) {
		if (of_member[t][i] == ch) {
			of_member[t][i] = NULL;
		}
	}
	visit(ctx, ch);
	channel_put(ch);
}

static void
visit_set(void *ctx)
{
	assert_int_equal(channel_set_for_each(&together, ctx, visits_done, thread_self()), 0);
	assert_int_equal(finished, 0);
}

static void
a_set_is_visited_across_its_devices(void **state)
{
	channel_set_init(&together);
	memset(member, 0, sizeof(member));
	visits = finished = 0;
	for (int i = 0; i < MEMBERS; i++) {
		device_register_in(&member[i].dev, "member", &thing_ops, sizeof(struct thing_channel), &together);
	}
	hand_call(fx.t[2], visit_set, visit); /* there is none */
	assert_int_equal(visits, 0);
	for (int t = 0; t < THREADS; t++) {
		hand_call(fx.t[t], get_members, of_member[t]);
	}
	finished = 0;
	hand_call(fx.t[2], visit_set, visit);
	assert_int_equal(visits, THREADS * MEMBERS);
	assert_int_equal(finished, 1);
	/* A device that goes is visited no more; the others are. */
	for (int t = 0; t < THREADS; t++) {
		assert_int_equal(CONTAINER_OF(of_member[t][1], struct thing_channel, ch)->visits, 1);
		hand_call(fx.t[t], put, of_member[t][1]);
		of_member[t][1] = NULL;
	}
	device_unregister(&member[1].dev);
	visits = finished = 0;
	hand_call(fx.t[2], visit_set, visit_and_put);
	assert_int_equal(visits, THREADS * (MEMBERS - 1));
	assert_int_equal(member[0].destroyed + member[2].destroyed, visits);
	for (int t = 0; t < THREADS; t++) {
		hand_call(fx.t[t], put_members, of_member[t]);
	}
	device_unregister(&member[0].dev);
	device_unregister(&member[2].dev);
}

/* ---- With system threads ---- */

struct worker {
	struct msg msg;
	struct thread *t;
	struct thing *thing;
	struct channel *ch;
	int rounds;
	int visits_left;
	_Atomic int *running;
};

static void
come_and_go(struct msg *msg)
{
	struct worker *w = CONTAINER_OF(msg, struct worker, msg);

	if (w->ch == NULL) {
		w->ch = channel_get(&w->thing->dev, NULL);
		CHECK(w->ch != NULL);
	} else {
		channel_put(w->ch);
		w->ch = NULL;
		w->rounds--;
	}
	if (w->rounds > 0) {
		thread_send(w->t, msg, come_and_go);
	} else {
		thread_exit();
		atomic_fetch_sub(w->running, 1);
	}
}

static void
visit_quietly(void *ctx, struct channel *ch)
{
	CHECK(ch->thread == thread_self());
	CONTAINER_OF(ch, struct thing_channel, ch)->visits++;
}

static void visit_again(void *ctx);

static void
visit_start(struct msg *msg)
{
	visit_again(CONTAINER_OF(msg, struct worker, msg));
}

static void
visit_again(void *ctx)
{
	struct worker *w = ctx;

	CHECK(thread_self() == w->t);
	if (w->visits_left-- > 0) {
		CHECK(device_for_each_channel(&w->thing->dev, visit_quietly, visit_again, w) == 0);
	} else {
		thread_exit();
		atomic_fetch_sub(w->running, 1);
	}
}

static void
visits_on_many_system_threads(void **state)
{
	struct reactor *r[2] = {hand_reactor(fx.mode), hand_reactor(fx.mode)};
	struct worker w[6] = {0};
	_Atomic int running = 6;
	uint64_t end = clock_now_ns() + WAIT_NS;

	for (int i = 0; i < 6; i++) {
		w[i].t = thread_create("w", r[i % 2]);
		w[i].thing = &fx.thing;
		w[i].rounds = 300;
		w[i].visits_left = 100;
		w[i].running = &running;
		assert_non_null(w[i].t);
	}
	for (int i = 0; i < 2; i++) {
		assert_int_equal(reactor_start(r[i], NULL), 0);
	}
	for (int i = 0; i < 6; i++) {
		thread_send(w[i].t, &w[i].msg, i < 4 ? come_and_go : visit_start);
	}
	while (atomic_load(&running) > 0 && clock_now_ns() < end) {
		nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
	}
	assert_int_equal(atomic_load(&running), 0);
	for (int i = 0; i < 2; i++) {
		reactor_stop(r[i]);
	}
	for (int i = 0; i < 2; i++) {
		reactor_join(r[i]);
	}
	for (int i = 0; i < 2; i++) {
		hand_free(r[i]);
	}
	assert_int_equal(fx.thing.created, fx.thing.destroyed);
	assert_true(fx.thing.created >= 1200);
}

#define IN_MODES(f) HAND_IN_MODES(f, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		IN_MODES(channel_is_shared_on_its_thread),
		IN_MODES(create_error_reaches_the_caller),
		IN_MODES(thread_lists_its_channels),
		IN_MODES(every_channel_is_visited_once),
		IN_MODES(a_set_is_visited_across_its_devices),
		IN_MODES(visit_outlives_channels_and_threads),
		IN_MODES(visitor_is_answered_before_it_exits),
		IN_MODES(visits_on_many_system_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
