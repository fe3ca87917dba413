/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Assertions about our own code. They stay on in release builds; CHECK_HOT is for the data path and
 * is compiled only into debug builds. Neither is ever applied to bytes from a guest, a wire, a disk
 * or an RPC: those are errors, not bugs.
 */
#ifndef BASE_CHECK_H
#define BASE_CHECK_H

#include <stddef.h>
#include <stdint.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "berth runs on little-endian hosts only"
#endif
_Static_assert(sizeof(void *) == 8, "berth runs on 64-bit hosts only");

_Noreturn void check_failed(const char *expr, const char *file, int line);

#define CHECK(expr) \
	(__builtin_expect(!!(expr), 1) ? (void)0 : check_failed(#expr, __FILE__, __LINE__))

#ifdef BERTH_DEBUG
#define CHECK_HOT(expr) CHECK(expr)
#else
#define CHECK_HOT(expr) ((void)0)
#endif

#define LIKELY(expr) __builtin_expect(!!(expr), 1)
#define UNLIKELY(expr) __builtin_expect(!!(expr), 0)

/* From a pointer to a member to the structure it is embedded in. */
#define CONTAINER_OF(ptr, type, member) \
	({ \
		const __typeof__(((type *)0)->member) *member_ptr_ = (ptr); \
		(type *)((uintptr_t)member_ptr_ - offsetof(type, member)); \
	})

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
/* Each argument is evaluated once: it may be a value that another thread changes. */
#define MIN(a, b) \
	({ \
		__auto_type min_a_ = (a); \
		__auto_type min_b_ = (b); \
		min_a_ < min_b_ ? min_a_ : min_b_; \
	})
#define MAX(a, b) \
	({ \
		__auto_type max_a_ = (a); \
		__auto_type max_b_ = (b); \
		max_a_ > max_b_ ? max_a_ : max_b_; \
	})

/*
 * An object that travels through a `void *` starts with a magic number, checked where it is cast
 * back: MAGIC_OBJ(ptr, SESSION_MAGIC) evaluates to ptr or ends the process.
 */
#define MAGIC_OBJ(ptr, value) \
	({ \
		__typeof__(ptr) magic_ptr_ = (ptr); \
		CHECK(magic_ptr_ != NULL && magic_ptr_->magic == (value)); \
		magic_ptr_; \
	})

#define CACHE_LINE_BYTES 64

#endif
