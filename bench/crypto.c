/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a crypto bdev costs besides its cipher: the engine alone (the same contexts and tweaks, a buffer to a buffer), the base
 * alone, and the crypto bdev on it, in turns in one process on one thread, so that they meet the same machine. Rates are for a
 * second of the thread's CPU time, so that others on the machine count little. Prints a table with the medians of the
 * rounds.
 *
 *   crypto-bench [--io-size BYTES] [--block BYTES] [--depth N] [--rounds N] [--ms N] [--key-bits 128|256]
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/secret.h"
#include "bdev/bdev.h"
#include "bdevs/crypto/crypto.h"
#include "bdevs/crypto/key.h"
#include "bdevs/malloc/malloc.h"
#include "bdevs/null/null.h"
#include "event/reactor.h"
#include "stage.h"

#define DISK_BYTES ((uint64_t)64 << 20)
#define DEPTH_MAX 512
#define ROUNDS_MAX 64

static struct options {
	unsigned io_size, block, depth, rounds, ms, key_bits;
} options = {4096, 512, 32, 5, 100, 256};

static uint64_t
cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

/* ---- The engine ---- */

static double
engine_rate(bool write)
{
	const struct xts_key *key = crypto_key_secret(crypto_key_find("k"));
	uint64_t end_ns = clock_now_ns() + options.ms * NS_PER_MS, begin, used, count = 0;
	uint64_t blocks = DISK_BYTES / options.block;
	size_t bytes = (size_t)options.depth * options.io_size;
	uint8_t *from = aligned_alloc(4096, bytes), *to = aligned_alloc(4096, options.io_size);
	struct xts *x;

	if (from == NULL || to == NULL || xts_create(key, options.block, &x) != 0) {
		stage_fail("engine", &(struct err){.text = "no cipher, or no memory"});
	}
	memset(from, 1, bytes);
	begin = cpu_ns();
	while (clock_now_ns() < end_ns) {
		for (unsigned i = 0; i < options.depth; i++, count++) {
			uint8_t *theirs = from + (size_t)i * options.io_size;
			uint64_t lba = count * (options.io_size / options.block) % blocks;
			struct iovec iov = {theirs, options.io_size};

			if (write) {
				(void)xts_encrypt(x, lba, &iov, 1, to, options.io_size);
			} else {
				(void)xts_decrypt(x, lba, to, options.io_size, &iov, 1);
			}
		}
	}
	used = cpu_ns() - begin;
	xts_free(x);
	free(from);
	free(to);
	return (double)count * 1e9 / (double)used;
}

/* ---- A bdev ---- */

struct run {
	const char *name;
	bool write;
	struct bdev_desc *desc;
	struct bdev_channel *ch;
	uint8_t *buffers, *ios;
	size_t io_bytes;
	struct iovec iov[DEPTH_MAX];
	uint64_t next, done, end_ns;
	unsigned inflight;
};

static struct run run;

static void io_done(struct bdev_io *io, int status);

static void
submit(struct bdev_io *io)
{
	uint64_t n = options.io_size / options.block, index = (uint64_t)((uint8_t *)io - run.ios) / run.io_bytes;
	uint64_t lba = run.next++ * n % (DISK_BYTES / options.block);

	bdev_io_init(io, run.write ? BDEV_WRITE : BDEV_READ, lba, n, &run.iov[index], 1, io_done);
	bdev_submit(run.ch, io);
}

static void
io_done(struct bdev_io *io, int status)
{
	if (status != 0) {
		stage_fail(run.name, &(struct err){.text = "a request failed"});
	}
	run.done++;
	if (reactor_now_ns() < run.end_ns) {
		submit(io);
	} else {
		run.inflight--;
	}
}

static void
event(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
}

static void
start(void *arg)
{
	struct err err = ERR_NONE;

	if (bdev_open(run.name, true, event, NULL, &run.desc, &err) != 0) {
		stage_fail(run.name, &err);
	}
	run.ch = bdev_channel_get(run.desc, NULL);
	run.io_bytes = bdev_io_bytes(bdev_desc_bdev(run.desc));
	run.buffers = aligned_alloc(4096, (size_t)options.depth * options.io_size);
	run.ios = aligned_alloc(64, options.depth * run.io_bytes);
	if (run.ch == NULL || run.buffers == NULL || run.ios == NULL) {
		stage_fail(run.name, &(struct err){.text = "out of memory"});
	}
	memset(run.buffers, 1, (size_t)options.depth * options.io_size);
	run.inflight = options.depth;
	run.end_ns = clock_now_ns() + options.ms * NS_PER_MS;
	for (unsigned i = 0; i < options.depth; i++) {
		run.iov[i] = (struct iovec){run.buffers + (size_t)i * options.io_size, options.io_size};
		submit((struct bdev_io *)(void *)(run.ios + i * run.io_bytes));
	}
}

static void
finish(void *arg)
{
	bdev_channel_put(run.ch);
	bdev_close(run.desc);
	free(run.buffers);
	free(run.ios);
}

static double
bdev_rate(const char *name, bool write)
{
	uint64_t begin, used;

	run = (struct run){.name = name, .write = write};
	stage_call(start, NULL);
	begin = cpu_ns();
	while (run.inflight > 0) {
		reactor_poll_once(stage_reactor);
	}
	used = cpu_ns() - begin;
	stage_call(finish, NULL);
	return (double)run.done * 1e9 / (double)used;
}

/* ---- Set-up ---- */

static void
make(void *arg)
{
	static const char half[] = "00112233445566778899aabbccddeeff0123456789abcdef0123456789abcdef",
			  other[] = "f0e1d2c3b4a5968778695a4b3c2d1e0ff0e1d2c3b4a5968778695a4b3c2d1e00";
	char key[65], key2[65];
	struct crypto_key_options k = {.name = "k", .cipher = "AES_XTS", .key = key, .key2 = key2};
	struct err err = ERR_NONE;

	snprintf(key, sizeof(key), "%.*s", (int)options.key_bits / 4, half);
	snprintf(key2, sizeof(key2), "%.*s", (int)options.key_bits / 4, other);
	if (crypto_key_create(&k, &err) != 0) {
		stage_fail("key", &err);
	}
	for (int i = 0; i < 4; i++) {
		const char *name = (const char *[]){"null", "malloc", "under null", "under malloc"}[i];
		uint64_t blocks = DISK_BYTES / options.block;
		struct null_bdev_options n = {.name = name, .num_blocks = blocks, .block_size = options.block};
		struct malloc_bdev_options m = {.name = name, .num_blocks = blocks, .block_size = options.block};

		if ((i % 2 == 0 ? bdev_null_create(&n, NULL, &err) : bdev_malloc_create(&m, NULL, &err)) != 0) {
			stage_fail(name, &err);
		}
	}
	for (int i = 0; i < 2; i++) {
		struct crypto_bdev_options c = {.name = i == 0 ? "crypto on null" : "crypto on malloc",
						.base_name = i == 0 ? "under null" : "under malloc",
						.key_name = "k"};

		if (bdev_crypto_create(&c, NULL, &err) != 0) {
			stage_fail(c.name, &err);
		}
	}
}

static void
unmake(void *arg)
{
	(void)bdev_crypto_delete("crypto on null", NULL, NULL, NULL);
	(void)bdev_crypto_delete("crypto on malloc", NULL, NULL, NULL);
	for (int i = 0; i < 2; i++) {
		(void)bdev_null_delete(i == 0 ? "null" : "under null", NULL, NULL, NULL);
		(void)bdev_malloc_delete(i == 0 ? "malloc" : "under malloc", NULL, NULL, NULL);
	}
}

static void
measure(bool write)
{
	static const char *const names[] = {"engine", "null", "crypto on null", "malloc", "crypto on malloc"};
	double rates[5][ROUNDS_MAX], medians[5];

	/* In turns: what else the machine does meets all alike. */
	for (unsigned r = 0; r < options.rounds; r++) {
		rates[0][r] = engine_rate(write);
		for (int i = 1; i < 5; i++) {
			rates[i][r] = bdev_rate(names[i], write);
		}
	}
	for (int i = 0; i < 5; i++) {
		medians[i] = stage_median(rates[i], options.rounds);
	}
	for (int i = 0; i < 5; i++) {
		printf("%-6s %-17s %10.0f/s %8.2f GB/s %7.0f ns", write ? "write" : "read", names[i], medians[i],
		       medians[i] * options.io_size / 1e9, 1e9 / medians[i]);
		printf(strncmp(names[i], "crypto", 6) == 0 ? " %6.1f %% of the engine\n" : "\n", 100 * medians[i] / medians[0]);
	}
}

static void
parse(int argc, char **argv)
{
	static const struct option longs[] = {
		{"io-size", 1, NULL, 'o'}, {"block", 1, NULL, 'b'}, {"depth", 1, NULL, 'q'},	{"rounds", 1, NULL, 'r'},
		{"ms", 1, NULL, 'm'},	   {"key-bits", 1, NULL, 'k'}, {NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", longs, NULL)) >= 0) {
		unsigned *value = c == 'o'   ? &options.io_size
				  : c == 'b' ? &options.block
				  : c == 'q' ? &options.depth
				  : c == 'r' ? &options.rounds
				  : c == 'm' ? &options.ms
				  : c == 'k' ? &options.key_bits
					     : NULL;

		if (value == NULL) {
			exit(2);
		}
		*value = (unsigned)strtoul(optarg, NULL, 10);
	}
	if (options.block < 512 || options.block > 65536 || (options.block & (options.block - 1)) != 0 ||
	    options.io_size < options.block || options.io_size % options.block != 0 || options.io_size > (1u << 20) ||
	    options.depth < 1 || options.depth > DEPTH_MAX || options.rounds < 1 || options.rounds > ROUNDS_MAX ||
	    (options.key_bits != 128 && options.key_bits != 256)) {
		fprintf(stderr, "crypto-bench: an option makes no sense\n");
		exit(2);
	}
}

int
main(int argc, char **argv)
{
	parse(argc, argv);
	stage_start("crypto-bench");
	stage_call(make, NULL);
	printf("AES-XTS-%u, %u bytes, blocks of %u, depth %u, one thread\n", options.key_bits, options.io_size, options.block,
	       options.depth);
	measure(true);
	measure(false);
	stage_call(unmake, NULL);
	stage_stop();
	return 0;
}
