#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Bdevs whose disk is somebody else's: vhost-user-blk targets and NBD servers, which may go and come back."""
import os
import shutil
import signal
import subprocess
import time

import harness
from harness import check, contains, equal, until

MIB = 1 << 20


def bdev(d, name):
    return d.call("bdev_get_bdevs", name=name)[0]


def attach(d, path, name="v0", **params):
    return d.call("bdev_virtio_attach_controller", name=name, trtype="user", traddr=path, dev_type="blk", **params)


def verify(t, d, name="v0", seconds="0.5", **kw):
    """Through a controller of ours: writes, reads again, compares."""
    socket = d.path("vm-" + name)
    if not os.path.exists(socket):
        d.controller("vm-" + name, name)
    return t.berth("perf", "--socket", socket, "--workload", "verify", "--size", "8M", "--depth", "16", "--time", seconds,
                   "--quiet", **kw)


def need(program):
    if not shutil.which(program):
        raise harness.Skip(f"{program} is not installed")


def connects_in(d, name, count):
    def condition():
        specific = bdev(d, name)["driver_specific"]
        (module,) = specific.values()
        return module["connected"] and module["connects"] >= count
    return condition


def in_background(t, d, name, seconds):
    d.controller("vm-" + name, name)
    return t.spawn([os.path.join(harness.BUILD, "berth"), "perf", "--socket", d.path("vm-" + name), "--workload", "verify",
                    "--size", "8M", "--depth", "16", "--time", seconds, "--quiet"],
                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended_well(p):
    out, _ = p.communicate(timeout=60 * harness.PATIENCE)
    equal(p.returncode, 0, out[-1000:])


# ---- vhost-user-blk ----

def test_virtio_says_what_is_wrong(t):
    d = t.daemon()
    good = {"name": "v0", "trtype": "user", "traddr": d.path("nobody"), "dev_type": "blk"}
    for params, code, words in (({**good, "trtype": "pci"}, -95, "not offered"), ({**good, "dev_type": "scsi"}, -95, "not offered"),
                                (good, -2, d.path("nobody")), ({**good, "vq_size": 100}, -22, "power of two")):
        contains(d.error("bdev_virtio_attach_controller", code, params)["message"], words)
    d.error("bdev_virtio_detach_controller", -19, {"name": "v0"})


def test_virtio_of_another_berthd(t):
    target = t.daemon("-m", "0x3", folder="target")
    target.call("bdev_malloc_create", name="m", num_blocks=65536, block_size=512)
    path = target.controller("disk", "m")
    d = t.daemon("-m", "0x3")
    equal(attach(d, path), ["v0"])
    b = bdev(d, "v0")
    equal((b["num_blocks"], b["block_size"], b["product_name"]), (65536, 512, "VirtioBlk Disk"))
    check(b["driver_specific"]["virtio"]["connected"] and b["driver_specific"]["virtio"]["vq_count"] >= 3, b)
    verify(t, d)
    d.call("vhost_delete_controller", ctrlr="vm-v0")
    equal(d.call("bdev_virtio_detach_controller", name="v0"), True)
    equal(d.call("bdev_get_bdevs"), [])


def test_virtio_of_itself(t):
    """Connecting is done while the daemon goes on: it can be its own target."""
    d = t.daemon()
    d.call("bdev_malloc_create", name="m", num_blocks=65536, block_size=512)
    attach(d, d.controller("disk", "m"))
    verify(t, d, seconds="0.2")


def test_virtio_resize(t):
    target = t.daemon(folder="target")
    target.call("bdev_null_create", name="n", num_blocks=16384, block_size=512)
    d = t.daemon()
    attach(d, target.controller("disk", "n"))
    target.call("bdev_null_resize", name="n", new_size=16)
    until(lambda: bdev(d, "v0")["num_blocks"] == 32768, "the new size")


def test_virtio_target_is_killed(t):
    """kill -9 of the target under a verifying load, twice: nothing is lost and nobody hears of it."""
    image = t.file("disk.img", 16 * MIB)
    first = t.daemon("--state-dir", t.path("state"), folder="target")
    first.call("bdev_aio_create", name="a", filename=image, block_size=512)
    path = first.controller("disk", "a")
    d = t.daemon()
    attach(d, path)
    load = in_background(t, d, "v0", "3")
    time.sleep(0.7)
    for n in range(2):
        first.kill()
        time.sleep(0.2)
        first = t.daemon("--state-dir", t.path("state"), folder="target")
        until(connects_in(d, "v0", n + 2), "connected again")
        time.sleep(0.3)
    ended_well(load)


def test_virtio_restart_waits_for_the_target(t):
    """After a restart the target is not there: the bdev comes with it."""
    target = t.daemon("--state-dir", t.path("state"), folder="target")
    target.call("bdev_malloc_create", name="m", num_blocks=16384, block_size=512)
    path = target.controller("disk", "m")
    d = t.daemon("--state-dir", t.path("mine"))
    attach(d, path)
    uuid = d.call("bdev_get_bdevs", name="v0")[0]["uuid"]
    d.kill()
    target.kill()
    d = t.daemon("--state-dir", t.path("mine"), folder="d2")
    d.error("bdev_get_bdevs", -19, {"name": "v0"})
    contains(str(d.call("framework_get_config", name="bdev")), path)
    t.daemon("--state-dir", t.path("state"), folder="target")
    equal(d.call("bdev_get_bdevs", name="v0", timeout=10000)[0]["uuid"], uuid, "volumes know it by its UUID")


def test_virtio_of_qemu(t):
    need("qemu-storage-daemon")
    image, path = t.file("disk.img", 16 * MIB), t.path("qsd.sock")
    t.spawn(["qemu-storage-daemon", "--blockdev", f"driver=file,node-name=disk,filename={image}",
             "--export", f"type=vhost-user-blk,id=x,node-name=disk,addr.type=unix,addr.path={path},writable=on,num-queues=2"])
    until(lambda: os.path.exists(path), "its socket")
    d = t.daemon()
    attach(d, path)
    equal(bdev(d, "v0")["num_blocks"], 32768)
    verify(t, d)


# ---- NBD ----

def nbdkit(t, *args, socket="nbd.sock"):
    need("nbdkit")
    path, pid = t.path(socket), t.path("nbdkit.pid")
    for f in (path, pid):
        if os.path.exists(f):
            os.unlink(f)
    p = t.spawn(["nbdkit", "-f", "-U", path, "-P", pid, *args])
    until(lambda: os.path.exists(pid), "nbdkit listens")
    return p, path


def test_nbd_says_what_is_wrong(t):
    d = t.daemon()
    if "bdev_nbd_create" not in d.call("rpc_get_methods"):
        raise harness.Skip("built without libnbd")
    for params, code, words in (({"name": "n0"}, -22, "uri, socket and host"),
                                ({"name": "n0", "socket": d.path("nobody")}, -2, "nobody"),
                                ({"name": "n0", "uri": "nonsense"}, None, "nonsense"),
                                ({"name": "n0", "uri": "nbd://localhost", "export": "x"}, -22, "parts of the uri")):
        contains(d.error("bdev_nbd_create", code, params)["message"], words)
    d.error("bdev_nbd_delete", -19, {"name": "n0"})


def test_nbd_of_nbdkit(t):
    _, path = nbdkit(t, "memory", "16M")
    d = t.daemon("-m", "0x3")
    equal(d.call("bdev_nbd_create", name="n0", uri=f"nbd+unix:///?socket={path}"), "n0")
    b = bdev(d, "n0")
    equal((b["num_blocks"], b["product_name"]), (32768, "NBD disk"))
    equal(b["driver_specific"]["nbd"]["connections"], 3)
    verify(t, d, "n0")
    d.call("vhost_delete_controller", ctrlr="vm-n0")
    equal(d.call("bdev_nbd_delete", name="n0"), True)


def test_nbd_of_qemu(t):
    need("qemu-nbd")
    image, path = t.file("disk.img", 16 * MIB), t.path("qemu.sock")
    t.spawn(["qemu-nbd", "-f", "raw", "-k", path, "-x", "disk", "-t", "-e", "4", image])
    until(lambda: os.path.exists(path), "its socket")
    d = t.daemon()
    d.call("bdev_nbd_create", name="n0", socket=path, export="disk")
    verify(t, d, "n0")


def test_nbd_server_is_killed(t):
    image = t.file("disk.img", 16 * MIB)
    server, path = nbdkit(t, "file", image)
    d = t.daemon("--state-dir", t.path("mine"))
    d.call("bdev_nbd_create", name="n0", socket=path)
    load = in_background(t, d, "n0", "2.5")
    time.sleep(0.7)
    server.send_signal(signal.SIGKILL)
    server.wait()
    time.sleep(0.2)
    server, _ = nbdkit(t, "file", image)
    until(connects_in(d, "n0", 2), "connected again")
    ended_well(load)
    uuid = d.call("bdev_get_bdevs", name="n0")[0]["uuid"]
    d.kill()
    server.kill()
    server.wait()
    d = t.daemon("--state-dir", t.path("mine"), folder="d2")
    d.error("bdev_get_bdevs", -19, {"name": "n0"})
    nbdkit(t, "file", image)
    (disk,) = d.call("bdev_get_bdevs", name="n0", timeout=10000)
    equal((disk["num_blocks"], disk["uuid"]), (32768, uuid), "volumes know it by its UUID")


# ---- Both ----

def test_idle_ones_wake_nobody(t):
    target = t.daemon(folder="target")
    target.call("bdev_null_create", name="n", num_blocks=16384, block_size=512)
    d = t.daemon("--mode", "interrupt")
    attach(d, target.controller("disk", "n"))
    if shutil.which("nbdkit"):
        _, path = nbdkit(t, "memory", "16M")
        d.call("bdev_nbd_create", name="n0", socket=path)
    # Connections go quiet: wait for a second without a wake-up, less what asking costs.
    def wakeups():
        with open(f"/proc/{d.pid}/status") as f:
            return sum(int(line.split()[1]) for line in f if "voluntary_ctxt" in line)

    def quiet():
        before = wakeups()
        time.sleep(0.5)
        return wakeups() == before
    until(quiet, "half a second without a wake-up")


def test_ends_while_it_connects(t):
    """SIGTERM while targets are awaited, and one that takes connections but does not speak."""
    import socket as sockets
    silent = sockets.socket(sockets.AF_UNIX)
    silent.bind(t.path("silent"))
    silent.listen(1)
    d = t.daemon()
    attach(d, d.path("nobody"), wait=True)
    d.call("bdev_nbd_create", name="n0", socket=d.path("nobody"), wait=True)
    with d.rpc() as rpc:
        rpc.send('{"jsonrpc":"2.0","id":1,"method":"bdev_virtio_attach_controller","params":{"name":"v1","trtype":"user",'
                 '"traddr":"%s","dev_type":"blk"}}' % t.path("silent"))
        time.sleep(0.1)
        d.stop()


def ends_while_examined(t, gone):
    """SIGTERM while the first read of an examination waits for a server that is there but silent, or gone."""
    server, path = nbdkit(t, "--filter=delay", "memory", "16M", "rdelay=100")
    d = t.daemon()
    d.call("bdev_nbd_create", name="n0", socket=path)
    time.sleep(0.2)
    if gone:
        server.kill()
        server.wait()
        time.sleep(0.1)
    d.stop(seconds=30)


def test_ends_while_its_server_is_silent(t):
    ends_while_examined(t, gone=False)


def test_ends_while_its_server_is_gone(t):
    ends_while_examined(t, gone=True)


def test_ends_with_load_on_a_silent_server(t):
    """SIGTERM while a guest's reads and writes wait at a disk whose server has stopped."""
    d = t.daemon()
    server, path = nbdkit(t, "memory", "64M")
    d.call("bdev_nbd_create", name="n0", socket=path)
    d.controller("c0", "n0")
    t.spawn([os.path.join(harness.BUILD, "berth"), "perf", "--socket", d.path("c0"), "--workload", "verify", "--size", "8M",
             "--depth", "16", "--time", "20", "--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    server.send_signal(signal.SIGSTOP)
    time.sleep(0.2)
    # Three seconds of the front end's patience, one of the disk's; none for connecting to a server that is silent.
    d.stop(seconds=30)
    server.send_signal(signal.SIGCONT)


def test_ends_with_what_stands_on_a_silent_server(t):
    """SIGTERM while a guest's writes to a volume and to a mirror wait for a server that has stopped."""
    d = t.daemon()
    servers = []
    for n in ("n0", "n1"):
        server, path = nbdkit(t, "memory", "64M", socket=n)
        servers.append(server)
        d.call("bdev_nbd_create", name=n, socket=path)
    d.call("bdev_lvol_create_lvstore", bdev_name="n0", lvs_name="s")
    d.call("bdev_lvol_create", lvs_name="s", lvol_name="v", size_in_mib=16)
    d.call("bdev_malloc_create", name="m", num_blocks=131072, block_size=512)
    d.call("bdev_raid_create", name="r", raid_level="raid1", base_bdevs=["n1", "m"])
    for name, disk in (("c0", "s/v"), ("c1", "r")):
        d.controller(name, disk)
        t.spawn([os.path.join(harness.BUILD, "berth"), "perf", "--socket", d.path(name), "--workload", "verify", "--size", "8M",
                 "--depth", "16", "--time", "20", "--quiet"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.7)
    for server in servers:
        server.send_signal(signal.SIGSTOP)
    time.sleep(0.2)
    d.stop(seconds=30)
    for server in servers:
        server.send_signal(signal.SIGCONT)


if __name__ == "__main__":
    harness.main(globals())
