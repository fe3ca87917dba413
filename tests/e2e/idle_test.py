#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Whoever has nothing to do sleeps: no wake-up of any thread of the daemon, alone or with an idle VM on every kind of bdev."""
import glob
import time

import harness
from harness import Failure, check

MIB = 1 << 20
SECONDS = 3


def counters(pid):
    """Of each thread: name, voluntary and forced context switches, ticks of CPU time. Without the kernel's own workers for io_uring
    (iou-wrk-...), the last of which looks every 5 s whether there is something to do."""
    seen = {}
    for folder in glob.glob(f"/proc/{pid}/task/*"):
        with open(f"{folder}/status") as f:
            status = dict(line.split(":", 1) for line in f if ":" in line)
        with open(f"{folder}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
        if status["Name"].strip().startswith("iou-wrk-"):
            continue
        seen[folder] = (status["Name"].strip(), int(status["voluntary_ctxt_switches"]), int(fields[11]) + int(fields[12]))
    return seen


def stays_asleep(d, what):
    # A moment to settle: the scheduler looks once more, a period after the last work, and finds none.
    time.sleep(2.5)
    before = counters(d.pid)
    time.sleep(SECONDS)
    after = counters(d.pid)
    woken = [f"{after[k][0]}: {after[k][1] - before[k][1]} wake-ups, {after[k][2] - before[k][2]} ticks"
             for k in after if k in before and after[k][1:] != before[k][1:]]
    check(set(before) == set(after), f"{what}: threads came or went")
    if woken:
        raise Failure(f"{what}: not asleep in {SECONDS} s: " + "; ".join(woken))


@harness.each(mode=["adaptive", "interrupt"])
def test_alone(t, mode):
    d = t.daemon("--mode", mode, "--state-dir", t.path("state"))
    stays_asleep(d, "alone")
    d.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    d.controller("vm0", "m")
    d.call("berth_disk_create", name="disk0", size=16 * MIB)
    stays_asleep(d, "with a controller and a disk")


@harness.each(mode=["adaptive", "interrupt"])
def test_connected_vm(t, mode):
    """The VM has used its disks and is idle now."""
    d = t.daemon("--mode", mode)
    d.call("bdev_null_create", name="null", num_blocks=65536, block_size=512)
    d.call("bdev_malloc_create", name="malloc", num_blocks=65536, block_size=512)
    d.call("bdev_aio_create", name="aio", filename=t.file("a.img", 32 * MIB))
    names = ["null", "malloc", "aio"]
    if harness.has_uring():
        d.call("bdev_uring_create", name="uring", filename=t.file("u.img", 32 * MIB))
        names.append("uring")
    g = t.guest(r"""
for d in /dev/vd?; do
	dd if=/dev/zero of=$d bs=64k count=64 oflag=direct 2>/dev/null
	dd if=$d of=/dev/null bs=64k count=64 2>/dev/null
done
sync
echo "@@ ready"
read go
for d in /dev/vd?; do dd if=/dev/zero of=$d bs=64k count=64 oflag=direct 2>/dev/null; done
""", [d.controller(f"vm-{n}", n) for n in names])
    g.wait("ready")
    stays_asleep(d, f"with a VM on {', '.join(names)}")
    g.send("go")
    g.finish()
    stays_asleep(d, "after the VM")


harness.main(globals())
