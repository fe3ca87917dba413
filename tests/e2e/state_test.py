#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""State that survives: what is configured is there again after a restart, a kill, a saved and loaded file."""
import glob
import json
import os

import harness
from harness import Failure, check, contains, equal, until
from state_examples import END, FILES, MAKE, NEEDS

SCHEMA = os.path.join(harness.ROOT, "src", "rpc", "schema", "*.json")
# Set for the life of a process, by what starts it.
NOT_KEPT = set()


def mutating():
    methods = set()
    for path in glob.glob(SCHEMA):
        with open(path) as f:
            methods |= {m["name"] for m in json.load(f)["methods"] if m.get("mutates")}
    return methods - NOT_KEPT


def snapshot(d, disks=True):
    """All that can be asked about what there is."""
    with d.rpc() as rpc:
        state = {s["subsystem"]: rpc.call("framework_get_config", name=s["subsystem"])
                 for s in rpc.call("framework_get_subsystems")}
        state["bdevs"] = sorted(rpc.call("bdev_get_bdevs"), key=lambda b: b["name"])
        state["controllers"] = sorted(rpc.call("vhost_get_controllers"), key=lambda c: c["ctrlr"])
        if disks:
            state["disks"] = rpc.call("berth_disk_list")
        have = set(rpc.call("rpc_get_methods"))
        for method in ("nbd_get_disks", "berth_nbd_get_servers", "berth_nbd_get_exports", "bdev_lvol_get_lvstores", "bdev_lvol_get_lvols"):
            if method in have:
                state[method] = sorted(rpc.call(method), key=lambda e: json.dumps(e, sort_keys=True))
    # What is in the order in which it came may come in another: stores are found on several disks at once.
    for name, calls in state.items():
        if calls and isinstance(calls[0], dict) and "method" in calls[0]:
            state[name] = sorted(calls, key=lambda c: json.dumps(c, sort_keys=True))
    return state


def same(got, expected, what):
    for part in expected:
        if got[part] == expected[part]:
            continue
        if isinstance(got[part], list):
            missing = [e for e in expected[part] if e not in got[part]]
            added = [e for e in got[part] if e not in expected[part]]
            raise Failure(f"{what}: {part}: missing\n{json.dumps(missing, indent=1)}\nadded\n{json.dumps(added, indent=1)}")
        equal(got[part], expected[part], f"{what}: {part}")


def possible(rpc, calls):
    have = set(rpc.call("rpc_get_methods"))
    return [c for c in calls if c[0] in have and NEEDS.get(c[0], lambda: True)()]


def call_all(d, rpc, calls):
    for method, params in calls:
        if callable(params):
            params = params(d)
        text = json.dumps(params).replace("$DIR", d.folder)
        answer = rpc.answer(method, json.loads(text))
        check("error" not in answer, f"{method} {text}: {answer.get('error')}")


def make(d, calls):
    """A daemon that waits for framework_start_init gets first what it may be told before."""
    with d.rpc() as rpc:
        calls = possible(rpc, calls)
        now = set(rpc.call("rpc_get_methods", current=True))
        if "framework_start_init" in now:
            call_all(d, rpc, [c for c in calls if c[0] in now])
            rpc.call("framework_start_init")
            calls = [c for c in calls if c[0] not in now]
        call_all(d, rpc, calls)


def start(t, *args):
    """All daemons of a test have one folder: the files and the sockets are the same."""
    return t.daemon("--state-dir", t.path("state"), *args)


def everything(t):
    os.makedirs(t.path("d"), exist_ok=True)
    for name, size in FILES.items():
        t.file(os.path.join("d", name), size)
    d = start(t, "--wait-for-rpc")
    make(d, MAKE)
    return d


def test_every_method_is_exercised(t):
    known = {method for method, _ in MAKE + END}
    unknown = sorted(mutating() - known)
    check(not unknown, f"tests/e2e/state_examples.py has no example of: {', '.join(unknown)}")


def test_restart_and_kill(t):
    d = everything(t)
    before = snapshot(d)
    d.kill()
    d = start(t)
    same(snapshot(d), before, "after kill -9")
    check("lost" not in d.output() and "kept:" not in d.output(), d.tail())
    d.stop()
    d = start(t)
    same(snapshot(d), before, "after a restart")
    make(d, END)
    after = snapshot(d)
    equal(after["bdevs"], [], "bdevs when all is deleted")
    equal(after["controllers"], [], "controllers when all is deleted")
    equal(after["disks"], [], "disks when all is deleted")
    d.kill()
    d = start(t)
    same(snapshot(d), after, "after all was deleted and kill -9")
    check("left out" not in d.output() and "kept:" not in d.output(), d.tail())


def save(d, batches):
    """As SPDK's rpc.py save_config."""
    with d.rpc() as rpc:
        return {"subsystems": [{"subsystem": s["subsystem"],
                                "config": rpc.call("framework_get_config", name=s["subsystem"], with_batches=batches)}
                               for s in rpc.call("framework_get_subsystems")]}


def load(d, config):
    """As SPDK's rpc.py load_config: what may be called now, then the start, then the rest; arrays as batches."""
    left = [e for s in config["subsystems"] for e in s["config"] or []]
    with d.rpc() as rpc:
        while left:
            now = set(rpc.call("rpc_get_methods", current=True))
            ready = [e for e in left if all(c["method"] in now for c in (e if isinstance(e, list) else [e]))]
            left = [e for e in left if e not in ready]
            for e in ready:
                if isinstance(e, list):
                    rpc.send(json.dumps([rpc.request(c["method"], c.get("params")) for c in e]))
                    answers = rpc.receive()
                    bad = [a["error"] for a in answers if "error" in a]
                    check(not bad and len(answers) == len(e), f"{e}: {bad}")
                else:
                    rpc.call(e["method"], **e.get("params", {}))
            if "framework_start_init" in now:
                rpc.call("framework_start_init")
            elif not ready:
                raise Failure(f"nobody can call {left}")


def without_disks(calls):
    return [c for c in calls if not c[0].startswith("berth_disk_")]


def test_save_and_load(t):
    for name, size in FILES.items():
        os.makedirs(t.path("d"), exist_ok=True)
        t.file(os.path.join("d", name), size)
    d = t.daemon("--wait-for-rpc")
    make(d, without_disks(MAKE))
    before = snapshot(d, disks=False)
    plain, batches = save(d, False), save(d, True)
    saved = t.path("saved.json")
    t.berth("config", "save", saved, daemon=d)
    with open(saved) as f:
        equal(json.load(f), plain, "berth config save")
    flat = [c for s in batches["subsystems"] for e in s["config"] for c in (e if isinstance(e, list) else [e])]
    equal(flat, [c for s in plain["subsystems"] for c in s["config"]], "what is in the batches")
    check(any(isinstance(e, list) for s in batches["subsystems"] for e in s["config"]), "there are no batches")
    d.stop()
    for config in (plain, batches):
        d = t.daemon("--wait-for-rpc")
        load(d, json.loads(json.dumps(config)))
        same(snapshot(d, disks=False), before, "loaded")
        d.stop()
    for args in (("load", saved), ("load", t.path("batches.json"))):
        with open(t.path("batches.json"), "w") as f:
            json.dump(batches, f)
        d = t.daemon("--wait-for-rpc")
        t.berth("config", *args, daemon=d)
        same(snapshot(d, disks=False), before, f"berth config {args}")
        d.stop()
    d = t.daemon("-c", saved)
    same(snapshot(d, disks=False), before, "berthd -c")
    d.stop()
    # A file in another order, as SPDK writes it: what stands on others before these.
    calls = [c for s in plain["subsystems"] for c in s["config"]]
    for s in plain["subsystems"]:
        if s["subsystem"] == "bdev":
            stacked = [c for c in s["config"] if "base_bdev" in json.dumps(c)]
            s["config"] = ([s["config"][0]] + stacked +
                           [c for c in s["config"][1:] if c not in stacked])
            check(stacked, f"nothing stands on anything in {calls}")
    d = t.daemon("--wait-for-rpc")
    load(d, plain)
    same(snapshot(d, disks=False), before, "bases last")


def test_order_in_the_log(t):
    """What was refused at first, for its base was not there yet, is made in the end."""
    state = t.path("state")
    os.makedirs(state)
    lines = [{"berth_state": 1},
             {"method": "vhost_create_blk_controller", "params": {"ctrlr": "vm0", "dev_name": "Null0"}},
             {"method": "vhost_create_blk_controller", "params": {"ctrlr": "vm1", "dev_name": "None"}},
             {"method": "vhost_controller_set_coalescing",
              "params": {"ctrlr": "vm0", "delay_base_us": 1, "iops_threshold": 1000}},
             {"method": "bdev_null_create", "params": {"name": "Null0", "num_blocks": 2048, "block_size": 512}}]
    with open(os.path.join(state, "state.log"), "w") as f:
        f.write("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    d = start(t)
    controllers = d.call("vhost_get_controllers")
    equal([c["ctrlr"] for c in controllers], ["vm0"], "controllers")
    equal(controllers[0]["delay_base_us"], 1, "delay")
    contains(d.output(), "vm1", "the log")


def lose_base(t):
    """p on b, a controller c and an export e on p; b's file is gone at the next start."""
    d = start(t)
    d.call("bdev_aio_create", name="b", filename=t.file("b.img", 1 << 20), block_size=512)
    d.call("bdev_passthru_create", name="p", base_bdev_name="b")
    d.call("vhost_create_blk_controller", ctrlr="c", dev_name="p")
    d.call("vhost_controller_set_coalescing", ctrlr="c", delay_base_us=7, iops_threshold=1000)
    d.call("berth_nbd_server_create", name="s", path=t.path("nbd"))
    d.call("berth_nbd_export_create", server="s", name="e", bdev_name="p")
    before = snapshot(d)
    d.stop()
    os.rename(t.path("b.img"), t.path("away.img"))
    d = start(t)
    equal([d.call("vhost_get_controllers"), d.call("berth_nbd_get_exports")], [[], []], "without the base")
    return d, before


def regained(d, before, what):
    until(lambda: d.call("vhost_get_controllers") and d.call("berth_nbd_get_exports"), "what stands on p is there again")
    until(lambda: d.call("vhost_get_controllers")[0]["delay_base_us"] == 7, "the setting")
    same(snapshot(d), before, what)


def test_lost_is_made_when_its_bdev_comes(t):
    d, before = lose_base(t)
    # Another bdev helps nothing, and is no reason to go on trying.
    d.call("bdev_null_create", name="n", num_blocks=8, block_size=512)
    d.call("bdev_null_delete", name="n")
    os.rename(t.path("away.img"), t.path("b.img"))
    d.call("bdev_aio_create", name="b", filename=t.path("b.img"), block_size=512,
           uuid=next(b["uuid"] for b in before["bdevs"] if b["name"] == "b"))
    regained(d, before, "the base is back")
    check(d.output().count("made after all") >= 3, d.tail())
    d.kill()
    complaints = d.output().count("kept:")
    d = start(t)
    same(snapshot(d), before, "after a restart")
    check(d.output().count("kept:") == complaints and "left out" not in d.output(), d.tail())


def test_lost_and_deleted_stays_away(t):
    d, before = lose_base(t)
    d.call("vhost_delete_controller", ctrlr="c")
    os.rename(t.path("away.img"), t.path("b.img"))
    d.call("bdev_aio_create", name="b", filename=t.path("b.img"), block_size=512)
    until(lambda: d.call("berth_nbd_get_exports"), "the export")
    equal(d.call("vhost_get_controllers"), [], "controllers")


harness.main(globals())
