/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bdevs that a configuration file or a JSON object describes, made in this process for `berth perf`
 * by the same methods that berthd has. App thread; once a process.
 */
#ifndef APP_PERF_CONFIG_H
#define APP_PERF_CONFIG_H

#include <jansson.h>

#include "base/err.h"
#include "event/reactor.h"
#include "event/thread.h"

struct perf_config {
	void (*loaded)(struct perf_config *config, int status, const struct err *err);
	void (*unloaded)(struct perf_config *config);
	void *ctx; /* the caller's */

	json_t *calls; /* array of {"method","params","where"} */
	size_t next;
	bool started; /* methods are there */
	bool inside, answered;
	struct err err;
	struct reactor *reactor;
	struct thread *thread;
};

/*
 * Adds the bdev_ methods of a file in the shape of save_config; everything else in it is left
 * out. 0 or -EINVAL, ...
 */
int perf_config_add_file(struct perf_config *config, const char *path, struct err *err);

/*
 * Adds a bdev from {"method":"bdev_..._create","params":{"name":...}} and gives its name, to be
 * freed.
 */
int perf_config_add_json(struct perf_config *config, const char *text, char **ret_name,
			 struct err *err);

/*
 * Makes what was added; loaded() comes, perhaps before this returns. Without anything added it
 * does no more than that.
 */
void perf_config_load(struct perf_config *config);

/* Removes every bdev there is, then unloaded(). */
void perf_config_unload(struct perf_config *config);

#endif
