/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Random operations against the naive model, in episodes that each begin with an empty store: operations of all kinds, writes
 * from two threads meanwhile, power cuts, ends of the process, reloads, errors of the device. After each episode's seed
 * everything follows from it (but for the moments of real threads):
 *
 *	BERTH_TEST_SEED=n        begins with episode n
 *	BERTH_TEST_SECONDS=n     so long
 *	BERTH_TEST_STEPS=n       ends each episode after n steps: to find the step that breaks it
 *	BERTH_TEST_TRACE=1       says each step
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/clock.h"
#include "blob/harness.h"

#define STEPS 120
#define VOLUMES_MAX 14
#define CLUSTERS_MAX 12

struct episode {
	struct play *p;
	uint64_t seed, random;
	unsigned named; /* volumes so far */
	unsigned steps, step;
	bool trace;
	bool faulted; /* since the last load: it may not be marked clean at the end */
};

static uint64_t
rnd(struct episode *e, uint64_t n)
{
	e->random = powercut_seed(e->random, 1);
	return (e->random >> 20) % n;
}

static void
say(struct episode *e, const char *fmt, ...)
{
	va_list ap;

	if (!e->trace) {
		return;
	}
	fprintf(stderr, "%" PRIu64 ".%u: ", e->seed, e->step);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

/* ---- Picking ---- */

enum want { ANY, WRITABLE, READ_ONLY, CHILD };

static bool
fits(struct episode *e, const struct model_volume *v, enum want want)
{
	if (v->deleted) {
		return false;
	}
	switch (want) {
	case WRITABLE:
		return !v->read_only;
	case READ_ONLY:
		return v->read_only;
	case CHILD:
		return !v->read_only && (v->parent[0] != 0 || v->external);
	case ANY:
		break;
	}
	return true;
}

static struct model_volume *
pick(struct episode *e, enum want want)
{
	struct model_volume *v, *found = NULL;
	unsigned seen = 0;

	LIST_FOREACH (v, &e->p->model.volumes, link) {
		if (fits(e, v, want) && rnd(e, ++seen) == 0) {
			found = v;
		}
	}
	return found;
}

static unsigned
volumes(struct episode *e)
{
	struct model_volume *v;
	unsigned n = 0;

	LIST_FOREACH (v, &e->p->model.volumes, link) {
		n++;
	}
	return n;
}

static void
new_name(struct episode *e, char name[HARNESS_NAME_BYTES], const char *prefix)
{
	snprintf(name, HARNESS_NAME_BYTES, "%s%u", prefix, e->named++);
}

/* ---- Operations; the names are copied: the model changes under them ---- */

struct picked {
	char name[HARNESS_NAME_BYTES];
	char parent[HARNESS_NAME_BYTES];
	uint64_t clusters;
};

static bool
pick_copy(struct episode *e, enum want want, struct picked *ret_picked)
{
	const struct model_volume *v = pick(e, want);

	if (v == NULL) {
		return false;
	}
	memcpy(ret_picked->name, v->name, sizeof(v->name));
	memcpy(ret_picked->parent, v->parent, sizeof(v->parent));
	ret_picked->clusters = v->clusters;
	return true;
}

static void
op_create(struct episode *e)
{
	char name[HARNESS_NAME_BYTES];
	uint64_t clusters = rnd(e, 50) == 0 ? 1030 : rnd(e, CLUSTERS_MAX);
	bool thin = clusters > CLUSTERS_MAX || rnd(e, 3) > 0;

	if (volumes(e) >= VOLUMES_MAX) {
		return;
	}
	new_name(e, name, "v");
	say(e, "create %s of %" PRIu64 " clusters, thin %d", name, clusters, thin);
	play_volume(e->p, name, clusters, thin);
}

static void
op_external(struct episode *e)
{
	char name[HARNESS_NAME_BYTES];
	uint64_t clusters = rnd(e, CLUSTERS_MAX);

	if (volumes(e) < VOLUMES_MAX) {
		new_name(e, name, "x");
		say(e, "create %s of %" PRIu64 " clusters over the image", name, clusters);
		play_external(e->p, name, clusters);
	}
}

static void
op_rename(struct episode *e)
{
	char name[HARNESS_NAME_BYTES];
	struct picked v;

	if (pick_copy(e, ANY, &v)) {
		play_end_writes(e->p);
		new_name(e, name, "r");
		say(e, "rename %s to %s", v.name, name);
		play_rename(e->p, v.name, name, "renamed");
	}
}

static void
op_delete(struct episode *e)
{
	struct picked v;

	/* The super blob stays: its id would be another's one day. */
	if (pick_copy(e, ANY, &v) && strcmp(e->p->model.super, v.name) != 0) {
		play_end_writes(e->p);
		say(e, "delete %s", v.name);
		play_delete(e->p, v.name);
	}
}

static void
op_snapshot(struct episode *e)
{
	char snapshots[3][HARNESS_NAME_BYTES];
	const char *names[3], *to[3];
	struct picked v[3];
	unsigned n = 0, want = 1 + (rnd(e, 4) == 0) * 2;

	for (unsigned i = 0; i < want && volumes(e) + n < VOLUMES_MAX; i++) {
		bool twice = false;

		if (!pick_copy(e, WRITABLE, &v[n])) {
			continue;
		}
		for (unsigned k = 0; k < n; k++) {
			twice = twice || strcmp(v[k].name, v[n].name) == 0;
		}
		if (!twice) {
			new_name(e, snapshots[n], "s");
			names[n] = v[n].name;
			to[n] = snapshots[n];
			say(e, "snapshot %s of %s", to[n], names[n]);
			n++;
		}
	}
	if (n > 0) {
		play_snapshots(e->p, names, to, n);
	}
}

static void
op_clone(struct episode *e)
{
	char name[HARNESS_NAME_BYTES];
	struct picked v;

	if (volumes(e) < VOLUMES_MAX && pick_copy(e, READ_ONLY, &v)) {
		new_name(e, name, "c");
		say(e, "clone %s of %s", name, v.name);
		play_clone(e->p, v.name, name);
	}
}

static void
op_resize(struct episode *e)
{
	uint64_t clusters = rnd(e, 50) == 0 ? 520 : rnd(e, CLUSTERS_MAX);
	const struct model_volume *v = pick(e, WRITABLE);
	struct picked to;

	if (v == NULL || (clusters > CLUSTERS_MAX && !v->thin)) {
		return;
	}
	memcpy(to.name, v->name, sizeof(to.name));
	play_end_writes(e->p);
	say(e, "resize %s to %" PRIu64, to.name, clusters);
	play_resize(e->p, to.name, clusters);
}

static void
op_xattr(struct episode *e)
{
	struct model_volume *v = pick(e, ANY);
	struct picked to;
	char value[16];

	if (v == NULL) {
		return;
	}
	memcpy(to.name, v->name, sizeof(to.name));
	snprintf(value, sizeof(value), "%u", e->step);
	if (v->xattr[0] != 0 && rnd(e, 2) == 0) {
		say(e, "remove the xattr of %s", to.name);
		play_xattr(e->p, to.name, NULL);
	} else {
		say(e, "set the xattr of %s to %s", to.name, value);
		play_xattr(e->p, to.name, value);
	}
}

static void
op_read_only(struct episode *e)
{
	struct picked v;

	if (rnd(e, 3) == 0 && pick_copy(e, WRITABLE, &v)) {
		play_end_writes(e->p);
		say(e, "read-only %s", v.name);
		play_read_only(e->p, v.name);
	}
}

static void
op_parent(struct episode *e)
{
	char name[HARNESS_NAME_BYTES];
	struct picked v;

	if (!pick_copy(e, CHILD, &v)) {
		return;
	}
	switch (rnd(e, 3)) {
	case 0:
		if (v.clusters <= CLUSTERS_MAX) {
			say(e, "inflate %s", v.name);
			play_inflate(e->p, v.name);
		}
		break;
	case 1:
		if (v.clusters <= CLUSTERS_MAX || v.parent[0] != 0) { /* it may be all of it */
			say(e, "decouple %s", v.name);
			play_decouple(e->p, v.name);
		}
		break;
	default:
		if (v.parent[0] == 0 || model_find(&e->p->model, v.parent)->deleted || volumes(e) >= VOLUMES_MAX ||
		    model_find(&e->p->model, v.parent)->clusters != v.clusters) {
			break;
		}
		new_name(e, name, "p");
		say(e, "set parent of %s to %s, made of %s", v.name, name, v.parent);
		if (play_clone(e->p, v.parent, name) && play_read_only(e->p, name)) {
			play_set_parent(e->p, v.name, name);
		}
	}
}

static void
op_super(struct episode *e)
{
	struct picked v;

	if (rnd(e, 4) == 0 && pick_copy(e, ANY, &v)) {
		say(e, "super %s", v.name);
		play_super(e->p, v.name);
	}
}

static void
op_grow(struct episode *e)
{
	uint64_t bytes = blob_mem_bytes(e->p->mem) + (1 + rnd(e, 64)) * HARNESS_CLUSTER_BYTES;

	if (rnd(e, 10) == 0 && bytes < (24 << 20)) {
		say(e, "grow to %" PRIu64, bytes);
		play_grow(e->p, bytes);
	}
}

static void
op_data(struct episode *e)
{
	static const enum blob_op ops[] = {BLOB_WRITE, BLOB_WRITE, BLOB_WRITE, BLOB_WRITE, BLOB_WRITE_ZEROES, BLOB_UNMAP};
	struct picked v;
	uint64_t unit, count;

	if (!pick_copy(e, WRITABLE, &v) || v.clusters == 0) {
		return;
	}
	unit = rnd(e, v.clusters * HARNESS_UNITS);
	count = 1 + rnd(e, MIN(v.clusters * HARNESS_UNITS - unit, rnd(e, 4) == 0 ? 30u : 5u));
	if (rnd(e, 2) == 0) {
		say(e, "begin write %s %" PRIu64 "+%" PRIu64, v.name, unit, count);
		play_begin_write(e->p, (unsigned)rnd(e, BLOB_ENV_WORKERS), v.name, unit, count);
	} else {
		enum blob_op op = ops[rnd(e, ARRAY_SIZE(ops))];

		say(e, "I/O %d %s %" PRIu64 "+%" PRIu64, op, v.name, unit, count);
		play_rw(e->p, v.name, op, unit, count);
	}
}

static void
op_flush(struct episode *e)
{
	say(e, "flush");
	play_flush(e->p);
}

/* ---- Ends and errors ---- */

static void begin_again(struct episode *e, const struct powercut_rule *rule);

static void
check(struct episode *e, bool exact)
{
	bool failed;

	play_end_writes(e->p);
	play_idle(e->p);
	if (e->p->over) {
		return;
	}
	failed = e->p->errors && blob_mem_faults(e->p->mem) > 0;
	blob_mem_set_fault(e->p->mem, NULL);
	e->p->errors = false;
	if (failed) {
		/* Background work that failed is taken up again when the store is loaded, at the latest. */
		play_check_data(e->p, exact);
		begin_again(e, NULL);
		return;
	}
	play_check_state(e->p);
	play_check_space(e->p);
	play_check_data(e->p, exact);
}

/* Another play with what is left. */
static void
begin_again(struct episode *e, const struct powercut_rule *rule)
{
	struct play *next = malloc(sizeof(*next));

	EXPECT(next != NULL);
	play_abandon(e->p);
	say(e, "again, with what is left: %s", rule == NULL ? "the process ended" : powercut_mode_name(rule->mode));
	play_resume(next, e->p, rule);
	play_close(e->p);
	free(e->p);
	e->p = next;
	e->faulted = false;
	play_check_disk(e->p);
	if (rnd(e, 4) == 0) {
		blob_mem_cut_at(e->p->mem, 1 + rnd(e, 20));
	}
	if (play_load(e->p)) {
		play_idle(e->p);
	}
	if (blob_mem_was_cut(e->p->mem)) {
		const struct powercut_rule next_rule = blob_mem_rule(e->seed + e->step, rnd(e, 4));

		begin_again(e, &next_rule);
		return;
	}
	blob_mem_cut_at(e->p->mem, 0);
	check(e, rule == NULL);
	play_settle_data(e->p);
}

static void
op_cut(struct episode *e)
{
	if (rnd(e, 3) == 0) {
		uint64_t n = 1 + rnd(e, 40);

		say(e, "the power will go at change %" PRIu64, n);
		blob_mem_cut_at(e->p->mem, n);
	}
}

static void
op_reload(struct episode *e)
{
	play_end_writes(e->p);
	if (rnd(e, 2) == 0) {
		begin_again(e, NULL);
		return;
	}
	say(e, "reload");
	if (play_unload(e->p) && play_load(e->p)) {
		EXPECT(e->faulted || !blob_env_info(&e->p->env).recovered);
		e->faulted = false;
		check(e, true);
	}
}

static void
op_fault(struct episode *e)
{
	static const unsigned ops[] = {BLOB_MEM_OP(BLOB_DEV_READ), BLOB_MEM_MODIFIES, BLOB_MEM_OP(BLOB_DEV_FLUSH)};
	struct blob_mem_fault fault = {.ops = ops[rnd(e, ARRAY_SIZE(ops))], .after = rnd(e, 10), .count = 1};

	if (rnd(e, 2) == 0 && !e->p->errors) {
		say(e, "a fault of %x after %" PRIu64, fault.ops, fault.after);
		e->p->errors = true;
		e->faulted = true;
		blob_mem_set_fault(e->p->mem, &fault);
	}
}

static void
op_check(struct episode *e)
{
	check(e, true);
}

static const struct {
	void (*fn)(struct episode *e);
	unsigned weight;
} ops[] = {
	{op_create, 8}, {op_delete, 7},    {op_snapshot, 8}, {op_clone, 5},  {op_resize, 4}, {op_xattr, 3},
	{op_super, 1},  {op_read_only, 1}, {op_parent, 5},   {op_data, 40},  {op_flush, 6},  {op_cut, 4},
	{op_reload, 3}, {op_fault, 2},     {op_check, 4},    {op_grow, 2},   {op_external, 4}, {op_rename, 2},
};

static void
one_step(struct episode *e)
{
	unsigned total = 0, at;

	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		total += ops[i].weight;
	}
	at = (unsigned)rnd(e, total);
	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		if (at < ops[i].weight) {
			ops[i].fn(e);
			return;
		}
		at -= ops[i].weight;
	}
}

/* ---- Episodes ---- */

static void
episode(uint64_t seed, unsigned steps, bool real_threads)
{
	struct episode e = {.seed = seed, .random = powercut_seed(seed, 7), .steps = steps};
	const struct blob_mem_options options = {.bytes = 10 << 20,
						 .block_size = rnd(&e, 2) == 0 ? 512 : 4096,
						 .write_cache = rnd(&e, 4) > 0,
						 .shuffle = rnd(&e, 2) == 0,
						 .copies = rnd(&e, 2) == 0,
						 .seed = seed};

	e.trace = getenv("BERTH_TEST_TRACE") != NULL;
	e.p = malloc(sizeof(*e.p));
	EXPECT(e.p != NULL);
	play_open(e.p, &options, real_threads);
	e.p->direct = rnd(&e, 2) == 0;
	play_image(e.p, 1 + rnd(&e, (CLUSTERS_MAX + 2) * HARNESS_UNITS), seed, rnd(&e, 3) > 0);
	play_create(e.p);
	for (e.step = 0; e.step < e.steps; e.step++) {
		play_where("episode %" PRIu64 ", step %u%s", seed, e.step, real_threads ? ", real threads" : "");
		if (e.p->over) {
			const struct powercut_rule rule = blob_mem_rule(seed + e.step, rnd(&e, 4));

			begin_again(&e, blob_mem_was_cut(e.p->mem) ? &rule : NULL);
			blob_mem_set_shuffle(e.p->mem, options.shuffle, seed + e.step);
		}
		e.p->mark = rnd(&e, 3) == 0 ? "marked" : NULL;
		one_step(&e);
	}
	play_where("episode %" PRIu64 ", the end", seed);
	blob_mem_cut_at(e.p->mem, 0);
	check(&e, false); /* takes faults away, too: whether one hit it has to know */
	if (e.p->over) {
		begin_again(&e, NULL);
	}
	EXPECT(play_unload(e.p));
	play_check_disk(e.p);
	play_close(e.p);
	free(e.p);
}

static void
episodes(bool real_threads, unsigned seconds)
{
	const char *steps = getenv("BERTH_TEST_STEPS");
	uint64_t first = test_seed(1), seed = first;
	uint64_t end_ns = clock_now_ns() + test_seconds(seconds) * NS_PER_S;

	do {
		episode(seed++, steps != NULL ? (unsigned)strtoul(steps, NULL, 10) : STEPS, real_threads);
	} while (clock_now_ns() < end_ns);
	printf("episodes %" PRIu64 " to %" PRIu64 "\n", first, seed - 1);
}

static void
by_hand(void **state)
{
	episodes(false, 2);
}

static void
with_threads(void **state)
{
	episodes(true, 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(by_hand),
		cmocka_unit_test(with_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
