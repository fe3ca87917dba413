/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on bdevs of any kind: description, options, configuration. */
#include "bdev/bdev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/dif.h"
#include "base/list.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

/* Longest wait for a bdev: a day. */
#define WAIT_MAX_MS (UINT64_C(24) * 3600 * 1000)

/* ---- Kinds ---- */

static const struct bdev_kind *const kinds[] = {
	&bdev_null_kind,
	&bdev_malloc_kind,
	&bdev_aio_kind,
	&bdev_uring_kind,
	&bdev_passthru_kind,
	&bdev_qcow2_kind,
	&bdev_raid_kind,
	&bdev_gpt_kind,
	&bdev_zone_block_kind,
	&bdev_crypto_kind,
	&bdev_virtio_kind,
	&bdev_nbd_kind,
	&bdev_iscsi_kind,
	&bdev_rbd_kind,
	&bdev_powercut_kind,
	&bdev_split_kind,
	&bdev_delay_kind,
	&bdev_error_kind,
	&bdev_lvol_kind,
};

const struct bdev_kind *
bdev_kind_find(const struct bdev *bdev, json_t **ret_params)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (kinds[i]->is(bdev)) {
			if (ret_params != NULL) {
				*ret_params = kinds[i]->params(bdev);
			}
			return kinds[i];
		}
	}
	return NULL;
}

/* What makes the bdev again, which may be nothing. */
static void
record(struct rpc_request *req, const struct bdev *bdev)
{
	json_t *params = NULL;
	const struct bdev_kind *kind = bdev_kind_find(bdev, &params);

	CHECK(kind != NULL);
	rpc_set_recorded_call(req, params != NULL ? kind->create_method : NULL, params);
}

void
bdev_created(struct rpc_request *req, const struct bdev *bdev)
{
	record(req, bdev);
	rpc_result(req, text_json(bdev_name(bdev)));
}

void
bdev_created_or_waits(struct rpc_request *req, int rc, const struct err *err, const struct bdev *bdev, const char *name)
{
	if (rc != 0) {
		rpc_error_from(req, rc, err);
	} else if (bdev != NULL) {
		bdev_created(req, bdev);
	} else {
		rpc_result(req, text_json(name));
	}
}

void
bdev_changed(struct rpc_request *req, const struct bdev *bdev)
{
	record(req, bdev);
	rpc_true(req);
}

bool
check_block_size(struct rpc_request *req, uint32_t size)
{
	if (size == 0 || (size >= BDEV_BLOCK_SIZE_MIN && size <= BDEV_BLOCK_SIZE_MAX &&
			  (size & (size - 1)) == 0)) {
		return true;
	}
	rpc_error(req, -EINVAL, "block_size %u is neither 0 nor a power of two from %d to %d", size,
		  BDEV_BLOCK_SIZE_MIN, BDEV_BLOCK_SIZE_MAX);
	return false;
}

/* ---- bdev_get_bdevs ---- */

static json_t *
supported_io_types(const struct bdev *b)
{
	static const struct {
		const char *name;
		int op; /* -1: never */
	} types[] = {
		{"read", BDEV_READ},
		{"write", BDEV_WRITE},
		{"unmap", BDEV_UNMAP},
		{"flush", BDEV_FLUSH},
		{"reset", BDEV_RESET},
		{"nvme_admin", -1},
		{"nvme_io", -1},
		{"nvme_io_md", -1},
		{"write_zeroes", BDEV_WRITE_ZEROES},
		{"zcopy", -1},
		{"get_zone_info", BDEV_ZONE_REPORT},
		{"zone_management", BDEV_ZONE_MANAGE},
		{"zone_append", BDEV_ZONE_APPEND},
		{"compare", BDEV_COMPARE},
		{"compare_and_write", BDEV_COMPARE_AND_WRITE},
		{"abort", BDEV_ABORT},
		{"seek_hole", BDEV_SEEK_HOLE},
		{"seek_data", BDEV_SEEK_DATA},
		{"copy", BDEV_COPY},
		{"nvme_iov_md", -1},
		{"nvme_nssr", -1},
		{"write_uncorrectable", -1},
	};
	json_t *object = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(types); i++) {
		bool yes = types[i].op >= 0 && bdev_supports(b, (enum bdev_op)types[i].op);

		json_object_set_new(object, types[i].name, json_boolean(yes));
	}
	return object;
}

static json_t *
aliases(const struct bdev *b)
{
	json_t *array = json_array();
	const char *alias;

	for (unsigned i = 0; (alias = bdev_alias(b, i)) != NULL; i++) {
		json_array_append_new(array, text_json(alias));
	}
	return array;
}

/* With the metadata where that lies between blocks, as SPDK shows it. */
static json_int_t
shown_block_size(const struct bdev *b)
{
	struct bdev_md md;

	bdev_md(b, &md);
	return (json_int_t)bdev_block_size(b) + (md.interleave ? (json_int_t)md.bytes : 0);
}

static void
set_hints(json_t *object, const struct bdev_hints *h)
{
	json_object_set_new(object, "preferred_write_alignment",
			    json_integer(h->preferred_write_alignment));
	json_object_set_new(object, "preferred_write_granularity",
			    json_integer(h->preferred_write_granularity));
	json_object_set_new(object, "optimal_write_size", json_integer(h->optimal_write_size));
	json_object_set_new(object, "preferred_unmap_alignment",
			    json_integer(h->preferred_unmap_alignment));
	json_object_set_new(object, "preferred_unmap_granularity",
			    json_integer(h->preferred_unmap_granularity));
}

static void
set_md(json_t *object, const struct bdev *b)
{
	struct bdev_md md;

	bdev_md(b, &md);
	if (md.bytes == 0) {
		return;
	}
	json_object_set_new(object, "md_size", json_integer(md.bytes));
	json_object_set_new(object, "md_interleave", json_boolean(md.interleave));
	json_object_set_new(object, "dif_type", json_integer(md.dif_type));
	if (md.dif_type != 0) {
		json_object_set_new(object, "dif_is_head_of_md", json_boolean(md.dif_head));
		json_object_set_new(object, "enabled_dif_check_types",
				    json_pack("{s:b, s:b, s:b}", "reftag",
					      (md.dif_check_flags & DIF_CHECK_REF) != 0, "apptag",
					      (md.dif_check_flags & DIF_CHECK_APP) != 0, "guard",
					      (md.dif_check_flags & DIF_CHECK_GUARD) != 0));
		json_object_set_new(object, "dif_pi_format", json_integer(md.dif_pi_format));
	}
}

static void
set_claim(json_t *object, const struct bdev *b)
{
	static const char *const names[] = {
		[BDEV_CLAIM_WRITE_ONE] = "exclusive_write",
		[BDEV_CLAIM_WRITE_NONE] = "read_many_write_none",
		[BDEV_CLAIM_WRITE_SHARED] = "read_many_write_shared",
	};
	enum bdev_claim claim = bdev_claim_held(b);

	json_object_set_new(object, "claimed", json_boolean(claim != BDEV_CLAIM_NONE));
	if (claim != BDEV_CLAIM_NONE) {
		json_object_set_new(object, "claim_type", json_string(names[claim]));
	}
}

static void
set_zones(json_t *object, const struct bdev *b)
{
	struct bdev_zones z;

	bdev_zones(b, &z);
	json_object_set_new(object, "zoned", json_boolean(z.zone_blocks != 0));
	if (z.zone_blocks != 0) {
		json_object_set_new(object, "zone_size", json_integer((json_int_t)z.zone_blocks));
		json_object_set_new(object, "max_open_zones", json_integer(z.max_open));
		json_object_set_new(object, "max_active_zones", json_integer(z.max_active));
		json_object_set_new(object, "optimal_open_zones", json_integer(z.optimal_open));
	}
}

/* As it was asked for; -1: memory of any node. */
static json_t *
numa_id(const struct bdev *b, const struct bdev_kind *kind)
{
	json_t *params = kind->params(b);
	const json_t *id = json_object_get(params, "numa_id");
	json_t *copy = json_integer(id != NULL ? json_integer_value(id) : -1);

	json_decref(params);
	return copy;
}

static json_t *
bdev_json(const void *ctx, const char *name)
{
	const struct bdev *b = bdev_find(name);
	const struct bdev_kind *kind;
	json_t *object, *specific;
	uuid_t uuid;

	if (b == NULL) {
		return NULL;
	}
	kind = bdev_kind_find(b, NULL);
	object = json_object();
	specific = json_object();
	bdev_uuid(b, uuid);
	json_object_set_new(object, "name", text_json(bdev_name(b)));
	json_object_set_new(object, "aliases", aliases(b));
	json_object_set_new(object, "product_name", json_string(bdev_product_name(b)));
	json_object_set_new(object, "block_size", json_integer(shown_block_size(b)));
	json_object_set_new(object, "num_blocks", json_integer((json_int_t)bdev_num_blocks(b)));
	set_hints(object, bdev_hints(b));
	json_object_set_new(object, "uuid", uuid_json(uuid));
	if (kind != NULL && kind->shows_numa_id) {
		json_object_set_new(object, "numa_id", numa_id(b, kind));
	}
	set_md(object, b);
	json_object_set_new(object, "assigned_rate_limits", qos_limits_json(b));
	set_claim(object, b);
	set_zones(object, b);
	json_object_set_new(object, "supported_io_types", supported_io_types(b));
	if (kind != NULL && kind->driver_specific != NULL) {
		kind->driver_specific(b, specific);
	}
	json_object_set_new(object, "driver_specific", specific);
	return object;
}

/* Requests that wait for a bdev to appear. */
struct waiter {
	struct list link;
	struct timer timer;
	struct rpc_request *req;
	const char *name; /* the request's */
};

static struct list waiters = {&waiters, &waiters};

static void
answer_one(struct rpc_request *req, const char *name)
{
	if (bdev_find(name) == NULL) {
		rpc_error(req, -ENODEV, "there is no bdev '%.128s'", name);
	} else {
		rpc_result(req, json_pack("[o]", bdev_json(NULL, name)));
	}
}

static void
waiter_end(struct waiter *w)
{
	timer_stop(&w->timer);
	list_remove(&w->link);
	answer_one(w->req, w->name);
	free(w);
}

static void
waiter_late(struct timer *timer)
{
	waiter_end(CONTAINER_OF(timer, struct waiter, timer));
}

/* An alias or UUID may be what is waited for, so the registry is asked, not the name compared. */
void
bdev_waiters_check(const char *name)
{
	struct waiter *w, *next;

	LIST_FOREACH_SAFE (w, next, &waiters, link) {
		if (bdev_find(w->name) != NULL) {
			waiter_end(w);
		}
	}
}

void
bdev_waiters_end(void)
{
	while (!list_empty(&waiters)) {
		waiter_end(LIST_FIRST(&waiters, struct waiter, link));
	}
}

static void
wait_for(struct rpc_request *req, const char *name, uint64_t timeout_ms)
{
	struct waiter *w = calloc(1, sizeof(*w));

	if (w == NULL ||
	    timer_start(&w->timer, MIN(timeout_ms, WAIT_MAX_MS) * (NS_PER_MS / NS_PER_US),
			waiter_late) != 0) {
		free(w);
		rpc_error(req, -ENOMEM, "out of memory");
		return;
	}
	w->req = req;
	w->name = name;
	list_append(&waiters, &w->link);
}

static void
get_bdevs(struct rpc_request *req, const void *params)
{
	const struct bdev_get_bdevs_params *p = params;
	struct rpc_list *list;

	if (p->name != NULL) {
		if (p->timeout > 0 && bdev_find(p->name) == NULL) {
			wait_for(req, p->name, p->timeout);
		} else {
			answer_one(req, p->name);
		}
		return;
	}
	list = rpc_list_begin(req, bdev_json, NULL);
	for (struct bdev *b = bdev_first(); b != NULL; b = bdev_next(b)) {
		rpc_list_add(list, bdev_name(b));
	}
	rpc_list_end(list);
}

/* ---- Options and examination ---- */

static json_t *
options_json(void)
{
	struct bdev_options o;

	bdev_get_options(&o);
	return json_pack("{s:I, s:I, s:b, s:I, s:I}", "bdev_io_pool_size",
			 (json_int_t)o.io_pool_size, "bdev_io_cache_size",
			 (json_int_t)o.io_cache_size, "bdev_auto_examine", o.auto_examine,
			 "iobuf_small_cache_size", (json_int_t)o.iobuf_small_cache_size,
			 "iobuf_large_cache_size", (json_int_t)o.iobuf_large_cache_size);
}

static void
set_options(struct rpc_request *req, const void *params)
{
	const struct bdev_set_options_params *p = params;
	struct bdev_options o;
	struct err err = ERR_NONE;
	int rc;

	bdev_get_options(&o);
	o.io_pool_size = p->has_bdev_io_pool_size ? p->bdev_io_pool_size : o.io_pool_size;
	o.io_cache_size = p->has_bdev_io_cache_size ? p->bdev_io_cache_size : o.io_cache_size;
	o.auto_examine = p->has_bdev_auto_examine ? p->bdev_auto_examine : o.auto_examine;
	o.iobuf_small_cache_size = p->has_iobuf_small_cache_size ? p->iobuf_small_cache_size
								 : o.iobuf_small_cache_size;
	o.iobuf_large_cache_size = p->has_iobuf_large_cache_size ? p->iobuf_large_cache_size
								 : o.iobuf_large_cache_size;
	rc = bdev_set_options(&o, &err);
	if (rc != 0) {
		rpc_error_from(req, rc, &err);
		return;
	}
	rpc_set_recorded_params(req, options_json());
	rpc_true(req);
}

static void
examine(struct rpc_request *req, const void *params)
{
	const struct bdev_examine_params *p = params;
	struct bdev_options o;
	struct err err = ERR_NONE;

	bdev_get_options(&o);
	if (o.auto_examine) {
		rpc_error(req, -EINVAL,
			  "bdevs are examined as they appear (bdev_auto_examine is on)");
	} else if (bdev_examine(p->name, &err) != 0) {
		rpc_error_from(req, 0, &err);
	} else {
		rpc_true(req);
	}
}

struct examine_waiter {
	struct bdev_examine_wait wait;
	struct rpc_request *req;
};

static void
examined(struct bdev_examine_wait *wait)
{
	struct examine_waiter *w = CONTAINER_OF(wait, struct examine_waiter, wait);

	rpc_true(w->req);
	free(w);
}

static void
wait_for_examine(struct rpc_request *req, const void *params)
{
	struct examine_waiter *w = calloc(1, sizeof(*w));

	if (w == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
		return;
	}
	w->req = req;
	bdev_wait_for_examine(&w->wait, examined);
}

/* ---- Configuration ---- */

static bool
default_options(const json_t *options)
{
	static json_t *first;

	if (first == NULL) {
		first = json_pack("{s:i, s:i, s:b, s:i, s:i}", "bdev_io_pool_size", 65535,
				  "bdev_io_cache_size", 256, "bdev_auto_examine", 1,
				  "iobuf_small_cache_size", 128, "iobuf_large_cache_size", 16);
	}
	return json_equal(first, options);
}

void
bdev_options_config(json_t *calls, bool for_state)
{
	json_t *options = options_json();

	if (for_state && default_options(options)) {
		json_decref(options);
	} else {
		json_array_append_new(calls, call_json("bdev_set_options", options));
	}
}

void
bdev_waiting_config(json_t *calls)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (kinds[i]->waiting != NULL) {
			kinds[i]->waiting(calls);
		}
	}
}

/* In the order in which they came: bases before what stands on them. Then those that still wait for theirs. */
void
bdev_config(json_t *calls, bool for_state)
{
	for (struct bdev *b = bdev_first(); b != NULL; b = bdev_next(b)) {
		const struct bdev_kind *kind;
		json_t *params = NULL;

		if (for_state && disk_has_bdev(bdev_name(b))) {
			continue;
		}
		kind = bdev_kind_find(b, &params);
		if (params != NULL) {
			json_array_append_new(calls, call_json(kind->create_method, params));
		}
	}
	bdev_waiting_config(calls);
}

/* What comes by examination is there when the calls behind this one are made. */
void
bdev_examine_config(json_t *calls, bool for_state)
{
	if (!for_state) {
		json_array_append_new(calls, json_pack("{s:s}", "method", "bdev_wait_for_examine"));
	}
}

const struct rpc_method bdev_methods[] = {
	{"bdev_set_options", set_options},
	{"bdev_get_bdevs", get_bdevs},
	{"bdev_examine", examine},
	{"bdev_wait_for_examine", wait_for_examine},
	{NULL, NULL},
};
