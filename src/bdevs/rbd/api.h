/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The functions of librados and librbd that are used, and the system's for the threads that call them: a table, so that the
 * libraries (with what they need, a hundred megabytes) are loaded by those who have images, and that tests can put others in
 * their place.
 */
#ifndef BDEVS_RBD_API_H
#define BDEVS_RBD_API_H

#include <pthread.h>

#include <rados/librados.h>
#include <rbd/librbd.h>

#include "base/err.h"

#define RADOS_FUNCTIONS(X) \
	X(rados_create) \
	X(rados_conf_read_file) \
	X(rados_conf_set) \
	X(rados_connect) \
	X(rados_shutdown) \
	X(rados_ioctx_create) \
	X(rados_ioctx_destroy)

#define RBD_FUNCTIONS(X) \
	X(rbd_open) \
	X(rbd_open_read_only) \
	X(rbd_close) \
	X(rbd_get_size) \
	X(rbd_stat) \
	X(rbd_resize) \
	X(rbd_update_watch) \
	X(rbd_update_unwatch) \
	X(rbd_diff_iterate2) \
	X(rbd_aio_create_completion) \
	X(rbd_aio_get_return_value) \
	X(rbd_aio_release) \
	X(rbd_aio_read) \
	X(rbd_aio_writev) \
	X(rbd_aio_discard) \
	X(rbd_aio_write_zeroes) \
	X(rbd_aio_compare_and_write) \
	X(rbd_aio_flush)

struct rbd_api {
#define RBD_API_FIELD(name) __typeof__(&name) name;
	RADOS_FUNCTIONS(RBD_API_FIELD)
	RBD_FUNCTIONS(RBD_API_FIELD)
#undef RBD_API_FIELD
	__typeof__(&pthread_create) thread_create;
};

/* App thread: loads the libraries if need be. NULL, and err: they are not there. */
const struct rbd_api *rbd_api_load(struct err *err);
/* The table that rbd_api_load() gave. Any thread, afterwards. */
extern const struct rbd_api *rbd_api;
/* Tests only: before anything else. */
void rbd_api_set(const struct rbd_api *api);

#endif
