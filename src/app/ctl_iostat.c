/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * berth iostat: what bdevs do, a line each. The target's counters only ever grow and no reader sets
 * them back, so any number of these may run at once: each takes the difference of two answers.
 */
#include "app/ctl_iostat.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "app/ctl.h"
#include "base/check.h"

#define MBYTE (1024.0 * 1024.0)

/* ---- Numbers ---- */

static double
number(const json_t *object, const char *key)
{
	return (double)json_integer_value(json_object_get(object, key));
}

/* How much it grew; counters that were set back count from there. */
static double
growth(const json_t *before, const json_t *after, const char *key)
{
	double was = number(before, key), is = number(after, key);

	return is >= was ? is - was : is;
}

static double
other_ops(const json_t *before, const json_t *after)
{
	const json_t *ops = json_object_get(after, "other_ops"), *op;
	const json_t *were = json_object_get(before, "other_ops");
	double sum = growth(before, after, "num_unmap_ops") +
		     growth(before, after, "num_copy_ops");
	const char *name;

	json_object_foreach ((json_t *)ops, name, op) {
		sum += growth(json_object_get(were, name), op, "num_ops");
	}
	return sum;
}

static double
other_ticks(const json_t *before, const json_t *after)
{
	const json_t *ops = json_object_get(after, "other_ops"), *op;
	const json_t *were = json_object_get(before, "other_ops");
	double sum = growth(before, after, "unmap_latency_ticks") +
		     growth(before, after, "copy_latency_ticks");
	const char *name;

	json_object_foreach ((json_t *)ops, name, op) {
		sum += growth(json_object_get(were, name), op, "latency_ticks");
	}
	return sum;
}

static double
errors(const json_t *before, const json_t *after)
{
	const json_t *kinds = json_object_get(after, "io_error"), *count;
	const json_t *were = json_object_get(before, "io_error");
	const char *kind;
	double sum = 0;

	json_object_foreach ((json_t *)kinds, kind, count) {
		sum += growth(were, kinds, kind);
	}
	return sum;
}

void
iostat_compare(const json_t *before, const json_t *after, double seconds, double tick_rate,
	       struct iostat_row *ret_row)
{
	double reads = growth(before, after, "num_read_ops");
	double writes = growth(before, after, "num_write_ops");
	double read_s = growth(before, after, "read_latency_ticks") / tick_rate;
	double write_s = growth(before, after, "write_latency_ticks") / tick_rate;
	bool sampled = json_object_get(before, "io_time") != NULL &&
		       json_object_get(after, "io_time") != NULL;

	*ret_row = (struct iostat_row){
		.read_ops = reads / seconds,
		.write_ops = writes / seconds,
		.other_ops = other_ops(before, after) / seconds,
		.read_mbytes = growth(before, after, "bytes_read") / MBYTE / seconds,
		.write_mbytes = growth(before, after, "bytes_written") / MBYTE / seconds,
		.read_us = reads > 0 ? read_s * 1e6 / reads : NAN,
		.write_us = writes > 0 ? write_s * 1e6 / writes : NAN,
		.queue = (read_s + write_s + other_ticks(before, after) / tick_rate) / seconds,
		.util = sampled ? MIN(growth(before, after, "io_time") / seconds / 1e4, 100.0)
				: NAN,
		.errors = errors(before, after),
	};
}

/* ---- Output ---- */

static const char *
cell(double n, int digits, char text[static 32])
{
	if (isnan(n)) {
		return "-";
	}
	snprintf(text, 32, "%.*f", n > 0 && n < 10 ? MAX(digits, 1) : digits, n);
	return text;
}

static const json_t *
find(const json_t *result, const char *name)
{
	const json_t *bdev;
	size_t i;

	json_array_foreach (json_object_get(result, "bdevs"), i, bdev) {
		const char *its = json_string_value(json_object_get(bdev, "name"));

		if (its != NULL && strcmp(its, name) == 0) {
			return bdev;
		}
	}
	return NULL;
}

static void
add_row(struct ctl_table *table, const char *name, const struct iostat_row *r)
{
	char text[10][32];

	ctl_table_row(table, name, cell(r->read_ops, 0, text[0]), cell(r->write_ops, 0, text[1]),
		      cell(r->other_ops, 0, text[2]), cell(r->read_mbytes, 1, text[3]),
		      cell(r->write_mbytes, 1, text[4]), cell(r->read_us, 1, text[5]),
		      cell(r->write_us, 1, text[6]), cell(r->queue, 1, text[7]),
		      cell(r->util, 1, text[8]), cell(r->errors, 0, text[9]));
}

static json_t *
real_or_null(double n)
{
	return isnan(n) ? json_null() : json_real(n);
}

static json_t *
row_json(const char *name, const struct iostat_row *r)
{
	json_t *o = json_pack("{s:s}", "name", name);

	json_object_set_new(o, "read_ops_per_sec", real_or_null(r->read_ops));
	json_object_set_new(o, "write_ops_per_sec", real_or_null(r->write_ops));
	json_object_set_new(o, "other_ops_per_sec", real_or_null(r->other_ops));
	json_object_set_new(o, "read_mbytes_per_sec", real_or_null(r->read_mbytes));
	json_object_set_new(o, "write_mbytes_per_sec", real_or_null(r->write_mbytes));
	json_object_set_new(o, "read_latency_us", real_or_null(r->read_us));
	json_object_set_new(o, "write_latency_us", real_or_null(r->write_us));
	json_object_set_new(o, "queue_depth", real_or_null(r->queue));
	json_object_set_new(o, "utilisation_percent", real_or_null(r->util));
	json_object_set_new(o, "errors", real_or_null(r->errors));
	return o;
}

/* A bdev that came in between is shown from the next time on. */
static void
report(const struct ctl *ctl, const json_t *before, const json_t *after)
{
	double rate = MAX(number(after, "tick_rate"), 1.0);
	double seconds = (number(after, "ticks") - number(before, "ticks")) / rate;
	struct ctl_table table = {.columns = 11, .right = 0x7fe};
	json_t *rows = json_array();
	const json_t *bdev;
	size_t i;

	if (!ctl->json) {
		ctl_table_row(&table, "BDEV", "R/S", "W/S", "OTHER/S", "R MiB/S", "W MiB/S", "R US",
			      "W US", "QUEUE", "%UTIL", "ERRORS");
	}
	json_array_foreach (json_object_get(after, "bdevs"), i, bdev) {
		const char *name = json_string_value(json_object_get(bdev, "name"));
		const json_t *was = name != NULL ? find(before, name) : NULL;
		struct iostat_row row;

		if (was != NULL && seconds > 0) {
			iostat_compare(was, bdev, seconds, rate, &row);
			if (ctl->json) {
				json_array_append_new(rows, row_json(name, &row));
			} else {
				add_row(&table, name, &row);
			}
		}
	}
	if (ctl->json) {
		ctl_print_json(rows);
	}
	json_decref(rows);
	if (!ctl->json) {
		ctl_table_print(&table);
	}
	fflush(stdout);
}

/* ---- The command ---- */

static int
ask(struct ctl *ctl, const json_t *names, json_t **ret_result)
{
	json_t *params = json_array_size(names) > 0 ? json_pack("{s:O}", "names", names) : NULL;

	return ctl_call(ctl, "iostat", "bdev_get_iostat", params, ret_result, NULL);
}

static void
wait_for(double seconds)
{
	struct timespec t = {.tv_sec = (time_t)seconds,
			     .tv_nsec = (long)((seconds - floor(seconds)) * 1e9)};

	nanosleep(&t, NULL);
}

static bool
read_number(const char *text, double min, double max, double *number_out)
{
	char *end;

	if (text == NULL) {
		return true;
	}
	*number_out = strtod(text, &end);
	return end != text && *end == '\0' && *number_out >= min && *number_out <= max;
}

int
ctl_iostat(struct ctl *ctl, int argc, char **argv)
{
	const char *interval_text = NULL, *count_text = NULL;
	double interval = 1, count = 0;
	json_t *names, *before = NULL, *after = NULL;
	int rc;

	if (ctl_take_option(&argc, argv, "--interval", &interval_text) < 0 ||
	    ctl_take_option(&argc, argv, "--count", &count_text) < 0 ||
	    ctl_check_arguments("iostat", argc, argv, 0, 1000) != 0) {
		return CTL_USAGE;
	}
	if (!read_number(interval_text, 0.1, 86400, &interval) ||
	    !read_number(count_text, 1, 1e9, &count)) {
		return ctl_usage("iostat", "--interval is 0.1 to 86400 seconds, --count 1 or more");
	}
	if (interval_text == NULL && count_text == NULL) {
		count = 1;
	}
	names = json_array();
	for (int i = 1; i < argc; i++) {
		json_array_append_new(names, json_string(argv[i]));
	}
	rc = ask(ctl, names, &before);
	for (double i = 0; rc == CTL_OK && (count == 0 || i < count); i++) {
		wait_for(interval);
		rc = ask(ctl, names, &after);
		if (rc == CTL_OK) {
			if (i > 0 && !ctl->json) {
				putchar('\n');
			}
			report(ctl, before, after);
			json_decref(before);
			before = after;
		}
	}
	json_decref(before);
	json_decref(names);
	return rc;
}
