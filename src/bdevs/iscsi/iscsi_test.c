/* SPDX-License-Identifier: BSD-3-Clause */
/* Against a real target. */
#include "bdevs/iscsi/iscsi.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "bdev/module.h"
#include "bdevs/iscsi/harness.h"
#include "testkit/peer_stage.h"

#define DISK_BYTES ((uint64_t)8 << 20)

static struct tgt tgt;

static struct iscsi_bdev_options
options(const char *name)
{
	return (struct iscsi_bdev_options){.name = name,
					   .initiator_iqn = "iqn.2024-01.io.example:client",
					   .url = tgt_url(&tgt, "", 1),
					   .reconnect_s = 30,
					   .connect_ms = 60000};
}

/* ---- A stage ---- */

static struct iscsi_bdev_options opts;
static struct iscsi_bdev_info info;

static int
attach(struct peer_stage *s)
{
	return bdev_iscsi_create(s->options, peer_stage_attached, s, &s->err);
}

static int
detach(struct peer_stage *s, void (*done)(void *ctx, int status), void *ctx)
{
	return bdev_iscsi_delete(((const struct iscsi_bdev_options *)s->options)->name, done, ctx, &s->err);
}

static void
start(void)
{
	tgt_start(&tgt);
}

static void
silence(bool silent)
{
	tgt_pause(&tgt, silent);
}

static void
die(void)
{
	tgt_kill(&tgt);
}

static void
end_peer(struct peer_stage *s)
{
	tgt_release(&tgt);
}

static const struct peer peer = {.bdev = "iscsi0",
				 .attach = attach,
				 .detach = detach,
				 .start = start,
				 .silence = silence,
				 .die = die,
				 .end = end_peer};

static void
rescan(void *arg)
{
	struct peer_stage *s = arg;

	s->rc = bdev_iscsi_rescan(opts.name, &s->err);
}

static void
inform(void *arg)
{
	struct peer_stage *s = arg;

	s->rc = bdev_iscsi_info(s->bdev, &info) ? 0 : -ENODEV;
}

static void
stage_open(struct peer_stage *s, enum reactor_mode mode, bool real_threads)
{
	opts = options("iscsi0");
	peer_stage_open(s, &peer, &opts, mode, real_threads);
}

static void
stage_end(struct peer_stage *s)
{
	peer_stage_close(s);
	env_stop(&s->env);
	tgt_release(&tgt);
}

static void
set_timeout(unsigned seconds)
{
	EXPECT(bdev_iscsi_set_timeout(seconds, NULL) == 0 && bdev_iscsi_get_timeout() == seconds);
}

/* ---- Creating ---- */

static void
refuse(struct peer_stage *s, int rc, const char *words)
{
	peer_stage_refuse(s, rc, words);
	opts = options("iscsi0");
}

static void
fail_to_attach(struct peer_stage *s, int rc, const char *words)
{
	peer_stage_fail(s, rc, words);
	EXPECT_SAY(strstr(s->err.text, "geheim") == NULL, "%s", s->err.text);
	opts = options("iscsi0");
}

static void
says_what_is_wrong(void **state)
{
	struct peer_stage s;
	char url[256];

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt_start(&tgt);
	stage_open(&s, REACTOR_INTERRUPT, false);
	opts.url = "iscsi://me%geheim@host/t";
	refuse(&s, -EINVAL, "not of the form");
	opts.url = "iscsi://me@host/t/0";
	refuse(&s, -EINVAL, "chap_secret_file");
	opts.initiator_iqn = "";
	refuse(&s, -EINVAL, "initiator's name");
	opts.name = "";
	refuse(&s, -EINVAL, "name");
	opts.sessions = 65;
	refuse(&s, -EINVAL, "65 sessions");
	opts.secret_file = "/nonexistent/file";
	refuse(&s, -ENOENT, "/nonexistent/file");
	opts.url = tgt_url(&tgt, "", 7);
	fail_to_attach(&s, -ENODEV, "disk/7: there is no");
	opts.url = tgt_url(&tgt, "", 0); /* tgt's controller */
	fail_to_attach(&s, -ENODEV, "no disk");
	snprintf(url, sizeof(url), "iscsi://127.0.0.1:%u/iqn.2024-01.io.example:other/1", tgt.port);
	opts.url = url;
	fail_to_attach(&s, -ECONNREFUSED, "Target not found");
	tgt_kill(&tgt);
	fail_to_attach(&s, -ECONNREFUSED, "127.0.0.1");
	tgt_start(&tgt);
	tgt_pause(&tgt, true);
	opts.connect_ms = 100;
	fail_to_attach(&s, -ETIMEDOUT, "does not answer");
	tgt_pause(&tgt, false);
	peer_stage_attach(&s);
	EXPECT(s.bdev != NULL);
	refuse(&s, -EEXIST, "iscsi0");
	peer_stage_detach(&s);
	peer_stage_lacks(&s);
	peer_stage_call(&s, rescan, -ENODEV);
	EXPECT(bdev_iscsi_set_timeout(86401, &s.err) == -EINVAL);
	env_stop(&s.env);
	tgt_release(&tgt);
}

static void
looks_like_the_unit(void **state)
{
	uuid_t uuid, again;
	struct peer_stage s;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt.readonly = true;
	tgt_start(&tgt);
	stage_open(&s, REACTOR_INTERRUPT, false);
	peer_stage_attach(&s);
	EXPECT(s.bdev != NULL && bdev_readonly(s.bdev) && bdev_write_cache(s.bdev));
	EXPECT(bdev_block_size(s.bdev) == 512 && bdev_physical_block_size(s.bdev) == 4096);
	EXPECT(bdev_num_blocks(s.bdev) == DISK_BYTES / 512);
	EXPECT(bdev_supports_natively(s.bdev, BDEV_BLOCK_STATUS));
	EXPECT(!bdev_supports(s.bdev, BDEV_WRITE));
	bdev_uuid(s.bdev, uuid);
	peer_stage_detach(&s);
	tgt_kill(&tgt);
	tgt.readonly = false;
	tgt_start(&tgt);
	peer_stage_attach(&s);
	EXPECT(!bdev_readonly(s.bdev));
	EXPECT(bdev_supports_natively(s.bdev, BDEV_UNMAP) && bdev_supports_natively(s.bdev, BDEV_WRITE_ZEROES));
	EXPECT(bdev_supports_natively(s.bdev, BDEV_FLUSH));
	/* tgtd names a limit for it and does not know it. */
	EXPECT(!bdev_supports_natively(s.bdev, BDEV_COMPARE_AND_WRITE));
	bdev_uuid(s.bdev, again);
	EXPECT(uuid_compare(uuid, again) == 0);
	peer_stage_detach(&s);
	env_stop(&s.env);
	tgt_release(&tgt);
}

static void
proves_who_it_is(void **state)
{
	char path[96], url[256];
	struct peer_stage s;
	FILE *f;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt.user = "me";
	tgt.password = "geheimgeheim";
	tgt_start(&tgt);
	stage_open(&s, REACTOR_INTERRUPT, false);
	fail_to_attach(&s, -ECONNREFUSED, "uthentication");
	opts.url = tgt_url(&tgt, "me%geheim", 1);
	fail_to_attach(&s, -ECONNREFUSED, "uthentication");
	opts.url = tgt_url(&tgt, "me%geheimgeheim", 1);
	peer_stage_attach(&s);
	EXPECT_SAY(s.bdev != NULL, "%s", err_text(&s.err));
	peer_stage_call(&s, inform, 0);
	EXPECT(strstr(info.options.url, "me@127") != NULL && strstr(info.options.url, "geheim") == NULL);
	peer_stage_detach(&s);
	snprintf(path, sizeof(path), "%s/secret", tgt.dir);
	f = fopen(path, "w");
	EXPECT(f != NULL && fputs("geheimgeheim\n", f) >= 0 && fclose(f) == 0 && chmod(path, 0600) == 0);
	snprintf(url, sizeof(url), "%s", tgt_url(&tgt, "me", 1));
	opts.url = url;
	opts.secret_file = path;
	peer_stage_ready(&s);
	peer_stage_call(&s, inform, 0);
	EXPECT(strcmp(info.options.secret_file, path) == 0);
	/* Both other threads' sessions prove it, too. */
	EXPECT(env_rw(&s.env.workers[0], BDEV_FLUSH, 0, 0, NULL) == 0);
	EXPECT(env_rw(&s.env.workers[1], BDEV_FLUSH, 0, 0, NULL) == 0);
	peer_stage_call(&s, inform, 0);
	EXPECT(info.sessions == 3);
	unlink(path);
	stage_end(&s);
}

/* ---- Targets that go ---- */

/* It dies with commands it has not answered, others come while it is away: all are done when it is back. */
static void
dies_and_comes_back(enum reactor_mode mode, bool real_threads, unsigned sessions)
{
	static struct peer_load load;
	struct peer_stage s;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt_start(&tgt);
	stage_open(&s, mode, real_threads);
	opts.sessions = sessions;
	peer_stage_ready(&s);
	for (unsigned round = 0; round < 3; round++) {
		tgt_pause(&tgt, round != 1);
		peer_load_write(&s, &load, round);
		env_linger(&s.env, 5);
		tgt_kill(&tgt);
		env_linger(&s.env, 10);
		tgt_start(&tgt);
		peer_load_check(&s, &load);
	}
	peer_stage_call(&s, inform, 0);
	EXPECT_SAY(info.connects == 4 && info.sessions == (sessions != 0 ? MIN(sessions, 3u) : 3), "%u connects, %u",
		   info.connects, info.sessions);
	stage_end(&s);
}

static void
reconnects(void **state)
{
	dies_and_comes_back(REACTOR_INTERRUPT, false, 0);
	dies_and_comes_back(REACTOR_ADAPTIVE, true, 0);
	dies_and_comes_back(REACTOR_POLL, true, 1);
}

/* It is there, but does not answer: the session is made again, and the command sent again; the second time it is an error. */
static void
does_not_wait_for_ever(void **state)
{
	struct peer_question q;
	uint8_t block[512];
	struct peer_stage s;
	unsigned before;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt_start(&tgt);
	set_timeout(2);
	stage_open(&s, REACTOR_INTERRUPT, true);
	peer_stage_ready(&s);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == 0);
	peer_stage_call(&s, inform, 0);
	before = info.connects;
	tgt_pause(&tgt, true);
	peer_ask(&s, &q, 0);
	env_linger(&s.env, 2300);
	EXPECT(!atomic_load(&q.io.done));
	tgt_pause(&tgt, false);
	peer_ended(&q, 0);
	peer_stage_call(&s, inform, 0);
	EXPECT_SAY(info.connects == before + 1, "%u, %u before", info.connects, before);
	set_timeout(ISCSI_TIMEOUT_S_DEFAULT);
	stage_end(&s);
}

/* ---- What nobody waits for any more ---- */

/* A disk for a target that does not run yet. */
static void
disk_of_one(void)
{
	tgt_init(&tgt, DISK_BYTES, 512);
	opts = options("iscsi0");
}

static void
gives_up_after_a_while(void **state)
{
	disk_of_one();
	opts.reconnect_s = 1;
	peer_test_gives_up(&peer, &opts);
}

static void
is_cancelled(void **state)
{
	disk_of_one();
	peer_test_cancels(&peer, &opts, REACTOR_INTERRUPT, true);
	disk_of_one();
	opts.sessions = 1;
	peer_test_is_patient(&peer, &opts, REACTOR_ADAPTIVE, false);
	disk_of_one();
	opts.connect_ms = 600000;
	peer_test_is_removed(&peer, &opts, REACTOR_INTERRUPT, true);
}

static void
goes_without_target(void **state)
{
	for (int threads = 0; threads < 2; threads++) {
		disk_of_one();
		peer_test_goes_without(&peer, &opts, threads != 0);
	}
}

/* What came back is another disk, or a smaller one: it is not taken for the one that went. */
static void
is_not_deceived(void **state)
{
	uint8_t block[512];
	struct peer_stage s;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt_start(&tgt);
	stage_open(&s, REACTOR_INTERRUPT, true);
	opts.reconnect_s = 0;
	peer_stage_ready(&s);
	tgt_kill(&tgt);
	tgt_resize(&tgt, DISK_BYTES - 4096);
	tgt_start(&tgt);
	env_linger(&s.env, 200);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == -EIO);
	tgt_kill(&tgt);
	tgt_resize(&tgt, DISK_BYTES + 4096);
	tgt_start(&tgt);
	while (env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) != 0) {
		env_linger(&s.env, 20);
	}
	env_wait_size(&s.env, DISK_BYTES / 512 + 8);
	EXPECT(bdev_num_blocks(s.env.bdev) == DISK_BYTES / 512 + 8);
	stage_end(&s);
}

/* The unit goes while the target stays: as a target that goes. */
static void
waits_for_its_unit(void **state)
{
	struct peer_question q;
	uint8_t block[512];
	struct peer_stage s;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt_start(&tgt);
	stage_open(&s, REACTOR_ADAPTIVE, true);
	peer_stage_ready(&s);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == 0);
	tgt_take_unit(&tgt);
	peer_ask(&s, &q, 0);
	env_linger(&s.env, 50);
	EXPECT(!atomic_load(&q.io.done));
	tgt_resize(&tgt, DISK_BYTES * 2);
	tgt_give_unit(&tgt);
	peer_ended(&q, 0);
	env_wait_size(&s.env, DISK_BYTES / 256);
	EXPECT(bdev_num_blocks(s.env.bdev) == DISK_BYTES / 256);
	peer_stage_call(&s, rescan, 0);
	env_linger(&s.env, 10);
	EXPECT(atomic_load(&s.env.resizes) == 1);
	stage_end(&s);
}

static unsigned waiting;

static void
count_one(void *ctx, const struct iscsi_bdev_options *o)
{
	waiting += strcmp(o->name, "iscsi0") == 0;
}

static void
count_waiting(void *arg)
{
	waiting = 0;
	bdev_iscsi_for_each_waiting(count_one, NULL);
}

static void
shut_down(void *arg)
{
	bdev_iscsi_shutdown();
}

static void
awaits_target(void **state)
{
	struct peer_stage s;

	tgt_init(&tgt, DISK_BYTES, 512);
	stage_open(&s, REACTOR_INTERRUPT, false);
	opts.wait = true;
	peer_stage_attach(&s);
	EXPECT(s.bdev == NULL && s.err.code == 0);
	env_call(&s.env, s.env.app, count_waiting, NULL);
	EXPECT(waiting == 1);
	tgt_start(&tgt);
	while (env_open(&s.env, "iscsi0", true) != 0) {
		env_linger(&s.env, 10);
	}
	env_call(&s.env, s.env.app, count_waiting, NULL);
	EXPECT(waiting == 0);
	env_close(&s.env);
	peer_stage_detach(&s);
	tgt_kill(&tgt);
	peer_stage_attach(&s);
	/* The process ends: nothing is left that would wake it. */
	env_call(&s.env, s.env.app, shut_down, NULL);
	env_stop(&s.env);
	tgt_release(&tgt);
}

/* ---- Details ---- */

static void
swaps_and_says_where(void **state)
{
	uint8_t was[1024] = {0}, other[1024] = {0}, now[1024], got[1024];
	struct iovec compare[] = {{other, 512}, {other + 512, 512}}, write[] = {{now, 1000}, {now + 1000, 24}};
	struct env_io io = {.op = BDEV_COMPARE_AND_WRITE,
			    .lba = 100,
			    .num_blocks = 2,
			    .iov = compare,
			    .iovcnt = 2,
			    .write_iov = write,
			    .write_iovcnt = 2};
	struct peer_stage s;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt_start(&tgt);
	stage_open(&s, REACTOR_INTERRUPT, false);
	peer_stage_ready(&s);
	memset(now, 7, sizeof(now));
	other[700] = 1;
	env_submit(&s.env.workers[0], &io);
	EXPECT(env_finish(&io) == -EILSEQ);
	EXPECT_SAY(io.result == 700, "%llu", (unsigned long long)io.result);
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 100, 2, got) == 0 && memcmp(got, was, sizeof(got)) == 0);
	other[700] = 0;
	env_submit(&s.env.workers[0], &io);
	EXPECT(env_finish(&io) == 0);
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 100, 2, got) == 0 && memcmp(got, now, sizeof(got)) == 0);
	EXPECT(env_rwv(&s.env.workers[0], BDEV_WRITE_ZEROES, BDEV_IO_FUA | BDEV_IO_MAY_UNMAP, 100, 2, NULL, 0) == 0);
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 100, 2, got) == 0 && memcmp(got, was, sizeof(got)) == 0);
	stage_end(&s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(says_what_is_wrong),     cmocka_unit_test(looks_like_the_unit),
		cmocka_unit_test(proves_who_it_is),       cmocka_unit_test(swaps_and_says_where),
		cmocka_unit_test(reconnects),             cmocka_unit_test(gives_up_after_a_while),
		cmocka_unit_test(does_not_wait_for_ever), cmocka_unit_test(goes_without_target),
		cmocka_unit_test(is_cancelled),
		cmocka_unit_test(is_not_deceived),        cmocka_unit_test(waits_for_its_unit),
		cmocka_unit_test(awaits_target),
	};

	if (!tgt_there()) {
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
