/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The virtio block device on a bdev of its own that remembers what it was asked, can hold requests and fail them.
 * One reactor polled by hand runs control and I/O.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "bdev/module.h"
#include "event/reactor.h"
#include "vhost/blk_pool.h"

#define RING 16384u
#define GPA UINT64_C(0x100000000)
#define MEMORY (4u << 20)
#define DATA_AT 0x100000u /* offset of buffers in guest memory */
#define DISK_BYTES (1u << 20)

/* ---- A bdev ---- */

static struct {
	struct bdev bdev;
	uint8_t *disk;
	bool hold;
	int fail;
	struct bdev_io *held[8192];
	unsigned held_count;
	unsigned ops[BDEV_OP_COUNT];
	unsigned last_flags;
	const void *last_base;
	void (*before_complete)(void);
} dev;

static void
dev_move(struct bdev_io *io)
{
	uint8_t *at = dev.disk + io->lba * dev.bdev.block_size;

	for (unsigned i = 0; i < io->iovcnt; i++) {
		if (io->op == BDEV_READ) {
			memcpy(io->iov[i].iov_base, at, io->iov[i].iov_len);
		} else {
			memcpy(at, io->iov[i].iov_base, io->iov[i].iov_len);
		}
		at += io->iov[i].iov_len;
	}
}

static void
dev_submit(struct bdev_channel *ch, struct bdev_io *io)
{
	dev.ops[io->op]++;
	dev.last_flags = io->flags;
	dev.last_base = io->iovcnt > 0 ? io->iov[0].iov_base : NULL;
	if (dev.hold) {
		dev.held[dev.held_count++] = io;
		return;
	}
	if (dev.fail == 0 && (io->op == BDEV_READ || io->op == BDEV_WRITE)) {
		dev_move(io);
	} else if (dev.fail == 0 && (io->op == BDEV_UNMAP || io->op == BDEV_WRITE_ZEROES)) {
		memset(dev.disk + io->lba * dev.bdev.block_size, 0, io->num_blocks * dev.bdev.block_size);
	}
	if (dev.before_complete != NULL) {
		dev.before_complete();
	}
	bdev_io_complete(io, dev.fail);
}

static void
dev_destruct(struct bdev *bdev)
{
}

static const struct bdev_ops dev_ops = {.module_name = "test", .destruct = dev_destruct, .submit = dev_submit};

/* ---- Fixture ---- */

static struct {
	struct reactor *reactor;
	struct thread *control, *io;
	struct memmap *map;
	uint8_t *memory;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	struct vhost_controller ctrlr;
	struct vhost_queue q;
	struct msg msg, io_msg;
	void (*fn)(void);
	int answers, status;
	unsigned next_desc;
	int kick;
	int failures;
} fix;

static void
spin(void)
{
	for (int i = 0; i < 20; i++) {
		reactor_poll_once(fix.reactor);
	}
}

static void
call_fn(struct msg *msg)
{
	fix.fn();
}

static void
on_thread(struct thread *t, void (*fn)(void))
{
	fix.fn = fn;
	thread_send(t, &fix.msg, call_fn);
	spin();
}

static void
answered(struct vhost_queue *q, int status)
{
	fix.answers++;
	fix.status = status;
}

static void
no_event(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
}

static void
open_bdev(void)
{
	struct err err;

	assert_int_equal(bdev_register(&dev.bdev, &err), 0);
	assert_int_equal(bdev_open("test0", !fix.ctrlr.readonly, no_event, NULL, &fix.ctrlr.desc, &err), 0);
}

static void
start_queue(void)
{
	vhost_queue_send(&fix.q, VHOST_QUEUE_START, answered);
}

static void
stop_queue(void)
{
	vhost_queue_send(&fix.q, VHOST_QUEUE_STOP, answered);
}

static void
close_bdev(void)
{
	bdev_close(fix.ctrlr.desc);
	bdev_unregister(&dev.bdev, NULL, NULL);
}

static struct memmap *
guest_memory(void)
{
	struct memmap *empty = memmap_create(), *map;
	int fd = memfd_create("guest", MFD_CLOEXEC);
	struct err err;

	assert_int_equal(ftruncate(fd, MEMORY), 0);
	map = memmap_add(empty, GPA, MEMORY, GPA, fd, 0, &err);
	assert_non_null(map);
	memmap_put(empty);
	close(fd);
	return map;
}

static int
setup_with(uint32_t block_size, bool readonly)
{
	struct err err;

	memset(&fix, 0, sizeof(fix));
	memset(&dev, 0, sizeof(dev));
	dev.disk = malloc(DISK_BYTES);
	for (unsigned i = 0; i < DISK_BYTES; i++) {
		dev.disk[i] = (uint8_t)(i / 512 + i * 7);
	}
	dev.bdev.ops = &dev_ops;
	dev.bdev.name = (char *)(uintptr_t) "test0";
	dev.bdev.product_name = "test";
	dev.bdev.block_size = block_size;
	dev.bdev.num_blocks = DISK_BYTES / block_size;
	dev.bdev.buffer_align = 1;
	dev.bdev.ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH | 1u << BDEV_UNMAP |
			    1u << BDEV_WRITE_ZEROES;
	fix.reactor = reactor_create(0, -1, REACTOR_INTERRUPT, &err);
	fix.control = thread_create("control", fix.reactor);
	fix.io = thread_create("io", fix.reactor);
	fix.map = guest_memory();
	fix.memory = fix.map->regions[0].hva;
	fix.desc = (struct vring_desc *)(void *)fix.memory;
	fix.avail = (struct vring_avail *)(void *)(fix.memory + virtq_desc_bytes(RING));
	fix.used = (struct vring_used *)(void *)(fix.memory + 0x80000);
	fix.ctrlr.ops = &vhost_blk_ops;
	fix.ctrlr.readonly = readonly;
	fix.ctrlr.name = "ctrlr";
	fix.kick = eventfd(0, EFD_NONBLOCK);
	on_thread(fix.control, open_bdev);
	fix.q.ctrlr = &fix.ctrlr;
	fix.q.thread = fix.io;
	fix.q.next = (struct vhost_queue_setup){.size = RING, .desc = fix.desc, .avail = fix.avail,
		.used = fix.used, .map = fix.map, .kick_fd = fix.kick, .call_fd = -1, .indirect = true};
	on_thread(fix.control, start_queue);
	assert_int_equal(fix.answers, 1);
	assert_int_equal(fix.status, 0);
	return 0;
}

static int
setup(void **state)
{
	return setup_with(512, false);
}

static int
setup_4k(void **state)
{
	return setup_with(4096, false);
}

static int
setup_readonly(void **state)
{
	return setup_with(512, true);
}

static void
exit_thread(void)
{
	thread_exit();
}

static int
teardown(void **state)
{
	clock_set_fake_ns(UINT64_MAX);
	fix.answers = 0;
	on_thread(fix.control, stop_queue);
	assert_int_equal(fix.answers, 1);
	assert_int_equal(fix.q.inflight, 0);
	on_thread(fix.control, close_bdev);
	on_thread(fix.io, exit_thread);
	on_thread(fix.control, exit_thread);
	reactor_free(fix.reactor);
	close(fix.kick);
	memmap_put(fix.map);
	free(dev.disk);
	return 0;
}

/* ---- A driver ---- */

struct part {
	const void *bytes; /* copied into guest memory for the device to read; NULL: device-writable */
	uint32_t len;
};

/* Offset in guest memory of the i-th part of the chain offered last. */
static uint32_t part_at[2048];

static uint16_t
offer(const struct part *parts, unsigned count)
{
	uint64_t one = 1;
	unsigned first = fix.next_desc;
	static uint32_t cursor;

	if (fix.avail->idx == 0) {
		cursor = DATA_AT;
	}
	for (unsigned i = 0; i < count; i++) {
		part_at[i] = cursor;
		if (parts[i].bytes != NULL) {
			memcpy(fix.memory + cursor, parts[i].bytes, parts[i].len);
		} else {
			memset(fix.memory + cursor, 0xee, parts[i].len);
		}
		fix.desc[first + i] = (struct vring_desc){
			.addr = GPA + cursor,
			.len = parts[i].len,
			.flags = (uint16_t)((i + 1 < count ? VRING_DESC_F_NEXT : 0) |
					    (parts[i].bytes == NULL ? VRING_DESC_F_WRITE : 0)),
			.next = (uint16_t)(first + i + 1),
		};
		cursor += parts[i].len + 1;
	}
	fix.next_desc += count;
	fix.avail->ring[fix.avail->idx % RING] = (uint16_t)first;
	fix.avail->idx++;
	assert_int_equal(write(fix.kick, &one, sizeof(one)), sizeof(one));
	return (uint16_t)first;
}

static void
poll_until(uint16_t used_idx)
{
	for (int i = 0; i < 20000 && fix.used->idx != used_idx; i++) {
		reactor_poll_once(fix.reactor);
		usleep(20);
	}
	assert_int_equal(fix.used->idx, used_idx);
}

static const struct vring_used_elem *
last_used(void)
{
	return &fix.used->ring[(uint16_t)(fix.used->idx - 1) % RING];
}

/* Offers, waits, and returns the last byte of the last part: the status where the chain has one. */
static uint8_t
run(const struct part *parts, unsigned count)
{
	uint16_t head = offer(parts, count);

	poll_until((uint16_t)(fix.used->idx + 1));
	assert_int_equal(last_used()->id, head);
	return fix.memory[part_at[count - 1] + parts[count - 1].len - 1];
}

static struct virtio_blk_outhdr
header(uint32_t type, uint64_t sector)
{
	return (struct virtio_blk_outhdr){.type = type, .sector = sector};
}

static uint8_t
read_sectors(uint64_t sector, uint32_t len)
{
	struct virtio_blk_outhdr h = header(VIRTIO_BLK_T_IN, sector);
	const struct part parts[] = {{&h, sizeof(h)}, {NULL, len}, {NULL, 1}};

	return run(parts, 3);
}

static uint8_t
write_sectors(uint64_t sector, uint32_t len)
{
	static uint8_t data[65536];
	struct virtio_blk_outhdr h = header(VIRTIO_BLK_T_OUT, sector);
	const struct part parts[] = {{&h, sizeof(h)}, {data, len}, {NULL, 1}};

	memset(data, (int)sector + 1, len);
	return run(parts, 3);
}

/* ---- Reading and writing ---- */

static void
test_read_in_place(void **state)
{
	assert_int_equal(read_sectors(3, 1024), VIRTIO_BLK_S_OK);
	assert_memory_equal(fix.memory + part_at[1], dev.disk + 3 * 512, 1024);
	assert_int_equal(last_used()->len, 1025);
	/* The bdev saw the guest's own buffer. */
	assert_ptr_equal(dev.last_base, fix.memory + part_at[1]);
}

static void
test_write_in_place(void **state)
{
	assert_int_equal(write_sectors(5, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(dev.disk[5 * 512], 6);
	assert_int_equal(dev.disk[6 * 512 - 1], 6);
	assert_int_equal(last_used()->len, 1);
	assert_ptr_equal(dev.last_base, fix.memory + part_at[1]);
}

static void
test_many_segments(void **state)
{
	struct virtio_blk_outhdr h = header(VIRTIO_BLK_T_IN, 0);
	struct part parts[130] = {{&h, sizeof(h)}};
	unsigned n = 1;

	for (; n < 129; n++) {
		parts[n] = (struct part){NULL, 512};
	}
	parts[n++] = (struct part){NULL, 1};
	for (int round = 0; round < 3; round++) {
		assert_int_equal(run(parts, n), VIRTIO_BLK_S_OK);
		for (unsigned i = 0; i < 128; i++) {
			assert_memory_equal(fix.memory + part_at[1 + i], dev.disk + 512 * i, 512);
		}
	}
}

/* CVE-2022-2132: framing is the driver's business. */
static void
test_header_in_single_bytes(void **state)
{
	struct virtio_blk_outhdr h = header(VIRTIO_BLK_T_IN, 2);
	struct part parts[18];

	for (unsigned i = 0; i < 16; i++) {
		parts[i] = (struct part){(uint8_t *)&h + i, 1};
	}
	parts[16] = (struct part){NULL, 512};
	parts[17] = (struct part){NULL, 1};
	assert_int_equal(run(parts, 18), VIRTIO_BLK_S_OK);
	assert_memory_equal(fix.memory + part_at[16], dev.disk + 1024, 512);
}

static void
test_header_joined_with_data(void **state)
{
	uint8_t out[16 + 512];
	struct virtio_blk_outhdr h = header(VIRTIO_BLK_T_OUT, 9);
	struct part parts[] = {{out, sizeof(out)}, {NULL, 1}};

	memcpy(out, &h, sizeof(h));
	memset(out + 16, 0x77, 512);
	assert_int_equal(run(parts, 2), VIRTIO_BLK_S_OK);
	assert_int_equal(dev.disk[9 * 512 + 511], 0x77);
}

static void
test_status_joined_with_data(void **state)
{
	struct virtio_blk_outhdr h = header(VIRTIO_BLK_T_IN, 1);
	struct part parts[] = {{&h, sizeof(h)}, {NULL, 513}};

	assert_int_equal(run(parts, 2), VIRTIO_BLK_S_OK);
	assert_memory_equal(fix.memory + part_at[1], dev.disk + 512, 512);
	assert_int_equal(last_used()->len, 513);
}

static void
test_beyond_the_end(void **state)
{
	static const uint64_t bad[] = {DISK_BYTES / 512, DISK_BYTES / 512 - 1, UINT64_C(1) << 55,
		UINT64_C(1) << 63, UINT64_MAX, UINT64_MAX - 1, (UINT64_C(1) << 55) + 1};

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(read_sectors(bad[i], 1024), VIRTIO_BLK_S_IOERR);
		assert_int_equal(write_sectors(bad[i], 1024), VIRTIO_BLK_S_IOERR);
	}
	assert_int_equal(dev.ops[BDEV_READ] + dev.ops[BDEV_WRITE], 0);
}

static void
test_odd_lengths(void **state)
{
	assert_int_equal(read_sectors(0, 511), VIRTIO_BLK_S_IOERR);
	assert_int_equal(read_sectors(0, 513), VIRTIO_BLK_S_IOERR);
	assert_int_equal(write_sectors(0, 100), VIRTIO_BLK_S_IOERR);
	assert_int_equal(read_sectors(0, 0), VIRTIO_BLK_S_IOERR);
}

static void
test_wrong_direction(void **state)
{
	uint8_t data[512] = {0};
	struct virtio_blk_outhdr in = header(VIRTIO_BLK_T_IN, 0), out = header(VIRTIO_BLK_T_OUT, 0);
	const struct part read_of_readable[] = {{&in, sizeof(in)}, {data, 512}, {NULL, 1}};
	const struct part write_of_writable[] = {{&out, sizeof(out)}, {NULL, 512}, {NULL, 1}};

	assert_int_equal(run(read_of_readable, 3), VIRTIO_BLK_S_IOERR);
	assert_int_equal(run(write_of_writable, 3), VIRTIO_BLK_S_IOERR);
	assert_int_equal(dev.ops[BDEV_READ] + dev.ops[BDEV_WRITE], 0);
}

/* CVE-2026-86566: chains of which nothing can be made come back with nothing written. */
static void
test_runts(void **state)
{
	uint8_t h[16] = {0};
	const struct part no_status[] = {{h, 16}};
	const struct part short_header[] = {{h, 15}, {NULL, 1}};
	const struct part no_header[] = {{NULL, 512}, {NULL, 1}};
	const struct part both_ways[] = {{h, 16}, {h, 16}, {NULL, 512}, {NULL, 1}};

	run(no_status, 1);
	assert_int_equal(last_used()->len, 0);
	run(short_header, 2);
	assert_int_equal(last_used()->len, 0);
	run(no_header, 2);
	assert_int_equal(last_used()->len, 0);
	run(both_ways, 4);
	assert_int_equal(last_used()->len, 0);
	assert_int_equal(vhost_counter(&fix.q.counters.malformed), 4);
	/* And the ring goes on. */
	assert_int_equal(read_sectors(0, 512), VIRTIO_BLK_S_OK);
}

static void
test_bdev_errors(void **state)
{
	dev.fail = -EIO;
	assert_int_equal(read_sectors(0, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(last_used()->len, 1);
	dev.fail = -ENOSPC;
	assert_int_equal(write_sectors(0, 512), VIRTIO_BLK_S_IOERR);
	dev.fail = -EOPNOTSUPP;
	assert_int_equal(read_sectors(0, 512), VIRTIO_BLK_S_UNSUPP);
}

static void
test_4k_blocks(void **state)
{
	assert_int_equal(read_sectors(8, 4096), VIRTIO_BLK_S_OK);
	assert_memory_equal(fix.memory + part_at[1], dev.disk + 4096, 4096);
	assert_int_equal(read_sectors(4, 4096), VIRTIO_BLK_S_IOERR);
	assert_int_equal(read_sectors(8, 512), VIRTIO_BLK_S_IOERR);
}

static void
test_readonly(void **state)
{
	assert_int_equal(read_sectors(0, 512), VIRTIO_BLK_S_OK);
	assert_int_equal(write_sectors(0, 512), VIRTIO_BLK_S_IOERR);
	assert_int_equal(dev.ops[BDEV_WRITE], 0);
	assert_true(vhost_blk_ops.features(&fix.ctrlr) & (1ull << VIRTIO_BLK_F_RO));
	assert_false(vhost_blk_ops.features(&fix.ctrlr) & (1ull << VIRTIO_BLK_F_DISCARD));
}

/* ---- Other requests ---- */

static void
test_flush(void **state)
{
	struct virtio_blk_outhdr h = header(VIRTIO_BLK_T_FLUSH, 0);
	const struct part parts[] = {{&h, sizeof(h)}, {NULL, 1}};

	assert_int_equal(run(parts, 2), VIRTIO_BLK_S_OK);
	assert_int_equal(dev.ops[BDEV_FLUSH], 1);
}

static void
test_get_id(void **state)
{
	struct virtio_blk_outhdr h = header(VIRTIO_BLK_T_GET_ID, 0);
	const struct part parts[] = {{&h, sizeof(h)}, {NULL, 20}, {NULL, 1}};
	const struct part small[] = {{&h, sizeof(h)}, {NULL, 19}, {NULL, 1}};

	assert_int_equal(run(parts, 3), VIRTIO_BLK_S_OK);
	assert_string_equal((char *)fix.memory + part_at[1], "test0");
	assert_int_equal(fix.memory[part_at[1] + 19], 0);
	assert_int_equal(run(small, 3), VIRTIO_BLK_S_IOERR);
}

static void
test_unknown_type(void **state)
{
	struct virtio_blk_outhdr h = header(4711, 0);
	const struct part parts[] = {{&h, sizeof(h)}, {NULL, 1}};

	assert_int_equal(run(parts, 2), VIRTIO_BLK_S_UNSUPP);
}

static uint8_t
segments(uint32_t type, const struct virtio_blk_discard_write_zeroes *seg, uint32_t bytes)
{
	struct virtio_blk_outhdr h = header(type, 0);
	const struct part parts[] = {{&h, sizeof(h)}, {seg, bytes}, {NULL, 1}};

	return run(parts, 3);
}

static void
test_discard_segments(void **state)
{
	struct virtio_blk_discard_write_zeroes seg[33] = {{.sector = 2, .num_sectors = 1}, {.sector = 9, .num_sectors = 2}};

	assert_int_equal(segments(VIRTIO_BLK_T_DISCARD, seg, 32), VIRTIO_BLK_S_OK);
	assert_int_equal(dev.ops[BDEV_UNMAP], 2);
	assert_int_equal(dev.disk[2 * 512 + 511], 0);
	assert_int_not_equal(dev.disk[3 * 512 + 1], 0);
	assert_int_equal(dev.disk[11 * 512 - 1], 0);
	assert_int_equal(segments(VIRTIO_BLK_T_DISCARD, seg, 16 * 32), VIRTIO_BLK_S_OK);
	/* Too many, torn, none. */
	assert_int_equal(segments(VIRTIO_BLK_T_DISCARD, seg, 16 * 33), VIRTIO_BLK_S_IOERR);
	assert_int_equal(segments(VIRTIO_BLK_T_DISCARD, seg, 17), VIRTIO_BLK_S_IOERR);
	assert_int_equal(segments(VIRTIO_BLK_T_DISCARD, seg, 0), VIRTIO_BLK_S_IOERR);
	/* Flags (5.2.6.2), too long, past the end. */
	seg[1].flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	dev.ops[BDEV_UNMAP] = 0;
	assert_int_equal(segments(VIRTIO_BLK_T_DISCARD, seg, 32), VIRTIO_BLK_S_UNSUPP);
	assert_int_equal(dev.ops[BDEV_UNMAP], 0);
	seg[1].flags = 0;
	seg[1].num_sectors = UINT32_MAX;
	assert_int_equal(segments(VIRTIO_BLK_T_DISCARD, seg, 32), VIRTIO_BLK_S_IOERR);
	assert_int_equal(dev.ops[BDEV_UNMAP], 0);
	seg[1].num_sectors = 8;
	seg[1].sector = UINT64_MAX - 3;
	assert_int_equal(segments(VIRTIO_BLK_T_DISCARD, seg, 32), VIRTIO_BLK_S_IOERR);
}

static void
test_write_zeroes_segments(void **state)
{
	struct virtio_blk_discard_write_zeroes seg = {.sector = 4, .num_sectors = 3};

	assert_int_equal(segments(VIRTIO_BLK_T_WRITE_ZEROES, &seg, 16), VIRTIO_BLK_S_OK);
	assert_int_equal(dev.last_flags, 0);
	assert_int_equal(dev.disk[7 * 512 - 1], 0);
	seg.flags = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	assert_int_equal(segments(VIRTIO_BLK_T_WRITE_ZEROES, &seg, 16), VIRTIO_BLK_S_OK);
	assert_int_equal(dev.last_flags, BDEV_IO_MAY_UNMAP);
	seg.flags = 2;
	assert_int_equal(segments(VIRTIO_BLK_T_WRITE_ZEROES, &seg, 16), VIRTIO_BLK_S_UNSUPP);
}

/* The guest changes its segments while the first is under way: what was checked is what is used. */
static void
spoil_segments(void)
{
	memset(fix.memory + part_at[1], 0xff, 32);
}

static void
test_segments_are_copied_once(void **state)
{
	struct virtio_blk_discard_write_zeroes seg[2] = {{.sector = 2, .num_sectors = 1}, {.sector = 9, .num_sectors = 2}};

	dev.before_complete = spoil_segments;
	assert_int_equal(segments(VIRTIO_BLK_T_DISCARD, seg, 32), VIRTIO_BLK_S_OK);
	assert_int_equal(dev.disk[9 * 512], 0);
	assert_int_equal(dev.disk[11 * 512 - 1], 0);
}

static void
complete_held(void)
{
	dev.hold = false;
	for (unsigned i = dev.held_count; i-- > 0;) {
		bdev_io_complete(dev.held[i], 0);
	}
	dev.held_count = 0;
}

/* More chains than the pool has requests: they wait, none fails. */
static void
test_pool_runs_empty(void **state)
{
	struct virtio_blk_outhdr h = header(VIRTIO_BLK_T_FLUSH, 0);
	const struct part parts[] = {{&h, sizeof(h)}, {NULL, 1}};
	unsigned count = 6000;

	dev.hold = true;
	for (unsigned i = 0; i < count; i++) {
		offer(parts, 2);
	}
	for (int i = 0; i < 20000 && !fix.q.starved; i++) {
		reactor_poll_once(fix.reactor);
		usleep(20);
	}
	assert_true(fix.q.starved);
	assert_int_equal(dev.held_count, 4096);
	/* However often it is polled meanwhile, it waits once. */
	for (int i = 0; i < 100; i++) {
		reactor_poll_once(fix.reactor);
	}
	on_thread(fix.io, complete_held);
	poll_until((uint16_t)count);
	assert_int_equal(dev.ops[BDEV_FLUSH], count);
	assert_false(fix.q.starved);
}

/* ---- Memory for requests ---- */

static size_t pool_bytes;

static void
get_pool_bytes(void)
{
	pool_bytes = blk_pool_bytes();
}

static size_t
held_bytes(void)
{
	on_thread(fix.io, get_pool_bytes);
	return pool_bytes;
}

static void
pass_ms(unsigned ms)
{
	clock_set_fake_ns(clock_now_ns() + ms * NS_PER_MS);
	spin();
}

/* Offers count flushes and waits until the bdev has them. */
static void
burst(unsigned count)
{
	struct virtio_blk_outhdr h = header(VIRTIO_BLK_T_FLUSH, 0);
	const struct part parts[] = {{&h, sizeof(h)}, {NULL, 1}};
	unsigned before = dev.ops[BDEV_FLUSH];

	for (unsigned i = 0; i < count; i++) {
		offer(parts, 2);
	}
	for (int i = 0; i < 20000 && dev.ops[BDEV_FLUSH] != before + count; i++) {
		reactor_poll_once(fix.reactor);
	}
	assert_int_equal(dev.ops[BDEV_FLUSH], before + count);
}

static void
test_a_burst_is_given_back(void **state)
{
	size_t one, kept;

	clock_set_fake_ns(clock_now_ns());
	burst(1);
	one = held_bytes() / BLK_POOL_GROW;
	kept = (BLK_POOL_KEEP + 1) * one;
	assert_true(one > sizeof(struct bdev_io));
	/* What is small stays, and asks for no timer. */
	dev.hold = true;
	burst(BLK_POOL_KEEP);
	on_thread(fix.io, complete_held);
	assert_int_equal(reactor_next_timer_ns(fix.reactor), UINT64_MAX);
	dev.hold = true;
	burst(1000);
	assert_true(held_bytes() > 1000 * (one / 2));
	/* In use: not now. */
	pass_ms(3 * BLK_TRIM_US / 1000);
	assert_true(held_bytes() > 1000 * (one / 2));
	on_thread(fix.io, complete_held);
	assert_true(held_bytes() > 1000 * (one / 2));
	pass_ms(BLK_TRIM_US / 1000 + 1);
	assert_true(held_bytes() < kept);
	assert_int_equal(reactor_next_timer_ns(fix.reactor), UINT64_MAX);
	/* And again. */
	dev.hold = true;
	burst(500);
	on_thread(fix.io, complete_held);
	pass_ms(BLK_TRIM_US / 1000 + 1);
	assert_true(held_bytes() < kept);
	assert_int_equal(fix.used->idx, 1 + BLK_POOL_KEEP + 1000 + 500);
}

/* Blocks for requests of many segments. */
static void
test_long_requests_are_given_back(void **state)
{
	struct virtio_blk_outhdr h = header(VIRTIO_BLK_T_IN, 0);
	struct part parts[12] = {{&h, sizeof(h)}};
	size_t before;

	clock_set_fake_ns(clock_now_ns());
	assert_int_equal(read_sectors(0, 512), VIRTIO_BLK_S_OK);
	before = held_bytes();
	for (unsigned i = 1; i < 11; i++) {
		parts[i] = (struct part){NULL, 512};
	}
	parts[11] = (struct part){NULL, 1};
	dev.hold = true;
	offer(parts, 12);
	offer(parts, 12);
	spin();
	assert_int_equal(held_bytes(), before + 2 * sizeof(union blk_big));
	pass_ms(BLK_TRIM_US / 1000 + 1);
	assert_int_equal(held_bytes(), before + 2 * sizeof(union blk_big));
	on_thread(fix.io, complete_held);
	pass_ms(BLK_TRIM_US / 1000 + 1);
	assert_int_equal(held_bytes(), before);
	assert_int_equal(reactor_next_timer_ns(fix.reactor), UINT64_MAX);
}

static void
failed(struct vhost_queue *q)
{
	fix.failures++;
}

/* A driver that never waits for completions would take everybody's requests. */
static void
test_more_chains_than_descriptors(void **state)
{
	struct virtio_blk_outhdr h = header(VIRTIO_BLK_T_FLUSH, 0);
	const struct part parts[] = {{&h, sizeof(h)}, {NULL, 1}};

	fix.q.on_failed = failed;
	dev.hold = true;
	for (unsigned i = 0; i < 3000; i++) {
		offer(parts, 2);
	}
	for (int i = 0; i < 20000 && dev.held_count < 3000; i++) {
		reactor_poll_once(fix.reactor);
	}
	assert_int_equal(dev.held_count, 3000);
	fix.avail->idx = (uint16_t)(fix.avail->idx + RING - 2999);
	spin();
	assert_int_equal(fix.failures, 1);
	on_thread(fix.io, complete_held);
}

/* All segments name the same memory: small for the guest, long for us. */
static void
test_request_too_long(void **state)
{
	struct virtio_blk_outhdr h = header(VIRTIO_BLK_T_IN, 0);
	struct part parts[20] = {{&h, sizeof(h)}};

	for (unsigned i = 1; i < 19; i++) {
		parts[i] = (struct part){NULL, 512};
	}
	parts[19] = (struct part){NULL, 1};
	offer(parts, 20);
	for (unsigned i = 1; i < 19; i++) {
		fix.desc[fix.next_desc - 20 + i].addr = GPA;
		fix.desc[fix.next_desc - 20 + i].len = 2 << 20;
	}
	poll_until(1);
	assert_int_equal(fix.memory[part_at[19]], VIRTIO_BLK_S_IOERR);
	assert_int_equal(dev.ops[BDEV_READ], 0);
}

static void
test_config(void **state)
{
	struct virtio_blk_config c = {0};

	vhost_blk_ops.get_config(&fix.ctrlr, &c);
	assert_int_equal(c.capacity, DISK_BYTES / 512);
	assert_int_equal(c.blk_size, dev.bdev.block_size);
	assert_int_equal(c.seg_max, 126);
	assert_int_equal(c.max_discard_seg, 32);
	assert_true(vhost_blk_ops.features(&fix.ctrlr) & (1ull << VIRTIO_BLK_F_FLUSH));
	assert_true(vhost_blk_ops.features(&fix.ctrlr) & (1ull << VIRTIO_BLK_F_DISCARD));
	assert_int_equal(vhost_blk_ops.set_config(&fix.ctrlr, 0, 8, &c), -EOPNOTSUPP);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_read_in_place),
		TEST(test_write_in_place),
		TEST(test_many_segments),
		TEST(test_header_in_single_bytes),
		TEST(test_header_joined_with_data),
		TEST(test_status_joined_with_data),
		TEST(test_beyond_the_end),
		TEST(test_odd_lengths),
		TEST(test_wrong_direction),
		TEST(test_runts),
		TEST(test_bdev_errors),
		cmocka_unit_test_setup_teardown(test_4k_blocks, setup_4k, teardown),
		cmocka_unit_test_setup_teardown(test_readonly, setup_readonly, teardown),
		TEST(test_flush),
		TEST(test_get_id),
		TEST(test_unknown_type),
		TEST(test_discard_segments),
		TEST(test_write_zeroes_segments),
		TEST(test_segments_are_copied_once),
		TEST(test_pool_runs_empty),
		TEST(test_a_burst_is_given_back),
		TEST(test_long_requests_are_given_back),
		TEST(test_more_chains_than_descriptors),
		TEST(test_request_too_long),
		TEST(test_config),
		cmocka_unit_test_setup_teardown(test_config, setup_4k, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
