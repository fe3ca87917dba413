/* SPDX-License-Identifier: BSD-3-Clause */
/* Every probe of berth doctor on trees of /proc and /sys made for it, and on what a target answered. */
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/magic.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "app/ctl_doctor.h"
#include "base/check.h"

static struct {
	char root[64];
	struct doctor d;
} f;

static int
setup(void **state)
{
	strcpy(f.root, "/tmp/berth-doctor-XXXXXX");
	assert_non_null(mkdtemp(f.root));
	f.d = (struct doctor){.root = f.root, .seconds = 1.0, .subject = "test"};
	return 0;
}

static int
remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static int
teardown(void **state)
{
	doctor_release(&f.d);
	return nftw(f.root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* The findings of the next probe begin anew. */
static void
forget(void)
{
	for (size_t i = 0; i < f.d.count; i++) {
		free(f.d.findings[i].text);
		free(f.d.findings[i].advice);
	}
	f.d.count = 0;
}

/* Makes a file of the tree, and the folders to it. */
static void
put(const char *path, const char *text)
{
	char whole[512];
	FILE *file;

	snprintf(whole, sizeof(whole), "%s%s", f.root, path);
	for (char *slash = strchr(whole + strlen(f.root) + 1, '/'); slash != NULL;
	     slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		assert_true(mkdir(whole, 0755) == 0 || errno == EEXIST);
		*slash = '/';
	}
	file = fopen(whole, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

/* JSON with ' in place of ". */
static json_t *
parse(const char *text)
{
	char *copy = strdup(text);
	json_t *json;

	assert_non_null(copy);
	for (char *p = copy; *p != '\0'; p++) {
		*p = *p == '\'' ? '"' : *p;
	}
	json = json_loads(copy, 0, NULL);
	if (json == NULL) {
		fail_msg("no JSON: %s", text);
	}
	free(copy);
	return json;
}

static void
set(json_t **where, const char *text)
{
	json_decref(*where);
	*where = parse(text);
}

/* Runs a probe: finding `index` of it must be of this level and have these words. */
static void
expect_nth(void (*probe)(struct doctor *d), size_t index, enum doctor_level level,
	   const char *words, int line)
{
	forget();
	probe(&f.d);
	if (f.d.count <= index) {
		fail_msg("line %d: %zu findings, wanted '%s'", line, f.d.count, words);
	}
	if (f.d.findings[index].level != level || strstr(f.d.findings[index].text, words) == NULL) {
		fail_msg("line %d: wanted level %d '%s', got %d '%s'", line, (int)level, words,
			 (int)f.d.findings[index].level, f.d.findings[index].text);
	}
	/* Who is warned is told what to do. */
	if (level >= DOCTOR_WARN && f.d.findings[index].advice == NULL) {
		fail_msg("line %d: no advice", line);
	}
}

#define EXPECT_NTH(probe, index, level, words) expect_nth(probe, index, level, words, __LINE__)
#define EXPECT(probe, level, words) EXPECT_NTH(probe, 0, level, words)

static void
expect_nothing(void (*probe)(struct doctor *d))
{
	forget();
	probe(&f.d);
	assert_int_equal(f.d.count, 0);
}

/* ---- Processors ---- */

static void
test_cpus(void **state)
{
	EXPECT(doctor_cpus_probe, DOCTOR_NOTE, "do not say");
	put("/sys/devices/system/cpu/online", "0-3\n");
	put("/sys/devices/system/cpu/present", "0-3\n");
	put("/proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-3\n");
	EXPECT(doctor_cpus_probe, DOCTOR_OK, "CPUs 0-3 are online, and this process may use all");
	put("/sys/devices/system/cpu/present", "0-7\n");
	EXPECT_NTH(doctor_cpus_probe, 1, DOCTOR_NOTE, "CPUs 4-7 are there but switched off");
	put("/proc/self/status", "Name:\tx\nCpus_allowed_list:\t1,3,9\n");
	EXPECT(doctor_cpus_probe, DOCTOR_NOTE, "may use CPUs 1,3 of 0-3");
	/* berthd's own, all its threads together. */
	f.d.pid = 7;
	put("/proc/7/task/7/status", "Cpus_allowed_list:\t0\n");
	put("/proc/7/task/8/status", "Cpus_allowed_list:\t1\n");
	EXPECT(doctor_cpus_probe, DOCTOR_NOTE, "berthd may use CPUs 0-1 of 0-3");
	set(&f.d.after.reactors, "{'details': [{'lcore': 0, 'cpu': 0}, {'lcore': 1, 'cpu': 1}]}");
	EXPECT(doctor_cpus_probe, DOCTOR_OK, "pinned to 0-1");
}

static void
test_quota(void **state)
{
	EXPECT(doctor_quota_probe, DOCTOR_OK, "no control group limits");
	/* Version 2: the least of the group and its parents. */
	put("/proc/self/cgroup", "0::/a/b\n");
	put("/sys/fs/cgroup/a/b/cpu.stat", "usage_usec 5\nnr_periods 9\nnr_throttled 0\n");
	put("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
	EXPECT(doctor_quota_probe, DOCTOR_OK, "no control group limits");
	put("/sys/fs/cgroup/a/b/cpu.max", "400000 100000\n");
	EXPECT(doctor_quota_probe, DOCTOR_NOTE, "a quota of 4.00 CPUs, never used up");
	put("/sys/fs/cgroup/a/cpu.max", "50000 100000\n");
	EXPECT(doctor_quota_probe, DOCTOR_NOTE, "a quota of 0.50 CPUs");
	put("/sys/fs/cgroup/a/b/cpu.stat", "nr_throttled 12\n");
	EXPECT(doctor_quota_probe, DOCTOR_WARN, "used up 12 times");
	set(&f.d.after.reactors, "{'details': [{'mode': 'poll', 'cpu': -1}]}");
	EXPECT(doctor_quota_probe, DOCTOR_WARN, "1 reactors in poll mode");
	/* Version 1. */
	put("/proc/self/cgroup", "3:memory:/m\n2:cpu,cpuacct:/c\n1:name=systemd:/\n0::/\n");
	put("/sys/fs/cgroup/cpu,cpuacct/c/cpu.stat", "nr_throttled 0\n");
	put("/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "-1\n");
	put("/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us", "100000\n");
	EXPECT(doctor_quota_probe, DOCTOR_OK, "no control group limits");
	put("/sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "250000\n");
	EXPECT(doctor_quota_probe, DOCTOR_NOTE, "2.50 CPUs");
}

static void
test_siblings(void **state)
{
	put("/sys/devices/system/cpu/online", "0-3\n");
	EXPECT(doctor_siblings_probe, DOCTOR_OK, "a core of its own");
	put("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0,2\n");
	put("/sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1,3\n");
	put("/sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "0,2\n");
	EXPECT(doctor_siblings_probe, DOCTOR_OK, "2 hyperthreads each (CPUs 0,2 are one core)");
	set(&f.d.after.reactors,
	    "{'details': [{'cpu': 0, 'mode': 'adaptive'}, {'cpu': 1, 'mode': 'adaptive'}]}");
	EXPECT(doctor_siblings_probe, DOCTOR_OK, "no two reactors share");
	set(&f.d.after.reactors,
	    "{'details': [{'cpu': 2, 'mode': 'adaptive'}, {'cpu': 0, 'mode': 'adaptive'}]}");
	EXPECT(doctor_siblings_probe, DOCTOR_NOTE, "CPUs 0 and 2, two hyperthreads");
	assert_int_equal(f.d.count, 1);
	set(&f.d.after.reactors,
	    "{'details': [{'cpu': 2, 'mode': 'poll'}, {'cpu': 0, 'mode': 'poll'}]}");
	EXPECT(doctor_siblings_probe, DOCTOR_WARN, "CPUs 0 and 2, two hyperthreads");
}

static void
stats(const char *before, const char *after)
{
	free(f.d.before.stat);
	free(f.d.after.stat);
	f.d.before.stat = strdup(before);
	f.d.after.stat = strdup(after);
}

static void
test_steal(void **state)
{
	EXPECT(doctor_steal_probe, DOCTOR_NOTE, "does not say");
	/* user nice system idle iowait irq softirq steal; guest is part of user. */
	stats("cpu  100 0 0 800 0 0 0 100 50 0\n", "cpu  200 0 0 1600 0 0 0 100 99 0\n");
	EXPECT(doctor_steal_probe, DOCTOR_OK, "no hypervisor took");
	stats("cpu  100 0 0 800 0 0 0 100 0 0\n", "cpu  200 0 0 1650 0 0 0 150 0 0\n");
	EXPECT(doctor_steal_probe, DOCTOR_NOTE, "5 % of its CPU time");
	stats("cpu  100 0 0 800 0 0 0 100 0 0\n", "cpu  200 0 0 1500 0 0 0 300 0 0\n");
	EXPECT(doctor_steal_probe, DOCTOR_WARN, "20 % of its CPU time");
}

static void
test_neighbours(void **state)
{
	set(&f.d.after.reactors, "{'details': [{'lcore': 0, 'cpu': -1}]}");
	EXPECT(doctor_neighbours_probe, DOCTOR_OK, "not pinned");
	f.d.pid = 7;
	set(&f.d.after.reactors, "{'details': [{'lcore': 0, 'cpu': 0}, {'lcore': 3, 'cpu': 1}]}");
	stats("cpu  0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0\ncpu1 10 0 0 0 0 0 0 0\n",
	      "cpu  0 0 0 0 0 0 0 0\ncpu0 60 0 30 10 0 0 0 0\ncpu1 50 0 20 50 0 0 0 0\n");
	/* CPU 0 was busy for 90 ticks, all of them the reactor's; CPU 1 for 60 of 110, of which 15 were. */
	f.d.before.task_ticks[0] = 1000;
	f.d.after.task_ticks[0] = 1090;
	f.d.after.task_ticks[1] = 15;
	EXPECT(doctor_neighbours_probe, DOCTOR_NOTE,
	       "others used 41 % of CPU 1, on which reactor 3 runs");
	assert_int_equal(f.d.count, 1);
	f.d.after.task_ticks[0] = 1005;
	EXPECT(doctor_neighbours_probe, DOCTOR_WARN, "others used 85 % of CPU 0");
	/* The kernel counts a tick here and there to the wrong one. */
	f.d.after.task_ticks[0] = 1095;
	f.d.after.task_ticks[1] = 58;
	EXPECT(doctor_neighbours_probe, DOCTOR_OK, "nobody else");
}

/* ---- Kernel and memory ---- */

static void
test_kernel(void **state)
{
	put("/proc/sys/kernel/osrelease", "6.1.0-test\n");
	EXPECT(doctor_kernel_probe, DOCTOR_OK, "Linux 6.1.0-test has all");
	f.d.kernel.epoll_pwait2 = -ENOSYS;
	EXPECT(doctor_kernel_probe, DOCTOR_NOTE, "(too old)");
	f.d.kernel.epoll_pwait2 = -EPERM;
	EXPECT(doctor_kernel_probe, DOCTOR_NOTE, "a seccomp filter forbids it");
}

static void
test_io_uring(void **state)
{
	put("/proc/self/status", "Seccomp:\t0\n");
	EXPECT(doctor_io_uring_probe, DOCTOR_OK, "io_uring works");
	f.d.pid = 7;
	put("/proc/7/status", "Seccomp:\t2\n");
	EXPECT(doctor_io_uring_probe, DOCTOR_NOTE, "a seccomp filter that may forbid it");
	f.d.kernel.io_uring_setup = -ENOSYS;
	EXPECT(doctor_io_uring_probe, DOCTOR_NOTE, "this kernel has none");
	f.d.kernel.io_uring_setup = -EPERM;
	EXPECT(doctor_io_uring_probe, DOCTOR_NOTE, "something forbids it");
	put("/proc/self/status", "Seccomp:\t2\n");
	EXPECT(doctor_io_uring_probe, DOCTOR_NOTE, "a seccomp filter forbids it");
	put("/proc/sys/kernel/io_uring_disabled", "1\n");
	EXPECT(doctor_io_uring_probe, DOCTOR_NOTE, "io_uring_disabled is 1");
	put("/proc/sys/kernel/io_uring_disabled", "2\n");
	EXPECT(doctor_io_uring_probe, DOCTOR_NOTE, "io_uring_disabled is 2");
	put("/proc/sys/kernel/io_uring_disabled", "0\n");
	put("/proc/self/status", "Seccomp:\t0\n");
	f.d.kernel.io_uring_setup = -ENOMEM;
	EXPECT(doctor_io_uring_probe, DOCTOR_NOTE, "RLIMIT_MEMLOCK is too small");
}

static void
test_aio(void **state)
{
	EXPECT(doctor_aio_probe, DOCTOR_NOTE, "does not say");
	put("/proc/sys/fs/aio-max-nr", "65536\n");
	put("/proc/sys/fs/aio-nr", "100\n");
	set(&f.d.after.reactors, "{'reactors': [{}, {}]}");
	EXPECT(doctor_aio_probe, DOCTOR_OK, "100 of 65536 requests are taken");
	/* Two I/O threads would like 512, and need 64. */
	put("/proc/sys/fs/aio-nr", "65025\n");
	EXPECT(doctor_aio_probe, DOCTOR_NOTE, "shorter queues");
	put("/proc/sys/fs/aio-nr", "65473\n");
	EXPECT(doctor_aio_probe, DOCTOR_WARN, "worker threads");
}

static void
test_memory(void **state)
{
	EXPECT(doctor_memory_probe, DOCTOR_NOTE, "does not say");
	put("/proc/meminfo", "MemTotal:        8388608 kB\nMemFree:               5 "
			     "kB\nMemAvailable:    4194304 kB\n");
	put("/proc/sys/vm/overcommit_memory", "0\n");
	EXPECT(doctor_memory_probe, DOCTOR_OK, "4 GiB of 8 GiB");
	assert_int_equal(f.d.count, 1);
	put("/proc/sys/vm/overcommit_memory", "2\n");
	EXPECT_NTH(doctor_memory_probe, 1, DOCTOR_NOTE, "vm.overcommit_memory is 2");
	put("/proc/meminfo", "MemTotal:        8388608 kB\nMemAvailable:    400000 kB\n");
	EXPECT(doctor_memory_probe, DOCTOR_WARN, "are left");
}

static void
test_hugepages(void **state)
{
	put("/proc/meminfo",
	    "HugePages_Total:       0\nHugePages_Free:        0\nHugepagesize:       2048 kB\n");
	put("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
	put("/sys/kernel/mm/transparent_hugepage/shmem_enabled",
	    "always within_size advise [never] deny force\n");
	EXPECT(doctor_hugepages_probe, DOCTOR_OK, "no hugepages are reserved; berthd needs none");
	EXPECT_NTH(doctor_hugepages_probe, 1, DOCTOR_OK,
		   "madvise for private memory, never for guests'");
	put("/proc/meminfo",
	    "HugePages_Total:    1024\nHugePages_Free:      512\nHugepagesize:       2048 kB\n");
	EXPECT(doctor_hugepages_probe, DOCTOR_NOTE,
	       "2 GiB are reserved as hugepages, 1 GiB of them unused");
	put("/proc/meminfo",
	    "HugePages_Total:    1024\nHugePages_Free:        0\nHugepagesize:       2048 kB\n");
	EXPECT(doctor_hugepages_probe, DOCTOR_OK, "all reserved hugepages are in use");
}

static void
test_maps(void **state)
{
	EXPECT(doctor_maps_probe, DOCTOR_NOTE, "does not say");
	put("/proc/sys/vm/max_map_count", "65530\n");
	EXPECT(doctor_maps_probe, DOCTOR_OK, "about 8191 more VMs");
	f.d.pid = 7;
	put("/proc/7/maps", "a\nb\nc\n");
	put("/proc/sys/vm/max_map_count", "402\n");
	EXPECT(doctor_maps_probe, DOCTOR_WARN, "has 3 mappings: room for about 49 more VMs");
}

static void
test_kvm_and_container(void **state)
{
	EXPECT(doctor_kvm_probe, DOCTOR_NOTE, "there is no /dev/kvm");
	put("/dev/kvm", "");
	EXPECT(doctor_kvm_probe, DOCTOR_OK, "/dev/kvm is there");
	EXPECT(doctor_container_probe, DOCTOR_OK, "no container");
	put("/run/.containerenv", "");
	EXPECT(doctor_container_probe, DOCTOR_NOTE, "(podman)");
	put("/.dockerenv", "");
	EXPECT(doctor_container_probe, DOCTOR_NOTE, "(docker)");
	put("/run/systemd/container", "systemd-nspawn\n");
	EXPECT(doctor_container_probe, DOCTOR_NOTE, "(systemd-nspawn)");
}

/* ---- Limits and folders ---- */

#define LIMITS(files) \
	"Limit                     Soft Limit           Hard Limit           Units     \n" \
	"Max open files            " files "                files     \n" \
	"Max locked memory         65536                65536                bytes     \n"

static void
test_descriptors(void **state)
{
	EXPECT(doctor_descriptors_probe, DOCTOR_NOTE, "does not say");
	/* Without a target: what the hard limit would allow. */
	put("/proc/self/limits", LIMITS("1024                 20032"));
	EXPECT(doctor_descriptors_probe, DOCTOR_OK,
	       "may open 20032 files: room for about 4000 VMs");
	put("/proc/self/limits", LIMITS("256                  512"));
	EXPECT(doctor_descriptors_probe, DOCTOR_WARN, "room for about 96 VMs");
	EXPECT(doctor_memlock_probe, DOCTOR_OK, "64 KiB memory may be locked; berthd locks none");
	/* With one: what it has and may. */
	f.d.pid = 7;
	set(&f.d.status, "{'controllers': 10, 'sessions': 4}");
	put("/proc/7/limits", LIMITS("1024                 1024"));
	put("/proc/7/fd/0", "");
	put("/proc/7/fd/1", "");
	EXPECT(doctor_descriptors_probe, DOCTOR_OK,
	       "may open 1024 files and has 2 open: room for about 204 more VMs");
	put("/proc/7/limits", LIMITS("42                   1024"));
	EXPECT(doctor_descriptors_probe, DOCTOR_WARN, "room for about 8 more VMs");
	put("/proc/7/limits", LIMITS("6                    1024"));
	EXPECT(doctor_descriptors_probe, DOCTOR_BAD, "room for about 0 more VMs");
	put("/proc/7/limits", LIMITS("unlimited            unlimited"));
	EXPECT(doctor_descriptors_probe, DOCTOR_OK, "as many files as the system can");
	/* One that cannot be looked at: 32, and 2 for each controller, 3 for each VM. */
	f.d.pid = 0;
	EXPECT(doctor_descriptors_probe, DOCTOR_WARN, "may open 512 files and has about 64 open");
}

static void
make_folder(const char *path, mode_t mode)
{
	char whole[512];

	snprintf(whole, sizeof(whole), "%s%s", f.root, path);
	assert_int_equal(mkdir(whole, 0700), 0);
	assert_int_equal(chmod(whole, mode), 0);
}

/* What berthd's user may is told by its ids and the folder's mode. */
static void
test_folders(void **state)
{
	char other[128];

	set(&f.d.status, "{}");
	f.d.pid = 7;
	f.d.socket_dir = "/sockets";
	EXPECT(doctor_socket_dir_probe, DOCTOR_BAD, "/sockets: No such file");
	make_folder("/sockets", 0755);
	snprintf(other, sizeof(other), "Uid:\t0 %u 0 0\nGid:\t0 %u 0 0\nGroups:\t5 \n",
		 getuid() + 77, getgid() + 77);
	put("/proc/7/status", other);
	EXPECT(doctor_socket_dir_probe, DOCTOR_BAD, "may not write to /sockets");
	snprintf(other, sizeof(other), "Uid:\t0 %u 0 0\nGid:\t0 %u 0 0\nGroups:\t5 %u \n",
		 getuid() + 77, getgid() + 77, getgid());
	put("/proc/7/status", other);
	EXPECT(doctor_socket_dir_probe, DOCTOR_BAD, "may not write to /sockets");
	make_folder("/shared", 0775);
	f.d.socket_dir = "/shared";
	EXPECT(doctor_socket_dir_probe, DOCTOR_OK, "names of controllers may have 99 bytes");
	put("/proc/7/status", "Uid:\t0 0 0 0\nGid:\t0 0 0 0\n");
	put("/file", "");
	f.d.socket_dir = "/file";
	EXPECT(doctor_socket_dir_probe, DOCTOR_BAD, "is no folder");
	f.d.socket_dir = "/a-folder-with-a-rather-long-name-that-leaves-little-room-for-names-1";
	make_folder(f.d.socket_dir, 0755);
	EXPECT(doctor_socket_dir_probe, DOCTOR_WARN, "may have 37 bytes");
	/* berthd in another namespace: nothing can be said. */
	f.d.pid = 0;
	EXPECT(doctor_socket_dir_probe, DOCTOR_NOTE, "cannot look");
	f.d.socket_dir = NULL;
	expect_nothing(doctor_socket_dir_probe);
}

static void
make_socket(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s%s", f.root, path);
	assert_int_equal(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
}

static void
test_stale_sockets(void **state)
{
	f.d.socket_dir = "/s";
	expect_nothing(doctor_stale_sockets_probe);
	make_folder("/s", 0755);
	make_socket("/s/live");
	put("/s/file", "");
	put("/proc/net/unix",
	    "Num       RefCount Protocol Flags    Type St Inode Path\n"
	    "000000002c5cb594: 00000003 00000000 00000000 0001 03 2805477\n"
	    "000000001062a5c7: 00000002 00000000 00010000 0001 01 2805475 /s/live\n"
	    "000000001062a5c7: 00000002 00000000 00010000 0001 01 2805476 @/s/dead\n");
	EXPECT(doctor_stale_sockets_probe, DOCTOR_OK, "no socket in /s was left behind");
	make_socket("/s/gone");
	/* A controller may have closed it while its VM is connected. */
	f.d.controllers = json_pack("[{s:s}]", "ctrlr", "gone");
	EXPECT(doctor_stale_sockets_probe, DOCTOR_OK, "no socket in /s was left behind");
	json_decref(f.d.controllers);
	f.d.controllers = NULL;
	EXPECT(doctor_stale_sockets_probe, DOCTOR_NOTE,
	       "1 sockets in /s on which nobody listens, such as /s/gone");
}

static void
judge(uint64_t type, uint64_t free_bytes, uint64_t total_bytes)
{
	forget();
	doctor_judge_file_system(&f.d, "/x", type, free_bytes, total_bytes);
}

static void
test_state_dir(void **state)
{
	const uint64_t gib = UINT64_C(1) << 30;

	expect_nothing(doctor_state_dir_probe);
	set(&f.d.status, "{}");
	f.d.pid = getpid();
	EXPECT(doctor_state_dir_probe, DOCTOR_NOTE, "no state directory");
	f.d.state_dir = "/state";
	EXPECT(doctor_state_dir_probe, DOCTOR_BAD, "/state: No such file");
	make_folder("/state", 0755);
	EXPECT(doctor_state_dir_probe, DOCTOR_OK, "left");
	set(&f.d.disks,
	    "[{'size': 1152921504606846976, 'allocated': 0}, {'size': 4096, 'allocated': 8192}]");
	forget();
	doctor_state_dir_probe(&f.d);
	assert_non_null(strstr(f.d.findings[f.d.count - 1].text, "disks are promised 1 EiB more"));
	judge(EXT4_SUPER_MAGIC, 50 * gib, 100 * gib);
	assert_int_equal(f.d.count, 1);
	assert_int_equal(f.d.findings[0].level, DOCTOR_OK);
	judge(EXT4_SUPER_MAGIC, 4 * gib, 100 * gib);
	assert_int_equal(f.d.findings[0].level, DOCTOR_WARN);
	judge(EXT4_SUPER_MAGIC, 0, 100 * gib);
	assert_int_equal(f.d.findings[0].level, DOCTOR_BAD);
	judge(TMPFS_MAGIC, 50 * gib, 100 * gib);
	assert_non_null(strstr(f.d.findings[0].text, "tmpfs"));
	judge(OVERLAYFS_SUPER_MAGIC, 50 * gib, 100 * gib);
	assert_non_null(strstr(f.d.findings[0].text, "overlay"));
	assert_int_equal(f.d.findings[0].level, DOCTOR_WARN);
}

/* ---- The target ---- */

static void
test_target(void **state)
{
	f.d.pid = 7;
	set(&f.d.status, "{'version': 'berth v" BERTH_VERSION
			 "', 'controllers': 3, 'sessions': 2, 'state': 'runtime'}");
	EXPECT(doctor_target_probe, DOCTOR_OK, "3 controllers, 2 connected VMs");
	set(&f.d.status, "{'version': 'berth v0.0.1', 'state': 'startup'}");
	EXPECT(doctor_target_probe, DOCTOR_NOTE, "berth v0.0.1");
	EXPECT_NTH(doctor_target_probe, 1, DOCTOR_WARN, "waits for framework_start_init");
	f.d.pid = 0;
	EXPECT_NTH(doctor_target_probe, 2, DOCTOR_NOTE, "another PID namespace");
}

static void
test_reactors(void **state)
{
	f.d.pid = 7;
	put("/proc/7/task/7/status", "Cpus_allowed_list:\t0\n");
	put("/proc/7/task/8/status", "Cpus_allowed_list:\t1\n");
	set(&f.d.after.reactors,
	    "{'reactors': [{'lcore': 0, 'tid': 7}, {'lcore': 1, 'tid': 8}],"
	    " 'details': [{'lcore': 0, 'cpu': 0, 'mode': 'adaptive', 'cpu_state': 'own'},"
	    " {'lcore': 1, 'cpu': 1, 'mode': 'adaptive', 'cpu_state': 'own'}]}");
	EXPECT(doctor_reactors_probe, DOCTOR_OK, "2 reactors, each on the CPU");
	assert_int_equal(f.d.count, 1);
	/* The kernel says otherwise, before berthd has noticed. */
	put("/proc/7/task/8/status", "Cpus_allowed_list:\t0-1\n");
	EXPECT(doctor_reactors_probe, DOCTOR_WARN, "reactor 1 (thread 8) should run on CPU 1");
	put("/proc/7/task/8/status", "Cpus_allowed_list:\t0\n");
	EXPECT_NTH(doctor_reactors_probe, 1, DOCTOR_NOTE, "2 reactors share 1 CPUs");
	set(&f.d.after.reactors,
	    "{'reactors': [{'lcore': 1, 'tid': 9}],"
	    " 'details': [{'lcore': 1, 'cpu': 1, 'mode': 'poll', 'cpu_state': 'offline'}]}");
	EXPECT(doctor_reactors_probe, DOCTOR_WARN, "CPU 1, which was switched off");
	/* It does not poll on a CPU that is not its own. */
	EXPECT(doctor_reactors_probe, DOCTOR_WARN, "until it is back it waits as in adaptive mode");
	assert_int_equal(f.d.count, 1);
	set(&f.d.after.reactors,
	    "{'reactors': [{'lcore': 1, 'tid': 9}],"
	    " 'details': [{'lcore': 1, 'cpu': 1, 'mode': 'poll', 'cpu_state': 'own'}]}");
	EXPECT(doctor_reactors_probe, DOCTOR_NOTE, "1 of 1 reactors are in poll mode");
	set(&f.d.after.reactors,
	    "{'reactors': [{'lcore': 1, 'tid': 9}],"
	    " 'details': [{'lcore': 1, 'cpu': -1, 'mode': 'adaptive', 'cpu_state': 'any'}]}");
	EXPECT(doctor_reactors_probe, DOCTOR_OK, "not pinned");
}

#define POLLERS(runs, busy) \
	"{'threads': [{'name': 'io_0', 'id': 2, 'active_pollers': [{'name': 'vhost_queue_poll " \
	"vm0 queue 1', 'id': 4, 'run_count': " runs ", 'busy_count': " busy "}]}]}"

static void
test_pollers(void **state)
{
	set(&f.d.after.reactors, "{'reactors': [{'lcore': 0, 'lw_threads': [{'id': 2}]}], "
				 "'details': [{'mode': 'adaptive'}]}");
	set(&f.d.before.pollers, POLLERS("1000", "7"));
	set(&f.d.after.pollers, POLLERS("2000000", "7"));
	EXPECT(doctor_pollers_probe, DOCTOR_WARN,
	       "poller \"vhost_queue_poll vm0 queue 1\" of thread io_0 ran 1999000 times in 1.0 s "
	       "and had no work");
	set(&f.d.after.pollers, POLLERS("2000000", "8"));
	EXPECT(doctor_pollers_probe, DOCTOR_OK, "no poller");
	set(&f.d.after.pollers, POLLERS("1100", "7"));
	EXPECT(doctor_pollers_probe, DOCTOR_OK, "no poller");
	/* Where polling was asked for, it is none of the doctor's business. */
	set(&f.d.after.pollers, POLLERS("2000000", "7"));
	set(&f.d.after.reactors, "{'reactors': [{'lcore': 0, 'lw_threads': [{'id': 2}]}], "
				 "'details': [{'mode': 'poll'}]}");
	EXPECT(doctor_pollers_probe, DOCTOR_OK, "no poller");
	/* One that was not there before has not been there all the time. */
	set(&f.d.before.pollers, "{'threads': []}");
	set(&f.d.after.pollers, POLLERS("2000000", "0"));
	set(&f.d.after.reactors, "{}");
	EXPECT(doctor_pollers_probe, DOCTOR_OK, "no poller");
}

static void
test_controllers(void **state)
{
	set(&f.d.stats, "[{'ctrlr': 'a', 'bdev': 'b', 'errors': 0, 'malformed': 0}]");
	EXPECT(doctor_controllers_probe, DOCTOR_OK, "every controller has its block device");
	EXPECT(doctor_errors_probe, DOCTOR_OK, "no request of any VM has failed");
	set(&f.d.stats, "[{'ctrlr': 'a', 'bdev': null, 'errors': 1}, {'ctrlr': 'b', 'bdev': null, "
			"'malformed': 1},"
			" {'ctrlr': 'c', 'bdev': null, 'errors': 1}, {'ctrlr': 'd', 'bdev': null}, "
			"{'ctrlr': 'e', 'bdev': 'x'}]");
	EXPECT(doctor_controllers_probe, DOCTOR_BAD,
	       "of 4 controllers is gone, so no VM can use them: a, b, c and 1 more");
	EXPECT(doctor_errors_probe, DOCTOR_WARN, "failed on 2 controllers: a, c");
	EXPECT_NTH(doctor_errors_probe, 1, DOCTOR_WARN, "no requests to 1 controllers: b");
	set(&f.d.controllers, "[{'ctrlr': 'a', 'delay_base_us': 0}]");
	EXPECT(doctor_coalescing_probe, DOCTOR_OK, "no controller delays");
	set(&f.d.controllers, "[{'ctrlr': 'a', 'delay_base_us': 5}]");
	EXPECT(doctor_coalescing_probe, DOCTOR_NOTE, "1 controllers call their guests late");
}

/* An empty tree, answers of another shape: every probe of the table has something to say, or nothing, and lives. */
static void
test_all_on_nothing(void **state)
{
	static const char *const odd[] = {
		"{}", "[]", "[1, null, 'a']", "{'reactors': [1], 'details': [2], 'threads': {}}",
		"{'threads': [{'active_pollers': {}}], 'reactors': [{'lw_threads': 3}]}"};

	doctor_run(&f.d);
	assert_true(f.d.count > 5);
	for (size_t i = 0; i < ARRAY_SIZE(odd); i++) {
		json_t **all[] = {&f.d.status,         &f.d.controllers,     &f.d.stats,
				  &f.d.disks,          &f.d.before.reactors, &f.d.before.pollers,
				  &f.d.after.reactors, &f.d.after.pollers};

		for (size_t j = 0; j < ARRAY_SIZE(all); j++) {
			set(all[j], odd[i]);
		}
		forget();
		f.d.pid = (pid_t)i;
		doctor_run(&f.d);
	}
}

/* ---- Reading ---- */

static void
test_reading(void **state)
{
	struct cpumask mask;
	char text[64];
	int64_t number;

	assert_true(doctor_cpus("0-2,5,7-8\n", &mask));
	assert_string_equal(doctor_cpus_text(&mask, text, sizeof(text)), "0-2,5,7-8");
	assert_true(doctor_cpus("\n", &mask));
	assert_string_equal(doctor_cpus_text(&mask, text, sizeof(text)), "none");
	assert_false(doctor_cpus(NULL, &mask));
	assert_false(doctor_cpus("0-x", &mask));
	assert_true(doctor_line("ab: 1\nb:\t 22 3 \nc:4", "b:", text, sizeof(text)));
	assert_string_equal(text, "22 3 ");
	assert_true(doctor_line("ab: 1\nc:4", "c:", text, sizeof(text)));
	assert_string_equal(text, "4");
	assert_false(doctor_line("ab: 1\n", "b:", text, sizeof(text)));
	put("/n", "word\n");
	assert_false(doctor_number(&f.d, "/n", &number));
	put("/n", "-12\n");
	assert_true(doctor_number(&f.d, "/n", &number) && number == -12);
	assert_int_equal(doctor_count_lines(&f.d, "/nowhere"), -1);
	assert_int_equal(doctor_count_entries(&f.d, "/nowhere"), -1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_cpus),        TEST(test_quota),       TEST(test_siblings),
		TEST(test_steal),       TEST(test_neighbours),  TEST(test_kernel),
		TEST(test_io_uring),    TEST(test_aio),         TEST(test_memory),
		TEST(test_hugepages),   TEST(test_maps),        TEST(test_kvm_and_container),
		TEST(test_descriptors), TEST(test_folders),     TEST(test_stale_sockets),
		TEST(test_state_dir),   TEST(test_target),      TEST(test_reactors),
		TEST(test_pollers),     TEST(test_controllers), TEST(test_all_on_nothing),
		TEST(test_reading),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
