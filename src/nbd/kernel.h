/* SPDX-License-Identifier: BSD-3-Clause */
/* The kernel's NBD client, told by generic netlink which socket to use as a disk. Everything here may block: for a worker. */
#ifndef NBD_KERNEL_H
#define NBD_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define NBD_KERNEL_ID_BYTES 300

struct nbd_kernel_disk {
	int index; /* of /dev/nbdN; -1: the kernel chooses */
	int fd;    /* of a socket on which the disk is served; borrowed, the kernel takes a reference; -1: no new one */
	uint64_t size_bytes;
	uint32_t block_size;
	uint16_t flags; /* of transmission */
	uint32_t timeout_s;      /* after which a request is sent again */
	uint32_t dead_timeout_s; /* how long requests wait for another socket when this one is dead */
	char id[NBD_KERNEL_ID_BYTES]; /* whose the disk is: only who says the same may take it over */
};

/* The number in "/dev/nbdN", -EINVAL: that is no such name. */
int nbd_kernel_index(const char *device);

/*
 * Makes the disk, or gives the one that waits for its server the new socket. Its number, or a negative errno with err:
 * -ENODEV (the kernel has no nbd, or no such device), -EBUSY (in use), -EPERM, ...
 */
int nbd_kernel_connect(const struct nbd_kernel_disk *d, struct err *err);
/* Tells the new size. 0 or a negative errno. */
int nbd_kernel_resize(const struct nbd_kernel_disk *d, struct err *err);
/* Takes the disk away. 0 or a negative errno. */
int nbd_kernel_disconnect(int index, struct err *err);

/* For tests: the message that asks for the disk (reconfigure: for another socket or size), into out. Its length. */
#define NBD_KERNEL_MESSAGE_BYTES 1024
size_t nbd_kernel_encode(const struct nbd_kernel_disk *d, uint16_t family, int reconfigure,
			 uint8_t out[NBD_KERNEL_MESSAGE_BYTES]);

#endif
