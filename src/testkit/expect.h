/* SPDX-License-Identifier: BSD-3-Clause */
/* Expectations of tests that run on several threads: what fails says where and why, and ends the process from whatever
 * thread notices it. */
#ifndef TESTKIT_EXPECT_H
#define TESTKIT_EXPECT_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

_Noreturn static inline void __attribute__((format(printf, 4, 5)))
expect_failed(const char *expr, const char *file, int line, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "%s:%d: expected: %s\n", file, line, expr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	abort();
}

/* Also says in words what was going on. */
#define EXPECT_SAY(expr, ...) ((expr) ? (void)0 : expect_failed(#expr, __FILE__, __LINE__, __VA_ARGS__))
#define EXPECT(expr) EXPECT_SAY(expr, "%s", "")

#endif
