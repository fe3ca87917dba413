/* SPDX-License-Identifier: BSD-3-Clause */
/* Finds where a JSON object or array ends in a stream of bytes. Pure; each byte is looked at once. */
#ifndef RPC_SCAN_H
#define RPC_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RPC_DEPTH_MAX 64

/* Zeroed before each value. */
struct rpc_scan {
	size_t start;   /* of the value, once depth is not 0 */
	size_t offset;  /* bytes looked at */
	uint64_t kinds; /* a bit for each open bracket, the innermost lowest: 1 for an object */
	unsigned depth;
	bool in_string;
	bool escaped;
};

enum rpc_scan_result {
	RPC_SCAN_MORE,     /* all bytes looked at, no end yet */
	RPC_SCAN_VALUE,    /* [start, offset) is a value, if it is JSON */
	RPC_SCAN_BAD,      /* no value can begin or end like this */
	RPC_SCAN_SCALAR,   /* a number or string begins, where an object or array should */
	RPC_SCAN_TOO_DEEP, /* more than RPC_DEPTH_MAX brackets */
};

/* data: from the beginning of the value or of the space before it; len: what there is by now, never less than before. */
enum rpc_scan_result rpc_scan(struct rpc_scan *scan, const char *data, size_t len);

#endif
