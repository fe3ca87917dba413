#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""iSCSI bdevs: disks of a real target (tgt), which may go and come back, and what a target may say that tgt does not."""
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import harness
from harness import check, contains, equal, until

MIB = 1 << 20
NAME = "iqn.2024-01.io.example:disk"
CLIENT = "iqn.2024-01.io.example:client"


class Target:
    """tgtd on a port of its own."""

    def __init__(self, t, size=16 * MIB, port=None):
        if not shutil.which("tgtd") or not shutil.which("tgtadm"):
            raise harness.Skip("tgt is not installed")
        self.t, self.folder = t, t.path("tgt")
        os.makedirs(self.folder, exist_ok=True)
        self.image = os.path.join(self.folder, "disk")
        self.port = port or free_port()
        self.account = None
        self.resize(size)
        self.start()

    def resize(self, size):
        with open(self.image, "ab") as f:
            f.truncate(size)

    def env(self):
        return dict(os.environ, TGT_IPC_SOCKET=os.path.join(self.folder, "control"))

    def admin(self, *args):
        return subprocess.run(["tgtadm", "-C", "0", "--lld", "iscsi", *args], env=self.env(), text=True, capture_output=True)

    def do(self, *args):
        done = self.admin(*args)
        equal(done.returncode, 0, f"tgtadm {' '.join(args)}: {done.stderr}")

    def start(self):
        self.process = self.t.spawn(["tgtd", "-f", "-C", "0", "--iscsi", f"portal=127.0.0.1:{self.port}"], env=self.env(),
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: self.admin("--op", "show", "--mode", "target").returncode == 0, "tgtd")
        self.do("--op", "new", "--mode", "target", "--tid", "1", "-T", NAME)
        self.do("--op", "new", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "-b", self.image)
        self.do("--op", "update", "--mode", "logicalunit", "--tid", "1", "--lun", "1", "--params", "thin_provisioning=1")
        if self.account:
            user, password = self.account
            self.do("--op", "new", "--mode", "account", "--user", user, "--password", password)
            self.do("--op", "bind", "--mode", "account", "--tid", "1", "--user", user)
        self.do("--op", "bind", "--mode", "target", "--tid", "1", "-I", "ALL")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def url(self, user="", port=None):
        return f"iscsi://{user}127.0.0.1:{port or self.port}/{NAME}/1"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def create(d, url, name="i0", **params):
    return d.call("bdev_iscsi_create", name=name, initiator_iqn=CLIENT, url=url, **params)


def bdev(d, name="i0"):
    return d.call("bdev_get_bdevs", name=name)[0]


def iscsi(d, name="i0"):
    return bdev(d, name)["driver_specific"]["iscsi"]


def perf(d, seconds):
    if not os.path.exists(d.path("vm")):
        d.controller("vm", "i0")
    return [os.path.join(harness.BUILD, "berth"), "perf", "--socket", d.path("vm"), "--workload", "verify", "--size", "8M",
            "--depth", "16", "--time", str(seconds), "--quiet"]


def in_background(t, d, seconds):
    return t.spawn(perf(d, seconds), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended_well(p):
    out, _ = p.communicate(timeout=60 * harness.PATIENCE)
    equal(p.returncode, 0, out[-1000:])


def during(load, condition, what):
    """Waits for what happens while the load runs: with its reason, when it ends before."""
    until(lambda: condition() or load.poll() is not None, what)
    if load.poll() is not None:
        raise harness.Failure(f"the load has ended before: {what}: {load.communicate()[0][-1000:]}")


def enough(load):
    """It has lasted until what it is for had happened."""
    load.send_signal(signal.SIGINT)
    ended_well(load)


class Proxy:
    """
    Between client and target: changes what the target says. capacity: blocks that the unit says it has; news: it says once, in
    answer to a flush, that this has changed; busy: so many flushes it refuses; sessions: so many it takes, others hang up.
    """

    def __init__(self, t, target):
        self.t, self.target = t, target
        self.capacity = self.sessions = None
        self.news = self.busy = 0
        self.accepted = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            if self.sessions is not None and self.accepted > self.sessions:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.target.port))
            threading.Thread(target=self.copy, args=(client, server), daemon=True).start()
            threading.Thread(target=self.answers, args=(server, client), daemon=True).start()

    def copy(self, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            sink.close()

    def exactly(self, source, count):
        data = b""
        while len(data) < count:
            more = source.recv(count - len(data))
            if not more:
                raise OSError("end")
            data += more
        return data

    def answers(self, source, sink):
        try:
            while True:
                head = self.exactly(source, 48)
                length = int.from_bytes(head[5:8], "big")
                data = self.exactly(source, (length + 3) & ~3)
                sink.sendall(b"".join(self.change(head, data, length)))
        except OSError:
            pass
        finally:
            sink.close()

    def change(self, head, data, length):
        opcode = head[0] & 0x3f
        if opcode == 0x25 and self.capacity and length == 32: # of READ CAPACITY
            data = struct.pack(">Q", self.capacity - 1) + data[8:]
        if opcode == 0x21 and self.news > 0 and length == 0 and head[3] == 0:
            self.news -= 1
            sense = bytes([0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x2a, 9, 0, 0, 0, 0])
            head = head[:3] + b"\x02" + b"\0" + (20).to_bytes(3, "big") + head[8:]
            data = (18).to_bytes(2, "big") + sense
        elif opcode == 0x21 and self.busy > 0 and length == 0 and head[3] == 0:
            self.busy -= 1
            head = head[:3] + b"\x08" + head[4:]
        return head, data


# ---- Creating, looking, deleting ----

def test_says_what_is_wrong(t):
    target = Target(t)
    d = t.daemon()
    good = {"name": "i0", "initiator_iqn": CLIENT, "url": target.url()}
    for params, code, words in (
            ({**good, "url": "iscsi://me%geheim@x"}, -22, "not of the form"),
            ({**good, "url": "iscsi://me@127.0.0.1/t/0"}, -22, "chap_secret_file"),
            ({**good, "url": f"iscsi://127.0.0.1:{target.port}/{NAME}/9"}, -19, "no such logical unit"),
            ({**good, "url": f"iscsi://127.0.0.1:{target.port}/iqn.2024-01.io.example:no/1"}, -111, "Target not found"),
            ({**good, "url": f"iscsi://127.0.0.1:{free_port()}/{NAME}/1"}, -111, "Connection refused"),
            ({**good, "url": f"iscsi://nobody.invalid/{NAME}/1"}, -113, "nobody.invalid")):
        text = d.error("bdev_iscsi_create", code, params)["message"]
        contains(text, words)
        check("geheim" not in text, text)
    d.error("bdev_iscsi_delete", -19, {"name": "i0"})
    d.error("bdev_iscsi_rescan", -19, {"name": "i0"})
    d.error("bdev_iscsi_set_options", -22, {"timeout_sec": 86401})


def test_a_disk(t):
    target = Target(t)
    d = t.daemon("-m", "0x3")
    equal(create(d, target.url()), "i0")
    b = bdev(d)
    equal((b["num_blocks"], b["block_size"], b["product_name"]), (32768, 512, "iSCSI LUN"))
    equal((iscsi(d)["url"], iscsi(d)["initiator_name"], iscsi(d)["connected"]), (target.url(), CLIENT, True))
    d.error("bdev_iscsi_create", -17, {"name": "i0", "initiator_iqn": CLIENT, "url": target.url()})
    load = in_background(t, d, 100)
    during(load, lambda: iscsi(d)["sessions"] >= 2, "a session for the thread of the queue")
    time.sleep(0.5)
    enough(load)
    until(lambda: iscsi(d)["sessions"] == 1, "that it ends")
    uuid = b["uuid"]
    d.call("vhost_delete_controller", ctrlr="vm")
    equal(d.call("bdev_iscsi_delete", name="i0"), True)
    equal(d.call("bdev_get_bdevs"), [])
    create(d, target.url())
    equal(bdev(d)["uuid"], uuid)


def test_deleted_under_load(t):
    target = Target(t)
    d = t.daemon()
    create(d, target.url())
    load = in_background(t, d, 2)
    time.sleep(0.4)
    d.call("bdev_iscsi_delete", name="i0")
    load.communicate(timeout=60 * harness.PATIENCE)
    equal(d.call("bdev_get_bdevs"), [])


def test_idle(t):
    """After a load, with a session open: nobody wakes up."""
    target = Target(t)
    d = t.daemon("-m", "0x3")
    create(d, target.url())
    ended_well(in_background(t, d, 0.3))
    until(lambda: iscsi(d)["sessions"] == 1, "only the session that is always there")

    def wakes():
        tasks = f"/proc/{d.process.pid}/task"
        return {task: [line.split()[1] for line in open(f"{tasks}/{task}/status") if "ctxt_switches" in line][0]
                for task in os.listdir(tasks)}

    until(lambda: same(wakes), "a second without a wake-up")


def same(look):
    before = look()
    time.sleep(1)
    return look() == before


# ---- Targets that go ----

def test_target_is_killed(t):
    """kill -9 of the target under a verifying load, twice: nothing is lost and nobody hears of it."""
    target = Target(t)
    d = t.daemon("-m", "0x3")
    create(d, target.url())
    load = in_background(t, d, 3)
    time.sleep(0.7)
    for n in range(2):
        target.kill()
        time.sleep(0.2)
        target.start()
        until(lambda: iscsi(d)["connected"] and iscsi(d)["connects"] >= n + 2, "logged in again")
        time.sleep(0.3)
    ended_well(load)


def test_restart_waits_for_the_target(t):
    """After a restart the target is not there: the bdev comes with it. What is saved makes the very same."""
    target = Target(t)
    d = t.daemon("--state-dir", t.path("state"))
    d.call("bdev_iscsi_set_options", timeout_sec=7)
    create(d, target.url(), reconnect_timeout_sec=5, max_sessions=3)
    config = d.call("framework_get_config", name="bdev")
    d.kill()
    target.kill()
    d = t.daemon("--state-dir", t.path("state"), folder="d2")
    d.error("bdev_get_bdevs", -19, {"name": "i0"})
    equal(d.call("framework_get_config", name="bdev"), config)
    target.start()
    d.call("bdev_get_bdevs", name="i0", timeout=10000)
    equal(d.call("framework_get_config", name="bdev"), config)
    contains(str(config), "'timeout_sec': 7")


# ---- Passwords ----

def all_files(folder):
    for root, _, names in os.walk(folder):
        for name in names:
            with open(os.path.join(root, name), "rb") as f:
                yield os.path.join(root, name), f.read()


def test_passwords_stay_secret(t):
    target = Target(t)
    target.kill()
    target.account = ("me", "geheimgeheim")
    target.start()
    d = t.daemon("--state-dir", t.path("state"))
    d.call("log_set_flag", flag="all")
    for url in (target.url(), target.url("me%falschfalsch@")):
        contains(d.error("bdev_iscsi_create", -111, {"name": "i0", "initiator_iqn": CLIENT, "url": url})["message"],
                 "uthentication")
    create(d, target.url("me%geheimgeheim@"))
    ended_well(in_background(t, d, 0.2))
    secret = t.path("chap")
    with open(secret, "w", opener=lambda p, flags: os.open(p, flags, 0o600)) as f:
        f.write("geheimgeheim\n")
    create(d, target.url("me@"), "i1", chap_secret_file=secret)
    config = d.call("framework_get_config", name="bdev")
    contains(str(config), secret)
    for where in (str(config), str(d.call("bdev_get_bdevs")), d.output()):
        check("geheim" not in where and "falsch" not in where, where[-2000:])
    d.kill()
    for name, data in all_files(t.path("state")):
        check(b"geheim" not in data and b"falsch" not in data, name)
    d = t.daemon("--state-dir", t.path("state"), folder="d2")
    d.call("bdev_get_bdevs", name="i1", timeout=10000)
    os.chmod(secret, 0o644)
    d.error("bdev_iscsi_create", -1, {"name": "i2", "initiator_iqn": CLIENT, "url": target.url("me@"),
                                      "chap_secret_file": secret})


# ---- Sizes and sessions ----

def test_resize(t):
    """Seen when the unit says so, when it is asked, and when it comes back."""
    target = Target(t, 32 * MIB)
    proxy = Proxy(t, target)
    proxy.capacity = 32768
    d = t.daemon()
    create(d, target.url(port=proxy.port))
    equal(bdev(d)["num_blocks"], 32768)
    d.call("bdev_iscsi_rescan", name="i0")
    proxy.capacity = 40960
    d.call("bdev_iscsi_rescan", name="i0")
    until(lambda: bdev(d)["num_blocks"] == 40960, "the size after a rescan")
    proxy.capacity, proxy.news = 49152, 1
    d.controller("vm", "i0")
    t.berth("perf", "--socket", d.path("vm"), "--workload", "flush", "--time", "0.1", "--quiet")
    until(lambda: bdev(d)["num_blocks"] == 49152, "the size after a unit attention")
    # In answer to one of many, once the session is there.
    load = t.spawn([os.path.join(harness.BUILD, "berth"), "perf", "--socket", d.path("vm"), "--workload", "flush", "--time", "100",
                    "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    during(load, lambda: iscsi(d)["sessions"] == 2, "a session for the load")
    time.sleep(0.2)
    proxy.capacity, proxy.news = 57344, 1
    during(load, lambda: bdev(d)["num_blocks"] == 57344, "the size after a flush")
    enough(load)
    equal(iscsi(d)["connects"], 1)


def test_a_busy_target(t):
    """What it refuses for a while is asked of it again, with pauses."""
    target = Target(t)
    proxy = Proxy(t, target)
    d = t.daemon()
    create(d, target.url(port=proxy.port))
    d.controller("vm", "i0")
    load = t.spawn([os.path.join(harness.BUILD, "berth"), "perf", "--socket", d.path("vm"), "--workload", "flush", "--depth", "1",
                    "--time", "100", "--quiet"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    during(load, lambda: iscsi(d)["sessions"] == 2, "a session for the load")
    time.sleep(0.2)
    proxy.busy = 12
    during(load, lambda: proxy.busy == 0, "that it was asked again")
    enough(load)
    equal(iscsi(d)["connects"], 1)


def test_a_target_for_few_sessions(t):
    """Threads that get none share one."""
    target = Target(t)
    proxy = Proxy(t, target)
    proxy.sessions = 1
    d = t.daemon("-m", "0x3")
    create(d, target.url(port=proxy.port))
    ended_well(in_background(t, d, 0.5))
    equal((iscsi(d)["sessions"], iscsi(d)["connects"]), (1, 1))
    contains(d.output(), "shares one")


if __name__ == "__main__":
    harness.main(globals())
