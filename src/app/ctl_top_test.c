/* SPDX-License-Identifier: BSD-3-Clause */
/* berth top without a target and without a terminal: snapshots in, rows and texts out; keys. */
#include <curses.h>
#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "app/ctl_top.h"
#include "base/check.h"

/* JSON with ' in place of ". */
static json_t *
parse(const char *text)
{
	char *copy = strdup(text);
	json_error_t error;
	json_t *json;

	assert_non_null(copy);
	for (char *p = copy; *p != '\0'; p++) {
		*p = *p == '\'' ? '"' : *p;
	}
	json = json_loads(copy, 0, &error);
	if (json == NULL) {
		fail_msg("%s at %d: %s", error.text, error.position, text);
	}
	free(copy);
	return json;
}

#define STATUS(pid, cpu) \
	"'status': {'version': 'berth v9', 'pid': " pid ", 'uptime_seconds': 3725, 'mode': 'adaptive', 'cpu_ns': " cpu \
	", 'memory_bytes': 15728640, 'controllers': 3, 'sessions': 2, 'bdevs': 2}"

#define CONTROLLER(name, bdev, queues, inflight, r, w, o, br, bw, ns, calls, kicks) \
	"'" name "': {'ctrlr': '" name "', 'bdev': " bdev ", 'session': true, 'queues': [" queues "], 'inflight': " inflight \
	", 'read_ops': " r ", 'write_ops': " w ", 'other_ops': " o ", 'bytes_read': " br ", 'bytes_written': " bw \
	", 'latency_ns_total': " ns ", 'errors': 1, 'malformed': 2, 'calls': " calls ", 'kicks': " kicks "}"

#define QUEUE(lcore, thread) "{'index': 0, 'lcore': " lcore ", 'thread': '" thread "', 'inflight': 0, 'requests': 5}"

#define REACTORS(busy0, busy1, usr, wakeups0, wakeups1) \
	"'reactors': {'tick_rate': 1000000000, 'reactors': [" \
	"{'lcore': 0, 'busy': " busy0 ", 'usr': " usr ", 'sys': 0, 'irq': 0, 'lw_threads': [{'name': 'app_thread', 'id': 1}, " \
	"{'name': 'io_0', 'id': 2}]}," \
	"{'lcore': 1, 'busy': " busy1 ", 'usr': 0, 'sys': 0, 'irq': 0, 'lw_threads': [{'name': 'io_1', 'id': 3}]}]," \
	"'details': [{'lcore': 0, 'cpu': 4, 'mode': 'adaptive', 'wakeups': " wakeups0 "}," \
	"{'lcore': 1, 'cpu': -1, 'mode': 'poll', 'wakeups': " wakeups1 "}]}"

#define MOVED \
	"{'time_ns': 5, 'reactors': {'reactors': [{'lcore': 0}]," \
	" 'details': [{'lcore': 0, 'cpu': 4, 'cpu_state': 'moved', 'mode': 'poll'}]}}"

#define THREAD(name, id, busy) \
	"{'name': '" name "', 'id': " id ", 'cpumask': '1', 'busy': " busy ", 'active_pollers_count': 1, " \
	"'timed_pollers_count': 2, 'paused_pollers_count': 3}"

static const char before_text[] =
	"{'time_ns': 1000000000, " STATUS("7", "1000000000") "," REACTORS("0", "100000000", "100", "10", "0") ","
	"'threads': {'tick_rate': 1000000000, 'threads': [" THREAD("app_thread", "1", "0") ","
	THREAD("io_1", "3", "400000000") "]},"
	"'controllers': {" CONTROLLER("vm10", "'b'", QUEUE("0", "io_0"), "1", "100", "10", "1", "1000000", "0", "5000", "3", "4")
	"," CONTROLLER("gone", "null", "", "0", "9", "9", "9", "9", "9", "9", "9", "99") "}}";

/* Two seconds later: vm10 did 200 reads of 4 MB in all, at 10 us each; vm2 is new, its counters began in between; those
 * of gone were larger before: it was made again. */
static const char after_text[] =
	"{'time_ns': 3000000000, " STATUS("7", "2500000000") "," REACTORS("1500000000", "100000000", "200", "60", "4") ","
	"'threads': {'tick_rate': 1000000000, 'threads': [" THREAD("io_1", "3", "1400000000") ","
	THREAD("app_thread", "1", "3000000000") "]},"
	"'controllers': {" CONTROLLER("vm10", "'b'", QUEUE("0", "io_0") "," QUEUE("0", "io_0") "," QUEUE("1", "io_1"), "7", "300",
				      "10", "1", "5000000", "0", "2005000", "103", "4")
	"," CONTROLLER("gone", "null", "", "0", "9", "9", "9", "9", "9", "9", "9", "9")
	"," CONTROLLER("vm2", "'b'", QUEUE("1", "io_1"), "0", "0", "40", "0", "0", "2000000", "40000", "0", "0") "}}";

struct fixture {
	json_t *before, *after;
	struct top_rows rows;
};

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->before = parse(before_text);
	f->after = parse(after_text);
	*state = f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	top_rows_free(&f->rows);
	json_decref(f->before);
	json_decref(f->after);
	free(f);
	return 0;
}

/* Texts of a shown row, by column key. */
static const char *
shown(const struct top_rows *rows, size_t row, const char *key)
{
	static char text[4][TOP_TEXT_BYTES];
	static unsigned turn;
	int column = top_column_find(rows->view, key);

	assert_true(column >= 0 && row < rows->shown_count);
	return top_cell_text(&top_views[rows->view].columns[column], &rows->shown[row]->cells[column], text[turn++ % 4]);
}

static void
assert_shown(const struct top_rows *rows, size_t row, const char *key, const char *expected)
{
	const char *got = shown(rows, row, key);

	if (strcmp(got, expected) != 0) {
		fail_msg("row %zu, %s: got '%s', expected '%s'", row, key, got, expected);
	}
}

static void
test_controllers(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(top_rows_make(&f->rows, TOP_CONTROLLERS, f->before, f->after), 0);
	assert_int_equal(f->rows.shown_count, 3);
	/* By IOPS, the largest first. */
	assert_shown(&f->rows, 0, "ctrlr", "vm10");
	assert_shown(&f->rows, 0, "read_iops", "100");
	assert_shown(&f->rows, 0, "write_iops", "0");
	assert_shown(&f->rows, 0, "iops", "100");
	assert_shown(&f->rows, 0, "read_mb_s", "2.0");
	assert_shown(&f->rows, 0, "latency_us", "10.0us");
	assert_shown(&f->rows, 0, "inflight", "7");
	assert_shown(&f->rows, 0, "calls", "50");
	assert_shown(&f->rows, 0, "kicks", "0");
	assert_shown(&f->rows, 0, "errors", "3");
	assert_shown(&f->rows, 0, "queues", "3");
	assert_shown(&f->rows, 0, "cores", "0x2 1");
	assert_shown(&f->rows, 1, "ctrlr", "vm2");
	assert_shown(&f->rows, 1, "write_iops", "20");
	assert_shown(&f->rows, 1, "latency_us", "1.0us");
	assert_shown(&f->rows, 2, "ctrlr", "gone");
	assert_shown(&f->rows, 2, "bdev", "GONE");
	assert_shown(&f->rows, 2, "iops", "0");
	assert_shown(&f->rows, 2, "latency_us", "-");
	assert_shown(&f->rows, 2, "kicks", "4.5");
	assert_shown(&f->rows, 2, "cores", "-");
}

static void
test_threads_and_cores(void **state)
{
	struct fixture *f = *state;
	struct top_totals totals;
	char text[TOP_HEADER_BYTES];
	json_t *moved;

	assert_int_equal(top_rows_make(&f->rows, TOP_THREADS, f->before, f->after), 0);
	/* The order in the two answers differs: threads are found by id. More than all of the time is a clock's fault. */
	assert_shown(&f->rows, 0, "name", "app_thread");
	assert_shown(&f->rows, 0, "busy", "100.0");
	assert_shown(&f->rows, 1, "name", "io_1");
	assert_shown(&f->rows, 1, "busy", "50.0");
	assert_shown(&f->rows, 1, "lcore", "1");
	assert_shown(&f->rows, 1, "queues", "2");
	assert_shown(&f->rows, 1, "armed_pollers", "3");
	top_rows_free(&f->rows);
	assert_int_equal(top_rows_make(&f->rows, TOP_CORES, f->before, f->after), 0);
	assert_shown(&f->rows, 0, "lcore", "0");
	assert_shown(&f->rows, 0, "cpu", "4");
	assert_shown(&f->rows, 0, "busy", "75.0");
	assert_shown(&f->rows, 0, "host_cpu", "50.0");
	assert_shown(&f->rows, 0, "wakeups", "25");
	assert_shown(&f->rows, 0, "threads", "2");
	assert_shown(&f->rows, 0, "queues", "2");
	assert_shown(&f->rows, 0, "thread_names", "app_thread io_0");
	assert_shown(&f->rows, 1, "cpu", "any");
	assert_shown(&f->rows, 1, "mode", "poll");
	assert_shown(&f->rows, 1, "host_cpu", "-");
	assert_shown(&f->rows, 1, "wakeups", "2.0");
	top_rows_free(&f->rows);
	moved = parse(MOVED);
	assert_int_equal(top_rows_make(&f->rows, TOP_CORES, NULL, moved), 0);
	assert_shown(&f->rows, 0, "cpu", "moved");
	assert_shown(&f->rows, 0, "mode", "poll (as adaptive)");
	totals = top_totals_make(NULL, moved);
	top_header_text(0, moved, &totals, text);
	assert_non_null(strstr(text, "poll (as adaptive) mode"));
	json_decref(moved);
}

static void
test_totals(void **state)
{
	struct fixture *f = *state;
	struct top_totals t = top_totals_make(f->before, f->after);
	char text[TOP_HEADER_BYTES];

	assert_false(t.first);
	assert_true(t.seconds == 2.0 && t.cpu == 75.0 && t.wakeups == 27.0);
	assert_true(t.reads == 100.0 && t.writes == 20.0 && t.others == 0.0 && t.read_mb == 2.0 && t.inflight == 7.0);
	/* 200 requests at 10 us and 40 at 1. */
	assert_true(fabs(t.latency_us - 8.5) < 1e-9);
	top_header_text(0, f->after, &t, text);
	assert_string_equal(text, "berth v9, pid 7, up 01:02:05, mixed mode, 2 reactors");
	top_header_text(1, f->after, &t, text);
	assert_string_equal(text, "CPU 75.0 %   memory 15 MiB   wake-ups 27/s   VMs 2   controllers 3   bdevs 2");
	top_header_text(2, f->after, &t, text);
	assert_string_equal(text, "I/O 120 IOPS (100 read, 20 write)   2.0 MB/s read   1.0 MB/s write   latency 8.5us   "
				  "in flight 7");
}

/* Nothing to compare with, or another process: rates are not known; what is there now is. */
static void
test_first(void **state)
{
	struct fixture *f = *state;
	json_t *other = parse("{'time_ns': 1, 'status': {'pid': 8}}");
	const json_t *befores[] = {NULL, other};

	for (size_t i = 0; i < ARRAY_SIZE(befores); i++) {
		struct top_totals t = top_totals_make(befores[i], f->after);

		assert_true(t.first && isnan(t.reads) && isnan(t.cpu) && isnan(t.wakeups) && isnan(t.latency_us));
		assert_int_equal(top_rows_make(&f->rows, TOP_CONTROLLERS, befores[i], f->after), 0);
		assert_shown(&f->rows, 0, "iops", "-");
		assert_shown(&f->rows, 0, "latency_us", "-");
		assert_shown(&f->rows, 0, "queues", "0");
		top_rows_free(&f->rows);
	}
	json_decref(other);
}

/* Answers of another shape are dull, never fatal. */
static void
test_odd_answers(void **state)
{
	struct fixture *f = *state;
	static const char *const texts[] = {
		"{}",
		"{'time_ns': 5, 'status': [], 'reactors': 3, 'threads': {'threads': {}}, 'controllers': []}",
		"{'reactors': {'reactors': [1, {}], 'details': [null]}, 'controllers': {'a': 1, 'b': {}}}",
		"{'threads': {'threads': [{}, 3]}}",
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		json_t *odd = parse(texts[i]);

		for (int view = 0; view < TOP_VIEWS; view++) {
			struct top_totals t = top_totals_make(odd, f->after);

			assert_int_equal(top_rows_make(&f->rows, (enum top_view)view, odd, f->after), 0);
			top_rows_free(&f->rows);
			assert_int_equal(top_rows_make(&f->rows, (enum top_view)view, f->before, odd), 0);
			json_decref(top_json(odd, &t, &f->rows));
			top_rows_free(&f->rows);
			top_totals_make(odd, odd);
		}
		json_decref(odd);
	}
}

static void
assert_order(struct fixture *f, const char *column, bool descending, const char *filter, const char *expected)
{
	char got[256] = "";

	top_rows_arrange(&f->rows, (unsigned)top_column_find(f->rows.view, column), descending, filter);
	for (size_t i = 0; i < f->rows.shown_count; i++) {
		strcat(strcat(got, shown(&f->rows, i, "ctrlr")), " ");
	}
	assert_string_equal(got, expected);
}

static void
test_order_and_filter(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(top_rows_make(&f->rows, TOP_CONTROLLERS, f->before, f->after), 0);
	/* As people count: vm2 before vm10. */
	assert_order(f, "ctrlr", false, NULL, "gone vm2 vm10 ");
	assert_order(f, "CONTROLLER", true, "", "vm10 vm2 gone ");
	assert_order(f, "write_iops", true, NULL, "vm2 gone vm10 ");
	assert_order(f, "inflight", false, NULL, "gone vm2 vm10 ");
	/* What is not known is last of the largest. */
	assert_order(f, "latency_us", true, NULL, "vm10 vm2 gone ");
	assert_order(f, "ctrlr", false, "VM", "vm2 vm10 ");
	assert_order(f, "ctrlr", false, "0x2", "vm10 ");
	assert_order(f, "ctrlr", false, "nowhere", "");
	assert_int_equal(top_column_find(TOP_CORES, "iops"), -1);
}

static void
test_merge(void **state)
{
	json_t *answer = parse("[{'ctrlr': 'a', 'calls': 1}, {'ctrlr': 'b', 'calls': 1}, {}, 3]");
	json_t *part = parse("[{'ctrlr': 'b', 'calls': 2}]");
	json_t *known = top_merge(NULL, answer);
	json_t *merged = top_merge(known, part);
	json_t *expected = parse("{'a': {'ctrlr': 'a', 'calls': 1}, 'b': {'ctrlr': 'b', 'calls': 2}}");

	assert_true(json_equal(merged, expected));
	/* The snapshot before stays what it was. */
	assert_int_equal(json_integer_value(json_object_get(json_object_get(known, "b"), "calls")), 1);
	json_decref(answer);
	json_decref(part);
	json_decref(known);
	json_decref(merged);
	json_decref(expected);
}

static void
test_numbers(void **state)
{
	static const struct {
		enum top_kind kind;
		double number;
		const char *text;
	} cases[] = {
		{TOP_RATE, 0, "0"}, {TOP_RATE, 0.4, "0.4"}, {TOP_RATE, 9.94, "9.9"}, {TOP_RATE, 9.96, "10"},
		{TOP_RATE, 999999, "999999"}, {TOP_RATE, 999999.6, "1.00M"}, {TOP_RATE, 12345678, "12.35M"},
		{TOP_MBYTES, 0, "0"}, {TOP_MBYTES, 0.04, "0.0"}, {TOP_MBYTES, 99.9, "99.9"}, {TOP_MBYTES, 99.96, "100"},
		{TOP_PERCENT, 0, "0.0"}, {TOP_PERCENT, 100, "100.0"}, {TOP_LATENCY_US, 8.25, "8.2us"},
		{TOP_LATENCY_US, 99.96, "100us"}, {TOP_LATENCY_US, 12345, "12.3ms"}, {TOP_LATENCY_US, 5e7, "50.0s"},
		{TOP_WHOLE, 12, "12"}, {TOP_RATE, NAN, "-"}, {TOP_RATE, INFINITY, "-"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct top_column column = {.kind = cases[i].kind};
		struct top_cell cell = {.number = cases[i].number};
		char text[TOP_TEXT_BYTES];

		assert_string_equal(top_cell_text(&column, &cell, text), cases[i].text);
	}
}

/* Names are anybody's: no control character reaches a terminal, and UTF-8 is cut between characters. */
static void
test_clean(void **state)
{
	char text[16];

	assert_int_equal(top_clean("a\x1b[2Jb", 20, text, sizeof(text)), 6);
	assert_string_equal(text, "a?[2Jb");
	assert_int_equal(top_clean("\xc3\xa4\xc3\xb6\xc3\xbc", 2, text, sizeof(text)), 2);
	assert_string_equal(text, "\xc3\xa4\xc3\xb6");
	assert_int_equal(top_clean("0123456789abcdefghij", 100, text, sizeof(text)), 15);
	assert_int_equal(top_clean("abc", 0, text, sizeof(text)), 0);
	assert_string_equal(text, "");
	/* Control characters beyond ASCII, and what is no UTF-8. */
	assert_int_equal(top_clean("a\xc2\x9b" "b\xff\xe4\xb8", 20, text, sizeof(text)), 6);
	assert_string_equal(text, "a?b???");
	/* Two columns each: the second one does not fit into three. */
	assert_non_null(setlocale(LC_CTYPE, "C.UTF-8"));
	assert_int_equal(top_clean("\xe4\xb8\xad\xe6\x96\x87", 3, text, sizeof(text)), 2);
	assert_string_equal(text, "\xe4\xb8\xad");
	/* An accent of its own takes none, and stays with its letter. */
	assert_int_equal(top_clean("e\xcc\x81x", 1, text, sizeof(text)), 1);
	assert_string_equal(text, "e\xcc\x81");
	assert_int_equal(top_columns("e\xcc\x81\xe4\xb8\xad\n"), 4);
}

/* What does not fit can be scrolled to; where all of it fits any key goes back. */
static void
test_keys_help(void **state)
{
	struct top_ui ui;

	top_ui_init(&ui);
	assert_int_equal(top_key(&ui, 'h'), TOP_REDRAW);
	ui.help_page = 23;
	ui.help_count = 26;
	assert_int_equal(top_key(&ui, KEY_DOWN), TOP_REDRAW);
	assert_true(ui.help && ui.help_first == 1);
	top_key(&ui, KEY_NPAGE);
	assert_true(ui.help && ui.help_first == 3);
	top_key(&ui, KEY_UP);
	assert_true(ui.help && ui.help_first == 2);
	top_key(&ui, KEY_HOME);
	top_key(&ui, KEY_UP);
	assert_true(ui.help && ui.help_first == 0);
	top_key(&ui, KEY_END);
	assert_true(ui.help && ui.help_first == 3);
	top_key(&ui, 'x');
	assert_false(ui.help);
	top_key(&ui, 'h');
	assert_int_equal(ui.help_first, 0);
	ui.help_page = 26;
	top_key(&ui, KEY_DOWN);
	assert_false(ui.help);
}

static void
test_print(void **state)
{
	struct fixture *f = *state;
	struct top_totals t = top_totals_make(f->before, f->after);
	char *text = NULL;
	size_t size;
	FILE *out = open_memstream(&text, &size);

	assert_int_equal(top_rows_make(&f->rows, TOP_THREADS, f->before, f->after), 0);
	top_print(out, f->after, &t, &f->rows);
	fclose(out);
	assert_non_null(strstr(text, "in flight 7\n\n"
				     "THREAD      ID  CORE  CPUMASK  BUSY %  QUEUES  ACTIVE  ARMED  TIMED\n"
				     "app_thread   1     0  1         100.0       0       1      3      2\n"
				     "io_1         3     1  1          50.0       2       1      3      2\n"));
	free(text);
}

static void
test_json(void **state)
{
	struct fixture *f = *state;
	struct top_totals t = top_totals_make(f->before, f->after);
	json_t *json, *row;

	assert_int_equal(top_rows_make(&f->rows, TOP_CONTROLLERS, f->before, f->after), 0);
	json = top_json(f->after, &t, &f->rows);
	assert_string_equal(json_string_value(json_object_get(json, "view")), "controllers");
	assert_int_equal(json_integer_value(json_object_get(json_object_get(json, "totals"), "iops")), 120);
	row = json_array_get(json_object_get(json, "rows"), 0);
	assert_string_equal(json_string_value(json_object_get(row, "ctrlr")), "vm10");
	assert_int_equal(json_integer_value(json_object_get(row, "latency_us")), 10);
	row = json_array_get(json_object_get(json, "rows"), 2);
	assert_true(json_is_null(json_object_get(row, "latency_us")));
	json_decref(json);
}

/* ---- Keys ---- */

static void
type(struct top_ui *ui, const char *keys)
{
	for (; *keys != '\0'; keys++) {
		assert_int_equal(top_key(ui, (unsigned char)*keys), TOP_REDRAW);
	}
}

static void
test_keys(void **state)
{
	struct top_ui ui;

	top_ui_init(&ui);
	assert_int_equal(ui.view, TOP_CONTROLLERS);
	type(&ui, "2");
	assert_int_equal(ui.view, TOP_THREADS);
	type(&ui, "\t\t");
	assert_int_equal(ui.view, TOP_CONTROLLERS);
	assert_int_equal(top_key(&ui, KEY_BTAB), TOP_REDRAW);
	assert_int_equal(ui.view, TOP_CORES);
	type(&ui, "1");
	/* Each view has its own order; it goes around. */
	ui.sort[TOP_CONTROLLERS] = 0;
	type(&ui, "<");
	assert_int_equal(ui.sort[TOP_CONTROLLERS], top_views[TOP_CONTROLLERS].column_count - 1);
	assert_true(ui.descending[TOP_CONTROLLERS]);
	assert_int_equal(top_key(&ui, KEY_RIGHT), TOP_REDRAW);
	assert_int_equal(ui.sort[TOP_CONTROLLERS], 0);
	assert_false(ui.descending[TOP_CONTROLLERS]);
	type(&ui, "r");
	assert_true(ui.descending[TOP_CONTROLLERS]);
	assert_int_equal(ui.sort[TOP_THREADS], top_views[TOP_THREADS].sort);
	assert_int_equal(top_key(&ui, ' '), TOP_REFRESH);
	assert_int_equal(top_key(&ui, KEY_RESIZE), TOP_REDRAW);
	assert_int_equal(top_key(&ui, 'x'), TOP_NOTHING);
	type(&ui, "+p");
	assert_true(ui.delay_s == 2.0 && ui.paused);
	for (int i = 0; i < 20; i++) {
		type(&ui, "-");
	}
	assert_true(ui.delay_s == 0.1);
	type(&ui, "h");
	assert_true(ui.help);
	type(&ui, "2"); /* closes the help, and is nothing else */
	assert_true(!ui.help && ui.view == TOP_CONTROLLERS);
	assert_int_equal(top_key(&ui, 'q'), TOP_QUIT);
}

static void
test_keys_filter(void **state)
{
	struct top_ui ui;

	top_ui_init(&ui);
	type(&ui, "/vq\xc3\xa4");
	assert_true(ui.typing);
	assert_string_equal(ui.filter, "vq\xc3\xa4");
	assert_int_equal(top_key(&ui, KEY_BACKSPACE), TOP_REDRAW);
	assert_string_equal(ui.filter, "vq");
	type(&ui, "\r");
	assert_false(ui.typing);
	assert_string_equal(ui.filter, "vq");
	type(&ui, "/xyz\x1b");
	assert_string_equal(ui.filter, "vq");
	type(&ui, "\x1b");
	assert_string_equal(ui.filter, "");
	type(&ui, "/");
	for (int i = 0; i < 100; i++) {
		top_key(&ui, 'a');
	}
	assert_int_equal(strlen(ui.filter), TOP_FILTER_BYTES - 1);
}

static void
test_keys_scroll(void **state)
{
	struct top_ui ui;

	top_ui_init(&ui);
	ui.count = 10000;
	ui.page = 20;
	top_key(&ui, KEY_NPAGE);
	top_key(&ui, KEY_DOWN);
	assert_int_equal(ui.first, 21);
	top_key(&ui, KEY_PPAGE);
	top_key(&ui, KEY_PPAGE);
	assert_int_equal(ui.first, 0);
	top_key(&ui, KEY_UP);
	assert_int_equal(ui.first, 0);
	top_key(&ui, KEY_END);
	assert_int_equal(ui.first, 9980);
	top_key(&ui, KEY_DOWN);
	assert_int_equal(ui.first, 9980);
	top_key(&ui, KEY_HOME);
	assert_int_equal(ui.first, 0);
	ui.count = 5;
	top_key(&ui, KEY_END);
	assert_int_equal(ui.first, 0);
}

/* 10,000 controllers: rows, order, totals. Bounded by an order of magnitude above what it takes. */
static void
test_many(void **state)
{
	json_t *before = parse("{'time_ns': 0, 'status': {'pid': 1}}");
	json_t *after = parse("{'time_ns': 1000000000, 'status': {'pid': 1}}");
	json_t *controllers = json_object();
	struct top_rows rows;
	struct top_totals totals;
	struct timespec begin, end;

	for (int i = 0; i < 10000; i++) {
		char name[16];

		snprintf(name, sizeof(name), "vm%d", i);
		json_object_set_new(controllers, name,
				    json_pack("{s:s,s:s,s:i,s:i,s:[{s:i,s:s}]}", "ctrlr", name, "bdev", "b", "read_ops", i,
					      "latency_ns_total", 1000 * i, "queues", "lcore", 0, "thread", "io_0"));
	}
	json_object_set_new(before, "controllers", json_object());
	json_object_set_new(after, "controllers", controllers);
	assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin), 0);
	assert_int_equal(top_rows_make(&rows, TOP_CONTROLLERS, before, after), 0);
	totals = top_totals_make(before, after);
	assert_int_equal(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end), 0);
	assert_true(end.tv_sec - begin.tv_sec <= 2);
	assert_true(totals.reads == 49995000.0);
	assert_int_equal(rows.shown_count, 10000);
	assert_shown(&rows, 0, "ctrlr", "vm9999");
	top_rows_free(&rows);
	json_decref(before);
	json_decref(after);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_controllers), TEST(test_threads_and_cores), TEST(test_totals), TEST(test_first), TEST(test_odd_answers),
		TEST(test_order_and_filter), TEST(test_merge), TEST(test_numbers), TEST(test_clean), TEST(test_print),
		TEST(test_json), TEST(test_keys), TEST(test_keys_filter), TEST(test_keys_help), TEST(test_keys_scroll),
		TEST(test_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
