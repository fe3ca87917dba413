/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Disks: a sparse file in the state directory, a bdev on it and a controller, all of one name.
 *
 * Invariants
 *  1. A disk is in `disks` from the success of its creation until its bdev goes away, however that
 *     happens.
 *  2. Creation is undone whole when a step fails; a file is removed only if this creation made it,
 *     or it held no data.
 *  3. A file is removed only after its bdev is gone. What goes to the state log never makes or
 *     removes a file when it is replayed: creations are recorded with existing, deletions with
 *     keep_file.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/list.h"
#include "base/log.h"
#include "base/names.h"
#include "base/path.h"
#include "bdev/bdev.h"
#include "bdevs/aio/aio.h"
#include "bdevs/uring/uring.h"
#include "event/steps.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"
#include "vhost/vhost.h"

#define DISK_DIR "disks"
#define DISK_NAME_MAX 200
#define FAMILY "berth_disk_"

struct disk {
	struct list link; /* in order of creation */
	struct names_node node;
	char *name;
	char *file;
	char *backend; /* as asked for: "auto", "uring", "aio" */
	bool readonly; /* the controller */
};

static struct list disks = {&disks, &disks};
static struct names by_name;

/* ---- The list ---- */

static struct disk *
find(const char *name)
{
	struct names_node *node = names_find(&by_name, name);

	return node != NULL ? CONTAINER_OF(node, struct disk, node) : NULL;
}

static void
disk_free(struct disk *d)
{
	if (d != NULL) {
		list_remove(&d->link);
		names_remove(&by_name, &d->node);
		free(d->name);
		free(d->file);
		free(d->backend);
		free(d);
	}
}

static void
insert(struct disk *disk)
{
	names_add(&by_name, &disk->node, disk->name);
	list_append(&disks, &disk->link);
}

void
disk_bdev_gone(const char *name)
{
	disk_free(find(name));
}

bool
disk_has_bdev(const char *bdev_name)
{
	return find(bdev_name) != NULL;
}

bool
disk_has_controller(const struct vhost_info *info)
{
	const struct disk *d = find(info->name);

	return d != NULL && strcmp(info->bdev_name, d->name) == 0 &&
	       info->readonly == d->readonly && mask_is_all(info->cpumask);
}

size_t
disk_count(void)
{
	return by_name.count;
}

/* ---- As JSON ---- */

/* The parameters that make the disk again from the file that is there. */
static json_t *
params_json(const struct disk *d)
{
	const struct bdev *b = bdev_find(d->name);
	uuid_t uuid;

	CHECK(b != NULL);
	bdev_uuid(b, uuid);
	return json_pack("{s:s, s:I, s:I, s:s, s:b, s:b, s:o}", "name", d->name, "size",
			 (json_int_t)(bdev_num_blocks(b) * bdev_block_size(b)), "block_size",
			 (json_int_t)bdev_block_size(b), "backend", d->backend, "readonly",
			 d->readonly, "existing", 1, "uuid", uuid_json(uuid));
}

static json_t *
disk_json(const void *ctx, const char *name)
{
	const struct disk *d = find(name);
	const struct bdev *b = d != NULL ? bdev_find(name) : NULL;
	const struct vhost_controller *ctrlr = vhost_find(name);
	struct aio_bdev_info aio;
	struct vhost_info info = {0};
	struct stat st = {0};
	uuid_t uuid;

	if (d == NULL) {
		return NULL;
	}
	CHECK(b != NULL);
	bdev_uuid(b, uuid);
	if (ctrlr != NULL) {
		vhost_get_info(ctrlr, &info);
	}
	if (stat(d->file, &st) != 0) {
		st.st_blocks = 0;
	}
	return json_pack("{s:s, s:I, s:I, s:I, s:s, s:b, s:o, s:o, s:o, s:b}", "name", d->name,
			 "size", (json_int_t)(bdev_num_blocks(b) * bdev_block_size(b)), "allocated",
			 (json_int_t)st.st_blocks * 512, "block_size",
			 (json_int_t)bdev_block_size(b), "backend",
			 bdev_aio_info(b, &aio) ? "aio" : "uring", "readonly", d->readonly, "uuid",
			 uuid_json(uuid), "file", text_json(d->file), "socket",
			 info.socket_path != NULL ? text_json(info.socket_path) : json_null(),
			 "connected", info.has_session);
}

void
disk_config(json_t *calls, bool for_state)
{
	struct disk *d;

	LIST_FOREACH (d, &disks, link) {
		const struct vhost_controller *ctrlr = vhost_find(d->name);
		struct vhost_info info;

		json_array_append_new(calls, call_json("berth_disk_create", params_json(d)));
		if (ctrlr != NULL) {
			vhost_get_info(ctrlr, &info);
		}
		/* Its controller was deleted, or made anew in another way. */
		if (ctrlr == NULL || !disk_has_controller(&info)) {
			json_array_append_new(calls,
					      call_json("vhost_delete_controller",
							json_pack("{s:s}", "ctrlr", d->name)));
		}
	}
}

/* ---- Making and deleting: what both share ---- */

struct job {
	struct list link; /* in jobs */
	struct steps steps;
	struct worker_job work;
	struct rpc_request *req;
	char *name;
	struct disk *disk; /* not in the list */
	int dir_fd;
	int work_status;
	/* create */
	uint64_t size;
	uint32_t block_size;
	bool existing;
	bool made_file;
	uuid_t uuid;
	struct err note;
	/* delete */
	bool keep_file;
};

/* A name is worked on by one request at a time: in the middle of its life a disk's file looks
 * like one that nobody wants. */
static struct list jobs = {&jobs, &jobs};

static bool
busy(const char *name)
{
	struct job *job;

	LIST_FOREACH (job, &jobs, link) {
		if (strcmp(job->name, name) == 0) {
			return true;
		}
	}
	return false;
}

static void
job_free(struct job *job)
{
	list_remove(&job->link);
	free(job->name);
	disk_free(job->disk);
	if (job->dir_fd >= 0) {
		close(job->dir_fd);
	}
	free(job);
}

static void
gone(void *ctx, int status)
{
	struct job *job = ctx;

	steps_continue(&job->steps, status);
}

static int
delete_bdev(struct job *job, struct err *err)
{
	int rc = bdev_uring_delete(job->disk->name, gone, job, err);

	return rc == -ENODEV ? bdev_aio_delete(job->disk->name, gone, job, err) : rc;
}

static void
work_done(struct worker_job *work)
{
	struct job *job = CONTAINER_OF(work, struct job, work);

	steps_continue(&job->steps, job->work_status);
}

static char *
file_path(const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s/%s.img", methods->state_dir, DISK_DIR, name) >= 0 ? path
											: NULL;
}

static struct job *
job_create(struct rpc_request *req, const char *name, const char *backend)
{
	struct job *job = calloc(1, sizeof(*job));
	struct disk *disk = calloc(1, sizeof(*disk));

	if (job == NULL || disk == NULL) {
		free(job);
		free(disk);
		rpc_error(req, -ENOMEM, "out of memory");
		return NULL;
	}
	job->req = req;
	job->dir_fd = -1;
	job->disk = disk;
	job->name = strdup(name);
	disk->name = strdup(name);
	disk->file = file_path(name);
	disk->backend = strdup(backend);
	if (job->name == NULL || disk->name == NULL || disk->file == NULL ||
	    disk->backend == NULL) {
		job_free(job);
		rpc_error(req, -ENOMEM, "out of memory");
		return NULL;
	}
	list_append(&jobs, &job->link);
	return job;
}

/* True when the request may go on; else it has been answered. */
static bool
check_request(struct rpc_request *req, const char *name)
{
	if (methods->state_dir == NULL) {
		rpc_error(req, -ENOTSUP,
			  "disks need a state directory: start berthd with --state-dir DIR");
		return false;
	}
	if (!path_name_ok(name, DISK_NAME_MAX)) {
		rpc_error(req, -EINVAL,
			  "'%.*s' cannot be a disk's name: 1 to %d bytes, no slash, no control "
			  "characters",
			  DISK_NAME_MAX, name, DISK_NAME_MAX);
		return false;
	}
	if (busy(name)) {
		rpc_error(req, -EBUSY, "disk '%s' is being made or deleted just now", name);
		return false;
	}
	return true;
}

/* ---- berth_disk_create ---- */

/* A file without a single block allocated that nobody has locked holds no data: what a creation
 * left that was cut short. */
static bool
is_leftover(struct job *job, const char *base)
{
	int fd = openat(job->dir_fd, base, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;
	bool leftover;

	leftover = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_blocks == 0 &&
		   flock(fd, LOCK_EX | LOCK_NB) == 0;
	if (fd >= 0) {
		close(fd);
	}
	return leftover;
}

static int
open_new(struct job *job, const char *base)
{
	int flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC;
	int fd = openat(job->dir_fd, base, flags, 0600);

	if (fd < 0 && errno == EEXIST) {
		if (is_leftover(job, base) && unlinkat(job->dir_fd, base, 0) == 0) {
			return openat(job->dir_fd, base, flags, 0600);
		}
		errno = EEXIST;
	}
	return fd;
}

static int
file_error(struct job *job)
{
	int rc = -errno;

	return err_set(&job->steps.err, rc, "%s: %s%s", job->disk->file, strerror(-rc),
		       rc == -EEXIST
			       ? " and belongs to no disk: remove it, or take it with existing"
			       : "");
}

/* On the worker: blocks. Synced, so that a power cut cannot leave a disk in the log whose file
 * is not there. */
static void
make_file(struct worker_job *work)
{
	struct job *job = CONTAINER_OF(work, struct job, work);
	const char *base = strrchr(job->disk->file, '/') + 1;
	int fd = open_new(job, base);

	if (fd < 0) {
		job->work_status = file_error(job);
		return;
	}
	job->made_file = true;
	job->work_status = 0;
	if (ftruncate(fd, (off_t)job->size) != 0 || fsync(fd) != 0 || fsync(job->dir_fd) != 0) {
		job->work_status = file_error(job);
		unlinkat(job->dir_fd, base, 0);
	}
	close(fd);
}

static int
open_dir(struct job *job, struct err *err)
{
	char *dir = path_join(methods->state_dir, DISK_DIR);
	int rc = dir != NULL ? path_make_dirs(dir, 0700, err) : -ENOMEM;

	if (rc == 0) {
		job->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		rc = job->dir_fd >= 0
			     ? 0
			     : err_set(err, -errno, "cannot open %s: %s", dir, strerror(errno));
	}
	free(dir);
	return rc;
}

static int
check_step(struct steps *s)
{
	struct job *job = CONTAINER_OF(s, struct job, steps);
	const char *name = job->disk->name;

	if (bdev_find(name) != NULL) {
		return err_set(&s->err, -EEXIST, "a bdev named '%s' exists already", name);
	}
	if (vhost_find(name) != NULL) {
		return err_set(&s->err, -EEXIST, "a controller named '%s' exists already", name);
	}
	if (job->size % job->block_size != 0) {
		return err_set(&s->err, -EINVAL, "size %llu is no multiple of the block size %u",
			       (unsigned long long)job->size, job->block_size);
	}
	return open_dir(job, &s->err);
}

static int
existing_file(struct job *job, struct err *err)
{
	struct stat st;

	if (stat(job->disk->file, &st) != 0) {
		return err_set(err, -errno, "%s: %s", job->disk->file, strerror(errno));
	}
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_size != job->size) {
		return err_set(err, -EINVAL, "%s has %lld bytes, not %llu", job->disk->file,
			       (long long)st.st_size, (unsigned long long)job->size);
	}
	return 0;
}

static int
file_step(struct steps *s)
{
	struct job *job = CONTAINER_OF(s, struct job, steps);

	if (job->existing) {
		return existing_file(job, &s->err);
	}
	worker_submit(methods->worker, &job->work, make_file, work_done);
	return STEPS_WAIT;
}

static int
undo_file(struct steps *s)
{
	struct job *job = CONTAINER_OF(s, struct job, steps);

	if (job->made_file) {
		/* Empty still, so this takes no time. */
		unlinkat(job->dir_fd, strrchr(job->disk->file, '/') + 1, 0);
	}
	return 0;
}

static int
create_uring(struct job *job, struct err *err)
{
	struct uring_bdev_options o = {
		.name = job->disk->name,
		.filename = job->disk->file,
		.block_size = job->block_size,
	};

	uuid_copy(o.uuid, job->uuid);
	return bdev_uring_create(&o, NULL, err);
}

static int
create_aio(struct job *job, struct err *err)
{
	struct aio_bdev_options o = {
		.name = job->disk->name,
		.filename = job->disk->file,
		.block_size = job->block_size,
	};

	uuid_copy(o.uuid, job->uuid);
	return bdev_aio_create(&o, NULL, err);
}

static int
bdev_step(struct steps *s)
{
	struct job *job = CONTAINER_OF(s, struct job, steps);
	const char *backend = job->disk->backend;
	int rc = strcmp(backend, "aio") == 0 ? create_aio(job, &s->err) : create_uring(job, &s->err);

	if (rc != 0 && strcmp(backend, "auto") == 0 && !uring_available(&job->note)) {
		s->err = ERR_NONE;
		rc = create_aio(job, &s->err);
	}
	return rc;
}

static int
undo_bdev(struct steps *s)
{
	struct job *job = CONTAINER_OF(s, struct job, steps);

	return delete_bdev(job, NULL) == 0 ? STEPS_WAIT : 0;
}

static int
controller_step(struct steps *s)
{
	struct job *job = CONTAINER_OF(s, struct job, steps);
	struct vhost_blk_options o = {
		.name = job->disk->name,
		.bdev_name = job->disk->name,
		.readonly = job->disk->readonly,
	};
	struct vhost_controller *ctrlr;

	return vhost_blk_create(&o, &ctrlr, &s->err);
}

static const struct step create_steps[] = {
	{"check", check_step, NULL},
	{"file", file_step, undo_file},
	{"bdev", bdev_step, undo_bdev},
	{"controller", controller_step, NULL},
};

static void
answer_error(struct job *job, int status)
{
	err_prefix(&job->steps.err, "disk '%s': ", job->name);
	rpc_error_from(job->req, status, &job->steps.err);
}

static void
create_done(struct steps *s, int status)
{
	struct job *job = CONTAINER_OF(s, struct job, steps);
	struct disk *d = job->disk;
	json_t *result;

	if (status != 0) {
		answer_error(job, status);
		job_free(job);
		return;
	}
	insert(d);
	job->disk = NULL;
	result = disk_json(NULL, d->name);
	if (job->note.code != 0) {
		json_object_set_new(result, "note", text_json(err_text(&job->note)));
		LOG_NOTICE(APP, d->name, "%s", err_text(&job->note));
	}
	rpc_set_recorded_params(job->req, params_json(d));
	rpc_result(job->req, result);
	job_free(job);
}

static void
create(struct rpc_request *req, const void *params)
{
	const struct berth_disk_create_params *p = params;
	struct job *job;

	if (!check_request(req, p->name)) {
		return;
	}
	job = job_create(req, p->name, p->backend);
	if (job == NULL) {
		return;
	}
	job->size = p->size;
	job->block_size = p->block_size;
	job->existing = p->existing;
	uuid_copy(job->uuid, p->uuid);
	job->disk->readonly = p->readonly;
	steps_run(&job->steps, create_steps, ARRAY_SIZE(create_steps), create_done);
}

/* ---- berth_disk_delete ---- */

static int
delete_controller_step(struct steps *s)
{
	struct job *job = CONTAINER_OF(s, struct job, steps);

	return vhost_delete(job->disk->name, gone, job, NULL) == 0 ? STEPS_WAIT : 0;
}

static int
delete_bdev_step(struct steps *s)
{
	struct job *job = CONTAINER_OF(s, struct job, steps);

	return delete_bdev(job, &s->err) == 0 ? STEPS_WAIT : 0;
}

static void
remove_file(struct worker_job *work)
{
	struct job *job = CONTAINER_OF(work, struct job, work);

	int fd = open(job->disk->file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	/* A bdev of another name may have taken the file of a disk that could not be restored. */
	job->work_status = 0;
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
		job->work_status = file_error(job);
	} else if (unlink(job->disk->file) != 0 && errno != ENOENT) {
		job->work_status = file_error(job);
	}
	if (fd >= 0) {
		close(fd);
	}
}

static int
delete_file_step(struct steps *s)
{
	struct job *job = CONTAINER_OF(s, struct job, steps);

	if (job->keep_file) {
		return 0;
	}
	worker_submit(methods->worker, &job->work, remove_file, work_done);
	return STEPS_WAIT;
}

static const struct step delete_steps[] = {
	{"controller", delete_controller_step, NULL},
	{"bdev", delete_bdev_step, NULL},
	{"file", delete_file_step, NULL},
};

static void
delete_all_done(struct steps *s, int status)
{
	struct job *job = CONTAINER_OF(s, struct job, steps);

	if (status != 0) {
		answer_error(job, status);
	} else {
		rpc_set_recorded_params(
			job->req, json_pack("{s:s, s:b}", "name", job->disk->name, "keep_file", 1));
		rpc_true(job->req);
	}
	job_free(job);
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct berth_disk_delete_params *p = params;
	struct job *job;
	bool exists;

	if (!check_request(req, p->name)) {
		return;
	}
	exists = find(p->name) != NULL;
	if (!exists &&
	    !(methods->forget != NULL && methods->forget(methods->ctx, FAMILY, p->name))) {
		rpc_error(req, -ENODEV, "there is no disk '%s'", p->name);
		return;
	}
	job = job_create(req, p->name, "");
	if (job != NULL) {
		/* One that could not be restored has a file perhaps, and nothing else: the last
		 * step. */
		const struct step *first =
			exists ? delete_steps : &delete_steps[ARRAY_SIZE(delete_steps) - 1];

		job->keep_file = p->keep_file;
		steps_run(&job->steps, first,
			  (unsigned)(delete_steps + ARRAY_SIZE(delete_steps) - first),
			  delete_all_done);
	}
}

/* ---- berth_disk_list ---- */

static int
compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void
list_disks(struct rpc_request *req, const void *params)
{
	const struct berth_disk_list_params *p = params;
	struct rpc_list *list;
	const char **names;
	struct disk *d;
	size_t count = 0;

	if (p->name != NULL && find(p->name) == NULL) {
		rpc_error(req, -ENODEV, "there is no disk '%.*s'", DISK_NAME_MAX, p->name);
		return;
	}
	names = malloc((by_name.count + 1) * sizeof(*names));
	if (names == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
		return;
	}
	LIST_FOREACH (d, &disks, link) {
		if (p->name == NULL || strcmp(d->name, p->name) == 0) {
			names[count++] = d->name;
		}
	}
	qsort(names, count, sizeof(*names), compare_names);
	list = rpc_list_begin(req, disk_json, NULL);
	for (size_t i = 0; i < count; i++) {
		rpc_list_add(list, names[i]);
	}
	rpc_list_end(list);
	free(names);
}

const struct rpc_method disk_methods[] = {
	{"berth_disk_create", create},
	{"berth_disk_delete", delete},
	{"berth_disk_list", list_disks},
	{NULL, NULL},
};
