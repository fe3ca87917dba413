/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The call descriptor of a ring is an eventfd that the VMM made, and keeps: both sides hold the same open file. The VMM can take
 * O_NONBLOCK off it again at any moment and fill its counter; a write(2) would then wait until the VMM reads, and with it the
 * I/O thread, which serves other VMs. So berthd does not write to it.
 *
 * The kernel itself adds to eventfds in a way that never waits: a full counter stays full. It does so for an asynchronous read
 * (aio(7)) whose iocb names the eventfd (IOCB_FLAG_RESFD) when that read is done. The read used here is one of nothing from
 * /dev/null: it is done when io_submit(2) returns, and the VMM's irqfd or epoll has been woken as by a write.
 *
 * Invariants
 *  1. Nothing is under way in a context between two calls: what io_submit took has completed. So events are only thrown away,
 *     every REAP_EVERY calls.
 *  2. A call is never lost: when io_submit fails (the kernel is out of memory) the eventfd is written to.
 *  3. A context is never destroyed, which would wait for an RCU grace period: the next thread that needs one takes it. There are
 *     as many as threads that called at the same time.
 *
 * Without asynchronous I/O in the kernel or the sandbox, or with fs.aio-max-nr used up, calls are writes, and a VMM that wants
 * to can make its I/O thread wait; that is said in the log. The price is half a microsecond a call.
 *
 * Rejected: pwritev2(RWF_NOWAIT): eventfds do not take it. poll(2) or F_GETFL before each write: the VMM changes both in
 * between. A write by io_uring: looks at O_NONBLOCK and then writes, which is the same race, and is not there everywhere. Opening
 * it anew by /proc/self/fd: eventfds cannot be. A timer whose signal ends a write that lasts: other calls of the thread
 * would end with EINTR, and neighbours wait until it rings. A thread for the writes: a wake-up a call.
 */
#include "vhost/call.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "event/channel.h"
#include "event/thread.h"

/* Events that a context has room for, of which fs.aio-max-nr bounds the sum. */
#define CONTEXT_EVENTS 64
#define REAP_EVERY 32

struct context {
	struct context *next;
	aio_context_t id;
	unsigned events; /* not thrown away yet */
};

struct vhost_caller {
	struct channel channel;
	struct context *context; /* NULL: none */
};

static pthread_mutex_t spare_lock = PTHREAD_MUTEX_INITIALIZER;
static struct context *spare;
static int null_fd = -1; /* /dev/null; once open it stays so */

/* ---- Contexts ---- */

static struct context *
take_spare(void)
{
	struct context *x;

	pthread_mutex_lock(&spare_lock);
	x = spare;
	spare = x != NULL ? x->next : NULL;
	pthread_mutex_unlock(&spare_lock);
	return x;
}

static void
give_back(struct context *x)
{
	pthread_mutex_lock(&spare_lock);
	x->next = spare;
	spare = x;
	pthread_mutex_unlock(&spare_lock);
}

/* NULL, and errno. */
static struct context *
context_create(void)
{
	struct context *x = calloc(1, sizeof(*x));

	if (x != NULL && syscall(SYS_io_setup, CONTEXT_EVENTS, &x->id) != 0) {
		free(x);
		x = NULL;
	}
	return x;
}

static void
reap(struct context *x)
{
	struct io_event events[REAP_EVERY];
	struct timespec now = {0};

	(void)syscall(SYS_io_getevents, x->id, 0L, (long)REAP_EVERY, events, &now);
	x->events = 0;
}

/* ---- A thread's caller ---- */

void
vhost_caller_prepare(void)
{
	pthread_mutex_lock(&spare_lock);
	if (null_fd < 0) {
		null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	}
	pthread_mutex_unlock(&spare_lock);
}

static void
make_safe(struct vhost_caller *c)
{
	vhost_caller_prepare();
	if (null_fd >= 0) {
		c->context = take_spare();
	}
	if (null_fd >= 0 && c->context == NULL) {
		c->context = context_create();
	}
	if (c->context == NULL) {
		LOG_WARNING(VHOST, thread_name(thread_self()),
			    "no asynchronous I/O (%s): a hostile VMM may hold up other VMs of this thread", strerror(errno));
	}
}

static int
channel_create(struct device *dev, struct channel *ch)
{
	make_safe((struct vhost_caller *)ch);
	return 0;
}

static void
channel_destroy(struct device *dev, struct channel *ch)
{
	struct vhost_caller *c = (struct vhost_caller *)ch;

	if (c->context != NULL) {
		give_back(c->context);
	}
}

static const struct device_ops channel_ops = {.channel_create = channel_create, .channel_destroy = channel_destroy};
static struct device caller_device = DEVICE_STATIC(caller_device, "vhost_caller", &channel_ops, sizeof(struct vhost_caller));

struct vhost_caller *
vhost_caller_get(void)
{
	return (struct vhost_caller *)channel_get(&caller_device, NULL);
}

void
vhost_caller_put(struct vhost_caller *c)
{
	channel_put(c != NULL ? &c->channel : NULL);
}

bool
vhost_caller_is_safe(const struct vhost_caller *c)
{
	return c->context != NULL;
}

void
vhost_caller_call(struct vhost_caller *c, int fd)
{
	struct iocb iocb = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_fildes = (uint32_t)null_fd,
		.aio_flags = IOCB_FLAG_RESFD,
		.aio_resfd = (uint32_t)fd,
	};
	struct iocb *list = &iocb;
	struct context *x = c->context;
	uint64_t one = 1;

	if (UNLIKELY(x == NULL) || UNLIKELY(syscall(SYS_io_submit, x->id, 1L, &list) != 1)) {
		/* A counter that is full needs no more. */
		(void)!write(fd, &one, sizeof(one));
		return;
	}
	if (++x->events == REAP_EVERY) {
		reap(x);
	}
}
