/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A reactor and its CPU. The kernel moves a pinned thread when its CPU is unplugged, or when a cpuset or
 * somebody's taskset says so, and tells nobody: the reactor looks where it runs whenever it looks at epoll, which costs no
 * system call.
 *
 *           runs elsewhere, CPU offline          pinned again
 *      OWN ------------------------------> OFFLINE ---------> OWN
 *       |   runs elsewhere, CPU online          only this CPU is allowed again
 *       +--------------------------------> MOVED ---------> OWN
 *
 * An unplugged CPU is taken back, tried at most once a second. A decision of the administrator's is obeyed.
 * Without a CPU of its own a reactor does not poll for ever (reactor_apply_mode): others need that CPU.
 */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "event/internal.h"

#define RETRY_NS NS_PER_S

static const char *const state_names[] = {
	[REACTOR_CPU_ANY] = "any",
	[REACTOR_CPU_OWN] = "own",
	[REACTOR_CPU_OFFLINE] = "offline",
	[REACTOR_CPU_MOVED] = "moved",
};

const char *
reactor_cpu_state_name(enum reactor_cpu_state state)
{
	return state_names[state];
}

static bool
pin(const struct reactor *r)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)r->cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) == 0;
}

/* How many CPUs the calling thread may run on, and whether its own is one of them. */
static int
allowed_cpus(const struct reactor *r, bool *ret_own)
{
	cpu_set_t set;

	if (sched_getaffinity(0, sizeof(set), &set) != 0) {
		*ret_own = true;
		return 0;
	}
	*ret_own = CPU_ISSET((size_t)r->cpu, &set);
	return CPU_COUNT(&set);
}

static bool
online(int cpu)
{
	char path[64];
	FILE *f;
	int c;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/online", cpu);
	f = fopen(path, "re");
	if (f == NULL) {
		return true; /* one that cannot be unplugged has no such file */
	}
	c = fgetc(f);
	fclose(f);
	return c != '0';
}

static void
set_state(struct reactor *r, enum reactor_cpu_state state)
{
	char name[32];

	snprintf(name, sizeof(name), "reactor_%u", r->lcore);
	if (state == REACTOR_CPU_OWN) {
		LOG_NOTICE(REACTOR, name, "runs on CPU %d again", r->cpu);
	} else {
		LOG_WARNING(REACTOR, name, "CPU %d %s: runs on others%s", r->cpu,
			    state == REACTOR_CPU_OFFLINE ? "is offline" : "was taken from it by a cpuset or taskset",
			    reactor_get_mode(r) == REACTOR_POLL ? ", and does not poll for ever there" : "");
	}
	atomic_store_explicit(&r->cpu_state, (int)state, memory_order_relaxed);
	reactor_apply_mode(r);
}

void
reactor_cpu_pin(struct reactor *r)
{
	if (r->cpu < 0) {
		return;
	}
	r->cpu_checked_ns = r->now_ns;
	if (pin(r)) {
		atomic_store_explicit(&r->cpu_state, REACTOR_CPU_OWN, memory_order_relaxed);
	} else {
		/* Checked when the mask was parsed: it went away since. */
		set_state(r, online(r->cpu) ? REACTOR_CPU_MOVED : REACTOR_CPU_OFFLINE);
	}
}

void
reactor_cpu_check_slowly(struct reactor *r)
{
	int state = atomic_load_explicit(&r->cpu_state, memory_order_relaxed), allowed;
	bool own;

	if (state != REACTOR_CPU_OWN && r->now_ns - r->cpu_checked_ns < RETRY_NS) {
		return;
	}
	r->cpu_checked_ns = r->now_ns;
	allowed = allowed_cpus(r, &own);
	if (state == REACTOR_CPU_OWN) {
		/* On another CPU, and yet allowed on its own: on its way there. */
		if (!own) {
			set_state(r, online(r->cpu) ? REACTOR_CPU_MOVED : REACTOR_CPU_OFFLINE);
		}
	} else if (state == REACTOR_CPU_OFFLINE ? pin(r) : own && allowed == 1) {
		set_state(r, REACTOR_CPU_OWN);
	}
}
