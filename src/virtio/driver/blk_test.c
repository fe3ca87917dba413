/* SPDX-License-Identifier: BSD-3-Clause */
/* The front end and its block requests against a back end that does as it is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "virtio/driver/backend_model.h"
#include "virtio/driver/blk.h"

static struct model model;
static struct driver_blk *blk;
static struct err err;

static int
setup(void **state)
{
	model_init(&model);
	blk = NULL;
	err = ERR_NONE;
	return 0;
}

static int
teardown(void **state)
{
	driver_blk_close(blk);
	model_stop(&model);
	return 0;
}

/* Once more within one test. */
static void
again(void)
{
	teardown(NULL);
	setup(NULL);
}

static int
try_open(const struct driver_blk_options *with)
{
	struct driver_blk_options options = *with;

	options.path = model.path;
	options.data_bytes = 256 * 1024;
	options.timeout_ms = options.timeout_ms == 0 ? 60000 : options.timeout_ms;
	model_start(&model);
	return driver_blk_open(&options, &blk, &err);
}

static void
open_with(const struct driver_blk_options *options)
{
	int rc = try_open(options);

	if (rc != 0) {
		fail_msg("%s", err.text);
	}
}

static bool
readable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	return poll(&p, 1, 0) == 1;
}

static struct driver_blk_request
request(uint32_t type, uint64_t sector, const struct iovec *iov, unsigned iovcnt)
{
	return (struct driver_blk_request){.type = type,
					   .sector = sector,
					   .iov = iov,
					   .iovcnt = (uint16_t)iovcnt,
					   .in = type == VIRTIO_BLK_T_IN};
}

/* Submits, lets the model serve and polls, all of one request. */
static int
execute(struct driver_blk_queue *q, struct driver_blk_request *req)
{
	struct driver_blk_request *done[4];

	assert_int_equal(driver_blk_submit(q, req), 0);
	driver_blk_kick(q);
	assert_int_equal(driver_blk_poll(q, done, 4), 0);
	model_serve(&model, q->index, false);
	assert_true(driver_blk_ready(q));
	assert_int_equal(driver_blk_poll(q, done, 4), 1);
	assert_ptr_equal(done[0], req);
	assert_int_equal(driver_blk_inflight(q), 0);
	return req->status;
}

static void
fill(uint8_t *buf, size_t bytes, unsigned seed)
{
	for (size_t i = 0; i < bytes; i++) {
		buf[i] = (uint8_t)(seed * 37 + i * 11 + i / 256);
	}
}

/* ---- Data ---- */

/*
 * Every shape of request: how many segments, with and without tables, one after another in the
 * same slots.
 */
static void
reads_what_it_wrote(void **state)
{
	static const struct driver_blk_options variants[] = {
		{.queue_size = 8},
		{.queue_size = 8, .segments = 2},
		{.queue_size = 8, .segments = 9},
		{.queue_size = 8, .segments = 9, .indirect = true},
		{.queue_size = 256, .segments = 3, .no_event_idx = true, .poison_status = true},
	};

	for (unsigned v = 0; v < ARRAY_SIZE(variants); v++) {
		unsigned most = variants[v].segments == 0 ? 1 : variants[v].segments;
		uint8_t *buf, *back;

		open_with(&variants[v]);
		assert_int_equal(driver_blk_sectors(blk), MODEL_DISK_BYTES / 512);
		buf = driver_blk_alloc(blk, 16384, 4096);
		back = driver_blk_alloc(blk, 16384, 4096);
		for (unsigned i = 0; i < 200; i++) {
			unsigned segments = 1 + i % most, sector = i * 7 % 64;
			struct iovec out[9], in[9];
			struct driver_blk_request w =
				request(VIRTIO_BLK_T_OUT, sector, out, segments);
			struct driver_blk_request r =
				request(VIRTIO_BLK_T_IN, sector, in, segments);
			struct driver_blk_request f = request(VIRTIO_BLK_T_FLUSH, 0, NULL, 0);

			for (unsigned s = 0; s < segments; s++) {
				out[s] = (struct iovec){buf + (s * 1024), 512};
				in[s] = (struct iovec){back + (s * 1536), 512};
			}
			fill(buf, 16384, i);
			memset(back, 0, 16384);
			assert_int_equal(execute(&blk->queues[0], &w), 0);
			assert_int_equal(execute(&blk->queues[0], &f), 0);
			assert_int_equal(execute(&blk->queues[0], &r), 0);
			assert_int_equal(r.used_bytes, segments * 512 + 1);
			for (unsigned s = 0; s < segments; s++) {
				assert_memory_equal(out[s].iov_base, in[s].iov_base, 512);
			}
		}
		again();
	}
}

/*
 * A slot's descriptors are written again whenever the next request needs others, and only its
 * own count.
 */
static void
slot_changes_its_shape(void **state)
{
	struct driver_blk_request w, r, f;
	struct iovec iov, shorter;
	uint8_t *buf;

	open_with(&(struct driver_blk_options){.queue_size = 4});
	buf = driver_blk_alloc(blk, 1024, 512);
	iov = (struct iovec){buf, 1024};
	shorter = (struct iovec){buf, 512};
	w = request(VIRTIO_BLK_T_OUT, 0, &iov, 1);
	r = request(VIRTIO_BLK_T_IN, 0, &iov, 1);
	f = request(VIRTIO_BLK_T_FLUSH, 0, NULL, 0);
	fill(buf, 1024, 1);
	assert_int_equal(execute(&blk->queues[0], &w), 0);
	fill(model.disk, 1024, 2);
	assert_int_equal(execute(&blk->queues[0], &r), 0); /* the same buffer the other way */
	assert_memory_equal(buf, model.disk, 1024);
	assert_int_equal(execute(&blk->queues[0], &f), 0);
	fill(model.disk, 1024, 3);
	assert_int_equal(execute(&blk->queues[0], &r), 0); /* as before the flush */
	assert_memory_equal(buf, model.disk, 1024);
	r.iov = &shorter;
	assert_int_equal(execute(&blk->queues[0], &r), 0);
	assert_int_equal(r.used_bytes, 513);
}

/* Rings and tables do not eat the memory that was asked for. */
static void
memory_for_data_is_there(void **state)
{
	static const struct driver_blk_options variants[] = {
		{0},
		{.queues = 4, .queue_size = 1024, .segments = 126},
		{.queue_size = 4096, .indirect = true}};

	for (unsigned i = 0; i < ARRAY_SIZE(variants); i++) {
		open_with(&variants[i]);
		assert_non_null(driver_blk_alloc(blk, 256 * 1024, 64));
		again();
	}
}

/*
 * Many in flight, ended in both orders, on several queues: every one comes back once, with its
 * own data.
 */
static void
many_in_flight(void **state)
{
	enum { QUEUES = 3, DEPTH = 32 };
	struct driver_blk_request reqs[DEPTH];
	struct driver_blk_request *done[DEPTH];
	struct iovec iov[DEPTH];
	uint8_t *buf;

	open_with(&(struct driver_blk_options){.queues = QUEUES, .queue_size = 4 * DEPTH});
	fill(model.disk, MODEL_DISK_BYTES, 5);
	buf = driver_blk_alloc(blk, DEPTH * 512, 4096);
	for (unsigned round = 0; round < 600; round++) {
		struct driver_blk_queue *q = &blk->queues[round % QUEUES];
		unsigned n = 1 + round * 13 % DEPTH, got = 0;

		memset(buf, 0, DEPTH * 512);
		for (unsigned i = 0; i < n; i++) {
			iov[i] = (struct iovec){buf + i * 512, 512};
			reqs[i] = request(VIRTIO_BLK_T_IN, (round + i * 3) % 128, &iov[i], 1);
			assert_int_equal(driver_blk_submit(q, &reqs[i]), 0);
		}
		assert_int_equal(driver_blk_inflight(q), n);
		driver_blk_kick(q);
		assert_int_equal(model_serve(&model, q->index, round % 2), n);
		while (got < n) {
			int k = driver_blk_poll(q, done, 5);

			assert_in_range(k, 1, 5);
			got += (unsigned)k;
			for (int i = 0; i < k; i++) {
				assert_int_equal(done[i]->status, 0);
				assert_memory_equal(done[i]->iov->iov_base,
						    model.disk + done[i]->sector * 512, 512);
				done[i]->iov = NULL; /* a second time would crash */
			}
		}
		assert_int_equal(driver_blk_poll(q, done, 5), 0);
		assert_int_equal(driver_blk_inflight(q), 0);
	}
}

static void
full_queue_says_so(void **state)
{
	struct driver_blk_request reqs[3], *done[3];
	struct iovec iov;

	open_with(&(struct driver_blk_options){.queue_size = 8});
	iov = (struct iovec){driver_blk_alloc(blk, 512, 512), 512};
	for (unsigned i = 0; i < 3; i++) {
		reqs[i] = request(VIRTIO_BLK_T_IN, 0, &iov, 1);
		assert_int_equal(driver_blk_submit(&blk->queues[0], &reqs[i]), i < 2 ? 0 : -EAGAIN);
	}
	driver_blk_kick(&blk->queues[0]);
	model_serve(&model, 0, false);
	assert_int_equal(driver_blk_poll(&blk->queues[0], done, 3), 2);
	assert_int_equal(driver_blk_submit(&blk->queues[0], &reqs[2]), 0);
}

static void
refuses_foreign_buffers(void **state)
{
	static uint8_t outside[512];
	struct iovec iov = {outside, sizeof(outside)};
	struct driver_blk_request req = request(VIRTIO_BLK_T_IN, 0, &iov, 1);

	open_with(&(struct driver_blk_options){0});
	assert_int_equal(driver_blk_submit(&blk->queues[0], &req), -EINVAL);
	iov.iov_base = blk->dev->mem + blk->dev->mem_bytes - 511;
	assert_int_equal(driver_blk_submit(&blk->queues[0], &req), -EINVAL);
	iov.iov_base = blk->dev->mem + blk->dev->mem_bytes - 512;
	assert_int_equal(driver_blk_submit(&blk->queues[0], &req), 0);
	req.iovcnt = 2; /* more than was asked for */
	assert_int_equal(driver_blk_submit(&blk->queues[0], &req), -EINVAL);
}

static void
statuses(void **state)
{
	struct iovec iov;
	struct driver_blk_request req;

	open_with(&(struct driver_blk_options){.poison_status = true});
	iov = (struct iovec){driver_blk_alloc(blk, 512, 512), 512};
	req = request(VIRTIO_BLK_T_IN, 0, &iov, 1);
	assert_int_equal(execute(&blk->queues[0], &req), 0);
	model.status = VIRTIO_BLK_S_IOERR;
	assert_int_equal(execute(&blk->queues[0], &req), -EIO);
	model.status = VIRTIO_BLK_S_UNSUPP;
	assert_int_equal(execute(&blk->queues[0], &req), -EOPNOTSUPP);
	model.status = 77;
	assert_int_equal(execute(&blk->queues[0], &req), -EPROTO);
	model.status = VIRTIO_BLK_S_OK;
	assert_int_equal(execute(&blk->queues[0], &req), 0);
	model.writes_status = false;
	assert_int_equal(execute(&blk->queues[0], &req), -EPROTO);
}

/* A head that is no slot's, or no request's, ends the queue. */
static void
wrong_heads(void **state)
{
	static const uint16_t heads[] = {1, 4, 8};

	for (unsigned i = 0; i < ARRAY_SIZE(heads); i++) {
		struct driver_blk_request req, *done[2];
		struct iovec iov;

		open_with(&(struct driver_blk_options){.queue_size = 8});
		iov = (struct iovec){driver_blk_alloc(blk, 512, 512), 512};
		req = request(VIRTIO_BLK_T_IN, 0, &iov, 1); /* slot 0, head 0 */
		assert_int_equal(driver_blk_submit(&blk->queues[0], &req), 0);
		driver_blk_kick(&blk->queues[0]);
		virtq_complete(&model.queues[0].vq, heads[i], 0);
		virtq_publish(&model.queues[0].vq);
		assert_int_equal(driver_blk_poll(&blk->queues[0], done, 2), -EPROTO);
		again();
	}
}

/* ---- Notification ---- */

static void
kicks_and_calls(void **state)
{
	struct driver_blk_queue *q;
	struct driver_blk_request req, *done[1];
	struct iovec iov;
	uint64_t count;

	open_with(&(struct driver_blk_options){0});
	q = &blk->queues[0];
	iov = (struct iovec){driver_blk_alloc(blk, 512, 512), 512};
	req = request(VIRTIO_BLK_T_IN, 0, &iov, 1);
	/* The very first chain may be announced: event indexes start at 0. */
	assert_int_equal(execute(q, &req), 0);
	(void)!read(model.queues[0].kick_fd, &count, sizeof(count));
	assert_int_equal(execute(q, &req), 0);
	assert_false(readable(model.queues[0].kick_fd)); /* the device polls */
	assert_false(readable(driver_blk_fd(q)));        /* so do we */

	assert_false(virtq_enable_kick(&model.queues[0].vq));
	assert_false(driver_blk_arm(q));
	assert_int_equal(driver_blk_submit(q, &req), 0);
	assert_false(readable(model.queues[0].kick_fd));
	driver_blk_kick(q);
	assert_true(readable(model.queues[0].kick_fd));
	model_serve(&model, 0, false);
	assert_true(readable(driver_blk_fd(q)));
	assert_true(driver_blk_arm(q)); /* there is something: do not wait */
	assert_int_equal(driver_blk_poll(q, done, 1), 1);
}

static void
configuration_changes(void **state)
{
	open_with(&(struct driver_blk_options){0});
	assert_false(driver_vhost_config_changed(blk->dev));
	model.config.capacity = 99;
	model_announce(&model, true);
	model_announce(&model, false);
	assert_true(driver_vhost_config_changed(blk->dev));
	assert_false(driver_vhost_config_changed(blk->dev));
	assert_true(readable(model.backend_fd)); /* the answer to the first one */
	assert_int_equal(driver_blk_refresh(blk, &err), 0);
	assert_int_equal(driver_blk_sectors(blk), 99);
}

/* ---- Set-up ---- */

static void
agrees_on_what_both_have(void **state)
{
	model.features &= ~(1ull << VIRTIO_RING_F_EVENT_IDX);
	model.features |= 1ull << 60;
	model.protocol = 1ull << VHOST_USER_PROTOCOL_F_CONFIG | 1ull << 50;
	open_with(&(struct driver_blk_options){0});
	/*
	 * Without acknowledgements a question that is answered says that everything before was
	 * read.
	 */
	assert_int_equal(driver_blk_refresh(blk, &err), 0);
	assert_int_equal(model.driver_features, model.features & ~(1ull << 60));
	assert_int_equal(model.driver_protocol, 1ull << VHOST_USER_PROTOCOL_F_CONFIG);
	assert_int_equal(model.seen[VHOST_USER_SET_MEM_TABLE], 1);
	assert_int_equal(model.seen[VHOST_USER_ADD_MEM_REG], 0);
	assert_int_equal(model.seen[VHOST_USER_GET_QUEUE_NUM], 0);
	assert_false(blk->queues[0].ring->event_idx);
}

static void
stops_and_starts_again(void **state)
{
	struct driver_ring *r;
	struct driver_blk_request req;
	struct iovec iov;
	uint16_t base = 0;

	open_with(&(struct driver_blk_options){0});
	r = blk->queues[0].ring;
	iov = (struct iovec){driver_blk_alloc(blk, 512, 512), 512};
	req = request(VIRTIO_BLK_T_IN, 0, &iov, 1);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(execute(&blk->queues[0], &req), 0);
	}
	assert_int_equal(driver_vhost_stop_queue(blk->dev, 0, &base, &err), 0);
	assert_int_equal(base, 5);
	assert_int_equal(driver_vhost_start_queue(blk->dev, 0, r->size, r->desc, r->avail, r->used,
						  base, &err),
			 0);
	assert_int_equal(execute(&blk->queues[0], &req), 0);
}

/*
 * Whatever goes wrong at whichever message: an error that names the socket, in time, and nothing
 * is left behind.
 */
static void
set_up_that_fails(void **state)
{
	static const uint32_t requests[] = {
		VHOST_USER_GET_FEATURES,   VHOST_USER_GET_PROTOCOL_FEATURES,
		VHOST_USER_SET_OWNER,      VHOST_USER_SET_FEATURES,
		VHOST_USER_GET_QUEUE_NUM,  VHOST_USER_SET_BACKEND_REQ_FD,
		VHOST_USER_GET_CONFIG,     VHOST_USER_ADD_MEM_REG,
		VHOST_USER_SET_VRING_NUM,  VHOST_USER_SET_VRING_ADDR,
		VHOST_USER_SET_VRING_BASE, VHOST_USER_SET_VRING_KICK,
		VHOST_USER_SET_VRING_CALL, VHOST_USER_SET_VRING_ENABLE,
	};
	static const struct {
		enum model_fault fault;
		int rc;
	} faults[] = {
		{MODEL_HANGS_UP, -ECONNRESET},
		{MODEL_SILENT, -ETIMEDOUT},
		{MODEL_CONFUSED, -EPROTO},
		{MODEL_REFUSES, -EREMOTEIO},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(requests) * ARRAY_SIZE(faults); i++) {
		uint32_t at = requests[i / ARRAY_SIZE(faults)];
		enum model_fault fault = faults[i % ARRAY_SIZE(faults)].fault;

		if (fault == MODEL_REFUSES && vhost_msg_has_reply(VHOST_MSG_REQUEST, at)) {
			continue;
		}
		model.fault_at = at;
		model.fault = fault;
		assert_int_equal(try_open(&(struct driver_blk_options){
					 .timeout_ms = fault == MODEL_SILENT ? 20 : 60000}),
				 faults[i % ARRAY_SIZE(faults)].rc);
		assert_non_null(strstr(err.text, model.path));
		assert_null(blk);
		again();
	}
}

static void
nobody_there(void **state)
{
	struct driver_blk_options options = {.path = model.path, .timeout_ms = 20};

	assert_int_equal(driver_blk_open(&options, &blk, &err), -ENOENT);
	assert_non_null(strstr(err.text, model.path));
}

static void
device_has_too_little(void **state)
{
	model.features &= ~(1ull << VIRTIO_F_VERSION_1);
	assert_int_equal(try_open(&(struct driver_blk_options){0}), -EOPNOTSUPP);
	again();
	assert_int_equal(try_open(&(struct driver_blk_options){.queues = MODEL_QUEUES + 1}),
			 -EINVAL);
	again();
	model.features &= ~(1ull << VIRTIO_RING_F_INDIRECT_DESC);
	assert_int_equal(try_open(&(struct driver_blk_options){.indirect = true}), -EOPNOTSUPP);
	again();
	model.protocol &= ~(1ull << VHOST_USER_PROTOCOL_F_CONFIG);
	assert_int_equal(try_open(&(struct driver_blk_options){0}), -EOPNOTSUPP);
	again();
	model.features &= ~(1ull << VHOST_USER_F_PROTOCOL_FEATURES);
	assert_int_equal(try_open(&(struct driver_blk_options){0}), -EOPNOTSUPP);
}

/* QEMU's back end of 7.2 has 60 bytes of configuration, older ones fewer; more is answered with none. */
static void
short_configurations(void **state)
{
	static const unsigned bytes[] = {60, 36};

	for (size_t i = 0; i < ARRAY_SIZE(bytes); i++) {
		model.config_bytes = bytes[i];
		model.config.capacity = 96;
		open_with(&(struct driver_blk_options){0});
		assert_int_equal(driver_blk_sectors(blk), 96);
		again();
	}
	model.config_bytes = 35;
	assert_int_equal(try_open(&(struct driver_blk_options){0}), -EPROTO);
}

static void
wrong_options(void **state)
{
	static const struct driver_blk_options wrong[] = {
		{.queue_size = 2}, {.queue_size = 100}, {.queue_size = 65536},
		{.queues = 257},   {.segments = 5000},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		assert_int_equal(
			driver_blk_open(
				&(struct driver_blk_options){.path = "/nowhere",
							     .queue_size = wrong[i].queue_size,
							     .queues = wrong[i].queues,
							     .segments = wrong[i].segments},
				&blk, &err),
			-EINVAL);
	}
}

static void
back_end_dies(void **state)
{
	open_with(&(struct driver_blk_options){0});
	assert_true(driver_vhost_alive(blk->dev));
	shutdown(model.fd, SHUT_RDWR);
	assert_false(driver_vhost_alive(blk->dev));
	assert_int_equal(driver_blk_refresh(blk, &err), -ECONNRESET);
}

/* Not for each queue once more. */
static void
silent_at_the_end(void **state)
{
	open_with(&(struct driver_blk_options){.queues = 3});
	model.fault_at = VHOST_USER_GET_VRING_BASE;
	model.fault = MODEL_SILENT;
	blk->dev->timeout_ms = 20;
	driver_blk_close(blk);
	blk = NULL;
	while (atomic_load(&model.fd) >= 0) {
		usleep(1000);
	}
	assert_int_equal(model.seen[VHOST_USER_GET_VRING_BASE], 1);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(reads_what_it_wrote),
		TEST(slot_changes_its_shape),
		TEST(memory_for_data_is_there),
		TEST(many_in_flight),
		TEST(full_queue_says_so),
		TEST(refuses_foreign_buffers),
		TEST(statuses),
		TEST(wrong_heads),
		TEST(kicks_and_calls),
		TEST(configuration_changes),
		TEST(agrees_on_what_both_have),
		TEST(stops_and_starts_again),
		TEST(set_up_that_fails),
		TEST(nobody_there),
		TEST(device_has_too_little),
		TEST(short_configurations),
		TEST(wrong_options),
		TEST(back_end_dies),
		TEST(silent_at_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
