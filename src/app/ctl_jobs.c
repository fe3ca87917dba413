/* SPDX-License-Identifier: BSD-3-Clause */
/* berth jobs: long work in the background, shown, waited for and cancelled. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "app/ctl.h"
#include "base/clock.h"

#define LOOK_AGAIN_NS (500 * NS_PER_MS)

static const char *
text_of(const json_t *job, const char *key)
{
	const char *text = json_string_value(json_object_get(job, key));

	return text != NULL ? text : "";
}

static uint64_t
number_of(const json_t *job, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(job, key));
}

static bool
has_ended(const json_t *job)
{
	return strcmp(text_of(job, "state"), "running") != 0 && strcmp(text_of(job, "state"), "cancelling") != 0;
}

/* "42 %", with "about 3 min left" to come from it; where the total is unknown, what is done. */
static void
progress(const json_t *job, char text[static 64])
{
	uint64_t done = number_of(job, "done"), total = number_of(job, "total");

	if (total == 0) {
		snprintf(text, 64, "%" PRIu64 " %s", done, text_of(job, "unit"));
	} else {
		snprintf(text, 64, "%.1f %%", 100.0 * (double)done / (double)total);
	}
}

/* At the pace so far. */
static void
time_left(const json_t *job, char text[static 64])
{
	uint64_t done = number_of(job, "done"), total = number_of(job, "total");
	double left_s;

	if (has_ended(job) || done == 0 || total <= done) {
		snprintf(text, 64, "-");
		return;
	}
	left_s = (double)number_of(job, "elapsed_ns") / 1e9 * (double)(total - done) / (double)done;
	if (left_s < 120) {
		snprintf(text, 64, "%.0f s", left_s);
	} else if (left_s < 7200) {
		snprintf(text, 64, "%.0f min", left_s / 60);
	} else {
		snprintf(text, 64, "%.1f h", left_s / 3600);
	}
}

static int
get_jobs(struct ctl *ctl, json_t *id, json_t **ret_jobs)
{
	return ctl_call(ctl, "jobs", "berth_get_jobs", json_pack("{s:O*}", "id", id), ret_jobs, NULL);
}

static void
print_jobs(const json_t *jobs)
{
	struct ctl_table table = {.columns = 7, .right = 0x19};
	const json_t *job;
	size_t i;

	ctl_table_row(&table, "ID", "KIND", "NAME", "DONE", "LEFT", "STATE", "DESCRIPTION");
	json_array_foreach((json_t *)jobs, i, job) {
		const char *error = text_of(job, "error");
		char id[24], done[64], left[64];

		snprintf(id, sizeof(id), "%" PRIu64, number_of(job, "id"));
		progress(job, done);
		time_left(job, left);
		ctl_table_row(&table, id, text_of(job, "kind"), text_of(job, "name"), done, left, text_of(job, "state"),
			      error[0] != '\0' ? error : text_of(job, "description"));
	}
	ctl_table_print(&table);
}

static int
show(struct ctl *ctl, json_t *id)
{
	json_t *jobs = NULL;
	int rc = get_jobs(ctl, id, &jobs);

	if (rc == CTL_OK && ctl->json) {
		ctl_print_json(jobs);
	} else if (rc == CTL_OK) {
		print_jobs(jobs);
	}
	json_decref(jobs);
	return rc;
}

static int
cancel(struct ctl *ctl, json_t *id)
{
	json_t *result = NULL;
	int rc = ctl_call(ctl, "jobs cancel", "berth_cancel_job", json_pack("{s:O}", "id", id), &result, NULL);

	json_decref(result);
	return rc;
}

/* Until it has ended: CTL_OK when it was done, CTL_REFUSED when not. */
static int
wait_for(struct ctl *ctl, json_t *id)
{
	const struct timespec pause = {.tv_nsec = LOOK_AGAIN_NS};
	json_t *jobs = NULL;
	int rc;

	while ((rc = get_jobs(ctl, id, &jobs)) == CTL_OK && !has_ended(json_array_get(jobs, 0))) {
		json_decref(jobs);
		jobs = NULL;
		nanosleep(&pause, NULL);
	}
	if (rc == CTL_OK) {
		const json_t *job = json_array_get(jobs, 0);

		if (ctl->json) {
			ctl_print_json(jobs);
		} else {
			print_jobs(jobs);
		}
		rc = strcmp(text_of(job, "state"), "done") == 0 ? CTL_OK : CTL_REFUSED;
	}
	json_decref(jobs);
	return rc;
}

int
ctl_jobs(struct ctl *ctl, int argc, char **argv)
{
	int (*run)(struct ctl *ctl, json_t *id) = show;
	const char *action = argc > 1 ? argv[1] : "";
	struct err err = ERR_NONE;
	json_t *id = NULL;
	int rc;

	if (strcmp(action, "cancel") == 0) {
		run = cancel;
	} else if (strcmp(action, "wait") == 0) {
		run = wait_for;
	}
	if (run != show) {
		argv++;
		argc--;
	}
	rc = ctl_check_arguments("jobs", argc, argv, run != show, 1);
	if (rc != CTL_OK) {
		return rc;
	}
	if (argc > 1) {
		id = ctl_value(rpc_schema_param(rpc_schema_find("berth_cancel_job"), "id"), argv[1], &err);
		if (id == NULL) {
			return ctl_usage("jobs", "'%s' is not the number of a job, such as 1", argv[1]);
		}
	}
	rc = run(ctl, id);
	json_decref(id);
	return rc;
}
