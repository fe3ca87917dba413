/* SPDX-License-Identifier: BSD-3-Clause */
/* What the berth command prints: JSON, sizes, tables. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/ctl.h"
#include "base/check.h"

void
ctl_print_json(const json_t *json)
{
	json_dumpf(json, stdout, JSON_INDENT(2) | JSON_ENCODE_ANY);
	putchar('\n');
}

const char *
ctl_bytes(uint64_t bytes, char text[static 32])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	uint64_t unit = 1;
	size_t i = 0;

	while (i + 1 < ARRAY_SIZE(units) && bytes / unit >= 1024) {
		unit *= 1024;
		i++;
	}
	if (bytes % unit == 0) {
		snprintf(text, 32, "%" PRIu64 " %s", bytes / unit, units[i]);
	} else {
		snprintf(text, 32, "%.1f %s", (double)bytes / (double)unit, units[i]);
	}
	return text;
}

void
ctl_table_row(struct ctl_table *table, ...)
{
	va_list ap;

	if (table->count == table->capacity) {
		table->capacity = 2 * table->capacity + 16;
		table->rows = reallocarray(table->rows, table->capacity, sizeof(*table->rows));
		CHECK(table->rows != NULL);
	}
	va_start(ap, table);
	for (unsigned i = 0; i < table->columns; i++) {
		char *text = strdup(va_arg(ap, const char *));

		CHECK(text != NULL);
		/* Names are anybody's bytes: none begins a line or speaks to the terminal. */
		for (char *p = text; *p != '\0'; p++) {
			*p = (unsigned char)*p < ' ' || *p == '\x7f' ? '?' : *p;
		}
		table->rows[table->count][i] = text;
	}
	va_end(ap);
	table->count++;
}

/* Characters, not bytes: names may be any UTF-8. */
static int
text_width(const char *text)
{
	int width = 0;

	for (; *text != '\0'; text++) {
		width += ((unsigned char)*text & 0xc0) != 0x80;
	}
	return width;
}

static void
print_cell(const struct ctl_table *table, size_t row, unsigned column, int width)
{
	const char *text = table->rows[row][column];
	int padding = width - text_width(text);
	bool right = (table->right >> column & 1) != 0;

	if (column > 0) {
		printf("  ");
	}
	if (right) {
		printf("%*s%s", padding, "", text);
	} else if (column + 1 < table->columns) {
		printf("%s%*s", text, padding, "");
	} else {
		printf("%s", text);
	}
}

void
ctl_table_print(struct ctl_table *table)
{
	int width[CTL_COLUMNS_MAX] = {0};

	for (size_t r = 0; r < table->count; r++) {
		for (unsigned c = 0; c < table->columns; c++) {
			width[c] = MAX(width[c], text_width(table->rows[r][c]));
		}
	}
	for (size_t r = 0; r < table->count; r++) {
		for (unsigned c = 0; c < table->columns; c++) {
			print_cell(table, r, c, width[c]);
			free(table->rows[r][c]);
		}
		putchar('\n');
	}
	free(table->rows);
	*table = (struct ctl_table){.columns = table->columns};
}
