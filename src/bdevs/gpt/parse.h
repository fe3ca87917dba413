/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * GUID partition tables (UEFI specification 2.10, chapter 5): bytes to struct, pure. Only the partitions that are meant for us
 * are told: those of SPDK's two types.
 */
#ifndef BDEVS_GPT_PARSE_H
#define BDEVS_GPT_PARSE_H

#include <stddef.h>
#include <stdint.h>
#include <uuid/uuid.h>

/* What is read of a disk, at its beginning and at its end; one block if that is more. */
#define GPT_BYTES 32768u
#define GPT_ENTRIES_MAX 128u
/* 36 characters of UTF-16, none of which needs more than 3 bytes; and the zero. */
#define GPT_NAME_BYTES (36 * 3 + 1)

struct gpt_partition {
	uint32_t number; /* from 1 on: its place in the table */
	uint64_t first_block;
	uint64_t num_blocks;
	uuid_t type; /* as people write them: the mixed order of bytes is undone */
	uuid_t guid;
	char name[GPT_NAME_BYTES]; /* UTF-8; what is no character is a question mark */
};

struct gpt_table {
	uuid_t disk_guid;
	unsigned count;
	struct gpt_partition partitions[GPT_ENTRIES_MAX];
};

/* Bytes to read at either end. */
size_t gpt_bytes(uint32_t block_size);

/*
 * bytes of buf are the disk's beginning, gpt_bytes() of them or the whole disk. 0; -ENOENT: there is no table; -EBADMSG: there is
 * one, but it is broken, and the one at the end may be good. why: what is wrong, may be NULL.
 */
int gpt_parse_primary(const void *buf, size_t bytes, uint32_t block_size, uint64_t num_blocks,
		      struct gpt_table *ret_table, const char **why);
/* The same of the disk's end, for when the first one is broken. 0 or -EBADMSG. */
int gpt_parse_backup(const void *buf, size_t bytes, uint32_t block_size, uint64_t num_blocks,
		     struct gpt_table *ret_table, const char **why);

#endif
