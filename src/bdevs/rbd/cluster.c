/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Connections to clusters: registered ones, which bdevs share, and those that bdevs have for themselves.
 *
 * Invariants
 *  1. A cluster is connected once, by the first call that needs it; others wait for that one on its lock.
 *  2. librbd's own cache is off, and it copies what it writes: guests change buffers that are in flight.
 * Context: the app thread, but for what the header says.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/cpumask.h"
#include "base/log.h"
#include "bdevs/rbd/internal.h"

/* So long librados tries to reach a cluster when the configuration does not say: five minutes are its own idea. */
#define MOUNT_TIMEOUT_S "10"
/* So long the registration of one that may be away is not answered, so that it can say what is wrong. */
#define PATIENCE_MS 3000

static struct list clusters = {&clusters, &clusters};
static bool ending;

/* ---- Settings ---- */

bool
rbd_setting_is_secret(const char *name)
{
	/* librados takes names with spaces, dashes and underscores alike; this one has none. */
	return strcasecmp(name, "key") == 0;
}

void
rbd_settings_free(struct rbd_settings *s)
{
	if (s == NULL) {
		return;
	}
	for (size_t i = 0; i < s->count; i++) {
		char *value = (char *)(uintptr_t)s->item[i].value;

		if (value != NULL) {
			explicit_bzero(value, strlen(value));
		}
		free(value);
		free((char *)(uintptr_t)s->item[i].name);
	}
	free(s);
}

struct rbd_settings *
rbd_settings_copy(const struct rbd_settings *from)
{
	struct rbd_settings *s = calloc(1, sizeof(*s));

	for (size_t i = 0; s != NULL && i < from->count; i++) {
		s->item[i] = (struct rbd_setting){strdup(from->item[i].name), strdup(from->item[i].value)};
		s->count++;
		if (s->item[i].name == NULL || s->item[i].value == NULL) {
			rbd_settings_free(s);
			s = NULL;
		}
	}
	return s;
}

struct rbd_settings *
rbd_settings_public(const struct rbd_settings *from)
{
	struct rbd_settings *s = from != NULL ? calloc(1, sizeof(*s)) : NULL;

	for (size_t i = 0; s != NULL && i < from->count; i++) {
		if (!rbd_setting_is_secret(from->item[i].name)) {
			s->item[s->count++] = from->item[i];
		}
	}
	return s;
}

/* ---- Life ---- */

static bool
copy(char **to, const char *from)
{
	*to = from != NULL ? strdup(from) : NULL;
	return from == NULL || *to != NULL;
}

struct rbd_cluster *
rbd_cluster_new(const struct rbd_cluster_options *o)
{
	struct rbd_cluster *c = calloc(1, sizeof(*c));
	bool good;

	if (c == NULL) {
		return NULL;
	}
	pthread_mutex_init(&c->lock, NULL);
	list_init(&c->link);
	c->wait = o->wait;
	good = copy(&c->name, o->name) && copy(&c->user_id, o->user_id) && copy(&c->config_file, o->config_file) &&
	       copy(&c->key_file, o->key_file) && copy(&c->core_mask, o->core_mask);
	if (good && o->settings != NULL) {
		c->settings = rbd_settings_copy(o->settings);
		good = c->settings != NULL;
	}
	if (!good) {
		rbd_cluster_free(c);
		return NULL;
	}
	c->job.core_mask = c->core_mask;
	return c;
}

void
rbd_cluster_free(struct rbd_cluster *c)
{
	if (c == NULL) {
		return;
	}
	CHECK(!c->connected);
	list_remove(&c->link);
	pthread_mutex_destroy(&c->lock);
	rbd_settings_free(c->settings);
	free(c->name);
	free(c->user_id);
	free(c->config_file);
	free(c->key_file);
	free(c->core_mask);
	free(c);
}

struct rbd_cluster *
rbd_cluster_find(const char *name)
{
	struct rbd_cluster *c;

	LIST_FOREACH (c, &clusters, link) {
		if (strcmp(c->name, name) == 0 && !c->leaving && (!c->joining || c->wait)) {
			return c;
		}
	}
	return NULL;
}

/* ---- Connecting ---- */

static int
set(rados_t handle, const char *name, const char *value, struct err *err)
{
	int rc = rbd_api->rados_conf_set(handle, name, value);

	return rc < 0 ? err_set(err, rc, "the setting '%s' is none, or has a value it cannot have", name) : 0;
}

static int
configure(const struct rbd_cluster *c, rados_t handle, struct err *err)
{
	int rc;

	/* First what the configuration may say otherwise, last what it may not. */
	(void)rbd_api->rados_conf_set(handle, "client_mount_timeout", MOUNT_TIMEOUT_S);
	if (c->config_file != NULL || c->usual_file) {
		rc = rbd_api->rados_conf_read_file(handle, c->config_file);
		if (rc < 0 && (c->config_file != NULL || c->must_file)) {
			return err_set(err, rc, "%s: %s", c->config_file != NULL ? c->config_file : "Ceph's configuration file",
				       strerror(-rc));
		}
	}
	rc = 0;
	for (size_t i = 0; c->settings != NULL && i < c->settings->count && rc == 0; i++) {
		rc = set(handle, c->settings->item[i].name, c->settings->item[i].value, err);
	}
	if (rc == 0 && c->key_file != NULL) {
		rc = set(handle, "keyring", c->key_file, err);
	}
	if (rc == 0) {
		rc = set(handle, "rbd_cache", "false", err);
	}
	if (rc == 0) {
		/* Older and newer libraries know no such thing, and copy always. */
		(void)rbd_api->rados_conf_set(handle, "rbd_disable_zero_copy_writes", "true");
	}
	return rc;
}

static int
connect_now(struct rbd_cluster *c, struct err *err)
{
	rados_t handle;
	int rc = rbd_api->rados_create(&handle, c->user_id);

	if (rc < 0) {
		return err_set(err, rc, "librados: %s", strerror(-rc));
	}
	rc = configure(c, handle, err);
	if (rc == 0) {
		rc = rbd_api->rados_connect(handle);
		if (rc < 0) {
			err_set(err, rc, "the cluster cannot be reached: %s", strerror(-rc));
		}
	}
	if (rc < 0) {
		rbd_api->rados_shutdown(handle);
		return rc;
	}
	c->handle = handle;
	c->connected = true;
	return 0;
}

int
rbd_cluster_connect(struct rbd_cluster *c, struct err *err)
{
	int rc = 0;

	pthread_mutex_lock(&c->lock);
	if (!c->connected) {
		rc = connect_now(c, err);
	}
	pthread_mutex_unlock(&c->lock);
	return rc;
}

void
rbd_cluster_disconnect(struct rbd_cluster *c)
{
	pthread_mutex_lock(&c->lock);
	if (c->connected) {
		rbd_api->rados_shutdown(c->handle);
		c->connected = false;
	}
	pthread_mutex_unlock(&c->lock);
}

/* ---- Registering ---- */

static void
run_connect(struct rbd_job *job)
{
	struct rbd_cluster *c = CONTAINER_OF(job, struct rbd_cluster, job);

	c->err = ERR_NONE;
	c->rc = rbd_cluster_connect(c, &c->err);
}

static void
run_leave(struct rbd_job *job)
{
	rbd_cluster_disconnect(CONTAINER_OF(job, struct rbd_cluster, job));
}

static void
left(struct rbd_job *job)
{
	struct rbd_cluster *c = CONTAINER_OF(job, struct rbd_cluster, job);
	void (*done)(void *ctx, int status) = c->left;
	void *ctx = c->ctx;

	rbd_cluster_free(c);
	if (done != NULL) {
		done(ctx, 0);
	}
	rbd_shutdown_check();
}

static int
leave(struct rbd_cluster *c)
{
	int rc = rbd_job_start(&c->job, run_leave, left);

	if (rc == 0) {
		c->leaving = true;
	}
	return rc;
}

static void
answer(struct rbd_cluster *c, const struct err *err)
{
	void (*done)(void *ctx, const struct err *err) = c->registered;

	c->registered = NULL;
	if (done != NULL) {
		done(c->ctx, err);
	}
}

static void
connect_late(struct timer *timer)
{
	answer(CONTAINER_OF(timer, struct rbd_cluster, patience), &ERR_NONE);
}

static void
connected(struct rbd_job *job)
{
	struct rbd_cluster *c = CONTAINER_OF(job, struct rbd_cluster, job);
	struct err err = c->err;

	c->joining = false;
	timer_stop(&c->patience);
	if (c->rc != 0 && !c->wait) {
		err_prefix(&err, "cluster '%s': ", c->name);
		answer(c, &err);
		rbd_cluster_free(c);
		rbd_shutdown_check();
		return;
	}
	if (c->rc != 0) {
		LOG_WARNING(BDEV, c->name, "not connected yet: %s", err_text(&err));
		err = ERR_NONE;
	}
	answer(c, &err);
	if (ending && c->users == 0) {
		c->left = NULL;
		(void)leave(c);
	}
}

static int
check_cluster(const struct rbd_cluster_options *o, struct err *err)
{
	struct cpumask mask;
	struct rbd_cluster *c;

	if (o->name[0] == '\0' || strlen(o->name) >= BDEV_NAME_BYTES) {
		return err_set(err, -EINVAL, "a cluster's name has 1 to %d bytes", BDEV_NAME_BYTES - 1);
	}
	LIST_FOREACH (c, &clusters, link) {
		if (strcmp(c->name, o->name) == 0) {
			return err_set(err, -EEXIST, "a cluster '%s' is registered already", o->name);
		}
	}
	if (o->core_mask != NULL && cpumask_parse(o->core_mask, &mask, err) != 0) {
		return -EINVAL;
	}
	return rbd_api_load(err) != NULL ? 0 : err->code;
}

int
bdev_rbd_register_cluster(const struct rbd_cluster_options *o, void (*done)(void *ctx, const struct err *err), void *ctx,
			  struct err *err)
{
	struct rbd_cluster *c;
	int rc = check_cluster(o, err);

	if (rc != 0) {
		return rc;
	}
	c = rbd_cluster_new(o);
	if (c == NULL) {
		return err_set(err, -ENOMEM, "cluster '%s': out of memory", o->name);
	}
	c->usual_file = true;
	c->registered = done;
	c->ctx = ctx;
	rc = rbd_job_start(&c->job, run_connect, connected);
	if (rc != 0) {
		rbd_cluster_free(c);
		return err_set(err, rc, "cluster '%s': %s", o->name, strerror(-rc));
	}
	c->joining = true;
	list_append(&clusters, &c->link);
	if (o->wait) {
		CHECK(timer_start(&c->patience, PATIENCE_MS * (NS_PER_MS / NS_PER_US), connect_late) == 0);
	}
	return 0;
}

void
rbd_cluster_put(struct rbd_cluster *c, bool ghost)
{
	c->users--;
	c->ghosts -= ghost;
	if (c->users == 0 && c->leaving && rbd_job_start(&c->job, run_leave, left) != 0) {
		LOG_ERROR(BDEV, c->name, "cannot be disconnected: there is no system thread for it");
	}
}

int
bdev_rbd_unregister_cluster(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct rbd_cluster *c = rbd_cluster_find(name);
	int rc = 0;

	if (c == NULL) {
		return err_set(err, -ENOENT, "there is no cluster '%s'", name);
	}
	if (c->users > c->ghosts || c->joining) {
		return err_set(err, -EBUSY, "cluster '%s' is in use", name);
	}
	c->left = done;
	c->ctx = ctx;
	if (c->users == 0) {
		rc = leave(c);
	} else {
		c->leaving = true; /* with the last of them */
	}
	return rc != 0 ? err_set(err, rc, "cluster '%s': %s", name, strerror(-rc)) : 0;
}

void
bdev_rbd_for_each_cluster(void (*fn)(void *ctx, const struct rbd_cluster_options *options), void *ctx)
{
	struct rbd_cluster *c;

	LIST_FOREACH (c, &clusters, link) {
		struct rbd_settings *settings = rbd_settings_public(c->settings);
		struct rbd_cluster_options o = {.name = c->name,
						.user_id = c->user_id,
						.settings = settings,
						.config_file = c->config_file,
						.key_file = c->key_file,
						.core_mask = c->core_mask,
						.wait = c->wait};

		if (!c->leaving) {
			fn(ctx, &o);
		}
		free(settings);
	}
}

void
rbd_clusters_abandon(void)
{
	struct rbd_cluster *c;

	LIST_FOREACH (c, &clusters, link) {
		timer_stop(&c->patience);
	}
}

bool
rbd_clusters_end(void)
{
	struct rbd_cluster *c, *next;

	ending = true;
	LIST_FOREACH_SAFE (c, next, &clusters, link) {
		if (!c->leaving && c->users == 0 && !c->joining) {
			c->left = NULL;
			(void)leave(c);
		}
	}
	if (list_empty(&clusters)) {
		ending = false;
		return true;
	}
	return false;
}
