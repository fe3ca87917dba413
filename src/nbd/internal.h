/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of src/nbd that serve a session, on its I/O thread; never leaves this folder. */
#ifndef NBD_INTERNAL_H
#define NBD_INTERNAL_H

#include "nbd/session.h"

/* ---- session.c ---- */

/* Until there is memory, of which so many large buffers are needed. */
void nbd_session_wait(struct nbd_session *s, unsigned large);
/* What was too much under way is less now. */
void nbd_session_resume(struct nbd_session *s);
/* Begins nothing new; ends when all is answered and sent. The first status and words count; words NULL: all is well. */
void nbd_session_end(struct nbd_session *s, int status, const char *why);
/* The same, and nothing more is sent. */
void nbd_session_break(struct nbd_session *s, int status, const char *why);
/* Ends it now if there is nothing left to wait for. */
void nbd_session_settle(struct nbd_session *s);

/* ---- receive.c ---- */

/* Receives, and starts the requests that are whole: a bounded amount. The work done. */
int nbd_receive(struct nbd_session *s);
/* Drops what was received and not started. */
void nbd_receive_release(struct nbd_session *s);
/* A request that used the buffer received into is done with it. */
void nbd_receive_idle(struct nbd_session *s);

/* ---- request.c ---- */

/* A request with this header, and buffers for `bytes` of data; NULL: the session waits for memory, or is paused. */
struct nbd_io *nbd_request_get(struct nbd_session *s, const struct nbd_header *h, uint64_t bytes);
void nbd_request_put(struct nbd_io *r);
/* Its data are where they were received: bytes in s->in. */
void nbd_request_use(struct nbd_io *r, uint8_t *data, uint32_t bytes);
/* Its data are where the bdev has them. */
void nbd_request_read_in_place(struct nbd_io *r);
/* An error of what the header asks for; 0: it may be done. */
int nbd_request_check(const struct nbd_session *s, const struct nbd_header *h);
/* Does it; a write's payload is there. */
void nbd_request_start(struct nbd_io *r);
/* Answers it with status, later. */
void nbd_request_answer(struct nbd_io *r, int status);

/* ---- send.c ---- */

/* To be sent at the end of the turn; freed when it has been. */
void nbd_send_reply(struct nbd_io *r);
/* Sends what the socket takes; 1 when there was progress. */
int nbd_send_out(struct nbd_session *s);
void nbd_send_release(struct nbd_session *s);

/* Something is still to be sent. */
static inline bool
nbd_send_pending(const struct nbd_session *s)
{
	return s->out_first != NULL || stream_unsent(&s->setup.stream);
}

#endif
