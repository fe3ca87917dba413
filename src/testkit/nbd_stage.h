/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A stage for tests of the NBD server: an app thread and two I/O threads, a scripted bdev that knows its holes, an export of
 * it on a unix socket, and clients that speak the protocol byte by byte. Everything a client waits for comes, or the test
 * ends.
 */
#ifndef TESTKIT_NBD_STAGE_H
#define TESTKIT_NBD_STAGE_H

#include "nbd/nbd.h"
#include "nbd/proto.h"
#include "sock/stream.h"
#include "testkit/bdev_env.h"
#include "testkit/scripted_bdev.h"

#define NBD_STAGE_BLOCKS 131072 /* of 512 bytes: 64 MiB */
#define NBD_STAGE_BYTES ((uint64_t)NBD_STAGE_BLOCKS * 512)
/* Of this size are its holes: where data has only zeroes. */
#define NBD_STAGE_PIECE 4096

/* Channels that sessions may have at once. */
#define NBD_STAGE_CHANNELS 32

struct nbd_stage {
	struct env env;
	struct scripted_bdev disk;
	struct bdev_ops ops;
	struct thread *threads[ENV_WORKERS];
	struct worker *worker;
	char dir[32];
	char path[96];
	bool removed; /* the bdev */
	uint64_t changed_bytes; /* from the disk's start on, so much has changed: a multiple of a piece */
	atomic_uint copied; /* reads that went to buffers, not in place */
	_Atomic(struct bdev_channel *) channels[NBD_STAGE_CHANNELS];
};

/* Sets up everything: bdev "disk", server "nbd", export "disk". */
void nbd_stage_start(struct nbd_stage *st, enum reactor_mode mode, bool real_threads);
/* Takes it down again; the clients' sockets may still be open. */
void nbd_stage_stop(struct nbd_stage *st);
/* Runs the server for a while. */
void nbd_stage_run(struct nbd_stage *st);
/* Calls on the app thread; the status of the asynchronous ones. */
int nbd_stage_server(struct nbd_stage *st, const struct nbd_server_options *o);
int nbd_stage_export(struct nbd_stage *st, const struct nbd_export_options *o);
int nbd_stage_server_delete(struct nbd_stage *st, const char *name);
int nbd_stage_export_delete(struct nbd_stage *st, const char *name);
/* Ends `hold` of the disk. */
void nbd_stage_let_go(struct nbd_stage *st);
void nbd_stage_remove_bdev(struct nbd_stage *st);
/* Clients of an export now. */
unsigned nbd_stage_clients(struct nbd_stage *st, const char *name);

/* ---- Clients ---- */

struct nbd_client {
	struct nbd_stage *st;
	struct stream stream;
	enum nbd_reply_style style;
	uint16_t flags; /* of transmission */
	uint64_t size;
};

/* A reply, or a chunk of one. */
struct nbd_client_reply {
	uint32_t error; /* of a simple reply, or an error chunk */
	uint16_t type;  /* of a chunk */
	bool last;
	uint64_t cookie;
	uint64_t offset; /* of data, of a hole; of the request in an extended header's reply otherwise */
	uint64_t length; /* of data, of a hole */
	uint8_t payload[1024]; /* of status chunks */
	size_t payload_len;
};

void nbd_client_connect(struct nbd_client *c, struct nbd_stage *st);
void nbd_client_close(struct nbd_client *c);
void nbd_client_send(struct nbd_client *c, const void *data, size_t len);
/* True: all came; false: the server hung up before. */
bool nbd_client_recv(struct nbd_client *c, void *data, size_t len);
/* The server hangs up, and sends nothing before. */
void nbd_client_expect_end(struct nbd_client *c);

/* Reads the greeting, sends the flags. */
void nbd_client_greet(struct nbd_client *c, uint32_t flags);
void nbd_client_option(struct nbd_client *c, uint32_t option, const void *data, size_t len);
/* The next reply to option: its type; at most room bytes of its data, how many in *ret_len. 0: the server hung up. */
uint32_t nbd_client_option_reply(struct nbd_client *c, uint32_t option, void *data, size_t room, size_t *ret_len);
/* The last reply to an option without data. */
uint32_t nbd_client_ask(struct nbd_client *c, uint32_t option);
/* The same for SET_META_CONTEXT of one context, or two (NULL: not), or base:allocation; INFO or GO of an export. */
uint32_t nbd_client_set_contexts(struct nbd_client *c, const char *name, const char *first, const char *second);
uint32_t nbd_client_set_allocation(struct nbd_client *c, const char *name);
uint32_t nbd_client_choose(struct nbd_client *c, uint32_t option, const char *name);

/* All of it: to transmission on the export, in that style, with block status where the style has it. */
void nbd_client_open(struct nbd_client *c, struct nbd_stage *st, const char *name, enum nbd_reply_style style);

void nbd_client_request(struct nbd_client *c, uint16_t type, uint16_t flags, uint64_t cookie, uint64_t offset, uint64_t length);
/* False: the server hung up. data: where the bytes of data chunks go, at their place in a request of `request_offset`;
 * simple_bytes: so many follow a simple reply without error. */
bool nbd_client_reply(struct nbd_client *c, struct nbd_client_reply *ret, uint8_t *data, uint64_t request_offset,
		      size_t simple_bytes);
/* One request after the other: the error they end with, ~0: the server hung up. */
uint32_t nbd_client_read(struct nbd_client *c, uint64_t offset, void *data, size_t len);
uint32_t nbd_client_write(struct nbd_client *c, uint16_t flags, uint64_t offset, const void *data, size_t len);
uint32_t nbd_client_command(struct nbd_client *c, uint16_t type, uint16_t flags, uint64_t offset, uint64_t len);

#endif
