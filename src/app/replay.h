/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Makes a list of calls through rpc_call(), one after another: the configuration file's, or the
 * state directory's. App thread. Calls that SPDK allows before initialisation only or also then
 * (bdev_set_options, log_set_level, ...) are made in a pass of their own, before all others.
 */
#ifndef APP_REPLAY_H
#define APP_REPLAY_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum replay_pass { REPLAY_STARTUP, REPLAY_RUNTIME };

/* What is refused because something else is missing is made again at most so many times. */
#define REPLAY_ROUNDS_MAX 16

/* Owned by the caller; the first three, and patient, are its to set. */
struct replay {
	/* Call number `index` was answered with an error, in words. 0: go on; a negative errno:
	 * stop. */
	int (*failed)(struct replay *r, size_t index, const char *why);
	void (*done)(struct replay *r, int status);
	json_t *calls; /* array of {"method","params"}; borrowed until done */
	/*
	 * What was refused is tried again when all others have been made and bdevs have been examined, as long as that
	 * helps: an object may stand before what it needs, or need what an examination finds. Only then it has failed.
	 * Bdevs are examined after the first round: what is configured comes before what is found on disks.
	 */
	bool patient;

	enum replay_pass pass;
	unsigned round;
	size_t *todo; /* indexes of the round's calls */
	size_t todo_count;
	size_t next; /* in todo */
	char **why;  /* what the refused ones were answered; those have been moved to the front of todo */
	size_t refused;
	bool holds_examination;
	bool inside;
	bool answered;
	int status;
};

/* Runs the calls of one pass; done may come before this returns. */
void replay_run(struct replay *r, enum replay_pass pass);

/* No further call is made; done(r, -ECANCELED) once the one under way has been answered. */
void replay_cancel(struct replay *r);

#endif
