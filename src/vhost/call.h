/* SPDX-License-Identifier: BSD-3-Clause */
/* Calls: one is added to an eventfd that a VMM gave, without ever waiting for the VMM. I/O threads. */
#ifndef VHOST_CALL_H
#define VHOST_CALL_H

#include <stdbool.h>

/* Once at start, before descriptors are counted: opens the one that all threads need. */
void vhost_caller_prepare(void);

/* The calling thread's, with one more reference; NULL: out of memory. */
struct vhost_caller *vhost_caller_get(void);
void vhost_caller_put(struct vhost_caller *c); /* accepts NULL */

/* fd: an eventfd whose O_NONBLOCK was set once. */
void vhost_caller_call(struct vhost_caller *c, int fd);

/* Whether it never waits, whatever the VMM does; false: the kernel lets nobody, see call.c. */
bool vhost_caller_is_safe(const struct vhost_caller *c);

#endif
