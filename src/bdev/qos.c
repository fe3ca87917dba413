/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Limits at the door of a channel. A request that carries data costs time of up to three buckets
 * (bucket.h), which all channels of the bdev share. A channel draws a quantum of each at once, so
 * that most requests touch nothing shared, and go the direct way: `submit` is qos_submit() then. What
 * finds nothing to draw waits in the channel, on one of two lanes, until a timer that runs only
 * then.
 *
 * Invariants
 *  1. What waits is on a lane and counted as parked, and the timer runs. Reads and writes have lanes
 *     of their own when one of them has a limit of its own, else there is one. The order within a
 *     lane is that of submission; between lanes the older goes first if it may. Each has shares of
 *     its own: who writes much has not read for that.
 *  2. What was drawn is kept for KEEP_NS at most, or given back before the next is drawn: an idle
 *     channel cannot hoard. A channel that closes or gets other limits gives it back at once.
 *  3. A channel that is made while limits change sees them: see channel.c.
 *  4. A reset cancels what waits before it freezes the channel: nothing that was submitted before it
 *     is done after it.
 * Contexts: limits and weights, the app thread; the rest, the channel's thread.
 */
#include "bdev/qos.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bdev/internal.h"
#include "event/reactor.h"

#define QUANTUM_NS 100000
#define KEEP_NS 1000000
/* Those that wait are woken when there is at least so much for them. */
#define GATHER_NS 100000
/* A thread that the host did not run for so long, and something waited: it may catch up. */
#define GRACE_NS_MIN 1000000
#define GRACE_NS_MAX 200000000
#define RELAXED memory_order_relaxed
#define FAIR_START NS_PER_S

/* Costs and credits have so many bits after the point: one byte at 10 GB/s is a tenth of 1 ns. */
#define POINT 20
#define BYTES_MAX (UINT64_C(1) << 32)

enum { RW_IOS, RW_BYTES, R_BYTES, W_BYTES };

struct weight {
	struct list link;
	uint32_t weight;
	char user[];
};

struct qos {
	struct bucket buckets[QOS_BUCKETS];
	struct fair fair[QOS_LANES];

	/* Any thread reads; `generation` is counted up after a change of the others. */
	_Atomic uint64_t cost[QOS_BUCKETS]; /* of one request, one byte; 0: no limit */
	_Atomic uint64_t save_ns;
	_Atomic uint32_t generation;
	_Atomic uint64_t grace_until, grace_ns;

	/* App thread. */
	struct bdev_qos_limits limits;
	struct list weights;
};

/* ---- One request ---- */

/* The buckets that an operation draws from, a bit each, and the bit of its lane. */
#define LANE_BIT 7
#define BUCKETS_OF(word) ((unsigned)(word) & ((1u << QOS_BUCKETS) - 1))
#define EACH_BUCKET(i, buckets) \
	for (unsigned rest_ = (buckets), i; \
	     rest_ != 0 && (i = (unsigned)__builtin_ctz(rest_), true); rest_ &= rest_ - 1)

static void
set_wants(struct channel_qos *q)
{
	const unsigned read = 1u << RW_IOS | 1u << RW_BYTES | 1u << R_BYTES;
	const unsigned write = 1u << RW_IOS | 1u << RW_BYTES | 1u << W_BYTES;
	bool apart = (q->limited & (1u << R_BYTES | 1u << W_BYTES)) != 0;
	uint8_t reads = (uint8_t)(q->limited & read);
	uint8_t writes = (uint8_t)((q->limited & write) | (unsigned)apart << LANE_BIT);

	memset(q->wants, 0, sizeof(q->wants));
	q->wants[BDEV_READ] = q->wants[BDEV_COMPARE] = reads;
	q->wants[BDEV_WRITE] = q->wants[BDEV_COMPARE_AND_WRITE] = writes;
	q->wants[BDEV_ZONE_APPEND] = writes;
}

static inline unsigned
wants(const struct channel_qos *q, unsigned op)
{
	return op < BDEV_OP_COUNT ? BUCKETS_OF(q->wants[op]) : 0;
}

/* Of an operation that is limited. */
static inline unsigned
lane_of(const struct channel_qos *q, unsigned op)
{
	return q->wants[op] >> LANE_BIT;
}

static inline struct list *
lane(struct channel_qos *q, unsigned op)
{
	return &q->lanes[lane_of(q, op)];
}

static inline int64_t
cost_of(const struct core_channel *c, const struct bdev_io *io, unsigned bucket)
{
	uint64_t bytes = io->num_blocks << c->pub.block_size_shift;

	return (int64_t)(c->qos.cost[bucket] * (bucket == RW_IOS ? 1 : MIN(bytes, BYTES_MAX)));
}

/* What will only be refused costs nothing. */
static bool
in_range(const struct core_channel *c, const struct bdev_io *io)
{
	return io->num_blocks != 0 && io->lba < c->pub.num_blocks &&
	       io->num_blocks <= c->pub.num_blocks - io->lba;
}

static void
settle_use(struct core_channel *c)
{
	struct channel_qos *q = &c->qos;

	for (unsigned i = 0; i < QOS_LANES; i++) {
		fair_use(&c->desc->shares[i], q->used[i] >> POINT);
		q->used[i] &= (UINT64_C(1) << POINT) - 1;
	}
}

static void
give_back(struct core_channel *c)
{
	struct channel_qos *q = &c->qos;

	if (q->shared == NULL) {
		return;
	}
	settle_use(c);
	for (unsigned i = 0; i < QOS_BUCKETS; i++) {
		bucket_return(&q->shared->buckets[i], (uint64_t)q->credit[i] >> POINT);
		q->credit[i] &= (1 << POINT) - 1;
	}
}

static inline bool
pay(struct core_channel *c, const struct bdev_io *io, unsigned buckets)
{
	struct channel_qos *q = &c->qos;
	int64_t most = 0;

	EACH_BUCKET (i, buckets) {
		if (q->credit[i] < cost_of(c, io, i)) {
			return false;
		}
	}
	EACH_BUCKET (i, buckets) {
		int64_t cost = cost_of(c, io, i);

		q->credit[i] -= cost;
		most = MAX(most, cost);
	}
	q->used[lane_of(q, io->op)] += (uint64_t)most;
	return true;
}

/* What a thread was too late for is there for as long again. */
static uint64_t
may_save(const struct channel_qos *q, uint64_t now)
{
	const struct qos *qos = q->shared;

	return q->save_ns + (LIKELY(now >= atomic_load_explicit(&qos->grace_until, RELAXED))
				     ? 0
				     : atomic_load_explicit(&qos->grace_ns, RELAXED));
}

static void
came_late(const struct channel_qos *q, uint64_t now)
{
	uint64_t late = MIN(now - q->due_ns, (uint64_t)GRACE_NS_MAX);

	if (q->shared != NULL && late > GRACE_NS_MIN) {
		atomic_store_explicit(&q->shared->grace_ns, late, RELAXED);
		atomic_store_explicit(&q->shared->grace_until, now + late, RELAXED);
	}
}

/* Draws what io lacks. 0, or how long to wait. */
static uint64_t
draw(struct core_channel *c, const struct bdev_io *io, unsigned buckets, uint64_t now)
{
	struct channel_qos *q = &c->qos;
	uint64_t wait, save = may_save(q, now);
	int64_t left = INT64_MAX;

	give_back(c);
	EACH_BUCKET (i, buckets) {
		left = MIN(left, bucket_left(&q->shared->buckets[i], now, save));
	}
	wait = fair_wait(&q->shared->fair[lane_of(q, io->op)],
			 &c->desc->shares[lane_of(q, io->op)], left);
	if (wait != 0 || left < 0) {
		return MAX(wait, left < 0 ? (uint64_t)-left + GATHER_NS : 0);
	}
	EACH_BUCKET (i, buckets) {
		int64_t lacks = cost_of(c, io, i) - q->credit[i];
		uint64_t need = lacks <= 0 ? 0 : ((uint64_t)lacks >> POINT) + 1, got;

		got = bucket_take(&q->shared->buckets[i], now, save, need, QUANTUM_NS);
		q->credit[i] += (int64_t)(got << POINT);
	}
	q->drawn_ns = now;
	return 0;
}

void
qos_refund(struct core_channel *c, const struct bdev_io *io)
{
	struct channel_qos *q = &c->qos;
	int64_t most = 0;

	if (wants(q, io->op) == 0 || !in_range(c, io)) {
		return;
	}
	EACH_BUCKET (i, wants(q, io->op)) {
		int64_t cost = cost_of(c, io, i);

		q->credit[i] += cost;
		most = MAX(most, cost);
	}
	q->used[lane_of(q, io->op)] -= MIN(q->used[lane_of(q, io->op)], (uint64_t)most);
}

/* 0: paid. Else it must wait so many nanoseconds at least. */
static inline uint64_t
charge(struct core_channel *c, const struct bdev_io *io)
{
	struct channel_qos *q = &c->qos;
	unsigned buckets = wants(q, io->op);
	uint64_t now = reactor_now_ns(), wait;

	if (buckets == 0 || (LIKELY(now - q->drawn_ns < KEEP_NS) && LIKELY(pay(c, io, buckets)))) {
		return 0;
	}
	wait = draw(c, io, buckets, now);
	if (wait == 0 && !pay(c, io, buckets)) {
		wait = GATHER_NS; /* another thread was faster */
	}
	return wait;
}

/* ---- Waiting ---- */

static bool
none_waits(const struct channel_qos *q)
{
	return list_empty(&q->lanes[0]) && list_empty(&q->lanes[1]);
}

static void try_again(struct timer *timer);

static void
wait_for(struct core_channel *c, uint64_t ns)
{
	c->qos.due_ns = reactor_now_ns() + ns;
	CHECK(timer_start(&c->qos.timer, ns / NS_PER_US + 1, try_again) == 0);
}

static void
enqueue(struct core_channel *c, struct bdev_io *io)
{
	io->seq = c->qos.next_seq++;
	c->parked_count++;
	list_append(lane(&c->qos, io->op), &io->link);
}

/* The oldest of the heads of the lanes; NULL: none. */
static struct bdev_io *
oldest(struct channel_qos *q, const bool *blocked)
{
	struct bdev_io *found = NULL;

	for (int i = 0; i < QOS_LANES; i++) {
		struct bdev_io *io;

		if (blocked[i] || list_empty(&q->lanes[i])) {
			continue;
		}
		io = LIST_FIRST(&q->lanes[i], struct bdev_io, link);
		if (found == NULL || (int32_t)(io->seq - found->seq) < 0) {
			found = io;
		}
	}
	return found;
}

static void
take_off(struct core_channel *c, struct bdev_io *io)
{
	list_remove(&io->link);
	c->parked_count--;
}

/* Starts what may, and sees to the rest. */
static void
run(struct core_channel *c)
{
	struct channel_qos *q = &c->qos;
	bool blocked[QOS_LANES] = {false, false};
	uint64_t soonest = UINT64_MAX;
	struct bdev_io *io;

	while ((io = oldest(q, blocked)) != NULL) {
		uint64_t wait = charge(c, io);

		if (wait != 0) {
			blocked[lane(q, io->op) == &q->lanes[1]] = true;
			soonest = MIN(soonest, wait);
			continue;
		}
		take_off(c, io);
		admit_paid(c, io);
	}
	if (!none_waits(q)) {
		wait_for(c, soonest);
	} else {
		timer_stop(&q->timer);
	}
}

static void
try_again(struct timer *timer)
{
	struct core_channel *c = CONTAINER_OF(timer, struct core_channel, qos.timer);
	uint64_t now = reactor_now_ns();

	if (now > c->qos.due_ns) {
		came_late(&c->qos, now);
	}
	run(c);
}

bool
qos_holds_back(struct core_channel *c, struct bdev_io *io)
{
	uint64_t wait;

	if (wants(&c->qos, io->op) == 0 || !in_range(c, io)) {
		return false;
	}
	if (list_empty(lane(&c->qos, io->op))) {
		wait = charge(c, io);
		if (wait == 0) {
			return false;
		}
		if (none_waits(&c->qos)) {
			wait_for(c, wait);
		}
	}
	enqueue(c, io);
	return true;
}

void
qos_submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct core_channel *c = core_channel(ch);

	if (LIKELY(list_empty(lane(&c->qos, io->op)))) {
		uint64_t wait = charge(c, io);

		if (LIKELY(wait == 0)) {
			c->submit(ch, io);
			return;
		}
		if (none_waits(&c->qos)) {
			wait_for(c, wait);
		}
	}
	ch->inflight--;
	ch->outstanding--;
	enqueue(c, io);
}

bool
qos_waits(const struct core_channel *c, const struct bdev_io *target)
{
	const struct bdev_io *io;

	for (int i = 0; i < QOS_LANES; i++) {
		LIST_FOREACH (io, &c->qos.lanes[i], link) {
			if (io == target) {
				return true;
			}
		}
	}
	return false;
}

void
qos_cancel(struct core_channel *c, int status)
{
	static const bool all[QOS_LANES];
	struct bdev_io *io;

	while ((io = oldest(&c->qos, all)) != NULL) {
		take_off(c, io);
		c->pub.inflight++;
		end_request(c, io, status);
	}
	timer_stop(&c->qos.timer);
}

/* ---- A channel and its limits ---- */

void
qos_channel_init(struct core_channel *c)
{
	list_init(&c->qos.lanes[0]);
	list_init(&c->qos.lanes[1]);
}

void
qos_channel_release(struct core_channel *c)
{
	give_back(c);
	timer_stop(&c->qos.timer);
}

/* The lanes may be others now. */
static void
sort_again(struct channel_qos *q)
{
	static const bool all[QOS_LANES];
	struct list waiting;
	struct bdev_io *io;

	list_init(&waiting);
	while ((io = oldest(q, all)) != NULL) {
		list_remove(&io->link);
		list_append(&waiting, &io->link);
	}
	while (!list_empty(&waiting)) {
		io = LIST_FIRST(&waiting, struct bdev_io, link);
		list_remove(&io->link);
		list_append(lane(q, io->op), &io->link);
	}
}

void
qos_adopt(struct core_channel *c, struct bdev_core *core)
{
	struct qos *qos = atomic_load(&core->qos);
	struct channel_qos *q = &c->qos;

	if (qos == NULL || q->generation == atomic_load(&qos->generation)) {
		return;
	}
	give_back(c);
	q->generation = atomic_load(&qos->generation);
	q->save_ns = atomic_load(&qos->save_ns);
	q->limited = 0;
	for (unsigned i = 0; i < QOS_BUCKETS; i++) {
		q->cost[i] = atomic_load(&qos->cost[i]);
		q->credit[i] = 0;
		q->limited |= (unsigned)(q->cost[i] != 0) << i;
	}
	set_wants(q);
	q->shared = q->limited != 0 ? qos : NULL;
	q->drawn_ns = reactor_now_ns() - KEEP_NS;
	channel_refresh(c);
	sort_again(q);
	run(c);
}

static void
adopt(struct bdev_core *core, struct bdev_channel *ch, void *ctx)
{
	qos_adopt(core_channel(ch), core);
}

/* ---- Limits (app thread) ---- */

static struct qos *
get_qos(struct bdev_core *core)
{
	struct qos *qos = atomic_load(&core->qos);

	if (qos != NULL) {
		return qos;
	}
	qos = aligned_alloc(CACHE_LINE_BYTES, sizeof(*qos));
	if (qos != NULL) {
		memset(qos, 0, sizeof(*qos));
		atomic_store(&qos->fair[0].clock, FAIR_START);
		atomic_store(&qos->fair[1].clock, FAIR_START);
		qos->limits.burst_ms = BDEV_QOS_BURST_MS_DEFAULT;
		list_init(&qos->weights);
		atomic_store(&core->qos, qos);
	}
	return qos;
}

void
qos_release(struct bdev_core *core)
{
	struct qos *qos = atomic_load(&core->qos);

	while (qos != NULL && !list_empty(&qos->weights)) {
		struct weight *w = LIST_FIRST(&qos->weights, struct weight, link);

		list_remove(&w->link);
		free(w);
	}
	free(qos);
}

void
bdev_get_qos_limits(const struct bdev *bdev, struct bdev_qos_limits *ret_limits)
{
	const struct qos *qos = atomic_load(&bdev->core->qos);

	*ret_limits = qos != NULL ? qos->limits
				  : (struct bdev_qos_limits){.burst_ms = BDEV_QOS_BURST_MS_DEFAULT};
}

int
bdev_qos_check_limits(const struct bdev_qos_limits *l, struct err *err)
{
	if (l->rw_ios_per_sec > BDEV_QOS_IOS_MAX) {
		return err_set(err, -EINVAL, "a limit of %llu requests a second is above %d",
			       (unsigned long long)l->rw_ios_per_sec, BDEV_QOS_IOS_MAX);
	}
	if (l->rw_mbytes_per_sec > BDEV_QOS_MBYTES_MAX ||
	    l->r_mbytes_per_sec > BDEV_QOS_MBYTES_MAX ||
	    l->w_mbytes_per_sec > BDEV_QOS_MBYTES_MAX) {
		return err_set(err, -EINVAL, "a limit of more than %d megabytes a second",
			       BDEV_QOS_MBYTES_MAX);
	}
	if (l->burst_ms > BDEV_QOS_BURST_MS_MAX) {
		return err_set(err, -EINVAL, "a burst of %u ms is above %d", l->burst_ms,
			       BDEV_QOS_BURST_MS_MAX);
	}
	return 0;
}

static void
set_cost(struct qos *qos, unsigned i, double per_sec)
{
	uint64_t before = atomic_load(&qos->cost[i]), now = clock_now_ns();
	uint64_t cost = per_sec == 0 ? 0 : (uint64_t)((double)(NS_PER_S << POINT) / per_sec + 0.5);

	if (before == cost) {
		return;
	}
	if (before == 0 || cost == 0) {
		bucket_start(&qos->buckets[i], now);
	} else {
		bucket_rescale(&qos->buckets[i], now, (double)cost / (double)before);
	}
	atomic_store(&qos->cost[i], cost);
}

struct change {
	struct visit visit;
	void (*done)(void *ctx);
	void *ctx;
};

static void
changed(struct bdev_core *core, void *ctx)
{
	struct change change = *(struct change *)ctx;

	free(ctx);
	change.done(change.ctx);
}

int
bdev_set_qos_limits(struct bdev *bdev, const struct bdev_qos_limits *limits,
		    void (*done)(void *ctx), void *ctx, struct err *err)
{
	const double mbyte = 1024 * 1024;
	struct qos *qos;
	struct change *change;
	int rc = bdev_qos_check_limits(limits, err);

	app_thread_check();
	if (rc != 0) {
		return rc;
	}
	qos = get_qos(bdev->core);
	change = calloc(1, sizeof(*change));
	if (qos == NULL || change == NULL) {
		free(change);
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", bdev->name);
	}
	set_cost(qos, RW_IOS, (double)limits->rw_ios_per_sec);
	set_cost(qos, RW_BYTES, (double)limits->rw_mbytes_per_sec * mbyte);
	set_cost(qos, R_BYTES, (double)limits->r_mbytes_per_sec * mbyte);
	set_cost(qos, W_BYTES, (double)limits->w_mbytes_per_sec * mbyte);
	/* Less than what stands in the bucket while shares take turns would stop them. */
	atomic_store(&qos->save_ns, MAX(limits->burst_ms * NS_PER_MS, 2 * (uint64_t)FAIR_STANDING_NS));
	qos->limits = *limits;
	atomic_fetch_add(&qos->generation, 1);
	change->done = done;
	change->ctx = ctx;
	visit_start(&change->visit, bdev->core, adopt, changed, change);
	return 0;
}

/* ---- Users and their weights (app thread) ---- */

static struct weight *
find_weight(const struct qos *qos, const char *user)
{
	struct weight *w;

	LIST_FOREACH (w, &qos->weights, link) {
		if (strcmp(w->user, user) == 0) {
			return w;
		}
	}
	return NULL;
}

static void
weigh(struct bdev_desc *desc)
{
	const struct qos *qos = atomic_load(&desc->bdev->core->qos);
	const struct weight *w = qos != NULL ? find_weight(qos, desc->user) : NULL;

	for (unsigned i = 0; i < QOS_LANES; i++) {
		atomic_store(&desc->shares[i].weight,
			     w != NULL ? w->weight : BDEV_QOS_WEIGHT_DEFAULT);
	}
}

void
qos_desc_init(struct bdev_desc *desc)
{
	desc->user = desc->no_name;
	weigh(desc);
}

void
qos_desc_release(struct bdev_desc *desc)
{
	if (desc->user != desc->no_name) {
		free(desc->user);
	}
}

void
bdev_desc_set_user(struct bdev_desc *desc, const char *user)
{
	char *copy = strdup(user);

	app_thread_check();
	CHECK(list_empty(&desc->device.channels));
	qos_desc_release(desc);
	desc->user = copy != NULL ? copy : desc->no_name;
	weigh(desc);
}

int
bdev_set_qos_weight(struct bdev *bdev, const char *user, uint32_t weight, struct err *err)
{
	struct bdev_core *core = bdev->core;
	struct bdev_desc *desc;
	struct weight *w;
	struct qos *qos;

	app_thread_check();
	if (weight > BDEV_QOS_WEIGHT_MAX || user[0] == '\0' || strlen(user) >= BDEV_USER_BYTES) {
		return err_set(err, -EINVAL,
			       "a weight is 1 to %d, 0 for the default, of a user with a name",
			       BDEV_QOS_WEIGHT_MAX);
	}
	qos = get_qos(core);
	w = qos != NULL ? find_weight(qos, user) : NULL;
	if (w == NULL && qos != NULL && weight != 0) {
		w = calloc(1, sizeof(*w) + strlen(user) + 1);
		if (w != NULL) {
			strcpy(w->user, user);
			list_append(&qos->weights, &w->link);
		}
	}
	if (qos == NULL || (w == NULL && weight != 0)) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", bdev->name);
	}
	if (w != NULL && weight == 0) {
		list_remove(&w->link);
		free(w);
	} else if (w != NULL) {
		w->weight = weight;
	}
	LIST_FOREACH (desc, &core->descs, link) {
		weigh(desc);
	}
	return 0;
}

bool
bdev_get_qos_weight(const struct bdev *bdev, unsigned i, const char **ret_user,
		    uint32_t *ret_weight)
{
	const struct qos *qos = atomic_load(&bdev->core->qos);
	const struct weight *w;

	if (qos == NULL) {
		return false;
	}
	LIST_FOREACH (w, &qos->weights, link) {
		if (i-- == 0) {
			*ret_user = w->user;
			*ret_weight = w->weight;
			return true;
		}
	}
	return false;
}

struct bdev_desc *
bdev_next_desc(struct bdev *bdev, struct bdev_desc *desc)
{
	struct list *descs = &bdev->core->descs;
	struct list *next = desc == NULL ? descs->next : desc->link.next;

	return next == descs ? NULL : LIST_ENTRY(next, struct bdev_desc, link);
}

const char *
bdev_desc_user(const struct bdev_desc *desc)
{
	return desc->user;
}

uint32_t
bdev_desc_weight(const struct bdev_desc *desc)
{
	return atomic_load(&desc->shares[0].weight);
}
