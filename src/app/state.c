/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Invariants
 *  1. At most one job is with the worker (`phase`), so the log's descriptors change only while none
 *     is.
 *  2. Lines appended and not handed to a sync are `dirty`; then the timer is running or a job is
 *     under way, at whose end it is looked at. Nothing runs while nothing is dirty: an idle berthd
 *     makes no wake-ups.
 *  3. The log always says: the live configuration and the lost entries.
 *
 * Rejected: fsync before each answer (a second of delay is what was promised; a burst of calls
 * would take seconds).
 */
#include "app/state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/state_log.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"

#define STATE_SYNC_DELAY_US (NS_PER_S / NS_PER_US / 2)
/* The log is written anew when it has so many times the lines that are needed, and so many more. */
#define STATE_GROWTH 4
#define STATE_GROWTH_LINES 1000

enum phase { IDLE, SYNCING, WRITING_NEW, SYNCING_NEW };

struct lost {
	struct list link;
	json_t *call; /* NULL: a line that could not be read */
	char *line;
	char *where;
	char *why;
};

struct state {
	char *dir;
	struct worker *worker;
	json_t *(*live)(void);
	struct state_log *log;
	bool empty;
	json_t *calls;
	struct list lost;
	size_t needed_lines; /* when the log was written anew last */

	enum phase phase;
	struct worker_job job;
	int job_status;
	char *new_text;
	size_t new_bytes;
	bool dirty;
	bool sync_failed; /* and was logged */
	struct timer timer;

	void (*restored)(void *ctx, int status);
	void *restored_ctx;
	void (*closed)(void *ctx);
	void *closed_ctx;
};

/* Families of calls on one kind of object, and the parameter that names it. */
static const struct family {
	const char *prefix;
	const char *key;
} families[] = {
	{"bdev_null_", "name"},  {"bdev_malloc_", "name"}, {"bdev_aio_", "name"},
	{"bdev_uring_", "name"}, {"vhost_", "ctrlr"},      {"berth_disk_", "name"},
};

/* ---- Lost entries ---- */

static bool
call_is(const json_t *call, const char *family, const char *key, const char *name)
{
	const char *method = json_string_value(json_object_get(call, "method"));
	const char *value =
		json_string_value(json_object_get(json_object_get(call, "params"), key));

	return method != NULL && value != NULL && strncmp(method, family, strlen(family)) == 0 &&
	       strcmp(value, name) == 0;
}

static void
lost_free(struct lost *lost)
{
	list_remove(&lost->link);
	json_decref(lost->call);
	free(lost->line);
	free(lost->where);
	free(lost->why);
	free(lost);
}

static char *
call_line(const char *method, const json_t *params)
{
	json_t *call = params != NULL ? json_pack("{s:s, s:O}", "method", method, "params",
						  (json_t *)params)
				      : json_pack("{s:s}", "method", method);
	char *line = call != NULL ? json_dumps(call, JSON_COMPACT) : NULL;

	json_decref(call);
	return line;
}

/* Takes line. An entry is never dropped in silence: out of memory ends the process before the
 * log is written anew. */
static void
add_lost(struct state *s, json_t *call, char *line, const char *where, const char *why)
{
	struct lost *lost = calloc(1, sizeof(*lost));

	CHECK(lost != NULL && line != NULL);
	lost->call = json_incref(call);
	lost->line = line;
	lost->where = strdup(where);
	lost->why = strdup(why);
	CHECK(lost->where != NULL && lost->why != NULL);
	list_append(&s->lost, &lost->link);
}

bool
state_forget(struct state *s, const char *family, const char *key, const char *name)
{
	struct lost *lost, *next;
	bool found = false;

	LIST_FOREACH_SAFE (lost, next, &s->lost, link) {
		if (lost->call != NULL && call_is(lost->call, family, key, name)) {
			LOG_NOTICE(STATE, lost->where, "forgotten: %s", lost->line);
			lost_free(lost);
			found = true;
		}
	}
	return found;
}

/* ---- Reading the log ---- */

static void
read_line(struct state *s, const char *line, size_t bytes, unsigned number)
{
	json_error_t error;
	json_t *call = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, &error);
	json_t *params = json_object_get(call, "params");
	char where[64];

	snprintf(where, sizeof(where), "%s line %u", STATE_LOG_FILE, number);
	if (!json_is_string(json_object_get(call, "method")) ||
	    (params != NULL && !json_is_object(params))) {
		add_lost(s, NULL, strndup(line, bytes), where,
			 call == NULL ? error.text : "not an object with method and params");
		json_decref(call);
		return;
	}
	json_object_set_new(call, "where", json_string(where));
	json_array_append_new(s->calls, call);
}

static const struct family *
family_of(const char *method)
{
	for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
		if (strncmp(method, families[i].prefix, strlen(families[i].prefix)) == 0) {
			return &families[i];
		}
	}
	return NULL;
}

static bool
is_delete(const char *method)
{
	return family_of(method) != NULL && strstr(method, "_delete") != NULL;
}

static bool
is_create(const char *method)
{
	return family_of(method) != NULL && strstr(method, "_create") != NULL;
}

/* What a create takes the place of: bdevs of all kinds share their names. */
static const char *
rival_prefix(const struct family *family)
{
	return strncmp(family->prefix, "bdev_", strlen("bdev_")) == 0 ? "bdev_" : family->prefix;
}

/* Removes the calls before *index that are about the same object; how many there were. */
static size_t
remove_earlier(struct state *s, size_t *index, const char *prefix, const char *key,
	       const char *name)
{
	size_t removed = 0;

	for (size_t k = *index; k-- > 0;) {
		if (call_is(json_array_get(s->calls, k), prefix, key, name)) {
			json_array_remove(s->calls, k);
			removed++;
		}
	}
	*index -= removed;
	return removed;
}

/*
 * Leaves out a delete and the calls before it on its object; a delete that has none of these stays:
 * what made its object is of another family. A second create means that the first had failed, or
 * its object was lost: the first is left out.
 */
static void
leave_out_superseded(struct state *s)
{
	json_t *seen = json_object(); /* objects that were made: most creates need no search */

	for (size_t i = 0; i < json_array_size(s->calls); i++) {
		const json_t *call = json_array_get(s->calls, i);
		const char *method = json_string_value(json_object_get(call, "method"));
		const struct family *family = family_of(method);
		const char *name = family == NULL
					   ? NULL
					   : json_string_value(json_object_get(
						     json_object_get(call, "params"), family->key));
		char object[512];

		if (name == NULL) {
			continue;
		}
		snprintf(object, sizeof(object), "%s%s", rival_prefix(family), name);
		if (is_create(method)) {
			if (json_object_get(seen, object) != NULL) {
				remove_earlier(s, &i, rival_prefix(family), family->key, name);
			}
			json_object_set_new(seen, object, json_true());
		} else if (is_delete(method) && json_object_get(seen, object) != NULL &&
			   remove_earlier(s, &i, family->prefix, family->key, name) > 0) {
			json_array_remove(s->calls, i--);
		}
	}
	json_decref(seen);
}

static void
read_lines(struct state *s)
{
	size_t bytes;
	const char *text = state_log_text(s->log, &bytes);
	const char *end = text + bytes;
	unsigned number = 2; /* the header is line 1 */

	s->empty = bytes == 0;
	while (text < end) {
		const char *newline = memchr(text, '\n', (size_t)(end - text));

		CHECK(newline != NULL); /* open cut the tail off */
		read_line(s, text, (size_t)(newline - text), number++);
		text = newline + 1;
	}
	leave_out_superseded(s);
}

int
state_open(const struct state_options *options, struct state **ret_state, struct err *err)
{
	struct state *s = calloc(1, sizeof(*s));
	size_t cut = 0;
	int rc;

	if (s == NULL) {
		return err_set(err, -ENOMEM, "state: out of memory");
	}
	list_init(&s->lost);
	s->worker = options->worker;
	s->live = options->live;
	s->dir = strdup(options->dir);
	s->calls = json_array();
	if (s->dir == NULL || s->calls == NULL) {
		rc = err_set(err, -ENOMEM, "state: out of memory");
	} else {
		rc = state_log_open(options->dir, &s->log, &cut, err);
	}
	if (rc != 0) {
		json_decref(s->calls);
		free(s->dir);
		free(s);
		return rc;
	}
	if (cut > 0) {
		LOG_WARNING(STATE, s->dir, "cut %zu bytes of an unfinished line off the end of %s",
			    cut, STATE_LOG_FILE);
	}
	read_lines(s);
	*ret_state = s;
	return 0;
}

bool
state_empty(const struct state *s)
{
	return s->empty;
}

json_t *
state_calls(struct state *s)
{
	return s->calls;
}

void
state_call_failed(struct state *s, size_t index, const char *why)
{
	json_t *call = json_array_get(s->calls, index);

	/* What was to be deleted is not there: fine. */
	if (is_delete(json_string_value(json_object_get(call, "method")))) {
		LOG_INFO(STATE, json_string_value(json_object_get(call, "where")), "left out: %s",
			 why);
		return;
	}
	add_lost(s, call,
		 call_line(json_string_value(json_object_get(call, "method")),
			   json_object_get(call, "params")),
		 json_string_value(json_object_get(call, "where")), why);
}

/* ---- The log written anew ---- */

struct text {
	char *data;
	size_t bytes;
	size_t room;
	size_t lines;
	bool failed;
};

static void
text_add(struct text *t, const char *line)
{
	size_t len = line != NULL ? strlen(line) : 0;
	char *data;

	if (line == NULL || t->failed) {
		t->failed = true;
		return;
	}
	if (t->bytes + len + 1 > t->room) {
		size_t room = MAX(2 * t->room, t->bytes + len + 1);

		data = realloc(t->data, room);
		if (data == NULL) {
			t->failed = true;
			return;
		}
		t->data = data;
		t->room = room;
	}
	memcpy(t->data + t->bytes, line, len);
	t->data[t->bytes + len] = '\n';
	t->bytes += len + 1;
	t->lines++;
}

/* The lines that the log needs: live configuration, then lost entries. */
static int
needed_text(struct state *s, struct text *ret_text)
{
	json_t *live = s->live(), *call;
	struct text t = {0};
	struct lost *lost;
	size_t i;

	t.failed = live == NULL;
	json_array_foreach (live, i, call) {
		char *line = call_line(json_string_value(json_object_get(call, "method")),
				       json_object_get(call, "params"));

		text_add(&t, line);
		free(line);
	}
	LIST_FOREACH (lost, &s->lost, link) {
		text_add(&t, lost->line);
	}
	json_decref(live);
	if (t.failed) {
		free(t.data);
		return -ENOMEM;
	}
	*ret_text = t;
	return 0;
}

static void job_done(struct worker_job *job);

static void
sync_job(struct worker_job *job)
{
	struct state *s = CONTAINER_OF(job, struct state, job);

	s->job_status = state_log_sync(s->log);
}

static void
write_new_job(struct worker_job *job)
{
	struct state *s = CONTAINER_OF(job, struct state, job);

	s->job_status = state_log_new_write(s->log, s->new_text, s->new_bytes);
}

static void
submit(struct state *s, enum phase phase)
{
	CHECK(s->phase == IDLE || s->job_status == 0);
	s->phase = phase;
	worker_submit(s->worker, &s->job, phase == WRITING_NEW ? write_new_job : sync_job,
		      job_done);
}

static void
start_sync(struct state *s)
{
	timer_stop(&s->timer);
	s->dirty = false;
	submit(s, SYNCING);
}

/* Takes the text. */
static void
start_new(struct state *s, struct text *t)
{
	s->new_text = t->data;
	s->new_bytes = t->bytes;
	s->needed_lines = t->lines;
	state_log_new_begin(s->log);
	submit(s, WRITING_NEW);
}

static void
on_timer(struct timer *timer)
{
	struct state *s = CONTAINER_OF(timer, struct state, timer);

	if (s->phase == IDLE) {
		start_sync(s);
	}
}

static void
set_dirty(struct state *s)
{
	if (!s->dirty) {
		s->dirty = true;
		if (s->phase == IDLE &&
		    timer_start(&s->timer, STATE_SYNC_DELAY_US, on_timer) != 0) {
			start_sync(s);
		}
	}
}

static void
finish_restored(struct state *s, int status)
{
	void (*done)(void *ctx, int status) = s->restored;

	s->restored = NULL;
	if (done != NULL) {
		done(s->restored_ctx, status);
	}
}

static void
new_failed(struct state *s, int status)
{
	state_log_new_abort(s->log);
	if (status != -ECANCELED) {
		LOG_ERROR(STATE, s->dir, "cannot write %s: %s", STATE_LOG_NEW_FILE,
			  strerror(-status));
	}
	finish_restored(s, status);
}

static void
release(struct state *s)
{
	void (*closed)(void *ctx) = s->closed;
	void *ctx = s->closed_ctx;
	struct lost *lost, *next;

	LIST_FOREACH_SAFE (lost, next, &s->lost, link) {
		lost_free(lost);
	}
	timer_stop(&s->timer);
	state_log_close(s->log);
	json_decref(s->calls);
	free(s->dir);
	free(s);
	closed(ctx);
}

/* No job is under way any more: what is to be done next. */
static void
idle(struct state *s)
{
	s->phase = IDLE;
	if (s->closed != NULL) {
		if (s->dirty) {
			start_sync(s);
		} else {
			release(s);
		}
	} else if (s->dirty) {
		s->dirty = false;
		set_dirty(s);
	}
}

static void
job_done(struct worker_job *job)
{
	struct state *s = CONTAINER_OF(job, struct state, job);
	int rc = s->job_status;

	switch (s->phase) {
	case WRITING_NEW:
		free(s->new_text);
		s->new_text = NULL;
		if (rc == 0) {
			rc = state_log_new_follow(s->log);
		}
		if (rc == 0) {
			submit(s, SYNCING_NEW);
			return;
		}
		new_failed(s, rc);
		break;
	case SYNCING_NEW:
		if (rc == 0) {
			rc = state_log_new_commit(s->log);
		}
		if (rc != 0) {
			new_failed(s, rc);
			break;
		}
		/* The rename, too, belongs on the disk. */
		s->dirty = false;
		submit(s, SYNCING);
		return;
	default:
		if (rc != 0 && !s->sync_failed) {
			LOG_ERROR(STATE, s->dir, "cannot sync %s: %s", STATE_LOG_FILE,
				  strerror(-rc));
		}
		s->sync_failed = rc != 0;
		finish_restored(s, rc);
		break;
	}
	idle(s);
}

void
state_restored(struct state *s, void (*done)(void *ctx, int status), void *ctx)
{
	struct text t;
	struct lost *lost;
	size_t bytes;
	const char *text = state_log_text(s->log, &bytes);
	int rc;

	LIST_FOREACH (lost, &s->lost, link) {
		LOG_ERROR(STATE, lost->where, "%s; kept: %.300s", lost->why, lost->line);
	}
	s->restored = done;
	s->restored_ctx = ctx;
	rc = needed_text(s, &t);
	if (rc != 0) {
		LOG_ERROR(STATE, s->dir, "out of memory");
		finish_restored(s, rc);
	} else if (t.bytes == bytes && (bytes == 0 || memcmp(t.data, text, bytes) == 0)) {
		s->needed_lines = t.lines;
		free(t.data);
		finish_restored(s, 0);
	} else {
		start_new(s, &t);
	}
	state_log_forget_text(s->log);
	json_decref(s->calls);
	s->calls = NULL;
}

/* ---- While running ---- */

static void
maybe_write_anew(struct state *s)
{
	size_t lines = state_log_lines(s->log);
	struct text t;

	if (s->phase != IDLE || lines < s->needed_lines * STATE_GROWTH ||
	    lines < s->needed_lines + STATE_GROWTH_LINES) {
		return;
	}
	if (needed_text(s, &t) == 0) {
		start_new(s, &t);
	}
}

/* An object that could not be restored has been made anew. */
static void
forget_rivals(struct state *s, const char *method, const json_t *params)
{
	const struct family *family = family_of(method);
	const char *name;

	if (family != NULL && is_create(method) && !list_empty(&s->lost)) {
		name = json_string_value(json_object_get(params, family->key));
		if (name != NULL) {
			state_forget(s, rival_prefix(family), family->key, name);
		}
	}
}

int
state_record(void *ctx, const char *method, const json_t *params, struct err *err)
{
	struct state *s = ctx;
	char *line = call_line(method, params);
	int rc;

	if (line == NULL) {
		return err_set(err, -ENOMEM, "state: out of memory");
	}
	rc = state_log_append(s->log, line, strlen(line), err);
	free(line);
	if (rc != 0) {
		return rc;
	}
	forget_rivals(s, method, params);
	set_dirty(s);
	maybe_write_anew(s);
	return 0;
}

void
state_close(struct state *s, void (*done)(void *ctx), void *ctx)
{
	if (s == NULL) {
		done(ctx);
		return;
	}
	s->closed = done;
	s->closed_ctx = ctx;
	if (s->phase == IDLE) {
		idle(s);
	}
}
