/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of bdevs/iscsi; never leaves it. */
#ifndef BDEVS_ISCSI_INTERNAL_H
#define BDEVS_ISCSI_INTERNAL_H

#include <stdatomic.h>
/* libiscsi's headers want stdint.h first. */
#include <stdint.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

#include "bdevs/iscsi/address.h"
#include "bdevs/iscsi/iscsi.h"
#include "bdevs/iscsi/sbc.h"
#include "bdevs/remote/remote.h"

/* Longer lists are cut before they come here. Compare-and-write has two in one. */
#define LIST_MAX 32
#define ROOM_LIST (2 * LIST_MAX)
#define LBA_STATUS_MAX 64
/* A request that was under way whenever a session broke is what breaks them: guest memory that is not there any more. */
#define BREAKS_MAX 8
#define ATTEMPTS_MAX 64
#define PORTAL_BYTES 320

struct iscsi_disk {
	struct remote_disk remote;
	struct iscsi_address *address;
	char *initiator_iqn;
	char *secret_file;
	uint64_t timeout_ns; /* 0: none */
	uint32_t isid;       /* 24 bits: with the lane's number, one name for each session */
	atomic_uint sessions;
	bool looking;
	bool look_again;
	unsigned look_attempts;
	/* Of the connection that is, or was last; the bdev was described by it. */
	struct sbc_unit unit;
};

/* ---- login.c (a worker, or the lane's thread) ---- */

/* Connecting, logging in, and what the unit has to say before it takes commands. */
struct iscsi_login {
	struct iscsi_context *context;
	int lun;
	unsigned attentions, redirects, redirects_max;
	bool ended;
	bool good;
	bool resized; /* the unit said so */
	char why[ISCSI_TEXT_BYTES]; /* not good: in words, without secrets */
	void (*done)(struct iscsi_login *l); /* once, not from inside iscsi_login_start(); may be NULL */
};

/* A session of the disk that is not connected: lane's name is its own. NULL: out of memory. */
struct iscsi_context *iscsi_session_create(const struct iscsi_disk *disk, unsigned lane, struct err *err);
/* portal: of numbers only, so that nothing blocks. 0 or -errno. */
int iscsi_login_start(struct iscsi_login *l, struct iscsi_context *context, const char *portal, int lun);
/* Why it did not end well. */
const char *iscsi_login_why(const struct iscsi_login *l);

/* ---- connect.c (a worker) ---- */

struct iscsi_link {
	struct remote_link remote;
	struct sbc_unit unit;
	char portal[PORTAL_BYTES];    /* where the login ended */
	struct iscsi_context *first; /* logged in, for the first lane; NULL: it has it */
};

int iscsi_link_make(const struct iscsi_disk *disk, struct iscsi_link **ret_link, struct err *err);
/* Accepts NULL. */
void iscsi_link_free(struct iscsi_link *link);

/* ---- lane.c (the lane's thread) ---- */

struct iscsi_request {
	struct remote_request remote;
	struct remote_channel *c; /* whose lane has it */
	uint64_t sent_ns;
	uint8_t attempts; /* that the unit has refused for a while */
	uint8_t breaks;   /* sessions that ended while they had it */
	uint8_t late;     /* how often it was not answered in time */
	bool flushing;    /* WRITE SAME, which knows no FUA, is done */
	uint8_t unmap[SBC_UNMAP_LIST_BYTES];
	struct scsi_iovec iov[ROOM_LIST];
};

/* The end of a turn of a lane, which may be gone by then. */
struct iscsi_turn {
	struct defer defer;
	struct iscsi_lane *lane; /* NULL: gone */
	bool waiting;
};

/* A session, on the thread that uses it. */
struct iscsi_lane {
	struct iscsi_context *context; /* NULL: closed */
	struct iscsi_login login;
	struct watch watch;
	uint32_t events;
	struct timer overdue;
	struct timer pause;
	struct iscsi_turn *turn;
	bool ready;    /* logged in */
	bool stopping; /* what ends now, ends because we end it */
	bool broken;
	bool refused;
	bool submitting;
	bool timed; /* overdue runs */
	bool paused;
};

int iscsi_lane_start(struct remote_channel *c);
void iscsi_lane_stop(struct remote_channel *c);
bool iscsi_send(struct remote_channel *c, struct remote_request *req);
void iscsi_submit(struct bdev_channel *ch, struct bdev_io *io);
/* The app thread: reads the capacity over its lane. */
void iscsi_look(struct remote_disk *disk);

static inline struct iscsi_disk *
iscsi_disk_of(struct remote_disk *remote)
{
	return CONTAINER_OF(remote, struct iscsi_disk, remote);
}

#endif
