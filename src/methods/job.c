/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on jobs. */
#include "event/job.h"

#include <errno.h>

#include "methods/internal.h"
#include "rpc/schema_gen.h"

static json_t *
job_json(const struct job_info *info)
{
	json_t *job = json_pack("{s:I, s:s, s:o, s:o, s:s, s:I, s:I, s:s, s:b, s:I}", "id", (json_int_t)info->id, "kind",
				info->kind, "name", text_json(info->object), "description", text_json(info->text), "unit",
				info->unit, "done", (json_int_t)info->done, "total", (json_int_t)info->total, "state",
				job_state_name(info->state), "cancellable", info->cancellable, "elapsed_ns",
				(json_int_t)info->elapsed_ns);

	if (info->state == JOB_FAILED) {
		json_object_set_new(job, "error", text_json(info->error));
		json_object_set_new(job, "code", json_integer(info->status));
	}
	return job;
}

static void
add_job(void *ctx, const struct job_info *info)
{
	json_array_append_new(ctx, job_json(info));
}

static void
no_job(struct rpc_request *req, uint64_t id)
{
	rpc_error(req, -ENOENT, "there is no job %llu", (unsigned long long)id);
}

static void
get_jobs(struct rpc_request *req, const void *params)
{
	const struct berth_get_jobs_params *p = params;
	json_t *jobs = json_array();
	struct job_info info;

	if (!p->has_id) {
		job_for_each(add_job, jobs);
	} else if (job_find(p->id, &info)) {
		add_job(jobs, &info);
	} else {
		json_decref(jobs);
		no_job(req, p->id);
		return;
	}
	rpc_result(req, jobs);
}

static void
cancel_job(struct rpc_request *req, const void *params)
{
	const struct berth_cancel_job_params *p = params;
	int rc = job_cancel(p->id);

	switch (rc) {
	case 0:
		rpc_true(req);
		break;
	case -ENOENT:
		no_job(req, p->id);
		break;
	case -EALREADY:
		rpc_error(req, rc, "job %llu has ended", (unsigned long long)p->id);
		break;
	default:
		rpc_error(req, rc, "job %llu cannot be cancelled", (unsigned long long)p->id);
		break;
	}
}

const struct rpc_method job_methods[] = {
	{"berth_get_jobs", get_jobs},
	{"berth_cancel_job", cancel_job},
	{NULL, NULL},
};
