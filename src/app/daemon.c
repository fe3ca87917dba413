/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The daemon's life, as one table of steps: start-up runs it forwards, shutdown undoes it
 * backwards, and so does a start that fails half-way. All of it on the app thread, which lives on
 * the first reactor; that reactor is the main system thread's.
 *
 * Invariants
 *  1. Nothing outside this process is touched before the RPC socket's lock is held: a second
 *     instance disturbs nobody.
 *  2. A controller's socket appears after the bdev it serves (it cannot be made before), and the
 *     RPC socket after all of them.
 *  3. Shutdown takes no new requests first, then ends controllers (what is in flight is answered),
 *     then bdevs, then the state.
 */
#include "app/daemon.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include "app/config_file.h"
#include "app/regain.h"
#include "app/replay.h"
#include "app/state.h"
#include "base/check.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "base/path.h"
#include "bdev/module.h"
#include "bdevs/gpt/gpt.h"
#include "bdevs/raid/raid.h"
#include "bdevs/rbd/rbd.h"
#include "bdevs/remote/remote.h"
#include "event/scheduler.h"
#include "event/steps.h"
#include "lvol/lvol.h"
#include "methods/methods.h"
#include "nbd/nbd.h"
#include "rpc/rpc.h"
#include "rpc/schema.h"
#include "sock/unix.h"
#include "vhost/vhost.h"

/* Front ends give up what waits for space or a connection after 3 to 5 s. */
#define STOP_PATIENCE_US (6 * UINT64_C(1000000))

/* Memory of that size is asked for, and given back, by itself. */
#define LARGE_BYTES (128 << 10)

static struct {
	const struct daemon_options *options;
	struct reactor *reactors[DAEMON_REACTORS_MAX];
	unsigned reactor_count;
	struct thread *threads
		[1 + DAEMON_REACTORS_MAX]; /* the app thread, then an I/O thread for each reactor */
	struct msg start_msg;
	struct msg exit_msgs[DAEMON_REACTORS_MAX];
	struct steps steps;
	int exit_code;

	sigset_t signals;
	int signal_fd;
	struct watch signal_watch;
	bool stopping; /* a signal asked for it */
	struct timer patience; /* runs from then on until front ends are gone */

	char *lock_path;
	int lock_fd;
	char *socket_dir;
	char *state_dir; /* absolute; NULL: none */
	struct worker *worker;
	struct state *state;
	json_t *config; /* calls of the configuration file that are to be made */
	struct replay replay;
	bool replaying;
	bool waiting; /* for framework_start_init */
	struct methods_options methods_options;
	struct rpc_server *rpc;
	struct rpc_server *rpc_tcp;
} d;

/* ---- Signals ---- */

/* What front ends still wait for are disks elsewhere. */
static void
lose_patience(struct timer *timer)
{
	remote_leave_all();
	bdev_rbd_leave_all();
}

static void
stop(void)
{
	LOG_NOTICE(APP, "", "stopping");
	d.stopping = true;
	(void)timer_start(&d.patience, STOP_PATIENCE_US, lose_patience); /* without memory: as long as it takes */
	if (d.replaying) {
		replay_cancel(&d.replay);
	}
	steps_undo(&d.steps, -ECANCELED);
	if (d.waiting) {
		d.waiting = false;
		steps_continue(&d.steps, 0);
	}
}

static void
on_signal(struct watch *w, uint32_t events)
{
	struct signalfd_siginfo info;

	if (read(w->fd, &info, sizeof(info)) != sizeof(info)) {
		return;
	}
	if (d.stopping) {
		LOG_WARNING(APP, "", "second signal: ends at once");
		_exit(1);
	}
	stop();
}

static int
watch_signals(struct steps *s)
{
	d.signal_fd = signalfd(-1, &d.signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (d.signal_fd < 0) {
		return -errno;
	}
	return watch_start(&d.signal_watch, d.signal_fd, EPOLLIN, on_signal);
}

static int
unwatch_signals(struct steps *s)
{
	timer_stop(&d.patience);
	watch_stop(&d.signal_watch);
	close(d.signal_fd);
	return 0;
}

/* ---- One instance a socket ---- */

/* The lock, on the file that has the name now: its last owner may have removed it between our
 * open and our lock. */
static int
lock_file(struct err *err)
{
	struct stat ours, named;
	char pid[32];
	ssize_t n;

	for (;;) {
		d.lock_fd = open(d.lock_path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
		if (d.lock_fd < 0) {
			return err_set(err, -errno, "cannot make %s: %s", d.lock_path,
				       strerror(errno));
		}
		if (flock(d.lock_fd, LOCK_EX | LOCK_NB) != 0) {
			n = pread(d.lock_fd, pid, sizeof(pid) - 1, 0);
			pid[n > 0 ? n : 0] = '\0';
			close(d.lock_fd);
			return err_set(err, -EADDRINUSE,
				       "another berthd (process %.*s) answers at %s",
				       (int)strcspn(pid, "\n"), pid, d.options->rpc_socket);
		}
		if (fstat(d.lock_fd, &ours) == 0 && stat(d.lock_path, &named) == 0 &&
		    ours.st_ino == named.st_ino && ours.st_dev == named.st_dev) {
			return 0;
		}
		close(d.lock_fd);
	}
}

static int
claim_socket(struct steps *s)
{
	char pid[32];
	int fd, rc;

	if (d.options->rpc_socket == NULL) {
		return 0;
	}
	if (asprintf(&d.lock_path, "%s.lock", d.options->rpc_socket) < 0) {
		d.lock_path = NULL;
		return -ENOMEM;
	}
	rc = lock_file(&s->err);
	if (rc != 0) {
		free(d.lock_path);
		d.lock_path = NULL;
		return rc;
	}
	snprintf(pid, sizeof(pid), "%d\n", (int)getpid());
	if (ftruncate(d.lock_fd, 0) != 0 || pwrite(d.lock_fd, pid, strlen(pid), 0) < 0) {
		LOG_WARNING(APP, d.lock_path, "cannot write the process number: %s",
			    strerror(errno));
	}
	fd = unix_connect(d.options->rpc_socket, NULL);
	if (fd >= 0) {
		close(fd);
		close(d.lock_fd);
		free(d.lock_path);
		d.lock_path = NULL;
		return err_set(&s->err, -EADDRINUSE, "another program answers at %s",
			       d.options->rpc_socket);
	}
	return 0;
}

static int
release_socket(struct steps *s)
{
	if (d.lock_path != NULL) {
		unlink(d.lock_path);
		close(d.lock_fd);
		free(d.lock_path);
	}
	return 0;
}

/* Another process that has the address, and files that are not what they should be, are found before anything is touched. */
static int
check_address(struct steps *s)
{
	struct rpc_server_options options = d.options->rpc;

	options.path = d.options->rpc_address;
	return options.path != NULL ? rpc_server_check(&options, &s->err) : 0;
}

/* Where RPC is to be had, for people. */
static const char *
rpc_place(void)
{
	return d.options->rpc_socket != NULL ? d.options->rpc_socket : d.options->rpc_address;
}

/* ---- Directories, worker, state, configuration ---- */

static int
start_worker(struct steps *s)
{
	d.worker = worker_create("berth_worker", &s->err);
	return d.worker != NULL ? 0 : s->err.code;
}

static int
stop_worker(struct steps *s)
{
	worker_free(d.worker);
	return 0;
}

static int
open_state(struct steps *s)
{
	struct state_options options = {
		.dir = d.options->state_dir, .worker = d.worker, .live = methods_state};
	int rc;

	if (options.dir == NULL) {
		return 0;
	}
	rc = state_open(&options, &d.state, &s->err);
	if (rc != 0) {
		return rc;
	}
	d.state_dir = realpath(options.dir, NULL);
	if (d.state_dir == NULL) {
		/* It was opened a moment ago; the lock ends with the process. */
		return err_set(&s->err, -errno, "%s: %s", options.dir, strerror(errno));
	}
	return 0;
}

static void
state_closed(void *ctx)
{
	steps_continue(&d.steps, 0);
}

static int
close_state(struct steps *s)
{
	free(d.state_dir);
	d.state_dir = NULL;
	state_close(d.state, state_closed, NULL);
	return STEPS_WAIT;
}

static int
make_socket_dir(struct steps *s)
{
	const char *dir = d.options->socket_dir;

	if (dir != NULL) {
		d.socket_dir = path_absolute(dir);
	} else {
		d.socket_dir = d.state_dir != NULL ? path_join(d.state_dir, "sockets")
						   : strdup(DAEMON_SOCKET_DIR);
	}
	return d.socket_dir != NULL ? path_make_dirs(d.socket_dir, 0755, &s->err) : -ENOMEM;
}

static int
forget_socket_dir(struct steps *s)
{
	free(d.socket_dir);
	return 0;
}

static int
read_config(struct steps *s)
{
	const char *file = d.options->config_file;

	if (file == NULL) {
		return 0;
	}
	if (d.state != NULL && !state_empty(d.state)) {
		LOG_NOTICE(APP, file,
			   "not read: it fills an empty state directory only, and %s has a state",
			   d.state_dir);
		return 0;
	}
	return config_file_read(file, &d.config, &s->err);
}

static int
forget_config(struct steps *s)
{
	json_decref(d.config);
	d.config = NULL;
	return 0;
}

/* ---- Block devices and controllers ---- */

static void
bdevs_gone(void *ctx)
{
	steps_continue(&d.steps, 0);
}

static int
remove_bdevs(struct steps *s)
{
	timer_stop(&d.patience);
	bdev_shutdown(bdevs_gone, NULL);
	return STEPS_WAIT;
}

static int
end_arrays(struct steps *s)
{
	raid_shutdown(bdevs_gone, NULL);
	return STEPS_WAIT;
}

static int
end_stores(struct steps *s)
{
	lvol_shutdown(bdevs_gone, NULL);
	return STEPS_WAIT;
}

static int
end_images(struct steps *s)
{
	bdev_rbd_shutdown(bdevs_gone, NULL);
	return STEPS_WAIT;
}

static int
start_vhost(struct steps *s)
{
	struct vhost_options options = {
		.socket_dir = d.socket_dir,
		.socket_group = d.options->has_socket_group ? &d.options->socket_group : NULL,
		.io_threads = &d.threads[1],
		.io_thread_count = d.reactor_count,
	};

	return vhost_init(&options, &s->err);
}

static void
vhost_stopped(void *ctx)
{
	steps_continue(&d.steps, 0);
}

static int
stop_vhost(struct steps *s)
{
	vhost_shutdown(vhost_stopped, NULL);
	return STEPS_WAIT;
}

/* ---- NBD ---- */

static int
start_nbd(struct steps *s)
{
	struct nbd_options options = {
		.io_threads = &d.threads[1],
		.io_thread_count = d.reactor_count,
		.socket_dir = d.socket_dir,
		.socket_group = d.options->has_socket_group ? &d.options->socket_group : NULL,
		.worker = d.worker,
		/* Who starts next, with the same state, takes them over. */
		.keep_disks = d.state != NULL,
	};

	return nbd_init(&options, &s->err);
}

static void
nbd_stopped(void *ctx)
{
	steps_continue(&d.steps, 0);
}

static int
stop_nbd(struct steps *s)
{
	nbd_end(nbd_stopped, NULL);
	return STEPS_WAIT;
}

/* ---- The scheduler ---- */

static int
start_scheduler(struct steps *s)
{
	int rc = scheduler_start(d.threads, 1 + d.reactor_count, d.reactors, d.reactor_count);

	if (rc == 0) {
		scheduler_set_balancer(vhost_rebalance);
	}
	return rc;
}

static void
scheduler_stopped(void *ctx)
{
	steps_continue(&d.steps, 0);
}

static int
stop_scheduler(struct steps *s)
{
	scheduler_stop(scheduler_stopped, NULL);
	return STEPS_WAIT;
}

/* ---- Methods and calls to be made at start ---- */

static void
start_init(void *ctx)
{
	if (d.waiting) {
		d.waiting = false;
		steps_continue(&d.steps, 0);
	}
}

static bool
forget(void *ctx, const char *family, const char *name)
{
	return d.state != NULL && state_forget(d.state, family, name);
}

/* Modules that look for what is theirs in each new bdev. */
static const struct bdev_examiner *const examiners[] = {&gpt_examiner, &raid_examiner, &lvol_examiner, NULL};

static int
start_methods(struct steps *s)
{
	bdev_set_examiners(examiners);
	d.methods_options = (struct methods_options){
		.rpc_socket = rpc_place(),
		.socket_dir = d.socket_dir,
		.state_dir = d.state_dir,
		.mode = d.options->mode,
		.pinned = d.options->pinned,
		.reactors = d.reactors,
		.reactor_count = d.reactor_count,
		.threads = d.threads,
		.thread_count = 1 + d.reactor_count,
		.worker = d.worker,
		.start_init = start_init,
		.forget = forget,
	};
	methods_init(&d.methods_options);
	rpc_set_state(RPC_STARTUP);
	return 0;
}

static int
stop_methods(struct steps *s)
{
	methods_shutdown();
	return 0;
}

/* SPDK's files tune parts that are not here (iobuf, sock, accel, ...): not needed is no error,
 * not made is. */
static bool
only_tunes(const char *method)
{
	return rpc_schema_find(method) == NULL && strstr(method, "_set_") != NULL;
}

static int
call_failed(struct replay *r, size_t index, const char *why)
{
	const json_t *call = json_array_get(r->calls, index);
	const char *method = json_string_value(json_object_get(call, "method"));
	const char *where = json_string_value(json_object_get(call, "where"));

	if (d.config == NULL) {
		state_call_failed(d.state, index, why);
		return 0;
	}
	if (only_tunes(method)) {
		LOG_WARNING(APP, d.options->config_file, "%s: %s is not needed here, skipped",
			    where, method);
		return 0;
	}
	return err_set(&d.steps.err, -EINVAL, "%s: %s (%.64s): %s", d.options->config_file, where,
		       method, why);
}

static void
replayed(struct replay *r, int status)
{
	d.replaying = false;
	steps_continue(&d.steps, status);
}

static int
replay(enum replay_pass pass)
{
	d.replay = (struct replay){.failed = call_failed, .done = replayed, .patient = true};
	if (d.config != NULL) {
		d.replay.calls = d.config;
	} else if (d.state != NULL) {
		d.replay.calls = state_calls(d.state);
	} else {
		return 0;
	}
	d.replaying = true;
	replay_run(&d.replay, pass);
	return STEPS_WAIT;
}

static int
make_early_calls(struct steps *s)
{
	return replay(REPLAY_STARTUP);
}

static int
wait_for_start(struct steps *s)
{
	if (!d.options->wait_for_rpc) {
		return 0;
	}
	LOG_NOTICE(APP, "", "waits for framework_start_init at %s", rpc_place());
	d.waiting = true;
	return STEPS_WAIT;
}

static int
make_calls(struct steps *s)
{
	rpc_set_state(RPC_RUNTIME);
	return replay(REPLAY_RUNTIME);
}

static void
state_settled(void *ctx, int status)
{
	steps_continue(&d.steps, status);
}

/* What came from the configuration file is in the state whole or not at all; else the log may
 * catch up later. */
static int
settle_state(struct steps *s)
{
	if (d.state == NULL) {
		return 0;
	}
	if (d.config == NULL) {
		state_restored(d.state, NULL, NULL);
		return 0;
	}
	state_restored(d.state, state_settled, NULL);
	return STEPS_WAIT;
}

static int
start_regaining(struct steps *s)
{
	if (d.state != NULL) {
		regain_start(d.state);
	}
	return 0;
}

static int
stop_regaining(struct steps *s)
{
	regain_stop();
	return 0;
}

/* ---- RPC ---- */

static int
serve_at(const char *path, struct rpc_server **ret_server, struct err *err)
{
	struct rpc_server_options options = d.options->rpc;

	if (path == NULL) {
		return 0;
	}
	options.path = path;
	options.record = d.state != NULL ? state_record : NULL;
	options.ctx = d.state;
	return rpc_server_start(&options, ret_server, err);
}

static int
serve(struct steps *s)
{
	char address[RPC_ADDRESS_BYTES];
	int rc = serve_at(d.options->rpc_socket, &d.rpc, &s->err);

	if (rc == 0) {
		rc = serve_at(d.options->rpc_address, &d.rpc_tcp, &s->err);
	}
	if (rc != 0) {
		rpc_server_stop(d.rpc);
		d.rpc = NULL;
	} else if (d.rpc_tcp != NULL) {
		LOG_NOTICE(APP, "", "RPC over TCP at %s, %s", rpc_server_address(d.rpc_tcp, address),
			   d.options->rpc.tls_dir != NULL ? "in TLS"
							  : "in plain text: for this machine, or a network of its own");
	}
	return rc;
}

static int
serve_early(struct steps *s)
{
	return d.options->wait_for_rpc ? serve(s) : 0;
}

static int
serve_late(struct steps *s)
{
	return d.options->wait_for_rpc ? 0 : serve(s);
}

static int
stop_serving(struct steps *s)
{
	/* Calls still under way end without an answer: they are not to be remembered either. */
	rpc_set_record(NULL, NULL);
	methods_ready(-ECANCELED);
	rpc_server_stop(d.rpc_tcp);
	rpc_server_stop(d.rpc);
	d.rpc = d.rpc_tcp = NULL;
	return 0;
}

static int
get_ready(struct steps *s)
{
	methods_ready(0);
	/* A controller has one, a VM with one queue three more. */
	LOG_NOTICE(APP, "", "%u descriptors (RLIMIT_NOFILE), %u of them kept for RPC: room for %u VMs or so",
		   descriptors_max(), descriptors_kept(), (descriptors_max() - descriptors_kept()) / 4);
	LOG_NOTICE(APP, "", "berthd " BERTH_VERSION " is ready: %u reactor%s, %s; RPC at %s",
		   d.reactor_count, d.reactor_count == 1 ? "" : "s",
		   reactor_mode_name(d.options->mode), rpc_place());
	sd_notify(0, "READY=1");
	return 0;
}

static int
say_stopping(struct steps *s)
{
	sd_notify(0, "STOPPING=1");
	return 0;
}

static const struct step start_steps[] = {
	{"signals", watch_signals, unwatch_signals},
	{"RPC socket", claim_socket, release_socket},
	{"RPC address", check_address, NULL},
	{"worker", start_worker, stop_worker},
	{"state directory", open_state, close_state},
	{"socket directory", make_socket_dir, forget_socket_dir},
	{"configuration", read_config, forget_config},
	{"images", NULL, end_images},
	{"bdevs", NULL, remove_bdevs},
	{"arrays", NULL, end_arrays},
	{"volume stores", NULL, end_stores},
	{"vhost", start_vhost, stop_vhost},
	{"NBD", start_nbd, stop_nbd},
	{"scheduler", start_scheduler, stop_scheduler},
	{"methods", start_methods, stop_methods},
	{"configuration", make_early_calls, NULL},
	{"RPC server", serve_early, stop_serving},
	{"framework_start_init", wait_for_start, NULL},
	{"configuration", make_calls, NULL},
	{"state directory", settle_state, NULL},
	{"what is lost", start_regaining, stop_regaining},
	{"RPC server", serve_late, stop_serving},
	{"ready", get_ready, say_stopping},
};

/* ---- Reactors and threads ---- */

static void
exit_thread(struct msg *msg)
{
	thread_exit();
}

static void
ended(struct steps *s, int status)
{
	if (status == 0) {
		return; /* all has started */
	}
	if (!d.stopping) {
		LOG_ERROR(APP, "", "%s", err_text(&s->err));
		d.exit_code = 1;
	}
	for (unsigned i = 0; i < d.reactor_count; i++) {
		thread_send(d.threads[1 + i], &d.exit_msgs[i], exit_thread);
	}
	thread_exit();
	for (unsigned i = 0; i < d.reactor_count; i++) {
		reactor_stop(d.reactors[i]);
	}
}

static void
begin(struct msg *msg)
{
	steps_run(&d.steps, start_steps, ARRAY_SIZE(start_steps), ended);
}

static int
create_reactors(struct err *err)
{
	unsigned cpu;

	CPUMASK_FOREACH (cpu, &d.options->cpus) {
		struct reactor *r = reactor_create(cpu, d.options->pinned ? (int)cpu : -1,
						   d.options->mode, err);
		char name[THREAD_NAME_BYTES];

		if (r == NULL) {
			return err->code;
		}
		if (d.reactor_count == 0) {
			d.threads[0] = thread_create("app_thread", r);
		}
		snprintf(name, sizeof(name), "io_%u", cpu);
		d.reactors[d.reactor_count++] = r;
		d.threads[d.reactor_count] = thread_create(name, r);
		if (d.threads[0] == NULL || d.threads[d.reactor_count] == NULL) {
			return err_set(err, -ENOMEM, "out of memory");
		}
	}
	return 0;
}

/* Signals are blocked before the first thread is made, so that all inherit it and only the
 * signalfd gets them. */
static void
set_up_process(void)
{
	struct err err = ERR_NONE;

	sigemptyset(&d.signals);
	sigaddset(&d.signals, SIGTERM);
	sigaddset(&d.signals, SIGINT);
	sigaddset(&d.signals, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &d.signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGUSR1, SIG_IGN);
	/* berthd starts no programs that would inherit it. */
	if (descriptors_raise(&err) != 0) {
		LOG_WARNING(APP, "", "%s", err_text(&err));
	}
	/* It starts no programs. Whoever makes it start one gets no more rights by that. */
	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
#ifdef __GLIBC__
	/* Set, they stay as they are: else the first large answer that is freed makes the allocator keep as much for ever. */
	mallopt(M_MMAP_THRESHOLD, LARGE_BYTES);
	mallopt(M_TRIM_THRESHOLD, LARGE_BYTES);
#endif
}

int
daemon_run(const struct daemon_options *options)
{
	struct err err = ERR_NONE;
	int rc;

	d.options = options;
	set_up_process();
	rc = create_reactors(&err);
	for (unsigned i = 1; rc == 0 && i < d.reactor_count; i++) {
		rc = reactor_start(d.reactors[i], &err);
	}
	if (rc != 0) {
		/* Nothing but memory and threads of this process is there yet. */
		LOG_ERROR(APP, "", "%s", err_text(&err));
		return 1;
	}
	thread_send(d.threads[0], &d.start_msg, begin);
	reactor_run(d.reactors[0]);
	for (unsigned i = 0; i < d.reactor_count; i++) {
		reactor_join(d.reactors[i]);
	}
	/* Only now: until it ends, one may still be looking whether another, to which it sent, sleeps. */
	for (unsigned i = 0; i < d.reactor_count; i++) {
		reactor_free(d.reactors[i]);
	}
	return d.exit_code;
}
