/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The memory file of session state: slots, and which of them are free.
 *
 * Invariants
 *  1. A slot is in use exactly when its magic is set; magic is written last, and taken away first.
 *  2. A free slot holds no memory.
 */
#include "vhost/state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"

#define ARENA_BYTES ((size_t)STATE_SLOTS * STATE_SLOT_BYTES)

_Static_assert(sizeof(struct state_ring) == 32 && sizeof(struct state_region) == 32, "part of the layout");
_Static_assert(offsetof(struct state_session, far_rings) <= 4096, "a small session fits one page");
_Static_assert(sizeof(struct state_session) <= STATE_SLOT_BYTES, "a session fits its slot");

static struct {
	int fd;
	uint8_t *base; /* NULL: not made */
	uint32_t touched;   /* slots at and above were never used */
	uint32_t free;      /* index + 1 of the first free slot below touched */
	uint32_t next_free[STATE_SLOTS];
} arena;

int
state_init(struct err *err)
{
	int rc;

	CHECK(arena.base == NULL);
	arena.fd = memfd_create("berth-sessions", MFD_CLOEXEC);
	if (arena.fd < 0) {
		return err_set(err, -errno, "cannot make memory for session state: %s", strerror(errno));
	}
	arena.base = MAP_FAILED;
	if (ftruncate(arena.fd, (off_t)ARENA_BYTES) == 0) {
		arena.base = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, arena.fd, 0);
	}
	if (arena.base == MAP_FAILED) {
		rc = err_set(err, -errno, "cannot map memory for session state: %s", strerror(errno));
		close(arena.fd);
		arena.base = NULL;
		return rc;
	}
	arena.touched = 0;
	arena.free = 0;
	return 0;
}

void
state_release(void)
{
	if (arena.base == NULL) {
		return;
	}
	munmap(arena.base, ARENA_BYTES);
	close(arena.fd);
	arena.base = NULL;
}

struct state_session *
state_get(const char *controller, uint64_t id)
{
	struct state_session *s;
	uint32_t i;

	CHECK(arena.base != NULL);
	if (arena.free != 0) {
		i = arena.free - 1;
		arena.free = arena.next_free[i];
	} else if (arena.touched < STATE_SLOTS) {
		i = arena.touched++;
	} else {
		return NULL;
	}
	s = (struct state_session *)(void *)(arena.base + (size_t)i * STATE_SLOT_BYTES);
	CHECK(s->magic == 0);
	s->version = STATE_VERSION;
	s->bytes = sizeof(*s);
	s->id = id;
	snprintf(s->controller, sizeof(s->controller), "%s", controller);
	__atomic_store_n(&s->magic, STATE_MAGIC, __ATOMIC_RELEASE);
	return s;
}

void
state_put(struct state_session *s)
{
	uint32_t i;

	if (s == NULL) {
		return;
	}
	CHECK(s->magic == STATE_MAGIC);
	i = (uint32_t)(((uint8_t *)s - arena.base) / STATE_SLOT_BYTES);
	__atomic_store_n(&s->magic, 0, __ATOMIC_RELEASE);
	if (madvise(s, STATE_SLOT_BYTES, MADV_REMOVE) != 0) {
		memset(s, 0, sizeof(*s));
	}
	arena.next_free[i] = arena.free;
	arena.free = i + 1;
}

int
state_fd(void)
{
	return arena.base != NULL ? arena.fd : -1;
}
