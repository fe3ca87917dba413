/* SPDX-License-Identifier: BSD-3-Clause */
/* Every combination of: which step fails or is interrupted, and which steps answer at once,
 * inside, or later. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "event/steps.h"

#define STEPS 3

enum style { AT_ONCE, INSIDE, LATER, STYLES };

static struct {
	struct steps steps;
	char trace[64];
	enum style style[STEPS];
	int fail_at; /* -1: none */
	bool wordless;
	int done_calls, done_status;
	bool wants_continue;
	int continue_status;
} f;

static int
answer(struct steps *s, int i, char c, int rc)
{
	size_t len = strlen(f.trace);

	snprintf(f.trace + len, sizeof(f.trace) - len, "%c%d", c, i);
	switch (f.style[i]) {
	case AT_ONCE:
		return rc;
	case INSIDE:
		steps_continue(s, rc);
		return STEPS_WAIT;
	default:
		f.wants_continue = true;
		f.continue_status = rc;
		return STEPS_WAIT;
	}
}

static int
run(struct steps *s, int i)
{
	if (f.fail_at == i) {
		if (!f.wordless) {
			err_set(&s->err, -EIO, "thing %d is broken", i);
		}
		return answer(s, i, 'r', -EIO);
	}
	return answer(s, i, 'r', 0);
}

static int
run0(struct steps *s)
{
	return run(s, 0);
}
static int
run1(struct steps *s)
{
	return run(s, 1);
}
static int
run2(struct steps *s)
{
	return run(s, 2);
}
static int
undo0(struct steps *s)
{
	return answer(s, 0, 'u', 0);
}
static int
undo2(struct steps *s)
{
	return answer(s, 2, 'u', 0);
}

static const struct step table[STEPS] = {
	{"zero", run0, undo0},
	{"one", run1, NULL},
	{"two", run2, undo2},
};

static void
done(struct steps *s, int status)
{
	f.done_calls++;
	f.done_status = status;
}

static void
finish_waits(void)
{
	while (f.wants_continue) {
		f.wants_continue = false;
		steps_continue(&f.steps, f.continue_status);
	}
}

static void
for_all_styles(void (*fn)(void))
{
	for (int n = 0; n < STYLES * STYLES * STYLES; n++) {
		memset(&f, 0, sizeof(f));
		f.fail_at = -1;
		for (int i = 0, k = n; i < STEPS; i++, k /= STYLES) {
			f.style[i] = (enum style)(k % STYLES);
		}
		fn();
	}
}

static void
run_whole_and_back(void)
{
	steps_run(&f.steps, table, STEPS, done);
	finish_waits();
	assert_string_equal(f.trace, "r0r1r2");
	assert_int_equal(f.done_calls, 1);
	assert_int_equal(f.done_status, 0);
	steps_undo(&f.steps, -ECANCELED);
	steps_undo(&f.steps, -EIO); /* a second request changes nothing */
	finish_waits();
	assert_string_equal(f.trace, "r0r1r2u2u0");
	assert_int_equal(f.done_calls, 2);
	assert_int_equal(f.done_status, -ECANCELED);
}

static void
fail_each(void)
{
	static const char *const traces[] = {"r0", "r0r1u0", "r0r1r2u0"};
	static const char *const words[] = {
		"zero: thing 0 is broken",
		"one: thing 1 is broken",
		"two: thing 2 is broken",
	};
	enum style style[STEPS];

	memcpy(style, f.style, sizeof(style));
	for (int i = 0; i < STEPS; i++) {
		memset(&f, 0, sizeof(f));
		memcpy(f.style, style, sizeof(style));
		f.fail_at = i;
		steps_run(&f.steps, table, STEPS, done);
		finish_waits();
		assert_string_equal(f.trace, traces[i]);
		assert_int_equal(f.done_calls, 1);
		assert_int_equal(f.done_status, -EIO);
		assert_string_equal(f.steps.err.text, words[i]);
	}
}

static void
fail_wordless(void)
{
	f.fail_at = 1;
	f.wordless = true;
	steps_run(&f.steps, table, STEPS, done);
	finish_waits();
	assert_string_equal(f.steps.err.text, "one: Input/output error");
}

static void
interrupt(void)
{
	steps_run(&f.steps, table, STEPS, done);
	if (!f.wants_continue) {
		return;
	}
	/* At the first step that waits. */
	assert_string_not_equal(steps_current(&f.steps), "");
	steps_undo(&f.steps, -EINTR);
	assert_int_equal(f.done_calls, 0);
	finish_waits();
	assert_int_equal(f.done_calls, 1);
	assert_int_equal(f.done_status, -EINTR);
	assert_string_equal(f.trace, f.style[0] == LATER   ? "r0u0"
				     : f.style[1] == LATER ? "r0r1u0"
							   : "r0r1r2u2u0");
}

static void
test_whole(void **state)
{
	for_all_styles(run_whole_and_back);
}

static void
test_fail(void **state)
{
	for_all_styles(fail_each);
	for_all_styles(fail_wordless);
}

static void
test_interrupt(void **state)
{
	for_all_styles(interrupt);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_fail),
		cmocka_unit_test(test_interrupt),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
