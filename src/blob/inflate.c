/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A blob gets storage of its own for what it reads from below: for all its clusters (inflate), or for those that its parent has
 * itself (decouple). A few clusters at a time are touched, as a write would, while the blob is in use; when none is missing,
 * under a gate for writes, one commit says that it is thick and alone, or stands on its grandparent. One that is decoupled from
 * an external snapshot that knows its holes has only the data of that (holes.c), and stays thin.
 *
 * Invariants
 *  1. Whether something is missing is looked at in the operation that commits, with nothing in flight: what was released
 *     meanwhile is allocated first.
 *  2. What was allocated before it ended early stays: it is what the blob read anyway.
 *  3. Clusters that lie beyond the parent's end read as zeroes; when there is something deeper for them, they are allocated too.
 *
 * Context: the owner.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "blob/internal.h"

#define INFLATE_TOUCHES 8u /* in flight */
#define INFLATE_SCAN 4096u /* clusters looked at in one turn */

/* ---- One cluster ---- */

struct touch *
touch_create(struct blob_channel *ch, void (*done)(struct touch *touch, int status), void *ctx)
{
	size_t align = _Alignof(struct touch);
	size_t bytes = offsetof(struct touch, io) + blob_io_bytes(ch->blob->store);
	struct touch *touch = aligned_alloc(align, (bytes + align - 1) / align * align);

	if (touch != NULL) {
		memset(touch, 0, sizeof(*touch));
		touch->done = done;
		touch->ctx = ctx;
		touch->ch = ch;
	}
	return touch;
}

static void
touch_done(struct blob_io *io, int status)
{
	struct touch *touch = CONTAINER_OF(io, struct touch, io);

	touch->done(touch, status);
}

void
touch_start(struct touch *touch, uint64_t cluster)
{
	struct blob_store *store = touch->ch->blob->store;

	touch->cluster = cluster;
	touch->io.done = touch_done;
	touch->io.unit = cluster * store->cluster_units;
	touch->io.count = 1;
	blob_touch(touch->ch, &touch->io);
}

/* ---- All of them ---- */

struct inflate {
	struct md_op op;
	struct md_persist persist;
	struct blob_wait wait;
	struct defer defer;
	struct blob_work *work;
	struct blob *blob;
	bool decouple;
	uint64_t from; /* id of the snapshot to be parted from */
	bool has_channel, gated, scanning;
	struct blob_channel ch;
	struct touch *touches[INFLATE_TOUCHES];
	unsigned idle, inflight; /* of touches: the first `idle` are free */
	uint64_t next; /* cluster */
	struct blob_external *external; /* shared for the blob */
	struct holes holes; /* of the external snapshot; has data: what are holes there is not missed */
	bool seeking;
	int status;
	struct err err;
};

static void
answer(struct inflate *f)
{
	struct blob *blob = f->blob;
	struct blob_work *work = f->work;
	struct blob_store *store = blob->store;

	work->cancel = NULL;
	for (unsigned i = 0; i < INFLATE_TOUCHES; i++) {
		free(f->touches[i]);
	}
	if (f->has_channel) {
		blob_channel_put(&f->ch);
	}
	external_detach(store, f->external);
	holes_release(&f->holes);
	blob->busy = false;
	blob->opens--;
	work->done(work->ctx, f->status, &f->err);
	free(f);
	merge_kick(store);
	store_background_end(store);
}

static void
answer_deferred(struct defer *d)
{
	answer(CONTAINER_OF(d, struct inflate, defer));
}

static int
set_error(struct inflate *f, int status)
{
	const char *what = f->decouple || f->holes.data != NULL ? "decoupled" : "inflated";

	if (f->err.code == 0) {
		err_set(&f->err, status, "%s could not be %s: %s", CALLED(f->blob), what, strerror(-status));
	}
	return status;
}

/* Deleted, and nobody else's: it is about to be merged into the blob above, and the user knows it no more. */
static bool
is_leaving(const struct blob *snapshot)
{
	return snapshot->deleted && !list_empty(&snapshot->clones) && snapshot->clones.next == snapshot->clones.prev;
}

/* What the blob is parted from: the nearest one below it that stays, and all between; if there is none, the lowest. id: what
 * it was when that began, BLOB_ID_NONE: that is now. NULL: the blob has no parent. */
static struct blob *
parted_from(const struct blob *blob, uint64_t id)
{
	struct blob *at = blob_parent(blob), *next;

	while (at != NULL && at->id != id && is_leaving(at) && (next = blob_parent(at)) != NULL) {
		at = next;
	}
	return at;
}

/* The external snapshot that the blob reads from, or will when what is leaving below it has left; NULL: none, or a snapshot that
 * stays is between. */
static struct blob_external *
nearest_external(const struct blob *blob)
{
	const struct blob *last = parted_from(blob, BLOB_ID_NONE);

	if (last == NULL) {
		return below_external(blob_below(blob));
	}
	return is_leaving(last) ? below_external(blob_below(last)) : NULL;
}

static bool
is_between(const struct blob *blob, uint64_t cluster)
{
	for (const struct blob *at = blob_parent(blob); at != NULL && cluster < blob_num_clusters(at); at = blob_parent(at)) {
		if (blob_map_entry(&at->head, cluster) != 0) {
			return true;
		}
	}
	return false;
}

/* A cluster that the blob has not: is it to have it? */
static bool
needs(const struct inflate *f, uint64_t cluster)
{
	const struct blob *at = below_parent(blob_below(f->blob)), *last;

	if (f->holes.data != NULL) {
		return holes_has_data(&f->holes, cluster) || is_between(f->blob, cluster);
	}
	if (!f->decouple || below_external(blob_below(f->blob)) != NULL) {
		return true;
	}
	for (last = parted_from(f->blob, f->from); at != NULL; at = blob_parent(at)) {
		if (cluster >= blob_num_clusters(at)) {
			return volume_is_below(at, cluster);
		}
		if (blob_map_entry(&at->head, cluster) != 0) {
			return true;
		}
		if (at == last) {
			break;
		}
	}
	return false;
}

static bool
is_missing(const struct inflate *f, uint64_t cluster)
{
	uint32_t entry = blob_map_entry(&f->blob->head, cluster);

	return (entry == 0 || entry == BLOB_CLUSTER_BUSY) && needs(f, cluster);
}

static void go_on(struct defer *d);

static void
schedule(struct inflate *f)
{
	if (!f->scanning) {
		f->scanning = true;
		thread_defer(&f->defer, go_on);
	}
}

/* ---- The commit ---- */

static void
open_gate(struct inflate *f)
{
	f->gated = false;
	gate_open(f->blob);
}

static void
committed(struct md_persist *p, int status)
{
	struct inflate *f = CONTAINER_OF(p, struct inflate, persist);
	struct blob *blob = f->blob, *parent = below_parent(blob_below(blob));
	struct blob_external *old = below_external(blob_below(blob));

	md_persist_release(p);
	if (status != 0) {
		f->status = set_error(f, status);
	} else {
		struct blob *next = f->decouple && parent != NULL ? blob_parent(parted_from(blob, f->from)) : NULL;

		list_remove(&blob->clone_link);
		blob_set_below(blob, next, f->external);
		f->external = old; /* to be detached */
		if (next != NULL) {
			list_append(&next->clones, &blob->clone_link);
		}
		if (parent != NULL) {
			merge_consider(parent);
		}
	}
	open_gate(f);
	md_op_end(&f->op);
	answer(f);
}

static int
describe(struct inflate *f)
{
	struct md_image *image = &f->persist.image;
	struct blob *parent = parted_from(f->blob, f->from);
	const struct blob_own_xattr *x;

	md_image_remove_xattr(image, true, BLOB_XATTR_PARENT);
	md_image_remove_xattr(image, true, BLOB_XATTR_EXTERNAL);
	image->flags.invalid &= ~BLOB_INVALID_EXTERNAL;
	if (f->holes.data != NULL) {
		return 0;
	}
	if (!f->decouple || parent == NULL) {
		image->flags.invalid &= ~BLOB_INVALID_THIN;
		return 0;
	}
	if ((parent->flags.invalid & BLOB_INVALID_EXTERNAL) != 0) {
		x = own_xattr_find(&parent->xattrs, true, BLOB_XATTR_EXTERNAL);
		f->external = external_share(below_external(blob_below(parent)));
		image->flags.invalid |= BLOB_INVALID_EXTERNAL;
	} else {
		x = own_xattr_find(&parent->xattrs, true, BLOB_XATTR_PARENT);
	}
	return x == NULL ? 0 : md_image_set_xattr(image, true, x->name, x->value, x->bytes);
}

static bool
all_there(const struct inflate *f)
{
	uint64_t end = blob_num_clusters(f->blob);

	if (!f->decouple && f->holes.data == NULL) {
		return blob_allocated_clusters(f->blob) == end;
	}
	for (uint64_t c = 0; c < end; c++) {
		if (is_missing(f, c)) {
			return false;
		}
	}
	return true;
}

static void
commit(struct md_op *op)
{
	struct inflate *f = CONTAINER_OF(op, struct inflate, op);
	int rc = md_op_refused(op->store, &f->err);

	if (rc == 0 && !all_there(f)) {
		open_gate(f);
		md_op_end(op);
		f->next = 0;
		schedule(f);
		return;
	}
	if (rc == 0) {
		merge_disturb(f->blob);
		rc = md_persist_init(&f->persist, f->blob);
		if (rc == 0) {
			rc = describe(f);
		}
		if (rc == 0) {
			f->persist.flush_first = true; /* the entries of what was touched are written, not flushed */
			md_persist_run(&f->persist, committed);
			return;
		}
		md_persist_release(&f->persist);
	}
	f->status = set_error(f, rc);
	open_gate(f);
	md_op_end(op);
	answer(f);
}

static void
gate_closed(struct blob_wait *wait)
{
	struct inflate *f = CONTAINER_OF(wait, struct inflate, wait);

	md_op_start(f->blob->store, &f->op, f->decouple ? "decouple" : "inflate", commit);
}

/* ---- Touching ---- */

static void
progress(struct inflate *f)
{
	if (f->work->progress != NULL) {
		f->work->progress(f->work->ctx, f->next - MIN(f->next, (uint64_t)f->inflight), blob_num_clusters(f->blob));
	}
}

static void
touched(struct touch *touch, int status)
{
	struct inflate *f = touch->ctx;

	f->inflight--;
	f->touches[f->idle++] = touch;
	if (status != 0 && f->status == 0) {
		f->status = set_error(f, status);
	}
	progress(f);
	schedule(f);
}

static void
go_on(struct defer *d)
{
	struct inflate *f = CONTAINER_OF(d, struct inflate, defer);
	uint64_t end = blob_num_clusters(f->blob);
	unsigned looked = 0;

	f->scanning = false;
	if (f->seeking) {
		return;
	}
	if (f->status == 0 && f->work->cancelled) {
		f->status = err_set(&f->err, -ECANCELED, "%s: it was cancelled", CALLED(f->blob));
	}
	while (f->status == 0 && f->next < end && f->idle > 0 && looked < INFLATE_SCAN) {
		uint64_t cluster = f->next++;

		looked++;
		if (is_missing(f, cluster)) {
			struct touch *touch = f->touches[--f->idle];

			f->touches[f->idle] = NULL;
			f->inflight++;
			touch_start(touch, cluster);
		}
	}
	if (looked == INFLATE_SCAN) {
		schedule(f);
	} else if (f->inflight == 0 && f->status != 0) {
		answer(f);
	} else if (f->inflight == 0 && f->next >= end) {
		f->gated = true;
		gate_close(f->blob, BLOB_GATE_WRITES, &f->wait, gate_closed);
	}
}

/* 0: something is to be done; 1: nothing is. */
static int
may_start(const struct blob *blob, bool decouple, struct err *err)
{
	int rc = volume_is_there(blob, err);

	if (rc != 0) {
		return rc;
	}
	if (md_op_refused(blob->store, err) != 0) {
		return err->code;
	}
	rc = volume_is_idle(blob, err);
	if (rc != 0) {
		return rc;
	}
	if (decouple && blob_below(blob) == 0) {
		return err_set(err, -EINVAL, "%s has no parent", CALLED(blob));
	}
	return blob_thin(blob) ? 0 : 1;
}

static int
check_space(struct inflate *f)
{
	uint64_t end = blob_num_clusters(f->blob), n = 0;
	uint64_t left = atomic_load_explicit(&f->blob->store->free_clusters, memory_order_relaxed);

	for (uint64_t c = 0; c < end; c++) {
		n += is_missing(f, c);
	}
	if (n > left) {
		return err_set(&f->err, -ENOSPC, "%s: %" PRIu64 " clusters are needed, %" PRIu64 " are free",
			       CALLED(f->blob), n, left);
	}
	return 0;
}

/* A snapshot that does not know its holes, or cannot say: it has none. */
static void
holes_known(struct holes *h, int status)
{
	struct inflate *f = CONTAINER_OF(h, struct inflate, holes);
	int rc;

	f->seeking = false;
	if (status != 0) {
		holes_release(h);
	}
	rc = f->work->cancelled ? 0 : check_space(f);
	if (rc != 0) {
		f->status = set_error(f, rc);
	}
	schedule(f);
}

static int
prepare(struct inflate *f, struct blob_external *decoupled_from)
{
	int rc = decoupled_from != NULL ? 0 : check_space(f);

	if (rc == 0) {
		rc = blob_channel_get(f->blob, &f->ch);
		f->has_channel = rc == 0;
	}
	for (unsigned i = 0; rc == 0 && i < INFLATE_TOUCHES; i++) {
		f->touches[i] = touch_create(&f->ch, touched, f);
		rc = f->touches[i] == NULL ? -ENOMEM : 0;
	}
	f->idle = INFLATE_TOUCHES;
	if (rc == 0 && decoupled_from != NULL && blob_num_clusters(f->blob) > 0) {
		rc = holes_start(&f->holes, &f->ch, decoupled_from, holes_known);
		f->seeking = rc == 0;
	}
	return rc;
}

/* Touches that wait for space end. */
static void
cancel(struct blob_work *work)
{
	struct inflate *f = work->state;

	blob_channel_cancel(&f->ch, -ECANCELED);
	f->holes.stopped = true;
	if (!f->gated) {
		schedule(f);
	}
}

static void
start(struct blob *blob, struct blob_work *work, bool decouple)
{
	struct err err = ERR_NONE;
	int rc = may_start(blob, decouple, &err);
	struct inflate *f = rc == 0 ? calloc(1, sizeof(*f)) : NULL;
	struct blob_external *external;
	const struct blob *last;

	work->blob = blob;
	work->cancelled = false;
	work->cancel = NULL;
	if (f == NULL) {
		store_answer(blob->store, work->done, work->ctx, rc < 0 ? rc : rc == 1 ? 0 : -ENOMEM, &err);
		return;
	}
	f->blob = blob;
	f->work = work;
	last = parted_from(blob, BLOB_ID_NONE);
	f->from = last == NULL ? BLOB_ID_NONE : last->id;
	external = decouple ? nearest_external(blob) : NULL;
	f->decouple = decouple && external == NULL;
	blob->busy = true;
	blob->opens++;
	store_background_begin(blob->store);
	work->state = f;
	rc = prepare(f, external);
	if (rc != 0) {
		f->status = set_error(f, rc);
		thread_defer(&f->defer, answer_deferred);
		return;
	}
	work->cancel = cancel;
	if (!f->seeking) {
		schedule(f);
	}
}

void
blob_inflate(struct blob *blob, struct blob_work *work)
{
	start(blob, work, false);
}

void
blob_decouple(struct blob *blob, struct blob_work *work)
{
	start(blob, work, true);
}

void
blob_work_cancel(struct blob_work *work)
{
	work->cancelled = true;
	if (work->cancel != NULL) {
		work->cancel(work);
	}
}
