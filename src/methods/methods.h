/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The RPC methods: the only place that joins JSON with the modules. A handler gets its parameters
 * decoded and checked by the schema, calls a module's plain functions, and answers in SPDK's
 * shapes. Everything on the app thread.
 */
#ifndef METHODS_METHODS_H
#define METHODS_METHODS_H

#include <jansson.h>
#include <stdbool.h>

#include "event/reactor.h"
#include "event/thread.h"
#include "event/worker.h"

struct methods_options {
	const char *rpc_socket;
	const char *socket_dir;
	const char *state_dir; /* absolute; NULL: none */
	enum reactor_mode mode;
	bool pinned;
	struct reactor *const *reactors;
	unsigned reactor_count;
	struct thread *const *threads; /* all there are: the app thread, then the I/O threads */
	unsigned thread_count;
	struct worker *worker; /* for what blocks; NULL only without state_dir */

	/* framework_start_init was called; answered by methods_ready(). */
	void (*start_init)(void *ctx);
	/* An object that is not there shall be deleted: whether the state directory knew of one
	 * that could not be restored, which is forgotten by this. */
	bool (*forget)(void *ctx, const char *family, const char *name);
	void *ctx;
};

/* Once. Borrows options and all that it points to for ever. */
void methods_init(const struct methods_options *options);

/* Everything is initialised (0), or will never be (a negative errno): answers those who wait for
 * it. */
void methods_ready(int status);

/* Answers every request that waits for something (bdev_get_bdevs with a time-out), and watches
 * nothing any more. */
void methods_shutdown(void);

/* What framework_get_config answers for a subsystem: array of {"method","params"}; NULL: there
 * is no such subsystem. */
json_t *methods_config(const char *subsystem);

/* The calls that make all that there is now, for the state directory; NULL: memory is out. */
json_t *methods_state(void);

#endif
