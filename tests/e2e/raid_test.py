#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Arrays over files: those SPDK made, those that lose a base or their process, what is left of their data."""
import hashlib
import lzma
import os
import shutil

import harness
from harness import check, contains, equal, until

MIB = 1 << 20
UUID = "00000000-0000-4000-8000-%012x"
# Of the whole array, as SPDK reads it.
SPDK_R1 = "cddeb0aab9617ddb2a90c8a0314cd1c8527bf966fdd65dd782dec264b7fc1b94"
DATA = os.path.join(harness.ROOT, "tests", "data")


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise harness.Skip(f"{program} is not installed")


def base(t, d, i, mib=32, block_size=512):
    path = t.path(f"d{i}.img")
    if not os.path.exists(path):
        t.file(f"d{i}.img", mib * MIB)
    d.call("bdev_aio_create", name=f"D{i}", filename=path, block_size=block_size, uuid=UUID % i)


def bases(t, d, count, **kw):
    for i in range(count):
        base(t, d, i, **kw)


def array(d, name="R", category="all"):
    return next((a for a in d.call("bdev_raid_get_bdevs", category=category) if a["name"] == name), None)


def online(d, name="R"):
    return until(lambda: array(d, name, "online"), f"{name} is online")


def whole(d, count, name="R"):
    def ready():
        a = array(d, name, "online")
        return a if a and a["num_base_bdevs_discovered"] == count and "process" not in a else None
    return until(ready, f"{name} has {count} bases and is not rebuilt", 60)


def export(d, name="R"):
    d.call("berth_nbd_server_create", path=d.path("n.sock"))
    d.call("berth_nbd_export_create", bdev_name=name)


def uri(d, name="R"):
    return f"nbd+unix:///{name}?socket={d.path('n.sock')}"


def pattern(t, mib, seed):
    path = t.path(f"pattern{seed}")
    with open(path, "wb") as f:
        for i in range(mib * 16):
            f.write(hashlib.sha256(b"%d %d" % (seed, i)).digest() * 2048)
    return path


def put(t, d, path):
    t.run(["nbdcopy", "--flush", path, uri(d)])


def get(t, d):
    path = t.path("copy")
    t.run(["nbdcopy", uri(d), path])
    return path


def expect(t, d, path):
    with open(path, "rb") as a, open(get(t, d), "rb") as b:
        want = a.read()
        check(b.read(len(want)) == want, "the array reads as it was written")


def data_of(t, i, a):
    entry = next(b for b in a["base_bdevs_list"] if b["name"] == f"D{i}")
    with open(t.path(f"d{i}.img"), "rb") as f:
        f.seek(entry["data_offset"] * 512)
        return f.read(entry["data_size"] * 512)


def jobs(d, kind):
    return [j for j in d.call("berth_get_jobs") if j["kind"] == kind]


def test_made_by_spdk(t):
    need("nbdcopy")
    d = t.daemon()
    for i in range(2):
        with lzma.open(os.path.join(DATA, f"spdk-raid1-{i}.img.xz")) as src, open(t.path(f"d{i}.img"), "wb") as dst:
            dst.write(src.read())
        base(t, d, i, block_size=4096)
    a = online(d, "R1")
    equal((a["uuid"], a["raid_level"], a["superblock"], a["num_base_bdevs_discovered"]),
          ("ae4aa4f9-af2c-4fca-9965-7cae15076ff1", "raid1", True, 2))
    equal([(b["name"], b["data_offset"], b["data_size"]) for b in a["base_bdevs_list"]],
          [("D0", 256, 3840), ("D1", 256, 3840)])
    export(d, "R1")
    t.run(["nbdcopy", uri(d, "R1"), t.path("copy")])
    with open(t.path("copy"), "rb") as f:
        equal(hashlib.sha256(f.read()).hexdigest(), SPDK_R1)
    # Its superblock is the configuration.
    check(not any(c["method"] == "bdev_raid_create" for c in d.call("framework_get_config", name="bdev")))
    specific = d.call("bdev_get_bdevs", name="R1")[0]["driver_specific"]["raid"]
    equal({k: v for k, v in a.items() if k not in ("name", "process")},
          {k: v for k, v in specific.items() if k != "process"})


@harness.each(level=["raid1", "raid5f"])
def test_killed_during_rebuild(t, level):
    need("nbdcopy")
    count = 2 if level == "raid1" else 3
    strip = {} if level == "raid1" else {"strip_size_kb": 64}
    first, second = pattern(t, 24, 1), pattern(t, 8, 2)
    args = ["--state-dir", t.path("state")]
    d = t.daemon(*args)
    bases(t, d, count + 1)
    d.call("bdev_raid_create", name="R", raid_level=level, superblock=True, base_bdevs=[f"D{i}" for i in range(count)],
           **strip)
    export(d)
    put(t, d, first)
    d.call("bdev_aio_delete", name="D0")
    whole(d, count - 1)
    expect(t, d, first)
    put(t, d, second)
    d.call("bdev_raid_set_options", process_max_bandwidth_mb_sec=8)
    d.call("bdev_raid_add_base_bdev", raid_bdev="R", base_bdev=f"D{count}")
    process = until(lambda: array(d).get("process"), "it is rebuilt")
    equal((process["type"], process["target"]), ("rebuild", f"D{count}"))
    until(lambda: array(d)["process"]["progress"]["blocks"] > 0, "it gets on")
    equal([j["name"] for j in jobs(d, "raid_rebuild") if j["state"] == "running"], ["R"])
    d.kill()
    # The base that was rebuilt is no member yet, and what was taken away is stale.
    d = t.daemon(*args)
    d.call("bdev_raid_set_options", process_max_bandwidth_mb_sec=0)
    base(t, d, 0)
    until(lambda: jobs(d, "raid_rebuild"), "the rebuild begins again")
    whole(d, count)
    expect(t, d, second)
    until(lambda: all(j["state"] not in ("running", "cancelling") for j in d.call("berth_get_jobs")), "all jobs end", 60)
    a = array(d)
    names = {b["name"] for b in a["base_bdevs_list"]}
    check("D0" not in names, f"{names}")
    members = [data_of(t, i, a) for i in range(1, count + 1)]
    if level == "raid1":
        check(members[0] == members[1], "the mirrors are equal")
    else:
        total = int.from_bytes(members[0], "little")
        for m in members[1:]:
            total ^= int.from_bytes(m, "little")
        equal(total, 0, "sum of all strips")
    d.stop()


def test_orderly_stop(t):
    """What was stopped in order is known to be in order; kill -9 under writes is noticed."""
    need("nbdcopy")
    args = ["--state-dir", t.path("state")]
    d = t.daemon(*args)
    bases(t, d, 3)
    d.call("bdev_raid_create", name="R", raid_level="raid5f", superblock=True, strip_size_kb=16,
           base_bdevs=["D0", "D1", "D2"])
    export(d)
    path = pattern(t, 4, 3)
    put(t, d, path)
    d.stop()
    d = t.daemon(*args)
    online(d)
    equal(jobs(d, "raid_resync"), [])
    expect(t, d, path)
    put(t, d, path)
    d.kill()
    d = t.daemon(*args)
    online(d)
    until(lambda: [j["state"] for j in jobs(d, "raid_resync")] == ["done"], "it is resynchronised", 60)
    expect(t, d, path)
    equal(d.call("bdev_raid_delete", name="R", clear_sb=True), True)
    d.stop()
    d = t.daemon(*args)
    equal(d.call("bdev_raid_get_bdevs", category="all"), [])


def test_without_superblock(t):
    """It is part of the configuration, waiting or not; empty places have names that nobody has."""
    args = ["--state-dir", t.path("state")]
    d = t.daemon(*args)
    bases(t, d, 3, mib=8)
    d.call("bdev_raid_create", name="S", raid_level="raid0", strip_size_kb=4, base_bdevs=["D0", "Late"])
    for level, kw in (("1", {}), ("raid5f", {"strip_size_kb": 4})):
        error = d.error("bdev_raid_create", -22, {"name": "M", "raid_level": level, "base_bdevs": ["D1", "D2", "D0"], **kw})
        contains(error["message"], "superblock=true")
    equal(array(d, "S", "configuring")["num_base_bdevs_discovered"], 1)
    equal(array(d, "S")["base_bdevs_list"][1]["name"], "Late")
    d.kill()
    d = t.daemon(*args)
    equal(array(d, "S", "configuring")["num_base_bdevs_discovered"], 1)
    d.call("bdev_malloc_create", name="Late", num_blocks=8192, block_size=512)
    equal(online(d, "S")["num_base_bdevs_discovered"], 2)
    equal(d.call("bdev_get_bdevs", name="S")[0]["num_blocks"], 2 * 8192)
    # A base that goes takes a raid0 with it, and brings it back.
    d.call("bdev_malloc_delete", name="Late")
    until(lambda: array(d, "S", "offline"), "S is offline")
    equal(d.error("bdev_get_bdevs", -19, {"name": "S"})["code"], -19)
    d.call("bdev_malloc_create", name="Late", num_blocks=8192, block_size=512)
    online(d, "S")


def test_empty_place(t):
    """A degraded array without a superblock starts again by its configuration, and takes a base."""
    d = t.daemon()
    bases(t, d, 3, mib=8)
    d.call("bdev_raid_create", name="M", raid_level="1", base_bdevs=["D1", "D2"])
    d.call("bdev_raid_remove_base_bdev", name="D1")
    config = d.call("framework_get_config", name="bdev")
    create = [c["params"] for c in config if c["method"] == "bdev_raid_create" and c["params"]["name"] == "M"]
    equal(create[0]["base_bdevs"], ["removed_base_bdev_0", "D2"])
    d.call("bdev_raid_delete", name="M")
    d.call("bdev_raid_create", **create[0])
    equal(array(d, "M", "online")["num_base_bdevs_discovered"], 1)
    d.call("bdev_raid_add_base_bdev", raid_bdev="M", base_bdev="D1")
    whole(d, 2, "M")


def test_last_base_stays(t):
    d = t.daemon()
    bases(t, d, 2, mib=8)
    d.call("bdev_raid_create", name="R", raid_level="raid1", superblock=True, base_bdevs=["D0", "D1"])
    d.call("bdev_raid_remove_base_bdev", name="D0")
    d.error("bdev_raid_remove_base_bdev", -16, {"name": "D1"})
    equal(array(d, "R", "online")["num_base_bdevs_discovered"], 1)


def test_errors(t):
    d = t.daemon()
    bases(t, d, 3, mib=8)
    d.call("bdev_null_create", name="Other", num_blocks=16384, block_size=4096)
    make = "bdev_raid_create"
    good = {"name": "R", "raid_level": "raid0", "strip_size_kb": 4, "base_bdevs": ["D0", "D1"]}
    for code, change in [
            (-22, {"strip_size_kb": 3}), (-22, {"strip_size_kb": 0}), (-22, {"raid_level": "raid1"}),
            (-22, {"raid_level": "raid5f"}), (-22, {"base_bdevs": []}), (-22, {"base_bdevs": ["D0", ""]}),
            (-22, {"base_bdevs": ["D0", "Other"]}), (-17, {"name": "D2"}), (-22, {"name": "x" * 64}),
            (-22, {"strip_size_kb": 16384})]:
        error = d.error(make, code, {**good, **change})
        contains(error["message"], "RAID" if code == -22 else "D2")
        equal(d.call("bdev_raid_get_bdevs", category="all"), [])
    d.error(make, None, {**good, "raid_level": "raid6"})
    equal(d.call(make, **good), True)
    d.error(make, -17, good)
    d.error(make, -1, {**good, "name": "Q"})
    d.error("bdev_raid_add_base_bdev", -22, {"raid_bdev": "R", "base_bdev": "D2"})
    d.error("bdev_raid_add_base_bdev", -19, {"raid_bdev": "Q", "base_bdev": "D2"})
    d.error("bdev_raid_remove_base_bdev", -19, {"name": "D2"})
    d.error("bdev_raid_delete", -19, {"name": "Q"})
    d.error("bdev_raid_set_options", None, {"process_window_size_kb": 0})
    equal(d.call("bdev_raid_delete", name="R"), True)
    equal(d.call("bdev_raid_get_bdevs", category="all"), [])


if __name__ == "__main__":
    harness.main(globals())
