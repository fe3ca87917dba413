#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Whoever has nothing to do sleeps: no wake-up of any thread of the daemon, alone or with an idle VM on every kind of bdev."""
import harness
from harness import stays_asleep

MIB = 1 << 20


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
