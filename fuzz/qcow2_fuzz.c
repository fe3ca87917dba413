/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Images from the fuzzer: header, tables and compressed clusters, as the reader goes through them. Every place that is
 * handed out is inside the file.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "bdevs/qcow2/parse.h"

/* Of an input: tables of the second level, and entries of each. */
#define TABLES_MAX 4u
#define ENTRIES_MAX 64u

static void
check_place(const struct qcow2_header *h, const uint8_t *file, const struct qcow2_place *p)
{
	size_t cluster = (size_t)1 << h->cluster_bits;

	switch (p->kind) {
	case QCOW2_DATA:
		CHECK(p->offset != 0 && p->offset % cluster == 0 && p->offset < h->file_bytes);
		break;
	case QCOW2_COMPRESSED:
		CHECK(p->offset < h->file_bytes && p->compressed_bytes > 0 &&
		      p->compressed_bytes <= h->file_bytes - p->offset &&
		      p->compressed_bytes <= 2 * cluster);
		if (cluster <= 65536) {
			uint8_t *out = malloc(cluster);

			qcow2_inflate(h->compression, file + p->offset, p->compressed_bytes, out, cluster);
			free(out);
		}
		break;
	default:
		break;
	}
}

static void
walk_table(const struct qcow2_header *h, const uint8_t *file, uint64_t table)
{
	for (unsigned i = 0; i < ENTRIES_MAX && i < 1u << h->l2_bits; i++) {
		for (unsigned sub = 0; sub < 1u << h->subcluster_bits; sub++) {
			struct qcow2_place p;

			if (qcow2_place(h, file + table + i * h->l2_entry_bytes, sub, &p) == 0) {
				check_place(h, file, &p);
				if (p.kind == QCOW2_COMPRESSED) {
					break;
				}
			}
		}
	}
}

static void
put_be(uint8_t *p, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++) {
		p[i] = (uint8_t)(v >> 8 * (bytes - 1 - i));
	}
}

/* What no fuzzer guesses, by the first byte: a header that is accepted, if the tables fit. */
static void
make_header(uint8_t *file, uint8_t how)
{
	unsigned cluster_bits = 9 + (how >> 1) % 8;

	memcpy(file, "QFI\xfb", 4);
	put_be(file + 4, 2 + (how >> 7), 4);
	put_be(file + 8, 0, 8);
	put_be(file + 20, cluster_bits, 4);
	put_be(file + 24, file[24] % 100 * 4096 + 1, 8);
	put_be(file + 32, 0, 4);
	put_be(file + 36, 100, 4);
	put_be(file + 40, UINT64_C(1) << cluster_bits, 8);
	put_be(file + 72, file[72] & 0x19, 8);
	put_be(file + 100, 112, 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct qcow2_header h;
	struct err err = ERR_NONE;
	uint8_t *file;

	uint8_t how;

	if (size <= QCOW2_SECTOR) {
		return 0;
	}
	how = *data++;
	size = (size - 1) / QCOW2_SECTOR * QCOW2_SECTOR;
	file = malloc(size);
	memcpy(file, data, size);
	if ((how & 1) != 0) {
		make_header(file, how);
	}
	if (qcow2_parse_header(file, MIN(size, (size_t)QCOW2_HEADER_BYTES), size, &h, &err) != 0) {
		CHECK(err.text[0] != '\0');
		free(file);
		return 0;
	}
	CHECK((h.size - 1) >> (h.cluster_bits + h.l2_bits) < h.l1_entries);
	for (uint32_t i = 0; i < MIN(h.l1_entries, TABLES_MAX); i++) {
		uint64_t table;

		if (qcow2_l2_offset(&h, file + h.l1_offset + i * 8, &table) == 0 && table != 0) {
			walk_table(&h, file, table);
		}
	}
	free(file);
	return 0;
}
