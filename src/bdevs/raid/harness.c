/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/raid/harness.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/iov.h"
#include "event/job.h"

struct stage *the_stage;
#define COPY_LBA (RAID_SB_COPY_BYTES / BS)

static atomic_bool cut; /* nothing reaches a disk any more */

/* ---- Disks ---- */

struct held {
	struct list link;
	struct bdev_io *io;
};

struct disk_channel {
	struct bdev_channel *ch;
	struct list held;
	struct poller poller;
};

static struct disk *
disk_of(struct bdev *bdev)
{
	return CONTAINER_OF(bdev, struct disk, bdev);
}

static int
perform_write(struct disk *d, const struct bdev_io *io)
{
	size_t bytes = io->num_blocks * BS;

	atomic_fetch_add(&d->writes, 1);
	if (atomic_load(&d->write_status) != 0) {
		return atomic_load(&d->write_status);
	}
	if (io->lba == 0 || io->lba == COPY_LBA) {
		uint8_t *block = malloc(bytes);

		atomic_fetch_add(&d->superblocks, 1);
		iov_to_buf(io->iov, io->iovcnt, 0, block, bytes);
		if (the_stage->on_superblock != NULL && memcmp(block, "SPDKRAID", 8) == 0) {
			the_stage->on_superblock(the_stage, d, io->lba, block);
		}
		free(block);
		if (atomic_load(&cut)) {
			return -EIO;
		}
	}
	iov_to_buf(io->iov, io->iovcnt, 0, d->data + io->lba * BS, bytes);
	return 0;
}

static int
perform(struct disk *d, const struct bdev_io *io)
{
	size_t bytes = io->num_blocks * BS;
	uint8_t *p;

	if (atomic_load(&cut)) {
		return -EIO;
	}
	if (io->op == BDEV_FLUSH) {
		return atomic_load(&d->flush_status);
	}
	p = d->data + io->lba * BS;
	switch (io->op) {
	case BDEV_READ:
		atomic_fetch_add(&d->reads, 1);
		if (io->lba >= 2048 && atomic_load(&d->bad_reads) > 0) {
			atomic_fetch_sub(&d->bad_reads, 1);
			return -EIO;
		}
		if (atomic_load(&d->read_status) != 0) {
			return atomic_load(&d->read_status);
		}
		iov_from_buf(io->iov, io->iovcnt, 0, p, bytes);
		return 0;
	case BDEV_WRITE:
		return perform_write(d, io);
	case BDEV_UNMAP:
	case BDEV_WRITE_ZEROES:
		if (atomic_load(&d->write_status) != 0) {
			return atomic_load(&d->write_status);
		}
		memset(p, 0, bytes);
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

static int
poll(struct poller *p)
{
	struct disk_channel *dc = CONTAINER_OF(p, struct disk_channel, poller);
	struct disk *d = disk_of(dc->ch->bdev);
	struct list now;
	int n = 0;

	if (atomic_load(&d->hold) || atomic_load(&d->hold_superblock) || atomic_load(&d->silent)) {
		return 0;
	}
	list_init(&now);
	list_splice(&now, &dc->held);
	while (!list_empty(&now)) {
		struct held *h = LIST_FIRST(&now, struct held, link);

		list_remove(&h->link);
		bdev_io_complete(h->io, perform(d, h->io));
		n++;
	}
	return n;
}

/* Held requests are looked at now and then: by a timed poller. */
static const struct poller_ops poller_ops = {.name = "disk", .poll = poll};

/* Ends what is held, or only one of it; true: there was some. */
static bool
end_held(struct disk_channel *dc, const struct bdev_io *only)
{
	struct held *h, *next;
	bool any = false;

	LIST_FOREACH_SAFE (h, next, &dc->held, link) {
		if (only == NULL || h->io == only) {
			list_remove(&h->link);
			atomic_fetch_add(&disk_of(dc->ch->bdev)->cancelled, 1);
			bdev_io_complete(h->io, -ECANCELED);
			any = true;
		}
	}
	return any;
}

static void
cancel(struct bdev_channel *ch, int status)
{
	if (atomic_load(&disk_of(ch->bdev)->silent)) {
		end_held(ch->module_ctx, NULL);
	}
}

static bool
is_held(const struct disk *d, const struct bdev_io *io)
{
	return atomic_load(&d->silent) ||
	       (io->op == BDEV_WRITE && (atomic_load(&d->hold) || (io->lba == 0 && atomic_load(&d->hold_superblock))));
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct disk_channel *dc = ch->module_ctx;
	struct disk *d = disk_of(ch->bdev);

	if (io->op == BDEV_ABORT) {
		atomic_fetch_add(&d->aborts, 1);
		bdev_io_complete(io, end_held(dc, io->target) ? 0 : -ENOENT);
		return;
	}
	atomic_fetch_add(&d->passed, io->op <= BDEV_WRITE && bdev_io_is_passed(io));
	if (is_held(d, io)) {
		struct held *h = bdev_io_ctx(io);

		h->io = io;
		list_append(&dc->held, &h->link);
		if (dc->poller.state == POLLER_STOPPED) {
			EXPECT(poller_start_timed(&dc->poller, &poller_ops, 1000) == 0);
		}
		return;
	}
	bdev_io_complete(io, perform(d, io));
}

static int
channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct disk_channel *dc = ch->module_ctx;

	dc->ch = ch;
	list_init(&dc->held);
	return 0;
}

static void
channel_destroy(struct bdev *bdev, struct bdev_channel *ch)
{
	struct disk_channel *dc = ch->module_ctx;

	if (dc->poller.state != POLLER_STOPPED) {
		poller_stop(&dc->poller);
	}
}

static void
destruct(struct bdev *bdev)
{
	atomic_store(&disk_of(bdev)->present, false);
}

static const struct bdev_ops disk_ops = {
	.module_name = "disk",
	.destruct = destruct,
	.channel_create = channel_create,
	.channel_destroy = channel_destroy,
	.cancel = cancel,
	.submit = submit,
};

static void
add_on_app(void *arg)
{
	struct disk *d = arg;
	struct err err = ERR_NONE;
	char *name = d->bdev.name;
	uuid_t uuid;

	uuid_copy(uuid, d->bdev.uuid);
	memset(&d->bdev, 0, sizeof(d->bdev));
	uuid_copy(d->bdev.uuid, uuid);
	d->bdev.name = name;
	d->bdev.ops = &disk_ops;
	d->bdev.product_name = "Test disk";
	d->bdev.block_size = BS;
	d->bdev.num_blocks = d->num_blocks;
	d->bdev.write_cache = true;
	d->bdev.io_ctx_bytes = sizeof(struct held);
	d->bdev.channel_ctx_bytes = sizeof(struct disk_channel);
	d->bdev.ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH |
			   1u << BDEV_UNMAP | 1u << BDEV_WRITE_ZEROES | 1u << BDEV_ABORT;
	atomic_store(&d->present, true);
	d->removing = false;
	EXPECT_SAY(bdev_register(&d->bdev, &err) == 0, "%s", err_text(&err));
}

void
disk_add(struct stage *s, unsigned i)
{
	env_call(&s->env, s->env.app, add_on_app, &s->disks[i]);
}

static void
pull_on_app(void *arg)
{
	struct disk *d = arg;

	if (atomic_load(&d->present) && !d->removing) {
		d->removing = true;
		bdev_unregister(&d->bdev, NULL, NULL);
	}
}

void
disk_pull_start(struct stage *s, unsigned i)
{
	env_call(&s->env, s->env.app, pull_on_app, &s->disks[i]);
}

static void
wait_gone(struct stage *s, unsigned i)
{
	uint64_t end_ns = clock_now_ns() + ENV_TIMEOUT_NS;

	while (atomic_load(&s->disks[i].present)) {
		EXPECT_SAY(clock_now_ns() < end_ns, "disk %u is still there", i);
		env_linger(&s->env, 1);
	}
}

void
disk_pull(struct stage *s, unsigned i)
{
	disk_pull_start(s, i);
	wait_gone(s, i);
}

/* ---- Stage ---- */

static const struct bdev_examiner *const examiners[] = {&raid_examiner, NULL};

void
stage_start(struct stage *s, enum reactor_mode mode, bool real_threads, unsigned num_disks,
	    uint64_t disk_blocks)
{
	memset(s, 0, sizeof(*s));
	the_stage = s;
	atomic_store(&cut, false);
	s->num_disks = num_disks;
	for (unsigned i = 0; i < num_disks; i++) {
		struct disk *d = &s->disks[i];

		d->num_blocks = disk_blocks;
		d->data = calloc(disk_blocks, BS);
		EXPECT(d->data != NULL && asprintf(&d->bdev.name, "d%u", i) > 0);
		uuid_parse("0badcafe-0000-4000-8000-000000000000", d->bdev.uuid);
		d->bdev.uuid[15] = (unsigned char)(i + 1);
	}
	bdev_set_examiners(examiners);
	env_start(&s->env, mode, real_threads);
}

static void
answered(struct stage *s, int status)
{
	s->status = status;
	atomic_store(&s->answered, true);
}

struct array_call {
	struct stage *stage;
	struct raid_options options;
	const char *base;
	bool clear_sb;
	int rc;
};

static void
done_with_err(void *ctx, int status, const struct err *err)
{
	struct stage *s = ctx;

	if (err != NULL) {
		s->err = *err;
	}
	answered(s, status);
}

static void
done_plain(void *ctx, int status)
{
	answered(ctx, status);
}

static int
call(struct array_call *c, void (*fn)(void *arg))
{
	struct stage *s = c->stage;

	atomic_store(&s->answered, false);
	s->err = ERR_NONE;
	env_call(&s->env, s->env.app, fn, c);
	if (c->rc != 0) {
		return c->rc;
	}
	env_wait(&s->env, &s->answered);
	return s->status;
}

static void
create_on_app(void *arg)
{
	struct array_call *c = arg;

	c->rc = raid_create(&c->options, done_with_err, c->stage, &c->stage->err);
}

int
array_create(struct stage *s, const char *name, enum raid_level level, uint32_t strip_kb,
	     unsigned num_bases, bool superblock)
{
	static const char *const bases[DISKS_MAX] = {"d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7"};
	struct array_call c = {.stage = s,
			       .options = {.name = name,
					   .level = level,
					   .strip_kb = strip_kb,
					   .superblock = superblock,
					   .bases = bases,
					   .num_bases = num_bases}};

	return call(&c, create_on_app);
}

static void
delete_on_app(void *arg)
{
	struct array_call *c = arg;

	c->rc = raid_delete(c->options.name, c->clear_sb, done_plain, c->stage, &c->stage->err);
}

int
array_delete(struct stage *s, const char *name, bool clear_sb)
{
	struct array_call c = {.stage = s, .options.name = name, .clear_sb = clear_sb};

	return call(&c, delete_on_app);
}

static void
add_base_on_app(void *arg)
{
	struct array_call *c = arg;

	c->rc = raid_add_base(c->options.name, c->base, done_with_err, c->stage, &c->stage->err);
}

int
array_add_base(struct stage *s, const char *name, const char *base)
{
	struct array_call c = {.stage = s, .options.name = name, .base = base};

	return call(&c, add_base_on_app);
}

static void
remove_base_on_app(void *arg)
{
	struct array_call *c = arg;

	c->rc = raid_remove_base(c->base, done_plain, c->stage, &c->stage->err);
}

int
array_remove_base(struct stage *s, const char *base)
{
	struct array_call c = {.stage = s, .base = base};

	return call(&c, remove_base_on_app);
}

static void
delete_all(struct stage *s)
{
	struct raid_info info;
	char name[64];

	while (array_info(s, NULL, &info)) {
		snprintf(name, sizeof(name), "%s", info.name);
		EXPECT(array_delete(s, name, false) == 0);
	}
}

void
stage_power_cut(struct stage *s)
{
	atomic_store(&cut, true);
}

void
stage_restart(struct stage *s, bool power_cut)
{
	atomic_store(&cut, power_cut);
	if (s->env.desc != NULL) {
		env_close(&s->env);
	}
	delete_all(s);
	for (unsigned i = 0; i < s->num_disks; i++) {
		disk_pull(s, i);
		s->disks[i].read_status = s->disks[i].write_status = s->disks[i].flush_status = 0;
	}
	atomic_store(&cut, false);
}

void
stage_stop(struct stage *s)
{
	stage_restart(s, false);
	env_stop(&s->env);
	for (unsigned i = 0; i < s->num_disks; i++) {
		free(s->disks[i].data);
		free(s->disks[i].bdev.name);
	}
	the_stage = NULL;
}

/* ---- Looking ---- */

struct info_call {
	const char *name;
	struct raid_info *info;
	bool found;
};

static void
info_on_app(void *arg)
{
	struct info_call *c = arg;

	c->found = c->name != NULL ? raid_info_find(c->name, c->info) : raid_info_at(0, c->info);
}

bool
array_info(struct stage *s, const char *name, struct raid_info *ret_info)
{
	struct info_call c = {.name = name, .info = ret_info};

	env_call(&s->env, s->env.app, info_on_app, &c);
	return c.found;
}

static bool
wait_info(struct stage *s, const char *name, bool (*good)(const struct raid_info *info, unsigned n),
	  unsigned n)
{
	uint64_t end_ns = clock_now_ns() + ENV_TIMEOUT_NS;
	struct raid_info info;

	while (!array_info(s, name, &info) || !good(&info, n)) {
		if (clock_now_ns() > end_ns) {
			return false;
		}
		env_linger(&s->env, 1);
	}
	return true;
}

static bool
in_state(const struct raid_info *info, unsigned n)
{
	return info->state == n;
}

void
array_wait_state(struct stage *s, const char *name, enum raid_state state)
{
	EXPECT_SAY(wait_info(s, name, in_state, state), "%s is not %s", name,
		   raid_state_name(state));
}

static bool
whole(const struct raid_info *info, unsigned n)
{
	return info->state == RAID_ONLINE && info->discovered == n && !info->rebuilding;
}

void
array_wait_whole(struct stage *s, const char *name, unsigned configured)
{
	EXPECT_SAY(wait_info(s, name, whole, configured), "%s has not %u bases", name, configured);
}

static bool
rebuilding(const struct raid_info *info, unsigned n)
{
	return info->rebuilding;
}

void
array_wait_rebuilding(struct stage *s, const char *name)
{
	EXPECT_SAY(wait_info(s, name, rebuilding, 0), "%s is not rebuilt", name);
}

static void
settings_on_app(void *arg)
{
	EXPECT(raid_set_settings(arg, NULL) == 0);
}

void
stage_settings(struct stage *s, const struct raid_settings *settings)
{
	struct raid_settings copy = *settings;

	env_call(&s->env, s->env.app, settings_on_app, &copy);
}

static void
count_job(void *ctx, const struct job_info *info)
{
	*(unsigned *)ctx += !job_state_ended(info->state);
}

static void
count_jobs(void *arg)
{
	job_for_each(count_job, arg);
}

void
stage_wait_jobs(struct stage *s)
{
	uint64_t end_ns = clock_now_ns() + ENV_TIMEOUT_NS;
	unsigned n = 1;

	while (n > 0) {
		EXPECT_SAY(clock_now_ns() < end_ns, "a job does not end");
		env_linger(&s->env, 1);
		n = 0;
		env_call(&s->env, s->env.app, count_jobs, &n);
	}
}

/* ---- Judging ---- */

void
expect_mirrors(struct stage *s, unsigned first, unsigned count, uint64_t offset,
	       uint64_t num_blocks)
{
	for (unsigned i = 1; i < count; i++) {
		for (uint64_t b = offset; b < offset + num_blocks; b++) {
			EXPECT_SAY(memcmp(s->disks[first].data + b * BS,
					  s->disks[first + i].data + b * BS, BS) == 0,
				   "disks %u and %u differ in block %llu", first, first + i,
				   (unsigned long long)b);
		}
	}
}

void
expect_parity(struct stage *s, unsigned n, uint64_t offset, uint64_t num_blocks)
{
	for (uint64_t at = offset * BS; at < (offset + num_blocks) * BS; at++) {
		uint8_t sum = 0;

		for (unsigned i = 0; i < n; i++) {
			sum ^= s->disks[i].data[at];
		}
		EXPECT_SAY(sum == 0, "parity does not fit in block %llu", (unsigned long long)(at / BS));
	}
}
