/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * berth top, what its files share: the model (two snapshots become rows), the keys, and what is drawn or printed of them.
 * One system thread. The model and the keys know neither the target nor a terminal.
 */
#ifndef APP_CTL_TOP_H
#define APP_CTL_TOP_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* ---- Model (ctl_top_model.c) ---- */

enum top_view { TOP_CONTROLLERS, TOP_THREADS, TOP_CORES, TOP_VIEWS };

enum top_kind {
	TOP_TEXT,
	TOP_WHOLE,
	TOP_RATE,   /* a second */
	TOP_MBYTES, /* 10^6 bytes a second */
	TOP_PERCENT,
	TOP_LATENCY_US,
};

struct top_column {
	const char *title;
	const char *key; /* in JSON, and after --sort */
	enum top_kind kind;
	int width;
	int worth; /* those of the least worth are left out first where the screen is narrow */
	const char *help;
};

#define TOP_COLUMNS_MAX 16
#define TOP_OWN_BYTES 64

struct top_view_info {
	const char *name;
	const struct top_column *columns;
	unsigned column_count;
	unsigned sort; /* column, unless somebody says otherwise */
	bool descending;
};

extern const struct top_view_info top_views[TOP_VIEWS];

/* Text of TOP_TEXT columns, number of all others; NAN: not known. */
struct top_cell {
	double number;
	const char *text;
};

struct top_row {
	struct top_cell cells[TOP_COLUMNS_MAX];
	char own[TOP_OWN_BYTES]; /* of a text that is nowhere else */
};

/* Texts are borrowed from the snapshot `after`. */
struct top_rows {
	enum top_view view;
	struct top_row *rows;
	size_t count;
	struct top_row **shown; /* that pass the filter, in order */
	size_t shown_count;
};

struct top_totals {
	bool first; /* nothing to compare with: rates are NAN */
	double seconds, cpu, reads, writes, others, read_mb, write_mb, latency_us, wakeups,
		inflight;
};

/*
 * A snapshot: an object of `time_ns` (of this process), `status` (berth_status), `reactors`
 * (framework_get_reactors), `threads` (thread_get_stats), `controllers` (an object: name to element of vhost_get_stats).
 */

/* `known` with what changed: elements of vhost_get_stats take the place of those of the same name. New reference. */
json_t *top_merge(const json_t *known, const json_t *answer);

/* What happened from one snapshot to the other; before NULL, or of another process of the target: rates are NAN.
 * 0 or -ENOMEM. */
int top_rows_make(struct top_rows *rows, enum top_view view, const json_t *before,
		  const json_t *after);
void top_rows_free(struct top_rows *rows);
struct top_totals top_totals_make(const json_t *before, const json_t *after);

/* Shows those of whose texts one has filter in it (letters of either case; NULL or "": all), in order of a column. */
void top_rows_arrange(struct top_rows *rows, unsigned column, bool descending, const char *filter);

/* Column of a view by key, -1 when there is none. */
int top_column_find(enum top_view view, const char *key);

/* ---- Text (ctl_top_text.c) ---- */

#define TOP_TEXT_BYTES 64

/* What a cell shows: a borrowed text, or number in `text`. */
const char *top_cell_text(const struct top_column *column, const struct top_cell *cell,
			  char text[static TOP_TEXT_BYTES]);
/* The lines above the table, without ends of line; 0 to TOP_HEADER_LINES - 1. */
#define TOP_HEADER_LINES 3
#define TOP_HEADER_BYTES 256
void top_header_text(unsigned line, const json_t *snapshot, const struct top_totals *totals,
		     char text[static TOP_HEADER_BYTES]);
/* A bounded copy without control characters (names are anybody's), cut at width columns. How many it has. */
int top_clean(const char *text, int width, char *ret_text, size_t size);
/* Columns that a text takes on a terminal: wide and combining characters as LC_CTYPE knows them, control characters one each. */
int top_columns(const char *text);
/* Header and table for scripts. */
void top_print(FILE *out, const json_t *snapshot, const struct top_totals *totals,
	       const struct top_rows *rows);
/* {"time_ms","totals":{},"view","rows":[{}]}. New reference. */
json_t *top_json(const json_t *snapshot, const struct top_totals *totals,
		 const struct top_rows *rows);

/* ---- Keys (ctl_top_keys.c) ---- */

#define TOP_FILTER_BYTES 64

struct top_ui {
	enum top_view view;
	unsigned sort[TOP_VIEWS];
	bool descending[TOP_VIEWS];
	char filter[TOP_FILTER_BYTES];
	char filter_before[TOP_FILTER_BYTES]; /* to go back to */
	bool typing;                          /* the filter is being typed */
	bool help;
	size_t help_first, help_page, help_count; /* its lines: at the top, that fit, that there are */
	bool paused;
	size_t first; /* row at the top */
	size_t page;  /* rows that fit, as drawn last */
	size_t count; /* rows there are */
	double delay_s;
};

enum top_action {
	TOP_NOTHING,
	TOP_REDRAW,  /* something looks different */
	TOP_REFRESH, /* ask the target now */
	TOP_QUIT,
};

void top_ui_init(struct top_ui *ui);
/* key: as getch() of curses gives it. */
enum top_action top_key(struct top_ui *ui, int key);

/* ---- Screen (ctl_top_screen.c) ---- */

/* 0, or -ENOTTY with the reason on standard error: this terminal cannot do it. */
int top_screen_start(void);
void top_screen_stop(void);
/* trouble: a line on what went wrong, or NULL. */
void top_screen_draw(struct top_ui *ui, const json_t *snapshot, const struct top_totals *totals,
		     const struct top_rows *rows, const char *trouble);
/* A key, or -1 after timeout_ms without one. */
int top_screen_key(int timeout_ms);

#endif
