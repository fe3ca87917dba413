/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sets of CPUs as users write them: hexadecimal ("0x3", "3") or a list in brackets ("[0,2-3]"), as
 * SPDK takes them. Pure; any thread.
 */
#ifndef BASE_CPUMASK_H
#define BASE_CPUMASK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define CPUMASK_CPUS 1024
/* "0x", a digit for every four CPUs, and the terminating zero. */
#define CPUMASK_TEXT_BYTES (2 + CPUMASK_CPUS / 4 + 1)

struct cpumask {
	uint64_t words[CPUMASK_CPUS / 64];
};

/* 0, or -EINVAL when text is neither form, names no CPU, or one past CPUMASK_CPUS. */
int cpumask_parse(const char *text, struct cpumask *ret_mask, struct err *err);

/* As above; and "0", "0x0", "[]" and "" are the empty set. */
int cpumask_parse_any(const char *text, struct cpumask *ret_mask, struct err *err);

/* "0x3" for CPUs 0 and 1; prefix false: "3", as SPDK's configuration has it. */
void cpumask_format(const struct cpumask *mask, bool prefix, char ret_text[CPUMASK_TEXT_BYTES]);

/* cpu past the end: set does nothing, test says false. */
void cpumask_set(struct cpumask *mask, unsigned cpu);
bool cpumask_test(const struct cpumask *mask, unsigned cpu);
unsigned cpumask_count(const struct cpumask *mask);

/* Smallest CPU of the set that is at least `from`; CPUMASK_CPUS when there is none. */
unsigned cpumask_next(const struct cpumask *mask, unsigned from);

#define CPUMASK_FOREACH(cpu, mask) \
	for (cpu = cpumask_next(mask, 0); cpu < CPUMASK_CPUS; cpu = cpumask_next(mask, cpu + 1))

#endif
