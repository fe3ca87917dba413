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
#include "testkit/bdev_env.h"

#define DISK_BYTES ((uint64_t)8 << 20)

static struct tgt tgt;

static struct iscsi_bdev_options
options(const char *name)
{
	return (struct iscsi_bdev_options){.name = name,
					   .initiator_iqn = "iqn.2024-01.io.example:client",
					   .url = tgt_url(&tgt, "", 1),
					   .reconnect_s = 30,
					   .connect_ms = 5000};
}

/* ---- A stage ---- */

struct stage {
	struct env env;
	struct iscsi_bdev_options options;
	struct err err;
	struct bdev *bdev;
	struct iscsi_bdev_info info;
	int rc;
	atomic_bool answered, gone;
};

static void
note_attached(void *ctx, struct bdev *bdev, const struct err *err)
{
	struct stage *s = ctx;

	s->bdev = bdev;
	s->err = *err;
	atomic_store(&s->answered, true);
}

static void
attach(void *arg)
{
	struct stage *s = arg;

	s->rc = bdev_iscsi_create(&s->options, note_attached, s, &s->err);
}

static void
noted(void *ctx, int status)
{
	EXPECT(status == 0);
	atomic_store((atomic_bool *)ctx, true);
}

static void
detach(void *arg)
{
	struct stage *s = arg;

	s->rc = bdev_iscsi_delete(s->options.name, noted, &s->gone, &s->err);
}

static void
rescan(void *arg)
{
	struct stage *s = arg;

	s->rc = bdev_iscsi_rescan(s->options.name, &s->err);
}

static void
inform(void *arg)
{
	struct stage *s = arg;

	s->rc = bdev_iscsi_info(s->bdev, &s->info) ? 0 : -ENODEV;
}

static void
call(struct stage *s, void (*fn)(void *arg), int rc)
{
	s->err = ERR_NONE;
	env_call(&s->env, s->env.app, fn, s);
	EXPECT_SAY(s->rc == rc, "%d: %s", s->rc, err_text(&s->err));
}

static void
stage_open(struct stage *s, enum reactor_mode mode, bool real_threads)
{
	memset(s, 0, sizeof(*s));
	env_start(&s->env, mode, real_threads);
	s->options = options("iscsi0");
}

static void
stage_attach(struct stage *s)
{
	atomic_store(&s->answered, false);
	call(s, attach, 0);
	env_wait(&s->env, &s->answered);
}

/* With a bdev, opened. */
static void
stage_ready(struct stage *s)
{
	stage_attach(s);
	EXPECT_SAY(s->bdev != NULL, "%s", err_text(&s->err));
	EXPECT(env_open(&s->env, "iscsi0", true) == 0);
}

static void
stage_detach(struct stage *s)
{
	atomic_store(&s->gone, false);
	call(s, detach, 0);
	env_wait(&s->env, &s->gone);
}

static void
stage_end(struct stage *s)
{
	env_close(&s->env);
	stage_detach(s);
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
refuse(struct stage *s, int rc, const char *words)
{
	call(s, attach, rc);
	EXPECT_SAY(strstr(s->err.text, words) != NULL, "%s", s->err.text);
	s->options = options("iscsi0");
}

static void
fail_to_attach(struct stage *s, int rc, const char *words)
{
	stage_attach(s);
	EXPECT_SAY(s->bdev == NULL && s->err.code == rc, "%d %s", s->err.code, s->err.text);
	EXPECT_SAY(strstr(s->err.text, words) != NULL && strstr(s->err.text, "geheim") == NULL, "%s", s->err.text);
	s->options = options("iscsi0");
}

static void
says_what_is_wrong(void **state)
{
	struct stage s;
	char url[256];

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt_start(&tgt);
	stage_open(&s, REACTOR_INTERRUPT, false);
	s.options.url = "iscsi://me%geheim@host/t";
	refuse(&s, -EINVAL, "not of the form");
	s.options.url = "iscsi://me@host/t/0";
	refuse(&s, -EINVAL, "chap_secret_file");
	s.options.initiator_iqn = "";
	refuse(&s, -EINVAL, "initiator's name");
	s.options.name = "";
	refuse(&s, -EINVAL, "name");
	s.options.sessions = 65;
	refuse(&s, -EINVAL, "65 sessions");
	s.options.secret_file = "/nonexistent/file";
	refuse(&s, -ENOENT, "/nonexistent/file");
	s.options.url = tgt_url(&tgt, "", 7);
	fail_to_attach(&s, -ENODEV, "disk/7: there is no");
	s.options.url = tgt_url(&tgt, "", 0); /* tgt's controller */
	fail_to_attach(&s, -ENODEV, "no disk");
	snprintf(url, sizeof(url), "iscsi://127.0.0.1:%u/iqn.2024-01.io.example:other/1", tgt.port);
	s.options.url = url;
	fail_to_attach(&s, -ECONNREFUSED, "Target not found");
	tgt_kill(&tgt);
	fail_to_attach(&s, -ECONNREFUSED, "127.0.0.1");
	tgt_start(&tgt);
	tgt_pause(&tgt, true);
	s.options.connect_ms = 100;
	fail_to_attach(&s, -ETIMEDOUT, "does not answer");
	tgt_pause(&tgt, false);
	stage_attach(&s);
	EXPECT(s.bdev != NULL);
	refuse(&s, -EEXIST, "iscsi0");
	stage_detach(&s);
	call(&s, detach, -ENODEV);
	call(&s, rescan, -ENODEV);
	EXPECT(bdev_iscsi_set_timeout(86401, &s.err) == -EINVAL);
	env_stop(&s.env);
	tgt_release(&tgt);
}

static void
looks_like_the_unit(void **state)
{
	uuid_t uuid, again;
	struct stage s;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt.readonly = true;
	tgt_start(&tgt);
	stage_open(&s, REACTOR_INTERRUPT, false);
	stage_attach(&s);
	EXPECT(s.bdev != NULL && bdev_readonly(s.bdev) && bdev_write_cache(s.bdev));
	EXPECT(bdev_block_size(s.bdev) == 512 && bdev_physical_block_size(s.bdev) == 4096);
	EXPECT(bdev_num_blocks(s.bdev) == DISK_BYTES / 512);
	EXPECT(bdev_supports_natively(s.bdev, BDEV_BLOCK_STATUS));
	EXPECT(!bdev_supports(s.bdev, BDEV_WRITE));
	bdev_uuid(s.bdev, uuid);
	stage_detach(&s);
	tgt_kill(&tgt);
	tgt.readonly = false;
	tgt_start(&tgt);
	stage_attach(&s);
	EXPECT(!bdev_readonly(s.bdev));
	EXPECT(bdev_supports_natively(s.bdev, BDEV_UNMAP) && bdev_supports_natively(s.bdev, BDEV_WRITE_ZEROES));
	EXPECT(bdev_supports_natively(s.bdev, BDEV_FLUSH));
	/* tgtd names a limit for it and does not know it. */
	EXPECT(!bdev_supports_natively(s.bdev, BDEV_COMPARE_AND_WRITE));
	bdev_uuid(s.bdev, again);
	EXPECT(uuid_compare(uuid, again) == 0);
	stage_detach(&s);
	env_stop(&s.env);
	tgt_release(&tgt);
}

static void
proves_who_it_is(void **state)
{
	char path[96], url[256];
	struct stage s;
	FILE *f;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt.user = "me";
	tgt.password = "geheimgeheim";
	tgt_start(&tgt);
	stage_open(&s, REACTOR_INTERRUPT, false);
	fail_to_attach(&s, -ECONNREFUSED, "uthentication");
	s.options.url = tgt_url(&tgt, "me%geheim", 1);
	fail_to_attach(&s, -ECONNREFUSED, "uthentication");
	s.options.url = tgt_url(&tgt, "me%geheimgeheim", 1);
	stage_attach(&s);
	EXPECT_SAY(s.bdev != NULL, "%s", err_text(&s.err));
	call(&s, inform, 0);
	EXPECT(strstr(s.info.options.url, "me@127") != NULL && strstr(s.info.options.url, "geheim") == NULL);
	stage_detach(&s);
	snprintf(path, sizeof(path), "%s/secret", tgt.dir);
	f = fopen(path, "w");
	EXPECT(f != NULL && fputs("geheimgeheim\n", f) >= 0 && fclose(f) == 0 && chmod(path, 0600) == 0);
	snprintf(url, sizeof(url), "%s", tgt_url(&tgt, "me", 1));
	s.options.url = url;
	s.options.secret_file = path;
	stage_ready(&s);
	call(&s, inform, 0);
	EXPECT(strcmp(s.info.options.secret_file, path) == 0);
	/* Both other threads' sessions prove it, too. */
	EXPECT(env_rw(&s.env.workers[0], BDEV_FLUSH, 0, 0, NULL) == 0);
	EXPECT(env_rw(&s.env.workers[1], BDEV_FLUSH, 0, 0, NULL) == 0);
	call(&s, inform, 0);
	EXPECT(s.info.sessions == 3);
	unlink(path);
	stage_end(&s);
}

/* ---- Targets that go ---- */

#define IOS 40

static void
submit_all(struct stage *s, struct env_io *ios, struct iovec *iovs, enum bdev_op op)
{
	for (unsigned i = 0; i < IOS; i++) {
		iovs[i].iov_len = 4096;
		ios[i] = (struct env_io){.op = op, .lba = i * 8, .num_blocks = 8, .iov = &iovs[i], .iovcnt = 1};
		env_submit(&s->env.workers[i % ENV_WORKERS], &ios[i]);
	}
}

/* It dies with commands it has not answered, others come while it is away: all are done when it is back. */
static void
dies_and_comes_back(enum reactor_mode mode, bool real_threads, unsigned sessions)
{
	static uint8_t written[IOS][4096], got[IOS][4096];
	struct env_io writes[IOS], reads[IOS];
	struct iovec out[IOS], in[IOS];
	struct stage s;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt_start(&tgt);
	stage_open(&s, mode, real_threads);
	s.options.sessions = sessions;
	stage_ready(&s);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < IOS; i++) {
			memset(written[i], (int)(i + 1 + round), 4096);
			memset(got[i], 0, 4096);
			out[i].iov_base = written[i];
			in[i].iov_base = got[i];
		}
		tgt_pause(&tgt, round != 1);
		submit_all(&s, writes, out, BDEV_WRITE);
		env_linger(&s.env, 5);
		tgt_kill(&tgt);
		env_linger(&s.env, 10);
		tgt_start(&tgt);
		for (unsigned i = 0; i < IOS; i++) {
			EXPECT(env_finish(&writes[i]) == 0);
		}
		submit_all(&s, reads, in, BDEV_READ);
		for (unsigned i = 0; i < IOS; i++) {
			EXPECT(env_finish(&reads[i]) == 0);
			EXPECT_SAY(memcmp(got[i], written[i], 4096) == 0, "round %u, request %u", round, i);
		}
	}
	call(&s, inform, 0);
	EXPECT_SAY(s.info.connects == 4 && s.info.sessions == (sessions != 0 ? MIN(sessions, 3u) : 3), "%u connects, %u",
		   s.info.connects, s.info.sessions);
	stage_end(&s);
}

static void
reconnects(void **state)
{
	dies_and_comes_back(REACTOR_INTERRUPT, false, 0);
	dies_and_comes_back(REACTOR_ADAPTIVE, true, 0);
	dies_and_comes_back(REACTOR_POLL, true, 1);
}

static void
read_later(struct stage *s, struct env_io *io, struct iovec *iov, unsigned worker)
{
	*io = (struct env_io){.op = BDEV_READ, .num_blocks = 1, .iov = iov, .iovcnt = 1};
	env_submit(&s->env.workers[worker], io);
}

/* One that stays away: requests end with an error, and go again when it is back. */
static void
gives_up_after_a_while(void **state)
{
	uint8_t block[512];
	struct iovec iov = {block, sizeof(block)};
	struct env_io io;
	struct stage s;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt_start(&tgt);
	stage_open(&s, REACTOR_INTERRUPT, true);
	s.options.reconnect_s = 1;
	stage_ready(&s);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == 0);
	tgt_kill(&tgt);
	read_later(&s, &io, &iov, 0);
	env_linger(&s.env, 100);
	EXPECT(!atomic_load(&io.done));
	EXPECT(env_finish(&io) == -EIO);
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 0, 1, block) == -EIO);
	tgt_start(&tgt);
	while (env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) != 0) {
		env_linger(&s.env, 20);
	}
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 0, 1, block) == 0);
	stage_end(&s);
}

/* It is there, but does not answer: the session is made again, and the command sent again; the second time it is an error. */
static void
does_not_wait_for_ever(void **state)
{
	uint8_t block[512];
	struct iovec iov = {block, sizeof(block)};
	struct env_io io;
	struct stage s;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt_start(&tgt);
	set_timeout(1);
	stage_open(&s, REACTOR_INTERRUPT, true);
	s.options.connect_ms = 200;
	stage_ready(&s);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == 0);
	call(&s, inform, 0);
	EXPECT(s.info.connects == 1);
	tgt_pause(&tgt, true);
	read_later(&s, &io, &iov, 0);
	env_linger(&s.env, 1300);
	EXPECT(!atomic_load(&io.done));
	tgt_pause(&tgt, false);
	EXPECT(env_finish(&io) == 0);
	call(&s, inform, 0);
	EXPECT_SAY(s.info.connects == 2, "%u", s.info.connects);
	set_timeout(ISCSI_TIMEOUT_S_DEFAULT);
	stage_end(&s);
}

/* ---- What nobody waits for any more ---- */

/* A read straight into memory that is given back as soon as it has ended. */
struct question {
	struct env_io io;
	struct iovec iov;
};

static void
ask(struct stage *s, struct question *q, unsigned worker)
{
	q->iov = (struct iovec){malloc(4096), 4096};
	EXPECT(q->iov.iov_base != NULL);
	q->io = (struct env_io){.op = BDEV_READ, .num_blocks = 8, .iov = &q->iov, .iovcnt = 1};
	env_submit(&s->env.workers[worker], &q->io);
}

static void
ask_both(struct stage *s, struct question q[ENV_WORKERS])
{
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		ask(s, &q[i], i);
	}
	env_linger(&s->env, 30);
	EXPECT(!atomic_load(&q[0].io.done) && !atomic_load(&q[1].io.done));
}

static void
ended(struct question *q, int status)
{
	int rc = env_finish(&q->io);

	free(q->iov.iov_base);
	EXPECT_SAY(rc == status, "%d", rc);
}

static void
unregister(void *arg)
{
	struct stage *s = arg;

	bdev_unregister(s->env.bdev, noted, &s->gone);
}

/* What waits for it ends, and so does the bdev. */
static void
is_removed(struct stage *s)
{
	struct question q[ENV_WORKERS];

	ask_both(s, q);
	atomic_store(&s->gone, false);
	env_call(&s->env, s->env.app, unregister, s);
	ended(&q[0], -ENODEV);
	ended(&q[1], -ENODEV);
	env_close(&s->env);
	env_wait(&s->env, &s->gone);
	env_linger(&s->env, 5); /* the disk goes after its bdev */
	env_stop(&s->env);
}

/* The target is silent: what nobody waits for ends, and what the target says to it later finds nobody. */
static void
cancels_what_is_not_answered(void **state)
{
	struct question q[ENV_WORKERS];
	uint8_t block[512];
	struct stage s;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt_start(&tgt);
	stage_open(&s, REACTOR_INTERRUPT, true);
	s.options.connect_ms = 200;
	stage_ready(&s);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == 0);
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 0, 1, block) == 0);
	tgt_pause(&tgt, true);
	ask_both(&s, q);
	EXPECT(env_rw(&s.env.workers[0], BDEV_RESET, 0, 0, NULL) == 0);
	ended(&q[0], -ECANCELED);
	ended(&q[1], -ECANCELED);
	tgt_pause(&tgt, false);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == 0);
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 0, 1, block) == 0);
	tgt_pause(&tgt, true);
	is_removed(&s);
	tgt_pause(&tgt, false);
	tgt_release(&tgt);
}

/* Deleted while its target is away: what waits ends, and so does the bdev. */
static void
goes_without_target(void **state)
{
	uint8_t block[512];
	struct iovec iov = {block, sizeof(block)};
	struct env_io io;
	struct stage s;

	for (int threads = 0; threads < 2; threads++) {
		tgt_init(&tgt, DISK_BYTES, 512);
		tgt_start(&tgt);
		stage_open(&s, REACTOR_INTERRUPT, threads != 0);
		stage_ready(&s);
		tgt_kill(&tgt);
		read_later(&s, &io, &iov, 1);
		env_linger(&s.env, 30);
		EXPECT(!atomic_load(&io.done));
		atomic_store(&s.gone, false);
		call(&s, detach, 0);
		EXPECT(env_finish(&io) == -ENODEV);
		env_close(&s.env);
		env_wait(&s.env, &s.gone);
		env_stop(&s.env);
		tgt_release(&tgt);
	}
}

/* What came back is another disk, or a smaller one: it is not taken for the one that went. */
static void
is_not_deceived(void **state)
{
	uint8_t block[512];
	struct stage s;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt_start(&tgt);
	stage_open(&s, REACTOR_INTERRUPT, true);
	s.options.reconnect_s = 0;
	stage_ready(&s);
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
	uint8_t block[512];
	struct iovec iov = {block, sizeof(block)};
	struct env_io io;
	struct stage s;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt_start(&tgt);
	stage_open(&s, REACTOR_ADAPTIVE, true);
	stage_ready(&s);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == 0);
	tgt_take_unit(&tgt);
	read_later(&s, &io, &iov, 0);
	env_linger(&s.env, 50);
	EXPECT(!atomic_load(&io.done));
	tgt_resize(&tgt, DISK_BYTES * 2);
	tgt_give_unit(&tgt);
	EXPECT(env_finish(&io) == 0);
	env_wait_size(&s.env, DISK_BYTES / 256);
	EXPECT(bdev_num_blocks(s.env.bdev) == DISK_BYTES / 256);
	call(&s, rescan, 0);
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
	struct stage s;

	tgt_init(&tgt, DISK_BYTES, 512);
	stage_open(&s, REACTOR_INTERRUPT, false);
	s.options.wait = true;
	stage_attach(&s);
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
	stage_detach(&s);
	tgt_kill(&tgt);
	stage_attach(&s);
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
	struct stage s;

	tgt_init(&tgt, DISK_BYTES, 512);
	tgt_start(&tgt);
	stage_open(&s, REACTOR_INTERRUPT, false);
	stage_ready(&s);
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
		cmocka_unit_test(cancels_what_is_not_answered),
		cmocka_unit_test(is_not_deceived),        cmocka_unit_test(waits_for_its_unit),
		cmocka_unit_test(awaits_target),
	};

	if (!tgt_there()) {
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
