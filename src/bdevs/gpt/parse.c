/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A table is taken as a whole or not at all: headers and entries have checksums. A partition of a good table that makes no
 * sense (outside of the usable blocks, overlapping another) is left out.
 *
 * What is accepted is what SPDK accepts, so that a disk shows the same partitions to both: the protective MBR decides
 * whether there is a table, entries are of 128 bytes, at most 128, and lie within what is read at that end.
 */
#include "bdevs/gpt/parse.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/check.h"
#include "base/bytes.h"
#include "base/crc.h"

#define ENTRY_BYTES 128u
#define HEADER_BYTES_MIN 92u
#define MBR_ENTRIES 446u
#define MBR_ENTRY_BYTES 16u
#define MBR_TYPE_PROTECTIVE 0xee

static const char signature[8] = {'E', 'F', 'I', ' ', 'P', 'A', 'R', 'T'};

/* Bdevs on partitions of the old type have always been one block shorter; what is on them relies on it. */
static const uuid_t type_new = {0x65, 0x27, 0x99, 0x4e, 0x2c, 0x5a, 0x4e, 0xec,
				0x96, 0x13, 0x8f, 0x59, 0x44, 0x07, 0x4e, 0x8b};
static const uuid_t type_old = {0x7c, 0x52, 0x22, 0xbd, 0x8f, 0x5d, 0x40, 0x87,
				0x9c, 0x00, 0xbf, 0x98, 0x43, 0xc7, 0xb5, 0x8c};

/* The fields that count of a header. */
struct header {
	uint64_t first_usable;
	uint64_t last_usable;
	uint64_t entries_lba;
	uint32_t entry_count;
	uint32_t entries_crc;
	uuid_t disk_guid;
};

/* What was read, from block `first` of the disk on. */
struct part_of_disk {
	const uint8_t *buf;
	size_t bytes;
	uint32_t block_size;
	uint64_t first;
	uint64_t num_blocks; /* of the disk */
};

/* A GUID's first three fields are little-endian on disk. */
static void
get_guid(const uint8_t *p, uuid_t ret)
{
	static const uint8_t order[16] = {3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15};

	for (int i = 0; i < 16; i++) {
		ret[i] = p[order[i]];
	}
}

static int
fail(int rc, const char **why, const char *text)
{
	if (why != NULL) {
		*why = text;
	}
	return rc;
}

size_t
gpt_bytes(uint32_t block_size)
{
	return MAX(GPT_BYTES, block_size);
}

/* ---- The protective MBR ---- */

static int
check_mbr(const struct part_of_disk *d, const char **why)
{
	if (d->bytes < 512 || d->buf[510] != 0x55 || d->buf[511] != 0xaa) {
		return fail(-ENOENT, why, "no MBR");
	}
	for (unsigned i = 0; i < 4; i++) {
		const uint8_t *entry = d->buf + MBR_ENTRIES + i * MBR_ENTRY_BYTES;

		if (entry[4] == MBR_TYPE_PROTECTIVE) {
			uint32_t size = get32(entry + 12);

			if (get32(entry + 8) != 1 ||
			    (size != UINT32_MAX && size != (uint32_t)(d->num_blocks - 1))) {
				return fail(-ENOENT, why, "the protective MBR does not fit the disk");
			}
			return 0;
		}
	}
	return fail(-ENOENT, why, "no protective MBR");
}

/* ---- Header and entries ---- */

/* The CRC field, bytes 16 to 19, counts as zero. */
static uint32_t
header_crc(const uint8_t *h, uint32_t bytes)
{
	static const uint8_t zero[4];
	uint32_t crc = crc_32(0, h, 16);

	crc = crc_32(crc, zero, sizeof(zero));
	return crc_32(crc, h + 20, bytes - 20);
}

static int
get_header(const struct part_of_disk *d, uint64_t lba, struct header *ret, const char **why)
{
	const uint8_t *h;
	uint32_t bytes;

	if (lba < d->first || (lba - d->first + 1) * d->block_size > d->bytes) {
		return fail(-EBADMSG, why, "the disk is too small");
	}
	h = d->buf + (lba - d->first) * d->block_size;
	bytes = get32(h + 12);
	if (memcmp(h, signature, sizeof(signature)) != 0) {
		return fail(-EBADMSG, why, "no signature in the header");
	}
	if (bytes < HEADER_BYTES_MIN || bytes > d->block_size) {
		return fail(-EBADMSG, why, "the header's size is wrong");
	}
	if (header_crc(h, bytes) != get32(h + 16)) {
		return fail(-EBADMSG, why, "the header's checksum is wrong");
	}
	if (get64(h + 24) != lba) {
		return fail(-EBADMSG, why, "the header is that of another block");
	}
	ret->first_usable = get64(h + 40);
	ret->last_usable = get64(h + 48);
	if (ret->first_usable <= 1 || ret->last_usable < ret->first_usable ||
	    ret->last_usable >= d->num_blocks) {
		return fail(-EBADMSG, why, "the usable blocks are not on the disk");
	}
	get_guid(h + 56, ret->disk_guid);
	ret->entries_lba = get64(h + 72);
	ret->entry_count = get32(h + 80);
	ret->entries_crc = get32(h + 88);
	if (ret->entry_count > GPT_ENTRIES_MAX || get32(h + 84) != ENTRY_BYTES) {
		return fail(-EBADMSG, why, "the table has too many entries, or of another size");
	}
	return 0;
}

static const uint8_t *
get_entries(const struct part_of_disk *d, const struct header *h, const char **why)
{
	size_t bytes = h->entry_count * ENTRY_BYTES, at;
	const uint8_t *entries;

	if (h->entries_lba < d->first || h->entries_lba - d->first > d->bytes / d->block_size) {
		fail(0, why, "the entries are too far away");
		return NULL;
	}
	at = (h->entries_lba - d->first) * d->block_size;
	if (bytes > d->bytes - at) {
		fail(0, why, "the entries are too far away");
		return NULL;
	}
	entries = d->buf + at;
	if (crc_32(0, entries, bytes) != h->entries_crc) {
		fail(0, why, "the entries' checksum is wrong");
		return NULL;
	}
	return entries;
}

/* ---- Partitions ---- */

static void
get_name(const uint8_t *p, char *name)
{
	for (unsigned i = 0; i < 36; i++, p += 2) {
		uint16_t c = (uint16_t)(p[0] | p[1] << 8);

		if (c == 0) {
			break;
		}
		if (c < 0x20 || c == 0x7f || (c >= 0xd800 && c < 0xe000)) {
			*name++ = '?';
		} else if (c < 0x80) {
			*name++ = (char)c;
		} else if (c < 0x800) {
			*name++ = (char)(0xc0 | c >> 6);
			*name++ = (char)(0x80 | (c & 0x3f));
		} else {
			*name++ = (char)(0xe0 | c >> 12);
			*name++ = (char)(0x80 | (c >> 6 & 0x3f));
			*name++ = (char)(0x80 | (c & 0x3f));
		}
	}
	*name = '\0';
}

static bool
overlaps(const struct gpt_table *t, uint64_t first, uint64_t last)
{
	for (unsigned i = 0; i < t->count; i++) {
		const struct gpt_partition *p = &t->partitions[i];

		if (first < p->first_block + p->num_blocks && p->first_block <= last) {
			return true;
		}
	}
	return false;
}

static void
add_partition(struct gpt_table *t, const struct header *h, const uint8_t *entry, uint32_t number)
{
	uint64_t first = get64(entry + 32), last = get64(entry + 40);
	struct gpt_partition *p = &t->partitions[t->count];
	bool old;

	get_guid(entry, p->type);
	old = uuid_compare(p->type, type_old) == 0;
	if (!old && uuid_compare(p->type, type_new) != 0) {
		return;
	}
	if (first < h->first_usable || last > h->last_usable || first > last ||
	    (old && first == last) || overlaps(t, first, last)) {
		return;
	}
	p->number = number;
	p->first_block = first;
	p->num_blocks = last - first + (old ? 0 : 1);
	get_guid(entry + 16, p->guid);
	get_name(entry + 56, p->name);
	t->count++;
}

static int
parse(const struct part_of_disk *d, uint64_t header_lba, struct gpt_table *t, const char **why)
{
	const uint8_t *entries;
	struct header h;
	int rc = get_header(d, header_lba, &h, why);

	if (rc != 0) {
		return rc;
	}
	entries = get_entries(d, &h, why);
	if (entries == NULL) {
		return -EBADMSG;
	}
	t->count = 0;
	uuid_copy(t->disk_guid, h.disk_guid);
	for (uint32_t i = 0; i < h.entry_count; i++) {
		add_partition(t, &h, entries + i * ENTRY_BYTES, i + 1);
	}
	return 0;
}

int
gpt_parse_primary(const void *buf, size_t bytes, uint32_t block_size, uint64_t num_blocks,
		  struct gpt_table *ret_table, const char **why)
{
	const struct part_of_disk d = {
		.buf = buf, .bytes = bytes, .block_size = block_size, .num_blocks = num_blocks};
	int rc = check_mbr(&d, why);

	return rc != 0 ? rc : parse(&d, 1, ret_table, why);
}

int
gpt_parse_backup(const void *buf, size_t bytes, uint32_t block_size, uint64_t num_blocks,
		 struct gpt_table *ret_table, const char **why)
{
	const struct part_of_disk d = {.buf = buf,
				       .bytes = bytes,
				       .block_size = block_size,
				       .first = num_blocks - bytes / block_size,
				       .num_blocks = num_blocks};

	return parse(&d, num_blocks - 1, ret_table, why);
}
