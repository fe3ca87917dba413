/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The SCSI commands that a disk needs, and what their answers mean: SPC-5 and SBC-4. Pure; answers come from a wire and may hold
 * anything.
 */
#ifndef BDEVS_ISCSI_SBC_H
#define BDEVS_ISCSI_SBC_H

#include <stddef.h>

#include "base/err.h"
#include "bdev/bdev.h"

/* ---- Commands ---- */

#define SBC_INQUIRY 0x12
#define SBC_MODE_SENSE_6 0x1a
#define SBC_UNMAP 0x42
#define SBC_READ_16 0x88
#define SBC_COMPARE_AND_WRITE 0x89
#define SBC_WRITE_16 0x8a
#define SBC_SYNCHRONIZE_CACHE_16 0x91
#define SBC_WRITE_SAME_16 0x93
#define SBC_SERVICE_ACTION_IN_16 0x9e
#define SBC_SA_READ_CAPACITY_16 0x10
#define SBC_SA_GET_LBA_STATUS 0x12

#define SBC_WRITE_SAME_UNMAP 0x08
#define SBC_FUA 0x08

#define SBC_CDB_BYTES 16

/* Of 16 bytes: what is the same in all that have a service action or flags, an LBA and a length. */
void sbc_cdb_16(uint8_t cdb[static SBC_CDB_BYTES], uint8_t opcode, uint8_t flags, uint64_t lba, uint32_t length);
void sbc_cdb_compare_and_write(uint8_t cdb[static SBC_CDB_BYTES], uint8_t flags, uint64_t lba, uint8_t blocks);
/* 10 bytes. */
void sbc_cdb_unmap(uint8_t cdb[static SBC_CDB_BYTES], uint16_t list_bytes);
/* 6 bytes. page -1: the standard data. */
void sbc_cdb_inquiry(uint8_t cdb[static SBC_CDB_BYTES], int page, uint16_t room);
void sbc_cdb_mode_sense(uint8_t cdb[static SBC_CDB_BYTES], uint8_t page, uint8_t room);

#define SBC_UNMAP_LIST_BYTES 24
/* One range. */
void sbc_unmap_list(uint8_t list[static SBC_UNMAP_LIST_BYTES], uint64_t lba, uint32_t num_blocks);

/* ---- What a logical unit is ---- */

#define SBC_PAGE_LIST 0x00
#define SBC_PAGE_SERIAL 0x80
#define SBC_PAGE_IDENTIFICATION 0x83
#define SBC_PAGE_LIMITS 0xb0
#define SBC_PAGE_PROVISIONING 0xb2
#define SBC_MODE_CACHING 0x08
#define SBC_MODE_ALL 0x3f

#define SBC_ID_BYTES 64

struct sbc_unit {
	uint64_t num_blocks;
	uint32_t block_size;
	uint32_t physical_block_size;
	bool readonly;
	bool write_cache;
	bool fua;
	bool thin;            /* may have blocks without storage */
	bool zeroes;          /* these read as zeroes */
	bool unmap;           /* has UNMAP */
	bool write_same;      /* has WRITE SAME */
	bool write_same_unmap; /* which may take the storage away */
	/* In blocks; 0: the unit names no limit. */
	uint32_t max_transfer;
	uint32_t granularity;
	uint32_t max_unmap;
	uint32_t unmap_granularity;
	uint32_t max_write_same;
	uint32_t max_compare_write; /* 0: it cannot */
	/* What it is called, the same over every path and after every restart; 0 bytes: it has no name. */
	size_t id_bytes;
	uint8_t id[SBC_ID_BYTES];
};

/* Standard inquiry data: 0, or -ENODEV: there is no disk of that number. */
int sbc_unit_inquiry(const uint8_t *data, size_t bytes, struct err *err);
/* Whether the list of pages has this one. */
bool sbc_unit_has_page(const uint8_t *data, size_t bytes, uint8_t page);
/* One of SBC_PAGE_...; what is too short, or is another page, says nothing. */
void sbc_unit_page(struct sbc_unit *unit, uint8_t page, const uint8_t *data, size_t bytes);
/* Answer of READ CAPACITY(16): 0, or -EINVAL: of a size that berth cannot use. */
int sbc_unit_capacity(struct sbc_unit *unit, const uint8_t *data, size_t bytes, struct err *err);
/* Answer of MODE SENSE(6), without block descriptors. */
void sbc_unit_modes(struct sbc_unit *unit, const uint8_t *data, size_t bytes);

/*
 * Answer of GET LBA STATUS, as extents from lba on: at most num_blocks and max of them. How many; 0: it says nothing of
 * lba.
 */
size_t sbc_lba_status(const uint8_t *data, size_t bytes, uint64_t lba, uint64_t num_blocks, bool zeroes,
		       struct bdev_extent *out, size_t max);
/* Room for so many descriptors. */
#define SBC_LBA_STATUS_BYTES(count) (8 + 16 * (count))

/* ---- How a command ended ---- */

enum sbc_verdict {
	SBC_ENDED, /* with a status for who asked */
	SBC_AGAIN, /* nothing was done: to be sent once more, now */
	SBC_LATER, /* the same, after a while */
	SBC_GONE,  /* the unit is not there any more */
};

struct sbc_end {
	enum sbc_verdict verdict;
	int status;
	bool resized;    /* the unit said that its size has changed */
	uint64_t offset; /* of a miscompare: the first byte that differs, UINT64_MAX: it does not say */
};

/* status: as SAM-5 has it. sense: what came with it, without a length in front; may be none. */
struct sbc_end sbc_judge(uint8_t status, const uint8_t *sense, size_t bytes);

#endif
