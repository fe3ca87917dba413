/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Loading a store: the super block, the masks, then all metadata pages in use, each read once, in large requests of which
 * several are under way; then blobs are made of them (parse.c) and brought together (recover.c).
 *
 * Invariants
 *  1. The masks are believed only when the super block says that the store is clean, and only to find pages: what blobs have
 *     is in use, whatever the masks say. When they lead nowhere, the whole region is read as if the store were not clean.
 *  2. Pages are kept only as long as blobs are made of them; of a whole region only those that hold something.
 *  3. Nothing is written, but for what recovery has to bring to the disk before anything else changes (recover_write()).
 *  4. Blobs are made some at a time, so that others' turns come in between.
 * Context: the thread that becomes the owner.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "blob/open_internal.h"

#define READERS 8u
#define GAP_PAGES 8u     /* pages that nobody needs, read along rather than making two requests */
#define SLAB_PAGES 256u
#define BLOBS_A_TURN 128u

struct slab {
	struct slab *next;
	uint32_t used;
	uint8_t *memory; /* SLAB_PAGES pages, mapped: it goes back to the system when they are not needed any more */
};

struct load {
	struct opening opening;
	struct defer defer;
	struct md_pages pages;
	struct slab *slabs;
	bool whole; /* the masks are not to be believed */
	bool again;
	uint32_t next_page;
	unsigned reading;
	int read_status;
	uint32_t next_blob;
};

static struct load *
load_of(struct steps *s)
{
	return CONTAINER_OF(s, struct load, opening.steps);
}

static void
step_done(struct load *l, int status)
{
	opening_step_done(&l->opening, status);
}

/* ---- The super block and the masks ---- */

static int
read_super(struct steps *s)
{
	struct blob_store *store = load_of(s)->opening.store;
	size_t bytes = MAX(BLOB_PAGE_BYTES, store->dev->block_size);

	if (store->dev->num_blocks << store->block_shift < bytes) {
		return err_set(&s->err, -EINVAL, "%s has less than %zu bytes", store->dev->name, bytes);
	}
	return opening_read_super(s);
}

static int
check_super(struct steps *s)
{
	struct load *l = load_of(s);
	struct blob_store *store = l->opening.store;
	const char *wanted = store->options.type;
	int rc = blob_super_decode(l->opening.io->buf, &store->super, &s->err);

	if (rc == 0) {
		rc = blob_super_fits(&store->super, store->dev->num_blocks << store->block_shift, &s->err);
	}
	if (rc != 0) {
		return rc;
	}
	if (wanted[0] != '\0' && strncmp(store->super.type, wanted, BLOB_TYPE_BYTES) != 0) {
		return err_set(&s->err, -EINVAL, "the blobstore on %s is of type \"%.16s\", not \"%.16s\"", store->dev->name,
			       store->super.type, wanted);
	}
	store->clean_on_disk = store->super.clean;
	l->whole = !store->super.clean || store->super.blobid_mask.length == 0;
	return store_set_geometry(store, &s->err);
}

static void
forget_bits(struct blob_bits *bits)
{
	for (uint64_t i = 0; i <= bits->room / 64; i++) {
		atomic_store_explicit(&bits->words[i], 0, memory_order_relaxed);
	}
}

/* A mask that is not what it should be: everything is read. Clusters that it named stay in use. */
static void
masks_done(void *ctx, int status)
{
	struct load *l = ctx;

	if (status == -EILSEQ) {
		l->whole = true;
		status = 0;
	}
	step_done(l, status);
}

static int
read_masks(struct steps *s)
{
	struct load *l = load_of(s);

	if (l->whole) {
		return 0;
	}
	masks_read(l->opening.store, masks_done, l);
	return STEPS_WAIT;
}

/* ---- Pages ---- */

static uint8_t *
page_memory(struct load *l)
{
	struct slab *slab = l->slabs;

	if (slab == NULL || slab->used == SLAB_PAGES) {
		slab = malloc(sizeof(*slab));
		if (slab == NULL) {
			return NULL;
		}
		slab->memory = mmap(NULL, SLAB_PAGES * BLOB_PAGE_BYTES, PROT_READ | PROT_WRITE,
				    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (slab->memory == MAP_FAILED) {
			free(slab);
			return NULL;
		}
		slab->used = 0;
		slab->next = l->slabs;
		l->slabs = slab;
	}
	return slab->memory + (size_t)slab->used++ * BLOB_PAGE_BYTES;
}

static void
forget_pages(struct load *l)
{
	while (l->slabs != NULL) {
		struct slab *slab = l->slabs;

		l->slabs = slab->next;
		munmap(slab->memory, SLAB_PAGES * BLOB_PAGE_BYTES);
		free(slab);
	}
	bits_release(&l->pages.chains);
	free(l->pages.page);
	free(l->pages.extents);
	l->pages = (struct md_pages){0};
}

static bool
wanted(const struct load *l, uint32_t page)
{
	return l->whole || bits_get(&l->opening.store->pages, page);
}

/* Whether the page may be of use. One whose checksum is wrong is, when it says that it is the first of a blob: damaged, not
 * gone. */
static bool
holds_something(const uint8_t *bytes, uint32_t page)
{
	struct blob_page decoded;
	uint64_t id;

	memcpy(&id, bytes, sizeof(id));
	return id == BLOB_ID_BASE + page || (id != 0 && blob_page_decode(bytes, &decoded) == 0);
}

static int
keep(struct load *l, uint32_t page, const uint8_t *bytes)
{
	if (!wanted(l, page) || !holds_something(bytes, page)) {
		return 0;
	}
	l->pages.page[page] = page_memory(l);
	if (l->pages.page[page] == NULL) {
		return -ENOMEM;
	}
	memcpy(l->pages.page[page], bytes, BLOB_PAGE_BYTES);
	return 0;
}

static void read_more(struct load *l, struct store_io *io);

static void
run_read(struct store_io *io, int status)
{
	struct load *l = io->ctx;
	uint32_t page_bytes = l->opening.store->super.md_page_bytes;
	uint32_t n = (uint32_t)(io->iov.iov_len / page_bytes);

	for (uint32_t i = 0; i < n && status == 0; i++) {
		status = keep(l, (uint32_t)io->at + i, io->buf + (size_t)i * page_bytes);
	}
	if (status != 0 && l->read_status == 0) {
		l->read_status = status;
	}
	read_more(l, io);
}

/* The next pages that are wanted, with small gaps: *ret_first and how many; 0: there are none. */
static uint32_t
next_run(struct load *l, uint32_t *ret_first)
{
	uint32_t most = (uint32_t)MAX(STORE_IO_BYTES / l->opening.store->super.md_page_bytes, 1u);
	uint32_t length = l->opening.store->super.md.length, first = l->next_page, end;

	while (first < length && !wanted(l, first)) {
		if (first % 64 == 0 && l->opening.store->pages.words[first / 64] == 0) {
			first += 64;
		} else {
			first++;
		}
	}
	if (first >= length) {
		l->next_page = length;
		return 0;
	}
	end = first + 1;
	for (uint32_t i = end; i < length && i - first < most && i - end < GAP_PAGES; i++) {
		if (wanted(l, i)) {
			end = i + 1;
		}
	}
	*ret_first = first;
	l->next_page = end;
	return end - first;
}

static void
read_more(struct load *l, struct store_io *io)
{
	uint64_t page_bytes = l->opening.store->super.md_page_bytes;
	uint32_t first, n = l->read_status == 0 ? next_run(l, &first) : 0;

	if (n > 0) {
		uint64_t page = l->opening.store->super.md.start + (uint64_t)first;

		io->at = first;
		store_io_submit(io, BLOB_DEV_READ, page * page_bytes, n * page_bytes, run_read);
		return;
	}
	store_io_free(io);
	if (--l->reading == 0) {
		step_done(l, l->read_status);
	}
}

static int
read_pages(struct steps *s)
{
	struct load *l = load_of(s);
	struct blob_store *store = l->opening.store;
	struct store_io *io;

	if (l->whole) { /* what masks may have said */
		forget_bits(&store->pages);
		forget_bits(&store->blobids);
	}
	l->pages.count = store->super.md.length;
	l->pages.page = calloc(l->pages.count, sizeof(*l->pages.page));
	if (l->pages.page == NULL || bits_init(&l->pages.chains, l->pages.count) != 0) {
		return -ENOMEM;
	}
	l->next_page = 0;
	l->reading = 1; /* this function */
	for (unsigned i = 0; i < READERS && l->next_page < l->pages.count; i++) {
		io = store_io_create(store, MAX(STORE_IO_BYTES, store->super.md_page_bytes));
		if (io == NULL) {
			l->read_status = l->reading == 1 ? -ENOMEM : l->read_status;
			break;
		}
		io->ctx = l;
		l->reading++;
		read_more(l, io);
	}
	if (--l->reading == 0) {
		return l->read_status;
	}
	return STEPS_WAIT;
}

/* ---- Blobs ---- */

/* Whether a blob begins at the page: of a clean store the mask says so; of another the page does. */
static bool
begins_blob(const struct load *l, uint32_t page)
{
	const uint8_t *bytes = l->pages.page[page];
	struct blob_cursor cursor;
	struct blob_descriptor d;
	struct blob_page decoded;

	if (!l->whole) {
		return bits_get(&l->opening.store->blobids, page);
	}
	if (bytes == NULL) {
		return false;
	}
	if (blob_page_decode(bytes, &decoded) != 0) {
		return true; /* holds_something() */
	}
	if (decoded.id != BLOB_ID_BASE + page || decoded.sequence != 0) {
		return false;
	}
	cursor = (struct blob_cursor){decoded.descriptors, 0};
	return blob_descriptor_next(&cursor, &d) != 1 || d.type != BLOB_DESCRIPTOR_EXTENT_PAGE;
}

static void
make_blobs(struct defer *d)
{
	struct load *l = CONTAINER_OF(d, struct load, defer);
	int rc = 0;

	for (unsigned n = 0; n < BLOBS_A_TURN && l->next_blob < l->pages.count && rc == 0; l->next_blob++) {
		if (begins_blob(l, l->next_blob)) {
			rc = load_blob(l->opening.store, &l->pages, l->next_blob);
			n++;
		}
	}
	if (rc == 0 && l->next_blob < l->pages.count) {
		thread_defer(&l->defer, make_blobs);
		return;
	}
	step_done(l, rc);
}

static int
start_blobs(struct steps *s)
{
	struct load *l = load_of(s);

	l->next_blob = 0;
	thread_defer(&l->defer, make_blobs);
	return STEPS_WAIT;
}

/* The masks did not have all that blobs need: once more, with everything. */
static int
read_whole(struct steps *s)
{
	struct load *l = load_of(s);

	if (!l->pages.beyond || l->whole) {
		return 0;
	}
	forget_pages(l);
	store_forget_blobs(l->opening.store);
	l->whole = true;
	l->again = true;
	return read_pages(s);
}

static int
start_blobs_again(struct steps *s)
{
	struct load *l = load_of(s);

	return l->again ? start_blobs(s) : 0;
}

static int
bring_together(struct steps *s)
{
	struct load *l = load_of(s);
	int rc;

	l->opening.store->recovered = l->whole;
	rc = load_family(l->opening.store, &l->pages, &s->err);
	forget_pages(l);
	return rc;
}

static void
recovered(void *ctx)
{
	step_done(ctx, 0);
}

static int
write_recovery(struct steps *s)
{
	struct load *l = load_of(s);

	recover_write(l->opening.store, recovered, l);
	return STEPS_WAIT;
}

static int
take_up_merges(struct steps *s)
{
	struct load *l = load_of(s);
	struct blob *blob;

	if (md_op_refused(l->opening.store, NULL) == 0) {
		LIST_FOREACH(blob, &l->opening.store->blobs, link) {
			if (blob->deleted && blob->damage.code == 0) {
				merge_consider(blob);
			}
		}
	}
	return 0;
}

static const struct step steps[] = {
	{"reading the super block", read_super, NULL},
	{"checking the super block", check_super, NULL},
	{"reading the masks", read_masks, NULL},
	{"reading metadata", read_pages, NULL},
	{"making blobs", start_blobs, NULL},
	{"reading all metadata", read_whole, NULL},
	{"making blobs", start_blobs_again, NULL},
	{"bringing blobs together", bring_together, NULL},
	{"getting ready", opening_get_ready, NULL},
	{"writing what was recovered", write_recovery, NULL},
	{"taking up merges", take_up_merges, NULL},
};

static void
release(struct opening *o)
{
	forget_pages(CONTAINER_OF(o, struct load, opening));
}

int
blob_store_load(struct blob_dev *dev, const struct blob_store_options *options, blob_store_done_fn done, void *ctx)
{
	struct load *l = calloc(1, sizeof(*l));

	if (l != NULL) {
		l->opening.release = release;
	}
	return opening_start(l == NULL ? NULL : &l->opening, dev, options, steps, ARRAY_SIZE(steps), done, ctx);
}
