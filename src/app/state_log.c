/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Invariants
 *  1. state.log always is a whole log: it is only ever appended to by whole lines, or replaced by
 *     rename. A line that was written in part is taken back before the next (`bytes` is the length
 *     of what is whole).
 *  2. A line is acknowledged only after write(2) took all of it, newline included; so a tail
 *     without newline was never acknowledged by a process whose machine kept running, and cutting
 *     it off loses nothing.
 *  3. Before state.log.new is renamed, it holds, synced, every line that the old log held synced.
 */
#include "app/state_log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/descriptors.h"
#include "base/path.h"

struct state_log {
	char *dir;
	int dir_fd;
	int lock_fd;
	int fd;
	int new_fd;       /* -1: none */
	size_t bytes;     /* of whole lines in fd */
	size_t new_bytes; /* of whole lines in new_fd */
	size_t source_bytes; /* of them, at state_log_new_begin() */
	size_t lines, new_lines;
	char *text; /* what was read at open */
	size_t text_bytes;
	char *kept; /* lines appended since state_log_new_begin() */
	size_t kept_bytes, kept_lines;
	bool keeping;   /* between new_begin and new_follow */
	bool following; /* between new_follow and new_commit */
	bool dir_dirty; /* a rename is not synced yet */
};

/* ---- Plain file helpers ---- */

static int
write_all(int fd, const char *data, size_t bytes)
{
	while (bytes > 0) {
		ssize_t n = write(fd, data, bytes);

		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n <= 0) {
			return n < 0 ? -errno : -EIO;
		}
		data += n;
		bytes -= (size_t)n;
	}
	return 0;
}

/* -EIO when the file ends before. */
static int
read_range(int fd, size_t offset, char *data, size_t bytes)
{
	size_t got = 0;

	while (got < bytes) {
		ssize_t n = pread(fd, data + got, bytes - got, (off_t)(offset + got));

		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n <= 0) {
			return n < 0 ? -errno : -EIO;
		}
		got += (size_t)n;
	}
	return 0;
}

/* The whole file, with a zero byte behind it. */
static int
read_all(int fd, char **ret_data, size_t *ret_bytes)
{
	struct stat st;
	char *data;
	int rc;

	if (fstat(fd, &st) != 0) {
		return -errno;
	}
	if ((uint64_t)st.st_size > STATE_LOG_BYTES_MAX) {
		return -EFBIG;
	}
	data = malloc((size_t)st.st_size + 1);
	if (data == NULL) {
		return -ENOMEM;
	}
	rc = read_range(fd, 0, data, (size_t)st.st_size);
	if (rc != 0) {
		free(data);
		return rc;
	}
	data[st.st_size] = '\0';
	*ret_data = data;
	*ret_bytes = (size_t)st.st_size;
	return 0;
}

static size_t
count_lines(const char *text, size_t bytes)
{
	size_t lines = 0;

	for (size_t i = 0; i < bytes; i++) {
		lines += text[i] == '\n';
	}
	return lines;
}

/* ---- Opening ---- */

/* A new file with the header; synced, so that a rename to it is never ahead of its contents. */
static int
write_new_file(struct state_log *log, const char *text, size_t bytes, int *ret_fd)
{
	int fd, rc = 0;

	/* Also when there are no descriptors left for others: deletions are recorded, too. */
	descriptors_borrow();
	fd = openat(log->dir_fd, STATE_LOG_NEW_FILE, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC,
		    0600);
	if (fd < 0) {
		rc = -errno;
	}
	descriptors_return();
	if (rc != 0) {
		return rc;
	}
	rc = write_all(fd, STATE_LOG_HEADER "\n", strlen(STATE_LOG_HEADER "\n"));
	if (rc == 0) {
		rc = write_all(fd, text, bytes);
	}
	if (rc == 0 && fdatasync(fd) != 0) {
		rc = -errno;
	}
	if (rc != 0) {
		close(fd);
		unlinkat(log->dir_fd, STATE_LOG_NEW_FILE, 0);
		return rc;
	}
	*ret_fd = fd;
	return 0;
}

static int
make_file(struct state_log *log)
{
	int rc = write_new_file(log, "", 0, &log->fd);

	if (rc == 0 &&
	    renameat(log->dir_fd, STATE_LOG_NEW_FILE, log->dir_fd, STATE_LOG_FILE) != 0) {
		rc = -errno;
	}
	if (rc == 0 && fsync(log->dir_fd) != 0) {
		rc = -errno;
	}
	return rc;
}

static int
lock(struct state_log *log, struct err *err)
{
	char pid[32] = "";

	log->lock_fd = openat(log->dir_fd, STATE_LOCK_FILE, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (log->lock_fd < 0) {
		return err_set(err, -errno, "cannot open %s/%s: %s", log->dir, STATE_LOCK_FILE,
			       strerror(errno));
	}
	if (flock(log->lock_fd, LOCK_EX | LOCK_NB) != 0) {
		ssize_t n;

		if (errno != EWOULDBLOCK) {
			return err_set(err, -errno, "cannot lock %s/%s: %s", log->dir,
				       STATE_LOCK_FILE, strerror(errno));
		}
		n = pread(log->lock_fd, pid, sizeof(pid) - 1, 0);
		pid[n > 0 ? strcspn(pid, "\n") : 0] = '\0';
		return err_set(err, -EBUSY,
			       "another berthd (process %s) uses the state directory %s",
			       pid[0] != '\0' ? pid : "unknown", log->dir);
	}
	snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
	if (ftruncate(log->lock_fd, 0) != 0 || pwrite(log->lock_fd, pid, strlen(pid), 0) < 0) {
		return err_set(err, -errno, "cannot write %s/%s: %s", log->dir, STATE_LOCK_FILE,
			       strerror(errno));
	}
	return 0;
}

static int
check_header(struct state_log *log, struct err *err)
{
	const char *end = memchr(log->text, '\n', log->text_bytes);
	static const char key[] = "{\"berth_state\":";

	if (end != NULL &&
	    strncmp(log->text, STATE_LOG_HEADER "\n", strlen(STATE_LOG_HEADER "\n")) == 0) {
		return 0;
	}
	if (strncmp(log->text, key, strlen(key)) == 0) {
		return err_set(err, -EPROTO, "%s/%s was written by a later version of berth",
			       log->dir, STATE_LOG_FILE);
	}
	return err_set(err, -EPROTO, "%s/%s does not begin with %s: not a log of berthd", log->dir,
		       STATE_LOG_FILE, STATE_LOG_HEADER);
}

static int
cut_tail(struct state_log *log, size_t *ret_cut_bytes, struct err *err)
{
	size_t whole = log->text_bytes;

	while (whole > 0 && log->text[whole - 1] != '\n') {
		whole--;
	}
	*ret_cut_bytes = log->text_bytes - whole;
	if (whole != log->text_bytes && ftruncate(log->fd, (off_t)whole) != 0) {
		return err_set(err, -errno, "cannot cut %s/%s: %s", log->dir, STATE_LOG_FILE,
			       strerror(errno));
	}
	log->text_bytes = whole;
	log->text[whole] = '\0';
	return 0;
}

static int
read_file(struct state_log *log, size_t *ret_cut_bytes, struct err *err)
{
	int rc = 0;

	log->fd = openat(log->dir_fd, STATE_LOG_FILE, O_RDWR | O_APPEND | O_CLOEXEC);
	if (log->fd < 0) {
		rc = errno == ENOENT ? make_file(log) : -errno;
	}
	if (rc == 0) {
		rc = read_all(log->fd, &log->text, &log->text_bytes);
	}
	if (rc == 0 && log->text_bytes <= strlen(STATE_LOG_HEADER) &&
	    memcmp(log->text, STATE_LOG_HEADER, log->text_bytes) == 0) {
		/* Cut within the header: nothing was ever in it. */
		close(log->fd);
		log->fd = -1;
		state_log_forget_text(log);
		rc = make_file(log);
		if (rc == 0) {
			rc = read_all(log->fd, &log->text, &log->text_bytes);
		}
	}
	if (rc != 0) {
		return err_set(err, rc, "cannot read %s/%s: %s", log->dir, STATE_LOG_FILE,
			       strerror(-rc));
	}
	rc = check_header(log, err);
	if (rc == 0) {
		rc = cut_tail(log, ret_cut_bytes, err);
	}
	log->bytes = log->text_bytes;
	log->lines = rc == 0 ? count_lines(log->text, log->text_bytes) - 1 : 0;
	return rc;
}

int
state_log_open(const char *dir, struct state_log **ret_log, size_t *ret_cut_bytes, struct err *err)
{
	struct state_log *log;
	int rc = path_make_dirs(dir, 0700, err);

	if (rc != 0) {
		return rc;
	}
	log = calloc(1, sizeof(*log));
	if (log == NULL) {
		return err_set(err, -ENOMEM, "state directory: out of memory");
	}
	log->lock_fd = log->fd = log->new_fd = -1;
	log->dir = strdup(dir);
	log->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (log->dir == NULL || log->dir_fd < 0) {
		rc = err_set(err, -errno, "cannot open the state directory %s: %s", dir,
			     strerror(errno));
	}
	if (rc == 0) {
		rc = lock(log, err);
	}
	if (rc == 0) {
		rc = read_file(log, ret_cut_bytes, err);
	}
	if (rc != 0) {
		state_log_close(log);
		return rc;
	}
	*ret_log = log;
	return 0;
}

void
state_log_close(struct state_log *log)
{
	if (log == NULL) {
		return;
	}
	state_log_new_abort(log);
	if (log->fd >= 0) {
		close(log->fd);
	}
	if (log->lock_fd >= 0) {
		close(log->lock_fd);
	}
	if (log->dir_fd >= 0) {
		close(log->dir_fd);
	}
	free(log->text);
	free(log->dir);
	free(log);
}

const char *
state_log_text(const struct state_log *log, size_t *ret_bytes)
{
	size_t header = strlen(STATE_LOG_HEADER "\n");

	CHECK(log->text != NULL);
	*ret_bytes = log->text_bytes - header;
	return log->text + header;
}

void
state_log_forget_text(struct state_log *log)
{
	free(log->text);
	log->text = NULL;
	log->text_bytes = 0;
}

size_t
state_log_lines(const struct state_log *log)
{
	return log->lines;
}

int
state_log_dir_fd(const struct state_log *log)
{
	return log->dir_fd;
}

/* ---- Appending ---- */

/* Line and newline in one write; what was written in part is taken back, at the latest before
 * the next line. */
static int
append_to(int fd, size_t *bytes, const char *text, size_t len)
{
	struct stat st;
	int rc;

	if (fstat(fd, &st) != 0) {
		return -errno;
	}
	if ((size_t)st.st_size != *bytes && ftruncate(fd, (off_t)*bytes) != 0) {
		return -errno;
	}
	rc = write_all(fd, text, len);
	if (rc == 0) {
		*bytes += len;
	} else if (ftruncate(fd, (off_t)*bytes) != 0) {
		/* The next append tries again, and the next open cuts the tail off. */
		return rc;
	}
	return rc;
}

static int
keep(struct state_log *log, const char *text, size_t len)
{
	char *kept = realloc(log->kept, log->kept_bytes + len);

	if (kept == NULL) {
		return -ENOMEM;
	}
	memcpy(kept + log->kept_bytes, text, len);
	log->kept = kept;
	log->kept_bytes += len;
	log->kept_lines++;
	return 0;
}

/* A new log that cannot have the line is given up: the old one has it. Its descriptor may be in
 * use by a sync just now, so closing it is left to state_log_new_abort(). */
static void
append_new(struct state_log *log, const char *text, size_t len)
{
	if (log->keeping) {
		log->keeping = keep(log, text, len) == 0;
	} else if (log->following) {
		log->following = append_to(log->new_fd, &log->new_bytes, text, len) == 0;
		log->new_lines++;
	}
}

int
state_log_append(struct state_log *log, const char *line, size_t bytes, struct err *err)
{
	char *text = malloc(bytes + 1);
	int rc;

	CHECK(memchr(line, '\n', bytes) == NULL);
	if (text == NULL) {
		return err_set(err, -ENOMEM, "%s/%s: out of memory", log->dir, STATE_LOG_FILE);
	}
	memcpy(text, line, bytes);
	text[bytes] = '\n';
	rc = append_to(log->fd, &log->bytes, text, bytes + 1);
	if (rc == 0) {
		log->lines++;
		append_new(log, text, bytes + 1);
	}
	free(text);
	return rc == 0 ? 0
		       : err_set(err, rc, "cannot write %s/%s: %s", log->dir, STATE_LOG_FILE,
				 strerror(-rc));
}

int
state_log_sync(struct state_log *log)
{
	int new_fd = log->new_fd;
	int rc = 0;

	if (fdatasync(log->fd) != 0) {
		rc = -errno;
	}
	if (new_fd >= 0 && fdatasync(new_fd) != 0) {
		rc = -errno;
	}
	if (log->dir_dirty) {
		if (fsync(log->dir_fd) != 0) {
			rc = -errno;
		} else {
			log->dir_dirty = false;
		}
	}
	return rc;
}

/* ---- A new log ---- */

void
state_log_new_begin(struct state_log *log)
{
	CHECK(!log->keeping && !log->following && log->new_fd < 0);
	log->keeping = true;
	log->source_bytes = log->bytes;
}

int
state_log_new_source(const struct state_log *log, char **ret_text, size_t *ret_bytes)
{
	size_t header = strlen(STATE_LOG_HEADER "\n"), bytes = log->source_bytes - header;
	char *text = malloc(bytes + 1);
	int rc = text != NULL ? read_range(log->fd, header, text, bytes) : -ENOMEM;

	if (rc != 0) {
		free(text);
		return rc;
	}
	text[bytes] = '\0';
	*ret_text = text;
	*ret_bytes = bytes;
	return 0;
}

int
state_log_new_write(struct state_log *log, const char *text, size_t bytes)
{
	int fd = -1;
	int rc = write_new_file(log, text, bytes, &fd);

	if (rc != 0) {
		return rc;
	}
	log->new_bytes = strlen(STATE_LOG_HEADER "\n") + bytes;
	log->new_lines = count_lines(text, bytes);
	log->new_fd = fd;
	return 0;
}

int
state_log_new_follow(struct state_log *log)
{
	int rc;

	if (!log->keeping || log->new_fd < 0) {
		return -ECANCELED; /* given up by an append */
	}
	rc = append_to(log->new_fd, &log->new_bytes, log->kept, log->kept_bytes);
	if (rc != 0) {
		return rc;
	}
	log->new_lines += log->kept_lines;
	log->keeping = false;
	log->following = true;
	free(log->kept);
	log->kept = NULL;
	log->kept_bytes = log->kept_lines = 0;
	return 0;
}

int
state_log_new_commit(struct state_log *log)
{
	if (!log->following) {
		return -ECANCELED; /* given up by an append */
	}
	if (renameat(log->dir_fd, STATE_LOG_NEW_FILE, log->dir_fd, STATE_LOG_FILE) != 0) {
		return -errno;
	}
	close(log->fd);
	log->fd = log->new_fd;
	log->bytes = log->new_bytes;
	log->lines = log->new_lines;
	log->new_fd = -1;
	log->following = false;
	log->dir_dirty = true;
	return 0;
}

void
state_log_new_abort(struct state_log *log)
{
	log->keeping = false;
	log->following = false;
	free(log->kept);
	log->kept = NULL;
	log->kept_bytes = log->kept_lines = 0;
	if (log->new_fd >= 0) {
		close(log->new_fd);
		log->new_fd = -1;
		unlinkat(log->dir_fd, STATE_LOG_NEW_FILE, 0);
	}
}
