/* SPDX-License-Identifier: BSD-3-Clause */
/* Against nbdkit, a server with plugins for each thing that a server can do. */
#include "bdevs/nbd/nbd.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "bdev/module.h"
#include "testkit/bdev_battery.h"

#define DISK_BYTES (8u << 20)

static struct server {
	char dir[40], socket[64], pid_file[64], image[64], keys[64];
	pid_t pid;
} server;

/* ---- The server ---- */

static bool
has_nbdkit(void)
{
	return system("nbdkit --version >/dev/null 2>&1") == 0;
}

static void
make_file(const char *path, off_t bytes, const char *text)
{
	int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);

	EXPECT(fd >= 0 && ftruncate(fd, bytes) == 0);
	EXPECT(text == NULL || write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static void
make_folder(void)
{
	strcpy(server.dir, "/tmp/berth-nbd-XXXXXX");
	EXPECT(mkdtemp(server.dir) != NULL);
	snprintf(server.socket, sizeof(server.socket), "%s/socket", server.dir);
	snprintf(server.pid_file, sizeof(server.pid_file), "%s/pid", server.dir);
	snprintf(server.image, sizeof(server.image), "%s/image", server.dir);
	snprintf(server.keys, sizeof(server.keys), "%s/keys", server.dir);
	make_file(server.image, DISK_BYTES, NULL);
	make_file(server.keys, 0, "alice:0123456789abcdef0123456789abcdef\n");
}

/* args: after those that all have. */
static void
serve(const char *const *args)
{
	const char *argv[24] = {"nbdkit", "-f", "-U", server.socket, "-P", server.pid_file};
	unsigned n = 6;

	unlink(server.socket);
	unlink(server.pid_file);
	while (*args != NULL) {
		argv[n++] = *args++;
	}
	server.pid = fork();
	EXPECT(server.pid >= 0);
	if (server.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execvp(argv[0], (char *const *)(uintptr_t)argv);
		_exit(1);
	}
	/* It is written when connections are taken. */
	for (unsigned i = 0; access(server.pid_file, R_OK) != 0; i++) {
		EXPECT(i < 2000 && waitpid(server.pid, NULL, WNOHANG) == 0);
		usleep(5000);
	}
}

static void
end_server(void)
{
	kill(server.pid, SIGKILL);
	EXPECT(waitpid(server.pid, NULL, 0) == server.pid);
}

static void
remove_folder(void)
{
	unlink(server.socket);
	unlink(server.pid_file);
	unlink(server.image);
	unlink(server.keys);
	EXPECT(rmdir(server.dir) == 0);
}

#define SERVE(...) serve((const char *const[]){__VA_ARGS__, NULL})

static int
setup(void **state)
{
	if (!has_nbdkit()) {
		skip();
	}
	make_folder();
	return 0;
}

static int
teardown(void **state)
{
	end_server();
	remove_folder();
	return 0;
}

static struct nbd_bdev_options
options(void)
{
	return (struct nbd_bdev_options){
		.name = "nbd0", .socket = server.socket, .connections = 3, .reconnect_s = 30, .connect_ms = 5000};
}

/* ---- The battery ---- */

static void
attached(void *ctx, struct bdev *bdev, const struct err *err)
{
	EXPECT_SAY(bdev != NULL, "%s", err_text(err));
}

static int
create(const struct battery *b, struct err *err)
{
	struct nbd_bdev_options o = options();

	return bdev_nbd_attach(&o, attached, NULL, err);
}

static int
remove_bdev(const struct battery *b, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return bdev_nbd_detach(b->name, done, ctx, err);
}

static const struct battery battery = {
	.name = "nbd0", .create = create, .remove = remove_bdev, .unmap_zeroes = true, .may_cancel = true,
	.requests = 300};

/* All that a server can do, with a connection for each thread. */
static void
passes_battery(void **state)
{
	SERVE("memory", "8M");
	bdev_battery_run_all(&battery);
}

/* One connection for all; larger blocks. */
static void
passes_battery_over_one_connection(void **state)
{
	SERVE("--filter=multi-conn", "--filter=blocksize-policy", "memory", "8M", "multi-conn-mode=disable",
	      "blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=1M", "blocksize-error-policy=error");
	bdev_battery_run(&battery, REACTOR_INTERRUPT, true);
	bdev_battery_run(&battery, REACTOR_ADAPTIVE, false);
}

/* Nothing but reading, writing and flushing. */
static void
passes_battery_of_a_poor_server(void **state)
{
	SERVE("--filter=nozero", "--filter=noextents", "--filter=fua", "memory", "8M", "zeromode=none");
	bdev_battery_run(&battery, REACTOR_POLL, true);
}

/* ---- A stage ---- */

struct stage {
	struct env env;
	struct nbd_bdev_options options;
	struct err err;
	struct bdev *bdev;
	int rc;
	atomic_bool answered, gone;
};

static void
note_attached(void *ctx, struct bdev *bdev, const struct err *err)
{
	struct stage *s = ctx;

	s->bdev = bdev;
	s->err = *err;
	atomic_store(&s->answered, true);
}

static void
attach(void *arg)
{
	struct stage *s = arg;

	s->rc = bdev_nbd_attach(&s->options, note_attached, s, &s->err);
}

static void
noted(void *ctx, int status)
{
	EXPECT(status == 0);
	atomic_store((atomic_bool *)ctx, true);
}

static void
detach(void *arg)
{
	struct stage *s = arg;

	s->rc = bdev_nbd_detach(s->options.name, noted, &s->gone, &s->err);
}

static void
call(struct stage *s, void (*fn)(void *arg), int rc)
{
	s->err = ERR_NONE;
	env_call(&s->env, s->env.app, fn, s);
	EXPECT_SAY(s->rc == rc, "%d: %s", s->rc, err_text(&s->err));
}

static void
stage_open(struct stage *s, enum reactor_mode mode, bool real_threads)
{
	memset(s, 0, sizeof(*s));
	env_start(&s->env, mode, real_threads);
	s->options = options();
}

static void
stage_attach(struct stage *s)
{
	atomic_store(&s->answered, false);
	call(s, attach, 0);
	env_wait(&s->env, &s->answered);
}

static void
stage_detach(struct stage *s)
{
	atomic_store(&s->gone, false);
	call(s, detach, 0);
	env_wait(&s->env, &s->gone);
}

static void
open_bdev(struct stage *s)
{
	stage_attach(s);
	EXPECT_SAY(s->bdev != NULL, "%s", err_text(&s->err));
	EXPECT(env_open(&s->env, "nbd0", !bdev_readonly(s->bdev)) == 0);
}

static void
close_bdev(struct stage *s)
{
	env_close(&s->env);
	stage_detach(s);
}

/* ---- Attaching ---- */

static void
refuse(struct stage *s, const char *words)
{
	call(s, attach, -EINVAL);
	EXPECT_SAY(strstr(s->err.text, words) != NULL, "%s", s->err.text);
	s->options = options();
}

static void
fail_to_attach(struct stage *s, const char *words)
{
	stage_attach(s);
	EXPECT(s->bdev == NULL && s->err.code < 0);
	EXPECT_SAY(strstr(s->err.text, words) != NULL, "%s", s->err.text);
	s->options = options();
}

static void
says_what_is_wrong(void **state)
{
	struct stage s;

	SERVE("-e", "right", "--tls=require", "--tls-psk", server.keys, "memory", "8M");
	stage_open(&s, REACTOR_INTERRUPT, false);
	s.options.uri = "nbd://localhost";
	refuse(&s, "one of uri, socket and host");
	s.options.socket = NULL;
	refuse(&s, "one of uri, socket and host");
	s.options.port = "10809";
	refuse(&s, "a port belongs to a host");
	s.options.tls_username = "alice";
	refuse(&s, "tls_psk_file");
	s.options.connections = 65;
	refuse(&s, "65 connections");
	s.options.socket = "/nonexistent/socket";
	fail_to_attach(&s, "/nonexistent/socket");
	/* Not without TLS, not with another key. */
	fail_to_attach(&s, server.socket);
	s.options.tls_psk_file = server.keys;
	s.options.tls_username = "bob";
	fail_to_attach(&s, server.socket);
	env_stop(&s.env);
}

static void
uses_tls(void **state)
{
	uint8_t block[512];
	struct stage s;

	SERVE("--tls=require", "--tls-psk", server.keys, "memory", "8M");
	stage_open(&s, REACTOR_INTERRUPT, true);
	s.options.tls_psk_file = server.keys;
	s.options.tls_username = "alice";
	open_bdev(&s);
	memset(block, 0x77, sizeof(block));
	EXPECT(env_rw(&s.env.workers[0], BDEV_WRITE, 5, 1, block) == 0);
	memset(block, 0, sizeof(block));
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 5, 1, block) == 0 && block[511] == 0x77);
	close_bdev(&s);
	env_stop(&s.env);
}

static void
looks_like_the_export(void **state)
{
	struct nbd_bdev_info info;
	struct stage s;

	SERVE("-r", "memory", "1048677");
	stage_open(&s, REACTOR_INTERRUPT, false);
	open_bdev(&s);
	EXPECT(bdev_readonly(s.bdev) && bdev_block_size(s.bdev) == 512 && bdev_num_blocks(s.bdev) == 2048);
	EXPECT(bdev_nbd_info(s.bdev, &info) && info.connected && info.connections == 3 && info.connects == 1);
	EXPECT(strcmp(info.options.socket, server.socket) == 0 && info.options.uri == NULL);
	close_bdev(&s);
	env_stop(&s.env);
}

/* ---- What is allocated ---- */

static void
tells_extents(void **state)
{
	struct bdev_extent extents[8];
	static uint8_t data[65536];
	struct bdev_io *io;
	struct env_io read = {.op = BDEV_BLOCK_STATUS, .num_blocks = DISK_BYTES / 512};
	struct stage s;

	SERVE("memory", "8M");
	stage_open(&s, REACTOR_INTERRUPT, true);
	open_bdev(&s);
	EXPECT(bdev_supports_natively(s.bdev, BDEV_BLOCK_STATUS));
	memset(data, 1, sizeof(data));
	EXPECT(env_rw(&s.env.workers[0], BDEV_WRITE, 1024, 128, data) == 0);
	read.extents = extents;
	read.max_results = 8;
	env_submit(&s.env.workers[1], &read);
	env_wait(&s.env, &read.done);
	io = read.io;
	EXPECT(read.status == 0 && io->result >= 2);
	EXPECT(extents[0].num_blocks == 1024 && extents[0].flags == BDEV_EXTENT_ZERO);
	EXPECT(extents[1].num_blocks == 128 && extents[1].flags == BDEV_EXTENT_ALLOCATED);
	EXPECT(env_finish(&read) == 0);
	close_bdev(&s);
	env_stop(&s.env);
}

/* ---- Servers that go ---- */

#define IOS 40

static void
submit_all(struct stage *s, struct env_io *ios, struct iovec *iovs, enum bdev_op op)
{
	for (unsigned i = 0; i < IOS; i++) {
		iovs[i].iov_len = 4096;
		ios[i] = (struct env_io){.op = op, .lba = i * 8, .num_blocks = 8, .iov = &iovs[i], .iovcnt = 1};
		env_submit(&s->env.workers[i % ENV_WORKERS], &ios[i]);
	}
}

/* It is killed with requests under way, others come while it is away: all are there when it is back. */
static void
dies_and_comes_back(enum reactor_mode mode, bool real_threads, const char *multi_conn)
{
	static uint8_t written[IOS][4096], got[IOS][4096];
	struct env_io writes[IOS], reads[IOS];
	struct iovec out[IOS], in[IOS];
	char arg[64];
	struct stage s;

	snprintf(arg, sizeof(arg), "multi-conn-mode=%s", multi_conn);
	SERVE("--filter=delay", "--filter=multi-conn", "file", server.image, "wdelay=30ms", arg);
	stage_open(&s, mode, real_threads);
	open_bdev(&s);
	for (unsigned round = 0; round < 2; round++) {
		for (unsigned i = 0; i < IOS; i++) {
			memset(written[i], (int)(IOS * round + i + 1), 4096);
			out[i].iov_base = written[i];
			in[i].iov_base = got[i];
		}
		submit_all(&s, writes, out, BDEV_WRITE);
		env_linger(&s.env, 10);
		end_server();
		env_linger(&s.env, 30);
		SERVE("--filter=multi-conn", "file", server.image, arg);
		for (unsigned i = 0; i < IOS; i++) {
			EXPECT(env_finish(&writes[i]) == 0);
		}
		submit_all(&s, reads, in, BDEV_READ);
		for (unsigned i = 0; i < IOS; i++) {
			EXPECT(env_finish(&reads[i]) == 0);
			EXPECT_SAY(memcmp(got[i], written[i], 4096) == 0, "round %u, request %u", round, i);
		}
	}
	close_bdev(&s);
	env_stop(&s.env);
	end_server();
}

static void
reconnects(void **state)
{
	dies_and_comes_back(REACTOR_INTERRUPT, true, "auto");
	dies_and_comes_back(REACTOR_ADAPTIVE, false, "auto");
	dies_and_comes_back(REACTOR_POLL, true, "disable");
	/* One that is idle when its server goes finds out by itself, and has its new size. */
	SERVE("memory", "8M");
}

static void
grows_with_the_server(void **state)
{
	uint8_t block[512];
	struct stage s;

	SERVE("memory", "8M");
	stage_open(&s, REACTOR_INTERRUPT, true);
	open_bdev(&s);
	end_server();
	SERVE("memory", "9M");
	env_wait_size(&s.env, (9u << 20) / 512);
	EXPECT(bdev_num_blocks(s.bdev) == (9u << 20) / 512);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, (9u << 20) / 512 - 1, 1, block) == 0);
	close_bdev(&s);
	env_stop(&s.env);
}

static void
gives_up_after_a_while(void **state)
{
	uint8_t block[512];
	struct iovec iov = {block, sizeof(block)};
	struct env_io io = {.op = BDEV_READ, .num_blocks = 1, .iov = &iov, .iovcnt = 1};
	struct stage s;

	SERVE("memory", "8M");
	stage_open(&s, REACTOR_ADAPTIVE, true);
	s.options.reconnect_s = 1;
	open_bdev(&s);
	end_server();
	env_submit(&s.env.workers[0], &io);
	env_linger(&s.env, 100);
	EXPECT(!atomic_load(&io.done));
	EXPECT(env_finish(&io) == -EIO);
	SERVE("memory", "8M");
	while (env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) != 0) {
		env_linger(&s.env, 20);
	}
	close_bdev(&s);
	env_stop(&s.env);
}

static void
awaits_server(void **state)
{
	struct stage s;

	stage_open(&s, REACTOR_INTERRUPT, true);
	s.options.wait = true;
	stage_attach(&s);
	EXPECT(s.bdev == NULL && s.err.code == 0);
	call(&s, attach, -EEXIST);
	SERVE("memory", "8M");
	while (env_open(&s.env, "nbd0", true) != 0) {
		env_linger(&s.env, 10);
	}
	close_bdev(&s);
	call(&s, detach, -ENODEV);
	env_stop(&s.env);
}

/* ---- What nobody waits for any more ---- */

/* A read into memory that is given back as soon as it has ended. */
struct question {
	struct env_io io;
	struct iovec iov;
};

static void
ask(struct stage *s, struct question *q, unsigned worker)
{
	q->iov = (struct iovec){malloc(4096), 4096};
	EXPECT(q->iov.iov_base != NULL);
	q->io = (struct env_io){.op = BDEV_READ, .num_blocks = 8, .iov = &q->iov, .iovcnt = 1};
	env_submit(&s->env.workers[worker], &q->io);
}

static void
ask_both(struct stage *s, struct question q[ENV_WORKERS])
{
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		ask(s, &q[i], i);
	}
	env_linger(&s->env, 30);
	EXPECT(!atomic_load(&q[0].io.done) && !atomic_load(&q[1].io.done));
}

static void
ended(struct question *q, int status)
{
	int rc = env_finish(&q->io);

	free(q->iov.iov_base);
	EXPECT_SAY(rc == status, "%d", rc);
}

static void
give_up(void *arg)
{
	bdev_channel_give_up(((struct env_worker *)arg)->ch);
}

static void
unregister(void *arg)
{
	struct stage *s = arg;

	bdev_unregister(s->env.bdev, noted, &s->gone);
}

/* What waits for it ends, and so does the bdev. */
static void
is_removed(struct stage *s)
{
	struct question q[ENV_WORKERS];

	ask_both(s, q);
	atomic_store(&s->gone, false);
	env_call(&s->env, s->env.app, unregister, s);
	ended(&q[0], -ENODEV);
	ended(&q[1], -ENODEV);
	env_close(&s->env);
	env_wait(&s->env, &s->gone);
	env_linger(&s->env, 5); /* the disk goes after its bdev */
	env_stop(&s->env);
}

static void
pause_server(bool paused)
{
	EXPECT(kill(server.pid, paused ? SIGSTOP : SIGCONT) == 0);
	/* All its threads. */
	EXPECT(!paused || waitpid(server.pid, NULL, WUNTRACED) == server.pid);
}

/* The server is silent, then dead: a reset and giving up end what waits, and only that; others' requests are sent once more. */
static void
cancels_what_is_not_answered(void **state)
{
	struct question q[ENV_WORKERS];
	uint8_t block[512];
	struct stage s;

	SERVE("memory", "8M");
	stage_open(&s, REACTOR_INTERRUPT, true);
	s.options.connections = 1;
	open_bdev(&s);
	pause_server(true);
	ask_both(&s, q);
	EXPECT(env_rw(&s.env.workers[0], BDEV_RESET, 0, 0, NULL) == 0);
	ended(&q[0], -ECANCELED);
	ended(&q[1], -ECANCELED);
	end_server();
	SERVE("memory", "8M");
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == 0);
	pause_server(true);
	ask_both(&s, q);
	env_call(&s.env, s.env.workers[0].thread, give_up, &s.env.workers[0]);
	ended(&q[0], -ECANCELED);
	EXPECT(!atomic_load(&q[1].io.done));
	end_server();
	SERVE("memory", "8M");
	ended(&q[1], 0);
	end_server();
	env_linger(&s.env, 20);
	ask_both(&s, q);
	env_call(&s.env, s.env.workers[1].thread, give_up, &s.env.workers[1]);
	ended(&q[1], -ECANCELED);
	EXPECT(env_rw(&s.env.workers[1], BDEV_RESET, 0, 0, NULL) == 0);
	ended(&q[0], -ECANCELED);
	is_removed(&s);
	SERVE("memory", "8M");
}

/* A healthy one answers what it has before it is done without. */
static void
giving_up_waits_for_a_good_answer(void **state)
{
	struct question q[ENV_WORKERS];
	struct stage s;

	SERVE("memory", "8M");
	stage_open(&s, REACTOR_INTERRUPT, true);
	s.options.connections = 1;
	open_bdev(&s);
	pause_server(true);
	ask_both(&s, q);
	env_call(&s.env, s.env.workers[0].thread, give_up, &s.env.workers[0]);
	pause_server(false);
	ended(&q[0], 0);
	ended(&q[1], 0);
	close_bdev(&s);
	env_stop(&s.env);
}

static void
is_removed_while_its_server_is_silent(void **state)
{
	struct stage s;

	SERVE("memory", "8M");
	stage_open(&s, REACTOR_ADAPTIVE, false);
	open_bdev(&s);
	pause_server(true);
	is_removed(&s);
}

/* Errors of the server's are answers; the connection stays. */
static void
passes_errors_on(void **state)
{
	uint8_t block[512];
	struct nbd_bdev_info info;
	struct stage s;

	SERVE("--filter=error", "memory", "8M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%", "error-zero=ENOMEM",
	      "error-zero-rate=100%");
	stage_open(&s, REACTOR_INTERRUPT, true);
	open_bdev(&s);
	EXPECT(env_rw(&s.env.workers[0], BDEV_WRITE, 0, 1, block) == -ENOSPC);
	EXPECT(env_rw(&s.env.workers[1], BDEV_WRITE_ZEROES, 0, 1, NULL) == -EIO);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == 0);
	EXPECT(bdev_nbd_info(s.bdev, &info) && info.connects == 1);
	close_bdev(&s);
	env_stop(&s.env);
}

#define WITH_SERVER(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_SERVER(says_what_is_wrong),
		WITH_SERVER(uses_tls),
		WITH_SERVER(looks_like_the_export),
		WITH_SERVER(tells_extents),
		WITH_SERVER(reconnects),
		WITH_SERVER(grows_with_the_server),
		WITH_SERVER(gives_up_after_a_while),
		WITH_SERVER(awaits_server),
		WITH_SERVER(cancels_what_is_not_answered),
		WITH_SERVER(giving_up_waits_for_a_good_answer),
		WITH_SERVER(is_removed_while_its_server_is_silent),
		WITH_SERVER(passes_errors_on),
		WITH_SERVER(passes_battery),
		WITH_SERVER(passes_battery_over_one_connection),
		WITH_SERVER(passes_battery_of_a_poor_server),
	};

	if (!has_nbdkit()) {
		fprintf(stderr, "nbdkit is not installed\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
