/* SPDX-License-Identifier: BSD-3-Clause */
/* Makes small images, for the tests of this folder: what is in them, and where, is the test's choice. */
#ifndef BDEVS_QCOW2_HARNESS_H
#define BDEVS_QCOW2_HARNESS_H

#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif

#include "base/check.h"
#include "bdevs/qcow2/parse.h"

struct made {
	uint8_t *file; /* of room bytes, zeroed */
	size_t room;
	size_t used;
	uint8_t *disk; /* what reading it gives */
	uint64_t size;
	unsigned cluster_bits;
	bool extended;
	enum qcow2_compression compression;
};

static inline void
put_be(uint8_t *p, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++) {
		p[i] = (uint8_t)(v >> 8 * (bytes - 1 - i));
	}
}

static inline uint64_t
get_be(const uint8_t *p, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes; i++) {
		v = v << 8 | p[i];
	}
	return v;
}

static inline size_t
made_take(struct made *m, size_t bytes, size_t align)
{
	size_t at = (m->used + align - 1) / align * align;

	CHECK(at + bytes <= m->room);
	m->used = at + bytes;
	return at;
}

static inline unsigned
made_entry_bytes(const struct made *m)
{
	return m->extended ? 16 : 8;
}

/* Version 3, or 2; no clusters yet. */
static inline void
made_init(struct made *m, unsigned version)
{
	size_t cluster = (size_t)1 << m->cluster_bits;
	uint64_t per_table = cluster / made_entry_bytes(m) * cluster;
	uint64_t tables = (m->size + per_table - 1) / per_table;
	uint8_t *h;

	m->file = calloc(1, m->room);
	m->disk = calloc(1, (m->size + 511) / 512 * 512);
	m->used = 0;
	made_take(m, MAX(cluster, (size_t)512), cluster);
	h = m->file;
	memcpy(h, "QFI\xfb", 4);
	put_be(h + 4, version, 4);
	put_be(h + 20, m->cluster_bits, 4);
	put_be(h + 24, m->size, 8);
	put_be(h + 36, tables, 4);
	put_be(h + 40, made_take(m, tables * 8, cluster), 8);
	if (version == 3) {
		put_be(h + 72, (m->extended ? 0x10u : 0) | (m->compression != QCOW2_DEFLATE ? 8u : 0), 8);
		put_be(h + 96, 4, 4);
		put_be(h + 100, 112, 4);
		h[104] = (uint8_t)m->compression;
	}
}

static inline uint8_t *
made_l1(const struct made *m)
{
	return m->file + get_be(m->file + 40, 8);
}

/* The entry of a cluster; its table is made if need be. */
static inline uint8_t *
made_l2(struct made *m, uint64_t cluster)
{
	size_t bytes = (size_t)1 << m->cluster_bits;
	uint64_t per_table = bytes / made_entry_bytes(m);
	uint8_t *l1 = made_l1(m) + cluster / per_table * 8;

	if (get_be(l1, 8) == 0) {
		put_be(l1, made_take(m, bytes, bytes) | UINT64_C(1) << 63, 8);
	}
	return m->file + (get_be(l1, 8) & UINT64_C(0x00fffffffffffe00)) +
	       cluster % per_table * made_entry_bytes(m);
}

static inline uint8_t *
made_disk(const struct made *m, uint64_t cluster)
{
	return m->disk + (cluster << m->cluster_bits);
}

/* The bytes of a cluster that are on the disk. */
static inline size_t
made_length(const struct made *m, uint64_t cluster)
{
	uint64_t at = cluster << m->cluster_bits;

	return MIN((size_t)1 << m->cluster_bits, (size_t)(m->size - at));
}

static inline void
made_data(struct made *m, uint64_t cluster, unsigned seed)
{
	size_t bytes = (size_t)1 << m->cluster_bits, at = made_take(m, bytes, bytes);
	uint8_t *e = made_l2(m, cluster);

	for (size_t i = 0; i < bytes; i++) {
		m->file[at + i] = (uint8_t)(seed * 31 + i * 7 + (i >> 8));
	}
	memcpy(made_disk(m, cluster), m->file + at, made_length(m, cluster));
	put_be(e, at | UINT64_C(1) << 63, 8);
	if (m->extended) { /* each third sub-cluster is a hole, each fifth zero */
		size_t piece = bytes / 32;
		uint64_t bitmap = 0;

		for (unsigned i = 0; i < 32; i++) {
			if (i % 3 == 0 || i % 5 == 0) {
				bitmap |= i % 3 == 0 ? 0 : UINT64_C(1) << (32 + i);
				if (i * piece < made_length(m, cluster)) {
					memset(made_disk(m, cluster) + i * piece, 0,
					       MIN(piece, made_length(m, cluster) - i * piece));
				}
			} else {
				bitmap |= UINT64_C(1) << i;
			}
		}
		put_be(e + 8, bitmap, 8);
	}
}

static inline void
made_zero(struct made *m, uint64_t cluster)
{
	uint8_t *e = made_l2(m, cluster);

	if (m->extended) {
		put_be(e + 8, UINT64_C(0xffffffff00000000), 8);
	} else {
		put_be(e, 1, 8);
	}
}

static inline size_t
made_squeeze(const struct made *m, const void *in, size_t bytes, void *out, size_t room)
{
	z_stream z = {.next_in = (Bytef *)(uintptr_t)in,
		      .avail_in = (uInt)bytes,
		      .next_out = out,
		      .avail_out = (uInt)room};

#ifdef HAVE_ZSTD
	if (m->compression == QCOW2_ZSTD) {
		return ZSTD_compress(out, room, in, bytes, 3);
	}
#endif
	CHECK(deflateInit2(&z, 6, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) == Z_OK);
	CHECK(deflate(&z, Z_FINISH) == Z_STREAM_END);
	deflateEnd(&z);
	return room - z.avail_out;
}

/* Right behind what was compressed before, as others write them. */
static inline void
made_compressed(struct made *m, uint64_t cluster, unsigned seed)
{
	size_t bytes = (size_t)1 << m->cluster_bits, squeezed, at;
	unsigned offset_bits = 62 - (m->cluster_bits - 8);
	uint8_t *plain = calloc(1, bytes), *out = malloc(2 * bytes + 1024);
	uint8_t *e = made_l2(m, cluster);
	uint64_t sectors;

	for (size_t i = 0; i < bytes; i++) {
		plain[i] = (uint8_t)(seed + i / 100);
	}
	squeezed = made_squeeze(m, plain, bytes, out, 2 * bytes + 1024);
	at = made_take(m, squeezed, 1);
	memcpy(m->file + at, out, squeezed);
	memcpy(made_disk(m, cluster), plain, made_length(m, cluster));
	sectors = (at % 512 + squeezed + 511) / 512 - 1;
	put_be(e, UINT64_C(1) << 62 | sectors << offset_bits | at, 8);
	free(plain);
	free(out);
}

static inline void
made_free(struct made *m)
{
	free(m->file);
	free(m->disk);
}

#endif
