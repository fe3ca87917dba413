/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a power cut leaves of writes that were not flushed: the rule, and a memory of such writes that it is applied to.
 * bdevs/powercut is a bdev made of it; tests of what stands on a store of their own use it directly.
 *
 * The model is a disk with a volatile cache, which writes whole sectors, in any order. Pure; a log has one user at a
 * time.
 *
 *	log = powercut_log_create(512, 1 << 20);
 *	powercut_log_write(log, lba, blocks, iov, iovcnt);   instead of writing
 *	powercut_log_read(log, lba, blocks, iov, iovcnt, 0); after reading from the store
 *	flush: powercut_log_run() and _copy(), write that to the store, powercut_log_drop()
 *	cut: the same with powercut_log_survive(), on what the store has there, and _drop() of all
 */
#ifndef BASE_POWERCUT_H
#define BASE_POWERCUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

/* ---- The rule ---- */

enum powercut_mode {
	POWERCUT_RANDOM,  /* each write is lost, kept, or torn: some of its sectors */
	POWERCUT_ORDERED, /* all up to one of them are kept, of that one the first sectors */
	POWERCUT_LOST,    /* nothing is kept */
	POWERCUT_KEPT,    /* all is: a disk whose cache is safe */
};

struct powercut_rule {
	uint64_t seed; /* another seed, another outcome; the same seed, the same */
	enum powercut_mode mode;
	uint32_t sector_bytes; /* what the disk writes in one piece, a power of two */
};

/* "random", "ordered", "lost", "kept". */
const char *powercut_mode_name(enum powercut_mode mode);

/* A seed for the n-th use of one. */
uint64_t powercut_seed(uint64_t seed, uint64_t n);

/*
 * Whether sector number `sector` of the disk, part of write number seq, is on the disk afterwards. The writes that were not
 * flushed are numbered from first_seq to last_seq, this one's first sector is first_sector, and it has so many.
 */
bool powercut_survives(const struct powercut_rule *rule, uint64_t first_seq, uint64_t last_seq,
		       uint64_t seq, uint64_t first_sector, uint64_t sectors, uint64_t sector);

/* ---- Writes that were not flushed ---- */

struct powercut_log;

/* block_bytes: a power of two. max_bytes: of data in all. NULL when memory is out. */
struct powercut_log *powercut_log_create(uint32_t block_bytes, size_t max_bytes);
void powercut_log_free(struct powercut_log *log); /* accepts NULL */

/* Remembers a write; iov NULL: of zeroes. Its number, one more than that of the write before; 0: there is no room for
 * it, or no memory. */
uint64_t powercut_log_write(struct powercut_log *log, uint64_t lba, uint64_t blocks,
			    const struct iovec *iov, int iovcnt);
uint64_t powercut_log_last_seq(const struct powercut_log *log);
bool powercut_log_empty(const struct powercut_log *log);
size_t powercut_log_bytes(const struct powercut_log *log);

/* Puts the newest of what it has of these blocks over what the list has, from byte offset on. */
void powercut_log_read(const struct powercut_log *log, uint64_t lba, uint64_t blocks,
		       const struct iovec *iov, int iovcnt, size_t offset);

/*
 * The first blocks from `from` up to `end` that were written by write seq or one before: at most max that follow one
 * another. Their number; 0: there are none.
 */
uint64_t powercut_log_run(const struct powercut_log *log, uint64_t seq, uint64_t from, uint64_t end,
			  uint64_t max, uint64_t *ret_lba);
/* The newest content of such a run by write seq or before, into buf. */
void powercut_log_copy(const struct powercut_log *log, uint64_t seq, uint64_t lba, uint64_t blocks,
		       void *buf);
/* Forgets what write seq and those before wrote to these blocks: it is on stable storage. */
void powercut_log_drop(struct powercut_log *log, uint64_t seq, uint64_t lba, uint64_t blocks);

/* buf has what is on the disk in these blocks; afterwards, what is there after a cut. */
void powercut_log_survive(const struct powercut_log *log, const struct powercut_rule *rule,
			  uint64_t lba, uint64_t blocks, void *buf);

#endif
