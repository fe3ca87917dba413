#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Either side goes away at any moment: kill -9 of the daemon under a guest, of the VMM under I/O, controllers deleted in use."""
import os
import socket
import struct
import time

import harness
from harness import check, equal, until

MIB = 1 << 20


def verifier(kills, depth):
    """Writes and verifies through the kills, and once more after them."""
    return rf"""
mkfs.ext4 -q -F /dev/vda
mount -t ext4 /dev/vda /mnt
echo "@@ ready"
fio --name=v --filename=/dev/vdb --size=16m --rw=randwrite --bs=4k --ioengine=libaio --iodepth={depth} --direct=1 --verify=crc32c \
	--time_based --runtime={3 * kills} --thread --minimal >/tmp/fio || {{ cat /tmp/fio; exit 1; }}
for i in $(seq 4); do dd if=/dev/urandom of=/mnt/$i bs=64k count=32 2>/dev/null; sync; done
(cd /mnt && sha256sum 1 2 3 4 >sums)
sync
echo 3 >/proc/sys/vm/drop_caches
(cd /mnt && sha256sum -c sums >/dev/null)
umount /mnt
fsck.ext4 -fn /dev/vda >/tmp/fsck 2>&1 || {{ cat /tmp/fsck; exit 1; }}
if dmesg | grep -i 'i/o error'; then exit 1; fi
"""


def kill_rounds(t, kills):
    """
    One request in flight on a ring: of several that were completed out of order before a kill, a ring alone cannot tell
    which are left.
    """
    state = t.path("state")
    d = t.daemon("--state-dir", state)
    for name in ("a", "b"):
        d.call("berth_disk_create", name=name, size=64 * MIB)
    sockets = [disk["socket"] for disk in d.call("berth_disk_list")]
    g = t.guest(verifier(kills, 1), sockets, fio=True, reconnect=True)
    g.wait("ready")
    for _ in range(kills):
        time.sleep(1.2)
        d.kill()
        time.sleep(0.3)
        d = t.daemon("--state-dir", state)
        until(lambda: all(disk["connected"] for disk in d.call("berth_disk_list")), "the VM is back on both disks")
    g.finish(180 * harness.PATIENCE)


def test_daemon_killed_under_guest(t):
    kill_rounds(t, 3)


def test_long_daemon_killed_many_times(t):
    kill_rounds(t, 25)


def test_daemon_restarted_under_guest(t):
    """The clean way: SIGTERM under I/O, started again."""
    state = t.path("state")
    d = t.daemon("--state-dir", state)
    for name in ("a", "b"):
        d.call("berth_disk_create", name=name, size=64 * MIB)
    sockets = [disk["socket"] for disk in d.call("berth_disk_list")]
    g = t.guest(verifier(2, 8), sockets, fio=True, reconnect=True)
    g.wait("ready")
    for _ in range(2):
        time.sleep(1)
        d.stop()
        d = t.daemon("--state-dir", state)
    g.finish(180 * harness.PATIENCE)


def test_vmm_killed_under_io(t):
    """kill -9 of QEMU in the middle of writing, again and again; the daemon is as before, the next VM is served."""
    d = t.daemon()
    path = t.file("disk.img", 64 * MIB)
    d.call("bdev_aio_create", name="b", filename=path)
    d.call("bdev_malloc_create", name="m", num_blocks=65536, block_size=512)
    sockets = [d.controller("vm0", "b"), d.controller("vm1", "m")]
    base = d.fd_count()
    for _ in range(2):
        g = t.guest("echo '@@ ready'\nwhile :; do dd if=/dev/zero of=/dev/vda bs=64k count=200 oflag=direct; "
                    "dd if=/dev/zero of=/dev/vdb bs=64k count=200 oflag=direct; done", sockets)
        g.wait("ready")
        time.sleep(0.5)
        g.kill()
        until(lambda: not any(c["sessions"] for c in d.call("vhost_get_controllers")), "the sessions end with their VM")
        until(lambda: d.fd_count() <= base, "descriptors are given back")
    t.guest("dd if=/dev/vda of=/dev/null bs=1M iflag=direct\ndd if=/dev/vdb of=/dev/null bs=1M iflag=direct", sockets).finish()


def test_controller_deleted_under_io(t):
    d = t.daemon()
    for i in range(2):
        d.call("bdev_malloc_create", name=f"m{i}", num_blocks=65536, block_size=512)
    sockets = [d.controller(f"vm{i}", f"m{i}") for i in range(2)]
    g = t.guest("""
echo '@@ ready'
dd if=/dev/zero of=/dev/vda bs=64k count=100000 oflag=direct 2>/dev/null &
read go
dd if=/dev/zero of=/dev/vdb bs=1M count=32 oflag=direct 2>/dev/null
echo "@@ other works"
""", sockets)
    g.wait("ready")
    time.sleep(0.5)
    equal(d.call("vhost_delete_controller", ctrlr="vm0"), True)
    check(not os.path.exists(sockets[0]), "the socket is gone")
    equal(d.call("bdev_malloc_delete", name="m0"), True)
    g.send("go")
    equal(g.wait("other"), "works")
    g.kill()


# ---- Messages by hand: request, flags (version 1), size, payload ----

def message(request, payload=b"", flags=1):
    return struct.pack("<III", request, flags, len(payload)) + payload


def test_connections_that_end_anywhere(t):
    """A front end that says part of a message, or the wrong thing, and goes: hundreds of times."""
    d = t.daemon()
    d.call("bdev_malloc_create", name="m", num_blocks=2048, block_size=512)
    path = d.controller("vm0", "m")
    base = d.fd_count()
    hello = message(1) + message(15) + message(3)
    endings = [b"", b"\x01", hello, hello + message(2, struct.pack("<Q", 1 << 32)), message(24, b"\0" * 12 + b"\0" * 60),
               message(5, b"\xff" * 40), message(8, b"\xff" * 8), message(999), message(1, b"", 2), struct.pack("<III", 1, 1, 0xffffffff),
               hello + message(10, struct.pack("<II", 7, 0)), message(9, b"\xff" * 40), message(11, b"\xff" * 8), b"\xff" * 4096]
    for i in range(300):
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(10)
            s.connect(path)
            try:
                data = endings[i % len(endings)]
                s.sendall(data[:len(data) - i % 3] if i % 2 else data)
                if i % 5 == 0:
                    s.shutdown(socket.SHUT_WR)
                    while s.recv(4096):
                        pass
            except (BrokenPipeError, ConnectionResetError):
                pass
    until(lambda: d.fd_count() <= base, f"descriptors are given back ({base})")
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(path)
        s.sendall(message(1))
        reply = s.recv(4096)
        equal(len(reply), 20, "GET_FEATURES is answered after all that")


harness.main(globals())
