/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * berth doctor: gathers what can be known of this host and of the berthd that runs on it, lets every probe of a table look at it,
 * and says what they found. Exit code 0 unless something is BAD. Changes nothing, anywhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "app/ctl.h"
#include "app/ctl_doctor.h"
#include "base/check.h"
#include "base/clock.h"
#include "sock/unix.h"

const struct doctor_probe doctor_probes[] = {
	{"berthd", true, doctor_target_probe},
	{"reactors", true, doctor_reactors_probe},
	{"pollers", true, doctor_pollers_probe},
	{"controllers", true, doctor_controllers_probe},
	{"errors", true, doctor_errors_probe},
	{"coalescing", true, doctor_coalescing_probe},
	{"cpus", false, doctor_cpus_probe},
	{"quota", false, doctor_quota_probe},
	{"hyperthreads", false, doctor_siblings_probe},
	{"steal", false, doctor_steal_probe},
	{"neighbours", true, doctor_neighbours_probe},
	{"memory", false, doctor_memory_probe},
	{"hugepages", false, doctor_hugepages_probe},
	{"mappings", false, doctor_maps_probe},
	{"descriptors", false, doctor_descriptors_probe},
	{"memlock", false, doctor_memlock_probe},
	{"io_uring", false, doctor_io_uring_probe},
	{"aio", false, doctor_aio_probe},
	{"kernel", false, doctor_kernel_probe},
	{"container", false, doctor_container_probe},
	{"kvm", false, doctor_kvm_probe},
	{"sockets", false, doctor_socket_dir_probe},
	{"left behind", false, doctor_stale_sockets_probe},
	{"state", false, doctor_state_dir_probe},
	{.name = NULL},
};

void
doctor_run(struct doctor *d)
{
	for (const struct doctor_probe *p = doctor_probes; p->name != NULL; p++) {
		if (!p->target || d->status != NULL) {
			d->subject = p->name;
			p->run(d);
		}
	}
}

/* ---- Gathering ---- */

static struct doctor_kernel
ask_kernel(void)
{
	struct io_uring_params params = {0};
	struct timespec now = {0};
	struct epoll_event event;
	struct doctor_kernel kernel = {0};
	int ring = (int)syscall(SYS_io_uring_setup, 4, &params), epoll;

	kernel.io_uring_setup = ring >= 0 ? 0 : -errno;
	if (ring >= 0) {
		close(ring);
	}
	epoll = epoll_create1(EPOLL_CLOEXEC);
	kernel.epoll_pwait2 = epoll_pwait2(epoll, &event, 1, &now, NULL) >= 0 ? 0 : -errno;
	close(epoll);
	return kernel;
}

/* NULL: no target, or one that does not know the method. */
static json_t *
ask(struct ctl *ctl, const char *method)
{
	json_t *result = NULL, *error = NULL;

	if (ctl->stream.fd < 0 || ctl_call(ctl, "doctor", method, NULL, &result, &error) != CTL_OK) {
		result = NULL;
	}
	json_decref(error);
	return result;
}

/* In ticks; 0 when it cannot be seen. */
static uint64_t
task_ticks(const struct doctor *d, int64_t tid)
{
	char *text = d->pid > 0 ? doctor_read(d, "/proc/%d/task/%" PRId64 "/stat", (int)d->pid, tid)
				: NULL;
	/* The name, in parentheses, may have anything in it. */
	const char *at = text != NULL ? strrchr(text, ')') : NULL;
	uint64_t user = 0, system = 0;

	if (at != NULL) {
		sscanf(at, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64,
		       &user, &system);
	}
	free(text);
	return user + system;
}

static void
take_sample(struct doctor *d, struct ctl *ctl, struct doctor_sample *s)
{
	const json_t *reactor;

	s->reactors = ask(ctl, "framework_get_reactors");
	s->pollers = ask(ctl, "thread_get_pollers");
	s->stat = doctor_read(d, "/proc/stat");
	for (size_t i = 0; i < DOCTOR_REACTORS_MAX && (reactor = doctor_reactor(s, i)) != NULL;
	     i++) {
		s->task_ticks[i] = task_ticks(d, doctor_int(reactor, "tid"));
	}
}

/* Who listens, as this process sees it: 0 from outside of its PID namespace. */
static pid_t
peer_pid(int fd)
{
	struct ucred peer = {0};
	socklen_t len = sizeof(peer);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 ? peer.pid : 0;
}

static void
gather_target(struct doctor *d, struct ctl *ctl)
{
	d->status = ask(ctl, "berth_status");
	d->controllers = ask(ctl, "vhost_get_controllers");
	d->stats = ask(ctl, "vhost_get_stats");
	d->disks = ask(ctl, "berth_disk_list");
	if (d->status != NULL) {
		d->socket_dir = doctor_text(d->status, "socket_dir");
		d->state_dir = json_string_value(json_object_get(d->status, "state_dir"));
		doctor_open_folders(d);
	}
}

static void
gather(struct doctor *d, struct ctl *ctl)
{
	struct timespec pause = {
		.tv_sec = (time_t)d->seconds,
		.tv_nsec = (long)((d->seconds - (double)(time_t)d->seconds) * (double)NS_PER_S)};
	uint64_t start_ns;

	d->kernel = ask_kernel();
	if (ctl->stream.fd >= 0) {
		d->pid = peer_pid(ctl->stream.fd);
		gather_target(d, ctl);
	}
	take_sample(d, ctl, &d->before);
	start_ns = clock_now_ns();
	nanosleep(&pause, NULL);
	take_sample(d, ctl, &d->after);
	d->seconds = (double)(clock_now_ns() - start_ns) / (double)NS_PER_S;
}

/* ---- Saying it ---- */

static const char *const level_names[DOCTOR_LEVELS] = {"OK", "NOTE", "WARN", "BAD"};

static void
count_levels(const struct doctor *d, size_t counts[static DOCTOR_LEVELS])
{
	for (size_t i = 0; i < d->count; i++) {
		counts[d->findings[i].level]++;
	}
}

static void
print_json(const struct doctor *d, const struct ctl *ctl)
{
	size_t counts[DOCTOR_LEVELS] = {0};
	json_t *findings = json_array(), *json;

	count_levels(d, counts);
	for (size_t i = 0; i < d->count; i++) {
		const struct doctor_finding *f = &d->findings[i];

		json_array_append_new(findings,
				      json_pack("{s:s,s:s,s:s,s:s?}", "level",
						level_names[f->level], "subject", f->subject,
						"text", f->text, "advice", f->advice));
	}
	json = json_pack("{s:o?,s:{s:I,s:I,s:I,s:I},s:o}", "socket",
			 d->status != NULL ? json_string(ctl->socket) : NULL, "counts", "ok",
			 (json_int_t)counts[DOCTOR_OK], "note", (json_int_t)counts[DOCTOR_NOTE],
			 "warn", (json_int_t)counts[DOCTOR_WARN], "bad",
			 (json_int_t)counts[DOCTOR_BAD], "findings", findings);
	ctl_print_json(json);
	json_decref(json);
}

/* Words up to width columns a line, each further line below `column`; width 0: one line. */
static void
print_wrapped(const char *text, int column, int width)
{
	int at = column;

	while (*text != '\0') {
		size_t word = strcspn(text, " ");

		if (width > column + 20 && at > column && at + (int)word >= width) {
			printf("\n%*s", column, "");
			at = column;
		} else if (at > column) {
			putchar(' ');
			at++;
		}
		printf("%.*s", (int)word, text);
		at += (int)word;
		text += word;
		text += strspn(text, " ");
	}
	putchar('\n');
}

static int
terminal_width(void)
{
	struct winsize size;

	return isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 ? size.ws_col
										     : 0;
}

#define TEXT_COLUMN 20

static void
print_text(const struct doctor *d)
{
	static const char *const colours[DOCTOR_LEVELS] = {"\033[32m", "\033[36m", "\033[33m",
							   "\033[1;31m"};
	bool colour = isatty(STDOUT_FILENO);
	size_t counts[DOCTOR_LEVELS] = {0};
	int width = terminal_width();

	for (size_t i = 0; i < d->count; i++) {
		const struct doctor_finding *f = &d->findings[i];

		printf("%s%-4s%s  %-12s  ", colour ? colours[f->level] : "", level_names[f->level],
		       colour ? "\033[0m" : "", f->subject);
		print_wrapped(f->text, TEXT_COLUMN, width);
		if (f->advice != NULL) {
			printf("%*s", TEXT_COLUMN, "-> ");
			print_wrapped(f->advice, TEXT_COLUMN, width);
		}
	}
	count_levels(d, counts);
	printf("\n%zu OK, %zu NOTE, %zu WARN, %zu BAD\n", counts[DOCTOR_OK], counts[DOCTOR_NOTE],
	       counts[DOCTOR_WARN], counts[DOCTOR_BAD]);
}

/* ---- Command line ---- */

static int
take_sample_time(struct doctor *d, const char *text)
{
	char *end;

	d->seconds = strtod(text, &end);
	if (end == text || *end != '\0' || !(d->seconds >= 0.1 && d->seconds <= 60)) {
		return ctl_usage("doctor", "--sample is '%s', but must be 0.1 to 60 seconds", text);
	}
	return CTL_OK;
}

int
ctl_doctor(struct ctl *ctl, int argc, char **argv)
{
	struct doctor d = {.root = "", .seconds = 1.0};
	const char *sample = NULL;
	struct err err = ERR_NONE;
	size_t counts[DOCTOR_LEVELS] = {0};
	int rc;

	if (ctl_take_option(&argc, argv, "--sample", &sample) < 0 ||
	    ctl_take_option(&argc, argv, "--socket-dir", &d.socket_dir) < 0 ||
	    ctl_take_option(&argc, argv, "--state-dir", &d.state_dir) < 0) {
		return CTL_USAGE;
	}
	rc = sample != NULL ? take_sample_time(&d, sample) : CTL_OK;
	rc = rc == CTL_OK ? ctl_check_arguments("doctor", argc, argv, 0, 0) : rc;
	if (rc != CTL_OK) {
		return rc;
	}
	/* The host that is looked at is this one, and so is its berthd. */
	ctl->stream.fd = unix_connect(ctl->socket, &err);
	gather(&d, ctl);
	d.subject = "berthd";
	if (d.status == NULL) {
		doctor_add(&d, DOCTOR_NOTE, "-s names another socket",
			   "no berthd to ask, only the host was looked at: %s",
			   ctl->stream.fd < 0 ? err_text(&err) : "what listens there is none");
	}
	doctor_run(&d);
	if (ctl->json) {
		print_json(&d, ctl);
	} else {
		print_text(&d);
	}
	count_levels(&d, counts);
	doctor_release(&d);
	return counts[DOCTOR_BAD] > 0 ? CTL_REFUSED : CTL_OK;
}
