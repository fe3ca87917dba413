#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Limits, shares, histograms and queue depths of bdevs, under load from vhost-user clients."""
import base64
import json
import os
import signal
import time

import harness
from harness import check, contains, equal, until

MIB = 1 << 20
LIMIT = 2000
SETTERS = ["bdev_set_qos_limit", "bdev_set_qos_weight", "bdev_set_qd_sampling_period", "bdev_enable_histogram"]


def client(t, d, name, depth=16, *args):
    return t.spawn([os.path.join(harness.BUILD, "berth"), "perf", "--socket", d.path(name), "--mode", "interrupt", "--quiet",
                    "--depth", str(depth), "--time", "60", *args], stdout=open(t.path("perf.log"), "ab"), stderr=2)


def end(*clients):
    for c in clients:
        c.send_signal(signal.SIGINT)
    for c in clients:
        c.wait()


def stats(d, **params):
    return d.call("bdev_get_iostat", names=["m"], **params)


def reads_of(answer):
    return answer["bdevs"][0]["num_read_ops"]


def start(t, controllers):
    d = t.daemon()
    d.call("bdev_malloc_create", name="m", num_blocks=64 * MIB // 512, block_size=512)
    for c in controllers:
        d.controller(c, "m")
    return d


def reads_by_user(d):
    users = {}
    for channel in stats(d, per_channel=True)["channels"]:
        users[channel["user"]] = users.get(channel["user"], 0) + channel["num_read_ops"]
    return users


def test_limits(t):
    d = start(t, ["a", "b"])
    d.call("bdev_set_qos_limit", name="m", rw_ios_per_sec=LIMIT)
    equal(d.call("bdev_get_bdevs", name="m")[0]["assigned_rate_limits"],
          {"rw_ios_per_sec": LIMIT, "rw_mbytes_per_sec": 0, "r_mbytes_per_sec": 0, "w_mbytes_per_sec": 0})
    d.call("bdev_set_qos_weight", name="m", user="b", weight=300)
    a, b = client(t, d, "a", 128), client(t, d, "b", 64)
    until(lambda: len([u for u, n in reads_by_user(d).items() if n > 0]) == 2, "both read")
    # How much it may be holds on the busiest host; how much it is, and that both want more than their share, does not.
    for _ in range(6):
        before, users = stats(d), reads_by_user(d)
        time.sleep(1.5)
        after, users_after = stats(d), reads_by_user(d)
        seconds = (after["ticks"] - before["ticks"]) / after["tick_rate"]
        done = reads_of(after) - reads_of(before)
        check(0 < done <= LIMIT * (seconds + 0.2) * 1.02, f"{done} in {seconds} s")
        shares = {u: users_after[u] - users[u] for u in users}
        if shares["b"] > 1.5 * shares["a"] > 0:
            break
    else:
        check(False, f"{shares}")
    # Off under load: the others go on.
    d.call("bdev_set_qos_limit", name="m", rw_ios_per_sec=0)
    now = reads_of(stats(d))
    until(lambda: reads_of(stats(d)) > now + 3 * LIMIT, "it is fast again")
    # Next to nothing, and gone with requests waiting.
    d.call("bdev_set_qos_limit", name="m", r_mbytes_per_sec=1)
    end(a, b)
    d.call("vhost_delete_controller", ctrlr="a")
    d.call("bdev_malloc_delete", name="m")


def test_errors(t):
    d = start(t, [])
    contains(str(d.error("bdev_set_qos_limit", -22, {"name": "m"})), "m")
    d.error("bdev_set_qos_limit", -19, {"name": "none", "rw_ios_per_sec": 1000})
    d.error("bdev_set_qos_limit", -22, {"name": "m", "rw_ios_per_sec": 10**15})
    d.error("bdev_set_qos_weight", -22, {"name": "m", "user": "", "weight": 5})
    d.error("bdev_set_qos_weight", -22, {"name": "m", "user": "a", "weight": 10001})
    d.error("bdev_get_histogram", -32603, {"name": "m"})
    d.error("bdev_get_histogram", -19, {"name": "none"})
    d.error("bdev_enable_histogram", -32603, {"name": "m", "enable": True, "opc": "none"})
    d.error("bdev_enable_histogram", -22, {"name": "m", "enable": True, "min_nsec": 10, "max_nsec": 10})
    d.error("bdev_enable_histogram", -22, {"name": "m", "enable": True, "granularity": 11})
    d.call("bdev_enable_histogram", name="m", enable=True)
    for borders in ([], [5, 5], [-1], ["x"], {}, [0]):
        d.error("bdev_get_histogram_borders", -22, {"name": "m", "borders": borders})
    d.error("bdev_set_qd_sampling_period", -19, {"name": "none", "period": 5})


def decode(h):
    """As SPDK's scripts/histogram.py does: (end in ticks, count) of each bucket."""
    raw = base64.b64decode(h["histogram"])
    g, low = h["granularity"], h["min_range"]
    out = []
    for i in range(h["max_range"] - low + 1):
        for j in range(1 << g):
            at = ((i << g) + j) * 8
            r = low + i
            top = (1 << (r + g - 1)) + ((j + 1) << (r - 1)) if r > 0 else j + 1
            out.append((top, int.from_bytes(raw[at:at + 8], "little")))
    equal(len(raw), len(out) * 8)
    return out


def test_histogram(t):
    d = start(t, ["a"])
    d.call("bdev_enable_histogram", name="m", enable=True)
    d.call("bdev_set_qd_sampling_period", name="m", period=1000)
    # Memory answers at once; what waits is under way for longer.
    d.call("bdev_set_qos_limit", name="m", rw_ios_per_sec=LIMIT)
    before = reads_of(stats(d))
    c = client(t, d, "a", 32, "--workload", "randrw")
    until(lambda: stats(d)["bdevs"][0].get("io_time", 0) > 20000, "requests under way are seen")
    end(c)
    bdev = stats(d)["bdevs"][0]
    check(bdev["weighted_io_time"] >= bdev["io_time"], f"{bdev}")
    until(lambda: stats(d)["bdevs"][0]["queue_depth"] == 0, "the queue is empty")
    reads, writes = bdev["num_read_ops"] - before, bdev["num_write_ops"]
    h = d.call("bdev_get_histogram", name="m")
    equal(sum(n for _, n in decode(h)), reads + writes)
    equal(sum(n for _, n in decode(d.call("bdev_get_histogram", name="m", opc="write"))), writes)
    counts = d.call("bdev_get_histogram_borders", name="m", borders=[10, 1000, 10000000])["borders_count"]
    check(counts == sorted(counts) and len(counts) == 4, f"{counts}")
    equal(counts[3], reads + writes)
    equal(counts[1], sum(n for (_, n), (begin, _) in zip(decode(h), [(0, 0)] + decode(h)) if begin <= 1000 * 1000))
    # The commands.
    out = t.berth("histogram", "m", daemon=d)
    contains(out, f"m: {reads + writes} requests")
    contains(out, "p99.9")
    shown = json.loads(t.berth("histogram", "m", "--op", "read", "--json", daemon=d))
    equal((shown["count"], sum(b["count"] for b in shown["buckets"])), (reads, reads))
    d.call("bdev_enable_histogram", name="m", enable=False)
    contains(t.berth("histogram", "m", daemon=d, code=None).stderr, "bdev_enable_histogram")
    c = client(t, d, "a", 32)
    check(json.loads(t.berth("histogram", "m", "--time", "0.5", "--json", daemon=d))["count"] > 0)
    d.error("bdev_get_histogram", -32603, {"name": "m"})
    row = json.loads(t.berth("iostat", "m", "--interval", "0.5", "--count", "1", "--json", daemon=d))[0]
    check(row["name"] == "m" and row["read_ops_per_sec"] > 0 and row["write_latency_us"] is None and
          row["read_latency_us"] > 0 and row["queue_depth"] > 0 and row["utilisation_percent"] > 0, f"{row}")
    lines = t.berth("iostat", "--interval", "0.2", "--count", "2", daemon=d).splitlines()
    equal([line.split()[0] for line in lines if line], ["BDEV", "m"] * 2)
    end(c)
    t.berth("iostat", "none", daemon=d, code=1)
    t.berth("iostat", "--interval", "x", daemon=d, code=2)
    for command in ("iostat", "histogram"):
        contains(t.berth("completion", "words", command, daemon=d), "m\n")


def test_ends_while_it_is_sampled(t):
    d = t.daemon()
    with d.rpc() as rpc:
        for _ in range(300):
            rpc.call("bdev_null_create", name="n", num_blocks=8, block_size=512)
            rpc.call("bdev_set_qd_sampling_period", name="n", period=100)
            rpc.call("bdev_get_bdevs")
            rpc.call("bdev_null_delete", name="n")


def test_no_such_bdev(t):
    d = t.daemon()
    for method, params in [("bdev_enable_histogram", {"enable": True}), ("bdev_get_histogram", {}), ("bdev_get_histogram_borders",
                           {"borders": [1, 2]}), ("bdev_set_qd_sampling_period", {"period": 10}),
                           ("bdev_set_qos_limit", {"rw_ios_per_sec": 1000})]:
        contains(str(d.error(method, -19, {"name": "nobody", **params})), "nobody")


def settings(d):
    return [c for c in d.call("framework_get_config", name="bdev") if c["method"] in SETTERS]


def stacked(t):
    """p on b, with all that can be set by its name."""
    d = t.daemon("--state-dir", t.path("state"))
    d.call("bdev_aio_create", name="b", filename=t.file("b.img", 8 * MIB), block_size=512)
    d.call("bdev_passthru_create", name="p", base_bdev_name="b")
    d.call("bdev_set_qos_limit", name="p", rw_ios_per_sec=1000)
    d.call("bdev_set_qos_weight", name="p", user="a", weight=300)
    d.call("bdev_set_qd_sampling_period", name="p", period=5000)
    d.call("bdev_enable_histogram", name="p", enable=True, opc="read")
    before = settings(d)
    equal([c["method"] for c in before], SETTERS)
    return d, before


def limit(d, name="p"):
    return d.call("bdev_get_bdevs", name=name)[0]["assigned_rate_limits"]["rw_ios_per_sec"]


def test_the_base_goes_and_comes(t):
    d, before = stacked(t)
    for _ in range(2):
        d.call("bdev_aio_delete", name="b")
        equal(settings(d), before, "while it waits")
        d.call("bdev_null_create", name="n", num_blocks=8, block_size=512)
        d.call("bdev_null_delete", name="n")
        d.call("bdev_aio_create", name="b", filename=t.path("b.img"), block_size=512)
        equal(settings(d), before, "when it is back")
        equal(limit(d), 1000)
    # Changed while it is away: what is not named stays.
    d.call("bdev_aio_delete", name="b")
    d.call("bdev_set_qos_limit", name="p", w_mbytes_per_sec=7)
    d.call("bdev_set_qos_weight", name="p", user="c", weight=5)
    d.error("bdev_set_qos_limit", -22, {"name": "p", "rw_ios_per_sec": 10**15})
    d.error("bdev_set_qos_limit", -19, {"name": "q", "rw_ios_per_sec": 1000})
    away = settings(d)
    # At the next start the base is not there at all.
    d.stop()
    d = t.daemon("--state-dir", t.path("state"))
    key = lambda c: json.dumps(c, sort_keys=True)  # noqa: E731
    equal(sorted(settings(d), key=key), sorted(away, key=key), "after a restart without the base")
    d.call("bdev_aio_create", name="b", filename=t.path("b.img"), block_size=512)
    limits = d.call("bdev_get_bdevs", name="p")[0]["assigned_rate_limits"]
    equal((limits["rw_ios_per_sec"], limits["w_mbytes_per_sec"]), (1000, 7))
    equal({w["user"]: w["weight"] for w in d.call("bdev_get_qos", name="p")[0]["weights"]}, {"a": 300, "c": 5})
    check(d.call("bdev_get_histogram", name="p", opc="read"))


def test_forgotten_with_the_bdev(t):
    d, _ = stacked(t)
    d.call("bdev_passthru_delete", name="p")
    equal(settings(d), [], "deleted while it ran")
    d.call("bdev_passthru_create", name="p", base_bdev_name="b")
    equal((settings(d), limit(d)), ([], 0), "made anew")
    d.call("bdev_set_qos_limit", name="p", rw_ios_per_sec=2000)
    d.call("bdev_aio_delete", name="b")
    check(settings(d), "kept while it waits")
    d.call("bdev_passthru_delete", name="p")
    equal(settings(d), [], "deleted while it waited")
    d.call("bdev_aio_create", name="b", filename=t.path("b.img"), block_size=512)
    d.call("bdev_passthru_create", name="p", base_bdev_name="b")
    equal((settings(d), limit(d)), ([], 0), "made anew")
    # A bdev that stands on nothing waits for nothing.
    d.call("bdev_set_qos_limit", name="b", rw_ios_per_sec=3000)
    d.call("bdev_aio_delete", name="b")
    d.call("bdev_aio_create", name="b", filename=t.path("b.img"), block_size=512)
    equal(limit(d, "b"), 0)


def test_a_limit_from_the_first_request(t):
    """Nobody gets at the bdev between its coming and its limits."""
    d = t.daemon()
    d.call("bdev_malloc_create", name="m", num_blocks=64 * MIB // 512, block_size=512)
    d.call("bdev_passthru_create", name="p", base_bdev_name="m")
    d.call("bdev_passthru_create", name="top", base_bdev_name="p")
    d.call("bdev_set_qos_limit", name="p", rw_ios_per_sec=LIMIT)
    d.call("bdev_malloc_delete", name="m")
    d.call("bdev_malloc_create", name="m", num_blocks=64 * MIB // 512, block_size=512)
    until(lambda: d.call("bdev_get_bdevs", name="top", timeout=5000), "what stands on p")
    d.controller("a", "top")
    begin = time.monotonic()
    c = client(t, d, "a", 32)
    until(lambda: d.call("bdev_get_iostat", names=["p"])["bdevs"][0]["num_read_ops"] > 1000, "it reads")
    time.sleep(0.5)
    done = d.call("bdev_get_iostat", names=["p"])["bdevs"][0]["num_read_ops"]
    check(done <= LIMIT * (time.monotonic() - begin + 0.2), f"{done} reads")
    end(c)


if __name__ == "__main__":
    harness.main(globals())
