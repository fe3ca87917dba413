/* SPDX-License-Identifier: BSD-3-Clause */
/* Tables of figures, and percentiles. One system thread. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "waiting.h"

unsigned rows_skipped;

static int
compare_doubles(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static int
compare_ns(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

void
table_init(struct table *t, const char *title, const char *const *columns)
{
	memset(t, 0, sizeof(*t));
	t->title = title;
	for (; columns[t->column_count] != NULL; t->column_count++) {
		CHECK(t->column_count < COLUMNS_MAX);
		t->columns[t->column_count] = columns[t->column_count];
	}
}

static struct row *
row_of(struct table *t, const char *name)
{
	for (unsigned i = 0; i < t->row_count; i++) {
		if (strcmp(t->rows[i].name, name) == 0) {
			return &t->rows[i];
		}
	}
	CHECK(t->row_count < ROWS_MAX);
	snprintf(t->rows[t->row_count].name, sizeof(t->rows[0].name), "%s", name);
	return &t->rows[t->row_count++];
}

void
table_add(struct table *t, const char *name, const double *values)
{
	struct row *row = row_of(t, name);

	CHECK(row->runs < RUNS_MAX);
	for (unsigned c = 0; c < t->column_count; c++) {
		row->values[c][row->runs] = values[c];
	}
	row->runs++;
}

/* Others mean that the benchmark is wrong, not that the system is old or strict. */
static bool
is_lack(int rc)
{
	static const int lacks[] = {EPERM, EACCES, ENOSYS, EOPNOTSUPP, EINVAL, EMFILE, ENOMEM, EAGAIN};

	for (size_t i = 0; i < ARRAY_SIZE(lacks); i++) {
		if (rc == -lacks[i]) {
			return true;
		}
	}
	return false;
}

void
table_skip(struct table *t, const char *name, int rc)
{
	if (!is_lack(rc)) {
		give_up(name, rc);
	}
	rows_skipped++;
	snprintf(row_of(t, name)->skipped, sizeof(t->rows[0].skipped), "skipped: this system says: %s", strerror(-rc));
}

static void
print_cell(const double *values, unsigned runs)
{
	double v[RUNS_MAX];
	char text[48];
	int digits;

	memcpy(v, values, runs * sizeof(v[0]));
	qsort(v, runs, sizeof(v[0]), compare_doubles);
	digits = v[runs / 2] >= 1000 ? 0 : v[runs / 2] >= 100 ? 1 : 2;
	if (runs > 1) {
		snprintf(text, sizeof(text), "%.*f [%.*f %.*f]", digits, v[runs / 2], digits, v[0], digits, v[runs - 1]);
	} else {
		snprintf(text, sizeof(text), "%.*f", digits, v[0]);
	}
	say(" %21s", text);
}

void
table_print(const struct table *t)
{
	int width = 0;

	for (unsigned i = 0; i < t->row_count; i++) {
		width = MAX(width, (int)strlen(t->rows[i].name));
	}
	say("\n%s\n%-*s", t->title, width, "");
	for (unsigned c = 0; c < t->column_count; c++) {
		say(" %21s", t->columns[c]);
	}
	say("\n");
	for (unsigned i = 0; i < t->row_count; i++) {
		const struct row *row = &t->rows[i];

		say("%-*s", width, row->name);
		if (row->runs == 0) {
			say("   %s", row->skipped);
		}
		for (unsigned c = 0; c < t->column_count && row->runs > 0; c++) {
			print_cell(row->values[c], row->runs);
		}
		say("\n");
	}
}

void
samples_init(struct samples *s, size_t max)
{
	*s = (struct samples){.ns = calloc(max, sizeof(uint64_t)), .max = max};
	CHECK(s->ns != NULL);
}

void
samples_release(struct samples *s)
{
	free(s->ns);
	*s = (struct samples){0};
}

void
samples_append(struct samples *to, const struct samples *from)
{
	for (size_t i = 0; i < from->count; i++) {
		samples_add(to, from->ns[i]);
	}
}

double
laps_compare(const double *values, const double *base, unsigned laps)
{
	double percent[LAPS_MAX];
	unsigned n = 0;

	CHECK(laps <= LAPS_MAX);
	for (unsigned i = 0; i < laps; i++) {
		if (base[i] > 0) {
			percent[n++] = 100 * values[i] / base[i];
		}
	}
	qsort(percent, n, sizeof(percent[0]), compare_doubles);
	return n == 0 ? 0 : percent[n / 2];
}

double
samples_at(struct samples *s, double share)
{
	if (s->count == 0) {
		return 0;
	}
	qsort(s->ns, s->count, sizeof(s->ns[0]), compare_ns);
	return (double)s->ns[MIN((size_t)(share * (double)s->count), s->count - 1)];
}
