/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Controllers: their registry, life, and what others may ask of them.
 *
 *   created --> listens <--> has a session
 *                  |             |
 *                  +--- delete --+--> (session ended) --> bdev closed --> deleted
 *                  +- bdev gone -+--> (session ended) --> bdev closed, listens no more
 *
 * Invariants
 *  1. A controller in the registry has a name that is no other's; a deleted one leaves it at once,
 *     and takes its socket along.
 *  2. The bdev is closed when no session is left: then no queue holds a channel.
 *  3. Finding a controller takes the same time however many there are.
 *  4. What VMMs do fills no log: lines that they cause are counted against a controller's allowance.
 *  5. One that no VM is connected to takes CONTROLLER_BYTES here at most, the path of its socket and a
 *     descriptor; nothing is done for it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "base/log.h"
#include "bdev/qos.h"
#include "vhost/call.h"
#include "vhost/placement.h"
#include "vhost/rebalance.h"
#include "vhost/session.h"

#define SOCKET_MODE 0600
#define CONTROLLER_BYTES 512
#define IOPS_THRESHOLD_DEFAULT 60000
/* Coalescing delays above are mistakes: guests take seconds for a dead disk. */
#define DELAY_US_MAX 1000000

_Static_assert(sizeof(struct vhost_controller) <= CONTROLLER_BYTES, "invariant 5");

static struct {
	char *socket_dir; /* NULL: not initialised */
	gid_t socket_group;
	bool shared; /* with socket_group */
	struct list controllers;
	struct list *buckets;
	size_t bucket_count; /* a power of two */
	size_t count;        /* in the registry */
	size_t alive;        /* and those being deleted */
	void (*shutdown_done)(void *ctx);
	void *shutdown_ctx;
	struct msg shutdown_msg;
} g;

/* ---- Registry ---- */

static size_t
hash(const char *name)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (; *name != '\0'; name++) {
		h = (h ^ (uint8_t)*name) * UINT64_C(0x100000001b3);
	}
	return (size_t)(h ^ h >> 32);
}

static bool
make_buckets(size_t count)
{
	struct list *buckets = calloc(count, sizeof(*buckets));
	struct vhost_controller *ctrlr;

	if (buckets == NULL) {
		return false;
	}
	for (size_t i = 0; i < count; i++) {
		list_init(&buckets[i]);
	}
	LIST_FOREACH(ctrlr, &g.controllers, link)
	{
		list_remove(&ctrlr->hash_link);
		list_append(&buckets[hash(ctrlr->name) & (count - 1)], &ctrlr->hash_link);
	}
	free(g.buckets);
	g.buckets = buckets;
	g.bucket_count = count;
	return true;
}

static void
register_controller(struct vhost_controller *ctrlr)
{
	/* Without memory for more buckets the old ones get longer. */
	if (g.count >= g.bucket_count) {
		(void)make_buckets(g.bucket_count * 2);
	}
	list_append(&g.controllers, &ctrlr->link);
	list_append(&g.buckets[hash(ctrlr->name) & (g.bucket_count - 1)], &ctrlr->hash_link);
	g.count++;
	g.alive++;
}

struct vhost_controller *
vhost_find(const char *name)
{
	struct list *bucket = &g.buckets[hash(name) & (g.bucket_count - 1)];
	struct vhost_controller *ctrlr;

	LIST_FOREACH(ctrlr, bucket, hash_link)
	{
		if (strcmp(ctrlr->name, name) == 0) {
			return ctrlr;
		}
	}
	return NULL;
}

struct vhost_controller *
vhost_first(void)
{
	return list_empty(&g.controllers) ? NULL : LIST_FIRST(&g.controllers, struct vhost_controller, link);
}

struct vhost_controller *
vhost_next(struct vhost_controller *ctrlr)
{
	return ctrlr->link.next == &g.controllers ? NULL : LIST_ENTRY(ctrlr->link.next, struct vhost_controller, link);
}

/* ---- The log ---- */

bool
vhost_may_log(struct vhost_controller *ctrlr, enum log_level level)
{
	uint64_t now = clock_now_ns(), earned = (now - ctrlr->log_refill_ns) / VHOST_LOG_NS;

	if (level > log_get_print_level()) {
		return false;
	}
	if (earned > 0) {
		ctrlr->log_lines_left = (uint32_t)MIN(ctrlr->log_lines_left + earned, (uint64_t)VHOST_LOG_BURST);
		ctrlr->log_refill_ns += earned * VHOST_LOG_NS;
	}
	if (ctrlr->log_lines_left == 0) {
		ctrlr->log_lines_dropped++;
		return false;
	}
	ctrlr->log_lines_left--;
	if (ctrlr->log_lines_dropped > 0) {
		LOG_WARNING(VHOST, ctrlr->name, "%u lines that its VMM caused were left out", ctrlr->log_lines_dropped);
		ctrlr->log_lines_dropped = 0;
	}
	return true;
}

/* ---- Sessions come and go ---- */

static void
close_bdev(struct vhost_controller *ctrlr)
{
	if (ctrlr->desc != NULL) {
		bdev_close(ctrlr->desc);
		ctrlr->desc = NULL;
	}
}

/* Nothing is left of what vhost_init() made. */
static void
shut_down(struct msg *msg)
{
	rebalance_release();
	placement_release();
	state_release();
	free(g.buckets);
	free(g.socket_dir);
	g.buckets = NULL;
	g.socket_dir = NULL;
	g.shutdown_done(g.shutdown_ctx);
}

static void
shut_down_when_alone(void)
{
	if (g.shutdown_done != NULL && g.alive == 0) {
		thread_send(thread_self(), &g.shutdown_msg, shut_down);
	}
}

static void
delete_controller(struct msg *msg)
{
	struct vhost_controller *ctrlr = CONTAINER_OF(msg, struct vhost_controller, msg);
	void (*deleted)(void *ctx, int status) = ctrlr->deleted;
	void *ctx = ctrlr->deleted_ctx;

	close_bdev(ctrlr);
	free(ctrlr->socket_path);
	free(ctrlr);
	g.alive--;
	if (deleted != NULL) {
		deleted(ctx, 0);
	}
	shut_down_when_alone();
}

static void
accepted(struct listener *l, int fd)
{
	struct vhost_controller *ctrlr = CONTAINER_OF(l, struct vhost_controller, listener);
	struct err err = ERR_NONE;

	if (session_start(ctrlr, fd, &err) != 0) {
		VHOST_LOG(ERROR, ctrlr, "cannot serve a connection: %s", err_text(&err));
		listener_resume(&ctrlr->listener);
	}
}

void
vhost_controller_session_gone(struct vhost_controller *ctrlr)
{
	if (ctrlr->deleting) {
		thread_send(thread_self(), &ctrlr->msg, delete_controller);
	} else if (ctrlr->removed) {
		close_bdev(ctrlr);
	} else {
		listener_resume(&ctrlr->listener);
	}
}

void
vhost_controller_config_changed(struct vhost_controller *ctrlr)
{
	if (ctrlr->session != NULL) {
		session_config_changed(ctrlr->session);
	}
}

void
vhost_controller_bdev_removed(struct vhost_controller *ctrlr)
{
	ctrlr->removed = true;
	/* A VMM that connects now gets a clear no instead of a disk without size. */
	listener_stop(&ctrlr->listener);
	if (ctrlr->session != NULL) {
		session_end(ctrlr->session, "its bdev was removed");
	} else if (!ctrlr->deleting) {
		close_bdev(ctrlr);
	}
}

static void
bdev_event(void *ctx, struct bdev *bdev, enum bdev_event event)
{
	struct vhost_controller *ctrlr = ctx;

	if (event == BDEV_EVENT_REMOVE) {
		LOG_NOTICE(VHOST, ctrlr->name, "bdev %s was removed", bdev_name(bdev));
		vhost_controller_bdev_removed(ctrlr);
	} else {
		vhost_controller_config_changed(ctrlr);
	}
}

/* ---- Life ---- */

int
vhost_init(const struct vhost_options *options, struct err *err)
{
	int rc = memmap_guard();

	CHECK(g.socket_dir == NULL);
	if (rc != 0) {
		return err_set(err, rc, "cannot guard guest memory: %s", strerror(-rc));
	}
	vhost_caller_prepare();
	memset(&g, 0, sizeof(g));
	list_init(&g.controllers);
	rc = state_init(err);
	if (rc != 0) {
		return rc;
	}
	rc = placement_init(options->io_threads, options->io_thread_count);
	g.shared = options->socket_group != NULL;
	g.socket_group = g.shared ? *options->socket_group : 0;
	g.socket_dir = strdup(options->socket_dir);
	if (rc != 0 || g.socket_dir == NULL || !make_buckets(64)) {
		free(g.socket_dir);
		g.socket_dir = NULL;
		placement_release();
		state_release();
		return err_set(err, -ENOMEM, "out of memory");
	}
	return 0;
}

static void
start_delete(struct vhost_controller *ctrlr, void (*done)(void *ctx, int status), void *ctx)
{
	list_remove(&ctrlr->link);
	list_remove(&ctrlr->hash_link);
	g.count--;
	ctrlr->deleting = true;
	ctrlr->deleted = done;
	ctrlr->deleted_ctx = ctx;
	listener_stop(&ctrlr->listener);
	if (ctrlr->session != NULL) {
		session_end(ctrlr->session, NULL);
	} else {
		thread_send(thread_self(), &ctrlr->msg, delete_controller);
	}
}

void
vhost_shutdown(void (*done)(void *ctx), void *ctx)
{
	g.shutdown_done = done;
	g.shutdown_ctx = ctx;
	while (!list_empty(&g.controllers)) {
		start_delete(vhost_first(), NULL, NULL);
	}
	shut_down_when_alone();
}

int
vhost_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct vhost_controller *ctrlr = vhost_find(name);

	if (ctrlr == NULL) {
		return err_set(err, -ENODEV, "no controller %s", name);
	}
	start_delete(ctrlr, done, ctx);
	return 0;
}

static int
check_name(const char *name, struct err *err)
{
	struct sockaddr_un addr;

	if (name[0] == '\0' || strchr(name, '/') != NULL || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
		return err_set(err, -EINVAL, "\"%s\" cannot be a controller's name: it is no file name", name);
	}
	for (const char *c = name; *c != '\0'; c++) {
		if ((unsigned char)*c < 0x20 || *c == 0x7f) {
			return err_set(err, -EINVAL, "a controller's name goes to terminals: no control characters");
		}
	}
	if (strlen(name) >= VHOST_NAME_BYTES || strlen(g.socket_dir) + 1 + strlen(name) >= sizeof(addr.sun_path)) {
		return err_set(err, -EINVAL, "controller name %s is too long for a socket in %s", name, g.socket_dir);
	}
	if (vhost_find(name) != NULL) {
		return err_set(err, -EEXIST, "controller %s exists already", name);
	}
	return 0;
}

static int
start_controller(struct vhost_controller *ctrlr, const struct vhost_blk_options *options, struct err *err)
{
	int rc = placement_parse(options->cpumask, &ctrlr->cpumask, err);

	if (rc != 0) {
		return rc;
	}
	rc = bdev_open_disk(options->bdev_name, !options->readonly, bdev_event, ctrlr, &ctrlr->desc, err);
	if (rc != 0) {
		return rc;
	}
	bdev_desc_set_user(ctrlr->desc, ctrlr->name);
	return listener_start(&ctrlr->listener, ctrlr->socket_path, SOCKET_MODE, g.shared ? &g.socket_group : NULL, ctrlr->name,
			      accepted, err);
}

int
vhost_blk_create(const struct vhost_blk_options *options, struct vhost_controller **ret_ctrlr, struct err *err)
{
	struct vhost_controller *ctrlr;
	int rc = check_name(options->name, err);

	if (rc != 0) {
		return rc;
	}
	if (options->packed_ring) {
		return err_set(err, -EOPNOTSUPP, "controller %s: packed rings are not supported", options->name);
	}
	ctrlr = calloc(1, sizeof(*ctrlr));
	if (ctrlr == NULL || asprintf(&ctrlr->socket_path, "%s/%s", g.socket_dir, options->name) < 0) {
		free(ctrlr);
		return err_set(err, -ENOMEM, "out of memory");
	}
	ctrlr->name = ctrlr->socket_path + strlen(g.socket_dir) + 1;
	ctrlr->ops = &vhost_blk_ops;
	ctrlr->readonly = options->readonly;
	ctrlr->iops_threshold = IOPS_THRESHOLD_DEFAULT;
	ctrlr->log_lines_left = VHOST_LOG_BURST;
	ctrlr->log_refill_ns = clock_now_ns();
	rc = start_controller(ctrlr, options, err);
	if (rc != 0) {
		err_prefix(err, "controller %s: ", options->name);
		close_bdev(ctrlr);
		free(ctrlr->socket_path);
		free(ctrlr);
		return rc;
	}
	register_controller(ctrlr);
	*ret_ctrlr = ctrlr;
	return 0;
}

/* ---- What others may ask ---- */

int
vhost_set_coalescing(struct vhost_controller *ctrlr, uint32_t delay_base_us, uint32_t iops_threshold, struct err *err)
{
	if (delay_base_us > DELAY_US_MAX) {
		return err_set(err, -EINVAL, "delay_base_us %u is more than %u", delay_base_us, DELAY_US_MAX);
	}
	if (delay_base_us > 0 && iops_threshold == 0) {
		return err_set(err, -EINVAL, "iops_threshold 0 would delay every call");
	}
	ctrlr->delay_base_us = delay_base_us;
	ctrlr->iops_threshold = iops_threshold;
	return 0;
}

void
vhost_get_info(const struct vhost_controller *ctrlr, struct vhost_info *ret_info)
{
	*ret_info = (struct vhost_info){
		.name = ctrlr->name,
		.socket_path = ctrlr->socket_path,
		.delay_base_us = ctrlr->delay_base_us,
		.iops_threshold = ctrlr->iops_threshold,
		.bdev_name = ctrlr->desc != NULL ? bdev_name(bdev_desc_bdev(ctrlr->desc)) : "",
		.readonly = ctrlr->readonly,
		.has_session = ctrlr->session != NULL,
	};
	cpumask_format(&ctrlr->cpumask, true, ret_info->cpumask);
	if (ctrlr->session != NULL) {
		session_get_info(ctrlr->session, &ret_info->session);
	}
}
