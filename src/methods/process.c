/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on the process as a whole. */
#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "bdev/bdev.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"
#include "vhost/vhost.h"

static void
get_methods(struct rpc_request *req, const void *params)
{
	const struct rpc_get_methods_params *p = params;

	rpc_result(req, rpc_method_names(p->current, p->include_aliases));
}

/* SPDK's clients read the numbers; the words are berth's own. */
static json_t *
version_json(void)
{
	int major = 0, minor = 0, patch = 0, n = 0;
	const char *suffix;

	sscanf(BERTH_VERSION, "%d.%d.%d%n", &major, &minor, &patch, &n);
	suffix = &BERTH_VERSION[n];
	return json_pack("{s:s, s:{s:i, s:i, s:i, s:s, s:s}}", "version", "berth v" BERTH_VERSION,
			 "fields", "major", major, "minor", minor, "patch", patch, "suffix", suffix,
			 "commit", "");
}

/* Whoever comes so far has been let in by rpc/conn.c. */
static void
authenticate(struct rpc_request *req, const void *params)
{
	rpc_true(req);
}

static void
get_version(struct rpc_request *req, const void *params)
{
	rpc_result(req, version_json());
}

static void
kill_instance(struct rpc_request *req, const void *params)
{
	static const struct {
		const char *name;
		int number;
	} signals[] = {
		{"SIGINT", SIGINT}, {"SIGTERM", SIGTERM}, {"SIGQUIT", SIGQUIT},
		{"SIGHUP", SIGHUP}, {"SIGKILL", SIGKILL}, {"SIGUSR1", SIGUSR1},
	};
	const struct spdk_kill_instance_params *p = params;
	char *end;
	long number = strtol(p->sig_name, &end, 10);
	bool is_number = isdigit((unsigned char)p->sig_name[0]) && *end == '\0';

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		if (is_number ? number == signals[i].number
			      : strcasecmp(p->sig_name, signals[i].name) == 0 ||
					strcasecmp(p->sig_name, signals[i].name + strlen("SIG")) ==
						0) {
			number = signals[i].number;
			rpc_true(req);
			kill(getpid(), (int)number);
			return;
		}
	}
	rpc_error(req, RPC_ERROR_INVALID_PARAMS,
		  "sig_name '%.32s' is none of SIGINT, SIGTERM, SIGQUIT, SIGHUP, SIGKILL, SIGUSR1",
		  p->sig_name);
}

static json_t *
reactors_json(void)
{
	json_t *reactors = json_array();

	for (unsigned i = 0; i < methods->reactor_count; i++) {
		struct reactor_stats stats;

		reactor_get_stats(methods->reactors[i], &stats);
		json_array_append_new(reactors, json_pack("{s:I, s:i, s:i, s:I, s:I, s:I}", "lcore",
							  (json_int_t)stats.lcore, "cpu", stats.cpu,
							  "tid", (int)stats.tid, "busy_ns",
							  (json_int_t)stats.busy_ns, "idle_ns",
							  (json_int_t)stats.idle_ns, "wakeups",
							  (json_int_t)stats.wakeups));
	}
	return reactors;
}

static void
count_objects(size_t *ret_bdevs, size_t *ret_controllers, size_t *ret_sessions)
{
	size_t bdevs = 0, controllers = 0, sessions = 0;

	for (struct bdev *b = bdev_first(); b != NULL; b = bdev_next(b)) {
		bdevs++;
	}
	for (struct vhost_controller *c = vhost_first(); c != NULL; c = vhost_next(c)) {
		struct vhost_info info;

		vhost_get_info(c, &info);
		controllers++;
		sessions += info.has_session;
	}
	*ret_bdevs = bdevs;
	*ret_controllers = controllers;
	*ret_sessions = sessions;
}

/* That of all reactors, which berth_set_mode may have made differ. */
static const char *
common_mode(void)
{
	enum reactor_mode mode = methods->mode;

	for (unsigned i = 0; i < methods->reactor_count; i++) {
		enum reactor_mode one = reactor_get_mode(methods->reactors[i]);

		if (i > 0 && one != mode) {
			return "mixed";
		}
		mode = one;
	}
	return reactor_mode_name(mode);
}

/* CPU time of all its threads so far. */
static uint64_t
cpu_time_ns(void)
{
	struct timespec ts = {0};

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* Resident memory, guests' included as far as it was touched; 0 where /proc says nothing. */
static uint64_t
memory_bytes(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	unsigned long long size, resident = 0;

	if (f != NULL && fscanf(f, "%llu %llu", &size, &resident) != 2) {
		resident = 0;
	}
	if (f != NULL) {
		fclose(f);
	}
	return resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void
status(struct rpc_request *req, const void *params)
{
	json_t *result = json_object();
	size_t bdevs, controllers, sessions;

	count_objects(&bdevs, &controllers, &sessions);
	json_object_set_new(result, "version", json_string("berth v" BERTH_VERSION));
	json_object_set_new(result, "pid", json_integer(getpid()));
	json_object_set_new(
		result, "uptime_seconds",
		json_integer((json_int_t)((clock_now_ns() - methods_start_ns) / NS_PER_S)));
	json_object_set_new(result, "cpu_ns", json_integer((json_int_t)cpu_time_ns()));
	json_object_set_new(result, "memory_bytes", json_integer((json_int_t)memory_bytes()));
	json_object_set_new(result, "state",
			    json_string(rpc_get_state() == RPC_STARTUP ? "startup" : "runtime"));
	json_object_set_new(result, "mode", json_string(common_mode()));
	if (rpc_is_address(methods->rpc_socket)) {
		json_object_set_new(result, "rpc_socket", text_json(methods->rpc_socket));
	} else {
		set_path(result, "rpc_socket", methods->rpc_socket);
	}
	set_path(result, "socket_dir", methods->socket_dir);
	json_object_set_new(result, "state_dir",
			    methods->state_dir != NULL ? text_json(methods->state_dir)
						       : json_null());
	json_object_set_new(result, "reactors", reactors_json());
	json_object_set_new(result, "bdevs", json_integer((json_int_t)bdevs));
	json_object_set_new(result, "controllers", json_integer((json_int_t)controllers));
	json_object_set_new(result, "sessions", json_integer((json_int_t)sessions));
	json_object_set_new(result, "disks", json_integer((json_int_t)disk_count()));
	rpc_result(req, result);
}

const struct rpc_method process_methods[] = {
	{"rpc_get_methods", get_methods},
	{"berth_authenticate", authenticate},
	{"spdk_get_version", get_version},
	{"spdk_kill_instance", kill_instance},
	{"berth_status", status},
	{NULL, NULL},
};
