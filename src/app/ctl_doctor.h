/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * berth doctor, what its files share. A probe looks at one thing and adds findings; it reads files below `root` and what was
 * gathered before (struct doctor), changes nothing, and asks nobody.
 */
#ifndef APP_CTL_DOCTOR_H
#define APP_CTL_DOCTOR_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/cpumask.h"

enum doctor_level { DOCTOR_OK, DOCTOR_NOTE, DOCTOR_WARN, DOCTOR_BAD, DOCTOR_LEVELS };

struct doctor_finding {
	enum doctor_level level;
	const char *subject; /* a probe's name */
	char *text;          /* what was found, and what it means */
	char *advice;        /* what to do, NULL: nothing */
};

/* What this kernel answers to calls: 0 or a negative errno. */
struct doctor_kernel {
	int io_uring_setup;
	int epoll_pwait2;
};

#define DOCTOR_REACTORS_MAX 256

/* Taken twice, some time apart. */
struct doctor_sample {
	char *stat;                               /* /proc/stat */
	json_t *reactors;                         /* framework_get_reactors */
	json_t *pollers;                          /* thread_get_pollers */
	uint64_t task_ticks[DOCTOR_REACTORS_MAX]; /* CPU time of each reactor's system thread */
};

struct doctor {
	const char *root; /* before every path; "" but in tests */
	struct doctor_kernel kernel;
	double seconds; /* between the samples */
	struct doctor_sample before, after;

	/* The target; json NULL where nothing answers. */
	pid_t pid;                          /* as this process sees it; 0: not at all */
	json_t *status;                     /* berth_status */
	json_t *controllers;                /* vhost_get_controllers */
	json_t *stats;                      /* vhost_get_stats */
	json_t *disks;                      /* berth_disk_list */
	const char *socket_dir, *state_dir; /* NULL: not known, none */
	/* Of a target in another mount namespace, or the negative errno of opening them there; 0: paths are this process'. */
	int socket_dir_fd, state_dir_fd;

	const char *subject; /* of the probe that runs */
	struct doctor_finding *findings;
	size_t count, capacity;
};

struct doctor_probe {
	const char *name;
	bool target; /* only where there is one */
	void (*run)(struct doctor *d);
};

extern const struct doctor_probe doctor_probes[]; /* ends with a NULL name */

/* Runs all of them in order. */
void doctor_run(struct doctor *d);
/* Everything that d owns. */
void doctor_release(struct doctor *d);

/* ---- For probes (ctl_doctor_read.c) ---- */

/* advice NULL: there is nothing to do. */
void doctor_add(struct doctor *d, enum doctor_level level, const char *advice, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* A small file below root as a text to be freed, NULL when it cannot be read. */
char *doctor_read(const struct doctor *d, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* Of the target's /proc/PID where it can be seen, else of this process'. */
char *doctor_read_own(const struct doctor *d, const char *name);
bool doctor_number(const struct doctor *d, const char *path, int64_t *ret_number);
bool doctor_stat(const struct doctor *d, const char *path, struct stat *ret_st);
/* Where socket_dir or state_dir is for this process; false with errno: it cannot be reached. */
#define DOCTOR_PATH_BYTES 4096
bool doctor_folder(const struct doctor *d, const char *path, char ret_path[static DOCTOR_PATH_BYTES]);
/* Opens both, where the target's mount namespace is another. */
void doctor_open_folders(struct doctor *d);
/* Lines of a file, entries of a folder; -1 when it cannot be read. */
int64_t doctor_count_lines(const struct doctor *d, const char *path);
int64_t doctor_count_entries(const struct doctor *d, const char *path);
/* The rest of the line of text that starts with key, without leading blanks; false: there is none. */
bool doctor_line(const char *text, const char *key, char *ret_value, size_t size);
/* "0-3,8" as the kernel writes sets; an empty one is true, too. */
bool doctor_cpus(const char *list, struct cpumask *ret_mask);
/* And back: "0-3,8". */
const char *doctor_cpus_text(const struct cpumask *mask, char *text, size_t size);
/* Where the target may run, or this process. */
bool doctor_allowed_cpus(const struct doctor *d, struct cpumask *ret_mask);
/* "1.5 GiB" */
const char *doctor_bytes(uint64_t bytes, char text[static 32]);

/* What framework_get_reactors says of reactor i; NULL past the last. */
const json_t *doctor_reactor(const struct doctor_sample *s, size_t i);
const json_t *doctor_reactor_details(const struct doctor_sample *s, size_t i);
/* Members of JSON objects; 0 and "" when they are missing. */
int64_t doctor_int(const json_t *object, const char *key);
const char *doctor_text(const json_t *object, const char *key);

/* ---- Probes: processors (ctl_doctor_cpu.c) ---- */

void doctor_cpus_probe(struct doctor *d);
void doctor_quota_probe(struct doctor *d);
void doctor_siblings_probe(struct doctor *d);
void doctor_steal_probe(struct doctor *d);
void doctor_neighbours_probe(struct doctor *d);

/* ---- Probes: kernel and memory (ctl_doctor_host.c) ---- */

void doctor_kernel_probe(struct doctor *d);
void doctor_container_probe(struct doctor *d);
void doctor_kvm_probe(struct doctor *d);
void doctor_io_uring_probe(struct doctor *d);
void doctor_aio_probe(struct doctor *d);
void doctor_memory_probe(struct doctor *d);
void doctor_hugepages_probe(struct doctor *d);
void doctor_maps_probe(struct doctor *d);

/* ---- Probes: limits and folders (ctl_doctor_files.c) ---- */

void doctor_descriptors_probe(struct doctor *d);
void doctor_memlock_probe(struct doctor *d);
void doctor_socket_dir_probe(struct doctor *d);
void doctor_stale_sockets_probe(struct doctor *d);
void doctor_state_dir_probe(struct doctor *d);
/* What doctor_state_dir_probe says of a file system of this type (statfs(2)) and room. */
void doctor_judge_file_system(struct doctor *d, const char *path, uint64_t type,
			      uint64_t free_bytes, uint64_t total_bytes);

/* ---- Probes: the target (ctl_doctor_target.c) ---- */

void doctor_target_probe(struct doctor *d);
void doctor_reactors_probe(struct doctor *d);
void doctor_pollers_probe(struct doctor *d);
void doctor_controllers_probe(struct doctor *d);
void doctor_errors_probe(struct doctor *d);
void doctor_coalescing_probe(struct doctor *d);

#endif
