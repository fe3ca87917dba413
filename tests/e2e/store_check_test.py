#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""berth store check, dump and salvage on stores that SPDK made, whole and damaged."""
import hashlib
import json
import lzma
import os

import harness
from harness import check, contains, equal

DATA = os.path.join(harness.ROOT, "tests", "data", "lvol")
PAGE = 4096
# Of whole volumes of lvol-basic, as SPDK reads them.
SUMS = {
    "thin0": "293ba2df584f1fb61873261a98e7d2b80596181d6934f654c51394948b81a6d1",
    "thick0": "4b4ec73d0b59c374f3d3b09b04bf10f093db93e016dfb6de4b208e1b854b5cc0",
    "snap0": "351c478c650d8ce5a607103339d448438a81f693dc0f23b15ce4271c65f73b9e",
    "clone0": "882a549677be9afbbdf2954300eff480a7ae3c755a6b80a0d6fcd2bc17989f7f",
}


def image(t, name="lvol-basic", to=None):
    path = t.path(to or name)
    with lzma.open(os.path.join(DATA, f"{name}.img.xz")) as src, open(path, "wb") as dst:
        while piece := src.read(1 << 20):
            if piece.count(0) == len(piece):
                dst.seek(len(piece), os.SEEK_CUR)
            else:
                dst.write(piece)
        dst.truncate(dst.tell())
    return path


def patch(path, offset, data):
    with open(path, "r+b") as f:
        f.seek(offset)
        f.write(data)


def sums(folder):
    found = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as f:
            found[name] = hashlib.file_digest(f, "sha256").hexdigest()
    return found


def whole(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def test_sound_stores(t):
    """Every store that SPDK wrote, interrupted ones too, is without damage; a look writes nothing."""
    for name in sorted(os.listdir(DATA)):
        if not name.endswith(".img.xz") or "-image" in name:
            continue
        path = image(t, name.removesuffix(".img.xz"))
        before = whole(path) if os.path.getsize(path) <= 64 << 20 else None
        report = json.loads(t.berth("store", "check", "--json", path))
        equal((report["damage"], report["left"], report["repaired"]), (0, 0, 0), name)
        equal(whole(path) if before else None, before, name)
        # What is under way is settled by request, and is not there afterwards.
        if report["notes"]:
            t.berth("store", "check", "--repair", path, code=1)
            report = json.loads(t.berth("store", "check", "--json", path))
            equal((report["damage"], report["notes"]), (0, 0), name)
        os.unlink(path)


def test_dump(t):
    path = image(t)
    dump = json.loads(t.berth("store", "dump", "--json", path))
    equal((dump["super"]["type"], dump["super"]["clusters"], dump["super"]["clean"]), ("LVOLSTORE", 64, True))
    blobs = {x["text"]: b for b in dump["blobs"] for x in b["xattrs"] if x["name"] == "name"}
    equal(sorted(blobs), ["clone0", "lvs_basic", "snap0", "thick0", "thin0"])
    equal(blobs["clone0"]["parent"], blobs["snap0"]["id"])
    equal(blobs["thick0"]["extents"], [{"at": 0, "cluster": 1, "length": 8}])
    check("read-only" in blobs["snap0"]["flags"])
    text = t.berth("store", "dump", path)
    contains(text, 'xattr name = "thin0" (64 bytes)')
    contains(text, f"internal xattr SNAP = blob {blobs['snap0']['id']}")


def test_salvage(t):
    path = image(t)
    t.berth("store", "salvage", path, t.path("all"))
    equal(sums(t.path("all")), {f"{name}.raw": value for name, value in SUMS.items()})
    t.berth("store", "salvage", path, t.path("one"), "clone0", "a015915a-6b3e-4647-8c96-72e209c8c186")
    equal(sorted(os.listdir(t.path("one"))), ["clone0.raw", "thick0.raw"])
    t.berth("store", "salvage", path, t.path("one"), "nobody", code=8)
    # What is there is not written to.
    t.berth("store", "salvage", path, t.path("one"), "clone0")
    equal(len(os.listdir(t.path("one"))), 3)


def test_without_super(t):
    """The super block is gone: volumes are saved by what is left, and it can be written anew."""
    path = image(t)
    with open(path, "rb") as f:
        first = f.read(PAGE)
    patch(path, 0, bytes(PAGE))
    t.berth("store", "check", path, code=8)
    t.berth("store", "salvage", path, t.path("all"))
    equal(sums(t.path("all")), {f"{name}.raw": value for name, value in SUMS.items()})
    p = t.berth("store", "dump", path)
    contains(p, "the super block is lost")

    patch(path, 0, first[:100] + b"x" + first[101:])
    contains(t.berth("store", "check", path, code=None).stderr, "checksum is wrong")
    contains(t.berth("store", "check", "--rebuild-super", path, code=4), "damage: the super block's checksum is wrong")
    t.berth("store", "check", "--rebuild-super", "--repair", path, code=1)
    t.berth("store", "check", path)
    with open(path, "rb") as f:
        again = f.read(PAGE)
    # All but the size of I/O units, which nothing else says.
    equal(again[:88], first[:88])


def test_damage(t):
    """Masks, an extent page, a chain: found, said, mended; and salvaged around."""
    path = image(t)
    patch(path, 2 * PAGE + 5, b"\xff\xff\xff")  # used clusters
    patch(path, (4 + 7) * PAGE + 100, b"?")      # extent page of thin0
    out = t.berth("store", "check", path, code=4)
    contains(out, "clusters 15 to 23 are marked as used, but nobody has them")
    contains(out, "volume thin0 (blob 0x100000001): its extent page for the clusters from 0 on is broken: page 7 is damaged")
    contains(out, "nothing was written")
    p = t.berth("store", "salvage", path, t.path("all"), code=None)
    equal(p.returncode, 4)
    contains(p.stderr, "thin0.raw: 16777216 bytes from 0 on are lost")
    equal({k: v for k, v in sums(t.path("all")).items() if k != "thin0.raw"},
          {f"{name}.raw": value for name, value in SUMS.items() if name != "thin0"})
    contains(t.berth("store", "check", "--repair", path, code=1), "0 left")
    contains(t.berth("store", "check", path), "no damage")
    # It is a volume still, and reads as its parent does where it had clusters of its own.
    t.berth("store", "salvage", path, t.path("after"))
    equal(sums(t.path("after"))["thin0.raw"], SUMS["snap0"])


def test_in_use(t):
    path = image(t)
    d = t.daemon()
    d.call("bdev_aio_create", name="B", filename=path, block_size=4096)
    for action in (["check"], ["check", "--repair"], ["dump"]):
        p = t.berth("store", *action, path, code=None)
        equal(p.returncode, 8)
        contains(p.stderr, "in use")
    d.stop()
    t.berth("store", "check", "--repair", path, code=None)
    t.berth("store", "check", path)


def test_no_store(t):
    p = t.berth("store", "check", t.file("empty", 1 << 20), code=None)
    equal(p.returncode, 8)
    contains(p.stderr, "there is no blobstore")
    equal(t.berth("store", "check", t.path("nothing"), code=None).returncode, 8)
    equal(t.berth("store", "check", t.dir, code=None).returncode, 8)
    equal(t.berth("store", "check", code=None).returncode, 2)
    contains(t.berth("store", "salvage", t.path("empty"), t.path("x"), code=None).stderr, "nothing that looks like a blobstore")


if __name__ == "__main__":
    harness.main(globals())
