/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A made-up store of five blobs on a disk of memory, synchronous, for tests of the offline checker: a super blob, a
 * snapshot with two thin clones, a thick volume with run-length extents. Each is written by its spec, which tests
 * change to do damage. A cluster of data is filled with its own number.
 */
#ifndef TESTKIT_BLOB_MADE_H
#define TESTKIT_BLOB_MADE_H

#include "blob/check.h"

#define CLUSTER 16384u
#define CLUSTERS 256u
#define DISK_BYTES (CLUSTERS * CLUSTER)
#define MD_PAGES 64u
#define BLOBS 5
#define VIRTUAL 600u /* clusters of thin volumes: two extent pages */
#define CHANGES_MAX 4096u

enum { SUPER, VOL, THICK, SNAP, CLONE };

struct change { /* data NULL: a flush */
	uint64_t offset;
	size_t bytes;
	uint8_t *data;
};

struct spec {
	bool there;
	uint32_t page;
	struct blob_flags flags;
	const char *name, *uuid;
	uint64_t parent, making, removing; /* 0: none */
	bool deleted, big, twice, short_parent;
	bool rle, thin, read_only;
	uint64_t clusters;
	uint32_t map[VIRTUAL];
	uint32_t extent[2]; /* pages */
	uint32_t second;    /* page of the chain, 0: it has one page */
	uint8_t intent[32];
	bool has_intent;
	int entries_more; /* that its first extent page has */
};

extern uint8_t disk[DISK_BYTES];
extern struct change changes[CHANGES_MAX]; /* since forget_changes() */
extern unsigned num_changes;
extern uint64_t unreadable; /* a page of the disk, 0: none */
extern const struct blob_offline dev;
extern struct blob_super super;
extern struct spec specs[BLOBS];

void forget_changes(void);
void make_store(void);
/* As the spec says now. */
void put_blob(const struct spec *s);
void put_extents(const struct spec *s);
void put_super(void);
/* A metadata page; the bits of a mask, and one of them the other way round. */
uint8_t *md(uint32_t page);
uint8_t *mask(const struct blob_region *region);
void flip(const struct blob_region *region, uint32_t i);

#endif
