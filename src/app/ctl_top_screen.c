/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The screen of berth top, by curses. Only the rows that are visible are formatted and drawn, so what a picture costs
 * depends on the size of the terminal alone. Everything is drawn within the present size, whatever it is.
 *
 *   header  header  header  views  titles  rows ...  keys (or the filter being typed, or what went wrong)
 */
#include <curses.h>
#include <errno.h>
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "app/ctl_top.h"
#include "base/check.h"

#define LINE_VIEWS TOP_HEADER_LINES
#define LINE_TITLES (TOP_HEADER_LINES + 1)
#define LINE_ROWS (TOP_HEADER_LINES + 2)
#define GAP 2
#define NAME_WIDTH_MAX 48
#define BAR_WIDTH 14
#define ESCAPE_MS 50

enum { PAIR_ACCENT = 1, PAIR_WARM, PAIR_HOT, PAIR_CALM, PAIRS };

static SCREEN *screen;

/* ---- Life ---- */

static void
start_colours(void)
{
	static const short colours[PAIRS] = {
		[PAIR_ACCENT] = COLOR_CYAN,
		[PAIR_WARM] = COLOR_YELLOW,
		[PAIR_HOT] = COLOR_RED,
		[PAIR_CALM] = COLOR_GREEN,
	};

	if (has_colors() && start_color() == OK) {
		use_default_colors();
		for (short i = PAIR_ACCENT; i < PAIRS; i++) {
			init_pair(i, colours[i], -1);
		}
	}
}

int
top_screen_start(void)
{
	const char *term = getenv("TERM");

	setlocale(LC_CTYPE, "");
	screen = newterm(NULL, stdout, stdin);
	if (screen == NULL) {
		fprintf(stderr,
			"berth top: the terminal type '%s' cannot show it; --once prints it as "
			"text\n",
			term != NULL ? term : "");
		return -ENOTTY;
	}
	start_colours();
	cbreak();
	noecho();
	nonl();
	keypad(stdscr, TRUE);
	set_escdelay(ESCAPE_MS);
	curs_set(0);
	leaveok(stdscr, TRUE);
	return 0;
}

void
top_screen_stop(void)
{
	if (screen != NULL) {
		endwin();
		delscreen(screen);
		screen = NULL;
	}
}

int
top_screen_key(int timeout_ms)
{
	timeout(timeout_ms);
	return getch();
}

/* ---- Pieces ---- */

static int
colour(int pair)
{
	return has_colors() ? COLOR_PAIR(pair) : 0;
}

/* At most width columns, padded to them; 0: to the end of the line. */
static void
put(int y, int x, int width, bool right, attr_t attributes, const char *text)
{
	char clean[1024];
	int room = COLS - x, columns;

	if (y < 0 || y >= LINES || room <= 0) {
		return;
	}
	width = width <= 0 ? room : MIN(width, room);
	columns = top_clean(text, width, clean, sizeof(clean));
	attrset(attributes);
	mvprintw(y, x, "%*s%s%*s", right ? width - columns : 0, "", clean,
		 right ? 0 : width - columns, "");
	attrset(A_NORMAL);
}

/* ---- Columns that fit ---- */

struct layout {
	int widths[TOP_COLUMNS_MAX]; /* 0: left out */
	bool bar;                    /* there is room for bars behind percentages */
};

static int
needed(const struct layout *l, unsigned count)
{
	int sum = 0;

	for (unsigned c = 0; c < count; c++) {
		sum += l->widths[c] > 0 ? l->widths[c] + GAP : 0;
	}
	return sum - GAP;
}

static void
leave_one_out(struct layout *l, const struct top_view_info *view)
{
	unsigned least = 0;

	for (unsigned c = 1; c < view->column_count; c++) {
		if (l->widths[c] > 0 &&
		    (least == 0 || view->columns[c].worth < view->columns[least].worth)) {
			least = c;
		}
	}
	l->widths[least] = 0;
}

/* The first column, a name, takes what is left. */
static void
grow_name(struct layout *l, const struct top_view_info *view, const struct top_rows *rows,
	  size_t first, size_t page)
{
	int longest = l->widths[0], room = COLS - needed(l, view->column_count);

	if (view->columns[0].kind != TOP_TEXT) {
		return;
	}
	for (size_t i = first; i < MIN(first + page, rows->shown_count); i++) {
		int length = top_columns(rows->shown[i]->cells[0].text);

		longest = MAX(longest, length);
	}
	longest = MIN(longest, NAME_WIDTH_MAX);
	l->widths[0] += MAX(0, MIN(longest - l->widths[0], room));
}

/* At least its title and the mark of the order; half of a mode would be another one. */
static int
whole_width(const struct top_column *column, unsigned c, const struct top_rows *rows)
{
	int width = MAX(column->width, (int)strlen(column->title) + 1);
	bool whole = strcmp(column->key, "mode") == 0;

	for (size_t i = 0; whole && i < rows->shown_count; i++) {
		width = MAX(width, top_columns(rows->shown[i]->cells[c].text));
	}
	return width;
}

static struct layout
lay_out(const struct top_view_info *view, const struct top_rows *rows, size_t first, size_t page)
{
	struct layout l = {.bar = false};

	for (unsigned c = 0; c < view->column_count; c++) {
		l.widths[c] = whole_width(&view->columns[c], c, rows);
	}
	for (unsigned c = 1; c < view->column_count && needed(&l, view->column_count) > COLS; c++) {
		leave_one_out(&l, view);
	}
	grow_name(&l, view, rows, first, page);
	l.bar = rows->view != TOP_CONTROLLERS &&
		needed(&l, view->column_count) + 2 * (BAR_WIDTH + 1) <= COLS;
	return l;
}

static int
width_of(const struct layout *l, const struct top_view_info *view, unsigned column)
{
	return l->widths[column] +
	       (l->bar && view->columns[column].kind == TOP_PERCENT ? BAR_WIDTH + 1 : 0);
}

/* ---- Table ---- */

static void
draw_titles(const struct top_ui *ui, const struct top_view_info *view, const struct layout *l)
{
	int x = 0;

	put(LINE_TITLES, 0, 0, false, A_REVERSE, "");
	for (unsigned c = 0; c < view->column_count; c++) {
		const struct top_column *column = &view->columns[c];
		bool sorted = ui->sort[ui->view] == c;
		char title[32];

		if (l->widths[c] == 0) {
			continue;
		}
		snprintf(title, sizeof(title), "%s%s", column->title,
			 !sorted                    ? ""
			 : ui->descending[ui->view] ? "v"
						    : "^");
		put(LINE_TITLES, x, l->widths[c], column->kind != TOP_TEXT,
		    sorted ? A_REVERSE | A_BOLD | A_UNDERLINE : A_REVERSE, title);
		x += width_of(l, view, c) + GAP;
	}
}

static attr_t
look(const struct top_column *column, const struct top_cell *cell, bool first, bool is_error)
{
	if (first) {
		return A_BOLD;
	}
	if (cell->text != NULL) {
		return strcmp(cell->text, "GONE") == 0 ? A_BOLD | (attr_t)colour(PAIR_HOT)
						       : A_NORMAL;
	}
	if (isnan(cell->number) || cell->number == 0) {
		return A_DIM;
	}
	if (is_error || (column->kind == TOP_PERCENT && cell->number >= 90)) {
		return (attr_t)colour(PAIR_HOT);
	}
	return column->kind == TOP_PERCENT && cell->number >= 60 ? (attr_t)colour(PAIR_WARM)
								 : A_NORMAL;
}

static void
draw_bar(int y, int x, double percent)
{
	int full = (int)(percent * (BAR_WIDTH - 2) / 100.0 + 0.5);
	attr_t attributes = (attr_t)colour(percent >= 90   ? PAIR_HOT
					   : percent >= 60 ? PAIR_WARM
							   : PAIR_CALM);
	char bar[BAR_WIDTH + 1];

	put(y, x, BAR_WIDTH, false, A_DIM, "[            ]");
	memset(bar, '|', sizeof(bar));
	bar[MIN(full, BAR_WIDTH - 2)] = '\0';
	if (full > 0) {
		put(y, x + 1, full, false, attributes, bar);
	}
}

static void
draw_row(int y, const struct top_view_info *view, const struct layout *l, const struct top_row *row)
{
	int x = 0;

	for (unsigned c = 0; c < view->column_count; c++) {
		const struct top_column *column = &view->columns[c];
		const struct top_cell *cell = &row->cells[c];
		char text[TOP_TEXT_BYTES];

		if (l->widths[c] == 0) {
			continue;
		}
		put(y, x, l->widths[c], column->kind != TOP_TEXT,
		    look(column, cell, c == 0, strcmp(column->key, "errors") == 0),
		    top_cell_text(column, cell, text));
		if (l->bar && column->kind == TOP_PERCENT && !isnan(cell->number)) {
			draw_bar(y, x + l->widths[c] + 1, cell->number);
		}
		x += width_of(l, view, c) + GAP;
	}
}

static void
draw_table(struct top_ui *ui, const struct top_rows *rows)
{
	const struct top_view_info *view = &top_views[rows->view];
	size_t last;
	struct layout l;

	ui->count = rows->shown_count;
	ui->page = (size_t)MAX(1, LINES - LINE_ROWS - 1);
	last = ui->count > ui->page ? ui->count - ui->page : 0;
	ui->first = MIN(ui->first, last);
	l = lay_out(view, rows, ui->first, ui->page);
	draw_titles(ui, view, &l);
	for (size_t i = 0; i < ui->page && ui->first + i < ui->count; i++) {
		draw_row(LINE_ROWS + (int)i, view, &l, rows->shown[ui->first + i]);
	}
	if (ui->count == 0) {
		put(LINE_ROWS + 1, 2, 0, false, A_DIM,
		    ui->filter[0] != '\0' ? "nothing has that in it (Esc clears the filter)"
					  : "there are none");
	}
}

/* ---- Frame ---- */

static void
draw_header(const struct top_ui *ui, const json_t *snapshot, const struct top_totals *totals)
{
	char text[TOP_HEADER_BYTES], clock[64], right[96];
	time_t now = time(NULL);
	struct tm tm;

	for (unsigned i = 0; i < TOP_HEADER_LINES; i++) {
		top_header_text(i, snapshot, totals, text);
		put((int)i, 0, 0, false, i == 0 ? A_BOLD | (attr_t)colour(PAIR_ACCENT) : A_NORMAL,
		    text);
	}
	strftime(clock, sizeof(clock), "%H:%M:%S", localtime_r(&now, &tm));
	snprintf(right, sizeof(right), "  %s  %s", ui->paused ? "PAUSED" : "", clock);
	if (COLS > 90) {
		put(0, COLS - (int)strlen(right), 0, true, A_BOLD, right);
	}
}

static void
draw_views(const struct top_ui *ui, const struct top_rows *rows)
{
	char text[160];
	int x = 0;

	put(LINE_VIEWS, 0, 0, false, A_NORMAL, "");
	for (int i = 0; i < TOP_VIEWS; i++) {
		snprintf(text, sizeof(text), " %d %s ", i + 1, top_views[i].name);
		put(LINE_VIEWS, x, (int)strlen(text), false,
		    (int)ui->view == i ? A_REVERSE | A_BOLD : A_DIM, text);
		x += (int)strlen(text) + 1;
	}
	text[0] = '\0';
	if (ui->filter[0] != '\0') {
		snprintf(text, sizeof(text), "  filter \"%s\": %zu of %zu", ui->filter,
			 rows->shown_count, rows->count);
	} else if (rows->shown_count > ui->page) {
		snprintf(text, sizeof(text), "  %zu to %zu of %zu", ui->first + 1,
			 MIN(ui->first + ui->page, rows->shown_count), rows->shown_count);
	}
	put(LINE_VIEWS, x, 0, false, A_NORMAL, text);
}

static void
draw_footer(const struct top_ui *ui, const char *trouble)
{
	char text[TOP_FILTER_BYTES + 96];

	if (ui->typing) {
		snprintf(text, sizeof(text), "filter: %s_   Enter keeps it, Esc does not",
			 ui->filter);
		put(LINES - 1, 0, 0, false, A_BOLD | (attr_t)colour(PAIR_ACCENT), text);
	} else if (trouble != NULL) {
		put(LINES - 1, 0, 0, false, A_BOLD | (attr_t)colour(PAIR_HOT), trouble);
	} else {
		snprintf(text, sizeof(text),
			 "q quit  h help  1-3 Tab view  < > sort  r reverse  / filter  p pause  + "
			 "- every %.3g s",
			 ui->delay_s);
		put(LINES - 1, 0, 0, false, A_DIM, text);
	}
}

/* ---- Help ---- */

static const char *const help_keys[] = {
	"1 2 3, Tab     controllers, threads, cores",
	"< >, arrows    order by the column to the left, to the right",
	"r              the other way round",
	"/              show only what has a text in it; Esc shows all again",
	"up down, PgUp PgDn, Home End",
	"+ -            half as often, twice as often",
	"p, space       pause; ask now",
	"q, Ctrl-C      end",
};

#define HELP_HEADINGS 3 /* two, and an empty line between */

static void
draw_help_line(const struct top_view_info *view, size_t line, int y)
{
	const attr_t heading = A_BOLD | (attr_t)colour(PAIR_ACCENT);
	char text[160];

	if (line == 0) {
		put(y, 0, 0, false, heading, "berth top: keys");
	} else if (line <= ARRAY_SIZE(help_keys)) {
		put(y, 2, 0, false, A_NORMAL, help_keys[line - 1]);
	} else if (line == ARRAY_SIZE(help_keys) + 2) {
		put(y, 0, 0, false, heading, "columns of this view");
	} else if (line > ARRAY_SIZE(help_keys) + 2) {
		const struct top_column *column = &view->columns[line - ARRAY_SIZE(help_keys) - HELP_HEADINGS];

		snprintf(text, sizeof(text), "%-11s    %s", column->title, column->help);
		put(y, 2, 0, false, A_NORMAL, text);
	}
}

static void
draw_help(struct top_ui *ui)
{
	const struct top_view_info *view = &top_views[ui->view];
	char text[160] = "any key goes back";

	ui->help_count = ARRAY_SIZE(help_keys) + HELP_HEADINGS + view->column_count;
	ui->help_page = (size_t)MAX(1, LINES - 1);
	ui->help_first = MIN(ui->help_first, ui->help_count > ui->help_page ? ui->help_count - ui->help_page : 0);
	for (size_t i = 0; i < ui->help_page && ui->help_first + i < ui->help_count; i++) {
		draw_help_line(view, ui->help_first + i, (int)i);
	}
	if (ui->help_count > ui->help_page) {
		snprintf(text, sizeof(text), "up down PgUp PgDn: %zu to %zu of %zu lines; any other key goes back",
			 ui->help_first + 1, MIN(ui->help_first + ui->help_page, ui->help_count), ui->help_count);
	}
	put(LINES - 1, 0, 0, false, A_DIM, text);
}

void
top_screen_draw(struct top_ui *ui, const json_t *snapshot, const struct top_totals *totals,
		const struct top_rows *rows, const char *trouble)
{
	erase();
	if (ui->help) {
		draw_help(ui);
	} else {
		draw_header(ui, snapshot, totals);
		draw_table(ui, rows);
		draw_views(ui, rows);
		draw_footer(ui, trouble);
	}
	refresh();
}
