/* SPDX-License-Identifier: BSD-3-Clause */
/* Transmission, whole: a server and clients on sockets, in every mode and style. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/check.h"
#include "nbd/session.h"
#include "testkit/hand.h"
#include "testkit/nbd_stage.h"

#define STYLES 3
#define BIG ((size_t)NBD_PAYLOAD_MAX)

static struct nbd_stage st;
static uint8_t *big, *copy;

static int
setup(void **state)
{
	nbd_stage_start(&st, *(const enum reactor_mode *)*state, false);
	return 0;
}

static int
teardown(void **state)
{
	nbd_stage_stop(&st);
	return 0;
}

/* A bdev that is memory, which reads are sent from. */
static int
setup_in_place(void **state)
{
	setup(state);
	st.disk.bdev.memory = st.disk.data;
	return 0;
}

static int
teardown_in_place(void **state)
{
	unsigned copied = atomic_load(&st.copied);

	teardown(state);
	return copied == 0 ? 0 : -1;
}

static void
fill(uint8_t *p, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++) {
		p[i] = (uint8_t)(i * 7 + (i >> 9) * 13 + seed) | 1;
	}
}

/* Data of all sizes goes in and comes back, in each style of replies. */
static void
test_data(void **state)
{
	static const size_t sizes[] = {512,    1024,   4096,   8192,    8704,         15872,     16384,         16896,
				       65536, 131072, 131584, 1 << 20, (5 << 20) + 512, 17 << 20, NBD_PAYLOAD_MAX};

	for (unsigned style = 0; style < STYLES; style++) {
		struct nbd_client c;

		nbd_client_open(&c, &st, "disk", (enum nbd_reply_style)style);
		assert_int_equal(c.size, NBD_STAGE_BYTES);
		for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
			uint64_t offset = 512 * (1 + style * 3 + i);

			/* The largest take their time: once is enough. */
			if (sizes[i] > 8 << 20 && style != NBD_STRUCTURED) {
				continue;
			}

			fill(big, sizes[i], style * 16 + i);
			assert_int_equal(nbd_client_write(&c, 0, offset, big, sizes[i]), 0);
			assert_memory_equal(st.disk.data + offset, big, sizes[i]);
			memset(copy, 0xee, sizes[i]);
			assert_int_equal(nbd_client_read(&c, offset, copy, sizes[i]), 0);
			assert_memory_equal(copy, big, sizes[i]);
		}
		nbd_client_close(&c);
	}
}

/* Many requests in one go, answered in any order. */
static void
test_pipelined(void **state)
{
	enum { COUNT = 600, BYTES = 2048 };

	atomic_store(&st.disk.shuffle, true);
	for (unsigned style = 0; style < STYLES; style++) {
		struct nbd_client c;
		bool seen[COUNT] = {false};

		nbd_client_open(&c, &st, "disk", (enum nbd_reply_style)style);
		fill(big, COUNT * BYTES, style);
		for (unsigned i = 0; i < COUNT; i++) {
			nbd_client_request(&c, NBD_CMD_WRITE, 0, i, i * BYTES, BYTES);
			nbd_client_send(&c, big + i * BYTES, BYTES);
		}
		for (unsigned i = 0; i < COUNT; i++) {
			struct nbd_client_reply r;

			assert_true(nbd_client_reply(&c, &r, NULL, 0, 0));
			assert_true(r.cookie < COUNT && !seen[r.cookie] && r.error == 0 && r.last);
			seen[r.cookie] = true;
		}
		assert_memory_equal(st.disk.data, big, COUNT * BYTES);
		memset(seen, 0, sizeof(seen));
		for (unsigned i = 0; i < COUNT; i++) {
			nbd_client_request(&c, NBD_CMD_READ, 0, i, i * BYTES, BYTES);
		}
		for (unsigned i = 0; i < COUNT && style != NBD_SIMPLE; i++) {
			struct nbd_client_reply r;

			/* Short reads are never in pieces. */
			assert_true(nbd_client_reply(&c, &r, copy, 0, BYTES));
			assert_true(r.cookie < COUNT && !seen[r.cookie] && r.error == 0 && r.last);
			assert_int_equal(r.offset, r.cookie * BYTES);
			seen[r.cookie] = true;
		}
		if (style != NBD_SIMPLE) {
			assert_memory_equal(copy, big, COUNT * BYTES);
		}
		nbd_client_close(&c);
	}
}

/* Bytes that arrive one by one. */
static void
test_dripping(void **state)
{
	struct nbd_client c;
	struct nbd_client_reply r;
	uint8_t out[NBD_REQUEST_BYTES], *p = nbd_put32(out, NBD_REQUEST_MAGIC);

	nbd_client_open(&c, &st, "disk", NBD_STRUCTURED);
	p = nbd_put16(p, 0);
	p = nbd_put16(p, NBD_CMD_WRITE);
	memset(p, 5, 8);
	p = nbd_put64(p + 8, 1024);
	nbd_put32(p, 512);
	fill(big, 512, 3);
	for (unsigned i = 0; i < sizeof(out); i++) {
		nbd_client_send(&c, out + i, 1);
		nbd_stage_run(&st);
	}
	for (unsigned i = 0; i < 512; i += 64) {
		nbd_client_send(&c, big + i, 64);
		nbd_stage_run(&st);
	}
	assert_true(nbd_client_reply(&c, &r, NULL, 0, 0));
	assert_int_equal(r.error, 0);
	assert_memory_equal(st.disk.data + 1024, big, 512);
	nbd_client_close(&c);
}

static void
test_other_commands(void **state)
{
	for (unsigned style = 0; style < STYLES; style++) {
		struct nbd_client c;

		nbd_client_open(&c, &st, "disk", (enum nbd_reply_style)style);
		memset(st.disk.data, 0xaa, 1 << 20);
		assert_int_equal(nbd_client_command(&c, NBD_CMD_WRITE_ZEROES, 0, 4096, 8192), 0);
		assert_int_equal(st.disk.data[4095], 0xaa);
		assert_int_equal(st.disk.data[4096], 0);
		assert_int_equal(st.disk.data[12287], 0);
		assert_int_equal(st.disk.data[12288], 0xaa);
		assert_int_equal(nbd_client_command(&c, NBD_CMD_WRITE_ZEROES, NBD_REQUEST_NO_HOLE | NBD_REQUEST_FUA, 0, 512), 0);
		assert_int_equal(nbd_client_command(&c, NBD_CMD_WRITE_ZEROES, NBD_REQUEST_FAST_ZERO, 0, 1024), 0);
		assert_int_equal(nbd_client_command(&c, NBD_CMD_TRIM, 0, 65536, 65536), 0);
		assert_int_equal(nbd_client_command(&c, NBD_CMD_TRIM, NBD_REQUEST_FUA, 65536, 65536), 0);
		assert_int_equal(st.disk.data[65536], 0);
		assert_int_equal(nbd_client_command(&c, NBD_CMD_FLUSH, 0, 0, 0), 0);
		assert_int_equal(nbd_client_command(&c, NBD_CMD_CACHE, 0, 0, 1 << 20), 0);
		assert_int_equal(nbd_client_read(&c, 0, copy, 0), 0);
		assert_int_equal(nbd_client_write(&c, 0, 0, copy, 0), 0);
		assert_int_equal(nbd_client_command(&c, NBD_CMD_TRIM, 0, 0, 0), 0);
		nbd_client_close(&c);
	}
}

/* What is wrong is said so, and the connection goes on. */
static void
test_refusals(void **state)
{
	for (unsigned style = 0; style < STYLES; style++) {
		struct nbd_client c;

		nbd_client_open(&c, &st, "disk", (enum nbd_reply_style)style);
		assert_int_equal(nbd_client_read(&c, NBD_STAGE_BYTES, copy, 512), NBD_EINVAL);
		assert_int_equal(nbd_client_read(&c, NBD_STAGE_BYTES - 512, copy, 1024), NBD_EINVAL);
		assert_int_equal(nbd_client_read(&c, UINT64_MAX - 511, copy, 512), NBD_EINVAL);
		assert_int_equal(nbd_client_read(&c, 100, copy, 512), NBD_EINVAL);
		assert_int_equal(nbd_client_read(&c, 0, copy, 100), NBD_EINVAL);
		assert_int_equal(nbd_client_read(&c, 0, copy, BIG + 512), style == NBD_SIMPLE ? NBD_EINVAL : NBD_EOVERFLOW);
		assert_int_equal(nbd_client_write(&c, 0, NBD_STAGE_BYTES - 512, big, 1024), NBD_ENOSPC);
		assert_int_equal(nbd_client_write(&c, 0, 1, big, 512), NBD_EINVAL);
		assert_int_equal(nbd_client_write(&c, 0, 0, big, 40 << 20), NBD_EINVAL);
		assert_int_equal(nbd_client_write(&c, NBD_REQUEST_DF, 0, big, 512), NBD_EINVAL);
		assert_int_equal(nbd_client_command(&c, NBD_CMD_WRITE_ZEROES, 0, NBD_STAGE_BYTES, 512), NBD_ENOSPC);
		assert_int_equal(nbd_client_command(&c, NBD_CMD_TRIM, 0, NBD_STAGE_BYTES, 512), NBD_EINVAL);
		assert_int_equal(nbd_client_command(&c, NBD_CMD_TRIM, NBD_REQUEST_FAST_ZERO, 0, 512), NBD_EINVAL);
		assert_int_equal(nbd_client_command(&c, 77, 0, 0, 512), NBD_EINVAL);
		assert_int_equal(nbd_client_command(&c, NBD_CMD_FLUSH, 0x8000, 0, 0), NBD_EINVAL);
		if (style == NBD_SIMPLE) {
			assert_int_equal(nbd_client_command(&c, NBD_CMD_BLOCK_STATUS, 0, 0, 512), NBD_EINVAL);
		} else {
			assert_int_equal(nbd_client_command(&c, NBD_CMD_BLOCK_STATUS, 0, NBD_STAGE_BYTES, 512), NBD_EINVAL);
		}
		atomic_store(&st.disk.fail_with, -EIO);
		assert_int_equal(nbd_client_read(&c, 0, copy, 4096), NBD_EIO);
		assert_int_equal(nbd_client_write(&c, 0, 0, big, 65536), NBD_EIO);
		atomic_store(&st.disk.fail_with, -ENOSPC);
		assert_int_equal(nbd_client_write(&c, 0, 0, big, 4096), NBD_ENOSPC);
		atomic_store(&st.disk.fail_with, 0);
		assert_int_equal(nbd_client_read(&c, 0, copy, 4096), 0);
		assert_int_equal(nbd_stage_clients(&st, "disk"), 1);
		nbd_client_close(&c);
	}
}

static void
test_readonly(void **state)
{
	struct nbd_export_options o = {.name = "ro", .bdev_name = "disk", .readonly = true};
	struct nbd_client c;

	assert_int_equal(nbd_stage_export(&st, &o), 0);
	nbd_client_open(&c, &st, "ro", NBD_STRUCTURED);
	assert_true((c.flags & NBD_FLAG_READ_ONLY) != 0 && (c.flags & NBD_FLAG_CAN_MULTI_CONN) != 0);
	assert_int_equal(nbd_client_write(&c, 0, 0, big, 65536), NBD_EPERM);
	assert_int_equal(nbd_client_command(&c, NBD_CMD_WRITE_ZEROES, 0, 0, 512), NBD_EPERM);
	assert_int_equal(nbd_client_command(&c, NBD_CMD_TRIM, 0, 0, 512), NBD_EPERM);
	assert_int_equal(nbd_client_command(&c, NBD_CMD_FLUSH, 0, 0, 0), 0);
	assert_int_equal(nbd_client_read(&c, 0, copy, 512), 0);
	nbd_client_close(&c);
}

/* Holes: in block status, and in what is read. */
static void
test_holes(void **state)
{
	const size_t bytes = 1 << 20;

	memset(st.disk.data, 0, bytes);
	fill(st.disk.data + 65536, 65536, 1);
	fill(st.disk.data + 262144, 4096, 2);
	for (unsigned style = NBD_STRUCTURED; style < STYLES; style++) {
		static const uint64_t expected[] = {65536, 65536, 131072, 4096, (1 << 20) - 262144 - 4096};
		struct nbd_client_reply r;
		struct nbd_client c;
		unsigned chunks = 0, holes = 0;
		const uint8_t *p;

		nbd_client_open(&c, &st, "disk", (enum nbd_reply_style)style);
		nbd_client_request(&c, NBD_CMD_BLOCK_STATUS, 0, 1, 0, bytes);
		assert_true(nbd_client_reply(&c, &r, NULL, 0, 0));
		assert_int_equal(r.type, style == NBD_EXTENDED ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS);
		assert_int_equal(r.payload_len, style == NBD_EXTENDED ? 8 + 5 * 16 : 4 + 5 * 8);
		p = r.payload + (style == NBD_EXTENDED ? 8 : 4);
		for (unsigned i = 0; i < 5; i++) {
			uint64_t length = style == NBD_EXTENDED ? nbd_get64(p) : nbd_get32(p);
			uint64_t flags = style == NBD_EXTENDED ? nbd_get64(p + 8) : nbd_get32(p + 4);

			assert_int_equal(length, expected[i]);
			assert_int_equal(flags, i % 2 == 0 ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0);
			p += style == NBD_EXTENDED ? 16 : 8;
		}
		nbd_client_request(&c, NBD_CMD_BLOCK_STATUS, NBD_REQUEST_REQ_ONE, 2, 1024, 32768);
		assert_true(nbd_client_reply(&c, &r, NULL, 0, 0));
		p = r.payload + (style == NBD_EXTENDED ? 8 : 4);
		assert_int_equal(style == NBD_EXTENDED ? nbd_get64(p) : nbd_get32(p), 32768);

		memset(copy, 0xee, bytes);
		nbd_client_request(&c, NBD_CMD_READ, 0, 3, 0, bytes);
		do {
			assert_true(nbd_client_reply(&c, &r, copy, 0, 0));
			assert_int_equal(r.error, 0);
			chunks++;
			holes += r.type == NBD_REPLY_TYPE_OFFSET_HOLE;
		} while (!r.last);
		assert_int_equal(chunks, 5);
		assert_int_equal(holes, 3);
		assert_memory_equal(copy, st.disk.data, bytes);

		/* Not in pieces, when the client wants none. */
		memset(copy, 0xee, bytes);
		nbd_client_request(&c, NBD_CMD_READ, NBD_REQUEST_DF, 4, 0, bytes);
		assert_true(nbd_client_reply(&c, &r, copy, 0, 0));
		assert_true(r.last && r.type == NBD_REPLY_TYPE_OFFSET_DATA);
		assert_memory_equal(copy, st.disk.data, bytes);

		/* Nothing but a hole. */
		nbd_client_request(&c, NBD_CMD_READ, 0, 5, 524288, 262144);
		assert_true(nbd_client_reply(&c, &r, copy, 524288, 0));
		assert_true(r.last && r.type == NBD_REPLY_TYPE_OFFSET_HOLE && r.length == 262144);
		nbd_client_close(&c);
	}
}

static void
expect_status(struct nbd_client *c, uint32_t context, bool last, unsigned count, const uint64_t (*expected)[2])
{
	bool extended = c->style == NBD_EXTENDED;
	struct nbd_client_reply r;
	const uint8_t *p = r.payload + (extended ? 8 : 4);

	assert_true(nbd_client_reply(c, &r, NULL, 0, 0));
	assert_int_equal(r.type, extended ? NBD_REPLY_TYPE_BLOCK_STATUS_EXT : NBD_REPLY_TYPE_BLOCK_STATUS);
	assert_int_equal(r.last, last);
	assert_int_equal(nbd_get32(r.payload), context);
	assert_int_equal(r.payload_len, extended ? 8 + count * 16 : 4 + count * 8);
	assert_int_equal(extended ? nbd_get32(r.payload + 4) : count, count);
	for (unsigned i = 0; i < count; i++) {
		assert_int_equal(extended ? nbd_get64(p) : nbd_get32(p), expected[i][0]);
		assert_int_equal(extended ? nbd_get64(p + 8) : nbd_get32(p + 4), expected[i][1]);
		p += extended ? 16 : 8;
	}
}

/* What has changed, alone and beside what is allocated: a chunk for each, with extents of its own. */
static void
test_changes(void **state)
{
	const uint64_t hole = NBD_STATE_HOLE | NBD_STATE_ZERO, bytes = 1 << 20;
	const uint64_t allocated[][2] = {{65536, 0}, {bytes - 65536, hole}};
	const uint64_t changed[][2] = {{131072, NBD_STATE_CHANGED}, {bytes - 131072, 0}};
	const uint64_t first[][2] = {{65536, NBD_STATE_CHANGED}}, nothing[][2] = {{4096, 0}};

	memset(st.disk.data, 0, bytes);
	fill(st.disk.data, 65536, 1);
	st.changed_bytes = 131072;
	for (unsigned style = NBD_STRUCTURED; style < STYLES; style++) {
		for (unsigned both = 0; both < 2; both++) {
			struct nbd_client c;

			nbd_client_connect(&c, &st);
			nbd_client_greet(&c, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
			nbd_client_ask(&c, style == NBD_EXTENDED ? NBD_OPT_EXTENDED_HEADERS : NBD_OPT_STRUCTURED_REPLY);
			assert_int_equal(nbd_client_set_contexts(&c, "disk", "berth:changed", both ? "base:allocation" : NULL),
					 NBD_REP_ACK);
			assert_int_equal(nbd_client_choose(&c, NBD_OPT_GO, "disk"), NBD_REP_ACK);
			c.style = (enum nbd_reply_style)style;
			nbd_client_request(&c, NBD_CMD_BLOCK_STATUS, 0, 1, 0, bytes);
			if (both) {
				expect_status(&c, 1, false, 2, allocated);
			}
			expect_status(&c, 2, true, 2, changed);
			nbd_client_request(&c, NBD_CMD_BLOCK_STATUS, NBD_REQUEST_REQ_ONE, 2, 0, bytes);
			if (both) {
				expect_status(&c, 1, false, 1, allocated);
			}
			expect_status(&c, 2, true, 1, first);
			nbd_client_request(&c, NBD_CMD_BLOCK_STATUS, 0, 3, bytes / 2, 4096);
			if (both) {
				expect_status(&c, 1, false, 1, (const uint64_t[][2]){{4096, hole}});
			}
			expect_status(&c, 2, true, 1, nothing);
			nbd_client_close(&c);
		}
	}
}

/* So many pieces that they fill the room there is: each context's extents cover the same part of the disk. */
static void
test_many_changes(void **state)
{
	const uint64_t piece = NBD_STAGE_PIECE, pieces = 1024;
	struct nbd_client c;
	uint32_t heads = 0, lengths[2] = {0, 0};
	bool last = false;

	for (uint64_t i = 0; i < pieces; i++) {
		memset(st.disk.data + i * piece, i % 2 == 0 ? 1 : 0, piece);
	}
	st.changed_bytes = pieces * piece;
	nbd_client_connect(&c, &st);
	nbd_client_greet(&c, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
	nbd_client_ask(&c, NBD_OPT_EXTENDED_HEADERS);
	assert_int_equal(nbd_client_set_contexts(&c, "disk", "base:allocation", "berth:changed"), NBD_REP_ACK);
	assert_int_equal(nbd_client_choose(&c, NBD_OPT_GO, "disk"), NBD_REP_ACK);
	c.style = NBD_EXTENDED;
	nbd_client_request(&c, NBD_CMD_BLOCK_STATUS, 0, 1, 0, pieces * piece);
	while (!last) {
		uint8_t head[32], body[8192];
		uint64_t length;

		/* Longer than what a reply of the tests' client holds. */
		assert_true(heads < 2 && nbd_client_recv(&c, head, sizeof(head)));
		assert_int_equal(nbd_get32(head), NBD_EXTENDED_REPLY_MAGIC);
		last = (nbd_get16(head + 4) & NBD_REPLY_FLAG_DONE) != 0;
		length = nbd_get64(head + 24);
		assert_true(length <= sizeof(body) && nbd_client_recv(&c, body, length));
		assert_int_equal(length, 8 + 16 * (uint64_t)nbd_get32(body + 4));
		for (uint64_t at = 8; at < length; at += 16) {
			lengths[heads] += (uint32_t)nbd_get64(body + at);
		}
		heads++;
	}
	assert_int_equal(heads, 2);
	assert_true(lengths[0] >= 100 * piece && lengths[0] == lengths[1]);
	nbd_client_close(&c);
}

/* More pieces than one reply has room for: all of it is data then. */
static void
test_many_holes(void **state)
{
	struct nbd_client c;

	nbd_client_open(&c, &st, "disk", NBD_STRUCTURED);
	memset(st.disk.data, 0, 4 << 20);
	for (unsigned i = 0; i < 512; i++) {
		st.disk.data[i * 8192] = 1;
	}
	assert_int_equal(nbd_client_read(&c, 0, copy, 4 << 20), 0);
	assert_memory_equal(copy, st.disk.data, 4 << 20);
	nbd_client_close(&c);
}

/* The client goes while requests are under way: they end, and nothing of them is left. */
static void
test_client_goes(void **state)
{
	for (unsigned style = 0; style < STYLES; style++) {
		struct nbd_client c;

		nbd_client_open(&c, &st, "disk", (enum nbd_reply_style)style);
		atomic_store(&st.disk.hold, true);
		for (unsigned i = 0; i < 50; i++) {
			nbd_client_request(&c, NBD_CMD_READ, 0, i, 0, 65536);
			nbd_client_request(&c, NBD_CMD_WRITE, 0, i, 0, 2048);
			nbd_client_send(&c, big, 2048);
		}
		/* And a part of one. */
		nbd_client_request(&c, NBD_CMD_WRITE, 0, 99, 0, 1 << 20);
		nbd_client_send(&c, big, 100000);
		nbd_stage_run(&st);
		assert_true(atomic_load(&st.disk.submitted) > 0);
		nbd_client_close(&c);
		nbd_stage_run(&st);
		assert_int_equal(nbd_stage_clients(&st, "disk"), 1);
		nbd_stage_let_go(&st);
		for (unsigned i = 0; i < 1000 && nbd_stage_clients(&st, "disk") > 0; i++) {
			nbd_stage_run(&st);
		}
		assert_int_equal(nbd_stage_clients(&st, "disk"), 0);
	}
}

static void
test_disconnect_is_answered_first(void **state)
{
	struct nbd_client c;
	struct nbd_client_reply r;

	nbd_client_open(&c, &st, "disk", NBD_SIMPLE);
	for (unsigned i = 0; i < 20; i++) {
		nbd_client_request(&c, NBD_CMD_READ, 0, i, 0, 131072);
	}
	nbd_client_request(&c, NBD_CMD_DISC, 0, 99, 0, 0);
	for (unsigned i = 0; i < 20; i++) {
		assert_true(nbd_client_reply(&c, &r, copy, 0, 131072));
		assert_int_equal(r.error, 0);
	}
	nbd_client_expect_end(&c);
	nbd_client_close(&c);
}

/* A client that reads no replies has so much done for it, and no more; when it reads, all of it comes. */
static void
test_backpressure(void **state)
{
	enum { COUNT = 40 };
	struct nbd_client c, other;
	struct nbd_client_reply r;
	unsigned after;

	nbd_client_open(&c, &st, "disk", NBD_SIMPLE);
	fill(st.disk.data, 1 << 20, 9);
	for (unsigned i = 0; i < COUNT; i++) {
		nbd_client_request(&c, NBD_CMD_READ, 0, i, 0, 1 << 20);
	}
	env_linger(&st.env, 20);
	after = atomic_load(&st.disk.submitted);
	assert_true(after < COUNT / 2);
	nbd_client_open(&other, &st, "disk", NBD_SIMPLE);
	assert_int_equal(nbd_client_read(&other, 0, copy, 4096), 0);
	nbd_client_close(&other);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_true(nbd_client_reply(&c, &r, copy, 0, 1 << 20));
		assert_int_equal(r.cookie, i);
		assert_memory_equal(copy, st.disk.data, 1 << 20);
	}
	nbd_client_close(&c);
}

/* Many clients want more memory than there is: all are served in the end. */
static void
test_memory_is_shared(void **state)
{
	enum { CLIENTS = 5 };
	struct nbd_client c[CLIENTS];

	fill(st.disk.data, BIG, 4);
	atomic_store(&st.disk.hold, true);
	for (unsigned i = 0; i < CLIENTS; i++) {
		nbd_client_open(&c[i], &st, "disk", NBD_SIMPLE);
		nbd_client_request(&c[i], NBD_CMD_READ, 0, i, 0, BIG);
		nbd_client_request(&c[i], NBD_CMD_READ, 0, i, 0, 4096);
	}
	env_linger(&st.env, 10);
	nbd_stage_let_go(&st);
	for (unsigned i = 0; i < CLIENTS; i++) {
		struct nbd_client_reply r;

		assert_true(nbd_client_reply(&c[i], &r, copy, 0, BIG));
		assert_int_equal(r.error, 0);
		assert_memory_equal(copy, st.disk.data, BIG);
		assert_true(nbd_client_reply(&c[i], &r, copy, 0, 4096));
		nbd_client_close(&c[i]);
	}
}

/* What was read in place is sent as it is by then: old or new, and new as soon as the write was answered before. */
static void
test_in_place_while_others_write(void **state)
{
	enum { COUNT = 8, BYTES = 1 << 20 };
	struct nbd_client c, other;
	struct nbd_client_reply r;

	nbd_client_open(&c, &st, "disk", NBD_SIMPLE);
	nbd_client_open(&other, &st, "disk", NBD_STRUCTURED);
	memset(st.disk.data, 1, BYTES);
	for (unsigned i = 0; i < COUNT; i++) {
		nbd_client_request(&c, NBD_CMD_READ, 0, i, 0, BYTES);
	}
	nbd_stage_run(&st);
	memset(big, 2, BYTES);
	assert_int_equal(nbd_client_write(&other, 0, 0, big, BYTES), 0);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_true(nbd_client_reply(&c, &r, copy, 0, BYTES));
		assert_int_equal(r.error, 0);
		for (unsigned k = 0; k < BYTES; k++) {
			assert_true(copy[k] == 1 || copy[k] == 2);
		}
	}
	assert_int_equal(nbd_client_read(&c, 0, copy, BYTES), 0);
	assert_memory_equal(copy, big, BYTES);
	nbd_client_close(&c);
	nbd_client_close(&other);
}

static void
test_bdev_is_removed(void **state)
{
	struct nbd_client c, idle, later;
	struct nbd_client_reply r;

	nbd_client_open(&idle, &st, "disk", NBD_STRUCTURED);
	nbd_client_open(&c, &st, "disk", NBD_STRUCTURED);
	atomic_store(&st.disk.hold, true);
	nbd_client_request(&c, NBD_CMD_READ, 0, 1, 0, 4096);
	nbd_stage_run(&st);
	nbd_stage_remove_bdev(&st);
	nbd_stage_let_go(&st);
	assert_true(nbd_client_reply(&c, &r, copy, 0, 4096));
	assert_true(r.error == 0 || r.error == NBD_ESHUTDOWN);
	nbd_client_expect_end(&c);
	nbd_client_expect_end(&idle);
	nbd_client_close(&c);
	nbd_client_close(&idle);
	nbd_client_connect(&later, &st);
	nbd_client_greet(&later, NBD_FLAG_C_FIXED_NEWSTYLE);
	assert_int_equal(nbd_client_choose(&later, NBD_OPT_GO, "disk"), NBD_REP_ERR_UNKNOWN);
	nbd_client_close(&later);
}

static void
test_export_is_deleted(void **state)
{
	struct nbd_client c;

	nbd_client_open(&c, &st, "disk", NBD_STRUCTURED);
	assert_int_equal(nbd_client_read(&c, 0, copy, 4096), 0);
	assert_int_equal(nbd_stage_export_delete(&st, "disk"), 0);
	nbd_client_expect_end(&c);
	assert_int_equal(nbd_stage_export_delete(&st, "disk"), -ENODEV);
	nbd_client_close(&c);
}

static void
test_server_is_deleted(void **state)
{
	struct nbd_client c, fresh;

	nbd_client_open(&c, &st, "disk", NBD_STRUCTURED);
	nbd_client_connect(&fresh, &st);
	nbd_client_greet(&fresh, NBD_FLAG_C_FIXED_NEWSTYLE);
	assert_int_equal(nbd_stage_server_delete(&st, "nbd"), 0);
	nbd_client_expect_end(&c);
	nbd_client_expect_end(&fresh);
	nbd_client_close(&c);
	nbd_client_close(&fresh);
}

struct resize {
	uint64_t blocks;
	int rc;
};

static void
resize(void *arg)
{
	struct resize *r = arg;

	r->rc = scripted_bdev_resize(&st.disk, r->blocks);
}

static void
test_bdev_grows(void **state)
{
	struct resize r = {.blocks = NBD_STAGE_BLOCKS + 64};
	struct nbd_client c, later;

	nbd_client_open(&c, &st, "disk", NBD_STRUCTURED);
	assert_int_equal(nbd_client_read(&c, NBD_STAGE_BYTES, copy, 4096), NBD_EINVAL);
	env_call(&st.env, st.env.app, resize, &r);
	assert_int_equal(r.rc, 0);
	nbd_stage_run(&st);
	assert_int_equal(nbd_client_read(&c, NBD_STAGE_BYTES, copy, 4096), 0);
	nbd_client_open(&later, &st, "disk", NBD_STRUCTURED);
	assert_int_equal(later.size, NBD_STAGE_BYTES + 64 * 512);
	nbd_client_close(&c);
	nbd_client_close(&later);
}

/* What breaks the protocol is hung up on. */
static void
test_hostile_requests(void **state)
{
	struct nbd_client_reply r;
	struct nbd_client c;
	uint8_t junk[64];

	memset(junk, 0x55, sizeof(junk));
	nbd_client_open(&c, &st, "disk", NBD_STRUCTURED);
	nbd_client_send(&c, junk, sizeof(junk));
	nbd_client_expect_end(&c);
	nbd_client_close(&c);

	/* The other style's header. */
	nbd_client_open(&c, &st, "disk", NBD_STRUCTURED);
	c.style = NBD_EXTENDED;
	nbd_client_request(&c, NBD_CMD_READ, 0, 1, 0, 512);
	nbd_client_expect_end(&c);
	nbd_client_close(&c);

	/* A payload without an end. */
	nbd_client_open(&c, &st, "disk", NBD_EXTENDED);
	nbd_client_request(&c, NBD_CMD_WRITE, 0, 1, 0, UINT64_MAX);
	nbd_client_expect_end(&c);
	nbd_client_close(&c);

	/* A payload where none belongs is thrown away. */
	nbd_client_open(&c, &st, "disk", NBD_EXTENDED);
	nbd_client_request(&c, NBD_CMD_READ, NBD_REQUEST_PAYLOAD_LEN, 1, 0, 300000);
	nbd_client_send(&c, big, 300000);
	assert_true(nbd_client_reply(&c, &r, NULL, 0, 0));
	assert_int_equal(r.error, NBD_EINVAL);
	assert_int_equal(nbd_client_read(&c, 0, copy, 4096), 0);
	nbd_client_close(&c);
}

/* Who says nothing costs nothing: no timer, no memory of the thread. */
static void
test_idle_is_idle(void **state)
{
	struct nbd_client c;
	struct reactor_stats before, after;

	if (*(const enum reactor_mode *)*state == REACTOR_POLL) {
		return;
	}
	nbd_client_open(&c, &st, "disk", NBD_STRUCTURED);
	assert_int_equal(nbd_client_read(&c, 0, copy, 65536), 0);
	env_linger(&st.env, 1100); /* until memory was given back */
	reactor_get_stats(st.env.reactors[0], &before);
	assert_int_equal(reactor_next_timer_ns(st.env.reactors[0]), UINT64_MAX);
	for (unsigned i = 0; i < 20; i++) {
		assert_int_equal(reactor_poll_wait(st.env.reactors[0], 5000), 0);
	}
	reactor_get_stats(st.env.reactors[0], &after);
	assert_int_equal(after.busy_ns, before.busy_ns);
	nbd_client_close(&c);
}

/* Several clients at once, threads that really run, data compared. */
static void
test_real_threads(void **state)
{
	enum { CLIENTS = 4, ROUNDS = 40 };
	struct nbd_stage real;
	struct nbd_client c[CLIENTS];

	nbd_stage_start(&real, *(const enum reactor_mode *)*state, true);
	for (unsigned i = 0; i < CLIENTS; i++) {
		nbd_client_open(&c[i], &real, "disk", (enum nbd_reply_style)(i % STYLES));
	}
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = 0; i < CLIENTS; i++) {
			size_t bytes = (size_t)512 << (round + i) % 9;
			uint64_t offset = (uint64_t)i << 20;

			fill(big, bytes, round + i);
			assert_int_equal(nbd_client_write(&c[i], 0, offset, big, bytes), 0);
			assert_int_equal(nbd_client_read(&c[(i + 1) % CLIENTS], offset, copy, bytes), 0);
			assert_memory_equal(big, copy, bytes);
		}
	}
	for (unsigned i = 0; i < CLIENTS; i++) {
		nbd_client_request(&c[i], NBD_CMD_READ, 0, 1, 0, 1 << 20);
		nbd_client_close(&c[i]);
	}
	nbd_stage_stop(&real);
}

static int
make_buffers(void **state)
{
	big = malloc(40 << 20);
	copy = malloc(40 << 20);
	return big != NULL && copy != NULL ? 0 : -1;
}

static int
free_buffers(void **state)
{
	free(big);
	free(copy);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		HAND_IN_MODES(test_data, setup, teardown),
		HAND_IN_MODES(test_pipelined, setup, teardown),
		HAND_IN_MODES(test_dripping, setup, teardown),
		HAND_IN_MODES(test_other_commands, setup, teardown),
		HAND_IN_MODES(test_refusals, setup, teardown),
		HAND_IN_MODES(test_readonly, setup, teardown),
		HAND_IN_MODES(test_holes, setup, teardown),
		HAND_IN_MODES(test_many_holes, setup, teardown),
		HAND_IN_MODES(test_changes, setup, teardown),
		HAND_IN_MODES(test_many_changes, setup, teardown),
		HAND_IN_MODES(test_client_goes, setup, teardown),
		HAND_IN_MODES(test_disconnect_is_answered_first, setup, teardown),
		HAND_IN_MODES(test_backpressure, setup, teardown),
		HAND_IN_MODES(test_memory_is_shared, setup, teardown),
		HAND_IN_MODES(test_bdev_is_removed, setup, teardown),
		HAND_IN_MODES(test_export_is_deleted, setup, teardown),
		HAND_IN_MODES(test_server_is_deleted, setup, teardown),
		HAND_IN_MODES(test_bdev_grows, setup, teardown),
		HAND_IN_MODES(test_hostile_requests, setup, teardown),
		HAND_IN_MODES(test_idle_is_idle, setup, teardown),
		HAND_IN_MODES(test_data, setup_in_place, teardown_in_place),
		HAND_IN_MODES(test_pipelined, setup_in_place, teardown_in_place),
		HAND_IN_MODES(test_holes, setup_in_place, teardown_in_place),
		HAND_IN_MODES(test_many_holes, setup_in_place, teardown_in_place),
		HAND_IN_MODES(test_client_goes, setup_in_place, teardown_in_place),
		HAND_IN_MODES(test_backpressure, setup_in_place, teardown_in_place),
		HAND_IN_MODES(test_bdev_is_removed, setup_in_place, teardown_in_place),
		HAND_IN_MODES(test_export_is_deleted, setup_in_place, teardown_in_place),
		HAND_IN_MODES(test_bdev_grows, setup_in_place, teardown_in_place),
		HAND_IN_MODES(test_in_place_while_others_write, setup_in_place, teardown_in_place),
		HAND_IN_MODES(test_real_threads, NULL, NULL),
	};

	return cmocka_run_group_tests(tests, make_buffers, free_buffers);
}
