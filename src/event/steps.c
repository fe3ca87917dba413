/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Invariants
 *  1. Forward, table[next] is the step under way; backward, the one being undone is table[next],
 *     and those below it have run.
 *  2. done is called once for each steps_run() that was not undone half-way, and once for each
 *     steps_undo() that did something.
 *  3. A step may answer from inside its own function (steps_continue before it returns STEPS_WAIT):
 *     no recursion, the loop in go() picks the answer up.
 */
#include "event/steps.h"

#include <errno.h>
#include <stddef.h>

#include "base/check.h"

static int
call(struct steps *s)
{
	const struct step *step = &s->table[s->next];
	int (*fn)(struct steps *) = s->back ? step->undo : step->run;
	int rc = 0;

	s->answered = false;
	s->inside = true;
	if (fn != NULL) {
		rc = fn(s);
	}
	s->inside = false;
	if (rc == STEPS_WAIT && s->answered) {
		rc = s->answer;
	}
	return rc;
}

/* The step under way ended with rc: what comes next. */
static void
advance(struct steps *s, int rc)
{
	CHECK(rc <= 0 && !(s->back && rc < 0));
	if (s->back) {
		return;
	}
	if (rc < 0) {
		if (s->status == 0) {
			s->status = rc;
			s->err.code = rc;
			err_prefix(&s->err, "%s: ", s->table[s->next].name);
		}
		s->back = true;
		return;
	}
	s->next++;
	s->back = s->status != 0; /* undoing was asked for meanwhile */
}

static void
go(struct steps *s)
{
	for (;;) {
		int rc;

		if (s->back ? s->next == 0 : s->next == s->count) {
			s->done(s, s->status);
			return;
		}
		if (s->back) {
			s->next--;
		}
		rc = call(s);
		if (rc == STEPS_WAIT) {
			s->waiting = true;
			return;
		}
		advance(s, rc);
	}
}

void
steps_run(struct steps *s, const struct step *table, unsigned count,
	  void (*done)(struct steps *s, int status))
{
	*s = (struct steps){.table = table, .count = count, .done = done};
	go(s);
}

void
steps_continue(struct steps *s, int status)
{
	if (s->inside) {
		CHECK(!s->answered);
		s->answered = true;
		s->answer = status;
		return;
	}
	CHECK(s->waiting);
	s->waiting = false;
	advance(s, status);
	go(s);
}

void
steps_undo(struct steps *s, int status)
{
	CHECK(status < 0);
	if (s->back || s->status != 0) {
		return;
	}
	s->status = status;
	if (s->waiting || s->inside) {
		return;
	}
	CHECK(s->next == s->count);
	s->back = true;
	go(s);
}

const char *
steps_current(const struct steps *s)
{
	return s->waiting || s->inside ? s->table[s->next].name : "";
}
