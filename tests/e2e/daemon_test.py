#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The daemon as a process: options, start and end, sockets, configuration file, state directory."""
import json
import os
import shutil
import signal
import socket
import stat
import subprocess

import harness
from harness import Failure, Rpc, RpcError, check, contains, equal, until

BERTHD = os.path.join(harness.BUILD, "berthd")


def fails(t, *args, **kw):
    """A start that must fail with one clear line: its standard error."""
    p = t.run([BERTHD, *args], code=None, timeout=60, **kw)
    check(p.returncode not in (0, None) and p.returncode > 0, f"exit code {p.returncode}: {p.stderr}")
    check(p.stderr.strip(), "no message")
    return p.stderr


def bdevs(d):
    return sorted(((b["name"], b["uuid"], b["block_size"], b["num_blocks"]) for b in d.call("bdev_get_bdevs")))


def controllers(d):
    return sorted(json.dumps({k: c[k] for k in ("ctrlr", "cpumask", "delay_base_us", "iops_threshold", "backend_specific")},
                             sort_keys=True) for c in d.call("vhost_get_controllers"))


def test_version_and_help(t):
    contains(t.run([BERTHD, "--version"]), "berth")
    contains(t.run([BERTHD, "--help"]), "--state-dir")


def test_wrong_options(t):
    sock = t.path("s")
    for args, word in [
        (["--no-such-option"], "no-such-option"),
        (["--mode", "fast"], "fast"),
        (["-m", "zz"], "zz"),
        (["-m", "0"], "0"),
        (["-m", "[4000]"], "4000"),
        (["-r"], "-r"),
        (["stray"], "stray"),
        (["-r", sock, "-S", t.dir, "-c", t.path("missing.json")], "missing.json"),
        (["-r", t.path("no/such/folder/s"), "-S", t.dir], "no/such/folder"),
        (["-r", t.path("x" * 120), "-S", t.dir], "xxx"),
        (["-r", sock, "-S", t.dir, "--state-dir", "/proc/nowhere"], "/proc/nowhere"),
    ]:
        contains(fails(t, *args), word, f"message of berthd {args}")
    check(not os.path.exists(sock), "a failed start leaves no socket")


def test_config_errors_name_the_thing(t):
    for text, word in [
        ("{", "bad.json"),
        ('{"subsystems": 5}', "subsystems"),
        ('{"subsystems": [{"subsystem": "bdev", "config": [{"method": "no_such_method"}]}]}', "no_such_method"),
        ('{"subsystems": [{"subsystem": "bdev", "config": [{"method": "bdev_null_create", "params": {"name": "n", '
         '"num_blocks": 8, "block_size": 512, "colour": 1}}]}]}', "colour"),
    ]:
        with open(t.path("bad.json"), "w") as f:
            f.write(text)
        contains(fails(t, "-r", t.path("s"), "-S", t.dir, "-c", t.path("bad.json")), word, text)


def test_second_instance_is_refused(t):
    d = t.daemon()
    message = fails(t, "-r", d.socket, "-S", d.folder)
    contains(message, d.socket)
    check(d.call("spdk_get_version"), "the first goes on")


def test_stale_socket_is_replaced(t):
    d = t.daemon()
    d.call("bdev_null_create", name="n", num_blocks=1024, block_size=512)
    d.controller("vm0", "n")
    d.kill()
    check(os.path.exists(d.socket) and os.path.exists(d.path("vm0")), "kill -9 leaves sockets")
    d = t.daemon()
    d.call("bdev_null_create", name="n", num_blocks=1024, block_size=512)
    d.controller("vm0", "n")
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(d.path("vm0"))


def test_file_in_place_of_socket_is_kept(t):
    with open(t.path("precious"), "w") as f:
        f.write("data")
    contains(fails(t, "-r", t.path("precious"), "-S", t.dir), "precious")
    with open(t.path("precious")) as f:
        equal(f.read(), "data")
    d = t.daemon()
    d.call("bdev_null_create", name="n", num_blocks=1024, block_size=512)
    with open(d.path("vm0"), "w") as f:
        f.write("data")
    error = d.error("vhost_create_blk_controller", -32602, {"ctrlr": "vm0", "dev_name": "n"})
    contains(error["message"], "vm0")
    with open(d.path("vm0")) as f:
        equal(f.read(), "data")


def test_live_socket_of_another_is_refused(t):
    d = t.daemon()
    d.call("bdev_null_create", name="n", num_blocks=1024, block_size=512)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(d.path("vm0"))
        s.listen()
        d.error("vhost_create_blk_controller", -32602, {"ctrlr": "vm0", "dev_name": "n"})
        os.stat(d.path("vm0"))


def test_sockets_are_the_owners_or_a_groups(t):
    d = t.daemon(folder="own")
    d.call("bdev_null_create", name="n", num_blocks=8, block_size=512)
    equal(stat.S_IMODE(os.stat(d.controller("vm", "n")).st_mode), 0o600)
    # A group of which this user is a member; root may give to any.
    group = 4711 if os.geteuid() == 0 else os.getgid()
    d = t.daemon("--socket-group", str(group), folder="shared")
    d.call("bdev_null_create", name="n", num_blocks=8, block_size=512)
    st = os.stat(d.controller("vm", "n"))
    equal((stat.S_IMODE(st.st_mode), st.st_gid), (0o660, group))
    equal(stat.S_IMODE(os.stat(d.socket).st_mode), 0o600, "the RPC socket is its owner's in any case")


@harness.each(mode=["poll", "interrupt", "adaptive"])
def test_sigterm_is_clean(t, mode):
    d = t.daemon("--mode", mode)
    d.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    d.controller("vm0", "m")
    waiting = d.rpc()
    d.stop()
    waiting.close()
    left = [n for n in os.listdir(d.folder) if n != "berthd.log"]
    equal(left, [], "left behind")


def test_sigint_and_kill_instance(t):
    d = t.daemon()
    d.tell_to_end(signal.SIGINT)
    d.stop()
    d = t.daemon()
    with d.rpc() as rpc:
        equal(rpc.call("spdk_kill_instance", sig_name="SIGTERM"), True)
    until(lambda: d.process.poll() is not None, "ended by spdk_kill_instance")
    equal(d.process.returncode, 0)


def test_wait_for_rpc(t):
    d = t.daemon("--wait-for-rpc")
    error = d.error("bdev_get_bdevs", -1)
    check(error["message"], "says why")
    equal(d.call("bdev_set_options", bdev_auto_examine=True), True)
    check("bdev_get_bdevs" not in d.call("rpc_get_methods", current=True), "methods of the present state alone")
    waiting = d.rpc()
    waiting.send(json.dumps(waiting.request("framework_wait_init")))
    equal(d.call("framework_start_init"), True)
    equal(waiting.receive().get("result"), True)
    waiting.close()
    d.error("framework_start_init", -1)
    equal(d.call("bdev_get_bdevs"), [])


def test_notify_readiness(t):
    path = t.path("notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind(path)
        s.settimeout(20 * harness.PATIENCE)
        d = t.daemon(env={"NOTIFY_SOCKET": path}, ready=False)
        said = s.recv(4096).decode()
        contains(said, "READY=1")
        check(d.call("spdk_get_version"), "ready means that it answers")
        d.tell_to_end()
        contains(s.recv(4096).decode(), "STOPPING=1")


def fill(t, d):
    """One of everything."""
    with open(t.path("a.img"), "wb") as f:
        f.truncate(8 << 20)
    with open(t.path("u.img"), "wb") as f:
        f.truncate(8 << 20)
    d.call("bdev_null_create", name="n", num_blocks=1024, block_size=4096)
    d.call("bdev_malloc_create", num_blocks=2048, block_size=512)
    d.call("bdev_aio_create", name="a", filename=t.path("a.img"), block_size=512)
    if harness.has_uring():
        d.call("bdev_uring_create", name="u", filename=t.path("u.img"), block_size=4096)
    d.controller("vm0", "n")
    d.controller("vm1", "Malloc0", readonly=True, cpumask="0x1")
    d.call("vhost_controller_set_coalescing", ctrlr="vm1", delay_base_us=30, iops_threshold=5000)


def test_config_round_trip(t):
    d = t.daemon(folder="1")
    fill(t, d)
    saved = t.berth("config", "save", daemon=d)
    check(isinstance(json.loads(saved)["subsystems"], list), "SPDK's shape")
    want = bdevs(d), controllers(d)
    d.stop()
    with open(t.path("saved.json"), "w") as f:
        f.write(saved)
    d = t.daemon("-c", t.path("saved.json"), folder="2")
    equal((bdevs(d), controllers(d)), want)
    equal(t.berth("config", "save", daemon=d), saved, "saved again")
    d.stop()
    # And by `berth config load` into a daemon that runs.
    d = t.daemon(folder="3")
    t.berth("config", "load", t.path("saved.json"), daemon=d)
    equal((bdevs(d), controllers(d)), want)


def test_spdk_configuration_file(t):
    """As rpc.py save_config of an SPDK vhost target writes it: subsystems that are not ours are null or empty."""
    config = {"subsystems": [
        {"subsystem": "scheduler", "config": [{"method": "framework_set_scheduler", "params": {"name": "static"}}]},
        {"subsystem": "vmd", "config": []},
        {"subsystem": "sock", "config": None},
        {"subsystem": "bdev", "config": [
            {"method": "bdev_set_options", "params": {"bdev_io_pool_size": 65535, "bdev_io_cache_size": 256,
                                                      "bdev_auto_examine": True, "iobuf_small_cache_size": 128,
                                                      "iobuf_large_cache_size": 16}},
            {"method": "bdev_malloc_create", "params": {
                "name": "Malloc0", "num_blocks": 32768, "block_size": 512, "physical_block_size": 512,
                "uuid": "12345678-1234-4234-8234-123456789abc", "optimal_io_boundary": 0, "md_size": 0, "dif_type": 0,
                "dif_is_head_of_md": False, "dif_pi_format": 0}},
            {"method": "bdev_wait_for_examine"}]},
        {"subsystem": "vhost_blk", "config": [
            {"method": "vhost_create_blk_controller", "params": {
                "ctrlr": "vm0", "dev_name": "Malloc0", "cpumask": "1", "readonly": False, "transport": "vhost_user_blk"}}]},
    ]}
    config["subsystems"][0]["config"] = []
    with open(t.path("spdk.json"), "w") as f:
        json.dump(config, f)
    d = t.daemon("-c", t.path("spdk.json"))
    equal(bdevs(d), [("Malloc0", "12345678-1234-4234-8234-123456789abc", 512, 32768)])
    equal([c["ctrlr"] for c in d.call("vhost_get_controllers")], ["vm0"])


def test_state_survives_kill(t):
    """Every answer that came is remembered, however soon the kill -9; what was deleted stays deleted."""
    state = t.path("state")
    d = t.daemon("--state-dir", state, folder="s")
    fill(t, d)
    d.call("bdev_null_create", name="gone", num_blocks=8, block_size=512)
    d.call("bdev_null_delete", name="gone")
    want = bdevs(d), controllers(d)
    d.kill()
    for i in range(5):
        d = t.daemon("--state-dir", state, folder="s")
        equal((bdevs(d), controllers(d)), want, f"after kill {i + 1}")
        check(os.path.exists(d.path("vm0")), "sockets are back")
        with d.rpc() as rpc:
            rpc.call("bdev_null_create", name=f"k{i}", num_blocks=8, block_size=512)
            d.process.kill()
        want[0].append((f"k{i}", None, 512, 8))
        d.kill()
        d = t.daemon("--state-dir", state, folder="s")
        names = [b[0] for b in bdevs(d)]
        check(f"k{i}" in names, f"k{i} was answered and is gone after kill -9: {names}")
        want = bdevs(d), controllers(d)
        d.kill()


def test_state_survives_sigterm(t):
    state = t.path("state")
    d = t.daemon("--state-dir", state, folder="s")
    fill(t, d)
    want = bdevs(d), controllers(d)
    d.stop()
    d = t.daemon("--state-dir", state, folder="s")
    equal((bdevs(d), controllers(d)), want)


def test_state_dir_has_one_owner(t):
    state = t.path("state")
    d = t.daemon("--state-dir", state, folder="s")
    message = fails(t, "-r", t.path("other.sock"), "-S", t.dir, "--state-dir", state)
    contains(message, state)
    check(d.call("spdk_get_version"))


def test_torn_state_log(t):
    """Half a last line, as a power cut leaves it, costs that line alone."""
    state = t.path("state")
    d = t.daemon("--state-dir", state, folder="s")
    for i in range(3):
        d.call("bdev_null_create", name=f"n{i}", num_blocks=8, block_size=512)
    d.kill()
    logs = [os.path.join(state, n) for n in os.listdir(state) if os.path.isfile(os.path.join(state, n))]
    logs = [p for p in logs if b"bdev_null_create" in open(p, "rb").read()]
    equal(len(logs), 1, "files that hold the state")
    with open(logs[0], "rb+") as f:
        f.truncate(os.path.getsize(logs[0]) - 7)
    d = t.daemon("--state-dir", state, folder="s")
    equal([b[0] for b in bdevs(d)], ["n0", "n1"])
    d.call("bdev_null_create", name="n3", num_blocks=8, block_size=512)
    d.kill()
    d = t.daemon("--state-dir", state, folder="s")
    equal([b[0] for b in bdevs(d)], ["n0", "n1", "n3"])


def test_delete_under_use(t):
    """A bdev that goes away takes its controller's session with it, and nothing else."""
    d = t.daemon()
    d.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    d.call("bdev_null_create", name="n", num_blocks=2048, block_size=512)
    d.controller("vm0", "m")
    d.controller("vm1", "n")
    equal(d.call("bdev_malloc_delete", name="m"), True)
    d.call("bdev_malloc_create", name="m2", num_blocks=2048, block_size=512)
    equal(d.call("vhost_delete_controller", ctrlr="vm0"), True)
    check(not os.path.exists(d.path("vm0")), "its socket is gone")
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(d.path("vm1"))


def test_files_that_are_no_disks(t):
    d = t.daemon()
    with open(t.path("odd.img"), "wb") as f:
        f.truncate(1000)
    with open(t.path("empty.img"), "wb"):
        pass
    os.mkfifo(t.path("fifo"))
    for name in ("odd.img", "empty.img", "fifo"):
        for kind in ["aio"] + (["uring"] if harness.has_uring() else []):
            error = d.error(f"bdev_{kind}_create", None, {"name": "x", "filename": t.path(name), "block_size": 512})
            contains(error["message"], name)
    equal(d.call("bdev_get_bdevs"), [])
    if os.getuid() != 0:
        with open(t.path("secret.img"), "wb") as f:
            f.truncate(4096)
        os.chmod(t.path("secret.img"), 0)
        error = d.error("bdev_aio_create", -13, {"name": "x", "filename": t.path("secret.img"), "block_size": 512})
        contains(error["message"], "secret.img")


def test_runs_without_rights(t):
    """As nobody, where root runs this test: no capability, no hugepages, no pinned CPU is needed."""
    if os.getuid() != 0:
        raise harness.Skip("runs without rights already")
    os.chmod(t.dir, 0o777)
    os.mkdir(t.path("d"))
    os.chown(t.path("d"), 65534, 65534)
    # A copy: nobody may not look into every folder that something is built in.
    program = shutil.copy(BERTHD, t.path("berthd"))
    d = t.daemon(program=program, prefix=("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                                          "--inh-caps=-all", "--bounding-set=-all"))
    d.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    d.controller("vm0", "m")


def test_gains_no_rights(t):
    """All of its threads: whatever berthd is made to start, set-user-ID programs give it nothing."""
    d = t.daemon()
    tasks = f"/proc/{d.pid}/task"
    for task in os.listdir(tasks):
        with open(f"{tasks}/{task}/status") as f:
            contains(f.read(), "NoNewPrivs:\t1", task)


def test_disk_falls_back_to_aio(t):
    """Where io_uring is forbidden: bdev_uring_create says so, a disk is made with aio and says so."""
    blocker = t.path("nouring.py")
    with open(blocker, "w") as f:
        f.write(SECCOMP_BLOCKER)
    d = t.daemon("--state-dir", t.path("state"), prefix=("python3", blocker))
    with open(t.path("u.img"), "wb") as f:
        f.truncate(1 << 20)
    error = d.error("bdev_uring_create", None, {"name": "u", "filename": t.path("u.img")})
    contains(error["message"], "io_uring")
    disk = d.call("berth_disk_create", name="disk0", size=1 << 20, backend="file")
    equal(disk["backend"], "aio")
    contains(disk["note"], "io_uring")


# Loads a seccomp filter that answers io_uring_setup with EPERM, as container engines do, then runs the program.
SECCOMP_BLOCKER = r'''
import ctypes, os, struct, sys
def ins(code, jt, jf, k):
    return struct.pack("HBBI", code, jt, jf, k)
prog = ins(0x20, 0, 0, 0) + ins(0x15, 0, 1, 425) + ins(0x06, 0, 0, 0x00050001) + ins(0x06, 0, 0, 0x7fff0000)
buf = ctypes.create_string_buffer(prog)
class Fprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
fp = Fprog(4, ctypes.addressof(buf))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(fp)):
    sys.exit("seccomp: " + os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
'''

harness.main(globals())
