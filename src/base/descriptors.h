/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * File descriptors as what a process runs out of first: each controller takes one, each connected VM
 * three more. The limit is raised as far as it goes, less a few that are kept, so that a process at its limit can
 * still be asked, and told to delete things. Any thread.
 */
#ifndef BASE_DESCRIPTORS_H
#define BASE_DESCRIPTORS_H

#include <stdbool.h>

#include "base/err.h"

/* Kept at most; of a small limit an eighth. */
#define DESCRIPTORS_KEPT 32
/* For so many the kernel has room from the start: eight bytes each. */
#define DESCRIPTORS_AT_ONCE 32768

/*
 * Raises the soft RLIMIT_NOFILE to the hard one less those kept, once, before other threads are made. 0 or a negative
 * errno. Programs that the process starts inherit it; they would have to set it back if they use select(2).
 */
int descriptors_raise(struct err *err);

/* How many descriptors there may be, those kept included; 0 before descriptors_raise(). */
unsigned descriptors_max(void);
unsigned descriptors_kept(void);

/* Between these two calls those kept may be used, too; what was opened then stays open. They nest. */
void descriptors_borrow(void);
void descriptors_return(void);

/*
 * The number that the last of `count` (> 0) new descriptors would have now, or -EMFILE: there are not so many. Tries it
 * with copies of fd that it closes again, DESCRIPTORS_TRIED at most; what is beyond is reckoned from their numbers, as if
 * no descriptor above them were open.
 */
int descriptors_probe(int fd, unsigned count);
#define DESCRIPTORS_TRIED 64

/* Whether rc (a negative errno) says that there are no descriptors left. */
bool descriptors_out(int rc);

/* For an error whose code says that: adds how many there are, to its text. Any other is left as it is. */
void descriptors_explain(struct err *err);

#endif
