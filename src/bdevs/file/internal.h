/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by request.c and bdev.c; never leaves src/bdevs/file. */
#ifndef BDEVS_FILE_INTERNAL_H
#define BDEVS_FILE_INTERNAL_H

#include "bdevs/file/file.h"

/* App thread. The worker threads live while anyone holds them; the last put joins them. 0 or a negative errno. */
int file_workers_get(struct err *err);
void file_workers_put(void);

/* BDEV_BLOCK_STATUS of a regular file; may block. 0 or a negative errno. */
int file_block_status(struct file_disk *disk, struct bdev_io *io);

#endif
