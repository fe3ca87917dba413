/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Metadata and protection information (PI, base/dif.h). Every read and write of a bdev that has
 * metadata is cut into parts by split.c, and each part that reaches the module has metadata of its
 * own: a write's is the submitter's, verified, or made up (PI of the data, all else zero); a read's
 * is verified when it comes back, and copied to the submitter or dropped.
 *
 * Invariants
 *  1. What the module gets for a write is PI that fits the data, as far as dif_check_flags say, or
 *     escapes: the data is the core's copy (needs_stable_data), which nobody changes any more.
 *  2. Metadata lives in the part; the submitter's is copied to it, once.
 *  3. A read whose PI does not fit ends with -EILSEQ; the submitter's buffers hold its data
 *     nevertheless.
 *  4. The reference tag of types 1 and 2 is the block's number.
 *
 * Of other operations: a compare reads, and compares the submitter's metadata too where it gives
 * any; a copy takes the metadata along, and moves the reference tags on; write zeroes, when the
 * core writes zeroes itself, is a write with metadata made up. A module's own write zeroes and
 * unmap leave metadata as of blocks that were never written (dif_fill_unwritten()): PI of ones,
 * which nobody checks.
 * Context: the channel's thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/dif.h"
#include "base/log.h"
#include "bdev/internal.h"
#include "event/reactor.h"

/* Of one part. */
#define MD_PART_BYTES 4096

struct md_store {
	struct dif dif; /* of type 0: there is no PI */
	uint8_t bytes[PARTS_MAX][MD_PART_BYTES];
};

/* ---- Making ---- */

int
md_check(struct bdev *bdev, struct err *err)
{
	struct dif dif;
	int rc = 0;

	if (bdev->md_bytes > DIF_MD_MAX) {
		rc = err_set(err, -EINVAL, "%u bytes of metadata are more than %d", bdev->md_bytes,
			     DIF_MD_MAX);
	} else if (bdev->dif_type != 0) {
		rc = dif_init(&dif, bdev->block_size, bdev->md_bytes, bdev->dif_type,
			      bdev->dif_pi_format, bdev->dif_head_of_md, bdev->dif_check_flags,
			      err);
		bdev->needs_stable_data = true;
	}
	if (rc != 0) {
		err_prefix(err, "bdev '%s': ", bdev->name);
	}
	return rc;
}

void
bdev_md(const struct bdev *bdev, struct bdev_md *ret_md)
{
	*ret_md = (struct bdev_md){
		.bytes = bdev->md_bytes,
		.interleave = bdev->md_interleave,
		.dif_head = bdev->dif_head_of_md,
		.dif_type = bdev->dif_type,
		.dif_pi_format = bdev->dif_pi_format,
		.dif_check_flags = bdev->dif_check_flags,
	};
}

int
md_channel_init(struct core_channel *c)
{
	const struct bdev *bdev = c->pub.bdev;

	if (bdev->md_bytes == 0) {
		return 0;
	}
	c->md = calloc(1, sizeof(*c->md));
	if (c->md == NULL) {
		return -ENOMEM;
	}
	if (bdev->dif_type != 0) {
		CHECK(dif_init(&c->md->dif, bdev->block_size, bdev->md_bytes, bdev->dif_type,
			       bdev->dif_pi_format, bdev->dif_head_of_md, bdev->dif_check_flags,
			       NULL) == 0);
	}
	return 0;
}

void
md_channel_release(struct core_channel *c)
{
	free(c->md);
	c->md = NULL;
}

uint64_t
md_room(const struct bdev *bdev)
{
	return MD_PART_BYTES / bdev->md_bytes;
}

/* ---- Telling ---- */

/* A line a second at most, in the whole process: a bad disk has many bad blocks. */
static void
tell(const struct core_channel *c, const struct bdev_io *io, const struct dif_error *e)
{
	static atomic_uint_fast64_t next_ns, untold;
	uint64_t now = reactor_now_ns(), next = atomic_load(&next_ns);

	if (now < next || !atomic_compare_exchange_strong(&next_ns, &next, now + NS_PER_S)) {
		atomic_fetch_add(&untold, 1);
		return;
	}
	LOG_ERROR(BDEV, c->pub.bdev->name,
		  "block %llu: the %s is %#llx, and must be %#llx (%s; %llu more of all bdevs "
		  "since the last such line)",
		  (unsigned long long)(io->lba + e->block), dif_tag_name(e->tag),
		  (unsigned long long)e->actual, (unsigned long long)e->expected,
		  io->op == BDEV_READ ? "read" : "to be written",
		  (unsigned long long)atomic_exchange(&untold, 0));
}

/* ---- Parts ---- */

static bool
given(const struct bdev_io *request)
{
	return (request->flags & BDEV_IO_MD) != 0 &&
	       (request->op == BDEV_READ || request->op == BDEV_WRITE ||
		request->op == BDEV_COMPARE);
}

/* The submitter's metadata of a part. */
static uint8_t *
md_of(const struct core_channel *c, const struct bdev_io *request, const struct bdev_io *io)
{
	return (uint8_t *)request->md + (io->lba - request->lba) * c->pub.bdev->md_bytes;
}

static int
verify(const struct core_channel *c, const struct bdev_io *io)
{
	struct iovec md = {io->md, io->num_blocks * c->pub.bdev->md_bytes};
	struct dif_list list = {io->iov, io->iovcnt, &md, 1};
	struct dif_error error;
	int rc;

	if (c->md->dif.type == 0) {
		return 0;
	}
	rc = dif_verify(&c->md->dif, &list, io->num_blocks, io->lba, &error);
	if (rc != 0) {
		tell(c, io, &error);
	}
	return rc;
}

static void
make_up(const struct core_channel *c, const struct bdev_io *io)
{
	struct iovec md = {io->md, io->num_blocks * c->pub.bdev->md_bytes};
	struct dif_list list = {io->iov, io->iovcnt, &md, 1};

	memset(io->md, 0, md.iov_len);
	if (c->md->dif.type != 0) {
		dif_generate(&c->md->dif, &list, io->num_blocks, io->lba);
	}
}

int
md_part_issue(struct core_channel *c, struct part *part)
{
	struct bdev_io *io = &part->io;
	const struct bdev_io *request = io->parent;

	if (io->op != BDEV_READ && io->op != BDEV_WRITE) {
		return 0;
	}
	io->md = c->md->bytes[part->index];
	io->flags |= BDEV_IO_MD;
	if (io->op == BDEV_READ) {
		return 0;
	}
	if (request->op == BDEV_COPY) {
		if (c->md->dif.type != 0) {
			dif_remap(&c->md->dif, io->md, io->num_blocks, request->lba - request->src_lba);
		}
		return 0;
	}
	if (!given(request)) {
		make_up(c, io);
		return 0;
	}
	memcpy(io->md, md_of(c, request, io), io->num_blocks * c->pub.bdev->md_bytes);
	return verify(c, io);
}

static void
compare(const struct core_channel *c, struct bdev_io *request, const struct bdev_io *io)
{
	const uint8_t *want = md_of(c, request, io), *have = io->md;
	uint32_t bytes = c->pub.bdev->md_bytes;

	for (uint64_t i = 0; i < io->num_blocks; i++, want += bytes, have += bytes) {
		if (memcmp(want, have, bytes) != 0) {
			uint64_t offset = (io->lba - request->lba + i) << c->pub.block_size_shift;

			request->result = MIN(request->result, offset);
			request->status = -EILSEQ;
			return;
		}
	}
}

void
md_part_done(struct core_channel *c, struct part *part)
{
	struct bdev_io *io = &part->io, *request = io->parent;

	if (io->op != BDEV_READ || io->status != 0) {
		return;
	}
	io->status = verify(c, io);
	if (io->status == 0 && given(request)) {
		if (request->op == BDEV_COMPARE) {
			compare(c, request, io);
		} else {
			memcpy(md_of(c, request, io), io->md,
			       io->num_blocks * c->pub.bdev->md_bytes);
		}
	}
}
