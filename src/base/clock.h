/* SPDX-License-Identifier: BSD-3-Clause */
/* The one clock: nanoseconds, monotonic. Tests put a fake one in its place and move it by hand. */
#ifndef BASE_CLOCK_H
#define BASE_CLOCK_H

#include <stdint.h>

#define CLOCK_TICKS_PER_SECOND UINT64_C(1000000000)
#define NS_PER_US UINT64_C(1000)
#define NS_PER_MS UINT64_C(1000000)
#define NS_PER_S UINT64_C(1000000000)

/* Nanoseconds since some fixed moment. Any thread; about 20 ns. */
uint64_t clock_now_ns(void);

/* Tests only: from now on clock_now_ns() returns what was set last; UINT64_MAX gives the real clock back. */
void clock_set_fake_ns(uint64_t now_ns);

#endif
