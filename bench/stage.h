/* SPDX-License-Identifier: BSD-3-Clause */
/* What programs that measure bdevs in their own process have in common: one thread on one reactor, polled by hand. */
#ifndef BENCH_STAGE_H
#define BENCH_STAGE_H

#include "base/err.h"
#include "event/reactor.h"

extern struct reactor *stage_reactor;

/* Ends the program when there is none to be had. name: the program's. */
void stage_start(const char *name);
/* What was begun comes to its end, as far as it can. */
void stage_stop(void);
/* Says what failed, and ends the program. */
void stage_fail(const char *what, const struct err *err) __attribute__((noreturn));
/* Runs fn(arg) on the thread, and returns when it has. */
void stage_call(void (*fn)(void *arg), void *arg);
/* Sorts them. */
double stage_median(double *values, unsigned count);

#endif
