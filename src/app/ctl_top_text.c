/* SPDX-License-Identifier: BSD-3-Clause */
/* What berth top writes: cells, the header, the table and JSON for scripts. */
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "app/ctl.h"
#include "app/ctl_top.h"
#include "base/check.h"

/* ---- Cells ---- */

static void
format_rate(double n, char *text)
{
	if (n > 0 && n < 9.95) {
		snprintf(text, TOP_TEXT_BYTES, "%.1f", n);
	} else if (n < 999999.5) {
		snprintf(text, TOP_TEXT_BYTES, "%.0f", n);
	} else {
		snprintf(text, TOP_TEXT_BYTES, "%.2fM", n / 1e6);
	}
}

static void
format_latency(double us, char *text)
{
	if (us < 99.95) {
		snprintf(text, TOP_TEXT_BYTES, "%.1fus", us);
	} else if (us < 9999.5) {
		snprintf(text, TOP_TEXT_BYTES, "%.0fus", us);
	} else if (us < 9999500) {
		snprintf(text, TOP_TEXT_BYTES, "%.1fms", us / 1e3);
	} else {
		snprintf(text, TOP_TEXT_BYTES, "%.1fs", us / 1e6);
	}
}

const char *
top_cell_text(const struct top_column *column, const struct top_cell *cell,
	      char text[static TOP_TEXT_BYTES])
{
	double n = cell->number;

	if (cell->text != NULL) {
		return cell->text;
	}
	if (isnan(n) || isinf(n)) {
		return "-";
	}
	switch (column->kind) {
	case TOP_RATE:
		format_rate(n, text);
		break;
	case TOP_MBYTES:
		snprintf(text, TOP_TEXT_BYTES, "%.*f", n > 0 && n < 99.95 ? 1 : 0, n);
		break;
	case TOP_PERCENT:
		snprintf(text, TOP_TEXT_BYTES, "%.1f", n);
		break;
	case TOP_LATENCY_US:
		format_latency(n, text);
		break;
	case TOP_TEXT:
	case TOP_WHOLE:
		snprintf(text, TOP_TEXT_BYTES, "%.0f", n);
		break;
	}
	return text;
}

/* The character that a text begins with; its bytes. 1 and -1: no UTF-8. */
static size_t
decode(const char *text, int32_t *ret_character)
{
	const unsigned char *bytes = (const unsigned char *)text;
	size_t len = bytes[0] < 0x80 ? 1 : bytes[0] < 0xc0 ? 0 : bytes[0] < 0xe0 ? 2 : bytes[0] < 0xf0 ? 3 : 4;
	int32_t character = len == 1 ? bytes[0] : bytes[0] & (0x7f >> len);

	*ret_character = -1;
	for (size_t i = 1; i < len; i++) {
		if ((bytes[i] & 0xc0) != 0x80) {
			return 1;
		}
		character = character << 6 | (bytes[i] & 0x3f);
	}
	if (len == 0) {
		return 1;
	}
	*ret_character = character;
	return len;
}

static bool
is_control(int32_t character)
{
	return character < 0x20 || (character >= 0x7f && character < 0xa0);
}

/* Columns that it takes; one where the locale knows no more than that. */
static int
width_of(int32_t character)
{
	int width = is_control(character) ? 1 : wcwidth((wchar_t)character);

	return width >= 0 ? width : 1;
}

int
top_clean(const char *text, int width, char *ret_text, size_t size)
{
	int columns = 0;
	size_t len = 0;

	CHECK(size > 0);
	while (*text != '\0') {
		int32_t character;
		size_t bytes = decode(text, &character);
		bool control = is_control(character);

		if (columns + width_of(character) > width ||
		    len + (control ? 1 : bytes) >= size) {
			break;
		}
		columns += width_of(character);
		if (control) {
			ret_text[len++] = '?';
		} else {
			memcpy(ret_text + len, text, bytes);
			len += bytes;
		}
		text += bytes;
	}
	ret_text[len] = '\0';
	return columns;
}

int
top_columns(const char *text)
{
	int columns = 0;

	while (*text != '\0') {
		int32_t character;

		text += decode(text, &character);
		columns += width_of(character);
	}
	return columns;
}

/* ---- Header ---- */

static double
status_number(const json_t *snapshot, const char *key)
{
	return json_number_value(json_object_get(json_object_get(snapshot, "status"), key));
}

static const char *
status_text(const json_t *snapshot, const char *key)
{
	const char *text =
		json_string_value(json_object_get(json_object_get(snapshot, "status"), key));

	return text != NULL ? text : "-";
}

static const char *
up_time(const json_t *snapshot, char text[static 32])
{
	uint64_t s = (uint64_t)status_number(snapshot, "uptime_seconds");

	if (s >= 86400) {
		snprintf(text, 32, "%" PRIu64 " d %02" PRIu64 ":%02" PRIu64, s / 86400,
			 s / 3600 % 24, s / 60 % 60);
	} else {
		snprintf(text, 32, "%02" PRIu64 ":%02" PRIu64 ":%02" PRIu64, s / 3600, s / 60 % 60,
			 s % 60);
	}
	return text;
}

/* The mode of the reactors, when they agree. */
static const char *
mode(const json_t *snapshot)
{
	const json_t *details = json_object_get(json_object_get(snapshot, "reactors"), "details"),
		     *one;
	const char *common = ctl_reactor_mode(json_array_get(details, 0));
	size_t i;

	json_array_foreach (details, i, one) {
		const char *other = ctl_reactor_mode(one);

		if (common == NULL || other == NULL || strcmp(common, other) != 0) {
			return "mixed";
		}
	}
	return common != NULL ? common : status_text(snapshot, "mode");
}

static const struct top_column rate = {.kind = TOP_RATE}, mbytes = {.kind = TOP_MBYTES},
			       percent = {.kind = TOP_PERCENT}, latency = {.kind = TOP_LATENCY_US};

static const char *
shown(const struct top_column *column, double n, char text[static TOP_TEXT_BYTES])
{
	return top_cell_text(column, &(struct top_cell){.number = n}, text);
}

void
top_header_text(unsigned line, const json_t *snapshot, const struct top_totals *t,
		char text[static TOP_HEADER_BYTES])
{
	const json_t *reactors = json_object_get(json_object_get(snapshot, "reactors"), "reactors");
	char a[TOP_TEXT_BYTES], b[TOP_TEXT_BYTES], c[TOP_TEXT_BYTES], d[TOP_TEXT_BYTES],
		e[TOP_TEXT_BYTES], f[TOP_TEXT_BYTES], up[32];

	if (line == 0) {
		snprintf(text, TOP_HEADER_BYTES, "%.48s, pid %.0f, up %s, %s mode, %zu reactors",
			 status_text(snapshot, "version"), status_number(snapshot, "pid"),
			 up_time(snapshot, up), mode(snapshot), json_array_size(reactors));
	} else if (line == 1) {
		snprintf(text, TOP_HEADER_BYTES,
			 "CPU %s %%   memory %.0f MiB   wake-ups %s/s   VMs %.0f   controllers "
			 "%.0f   bdevs %.0f",
			 shown(&percent, t->cpu, a),
			 status_number(snapshot, "memory_bytes") / 1048576.0,
			 shown(&rate, t->wakeups, b), status_number(snapshot, "sessions"),
			 status_number(snapshot, "controllers"), status_number(snapshot, "bdevs"));
	} else {
		snprintf(text, TOP_HEADER_BYTES,
			 "I/O %s IOPS (%s read, %s write)   %s MB/s read   %s MB/s write   latency "
			 "%s   in flight %.0f",
			 shown(&rate, t->reads + t->writes + t->others, a),
			 shown(&rate, t->reads, b), shown(&rate, t->writes, c),
			 shown(&mbytes, t->read_mb, d), shown(&mbytes, t->write_mb, e),
			 shown(&latency, t->latency_us, f), t->inflight);
	}
}

/* ---- Table ---- */

#define PRINTED_MAX 256

/* Whole texts: a script wants the name, not its beginning. */
static const char *
printed(const struct top_column *column, const struct top_cell *cell, char text[static PRINTED_MAX])
{
	char number[TOP_TEXT_BYTES];

	top_clean(top_cell_text(column, cell, number), PRINTED_MAX, text, PRINTED_MAX);
	return text;
}

static void
print_cell(FILE *out, const struct top_column *column, const char *text, int width, bool last)
{
	int padding = width > top_columns(text) ? width - top_columns(text) : 0;

	if (column->kind == TOP_TEXT) {
		fprintf(out, "%s%*s", text, last ? 0 : padding, "");
	} else {
		fprintf(out, "%*s%s", padding, "", text);
	}
	fputs(last ? "\n" : "  ", out);
}

void
top_print(FILE *out, const json_t *snapshot, const struct top_totals *totals,
	  const struct top_rows *rows)
{
	const struct top_view_info *view = &top_views[rows->view];
	int widths[TOP_COLUMNS_MAX];
	char text[TOP_HEADER_BYTES];

	_Static_assert(PRINTED_MAX <= TOP_HEADER_BYTES, "one buffer for both");
	for (unsigned i = 0; i < TOP_HEADER_LINES; i++) {
		top_header_text(i, snapshot, totals, text);
		fprintf(out, "%s\n", text);
	}
	fputc('\n', out);
	for (unsigned c = 0; c < view->column_count; c++) {
		widths[c] = top_columns(view->columns[c].title);
		for (size_t i = 0; i < rows->shown_count; i++) {
			int width = top_columns(
				printed(&view->columns[c], &rows->shown[i]->cells[c], text));

			widths[c] = MAX(widths[c], width);
		}
		print_cell(out, &view->columns[c], view->columns[c].title, widths[c],
			   c + 1 == view->column_count);
	}
	for (size_t i = 0; i < rows->shown_count; i++) {
		for (unsigned c = 0; c < view->column_count; c++) {
			print_cell(out, &view->columns[c],
				   printed(&view->columns[c], &rows->shown[i]->cells[c], text),
				   widths[c], c + 1 == view->column_count);
		}
	}
}

/* ---- JSON ---- */

/* Not a number is null: JSON has no other word for it. */
static json_t *
json_of(double n)
{
	return isnan(n) || isinf(n)              ? json_null()
	       : n == floor(n) && fabs(n) < 9e15 ? json_integer((json_int_t)n)
						 : json_real(n);
}

static json_t *
totals_json(const struct top_totals *t)
{
	return json_pack("{s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o,s:o}", "seconds",
			 json_of(t->seconds), "cpu_percent", json_of(t->cpu), "iops",
			 json_of(t->reads + t->writes + t->others), "read_iops", json_of(t->reads),
			 "write_iops", json_of(t->writes), "read_mb_s", json_of(t->read_mb),
			 "write_mb_s", json_of(t->write_mb), "latency_us", json_of(t->latency_us),
			 "wakeups", json_of(t->wakeups), "inflight", json_of(t->inflight));
}

json_t *
top_json(const json_t *snapshot, const struct top_totals *totals, const struct top_rows *rows)
{
	const struct top_view_info *view = &top_views[rows->view];
	json_t *array = json_array();

	for (size_t i = 0; i < rows->shown_count; i++) {
		json_t *row = json_object();

		for (unsigned c = 0; c < view->column_count; c++) {
			const struct top_cell *cell = &rows->shown[i]->cells[c];

			json_object_set_new(row, view->columns[c].key,
					    cell->text != NULL ? json_string(cell->text)
							       : json_of(cell->number));
		}
		json_array_append_new(array, row);
	}
	return json_pack("{s:O,s:o,s:s,s:o}", "status", json_object_get(snapshot, "status"),
			 "totals", totals_json(totals), "view", view->name, "rows", array);
}
