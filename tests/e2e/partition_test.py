#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Partitions: tables that others make, found on a file; who owns a disk whose guest has partitioned it."""
import os

import harness
from harness import check, equal

MIB = 1 << 20
NEW = "6527994e-2c5a-4eec-9613-8f5944074e8b"
OLD = "7c5222bd-8f5d-4087-9c00-bf9843c7b58c"
GUID = "11111111-2222-3333-4444-5555555555%02x"
DISK = "99999999-8888-7777-6666-555555555555"


def partitioned(t, name="disk.img"):
    path = t.path(name)
    with open(path, "wb") as f:
        f.truncate(64 * MIB)
    t.run(["/usr/sbin/sgdisk", "--clear", "--disk-guid", DISK,
           "--new", "1:2048:10239", "--typecode", f"1:{NEW}", "--partition-guid", f"1:{GUID % 1}", "--change-name", "1:erste",
           "--new", "2:10240:20479", "--typecode", f"2:{OLD}", "--partition-guid", f"2:{GUID % 2}", "--change-name", "2:zweite Größe",
           "--new", "3:20480:30719", "--typecode", "3:8300", path])
    return path


def names(d):
    with d.rpc() as rpc:
        rpc.call("bdev_wait_for_examine")
        return sorted(b["name"] for b in rpc.call("bdev_get_bdevs"))


def test_sgdisk(t):
    path = partitioned(t)
    d = t.daemon()
    d.call("bdev_aio_create", name="Aio0", filename=path, block_size=512)
    equal(names(d), ["Aio0", "Aio0p1", "Aio0p2"])
    with d.rpc() as rpc:
        p1 = rpc.call("bdev_get_bdevs", name="Aio0p1")[0]
        p2 = rpc.call("bdev_get_bdevs", name="Aio0p2")[0]
    equal(p1["num_blocks"], 8192)
    equal(p2["num_blocks"], 10239, "a partition of the old type is one block shorter")
    equal((p1["product_name"], p1["driver_specific"]["gpt"]["unique_partition_guid"]), ("GPT Disk", GUID % 1))
    check(p1["uuid"] != GUID % 1, "a UUID that a guest could choose")
    equal(p2["driver_specific"], {"gpt": {
        "base_bdev": "Aio0", "offset_blocks": 10240, "partition_table_guid": DISK, "partition_type_guid": OLD,
        "unique_partition_guid": GUID % 2, "partition_name": "zweite Größe"}})
    # They are not configured, and not saved.
    config = d.call("framework_get_config", name="bdev")
    check(not any("p1" in str(c) for c in config), f"{config}")
    d.call("bdev_aio_delete", name="Aio0")
    equal(names(d), [])


def test_configured_names_come_first(t):
    """A guest that writes a table to its disk takes no name of a bdev that is configured, not by a restart either."""
    path = t.file("disk", 64 * MIB)
    d = t.daemon("--state-dir", t.path("state"))
    d.call("bdev_aio_create", name="Aio0", filename=path, block_size=512)
    d.call("bdev_malloc_create", name="Aio0p1", num_blocks=64, block_size=512)
    d.stop()
    os.rename(partitioned(t), path)
    d = t.daemon("--state-dir", t.path("state"))
    equal(names(d), ["Aio0", "Aio0p1", "Aio0p2"])
    equal(d.call("bdev_get_bdevs", name="Aio0p1")[0]["product_name"], "Malloc disk")


def test_broken_primary(t):
    path = partitioned(t)
    with open(path, "r+b") as f:
        f.seek(512 + 100)
        f.write(b"x" * 10000)
    d = t.daemon()
    d.call("bdev_aio_create", name="Aio0", filename=path, block_size=512)
    equal(names(d), ["Aio0", "Aio0p1", "Aio0p2"])


def test_by_hand(t):
    path = partitioned(t)
    d = t.daemon("--wait-for-rpc")
    d.call("bdev_set_options", bdev_auto_examine=False)
    d.call("framework_start_init")
    d.call("bdev_aio_create", name="Aio0", filename=path, block_size=512)
    equal(names(d), ["Aio0"])
    d.call("bdev_examine", name="Aio0")
    equal(names(d), ["Aio0", "Aio0p1", "Aio0p2"])


def test_a_controller_has_its_disk(t):
    """A guest that writes a table with our types into its own disk has the disk again after a restart."""
    path = partitioned(t)
    state = t.path("state")
    d = t.daemon("--state-dir", state)
    d.call("bdev_aio_create", name="Aio0", filename=path, block_size=512)
    equal(len(names(d)), 3)
    d.controller("vm0", "Aio0")
    equal(names(d), ["Aio0"], "partitions that nobody uses go")
    d.kill()
    d = t.daemon("--state-dir", state)
    equal(names(d), ["Aio0"])
    equal([c["ctrlr"] for c in d.call("vhost_get_controllers")], ["vm0"])
    d.call("vhost_delete_controller", ctrlr="vm0")
    # What is in use stays.
    d.call("bdev_aio_delete", name="Aio0")
    d.call("bdev_aio_create", name="Aio0", filename=path, block_size=512)
    equal(len(names(d)), 3)
    d.controller("vm1", "Aio0p1")
    check("gpt" in d.error("vhost_create_blk_controller", params={"ctrlr": "vm2", "dev_name": "Aio0"})["message"])


harness.main(globals())
