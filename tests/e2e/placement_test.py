#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Where work runs and how reactors wait, changed while there is load: every request answered, all data right, indexes in order
(`berth perf` with verify ends with an error otherwise: a completion too many, too few, or with other data)."""
import json
import os
import random
import signal
import subprocess
import time

import harness
from harness import check, contains, equal, stays_asleep, until

MIB = 1 << 20
KINDS = ["null", "malloc", "aio", "uring"]
MODES = ["poll", "interrupt", "adaptive"]


def make(t, d, kind, name="b", size=32 * MIB, **params):
    if kind == "uring" and not harness.has_uring():
        raise harness.Skip("no io_uring here")
    if kind in ("malloc", "null"):
        d.call(f"bdev_{kind}_create", name=name, num_blocks=size // 512, block_size=512)
    else:
        d.call(f"bdev_{kind}_create", name=name, filename=t.file(f"{name}.img", size), block_size=512)
    return d.controller(f"vm-{name}", name, **params)


def load(t, socket, kind, *args, seconds=1.5):
    """A client under way."""
    workload = "randrw" if kind == "null" else "verify"
    return t.spawn([os.path.join(harness.BUILD, "berth"), "perf", "-s", socket, "-w", workload, "-o", "4k", "-t", str(seconds),
                    "--json", "--quiet", *args], stdout=open(t.path("perf.out"), "wb"), stderr=open(t.path("perf.err"), "wb"))


def finish(t, client):
    code = client.wait(120 * harness.PATIENCE)
    with open(t.path("perf.err")) as f:
        errors = f.read()
    check(code == 0, f"the client ended with {code}: {errors}")
    with open(t.path("perf.out")) as f:
        result = json.load(f)
    check("Sanitizer" not in errors, errors)
    return result


def threads(rpc):
    return {x["name"]: x for x in rpc.call("thread_get_stats")["threads"]}


def reactors(rpc):
    """Which reactor runs a thread, by name."""
    return {x["name"]: r["lcore"] for r in rpc.call("framework_get_reactors")["reactors"] for x in r["lw_threads"]}


def two_reactors():
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise harness.Skip("one CPU only")
    return cpus[:2]


@harness.each(kind=KINDS)
def test_mode_changes_under_load(t, kind):
    d = t.daemon()
    socket = make(t, d, kind)
    rng = random.Random(7)
    for depth, mode in ((2, "interrupt"), (32, "adaptive")):
        client = load(t, socket, kind, "-q", str(depth), "--mode", mode, "--queues", "2")
        changes = 0
        with d.rpc() as rpc:
            while client.poll() is None:
                rpc.call("berth_set_mode", mode=rng.choice(MODES))
                changes += 1
                time.sleep(rng.random() * 0.01)
        check(changes > 20, f"{changes} changes")
        finish(t, client)
    with d.rpc() as rpc:
        rpc.call("berth_set_mode", mode="interrupt")
        equal({x["mode"] for x in rpc.call("framework_get_reactors")["details"]}, {"interrupt"})


@harness.each(kind=KINDS)
def test_threads_move_under_load(t, kind):
    cpus = two_reactors()
    d = t.daemon()
    socket = make(t, d, kind)
    rng = random.Random(3)
    for depth, mode in ((2, "interrupt"), (64, "adaptive")):
        client = load(t, socket, kind, "-q", str(depth), "--mode", mode, "--queues", "2")
        moves = 0
        with d.rpc() as rpc:
            io = {name: x["id"] for name, x in threads(rpc).items() if name.startswith("io_")}
            while client.poll() is None:
                name, cpu = rng.choice(list(io)), rng.choice(cpus)
                rpc.call("thread_set_cpumask", id=io[name], cpumask=f"[{cpu}]")
                equal(reactors(rpc)[name], cpu)
                moves += 1
                time.sleep(rng.random() * 0.005)
        check(moves > 20, f"{moves} moves")
        finish(t, client)


def test_modes_and_threads_together_with_several_bdevs(t):
    cpus = two_reactors()
    d = t.daemon()
    kinds = [k for k in KINDS if k != "uring" or harness.has_uring()]
    sockets = [make(t, d, kind, name=kind) for kind in kinds]
    rng = random.Random(5)
    clients = []
    for kind, socket in zip(kinds, sockets):
        out = t.path(f"{kind}.err")
        clients.append((t.spawn([os.path.join(harness.BUILD, "berth"), "perf", "-s", socket, "-w",
                                 "randrw" if kind == "null" else "verify", "-o", "4k", "-q", "8", "-t", "3", "--json", "--quiet",
                                 "--mode", "interrupt"],
                                stdout=open(t.path(f"{kind}.out"), "wb"), stderr=open(out, "wb")), out))
    with d.rpc() as rpc:
        io = [x["id"] for name, x in threads(rpc).items() if name.startswith("io_")]
        while any(c.poll() is None for c, _ in clients):
            rpc.call("thread_set_cpumask", id=rng.choice(io), cpumask=f"[{rng.choice(cpus)}]")
            rpc.call("berth_set_mode", mode=rng.choice(MODES), lcore=rng.choice(cpus))
            time.sleep(rng.random() * 0.005)
    for client, err in clients:
        with open(err) as f:
            equal((client.returncode, f.read()), (0, ""))


def test_scheduler_by_rpc(t):
    cpus = two_reactors()
    d = t.daemon("--state-dir", t.path("state"))
    with d.rpc() as rpc:
        got = rpc.call("framework_get_scheduler")
        equal((got["scheduler_name"], got["scheduler_period"], got["scheduling_core"]), ("dynamic", 1000000, cpus[0]))
        equal((got["load_limit"], got["core_limit"], got["core_busy"]), (20, 80, 95))
        rpc.call("framework_set_scheduler", name="dynamic", period=200000, core_limit=70)
        got = rpc.call("framework_get_scheduler")
        equal((got["scheduler_period"], got["core_limit"], got["core_busy"]), (200000, 70, 95))
        ids = {name: x["id"] for name, x in threads(rpc).items()}
        names = [f"io_{c}" for c in cpus]
        rpc.call("framework_set_scheduler", name="static", mappings=f"{ids[names[0]]}:{cpus[1]},{ids[names[1]]}:{cpus[0]}")
        where = reactors(rpc)
        equal((where[names[0]], where[names[1]]), (cpus[1], cpus[0]))
        kept = f"{ids[names[0]]}:{cpus[1]},{ids[names[1]]}:{cpus[0]}"
        equal(rpc.call("framework_get_config", name="scheduler"),
              [{"method": "framework_set_scheduler", "params": {"name": "static", "period": 200000, "mappings": kept}}])
        # All or none: the second cannot be.
        contains(d.error("framework_set_scheduler", -32602, {"name": "static", "mappings": f"{ids[names[0]]}:{cpus[0]},1:{cpus[1]}"})
                 ["message"], "app_thread stays")
        equal(reactors(rpc)[names[0]], cpus[1])
        rpc.call("scheduler_set_options", isolated_core_mask=f"[{cpus[1]}]")
        equal(rpc.call("framework_get_scheduler")["isolated_core_mask"], f"{1 << cpus[1]:x}")
        for none in ("0", "[]", "", "0x0"):
            rpc.call("scheduler_set_options", isolated_core_mask=none)
        equal(rpc.call("framework_get_scheduler")["isolated_core_mask"], "0")
    for params, words in (({"name": "best"}, "there is no scheduler 'best'"), ({"name": "dynamic", "period": 1}, "period"),
                          ({"name": "static", "core_busy": 5}, "dynamic"), ({"name": "dynamic", "mappings": "1:0"}, "static"),
                          ({"name": "static", "mappings": "1"}, "no thread:core"), ({"name": "static", "mappings": "99:0"}, "thread 99"),
                          ({"name": "static", "mappings": "1:0,"}, "no list"), ({"name": "static", "mappings": "2:900"}, "no reactor"),
                          ({"name": "static", "mappings": ""}, "no thread:core"), ({"name": "dynamic", "core_busy": 101}, "core_busy"),
                          ({"name": "dynamic", "core_limit": 96}, "core_limit 96 is above core_busy 95"),
                          ({"name": "dynamic", "core_busy": 10}, "core_limit 70 is above core_busy 10")):
        contains(d.error("framework_set_scheduler", -32602, params)["message"], words)
    contains(d.error("thread_set_cpumask", -32602, {"id": 77, "cpumask": "1"})["message"], "no thread 77")
    contains(d.error("thread_set_cpumask", -32602, {"id": 1, "cpumask": f"[{cpus[1]}]"})["message"], "app_thread stays")
    contains(d.error("thread_set_cpumask", -32602, {"id": 2, "cpumask": "[900]"})["message"], "no reactor runs")
    contains(d.error("thread_set_cpumask", -32602, {"id": 2, "cpumask": "x"})["message"], "cpumask x")
    contains(d.error("berth_set_mode", -32602, {"mode": "poll", "lcore": 900})["message"], "900")
    contains(d.error("berth_set_mode", -32602, {"mode": "best"})["message"], "mode")
    contains(d.error("scheduler_set_options", -32602, {"scheduling_core": 900})["message"], "900")
    contains(d.error("scheduler_set_options", -32602, {"isolated_core_mask": "[900]"})["message"], "900")
    # Kept; masks are not.
    d.kill()
    d = t.daemon("--state-dir", t.path("state"))
    with d.rpc() as rpc:
        equal(rpc.call("framework_get_scheduler")["scheduler_name"], "static")
        equal(reactors(rpc)[names[0]], cpus[1], "mappings are kept")
        # Dynamic takes them back.
        rpc.call("framework_set_scheduler", name="dynamic")
        where = reactors(rpc)
        equal((where[names[0]], where[names[1]]), (cpus[0], cpus[1]))


def test_threads_spread_over_cores(t):
    """Both I/O threads on one reactor, and both busy: the dynamic scheduler gives one back to the other."""
    cpus = two_reactors()
    d = t.daemon()
    socket = make(t, d, "null")
    name = f"io_{cpus[1]}"
    client = load(t, socket, "null", "-q", "32", "--queues", "2", seconds=300)
    until(lambda: len(queues(d, "vm-b")) == 2, "both queues run")
    with d.rpc() as rpc:
        io = threads(rpc)[name]["id"]
        rpc.call("framework_set_scheduler", name="static")
        rpc.call("thread_set_cpumask", id=io, cpumask=f"[{cpus[0]}]")
        rpc.call("thread_set_cpumask", id=io, cpumask=f"[{cpus[0]},{cpus[1]}]")
        equal(reactors(rpc)[name], cpus[0])
        time.sleep(0.5)
        equal(reactors(rpc)[name], cpus[0], "static")
        rpc.call("scheduler_set_options", scheduling_core=cpus[1])
        rpc.call("framework_set_scheduler", name="dynamic", period=100000, load_limit=100, core_limit=100, core_busy=100)
        until(lambda: reactors(rpc)[name] == cpus[1], "the thread moves to the scheduling core")
    time.sleep(1)
    client.send_signal(signal.SIGINT)
    finish(t, client)


def test_queues_spread_over_threads(t):
    """Two busy disks on one I/O thread, two idle ones on the other: a queue moves, and no request is lost."""
    cpus = two_reactors()
    d = t.daemon()
    with d.rpc() as rpc:
        rpc.call("framework_set_scheduler", name="static")
    clients = {}

    def start(name, seconds, cpus):
        socket = make(t, d, "malloc", name=name, size=MIB, cpumask=f"{cpus}".replace(" ", ""))
        argv = [os.path.join(harness.BUILD, "berth"), "perf", "-s", socket, "-w", "verify", "-o", "4k", "-q", "32",
                "-t", str(seconds), "--mode", "interrupt", "--json", "--quiet"]
        with open(t.path(f"{name}.err"), "wb") as err:
            clients[name] = t.spawn(argv, stdout=subprocess.DEVNULL, stderr=err)
        until(lambda: queues(d, f"vm-{name}"), f"{name} runs")
        return lcore(name)

    def lcore(name):
        return queues(d, f"vm-{name}")[0]["lcore"]

    first = start("a", 300, cpus)
    other = [c for c in cpus if c != first]
    for name in ("i", "k"):
        # Connected, and its ring runs; it says nothing any more.
        equal([start(name, 300, other)], other)
        os.kill(clients[name].pid, signal.SIGSTOP)
    equal(start("b", 300, cpus), first)
    with d.rpc() as rpc:
        rpc.call("framework_set_scheduler", name="dynamic", period=100000)
    until(lambda: lcore("a") != lcore("b"), "a queue moves to the other thread")
    time.sleep(1)
    for name in ("a", "b"):
        clients[name].send_signal(signal.SIGINT)
        code = clients[name].wait(60 * harness.PATIENCE)
        with open(t.path(f"{name}.err")) as f:
            equal((code, f.read()), (0, ""), name)


def queues(d, ctrlr):
    return [q for c in d.call("vhost_get_stats") if c["ctrlr"] == ctrlr for q in c["queues"]]


def test_rests_after_load(t):
    """The scheduler has no period when there is no load: after some time nothing wakes."""
    if harness.SANITIZED:
        raise harness.Skip("a sanitizer's own thread wakes now and then")
    d = t.daemon()
    socket = make(t, d, "null")
    finish(t, load(t, socket, "null", "-q", "4", seconds=1))
    stays_asleep(d, "after load", 1.5)


if __name__ == "__main__":
    harness.main(globals())
