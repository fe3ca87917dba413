/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Super block and masks <-> structures (format.h; pages are in format_page.c). Pure: no I/O, no allocation, any
 * thread.
 *
 * Invariants
 *  1. Nothing is read or written outside the page or mask that was given, whatever the bytes are.
 *  2. A super block that is accepted describes regions that do not touch each other, that hold what they are for, and
 * lie inside the store; sums of its fields do not overflow 64 bits, clusters and pages fit 32.
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
#include "base/bytes.h"

#define SIGNATURE "SPDKBLOB"
#define SIGNATURE_BYTES 8
#define CRC_AT (BLOB_PAGE_BYTES - 4)
#define DEFAULT_BYTES 4096u /* of I/O units and pages, where old versions do not say */

/* Of clusters, 0 is the super block's and the last number says "busy" in memory. */
#define CLUSTERS_MAX (UINT64_C(0xffffffff) - 1)
#define MD_PAGES_MAX (UINT64_C(0xffffffff) - 1)

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
		return err_set(err, -EILSEQ, "the super block says that a metadata page has %" PRIu32 " bytes",
			       super->md_page_bytes);
	}
	if (super->cluster_bytes < super->md_page_bytes || super->cluster_bytes % BLOB_PAGE_BYTES != 0) {
		return err_set(err, -EILSEQ,
			       "the super block says that a cluster has %" PRIu32 " bytes, a metadata page %" PRIu32,
			       super->cluster_bytes, super->md_page_bytes);
	}
	if (super->io_unit_bytes < 512 || !power_of_two(super->io_unit_bytes) ||
	    super->io_unit_bytes > super->md_page_bytes || super->cluster_bytes % super->io_unit_bytes != 0) {
		return err_set(err, -EILSEQ,
			       "the super block says that an I/O unit has %" PRIu32 " bytes, a cluster %" PRIu32,
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
			return err_set(err, -EILSEQ, "the %s has %" PRIu32 " pages, too few for %" PRIu64 " bits",
				       all[i].name, a->length, all[i].bits);
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
	const struct blob_region *regions[] = {&super->page_mask, &super->cluster_mask, &super->blobid_mask,
					       &super->md};
	uint64_t clusters = blob_super_clusters(super);

	if (clusters > CLUSTERS_MAX) {
		return err_set(err, -EILSEQ, "%" PRIu64 " bytes make too many clusters of %" PRIu32, super->bytes,
			       super->cluster_bytes);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(regions); i++) {
		if (region_end(regions[i]) * super->md_page_bytes > super->bytes) {
			return err_set(err, -EILSEQ, "metadata reaches beyond the store's %" PRIu64 " bytes",
				       super->bytes);
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
		return err_set(err, -ENOTSUP, "the blobstore has version %" PRIu32 ", known are 1 to %u",
			       super.version, BLOB_VERSION);
	}
	if (get32(page + AT_LENGTH) != BLOB_PAGE_BYTES) {
		return err_set(err, -EILSEQ, "the super block says that it has %" PRIu32 " bytes",
			       get32(page + AT_LENGTH));
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
		return err_set(err, -ENOSPC, "the store has %" PRIu64 " bytes, its device only %" PRIu64,
			       super->bytes, device_bytes);
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
		return err_set(err, -EINVAL,
			       "I/O units of %" PRIu32
			       " bytes: must be a power of two from 512 to the metadata page's %" PRIu32,
			       layout->io_unit_bytes, layout->md_page_bytes);
	}
	if (layout->cluster_bytes == 0 || layout->cluster_bytes % layout->md_page_bytes != 0) {
		return err_set(err, -EINVAL,
			       "clusters of %" PRIu32 " bytes: must be a multiple of the metadata page's %" PRIu32,
			       layout->cluster_bytes, layout->md_page_bytes);
	}
	if (clusters == 0) {
		return err_set(err, -ENOSPC, "the device has %" PRIu64 " bytes, less than a cluster of %" PRIu32,
			       layout->device_bytes, layout->cluster_bytes);
	}
	if (clusters > CLUSTERS_MAX || layout->md_pages > MD_PAGES_MAX) {
		return err_set(err, -EINVAL,
			       "%" PRIu64 " clusters of %" PRIu32 " bytes are too many: larger ones are needed",
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
	reserved = MAX(reserved, mask_pages(MIN(clusters * layout->growth, CLUSTERS_MAX), page_bytes));
	end = 1 + page_mask + reserved + page_mask + md_pages;
	md_clusters = div_up(end, layout->cluster_bytes / page_bytes);
	if (md_clusters >= clusters) {
		return err_set(err, -ENOSPC,
			       "%" PRIu64 " pages of metadata leave no room for data on a device of %" PRIu64
			       " bytes",
			       md_pages, layout->device_bytes);
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
		return err_set(err, -ENOSPC,
			       "the device's %" PRIu64 " bytes have no more clusters than the store has: %" PRIu64,
			       device_bytes, had);
	}
	if (most <= had) {
		return err_set(err, -ENOSPC, "the store's layout has room for no more than %" PRIu64 " clusters",
			       most);
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
