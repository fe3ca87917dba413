#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The data battery through our own virtio driver: `berth perf` with verify over a controller's socket, every kind of bdev
in every mode, several queues, sizes and clients at once."""
import json
import os
import time

import harness
from harness import check, equal, until

MIB = 1 << 20
KINDS = ["malloc", "aio", "uring"]
MODES = ["poll", "interrupt", "adaptive"]
# A sanitizer sees each kind, each mode and each operation once; that all of them work together is seen without.
PAIRS = list(zip(KINDS, MODES)) if harness.SANITIZED else [(kind, mode) for kind in KINDS for mode in MODES]
WORKLOADS = ["randrw", "flush", "unmap", "write_zeroes"] + ([] if harness.SANITIZED else ["randread", "randwrite", "read", "write"])


def perf(t, *args, code=0):
    out = t.run([os.path.join(harness.BUILD, "berth"), "perf", *args, "--json", "--quiet"], code=code)
    return json.loads(out) if code == 0 else out


def make(t, d, kind, name="b", size=32 * MIB, block_size=512):
    if kind == "uring" and not harness.has_uring():
        raise harness.Skip("no io_uring here")
    if kind in ("malloc", "null"):
        d.call(f"bdev_{kind}_create", name=name, num_blocks=size // block_size, block_size=block_size)
    else:
        d.call(f"bdev_{kind}_create", name=name, filename=t.file(f"{name}.img", size), block_size=block_size)
    return d.controller(f"vm-{name}", name)


@harness.each(how=[f"{kind}-{mode}" for kind, mode in PAIRS])
def test_verify(t, how):
    kind, mode = how.split("-")
    d = t.daemon("--mode", mode)
    socket = make(t, d, kind)
    base = d.fd_count()
    # Neither side may lean on the other one polling.
    perf(t, "-s", socket, "-w", "verify", "-q", "32", "-o", "4k", "-t", "0.5", "--mode", "interrupt")
    perf(t, "-s", socket, "-w", "verify", "-q", "16", "-o", "64k", "-t", "0.5", "--queues", "4", "--indirect")
    perf(t, "-s", socket, "-w", "verify", "-q", "1", "-o", "512", "-t", "0.3", "--mode", "adaptive")
    until(lambda: d.fd_count() <= base, "descriptors are given back")
    stats = d.call("bdev_get_iostat", names=["b"])["bdevs"][0]
    check(stats["num_read_ops"] > 0 and stats["num_write_ops"] > 0, f"statistics: {stats}")
    equal(stats["io_error"], {})


@harness.each(workload=WORKLOADS)
def test_workload(t, workload):
    d = t.daemon()
    for kind in ["null"] + KINDS:
        if kind == "uring" and not harness.has_uring() or kind == "null" and workload in ("flush", "unmap"):
            continue
        socket = make(t, d, kind, name=kind)
        result = json.dumps(perf(t, "-s", socket, "-w", workload, "-q", "32", "-o", "4k", "-t", "0.4"))
        check(len(result) > 20, f"{kind}: {result}")


def test_counters(t):
    """vhost_get_stats agrees with the bdev beneath, outlives the client, and names what is active."""
    d = t.daemon()
    socket = make(t, d, "malloc", "busy")
    make(t, d, "null", "idle")
    d.call("bdev_wait_for_examine")
    d.call("bdev_reset_iostat", name="busy", mode="all")  # who examined it has read, too
    # A client that waits for calls: one that polls may never ask for any.
    perf(t, "-s", socket, "-w", "randrw", "-q", "16", "-o", "4k", "-t", "0.5", "--queues", "2", "--mode", "interrupt")
    until(lambda: not d.call("vhost_get_stats", ctrlr="vm-busy")[0]["session"], "the client is gone")
    stats = d.call("vhost_get_stats", ctrlr="vm-busy")[0]
    bdev = d.call("bdev_get_iostat", names=["busy"])["bdevs"][0]
    equal((stats["read_ops"], stats["write_ops"]), (bdev["num_read_ops"], bdev["num_write_ops"]))
    equal((stats["bytes_read"], stats["bytes_written"]), (bdev["bytes_read"], bdev["bytes_written"]))
    equal((stats["bdev"], stats["queues"], stats["inflight"], stats["errors"], stats["malformed"]), ("busy", [], 0, 0, 0))
    check(stats["latency_ns_total"] > 0 and stats["calls"] > 0 and stats["kicks"] > 0, f"{stats}")
    equal([c["ctrlr"] for c in d.call("vhost_get_stats")], ["vm-busy", "vm-idle"])
    equal([c["ctrlr"] for c in d.call("vhost_get_stats", active_ms=60000)], ["vm-busy"])
    time.sleep(0.3)
    equal(d.call("vhost_get_stats", active_ms=100), [])


def test_blocks_of_4096(t):
    d = t.daemon()
    socket = make(t, d, "aio", block_size=4096)
    perf(t, "-s", socket, "-w", "verify", "-q", "8", "-o", "4k", "-t", "0.5")
    perf(t, "-s", socket, "-w", "verify", "-q", "8", "-o", "12k", "-t", "0.5")


def test_two_clients_two_disks(t):
    d = t.daemon()
    sockets = [make(t, d, "malloc", "m"), make(t, d, "aio", "a")]
    argv = [os.path.join(harness.BUILD, "berth"), "perf", "-w", "verify", "-q", "16", "-t", "2", "--quiet", "--mode", "interrupt", "-s"]
    clients = [t.spawn(argv + [s], stdout=open(t.path(f"out{i}"), "wb")) for i, s in enumerate(sockets)]
    for client in clients:
        equal(client.wait(60 * harness.PATIENCE), 0)


def test_client_killed_under_load(t):
    """kill -9 of the driver side at any moment; descriptors and memory come back, the disk serves the next one."""
    d = t.daemon()
    sockets = {kind: make(t, d, kind, kind) for kind in KINDS if kind != "uring" or harness.has_uring()}
    base = d.fd_count()
    argv = [os.path.join(harness.BUILD, "berth"), "perf", "-w", "randrw", "-q", "64", "-t", "60", "--queues", "2", "--quiet", "--mode",
            "interrupt", "-s"]
    for i in range(3 if harness.SANITIZED else 10):
        for kind, socket in sockets.items():
            client = t.spawn(argv + [socket], stdout=open(os.devnull, "wb"))
            until(lambda: any(c["sessions"] for c in d.call("vhost_get_controllers")), "it connects")
            time.sleep(0.02 * (i % 5))
            client.kill()
            client.wait()
            until(lambda: not any(c["sessions"] for c in d.call("vhost_get_controllers")), "its session ends")
    until(lambda: d.fd_count() <= base, "descriptors are given back")
    for socket in sockets.values():
        perf(t, "-s", socket, "-w", "verify", "-q", "8", "-t", "0.3")


def test_disk_survives_the_process(t):
    """What was acknowledged is in the file after kill -9, for another process to read."""
    d = t.daemon("--state-dir", t.path("state"))
    disk = d.call("berth_disk_create", name="disk0", size=16 * MIB, backend="file")
    perf(t, "-s", disk["socket"], "-w", "write", "-q", "8", "-o", "64k", "-t", "0.5")
    with open(disk["file"], "rb") as f:
        before = f.read()
    check(any(before), "something was written")
    d.kill()
    d = t.daemon("--state-dir", t.path("state"))
    disk = d.call("berth_disk_list")[0]
    perf(t, "-s", disk["socket"], "-w", "randread", "-q", "8", "-t", "0.2")
    with open(disk["file"], "rb") as f:
        check(f.read() == before, "the file is as it was")


def test_perf_in_process(t):
    for bdev in ["null:64M", "malloc:16M", f"aio:{t.file('x.img', 16 * MIB)}"]:
        for workload in ("randread", "randwrite", "verify"):
            if not (bdev.startswith("null") and workload == "verify"):
                perf(t, "--bdev", bdev, "-w", workload, "-q", "16", "-t", "0.3")


def test_perf_refuses(t):
    for args, word in [(["-s", t.path("none"), "-w", "randread"], "none"), (["--bdev", "malloc:16M", "-w", "dance"], "dance"),
                       (["--bdev", f"aio:{t.path('missing')}"], "missing"), ([], "bdev")]:
        p = t.run([os.path.join(harness.BUILD, "berth"), "perf", *args], code=None)
        check(p.returncode > 0, f"{args}: exit code {p.returncode}")
        harness.contains(p.stderr, word)


harness.main(globals())
