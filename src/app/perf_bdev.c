/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bdevs in this process as targets of `berth perf`. A name with a colon, KIND:WHERE[:BLOCK], is
 * made here and deleted at the end; any other is a bdev that perf_config.c made.
 *
 * A request that completes is put on the worker's ready list and taken from there by its next poll:
 * not submitted again from within its completion, because a bdev that is done at once would never
 * let the thread go.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "app/perf_bdev.h"
#include "app/perf_internal.h"
#include "bdevs/aio/aio.h"
#include "bdevs/malloc/malloc.h"
#include "bdevs/null/null.h"
#include "bdevs/uring/uring.h"

#define DEFAULT_BLOCK_BYTES 512
#define BUFFER_ALIGN 4096u

/* ---- Specifications ---- */

static const struct {
	const char *name;
	enum perf_bdev_kind kind;
	bool is_file;
} kinds[] = {
	{"null", PERF_BDEV_NULL, false},
	{"malloc", PERF_BDEV_MALLOC, false},
	{"aio", PERF_BDEV_AIO, true},
	{"uring", PERF_BDEV_URING, true},
};

/*
 * Cuts ":4096" off the end of text where there is such a thing; a path may have colons of its
 * own.
 */
static int
take_block_size(char *text, uint32_t *ret_bytes)
{
	char *colon = strrchr(text, ':');
	uint64_t bytes;

	if (colon == NULL || perf_parse_size(colon + 1, &bytes) != 0) {
		return 0;
	}
	if (bytes < BDEV_BLOCK_SIZE_MIN || bytes > BDEV_BLOCK_SIZE_MAX ||
	    (bytes & (bytes - 1)) != 0) {
		return -EINVAL;
	}
	*colon = '\0';
	*ret_bytes = (uint32_t)bytes;
	return 0;
}

int
perf_bdev_parse(const char *text, struct perf_bdev_spec *ret_spec, struct err *err)
{
	const char *colon = strchr(text, ':');
	struct perf_bdev_spec spec = {0};
	bool is_file = false;
	char *rest;

	if (colon == NULL) {
		*ret_spec = (struct perf_bdev_spec){.kind = PERF_BDEV_NAME, .path = strdup(text)};
		return ret_spec->path != NULL ? 0 : err_set(err, -ENOMEM, "out of memory");
	}
	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (strlen(kinds[i].name) == (size_t)(colon - text) &&
		    memcmp(kinds[i].name, text, (size_t)(colon - text)) == 0) {
			spec.kind = kinds[i].kind;
			is_file = kinds[i].is_file;
		}
	}
	if (spec.kind == PERF_BDEV_NAME) {
		return err_set(err, -EINVAL,
			       "bdev '%s': '%.*s' is none of null, malloc, aio and uring", text,
			       (int)(colon - text), text);
	}
	rest = strdup(colon + 1);
	if (rest == NULL) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	if (take_block_size(strchr(rest, ':') != NULL ? rest : (char[]){""}, &spec.block_size) !=
	    0) {
		err_set(err, -EINVAL, "bdev '%s': the block size is no power of two of %u to %u",
			text, BDEV_BLOCK_SIZE_MIN, BDEV_BLOCK_SIZE_MAX);
	} else if (is_file && rest[0] != '\0') {
		spec.path = rest;
		*ret_spec = spec;
		return 0;
	} else if (is_file || perf_parse_size(rest, &spec.bytes) != 0 || spec.bytes == 0) {
		err_set(err, -EINVAL,
			is_file ? "bdev '%s': the path is missing" : "bdev '%s': '%s' is no size",
			text, rest);
	} else {
		free(rest);
		spec.block_size = spec.block_size == 0 ? DEFAULT_BLOCK_BYTES : spec.block_size;
		*ret_spec = spec;
		return 0;
	}
	free(rest);
	return -EINVAL;
}

/* ---- Making ---- */

static int
create(struct perf_target *t, const struct perf_bdev_spec *spec, struct err *err)
{
	uint64_t blocks = spec->block_size == 0 ? 0 : spec->bytes / spec->block_size;

	switch (spec->kind) {
	case PERF_BDEV_NULL: {
		struct null_bdev_options o = {
			.name = t->created, .num_blocks = blocks, .block_size = spec->block_size};

		t->delete = bdev_null_delete;
		return bdev_null_create(&o, NULL, err);
	}
	case PERF_BDEV_MALLOC: {
		struct malloc_bdev_options o = {
			.name = t->created, .num_blocks = blocks, .block_size = spec->block_size};

		t->delete = bdev_malloc_delete;
		return bdev_malloc_create(&o, NULL, err);
	}
	case PERF_BDEV_AIO: {
		struct aio_bdev_options o = {
			.name = t->created, .filename = spec->path, .block_size = spec->block_size};
		struct bdev *bdev;

		t->delete = bdev_aio_delete;
		return bdev_aio_create(&o, &bdev, err);
	}
	case PERF_BDEV_URING: {
		struct uring_bdev_options o = {
			.name = t->created, .filename = spec->path, .block_size = spec->block_size};
		struct bdev *bdev;

		t->delete = bdev_uring_delete;
		return bdev_uring_create(&o, &bdev, err);
	}
	default:
		return 0;
	}
}

static void
event(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
	struct perf_target *t = ctx;

	if (ev == BDEV_EVENT_REMOVE) {
		t->lost(t);
	}
}

static int
open_bdev(struct perf_target *t, const char *name, struct err *err)
{
	struct bdev *bdev = bdev_find(name);
	int rc;

	if (bdev == NULL) {
		return err_set(err, -ENODEV, "there is no bdev '%s'", name);
	}
	rc = bdev_open(name, !bdev_readonly(bdev), event, t, &t->desc, err);
	if (rc != 0) {
		return rc;
	}
	t->block_size = bdev_block_size(bdev);
	t->num_blocks = bdev_num_blocks(bdev);
	t->buffer_align = MAX(bdev_buffer_align(bdev), (uint32_t)BUFFER_ALIGN);
	t->readonly = bdev_readonly(bdev);
	for (unsigned op = 0; op < BDEV_OP_COUNT; op++) {
		t->ops_mask |= (uint32_t)bdev_supports(bdev, (enum bdev_op)op) << op;
	}
	t->request_extra = bdev_io_bytes(bdev);
	return 0;
}

static int
target_open(struct perf_target *t, struct err *err)
{
	struct perf_bdev_spec spec;
	int rc;

	if (t->bdev_name != NULL) {
		return open_bdev(t, t->bdev_name, err);
	}
	rc = perf_bdev_parse(t->name, &spec, err);
	if (rc != 0) {
		return rc;
	}
	if (spec.kind != PERF_BDEV_NAME) {
		/* No other target has this name: each is opened once. */
		t->created = strdup(t->name);
		if (t->created == NULL) {
			free(spec.path);
			return err_set(err, -ENOMEM, "out of memory");
		}
		rc = create(t, &spec, err);
		if (rc != 0) {
			free(t->created);
			t->created = NULL;
		}
	}
	if (rc == 0) {
		rc = open_bdev(t, t->name, err);
	}
	free(spec.path);
	return rc;
}

static void
deleted(void *ctx, int status)
{
	struct perf_target *t = ctx;

	free(t->created);
	t->created = NULL;
	t->closed(t);
}

static void
target_close(struct perf_target *t)
{
	if (t->desc != NULL) {
		bdev_close(t->desc);
		t->desc = NULL;
	}
	if (t->created == NULL || t->delete (t->created, deleted, t, NULL) != 0) {
		t->closed(t);
	}
}

static bool
alive(struct perf_target *t)
{
	return true;
}

/* ---- Workers ---- */

static int
prepare(struct perf_worker *w, struct err *err)
{
	size_t align = w->target->buffer_align;

	w->buffer_bytes = (w->buffer_bytes + align - 1) & ~(align - 1);
	w->buffers = aligned_alloc(align, w->depth * w->buffer_bytes);
	if (w->buffers == NULL) {
		return err_set(err, -ENOMEM, "%s: no memory for %u buffers of %zu bytes",
			       w->job->name, w->depth, w->buffer_bytes);
	}
	memset(w->buffers, 0x5a, w->depth * w->buffer_bytes);
	return 0;
}

static void
unprepare(struct perf_worker *w)
{
	free(w->buffers);
}

static int
start(struct perf_worker *w, struct err *err)
{
	int rc = 0;

	w->ch = bdev_channel_get(w->target->desc, &rc);
	if (w->ch == NULL) {
		return err_set(err, rc, "%s: %s: cannot get a channel: %s", w->job->name,
			       w->target->name, strerror(-rc));
	}
	for (unsigned i = 0; i < w->depth; i++) {
		struct perf_request *req = perf_worker_request(w, i);

		req->io = (struct bdev_io *)((uint8_t *)req + PERF_REQUEST_BYTES);
	}
	return 0;
}

static void
stop(struct perf_worker *w)
{
	bdev_channel_put(w->ch);
	w->ch = NULL;
}

static void
io_done(struct bdev_io *io, int status)
{
	struct perf_request *req = (struct perf_request *)((uint8_t *)io - PERF_REQUEST_BYTES);
	struct perf_worker *w = req->worker;

	req->status = status;
	w->ready[w->ready_count++] = req;
	poller_wake(&w->poller);
}

static int
submit(struct perf_worker *w, struct perf_request *req)
{
	bool data = req->op == BDEV_READ || req->op == BDEV_WRITE;

	bdev_io_init(req->io, (enum bdev_op)req->op, req->lba, w->blocks, &req->iov, data ? 1 : 0,
		     io_done);
	bdev_submit(w->ch, req->io);
	return 0;
}

static int
poll(struct perf_worker *w, struct perf_request *done[PERF_BATCH])
{
	unsigned n = MIN(w->ready_count, (unsigned)PERF_BATCH);

	memcpy(done, w->ready, n * sizeof(*done));
	w->ready_count -= n;
	memmove(w->ready, w->ready + n, w->ready_count * sizeof(*done));
	return (int)n;
}

static bool
arm(struct perf_worker *w)
{
	return w->ready_count > 0;
}

const struct perf_target_ops perf_bdev_ops = {
	.open = target_open,
	.close = target_close,
	.alive = alive,
	.prepare = prepare,
	.unprepare = unprepare,
	.start = start,
	.stop = stop,
	.submit = submit,
	.poll = poll,
	.arm = arm,
};
