/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * TLS 1.2 and 1.3 over a connected, non-blocking stream socket, with certificates, pre-shared keys, or both. Files are named as
 * QEMU and libnbd name them: in a folder ca-cert.pem, server-cert.pem and server-key.pem (a client: client-cert.pem and
 * client-key.pem); of keys one file, a line "USER:HEXDIGITS" each, as psktool writes it.
 */
#ifndef SOCK_TLS_H
#define SOCK_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/err.h"

struct tls_credentials;
struct tls;

struct tls_options {
	bool server;
	const char *cert_dir; /* NULL: no certificates */
	const char *psk_file; /* NULL: no keys */
	const char *psk_user; /* of a client: whose key of the file */
	/* Server: only clients with a certificate that ca-cert.pem vouches for. Clients always verify a server's. */
	bool verify_peer;
};

/*
 * Reads the files (a few blocking reads; a server's psk_file again at each handshake). NULL with err: a file is missing or
 * wrong, or neither certificates nor keys are asked for. One reference.
 */
struct tls_credentials *tls_credentials_create(const struct tls_options *options, struct err *err);
/* Any thread; sessions hold a reference of their own. put accepts NULL. */
struct tls_credentials *tls_credentials_get(struct tls_credentials *c);
void tls_credentials_put(struct tls_credentials *c);

/* ---- One connection; one thread at a time ---- */

/* Borrows fd until tls_free. hostname: what a client expects the server's certificate to be for, NULL: any. NULL with err. */
struct tls *tls_create(struct tls_credentials *c, int fd, const char *hostname, struct err *err);
/* Tells the peer, if that is possible without waiting. Accepts NULL. */
void tls_free(struct tls *t);

/* One step. 0: done; -EAGAIN: again when the socket is readable, or writable if tls_wants_write(); another negative errno with
 * err: the peer is not who it should be, or speaks something else. */
int tls_handshake(struct tls *t, struct err *err);
bool tls_wants_write(const struct tls *t);

/* Who the peer is: the user of its key, or the subject of its certificate. After the handshake. False: it has not said. */
bool tls_peer_name(const struct tls *t, char *text, size_t size);

/* As recv(2), sendmsg(2): bytes, 0 at the end of the stream, -EAGAIN, another negative errno. */
ssize_t tls_recv(struct tls *t, void *buf, size_t len);
ssize_t tls_sendv(struct tls *t, const struct iovec *iov, int iovcnt);

/* Bytes that have been decrypted and wait for tls_recv: the socket does not tell of them. */
size_t tls_pending(const struct tls *t);
/* Bytes that tls_sendv took, but the socket did not: they leave with the next tls_sendv (of nothing, perhaps). */
bool tls_unsent(const struct tls *t);

#endif
