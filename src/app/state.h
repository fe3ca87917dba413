/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What berthd remembers: every successful call that changes something, one JSON line
 * {"method","params"} each in the state directory's log, written before the call is answered and
 * synced at most a second later. App thread.
 *
 * An entry that cannot be carried out at start (its file is missing, say) and a line that cannot be
 * read are lost entries: reported by name at every start, and kept in the log until the object is
 * deleted or made anew by a call. Those that only lacked a bdev can be tried again (regain.h).
 */
#ifndef APP_STATE_H
#define APP_STATE_H

#include <jansson.h>
#include <stdbool.h>

#include "base/err.h"
#include "event/worker.h"

struct state;

struct state_options {
	const char *dir;
	struct worker *worker;
	/* The calls that make what there is now: an array of {"method","params"}, new reference.
	 * Called when the log has grown enough to be written anew. NULL: memory is out. */
	json_t *(*live)(void);
};

/* Locks the directory and reads its log. Errors of state_log_open(). */
int state_open(const struct state_options *options, struct state **ret_state, struct err *err);

/* Whether the log held no call at all. */
bool state_empty(const struct state *state);

/*
 * The calls to make at start, in order: an array of {"method","params","where"}, borrowed until
 * state_restored(). Calls on objects that were deleted later are left out: nobody may reach a
 * controller that is about to go away again.
 */
json_t *state_calls(struct state *state);

/* Call number `index` of state_calls() failed; it becomes a lost entry unless a later call
 * forgets it. */
void state_call_failed(struct state *state, size_t index, const char *why);

/*
 * All calls have been made: reports lost entries; writes the log anew where it is not what it
 * should be, then done(ctx, 0 or an errno). done may be NULL, and may come at once.
 */
void state_restored(struct state *state, void (*done)(void *ctx, int status), void *ctx);

/* Of rpc_record_fn's type; ctx is the state. Writes, and returns when the line is safe from the
 * death of this process. */
int state_record(void *ctx, const char *method, const json_t *params, struct err *err);

/* Whether there is a lost entry whose method begins with family, about an object of that name: if so, drops all lost entries
 * about this object. */
bool state_forget(struct state *state, const char *family, const char *name);

/*
 * Lost entries that a new bdev may help, in their order: how many there are; their calls, {"method","params","where"}, a new
 * array (NULL: memory is out); whether one of these is lost still, for a call by somebody else ends that; that it has been
 * carried out, which the log says already.
 */
size_t state_hopeful_count(const struct state *state);
json_t *state_hopeful_calls(const struct state *state);
bool state_call_is_lost(const json_t *call);
void state_call_regained(struct state *state, const json_t *call);

/* Syncs what is left and gives up the lock; then done(ctx). state is gone then. Accepts NULL. */
void state_close(struct state *state, void (*done)(void *ctx), void *ctx);

#endif
