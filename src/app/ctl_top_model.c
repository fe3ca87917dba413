/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The model of berth top: two snapshots of what the target says become rows of numbers. Pure: no target, no clock, no terminal.
 *
 * Invariants:
 * 1. A rate is the difference of two counters over the time between the two snapshots. A counter that went down started anew,
 *    and counts from zero.
 * 2. A member that is missing (an older target) counts as zero, a text as "-".
 * 3. Rows borrow their texts from the later snapshot.
 */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "app/ctl.h"
#include "app/ctl_top.h"
#include "base/check.h"
#include "base/clock.h"

/* ---- Views ---- */

enum {
	C_NAME, C_BDEV, C_VM, C_QUEUES, C_CORES, C_READS, C_WRITES, C_IOPS, C_READ_MB, C_WRITE_MB,
	C_LATENCY, C_INFLIGHT, C_CALLS, C_KICKS, C_ERRORS, C_COLUMNS
};

static const struct top_column controller_columns[C_COLUMNS] = {
	[C_NAME] = {"CONTROLLER", "ctrlr", TOP_TEXT, 18, 100, "name, and that of the socket"},
	[C_BDEV] = {"BDEV", "bdev", TOP_TEXT, 12, 40,
		    "the block device behind it; GONE when it was removed"},
	[C_VM] = {"VM", "session", TOP_TEXT, 3, 60, "whether a VM is connected"},
	[C_QUEUES] = {"QUEUES", "queues", TOP_WHOLE, 6, 30, "virtqueues that run"},
	[C_CORES] = {"CORES", "cores", TOP_TEXT, 9, 45,
		     "reactors they are on: 0x2 1 is two on reactor 0, one on 1"},
	[C_READS] = {"READ/s", "read_iops", TOP_RATE, 7, 70, "read requests a second"},
	[C_WRITES] = {"WRITE/s", "write_iops", TOP_RATE, 7, 70, "write requests a second"},
	[C_IOPS] = {"IOPS", "iops", TOP_RATE, 7, 90, "requests a second, of every kind"},
	[C_READ_MB] = {"RD MB/s", "read_mb_s", TOP_MBYTES, 7, 80, "megabytes read a second"},
	[C_WRITE_MB] = {"WR MB/s", "write_mb_s", TOP_MBYTES, 7, 80, "megabytes written a second"},
	[C_LATENCY] = {"LATENCY", "latency_us", TOP_LATENCY_US, 8, 85,
		       "mean time a request spent in berthd"},
	[C_INFLIGHT] = {"INFL", "inflight", TOP_WHOLE, 5, 55, "requests under way now"},
	[C_CALLS] = {"CALL/s", "calls", TOP_RATE, 7, 35, "interrupts sent to the guest a second"},
	[C_KICKS] = {"KICK/s", "kicks", TOP_RATE, 7, 34,
		     "times a second that the guest woke a sleeping queue"},
	[C_ERRORS] = {"ERRORS", "errors", TOP_WHOLE, 6, 50,
		      "failed requests and broken descriptor chains, ever"},
};

enum { T_NAME, T_ID, T_CORE, T_MASK, T_BUSY, T_QUEUES, T_ACTIVE, T_ARMED, T_TIMED, T_COLUMNS };

static const struct top_column thread_columns[T_COLUMNS] = {
	[T_NAME] = {"THREAD", "name", TOP_TEXT, 24, 100, "lightweight thread"},
	[T_ID] = {"ID", "id", TOP_WHOLE, 5, 20, "its number"},
	[T_CORE] = {"CORE", "lcore", TOP_WHOLE, 5, 80, "the reactor that runs it"},
	[T_MASK] = {"CPUMASK", "cpumask", TOP_TEXT, 10, 40, "reactors that may run it"},
	[T_BUSY] = {"BUSY %", "busy", TOP_PERCENT, 7, 90,
		    "share of the time in which it did something"},
	[T_QUEUES] = {"QUEUES", "queues", TOP_WHOLE, 7, 60, "virtqueues it serves"},
	[T_ACTIVE] = {"ACTIVE", "active_pollers", TOP_WHOLE, 7, 70, "pollers that run every turn"},
	[T_ARMED] = {"ARMED", "armed_pollers", TOP_WHOLE, 7, 65, "pollers that wait for an event"},
	[T_TIMED] = {"TIMED", "timed_pollers", TOP_WHOLE, 7, 64, "pollers that run once a period"},
};

enum { R_CORE, R_CPU, R_MODE, R_BUSY, R_HOST, R_WAKEUPS, R_THREADS, R_QUEUES, R_NAMES, R_COLUMNS };

static const struct top_column core_columns[R_COLUMNS] = {
	[R_CORE] = {"CORE", "lcore", TOP_WHOLE, 4, 100, "reactor"},
	[R_CPU] = {"CPU", "cpu", TOP_TEXT, 7, 70,
		   "the processor it is pinned to; any; offline or moved: it is not there"},
	[R_MODE] = {"MODE", "mode", TOP_TEXT, 9, 80,
		    "how it waits; (as adaptive): its CPU is not its own"},
	[R_BUSY] = {"BUSY %", "busy", TOP_PERCENT, 7, 95,
		    "share of the time in which it did something"},
	[R_HOST] = {"CPU %", "host_cpu", TOP_PERCENT, 7, 60,
		    "load of that processor, everybody's together"},
	[R_WAKEUPS] = {"WAKE/s", "wakeups", TOP_RATE, 7, 90, "returns from sleep a second"},
	[R_THREADS] = {"THREADS", "threads", TOP_WHOLE, 7, 50, "lightweight threads on it"},
	[R_QUEUES] = {"QUEUES", "queues", TOP_WHOLE, 7, 55, "virtqueues on it"},
	[R_NAMES] = {"WHICH", "thread_names", TOP_TEXT, 24, 40, "the first of its threads"},
};

const struct top_view_info top_views[TOP_VIEWS] = {
	[TOP_CONTROLLERS] = {"controllers", controller_columns, C_COLUMNS, C_IOPS, true},
	[TOP_THREADS] = {"threads", thread_columns, T_COLUMNS, T_BUSY, true},
	[TOP_CORES] = {"cores", core_columns, R_COLUMNS, R_CORE, false},
};

int
top_column_find(enum top_view view, const char *key)
{
	for (unsigned i = 0; i < top_views[view].column_count; i++) {
		if (strcasecmp(top_views[view].columns[i].key, key) == 0 ||
		    strcasecmp(top_views[view].columns[i].title, key) == 0) {
			return (int)i;
		}
	}
	return -1;
}

/* ---- Numbers of snapshots ---- */

static double
number(const json_t *object, const char *key)
{
	return json_number_value(json_object_get(object, key));
}

static const char *
text(const json_t *object, const char *key)
{
	const char *value = json_string_value(json_object_get(object, key));

	return value != NULL ? value : "-";
}

static struct top_cell
cell(double value)
{
	return (struct top_cell){.number = value};
}

static struct top_cell
text_cell(const char *value)
{
	return (struct top_cell){.number = NAN, .text = value};
}

/* Counter `key`: what it grew by. before NULL: it started in between. */
static double
grown(const json_t *before, const json_t *after, const char *key)
{
	double from = number(before, key), to = number(after, key);

	return to >= from ? to - from : to;
}

/* The snapshot to compare with: none of another process. */
static const json_t *
comparable(const json_t *before, const json_t *after)
{
	bool same = number(json_object_get(before, "status"), "pid") ==
		    number(json_object_get(after, "status"), "pid");

	return same ? before : NULL;
}

static double
seconds_between(const json_t *before, const json_t *after)
{
	double ns = number(after, "time_ns") - number(before, "time_ns");

	return before != NULL && ns > 0 ? ns / NS_PER_S : NAN;
}

/* The element of an array whose `key` is that of `like`, most likely at the same place. */
static const json_t *
element_like(const json_t *array, const json_t *like, const char *key, size_t place)
{
	const json_t *wanted = json_object_get(like, key), *element = json_array_get(array, place);
	size_t i;

	if (element != NULL && json_equal(json_object_get(element, key), wanted)) {
		return element;
	}
	json_array_foreach (array, i, element) {
		if (json_equal(json_object_get(element, key), wanted)) {
			return element;
		}
	}
	return NULL;
}

json_t *
top_merge(const json_t *known, const json_t *answer)
{
	json_t *merged = known != NULL ? json_copy((json_t *)known) : json_object(), *element;
	size_t i;

	json_array_foreach (answer, i, element) {
		const char *name = json_string_value(json_object_get(element, "ctrlr"));

		if (name != NULL) {
			json_object_set(merged, name, element);
		}
	}
	return merged;
}

/* ---- Controllers ---- */

/* "0x2 1": two queues on reactor 0, one on 1. More than fits ends in a plus. */
static void
format_cores(const json_t *queues, char out[TOP_OWN_BYTES])
{
	unsigned counts[64] = {0};
	const json_t *queue;
	size_t i, len = 0;

	json_array_foreach (queues, i, queue) {
		json_int_t lcore = json_integer_value(json_object_get(queue, "lcore"));

		if (lcore >= 0 && lcore < (json_int_t)ARRAY_SIZE(counts)) {
			counts[lcore]++;
		}
	}
	out[0] = '\0';
	for (i = 0; i < ARRAY_SIZE(counts) && len < TOP_OWN_BYTES - 12; i++) {
		if (counts[i] == 1) {
			len += (size_t)snprintf(out + len, TOP_OWN_BYTES - len, "%s%zu",
						len > 0 ? " " : "", i);
		} else if (counts[i] > 1) {
			len += (size_t)snprintf(out + len, TOP_OWN_BYTES - len, "%s%zux%u",
						len > 0 ? " " : "", i, counts[i]);
		}
	}
	if (len == 0) {
		strcpy(out, "-");
	}
}

static double
requests_grown(const json_t *before, const json_t *after)
{
	return grown(before, after, "read_ops") + grown(before, after, "write_ops") +
	       grown(before, after, "other_ops");
}

/* s: seconds, NAN when there is nothing to compare with: then the rates are NAN too. */
static void
fill_controller(struct top_row *row, const json_t *before, const json_t *after, double s)
{
	const json_t *queues = json_object_get(after, "queues"),
		     *bdev = json_object_get(after, "bdev");
	struct top_cell *c = row->cells;
	double requests = requests_grown(before, after);

	format_cores(queues, row->own);
	c[C_NAME] = text_cell(text(after, "ctrlr"));
	c[C_BDEV] = text_cell(json_is_string(bdev) ? json_string_value(bdev) : "GONE");
	c[C_VM] = text_cell(json_is_true(json_object_get(after, "session")) ? "yes" : "-");
	c[C_QUEUES] = cell((double)json_array_size(queues));
	c[C_CORES] = text_cell(row->own);
	c[C_READS] = cell(grown(before, after, "read_ops") / s);
	c[C_WRITES] = cell(grown(before, after, "write_ops") / s);
	c[C_IOPS] = cell(requests / s);
	c[C_READ_MB] = cell(grown(before, after, "bytes_read") / s / 1e6);
	c[C_WRITE_MB] = cell(grown(before, after, "bytes_written") / s / 1e6);
	c[C_LATENCY] = cell(requests > 0 && !isnan(s)
				    ? grown(before, after, "latency_ns_total") / requests / 1e3
				    : NAN);
	c[C_INFLIGHT] = cell(number(after, "inflight"));
	c[C_CALLS] = cell(grown(before, after, "calls") / s);
	c[C_KICKS] = cell(grown(before, after, "kicks") / s);
	c[C_ERRORS] = cell(number(after, "errors") + number(after, "malformed"));
}

static size_t
fill_controllers(struct top_row *rows, const json_t *before, const json_t *after, double s)
{
	const json_t *old = json_object_get(before, "controllers");
	json_t *element;
	const char *name;
	size_t count = 0;

	json_object_foreach (json_object_get(after, "controllers"), name, element) {
		fill_controller(&rows[count++], json_object_get(old, name), element, s);
	}
	return count;
}

/* ---- Threads ---- */

/* Virtqueues, of all controllers, whose `key` is value. */
static double
count_queues(const json_t *snapshot, const char *key, const json_t *value)
{
	json_t *ctrlr, *queue;
	const char *name;
	size_t i;
	double count = 0;

	json_object_foreach (json_object_get(snapshot, "controllers"), name, ctrlr) {
		json_array_foreach (json_object_get(ctrlr, "queues"), i, queue) {
			count += json_equal(json_object_get(queue, key), value);
		}
	}
	return count;
}

/* The reactor whose lw_threads has the thread's id; NAN when none has (it is about to move). */
static double
core_of(const json_t *snapshot, const json_t *id)
{
	const json_t *reactor, *thread;
	size_t i, j;

	json_array_foreach (json_object_get(json_object_get(snapshot, "reactors"), "reactors"), i,
			    reactor) {
		json_array_foreach (json_object_get(reactor, "lw_threads"), j, thread) {
			if (json_equal(json_object_get(thread, "id"), id)) {
				return number(reactor, "lcore");
			}
		}
	}
	return NAN;
}

static double
percent_of_time(const json_t *before, const json_t *after, const char *key, double per_second,
		double s)
{
	double percent = 100.0 * grown(before, after, key) / per_second / s;

	return percent > 100.0 ? 100.0 : percent;
}

static const json_t *
threads_of(const json_t *snapshot)
{
	return json_object_get(json_object_get(snapshot, "threads"), "threads");
}

static size_t
fill_threads(struct top_row *rows, const json_t *before, const json_t *after, double s)
{
	double tick_rate = number(json_object_get(after, "threads"), "tick_rate");
	const json_t *thread;
	size_t i;

	json_array_foreach (threads_of(after), i, thread) {
		const json_t *old = element_like(threads_of(before), thread, "id", i);
		struct top_cell *c = rows[i].cells;

		c[T_NAME] = text_cell(text(thread, "name"));
		c[T_ID] = cell(number(thread, "id"));
		c[T_CORE] = cell(core_of(after, json_object_get(thread, "id")));
		c[T_MASK] = text_cell(text(thread, "cpumask"));
		c[T_BUSY] = cell(percent_of_time(old, thread, "busy", tick_rate, s));
		c[T_QUEUES] = cell(count_queues(after, "thread", json_object_get(thread, "name")));
		c[T_ACTIVE] = cell(number(thread, "active_pollers_count"));
		c[T_ARMED] = cell(number(thread, "paused_pollers_count"));
		c[T_TIMED] = cell(number(thread, "timed_pollers_count"));
	}
	return json_array_size(threads_of(after));
}

/* ---- Cores ---- */

static const json_t *
reactors_of(const json_t *snapshot, const char *which)
{
	return json_object_get(json_object_get(snapshot, "reactors"), which);
}

/* The kernel counts a processor's time in hundredths of a second, wherever it shows it to programs. */
#define KERNEL_TICKS 100.0

static double
host_percent(const json_t *before, const json_t *after, double s)
{
	double ticks = grown(before, after, "usr") + grown(before, after, "sys") +
		       grown(before, after, "irq");
	double percent = 100.0 * ticks / KERNEL_TICKS / s;

	return percent > 100.0 ? 100.0 : percent;
}

static void
format_thread_names(const json_t *threads, char out[TOP_OWN_BYTES])
{
	const json_t *thread;
	size_t i, len = 0;

	out[0] = '\0';
	json_array_foreach (threads, i, thread) {
		if (len < TOP_OWN_BYTES - 1) {
			int n = snprintf(out + len, TOP_OWN_BYTES - len, "%s%s", len > 0 ? " " : "",
					 text(thread, "name"));

			len += n > 0 ? (size_t)n : 0;
		}
	}
}

/* Where it ought to run, or why it does not. */
static struct top_cell
processor_cell(const json_t *details)
{
	double cpu = details != NULL ? number(details, "cpu") : -1;
	const char *state = text(details, "cpu_state");
	bool lost = strcmp(state, "offline") == 0 || strcmp(state, "moved") == 0;

	return (struct top_cell){.number = cpu, .text = lost ? state : cpu < 0 ? "any" : NULL};
}

static void
fill_core(struct top_row *row, const json_t *before, const json_t *after, size_t i, double s)
{
	const json_t *r = json_array_get(reactors_of(after, "reactors"), i);
	const json_t *details = element_like(reactors_of(after, "details"), r, "lcore", i);
	const json_t *old = element_like(reactors_of(before, "reactors"), r, "lcore", i);
	const json_t *old_details = element_like(reactors_of(before, "details"), r, "lcore", i);
	double cpu = details != NULL ? number(details, "cpu") : -1;
	const char *mode = ctl_reactor_mode(details);
	struct top_cell *c = row->cells;

	format_thread_names(json_object_get(r, "lw_threads"), row->own);
	c[R_CORE] = cell(number(r, "lcore"));
	c[R_CPU] = processor_cell(details);
	c[R_MODE] = text_cell(mode != NULL ? mode : "-");
	c[R_BUSY] = cell(percent_of_time(
		old, r, "busy", number(json_object_get(after, "reactors"), "tick_rate"), s));
	c[R_HOST] = cell(cpu < 0 ? NAN : host_percent(old, r, s));
	c[R_WAKEUPS] = cell(grown(old_details, details, "wakeups") / s);
	c[R_THREADS] = cell((double)json_array_size(json_object_get(r, "lw_threads")));
	c[R_QUEUES] = cell(count_queues(after, "lcore", json_object_get(r, "lcore")));
	c[R_NAMES] = text_cell(row->own);
}

static size_t
fill_cores(struct top_row *rows, const json_t *before, const json_t *after, double s)
{
	size_t count = json_array_size(reactors_of(after, "reactors"));

	for (size_t i = 0; i < count; i++) {
		fill_core(&rows[i], before, after, i, s);
	}
	return count;
}

/* ---- Rows ---- */

static size_t
row_count(enum top_view view, const json_t *after)
{
	return view == TOP_CONTROLLERS ? json_object_size(json_object_get(after, "controllers"))
	       : view == TOP_THREADS   ? json_array_size(threads_of(after))
				       : json_array_size(reactors_of(after, "reactors"));
}

int
top_rows_make(struct top_rows *rows, enum top_view view, const json_t *before, const json_t *after)
{
	static size_t (*const fill[])(struct top_row *rows, const json_t *before,
				      const json_t *after, double s) = {
		[TOP_CONTROLLERS] = fill_controllers,
		[TOP_THREADS] = fill_threads,
		[TOP_CORES] = fill_cores,
	};
	size_t count = row_count(view, after);

	*rows = (struct top_rows){.view = view};
	rows->rows = calloc(count + 1, sizeof(*rows->rows));
	rows->shown = calloc(count + 1, sizeof(struct top_row *));
	if (rows->rows == NULL || rows->shown == NULL) {
		top_rows_free(rows);
		return -ENOMEM;
	}
	before = comparable(before, after);
	rows->count = fill[view](rows->rows, before, after, seconds_between(before, after));
	top_rows_arrange(rows, top_views[view].sort, top_views[view].descending, NULL);
	return 0;
}

void
top_rows_free(struct top_rows *rows)
{
	free(rows->rows);
	free(rows->shown);
	*rows = (struct top_rows){.view = rows->view};
}

/* ---- Order ---- */

struct order {
	unsigned column;
	bool descending;
};

static int
compare_cells(const struct top_cell *a, const struct top_cell *b)
{
	if (a->text != NULL && b->text != NULL) {
		return strverscmp(a->text, b->text);
	}
	/* What is not known comes last in descending order. */
	if (isnan(a->number) || isnan(b->number)) {
		return (int)isnan(b->number) - (int)isnan(a->number);
	}
	return (a->number > b->number) - (a->number < b->number);
}

static int
compare_rows(const void *va, const void *vb, void *ctx)
{
	const struct top_row *a = *(struct top_row *const *)va, *b = *(struct top_row *const *)vb;
	const struct order *o = ctx;
	int rc = compare_cells(&a->cells[o->column], &b->cells[o->column]);

	if (rc == 0) {
		/* Rows that are alike do not dance. */
		return compare_cells(&a->cells[0], &b->cells[0]);
	}
	return o->descending ? -rc : rc;
}

static bool
passes(const struct top_row *row, unsigned column_count, const char *filter)
{
	for (unsigned i = 0; i < column_count; i++) {
		if (row->cells[i].text != NULL && strcasestr(row->cells[i].text, filter) != NULL) {
			return true;
		}
	}
	return false;
}

void
top_rows_arrange(struct top_rows *rows, unsigned column, bool descending, const char *filter)
{
	struct order order = {column, descending};

	rows->shown_count = 0;
	for (size_t i = 0; i < rows->count; i++) {
		if (filter == NULL || filter[0] == '\0' ||
		    passes(&rows->rows[i], top_views[rows->view].column_count, filter)) {
			rows->shown[rows->shown_count++] = &rows->rows[i];
		}
	}
	qsort_r(rows->shown, rows->shown_count, sizeof(struct top_row *), compare_rows, &order);
}

/* ---- Totals ---- */

static void
add_controllers(struct top_totals *t, const json_t *before, const json_t *after, double s)
{
	const json_t *old = json_object_get(before, "controllers");
	double requests = 0, latency_ns = 0;
	json_t *now;
	const char *name;

	json_object_foreach (json_object_get(after, "controllers"), name, now) {
		const json_t *was = json_object_get(old, name);

		requests += requests_grown(was, now);
		latency_ns += grown(was, now, "latency_ns_total");
		t->reads += grown(was, now, "read_ops") / s;
		t->writes += grown(was, now, "write_ops") / s;
		t->others += grown(was, now, "other_ops") / s;
		t->read_mb += grown(was, now, "bytes_read") / s / 1e6;
		t->write_mb += grown(was, now, "bytes_written") / s / 1e6;
		t->inflight += number(now, "inflight");
	}
	t->latency_us = requests > 0 && !isnan(s) ? latency_ns / requests / 1e3 : NAN;
}

struct top_totals
top_totals_make(const json_t *before, const json_t *after)
{
	struct top_totals t = {0};
	const json_t *details;
	size_t i;

	before = comparable(before, after);
	t.first = before == NULL;
	t.seconds = seconds_between(before, after);
	t.cpu = 100.0 *
		grown(json_object_get(before, "status"), json_object_get(after, "status"),
		      "cpu_ns") /
		NS_PER_S / t.seconds;
	add_controllers(&t, before, after, t.seconds);
	json_array_foreach (reactors_of(after, "details"), i, details) {
		const json_t *old =
			element_like(reactors_of(before, "details"), details, "lcore", i);

		t.wakeups += grown(old, details, "wakeups") / t.seconds;
	}
	return t;
}
