/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of src/bdev; never leaves it. */
#ifndef BDEV_INTERNAL_H
#define BDEV_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "bdev/bucket.h"
#include "bdev/module.h"
#include "mem/pool.h"

/* The core's bits in bdev_io.flags. */
#define IO_FLAGS_OURS 0xf0
#define IO_CORE 0x80 /* a part of a split request, or a reset: its completion takes another way */
#define IO_REFUSED 0x40 /* has a place in the queue of refused requests */
#define IO_TRACKED 0x10 /* on the channel's list of those that range locks look at */
#define IO_SPLIT 0x20 /* cut into parts, or emulated: the module never sees it */
/* Both: a request of the channel above that was passed down. */
_Static_assert(BDEV_IO_PASSED == (IO_CORE | IO_SPLIT), "no part of a request is split again, nor is a reset");

/* Of a split request, in bdev_io.core_word. */
#define WORD_SWAP_WRITES 0x1 /* compare-and-write: all was equal */
#define WORD_SWAP_WAITS 0x4  /* compare-and-write: has no range yet */
#define WORD_FLUSHED 0x2     /* a write that must be stable: its flush is under way or done */

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
	enum bdev_claim claim;
	uint64_t claim_key;
	unsigned claim_count; /* descriptors that hold it */
	char claim_module[64];

	struct list examine_link; /* waits for its examination */
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

	uint64_t histogram_min_ns, histogram_max_ns; /* as they were asked for */

	struct list locks;             /* range locks, in the order of asking */
	bool acquiring;                /* one of them is being acquired */
	bool changing;                 /* a visit hands out `ranges` */
	struct range_set *old_ranges;  /* in use until that visit ends */
	struct visit ranges_visit;
	struct timer ranges_retry;

	/* Any thread. */
	_Atomic(struct qos *) qos;          /* NULL: no limit and no weight was ever set */
	_Atomic(struct range_set *) ranges; /* NULL: none */
	atomic_bool removed;
	atomic_bool frozen; /* a reset is under way */
	atomic_uint closed_channels;
	pthread_mutex_t closed_lock;
	struct bdev_stats closed; /* counters of channels that are gone */
	_Atomic uint64_t histogram_config;    /* 0: none are kept */
	struct histograms *closed_histograms; /* under closed_lock */
	_Atomic(struct sampler *) sampler;    /* NULL: the queue depth was never sampled */
};

#define QOS_BUCKETS 4
#define QOS_LANES 2

struct bdev_desc {
	struct device device; /* its channels: one a thread */
	struct bdev *bdev;
	bool write;
	bool claims;
	bool (*yield)(void *ctx); /* NULL: it does not; see bdev_claim_yields() */
	bool told; /* of the event that is being handed out */
	void (*event)(void *ctx, struct bdev *bdev, enum bdev_event ev);
	void *ctx;
	struct list link;

	const struct bdev *since; /* see bdev_desc_set_since() */
	char *user; /* never NULL */
	char no_name[1];
	struct fair_share shares[QOS_LANES]; /* any thread */
};

/* ---- A channel (its own thread) ---- */

/* A part of a split request. */
struct part {
	struct list link; /* free ones of the channel */
	void *bounce;     /* NULL: the part uses the request's own buffers */
	unsigned index;   /* of the channel's parts */
	struct iovec iov[PART_IOV_MAX];
	_Alignas(CACHE_LINE_BYTES) struct bdev_io io; /* with room for the modules behind it */
};

/* A channel's part of the bdev's limits. */
struct channel_qos {
	struct qos *shared; /* NULL: no limits */
	uint32_t generation;
	unsigned limited; /* the bits of buckets that have a limit */
	uint8_t wants[BDEV_OP_COUNT];
	uint64_t cost[QOS_BUCKETS];
	int64_t credit[QOS_BUCKETS]; /* drawn and not used, as costs; never below 0 */
	uint64_t used[QOS_LANES];    /* and not told to desc->shares yet */
	uint64_t drawn_ns;
	uint64_t save_ns;
	struct list lanes[QOS_LANES];
	uint32_t next_seq;
	struct timer timer; /* runs while there is something on a lane */
	uint64_t due_ns;    /* when it should run */
};

struct core_channel {
	struct bdev_channel pub;
	struct bdev_desc *desc;
	/* bdev->ops->submit and what plain requests take; pub.submit is another where there are limits. */
	void (*submit)(struct bdev_channel *ch, struct bdev_io *io);
	void (*submit_plain)(struct bdev_channel *ch, struct bdev_io *io);
	struct channel_qos qos;

	struct bdev_stats stats; /* min_ns is UINT64_MAX as long as there is none */
	struct histograms *histograms; /* NULL: none are kept */
	bool attention; /* completions must look at the waiting queues */
	bool unsampled; /* the sampler rests, and wants to know of the next request */
	struct list passes;    /* struct bdev_pass: from here down */
	struct list passed_to; /* from above to here */

	struct list refused;   /* by the module, in the order of their first refusal */
	struct list parked;    /* came during a reset */
	struct list starved;   /* split requests that wait for a part or a buffer */
	struct list held_back; /* by a range lock */
	uint64_t parked_count; /* of both and of the limits' lanes, and resets and compare-and-writes under way */
	uint32_t next_seq;
	bool refused_again; /* the module took nothing: stop offering */
	bool removed;
	bool frozen;
	bool draining; /* the reset is to be told when inflight is 0 */
	struct timer retry;
	struct timer cancel_again; /* while draining */
	uint64_t cancel_ns[2];     /* when the last cancellation was, and the one before */

	struct range_set *ranges;          /* in force here; NULL: none */
	struct bdev_range_lock *acquiring; /* waits for this channel to drain */
	struct list tracked;
	uint64_t tracked_count;
	struct swap *swap; /* compare-and-write; NULL: none was asked for yet */

	struct list free_parts;
	uint8_t *parts; /* their memory; NULL: no request of this channel was ever split */
	struct md_store *md; /* their metadata; NULL: the bdev has none */
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

/* ---- examine.c ---- */

void examine_new(struct bdev *bdev);
/* Those that wait for a name that bdev has. */
void examine_tell_watches(struct bdev *bdev);
/* The bdev goes. */
void examine_forget(struct bdev_core *core);

/* ---- open.c ---- */

void send_event(struct bdev_core *core, enum bdev_event ev);

/* ---- channel.c ---- */

extern const struct device_ops channel_device_ops;
size_t core_channel_bytes(const struct bdev *bdev);
/* Asks the module to end what it has; and ends what still waits to be given to it when asked for long. */
void channel_cancel(struct core_channel *c);
void visit_start(struct visit *v, struct bdev_core *core,
		 void (*fn)(struct bdev_core *core, struct bdev_channel *ch, void *ctx),
		 void (*done)(struct bdev_core *core, void *ctx), void *ctx);
/* After a change of what direct_ops, pass_ops, attention and careful are made of. */
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
/* Starts a request that bdev_submit() could not hand over directly, or lets it wait for what it has
 * to; it is counted nowhere yet. */
void admit(struct core_channel *c, struct bdev_io *io);
/* The same when the limits let it pass. */
void admit_paid(struct core_channel *c, struct bdev_io *io);
/* The same when it need not wait and is in flight. */
void start_request(struct core_channel *c, struct bdev_io *io);

/* ---- nomem.c ---- */

void nomem_refuse(struct core_channel *c, struct bdev_io *io);
void nomem_append(struct core_channel *c, struct bdev_io *io);
void nomem_retry(struct core_channel *c);
/* Those that were submitted before are answered; resets only with UINT64_MAX. */
void nomem_end(struct core_channel *c, int status, uint64_t before_ns);
/* Of c->retry: tries all that waits for memory again. */
void nomem_retry_later(struct timer *timer);

/* ---- split.c ---- */

/* The core has to copy a write's data: the module would read it twice. */
bool needs_copy(const struct bdev *bdev, const struct bdev_io *io);
void split_channel_release(struct core_channel *c);
/* Blocks that one read or write from lba on may have. */
uint64_t rw_room(struct core_channel *c, uint64_t lba, uint64_t num_blocks, bool write);
/* The core has to add a flush for BDEV_IO_FUA. */
bool needs_flush(const struct bdev *bdev, const struct bdev_io *io);
void split_start(struct core_channel *c, struct bdev_io *io);
/* A part has come back from the module. */
void split_part_done(struct core_channel *c, struct bdev_io *io);
void split_remove(struct core_channel *c);
/* Those on `starved` that were submitted before begin no more parts, and end. */
void split_end(struct core_channel *c, int status, uint64_t before_ns);

/* The beginning of a part: `op` on as many blocks, from where the request stands; entries of its
 * list are in part->iov. */
void split_init_part(struct core_channel *c, struct part *part, struct bdev_io *request,
		     enum bdev_op op, uint64_t num_blocks, unsigned iovcnt);
/* Those that wait for a part or a buffer try again. */
void split_feed(struct core_channel *c);

/* ---- emulate.c ---- */

bool emulated(const struct bdev *bdev, const struct bdev_io *io);
/* An emulated request, in flight, that passed check_request(). */
void emulate_start(struct core_channel *c, struct bdev_io *io);
/* As split.c's fill(), for requests that are emulated by parts of another kind. */
bool emulate_fill(struct core_channel *c, struct part *part, struct bdev_io *request);
/* Such a part has come back. True: it was used again and is under way. */
bool emulate_part_done(struct core_channel *c, struct part *part, struct bdev_io *request);
/* All parts have come back and no error. True: a second phase begins. */
bool emulate_next_phase(struct core_channel *c, struct bdev_io *request);
/* A compare-and-write has come to its end, io->status: its range is let go, then it ends. */
void emulate_swap_ended(struct core_channel *c, struct bdev_io *io);
/* Compare-and-writes that wait for their turn; may be NULL. */
struct list *emulate_waiting(struct core_channel *c);
void emulate_remove(struct core_channel *c);
void emulate_release(struct core_channel *c);

/* ---- range_lock.c ---- */

bool range_holds_back(const struct core_channel *c, const struct bdev_io *io);
void range_track(struct core_channel *c, struct bdev_io *io);
void range_untrack(struct core_channel *c, struct bdev_io *io);
/* A request of c has come back: a lock may have waited for it. */
void range_attend(struct core_channel *c);
/* Answers what is held back. */
void range_cancel(struct core_channel *c, int status);
/* What is in force for the bdev is in force for c. */
void range_adopt(struct core_channel *c, struct bdev_core *core);

/* ---- abort.c ---- */

void abort_submit(struct core_channel *c, struct bdev_io *io);

/* ---- bounce.c ---- */

extern struct mem_pool bounce_pool;

int bounce_init(struct core_channel *c);
void bounce_release(struct core_channel *c);
/* Gives part a buffer and one entry for up to bytes of it. Bytes, 0: none is to be had now. */
size_t bounce_get(struct core_channel *c, struct part *part, size_t bytes);
void bounce_put(struct core_channel *c, struct part *part);
/* The same, and copies a write's data into it. Bytes, 0: none is to be
 * had now. */
size_t bounce_take(struct core_channel *c, struct part *part, const struct bdev_io *request,
		   size_t bytes);
/* Copies a read's data back where it succeeded, and gives the buffer back. */
void bounce_return(struct core_channel *c, struct part *part);

/* ---- md.c ---- */

/* Metadata and protection information are possible; changes what follows of them. */
int md_check(struct bdev *bdev, struct err *err);
int md_channel_init(struct core_channel *c);
void md_channel_release(struct core_channel *c);
/* Blocks that a part may have. */
uint64_t md_room(const struct bdev *bdev);
/* Before a part is issued: gives it its metadata. 0 or -EILSEQ. */
int md_part_issue(struct core_channel *c, struct part *part);
/* A part has come back: looks at what was read, changes its status. */
void md_part_done(struct core_channel *c, struct part *part);

/* ---- zone.c ---- */

/* Of a zoned bdev: 0 or -EINVAL. */
int zone_check(const struct bdev_channel *ch, const struct bdev_io *io);

/* ---- reset.c ---- */

void reset_submit(struct core_channel *c, struct bdev_io *io);
/* The module has answered a reset. */
void reset_module_done(struct core_channel *c, struct bdev_io *io);
/* c was told to say when it has nothing in flight any more. */
void reset_channel_drained(struct core_channel *c);

/* ---- qos.c ---- */

void qos_desc_init(struct bdev_desc *desc);
void qos_desc_release(struct bdev_desc *desc);
void qos_release(struct bdev_core *core);
void qos_channel_init(struct core_channel *c);
void qos_channel_release(struct core_channel *c);
/* The limits that the bdev has are those of c. */
void qos_adopt(struct core_channel *c, struct bdev_core *core);
/* In place of the module's submit: a direct request must pay first. */
void qos_submit(struct bdev_channel *ch, struct bdev_io *io);
/* True: it waits; else it has paid, if it has to. c has limits. */
bool qos_holds_back(struct core_channel *c, struct bdev_io *io);
/* It has paid, but must wait for something else, and will pay then. */
void qos_refund(struct core_channel *c, const struct bdev_io *io);
bool qos_waits(const struct core_channel *c, const struct bdev_io *io);
/* Ends what waits. */
void qos_cancel(struct core_channel *c, int status);

/* ---- stats.c ---- */

void stats_init(struct bdev_stats *stats);
/* The first `count` operations. */
void stats_add_ops(struct bdev_stats *to, const struct bdev_op_stats *op, unsigned count);
/* Before c leaves the list of channels: what it counted goes to core. */
void stats_close_channel(struct core_channel *c, struct bdev_core *core);
void stats_release(struct bdev_core *core);
void stats_count_error(struct core_channel *c, const struct bdev_io *io, int status);

/* ---- pass.c ---- */

/* The passes' counters are 0, and c's are right. */
void pass_settle(struct core_channel *c);

/* ---- histogram.c ---- */

/* The counters of one channel, or of those that are closed. */
struct histograms {
	uint64_t config; /* the core's, when it was made */
	uint64_t *tables[BDEV_OP_COUNT]; /* NULL: nothing to count yet */
};

void histogram_adopt(struct core_channel *c, struct bdev_core *core);
void histogram_count(struct histograms *h, enum bdev_op op, uint64_t ns);
/* Under core->closed_lock. */
void histogram_close_channel(struct core_channel *c, struct bdev_core *core);
void histogram_release(struct bdev_core *core);

/* ---- sampling.c ---- */

/* c->unsampled: a request came after a rest. */
void sampling_wake(struct core_channel *c);
void sampling_adopt(struct core_channel *c, struct bdev_core *core);
void sampling_release(struct bdev_core *core);

#endif
