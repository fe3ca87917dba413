/* SPDX-License-Identifier: BSD-3-Clause */
/* A sparse array of bytes, up to 64 TiB: what was never written is zero and takes no memory. One user at a time. */
#ifndef TESTKIT_SPARSE_H
#define TESTKIT_SPARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SPARSE_CHUNK_BYTES 16384u
#define SPARSE_REGION_BYTES (UINT64_C(1) << 26)
#define SPARSE_REGION_CHUNKS (SPARSE_REGION_BYTES / SPARSE_CHUNK_BYTES)
#define SPARSE_BYTES_MAX (UINT64_C(1) << 46)

struct sparse {
	uint8_t ***regions; /* NULL: all zero; else SPARSE_REGION_CHUNKS chunks, of which some are NULL */
	uint64_t end;       /* of regions */
	uint64_t chunks;
};

void sparse_read(const struct sparse *s, uint64_t offset, void *buf, size_t bytes);
void sparse_write(struct sparse *s, uint64_t offset, const void *buf, size_t bytes);
void sparse_zero(struct sparse *s, uint64_t offset, uint64_t bytes); /* gives whole chunks back */
/* The first chunk with something in it, at `from` or later: its offset (perhaps less than from); UINT64_MAX: none. */
uint64_t sparse_next(const struct sparse *s, uint64_t from);
void sparse_copy(struct sparse *to, const struct sparse *from); /* to is empty */
void sparse_release(struct sparse *s);

#endif
