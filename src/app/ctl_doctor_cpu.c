/* SPDX-License-Identifier: BSD-3-Clause */
/* Probes of berth doctor: processors, and who else wants them. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/ctl.h"
#include "app/ctl_doctor.h"
#include "base/check.h"

#define LIST_BYTES 512

/* Percent of a CPU's time. */
#define STEAL_NOTE 1.0
#define STEAL_WARN 10.0
#define NEIGHBOUR_NOTE 10.0
#define NEIGHBOUR_WARN 50.0

/* ---- Which there are ---- */

static bool
read_cpus(const struct doctor *d, const char *name, struct cpumask *ret_mask)
{
	char *text = doctor_read(d, "/sys/devices/system/cpu/%s", name);
	bool found = doctor_cpus(text, ret_mask);

	free(text);
	return found;
}

/* Those of a that are not in b. */
static struct cpumask
without(const struct cpumask *a, const struct cpumask *b)
{
	struct cpumask rest;

	for (size_t i = 0; i < ARRAY_SIZE(rest.words); i++) {
		rest.words[i] = a->words[i] & ~b->words[i];
	}
	return rest;
}

/* Set of the CPUs that reactors are pinned to. */
static struct cpumask
pinned_cpus(const struct doctor *d)
{
	struct cpumask mask = {{0}};
	const json_t *details;

	for (size_t i = 0; (details = doctor_reactor_details(&d->after, i)) != NULL; i++) {
		if (doctor_int(details, "cpu") >= 0) {
			cpumask_set(&mask, (unsigned)doctor_int(details, "cpu"));
		}
	}
	return mask;
}

static const char *
who(const struct doctor *d)
{
	return d->pid > 0 ? "berthd" : "this process";
}

void
doctor_cpus_probe(struct doctor *d)
{
	struct cpumask online, present, allowed, off, forbidden, pinned = pinned_cpus(d);
	char list[LIST_BYTES], online_list[LIST_BYTES];

	if (!read_cpus(d, "online", &online) || !doctor_allowed_cpus(d, &allowed)) {
		doctor_add(d, DOCTOR_NOTE, NULL, "/proc and /sys do not say which CPUs there are");
		return;
	}
	forbidden = without(&online, &allowed);
	doctor_cpus_text(&online, online_list, sizeof(online_list));
	if (cpumask_count(&pinned) > 0) {
		doctor_add(d, DOCTOR_OK, NULL, "CPUs %s are online; reactors are pinned to %s",
			   online_list, doctor_cpus_text(&pinned, list, sizeof(list)));
	} else if (cpumask_count(&forbidden) > 0) {
		struct cpumask got = without(&online, &forbidden);

		doctor_add(d, DOCTOR_NOTE,
			   "if that is not wanted: see cpuset.cpus of the control group, "
			   "AllowedCPUs= and CPUAffinity= of "
			   "the systemd unit, taskset -p",
			   "%s may use CPUs %s of %s that are online: an affinity mask or a cpuset "
			   "says so",
			   who(d), doctor_cpus_text(&got, list, sizeof(list)), online_list);
	} else {
		doctor_add(d, DOCTOR_OK, NULL, "CPUs %s are online, and %s may use all of them",
			   online_list, who(d));
	}
	if (read_cpus(d, "present", &present)) {
		off = without(&present, &online);
		if (cpumask_count(&off) > 0) {
			doctor_add(d, DOCTOR_NOTE, "chcpu -e switches them on",
				   "CPUs %s are there but switched off",
				   doctor_cpus_text(&off, list, sizeof(list)));
		}
	}
}

/* ---- How much of them ---- */

/* CPUs that a quota allows, from "50000 100000"; 0: no limit. */
static double
parse_quota(const char *quota, const char *period)
{
	double q = quota != NULL ? strtod(quota, NULL) : 0,
	       p = period != NULL ? strtod(period, NULL) : 0;

	return q > 0 && p > 0 ? q / p : 0;
}

/* Of one control group; 0: no limit, or no such group. */
static double
group_quota(const struct doctor *d, const char *group)
{
	char *max = doctor_read(d, "%s/cpu.max", group);
	char *quota = doctor_read(d, "%s/cpu.cfs_quota_us", group),
	     *period = doctor_read(d, "%s/cpu.cfs_period_us", group);
	double cpus = max != NULL ? parse_quota(max, strchr(max, ' ')) : parse_quota(quota, period);

	free(max);
	free(quota);
	free(period);
	return cpus;
}

/* Where the control group is that limits CPU time: its folder below the mount, and the length of the mount's own path. */
static bool
find_group(const struct doctor *d, char *ret_path, size_t size, size_t *ret_mount_len)
{
	static const struct {
		const char *key, *mount;
	} places[] = {
		{"0::", "/sys/fs/cgroup"},
		{":cpu:", "/sys/fs/cgroup/cpu"},
		{":cpu,cpuacct:", "/sys/fs/cgroup/cpu,cpuacct"},
		{"0::", "/sys/fs/cgroup/unified"},
	};
	char *groups = doctor_read_own(d, "cgroup");

	for (size_t i = 0; groups != NULL && i < ARRAY_SIZE(places); i++) {
		const char *at = strstr(groups, places[i].key);
		struct stat st;
		char path[600];

		if (at == NULL) {
			continue;
		}
		at += strlen(places[i].key);
		snprintf(ret_path, size, "%s%.*s", places[i].mount, (int)strcspn(at, "\n"), at);
		*ret_mount_len = strlen(places[i].mount);
		snprintf(path, sizeof(path), "%s/cpu.stat", ret_path);
		if (doctor_stat(d, path, &st)) {
			free(groups);
			return true;
		}
	}
	free(groups);
	return false;
}

/* The least of the group and of those it is in. */
static double
least_quota(const struct doctor *d, const char *group, size_t mount_len)
{
	char path[512];
	double least = 0;

	for (snprintf(path, sizeof(path), "%s", group); strlen(path) >= mount_len;) {
		double cpus = group_quota(d, path);
		char *slash = strrchr(path, '/');

		least = cpus > 0 && (least == 0 || cpus < least) ? cpus : least;
		if (slash == NULL) {
			break;
		}
		*slash = '\0';
	}
	return least;
}

static unsigned
count_polling(const struct doctor *d)
{
	const json_t *details;
	unsigned count = 0;

	for (size_t i = 0; (details = doctor_reactor_details(&d->after, i)) != NULL; i++) {
		count += ctl_reactor_polls(details);
	}
	return count;
}

void
doctor_quota_probe(struct doctor *d)
{
	char group[512], throttled[64] = "0", *stat;
	size_t mount_len;
	double cpus;

	if (!find_group(d, group, sizeof(group), &mount_len) ||
	    (cpus = least_quota(d, group, mount_len)) == 0) {
		doctor_add(d, DOCTOR_OK, NULL, "no control group limits the CPU time of %s",
			   who(d));
		return;
	}
	stat = doctor_read(d, "%s/cpu.stat", group);
	if (stat != NULL) {
		doctor_line(stat, "nr_throttled", throttled, sizeof(throttled));
	}
	free(stat);
	if (count_polling(d) >= cpus) {
		doctor_add(d, DOCTOR_WARN,
			   "use adaptive mode, or raise the quota above the number of reactors "
			   "that poll",
			   "a quota of %.2f CPUs, and %u reactors in poll mode, which use a whole "
			   "CPU each: the kernel stops "
			   "berthd for a part of every period, and I/O with it",
			   cpus, count_polling(d));
	} else if (strcmp(throttled, "0") != 0) {
		doctor_add(
			d, DOCTOR_WARN,
			"raise it: cpu.max, CPUQuota= of the systemd unit, --cpus of the container",
			"a quota of %.2f CPUs, which was used up %s times so far: all I/O stood "
			"still until the period's end",
			cpus, throttled);
	} else {
		doctor_add(d, DOCTOR_NOTE, NULL, "a quota of %.2f CPUs, never used up so far",
			   cpus);
	}
}

/* ---- Halves of one core ---- */

static bool
siblings_of(const struct doctor *d, unsigned cpu, struct cpumask *ret_mask)
{
	char *text =
		doctor_read(d, "/sys/devices/system/cpu/cpu%u/topology/thread_siblings_list", cpu);
	bool found = doctor_cpus(text, ret_mask);

	free(text);
	return found;
}

static unsigned
add_shared_cores(struct doctor *d, const struct cpumask *pinned)
{
	unsigned cpu, found = 0;

	CPUMASK_FOREACH (cpu, pinned) {
		struct cpumask siblings;
		unsigned other;

		if (!siblings_of(d, cpu, &siblings)) {
			continue;
		}
		other = cpumask_next(&siblings, cpu + 1);
		if (other < CPUMASK_CPUS && cpumask_test(pinned, other)) {
			doctor_add(d, count_polling(d) > 0 ? DOCTOR_WARN : DOCTOR_NOTE,
				   "give berthd (-m) one CPU of each core, and leave the other to "
				   "guests or idle",
				   "reactors run on CPUs %u and %u, two hyperthreads of one core: "
				   "together they do little more "
				   "than one alone",
				   cpu, other);
			found++;
		}
	}
	return found;
}

void
doctor_siblings_probe(struct doctor *d)
{
	struct cpumask pinned = pinned_cpus(d), online, siblings;
	char list[LIST_BYTES];
	unsigned cpu;

	if (add_shared_cores(d, &pinned) > 0) {
		return;
	}
	if (cpumask_count(&pinned) > 0) {
		doctor_add(d, DOCTOR_OK, NULL, "no two reactors share a core");
		return;
	}
	cpu = read_cpus(d, "online", &online) ? cpumask_next(&online, 0) : CPUMASK_CPUS;
	if (cpu < CPUMASK_CPUS && siblings_of(d, cpu, &siblings) && cpumask_count(&siblings) > 1) {
		doctor_add(d, DOCTOR_OK, NULL,
			   "cores have %u hyperthreads each (CPUs %s are one core); reactors are "
			   "not pinned, the kernel places them",
			   cpumask_count(&siblings),
			   doctor_cpus_text(&siblings, list, sizeof(list)));
	} else {
		doctor_add(d, DOCTOR_OK, NULL, "every CPU is a core of its own");
	}
}

/* ---- Time that went elsewhere ---- */

struct cpu_ticks {
	uint64_t total, idle, steal;
};

/* key: "cpu " for all, "cpu3 " for one. */
static bool
parse_ticks(const char *stat, const char *key, struct cpu_ticks *ret)
{
	uint64_t v[8] = {0};
	char line[512];

	if (stat == NULL || !doctor_line(stat, key, line, sizeof(line)) ||
	    sscanf(line,
		   "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNu64
		   " %" SCNu64 " %" SCNu64,
		   &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6], &v[7]) < 4) {
		return false;
	}
	*ret = (struct cpu_ticks){.idle = v[3] + v[4], .steal = v[7]};
	for (size_t i = 0; i < ARRAY_SIZE(v); i++) {
		ret->total += v[i];
	}
	return true;
}

static bool
ticks_between(const struct doctor *d, const char *key, struct cpu_ticks *ret)
{
	struct cpu_ticks a, b;

	if (!parse_ticks(d->before.stat, key, &a) || !parse_ticks(d->after.stat, key, &b) ||
	    b.total <= a.total) {
		return false;
	}
	*ret = (struct cpu_ticks){b.total - a.total, b.idle > a.idle ? b.idle - a.idle : 0,
				  b.steal > a.steal ? b.steal - a.steal : 0};
	return true;
}

void
doctor_steal_probe(struct doctor *d)
{
	struct cpu_ticks t;
	double percent;

	if (!ticks_between(d, "cpu ", &t)) {
		doctor_add(d, DOCTOR_NOTE, NULL,
			   "/proc/stat does not say whether a hypervisor takes CPU time away");
		return;
	}
	percent = 100.0 * (double)t.steal / (double)t.total;
	if (percent >= STEAL_NOTE) {
		doctor_add(d, percent >= STEAL_WARN ? DOCTOR_WARN : DOCTOR_NOTE,
			   "ask for dedicated CPUs, or a machine with fewer neighbours",
			   "this machine is itself a VM, and %.0f %% of its CPU time were given to "
			   "others in the last %.1f s: "
			   "latency suffers, and measurements mean little",
			   percent, d->seconds);
	} else {
		doctor_add(d, DOCTOR_OK, NULL,
			   "no hypervisor took CPU time away in the last %.1f s", d->seconds);
	}
}

void
doctor_neighbours_probe(struct doctor *d)
{
	const json_t *details;
	unsigned found = 0, looked = 0;

	for (size_t i = 0;
	     i < DOCTOR_REACTORS_MAX && (details = doctor_reactor_details(&d->after, i)) != NULL;
	     i++) {
		uint64_t own = d->after.task_ticks[i] - d->before.task_ticks[i], busy;
		struct cpu_ticks t;
		double percent;
		char key[24];

		snprintf(key, sizeof(key), "cpu%" PRId64 " ", doctor_int(details, "cpu"));
		if (d->pid == 0 || doctor_int(details, "cpu") < 0 || !ticks_between(d, key, &t)) {
			continue;
		}
		looked++;
		busy = t.total - t.idle - t.steal;
		percent = busy > own ? 100.0 * (double)(busy - own) / (double)t.total : 0;
		if (percent >= NEIGHBOUR_NOTE) {
			doctor_add(d, percent >= NEIGHBOUR_WARN ? DOCTOR_WARN : DOCTOR_NOTE,
				   "keep others away from it (cpuset, isolcpus), give berthd other "
				   "CPUs (-m), or do not pin it",
				   "others used %.0f %% of CPU %" PRId64
				   ", on which reactor %" PRId64 " runs: it waits for them",
				   percent, doctor_int(details, "cpu"),
				   doctor_int(details, "lcore"));
			found++;
		}
	}
	if (found == 0 && looked > 0) {
		doctor_add(d, DOCTOR_OK, NULL, "nobody else uses the CPUs of the reactors much");
	} else if (looked == 0) {
		doctor_add(d, DOCTOR_OK, NULL,
			   "reactors are not pinned: the kernel finds free CPUs for them");
	}
}
