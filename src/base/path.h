/* SPDX-License-Identifier: BSD-3-Clause */
/* Paths and folders. */
#ifndef BASE_PATH_H
#define BASE_PATH_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"

/* Makes the folder and what is missing above it (parents get mode 0755 less the umask). 0 also
 * when it is there; -ENOTDIR when something else is; or mkdir(2)'s errno. */
int path_make_dirs(const char *path, mode_t mode, struct err *err);

/* "dir/name" in memory that the caller frees; NULL when it is out. */
char *path_join(const char *dir, const char *name);

/* The path from the root; the caller frees it; NULL with errno set. What it names need not
 * exist. */
char *path_absolute(const char *path);

/* Whether name can be a file's in a folder: not empty, no slash, no control character, neither
 * "." nor "..", at most max_bytes. */
bool path_name_ok(const char *name, size_t max_bytes);

#endif
