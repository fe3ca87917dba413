/* SPDX-License-Identifier: BSD-3-Clause */
/* Plays: the steps. harness_check.c looks at what came of them. */
#include "blob/harness.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"

/* ---- Where a failure was ---- */

static char where[256];

static void
say_where(int number)
{
	ssize_t n = write(STDERR_FILENO, where, strlen(where));

	(void)n;
	signal(number, SIG_DFL);
	raise(number);
}

void
play_where(const char *fmt, ...)
{
	va_list ap;
	int n;

	va_start(ap, fmt);
	n = vsnprintf(where, sizeof(where) - 1, fmt, ap);
	va_end(ap);
	n = MIN(n, (int)sizeof(where) - 2);
	where[n] = '\n';
	where[n + 1] = 0;
	signal(SIGABRT, say_where);
}

/* ---- Data ---- */

static struct model_data *
find_data(struct play *p, const char *name)
{
	struct model_data *d;

	LIST_FOREACH (d, &p->data, link) {
		if (strcmp(d->name, name) == 0) {
			return d;
		}
	}
	return NULL;
}

static void
free_data(struct model_data *d)
{
	list_remove(&d->link);
	free(d->cells);
	free(d);
}

static void
drop_data(struct play *p, const char *name)
{
	struct model_data *d = find_data(p, name);

	if (d != NULL) {
		free_data(d);
	}
}

/* value: what new units hold. */
static void
resize_data(struct model_data *d, uint64_t units, uint32_t value)
{
	d->cells = realloc(d->cells, (units + 1) * sizeof(*d->cells));
	EXPECT(d->cells != NULL);
	for (uint64_t i = d->units; i < units; i++) {
		d->cells[i] = (struct model_cell){.values = {value}, .count = 1};
	}
	d->units = units;
}

static struct model_data *
add_data(struct play *p, const char *name, uint64_t units, uint32_t value)
{
	struct model_data *d = calloc(1, sizeof(*d));

	EXPECT(d != NULL && strlen(name) < sizeof(d->name));
	drop_data(p, name);
	strcpy(d->name, name);
	list_append(&p->data, &d->link);
	resize_data(d, units, value);
	return d;
}

static void
copy_data(struct play *p, const char *to, const char *from)
{
	struct model_data *source = find_data(p, from);
	struct model_data *d = add_data(p, to, source->units, 0);

	memcpy(d->cells, source->cells, source->units * sizeof(*d->cells));
}

static void
copy_all_data(struct play *to, const struct play *from)
{
	struct model_data *d;

	LIST_FOREACH (d, &from->data, link) {
		struct model_data *copy = add_data(to, d->name, d->units, 0);

		memcpy(copy->cells, d->cells, d->units * sizeof(*d->cells));
	}
}

/* ---- The image ---- */

#define IMAGE_VALUES UINT32_C(0x40000000)

static void
pattern(void *buf, uint64_t unit, uint64_t count, uint32_t value)
{
	uint64_t *to = buf;

	for (uint64_t i = 0; i < count; i++) {
		uint64_t mix = powercut_seed(value, unit + i);

		for (unsigned k = 0; k < HARNESS_UNIT_BYTES / sizeof(*to); k++) {
			to[k] = mix + k * UINT64_C(0x9e3779b97f4a7c15);
		}
		to[0] = value;
		to[1] = unit + i;
		to += HARNESS_UNIT_BYTES / sizeof(*to);
	}
}

void
play_image(struct play *p, uint64_t units, uint64_t seed, bool seeks)
{
	const struct blob_mem_options options = {.bytes = units * HARNESS_UNIT_BYTES, .readonly = true, .seeks = seeks};
	uint8_t buf[HARNESS_UNIT_BYTES];
	bool data = false;

	EXPECT(p->image == NULL);
	p->image = blob_mem_create(&options);
	p->image_seeks = seeks;
	for (uint64_t i = 0; i < units; i++) {
		seed = powercut_seed(seed, i);
		data = seed % 5 == 0 ? !data : data;
		if (data || i + 1 == units) {
			pattern(buf, i, 1, IMAGE_VALUES + (uint32_t)i);
			blob_mem_write(p->image, i * HARNESS_UNIT_BYTES, buf, sizeof(buf));
		}
	}
}

static uint32_t
image_value(struct play *p, uint64_t unit)
{
	uint64_t value = 0;

	if (unit < blob_mem_bytes(p->image) / HARNESS_UNIT_BYTES) {
		blob_mem_read(p->image, unit * HARNESS_UNIT_BYTES, &value, sizeof(value));
	}
	return (uint32_t)value;
}

static struct blob_dev *
open_image(void *ctx, struct blob *blob, const void *id, size_t id_bytes)
{
	struct play *p = CONTAINER_OF((struct blob_env *)ctx, struct play, env);

	(void)blob;
	return p->image != NULL && id_bytes == 5 && memcmp(id, "image", 5) == 0 ? blob_mem_dev(p->image) : NULL;
}

static bool
all_closed(struct play *p)
{
	return p->env.store == NULL && blob_mem_closed(p->mem) && (p->image == NULL || blob_mem_closed(p->image));
}

/* ---- Beginning and end ---- */

static void
begin(struct play *p, bool real_threads)
{
	memset(p, 0, sizeof(*p));
	blob_env_start(&p->env, real_threads ? REACTOR_INTERRUPT : REACTOR_POLL, real_threads);
	p->env.options.cluster_bytes = HARNESS_CLUSTER_BYTES;
	p->env.options.md_pages = 128;
	p->env.options.io_unit_bytes = HARNESS_UNIT_BYTES;
	p->env.options.open_external = open_image;
	list_init(&p->data);
	model_init(&p->model);
	model_init(&p->before);
	p->next_value = 1;
}

void
play_create(struct play *p)
{
	p->status = blob_env_create(&p->env, blob_mem_dev(p->mem));
	p->over = p->status != 0;
	EXPECT_SAY(!p->over || blob_mem_was_cut(p->mem), "create: %d: %s", p->status, p->env.err.text);
	if (!p->over) {
		p->model.total_clusters = blob_env_info(&p->env).total_clusters;
	}
}

void
play_open(struct play *p, const struct blob_mem_options *options, bool real_threads)
{
	begin(p, real_threads);
	p->mem = blob_mem_create(options);
}

void
play_resume(struct play *p, const struct play *from, const struct powercut_rule *rule)
{
	begin(p, from->env.real_threads);
	p->mem = blob_mem_survivor(from->mem, rule);
	p->image = from->image != NULL ? blob_mem_survivor(from->image, NULL) : NULL;
	p->image_seeks = from->image_seeks;
	model_copy(&p->model, &from->model);
	if (from->doubtful) {
		model_copy(&p->before, &from->before);
	}
	p->doubtful = from->doubtful;
	p->next_value = from->next_value;
	p->direct = from->direct;
	copy_all_data(p, from);
}

bool
play_load(struct play *p)
{
	p->status = blob_env_load(&p->env, blob_mem_dev(p->mem));
	p->over = p->status != 0;
	EXPECT_SAY(!p->over || p->errors || blob_mem_was_cut(p->mem), "load: %d: %s", p->status, p->env.err.text);
	return !p->over;
}

bool
play_unload(struct play *p)
{
	if (p->over) {
		return false;
	}
	p->status = blob_env_unload(&p->env);
	p->over = p->status != 0;
	EXPECT_SAY(!p->over || p->errors || blob_mem_was_cut(p->mem), "unload: %d: %s", p->status, p->env.err.text);
	EXPECT(all_closed(p));
	return !p->over;
}

void
play_abandon(struct play *p)
{
	play_end_writes(p);
	if (p->env.store != NULL) {
		(void)blob_env_abandon(&p->env);
	}
	EXPECT(all_closed(p));
}

void
play_close(struct play *p)
{
	while (!list_empty(&p->data)) {
		free_data(LIST_FIRST(&p->data, struct model_data, link));
	}
	model_release(&p->model);
	model_release(&p->before);
	blob_mem_free(p->mem);
	blob_mem_free(p->image);
	blob_env_stop(&p->env);
}

/* ---- Steps ---- */

/* From now on p->model is changed to what the step will have made of it. */
static bool
step_begin(struct play *p)
{
	if (p->over) {
		return false;
	}
	model_release(&p->before);
	model_copy(&p->before, &p->model);
	return true;
}

static bool
step_end(struct play *p, const char *name, int status)
{
	p->status = status;
	if (status == 0) {
		model_release(&p->before);
		model_init(&p->before);
		return true;
	}
	if (blob_mem_was_cut(p->mem) || blob_env_info(&p->env).broken) {
		EXPECT_SAY(p->errors || blob_mem_was_cut(p->mem), "%s broke the store: %d: %s", name, status, p->env.err.text);
		p->over = true;
		p->doubtful = true;
		return false;
	}
	EXPECT_SAY(p->errors, "%s: %d: %s", name, status, p->env.err.text);
	model_release(&p->model);
	p->model = p->before;
	list_init(&p->model.volumes);
	list_splice(&p->model.volumes, &p->before.volumes);
	model_init(&p->before);
	return false;
}

static struct blob_xattr
name_xattr(const char *name)
{
	return (struct blob_xattr){.name = "name", .value = name, .bytes = strlen(name)};
}

/* Of a new one: how many. */
static unsigned
new_xattrs(const struct play *p, struct blob_xattr xattrs[2], const char *name)
{
	xattrs[0] = name_xattr(name);
	if (p->mark != NULL) {
		xattrs[1] = (struct blob_xattr){.name = "x", .value = p->mark, .bytes = strlen(p->mark)};
	}
	return p->mark != NULL ? 2 : 1;
}

/* The model's. */
static void
take_mark(struct play *p, const char *name)
{
	if (p->mark != NULL) {
		strcpy(model_find(&p->model, name)->xattr, p->mark);
	}
}

bool
play_volume(struct play *p, const char *name, uint64_t clusters, bool thin)
{
	struct blob_xattr xattrs[2];
	const struct blob_options options = {
		.num_clusters = clusters, .thin = thin, .xattrs = xattrs, .num_xattrs = new_xattrs(p, xattrs, name)};
	struct blob *blob;

	if (!step_begin(p)) {
		return false;
	}
	model_add(&p->model, name, clusters, thin);
	take_mark(p, name);
	add_data(p, name, clusters * HARNESS_UNITS, thin ? 0 : HARNESS_ANY);
	return step_end(p, "create", blob_env_make(&p->env, &options, &blob));
}

bool
play_external(struct play *p, const char *name, uint64_t clusters)
{
	struct blob_xattr xattrs[2];
	const struct blob_options options = {.num_clusters = clusters,
					     .thin = true,
					     .external_id = "image",
					     .external_id_bytes = 5,
					     .xattrs = xattrs,
					     .num_xattrs = new_xattrs(p, xattrs, name)};
	struct model_data *d;
	struct blob *blob;

	if (!step_begin(p)) {
		return false;
	}
	model_add(&p->model, name, clusters, true)->external = true;
	take_mark(p, name);
	d = add_data(p, name, clusters * HARNESS_UNITS, 0);
	for (uint64_t i = 0; i < d->units; i++) {
		d->cells[i].values[0] = image_value(p, i);
	}
	return step_end(p, "create over an image", blob_env_make(&p->env, &options, &blob));
}

bool
play_snapshots(struct play *p, const char *const *names, const char *const *snapshots, unsigned count)
{
	struct blob_snapshot *s = calloc(count, sizeof(*s));
	struct blob_xattr (*xattrs)[2] = calloc(count, sizeof(*xattrs));
	bool good = step_begin(p);

	EXPECT(s != NULL && xattrs != NULL);
	for (unsigned i = 0; i < count && good; i++) {
		s[i] = (struct blob_snapshot){.blob = play_find(p, names[i]),
					      .xattrs = xattrs[i],
					      .num_xattrs = new_xattrs(p, xattrs[i], snapshots[i])};
		EXPECT_SAY(s[i].blob != NULL, "no %s", names[i]);
		model_snapshot(&p->model, names[i], snapshots[i]);
		take_mark(p, snapshots[i]);
		copy_data(p, snapshots[i], names[i]);
	}
	good = good && step_end(p, "snapshot", blob_env_snapshots(&p->env, s, count));
	free(s);
	free(xattrs);
	return good;
}

bool
play_snapshot(struct play *p, const char *name, const char *snapshot)
{
	return play_snapshots(p, &name, &snapshot, 1);
}

struct clone_args {
	struct blob *blob;
	struct blob_xattr xattrs[2];
	unsigned num_xattrs;
};

static void
clone_fn(struct blob_env_op *op, void *arg)
{
	struct clone_args *a = arg;

	blob_clone(a->blob, a->xattrs, a->num_xattrs, blob_env_made, op);
}

bool
play_clone(struct play *p, const char *snapshot, const char *name)
{
	struct clone_args a;
	struct blob_env_op op;

	if (!step_begin(p)) {
		return false;
	}
	a.blob = play_find(p, snapshot);
	a.num_xattrs = new_xattrs(p, a.xattrs, name);
	model_clone(&p->model, snapshot, name);
	take_mark(p, name);
	copy_data(p, name, snapshot);
	blob_env_begin(&p->env, &op, clone_fn, &a);
	return step_end(p, "clone", blob_env_end(&p->env, &op));
}

static void
rename_fn(struct blob_env_op *op, void *arg)
{
	struct clone_args *a = arg;

	blob_set_xattrs(a->blob, a->xattrs, a->num_xattrs, blob_env_done, op);
}

bool
play_rename(struct play *p, const char *name, const char *to, const char *value)
{
	struct clone_args a = {.num_xattrs = 2};
	struct blob_env_op op;

	if (!step_begin(p)) {
		return false;
	}
	a.blob = play_find(p, name);
	a.xattrs[0] = name_xattr(to);
	a.xattrs[1] = (struct blob_xattr){.name = "x", .value = value, .bytes = strlen(value)};
	model_rename(&p->model, name, to);
	strcpy(model_find(&p->model, to)->xattr, value);
	copy_data(p, to, name);
	blob_env_begin(&p->env, &op, rename_fn, &a);
	if (!step_end(p, "rename", blob_env_end(&p->env, &op))) {
		return false;
	}
	drop_data(p, name);
	return true;
}

bool
play_delete(struct play *p, const char *name)
{
	const struct blob_xattr hidden = name_xattr(name);

	if (!step_begin(p)) {
		return false;
	}
	model_delete(&p->model, name);
	if (!step_end(p, "delete", blob_env_delete_hidden(&p->env, play_find(p, name), &hidden, 1))) {
		return false;
	}
	if (model_find(&p->model, name) == NULL) {
		drop_data(p, name);
	}
	return true;
}

bool
play_resize(struct play *p, const char *name, uint64_t clusters)
{
	struct model_data *d = find_data(p, name);
	struct model_volume *v;

	if (!step_begin(p)) {
		return false;
	}
	v = model_find(&p->model, name);
	if (clusters * HARNESS_UNITS > d->units) {
		resize_data(d, clusters * HARNESS_UNITS, v->thin ? 0 : HARNESS_ANY);
	}
	v->clusters = clusters;
	if (!step_end(p, "resize", blob_env_resize(&p->env, play_find(p, name), clusters))) {
		return false;
	}
	resize_data(d, clusters * HARNESS_UNITS, 0);
	return true;
}

bool
play_xattr(struct play *p, const char *name, const char *value)
{
	struct model_volume *v;
	struct blob *blob;

	if (!step_begin(p)) {
		return false;
	}
	v = model_find(&p->model, name);
	blob = play_find(p, name);
	memset(v->xattr, 0, sizeof(v->xattr));
	if (value == NULL) {
		return step_end(p, "remove xattr", blob_env_remove_xattr(&p->env, blob, "x"));
	}
	strcpy(v->xattr, value);
	return step_end(p, "set xattr", blob_env_set_xattr(&p->env, blob, "x", value, strlen(value)));
}

bool
play_long_chain(struct play *p, const char *name)
{
	static const char *const names[] = {"y0", "y1", "y2"};
	uint8_t value[3000];
	bool good = true;

	memset(value, 'y', sizeof(value));
	for (unsigned i = 0; i < ARRAY_SIZE(names) && good; i++) {
		good = step_begin(p) &&
		       step_end(p, "set a long xattr",
				blob_env_set_xattr(&p->env, play_find(p, name), names[i], value, sizeof(value)));
	}
	return good;
}

bool
play_read_only(struct play *p, const char *name)
{
	if (!step_begin(p)) {
		return false;
	}
	model_find(&p->model, name)->read_only = true;
	return step_end(p, "read-only", blob_env_set_read_only(&p->env, play_find(p, name)));
}

bool
play_inflate(struct play *p, const char *name)
{
	struct model_volume *v;

	if (!step_begin(p)) {
		return false;
	}
	v = model_find(&p->model, name);
	v->thin = v->external = false;
	memset(v->parent, 0, sizeof(v->parent));
	model_settle(&p->model);
	return step_end(p, "inflate", blob_env_inflate(&p->env, play_find(p, name)));
}

bool
play_decouple(struct play *p, const char *name)
{
	struct model_volume *v;

	if (!step_begin(p)) {
		return false;
	}
	v = model_find(&p->model, name);
	if (v->external) {
		v->external = false;
		v->thin = p->image_seeks && v->clusters > 0;
	} else {
		const struct model_volume *parent = model_find(&p->model, v->parent);

		v->external = parent->external;
		memcpy(v->parent, parent->parent, sizeof(v->parent));
	}
	model_settle(&p->model);
	return step_end(p, "decouple", blob_env_decouple(&p->env, play_find(p, name)));
}

bool
play_set_parent(struct play *p, const char *name, const char *parent)
{
	struct model_volume *v;

	if (!step_begin(p)) {
		return false;
	}
	v = model_find(&p->model, name);
	strcpy(v->parent, parent);
	model_settle(&p->model);
	return step_end(p, "set parent", blob_env_set_parent(&p->env, play_find(p, name), play_find(p, parent)));
}

bool
play_super(struct play *p, const char *name)
{
	if (!step_begin(p)) {
		return false;
	}
	strcpy(p->model.super, name);
	return step_end(p, "set super", blob_env_set_super(&p->env, blob_id(play_find(p, name))));
}

bool
play_grow(struct play *p, uint64_t bytes)
{
	if (!step_begin(p)) {
		return false;
	}
	blob_mem_resize(p->mem, bytes);
	p->model.total_clusters = bytes / HARNESS_CLUSTER_BYTES;
	return step_end(p, "grow", blob_env_grow(&p->env));
}

void
play_idle(struct play *p)
{
	if (p->over) {
		return;
	}
	blob_env_idle(&p->env);
	p->over = blob_mem_was_cut(p->mem) || blob_env_info(&p->env).broken;
	EXPECT(!p->over || p->errors || blob_mem_was_cut(p->mem));
}

/* ---- Data: steps ---- */

static void
data_begin(struct play *p, const char *name, uint64_t unit, uint64_t count, uint32_t value)
{
	struct model_data *d = find_data(p, name);

	EXPECT(d != NULL && unit + count <= d->units);
	for (uint64_t i = unit; i < unit + count; i++) {
		struct model_cell *c = &d->cells[i];

		EXPECT(c->count < HARNESS_VALUES);
		c->values[c->count++] = value;
		c->touched = true;
	}
}

/* The values of the write were answered: nothing that was begun before it is under way there. */
static void
data_end(struct play *p, const char *name, uint64_t unit, uint64_t count, uint32_t value)
{
	struct model_data *d = find_data(p, name);

	for (uint64_t i = unit; i < unit + count; i++) {
		struct model_cell *c = &d->cells[i];

		EXPECT(c->values[c->count - 1] == value);
		c->acked = c->count - 1;
	}
}

static bool
crowded(struct play *p, const char *name, uint64_t unit, uint64_t count)
{
	struct model_data *d = find_data(p, name);

	for (uint64_t i = unit; i < unit + count; i++) {
		if (d->cells[i].count >= HARNESS_VALUES - 1) {
			return true;
		}
	}
	return false;
}

/* A unit that failed writes have been piled upon: nobody knows any more. */
static void
uncrowd(struct play *p, const char *name, uint64_t unit, uint64_t count)
{
	struct model_data *d = find_data(p, name);

	for (uint64_t i = unit; i < unit + count; i++) {
		if (d->cells[i].count >= HARNESS_VALUES - 1) {
			d->cells[i] = (struct model_cell){.values = {HARNESS_ANY}, .count = 1, .touched = true};
		}
	}
}

static bool
data_failed(struct play *p, const char *what, int status)
{
	p->status = status;
	if (status == 0) {
		return false;
	}
	if (blob_mem_was_cut(p->mem) || blob_env_info(&p->env).broken) {
		p->over = true;
	}
	EXPECT_SAY(p->over || p->errors, "%s: %d", what, status);
	return true;
}

bool
play_flush(struct play *p)
{
	struct blob_env_channel *c;
	struct model_data *d;
	struct model_volume *v;
	int status;

	if (p->over || list_empty(&p->model.volumes)) {
		return false;
	}
	v = LIST_FIRST(&p->model.volumes, struct model_volume, link);
	c = blob_env_open(&p->env, 0, play_find(p, v->name));
	status = blob_env_flush(c);
	blob_env_close(c);
	if (data_failed(p, "flush", status)) {
		return false;
	}
	LIST_FOREACH (d, &p->data, link) {
		for (uint64_t i = 0; i < d->units; i++) {
			struct model_cell *cell = &d->cells[i];

			memmove(cell->values, cell->values + cell->acked, sizeof(cell->values[0]) * (cell->count - cell->acked));
			cell->count -= cell->acked;
			cell->acked = 0;
		}
	}
	return true;
}

/* A write that is under way there. */
static bool
under_way(struct play *p, const char *name, uint64_t unit, uint64_t count)
{
	for (unsigned i = 0; i < PLAY_WRITES; i++) {
		const struct play_write *w = &p->writes[i];

		if (w->c != NULL && strcmp(w->name, name) == 0 && w->io.unit < unit + count &&
		    unit < w->io.unit + w->io.count) {
			return true;
		}
	}
	return false;
}

/* What a unit holds afterwards: unmap leaves nobody knows what. */
static uint32_t
value_of(struct play *p, enum blob_op op)
{
	return op == BLOB_WRITE ? p->next_value++ : op == BLOB_UNMAP ? HARNESS_ANY : 0;
}

bool
play_rw(struct play *p, const char *name, enum blob_op op, uint64_t unit, uint64_t count)
{
	struct blob_env_channel *c;
	uint32_t value;
	void *buf = NULL;
	int status;

	if (!p->over && under_way(p, name, unit, count)) {
		play_end_writes(p);
	}
	if (!p->over && crowded(p, name, unit, count)) {
		play_flush(p);
	}
	if (p->over) {
		return false;
	}
	uncrowd(p, name, unit, count);
	value = value_of(p, op);
	if (op == BLOB_WRITE) {
		buf = malloc(count * HARNESS_UNIT_BYTES);
		EXPECT(buf != NULL);
		pattern(buf, unit, count, value);
	}
	data_begin(p, name, unit, count, value);
	c = blob_env_open(&p->env, 0, play_find(p, name));
	c->direct = p->direct;
	status = blob_env_rw(c, op, unit, count, buf);
	blob_env_close(c);
	free(buf);
	if (data_failed(p, "I/O", status)) {
		return false;
	}
	data_end(p, name, unit, count, value);
	return true;
}

bool
play_write(struct play *p, const char *name, uint64_t unit, uint64_t count)
{
	return play_rw(p, name, BLOB_WRITE, unit, count);
}

void
play_begin_write(struct play *p, unsigned worker, const char *name, uint64_t unit, uint64_t count)
{
	struct play_write *w = NULL;

	for (unsigned i = 0; i < PLAY_WRITES; i++) {
		w = p->writes[i].c == NULL ? &p->writes[i] : w;
	}
	if (p->over || w == NULL || crowded(p, name, unit, count) || under_way(p, name, unit, count)) {
		return;
	}
	strcpy(w->name, name);
	w->value = p->next_value++;
	w->buf = malloc(count * HARNESS_UNIT_BYTES);
	EXPECT(w->buf != NULL);
	pattern(w->buf, unit, count, w->value);
	data_begin(p, name, unit, count, w->value);
	w->c = blob_env_open(&p->env, worker, play_find(p, name));
	w->c->direct = p->direct;
	blob_env_submit(w->c, &w->io, BLOB_WRITE, unit, count, w->buf);
}

bool
play_end_writes(struct play *p)
{
	bool good = true;

	for (unsigned i = 0; i < PLAY_WRITES; i++) {
		struct play_write *w = &p->writes[i];

		if (w->c == NULL) {
			continue;
		}
		if (data_failed(p, "write", blob_env_finish(&w->io))) {
			good = false;
		} else {
			data_end(p, w->name, w->io.unit, w->io.count, w->value);
		}
		blob_env_close(w->c);
		free(w->buf);
		w->c = NULL;
	}
	return good;
}
