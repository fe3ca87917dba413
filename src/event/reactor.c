/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The reactor's loop. A round: threads with messages, threads with active pollers, due timers; then
 * events are fetched from epoll, without waiting every REACTOR_EPOLL_NS while something is active, and
 * waiting when nothing is (reactor_wait).
 *
 * What others may leave for a reactor: threads with messages (ready), threads that were moved to it (arrivals), another
 * mode, an order to stop. Whoever leaves something looks at `sleeping` afterwards (reactor_wake).
 *
 * Rejected: one inbox per reactor instead of per thread (a thread could not move), nested epoll (two system
 * calls a wake-up), a timerfd (epoll_pwait2 takes nanoseconds).
 */
#include "event/reactor.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "event/internal.h"
#include "event/scheduler.h"

/* Fruitless rounds between two looks at the clock. */
#define REACTOR_IDLE_ROUNDS 8
/* Sleeps whose CPU time is measured: one of so many. And a new sample's weight in what was learnt. */
#define SLEEP_CPU_EVERY 16
#define SLEEP_LEARN 8
/* At its start a reactor sleeps so often, for so long, to see what that costs here. */
#define SLEEP_TRIALS 7
#define SLEEP_TRIAL_NS 50000

__thread struct reactor *current_reactor;

static const char *const mode_names[] = {"poll", "interrupt", "adaptive"};

int
reactor_mode_parse(const char *name, enum reactor_mode *ret_mode)
{
	for (size_t i = 0; i < ARRAY_SIZE(mode_names); i++) {
		if (strcmp(name, mode_names[i]) == 0) {
			*ret_mode = (enum reactor_mode)i;
			return 0;
		}
	}
	return -EINVAL;
}

const char *
reactor_mode_name(enum reactor_mode mode)
{
	return mode_names[mode];
}

/* ---- What a sleep costs ---- */

static uint64_t
thread_cpu_ns(void)
{
	struct timespec ts;

	return clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts) == 0
		       ? (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec
		       : 0;
}

static void
learn(uint64_t *value, uint64_t sample)
{
	int64_t change = (int64_t)MIN(sample, REACTOR_SLEEP_MAX_NS) - (int64_t)*value;

	*value = (uint64_t)((int64_t)*value + change / SLEEP_LEARN);
}

static void
sleep_cost_sum(struct sleep_cost *c)
{
	/* Who wakes an idle CPU pays, too: half of the time that it takes, where that is long (virtual machines). */
	atomic_store_explicit(&c->total_ns, c->latency_ns + c->cpu_ns + MAX(c->latency_ns / 2, REACTOR_KICK_NS),
			      memory_order_relaxed);
}

static void
sleep_cost_init(struct sleep_cost *c)
{
	c->latency_ns = c->cpu_ns = (REACTOR_SLEEP_NS - REACTOR_KICK_NS) / 2;
	sleep_cost_sum(c);
}

static int
by_size(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/*
 * Descriptors do not say when they became readable, so a reactor that gets no messages would never find out how late it
 * wakes: 3 us on hardware, 20 in a virtual machine whose CPU was given away. A timer's end wakes an idle CPU as an event does.
 */
static void
sleep_cost_try(struct reactor *r)
{
	const struct timespec ts = {.tv_nsec = SLEEP_TRIAL_NS};
	uint64_t late[SLEEP_TRIALS], cpu[SLEEP_TRIALS];

	for (unsigned i = 0; i < SLEEP_TRIALS; i++) {
		uint64_t due = clock_now_ns() + SLEEP_TRIAL_NS, cpu_ns = thread_cpu_ns(), now;

		(void)clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, NULL);
		now = clock_now_ns();
		late[i] = MIN(now > due ? now - due : 0, REACTOR_SLEEP_MAX_NS);
		cpu[i] = MIN(thread_cpu_ns() - cpu_ns, REACTOR_SLEEP_MAX_NS);
	}
	/* The second best: what others do on this CPU, now, is not the price. */
	qsort(late, SLEEP_TRIALS, sizeof(late[0]), by_size);
	qsort(cpu, SLEEP_TRIALS, sizeof(cpu[0]), by_size);
	r->sleep_cost.latency_ns = late[1];
	r->sleep_cost.cpu_ns = cpu[1];
	sleep_cost_sum(&r->sleep_cost);
}

uint64_t
reactor_sleep_price_ns(const struct reactor *r)
{
	uint64_t cost = atomic_load_explicit(&r->sleep_cost.total_ns, memory_order_relaxed);

	if (r->active_pollers <= 1) {
		return cost;
	}
	return MAX(cost, REACTOR_EPOLL_NS / 2) * r->active_pollers;
}

/* ---- Life ---- */

struct reactor *
reactor_create(unsigned lcore, int cpu, enum reactor_mode mode, struct err *err)
{
	struct reactor *r = aligned_alloc(CACHE_LINE_BYTES, sizeof(*r));
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET};

	if (r == NULL) {
		err_set(err, -ENOMEM, "reactor %u: out of memory", lcore);
		return NULL;
	}
	memset(r, 0, sizeof(*r));
	r->lcore = lcore;
	r->cpu = cpu;
	atomic_init(&r->mode, (int)mode);
	r->acting_mode = r->seen_mode = (int)mode;
	sleep_cost_init(&r->sleep_cost);
	r->now_ns = clock_now_ns();
	list_init(&r->active_threads);
	list_init(&r->threads);
	pthread_mutex_init(&r->lock, NULL);
	r->wake_target.kind = TARGET_WAKE;
	ev.data.ptr = &r->wake_target;
	r->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (r->wake_fd < 0 || r->epoll_fd < 0 ||
	    epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, r->wake_fd, &ev) != 0) {
		err_set(err, -errno, "reactor %u: cannot set up epoll: %s", lcore, strerror(errno));
		reactor_free(r);
		return NULL;
	}
	return r;
}

void
reactor_free(struct reactor *r)
{
	if (r == NULL) {
		return;
	}
	CHECK(list_empty(&r->threads) && !r->started);
	if (r->wake_fd >= 0) {
		close(r->wake_fd);
	}
	if (r->epoll_fd >= 0) {
		close(r->epoll_fd);
	}
	heap_release(&r->timers);
	pthread_mutex_destroy(&r->lock);
	free(r);
}

void
reactor_wake(struct reactor *r)
{
	uint64_t one = 1;

	/* Only one of many senders writes. */
	if (atomic_exchange_explicit(&r->sleeping, false, memory_order_seq_cst)) {
		atomic_store_explicit(&r->woken_ns, clock_now_ns(), memory_order_relaxed);
		CHECK(write(r->wake_fd, &one, sizeof(one)) == sizeof(one));
	}
}

/* ---- One round ---- */

static void
turn_end(struct reactor *r, struct thread *t, int work)
{
	if (work > 0) {
		uint64_t now = clock_now_ns();

		counter_add(&t->busy_ns, now - r->now_ns);
		counter_add(&r->busy_ns, now - r->now_ns);
		r->now_ns = now;
	}
	current_thread = NULL;
	if (UNLIKELY(t->leaving)) {
		if (t->move != NULL) {
			thread_move_on(t);
		} else {
			thread_try_free(t);
		}
	}
}

/* A message may change what is active, so pollers' batch hooks and deferred calls run after messages too. */
static int
run_ready(struct reactor *r)
{
	struct mpsc_node *node = mpsc_take(&r->ready);
	int work = 0;

	while (node != NULL) {
		struct thread *t = CONTAINER_OF(node, struct thread, ready_node);
		int n;

		node = node->next; /* the thread may be pushed again at once */
		if (UNLIKELY(atomic_load_explicit(&t->home, memory_order_relaxed) != r)) {
			thread_forward(r, t);
			continue;
		}
		current_thread = t;
		n = thread_run_messages(t);
		n += thread_run_pollers(t);
		work += n;
		turn_end(r, t, n);
	}
	return work;
}

static int
run_active(struct reactor *r)
{
	struct list *last = r->active_threads.prev; /* a thread leaves this list in its own turn only */
	struct list *l = r->active_threads.next, *next;
	int work = 0;

	for (bool more = l != &r->active_threads; more; l = next) {
		struct thread *t = LIST_ENTRY(l, struct thread, active_link);
		int n;

		next = l->next;
		more = l != last;
		current_thread = t;
		n = thread_run_pollers(t);
		work += n;
		turn_end(r, t, n);
	}
	return work;
}

static int
run_timers(struct reactor *r)
{
	size_t todo = r->timers.count; /* one that restarts itself without delay must not run for ever */
	struct heap_node *top;
	int work = 0;

	for (; todo > 0 && (top = heap_top(&r->timers)) != NULL && top->key <= r->now_ns; todo--) {
		struct timer *timer = CONTAINER_OF(top, struct timer, node);
		struct thread *t = timer->thread;

		heap_remove(&r->timers, top);
		current_thread = t;
		timer->fn(timer);
		thread_drain(t);
		work += 1 + thread_run_pollers(t);
		turn_end(r, t, 1);
	}
	return work;
}

void
reactor_forget_events(const void *target)
{
	struct reactor *r = current_reactor;

	for (int i = r->event_cursor; i < r->event_count; i++) {
		if (r->events[i].data.ptr == target) {
			r->events[i].data.ptr = NULL;
		}
	}
}

static int
run_events(struct reactor *r, int count)
{
	int work = 0;

	r->event_count = count;
	for (r->event_cursor = 0; r->event_cursor < r->event_count;) {
		struct epoll_event *ev = &r->events[r->event_cursor++];
		struct { int kind; } *target = ev->data.ptr;

		if (target == NULL || target->kind == TARGET_WAKE) {
			continue;
		}
		if (target->kind == TARGET_POLLER) {
			poller_event(CONTAINER_OF((void *)target, struct poller, target));
		} else {
			struct watch *w = CONTAINER_OF((void *)target, struct watch, target);
			struct thread *t = w->thread;

			current_thread = t;
			w->fn(w, ev->events);
			thread_drain(t);
			thread_run_pollers(t);
			turn_end(r, t, 1);
		}
		work++;
	}
	r->event_count = 0;
	current_thread = NULL;
	return work;
}

static void
note_idle(struct reactor *r)
{
	uint64_t now = clock_now_ns();

	counter_add(&r->idle_ns, now - r->now_ns);
	r->now_ns = now;
}

static void
wake_pollers(void *ctx, struct thread *t)
{
	thread_wake_pollers(t);
}

void
reactor_apply_mode(struct reactor *r)
{
	int state = atomic_load_explicit(&r->cpu_state, memory_order_relaxed);
	bool own_cpu = state == REACTOR_CPU_OWN || state == REACTOR_CPU_ANY;

	r->seen_mode = atomic_load_explicit(&r->mode, memory_order_seq_cst);
	r->acting_mode = r->seen_mode == REACTOR_POLL && !own_cpu ? REACTOR_ADAPTIVE : r->seen_mode;
	if (r->acting_mode == REACTOR_POLL) {
		reactor_for_each_thread(r, wake_pollers, NULL);
	}
}

/* What need not be seen each round: every REACTOR_EPOLL_NS, and after each sleep. */
static void
look_around(struct reactor *r)
{
	reactor_cpu_check(r);
	if (UNLIKELY(atomic_load_explicit(&r->mode, memory_order_relaxed) != r->seen_mode)) {
		reactor_apply_mode(r);
	}
	if (UNLIKELY(atomic_load_explicit(&r->busy_ns, memory_order_relaxed) - r->reported_busy_ns >= REACTOR_REPORT_NS)) {
		r->reported_busy_ns = atomic_load_explicit(&r->busy_ns, memory_order_relaxed);
		scheduler_poke();
	}
}

static int
fetch_events(struct reactor *r)
{
	int n;

	r->last_epoll_ns = r->now_ns;
	look_around(r);
	n = epoll_wait(r->epoll_fd, r->events, REACTOR_EVENTS_MAX, 0);
	return n > 0 ? run_events(r, n) : 0;
}

static int
run_round(struct reactor *r)
{
	int work = 0;

	if (UNLIKELY(!mpsc_empty(&r->arrivals))) {
		work += reactor_take_arrivals(r);
	}
	if (!mpsc_empty(&r->ready)) {
		work += run_ready(r);
	}
	work += run_active(r);
	if (work == 0 && (++r->idle_rounds % REACTOR_IDLE_ROUNDS) == 0) {
		note_idle(r);
	}
	if (r->timers.count > 0) {
		work += run_timers(r);
	}
	return work;
}

static uint64_t
wait_limit(const struct reactor *r, uint64_t max_wait_us)
{
	struct heap_node *top = heap_top(&r->timers);
	uint64_t wait_ns = max_wait_us == UINT64_MAX ? UINT64_MAX : max_wait_us * NS_PER_US;

	if (top != NULL && wait_ns > 0) {
		uint64_t now = clock_now_ns();

		wait_ns = MIN(wait_ns, top->key > now ? top->key - now : 0);
	}
	return wait_ns;
}

static int
wait_events(struct reactor *r, uint64_t wait_ns)
{
	struct timespec ts = {.tv_sec = (time_t)(wait_ns / NS_PER_S), .tv_nsec = (long)(wait_ns % NS_PER_S)};
	bool forever = wait_ns == UINT64_MAX;
	int n;

	if (LIKELY(!r->coarse_wait)) {
		n = epoll_pwait2(r->epoll_fd, r->events, REACTOR_EVENTS_MAX, forever ? NULL : &ts, NULL);
		if (LIKELY(n >= 0 || (errno != ENOSYS && errno != EPERM))) {
			return n;
		}
		/* Linux before 5.11, or a container's filter that does not know the call. */
		r->coarse_wait = true;
	}
	/* Rounded up: a timer that is woken too early would be waited for again, without sleep. */
	wait_ns = MIN(wait_ns / NS_PER_MS + (wait_ns % NS_PER_MS != 0), (uint64_t)INT_MAX);
	return epoll_wait(r->epoll_fd, r->events, REACTOR_EVENTS_MAX, forever ? -1 : (int)wait_ns);
}

/* Something that others left, and a sleep would leave lying. */
static bool
has_mail(const struct reactor *r)
{
	return !mpsc_empty(&r->ready) || !mpsc_empty(&r->arrivals) ||
	       atomic_load_explicit(&r->stop, memory_order_seq_cst) ||
	       atomic_load_explicit(&r->mode, memory_order_seq_cst) != r->seen_mode;
}

/* wait_events(), and what it cost: how long after a sender's wake-up it returned, and now and then its CPU time. */
static int
sleep_events(struct reactor *r, uint64_t wait_ns)
{
	struct sleep_cost *c = &r->sleep_cost;
	bool measure = c->sleeps++ % SLEEP_CPU_EVERY == 0;
	uint64_t cpu_ns = measure ? thread_cpu_ns() : 0, woken_ns;
	int n = wait_events(r, wait_ns);

	atomic_store_explicit(&r->sleeping, false, memory_order_relaxed);
	counter_add(&r->wakeups, 1);
	if (measure) {
		learn(&c->cpu_ns, thread_cpu_ns() - cpu_ns);
		sleep_cost_sum(c);
	}
	note_idle(r);
	woken_ns = atomic_load_explicit(&r->woken_ns, memory_order_relaxed);
	if (woken_ns != 0) {
		atomic_store_explicit(&r->woken_ns, 0, memory_order_relaxed);
		learn(&c->latency_ns, r->now_ns > woken_ns ? r->now_ns - woken_ns : 0);
		sleep_cost_sum(c);
	}
	return n;
}

/* Sleeps until an event, a message, or the next timer; at most max_wait_us. */
static int
reactor_wait(struct reactor *r, uint64_t max_wait_us)
{
	uint64_t wait_ns = wait_limit(r, max_wait_us);
	int n;

	if (wait_ns == 0) {
		note_idle(r);
		return fetch_events(r);
	}
	/* Pairs with whoever leaves something: either they see `sleeping`, or we see what they left. */
	atomic_store_explicit(&r->sleeping, true, memory_order_seq_cst);
	if (has_mail(r)) {
		atomic_store_explicit(&r->sleeping, false, memory_order_relaxed);
		look_around(r);
		return 0;
	}
	n = sleep_events(r, wait_ns);
	r->last_epoll_ns = r->now_ns;
	look_around(r);
	return n > 0 ? run_events(r, n) : 0;
}

static bool
may_sleep(const struct reactor *r)
{
	return list_empty(&r->active_threads) && (r->acting_mode != REACTOR_POLL || r->source_count == 0);
}

static int
step(struct reactor *r, uint64_t max_wait_us)
{
	int work = run_round(r);

	if (may_sleep(r)) {
		/* One look without waiting after a round that did something: the answer to what it sent is often there
		 * before sleep and wake-up would be over. And by hand, whoever polls wants to see what was done. */
		return work + reactor_wait(r, work > 0 ? 0 : max_wait_us);
	}
	if (r->now_ns - r->last_epoll_ns >= REACTOR_EPOLL_NS || list_empty(&r->active_threads)) {
		work += fetch_events(r);
	}
	return work;
}

/* ---- Running ---- */

void
reactor_run(struct reactor *r)
{
	current_reactor = r;
	atomic_store(&r->tid, gettid());
	/* Or the kernel lets a sleep's end slip by 50 us, to join it with another's. */
	(void)prctl(PR_SET_TIMERSLACK, 1);
	reactor_cpu_pin(r);
	sleep_cost_try(r);
	r->now_ns = clock_now_ns();
	while (!atomic_load_explicit(&r->stop, memory_order_acquire)) {
		step(r, UINT64_MAX);
	}
	/* What was sent before reactor_stop() arrives. */
	run_round(r);
	current_reactor = NULL;
}

static void *
reactor_main(void *arg)
{
	reactor_run(arg);
	return NULL;
}

int
reactor_start(struct reactor *r, struct err *err)
{
	char name[16];
	int rc = pthread_create(&r->pthread, NULL, reactor_main, r);

	if (rc != 0) {
		return err_set(err, -rc, "reactor %u: cannot start a thread: %s", r->lcore, strerror(rc));
	}
	snprintf(name, sizeof(name), "reactor_%u", r->lcore);
	pthread_setname_np(r->pthread, name);
	r->started = true;
	return 0;
}

void
reactor_stop(struct reactor *r)
{
	atomic_store_explicit(&r->stop, true, memory_order_seq_cst);
	reactor_wake(r);
}

void
reactor_join(struct reactor *r)
{
	if (r->started) {
		pthread_join(r->pthread, NULL);
		r->started = false;
	}
}

int
reactor_poll_once(struct reactor *r)
{
	struct reactor *outer = current_reactor;
	int work;

	current_reactor = r;
	r->now_ns = clock_now_ns();
	work = run_round(r) + fetch_events(r);
	current_reactor = outer;
	return work;
}

int
reactor_poll_wait(struct reactor *r, uint64_t max_wait_us)
{
	struct reactor *outer = current_reactor;
	int work;

	current_reactor = r;
	r->now_ns = clock_now_ns();
	work = step(r, max_wait_us);
	current_reactor = outer;
	return work;
}

/* ---- What others may ask ---- */

void
reactor_get_stats(const struct reactor *r, struct reactor_stats *ret_stats)
{
	*ret_stats = (struct reactor_stats){
		.busy_ns = atomic_load_explicit(&r->busy_ns, memory_order_relaxed),
		.idle_ns = atomic_load_explicit(&r->idle_ns, memory_order_relaxed),
		.wakeups = atomic_load_explicit(&r->wakeups, memory_order_relaxed),
		.tid = atomic_load(&r->tid),
		.lcore = r->lcore,
		.cpu = r->cpu,
		.mode = reactor_get_mode(r),
		.cpu_state = (enum reactor_cpu_state)atomic_load_explicit(&r->cpu_state, memory_order_relaxed),
		.sleep_cost_ns = atomic_load_explicit(&r->sleep_cost.total_ns, memory_order_relaxed),
	};
}

unsigned
reactor_lcore(const struct reactor *r)
{
	return r->lcore;
}

enum reactor_mode
reactor_get_mode(const struct reactor *r)
{
	return (enum reactor_mode)atomic_load_explicit(&r->mode, memory_order_relaxed);
}

void
reactor_set_mode(struct reactor *r, enum reactor_mode mode)
{
	atomic_store_explicit(&r->mode, (int)mode, memory_order_seq_cst);
	reactor_wake(r);
}

uint64_t
reactor_next_timer_ns(const struct reactor *r)
{
	struct heap_node *top = heap_top(&r->timers);

	return top == NULL ? UINT64_MAX : top->key;
}

void
reactor_for_each_thread(struct reactor *r, void (*fn)(void *ctx, struct thread *t), void *ctx)
{
	struct thread *t;

	pthread_mutex_lock(&r->lock);
	LIST_FOREACH(t, &r->threads, link)
	{
		fn(ctx, t);
	}
	pthread_mutex_unlock(&r->lock);
}
