/* SPDX-License-Identifier: BSD-3-Clause */
/* Disks that are thin volumes of the store in the state directory. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "bdev/module.h"
#include "methods/disk_internal.h"

/* The disk's volume; NULL: there is none. */
static struct lvol *
volume_of(const char *name)
{
	struct lvol_store *store = lvol_store_find_name(DISK_STORE);

	return store != NULL ? lvol_find_in(store, name) : NULL;
}

bool
disk_volume_left(const char *name)
{
	return volume_of(name) != NULL;
}

/* ---- Making ---- */

static int
use(struct disk_job *job, struct lvol *lvol, struct err *err)
{
	struct bdev *b = lvol_bdev(lvol);
	int rc;

	if (b == NULL) {
		return err_set(err, -ENODEV, "its volume cannot be used");
	}
	snprintf(job->disk->bdev_name, sizeof(job->disk->bdev_name), "%s", bdev_name(b));
	rc = bdev_alias_add(b, job->disk->name, err);
	job->aliased = rc == 0;
	return rc;
}

static void
made(void *ctx, struct lvol *lvol, int status, const struct err *err)
{
	struct disk_job *job = ctx;

	if (status != 0) {
		job->steps.err = *err;
		steps_continue(&job->steps, status);
		return;
	}
	job->made = true;
	snprintf(job->disk->bdev_name, sizeof(job->disk->bdev_name), "%s", lvol_id(lvol));
	/* What fails is undone by the steps before: the volume is this one's. */
	status = use(job, lvol, &job->steps.err);
	if (status != 0) {
		lvol_delete(lvol, NULL, NULL);
		job->made = false;
	}
	steps_continue(&job->steps, status);
}

/* By its UUID where that is known: the volume may have got another name meanwhile. */
static int
take_existing(struct disk_job *job, struct err *err)
{
	char uuid[UUID_STR_LEN];
	struct lvol *lvol;

	uuid_unparse_lower(job->uuid, uuid);
	lvol = uuid_is_null(job->uuid) ? volume_of(job->disk->name) : lvol_find(uuid);
	if (lvol == NULL) {
		return err_set(err, -ENODEV, "there is no volume '%s/%s'", DISK_STORE,
			       job->disk->name);
	}
	return use(job, lvol, err);
}

int
disk_volume_step(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);
	struct lvol_store *store = lvol_store_find_name(DISK_STORE);
	struct lvol_options o = {.name = job->disk->name, .bytes = job->size, .thin = true};

	if (job->existing) {
		return take_existing(job, &s->err);
	}
	if (store == NULL) {
		return err_set(&s->err, -ENODEV, "volume store '%s' went meanwhile", DISK_STORE);
	}
	uuid_copy(o.uuid, job->uuid);
	lvol_create(store, &o, made, job);
	return STEPS_WAIT;
}

static void
remove_alias(const char *volume_id, const char *alias)
{
	struct bdev *b = bdev_find(volume_id);

	if (b != NULL) {
		(void)bdev_alias_remove(b, alias);
	}
}

int
disk_volume_undo(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);
	struct lvol *lvol = lvol_find(job->disk->bdev_name);

	if (job->aliased) {
		remove_alias(job->disk->bdev_name, job->disk->name);
	}
	if (!job->made || lvol == NULL) {
		return 0;
	}
	lvol_delete(lvol, disk_step_done, job);
	return STEPS_WAIT;
}

/* ---- Deleting, resizing ---- */

int
disk_volume_delete_step(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);
	const char *id = job->disk->bdev_name;
	struct lvol *lvol = id[0] != '\0' ? lvol_find(id) : volume_of(job->disk->name);

	if (job->keep_file) {
		remove_alias(id, job->disk->name);
		return 0;
	}
	if (lvol == NULL) {
		return 0;
	}
	lvol_delete(lvol, disk_step_done, job);
	return STEPS_WAIT;
}

int
disk_volume_resize_step(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);
	struct lvol *lvol = lvol_find(job->disk->bdev_name);

	if (lvol == NULL) {
		return err_set(&s->err, -ENODEV, "its volume went meanwhile");
	}
	lvol_resize(lvol, job->size, disk_step_done, job);
	return STEPS_WAIT;
}
