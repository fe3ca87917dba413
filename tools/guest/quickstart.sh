# SPDX-License-Identifier: BSD-3-Clause
# The job of quickstart's guest: a file system on the disk, data in it, verified after it was unmounted and mounted again.
set -e
say() { echo "@@ say $*"; }
sums() { (cd /mnt && sha256sum -c sums >/dev/null); }

[ -b /dev/vda ] || { say "there is no disk /dev/vda"; exit 1; }
say "disk /dev/vda of $(($(cat /sys/block/vda/size) / 2048)) MiB, $(ls /sys/block/vda/mq | wc -l) queues"
if mount -t ext4 /dev/vda /mnt 2>/dev/null; then
	say "a file system is on it from an earlier run"
	[ ! -f /mnt/sums ] || { sums && say "and its data is as it was written"; }
else
	mkfs.ext4 -q -F /dev/vda
	mount -t ext4 /dev/vda /mnt
	say "made an ext4 file system on it"
fi
dd if=/dev/urandom of=/mnt/data bs=1M count=32 2>/dev/null
(cd /mnt && sha256sum data >sums)
sync
umount /mnt
echo 3 >/proc/sys/vm/drop_caches
mount -t ext4 /dev/vda /mnt
sums
say "wrote 32 MiB, synced, mounted again: checksums agree"
umount /mnt
fsck.ext4 -fn /dev/vda >/tmp/fsck 2>&1 || { cat /tmp/fsck; exit 1; }
say "fsck finds no fault"
