/* SPDX-License-Identifier: BSD-3-Clause */
/* What the keys of berth top do. Pure: changes struct top_ui only. */
#include <curses.h>
#include <string.h>

#include "app/ctl_top.h"
#include "base/check.h"

#define KEY_ESCAPE 27
#define DELAY_MIN_S 0.1
#define DELAY_MAX_S 3600.0

void
top_ui_init(struct top_ui *ui)
{
	*ui = (struct top_ui){.view = TOP_CONTROLLERS, .delay_s = 1.0, .page = 1};
	for (unsigned i = 0; i < TOP_VIEWS; i++) {
		ui->sort[i] = top_views[i].sort;
		ui->descending[i] = top_views[i].descending;
	}
}

/* ---- The filter ---- */

static enum top_action
type_filter(struct top_ui *ui, int key)
{
	size_t len = strlen(ui->filter);

	switch (key) {
	case '\n':
	case '\r':
	case KEY_ENTER:
		ui->typing = false;
		break;
	case KEY_ESCAPE:
		ui->typing = false;
		strcpy(ui->filter, ui->filter_before);
		break;
	case KEY_BACKSPACE:
	case 127:
	case '\b':
		/* A whole character. */
		while (len > 0 && ((unsigned char)ui->filter[--len] & 0xc0) == 0x80) {
		}
		ui->filter[len] = '\0';
		break;
	case 'U' - '@': /* as the shell */
		ui->filter[0] = '\0';
		break;
	default:
		if (key < ' ' || key > 255 || len + 1 >= sizeof(ui->filter)) {
			return TOP_NOTHING;
		}
		ui->filter[len] = (char)key;
		ui->filter[len + 1] = '\0';
	}
	ui->first = 0;
	return TOP_REDRAW;
}

static enum top_action
start_filter(struct top_ui *ui)
{
	ui->typing = true;
	strcpy(ui->filter_before, ui->filter);
	return TOP_REDRAW;
}

static enum top_action
clear_filter(struct top_ui *ui)
{
	ui->filter[0] = '\0';
	ui->first = 0;
	return TOP_REDRAW;
}

/* ---- Views, order, place ---- */

static enum top_action
show_view(struct top_ui *ui, int view)
{
	ui->view = (enum top_view)((view + TOP_VIEWS) % TOP_VIEWS);
	ui->first = 0;
	return TOP_REDRAW;
}

/* A column of texts begins at A, one of numbers with the largest. */
static enum top_action
sort_by(struct top_ui *ui, int column)
{
	const struct top_view_info *view = &top_views[ui->view];
	int count = (int)view->column_count;

	ui->sort[ui->view] = (unsigned)((column + count) % count);
	ui->descending[ui->view] = view->columns[ui->sort[ui->view]].kind != TOP_TEXT;
	ui->first = 0;
	return TOP_REDRAW;
}

static enum top_action
move_to(struct top_ui *ui, size_t row)
{
	size_t last = ui->count > ui->page ? ui->count - ui->page : 0;

	ui->first = MIN(row, last);
	return TOP_REDRAW;
}

static size_t
back(const struct top_ui *ui, size_t rows)
{
	return ui->first > rows ? ui->first - rows : 0;
}

static enum top_action
change_delay(struct top_ui *ui, double factor)
{
	double delay_s = ui->delay_s * factor;

	ui->delay_s = delay_s < DELAY_MIN_S ? DELAY_MIN_S : delay_s > DELAY_MAX_S ? DELAY_MAX_S : delay_s;
	return TOP_REDRAW;
}

static enum top_action
toggle(bool *what)
{
	*what = !*what;
	return TOP_REDRAW;
}

/* ---- Help ---- */

static enum top_action
show_help(struct top_ui *ui)
{
	ui->help = true;
	ui->help_first = 0;
	return TOP_REDRAW;
}

static enum top_action
scroll_help(struct top_ui *ui, size_t line)
{
	ui->help_first = MIN(line, ui->help_count - ui->help_page);
	return TOP_REDRAW;
}

/* Where it does not fit, keys that scroll do so; any other one leaves it. */
static enum top_action
help_key(struct top_ui *ui, int key)
{
	size_t first = ui->help_first, page = ui->help_page;

	if (ui->help_count > page) {
		switch (key) {
		case KEY_DOWN: case 'j': return scroll_help(ui, first + 1);
		case KEY_UP: case 'k': return scroll_help(ui, first > 0 ? first - 1 : 0);
		case KEY_NPAGE: case ' ': return scroll_help(ui, first + page);
		case KEY_PPAGE: return scroll_help(ui, first > page ? first - page : 0);
		case KEY_HOME: case 'g': return scroll_help(ui, 0);
		case KEY_END: case 'G': return scroll_help(ui, ui->help_count);
		default: break;
		}
	}
	ui->help = false;
	return key == 'q' ? TOP_QUIT : TOP_REDRAW;
}

/* ---- Keys ---- */

enum top_action
top_key(struct top_ui *ui, int key)
{
	int sort = (int)ui->sort[ui->view];

	if (ui->typing && key != KEY_RESIZE) {
		return type_filter(ui, key);
	}
	if (ui->help && key != KEY_RESIZE) {
		return help_key(ui, key);
	}
	switch (key) {
	case 'q': case 'Q': return TOP_QUIT;
	case 'h': case '?': case KEY_F(1): return show_help(ui);
	case '1': return show_view(ui, TOP_CONTROLLERS);
	case '2': return show_view(ui, TOP_THREADS);
	case '3': return show_view(ui, TOP_CORES);
	case '\t': return show_view(ui, (int)ui->view + 1);
	case KEY_BTAB: return show_view(ui, (int)ui->view - 1);
	case KEY_RIGHT: case '>': return sort_by(ui, sort + 1);
	case KEY_LEFT: case '<': return sort_by(ui, sort - 1);
	case 'r': case 'R': return toggle(&ui->descending[ui->view]);
	case '/': return start_filter(ui);
	case KEY_ESCAPE: return clear_filter(ui);
	case KEY_DOWN: case 'j': return move_to(ui, ui->first + 1);
	case KEY_UP: case 'k': return move_to(ui, back(ui, 1));
	case KEY_NPAGE: return move_to(ui, ui->first + ui->page);
	case KEY_PPAGE: return move_to(ui, back(ui, ui->page));
	case KEY_HOME: case 'g': return move_to(ui, 0);
	case KEY_END: case 'G': return move_to(ui, ui->count);
	case '+': return change_delay(ui, 2.0);
	case '-': return change_delay(ui, 0.5);
	case 'p': return toggle(&ui->paused);
	case ' ': return TOP_REFRESH;
	case KEY_RESIZE: case 'L' - '@': return TOP_REDRAW;
	default: return TOP_NOTHING;
	}
}
