/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int
err_set(struct err *err, int code, const char *fmt, ...)
{
	va_list ap;

	if (err == NULL) {
		return code;
	}
	err->code = code;
	va_start(ap, fmt);
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	return code;
}

void
err_prefix(struct err *err, const char *fmt, ...)
{
	char old[ERR_TEXT_BYTES];
	va_list ap;
	int n;

	if (err == NULL) {
		return;
	}
	snprintf(old, sizeof(old), "%s", err_text(err));
	va_start(ap, fmt);
	n = vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof(err->text)) {
		snprintf(err->text + n, sizeof(err->text) - (size_t)n, "%s", old);
	}
}

void
err_append(struct err *err, const char *fmt, ...)
{
	size_t len;
	va_list ap;

	if (err == NULL) {
		return;
	}
	if (err->text[0] == '\0') {
		snprintf(err->text, sizeof(err->text), "%s", strerror(-err->code));
	}
	len = strlen(err->text);
	va_start(ap, fmt);
	vsnprintf(err->text + len, sizeof(err->text) - len, fmt, ap);
	va_end(ap);
}

const char *
err_text(const struct err *err)
{
	return err->text[0] != '\0' ? err->text : strerror(-err->code);
}
