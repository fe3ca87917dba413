/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Keeping descriptors back needs no open ones: the kernel refuses those at and above the soft limit, and the
 * soft limit moves. Descriptors that are above it already are not touched by that.
 *
 * Rejected: a spare open descriptor that is closed when it is needed. It helps one, and another thread may be quicker.
 */
#include "base/descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/check.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned borrowers;
static unsigned max, kept;
static rlim_t hard;

static int
set_soft(rlim_t soft)
{
	struct rlimit limit = {.rlim_cur = soft, .rlim_max = hard};

	return setrlimit(RLIMIT_NOFILE, &limit) == 0 ? 0 : -errno;
}

/*
 * The kernel's table of descriptors doubles as it fills, and while a process has threads each time takes some 10 ms, in which
 * whoever opened the descriptor waits. It never shrinks; so one that is used for a moment makes it large from the start.
 */
static void
grow_table(void)
{
	int fd = open("/", O_PATH | O_CLOEXEC);
	int high = fd >= 0 ? fcntl(fd, F_DUPFD_CLOEXEC, (int)MIN(max - kept, (unsigned)DESCRIPTORS_AT_ONCE) - 1) : -1;

	if (high >= 0) {
		close(high);
	}
	if (fd >= 0) {
		close(fd);
	}
}

int
descriptors_raise(struct err *err)
{
	struct rlimit limit;
	int rc;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
		return err_set(err, -errno, "cannot read RLIMIT_NOFILE: %s", strerror(errno));
	}
	hard = limit.rlim_max;
	max = (unsigned)MIN(hard, (rlim_t)INT32_MAX);
	kept = MIN(max / 8, (unsigned)DESCRIPTORS_KEPT);
	rc = set_soft(max - kept);
	if (rc != 0) {
		max = (unsigned)MIN(limit.rlim_cur, (rlim_t)INT32_MAX);
		kept = 0;
		return err_set(err, rc, "cannot raise RLIMIT_NOFILE: %s", strerror(-rc));
	}
	grow_table();
	return 0;
}

unsigned
descriptors_max(void)
{
	return max;
}

unsigned
descriptors_kept(void)
{
	return kept;
}

void
descriptors_borrow(void)
{
	pthread_mutex_lock(&lock);
	if (borrowers++ == 0 && kept > 0) {
		(void)set_soft(max);
	}
	pthread_mutex_unlock(&lock);
}

void
descriptors_return(void)
{
	pthread_mutex_lock(&lock);
	CHECK(borrowers > 0);
	if (--borrowers == 0 && kept > 0) {
		(void)set_soft(max - kept);
	}
	pthread_mutex_unlock(&lock);
}

int
descriptors_probe(int fd, unsigned count)
{
	unsigned made = 0, tried = MIN(count, (unsigned)DESCRIPTORS_TRIED);
	int copies[DESCRIPTORS_TRIED], last = -1;

	while (made < tried) {
		last = fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (last < 0) {
			break;
		}
		copies[made++] = last;
	}
	for (unsigned i = 0; i < made; i++) {
		close(copies[i]);
	}
	/* Somebody may be borrowing: then those kept were given as well. */
	if (last < 0 || (max != 0 && (unsigned)last + (count - tried) >= max - kept)) {
		return -EMFILE;
	}
	return last + (int)(count - tried);
}

bool
descriptors_out(int rc)
{
	return rc == -EMFILE || rc == -ENFILE;
}

void
descriptors_explain(struct err *err)
{
	if (err == NULL || !descriptors_out(err->code)) {
		return;
	}
	if (err->code == -ENFILE) {
		err_append(err, "; no descriptors left: the system has as many open files as fs.file-max allows");
	} else if (max != 0) {
		err_append(err, "; no descriptors left: %u in use of %u (RLIMIT_NOFILE), %u are kept for RPC", max - kept,
			   max, kept);
	}
}
