/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/cpumask.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"

void
cpumask_set(struct cpumask *mask, unsigned cpu)
{
	if (cpu < CPUMASK_CPUS) {
		mask->words[cpu / 64] |= UINT64_C(1) << (cpu % 64);
	}
}

bool
cpumask_test(const struct cpumask *mask, unsigned cpu)
{
	return cpu < CPUMASK_CPUS && (mask->words[cpu / 64] >> (cpu % 64) & 1) != 0;
}

unsigned
cpumask_count(const struct cpumask *mask)
{
	unsigned count = 0;

	for (size_t i = 0; i < ARRAY_SIZE(mask->words); i++) {
		count += (unsigned)__builtin_popcountll(mask->words[i]);
	}
	return count;
}

unsigned
cpumask_next(const struct cpumask *mask, unsigned from)
{
	while (from < CPUMASK_CPUS && !cpumask_test(mask, from)) {
		from++;
	}
	return from;
}

/* ---- Reading ---- */

static int
hex_digit(char c)
{
	if (c >= '0' && c <= '9') {
		return c - '0';
	}
	c = (char)tolower((unsigned char)c);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool
parse_hex(const char *text, struct cpumask *mask)
{
	size_t len;

	if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
		text += 2;
	}
	len = strlen(text);
	if (len == 0) {
		return false;
	}
	for (size_t i = 0; i < len; i++) {
		int digit = hex_digit(text[len - 1 - i]);

		if (digit < 0 || (digit != 0 && i >= CPUMASK_CPUS / 4)) {
			return false;
		}
		if (digit != 0) {
			mask->words[i / 16] |= (uint64_t)digit << (i % 16 * 4);
		}
	}
	return true;
}

static const char *
skip_blanks(const char *p)
{
	return p + strspn(p, " \t");
}

/* A CPU number; advances *p past it and the blanks behind it. */
static bool
parse_cpu(const char **p, unsigned *ret_cpu)
{
	unsigned cpu = 0;

	if (!isdigit((unsigned char)**p)) {
		return false;
	}
	while (isdigit((unsigned char)**p)) {
		cpu = cpu * 10 + (unsigned)(*(*p)++ - '0');
		if (cpu >= CPUMASK_CPUS) {
			return false;
		}
	}
	*p = skip_blanks(*p);
	*ret_cpu = cpu;
	return true;
}

static bool
parse_list(const char *p, struct cpumask *mask)
{
	unsigned first, last;

	do {
		p = skip_blanks(p + 1); /* past the bracket or the comma */
		if (!parse_cpu(&p, &first)) {
			return false;
		}
		last = first;
		if (*p == '-') {
			p = skip_blanks(p + 1);
			if (!parse_cpu(&p, &last) || last < first) {
				return false;
			}
		}
		for (unsigned cpu = first; cpu <= last; cpu++) {
			cpumask_set(mask, cpu);
		}
	} while (*p == ',');
	return p[0] == ']' && p[1] == '\0';
}

static int
parse(const char *text, struct cpumask *ret_mask, struct err *err)
{
	struct cpumask mask = {{0}};
	bool ok = text[0] == '[' ? parse_list(text, &mask) : parse_hex(text, &mask);

	if (!ok) {
		return err_set(err, -EINVAL,
			       "CPU mask '%.64s' is neither hexadecimal (0x3) nor a list ([0,2-3]) "
			       "of CPUs below %d",
			       text, CPUMASK_CPUS);
	}
	*ret_mask = mask;
	return 0;
}

int
cpumask_parse_any(const char *text, struct cpumask *ret_mask, struct err *err)
{
	if (text[0] == '\0' || strcmp(text, "[]") == 0) {
		*ret_mask = (struct cpumask){{0}};
		return 0;
	}
	return parse(text, ret_mask, err);
}

int
cpumask_parse(const char *text, struct cpumask *ret_mask, struct err *err)
{
	struct cpumask mask;
	int rc = parse(text, &mask, err);

	if (rc != 0) {
		return rc;
	}
	if (cpumask_count(&mask) == 0) {
		return err_set(err, -EINVAL, "CPU mask '%.64s' names no CPU", text);
	}
	*ret_mask = mask;
	return 0;
}

/* ---- Writing ---- */

void
cpumask_format(const struct cpumask *mask, bool prefix, char ret_text[CPUMASK_TEXT_BYTES])
{
	size_t top = ARRAY_SIZE(mask->words) - 1;
	size_t len;

	while (top > 0 && mask->words[top] == 0) {
		top--;
	}
	len = (size_t)snprintf(ret_text, CPUMASK_TEXT_BYTES, "%s%llx", prefix ? "0x" : "",
			       (unsigned long long)mask->words[top]);
	while (top-- > 0) {
		len += (size_t)snprintf(ret_text + len, CPUMASK_TEXT_BYTES - len, "%016llx",
					(unsigned long long)mask->words[top]);
	}
}
