/* SPDX-License-Identifier: BSD-3-Clause */
/* What there is to say of arrays. Context: the app thread. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "bdevs/raid/internal.h"

static struct raid_base_info bases[RAID_SB_BASES_MAX];

const char *
raid_state_name(enum raid_state state)
{
	static const char *const names[] = {
#define RAID_STATE_NAME(id, name) [RAID_##id] = name,
		RAID_STATES(RAID_STATE_NAME)
#undef RAID_STATE_NAME
	};

	return names[state];
}

const char *
raid_level_name(enum raid_level level)
{
	const struct raid_level_ops *ops = raid_level_find(level);

	return ops != NULL ? ops->name : "";
}

static void
describe_bases(const struct raid *raid, struct raid_info *info)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		const struct raid_base *b = &raid->bases[i];

		bases[i] = (struct raid_base_info){
			.name = b->name,
			.configured = b->configured && !b->closing && b->out == OUT_NO,
			.data_offset = b->data_offset,
			.data_size = b->data_size,
		};
		uuid_copy(bases[i].uuid, b->uuid);
		info->discovered += bases[i].configured;
	}
	info->bases = bases;
}

/* What is being rebuilt, is about to be, or is about to be a member. */
static const struct raid_base *
target_of(const struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		if (raid->bases[i].target && raid->bases[i].out == OUT_NO) {
			return &raid->bases[i];
		}
	}
	return NULL;
}

static void
describe(const struct raid *raid, struct raid_info *info)
{
	const struct raid_base *target = target_of(raid);

	*info = (struct raid_info){
		.name = raid->name,
		.level = raid->level->level,
		.state = raid->state,
		.strip_kb = raid->strip_kb,
		.superblock = raid->superblock,
		.only_in_memory = !raid->from_disk,
		.num_bases = raid->num_bases,
		.num_blocks = raid->lives ? bdev_num_blocks(&raid->bdev) : 0,
		.rebuilding = target != NULL,
		.rebuild_target = target != NULL ? target->name : NULL,
		.rebuilt_blocks = raid_process_is_resync(raid) ? 0 : raid_process_done_blocks(raid),
	};
	uuid_copy(info->uuid, raid->uuid);
	describe_bases(raid, info);
	info->operational = raid->lives ? info->discovered : raid_count_expected(raid);
	if (raid->joining != NULL) {
		info->rebuilt_blocks = info->num_blocks;
	}
}

bool
raid_info_at(unsigned index, struct raid_info *ret_info)
{
	struct raid *raid;

	LIST_FOREACH (raid, &raid_all, link) {
		if (index-- == 0) {
			describe(raid, ret_info);
			return true;
		}
	}
	return false;
}

bool
raid_info_find(const char *name, struct raid_info *ret_info)
{
	struct raid *raid = raid_find(name);

	if (raid != NULL) {
		describe(raid, ret_info);
	}
	return raid != NULL;
}

bool
raid_is(const struct bdev *bdev)
{
	struct raid *raid;

	LIST_FOREACH (raid, &raid_all, link) {
		if (raid->lives && &raid->bdev == bdev) {
			return true;
		}
	}
	return false;
}
