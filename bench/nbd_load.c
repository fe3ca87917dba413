/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A light NBD client for measuring servers: it keeps so many requests under way on so many connections, one thread for all,
 * many requests a system call, and looks at nothing but the replies' heads. What it costs is small beside what a server costs, so
 * that the figure is the server's. `bench/nbd` uses it.
 *
 *   nbd_load SOCKET EXPORT read|write BYTES DEPTH CONNECTIONS SECONDS DISK_BYTES
 *
 * Prints {"requests": N, "seconds": S, "cpu_seconds": C}: the last is its own.
 */
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "nbd/proto.h"

#define CONNECTIONS_MAX 16
#define DEPTH_MAX 1024
#define IN_BYTES (1u << 20)
#define IOV_MAX_HERE 512

struct connection {
	int fd;
	uint8_t *in;
	size_t in_start, in_end;
	uint64_t skip;      /* of a reply's data */
	unsigned to_send;   /* requests that may be sent now */
	size_t sent_partly; /* of the first of them */
	uint8_t heads[DEPTH_MAX][NBD_REQUEST_BYTES];
	unsigned made; /* heads that are filled, the first to_send of them are not sent */
};

static struct {
	bool write;
	bool draining; /* nothing new is sent */
	uint32_t bytes;
	unsigned depth;
	uint64_t blocks;
	uint64_t random;
	uint64_t requests;
	uint8_t *payload;
} g;

_Noreturn static void
fail(const char *what)
{
	fprintf(stderr, "nbd_load: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* ---- The handshake, blocking ---- */

static void
get(int fd, void *data, size_t len)
{
	/* To receive nothing would wait for something. */
	if (len > 0 && recv(fd, data, len, MSG_WAITALL) != (ssize_t)len) {
		fail("the server hung up");
	}
}

static void
put(int fd, const void *data, size_t len)
{
	if (send(fd, data, len, MSG_NOSIGNAL) != (ssize_t)len) {
		fail("the server hung up");
	}
}

static void
option(int fd, uint32_t number, const uint8_t *data, uint32_t len)
{
	uint8_t head[NBD_OPTION_BYTES], reply[NBD_OPTION_REPLY_BYTES], rest[4096];

	nbd_put32(nbd_put32(nbd_put64(head, NBD_OPTION_MAGIC), number), len);
	put(fd, head, sizeof(head));
	put(fd, data, len);
	do {
		get(fd, reply, sizeof(reply));
		get(fd, rest, MIN((size_t)nbd_get32(reply + 16), sizeof(rest)));
		if ((nbd_get32(reply + 12) & UINT32_C(1) << 31) != 0) {
			errno = ENOENT;
			fail("the server refuses");
		}
	} while (nbd_get32(reply + 12) != NBD_REP_ACK);
}

static int
open_connection(const char *path, const char *name)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	uint8_t greeting[NBD_GREETING_BYTES], flags[4], go[512], *p;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), bytes = 4 << 20;

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", path);
	if (fd < 0 || connect(fd, (struct sockaddr *)&addr, sizeof(addr)) != 0) {
		fail(path);
	}
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	get(fd, greeting, sizeof(greeting));
	nbd_put32(flags, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
	put(fd, flags, sizeof(flags));
	option(fd, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
	p = nbd_put32(go, (uint32_t)strlen(name));
	memcpy(p, name, strlen(name));
	p = nbd_put16(p + strlen(name), 0);
	option(fd, NBD_OPT_GO, go, (uint32_t)(p - go));
	return fd;
}

/* ---- Load ---- */

static uint64_t
some_offset(void)
{
	g.random = g.random * UINT64_C(6364136223846793005) + 1442695040888963407;
	return (g.random >> 20) % g.blocks * g.bytes;
}

/* Heads of the requests that are to be sent. */
static void
make_heads(struct connection *c)
{
	for (; c->made < c->to_send; c->made++) {
		uint8_t *p = nbd_put32(c->heads[c->made], NBD_REQUEST_MAGIC);

		p = nbd_put32(p, g.write ? NBD_CMD_WRITE : NBD_CMD_READ);
		p = nbd_put64(p, c->made);
		nbd_put32(nbd_put64(p, some_offset()), g.bytes);
	}
}

/* Removes what has been sent from the front. */
static void
sent(struct connection *c, size_t bytes)
{
	size_t one = NBD_REQUEST_BYTES + (g.write ? g.bytes : 0);
	unsigned whole;

	c->sent_partly += bytes;
	whole = (unsigned)(c->sent_partly / one);
	c->sent_partly %= one;
	memmove(c->heads, c->heads + whole, (c->made - whole) * sizeof(c->heads[0]));
	c->made -= whole;
	c->to_send -= whole;
}

static void
send_requests(struct connection *c)
{
	struct iovec iov[IOV_MAX_HERE];
	struct msghdr msg = {.msg_iov = iov};
	size_t skip = c->sent_partly;
	unsigned count = g.draining ? c->sent_partly > 0 : c->to_send;
	ssize_t n;

	make_heads(c);
	for (unsigned i = 0; i < count && msg.msg_iovlen + 2 <= IOV_MAX_HERE; i++) {
		struct iovec parts[2] = {{c->heads[i], NBD_REQUEST_BYTES}, {g.payload, g.write ? g.bytes : 0}};

		for (unsigned k = 0; k < 2; k++) {
			size_t less = MIN(skip, parts[k].iov_len);

			skip -= less;
			if (parts[k].iov_len > less) {
				iov[msg.msg_iovlen++] =
					(struct iovec){(uint8_t *)parts[k].iov_base + less, parts[k].iov_len - less};
			}
		}
	}
	n = msg.msg_iovlen > 0 ? sendmsg(c->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
	if (n < 0 && errno != EAGAIN) {
		fail("send");
	}
	if (n > 0) {
		sent(c, (size_t)n);
	}
}

/* One reply's head. False: not all of it is there. */
static bool
take_head(struct connection *c)
{
	const uint8_t *p = c->in + c->in_start;
	size_t left = c->in_end - c->in_start;
	bool last = true;

	if (left < 16) {
		return false;
	}
	if (nbd_get32(p) == NBD_REPLY_MAGIC) {
		if (nbd_get32(p + 4) != 0) {
			errno = EIO;
			fail("a request failed");
		}
		c->in_start += 16;
	} else {
		if (left < 20) {
			return false;
		}
		if (nbd_get32(p) != NBD_STRUCTURED_REPLY_MAGIC || (nbd_get16(p + 6) & 1 << 15) != 0) {
			errno = EIO;
			fail("a request failed");
		}
		last = (nbd_get16(p + 4) & NBD_REPLY_FLAG_DONE) != 0;
		c->skip = nbd_get32(p + 16);
		c->in_start += 20;
	}
	if (last) {
		g.requests++;
		c->to_send++;
	}
	return true;
}

static void
take_replies(struct connection *c)
{
	ssize_t n = recv(c->fd, c->in + c->in_end, IN_BYTES - c->in_end, MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno != EAGAIN)) {
		fail("recv");
	}
	c->in_end += n > 0 ? (size_t)n : 0;
	for (;;) {
		size_t skip = MIN(c->skip, c->in_end - c->in_start);

		c->in_start += skip;
		c->skip -= skip;
		if (c->skip > 0 || !take_head(c)) {
			break;
		}
	}
	memmove(c->in, c->in + c->in_start, c->in_end - c->in_start);
	c->in_end -= c->in_start;
	c->in_start = 0;
}

static bool
is_drained(const struct connection *c, unsigned count)
{
	bool drained = true;

	for (unsigned i = 0; i < count; i++) {
		drained = drained && c[i].to_send == g.depth && c[i].sent_partly == 0;
	}
	return drained;
}

/* Until then; when draining, until nothing is under way. */
static void
run(struct connection *c, unsigned count, uint64_t end_ns)
{
	while (g.draining ? !is_drained(c, count) : clock_now_ns() < end_ns) {
		struct pollfd fds[CONNECTIONS_MAX];

		for (unsigned i = 0; i < count; i++) {
			bool more;

			send_requests(&c[i]);
			more = g.draining ? c[i].sent_partly > 0 : c[i].to_send > 0;
			fds[i] = (struct pollfd){.fd = c[i].fd, .events = (short)(POLLIN | (more ? POLLOUT : 0))};
		}
		if (poll(fds, count, 10000) <= 0) {
			errno = ETIMEDOUT;
			fail("the server is silent");
		}
		for (unsigned i = 0; i < count; i++) {
			if ((fds[i].revents & ~POLLOUT) != 0) {
				take_replies(&c[i]);
			}
		}
	}
}

static double
cpu_seconds(void)
{
	struct rusage u;

	if (getrusage(RUSAGE_SELF, &u) != 0) {
		fail("getrusage");
	}
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void
say_goodbye(int fd)
{
	uint8_t out[NBD_REQUEST_BYTES] = {0};

	nbd_put32(nbd_put32(out, NBD_REQUEST_MAGIC), NBD_CMD_DISC);
	put(fd, out, sizeof(out));
	close(fd);
}

int
main(int argc, char **argv)
{
	static struct connection c[CONNECTIONS_MAX];
	uint64_t start, seconds, requests;
	double elapsed, cpu;
	unsigned count;

	if (argc != 9) {
		fprintf(stderr, "usage: nbd_load SOCKET EXPORT read|write BYTES DEPTH CONNECTIONS SECONDS DISK_BYTES\n");
		return 2;
	}
	g.write = strcmp(argv[3], "write") == 0;
	g.bytes = (uint32_t)strtoul(argv[4], NULL, 10);
	g.depth = (unsigned)strtoul(argv[5], NULL, 10);
	count = (unsigned)strtoul(argv[6], NULL, 10);
	seconds = strtoul(argv[7], NULL, 10);
	g.blocks = strtoull(argv[8], NULL, 10) / MAX(g.bytes, 1u);
	g.random = 1;
	g.payload = calloc(1, g.bytes);
	if (g.depth == 0 || g.depth > DEPTH_MAX || count == 0 || count > CONNECTIONS_MAX || g.blocks == 0 || g.payload == NULL) {
		fprintf(stderr, "nbd_load: numbers out of range\n");
		return 2;
	}
	for (unsigned i = 0; i < count; i++) {
		c[i].fd = open_connection(argv[1], argv[2]);
		c[i].in = malloc(IN_BYTES);
		c[i].to_send = g.depth;
	}
	memset(g.payload, 0x5a, g.bytes);
	start = clock_now_ns();
	run(c, count, start + seconds * NS_PER_S / 5); /* warm */
	g.requests = 0;
	cpu = cpu_seconds();
	start = clock_now_ns();
	run(c, count, start + seconds * NS_PER_S);
	requests = g.requests;
	elapsed = (double)(clock_now_ns() - start) / (double)NS_PER_S;
	cpu = cpu_seconds() - cpu;
	/* Not all servers survive clients that leave in the middle of something. */
	g.draining = true;
	run(c, count, 0);
	for (unsigned i = 0; i < count; i++) {
		say_goodbye(c[i].fd);
	}
	printf("{\"requests\": %llu, \"seconds\": %.6f, \"cpu_seconds\": %.6f}\n", (unsigned long long)requests, elapsed, cpu);
	return 0;
}
