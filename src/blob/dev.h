/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a blobstore stands on: blocks that can be read and written asynchronously. lvol/dev.c makes one of a bdev,
 * testkit/blob_mem.c one of memory that loses power. An external snapshot is one, too, that is only read.
 *
 * A channel belongs to the thread that got it. A request lives in its submitter's memory, dev->io_bytes of it, and is
 * borrowed until done, which is called once, on the submitting thread, never from inside submit.
 */
#ifndef BLOB_DEV_H
#define BLOB_DEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct blob_dev;
struct blob_dev_channel; /* the implementation's */

enum blob_dev_op {
	BLOB_DEV_READ,
	BLOB_DEV_WRITE,
	BLOB_DEV_FLUSH,        /* everything that completed before it was submitted; lba and num_blocks are ignored */
	BLOB_DEV_UNMAP,        /* contents undefined afterwards */
	BLOB_DEV_WRITE_ZEROES, /* may deallocate */
	BLOB_DEV_COPY,         /* from src_lba; the two do not overlap. Where dev->copies says so */
	/* The first block from lba on that holds data, or that is a hole (reads as zeroes), ends up in src_lba; UINT64_MAX:
	 * none. num_blocks is 0. Where dev->seeks says so. */
	BLOB_DEV_SEEK_DATA,
	BLOB_DEV_SEEK_HOLE,
};

struct blob_dev_io {
	void (*done)(struct blob_dev_io *io, int status);
	const struct iovec *iov; /* borrowed until done */
	uint64_t lba;            /* in blocks of the device */
	uint64_t num_blocks;
	uint64_t src_lba; /* of a copy */
	int iovcnt;
	enum blob_dev_op op;
	struct blob_dev_channel *ch; /* set by blob_dev_submit() */
	_Alignas(64) uint8_t room[]; /* the implementation's */
};

struct blob_dev_ops {
	/* NULL, and *ret_rc: a negative errno. */
	struct blob_dev_channel *(*channel_get)(struct blob_dev *dev, int *ret_rc);
	void (*channel_put)(struct blob_dev *dev, struct blob_dev_channel *ch);
	void (*submit)(struct blob_dev *dev, struct blob_dev_io *io);
	/* The store does not need it any more; every channel has been put. Owner's thread. */
	void (*close)(struct blob_dev *dev);
};

/* Filled by the implementation; constant but for num_blocks, which may grow. */
struct blob_dev {
	const struct blob_dev_ops *ops;
	const char *name;    /* for messages */
	uint32_t block_size; /* bytes, power of two */
	uint64_t num_blocks;
	uint32_t buffer_align; /* best alignment of buffers, power of two */
	bool write_cache;      /* power loss may lose what was not flushed, in any order */
	bool unmap;            /* BLOB_DEV_UNMAP does something */
	bool copies;      /* BLOB_DEV_COPY costs less than a read and a write */
	bool seeks;       /* knows its holes */
	bool readonly;
	size_t io_bytes; /* of a request: sizeof(struct blob_dev_io) and the room */
};

static inline void
blob_dev_submit(struct blob_dev *dev, struct blob_dev_channel *ch, struct blob_dev_io *io)
{
	io->ch = ch;
	dev->ops->submit(dev, io);
}

#endif
