/* SPDX-License-Identifier: BSD-3-Clause */
/* A folder with what tests of TLS need: ca-cert.pem, server-cert.pem and server-key.pem (for "localhost"), client-cert.pem and
 * client-key.pem (of "client"), other-ca.pem that vouches for none of them, keys.psk (users "alice" and "bob"). */
#ifndef TESTKIT_CERTS_H
#define TESTKIT_CERTS_H

/* Makes a new folder and returns its path, owned by the caller; failure ends the test. */
char *certs_make(void);
/* Removes the folder and frees path. */
void certs_remove(char *path);

#endif
