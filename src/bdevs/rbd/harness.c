/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/rbd/harness.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bdevs/rbd/api.h"
#include "testkit/bdev_env.h"

struct fake_completion {
	struct fake_completion *next;
	rbd_callback_t done;
	void *arg;
	ssize_t result;
	char *to; /* of a read: written when it is answered */
	uint64_t offset;
	size_t bytes;
};

struct fake fake = {.lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

/* Handles, of which only the addresses matter. */
static char a_cluster, a_pool, an_image;

static void
until_it_speaks(void)
{
	while (atomic_load(&fake.silent)) {
		usleep(1000);
	}
}

void
fake_mute(bool mute)
{
	pthread_mutex_lock(&fake.lock);
	fake.mute = mute;
	pthread_cond_broadcast(&fake.wake);
	pthread_mutex_unlock(&fake.lock);
}

static int
create_thread(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *arg), void *arg)
{
	if (atomic_load(&fake.no_threads) > 0) {
		atomic_fetch_sub(&fake.no_threads, 1);
		return EAGAIN;
	}
	return pthread_create(thread, attr, fn, arg);
}

/* ---- librados ---- */

static int
create(rados_t *cluster, const char *const id)
{
	atomic_fetch_add(&fake.clusters, 1);
	*cluster = &a_cluster;
	return 0;
}

static int
conf_read_file(rados_t cluster, const char *path)
{
	return path == NULL || strcmp(path, "/nonexistent") == 0 ? -ENOENT : 0;
}

static int
conf_set(rados_t cluster, const char *name, const char *value)
{
	size_t at;

	if (strcmp(name, "colour") == 0) {
		return -ENOENT;
	}
	pthread_mutex_lock(&fake.lock);
	at = strlen(fake.settings);
	snprintf(fake.settings + at, sizeof(fake.settings) - at, "%s=%s;", name, value);
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

static int
connect_to(rados_t cluster)
{
	until_it_speaks();
	return atomic_load(&fake.connect_fails);
}

static void
disconnect(rados_t cluster)
{
	EXPECT(atomic_fetch_sub(&fake.clusters, 1) > 0);
}

static int
pool_open(rados_t cluster, const char *name, rados_ioctx_t *pool)
{
	if (strcmp(name, FAKE_POOL) != 0) {
		return -ENOENT;
	}
	atomic_fetch_add(&fake.pools, 1);
	*pool = &a_pool;
	return 0;
}

static void
pool_close(rados_ioctx_t pool)
{
	EXPECT(pool == &a_pool && atomic_fetch_sub(&fake.pools, 1) > 0);
}

/* ---- Images ---- */

static int
image_open(rados_ioctx_t pool, const char *name, rbd_image_t *image, const char *snapshot)
{
	int rc = atomic_load(&fake.open_fails);

	until_it_speaks();
	if (strcmp(name, FAKE_IMAGE) != 0 || rc != 0) {
		return rc != 0 ? rc : -ENOENT;
	}
	atomic_fetch_add(&fake.images, 1);
	*image = &an_image;
	return 0;
}

static int
image_close(rbd_image_t image)
{
	until_it_speaks();
	/* All is answered, and callbacks have returned. */
	pthread_mutex_lock(&fake.lock);
	EXPECT(fake.asked == 0);
	while (fake.waiting != NULL || fake.answering) {
		pthread_cond_wait(&fake.wake, &fake.lock);
	}
	pthread_mutex_unlock(&fake.lock);
	EXPECT(image == &an_image && atomic_load(&fake.watches) < atomic_load(&fake.images));
	atomic_fetch_sub(&fake.images, 1);
	return 0;
}

static int
get_size(rbd_image_t image, uint64_t *size)
{
	pthread_mutex_lock(&fake.lock);
	*size = fake.bytes;
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

static int
image_stat(rbd_image_t image, rbd_image_info_t *info, size_t bytes)
{
	memset(info, 0, bytes);
	get_size(image, &info->size);
	info->obj_size = FAKE_OBJECT_BYTES;
	return 0;
}

void
fake_resize(uint64_t bytes)
{
	void (*changed)(void *arg);

	pthread_mutex_lock(&fake.lock);
	fake.bytes = bytes;
	changed = fake.changed;
	if (changed != NULL) {
		changed(fake.changed_arg);
	}
	pthread_mutex_unlock(&fake.lock);
}

static int
image_resize(rbd_image_t image, uint64_t bytes)
{
	if (bytes > fake.room) {
		return -ENOSPC;
	}
	fake_resize(bytes);
	return 0;
}

static int
watch(rbd_image_t image, uint64_t *handle, rbd_update_callback_t changed, void *arg)
{
	pthread_mutex_lock(&fake.lock);
	fake.changed = changed;
	fake.changed_arg = arg;
	pthread_mutex_unlock(&fake.lock);
	atomic_fetch_add(&fake.watches, 1);
	*handle = 7;
	return 0;
}

static int
unwatch(rbd_image_t image, uint64_t handle)
{
	EXPECT(handle == 7 && atomic_fetch_sub(&fake.watches, 1) > 0);
	pthread_mutex_lock(&fake.lock);
	fake.changed = NULL;
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

static int
diff(rbd_image_t image, const char *from, uint64_t offset, uint64_t bytes, uint8_t include_parent, uint8_t whole_object,
     int (*tell)(uint64_t, size_t, int, void *), void *arg)
{
	int rc = 0;

	pthread_mutex_lock(&fake.lock);
	fake.asked++;
	while (fake.mute) {
		pthread_cond_wait(&fake.wake, &fake.lock);
	}
	pthread_mutex_unlock(&fake.lock);
	for (uint64_t i = offset / FAKE_OBJECT_BYTES; i * FAKE_OBJECT_BYTES < offset + bytes && rc == 0; i++) {
		uint64_t at = i * FAKE_OBJECT_BYTES > offset ? i * FAKE_OBJECT_BYTES : offset;
		uint64_t end = MIN((i + 1) * FAKE_OBJECT_BYTES, offset + bytes);
		bool there;

		pthread_mutex_lock(&fake.lock);
		there = fake.objects[i];
		pthread_mutex_unlock(&fake.lock);
		rc = there ? tell(at, end - at, 1, arg) : 0;
	}
	pthread_mutex_lock(&fake.lock);
	fake.asked--;
	pthread_mutex_unlock(&fake.lock);
	return rc;
}

/* ---- Requests ---- */

static int
completion_create(void *arg, rbd_callback_t done, rbd_completion_t *ret)
{
	struct fake_completion *c = calloc(1, sizeof(*c));

	EXPECT(c != NULL);
	c->done = done;
	c->arg = arg;
	atomic_fetch_add(&fake.completions, 1);
	*ret = c;
	return 0;
}

static ssize_t
completion_result(rbd_completion_t c)
{
	return ((struct fake_completion *)c)->result;
}

static void
completion_release(rbd_completion_t c)
{
	EXPECT(atomic_fetch_sub(&fake.completions, 1) > 0);
	free(c);
}

static void *
answer(void *arg)
{
	pthread_mutex_lock(&fake.lock);
	while (!fake.stop || fake.waiting != NULL) {
		struct fake_completion *c = fake.waiting;

		if (c == NULL || fake.mute) {
			pthread_cond_wait(&fake.wake, &fake.lock);
			continue;
		}
		fake.waiting = c->next; /* the last first */
		fake.answering = true;
		if (c->to != NULL) {
			memcpy(c->to, fake.data + c->offset, c->bytes);
		}
		pthread_mutex_unlock(&fake.lock);
		c->done(c, c->arg);
		pthread_mutex_lock(&fake.lock);
		fake.answering = false;
		pthread_cond_broadcast(&fake.wake);
	}
	pthread_mutex_unlock(&fake.lock);
	return NULL;
}

/* Whether the request is taken, and will fail or not; with the lock when it is. */
static int
begin(rbd_image_t image, uint64_t offset, uint64_t bytes)
{
	int rc = atomic_exchange(&fake.submit_fails, 0);

	EXPECT(image == &an_image);
	if (rc != 0) {
		return rc;
	}
	pthread_mutex_lock(&fake.lock);
	EXPECT(offset <= fake.bytes && bytes <= fake.bytes - offset);
	return 0;
}

static int
end(rbd_completion_t completion, ssize_t result)
{
	struct fake_completion *c = completion;
	int rc = atomic_exchange(&fake.answer_fails, 0);

	c->result = rc != 0 ? rc : result;
	c->next = fake.waiting;
	fake.waiting = c;
	pthread_cond_broadcast(&fake.wake);
	pthread_mutex_unlock(&fake.lock);
	return 0;
}

static void
touch(uint64_t offset, uint64_t bytes, bool there)
{
	for (uint64_t i = offset / FAKE_OBJECT_BYTES; i * FAKE_OBJECT_BYTES < offset + bytes; i++) {
		bool whole = i * FAKE_OBJECT_BYTES >= offset && (i + 1) * FAKE_OBJECT_BYTES <= offset + bytes;

		if (there || whole) {
			fake.objects[i] = there;
		}
	}
}

static int
aio_read(rbd_image_t image, uint64_t offset, size_t bytes, char *to, rbd_completion_t completion)
{
	struct fake_completion *c = completion;
	int rc = begin(image, offset, bytes);

	if (rc != 0) {
		return rc;
	}
	c->to = to;
	c->offset = offset;
	c->bytes = bytes;
	return end(c, (ssize_t)bytes);
}

static int
aio_writev(rbd_image_t image, const struct iovec *iov, int count, uint64_t offset, rbd_completion_t c)
{
	uint64_t bytes = 0;
	int rc;

	for (int i = 0; i < count; i++) {
		bytes += iov[i].iov_len;
	}
	rc = begin(image, offset, bytes);
	if (rc != 0) {
		return rc;
	}
	touch(offset, bytes, true);
	for (int i = 0; i < count; i++) {
		memcpy(fake.data + offset, iov[i].iov_base, iov[i].iov_len);
		offset += iov[i].iov_len;
	}
	return end(c, 0);
}

static int
clear(rbd_image_t image, uint64_t offset, uint64_t bytes, rbd_completion_t c, bool keep)
{
	int rc = begin(image, offset, bytes);

	if (rc != 0) {
		return rc;
	}
	touch(offset, bytes, keep);
	memset(fake.data + offset, 0, bytes);
	return end(c, 0);
}

static int
aio_discard(rbd_image_t image, uint64_t offset, uint64_t bytes, rbd_completion_t c)
{
	return clear(image, offset, bytes, c, false);
}

static int
aio_write_zeroes(rbd_image_t image, uint64_t offset, size_t bytes, rbd_completion_t c, int zero_flags, int op_flags)
{
	return clear(image, offset, bytes, c, (zero_flags & RBD_WRITE_ZEROES_FLAG_THICK_PROVISION) != 0);
}

static ssize_t
aio_swap(rbd_image_t image, uint64_t offset, size_t bytes, const char *expected, const char *wanted, rbd_completion_t c,
	 uint64_t *mismatch, int flags)
{
	int rc = begin(image, offset, bytes);

	if (rc != 0) {
		return rc;
	}
	/* As the cluster has it. */
	EXPECT(offset / FAKE_OBJECT_BYTES == (offset + bytes - 1) / FAKE_OBJECT_BYTES);
	atomic_fetch_add(&fake.native_swaps, 1);
	for (size_t i = 0; i < bytes; i++) {
		if (fake.data[offset + i] != (uint8_t)expected[i]) {
			*mismatch = offset + i;
			return end(c, -EILSEQ);
		}
	}
	touch(offset, bytes, true);
	memcpy(fake.data + offset, wanted, bytes);
	return end(c, 0);
}

static int
aio_flush(rbd_image_t image, rbd_completion_t c)
{
	int rc = begin(image, 0, 0);

	return rc != 0 ? rc : end(c, 0);
}

static const struct rbd_api calls = {
	.rados_create = create,
	.rados_conf_read_file = conf_read_file,
	.rados_conf_set = conf_set,
	.rados_connect = connect_to,
	.rados_shutdown = disconnect,
	.rados_ioctx_create = pool_open,
	.rados_ioctx_destroy = pool_close,
	.rbd_open = image_open,
	.rbd_open_read_only = image_open,
	.rbd_close = image_close,
	.rbd_get_size = get_size,
	.rbd_stat = image_stat,
	.rbd_resize = image_resize,
	.rbd_update_watch = watch,
	.rbd_update_unwatch = unwatch,
	.rbd_diff_iterate2 = diff,
	.rbd_aio_create_completion = completion_create,
	.rbd_aio_get_return_value = completion_result,
	.rbd_aio_release = completion_release,
	.rbd_aio_read = aio_read,
	.rbd_aio_writev = aio_writev,
	.rbd_aio_discard = aio_discard,
	.rbd_aio_write_zeroes = aio_write_zeroes,
	.rbd_aio_compare_and_write = aio_swap,
	.rbd_aio_flush = aio_flush,
	.thread_create = create_thread,
};

void
fake_start(uint64_t bytes, uint64_t room)
{
	rbd_api_set(&calls);
	fake.data = calloc(1, room);
	fake.objects = calloc(room / FAKE_OBJECT_BYTES + 1, sizeof(bool));
	EXPECT(fake.data != NULL && fake.objects != NULL);
	fake.bytes = bytes;
	fake.room = room;
	fake.stop = false;
	fake.settings[0] = '\0';
	EXPECT(pthread_create(&fake.thread, NULL, answer, NULL) == 0);
}

void
fake_stop(void)
{
	pthread_mutex_lock(&fake.lock);
	fake.stop = true;
	pthread_cond_broadcast(&fake.wake);
	pthread_mutex_unlock(&fake.lock);
	pthread_join(fake.thread, NULL);
	EXPECT_SAY(fake.clusters == 0 && fake.pools == 0 && fake.images == 0 && fake.completions == 0 && fake.watches == 0,
		   "%d clusters, %d pools, %d images, %d completions, %d watches", fake.clusters, fake.pools, fake.images,
		   fake.completions, fake.watches);
	free(fake.data);
	free(fake.objects);
}
