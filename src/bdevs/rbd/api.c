/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/rbd/api.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#define RADOS_FILE "librados.so.2"
#define RBD_FILE "librbd.so.1"

const struct rbd_api *rbd_api;

void
rbd_api_set(const struct rbd_api *api)
{
	rbd_api = api;
}

/* An address of the library; functions and objects have pointers of one size here. */
static int
find(void *library, const char *name, void *ret_function, struct err *err)
{
	void *at = dlsym(library, name);

	if (at == NULL) {
		return err_set(err, -ENOENT, "%s is not in the library: it is too old", name);
	}
	memcpy(ret_function, &at, sizeof(at));
	return 0;
}

static int
find_all(struct rbd_api *api, void *rados, void *rbd, struct err *err)
{
	int rc = 0;

#define FIND_IN_RADOS(name) \
	if (rc == 0) { \
		rc = find(rados, #name, &api->name, err); \
	}
#define FIND_IN_RBD(name) \
	if (rc == 0) { \
		rc = find(rbd, #name, &api->name, err); \
	}
	RADOS_FUNCTIONS(FIND_IN_RADOS)
	RBD_FUNCTIONS(FIND_IN_RBD)
	return rc;
}

const struct rbd_api *
rbd_api_load(struct err *err)
{
	static struct rbd_api loaded = {.thread_create = pthread_create};
	void *rados, *rbd;

	if (rbd_api != NULL) {
		return rbd_api;
	}
	/* They stay: their threads and theirs at exit cannot be taken back. */
	rados = dlopen(RADOS_FILE, RTLD_NOW | RTLD_NODELETE);
	rbd = rados != NULL ? dlopen(RBD_FILE, RTLD_NOW | RTLD_NODELETE) : NULL;
	if (rbd == NULL) {
		err_set(err, -ENOENT, "Ceph's library cannot be loaded: %s", dlerror());
		return NULL;
	}
	if (find_all(&loaded, rados, rbd, err) == 0) {
		rbd_api = &loaded;
	}
	return rbd_api;
}
