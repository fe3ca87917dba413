/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A connection in the transmission phase, on its I/O thread. Its owner is on another thread (the "control thread"), and
 * talks to it by messages only.
 */
#ifndef NBD_SESSION_H
#define NBD_SESSION_H

#include <stdatomic.h>

#include "bdev/bdev.h"
#include "nbd/pool.h"
#include "nbd/proto.h"
#include "sock/stream.h"

/* Largest payload of a request, and what a session may have under way: one such, or many smaller ones. */
#define NBD_PAYLOAD_MAX (UINT32_C(32) << 20)
#define NBD_SESSION_BYTES ((uint64_t)NBD_PAYLOAD_MAX)
#define NBD_SESSION_REQUESTS 1024
/* Payload of a request that was refused: so much is read and thrown away, more is hung up on. */
#define NBD_PAYLOAD_SKIP_MAX (UINT64_C(1) << 32)

struct nbd_session;

struct nbd_io {
	struct nbd_io *next; /* in the queue of replies; first: the pool's */
	struct nbd_session *session;
	struct nbd_header header;
	struct iovec *iov; /* [0] the head of the reply, from [1] on the data; `own`, or in `vector` */
	uint16_t data_count; /* entries from iov[1] on */
	uint16_t reply_count; /* entries that are to be sent */
	uint8_t stage;       /* enum stage of session.c */
	bool in_place;       /* buffer is one that the session received into, shared with others */
	uint32_t filled;     /* payload received so far */
	uint32_t charged;    /* bytes counted in session->bytes */
	struct nbd_buffer *buffer; /* first of the data's, linked by next */
	struct nbd_buffer *vector; /* NULL: iov is `own` */
	struct nbd_buffer *extra;  /* extents, and heads of chunks */
	size_t reply_bytes;
	struct iovec own[2];
	uint8_t head[NBD_CONTEXTS * NBD_REPLY_HEAD_MAX];
	_Alignas(CACHE_LINE_BYTES) struct bdev_io io; /* with the modules' room behind it */
};

/* Read by any thread while the session lives; written by its own. */
struct nbd_counters {
	_Atomic uint64_t reads, writes, others;
	_Atomic uint64_t read_bytes, written_bytes;
	_Atomic uint64_t errors;
};

/* What its owner fills in before nbd_session_start(). */
struct nbd_session_setup {
	struct stream stream; /* taken */
	struct bdev_desc *desc; /* open until the session has ended */
	struct thread *thread;
	uint16_t flags; /* of transmission, as the client was told */
	enum nbd_reply_style style;
	uint8_t contexts; /* of block status, that were negotiated: NBD_CONTEXT_... */
	uint8_t *early; /* what was received already: taken; NULL: nothing */
	size_t early_len; /* NBD_LARGE_BYTES at most */
};

struct nbd_session {
	struct nbd_session_setup setup;

	/* ---- The I/O thread's ---- */
	struct poller poller;
	struct bdev_channel *ch;
	struct nbd_thread *t;
	struct nbd_request_bin *requests;
	struct list link;      /* t->sessions */
	struct list wait_link; /* t->waiting */
	bool waiting;          /* for memory: on that list */
	bool paused;           /* enough is under way, or waits to be sent */
	bool inside;           /* poll is running */
	bool copies;           /* the bdev wants aligned buffers: payloads are not used where they were received */
	bool asks_holes;       /* the bdev knows its holes */
	const uint8_t *memory; /* the bdev's: reads are sent from there; NULL: from buffers of ours */
	uint8_t header_bytes;
	uint8_t block_shift;
	uint32_t needs;        /* large buffers, while it waits */

	struct nbd_buffer *in; /* received and not looked at yet: [in_start, in_end) */
	uint32_t in_start, in_end;
	struct nbd_io *fill; /* a write whose payload is coming */
	uint64_t skip;            /* payload that is to be thrown away */

	struct nbd_io *out_first, *out_last;
	size_t out_offset; /* sent of the first */
	size_t out_bytes;  /* of all, less out_offset */
	struct defer flush;
	bool flush_queued;

	uint32_t inflight; /* requests at the bdev */
	uint32_t count;    /* requests, from taken to sent */
	uint64_t bytes;    /* of their data */
	uint32_t turn_left; /* what may still be started in this turn, in bytes */
	bool direct; /* the last request was a long write: little is received ahead */
	uint64_t moved, moved_mark; /* bytes received and sent; when somebody began to starve */

	int out_fd; /* a copy of the socket, to wait for room to send; -1: not needed yet */
	struct watch out_watch;
	bool out_watching;
	struct timer linger;

	bool ending; /* nothing new is begun */
	bool broken; /* nothing can be sent */
	bool finishing;
	struct defer finish;

	struct nbd_counters counters;

	/* ---- Messages; the control thread's ---- */
	struct thread *control;
	struct msg start_msg;
	struct msg stop_msg;
	struct msg ended_msg;
	void (*ended)(struct nbd_session *s);
	bool stop_sent;
	bool over;
	int status;      /* why it ended: 0 as the client wished or stop said; a negative errno */
	const char *why; /* words for that; borrowed for ever */
};

/* Control thread. ended(s), later, on this thread: the stream is closed, no channel is held, s may be freed. */
void nbd_session_start(struct nbd_session *s, void (*ended)(struct nbd_session *s));

/* Control thread: answers what is under way, then ends. Harmless when it has ended by itself, before ended(). */
void nbd_session_stop(struct nbd_session *s);

/* For pool.c: something has come back, and somebody waits. */
void nbd_session_feed(struct nbd_thread *t);

#endif
