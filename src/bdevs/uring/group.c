/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One ring a thread. Requests of all its uring bdevs and queues gather during a turn and go to the kernel in one
 * io_uring_enter at its end. Completions are posted by that call, and by one more when the kernel says in the
 * shared ring that it has some to post (IORING_SQ_TASKRUN); while it has not, polling costs no system call.
 *
 * Invariants
 *  1. inflight <= URING_DEPTH <= entries of the completion ring: it never overflows.
 *  2. While something is prepared outside of a turn (the kernel was short of memory), the poller stays active and
 *     tries again; what waits, waits for a completion.
 *  3. The kernel signals event_fd only between arm and disarm; arm looks again after asking for signals.
 *
 * The ring belongs to the system thread that made it (IORING_SETUP_SINGLE_ISSUER). When the lightweight thread moves to
 * another reactor, what is in flight ends first, new requests wait, and a new ring is made there with the same files in
 * the same slots; where that fails, the thread goes back to the old one, which is kept until then.
 * Guest memory is never registered, files are.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/log.h"
#include "bdevs/uring/group.h"
#include "event/reactor.h"

static struct device groups;
static unsigned groups_refs;

int
uring_setup(struct io_uring *ring, unsigned sq_entries, unsigned cq_entries)
{
	/* Newest first: 6.1, 5.19, any. */
	static const unsigned flags[] = {
		IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG |
			IORING_SETUP_SUBMIT_ALL,
		IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_SUBMIT_ALL,
		0,
	};
	int rc = -EINVAL;

	for (size_t i = 0; i < ARRAY_SIZE(flags) && rc == -EINVAL; i++) {
		struct io_uring_params params = {.flags = flags[i] | IORING_SETUP_CQSIZE, .cq_entries = cq_entries};

		rc = io_uring_queue_init_params(sq_entries, ring, &params);
	}
	return rc;
}

/* ---- To the kernel ---- */

static void
prepare(struct uring_group *g, struct io_uring_sqe *sqe, struct uring_request *req)
{
	const struct bdev_io *io = req->file.io;
	const struct file_disk *d = req->file.disk;
	int fd = req->slot >= 0 ? req->slot : d->fd;
	uint64_t offset = file_io_offset(d, io);

	switch ((enum bdev_op)io->op) {
	case BDEV_READ:
		if (io->iovcnt == 1) {
			io_uring_prep_read(sqe, fd, io->iov->iov_base, (unsigned)io->iov->iov_len, offset);
		} else {
			io_uring_prep_readv(sqe, fd, io->iov, io->iovcnt, offset);
		}
		break;
	case BDEV_WRITE:
		if (io->iovcnt == 1) {
			io_uring_prep_write(sqe, fd, io->iov->iov_base, (unsigned)io->iov->iov_len, offset);
		} else {
			io_uring_prep_writev(sqe, fd, io->iov, io->iovcnt, offset);
		}
		sqe->rw_flags = (io->flags & BDEV_IO_FUA) != 0 ? RWF_DSYNC : 0;
		break;
	case BDEV_FLUSH:
		io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
		break;
	case BDEV_UNMAP:
		io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset,
					(off_t)file_io_bytes(d, io));
		break;
	case BDEV_WRITE_ZEROES:
	case BDEV_RESET:
	default:
		CHECK(!"never given to a ring");
	}
	if (req->slot >= 0) {
		sqe->flags |= IOSQE_FIXED_FILE;
	}
	io_uring_sqe_set_data(sqe, req);
}

static void
submit_prepared(struct uring_group *g)
{
	/* Posts completions that are due by the way. */
	int n = io_uring_submit_and_get_events(&g->ring);

	if (n > 0) {
		g->stats.enters++;
		g->stats.requests += (unsigned)n;
		g->stats.mixed += g->batch_mixed;
		g->prepared -= MIN(g->prepared, (unsigned)n);
	}
	if (g->prepared == 0) {
		g->batch_mixed = false;
		g->last_disk = NULL;
	}
}

static void
turn_end(struct defer *d)
{
	struct uring_group *g = CONTAINER_OF(d, struct uring_group, batch);

	g->batch_waiting = false;
	submit_prepared(g);
	if (g->prepared > 0 || io_uring_cq_ready(&g->ring) > 0) {
		poller_wake(&g->poller);
	} else if (g->expecting) {
		poller_expect(&g->poller);
	}
	g->expecting = false;
}

static void
want_submit(struct uring_group *g)
{
	if (!g->batch_waiting) {
		g->batch_waiting = true;
		thread_batch(&g->batch, turn_end);
	}
}

static bool
enqueue(struct uring_group *g, struct uring_request *req)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&g->ring);

	if (UNLIKELY(sqe == NULL)) {
		submit_prepared(g);
		sqe = io_uring_get_sqe(&g->ring);
		if (sqe == NULL) {
			return false;
		}
	}
	if (g->prepared > 0 && g->last_disk != req->file.disk) {
		g->batch_mixed = true;
	}
	g->last_disk = req->file.disk;
	prepare(g, sqe, req);
	g->expecting |= g->inflight == 0;
	g->prepared++;
	g->inflight++;
	want_submit(g);
	return true;
}

void
uring_group_submit(struct uring_group *g, struct uring_request *req)
{
	if (UNLIKELY(g->inflight >= URING_DEPTH || g->leaving || g->away || !list_empty(&g->waiting)) ||
	    UNLIKELY(!enqueue(g, req))) {
		list_append(&g->waiting, &req->file.job.link);
	}
}

static void
submit_waiting(struct uring_group *g)
{
	while (!list_empty(&g->waiting) && g->inflight < URING_DEPTH && !g->leaving && !g->away) {
		struct file_request *file = LIST_FIRST(&g->waiting, struct file_request, job.link);

		if (!enqueue(g, CONTAINER_OF(file, struct uring_request, file))) {
			return;
		}
		list_remove(&file->job.link);
	}
}

/* ---- From the kernel ---- */

static bool
kernel_has_work(const struct uring_group *g)
{
	return (IO_URING_READ_ONCE(*g->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

/* The ring's entries are given back before the answers, which may submit more. */
static int
reap(struct uring_group *g)
{
	struct { struct uring_request *req; int res; } answers[64];
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe(&g->ring, head, cqe)
	{
		if (n == ARRAY_SIZE(answers)) {
			break;
		}
		answers[n].req = io_uring_cqe_get_data(cqe);
		answers[n++].res = cqe->res;
	}
	io_uring_cq_advance(&g->ring, n);
	g->inflight -= n;
	for (unsigned i = 0; i < n; i++) {
		file_request_answer(&answers[i].req->file, answers[i].res);
	}
	return (int)n;
}

static void
leave_if_quiet(struct uring_group *g)
{
	if (g->inflight == 0) {
		g->leaving = false;
		g->away = true;
		/* An index of this system thread's table; another thread must not give it back. */
		(void)io_uring_unregister_ring_fd(&g->ring);
		channel_left(&g->channel);
	}
}

static int
group_poll(struct poller *p)
{
	struct uring_group *g = CONTAINER_OF(p, struct uring_group, poller);
	int n;

	if (g->inflight == 0) {
		return 0;
	}
	if (UNLIKELY(g->prepared > 0)) {
		want_submit(g);
	}
	if (kernel_has_work(g)) {
		g->stats.reaps++;
		(void)io_uring_get_events(&g->ring);
	}
	n = reap(g);
	if (UNLIKELY(!list_empty(&g->waiting))) {
		submit_waiting(g);
	}
	if (UNLIKELY(g->leaving)) {
		leave_if_quiet(g);
	}
	return n;
}

static bool
group_arm(struct poller *p)
{
	struct uring_group *g = CONTAINER_OF(p, struct uring_group, poller);

	(void)io_uring_cq_eventfd_toggle(&g->ring, true);
	/* Pairs with the kernel, which posts and then looks whether to signal. */
	atomic_thread_fence(memory_order_seq_cst);
	return g->prepared > 0 || kernel_has_work(g) || io_uring_cq_ready(&g->ring) > 0;
}

static void
group_disarm(struct poller *p)
{
	struct uring_group *g = CONTAINER_OF(p, struct uring_group, poller);

	(void)io_uring_cq_eventfd_toggle(&g->ring, false);
}

static const struct poller_ops group_poller = {
	.name = "uring",
	.poll = group_poll,
	.arm = group_arm,
	.disarm = group_disarm,
};

/* ---- Files ---- */

/* Spares each request a look-up with atomic counting; where it is not to be had, descriptors do. */
static void
register_table(struct uring_group *g)
{
	struct rlimit limit;

	g->files = URING_FILES_MAX;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < g->files) {
		g->files = (unsigned)limit.rlim_cur;
	}
	if (io_uring_register_files_sparse(&g->ring, g->files) != 0) {
		g->files = 0;
	}
	for (unsigned slot = 0; slot < g->files; slot++) {
		g->fds[slot] = -1;
	}
}

int
uring_group_add_file(struct uring_group *g, int fd)
{
	for (unsigned slot = 0; slot < g->files; slot++) {
		if (g->fds[slot] < 0) {
			if (io_uring_register_files_update(&g->ring, slot, &fd, 1) != 1) {
				return -1;
			}
			g->fds[slot] = fd;
			return (int)slot;
		}
	}
	return -1;
}

void
uring_group_remove_file(struct uring_group *g, int slot)
{
	int none = -1;

	if (slot >= 0) {
		(void)io_uring_register_files_update(&g->ring, (unsigned)slot, &none, 1);
		g->fds[slot] = -1;
	}
}

/* ---- The thread moves ---- */

static void
group_leave(struct device *dev, struct channel *ch)
{
	struct uring_group *g = CONTAINER_OF(ch, struct uring_group, channel);

	g->leaving = true;
	leave_if_quiet(g);
}

/* The same files in the same slots: requests that wait know theirs. */
static int
register_files_again(struct uring_group *g)
{
	int rc;

	if (g->files == 0) {
		return 0;
	}
	rc = io_uring_register_files_sparse(&g->ring, g->files);
	if (rc == 0) {
		rc = io_uring_register_files_update(&g->ring, 0, g->fds, g->files);
		rc = rc < 0 ? rc : rc == (int)g->files ? 0 : -ENOMEM;
	}
	return rc;
}

/* On the new system thread, in place of `old`. */
static int
make_ring_again(struct uring_group *g, struct io_uring *old)
{
	int rc = uring_setup(&g->ring, URING_SQ_ENTRIES, URING_DEPTH);

	if (rc == 0) {
		rc = io_uring_register_eventfd(&g->ring, g->event_fd);
		if (rc == 0) {
			rc = register_files_again(g);
		}
		if (rc != 0) {
			io_uring_queue_exit(&g->ring);
		}
	}
	if (rc != 0) {
		LOG_ERROR(URING, thread_name(thread_self()), "no ring on reactor %u: %s",
			  reactor_lcore(thread_reactor(thread_self())), strerror(-rc));
		g->ring = *old;
		return rc;
	}
	(void)io_uring_cq_eventfd_toggle(&g->ring, g->poller.state == POLLER_ARMED);
	io_uring_queue_exit(old);
	return 0;
}

static int
group_arrive(struct device *dev, struct channel *ch)
{
	struct uring_group *g = CONTAINER_OF(ch, struct uring_group, channel);
	struct reactor *here = thread_reactor(thread_self());
	struct io_uring old = g->ring;

	if (g->reactor != here) {
		int rc = make_ring_again(g, &old);

		if (rc != 0) {
			return rc;
		}
		g->reactor = here;
	}
	(void)io_uring_register_ring_fd(&g->ring);
	g->away = false;
	submit_waiting(g);
	return 0;
}

/* ---- Life ---- */

static int
start(struct uring_group *g)
{
	int rc = io_uring_register_eventfd(&g->ring, g->event_fd);

	if (rc == 0) {
		(void)io_uring_cq_eventfd_toggle(&g->ring, false);
		rc = poller_start(&g->poller, &group_poller, g->event_fd);
	}
	if (rc == 0) {
		register_table(g);
		(void)io_uring_register_ring_fd(&g->ring);
	}
	return rc;
}

static int
group_create(struct device *dev, struct channel *ch)
{
	struct uring_group *g = CONTAINER_OF(ch, struct uring_group, channel);
	int rc;

	list_init(&g->waiting);
	g->reactor = thread_reactor(thread_self());
	g->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->event_fd < 0) {
		return -errno;
	}
	rc = uring_setup(&g->ring, URING_SQ_ENTRIES, URING_DEPTH);
	if (rc == 0) {
		rc = start(g);
		if (rc != 0) {
			io_uring_queue_exit(&g->ring);
		}
	}
	if (rc != 0) {
		LOG_ERROR(URING, thread_name(thread_self()), "no ring: %s", strerror(-rc));
		close(g->event_fd);
	}
	return rc;
}

static void
group_destroy(struct device *dev, struct channel *ch)
{
	struct uring_group *g = CONTAINER_OF(ch, struct uring_group, channel);

	CHECK(g->inflight == 0 && list_empty(&g->waiting) && !g->batch_waiting);
	poller_stop(&g->poller);
	io_uring_queue_exit(&g->ring);
	close(g->event_fd);
}

static const struct device_ops group_ops = {
	.channel_create = group_create,
	.channel_destroy = group_destroy,
	.channel_leave = group_leave,
	.channel_arrive = group_arrive,
};

void
uring_groups_get(void)
{
	if (groups_refs++ == 0) {
		device_register(&groups, "uring", &group_ops, sizeof(struct uring_group));
	}
}

void
uring_groups_put(void)
{
	CHECK(groups_refs > 0);
	if (--groups_refs == 0) {
		device_unregister(&groups);
	}
}

struct uring_group *
uring_group_get(int *ret_rc)
{
	struct channel *ch = channel_get(&groups, ret_rc);

	return ch == NULL ? NULL : CONTAINER_OF(ch, struct uring_group, channel);
}

static void
find_group(void *ctx, const struct channel *ch)
{
	const struct channel **found = ctx;

	if (ch->dev == &groups) {
		*found = ch;
	}
}

void
bdev_uring_thread_stats(struct uring_stats *ret_stats)
{
	const struct channel *ch = NULL;

	channel_for_each_of_thread(find_group, &ch);
	*ret_stats = ch == NULL ? (struct uring_stats){0} : CONTAINER_OF(ch, const struct uring_group, channel)->stats;
}
