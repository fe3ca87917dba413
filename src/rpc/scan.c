/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * JSON-RPC on a stream has no framing but the JSON itself, and the parser takes whole values only. This
 * finds the end: brackets are counted outside of strings, their kinds compared.
 *
 * Invariants
 *  1. A value that the JSON parser accepts ends where this says it ends.
 *  2. What this accepts need not be JSON: the parser looks at the bytes between.
 *  3. State is constant in size: depth is limited.
 *
 * Rejected: trying the parser at every delivery (quadratic in the number of deliveries).
 */
#include "rpc/scan.h"

static bool
is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static enum rpc_scan_result
open_bracket(struct rpc_scan *scan, char c, size_t at)
{
	if (scan->depth == RPC_DEPTH_MAX) {
		return RPC_SCAN_TOO_DEEP;
	}
	if (scan->depth == 0) {
		scan->start = at;
	}
	scan->kinds = scan->kinds << 1 | (c == '{');
	scan->depth++;
	return RPC_SCAN_MORE;
}

static enum rpc_scan_result
close_bracket(struct rpc_scan *scan, char c)
{
	if (scan->depth == 0 || (scan->kinds & 1) != (c == '}')) {
		return RPC_SCAN_BAD;
	}
	scan->kinds >>= 1;
	scan->depth--;
	return scan->depth == 0 ? RPC_SCAN_VALUE : RPC_SCAN_MORE;
}

static void
string_byte(struct rpc_scan *scan, char c)
{
	if (scan->escaped) {
		scan->escaped = false;
	} else if (c == '\\') {
		scan->escaped = true;
	} else if (c == '"') {
		scan->in_string = false;
	}
}

static enum rpc_scan_result
plain_byte(struct rpc_scan *scan, char c, size_t at)
{
	switch (c) {
	case '{':
	case '[':
		return open_bracket(scan, c, at);
	case '}':
	case ']':
		return close_bracket(scan, c);
	default:
		/* The parser would let some control characters pass, and count them wrongly. */
		if (!is_space(c) && (scan->depth == 0 || (unsigned char)c < 0x20)) {
			return c == '"' || c == '-' || (c >= '0' && c <= '9') ? RPC_SCAN_SCALAR : RPC_SCAN_BAD;
		}
		scan->in_string = c == '"';
		return RPC_SCAN_MORE;
	}
}

enum rpc_scan_result
rpc_scan(struct rpc_scan *scan, const char *data, size_t len)
{
	enum rpc_scan_result result = RPC_SCAN_MORE;

	while (result == RPC_SCAN_MORE && scan->offset < len) {
		char c = data[scan->offset];

		if (scan->in_string) {
			string_byte(scan, c);
		} else {
			result = plain_byte(scan, c, scan->offset);
		}
		scan->offset++;
	}
	return result;
}
