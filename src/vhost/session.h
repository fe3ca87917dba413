/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One connection of a VMM. session.c: its life, messages in and out. message.c: what each message
 * does. ring.c: bringing virtqueues to the state that the messages ask for. Everything here belongs
 * to the control thread.
 */
#ifndef VHOST_SESSION_H
#define VHOST_SESSION_H

#include "event/thread.h"
#include "sock/unix.h"
#include "vhost/internal.h"
#include "vhost/state.h"
#include "virtio/vhost_msg.h"

#define SESSION_STATES(X) \
	X(OPEN, "open")     /* reads messages */ \
	X(BUSY, "busy")     /* a message waits for queues; none is read */ \
	X(ENDING, "ending") /* queues are being stopped */ \
	X(ENDED, "ended")   /* about to be freed */

enum session_state {
#define SESSION_STATE_ENUM(id, name) SESSION_##id,
	SESSION_STATES(SESSION_STATE_ENUM)
#undef SESSION_STATE_ENUM
};

#define RING_ANYWHERE UINT32_MAX

/* A virtqueue as the front end described it (in `saved`), and as it runs. */
struct ring {
	struct vhost_queue q;
	struct state_ring *saved;
	int kick_fd; /* -1: none */
	int call_fd; /* -1: none */
	unsigned place;
	unsigned target; /* where it starts next; RING_ANYWHERE: placement decides */
	unsigned origin; /* while it moves: where it ran, should it not start; else RING_ANYWHERE */
	/* rebalance.c: the work it had done when that looked last, and the period until which it stays where it is. */
	uint64_t work_seen;
	uint32_t stays_until;
	bool running; /* counted on a thread: from before START until after STOP, or START's failure */
	bool busy;    /* a command is under way */
	bool restart; /* while running: its kick descriptor or the features changed */
	bool remap;   /* while running: memory or its addresses changed */
	bool recall;  /* while running: its call descriptor changed */
};

#define SESSION_MAGIC 0x73657373u

struct vhost_session {
	uint32_t magic;
	enum session_state state;
	struct vhost_controller *ctrlr;
	struct thread *thread;
	struct state_session *saved;
	uint64_t offered; /* features, the same during the whole session */
	int fd;
	int backend_fd; /* -1: none */
	struct watch watch;
	bool hangup;    /* the peer will send nothing more */
	bool receiving; /* session_receive is on the stack */
	bool arriving;  /* no ring was started yet */
	bool more_queued;
	struct msg more_msg;
	struct msg end_msg;

	struct memmap *map;
	struct memmap *old_map; /* replaced; some queue may still use it */
	int old_fd;             /* replaced; the same. -1: none */

	struct ring **rings; /* saved->ring_count entries, NULL where never mentioned */
	unsigned ring_room;
	unsigned commands; /* under way */
	unsigned started;  /* rings that run */
	int failure;       /* of the commands since rings_settle: the first */
	void (*settled)(struct vhost_session *s, int status);

	struct vhost_user_msg msg; /* being handled; a handler makes its reply of it */
	struct unix_fds fds;       /* that came with it */
	struct err err;
};

/* ---- session.c ---- */

/* Takes fd in any case. 0 or a negative errno. vhost_controller_session_gone() is called when the
 * session has ended and all is given back. */
int session_start(struct vhost_controller *ctrlr, int fd, struct err *err);
void vhost_controller_session_gone(struct vhost_controller *ctrlr);

/*
 * How many descriptors must be free for one more connection to be accepted: those that a VM with one queue takes, and what the
 * sessions that are still arriving may ask for. Further queues are not reckoned with.
 */
unsigned session_descriptors_needed(void);

/* Stops all queues, then frees the session. Harmless when it is ending. why: for the log, NULL: say
 * nothing. */
void session_end(struct vhost_session *s, const char *why);

/* The message that message_handle() left waiting is done: answers it and reads on. */
void session_message_done(struct vhost_session *s, int status);

/* The back end's own channel: tells the front end that the configuration changed, if it asked for
 * that. */
void session_config_changed(struct vhost_session *s);

void session_get_info(const struct vhost_session *s, struct vhost_session_info *ret_info);

/* ---- message.c ---- */

#define MESSAGE_WAIT 1

/*
 * Does what s->msg asks. 0: done, s->msg is the reply where the type has one; a negative errno and
 * s->err: refused; MESSAGE_WAIT: session_message_done() comes later, perhaps before this returns.
 */
int message_handle(struct vhost_session *s);

/* True when a refusal that the front end did not ask to hear of leaves nothing broken: the session
 * goes on. */
bool message_refusal_is_harmless(uint32_t type);

/* ---- ring.c ---- */

/* The ring, made when it is first mentioned. NULL and s->err: index out of range, or no memory. */
struct ring *ring_get(struct vhost_session *s, uint32_t index);

/* True when the ring's addresses are set and the size is, and it is not all inside guest memory
 * with the right alignment. */
bool ring_misplaced(struct vhost_session *s, const struct ring *r);

/* Sets a flag (restart, remap) on all running rings. */
void rings_restart(struct vhost_session *s);
void rings_remap(struct vhost_session *s);

/*
 * Brings every ring to where it should be: started, stopped, on the present memory map, with its
 * present descriptors. Then settled(s, 0 or the first error), once; perhaps before this returns.
 * What was asked before is not answered any more.
 */
void rings_settle(struct vhost_session *s, void (*settled)(struct vhost_session *s, int status));

/*
 * Lets a running ring go on at another place (placement.h): it stops there, and starts here with the same state. The front end
 * and the guest notice nothing. False when it does not run, is being moved or changed, or is there already.
 */
bool ring_move(struct ring *r, unsigned place);

/* Closes what rings own and frees them; none runs. */
void rings_free(struct vhost_session *s);

#endif
