/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The first session of a connection, and what the unit says of itself.
 *
 * Invariants
 *  1. Nothing here takes longer than the disk's connect_ms, but a name server that does not answer.
 *  2. Each command's memory is gone when it has been answered, or the session is closed, which answers it.
 * Context: a worker; it may block.
 */
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bdevs/iscsi/internal.h"

#define ANSWER_BYTES 252
#define COMMAND_ATTEMPTS 8
#define REDIRECTS_MAX 4

/* Under way, on the worker's stack. */
struct work {
	const struct remote_disk *disk;
	struct iscsi_context *context;
	int lun;
	uint64_t deadline_ms;
	bool ended;
	int status;
	struct scsi_task *task;
};

static uint64_t
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Until *ended; 0, -ETIMEDOUT, -ECANCELED or -ECONNRESET. */
static int
serve(const struct work *w, const bool *ended)
{
	while (!*ended) {
		struct pollfd p = {.fd = iscsi_get_fd(w->context), .events = (short)iscsi_which_events(w->context)};
		uint64_t now = now_ms();

		if (now >= w->deadline_ms) {
			return -ETIMEDOUT;
		}
		if (p.fd < 0) {
			return -ECONNRESET;
		}
		if (remote_wait(w->disk, &p, (int)MIN(w->deadline_ms - now, (uint64_t)1000000)) == -ECANCELED) {
			return -ECANCELED;
		}
		if (p.revents != 0 && iscsi_service(w->context, p.revents) != 0 && !*ended) {
			return -ECONNRESET;
		}
	}
	return 0;
}

/* ---- Commands ---- */

static void
answered(struct iscsi_context *context, int status, void *data, void *arg)
{
	struct work *w = arg;

	w->status = status;
	w->task = data;
	w->ended = true;
}

/* One command that reads, or moves nothing; its answer is w->task, to be freed, when 0 is returned. */
static int
command_once(struct work *w, const uint8_t *cdb, int cdb_bytes, int room)
{
	uint8_t copy[SBC_CDB_BYTES];
	struct scsi_task *task;
	int rc;

	memcpy(copy, cdb, sizeof(copy));
	task = scsi_create_task(cdb_bytes, copy, room > 0 ? SCSI_XFER_READ : SCSI_XFER_NONE, room);
	w->ended = false;
	w->task = NULL;
	if (task == NULL) {
		return -ENOMEM;
	}
	if (iscsi_scsi_command_async(w->context, w->lun, task, answered, NULL, w) != 0) {
		scsi_free_scsi_task(task);
		return -ECONNRESET;
	}
	rc = serve(w, &w->ended);
	if (rc != 0) {
		/* Answers the command. */
		iscsi_destroy_context(w->context);
		w->context = NULL;
		scsi_free_scsi_task(w->ended ? w->task : task);
		w->task = NULL;
	}
	return rc;
}

static struct sbc_end
judge(const struct work *w)
{
	const struct scsi_task *task = w->task;
	bool sense = w->status == SCSI_STATUS_CHECK_CONDITION && task->datain.size > 2;

	if (w->status > UINT8_MAX) {
		return (struct sbc_end){.verdict = SBC_GONE, .status = -ECONNRESET};
	}
	return sbc_judge((uint8_t)w->status, sense ? task->datain.data + 2 : NULL, sense ? (size_t)task->datain.size - 2 : 0);
}

/* 0: its answer is w->task. -EOPNOTSUPP: the unit refuses it. Other errors: the session is of no use. */
static int
command(struct work *w, const uint8_t *cdb, int cdb_bytes, int room)
{
	struct sbc_end e;
	unsigned attempts = 0;

	do {
		int rc = command_once(w, cdb, cdb_bytes, room);

		if (rc != 0) {
			return rc;
		}
		e = judge(w);
		if (e.verdict == SBC_ENDED && e.status == 0) {
			return 0;
		}
		scsi_free_scsi_task(w->task);
		w->task = NULL;
		if (e.verdict == SBC_LATER) {
			nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL);
		}
	} while ((e.verdict == SBC_AGAIN || e.verdict == SBC_LATER) && ++attempts < COMMAND_ATTEMPTS);
	if (e.verdict == SBC_GONE) {
		return e.status == -ECONNRESET ? -ECONNRESET : -ENODEV;
	}
	return e.verdict == SBC_ENDED ? -EOPNOTSUPP : -EBUSY;
}

/* ---- What the unit says of itself ---- */

static void
free_answer(struct work *w)
{
	scsi_free_scsi_task(w->task);
	w->task = NULL;
}

static const uint8_t *
data_of(const struct work *w)
{
	return w->task->datain.data;
}

static size_t
bytes_of(const struct work *w)
{
	return w->task->datain.data != NULL && w->task->datain.size > 0 ? (size_t)w->task->datain.size : 0;
}

static int
ask_inquiry(struct work *w, int page)
{
	uint8_t cdb[SBC_CDB_BYTES];

	sbc_cdb_inquiry(cdb, page, ANSWER_BYTES);
	return command(w, cdb, 6, ANSWER_BYTES);
}

static int
ask_pages(struct work *w, struct sbc_unit *unit)
{
	static const uint8_t pages[] = {SBC_PAGE_IDENTIFICATION, SBC_PAGE_SERIAL, SBC_PAGE_LIMITS, SBC_PAGE_PROVISIONING};
	bool has[ARRAY_SIZE(pages)] = {false};
	int rc = ask_inquiry(w, SBC_PAGE_LIST);

	if (rc == 0) {
		for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
			has[i] = sbc_unit_has_page(data_of(w), bytes_of(w), pages[i]);
		}
		free_answer(w);
	}
	for (size_t i = 0; i < ARRAY_SIZE(pages) && (rc == 0 || rc == -EOPNOTSUPP); i++) {
		rc = has[i] ? ask_inquiry(w, pages[i]) : -EOPNOTSUPP;
		if (rc == 0) {
			sbc_unit_page(unit, pages[i], data_of(w), bytes_of(w));
			free_answer(w);
		}
	}
	return rc == -EOPNOTSUPP ? 0 : rc;
}

static int
ask_capacity(struct work *w, struct sbc_unit *unit, struct err *err)
{
	uint8_t cdb[SBC_CDB_BYTES];
	int rc;

	sbc_cdb_16(cdb, SBC_SERVICE_ACTION_IN_16, SBC_SA_READ_CAPACITY_16, 0, 32);
	rc = command(w, cdb, SBC_CDB_BYTES, 32);
	if (rc != 0) {
		return rc;
	}
	rc = sbc_unit_capacity(unit, data_of(w), bytes_of(w), err);
	free_answer(w);
	return rc;
}

static int
ask_modes(struct work *w, struct sbc_unit *unit)
{
	static const uint8_t pages[] = {SBC_MODE_CACHING, SBC_MODE_ALL};
	uint8_t cdb[SBC_CDB_BYTES];
	int rc = -EOPNOTSUPP;

	/* A unit that does not say is taken to have a cache. */
	unit->write_cache = true;
	for (size_t i = 0; i < ARRAY_SIZE(pages) && rc == -EOPNOTSUPP; i++) {
		sbc_cdb_mode_sense(cdb, pages[i], ANSWER_BYTES);
		rc = command(w, cdb, 6, ANSWER_BYTES);
	}
	if (rc == 0) {
		sbc_unit_modes(unit, data_of(w), bytes_of(w));
		free_answer(w);
	}
	return rc == -EOPNOTSUPP ? 0 : rc;
}

/* There are units that name a limit for it and do not know it. Of no blocks it does nothing. */
static int
try_compare_and_write(struct work *w, struct sbc_unit *unit)
{
	uint8_t cdb[SBC_CDB_BYTES];
	int rc;

	if (unit->max_compare_write == 0) {
		return 0;
	}
	sbc_cdb_compare_and_write(cdb, 0, 0, 0);
	rc = command(w, cdb, SBC_CDB_BYTES, 0);
	if (rc == 0) {
		free_answer(w);
	} else if (rc == -EOPNOTSUPP) {
		unit->max_compare_write = 0;
		rc = 0;
	}
	return rc;
}

static int
ask_all(struct work *w, struct sbc_unit *unit, struct err *err)
{
	int rc = ask_inquiry(w, -1);

	if (rc == 0) {
		rc = sbc_unit_inquiry(data_of(w), bytes_of(w), err);
		free_answer(w);
	}
	if (rc == 0) {
		rc = ask_pages(w, unit);
	}
	if (rc == 0) {
		rc = ask_modes(w, unit);
	}
	if (rc == 0) {
		rc = try_compare_and_write(w, unit);
	}
	return rc == 0 ? ask_capacity(w, unit, err) : rc;
}

/* ---- The way there ---- */

/* Numbers for the host's name, as libiscsi reads them. */
static int
resolve(const struct iscsi_address *a, char portal[static PORTAL_BYTES], struct err *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found = NULL;
	char host[ISCSI_TEXT_BYTES];
	int rc = getaddrinfo(a->host, NULL, &hints, &found);
	bool six;

	if (rc == 0) {
		rc = getnameinfo(found->ai_addr, found->ai_addrlen, host, sizeof(host), NULL, 0, NI_NUMERICHOST);
	}
	if (rc != 0) {
		freeaddrinfo(found);
		return err_set(err, -EHOSTUNREACH, "%s: %s", a->host, gai_strerror(rc));
	}
	six = found->ai_family == AF_INET6;
	freeaddrinfo(found);
	snprintf(portal, PORTAL_BYTES, "%s%s%s:%u", six ? "[" : "", host, six ? "]" : "", a->port);
	return 0;
}

static int
log_in(struct work *w, struct iscsi_link *link, const struct iscsi_address *a, struct err *err)
{
	struct iscsi_login login = {.redirects_max = REDIRECTS_MAX};
	int rc = resolve(a, link->portal, err);

	if (rc != 0) {
		return rc;
	}
	rc = iscsi_login_start(&login, w->context, link->portal, (int)a->lun);
	if (rc == 0) {
		rc = serve(w, &login.ended);
	}
	if (rc != 0 || !login.good) {
		if (rc == -ETIMEDOUT || rc == -ECANCELED) {
			err_set(err, rc, "%s does not answer", link->portal);
		} else {
			rc = err_set(err, -ECONNREFUSED, "%s: %s", link->portal, iscsi_login_why(&login));
		}
		/* While there is a login that it can tell. */
		iscsi_destroy_context(w->context);
		w->context = NULL;
		return rc;
	}
	if (login.redirects > 0) {
		snprintf(link->portal, PORTAL_BYTES, "%s", iscsi_get_target_address(w->context));
	}
	return 0;
}

static int
make(const struct iscsi_disk *disk, struct work *w, struct iscsi_link *link, struct err *err)
{
	const struct iscsi_address *a = disk->address;
	int rc;

	w->context = iscsi_session_create(disk, 0, err);
	if (w->context == NULL) {
		return -ENOMEM;
	}
	rc = log_in(w, link, a, err);
	if (rc == 0) {
		rc = ask_all(w, &link->unit, err);
		if (rc != 0 && err->code == 0) {
			err_set(err, rc, "%s, logical unit %u: %s", a->target, a->lun,
				rc == -ENODEV ? "there is none" : strerror(-rc));
		}
	}
	return rc;
}

int
iscsi_link_make(const struct iscsi_disk *disk, struct iscsi_link **ret_link, struct err *err)
{
	struct work w = {.disk = &disk->remote,
			 .lun = (int)disk->address->lun,
			 .deadline_ms = now_ms() + disk->remote.options.connect_ms};
	struct iscsi_link *link = calloc(1, sizeof(*link));
	struct err why = ERR_NONE;
	int rc;

	if (link == NULL) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	rc = make(disk, &w, link, &why);
	if (rc != 0) {
		iscsi_destroy_context(w.context);
		free(link);
		return err_set(err, rc, "%s: %s", disk->address->url, err_text(&why));
	}
	link->first = w.context;
	link->remote.lanes = disk->remote.options.lanes;
	*ret_link = link;
	return 0;
}

void
iscsi_link_free(struct iscsi_link *link)
{
	if (link != NULL) {
		iscsi_destroy_context(link->first);
		free(link);
	}
}
