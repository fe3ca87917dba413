/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An image is a wish: the disk that is in what has this name. When the base is there it is looked at (load.c), and a stack
 * (bdev/stack.h) is made with what was found; read.c reads.
 *
 *               base comes              looked at
 *   waiting -----------------> loading -----------------> up
 *      ^                          | broken                | base goes
 *      +--------------------------+-----------------------+
 *
 * Invariants
 *  1. An image watches for its base all its life; at most one load or one stack of it is there.
 *  2. Its first load, that of its creation, decides whether it lives on; after a later one that fails, it waits.
 *  3. One that is being deleted is freed when its stack is gone.
 * Context: the app thread.
 */
#include "bdevs/qcow2/qcow2.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bdevs/qcow2/internal.h"

struct image {
	struct list link;
	struct bdev_watch watch;
	char *name;
	char *base_name;
	uuid_t uuid;
	bool loading;
	struct qcow2 *up;
	/* Of its creation, while that is under way. */
	void (*created)(void *ctx, struct bdev *bdev, const struct err *err);
	void *created_ctx;
	bool deleting;
	void (*deleted)(void *ctx, int status);
	void *deleted_ctx;
};

static struct list images = {&images, &images};

static struct image *
find(const char *name)
{
	struct image *image;

	LIST_FOREACH (image, &images, link) {
		if (strcmp(image->name, name) == 0) {
			return image;
		}
	}
	return NULL;
}

static void
free_image(struct image *image)
{
	bdev_watch_stop(&image->watch);
	if (list_linked(&image->link)) {
		list_remove(&image->link);
	}
	free(image->name);
	free(image->base_name);
	free(image);
}

/* ---- The disk ---- */

static struct qcow2 *
qcow2_of(struct stack *s)
{
	return CONTAINER_OF(s, struct qcow2, stack);
}

static int
start(struct stack *s, struct err *err)
{
	struct qcow2 *q = qcow2_of(s);
	struct bdev *bdev = &s->bdev;
	unsigned piece_bits = q->header.cluster_bits - q->header.subcluster_bits;

	if (bdev_num_blocks(s->base) * QCOW2_SECTOR < q->header.file_bytes) {
		return err_set(err, -EIO, "bdev '%s' has become smaller", s->base_name);
	}
	bdev->ops = &qcow2_ops;
	bdev->ctx = q;
	bdev->product_name = "qcow2";
	bdev->num_blocks = (q->header.size + QCOW2_SECTOR - 1) / QCOW2_SECTOR;
	bdev->ops_mask = 1u << BDEV_READ | 1u << BDEV_BLOCK_STATUS | 1u << BDEV_RESET;
	bdev->tells_changes = false;
	bdev->write_cache = false;
	bdev->md_bytes = 0;
	bdev->dif_type = 0;
	bdev->dif_check_flags = 0;
	bdev->unmap_granularity_blocks = 0;
	/* So each read has one place. */
	bdev->optimal_boundary_blocks = (1u << piece_bits) / QCOW2_SECTOR;
	bdev->channel_ctx_bytes = qcow2_channel_bytes();
	stack_room(s, qcow2_own_bytes());
	return 0;
}

static int load(struct image *image, struct err *err);

static void
release(struct stack *s)
{
	struct qcow2 *q = qcow2_of(s);
	struct image *image = q->image;
	struct err err = ERR_NONE;
	bool was_up = q->was_up;

	image->up = NULL;
	free(q->l1);
	free(q);
	if (image->deleting) {
		void (*deleted)(void *ctx, int status) = image->deleted;
		void *ctx = image->deleted_ctx;

		free_image(image);
		if (deleted != NULL) {
			deleted(ctx, 0);
		}
	} else if (was_up && bdev_find(image->base_name) != NULL && load(image, &err) != 0) {
		/* The base came again before the last user of this one was gone, and is no good. */
		LOG_WARNING(BDEV, image->name, "%s", err_text(&err));
	}
}

static const struct stack_ops stack_ops = {
	.module_name = "qcow2",
	.read_only = true,
	.transient = true,
	.start = start,
	.free = release,
};

/* ---- Loading ---- */

/* Answers the creation; one that failed ends the image. */
static void
answer(struct image *image, const struct err *err)
{
	void (*created)(void *ctx, struct bdev *bdev, const struct err *err) = image->created;
	void *ctx = image->created_ctx;
	struct bdev *bdev = image->up != NULL ? &image->up->stack.bdev : NULL;

	image->created = NULL;
	if (created == NULL) {
		if (err->code != 0) {
			LOG_WARNING(BDEV, image->name, "%s", err->text);
		}
		return;
	}
	if (err->code != 0) {
		free_image(image);
	}
	created(ctx, bdev, err);
}

static void
loaded(void *ctx, const struct qcow2_header *header, uint8_t *l1, const struct err *load_err)
{
	struct image *image = ctx;
	struct err err = *load_err;
	struct qcow2 *q;

	image->loading = false;
	if (err.code != 0) {
		answer(image, &err);
		return;
	}
	q = calloc(1, sizeof(*q));
	if (q == NULL) {
		free(l1);
		err_set(&err, -ENOMEM, "bdev '%s': out of memory", image->name);
		answer(image, &err);
		return;
	}
	q->image = image;
	q->header = *header;
	q->l1 = l1;
	uuid_copy(q->stack.uuid, image->uuid);
	image->up = q;
	/* On failure release() has taken it away again. */
	if (stack_create(&q->stack, &stack_ops, image->name, image->base_name, NULL, &err) == 0) {
		q->was_up = true;
	}
	answer(image, &err);
}

static int
load(struct image *image, struct err *err)
{
	int rc = qcow2_load(image->base_name, loaded, image, err);

	image->loading = rc == 0;
	return rc;
}

static void
base_came(struct bdev_watch *w, struct bdev *base)
{
	struct image *image = CONTAINER_OF(w, struct image, watch);
	struct err err = ERR_NONE;

	if (!image->loading && image->up == NULL && load(image, &err) != 0) {
		LOG_WARNING(BDEV, image->name, "%s", err_text(&err));
	}
	bdev_watch_start(&image->watch, image->base_name, base_came);
}

/* ---- Life ---- */

struct later {
	struct defer defer;
	struct image *image;
};

/* Done is never called from inside create. */
static void
answer_later(struct defer *defer)
{
	struct later *later = CONTAINER_OF(defer, struct later, defer);
	struct image *image = later->image;
	struct err none = ERR_NONE;

	free(later);
	answer(image, &none);
}

static int
begin(struct image *image, struct err *err)
{
	struct later *later;

	bdev_watch_start(&image->watch, image->base_name, base_came);
	if (bdev_find(image->base_name) != NULL) {
		return load(image, err);
	}
	later = calloc(1, sizeof(*later));
	if (later == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", image->name);
	}
	LOG_NOTICE(BDEV, image->name, "waits for its base '%s'", image->base_name);
	later->image = image;
	thread_defer(&later->defer, answer_later);
	return 0;
}

int
bdev_qcow2_create(const struct qcow2_bdev_options *options,
		  void (*done)(void *ctx, struct bdev *bdev, const struct err *err), void *ctx,
		  struct err *err)
{
	struct image *image;
	int rc;

	if (find(options->name) != NULL || bdev_find(options->name) != NULL) {
		return err_set(err, -EEXIST, "a bdev named '%s' exists already", options->name);
	}
	image = calloc(1, sizeof(*image));
	if (image == NULL || (image->name = strdup(options->name)) == NULL ||
	    (image->base_name = strdup(options->base_name)) == NULL) {
		if (image != NULL) {
			free_image(image);
		}
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", options->name);
	}
	uuid_copy(image->uuid, options->uuid);
	image->created = done;
	image->created_ctx = ctx;
	list_append(&images, &image->link);
	rc = begin(image, err);
	if (rc != 0) {
		free_image(image);
	}
	return rc;
}

int
bdev_qcow2_delete(const char *name, void (*done)(void *ctx, int status), void *ctx,
		  struct err *err)
{
	struct image *image = find(name);

	if (image == NULL || image->deleting) {
		return err_set(err, -ENODEV, "there is no qcow2 bdev '%s'", name);
	}
	if (image->loading || image->created != NULL) {
		return err_set(err, -EBUSY, "bdev '%s' is being looked at", name);
	}
	image->deleting = true;
	image->deleted = done;
	image->deleted_ctx = ctx;
	bdev_watch_stop(&image->watch);
	if (image->up != NULL) {
		stack_delete(&image->up->stack, NULL, NULL);
		return 0;
	}
	free_image(image);
	if (done != NULL) {
		done(ctx, 0);
	}
	return 0;
}

/* ---- What there is ---- */

static void
tell(const struct image *image, struct qcow2_bdev_options *ret)
{
	ret->name = image->name;
	ret->base_name = image->base_name;
	uuid_copy(ret->uuid, image->up != NULL && image->up->stack.registered
				     ? image->up->stack.bdev.uuid
				     : image->uuid);
}

bool
bdev_qcow2_get(const struct bdev *bdev, struct qcow2_bdev_options *ret_options,
	       struct qcow2_info *ret_info)
{
	const struct qcow2 *q = bdev->ctx;

	if (bdev->ops != &qcow2_ops) {
		return false;
	}
	tell(q->image, ret_options);
	if (ret_info != NULL) {
		*ret_info = (struct qcow2_info){
			.version = q->header.version,
			.cluster_bytes = 1u << q->header.cluster_bits,
			.subclusters = q->header.subcluster_bits != 0,
			.compression = q->header.compression == QCOW2_ZSTD ? "zstd" : "deflate",
		};
	}
	return true;
}

bool
bdev_qcow2_list(unsigned i, struct qcow2_bdev_options *ret_options, bool *ret_waits)
{
	struct image *image;

	LIST_FOREACH (image, &images, link) {
		if (!image->deleting && i-- == 0) {
			tell(image, ret_options);
			*ret_waits = image->up == NULL || !image->up->stack.registered;
			return true;
		}
	}
	return false;
}
