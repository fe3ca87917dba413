/* SPDX-License-Identifier: BSD-3-Clause */
/* A target for the tests: tgtd on a loopback port, with a folder of its own. */
#ifndef BDEVS_ISCSI_HARNESS_H
#define BDEVS_ISCSI_HARNESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define TGT_NAME "iqn.2024-01.io.example:disk"

struct tgt {
	char dir[64];
	unsigned port;
	pid_t pid; /* 0: it does not run */
	/* For the next tgt_start(). */
	uint64_t bytes;
	unsigned block_size;
	bool thick;
	bool readonly;
	const char *user, *password; /* NULL: anybody */
};

/* Whether tgtd is installed. */
bool tgt_there(void);
/* Folder, port and an empty disk. */
void tgt_init(struct tgt *t, uint64_t bytes, unsigned block_size);
void tgt_release(struct tgt *t);
void tgt_start(struct tgt *t);
/* As a crash does; what it was told to write is written. */
void tgt_kill(struct tgt *t);
/* Stops it in its tracks, and lets it go on. */
void tgt_pause(struct tgt *t, bool paused);
/* The disk is that long; tgtd sees it at its next start. */
void tgt_resize(struct tgt *t, uint64_t bytes);
/* The unit goes, or comes back, while it runs. */
void tgt_take_unit(struct tgt *t);
void tgt_give_unit(struct tgt *t);
/* iscsi://...; in t's memory until the next call. */
const char *tgt_url(struct tgt *t, const char *user, unsigned lun);

#endif
