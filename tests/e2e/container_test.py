#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""
berthd as it runs in a container: no capability, an ordinary user, a root that cannot be written, io_uring forbidden, 64 KiB of
lockable memory, a CPU quota. box.py makes the container out of what the kernel has; clients are outside of it, as a VMM is.
"""
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time

import box
import harness
from harness import Failure, Skip, check, contains, equal, stays_asleep, until

MIB = 1 << 20
# What profiles older than these calls answer to them, be it that they are missing or that they are forbidden. A forbidden clone3
# is not among them: under such a profile glibc itself makes no thread.
NEWER_CALLS = ("epoll_pwait2", "statx", "faccessat2", "openat2", "close_range", "rseq", "pidfd_open", "pidfd_getfd", "futex_waitv")


class Contained(harness.Daemon):
    """A berthd in a box. Its folders are at the same place inside and outside, so that a path means the same to both."""

    def __init__(self, test, *args, uid=box.UID, options=(), program=None):
        if harness.SANITIZED:
            raise Skip("a sanitizer needs calls that are forbidden in a container")
        data, self.box = test.path("d"), test.path("box")
        for folder in (data, self.box):
            os.makedirs(folder, exist_ok=True)
        if os.getuid() == 0:
            os.chown(data, uid, uid)
        prefix = [sys.executable, box.__file__, "--dir", self.box, "--bind", f"{data}:{data}", "--uid", str(uid),
                  "--bind", f"{program or os.path.join(harness.BUILD, 'berthd')}:/berthd:ro", *options, "--"]
        super().__init__(test, data, args, prefix=prefix, program="/berthd", ready=False)
        test.stack.append(self.cleanup)
        try:
            self.wait_ready()
        except Failure:
            if self.process.poll() == box.NOT_HERE:
                self.process.returncode = 0
                raise Skip(f"this machine makes no containers: {self.tail(1).strip()}") from None
            raise
        with open(os.path.join(self.box, "pid")) as f:
            self.pid = int(f.read())

    def kill(self):
        os.kill(self.pid, signal.SIGKILL)
        equal(self.process.wait(), -signal.SIGKILL, "how berthd ended")
        self.log.close()

    def status(self, name):
        with open(f"/proc/{self.pid}/status") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith(name + ":"))


def start(t, *args, **kw):
    return Contained(t, "--state-dir", t.path("d/state"), *args, **kw)


def berth(t, d, *args, code=0):
    p = t.run([os.path.join(harness.BUILD, "berth"), "-s", d.socket, *args], code=None)
    equal(p.returncode, code, f"exit code of berth {' '.join(args)} ({p.stderr.strip()})")
    return p


def perf(t, socket, workload, *args, code=0):
    """The other side sleeps when it waits, so that it takes no CPU from the daemon."""
    return t.run([os.path.join(harness.BUILD, "berth"), "perf", "-s", socket, "-w", workload, "--mode", "interrupt", "--json", "--quiet",
                  *args], code=code)


def verify(t, d, name="disk0", *args):
    """Writes a pattern, reads it back, all through the controller's socket; the daemon has done I/O for it."""
    def done():
        stats = d.call("bdev_get_iostat", names=[name])["bdevs"][0]
        equal(stats["io_error"], {}, "I/O errors")
        return stats["num_write_ops"], stats["num_read_ops"]
    before = done()
    perf(t, d.path(name), "verify", "-q", "16", "-o", "4k", "-t", "0.5", *args)
    check(all(now > then for now, then in zip(done(), before)), f"reads and writes went up from {before}")


def test_confined(t):
    """The box is one, berthd lives in it and takes nothing that is not given to everybody."""
    d = start(t)
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        equal(int(d.status(name), 16), 0, name)
    equal(d.status("NoNewPrivs"), "1")
    equal(d.status("Seccomp"), "2")
    uid = str(box.UID if os.getuid() == 0 else os.getuid())
    equal(d.status("Uid").split(), [uid] * 4)
    equal(d.status("NSpid").split()[-1], "1", "its number inside")
    equal(d.call("berth_status")["pid"], 1)
    for space in ("pid", "mnt", "net", "ipc", "uts"):
        check(os.readlink(f"/proc/{d.pid}/ns/{space}") != os.readlink(f"/proc/self/ns/{space}"), f"a name space of its own: {space}")
    with open(f"/proc/{d.pid}/mountinfo") as f:
        mounts = {line.split()[4]: line.split()[5].split(",") for line in f}
    writable = {path for path, options in mounts.items() if "rw" in options and not path.startswith(("/dev", "/proc"))}
    equal(writable, {d.folder}, "what it may write")
    with open(f"/proc/{d.pid}/limits") as f:
        limit = next(line for line in f if line.startswith("Max locked memory")).split()
    equal(limit[3:5], [str(box.MEMLOCK)] * 2, "bytes it may lock")
    d.call("berth_disk_create", name="disk0", size=16 * MIB)
    verify(t, d)
    equal((d.status("VmLck"), d.status("VmPin")), ("0 kB", "0 kB"), "locked and pinned")
    d.stop()
    check(not os.path.exists(d.socket) and not os.path.exists(d.path("disk0")), "its sockets are gone")


def test_aio_by_itself(t):
    d = start(t)
    p = berth(t, d, "disk", "create", "disk0", "32M", "--backend", "file")
    contains(p.stdout, "aio")
    for word in ("io_uring", "seccomp", "aio"):
        contains(p.stderr, word, "the note of disk create")
    equal(d.call("berth_disk_list")[0]["backend"], "aio")
    for method in ("bdev_uring_create", "berth_disk_create"):
        how = {"filename": d.path("state/disks/disk0.img")} if method == "bdev_uring_create" else {"size": MIB, "backend": "uring"}
        message = d.error(method, params={"name": "u", **how})["message"]
        for word in ("io_uring is not available", "container's seccomp filter", "aio does without it"):
            contains(message, word, method)
    equal([b["name"] for b in d.call("bdev_get_bdevs")], ["disk0"])
    equal(os.listdir(d.path("state/disks")), ["disk0.img"], "nothing is left of what failed")
    verify(t, d)


@harness.each(mode=["poll", "interrupt", "adaptive"])
def test_data(t, mode):
    d = start(t, "--mode", mode)
    d.call("berth_disk_create", name="disk0", size=32 * MIB)
    d.call("bdev_malloc_create", name="malloc", num_blocks=32 * MIB // 512, block_size=512)
    d.controller("vm-malloc", "malloc")
    verify(t, d)
    verify(t, d, "disk0", "--queues", "4", "--indirect")
    perf(t, d.path("vm-malloc"), "verify", "-q", "32", "-o", "64k", "-t", "0.5")
    d.stop()


@harness.each(mode=["adaptive", "interrupt"])
def test_idle(t, mode):
    d = start(t, "--mode", mode)
    stays_asleep(d, "alone")
    d.call("berth_disk_create", name="disk0", size=16 * MIB)
    verify(t, d)
    stays_asleep(d, "after a client")
    g = t.guest("""
dd if=/dev/zero of=/dev/vda bs=64k count=64 oflag=direct 2>/dev/null
echo "@@ ready"
read go
dd if=/dev/vda of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null
""", [d.path("disk0")])
    g.wait("ready")
    stays_asleep(d, "with an idle VM")
    g.send("go")
    g.finish()


def test_kill_and_restart(t):
    d = start(t)
    d.call("berth_disk_create", name="disk0", size=16 * MIB, backend="file")
    perf(t, d.path("disk0"), "write", "-q", "8", "-o", "64k", "-t", "0.5")
    disk = d.call("berth_disk_list")[0]
    with open(disk["file"], "rb") as f:
        before = f.read()
    check(any(before), "something was written")
    d.kill()
    check(os.path.exists(d.path("disk0")), "kill -9 leaves the sockets where they are")
    d = start(t)
    again = d.call("berth_disk_list")[0]
    for key in ("name", "size", "uuid", "backend", "file", "socket"):
        equal(again[key], disk[key], key)
    perf(t, d.path("disk0"), "randread", "-q", "8", "-t", "0.2")
    with open(disk["file"], "rb") as f:
        check(f.read() == before, "the file is as it was")
    verify(t, d)
    d.stop()
    start(t).stop()


def test_resize(t):
    d = start(t)
    file = d.call("berth_disk_create", name="disk0", size=16 * MIB, backend="file")["file"]
    behind = ["--offset", "16M", "--size", "16M"]
    p = perf(t, d.path("disk0"), "verify", "-t", "0.2", *behind, code=None)
    check(p.returncode > 0, "there is nothing behind the end yet")
    os.truncate(file, 32 * MIB)
    equal(d.call("bdev_aio_rescan", name="disk0"), True)
    equal(d.call("berth_disk_list")[0]["size"], 32 * MIB)
    verify(t, d, "disk0", *behind)


@harness.each(answer=["ENOSYS", "EPERM"])
def test_old_profile(t, answer):
    """A profile that has never heard of newer calls: waits are in whole milliseconds then, and all else is as ever."""
    deny = [word for name in NEWER_CALLS for word in ("--deny", f"{name}={answer}")]
    d = start(t, options=deny)
    d.call("berth_disk_create", name="disk0", size=16 * MIB)
    verify(t, d)
    # A second after a change its log is synced, by a timer: what is waited for in milliseconds comes, and only once.
    stays_asleep(d, "under an old profile")
    d.kill()
    d = start(t, options=deny)
    equal(d.call("berth_disk_list")[0]["name"], "disk0")
    d.stop()


def test_any_user(t):
    """Not only the one of the image: Kubernetes' runAsUser, that of a VMM for example."""
    if os.getuid() != 0:
        raise Skip("needs root, to give away a folder")
    d = start(t, uid=54321)
    equal(d.status("Uid").split()[0], "54321")
    d.call("berth_disk_create", name="disk0", size=16 * MIB)
    equal(os.stat(d.path("disk0")).st_uid, 54321)
    verify(t, d)


# ---- CPU quota ----

QUOTA_US, PERIOD_US = 20000, 100000


def cgroup_of(controller):
    """Where of this process's control groups a child may be given a CPU quota: (folder, is it version 2), or None."""
    with open("/proc/self/mountinfo") as f:
        mounts = [(line.split()[4], line.split(" - ")[1].split()) for line in f]
    with open("/proc/self/cgroup") as f:
        groups = {tuple(line.strip().split(":", 2)[1].split(",")): line.strip().split(":", 2)[2] for line in f}
    for point, (kind, _, options) in mounts:
        if kind == "cgroup2":
            # A group that has processes has no controllers for its children: one above it may.
            folder = point + groups.get(("",), "/").rstrip("/")
            while folder.startswith(point):
                with contextlib.suppress(OSError), open(f"{folder}/cgroup.subtree_control") as f:
                    if controller in f.read().split() and os.access(folder, os.W_OK):
                        return folder, True
                folder = os.path.dirname(folder)
        elif kind == "cgroup" and controller in options.split(","):
            path = next((path for names, path in groups.items() if controller in names), "/")
            folder = point + path.rstrip("/")
            if os.access(folder, os.W_OK) and os.path.exists(f"{folder}/cpu.cfs_quota_us"):
                return folder, False
    return None


def quota(t):
    """A new control group that has a fifth of a CPU, and goes with the test."""
    found = cgroup_of("cpu")
    if not found:
        raise Skip("no control group here in which a CPU quota can be set")
    try:
        group = tempfile.mkdtemp(prefix="berth-test-", dir=found[0])
    except OSError as e:
        raise Skip(f"no control group can be made: {e}") from None

    def remove():
        with contextlib.suppress(OSError):
            os.rmdir(group)
        return not os.path.exists(group)
    t.stack.append(lambda: until(remove, f"{group} can be removed"))
    for name, value in [("cpu.max", f"{QUOTA_US} {PERIOD_US}")] if found[1] else \
            [("cpu.cfs_period_us", str(PERIOD_US)), ("cpu.cfs_quota_us", str(QUOTA_US))]:
        box.write(os.path.join(group, name), value)
    return group


def cpu_stat(group, name):
    with open(os.path.join(group, "cpu.stat")) as f:
        return int(next(line.split()[1] for line in f if line.startswith(name + " ")))


@harness.each(mode=["interrupt", "adaptive"])
def test_quota(t, mode):
    """Slower, but right, and asleep when there is nothing to do."""
    group = quota(t)
    d = start(t, "--mode", mode, options=["--cgroup", group])
    d.call("berth_disk_create", name="disk0", size=16 * MIB)
    verify(t, d)
    check(cpu_stat(group, "nr_periods") > 0, "the quota is one")
    stays_asleep(d, "under a quota")
    d.stop()


@harness.each(mode=["poll", "adaptive"])
def test_quota_and_idle_client(t, mode):
    """
    A client that is connected and asks for nothing, for it is stopped. Polling then uses the quota up in each period, which
    docs/container.md warns of, and the default uses nothing.
    """
    group = quota(t)
    d = start(t, "--mode", mode, options=["--cgroup", group])
    d.call("berth_disk_create", name="disk0", size=16 * MIB)
    client = t.spawn([os.path.join(harness.BUILD, "berth"), "perf", "-s", d.path("disk0"), "-w", "randread", "-q", "1", "-t", "60",
                      "--mode", "interrupt", "--quiet"], stdout=subprocess.DEVNULL)

    def reads():
        return d.call("bdev_get_iostat", names=["disk0"])["bdevs"][0]["num_read_ops"]
    until(lambda: reads() > 100, "the client reads")
    client.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    done, before = reads(), cpu_stat(group, "nr_throttled")
    time.sleep(1)
    equal(reads(), done, "reads while the client is stopped")
    count = cpu_stat(group, "nr_throttled") - before
    # On a busy host a poll loop does not get its fifth of each period either.
    check(count > 0 if mode == "poll" else count == 0, f"throttled in {count} periods of 10")
    client.send_signal(signal.SIGCONT)
    until(lambda: reads() > done + 100, "the client goes on")


harness.main(globals())
