#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What backup programs are told: where volumes, and what stands on them, differ from their snapshots."""
import json
import os
import shutil

import harness
from harness import check, contains, equal, until
from nbd_client import Nbd
from volumes import CLUSTER, MIB, berth, with_store, write


def test_changes_over_nbd(t):
    if not shutil.which("nbdinfo"):
        raise harness.Skip("nbdinfo is not installed")
    state = ("--state-dir", t.path("state"))
    d = with_store(t, *state)
    d.call("bdev_lvol_create", lvs_name="lvs0", lvol_name="v", size_in_mib=8, thin_provision=True)
    d.call("berth_nbd_server_create", path=t.path("n"))

    def uri(name):
        return f"nbd+unix:///{name}?socket={t.path('n')}"

    def changed(name, **options):
        d.call("berth_nbd_export_create", bdev_name=f"lvs0/{name}", name=name, readonly=True, **options)
        extents = json.loads(t.run(["nbdinfo", "--map=berth:changed", "--json", uri(name)]))
        d.call("berth_nbd_export_delete", name=name)
        equal(sum(e["length"] for e in extents), 8 * MIB)
        check(all(e["type"] in (0, 1) for e in extents), extents)
        return [(e["offset"], e["length"]) for e in extents if e["type"] == 1]

    write(d, "lvs0/v", MIB, b"1" * MIB)
    d.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="monday")
    write(d, "lvs0/v", MIB + 3 * CLUSTER, b"2" * 512)
    write(d, "lvs0/v", 4 * MIB, b"2" * 2 * CLUSTER)
    d.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="tuesday")
    equal(changed("v"), [], "of a volume that nobody has written to since")
    write(d, "lvs0/v", 6 * MIB, b"3" * CLUSTER)
    equal(changed("monday"), [(MIB, MIB)], "of what has no parent")
    equal(changed("tuesday"), [(MIB + 3 * CLUSTER, CLUSTER), (4 * MIB, 2 * CLUSTER)])
    equal(changed("v"), [(6 * MIB, CLUSTER)])
    # Since a snapshot further below; and since one that is none of its own.
    days = [(MIB + 3 * CLUSTER, CLUSTER), (4 * MIB, 2 * CLUSTER), (6 * MIB, CLUSTER)]
    equal(changed("v", changed_since="lvs0/monday"), days)
    equal(changed("v", changed_since="lvs0/tuesday"), [(6 * MIB, CLUSTER)])
    contains(d.error("berth_nbd_export_create", params={"bdev_name": "lvs0/v", "name": "x",
                                                        "changed_since": "lvs0/nobody"})["message"], "nobody")
    contains(d.error("berth_nbd_export_create", params={"bdev_name": "lvs0/monday", "name": "x",
                                                        "changed_since": "lvs0/tuesday"})["message"], "no snapshot below")
    contains(d.error("berth_nbd_export_create", params={"bdev_name": "lvs0/v", "name": "x",
                                                        "changed_since": "lvs0/v"})["message"], "itself")
    contains(d.error("berth_nbd_export_create", params={"bdev_name": "none", "name": "x",
                                                        "changed_since": "lvs0/monday"})["message"], "none")
    # It stays what it was, and the state says the same again; the snapshot stays as long.
    d.call("berth_nbd_export_create", bdev_name="lvs0/v", name="kept", readonly=True, changed_since="lvs0/monday")
    d.call("bdev_lvol_inflate", name="lvs0/tuesday")
    extents = json.loads(t.run(["nbdinfo", "--map=berth:changed", "--json", uri("kept")]))
    check(sum(e["length"] for e in extents if e["type"] == 1) == 8 * MIB, f"monday is not below it any more: {extents}")
    d.kill()
    d = t.daemon(*state, folder="d")
    since = d.call("bdev_get_bdevs", name="lvs0/monday")[0]["name"]
    equal(d.call("berth_nbd_get_exports", name="kept")[0]["changed_since"], since)
    refused = d.error("bdev_lvol_delete", -16, {"name": "lvs0/monday"})["message"]
    contains(d.error("bdev_lvol_set_parent", -16, {"lvol_name": "lvs0/monday", "parent_name": "lvs0/tuesday"})["message"], "kept")
    contains(d.error("bdev_lvol_set_parent_bdev", -16, {"lvol_name": "lvs0/monday", "parent_name": "base"})["message"], "kept")
    contains(refused, "export 'kept'")
    contains(berth(t, d, "volume", "delete", "monday", code=1), "export 'kept'")
    d.call("berth_nbd_export_delete", name="kept")
    d.call("bdev_lvol_delete", name="lvs0/monday")
    # Offered of volumes, encrypted or not; of other disks there is nothing to tell.
    key = t.path("key")
    with open(key, "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as f:
        f.write("00112233445566778899aabbccddeeff" + "f0e1d2c3b4a5968778695a4b3c2d1e0f")
    d.call("accel_crypto_key_create", name="k", cipher="AES_XTS", key_file=key)
    berth(t, d, "volume", "create", "e", "4M", "--encrypt", "k")
    d.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    both = ["base:allocation", "berth:changed"]
    for name, bdev, contexts in (("v", "lvs0/v", both), ("e", "e_crypt", both), ("m", "m", ["base:allocation"])):
        d.call("berth_nbd_export_create", bdev_name=bdev, name=name)
        equal(json.loads(t.run(["nbdinfo", "--json", uri(name)]))["exports"][0]["contexts"], contexts)


def changed_map(t, uri):
    extents = json.loads(t.run(["nbdinfo", "--map=berth:changed", "--json", uri]))
    return [(e["offset"], e["length"]) for e in extents if e["type"] == 1]


def test_changes_of_what_stands_on_a_volume(t):
    """An encrypted volume, a bdev that passes through, and a part of a volume tell what has changed in the volume below."""
    if not shutil.which("nbdinfo"):
        raise harness.Skip("nbdinfo is not installed")
    d = with_store(t)
    key = t.path("key")
    with open(key, "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as f:
        f.write("00112233445566778899aabbccddeeff" + "f0e1d2c3b4a5968778695a4b3c2d1e0f")
    d.call("accel_crypto_key_create", name="k", cipher="AES_XTS", key_file=key)
    d.call("berth_nbd_server_create", path=t.path("n"))
    berth(t, d, "volume", "create", "e", "8M", "--encrypt", "k")
    d.call("bdev_passthru_create", base_bdev_name="e_crypt", name="through")
    write(d, "through", MIB, b"1" * MIB)
    d.call("bdev_lvol_snapshot", lvol_name="lvs0/e", snapshot_name="monday")
    write(d, "through", 3 * MIB, b"2" * CLUSTER)
    d.call("bdev_lvol_snapshot", lvol_name="lvs0/e", snapshot_name="tuesday")
    write(d, "through", 6 * MIB, b"3" * CLUSTER)

    def changed(bdev, **options):
        d.call("berth_nbd_export_create", bdev_name=bdev, name="x", readonly=True, **options)
        extents = changed_map(t, f"nbd+unix:///x?socket={t.path('n')}")
        d.call("berth_nbd_export_delete", name="x")
        return extents

    for bdev in ("lvs0/e", "e_crypt", "through"):
        equal(changed(bdev), [(6 * MIB, CLUSTER)], bdev)
        equal(changed(bdev, changed_since="lvs0/tuesday"), [(6 * MIB, CLUSTER)], bdev)
        equal(changed(bdev, changed_since="lvs0/monday"), [(3 * MIB, CLUSTER), (6 * MIB, CLUSTER)], bdev)
    # By RPC as well. Zeroes below are none when they are decrypted.
    blocks = d.call("bdev_lvol_get_changed_blocks", name="through", since="lvs0/monday")
    equal([(e["offset"], e["length"], e["zero"]) for e in blocks["extents"]],
          [(3 * MIB, CLUSTER, False), (6 * MIB, CLUSTER, False)])
    equal(d.call("bdev_lvol_get_changed_blocks", name="e_crypt")["extents"],
          [{"offset": 0, "length": 8 * MIB, "zero": False}], "of all of it something is read that was not zero below")
    # A snapshot that is decrypted, too.
    d.call("bdev_crypto_create", base_bdev_name="lvs0/tuesday", name="tuesday_crypt", key_name="k")
    equal(changed("tuesday_crypt", changed_since="lvs0/monday"), [(3 * MIB, CLUSTER)])
    equal(changed("e_crypt", changed_since="tuesday_crypt"), [(6 * MIB, CLUSTER)])
    contains(d.error("berth_nbd_export_create", params={"bdev_name": "e_crypt", "name": "x",
                                                        "changed_since": "lvs0/nobody"})["message"], "nobody")
    # A part of a volume, whose blocks are elsewhere in it.
    berth(t, d, "volume", "create", "p", "8M")
    d.call("bdev_split_create", base_bdev="lvs0/p", split_count=2)
    parts = sorted(b["name"] for b in d.call("bdev_get_bdevs") if b["product_name"] == "Split Disk")
    write(d, parts[1], MIB, b"1" * CLUSTER)
    d.call("bdev_lvol_snapshot", lvol_name="lvs0/p", snapshot_name="p0")
    write(d, parts[1], 2 * MIB, b"2" * CLUSTER)
    equal(changed(parts[0], changed_since="lvs0/p0"), [])
    equal(changed(parts[1], changed_since="lvs0/p0"), [(2 * MIB, CLUSTER)])
    contains(d.error("bdev_lvol_get_changed_blocks", -22, {"name": parts[1], "since": "lvs0/p0"})["message"], "a part of")
    # What is not a volume's is none.
    d.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    d.call("bdev_passthru_create", base_bdev_name="m", name="m0")
    contains(d.error("berth_nbd_export_create", params={"bdev_name": "m0", "name": "x",
                                                        "changed_since": "lvs0/p0"})["message"], "nor stands on one")


def test_a_snapshot_that_an_export_counted_from_is_gone(t):
    """Deleted elsewhere, or with the disk that it was: the export stays, and all of it has changed. A copy is never too small."""
    if not shutil.which("nbdinfo"):
        raise harness.Skip("nbdinfo is not installed")
    state = ("--state-dir", t.path("state"))
    d = with_store(t, *state)
    d.call("berth_nbd_server_create", path=t.path("n"))
    uri = f"nbd+unix:///v?socket={t.path('n')}"
    d.call("bdev_lvol_create", lvs_name="lvs0", lvol_name="v", size_in_mib=8, thin_provision=True)
    write(d, "lvs0/v", MIB, b"1" * MIB)
    d.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="monday")
    write(d, "lvs0/v", 3 * MIB, b"2" * CLUSTER)
    d.call("berth_nbd_export_create", bdev_name="lvs0/v", name="v", readonly=True, changed_since="lvs0/monday")
    equal(changed_map(t, uri), [(3 * MIB, CLUSTER)])
    equal(d.call("berth_nbd_get_exports", name="v")[0]["since_lost"], False)
    d.stop()
    # By somebody who knows nothing of exports.
    other = t.daemon(folder="other")
    other.call("bdev_aio_create", name="base", filename=t.path("d.img"), block_size=512)
    other.call("bdev_wait_for_examine")
    other.call("bdev_lvol_delete", name="lvs0/monday")
    other.stop()
    d = t.daemon(*state, folder="d")
    equal(d.call("berth_nbd_get_exports", name="v")[0]["since_lost"], True)
    equal(changed_map(t, uri), [(0, 8 * MIB)])
    contains(berth(t, d, "export", "--list"), "v: snapshot")
    # It is so for ever, also when a snapshot of that name is made.
    d.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="monday")
    equal(changed_map(t, uri), [(0, 8 * MIB)])
    d.kill()
    d = t.daemon(*state, folder="d")
    equal(changed_map(t, uri), [(0, 8 * MIB)])
    d.call("berth_nbd_export_delete", name="v")
    # While clients are there: they come again.
    berth(t, d, "disk", "create", "w", "8M")
    d.call("bdev_lvol_snapshot", lvol_name="disks/w", snapshot_name="w0")
    berth(t, d, "disk", "create", "w0", "8M", "--existing", "--readonly")
    d.call("berth_nbd_export_create", bdev_name="disks/w", name="v", changed_since="disks/w0")
    equal(changed_map(t, uri), [])
    n = Nbd(t.path("n"), "v")
    berth(t, d, "disk", "delete", "w0")
    until(lambda: d.call("berth_nbd_get_exports", name="v")[0]["connections"] == 0, "the client was sent away")
    n.close()
    equal(changed_map(t, uri), [(0, 8 * MIB)])
    equal(d.call("berth_nbd_get_exports", name="v")[0]["since_lost"], True)


harness.main(globals())
