/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of methods on disks: disk.c has the list and the methods, disk_file.c and disk_volume.c the two kinds, and
 * disk_store.c the store of the volumes. */
#ifndef METHODS_DISK_INTERNAL_H
#define METHODS_DISK_INTERNAL_H

#include "base/list.h"
#include "base/names.h"
#include "bdev/bdev.h"
#include "event/steps.h"
#include "event/worker.h"
#include "lvol/lvol.h"
#include "methods/internal.h"

#define DISK_DIR "disks"
#define DISK_STORE "disks" /* the volume store */

struct disk {
	struct list link; /* in order of creation */
	struct names_node node;
	struct names_node bdev_node;
	char *name;
	char *file;    /* NULL: it is a volume */
	char *backend; /* as asked for: "file", "uring", "aio"; "volume" */
	char bdev_name[BDEV_NAME_BYTES]; /* its name; of a volume the UUID */
	bool readonly; /* the controller */
};

/* A request that makes, deletes or changes a disk. */
struct disk_job {
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
	uint64_t store_size; /* 0: chosen */
	uint32_t block_size;
	bool existing;
	bool made; /* the file, the volume */
	bool aliased;
	uuid_t uuid;
	struct err note;
	struct list store_link; /* waits for the store */
	/* delete */
	bool keep_file;
};

/* Callbacks whose ctx is the job: its step has ended. */
void disk_step_gone(void *ctx, int status);
void disk_step_done(void *ctx, int status, const struct err *err);
void disk_work_done(struct worker_job *work);

/* STATE/disks/NAME.img, NULL: memory is out. */
char *disk_file_path(const char *name);
int disk_open_dir(struct disk_job *job, struct err *err);
/* A file that was just made, synced. -EEXIST and others with the reason; blocks. */
int disk_make_file(int dir_fd, const char *path, uint64_t size, struct err *err);

/* Steps; what they need is in the job. Undo takes back what run did. */
int disk_file_step(struct steps *s);
int disk_file_undo(struct steps *s);
int disk_file_bdev_step(struct steps *s);
int disk_file_bdev_undo(struct steps *s);
int disk_file_bdev_delete_step(struct steps *s);
int disk_file_remove_step(struct steps *s);

int disk_file_resize_step(struct steps *s);
int disk_file_rescan_step(struct steps *s);

int disk_store_step(struct steps *s);
int disk_volume_step(struct steps *s);
int disk_volume_undo(struct steps *s);
int disk_volume_delete_step(struct steps *s);
int disk_volume_resize_step(struct steps *s);
/* Whether there is a volume of a disk that could not be made again. */
bool disk_volume_left(const char *name);

#endif
