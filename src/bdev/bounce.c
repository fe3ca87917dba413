/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Copies for parts of requests whose own buffers the module cannot take. A write's data is copied
 * before the part is issued, a read's after it has come back.
 *
 * Invariant: a channel has a buffer of its own besides what it gets from the bounded pool of the
 * whole process, so a channel that gets none has a part under way that will return one; no channel
 * waits for another.
 * Context: the channel's thread.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/iov.h"
#include "bdev/internal.h"

/* At most so many at once in the whole process: 64 MiB. */
#define BOUNCE_BUFFERS 1024

struct mem_pool bounce_pool = MEM_POOL_INIT(BOUNCE_BYTES, BDEV_BUFFER_ALIGN_MAX, BOUNCE_BUFFERS);

int
bounce_init(struct core_channel *c)
{
	c->bounces.pool = &bounce_pool;
	c->reserve = aligned_alloc(BDEV_BUFFER_ALIGN_MAX, BOUNCE_BYTES);
	return c->reserve == NULL ? -ENOMEM : 0;
}

void
bounce_release(struct core_channel *c)
{
	mem_cache_release(&c->bounces);
	free(c->reserve);
	c->reserve = NULL;
}

static void *
take(struct core_channel *c)
{
	void *buffer = mem_cache_get(&c->bounces);

	if (buffer == NULL && !c->reserve_used) {
		c->reserve_used = true;
		buffer = c->reserve;
	}
	return buffer;
}

size_t
bounce_get(struct core_channel *c, struct part *part, size_t bytes)
{
	void *buffer = take(c);

	if (buffer == NULL) {
		return 0;
	}
	bytes = MIN(bytes, BOUNCE_BYTES);
	part->bounce = buffer;
	part->iov[0] = (struct iovec){.iov_base = buffer, .iov_len = bytes};
	return bytes;
}

void
bounce_put(struct core_channel *c, struct part *part)
{
	if (part->bounce == c->reserve) {
		c->reserve_used = false;
	} else {
		mem_cache_put(&c->bounces, part->bounce);
	}
	part->bounce = NULL;
}

size_t
bounce_take(struct core_channel *c, struct part *part, const struct bdev_io *request, size_t bytes)
{
	bytes = bounce_get(c, part, bytes);
	if (bytes != 0 && request->op == BDEV_WRITE) {
		iov_to_buf(request->iov + request->iov_index,
			   (int)(request->iovcnt - request->iov_index), request->iov_offset,
			   part->bounce, bytes);
	}
	return bytes;
}

void
bounce_return(struct core_channel *c, struct part *part)
{
	const struct bdev_io *request = part->io.parent;

	if (request->op == BDEV_READ && part->io.status == 0) {
		iov_from_buf(request->iov, request->iovcnt,
			     (part->io.lba - request->lba) << c->pub.block_size_shift, part->bounce,
			     part->io.num_blocks << c->pub.block_size_shift);
	}
	bounce_put(c, part);
}
