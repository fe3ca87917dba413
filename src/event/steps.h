/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Procedures of several asynchronous steps, written as a table {name, run, undo}. The runner owns
 * the order, errors and undoing: when a step fails, those before it are undone, last first. A
 * procedure that has run whole may be undone later (start-up and shutdown are one table).
 */
#ifndef EVENT_STEPS_H
#define EVENT_STEPS_H

#include <stdbool.h>

#include "base/err.h"

/* A step that has not finished returns this, and calls steps_continue() once it has. */
#define STEPS_WAIT 1

struct steps;

struct step {
	const char *name;
	/* 0, a negative errno (nothing is left to undo in this step), or STEPS_WAIT. May put
	 * words into s->err. */
	int (*run)(struct steps *s);
	/* Takes back what run did; NULL: nothing to take back. 0 or STEPS_WAIT: undoing never
	 * fails. */
	int (*undo)(struct steps *s);
};

/* Embedded by the owner of the procedure; one thread. */
struct steps {
	struct err err; /* of the step that failed; its name is in front when done is called */

	/* The runner's. */
	const struct step *table;
	unsigned count;
	unsigned next; /* steps below this have run and are not undone */
	void (*done)(struct steps *s, int status);
	int status;
	int answer;
	bool back;
	bool inside; /* a step's function is being called */
	bool answered;
	bool waiting;
};

/*
 * Runs the table from its start; done(s, 0) when all steps have run, done(s, status of the failed
 * step) when all that had run is undone. done may come before steps_run returns, and may free s.
 */
void steps_run(struct steps *s, const struct step *table, unsigned count,
	       void (*done)(struct steps *s, int status));

/* The waiting step ended with status (of an undo: 0). */
void steps_continue(struct steps *s, int status);

/*
 * Undoes everything: of a procedure that has run whole, or of one under way as soon as the waiting
 * step has ended. Then done(s, status) with this status (or that of a step that failed first). Does
 * nothing when s is being undone already.
 */
void steps_undo(struct steps *s, int status);

/* The step under way, for messages; "" when there is none. */
const char *steps_current(const struct steps *s);

#endif
