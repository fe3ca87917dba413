#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""A real guest, QEMU with a Debian kernel, on vhost-user-blk: file system, fio with verify, discard, reboot, sizes, read-only."""
import hashlib
import os

import harness
from harness import check, equal, until

MIB = 1 << 20

# Two boots of one guest on one disk. What was written before the reboot is verified after it.
BATTERY = r"""
verify() { # engine file rw extra
	fio --name=v --filename="$2" --size=6m --rw="$3" --bsrange=4k-64k --ioengine="$1" --iodepth=16 --direct=1 --verify=crc32c \
		--thread --minimal $4 >/tmp/fio || { cat /tmp/fio; exit 1; }
}
sums() { (cd /mnt && sha256sum -c sums >/dev/null); }

[ "$(ls /sys/block/vda/mq | wc -l)" = 2 ] || { echo "queues: $(ls /sys/block/vda/mq)"; exit 1; }
if mount -t ext4 /dev/vda /mnt 2>/dev/null && [ -f /mnt/flag ]; then
	echo "@@ second"
	sums
	verify libaio /mnt/a read --verify_only
	rm /mnt/a /mnt/b /mnt/big
	sync # what was removed is free once the journal says so
	fstrim /mnt
	umount /mnt
	fsck.ext4 -fn /dev/vda >/tmp/fsck 2>&1 || { cat /tmp/fsck; exit 1; }
	exit 0
fi
mkfs.ext4 -q -F /dev/vda
mount -t ext4 /dev/vda /mnt
verify libaio /mnt/a randwrite
verify io_uring /mnt/b randwrite
dd if=/dev/urandom of=/mnt/big bs=1M count=8 2>/dev/null
yes 'a line that berth keeps' | head -c 3000000 >/mnt/text
(cd /mnt && sha256sum big text >sums)
sync
echo 3 >/proc/sys/vm/drop_caches
sums
touch /mnt/flag
umount /mnt
fsck.ext4 -fn /dev/vda >/tmp/fsck 2>&1 || { cat /tmp/fsck; exit 1; }
echo "@@ first"
read go
reboot -f
sleep 60
"""


def make(d, kind, name, path, **params):
    if kind == "uring" and not harness.has_uring():
        raise harness.Skip("no io_uring here")
    d.call(f"bdev_{kind}_create", name=name, filename=path, **params)


def allocated(path):
    return os.stat(path).st_blocks * 512


@harness.each(kind=["aio", "uring"])
def test_battery(t, kind):
    d = t.daemon()
    path = t.file("disk.img", 512 * MIB)
    make(d, kind, "b", path, block_size=512)
    g = t.guest(BATTERY, [d.controller("vm0", "b")], fio=True, reboots=True)
    g.wait("first", 180 * harness.PATIENCE)
    full = allocated(path)
    g.send("go")
    g.wait("second", 60 * harness.PATIENCE)
    g.finish(120 * harness.PATIENCE)
    check(full - allocated(path) > 16 * MIB, f"discard shrinks the file: {full} to {allocated(path)} bytes")
    # The host's own tools agree about what is there.
    t.run(["/sbin/e2fsck", "-fn", path])
    t.run(["/sbin/debugfs", "-R", f"dump /text {t.path('text')}", path])
    with open(t.path("text"), "rb") as f:
        equal(f.read(), (b"a line that berth keeps\n" * 130000)[:3000000], "a file of the guest, read on the host")
    stats = d.call("bdev_get_iostat", names=["b"])["bdevs"][0]
    check(stats["num_unmap_ops"] > 0 and stats["bytes_written"] > 20 * MIB, f"statistics: {stats}")


@harness.each(block_size=[512, 4096])
def test_bytes(t, block_size):
    """What the guest writes at an offset is what the host's file has there, and the other way round."""
    d = t.daemon()
    path = t.path("disk.img")
    blob = os.urandom(4 * MIB)
    with open(path, "wb") as f:
        f.truncate(64 * MIB)
        f.seek(16 * MIB)
        f.write(blob)
    make(d, "aio", "b", path, block_size=block_size)
    g = t.guest(r"""
echo "@@ logical $(cat /sys/block/vda/queue/logical_block_size)"
echo "@@ size $(cat /sys/block/vda/size)"
echo "@@ sum $(dd if=/dev/vda bs=1M skip=16 count=4 iflag=direct 2>/dev/null | sha256sum)"
yes 'berth berth' | head -c 4194304 >/tmp/pattern
dd if=/tmp/pattern of=/dev/vda bs=1M seek=32 oflag=direct 2>/dev/null
dd if=/tmp/pattern of=/dev/vda bs=4k seek=10240 count=100 conv=fsync 2>/dev/null
echo "@@ zeroed $(blkdiscard -o 16777216 -l 1048576 /dev/vda && echo yes)"
""", [d.controller("vm0", "b")])
    equal(g.wait("logical"), str(block_size))
    equal(g.wait("size"), str(64 * MIB // 512))
    equal(g.wait("sum").split()[0], hashlib.sha256(blob).hexdigest(), "what the guest read")
    equal(g.wait("zeroed"), "yes")
    g.finish()
    pattern = (b"berth berth\n" * 350000)[:4 * MIB]
    with open(path, "rb") as f:
        data = f.read()
    check(data[32 * MIB:36 * MIB] == pattern, "what the guest wrote directly")
    check(data[40 * MIB:40 * MIB + 409600] == pattern[:409600], "what the guest wrote through its cache")
    check(data[17 * MIB:20 * MIB] == blob[MIB:], "what nobody touched")
    check(data[16 * MIB:17 * MIB] == bytes(MIB), "what the guest discarded")
    check(not any(data[:16 * MIB]) and not any(data[20 * MIB:32 * MIB]), "nothing else was written")


def test_resize_reaches_the_guest(t):
    d = t.daemon()
    path = t.file("disk.img", 64 * MIB)
    make(d, "aio", "b", path)
    d.call("bdev_null_create", name="n", num_blocks=32 * MIB // 512, block_size=512)
    g = t.guest(r"""
size_is() { for i in $(seq 100); do [ "$(cat /sys/block/$1/size)" = "$2" ] && return; sleep 0.1; done
	echo "size of $1 is $(cat /sys/block/$1/size)"; return 1; }
size_is vda 131072
mkfs.ext4 -q -F /dev/vda
echo "@@ ready"
read go
size_is vda 262144
size_is vdb 131072
dd if=/dev/zero of=/dev/vda bs=1M seek=120 count=8 oflag=direct 2>/dev/null
""", [d.controller("vm0", "b"), d.controller("vm1", "n")])
    g.wait("ready")
    os.truncate(path, 128 * MIB)
    equal(d.call("bdev_aio_rescan", name="b"), True)
    equal(d.call("bdev_null_resize", name="n", new_size=64), True)
    g.send("go")
    g.finish()


def test_read_only_and_serial(t):
    d = t.daemon()
    path = t.path("disk.img")
    with open(path, "wb") as f:
        f.write(os.urandom(8 * MIB))
    with open(path, "rb") as f:
        before = hashlib.sha256(f.read()).hexdigest()
    make(d, "aio", "b", path)
    d.call("bdev_malloc_create", name="m", num_blocks=16384, block_size=512)
    g = t.guest(r"""
echo "@@ ro $(cat /sys/block/vda/ro) $(cat /sys/block/vdb/ro)"
echo "@@ serial [$(cat /sys/block/vda/serial)]"
echo "@@ sum $(sha256sum </dev/vda)"
if dd if=/dev/zero of=/dev/vda bs=4k count=1 oflag=direct 2>/tmp/err; then echo "@@ wrote yes"; else echo "@@ wrote no"; fi
dd if=/dev/zero of=/dev/vdb bs=4k count=1 oflag=direct 2>/dev/null
echo "@@ cache $(cat /sys/block/vdb/queue/write_cache)"
""", [d.controller("vm0", "b", readonly=True), d.controller("vm1", "m")])
    equal(g.wait("ro"), "1 0")
    serial = g.wait("serial")
    check(serial.startswith("[") and len(serial) > 2, f"serial: {serial}")
    equal(g.wait("sum").split()[0], before)
    equal(g.wait("wrote"), "no")
    g.finish()
    with open(path, "rb") as f:
        equal(hashlib.sha256(f.read()).hexdigest(), before, "the file")


def test_many_queues_and_one(t):
    d = t.daemon()
    d.call("bdev_malloc_create", name="m", num_blocks=131072, block_size=512)
    sockets = [d.controller("vm0", "m")]
    for queues in (1, 8):
        g = t.guest(r"""
mkfs.ext4 -q -F /dev/vda
mount -t ext4 /dev/vda /mnt
for i in 1 2 3 4; do dd if=/dev/urandom of=/mnt/$i bs=64k count=40 2>/dev/null & done; wait
(cd /mnt && sha256sum 1 2 3 4 >sums); sync; echo 3 >/proc/sys/vm/drop_caches; (cd /mnt && sha256sum -c sums >/dev/null)
umount /mnt
""", sockets, queues=queues)
        g.finish()
        g.close()
        until(lambda: not d.call("vhost_get_controllers")[0]["sessions"], "the session ends with its VM")


harness.main(globals())
