/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/sparse.h"

#include <stdlib.h>
#include <string.h>

#include "base/check.h"

static uint8_t *
chunk_of(const struct sparse *s, uint64_t offset)
{
	uint64_t index = offset / SPARSE_REGION_BYTES;
	uint8_t **region = index < s->end ? s->regions[index] : NULL;

	return region == NULL ? NULL : region[offset % SPARSE_REGION_BYTES / SPARSE_CHUNK_BYTES];
}

static void
make_regions(struct sparse *s, uint64_t end)
{
	s->regions = realloc(s->regions, end * sizeof(*s->regions));
	CHECK(s->regions != NULL);
	memset(s->regions + s->end, 0, (end - s->end) * sizeof(*s->regions));
	s->end = end;
}

static uint8_t *
make_chunk(struct sparse *s, uint64_t offset)
{
	uint64_t index = offset / SPARSE_REGION_BYTES;
	uint8_t ***region, **chunk;

	if (index >= s->end) {
		make_regions(s, index + 1);
	}
	region = &s->regions[index];
	if (*region == NULL) {
		*region = calloc(SPARSE_REGION_CHUNKS, sizeof(**region));
		CHECK(*region != NULL);
	}
	chunk = &(*region)[offset % SPARSE_REGION_BYTES / SPARSE_CHUNK_BYTES];
	if (*chunk == NULL) {
		*chunk = calloc(1, SPARSE_CHUNK_BYTES);
		CHECK(*chunk != NULL);
		s->chunks++;
	}
	return *chunk;
}

static size_t
piece_at(uint64_t offset, uint64_t bytes)
{
	return MIN(bytes, SPARSE_CHUNK_BYTES - offset % SPARSE_CHUNK_BYTES);
}

void
sparse_read(const struct sparse *s, uint64_t offset, void *buf, size_t bytes)
{
	uint8_t *to = buf;

	while (bytes > 0) {
		size_t n = piece_at(offset, bytes);
		const uint8_t *chunk = chunk_of(s, offset);

		if (chunk == NULL) {
			memset(to, 0, n);
		} else {
			memcpy(to, chunk + offset % SPARSE_CHUNK_BYTES, n);
		}
		to += n;
		offset += n;
		bytes -= n;
	}
}

void
sparse_write(struct sparse *s, uint64_t offset, const void *buf, size_t bytes)
{
	const uint8_t *from = buf;

	CHECK(offset + bytes <= SPARSE_BYTES_MAX);
	while (bytes > 0) {
		size_t n = piece_at(offset, bytes);

		memcpy(make_chunk(s, offset) + offset % SPARSE_CHUNK_BYTES, from, n);
		from += n;
		offset += n;
		bytes -= n;
	}
}

static void
zero_piece(struct sparse *s, uint64_t offset, size_t n)
{
	uint8_t *chunk = chunk_of(s, offset);

	if (n == SPARSE_CHUNK_BYTES) {
		free(chunk);
		s->regions[offset / SPARSE_REGION_BYTES][offset % SPARSE_REGION_BYTES / SPARSE_CHUNK_BYTES] = NULL;
		s->chunks--;
	} else {
		memset(chunk + offset % SPARSE_CHUNK_BYTES, 0, n);
	}
}

void
sparse_zero(struct sparse *s, uint64_t offset, uint64_t bytes)
{
	uint64_t end = offset + bytes;

	for (;;) {
		uint64_t at = sparse_next(s, offset);
		size_t n;

		if (at >= end) {
			return;
		}
		offset = MAX(offset, at);
		n = piece_at(offset, end - offset);
		zero_piece(s, offset, n);
		offset += n;
		if (offset >= end) {
			return;
		}
	}
}

uint64_t
sparse_next(const struct sparse *s, uint64_t from)
{
	uint64_t at = from - from % SPARSE_CHUNK_BYTES;

	while (at / SPARSE_REGION_BYTES < s->end) {
		if (s->regions[at / SPARSE_REGION_BYTES] == NULL) {
			at = (at / SPARSE_REGION_BYTES + 1) * SPARSE_REGION_BYTES;
		} else if (chunk_of(s, at) == NULL) {
			at += SPARSE_CHUNK_BYTES;
		} else {
			return at;
		}
	}
	return UINT64_MAX;
}

void
sparse_copy(struct sparse *to, const struct sparse *from)
{
	for (uint64_t at = sparse_next(from, 0); at != UINT64_MAX; at = sparse_next(from, at + SPARSE_CHUNK_BYTES)) {
		sparse_write(to, at, chunk_of(from, at), SPARSE_CHUNK_BYTES);
	}
}

void
sparse_release(struct sparse *s)
{
	for (uint64_t i = 0; i < s->end; i++) {
		for (unsigned k = 0; s->regions[i] != NULL && k < SPARSE_REGION_CHUNKS; k++) {
			free(s->regions[i][k]);
		}
		free(s->regions[i]);
	}
	free(s->regions);
	*s = (struct sparse){0};
}
