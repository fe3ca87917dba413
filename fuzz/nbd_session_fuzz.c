/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A whole NBD server under a client that the fuzzer plays: requests well made and malformed, cut anywhere, of all styles,
 * while the disk holds, fails and shuffles them, and the client reads its replies or does not. The disk lends its memory, from
 * which reads are then sent, or does not. Whatever the client does, in the end the session is gone, and the next one is served.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/check.h"
#include "base/log.h"
#include "testkit/nbd_stage.h"

#define STEPS_MAX 200
#define ROUNDS_MAX 20000

static struct nbd_stage st;
static uint8_t payload[1 << 20], sink[1 << 16];

struct input {
	const uint8_t *p;
	size_t left;
};

static uint64_t
take(struct input *in, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes && in->left > 0; i++, in->left--) {
		v |= (uint64_t)*in->p++ << 8 * i;
	}
	return v;
}

static void
skip(struct input *in, size_t bytes)
{
	bytes = MIN(bytes, in->left);
	in->p += bytes;
	in->left -= bytes;
}

static void
turn(unsigned rounds)
{
	for (unsigned i = 0; i < rounds; i++) {
		reactor_poll_wait(st.env.reactors[0], 0);
	}
}

/* Sends what the socket takes at once: the fuzzer never waits. */
static void
push(struct nbd_client *c, const void *data, size_t len)
{
	struct iovec iov = {.iov_base = (void *)data, .iov_len = len};

	(void)stream_sendv(&c->stream, &iov, 1);
	turn(2);
}

static void
request(struct nbd_client *c, struct input *in)
{
	uint8_t out[NBD_EXTENDED_REQUEST_BYTES], *p, kind = (uint8_t)take(in, 1), flags = (uint8_t)take(in, 1);
	uint64_t offset = take(in, 2) * 512, length = take(in, 2) * 512;
	bool extended = c->style == NBD_EXTENDED;

	if (kind >= 240) {
		offset = take(in, 8);
		length = take(in, 8);
	}
	p = nbd_put32(out, extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC);
	p = nbd_put16(p, flags & 0x3f);
	p = nbd_put16(p, kind % 9);
	memset(p, kind, 8);
	p = nbd_put64(p + 8, offset);
	p = extended ? nbd_put64(p, length) : nbd_put32(p, (uint32_t)length);
	push(c, out, (size_t)(p - out) - (flags == 255 ? 1 : 0));
	if (kind % 9 == NBD_CMD_WRITE || (extended && (flags & NBD_REQUEST_PAYLOAD_LEN) != 0)) {
		length = MIN(length, (uint64_t)sizeof(payload));
		push(c, payload, flags >= 192 ? take(in, 2) % (length + 1) : length);
	}
}

static void
step(struct nbd_client *c, struct input *in)
{
	uint8_t what = (uint8_t)take(in, 1);

	switch (what % 16) {
	case 0:
		push(c, in->p, MIN(in->left, (size_t)what));
		skip(in, what);
		break;
	case 1:
		(void)stream_recv(&c->stream, sink, sizeof(sink));
		break;
	case 2:
		atomic_store(&st.disk.hold, !atomic_load(&st.disk.hold));
		if (!atomic_load(&st.disk.hold)) {
			nbd_stage_let_go(&st);
		}
		break;
	case 3:
		atomic_store(&st.disk.fail_with, what & 16 ? -EIO : 0);
		break;
	case 4:
		atomic_store(&st.disk.refuse_every, what & 16 ? 3 : 0);
		atomic_store(&st.disk.shuffle, (what & 32) != 0);
		atomic_store(&st.disk.at_once, (what & 64) != 0);
		break;
	case 5:
		shutdown(c->stream.fd, what & 16 ? SHUT_WR : SHUT_RD);
		break;
	default:
		request(c, in);
	}
	turn(1);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	log_set_print_level(LOG_LEVEL_DISABLED);
	nbd_stage_start(&st, REACTOR_INTERRUPT, false);
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};
	uint8_t how = (uint8_t)take(&in, 1);
	bool lends = how >= 128;
	struct nbd_client c;
	unsigned i;

	st.disk.bdev.memory = lends ? st.disk.data : NULL;
	atomic_store(&st.copied, 0);
	nbd_client_open(&c, &st, "disk", (enum nbd_reply_style)(how % 3));
	for (i = 0; i < STEPS_MAX && in.left > 0; i++) {
		step(&c, &in);
	}
	nbd_client_close(&c);
	atomic_store(&st.disk.fail_with, 0);
	atomic_store(&st.disk.refuse_every, 0);
	nbd_stage_let_go(&st);
	for (i = 0; i < ROUNDS_MAX && nbd_stage_clients(&st, "disk") > 0; i++) {
		turn(1);
	}
	CHECK(i < ROUNDS_MAX);
	CHECK(!lends || atomic_load(&st.copied) == 0);
	return 0;
}
