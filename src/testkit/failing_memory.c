/* SPDX-License-Identifier: BSD-3-Clause */
#define FAILING_MEMORY_ITSELF
#include "testkit/failing_memory.h"

static unsigned left; /* until the one that fails; 0: none does */
static bool rest;     /* all from there on */
static unsigned failed;

void
failing_memory_at(unsigned nth, bool all)
{
	left = nth;
	rest = all;
	failed = 0;
}

unsigned
failing_memory_failed(void)
{
	return failed;
}

static bool
fails(void)
{
	if (left == 0 || --left > 0) {
		return false;
	}
	left = rest ? 1 : 0;
	failed++;
	return true;
}

void *
failing_malloc(size_t bytes)
{
	return fails() ? NULL : malloc(bytes);
}

void *
failing_calloc(size_t count, size_t bytes)
{
	return fails() ? NULL : calloc(count, bytes);
}

void *
failing_realloc(void *old, size_t bytes)
{
	return fails() ? NULL : realloc(old, bytes);
}

void *
failing_aligned_alloc(size_t align, size_t bytes)
{
	return fails() ? NULL : aligned_alloc(align, bytes);
}

char *
failing_strdup(const char *text)
{
	return fails() ? NULL : strdup(text);
}

char *
failing_strndup(const char *text, size_t most)
{
	return fails() ? NULL : strndup(text, most);
}
