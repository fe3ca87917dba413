/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bdevs lent to a local program for a while, over NBD: what `berth volume send`, receive and import read and write through. A
 * server of its own at a unix socket, there while anything is lent.
 *
 * Invariants
 *  1. A loan ends when its client has gone, or when none has come within CLAIM_S, or UNWANTED_S when somebody else needs the
 *     bdev: whoever asked may die at any moment.
 *  2. Nothing of it is in the configuration, the state directory or the lists of servers and exports.
 *  3. The timer runs while anything is lent, and only then.
 * Context: the app thread.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/list.h"
#include "base/log.h"
#include "bdev/bdev.h"
#include "methods/internal.h"
#include "nbd/nbd.h"
#include "rpc/schema_gen.h"

#define SERVER NBD_LENT_PREFIX "lent"
#define CLAIM_S 30
#define UNWANTED_S 1
#define LOOK_US 200000
#define LOANS_MAX 64

struct loan {
	struct list link;
	uint64_t since_ns;
	bool ending;
	char export[64];
};

static struct list loans = {&loans, &loans};
static unsigned count;
static struct timer timer;
static bool armed;
static uint64_t last_id;

static void look(struct timer *t);

static void
arm(void)
{
	if (!armed && count > 0) {
		armed = timer_start(&timer, LOOK_US, look) == 0;
	}
}

static void
server_gone(void *ctx, int status)
{
}

static void
loan_ended(void *ctx, int status)
{
	struct loan *l = ctx;

	list_remove(&l->link);
	free(l);
	if (--count == 0) {
		(void)nbd_server_delete(SERVER, server_gone, NULL, NULL);
	}
}

static void
end(struct loan *l)
{
	l->ending = true;
	if (nbd_export_delete(l->export, loan_ended, l, NULL) != 0) {
		loan_ended(l, 0);
	}
}

static void
look(struct timer *t)
{
	struct loan *l, *next;

	armed = false;
	LIST_FOREACH_SAFE (l, next, &loans, link) {
		struct nbd_export *e = nbd_export_find(l->export);
		struct nbd_export_info info = {.accepted = 0};
		bool late = clock_now_ns() - l->since_ns > CLAIM_S * NS_PER_S;

		if (e != NULL) {
			nbd_export_get_info(e, &info);
		}
		if (!l->ending && info.connections == 0 &&
		    (info.accepted > 0 || late || e == NULL)) {
			end(l);
		}
	}
	arm();
}

void
nbd_lend_end_unclaimed(const struct bdev *bdev)
{
	struct loan *l, *next;

	LIST_FOREACH_SAFE (l, next, &loans, link) {
		struct nbd_export *e = nbd_export_find(l->export);
		struct nbd_export_info info;

		if (l->ending || e == NULL || clock_now_ns() - l->since_ns < UNWANTED_S * NS_PER_S) {
			continue;
		}
		nbd_export_get_info(e, &info);
		if (info.accepted == 0 && info.bdev_name != NULL && strcmp(info.bdev_name, bdev_name(bdev)) == 0) {
			end(l);
		}
	}
}

static int
ensure_server(struct nbd_server **ret, struct err *err)
{
	struct nbd_server_options o = {.name = SERVER};

	*ret = nbd_server_find(SERVER);
	return *ret != NULL ? 0 : nbd_server_create(&o, ret, err);
}

static void
lend(struct rpc_request *req, const void *params)
{
	const struct berth_nbd_lend_params *p = params;
	struct loan *l = count < LOANS_MAX ? calloc(1, sizeof(*l)) : NULL;
	struct nbd_export_options o = {
		.bdev_name = p->bdev_name, .server = SERVER, .readonly = p->readonly};
	struct nbd_server_info info;
	struct nbd_server *server;
	struct nbd_export *export;
	struct err err = ERR_NONE;
	int rc;

	if (l == NULL) {
		rpc_error(req, -EBUSY, "%d bdevs are lent already", LOANS_MAX);
		return;
	}
	snprintf(l->export, sizeof(l->export), NBD_LENT_PREFIX "%" PRIu64, ++last_id);
	o.name = l->export;
	rc = ensure_server(&server, &err);
	if (rc == 0) {
		rc = nbd_export_create(&o, &export, &err);
	}
	if (rc != 0) {
		free(l);
		if (count == 0) {
			(void)nbd_server_delete(SERVER, server_gone, NULL, NULL);
		}
		rpc_error_from(req, rc, &err);
		return;
	}
	l->since_ns = clock_now_ns();
	list_append(&loans, &l->link);
	count++;
	arm();
	nbd_server_get_info(server, &info);
	rpc_result(req, json_pack("{s:o, s:s}", "path", text_json(info.options->unix_path),
				  "export", l->export));
}

void
nbd_lend_stop(void)
{
	timer_stop(&timer);
	armed = false;
}

const struct rpc_method nbd_lend_methods[] = {
	{"berth_nbd_lend", lend},
	{NULL, NULL},
};
