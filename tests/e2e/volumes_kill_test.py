#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""
berthd killed with -9 under a verifying load, again and again on one store, with snapshots, groups of them, clones, inflations and
deletions going on. What must hold afterwards: every byte of a write that was acknowledged; of one that was under way, each 4 KiB are old
or new; a snapshot what its volume held at one moment between the request and the answer, a group's snapshots the same moment, whole or not
at all; what was answered is there, what was deleted is not; the store has nothing to mend.

    KILL_ROUNDS=N   how many rounds (3; 100 in the long tier)
    KILL_SEED=N     of the random choices (they do not fix when the process dies)
"""
import json
import os
import random
import struct
import threading
import time

import harness
from harness import check, equal
from nbd_client import Nbd

ROUNDS = int(os.environ.get("KILL_ROUNDS", "100" if harness.LONG else "3"))
SEED = int(os.environ.get("KILL_SEED", "1"))
MIB = 1 << 20
BLOCK = 4096
VOLUME_MIB = 6
BLOCKS = VOLUME_MIB * MIB // BLOCK
STORE_MIB = 160
VOLUMES = ["a", "b", "c"]
MOST = 14  # volumes of all kinds at a time
# What a store that was not unloaded may have; the next load settles it.
NOTES = {"not unloaded", "half-made or half-removed snapshot", "deleted snapshot that its clones need",
         "half-made group of snapshots"}


def block(mark):
    return struct.pack("<QQ", mark, ~mark & (1 << 64) - 1) * (BLOCK // 16) if mark else bytes(BLOCK)


def mark_of(data):
    """The mark of a block that is whole, or None."""
    mark = struct.unpack_from("<Q", data)[0]
    return mark if data == block(mark) else None


class Model:
    """What each volume may hold: for every block the marks that are allowed. All under one lock."""

    def __init__(self):
        self.lock = threading.Lock()
        self.blocks = {}   # volume: list of sets
        self.watches = []  # snapshots under way: (volume, list of sets)
        self.mark = 0
        self.before = {}   # of the marks of Pair: the one before, 0: not known

    def next_mark(self):
        self.mark += 1
        return self.mark

    def add(self, name, blocks=None):
        self.blocks[name] = blocks if blocks is not None else [{0}] * BLOCKS

    def begin(self, name, first, marks):
        with self.lock:
            for i, mark in enumerate(marks, first):
                self.blocks[name][i] = self.blocks[name][i] | {mark}
                for watched, blocks in self.watches:
                    if watched == name:
                        blocks[i] = blocks[i] | {mark}

    def end(self, name, first, marks):
        with self.lock:
            for i, mark in enumerate(marks, first):
                self.blocks[name][i] = {mark}

    def watch(self, names):
        """From now until watched(): what snapshots of these volumes may hold."""
        with self.lock:
            watches = [(name, list(self.blocks[name])) for name in names]
            self.watches += watches
            return watches

    def watched(self, watches):
        with self.lock:
            self.watches = [w for w in self.watches if not any(w is mine for mine in watches)]


class Writer(threading.Thread):
    """Writes to one volume until berthd is gone. The first block of the first two is left to Pair."""

    def __init__(self, model, path, name, seed):
        super().__init__(daemon=True)
        self.model, self.path, self.name_of, self.random = model, path, name, random.Random(seed)
        self.acknowledged = 0
        self.error = None

    def run(self):
        try:
            with Nbd(self.path, self.name_of) as nbd:
                while True:
                    self.one(nbd)
        except (EOFError, ConnectionError):
            pass
        except Exception as e:  # reported by the round
            self.error = e

    def one(self, nbd):
        r, what = self.random, self.random.random()
        count = r.choice([1, 1, 1, 2, 16, 40])
        first = r.randrange(1, BLOCKS - count)
        zeroes = what < 0.1
        marks = [0 if zeroes else self.model.next_mark() for _ in range(count)]
        self.model.begin(self.name_of, first, marks)
        if zeroes:
            nbd.write_zeroes(first * BLOCK, count * BLOCK)
        else:
            nbd.write(first * BLOCK, b"".join(map(block, marks)))
        self.model.end(self.name_of, first, marks)
        self.acknowledged += 1
        if what > 0.97:
            nbd.flush()


class Pair(Writer):
    """Counts in the first blocks of two volumes in turn: what a group of snapshots has of them shows whether it is one moment."""

    def __init__(self, model, path, names, seed):
        super().__init__(model, path, names[0], seed)
        self.names = names

    def run(self):
        try:
            with Nbd(self.path, self.names[0]) as one, Nbd(self.path, self.names[1]) as two:
                last = 0
                while True:
                    mark = self.model.next_mark()
                    self.model.before[mark], last = last, mark
                    for name, nbd in zip(self.names, (one, two)):
                        self.model.begin(name, 0, [mark])
                        nbd.write(0, block(mark))
                        self.model.end(name, 0, [mark])
                        self.acknowledged += 1
        except (EOFError, ConnectionError):
            pass
        except Exception as e:  # reported by the round
            self.error = e


class Control(threading.Thread):
    """Snapshots, clones, deletions over RPC until berthd is gone. May be there or not: those of the last request."""

    def __init__(self, kill, d, seed):
        super().__init__(daemon=True)
        self.kill, self.d, self.random = kill, d, random.Random(seed)
        self.maybe = {}  # name: blocks, made or not
        self.going = set()
        self.done = 0
        self.error = None
        self.whole = []  # groups under way

    def run(self):
        try:
            with self.d.rpc() as rpc:
                while True:
                    self.one(rpc)
                    self.done += 1
        except (EOFError, ConnectionError):
            pass
        except Exception as e:  # reported by the round
            self.error = e

    def others(self):
        return [n for n in self.kill.model.blocks if n not in VOLUMES]

    def one(self, rpc):
        room = len(self.kill.model.blocks) < MOST
        actions = ([self.snapshot] * 4 + [self.group] * 2 + [self.clone] * 3 + [self.delete] * 3 + [self.inflate]) if room else \
            [self.delete] * 5 + [self.inflate]
        self.random.choice(actions)(rpc)

    def made(self, names):
        for name in names:
            self.kill.model.blocks[name] = self.maybe.pop(name)

    def snapshot(self, rpc):
        volume, name = self.random.choice(VOLUMES), self.kill.new_name("s")
        watches = self.kill.model.watch([volume])
        self.maybe[name] = watches[0][1]
        rpc.call("bdev_lvol_snapshot", lvol_name=f"lvs/{volume}", snapshot_name=name)
        self.kill.model.watched(watches)
        self.kill.snapshots.add(name)
        self.made([name])

    def group(self, rpc):
        names = [self.kill.new_name("g") for _ in VOLUMES]
        watches = self.kill.model.watch(VOLUMES)
        self.maybe.update(zip(names, (blocks for _, blocks in watches)))
        self.whole.append(names)
        rpc.call("bdev_lvol_snapshot_group",
                 snapshots=[{"lvol_name": f"lvs/{v}", "snapshot_name": n} for v, n in zip(VOLUMES, names)])
        self.whole.pop()
        self.kill.model.watched(watches)
        self.kill.groups.append(names)
        self.kill.snapshots.update(names)
        self.made(names)

    def clone(self, rpc):
        snapshots = [n for n in self.others() if n in self.kill.snapshots]
        if not snapshots:
            return
        of, name = self.random.choice(snapshots), self.kill.new_name("c")
        self.maybe[name] = self.kill.model.blocks[of]
        rpc.call("bdev_lvol_clone", snapshot_name=f"lvs/{of}", clone_name=name)
        self.made([name])
        if name in self.kill.model.blocks:
            self.kill.same_as.append((of, name))

    def delete(self, rpc):
        if not self.others():
            return
        name = self.random.choice(self.others())
        self.going.add(name)
        rpc.call("bdev_lvol_delete", name=f"lvs/{name}")
        self.going.discard(name)
        del self.kill.model.blocks[name]

    def inflate(self, rpc):
        clones = [n for n in self.others() if n not in self.kill.snapshots]
        if not clones:
            return
        method = self.random.choice(["bdev_lvol_inflate", "bdev_lvol_decouple_parent"])
        answer = rpc.answer(method, {"name": f"lvs/{self.random.choice(clones)}"})
        # What has no parent any more has nothing to be decoupled from.
        check("error" not in answer or "no parent" in answer["error"]["message"], f"{method}: {answer}")


class Kill:
    def __init__(self, t):
        self.t, self.model = t, Model()
        self.random = random.Random(SEED)
        self.image = t.file("store.img", STORE_MIB * MIB)
        self.snapshots, self.groups, self.same_as = set(), [], []
        self.names = 0
        self.totals = [0, 0, 0]

    def new_name(self, kind):
        self.names += 1
        return f"{kind}{self.names}"

    def start(self):
        d = self.t.daemon("-m", "0x3" if os.cpu_count() > 1 else "0x1")
        d.call("bdev_aio_create", name="base", filename=self.image, block_size=4096)
        d.call("bdev_wait_for_examine")
        d.call("berth_nbd_server_create", path=d.path("n.sock"))
        return d

    def create(self):
        d = self.start()
        d.call("bdev_lvol_create_lvstore", bdev_name="base", lvs_name="lvs")
        for name in VOLUMES:
            d.call("bdev_lvol_create", lvs_name="lvs", lvol_name=name, size_in_mib=VOLUME_MIB, thin_provision=True)
            self.model.add(name)
        return d

    def round(self, d):
        for name in VOLUMES:
            d.call("berth_nbd_export_create", bdev_name=f"lvs/{name}", name=name)
        seed = self.random.random()
        writers = [Writer(self.model, d.path("n.sock"), v, f"{seed}{v}") for v in VOLUMES] + \
            [Pair(self.model, d.path("n.sock"), VOLUMES[:2], seed)]
        control = Control(self, d, seed)
        for thread in [*writers, control]:
            thread.start()
        time.sleep(self.random.uniform(0.2, 1.2) * harness.PATIENCE)
        d.kill()
        for thread in [*writers, control]:
            thread.join(60)
            check(not thread.is_alive(), "a thread that berthd's end does not end")
            if thread.error is not None:
                raise thread.error
        self.model.watches = []
        self.totals = [a + b for a, b in zip(self.totals, (1, sum(w.acknowledged for w in writers), control.done))]
        return control

    def check_store(self, clean):
        out = json.loads(self.t.berth("--json", "store", "check", self.image))
        kinds = {f["kind"] for f in out["findings"]}
        check(kinds <= (set() if clean else NOTES), f"store check: {json.dumps(out['findings'], indent=1)}")

    def read(self, d, name):
        d.call("berth_nbd_export_create", bdev_name=f"lvs/{name}", name=f"read-{name}", readonly=True)
        with Nbd(d.path("n.sock"), f"read-{name}") as nbd:
            data = nbd.whole()
        d.call("berth_nbd_export_delete", name=f"read-{name}")
        return [data[i:i + BLOCK] for i in range(0, len(data), BLOCK)]

    def verify(self, d, control):
        """The model is what is there afterwards."""
        there = {v["name"] for v in d.call("bdev_lvol_get_lvols")}
        wanted = set(self.model.blocks)
        missing, more = wanted - there - control.going, there - wanted - set(control.maybe)
        check(not missing, f"volumes that were answered are gone: {missing}")
        check(not more, f"volumes that were deleted are back: {more}")
        for group in control.whole:
            equal(len(set(group) & there) in (0, len(group)), True, f"a group that is neither there nor not: {group} of {there}")
            if set(group) <= there:
                self.groups.append(group)
        known = {**self.model.blocks, **control.maybe}
        self.snapshots |= {n for n in there if n[0] in "sg"}
        now = {}
        for name in sorted(there):
            now[name] = [self.one(name, i, data, known[name][i]) for i, data in enumerate(self.read(d, name))]
        self.model.blocks = {name: [{mark} for mark in marks] for name, marks in now.items()}
        for of, clone in self.same_as:
            if of in now and clone in now:
                check(now[of] == now[clone], f"{clone} is not what {of} is")
        for group in self.groups:
            if set(group) <= there:
                one, two = now[group[0]][0], now[group[1]][0]
                before = self.model.before.get(one, 0)
                check(two == one or two == before or (before == 0 and two < one),
                      f"the group {group} is of two moments: {one} (before it {before}) and {two}")

    def one(self, name, i, data, allowed):
        mark = mark_of(data)
        check(mark in allowed, f"{name}: block {i} is {'torn' if mark is None else mark}, not of {sorted(allowed)[-5:]}")
        return mark


def rounds(t, count):
    k = Kill(t)
    d = k.create()
    for _ in range(count):
        control = k.round(d)
        k.check_store(False)
        d = k.start()
        k.verify(d, control)
    for name in list(k.model.blocks):
        d.call("bdev_lvol_delete", name=f"lvs/{name}")
    (lvs,) = d.call("bdev_lvol_get_lvstores")
    harness.until(lambda: d.call("bdev_lvol_get_lvstores")[0]["free_clusters"] == lvs["total_data_clusters"],
                  "every cluster is free again")
    d.stop()
    k.check_store(True)
    print("%d rounds, %d acknowledged writes, %d changes" % tuple(k.totals))


def test_killed(t):
    rounds(t, ROUNDS)


def test_long_killed(t):
    rounds(t, ROUNDS)


if __name__ == "__main__":
    harness.main(globals())
