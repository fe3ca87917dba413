/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Disks: storage in the state directory, a bdev that is known by the disk's name, and a controller
 * of this name. The storage is a thin volume in a store of its own there (disk_volume.c,
 * disk_store.c), or a sparse file (disk_file.c).
 *
 * Invariants
 *  1. A disk is in `disks` from the success of its creation until its bdev goes away, however that
 *     happens.
 *  2. Creation is undone whole when a step fails; a file or volume is removed only if this creation
 *     made it, or the file held no data.
 *  3. A file is removed only after its bdev is gone. What goes to the state log never makes or
 *     removes a file or a volume when it is replayed: creations are recorded with existing,
 *     deletions with keep_file.
 *  4. A volume's bdev has the disk's name as one more alias, as long as it is a disk.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "base/path.h"
#include "bdev/module.h"
#include "bdevs/aio/aio.h"
#include "bdevs/uring/uring.h"
#include "methods/disk_internal.h"
#include "rpc/schema_gen.h"
#include "vhost/vhost.h"

#define DISK_NAME_MAX 200
#define FAMILY "berth_disk_"
#define VOLUME "volume"
#define BLOCK_SIZE_DEFAULT 512

static struct list disks = {&disks, &disks};
static struct names by_name;
static struct names by_bdev;

/* ---- The list ---- */

static struct disk *
find(const char *name)
{
	struct names_node *node = names_find(&by_name, name);

	return node != NULL ? CONTAINER_OF(node, struct disk, node) : NULL;
}

static struct disk *
find_bdev(const char *bdev_name)
{
	struct names_node *node = names_find(&by_bdev, bdev_name);

	return node != NULL ? CONTAINER_OF(node, struct disk, bdev_node) : NULL;
}

static void
disk_free(struct disk *d)
{
	if (d != NULL) {
		list_remove(&d->link);
		names_remove(&by_name, &d->node);
		names_remove(&by_bdev, &d->bdev_node);
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
	names_add(&by_bdev, &disk->bdev_node, disk->bdev_name);
	list_append(&disks, &disk->link);
}

void
disk_bdev_gone(const char *name)
{
	disk_free(find_bdev(name));
}

bool
disk_has_bdev(const char *bdev_name)
{
	return find_bdev(bdev_name) != NULL;
}

const char *
disk_of_bdev(const char *bdev_name)
{
	const struct disk *d = find_bdev(bdev_name);

	return d != NULL ? d->name : NULL;
}

bool
disk_has_controller(const struct vhost_info *info)
{
	const struct disk *d = find(info->name);

	return d != NULL && strcmp(info->bdev_name, d->bdev_name) == 0 &&
	       info->readonly == d->readonly && mask_is_all(info->cpumask);
}

size_t
disk_count(void)
{
	return by_name.count;
}

/* ---- As JSON ---- */

/* The parameters that make the disk again from the file or volume that is there. */
static json_t *
params_json(const struct disk *d)
{
	const struct bdev *b = bdev_find(d->bdev_name);
	uuid_t uuid;

	CHECK(b != NULL);
	bdev_uuid(b, uuid);
	return json_pack("{s:s, s:I, s:I, s:s, s:b, s:b, s:o}", "name", d->name, "size",
			 (json_int_t)(bdev_num_blocks(b) * bdev_block_size(b)), "block_size",
			 (json_int_t)bdev_block_size(b), "backend", d->backend, "readonly",
			 d->readonly, "existing", 1, "uuid", uuid_json(uuid));
}

/* Bytes that it takes where it is. */
static uint64_t
allocated(const struct disk *d, struct bdev *b)
{
	struct lvol *lvol = lvol_of_bdev(b);
	struct stat st;

	if (lvol != NULL) {
		struct lvol_store_info store;
		struct lvol_info info;

		lvol_get_info(lvol, &info);
		lvol_store_get_info(info.store, &store);
		return info.allocated_clusters * store.blob.cluster_bytes;
	}
	return d->file != NULL && stat(d->file, &st) == 0 ? (uint64_t)st.st_blocks * 512 : 0;
}

static const char *
backend_of(const struct bdev *b)
{
	struct aio_bdev_info aio;

	if (lvol_of_bdev(b) != NULL) {
		return "volume";
	}
	return bdev_aio_info(b, &aio) ? "aio" : "uring";
}

static json_t *
volume_json(const struct bdev *b)
{
	struct lvol *lvol = lvol_of_bdev(b);
	struct lvol_info info;

	if (lvol == NULL) {
		return json_null();
	}
	lvol_get_info(lvol, &info);
	return text_json(info.alias);
}

static json_t *
disk_json(const void *ctx, const char *name)
{
	const struct disk *d = find(name);
	struct bdev *b = d != NULL ? bdev_find(d->bdev_name) : NULL;
	const struct vhost_controller *ctrlr = vhost_find(name);
	struct vhost_info info = {0};
	uuid_t uuid;

	if (d == NULL) {
		return NULL;
	}
	CHECK(b != NULL);
	bdev_uuid(b, uuid);
	if (ctrlr != NULL) {
		vhost_get_info(ctrlr, &info);
	}
	return json_pack("{s:s, s:I, s:I, s:I, s:s, s:b, s:o, s:o, s:o, s:o, s:b}", "name", d->name,
			 "size", (json_int_t)(bdev_num_blocks(b) * bdev_block_size(b)), "allocated",
			 (json_int_t)allocated(d, b), "block_size", (json_int_t)bdev_block_size(b),
			 "backend", backend_of(b), "readonly", d->readonly, "uuid", uuid_json(uuid),
			 "file", d->file != NULL ? text_json(d->file) : json_null(), "volume",
			 volume_json(b), "socket",
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

/* A name is worked on by one request at a time: in the middle of its life a disk's file looks
 * like one that nobody wants. */
static struct list jobs = {&jobs, &jobs};

static bool
busy(const char *name)
{
	struct disk_job *job;

	LIST_FOREACH (job, &jobs, link) {
		if (strcmp(job->name, name) == 0) {
			return true;
		}
	}
	return false;
}

static void
job_free(struct disk_job *job)
{
	list_remove(&job->link);
	free(job->name);
	disk_free(job->disk);
	if (job->dir_fd >= 0) {
		close(job->dir_fd);
	}
	free(job);
}

void
disk_step_gone(void *ctx, int status)
{
	struct disk_job *job = ctx;

	steps_continue(&job->steps, status);
}

void
disk_step_done(void *ctx, int status, const struct err *err)
{
	struct disk_job *job = ctx;

	if (status != 0) {
		job->steps.err = *err;
	}
	steps_continue(&job->steps, status);
}

void
disk_work_done(struct worker_job *work)
{
	struct disk_job *job = CONTAINER_OF(work, struct disk_job, work);

	steps_continue(&job->steps, job->work_status);
}

static struct disk_job *
job_create(struct rpc_request *req, const char *name, const char *backend)
{
	bool volume = strcmp(backend, VOLUME) == 0;
	struct disk_job *job = calloc(1, sizeof(*job));
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
	disk->file = volume ? NULL : disk_file_path(name);
	disk->backend = strdup(backend);
	if (job->name == NULL || disk->name == NULL || (!volume && disk->file == NULL) ||
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

static int
check_step(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);
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
	return 0;
}

static int
controller_step(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);
	struct vhost_blk_options o = {
		.name = job->disk->name,
		.bdev_name = job->disk->bdev_name,
		.readonly = job->disk->readonly,
	};
	struct vhost_controller *ctrlr;

	return vhost_blk_create(&o, &ctrlr, &s->err);
}

static const struct step create_file_steps[] = {
	{"check", check_step, NULL},
	{"file", disk_file_step, disk_file_undo},
	{"bdev", disk_file_bdev_step, disk_file_bdev_undo},
	{"controller", controller_step, NULL},
};

static const struct step create_volume_steps[] = {
	{"check", check_step, NULL},
	{"store", disk_store_step, NULL},
	{"volume", disk_volume_step, disk_volume_undo},
	{"controller", controller_step, NULL},
};

static void
answer_error(struct disk_job *job, int status)
{
	err_prefix(&job->steps.err, "disk '%s': ", job->name);
	rpc_error_from(job->req, status, &job->steps.err);
}

static void
create_done(struct steps *s, int status)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);
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

/* What "auto" is: a volume, unless it is to be a file that is there, or something that volumes cannot be. */
static const char *
backend_for(const struct berth_disk_create_params *p)
{
	char *file;
	bool there;

	if (strcmp(p->backend, "auto") != 0) {
		return p->backend;
	}
	if (p->block_size != BLOCK_SIZE_DEFAULT || strlen(p->name) >= LVOL_NAME_BYTES) {
		return "file";
	}
	file = p->existing ? disk_file_path(p->name) : NULL;
	there = file != NULL && access(file, F_OK) == 0;
	free(file);
	return there ? "file" : VOLUME;
}

static void
create(struct rpc_request *req, const void *params)
{
	const struct berth_disk_create_params *p = params;
	struct disk_job *job;

	if (!check_request(req, p->name)) {
		return;
	}
	job = job_create(req, p->name, backend_for(p));
	if (job == NULL) {
		return;
	}
	job->size = p->size;
	job->store_size = p->store_size;
	job->block_size = p->block_size;
	job->existing = p->existing;
	uuid_copy(job->uuid, p->uuid);
	job->disk->readonly = p->readonly;
	if (job->disk->file != NULL) {
		steps_run(&job->steps, create_file_steps, ARRAY_SIZE(create_file_steps),
			  create_done);
	} else {
		steps_run(&job->steps, create_volume_steps, ARRAY_SIZE(create_volume_steps),
			  create_done);
	}
}

/* ---- berth_disk_delete ---- */

static int
delete_controller_step(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);

	return vhost_delete(job->disk->name, disk_step_gone, job, NULL) == 0 ? STEPS_WAIT : 0;
}

static const struct step delete_file_steps[] = {
	{"controller", delete_controller_step, NULL},
	{"bdev", disk_file_bdev_delete_step, NULL},
	{"file", disk_file_remove_step, NULL},
};

/* The volume stays: it is no disk any more. */
static int
leave_step(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);

	if (job->keep_file) {
		disk_free(find(job->name));
	}
	return 0;
}

static const struct step delete_volume_steps[] = {
	{"controller", delete_controller_step, NULL},
	{"leave", leave_step, NULL},
	{"volume", disk_volume_delete_step, NULL},
};

static void
delete_all_done(struct steps *s, int status)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);

	if (status != 0) {
		answer_error(job, status);
	} else {
		rpc_set_recorded_params(
			job->req, json_pack("{s:s, s:b}", "name", job->disk->name, "keep_file", 1));
		rpc_true(job->req);
	}
	job_free(job);
}

/* The bdev of a disk went in another way, as with its store, and left the controller. */
static bool
controller_left(const char *name)
{
	const struct vhost_controller *ctrlr = vhost_find(name);
	struct vhost_info info;

	if (ctrlr == NULL) {
		return false;
	}
	vhost_get_info(ctrlr, &info);
	return bdev_find(info.bdev_name) == NULL;
}

static void
delete_left(struct rpc_request *req, const char *name)
{
	struct disk_job *job = job_create(req, name, VOLUME);

	if (methods->forget != NULL) {
		(void)methods->forget(methods->ctx, FAMILY, name);
	}
	if (job != NULL) {
		steps_run(&job->steps, delete_volume_steps, 1, delete_all_done);
	}
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct berth_disk_delete_params *p = params;
	const struct step *steps;
	struct disk_job *job;
	struct disk *d;
	bool volume;

	if (!check_request(req, p->name)) {
		return;
	}
	d = find(p->name);
	if (d == NULL && controller_left(p->name)) {
		delete_left(req, p->name);
		return;
	}
	if (d == NULL &&
	    !(methods->forget != NULL && methods->forget(methods->ctx, FAMILY, p->name))) {
		rpc_error(req, -ENODEV, "there is no disk '%s'", p->name);
		return;
	}
	/* One that could not be restored has a file or a volume perhaps, and nothing else: the last step. */
	volume = d != NULL ? d->file == NULL : disk_volume_left(p->name);
	job = job_create(req, p->name, volume ? VOLUME : "file");
	if (job == NULL) {
		return;
	}
	if (d != NULL) {
		memcpy(job->disk->bdev_name, d->bdev_name, sizeof(d->bdev_name));
	}
	job->keep_file = p->keep_file;
	steps = volume ? delete_volume_steps : delete_file_steps;
	steps_run(&job->steps, d != NULL ? steps : steps + 2, d != NULL ? 3 : 1, delete_all_done);
}

/* ---- berth_disk_resize ---- */

static void
resized(struct steps *s, int status)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);
	struct disk *d = find(job->name);

	if (status != 0) {
		answer_error(job, status);
	} else {
		rpc_set_recorded_call(job->req, d != NULL ? "berth_disk_create" : NULL,
				      d != NULL ? params_json(d) : NULL);
		rpc_result(job->req, d != NULL ? disk_json(NULL, d->name) : json_null());
	}
	job_free(job);
}

static const struct step resize_file_steps[] = {{"file", disk_file_resize_step, NULL},
						{"bdev", disk_file_rescan_step, NULL}};
static const struct step resize_volume_steps[] = {{"volume", disk_volume_resize_step, NULL}};

/* What is open cannot become smaller: the controller is made anew, which no VM sees that is not connected. */
static int
controller_again(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);
	int rc = controller_step(s);

	if (rc != 0) {
		LOG_ERROR(APP, job->name, "its controller could not be made again: %s", err_text(&job->steps.err));
	}
	return 0;
}

static const struct step shrink_volume_steps[] = {
	{"controller", delete_controller_step, controller_again},
	{"volume", disk_volume_resize_step, NULL},
	{"controller", controller_step, NULL},
};

static bool
shrinks_unconnected(const struct disk *d, uint64_t size)
{
	const struct bdev *b = bdev_find(d->bdev_name);
	const struct vhost_controller *ctrlr = vhost_find(d->name);
	struct vhost_info info;

	if (b == NULL || ctrlr == NULL || size >= bdev_num_blocks(b) * bdev_block_size(b)) {
		return false;
	}
	vhost_get_info(ctrlr, &info);
	return !info.has_session && info.delay_base_us == 0 && disk_has_controller(&info);
}

static void
resize(struct rpc_request *req, const void *params)
{
	const struct berth_disk_resize_params *p = params;
	struct disk *d;
	struct disk_job *job;

	if (!check_request(req, p->name)) {
		return;
	}
	d = find(p->name);
	if (d == NULL) {
		rpc_error(req, -ENODEV, "there is no disk '%s'", p->name);
		return;
	}
	job = job_create(req, p->name, d->backend);
	if (job == NULL) {
		return;
	}
	job->size = p->size;
	job->disk->readonly = d->readonly;
	memcpy(job->disk->bdev_name, d->bdev_name, sizeof(d->bdev_name));
	if (d->file == NULL && shrinks_unconnected(d, p->size)) {
		steps_run(&job->steps, shrink_volume_steps, ARRAY_SIZE(shrink_volume_steps), resized);
	} else if (d->file != NULL) {
		steps_run(&job->steps, resize_file_steps, ARRAY_SIZE(resize_file_steps), resized);
	} else {
		steps_run(&job->steps, resize_volume_steps, ARRAY_SIZE(resize_volume_steps),
			  resized);
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
	{"berth_disk_resize", resize},
	{"berth_disk_list", list_disks},
	{NULL, NULL},
};
