/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of src/bdev; never leaves it. */
#ifndef BDEV_INTERNAL_H
#define BDEV_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "bdev/module.h"
#include "mem/pool.h"

/* The core's bits in bdev_io.flags. */
#define IO_FLAGS_OURS 0xf0
#define IO_CORE 0x80 /* a part of a split request, or a reset: its completion takes another way */
#define IO_REFUSED 0x40 /* has a place in the queue of refused requests */
#define IO_FLUSHED 0x20 /* of a split write that must be stable: its flush is under way or done */

/* Parts of split requests: a channel has so many in all, one request uses at most PARTS_OF_ONE
 * at once. */
#define PARTS_MAX 32
#define PARTS_OF_ONE 8
#define PART_IOV_MAX 128
#define BOUNCE_BYTES ((size_t)65536)

/* ---- A bdev (app thread, but where said) ---- */

/* A walk over the channels of a bdev that cannot fail: short of memory it tries again later. */
struct visit {
	struct bdev_core *core;
	/* On the channel's thread. */
	void (*fn)(struct bdev_core *core, struct bdev_channel *ch, void *ctx);
	void (*done)(struct bdev_core *core, void *ctx);
	void *ctx;
	struct timer retry;
};

struct bdev_core {
	struct bdev *bdev;
	struct channel_set channels; /* of all descriptors */
	struct list link;  /* in the registry */
	struct list names; /* the name first, then aliases */
	char uuid_text[UUID_STR_LEN];

	struct list descs;
	struct bdev_desc *claim;
	char claim_module[64];

	unsigned holds; /* visits and resets under way: the bdev outlives them */
	void (*gone)(void *ctx, int status);
	void *gone_ctx;
	bool destroying;
	struct msg destroy_msg;
	struct visit remove_visit;

	struct visit resize_visit;
	bool resizing;
	bool resize_again;

	bool resetting;
	struct list resets_waiting;
	struct list resets_running;
	struct bdev_io *reset_asked; /* the one of them that the module has */
	struct visit reset_visit;
	struct msg drained_msg;
	atomic_uint undrained; /* any thread: channels that still have requests, and so on */

	/* Any thread. */
	atomic_bool removed;
	atomic_bool frozen; /* a reset is under way */
	atomic_uint closed_channels;
	pthread_mutex_t closed_lock;
	struct bdev_stats closed; /* counters of channels that are gone */
};

struct bdev_desc {
	struct device device; /* its channels: one a thread */
	struct bdev *bdev;
	bool write;
	bool told; /* of the event that is being handed out */
	void (*event)(void *ctx, struct bdev *bdev, enum bdev_event ev);
	void *ctx;
	struct list link;
};

/* ---- A channel (its own thread) ---- */

/* A part of a split request. */
struct part {
	struct list link; /* free ones of the channel */
	void *bounce;     /* NULL: the part uses the request's own buffers */
	struct iovec iov[PART_IOV_MAX];
	_Alignas(CACHE_LINE_BYTES) struct bdev_io io; /* with room for the modules behind it */
};

struct core_channel {
	struct bdev_channel pub;
	struct bdev_desc *desc;

	struct bdev_stats stats; /* min_ns is UINT64_MAX as long as there is none */

	struct list refused;   /* by the module, in the order of their first refusal */
	struct list parked;    /* came during a reset */
	struct list starved;   /* split requests that wait for a part or a buffer */
	uint64_t parked_count; /* resets under way included */
	uint32_t next_seq;
	bool refused_again; /* the module took nothing: stop offering */
	bool removed;
	bool frozen;
	bool draining; /* the reset is to be told when inflight is 0 */
	struct timer retry;

	struct list free_parts;
	uint8_t *parts; /* their memory; NULL: no request of this bdev is ever split */
	struct mem_cache bounces;
	void *reserve; /* one buffer besides the shared pool's, so that there is always progress */
	bool reserve_used;
};

static inline struct core_channel *
core_channel(struct bdev_channel *ch)
{
	return (struct core_channel *)ch;
}

/* ---- registry.c ---- */

/* The caller is the app thread, or there is none yet. */
void app_thread_check(void);
struct thread *app_thread(void);
void core_hold(struct bdev_core *core);
/* Ends a removed bdev that nobody has open or is busy with. */
void core_unhold(struct bdev_core *core);
void core_try_destroy(struct bdev_core *core);
void notice(const struct bdev *bdev, enum bdev_notice what);

/* ---- open.c ---- */

void send_event(struct bdev_core *core, enum bdev_event ev);

/* ---- channel.c ---- */

extern const struct device_ops channel_device_ops;
size_t core_channel_bytes(const struct bdev *bdev);
void visit_start(struct visit *v, struct bdev_core *core,
		 void (*fn)(struct bdev_core *core, struct bdev_channel *ch, void *ctx),
		 void (*done)(struct bdev_core *core, void *ctx), void *ctx);
/* After a change of what direct_ops and attention are made of. */
void channel_refresh(struct core_channel *c);
/* The bdev is going: answers what waits. */
void channel_remove(struct core_channel *c);

/* ---- io.c ---- */

/* Hands io to the module, behind those it refused. */
void issue(struct core_channel *c, struct bdev_io *io);
/* Ends a request of the submitter that is not at the module, from a deferred call. */
void end_request(struct core_channel *c, struct bdev_io *io, int status);
/* The same now: from a deferred call or a message. The caller touches neither io nor c
 * afterwards. */
void finish_request(struct core_channel *c, struct bdev_io *io, int status);
/* Ends what the module refused, as if it had answered so. */
void end_refused(struct core_channel *c, struct bdev_io *io, int status);
/* Starts a request that bdev_submit() could not hand over directly. */
void start_request(struct core_channel *c, struct bdev_io *io);

/* ---- nomem.c ---- */

void nomem_refuse(struct core_channel *c, struct bdev_io *io);
void nomem_append(struct core_channel *c, struct bdev_io *io);
void nomem_retry(struct core_channel *c);
void nomem_remove(struct core_channel *c);

/* ---- split.c ---- */

bool may_split(const struct bdev *bdev);
int split_channel_init(struct core_channel *c);
void split_channel_release(struct core_channel *c);
/* Blocks that one read or write from lba on may have. */
uint64_t rw_room(const struct bdev *bdev, uint64_t lba, uint64_t num_blocks);
/* The core has to add a flush for BDEV_IO_FUA. */
bool needs_flush(const struct bdev *bdev, const struct bdev_io *io);
void split_start(struct core_channel *c, struct bdev_io *io);
/* A part has come back from the module. */
void split_part_done(struct core_channel *c, struct bdev_io *io);
void split_remove(struct core_channel *c);

/* ---- bounce.c ---- */

extern struct mem_pool bounce_pool;

int bounce_init(struct core_channel *c);
void bounce_release(struct core_channel *c);
/* Gives part a buffer for up to bytes and copies a write's data into it. Bytes, 0: none is to be
 * had now. */
size_t bounce_take(struct core_channel *c, struct part *part, const struct bdev_io *request,
		   size_t bytes);
/* Copies a read's data back where it succeeded, and gives the buffer back. */
void bounce_return(struct core_channel *c, struct part *part);

/* ---- reset.c ---- */

void reset_submit(struct core_channel *c, struct bdev_io *io);
/* The module has answered a reset. */
void reset_module_done(struct core_channel *c, struct bdev_io *io);
/* c was told to say when it has nothing in flight any more. */
void reset_channel_drained(struct core_channel *c);

/* ---- stats.c ---- */

void stats_init(struct bdev_stats *stats);
void stats_add(struct bdev_stats *to, const struct bdev_stats *from);

#endif
