/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/clock.h"

#include <stdatomic.h>
#include <time.h>

#include "base/check.h"

static _Atomic uint64_t fake_ns = UINT64_MAX;

uint64_t
clock_now_ns(void)
{
	uint64_t fake = atomic_load_explicit(&fake_ns, memory_order_relaxed);
	struct timespec ts;

	if (UNLIKELY(fake != UINT64_MAX)) {
		return fake;
	}
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

void
clock_set_fake_ns(uint64_t now_ns)
{
	atomic_store_explicit(&fake_ns, now_ns, memory_order_relaxed);
}
