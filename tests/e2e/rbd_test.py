#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""RBD bdevs against a Ceph cluster of one monitor and one OSD that keeps its objects in memory."""
import os
import shutil
import socket
import subprocess
import time
import uuid

import harness
from harness import check, contains, equal, until

MIB = 1 << 20

CONF = """[global]
fsid = {fsid}
mon initial members = a
mon host = [v2:127.0.0.1:{port}/0]
auth cluster required = none
auth service required = none
auth client required = none
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon osd full ratio = 1.0
osd objectstore = memstore
memstore device bytes = 1073741824
mon data = {dir}/mon
osd data = {dir}/osd
run dir = {dir}/run
admin socket =
pid file =
log file = {dir}/$name.log
mon cluster log file = {dir}/cluster.log
crash dir = {dir}/run
osd class dir = /usr/lib/{arch}-linux-gnu/rados-classes
debug ms = 0
"""


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Cluster:
    def __init__(self, t):
        for program in ("ceph-mon", "ceph-osd", "ceph", "rbd", "monmaptool"):
            if not shutil.which(program):
                raise harness.Skip(f"{program} is not installed")
        self.t, self.dir, self.port = t, t.path("ceph"), free_port()
        for name in ("mon", "osd", "run"):
            os.makedirs(os.path.join(self.dir, name))
        self.conf = os.path.join(self.dir, "ceph.conf")
        self.fsid, self.osd_id = str(uuid.uuid4()), str(uuid.uuid4())
        with open(self.conf, "w") as f:
            f.write(CONF.format(fsid=self.fsid, port=self.port, dir=self.dir, arch=os.uname().machine))
        monmap = os.path.join(self.dir, "monmap")
        self.run("monmaptool", "--create", "--fsid", self.fsid, "--addv", "a", f"[v2:127.0.0.1:{self.port}/0]", monmap)
        self.run("ceph-mon", "-c", self.conf, "-i", "a", "--mkfs", "--monmap", monmap)
        self.start("ceph-mon", "a")
        self.ceph("osd", "new", self.osd_id)
        self.run("ceph-osd", "-c", self.conf, "-i", "0", "--mkfs", "--osd-uuid", self.osd_id)
        self.osd = self.start("ceph-osd", "0")
        self.ceph("osd", "pool", "create", "rbd", "4")
        self.rbd("pool", "init", "rbd")

    def run(self, *args):
        done = subprocess.run(args, capture_output=True, text=True, timeout=60 * harness.PATIENCE)
        equal(done.returncode, 0, f"{' '.join(args)}: {done.stderr}")
        return done.stdout

    def start(self, program, name):
        return self.t.spawn([program, "-c", self.conf, "-i", name, "-f"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ceph(self, *args):
        return self.run("ceph", "-c", self.conf, "--connect-timeout", "30", *args)

    def rbd(self, *args):
        return self.run("rbd", "-c", self.conf, *args)

    def image(self, name, size="64M"):
        self.rbd("create", "--size", size, name)


def bdev(d, name):
    return d.call("bdev_get_bdevs", name=name)[0]


def register(d, cluster, name="c0", **params):
    return d.call("bdev_rbd_register_cluster", name=name, config_file=cluster.conf, **params)


def create(d, image, name="r0", **params):
    return d.call("bdev_rbd_create", name=name, pool_name="rbd", rbd_name=image, block_size=512, cluster_name="c0", **params)


def perf(d, name, *args):
    path = d.path("vm-" + name)
    if not os.path.exists(path):
        d.controller("vm-" + name, name)
    return [os.path.join(harness.BUILD, "berth"), "perf", "--socket", path, "--quiet", *args]


def ended_well(p):
    out, _ = p.communicate(timeout=120 * harness.PATIENCE)
    equal(p.returncode, 0, out[-1000:])


def test_images(t):
    """All on one cluster, which takes some seconds to be made."""
    cluster = Cluster(t)
    for name in ("one", "two", "three"):
        cluster.image(name)
    d = t.daemon("-m", "0x3", "--state-dir", t.path("state"))
    clusters_come_and_go(d, cluster)
    what_is_wrong(d, cluster)
    a_disk(t, d)
    sizes(d, cluster)
    holes(t, d, cluster)
    a_cluster_of_its_own(d, cluster)
    the_osd_is_away(t, d, cluster)
    the_osd_stays_away(t, d, cluster)
    d = a_restart(t, d)
    the_cluster_is_dead(t, d, cluster)


def clusters_come_and_go(d, cluster):
    d.error("bdev_rbd_get_clusters_info", -2)
    equal(register(d, cluster, core_mask="0x2"), "c0")
    d.error("bdev_rbd_register_cluster", -17, {"name": "c0"})
    equal(d.call("bdev_rbd_register_cluster", name="c1", user_id="admin",
                 config_param={"mon_host": f"[v2:127.0.0.1:{cluster.port}/0]", "auth_client_required": "none",
                               "key": "geheim"}), "c1")
    infos = d.call("bdev_rbd_get_clusters_info")
    equal([i["cluster_name"] for i in infos], ["c0", "c1"])
    equal((infos[0]["config_file"], infos[0]["core_mask"]), (cluster.conf, "0x2"))
    equal(d.call("bdev_rbd_get_clusters_info", name="c1"), infos[1])
    check("key" not in infos[1]["config_param"], infos)
    check("geheim" not in d.output() + str(d.call("framework_get_config", name="bdev")), "the key was told")
    equal(d.call("bdev_rbd_unregister_cluster", name="c1"), True)
    d.error("bdev_rbd_unregister_cluster", -2, {"name": "c1"})


def what_is_wrong(d, cluster):
    good = {"name": "r0", "pool_name": "rbd", "rbd_name": "one", "block_size": 512, "cluster_name": "c0"}
    for params, code, words in (({**good, "rbd_name": "none"}, -2, "rbd/none"), ({**good, "pool_name": "none"}, -2, "none"),
                                ({**good, "cluster_name": "none"}, -2, "cluster 'none'"),
                                ({**good, "block_size": 3000}, -22, "power of two"),
                                ({**good, "user_id": "x"}, -22, "registered"),
                                ({**good, "cluster_name": "c0", "config": {"a": 1}}, -22, "no string")):
        contains(d.error("bdev_rbd_create", code, params)["message"], words)
    contains(d.error("bdev_rbd_register_cluster", -2, {"name": "x", "config_file": "/nonexistent"})["message"], "/nonexistent")
    d.error("bdev_rbd_delete", -19, {"name": "r0"})
    d.error("bdev_rbd_resize", -19, {"name": "r0", "new_size": 1})


def a_disk(t, d):
    equal(create(d, "one"), "r0")
    b = bdev(d, "r0")
    equal((b["num_blocks"], b["block_size"], b["product_name"]), (131072, 512, "Ceph Rbd Disk"))
    equal((b["driver_specific"]["rbd"]["pool_name"], b["driver_specific"]["rbd"]["rbd_name"]), ("rbd", "one"))
    d.error("bdev_rbd_unregister_cluster", -16, {"name": "c0"})
    d.error("bdev_rbd_create", -17, {"name": "r0", "pool_name": "rbd", "rbd_name": "two", "block_size": 512,
                                     "cluster_name": "c0"})
    for workload in ("verify", "unmap", "write_zeroes", "flush"):
        ended_well(t.spawn(perf(d, "r0", "--workload", workload, "--size", "8M", "--depth", "16", "--time", "0.5"),
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    equal(create(d, "two", "ro", read_only=True), "ro")
    check(not bdev(d, "ro")["supported_io_types"]["write"], bdev(d, "ro"))
    d.call("bdev_rbd_delete", name="ro")


def sizes(d, cluster):
    equal(d.call("bdev_rbd_resize", name="r0", new_size=96), True)
    equal(bdev(d, "r0")["num_blocks"], 96 * 2048)
    d.error("bdev_rbd_resize", -22, {"name": "r0", "new_size": 95})
    cluster.rbd("resize", "--size", "128M", "one")
    until(lambda: bdev(d, "r0")["num_blocks"] == 128 * 2048, "what somebody else made it")


def holes(t, d, cluster):
    """As an NBD client sees them."""
    if not shutil.which("nbdinfo"):
        return
    create(d, "two", "r1")
    path = d.path("nbd.sock")
    d.call("berth_nbd_server_create", name="s", path=path)
    d.call("berth_nbd_export_create", name="two", bdev_name="r1", server="s")
    uri = f"nbd+unix:///two?socket={path}"
    ended_well(t.spawn(perf(d, "r1", "--workload", "write", "--offset", "8M", "--size", "4K", "--time", "0.1"),
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    d.call("vhost_delete_controller", ctrlr="vm-r1")
    lines = [line.split()[:3] for line in cluster.run("nbdinfo", "--map", uri).splitlines()]
    equal(lines, [["0", str(8 * MIB), "3"], [str(8 * MIB), str(4 * MIB), "0"], [str(12 * MIB), str(52 * MIB), "3"]])
    d.call("berth_nbd_export_delete", name="two")
    d.call("berth_nbd_server_delete", name="s")
    d.call("bdev_rbd_delete", name="r1")


def a_cluster_of_its_own(d, cluster):
    name = d.call("bdev_rbd_create", pool_name="rbd", rbd_name="three", block_size=4096,
                  config={"mon_host": f"[v2:127.0.0.1:{cluster.port}/0]", "auth_client_required": "none"})
    equal(name, "Ceph0")
    equal(bdev(d, name)["num_blocks"], 64 * 256)
    equal(d.call("bdev_rbd_delete", name=name), True)


def the_osd_is_away(t, d, cluster):
    """Requests wait in librbd. The OSD is stopped in its tracks: what it has in memory must not be lost."""
    load = t.spawn(perf(d, "r0", "--workload", "verify", "--size", "8M", "--depth", "16", "--time", "3"),
                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(0.5)
    cluster.osd.send_signal(19)
    time.sleep(1)
    cluster.osd.send_signal(18)
    ended_well(load)


def waits_in_vain(t, d, cluster):
    """The OSD has stopped, and a guest's writes wait for it."""
    load = t.spawn(perf(d, "r0", "--workload", "verify", "--size", "8M", "--depth", "16", "--time", "60"),
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.7)
    cluster.osd.send_signal(19)
    time.sleep(0.3)
    return load


def the_osd_stays_away(t, d, cluster):
    """What nobody waits for any more is cancelled: the guest goes, the disk goes, and is not there again before its writes."""
    load = waits_in_vain(t, d, cluster)
    load.kill()
    load.wait()
    d.call("vhost_delete_controller", ctrlr="vm-r0")
    equal(d.call("bdev_rbd_delete", name="r0"), True)
    d.error("bdev_get_bdevs", -19, {"name": "r0"})
    again = {"name": "r0", "pool_name": "rbd", "rbd_name": "one", "block_size": 512, "cluster_name": "c0"}
    contains(d.error("bdev_rbd_create", -16, again)["message"], "on their way")
    cluster.osd.send_signal(18)

    def comes():
        with d.rpc() as rpc:
            return "result" in rpc.answer("bdev_rbd_create", again)
    until(comes, "the image is free again")
    ended_well(t.spawn(perf(d, "r0", "--workload", "verify", "--size", "8M", "--depth", "16", "--time", "0.5"),
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))


def a_restart(t, d):
    config = d.call("framework_get_config", name="bdev")
    d.kill()
    d = t.daemon("-m", "0x3", "--state-dir", t.path("state"), folder="d2")
    d.call("bdev_get_bdevs", name="r0", timeout=10000)
    equal(d.call("framework_get_config", name="bdev"), config)
    return d


def the_cluster_is_dead(t, d, cluster):
    """Nothing answers any more, and a guest waits: berthd ends in spite of it, and starts again without."""
    waits_in_vain(t, d, cluster)
    start = time.time()
    d.stop()
    check(time.time() - start < 15, "it took too long to end")
    d = t.daemon("--state-dir", t.path("state"), folder="d3")
    d.error("bdev_get_bdevs", -19, {"name": "r0"})
    contains(str(d.call("framework_get_config", name="bdev")), "'rbd_name': 'one'")
    cluster.osd.send_signal(18)
    d.call("bdev_get_bdevs", name="r0", timeout=60000)
    d.call("bdev_rbd_delete", name="r0")


if __name__ == "__main__":
    harness.main(globals())
