/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An iSCSI session as a lane. Commands are gathered during a turn and written at its end; what comes back is read when the
 * socket says so.
 *
 * Invariants
 *  1. libiscsi uses a request's list and buffers from iscsi_send() until command_done(), which comes once for each, and from
 *     inside iscsi_service() only, or when the session is closed.
 *  2. A session is never closed from inside iscsi_service(): what is found out there is noted, and acted on behind it.
 *  3. A request that is not to be ended is on the channel's flying or waiting list when control leaves this file. What was
 *     flying in a session that broke is remote's again, BREAKS_MAX times.
 *  4. A time-out runs only while something is flying; the head of the flying list is what has flown for longest.
 * Context: the lane's thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/log.h"
#include "bdevs/iscsi/internal.h"
#include "event/reactor.h"

#define PAUSE_US 10000
#define LOOK_ATTEMPTS_MAX 8

/* What WRITE SAME writes; never changed. libiscsi's lists have no const. */
static uint8_t zeroes[BDEV_BLOCK_SIZE_MAX];

static struct iscsi_lane *
lane_of(struct remote_channel *c)
{
	return (struct iscsi_lane *)(void *)c->lane;
}

static struct remote_channel *
channel_of(struct iscsi_lane *lane)
{
	return (struct remote_channel *)(void *)((uint8_t *)lane - offsetof(struct remote_channel, lane));
}

static struct iscsi_request *
request_of(struct remote_request *req)
{
	return CONTAINER_OF(req, struct iscsi_request, remote);
}

static void service(struct iscsi_lane *l, int events);
static void lost(struct iscsi_lane *l);

/* ---- The session's end ---- */

static void
close_session(struct iscsi_lane *l)
{
	if (l->context == NULL) {
		return;
	}
	l->stopping = true;
	l->ready = false;
	watch_stop(&l->watch);
	iscsi_destroy_context(l->context);
	l->context = NULL;
}

static void
set_broken(struct iscsi_lane *l, const char *why)
{
	l->ready = false;
	if (!l->broken) {
		l->broken = true;
		/* Its descriptor would be readable for ever. */
		watch_stop(&l->watch);
		remote_broken(channel_of(l), why);
	}
}

/* ---- Time-outs ---- */

static void overdue(struct timer *timer);

static void
time_next(struct iscsi_lane *l)
{
	struct remote_channel *c = channel_of(l);
	uint64_t timeout_ns = iscsi_disk_of(c->disk)->timeout_ns;
	uint64_t now = reactor_now_ns(), due;

	if (list_empty(&c->flying)) {
		timer_stop(&l->overdue);
		l->timed = false;
		return;
	}
	if (timeout_ns == 0 || l->timed) {
		return;
	}
	due = request_of(LIST_FIRST(&c->flying, struct remote_request, link))->sent_ns + timeout_ns;
	l->timed = timer_start(&l->overdue, due > now ? (due - now) / NS_PER_US + 1 : 1, overdue) == 0;
}

static void
overdue(struct timer *timer)
{
	struct iscsi_lane *l = CONTAINER_OF(timer, struct iscsi_lane, overdue);
	struct remote_channel *c = channel_of(l);
	uint64_t timeout_ns = iscsi_disk_of(c->disk)->timeout_ns, now = reactor_now_ns();
	struct remote_request *req, *next;

	l->timed = false;
	if (l->context == NULL) {
		return;
	}
	if (list_empty(&c->flying) ||
	    request_of(LIST_FIRST(&c->flying, struct remote_request, link))->sent_ns + timeout_ns > now) {
		time_next(l);
		return;
	}
	close_session(l);
	LIST_FOREACH_SAFE (req, next, &c->flying, link) {
		struct iscsi_request *r = request_of(req);

		if (r->sent_ns + timeout_ns <= now && ++r->late > 1) {
			remote_done(c, req, -ETIMEDOUT);
		}
	}
	set_broken(l, "the target did not answer in time");
}

static void
pause_ended(struct timer *timer)
{
	struct iscsi_lane *l = CONTAINER_OF(timer, struct iscsi_lane, pause);

	l->paused = false;
	remote_go_on(channel_of(l));
}

/* Nothing is sent for a while. */
static void
pause_lane(struct iscsi_lane *l)
{
	if (!l->paused) {
		l->paused = timer_start(&l->pause, PAUSE_US, pause_ended) == 0;
	}
}

/* ---- What comes back ---- */

static struct sbc_end
judge(int status, const struct scsi_task *task)
{
	bool sense = status == SCSI_STATUS_CHECK_CONDITION && task->datain.size > 2;

	return sbc_judge((uint8_t)status, sense ? task->datain.data + 2 : NULL, sense ? (size_t)task->datain.size - 2 : 0);
}

static bool
moves_data(const struct bdev_io *io)
{
	return io->op == BDEV_READ || io->op == BDEV_WRITE || io->op == BDEV_COMPARE_AND_WRITE;
}

/* The unit has done it; what there is to hand over besides. */
static int
succeeded(struct iscsi_request *r, const struct scsi_task *task)
{
	struct bdev_io *io = remote_io(&r->remote);

	if (moves_data(io) && task->residual_status != SCSI_RESIDUAL_NO_RESIDUAL && task->residual != 0) {
		return -EIO;
	}
	return 0;
}

/* A unit that does not say has data everywhere, for all we know. */
static void
block_status(struct iscsi_request *r, bool good, const struct scsi_task *task)
{
	struct bdev_io *io = remote_io(&r->remote);

	io->result = 0;
	if (good && task->datain.size > 0) {
		io->result = sbc_lba_status(task->datain.data, (size_t)task->datain.size, io->lba, io->num_blocks,
					     iscsi_disk_of(r->c->disk)->unit.zeroes, io->extents, io->max_results);
	}
	if (io->result == 0) {
		io->extents[0] = (struct bdev_extent){.num_blocks = io->num_blocks, .flags = BDEV_EXTENT_ALLOCATED};
		io->result = 1;
	}
}

static void
ended(struct iscsi_request *r, const struct sbc_end *e, const struct scsi_task *task)
{
	struct bdev_io *io = remote_io(&r->remote);
	int status = e->status;

	if (io->op == BDEV_BLOCK_STATUS) {
		block_status(r, status == 0, task);
		status = 0;
	} else if (status == 0) {
		status = succeeded(r, task);
		if (status == 0 && io->op == BDEV_WRITE_ZEROES && (io->flags & BDEV_IO_FUA) != 0 && !r->flushing) {
			r->flushing = true;
			remote_again(r->c, &r->remote);
			return;
		}
	} else if (io->op == BDEV_COMPARE_AND_WRITE && status == -EILSEQ) {
		io->result = e->offset == UINT64_MAX ? 0 : e->offset;
	}
	remote_done(r->c, &r->remote, status);
}

static void
again(struct iscsi_lane *l, struct iscsi_request *r, const struct sbc_end *e)
{
	bool later = e->verdict == SBC_LATER;

	if (++r->attempts >= ATTEMPTS_MAX) {
		/* -EBUSY and the like, but nothing that the core would take for its own. */
		remote_done(r->c, &r->remote, -EIO);
		return;
	}
	remote_again(r->c, &r->remote);
	if (later) {
		pause_lane(l);
	}
}

static void
command_done(struct iscsi_context *context, int status, void *data, void *arg)
{
	struct iscsi_request *r = arg;
	struct iscsi_lane *l = lane_of(r->c);
	struct scsi_task *task = data;
	struct sbc_end e;

	if (l->stopping) {
		scsi_free_scsi_task(task);
		return;
	}
	if (status < 0 || status > UINT8_MAX || l->submitting) {
		/* The connection is lost: it flies on, in the next. */
		scsi_free_scsi_task(task);
		set_broken(l, "the target hung up");
		return;
	}
	e = judge(status, task);
	if (e.resized) {
		remote_lane_news(r->c);
	}
	switch (e.verdict) {
	case SBC_ENDED:
		ended(r, &e, task);
		break;
	case SBC_GONE:
		set_broken(l, "the target has no such logical unit any more");
		break;
	default:
		again(l, r, &e);
		break;
	}
	scsi_free_scsi_task(task);
}

/* ---- The socket ---- */

static void
has_events(struct watch *w, uint32_t events)
{
	service(CONTAINER_OF(w, struct iscsi_lane, watch), (int)events);
}

/* Watches for what the session wants now. */
static int
follow_events(struct iscsi_lane *l)
{
	uint32_t events = (uint32_t)iscsi_which_events(l->context);
	int rc = 0;

	if (events != l->events) {
		l->events = events;
		rc = watch_modify(&l->watch, events);
	}
	return rc;
}

static void
service(struct iscsi_lane *l, int events)
{
	struct remote_channel *c = channel_of(l);
	int rc;

	if (l->context == NULL || l->broken) {
		return;
	}
	rc = iscsi_service(l->context, events);
	if (rc == 0 && !l->broken && !l->refused) {
		rc = follow_events(l);
	}
	if (rc != 0) {
		lost(l);
	}
	remote_go_on(c);
	if (!l->broken && !l->refused) {
		time_next(l);
	}
}

static void
turn_end(struct defer *d)
{
	struct iscsi_turn *turn = CONTAINER_OF(d, struct iscsi_turn, defer);
	struct iscsi_lane *l = turn->lane;

	turn->waiting = false;
	if (l == NULL) {
		free(turn);
	} else if (l->refused) {
		LOG_NOTICE(BDEV, channel_of(l)->disk->name, "no session for thread %s, which shares one: %s",
			   thread_name(thread_self()), iscsi_login_why(&l->login));
		remote_refused(channel_of(l));
	} else if (l->ready) {
		service(l, EPOLLOUT);
	}
}

static void
at_turn_end(struct iscsi_lane *l)
{
	if (!l->turn->waiting) {
		l->turn->waiting = true;
		thread_batch(&l->turn->defer, turn_end);
	}
}

/* The target does not take the session: what it was for goes over another's. */
static void
refuse(struct iscsi_lane *l)
{
	l->ready = false;
	l->refused = true;
	timer_stop(&l->overdue);
	watch_stop(&l->watch);
	at_turn_end(l);
}

static void
lost(struct iscsi_lane *l)
{
	if (l->login.done != NULL && !l->login.ended) {
		refuse(l);
	} else {
		set_broken(l, "the target hung up");
	}
}

/* ---- To the target ---- */

struct command {
	uint8_t cdb[SBC_CDB_BYTES];
	int cdb_bytes;
	int direction;
	int bytes; /* that move */
	int entries;
};

static int
add_list(struct iscsi_request *r, int at, const struct iovec *iov, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		r->iov[at + (int)i] = (struct scsi_iovec){iov[i].iov_base, iov[i].iov_len};
	}
	return at + (int)count;
}

static void
fill_data(struct iscsi_request *r, const struct bdev_io *io, struct command *cmd)
{
	uint8_t fua = (io->flags & BDEV_IO_FUA) != 0 && io->op != BDEV_READ ? SBC_FUA : 0;

	cmd->bytes = (int)(io->num_blocks << io->ch->block_size_shift);
	cmd->entries = add_list(r, 0, io->iov, io->iovcnt);
	cmd->direction = io->op == BDEV_READ ? SCSI_XFER_READ : SCSI_XFER_WRITE;
	if (io->op == BDEV_COMPARE_AND_WRITE) {
		sbc_cdb_compare_and_write(cmd->cdb, fua, io->lba, (uint8_t)io->num_blocks);
		cmd->entries = add_list(r, cmd->entries, io->write_iov, io->write_iovcnt);
		cmd->bytes *= 2;
	} else {
		sbc_cdb_16(cmd->cdb, io->op == BDEV_READ ? SBC_READ_16 : SBC_WRITE_16, fua, io->lba,
			    (uint32_t)io->num_blocks);
	}
}

static void
fill_zeroes(struct iscsi_request *r, const struct bdev_io *io, struct command *cmd)
{
	const struct sbc_unit *unit = &iscsi_disk_of(r->c->disk)->unit;
	bool unmap = (io->flags & BDEV_IO_MAY_UNMAP) != 0 && unit->write_same_unmap && unit->zeroes;

	sbc_cdb_16(cmd->cdb, SBC_WRITE_SAME_16, unmap ? SBC_WRITE_SAME_UNMAP : 0, io->lba, (uint32_t)io->num_blocks);
	r->iov[0] = (struct scsi_iovec){zeroes, 1u << io->ch->block_size_shift};
	cmd->entries = 1;
	cmd->bytes = 1 << io->ch->block_size_shift;
	cmd->direction = SCSI_XFER_WRITE;
}

static void
fill(struct iscsi_request *r, const struct bdev_io *io, struct command *cmd)
{
	*cmd = (struct command){.cdb_bytes = SBC_CDB_BYTES, .direction = SCSI_XFER_NONE};
	switch ((enum bdev_op)io->op) {
	case BDEV_FLUSH:
		sbc_cdb_16(cmd->cdb, SBC_SYNCHRONIZE_CACHE_16, 0, 0, 0);
		break;
	case BDEV_UNMAP:
		sbc_cdb_unmap(cmd->cdb, SBC_UNMAP_LIST_BYTES);
		sbc_unmap_list(r->unmap, io->lba, (uint32_t)io->num_blocks);
		r->iov[0] = (struct scsi_iovec){r->unmap, SBC_UNMAP_LIST_BYTES};
		cmd->cdb_bytes = 10;
		cmd->entries = 1;
		cmd->bytes = SBC_UNMAP_LIST_BYTES;
		cmd->direction = SCSI_XFER_WRITE;
		break;
	case BDEV_WRITE_ZEROES:
		if (r->flushing) {
			sbc_cdb_16(cmd->cdb, SBC_SYNCHRONIZE_CACHE_16, 0, 0, 0);
		} else {
			fill_zeroes(r, io, cmd);
		}
		break;
	case BDEV_BLOCK_STATUS:
		cmd->bytes = (int)SBC_LBA_STATUS_BYTES(MIN(io->max_results, (uint32_t)LBA_STATUS_MAX));
		sbc_cdb_16(cmd->cdb, SBC_SERVICE_ACTION_IN_16, SBC_SA_GET_LBA_STATUS, io->lba, (uint32_t)cmd->bytes);
		cmd->direction = SCSI_XFER_READ;
		break;
	default:
		fill_data(r, io, cmd);
		break;
	}
}

/* 0 or -ENOMEM. */
static int
start(struct iscsi_lane *l, struct iscsi_request *r, const struct command *cmd)
{
	uint8_t cdb[SBC_CDB_BYTES];
	struct scsi_task *task;
	int rc;

	memcpy(cdb, cmd->cdb, sizeof(cdb));
	task = scsi_create_task(cmd->cdb_bytes, cdb, cmd->direction, cmd->bytes);
	if (task == NULL) {
		return -ENOMEM;
	}
	if (cmd->entries > 0 && cmd->direction == SCSI_XFER_READ) {
		scsi_task_set_iov_in(task, r->iov, cmd->entries);
	} else if (cmd->entries > 0) {
		scsi_task_set_iov_out(task, r->iov, cmd->entries);
	}
	l->submitting = true;
	rc = iscsi_scsi_command_async(l->context, l->login.lun, task, command_done, NULL, r);
	l->submitting = false;
	if (rc != 0) {
		scsi_free_scsi_task(task);
	}
	return rc != 0 ? -ENOMEM : 0;
}

bool
iscsi_send(struct remote_channel *c, struct remote_request *req)
{
	struct iscsi_request *r = request_of(req);
	struct iscsi_lane *l = lane_of(c);
	struct command cmd;

	if (UNLIKELY(!l->ready || l->paused)) {
		return false; /* what changes that sends what waits, or breaks the session */
	}
	r->c = c;
	r->sent_ns = reactor_now_ns();
	fill(r, remote_io(req), &cmd);
	if (UNLIKELY(start(l, r, &cmd) != 0)) {
		pause_lane(l);
		if (!l->paused) {
			set_broken(l, "out of memory");
		}
		return false;
	}
	at_turn_end(l);
	return true;
}

void
iscsi_submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct iscsi_request *r = bdev_io_ctx(io);

	r->attempts = r->breaks = r->late = 0;
	r->flushing = false;
	remote_submit(ch, io);
}

/* ---- The size ---- */

static void look_again(struct iscsi_disk *disk);

static void
looked(struct iscsi_context *context, int status, void *data, void *arg)
{
	struct iscsi_disk *disk = arg;
	struct scsi_task *task = data;
	struct iscsi_lane *l = lane_of(disk->remote.home);
	struct sbc_end e = {.verdict = SBC_GONE};
	struct sbc_unit unit = {0};
	struct err err = ERR_NONE;

	disk->looking = false;
	if (!l->stopping && status >= 0 && status <= UINT8_MAX) {
		e = judge(status, task);
	}
	if (e.verdict == SBC_ENDED && e.status == 0 &&
	    sbc_unit_capacity(&unit, task->datain.data, task->datain.size > 0 ? (size_t)task->datain.size : 0, &err) == 0 &&
	    unit.block_size == disk->unit.block_size) {
		CONTAINER_OF(disk->remote.link, struct iscsi_link, remote)->unit.num_blocks = unit.num_blocks;
		remote_sized(&disk->remote);
	} else if (e.verdict == SBC_ENDED) {
		LOG_ERROR(BDEV, disk->remote.name, "the target does not say how large it is now: %s",
			  err.code != 0 ? err_text(&err) : "the answer is an error, or of another block size");
	} else if (e.verdict != SBC_GONE && ++disk->look_attempts < LOOK_ATTEMPTS_MAX) {
		disk->look_again = true;
	}
	scsi_free_scsi_task(task);
	if (disk->look_again && !l->stopping) {
		look_again(disk);
	}
}

static void
look_again(struct iscsi_disk *disk)
{
	struct iscsi_lane *l = lane_of(disk->remote.home);
	uint8_t cdb[SBC_CDB_BYTES];
	struct scsi_task *task;

	disk->look_again = false;
	sbc_cdb_16(cdb, SBC_SERVICE_ACTION_IN_16, SBC_SA_READ_CAPACITY_16, 0, 32);
	task = l->ready ? scsi_create_task(SBC_CDB_BYTES, cdb, SCSI_XFER_READ, 32) : NULL;
	if (task == NULL) {
		return; /* it is looked at when the connection is made again */
	}
	if (iscsi_scsi_command_async(l->context, l->login.lun, task, looked, NULL, disk) != 0) {
		scsi_free_scsi_task(task);
		return;
	}
	disk->looking = true;
	at_turn_end(l);
}

void
iscsi_look(struct remote_disk *remote)
{
	struct iscsi_disk *disk = iscsi_disk_of(remote);

	disk->look_again = disk->looking;
	if (!disk->looking) {
		disk->look_attempts = 0;
		look_again(disk);
	}
}

/* ---- Life ---- */

static void
login_done(struct iscsi_login *login)
{
	struct iscsi_lane *l = CONTAINER_OF(login, struct iscsi_lane, login);

	if (l->stopping) {
		return;
	}
	timer_stop(&l->overdue);
	if (login->good) {
		if (login->resized) {
			remote_lane_news(channel_of(l));
		}
		l->ready = true; /* what waits is sent when this returns to service() */
	} else {
		refuse(l);
	}
}

static void
login_late(struct timer *timer)
{
	refuse(CONTAINER_OF(timer, struct iscsi_lane, overdue));
}

/* A session of its own. 0 or -errno. */
static int
log_in(struct iscsi_lane *l, struct remote_channel *c)
{
	struct iscsi_link *link = CONTAINER_OF(c->link, struct iscsi_link, remote);
	struct iscsi_disk *disk = iscsi_disk_of(c->disk);
	struct err err = ERR_NONE;
	int rc;

	l->context = iscsi_session_create(disk, c->index, &err);
	if (l->context == NULL) {
		return err.code;
	}
	l->login = (struct iscsi_login){.done = login_done};
	rc = iscsi_login_start(&l->login, l->context, link->portal, (int)disk->address->lun);
	if (rc == 0) {
		rc = timer_start(&l->overdue, (uint64_t)c->disk->options.connect_ms * (NS_PER_MS / NS_PER_US), login_late);
	}
	return rc;
}

static void
leave_turn(struct iscsi_lane *l)
{
	l->turn->lane = NULL;
	if (!l->turn->waiting) {
		free(l->turn);
	}
	l->turn = NULL;
}

int
iscsi_lane_start(struct remote_channel *c)
{
	struct iscsi_link *link = CONTAINER_OF(c->link, struct iscsi_link, remote);
	struct iscsi_disk *disk = iscsi_disk_of(c->disk);
	struct iscsi_lane *l = lane_of(c);
	int rc = 0;

	l->ready = l->stopping = l->broken = l->refused = l->paused = l->timed = false;
	l->turn = calloc(1, sizeof(*l->turn));
	if (l->turn == NULL) {
		return -ENOMEM;
	}
	l->turn->lane = l;
	if (c->index == 0 && link->first != NULL) {
		l->context = link->first;
		link->first = NULL;
		l->login = (struct iscsi_login){.lun = (int)disk->address->lun};
		l->ready = true;
	} else {
		rc = log_in(l, c);
	}
	if (rc == 0) {
		l->events = (uint32_t)iscsi_which_events(l->context);
		rc = watch_start(&l->watch, iscsi_get_fd(l->context), l->events, has_events);
	}
	if (rc != 0) {
		timer_stop(&l->overdue);
		close_session(l);
		leave_turn(l);
		return rc;
	}
	atomic_fetch_add(&disk->sessions, 1);
	return 0;
}

/* Tells the target, when it is there to be told. */
static void
say_goodbye(struct iscsi_lane *l)
{
	if (l->context != NULL && l->ready && !l->broken && list_empty(&channel_of(l)->flying) &&
	    iscsi_logout_async(l->context, NULL, NULL) == 0) {
		iscsi_service(l->context, EPOLLOUT);
	}
}

void
iscsi_lane_stop(struct remote_channel *c)
{
	struct iscsi_lane *l = lane_of(c);
	struct remote_request *req, *next;

	l->stopping = true;
	say_goodbye(l);
	close_session(l);
	leave_turn(l);
	timer_stop(&l->overdue);
	timer_stop(&l->pause);
	atomic_fetch_sub(&iscsi_disk_of(c->disk)->sessions, 1);
	LIST_FOREACH_SAFE (req, next, &c->flying, link) {
		request_of(req)->flushing = false;
		if (++request_of(req)->breaks >= BREAKS_MAX) {
			remote_done(c, req, -EIO);
		}
	}
}
