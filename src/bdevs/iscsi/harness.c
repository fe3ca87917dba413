/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/iscsi/harness.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "testkit/bdev_env.h"

#define ARGS_MAX 24
#define START_MS 60000

bool
tgt_there(void)
{
	return access("/usr/sbin/tgtd", X_OK) == 0 && access("/usr/sbin/tgtadm", X_OK) == 0;
}

static pid_t
spawn(const struct tgt *t, char *const *argv)
{
	pid_t pid = fork();

	EXPECT(pid >= 0);
	if (pid == 0) {
		char socket[96];
		int fd = open("/dev/null", O_RDWR);

		snprintf(socket, sizeof(socket), "%s/control", t->dir);
		setenv("TGT_IPC_SOCKET", socket, 1);
		dup2(fd, 0);
		dup2(fd, 1);
		dup2(fd, 2);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		execv(argv[0], argv);
		_exit(127);
	}
	return pid;
}

/* Words with one space between them; its exit status. */
static int
try_admin(const struct tgt *t, const char *fmt, ...)
{
	char text[512], *argv[ARGS_MAX] = {"/usr/sbin/tgtadm", "-C", "0", "--lld", "iscsi"};
	int argc = 5, status;
	va_list ap;
	pid_t pid;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (char *word = strtok(text, " "); word != NULL; word = strtok(NULL, " ")) {
		EXPECT(argc + 1 < ARGS_MAX);
		argv[argc++] = word;
	}
	pid = spawn(t, argv);
	EXPECT(waitpid(pid, &status, 0) == pid);
	return status;
}

#define ADMIN(t, ...) EXPECT_SAY(try_admin(t, __VA_ARGS__) == 0, __VA_ARGS__)

static unsigned
free_port(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t bytes = sizeof(a);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	EXPECT(fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	EXPECT(getsockname(fd, (struct sockaddr *)&a, &bytes) == 0);
	close(fd);
	return ntohs(a.sin_port);
}

static void
file_of(const struct tgt *t, char path[static 96])
{
	snprintf(path, 96, "%s/disk", t->dir);
}

void
tgt_resize(struct tgt *t, uint64_t bytes)
{
	char path[96];
	int fd;

	file_of(t, path);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	EXPECT(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	close(fd);
	t->bytes = bytes;
}

void
tgt_init(struct tgt *t, uint64_t bytes, unsigned block_size)
{
	memset(t, 0, sizeof(*t));
	strcpy(t->dir, "/tmp/tgt_XXXXXX");
	EXPECT(mkdtemp(t->dir) != NULL);
	t->port = free_port();
	t->block_size = block_size;
	tgt_resize(t, bytes);
}

void
tgt_release(struct tgt *t)
{
	static const char *const files[] = {"disk", "control.0", "control.0.lock"};
	char path[96];

	tgt_kill(t);
	for (unsigned i = 0; i < 3; i++) {
		snprintf(path, sizeof(path), "%s/%s", t->dir, files[i]);
		unlink(path);
	}
	EXPECT(rmdir(t->dir) == 0);
}

void
tgt_give_unit(struct tgt *t)
{
	char path[96];

	file_of(t, path);
	ADMIN(t, "--op new --mode logicalunit --tid 1 --lun 1 --blocksize %u -b %s", t->block_size, path);
	ADMIN(t, "--op update --mode logicalunit --tid 1 --lun 1 --params thin_provisioning=%d,readonly=%d", !t->thick,
	      t->readonly);
}

void
tgt_take_unit(struct tgt *t)
{
	/* tgtd refuses while a request to it is under way, and one that was answered may be for a moment yet. */
	for (unsigned ms = 0; try_admin(t, "--op delete --mode logicalunit --tid 1 --lun 1") != 0; ms++) {
		EXPECT(ms < START_MS);
		usleep(1000);
	}
}

void
tgt_start(struct tgt *t)
{
	char portal[64];
	char *argv[] = {"/usr/sbin/tgtd", "-f", "-C", "0", "--iscsi", portal, NULL};
	unsigned ms = 0;

	snprintf(portal, sizeof(portal), "portal=127.0.0.1:%u", t->port);
	t->pid = spawn(t, argv);
	while (try_admin(t, "--op show --mode target") != 0) {
		EXPECT(ms++ < START_MS && waitpid(t->pid, NULL, WNOHANG) == 0);
		usleep(1000);
	}
	ADMIN(t, "--op new --mode target --tid 1 -T %s", TGT_NAME);
	tgt_give_unit(t);
	if (t->user != NULL) {
		ADMIN(t, "--op new --mode account --user %s --password %s", t->user, t->password);
		ADMIN(t, "--op bind --mode account --tid 1 --user %s", t->user);
	}
	ADMIN(t, "--op bind --mode target --tid 1 -I ALL");
}

void
tgt_kill(struct tgt *t)
{
	if (t->pid != 0) {
		kill(t->pid, SIGKILL);
		EXPECT(waitpid(t->pid, NULL, 0) == t->pid);
		t->pid = 0;
	}
}

void
tgt_pause(struct tgt *t, bool paused)
{
	kill(t->pid, paused ? SIGSTOP : SIGCONT);
	/* All its threads. */
	EXPECT(!paused || waitpid(t->pid, NULL, WUNTRACED) == t->pid);
}

const char *
tgt_url(struct tgt *t, const char *user, unsigned lun)
{
	static char url[256];

	snprintf(url, sizeof(url), "iscsi://%s%s127.0.0.1:%u/%s/%u", user, user[0] != '\0' ? "@" : "", t->port, TGT_NAME, lun);
	return url;
}
