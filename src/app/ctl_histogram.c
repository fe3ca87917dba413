/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * berth histogram: how long a bdev's requests take, as a picture. A row is half a power of two; its
 * bar is as long as the logarithm of its count, so that the few slow ones are seen beside the many.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "app/ctl.h"
#include "app/ctl_iostat.h"
#include "base/base64.h"
#include "base/check.h"

#define BAR_COLUMNS 40
#define GRANULARITY_MAX 20
#define ROWS_MAX 130

/* ---- Reading ---- */

int
latencies_read(const json_t *result, struct latencies *ret_l, struct err *err)
{
	json_int_t granularity = json_integer_value(json_object_get(result, "granularity"));
	json_int_t min = json_integer_value(json_object_get(result, "min_range"));
	json_int_t max = json_integer_value(json_object_get(result, "max_range"));
	json_int_t rate = json_integer_value(json_object_get(result, "tsc_rate"));
	const char *text = json_string_value(json_object_get(result, "histogram"));
	size_t bytes = 0, count;
	uint8_t *buckets;

	if (granularity < 0 || granularity > GRANULARITY_MAX || min < 0 || max < min ||
	    max > 64 - granularity || rate <= 0 || text == NULL) {
		return err_set(err, -EINVAL, "the target's answer is no histogram");
	}
	count = (size_t)(max - min + 1) << granularity;
	buckets = base64_decode(text, &bytes);
	if (buckets == NULL || bytes != count * sizeof(uint64_t)) {
		free(buckets);
		return err_set(err, -EINVAL, "the target's histogram has not as many buckets as it says");
	}
	*ret_l = (struct latencies){
		.granularity = (unsigned)granularity,
		.min_range = (unsigned)min,
		.max_range = (unsigned)max,
		.ticks_a_second = (uint64_t)rate,
		.bucket_count = count,
		.buckets = (uint64_t *)(void *)buckets,
	};
	return 0;
}

void
latencies_release(struct latencies *l)
{
	free(l->buckets);
	l->buckets = NULL;
}

bool
latencies_subtract(struct latencies *l, const struct latencies *before)
{
	if (l->granularity != before->granularity || l->min_range != before->min_range ||
	    l->max_range != before->max_range) {
		return false;
	}
	for (size_t i = 0; i < l->bucket_count; i++) {
		l->buckets[i] -= MIN(l->buckets[i], before->buckets[i]);
	}
	return true;
}

/* ---- Numbers ---- */

/* The first value that is too great for bucket i, in ticks. */
static double
bucket_end(const struct latencies *l, size_t i)
{
	unsigned range = l->min_range + (unsigned)(i >> l->granularity);
	double step = (double)(i & (((size_t)1 << l->granularity) - 1)) + 1;

	return range == 0 ? step
			  : ldexp(1, (int)(range + l->granularity - 1)) + ldexp(step, (int)range - 1);
}

static double
to_us(const struct latencies *l, double ticks)
{
	return ticks * 1e6 / (double)l->ticks_a_second;
}

uint64_t
latencies_total(const struct latencies *l)
{
	uint64_t total = 0;

	for (size_t i = 0; i < l->bucket_count; i++) {
		total += l->buckets[i];
	}
	return total;
}

double
latencies_quantile_us(const struct latencies *l, unsigned per_million)
{
	double wanted = ceil((double)latencies_total(l) * per_million / 1e6), so_far = 0;

	for (size_t i = 0; wanted > 0 && i < l->bucket_count; i++) {
		so_far += (double)l->buckets[i];
		if (so_far >= wanted) {
			return to_us(l, bucket_end(l, i));
		}
	}
	return 0;
}

/* ---- The picture ---- */

struct row {
	double end; /* ticks */
	uint64_t count;
};

/* Halves of powers of two, from the first that has something to the last; how many. */
static size_t
make_rows(const struct latencies *l, struct row rows[static ROWS_MAX])
{
	size_t n = 0, last = 0, first = 0;
	bool any = false;

	for (size_t i = 0; i < l->bucket_count; i++) {
		double end = bucket_end(l, i), power = exp2(ceil(log2(end)));
		double row_end = end <= power * 0.75 ? power * 0.75 : power;

		if (n == 0 || rows[n - 1].end < row_end) {
			CHECK(n < ROWS_MAX);
			rows[n++] = (struct row){.end = row_end};
		}
		rows[n - 1].count += l->buckets[i];
	}
	for (size_t i = 0; i < n; i++) {
		if (rows[i].count != 0) {
			first = any ? first : i;
			last = i;
			any = true;
		}
	}
	if (!any) {
		return 0;
	}
	/* The row before the first says where the first begins. */
	if (first > 0) {
		memmove(rows, rows + first - 1, (last - first + 2) * sizeof(*rows));
		rows[0].count = 0;
		return last - first + 2;
	}
	memmove(rows + 1, rows, (last + 1) * sizeof(*rows));
	rows[0] = (struct row){0};
	return last + 2;
}

static const char *
us_text(double us, char text[static 32])
{
	if (us < 1000) {
		snprintf(text, 32, "%.*f us", us < 10 ? 2 : us < 100 ? 1 : 0, us);
	} else if (us < 1e6) {
		snprintf(text, 32, "%.*f ms", us < 1e4 ? 2 : us < 1e5 ? 1 : 0, us / 1e3);
	} else {
		snprintf(text, 32, "%.2f s", us / 1e6);
	}
	return text;
}

static const struct {
	const char *name;
	unsigned per_million;
} quantiles[] = {{"p50", 500000},   {"p90", 900000},    {"p99", 990000},
		 {"p99.9", 999000}, {"p99.99", 999900}, {"max", 1000000}};

void
latencies_print(const struct latencies *l, const char *title, FILE *out)
{
	static const char hashes[BAR_COLUMNS + 1] = "########################################";
	uint64_t total = latencies_total(l), so_far = 0, most = 0;
	struct row rows[ROWS_MAX];
	size_t n = make_rows(l, rows);
	char text[2][32];

	fprintf(out, "%s: %llu requests\n", title, (unsigned long long)total);
	if (n == 0) {
		return;
	}
	for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
		fprintf(out, "%s%s %s", i > 0 ? "   " : "", quantiles[i].name,
			us_text(latencies_quantile_us(l, quantiles[i].per_million), text[0]));
	}
	fprintf(out, "\n\n%24s %12s %8s\n", "LATENCY", "REQUESTS", "UP TO");
	for (size_t i = 1; i < n; i++) {
		most = MAX(most, rows[i].count);
	}
	for (size_t i = 1; i < n; i++) {
		int bar = rows[i].count == 0
				  ? 0
				  : (int)ceil(log1p((double)rows[i].count) / log1p((double)most) *
					      BAR_COLUMNS);

		so_far += rows[i].count;
		fprintf(out, "%10s - %10s  %12llu %6.2f %%  %.*s\n",
			us_text(to_us(l, rows[i - 1].end), text[0]),
			us_text(to_us(l, rows[i].end), text[1]), (unsigned long long)rows[i].count,
			100.0 * (double)so_far / (double)total, bar, hashes);
	}
}

json_t *
latencies_json(const struct latencies *l, const char *name)
{
	json_t *buckets = json_array(), *percentiles = json_object();
	double begin = 0;

	for (size_t i = 0; i < l->bucket_count; i++) {
		double end = to_us(l, bucket_end(l, i));

		if (l->buckets[i] != 0) {
			json_array_append_new(buckets, json_pack("{s:f, s:f, s:I}", "from_us", begin,
								 "to_us", end, "count",
								 (json_int_t)l->buckets[i]));
		}
		begin = end;
	}
	for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
		json_object_set_new(
			percentiles, quantiles[i].name,
			json_real(latencies_quantile_us(l, quantiles[i].per_million)));
	}
	return json_pack("{s:s, s:I, s:o, s:o}", "name", name, "count",
			 (json_int_t)latencies_total(l), "percentiles_us", percentiles, "buckets",
			 buckets);
}

/* ---- The command ---- */

static int
get(struct ctl *ctl, const char *bdev, const char *op, struct latencies *ret_l)
{
	json_t *result = NULL;
	struct err err = ERR_NONE;
	int rc = ctl_call(ctl, "histogram", "bdev_get_histogram",
			  json_pack("{s:s, s:s*}", "name", bdev, "opc", op), &result, NULL);

	if (rc == CTL_OK && latencies_read(result, ret_l, &err) != 0) {
		fprintf(stderr, "berth histogram: %s\n", err_text(&err));
		rc = CTL_BROKEN;
	}
	json_decref(result);
	return rc;
}

static int
enable(struct ctl *ctl, const char *bdev, bool on)
{
	json_t *result = NULL;
	int rc = ctl_call(ctl, "histogram", "bdev_enable_histogram",
			  json_pack("{s:s, s:b}", "name", bdev, "enable", on), &result, NULL);

	json_decref(result);
	return rc;
}

/* Whether the bdev keeps one by itself. */
static int
is_kept(struct ctl *ctl, const char *bdev, bool *ret_kept)
{
	json_t *result = NULL, *error = NULL;
	int rc = ctl_call(ctl, "histogram", "bdev_get_histogram", json_pack("{s:s}", "name", bdev),
			  &result, &error);

	*ret_kept = rc == CTL_OK;
	/* There is no such bdev: the next call says so. */
	if (rc == CTL_REFUSED) {
		rc = CTL_OK;
	}
	json_decref(result);
	json_decref(error);
	return rc;
}

static void
pause_for(double seconds)
{
	struct timespec t = {.tv_sec = (time_t)seconds,
			     .tv_nsec = (long)((seconds - floor(seconds)) * 1e9)};

	nanosleep(&t, NULL);
}

/* Of the next so many seconds only; one that nobody kept is kept for so long. */
static int
get_for(struct ctl *ctl, const char *bdev, const char *op, double seconds, struct latencies *ret_l)
{
	struct latencies before = {0};
	bool kept = false, enabled = false;
	int rc = is_kept(ctl, bdev, &kept), end_rc;

	if (rc == CTL_OK && !kept) {
		rc = enable(ctl, bdev, true);
		enabled = rc == CTL_OK;
	}
	if (rc == CTL_OK) {
		rc = get(ctl, bdev, op, &before);
	}
	if (rc == CTL_OK) {
		pause_for(seconds);
		rc = get(ctl, bdev, op, ret_l);
	}
	if (rc == CTL_OK && !latencies_subtract(ret_l, &before)) {
		fprintf(stderr, "berth histogram: somebody changed the histogram meanwhile\n");
		latencies_release(ret_l);
		rc = CTL_BROKEN;
	}
	if (enabled) {
		end_rc = enable(ctl, bdev, false);
		rc = rc == CTL_OK ? end_rc : rc;
	}
	latencies_release(&before);
	return rc;
}

static bool
read_seconds(const char *text, double *ret_seconds)
{
	char *end;

	*ret_seconds = strtod(text, &end);
	return end != text && *end == '\0' && *ret_seconds >= 0.1 && *ret_seconds <= 86400;
}

int
ctl_histogram(struct ctl *ctl, int argc, char **argv)
{
	const char *op = NULL, *time_text = NULL;
	struct latencies l = {0};
	double seconds = 0;
	char title[320];
	int rc;

	if (ctl_take_option(&argc, argv, "--op", &op) < 0 ||
	    ctl_take_option(&argc, argv, "--time", &time_text) < 0 ||
	    ctl_check_arguments("histogram", argc, argv, 1, 1) != 0) {
		return CTL_USAGE;
	}
	if (time_text != NULL && !read_seconds(time_text, &seconds)) {
		return ctl_usage("histogram", "--time is 0.1 to 86400 seconds");
	}
	rc = time_text != NULL ? get_for(ctl, argv[1], op, seconds, &l)
			       : get(ctl, argv[1], op, &l);
	if (rc != CTL_OK) {
		return rc;
	}
	if (ctl->json) {
		json_t *json = latencies_json(&l, argv[1]);

		ctl_print_json(json);
		json_decref(json);
	} else {
		snprintf(title, sizeof(title), "%.255s%s%.32s", argv[1], op != NULL ? ", " : "",
			 op != NULL ? op : "");
		latencies_print(&l, title, stdout);
	}
	latencies_release(&l);
	return CTL_OK;
}
