/* SPDX-License-Identifier: BSD-3-Clause */
/* A file or block device as the offline look at a store needs it: nobody else has it, holes are known. */
#ifndef APP_STORE_FILE_H
#define APP_STORE_FILE_H

#include <stdbool.h>

#include "base/err.h"
#include "blob/check.h"

struct store_file {
	struct blob_offline dev; /* ctx is this structure: it must not move */
	const char *path;        /* borrowed */
	uint32_t block_size;
	int fd;
};

/* -EBUSY: a berthd or somebody else has it. */
int store_file_open(struct store_file *file, const char *path, bool write, struct err *err);
void store_file_close(struct store_file *file);

/*
 * Its survey, by the super block, or else by what is left (*ret_guessed, cluster_bytes 0: is guessed, too; the super
 * block's error is in survey->super_err).
 */
int store_file_survey(struct store_file *file, uint32_t cluster_bytes, struct blob_survey **ret_survey,
		      bool *ret_guessed, struct err *err);

/* Takes --cluster-size out of argv; 0: not given. An exit code. */
int store_take_cluster_size(const char *command, int *argc, char **argv, uint32_t *ret_bytes);

/* Exit codes of store check, dump and salvage: those of fsck. */
enum store_exit { STORE_CLEAN = 0, STORE_REPAIRED = 1, STORE_DAMAGED = 4, STORE_FAILED = 8 };
/* "berth store check: PATH: ..." */
int store_failed(const char *command, const char *path, const struct err *err);

#endif
