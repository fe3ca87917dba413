/* SPDX-License-Identifier: BSD-3-Clause */
/* Compressed clusters: a raw deflate stream, or zstd where this was built with it. */
#include <errno.h>
#include <zlib.h>
#ifdef HAVE_ZSTD
#include <zstd.h>
#endif

#include "bdevs/qcow2/parse.h"

bool
qcow2_can_inflate(enum qcow2_compression compression)
{
#ifdef HAVE_ZSTD
	return compression == QCOW2_DEFLATE || compression == QCOW2_ZSTD;
#else
	return compression == QCOW2_DEFLATE;
#endif
}

static int
deflate_stream(const void *in, size_t bytes, void *out, size_t cluster_bytes)
{
	z_stream z = {
		.next_in = (Bytef *)(uintptr_t)in,
		.avail_in = (uInt)bytes,
		.next_out = out,
		.avail_out = (uInt)cluster_bytes,
	};
	int rc = inflateInit2(&z, -MAX_WBITS);

	if (rc != Z_OK) {
		return -ENOMEM;
	}
	rc = inflate(&z, Z_FINISH);
	inflateEnd(&z);
	if (rc == Z_MEM_ERROR) {
		return -ENOMEM;
	}
	/* A full buffer before the end of the stream is good, too. */
	return (rc == Z_STREAM_END || rc == Z_BUF_ERROR) && z.avail_out == 0 ? 0 : -EBADMSG;
}

#ifdef HAVE_ZSTD
static int
zstd_stream(const void *in, size_t bytes, void *out, size_t cluster_bytes)
{
	ZSTD_inBuffer from = {.src = in, .size = bytes};
	ZSTD_outBuffer to = {.dst = out, .size = cluster_bytes};
	ZSTD_DCtx *ctx = ZSTD_createDCtx();
	int rc = 0;

	if (ctx == NULL) {
		return -ENOMEM;
	}
	/* Several frames may follow one another; each call takes or gives something, or there is nothing left. */
	while (rc == 0 && to.pos < to.size) {
		size_t before = from.pos + to.pos;

		if (ZSTD_isError(ZSTD_decompressStream(ctx, &to, &from)) ||
		    from.pos + to.pos == before) {
			rc = -EBADMSG;
		}
	}
	ZSTD_freeDCtx(ctx);
	return rc;
}
#endif

int
qcow2_inflate(enum qcow2_compression compression, const void *in, size_t bytes, void *out,
	      size_t cluster_bytes)
{
#ifdef HAVE_ZSTD
	if (compression == QCOW2_ZSTD) {
		return zstd_stream(in, bytes, out, cluster_bytes);
	}
#endif
	return compression == QCOW2_DEFLATE ? deflate_stream(in, bytes, out, cluster_bytes) : -ENOTSUP;
}
