/* SPDX-License-Identifier: BSD-3-Clause */
/* What berth iostat and berth histogram make of the target's answers. */
#include "app/ctl_iostat.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/base64.h"

/* ---- iostat ---- */

static json_t *
answer(uint64_t reads, uint64_t read_bytes, uint64_t read_ticks, uint64_t unmaps, uint64_t flushes,
       uint64_t failed)
{
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:{s:{s:I, s:I}}, s:{s:I}}", "name", "m",
			 "num_read_ops", (json_int_t)reads, "bytes_read", (json_int_t)read_bytes,
			 "read_latency_ticks", (json_int_t)read_ticks, "num_unmap_ops",
			 (json_int_t)unmaps, "unmap_latency_ticks", (json_int_t)0, "other_ops",
			 "flush", "num_ops", (json_int_t)flushes, "latency_ticks",
			 (json_int_t)(flushes * 1000000), "io_error", "failed", (json_int_t)failed);
}

static void
rates_are_differences(void **state)
{
	json_t *before = answer(1000, 4096000, 50000000, 5, 10, 1);
	json_t *after = answer(3000, 4096000 + 2000 * 4096, 250000000, 9, 20, 4);
	struct iostat_row r;

	iostat_compare(before, after, 2, 1e9, &r);
	assert_float_equal(r.read_ops, 1000, 1e-6);
	assert_float_equal(r.read_mbytes, 3.90625, 1e-6);
	assert_float_equal(r.read_us, 100, 1e-6);
	assert_float_equal(r.other_ops, 7, 1e-6);
	assert_float_equal(r.queue, (0.2 + 0.01) / 2, 1e-6);
	assert_float_equal(r.errors, 3, 1e-6);
	assert_float_equal(r.write_ops, 0, 1e-6);
	assert_true(isnan(r.write_us) && isnan(r.util));
	/* Ticks of another length. */
	iostat_compare(before, after, 2, 2e9, &r);
	assert_float_equal(r.read_us, 50, 1e-6);
	/* Where the queue is sampled. */
	json_object_set_new(before, "io_time", json_integer(1000000));
	json_object_set_new(after, "io_time", json_integer(2500000));
	iostat_compare(before, after, 2, 1e9, &r);
	assert_float_equal(r.util, 75, 1e-6);
	/* Somebody set the counters back. */
	iostat_compare(after, before, 1, 1e9, &r);
	assert_float_equal(r.read_ops, 1000, 1e-6);
	json_decref(before);
	json_decref(after);
}

/* ---- Histograms ---- */

static json_t *
encoded(unsigned granularity, unsigned min_range, unsigned max_range, const uint64_t *buckets,
	size_t count)
{
	char *text = base64_encode((const uint8_t *)buckets, count * sizeof(*buckets));
	json_t *json = json_pack("{s:s, s:i, s:i, s:i, s:I}", "histogram", text, "granularity",
				 granularity, "min_range", min_range, "max_range", max_range,
				 "tsc_rate", (json_int_t)1000000000);

	free(text);
	return json;
}

/* Two bits; ranges 8 (512 to 1023 ns) to 12 (8192 to 16383). */
#define COUNT ((size_t)5 * 4)

static void
read_them(const uint64_t buckets[COUNT], struct latencies *l)
{
	json_t *json = encoded(2, 8, 12, buckets, COUNT);
	struct err err = ERR_NONE;

	assert_int_equal(latencies_read(json, l, &err), 0);
	json_decref(json);
}

static void
quantiles(void **state)
{
	static const uint64_t buckets[COUNT] = {[0] = 90, [5] = 9, [19] = 1};
	static const uint64_t before[COUNT] = {[0] = 40, [5] = 9};
	struct latencies l, b, nothing;

	read_them(buckets, &l);
	assert_int_equal(latencies_total(&l), 100);
	/* 512 to 639; 1280 to 1535; 14336 to 16383 */
	assert_float_equal(latencies_quantile_us(&l, 500000), 0.640, 1e-9);
	assert_float_equal(latencies_quantile_us(&l, 900000), 0.640, 1e-9);
	assert_float_equal(latencies_quantile_us(&l, 900001), 1.536, 1e-9);
	assert_float_equal(latencies_quantile_us(&l, 990000), 1.536, 1e-9);
	assert_float_equal(latencies_quantile_us(&l, 1000000), 16.384, 1e-9);
	read_them(before, &b);
	assert_true(latencies_subtract(&l, &b));
	assert_int_equal(latencies_total(&l), 51);
	nothing = b;
	nothing.max_range--;
	assert_false(latencies_subtract(&l, &nothing));
	assert_true(latencies_subtract(&b, &l));
	latencies_release(&l);
	latencies_release(&b);
}

static char *
printed(const struct latencies *l)
{
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	assert_non_null(out);
	latencies_print(l, "m, read", out);
	fclose(out);
	return text;
}

static void
picture(void **state)
{
	static const uint64_t buckets[COUNT] = {[0] = 60000, [1] = 30000, [5] = 9999, [19] = 1};
	static const uint64_t none[COUNT];
	static const char expected[] =
		"m, read: 100000 requests\n"
		"p50 0.64 us   p90 0.77 us   p99 1.54 us   p99.9 1.54 us   p99.99 1.54 us   max 16.4 us\n"
		"\n"
		"                 LATENCY     REQUESTS    UP TO\n"
		"   0.00 us -    0.77 us         90000  90.00 %  ########################################\n"
		"   0.77 us -    1.02 us             0  90.00 %  \n"
		"   1.02 us -    1.54 us          9999 100.00 %  #################################\n"
		"   1.54 us -    2.05 us             0 100.00 %  \n"
		"   2.05 us -    3.07 us             0 100.00 %  \n"
		"   3.07 us -    4.10 us             0 100.00 %  \n"
		"   4.10 us -    6.14 us             0 100.00 %  \n"
		"   6.14 us -    8.19 us             0 100.00 %  \n"
		"   8.19 us -    12.3 us             0 100.00 %  \n"
		"   12.3 us -    16.4 us             1 100.00 %  ###\n";
	struct latencies l;
	char *text;

	read_them(buckets, &l);
	text = printed(&l);
	assert_string_equal(text, expected);
	free(text);
	latencies_release(&l);
	read_them(none, &l);
	text = printed(&l);
	assert_string_equal(text, "m, read: 0 requests\n");
	free(text);
	latencies_release(&l);
}

/* All that a histogram can have: 64 ranges and their halves. */
static void
the_widest(void **state)
{
	size_t count = (size_t)58 << 7;
	uint64_t *buckets = malloc(count * sizeof(*buckets));
	struct latencies l;
	json_t *json;
	char *text;

	for (size_t i = 0; i < count; i++) {
		buckets[i] = 1;
	}
	json = encoded(7, 0, 57, buckets, count);
	assert_int_equal(latencies_read(json, &l, NULL), 0);
	text = printed(&l);
	assert_non_null(strstr(text, "100.00 %"));
	free(text);
	free(buckets);
	json_decref(json);
	latencies_release(&l);
}

static void
what_is_none(void **state)
{
	static const uint64_t buckets[COUNT];
	struct {
		int granularity, min, max;
	} bad[] = {{-1, 8, 12}, {21, 8, 12}, {2, 9, 12}, {2, 12, 8}, {2, 60, 64}, {3, 8, 12}};
	struct err err = ERR_NONE;
	struct latencies l;
	json_t *json;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		json = encoded(2, 8, 12, buckets, COUNT);
		json_object_set_new(json, "granularity", json_integer(bad[i].granularity));
		json_object_set_new(json, "min_range", json_integer(bad[i].min));
		json_object_set_new(json, "max_range", json_integer(bad[i].max));
		assert_int_not_equal(latencies_read(json, &l, &err), 0);
		json_decref(json);
	}
	json = encoded(2, 8, 12, buckets, COUNT);
	json_object_set_new(json, "histogram", json_string("!!!!"));
	assert_int_not_equal(latencies_read(json, &l, &err), 0);
	json_object_set_new(json, "histogram", json_null());
	assert_int_not_equal(latencies_read(json, &l, &err), 0);
	json_decref(json);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rates_are_differences),
		cmocka_unit_test(quantiles),
		cmocka_unit_test(picture),
		cmocka_unit_test(the_widest),
		cmocka_unit_test(what_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
