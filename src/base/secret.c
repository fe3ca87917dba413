/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory for secrets: regions of pages of their own, cut into pieces of one size each, a power of two.
 *
 * Invariants
 *  1. Each region is left out of core dumps and of children before anything is in it.
 *  2. A piece that is free holds zeroes, but for the link at its start.
 *  3. Regions are never given back: a pointer found inside one stays so. Their number grows with the most secrets
 *     that there were at once, and is limited.
 */
#include "base/secret.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/check.h"
#include "base/path.h"

#define REGION_BYTES ((size_t)64 * 1024)
#define REGIONS_MAX 1024
#define PIECE_MIN ((size_t)64)

struct piece {
	struct piece *next;
};

/* Written under the lock; what lies below region_count is constant. */
static struct region {
	uint8_t *base;
	size_t bytes; /* mapped */
	size_t piece; /* of each, a divisor of bytes */
	struct piece *free;
} regions[REGIONS_MAX];
static unsigned region_count;
static bool all_locked = true;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- Memory ---- */

static struct region *
region_of(const void *ptr)
{
	unsigned count = __atomic_load_n(&region_count, __ATOMIC_ACQUIRE);

	for (unsigned i = 0; i < count; i++) {
		if ((uintptr_t)ptr - (uintptr_t)regions[i].base < regions[i].bytes) {
			return &regions[i];
		}
	}
	return NULL;
}

/* Under the lock. NULL when memory is out. */
static struct region *
add_region(size_t piece)
{
	struct region *r = &regions[region_count];
	size_t bytes = MAX(REGION_BYTES, piece);
	uint8_t *base;

	if (region_count == REGIONS_MAX) {
		return NULL;
	}
	base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (base == MAP_FAILED) {
		return NULL;
	}
	/* Both are there since Linux 4.14; without them the memory would not be what the header says. */
	if (madvise(base, bytes, MADV_DONTDUMP) != 0 || madvise(base, bytes, MADV_WIPEONFORK) != 0) {
		munmap(base, bytes);
		return NULL;
	}
	if (mlock(base, bytes) != 0) {
		__atomic_store_n(&all_locked, false, __ATOMIC_RELAXED);
	}
	*r = (struct region){.base = base, .bytes = bytes, .piece = piece};
	for (size_t at = bytes; at > 0; at -= piece) {
		struct piece *p = (struct piece *)(void *)(base + at - piece);

		p->next = r->free;
		r->free = p;
	}
	__atomic_store_n(&region_count, region_count + 1, __ATOMIC_RELEASE);
	return r;
}

void *
secret_alloc(size_t bytes)
{
	struct region *r = NULL;
	struct piece *p = NULL;
	size_t size = PIECE_MIN;

	while (size < bytes && size < SIZE_MAX / 4) {
		size *= 2;
	}
	pthread_mutex_lock(&lock);
	for (unsigned i = 0; r == NULL && i < region_count; i++) {
		if (regions[i].piece == size && regions[i].free != NULL) {
			r = &regions[i];
		}
	}
	if (r == NULL) {
		r = add_region(size);
	}
	if (r != NULL) {
		p = r->free;
		r->free = p->next;
		p->next = NULL;
	}
	pthread_mutex_unlock(&lock);
	return p;
}

void
secret_free(void *secret)
{
	struct piece *p = secret;
	struct region *r;

	if (secret == NULL) {
		return;
	}
	r = region_of(secret);
	CHECK(r != NULL && ((uintptr_t)secret - (uintptr_t)r->base) % r->piece == 0);
	explicit_bzero(secret, r->piece);
	pthread_mutex_lock(&lock);
	p->next = r->free;
	r->free = p;
	pthread_mutex_unlock(&lock);
}

bool
secret_owns(const void *ptr)
{
	return region_of(ptr) != NULL;
}

size_t
secret_size(const void *secret)
{
	const struct region *r = region_of(secret);

	return r != NULL ? r->piece : 0;
}

bool
secret_locked(void)
{
	return __atomic_load_n(&all_locked, __ATOMIC_RELAXED);
}

/* ---- Bytes ---- */

bool
secret_equal(const void *a, const void *b, size_t bytes)
{
	const volatile uint8_t *x = a, *y = b;
	uint8_t difference = 0;

	for (size_t i = 0; i < bytes; i++) {
		difference |= x[i] ^ y[i];
	}
	return difference == 0;
}

static int
digit(char c)
{
	if (c >= '0' && c <= '9') {
		return c - '0';
	}
	if (c >= 'a' && c <= 'f') {
		return c - 'a' + 10;
	}
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

int
secret_unhex(const char *text, size_t length, uint8_t *bytes, size_t max)
{
	size_t digits = 0;

	for (size_t i = 0; i < length; i++) {
		int d = digit(text[i]);

		if (d < 0 && isspace((unsigned char)text[i])) {
			continue;
		}
		if (d < 0) {
			return -EINVAL;
		}
		if (digits / 2 == max) {
			return -E2BIG;
		}
		bytes[digits / 2] = (uint8_t)(digits % 2 == 0 ? d << 4 : bytes[digits / 2] | d);
		digits++;
	}
	return digits % 2 == 0 ? (int)(digits / 2) : -EINVAL;
}

/* ---- From outside ---- */

static int
read_whole(int fd, const char *path, char *buf, struct err *err)
{
	size_t got = 0;
	char more;

	while (got < SECRET_TEXT_MAX) {
		ssize_t n = read(fd, buf + got, SECRET_TEXT_MAX - got);

		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n < 0) {
			return err_set(err, -errno, "%s: cannot be read: %s", path, strerror(errno));
		}
		if (n == 0) {
			return (int)got;
		}
		got += (size_t)n;
	}
	if (read(fd, &more, 1) != 0) {
		return err_set(err, -EFBIG, "%s: is longer than %d bytes: no key is", path, SECRET_TEXT_MAX);
	}
	return (int)got;
}

static int
check_owner(const struct stat *st, const char *path, struct err *err)
{
	if (!S_ISREG(st->st_mode)) {
		return err_set(err, -EINVAL, "%s: is no regular file", path);
	}
	if (st->st_uid != 0 && st->st_uid != geteuid()) {
		return err_set(err, -EPERM, "%s: belongs to user %u, neither to root nor to this process's user %u", path,
			       st->st_uid, geteuid());
	}
	if ((st->st_mode & (S_IRWXG | S_IRWXO)) != 0) {
		return err_set(err, -EPERM, "%s: others than its owner have access to it (mode %04o): a secret's mode is 0400 "
			       "or 0600", path, st->st_mode & 07777);
	}
	return 0;
}

int
secret_read_file(const char *path, char *buf, struct err *err)
{
	/* Not to hang on a pipe; the type is checked next. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY), rc;
	struct stat st;

	if (fd < 0) {
		return err_set(err, -errno, "%s: cannot be opened: %s", path, strerror(errno));
	}
	rc = fstat(fd, &st) == 0 ? check_owner(&st, path, err)
				 : err_set(err, -errno, "%s: %s", path, strerror(errno));
	if (rc == 0) {
		rc = read_whole(fd, path, buf, err);
	}
	close(fd);
	return rc;
}

int
secret_read_credential(const char *name, char *buf, struct err *err)
{
	const char *dir = getenv("CREDENTIALS_DIRECTORY");
	char *path;
	int rc;

	if (!path_name_ok(name, 255)) {
		return err_set(err, -EINVAL, "'%s' is no name of a credential", name);
	}
	if (dir == NULL) {
		return err_set(err, -ENOENT, "credential '%s': the service manager passed no credentials to this process",
			       name);
	}
	path = path_join(dir, name);
	if (path == NULL) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	rc = secret_read_file(path, buf, err);
	free(path);
	return rc;
}

int
secret_read_keyring(const char *description, char *buf, struct err *err)
{
	long key = syscall(SYS_request_key, "user", description, NULL, 0), n;

	if (key < 0) {
		return err_set(err, -errno, "kernel key '%s': %s", description,
			       errno == ENOKEY ? "there is none of type user in the keyrings of this process"
					       : strerror(errno));
	}
	n = syscall(SYS_keyctl, KEYCTL_READ, key, buf, SECRET_TEXT_MAX);
	if (n < 0) {
		return err_set(err, -errno, "kernel key '%s': cannot be read: %s", description, strerror(errno));
	}
	if (n > SECRET_TEXT_MAX) {
		explicit_bzero(buf, SECRET_TEXT_MAX);
		return err_set(err, -EFBIG, "kernel key '%s': is longer than %d bytes", description, SECRET_TEXT_MAX);
	}
	return (int)n;
}
