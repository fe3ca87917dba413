/* SPDX-License-Identifier: BSD-3-Clause */
/* The numbers of the format are big-endian; its features that change what is read, and that are not known here, are refused. */
#include "bdevs/qcow2/parse.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/check.h"

#define HEADER_2_BYTES 72u
#define HEADER_3_BYTES 104u
#define OFFSET_MASK UINT64_C(0x00fffffffffffe00)
#define COMPRESSED (UINT64_C(1) << 62)
#define ZERO_FLAG UINT64_C(1)

/* Incompatible features. */
#define FEATURE_DIRTY (UINT64_C(1) << 0) /* only of the counts of references, which nobody reads here */
#define FEATURE_CORRUPT (UINT64_C(1) << 1)
#define FEATURE_DATA_FILE (UINT64_C(1) << 2)
#define FEATURE_COMPRESSION (UINT64_C(1) << 3)
#define FEATURE_EXTENDED_L2 (UINT64_C(1) << 4)
#define FEATURES_KNOWN \
	(FEATURE_DIRTY | FEATURE_CORRUPT | FEATURE_DATA_FILE | FEATURE_COMPRESSION | FEATURE_EXTENDED_L2)

static uint32_t
be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t
be64(const uint8_t *p)
{
	return (uint64_t)be32(p) << 32 | be32(p + 4);
}

/* Whether [offset, offset + bytes) is in the file. */
static bool
inside(const struct qcow2_header *h, uint64_t offset, uint64_t bytes)
{
	return offset <= h->file_bytes && bytes <= h->file_bytes - offset;
}

/* ---- Header ---- */

static int
check_features(const uint8_t *b, uint64_t features, struct qcow2_header *h, struct err *err)
{
	uint32_t header_bytes = be32(b + 100);
	uint8_t type = 0;

	if ((features & ~FEATURES_KNOWN) != 0) {
		return err_set(err, -ENOTSUP, "it needs features (0x%" PRIx64 ") that are not known",
			       features & ~FEATURES_KNOWN);
	}
	if ((features & FEATURE_CORRUPT) != 0) {
		return err_set(err, -EBADMSG, "it is marked as corrupt: qemu-img check may help");
	}
	if ((features & FEATURE_DATA_FILE) != 0) {
		return err_set(err, -ENOTSUP, "its data is in another file");
	}
	if (header_bytes < HEADER_3_BYTES || header_bytes % 8 != 0) {
		return err_set(err, -EBADMSG, "its header has %u bytes", header_bytes);
	}
	if ((features & FEATURE_COMPRESSION) != 0) {
		type = header_bytes > HEADER_3_BYTES ? b[104] : 0;
	}
	if (type > QCOW2_ZSTD) {
		return err_set(err, -ENOTSUP, "its compression (%u) is not known", type);
	}
	h->compression = (enum qcow2_compression)type;
	if ((features & FEATURE_EXTENDED_L2) != 0) {
		if (h->cluster_bits < 14) {
			return err_set(err, -EBADMSG, "its clusters are too small for sub-clusters");
		}
		h->l2_entry_bytes = 16;
		h->subcluster_bits = 5;
	}
	return 0;
}

/* The tables cover the disk, and the first one is in the file. */
static int
check_tables(struct qcow2_header *h, struct err *err)
{
	unsigned table_bits; /* bytes of the disk that a table of the second level describes */

	h->l2_bits = (uint8_t)(h->cluster_bits - (h->l2_entry_bytes == 16 ? 4 : 3));
	table_bits = h->cluster_bits + h->l2_bits;
	if (h->size == 0 || h->size > INT64_MAX) {
		return err_set(err, -EBADMSG, "a disk of %" PRIu64 " bytes is impossible", h->size);
	}
	if (h->l1_entries > QCOW2_L1_BYTES_MAX / 8) {
		return err_set(err, -EBADMSG, "its first table is too large (%u entries)", h->l1_entries);
	}
	if ((h->size - 1) >> table_bits >= h->l1_entries) {
		return err_set(err, -EBADMSG, "its first table is too small for the disk");
	}
	if (h->l1_offset == 0 || h->l1_offset % (UINT64_C(1) << h->cluster_bits) != 0 ||
	    !inside(h, h->l1_offset, (uint64_t)h->l1_entries * 8)) {
		return err_set(err, -EBADMSG, "its first table is not in the file");
	}
	return 0;
}

static int
say_backing_file(const uint8_t *b, size_t bytes, struct err *err)
{
	uint64_t offset = be64(b + 8);
	uint32_t length = be32(b + 16);
	char name[128] = "";

	if (offset < bytes && length <= bytes - offset) {
		size_t n = MIN(length, (uint32_t)sizeof(name) - 1);

		for (size_t i = 0; i < n; i++) {
			uint8_t c = b[offset + i];

			name[i] = c >= 0x20 && c < 0x7f ? (char)c : '?';
		}
	}
	return err_set(err, -ENOTSUP,
		       "it has a backing file ('%s'), which is never opened by its name: make an image without "
		       "(qemu-img convert)", name);
}

int
qcow2_parse_header(const void *buf, size_t bytes, uint64_t file_bytes,
		   struct qcow2_header *ret_header, struct err *err)
{
	struct qcow2_header h = {.file_bytes = file_bytes, .l2_entry_bytes = 8};
	const uint8_t *b = buf;
	uint32_t version, cluster_bits;
	int rc = 0;

	if (bytes < HEADER_3_BYTES + 8 || memcmp(b, "QFI\xfb", 4) != 0) {
		return err_set(err, -EINVAL, "it is no qcow2 image");
	}
	version = be32(b + 4);
	cluster_bits = be32(b + 20);
	if (version != 2 && version != 3) {
		return err_set(err, -ENOTSUP, "its version (%u) is neither 2 nor 3", version);
	}
	if (cluster_bits < QCOW2_CLUSTER_BITS_MIN || cluster_bits > QCOW2_CLUSTER_BITS_MAX) {
		return err_set(err, -EBADMSG, "clusters of 2^%u bytes are impossible", cluster_bits);
	}
	if (be64(b + 8) != 0) {
		return say_backing_file(b, bytes, err);
	}
	if (be32(b + 32) != 0) {
		return err_set(err, -ENOTSUP, "it is encrypted");
	}
	h.version = (uint8_t)version;
	h.cluster_bits = (uint8_t)cluster_bits;
	h.size = be64(b + 24);
	h.l1_entries = be32(b + 36);
	h.l1_offset = be64(b + 40);
	if (version == 3) {
		rc = check_features(b, be64(b + 72), &h, err);
	}
	rc = rc == 0 ? check_tables(&h, err) : rc;
	if (rc == 0) {
		*ret_header = h;
	}
	return rc;
}

/* ---- Tables ---- */

int
qcow2_l2_offset(const struct qcow2_header *h, const uint8_t entry[8], uint64_t *ret_offset)
{
	uint64_t cluster_bytes = UINT64_C(1) << h->cluster_bits;
	uint64_t offset = be64(entry) & OFFSET_MASK;

	if (offset % cluster_bytes != 0 || (offset != 0 && !inside(h, offset, cluster_bytes))) {
		return -EBADMSG;
	}
	*ret_offset = offset;
	return 0;
}

static int
compressed_place(const struct qcow2_header *h, uint64_t entry, struct qcow2_place *ret)
{
	unsigned offset_bits = 62u - (h->cluster_bits - 8u);
	uint64_t offset = entry & ((UINT64_C(1) << offset_bits) - 1);
	uint64_t sectors = (entry & ~(UINT64_C(3) << 62)) >> offset_bits;
	uint64_t bytes = (sectors + 1) * QCOW2_SECTOR - offset % QCOW2_SECTOR;

	if (offset >= h->file_bytes) {
		return -EBADMSG;
	}
	*ret = (struct qcow2_place){
		.kind = QCOW2_COMPRESSED,
		.offset = offset,
		.compressed_bytes = (uint32_t)MIN(bytes, h->file_bytes - offset),
	};
	return 0;
}

/* QCOW2_DATA for a cluster that has a place of its own. */
static int
subcluster_kind(const uint8_t *entry, unsigned subcluster, enum qcow2_kind *ret)
{
	uint64_t bitmap = be64(entry + 8);
	bool data = (bitmap >> subcluster & 1) != 0, zero = (bitmap >> (32 + subcluster) & 1) != 0;

	if (data && zero) {
		return -EBADMSG;
	}
	*ret = data ? QCOW2_DATA : zero ? QCOW2_ZERO : QCOW2_HOLE;
	return 0;
}

int
qcow2_place(const struct qcow2_header *h, const uint8_t *raw, unsigned subcluster,
	    struct qcow2_place *ret)
{
	uint64_t entry = be64(raw), cluster_bytes = UINT64_C(1) << h->cluster_bits;
	uint64_t offset = entry & OFFSET_MASK;
	enum qcow2_kind kind = offset != 0 ? QCOW2_DATA : QCOW2_HOLE;

	if ((entry & COMPRESSED) != 0) {
		return compressed_place(h, entry, ret);
	}
	if (h->subcluster_bits != 0) {
		if ((entry & ZERO_FLAG) != 0 || subcluster_kind(raw, subcluster, &kind) != 0) {
			return -EBADMSG;
		}
	} else if ((entry & ZERO_FLAG) != 0) {
		if (h->version < 3) {
			return -EBADMSG;
		}
		kind = QCOW2_ZERO;
	}
	if (kind == QCOW2_DATA && (offset == 0 || offset % cluster_bytes != 0 || offset >= h->file_bytes)) {
		return -EBADMSG;
	}
	*ret = (struct qcow2_place){.kind = kind, .offset = offset};
	return 0;
}
