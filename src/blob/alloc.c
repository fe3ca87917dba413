/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who has which cluster and metadata page: bits in use, and how many clusters are left.
 *
 * A cluster is taken in two steps, neither of which takes a lock: reserving counts it off free_clusters, so that somebody who
 * needs several, or has much to do before he needs it, knows that he will get it; taking sets a bit.
 *
 * Invariants
 *  1. The clear bits are at least as many as free_clusters and what is reserved together: a bit is cleared before
 *     free_clusters is raised, and lowered before it is set. So alloc_take() always finds one, though it may have to look again.
 *  2. spans[i] is how many bits are clear of the i-th 4096 clusters, give or take those that somebody is just changing; a full
 *     span is not searched. It is lowered after a bit was set, raised after one was cleared and before free_clusters is: what
 *     is reserved is in some span.
 *  3. Words and spans have room for the most clusters that the layout allows: a store grows under the hands of those who take.
 *
 * Where: right behind `near` when that is free; else at the start of eight free ones, so that who writes on finds the next one
 * free; when there are none nearby, any. `next_cluster` is where others looked last: only a hint.
 *
 * Contexts: any thread takes clusters and puts them back; everything else is the owner's.
 */
#include <errno.h>
#include <stdlib.h>

#include "blob/internal.h"

#define SPAN_WORDS 64u
#define SPAN_CLUSTERS (SPAN_WORDS * 64u)
#define ROOMY_WORDS 32u /* looked at for eight free clusters together */

/* ---- Bits ---- */

int
bits_init(struct blob_bits *bits, uint64_t count)
{
	bits->words = calloc(count / 64 + 1, sizeof(*bits->words));
	if (bits->words == NULL) {
		return -ENOMEM;
	}
	bits->count = count;
	bits->room = count;
	return 0;
}

int
bits_resize(struct blob_bits *bits, uint64_t count)
{
	_Atomic uint64_t *words;

	if (count > bits->room) {
		words = calloc(count / 64 + 1, sizeof(*words));
		if (words == NULL) {
			return -ENOMEM;
		}
		for (uint64_t i = 0; i <= bits->room / 64; i++) {
			words[i] = atomic_load_explicit(&bits->words[i], memory_order_relaxed);
		}
		free((void *)bits->words);
		bits->words = words;
		bits->room = count;
	}
	atomic_store_explicit(&bits->count, count, memory_order_release);
	return 0;
}

void
bits_release(struct blob_bits *bits)
{
	free((void *)bits->words);
	*bits = (struct blob_bits){0};
}

bool
bits_set(struct blob_bits *bits, uint64_t i)
{
	uint64_t bit = UINT64_C(1) << (i % 64);

	return (atomic_fetch_or_explicit(&bits->words[i / 64], bit, memory_order_acq_rel) & bit) != 0;
}

void
bits_clear(struct blob_bits *bits, uint64_t i)
{
	atomic_fetch_and_explicit(&bits->words[i / 64], ~(UINT64_C(1) << (i % 64)), memory_order_acq_rel);
}

/* The clear bits of a word, of those that count. */
static uint64_t
clear_bits(const struct blob_bits *bits, uint64_t word)
{
	uint64_t count = atomic_load_explicit(&bits->count, memory_order_acquire);
	uint64_t clear = ~atomic_load_explicit(&bits->words[word], memory_order_relaxed);

	if ((word + 1) * 64 > count) {
		clear = word * 64 >= count ? 0 : clear & ((UINT64_C(1) << (count % 64)) - 1);
	}
	return clear;
}

static uint64_t
count_clear(const struct blob_bits *bits)
{
	uint64_t n = 0;

	for (uint64_t i = 0; i <= bits->count / 64; i++) {
		n += (uint64_t)__builtin_popcountll(clear_bits(bits, i));
	}
	return n;
}

/* ---- Clusters ---- */

int
alloc_init(struct blob_store *store)
{
	uint64_t spans = store->clusters.room / SPAN_CLUSTERS + 1;
	uint64_t used_pages = 0;

	store->spans = calloc(spans, sizeof(*store->spans));
	if (store->spans == NULL || limbo_init(store) != 0) {
		return -ENOMEM;
	}
	for (uint64_t i = 0; i <= store->clusters.count / 64; i++) {
		store->spans[i / SPAN_WORDS] += (uint32_t)__builtin_popcountll(clear_bits(&store->clusters, i));
	}
	atomic_store(&store->free_clusters, count_clear(&store->clusters));
	atomic_store(&store->next_cluster, blob_super_md_clusters(&store->super));
	for (uint64_t i = 1; i < store->pages.count; i++) {
		used_pages += bits_get(&store->pages, i);
	}
	store->free_pages = (uint32_t)(store->pages.count - 1 - used_pages);
	store->next_page = 1;
	return 0;
}

void
alloc_release(struct blob_store *store)
{
	limbo_release(store);
	free((void *)store->spans);
	store->spans = NULL;
}

void
alloc_grow(struct blob_store *store, uint64_t total_clusters)
{
	uint64_t had = store->clusters.count;

	CHECK(total_clusters >= had && total_clusters <= store->clusters.room);
	CHECK(bits_resize(&store->clusters, total_clusters) == 0); /* there is room */
	for (uint64_t i = had; i < total_clusters;) {
		uint64_t n = MIN(total_clusters, (i / SPAN_CLUSTERS + 1) * SPAN_CLUSTERS) - i;

		atomic_fetch_add_explicit(&store->spans[i / SPAN_CLUSTERS], (uint32_t)n, memory_order_relaxed);
		i += n;
	}
	atomic_fetch_add_explicit(&store->free_clusters, total_clusters - had, memory_order_release);
}

int
alloc_reserve(struct blob_store *store, uint64_t count)
{
	uint64_t left = atomic_load_explicit(&store->free_clusters, memory_order_relaxed);

	do {
		if (left < count) {
			return -ENOSPC;
		}
	} while (!atomic_compare_exchange_weak_explicit(&store->free_clusters, &left, left - count, memory_order_acquire,
							memory_order_relaxed));
	return 0;
}

void
alloc_unreserve(struct blob_store *store, uint64_t count)
{
	atomic_fetch_add_explicit(&store->free_clusters, count, memory_order_release);
}

static bool
take(struct blob_store *store, uint64_t cluster)
{
	if (bits_set(&store->clusters, cluster)) {
		return false;
	}
	atomic_fetch_sub_explicit(&store->spans[cluster / SPAN_CLUSTERS], 1, memory_order_relaxed);
	return true;
}

/* The first of eight free clusters that share a byte; 64: there are none in this word. */
static unsigned
free_byte(uint64_t clear)
{
	for (unsigned i = 0; i < 64; i += 8) {
		if ((clear >> i & 0xff) == 0xff) {
			return i;
		}
	}
	return 64;
}

/* Takes one from [first, end) of the words, one with free neighbours or any; 0: none. */
static uint32_t
take_from(struct blob_store *store, uint64_t first, uint64_t end, bool roomy)
{
	for (uint64_t w = first; w < end; w++) {
		uint64_t clear;

		if (atomic_load_explicit(&store->spans[w / SPAN_WORDS], memory_order_relaxed) == 0) {
			w |= SPAN_WORDS - 1; /* the last of a full span */
			continue;
		}
		while ((clear = clear_bits(&store->clusters, w)) != 0) {
			unsigned bit = roomy ? free_byte(clear) : (unsigned)__builtin_ctzll(clear);

			if (bit == 64) {
				break;
			}
			if (take(store, w * 64 + bit)) {
				atomic_store_explicit(&store->next_cluster, w * 64 + bit + (roomy ? 8 : 1),
						      memory_order_relaxed);
				return (uint32_t)(w * 64 + bit);
			}
		}
	}
	return 0;
}

uint32_t
alloc_take(struct blob_store *store, uint32_t near)
{
	uint64_t count = atomic_load_explicit(&store->clusters.count, memory_order_acquire);
	uint64_t words = count / 64 + 1, hint;
	uint32_t cluster;

	if (near != 0 && (uint64_t)near + 1 < count && !bits_get(&store->clusters, (uint64_t)near + 1) &&
	    take(store, (uint64_t)near + 1)) {
		return near + 1;
	}
	hint = atomic_load_explicit(&store->next_cluster, memory_order_relaxed) / 64;
	if (hint >= words) {
		hint = 0;
	}
	cluster = take_from(store, hint, MIN(words, hint + ROOMY_WORDS), true);
	while (cluster == 0) { /* somebody else took it under our nose: another one became free where we have been */
		cluster = take_from(store, hint, words, false);
		if (cluster == 0) {
			words = atomic_load_explicit(&store->clusters.count, memory_order_acquire) / 64 + 1;
			cluster = take_from(store, 0, words, false);
		}
	}
	return cluster;
}

void
alloc_put_back(struct blob_store *store, uint32_t cluster)
{
	CHECK(bits_get(&store->clusters, cluster));
	bits_clear(&store->clusters, cluster);
	atomic_fetch_add_explicit(&store->spans[cluster / SPAN_CLUSTERS], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&store->free_clusters, 1, memory_order_release);
}

void
alloc_put_back_extent(struct blob_store *store, const struct blob_extent *e, uint64_t from)
{
	for (uint64_t k = from; k < BLOB_EXTENT_CLUSTERS; k++) {
		uint32_t cluster = atomic_load_explicit(&e->cluster[k], memory_order_relaxed);

		if (cluster != 0) {
			alloc_put_back(store, cluster);
		}
	}
	if (e->page != 0) {
		alloc_free_page(store, e->page);
	}
}

/* ---- The watermark ---- */

void
alloc_watch(struct blob_store *store)
{
	uint64_t left = atomic_load_explicit(&store->free_clusters, memory_order_relaxed);
	uint64_t mark = store->data_clusters / 100 * store->low_percent + store->data_clusters % 100 * store->low_percent / 100;

	if (!store->low && left < mark) {
		store->low = true;
		store_event(store, BLOB_STORE_LOW);
	} else if (store->low && left >= mark + mark / 16) { /* not for every cluster that comes and goes at the mark */
		store->low = false;
		store_event(store, BLOB_STORE_LOW_ENDS);
	}
	cow_space(store);
	while (!list_empty(&store->space_waiters)) {
		struct md_op *op = LIST_FIRST(&store->space_waiters, struct md_op, link);

		list_remove(&op->link);
		md_op_start(store, op, op->name, op->run);
	}
}

void
alloc_giving_begin(struct blob_store *store)
{
	atomic_fetch_add(&store->giving, 1);
}

void
alloc_giving_end(struct blob_store *store)
{
	CHECK(atomic_load(&store->giving) > 0);
	if (atomic_fetch_sub(&store->giving, 1) == 1) {
		alloc_watch(store);
		merge_space(store);
	}
}

void
alloc_retry(struct md_op *op)
{
	struct blob_store *store = op->store;

	md_op_end(op);
	list_append(&store->space_waiters, &op->link);
}

/* ---- Metadata pages (owner) ---- */

uint32_t
alloc_page(struct blob_store *store)
{
	uint64_t words = store->pages.count / 64 + 1;

	for (uint64_t w = store->next_page / 64; store->free_pages > 0 && w < words; w++) {
		uint64_t clear = clear_bits(&store->pages, w) & (w == 0 ? ~UINT64_C(1) : ~UINT64_C(0));

		if (clear != 0) {
			uint32_t page = (uint32_t)(w * 64) + (uint32_t)__builtin_ctzll(clear);

			bits_set(&store->pages, page);
			store->free_pages--;
			store->next_page = page + 1;
			return page;
		}
	}
	return BLOB_PAGE_NONE;
}

void
alloc_free_page(struct blob_store *store, uint32_t page)
{
	CHECK(page < store->pages.count && bits_get(&store->pages, page));
	bits_clear(&store->pages, page);
	if (page != 0) {
		store->free_pages++;
		store->next_page = MIN(store->next_page, page); /* the lowest go first: metadata stays together */
	}
}
