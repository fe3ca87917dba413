/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/iscsi/address.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/secret.h"

#define SCHEME "iscsi://"
#define LUN_MAX 16383

/* A part of the text. */
struct part {
	const char *at;
	size_t bytes;
};

static const char *const form = "iscsi://[user[%password]@]host[:port]/target/lun";

static struct part
part(const char *from, const char *to)
{
	return (struct part){from, (size_t)(to - from)};
}

static const char *
find(struct part p, char c)
{
	return p.bytes > 0 ? memchr(p.at, c, p.bytes) : NULL;
}

/* 0; -EINVAL: too long, or empty though it must not be. */
static int
take(char text[static ISCSI_TEXT_BYTES], struct part p, bool needed)
{
	if (p.bytes >= ISCSI_TEXT_BYTES || (needed && p.bytes == 0)) {
		return -EINVAL;
	}
	memcpy(text, p.at, p.bytes);
	text[p.bytes] = '\0';
	return 0;
}

static int
take_number(unsigned *number, struct part p, unsigned max)
{
	unsigned long n = 0;

	if (p.bytes == 0 || p.bytes > 5) {
		return -EINVAL;
	}
	for (size_t i = 0; i < p.bytes; i++) {
		if (p.at[i] < '0' || p.at[i] > '9') {
			return -EINVAL;
		}
		n = n * 10 + (unsigned long)(p.at[i] - '0');
	}
	*number = (unsigned)n;
	return n <= max ? 0 : -EINVAL;
}

/* user[%password]; a colon does, too, as for libiscsi. */
static int
take_user(struct iscsi_address *a, struct part p)
{
	const char *end = p.at + p.bytes, *sep = find(p, '%');

	if (sep == NULL) {
		sep = find(p, ':');
	}
	if (sep != NULL && take(a->password, part(sep + 1, end), true) != 0) {
		return -EINVAL;
	}
	return take(a->user, part(p.at, sep != NULL ? sep : end), true);
}

/* host[:port], where host may be an address in brackets. */
static int
take_host(struct iscsi_address *a, struct part p)
{
	const char *end = p.at + p.bytes, *close = find(p, ']'), *colon;

	a->port = ISCSI_PORT_DEFAULT;
	if (p.bytes > 0 && p.at[0] == '[') {
		if (close == NULL || take(a->host, part(p.at + 1, close), true) != 0) {
			return -EINVAL;
		}
		if (close + 1 == end) {
			return 0;
		}
		return close[1] == ':' ? take_number(&a->port, part(close + 2, end), 65535) : -EINVAL;
	}
	colon = find(p, ':');
	if (take(a->host, part(p.at, colon != NULL ? colon : end), true) != 0) {
		return -EINVAL;
	}
	return colon != NULL ? take_number(&a->port, part(colon + 1, end), 65535) : 0;
}

static bool
is_text(struct part p, const char *text)
{
	return p.bytes == strlen(text) && memcmp(p.at, text, p.bytes) == 0;
}

static int
take_option(struct iscsi_address *a, struct part p, struct err *err)
{
	const char *end = p.at + p.bytes, *equals = find(p, '=');
	struct part key = part(p.at, equals != NULL ? equals : end);
	struct part value = equals != NULL ? part(equals + 1, end) : part(end, end);

	if (is_text(key, "header_digest") && (is_text(value, "crc32c") || is_text(value, "none"))) {
		a->header_digest = is_text(value, "crc32c");
		return 0;
	}
	if (is_text(key, "target_user") && take(a->target_user, value, true) == 0) {
		return 0;
	}
	if (is_text(key, "target_password") && take(a->target_password, value, true) == 0) {
		return 0;
	}
	return err_set(err, -EINVAL, "the option '%.*s' of the URL is none, or has a value it cannot have",
		       (int)MIN(key.bytes, (size_t)64), key.at);
}

static int
take_options(struct iscsi_address *a, const char *text, struct err *err)
{
	while (*text != '\0') {
		size_t bytes = strcspn(text, "&");
		int rc = bytes > 0 ? take_option(a, (struct part){text, bytes}, err) : 0;

		if (rc != 0) {
			return rc;
		}
		text += bytes + (text[bytes] == '&');
	}
	return 0;
}

/* What is in front of the options. */
static int
take_place(struct iscsi_address *a, const char *text)
{
	const char *end = text + strcspn(text, "?"), *slash, *at;
	struct part authority, path;

	slash = find(part(text, end), '/');
	if (slash == NULL) {
		return -EINVAL;
	}
	authority = part(text, slash);
	at = find(authority, '@');
	if (at != NULL && take_user(a, part(text, at)) != 0) {
		return -EINVAL;
	}
	if (take_host(a, at != NULL ? part(at + 1, slash) : authority) != 0) {
		return -EINVAL;
	}
	path = part(slash + 1, end);
	slash = find(path, '/');
	if (slash == NULL || take(a->target, part(path.at, slash), true) != 0) {
		return -EINVAL;
	}
	return take_number(&a->lun, part(slash + 1, end), LUN_MAX);
}

/* Whether every byte is one that a URL may have. */
static bool
printable(const char *url)
{
	for (; *url != '\0'; url++) {
		if ((unsigned char)*url <= ' ' || (unsigned char)*url >= 0x7f) {
			return false;
		}
	}
	return true;
}

static void
make_url(struct iscsi_address *a)
{
	bool six = strchr(a->host, ':') != NULL;
	int n = snprintf(a->url, sizeof(a->url), SCHEME "%s%s%s%s%s", a->user, a->user[0] != '\0' ? "@" : "", six ? "[" : "",
			 a->host, six ? "]" : "");

	if (a->port != ISCSI_PORT_DEFAULT) {
		n += snprintf(a->url + n, sizeof(a->url) - (size_t)n, ":%u", a->port);
	}
	n += snprintf(a->url + n, sizeof(a->url) - (size_t)n, "/%s/%u%s", a->target, a->lun,
		      a->header_digest ? "?header_digest=crc32c" : "");
	if (a->target_user[0] != '\0') {
		snprintf(a->url + n, sizeof(a->url) - (size_t)n, "%ctarget_user=%s", a->header_digest ? '&' : '?',
			 a->target_user);
	}
}

struct iscsi_address *
iscsi_address_parse(const char *url, struct err *err)
{
	struct iscsi_address *a = secret_alloc(sizeof(*a));
	const char *options = strchr(url, '?');

	/* The four texts, of ISCSI_TEXT_BYTES each at most, and what is between them, have room in the URL. */
	_Static_assert(ISCSI_URL_BYTES >= 4 * ISCSI_TEXT_BYTES, "user, host, target, target's user");
	if (a == NULL) {
		err_set(err, -ENOMEM, "out of memory");
		return NULL;
	}
	if (strlen(url) > ISCSI_URL_BYTES - 128) {
		err_set(err, -EINVAL, "the URL is longer than %d bytes", ISCSI_URL_BYTES - 128);
	} else if (strncmp(url, SCHEME, strlen(SCHEME)) != 0 || !printable(url) || take_place(a, url + strlen(SCHEME)) != 0) {
		err_set(err, -EINVAL, "the URL is not of the form %s", form);
	} else if (options == NULL || take_options(a, options + 1, err) == 0) {
		make_url(a);
		return a;
	}
	secret_free(a);
	return NULL;
}

int
iscsi_address_read_passwords(struct iscsi_address *a, const char *path, struct err *err)
{
	char *buf = secret_alloc(SECRET_TEXT_MAX);
	const char *end, *line;
	int n;

	if (buf == NULL) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	n = secret_read_file(path, buf, err);
	if (n >= 0) {
		end = buf + n;
		line = find(part(buf, end), '\n');
		line = line != NULL ? line : end;
		n = take(a->password, part(buf, line), true);
		if (n == 0 && line + 1 < end) {
			const char *second = find(part(line + 1, end), '\n');

			n = take(a->target_password, part(line + 1, second != NULL ? second : end), false);
		}
		if (n != 0) {
			err_set(err, n, "%s: a line is no password: empty, or longer than %d bytes", path, ISCSI_TEXT_BYTES - 1);
		}
	}
	secret_free(buf);
	return n;
}

int
iscsi_address_check(const struct iscsi_address *a, struct err *err)
{
	if (a->user[0] != '\0' && a->password[0] == '\0') {
		return err_set(err, -EINVAL, "the user '%s' has no password: give chap_secret_file", a->user);
	}
	if (a->target_user[0] != '\0' && (a->target_password[0] == '\0' || a->user[0] == '\0')) {
		return err_set(err, -EINVAL, "the target can be asked who it is only with passwords for both sides");
	}
	return 0;
}

void
iscsi_address_free(struct iscsi_address *a)
{
	secret_free(a);
}
