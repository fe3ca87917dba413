/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The I/O of malloc bdevs: copying, on the submitting thread, soon after submit. Requests of one
 * channel wait in a queue until the submitting poller has returned; while one is copied the first
 * lines of the next are on their way from memory, which is half of the time of 4 KiB. Writes to a
 * large disk do not fetch what they overwrite (base/copy.h).
 *
 * Invariants
 *  1. The queue is linked through io->defer.next. `drain` is deferred, or waits for the end of the
 *     turn, exactly while the queue is not empty and not being drained.
 *  2. After the last request of the queue is completed the channel is not touched: it may be gone.
 *  3. A chunk whose bit in `written` is 0 reads as zeroes. A write sets the bit after it has
 *     written, what forgets clears it before: whatever two threads do at once, a chunk with data
 *     has its bit.
 *  4. In memory protection information is inverted, so that pages which are not there say what
 *     blocks that were never written must say: all ones, which escapes every check.
 *  5. Two threads that write the same block at once leave a mixture, as disks do.
 * Context: the channel's thread.
 */
#include <errno.h>
#include <string.h>

#include "base/copy.h"
#include "base/iov.h"
#include "bdevs/malloc/internal.h"

#define LINES_AHEAD 8
#define STREAM_DISK_BYTES ((size_t)32 << 20) /* the last level of most processors' caches, or a virtual machine's share of it */
#define STREAM_MIN_BYTES 2048u
/* A copy goes on so far at a time, so that others get their turn. */
#define COPY_STEP_BYTES ((uint64_t)256 * 1024)
/* A block status looks at so many words of bits at a time. */
#define STATUS_WORDS 65536u

struct malloc_channel {
	struct bdev_channel *ch;
	struct defer drain;
	struct bdev_io *first; /* NULL: empty */
	struct bdev_io *last;
	unsigned queued;
};

const size_t malloc_channel_bytes = sizeof(struct malloc_channel);

/* ---- What has data ---- */

#define WORD_BITS 64

static atomic_uint_fast64_t *
words(const struct malloc_disk *disk)
{
	return (atomic_uint_fast64_t *)(void *)disk->written.base;
}

size_t
malloc_map_bytes(const struct malloc_disk *disk, uint64_t num_blocks)
{
	uint64_t chunks = ((num_blocks - 1) >> disk->chunk_shift) + 1;

	return (chunks + WORD_BITS - 1) / WORD_BITS * sizeof(uint64_t);
}

/* The bits of one word that belong to chunks [first, end). */
static uint64_t
bits_of(uint64_t word, uint64_t first, uint64_t end)
{
	uint64_t mask = UINT64_MAX;

	if (first > word * WORD_BITS) {
		mask &= UINT64_MAX << (first % WORD_BITS);
	}
	if (end < (word + 1) * WORD_BITS) {
		mask &= (UINT64_C(1) << (end % WORD_BITS)) - 1;
	}
	return mask;
}

static void
mark_written(struct malloc_disk *disk, uint64_t lba, uint64_t num_blocks)
{
	uint64_t first = lba >> disk->chunk_shift;
	uint64_t end = ((lba + num_blocks - 1) >> disk->chunk_shift) + 1;

	for (uint64_t w = first / WORD_BITS; w * WORD_BITS < end; w++) {
		uint64_t mask = bits_of(w, first, end);

		if ((atomic_load_explicit(&words(disk)[w], memory_order_relaxed) & mask) != mask) {
			atomic_fetch_or_explicit(&words(disk)[w], mask, memory_order_release);
		}
	}
}

static void
mark_forgotten(struct malloc_disk *disk, uint64_t lba, uint64_t num_blocks)
{
	uint64_t round_up = (UINT64_C(1) << disk->chunk_shift) - 1;
	uint64_t first = (lba + round_up) >> disk->chunk_shift;
	uint64_t end = (lba + num_blocks) >> disk->chunk_shift;

	/* The last chunk may be shorter than the others. */
	if (lba + num_blocks == bdev_num_blocks(&disk->bdev)) {
		end = (lba + num_blocks + round_up) >> disk->chunk_shift;
	}
	if (first >= end) {
		return;
	}
	for (uint64_t w = first / WORD_BITS; w * WORD_BITS < end; w++) {
		uint64_t mask = bits_of(w, first, end);

		if ((atomic_load_explicit(&words(disk)[w], memory_order_relaxed) & mask) != 0) {
			atomic_fetch_and(&words(disk)[w], ~mask);
		}
	}
}

/* The chunk, from `chunk` on and before `end`, that is the first of the other kind. */
static uint64_t
run_end(const struct malloc_disk *disk, uint64_t chunk, uint64_t end)
{
	uint64_t w = chunk / WORD_BITS, limit = w + STATUS_WORDS;
	uint64_t flip, word = atomic_load_explicit(&words(disk)[w], memory_order_relaxed);

	flip = (word >> (chunk % WORD_BITS) & 1) != 0 ? UINT64_MAX : 0;
	word = (word ^ flip) & (UINT64_MAX << (chunk % WORD_BITS));
	while (word == 0) {
		w++;
		if (w * WORD_BITS >= end || w == limit) {
			return MIN(w * WORD_BITS, end);
		}
		word = atomic_load_explicit(&words(disk)[w], memory_order_relaxed) ^ flip;
	}
	return MIN(w * WORD_BITS + (uint64_t)__builtin_ctzll(word), end);
}

static bool
is_written(const struct malloc_disk *disk, uint64_t chunk)
{
	uint64_t word = atomic_load_explicit(&words(disk)[chunk / WORD_BITS], memory_order_acquire);

	return (word >> (chunk % WORD_BITS) & 1) != 0;
}

static void
block_status(const struct malloc_disk *disk, struct bdev_io *io)
{
	uint64_t end_lba = io->lba + io->num_blocks, lba = io->lba;
	uint64_t end = ((end_lba - 1) >> disk->chunk_shift) + 1;
	uint64_t stop = (lba >> disk->chunk_shift) + (uint64_t)STATUS_WORDS * WORD_BITS;
	uint32_t n = 0;

	while (lba < end_lba && n < io->max_results && lba >> disk->chunk_shift < stop) {
		uint64_t chunk = lba >> disk->chunk_shift;
		uint64_t next = MIN(run_end(disk, chunk, end) << disk->chunk_shift, end_lba);

		io->extents[n++] = (struct bdev_extent){
			.num_blocks = next - lba,
			.flags = is_written(disk, chunk) ? BDEV_EXTENT_ALLOCATED : BDEV_EXTENT_ZERO,
		};
		lba = next;
	}
	io->result = n;
}

static bool
all_holes(const struct malloc_disk *disk, uint64_t lba, uint64_t num_blocks)
{
	uint64_t chunk = lba >> disk->chunk_shift;
	uint64_t end = ((lba + num_blocks - 1) >> disk->chunk_shift) + 1;

	return !is_written(disk, chunk) && run_end(disk, chunk, end) == end;
}

/* ---- Metadata ---- */

static void
invert(const struct malloc_disk *disk, uint8_t *md, uint64_t num_blocks)
{
	if (disk->dif.type == 0) {
		return;
	}
	md += disk->dif.pi_offset;
	for (uint64_t i = 0; i < num_blocks; i++, md += disk->dif.md_bytes) {
		for (unsigned k = 0; k < disk->dif.pi_bytes; k += 8) {
			uint64_t word;

			memcpy(&word, md + k, 8);
			word = ~word;
			memcpy(md + k, &word, 8);
		}
	}
}

static uint8_t *
md_at(const struct malloc_disk *disk, uint64_t lba)
{
	return disk->md.base + lba * disk->bdev.md_bytes;
}

static void
load_md(const struct malloc_disk *disk, uint64_t lba, uint64_t num_blocks, void *md)
{
	memcpy(md, md_at(disk, lba), num_blocks * disk->bdev.md_bytes);
	invert(disk, md, num_blocks);
}

static void
store_md(const struct malloc_disk *disk, uint64_t lba, uint64_t num_blocks, const void *md)
{
	memcpy(md_at(disk, lba), md, num_blocks * disk->bdev.md_bytes);
	invert(disk, md_at(disk, lba), num_blocks);
}

static void
copy_md(const struct malloc_disk *disk, uint64_t from, uint64_t to, uint64_t num_blocks)
{
	uint8_t md[DIF_MD_MAX];

	for (uint64_t i = 0; i < num_blocks; i++) {
		load_md(disk, from + i, 1, md);
		if (disk->dif.type != 0) {
			dif_remap(&disk->dif, md, 1, to - from);
		}
		store_md(disk, to + i, 1, md);
	}
}

/* ---- The operations ---- */

static uint8_t *
data_at(const struct bdev_channel *ch, const struct malloc_disk *disk, uint64_t lba)
{
	return disk->data.base + (lba << ch->block_size_shift);
}

void
malloc_forget(struct malloc_disk *disk, uint64_t lba, uint64_t num_blocks)
{
	mark_forgotten(disk, lba, num_blocks);
	region_clear(&disk->data, lba * disk->bdev.block_size, num_blocks * disk->bdev.block_size);
	if (disk->md.base != NULL) {
		region_clear(&disk->md, lba * disk->bdev.md_bytes, num_blocks * disk->bdev.md_bytes);
	}
}

static void
read_blocks(struct bdev_channel *ch, struct malloc_disk *disk, struct bdev_io *io)
{
	const uint8_t *p = data_at(ch, disk, io->lba);

	if (LIKELY(io->iovcnt == 1)) {
		/* It may be read in place (bdev_memory()). */
		if (io->iov->iov_base != p) {
			memcpy(io->iov->iov_base, p, io->num_blocks << ch->block_size_shift);
		}
	} else {
		iov_from_buf(io->iov, io->iovcnt, 0, p, io->num_blocks << ch->block_size_shift);
	}
	if (disk->md.base != NULL) {
		load_md(disk, io->lba, io->num_blocks, io->md);
	}
}

/* A disk that the cache does not hold anyway: writes go past it. */
static bool
streams(const struct bdev_channel *ch, uint64_t bytes)
{
	return ch->num_blocks << ch->block_size_shift > STREAM_DISK_BYTES && bytes >= STREAM_MIN_BYTES;
}

static void
write_list(const struct bdev_channel *ch, const struct bdev_io *io, uint8_t *p)
{
	for (unsigned i = 0; i < io->iovcnt; p += io->iov[i++].iov_len) {
		const struct iovec *v = &io->iov[i];

		/* It may be cut anywhere. */
		if (streams(ch, v->iov_len) && ((uintptr_t)p | v->iov_len) % COPY_LINE_BYTES == 0) {
			copy_past_cache(p, v->iov_base, v->iov_len);
		} else if (v->iov_len > 0) {
			memcpy(p, v->iov_base, v->iov_len);
		}
	}
}

static void
write_blocks(struct bdev_channel *ch, struct malloc_disk *disk, struct bdev_io *io)
{
	uint8_t *p = data_at(ch, disk, io->lba);

	if (LIKELY(io->iovcnt == 1)) {
		if (streams(ch, io->num_blocks << ch->block_size_shift)) {
			copy_past_cache(p, io->iov->iov_base, io->num_blocks << ch->block_size_shift);
		} else {
			memcpy(p, io->iov->iov_base, io->num_blocks << ch->block_size_shift);
		}
	} else {
		write_list(ch, io, p);
	}
	if (disk->md.base != NULL) {
		store_md(disk, io->lba, io->num_blocks, io->md);
	}
	mark_written(disk, io->lba, io->num_blocks);
}

/* False: there is more to do. io->result is how much has been done. */
static bool
copy_blocks(struct bdev_channel *ch, struct malloc_disk *disk, struct bdev_io *io)
{
	uint64_t n = MIN(io->num_blocks - io->result, COPY_STEP_BYTES >> ch->block_size_shift);
	uint64_t from = io->src_lba + io->result, to = io->lba + io->result;

	if (all_holes(disk, from, n) && disk->md.base == NULL) {
		malloc_forget(disk, to, n);
	} else {
		memcpy(data_at(ch, disk, to), data_at(ch, disk, from), n << ch->block_size_shift);
		if (disk->md.base != NULL) {
			copy_md(disk, from, to, n);
		}
		mark_written(disk, to, n);
	}
	io->result += n;
	return io->result == io->num_blocks;
}

static uint64_t
first_difference(const uint8_t *a, const uint8_t *b, uint64_t n)
{
	uint64_t k = 0;

	/* A guest may make them equal meanwhile: then it is the last. */
	while (k < n - 1 && a[k] == b[k]) {
		k++;
	}
	return k;
}

static int
compare_blocks(struct bdev_channel *ch, struct malloc_disk *disk, struct bdev_io *io)
{
	const uint8_t *have = data_at(ch, disk, io->lba);
	uint64_t offset = 0;

	for (unsigned i = 0; i < io->iovcnt; i++) {
		const uint8_t *want = io->iov[i].iov_base;

		if (io->iov[i].iov_len > 0 && memcmp(have + offset, want, io->iov[i].iov_len) != 0) {
			io->result = offset + first_difference(have + offset, want,
							       io->iov[i].iov_len);
			return -EILSEQ;
		}
		offset += io->iov[i].iov_len;
	}
	return 0;
}

/* False: there is more to do. */
static bool
perform(struct bdev_channel *ch, struct bdev_io *io, int *ret_status)
{
	struct malloc_disk *disk = malloc_disk(ch->bdev);

	switch (io->op) {
	case BDEV_READ:
		read_blocks(ch, disk, io);
		break;
	case BDEV_WRITE:
		write_blocks(ch, disk, io);
		break;
	case BDEV_UNMAP:
	case BDEV_WRITE_ZEROES:
		malloc_forget(disk, io->lba, io->num_blocks);
		break;
	case BDEV_COPY:
		return copy_blocks(ch, disk, io);
	case BDEV_COMPARE:
		*ret_status = compare_blocks(ch, disk, io);
		break;
	case BDEV_BLOCK_STATUS:
		block_status(disk, io);
		break;
	default:
		break; /* flush: nothing outlives the process */
	}
	return true;
}

/* ---- The queue ---- */

static struct bdev_io *
io_of(struct defer *d)
{
	return d == NULL ? NULL : CONTAINER_OF(d, struct bdev_io, defer);
}

static void
append(struct malloc_channel *mc, struct bdev_io *io)
{
	io->defer.next = NULL;
	if (mc->first == NULL) {
		mc->first = io;
	} else {
		mc->last->defer.next = &io->defer;
	}
	mc->last = io;
	mc->queued++;
}

/* Inlined by force: else the compiler finds that it has no effect, and drops the calls. */
static inline __attribute__((always_inline)) void
fetch_ahead(const struct bdev_channel *ch, const struct malloc_disk *disk, const struct bdev_io *io)
{
	const uint8_t *p;

	if (io->op > BDEV_WRITE) {
		return;
	}
	p = data_at(ch, disk, io->lba);
	if (io->op == BDEV_READ) {
		for (unsigned i = 0; i < LINES_AHEAD; i++) {
			__builtin_prefetch(p + i * CACHE_LINE_BYTES, 0);
		}
	} else if (!streams(ch, io->num_blocks << ch->block_size_shift)) {
		for (unsigned i = 0; i < LINES_AHEAD; i++) {
			__builtin_prefetch(p + i * CACHE_LINE_BYTES, 1);
		}
	}
}

/* What comes meanwhile waits for the end of the turn: who submits again when a request completes
 * starves nobody. */
static void
drain(struct defer *d)
{
	struct malloc_channel *mc = CONTAINER_OF(d, struct malloc_channel, drain);
	struct bdev_channel *ch = mc->ch;
	const struct malloc_disk *disk = malloc_disk(ch->bdev);

	for (unsigned n = mc->queued; n > 0; n--) {
		struct bdev_io *io = mc->first;
		int status = 0;

		mc->first = io_of(io->defer.next);
		mc->queued--;
		if (mc->first != NULL) {
			fetch_ahead(ch, disk, mc->first);
		}
		if (!perform(ch, io, &status)) {
			append(mc, io);
			io = NULL;
		}
		if (n == 1 && mc->first != NULL) {
			thread_batch(&mc->drain, drain);
		}
		if (io != NULL) {
			bdev_io_complete_now(io, status);
		}
	}
}

void
malloc_submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct malloc_channel *mc = ch->module_ctx;

	if (io->op == BDEV_COPY) {
		io->result = 0;
	}
	append(mc, io);
	if (mc->queued == 1) {
		thread_defer(&mc->drain, drain);
	}
}

int
malloc_channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct malloc_channel *mc = ch->module_ctx;

	mc->ch = ch;
	return 0;
}
