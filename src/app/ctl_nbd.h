/* SPDX-License-Identifier: BSD-3-Clause */
/* A bdev of the running berthd, lent over NBD and read or written in this process: one request at a time, blocking. */
#ifndef APP_CTL_NBD_H
#define APP_CTL_NBD_H

#include "app/ctl.h"

struct ctl_nbd {
	const char *context; /* for messages; borrowed */
	int fd;
	uint64_t size_bytes;
	uint64_t cookie;
};

/* Each returns an exit code and has said what is wrong. Requests may be as long as CTL_NBD_MAX. */
#define CTL_NBD_MAX (1u << 20)
int ctl_nbd_open(struct ctl_nbd *n, struct ctl *ctl, const char *context, const char *bdev, bool write);
int ctl_nbd_read(struct ctl_nbd *n, uint64_t offset, void *buf, uint32_t length);
int ctl_nbd_write(struct ctl_nbd *n, uint64_t offset, const void *buf, uint32_t length);
int ctl_nbd_write_zeroes(struct ctl_nbd *n, uint64_t offset, uint32_t length);
int ctl_nbd_flush(struct ctl_nbd *n);
/* Also for one that could not be opened. */
void ctl_nbd_close(struct ctl_nbd *n);

/* All of it, in as many calls as it takes: 0, or a negative errno; reading, -ENODATA: the end came before. */
int ctl_read_all(int fd, void *buf, size_t length);
int ctl_write_all(int fd, const void *buf, size_t length);

#endif
