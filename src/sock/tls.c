/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * TLS with GnuTLS, which calls recv and send on the socket by itself.
 *
 * Invariants
 *  1. Credentials do not change once made, so any number of sessions on any threads share them.
 *  2. A record that the socket took in part stays in GnuTLS and is counted as sent to the caller; `stuck` says so, and nothing is
 *     sent behind it before it has left.
 *  3. After an error of the session nothing is received or sent any more: `broken` is answered again and again.
 */
#include "sock/tls.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "base/path.h"

/* Certificates are offered before keys where both sides have both. */
#define PRIORITY "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"
#define PRIORITY_PSK PRIORITY ":+ECDHE-PSK:+DHE-PSK:+PSK"
/* Largest record. */
#define RECORD_BYTES 16384
#define KEY_BYTES_MAX 64
#define LINE_BYTES 1024

struct tls_credentials {
	atomic_uint refs;
	bool server;
	bool verify_peer;
	gnutls_certificate_credentials_t certs; /* NULL: none */
	gnutls_psk_server_credentials_t psk_server;
	gnutls_psk_client_credentials_t psk_client;
};

struct tls {
	gnutls_session_t session;
	struct tls_credentials *credentials;
	bool up;   /* the handshake has been done */
	bool ended; /* the peer has said that it sends no more */
	bool stuck;
	int broken; /* negative errno */
	uint8_t record[RECORD_BYTES]; /* small pieces are gathered here */
};

/* ---- Credentials ---- */

static int
gnutls_failed(struct err *err, int code, const char *what, const char *name, int rc)
{
	return err_set(err, code, "TLS: %s %.200s: %s", what, name, gnutls_strerror(rc));
}

/* 0, or the error of a file that is not there or not ours to read. */
static int
check_readable(const char *path, struct err *err)
{
	return access(path, R_OK) == 0 ? 0 : err_set(err, -errno, "TLS: cannot read %s: %s", path, strerror(errno));
}

static int
load_ca(struct tls_credentials *c, const char *path, struct err *err)
{
	int rc = check_readable(path, NULL);

	if (rc != 0) {
		/* A server that trusts everybody needs no list of who is trusted. */
		return c->server && !c->verify_peer && rc == -ENOENT ? 0 : check_readable(path, err);
	}
	rc = gnutls_certificate_set_x509_trust_file(c->certs, path, GNUTLS_X509_FMT_PEM);
	return rc >= 0 ? 0 : gnutls_failed(err, -EINVAL, "cannot use", path, rc);
}

static int
load_pair(struct tls_credentials *c, const char *cert, const char *key, struct err *err)
{
	int rc = check_readable(cert, NULL);

	if (rc == -ENOENT && !c->server) {
		return 0; /* a client need not have one */
	}
	rc = check_readable(cert, err);
	if (rc == 0) {
		rc = check_readable(key, err);
	}
	if (rc != 0) {
		return rc;
	}
	rc = gnutls_certificate_set_x509_key_file(c->certs, cert, key, GNUTLS_X509_FMT_PEM);
	return rc >= 0 ? 0 : gnutls_failed(err, -EINVAL, "cannot use the certificate and key", cert, rc);
}

static int
load_certificates(struct tls_credentials *c, const char *dir, struct err *err)
{
	char *ca = path_join(dir, "ca-cert.pem");
	char *cert = path_join(dir, c->server ? "server-cert.pem" : "client-cert.pem");
	char *key = path_join(dir, c->server ? "server-key.pem" : "client-key.pem");
	int rc = -ENOMEM;

	if (ca != NULL && cert != NULL && key != NULL && gnutls_certificate_allocate_credentials(&c->certs) == 0) {
		gnutls_certificate_set_known_dh_params(c->certs, GNUTLS_SEC_PARAM_MEDIUM);
		rc = load_ca(c, ca, err);
		if (rc == 0) {
			rc = load_pair(c, cert, key, err);
		}
	} else {
		err_set(err, rc, "out of memory");
	}
	free(ca);
	free(cert);
	free(key);
	return rc;
}

/* The hex digits behind "user:" in the file, into line; NULL with err. */
static char *
find_key(FILE *f, const char *user, char line[LINE_BYTES])
{
	size_t len = strlen(user);

	while (fgets(line, LINE_BYTES, f) != NULL) {
		if (strncmp(line, user, len) == 0 && line[len] == ':') {
			line[strcspn(line, "\r\n")] = '\0';
			return line + len + 1;
		}
	}
	return NULL;
}

static int
load_client_key(struct tls_credentials *c, const char *file, const char *user, struct err *err)
{
	char line[LINE_BYTES];
	gnutls_datum_t key;
	FILE *f = fopen(file, "re");
	char *hex;
	int rc;

	if (f == NULL) {
		return err_set(err, -errno, "TLS: cannot read %s: %s", file, strerror(errno));
	}
	hex = find_key(f, user, line);
	fclose(f);
	if (hex == NULL) {
		return err_set(err, -ENOENT, "TLS: %s has no key of '%.100s'", file, user);
	}
	key = (gnutls_datum_t){.data = (unsigned char *)hex, .size = (unsigned)strlen(hex)};
	rc = gnutls_psk_allocate_client_credentials(&c->psk_client);
	if (rc == 0) {
		rc = gnutls_psk_set_client_credentials(c->psk_client, user, &key, GNUTLS_PSK_KEY_HEX);
	}
	explicit_bzero(line, sizeof(line));
	return rc == 0 ? 0 : gnutls_failed(err, -EINVAL, "cannot use the key of", user, rc);
}

static int
load_server_keys(struct tls_credentials *c, const char *file, struct err *err)
{
	int rc = check_readable(file, err);

	if (rc != 0) {
		return rc;
	}
	if (gnutls_psk_allocate_server_credentials(&c->psk_server) != 0) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	rc = gnutls_psk_set_server_credentials_file(c->psk_server, file);
	if (rc == 0) {
		rc = gnutls_psk_set_server_known_dh_params(c->psk_server, GNUTLS_SEC_PARAM_MEDIUM);
	}
	return rc == 0 ? 0 : gnutls_failed(err, -EINVAL, "cannot use", file, rc);
}

static int
load(struct tls_credentials *c, const struct tls_options *o, struct err *err)
{
	int rc = 0;

	if (o->cert_dir == NULL && o->psk_file == NULL) {
		return err_set(err, -EINVAL, "TLS needs a folder of certificates or a file of keys");
	}
	if (o->verify_peer && o->cert_dir == NULL) {
		return err_set(err, -EINVAL, "TLS: to verify clients' certificates takes a folder of certificates");
	}
	if (o->cert_dir != NULL) {
		rc = load_certificates(c, o->cert_dir, err);
	}
	if (rc == 0 && o->psk_file != NULL) {
		rc = c->server ? load_server_keys(c, o->psk_file, err)
			       : load_client_key(c, o->psk_file, o->psk_user != NULL ? o->psk_user : "", err);
	}
	return rc;
}

struct tls_credentials *
tls_credentials_create(const struct tls_options *options, struct err *err)
{
	struct tls_credentials *c = calloc(1, sizeof(*c));

	if (c == NULL) {
		err_set(err, -ENOMEM, "out of memory");
		return NULL;
	}
	atomic_init(&c->refs, 1);
	c->server = options->server;
	c->verify_peer = options->verify_peer;
	if (load(c, options, err) != 0) {
		tls_credentials_put(c);
		return NULL;
	}
	return c;
}

struct tls_credentials *
tls_credentials_get(struct tls_credentials *c)
{
	atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
	return c;
}

void
tls_credentials_put(struct tls_credentials *c)
{
	if (c == NULL || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) > 1) {
		return;
	}
	if (c->certs != NULL) {
		gnutls_certificate_free_credentials(c->certs);
	}
	if (c->psk_server != NULL) {
		gnutls_psk_free_server_credentials(c->psk_server);
	}
	if (c->psk_client != NULL) {
		gnutls_psk_free_client_credentials(c->psk_client);
	}
	free(c);
}

/* ---- A session ---- */

static int
attach(struct tls *t, int fd, const char *hostname)
{
	struct tls_credentials *c = t->credentials;
	bool psk = c->psk_server != NULL || c->psk_client != NULL;
	int rc = gnutls_priority_set_direct(t->session, psk ? PRIORITY_PSK : PRIORITY, NULL);

	if (rc == 0 && c->certs != NULL) {
		rc = gnutls_credentials_set(t->session, GNUTLS_CRD_CERTIFICATE, c->certs);
	}
	if (rc == 0 && c->psk_server != NULL) {
		rc = gnutls_credentials_set(t->session, GNUTLS_CRD_PSK, c->psk_server);
	}
	if (rc == 0 && c->psk_client != NULL) {
		rc = gnutls_credentials_set(t->session, GNUTLS_CRD_PSK, c->psk_client);
	}
	if (rc == 0 && !c->server && hostname != NULL) {
		rc = gnutls_server_name_set(t->session, GNUTLS_NAME_DNS, hostname, strlen(hostname));
	}
	if (c->certs != NULL && (!c->server || c->verify_peer)) {
		/* Verified as a part of the handshake. */
		gnutls_session_set_verify_cert(t->session, c->server ? NULL : hostname, 0);
		if (c->server) {
			gnutls_certificate_server_set_request(t->session, GNUTLS_CERT_REQUIRE);
		}
	}
	gnutls_transport_set_int(t->session, fd);
	gnutls_handshake_set_timeout(t->session, 0); /* its owner's business */
	return rc;
}

struct tls *
tls_create(struct tls_credentials *c, int fd, const char *hostname, struct err *err)
{
	unsigned flags = (c->server ? GNUTLS_SERVER : GNUTLS_CLIENT) | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS;
	struct tls *t = calloc(1, sizeof(*t));
	int rc;

	if (t == NULL || gnutls_init(&t->session, flags) != 0) {
		free(t);
		err_set(err, -ENOMEM, "out of memory");
		return NULL;
	}
	t->credentials = tls_credentials_get(c);
	rc = attach(t, fd, hostname);
	if (rc != 0) {
		err_set(err, -EINVAL, "TLS: %s", gnutls_strerror(rc));
		tls_free(t);
		return NULL;
	}
	return t;
}

void
tls_free(struct tls *t)
{
	if (t == NULL) {
		return;
	}
	if (t->up && t->broken == 0 && !t->stuck) {
		(void)gnutls_bye(t->session, GNUTLS_SHUT_WR);
	}
	gnutls_deinit(t->session);
	tls_credentials_put(t->credentials);
	explicit_bzero(t->record, sizeof(t->record));
	free(t);
}

static int
handshake_failed(struct tls *t, int rc, struct err *err)
{
	unsigned status = gnutls_session_get_verify_cert_status(t->session);
	gnutls_datum_t text = {NULL, 0};

	t->broken = -EPROTO;
	if (rc == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR &&
	    gnutls_certificate_verification_status_print(status, GNUTLS_CRT_X509, &text, 0) == 0) {
		err_set(err, -EPROTO, "TLS handshake: %s", (const char *)text.data);
		gnutls_free(text.data);
	} else if (rc == GNUTLS_E_FATAL_ALERT_RECEIVED) {
		err_set(err, -EPROTO, "TLS handshake: the peer says: %s", gnutls_alert_get_name(gnutls_alert_get(t->session)));
	} else {
		err_set(err, -EPROTO, "TLS handshake: %s", gnutls_strerror(rc));
	}
	/* The peer may learn why; nothing waits for it. */
	(void)gnutls_alert_send_appropriate(t->session, rc);
	return -EPROTO;
}

int
tls_handshake(struct tls *t, struct err *err)
{
	int rc;

	if (t->broken != 0) {
		return err_set(err, t->broken, "TLS handshake failed");
	}
	do {
		rc = gnutls_handshake(t->session);
	} while (rc == GNUTLS_E_INTERRUPTED || rc == GNUTLS_E_WARNING_ALERT_RECEIVED);
	if (rc == GNUTLS_E_AGAIN) {
		return -EAGAIN;
	}
	if (rc != 0) {
		return handshake_failed(t, rc, err);
	}
	t->up = true;
	return 0;
}

bool
tls_wants_write(const struct tls *t)
{
	return gnutls_record_get_direction(t->session) == 1;
}

static bool
certificate_name(gnutls_session_t session, char *text, size_t size)
{
	unsigned count = 0;
	const gnutls_datum_t *chain = gnutls_certificate_get_peers(session, &count);
	gnutls_x509_crt_t crt;
	bool good = false;

	if (chain == NULL || count == 0 || gnutls_x509_crt_init(&crt) != 0) {
		return false;
	}
	if (gnutls_x509_crt_import(crt, &chain[0], GNUTLS_X509_FMT_DER) == 0) {
		good = gnutls_x509_crt_get_dn(crt, text, &size) == 0;
	}
	gnutls_x509_crt_deinit(crt);
	return good;
}

bool
tls_peer_name(const struct tls *t, char *text, size_t size)
{
	gnutls_credentials_type_t type;
	const char *user;

	if (!t->up) {
		return false;
	}
	type = t->credentials->server ? gnutls_auth_client_get_type(t->session) : gnutls_auth_server_get_type(t->session);
	if (type == GNUTLS_CRD_PSK && t->credentials->server) {
		user = gnutls_psk_server_get_username(t->session);
		return user != NULL && (size_t)snprintf(text, size, "%s", user) < size;
	}
	return type == GNUTLS_CRD_CERTIFICATE && certificate_name(t->session, text, size);
}

/* ---- Bytes ---- */

/* A result of GnuTLS as an errno. */
static ssize_t
translate(struct tls *t, ssize_t rc)
{
	switch (rc) {
	case GNUTLS_E_AGAIN:
		return -EAGAIN;
	case GNUTLS_E_PUSH_ERROR:
		t->broken = -EPIPE;
		break;
	case GNUTLS_E_PREMATURE_TERMINATION:
	case GNUTLS_E_PULL_ERROR:
		t->broken = -ECONNRESET;
		break;
	default:
		t->broken = -EPROTO;
		break;
	}
	return t->broken;
}

ssize_t
tls_recv(struct tls *t, void *buf, size_t len)
{
	ssize_t n;

	if (t->broken != 0 || t->ended || len == 0) {
		return t->broken;
	}
	do {
		n = gnutls_record_recv(t->session, buf, len);
	} while (n == GNUTLS_E_INTERRUPTED || n == GNUTLS_E_WARNING_ALERT_RECEIVED);
	t->ended = n == 0;
	return n >= 0 ? n : translate(t, n);
}

static ssize_t
send_record(struct tls *t, const void *data, size_t len)
{
	ssize_t n;

	do {
		n = gnutls_record_send(t->session, data, len);
	} while (n == GNUTLS_E_INTERRUPTED);
	return n;
}

/* Gets what is stuck out of the way: 0, -EAGAIN, another negative errno. */
static ssize_t
unstick(struct tls *t)
{
	ssize_t n;

	if (t->broken != 0 || !t->stuck) {
		return t->broken;
	}
	n = send_record(t, NULL, 0);
	if (n < 0) {
		return translate(t, n);
	}
	t->stuck = false;
	return 0;
}

/* The next record, from byte *offset of entry *index on: in place where one entry fills it, else gathered. */
static size_t
next_record(struct tls *t, const struct iovec *iov, int iovcnt, int *index, size_t *offset, const void **ret_data)
{
	size_t len = 0;

	if (iov[*index].iov_len - *offset >= RECORD_BYTES) {
		*ret_data = (const uint8_t *)iov[*index].iov_base + *offset;
		*offset += RECORD_BYTES;
		return RECORD_BYTES;
	}
	while (*index < iovcnt && len < RECORD_BYTES) {
		size_t n = MIN(iov[*index].iov_len - *offset, RECORD_BYTES - len);

		if (n > 0) { /* an empty entry may be of no address */
			memcpy(t->record + len, (const uint8_t *)iov[*index].iov_base + *offset, n);
		}
		len += n;
		*offset += n;
		if (*offset == iov[*index].iov_len) {
			*offset = 0;
			(*index)++;
		}
	}
	*ret_data = t->record;
	return len;
}

ssize_t
tls_sendv(struct tls *t, const struct iovec *iov, int iovcnt)
{
	size_t offset = 0;
	ssize_t total = 0, rc = unstick(t);
	int index = 0;

	while (rc == 0 && index < iovcnt) {
		const void *data;
		size_t len;
		ssize_t n;

		if (offset == iov[index].iov_len) {
			offset = 0;
			index++;
			continue;
		}
		len = next_record(t, iov, iovcnt, &index, &offset, &data);
		n = send_record(t, data, len);
		if (n == GNUTLS_E_AGAIN) {
			t->stuck = true;
			return total + (ssize_t)len;
		}
		if (n < 0) {
			rc = translate(t, n);
		} else {
			CHECK((size_t)n == len);
			total += n;
		}
	}
	return total > 0 ? total : rc;
}

size_t
tls_pending(const struct tls *t)
{
	return t->broken == 0 ? gnutls_record_check_pending(t->session) : 0;
}

bool
tls_unsent(const struct tls *t)
{
	return t->stuck && t->broken == 0;
}
