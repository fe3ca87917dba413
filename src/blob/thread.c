/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The store on each thread: channels of blobs, gates, grace periods.
 *
 * Who is in flight is counted on its thread, twice: by parity of the thread (grace periods) and by channel (gates). The owner
 * visits the threads by message; one that has somebody in flight reports later, when the last one ends (blob_attend()).
 *
 * Invariants
 *  1. One grace period is under way at a time: a thread turns its parity only when nobody is left of the other. Those who ask
 *     meanwhile share the next one.
 *  2. One visit for a blob's gate is under way at a time; a channel has at most one `wait`.
 *  3. A thread that comes after a visit has begun finds what the owner had stored before: channels are linked under a lock that
 *     the visit has taken.
 *  4. Who waits for a gate or for space is not in flight. Requests look at the gate before each piece, so that one of many
 *     pieces holds up neither a gate nor a grace period for longer than a piece takes; and since no metadata operation waits
 *     for a gate, a piece that needs a commit gets it under a closing gate too.
 *  5. Reads of the long way pass a gate for writes and are counted apart (`passing`), else it would never see the end of them.
 *  6. Sweeps: one at a time; it takes everything that is held on a thread and lets it look again, in order.
 *
 * Contexts: gates and graces on the owner, channels on their threads.
 */
#include <errno.h>

#include "blob/internal.h"

static struct blob_thread *
thread_of(struct channel *ch)
{
	return CONTAINER_OF(ch, struct blob_thread, channel);
}

static int
channel_create(struct device *dev, struct channel *ch)
{
	struct blob_thread *t = thread_of(ch);
	int rc = -ENOMEM;

	t->store = CONTAINER_OF(dev, struct blob_store, device);
	list_init(&t->channels);
	list_init(&t->externals);
	t->dev_ch = t->store->dev->ops->channel_get(t->store->dev, &rc);
	return t->dev_ch == NULL ? rc : 0;
}

static void
channel_destroy(struct device *dev, struct channel *ch)
{
	struct blob_thread *t = thread_of(ch);

	(void)dev;
	CHECK(list_empty(&t->channels) && t->waits == 0);
	cow_release(t);
	external_thread_release(t);
	t->store->dev->ops->channel_put(t->store->dev, t->dev_ch);
}

static const struct device_ops thread_ops = {
	.channel_create = channel_create,
	.channel_destroy = channel_destroy,
};

void
threads_init(struct blob_store *store)
{
	device_register(&store->device, "blobstore", &thread_ops, sizeof(struct blob_thread));
	list_init(&store->graces);
	list_init(&store->graced);
	list_init(&store->space_waiters);
}

void
threads_release(struct blob_store *store)
{
	CHECK(list_empty(&store->graces) && list_empty(&store->graced) && !store->sweeping);
	device_unregister(&store->device);
}

/* ---- Channels ---- */

static bool
channel_readonly(const struct blob *blob)
{
	return blob->data_ro || blob->store->readonly;
}

int
blob_channel_get(struct blob *blob, struct blob_channel *ch)
{
	struct blob_store *store = blob->store;
	uint64_t units = store->cluster_units;
	int rc = -ENOMEM;
	struct channel *c = channel_get(&store->device, &rc);

	if (c == NULL) {
		return rc;
	}
	*ch = (struct blob_channel){
		.blob = blob,
		.head = &blob->head,
		.thread = thread_of(c),
		.counts = &thread_of(c)->counts,
		.unit_shift = (units & (units - 1)) == 0 ? (uint32_t)__builtin_ctzll(units) : BLOB_SHIFT_NONE,
		.readonly = channel_readonly(blob),
	};
	list_init(&ch->held);
	list_append(&ch->thread->channels, &ch->link);
	return 0;
}

void
blob_channel_put(struct blob_channel *ch)
{
	CHECK(ch->inflight == 0 && ch->passing == 0 && ch->wait == NULL && list_empty(&ch->held));
	list_remove(&ch->link);
	channel_put(&ch->thread->channel);
	ch->blob = NULL;
}

struct blob_dev_channel *
blob_channel_dev(const struct blob_channel *ch)
{
	return ch->thread->dev_ch;
}

static void
resume_deferred(struct defer *d)
{
	io_resume(CONTAINER_OF(d, struct blob_io, defer));
}

/* What is held looks again; status: or ends. */
static void
let_go(struct blob_channel *ch, int status)
{
	while (!list_empty(&ch->held)) {
		struct blob_io *io = LIST_FIRST(&ch->held, struct blob_io, link);

		list_remove(&io->link);
		if (status != 0) {
			io->status = status;
		}
		thread_defer(&io->defer, resume_deferred);
	}
}

void
blob_channel_cancel(struct blob_channel *ch, int status)
{
	let_go(ch, status);
}

/* ---- Being in flight ---- */

static bool
modifies(const struct blob_io *io)
{
	return io->touch || io->op != BLOB_READ;
}

bool
gate_holds(struct blob_io *io)
{
	uint32_t gate = atomic_load_explicit(&io->ch->head->gate, memory_order_acquire);

	if (LIKELY(gate == BLOB_GATE_OPEN) || (gate == BLOB_GATE_WRITES && !modifies(io))) {
		return false;
	}
	list_append(&io->ch->held, &io->link);
	return true;
}

void
io_begin(struct blob_io *io)
{
	struct blob_counts *counts = io->ch->counts;

	if (modifies(io)) {
		io->ch->inflight++;
	} else {
		io->ch->passing++;
	}
	io->parity = counts->parity;
	counts->inflight[io->parity]++;
}

void
io_end(struct blob_io *io)
{
	struct blob_channel *ch = io->ch;
	struct blob_counts *counts = ch->counts;

	if (modifies(io)) {
		ch->inflight--;
	} else {
		ch->passing--;
	}
	counts->inflight[io->parity]--;
	if (UNLIKELY(counts->attention)) {
		blob_attend(ch);
	}
}

/* ---- Waiting for those in flight ---- */

static void
waits_begin(struct blob_thread *t)
{
	t->waits++;
	t->counts.attention = true;
}

static void
waits_end(struct blob_thread *t)
{
	t->waits--;
	t->counts.attention = t->waits > 0;
}

static bool
drained(const struct blob_channel *ch)
{
	uint32_t gate = atomic_load_explicit(&ch->head->gate, memory_order_relaxed);

	return ch->inflight == 0 && (gate != BLOB_GATE_ALL || ch->passing == 0);
}

static void grace_over(struct msg *msg);
static void gate_closed(struct msg *msg);

/* Any thread: one of those that the wait is for has ended. */
static void
grace_unpend(struct blob_store *store)
{
	if (atomic_fetch_sub_explicit(&store->grace_pending, 1, memory_order_acq_rel) == 1) {
		thread_send(store->owner, &store->grace_msg, grace_over);
	}
}

static void
gate_unpend(struct blob_wait *wait)
{
	if (atomic_fetch_sub_explicit(&wait->pending, 1, memory_order_acq_rel) == 1) {
		thread_send(wait->store->owner, &wait->msg, gate_closed);
	}
}

void
blob_attend(struct blob_channel *ch)
{
	struct blob_thread *t = ch->thread;

	if (ch->wait != NULL && drained(ch)) {
		struct blob_wait *wait = ch->wait;

		ch->wait = NULL;
		waits_end(t);
		gate_unpend(wait);
	}
	if (t->grace && t->counts.inflight[!t->counts.parity] == 0) {
		t->grace = false;
		waits_end(t);
		grace_unpend(t->store);
	}
}

/* ---- Grace periods ---- */

static void
grace_visit(void *ctx, struct channel *ch)
{
	struct blob_store *store = ctx;
	struct blob_thread *t = thread_of(ch);
	uint8_t old = t->counts.parity;

	CHECK(!t->grace && t->counts.inflight[!old] == 0);
	t->counts.parity = !old;
	if (t->counts.inflight[old] > 0) {
		atomic_fetch_add_explicit(&store->grace_pending, 1, memory_order_relaxed);
		t->grace = true;
		waits_begin(t);
	}
}

static void
grace_visited(void *ctx)
{
	grace_unpend(ctx);
}

static void grace_begin(struct blob_store *store);

static void
grace_again(struct msg *msg)
{
	grace_begin(CONTAINER_OF(msg, struct blob_store, grace_msg));
}

static void
grace_begin(struct blob_store *store)
{
	list_splice(&store->graced, &store->graces);
	atomic_store_explicit(&store->grace_pending, 1, memory_order_relaxed);
	if (device_for_each_channel(&store->device, grace_visit, grace_visited, store) != 0) {
		thread_send(store->owner, &store->grace_msg, grace_again); /* memory is short */
	}
}

static void
grace_over(struct msg *msg)
{
	struct blob_store *store = CONTAINER_OF(msg, struct blob_store, grace_msg);
	struct list over;

	list_init(&over);
	list_splice(&over, &store->graced);
	if (!list_empty(&store->graces)) {
		grace_begin(store);
	}
	/* The last one may end the store. */
	while (!list_empty(&over)) {
		struct blob_wait *wait = LIST_FIRST(&over, struct blob_wait, link);

		list_remove(&wait->link);
		wait->done(wait);
	}
}

void
grace_start(struct blob_store *store, struct blob_wait *wait, void (*done)(struct blob_wait *wait))
{
	CHECK(thread_self() == store->owner);
	wait->store = store;
	wait->blob = NULL;
	wait->done = done;
	list_append(&store->graces, &wait->link);
	if (list_empty(&store->graced)) {
		grace_begin(store);
	}
}

/* ---- Gates ---- */

static void
gate_visit(void *ctx, struct channel *channel)
{
	struct blob_wait *wait = ctx;
	struct blob_thread *t = thread_of(channel);
	struct blob_channel *ch;

	LIST_FOREACH(ch, &t->channels, link) {
		if (ch->blob != wait->blob) {
			continue;
		}
		ch->readonly = channel_readonly(ch->blob);
		if (!drained(ch)) {
			CHECK(ch->wait == NULL);
			atomic_fetch_add_explicit(&wait->pending, 1, memory_order_relaxed);
			ch->wait = wait;
			waits_begin(t);
		}
	}
}

static void
gate_visited(void *ctx)
{
	gate_unpend(ctx);
}

static void gate_begin(struct blob_wait *wait);

static void
gate_again(struct msg *msg)
{
	gate_begin(CONTAINER_OF(msg, struct blob_wait, msg));
}

static void
gate_begin(struct blob_wait *wait)
{
	atomic_store_explicit(&wait->pending, 1, memory_order_relaxed);
	if (device_for_each_channel(&wait->store->device, gate_visit, gate_visited, wait) != 0) {
		thread_send(wait->store->owner, &wait->msg, gate_again); /* memory is short */
	}
}

static void
gate_closed(struct msg *msg)
{
	struct blob_wait *wait = CONTAINER_OF(msg, struct blob_wait, msg);
	struct blob *blob = wait->blob;

	list_remove(&wait->link);
	if (!list_empty(&blob->gate_waits)) {
		gate_begin(LIST_FIRST(&blob->gate_waits, struct blob_wait, link));
	}
	wait->done(wait);
}

void
gate_close(struct blob *blob, enum blob_gate gate, struct blob_wait *wait, void (*done)(struct blob_wait *wait))
{
	bool first = list_empty(&blob->gate_waits);

	CHECK(thread_self() == blob->store->owner && gate != BLOB_GATE_OPEN);
	wait->store = blob->store;
	wait->blob = blob;
	wait->done = done;
	blob->gates++;
	if (atomic_load_explicit(&blob->head.gate, memory_order_relaxed) < (uint32_t)gate) {
		atomic_store_explicit(&blob->head.gate, gate, memory_order_release);
	}
	if (first) {
		list_init(&blob->gate_waits);
	}
	list_append(&blob->gate_waits, &wait->link);
	if (first) {
		gate_begin(wait);
	}
}

void
gate_open(struct blob *blob)
{
	CHECK(thread_self() == blob->store->owner && blob->gates > 0);
	if (--blob->gates > 0) {
		return;
	}
	atomic_store_explicit(&blob->head.gate, BLOB_GATE_OPEN, memory_order_release);
	gate_sweep(blob->store);
}

/* ---- Sweeps ---- */

static void
sweep_visit(void *ctx, struct channel *channel)
{
	struct blob_channel *ch;

	(void)ctx;
	LIST_FOREACH(ch, &thread_of(channel)->channels, link) {
		ch->readonly = channel_readonly(ch->blob);
		let_go(ch, 0);
	}
}

static void sweep_begin(struct blob_store *store);

static void
sweep_visited(void *ctx)
{
	struct blob_store *store = ctx;

	if (store->sweep_again) {
		sweep_begin(store);
		return;
	}
	store->sweeping = false;
	store_background_end(store);
}

static void
sweep_retry(struct msg *msg)
{
	sweep_begin(CONTAINER_OF(msg, struct blob_store, sweep_msg));
}

static void
sweep_begin(struct blob_store *store)
{
	store->sweep_again = false;
	if (device_for_each_channel(&store->device, sweep_visit, sweep_visited, store) != 0) {
		thread_send(store->owner, &store->sweep_msg, sweep_retry); /* memory is short */
	}
}

void
gate_sweep(struct blob_store *store)
{
	if (store->sweeping) {
		store->sweep_again = true;
		return;
	}
	store->sweeping = true;
	store_background_begin(store);
	sweep_begin(store);
}
