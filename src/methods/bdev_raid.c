/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on RAID bdevs. What has a superblock is not remembered here: its bases know it. */
#include "bdevs/raid/raid.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

/* ---- What arrays are ---- */

static bool
info_of(const struct bdev *bdev, struct raid_info *ret_info)
{
	return raid_info_find(bdev_name(bdev), ret_info);
}

static json_t *
base_json(const struct raid_base_info *b)
{
	return json_pack("{s:o, s:o, s:b, s:I, s:I}", "name",
			 b->name != NULL ? text_json(b->name) : json_null(), "uuid",
			 uuid_json(b->uuid), "is_configured", b->configured, "data_offset",
			 (json_int_t)b->data_offset, "data_size", (json_int_t)b->data_size);
}

static json_t *
process_json(const struct raid_info *info)
{
	return json_pack("{s:s, s:o, s:{s:I, s:I}}", "type", "rebuild", "target",
			 text_json(info->rebuild_target), "progress", "blocks",
			 (json_int_t)info->rebuilt_blocks, "percent",
			 (json_int_t)(info->num_blocks == 0 ? 0
							    : info->rebuilt_blocks * 100.0 /
								      (double)info->num_blocks));
}

static void
describe(const struct raid_info *info, json_t *object)
{
	json_t *bases = json_array();

	json_object_set_new(object, "uuid", uuid_json(info->uuid));
	json_object_set_new(object, "strip_size_kb", json_integer(info->strip_kb));
	json_object_set_new(object, "state", json_string(raid_state_name(info->state)));
	json_object_set_new(object, "raid_level", json_string(raid_level_name(info->level)));
	json_object_set_new(object, "superblock", json_boolean(info->superblock));
	json_object_set_new(object, "num_base_bdevs", json_integer(info->num_bases));
	json_object_set_new(object, "num_base_bdevs_discovered", json_integer(info->discovered));
	json_object_set_new(object, "num_base_bdevs_operational", json_integer(info->operational));
	if (info->rebuilding) {
		json_object_set_new(object, "process", process_json(info));
	}
	for (unsigned i = 0; i < info->num_bases; i++) {
		json_array_append_new(bases, base_json(&info->bases[i]));
	}
	json_object_set_new(object, "base_bdevs_list", bases);
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	json_t *raid = json_object();
	struct raid_info info;

	CHECK(info_of(bdev, &info));
	describe(&info, raid);
	json_object_set_new(object, "raid", raid);
}

/* The create that makes it as it is now. An empty slot gets a name that base_at() knows. */
static json_t *
create_json(const struct raid_info *info)
{
	json_t *params = json_pack("{s:o, s:o, s:s}", "name", text_json(info->name), "uuid",
				   uuid_json(info->uuid), "raid_level",
				   raid_level_name(info->level));
	json_t *bases = json_array();
	char none[40];

	if (info->strip_kb != 0) {
		json_object_set_new(params, "strip_size_kb", json_integer(info->strip_kb));
	}
	if (info->superblock) {
		json_object_set_new(params, "superblock", json_true());
	}
	for (unsigned i = 0; i < info->num_bases; i++) {
		snprintf(none, sizeof(none), "removed_base_bdev_%u", i);
		json_array_append_new(bases, text_json(info->bases[i].name != NULL
							       ? info->bases[i].name
							       : none));
	}
	json_object_set_new(params, "base_bdevs", bases);
	return params;
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct raid_info info;

	CHECK(info_of(bdev, &info));
	return info.only_in_memory ? create_json(&info) : NULL;
}

static void
waiting(json_t *calls)
{
	struct raid_info info;

	for (unsigned i = 0; raid_info_at(i, &info); i++) {
		if (info.only_in_memory && bdev_find(info.name) == NULL) {
			json_array_append_new(calls, call_json("bdev_raid_create",
							       create_json(&info)));
		}
	}
}

const struct bdev_kind bdev_raid_kind = {
	.create_method = "bdev_raid_create",
	.is = raid_is,
	.params = params_json,
	.driver_specific = driver_specific,
	.waiting = waiting,
};

static json_t *
settings_json(void)
{
	struct raid_settings s;

	raid_get_settings(&s);
	return json_pack("{s:I, s:I, s:I}", "process_window_size_kb", (json_int_t)s.window_kb,
			 "process_max_bandwidth_mb_sec", (json_int_t)s.bandwidth_mb_sec,
			 "assembly_timeout_sec", (json_int_t)s.patience_sec);
}

void
raid_options_config(json_t *calls, bool for_state)
{
	static const struct raid_settings defaults = RAID_SETTINGS_DEFAULT;
	struct raid_settings s;

	raid_get_settings(&s);
	if (for_state && memcmp(&s, &defaults, sizeof(s)) == 0) {
		return;
	}
	json_array_append_new(calls, call_json("bdev_raid_set_options", settings_json()));
}

/* ---- Answers ---- */

/* What was done to an array is in its superblock, or the create that makes it anew says it. */
static void
record(struct rpc_request *req, const char *name)
{
	struct raid_info info;

	if (raid_info_find(name, &info) && info.only_in_memory) {
		rpc_set_recorded_call(req, "bdev_raid_create", create_json(&info));
	} else {
		rpc_set_recorded_call(req, NULL, NULL);
	}
}

/* ---- Methods ---- */

static enum raid_level
level_of(const char *text)
{
	static const struct {
		const char *text;
		enum raid_level level;
	} levels[] = {{"raid0", RAID_LEVEL_0},   {"0", RAID_LEVEL_0},      {"raid1", RAID_LEVEL_1},
		      {"1", RAID_LEVEL_1},       {"raid5f", RAID_LEVEL_5F}, {"5f", RAID_LEVEL_5F},
		      {"concat", RAID_LEVEL_CONCAT}};
	size_t i = 0;

	while (i < ARRAY_SIZE(levels) - 1 && strcmp(levels[i].text, text) != 0) {
		i++;
	}
	return levels[i].level;
}

struct pending {
	struct rpc_request *req;
	char name[RAID_SB_NAME_BYTES];
};

static struct pending *
pend(struct rpc_request *req, const char *name)
{
	struct pending *p = calloc(1, sizeof(*p));

	if (p == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
		return NULL;
	}
	p->req = req;
	snprintf(p->name, sizeof(p->name), "%s", name);
	return p;
}

static void
changed(void *ctx, int status, const struct err *err)
{
	struct pending *p = ctx;

	if (status != 0) {
		rpc_error_from(p->req, status, err);
	} else {
		record(p->req, p->name);
		rpc_true(p->req);
	}
	free(p);
}

/* A create that is made once more for an array that its bases know. */
static bool
is_there(const struct bdev_raid_create_params *p)
{
	struct raid_info info;

	return p->superblock && !uuid_is_null(p->uuid) && raid_info_find(p->name, &info) &&
	       info.superblock && uuid_compare(info.uuid, p->uuid) == 0;
}

/* What create_json() writes for an empty place is one, unless there is such a bdev. */
static const char *
base_at(const struct bdev_raid_create_params *p, unsigned i)
{
	const char *name = p->base_bdevs.items[i];
	char none[40];

	snprintf(none, sizeof(none), "removed_base_bdev_%u", i);
	return strcmp(name, none) == 0 && bdev_find(name) == NULL ? NULL : name;
}

/* Restored from the state it could not know which of its bases is stale. */
static bool
forgets(const struct bdev_raid_create_params *p)
{
	enum raid_level level = level_of(p->raid_level);

	return !p->superblock && methods->state_dir != NULL &&
	       (level == RAID_LEVEL_1 || level == RAID_LEVEL_5F);
}

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_raid_create_params *p = params;
	struct raid_options o = {
		.name = p->name,
		.level = level_of(p->raid_level),
		.strip_kb = p->strip_size_kb,
		.superblock = p->superblock,
		.num_bases = (unsigned)p->base_bdevs.count,
	};
	struct err err = ERR_NONE;
	const char *bases[RAID_SB_BASES_MAX];
	struct pending *pending;
	int rc;

	if (forgets(p)) {
		rpc_error(req, -EINVAL,
			  "RAID '%s': without a superblock it would not know its stale bases after a "
			  "restart, and there is a state directory: say superblock=true",
			  p->name);
		return;
	}
	for (unsigned i = 0; i < p->base_bdevs.count && i < ARRAY_SIZE(bases); i++) {
		bases[i] = base_at(p, i);
	}
	o.bases = bases;
	uuid_copy(o.uuid, p->uuid);
	if (is_there(p)) {
		rpc_set_recorded_call(req, NULL, NULL);
		rpc_true(req);
		return;
	}
	if ((pending = pend(req, p->name)) == NULL) {
		return;
	}
	rc = raid_create(&o, changed, pending, &err);
	if (rc != 0) {
		free(pending);
		rpc_error_from(req, rc, &err);
	}
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct bdev_raid_delete_params *p = params;
	struct err err = ERR_NONE;
	int rc = raid_delete(p->name, p->clear_sb, delete_done, req, &err);

	if (rc != 0) {
		delete_refused(req, rc, &err, "bdev_raid_", p->name);
	}
}

static json_t *
array_json(const struct raid_info *info)
{
	json_t *object = json_pack("{s:o}", "name", text_json(info->name));

	describe(info, object);
	return object;
}

static void
get_bdevs(struct rpc_request *req, const void *params)
{
	const struct bdev_raid_get_bdevs_params *p = params;
	bool all = strcmp(p->category, "all") == 0;
	json_t *array = json_array();
	struct raid_info info;

	for (unsigned i = 0; raid_info_at(i, &info); i++) {
		if (all || strcmp(raid_state_name(info.state), p->category) == 0) {
			json_array_append_new(array, array_json(&info));
		}
	}
	rpc_result(req, array);
}

static void
add_base(struct rpc_request *req, const void *params)
{
	const struct bdev_raid_add_base_bdev_params *p = params;
	struct pending *pending = pend(req, p->raid_bdev);
	struct err err = ERR_NONE;
	int rc;

	if (pending == NULL) {
		return;
	}
	rc = raid_add_base(p->raid_bdev, p->base_bdev, changed, pending, &err);
	if (rc != 0) {
		free(pending);
		rpc_error_from(req, rc, &err);
	}
}

static void
removed(void *ctx, int status)
{
	changed(ctx, status, NULL);
}

/* The array that has the base; "" when there is none. */
static void
find_array(const char *base, char ret_name[RAID_SB_NAME_BYTES])
{
	struct raid_info info;

	ret_name[0] = '\0';
	for (unsigned i = 0; raid_info_at(i, &info); i++) {
		for (unsigned k = 0; k < info.num_bases; k++) {
			const struct bdev *bdev = bdev_find(base);

			if (info.bases[k].name != NULL &&
			    strcmp(info.bases[k].name, bdev != NULL ? bdev_name(bdev) : base) == 0) {
				snprintf(ret_name, RAID_SB_NAME_BYTES, "%s", info.name);
				return;
			}
		}
	}
}

static void
remove_base(struct rpc_request *req, const void *params)
{
	const struct bdev_raid_remove_base_bdev_params *p = params;
	char name[RAID_SB_NAME_BYTES];
	struct err err = ERR_NONE;
	struct pending *pending;
	int rc;

	find_array(p->name, name);
	if ((pending = pend(req, name)) == NULL) {
		return;
	}
	rc = raid_remove_base(p->name, removed, pending, &err);
	if (rc != 0) {
		free(pending);
		rpc_error_from(req, rc, &err);
	}
}

static void
set_options(struct rpc_request *req, const void *params)
{
	const struct bdev_raid_set_options_params *p = params;
	struct raid_settings s;
	struct err err = ERR_NONE;
	int rc;

	raid_get_settings(&s);
	s.window_kb = p->has_process_window_size_kb ? p->process_window_size_kb : s.window_kb;
	s.bandwidth_mb_sec = p->has_process_max_bandwidth_mb_sec ? p->process_max_bandwidth_mb_sec
								 : s.bandwidth_mb_sec;
	s.patience_sec = p->has_assembly_timeout_sec ? p->assembly_timeout_sec : s.patience_sec;
	rc = raid_set_settings(&s, &err);
	if (rc != 0) {
		rpc_error_from(req, rc, &err);
		return;
	}
	rpc_set_recorded_params(req, settings_json());
	rpc_true(req);
}

const struct rpc_method bdev_raid_methods[] = {
	{"bdev_raid_set_options", set_options},
	{"bdev_raid_create", create},
	{"bdev_raid_delete", delete},
	{"bdev_raid_get_bdevs", get_bdevs},
	{"bdev_raid_add_base_bdev", add_base},
	{"bdev_raid_remove_base_bdev", remove_base},
	{NULL, NULL},
};
