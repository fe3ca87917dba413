/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk of memory for tests of what stands on a blob_dev. Sparse: of a device of many TiB only what was written takes memory.
 * Its requests are carried out on the submitting thread in a later turn, in order or not, at once or slowly, or when they are
 * let go; they fail where the test says so. With a write cache, what was not flushed is remembered as base/powercut.h does.
 *
 * The disk outlives those who use it: blob_mem_dev() is one life of the machine it is in. After a cut every request of that life
 * fails with -EIO, and none has an effect; blob_mem_survivor() is a disk with what is left. Any thread; a lock guards all.
 *
 * BLOB_MEM_TRACE in the environment: what every request was, on standard error.
 */
#ifndef TESTKIT_BLOB_MEM_H
#define TESTKIT_BLOB_MEM_H

#include "base/powercut.h"
#include "blob/dev.h"

struct blob_mem;

struct blob_mem_options {
	uint64_t bytes;
	uint32_t block_size;    /* 0: 512 */
	bool write_cache;
	bool readonly;
	bool no_unmap;          /* what says so of itself; unmap does nothing then */
	bool unmap_fills;       /* what was unmapped reads as 0xdb */
	bool copies;
	bool seeks;             /* holes: blocks of zeroes */
	bool shuffle;           /* carried out in any order, some of them later */
	uint64_t seed;          /* of the order */
	unsigned delay_us;
};

struct blob_mem *blob_mem_create(const struct blob_mem_options *options);
/* Its devices are closed. Accepts NULL. */
void blob_mem_free(struct blob_mem *mem);
/* For blob_store_create() or _load(), which take it. A life that is not over yet is over (its process was killed). */
struct blob_dev *blob_mem_dev(struct blob_mem *mem);
void blob_mem_resize(struct blob_mem *mem, uint64_t bytes); /* grows: this life's device, too */
uint64_t blob_mem_bytes(struct blob_mem *mem);
/* No device of it is open. */
bool blob_mem_closed(struct blob_mem *mem);
void blob_mem_set_shuffle(struct blob_mem *mem, bool shuffle, uint64_t seed);

/* ---- What it has done ---- */

struct blob_mem_stats {
	uint64_t reads, read_bytes, largest_read;
	uint64_t writes, write_bytes; /* of data */
	uint64_t zeroes, unmaps, copies, flushes;
	uint64_t changes; /* writes, zeroes, unmaps, copies and flushes: what cuts are counted by */
};
struct blob_mem_stats blob_mem_get_stats(struct blob_mem *mem);
uint64_t blob_mem_memory(struct blob_mem *mem); /* bytes that it takes for its contents */

/* ---- Cuts ---- */

/* The power goes with the nth change from now on (1: the next): that one is not answered as done, and is there or not. 0:
 * never. */
void blob_mem_cut_at(struct blob_mem *mem, uint64_t nth);
void blob_mem_cut(struct blob_mem *mem);
bool blob_mem_was_cut(struct blob_mem *mem);
/* A new disk, without errors or delays, with what is left after a power cut; rule NULL: of the end of the process, all that
 * was carried out. */
struct blob_mem *blob_mem_survivor(struct blob_mem *mem, const struct powercut_rule *rule);
/* rule of the n-th attempt: the four modes in turn, sectors of 4 KiB. */
struct powercut_rule blob_mem_rule(uint64_t seed, uint64_t n);

/* ---- Contents, behind the device's back ---- */

void blob_mem_read(struct blob_mem *mem, uint64_t offset, void *buf, size_t bytes);
void blob_mem_write(struct blob_mem *mem, uint64_t offset, const void *buf, size_t bytes);
/* The first byte that differs; UINT64_MAX: none. */
uint64_t blob_mem_differ(struct blob_mem *a, struct blob_mem *b);

/* ---- Errors ---- */

#define BLOB_MEM_OP(op) (1u << (op))
#define BLOB_MEM_MODIFIES \
	(BLOB_MEM_OP(BLOB_DEV_WRITE) | BLOB_MEM_OP(BLOB_DEV_UNMAP) | BLOB_MEM_OP(BLOB_DEV_WRITE_ZEROES) | \
	 BLOB_MEM_OP(BLOB_DEV_COPY))

struct blob_mem_fault {
	unsigned ops;     /* BLOB_MEM_OP()s */
	uint64_t offset;  /* bytes; those that touch the range (not flushes, which have none) */
	uint64_t bytes;   /* 0: anywhere */
	uint64_t after;   /* so many more go well */
	uint64_t count;   /* so many fail; 0: all from then on */
	int status;       /* 0: -EIO */
};
/* Instead of the one before; NULL: none. What fails has no effect. */
void blob_mem_set_fault(struct blob_mem *mem, const struct blob_mem_fault *fault);
uint64_t blob_mem_faults(struct blob_mem *mem); /* how many have failed since */

/* ---- Holding ---- */

#define BLOB_MEM_NO_MORE (1u << 31) /* what is held stays so, nothing more is */
/* Requests of these kinds wait until they are let go. ops 0: all are let go, and none is held any more. */
void blob_mem_hold(struct blob_mem *mem, unsigned ops);
unsigned blob_mem_held(struct blob_mem *mem);
/* Lets the index-th of those held go (the oldest: 0); false: there are fewer. */
bool blob_mem_let_go(struct blob_mem *mem, unsigned index);

#endif
