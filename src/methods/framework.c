/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on the start of the target, its reactors and its configuration. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/cpumask.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

#define WAITERS_MAX 256
#define NUMA_NODES_MAX 64

/* ---- Start ---- */

/* Requests that are answered once everything is initialised, or has failed. */
static struct rpc_request *waiters[WAITERS_MAX];
static unsigned waiter_count;
static bool initialised;
static bool start_asked;

static void
wait_until_ready(struct rpc_request *req)
{
	if (waiter_count == WAITERS_MAX) {
		rpc_error(req, -EBUSY, "%d requests wait for the start already", WAITERS_MAX);
		return;
	}
	waiters[waiter_count++] = req;
}

void
methods_ready(int status)
{
	unsigned count = waiter_count;

	initialised = status == 0;
	waiter_count = 0;
	for (unsigned i = 0; i < count; i++) {
		if (status == 0) {
			rpc_true(waiters[i]);
		} else {
			rpc_error(waiters[i], status, "the target ends before it was initialised");
		}
	}
}

static void
start_init(struct rpc_request *req, const void *params)
{
	if (start_asked) {
		rpc_error(req, RPC_ERROR_STATE, "framework_start_init has been called already");
		return;
	}
	start_asked = true;
	wait_until_ready(req);
	methods->start_init(methods->ctx);
}

static void
wait_init(struct rpc_request *req, const void *params)
{
	if (initialised) {
		rpc_true(req);
	} else {
		wait_until_ready(req);
	}
}

/* ---- Reactors ---- */

static int
numa_node_of(unsigned cpu)
{
	char path[96];

	for (int node = 0; node < NUMA_NODES_MAX; node++) {
		snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/node%d", cpu, node);
		if (access(path, F_OK) == 0) {
			return node;
		}
	}
	return 0;
}

struct cpu_times {
	unsigned long long usr, sys, irq;
};

/* The kernel's accounting of one CPU, in its ticks; zeroes where /proc says nothing. */
static void
read_cpu_times(unsigned cpu, struct cpu_times *ret)
{
	FILE *f = fopen("/proc/stat", "re");
	char line[512];

	*ret = (struct cpu_times){0};
	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		unsigned long long usr, nice, sys, idle, iowait, irq;
		unsigned n;

		if (sscanf(line, "cpu%u %llu %llu %llu %llu %llu %llu", &n, &usr, &nice, &sys,
			   &idle, &iowait, &irq) == 7 &&
		    n == cpu) {
			*ret = (struct cpu_times){usr, sys, irq};
			break;
		}
	}
	if (f != NULL) {
		fclose(f);
	}
}

static void
add_lw_thread(void *ctx, struct thread *t)
{
	json_t *array = ctx;

	json_array_append_new(array, json_pack("{s:s, s:I, s:o, s:I}", "name", thread_name(t), "id",
					       (json_int_t)thread_id(t), "cpumask",
					       thread_mask_json(t), "elapsed",
					       (json_int_t)(clock_now_ns() - methods_start_ns)));
}

/* A reactor that sleeps says how long when it wakes; who asks meanwhile wants it counted. Never goes down:
 * spdk_top takes differences of unsigned numbers. */
static uint64_t
idle_until_now(const struct reactor_stats *stats)
{
	static uint64_t said[CPUMASK_CPUS];
	uint64_t up = clock_now_ns() - methods_start_ns;
	uint64_t idle = up > stats->busy_ns ? up - stats->busy_ns : 0;
	uint64_t *last = &said[stats->lcore % CPUMASK_CPUS];

	idle = MAX(idle, stats->idle_ns);
	*last = MAX(*last, idle);
	return *last;
}

/* Exactly SPDK's members: spdk_top refuses an object with a member that it does not know. */
static json_t *
reactor_json(struct reactor *r, const struct reactor_stats *stats)
{
	json_t *threads = json_array();
	struct cpu_times times;

	read_cpu_times(stats->cpu >= 0 ? (unsigned)stats->cpu : stats->lcore, &times);
	reactor_for_each_thread(r, add_lw_thread, threads);
	return json_pack("{s:i, s:i, s:i, s:I, s:I, s:b, s:I, s:I, s:I, s:o}", "lcore",
			 (int)stats->lcore, "numa_id", numa_node_of(stats->lcore), "tid",
			 (int)stats->tid, "busy", (json_int_t)stats->busy_ns, "idle",
			 (json_int_t)idle_until_now(stats), "in_interrupt",
			 stats->mode != REACTOR_POLL, "irq", (json_int_t)times.irq, "sys",
			 (json_int_t)times.sys, "usr", (json_int_t)times.usr, "lw_threads",
			 threads);
}

/* What berth knows besides, one for each reactor in the same order. */
static json_t *
reactor_details_json(const struct reactor_stats *stats)
{
	return json_pack("{s:i, s:i, s:s, s:s, s:I, s:I}", "lcore", (int)stats->lcore, "cpu",
			 stats->cpu, "cpu_state", reactor_cpu_state_name(stats->cpu_state), "mode",
			 reactor_mode_name(stats->mode), "wakeups", (json_int_t)stats->wakeups,
			 "sleep_cost_ns", (json_int_t)stats->sleep_cost_ns);
}

static void
get_reactors(struct rpc_request *req, const void *params)
{
	json_t *reactors = json_array(), *details = json_array();

	for (unsigned i = 0; i < methods->reactor_count; i++) {
		struct reactor_stats stats;

		reactor_get_stats(methods->reactors[i], &stats);
		json_array_append_new(reactors, reactor_json(methods->reactors[i], &stats));
		json_array_append_new(details, reactor_details_json(&stats));
	}
	rpc_result(req, json_pack("{s:I, s:i, s:o, s:o}", "tick_rate",
				  (json_int_t)CLOCK_TICKS_PER_SECOND, "pid", (int)getpid(),
				  "reactors", reactors, "details", details));
}

/* ---- Configuration ---- */

/* Of words with commas between. */
static json_t *
names_json(const char *words)
{
	json_t *names = json_array();

	while (*words != '\0') {
		size_t len = strcspn(words, ",");

		json_array_append_new(names, json_stringn(words, len));
		words += len + (words[len] == ',');
	}
	return names;
}

static void
get_subsystems(struct rpc_request *req, const void *params)
{
	json_t *subsystems = json_array();

	for (const struct methods_subsystem *s = methods_subsystems; s->name != NULL; s++) {
		json_array_append_new(subsystems, json_pack("{s:s, s:o}", "subsystem", s->name, "depends_on",
							    names_json(s->depends_on)));
	}
	rpc_result(req, subsystems);
}

/* Calls that make objects and stand side by side do not depend on each other: they become one
 * array. */
static json_t *
batches(json_t *calls)
{
	json_t *result = json_array(), *batch = NULL, *call;
	const char *last = "";
	size_t i;

	json_array_foreach (calls, i, call) {
		const char *method = json_string_value(json_object_get(call, "method"));

		if (strstr(method, "_create") == NULL) {
			json_array_append(result, call);
			batch = NULL;
		} else {
			if (batch == NULL || strstr(last, "_create") == NULL) {
				batch = json_array();
				json_array_append_new(result, batch);
			}
			json_array_append(batch, call);
		}
		last = method;
	}
	json_decref(calls);
	return result;
}

static void
get_config(struct rpc_request *req, const void *params)
{
	const struct framework_get_config_params *p = params;
	json_t *calls = methods_config(p->name);

	if (calls == NULL) {
		rpc_error(req, RPC_ERROR_INVALID_PARAMS, "Subsystem '%.128s' not found", p->name);
		return;
	}
	rpc_result(req, p->with_batches ? batches(calls) : calls);
}

const struct rpc_method framework_methods[] = {
	{"framework_start_init", start_init},
	{"framework_wait_init", wait_init},
	{"framework_get_reactors", get_reactors},
	{"framework_get_subsystems", get_subsystems},
	{"framework_get_config", get_config},
	{NULL, NULL},
};
