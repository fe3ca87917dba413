/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/iscsi/sbc.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "base/check.h"

#define TYPE_DISK 0

static void
put16(uint8_t *p, uint16_t v)
{
	v = htobe16(v);
	memcpy(p, &v, sizeof(v));
}

static void
put32(uint8_t *p, uint32_t v)
{
	v = htobe32(v);
	memcpy(p, &v, sizeof(v));
}

static void
put64(uint8_t *p, uint64_t v)
{
	v = htobe64(v);
	memcpy(p, &v, sizeof(v));
}

static uint16_t
get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t
get32(const uint8_t *p)
{
	return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static uint64_t
get64(const uint8_t *p)
{
	return (uint64_t)get32(p) << 32 | get32(p + 4);
}

/* ---- Commands ---- */

void
sbc_cdb_16(uint8_t cdb[static SBC_CDB_BYTES], uint8_t opcode, uint8_t flags, uint64_t lba, uint32_t length)
{
	memset(cdb, 0, SBC_CDB_BYTES);
	cdb[0] = opcode;
	cdb[1] = flags;
	put64(cdb + 2, lba);
	put32(cdb + 10, length);
}

void
sbc_cdb_compare_and_write(uint8_t cdb[static SBC_CDB_BYTES], uint8_t flags, uint64_t lba, uint8_t blocks)
{
	sbc_cdb_16(cdb, SBC_COMPARE_AND_WRITE, flags, lba, blocks);
}

void
sbc_cdb_unmap(uint8_t cdb[static SBC_CDB_BYTES], uint16_t list_bytes)
{
	memset(cdb, 0, SBC_CDB_BYTES);
	cdb[0] = SBC_UNMAP;
	put16(cdb + 7, list_bytes);
}

void
sbc_cdb_inquiry(uint8_t cdb[static SBC_CDB_BYTES], int page, uint16_t room)
{
	memset(cdb, 0, SBC_CDB_BYTES);
	cdb[0] = SBC_INQUIRY;
	if (page >= 0) {
		cdb[1] = 1;
		cdb[2] = (uint8_t)page;
	}
	put16(cdb + 3, room);
}

void
sbc_cdb_mode_sense(uint8_t cdb[static SBC_CDB_BYTES], uint8_t page, uint8_t room)
{
	memset(cdb, 0, SBC_CDB_BYTES);
	cdb[0] = SBC_MODE_SENSE_6;
	cdb[1] = 0x08; /* no block descriptors */
	cdb[2] = page;
	cdb[4] = room;
}

void
sbc_unmap_list(uint8_t list[static SBC_UNMAP_LIST_BYTES], uint64_t lba, uint32_t num_blocks)
{
	memset(list, 0, SBC_UNMAP_LIST_BYTES);
	put16(list, SBC_UNMAP_LIST_BYTES - 2);
	put16(list + 2, SBC_UNMAP_LIST_BYTES - 8);
	put64(list + 8, lba);
	put32(list + 16, num_blocks);
}

/* ---- What a logical unit is ---- */

int
sbc_unit_inquiry(const uint8_t *data, size_t bytes, struct err *err)
{
	unsigned qualifier = bytes > 0 ? data[0] >> 5 : 7, type = bytes > 0 ? data[0] & 0x1f : 0x1f;

	if (qualifier != 0) {
		return err_set(err, -ENODEV, "there is no such logical unit");
	}
	if (type != TYPE_DISK) {
		return err_set(err, -ENODEV, "the logical unit is no disk, but of type %u", type);
	}
	return 0;
}

bool
sbc_unit_has_page(const uint8_t *data, size_t bytes, uint8_t page)
{
	size_t end = bytes >= 4 ? MIN(bytes, (size_t)get16(data + 2) + 4) : 0;

	if (end == 0 || data[1] != SBC_PAGE_LIST) {
		return false;
	}
	return memchr(data + 4, page, end - 4) != NULL;
}

static void
set_id(struct sbc_unit *unit, const uint8_t *id, size_t bytes)
{
	unit->id_bytes = MIN(bytes, sizeof(unit->id));
	memcpy(unit->id, id, unit->id_bytes);
}

/* Of the designators of the unit itself, the first of the best type: NAA, EUI-64, the vendor's. */
static void
take_identification(struct sbc_unit *unit, const uint8_t *data, size_t bytes)
{
	static const uint8_t rank[16] = {[3] = 3, [2] = 2, [1] = 1};
	uint8_t best = 0;

	for (size_t at = 4; at + 4 <= bytes && at + 4 + data[at + 3] <= bytes; at += 4 + (size_t)data[at + 3]) {
		const uint8_t *d = data + at;
		uint8_t type = d[1] & 0x0f;

		if ((d[1] & 0x30) == 0 && rank[type] > best && d[3] > 0) {
			best = rank[type];
			set_id(unit, d + 4, d[3]);
		}
	}
}

static void
take_limits(struct sbc_unit *unit, const uint8_t *data, size_t bytes)
{
	if (bytes < 12) {
		return;
	}
	unit->max_compare_write = data[5];
	unit->granularity = get16(data + 6);
	unit->max_transfer = get32(data + 8);
	if (bytes >= 32) {
		unit->max_unmap = get32(data + 20);
		unit->unmap_granularity = get32(data + 28);
	}
	if (bytes >= 44 && get64(data + 36) != 0) {
		unit->max_write_same = (uint32_t)MIN(get64(data + 36), (uint64_t)UINT32_MAX);
		unit->write_same = true;
	}
}

static void
take_provisioning(struct sbc_unit *unit, const uint8_t *data, size_t bytes)
{
	if (bytes < 6) {
		return;
	}
	unit->unmap = (data[5] & 0x80) != 0;
	unit->write_same_unmap = (data[5] & 0x40) != 0;
	unit->write_same |= unit->write_same_unmap;
}

void
sbc_unit_page(struct sbc_unit *unit, uint8_t page, const uint8_t *data, size_t bytes)
{
	if (bytes < 4 || data[1] != page) {
		return;
	}
	bytes = MIN(bytes, (size_t)get16(data + 2) + 4);
	switch (page) {
	case SBC_PAGE_SERIAL:
		if (unit->id_bytes == 0) {
			set_id(unit, data + 4, bytes - 4);
		}
		break;
	case SBC_PAGE_IDENTIFICATION:
		take_identification(unit, data, bytes);
		break;
	case SBC_PAGE_LIMITS:
		take_limits(unit, data, bytes);
		break;
	case SBC_PAGE_PROVISIONING:
		take_provisioning(unit, data, bytes);
		break;
	default:
		break;
	}
}

int
sbc_unit_capacity(struct sbc_unit *unit, const uint8_t *data, size_t bytes, struct err *err)
{
	uint64_t last = bytes >= 16 ? get64(data) : 0;
	uint32_t size = bytes >= 16 ? get32(data + 8) : 0;

	if (bytes < 16) {
		return err_set(err, -EINVAL, "the unit does not say how large it is");
	}
	if (size < BDEV_BLOCK_SIZE_MIN || size > BDEV_BLOCK_SIZE_MAX || (size & (size - 1)) != 0) {
		return err_set(err, -EINVAL, "blocks of %u bytes are not supported", size);
	}
	if (last >= UINT64_MAX / size - 1) {
		return err_set(err, -EINVAL, "a last block of %llu cannot be", (unsigned long long)last);
	}
	unit->num_blocks = last + 1;
	unit->block_size = size;
	unit->physical_block_size = size;
	if ((uint64_t)size << (data[13] & 0x0f) <= BDEV_BLOCK_SIZE_MAX) {
		unit->physical_block_size = size << (data[13] & 0x0f);
	}
	unit->thin = (data[14] & 0x80) != 0;
	unit->zeroes = (data[14] & 0xc0) == 0xc0;
	return 0;
}

void
sbc_unit_modes(struct sbc_unit *unit, const uint8_t *data, size_t bytes)
{
	size_t end = bytes >= 4 ? MIN(bytes, (size_t)data[0] + 1) : 0;

	if (end < 4) {
		return;
	}
	unit->readonly = (data[2] & 0x80) != 0;
	unit->fua = (data[2] & 0x10) != 0;
	for (size_t at = 4 + (size_t)data[3]; at + 3 <= end; at += 2 + (size_t)data[at + 1]) {
		if ((data[at] & 0x3f) == SBC_MODE_CACHING) {
			unit->write_cache = (data[at + 2] & 0x04) != 0;
		}
	}
}

size_t
sbc_lba_status(const uint8_t *data, size_t bytes, uint64_t lba, uint64_t num_blocks, bool zeroes, struct bdev_extent *out,
		size_t max)
{
	uint64_t next = lba, end = lba + num_blocks;
	size_t count = 0, limit = bytes >= 8 ? MIN(bytes, (size_t)get32(data) + 4) : 0;

	for (size_t at = 8; at + 16 <= limit && next < end && count < max; at += 16) {
		uint64_t from = get64(data + at);
		uint64_t blocks = get32(data + at + 8);
		unsigned how = data[at + 12] & 0x0f;

		/* What is told of comes in order and without gaps; the first may begin before what was asked for. */
		if (from > next || blocks > UINT64_MAX - from || from + blocks <= next) {
			break;
		}
		out[count].num_blocks = MIN(from + blocks, end) - next;
		out[count].flags = (how != 1 ? BDEV_EXTENT_ALLOCATED : 0) | (how != 0 && zeroes ? BDEV_EXTENT_ZERO : 0);
		next += out[count++].num_blocks;
	}
	return count;
}

/* ---- How a command ended ---- */

#define STATUS_GOOD 0x00
#define STATUS_CHECK_CONDITION 0x02
#define STATUS_CONDITION_MET 0x04
#define STATUS_BUSY 0x08
#define STATUS_RESERVATION_CONFLICT 0x18
#define STATUS_TASK_SET_FULL 0x28
#define STATUS_ACA_ACTIVE 0x30
#define STATUS_TASK_ABORTED 0x40

#define KEY_NO_SENSE 0x0
#define KEY_RECOVERED 0x1
#define KEY_NOT_READY 0x2
#define KEY_ILLEGAL_REQUEST 0x5
#define KEY_UNIT_ATTENTION 0x6
#define KEY_DATA_PROTECT 0x7
#define KEY_ABORTED 0xb
#define KEY_MISCOMPARE 0xe

#define ASC_BECOMING_READY 0x0401
#define ASC_INVALID_OPCODE 0x2000
#define ASC_NO_SUCH_UNIT 0x2500
#define ASC_SPACE_FAILED 0x2707
#define ASC_CAPACITY_CHANGED 0x2a09

struct sense {
	uint8_t key;
	uint16_t asc;
	uint64_t info; /* UINT64_MAX: none */
};

/* SPC-5, 4.4: fixed and descriptor format. */
static struct sense
take_sense(const uint8_t *data, size_t bytes)
{
	struct sense s = {.key = KEY_NO_SENSE, .info = UINT64_MAX};
	uint8_t format = bytes >= 8 ? data[0] & 0x7f : 0;

	if (format == 0x70 || format == 0x71) {
		s.key = data[2] & 0x0f;
		s.asc = bytes >= 14 ? get16(data + 12) : 0;
		if ((data[0] & 0x80) != 0) {
			s.info = get32(data + 3);
		}
	} else if (format == 0x72 || format == 0x73) {
		s.key = data[1] & 0x0f;
		s.asc = get16(data + 2);
		/* The information descriptor. */
		if (bytes >= 20 && data[8] == 0 && data[9] == 10 && (data[10] & 0x80) != 0) {
			s.info = get64(data + 12);
		}
	}
	return s;
}

static struct sbc_end
end(enum sbc_verdict verdict, int status)
{
	return (struct sbc_end){.verdict = verdict, .status = status, .offset = UINT64_MAX};
}

static struct sbc_end
judge_sense(const struct sense *s)
{
	struct sbc_end e = end(SBC_ENDED, -EIO);

	switch (s->key) {
	case KEY_RECOVERED:
		e.status = 0;
		break;
	case KEY_NOT_READY:
		e.verdict = s->asc == ASC_BECOMING_READY ? SBC_LATER : SBC_ENDED;
		break;
	case KEY_ILLEGAL_REQUEST:
		e.verdict = s->asc == ASC_NO_SUCH_UNIT ? SBC_GONE : SBC_ENDED;
		e.status = s->asc == ASC_INVALID_OPCODE ? -EOPNOTSUPP : -EIO;
		break;
	case KEY_UNIT_ATTENTION:
		e.verdict = SBC_AGAIN;
		e.resized = s->asc == ASC_CAPACITY_CHANGED;
		break;
	case KEY_DATA_PROTECT:
		e.status = s->asc == ASC_SPACE_FAILED ? -ENOSPC : -EROFS;
		break;
	case KEY_ABORTED:
		e.verdict = SBC_AGAIN;
		break;
	case KEY_MISCOMPARE:
		e.status = -EILSEQ;
		e.offset = s->info;
		break;
	default:
		break;
	}
	return e;
}

struct sbc_end
sbc_judge(uint8_t status, const uint8_t *data, size_t bytes)
{
	struct sense s;

	switch (status) {
	case STATUS_GOOD:
	case STATUS_CONDITION_MET:
		return end(SBC_ENDED, 0);
	case STATUS_CHECK_CONDITION:
		s = take_sense(data, bytes);
		return judge_sense(&s);
	case STATUS_BUSY:
	case STATUS_TASK_SET_FULL:
	case STATUS_ACA_ACTIVE:
		return end(SBC_LATER, -EBUSY);
	case STATUS_RESERVATION_CONFLICT:
		return end(SBC_ENDED, -EBADE);
	case STATUS_TASK_ABORTED:
		return end(SBC_AGAIN, -EIO);
	default:
		return end(SBC_ENDED, -EIO);
	}
}
