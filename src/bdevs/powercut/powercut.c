/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A base behind a volatile cache, and the power cut. Writes go to a log in memory and are done; reads find each block there or
 * on the base; flushes, writes with FUA and a full log are jobs (job.c).
 *
 *         write number cut_after, or asked               job done
 *   ON ------------------------------------> CUT ----------------------> CUT, settled
 *    ^                                                                        |
 *    +------------------------------- restore --------------------------------+
 *
 * Invariants
 *  1. Every write that was answered is in the log or on the base, until the power is cut.
 *  2. From the cut on nothing is answered as done, on any channel: `cut` is set and looked at with the lock.
 *  3. While a message or a job of the app thread's is under way, the bdev waits in its destruct.
 * A tool for tests, so a lock a bdev, which all channels take for each request, is good enough.
 * Contexts: the app thread; requests and their jobs: the channel's thread.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/iov.h"
#include "base/log.h"
#include "bdevs/powercut/internal.h"

/* Largest read or write, so that a few always have room in the smallest cache. */
#define RW_BYTES ((size_t)1 << 20)
/* What zeroes more blocks than this goes to the base directly. */
#define ZERO_BLOCKS_MAX 8192

static struct powercut *
powercut_of(struct stack *s)
{
	return CONTAINER_OF(s, struct powercut, stack);
}

/* ---- Writing ---- */

static void
request_done(struct powercut_job *job, int status)
{
	bdev_io_complete(job_io(job), status);
}

static void
start_job(struct bdev_channel *ch, struct bdev_io *io, enum powercut_job_kind kind)
{
	struct stack_channel *sc = ch->module_ctx;
	struct powercut_job *job = bdev_io_ctx(io);

	job->child = stack_child(io, OWN);
	powercut_job_start(ch->bdev->ctx, job, kind, sc->base, request_done);
}

static void
cut_now(struct powercut *p)
{
	p->cut = true;
	p->settled = false;
	p->rule.seed = powercut_seed(p->options.seed, p->cuts);
	p->cuts++;
}

static void cut_on_app(struct msg *msg);

bool
powercut_count_write(struct powercut *p)
{
	p->writes++;
	if (p->writes != p->cut_after) {
		return false;
	}
	cut_now(p);
	p->cut_sent = true;
	thread_send(p->app, &p->cut_msg, cut_on_app);
	return true;
}

static void
write_cached(struct bdev_channel *ch, struct bdev_io *io)
{
	struct powercut *p = ch->bdev->ctx;
	const struct iovec *iov = io->op == BDEV_WRITE ? io->iov : NULL;
	bool off, full = false;

	pthread_mutex_lock(&p->lock);
	off = p->cut;
	if (!off) {
		full = powercut_log_write(p->log, io->lba, io->num_blocks, iov, io->iovcnt) == 0;
		off = !full && powercut_count_write(p);
	}
	pthread_mutex_unlock(&p->lock);
	if (full) {
		start_job(ch, io, iov != NULL ? JOB_ROOM : JOB_PASS);
	} else {
		bdev_io_complete(io, off ? -EIO : 0);
	}
}

/* ---- Reading: pieces in turn from the log and from the base ---- */

static void read_on(struct bdev_io *io);

static void
end_read(struct bdev_io *io, int status)
{
	struct powercut *p = io->ch->bdev->ctx;

	pthread_mutex_lock(&p->lock);
	status = p->cut ? -EIO : status;
	pthread_mutex_unlock(&p->lock);
	bdev_io_complete(io, status);
}

static void
whole_read(struct bdev_io *child, int status)
{
	end_read(stack_parent(child, OWN), status);
}

static void
gap_read(struct bdev_io *child, int status)
{
	struct bdev_io *io = stack_parent(child, OWN);
	struct powercut_job *job = bdev_io_ctx(io);
	size_t at_bytes = job->at << io->ch->block_size_shift;

	if (status == 0) {
		iov_from_buf(io->iov, io->iovcnt, at_bytes, job->buf, job->iov.iov_len);
	}
	free(job->buf);
	job->at += child->num_blocks;
	if (status != 0) {
		end_read(io, status);
	} else {
		read_on(io);
	}
}

/* What the log does not have, up to what it has again. */
static void
read_gap(struct bdev_io *io, uint64_t blocks)
{
	struct stack_channel *sc = io->ch->module_ctx;
	struct bdev_io *child = stack_child(io, OWN);
	struct powercut_job *job = bdev_io_ctx(io);

	if (blocks == io->num_blocks) {
		stack_child_init(child, io, 0, whole_read);
	} else {
		job->iov.iov_len = blocks << io->ch->block_size_shift;
		job->buf = aligned_alloc(BDEV_BUFFER_ALIGN_MAX,
					 (job->iov.iov_len + BDEV_BUFFER_ALIGN_MAX - 1) &
						 ~(size_t)(BDEV_BUFFER_ALIGN_MAX - 1));
		if (job->buf == NULL) {
			end_read(io, -ENOMEM);
			return;
		}
		job->iov.iov_base = job->buf;
		bdev_io_init(child, BDEV_READ, io->lba + job->at, blocks, &job->iov, 1, gap_read);
	}
	bdev_submit(sc->base, child);
}

static void
read_on(struct bdev_io *io)
{
	struct powercut *p = io->ch->bdev->ctx;
	struct powercut_job *job = bdev_io_ctx(io);
	uint64_t end = io->lba + io->num_blocks, lba, n;

	while (job->at < io->num_blocks) {
		pthread_mutex_lock(&p->lock);
		n = powercut_log_run(p->log, UINT64_MAX, io->lba + job->at, end, io->num_blocks, &lba);
		lba = n == 0 ? end : lba;
		if (lba == io->lba + job->at) {
			powercut_log_read(p->log, lba, n, io->iov, io->iovcnt,
					  job->at << io->ch->block_size_shift);
		}
		pthread_mutex_unlock(&p->lock);
		if (lba != io->lba + job->at) {
			read_gap(io, lba - io->lba - job->at);
			return;
		}
		job->at += n;
	}
	end_read(io, 0);
}

/* ---- Requests ---- */

static void
passed(struct bdev_io *child, int status)
{
	stack_finish(stack_parent(child, OWN), child, status);
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct stack_channel *sc = ch->module_ctx;

	switch (io->op) {
	case BDEV_READ:
		((struct powercut_job *)bdev_io_ctx(io))->at = 0;
		read_on(io);
		break;
	case BDEV_FLUSH:
		start_job(ch, io, JOB_FLUSH);
		break;
	case BDEV_RESET:
		stack_child_init(stack_child(io, OWN), io, 0, passed);
		bdev_submit(sc->base, stack_child(io, OWN));
		break;
	default:
		if ((io->flags & BDEV_IO_FUA) != 0 ||
		    (io->op != BDEV_WRITE && io->num_blocks > ZERO_BLOCKS_MAX)) {
			start_job(ch, io, JOB_PASS);
		} else {
			write_cached(ch, io);
		}
		break;
	}
}

/* ---- Work of the app thread's own ---- */

static void go_on_ending(struct powercut *p);

static void
end_work(struct powercut *p, struct powercut_job *job, int status)
{
	bdev_channel_put(job->base);
	free(job);
	p->busy = false;
	if (status != 0) {
		LOG_ERROR(BDEV, p->stack.name, "writing to '%s' ended with error %d; what was not flushed is lost",
			  p->stack.base_name, -status);
	}
}

/* 0, or what kept it from being done. */
static int
start_work(struct powercut *p, enum powercut_job_kind kind, void (*done)(struct powercut_job *job, int status))
{
	size_t own = (OWN + CACHE_LINE_BYTES - 1) & ~(size_t)(CACHE_LINE_BYTES - 1);
	struct bdev_channel *base;
	struct powercut_job *job;
	int rc = 0;

	base = stack_base_channel(&p->stack, &rc);
	if (base == NULL) {
		return rc;
	}
	job = aligned_alloc(CACHE_LINE_BYTES, own + bdev_io_bytes(p->stack.base));
	if (job == NULL) {
		bdev_channel_put(base);
		return -ENOMEM;
	}
	job->child = (struct bdev_io *)(void *)((uint8_t *)job + own);
	p->busy = true;
	powercut_job_start(p, job, kind, base, done);
	return 0;
}

/* ---- The cut ---- */

struct waiter {
	struct list link;
	void (*done)(void *ctx, int status);
	void *ctx;
};

static void
tell_waiters(struct powercut *p, int status)
{
	while (!list_empty(&p->cut_waiters)) {
		struct waiter *w = LIST_FIRST(&p->cut_waiters, struct waiter, link);
		struct waiter copy = *w;

		list_remove(&w->link);
		free(w);
		copy.done(copy.ctx, status);
	}
}

static void
settle(struct powercut *p, int status)
{
	pthread_mutex_lock(&p->lock);
	powercut_log_drop(p->log, UINT64_MAX, 0, UINT64_MAX);
	p->settled = true;
	pthread_mutex_unlock(&p->lock);
	p->cut_status = status;
	tell_waiters(p, status);
}

static void
survivors_written(struct powercut_job *job, int status)
{
	struct powercut *p = job->p;

	end_work(p, job, status);
	settle(p, status);
	go_on_ending(p);
}

static void
write_survivors(struct powercut *p)
{
	int rc = start_work(p, JOB_CUT, survivors_written);

	if (rc != 0) {
		settle(p, rc);
	}
}

static void
cut_on_app(struct msg *msg)
{
	struct powercut *p = CONTAINER_OF(msg, struct powercut, cut_msg);

	pthread_mutex_lock(&p->lock);
	p->cut_sent = false;
	pthread_mutex_unlock(&p->lock);
	write_survivors(p);
	go_on_ending(p);
}

/* ---- Life ---- */

static void
drained(struct powercut_job *job, int status)
{
	struct powercut *p = job->p;

	pthread_mutex_lock(&p->lock);
	powercut_log_drop(p->log, UINT64_MAX, 0, UINT64_MAX);
	pthread_mutex_unlock(&p->lock);
	end_work(p, job, status);
	go_on_ending(p);
}

/* Of a bdev whose users are gone, each time something has been done. */
static void
go_on_ending(struct powercut *p)
{
	bool wait, empty;

	if (!p->ending) {
		return;
	}
	pthread_mutex_lock(&p->lock);
	wait = p->cut_sent || p->busy;
	empty = powercut_log_empty(p->log);
	pthread_mutex_unlock(&p->lock);
	if (!wait && (empty || start_work(p, JOB_DRAIN, drained) != 0)) {
		p->ending = false;
		stack_destruct(&p->stack.bdev);
	}
}

static void
destruct(struct bdev *bdev)
{
	struct powercut *p = bdev->ctx;

	p->ending = true;
	go_on_ending(p);
}

static const struct bdev_ops powercut_ops = {
	.module_name = "powercut",
	.destruct = destruct,
	.channel_create = stack_channel_create,
	.channel_destroy = stack_channel_destroy,
	.submit = submit,
};

static void
fill_bdev(struct powercut *p)
{
	struct bdev *bdev = &p->stack.bdev;

	bdev->ops = &powercut_ops;
	bdev->ctx = p;
	bdev->product_name = "powercut";
	bdev->ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH | 1u << BDEV_UNMAP |
			 1u << BDEV_WRITE_ZEROES | 1u << BDEV_RESET;
	bdev->max_rw_blocks = (uint32_t)(RW_BYTES / bdev->block_size);
	bdev->write_cache = true;
	bdev->native_fua = true;
	/* The cache has none; the base's own core provides it. */
	bdev->md_bytes = 0;
	bdev->dif_type = 0;
	bdev->dif_check_flags = 0;
	stack_room(&p->stack, OWN);
}

static int
start(struct stack *s, struct err *err)
{
	struct powercut *p = powercut_of(s);

	if (s->base->zone_blocks != 0) {
		return err_set(err, -ENOTSUP, "bdev '%s' is zoned, and cannot have such a cache",
			       s->base_name);
	}
	fill_bdev(p);
	p->log = powercut_log_create(s->bdev.block_size, p->options.cache_bytes);
	if (p->log == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", s->name);
	}
	p->app = thread_self();
	p->rule = (struct powercut_rule){
		.mode = p->options.mode,
		.sector_bytes = p->options.sector_bytes != 0 ? p->options.sector_bytes
							     : bdev_physical_block_size(s->base),
	};
	p->cut = false;
	p->settled = false;
	p->cut_after = p->options.cut_after;
	p->writes = 0;
	p->cuts = 0;
	return 0;
}

static void
stop(struct stack *s)
{
	struct powercut *p = powercut_of(s);

	tell_waiters(p, -ENODEV);
	powercut_log_free(p->log);
	p->log = NULL;
}

static void
release(struct stack *s)
{
	struct powercut *p = powercut_of(s);

	pthread_mutex_destroy(&p->lock);
	free(p);
}

static void
resized(struct stack *s)
{
	bdev_resize(&s->bdev, bdev_num_blocks(s->base));
}

static const struct stack_ops stack_ops = {
	.module_name = "powercut",
	.start = start,
	.stop = stop,
	.free = release,
	.resized = resized,
};

static int
check_options(const struct powercut_bdev_options *o, struct err *err)
{
	if (o->sector_bytes != 0 && (o->sector_bytes < 512 || o->sector_bytes > 65536 ||
				     (o->sector_bytes & (o->sector_bytes - 1)) != 0)) {
		return err_set(err, -EINVAL, "bdev '%s': sector size %u is no power of two from 512 to 65536",
			       o->name, o->sector_bytes);
	}
	if (o->cache_bytes != 0 &&
	    (o->cache_bytes < POWERCUT_CACHE_MIN || o->cache_bytes > POWERCUT_CACHE_MAX)) {
		return err_set(err, -EINVAL, "bdev '%s': a cache has %zu to %zu MiB", o->name,
			       POWERCUT_CACHE_MIN >> 20, POWERCUT_CACHE_MAX >> 20);
	}
	return 0;
}

int
bdev_powercut_create(const struct powercut_bdev_options *options, struct bdev **ret,
		     struct err *err)
{
	int rc = check_options(options, err);
	struct powercut *p;

	if (rc != 0) {
		return rc;
	}
	p = calloc(1, sizeof(*p));
	if (p == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", options->name);
	}
	p->options = *options;
	p->options.cache_bytes =
		options->cache_bytes != 0 ? options->cache_bytes : POWERCUT_CACHE_DEFAULT;
	pthread_mutex_init(&p->lock, NULL);
	list_init(&p->jobs);
	list_init(&p->cut_waiters);
	uuid_copy(p->stack.uuid, options->uuid);
	return stack_create(&p->stack, &stack_ops, options->name, options->base_name, ret, err);
}

static struct powercut *
find(const char *name, bool running, struct err *err)
{
	struct stack *s = stack_find(&stack_ops, name);

	if (s == NULL) {
		err_set(err, -ENODEV, "there is no powercut bdev '%s'", name);
		return NULL;
	}
	if (running && !s->registered) {
		err_set(err, -ENODEV, "bdev '%s' waits for its base '%s'", name, s->base_name);
		return NULL;
	}
	return powercut_of(s);
}

int
bdev_powercut_delete(const char *name, void (*done)(void *ctx, int status), void *ctx,
		     struct err *err)
{
	struct powercut *p = find(name, false, err);

	if (p == NULL) {
		return -ENODEV;
	}
	stack_delete(&p->stack, done, ctx);
	return 0;
}

int
bdev_powercut_cut(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct powercut *p = find(name, true, err);
	struct waiter *w;
	bool was_on, settled;

	if (p == NULL) {
		return -ENODEV;
	}
	w = calloc(1, sizeof(*w));
	if (w == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", name);
	}
	w->done = done;
	w->ctx = ctx;
	list_append(&p->cut_waiters, &w->link);
	pthread_mutex_lock(&p->lock);
	was_on = !p->cut;
	settled = p->cut && p->settled;
	if (was_on) {
		cut_now(p);
	}
	pthread_mutex_unlock(&p->lock);
	if (was_on) {
		write_survivors(p);
	} else if (settled) {
		tell_waiters(p, p->cut_status);
	}
	return 0;
}

int
bdev_powercut_restore(const char *name, uint64_t cut_after, struct err *err)
{
	struct powercut *p = find(name, true, err);
	bool cut, settled;

	if (p == NULL) {
		return -ENODEV;
	}
	pthread_mutex_lock(&p->lock);
	cut = p->cut;
	settled = p->settled && !p->busy;
	if (cut && settled) {
		p->cut = false;
		p->writes = 0;
		p->cut_after = cut_after;
	}
	pthread_mutex_unlock(&p->lock);
	if (!cut) {
		return err_set(err, -EALREADY, "bdev '%s' has power", name);
	}
	return settled ? 0 : err_set(err, -EBUSY, "bdev '%s' is still being cut off", name);
}

/* ---- What there is ---- */

static void
tell(struct powercut *p, struct powercut_bdev_options *ret_options, struct powercut_info *ret_info)
{
	const struct stack *s = &p->stack;

	*ret_options = p->options;
	ret_options->name = s->name;
	ret_options->base_name = s->base_name;
	uuid_copy(ret_options->uuid, s->registered ? s->bdev.uuid : s->uuid);
	if (ret_info != NULL) {
		pthread_mutex_lock(&p->lock);
		*ret_info = (struct powercut_info){
			.cut = p->cut,
			.settled = p->cut && p->settled,
			.writes = p->writes,
			.cuts = p->cuts,
			.unflushed_bytes = p->log != NULL ? powercut_log_bytes(p->log) : 0,
		};
		pthread_mutex_unlock(&p->lock);
	}
}

bool
bdev_powercut_get(const struct bdev *bdev, struct powercut_bdev_options *ret_options,
		  struct powercut_info *ret_info)
{
	struct stack *s = stack_of(bdev, &stack_ops);

	if (s != NULL) {
		tell(powercut_of(s), ret_options, ret_info);
	}
	return s != NULL;
}

bool
bdev_powercut_list(unsigned i, struct powercut_bdev_options *ret_options, bool *ret_waits)
{
	struct stack *s = stack_next(&stack_ops, NULL);

	while (s != NULL && i-- > 0) {
		s = stack_next(&stack_ops, s);
	}
	if (s != NULL) {
		tell(powercut_of(s), ret_options, NULL);
		*ret_waits = !s->registered;
	}
	return s != NULL;
}
