/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/certs.h"

#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/check.h"
#include "base/path.h"

static const char *const names[] = {"ca-cert.pem",     "server-cert.pem", "server-key.pem", "client-cert.pem",
				    "client-key.pem", "other-ca.pem",    "keys.psk"};

#define KEYS "alice:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n" \
	     "bob:ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100\n"

struct identity {
	gnutls_x509_privkey_t key;
	gnutls_x509_crt_t crt;
};

static void
store(const char *dir, const char *name, const void *data, size_t len)
{
	char *path = path_join(dir, name);
	int fd;

	CHECK(path != NULL);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && write(fd, data, len) == (ssize_t)len);
	close(fd);
	free(path);
}

static struct identity
make_identity(const char *common_name, unsigned char serial, const struct identity *signer)
{
	struct identity id;
	time_t now = time(NULL);

	CHECK(gnutls_x509_privkey_init(&id.key) == 0 && gnutls_x509_crt_init(&id.crt) == 0);
	CHECK(gnutls_x509_privkey_generate(id.key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0) == 0);
	CHECK(gnutls_x509_crt_set_version(id.crt, 3) == 0);
	CHECK(gnutls_x509_crt_set_serial(id.crt, &serial, 1) == 0);
	CHECK(gnutls_x509_crt_set_key(id.crt, id.key) == 0);
	CHECK(gnutls_x509_crt_set_activation_time(id.crt, now - 3600) == 0);
	CHECK(gnutls_x509_crt_set_expiration_time(id.crt, now + 86400) == 0);
	CHECK(gnutls_x509_crt_set_dn_by_oid(id.crt, GNUTLS_OID_X520_COMMON_NAME, 0, common_name, (unsigned)strlen(common_name)) ==
	      0);
	CHECK(gnutls_x509_crt_set_ca_status(id.crt, signer == NULL) == 0);
	if (signer == NULL) {
		CHECK(gnutls_x509_crt_set_key_usage(id.crt, GNUTLS_KEY_KEY_CERT_SIGN) == 0);
	} else {
		CHECK(gnutls_x509_crt_set_key_usage(id.crt, GNUTLS_KEY_DIGITAL_SIGNATURE) == 0);
		CHECK(gnutls_x509_crt_set_subject_alt_name(id.crt, GNUTLS_SAN_DNSNAME, common_name, (unsigned)strlen(common_name),
							   GNUTLS_FSAN_SET) == 0);
	}
	CHECK(gnutls_x509_crt_sign2(id.crt, signer != NULL ? signer->crt : id.crt, signer != NULL ? signer->key : id.key,
				    GNUTLS_DIG_SHA256, 0) == 0);
	return id;
}

/* key_name NULL: only the certificate. */
static void
store_identity(const char *dir, const struct identity *id, const char *cert_name, const char *key_name)
{
	gnutls_datum_t pem;

	CHECK(gnutls_x509_crt_export2(id->crt, GNUTLS_X509_FMT_PEM, &pem) == 0);
	store(dir, cert_name, pem.data, pem.size);
	gnutls_free(pem.data);
	if (key_name != NULL) {
		CHECK(gnutls_x509_privkey_export2(id->key, GNUTLS_X509_FMT_PEM, &pem) == 0);
		store(dir, key_name, pem.data, pem.size);
		gnutls_free(pem.data);
	}
}

static void
release_identity(struct identity *id)
{
	gnutls_x509_crt_deinit(id->crt);
	gnutls_x509_privkey_deinit(id->key);
}

char *
certs_make(void)
{
	struct identity ca = make_identity("berth test CA", 1, NULL), other = make_identity("another CA", 2, NULL);
	struct identity server = make_identity("localhost", 3, &ca), client = make_identity("client", 4, &ca);
	char *dir = strdup("/tmp/berth-certs-XXXXXX");

	CHECK(dir != NULL && mkdtemp(dir) != NULL);
	store_identity(dir, &ca, "ca-cert.pem", NULL);
	store_identity(dir, &other, "other-ca.pem", NULL);
	store_identity(dir, &server, "server-cert.pem", "server-key.pem");
	store_identity(dir, &client, "client-cert.pem", "client-key.pem");
	store(dir, "keys.psk", KEYS, strlen(KEYS));
	release_identity(&ca);
	release_identity(&other);
	release_identity(&server);
	release_identity(&client);
	return dir;
}

void
certs_remove(char *path)
{
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		char *name = path_join(path, names[i]);

		CHECK(name != NULL);
		unlink(name);
		free(name);
	}
	CHECK(rmdir(path) == 0);
	free(path);
}
