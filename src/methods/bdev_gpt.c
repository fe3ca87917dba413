/* SPDX-License-Identifier: BSD-3-Clause */
/* GPT bdevs in answers. They are found, so there is nothing to call or to keep. */
#include "bdevs/gpt/gpt.h"

#include "base/check.h"
#include "methods/internal.h"

static bool
is(const struct bdev *bdev)
{
	struct gpt_info info;

	return bdev_gpt_info(bdev, &info);
}

static json_t *
no_params(const struct bdev *bdev)
{
	return NULL;
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	struct gpt_info info;

	CHECK(bdev_gpt_info(bdev, &info));
	json_object_set_new(object, "gpt",
			    json_pack("{s:o, s:I, s:o, s:o, s:o, s:o}", "base_bdev",
				      text_json(info.base_name), "offset_blocks",
				      (json_int_t)info.partition->first_block,
				      "partition_table_guid", uuid_json(info.disk_guid),
				      "partition_type_guid", uuid_json(info.partition->type),
				      "unique_partition_guid", uuid_json(info.partition->guid),
				      "partition_name", text_json(info.partition->name)));
}

const struct bdev_kind bdev_gpt_kind = {
	.is = is,
	.params = no_params,
	.driver_specific = driver_specific,
};
