/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Section d: disk I/O and descriptors in one thread. The reactor sleeps until a descriptor or a completion wakes it; a 4 KiB
 * read is what it does.
 *
 *  - kicked: a guest on another CPU asks for reads in shared memory and kicks a descriptor, as a virtqueue does; it
 *    looks for answers in shared memory, and asks anew for as many as it finds. `depth` are under way.
 *  - by itself: the reactor begins a read when one ends; a descriptor is watched, and silent.
 *
 * Latency is from the guest's kick (by itself: from the turn that began the read) until the reactor has its answer. The CPU time
 * is the whole process's without the guest's: what kernel threads do for a ring is in it. The engines share everything
 * but the handing over and the sleeping. Each block of the file begins with its number, and is checked.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "waiting.h"

#define LAPS 8
#define LAP_NS (NS_PER_S / 20)
#define READS_MAX UINT64_C(200000)

struct job {
	struct disk d;
	unsigned depth;
	bool kicked;
	uint64_t reads;  /* at most */
	uint64_t end_ns; /* the reactor's, when it goes by itself */
	uint64_t took_ns;
	uint64_t cpu_ns; /* of the process meanwhile */
	uint64_t slept;  /* times */
	uint64_t guest_cpu_ns;
	uint64_t seen; /* the guest's */
	int rc;
	_Alignas(CACHE_LINE_BYTES) _Atomic int ready; /* 1: takes kicks; -1: see rc */
};

static struct job *
job_of(struct disk *d)
{
	return CONTAINER_OF(d, struct job, d);
}

/* ---- The reactor's side ---- */

static uint64_t
random_block(struct disk *d)
{
	d->random = d->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (d->random >> 33) % d->blocks;
}

void
disk_take(struct disk *d)
{
	uint64_t avail = atomic_load_explicit(&d->avail, memory_order_acquire);

	for (; d->taken < avail; d->taken++) {
		unsigned slot = d->free[--d->free_count];

		d->slots[slot].block = random_block(d);
		d->slots[slot].begin_ns = job_of(d)->kicked ? d->stamps[d->taken % SLOTS] : d->now_ns;
		d->how->prepare(d, slot);
		d->prepared++;
	}
}

void
disk_complete(struct disk *d, unsigned slot, int64_t res)
{
	struct slot *s = &d->slots[slot];
	uint64_t number;

	memcpy(&number, s->buffer, sizeof(number));
	if (res != BLOCK_BYTES || number != s->block) {
		lost("block %llu: result %lld, data of block %llu", (unsigned long long)s->block, (long long)res,
		     (unsigned long long)number);
	}
	memset(s->buffer, 0xff, sizeof(number));
	samples_add(&d->latency, d->now_ns - s->begin_ns);
	d->free[d->free_count++] = slot;
	d->done++;
}

static void
turn_end(struct job *j)
{
	struct disk *d = &j->d;

	if (!j->kicked && atomic_load_explicit(&d->avail, memory_order_relaxed) < j->reads && d->now_ns < j->end_ns) {
		atomic_store_explicit(&d->avail, d->done + j->depth, memory_order_relaxed);
	} else if (!j->kicked) {
		atomic_store_explicit(&d->stop, true, memory_order_relaxed);
	}
	atomic_store_explicit(&d->used, d->done, memory_order_release);
}

static uint64_t
times_slept(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return (uint64_t)usage.ru_nvcsw;
}

static void
react(struct job *j)
{
	struct disk *d = &j->d;
	uint64_t begin = clock_now_ns(), cpu = process_cpu_ns(), slept = times_slept();

	j->end_ns = begin + LAP_NS;
	if (!j->kicked) {
		d->now_ns = begin;
		atomic_store_explicit(&d->avail, j->depth, memory_order_relaxed);
	}
	for (uint64_t turns = 0; !atomic_load_explicit(&d->stop, memory_order_acquire) || d->done < d->taken; turns++) {
		int rc = d->how->round(d);

		if (rc < 0) {
			give_up(d->how->name, rc);
		}
		if (turns > 100 * READS_MAX) {
			lost("%llu of %llu reads ended", (unsigned long long)d->done, (unsigned long long)d->taken);
		}
		turn_end(j);
	}
	j->took_ns = clock_now_ns() - begin;
	j->cpu_ns = process_cpu_ns() - cpu;
	j->slept = times_slept() - slept;
}

static void *
reactor_main(void *arg)
{
	struct job *j = arg;

	pin(options.cpus[0]);
	j->rc = j->d.how->open(&j->d);
	atomic_store(&j->ready, j->rc == 0 ? 1 : -1);
	if (j->rc == 0) {
		react(j);
	}
	j->d.how->close(&j->d);
	return NULL;
}

/* ---- The guest's side ---- */

static bool
is_ready(void *ctx)
{
	return atomic_load(&((struct job *)ctx)->ready) != 0;
}

static bool
is_used(void *ctx)
{
	struct job *j = ctx;

	return atomic_load_explicit(&j->d.used, memory_order_acquire) != j->seen;
}

static void
guest_ask(struct job *j, uint64_t count)
{
	uint64_t avail = atomic_load_explicit(&j->d.avail, memory_order_relaxed), now = clock_now_ns(), one = 1;

	for (uint64_t i = 0; i < count; i++) {
		j->d.stamps[(avail + i) % SLOTS] = now;
	}
	atomic_store_explicit(&j->d.avail, avail + count, memory_order_release);
	CHECK(write(j->d.kick_fd, &one, sizeof(one)) == sizeof(one));
}

static void
guest(struct job *j)
{
	uint64_t cpu = thread_cpu_ns(), asked = j->depth, one = 1, end = clock_now_ns() + LAP_NS;

	guest_ask(j, j->depth);
	while (j->seen < asked) {
		uint64_t used;

		if (!spin_until(is_used, j)) {
			lost("%llu of %llu reads were answered", (unsigned long long)j->seen, (unsigned long long)asked);
		}
		used = atomic_load_explicit(&j->d.used, memory_order_acquire);
		if (asked < j->reads && clock_now_ns() < end) {
			guest_ask(j, used - j->seen);
			asked += used - j->seen;
		}
		j->seen = used;
	}
	j->guest_cpu_ns = thread_cpu_ns() - cpu;
	atomic_store_explicit(&j->d.stop, true, memory_order_release);
	CHECK(write(j->d.kick_fd, &one, sizeof(one)) == sizeof(one));
}

/* ---- One run ---- */

static struct job *
job_create(const struct engine *how, int fd, uint64_t blocks, unsigned depth, bool kicked)
{
	struct job *j = aligned_alloc(CACHE_LINE_BYTES, sizeof(*j));
	struct disk *d;

	CHECK(j != NULL);
	*j = (struct job){.depth = depth, .kicked = kicked, .reads = options.quick ? 200 : READS_MAX};
	d = &j->d;
	d->how = how;
	d->fd = fd;
	d->blocks = blocks;
	d->random = 1;
	d->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	CHECK(d->kick_fd >= 0);
	for (unsigned i = 0; i < SLOTS; i++) {
		d->slots[i].buffer = aligned_alloc(BLOCK_BYTES, BLOCK_BYTES);
		CHECK(d->slots[i].buffer != NULL);
		memset(d->slots[i].buffer, 0xff, BLOCK_BYTES);
		d->free[d->free_count++] = i;
	}
	samples_init(&d->latency, READS_MAX + SLOTS);
	return j;
}

static void
job_free(struct job *j)
{
	for (unsigned i = 0; i < SLOTS; i++) {
		free(j->d.slots[i].buffer);
	}
	samples_release(&j->d.latency);
	close(j->d.kick_fd);
	free(j);
}

static void
job_run(struct job *j)
{
	pthread_t thread;
	int rc = pthread_create(&thread, NULL, reactor_main, j);
	if (rc != 0) {
		give_up("cannot start a thread", rc);
	}
	if (!spin_until(is_ready, j)) {
		lost("the reactor does not start");
	}
	if (j->rc == 0 && j->kicked) {
		guest(j);
	}
	pthread_join(thread, NULL);
}

/* What laps of an engine add up to. */
struct sum {
	struct samples latency;
	uint64_t reads, took_ns, cpu_ns, calls, slept;
	double latencies[LAPS], cpu[LAPS];
	int rc;
};

static void
lap_run(struct sum *sum, unsigned lap, const struct engine *how, int fd, uint64_t blocks, unsigned depth, bool kicked)
{
	struct job *j = job_create(how, fd, blocks, depth, kicked);
	struct disk *d = &j->d;

	watch(how->name);
	job_run(j);
	sum->rc = j->rc;
	if (j->rc == 0 && (d->done == 0 || d->done != atomic_load(&d->avail))) {
		lost("%llu of %llu reads ended", (unsigned long long)d->done, (unsigned long long)atomic_load(&d->avail));
	}
	if (j->rc == 0) {
		uint64_t cpu_ns = j->cpu_ns - j->guest_cpu_ns;

		samples_append(&sum->latency, &d->latency);
		sum->reads += d->done;
		sum->took_ns += j->took_ns;
		sum->cpu_ns += cpu_ns;
		sum->calls += d->calls;
		sum->slept += j->slept;
		sum->latencies[lap] = samples_at(&d->latency, 0.5);
		sum->cpu[lap] = (double)cpu_ns / (double)d->done;
	}
	job_free(j);
}

static void
sum_add(struct table *t, const char *row, struct sum *sum, const struct sum *base, unsigned laps)
{
	double n = (double)sum->reads;

	if (sum->rc != 0) {
		table_skip(t, row, sum->rc);
		return;
	}
	table_add(t, row, (double[]){
		n / (double)sum->took_ns * 1e6, samples_at(&sum->latency, 0.5) / 1e3, samples_at(&sum->latency, 0.99) / 1e3,
		laps_compare(sum->latencies, base->latencies, laps), (double)sum->cpu_ns / n / 1e3,
		laps_compare(sum->cpu, base->cpu, laps), (double)sum->calls / n, (double)sum->slept / n});
}

/* What the others are compared with: what works everywhere. */
#define AIO_ROW 1

static void
disk_run(struct table *t, int fd, uint64_t blocks, unsigned depth, bool kicked)
{
	const unsigned laps = options.quick ? 1 : LAPS;
	struct sum *sums = calloc(engine_count, sizeof(*sums));

	CHECK(sums != NULL);
	for (unsigned i = 0; i < engine_count; i++) {
		samples_init(&sums[i].latency, laps * (READS_MAX + SLOTS));
	}
	for (unsigned lap = 0; lap < laps; lap++) {
		for (unsigned n = 0; n < engine_count; n++) {
			unsigned i = (n + lap) % engine_count; /* nobody follows the same one always */

			lap_run(&sums[i], lap, &engines[i], fd, blocks, depth, kicked);
		}
	}
	for (unsigned i = 0; i < engine_count; i++) {
		sum_add(t, engines[i].name, &sums[i], &sums[AIO_ROW], laps);
		samples_release(&sums[i].latency);
	}
	free(sums);
}

/* ---- Files ---- */

static int
fill(int fd, uint64_t blocks)
{
	enum { CHUNK = 256 };
	uint64_t *chunk = aligned_alloc(BLOCK_BYTES, CHUNK * BLOCK_BYTES);
	const size_t words = BLOCK_BYTES / sizeof(*chunk);
	int rc = 0;

	CHECK(chunk != NULL);
	for (uint64_t b = 0; b < blocks && rc == 0; b += CHUNK) {
		for (size_t i = 0; i < CHUNK * words; i++) {
			chunk[i] = (b + i / words) + (i % words) * UINT64_C(0x9e3779b97f4a7c15);
		}
		if (pwrite(fd, chunk, CHUNK * BLOCK_BYTES, (off_t)(b * BLOCK_BYTES)) != CHUNK * BLOCK_BYTES) {
			rc = errno != 0 ? -errno : -ENOSPC;
		}
	}
	free(chunk);
	return rc == 0 && fsync(fd) != 0 ? -errno : rc;
}

static int
open_memory(uint64_t blocks)
{
	int fd = memfd_create("waiting", MFD_CLOEXEC), rc;

	rc = fd < 0 ? -errno : fill(fd, blocks);
	if (rc != 0) {
		give_up("cannot fill a file in memory", rc);
	}
	return fd;
}

static int
open_disk(uint64_t blocks, const char **ret_how)
{
	char path[4096];
	int fd, direct, rc;

	snprintf(path, sizeof(path), "%s/waiting-XXXXXX", options.dir);
	fd = mkstemp(path);
	if (fd < 0) {
		give_up(path, errno);
	}
	direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	unlink(path);
	rc = fill(fd, blocks);
	if (rc != 0) {
		give_up("cannot fill a file for disk I/O", rc);
	}
	*ret_how = direct >= 0 ? "a file, O_DIRECT" : "a file in the page cache, as its file system has no O_DIRECT";
	if (direct < 0) {
		return fd;
	}
	close(fd);
	return direct;
}

static void
disk_table(const char *file, int fd, uint64_t blocks, unsigned depth, bool kicked)
{
	static const char *const columns[] = {"thousand reads/s", "latency us, median", "p99", "% of aio, io_getevents",
					      "CPU us a read", "% of aio, io_getevents", "system calls a read", "sleeps a read",
					      NULL};
	char title[160];
	struct table t;

	snprintf(title, sizeof(title), "d. 4 KiB random reads of %s; depth %u, %s", file, depth,
		 kicked ? "asked for by a guest that kicks" : "begun by the reactor itself");
	table_init(&t, title, columns);
	for (unsigned run = 0; run < options.runs; run++) {
		disk_run(&t, fd, blocks, depth, kicked);
	}
	table_print(&t);
}

static void
disk_tables(const char *file, int fd, uint64_t blocks)
{
	for (int kicked = 1; kicked >= 0; kicked--) {
		disk_table(file, fd, blocks, 1, kicked);
		disk_table(file, fd, blocks, 32, kicked);
	}
	close(fd);
}

void
section_disk(void)
{
	uint64_t blocks = options.quick ? 1024 : 65536;
	const char *how;
	int fd;

	pin(options.cpus[1]);
	disk_tables("a file in memory (tmpfs)", open_memory(blocks), blocks);
	fd = open_disk(blocks, &how);
	disk_tables(how, fd, blocks);
}
