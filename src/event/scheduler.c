/* SPDX-License-Identifier: BSD-3-Clause */
/*
 *            poke: a reactor was busy            a period without load
 *   RESTING ------------------------> TICKING ---------------------------> RESTING
 *      |                                 |
 *      +---------------> OFF <-----------+       static, or stopped; dynamic: to RESTING
 *
 * Invariants
 *  1. `awake` is made false by rest() only, while poke_msg is free; whoever makes it true sends poke_msg, or is the
 *     scheduler itself on its way to OFF. So a busy reactor pays one load for a scheduler that ticks or is off.
 *  2. A thread has at most one move under way (entry->moving); the end waits for all of them.
 *  3. Nothing is decided on figures from before a move: the loads of a period are used once.
 */
#include "event/scheduler.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "event/internal.h"

#define HOLD_PERIODS 60
/* Percent of all reactors' time below which there is no load to speak of. */
#define QUIET_PERCENT 1

struct entry {
	struct thread *thread;
	struct cpumask mask;
	struct cpumask old_mask; /* before the one that a move under way is for */
	bool *allowed; /* the reactors of mask, by index */
	uint64_t busy_ns;
	bool moving;
	unsigned hold; /* periods in which it is not moved again, after a move that failed */
	struct reactor *to; /* of the last move */
	struct thread_move move;
	void (*done)(void *ctx, int status);
	void *ctx;
};

static _Atomic bool awake = true;
static struct thread *owner; /* constant while awake is false */

static struct {
	struct scheduler_options options;
	struct entry *entries;
	unsigned entry_count;
	struct reactor *const *reactors;
	unsigned reactor_count;
	unsigned *reactor_percent;
	struct scheduler_load *loads;

	enum { OFF, RESTING, TICKING } state;
	struct msg poke_msg;
	bool poke_due; /* OFF, and poke_msg is on its way */
	struct timer timer;
	uint64_t last_ns;
	unsigned moves; /* under way */
	void (*balance)(uint64_t period_ns);
	bool stopping;
	void (*stopped)(void *ctx);
	void *stopped_ctx;
} s;

static const char *const policy_names[] = {"static", "dynamic"};

int
scheduler_policy_parse(const char *name, enum scheduler_policy *ret_policy)
{
	for (size_t i = 0; i < ARRAY_SIZE(policy_names); i++) {
		if (strcmp(name, policy_names[i]) == 0) {
			*ret_policy = (enum scheduler_policy)i;
			return 0;
		}
	}
	return -EINVAL;
}

const char *
scheduler_policy_name(enum scheduler_policy policy)
{
	return policy_names[policy];
}

/* ---- The policy ---- */

static bool
lighter(const struct scheduler_load *threads, unsigned a, unsigned b, unsigned count)
{
	return b == count || threads[a].percent < threads[b].percent;
}

/* The lightest thread that does something on a full reactor, to the emptiest reactor that has room for it. */
static bool
relieve(const struct scheduler_options *o, const struct scheduler_load *threads, unsigned thread_count,
	const unsigned *reactor_percent, unsigned reactor_count, unsigned full, unsigned *ret_thread, unsigned *ret_reactor)
{
	unsigned light = thread_count, to = reactor_count;

	for (unsigned i = 0; i < thread_count; i++) {
		if (threads[i].reactor == full && threads[i].movable && threads[i].percent > 0 &&
		    threads[i].percent < reactor_percent[full] && lighter(threads, i, light, thread_count)) {
			light = i;
		}
	}
	for (unsigned r = 0; light < thread_count && r < reactor_count; r++) {
		if (r != full && threads[light].allowed[r] &&
		    reactor_percent[r] + threads[light].percent <= o->core_limit &&
		    (to == reactor_count || reactor_percent[r] < reactor_percent[to])) {
			to = r;
		}
	}
	*ret_thread = light;
	*ret_reactor = to;
	return to < reactor_count;
}

bool
scheduler_choose(const struct scheduler_options *o, const struct scheduler_load *threads, unsigned thread_count,
		 const unsigned *reactor_percent, unsigned reactor_count, unsigned scheduling_reactor,
		 unsigned *ret_thread, unsigned *ret_reactor)
{
	for (unsigned r = 0; r < reactor_count; r++) {
		if (reactor_percent[r] > o->core_busy &&
		    relieve(o, threads, thread_count, reactor_percent, reactor_count, r, ret_thread, ret_reactor)) {
			return true;
		}
	}
	for (unsigned i = 0; i < thread_count; i++) {
		const struct scheduler_load *t = &threads[i];

		if (t->movable && t->reactor != scheduling_reactor && t->percent < o->load_limit &&
		    t->allowed[scheduling_reactor] &&
		    reactor_percent[scheduling_reactor] + t->percent <= o->core_limit) {
			*ret_thread = i;
			*ret_reactor = scheduling_reactor;
			return true;
		}
	}
	return false;
}

/* ---- Moves ---- */

static unsigned
reactor_index(const struct reactor *r)
{
	for (unsigned i = 0; i < s.reactor_count; i++) {
		if (s.reactors[i] == r) {
			return i;
		}
	}
	CHECK(!"a reactor of ours");
	return 0;
}

static void free_entries(void);

static void
stopped_if_quiet(void)
{
	if (s.stopping && s.moves == 0 && !s.poke_due) {
		s.stopping = false;
		free_entries();
		s.stopped(s.stopped_ctx);
	}
}

static void
set_allowed(struct entry *e)
{
	for (unsigned r = 0; r < s.reactor_count; r++) {
		unsigned lcore = reactor_lcore(s.reactors[r]);

		e->allowed[r] = cpumask_test(&e->mask, lcore) && !cpumask_test(&s.options.isolated, lcore);
	}
}

static void
moved(struct thread_move *move, int status)
{
	struct entry *e = CONTAINER_OF(move, struct entry, move);
	void (*done)(void *ctx, int status) = e->done;

	if (status == 0) {
		LOG_INFO(THREAD, thread_name(e->thread), "moved to reactor %u", reactor_lcore(e->to));
	} else {
		LOG_WARNING(THREAD, thread_name(e->thread), "cannot move to reactor %u: %s", reactor_lcore(e->to),
			    strerror(-status));
	}
	if (status != 0 && s.entries != NULL) {
		/* It is where it was: so is what it may do. And the scheduler does not ask for the same again each period. */
		e->mask = e->old_mask;
		e->hold = HOLD_PERIODS;
		set_allowed(e);
	}
	e->moving = false;
	e->done = NULL;
	s.moves--;
	if (done != NULL) {
		done(e->ctx, status);
	}
	stopped_if_quiet();
}

static void
move(struct entry *e, unsigned reactor)
{
	e->to = s.reactors[reactor];
	e->moving = true;
	s.moves++;
	thread_move(&e->move, e->thread, s.reactors[reactor], moved);
}

/* ---- Periods ---- */

/* Loads of the time since last_ns, in percent of it; true when there was any to speak of. */
static bool
measure(uint64_t period_ns)
{
	uint64_t total = 0;

	memset(s.reactor_percent, 0, s.reactor_count * sizeof(*s.reactor_percent));
	for (unsigned i = 0; i < s.entry_count; i++) {
		struct entry *e = &s.entries[i];
		uint64_t busy = thread_busy_ns(e->thread), used = busy - e->busy_ns;
		unsigned reactor = reactor_index(thread_reactor(e->thread));

		e->busy_ns = busy;
		total += used;
		s.loads[i] = (struct scheduler_load){
			.reactor = reactor,
			.percent = (unsigned)(MIN(used, period_ns) * 100 / period_ns),
			.movable = i > 0 && !e->moving && e->hold == 0 && cpumask_count(&e->mask) > 1 &&
				   !cpumask_test(&s.options.isolated, reactor_lcore(s.reactors[reactor])),
			.allowed = e->allowed,
		};
		s.reactor_percent[reactor] += s.loads[i].percent;
		e->hold -= e->hold > 0;
	}
	return total * 100 >= period_ns * QUIET_PERCENT;
}

static unsigned
scheduling_reactor(void)
{
	for (unsigned i = 0; i < s.reactor_count; i++) {
		if (reactor_lcore(s.reactors[i]) == s.options.scheduling_core) {
			return i;
		}
	}
	return 0;
}

static void
balance_threads(void)
{
	unsigned thread, to;

	for (unsigned n = 0; n < s.entry_count; n++) {
		struct scheduler_load *l;

		if (!scheduler_choose(&s.options, s.loads, s.entry_count, s.reactor_percent, s.reactor_count,
				      scheduling_reactor(), &thread, &to)) {
			return;
		}
		l = &s.loads[thread];
		s.reactor_percent[l->reactor] -= l->percent;
		s.reactor_percent[to] += l->percent;
		l->reactor = to;
		l->movable = false;
		s.entries[thread].old_mask = s.entries[thread].mask;
		move(&s.entries[thread], to);
	}
}

static void tick(struct timer *timer);

static void
rest(void)
{
	s.state = RESTING;
	atomic_store_explicit(&awake, false, memory_order_seq_cst);
}

static void
start_ticking(void)
{
	uint64_t now = clock_now_ns();

	for (unsigned i = 0; i < s.entry_count; i++) {
		s.entries[i].busy_ns = thread_busy_ns(s.entries[i].thread);
	}
	s.last_ns = now;
	s.state = TICKING;
	if (timer_start(&s.timer, s.options.period_us, tick) != 0) {
		rest(); /* the next poke tries again */
	}
}

static void
tick(struct timer *timer)
{
	uint64_t now = clock_now_ns(), period_ns = MAX(now - s.last_ns, UINT64_C(1));
	bool load = measure(period_ns);

	s.last_ns = now;
	if (!load) {
		rest();
		return;
	}
	balance_threads();
	if (s.balance != NULL) {
		s.balance(period_ns);
	}
	if (timer_start(&s.timer, s.options.period_us, tick) != 0) {
		rest();
	}
}

static void
poked(struct msg *msg)
{
	if (s.state == RESTING) {
		start_ticking();
	} else {
		s.poke_due = false;
		stopped_if_quiet();
	}
}

void
scheduler_poke(void)
{
	if (!atomic_load_explicit(&awake, memory_order_relaxed) &&
	    !atomic_exchange_explicit(&awake, true, memory_order_seq_cst)) {
		thread_send(owner, &s.poke_msg, poked);
	}
}

static void
switch_on(void)
{
	if (s.state != OFF) {
		return;
	}
	if (s.poke_due) {
		/* What is on its way ends the rest. */
		s.poke_due = false;
		s.state = RESTING;
	} else {
		rest();
	}
}

static void
switch_off(void)
{
	if (s.state == TICKING) {
		timer_stop(&s.timer);
	} else if (s.state == RESTING) {
		s.poke_due = atomic_exchange_explicit(&awake, true, memory_order_seq_cst);
	}
	s.state = OFF;
}

/* ---- Life ---- */

static bool
make_entries(struct thread *const *threads, unsigned count)
{
	s.entries = calloc(count, sizeof(*s.entries));
	s.loads = calloc(count, sizeof(*s.loads));
	s.reactor_percent = calloc(s.reactor_count, sizeof(*s.reactor_percent));
	if (s.entries == NULL || s.loads == NULL || s.reactor_percent == NULL) {
		return false;
	}
	for (; s.entry_count < count; s.entry_count++) {
		struct entry *e = &s.entries[s.entry_count];

		e->thread = threads[s.entry_count];
		e->allowed = calloc(s.reactor_count, sizeof(*e->allowed));
		if (e->allowed == NULL) {
			return false;
		}
		cpumask_set(&e->mask, reactor_lcore(thread_reactor(e->thread)));
		set_allowed(e);
	}
	return true;
}

static void
free_entries(void)
{
	for (unsigned i = 0; i < s.entry_count; i++) {
		free(s.entries[i].allowed);
	}
	free(s.entries);
	free(s.loads);
	free(s.reactor_percent);
	s.entries = NULL;
	s.loads = NULL;
	s.reactor_percent = NULL;
	s.entry_count = 0;
}

int
scheduler_start(struct thread *const *threads, unsigned thread_count, struct reactor *const *reactors,
		unsigned reactor_count)
{
	CHECK(thread_self() == threads[0]);
	memset(&s, 0, sizeof(s));
	owner = threads[0];
	s.reactors = reactors;
	s.reactor_count = reactor_count;
	scheduler_get_defaults(&s.options);
	if (!make_entries(threads, thread_count)) {
		free_entries();
		return -ENOMEM;
	}
	switch_on();
	return 0;
}

static void
stop_on_thread(struct msg *msg)
{
	stopped_if_quiet();
}

void
scheduler_stop(void (*done)(void *ctx), void *ctx)
{
	switch_off();
	s.stopping = true;
	s.stopped = done;
	s.stopped_ctx = ctx;
	/* Never from inside; and the message is on its way already where it is due. */
	if (!s.poke_due) {
		thread_send(owner, &s.poke_msg, stop_on_thread);
	}
}

/* ---- Options ---- */

void
scheduler_get(struct scheduler_options *ret_options)
{
	*ret_options = s.options;
}

void
scheduler_get_defaults(struct scheduler_options *ret_options)
{
	*ret_options = (struct scheduler_options){
		.policy = SCHEDULER_DYNAMIC,
		.period_us = SCHEDULER_PERIOD_US,
		.load_limit = 20,
		.core_limit = 80,
		.core_busy = 95,
		.scheduling_core = reactor_lcore(s.reactors[0]),
	};
}

static bool
has_reactor(unsigned lcore)
{
	for (unsigned r = 0; r < s.reactor_count; r++) {
		if (reactor_lcore(s.reactors[r]) == lcore) {
			return true;
		}
	}
	return false;
}

static int
check(const struct scheduler_options *o, struct err *err)
{
	unsigned lcore;

	if (o->period_us < SCHEDULER_PERIOD_MIN_US || o->period_us > POLLER_PERIOD_MAX_US) {
		return err_set(err, -EINVAL, "a period of %llu us is not between %d us and a year",
			       (unsigned long long)o->period_us, SCHEDULER_PERIOD_MIN_US);
	}
	if (o->load_limit > 100 || o->core_limit > 100 || o->core_busy > 100) {
		return err_set(err, -EINVAL, "a limit is a percentage: at most 100");
	}
	if (o->core_limit > o->core_busy) {
		return err_set(err, -EINVAL,
			       "core_limit %u is above core_busy %u: reactors would take in what they have to give away",
			       o->core_limit, o->core_busy);
	}
	if (!has_reactor(o->scheduling_core)) {
		return err_set(err, -EINVAL, "no reactor runs on core %u", o->scheduling_core);
	}
	if (cpumask_test(&o->isolated, o->scheduling_core)) {
		return err_set(err, -EINVAL, "the scheduling core %u cannot be isolated", o->scheduling_core);
	}
	CPUMASK_FOREACH (lcore, &o->isolated) {
		if (!has_reactor(lcore)) {
			return err_set(err, -EINVAL, "core %u cannot be isolated: no reactor runs on it", lcore);
		}
	}
	return 0;
}

int
scheduler_set(const struct scheduler_options *options, struct err *err)
{
	int rc = check(options, err);

	if (rc != 0) {
		return rc;
	}
	/* A period under way is given up for the new one. */
	switch_off();
	s.options = *options;
	for (unsigned i = 0; i < s.entry_count; i++) {
		set_allowed(&s.entries[i]);
	}
	if (options->policy == SCHEDULER_DYNAMIC) {
		switch_on();
	}
	return 0;
}

void
scheduler_set_balancer(void (*balance)(uint64_t period_ns))
{
	s.balance = balance;
}

/* ---- Masks ---- */

static struct entry *
entry_of(const struct thread *t)
{
	for (unsigned i = 0; i < s.entry_count; i++) {
		if (s.entries[i].thread == t) {
			return &s.entries[i];
		}
	}
	CHECK(!"a thread of ours");
	return NULL;
}

void
scheduler_get_cpumask(const struct thread *t, struct cpumask *ret_mask)
{
	*ret_mask = s.entry_count == 0 ? (struct cpumask){0} : entry_of(t)->mask;
}

/* The allowed reactor that runs the fewest threads; reactor_count: none. */
static unsigned
emptiest(const struct cpumask *mask)
{
	unsigned best = s.reactor_count, best_threads = 0;

	for (unsigned r = 0; r < s.reactor_count; r++) {
		unsigned threads = 0;

		for (unsigned i = 0; i < s.entry_count; i++) {
			threads += thread_reactor(s.entries[i].thread) == s.reactors[r];
		}
		if (cpumask_test(mask, reactor_lcore(s.reactors[r])) &&
		    (best == s.reactor_count || threads < best_threads)) {
			best = r;
			best_threads = threads;
		}
	}
	return best;
}

int
scheduler_check_cpumask(const struct thread *t, const struct cpumask *mask, struct err *err)
{
	const struct entry *e = entry_of(t);
	unsigned now = reactor_lcore(thread_reactor(t));

	if (emptiest(mask) == s.reactor_count) {
		return err_set(err, -EINVAL, "no reactor runs on a CPU of that mask");
	}
	if (e == &s.entries[0] && !cpumask_test(mask, now)) {
		return err_set(err, -EINVAL, "%s stays on reactor %u", thread_name(t), now);
	}
	if (e->moving || s.stopping) {
		return err_set(err, -EBUSY, "%s is being moved", thread_name(t));
	}
	return 0;
}

int
scheduler_set_cpumask(struct thread *t, const struct cpumask *mask, void (*done)(void *ctx, int status), void *ctx,
		      struct err *err)
{
	struct entry *e = entry_of(t);
	unsigned to = emptiest(mask);
	bool stays = cpumask_test(mask, reactor_lcore(thread_reactor(t)));
	int rc = scheduler_check_cpumask(t, mask, err);

	if (rc != 0) {
		return rc;
	}
	e->old_mask = e->mask;
	e->mask = *mask;
	set_allowed(e);
	if (stays) {
		done(ctx, 0);
		return 0;
	}
	e->done = done;
	e->ctx = ctx;
	move(e, to);
	return 0;
}
