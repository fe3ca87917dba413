/* SPDX-License-Identifier: BSD-3-Clause */
/* Arithmetic on scatter lists. All lengths in bytes; pure, any thread. */
#ifndef BASE_IOV_H
#define BASE_IOV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

size_t iov_length(const struct iovec *iov, int iovcnt);

/* Copies between a scatter list, from byte `offset` on, and a flat buffer; returns the bytes copied,
 * less than len where the list ends first. */
size_t iov_to_buf(const struct iovec *iov, int iovcnt, size_t offset, void *buf, size_t len);
size_t iov_from_buf(const struct iovec *iov, int iovcnt, size_t offset, const void *buf, size_t len);
size_t iov_fill(const struct iovec *iov, int iovcnt, size_t offset, int byte, size_t len);

/* True when every base address and every length is a multiple of align (a power of two). */
bool iov_aligned(const struct iovec *iov, int iovcnt, size_t align);

/*
 * Writes to out (room for max entries) the part [offset, offset + len) of iov and returns the number
 * of entries, or -ENOSPC when max is too small, -EINVAL when the list is shorter.
 */
int iov_slice(const struct iovec *iov, int iovcnt, size_t offset, size_t len, struct iovec *out, int max);

#endif
