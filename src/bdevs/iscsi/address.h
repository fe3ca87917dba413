/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Addresses of logical units: iscsi://[user[%password]@]host[:port]/target-iqn/lun[?key=value&...], as libiscsi, QEMU and SPDK
 * write them. Keys: header_digest (none or crc32c), target_user and target_password (for targets that prove themselves, too).
 *
 * Passwords are in memory of base/secret.h, and nowhere else.
 */
#ifndef BDEVS_ISCSI_ADDRESS_H
#define BDEVS_ISCSI_ADDRESS_H

#include <stdbool.h>

#include "base/err.h"

/* Of all texts, the zero included; iSCSI names have at most 223 bytes. */
#define ISCSI_TEXT_BYTES 256
#define ISCSI_URL_BYTES 1024
#define ISCSI_PORT_DEFAULT 3260

struct iscsi_address {
	char url[ISCSI_URL_BYTES]; /* as it was given, without passwords */
	char host[ISCSI_TEXT_BYTES];
	unsigned port;
	char target[ISCSI_TEXT_BYTES];
	unsigned lun;
	bool header_digest;
	char user[ISCSI_TEXT_BYTES]; /* "": no CHAP */
	char password[ISCSI_TEXT_BYTES];
	char target_user[ISCSI_TEXT_BYTES]; /* "": the target need not prove who it is */
	char target_password[ISCSI_TEXT_BYTES];
};

/* NULL, and err, which never has a password in it: -EINVAL, -ENOMEM. */
struct iscsi_address *iscsi_address_parse(const char *url, struct err *err);
/* The first line of a file that nobody else may read is the password, the second, if there is one, the target's. */
int iscsi_address_read_passwords(struct iscsi_address *a, const char *path, struct err *err);
/* Whether everybody who has a name has a password. 0 or -EINVAL. */
int iscsi_address_check(const struct iscsi_address *a, struct err *err);
/* Wipes. Accepts NULL. */
void iscsi_address_free(struct iscsi_address *a);

#endif
