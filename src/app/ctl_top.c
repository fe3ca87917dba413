/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * berth top: asks the target again and again, and shows what happened in between; live on a terminal, as text or JSON elsewhere.
 *
 * What one refresh costs the target: four answers. All controllers are asked for at first, every FULL_EVERY refreshes, and when
 * their number or that of the connected VMs has changed; in between only those that did something (vhost_get_stats active_ms).
 * So 10,000 idle controllers cost a large answer now and then, and little otherwise: measured on a 2-core cloud VM at one
 * refresh a second, berthd 6 ms of CPU time each, this process 40 ms, most of it for that answer.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <locale.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "app/ctl.h"
#include "app/ctl_top.h"
#include "base/check.h"
#include "base/clock.h"

#define FULL_EVERY 10
#define FIRST_DELAY_S 0.3
#define LOOK_MS UINT64_C(200)
#define LIVE_TIMEOUT_S 5
#define ACTIVE_MARGIN_MS 2000

struct top {
	struct ctl *ctl;
	struct top_ui ui;
	const char *sort; /* --sort COLUMN */
	bool reverse;
	bool text;           /* although this is a terminal */
	unsigned long count; /* pictures to show; 0: without end */
	json_t *before, *after;
	unsigned refreshes;
	uint64_t asked_ns;
	uint64_t silent_ns; /* since when, on a screen, an answer is awaited; 0: the last one came */
	bool quit;
};

static volatile sig_atomic_t stopped; /* the signal */

static void
stop(int signal)
{
	stopped = signal;
}

static void
catch_signals(void)
{
	static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
	struct sigaction action = {.sa_handler = stop};

	for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
		sigaction(signals[i], &action, NULL);
	}
}

/* ---- Asking ---- */

static json_int_t
status_count(const json_t *snapshot, const char *key)
{
	return json_integer_value(json_object_get(json_object_get(snapshot, "status"), key));
}

static bool
controllers_changed(const json_t *before, const json_t *after)
{
	static const char *const keys[] = {"pid", "controllers", "sessions"};

	for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
		if (status_count(before, keys[i]) != status_count(after, keys[i])) {
			return true;
		}
	}
	return false;
}

static int
ask(struct top *top, json_t *snapshot, const char *key, const char *method)
{
	json_t *result = NULL;
	int rc = ctl_call(top->ctl, "top", method, NULL, &result, NULL);

	if (rc == CTL_OK) {
		json_object_set_new(snapshot, key, result);
	}
	return rc;
}

static int
ask_controllers(struct top *top, json_t *snapshot)
{
	uint64_t now = clock_now_ns();
	uint64_t active_ms = (now - top->asked_ns) / NS_PER_MS + ACTIVE_MARGIN_MS;
	bool all = top->after == NULL || top->refreshes % FULL_EVERY == 0 ||
		   controllers_changed(top->after, snapshot);
	json_t *result = NULL;
	int rc = ctl_call(top->ctl, "top", "vhost_get_stats",
			  all ? NULL
			      : json_pack("{s:I}", "active_ms",
					  (json_int_t)MIN(active_ms, (uint64_t)UINT32_MAX)),
			  &result, NULL);

	if (rc == CTL_OK) {
		json_object_set_new(snapshot, "time_ns", json_integer((json_int_t)clock_now_ns()));
		json_object_set_new(
			snapshot, "controllers",
			top_merge(all ? NULL : json_object_get(top->after, "controllers"), result));
		top->asked_ns = now;
	}
	json_decref(result);
	return rc;
}

/* A new snapshot becomes `after`, and that one `before`. An exit code; then nothing has changed. */
static int
refresh(struct top *top)
{
	json_t *snapshot = json_object();
	int rc = ask(top, snapshot, "status", "berth_status");

	if (rc == CTL_OK) {
		rc = ask(top, snapshot, "reactors", "framework_get_reactors");
	}
	if (rc == CTL_OK) {
		rc = ask(top, snapshot, "threads", "thread_get_stats");
	}
	if (rc == CTL_OK) {
		rc = ask_controllers(top, snapshot);
	}
	if (rc != CTL_OK) {
		json_decref(snapshot);
		return rc;
	}
	top->silent_ns = 0;
	json_decref(top->before);
	top->before = top->after;
	top->after = snapshot;
	top->refreshes++;
	return CTL_OK;
}

static void
make_rows(struct top *top, struct top_rows *rows)
{
	const struct top_ui *ui = &top->ui;

	CHECK(top_rows_make(rows, ui->view, top->before, top->after) == 0);
	top_rows_arrange(rows, ui->sort[ui->view], ui->descending[ui->view], ui->filter);
}

/* ---- Text ---- */

static void
print(struct top *top, bool another)
{
	struct top_totals totals = top_totals_make(top->before, top->after);
	struct top_rows rows;

	make_rows(top, &rows);
	if (top->ctl->json) {
		json_t *json = top_json(top->after, &totals, &rows);

		json_dumpf(json, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
		putchar('\n');
		json_decref(json);
	} else {
		printf("%s", another ? "\n" : "");
		top_print(stdout, top->after, &totals, &rows);
	}
	fflush(stdout);
	top_rows_free(&rows);
}

static void
pause_for(double seconds)
{
	struct timespec ts = {.tv_sec = (time_t)seconds,
			      .tv_nsec = (long)((seconds - (double)(time_t)seconds) * 1e9)};

	if (!stopped) {
		nanosleep(&ts, NULL);
	}
}

static int
run_text(struct top *top)
{
	unsigned long count = top->count > 0 ? top->count : top->text ? ULONG_MAX : 1;
	int rc = refresh(top);

	for (unsigned long i = 0; i < count && rc == CTL_OK && !ferror(stdout); i++) {
		pause_for(top->ui.delay_s);
		if (stopped) {
			break;
		}
		rc = refresh(top);
		if (rc == CTL_OK) {
			print(top, i > 0);
		}
	}
	return rc;
}

/* ---- Live ---- */

/* Standard error while the screen is up: what is said there is shown at its foot. */
struct words {
	int real, memory;
	char last[256];
};

static int
words_start(struct words *w)
{
	w->memory = memfd_create("berth-top", MFD_CLOEXEC);
	w->real = dup(STDERR_FILENO);
	if (w->memory < 0 || w->real < 0 || dup2(w->memory, STDERR_FILENO) < 0) {
		return -errno;
	}
	return 0;
}

static void
words_stop(struct words *w)
{
	fflush(stderr);
	dup2(w->real, STDERR_FILENO);
	close(w->real);
	close(w->memory);
}

/* What was said since the last time. */
static const char *
words_take(struct words *w)
{
	ssize_t n;

	fflush(stderr);
	n = pread(w->memory, w->last, sizeof(w->last) - 1, 0);
	w->last[n > 0 ? n : 0] = '\0';
	w->last[strcspn(w->last, "\n")] = '\0';
	if (ftruncate(w->memory, 0) == 0) {
		lseek(w->memory, 0, SEEK_SET);
	}
	return w->last;
}

static void
draw(struct top *top, const char *trouble)
{
	struct top_totals totals = top_totals_make(top->before, top->after);
	struct top_rows rows;

	make_rows(top, &rows);
	top_screen_draw(&top->ui, top->after, &totals, &rows, trouble);
	top_rows_free(&rows);
}

/* Keys until the next refresh is due. A signal that comes between two looks is seen soon. */
static enum top_action
take_keys(struct top *top, uint64_t due_ns, const char *trouble)
{
	while (!stopped) {
		uint64_t now = clock_now_ns();
		uint64_t wait_ms = now < due_ns ? (due_ns - now) / NS_PER_MS + 1 : 0;
		int key = top_screen_key((int)(top->ui.paused ? LOOK_MS : MIN(wait_ms, LOOK_MS)));
		enum top_action action = key >= 0 ? top_key(&top->ui, key) : TOP_NOTHING;

		if (action == TOP_QUIT || action == TOP_REFRESH) {
			return action;
		}
		if (action == TOP_REDRAW) {
			draw(top, trouble);
		}
		if (!top->ui.paused && clock_now_ns() >= due_ns) {
			return TOP_REFRESH;
		}
	}
	return TOP_QUIT;
}

/* A target that hangs is said to, and keys are heard while it does. */
static bool
while_waiting(void *ctx)
{
	struct top *top = ctx;
	uint64_t silent_s = (clock_now_ns() - top->silent_ns) / NS_PER_S;
	char trouble[64];
	int key;

	while ((key = top_screen_key(0)) >= 0) {
		top->quit |= top_key(&top->ui, key) == TOP_QUIT;
	}
	if (silent_s >= 1) {
		snprintf(trouble, sizeof(trouble), "berthd has not answered for %" PRIu64 " s", silent_s);
		draw(top, trouble);
	}
	top->quit |= stopped != 0;
	return !top->quit;
}

static int
run_live(struct top *top, struct words *words)
{
	uint64_t asked_ns = clock_now_ns();
	const char *trouble = NULL;
	unsigned long pictures = 0;

	draw(top, trouble);
	for (;;) {
		double delay_s =
			top->before == NULL && trouble == NULL ? FIRST_DELAY_S : top->ui.delay_s;

		if (take_keys(top, asked_ns + (uint64_t)(delay_s * NS_PER_S), trouble) ==
		    TOP_QUIT) {
			return CTL_OK;
		}
		asked_ns = clock_now_ns();
		trouble = NULL;
		if (top->silent_ns == 0) {
			top->silent_ns = asked_ns;
		}
		if (refresh(top) != CTL_OK) {
			if (top->quit) {
				return CTL_OK;
			}
			trouble = words_take(words);
			ctl_disconnect(top->ctl);
		}
		draw(top, trouble);
		if (trouble == NULL && ++pictures == top->count) {
			return CTL_OK;
		}
	}
}

/* The first answer comes before the screen: what is wrong from the start is said as by any other command. */
static int
run_screen(struct top *top)
{
	struct words words = {.real = -1, .memory = -1};
	int rc = refresh(top);

	if (rc != CTL_OK) {
		return rc;
	}
	if (top->ctl->timeout_s == CTL_TIMEOUT_S) {
		top->ctl->timeout_s =
			LIVE_TIMEOUT_S; /* nobody waits a minute for a key to be heard */
	}
	if (top_screen_start() != 0) {
		return CTL_USAGE;
	}
	top->ctl->waiting = while_waiting;
	top->ctl->waiting_ctx = top;
	if (words_start(&words) == 0) {
		rc = run_live(top, &words);
	}
	top_screen_stop();
	words_stop(&words);
	return rc;
}

/* ---- Command line ---- */

static int
take_seconds(struct top *top, const char *text)
{
	char *end;
	double seconds = strtod(text, &end);

	if (end == text || *end != '\0' || !(seconds >= 0.1 && seconds <= 3600)) {
		return ctl_usage("top", "the delay is '%s', but must be 0.1 to 3600 seconds", text);
	}
	top->ui.delay_s = seconds;
	return CTL_OK;
}

static int
take_count(struct top *top, const char *text)
{
	char *end;

	errno = 0;
	top->count = strtoul(text, &end, 10);
	if (errno != 0 || text[0] < '0' || text[0] > '9' || *end != '\0' || top->count == 0) {
		return ctl_usage("top", "-n is '%s', but must be a number from 1 on", text);
	}
	return CTL_OK;
}

static int
take_view(struct top *top, const char *text)
{
	for (int i = 0; i < TOP_VIEWS; i++) {
		if (strcmp(text, top_views[i].name) == 0) {
			top->ui.view = (enum top_view)i;
			return CTL_OK;
		}
	}
	return ctl_usage("top", "the view is '%s', but must be controllers, threads or cores",
			 text);
}

static int
take_sort(struct top *top, const char *text)
{
	enum top_view view = top->ui.view;
	int column = top_column_find(view, text);

	if (column < 0) {
		char known[256] = "";

		for (unsigned i = 0; i < top_views[view].column_count; i++) {
			size_t len = strlen(known);

			snprintf(known + len, sizeof(known) - len, "%s%s", i > 0 ? ", " : "",
				 top_views[view].columns[i].key);
		}
		return ctl_usage("top", "there is no column '%s'; of %s there are %s", text,
				 top_views[view].name, known);
	}
	top->ui.sort[view] = (unsigned)column;
	top->ui.descending[view] = top_views[view].columns[column].kind != TOP_TEXT;
	return CTL_OK;
}

static int
take_options(struct top *top, int *argc, char **argv)
{
	const char *count = NULL, *seconds = NULL, *view = NULL, *sort = NULL, *filter = NULL;
	int rc = CTL_OK;

	if (ctl_take_option(argc, argv, "-n", &count) < 0 ||
	    ctl_take_option(argc, argv, "-d", &seconds) < 0 ||
	    ctl_take_option(argc, argv, "--count", &count) < 0 ||
	    ctl_take_option(argc, argv, "--delay", &seconds) < 0 ||
	    ctl_take_option(argc, argv, "--view", &view) < 0 ||
	    ctl_take_option(argc, argv, "--sort", &sort) < 0 ||
	    ctl_take_option(argc, argv, "--filter", &filter) < 0) {
		return CTL_USAGE;
	}
	top->text = ctl_take_option(argc, argv, "--text", NULL) == 1;
	if (ctl_take_option(argc, argv, "--once", NULL) == 1) {
		top->text = true;
		top->count = 1;
	}
	top->reverse = ctl_take_option(argc, argv, "--reverse", NULL) == 1;
	rc = count != NULL ? take_count(top, count) : CTL_OK;
	if (rc == CTL_OK && seconds != NULL) {
		rc = take_seconds(top, seconds);
	}
	if (rc == CTL_OK && view != NULL) {
		rc = take_view(top, view);
	}
	if (rc == CTL_OK && sort != NULL) {
		rc = take_sort(top, sort);
	}
	if (rc == CTL_OK && filter != NULL && strlen(filter) >= sizeof(top->ui.filter)) {
		return ctl_usage("top", "the filter is longer than %zu bytes",
				 sizeof(top->ui.filter) - 1);
	}
	if (rc == CTL_OK && filter != NULL) {
		strcpy(top->ui.filter, filter);
	}
	top->ui.descending[top->ui.view] ^= top->reverse;
	return rc == CTL_OK ? ctl_check_arguments("top", *argc, argv, 0, 0) : rc;
}

int
ctl_top(struct ctl *ctl, int argc, char **argv)
{
	struct top top = {.ctl = ctl};
	int rc;

	top_ui_init(&top.ui);
	rc = take_options(&top, &argc, argv);
	if (rc != CTL_OK) {
		return rc;
	}
	catch_signals();
	/* For the width of characters: text is UTF-8 whatever the environment says. The screen asks the environment. */
	setlocale(LC_CTYPE, "C.UTF-8");
	if (top.text || ctl->json || !isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO)) {
		rc = run_text(&top);
	} else {
		rc = run_screen(&top);
	}
	json_decref(top.before);
	json_decref(top.after);
	return rc;
}
