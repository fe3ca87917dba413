/* SPDX-License-Identifier: BSD-3-Clause */
/* Probes of berth doctor: descriptors, locked memory, the folders that berthd works in. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "app/ctl_doctor.h"
#include "base/check.h"

#define PATH_BYTES DOCTOR_PATH_BYTES

/* ---- Limits ---- */

/* "unlimited" is INT64_MAX. */
static bool
read_limit(const struct doctor *d, const char *key, int64_t *ret_soft, int64_t *ret_hard)
{
	char *text = doctor_read_own(d, "limits"), line[128], soft[32], hard[32];
	bool found = text != NULL && doctor_line(text, key, line, sizeof(line)) &&
		     sscanf(line, "%31s %31s", soft, hard) == 2;

	if (found) {
		*ret_soft = strcmp(soft, "unlimited") == 0 ? INT64_MAX : strtoll(soft, NULL, 10);
		*ret_hard = strcmp(hard, "unlimited") == 0 ? INT64_MAX : strtoll(hard, NULL, 10);
	}
	free(text);
	return found;
}

/* A VM with one queue: its connection, kick and call; a disk for it: its file and the listening socket. */
#define FDS_A_VM 3
#define FDS_A_DISK 2
#define FDS_AT_REST 32
#define ROOM_LOW 100

static const char descriptors_advice[] =
	"raise it: LimitNOFILE= of the systemd unit, ulimit -n, --ulimit nofile= of the container";

/* What berthd has open: counted where this user may look, else estimated. */
static int64_t
descriptors_used(const struct doctor *d, bool *ret_counted)
{
	char path[64];
	int64_t used;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)d->pid);
	used = d->pid > 0 ? doctor_count_entries(d, path) : -1;
	*ret_counted = used >= 0;
	return used >= 0 ? used
			 : FDS_AT_REST + FDS_A_DISK * doctor_int(d->status, "controllers") +
				   FDS_A_VM * doctor_int(d->status, "sessions");
}

static void
judge_room(struct doctor *d, int64_t limit, int64_t used, bool counted)
{
	int64_t room = MAX(limit - used, INT64_C(0)) / (FDS_A_VM + FDS_A_DISK);
	enum doctor_level level = limit - used < FDS_A_VM + FDS_A_DISK ? DOCTOR_BAD
				  : room < ROOM_LOW                    ? DOCTOR_WARN
								       : DOCTOR_OK;

	if (limit == INT64_MAX) {
		doctor_add(d, DOCTOR_OK, NULL, "berthd may open as many files as the system can");
	} else {
		doctor_add(d, level, level != DOCTOR_OK ? descriptors_advice : NULL,
			   "berthd may open %" PRId64 " files and has %s%" PRId64
			   " open: room for about %" PRId64
			   " more VMs with a disk of one queue each",
			   limit, counted ? "" : "about ", used, room);
	}
}

void
doctor_descriptors_probe(struct doctor *d)
{
	int64_t soft, hard;
	bool counted;

	if (!read_limit(d, "Max open files", &soft, &hard)) {
		doctor_add(d, DOCTOR_NOTE, NULL,
			   "/proc does not say how many files a process may open");
	} else if (d->status != NULL) {
		int64_t used = descriptors_used(d, &counted);

		/* One whose limits cannot be seen raises its own as far as it may, as any berthd does. */
		judge_room(d, d->pid > 0 ? soft : hard, used, counted);
	} else {
		/* berthd raises the soft limit by itself. */
		int64_t room = (hard - FDS_AT_REST) / (FDS_A_VM + FDS_A_DISK);

		doctor_add(d, room < ROOM_LOW ? DOCTOR_WARN : DOCTOR_OK,
			   room < ROOM_LOW ? descriptors_advice : NULL,
			   "a berthd started here may open %" PRId64
			   " files: room for about %" PRId64 " VMs with a disk of one queue each",
			   hard, room);
	}
}

void
doctor_memlock_probe(struct doctor *d)
{
	int64_t soft, hard;
	char text[32];

	if (!read_limit(d, "Max locked memory", &soft, &hard)) {
		doctor_add(d, DOCTOR_NOTE, NULL,
			   "/proc does not say how much memory a process may lock");
	} else {
		doctor_add(d, DOCTOR_OK, NULL, "%s memory may be locked; berthd locks none",
			   soft == INT64_MAX ? "all" : doctor_bytes((uint64_t)soft, text));
	}
}

/* ---- Folders ---- */

/* Whether the target's user may write there by its mode; access lists are not looked at. */
static bool
target_may_write(const struct doctor *d, const struct stat *st)
{
	char *status = doctor_read(d, "/proc/%d/status", (int)d->pid), uids[64] = "", gids[64] = "",
	     groups[512] = "";
	unsigned uid = 0, gid = 0;
	bool in_group = false;

	if (status == NULL) {
		return true;
	}
	/* The effective ones are second. */
	doctor_line(status, "Uid:", uids, sizeof(uids));
	doctor_line(status, "Gid:", gids, sizeof(gids));
	doctor_line(status, "Groups:", groups, sizeof(groups));
	free(status);
	if (sscanf(uids, "%*u %u", &uid) != 1 || sscanf(gids, "%*u %u", &gid) != 1 || uid == 0) {
		return true;
	}
	in_group = gid == st->st_gid;
	for (char *word = strtok(groups, " \t"); word != NULL; word = strtok(NULL, " \t")) {
		in_group |= strtoul(word, NULL, 10) == st->st_gid;
	}
	return (st->st_mode & (uid == st->st_uid ? S_IWUSR : in_group ? S_IWGRP : S_IWOTH)) != 0;
}

static bool
may_write(const struct doctor *d, const char *path, const struct stat *st)
{
	char whole[PATH_BYTES];

	return d->pid > 0 ? target_may_write(d, st)
			  : doctor_folder(d, path, whole) && access(whole, W_OK | X_OK) == 0;
}

/* What is wrong with a folder has been said; false: it is no use. */
static bool
check_folder(struct doctor *d, const char *path, const char *what)
{
	char whole[PATH_BYTES];
	struct stat st;
	enum doctor_level level = d->status != NULL ? DOCTOR_BAD : DOCTOR_NOTE;

	if (d->status != NULL && d->pid == 0) {
		doctor_add(d, DOCTOR_NOTE, NULL, "%s: berthd runs where this command cannot look",
			   path);
		return false;
	}
	if (!doctor_folder(d, path, whole) || stat(whole, &st) != 0) {
		doctor_add(d, level, "make it, for the user that berthd runs as", "%s: %s", path,
			   strerror(errno));
		return false;
	}
	if (!S_ISDIR(st.st_mode)) {
		doctor_add(d, DOCTOR_BAD, "name another folder", "%s is no folder", path);
		return false;
	}
	if (!may_write(d, path, &st)) {
		doctor_add(d, DOCTOR_BAD, "give it to the user that berthd runs as",
			   "berthd may not write to %s: %s", path, what);
		return false;
	}
	return true;
}

#define NAME_ROOM_LOW 40

void
doctor_socket_dir_probe(struct doctor *d)
{
	int room;

	if (d->socket_dir == NULL || !check_folder(d, d->socket_dir, "no controller can be made")) {
		return;
	}
	/* A slash between, a zero behind. */
	room = (int)sizeof(((struct sockaddr_un *)NULL)->sun_path) - (int)strlen(d->socket_dir) - 2;
	if (room < NAME_ROOM_LOW) {
		doctor_add(d, room < 8 ? DOCTOR_BAD : DOCTOR_WARN,
			   "use a folder with a shorter path (-S)",
			   "%s is so long that the name of a controller may have %d bytes: a "
			   "socket's path ends at 107",
			   d->socket_dir, MAX(room, 0));
	} else {
		doctor_add(d, DOCTOR_OK, NULL,
			   "%s can be written to; names of controllers may have %d bytes",
			   d->socket_dir, MIN(room, 255));
	}
}

/* ---- Sockets that nobody answers on ---- */

static int
compare_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

struct names {
	char **names;
	size_t count, capacity;
};

static void
names_add(struct names *n, const char *name)
{
	if (n->count == n->capacity) {
		n->capacity = 2 * n->capacity + 64;
		n->names = reallocarray(n->names, n->capacity, sizeof(*n->names));
		CHECK(n->names != NULL);
	}
	n->names[n->count] = strdup(name);
	CHECK(n->names[n->count++] != NULL);
}

static void
names_release(struct names *n)
{
	for (size_t i = 0; i < n->count; i++) {
		free(n->names[i]);
	}
	free(n->names);
}

/* A controller whose VM is connected may listen no more, to save a descriptor: its path is not left behind. */
static void
add_controllers(const struct doctor *d, struct names *ret)
{
	const json_t *controller;
	char path[PATH_BYTES];
	size_t i;

	json_array_foreach (d->controllers, i, controller) {
		snprintf(path, sizeof(path), "%s/%s", d->socket_dir, doctor_text(controller, "ctrlr"));
		names_add(ret, path);
	}
}

/* Paths of sockets that some process of this network namespace, or a contained target's, has bound. */
static bool
bound_sockets(const struct doctor *d, struct names *ret)
{
	char path[PATH_BYTES], line[512];
	FILE *f;

	if (d->socket_dir_fd > 0) {
		snprintf(path, sizeof(path), "%s/proc/%d/net/unix", d->root, (int)d->pid);
	} else {
		snprintf(path, sizeof(path), "%s/proc/net/unix", d->root);
	}
	f = fopen(path, "re");
	if (f == NULL) {
		return false;
	}
	while (fgets(line, sizeof(line), f) != NULL) {
		const char *at = strchr(line, '/');

		line[strcspn(line, "\n")] = '\0';
		if (at != NULL) {
			names_add(ret, at);
		}
	}
	fclose(f);
	add_controllers(d, ret);
	qsort(ret->names, ret->count, sizeof(char *), compare_text);
	return true;
}

/* Sockets in the folder that are not among those bound. */
static size_t
find_stale(const struct doctor *d, const struct names *bound, char ret_example[static PATH_BYTES])
{
	char whole[PATH_BYTES], path[PATH_BYTES];
	const struct dirent *entry;
	size_t count = 0;
	DIR *dir;

	dir = doctor_folder(d, d->socket_dir, whole) ? opendir(whole) : NULL;
	while (dir != NULL && (entry = readdir(dir)) != NULL) {
		const char *key = path;
		struct stat st;

		if (snprintf(path, sizeof(path), "%s/%s", d->socket_dir, entry->d_name) >=
			    (int)sizeof(path) ||
		    fstatat(dirfd(dir), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 ||
		    !S_ISSOCK(st.st_mode) ||
		    bsearch(&key, bound->names, bound->count, sizeof(char *), compare_text) !=
			    NULL) {
			continue;
		}
		if (count++ == 0) {
			strcpy(ret_example, path);
		}
	}
	if (dir != NULL) {
		closedir(dir);
	}
	return count;
}

void
doctor_stale_sockets_probe(struct doctor *d)
{
	struct names bound = {0};
	char example[PATH_BYTES] = "";
	size_t stale;

	/* Those of a berthd in another network namespace would all look stale. */
	if (d->socket_dir == NULL || (d->status != NULL && d->pid == 0) ||
	    !bound_sockets(d, &bound)) {
		return;
	}
	stale = find_stale(d, &bound, example);
	if (stale > 0) {
		doctor_add(d, DOCTOR_NOTE,
			   "delete them when nobody of another network namespace has them; berthd "
			   "replaces those "
			   "whose names it needs",
			   "%zu sockets in %s on which nobody listens, such as %s: left by a "
			   "process that was killed",
			   stale, d->socket_dir, example);
	} else {
		doctor_add(d, DOCTOR_OK, NULL, "no socket in %s was left behind", d->socket_dir);
	}
	names_release(&bound);
}

/* ---- The state directory ---- */

#define STATE_FREE_LOW_BYTES (UINT64_C(1) << 30)

void
doctor_judge_file_system(struct doctor *d, const char *path, uint64_t type, uint64_t free_bytes,
			 uint64_t total_bytes)
{
	static const struct {
		uint64_t type;
		enum doctor_level level;
		const char *text, *advice;
	} kinds[] = {
		{TMPFS_MAGIC, DOCTOR_WARN,
		 "is in memory (tmpfs): disks are gone when the host goes down",
		 "name a folder on a disk"},
		{RAMFS_MAGIC, DOCTOR_WARN,
		 "is in memory (ramfs): disks are gone when the host goes down",
		 "name a folder on a disk"},
		{OVERLAYFS_SUPER_MAGIC, DOCTOR_WARN,
		 "is in an overlay, as a container's own files are: it may go with the container",
		 "mount a volume there"},
		{NFS_SUPER_MAGIC, DOCTOR_NOTE,
		 "is on NFS: how durable a flush is, its server decides", NULL},
	};
	char a[32], b[32];

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (kinds[i].type == type) {
			doctor_add(d, kinds[i].level, kinds[i].advice, "%s %s", path,
				   kinds[i].text);
		}
	}
	if (free_bytes < STATE_FREE_LOW_BYTES || free_bytes < total_bytes / 20) {
		doctor_add(d, free_bytes == 0 ? DOCTOR_BAD : DOCTOR_WARN,
			   "make room: a disk that cannot grow fails its guest's writes",
			   "%s has %s of %s left", path, doctor_bytes(free_bytes, a),
			   doctor_bytes(total_bytes, b));
	} else {
		doctor_add(d, DOCTOR_OK, NULL, "%s has %s of %s left", path,
			   doctor_bytes(free_bytes, a), doctor_bytes(total_bytes, b));
	}
}

/* Disks are sparse: what they may still grow by. */
static void
judge_promises(struct doctor *d, uint64_t free_bytes)
{
	uint64_t promised = 0;
	const json_t *disk;
	char a[32], b[32];
	size_t i;

	json_array_foreach (d->disks, i, disk) {
		int64_t rest = doctor_int(disk, "size") - doctor_int(disk, "allocated");

		promised += rest > 0 ? (uint64_t)rest : 0;
	}
	if (promised > free_bytes) {
		doctor_add(d, DOCTOR_NOTE, "watch the free space",
			   "disks are promised %s more than they take now, and %s are free: more "
			   "is promised than there is",
			   doctor_bytes(promised, a), doctor_bytes(free_bytes, b));
	}
}

static void
judge_fsync(struct doctor *d, const char *whole)
{
	int fd = open(whole, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd >= 0 && fsync(fd) != 0) {
		doctor_add(d, DOCTOR_WARN, "name a folder on another file system",
			   "fsync fails there (%s): what guests flush may be lost when power goes",
			   strerror(errno));
	}
	if (fd >= 0) {
		close(fd);
	}
}

void
doctor_state_dir_probe(struct doctor *d)
{
	char whole[PATH_BYTES];
	struct statfs fs;

	if (d->state_dir == NULL && d->status != NULL) {
		doctor_add(d, DOCTOR_NOTE, "start berthd with --state-dir DIR",
			   "no state directory: what is made is forgotten when berthd ends, and "
			   "berth disk cannot be used");
	}
	if (d->state_dir == NULL ||
	    !check_folder(d, d->state_dir, "nothing that is made is remembered")) {
		return;
	}
	if (!doctor_folder(d, d->state_dir, whole) || statfs(whole, &fs) != 0) {
		doctor_add(d, DOCTOR_NOTE, NULL, "%s: %s", d->state_dir, strerror(errno));
		return;
	}
	doctor_judge_file_system(d, d->state_dir, (uint64_t)fs.f_type,
				 (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize,
				 (uint64_t)fs.f_blocks * (uint64_t)fs.f_bsize);
	judge_promises(d, (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize);
	judge_fsync(d, whole);
}
