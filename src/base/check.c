/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/check.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void
check_failed(const char *expr, const char *file, int line)
{
	fprintf(stderr, "berth: internal error: %s does not hold at %s:%d\n", expr, file, line);
	abort();
}
