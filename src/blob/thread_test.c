/* SPDX-License-Identifier: BSD-3-Clause */
/* Gates, grace periods, and how channels come and go under them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>

#include "blob/harness_hammer.h"
#include "blob/internal.h"
#include "testkit/hand.h"

struct stage {
	struct blob_env env;
	struct blob_mem *mem;
	struct blob *vol;
	uint64_t units; /* of a cluster */
};

static const struct blob_mem_options plain = {.bytes = 64 << 20, .write_cache = true};

static void
in_all_modes(void (*fn)(struct stage *s))
{
	for (unsigned i = 0; i < 6; i++) {
		struct stage s;

		memset(&s, 0, sizeof(s));
		blob_env_start(&s.env, hand_modes[i % 3], i >= 3);
		s.mem = blob_mem_create(&plain);
		s.env.options.cluster_bytes = 16384;
		s.env.options.md_pages = 1024;
		s.units = 32;
		EXPECT_SAY(blob_env_create(&s.env, blob_mem_dev(s.mem)) == 0, "%s", s.env.err.text);
		s.vol = blob_env_volume(&s.env, 100, true);
		fn(&s);
		EXPECT_SAY(blob_env_unload(&s.env) == 0, "%s", s.env.err.text);
		blob_env_stop(&s.env);
		blob_mem_free(s.mem);
	}
}

static void
wait_held(struct stage *s, unsigned n)
{
	for (unsigned i = 0; blob_mem_held(s->mem) < n; i++) {
		EXPECT_SAY(i < 10000, "%u of %u are held", blob_mem_held(s->mem), n);
		blob_env_linger(&s->env, 1);
	}
	EXPECT(blob_mem_held(s->mem) == n);
}

/* ---- The owner's side ---- */

struct wait {
	struct stage *s;
	struct blob_wait wait;
	struct blob *blob;
	enum blob_gate gate;
	atomic_bool done;
};

static void
wait_done(struct blob_wait *wait)
{
	struct wait *w = CONTAINER_OF(wait, struct wait, wait);

	EXPECT(thread_self() == w->s->env.app);
	EXPECT(!atomic_exchange(&w->done, true));
}

static void
close_on_app(void *arg)
{
	struct wait *w = arg;

	gate_close(w->blob, w->gate, &w->wait, wait_done);
	EXPECT(!atomic_load(&w->done));
}

static void
gate(struct stage *s, struct wait *w, enum blob_gate level)
{
	*w = (struct wait){.s = s, .blob = s->vol, .gate = level};
	blob_env_call(&s->env, s->env.app, close_on_app, w);
}

static void
open_on_app(void *arg)
{
	gate_open(arg);
}

static void
ungate(struct stage *s)
{
	blob_env_call(&s->env, s->env.app, open_on_app, s->vol);
}

static void
grace_on_app(void *arg)
{
	struct wait *w = arg;

	grace_start(w->s->env.store, &w->wait, wait_done);
	EXPECT(!atomic_load(&w->done));
}

static void
grace(struct stage *s, struct wait *w)
{
	*w = (struct wait){.s = s};
	blob_env_call(&s->env, s->env.app, grace_on_app, w);
}

static bool
still_waits(struct stage *s, atomic_bool *done)
{
	blob_env_linger(&s->env, 3);
	return !atomic_load(done);
}

/* ---- Gates ---- */

static void
gate_for_writes(struct stage *s)
{
	struct blob_env_channel *c = blob_env_open(&s->env, 0, s->vol), *d = blob_env_open(&s->env, 1, s->vol);
	struct blob_env_io direct, slow, later[2], read;
	uint8_t buf[5][512];
	struct wait w;

	EXPECT(blob_env_fill(c, 0, 1, 1) == 0);
	for (unsigned i = 0; i < 5; i++) {
		blob_env_pattern(buf[i], 512, i * s->units, 1, 2);
	}
	c->direct = true;
	blob_mem_hold(s->mem, BLOB_MEM_MODIFIES);
	blob_env_submit(c, &direct, BLOB_WRITE, 0, 1, buf[0]);
	blob_env_submit(d, &slow, BLOB_WRITE, s->units, 1, buf[1]);
	wait_held(s, 2);
	gate(s, &w, BLOB_GATE_WRITES);
	EXPECT(still_waits(s, &w.done));
	blob_env_submit(c, &later[0], BLOB_WRITE, 0, 1, buf[0]);
	blob_env_submit(d, &later[1], BLOB_UNMAP, 3 * s->units, 2 * s->units, NULL);
	blob_env_submit(d, &read, BLOB_READ, 0, 1, buf[4]);
	EXPECT(blob_env_finish(&read) == 0); /* reads pass */
	EXPECT(blob_mem_let_go(s->mem, 0));
	EXPECT(still_waits(s, &w.done)); /* for the other one, and its commit */
	blob_mem_hold(s->mem, 0);
	EXPECT(blob_env_finish(&direct) == 0);
	EXPECT(blob_env_finish(&slow) == 0);
	blob_env_wait(&s->env, &w.done);
	EXPECT(still_waits(s, &later[0].done) && still_waits(s, &later[1].done));
	EXPECT(blob_env_holds(d, s->units, 1, 2));
	ungate(s);
	EXPECT(blob_env_finish(&later[0]) == 0);
	EXPECT(blob_env_finish(&later[1]) == 0);
	blob_env_close(c);
	blob_env_close(d);
}

static void
a_gate_lets_writes_end_and_no_more_begin(void **state)
{
	(void)state;
	in_all_modes(gate_for_writes);
}

static void
gate_for_all(struct stage *s)
{
	struct blob_env_channel *c = blob_env_open(&s->env, 0, s->vol), *d;
	struct blob_env_io before, later[2];
	uint8_t buf[3][512];
	struct wait writes, all;

	EXPECT(blob_env_fill(c, 0, 1, 1) == 0);
	blob_mem_hold(s->mem, BLOB_MEM_OP(BLOB_DEV_READ));
	gate(s, &writes, BLOB_GATE_WRITES);
	blob_env_wait(&s->env, &writes.done);
	blob_env_submit(c, &before, BLOB_READ, 0, 1, buf[0]); /* passes that one */
	wait_held(s, 1);
	gate(s, &all, BLOB_GATE_ALL);
	EXPECT(still_waits(s, &all.done));
	blob_env_submit(c, &later[0], BLOB_READ, 0, 1, buf[1]);
	d = blob_env_open(&s->env, 1, s->vol); /* a channel that comes meanwhile */
	blob_env_submit(d, &later[1], BLOB_READ, 0, 1, buf[2]);
	EXPECT(still_waits(s, &later[1].done));
	EXPECT(blob_mem_held(s->mem) == 1);
	blob_mem_hold(s->mem, 0);
	blob_env_wait(&s->env, &all.done);
	EXPECT(blob_env_finish(&before) == 0);
	ungate(s); /* one of two */
	EXPECT(still_waits(s, &later[0].done) && still_waits(s, &later[1].done));
	ungate(s);
	EXPECT(blob_env_finish(&later[0]) == 0);
	EXPECT(blob_env_finish(&later[1]) == 0);
	blob_env_close(c);
	blob_env_close(d);
}

static void
gates_of_two_and_for_all(void **state)
{
	(void)state;
	in_all_modes(gate_for_all);
}

static void
cancel_on_worker(void *arg)
{
	blob_channel_cancel(&((struct blob_env_channel *)arg)->ch, -ENODEV);
}

static void
cancel_held(struct stage *s)
{
	struct blob_env_channel *c = blob_env_open(&s->env, 1, s->vol);
	struct blob_env_io io[3];
	uint8_t buf[512] = {0};
	struct wait w;

	gate(s, &w, BLOB_GATE_WRITES);
	for (unsigned i = 0; i < 3; i++) {
		blob_env_submit(c, &io[i], BLOB_WRITE, i, 1, buf);
	}
	blob_env_wait(&s->env, &w.done);
	blob_env_call(&s->env, c->worker->thread, cancel_on_worker, c);
	for (unsigned i = 0; i < 3; i++) {
		EXPECT(blob_env_finish(&io[i]) == -ENODEV);
	}
	EXPECT(io[0].order < io[1].order && io[1].order < io[2].order);
	blob_env_close(c);
	ungate(s);
}

static void
what_is_held_can_be_cancelled(void **state)
{
	(void)state;
	in_all_modes(cancel_held);
}

/* ---- Grace periods ---- */

static void
graces(struct stage *s)
{
	struct blob_env_channel *c = blob_env_open(&s->env, 0, s->vol), *d = blob_env_open(&s->env, 1, s->vol);
	struct blob_env_io a, b, e;
	uint8_t buf[3][512];
	struct wait first, second, third;

	EXPECT(blob_env_fill(c, 0, 1, 1) == 0);
	grace(s, &first);
	blob_env_wait(&s->env, &first.done); /* nobody is there */
	c->direct = true;
	blob_mem_hold(s->mem, BLOB_MEM_OP(BLOB_DEV_READ));
	blob_env_submit(c, &a, BLOB_READ, 0, 1, buf[0]);
	grace(s, &first);
	EXPECT(still_waits(s, &first.done));
	blob_env_submit(c, &e, BLOB_READ, 0, 1, buf[2]); /* after it has begun */
	wait_held(s, 2);
	EXPECT(blob_mem_let_go(s->mem, 1));
	EXPECT(blob_env_finish(&e) == 0);
	EXPECT(still_waits(s, &first.done)); /* for those before it only */
	blob_env_submit(d, &b, BLOB_READ, 0, 1, buf[1]);
	wait_held(s, 2);
	grace(s, &second);
	grace(s, &third);
	EXPECT(blob_mem_let_go(s->mem, 0));
	blob_env_wait(&s->env, &first.done);
	EXPECT(blob_env_finish(&a) == 0);
	EXPECT(still_waits(s, &second.done));
	blob_env_submit(c, &e, BLOB_READ, 0, 1, buf[2]);
	EXPECT(still_waits(s, &third.done));
	EXPECT(blob_mem_let_go(s->mem, 0));
	EXPECT(blob_env_finish(&b) == 0);
	blob_env_wait(&s->env, &second.done);
	blob_env_wait(&s->env, &third.done);
	EXPECT(!atomic_load(&e.done));
	blob_mem_hold(s->mem, 0);
	EXPECT(blob_env_finish(&e) == 0);
	blob_env_close(c);
	blob_env_close(d);
}

static void
a_grace_period_waits_for_those_before_it(void **state)
{
	(void)state;
	in_all_modes(graces);
}

/* ---- All of it under load ---- */

static void
load(struct stage *s)
{
	struct hammer h[2] = {0};
	struct wait w[2];

	for (unsigned i = 0; i < 2; i++) {
		h[i] = (struct hammer){.c = blob_env_open(&s->env, i, s->vol), .share = i, .shares = 2, .seed = i + 1,
				       .count = 3000, .units = 100 * s->units, .direct = true};
		hammer_start(&h[i]);
	}
	for (unsigned round = 0; round < 100 && !(atomic_load(&h[0].done) && atomic_load(&h[1].done)); round++) {
		struct blob_env_channel *c;

		gate(s, &w[0], round % 2 == 0 ? BLOB_GATE_WRITES : BLOB_GATE_ALL);
		grace(s, &w[1]);
		c = blob_env_open(&s->env, round % 2, s->vol);
		blob_env_wait(&s->env, &w[0].done);
		ungate(s);
		blob_env_close(c);
		blob_env_wait(&s->env, &w[1].done);
	}
	for (unsigned i = 0; i < 2; i++) {
		hammer_finish(&h[i]);
		hammer_verify(&h[i]);
		blob_env_close(h[i].c);
		hammer_free(&h[i]);
	}
}

static void
gates_and_graces_under_load(void **state)
{
	(void)state;
	in_all_modes(load);
}

/* ---- One instant ---- */

/* Writes n to one volume, then to the other, then n + 1... */
struct pair {
	struct blob_env_channel *c[2];
	struct blob_io *io;
	uint64_t n, most;
	unsigned which;
	struct iovec iov;
	uint64_t buf[64];
	atomic_bool done;
};

static struct pair *pairs;

static void pair_write(struct pair *p);

static void
pair_done(struct blob_io *io, int status)
{
	struct pair *p = pairs;

	(void)io;
	EXPECT_SAY(status == 0, "%d", status);
	p->which = !p->which;
	if (p->which == 0 && p->n == p->most) {
		atomic_store(&p->done, true);
		return;
	}
	pair_write(p);
}

static void
pair_write(struct pair *p)
{
	if (p->which == 0) {
		p->buf[0] = ++p->n;
	}
	p->io->done = pair_done;
	p->io->iov = &p->iov;
	p->io->iovcnt = 1;
	p->io->unit = 5;
	p->io->count = 1;
	p->io->op = BLOB_WRITE;
	blob_submit(&p->c[p->which]->ch, p->io);
}

static void
pair_start(void *arg)
{
	pair_write(arg);
}

static uint64_t
stamp(struct stage *s, struct blob *blob)
{
	struct blob_env_channel *c = blob_env_open(&s->env, 0, blob);
	uint64_t buf[64];

	EXPECT(blob_env_rw(c, BLOB_READ, 5, 1, buf) == 0);
	blob_env_close(c);
	return buf[0];
}

static void
instant(struct stage *s)
{
	struct pair p = {.most = 1500};
	struct blob *b[2] = {s->vol, blob_env_volume(&s->env, 10, true)};
	uint64_t before = 0;

	for (unsigned i = 0; i < 2; i++) {
		p.c[i] = blob_env_open(&s->env, 1, b[i]);
	}
	p.io = aligned_alloc(64, (blob_io_bytes(s->env.store) + 63) & ~(size_t)63);
	EXPECT(p.io != NULL);
	p.iov = (struct iovec){p.buf, sizeof(p.buf)};
	pairs = &p;
	blob_env_call(&s->env, s->env.workers[1].thread, pair_start, &p);
	for (unsigned n = 0; n < 60 && !atomic_load(&p.done); n++) {
		struct blob_snapshot group[2] = {{.blob = b[0]}, {.blob = b[1]}};
		uint64_t first, second;

		EXPECT_SAY(blob_env_snapshots(&s->env, group, 2) == 0, "%s", s->env.err.text);
		first = stamp(s, group[0].snapshot);
		second = stamp(s, group[1].snapshot);
		EXPECT_SAY(second <= first && first <= second + 1, "%lu, %lu", (unsigned long)first, (unsigned long)second);
		EXPECT(first >= before);
		before = second;
		blob_env_linger(&s->env, 2);
	}
	blob_env_wait(&s->env, &p.done);
	EXPECT(stamp(s, b[0]) == p.most && stamp(s, b[1]) == p.most);
	for (unsigned i = 0; i < 2; i++) {
		blob_env_close(p.c[i]);
	}
	free(p.io);
}

static void
a_group_of_snapshots_is_one_instant(void **state)
{
	(void)state;
	in_all_modes(instant);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_gate_lets_writes_end_and_no_more_begin),
		cmocka_unit_test(gates_of_two_and_for_all),
		cmocka_unit_test(what_is_held_can_be_cancelled),
		cmocka_unit_test(a_grace_period_waits_for_those_before_it),
		cmocka_unit_test(gates_and_graces_under_load),
		cmocka_unit_test(a_group_of_snapshots_is_one_instant),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
