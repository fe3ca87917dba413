/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The file of the state directory: lines of text, the first of which says which format they have.
 * This layer knows lines and durability; what the lines mean is state.c's.
 *
 * A line is in the file (safe from the death of this process) when state_log_append() has returned,
 * and on stable storage (safe from a power cut) after the next sync. All functions belong to one
 * thread, but for state_log_sync(), state_log_new_source() and state_log_new_write(), which block and may run on another
 * while the owner does nothing but append.
 */
#ifndef APP_STATE_LOG_H
#define APP_STATE_LOG_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

struct state_log;

#define STATE_LOG_FILE "state.log"
#define STATE_LOG_NEW_FILE "state.log.new"
#define STATE_LOCK_FILE "lock"
#define STATE_LOG_HEADER "{\"berth_state\":1}"
#define STATE_LOG_BYTES_MAX (UINT64_C(1) << 30)

/*
 * Makes the directory (0700) if it is missing, locks it, and reads the log. A tail without newline
 * (a line that was being written when the power went) is cut off, and *ret_cut_bytes says how much.
 * -EBUSY: another process has the lock; -EPROTO: a format of the future, or not such a file.
 */
int state_log_open(const char *dir, struct state_log **ret_log, size_t *ret_cut_bytes,
		   struct err *err);

/* Lines are not synced by this. Accepts NULL. */
void state_log_close(struct state_log *log);

/* What was read at open, without the header: borrowed until state_log_forget_text(). */
const char *state_log_text(const struct state_log *log, size_t *ret_bytes);
void state_log_forget_text(struct state_log *log);

/* The line holds no newline. 0, or a negative errno and nothing is appended. */
int state_log_append(struct state_log *log, const char *line, size_t bytes, struct err *err);

/* Blocks until what was appended before the call is on stable storage, in the old and the new
 * file. */
int state_log_sync(struct state_log *log);

/*
 * Writing a shorter log in place of the old one, while lines are appended:
 *   state_log_new_begin   lines appended from now on are also kept in memory
 *   state_log_new_source  (blocks) what the log held at that moment, without the header, with a zero byte behind it: for free()
 *   state_log_new_write   (blocks) writes text, one or more whole lines or nothing, to a new file,
 *   and syncs it state_log_new_follow  adds the lines kept; from now on lines are appended to both
 *   files state_log_sync        (blocks) state_log_new_commit  the new file takes the old one's
 *   name; the next sync makes that durable
 * Each returns 0 or a negative errno (-ECANCELED: an append could not be added to the new file).
 * After an error, or to give up, state_log_new_abort(); the old log is as good as ever.
 */
void state_log_new_begin(struct state_log *log);
int state_log_new_source(const struct state_log *log, char **ret_text, size_t *ret_bytes);
int state_log_new_write(struct state_log *log, const char *text, size_t bytes);
int state_log_new_follow(struct state_log *log);
int state_log_new_commit(struct state_log *log);
void state_log_new_abort(struct state_log *log);

/* Lines in the file, the header not counted. */
size_t state_log_lines(const struct state_log *log);
int state_log_dir_fd(const struct state_log *log);

#endif
