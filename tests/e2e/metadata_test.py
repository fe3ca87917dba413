#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Metadata, protection information and zones: what clients see, and that it holds below other bdevs and behind a socket."""
import harness
from harness import contains, equal

MIB = 1 << 20


def describe(d, name, *keys):
    bdev = d.call("bdev_get_bdevs", name=name)[0]
    return [bdev.get(key) for key in keys]


def verify(t, d, socket):
    out = t.berth("perf", "-s", d.path(socket), "-w", "verify", "-q", "16", "-o", "16k", "-t", "0.5", "--quiet")
    contains(out, "all as written")


def test_what_is_shown(t):
    d = t.daemon()
    d.call("bdev_malloc_create", name="M", num_blocks=64, block_size=512, md_size=16, md_interleave=True, dif_type=1)
    equal(describe(d, "M", "block_size", "md_size", "md_interleave", "dif_type", "dif_is_head_of_md", "dif_pi_format"),
          [528, 16, True, 1, False, 0])
    equal(describe(d, "M", "enabled_dif_check_types"), [{"reftag": True, "apptag": False, "guard": True}])
    d.call("bdev_null_create", name="N", num_blocks=64, block_size=4096, md_size=64, dif_type=3, dif_pi_format=2,
           dif_is_head_of_md=True, preferred_write_granularity=1, preferred_write_alignment=2, optimal_write_size=3,
           preferred_unmap_granularity=4, preferred_unmap_alignment=5)
    equal(describe(d, "N", "md_size", "md_interleave", "dif_type", "dif_is_head_of_md", "dif_pi_format"), [64, True, 3, True, 2])
    equal(describe(d, "N", "enabled_dif_check_types"), [{"reftag": False, "apptag": False, "guard": True}])
    equal(describe(d, "N", "preferred_write_granularity", "preferred_write_alignment", "optimal_write_size",
                   "preferred_unmap_granularity", "preferred_unmap_alignment"), [1, 2, 3, 4, 5])
    d.call("bdev_malloc_create", name="Plain", num_blocks=64, block_size=512, numa_id=0)
    equal(describe(d, "Plain", "md_size", "dif_type", "numa_id", "zoned", "zone_size"), [None, None, 0, False, None])


def test_refused(t):
    d = t.daemon()
    for method in "bdev_malloc_create", "bdev_null_create":
        for params, word in [({"md_size": 9}, "9 bytes"), ({"md_size": 256}, "256 bytes"), ({"dif_type": 1}, "metadata"),
                             ({"dif_type": 4, "md_size": 8}, "dif_type"), ({"dif_pi_format": 3}, "dif_pi_format"),
                             ({"dif_type": 1, "md_size": 8, "dif_pi_format": 1}, "32-bit"),
                             ({"dif_type": 1, "md_size": 16, "dif_pi_format": 2}, "4096")]:
            contains(str(d.error(method, -22, {"name": "X", "num_blocks": 64, "block_size": 512, **params})), word)
    contains(str(d.error("bdev_malloc_create", -22, {"name": "X", "num_blocks": 64, "block_size": 512, "numa_id": 999})), "999")
    equal(d.call("bdev_get_bdevs"), [])


def test_behind_a_socket(t):
    """The guest knows nothing of it: alone, in partitions, below two others."""
    d = t.daemon()
    d.call("bdev_malloc_create", name="M", num_blocks=16 * MIB // 512, block_size=512, md_size=8, dif_type=1)
    d.call("bdev_split_create", base_bdev="M", split_count=2)
    d.call("bdev_malloc_create", name="M4", num_blocks=8 * MIB // 4096, block_size=4096, md_size=64, dif_type=2, dif_pi_format=2,
           dif_is_head_of_md=True)
    d.call("bdev_passthru_create", name="P", base_bdev_name="M4")
    d.call("bdev_passthru_create", name="PP", base_bdev_name="P")
    equal(describe(d, "PP", "md_size", "dif_type"), [64, 2])
    equal(describe(d, "Mp1", "md_size", "dif_type"), [None, None], "a partition's metadata is its base's affair")
    for name in "Mp1", "PP":
        d.controller(name, name)
        verify(t, d, name)


def test_zones(t):
    d = t.daemon()
    d.call("bdev_malloc_create", name="M", num_blocks=1000, block_size=512)
    equal(d.call("bdev_zone_block_create", name="Z", base_bdev="M", zone_capacity=100, optimal_open_zones=2, max_open_zones=4), "Z")
    equal(describe(d, "Z", "zoned", "zone_size", "num_blocks", "max_open_zones", "max_active_zones", "optimal_open_zones"),
          [True, 128, 896, 4, 0, 2])
    equal(describe(d, "Z", "driver_specific"), [{"zoned_block": {
        "name": "Z", "base_bdev": "M", "zone_capacity": 100, "optimal_open_zones": 2}}])
    contains(str(d.error("vhost_create_blk_controller", -95, {"ctrlr": "z", "dev_name": "Z"})), "'Z' is zoned")
    d.error("bdev_zone_block_create", -22, {"name": "Y", "base_bdev": "M", "zone_capacity": 0, "optimal_open_zones": 1})
    d.error("bdev_zone_block_create", -17, {"name": "Y", "base_bdev": "Z", "zone_capacity": 10, "optimal_open_zones": 1})
    d.error("bdev_zone_block_delete", -19, {"name": "M"})
    equal(describe(d, "M", "claimed", "claim_type"), [True, "exclusive_write"])
    equal(d.call("bdev_zone_block_delete", name="Z"), True)
    equal(describe(d, "M", "claimed", "claim_type"), [False, None])


harness.main(globals())
