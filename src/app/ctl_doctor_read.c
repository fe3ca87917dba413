/* SPDX-License-Identifier: BSD-3-Clause */
/* What probes of berth doctor read with, and how they say what they found. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "app/ctl.h"
#include "app/ctl_doctor.h"
#include "base/check.h"

#define READ_MAX_BYTES (1u << 20)
#define PATH_BYTES DOCTOR_PATH_BYTES

/* ---- Findings ---- */

void
doctor_add(struct doctor *d, enum doctor_level level, const char *advice, const char *fmt, ...)
{
	struct doctor_finding *f;
	va_list ap;

	if (d->count == d->capacity) {
		d->capacity = 2 * d->capacity + 32;
		d->findings = reallocarray(d->findings, d->capacity, sizeof(*d->findings));
		CHECK(d->findings != NULL);
	}
	f = &d->findings[d->count++];
	*f = (struct doctor_finding){.level = level, .subject = d->subject};
	va_start(ap, fmt);
	CHECK(vasprintf(&f->text, fmt, ap) >= 0);
	va_end(ap);
	if (advice != NULL) {
		f->advice = strdup(advice);
		CHECK(f->advice != NULL);
	}
}

static void
release_sample(struct doctor_sample *s)
{
	free(s->stat);
	json_decref(s->reactors);
	json_decref(s->pollers);
}

static void
close_folder(int fd)
{
	if (fd > 0) {
		close(fd);
	}
}

void
doctor_release(struct doctor *d)
{
	for (size_t i = 0; i < d->count; i++) {
		free(d->findings[i].text);
		free(d->findings[i].advice);
	}
	free(d->findings);
	release_sample(&d->before);
	release_sample(&d->after);
	json_decref(d->status);
	json_decref(d->controllers);
	json_decref(d->stats);
	json_decref(d->disks);
	close_folder(d->socket_dir_fd);
	close_folder(d->state_dir_fd);
	*d = (struct doctor){.root = d->root};
}

/* ---- Files ---- */

static FILE *
open_file(const struct doctor *d, const char *path)
{
	char whole[PATH_BYTES];

	return snprintf(whole, sizeof(whole), "%s%s", d->root, path) < (int)sizeof(whole)
		       ? fopen(whole, "re")
		       : NULL;
}

char *
doctor_read(const struct doctor *d, const char *fmt, ...)
{
	char path[PATH_BYTES], *text = NULL;
	size_t len = 0, capacity = 0;
	va_list ap;
	FILE *f;

	va_start(ap, fmt);
	vsnprintf(path, sizeof(path), fmt, ap);
	va_end(ap);
	f = open_file(d, path);
	while (f != NULL && len < READ_MAX_BYTES && !feof(f) && !ferror(f)) {
		capacity += 8192;
		text = realloc(text, capacity + 1);
		CHECK(text != NULL);
		len += fread(text + len, 1, capacity - len, f);
		text[len] = '\0';
	}
	if (f != NULL && ferror(f)) {
		free(text);
		text = NULL;
	}
	if (f != NULL) {
		fclose(f);
	}
	return text;
}

char *
doctor_read_own(const struct doctor *d, const char *name)
{
	char *text = d->pid > 0 ? doctor_read(d, "/proc/%d/%s", (int)d->pid, name) : NULL;

	return text != NULL ? text : doctor_read(d, "/proc/self/%s", name);
}

bool
doctor_number(const struct doctor *d, const char *path, int64_t *ret_number)
{
	char *text = doctor_read(d, "%s", path), *end;
	bool found = false;

	if (text != NULL) {
		errno = 0;
		*ret_number = strtoll(text, &end, 10);
		found = end != text && errno == 0;
	}
	free(text);
	return found;
}

bool
doctor_stat(const struct doctor *d, const char *path, struct stat *ret_st)
{
	char whole[PATH_BYTES];

	return snprintf(whole, sizeof(whole), "%s%s", d->root, path) < (int)sizeof(whole) &&
	       stat(whole, ret_st) == 0;
}

bool
doctor_folder(const struct doctor *d, const char *path, char ret_path[static DOCTOR_PATH_BYTES])
{
	int fd = path == d->socket_dir ? d->socket_dir_fd : path == d->state_dir ? d->state_dir_fd : 0;

	if (fd > 0) {
		snprintf(ret_path, DOCTOR_PATH_BYTES, "/proc/self/fd/%d", fd);
	} else if (fd == 0 && snprintf(ret_path, DOCTOR_PATH_BYTES, "%s%s", d->root, path) >= DOCTOR_PATH_BYTES) {
		fd = -ENAMETOOLONG;
	}
	errno = fd < 0 ? -fd : 0;
	return fd >= 0;
}

/* A path there means what it means to the target, its absolute symbolic links too. */
static int
open_in(int root, const char *path)
{
	struct open_how how = {.flags = O_PATH | O_CLOEXEC, .resolve = RESOLVE_IN_ROOT};
	int fd;

	if (path == NULL) {
		return 0;
	}
	fd = (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
	return fd >= 0 ? fd : -errno;
}

void
doctor_open_folders(struct doctor *d)
{
	char path[64];
	struct stat own, its;
	int root;

	snprintf(path, sizeof(path), "/proc/%d/ns/mnt", (int)d->pid);
	if (d->pid == 0 || stat("/proc/self/ns/mnt", &own) != 0 || stat(path, &its) != 0 ||
	    (own.st_dev == its.st_dev && own.st_ino == its.st_ino)) {
		return;
	}
	snprintf(path, sizeof(path), "/proc/%d/root", (int)d->pid);
	root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root >= 0) {
		d->socket_dir_fd = open_in(root, d->socket_dir);
		d->state_dir_fd = open_in(root, d->state_dir);
		close(root);
	}
}

int64_t
doctor_count_lines(const struct doctor *d, const char *path)
{
	FILE *f = open_file(d, path);
	int64_t count = 0;
	int c;

	if (f == NULL) {
		return -1;
	}
	while ((c = getc_unlocked(f)) != EOF) {
		count += c == '\n';
	}
	fclose(f);
	return count;
}

int64_t
doctor_count_entries(const struct doctor *d, const char *path)
{
	char whole[PATH_BYTES];
	const struct dirent *entry;
	int64_t count = 0;
	DIR *dir;

	snprintf(whole, sizeof(whole), "%s%s", d->root, path);
	dir = opendir(whole);
	if (dir == NULL) {
		return -1;
	}
	while ((entry = readdir(dir)) != NULL) {
		count += entry->d_name[0] != '.';
	}
	closedir(dir);
	return count;
}

bool
doctor_line(const char *text, const char *key, char *ret_value, size_t size)
{
	for (const char *line = text; line != NULL && *line != '\0'; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, key, strlen(key)) == 0) {
			line += strlen(key);
			line += strspn(line, " \t");
			snprintf(ret_value, size, "%.*s", (int)strcspn(line, "\n"), line);
			return true;
		}
	}
	return false;
}

/* ---- Sets of CPUs ---- */

bool
doctor_cpus(const char *list, struct cpumask *ret_mask)
{
	char text[2048];
	size_t len = list != NULL ? strcspn(list, " \t\n") : 0;

	*ret_mask = (struct cpumask){{0}};
	if (len == 0 || len + 3 > sizeof(text)) {
		return list != NULL && len == 0;
	}
	snprintf(text, sizeof(text), "[%.*s]", (int)len, list);
	return cpumask_parse(text, ret_mask, NULL) == 0;
}

const char *
doctor_cpus_text(const struct cpumask *mask, char *text, size_t size)
{
	size_t len = 0;
	unsigned cpu = cpumask_next(mask, 0);

	snprintf(text, size, "none");
	while (cpu < CPUMASK_CPUS && len < size) {
		unsigned last = cpu;
		int n;

		while (cpumask_test(mask, last + 1)) {
			last++;
		}
		n = last > cpu ? snprintf(text + len, size - len, "%s%u-%u", len > 0 ? "," : "",
					  cpu, last)
			       : snprintf(text + len, size - len, "%s%u", len > 0 ? "," : "", cpu);
		len += n > 0 ? (size_t)n : 0;
		cpu = cpumask_next(mask, last + 1);
	}
	return text;
}

static bool
add_allowed(char *status, struct cpumask *mask)
{
	struct cpumask one;
	char list[2048];
	bool found = status != NULL &&
		     doctor_line(status, "Cpus_allowed_list:", list, sizeof(list)) &&
		     doctor_cpus(list, &one);

	for (size_t i = 0; found && i < ARRAY_SIZE(mask->words); i++) {
		mask->words[i] |= one.words[i];
	}
	free(status);
	return found;
}

bool
doctor_allowed_cpus(const struct doctor *d, struct cpumask *ret_mask)
{
	char path[PATH_BYTES];
	const struct dirent *entry;
	bool found = false;
	DIR *tasks;

	*ret_mask = (struct cpumask){{0}};
	snprintf(path, sizeof(path), "%s/proc/%d/task", d->root, (int)d->pid);
	tasks = d->pid > 0 ? opendir(path) : NULL;
	/* Reactors may be pinned, each to its own. */
	while (tasks != NULL && (entry = readdir(tasks)) != NULL) {
		if (entry->d_name[0] != '.') {
			found |= add_allowed(doctor_read(d, "/proc/%d/task/%s/status", (int)d->pid,
							 entry->d_name),
					     ret_mask);
		}
	}
	if (tasks != NULL) {
		closedir(tasks);
	}
	return found || add_allowed(doctor_read_own(d, "status"), ret_mask);
}

/* ---- Others ---- */

const char *
doctor_bytes(uint64_t bytes, char text[static 32])
{
	return ctl_bytes(bytes, text);
}

const json_t *
doctor_reactor(const struct doctor_sample *s, size_t i)
{
	return json_array_get(json_object_get(s->reactors, "reactors"), i);
}

const json_t *
doctor_reactor_details(const struct doctor_sample *s, size_t i)
{
	return json_array_get(json_object_get(s->reactors, "details"), i);
}

int64_t
doctor_int(const json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

const char *
doctor_text(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text != NULL ? text : "";
}
