/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The blobstore's layout on disk, version 3, as SPDK 26.05 writes it: a pure codec between bytes and structures. No I/O,
 * no allocation; nothing that comes from a disk is believed: what does not fit is -EILSEQ. All integers are little-endian.
 *
 * Page: md_page_bytes of the store, of which metadata fills the first 4096; where "pages" are counted from the start of
 * the device or of the metadata region, they are that long. Cluster 0 is the device's first.
 *
 *	super | used-page mask | used-cluster mask | used-blob-id mask | metadata region | data clusters
 *
 * A blob is a chain of metadata pages; its id is BLOB_ID_BASE + the index of its first page in the region. Its clusters
 * are in the chain itself (run-length extents), or in extent pages of BLOB_EXTENT_CLUSTERS each, which the chain's extent
 * table lists.
 */
#ifndef BLOB_FORMAT_H
#define BLOB_FORMAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define BLOB_PAGE_BYTES 4096u /* of a metadata page, and of the super block */
#define BLOB_DESCRIPTOR_BYTES 4072u
#define BLOB_EXTENT_CLUSTERS 512u /* most of one extent page */
#define BLOB_VERSION 3u
#define BLOB_TYPE_BYTES 16u
#define BLOB_PAGE_NONE UINT32_MAX
#define BLOB_ID_NONE UINT64_MAX
#define BLOB_ID_BASE (UINT64_C(1) << 32)
/* An xattr never crosses a page: the descriptor's 9 bytes, name and value, behind the flags' 29. */
#define BLOB_XATTR_BYTES_MAX (BLOB_DESCRIPTOR_BYTES - 29u - 9u)

/* ---- Super block ---- */

struct blob_region { /* in pages from the start of the device (masks, metadata) */
	uint32_t start;
	uint32_t length;
};

struct blob_super {
	uint32_t version; /* as found, 1 to 3; encoded as it is */
	bool clean;
	uint64_t super_blob; /* BLOB_ID_NONE: none */
	uint32_t cluster_bytes;
	struct blob_region page_mask;
	struct blob_region cluster_mask;
	struct blob_region blobid_mask; /* length 0: an old version's, that has none */
	struct blob_region md;
	char type[BLOB_TYPE_BYTES]; /* zero-padded, perhaps not terminated */
	uint64_t bytes;             /* of the store; 0 in old versions: the device's */
	uint32_t io_unit_bytes;     /* 0 in old versions: 4096 */
	uint32_t md_page_bytes;     /* 0 in old versions: 4096 */
};

/* The fields that old versions lack have their defaults afterwards, but for bytes. 0; -EINVAL (no blobstore: signature);
 * -ENOTSUP (version); -EILSEQ (checksum, or fields that contradict each other). */
int blob_super_decode(const uint8_t page[BLOB_PAGE_BYTES], struct blob_super *ret_super, struct err *err);
void blob_super_encode(const struct blob_super *super, uint8_t page[BLOB_PAGE_BYTES]);
/* Whether a decoded super block fits a device of so many bytes. 0, -EILSEQ, -ENOSPC (the device is smaller). */
int blob_super_fits(const struct blob_super *super, uint64_t device_bytes, struct err *err);

/* The layout of a new store. */
struct blob_layout {
	uint64_t device_bytes;
	uint32_t cluster_bytes;
	uint32_t md_page_bytes;
	uint32_t io_unit_bytes;
	uint32_t md_pages; /* 0: one a cluster, as SPDK's default */
	uint32_t growth;   /* the cluster mask has room for so many times the clusters; 0: what SPDK reserves */
};
/* Fills all but type and super_blob; clean is true. -EINVAL, -ENOSPC (nothing is left for data), with the reason. */
int blob_layout_super(const struct blob_layout *layout, struct blob_super *ret_super, struct err *err);
/* Grows the store to the device's new size within the room that was left for the cluster mask. 0; -ENOSPC: no more
 * clusters than before fit. *super is changed only on success. */
int blob_layout_grow(struct blob_super *super, uint64_t device_bytes, struct err *err);

/* Clusters of the store, and those of them that metadata fills (from cluster 0 on). */
uint64_t blob_super_clusters(const struct blob_super *super);
uint64_t blob_super_md_clusters(const struct blob_super *super);

/* ---- Masks ---- */

enum blob_mask_type { BLOB_MASK_PAGES, BLOB_MASK_CLUSTERS, BLOB_MASK_BLOBIDS };

#define BLOB_MASK_HEADER_BYTES 5u
/* The header at the start of a mask. *ret_bits: its length; -EILSEQ: another type, or more bits than mask_bytes have. */
int blob_mask_decode(const uint8_t *mask, size_t mask_bytes, enum blob_mask_type type, uint32_t *ret_bits);
void blob_mask_encode(uint8_t *mask, enum blob_mask_type type, uint32_t bits);

/* ---- Metadata pages ---- */

struct blob_page {
	uint64_t id;
	uint32_t sequence;
	uint32_t next; /* BLOB_PAGE_NONE: the last of its chain */
	const uint8_t *descriptors; /* BLOB_DESCRIPTOR_BYTES, inside the page given */
};

/* 0, or -EILSEQ: the checksum is wrong. */
int blob_page_decode(const uint8_t page[BLOB_PAGE_BYTES], struct blob_page *ret_page);

/* "invalid": unknown bits: not to be opened. "data_ro": to be read only. "md_ro": its metadata must not be changed. */
#define BLOB_INVALID_THIN (UINT64_C(1) << 0)
#define BLOB_INVALID_INTERNAL_XATTR (UINT64_C(1) << 1)
#define BLOB_INVALID_EXTENT_TABLE (UINT64_C(1) << 2)
#define BLOB_INVALID_EXTERNAL (UINT64_C(1) << 3)
#define BLOB_INVALID_KNOWN UINT64_C(0xf)
#define BLOB_DATA_RO_READ_ONLY (UINT64_C(1) << 0)
#define BLOB_DATA_RO_KNOWN UINT64_C(0x1)
#define BLOB_MD_RO_CLEAR_METHOD UINT64_C(0x3)
#define BLOB_MD_RO_KNOWN UINT64_C(0x3)

struct blob_flags {
	uint64_t invalid;
	uint64_t data_ro;
	uint64_t md_ro;
};

/* Internal xattrs; values are blob ids (8 bytes) but for the last, which names an external snapshot. */
#define BLOB_XATTR_PARENT "SNAP"
#define BLOB_XATTR_SNAPSHOT_PENDING "SNAPTMP"
#define BLOB_XATTR_REMOVAL_PENDING "SNAPRM"
#define BLOB_XATTR_EXTERNAL "EXTSNAP"
/* berth's: the snapshot was deleted, and stays while several clones need it; no value. */
#define BLOB_XATTR_DELETED "BERTHDEL"

enum blob_descriptor_type {
	BLOB_DESCRIPTOR_PADDING = 0,
	BLOB_DESCRIPTOR_EXTENT_RLE = 1,
	BLOB_DESCRIPTOR_XATTR = 2,
	BLOB_DESCRIPTOR_FLAGS = 3,
	BLOB_DESCRIPTOR_INTERNAL_XATTR = 4,
	BLOB_DESCRIPTOR_EXTENT_TABLE = 5,
	BLOB_DESCRIPTOR_EXTENT_PAGE = 6,
};

/* One run of pairs, as the run-length extents (first cluster of the device, 0: not allocated) and the extent table (metadata
 * page, 0: none) have them. */
struct blob_run {
	uint32_t index;
	uint32_t length;
};

struct blob_descriptor {
	enum blob_descriptor_type type; /* also values unknown here: to be skipped */
	union {
		struct blob_flags flags;
		struct { /* both kinds of xattr; borrowed from the page, name not terminated */
			const char *name;
			const uint8_t *value;
			uint16_t name_bytes;
			uint16_t value_bytes;
		} xattr;
		struct { /* run-length extents, extent table: blob_descriptor_run() */
			uint64_t num_clusters; /* of the table only */
			uint32_t num_runs;
			const uint8_t *runs;
		} extents;
		struct { /* extent page: blob_descriptor_cluster() */
			uint32_t start_cluster;
			uint32_t num_clusters;
			const uint8_t *clusters;
		} page;
	};
};

struct blob_cursor {
	const uint8_t *descriptors;
	uint32_t offset;
};

/* The next descriptor of a page. 1; 0: there are no more; -EILSEQ: it does not fit the page, or its own length. */
int blob_descriptor_next(struct blob_cursor *cursor, struct blob_descriptor *ret_descriptor);
struct blob_run blob_descriptor_run(const struct blob_descriptor *d, uint32_t i);
uint32_t blob_descriptor_cluster(const struct blob_descriptor *d, uint32_t i);

/* ---- Writing pages ---- */

/* Fills the descriptors of one page after another. */
struct blob_page_writer {
	uint8_t *page; /* BLOB_PAGE_BYTES, zeroed by blob_page_begin() */
	uint32_t used; /* of the descriptors */
};

void blob_page_begin(struct blob_page_writer *w, uint8_t page[BLOB_PAGE_BYTES]);
/* False, and nothing is written: it does not fit what is left of the page. */
bool blob_put_flags(struct blob_page_writer *w, const struct blob_flags *flags);
bool blob_put_xattr(struct blob_page_writer *w, bool internal, const char *name, uint16_t name_bytes, const void *value,
		    uint16_t value_bytes);
/* As many of the runs as fit, at least one; how many. 0: none fits. Runs of the table with a page have length 1. A table
 * without runs (of a blob without clusters) is written with num_runs 0; it always fits an empty page. */
uint32_t blob_put_extent_rle(struct blob_page_writer *w, const struct blob_run *runs, uint32_t num_runs);
uint32_t blob_put_extent_table(struct blob_page_writer *w, uint64_t num_clusters, const struct blob_run *runs,
			       uint32_t num_runs);
/* A whole extent page, at most BLOB_EXTENT_CLUSTERS; blob_page_end() with sequence 0 and no next page follows. */
void blob_put_extent_page(struct blob_page_writer *w, uint32_t start_cluster, const uint32_t *clusters,
			  uint32_t num_clusters);
void blob_page_end(struct blob_page_writer *w, uint64_t id, uint32_t sequence, uint32_t next);

#endif
