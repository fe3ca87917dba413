#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The NBD server under clients that others wrote: libnbd and its tools, QEMU's, fio; and berth export."""
import json
import os
import shutil
import signal
import subprocess
import time

import harness
from harness import check, contains, equal, until

MIB = 1 << 20
MODES = ["poll", "interrupt", "adaptive"]
# libnbd's module for Python is Debian's; a test may run under another interpreter.
PYTHON = "/usr/bin/python3"


def need(*programs):
    for program in programs:
        if not shutil.which(program):
            raise harness.Skip(f"{program} is not installed")


def need_libnbd():
    if not os.access(PYTHON, os.X_OK) or subprocess.run([PYTHON, "-c", "import nbd"], capture_output=True).returncode != 0:
        raise harness.Skip("python3-libnbd is not installed")


def served(t, *args, mib=64, name="m0", block_size=512):
    """A daemon with a malloc bdev on a unix socket."""
    d = t.daemon(*args)
    d.call("bdev_malloc_create", name=name, num_blocks=mib * MIB // block_size, block_size=block_size)
    d.call("berth_nbd_server_create", path=d.path("n.sock"))
    d.call("berth_nbd_export_create", bdev_name=name, description="of a test")
    return d


def uri(d, export="m0"):
    return f"nbd+unix:///{export}?socket={d.path('n.sock')}"


def python(t, script, **kw):
    need_libnbd()
    return t.run([PYTHON, "-c", "import nbd, sys\n" + script], **kw)


def pattern(t, name, mib):
    path = t.path(name)
    with open(path, "wb") as f:
        for i in range(mib):
            # Every third MiB is a hole.
            f.seek(i * MIB)
            if i % 3 != 1:
                f.write(os.urandom(MIB))
        f.truncate(mib * MIB)
    return path


def connections(d, export="m0"):
    return d.call("berth_nbd_get_exports", name=export)[0]["connections"]


# ---- What clients see ----

def test_nbdinfo(t):
    need("nbdinfo")
    d = served(t)
    info = json.loads(t.run(["nbdinfo", "--json", uri(d)]))
    (export,) = info["exports"]
    equal(info["protocol"], "newstyle-fixed")
    equal(info["structured"], True)
    equal(export["export-size"], 64 * MIB)
    equal(export["description"], "of a test")
    equal(export["contexts"], ["base:allocation"])
    for feature in ("cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"):
        equal(export[f"can_{feature}"], True, feature)
    equal(tuple(export[f"block_size_{what}"] for what in ("minimum", "preferred", "maximum")), (512, 4096, 32 * MIB))
    d.call("berth_nbd_export_create", bdev_name="m0", name="read only: ünd", readonly=True)
    listed = json.loads(t.run(["nbdinfo", "--list", "--json", uri(d, "")]))
    equal([e["export-name"] for e in listed["exports"]], ["m0", "read only: ünd"])
    equal(listed["exports"][1]["is_read_only"], True)


@harness.each(mode=MODES)
def test_libnbd(t, mode):
    d = served(t)
    d.call("berth_set_mode", mode=mode)
    out = python(t, """
h = nbd.NBD()
h.add_meta_context("base:allocation")
h.connect_uri(sys.argv[1])
block = bytes(range(256)) * 16
h.pwrite(block, 8192)
assert h.pread(4096, 8192) == block
assert h.pread(512, 8192 + 512) == block[512:1024]
big = bytes(i & 0xff or 1 for i in range(1 << 16)) * 336   # 21 MiB
h.pwrite(big, 1 << 20, nbd.CMD_FLAG_FUA)
assert h.pread(len(big), 1 << 20) == big
h.zero(1 << 20, 2 << 20)
h.zero(512, 4 << 20, nbd.CMD_FLAG_NO_HOLE)
h.zero(1 << 20, 6 << 20, nbd.CMD_FLAG_FAST_ZERO)
h.trim(1 << 20, 8 << 20)
h.cache(1 << 20, 0)
h.flush()
assert h.pread(1 << 20, 2 << 20) == bytes(1 << 20)
assert h.pread(1 << 20, 3 << 20) == big[2 << 20:3 << 20]
chunks = []
whole = h.pread_structured(5 << 20, 0, lambda data, offset, what, err: chunks.append(what), nbd.CMD_FLAG_DF)
assert whole[8192:8192 + 4096] == block and chunks == [nbd.READ_DATA], chunks
h.pread_structured(5 << 20, 0, lambda data, offset, what, err: chunks.append(what))
assert nbd.READ_HOLE in chunks
extents = []
h.block_status(h.get_size(), 0, lambda c, o, e, err: extents.extend(e))
assert sum(extents[::2]) == h.get_size(), extents
assert 3 in extents[1::2] and 0 in extents[1::2], extents
# A raw request beyond the end, which the library would refuse to send.
h.set_strict_mode(0)
for call, code in ((lambda: h.pread(512, h.get_size()), "EINVAL"), (lambda: h.pwrite(bytes(512), h.get_size()), "ENOSPC"),
                   (lambda: h.pread(512, 1), "EINVAL"), (lambda: h.pwrite(bytes(100), 0), "EINVAL")):
    try:
        call()
        print("not refused")
    except nbd.Error as e:
        assert e.errno == code, e
assert h.pread(4096, 8192) == block
h.shutdown()
print("done")
""" .replace("sys.argv[1]", repr(uri(d))))
    equal(out.strip(), "done")
    until(lambda: connections(d) == 0, "the client is gone")


def test_simple_replies(t):
    """A client without structured replies, and one that knows only the oldest way to choose."""
    d = served(t)
    equal(python(t, f"""
h = nbd.NBD()
h.set_request_structured_replies(False)
h.connect_uri({uri(d)!r})
assert not h.get_structured_replies_negotiated()
h.pwrite(b"x" * 512, 1024)
assert h.pread(4 << 20, 0) == bytes(1024) + b"x" * 512 + bytes((4 << 20) - 1536)
h.shutdown()
print("done")
""").strip(), "done")


# ---- Copying ----

@harness.each(tool=["nbdcopy", "qemu-img"])
def test_copy(t, tool):
    need(tool)
    d = served(t, mib=48)
    image, back = pattern(t, "image", 48), t.path("back")
    if tool == "nbdcopy":
        t.run(["nbdcopy", image, uri(d)])
        t.run(["nbdcopy", uri(d), back])
    else:
        t.run(["qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, uri(d)])
        t.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", uri(d), back])
        t.run(["qemu-img", "compare", "-f", "raw", "-F", "raw", image, uri(d)])
        stretches = json.loads(t.run(["qemu-img", "map", "--output=json", "-f", "raw", uri(d)]))
        check(any(m["zero"] for m in stretches) and any(m["data"] for m in stretches), "holes are seen")
    t.run(["cmp", image, back])
    check(os.stat(back).st_blocks * 512 < 40 * MIB, "holes stay holes")


def test_qemu_io(t):
    need("qemu-io")
    d = served(t)
    out = t.run(["qemu-io", "-f", "raw", "-c", "write -P 7 1M 3M", "-c", "write -z -u 2M 64k", "-c", "discard 3M 64k",
                 "-c", "read -P 7 1M 1M", "-c", "read -P 0 2M 64k", "-c", "flush", "-c", "write -f -P 9 5M 4k",
                 "-c", "read -P 9 5M 4k", uri(d)])
    check("failed" not in out and "Pattern" not in out, out)


# ---- Load ----

@harness.each(mode=MODES)
def test_fio_verifies(t, mode):
    need("fio")
    d = served(t)
    d.call("berth_set_mode", mode=mode)
    p = t.run(["fio", "--ioengine=nbd", f"--uri={uri(d)}", "--name=v", "--rw=randrw", "--bsrange=512-256k", "--iodepth=32",
               "--size=16M", "--verify=crc32c", "--verify_fatal=1", "--randseed=5", "--numjobs=2", "--offset_increment=16M",
               "--group_reporting"], code=None, cwd=t.path("."))
    if "engine nbd not loadable" in p.stderr + p.stdout:
        raise harness.Skip("fio is built without its nbd engine")
    equal(p.returncode, 0, p.stdout[-1500:] + p.stderr[-1500:])


def test_many_connections(t):
    """Four connections of a client, written by one and flushed by another; they come to different I/O threads."""
    d = served(t, "-m", "0x3") if os.cpu_count() > 1 else served(t)
    equal(python(t, f"""
handles = []
for i in range(4):
    h = nbd.NBD()
    h.connect_uri({uri(d)!r})
    assert h.can_multi_conn()
    handles.append(h)
for i in range(200):
    handles[i % 4].pwrite(bytes([i]) * 4096, i * 4096)
    handles[(i + 1) % 4].flush()
    assert handles[(i + 2) % 4].pread(4096, i * 4096) == bytes([i]) * 4096
print("\\n".join(["done"]))
sys.stdout.flush()
sys.stdin.read()
for h in handles: h.shutdown()
""", input="").strip(), "done")
    with subprocess.Popen([PYTHON, "-c", f"import nbd, sys\nhs = [nbd.NBD() for i in range(4)]\n"
                           f"for h in hs: h.connect_uri({uri(d)!r}); h.pread(512, 0)\nprint('up', flush=True); sys.stdin.read()"],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        equal(p.stdout.readline().strip(), "up")
        clients = d.call("berth_nbd_get_exports")[0]["clients"]
        equal(len(clients), 4)
        equal(len({c["thread"] for c in clients}), min(2, os.cpu_count()))
        equal({(c["replies"], c["reads"], c["bytes_read"], c["peer"]) for c in clients}, {("structured", 1, 512, "unix")})
        p.stdin.close()
    until(lambda: connections(d) == 0, "the clients are gone")


# ---- The end of things, under load ----

def busy(t, d, seconds=20):
    p = t.spawn([PYTHON, "-c", f"""
import nbd, time
h = nbd.NBD()
h.connect_uri({uri(d)!r})
print("up", flush=True)
end = time.time() + {seconds}
try:
    n = 0
    while time.time() < end:
        h.pwrite(bytes(65536), n % 512 * 65536)
        h.pread(65536, n % 256 * 65536)
        n += 1
except nbd.Error as e:
    print("ended", flush=True)
"""], stdout=subprocess.PIPE, text=True)
    equal(p.stdout.readline().strip(), "up")
    return p


@harness.each(end=["bdev", "export", "server", "daemon"])
def test_ends_under_load(t, end):
    need_libnbd()
    d = served(t)
    clients = [busy(t, d) for _ in range(2)]
    time.sleep(0.2)
    if end == "bdev":
        d.call("bdev_malloc_delete", name="m0")
        equal(d.call("berth_nbd_get_exports")[0]["bdev_name"], None)
    elif end == "export":
        d.call("berth_nbd_export_delete", name="m0")
    elif end == "server":
        d.call("berth_nbd_server_delete", name="nbd")
        check(not os.path.exists(d.path("n.sock")), "the socket is gone")
    else:
        d.stop()
    for p in clients:
        equal(p.communicate(timeout=60)[0].strip(), "ended")


def test_client_is_killed(t):
    need_libnbd()
    d = served(t)
    before = d.fd_count()
    for _ in range(3):
        clients = [busy(t, d) for _ in range(3)]
        time.sleep(0.1)
        for p in clients:
            p.kill()
            p.wait()
    until(lambda: connections(d) == 0, "the clients are gone")
    until(lambda: d.fd_count() <= before, "so are their descriptors")


# ---- TLS ----

def certificates(t):
    """A folder as certtool makes it, and a file of keys."""
    need("certtool", "psktool")
    folder = t.path("tls")
    os.mkdir(folder)
    templates = {"ca": "cn = test CA\nca\ncert_signing_key\n", "server": "cn = localhost\ndns_name = localhost\n"
                 "tls_www_server\nsigning_key\nencryption_key\n", "client": "cn = client\ntls_www_client\nsigning_key\n"}
    for name, text in templates.items():
        with open(os.path.join(folder, name + ".info"), "w") as f:
            f.write(text)
        key, cert = (os.path.join(folder, f"{name}-{kind}.pem") for kind in ("key", "cert"))
        t.run(["certtool", "--generate-privkey", "--key-type", "ecdsa", "--outfile", key])
        how = ["--generate-self-signed"] if name == "ca" else [
            "--generate-certificate", "--load-ca-certificate", os.path.join(folder, "ca-cert.pem"), "--load-ca-privkey",
            os.path.join(folder, "ca-key.pem")]
        t.run(["certtool", *how, "--load-privkey", key, "--template", os.path.join(folder, name + ".info"), "--outfile", cert])
    keys = t.path("keys.psk")
    t.run(["psktool", "-u", "alice", "-p", keys])
    return folder, keys


def test_tls(t):
    need("nbdinfo", "nbdcopy", "qemu-img")
    folder, keys = certificates(t)
    d = served(t, mib=16)
    d.call("berth_nbd_server_create", name="tls", tcp="localhost:0", tls_certs=folder, tls_psk=keys, tls_verify_peer=True)
    server = d.call("berth_nbd_get_servers", name="tls")[0]
    equal(server["tls"], "required")
    port = server["address"].rsplit(":", 1)[1]
    image, back = pattern(t, "image", 16), t.path("back")
    by_key = f"nbds://alice@localhost:{port}/m0?tls-psk-file={keys}"
    by_certificate = f"nbds://localhost:{port}/m0?tls-certificates={folder}"
    contains(t.run(["nbdinfo", by_key]), "with TLS")
    t.run(["nbdcopy", image, by_key])
    t.run(["nbdcopy", by_certificate, back])
    t.run(["cmp", image, back])
    # Without TLS nothing is learnt, with a wrong key nothing is served.
    p = t.run(["nbdinfo", "--list", f"nbd://localhost:{port}/"], code=None)
    check(p.returncode != 0 and "m0" not in p.stdout + p.stderr, "without TLS nothing is listed")
    wrong = t.path("wrong.psk")
    with open(wrong, "w") as f:
        f.write("alice:" + "00" * 32 + "\n")
    check(t.run(["nbdinfo", f"nbds://alice@localhost:{port}/m0?tls-psk-file={wrong}"], code=None).returncode != 0,
          "a wrong key is refused")
    # QEMU's client speaks to it, too.
    out = t.run(["qemu-img", "info", "--object", f"tls-creds-x509,id=t,dir={folder},endpoint=client",
                 "--image-opts", f"driver=nbd,host=localhost,port={port},export=m0,tls-creds=t"])
    contains(out, "16 MiB")
    with subprocess.Popen([PYTHON, "-c", f"import nbd, sys\nh = nbd.NBD()\n"
                           f"h.set_uri_allow_local_file(True)\nh.connect_uri({by_key!r})\nprint('up', flush=True)\n"
                           "sys.stdin.read()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as p:
        if p.stdout.readline().strip() == "up":
            client = d.call("berth_nbd_get_exports")[0]["clients"][0]
            equal((client["tls"], client["user"], client["server"]), (True, "alice", "tls"))
        p.stdin.close()


# ---- State, configuration, the command ----

def test_survives_kill(t):
    need("nbdinfo")
    d = t.daemon("--state-dir", t.path("state"))
    t.berth("disk", "create", "web0", "16M", daemon=d)
    where = t.berth("export", "web0", "--unix", d.path("n.sock"), "--description", "the web", daemon=d).strip()
    t.berth("export", "web0", "--name", "ro", "--read-only", daemon=d)
    d.call("berth_nbd_server_create", name="gone", path=d.path("gone.sock"))
    d.call("berth_nbd_server_delete", name="gone")
    before = (d.call("berth_nbd_get_servers"), d.call("berth_nbd_get_exports"))
    d.kill()
    d = t.daemon("--state-dir", t.path("state"))
    equal((d.call("berth_nbd_get_servers"), d.call("berth_nbd_get_exports")), before)
    contains(t.run(["nbdinfo", where]), "the web")
    config = {s["subsystem"]: s["config"] for s in json.loads(t.berth("config", "save", daemon=d))["subsystems"]}
    equal([c["method"] for c in config["nbd"]],
          ["berth_nbd_server_create", "berth_nbd_export_create", "berth_nbd_export_create"])
    t.berth("export", "--remove", "web0", daemon=d)
    t.berth("export", "--remove", "ro", daemon=d)
    d.kill()
    d = t.daemon("--state-dir", t.path("state"))
    equal(d.call("berth_nbd_get_exports"), [])


def test_export_command(t):
    need("nbdinfo")
    d = t.daemon()
    d.call("bdev_malloc_create", name="m0", num_blocks=8192, block_size=512)
    d.call("bdev_malloc_create", name="m1", num_blocks=8192, block_size=512)
    default = t.berth("export", "m0", daemon=d).strip()
    equal(default, f"nbd+unix:///m0?socket={d.path('nbd')}")
    tcp = t.berth("export", "m1", "--tcp", "localhost:0", "--name", "a name/b", "--read-only", daemon=d).strip()
    contains(tcp, "/a%20name%2Fb")
    for where in (default, tcp):
        contains(t.run(["nbdinfo", where]), "export-size: 4194304")
    contains(t.run(["nbdinfo", tcp]), "is_read_only: true")
    out = t.berth("export", "--list", daemon=d)
    equal([e["server"] for e in json.loads(t.berth("export", "--list", "--json", daemon=d))["exports"] if e["name"] == "m0"],
          ["nbd"], "what was given no address is on no network")
    contains(out, default)
    contains(out, "read-only")
    equal(len(json.loads(t.berth("export", "--list", "--json", daemon=d))["exports"]), 2)
    contains(t.berth("export", "m0", daemon=d, code=None).stderr, "already")
    contains(t.berth("export", "nothing", "--unix", d.path("x.sock"), daemon=d, code=None).stderr, "nothing")
    check(not os.path.exists(d.path("x.sock")), "what was made for nothing is gone")
    equal(t.berth("export", "m0", "--unix", "a", "--tcp", "b", daemon=d, code=None).returncode, 2)
    equal(t.berth("export", "m0", "--tls-psk", "a", daemon=d, code=None).returncode, 2)
    contains(t.berth("export", "m0", "--tcp", "example.org:1", "--name", "y", daemon=d, code=None).stderr, "IP address")
    t.berth("export", "--remove", "a name/b", daemon=d)
    equal([s["name"] for s in d.call("berth_nbd_get_servers")], ["nbd"])
    t.berth("export", "--remove", "m0", daemon=d)
    equal(t.berth("export", "--remove", "m0", daemon=d, code=None).returncode, 1)


def test_what_is_wrong_is_said(t):
    d = served(t)
    for code, method, params, words in [
            (-17, "berth_nbd_export_create", {"bdev_name": "m0"}, "already"),
            (-19, "berth_nbd_export_create", {"bdev_name": "m7"}, "m7"),
            (-19, "berth_nbd_export_create", {"bdev_name": "m0", "name": "x", "server": "none"}, "none"),
            (-19, "berth_nbd_export_delete", {"name": "x"}, "x"),
            (-19, "berth_nbd_get_exports", {"name": "x"}, "x"),
            (-17, "berth_nbd_server_create", {}, "nbd"),
            (-22, "berth_nbd_server_create", {"name": "x", "tcp": "somewhere"}, "HOST:PORT"),
            (-22, "berth_nbd_server_create", {"name": "x", "tls": "required"}, "TLS"),
            (-2, "berth_nbd_server_create", {"name": "x", "tls_certs": "/nowhere"}, "/nowhere/server-cert.pem"),
            (-98, "berth_nbd_server_create", {"name": "x", "path": d.path("n.sock")}, "in use"),
            (-19, "berth_nbd_server_delete", {"name": "x"}, "x"),
            (-19, "berth_nbd_get_servers", {"name": "x"}, "x"),
            (-19, "nbd_start_disk", {"bdev_name": "none", "nbd_device": "/dev/nbd0"}, "none"),
            (-19, "nbd_start_disk", {"bdev_name": "m0", "nbd_device": "/dev/sda"}, "/dev/sda"),
            (-19, "nbd_stop_disk", {"nbd_device": "/dev/nbd0"}, "/dev/nbd0"),
            (-19, "nbd_get_disks", {"nbd_device": "/dev/nbd0"}, "/dev/nbd0")]:
        contains(d.error(method, code, params)["message"], words, method)
    equal(d.call("nbd_get_disks"), [])


def test_kernel_without_nbd(t):
    if os.path.exists("/sys/module/nbd"):
        raise harness.Skip("this kernel has nbd")
    d = served(t)
    error = d.error("nbd_start_disk", None, {"bdev_name": "m0", "nbd_device": "/dev/nbd0"})
    check(error["code"] in (-19, -1, -93), error)
    equal(d.call("nbd_get_disks"), [])
    # Nothing of it is left: the bdev can go.
    d.call("berth_nbd_export_delete", name="m0")
    d.call("bdev_malloc_delete", name="m0")


# ---- A disk of this machine ----

def test_mounted(t):
    """nbdfuse makes a file of the export, losetup a disk of the file: a file system is made, filled and checked."""
    need("nbdfuse", "losetup", "mkfs.ext4")
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse") or not os.path.exists("/dev/loop-control"):
        raise harness.Skip("takes root, FUSE and loop devices")
    d = served(t, mib=32)
    folder, mounted = t.path("fuse"), t.path("mnt")
    os.mkdir(folder)
    os.mkdir(mounted)
    p = t.spawn(["nbdfuse", folder, uri(d)])
    until(lambda: os.path.exists(os.path.join(folder, "nbd")), "nbdfuse shows the file")
    loop = None
    try:
        loop = t.run(["losetup", "--find", "--show", os.path.join(folder, "nbd")], code=None).stdout.strip()
        if not loop:
            raise harness.Skip("no loop device is to be had")
        t.run(["mkfs.ext4", "-q", loop])
        if t.run(["mount", loop, mounted], code=None).returncode == 0:
            with open(os.path.join(mounted, "file"), "wb") as f:
                f.write(b"x" * 5 * MIB)
            t.run(["umount", mounted])
        t.run(["e2fsck", "-fn", loop])
    finally:
        if loop:
            t.run(["losetup", "-d", loop], code=None)
        t.run(["umount", folder], code=None)
        p.send_signal(signal.SIGTERM)
        p.wait(60)


# ---- The kernel's device, in a guest whose kernel has nbd ----

KERNEL = r"""
export BERTH_SOCKET=/run/berth.sock
start() {
	berthd -r $BERTH_SOCKET -S /run --state-dir /data/state >>/tmp/log 2>&1 &
	pid=$!
	for i in $(seq 200); do berth status >/dev/null 2>&1 && return; sleep 0.1; done
	cat /tmp/log; exit 1
}
mkdir -p /data
mount -t tmpfs none /data
start
berth disk create d 96M --backend aio
berth rpc bdev_malloc_create name=m num_blocks=8192 block_size=512
[ "$(berth rpc nbd_start_disk bdev_name=d)" = '"/dev/nbd0"' ]
berth rpc nbd_start_disk bdev_name=m nbd_device=/dev/nbd3
berth rpc nbd_start_disk bdev_name=m nbd_device=/dev/nbd0 && exit 1
[ "$(cat /sys/block/nbd0/size)" = 196608 ]
[ "$(cat /sys/block/nbd3/size)" = 8192 ]
mkfs.ext4 -q -F /dev/nbd0
mount -t ext4 /dev/nbd0 /mnt
dd if=/dev/urandom of=/mnt/a bs=1M count=8 2>/dev/null
sync
(cd /mnt && sha256sum a >sums)
echo "@@ ready"
# A writer that is at it while berthd dies, and goes on with the next one.
(
	for i in 1 2 3 4 5 6; do dd if=/dev/zero of=/mnt/b$i bs=1M count=4 conv=fsync 2>/dev/null || echo failed; done >/tmp/writer
	echo done >>/tmp/writer
) &
sleep 0.5
kill -9 $pid
sleep 1
echo "@@ killed"
start
echo "@@ started"
for i in $(seq 900); do grep -q done /tmp/writer && break; sleep 0.1; done
grep -q done /tmp/writer
grep -q failed /tmp/writer && exit 1
sync
echo 3 >/proc/sys/vm/drop_caches
(cd /mnt && sha256sum -c sums >/dev/null)
echo "@@ went on"
# A clean end keeps it, too; so does the next start.
kill $pid
wait $pid
start
(cd /mnt && dd if=/mnt/a of=/dev/null bs=1M iflag=direct 2>/dev/null && sha256sum -c sums >/dev/null)
umount /mnt
fsck.ext4 -fn /dev/nbd0 >/tmp/fsck 2>&1 || { cat /tmp/fsck; exit 1; }
berth rpc nbd_get_disks
# A bdev that goes takes its device along.
berth rpc bdev_malloc_delete name=m
for i in $(seq 100); do [ -e /sys/block/nbd3/pid ] || break; sleep 0.1; done
[ ! -e /sys/block/nbd3/pid ]
berth rpc nbd_stop_disk nbd_device=/dev/nbd0
[ ! -e /sys/block/nbd0/pid ]
[ "$(berth rpc nbd_get_disks)" = "[]" ]
"""


def test_long_kernel_disk(t):
    """A berthd in the guest: its disk is the guest's /dev/nbd0, and stays that while berthd is killed, ended, started again."""
    need("qemu-system-x86_64" if os.uname().machine == "x86_64" else "qemu-system-aarch64")
    if harness.SANITIZED:
        raise harness.Skip("too slow with a sanitizer")
    # An image of its own: the others do without the module.
    harness.image.MODULES = harness.image.MODULES + ["nbd"]
    g = t.guest(KERNEL, [], image_dir=os.path.join(harness.image.DEFAULT_DIR, "nbd"),
                programs=[os.path.join(harness.BUILD, name) for name in ("berthd", "berth")])
    for word in ("ready", "killed", "started", "went"):
        g.wait(word, 180)
    g.finish(120)


if __name__ == "__main__":
    harness.main(globals())
