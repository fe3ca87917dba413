/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/path.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int
make_one(const char *path, mode_t mode, struct err *err)
{
	struct stat st;

	if (mkdir(path, mode) == 0) {
		return 0;
	}
	if (errno != EEXIST) {
		int rc = -errno;

		return err_set(err, rc, "cannot make the folder %s: %s", path, strerror(-rc));
	}
	if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
		return err_set(err, -ENOTDIR, "%s is not a folder", path);
	}
	return 0;
}

int
path_make_dirs(const char *path, mode_t mode, struct err *err)
{
	char *copy;
	int rc = 0;

	if (path[0] == '\0') {
		return err_set(err, -ENOENT, "the folder's name is empty");
	}
	copy = strdup(path);
	if (copy == NULL) {
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	}
	for (char *p = copy + 1; rc == 0 && *p != '\0'; p++) {
		if (*p == '/' && p[1] != '/' && p[1] != '\0') {
			struct stat st;

			*p = '\0';
			/* A parent may be one that we must not write to; only a missing one is
			 * our business. */
			if (stat(copy, &st) != 0) {
				rc = make_one(copy, 0755, err);
			}
			*p = '/';
		}
	}
	if (rc == 0) {
		rc = make_one(copy, mode, err);
	}
	free(copy);
	return rc;
}

char *
path_join(const char *dir, const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s", dir, name) >= 0 ? path : NULL;
}

char *
path_absolute(const char *path)
{
	char *cwd, *result;

	if (path[0] == '/') {
		return strdup(path);
	}
	cwd = getcwd(NULL, 0);
	if (cwd == NULL) {
		return NULL;
	}
	result = path_join(cwd, path);
	free(cwd);
	return result;
}

bool
path_name_ok(const char *name, size_t max_bytes)
{
	size_t len = strlen(name);

	if (len == 0 || len > max_bytes || strcmp(name, ".") == 0 || strcmp(name, "..") == 0) {
		return false;
	}
	for (size_t i = 0; i < len; i++) {
		if (name[i] == '/' || (unsigned char)name[i] < 0x20 || name[i] == 0x7f) {
			return false;
		}
	}
	return true;
}
