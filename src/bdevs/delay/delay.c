/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A base that answers later. A request goes to the base at once; when it comes back it waits on its channel in one
 * of four queues until its time has come.
 *
 * Invariants
 *  1. Each queue is in the order in which its requests came back, and only its head is looked at: after a latency
 *     was made shorter, new requests wait behind old ones.
 *  2. The timer of a channel runs while a queue is not empty, for the earliest of the heads; else nothing runs.
 *  3. A reset and removal answer what waits, and what is with the base then is not delayed any more: it was
 *     submitted in another epoch of its channel.
 * Contexts: the app thread; requests, queues and timers: the channel's thread. Latencies are read there and written on
 * the app thread.
 */
#include "bdevs/delay/delay.h"

#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "bdev/stack.h"

#define OWN sizeof(struct delayed)
#define NAME_SPACE "4009b574-6430-4f1b-bc40-ace811091027"
#define UNDELAYED DELAY_LATENCY_COUNT

struct delay {
	struct stack stack;
	atomic_uint_least64_t latency_us[DELAY_LATENCY_COUNT];
};

/* A request's. */
struct delayed {
	struct list link; /* linked: waits */
	uint64_t due_ns;
	int status;
	uint32_t epoch;
	uint8_t queue; /* enum delay_latency, or UNDELAYED */
	bool with_base;
};

struct delay_channel {
	struct stack_channel base;
	struct list queues[DELAY_LATENCY_COUNT];
	struct timer timer;
	uint64_t random;
	uint32_t epoch;
};

static struct delay *
delay_of(struct stack *s)
{
	return CONTAINER_OF(s, struct delay, stack);
}

/* ---- Waiting ---- */

static struct bdev_io *
io_of(struct delayed *d)
{
	return CONTAINER_OF((void *)d, struct bdev_io, ctx);
}

/* Takes the request off its queue. */
static void
answer(struct delayed *d, int status)
{
	struct bdev_io *io = io_of(d);

	list_remove(&d->link);
	io->result = stack_child(io, OWN)->result;
	bdev_io_complete(io, status);
}

static void
answer_due(struct delay_channel *dc, uint64_t now_ns)
{
	for (int i = 0; i < DELAY_LATENCY_COUNT; i++) {
		while (!list_empty(&dc->queues[i])) {
			struct delayed *d = LIST_FIRST(&dc->queues[i], struct delayed, link);

			if (d->due_ns > now_ns) {
				break;
			}
			answer(d, d->status);
		}
	}
}

static void came_due(struct timer *timer);

static void
set_timer(struct delay_channel *dc)
{
	uint64_t now_ns = clock_now_ns(), first_ns = UINT64_MAX;

	for (int i = 0; i < DELAY_LATENCY_COUNT; i++) {
		if (!list_empty(&dc->queues[i])) {
			struct delayed *d = LIST_FIRST(&dc->queues[i], struct delayed, link);

			first_ns = MIN(first_ns, d->due_ns);
		}
	}
	if (first_ns == UINT64_MAX) {
		timer_stop(&dc->timer);
	} else if (timer_start(&dc->timer,
			       first_ns > now_ns ? (first_ns - now_ns + NS_PER_US - 1) / NS_PER_US : 0,
			       came_due) != 0) {
		answer_due(dc, UINT64_MAX); /* rather too early than never */
	}
}

static void
came_due(struct timer *timer)
{
	struct delay_channel *dc = CONTAINER_OF(timer, struct delay_channel, timer);

	answer_due(dc, clock_now_ns());
	set_timer(dc);
}

/* ---- Requests ---- */

static void
came_back(struct bdev_io *child, int status)
{
	struct bdev_io *io = stack_parent(child, OWN);
	struct delayed *d = bdev_io_ctx(io);
	struct delay_channel *dc = io->ch->module_ctx;
	const struct delay *delay = io->ch->bdev->ctx;
	uint64_t us = d->queue == UNDELAYED || d->epoch != dc->epoch
			      ? 0
			      : atomic_load_explicit(&delay->latency_us[d->queue], memory_order_relaxed);
	bool first;

	d->with_base = false;
	if (us == 0) {
		stack_finish(io, child, status);
		return;
	}
	first = list_empty(&dc->queues[d->queue]);
	d->due_ns = clock_now_ns() + us * NS_PER_US;
	d->status = status;
	list_append(&dc->queues[d->queue], &d->link);
	if (first) {
		set_timer(dc);
	}
}

/* One of a hundred is slow. */
static uint8_t
pick_queue(struct delay_channel *dc, enum delay_latency avg, enum delay_latency p99)
{
	dc->random ^= dc->random << 13;
	dc->random ^= dc->random >> 7;
	dc->random ^= dc->random << 17;
	return (uint8_t)(dc->random % 100 == 0 ? p99 : avg);
}

static uint8_t
queue_for(struct delay_channel *dc, uint8_t op)
{
	switch (op) {
	case BDEV_READ:
		return pick_queue(dc, DELAY_AVG_READ, DELAY_P99_READ);
	case BDEV_WRITE:
	case BDEV_ZONE_APPEND:
		return pick_queue(dc, DELAY_AVG_WRITE, DELAY_P99_WRITE);
	default:
		return UNDELAYED;
	}
}

/* True when the target is not with the base: io has been answered. */
static bool
aborted_here(struct bdev_io *io)
{
	struct delayed *d = bdev_io_ctx(io->target);

	if (d->with_base) {
		return false;
	}
	if (!list_linked(&d->link)) {
		bdev_io_complete(io, -ENOENT); /* its answer is on the way */
		return true;
	}
	answer(d, -ECANCELED);
	bdev_io_complete(io, 0);
	return true;
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct delay_channel *dc = ch->module_ctx;
	struct bdev_io *child = stack_child(io, OWN);
	struct delayed *d = bdev_io_ctx(io);

	if (UNLIKELY(io->op == BDEV_ABORT) && aborted_here(io)) {
		return;
	}
	list_init(&d->link);
	d->epoch = dc->epoch;
	d->queue = queue_for(dc, io->op);
	d->with_base = true;
	stack_child_init(child, io, 0, came_back);
	if (UNLIKELY(io->op == BDEV_ABORT)) {
		child->target = stack_child(io->target, OWN);
	}
	bdev_submit(dc->base.base, child);
}

static void
cancel(struct bdev_channel *ch, int status)
{
	struct delay_channel *dc = ch->module_ctx;

	dc->epoch++;
	for (int i = 0; i < DELAY_LATENCY_COUNT; i++) {
		while (!list_empty(&dc->queues[i])) {
			answer(LIST_FIRST(&dc->queues[i], struct delayed, link), status);
		}
	}
	timer_stop(&dc->timer);
}

/* ---- Channels ---- */

static int
channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct delay_channel *dc = ch->module_ctx;

	for (int i = 0; i < DELAY_LATENCY_COUNT; i++) {
		list_init(&dc->queues[i]);
	}
	dc->random = clock_now_ns() | 1;
	return stack_channel_create(bdev, ch);
}

static void
channel_destroy(struct bdev *bdev, struct bdev_channel *ch)
{
	struct delay_channel *dc = ch->module_ctx;

	timer_stop(&dc->timer);
	stack_channel_destroy(bdev, ch);
}

static const struct bdev_ops delay_ops = {
	.module_name = "delay",
	.destruct = stack_destruct,
	.channel_create = channel_create,
	.channel_destroy = channel_destroy,
	.submit = submit,
	.cancel = cancel,
};

/* ---- Life ---- */

static int
start(struct stack *s, struct err *err)
{
	s->bdev.ops = &delay_ops;
	s->bdev.ctx = delay_of(s);
	s->bdev.product_name = "delay";
	s->bdev.ops_mask |= 1u << BDEV_ABORT;
	s->bdev.channel_ctx_bytes = sizeof(struct delay_channel);
	stack_room(s, OWN);
	stack_set_uuid(s, NAME_SPACE, s->base->uuid, sizeof(s->base->uuid));
	return 0;
}

static void
resized(struct stack *s)
{
	bdev_resize(&s->bdev, bdev_num_blocks(s->base));
}

static void
release(struct stack *s)
{
	free(delay_of(s));
}

static const struct stack_ops stack_ops = {
	.module_name = "delay",
	.start = start,
	.free = release,
	.resized = resized,
};

static int
check_latency(const char *name, uint64_t us, struct err *err)
{
	if (us > DELAY_MAX_US) {
		return err_set(err, -EINVAL, "bdev '%s': a latency of %" PRIu64 " us is longer than a day",
			       name, us);
	}
	return 0;
}

int
bdev_delay_create(const struct delay_bdev_options *options, struct bdev **ret, struct err *err)
{
	struct delay *delay = calloc(1, sizeof(*delay));
	int rc = 0;

	if (delay == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", options->name);
	}
	for (int i = 0; i < DELAY_LATENCY_COUNT && rc == 0; i++) {
		rc = check_latency(options->name, options->latency_us[i], err);
		atomic_init(&delay->latency_us[i], options->latency_us[i]);
	}
	if (rc != 0) {
		free(delay);
		return rc;
	}
	uuid_copy(delay->stack.uuid, options->uuid);
	return stack_create(&delay->stack, &stack_ops, options->name, options->base_name, ret, err);
}

static struct stack *
find(const char *name, struct err *err)
{
	struct stack *s = stack_find(&stack_ops, name);

	if (s == NULL) {
		err_set(err, -ENODEV, "there is no delay bdev '%s'", name);
	}
	return s;
}

int
bdev_delay_update_latency(const char *name, enum delay_latency which, uint64_t latency_us,
			  struct err *err)
{
	struct stack *s = find(name, err);
	int rc;

	if (s == NULL) {
		return -ENODEV;
	}
	rc = check_latency(name, latency_us, err);
	if (rc == 0) {
		atomic_store(&delay_of(s)->latency_us[which], latency_us);
	}
	return rc;
}

int
bdev_delay_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct stack *s = find(name, err);

	if (s == NULL) {
		return -ENODEV;
	}
	stack_delete(s, done, ctx);
	return 0;
}

static void
tell_options(struct stack *s, struct delay_bdev_options *ret_options)
{
	ret_options->name = s->name;
	ret_options->base_name = s->base_name;
	uuid_copy(ret_options->uuid, s->registered ? s->bdev.uuid : s->uuid);
	for (int i = 0; i < DELAY_LATENCY_COUNT; i++) {
		ret_options->latency_us[i] = atomic_load(&delay_of(s)->latency_us[i]);
	}
}

bool
bdev_delay_get_options(const struct bdev *bdev, struct delay_bdev_options *ret_options)
{
	struct stack *s = stack_of(bdev, &stack_ops);

	if (s != NULL) {
		tell_options(s, ret_options);
	}
	return s != NULL;
}

bool
bdev_delay_list(unsigned i, struct delay_bdev_options *ret_options, bool *ret_waits)
{
	struct stack *s = stack_next(&stack_ops, NULL);

	while (s != NULL && i-- > 0) {
		s = stack_next(&stack_ops, s);
	}
	if (s != NULL) {
		tell_options(s, ret_options);
		*ret_waits = !s->registered;
	}
	return s != NULL;
}
