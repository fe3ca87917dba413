/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The store of the disks: a sparse file STATE/disks/store.img, an aio bdev on it and a volume store on that. The first disk makes
 * all of it; bdev and store are ordinary ones from then on, made again from the state directory and by examination.
 *
 * The file is as large as the space that its file system has at that moment, in whole GiB: what it takes is what its volumes
 * hold, and it cannot promise more than there is. berth_disk_grow_store follows a file system that has grown, and takes what
 * others gave back, as far as the store's layout lets it grow: the file is not made larger than that.
 *
 * Invariants
 *  1. One request makes the store; others that need it meanwhile wait for that, and get what came of it.
 *  2. A store is only made on a file that was made for it, or has no data: one that could not be loaded is not overwritten.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/check.h"
#include "base/path.h"
#include "bdevs/aio/aio.h"
#include "methods/disk_internal.h"
#include "rpc/rpc.h"
#include "rpc/schema_gen.h"

#define FILE_NAME "store.img"
#define BDEV_NAME "disks-store"
#define GIB (UINT64_C(1) << 30)
#define MIB (UINT64_C(1) << 20)
#define SIZE_MIN (16 * MIB)
#define SIZE_MAX_BYTES (UINT64_C(256) << 40)
/* A metadata page holds the places of 512 clusters; the rest is for volumes that have few. */
#define MD_RATIO 20

/* Those that wait for the store; the first makes it. */
static struct list waiting = {&waiting, &waiting};

static char *
file_path(void)
{
	char *path;

	return asprintf(&path, "%s/%s/%s", methods->state_dir, DISK_DIR, FILE_NAME) >= 0 ? path
											 : NULL;
}

/* What the file may have: free space, and what it has already, as whole GiB where there is one. 0: cannot be found out. */
static uint64_t
size_for(const char *path)
{
	char *dir = strdup(path);
	struct statvfs fs;
	struct stat st = {.st_blocks = 0};
	uint64_t bytes = 0;

	if (dir != NULL) {
		*strrchr(dir, '/') = '\0';
		if (statvfs(dir, &fs) == 0) {
			(void)stat(path, &st);
			bytes = (uint64_t)fs.f_bavail * fs.f_frsize + (uint64_t)st.st_blocks * 512;
			bytes = MIN(bytes, SIZE_MAX_BYTES);
			bytes = bytes >= GIB ? bytes / GIB * GIB : bytes / MIB * MIB;
		}
	}
	free(dir);
	return bytes;
}

/* ---- Making ---- */

/* All that waited get what came of it. */
static void
finish(int status, const struct err *err)
{
	struct list all = {&all, &all};
	struct disk_job *job;

	while (!list_empty(&waiting)) {
		job = LIST_FIRST(&waiting, struct disk_job, store_link);
		list_remove(&job->store_link);
		list_append(&all, &job->store_link);
	}
	while (!list_empty(&all)) {
		job = LIST_FIRST(&all, struct disk_job, store_link);
		list_remove(&job->store_link);
		job->made = false; /* the disk's part of it */
		if (status != 0) {
			job->steps.err = *err;
		}
		steps_continue(&job->steps, status);
	}
}

static void
fail(const json_t *error)
{
	const char *text = json_string_value(json_object_get(error, "message"));
	json_int_t code = json_integer_value(json_object_get(error, "code"));
	struct err err = ERR_NONE;

	code = code < 0 && code > -4096 ? code : -EIO;
	err_set(&err, (int)code, "the store of disks could not be made: %s",
		text != NULL ? text : "unknown error");
	finish((int)code, &err);
}

static void
store_made(void *ctx, const json_t *result, const json_t *error)
{
	if (error != NULL) {
		fail(error);
	} else {
		finish(0, NULL);
	}
}

static struct disk_job *
maker(void)
{
	return LIST_FIRST(&waiting, struct disk_job, store_link);
}

static void
call(const char *method, json_t *params,
     void (*done)(void *ctx, const json_t *result, const json_t *error))
{
	rpc_call(method, params, true, done, NULL);
	json_decref(params);
}

static void
examined(void *ctx, const json_t *result, const json_t *error)
{
	struct err err = ERR_NONE;

	if (lvol_store_find_name(DISK_STORE) != NULL) {
		finish(0, NULL);
	} else if (!maker()->made) {
		char *path = file_path();

		err_set(&err, -EILSEQ,
			"%s is there, and no store '%s' in it that could be loaded: see berth "
			"store check",
			path != NULL ? path : FILE_NAME, DISK_STORE);
		free(path);
		finish(-EILSEQ, &err);
	} else {
		call("bdev_lvol_create_lvstore",
		     json_pack("{s:s, s:s, s:i}", "bdev_name", BDEV_NAME, "lvs_name", DISK_STORE,
			       "num_md_pages_per_cluster_ratio", MD_RATIO),
		     store_made);
	}
}

static void
bdev_made(void *ctx, const json_t *result, const json_t *error)
{
	if (error != NULL) {
		fail(error);
	} else {
		rpc_call("bdev_wait_for_examine", NULL, false, examined, NULL);
	}
}

/* The file is there. */
static void
file_ready(struct worker_job *work)
{
	struct disk_job *job = CONTAINER_OF(work, struct disk_job, work);
	char *path = job->work_status == 0 ? file_path() : NULL;

	if (path == NULL) {
		struct err err = job->steps.err;

		finish(job->work_status != 0 ? job->work_status : -ENOMEM, &err);
		return;
	}
	call("bdev_aio_create",
	     json_pack("{s:s, s:o, s:i}", "name", BDEV_NAME, "filename", text_json(path),
		       "block_size", 512),
	     bdev_made);
	free(path);
}

/* On the worker: blocks. */
static void
make_file(struct worker_job *work)
{
	struct disk_job *job = CONTAINER_OF(work, struct disk_job, work);
	char *path = file_path();
	uint64_t size = path != NULL && job->store_size == 0 ? size_for(path) : job->store_size;

	if (path == NULL) {
		job->work_status = -ENOMEM;
		return;
	}
	if (size < SIZE_MIN) {
		job->work_status =
			err_set(&job->steps.err, -ENOSPC,
				"%s: has room for %" PRIu64 " bytes, and a store needs %" PRIu64,
				path, size, (uint64_t)SIZE_MIN);
	} else {
		job->work_status = disk_make_file(job->dir_fd, path, size, &job->steps.err);
	}
	job->made = job->work_status == 0;
	if (job->work_status == -EEXIST) {
		/* Of a state directory that has lost its log. */
		job->work_status = 0;
		job->steps.err = ERR_NONE;
	}
	free(path);
}

int
disk_store_step(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);
	int rc;

	if (lvol_store_find_name(DISK_STORE) != NULL || job->existing) {
		return 0;
	}
	if (bdev_find(BDEV_NAME) != NULL && list_empty(&waiting)) {
		return err_set(&s->err, -EILSEQ,
			       "bdev '%s' is there, and no store '%s' on it that could be loaded: 'berth store check' says "
			       "what is wrong with it; if it was deleted, 'berth store create %s %s' makes an empty one",
			       BDEV_NAME, DISK_STORE, DISK_STORE, BDEV_NAME);
	}
	rc = list_empty(&waiting) ? disk_open_dir(job, &s->err) : 0;
	if (rc != 0) {
		return rc;
	}
	list_append(&waiting, &job->store_link);
	if (maker() == job) {
		worker_submit(methods->worker, &job->work, make_file, file_ready);
	}
	return STEPS_WAIT;
}

/* ---- berth_disk_grow_store ---- */

struct growth {
	struct worker_job work;
	struct rpc_request *req;
	uint64_t size; /* 0: what there is room for */
	uint64_t most; /* of the store's layout */
	int status;
	struct err err;
};

static void
grow_file(struct worker_job *work)
{
	struct growth *g = CONTAINER_OF(work, struct growth, work);
	char *path = file_path();
	struct stat st;

	if (path == NULL || stat(path, &st) != 0) {
		g->status = err_set(&g->err, path != NULL ? -errno : -ENOMEM,
				    "the store's file: %s", strerror(errno));
	} else {
		uint64_t room = MIN(size_for(path), g->most);
		uint64_t size = g->size != 0 ? g->size : MAX(room, (uint64_t)st.st_size);

		if (g->size > g->most) {
			g->status = err_set(&g->err, -ENOSPC,
					    "the store's layout lets it grow to %" PRIu64 " bytes, and no further", g->most);
		} else if (size < (uint64_t)st.st_size) {
			g->status = err_set(&g->err, -EINVAL,
					    "%s has %lld bytes already, and a store can only grow",
					    path, (long long)st.st_size);
		} else if (truncate(path, (off_t)size) != 0) {
			g->status = err_set(&g->err, -errno, "%s: %s", path, strerror(errno));
		}
	}
	free(path);
}

static void
store_grown(void *ctx, int status, const struct err *err)
{
	struct growth *g = ctx;

	/* It had all of it. */
	if (status != 0 && status != -ENOSPC) {
		rpc_error_from(g->req, status, err);
	} else {
		rpc_set_recorded_call(g->req, NULL, NULL);
		rpc_true(g->req);
	}
	free(g);
}

static void
file_grown(struct worker_job *work)
{
	struct growth *g = CONTAINER_OF(work, struct growth, work);
	struct lvol_store *store = lvol_store_find_name(DISK_STORE);
	int rc = g->status == 0 ? bdev_aio_rescan(BDEV_NAME, &g->err) : g->status;

	if (rc == 0 && store == NULL) {
		rc = err_set(&g->err, -ENODEV, "volume store '%s' went meanwhile", DISK_STORE);
	}
	if (rc != 0) {
		rpc_error_from(g->req, rc, &g->err);
		free(g);
		return;
	}
	lvol_store_grow(store, store_grown, g);
}

static void
grow_store(struct rpc_request *req, const void *params)
{
	const struct berth_disk_grow_store_params *p = params;
	struct lvol_store *store = lvol_store_find_name(DISK_STORE);
	struct lvol_store_info info;
	struct growth *g;

	if (methods->state_dir == NULL || store == NULL) {
		rpc_error(req, -ENODEV, "there is no store of disks: the first disk makes it");
		return;
	}
	g = calloc(1, sizeof(*g));
	if (g == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
		return;
	}
	g->req = req;
	g->size = p->size / 4096 * 4096;
	lvol_store_get_info(store, &info);
	g->most = info.blob.most_clusters * info.blob.cluster_bytes;
	worker_submit(methods->worker, &g->work, grow_file, file_grown);
}

const struct rpc_method disk_store_methods[] = {
	{"berth_disk_grow_store", grow_store},
	{NULL, NULL},
};
