/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/crypto/key.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"

#define K1 "00112233445566778899aabbccddeeff"
#define K2 "ffeeddccbbaa99887766554433221100"

static struct crypto_key_options
given(const char *name, const char *key, const char *key2)
{
	return (struct crypto_key_options){.name = name, .cipher = "AES_XTS", .key = key, .key2 = key2};
}

static void
expect_refused(struct crypto_key_options o, int rc, const char *words)
{
	struct err err = ERR_NONE;

	assert_int_equal(crypto_key_create(&o, &err), rc);
	if (strstr(err.text, words) == NULL) {
		fail_msg("'%s' is not in '%s'", words, err.text);
	}
	/* Nothing of a key is ever said. */
	assert_null(strstr(err.text, "00112233"));
	assert_null(strstr(err.text, "ffeeddcc"));
	assert_null(crypto_key_find(o.name));
}

static void
refuses(void **state)
{
	struct crypto_key_options o = given("k", K1, K2);
	char name[300];

	expect_refused(given("k", K1, NULL), -EINVAL, "needs key and key2");
	expect_refused(given("k", NULL, K2), -EINVAL, "needs key and key2");
	expect_refused(given("k", K1, K1), -EINVAL, "the same");
	expect_refused(given("k", K1, K2 K2), -EINVAL, "key2 is not 32");
	expect_refused(given("k", K1 K1, K2), -EINVAL, "key2 is not 64");
	expect_refused(given("k", "0011", "0022"), -EINVAL, "neither 32 nor 64");
	expect_refused(given("k", K1 "00", K2 "00"), -EINVAL, "neither 32 nor 64");
	expect_refused(given("k", K1 K1 "00", K2), -EINVAL, "neither 32 nor 64");
	expect_refused(given("k", "0011223344556677889900112233445g", K2), -EINVAL, "neither 32 nor 64");
	expect_refused(given("", K1, K2), -EINVAL, "name");
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	expect_refused(given(name, K1, K2), -EINVAL, "name");
	o.cipher = "AES_CBC";
	expect_refused(o, -EINVAL, "AES_CBC is not offered");
	o = given("k", K1, K2);
	o.tweak_mode = "SOMETHING";
	expect_refused(o, -EINVAL, "SOMETHING");
}

static unsigned notices;

static void
made(struct crypto_key *key)
{
	notices++;
}

static void
lives(void **state)
{
	struct crypto_key_options o = given("k", K1, K2);
	struct crypto_key_info info;
	struct crypto_key *key;
	struct err err = ERR_NONE;

	crypto_key_set_notice(made);
	assert_int_equal(crypto_key_create(&o, &err), 0);
	assert_int_equal(notices, 1);
	assert_int_equal(crypto_key_create(&o, &err), -EEXIST);
	key = crypto_key_find("k");
	assert_non_null(key);
	assert_ptr_equal(crypto_key_next(NULL), key);
	assert_null(crypto_key_next(key));
	crypto_key_info(key, &info);
	assert_string_equal(info.cipher, "AES_XTS");
	assert_string_equal(info.tweak_mode, "SIMPLE_LBA");
	assert_int_equal(info.bits, 128);
	assert_null(info.from);
	assert_int_equal(crypto_key_secret(key)->bytes[1], 0x11);
	assert_int_equal(crypto_key_secret(key)->bytes[16], 0xff);

	crypto_key_get(key);
	assert_int_equal(crypto_key_destroy("k", &err), -EBUSY);
	assert_non_null(strstr(err.text, "used by 1 crypto bdev"));
	crypto_key_put(key);
	assert_ptr_equal(crypto_key_find("k"), key);
	assert_int_equal(crypto_key_destroy("k", &err), 0);
	assert_int_equal(crypto_key_destroy("k", &err), -ENOENT);

	o.temporary = true;
	o.tweak_mode = "INCR_512_FULL_LBA";
	assert_int_equal(crypto_key_create(&o, &err), 0);
	key = crypto_key_find("k");
	assert_int_equal(crypto_key_secret(key)->tweak, XTS_INCR_512_FULL_LBA);
	crypto_key_get(key);
	crypto_key_put(key);
	assert_null(crypto_key_find("k"));
	crypto_key_put(NULL);
	crypto_key_set_notice(NULL);
}

/* ---- From a file ---- */

static void
put(const char *path, const char *text, size_t length, mode_t mode)
{
	int fd;

	unlink(path);
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, length), (ssize_t)length);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static void
expect_from(const struct crypto_key_options *o, unsigned bits, uint8_t first_of_second)
{
	struct err err = ERR_NONE;
	struct crypto_key_info info;
	int rc = crypto_key_create(o, &err);

	if (rc != 0) {
		fail_msg("%s", err.text);
	}
	crypto_key_info(crypto_key_find("f"), &info);
	assert_int_equal(info.bits, bits);
	assert_string_equal(info.from, o->from);
	assert_int_equal(crypto_key_secret(crypto_key_find("f"))->bytes[bits / 8], first_of_second);
	assert_int_equal(crypto_key_destroy("f", NULL), 0);
}

static void
from_files(void **state)
{
	static const char raw[64] = {[0] = 1, [16] = 2, [32] = 3};
	char dir[] = "/tmp/berth-key-XXXXXX", path[64];
	struct crypto_key_options o = {.name = "f", .cipher = "AES_XTS", .source = CRYPTO_KEY_FILE, .from = path};

	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/key", dir);
	expect_refused(o, -ENOENT, path);
	put(path, K1 K2 "\n", 65, 0600);
	expect_from(&o, 128, 0xff);
	put(path, K1 K1 "\n" K2 K2 "\n", 130, 0400);
	expect_from(&o, 256, 0xff);
	put(path, raw, 32, 0600);
	expect_from(&o, 128, 2);
	put(path, raw, 64, 0600);
	expect_from(&o, 256, 3);
	put(path, raw, 48, 0600);
	expect_refused(o, -EINVAL, "holds no AES-XTS key");
	put(path, K1 K2 "00", 66, 0600);
	expect_refused(o, -EINVAL, "holds no AES-XTS key");
	put(path, "", 0, 0600);
	expect_refused(o, -EINVAL, "holds no AES-XTS key");
	put(path, K1 K1, 64, 0600);
	expect_refused(o, -EINVAL, "the same");
	put(path, K1 K2, 64, 0644);
	expect_refused(o, -EPERM, "0644");
	unlink(path);
	rmdir(dir);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses),
		cmocka_unit_test(lives),
		cmocka_unit_test(from_files),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
