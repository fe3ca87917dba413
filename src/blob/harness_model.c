/* SPDX-License-Identifier: BSD-3-Clause */
/* The naive model of what is in a store. */
#include "blob/harness.h"

#include <inttypes.h>
#include <string.h>

#include "base/check.h"

static void
name_set(char *to, const char *from)
{
	EXPECT(strlen(from) < HARNESS_NAME_BYTES);
	memset(to, 0, HARNESS_NAME_BYTES);
	strcpy(to, from);
}

void
model_init(struct model *m)
{
	memset(m, 0, sizeof(*m));
	list_init(&m->volumes);
}

void
model_release(struct model *m)
{
	while (m->volumes.next != NULL && !list_empty(&m->volumes)) {
		struct model_volume *v = LIST_FIRST(&m->volumes, struct model_volume, link);

		list_remove(&v->link);
		free(v);
	}
}

void
model_copy(struct model *to, const struct model *from)
{
	struct model_volume *v;

	*to = *from;
	list_init(&to->volumes);
	LIST_FOREACH (v, &from->volumes, link) {
		struct model_volume *copy = malloc(sizeof(*copy));

		EXPECT(copy != NULL);
		*copy = *v;
		list_append(&to->volumes, &copy->link);
	}
}

struct model_volume *
model_find(const struct model *m, const char *name)
{
	struct model_volume *v;

	LIST_FOREACH (v, &m->volumes, link) {
		if (strcmp(v->name, name) == 0) {
			return v;
		}
	}
	return NULL;
}

/* In the order of names. */
struct model_volume *
model_add(struct model *m, const char *name, uint64_t clusters, bool thin)
{
	struct model_volume *v = calloc(1, sizeof(*v)), *next;
	struct list *before = &m->volumes;

	EXPECT(v != NULL && model_find(m, name) == NULL);
	name_set(v->name, name);
	v->clusters = clusters;
	v->thin = thin;
	LIST_FOREACH (next, &m->volumes, link) {
		if (strcmp(next->name, name) > 0) {
			before = &next->link;
			break;
		}
	}
	list_insert_before(before, &v->link);
	return v;
}

unsigned
model_clones(const struct model *m, const char *name)
{
	struct model_volume *v;
	unsigned n = 0;

	LIST_FOREACH (v, &m->volumes, link) {
		n += strcmp(v->parent, name) == 0;
	}
	return n;
}

void
model_snapshot(struct model *m, const char *name, const char *snapshot)
{
	struct model_volume *v = model_find(m, name);
	struct model_volume *s = model_add(m, snapshot, v->clusters, v->thin);

	s->read_only = true;
	s->external = v->external;
	v->external = false;
	name_set(s->parent, v->parent);
	name_set(v->parent, snapshot);
	v->thin = true;
}

void
model_clone(struct model *m, const char *snapshot, const char *name)
{
	struct model_volume *c = model_add(m, name, model_find(m, snapshot)->clusters, true);

	name_set(c->parent, snapshot);
}

static void
drop(struct model *m, struct model_volume *gone)
{
	struct model_volume *v;

	LIST_FOREACH (v, &m->volumes, link) {
		if (strcmp(v->parent, gone->name) == 0) {
			name_set(v->parent, gone->parent);
			v->external = gone->external;
		}
	}
	if (strcmp(m->super, gone->name) == 0) {
		m->super[0] = 0;
	}
	list_remove(&gone->link);
	free(gone);
}

void
model_settle(struct model *m)
{
	struct model_volume *v;
	bool again = true;

	while (again) {
		again = false;
		LIST_FOREACH (v, &m->volumes, link) {
			if (v->deleted && model_clones(m, v->name) <= 1) {
				drop(m, v);
				again = true;
				break;
			}
		}
	}
}

void
model_delete(struct model *m, const char *name)
{
	struct model_volume *v = model_find(m, name);

	v->deleted = true;
	if (strcmp(m->super, name) == 0) {
		m->super[0] = 0;
	}
	model_settle(m);
}

void
model_rename(struct model *m, const char *name, const char *to)
{
	struct model_volume *v = model_find(m, name), *renamed = model_add(m, to, v->clusters, v->thin), *clone;
	struct list link = renamed->link;

	*renamed = *v;
	renamed->link = link;
	name_set(renamed->name, to);
	LIST_FOREACH (clone, &m->volumes, link) {
		if (strcmp(clone->parent, name) == 0) {
			name_set(clone->parent, to);
		}
	}
	if (strcmp(m->super, name) == 0) {
		name_set(m->super, to);
	}
	list_remove(&v->link);
	free(v);
}

char *
model_text(const struct model *m)
{
	struct model_volume *v;
	size_t bytes;
	char *text;
	FILE *f = open_memstream(&text, &bytes);

	EXPECT(f != NULL);
	fprintf(f, "store of %" PRIu64 " clusters, super \"%s\"\n", m->total_clusters, m->super);
	LIST_FOREACH (v, &m->volumes, link) {
		fprintf(f, "%s: %" PRIu64 " clusters%s%s%s%s, parent \"%s\", x \"%s\"\n", v->name, v->clusters,
			v->thin ? ", thin" : "", v->read_only ? ", read-only" : "", v->deleted ? ", deleted" : "",
			v->external ? ", external" : "", v->parent, v->xattr);
	}
	fclose(f);
	return text;
}
