/* SPDX-License-Identifier: BSD-3-Clause */
/* Plays: whether the store is what the model says. */
#include "blob/harness.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/check.h"
#include "blob/check.h"
#include "blob/internal.h"

struct looking {
	struct play *p;
	const char *name;
	struct blob *blob;
	char *text;
};

static void
name_of(const struct blob *blob, const char *xattr, char name[HARNESS_NAME_BYTES])
{
	size_t bytes = 0;
	const void *value = blob != NULL ? blob_get_xattr(blob, xattr, &bytes) : NULL;

	memset(name, 0, HARNESS_NAME_BYTES);
	EXPECT(bytes < HARNESS_NAME_BYTES);
	if (value != NULL) {
		memcpy(name, value, bytes);
	}
}

static void
find_on_app(void *arg)
{
	struct looking *l = arg;
	char name[HARNESS_NAME_BYTES];

	for (struct blob *b = blob_first(l->p->env.store); b != NULL && l->blob == NULL; b = blob_next(b)) {
		name_of(b, "name", name);
		if (strcmp(name, l->name) == 0) {
			l->blob = b;
		}
	}
}

struct blob *
play_find(struct play *p, const char *name)
{
	struct looking l = {.p = p, .name = name};

	blob_env_call(&p->env, p->env.app, find_on_app, &l);
	return l.blob;
}

/* ---- State ---- */

static void
model_of(struct blob_store *store, struct model *m)
{
	struct blob_store_info info;
	char name[HARNESS_NAME_BYTES];
	size_t bytes;

	model_init(m);
	blob_store_get_info(store, &info);
	EXPECT_SAY(info.damaged == 0, "%u damaged blobs", info.damaged);
	m->total_clusters = info.total_clusters;
	if (blob_store_super(store) != BLOB_ID_NONE) {
		name_of(blob_find(store, blob_store_super(store)), "name", m->super);
	}
	for (struct blob *b = blob_first(store); b != NULL; b = blob_next(b)) {
		struct model_volume *v;

		name_of(b, "name", name);
		v = model_add(m, name, blob_num_clusters(b), blob_thin(b));
		v->read_only = blob_readonly(b);
		v->deleted = blob_deleted(b);
		v->external = blob_external_id(b, &bytes) != NULL;
		name_of(blob_parent(b), "name", v->parent);
		name_of(b, "x", v->xattr);
	}
}

static void
text_on_app(void *arg)
{
	struct looking *l = arg;
	struct model m;

	model_of(l->p->env.store, &m);
	l->text = model_text(&m);
	model_release(&m);
}

void
play_check_state(struct play *p)
{
	struct looking l = {.p = p};
	char *after = model_text(&p->model), *before = p->doubtful ? model_text(&p->before) : strdup("");

	EXPECT(before != NULL);
	blob_env_call(&p->env, p->env.app, text_on_app, &l);
	if (strcmp(l.text, after) == 0) {
		model_release(&p->before);
	} else if (p->doubtful && strcmp(l.text, before) == 0) {
		model_release(&p->model);
		model_copy(&p->model, &p->before);
		model_release(&p->before);
	} else {
		fprintf(stderr, "there is: %s\nthere should be: %s%s%s", l.text, after, p->doubtful ? "or: " : "", before);
		EXPECT_SAY(false, "the state is neither");
	}
	model_init(&p->before);
	p->doubtful = false;
	free(l.text);
	free(after);
	free(before);
}

/* ---- Space ---- */

static uint64_t
count_clusters(struct blob *b, uint8_t *owned)
{
	struct blob_map *map = atomic_load(&b->head.map);
	uint64_t n = 0;

	for (uint64_t i = 0; i < map->num_clusters; i++) {
		uint32_t entry = blob_map_entry(&b->head, i);

		if (entry == 0) {
			continue;
		}
		EXPECT_SAY(entry != BLOB_CLUSTER_BUSY, "cluster %" PRIu64 " is busy", i);
		EXPECT_SAY(entry < b->store->total_clusters && !owned[entry], "cluster %u has two owners", entry);
		EXPECT_SAY(bits_get(&b->store->clusters, entry), "cluster %u is not marked", entry);
		owned[entry] = 1;
		n++;
	}
	EXPECT_SAY(n == atomic_load(&b->allocated), "%" PRIu64 " clusters, not %" PRIu64, n, atomic_load(&b->allocated));
	return n;
}

static void
own_page(struct blob *b, uint8_t *owned, uint32_t page)
{
	EXPECT_SAY(page < b->store->super.md.length && !owned[page], "page %u has two owners", page);
	EXPECT_SAY(bits_get(&b->store->pages, page), "page %u is not marked", page);
	owned[page] = 1;
}

static uint64_t
count_pages(struct blob *b, uint8_t *owned)
{
	struct blob_map *map = atomic_load(&b->head.map);
	uint64_t n = b->num_pages;

	for (uint32_t i = 0; i < b->num_pages; i++) {
		own_page(b, owned, b->pages[i]);
	}
	for (uint64_t i = 0; i < map->num_extents && blob_has_table(b); i++) {
		struct blob_extent *e = blob_map_extent(map, i);

		if (e != NULL && e->page != 0) {
			own_page(b, owned, e->page);
			n++;
		}
	}
	return n;
}

static void
space_on_app(void *arg)
{
	struct blob_store *store = ((struct play *)arg)->env.store;
	struct blob_store_info info;
	uint64_t clusters = 0, pages = 0;
	uint8_t *owned = calloc(store->total_clusters, 1), *owned_pages = calloc(store->super.md.length, 1);

	EXPECT(owned != NULL && owned_pages != NULL);
	for (struct blob *b = blob_first(store); b != NULL; b = blob_next(b)) {
		clusters += count_clusters(b, owned);
		pages += count_pages(b, owned_pages);
	}
	blob_store_get_info(store, &info);
	EXPECT_SAY(clusters + info.free_clusters == info.total_data_clusters, "%" PRIu64 " used, %" PRIu64 " free of %" PRIu64,
		   clusters, info.free_clusters, info.total_data_clusters);
	pages += owned_pages[0] == 0; /* which is never given to a blob */
	EXPECT_SAY(pages + info.free_md_pages == info.md_pages, "%" PRIu64 " pages used, %u free of %u", pages,
		   info.free_md_pages, info.md_pages);
	free(owned);
	free(owned_pages);
}

void
play_check_space(struct play *p)
{
	blob_env_call(&p->env, p->env.app, space_on_app, p);
}

/* ---- Data ---- */

/* What a unit holds: the number of its write, 0: zeroes; HARNESS_ANY: nothing that was ever written. */
static uint32_t
value_at(const uint8_t *unit_bytes, uint64_t unit)
{
	const uint64_t *words = (const void *)unit_bytes;
	uint64_t mix = powercut_seed(words[0], unit);
	unsigned n = HARNESS_UNIT_BYTES / sizeof(*words);

	if (words[0] == 0) {
		for (unsigned k = 1; k < n; k++) {
			if (words[k] != 0) {
				return HARNESS_ANY;
			}
		}
		return 0;
	}
	if (words[0] >= HARNESS_ANY || words[1] != unit) {
		return HARNESS_ANY;
	}
	for (unsigned k = 2; k < n; k++) {
		if (words[k] != mix + k * UINT64_C(0x9e3779b97f4a7c15)) {
			return HARNESS_ANY;
		}
	}
	return (uint32_t)words[0];
}

static bool
may_hold(const struct model_cell *c, uint32_t value, bool exact)
{
	for (unsigned i = exact ? c->acked : 0; i < c->count; i++) {
		if (c->values[i] == value || c->values[i] == HARNESS_ANY) {
			return true;
		}
	}
	return false;
}

static void
check_unit(const struct model_data *d, uint64_t unit, uint32_t value, bool exact)
{
	const struct model_cell *c = &d->cells[unit];

	if (may_hold(c, value, exact)) {
		return;
	}
	fprintf(stderr, "%s, unit %" PRIu64 " holds %u; may hold", d->name, unit, value);
	for (unsigned i = 0; i < c->count; i++) {
		fprintf(stderr, " %u%s", c->values[i], i == c->acked ? " (answered)" : "");
	}
	fprintf(stderr, "\n");
	EXPECT_SAY(false, "%s", exact ? "not even the end of the process may lose it" : "data");
}

static bool
touched(const struct model_data *d, uint64_t cluster, uint64_t units)
{
	for (uint64_t i = cluster * HARNESS_UNITS; i < units && i < (cluster + 1) * HARNESS_UNITS; i++) {
		if (d->cells[i].touched || d->cells[i].values[0] != 0) {
			return true;
		}
	}
	return false;
}

/* Of long volumes: the clusters that were written, and some that were not. */
static bool
looks_at(const struct model_data *d, uint64_t cluster, uint64_t units)
{
	return cluster < 8 || touched(d, cluster, units);
}

typedef void (*unit_fn)(struct model_data *d, uint64_t unit, uint32_t value, bool exact);

static void
each_unit(struct play *p, struct model_data *d, struct blob *blob, unit_fn fn, bool exact)
{
	struct blob_env_channel *c = blob_env_open(&p->env, 0, blob);
	uint64_t units = MIN(blob_num_clusters(blob) * HARNESS_UNITS, d->units);
	uint8_t *buf = aligned_alloc(64, HARNESS_CLUSTER_BYTES);

	EXPECT(buf != NULL);
	c->direct = p->direct;
	for (uint64_t at = 0; at < units; at += HARNESS_UNITS) {
		uint64_t n = MIN(units - at, HARNESS_UNITS);
		int status;

		if (!looks_at(d, at / HARNESS_UNITS, units)) {
			continue;
		}
		memset(buf, 0xa5, HARNESS_CLUSTER_BYTES);
		status = blob_env_rw(c, BLOB_READ, at, n, buf);
		EXPECT_SAY(status == 0, "%s: reading: %d", d->name, status);
		for (uint64_t i = 0; i < n; i++) {
			fn(d, at + i, value_at(buf + i * HARNESS_UNIT_BYTES, at + i), exact);
		}
	}
	free(buf);
	blob_env_close(c);
}

static void
each_volume(struct play *p, unit_fn fn, bool exact)
{
	struct model_volume *v;
	struct model_data *d;

	LIST_FOREACH (d, &p->data, link) {
		v = model_find(&p->model, d->name);
		if (v != NULL && !v->deleted) {
			each_unit(p, d, play_find(p, d->name), fn, exact);
		}
	}
}

static void
check_fn(struct model_data *d, uint64_t unit, uint32_t value, bool exact)
{
	check_unit(d, unit, value, exact);
}

void
play_check_data(struct play *p, bool exact)
{
	each_volume(p, check_fn, exact);
}

/* What nobody knows stays so; what may be lost is not any more. */
static void
settle_fn(struct model_data *d, uint64_t unit, uint32_t value, bool exact)
{
	struct model_cell *c = &d->cells[unit];

	check_unit(d, unit, value, exact);
	c->values[0] = value;
	c->count = 1;
	c->acked = 0;
	c->touched = c->touched || value != 0;
}

void
play_settle_data(struct play *p)
{
	struct model_data *d, *next;
	struct model_volume *v;

	each_volume(p, settle_fn, false);
	LIST_FOREACH_SAFE (d, next, &p->data, link) {
		v = model_find(&p->model, d->name);
		if (v == NULL) {
			list_remove(&d->link);
			free(d->cells);
			free(d);
		} else if (!v->deleted && v->clusters * HARNESS_UNITS != d->units) {
			uint64_t units = v->clusters * HARNESS_UNITS;

			d->cells = realloc(d->cells, (units + 1) * sizeof(*d->cells));
			EXPECT(d->cells != NULL && units < d->units);
			d->units = units;
		}
	}
}

/* ---- Still good ---- */

void
play_works(struct play *p)
{
	EXPECT(play_volume(p, "zz", 3, true) && play_write(p, "zz", 1, 6) && play_snapshot(p, "zz", "zzs"));
	EXPECT(play_write(p, "zz", 2, 1) && play_write(p, "zz", 9, 2) && play_flush(p));
	play_check_data(p, true);
	EXPECT(play_clone(p, "zzs", "zzc") && play_write(p, "zzc", 0, 1));
	EXPECT(play_delete(p, "zzs"));
	play_check_data(p, true);
	EXPECT(play_delete(p, "zz") && play_delete(p, "zzc"));
	play_idle(p);
	play_check_state(p);
	play_check_space(p);
}

/* ---- The offline checker ---- */

static int
disk_read(void *ctx, uint64_t offset, void *buf, size_t bytes)
{
	blob_mem_read(ctx, offset, buf, bytes);
	return 0;
}

void
play_check_disk(struct play *p)
{
	const struct blob_offline disk = {.read = disk_read, .ctx = p->mem, .bytes = blob_mem_bytes(p->mem)};
	const struct blob_check_options options = {.repair = false};
	struct blob_check_report report;
	struct err err = ERR_NONE;
	int rc = blob_check(&disk, &options, &report, &err);

	EXPECT_SAY(rc == 0, "check: %d: %s", rc, err.text);
	for (uint32_t i = 0; report.damage > 0 && i < report.num_findings; i++) {
		fprintf(stderr, "check: %s\n", report.findings[i].text);
	}
	EXPECT_SAY(report.damage == 0, "the disk is damaged");
	blob_check_release(&report);
}
