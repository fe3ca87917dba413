/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What every read-only bdev must do: the battery of testkit/bdev_battery.h for those that cannot be written to. Its contents are
 * known instead.
 */
#ifndef TESTKIT_BDEV_READER_H
#define TESTKIT_BDEV_READER_H

#include "testkit/bdev_env.h"

struct reader {
	const char *name;
	void *ctx;
	const uint8_t *data; /* what is on it, all of it */
	/* From outside of the threads: makes the bdev, and takes it away. */
	void (*create)(const struct reader *r, struct env *env);
	/* App thread: begins to remove it, while it is open. */
	void (*remove)(const struct reader *r);
	/* From outside of the threads, closed: waits until it is gone. */
	void (*finish)(const struct reader *r, struct env *env);
};

void bdev_reader_run(const struct reader *r, enum reactor_mode mode, bool real_threads);
/* In all modes, by hand and with threads. */
void bdev_reader_run_all(const struct reader *r);

#endif
