/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One error scheme: functions return 0 or a negative errno. Where a person will read the error, the
 * function also takes a `struct err *` and says which thing is wrong and why; NULL is accepted.
 * Protocol statuses (virtio, SCSI, NVMe, NBD) are types of their own, translated once at each border.
 */
#ifndef BASE_ERR_H
#define BASE_ERR_H

#define ERR_TEXT_BYTES 512

struct err {
	int code;                  /* negative errno; 0: no error */
	char text[ERR_TEXT_BYTES]; /* one sentence without full stop, names the thing */
};

#define ERR_NONE ((struct err){0})

/* Sets code and text and returns code, so that a caller can `return err_set(...)`. err may be NULL. */
int err_set(struct err *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts words in front of the text: "disk0: " + text. The code stays. */
void err_prefix(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Puts words behind the text, as far as there is room. The code stays. */
void err_append(struct err *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The text where there is one, else what the C library says of the code. */
const char *err_text(const struct err *err);

#endif
