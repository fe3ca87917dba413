/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Before there is a bdev its size has to be known: the base is opened to read, the header is read, then the first table; then
 * the base is closed again.
 *
 * Invariant: what was read of the header decides how much of the table is read, and where: the parser has checked both.
 * Context: the app thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdevs/qcow2/internal.h"

struct qcow2_load {
	struct bdev_desc *desc;
	struct bdev_channel *ch;
	struct bdev_io *io;
	struct iovec iov;
	uint8_t *buf;
	bool table; /* it is being read */
	struct qcow2_header header;
	void (*done)(void *ctx, const struct qcow2_header *header, uint8_t *l1, const struct err *err);
	void *ctx;
};

/* Accepts a half-built one. */
static void
free_load(struct qcow2_load *l)
{
	if (l->ch != NULL) {
		bdev_channel_put(l->ch);
	}
	bdev_close(l->desc);
	free(l->io);
	free(l->buf);
	free(l);
}

static void
end(struct qcow2_load *l, const struct err *err)
{
	uint8_t *l1 = NULL;
	struct qcow2_load copy = *l;

	if (err->code == 0) {
		l1 = l->buf;
		l->buf = NULL;
	}
	free_load(l);
	copy.done(copy.ctx, &copy.header, l1, err);
}

static void was_read(struct bdev_io *io, int status);

static bool
read_bytes(struct qcow2_load *l, uint64_t offset, uint64_t bytes)
{
	uint64_t rounded = (bytes + QCOW2_SECTOR - 1) / QCOW2_SECTOR * QCOW2_SECTOR;

	free(l->buf);
	l->buf = aligned_alloc(4096, (rounded + 4095) & ~UINT64_C(4095));
	if (l->buf == NULL) {
		return false;
	}
	l->iov = (struct iovec){.iov_base = l->buf, .iov_len = rounded};
	bdev_io_init(l->io, BDEV_READ, offset / QCOW2_SECTOR, rounded / QCOW2_SECTOR, &l->iov, 1,
		     was_read);
	bdev_submit(l->ch, l->io);
	return true;
}

static void
header_read(struct qcow2_load *l)
{
	const struct bdev *base = bdev_desc_bdev(l->desc);
	struct err err = ERR_NONE;

	qcow2_parse_header(l->buf, l->iov.iov_len, bdev_num_blocks(base) * QCOW2_SECTOR, &l->header,
			   &err);
	if (err.code == 0 && !qcow2_can_inflate(l->header.compression)) {
		err_set(&err, -ENOTSUP, "it is compressed with zstd, which this build cannot read");
	}
	if (err.code == 0) {
		l->table = true;
		if (read_bytes(l, l->header.l1_offset, (uint64_t)l->header.l1_entries * 8)) {
			return;
		}
		err_set(&err, -ENOMEM, "out of memory");
	}
	err_prefix(&err, "image on bdev '%s': ", bdev_name(base));
	end(l, &err);
}

static void
was_read(struct bdev_io *io, int status)
{
	struct qcow2_load *l = CONTAINER_OF(io->iov, struct qcow2_load, iov);
	struct err err = ERR_NONE;

	if (status != 0) {
		err_set(&err, status, "image on bdev '%s' cannot be read: %s",
			bdev_name(bdev_desc_bdev(l->desc)), strerror(-status));
		end(l, &err);
	} else if (l->table) {
		end(l, &err);
	} else {
		header_read(l);
	}
}

/* The base is going: the request ends soon. */
static void
base_event(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
}

static int
open_base(struct qcow2_load *l, const char *base_name, struct err *err)
{
	int rc = bdev_open(base_name, false, base_event, l, &l->desc, err);
	struct bdev *base;

	if (rc != 0) {
		return rc;
	}
	base = bdev_desc_bdev(l->desc);
	if (bdev_block_size(base) != QCOW2_SECTOR) {
		return err_set(err, -EINVAL, "bdev '%s' has blocks of %u bytes; an image needs %u",
			       base_name, bdev_block_size(base), QCOW2_SECTOR);
	}
	l->io = aligned_alloc(CACHE_LINE_BYTES, bdev_io_bytes(base));
	l->ch = bdev_channel_get(l->desc, &rc);
	if (l->io == NULL || l->ch == NULL ||
	    !read_bytes(l, 0, MIN((uint64_t)QCOW2_HEADER_BYTES, bdev_num_blocks(base) * QCOW2_SECTOR))) {
		return err_set(err, rc != 0 ? rc : -ENOMEM, "image on bdev '%s' cannot be read", base_name);
	}
	return 0;
}

int
qcow2_load(const char *base_name,
	   void (*done)(void *ctx, const struct qcow2_header *header, uint8_t *l1,
			const struct err *err),
	   void *ctx, struct err *err)
{
	struct qcow2_load *l = calloc(1, sizeof(*l));
	int rc;

	if (l == NULL) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	l->done = done;
	l->ctx = ctx;
	rc = open_base(l, base_name, err);
	if (rc != 0) {
		free_load(l);
	}
	return rc;
}
