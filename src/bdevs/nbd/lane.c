/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An NBD connection as a lane: libnbd's asynchronous calls, its descriptor as a poller's.
 *
 * Invariants
 *  1. A request is flying from nbd_send() until finish_ended(): its buffer is the lane's until then, or until the connection is
 *     closed, after which libnbd does not touch it.
 *  2. No call to libnbd is made from inside one of its callbacks: these only note what has ended.
 *  3. What ended because the connection did stays flying, to be sent again over the next.
 *  4. Readable: the poller is armed when there is nothing to read, so that what comes is an edge of the descriptor.
 *     Writable: only while the socket took less than there was, watched on a copy of the descriptor.
 * Context: the lane's thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/iov.h"
#include "bdevs/nbd/extents.h"
#include "bdevs/nbd/internal.h"

/* 32 MiB each. */
static struct mem_pool small_pool = MEM_POOL_INIT(NBD_SMALL_BYTES, NBD_SMALL_BYTES, 8192);
static struct mem_pool large_pool = MEM_POOL_INIT(NBD_LARGE_BYTES, NBD_SMALL_BYTES, 128);

static struct nbd_lane *
lane_of(struct remote_channel *c)
{
	return (struct nbd_lane *)(void *)c->lane;
}

static struct remote_channel *
channel_of(struct nbd_lane *lane)
{
	return (struct remote_channel *)(void *)((uint8_t *)lane - offsetof(struct remote_channel, lane));
}

static struct nbd_request *
request_of(struct remote_request *req)
{
	return CONTAINER_OF(req, struct nbd_request, remote);
}

/* ---- Buffers ---- */

static bool
take_buffer(struct nbd_lane *l, size_t bytes, struct iovec *iov)
{
	*iov = (struct iovec){.iov_len = bytes};
	if (bytes == 0) {
		return true;
	}
	iov->iov_base = mem_cache_get(bytes <= NBD_SMALL_BYTES ? &l->small : &l->large);
	if (iov->iov_base == NULL && !l->reserve_used) {
		l->reserve_used = true;
		iov->iov_base = l->reserve;
	}
	return iov->iov_base != NULL;
}

static void
give_buffer(struct nbd_lane *l, struct iovec *iov)
{
	if (iov->iov_len == 0) {
		return;
	}
	if (iov->iov_base == l->reserve) {
		l->reserve_used = false;
	} else {
		mem_cache_put(iov->iov_len <= NBD_SMALL_BYTES ? &l->small : &l->large, iov->iov_base);
	}
	*iov = (struct iovec){0};
}

/* ---- What has ended ---- */

static int
status_of(int error)
{
	/* These two mean something else to who asked. */
	return error == ENOMEM || error == EAGAIN ? -EIO : -error;
}

static void
finish(struct nbd_lane *l, struct nbd_request *req)
{
	struct bdev_io *io = remote_io(&req->remote);
	int status = status_of(req->error);

	if (io->op == BDEV_READ && status == 0) {
		iov_from_buf(io->iov, io->iovcnt, 0, req->iov.iov_base, req->iov.iov_len);
	}
	if (io->op == BDEV_BLOCK_STATUS) {
		status = status == 0 && req->extents == 0 ? -EIO : status;
		io->result = req->extents;
	}
	give_buffer(l, &req->iov);
	remote_done(channel_of(l), &req->remote, status);
}

static void
set_broken(struct nbd_lane *l, const char *why)
{
	if (!l->broken) {
		l->broken = true;
		remote_broken(channel_of(l), why);
	}
}

/* How many. */
static int
finish_ended(struct nbd_lane *l)
{
	struct nbd_request *req = l->ended, *oldest_first = NULL, *next;
	int count = 0;

	l->ended = NULL;
	for (; req != NULL; req = next) {
		next = req->next;
		req->next = oldest_first;
		oldest_first = req;
	}
	for (req = oldest_first; req != NULL; req = next) {
		next = req->next;
		if (req->error == ESHUTDOWN) {
			set_broken(l, "the server is shutting down");
		}
		if (req->error != 0 && l->broken) {
			continue; /* it is flying still */
		}
		finish(l, req);
		count++;
	}
	return count;
}

static void
finish_later(struct defer *d)
{
	struct nbd_lane *l = CONTAINER_OF(d, struct nbd_lane, defer);

	l->deferred = false;
	if (l->handle != NULL) {
		(void)finish_ended(l);
		remote_go_on(channel_of(l));
	}
}

/* libnbd's: from inside any of its calls. */
static int
has_ended(void *user_data, int *error)
{
	struct nbd_request *req = user_data;

	req->error = *error;
	req->next = req->lane->ended;
	req->lane->ended = req;
	return 1; /* libnbd may forget it */
}

static int
has_extents(void *user_data, const char *context, uint64_t offset, uint32_t *entries, size_t count, int *error)
{
	struct nbd_request *req = user_data;
	struct bdev_io *io = remote_io(&req->remote);

	if (*error == 0 && req->extents == 0) {
		req->extents = nbd_extents(entries, count, 1u << io->ch->block_size_shift, io->num_blocks, io->extents,
					   io->max_results);
	}
	return 0;
}

/* ---- The socket ---- */

static void wants_write(struct watch *w, uint32_t events);

static void
unblock(struct nbd_lane *l)
{
	if (l->blocked) {
		l->blocked = false;
		watch_stop(&l->writable);
		close(l->writable.fd);
	}
}

/* After calls to libnbd: has the socket watched as it wants, and sees the end of the connection. */
static void
look_at_socket(struct nbd_lane *l)
{
	unsigned direction = nbd_aio_get_direction(l->handle);
	int fd;

	if (direction == 0) {
		set_broken(l, "the server hung up");
	}
	if ((direction & LIBNBD_AIO_DIRECTION_WRITE) == 0 || l->broken) {
		unblock(l);
		return;
	}
	if (l->blocked) {
		return;
	}
	fd = fcntl(nbd_aio_get_fd(l->handle), F_DUPFD_CLOEXEC, 0);
	if (fd < 0 || watch_start(&l->writable, fd, EPOLLOUT, wants_write) != 0) {
		if (fd >= 0) {
			close(fd);
		}
		set_broken(l, "no descriptor to wait for its socket");
		return;
	}
	l->blocked = true;
}

static int
harvest(struct nbd_lane *l)
{
	int count;

	look_at_socket(l);
	count = finish_ended(l);
	remote_go_on(channel_of(l));
	return count;
}

static void
wants_write(struct watch *w, uint32_t events)
{
	struct nbd_lane *l = CONTAINER_OF(w, struct nbd_lane, writable);

	if ((nbd_aio_get_direction(l->handle) & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
		(void)nbd_aio_notify_write(l->handle);
	}
	(void)harvest(l);
}

static bool
readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

/* While nothing is flying. What the server sends unasked (TLS renews its keys) is left for when something is. */
static bool
hung_up(int fd)
{
	char byte;
	ssize_t n = recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	return n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR);
}

/*
 * libnbd believes who calls that there is something to read; told so wrongly it does not send until there is. With TLS there
 * may be more in its own buffers than the socket tells of: it is asked as long as that ends requests.
 */
static int
receive(struct nbd_lane *l)
{
	struct list *flying = &channel_of(l)->flying;
	int count = 0, n;

	do {
		if ((nbd_aio_get_direction(l->handle) & LIBNBD_AIO_DIRECTION_READ) == 0) {
			break;
		}
		(void)nbd_aio_notify_read(l->handle);
		n = harvest(l);
		count += n;
	} while (l->tls && n > 0 && !list_empty(flying) && !l->broken);
	return count;
}

static int
lane_poll(struct poller *p)
{
	struct nbd_lane *l = CONTAINER_OF(p, struct nbd_lane, poller);
	bool look = l->look;

	l->look = false;
	if (l->broken) {
		return 0;
	}
	if (!list_empty(&channel_of(l)->flying)) {
		return readable(p->fd) ? receive(l) : 0;
	}
	if (look && hung_up(p->fd)) {
		set_broken(l, "the server hung up");
	}
	return 0;
}

static bool
lane_arm(struct poller *p)
{
	struct nbd_lane *l = CONTAINER_OF(p, struct nbd_lane, poller);
	bool idle = list_empty(&channel_of(l)->flying);

	l->look = !l->broken && (idle ? hung_up(p->fd) : readable(p->fd));
	return l->look;
}

static void
lane_disarm(struct poller *p)
{
	CONTAINER_OF(p, struct nbd_lane, poller)->look = true;
}

static void
lane_describe(const struct poller *p, char *text, size_t size)
{
	const struct remote_channel *c = channel_of(CONTAINER_OF(p, struct nbd_lane, poller));

	snprintf(text, size, "%s connection %u", c->disk->name, c->index);
}

static const struct poller_ops lane_poller = {
	.name = "nbd_bdev",
	.poll = lane_poll,
	.arm = lane_arm,
	.disarm = lane_disarm,
	.describe = lane_describe,
};

/* ---- Requests ---- */

/* libnbd's cookie, or -1. */
static int64_t
give(struct nbd_lane *l, struct nbd_request *req, const struct bdev_io *io)
{
	nbd_completion_callback done = {.callback = has_ended, .user_data = req};
	nbd_extent_callback extents = {.callback = has_extents, .user_data = req};
	uint64_t offset = io->lba << io->ch->block_size_shift, bytes = io->num_blocks << io->ch->block_size_shift;
	uint32_t fua = (io->flags & BDEV_IO_FUA) != 0 ? LIBNBD_CMD_FLAG_FUA : 0;

	switch ((enum bdev_op)io->op) {
	case BDEV_READ:
		return nbd_aio_pread(l->handle, req->iov.iov_base, bytes, offset, done, 0);
	case BDEV_WRITE:
		iov_to_buf(io->iov, io->iovcnt, 0, req->iov.iov_base, bytes);
		return nbd_aio_pwrite(l->handle, req->iov.iov_base, bytes, offset, done, fua);
	case BDEV_FLUSH:
		return nbd_aio_flush(l->handle, done, 0);
	case BDEV_UNMAP:
		return nbd_aio_trim(l->handle, bytes, offset, done, 0);
	case BDEV_WRITE_ZEROES:
		return nbd_aio_zero(l->handle, bytes, offset, done,
				    fua | ((io->flags & BDEV_IO_MAY_UNMAP) == 0 ? LIBNBD_CMD_FLAG_NO_HOLE : 0));
	default:
		return nbd_aio_block_status(l->handle, MIN(bytes, (uint64_t)NBD_RANGE_BYTES), offset, extents, done, 0);
	}
}

/* libnbd did not take it. */
static void
refused(struct nbd_lane *l, struct nbd_request *req)
{
	int error = nbd_get_errno();

	if (nbd_aio_get_direction(l->handle) == 0) {
		set_broken(l, "the server hung up");
		return; /* flying, to be sent again */
	}
	req->error = error != 0 ? error : EIO;
	req->next = l->ended;
	l->ended = req;
}

bool
nbd_send(struct remote_channel *c, struct remote_request *remote)
{
	struct nbd_lane *l = lane_of(c);
	struct nbd_request *req = request_of(remote);
	const struct bdev_io *io = remote_io(remote);
	bool moves = io->op == BDEV_READ || io->op == BDEV_WRITE;

	if (!take_buffer(l, moves ? io->num_blocks << io->ch->block_size_shift : 0, &req->iov)) {
		return false;
	}
	req->lane = l;
	req->extents = 0;
	req->error = 0;
	if (!l->broken && give(l, req, io) < 0) {
		refused(l, req);
	}
	if (list_empty(&c->flying)) {
		poller_expect(&l->poller);
	}
	if (!l->broken) {
		look_at_socket(l);
	}
	if (l->ended != NULL && !l->deferred) {
		l->deferred = true;
		thread_defer(&l->defer, finish_later);
	}
	return true;
}

/* ---- Life ---- */

int
nbd_lane_start(struct remote_channel *c)
{
	struct nbd_link *link = CONTAINER_OF(c->link, struct nbd_link, remote);
	struct nbd_lane *l = lane_of(c);
	struct nbd_handle *handle = link->handles[c->index];
	int rc;

	if (handle == NULL) {
		return -ENOTCONN;
	}
	l->reserve = aligned_alloc(NBD_SMALL_BYTES, NBD_LARGE_BYTES);
	if (l->reserve == NULL) {
		return -ENOMEM;
	}
	rc = poller_start(&l->poller, &lane_poller, nbd_aio_get_fd(handle));
	if (rc != 0) {
		free(l->reserve);
		l->reserve = NULL;
		return rc;
	}
	l->handle = handle;
	l->tls = nbd_get_tls_negotiated(handle) == 1;
	l->small.pool = &small_pool;
	l->large.pool = &large_pool;
	l->broken = l->reserve_used = false;
	l->look = true;
	l->ended = NULL;
	return 0;
}

void
nbd_lane_stop(struct remote_channel *c)
{
	struct nbd_link *link = CONTAINER_OF(c->link, struct nbd_link, remote);
	struct nbd_lane *l = lane_of(c);
	struct remote_request *req;

	poller_stop(&l->poller);
	unblock(l);
	if (!list_empty(&c->flying)) {
		/* Without their callbacks: libnbd forgets them. */
		nbd_close(l->handle);
		link->handles[c->index] = NULL;
	}
	LIST_FOREACH (req, &c->flying, link) {
		give_buffer(l, &request_of(req)->iov);
	}
	l->handle = NULL;
	l->ended = NULL;
	mem_cache_release(&l->small);
	mem_cache_release(&l->large);
	free(l->reserve);
	l->reserve = NULL;
}
