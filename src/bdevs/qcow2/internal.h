/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of src/bdevs/qcow2; never leaves it. */
#ifndef BDEVS_QCOW2_INTERNAL_H
#define BDEVS_QCOW2_INTERNAL_H

#include "bdev/stack.h"
#include "bdevs/qcow2/parse.h"
#include "bdevs/qcow2/qcow2.h"

/* A disk whose image has been looked at. */
struct qcow2 {
	struct stack stack;
	struct image *image;
	struct qcow2_header header;
	uint8_t *l1; /* as in the file */
	bool was_up;
};

/* ---- load.c: header and first table of an image ---- */

/*
 * Opens the bdev and reads; done(ctx, header, l1, err), from a later turn: takes l1 (free()); or NULL, with err. 0, or the
 * error in err: done is not called.
 */
int qcow2_load(const char *base_name,
	       void (*done)(void *ctx, const struct qcow2_header *header, uint8_t *l1,
			    const struct err *err),
	       void *ctx, struct err *err);

/* ---- read.c ---- */

extern const struct bdev_ops qcow2_ops;
size_t qcow2_channel_bytes(void);
/* Of its own in a request. */
size_t qcow2_own_bytes(void);

#endif
