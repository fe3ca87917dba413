/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"

#define LOG_LINE_BYTES 1024

static const char *const flag_names[LOG_FLAG_COUNT] = {
#define LOG_FLAG_NAME(id, name) name,
	LOG_FLAGS(LOG_FLAG_NAME)
#undef LOG_FLAG_NAME
};

static const char *const level_names[] = {"ERROR", "WARNING", "NOTICE", "INFO", "DEBUG"};
static const char journal_priority[] = {'3', '4', '5', '6', '7'};

static _Atomic int log_level = LOG_LEVEL_NOTICE;
static _Atomic int print_level = LOG_LEVEL_NOTICE;
static _Atomic bool timestamps;
static _Atomic bool flags[LOG_FLAG_COUNT];

/* The variable names a journal; it says nothing once standard error has been sent elsewhere (systemd.exec(5)). */
static bool
to_journal(void)
{
	const char *where = getenv("JOURNAL_STREAM");
	uintmax_t dev, ino;
	struct stat st;

	return where != NULL && sscanf(where, "%ju:%ju", &dev, &ino) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
	       st.st_dev == dev && st.st_ino == ino;
}

/* Names and messages may come from outside: they must neither forge lines nor speak to a terminal. */
static void
plain(char *s, size_t len)
{
	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)s[i] < ' ' || s[i] == 0x7f) {
			s[i] = '?';
		}
	}
}

static size_t
write_head(char *line, size_t size, enum log_level level, enum log_flag flag)
{
	struct timespec now;
	struct tm tm;
	char stamp[32] = "";
	int n;

	if (atomic_load(&timestamps)) {
		size_t len;

		clock_gettime(CLOCK_REALTIME, &now);
		gmtime_r(&now.tv_sec, &tm);
		len = strftime(stamp, sizeof(stamp), "%FT%T", &tm);
		snprintf(stamp + len, sizeof(stamp) - len, ".%03ldZ ", now.tv_nsec / 1000000);
	}
	if (to_journal()) {
		n = snprintf(line, size, "<%c>%s: ", journal_priority[level], flag_names[flag]);
	} else {
		n = snprintf(line, size, "%s%-7s %s: ", stamp, level_names[level], flag_names[flag]);
	}
	return (size_t)n;
}

void
log_write(enum log_level level, enum log_flag flag, const char *object, const char *fmt, ...)
{
	char line[LOG_LINE_BYTES];
	size_t len;
	va_list ap;
	int n;

	if ((int)level > atomic_load(&print_level) && !(level == LOG_LEVEL_DEBUG && log_debug_on(flag))) {
		return;
	}
	len = write_head(line, sizeof(line), level, flag);
	n = snprintf(line + len, sizeof(line) - len, "%s%s", object, object[0] != '\0' ? ": " : "");
	len = MIN(len + (size_t)n, sizeof(line) - 1);
	va_start(ap, fmt);
	n = vsnprintf(line + len, sizeof(line) - len, fmt, ap);
	va_end(ap);
	len = MIN(len + (size_t)MAX(n, 0), sizeof(line) - 2);
	plain(line, len);
	line[len++] = '\n';
	/* A log that cannot be written has nowhere to say so. */
	if (write(STDERR_FILENO, line, len) < 0) {
		return;
	}
}

bool
log_debug_on(enum log_flag flag)
{
	return atomic_load_explicit(&flags[flag], memory_order_relaxed) ||
	       atomic_load_explicit(&print_level, memory_order_relaxed) >= LOG_LEVEL_DEBUG;
}

void
log_set_level(enum log_level level)
{
	atomic_store(&log_level, level);
}

enum log_level
log_get_level(void)
{
	return (enum log_level)atomic_load(&log_level);
}

void
log_set_print_level(enum log_level level)
{
	atomic_store(&print_level, level);
}

enum log_level
log_get_print_level(void)
{
	return (enum log_level)atomic_load(&print_level);
}

void
log_set_timestamps(bool on)
{
	atomic_store(&timestamps, on);
}

int
log_level_parse(const char *name, enum log_level *ret_level)
{
	if (strcasecmp(name, "DISABLED") == 0) {
		*ret_level = LOG_LEVEL_DISABLED;
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(level_names); i++) {
		if (strcasecmp(name, level_names[i]) == 0) {
			*ret_level = (enum log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

const char *
log_level_name(enum log_level level)
{
	return level == LOG_LEVEL_DISABLED ? "DISABLED" : level_names[level];
}

int
log_set_flag(const char *name, bool on)
{
	bool all = strcasecmp(name, "all") == 0;
	int rc = all ? 0 : -EINVAL;

	for (int i = 0; i < LOG_FLAG_COUNT; i++) {
		if (all || strcasecmp(name, flag_names[i]) == 0) {
			atomic_store(&flags[i], on);
			rc = 0;
		}
	}
	return rc;
}

const char *
log_flag_name(enum log_flag flag)
{
	return flag_names[flag];
}

bool
log_get_flag(enum log_flag flag)
{
	return atomic_load(&flags[flag]);
}
