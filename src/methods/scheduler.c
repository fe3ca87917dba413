/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on where threads run, and on how reactors wait. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "event/scheduler.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

#define MAPPINGS_MAX 1024

/* ---- The scheduler's options ---- */

static json_t *
mask_json(const struct cpumask *mask)
{
	char text[CPUMASK_TEXT_BYTES];

	cpumask_format(mask, false, text);
	return json_string(text);
}

json_t *
thread_mask_json(const struct thread *t)
{
	struct cpumask mask;

	scheduler_get_cpumask(t, &mask);
	return mask_json(&mask);
}

static void
get_scheduler(struct rpc_request *req, const void *params)
{
	struct scheduler_options o;
	json_t *result;

	scheduler_get(&o);
	result = json_pack("{s:s, s:I, s:o, s:i}", "scheduler_name", scheduler_policy_name(o.policy),
			   "scheduler_period", (json_int_t)o.period_us, "isolated_core_mask", mask_json(&o.isolated),
			   "scheduling_core", (int)o.scheduling_core);
	if (o.policy == SCHEDULER_DYNAMIC) {
		json_object_set_new(result, "load_limit", json_integer(o.load_limit));
		json_object_set_new(result, "core_limit", json_integer(o.core_limit));
		json_object_set_new(result, "core_busy", json_integer(o.core_busy));
	}
	rpc_result(req, result);
}

/* ---- Threads and their masks ---- */

static struct thread *
thread_by_id(uint64_t id)
{
	for (unsigned i = 0; i < methods->thread_count; i++) {
		if (thread_id(methods->threads[i]) == id) {
			return methods->threads[i];
		}
	}
	return NULL;
}

static void
cpumask_set_done(void *ctx, int status)
{
	delete_done(ctx, status);
}

static void
set_cpumask(struct rpc_request *req, const void *params)
{
	const struct thread_set_cpumask_params *p = params;
	struct thread *t = thread_by_id(p->id);
	struct err err = ERR_NONE;
	struct cpumask mask;
	int rc;

	if (t == NULL) {
		rpc_error(req, RPC_ERROR_INVALID_PARAMS, "there is no thread %llu", (unsigned long long)p->id);
		return;
	}
	rc = cpumask_parse(p->cpumask, &mask, &err);
	if (rc == 0) {
		rc = scheduler_set_cpumask(t, &mask, cpumask_set_done, req, &err);
	}
	if (rc != 0) {
		err_prefix(&err, "cpumask %.64s: ", p->cpumask);
		rpc_error_from(req, rc == -EINVAL ? RPC_ERROR_INVALID_PARAMS : rc, &err);
	}
}

/* "2:0,3:1": threads' ids and the cores they are to be on. */
struct mapping {
	struct thread *thread;
	struct cpumask mask;
};

struct mapper {
	struct rpc_request *req;
	unsigned left;
	int status;
	struct err err; /* of the first that failed */
	unsigned count;
	struct mapping maps[];
};

/* The mappings in force, for those who ask; NULL: none. */
static char *mappings;

static struct mapper *
make_mapper(struct rpc_request *req, unsigned room)
{
	struct mapper *m = calloc(1, sizeof(*m) + room * sizeof(m->maps[0]));

	if (m == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
	} else {
		m->req = req;
	}
	return m;
}

static void
mapped(void *ctx, int status)
{
	struct mapper *m = ctx;

	if (m->status == 0 && status != 0) {
		m->status = status;
		if (m->err.text[0] == '\0') {
			err_set(&m->err, status, "a thread cannot move: %s", strerror(-status));
		}
	}
	if (--m->left > 0) {
		return;
	}
	if (m->status == 0) {
		rpc_true(m->req);
	} else {
		rpc_error_from(m->req, m->status, &m->err);
	}
	free(m);
}

/* One "thread:core" of a list; *text goes behind it, and behind the comma if there is one. */
static int
parse_mapping(const char **text, struct mapping *ret, struct err *err)
{
	const char *entry = *text;
	int len = (int)strcspn(entry, ",");
	unsigned long id, core;
	char *colon, *end;
	int rc;

	*ret = (struct mapping){0};
	id = strtoul(entry, &colon, 10);
	core = *colon == ':' ? strtoul(colon + 1, &end, 10) : 0;
	if (!isdigit((unsigned char)entry[0]) || *colon != ':' || !isdigit((unsigned char)colon[1]) || end != entry + len ||
	    core >= CPUMASK_CPUS) {
		return err_set(err, -EINVAL, "mappings: '%.*s' is no thread:core", MIN(len, 64), entry);
	}
	ret->thread = thread_by_id(id);
	if (ret->thread == NULL) {
		return err_set(err, -EINVAL, "mappings: there is no thread %lu", id);
	}
	cpumask_set(&ret->mask, (unsigned)core);
	rc = scheduler_check_cpumask(ret->thread, &ret->mask, err);
	if (rc != 0) {
		err_prefix(err, "mappings: '%.*s': ", MIN(len, 64), entry);
	}
	*text = entry + len + (entry[len] == ',' && entry[len + 1] != '\0');
	return rc;
}

/* NULL: the request has been answered, and nothing was moved. */
static struct mapper *
parse_mappings(struct rpc_request *req, const char *text)
{
	struct mapper *m = make_mapper(req, MAPPINGS_MAX);
	struct err err = ERR_NONE;
	const char *at = text;
	int rc = 0;

	if (m == NULL) {
		return NULL;
	}
	do {
		rc = parse_mapping(&at, &m->maps[m->count++], &err);
	} while (rc == 0 && *at != '\0' && *at != ',' && m->count < MAPPINGS_MAX);
	if (rc == 0 && *at != '\0') {
		rc = err_set(&err, -EINVAL, "mappings: what ends in '%.64s' is no list of thread:core", at);
	}
	if (rc != 0) {
		rpc_error_from(req, rc == -EINVAL ? RPC_ERROR_INVALID_PARAMS : rc, &err);
		free(m);
		return NULL;
	}
	return m;
}

/* Mappings end: each I/O thread on its own reactor again. */
static struct mapper *
map_home(struct rpc_request *req)
{
	struct mapper *m = make_mapper(req, methods->reactor_count);

	for (unsigned i = 0; m != NULL && i < methods->reactor_count; i++) {
		struct mapping *map = &m->maps[m->count++];

		map->thread = methods->threads[1 + i];
		cpumask_set(&map->mask, reactor_lcore(methods->reactors[i]));
	}
	return m;
}

static void
apply_mappings(struct mapper *m)
{
	/* One more, so that it is not over before all are told. */
	m->left = m->count + 1;
	for (unsigned i = 0; i < m->count; i++) {
		struct err err = ERR_NONE;
		int rc = scheduler_set_cpumask(m->maps[i].thread, &m->maps[i].mask, mapped, m, &err);

		if (rc != 0) {
			m->err = m->status == 0 ? err : m->err;
			mapped(m, rc);
		}
	}
	mapped(m, 0);
}

/* False: the request has been answered. */
static bool
read_options(struct rpc_request *req, const struct framework_set_scheduler_params *p, struct scheduler_options *o)
{
	scheduler_get(o);
	if (scheduler_policy_parse(p->name, &o->policy) != 0) {
		rpc_error(req, RPC_ERROR_INVALID_PARAMS, "there is no scheduler '%.64s': static or dynamic", p->name);
		return false;
	}
	if (o->policy == SCHEDULER_STATIC && (p->has_load_limit || p->has_core_limit || p->has_core_busy)) {
		rpc_error(req, RPC_ERROR_INVALID_PARAMS, "load_limit, core_limit and core_busy are of the dynamic scheduler");
		return false;
	}
	if (o->policy == SCHEDULER_DYNAMIC && p->mappings != NULL) {
		rpc_error(req, RPC_ERROR_INVALID_PARAMS, "mappings are of the static scheduler");
		return false;
	}
	o->period_us = p->has_period ? p->period : o->period_us;
	o->load_limit = p->has_load_limit ? p->load_limit : o->load_limit;
	o->core_limit = p->has_core_limit ? p->core_limit : o->core_limit;
	o->core_busy = p->has_core_busy ? p->core_busy : o->core_busy;
	return true;
}

static void
set_scheduler(struct rpc_request *req, const void *params)
{
	const struct framework_set_scheduler_params *p = params;
	struct mapper *mapper = NULL;
	struct err err = ERR_NONE;
	struct scheduler_options o;

	if (!read_options(req, p, &o)) {
		return;
	}
	if (p->mappings != NULL || (mappings != NULL && o.policy == SCHEDULER_DYNAMIC)) {
		mapper = p->mappings != NULL ? parse_mappings(req, p->mappings) : map_home(req);
		if (mapper == NULL) {
			return;
		}
	}
	if (scheduler_set(&o, &err) != 0) {
		rpc_error_from(req, RPC_ERROR_INVALID_PARAMS, &err);
		free(mapper);
	} else if (mapper != NULL) {
		free(mappings);
		mappings = p->mappings != NULL ? strdup(p->mappings) : NULL;
		apply_mappings(mapper);
	} else {
		rpc_true(req);
	}
}

static void
set_options(struct rpc_request *req, const void *params)
{
	const struct scheduler_set_options_params *p = params;
	struct err err = ERR_NONE;
	struct scheduler_options o;
	int rc = 0;

	scheduler_get(&o);
	o.scheduling_core = p->has_scheduling_core ? p->scheduling_core : o.scheduling_core;
	if (p->isolated_core_mask != NULL) {
		rc = cpumask_parse_any(p->isolated_core_mask, &o.isolated, &err);
	}
	if (rc == 0) {
		rc = scheduler_set(&o, &err);
	}
	if (rc != 0) {
		rpc_error_from(req, RPC_ERROR_INVALID_PARAMS, &err);
	} else {
		rpc_true(req);
	}
}

static bool
cores_differ(const struct scheduler_options *a, const struct scheduler_options *b)
{
	return a->scheduling_core != b->scheduling_core || memcmp(&a->isolated, &b->isolated, sizeof(a->isolated)) != 0;
}

static bool
policies_differ(const struct scheduler_options *a, const struct scheduler_options *b)
{
	return a->policy != b->policy || a->period_us != b->period_us || a->load_limit != b->load_limit ||
	       a->core_limit != b->core_limit || a->core_busy != b->core_busy;
}

void
scheduler_config(json_t *calls, bool for_state)
{
	struct scheduler_options o, defaults;
	json_t *params;

	scheduler_get(&o);
	scheduler_get_defaults(&defaults);
	if (cores_differ(&o, &defaults)) {
		json_array_append_new(calls, call_json("scheduler_set_options",
						       json_pack("{s:i, s:o}", "scheduling_core", (int)o.scheduling_core,
								 "isolated_core_mask", mask_json(&o.isolated))));
	}
	if (for_state && !policies_differ(&o, &defaults) && mappings == NULL) {
		return;
	}
	params = json_pack("{s:s, s:I}", "name", scheduler_policy_name(o.policy), "period", (json_int_t)o.period_us);
	if (o.policy == SCHEDULER_DYNAMIC) {
		json_object_set_new(params, "load_limit", json_integer(o.load_limit));
		json_object_set_new(params, "core_limit", json_integer(o.core_limit));
		json_object_set_new(params, "core_busy", json_integer(o.core_busy));
	} else if (mappings != NULL) {
		json_object_set_new(params, "mappings", json_string(mappings));
	}
	json_array_append_new(calls, call_json("framework_set_scheduler", params));
}

/* ---- How reactors wait ---- */

static void
set_mode(struct rpc_request *req, const void *params)
{
	const struct berth_set_mode_params *p = params;
	enum reactor_mode mode;
	bool found = false;

	/* The schema knows these names only. */
	CHECK(reactor_mode_parse(p->mode, &mode) == 0);
	for (unsigned i = 0; i < methods->reactor_count; i++) {
		struct reactor *r = methods->reactors[i];

		if (!p->has_lcore || reactor_lcore(r) == p->lcore) {
			found = true;
			if (reactor_get_mode(r) == mode) {
				continue;
			}
			LOG_NOTICE(REACTOR, "", "reactor %u: from %s to %s mode", reactor_lcore(r),
				   reactor_mode_name(reactor_get_mode(r)), reactor_mode_name(mode));
			reactor_set_mode(r, mode);
		}
	}
	if (found) {
		rpc_true(req);
	} else {
		rpc_error(req, RPC_ERROR_INVALID_PARAMS, "no reactor runs on core %u", p->lcore);
	}
}

const struct rpc_method scheduler_methods[] = {
	{"framework_set_scheduler", set_scheduler},
	{"framework_get_scheduler", get_scheduler},
	{"scheduler_set_options", set_options},
	{"thread_set_cpumask", set_cpumask},
	{"berth_set_mode", set_mode},
	{NULL, NULL},
};
