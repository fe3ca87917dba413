/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Metadata pages: gathered and written (md_tx), made of a blob (md_image), and both together in the usual way of changing
 * one blob (md_persist).
 *
 * Invariants
 *  1. No page is written while the super block says that the store is clean: the first md_tx of such a store writes the super
 *     block and flushes; those that come meanwhile wait behind it.
 *  2. A blob's pages but the first go to places that are in use by nobody; the first is in another md_tx, which is begun when
 *     they are on stable storage.
 *  3. A failure before the first page was given to the device leaves blob, store and disk as they were. Only when a commit's
 *     write failed the store is broken.
 *
 * Context: the owner.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blob/internal.h"

#define TX_SLOTS 16u     /* writes in flight */
#define TX_RUN_PAGES 64u /* of one write */

struct md_tx_page {
	uint32_t page;
	uint8_t *buf; /* md_page_bytes */
};

struct md_slot {
	struct md_slot *next;
	struct md_tx *tx;
	uint8_t *super; /* of the write of the super block */
	struct iovec iov[TX_RUN_PAGES];
	struct blob_dev_io io; /* and its room */
};

/* ---- Pages written together ---- */

static uint8_t *
page_buffer(const struct blob_store *store)
{
	size_t align = MAX((size_t)store->dev->buffer_align, (size_t)64);
	size_t bytes = (store->super.md_page_bytes + align - 1) / align * align;
	uint8_t *buf = aligned_alloc(align, bytes);

	if (buf != NULL) {
		memset(buf, 0, store->super.md_page_bytes);
	}
	return buf;
}

static uint64_t
page_blocks(const struct blob_store *store)
{
	return store->super.md_page_bytes >> store->block_shift;
}

static struct md_slot *
slot_create(struct md_tx *tx)
{
	size_t align = _Alignof(struct md_slot);
	size_t bytes = offsetof(struct md_slot, io) + tx->store->dev->io_bytes;
	struct md_slot *slot = aligned_alloc(align, (bytes + align - 1) / align * align);

	if (slot != NULL) {
		slot->tx = tx;
		slot->super = NULL;
	}
	return slot;
}

static void
slot_put(struct md_tx *tx, struct md_slot *slot)
{
	slot->next = tx->free_slots;
	tx->free_slots = slot;
}

static struct md_slot *
slot_get(struct md_tx *tx)
{
	struct md_slot *slot = tx->free_slots;

	if (slot != NULL) {
		tx->free_slots = slot->next;
	}
	return slot;
}

void
md_tx_init(struct md_tx *tx, struct blob_store *store)
{
	*tx = (struct md_tx){.store = store};
	list_init(&tx->link);
}

static void
forget_pages(struct md_tx *tx)
{
	for (unsigned i = 0; i < tx->count; i++) {
		free(tx->pages[i].buf);
	}
	tx->count = 0;
}

void
md_tx_release(struct md_tx *tx)
{
	struct md_slot *slot;

	while ((slot = slot_get(tx)) != NULL) {
		free(slot);
	}
	forget_pages(tx);
	free(tx->pages);
	tx->pages = NULL;
	tx->room = 0;
}

uint8_t *
md_tx_page(struct md_tx *tx, uint32_t page)
{
	struct md_tx_page *p;
	struct md_slot *slot;

	CHECK(page < tx->store->super.md.length);
	if (tx->count == tx->room) {
		unsigned room = tx->room == 0 ? 4 : tx->room * 2;

		p = realloc(tx->pages, room * sizeof(*p));
		if (p == NULL) {
			return NULL;
		}
		tx->pages = p;
		tx->room = room;
	}
	if (tx->free_slots == NULL) { /* one at least, so that what is gathered can be written */
		slot = slot_create(tx);
		if (slot == NULL) {
			return NULL;
		}
		slot_put(tx, slot);
	}
	p = &tx->pages[tx->count];
	p->page = page;
	p->buf = page_buffer(tx->store);
	if (p->buf == NULL) {
		return NULL;
	}
	tx->count++;
	return p->buf;
}

const uint8_t *
md_tx_bytes(const struct md_tx *tx, unsigned i)
{
	CHECK(i < tx->count);
	return tx->pages[i].buf;
}

static void
tx_finish(struct md_tx *tx)
{
	forget_pages(tx);
	tx->done(tx, tx->status);
}

static void
tx_finish_deferred(struct defer *d)
{
	tx_finish(CONTAINER_OF(d, struct md_tx, defer));
}

static void tx_go_on(struct md_tx *tx);

static void
slot_done(struct blob_dev_io *io, int status)
{
	struct md_slot *slot = CONTAINER_OF(io, struct md_slot, io);
	struct md_tx *tx = slot->tx;

	slot_put(tx, slot);
	tx->pending--;
	if (status != 0 && tx->status == 0) {
		tx->status = status;
	}
	tx_go_on(tx);
}

static void
slot_submit(struct md_slot *slot, enum blob_dev_op op, uint64_t lba, uint64_t num_blocks, int iovcnt)
{
	struct blob_store *store = slot->tx->store;

	slot->io.op = op;
	slot->io.lba = lba;
	slot->io.num_blocks = num_blocks;
	slot->io.iov = slot->iov;
	slot->io.iovcnt = iovcnt;
	slot->tx->pending++;
	blob_dev_submit(store->dev, store->dev_ch, &slot->io);
}

/* The next pages that follow each other on the device. */
static void
write_run(struct md_tx *tx, struct md_slot *slot)
{
	struct blob_store *store = tx->store;
	uint32_t first = tx->pages[tx->next].page;
	unsigned n = 0;

	do {
		slot->iov[n] = (struct iovec){tx->pages[tx->next].buf, store->super.md_page_bytes};
		tx->next++;
		n++;
	} while (tx->next < tx->count && n < TX_RUN_PAGES && tx->pages[tx->next].page == first + n);
	CHECK(tx->next == tx->count || tx->pages[tx->next].page >= first + n); /* none twice */
	tx->wrote = true;
	slot->io.done = slot_done;
	slot_submit(slot, BLOB_DEV_WRITE, ((uint64_t)store->super.md.start + first) * page_blocks(store),
		    n * page_blocks(store), (int)n);
}

static void
tx_go_on(struct md_tx *tx)
{
	struct md_slot *slot;

	while (tx->status == 0 && tx->next < tx->count && tx->pending < TX_SLOTS) {
		slot = slot_get(tx);
		if (slot == NULL) {
			slot = slot_create(tx);
		}
		if (slot == NULL) {
			CHECK(tx->pending > 0); /* md_tx_page() saw to it; there are as many as were made */
			return;
		}
		write_run(tx, slot);
	}
	if (tx->pending > 0) {
		return;
	}
	if (tx->status == 0 && tx->flush && tx->store->dev->write_cache) {
		tx->flush = false;
		slot = slot_get(tx);
		slot->io.done = slot_done;
		slot_submit(slot, BLOB_DEV_FLUSH, 0, 0, 0);
		return;
	}
	tx_finish(tx);
}

static void
unclean_done(struct blob_store *store, int status)
{
	struct list waiters;
	struct md_tx *tx;

	if (status == 0) {
		store->clean_on_disk = false;
	}
	store->clean_doubtful = status != 0;
	list_init(&waiters);
	list_splice(&waiters, &store->md_waiters);
	while (!list_empty(&waiters)) {
		tx = LIST_FIRST(&waiters, struct md_tx, link);
		list_remove(&tx->link);
		tx->status = status;
		tx_go_on(tx);
	}
}

static void
super_flushed(struct blob_dev_io *io, int status)
{
	struct md_slot *slot = CONTAINER_OF(io, struct md_slot, io);
	struct md_tx *tx = slot->tx;

	free(slot->super);
	slot->super = NULL;
	slot_put(tx, slot);
	tx->pending--;
	unclean_done(tx->store, status);
}

static void
super_written(struct blob_dev_io *io, int status)
{
	struct md_slot *slot = CONTAINER_OF(io, struct md_slot, io);

	if (status != 0 || !slot->tx->store->dev->write_cache) {
		super_flushed(io, status);
		return;
	}
	slot->tx->pending--;
	slot->io.done = super_flushed;
	slot_submit(slot, BLOB_DEV_FLUSH, 0, 0, 0);
}

/* The first write of a store that the disk says is clean. */
static void
mark_unclean(struct md_tx *tx)
{
	struct blob_store *store = tx->store;
	struct blob_super super = store->super;
	struct md_slot *slot;
	bool first = list_empty(&store->md_waiters);

	if (first) {
		list_init(&store->md_waiters);
	}
	list_append(&store->md_waiters, &tx->link);
	if (!first) {
		return;
	}
	slot = slot_get(tx);
	slot->super = page_buffer(store);
	if (slot->super == NULL) {
		slot_put(tx, slot);
		list_remove(&tx->link);
		tx->status = -ENOMEM;
		thread_defer(&tx->defer, tx_finish_deferred);
		return;
	}
	super.clean = false;
	blob_super_encode(&super, slot->super);
	slot->iov[0] = (struct iovec){slot->super, store->super.md_page_bytes};
	slot->io.done = super_written;
	slot_submit(slot, BLOB_DEV_WRITE, 0, page_blocks(store), 1);
}

static int
compare_pages(const void *a, const void *b)
{
	uint32_t x = ((const struct md_tx_page *)a)->page, y = ((const struct md_tx_page *)b)->page;

	return (x > y) - (x < y);
}

void
md_tx_write(struct md_tx *tx, bool flush, void (*done)(struct md_tx *tx, int status))
{
	CHECK(tx->pending == 0);
	tx->done = done;
	tx->flush = flush;
	tx->wrote = false;
	tx->status = 0;
	tx->next = 0;
	if (tx->free_slots == NULL) {
		struct md_slot *slot = slot_create(tx);

		if (slot == NULL) {
			tx->status = -ENOMEM;
			thread_defer(&tx->defer, tx_finish_deferred);
			return;
		}
		slot_put(tx, slot);
	}
	if (tx->count == 0 && !(flush && tx->store->dev->write_cache)) {
		thread_defer(&tx->defer, tx_finish_deferred);
		return;
	}
	if (tx->count > 1) {
		qsort(tx->pages, tx->count, sizeof(*tx->pages), compare_pages);
	}
	if (tx->count > 0 && tx->store->clean_on_disk) {
		mark_unclean(tx);
		return;
	}
	tx_go_on(tx);
}

/* ---- Xattrs ---- */

struct blob_own_xattr *
own_xattr_create(bool internal, const char *name, size_t name_bytes, const void *value, size_t bytes)
{
	struct blob_own_xattr *x = calloc(1, sizeof(*x));

	if (x == NULL) {
		return NULL;
	}
	list_init(&x->link);
	x->internal = internal;
	x->bytes = (uint16_t)bytes;
	x->name = strndup(name, name_bytes);
	x->value = malloc(bytes + 1);
	if (x->name == NULL || x->value == NULL) {
		own_xattr_free(x);
		return NULL;
	}
	if (bytes > 0) {
		memcpy(x->value, value, bytes);
	}
	return x;
}

void
own_xattr_free(struct blob_own_xattr *x)
{
	if (x == NULL) {
		return;
	}
	list_remove(&x->link);
	free(x->name);
	free(x->value);
	free(x);
}

void
own_xattrs_free(struct list *xattrs)
{
	while (!list_empty(xattrs)) {
		own_xattr_free(LIST_FIRST(xattrs, struct blob_own_xattr, link));
	}
}

struct blob_own_xattr *
own_xattr_find(const struct list *xattrs, bool internal, const char *name)
{
	struct blob_own_xattr *x;

	if (list_empty(xattrs)) {
		return NULL;
	}
	LIST_FOREACH(x, xattrs, link) {
		if (x->internal == internal && strcmp(x->name, name) == 0) {
			return x;
		}
	}
	return NULL;
}

uint64_t
own_xattr_id(const struct list *xattrs, const char *name)
{
	const struct blob_own_xattr *x = own_xattr_find(xattrs, true, name);
	uint64_t id;

	if (x == NULL || x->bytes != sizeof(id)) {
		return BLOB_ID_NONE;
	}
	memcpy(&id, x->value, sizeof(id));
	return id;
}

/* ---- A blob's metadata as it shall be ---- */

int
md_image_init(struct md_image *image, struct blob *blob)
{
	const struct blob_own_xattr *x;
	struct blob_own_xattr *copy;

	*image = (struct md_image){.blob = blob, .flags = blob->flags};
	image->map = atomic_load_explicit(&blob->head.map, memory_order_relaxed);
	list_init(&image->xattrs);
	if (list_empty(&blob->xattrs)) {
		return 0;
	}
	LIST_FOREACH(x, &blob->xattrs, link) {
		copy = own_xattr_create(x->internal, x->name, strlen(x->name), x->value, x->bytes);
		if (copy == NULL) {
			own_xattrs_free(&image->xattrs);
			return -ENOMEM;
		}
		list_append(&image->xattrs, &copy->link);
	}
	return 0;
}

void
md_image_release(struct md_image *image)
{
	if (image->blob == NULL) {
		return;
	}
	for (uint32_t i = 0; i < image->num_new_pages; i++) {
		alloc_free_page(image->blob->store, image->new_pages[i + 1]);
	}
	free(image->new_pages);
	own_xattrs_free(&image->xattrs);
	*image = (struct md_image){0};
}

int
md_image_set_xattr(struct md_image *image, bool internal, const char *name, const void *value, size_t bytes)
{
	struct blob_own_xattr *old = own_xattr_find(&image->xattrs, internal, name);
	struct blob_own_xattr *x;

	if (strlen(name) + bytes > BLOB_XATTR_BYTES_MAX) {
		return -EMSGSIZE;
	}
	x = own_xattr_create(internal, name, strlen(name), value, bytes);
	if (x == NULL) {
		return -ENOMEM;
	}
	if (old != NULL) {
		list_insert_before(&old->link, &x->link);
		own_xattr_free(old);
	} else {
		list_append(&image->xattrs, &x->link);
	}
	return 0;
}

void
md_image_remove_xattr(struct md_image *image, bool internal, const char *name)
{
	own_xattr_free(own_xattr_find(&image->xattrs, internal, name));
}

/* ---- To pages ---- */

struct chain {
	struct md_image *image;
	struct md_tx *body;
	struct blob_page_writer w;
	uint32_t sequence;
	int status;
};

/* Ends the page and begins another. */
static bool
chain_add_page(struct chain *c)
{
	struct md_image *image = c->image;
	uint32_t page;
	uint32_t *pages;
	uint8_t *buf;

	pages = realloc(image->new_pages, (image->num_new_pages + 2) * sizeof(*pages));
	if (pages == NULL) {
		c->status = -ENOMEM;
		return false;
	}
	image->new_pages = pages;
	page = alloc_page(image->blob->store);
	if (page == BLOB_PAGE_NONE) {
		c->status = -ENOSPC;
		return false;
	}
	pages[++image->num_new_pages] = page;
	buf = md_tx_page(c->body, page);
	if (buf == NULL) {
		c->status = -ENOMEM;
		return false;
	}
	blob_page_end(&c->w, image->blob->id, c->sequence++, page);
	blob_page_begin(&c->w, buf);
	return true;
}

static bool
put_xattrs(struct chain *c, bool internal)
{
	const struct blob_own_xattr *x;

	LIST_FOREACH(x, &c->image->xattrs, link) {
		uint16_t name_bytes = (uint16_t)strlen(x->name);

		if (x->internal != internal || blob_put_xattr(&c->w, internal, x->name, name_bytes, x->value, x->bytes)) {
			continue;
		}
		if (!chain_add_page(c)) {
			return false;
		}
		if (!blob_put_xattr(&c->w, internal, x->name, name_bytes, x->value, x->bytes)) {
			c->status = -EMSGSIZE;
			return false;
		}
	}
	return true;
}

static uint32_t
table_entry(const struct blob_map *map, uint64_t i)
{
	const struct blob_extent *e = atomic_load_explicit(&map->extents[i], memory_order_relaxed);

	return e == NULL ? 0 : e->page;
}

static uint32_t
cluster_entry(const struct blob_map *map, uint64_t i)
{
	const struct blob_extent *e = atomic_load_explicit(&map->extents[i / BLOB_EXTENT_CLUSTERS], memory_order_relaxed);
	uint32_t entry = e == NULL ? 0 : atomic_load_explicit(&e->cluster[i % BLOB_EXTENT_CLUSTERS], memory_order_acquire);

	return entry == BLOB_CLUSTER_BUSY ? 0 : entry;
}

#define PAGE_RUNS 512u /* more than one page has room for */

/* The runs from `from` on; *from is not changed. */
static uint32_t
gather_runs(const struct blob_map *map, bool table, uint64_t from, struct blob_run *runs)
{
	uint64_t end = table ? map->num_extents : map->num_clusters;
	uint32_t n = 0;

	for (uint64_t i = from; i < end && n < PAGE_RUNS; n++) {
		uint32_t entry = table ? table_entry(map, i) : cluster_entry(map, i);
		uint32_t length = 1;

		for (i++; i < end && length < UINT32_MAX && (entry == 0 || !table); i++, length++) {
			uint32_t next = table ? table_entry(map, i) : cluster_entry(map, i);

			if (next != (entry == 0 ? 0 : entry + length)) {
				break;
			}
		}
		runs[n] = (struct blob_run){entry, length};
	}
	return n;
}

static bool
put_extents(struct chain *c)
{
	const struct blob_map *map = c->image->map;
	bool table = (c->image->flags.invalid & BLOB_INVALID_EXTENT_TABLE) != 0;
	uint64_t end = table ? map->num_extents : map->num_clusters;
	struct blob_run runs[PAGE_RUNS];
	uint64_t at = 0;
	uint32_t n, put;

	if (table && end == 0) { /* one without entries */
		while (BLOB_DESCRIPTOR_BYTES - c->w.used < 16) {
			if (!chain_add_page(c)) {
				return false;
			}
		}
		blob_put_extent_table(&c->w, map->num_clusters, runs, 0);
		return true;
	}
	while (at < end) {
		n = gather_runs(map, table, at, runs);
		put = table ? blob_put_extent_table(&c->w, map->num_clusters, runs, n) : blob_put_extent_rle(&c->w, runs, n);
		for (uint32_t i = 0; i < put; i++) {
			at += runs[i].length;
		}
		if (at < end && !chain_add_page(c)) {
			return false;
		}
	}
	return true;
}

int
md_image_put(struct md_image *image, struct md_tx *body, struct md_tx *commit)
{
	struct chain c = {.image = image, .body = body};
	const struct blob_own_xattr *x;
	uint8_t *first;

	CHECK(body != commit && image->new_pages == NULL);
	image->flags.invalid &= ~BLOB_INVALID_INTERNAL_XATTR;
	LIST_FOREACH(x, &image->xattrs, link) {
		if (x->internal) {
			image->flags.invalid |= BLOB_INVALID_INTERNAL_XATTR;
		}
	}
	image->new_pages = malloc(sizeof(*image->new_pages));
	first = md_tx_page(commit, (uint32_t)(image->blob->id - BLOB_ID_BASE));
	if (image->new_pages == NULL || first == NULL) {
		return -ENOMEM;
	}
	image->new_pages[0] = (uint32_t)(image->blob->id - BLOB_ID_BASE);
	blob_page_begin(&c.w, first);
	CHECK(blob_put_flags(&c.w, &image->flags));
	if (!put_xattrs(&c, false) || !put_xattrs(&c, true) || !put_extents(&c)) {
		return c.status;
	}
	blob_page_end(&c.w, image->blob->id, c.sequence, BLOB_PAGE_NONE);
	return 0;
}

void
md_image_apply(struct md_image *image)
{
	struct blob *blob = image->blob;

	CHECK(image->new_pages != NULL); /* md_image_put() was there */
	for (uint32_t i = 1; i < blob->num_pages; i++) {
		alloc_free_page(blob->store, blob->pages[i]);
	}
	free(blob->pages);
	blob->pages = image->new_pages;
	blob->num_pages = image->num_new_pages + 1;
	image->new_pages = NULL;
	image->num_new_pages = 0;
	blob->flags = image->flags;
	own_xattrs_free(&blob->xattrs);
	list_init(&blob->xattrs);
	list_splice(&blob->xattrs, &image->xattrs);
}

int
md_put_extent_of(struct md_tx *tx, uint64_t blob_id, uint64_t num_clusters, const struct blob_extent *e, uint64_t index,
		 uint32_t page)
{
	uint64_t start = index * BLOB_EXTENT_CLUSTERS;
	uint32_t n = (uint32_t)MIN(num_clusters - start, (uint64_t)BLOB_EXTENT_CLUSTERS);
	uint32_t clusters[BLOB_EXTENT_CLUSTERS];
	struct blob_page_writer w;
	uint8_t *buf = md_tx_page(tx, page);

	CHECK(start < num_clusters);
	if (buf == NULL) {
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < n; i++) {
		clusters[i] = atomic_load_explicit(&e->cluster[i], memory_order_acquire);
		if (clusters[i] == BLOB_CLUSTER_BUSY) {
			clusters[i] = 0;
		}
	}
	blob_page_begin(&w, buf);
	blob_put_extent_page(&w, (uint32_t)start, clusters, n);
	blob_page_end(&w, blob_id, 0, BLOB_PAGE_NONE);
	return 0;
}

int
md_put_extent(struct md_tx *tx, const struct blob *blob, const struct blob_extent *e, uint64_t index, uint32_t page)
{
	const struct blob_map *map = atomic_load_explicit(&blob->head.map, memory_order_relaxed);

	return md_put_extent_of(tx, blob->id, map->num_clusters, e, index, page);
}

/* ---- The usual change of one blob ---- */

int
md_persist_init(struct md_persist *p, struct blob *blob)
{
	*p = (struct md_persist){0};
	md_tx_init(&p->body, blob->store);
	md_tx_init(&p->commit, blob->store);
	return md_image_init(&p->image, blob);
}

void
md_persist_release(struct md_persist *p)
{
	md_image_release(&p->image);
	md_tx_release(&p->body);
	md_tx_release(&p->commit);
}

static void
persist_answer(struct defer *d)
{
	struct md_persist *p = CONTAINER_OF(d, struct md_persist, defer);

	p->done(p, p->status);
}

static void
persist_committed(struct md_tx *tx, int status)
{
	struct md_persist *p = CONTAINER_OF(tx, struct md_persist, commit);

	if (status == 0) {
		md_image_apply(&p->image);
	} else if (tx->wrote) {
		store_break(tx->store, status, "a blob's first metadata page");
	}
	p->done(p, status);
}

static void
persist_body_written(struct md_tx *tx, int status)
{
	struct md_persist *p = CONTAINER_OF(tx, struct md_persist, body);

	if (status != 0) {
		p->done(p, status);
		return;
	}
	md_tx_write(&p->commit, true, persist_committed);
}

void
md_persist_run(struct md_persist *p, void (*done)(struct md_persist *p, int status))
{
	p->done = done;
	p->status = md_image_put(&p->image, &p->body, &p->commit);
	if (p->status != 0) {
		thread_defer(&p->defer, persist_answer);
	} else if (p->body.count > 0 || p->flush_first) {
		md_tx_write(&p->body, true, persist_body_written);
	} else {
		md_tx_write(&p->commit, true, persist_committed);
	}
}
