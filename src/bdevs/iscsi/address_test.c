/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/iscsi/address.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/secret.h"

static struct iscsi_address *
parse(const char *url)
{
	struct err err = ERR_NONE;
	struct iscsi_address *a = iscsi_address_parse(url, &err);

	if (a == NULL) {
		fail_msg("%s: %s", url, err.text);
	}
	return a;
}

static void
reads_urls(void **state)
{
	struct iscsi_address *a = parse("iscsi://10.0.0.1/iqn.2024-01.io.example:disk/3");

	assert_string_equal(a->host, "10.0.0.1");
	assert_int_equal(a->port, 3260);
	assert_string_equal(a->target, "iqn.2024-01.io.example:disk");
	assert_int_equal(a->lun, 3);
	assert_string_equal(a->user, "");
	assert_string_equal(a->url, "iscsi://10.0.0.1/iqn.2024-01.io.example:disk/3");
	assert_int_equal(iscsi_address_check(a, NULL), 0);
	iscsi_address_free(a);

	a = parse("iscsi://[fe80::1]:13260/t/0?header_digest=crc32c");
	assert_string_equal(a->host, "fe80::1");
	assert_int_equal(a->port, 13260);
	assert_true(a->header_digest);
	assert_string_equal(a->url, "iscsi://[fe80::1]:13260/t/0?header_digest=crc32c");
	iscsi_address_free(a);

	a = parse("iscsi://[::1]/t/16383?header_digest=none&");
	assert_int_equal(a->port, 3260);
	assert_int_equal(a->lun, 16383);
	iscsi_address_free(a);
	iscsi_address_free(NULL);
}

static void
keeps_passwords_to_itself(void **state)
{
	struct iscsi_address *a;

	a = parse("iscsi://me%geheim@host:1/t/0?target_user=you&header_digest=crc32c&target_password=heimlich");
	assert_string_equal(a->user, "me");
	assert_string_equal(a->password, "geheim");
	assert_string_equal(a->target_user, "you");
	assert_string_equal(a->target_password, "heimlich");
	assert_string_equal(a->url, "iscsi://me@host:1/t/0?header_digest=crc32c&target_user=you");
	assert_true(secret_owns(a->password));
	assert_int_equal(iscsi_address_check(a, NULL), 0);
	iscsi_address_free(a);
	a = parse("iscsi://me:geheim@host/t/0?target_user=you&target_password=x");
	assert_string_equal(a->password, "geheim");
	assert_string_equal(a->url, "iscsi://me@host/t/0?target_user=you");
	iscsi_address_free(a);
}

static void
refuse(const char *url, const char *words)
{
	struct err err = ERR_NONE;

	assert_null(iscsi_address_parse(url, &err));
	assert_int_equal(err.code, -EINVAL);
	if (strstr(err.text, words) == NULL || strstr(err.text, "geheim") != NULL) {
		fail_msg("%s: %s", url, err.text);
	}
}

static void
refuses_what_is_none(void **state)
{
	static const char *const bad[] = {
		"", "iscsi:/host/t/0", "iscsi://", "iscsi://host", "iscsi://host/", "iscsi://host/t", "iscsi://host/t/",
		"iscsi://host//0", "iscsi:///t/0", "iscsi://host/t/x", "iscsi://host/t/16384", "iscsi://host/t/-1",
		"iscsi://host/t/0/1", "iscsi://host:/t/0", "iscsi://host:65536/t/0", "iscsi://host:1x/t/0",
		"iscsi://[::1/t/0", "iscsi://[::1]x/t/0", "iscsi://[]/t/0", "iscsi://@host/t/0", "iscsi://me%@host/t/0",
		"iscsi://%geheim@host/t/0", "iscsi://ho st/t/0", "iscsi://host/t\n/0", "iscsi://h\xc3\xb6st/t/0",
		"iscsi://me%gehe?im@host/t/0", "iscsi://me%geheim@/t/0", "iser://host/t/0",
	};
	char url[2048], part[400];

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		refuse(bad[i], "not of the form");
	}
	refuse("iscsi://host/t/0?header_digest=sha", "header_digest");
	refuse("iscsi://host/t/0?header_digest", "header_digest");
	refuse("iscsi://host/t/0?colour=red", "colour");
	refuse("iscsi://host/t/0?target_password=", "target_password");
	memset(part, 'x', sizeof(part));
	part[256] = '\0';
	snprintf(url, sizeof(url), "iscsi://%s/t/0", part);
	refuse(url, "not of the form");
	snprintf(url, sizeof(url), "iscsi://host/t/0?target_user=%s", part);
	refuse(url, "target_user");
	part[255] = '\0'; /* the longest that are taken */
	snprintf(url, sizeof(url), "iscsi://%s@%s/%s/0", part, part, part);
	iscsi_address_free(parse(url));
	snprintf(url, sizeof(url), "iscsi://%s@%s/%s/0?target_user=%s", part, part, part, part);
	refuse(url, "longer than");
}

static void
wants_passwords_for_names(void **state)
{
	struct iscsi_address *a = parse("iscsi://me@host/t/0");
	struct err err = ERR_NONE;

	assert_int_equal(iscsi_address_check(a, &err), -EINVAL);
	assert_non_null(strstr(err.text, "chap_secret_file"));
	iscsi_address_free(a);
	a = parse("iscsi://me%geheim@host/t/0?target_user=you");
	assert_int_equal(iscsi_address_check(a, &err), -EINVAL);
	iscsi_address_free(a);
	a = parse("iscsi://host/t/0?target_user=you&target_password=x");
	assert_int_equal(iscsi_address_check(a, &err), -EINVAL);
	iscsi_address_free(a);
}

static void
put(const char *path, const char *text, mode_t mode)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_int_equal(fputs(text, f) >= 0, 1);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(chmod(path, mode), 0);
}

static void
reads_passwords_from_a_file(void **state)
{
	char path[] = "/tmp/iscsi_address_XXXXXX";
	struct iscsi_address *a = parse("iscsi://me@host/t/0?target_user=you");
	struct err err = ERR_NONE;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	close(fd);
	put(path, "geheim\nheimlich\n", 0600);
	assert_int_equal(iscsi_address_read_passwords(a, path, &err), 0);
	assert_string_equal(a->password, "geheim");
	assert_string_equal(a->target_password, "heimlich");
	assert_int_equal(iscsi_address_check(a, &err), 0);
	put(path, "one", 0600);
	a->target_password[0] = '\0';
	assert_int_equal(iscsi_address_read_passwords(a, path, &err), 0);
	assert_string_equal(a->password, "one");
	assert_string_equal(a->target_password, "");
	put(path, "\n", 0600);
	assert_int_equal(iscsi_address_read_passwords(a, path, &err), -EINVAL);
	assert_non_null(strstr(err.text, path));
	put(path, "geheim\n", 0644);
	assert_int_equal(iscsi_address_read_passwords(a, path, &err), -EPERM);
	unlink(path);
	assert_int_equal(iscsi_address_read_passwords(a, path, &err), -ENOENT);
	iscsi_address_free(a);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_urls),
		cmocka_unit_test(keeps_passwords_to_itself),
		cmocka_unit_test(refuses_what_is_none),
		cmocka_unit_test(wants_passwords_for_names),
		cmocka_unit_test(reads_passwords_from_a_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
