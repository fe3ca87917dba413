/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bytes <-> structures of the blobstore's layout (format.h). Pure: no I/O, no allocation, any thread.
 *
 * Invariants
 *  1. Nothing is read or written outside the page (the mask's header) that was given, whatever the bytes are.
 *  2. A super block that is accepted describes regions that do not touch each other, that hold what they are for, and lie
 *     inside the store; sums of its fields do not overflow 64 bits, clusters and pages fit 32.
 *  3. What is encoded is decoded to the same structure.
 *
 * The layout at creation is SPDK's to the page (spdk_bs_init), so that its stores and ours are the same size.
 */
#include "blob/format.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/check.h"
#include "base/crc.h"

#define SIGNATURE "SPDKBLOB"
#define SIGNATURE_BYTES 8
#define CRC_AT (BLOB_PAGE_BYTES - 4)
#define DEFAULT_BYTES 4096u /* of I/O units and pages, where old versions do not say */

/* Of clusters, 0 is the super block's and the last number says "busy" in memory. */
#define CLUSTERS_MAX (UINT64_C(0xffffffff) - 1)
#define MD_PAGES_MAX (UINT64_C(0xffffffff) - 1)

static uint16_t
get16(const uint8_t *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint32_t
get32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static uint64_t
get64(const uint8_t *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static void
put16(uint8_t *p, uint16_t v)
{
	memcpy(p, &v, sizeof(v));
}

static void
put32(uint8_t *p, uint32_t v)
{
	memcpy(p, &v, sizeof(v));
}

static void
put64(uint8_t *p, uint64_t v)
{
	memcpy(p, &v, sizeof(v));
}

static uint64_t
div_up(uint64_t a, uint64_t b)
{
	return a / b + (a % b != 0);
}

static bool
power_of_two(uint32_t v)
{
	return v != 0 && (v & (v - 1)) == 0;
}

/* ---- Super block ---- */

enum { /* offsets */
	AT_SIGNATURE = 0,
	AT_VERSION = 8,
	AT_LENGTH = 12,
	AT_CLEAN = 16,
	AT_SUPER_BLOB = 20,
	AT_CLUSTER_BYTES = 28,
	AT_PAGE_MASK = 32,
	AT_CLUSTER_MASK = 40,
	AT_MD = 48,
	AT_TYPE = 56,
	AT_BLOBID_MASK = 72,
	AT_BYTES = 80,
	AT_IO_UNIT_BYTES = 88,
	AT_MD_PAGE_BYTES = 92,
};

static struct blob_region
get_region(const uint8_t *p)
{
	return (struct blob_region){.start = get32(p), .length = get32(p + 4)};
}

static void
put_region(uint8_t *p, const struct blob_region *region)
{
	put32(p, region->start);
	put32(p + 4, region->length);
}

/* Pages that a mask of so many bits needs. */
static uint64_t
mask_pages(uint64_t bits, uint32_t md_page_bytes)
{
	return div_up(BLOB_MASK_HEADER_BYTES + div_up(bits, 8), md_page_bytes);
}

/* Bits that a mask of so many pages holds. */
static uint64_t
mask_bits(uint64_t pages, uint32_t md_page_bytes)
{
	return pages == 0 ? 0 : (pages * md_page_bytes - BLOB_MASK_HEADER_BYTES) * 8;
}

static uint64_t
region_end(const struct blob_region *region)
{
	return (uint64_t)region->start + region->length;
}

static int
check_sizes(const struct blob_super *super, struct err *err)
{
	if (super->md_page_bytes < BLOB_PAGE_BYTES || !power_of_two(super->md_page_bytes)) {
		return err_set(err, -EILSEQ, "the super block says that a metadata page has %" PRIu32 " bytes", super->md_page_bytes);
	}
	if (super->cluster_bytes < super->md_page_bytes || super->cluster_bytes % BLOB_PAGE_BYTES != 0) {
		return err_set(err, -EILSEQ, "the super block says that a cluster has %" PRIu32 " bytes, a metadata page %" PRIu32,
			       super->cluster_bytes, super->md_page_bytes);
	}
	if (super->io_unit_bytes < 512 || !power_of_two(super->io_unit_bytes) || super->io_unit_bytes > super->md_page_bytes ||
	    super->cluster_bytes % super->io_unit_bytes != 0) {
		return err_set(err, -EILSEQ, "the super block says that an I/O unit has %" PRIu32 " bytes, a cluster %" PRIu32,
			       super->io_unit_bytes, super->cluster_bytes);
	}
	return 0;
}

static int
check_regions(const struct blob_super *super, struct err *err)
{
	const struct {
		const char *name;
		const struct blob_region *region;
		uint64_t bits; /* of a mask, 0: none */
	} all[] = {
		{"used-page mask", &super->page_mask, super->md.length},
		{"used-cluster mask", &super->cluster_mask, blob_super_clusters(super)},
		{"used-blob-id mask", &super->blobid_mask, super->blobid_mask.length == 0 ? 0 : super->md.length},
		{"metadata region", &super->md, 0},
	};

	if (super->md.length == 0 || super->md.length > MD_PAGES_MAX) {
		return err_set(err, -EILSEQ, "the super block says that the metadata region has %" PRIu32 " pages",
			       super->md.length);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
		const struct blob_region *a = all[i].region;

		if (a == &super->blobid_mask && a->length == 0) {
			continue;
		}
		if (a->start == 0 || a->length == 0) {
			return err_set(err, -EILSEQ, "the super block has no place for the %s", all[i].name);
		}
		if (mask_bits(a->length, super->md_page_bytes) < all[i].bits) {
			return err_set(err, -EILSEQ, "the %s has %" PRIu32 " pages, too few for %" PRIu64 " bits", all[i].name,
				       a->length, all[i].bits);
		}
		for (unsigned j = 0; j < i; j++) {
			const struct blob_region *b = all[j].region;

			if (a->start < region_end(b) && b->start < region_end(a)) {
				return err_set(err, -EILSEQ, "the %s and the %s overlap", all[j].name, all[i].name);
			}
		}
	}
	return 0;
}

/* That the store of super->bytes has room for its metadata. */
static int
check_bytes(const struct blob_super *super, struct err *err)
{
	const struct blob_region *regions[] = {&super->page_mask, &super->cluster_mask, &super->blobid_mask, &super->md};
	uint64_t clusters = blob_super_clusters(super);

	if (clusters > CLUSTERS_MAX) {
		return err_set(err, -EILSEQ, "%" PRIu64 " bytes make too many clusters of %" PRIu32, super->bytes,
			       super->cluster_bytes);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(regions); i++) {
		if (region_end(regions[i]) * super->md_page_bytes > super->bytes) {
			return err_set(err, -EILSEQ, "metadata reaches beyond the store's %" PRIu64 " bytes", super->bytes);
		}
	}
	if (blob_super_md_clusters(super) > clusters) {
		return err_set(err, -EILSEQ, "metadata needs %" PRIu64 " clusters, the store has %" PRIu64,
			       blob_super_md_clusters(super), clusters);
	}
	return 0;
}

static void
read_super(const uint8_t *page, struct blob_super *super)
{
	*super = (struct blob_super){
		.version = get32(page + AT_VERSION),
		.clean = get32(page + AT_CLEAN) != 0,
		.super_blob = get64(page + AT_SUPER_BLOB),
		.cluster_bytes = get32(page + AT_CLUSTER_BYTES),
		.page_mask = get_region(page + AT_PAGE_MASK),
		.cluster_mask = get_region(page + AT_CLUSTER_MASK),
		.blobid_mask = get_region(page + AT_BLOBID_MASK),
		.md = get_region(page + AT_MD),
		.bytes = get64(page + AT_BYTES),
		.io_unit_bytes = get32(page + AT_IO_UNIT_BYTES),
		.md_page_bytes = get32(page + AT_MD_PAGE_BYTES),
	};
	memcpy(super->type, page + AT_TYPE, BLOB_TYPE_BYTES);
	if (super->io_unit_bytes == 0) {
		super->io_unit_bytes = DEFAULT_BYTES;
	}
	if (super->md_page_bytes == 0) {
		super->md_page_bytes = DEFAULT_BYTES;
	}
}

int
blob_super_decode(const uint8_t page[BLOB_PAGE_BYTES], struct blob_super *ret_super, struct err *err)
{
	struct blob_super super;
	int rc;

	if (memcmp(page + AT_SIGNATURE, SIGNATURE, SIGNATURE_BYTES) != 0) {
		return err_set(err, -EINVAL, "there is no blobstore (no signature)");
	}
	if (crc_32c(0, page, CRC_AT) != get32(page + CRC_AT)) {
		return err_set(err, -EILSEQ, "the super block's checksum is wrong");
	}
	read_super(page, &super);
	if (super.version < 1 || super.version > BLOB_VERSION) {
		return err_set(err, -ENOTSUP, "the blobstore has version %" PRIu32 ", known are 1 to %u", super.version, BLOB_VERSION);
	}
	if (get32(page + AT_LENGTH) != BLOB_PAGE_BYTES) {
		return err_set(err, -EILSEQ, "the super block says that it has %" PRIu32 " bytes", get32(page + AT_LENGTH));
	}
	rc = check_sizes(&super, err);
	if (rc == 0) {
		rc = check_regions(&super, err);
	}
	if (rc == 0 && super.bytes != 0) {
		rc = check_bytes(&super, err);
	}
	if (rc == 0) {
		*ret_super = super;
	}
	return rc;
}

void
blob_super_encode(const struct blob_super *super, uint8_t page[BLOB_PAGE_BYTES])
{
	memset(page, 0, BLOB_PAGE_BYTES);
	memcpy(page + AT_SIGNATURE, SIGNATURE, SIGNATURE_BYTES);
	put32(page + AT_VERSION, super->version);
	put32(page + AT_LENGTH, BLOB_PAGE_BYTES);
	put32(page + AT_CLEAN, super->clean ? 1 : 0);
	put64(page + AT_SUPER_BLOB, super->super_blob);
	put32(page + AT_CLUSTER_BYTES, super->cluster_bytes);
	put_region(page + AT_PAGE_MASK, &super->page_mask);
	put_region(page + AT_CLUSTER_MASK, &super->cluster_mask);
	put_region(page + AT_MD, &super->md);
	memcpy(page + AT_TYPE, super->type, BLOB_TYPE_BYTES);
	put_region(page + AT_BLOBID_MASK, &super->blobid_mask);
	put64(page + AT_BYTES, super->bytes);
	put32(page + AT_IO_UNIT_BYTES, super->io_unit_bytes);
	put32(page + AT_MD_PAGE_BYTES, super->md_page_bytes);
	put32(page + CRC_AT, crc_32c(0, page, CRC_AT));
}

int
blob_super_fits(const struct blob_super *super, uint64_t device_bytes, struct err *err)
{
	struct blob_super old = *super;
	int rc;

	if (super->bytes > device_bytes) {
		return err_set(err, -ENOSPC, "the store has %" PRIu64 " bytes, its device only %" PRIu64, super->bytes, device_bytes);
	}
	if (super->bytes != 0) {
		return 0;
	}
	old.bytes = device_bytes;
	rc = check_bytes(&old, err);
	return rc != 0 ? rc : check_regions(&old, err);
}

static int
check_layout(const struct blob_layout *layout, uint64_t clusters, struct err *err)
{
	if (layout->md_page_bytes < BLOB_PAGE_BYTES || !power_of_two(layout->md_page_bytes)) {
		return err_set(err, -EINVAL, "metadata pages of %" PRIu32 " bytes: must be a power of two from %u on",
			       layout->md_page_bytes, BLOB_PAGE_BYTES);
	}
	if (layout->io_unit_bytes < 512 || !power_of_two(layout->io_unit_bytes) ||
	    layout->io_unit_bytes > layout->md_page_bytes) {
		return err_set(err, -EINVAL, "I/O units of %" PRIu32 " bytes: must be a power of two from 512 to the metadata page's %"
			       PRIu32, layout->io_unit_bytes, layout->md_page_bytes);
	}
	if (layout->cluster_bytes == 0 || layout->cluster_bytes % layout->md_page_bytes != 0) {
		return err_set(err, -EINVAL, "clusters of %" PRIu32 " bytes: must be a multiple of the metadata page's %" PRIu32,
			       layout->cluster_bytes, layout->md_page_bytes);
	}
	if (clusters == 0) {
		return err_set(err, -ENOSPC, "the device has %" PRIu64 " bytes, less than a cluster of %" PRIu32,
			       layout->device_bytes, layout->cluster_bytes);
	}
	if (clusters > CLUSTERS_MAX || layout->md_pages > MD_PAGES_MAX) {
		return err_set(err, -EINVAL, "%" PRIu64 " clusters of %" PRIu32 " bytes are too many: larger ones are needed",
			       clusters, layout->cluster_bytes);
	}
	return 0;
}

int
blob_layout_super(const struct blob_layout *layout, struct blob_super *ret_super, struct err *err)
{
	uint64_t clusters = layout->cluster_bytes == 0 ? 0 : layout->device_bytes / layout->cluster_bytes;
	uint64_t md_pages = layout->md_pages == 0 ? clusters : layout->md_pages;
	uint32_t page_bytes = layout->md_page_bytes;
	uint64_t page_mask, cluster_mask, reserved, end, md_clusters;
	int rc = check_layout(layout, clusters, err);

	if (rc != 0) {
		return rc;
	}
	page_mask = mask_pages(md_pages, page_bytes);
	cluster_mask = mask_pages(clusters, page_bytes);
	/* The store may grow until its mask fills what is reserved here. */
	reserved = MAX(cluster_mask, page_mask);
	end = 1 + page_mask + reserved + page_mask + md_pages;
	md_clusters = div_up(end, layout->cluster_bytes / page_bytes);
	if (md_clusters >= clusters) {
		return err_set(err, -ENOSPC, "%" PRIu64 " pages of metadata leave no room for data on a device of %" PRIu64
			       " bytes", md_pages, layout->device_bytes);
	}
	if (end > UINT32_MAX) {
		return err_set(err, -EINVAL, "%" PRIu64 " pages of metadata are too many", md_pages);
	}
	*ret_super = (struct blob_super){
		.version = BLOB_VERSION,
		.clean = true,
		.super_blob = BLOB_ID_NONE,
		.cluster_bytes = layout->cluster_bytes,
		.page_mask = {1, (uint32_t)page_mask},
		.cluster_mask = {(uint32_t)(1 + page_mask), (uint32_t)cluster_mask},
		.blobid_mask = {(uint32_t)(1 + page_mask + reserved), (uint32_t)page_mask},
		.md = {(uint32_t)(1 + page_mask + reserved + page_mask), (uint32_t)md_pages},
		.bytes = layout->device_bytes,
		.io_unit_bytes = layout->io_unit_bytes,
		.md_page_bytes = page_bytes,
	};
	return 0;
}

/* Pages that the cluster mask may have: up to the region behind it. */
static uint64_t
cluster_mask_room(const struct blob_super *super)
{
	const struct blob_region *others[] = {&super->page_mask, &super->blobid_mask, &super->md};
	uint64_t end = UINT64_MAX;

	for (unsigned i = 0; i < ARRAY_SIZE(others); i++) {
		if (others[i]->length != 0 && others[i]->start > super->cluster_mask.start) {
			end = MIN(end, (uint64_t)others[i]->start);
		}
	}
	/* Behind all others, which no known version writes: it stays as it is. */
	return end == UINT64_MAX ? super->cluster_mask.length : end - super->cluster_mask.start;
}

int
blob_layout_grow(struct blob_super *super, uint64_t device_bytes, struct err *err)
{
	uint64_t had = blob_super_clusters(super);
	uint64_t clusters = MIN(device_bytes / super->cluster_bytes, CLUSTERS_MAX);
	uint64_t most = mask_bits(cluster_mask_room(super), super->md_page_bytes);
	uint64_t pages;

	if (clusters <= had) {
		return err_set(err, -ENOSPC, "the device's %" PRIu64 " bytes have no more clusters than the store has: %" PRIu64,
			       device_bytes, had);
	}
	if (most <= had) {
		return err_set(err, -ENOSPC, "the store's layout has room for no more than %" PRIu64 " clusters", most);
	}
	super->bytes = clusters <= most ? device_bytes : most * super->cluster_bytes;
	clusters = blob_super_clusters(super);
	if (clusters > CLUSTERS_MAX) {
		super->bytes = CLUSTERS_MAX * super->cluster_bytes;
		clusters = CLUSTERS_MAX;
	}
	pages = mask_pages(clusters, super->md_page_bytes);
	super->cluster_mask.length = (uint32_t)MAX(pages, (uint64_t)super->cluster_mask.length);
	return 0;
}

uint64_t
blob_super_clusters(const struct blob_super *super)
{
	return super->bytes / super->cluster_bytes;
}

uint64_t
blob_super_md_clusters(const struct blob_super *super)
{
	return div_up(region_end(&super->md), super->cluster_bytes / super->md_page_bytes);
}

/* ---- Masks ---- */

int
blob_mask_decode(const uint8_t *mask, size_t mask_bytes, enum blob_mask_type type, uint32_t *ret_bits)
{
	uint32_t bits;

	if (mask_bytes < BLOB_MASK_HEADER_BYTES || mask[0] != type) {
		return -EILSEQ;
	}
	bits = get32(mask + 1);
	if (div_up(bits, 8) > mask_bytes - BLOB_MASK_HEADER_BYTES) {
		return -EILSEQ;
	}
	*ret_bits = bits;
	return 0;
}

void
blob_mask_encode(uint8_t *mask, enum blob_mask_type type, uint32_t bits)
{
	mask[0] = (uint8_t)type;
	put32(mask + 1, bits);
}

/* ---- Metadata pages ---- */

enum { /* offsets */
	AT_ID = 0,
	AT_SEQUENCE = 8,
	AT_DESCRIPTORS = 16,
	AT_NEXT = 4088,
};

#define HEADER_BYTES 5u /* of a descriptor: its type, the length of the rest */
#define RUN_BYTES 8u

int
blob_page_decode(const uint8_t page[BLOB_PAGE_BYTES], struct blob_page *ret_page)
{
	if (crc_32c(0, page, CRC_AT) != get32(page + CRC_AT)) {
		return -EILSEQ;
	}
	*ret_page = (struct blob_page){
		.id = get64(page + AT_ID),
		.sequence = get32(page + AT_SEQUENCE),
		.next = get32(page + AT_NEXT),
		.descriptors = page + AT_DESCRIPTORS,
	};
	return 0;
}

static int
read_flags(const uint8_t *p, uint32_t length, struct blob_descriptor *d)
{
	if (length != 24) {
		return -EILSEQ;
	}
	d->flags = (struct blob_flags){.invalid = get64(p), .data_ro = get64(p + 8), .md_ro = get64(p + 16)};
	return 0;
}

static int
read_xattr(const uint8_t *p, uint32_t length, struct blob_descriptor *d)
{
	if (length < 4) {
		return -EILSEQ;
	}
	d->xattr.name_bytes = get16(p);
	d->xattr.value_bytes = get16(p + 2);
	d->xattr.name = (const char *)p + 4;
	if (length != 4u + d->xattr.name_bytes + d->xattr.value_bytes ||
	    memchr(d->xattr.name, '\0', d->xattr.name_bytes) != NULL) {
		return -EILSEQ;
	}
	d->xattr.value = p + 4 + d->xattr.name_bytes;
	return 0;
}

static int
read_rle(const uint8_t *p, uint32_t length, struct blob_descriptor *d)
{
	if (length == 0 || length % RUN_BYTES != 0) {
		return -EILSEQ;
	}
	d->extents.num_clusters = 0;
	d->extents.num_runs = length / RUN_BYTES;
	d->extents.runs = p;
	return 0;
}

static int
read_table(const uint8_t *p, uint32_t length, struct blob_descriptor *d)
{
	if (length < 8 || (length - 8) % RUN_BYTES != 0) {
		return -EILSEQ;
	}
	d->extents.num_clusters = get64(p);
	d->extents.num_runs = (length - 8) / RUN_BYTES;
	d->extents.runs = p + 8;
	for (uint32_t i = 0; i < d->extents.num_runs; i++) {
		struct blob_run run = blob_descriptor_run(d, i);

		if (run.index != 0 && run.length != 1) {
			return -EILSEQ;
		}
	}
	return 0;
}

static int
read_extent_page(const uint8_t *p, uint32_t length, struct blob_descriptor *d)
{
	if (length <= 4 || length % 4 != 0 || length / 4 - 1 > BLOB_EXTENT_CLUSTERS) {
		return -EILSEQ;
	}
	d->page.start_cluster = get32(p);
	d->page.num_clusters = length / 4 - 1;
	d->page.clusters = p + 4;
	return 0;
}

int
blob_descriptor_next(struct blob_cursor *cursor, struct blob_descriptor *ret_descriptor)
{
	while (cursor->offset + HEADER_BYTES <= BLOB_DESCRIPTOR_BYTES) {
		const uint8_t *p = cursor->descriptors + cursor->offset;
		uint32_t length = get32(p + 1);
		struct blob_descriptor d = {.type = (enum blob_descriptor_type)p[0]};
		int rc = 0;

		if (p[0] == BLOB_DESCRIPTOR_PADDING && length == 0) {
			return 0;
		}
		if (length > BLOB_DESCRIPTOR_BYTES - HEADER_BYTES - cursor->offset) {
			return -EILSEQ;
		}
		p += HEADER_BYTES;
		switch (d.type) {
		case BLOB_DESCRIPTOR_PADDING:
			cursor->offset += HEADER_BYTES + length;
			continue;
		case BLOB_DESCRIPTOR_EXTENT_RLE:
			rc = read_rle(p, length, &d);
			break;
		case BLOB_DESCRIPTOR_XATTR:
		case BLOB_DESCRIPTOR_INTERNAL_XATTR:
			rc = read_xattr(p, length, &d);
			break;
		case BLOB_DESCRIPTOR_FLAGS:
			rc = read_flags(p, length, &d);
			break;
		case BLOB_DESCRIPTOR_EXTENT_TABLE:
			rc = read_table(p, length, &d);
			break;
		case BLOB_DESCRIPTOR_EXTENT_PAGE:
			rc = read_extent_page(p, length, &d);
			break;
		default: /* of a later version: its flags say whether it may be left out */
			break;
		}
		if (rc != 0) {
			return rc;
		}
		cursor->offset += HEADER_BYTES + length;
		*ret_descriptor = d;
		return 1;
	}
	return 0;
}

struct blob_run
blob_descriptor_run(const struct blob_descriptor *d, uint32_t i)
{
	const uint8_t *p = d->extents.runs + (size_t)i * RUN_BYTES;

	return (struct blob_run){.index = get32(p), .length = get32(p + 4)};
}

uint32_t
blob_descriptor_cluster(const struct blob_descriptor *d, uint32_t i)
{
	return get32(d->page.clusters + (size_t)i * 4);
}

/* ---- Writing pages ---- */

void
blob_page_begin(struct blob_page_writer *w, uint8_t page[BLOB_PAGE_BYTES])
{
	memset(page, 0, BLOB_PAGE_BYTES);
	w->page = page;
	w->used = 0;
}

/* The place for a descriptor's payload, NULL: it does not fit. */
static uint8_t *
put_header(struct blob_page_writer *w, enum blob_descriptor_type type, uint32_t length)
{
	uint8_t *p = w->page + AT_DESCRIPTORS + w->used;

	if (length > BLOB_DESCRIPTOR_BYTES || w->used + HEADER_BYTES + length > BLOB_DESCRIPTOR_BYTES) {
		return NULL;
	}
	p[0] = (uint8_t)type;
	put32(p + 1, length);
	w->used += HEADER_BYTES + length;
	return p + HEADER_BYTES;
}

/* Runs that fit behind a header and `fixed` bytes. */
static uint32_t
runs_that_fit(const struct blob_page_writer *w, uint32_t fixed, uint32_t num_runs)
{
	uint32_t left = BLOB_DESCRIPTOR_BYTES - w->used;

	return left < HEADER_BYTES + fixed ? 0 : MIN(num_runs, (left - HEADER_BYTES - fixed) / RUN_BYTES);
}

static void
put_runs(uint8_t *p, const struct blob_run *runs, uint32_t num_runs)
{
	for (uint32_t i = 0; i < num_runs; i++) {
		put32(p + (size_t)i * RUN_BYTES, runs[i].index);
		put32(p + (size_t)i * RUN_BYTES + 4, runs[i].length);
	}
}

bool
blob_put_flags(struct blob_page_writer *w, const struct blob_flags *flags)
{
	uint8_t *p = put_header(w, BLOB_DESCRIPTOR_FLAGS, 24);

	if (p == NULL) {
		return false;
	}
	put64(p, flags->invalid);
	put64(p + 8, flags->data_ro);
	put64(p + 16, flags->md_ro);
	return true;
}

bool
blob_put_xattr(struct blob_page_writer *w, bool internal, const char *name, uint16_t name_bytes, const void *value,
	       uint16_t value_bytes)
{
	uint8_t *p = put_header(w, internal ? BLOB_DESCRIPTOR_INTERNAL_XATTR : BLOB_DESCRIPTOR_XATTR,
				4u + name_bytes + value_bytes);

	if (p == NULL) {
		return false;
	}
	put16(p, name_bytes);
	put16(p + 2, value_bytes);
	memcpy(p + 4, name, name_bytes);
	if (value_bytes != 0) {
		memcpy(p + 4 + name_bytes, value, value_bytes);
	}
	return true;
}

uint32_t
blob_put_extent_rle(struct blob_page_writer *w, const struct blob_run *runs, uint32_t num_runs)
{
	uint32_t count = runs_that_fit(w, 0, num_runs);

	if (count != 0) {
		put_runs(put_header(w, BLOB_DESCRIPTOR_EXTENT_RLE, count * RUN_BYTES), runs, count);
	}
	return count;
}

uint32_t
blob_put_extent_table(struct blob_page_writer *w, uint64_t num_clusters, const struct blob_run *runs, uint32_t num_runs)
{
	uint32_t count = runs_that_fit(w, 8, num_runs);
	uint8_t *p;

	if (count == 0 && num_runs != 0) {
		return 0;
	}
	p = put_header(w, BLOB_DESCRIPTOR_EXTENT_TABLE, 8 + count * RUN_BYTES);
	if (p != NULL) {
		put64(p, num_clusters);
		put_runs(p + 8, runs, count);
	}
	return count;
}

void
blob_put_extent_page(struct blob_page_writer *w, uint32_t start_cluster, const uint32_t *clusters, uint32_t num_clusters)
{
	uint8_t *p;

	CHECK(w->used == 0 && num_clusters > 0 && num_clusters <= BLOB_EXTENT_CLUSTERS);
	p = put_header(w, BLOB_DESCRIPTOR_EXTENT_PAGE, 4 + num_clusters * 4);
	CHECK(p != NULL);
	put32(p, start_cluster);
	memcpy(p + 4, clusters, (size_t)num_clusters * 4);
}

void
blob_page_end(struct blob_page_writer *w, uint64_t id, uint32_t sequence, uint32_t next)
{
	uint8_t *page = w->page;

	put64(page + AT_ID, id);
	put32(page + AT_SEQUENCE, sequence);
	put32(page + AT_NEXT, next);
	put32(page + CRC_AT, crc_32c(0, page, CRC_AT));
}
