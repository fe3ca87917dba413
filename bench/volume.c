/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What volumes cost, in one process on one thread, 4 KiB requests.
 *
 *   volume-bench rates                   reads and writes of allocated clusters: a thick volume, a thin one, clones of a chain
 *                                        of 1 and of 32 snapshots, and the null bdev all of them stand on, in turns
 *   volume-bench snapshot --file PATH    random writes on a full volume in a file, before and in the second after a snapshot;
 *                                        the file is made, and removed afterwards
 *
 *   --rounds N  --ms N  --depth N  --size MIB (of the volume)  --cluster BYTES (0: berth's default)  --flush-every N (writes)
 *   --allocate 1 (the file's pages are there before, as a disk's are; else it is sparse)
 *
 * Figures are printed, one row a line; the program fails only when something does not work.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "bdev/bdev.h"
#include "bdevs/aio/aio.h"
#include "bdevs/null/null.h"
#include "event/reactor.h"
#include "lvol/lvol.h"
#include "stage.h"

#define BLOCK 4096u
#define DEPTH_MAX 512
#define ROUNDS_MAX 64

static struct options {
	const char *file;
	unsigned depth, rounds, ms, size_mib, cluster, flush_every, allocate;
} options = {.rounds = 5, .ms = 200};

/* ---- On the thread ---- */

/* An asynchronous call on the thread, run to its end. */
struct change {
	void (*fn)(struct change *c);
	const char *what;
	struct lvol_store *store;
	struct lvol *lvol;
	const char *name, *base;
	uint64_t bytes;
	bool thin;
	bool done;
	uint64_t begun_ns, ended_ns;
};

static void
change_run(void *arg)
{
	struct change *c = arg;

	c->begun_ns = clock_now_ns();
	c->fn(c);
}

static void
change_ended(struct change *c, int status, const struct err *err)
{
	if (status != 0) {
		stage_fail(c->what, err != NULL && err->code != 0 ? err : &(struct err){.code = status});
	}
	c->ended_ns = clock_now_ns();
	c->done = true;
}

static void
change(struct change *c)
{
	stage_call(change_run, c);
	while (!c->done) {
		reactor_poll_once(stage_reactor);
	}
}

static void
changed(void *ctx, int status, const struct err *err)
{
	change_ended(ctx, status, err);
}

static void
made_store(void *ctx, struct lvol_store *store, int status, const struct err *err)
{
	struct change *c = ctx;

	c->store = store;
	change_ended(c, status, err);
}

static void
made(void *ctx, struct lvol *lvol, int status, const struct err *err)
{
	struct change *c = ctx;

	c->lvol = lvol;
	change_ended(c, status, err);
}

static void
do_create_store(struct change *c)
{
	lvol_store_create(&(struct lvol_store_options){.base_name = c->base, .name = c->name, .cluster_bytes = options.cluster,
						       .clear = BLOB_CLEAR_NONE}, made_store, c);
}

static void
do_create(struct change *c)
{
	lvol_create(c->store, &(struct lvol_options){.name = c->name, .bytes = c->bytes, .thin = c->thin}, made, c);
}

static void
do_snapshot(struct change *c)
{
	lvol_snapshot(c->lvol, c->name, made, c);
}

static void
do_unload(struct change *c)
{
	lvol_store_unload(c->store, changed, c);
}

static struct lvol_store *
create_store(const char *base)
{
	struct change c = {.fn = do_create_store, .what = "creating a store", .base = base, .name = "store"};

	change(&c);
	return c.store;
}

static struct lvol *
create(struct lvol_store *store, const char *name, bool thin)
{
	struct change c = {.fn = do_create, .what = name, .store = store, .name = name, .thin = thin,
			   .bytes = (uint64_t)options.size_mib << 20};

	change(&c);
	return c.lvol;
}

/* ---- Load on one bdev ---- */

struct load {
	const char *name;
	bool write, random;
	uint32_t blocks; /* of a request */
	uint64_t requests; /* to be done; 0: until end_ns */
	uint64_t end_ns;

	struct bdev_desc *desc;
	struct bdev_channel *ch;
	uint8_t *buffers, *ios, *flush_io;
	size_t io_bytes;
	struct iovec iov[DEPTH_MAX];
	uint64_t begun_ns[DEPTH_MAX];
	uint64_t positions, next, seed, done, worst_ns;
	unsigned inflight, since_flush;
	bool flushing;
};

static struct load load;

static void io_done(struct bdev_io *io, int status);

static uint64_t
position(void)
{
	if (!load.random) {
		return load.next++ % load.positions;
	}
	load.seed = load.seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (load.seed >> 33) % load.positions;
}

static size_t
index_of(const struct bdev_io *io)
{
	return (size_t)((const uint8_t *)io - load.ios) / load.io_bytes;
}

static void
submit(struct bdev_io *io)
{
	size_t i = index_of(io);

	bdev_io_init(io, load.write ? BDEV_WRITE : BDEV_READ, position() * load.blocks, load.blocks, &load.iov[i], 1, io_done);
	load.begun_ns[i] = reactor_now_ns();
	bdev_submit(load.ch, io);
}

static void
flushed(struct bdev_io *io, int status)
{
	if (status != 0) {
		stage_fail("a flush", &(struct err){.code = status});
	}
	load.flushing = false;
	load.inflight--;
}

static void
flush_now_and_then(void)
{
	struct bdev_io *io = (struct bdev_io *)(void *)load.flush_io;

	if (options.flush_every == 0 || !load.write || ++load.since_flush < options.flush_every || load.flushing) {
		return;
	}
	load.since_flush = 0;
	load.flushing = true;
	load.inflight++;
	bdev_io_init(io, BDEV_FLUSH, 0, 0, NULL, 0, flushed);
	bdev_submit(load.ch, io);
}

static void
io_done(struct bdev_io *io, int status)
{
	uint64_t now_ns = reactor_now_ns(), took_ns = now_ns - load.begun_ns[index_of(io)];

	if (status != 0) {
		stage_fail(load.name, &(struct err){.code = status});
	}
	load.done++;
	load.worst_ns = MAX(load.worst_ns, took_ns);
	if (load.requests != 0 ? load.next < load.requests : now_ns < load.end_ns) {
		submit(io);
		flush_now_and_then();
	} else {
		load.inflight--;
	}
}

static void
event(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
}

static void
load_open(void *arg)
{
	struct err err = ERR_NONE;
	size_t bytes = (size_t)load.blocks * BLOCK;

	if (bdev_open(load.name, true, event, NULL, &load.desc, &err) != 0) {
		stage_fail(load.name, &err);
	}
	load.ch = bdev_channel_get(load.desc, NULL);
	load.io_bytes = bdev_io_bytes(bdev_desc_bdev(load.desc));
	load.buffers = aligned_alloc(4096, options.depth * bytes);
	load.ios = aligned_alloc(64, (options.depth + 1) * load.io_bytes);
	if (load.ch == NULL || load.buffers == NULL || load.ios == NULL) {
		stage_fail(load.name, &(struct err){.code = -ENOMEM});
	}
	load.flush_io = load.ios + options.depth * load.io_bytes;
	memset(load.buffers, 1, options.depth * bytes);
	load.positions = ((uint64_t)options.size_mib << 20) / bytes;
	load.seed = 1;
	for (unsigned i = 0; i < options.depth; i++) {
		load.iov[i] = (struct iovec){load.buffers + i * bytes, bytes};
	}
}

static void
load_begin(void *arg)
{
	load.inflight = options.depth;
	for (unsigned i = 0; i < options.depth; i++) {
		submit((struct bdev_io *)(void *)(load.ios + i * load.io_bytes));
	}
}

static void
load_close(void *arg)
{
	bdev_channel_put(load.ch);
	bdev_close(load.desc);
	free(load.buffers);
	free(load.ios);
}

static void
run_until_over(void)
{
	while (load.inflight > 0) {
		reactor_poll_once(stage_reactor);
	}
}

/* Writes every cluster of it. */
static void
fill(const char *name)
{
	load = (struct load){.name = name, .write = true, .blocks = 16};
	load.requests = ((uint64_t)options.size_mib << 20) / (16 * BLOCK);
	stage_call(load_open, NULL);
	stage_call(load_begin, NULL);
	run_until_over();
	stage_call(load_close, NULL);
}

/* Requests a second. */
static double
rate(const char *name, bool write)
{
	uint64_t begin_ns;
	double result;

	load = (struct load){.name = name, .write = write, .random = true, .blocks = 1};
	stage_call(load_open, NULL);
	begin_ns = clock_now_ns();
	load.end_ns = begin_ns + options.ms * NS_PER_MS;
	stage_call(load_begin, NULL);
	run_until_over();
	result = (double)load.done * 1e9 / (double)(clock_now_ns() - begin_ns);
	stage_call(load_close, NULL);
	return result;
}

/* ---- Rates ---- */

static void
make_null(void *arg)
{
	struct err err = ERR_NONE;

	for (int i = 0; i < 2; i++) {
		if (bdev_null_create(&(struct null_bdev_options){.name = i == 0 ? "null" : "base", .block_size = BLOCK,
								 .num_blocks = UINT64_C(64) << 18}, NULL, &err) != 0) {
			stage_fail("null", &err);
		}
	}
}

/* A volume that was written over anew after each of n snapshots. */
static void
chain(struct lvol_store *store, const char *name, unsigned n)
{
	struct lvol *lvol = create(store, name, true);
	char bdev[128], snapshot[32];

	snprintf(bdev, sizeof(bdev), "store/%s", name);
	fill(bdev);
	for (unsigned i = 0; i < n; i++) {
		struct change c = {.fn = do_snapshot, .what = "a snapshot", .lvol = lvol, .name = snapshot};

		snprintf(snapshot, sizeof(snapshot), "%s-%u", name, i);
		change(&c);
		fill(bdev);
	}
}

static void
measure(bool write)
{
	static const char *const names[] = {"null", "store/thick", "store/thin", "store/over1", "store/over32"};
	double rates[5][ROUNDS_MAX], shares[5][ROUNDS_MAX];

	/* In turns: what else the machine does meets all alike. */
	for (unsigned r = 0; r < options.rounds; r++) {
		for (int i = 0; i < 5; i++) {
			rates[i][r] = rate(names[i], write);
			shares[i][r] = rates[i][r] / rates[0][r];
		}
	}
	for (int i = 0; i < 5; i++) {
		double share = stage_median(shares[i], options.rounds), mid = stage_median(rates[i], options.rounds);

		printf("%-6s %-13s %7.2f M/s (%5.2f to %5.2f)  %6.1f ns  %5.1f %% of null\n", write ? "write" : "read", names[i],
		       mid / 1e6, rates[i][0] / 1e6, rates[i][options.rounds - 1] / 1e6, 1e9 / mid, 100 * share);
	}
}

static struct lvol_store *
rates(void)
{
	struct lvol_store *store;

	options.depth = options.depth == 0 ? 128 : options.depth;
	options.size_mib = options.size_mib == 0 ? 64 : options.size_mib;
	stage_call(make_null, NULL);
	store = create_store("base");
	create(store, "thick", false);
	chain(store, "thin", 0);
	chain(store, "over1", 1);
	chain(store, "over32", 32);
	measure(false);
	measure(true);
	return store;
}

/* ---- The second after a snapshot ---- */

static void
make_file(void *arg)
{
	struct err err = ERR_NONE;
	int fd = open(options.file, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, ((off_t)options.size_mib * 3 + 256) << 20) != 0) {
		stage_fail(options.file, &(struct err){.code = -errno});
	}
	if (options.allocate != 0 && posix_fallocate(fd, 0, ((off_t)options.size_mib * 3 + 256) << 20) != 0) {
		unlink(options.file);
		stage_fail(options.file, &(struct err){.code = -ENOSPC});
	}
	close(fd);
	if (bdev_aio_create(&(struct aio_bdev_options){.name = "file", .filename = options.file, .block_size = BLOCK}, NULL,
			    &err) != 0) {
		unlink(options.file);
		stage_fail(options.file, &err);
	}
}

struct second {
	double rate;
	double worst_ms;
};

static struct second
run_for(uint64_t ns)
{
	uint64_t begin_ns = clock_now_ns(), before = load.done;

	load.worst_ns = 0;
	while (clock_now_ns() < begin_ns + ns) {
		reactor_poll_once(stage_reactor);
	}
	return (struct second){(double)(load.done - before) * 1e9 / (double)(clock_now_ns() - begin_ns),
			       (double)load.worst_ns / 1e6};
}

static void
snapshot_round(struct lvol *lvol, unsigned round, double *ret_share, double *ret_worst_ms)
{
	char name[32];
	struct change c = {.fn = do_snapshot, .what = "a snapshot", .lvol = lvol, .name = name};
	struct second before, after, later;

	snprintf(name, sizeof(name), "snapshot-%u", round);
	load = (struct load){.name = "store/v", .write = true, .random = true, .blocks = 1, .end_ns = UINT64_MAX};
	stage_call(load_open, NULL);
	stage_call(load_begin, NULL);
	run_for(NS_PER_S / 4);
	before = run_for(NS_PER_S);
	stage_call(change_run, &c);
	after = run_for(NS_PER_S);
	later = run_for(NS_PER_S);
	load.end_ns = 0;
	run_until_over();
	stage_call(load_close, NULL);
	if (!c.done) {
		stage_fail("the snapshot", &(struct err){.code = -ETIMEDOUT});
	}
	*ret_share = after.rate / before.rate;
	*ret_worst_ms = after.worst_ms;
	printf("before %6.3f M/s, worst %6.2f ms; first second after %6.3f M/s (%5.1f %%), worst %6.2f ms; "
	       "second after %6.3f M/s; the call took %.2f ms\n",
	       before.rate / 1e6, before.worst_ms, after.rate / 1e6, 100 * *ret_share, after.worst_ms,
	       later.rate / 1e6, (double)(c.ended_ns - c.begun_ns) / 1e6);
}

static struct lvol_store *
snapshots(void)
{
	double shares[ROUNDS_MAX], worst[ROUNDS_MAX];
	struct lvol_store_info info;
	struct lvol_store *store;
	struct lvol *lvol;

	options.depth = options.depth == 0 ? 32 : options.depth;
	options.size_mib = options.size_mib == 0 ? 512 : options.size_mib;
	stage_call(make_file, NULL);
	store = create_store("file");
	unlink(options.file); /* it goes with the process */
	lvol = create(store, "v", true);
	fill("store/v");
	lvol_store_get_info(store, &info);
	printf("4 KiB random writes, depth %u, volume of %u MiB, clusters of %u KiB, flush every %u writes (0: none), %s file\n",
	       options.depth, options.size_mib, info.blob.cluster_bytes >> 10, options.flush_every,
	       options.allocate != 0 ? "allocated" : "sparse");
	/* Two snapshots fit beside the volume. */
	for (unsigned r = 0; r < MIN(options.rounds, 2u); r++) {
		snapshot_round(lvol, r, &shares[r], &worst[r]);
	}
	return store;
}

/* ---- The program ---- */

static void
shut_down(void *arg)
{
	(void)bdev_null_delete("null", NULL, NULL, NULL);
	(void)bdev_null_delete("base", NULL, NULL, NULL);
	(void)bdev_aio_delete("file", NULL, NULL, NULL);
}

static void
parse(int argc, char **argv)
{
	static const struct option longs[] = {
		{"file", 1, NULL, 'f'},	  {"depth", 1, NULL, 'q'},	{"rounds", 1, NULL, 'r'}, {"ms", 1, NULL, 'm'},
		{"size", 1, NULL, 's'},	  {"cluster", 1, NULL, 'c'},	{"flush-every", 1, NULL, 'F'},
		{"allocate", 1, NULL, 'a'}, {NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		unsigned *value = c == 'q'   ? &options.depth
				  : c == 'r' ? &options.rounds
				  : c == 'm' ? &options.ms
				  : c == 's' ? &options.size_mib
				  : c == 'c' ? &options.cluster
				  : c == 'F' ? &options.flush_every
				  : c == 'a' ? &options.allocate
					     : NULL;

		if (c == 'f') {
			options.file = optarg;
		} else if (value == NULL) {
			exit(2);
		} else {
			*value = (unsigned)strtoul(optarg, NULL, 10);
		}
	}
	if (options.depth > DEPTH_MAX || options.rounds == 0 || options.rounds > ROUNDS_MAX || optind + 1 != argc) {
		fprintf(stderr, "volume-bench rates | snapshot --file PATH; --depth 1 to %u, --rounds 1 to %u\n", DEPTH_MAX,
			ROUNDS_MAX);
		exit(2);
	}
}

int
main(int argc, char **argv)
{
	struct change c = {.fn = do_unload, .what = "closing the store"};
	bool snapshot;

	parse(argc, argv);
	snapshot = strcmp(argv[optind], "snapshot") == 0;
	if ((snapshot && options.file == NULL) || (!snapshot && strcmp(argv[optind], "rates") != 0)) {
		fprintf(stderr, "volume-bench rates | snapshot --file PATH\n");
		return 2;
	}
	stage_start("volume-bench");
	setvbuf(stdout, NULL, _IOLBF, 0);
	c.store = snapshot ? snapshots() : rates();
	change(&c);
	stage_call(shut_down, NULL);
	stage_stop();
	return 0;
}
