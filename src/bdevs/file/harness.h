/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What every bdev on files must do, as tests: the module's test program names its functions and gets a table of tests, each
 * run on a file on disk (O_DIRECT where the file system has it), the same through the page cache, and a file in
 * memory; with blocks of 512 and 4096 bytes; in every mode of the reactor. Test programs only.
 */
#ifndef BDEVS_FILE_HARNESS_H
#define BDEVS_FILE_HARNESS_H

#include "bdevs/file/file.h"
#include "event/reactor.h"

struct harness_counts {
	uint64_t submits;
	uint64_t requests;
	uint64_t mixed;
};

struct harness_module {
	const char *name;
	int (*create)(const struct file_options *options, struct err *err);
	int (*rescan)(const char *name, struct err *err);
	int (*delete)(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err);
	struct harness_counts (*counts)(void); /* of the calling thread */
};

enum harness_place { HARNESS_DISK, HARNESS_CACHED, HARNESS_MEMORY };

struct harness_variant {
	enum harness_place place;
	uint32_t block_size;
	enum reactor_mode mode;
};

#define HARNESS_FILE_BYTES (4u << 20)

/* One disk of a test, open for writing with a channel on the I/O thread. */
struct harness_disk {
	char name[32];
	char path[256];
	struct bdev *bdev;
	struct bdev_desc *desc;
	struct bdev_channel *ch;
	int resized; /* events seen */
};

/* A reactor polled by hand, with a thread for control and one for I/O, and two disks. */
struct harness {
	const struct harness_module *module;
	struct harness_variant variant;
	struct reactor *reactor;
	struct thread *app;
	struct thread *io;
	char dir[128];
	struct harness_disk disks[2];
};

/* Makes everything; failures end the test program. NULL when the place is missing here (no tmpfs). */
struct harness *harness_open(const struct harness_module *module, struct harness_variant variant);
void harness_close(struct harness *h);
/* Puts, closes and deletes the first disk now; the other, and what the thread's disks share, goes on. */
void harness_drop_first(struct harness *h);

struct harness_io {
	enum bdev_op op;
	uint64_t lba;
	uint64_t blocks;
	const struct iovec *iov;
	unsigned iovcnt;
	unsigned flags;
	int status;
};

/* Submits all n in one turn of the I/O thread, alternating between the first `disks` disks, waits for their ends. */
void harness_submit(struct harness *h, struct harness_io *ios, unsigned n, unsigned disks);
/* One request on the first disk with one buffer; its status. */
int harness_rw(struct harness *h, enum bdev_op op, uint64_t lba, uint64_t blocks, void *buf, unsigned flags);
struct harness_counts harness_counts(struct harness *h);

/* Runs fn in a child process, so that its limits and filters end with it; fails the test unless it returns. */
void harness_in_child(void (*fn)(void));

/* Refuses a system call with an errno from now on: in a child only. */
void harness_forbid(int syscall_number, int error);

/* Runs the common tests and those of the module itself; the program's exit status. */
struct CMUnitTest;
int harness_main(const struct harness_module *module, const struct CMUnitTest *own, size_t own_count);

#endif
