/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Exports: their registry, and what clients are told of them.
 *
 *   made --> served --(delete)-------> clients end --> bdev closed --> freed
 *               |----(bdev removed)--> clients end --> bdev closed --> served to nobody, until it is deleted
 *
 * Invariants
 *  1. Names are unique; a deleted export leaves the registry at once.
 *  2. The bdev is open as long as any client has a session on it.
 *  3. A client sees the exports of its server, and those that are for all.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "bdev/qos.h"
#include "nbd/control.h"

#define PREFERRED_MIN 4096u

static struct list exports = {&exports, &exports};
static struct names by_name;
static unsigned alive; /* those being deleted included */
static void (*all_ended)(void);

/* ---- What it is ---- */

static struct bdev *
bdev_of(const struct nbd_export *e)
{
	return e->desc != NULL ? bdev_desc_bdev(e->desc) : NULL;
}

uint64_t
nbd_export_bytes(const struct nbd_export *e)
{
	const struct bdev *bdev = bdev_of(e);

	return bdev != NULL ? bdev_num_blocks(bdev) * bdev_block_size(bdev) : 0;
}

uint16_t
nbd_export_flags(const struct nbd_export *e)
{
	const struct bdev *bdev = bdev_of(e);
	/* A flush covers the writes of all connections, so a client may have several. */
	uint16_t flags = NBD_FLAG_HAS_FLAGS | NBD_FLAG_SEND_FLUSH | NBD_FLAG_SEND_FUA | NBD_FLAG_CAN_MULTI_CONN |
			 NBD_FLAG_SEND_CACHE;

	if (e->options.readonly) {
		return flags | NBD_FLAG_READ_ONLY;
	}
	if (bdev_supports(bdev, BDEV_UNMAP)) {
		flags |= NBD_FLAG_SEND_TRIM;
	}
	if (bdev_supports(bdev, BDEV_WRITE_ZEROES)) {
		flags |= NBD_FLAG_SEND_WRITE_ZEROES | NBD_FLAG_SEND_FAST_ZERO;
	}
	return flags;
}

void
nbd_export_offer(const struct nbd_export *e, struct nbd_offer *ret)
{
	const struct bdev *bdev = bdev_of(e);
	uint32_t block = bdev_block_size(bdev), physical = MAX(block, bdev_physical_block_size(bdev));

	*ret = (struct nbd_offer){
		.name = e->options.name,
		.description = e->options.description,
		.size_bytes = nbd_export_bytes(e),
		.flags = nbd_export_flags(e),
		.block_min = block,
		.block_preferred = MAX(physical, PREFERRED_MIN),
		.payload_max = NBD_PAYLOAD_MAX,
		.changes = bdev_tells_changes(bdev),
	};
}

/* ---- Life ---- */

static void
close_bdevs(struct nbd_export *e)
{
	if (e->desc != NULL) {
		bdev_close(e->desc);
	}
	if (e->since != NULL) {
		bdev_close(e->since);
	}
	e->desc = e->since = NULL;
}

static void
release(struct nbd_export *e)
{
	close_bdevs(e);
	free((char *)e->options.changed_since);
	free((char *)e->options.name);
	free((char *)e->options.bdev_name);
	free((char *)e->options.description);
	free((char *)e->options.server);
	free(e);
}

/* One less is alive: perhaps that was the last. */
static void
drop_one(void)
{
	void (*end)(void) = all_ended;

	if (--alive == 0 && end != NULL) {
		all_ended = NULL;
		names_release(&by_name);
		end();
	}
}

/* From now on everything has changed. */
static void
lose_since(struct nbd_export *e)
{
	if (e->since != NULL) {
		bdev_close(e->since);
		e->since = NULL;
	}
	e->since_going = false;
	e->options.since_lost = true;
	bdev_desc_set_since_lost(e->desc);
}

/* Nobody uses it any more: what was to happen then. */
static void
settle(struct nbd_export *e)
{
	if (e->connections > 0) {
		return;
	}
	if (e->deleting) {
		void (*done)(void *ctx, int status) = e->done;
		void *ctx = e->ctx;

		release(e);
		done(ctx, 0);
		drop_one();
	} else if (e->gone) {
		close_bdevs(e);
	} else if (e->since_going) {
		lose_since(e);
	}
}

static void
end_clients(struct nbd_export *e)
{
	struct nbd_conn *c, *tmp;

	LIST_FOREACH_SAFE(c, tmp, &e->conns, export_link) {
		nbd_conn_end(c);
	}
}

static void
on_event(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
	struct nbd_export *e = ctx;

	if (ev == BDEV_EVENT_RESIZE) {
		if (e->on_resize != NULL && bdev == bdev_of(e)) {
			e->on_resize(e);
		}
		return;
	}
	if (e->gone) {
		return;
	}
	if (bdev == bdev_of(e)) {
		e->gone = true;
		LOG_NOTICE(NBD, e->options.name, "its bdev %s was removed: clients are sent away", bdev_name(bdev));
		if (e->on_gone != NULL) {
			e->on_gone(e);
		}
	} else {
		e->since_going = true;
		LOG_WARNING(NBD, e->options.name, "%s, the snapshot that it is compared with, was removed: clients are sent "
			    "away, and may come again; all of it counts as changed", bdev_name(bdev));
	}
	end_clients(e);
	settle(e);
}

static bool
copy(const char *text, const char **ret)
{
	*ret = text != NULL ? strdup(text) : NULL;
	return text == NULL || *ret != NULL;
}

static int
open_since(struct nbd_export *e, struct err *err)
{
	int rc;

	if (e->options.since_lost) {
		lose_since(e);
		return 0;
	}
	rc = bdev_open(e->options.changed_since, false, on_event, e, &e->since, err);

	if (rc == 0) {
		bdev_desc_set_since(e->desc, bdev_desc_bdev(e->since));
	}
	return rc;
}

struct nbd_export *
nbd_export_make(const struct nbd_export_options *options, struct err *err)
{
	struct nbd_export *e = calloc(1, sizeof(*e));
	bool copied = e != NULL && copy(options->name, &e->options.name) && copy(options->bdev_name, &e->options.bdev_name) &&
		      copy(options->description, &e->options.description) && copy(options->server, &e->options.server) &&
		      copy(options->changed_since, &e->options.changed_since);
	int rc = 0;

	if (e == NULL) {
		err_set(err, -ENOMEM, "out of memory");
		return NULL;
	}
	list_init(&e->conns);
	e->options.readonly = options->readonly;
	e->options.since_lost = options->since_lost;
	alive++;
	if (!copied) {
		rc = err_set(err, -ENOMEM, "out of memory");
	} else {
		rc = bdev_open_disk(options->bdev_name, !options->readonly, on_event, e, &e->desc, err);
	}
	if (rc == 0 && options->changed_since != NULL) {
		rc = open_since(e, err);
	}
	if (rc != 0) {
		alive--;
		release(e);
		return NULL;
	}
	bdev_desc_set_user(e->desc, options->name);
	return e;
}

void
nbd_export_end(struct nbd_export *e, void (*done)(void *ctx, int status), void *ctx)
{
	CHECK(!e->deleting);
	e->deleting = true;
	e->done = done;
	e->ctx = ctx;
	list_remove(&e->link);
	names_remove(&by_name, &e->node);
	end_clients(e);
	settle(e);
}

void
nbd_export_left(struct nbd_export *e)
{
	e->connections--;
	settle(e);
}

/* ---- The registry ---- */

static bool
name_ok(const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < len; i++) {
		if ((unsigned char)name[i] < ' ' || name[i] == 0x7f) {
			return false;
		}
	}
	return len > 0 && len <= NBD_NAME_MAX;
}

static int
check(const struct nbd_export_options *o, struct err *err)
{
	if (!name_ok(o->name)) {
		return err_set(err, -EINVAL, "'%.64s' cannot be an export's name: 1 to %d characters that can be printed",
			       o->name, NBD_NAME_MAX);
	}
	if (o->description != NULL && strlen(o->description) > NBD_STRING_MAX) {
		return err_set(err, -EINVAL, "export '%s': the description is longer than %d bytes", o->name, NBD_STRING_MAX);
	}
	if (nbd_export_find(o->name) != NULL) {
		return err_set(err, -EEXIST, "there is an export '%s' already", o->name);
	}
	if (o->server != NULL && nbd_server_find(o->server) == NULL) {
		return err_set(err, -ENODEV, "export '%s': there is no NBD server '%.128s'", o->name, o->server);
	}
	return 0;
}

int
nbd_export_create(const struct nbd_export_options *options, struct nbd_export **ret, struct err *err)
{
	struct err cause = ERR_NONE;
	struct nbd_export *e;
	int rc = check(options, err);

	if (rc != 0) {
		return rc;
	}
	e = nbd_export_make(options, &cause);
	if (e == NULL) {
		return err_set(err, cause.code, "export '%s': %s", options->name, err_text(&cause));
	}
	list_append(&exports, &e->link);
	names_add(&by_name, &e->node, e->options.name);
	*ret = e;
	return 0;
}

int
nbd_export_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct nbd_export *e = nbd_export_find(name);

	if (e == NULL) {
		return err_set(err, -ENODEV, "there is no export '%.128s'", name);
	}
	nbd_export_end(e, done, ctx);
	return 0;
}

struct nbd_export *
nbd_export_find(const char *name)
{
	struct names_node *node = names_find(&by_name, name);

	return node != NULL ? CONTAINER_OF(node, struct nbd_export, node) : NULL;
}

struct nbd_export *
nbd_export_first(void)
{
	return list_empty(&exports) ? NULL : LIST_FIRST(&exports, struct nbd_export, link);
}

struct nbd_export *
nbd_export_next(struct nbd_export *e)
{
	return e->link.next == &exports ? NULL : LIST_ENTRY(e->link.next, struct nbd_export, link);
}

const struct nbd_export *
nbd_export_comparing_with(const struct bdev *snapshot)
{
	struct nbd_export *e;

	LIST_FOREACH(e, &exports, link) {
		if (e->since != NULL && !e->gone && bdev_desc_bdev(e->since) == snapshot) {
			return e;
		}
	}
	return NULL;
}

void
nbd_export_get_info(const struct nbd_export *e, struct nbd_export_info *ret)
{
	const struct bdev *bdev = e->gone ? NULL : bdev_of(e);

	*ret = (struct nbd_export_info){
		.options = &e->options,
		.bdev_name = bdev != NULL ? bdev_name(bdev) : NULL,
		.size_bytes = nbd_export_bytes(e),
		.connections = e->connections,
		.accepted = e->accepted,
	};
}

static uint64_t
read_counter(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

void
nbd_export_for_each_client(const struct nbd_export *e, void (*fn)(void *ctx, const struct nbd_client_info *info), void *ctx)
{
	struct nbd_conn *c;

	LIST_FOREACH(c, &e->conns, export_link) {
		const struct nbd_counters *n = &c->session.counters;
		struct nbd_client_info info = {
			.id = c->id,
			.peer = c->peer,
			.server = c->server != NULL ? c->server->options.name : NULL,
			.user = c->user,
			.tls = c->tls,
			.structured = c->structured,
			.extended = c->extended,
			.thread = thread_name(c->session.setup.thread),
			.reads = read_counter(&n->reads),
			.writes = read_counter(&n->writes),
			.others = read_counter(&n->others),
			.read_bytes = read_counter(&n->read_bytes),
			.written_bytes = read_counter(&n->written_bytes),
			.errors = read_counter(&n->errors),
		};

		fn(ctx, &info);
	}
}

bool
nbd_export_uses(const char *server)
{
	struct nbd_export *e;

	LIST_FOREACH(e, &exports, link) {
		if (e->options.server != NULL && strcmp(e->options.server, server) == 0) {
			return true;
		}
	}
	return false;
}

/* ---- What clients see ---- */

static bool
sees(const struct nbd_server *s, const struct nbd_export *e)
{
	return !e->gone && !e->since_going && (e->options.server == NULL || strcmp(e->options.server, s->options.name) == 0);
}

struct nbd_export *
nbd_export_nth(const struct nbd_server *s, unsigned i)
{
	struct nbd_export *e;

	LIST_FOREACH(e, &exports, link) {
		if (sees(s, e) && i-- == 0) {
			return e;
		}
	}
	return NULL;
}

struct nbd_export *
nbd_export_for(const struct nbd_server *s, const struct nbd_string *name)
{
	char text[NBD_NAME_MAX + 1];
	struct nbd_export *e;

	if (name->length == 0) {
		return nbd_export_nth(s, 1) == NULL ? nbd_export_nth(s, 0) : NULL;
	}
	if (name->length > NBD_NAME_MAX) {
		return NULL;
	}
	memcpy(text, name->text, name->length);
	text[name->length] = '\0';
	e = nbd_export_find(text);
	return e != NULL && sees(s, e) ? e : NULL;
}

/* ---- The end of all ---- */

static void
ended(void *ctx, int status)
{
}

void
nbd_exports_end(void (*done)(void))
{
	alive++;
	all_ended = done;
	while (!list_empty(&exports)) {
		nbd_export_end(LIST_FIRST(&exports, struct nbd_export, link), ended, NULL);
	}
	drop_one();
}
