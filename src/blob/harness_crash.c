/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Cuts at every change of the device: the scene is prepared once; then it is played again and again on copies of that disk,
 * with the power going one change later each time, until it ends without. After each cut the disk is looked at as the
 * rules leave it: nothing of what was not flushed, all of it (which is also the end of a process), a part in order, any
 * part; every time loaded, with more cuts during that in between, and compared.
 */
#include "blob/harness.h"

#include <string.h>

#include "base/check.h"
#include "base/clock.h"

#define CUTS_MAX 100000
#define RULES 4
#define RECUTS 2

unsigned
test_seconds(unsigned otherwise)
{
	const char *text = getenv("BERTH_TEST_SECONDS");

	return text != NULL ? (unsigned)strtoul(text, NULL, 10) : otherwise;
}

uint64_t
test_seed(uint64_t otherwise)
{
	const char *text = getenv("BERTH_TEST_SEED");

	return text != NULL ? strtoull(text, NULL, 0) : otherwise;
}

struct run {
	const struct scene *scene;
	bool write_cache;
	uint64_t seed;
	struct play base; /* prepared */
	uint64_t k;
};

/* ---- Afterwards ---- */

/* The power goes again while the store is being loaded, or does in the background what it found to do. Another play, with what is
 * left of p's, which is over. */
static struct play *
cut_again(struct play *p, uint64_t seed)
{
	struct play *next = malloc(sizeof(*next));
	struct powercut_rule rule = blob_mem_rule(seed, seed % RULES);

	EXPECT(next != NULL);
	blob_mem_cut_at(p->mem, 1 + seed / RULES % 7);
	if (play_load(p)) {
		play_idle(p);
	}
	play_abandon(p);
	play_resume(next, p, blob_mem_was_cut(p->mem) ? &rule : NULL);
	play_close(p);
	free(p);
	return next;
}

static void
look(struct run *run, const struct play *cut, unsigned n)
{
	const struct powercut_rule rule = blob_mem_rule(run->seed + run->k, n);
	struct play *p = malloc(sizeof(*p));

	EXPECT(p != NULL);
	play_where("scene %s, write cache %d, seed %llu, cut at %llu, rule %u (%s)", run->scene->name, run->write_cache,
		   (unsigned long long)run->seed, (unsigned long long)run->k, n, powercut_mode_name(rule.mode));
	play_resume(p, cut, &rule);
	if (run->scene->no_store && cut->model.total_clusters == 0) {
		/* Creation was not answered: there is a whole store or none. */
		p->errors = true;
		if (play_load(p)) {
			p->model.total_clusters = blob_env_info(&p->env).total_clusters;
			play_abandon(p);
		} else {
			play_close(p);
			free(p);
			return;
		}
		p->errors = false;
		p->over = false;
	}
	play_check_disk(p);
	for (unsigned i = 0; i < RECUTS && (n + run->k) % 3 == 0; i++) {
		p = cut_again(p, powercut_seed(run->seed, run->k * RULES * RECUTS + n * RECUTS + i));
	}
	EXPECT(play_load(p));
	play_idle(p);
	play_check_state(p);
	play_check_space(p);
	play_check_data(p, rule.mode == POWERCUT_KEPT);
	play_settle_data(p);
	play_works(p);
	EXPECT(play_unload(p));
	play_check_disk(p);
	EXPECT(play_load(p));
	EXPECT(!blob_env_info(&p->env).recovered);
	play_check_state(p);
	play_check_space(p);
	play_check_data(p, true);
	play_abandon(p);
	play_close(p);
	free(p);
}

/* ---- Plays ---- */

static void
prepare(struct run *run)
{
	const struct blob_mem_options options = {
		.bytes = 8 << 20,
		.block_size = run->write_cache ? 512 : 4096,
		.write_cache = run->write_cache,
		.unmap_fills = true,
		.copies = (run->seed + run->write_cache) % 2 == 0};

	play_where("scene %s, preparing", run->scene->name);
	play_open(&run->base, &options, false);
	if (run->scene->no_store) {
		return;
	}
	play_create(&run->base);
	if (run->scene->prepare != NULL) {
		run->scene->prepare(&run->base);
	}
	EXPECT(!run->base.over);
	if (run->scene->unclean) {
		play_abandon(&run->base);
	} else {
		EXPECT(play_unload(&run->base));
	}
}

/* All rules when there is time; else in turns. Without a cache there is one write that the rule is about: it is there, or not. */
static bool
looked_at(const struct run *run, unsigned n)
{
	if (test_seconds(0) > 0) {
		return true;
	}
	return run->write_cache ? n % 2 == (run->k + run->k / 2 + run->seed) % 2 : n == run->k % 2;
}

/* One with the power going at change k; false: it ended before. */
static bool
play_until(struct run *run)
{
	struct play *p = malloc(sizeof(*p));
	bool cut;

	EXPECT(p != NULL);
	play_where("scene %s, write cache %d, seed %llu, up to %llu", run->scene->name, run->write_cache,
		   (unsigned long long)run->seed, (unsigned long long)run->k);
	play_resume(p, &run->base, NULL);
	blob_mem_set_shuffle(p->mem, run->scene->shuffle, run->seed + run->k);
	if (run->scene->from_load || run->scene->no_store) {
		blob_mem_cut_at(p->mem, run->k);
	}
	if (!run->scene->no_store && play_load(p)) {
		if (!run->scene->from_load) {
			play_idle(p);
			blob_mem_cut_at(p->mem, run->k);
		}
	}
	if (!p->over && run->scene->act != NULL) {
		run->scene->act(p);
	}
	if (!p->over) {
		play_end_writes(p);
	}
	if (!p->over && p->env.store != NULL) {
		play_idle(p);
	}
	cut = blob_mem_was_cut(p->mem);
	if (!cut && p->env.store != NULL) {
		play_check_state(p);
		play_check_space(p);
		play_check_data(p, true);
	}
	play_abandon(p);
	for (unsigned n = 0; cut && n < RULES; n++) {
		if (looked_at(run, n)) {
			look(run, p, n);
		}
	}
	play_close(p);
	free(p);
	return cut;
}

static void
cut_everywhere(const struct scene *scene, bool write_cache, uint64_t seed)
{
	struct run *run = calloc(1, sizeof(*run));

	EXPECT(run != NULL);
	*run = (struct run){.scene = scene, .write_cache = write_cache, .seed = seed, .k = 1};
	prepare(run);
	while (play_until(run)) {
		EXPECT(run->k < CUTS_MAX);
		run->k++;
	}
	EXPECT_SAY(run->k > 1, "the scene changes nothing");
	play_close(&run->base);
	free(run);
}

void
scene_crash(const struct scene *scene)
{
	uint64_t seed = test_seed(1);
	uint64_t end_ns = clock_now_ns() + test_seconds(0) * NS_PER_S;

	do {
		cut_everywhere(scene, true, seed);
		cut_everywhere(scene, false, seed);
		seed++;
	} while (clock_now_ns() < end_ns);
}

void
scene_test(void **state)
{
	scene_crash(*state);
}
