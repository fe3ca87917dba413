/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A blob gets another parent, or an external snapshot instead: one commit of its own chain. The user says that the contents
 * are the same, so readers may find either while it happens; what is below is one word (internal.h), set after the commit.
 * Context: the owner.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blob/internal.h"

struct change {
	struct md_op op;
	struct md_persist persist;
	struct blob *blob;
	struct blob *parent; /* NULL: an external snapshot */
	struct blob_external *external;
	void *id;
	size_t id_bytes;
	blob_done_fn done;
	void *ctx;
	struct err err;
};

static void
end(struct change *c, int status)
{
	c->blob->busy = false;
	if (c->parent != NULL) {
		c->parent->opens--;
	}
	md_op_end(&c->op);
	merge_kick(c->blob->store); /* one that found the blob busy rests */
	external_detach(c->blob->store, c->external); /* the old one; or the new one, when it came to nothing */
	c->done(c->ctx, status, &c->err);
	free(c->id);
	free(c);
}

static void
persisted(struct md_persist *p, int status)
{
	struct change *c = CONTAINER_OF(p, struct change, persist);
	struct blob *blob = c->blob, *old_parent = below_parent(blob_below(blob));
	struct blob_external *old_external = below_external(blob_below(blob));

	md_persist_release(p);
	if (status != 0) {
		err_set(&c->err, status, "%s: its metadata could not be written", CALLED(blob));
		end(c, status);
		return;
	}
	if (old_parent != NULL) {
		list_remove(&blob->clone_link);
	}
	blob_set_below(blob, c->parent, c->external);
	if (c->parent != NULL) {
		list_append(&c->parent->clones, &blob->clone_link);
	}
	c->external = old_external;
	if (old_parent != NULL) {
		merge_consider(old_parent);
	}
	end(c, 0);
}

/* The image says what is below; 0 or a negative errno. */
static int
describe(struct change *c)
{
	struct md_image *image = &c->persist.image;
	int rc;

	image->flags.invalid |= BLOB_INVALID_THIN | BLOB_INVALID_INTERNAL_XATTR;
	if (c->parent != NULL) {
		image->flags.invalid &= ~BLOB_INVALID_EXTERNAL;
		md_image_remove_xattr(image, true, BLOB_XATTR_EXTERNAL);
		return md_image_set_xattr(image, true, BLOB_XATTR_PARENT, &c->parent->id, sizeof(c->parent->id));
	}
	image->flags.invalid |= BLOB_INVALID_EXTERNAL;
	md_image_remove_xattr(image, true, BLOB_XATTR_PARENT);
	rc = md_image_set_xattr(image, true, BLOB_XATTR_EXTERNAL, c->id, c->id_bytes);
	if (rc == 0) {
		c->external = external_attach(c->blob, c->id, c->id_bytes);
		rc = c->external == NULL ? -ENOMEM : 0;
	}
	return rc;
}

static void
run(struct md_op *op)
{
	struct change *c = CONTAINER_OF(op, struct change, op);
	int rc = md_op_refused(op->store, &c->err);

	if (rc == 0) {
		rc = md_persist_init(&c->persist, c->blob);
		if (rc == 0) {
			rc = describe(c);
			if (rc == 0) {
				md_persist_run(&c->persist, persisted);
				return;
			}
			md_persist_release(&c->persist);
		}
		err_set(&c->err, rc, "%s: %s", CALLED(c->blob), strerror(-rc));
	}
	end(c, rc);
}

static bool
stands_on(const struct blob *blob, const struct blob *on)
{
	for (; blob != NULL; blob = below_parent(blob_below(blob))) {
		if (blob == on) {
			return true;
		}
	}
	return false;
}

/* What both kinds of change ask of the blob. */
static int
may_change(const struct blob *blob, struct err *err)
{
	if (!blob_thin(blob)) {
		return err_set(err, -EINVAL, "%s is not thin", CALLED(blob));
	}
	if (blob->md_ro || blob->deleted || blob->damage.code != 0) {
		return err_set(err, -EROFS, "the metadata of %s cannot be changed", CALLED(blob));
	}
	return volume_is_idle(blob, err);
}

static void
begin(struct blob *blob, struct blob *parent, const void *id, size_t bytes, blob_done_fn done, void *ctx)
{
	struct change *c = calloc(1, sizeof(*c));

	if (c != NULL && id != NULL) {
		c->id = malloc(bytes);
		c->id_bytes = bytes;
		if (c->id == NULL) {
			free(c);
			c = NULL;
		} else {
			memcpy(c->id, id, bytes);
		}
	}
	if (c == NULL) {
		store_answer(blob->store, done, ctx, -ENOMEM, NULL);
		return;
	}
	c->blob = blob;
	c->parent = parent;
	c->done = done;
	c->ctx = ctx;
	blob->busy = true;
	if (parent != NULL) {
		parent->opens++; /* it is not deleted meanwhile */
	}
	md_op_start(blob->store, &c->op, "set parent", run);
}

static int
parent_fits(const struct blob *blob, const struct blob *parent, struct err *err)
{
	if (parent->store != blob->store || !parent->data_ro || parent->deleted || parent->damage.code != 0) {
		return err_set(err, -EINVAL, "%s is not read-only, or cannot be a parent", CALLED(parent));
	}
	if (stands_on(parent, blob)) {
		return err_set(err, -EINVAL, "%s stands on %s", CALLED(parent), CALLED(blob));
	}
	if (below_parent(blob_below(blob)) == parent) {
		return err_set(err, -EEXIST, "%s is the parent of %s already", CALLED(parent), CALLED(blob));
	}
	if (blob_num_clusters(parent) != blob_num_clusters(blob)) {
		return err_set(err, -EINVAL, "%s has %llu clusters, %s has %llu", CALLED(parent),
			       (unsigned long long)blob_num_clusters(parent), CALLED(blob),
			       (unsigned long long)blob_num_clusters(blob));
	}
	return volume_is_idle(parent, err);
}

void
blob_set_parent(struct blob *blob, struct blob *parent, blob_done_fn done, void *ctx)
{
	struct err err = ERR_NONE;
	int rc = may_change(blob, &err);

	if (rc == 0) {
		rc = parent_fits(blob, parent, &err);
	}
	if (rc != 0) {
		store_answer(blob->store, done, ctx, rc, &err);
		return;
	}
	begin(blob, parent, NULL, 0, done, ctx);
}

void
blob_set_external(struct blob *blob, const void *id, size_t bytes, blob_done_fn done, void *ctx)
{
	struct err err = ERR_NONE;
	size_t old_bytes = 0;
	const void *old = blob_external_id(blob, &old_bytes);
	int rc = may_change(blob, &err);

	if (rc == 0 && (bytes == 0 || bytes > BLOB_XATTR_BYTES_MAX - sizeof(BLOB_XATTR_EXTERNAL))) {
		rc = err_set(&err, -EINVAL, "an external snapshot's id of %zu bytes", bytes);
	}
	if (rc == 0 && old != NULL && old_bytes == bytes && memcmp(old, id, bytes) == 0) {
		rc = err_set(&err, -EEXIST, "%s has this external snapshot already", CALLED(blob));
	}
	if (rc != 0) {
		store_answer(blob->store, done, ctx, rc, &err);
		return;
	}
	begin(blob, NULL, id, bytes, done, ctx);
}
