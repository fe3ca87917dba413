#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Thousands of controllers and of connected VMs: nothing is lost, nothing wakes up, memory stays small, and the limit of
descriptors is an error like others. How fast it is, bench/density says."""
import json
import os
import re
import resource
import socket
import subprocess
import tempfile
import shutil
import time

import harness
from harness import check, contains, equal, stays_asleep, until

MIB = 1 << 20
LIMIT = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
# Sanitizers make everything slower and larger, and watch each descriptor.
SCALE = 10 if harness.SANITIZED else 1
VMS = 1000 // SCALE
CLIENT = os.path.join(harness.BUILD, "bench", "density-client")


def memory(d):
    """MiB: anonymous, all resident."""
    with open(f"/proc/{d.pid}/status") as f:
        status = dict(line.split(":", 1) for line in f)
    return tuple(int(status[k].split()[0]) / 1024 for k in ("RssAnon", "VmRSS"))


def call(method, number=1, **params):
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": method, "params": params})


def burst(d, requests):
    """Everything is sent before the first answer is read. All are results, each id once."""
    with d.rpc() as rpc:
        rpc.send("".join(requests))
        seen, rest = [], b""
        while len(seen) < len(requests):
            data = rpc.sock.recv(1 << 20)
            check(data, f"berthd closed the connection after {len(seen)} of {len(requests)} answers")
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                check(b'"result"' in line, line.decode())
                seen.append(int(re.search(rb'"id":(\d+)', line)[1]))
    equal(sorted(seen), list(range(len(requests))), "ids of the answers")


def in_memory(t):
    """A folder where making a file takes no time."""
    folder = tempfile.mkdtemp(prefix="be-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else t.dir)
    t.stack.append(lambda: shutil.rmtree(folder, ignore_errors=True))
    return folder


def daemon(t, *args, state=False, **kw):
    """With its sockets in memory, and its state, too."""
    folder = kw.pop("folder", None) or in_memory(t)
    args += ("--state-dir", os.path.join(folder, "state")) if state else ()
    return t.daemon(*args, folder=folder, **kw)


def ask(d, method, **params):
    """The result of a call whose answer is long: one line, looked at once."""
    with d.rpc() as rpc:
        rpc.send(call(method, **params))
        with rpc.sock.makefile() as f:
            return json.loads(f.readline())["result"]


def make_disks(t, d, count, kinds):
    """Controllers c0, c1, ... each on a bdev of its own of one of the kinds in turn."""
    folder = in_memory(t)
    requests = []
    for i in range(count):
        kind = kinds[i % len(kinds)]
        params = {"name": f"n{i}", "block_size": 512}
        if kind in ("null", "malloc"):
            params["num_blocks"] = 2048
        else:
            params["filename"] = os.path.join(folder, f"n{i}")
            with open(params["filename"], "wb") as f:
                f.truncate(MIB)
        requests += [call(f"bdev_{kind}_create", len(requests), **params)]
        requests += [call("vhost_create_blk_controller", len(requests), ctrlr=f"c{i}", dev_name=f"n{i}")]
    burst(d, requests)


def kinds():
    return ["malloc", "aio"] + (["uring"] if harness.has_uring() else [])


def hold(t, d, count, *args):
    """Clients that are connected, have done some verified I/O, and are idle until their input ends."""
    p = t.spawn([CLIENT, "--pattern", d.path("c%u"), "--count", str(count), "--hold", *args], stdin=-1, stdout=-1, text=True)
    equal(p.stdout.readline().strip(), f"ready {count}")
    return p


def release(p):
    p.stdin.close()
    equal(p.wait(60 * harness.PATIENCE), 0)


def settled(d):
    """How many descriptors it has when the connections of calls are closed."""
    last = []

    def same():
        time.sleep(0.1)
        last.append(d.fd_count())
        return last[-2:-1] == last[-1:]
    until(same, "no descriptor comes or goes")
    return last[-1]


def end_held(p):
    """Of whom some have lost their connection."""
    p.stdin.close()
    p.wait(60 * harness.PATIENCE)


def sessions(d):
    return sum(len(c["sessions"]) for c in ask(d, "vhost_get_controllers"))


# ---- Many controllers ----

def test_ten_thousand(t):
    count = min(10000 // SCALE, LIMIT - 200)
    d = daemon(t, state=True)
    empty = memory(d)[0]
    null = [call("bdev_null_create", i, name=f"n{i}", num_blocks=2048, block_size=512) for i in range(count)]
    blk = [call("vhost_create_blk_controller", i, ctrlr=f"c{i}", dev_name=f"n{i}") for i in range(count)]
    burst(d, null)
    burst(d, blk)
    for how in ("made", "restored"):
        listed = ask(d, "vhost_get_controllers")
        equal([c["ctrlr"] for c in listed], [f"c{i}" for i in range(count)], how)
        equal([b["name"] for b in ask(d, "bdev_get_bdevs")], [f"n{i}" for i in range(count)], how)
        equal(d.call("vhost_get_controllers", name=f"c{count // 2}"), [listed[count // 2]], how)
        check(SCALE > 1 or memory(d)[1] < 80, f"{how}: {memory(d)} MiB")
        d.kill()
        d = daemon(t, state=True, folder=d.folder)
    burst(d, [call("vhost_delete_controller", i, ctrlr=f"c{i}") for i in range(count)])
    equal(d.call("vhost_get_controllers"), [])
    burst(d, [call("bdev_null_delete", i, name=f"n{i}") for i in range(count)])
    equal(d.call("bdev_get_bdevs"), [])
    equal([n for n in os.listdir(d.folder) if n.startswith("c")], [])
    check(SCALE > 1 or memory(d)[0] < empty + 32, f"after all are gone: {memory(d)} MiB")
    d.stop()
    d = daemon(t, state=True, folder=d.folder)
    equal(d.call("vhost_get_controllers"), [])


def test_disks_with_generated_names(t):
    """The first free name is found without trying all."""
    count = 5000 // SCALE
    d = t.daemon()
    burst(d, [call("bdev_malloc_create", i, num_blocks=8, block_size=512) for i in range(count)])
    d.call("bdev_malloc_delete", name="Malloc7")
    equal(d.call("bdev_malloc_create", num_blocks=8, block_size=512), "Malloc7")
    equal(d.call("bdev_malloc_create", num_blocks=8, block_size=512), f"Malloc{count}")


def test_many_disks(t):
    """Sorted, all there after kill -9."""
    count = 300 // SCALE
    d = t.daemon("--state-dir", t.path("state"))
    burst(d, [call("berth_disk_create", i, name=f"d{i}", size=MIB, backend="aio") for i in range(count)])
    names = sorted(f"d{i}" for i in range(count))
    equal([x["name"] for x in d.call("berth_disk_list")], names)
    d.kill()
    d = t.daemon("--state-dir", t.path("state"))
    equal([x["name"] for x in d.call("berth_disk_list")], names)
    burst(d, [call("berth_disk_delete", i, name=f"d{i}") for i in range(count)])
    equal(d.call("berth_disk_list"), [])


# ---- Bursts ----

def test_creations_and_deletions_in_one_burst(t):
    d = daemon(t, state=True)
    for count in (1000 // SCALE, 10000 // SCALE):
        requests = []
        for i in range(count):
            for method, params in [("bdev_null_create", {"name": f"n{i}", "num_blocks": 2048, "block_size": 512}),
                                   ("vhost_create_blk_controller", {"ctrlr": f"c{i}", "dev_name": f"n{i}"}),
                                   ("vhost_delete_controller", {"ctrlr": f"c{i}"}), ("bdev_null_delete", {"name": f"n{i}"})]:
                requests.append(call(method, len(requests), **params))
        burst(d, requests)
        equal(d.call("bdev_get_bdevs"), [])
        equal(d.call("vhost_get_controllers"), [])


def test_client_that_does_not_read(t):
    """It is left to itself with a bounded amount of memory; others are served."""
    d = t.daemon()
    d.call("bdev_null_create", name="n", num_blocks=2048, block_size=512)
    before = memory(d)[0]
    with d.rpc() as deaf:
        deaf.sock.settimeout(0.5)
        sent = 0
        try:
            while sent < 200000:
                deaf.sock.sendall((call("bdev_get_bdevs") * 100).encode())
                sent += 100
        except TimeoutError:
            pass
        check(sent < 200000, "reading stops somewhere")
        equal(len(d.call("bdev_get_bdevs")), 1)
        check(SCALE > 1 or memory(d)[0] < before + 32, f"{memory(d)} MiB")
    until(lambda: SCALE > 1 or memory(d)[0] < before + 16, "its memory comes back")


# ---- Many VMs ----

def test_connected_vms_sleep(t):
    d = daemon(t, state=True)
    base = settled(d)
    make_disks(t, d, VMS, ["null"])
    until(lambda: d.fd_count() == base + VMS, "one descriptor a controller")
    resident = memory(d)[1]
    check(SCALE > 1 or resident < 48, f"{resident} MiB with {VMS} controllers")
    stays_asleep(d, f"with {VMS} controllers", 1.0)
    p = hold(t, d, VMS, "--no-compare")
    equal(sessions(d), VMS)
    until(lambda: d.fd_count() == base + 4 * VMS, "three more a VM")
    anonymous = memory(d)[0]
    check(SCALE > 1 or anonymous < 96, f"{anonymous} MiB of anonymous memory with {VMS} VMs")
    stays_asleep(d, f"with {VMS} VMs on null")
    release(p)
    until(lambda: d.fd_count() == base + VMS, "descriptors are given back")
    equal(sessions(d), 0)


def test_connected_vms_on_all_kinds_sleep(t):
    d = daemon(t)
    make_disks(t, d, VMS, kinds())
    p = hold(t, d, VMS)
    equal(sessions(d), VMS)
    stays_asleep(d, f"with {VMS} VMs on {', '.join(kinds())}")
    release(p)


def room(limit):
    """VMs with one queue: four descriptors each, three when three quarters of all are in use; some are berthd's own."""
    return limit * 28 // 100 - 30


def test_sockets_give_way(t):
    """Where descriptors are scarce a connected VM's controller has no socket: more fit, and all is as before when they leave."""
    limit = 1200
    count = room(limit)
    check(count > limit / 4, "more than with four descriptors each")
    d = t.daemon(prefix=["prlimit", f"--nofile={limit}:{limit}"])
    make_disks(t, d, count, ["null"])
    base = settled(d)
    for _ in range(2):
        p = hold(t, d, count, "--no-compare", "--processes", "2")
        equal(sessions(d), count)
        check(d.fd_count() < base + 3 * count, "some sockets are closed")
        refused = set()
        for i in range(count):
            check(os.path.exists(d.path(f"c{i}")), "the path stays")
            with socket.socket(socket.AF_UNIX) as s:
                try:
                    s.connect(d.path(f"c{i}"))
                except ConnectionRefusedError:
                    refused.add(i)
        check(count / 8 < len(refused) < count, f"a part of them refuses a second VMM: {len(refused)}")
        stays_asleep(d, "with closed sockets", 0.5)
        # Another takes the place of what is deleted in that state.
        gone = max(refused)
        d.call("vhost_delete_controller", ctrlr=f"c{gone}")
        check(not os.path.exists(d.path(f"c{gone}")), "its path is gone")
        until(lambda: sessions(d) == count - 1, "its session has ended")
        d.controller(f"c{gone}", "n0")
        end_held(p)
        until(lambda: sessions(d) == 0 and d.fd_count() == base, "all listen again")
    check("listen again" not in d.output(), "none had to wait for a descriptor")


def test_as_many_vms_as_descriptors(t):
    if harness.SANITIZED:
        raise harness.Skip("too many for a sanitizer")
    d = daemon(t)
    count = min(5000, room(LIMIT))
    make_disks(t, d, count, ["null"])
    p = hold(t, d, count, "--no-compare", "--processes", str(1 + 4 * count // (LIMIT - 100)))
    equal(sessions(d), count)
    anonymous = memory(d)[0]
    check(anonymous < 96, f"{anonymous} MiB of anonymous memory with {count} VMs")
    stays_asleep(d, f"with {count} VMs", 1.0)
    release(p)


def crowd(t, count, seconds):
    d = daemon(t)
    make_disks(t, d, count, kinds())
    out = t.run([CLIENT, "--pattern", d.path("c%u"), "--count", str(count), "--time", str(seconds), "--pause", "50000"],
                timeout=seconds + 120)
    result = json.loads(out.splitlines()[-1])
    check(result["compared"] > result["ios"] / 2, f"much of it was compared: {result}")
    equal(d.call("vhost_get_controllers")[0]["sessions"], [])
    return result


def test_crowd(t):
    """A thousand at once, each block as it was written, nobody left behind. How evenly is measured elsewhere: here other
    programs may be running."""
    result = crowd(t, VMS, 5)
    check(result["ios_min"] * 3 > result["ios_mean"], f"the slowest has a third of the mean at least: {result}")


def test_long_crowd(t):
    result = crowd(t, VMS, 60)
    check(result["ios_min"] * 1.5 > result["ios_mean"], f"the slowest is within 1.5 of the mean: {result}")


# ---- The limit ----

def test_no_descriptors_left(t):
    d = t.daemon("--state-dir", t.path("state"), prefix=["prlimit", "--nofile=60:160"])
    contains(d.output(), "160 descriptors (RLIMIT_NOFILE), 20 of them kept for RPC")
    d.call("bdev_null_create", name="n", num_blocks=2048, block_size=512)
    made = 0
    first = d.rpc()
    while True:
        answer = first.answer("vhost_create_blk_controller", {"ctrlr": f"c{made}", "dev_name": "n"})
        if "error" in answer:
            break
        made += 1
        check(made < 160, "there is a limit")
    text = answer["error"]["message"]
    contains(text, f"c{made}")
    contains(text, "no descriptors left: 140 in use of 160 (RLIMIT_NOFILE)")
    error = d.error("berth_disk_create", params={"name": "disk", "size": MIB, "backend": "file"})
    contains(error["message"], "no descriptors left")
    # It answers on new connections, several at once, and what is there goes on.
    connections = [d.rpc() for _ in range(10)]
    for rpc in connections:
        equal(len(rpc.call("vhost_get_controllers")), made)
        rpc.close()
    # A VM waits until something is deleted.
    vm = t.spawn([CLIENT, "--pattern", d.path("c%u"), "--count", "1", "--no-compare", "--hold"], stdin=-1, stdout=-1, text=True)
    until(lambda: re.search(r"c0: .*Too many open files", d.output()), "its want is logged, with the controller's name")
    time.sleep(1)
    equal(sessions(d), 0)
    for i in range(made - 20, made):
        d.call("vhost_delete_controller", ctrlr=f"c{i}")
    equal(vm.stdout.readline().strip(), "ready 1")
    equal(sessions(d), 1)
    check(d.output().count("Too many open files") < 10, "said, but not over and over")
    release(vm)
    first.call("vhost_create_blk_controller", ctrlr="again", dev_name="n")
    first.close()
    d.kill()
    d = t.daemon("--state-dir", t.path("state"))
    equal(len(d.call("vhost_get_controllers")), made - 20 + 1, "the limit lost nothing")


def test_connections_wait_for_descriptors(t):
    """At the limit VMs that connect at once are served one after the other: none is lost on the way."""
    d = t.daemon(prefix=["prlimit", "--nofile=200:200"])
    make_disks(t, d, 150, ["null"])
    for i in range(200 - 25 - settled(d) - 11):
        d.controller(f"more{i}", "n0")
    equal(settled(d), 200 - 25 - 11, "eleven are left: three VMs fit, the fourth has too few")
    argv = [os.path.join(harness.BUILD, "berth"), "perf", "-w", "randread", "-o", "4k", "-t", "0.5", "--mode", "interrupt",
            "--quiet", "-s"]

    def start(name, *args, depth=1):
        return t.spawn([*argv, d.path(name), "-q", str(depth), *args], stdout=subprocess.DEVNULL)

    for p in [start(f"c{i}") for i in range(4)]:
        equal(p.wait(30 * harness.PATIENCE), 0)
    until(lambda: d.fd_count() == 200 - 25 - 11, "descriptors are given back")
    # Two that have connected and said nothing yet may still want theirs.
    silent = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for i, s in enumerate(silent):
        s.connect(d.path(f"c{i + 10}"))
    # Their controllers' sockets are closed meanwhile.
    until(lambda: sessions(d) == 2, "they are accepted")
    equal(settled(d), 200 - 25 - 11)
    p = start("c20")
    until(lambda: "c20: cannot accept" in d.output(), "it is said that it waits")
    contains(d.output(), "c20: cannot accept a connection, it waits: Too many open files; no descriptors left: 175 in use of 200")
    for s in silent:
        s.close()
    equal(p.wait(30 * harness.PATIENCE), 0)
    check("ends:" not in d.output(), "no session ended early")
    # More queues than there are descriptors for: the reason is named.
    equal(start("c30", "--queues", "8", depth=8).wait(30 * harness.PATIENCE), 1)
    until(lambda: re.search(r"c30: session \d+ ends: SET_VRING_\w+: cannot open its descriptors; no descriptors left: 175 in use of 200 "
                            r"\(RLIMIT_NOFILE\)", d.output()), "why it was disconnected")


def test_start_with_fewer_descriptors(t):
    """After kill -9, with room for a part of what there was: that part is back, the rest is named with its reason and kept."""
    count = 120
    d = t.daemon("--state-dir", t.path("state"))
    make_disks(t, d, count, ["null"])
    d.kill()
    before = len(d.output())
    d = t.daemon("--state-dir", t.path("state"), prefix=["prlimit", "--nofile=100:100"])
    there = len(ask(d, "vhost_get_controllers"))
    check(20 < there < 100, f"{there} controllers")
    said = d.output()[before:]
    contains(said, "no descriptors left: 88 in use of 100 (RLIMIT_NOFILE)")
    check("another process" not in said, "nobody else is blamed")
    contains(said, f"c{count - 1}")
    d.kill()
    d = t.daemon("--state-dir", t.path("state"))
    equal(sorted(c["ctrlr"] for c in ask(d, "vhost_get_controllers")), sorted(f"c{i}" for i in range(count)))


harness.main(globals())
