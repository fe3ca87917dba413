/* SPDX-License-Identifier: BSD-3-Clause */
/* Probes of berth doctor: what the running berthd says of itself. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/ctl.h"
#include "app/ctl_doctor.h"
#include "base/check.h"

#define NAMES_MAX 3

/* "a, b, c and 4 more" */
struct names {
	char text[256];
	size_t count;
};

static void
names_add(struct names *n, const char *name)
{
	size_t len = strlen(n->text);

	if (n->count++ < NAMES_MAX) {
		snprintf(n->text + len, sizeof(n->text) - len, "%s%.64s", len > 0 ? ", " : "",
			 name);
	}
}

static const char *
names_end(struct names *n)
{
	size_t len = strlen(n->text);

	if (n->count > NAMES_MAX) {
		snprintf(n->text + len, sizeof(n->text) - len, " and %zu more",
			 n->count - NAMES_MAX);
	}
	return n->text;
}

/* ---- Version and reach ---- */

void
doctor_target_probe(struct doctor *d)
{
	const char *version = doctor_text(d->status, "version");

	if (strcmp(version, "berth v" BERTH_VERSION) != 0) {
		doctor_add(d, DOCTOR_NOTE, "restart berthd after an update",
			   "berthd is \"%s\", this command \"berth v" BERTH_VERSION "\"", version);
	}
	if (strcmp(doctor_text(d->status, "state"), "startup") == 0) {
		doctor_add(d, DOCTOR_WARN, "berth rpc framework_start_init",
			   "berthd was started with --wait-for-rpc and waits for "
			   "framework_start_init");
	}
	if (d->pid == 0) {
		doctor_add(d, DOCTOR_NOTE, "run this command where berthd runs",
			   "berthd is in another PID namespace (a container?): its limits and "
			   "threads cannot be seen from here");
	} else {
		doctor_add(d, DOCTOR_OK, NULL,
			   "berthd answers; %" PRId64 " controllers, %" PRId64 " connected VMs",
			   doctor_int(d->status, "controllers"), doctor_int(d->status, "sessions"));
	}
}

/* ---- Reactors ---- */

/* Where the system thread of a reactor may run is somewhere else than where it belongs. */
static bool
is_elsewhere(const struct doctor *d, const json_t *reactor, const json_t *details)
{
	struct cpumask allowed;
	char *status, list[512];
	bool elsewhere;

	if (d->pid == 0 || doctor_int(details, "cpu") < 0) {
		return false;
	}
	status = doctor_read(d, "/proc/%d/task/%" PRId64 "/status", (int)d->pid,
			     doctor_int(reactor, "tid"));
	elsewhere = status != NULL &&
		    doctor_line(status, "Cpus_allowed_list:", list, sizeof(list)) &&
		    doctor_cpus(list, &allowed) &&
		    (cpumask_count(&allowed) != 1 ||
		     !cpumask_test(&allowed, (unsigned)doctor_int(details, "cpu")));
	free(status);
	return elsewhere;
}

/* A CPU that is not its own it does not keep busy for nothing. */
static const char *
meanwhile(const json_t *details)
{
	bool is_poll = strcmp(doctor_text(details, "mode"), "poll") == 0;

	return is_poll && !ctl_reactor_polls(details) ? ", and until it is back it waits as in adaptive mode, not in poll mode"
						       : "";
}

/* Whether it is where it belongs; else that was said. */
static bool
judge_place(struct doctor *d, const json_t *reactor, const json_t *details)
{
	const char *state = doctor_text(details, "cpu_state");
	int64_t lcore = doctor_int(details, "lcore"), cpu = doctor_int(details, "cpu");

	if (strcmp(state, "offline") == 0) {
		doctor_add(d, DOCTOR_WARN,
			   "switch it on again (chcpu -e), or start berthd with another mask",
			   "reactor %" PRId64 " should run on CPU %" PRId64
			   ", which was switched off: it shares another one now%s",
			   lcore, cpu, meanwhile(details));
		return false;
	}
	if (strcmp(state, "moved") == 0 || is_elsewhere(d, reactor, details)) {
		doctor_add(d, DOCTOR_WARN,
			   "see cpuset.cpus of its control group; taskset -pc CPU TID puts it back",
			   "reactor %" PRId64 " (thread %" PRId64 ") should run on CPU %" PRId64
			   ", but somebody gave it other CPUs%s",
			   lcore, doctor_int(reactor, "tid"), cpu, meanwhile(details));
		return false;
	}
	return true;
}

void
doctor_reactors_probe(struct doctor *d)
{
	size_t count = json_array_size(json_object_get(d->after.reactors, "reactors")), polling = 0,
	       pinned = 0, fine = 0;
	struct cpumask allowed;

	for (size_t i = 0; i < count; i++) {
		const json_t *details = doctor_reactor_details(&d->after, i);

		polling += ctl_reactor_polls(details);
		pinned += details != NULL && doctor_int(details, "cpu") >= 0;
		fine += details == NULL || judge_place(d, doctor_reactor(&d->after, i), details);
	}
	if (polling > 0) {
		doctor_add(d, DOCTOR_NOTE,
			   "adaptive mode costs nothing while nobody works, and is as fast when "
			   "somebody does",
			   "%zu of %zu reactors are in poll mode: each uses a whole CPU, always",
			   polling, count);
	}
	if (d->pid > 0 && doctor_allowed_cpus(d, &allowed) && cpumask_count(&allowed) < count) {
		doctor_add(d, polling > 0 ? DOCTOR_WARN : DOCTOR_NOTE,
			   "restart berthd, or give it more CPUs", "%zu reactors share %u CPUs",
			   count, cpumask_count(&allowed));
	}
	if (fine == count) {
		doctor_add(d, DOCTOR_OK, NULL, "%zu reactors, %s", count,
			   pinned == count ? "each on the CPU it was asked to run on"
			   : pinned > 0    ? "some of them pinned"
					   : "not pinned: the kernel places them");
	}
}

/* ---- Pollers that keep a core awake ---- */

/* Calls in the time between the samples that make a core busy: even a slow poll function takes a microsecond. */
#define BURNING_CALLS_A_SECOND 10000

static const json_t *
find_by_id(const json_t *array, int64_t id)
{
	const json_t *element;
	size_t i;

	json_array_foreach (array, i, element) {
		if (doctor_int(element, "id") == id) {
			return element;
		}
	}
	return NULL;
}

static bool
burns(const struct doctor *d, const json_t *before, const json_t *after)
{
	int64_t runs = doctor_int(after, "run_count") - doctor_int(before, "run_count");

	return before != NULL && after != NULL &&
	       (double)runs > BURNING_CALLS_A_SECOND * d->seconds &&
	       doctor_int(after, "busy_count") == doctor_int(before, "busy_count");
}

static bool
is_polling_thread(const struct doctor_sample *s, int64_t thread_id)
{
	const json_t *reactor;

	for (size_t i = 0; (reactor = doctor_reactor(s, i)) != NULL; i++) {
		if (find_by_id(json_object_get(reactor, "lw_threads"), thread_id) != NULL) {
			return ctl_reactor_polls(doctor_reactor_details(s, i));
		}
	}
	return false;
}

static size_t
judge_thread(struct doctor *d, const json_t *thread)
{
	const json_t *old = find_by_id(json_object_get(d->before.pollers, "threads"),
				       doctor_int(thread, "id")),
		     *poller;
	size_t i, found = 0;

	/* In poll mode that is what was asked for. */
	if (is_polling_thread(&d->before, doctor_int(thread, "id")) ||
	    is_polling_thread(&d->after, doctor_int(thread, "id"))) {
		return 0;
	}
	json_array_foreach (json_object_get(thread, "active_pollers"), i, poller) {
		const json_t *before = find_by_id(json_object_get(old, "active_pollers"),
						  doctor_int(poller, "id"));

		if (burns(d, before, poller)) {
			doctor_add(d, DOCTOR_WARN,
				   "tell berth's developers what it serves; berth rpc "
				   "thread_get_pollers shows it",
				   "poller \"%s\" of thread %s ran %" PRId64
				   " times in %.1f s and had no work: it keeps a core busy "
				   "for nothing",
				   doctor_text(poller, "name"), doctor_text(thread, "name"),
				   doctor_int(poller, "run_count") -
					   doctor_int(before, "run_count"),
				   d->seconds);
			found++;
		}
	}
	return found;
}

void
doctor_pollers_probe(struct doctor *d)
{
	const json_t *thread;
	size_t i, found = 0;

	json_array_foreach (json_object_get(d->after.pollers, "threads"), i, thread) {
		found += judge_thread(d, thread);
	}
	if (found == 0) {
		doctor_add(d, DOCTOR_OK, NULL, "no poller keeps a core awake without work");
	}
}

/* ---- Controllers ---- */

void
doctor_controllers_probe(struct doctor *d)
{
	struct names orphans = {.text = ""};
	const json_t *ctrlr;
	size_t i;

	json_array_foreach (d->stats, i, ctrlr) {
		if (json_is_null(json_object_get(ctrlr, "bdev"))) {
			names_add(&orphans, doctor_text(ctrlr, "ctrlr"));
		}
	}
	if (orphans.count > 0) {
		doctor_add(d, DOCTOR_BAD, "delete them, or make the bdevs and them again",
			   "the block device of %zu controllers is gone, so no VM can use them: %s",
			   orphans.count, names_end(&orphans));
	} else {
		doctor_add(d, DOCTOR_OK, NULL, "every controller has its block device");
	}
}

void
doctor_errors_probe(struct doctor *d)
{
	struct names failed = {.text = ""}, malformed = {.text = ""};
	const json_t *ctrlr;
	size_t i;

	json_array_foreach (d->stats, i, ctrlr) {
		if (doctor_int(ctrlr, "errors") > 0) {
			names_add(&failed, doctor_text(ctrlr, "ctrlr"));
		}
		if (doctor_int(ctrlr, "malformed") > 0) {
			names_add(&malformed, doctor_text(ctrlr, "ctrlr"));
		}
	}
	if (failed.count > 0) {
		doctor_add(d, DOCTOR_WARN, "see berthd's log, and the host's for the device below",
			   "requests of VMs have failed on %zu controllers: %s", failed.count,
			   names_end(&failed));
	}
	if (malformed.count > 0) {
		doctor_add(
			d, DOCTOR_WARN, "look at the drivers of those guests, and at who owns them",
			"guests sent descriptor chains that are no requests to %zu controllers: %s",
			malformed.count, names_end(&malformed));
	}
	if (failed.count + malformed.count == 0) {
		doctor_add(d, DOCTOR_OK, NULL, "no request of any VM has failed");
	}
}

void
doctor_coalescing_probe(struct doctor *d)
{
	struct names coalesced = {.text = ""};
	const json_t *ctrlr;
	size_t i;

	json_array_foreach (d->controllers, i, ctrlr) {
		if (doctor_int(ctrlr, "delay_base_us") > 0) {
			names_add(&coalesced, doctor_text(ctrlr, "ctrlr"));
		}
	}
	if (coalesced.count > 0) {
		doctor_add(d, DOCTOR_NOTE,
			   "vhost_controller_set_coalescing with delay_base_us=0 ends that",
			   "%zu controllers call their guests late when these are busy "
			   "(delay_base_us), which saves interrupts and "
			   "costs latency: %s",
			   coalesced.count, names_end(&coalesced));
	} else {
		doctor_add(d, DOCTOR_OK, NULL, "no controller delays interrupts by a setting");
	}
}
