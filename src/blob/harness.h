/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the tests of crashes and the model test share.
 *
 * A model: what a store should have in it, volumes by name (their xattr "name"), said as one text that is compared with that
 * of the store; and what each unit of each volume may hold: the value that was flushed last, and those written since.
 * A play: a store on a disk of memory with its model. Each step of it is a change of the store and of the model; when the
 * power goes during a step, both the model before and the model after are kept, and the store must be like one of them.
 * A scene: what is prepared and what is done then, cut at every change of the device (harness_crash.c).
 */
#ifndef BLOB_HARNESS_H
#define BLOB_HARNESS_H

#include "base/list.h"
#include "testkit/blob_env.h"

#define HARNESS_CLUSTER_BYTES 16384u
#define HARNESS_UNIT_BYTES 4096u
#define HARNESS_UNITS (HARNESS_CLUSTER_BYTES / HARNESS_UNIT_BYTES)
#define HARNESS_NAME_BYTES 32
#define HARNESS_VALUES 8
#define HARNESS_ANY UINT32_MAX /* anything */

/* ---- Model ---- */

/* What a unit may hold: numbers of writes, 0: zeroes. values[acked]: the newest that was answered; those behind it were not;
 * those before it were not flushed since. */
struct model_cell {
	uint32_t values[HARNESS_VALUES];
	uint8_t count, acked;
	bool touched;
};

struct model_volume {
	struct list link;
	char name[HARNESS_NAME_BYTES];
	char parent[HARNESS_NAME_BYTES]; /* "": none */
	char xattr[HARNESS_NAME_BYTES];  /* value of the xattr "x", "": none */
	uint64_t clusters;
	bool thin, read_only, deleted;
	bool external; /* over the image */
};

struct model {
	struct list volumes;
	char super[HARNESS_NAME_BYTES];
	uint64_t total_clusters;
};

void model_init(struct model *m);
void model_copy(struct model *to, const struct model *from);
void model_release(struct model *m);
struct model_volume *model_find(const struct model *m, const char *name);
struct model_volume *model_add(struct model *m, const char *name, uint64_t clusters, bool thin);
unsigned model_clones(const struct model *m, const char *name);
void model_snapshot(struct model *m, const char *name, const char *snapshot);
void model_clone(struct model *m, const char *snapshot, const char *name);
void model_delete(struct model *m, const char *name);
void model_rename(struct model *m, const char *name, const char *to);
void model_settle(struct model *m); /* what becomes of deleted snapshots */
char *model_text(const struct model *m);      /* to be freed */

struct model_data { /* of one volume */
	struct list link;
	char name[HARNESS_NAME_BYTES];
	uint64_t units;
	struct model_cell *cells;
};

/* ---- Plays ---- */

#define PLAY_WRITES 8

struct play_write {
	struct blob_env_channel *c; /* NULL: free */
	struct blob_env_io io;
	char name[HARNESS_NAME_BYTES];
	uint32_t value;
	void *buf;
};

struct play {
	struct blob_env env;
	struct blob_mem *mem;
	struct blob_mem *image; /* an external snapshot; NULL: none */
	bool image_seeks;       /* knows its holes */
	const char *mark;       /* the xattr "x" of what is created, in the same step; NULL: none */
	struct model model;  /* after the step that runs, or ran last */
	struct model before; /* it */
	struct list data;    /* struct model_data, of all volumes of either */
	uint32_t next_value;
	bool direct;   /* I/O goes the short way where it can */
	bool doubtful; /* the step under way was not answered */
	bool over;     /* the power went, or the store is broken */
	bool errors;   /* steps may fail without a cut: nothing has changed then */
	int status;    /* of the last step */
	struct play_write writes[PLAY_WRITES]; /* under way */
};

/* Where a failure was, for people. */
void play_where(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

void play_open(struct play *p, const struct blob_mem_options *options, bool real_threads); /* and makes a store */
/* The same with what is left of another's disk. */
void play_resume(struct play *p, const struct play *from, const struct powercut_rule *rule);
/* So many units with holes between; the last one is data. */
void play_image(struct play *p, uint64_t units, uint64_t seed, bool seeks);
bool play_load(struct play *p);
void play_create(struct play *p);
bool play_unload(struct play *p);
void play_abandon(struct play *p); /* also ends writes under way */
void play_close(struct play *p);   /* no store is open */

/* Steps: true: done, and answered. Nothing happens when the play is over. */
bool play_volume(struct play *p, const char *name, uint64_t clusters, bool thin);
bool play_external(struct play *p, const char *name, uint64_t clusters); /* over the image */
/* Of one step with the xattr "x". */
bool play_rename(struct play *p, const char *name, const char *to, const char *value);
bool play_snapshot(struct play *p, const char *name, const char *snapshot);
bool play_snapshots(struct play *p, const char *const *names, const char *const *snapshots, unsigned count);
bool play_clone(struct play *p, const char *snapshot, const char *name);
bool play_delete(struct play *p, const char *name);
bool play_resize(struct play *p, const char *name, uint64_t clusters);
bool play_xattr(struct play *p, const char *name, const char *value); /* NULL: removed */
/* Makes the volume's metadata longer than one page; no part of the model. */
bool play_long_chain(struct play *p, const char *name);
bool play_read_only(struct play *p, const char *name);
bool play_inflate(struct play *p, const char *name);
bool play_decouple(struct play *p, const char *name);
bool play_set_parent(struct play *p, const char *name, const char *parent);
bool play_super(struct play *p, const char *name);
bool play_grow(struct play *p, uint64_t bytes);
void play_idle(struct play *p);

/* Data: in units. */
bool play_rw(struct play *p, const char *name, enum blob_op op, uint64_t unit, uint64_t count);
bool play_write(struct play *p, const char *name, uint64_t unit, uint64_t count);
bool play_flush(struct play *p);
/* Begins a write, if it overlaps none that is under way and there is room for it; or waits for all that were begun. */
void play_begin_write(struct play *p, unsigned worker, const char *name, uint64_t unit, uint64_t count);
bool play_end_writes(struct play *p);

struct blob *play_find(struct play *p, const char *name);
/* The store is like the model after, or, when the last step was not answered, before; the model is what it is afterwards. */
void play_check_state(struct play *p);
/* Nobody has another's cluster or page; all that nobody has is free. The store is idle. */
void play_check_space(struct play *p);
/* All volumes hold what they may. exact: the newest that was answered, or one that was not. */
void play_check_data(struct play *p, bool exact);
/* What is there is what will be there from now on. */
void play_settle_data(struct play *p);
/* The store is still good for something. */
void play_works(struct play *p);
/* The offline checker finds nothing wrong with the disk. */
void play_check_disk(struct play *p);

/* ---- Scenes ---- */

struct scene {
	const char *name;
	void (*prepare)(struct play *p); /* NULL: an empty store */
	void (*act)(struct play *p);     /* NULL: nothing but what the load sets going */
	bool no_store;  /* act creates it */
	bool unclean;   /* it was not unloaded before */
	bool from_load; /* cuts are counted from the load on, not from its end */
	bool shuffle;
};
void scene_crash(const struct scene *scene);
/* As cmocka has it: the scene is the initial state. */
void scene_test(void **state);
#define SCENE_TEST(s) {(s)->name, scene_test, NULL, NULL, (void *)(uintptr_t)(s)}

/* BERTH_TEST_SECONDS, or so many. */
unsigned test_seconds(unsigned otherwise);
/* BERTH_TEST_SEED, or this one. */
uint64_t test_seed(uint64_t otherwise);

#endif
