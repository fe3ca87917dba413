#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Volumes: bdev_lvol_* as SPDK answers them and what berth adds, berth volume and berth store, disks in the store, send and receive."""
import hashlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading

import harness
from harness import check, contains, equal, until
from nbd_client import Nbd
from volumes import CLUSTER, MIB, NO_UUID, aliases, berth, digest, lent, read, volume, with_store, write


# ---- As SPDK answers ----

UUID = "uuid"
FACTS = [
    ("create_lvstore", {"bdev_name": "Aio0", "lvs_name": "lvs0"}, UUID),
    ("create_lvstore", {"bdev_name": "Aio0", "lvs_name": "lvs0b"}, -1),
    ("create_lvstore", {"bdev_name": "Uring0", "lvs_name": "lvs0"}, -17),
    ("create_lvstore", {"bdev_name": "none", "lvs_name": "x"}, -19),
    ("create_lvstore", {"bdev_name": "Uring0", "lvs_name": "lvs1", "cluster_sz": 100}, -22),
    ("create_lvstore", {"bdev_name": "Uring0", "lvs_name": "lvs1", "md_page_size": 5000}, -22),
    ("create_lvstore", {"bdev_name": "Uring0"}, -32603),
    ("get_lvstores", {"lvs_name": "zzz"}, -19),
    ("get_lvstores", {"uuid": NO_UUID}, -19),
    ("create", {"lvol_name": "l0", "size_in_mib": 8, "thin_provision": True, "lvs_name": "lvs0"}, UUID),
    ("create", {"lvol_name": "l0", "size_in_mib": 8, "lvs_name": "lvs0"}, -17),
    ("create", {"lvol_name": "lbig", "size_in_mib": 100000, "lvs_name": "lvs0"}, -32602),
    ("create", {"lvol_name": "l1", "size_in_mib": 8, "lvs_name": "nope"}, -19),
    ("create", {"lvol_name": "l1", "size_in_mib": 8}, -22),
    ("create", {"lvol_name": "l1", "size_in_mib": 8, "lvs_name": "lvs0", "uuid": NO_UUID}, -22),
    ("snapshot", {"lvol_name": "lvs0/l0", "snapshot_name": "s0"}, UUID),
    ("snapshot", {"lvol_name": "lvs0/none", "snapshot_name": "s0"}, -19),
    ("snapshot", {"lvol_name": "Uring0", "snapshot_name": "s0"}, -19),
    ("clone", {"snapshot_name": "lvs0/s0", "clone_name": "c0"}, UUID),
    ("clone", {"snapshot_name": "lvs0/l0", "clone_name": "c1"}, -32602),
    ("resize", {"name": "lvs0/l0", "size_in_mib": 12}, True),
    ("resize", {"name": "lvs0/none", "size_in_mib": 12}, -19),
    ("rename", {"old_name": "lvs0/l0", "new_name": "l0new"}, True),
    ("rename", {"old_name": "lvs0/l0new", "new_name": "c0"}, -32602),
    ("rename", {"old_name": "lvs0/l0", "new_name": "x"}, -19),
    ("inflate", {"name": "lvs0/c0"}, True),
    ("inflate", {"name": "lvs0/none"}, -19),
    ("decouple_parent", {"name": "lvs0/l0new"}, True),
    ("decouple_parent", {"name": "lvs0/l0new"}, -32602),
    ("set_read_only", {"name": "lvs0/c0"}, True),
    ("set_read_only", {"name": "lvs0/none"}, -19),
    ("clone_bdev", {"bdev": "none", "lvs_name": "lvs0", "clone_name": "e0"}, -32602),
    ("clone_bdev", {"bdev": "lvs0/s0", "lvs_name": "lvs0", "clone_name": "e0"}, -32602),
    ("clone_bdev", {"bdev": "Uring0", "lvs_name": "none", "clone_name": "e0"}, -32602),
    ("clone_bdev", {"bdev": "Uring0", "lvs_name": "lvs0", "clone_name": "e0"}, UUID),
    ("set_parent", {"lvol_name": "lvs0/none", "parent_name": "lvs0/s0"}, -19),
    ("set_parent", {"lvol_name": "lvs0/e0", "parent_name": "lvs0/none"}, -19),
    ("set_parent", {"lvol_name": "lvs0/e0", "parent_name": "lvs0/l0new"}, -32602),
    ("set_parent_bdev", {"lvol_name": "lvs0/l0new", "parent_name": "none"}, -32602),
    ("start_shallow_copy", {"src_lvol_name": "lvs0/none", "dst_bdev_name": "M"}, -19),
    ("start_shallow_copy", {"src_lvol_name": "lvs0/l0new", "dst_bdev_name": "M"}, -32602),
    ("start_shallow_copy", {"src_lvol_name": "lvs0/s0", "dst_bdev_name": "none"}, -32602),
    ("check_shallow_copy", {"operation_id": 77}, -19),
    ("rename_lvstore", {"old_name": "none", "new_name": "x"}, -2),
    ("rename_lvstore", {"old_name": "lvs0", "new_name": "lvs0r"}, True),
    ("grow_lvstore", {"lvs_name": "lvs0r"}, True),
    ("grow_lvstore", {"lvs_name": "lvs0"}, -19),
    ("delete", {"name": "lvs0r/nope"}, -19),
    ("delete_lvstore", {}, -22),
    ("delete_lvstore", {"lvs_name": "lvs0"}, -19),
]


def files(t, d):
    d.call("bdev_aio_create", name="Aio0", filename=t.file("aio.img", 64 * MIB), block_size=512)
    d.call("bdev_aio_create", name="Uring0", filename=t.file("uring.img", 8 * MIB), block_size=512)


def test_answers(t):
    d = t.daemon()
    files(t, d)
    with d.rpc() as rpc:
        for name, params, expected in FACTS:
            answer = rpc.answer("bdev_lvol_" + name, params or None)
            where = f"bdev_lvol_{name} {params}: {answer}"
            if isinstance(expected, bool):
                check(answer.get("result") is expected, where)
            elif isinstance(expected, int):
                check(answer.get("error", {}).get("code") == expected and answer["error"]["message"], where)
            else:
                check(len(answer.get("result", "")) == 36, where)


def test_shapes(t):
    """Every key that SPDK shows is there, with what it has there."""
    d = t.daemon()
    files(t, d)
    store = d.call("bdev_lvol_create_lvstore", bdev_name="Aio0", lvs_name="lvs0", cluster_sz=4 * MIB)
    (shown,) = d.call("bdev_lvol_get_lvstores")
    equal({k: shown[k] for k in ("uuid", "name", "base_bdev", "total_data_clusters", "free_clusters", "block_size", "cluster_size")},
          {"uuid": store, "name": "lvs0", "base_bdev": "Aio0", "total_data_clusters": 15, "free_clusters": 15, "block_size": 512,
           "cluster_size": 4 * MIB})
    check(shown["max_growable_size"] > 64 * MIB, f"{shown}")
    equal(d.call("bdev_lvol_get_lvstores", uuid=store), [shown])
    uuid = d.call("bdev_lvol_create", lvol_name="l0", size_in_mib=8, thin_provision=True, lvs_name="lvs0")
    snapshot = d.call("bdev_lvol_snapshot", lvol_name="lvs0/l0", snapshot_name="s0")
    d.call("bdev_lvol_clone", snapshot_name=snapshot, clone_name="c0")
    (b,) = d.call("bdev_get_bdevs", name="lvs0/l0")
    equal((b["name"], b["uuid"], b["aliases"], b["product_name"]), (uuid, uuid, ["lvs0/l0"], "Logical Volume"))
    equal((b["block_size"], b["num_blocks"], b["claimed"]), (512, 16384, False))
    for op in ("read", "write", "unmap", "write_zeroes", "reset", "seek_hole", "seek_data"):
        check(b["supported_io_types"][op], op)
    equal(b["driver_specific"]["lvol"],
          {"lvol_store_uuid": store, "base_bdev": "Aio0", "thin_provision": True, "num_allocated_clusters": 0, "snapshot": False,
           "clone": True, "base_snapshot": "s0", "esnap_clone": False})
    (b,) = d.call("bdev_get_bdevs", name=snapshot)
    equal(b["driver_specific"]["lvol"],
          {"lvol_store_uuid": store, "base_bdev": "Aio0", "thin_provision": True, "num_allocated_clusters": 0, "snapshot": True,
           "clone": False, "clones": ["l0", "c0"], "esnap_clone": False})
    check(not b["supported_io_types"]["write"], "a snapshot is written to")
    (b,) = d.call("bdev_get_bdevs", name="Aio0")
    check(b["claimed"], "the base is free to take")
    expected = {"alias": "lvs0/l0", "uuid": uuid, "name": "l0", "is_thin_provisioned": True, "is_snapshot": False, "is_clone": True,
                "is_esnap_clone": False, "is_degraded": False, "num_allocated_clusters": 0, "lvs": {"name": "lvs0", "uuid": store}}
    shown = volume(d, "lvs0/l0")
    equal({k: shown[k] for k in expected}, expected)
    equal(d.call("bdev_lvol_get_lvols", lvs_uuid=store), d.call("bdev_lvol_get_lvols"))
    d.error("bdev_lvol_get_lvols", -19, {"lvs_name": "none"})
    d.error("bdev_lvol_get_lvols", -22, {"lvs_name": "lvs0", "lvs_uuid": store})


# ---- What berth adds ----

def test_group_and_changes(t):
    d = with_store(t)
    for name in ("a", "b"):
        d.call("bdev_lvol_create", lvs_name="lvs0", lvol_name=name, size_in_mib=8, thin_provision=True)
    write(d, "lvs0/a", 0, b"1" * CLUSTER)
    write(d, "lvs0/a", 4 * MIB, b"2" * 2 * CLUSTER)
    made = d.call("bdev_lvol_snapshot_group", snapshots=[{"lvol_name": "lvs0/a", "snapshot_name": "a0"},
                                                        {"lvol_name": "lvs0/b", "snapshot_name": "b0"}])
    equal([volume(d, f"lvs0/{n}")["uuid"] for n in ("a0", "b0")], made)
    for bad, code in (([], -22), ([{"lvol_name": "lvs0/a"}], -22), ([{"lvol_name": "x", "snapshot_name": "y"}], -19),
                      ([{"lvol_name": "lvs0/a", "snapshot_name": "n"}, {"lvol_name": "lvs0/b", "snapshot_name": "a0"}], -32602)):
        d.error("bdev_lvol_snapshot_group", code, {"snapshots": bad})
    check("lvs0/n" not in aliases(d), "half of a group")
    equal(d.call("bdev_lvol_get_changed_blocks", name="lvs0/a0"),
          {"size": 8 * MIB, "next_offset": None, "extents": [{"offset": 0, "length": CLUSTER, "zero": False},
                                                             {"offset": 4 * MIB, "length": 2 * CLUSTER, "zero": False}]})
    equal(d.call("bdev_lvol_get_changed_blocks", name="lvs0/a", since="lvs0/a0")["extents"], [])
    write(d, "lvs0/a", 4 * MIB + CLUSTER, b"3" * 512)
    equal(d.call("bdev_lvol_get_changed_blocks", name="lvs0/a", since="lvs0/a0")["extents"],
          [{"offset": 4 * MIB + CLUSTER, "length": CLUSTER, "zero": False}])
    first = d.call("bdev_lvol_get_changed_blocks", name="lvs0/a0", max=1)
    equal((len(first["extents"]), first["next_offset"]), (1, 4 * MIB))
    equal(d.call("bdev_lvol_get_changed_blocks", name="lvs0/a0", offset=first["next_offset"])["extents"][0]["offset"], 4 * MIB)
    d.error("bdev_lvol_get_changed_blocks", -22, {"name": "lvs0/a", "since": "lvs0/b0"})
    d.error("bdev_lvol_get_changed_blocks", -22, {"name": "lvs0/a", "offset": 9 * MIB})


def test_full_store_pauses(t):
    d = with_store(t, mib=16)
    d.call("bdev_lvol_set_lvstore_options", lvs_name="lvs0", low_space_percent=50, when_full="pause")
    (store,) = d.call("bdev_lvol_get_lvstores")
    equal((store["low_space_percent"], store["when_full"], store["full"]), (50, "pause", False))
    for name in ("a", "b"):
        d.call("bdev_lvol_create", lvs_name="lvs0", lvol_name=name, size_in_mib=32, thin_provision=True)
    free = store["free_clusters"]
    write(d, "lvs0/a", 0, b"x" * (free - 2) * CLUSTER)
    n = lent(d, "lvs0/b")
    writer = threading.Thread(target=n.write, args=(0, b"y" * 4 * CLUSTER))
    writer.start()
    until(lambda: d.call("bdev_lvol_get_lvstores")[0]["full"], "the store is full")
    check(writer.is_alive(), "the write has not waited")
    d.call("bdev_lvol_delete", name="lvs0/a")
    writer.join(10)
    check(not writer.is_alive(), "the write goes on")
    n.close()
    equal(read(d, "lvs0/b", 0, 4 * CLUSTER), b"y" * 4 * CLUSTER)
    check(not d.call("bdev_lvol_get_lvstores")[0]["full"], "there is space")
    d.error("bdev_lvol_set_lvstore_options", -22, {"lvs_name": "lvs0", "low_space_percent": 100})


def test_paused_writes_hold_nobody(t):
    """A machine that is killed while it waits for space leaves its controller to the next one, and the target can be ended."""
    d = with_store(t, mib=16)
    d.call("bdev_lvol_set_lvstore_options", lvs_name="lvs0", when_full="pause")
    d.call("bdev_lvol_create", lvs_name="lvs0", lvol_name="a", size_in_mib=64, thin_provision=True)
    d.call("vhost_create_blk_controller", ctrlr="c", dev_name="lvs0/a")
    perf = [os.path.join(harness.BUILD, "berth"), "perf", "--socket", os.path.join(d.folder, "c"), "--quiet", "-q", "4", "-o", "64K"]
    vm = subprocess.Popen([*perf, "-w", "write", "-t", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: d.call("bdev_lvol_get_lvstores")[0]["full"], "the store is full")
    vm.kill()
    vm.wait()
    t.run([*perf, "-w", "randread", "-t", "0.1"])
    vm = subprocess.Popen([*perf, "-w", "write", "-t", "60", "--offset", "32M"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    n = lent(d, "lvs0/a", True)
    n.close()
    d.stop()
    vm.kill()
    vm.wait()


def test_paused_writes_are_not_answered_by_the_end(t):
    """The connection of a client whose write waits for space ends with berthd: no error is the answer, it may connect again."""
    d = with_store(t, mib=16)
    d.call("bdev_lvol_set_lvstore_options", lvs_name="lvs0", when_full="pause")
    d.call("bdev_lvol_create", lvs_name="lvs0", lvol_name="a", size_in_mib=64, thin_provision=True)
    d.call("berth_nbd_server_create", path=t.path("n"))
    d.call("berth_nbd_export_create", bdev_name="lvs0/a", name="a")
    n = Nbd(t.path("n"), "a")
    n.sock.sendall(struct.pack(">IHHQQI", 0x25609513, 0, 1, 7777, 0, 20 * MIB) + bytes(20 * MIB).replace(b"\0", b"x"))
    until(lambda: d.call("bdev_lvol_get_lvstores")[0]["full"], "the store is full")
    d.stop()
    n.sock.settimeout(1)
    equal(n.sock.recv(64), b"", "what the client gets")
    n.close()


def test_encryption_by_one_option(t):
    state = ("--state-dir", t.path("state"))
    d = with_store(t, *state)
    key = t.path("key")
    with open(key, "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as f:
        f.write("00112233445566778899aabbccddeeff" + "f0e1d2c3b4a5968778695a4b3c2d1e0f")
    d.call("accel_crypto_key_create", name="k", cipher="AES_XTS", key_file=key)
    d.error("bdev_lvol_create", params={"lvs_name": "lvs0", "lvol_name": "v", "size_in_mib": 4, "encrypt_key": "none"})
    equal(aliases(d), [], "what could not be encrypted")
    contains(berth(t, d, "volume", "create", "v", "4M", "--encrypt", "k"), "v_crypt")
    uuid = volume(d, "lvs0/v")["uuid"]
    write(d, "v_crypt", 0, b"secret" * 512)
    check(b"secret" not in read(d, "lvs0/v", 0, 4096), "it is in the clear")
    d.call("bdev_lvol_rename", old_name="lvs0/v", new_name="w")
    d.call("bdev_set_qos_limit", name="v_crypt", rw_ios_per_sec=100000)
    d.controller("vm", "v_crypt")
    d.kill()
    d = t.daemon(*state)
    equal(read(d, "v_crypt", 0, 3072), b"secret" * 512)
    equal([c["backend_specific"]["block"]["bdev"] for c in d.call("vhost_get_controllers")], ["v_crypt"])
    d.call("vhost_delete_controller", ctrlr="vm")
    d.call("bdev_lvol_delete", name=uuid)
    equal([b["name"] for b in d.call("bdev_get_bdevs")], ["base"])
    d.kill()
    d = t.daemon(*state)
    equal([b["name"] for b in d.call("bdev_get_bdevs")], ["base"])
    check("v_crypt" not in d.output().split("is ready")[-1], d.tail())


def test_restart(t):
    """Volumes come by examination; what was set for them and stands on them is there again."""
    state = ("--state-dir", t.path("state"))
    d = with_store(t, *state)
    uuid = d.call("bdev_lvol_create", lvs_name="lvs0", lvol_name="v", size_in_mib=8, thin_provision=True)
    d.controller("vm", "lvs0/v")
    d.call("bdev_set_qos_limit", name="lvs0/v", rw_mbytes_per_sec=500)
    d.call("berth_nbd_server_create", name="s", path=t.path("n"))
    d.call("berth_nbd_export_create", bdev_name="lvs0/v", name="e", server="s")
    write(d, "lvs0/v", MIB, b"data" * 1024)
    d.call("bdev_lvol_rename", old_name="lvs0/v", new_name="w")

    def shown():
        (b,) = d.call("bdev_get_bdevs", name=uuid)
        return (b, d.call("vhost_get_controllers"), [e["bdev_name"] for e in d.call("berth_nbd_get_exports")])
    before = shown()
    for end in ("kill", "stop"):
        getattr(d, end)()
        d = t.daemon(*state)
        for got, was in zip(shown(), before, strict=True):
            equal(got, was)
        equal(read(d, "lvs0/w", MIB, 4096), b"data" * 1024)
        check("left out" not in d.output(), d.tail())
    d.call("vhost_delete_controller", ctrlr="vm")
    d.call("berth_nbd_export_delete", name="e")
    d.call("bdev_lvol_delete", name="lvs0/w")
    d.kill()
    d = t.daemon(*state)
    equal(d.call("bdev_lvol_get_lvols"), [])
    check("left out" not in d.output(), d.tail())


def test_loans_end(t):
    d = with_store(t)
    d.call("bdev_lvol_create", lvs_name="lvs0", lvol_name="v", size_in_mib=1, thin_provision=True)
    n = lent(d, "lvs0/v")
    equal((d.call("berth_nbd_get_servers"), d.call("berth_nbd_get_exports")), ([], []), "shown to nobody")
    d.error("berth_nbd_server_create", -22, {"name": ".lent-x"})
    n.close()
    until(lambda: not any(name.startswith(".lent") for name in os.listdir(d.folder)), "the socket goes with the last loan")


# ---- berth volume, berth store ----

def test_commands(t):
    d = with_store(t)
    contains(berth(t, d, "store", "list"), "lvs0")
    contains(berth(t, d, "volume", "create", "a", "10M"), "lvs0/a: 10 MiB, thin")
    contains(berth(t, d, "volume", "create", "lvs0/b", "4M", "--thick"), "thick")
    contains(berth(t, d, "volume", "create", "a", "10M", code=1), "a")
    contains(berth(t, d, "volume", "create", "c", "much", code=2), "much")
    contains(berth(t, d, "volume", "snapshot", "a", "s"), "lvs0/s: 10 MiB, snapshot")
    contains(berth(t, d, "volume", "snapshot", "a", "s2", "b", "t2"), "lvs0/t2")
    contains(berth(t, d, "volume", "clone", "s", "lvs0/c"), "lvs0/c: 10 MiB, clone")
    contains(berth(t, d, "volume", "clone", "s", "other/c", code=2), "other")
    contains(berth(t, d, "volume", "show", "s"), "lvs0/c")
    equal(json.loads(berth(t, d, "volume", "show", "c", "--json"))["parent"], "s")
    berth(t, d, "volume", "rename", "c", "d")
    berth(t, d, "volume", "resize", "d", "12M")
    equal(volume(d, "lvs0/d")["size"], 12 * MIB)
    berth(t, d, "volume", "inflate", "d", "--thin")
    equal(volume(d, "lvs0/d")["is_clone"], False)
    berth(t, d, "volume", "inflate", "d")
    equal(volume(d, "lvs0/d")["num_allocated_clusters"], 12 * MIB // CLUSTER)
    out = berth(t, d, "volume", "list")
    for word in ("lvs0/a", "lvs0/d", "12 MiB", "thick", "snapshot", "read-only", "VOLUME"):
        contains(out, word)
    berth(t, d, "volume", "delete", "d")
    contains(berth(t, d, "volume", "delete", "d", code=1), "there is no volume 'd'")
    contains(berth(t, d, "volume", "dance", code=2), "dance")
    d.call("bdev_malloc_create", name="m", num_blocks=65536, block_size=512)
    berth(t, d, "store", "create", "second", "m", "--cluster-size", "128K")
    contains(berth(t, d, "volume", "create", "x", "1M", code=1), "several volume stores")
    berth(t, d, "volume", "create", "x", "1M", "--store", "second")
    berth(t, d, "volume", "create", "second/a", "1M")
    contains(berth(t, d, "volume", "show", "a", code=1), "several stores")
    equal({s["name"]: s["cluster_size"] for s in json.loads(berth(t, d, "store", "list", "--json"))},
          {"lvs0": CLUSTER, "second": 2 * CLUSTER})
    os.truncate(t.path("d.img"), 192 * MIB)
    d.call("bdev_aio_rescan", name="base")
    before = d.call("bdev_lvol_get_lvstores", lvs_name="lvs0")[0]["free_clusters"]
    berth(t, d, "store", "grow", "lvs0")
    equal(d.call("bdev_lvol_get_lvstores", lvs_name="lvs0")[0]["free_clusters"], before + 64 * MIB // CLUSTER)


def send(t, d, d2, *args, to=(), code=0):
    """berth volume send | berth volume receive; exit code, bytes sent, what was said."""
    argv = [os.path.join(harness.BUILD, "berth"), "-s"]
    stream = t.path("stream")
    sent = subprocess.run([*argv, d.socket, "volume", "send", *args], stdout=open(stream, "wb"), stderr=subprocess.PIPE, timeout=60)
    equal(sent.returncode, 0, sent.stderr.decode())
    got = subprocess.run([*argv, d2.socket, "volume", "receive", *to], stdin=open(stream, "rb"), capture_output=True, timeout=60)
    equal(got.returncode, code, got.stderr.decode())
    return os.path.getsize(stream), got.stderr.decode()


def two(t):
    d, d2 = with_store(t), with_store(t, folder="d2", name="far")
    d.call("bdev_lvol_create", lvs_name="lvs0", lvol_name="v", size_in_mib=16, thin_provision=True)
    write(d, "lvs0/v", 3 * MIB, os.urandom(2 * MIB))
    write(d, "lvs0/v", 8 * MIB, bytes(MIB))
    return d, d2


def test_send_and_receive(t):
    d, d2 = two(t)
    size, _ = send(t, d, d2, "v", "--snapshot", "s1")
    check(2 * MIB < size < 2 * MIB + 8192, f"{size} bytes: zeroes were sent")
    equal(aliases(d2), ["far/s1", "far/v"])
    equal(digest(d2, "far/v"), digest(d, "lvs0/v"))
    equal(volume(d2, "far/s1")["origin"], volume(d, "lvs0/s1")["uuid"])
    # A difference: data, and what became zero.
    write(d, "lvs0/v", 4 * MIB, os.urandom(CLUSTER))
    n = lent(d, "lvs0/v")
    n.write_zeroes(3 * MIB, CLUSTER)
    n.close()
    uuid = volume(d2, "far/v")["uuid"]
    size, _ = send(t, d, d2, "v", "--snapshot", "s2", "--from", "s1")
    check(size < 2 * CLUSTER, f"{size} bytes are more than what has changed")
    equal(aliases(d2), ["far/s1", "far/s2", "far/v"])
    equal([digest(d2, f"far/{n}") for n in ("v", "s1", "s2")], [digest(d, f"lvs0/{n}") for n in ("v", "s1", "s2")])
    equal((volume(d2, "far/v")["uuid"], volume(d2, "far/v")["parent"], volume(d2, "far/s2")["parent"]), (uuid, "s2", "s1"))
    # From there to a third, and a later difference from the first: it is the same snapshot everywhere.
    send(t, d2, d, "far/s2", to=("copy", "--snapshot", "copied"), code=1)
    # What is not right is refused, and nothing is left of it.
    _, why = send(t, d, d2, "s2", "--from", "s1", code=1)
    contains(why, "already")
    write(d, "lvs0/v", 0, b"4" * 512)
    write(d2, "far/v", 0, b"5" * 512)
    _, why = send(t, d, d2, "v", "--snapshot", "s3", "--from", "s2", code=1)
    contains(why, "written to")
    _, why = send(t, d, d2, "s1", to=("v",), code=1)
    contains(why, "already")
    equal(aliases(d2), ["far/s1", "far/s2", "far/v"])
    d2.call("bdev_lvol_clone", snapshot_name="far/s2", clone_name="w")
    send(t, d, d2, "s3", "--from", "s2", to=("w",))
    equal(digest(d2, "far/w"), digest(d, "lvs0/s3"))


def test_difference_without_its_base(t):
    d, d2 = two(t)
    d.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="s1")
    d.call("bdev_lvol_snapshot", lvol_name="lvs0/v", snapshot_name="s2")
    _, why = send(t, d, d2, "s2", "--from", "s1", code=1)
    contains(why, volume(d, "lvs0/s1")["uuid"])
    equal(aliases(d2), [])


def test_damaged_and_cut_streams(t):
    d, d2 = two(t)
    send(t, d, d2, "v", "--snapshot", "s1")
    for name in ("v", "s1"):
        d2.call("bdev_lvol_delete", name=f"far/{name}")
    with open(t.path("stream"), "rb") as f:
        stream = f.read()
    argv = [os.path.join(harness.BUILD, "berth"), "-s", d2.socket, "volume", "receive"]

    def refused(data, what):
        p = subprocess.run(argv, input=data, capture_output=True, timeout=60)
        check(p.returncode != 0 and b"stream" in p.stderr, f"{what}: {p.returncode} {p.stderr}")
        equal(aliases(d2), [], what)
    for cut in (0, 40, 100, 200, len(stream) // 2, len(stream) - 40, len(stream) - 1):
        refused(stream[:cut], f"cut at {cut}")
    for at in (3, 33, 90, 130, 1000, len(stream) - 20):
        refused(stream[:at] + bytes([stream[at] ^ 1]) + stream[at + 1:], f"byte {at} is another")
    refused(stream + b"x", "a byte behind the end")
    refused(stream + stream, "two in one")
    # Killed in the middle: what it left goes with the next.
    p = subprocess.Popen(argv, stdin=subprocess.PIPE)
    p.stdin.write(stream[:MIB])
    p.stdin.flush()
    until(lambda: aliases(d2) == ["far/v.receiving"] and "origin" in volume(d2, "far/v.receiving"), "it has begun")
    p.send_signal(signal.SIGKILL)
    p.wait()
    p.stdin.close()
    equal(subprocess.run(argv, input=stream, capture_output=True, timeout=60).returncode, 0)
    equal(aliases(d2), ["far/s1", "far/v"])
    equal(digest(d2, "far/v"), digest(d, "lvs0/s1"))
    check("origin" not in volume(d2, "far/v"), "it is complete")
    # Of somebody who chose that name nothing is deleted; nor is what another one is writing to.
    for name in ("v", "s1"):
        d2.call("bdev_lvol_delete", name=f"far/{name}")
    d2.call("bdev_lvol_create", lvs_name="far", lvol_name="v.receiving", size_in_mib=1, thin_provision=True)
    for _ in range(2):
        # Nor is an empty one: a clone that nobody has written to shows data, too.
        p = subprocess.run(argv, input=stream, capture_output=True, timeout=60)
        check(p.returncode != 0 and b"v.receiving" in p.stderr, p.stderr)
        write(d2, "far/v.receiving", 0, b"mine" * 128)
    equal(read(d2, "far/v.receiving", 0, 512), b"mine" * 128)
    d2.call("bdev_lvol_delete", name="far/v.receiving")
    first = subprocess.Popen(argv, stdin=subprocess.PIPE)
    some = len(stream) * 3 // 4
    first.stdin.write(stream[:some])
    first.stdin.flush()
    until(lambda: aliases(d2) == ["far/v.receiving"] and volume(d2, "far/v.receiving")["num_allocated_clusters"] > 0, "it has begun")
    p = subprocess.run(argv, input=stream, capture_output=True, timeout=60)
    check(p.returncode != 0 and b"in use" in p.stderr, p.stderr)
    first.stdin.write(stream[some:])
    first.stdin.close()
    equal(first.wait(60), 0)
    equal(digest(d2, "far/v"), digest(d, "lvs0/s1"))


def test_import(t):
    if not shutil.which("qemu-img"):
        raise harness.Skip("qemu-img is not installed")
    state = ("--state-dir", t.path("state"))
    d = with_store(t, *state)
    raw = t.file("raw.img", 8 * MIB)
    with open(raw, "r+b") as f:
        f.seek(2 * MIB)
        f.write(os.urandom(MIB))
    with open(raw, "rb") as f:
        expected = hashlib.sha256(f.read()).hexdigest()
    qcow2 = t.path("image.qcow2")
    t.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2])
    for file in (raw, qcow2):
        name = os.path.basename(file).split(".")[0]
        contains(berth(t, d, "volume", "import", file, name), "reads from")
        equal(digest(d, f"lvs0/{name}"), expected, name)
        berth(t, d, "volume", "import", file, f"{name}-copy", "--copy")
        equal(digest(d, f"lvs0/{name}-copy"), expected, f"{name}, copied")
    equal([volume(d, f"lvs0/{n}")["is_esnap_clone"] for n in ("raw", "image", "raw-copy", "image-copy")], [True, True, False, False])
    equal(sorted(b["name"] for b in d.call("bdev_get_bdevs") if b["name"].startswith("image-")),
          ["image-image", "image-image-file", "image-raw"])
    write(d, "lvs0/image", 0, b"mine" * 128)
    contains(berth(t, d, "volume", "import", t.path("none.img"), "x", code=1), "none.img")
    d.kill()
    d = t.daemon(*state)
    until(lambda: not volume(d, "lvs0/image")["is_degraded"], "the image is there again")
    equal(read(d, "lvs0/image", 0, 512), b"mine" * 128)
    equal(digest(d, "lvs0/raw"), expected)
    berth(t, d, "volume", "inflate", "raw", "--thin")
    d.call("bdev_aio_delete", name="image-raw")
    equal(digest(d, "lvs0/raw"), expected, "on its own")


def test_decouple_copies_data_only(t):
    """Of an image, raw or qcow2, a volume that is made independent has what holds data, and reads the same as before."""
    d = with_store(t)
    raw, qcow2 = t.path("holes.raw"), t.path("holes.qcow2")
    with open(raw, "wb") as f:
        f.truncate(32 * MIB)
        for offset, length in ((0, CLUSTER), (5 * MIB, 2 * CLUSTER), (20 * MIB + 4096, 4096), (32 * MIB - 4096, 4096)):
            f.seek(offset)
            f.write(os.urandom(length))
    with open(raw, "rb") as f:
        expected = hashlib.sha256(f.read()).hexdigest()
    images = [("raw", raw)]
    if shutil.which("qemu-img"):
        t.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2])
        images.append(("qcow2", qcow2))
    for name, file in images:
        berth(t, d, "volume", "import", file, name)
        write(d, f"lvs0/{name}", 10 * MIB, bytes(512))
        berth(t, d, "volume", "inflate", name, "--thin")
        v = volume(d, f"lvs0/{name}")
        equal((v["num_allocated_clusters"], v["is_thin_provisioned"], v["is_esnap_clone"]), (6, True, False), name)
        equal(digest(d, f"lvs0/{name}"), expected, name)
        # All of it, when that is asked for.
        berth(t, d, "volume", "import", file, f"{name}-all")
        berth(t, d, "volume", "inflate", f"{name}-all")
        v = volume(d, f"lvs0/{name}-all")
        equal((v["num_allocated_clusters"], v["is_thin_provisioned"]), (512, False), name)
        equal(digest(d, f"lvs0/{name}-all"), expected, name)
    # An image of nothing needs nothing.
    nothing = t.file("nothing.raw", 8 * MIB)
    berth(t, d, "volume", "import", nothing, "nothing")
    berth(t, d, "volume", "inflate", "nothing", "--thin")
    equal(volume(d, "lvs0/nothing")["num_allocated_clusters"], 0)
    digests = [digest(d, f"lvs0/{name}") for name, _ in images]
    d.stop()
    d = t.daemon(folder="again")
    d.call("bdev_aio_create", name="base", filename=t.path("d.img"), block_size=512)
    d.call("bdev_wait_for_examine")
    equal([digest(d, f"lvs0/{name}") for name, _ in images], digests, "after a restart, without the images")


def test_import_interrupted(t):
    """A copy that was not finished never looks like one, and is no hindrance to the next."""
    state = ("--state-dir", t.path("state"))
    d = with_store(t, *state, mib=512)
    raw = t.path("big.raw")
    with open(raw, "wb") as f:
        f.write(os.urandom(MIB) * 96)
    command = [os.path.join(harness.BUILD, "berth"), "-s", d.socket, "volume", "import", raw, "big", "--copy"]
    for victim in ("berthd", "berth"):
        p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        until(lambda: p.poll() is not None or any(v["num_allocated_clusters"] > 16 for v in d.call("bdev_lvol_get_lvols")), "it copies")
        check(p.poll() is None, "the copy was too fast to be interrupted")
        if victim == "berthd":
            d.kill()
            said = p.communicate(timeout=20)[1].decode()
            equal((p.returncode, said.count("\n")), (4, 1), f"exit code and lines: {said}")
            d = t.daemon(*state)
            until(lambda: aliases(d), "the store is there again")
            equal(aliases(d), ["lvs0/big.importing"], "berthd was killed")
            # Another that does not copy clears it away, too.
            berth(t, d, "volume", "import", raw, "big")
            equal(sorted(b["name"] for b in d.call("bdev_get_bdevs") if b["name"].startswith("im")), ["image-big"])
            berth(t, d, "volume", "delete", "big")
            equal(aliases(d), [])
        else:
            p.kill()
            p.communicate(timeout=20)
            equal(aliases(d), ["lvs0/big.importing"], "berth was killed")
    berth(t, d, "volume", "import", raw, "big", "--copy")
    equal(aliases(d), ["lvs0/big"])
    with open(raw, "rb") as f:
        equal(digest(d, "lvs0/big"), hashlib.sha256(f.read()).hexdigest())
    equal([b["name"] for b in d.call("bdev_get_bdevs") if b["name"].startswith("im")], [])
    contains(berth(t, d, "volume", "import", raw, "big", "--copy", code=1), "already")


class Between:
    """Between a command and berthd: the command is killed when its call number `last`, of those that change something, has been
    done, and hears nothing of it."""

    def __init__(self, t, d, last, command, **kw):
        self.d, self.last, self.calls = d, last, 0
        path = t.path("between")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
            s.listen()
            self.p = subprocess.Popen([os.path.join(harness.BUILD, "berth"), "-s", path, *command],
                                      stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kw)
            s.settimeout(0.05)
            while self.p.poll() is None:
                try:
                    client, _ = s.accept()
                except TimeoutError:
                    continue
                with client:
                    self.serve(client)
        self.stdout, self.stderr = self.p.communicate(timeout=20)
        os.unlink(path)

    def serve(self, client):
        client.settimeout(None)
        with socket.socket(socket.AF_UNIX) as server:
            server.connect(self.d.socket)
            while (data := client.recv(65536)):
                self.calls += b"_get_" not in data
                server.sendall(data)
                answer = b""
                while True:
                    answer += server.recv(65536)
                    try:
                        json.loads(answer)
                        break
                    except ValueError:
                        continue
                if self.calls == self.last and b"_get_" not in data:
                    self.p.kill()
                    return
                client.sendall(answer)


def killed_at_each_call(t, d, command, after, **files):
    """after(completed): the command was killed, or ended by itself."""
    for last in range(1, 40):
        inputs = {key: open(path, "rb") for key, path in files.items()}
        b = Between(t, d, last, command, **inputs)
        for f in inputs.values():
            f.close()
        if b.p.returncode != -signal.SIGKILL:
            equal(b.p.returncode, 0, b.stderr)
            after(True)
            check(last > 4, "it makes hardly a call")
            return
        after(False)
    check(False, "it never ends")


def test_import_and_receive_killed_at_each_call(t):
    """Whatever is left of one that was killed, at whatever moment, the next goes on from it, or clears it away."""
    d, d2 = two(t)
    raw = t.path("small.raw")
    with open(raw, "wb") as f:
        f.write(os.urandom(MIB))
    with open(raw, "rb") as f:
        expected = hashlib.sha256(f.read()).hexdigest()

    def imported(completed):
        if not completed and "lvs0/i" not in aliases(d):
            berth(t, d, "volume", "import", raw, "i", "--copy")
        equal(digest(d, "lvs0/i"), expected)
        check("origin" not in volume(d, "lvs0/i") and "lvs0/i.importing" not in aliases(d), aliases(d))
        berth(t, d, "volume", "delete", "i")

    killed_at_each_call(t, d, ["volume", "import", raw, "i", "--copy"], imported)

    whole, difference = t.path("whole"), t.path("difference")
    for path, args in ((whole, ("v", "--snapshot", "s1")), (difference, ("v", "--snapshot", "s2", "--from", "s1"))):
        with open(path, "wb") as f:
            subprocess.run([os.path.join(harness.BUILD, "berth"), "-s", d.socket, "volume", "send", *args], stdout=f, check=True)
        write(d, "lvs0/v", 5 * MIB, os.urandom(CLUSTER))

    sent = {s: digest(d, f"lvs0/{s}") for s in ("s1", "s2")}

    def receive(path, done):
        with open(path, "rb") as f:
            p = subprocess.run([os.path.join(harness.BUILD, "berth"), "-s", d2.socket, "volume", "receive"], stdin=f,
                               capture_output=True, check=False)
        check(p.returncode == 0 or (done and b"already" in p.stderr), p.stderr)

    def received(path, snapshot, completed, end):
        # It is there already when only the last answer was not heard.
        done = f"far/{snapshot}" in aliases(d2) and "far/v.receiving" not in aliases(d2)
        if not completed:
            receive(path, done)
        equal(digest(d2, "far/v"), sent[snapshot])
        equal(d2.call("bdev_lvol_get_changed_blocks", name="far/v", since=f"far/{snapshot}")["extents"], [])
        equal((volume(d2, "far/v")["parent"], volume(d2, f"far/{snapshot}")["origin"]),
              (snapshot, volume(d, f"lvs0/{snapshot}")["uuid"]))
        check("origin" not in volume(d2, "far/v") and "far/v.receiving" not in aliases(d2), aliases(d2))
        end(completed)

    def from_nothing(completed):
        if not completed:
            d2.call("bdev_lvol_delete", name="far/v")
            d2.call("bdev_lvol_delete", name="far/s1")

    def from_s1(completed):
        d2.call("bdev_lvol_delete", name="far/v")
        d2.call("bdev_lvol_delete", name="far/s2")
        d2.call("bdev_lvol_clone", snapshot_name="far/s1", clone_name="v")

    killed_at_each_call(t, d2, ["volume", "receive"], lambda c: received(whole, "s1", c, from_nothing), stdin=whole)
    killed_at_each_call(t, d2, ["volume", "receive"], lambda c: received(difference, "s2", c, from_s1), stdin=difference)


def test_images_go_with_their_volumes(t):
    d = with_store(t)
    raw = t.file("raw.img", 8 * MIB)

    def images():
        return [b["name"] for b in d.call("bdev_get_bdevs") if b["name"].startswith("image-")]
    for _ in range(2):
        berth(t, d, "volume", "import", raw, "base")
        equal(images(), ["image-base"])
        berth(t, d, "volume", "delete", "base")
        until(lambda: images() == [], "the image's bdev goes with the volume")
    odd = t.file("odd.img", 3 * MIB + 512)
    contains(berth(t, d, "volume", "import", odd, "odd", code=1), "--copy")
    equal(images(), [])
    berth(t, d, "volume", "import", odd, "odd", "--copy")
    equal(volume(d, "lvs0/odd")["size"], 4 * MIB)
    berth(t, d, "volume", "import", raw, "base")
    image = d.call("bdev_get_bdevs", name="image-base")[0]["uuid"]
    equal(volume(d, "lvs0/base")["external_parent"], image)
    contains(berth(t, d, "volume", "show", "base"), image)
    berth(t, d, "volume", "snapshot", "base", "s")
    berth(t, d, "volume", "delete", "base")
    equal(images(), ["image-base"], "the snapshot reads from it")
    berth(t, d, "volume", "import", raw, "base")
    equal(images(), ["image-base", "image-base-2"])
    d.call("bdev_aio_delete", name="image-base")
    contains(berth(t, d, "volume", "show", "s"), f"{image}, which is missing")


def test_block_status_over_nbd(t):
    if not shutil.which("nbdinfo"):
        raise harness.Skip("nbdinfo is not installed")
    d = with_store(t)
    d.call("bdev_lvol_create", lvs_name="lvs0", lvol_name="v", size_in_mib=8, thin_provision=True)
    write(d, "lvs0/v", 2 * MIB, b"x" * MIB)
    d.call("berth_nbd_server_create", path=t.path("n"))
    d.call("berth_nbd_export_create", bdev_name="lvs0/v", name="v")
    extents = json.loads(t.run(["nbdinfo", "--map", "--json", f"nbd+unix:///v?socket={t.path('n')}"]))
    equal([(e["offset"], e["length"], e["type"]) for e in extents], [(0, 2 * MIB, 3), (2 * MIB, MIB, 0), (3 * MIB, 5 * MIB, 3)])


# ---- Disks ----

def test_disks_are_volumes(t):
    state = ("--state-dir", t.path("state"))
    d = t.daemon(*state)
    contains(d.error("berth_disk_create", params={"name": "x", "size": MIB, "store_size": MIB})["message"], "store")
    with d.rpc() as rpc:
        # All at once: one of them makes the store.
        rpc.send(json.dumps([rpc.request("berth_disk_create", {"name": f"d{i}", "size": 64 * MIB, "store_size": 128 * MIB})
                             for i in range(5)]))
        answers = rpc.receive()
    check(all("result" in a for a in answers), f"{answers}")
    equal([x["volume"] for x in d.call("berth_disk_list")], [f"disks/d{i}" for i in range(5)])
    equal(os.path.getsize(t.path("state/disks/store.img")), 128 * MIB)
    write(d, "d1", 0, b"one" * 1024)
    before = d.call("berth_disk_list")
    d.kill()
    d = t.daemon(*state)
    equal(d.call("berth_disk_list"), before)
    equal(read(d, "d1", 0, 3072), b"one" * 1024)
    d.call("berth_disk_resize", name="d1", size=96 * MIB)
    berth(t, d, "volume", "snapshot", "disks/d1", "before")
    d.call("berth_disk_delete", name="d0")
    d.call("berth_disk_delete", name="d2", keep_file=True)
    check("disks/d0" not in aliases(d) and "disks/d2" in aliases(d), f"{aliases(d)}")
    d.kill()
    d = t.daemon(*state)
    equal([(x["name"], x["size"]) for x in d.call("berth_disk_list")], [("d1", 96 * MIB), ("d3", 64 * MIB), ("d4", 64 * MIB)])
    d.call("berth_disk_create", name="d2", size=64 * MIB, existing=True)
    d.error("berth_disk_create", -17, {"name": "d1", "size": MIB})
    d.call("bdev_lvol_rename", old_name="disks/d3", new_name="other")
    berth(t, d, "store", "grow", "disks", "--size", "192M")
    d.stop()
    d = t.daemon(*state)
    equal([x["volume"] for x in d.call("berth_disk_list")], ["disks/d1", "disks/d2", "disks/other", "disks/d4"])
    equal(os.path.getsize(t.path("state/disks/store.img")), 192 * MIB)
    d.call("berth_disk_delete", name="d3")
    check("disks/other" not in aliases(d), "its volume goes with it")
    # The log is lost: the store is not made anew over what is there.
    d.stop()
    os.unlink(t.path("state/state.log"))
    d = t.daemon(*state)
    d.call("berth_disk_create", name="new", size=MIB)
    check("disks/d1" in aliases(d), f"{aliases(d)}")
    d.call("berth_disk_create", name="d1", size=96 * MIB, existing=True)
    equal(read(d, "d1", 0, 3072), b"one" * 1024)


def test_disks_and_their_volumes(t):
    """A disk's volume goes with the disk; a disk that nobody uses can become smaller."""
    state = ("--state-dir", t.path("state"))
    d = t.daemon(*state)
    for name in ("x", "y"):
        berth(t, d, "disk", "create", name, "64M", "--store-size", "256M")
    contains(berth(t, d, "volume", "delete", "y", code=1), "berth disk delete")
    equal([x["name"] for x in d.call("berth_disk_list")], ["x", "y"])
    write(d, "y", 0, b"kept" * 128)
    until(lambda: not any(name.startswith(".lent") for name in os.listdir(d.folder)), "the loan has ended")
    berth(t, d, "disk", "resize", "y", "32M")
    equal([(x["name"], x["size"]) for x in d.call("berth_disk_list")], [("x", 64 * MIB), ("y", 32 * MIB)])
    berth(t, d, "disk", "resize", "y", "0", code=1)
    equal(sorted(c["ctrlr"] for c in d.call("vhost_get_controllers")), ["x", "y"])
    d.kill()
    d = t.daemon(*state)
    equal([(x["name"], x["size"]) for x in d.call("berth_disk_list")], [("x", 64 * MIB), ("y", 32 * MIB)])
    equal(read(d, "y", 0, 512), b"kept" * 128)
    perf = [os.path.join(harness.BUILD, "berth"), "perf", "--socket", os.path.join(d.folder, "y"), "--quiet"]
    vm = subprocess.Popen([*perf, "-w", "randread", "-t", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: d.call("berth_disk_list", name="y")[0]["connected"], "a VM is connected")
    contains(berth(t, d, "disk", "resize", "y", "16M", code=1), "smaller")
    vm.kill()
    vm.wait()
    contains(d.error("bdev_lvol_delete_lvstore", -16, {"lvs_name": "disks"})["message"], "disk 'x'")
    equal(read(d, "y", 0, 512), b"kept" * 128)
    # The bdev of their store goes: the disks can be made again.
    d.call("bdev_aio_delete", name="disks-store")
    equal(d.call("berth_disk_list"), [])
    berth(t, d, "disk", "delete", "y")
    equal([c["ctrlr"] for c in d.call("vhost_get_controllers")], ["x"])
    contains(berth(t, d, "disk", "delete", "y", code=1), "no disk")


def test_store_of_disks_grows(t):
    """Many times its size, and what it cannot take up its file does not get."""
    d = t.daemon("--state-dir", t.path("state"))
    berth(t, d, "disk", "create", "x", "16M", "--store-size", "1G")
    berth(t, d, "store", "grow", "disks", "--size", "8G")
    (s,) = d.call("bdev_lvol_get_lvstores")
    check(s["total_data_clusters"] * CLUSTER > 7 << 30 and s["max_growable_size"] >= 8 << 30, f"{s}")
    contains(berth(t, d, "store", "grow", "disks", "--size", "200T", code=1), "no further")
    equal(os.path.getsize(t.path("state/disks/store.img")), 8 << 30)


def test_disk_file_that_is_no_store(t):
    os.makedirs(t.path("state/disks"))
    with open(t.path("state/disks/store.img"), "wb") as f:
        f.write(b"mine" * 16384 * 64)
    d = t.daemon("--state-dir", t.path("state"))
    for _ in range(2):
        contains(d.error("berth_disk_create", params={"name": "a", "size": MIB})["message"], "store")
    with open(t.path("state/disks/store.img"), "rb") as f:
        equal(f.read(4), b"mine")


harness.main(globals())
