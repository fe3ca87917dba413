/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bdevs/file/harness.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/magic.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "testkit/bdev_battery.h"
#include "testkit/hand.h"

#define WAIT_MS 60000

/* ---- Children ---- */

void
harness_in_child(void (*fn)(void))
{
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		fn();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

void
harness_forbid(int syscall_number, int error)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)syscall_number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = ARRAY_SIZE(code), .filter = code};

	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	CHECK(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0);
}

/* ---- Life ---- */

static const char *
base_folder(enum harness_place place)
{
	struct statfs fs;

	if (place != HARNESS_MEMORY) {
		return "/var/tmp";
	}
	return statfs("/dev/shm", &fs) == 0 && fs.f_type == TMPFS_MAGIC ? "/dev/shm" : NULL;
}

static void
make_file(const char *path, off_t bytes)
{
	int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);

	CHECK(fd >= 0 && ftruncate(fd, bytes) == 0);
	close(fd);
}

static void
disk_event(void *ctx, struct bdev *bdev, enum bdev_event event)
{
	struct harness_disk *disk = ctx;

	disk->resized += event == BDEV_EVENT_RESIZE;
}

static void
create_disks(void *ctx)
{
	struct harness *h = ctx;

	for (size_t i = 0; i < ARRAY_SIZE(h->disks); i++) {
		struct harness_disk *disk = &h->disks[i];
		struct file_options options = {
			.name = disk->name,
			.filename = disk->path,
			.block_size = h->variant.block_size,
			.buffered = h->variant.place == HARNESS_CACHED,
		};
		struct err err = ERR_NONE;

		if (h->module->create(&options, &err) != 0 ||
		    bdev_open(disk->name, true, disk_event, disk, &disk->desc, &err) != 0) {
			fprintf(stderr, "%s\n", err_text(&err));
			abort();
		}
		disk->bdev = bdev_desc_bdev(disk->desc);
	}
}

static void
get_channels(void *ctx)
{
	struct harness *h = ctx;

	for (size_t i = 0; i < ARRAY_SIZE(h->disks); i++) {
		h->disks[i].ch = bdev_channel_get(h->disks[i].desc, NULL);
		CHECK(h->disks[i].ch != NULL);
	}
}

static void
put_channels(void *ctx)
{
	struct harness *h = ctx;

	for (size_t i = 0; i < ARRAY_SIZE(h->disks); i++) {
		bdev_channel_put(h->disks[i].ch);
		h->disks[i].ch = NULL;
	}
}

struct harness *
harness_open(const struct harness_module *module, struct harness_variant variant)
{
	const char *base = base_folder(variant.place);
	struct harness *h;

	if (base == NULL) {
		return NULL;
	}
	h = calloc(1, sizeof(*h));
	CHECK(h != NULL);
	h->module = module;
	h->variant = variant;
	snprintf(h->dir, sizeof(h->dir), "%s/berth-%s-XXXXXX", base, module->name);
	CHECK(mkdtemp(h->dir) != NULL);
	for (size_t i = 0; i < ARRAY_SIZE(h->disks); i++) {
		snprintf(h->disks[i].name, sizeof(h->disks[i].name), "%s%zu", module->name, i);
		snprintf(h->disks[i].path, sizeof(h->disks[i].path), "%s/%zu.img", h->dir, i);
		make_file(h->disks[i].path, HARNESS_FILE_BYTES);
	}
	h->reactor = hand_reactor(variant.mode);
	h->app = thread_create("app", h->reactor);
	h->io = thread_create("io", h->reactor);
	hand_call(h->app, create_disks, h);
	hand_call(h->io, get_channels, h);
	return h;
}

static void
note_done(void *ctx, int status)
{
	CHECK(status == 0);
	++*(int *)ctx;
}

struct deletion {
	struct harness *h;
	size_t count; /* of the first disks */
	int done, expected;
};

static void
put_first(void *ctx)
{
	struct harness_disk *disk = ctx;

	bdev_channel_put(disk->ch);
	disk->ch = NULL;
}

static void
delete_disks(void *ctx)
{
	struct deletion *del = ctx;

	for (size_t i = 0; i < del->count; i++) {
		struct harness_disk *disk = &del->h->disks[i];

		if (disk->desc != NULL) {
			CHECK(del->h->module->delete(disk->name, note_done, &del->done, NULL) == 0);
			bdev_close(disk->desc);
			disk->desc = NULL;
			del->expected++;
		}
	}
}

static bool
all_deleted(void *ctx)
{
	const struct deletion *del = ctx;

	return del->done == del->expected;
}

void
harness_drop_first(struct harness *h)
{
	struct deletion del = {.h = h, .count = 1};

	hand_call(h->io, put_first, &h->disks[0]);
	hand_call(h->app, delete_disks, &del);
	CHECK(hand_wait(h->reactor, all_deleted, &del, WAIT_MS));
}

void
harness_close(struct harness *h)
{
	struct deletion del = {.h = h, .count = 2};

	if (h == NULL) {
		return;
	}
	hand_call(h->io, put_channels, h);
	hand_call(h->app, delete_disks, &del);
	CHECK(hand_wait(h->reactor, all_deleted, &del, WAIT_MS));
	hand_free(h->reactor);
	for (size_t i = 0; i < ARRAY_SIZE(h->disks); i++) {
		unlink(h->disks[i].path);
	}
	CHECK(rmdir(h->dir) == 0);
	free(h);
}

/* ---- Requests ---- */

struct burst {
	struct harness *h;
	struct harness_io *ios;
	struct bdev_io **requests;
	unsigned n, disks, done;
	struct harness_counts counts;
};

struct tag {
	struct burst *burst;
	struct harness_io *io;
};

/* In front of the request, whose end is the module's. */
static struct tag *
tag_of(struct bdev_io *request)
{
	return (struct tag *)((uint8_t *)request - 64);
}

static void
request_done(struct bdev_io *request, int status)
{
	struct tag *tag = tag_of(request);

	CHECK(thread_self() == tag->burst->h->io);
	tag->io->status = status;
	tag->burst->done++;
}

static void
submit_burst(void *ctx)
{
	struct burst *b = ctx;

	for (unsigned i = 0; i < b->n; i++) {
		struct harness_disk *disk = &b->h->disks[i % b->disks];
		struct harness_io *io = &b->ios[i];
		uint8_t *memory = aligned_alloc(64, 64 + bdev_io_bytes(disk->bdev));

		CHECK(memory != NULL);
		b->requests[i] = (struct bdev_io *)(memory + 64);
		*tag_of(b->requests[i]) = (struct tag){b, io};
		bdev_io_init(b->requests[i], io->op, io->lba, io->blocks, io->iov, io->iovcnt, request_done);
		b->requests[i]->flags = (uint8_t)io->flags;
		bdev_submit(disk->ch, b->requests[i]);
	}
}

static bool
burst_done(void *ctx)
{
	const struct burst *b = ctx;

	return b->done == b->n;
}

void
harness_submit(struct harness *h, struct harness_io *ios, unsigned n, unsigned disks)
{
	struct burst b = {.h = h, .ios = ios, .n = n, .disks = disks};

	b.requests = calloc(n, sizeof(*b.requests));
	CHECK(b.requests != NULL);
	hand_call(h->io, submit_burst, &b);
	if (!hand_wait(h->reactor, burst_done, &b, WAIT_MS)) {
		fprintf(stderr, "%u of %u requests did not end\n", n - b.done, n);
		abort();
	}
	for (unsigned i = 0; i < n; i++) {
		free(tag_of(b.requests[i]));
	}
	free(b.requests);
}

int
harness_rw(struct harness *h, enum bdev_op op, uint64_t lba, uint64_t blocks, void *buf, unsigned flags)
{
	struct iovec iov = {buf, blocks * h->variant.block_size};
	struct harness_io io = {.op = op, .lba = lba, .blocks = blocks, .iov = &iov, .iovcnt = buf != NULL, .flags = flags};

	harness_submit(h, &io, 1, 1);
	return io.status;
}

static void
read_counts(void *ctx)
{
	struct burst *b = ctx;

	b->counts = b->h->module->counts();
}

struct harness_counts
harness_counts(struct harness *h)
{
	struct burst b = {.h = h};

	hand_call(h->io, read_counts, &b);
	return b.counts;
}

/* ---- Helpers of the tests ---- */

static uint8_t *
new_buffer(size_t bytes)
{
	uint8_t *buf = aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095);

	CHECK(buf != NULL);
	return buf;
}

static void
scribble(uint8_t *buf, size_t bytes, unsigned seed)
{
	for (size_t i = 0; i < bytes; i++) {
		seed = seed * 1103515245u + 12345u;
		buf[i] = (uint8_t)(seed >> 16);
	}
}

static void
read_file(const char *path, void *buf, size_t bytes, off_t offset)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, buf, bytes, offset), bytes);
	close(fd);
}

static blkcnt_t
file_blocks(const char *path)
{
	struct stat st;

	assert_int_equal(stat(path, &st), 0);
	return st.st_blocks;
}

static enum file_access
access_of(const struct harness *h)
{
	return file_bdev_of(h->disks[0].bdev)->disk.access;
}

/* ---- The tests ---- */

static void
test_access(void **state)
{
	struct harness *h = *state;

	switch (h->variant.place) {
	case HARNESS_DISK:
		if (access_of(h) != FILE_DIRECT) {
			skip(); /* no direct I/O in /var/tmp */
		}
		break;
	case HARNESS_CACHED:
		assert_int_equal(access_of(h), FILE_BUFFERED);
		break;
	case HARNESS_MEMORY:
		assert_int_equal(access_of(h), FILE_MEMORY);
		break;
	}
	assert_int_equal(bdev_num_blocks(h->disks[0].bdev), HARNESS_FILE_BYTES / h->variant.block_size);
	assert_true(bdev_write_cache(h->disks[0].bdev));
}

/* Overlapping lists of one to eight entries, deeper than any queue, then the whole file as its reader sees it. */
#define DEPTH 1500

static void
test_data(void **state)
{
	struct harness *h = *state;
	uint32_t bs = h->variant.block_size;
	uint64_t blocks = HARNESS_FILE_BYTES / bs, next = 0;
	uint8_t *model = new_buffer(HARNESS_FILE_BYTES), *back = new_buffer(HARNESS_FILE_BYTES);
	struct harness_io *ios = calloc(DEPTH, sizeof(*ios));
	struct iovec (*iovs)[8] = calloc(DEPTH, sizeof(*iovs));
	unsigned n;

	scribble(model, HARNESS_FILE_BYTES, bs);
	for (n = 0; n < DEPTH && next < blocks; n++) {
		unsigned cnt = 1 + n % 8;

		cnt = (unsigned)MIN((uint64_t)cnt, blocks - next);
		for (unsigned i = 0; i < cnt; i++) {
			iovs[n][i] = (struct iovec){model + (next + i) * bs, bs};
		}
		ios[n] = (struct harness_io){.op = BDEV_WRITE, .lba = next, .blocks = cnt, .iov = iovs[n], .iovcnt = cnt,
					     .flags = n % 16 == 0 ? BDEV_IO_FUA : 0};
		next += cnt;
	}
	harness_submit(h, ios, n, 1);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(ios[i].status, 0);
		ios[i].op = BDEV_READ;
		ios[i].flags = 0;
		for (unsigned k = 0; k < ios[i].iovcnt; k++) {
			iovs[i][k].iov_base = back + (ios[i].lba + k) * bs;
		}
	}
	assert_int_equal(harness_rw(h, BDEV_FLUSH, 0, 0, NULL, 0), 0);
	memset(back, 0x55, HARNESS_FILE_BYTES);
	harness_submit(h, ios, n, 1);
	for (unsigned i = 0; i < n; i++) {
		assert_int_equal(ios[i].status, 0);
	}
	assert_memory_equal(model, back, next * bs);
	read_file(h->disks[0].path, back, next * bs, 0);
	assert_memory_equal(model, back, next * bs);
	free(iovs);
	free(ios);
	free(back);
	free(model);
}

static void
test_holes(void **state)
{
	struct harness *h = *state;
	uint32_t bs = h->variant.block_size;
	uint64_t half = HARNESS_FILE_BYTES / 2 / bs;
	uint8_t *buf;
	blkcnt_t full;

	if (!bdev_supports_natively(h->disks[0].bdev, BDEV_UNMAP)) {
		skip();
	}
	buf = new_buffer(HARNESS_FILE_BYTES);
	memset(buf, 0xa5, HARNESS_FILE_BYTES);
	assert_int_equal(harness_rw(h, BDEV_WRITE, 0, 2 * half, buf, 0), 0);
	assert_int_equal(harness_rw(h, BDEV_FLUSH, 0, 0, NULL, 0), 0);
	full = file_blocks(h->disks[0].path);
	assert_true(full >= HARNESS_FILE_BYTES / 512);

	/* Zeroes that must not deallocate. */
	assert_int_equal(harness_rw(h, BDEV_WRITE_ZEROES, 0, half, NULL, 0), 0);
	assert_int_equal(harness_rw(h, BDEV_READ, 0, 2 * half, buf, 0), 0);
	assert_true(buf[0] == 0 && memcmp(buf, buf + 1, half * bs - 1) == 0);
	assert_true(buf[half * bs] == 0xa5 && buf[2 * half * bs - 1] == 0xa5);
	assert_true(file_blocks(h->disks[0].path) >= HARNESS_FILE_BYTES / 512);

	/* The same, at once on stable storage, and in the middle of what is left; these may. */
	assert_int_equal(harness_rw(h, BDEV_WRITE_ZEROES, half, half / 2, NULL, BDEV_IO_MAY_UNMAP | BDEV_IO_FUA), 0);
	assert_true(file_blocks(h->disks[0].path) <= full - (blkcnt_t)(half / 2 * bs / 512) + 64);
	assert_int_equal(harness_rw(h, BDEV_UNMAP, 0, half, NULL, 0), 0);
	assert_true(file_blocks(h->disks[0].path) <= full / 4 + 64);
	/* A small one takes the way of small ones. */
	assert_int_equal(harness_rw(h, BDEV_UNMAP, 2 * half - 4096 / bs, 4096 / bs, NULL, 0), 0);
	assert_int_equal(harness_rw(h, BDEV_READ, 0, 2 * half, buf, 0), 0);
	assert_true(buf[0] == 0 && memcmp(buf, buf + 1, (half + half / 2) * bs - 1) == 0);
	assert_true(buf[HARNESS_FILE_BYTES - 4097] == 0xa5 && buf[HARNESS_FILE_BYTES - 4096] == 0);
	free(buf);
}

/* Two disks, one turn, one system call. */
static void
test_batch(void **state)
{
	struct harness *h = *state;
	uint32_t bs = h->variant.block_size;
	uint8_t *buf;
	struct iovec iov[8];
	struct harness_io ios[8];
	struct harness_counts before, after;

	if (access_of(h) != FILE_DIRECT) {
		skip();
	}
	buf = new_buffer(8 * 4096);
	for (unsigned i = 0; i < 8; i++) {
		iov[i] = (struct iovec){buf + i * 4096, bs};
		ios[i] = (struct harness_io){.op = BDEV_READ, .lba = i, .blocks = 1, .iov = &iov[i], .iovcnt = 1};
	}
	before = harness_counts(h);
	harness_submit(h, ios, 8, 2);
	after = harness_counts(h);
	assert_int_equal(after.submits - before.submits, 1);
	assert_int_equal(after.requests - before.requests, 8);
	assert_int_equal(after.mixed - before.mixed, 1);
	harness_submit(h, ios, 8, 1);
	before = harness_counts(h);
	assert_int_equal(before.submits - after.submits, 1);
	assert_int_equal(before.mixed - after.mixed, 0);
	free(buf);
}

struct rescan {
	struct harness *h;
	int rc;
	struct err err;
};

static void
call_rescan(void *ctx)
{
	struct rescan *s = ctx;

	s->rc = s->h->module->rescan(s->h->disks[0].name, &s->err);
}

static void
test_rescan(void **state)
{
	struct harness *h = *state;
	struct rescan s = {.h = h};
	uint32_t bs = h->variant.block_size;
	uint64_t blocks = HARNESS_FILE_BYTES / bs;
	uint8_t *buf = new_buffer(4 * 4096);

	hand_call(h->app, call_rescan, &s);
	assert_int_equal(s.rc, 0);
	assert_int_equal(h->disks[0].resized, 0);

	assert_int_equal(truncate(h->disks[0].path, 2 * HARNESS_FILE_BYTES), 0);
	assert_int_equal(harness_rw(h, BDEV_READ, blocks, 1, buf, 0), -EINVAL);
	hand_call(h->app, call_rescan, &s);
	assert_int_equal(s.rc, 0);
	assert_int_equal(h->disks[0].resized, 1);
	assert_int_equal(bdev_num_blocks(h->disks[0].bdev), 2 * blocks);
	assert_int_equal(harness_rw(h, BDEV_WRITE, blocks, 1, buf, 0), 0);

	/* It shrank under us: what is there is read, what is not is an error, and the disk keeps its size while open. */
	assert_int_equal(truncate(h->disks[0].path, HARNESS_FILE_BYTES + 512), 0);
	assert_int_equal(harness_rw(h, BDEV_READ, blocks - 2, 2, buf, 0), 0);
	assert_int_equal(harness_rw(h, BDEV_READ, blocks - 1, 4, buf, 0), -EIO);
	assert_int_equal(harness_rw(h, BDEV_READ, blocks + 8, 1, buf, 0), -EIO);
	if (bs > 512) {
		hand_call(h->app, call_rescan, &s);
		assert_int_equal(s.rc, -EINVAL);
		assert_non_null(strstr(s.err.text, h->disks[0].path));
	}
	assert_int_equal(truncate(h->disks[0].path, HARNESS_FILE_BYTES), 0);
	hand_call(h->app, call_rescan, &s);
	assert_int_equal(s.rc, -EBUSY);
	assert_non_null(strstr(s.err.text, h->disks[0].name));
	hand_call(h->app, call_rescan, &s);
	assert_int_equal(s.rc, -EBUSY);
	assert_int_equal(bdev_num_blocks(h->disks[0].bdev), 2 * blocks);
	/* Writing there makes it longer again. */
	assert_int_equal(harness_rw(h, BDEV_WRITE, 2 * blocks - 1, 1, buf, 0), 0);
	assert_int_equal(harness_rw(h, BDEV_READ, blocks + 8, 1, buf, 0), 0);
	free(buf);
}

/* Buffers that direct I/O would refuse, and entries shorter than a block. */
static void
test_unaligned(void **state)
{
	struct harness *h = *state;
	uint32_t bs = h->variant.block_size;
	uint8_t *buf = new_buffer(16 * 4096), *back = buf + 8 * 4096 + 3;
	struct iovec out[2] = {{buf + 1, 100}, {buf + 101, 4 * bs - 100}};
	struct harness_io io = {.op = BDEV_WRITE, .lba = 3, .blocks = 4, .iov = out, .iovcnt = 2};

	scribble(buf, 16 * 4096, 7);
	harness_submit(h, &io, 1, 1);
	assert_int_equal(io.status, 0);
	assert_int_equal(harness_rw(h, BDEV_READ, 3, 4, back, 0), 0);
	assert_memory_equal(buf + 1, back, 4 * bs);
	free(buf);
}

/* Guest memory that is no longer there. */
static void
test_lost_memory(void **state)
{
	struct harness *h = *state;
	uint32_t bs = h->variant.block_size;
	uint8_t *map = mmap(NULL, 8 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	assert_ptr_not_equal(map, MAP_FAILED);
	memset(map, 1, 8 * 4096);
	/* Not unmapped: another thread might get the addresses. */
	assert_int_equal(mprotect(map + 4 * 4096, 4 * 4096, PROT_NONE), 0);
	assert_int_equal(harness_rw(h, BDEV_WRITE, 0, 4 * 4096 / bs, map, 0), 0);
	assert_int_equal(harness_rw(h, BDEV_WRITE, 0, 8 * 4096 / bs, map, 0), -EFAULT);
	assert_int_equal(harness_rw(h, BDEV_READ, 0, 8 * 4096 / bs, map, 0), -EFAULT);
	assert_int_equal(harness_rw(h, BDEV_READ, 0, 1, map + 4 * 4096, 0), -EFAULT);
	assert_int_equal(harness_rw(h, BDEV_READ, 0, 4 * 4096 / bs, map, 0), 0);
	munmap(map, 8 * 4096);
}

/*
 * With nothing in flight a reactor that may sleep does, and nothing wakes it. (While the kernel takes down rings that earlier
 * tests closed it interrupts the threads that made them, a few times: one undisturbed sleep is enough.)
 */
static void
test_idle(void **state)
{
	struct harness *h = *state;
	struct reactor_stats before, after;
	uint8_t *buf = new_buffer(4096);
	bool slept = false;

	assert_int_equal(harness_rw(h, BDEV_READ, 0, 1, buf, 0), 0);
	free(buf);
	if (h->variant.mode == REACTOR_POLL) {
		skip();
	}
	for (int i = 0; i < 1000000 && !slept; i++) {
		reactor_get_stats(h->reactor, &before);
		reactor_poll_wait(h->reactor, 50000);
		reactor_get_stats(h->reactor, &after);
		assert_true(after.wakeups - before.wakeups <= 1);
		slept = after.idle_ns - before.idle_ns >= 45000000;
		assert_true(after.wakeups < 200);
	}
	assert_true(slept);
}

/* ---- What every bdev must do ---- */

struct battery_file {
	const struct harness_module *module;
	struct harness_variant variant;
	char path[256];
};

static int
battery_create(const struct battery *b, struct err *err)
{
	const struct battery_file *f = b->ctx;
	struct file_options options = {
		.name = b->name,
		.filename = f->path,
		.block_size = f->variant.block_size,
		.buffered = f->variant.place == HARNESS_CACHED,
	};

	CHECK(truncate(f->path, HARNESS_FILE_BYTES) == 0);
	return f->module->create(&options, err);
}

static int
battery_remove(const struct battery *b, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	const struct battery_file *f = b->ctx;

	return f->module->delete(b->name, done, ctx, err);
}

static int
battery_resize(const struct battery *b, uint64_t num_blocks, struct err *err)
{
	const struct battery_file *f = b->ctx;
	off_t bytes = (off_t)(num_blocks * f->variant.block_size);
	struct stat st;

	/* To make the file smaller is to lose what is in it, whatever the bdev says: see test_rescan. */
	if (stat(f->path, &st) != 0 || bytes < st.st_size || truncate(f->path, bytes) != 0) {
		return -EBUSY;
	}
	return f->module->rescan(b->name, err);
}

static const struct harness_module *the_module;

static void
test_battery(void **state)
{
	const struct harness_variant *variant = *state;
	const char *base = base_folder(variant->place);
	struct battery_file f = {.module = the_module, .variant = *variant};
	struct battery battery = {
		.name = "battery",
		.ctx = &f,
		.create = battery_create,
		.remove = battery_remove,
		.resize = battery_resize,
		.shows_holes = true,
		.unmap_zeroes = true,
		.requests = 200,
	};
	int fd;

	if (base == NULL) {
		skip();
	}
	snprintf(f.path, sizeof(f.path), "%s/berth-battery-XXXXXX", base);
	fd = mkstemp(f.path);
	assert_true(fd >= 0);
	close(fd);
	if (variant->place == HARNESS_DISK && variant->block_size == 512) {
		bdev_battery_run_all(&battery);
	} else if (variant->block_size == 512) {
		bdev_battery_run(&battery, REACTOR_ADAPTIVE, true);
	} else {
		bdev_battery_run(&battery, REACTOR_INTERRUPT, false);
	}
	unlink(f.path);
}

/* ---- The table ---- */

static int
setup(void **state)
{
	const struct harness_variant *variant = *state;

	*state = harness_open(the_module, *variant);
	return 0;
}

static int
teardown(void **state)
{
	harness_close(*state);
	return 0;
}

/* A place that is missing here is skipped, and said to be. */
#define GUARD(f) \
	static void guarded_##f(void **state) \
	{ \
		if (*state == NULL) { \
			skip(); \
		} \
		f(state); \
	}
GUARD(test_access)
GUARD(test_data)
GUARD(test_holes)
GUARD(test_batch)
GUARD(test_rescan)
GUARD(test_lost_memory)
GUARD(test_unaligned)
GUARD(test_idle)

static const struct {
	const char *name;
	CMUnitTestFunction fn;
} common[] = {
	{"access", guarded_test_access}, {"data", guarded_test_data},     {"holes", guarded_test_holes},
	{"batch", guarded_test_batch},   {"rescan", guarded_test_rescan}, {"lost_memory", guarded_test_lost_memory},
	{"idle", guarded_test_idle},     {"unaligned", guarded_test_unaligned},
};

#define VARIANTS (3 * 2 * 3)
#define BATTERIES 6

int
harness_main(const struct harness_module *module, const struct CMUnitTest *own, size_t own_count)
{
	static const char *const places[] = {"disk", "cached", "memory"};
	static struct harness_variant variants[VARIANTS];
	static struct CMUnitTest tests[VARIANTS * ARRAY_SIZE(common) + BATTERIES];
	static char names[ARRAY_SIZE(tests)][64];
	size_t n = 0;
	int failed;

	the_module = module;
	for (unsigned v = 0; v < VARIANTS; v++) {
		variants[v] = (struct harness_variant){
			.place = (enum harness_place)(v % 3),
			.block_size = v / 3 % 2 == 0 ? 512 : 4096,
			.mode = hand_modes[v / 6],
		};
		for (size_t i = 0; i < ARRAY_SIZE(common); i++, n++) {
			snprintf(names[n], sizeof(names[n]), "%s %s %u %s", common[i].name, places[variants[v].place],
				 variants[v].block_size, reactor_mode_name(variants[v].mode));
			tests[n] = (struct CMUnitTest){names[n], common[i].fn, setup, teardown, &variants[v]};
		}
	}
	for (unsigned i = 0; i < BATTERIES; i++, n++) {
		static struct harness_variant chosen[BATTERIES];

		chosen[i] = (struct harness_variant){
			.place = (enum harness_place)(i % 3),
			.block_size = i < 3 ? 512 : 4096,
		};
		snprintf(names[n], sizeof(names[n]), "battery %s %u", places[i % 3], chosen[i].block_size);
		tests[n] = (struct CMUnitTest){names[n], test_battery, NULL, NULL, &chosen[i]};
	}
	failed = _cmocka_run_group_tests(module->name, own, own_count, NULL, NULL);
	return failed + _cmocka_run_group_tests(module->name, tests, n, NULL, NULL);
}
