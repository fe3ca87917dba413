/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Passthru bdevs: another bdev under a second name. Of no use but as the template for modules that
 * stand on one other bdev (docs/bdev-module.md), and to measure what a layer costs. All functions:
 * app thread.
 */
#ifndef BDEVS_PASSTHRU_PASSTHRU_H
#define BDEVS_PASSTHRU_PASSTHRU_H

#include "base/err.h"
#include "bdev/bdev.h"

struct passthru_bdev_options {
	const char *name;
	const char *base_name;
	uuid_t uuid; /* all zero: made from the base's UUID and the name */
};

/* Borrows options. 0, and *ret (may be NULL) is the bdev, or NULL when it waits for its base;
 * -EEXIST; -EPERM (the base is claimed, or open for writing); -ENOMEM. */
int bdev_passthru_create(const struct passthru_bdev_options *options, struct bdev **ret,
			 struct err *err);

/* 0: done(ctx, 0) follows, perhaps at once; -ENODEV: it is not called. */
int bdev_passthru_delete(const char *name, void (*done)(void *ctx, int status), void *ctx,
			 struct err *err);

/* Of a bdev: false when it is none of passthru's. Names are borrowed from it. */
bool bdev_passthru_get_options(const struct bdev *bdev, struct passthru_bdev_options *ret_options);
/* Of all, those that wait for their base too: i counts from 0; false past the last. */
bool bdev_passthru_list(unsigned i, struct passthru_bdev_options *ret_options);

#endif
