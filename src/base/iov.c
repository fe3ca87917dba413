/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/iov.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"

size_t
iov_length(const struct iovec *iov, int iovcnt)
{
	size_t sum = 0;

	for (int i = 0; i < iovcnt; i++) {
		sum += iov[i].iov_len;
	}
	return sum;
}

enum walk_kind { WALK_TO_BUF, WALK_FROM_BUF, WALK_FILL };

static size_t
walk(const struct iovec *iov, int iovcnt, size_t offset, uint8_t *buf, int byte, size_t len,
     enum walk_kind kind)
{
	size_t done = 0;

	for (int i = 0; i < iovcnt && done < len; i++) {
		size_t n;
		uint8_t *part;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		n = MIN(iov[i].iov_len - offset, len - done);
		part = (uint8_t *)iov[i].iov_base + offset;
		if (kind == WALK_TO_BUF) {
			memcpy(buf + done, part, n);
		} else if (kind == WALK_FROM_BUF) {
			memcpy(part, buf + done, n);
		} else {
			memset(part, byte, n);
		}
		done += n;
		offset = 0;
	}
	return done;
}

size_t
iov_to_buf(const struct iovec *iov, int iovcnt, size_t offset, void *buf, size_t len)
{
	return walk(iov, iovcnt, offset, buf, 0, len, WALK_TO_BUF);
}

size_t
iov_from_buf(const struct iovec *iov, int iovcnt, size_t offset, const void *buf, size_t len)
{
	return walk(iov, iovcnt, offset, (uint8_t *)(uintptr_t)buf, 0, len, WALK_FROM_BUF);
}

size_t
iov_fill(const struct iovec *iov, int iovcnt, size_t offset, int byte, size_t len)
{
	return walk(iov, iovcnt, offset, NULL, byte, len, WALK_FILL);
}

bool
iov_aligned(const struct iovec *iov, int iovcnt, size_t align)
{
	uintptr_t bits = 0;

	for (int i = 0; i < iovcnt; i++) {
		bits |= (uintptr_t)iov[i].iov_base | iov[i].iov_len;
	}
	return (bits & (align - 1)) == 0;
}

int
iov_slice(const struct iovec *iov, int iovcnt, size_t offset, size_t len, struct iovec *out, int max)
{
	int n = 0;

	for (int i = 0; i < iovcnt && len > 0; i++) {
		size_t part;

		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		if (n == max) {
			return -ENOSPC;
		}
		part = MIN(iov[i].iov_len - offset, len);
		out[n++] = (struct iovec){(uint8_t *)iov[i].iov_base + offset, part};
		len -= part;
		offset = 0;
	}
	return len == 0 ? n : -EINVAL;
}
