/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A stage for tests of the vhost back end: control thread and two I/O threads on two reactors
 * polled by hand, a scripted bdev "disk0", and a front end that sends whatever the test likes, byte
 * by byte if need be. One system thread does it all, so every test is one thing after the other.
 * What takes too long ends the test.
 */
#ifndef TESTKIT_VHOST_STAGE_H
#define TESTKIT_VHOST_STAGE_H

#include "event/reactor.h"
#include "sock/unix.h"
#include "testkit/scripted_bdev.h"
#include "vhost/vhost.h"
#include "virtio/vhost_msg.h"

#define STAGE_IO_THREADS 2
#define STAGE_BLOCKS 2048u /* of 512 bytes */

struct stage {
	struct reactor *reactors[STAGE_IO_THREADS];
	struct thread *control;
	struct thread *io[STAGE_IO_THREADS];
	struct scripted_bdev disk;
	char dir[64];
	bool done; /* of the asynchronous thing under way */
};

void stage_start(struct stage *st, enum reactor_mode mode);
/* Shuts the back end down, frees everything. */
void stage_stop(struct stage *st);
/* One round of every reactor. */
void stage_poll(struct stage *st);
/* Rounds until nothing has been done for a while. */
void stage_quiet(struct stage *st);
/* Runs fn(ctx) on t, and lets it take effect. */
void stage_call(struct stage *st, struct thread *t, void (*fn)(void *ctx), void *ctx);

/* vhost_blk_create() on disk0 with default options but for these; its result. */
int stage_create(struct stage *st, const char *name, const char *cpumask, bool readonly, struct err *err);
/* The same on another bdev. */
int stage_create_on(struct stage *st, const char *name, const char *bdev_name, const char *cpumask, bool readonly,
		    struct err *err);
int stage_delete(struct stage *st, const char *name);
void stage_info(struct stage *st, const char *name, struct vhost_info *ret_info);

/* What this process has: to be compared before and after. */
unsigned stage_count_fds(void);
/* Bytes of guest memory that are mapped beside the front ends' own. */
uint64_t stage_count_mapped(void);

/* ---- A front end ---- */

#define FRONT_MEMORY (4u << 20)
#define FRONT_GPA UINT64_C(0x100000000)
#define FRONT_UVA UINT64_C(0x7f0000000000)
#define FRONT_RINGS 4
#define FRONT_RING_BYTES 0x8000u /* of memory a ring has, from its index times this */
#define FRONT_DATA_AT 0x200000u

struct front {
	struct stage *st;
	int fd; /* -1: not connected */
	int memory_fd;
	uint8_t *memory;
	int kick[FRONT_RINGS], call[FRONT_RINGS];
	uint16_t size[FRONT_RINGS];
	uint16_t avail[FRONT_RINGS]; /* chains offered so far */
};

void front_open(struct front *f, struct stage *st);
void front_close(struct front *f);
/* Connects to the controller's socket. */
void front_connect(struct front *f, const char *name);
void front_disconnect(struct front *f);

/* Sends without looking at what comes back. */
void front_send(struct front *f, const struct vhost_user_msg *msg, const int *fds, unsigned fd_count);
/* The next reply: true, or false when the connection ended instead. */
bool front_reply(struct front *f, struct vhost_user_msg *ret_msg);
/* Sends, and asks for an acknowledgement where the type has no reply of its own. The u64 of that;
 * UINT64_MAX: it ended. */
uint64_t front_ack(struct front *f, struct vhost_user_msg *msg, const int *fds, unsigned fd_count);
/* A message of one u64, acknowledged. */
uint64_t front_u64(struct front *f, enum vhost_user_request type, uint64_t value, int fd);
uint64_t front_state(struct front *f, enum vhost_user_request type, unsigned index, unsigned num);
/* Asks a question without payload; its u64. */
uint64_t front_get(struct front *f, enum vhost_user_request type);
/* True when the back end closed the connection, within reason. */
bool front_ended(struct front *f);

/* Features, protocol features (REPLY_ACK and all others), owner. without: feature bits to leave
 * out. */
void front_negotiate(struct front *f, uint64_t without);
void front_share(struct front *f);                             /* SET_MEM_TABLE of all memory in one region */
void front_ring_addr(struct front *f, unsigned i);             /* SET_VRING_ADDR */
void front_ring_start(struct front *f, unsigned i, unsigned size, unsigned base); /* everything up to KICK and ENABLE */
unsigned front_ring_stop(struct front *f, unsigned i);         /* GET_VRING_BASE */
/* All of the above for one ring. */
void front_start(struct front *f, const char *name);

/* Offers one read of block i into memory, and kicks. */
void front_offer(struct front *f, unsigned ring, unsigned block);
uint16_t front_used(struct front *f, unsigned ring);
/* Offers a read and waits for it: true when it came back, with the right data. */
bool front_read(struct front *f, unsigned ring, unsigned block);

#endif
