/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A stage for tests of bdevs whose disk is elsewhere: a server, a target, a cluster. A test plugs in its peer, which can be
 * there, be silent and die; what every such bdev must do then is tested here, once for all of them.
 */
#ifndef TESTKIT_PEER_STAGE_H
#define TESTKIT_PEER_STAGE_H

#include "base/err.h"
#include "testkit/bdev_env.h"

struct peer_stage;

struct peer {
	const char *bdev; /* its name */

	/* App thread. Begins to make the bdev; then peer_stage_attached(), unless it is refused. 0 or -errno. */
	int (*attach)(struct peer_stage *s);
	/* The same, and then done(ctx, 0). */
	int (*detach)(struct peer_stage *s, void (*done)(void *ctx, int status), void *ctx);

	/* At least 8 MiB that can be read, with as many lanes as there are threads. */
	void (*start)(void);
	/* It takes what it is given, and does not answer; or does so again, to what it has first. */
	void (*silence)(bool silent);
	/* Its connections are gone, and no other can be made until start(). NULL: that is no different from silence. */
	void (*die)(void);
	/* It is not needed any more; it may be silent or dead. s: the threads still run. */
	void (*end)(struct peer_stage *s);
	bool brittle; /* it may not survive connections that are dropped while it is silent: it dies and starts again */
	bool greets; /* though it is silent, it takes connections as ever */
};

struct peer_stage {
	struct env env;
	const struct peer *peer;
	void *options; /* the test's own */
	struct err err;
	struct bdev *bdev;
	int rc;
	atomic_bool answered, gone;
};

/* Threads; the peer is the test's to start. */
void peer_stage_open(struct peer_stage *s, const struct peer *peer, void *options, enum reactor_mode mode, bool real_threads);
/* For attach(): bdev is NULL when err says why, or there is none yet. */
void peer_stage_attached(void *ctx, struct bdev *bdev, const struct err *err);

/* fn(s) on the app thread; it sets s->rc, which must be rc. */
void peer_stage_call(struct peer_stage *s, void (*fn)(void *arg), int rc);
/* Begins well; what came of it is in s. */
void peer_stage_attach(struct peer_stage *s);
/* Does not begin, or comes to nothing, for a reason with these words. */
void peer_stage_refuse(struct peer_stage *s, int rc, const char *words);
void peer_stage_fail(struct peer_stage *s, int rc, const char *words);
/* There is none of that name to detach. */
void peer_stage_lacks(struct peer_stage *s);
/* Its peer does not let it attach: it is detached before. */
void peer_stage_drop(struct peer_stage *s);
/* With a bdev, which is opened. */
void peer_stage_ready(struct peer_stage *s);
/* It is closed, detached and gone. */
void peer_stage_detach(struct peer_stage *s);
void peer_stage_close(struct peer_stage *s);

/* ---- Questions: reads straight into memory that is given back as soon as they have ended ---- */

struct peer_question {
	struct env_io io;
	struct iovec iov;
};

void peer_ask(struct peer_stage *s, struct peer_question *q, unsigned worker);
/* One on each worker, which are not answered. */
void peer_ask_all(struct peer_stage *s, struct peer_question q[ENV_WORKERS]);
void peer_ended(struct peer_question *q, int status);

/* ---- Requests of many blocks at once ---- */

#define PEER_IOS 40

struct peer_load {
	uint8_t written[PEER_IOS][4096], got[PEER_IOS][4096];
	struct env_io writes[PEER_IOS], reads[PEER_IOS];
	struct iovec out[PEER_IOS], in[PEER_IOS];
};

/* Other data with each seed, submitted on all workers. */
void peer_load_write(struct peer_stage *s, struct peer_load *l, unsigned seed);
/* All that was written has ended well, and is read back. */
void peer_load_check(struct peer_stage *s, struct peer_load *l);

/* ---- Tests; each starts and ends the peer, and takes options for the stage ---- */

/* A reset and giving up end what waits, and only that; others' requests are answered when it speaks, or is back. */
void peer_test_cancels(const struct peer *peer, void *options, enum reactor_mode mode, bool real_threads);
/* A healthy one answers what it has before it is done without. */
void peer_test_is_patient(const struct peer *peer, void *options, enum reactor_mode mode, bool real_threads);
/* Whatever waits for it, be it a connection, the bdev goes. */
void peer_test_is_removed(const struct peer *peer, void *options, enum reactor_mode mode, bool real_threads);
/* Detached while its peer is dead: what waits ends, and so does the bdev. */
void peer_test_goes_without(const struct peer *peer, void *options, bool real_threads);
/* One that stays away: with a limit of a second in its options, requests end with an error, and go again when it is back. */
void peer_test_gives_up(const struct peer *peer, void *options);

#endif
