/* SPDX-License-Identifier: BSD-3-Clause */
#include "stage.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"

#define LAST_TURNS 100

struct reactor *stage_reactor;
static struct thread *thread;
static const char *program;

void
stage_fail(const char *what, const struct err *err)
{
	fprintf(stderr, "%s: %s: %s\n", program, what, err_text(err));
	exit(1);
}

void
stage_start(const char *name)
{
	struct err err = ERR_NONE;

	program = name;
	stage_reactor = reactor_create(0, -1, REACTOR_POLL, &err);
	thread = stage_reactor == NULL ? NULL : thread_create("bench", stage_reactor);
	if (thread == NULL) {
		stage_fail("reactor", &err);
	}
}

struct call {
	struct msg msg;
	void (*fn)(void *arg);
	void *arg;
	bool done;
};

static void
called(struct msg *msg)
{
	struct call *call = CONTAINER_OF(msg, struct call, msg);

	call->fn(call->arg);
	call->done = true;
}

void
stage_call(void (*fn)(void *arg), void *arg)
{
	struct call call = {.fn = fn, .arg = arg};

	thread_send(thread, &call.msg, called);
	while (!call.done) {
		reactor_poll_once(stage_reactor);
	}
}

static void
some_turns(void)
{
	for (int i = 0; i < LAST_TURNS; i++) {
		reactor_poll_once(stage_reactor);
	}
}

static void
end_thread(void *arg)
{
	thread_exit();
}

void
stage_stop(void)
{
	some_turns();
	stage_call(end_thread, NULL);
	some_turns();
	reactor_free(stage_reactor);
}

static int
compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

double
stage_median(double *values, unsigned count)
{
	qsort(values, count, sizeof(*values), compare);
	return values[count / 2];
}
