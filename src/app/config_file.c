/* SPDX-License-Identifier: BSD-3-Clause */
#include "app/config_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"

#define CONFIG_BYTES_MAX (64 << 20)

static int
read_text(const char *path, char **ret_text, size_t *ret_bytes, struct err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	char *text = NULL;
	size_t bytes = 0, room = 0;
	struct stat st;
	int rc = 0;

	if (fd < 0 || fstat(fd, &st) != 0 || S_ISDIR(st.st_mode)) {
		rc = fd < 0 ? -errno : -EISDIR;
		if (fd >= 0) {
			close(fd);
		}
		return err_set(err, rc, "cannot read the configuration %s: %s", path,
			       strerror(-rc));
	}
	for (;;) {
		ssize_t n;

		if (bytes == room) {
			char *grown = room < CONFIG_BYTES_MAX
					      ? realloc(text, room == 0 ? 65536 : 2 * room)
					      : NULL;

			if (grown == NULL) {
				rc = room < CONFIG_BYTES_MAX ? -ENOMEM : -EFBIG;
				break;
			}
			text = grown;
			room = room == 0 ? 65536 : 2 * room;
		}
		n = read(fd, text + bytes, room - bytes);
		if (n <= 0) {
			rc = n < 0 ? -errno : 0;
			break;
		}
		bytes += (size_t)n;
	}
	close(fd);
	if (rc != 0) {
		free(text);
		return err_set(err, rc, "cannot read the configuration %s: %s", path,
			       strerror(-rc));
	}
	*ret_text = text;
	*ret_bytes = bytes;
	return 0;
}

/* Comments become blanks, so that the lines and columns of messages stay right. */
static void
blank_comments(char *text, size_t bytes)
{
	bool in_string = false;

	for (size_t i = 0; i + 1 < bytes; i++) {
		if (in_string) {
			if (text[i] == '\\') {
				i++;
			} else if (text[i] == '"') {
				in_string = false;
			}
		} else if (text[i] == '"') {
			in_string = true;
		} else if (text[i] == '/' && text[i + 1] == '/') {
			for (; i < bytes && text[i] != '\n'; i++) {
				text[i] = ' ';
			}
		} else if (text[i] == '/' && text[i + 1] == '*') {
			for (; i < bytes; i++) {
				bool end = i + 1 < bytes && text[i] == '*' && text[i + 1] == '/';

				if (text[i] != '\n') {
					text[i] = ' ';
				}
				if (end) {
					text[++i] = ' ';
					break;
				}
			}
		}
	}
}

struct walk {
	const char *path;
	json_t *calls;
	struct err *err;
	char where[128]; /* "subsystems[0] (bdev)" */
	size_t call;     /* counted from 1 within the subsystem */
};

static int
take_call(struct walk *w, json_t *call)
{
	json_t *method = json_object_get(call, "method"), *params = json_object_get(call, "params"),
	       *entry;
	char where[192];
	const char *key;
	json_t *value;

	w->call++;
	snprintf(where, sizeof(where), "%s, call %zu", w->where, w->call);
	if (!json_is_object(call) || !json_is_string(method)) {
		return err_set(w->err, -EINVAL, "%s: %s: not an object with a method", w->path,
			       where);
	}
	json_object_foreach (call, key, value) {
		if (strcmp(key, "method") != 0 && strcmp(key, "params") != 0) {
			return err_set(w->err, -EINVAL,
				       "%s: %s (%.64s): '%.64s' belongs to no call", w->path, where,
				       json_string_value(method), key);
		}
	}
	if (params != NULL && !json_is_object(params)) {
		return err_set(w->err, -EINVAL, "%s: %s (%.64s): params is not an object", w->path,
			       where, json_string_value(method));
	}
	entry = params != NULL ? json_pack("{s:O, s:O, s:s}", "method", method, "params", params,
					   "where", where)
			       : json_pack("{s:O, s:s}", "method", method, "where", where);
	return json_array_append_new(w->calls, entry) == 0
		       ? 0
		       : err_set(w->err, -ENOMEM, "%s: out of memory", w->path);
}

/* A call, or a group of calls that may be made at the same time. */
static int
take_element(struct walk *w, json_t *element)
{
	json_t *call;
	size_t i;

	if (!json_is_array(element)) {
		return take_call(w, element);
	}
	json_array_foreach (element, i, call) {
		int rc = take_call(w, call);

		if (rc != 0) {
			return rc;
		}
	}
	return 0;
}

static int
take_subsystem(struct walk *w, json_t *subsystem, size_t index)
{
	const char *name = json_string_value(json_object_get(subsystem, "subsystem"));
	json_t *config = json_object_get(subsystem, "config"), *element;
	size_t i;

	w->call = 0;
	if (name == NULL) {
		return err_set(w->err, -EINVAL,
			       "%s: subsystems[%zu]: not an object with a subsystem", w->path,
			       index);
	}
	snprintf(w->where, sizeof(w->where), "subsystems[%zu] (%.64s)", index, name);
	if (config == NULL || json_is_null(config)) {
		return 0;
	}
	if (!json_is_array(config)) {
		return err_set(w->err, -EINVAL, "%s: %s: config is neither an array nor null",
			       w->path, w->where);
	}
	json_array_foreach (config, i, element) {
		int rc = take_element(w, element);

		if (rc != 0) {
			return rc;
		}
	}
	return 0;
}

static int
walk(struct walk *w, json_t *root)
{
	json_t *subsystems = json_object_get(root, "subsystems"), *subsystem;
	size_t i;

	if (!json_is_array(subsystems)) {
		return err_set(w->err, -EINVAL, "%s: not an object with an array of subsystems",
			       w->path);
	}
	json_array_foreach (subsystems, i, subsystem) {
		int rc = take_subsystem(w, subsystem, i);

		if (rc != 0) {
			return rc;
		}
	}
	return 0;
}

int
config_file_read(const char *path, json_t **ret_calls, struct err *err)
{
	struct walk w = {.path = path, .err = err};
	json_error_t error;
	char *text = NULL;
	size_t bytes = 0;
	json_t *root;
	int rc = read_text(path, &text, &bytes, err);

	if (rc != 0) {
		return rc;
	}
	blank_comments(text, bytes);
	root = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
	free(text);
	if (root == NULL) {
		return err_set(err, -EINVAL, "%s: line %d, column %d: %s", path, error.line,
			       error.column, error.text);
	}
	w.calls = json_array();
	rc = w.calls != NULL ? walk(&w, root) : err_set(err, -ENOMEM, "%s: out of memory", path);
	json_decref(root);
	if (rc != 0) {
		json_decref(w.calls);
		return rc;
	}
	*ret_calls = w.calls;
	return 0;
}
