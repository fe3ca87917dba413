/* SPDX-License-Identifier: BSD-3-Clause */
/* Probes of berth doctor: kernel, memory, what this machine is. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/ctl_doctor.h"
#include "base/check.h"

/* ---- Kernel ---- */

void
doctor_kernel_probe(struct doctor *d)
{
	char *release = doctor_read(d, "/proc/sys/kernel/osrelease");
	int len = release != NULL ? (int)strcspn(release, "\n") : 0;

	if (d->kernel.epoll_pwait2 != 0) {
		doctor_add(d, DOCTOR_NOTE,
			   d->kernel.epoll_pwait2 == -ENOSYS ? "Linux 5.11 and later have it"
							     : NULL,
			   "Linux %.*s, without epoll_pwait2 (%s): timers are rounded up to "
			   "milliseconds; no I/O is slower",
			   len, release != NULL ? release : "",
			   d->kernel.epoll_pwait2 == -ENOSYS ? "too old"
							     : "a seccomp filter forbids it");
	} else {
		doctor_add(d, DOCTOR_OK, NULL, "Linux %.*s has all that berthd makes use of", len,
			   release != NULL ? release : "");
	}
	free(release);
}

/* Whether a seccomp filter holds the target, or this process. */
static bool
has_filter(const struct doctor *d, pid_t pid)
{
	char *status = pid > 0 ? doctor_read(d, "/proc/%d/status", (int)pid)
			       : doctor_read(d, "/proc/self/status");
	char seccomp[16];
	bool filter = status != NULL && doctor_line(status, "Seccomp:", seccomp, sizeof(seccomp)) &&
		      strcmp(seccomp, "2") == 0;

	free(status);
	return filter;
}

static const char *
why_no_io_uring(const struct doctor *d)
{
	int64_t disabled = 0;

	if (d->kernel.io_uring_setup == -ENOSYS) {
		return "this kernel has none";
	}
	if (doctor_number(d, "/proc/sys/kernel/io_uring_disabled", &disabled) && disabled == 2) {
		return "the sysctl kernel.io_uring_disabled is 2";
	}
	if (disabled == 1) {
		return "the sysctl kernel.io_uring_disabled is 1, and the caller is not in its "
		       "group";
	}
	if (has_filter(d, 0)) {
		return "a seccomp filter forbids it, as container engines do unless told otherwise";
	}
	return d->kernel.io_uring_setup == -ENOMEM ? "RLIMIT_MEMLOCK is too small for this kernel"
						   : "something forbids it";
}

void
doctor_io_uring_probe(struct doctor *d)
{
	if (d->kernel.io_uring_setup != 0) {
		doctor_add(d, DOCTOR_NOTE, NULL,
			   "no io_uring (%s): %s. Disks use Linux AIO by themselves, "
			   "bdev_uring_create is refused",
			   strerror(-d->kernel.io_uring_setup), why_no_io_uring(d));
	} else if (d->pid > 0 && has_filter(d, d->pid) && !has_filter(d, 0)) {
		doctor_add(d, DOCTOR_NOTE, NULL,
			   "io_uring works here, but berthd runs under a seccomp filter that may "
			   "forbid it; its disks use AIO then");
	} else {
		doctor_add(d, DOCTOR_OK, NULL, "io_uring works");
	}
}

/* ---- AIO ---- */

#define AIO_EVENTS_A_THREAD 256 /* what an I/O thread asks for */
#define AIO_EVENTS_LEAST 32     /* what it can work with */

static int64_t
io_threads(const struct doctor *d)
{
	struct cpumask allowed;
	size_t reactors = json_array_size(json_object_get(d->after.reactors, "reactors"));

	return reactors > 0                       ? (int64_t)reactors
	       : doctor_allowed_cpus(d, &allowed) ? (int64_t)cpumask_count(&allowed)
						  : 1;
}

void
doctor_aio_probe(struct doctor *d)
{
	static const char advice[] = "raise it: sysctl fs.aio-max-nr=1048576";
	int64_t max, used, wanted = io_threads(d) * AIO_EVENTS_A_THREAD;

	if (!doctor_number(d, "/proc/sys/fs/aio-max-nr", &max) ||
	    !doctor_number(d, "/proc/sys/fs/aio-nr", &used)) {
		doctor_add(d, DOCTOR_NOTE, NULL, "/proc does not say how much Linux AIO there is");
	} else if (max - used < io_threads(d) * AIO_EVENTS_LEAST) {
		doctor_add(d, DOCTOR_WARN, advice,
			   "fs.aio-max-nr is %" PRId64 ", and %" PRId64
			   " are taken: berthd's AIO disks are served by worker "
			   "threads, which is slower",
			   max, used);
	} else if (max - used < wanted) {
		doctor_add(d, DOCTOR_NOTE, advice,
			   "fs.aio-max-nr is %" PRId64 ", and %" PRId64
			   " are taken: an I/O thread begins with shorter queues than "
			   "the %d requests it would like",
			   max, used, AIO_EVENTS_A_THREAD);
	} else {
		doctor_add(d, DOCTOR_OK, NULL,
			   "Linux AIO: %" PRId64 " of %" PRId64 " requests are taken (fs.aio-nr)",
			   used, max);
	}
}

/* ---- Memory ---- */

/* A line of /proc/meminfo, in bytes (or pieces, where no unit follows). */
static bool
meminfo(const char *text, const char *key, uint64_t *ret)
{
	char value[64], unit[8] = "";

	if (!doctor_line(text, key, value, sizeof(value)) ||
	    sscanf(value, "%" SCNu64 " %7s", ret, unit) < 1) {
		return false;
	}
	*ret *= strcmp(unit, "kB") == 0 ? 1024 : 1;
	return true;
}

#define AVAILABLE_LOW_BYTES (UINT64_C(256) << 20)

static void
judge_overcommit(struct doctor *d)
{
	int64_t overcommit;

	if (doctor_number(d, "/proc/sys/vm/overcommit_memory", &overcommit) && overcommit == 2) {
		doctor_add(d, DOCTOR_NOTE, "vm.overcommit_memory=0 is what systems come with",
			   "vm.overcommit_memory is 2: memory is promised only up to CommitLimit, "
			   "so VMs and berthd may be refused "
			   "some while there is plenty");
	}
}

void
doctor_memory_probe(struct doctor *d)
{
	char *text = doctor_read(d, "/proc/meminfo"), a[32], b[32];
	uint64_t total, available;

	if (text == NULL || !meminfo(text, "MemTotal:", &total) ||
	    !meminfo(text, "MemAvailable:", &available)) {
		doctor_add(d, DOCTOR_NOTE, NULL, "/proc does not say how much memory there is");
	} else if (available < AVAILABLE_LOW_BYTES || available < total / 20) {
		doctor_add(d, DOCTOR_WARN, "give guests less, or the host more",
			   "only %s of %s of memory are left: the kernel may end VMs, or berthd, "
			   "for want of it",
			   doctor_bytes(available, a), doctor_bytes(total, b));
	} else {
		doctor_add(d, DOCTOR_OK, NULL, "%s of %s of memory are available",
			   doctor_bytes(available, a), doctor_bytes(total, b));
	}
	judge_overcommit(d);
	free(text);
}

/* The word in brackets: "always [madvise] never". */
static const char *
chosen(char *text)
{
	char *start = text != NULL ? strchr(text, '[') : NULL,
	     *end = start != NULL ? strchr(start, ']') : NULL;

	if (end == NULL) {
		return "not there";
	}
	*end = '\0';
	return start + 1;
}

void
doctor_hugepages_probe(struct doctor *d)
{
	char *text = doctor_read(d, "/proc/meminfo"), a[32], b[32];
	char *shmem = doctor_read(d, "/sys/kernel/mm/transparent_hugepage/shmem_enabled");
	char *anonymous = doctor_read(d, "/sys/kernel/mm/transparent_hugepage/enabled");
	uint64_t total = 0, unused = 0, size = 0;

	if (text != NULL && meminfo(text, "HugePages_Total:", &total) &&
	    meminfo(text, "HugePages_Free:", &unused) && meminfo(text, "Hugepagesize:", &size) &&
	    unused > 0) {
		doctor_add(d, DOCTOR_NOTE,
			   "if no VM wants them: sysctl vm.nr_hugepages=0 gives them back",
			   "%s are reserved as hugepages, %s of them unused: berthd needs none",
			   doctor_bytes(total * size, a), doctor_bytes(unused * size, b));
	} else {
		doctor_add(d, DOCTOR_OK, NULL, "%s; berthd needs none",
			   total > 0 ? "all reserved hugepages are in use"
				     : "no hugepages are reserved");
	}
	doctor_add(d, DOCTOR_OK, NULL,
		   "transparent hugepages: %s for private memory, %s for guests' shared memory "
		   "(memfd)",
		   chosen(anonymous), chosen(shmem));
	free(text);
	free(shmem);
	free(anonymous);
}

/* ---- Mappings ---- */

#define MAPS_A_VM 8 /* a mapping for each memory region, and one for requests in flight */

void
doctor_maps_probe(struct doctor *d)
{
	char path[64];
	int64_t max, used = 0, room;

	if (!doctor_number(d, "/proc/sys/vm/max_map_count", &max)) {
		doctor_add(d, DOCTOR_NOTE, NULL,
			   "/proc does not say how many mappings a process may have");
		return;
	}
	if (d->pid > 0) {
		snprintf(path, sizeof(path), "/proc/%d/maps", (int)d->pid);
		used = MAX(doctor_count_lines(d, path), INT64_C(0));
	}
	room = (max - used) / MAPS_A_VM;
	if (room < 100) {
		doctor_add(d, DOCTOR_WARN, "raise it: sysctl vm.max_map_count=262144",
			   "vm.max_map_count is %" PRId64 ", and berthd has %" PRId64
			   " mappings: room for about %" PRId64 " more VMs",
			   max, used, MAX(room, INT64_C(0)));
	} else {
		doctor_add(d, DOCTOR_OK, NULL,
			   "vm.max_map_count is %" PRId64 ", of which %" PRId64
			   " are taken: room for about %" PRId64 " more VMs",
			   max, used, room);
	}
}

/* ---- What this machine is ---- */

void
doctor_kvm_probe(struct doctor *d)
{
	char path[512];
	struct stat st;

	snprintf(path, sizeof(path), "%s/dev/kvm", d->root);
	if (!doctor_stat(d, "/dev/kvm", &st)) {
		doctor_add(d, DOCTOR_NOTE,
			   "load kvm_intel or kvm_amd; inside a VM allow nested virtualisation",
			   "there is no /dev/kvm: VMs on this host are emulated, which is slow. "
			   "berthd itself does not need it");
	} else if (access(path, R_OK | W_OK) != 0) {
		doctor_add(d, DOCTOR_NOTE, "add the user who starts VMs to the group kvm",
			   "this user may not use /dev/kvm: VMs that it starts are emulated, which "
			   "is slow. berthd itself does not "
			   "need it");
	} else {
		doctor_add(d, DOCTOR_OK, NULL, "/dev/kvm is there, and this user may use it");
	}
}

/* NULL: none that can be seen. */
static const char *
container(const struct doctor *d, char text[static 64])
{
	char *systemd = doctor_read(d, "/run/systemd/container");
	struct stat st;

	if (systemd != NULL) {
		snprintf(text, 64, "%.*s", (int)MIN(strcspn(systemd, "\n"), (size_t)48), systemd);
	} else if (doctor_stat(d, "/.dockerenv", &st)) {
		snprintf(text, 64, "docker");
	} else if (doctor_stat(d, "/run/.containerenv", &st)) {
		snprintf(text, 64, "podman");
	} else {
		text[0] = '\0';
	}
	free(systemd);
	return text[0] != '\0' ? text : NULL;
}

void
doctor_container_probe(struct doctor *d)
{
	char text[64];
	const char *kind = container(d, text);

	if (kind != NULL) {
		doctor_add(d, DOCTOR_NOTE,
			   "keep state and socket directory on volumes; docs/container.md says how",
			   "this is a container (%s): limits are the container's, and files "
			   "outside of volumes go with it",
			   kind);
	} else {
		doctor_add(d, DOCTOR_OK, NULL, "no container that could be seen");
	}
}
