/* SPDX-License-Identifier: BSD-3-Clause */
/* blob_mem.c: requests; blob_mem_contents.c: what they read and write. All but the lock itself under the lock. */
#ifndef TESTKIT_BLOB_MEM_INTERNAL_H
#define TESTKIT_BLOB_MEM_INTERNAL_H

#include <pthread.h>

#include "testkit/blob_mem.h"
#include "testkit/sparse.h"

#define MEM_UNMAPPED_BYTE 0xdb

struct blob_mem {
	pthread_mutex_t lock;
	struct blob_mem_options options;
	struct sparse contents;
	struct powercut_log *log;
	struct life *life; /* NULL: none */
	unsigned open; /* lives that are not closed */
	struct blob_mem_stats stats;
	uint64_t cut_in;
	bool cut;
	struct blob_mem_fault fault;
	bool faulty;
	uint64_t faults;
	unsigned hold;
	uint64_t random;
	uint64_t next_order; /* of requests, so that held ones can be told apart */
	bool trace;
};

/* Makes everything up to write seq of the log stable. */
void mem_settle(struct blob_mem *mem, uint64_t seq);
void mem_read(struct blob_mem *mem, uint64_t lba, uint64_t n, const struct iovec *iov, int iovcnt);
void mem_write(struct blob_mem *mem, uint64_t lba, uint64_t n, const struct iovec *iov, int iovcnt);
/* The first block at lba or later that holds something, or (data false) only zeroes; UINT64_MAX: none. */
uint64_t mem_seek(struct blob_mem *mem, uint64_t lba, bool data);
/* Zeroes, or what unmap leaves, where there is something. */
void mem_fill(struct blob_mem *mem, uint64_t lba, uint64_t n, int byte);

#endif
