#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Stores that SPDK 26.05 wrote (tests/data/lvol): found, answered about as SPDK does, read, changed, unloaded, checked, loaded again.
"""
import hashlib
import json
import lzma
import os

import harness
from harness import check, equal
from nbd_client import PIECE, Nbd

DATA = os.path.join(harness.ROOT, "tests", "data", "lvol")
with open(os.path.join(DATA, "facts.json"), encoding="utf-8") as facts:
    CASES = json.load(facts)["cases"]
MIB = 1 << 20
SUM_PIECE = 65536
# Larger volumes are compared by their sums only.
KEPT_BYTES = 8 * MIB


class Store:
    """The bdevs of a case, in files of a test's folder."""

    def __init__(self, t, name):
        self.t, self.name = t, name
        self.facts = CASES[name]
        self.store = self.facts["lvstores"][0]["name"]
        self.either = self.facts.get("either", [])
        # What it takes up depends on how an operation that was cut is finished or undone.
        self.loose = ("free_clusters", "num_allocated_clusters") if self.facts["end"].startswith("cut") else ()
        for base in self.facts["bases"]:
            with lzma.open(os.path.join(DATA, base["image"])) as src, open(self.path(base), "wb") as dst:
                zeroes = bytes(MIB)
                for piece in iter(lambda: src.read(MIB), b""):
                    if piece != zeroes[:len(piece)]:
                        dst.write(piece)
                    else:
                        dst.seek(len(piece), os.SEEK_CUR)
                dst.truncate(base["bytes"])

    def path(self, base):
        return self.t.path(base["name"] + ".img")

    def image(self):
        return self.path(self.facts["bases"][0])

    def attach(self, d, bases):
        for base in bases:
            uuid = {"uuid": base["uuid"]} if "uuid" in base else {}
            d.call("bdev_aio_create", name=base["name"], filename=self.path(base), block_size=base["block"], **uuid)
        d.call("bdev_wait_for_examine")

    def daemon(self, bases=None, **kw):
        d = self.t.daemon(**kw)
        self.attach(d, self.facts["bases"] if bases is None else bases)
        d.call("berth_nbd_server_create", path=d.path("n.sock"))
        return d

    def check(self):
        """Nothing wrong, and clean; deleted snapshots may stay for their clones."""
        out = json.loads(self.t.berth("--json", "store", "check", self.image()))
        equal([f for f in out["findings"] if f["kind"] != "deleted snapshot that its clones need"], [],
              "store check after a clean unload")


def open_volume(d, alias, readonly=True):
    try:
        d.call("berth_nbd_export_create", bdev_name=alias, name=alias, readonly=readonly)
    except harness.RpcError as e:
        if e.code != -17:
            raise
    return Nbd(d.path("n.sock"), alias)


def close_volume(d, alias):
    d.call("berth_nbd_export_delete", name=alias)


def content_sum(nbd):
    """As facts.json has it; and the bytes, of a volume that is not too large."""
    digest, zero, zeroes, kept = hashlib.sha256(), bytes(SUM_PIECE), bytes(PIECE), []
    for offset, data in nbd.pieces():
        if nbd.size <= KEPT_BYTES:
            kept.append(data)
        if data == zeroes[:len(data)]:
            continue
        for at in range(0, len(data), SUM_PIECE):
            piece = data[at:at + SUM_PIECE]
            if piece != zero[:len(piece)]:
                digest.update(((offset + at) // SUM_PIECE).to_bytes(8, "little") + piece)
    return digest.hexdigest(), b"".join(kept) if nbd.size <= KEPT_BYTES else None


def part(whole, of):
    """What SPDK answers, of an answer that may say more."""
    return {k: sorted(whole[k]) if k == "clones" and k in whole else whole.get(k) for k in of}


def compare_answers(d, store):
    for expected in store.facts["lvstores"]:
        (got,) = d.call("bdev_lvol_get_lvstores", lvs_name=expected["name"])
        expected = {k: v for k, v in expected.items() if k not in store.loose}
        equal(part(got, expected), expected, "bdev_lvol_get_lvstores")
    got = {v["alias"]: v for v in d.call("bdev_lvol_get_lvols")}
    optional = {a for a in store.either if a not in got}
    equal(set(got) - set(store.either), {v["lvol"]["alias"] for v in store.facts["volumes"]} - set(store.either), "volumes")
    for volume in store.facts["volumes"]:
        expected = volume["lvol"]
        if expected["alias"] in optional:
            continue
        answer = got[expected["alias"]]
        lvs = store.facts["lvstores"][0]
        equal(answer["lvs"], {"name": lvs["name"], "uuid": lvs["uuid"]})
        if volume["bdev"]["num_blocks"] == 0:
            # SPDK makes a bdev of no blocks; here it is a volume, and gets one when it has a size.
            d.error("bdev_get_bdevs", -19, {"name": expected["alias"]})
            continue
        (bdev,) = d.call("bdev_get_bdevs", name=expected["alias"])
        equal((bdev["name"], bdev["aliases"], bdev["product_name"], bdev["uuid"]),
              (expected["uuid"], [expected["alias"]], "Logical Volume", expected["uuid"]))
        equal(bdev["block_size"], volume["bdev"]["block_size"])
        if expected["alias"] not in store.either:
            equal(bdev["num_blocks"], volume["bdev"]["num_blocks"])
        if not store.either:
            expected = {k: v for k, v in expected.items() if k not in store.loose}
            equal(part(answer, expected), expected, "bdev_lvol_get_lvols")
            specific = {k: v for k, v in volume["specific"].items() if k not in store.loose}
            if "clones" in specific:
                specific["clones"] = sorted(specific["clones"])
            equal(part(bdev["driver_specific"]["lvol"], specific), specific, f"driver_specific of {expected['alias']}")
    return [v for v in store.facts["volumes"] if v["lvol"]["alias"] not in optional]


def read_all(d, volumes):
    """The sums are SPDK's; {alias: bytes} of the smaller ones."""
    contents = {}
    for volume in volumes:
        alias = volume["lvol"]["alias"]
        if volume["bdev"]["num_blocks"] == 0:
            continue
        with open_volume(d, alias) as nbd:
            got, data = content_sum(nbd)
            equal(got, volume["sum"], f"contents of {alias}")
            if data is not None:
                contents[alias] = bytearray(data)
        close_volume(d, alias)
    return contents


def same(d, contents, when):
    for alias, data in contents.items():
        with open_volume(d, alias) as nbd:
            got = nbd.whole()
            if got != data:
                at = next(i for i in range(len(data)) if i >= len(got) or got[i] != data[i])
                raise harness.Failure(f"{alias} {when}: differs from byte {at} on ({len(got)} of {len(data)} bytes)")
        close_volume(d, alias)


class Changes:
    """What is done with a store that SPDK wrote; contents is what its volumes must hold then."""

    def __init__(self, d, store, contents):
        self.d, self.store, self.contents = d, store, contents
        self.volumes = {v["lvol"]["alias"]: v for v in store.facts["volumes"]}

    def writable(self):
        return [a for a in self.contents
                if not self.volumes[a]["lvol"]["is_snapshot"] and not a.endswith("/ro")]

    def write(self, alias, mark):
        """At its start, in the middle across a boundary of clusters, at its end."""
        data = self.contents[alias]
        with open_volume(self.d, alias, False) as nbd:
            for at in (0, len(data) // 2 - 8192, len(data) - 4096):
                text = (f"{alias} {mark} {at} " * 1000).encode()[:min(16384, len(data) - at)]
                text = text[:len(text) // 4096 * 4096]
                nbd.write(at, text)
                data[at:at + len(text)] = text
            nbd.write_zeroes(len(data) // 4 // 4096 * 4096, 8192)
            start = len(data) // 4 // 4096 * 4096
            data[start:start + 8192] = bytes(8192)
            nbd.flush()
        close_volume(self.d, alias)

    def new_name(self, alias, suffix):
        return f"{self.store.store}/{alias.split('/')[1][:40]}{suffix}"

    def snapshot(self, alias):
        name = self.new_name(alias, "-snap")
        self.d.call("bdev_lvol_snapshot", lvol_name=alias, snapshot_name=name.split("/")[1])
        self.contents[name] = bytearray(self.contents[alias])
        clone = self.new_name(alias, "-clone")
        self.d.call("bdev_lvol_clone", snapshot_name=name, clone_name=clone.split("/")[1])
        self.contents[clone] = bytearray(self.contents[alias])
        return name, clone

    def delete(self, alias):
        self.d.call("bdev_lvol_delete", name=alias)
        self.contents.pop(alias, None)

    def free(self):
        return self.d.call("bdev_lvol_get_lvstores", lvs_name=self.store.store)[0]["free_clusters"]


def change(d, store, contents):
    c = Changes(d, store, contents)
    targets = c.writable()[:3]
    cluster = store.facts["lvstores"][0]["cluster_size"]
    for alias in targets:
        if c.free() * cluster < 16 * cluster:
            break
        c.write(alias, "first")
        _, clone = c.snapshot(alias)
        c.write(alias, "second")
        c.write(clone, "clone")
    same(d, {a: data for a, data in contents.items() if a in c.volumes}, "after writes")
    # Snapshots that SPDK made and would not delete: those with several clones, too.
    for alias, volume in c.volumes.items():
        if volume["lvol"]["is_snapshot"] and alias not in store.either:
            c.delete(alias)
    for alias, volume in c.volumes.items():
        if volume["bdev"]["num_blocks"] == 0:
            d.call("bdev_lvol_resize", name=alias, size_in_mib=1)
            contents[alias] = bytearray(MIB)
    for alias in targets[:1]:
        if c.free() * cluster > 2 * len(contents[alias]):
            d.call("bdev_lvol_inflate", name=alias)
        d.call("bdev_lvol_rename", old_name=alias, new_name="renamed by berth")
        contents[f"{store.store}/renamed by berth"] = contents.pop(alias)


@harness.each(name=list(CASES))
def test_made_by_spdk(t, name):
    store = Store(t, name)
    # External snapshots may come after the volumes over them.
    d = store.daemon(store.facts["bases"][:1])
    store.attach(d, store.facts["bases"][1:])
    volumes = compare_answers(d, store)
    contents = read_all(d, volumes)
    change(d, store, contents)
    same(d, contents, "after changes")
    d.stop()
    store.check()
    d = store.daemon(list(reversed(store.facts["bases"])), folder="e")
    same(d, contents, "after the next load")
    compare_free(d, store)
    d.stop()
    store.check()


def compare_free(d, store):
    """What is in use is what volumes have: nothing leaked."""
    (lvs,) = d.call("bdev_lvol_get_lvstores", lvs_name=store.store)
    used = sum(v["num_allocated_clusters"] for v in d.call("bdev_lvol_get_lvols"))
    check(lvs["total_data_clusters"] - lvs["free_clusters"] >= used, f"{lvs} {used}")


if __name__ == "__main__":
    harness.main(globals())
