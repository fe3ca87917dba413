/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Invariants
 *  1. At most one job is with the worker (`phase`), so the log's descriptors change only while none
 *     is.
 *  2. Lines appended and not handed to a sync are `dirty`; then the timer is running or a job is
 *     under way, at whose end it is looked at. Nothing runs while nothing is dirty: an idle berthd
 *     makes no wake-ups.
 *  3. The log always says: the live configuration and the lost entries, and perhaps what ended without a call of its own.
 *  4. A log that has grown is shortened by the worker, from its own lines: what a start would leave out of it is left out. The
 *     app thread is asked for the live configuration, which takes it 10 us an object, only when that leaves too much: then there
 *     are more objects, or calls that came to nothing.
 *
 * Rejected: fsync before each answer (a second of delay is what was promised; a burst of calls
 * would take seconds).
 */
#include "app/state.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/state_calls.h"
#include "app/state_log.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "rpc/text.h"

#define STATE_SYNC_DELAY_US (NS_PER_S / NS_PER_US / 2)
/* The log is written anew when it has so many times the lines that are needed, and so many more. */
#define STATE_GROWTH 4
#define STATE_GROWTH_LINES 1000
#define LARGE_BYTES (64 << 10)

enum phase { IDLE, SYNCING, PRUNING, WRITING_NEW, SYNCING_NEW };

struct lost {
	struct list link;
	json_t *call; /* NULL: a line that could not be read */
	char *line;
	char *where;
	char *why;
	bool hopeful; /* a new bdev may help */
};

struct state {
	char *dir;
	struct worker *worker;
	json_t *(*live)(void);
	struct state_log *log;
	bool empty;
	bool changed; /* what was read is not, line by line, what is needed */
	json_t *calls;
	struct list lost;
	size_t hopeful; /* of them */
	size_t needed_lines; /* when the log was written anew last */
	size_t live_lines;   /* when the live configuration was looked at last */

	enum phase phase;
	struct worker_job job;
	int job_status;
	char *new_text;
	size_t new_bytes;
	size_t new_lines;
	bool dirty;
	bool sync_failed; /* and was logged */
	struct timer timer;

	void (*restored)(void *ctx, int status);
	void *restored_ctx;
	void (*closed)(void *ctx);
	void *closed_ctx;
};

/* ---- Lost entries ---- */

/* "" for a line that could not be read. */
static const char *
method_of(const json_t *call)
{
	const char *method = json_string_value(json_object_get(call, "method"));

	return method != NULL ? method : "";
}

static void
lost_free(struct state *s, struct lost *lost)
{
	list_remove(&lost->link);
	s->hopeful -= lost->hopeful;
	if (lost->call != NULL) {
		json_object_set_new(lost->call, "over", json_true());
	}
	json_decref(lost->call);
	free(lost->line);
	free(lost->where);
	free(lost->why);
	free(lost);
}

/* As in the log, without its end. */
static void
add_call(struct rpc_text *t, const json_t *method, const json_t *params)
{
	rpc_text_add_string(t, "{\"method\":");
	rpc_text_add_json(t, method);
	if (params != NULL) {
		rpc_text_add_string(t, ",\"params\":");
		rpc_text_add_json(t, params);
	}
	rpc_text_add_string(t, "}");
}

static char *
call_line(const json_t *call)
{
	struct rpc_text t = {0};
	size_t bytes;

	add_call(&t, json_object_get(call, "method"), json_object_get(call, "params"));
	rpc_text_add(&t, "", 1);
	return rpc_text_take(&t, &bytes);
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
	lost->hopeful = state_may_need_bdev(method_of(call));
	s->hopeful += lost->hopeful;
	list_append(&s->lost, &lost->link);
}

/* All that is lost of an object goes together. */
static void
forget_object(struct state *s, const char *object)
{
	struct lost *lost, *next;

	LIST_FOREACH_SAFE (lost, next, &s->lost, link) {
		char *its = state_object_of(method_of(lost->call), json_object_get(lost->call, "params"));

		if (its != NULL && strcmp(its, object) == 0) {
			LOG_NOTICE(STATE, lost->where, "forgotten: %s", lost->line);
			lost_free(s, lost);
		}
		free(its);
	}
}

bool
state_forget(struct state *s, const char *family, const char *name)
{
	struct lost *lost;

	LIST_FOREACH (lost, &s->lost, link) {
		if (lost->call != NULL && state_call_is(lost->call, family, name)) {
			char *object = state_object_of(method_of(lost->call), json_object_get(lost->call, "params"));

			CHECK(object != NULL);
			forget_object(s, object);
			free(object);
			return true;
		}
	}
	return false;
}

size_t
state_hopeful_count(const struct state *s)
{
	return s->hopeful;
}

json_t *
state_hopeful_calls(const struct state *s)
{
	json_t *calls = json_array();
	const struct lost *lost;

	LIST_FOREACH (lost, &s->lost, link) {
		if (lost->hopeful) {
			json_array_append(calls, lost->call);
		}
	}
	return calls;
}

bool
state_call_is_lost(const json_t *call)
{
	return json_object_get(call, "over") == NULL;
}

void
state_call_regained(struct state *s, const json_t *call)
{
	struct lost *lost, *next;

	LIST_FOREACH_SAFE (lost, next, &s->lost, link) {
		if (lost->call == call) {
			LOG_NOTICE(STATE, lost->where, "made after all: %.300s", lost->line);
			lost_free(s, lost);
			return;
		}
	}
}

/* ---- Reading the log ---- */

/* NULL, and why: no call can be read in the line. */
static json_t *
load_call(const char *line, size_t bytes, char why[static JSON_ERROR_TEXT_LENGTH])
{
	json_error_t error;
	json_t *call = json_loadb(line, bytes, JSON_REJECT_DUPLICATES, &error);
	json_t *params = json_object_get(call, "params");

	if (json_is_string(json_object_get(call, "method")) && (params == NULL || json_is_object(params))) {
		return call;
	}
	snprintf(why, JSON_ERROR_TEXT_LENGTH, "%s", call == NULL ? error.text : "not an object with method and params");
	json_decref(call);
	return NULL;
}

static void
read_line(struct state *s, const char *line, size_t bytes, unsigned number)
{
	char where[64], why[JSON_ERROR_TEXT_LENGTH];
	json_t *call = load_call(line, bytes, why);

	snprintf(where, sizeof(where), "%s line %u", STATE_LOG_FILE, number);
	if (call == NULL) {
		add_lost(s, NULL, strndup(line, bytes), where, why);
		return;
	}
	json_object_set_new(call, "where", json_string(where));
	json_array_append_new(s->calls, call);
}

static int
read_lines(struct state *s)
{
	json_t *needed;
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
	needed = state_calls_needed(s->calls);
	if (needed == NULL) {
		return -ENOMEM;
	}
	s->changed = json_array_size(needed) != json_array_size(s->calls);
	json_decref(s->calls);
	s->calls = needed;
	return 0;
}

static void
free_all(struct state *s)
{
	struct lost *lost, *next;

	LIST_FOREACH_SAFE (lost, next, &s->lost, link) {
		lost_free(s, lost);
	}
	state_log_close(s->log);
	json_decref(s->calls);
	free(s->dir);
	free(s);
}

int
state_open(const struct state_options *options, struct state **ret_state, struct err *err)
{
	struct state *s = calloc(1, sizeof(*s));
	size_t cut = 0;
	int rc = 0;

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
	if (rc == 0 && read_lines(s) != 0) {
		rc = err_set(err, -ENOMEM, "state: out of memory");
	}
	if (rc != 0) {
		free_all(s);
		return rc;
	}
	if (cut > 0) {
		LOG_WARNING(STATE, s->dir, "cut %zu bytes of an unfinished line off the end of %s",
			    cut, STATE_LOG_FILE);
	}
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
	if (state_verb_of(method_of(call)) == STATE_DELETES) {
		LOG_INFO(STATE, json_string_value(json_object_get(call, "where")), "left out: %s",
			 why);
		s->changed = true;
		return;
	}
	add_lost(s, call, call_line(call), json_string_value(json_object_get(call, "where")), why);
}

/* ---- The log written anew ---- */

/* The lines that the log needs: live configuration, then lost entries. */
static int
needed_text(struct state *s, struct rpc_text *ret_text, size_t *ret_lines)
{
	json_t *live = s->live(), *call;
	struct rpc_text t = {.failed = live == NULL};
	size_t i, lines = json_array_size(live);
	struct lost *lost;

	json_array_foreach (live, i, call) {
		add_call(&t, json_object_get(call, "method"), json_object_get(call, "params"));
		rpc_text_add_string(&t, "\n");
	}
	LIST_FOREACH (lost, &s->lost, link) {
		rpc_text_add_string(&t, lost->line);
		rpc_text_add_string(&t, "\n");
		lines++;
	}
	json_decref(live);
	if (t.failed) {
		rpc_text_release(&t);
		return -ENOMEM;
	}
	*ret_text = t;
	*ret_lines = lines;
	return 0;
}

/*
 * A configuration of so many bytes was in memory as JSON values, some twenty times its size, in small pieces that the allocator
 * would keep: as much again as ten thousand idle controllers need.
 */
static void
give_back_memory(size_t bytes)
{
#ifdef __GLIBC__
	if (bytes >= LARGE_BYTES) {
		malloc_trim(0);
	}
#endif
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

/* Of the log's lines those that a start would carry out, and those that it could not read; *ret_lines: how many. */
static int
prune(const char *text, size_t bytes, struct rpc_text *t, size_t *ret_lines)
{
	json_t *calls = json_array(), *needed, *call;
	char why[JSON_ERROR_TEXT_LENGTH];
	size_t i, lines = 0;
	struct rpc_text unread = {.failed = calls == NULL};
	bool broken = false;

	for (const char *end = text + bytes, *next; text < end; text = next) {
		next = memchr(text, '\n', (size_t)(end - text));
		if (next == NULL) { /* whole lines were written: somebody else has changed the file */
			broken = true;
			break;
		}
		next++;
		call = load_call(text, (size_t)(next - text) - 1, why);
		if (call == NULL) {
			rpc_text_add(&unread, text, (size_t)(next - text));
			lines++;
		} else {
			unread.failed = unread.failed || json_array_append_new(calls, call) != 0;
		}
	}
	needed = unread.failed ? NULL : state_calls_needed(calls);
	json_array_foreach (needed, i, call) {
		add_call(t, json_object_get(call, "method"), json_object_get(call, "params"));
		rpc_text_add_string(t, "\n");
	}
	*ret_lines = lines + json_array_size(needed);
	if (unread.bytes > 0) {
		rpc_text_add(t, unread.data, unread.bytes);
	}
	t->failed = t->failed || needed == NULL;
	json_decref(needed);
	json_decref(calls);
	rpc_text_release(&unread);
	if (broken) {
		return -EALREADY;
	}
	return t->failed ? -ENOMEM : 0;
}

/* -EALREADY: that leaves too much, or the file is not what was written: the live configuration says it. */
static void
prune_job(struct worker_job *job)
{
	struct state *s = CONTAINER_OF(job, struct state, job);
	struct rpc_text t = {0};
	char *text = NULL;
	size_t bytes;
	int rc = state_log_new_source(s->log, &text, &bytes);

	if (rc == 0) {
		rc = prune(text, bytes, &t, &s->new_lines);
	}
	if (rc == 0 && s->new_lines > s->live_lines * 2 + STATE_GROWTH_LINES / 2) {
		rc = -EALREADY;
	}
	if (rc == 0) {
		rc = state_log_new_write(s->log, t.data, t.bytes);
	}
	s->new_bytes = t.bytes;
	s->job_status = rc;
	rpc_text_release(&t);
	free(text);
}

static void
submit(struct state *s, enum phase phase)
{
	void (*job)(struct worker_job *job) = sync_job;

	CHECK(s->phase == IDLE || s->job_status == 0);
	if (phase == PRUNING) {
		job = prune_job;
	} else if (phase == WRITING_NEW) {
		job = write_new_job;
	}
	s->phase = phase;
	worker_submit(s->worker, &s->job, job, job_done);
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
start_new(struct state *s, struct rpc_text *t, size_t lines)
{
	s->new_text = t->data;
	s->new_bytes = t->bytes;
	s->needed_lines = s->live_lines = lines;
	state_log_new_begin(s->log);
	submit(s, WRITING_NEW);
}

/* From the live configuration. */
static int
write_live(struct state *s)
{
	struct rpc_text t;
	size_t lines;
	int rc = needed_text(s, &t, &lines);

	if (rc == 0) {
		start_new(s, &t, lines);
	}
	return rc;
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

	timer_stop(&s->timer);
	free_all(s);
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
	case PRUNING:
		if (rc == -EALREADY) {
			state_log_new_abort(s->log);
			s->phase = IDLE;
			give_back_memory(s->new_bytes);
			rc = s->closed == NULL ? write_live(s) : -ECANCELED;
			if (rc == 0) {
				return;
			}
		} else {
			s->needed_lines = s->new_lines;
		}
		/* fall through */
	case WRITING_NEW:
		free(s->new_text);
		s->new_text = NULL;
		give_back_memory(s->new_bytes);
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

static void
forget_what_was_read(struct state *s)
{
	size_t bytes;

	(void)state_log_text(s->log, &bytes);
	state_log_forget_text(s->log);
	json_decref(s->calls);
	s->calls = NULL;
	give_back_memory(bytes);
}

/*
 * A change to an object that is not there is lost only when something that makes objects is: else the object has ended in a
 * way that left no call of its own in the log (with the disk, the array, the partition table it was part of).
 */
static void
drop_orphans(struct state *s)
{
	struct lost *lost, *next;

	LIST_FOREACH (lost, &s->lost, link) {
		if (lost->call == NULL || state_verb_of(method_of(lost->call)) == STATE_CREATES) {
			return;
		}
	}
	LIST_FOREACH_SAFE (lost, next, &s->lost, link) {
		char *object = state_object_of(method_of(lost->call), json_object_get(lost->call, "params"));

		if (object != NULL) {
			LOG_NOTICE(STATE, lost->where, "left out, %s: %.300s", lost->why, lost->line);
			lost_free(s, lost);
			s->changed = true;
		}
		free(object);
	}
}

void
state_restored(struct state *s, void (*done)(void *ctx, int status), void *ctx)
{
	struct rpc_text t;
	struct lost *lost;
	size_t bytes, lines;
	const char *text = state_log_text(s->log, &bytes);
	int rc;

	drop_orphans(s);
	LIST_FOREACH (lost, &s->lost, link) {
		LOG_ERROR(STATE, lost->where, "%s; kept: %.300s", lost->why, lost->line);
	}
	s->restored = done;
	s->restored_ctx = ctx;
	if (!s->empty && !s->changed && list_empty(&s->lost)) {
		/* Every call was made, and none is needless: no need to compare. */
		s->needed_lines = s->live_lines = state_log_lines(s->log);
		finish_restored(s, 0);
		forget_what_was_read(s);
		return;
	}
	rc = needed_text(s, &t, &lines);
	if (rc != 0) {
		LOG_ERROR(STATE, s->dir, "out of memory");
		finish_restored(s, rc);
	} else if (t.bytes == bytes && (bytes == 0 || memcmp(t.data, text, bytes) == 0)) {
		s->needed_lines = s->live_lines = lines;
		rpc_text_release(&t);
		finish_restored(s, 0);
	} else {
		start_new(s, &t, lines);
	}
	forget_what_was_read(s);
}

/* ---- While running ---- */

static void
maybe_write_anew(struct state *s)
{
	size_t lines = state_log_lines(s->log);

	if (s->phase != IDLE || lines < s->needed_lines * STATE_GROWTH ||
	    lines < s->needed_lines + STATE_GROWTH_LINES) {
		return;
	}
	state_log_new_begin(s->log);
	submit(s, PRUNING);
}

/* An object that could not be restored has been made anew. */
static void
forget_lost(struct state *s, const char *method, const json_t *params)
{
	char *object;

	if (list_empty(&s->lost) || state_verb_of(method) != STATE_CREATES) {
		return;
	}
	object = state_object_of(method, params);
	if (object != NULL) {
		forget_object(s, object);
	}
	free(object);
}

int
state_record(void *ctx, const char *method, const json_t *params, struct err *err)
{
	struct state *s = ctx;
	json_t *name = json_string(method);
	struct rpc_text t = {0};
	int rc;

	add_call(&t, name, params);
	json_decref(name);
	rc = t.failed ? err_set(err, -ENOMEM, "state: out of memory")
		      : state_log_append(s->log, t.data, t.bytes, err);
	rpc_text_release(&t);
	if (rc != 0) {
		return rc;
	}
	forget_lost(s, method, params);
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
