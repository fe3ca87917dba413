/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which I/O thread serves a virtqueue when it starts: of those a controller allows, the one that serves the fewest;
 * of equal ones the one whose reactor was less busy lately. Control thread.
 */
#ifndef VHOST_PLACEMENT_H
#define VHOST_PLACEMENT_H

#include "base/cpumask.h"
#include "base/err.h"
#include "event/thread.h"

/* threads: borrowed. 0 or -ENOMEM. placement_release accepts that it was never made. */
int placement_init(struct thread *const *threads, unsigned count);
void placement_release(void);

/*
 * The reactors (lcore numbers) that text allows; all when NULL. 0, or -EINVAL and err: not a mask,
 * or one that names a CPU on which no reactor runs.
 */
int placement_parse(const char *text, struct cpumask *ret_mask, struct err *err);

/* Counts one queue more on the thread it picks; returns the thread's position. */
unsigned placement_take(const struct cpumask *mask);
/* The same, but the caller has picked. */
void placement_take_at(unsigned position);
void placement_drop(unsigned position);

unsigned placement_count(void); /* positions are below this */
struct thread *placement_thread(unsigned position);
unsigned placement_queues(unsigned position);

#endif
