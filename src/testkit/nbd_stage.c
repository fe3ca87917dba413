/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/nbd_stage.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "sock/unix.h"

/* ---- The bdev ---- */

static bool
is_zero(const uint8_t *p, size_t len)
{
	return p[0] == 0 && memcmp(p, p + 1, len - 1) == 0;
}

static void
status(struct scripted_bdev *disk, struct bdev_io *io)
{
	const struct nbd_stage *st = CONTAINER_OF(disk, struct nbd_stage, disk);
	const uint64_t piece = NBD_STAGE_PIECE / 512;
	uint64_t lba = io->lba, end = io->lba + io->num_blocks;
	uint32_t n = 0;

	while (lba < end) {
		uint64_t blocks = MIN(end - lba, piece - lba % piece);
		bool zero = is_zero(disk->data + (lba - lba % piece) * 512, NBD_STAGE_PIECE);
		uint32_t flags = (zero ? BDEV_EXTENT_ZERO : BDEV_EXTENT_ALLOCATED) |
				 (lba < st->changed_bytes / 512 ? BDEV_EXTENT_CHANGED : 0);

		if (n > 0 && io->extents[n - 1].flags == flags) {
			io->extents[n - 1].num_blocks += blocks;
		} else if (n == io->max_results) {
			break;
		} else {
			io->extents[n++] = (struct bdev_extent){.num_blocks = blocks, .flags = flags};
		}
		lba += blocks;
	}
	io->result = n;
	bdev_io_complete(io, 0);
}

static const struct bdev_ops *scripted;

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct nbd_stage *st = CONTAINER_OF(ch->bdev, struct nbd_stage, disk.bdev);

	if (io->op == BDEV_READ && io->iov->iov_base != st->disk.data + io->lba * 512) {
		atomic_fetch_add(&st->copied, 1);
	}
	if (io->op == BDEV_BLOCK_STATUS) {
		status(CONTAINER_OF(ch->bdev, struct scripted_bdev, bdev), io);
	} else {
		scripted->submit(ch, io);
	}
}

/* Those of all sessions, for nbd_stage_let_go(). */
static int
channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct nbd_stage *st = CONTAINER_OF(bdev, struct nbd_stage, disk.bdev);

	for (unsigned i = 0; i < NBD_STAGE_CHANNELS; i++) {
		struct bdev_channel *none = NULL;

		if (atomic_compare_exchange_strong(&st->channels[i], &none, ch)) {
			return scripted->channel_create(bdev, ch);
		}
	}
	return -ENOMEM;
}

static void
channel_destroy(struct bdev *bdev, struct bdev_channel *ch)
{
	struct nbd_stage *st = CONTAINER_OF(bdev, struct nbd_stage, disk.bdev);

	for (unsigned i = 0; i < NBD_STAGE_CHANNELS; i++) {
		struct bdev_channel *this = ch;

		atomic_compare_exchange_strong(&st->channels[i], &this, NULL);
	}
	scripted->channel_destroy(bdev, ch);
}

static void
kick(void *arg)
{
	scripted_channel_kick(arg);
}

void
nbd_stage_let_go(struct nbd_stage *st)
{
	atomic_store(&st->disk.hold, false);
	for (unsigned i = 0; i < NBD_STAGE_CHANNELS; i++) {
		struct bdev_channel *ch = atomic_load(&st->channels[i]);

		if (ch != NULL) {
			env_call(&st->env, ch->channel.thread, kick, ch);
		}
	}
}

/* ---- The stage ---- */

struct call {
	struct nbd_stage *st;
	const void *options;
	int rc;
	atomic_bool done;
};

static void
set_up(void *arg)
{
	struct call *c = arg;
	struct nbd_stage *st = c->st;
	struct nbd_options o = {
		.io_threads = st->threads, .io_thread_count = ENV_WORKERS, .socket_dir = st->dir, .worker = st->worker};
	struct err err = ERR_NONE;

	EXPECT(scripted_bdev_add(&st->disk, &err) == 0);
	EXPECT(nbd_init(&o, &err) == 0);
}

void
nbd_stage_start(struct nbd_stage *st, enum reactor_mode mode, bool real_threads)
{
	struct nbd_server_options server = {.name = "nbd", .unix_path = st->path};
	struct nbd_export_options export = {.name = "disk", .bdev_name = "disk", .description = "a disk of a test"};
	struct call c = {.st = st};
	struct err err = ERR_NONE;

	memset(st, 0, sizeof(*st));
	snprintf(st->dir, sizeof(st->dir), "/tmp/nbd-stage-XXXXXX");
	EXPECT(mkdtemp(st->dir) != NULL);
	snprintf(st->path, sizeof(st->path), "%s/nbd", st->dir);
	env_start(&st->env, mode, real_threads);
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		st->threads[i] = st->env.workers[i].thread;
	}
	st->worker = worker_create("test", &err);
	EXPECT(st->worker != NULL);
	scripted_bdev_init(&st->disk, "disk", NBD_STAGE_BLOCKS, 512);
	scripted = st->disk.bdev.ops;
	st->ops = *scripted;
	st->ops.submit = submit;
	st->ops.channel_create = channel_create;
	st->ops.channel_destroy = channel_destroy;
	st->disk.bdev.ops = &st->ops;
	st->disk.bdev.ops_mask |= 1u << BDEV_BLOCK_STATUS;
	st->disk.bdev.tells_changes = true;
	env_call(&st->env, st->env.app, set_up, &c);
	EXPECT(nbd_stage_server(st, &server) == 0);
	EXPECT(nbd_stage_export(st, &export) == 0);
}

static void
finished(void *ctx)
{
	atomic_store(&((struct call *)ctx)->done, true);
}

static void
finished_with(void *ctx, int rc)
{
	((struct call *)ctx)->rc = rc;
	finished(ctx);
}

static void
shut_down(void *arg)
{
	nbd_end(finished, arg);
}

static void
remove_bdev(void *arg)
{
	struct call *c = arg;

	scripted_bdev_remove(&c->st->disk, NULL, NULL);
}

void
nbd_stage_remove_bdev(struct nbd_stage *st)
{
	struct call c = {.st = st};

	env_call(&st->env, st->env.app, remove_bdev, &c);
	st->removed = true;
}

void
nbd_stage_stop(struct nbd_stage *st)
{
	struct call c = {.st = st};

	env_call(&st->env, st->env.app, shut_down, &c);
	env_wait(&st->env, &c.done);
	if (!st->removed) {
		nbd_stage_remove_bdev(st);
	}
	env_wait(&st->env, &st->disk.destructed);
	worker_free(st->worker);
	env_stop(&st->env);
	scripted_bdev_release(&st->disk);
	EXPECT(rmdir(st->dir) == 0);
}

void
nbd_stage_run(struct nbd_stage *st)
{
	env_linger(&st->env, 2);
}

static void
server_on_app(void *arg)
{
	struct call *c = arg;
	struct nbd_server *s;
	struct err err = ERR_NONE;

	c->rc = nbd_server_create(c->options, &s, &err);
}

int
nbd_stage_server(struct nbd_stage *st, const struct nbd_server_options *o)
{
	struct call c = {.st = st, .options = o};

	env_call(&st->env, st->env.app, server_on_app, &c);
	return c.rc;
}

static void
export_on_app(void *arg)
{
	struct call *c = arg;
	struct nbd_export *e;
	struct err err = ERR_NONE;

	c->rc = nbd_export_create(c->options, &e, &err);
}

int
nbd_stage_export(struct nbd_stage *st, const struct nbd_export_options *o)
{
	struct call c = {.st = st, .options = o};

	env_call(&st->env, st->env.app, export_on_app, &c);
	return c.rc;
}

static void
delete_server_on_app(void *arg)
{
	struct call *c = arg;
	int rc = nbd_server_delete(c->options, finished_with, c, NULL);

	if (rc != 0) {
		finished_with(c, rc);
	}
}

int
nbd_stage_server_delete(struct nbd_stage *st, const char *name)
{
	struct call c = {.st = st, .options = name};

	env_call(&st->env, st->env.app, delete_server_on_app, &c);
	env_wait(&st->env, &c.done);
	return c.rc;
}

static void
delete_export_on_app(void *arg)
{
	struct call *c = arg;
	int rc = nbd_export_delete(c->options, finished_with, c, NULL);

	if (rc != 0) {
		finished_with(c, rc);
	}
}

int
nbd_stage_export_delete(struct nbd_stage *st, const char *name)
{
	struct call c = {.st = st, .options = name};

	env_call(&st->env, st->env.app, delete_export_on_app, &c);
	env_wait(&st->env, &c.done);
	return c.rc;
}

static void
count_on_app(void *arg)
{
	struct call *c = arg;
	struct nbd_export *e = nbd_export_find(c->options);
	struct nbd_export_info info = {.connections = 0};

	if (e != NULL) {
		nbd_export_get_info(e, &info);
	}
	c->rc = (int)info.connections;
}

unsigned
nbd_stage_clients(struct nbd_stage *st, const char *name)
{
	struct call c = {.st = st, .options = name};

	env_call(&st->env, st->env.app, count_on_app, &c);
	return (unsigned)c.rc;
}

/* ---- Bytes ---- */

static void
step(struct nbd_client *c, uint64_t end_ns)
{
	EXPECT_SAY(clock_now_ns() < end_ns, "the server is silent");
	if (c->st->env.real_threads) {
		usleep(20);
	} else {
		reactor_poll_wait(c->st->env.reactors[0], 100);
	}
}

void
nbd_client_connect(struct nbd_client *c, struct nbd_stage *st)
{
	struct err err = ERR_NONE;
	int fd = unix_connect(st->path, &err);

	EXPECT_SAY(fd >= 0, "%s", err_text(&err));
	memset(c, 0, sizeof(*c));
	c->st = st;
	stream_init(&c->stream, fd);
}

void
nbd_client_close(struct nbd_client *c)
{
	stream_close(&c->stream);
}

/* What the server does not take any more is lost: it may have hung up. */
void
nbd_client_send(struct nbd_client *c, const void *data, size_t len)
{
	uint64_t end_ns = clock_now_ns() + ENV_TIMEOUT_NS;
	size_t sent = 0;

	while (sent < len || stream_unsent(&c->stream)) {
		struct iovec iov = {.iov_base = (uint8_t *)data + sent, .iov_len = len - sent};
		ssize_t n = stream_sendv(&c->stream, &iov, iov.iov_len > 0 ? 1 : 0);

		if (n < 0 && n != -EAGAIN) {
			return;
		}
		sent += n > 0 ? (size_t)n : 0;
		if (n == -EAGAIN || stream_unsent(&c->stream)) {
			step(c, end_ns);
		}
	}
}

bool
nbd_client_recv(struct nbd_client *c, void *data, size_t len)
{
	uint64_t end_ns = clock_now_ns() + ENV_TIMEOUT_NS;
	size_t got = 0;

	while (got < len) {
		ssize_t n = stream_recv(&c->stream, (uint8_t *)data + got, len - got);

		if (n == -EAGAIN) {
			step(c, end_ns);
		} else if (n <= 0) {
			return false;
		} else {
			got += (size_t)n;
		}
	}
	return true;
}

void
nbd_client_expect_end(struct nbd_client *c)
{
	uint8_t byte;

	EXPECT(!nbd_client_recv(c, &byte, 1));
}

/* ---- The handshake ---- */

void
nbd_client_greet(struct nbd_client *c, uint32_t flags)
{
	uint8_t greeting[NBD_GREETING_BYTES], expected[NBD_GREETING_BYTES], out[4];

	nbd_put_greeting(expected);
	EXPECT(nbd_client_recv(c, greeting, sizeof(greeting)));
	EXPECT(memcmp(greeting, expected, sizeof(greeting)) == 0);
	nbd_put32(out, flags);
	nbd_client_send(c, out, sizeof(out));
}

void
nbd_client_option(struct nbd_client *c, uint32_t option, const void *data, size_t len)
{
	uint8_t head[NBD_OPTION_BYTES], *p = nbd_put64(head, NBD_OPTION_MAGIC);

	p = nbd_put32(p, option);
	nbd_put32(p, (uint32_t)len);
	nbd_client_send(c, head, sizeof(head));
	nbd_client_send(c, data, len);
}

uint32_t
nbd_client_option_reply(struct nbd_client *c, uint32_t option, void *data, size_t room, size_t *ret_len)
{
	uint8_t head[NBD_OPTION_REPLY_BYTES], rest[4096];
	uint32_t len;

	if (!nbd_client_recv(c, head, sizeof(head))) {
		return 0;
	}
	EXPECT(nbd_get64(head) == NBD_OPTION_REPLY_MAGIC && nbd_get32(head + 8) == option);
	len = nbd_get32(head + 16);
	EXPECT(len <= sizeof(rest) && nbd_client_recv(c, rest, len));
	if (room > 0) {
		memcpy(data, rest, MIN((size_t)len, room));
	}
	if (ret_len != NULL) {
		*ret_len = len;
	}
	return nbd_get32(head + 12);
}

uint32_t
nbd_client_ask(struct nbd_client *c, uint32_t option)
{
	nbd_client_option(c, option, NULL, 0);
	return nbd_client_option_reply(c, option, NULL, 0, NULL);
}

static uint8_t *
put_string(uint8_t *p, const char *text)
{
	p = nbd_put32(p, (uint32_t)strlen(text));
	memcpy(p, text, strlen(text));
	return p + strlen(text);
}

uint32_t
nbd_client_set_contexts(struct nbd_client *c, const char *name, const char *first, const char *second)
{
	uint8_t data[256], *p = nbd_put32(data, (uint32_t)strlen(name));
	uint32_t type;

	memcpy(p, name, strlen(name));
	p = put_string(nbd_put32(p + strlen(name), second != NULL ? 2 : 1), first);
	if (second != NULL) {
		p = put_string(p, second);
	}
	nbd_client_option(c, NBD_OPT_SET_META_CONTEXT, data, (size_t)(p - data));
	do {
		type = nbd_client_option_reply(c, NBD_OPT_SET_META_CONTEXT, NULL, 0, NULL);
	} while (type == NBD_REP_META_CONTEXT);
	return type;
}

uint32_t
nbd_client_set_allocation(struct nbd_client *c, const char *name)
{
	return nbd_client_set_contexts(c, name, "base:allocation", NULL);
}

uint32_t
nbd_client_choose(struct nbd_client *c, uint32_t option, const char *name)
{
	uint8_t data[256], *p = nbd_put32(data, (uint32_t)strlen(name)), info[64];
	uint32_t type;

	memcpy(p, name, strlen(name));
	p = nbd_put16(p + strlen(name), 1);
	p = nbd_put16(p, NBD_INFO_BLOCK_SIZE);
	nbd_client_option(c, option, data, (size_t)(p - data));
	while ((type = nbd_client_option_reply(c, option, info, sizeof(info), NULL)) == NBD_REP_INFO) {
		if (nbd_get16(info) == NBD_INFO_EXPORT) {
			c->size = nbd_get64(info + 2);
			c->flags = nbd_get16(info + 10);
		}
	}
	return type;
}

void
nbd_client_open(struct nbd_client *c, struct nbd_stage *st, const char *name, enum nbd_reply_style style)
{
	nbd_client_connect(c, st);
	nbd_client_greet(c, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
	if (style != NBD_SIMPLE) {
		EXPECT(nbd_client_ask(c, style == NBD_EXTENDED ? NBD_OPT_EXTENDED_HEADERS : NBD_OPT_STRUCTURED_REPLY) ==
		       NBD_REP_ACK);
		EXPECT(nbd_client_set_allocation(c, name) == NBD_REP_ACK);
	}
	EXPECT(nbd_client_choose(c, NBD_OPT_GO, name) == NBD_REP_ACK);
	c->style = style;
}

/* ---- Transmission ---- */

void
nbd_client_request(struct nbd_client *c, uint16_t type, uint16_t flags, uint64_t cookie, uint64_t offset, uint64_t length)
{
	bool extended = c->style == NBD_EXTENDED;
	uint8_t out[NBD_EXTENDED_REQUEST_BYTES], *p;

	if (extended && type == NBD_CMD_WRITE) {
		flags |= NBD_REQUEST_PAYLOAD_LEN;
	}
	p = nbd_put32(out, extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC);
	p = nbd_put16(p, flags);
	p = nbd_put16(p, type);
	memcpy(p, &cookie, 8);
	p = nbd_put64(p + 8, offset);
	p = extended ? nbd_put64(p, length) : nbd_put32(p, (uint32_t)length);
	nbd_client_send(c, out, (size_t)(p - out));
}

static bool
simple_reply(struct nbd_client *c, struct nbd_client_reply *ret, uint8_t *data, size_t bytes)
{
	uint8_t rest[12];

	if (!nbd_client_recv(c, rest, sizeof(rest))) {
		return false;
	}
	ret->error = nbd_get32(rest);
	memcpy(&ret->cookie, rest + 4, 8);
	ret->last = true;
	return ret->error != 0 || nbd_client_recv(c, data, bytes);
}

static bool
payload(struct nbd_client *c, struct nbd_client_reply *ret, uint64_t length, uint8_t *data, uint64_t request_offset)
{
	uint8_t head[12];

	switch (ret->type) {
	case NBD_REPLY_TYPE_OFFSET_DATA:
		EXPECT(length > 8);
		if (!nbd_client_recv(c, head, 8)) {
			return false;
		}
		ret->offset = nbd_get64(head);
		ret->length = length - 8;
		return nbd_client_recv(c, data + (ret->offset - request_offset), ret->length);
	case NBD_REPLY_TYPE_OFFSET_HOLE:
		EXPECT(length == 12);
		if (!nbd_client_recv(c, head, 12)) {
			return false;
		}
		ret->offset = nbd_get64(head);
		ret->length = nbd_get32(head + 8);
		memset(data + (ret->offset - request_offset), 0, ret->length);
		return true;
	default:
		EXPECT(length <= sizeof(ret->payload));
		ret->payload_len = length;
		if (!nbd_client_recv(c, ret->payload, length)) {
			return false;
		}
		if ((ret->type & 1 << 15) != 0) {
			EXPECT(length >= 6 && nbd_get16(ret->payload + 4) == length - 6);
			ret->error = nbd_get32(ret->payload);
			EXPECT(ret->error != 0);
		}
		return true;
	}
}

bool
nbd_client_reply(struct nbd_client *c, struct nbd_client_reply *ret, uint8_t *data, uint64_t request_offset,
		 size_t simple_bytes)
{
	uint8_t magic[4], head[28];
	size_t head_bytes = c->style == NBD_EXTENDED ? 28 : 16;
	uint64_t length;

	memset(ret, 0, offsetof(struct nbd_client_reply, payload));
	if (!nbd_client_recv(c, magic, 4)) {
		return false;
	}
	if (nbd_get32(magic) == NBD_REPLY_MAGIC) {
		EXPECT(c->style != NBD_EXTENDED);
		return simple_reply(c, ret, data, simple_bytes);
	}
	EXPECT(nbd_get32(magic) == (c->style == NBD_EXTENDED ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC));
	EXPECT(c->style != NBD_SIMPLE);
	if (!nbd_client_recv(c, head, head_bytes)) {
		return false;
	}
	ret->last = (nbd_get16(head) & NBD_REPLY_FLAG_DONE) != 0;
	ret->type = nbd_get16(head + 2);
	memcpy(&ret->cookie, head + 4, 8);
	ret->offset = c->style == NBD_EXTENDED ? nbd_get64(head + 12) : 0;
	length = c->style == NBD_EXTENDED ? nbd_get64(head + 20) : nbd_get32(head + 12);
	return payload(c, ret, length, data, request_offset);
}

static uint64_t last_cookie;

/* All of the reply to the only request under way. */
static uint32_t
finish(struct nbd_client *c, uint64_t cookie, uint8_t *data, uint64_t offset, size_t bytes)
{
	struct nbd_client_reply r;
	uint64_t covered = 0;
	uint32_t error = 0;

	do {
		if (!nbd_client_reply(c, &r, data, offset, bytes)) {
			return ~0u;
		}
		EXPECT(r.cookie == cookie);
		covered += r.length;
		error = error != 0 ? error : r.error;
	} while (!r.last);
	EXPECT(error != 0 || c->style == NBD_SIMPLE || covered == bytes);
	return error;
}

uint32_t
nbd_client_read(struct nbd_client *c, uint64_t offset, void *data, size_t len)
{
	uint64_t cookie = ++last_cookie;

	nbd_client_request(c, NBD_CMD_READ, 0, cookie, offset, len);
	return finish(c, cookie, data, offset, len);
}

uint32_t
nbd_client_write(struct nbd_client *c, uint16_t flags, uint64_t offset, const void *data, size_t len)
{
	uint64_t cookie = ++last_cookie;

	nbd_client_request(c, NBD_CMD_WRITE, flags, cookie, offset, len);
	nbd_client_send(c, data, len);
	return finish(c, cookie, NULL, offset, 0);
}

uint32_t
nbd_client_command(struct nbd_client *c, uint16_t type, uint16_t flags, uint64_t offset, uint64_t len)
{
	uint64_t cookie = ++last_cookie;

	nbd_client_request(c, type, flags, cookie, offset, len);
	return finish(c, cookie, NULL, offset, 0);
}
