/* SPDX-License-Identifier: BSD-3-Clause */
/* berth perf: from the command line to the exit code. */
#include "app/perf.h"

#include <stdio.h>
#include <unistd.h>

#include "app/ctl.h"
#include "app/perf_internal.h"

static int
measure(struct perf_run *run)
{
	struct err err = ERR_NONE;

	run->progress = !run->options.quiet && isatty(STDERR_FILENO);
	if (perf_run_execute(run, &err) != 0) {
		fprintf(stderr, "berth perf: %s\n", err_text(&err));
		return PERF_USAGE;
	}
	if (run->progress) {
		fputs("\r\033[K", stderr);
	}
	if (run->options.json) {
		perf_report_json(run, stdout);
	} else if (run->measured) {
		perf_report_text(run, stdout);
	}
	if (run->err.code != 0) {
		fprintf(stderr, "berth perf: %s\n", err_text(&run->err));
		return PERF_FAILED;
	}
	return PERF_OK;
}

int
perf_main(int argc, char **argv)
{
	struct perf_run *run = perf_run_create();
	struct err err = ERR_NONE;
	int code = PERF_OK, rc;

	if (run == NULL) {
		fputs("berth perf: out of memory\n", stderr);
		return PERF_FAILED;
	}
	rc = perf_options_parse(&run->options, argc, argv, &err);
	if (rc == 0 && run->options.help) {
		perf_options_help(stdout);
	} else if (rc == 0 && run->options.calibrate) {
		rc = perf_calibrate(&run->options, &err);
	} else if (rc == 0) {
		code = measure(run);
	}
	if (rc != 0) {
		fprintf(stderr, "berth perf: %s\n", err_text(&err));
		code = PERF_USAGE;
	}
	perf_run_free(run);
	return code;
}

int
ctl_perf(struct ctl *ctl, int argc, char **argv)
{
	return perf_main(argc, argv);
}
