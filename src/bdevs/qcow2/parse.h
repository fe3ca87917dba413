/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qcow2 images (QEMU's docs/interop/qcow2.txt, versions 2 and 3): bytes to struct, for reading. Pure; every offset that
 * is handed out is inside the file.
 */
#ifndef BDEVS_QCOW2_PARSE_H
#define BDEVS_QCOW2_PARSE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define QCOW2_HEADER_BYTES 4096 /* more than any header has that we read */
#define QCOW2_SECTOR 512u
#define QCOW2_L1_BYTES_MAX ((uint64_t)32 << 20)
#define QCOW2_CLUSTER_BITS_MIN 9
#define QCOW2_CLUSTER_BITS_MAX 21

enum qcow2_compression { QCOW2_DEFLATE, QCOW2_ZSTD };

struct qcow2_header {
	uint64_t file_bytes; /* of the image, as it was told */
	uint64_t size;       /* of the disk, in bytes */
	uint64_t l1_offset;
	uint32_t l1_entries;
	uint8_t version;
	uint8_t cluster_bits;
	uint8_t l2_bits;           /* entries of a table of the second level */
	uint8_t l2_entry_bytes;    /* 8, or 16 with sub-clusters */
	uint8_t subcluster_bits;   /* sub-clusters of a cluster: 0, or 5 */
	enum qcow2_compression compression;
};

/*
 * 0; -EINVAL: it is no qcow2 image; -ENOTSUP: with something we do not read (backing file, encryption, data in another
 * file, a later version); -EBADMSG: broken. err says which.
 */
int qcow2_parse_header(const void *buf, size_t bytes, uint64_t file_bytes,
		       struct qcow2_header *ret_header, struct err *err);

/* An entry of the first table, as it is in the file: where its table of the second level is; 0: there is none. 0 or -EBADMSG. */
int qcow2_l2_offset(const struct qcow2_header *h, const uint8_t entry[8], uint64_t *ret_offset);

enum qcow2_kind {
	QCOW2_HOLE,
	QCOW2_ZERO,
	QCOW2_DATA,       /* at offset */
	QCOW2_COMPRESSED, /* the whole cluster, in so many bytes from offset on, perhaps fewer */
};

struct qcow2_place {
	enum qcow2_kind kind;
	uint64_t offset; /* in the file: of the cluster's beginning, also for a sub-cluster */
	uint32_t compressed_bytes;
};

/* An entry of the second level, h->l2_entry_bytes of it. subcluster: number, 0 without such. 0 or -EBADMSG. */
int qcow2_place(const struct qcow2_header *h, const uint8_t *entry, unsigned subcluster,
		struct qcow2_place *ret_place);

/* ---- inflate.c ---- */

/* Whether this build can. */
bool qcow2_can_inflate(enum qcow2_compression compression);
/* bytes of in to exactly cluster_bytes of out; what is left of in is ignored. 0, -EBADMSG, -ENOMEM. */
int qcow2_inflate(enum qcow2_compression compression, const void *in, size_t bytes, void *out,
		  size_t cluster_bytes);

#endif
