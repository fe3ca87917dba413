/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory that runs out. Sources that are compiled with this header in front (-include) get their memory here; a test says which
 * of their requests find none. One system thread.
 */
#ifndef TESTKIT_FAILING_MEMORY_H
#define TESTKIT_FAILING_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* The nth request from now on fails (1: the next), and, when all is set, those behind it. 0: none. */
void failing_memory_at(unsigned nth, bool all);
unsigned failing_memory_failed(void); /* how many have since */

void *failing_malloc(size_t bytes);
void *failing_calloc(size_t count, size_t bytes);
void *failing_realloc(void *old, size_t bytes);
void *failing_aligned_alloc(size_t align, size_t bytes);
char *failing_strdup(const char *text);
char *failing_strndup(const char *text, size_t most);

#ifndef FAILING_MEMORY_ITSELF
#define malloc failing_malloc
#define calloc failing_calloc
#define realloc failing_realloc
#define aligned_alloc failing_aligned_alloc
#undef strdup
#define strdup failing_strdup
#undef strndup
#define strndup failing_strndup
#endif

#endif
