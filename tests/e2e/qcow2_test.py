#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""qcow2 images as QEMU's own tools make them: qemu-img compares what is read, and what is allocated."""
import json
import os
import random

import harness
from harness import check, contains, equal

MIB = 1 << 20


class Images:
    """A daemon that exports what it finds in images."""

    def __init__(self, t):
        self.t = t
        self.d = t.daemon()
        self.d.call("berth_nbd_server_create", name="unix", path=self.d.path("nbd.sock"))

    def open(self, path):
        self.d.call("bdev_aio_create", name="File", filename=path, block_size=512, readonly=True)
        try:
            self.d.call("bdev_qcow2_create", name="Image", base_bdev_name="File")
        except harness.RpcError:
            self.d.call("bdev_aio_delete", name="File")
            raise
        self.d.call("berth_nbd_export_create", bdev_name="Image", name="image", server="unix", readonly=True)
        return f"nbd+unix:///image?socket={self.d.path('nbd.sock')}"

    def close(self):
        self.d.call("berth_nbd_export_delete", name="image")
        self.d.call("bdev_qcow2_delete", name="Image")
        self.d.call("bdev_aio_delete", name="File")

    def same(self, path):
        url = self.open(path)
        self.t.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", path, url])
        self.close()


def noise(path, size, rng):
    """Data, zeroes and holes, of odd sizes."""
    with open(path, "wb") as f:
        f.truncate(size)
        at = 0
        while at < size:
            n = min(rng.choice((512, 4096, 30000, 65536, 200000, 1 << 20)), size - at)
            kind = rng.randrange(4)
            f.seek(at)
            if kind == 0:
                f.write(rng.randbytes(n))
            elif kind == 1:
                f.write(bytes([rng.randrange(1, 256)]) * n)
            elif kind == 2:
                f.write(bytes(n))
            at += n


VARIANTS = [
    ["-o", "compat=0.10"],
    ["-o", "compat=1.1"],
    ["-o", "cluster_size=512"],
    ["-o", "cluster_size=4k,lazy_refcounts=on"],
    ["-o", "cluster_size=2M"],
    ["-o", "extended_l2=on,cluster_size=128k"],
    ["-c"],
    ["-c", "-o", "compat=0.10,cluster_size=4k"],
    ["-c", "-o", "cluster_size=2M"],
    ["-c", "-o", "compression_type=zstd"],
    ["-c", "-o", "compression_type=zstd,cluster_size=1M"],
    ["-o", "preallocation=metadata"],
]


def test_qemu_img_finds_no_difference(t):
    images = Images(t)
    rng = random.Random(4)
    for i, options in enumerate(VARIANTS):
        raw, image = t.path(f"{i}.raw"), t.path(f"{i}.qcow2")
        # Sizes that are no multiples of a cluster, and of 512 bytes at times: those are rounded up by qemu-img.
        noise(raw, rng.randrange(1, 12 * MIB) // 512 * 512 + 512, rng)
        t.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, image])
        images.same(image)
        os.unlink(raw)
        os.unlink(image)


def test_written_by_qemu_io(t):
    """Zero clusters, discarded ones, sub-clusters, data written over compressed clusters; snapshots beside it."""
    images = Images(t)
    rng = random.Random(5)
    for options in ("cluster_size=64k", "extended_l2=on,cluster_size=64k", "cluster_size=1k"):
        image, raw = t.path("w.qcow2"), t.path("w.raw")
        noise(raw, 6 * MIB, rng)
        t.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", options, raw, image])
        for _ in range(2):
            commands = []
            for _ in range(40):
                at, n = rng.randrange(0, 5 * MIB) // 512 * 512, rng.randrange(1, 200000) // 512 * 512 + 512
                what = rng.choice((f"write -P {rng.randrange(256)}", "write -z", "write -z -u", "discard"))
                commands += ["-c", f"{what} {at} {n}"]
            t.run(["qemu-io", "-f", "qcow2", *commands, image])
            images.same(image)
            t.run(["qemu-img", "snapshot", "-c", f"s{rng.random()}", image])
        t.run(["qemu-img", "resize", image, "40M"])
        images.same(image)


def allocated(t, *args):
    """Ranges with data, of a map."""
    out = json.loads(t.run(["qemu-img", "map", "--output=json", *args]))
    ranges = []
    for e in out:
        if e["data"]:
            if ranges and ranges[-1][1] == e["start"]:
                ranges[-1][1] += e["length"]
            else:
                ranges.append([e["start"], e["start"] + e["length"]])
    return ranges


def test_allocation_is_told(t):
    images = Images(t)
    rng = random.Random(6)
    for options in ([], ["-c"], ["-o", "cluster_size=4k"], ["-o", "extended_l2=on"]):
        raw, image = t.path("a.raw"), t.path("a.qcow2")
        noise(raw, 20 * MIB, rng)
        t.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, image])
        url = images.open(image)
        equal(allocated(t, "-f", "raw", url), allocated(t, "-f", "qcow2", image), f"{options}")
        images.close()


def refused(images, path, words):
    try:
        images.open(path)
    except harness.RpcError as e:
        contains(str(e), words)
        return
    raise harness.Failure(f"{path} was opened")


def test_refused(t):
    images = Images(t)
    base, image = t.path("base.qcow2"), t.path("x.qcow2")
    t.run(["qemu-img", "create", "-f", "qcow2", base, "4M"])
    t.run(["qemu-img", "create", "-f", "qcow2", "-b", base, "-F", "qcow2", image])
    refused(images, image, "backing file")
    t.run(["qemu-img", "create", "-f", "qcow2", "-o", f"data_file={t.path('x.data')}", image, "4M"])
    refused(images, image, "another file")
    t.run(["qemu-img", "create", "-f", "qcow2", image, "4M"])
    with open(image, "r+b") as f:
        f.seek(32)
        f.write(b"\0\0\0\2")
    refused(images, image, "encrypted")
    with open(image, "wb") as f:
        f.truncate(MIB)
    refused(images, image, "no qcow2 image")


def test_raw(t):
    """A raw image of any size, read-only: what is missing of its last block reads as zeroes."""
    images = Images(t)
    rng = random.Random(7)
    for method in ["aio", "uring"] if harness.has_uring() else ["aio"]:
        for size in (1, 511, 513, 4096, 70001):
            raw, out = t.path("odd.raw"), t.path("odd.out")
            data = rng.randbytes(size)
            with open(raw, "wb") as f:
                f.write(data)
            params = {"readonly": True} if method == "aio" else {}
            if method == "uring" and size % 512:
                check("multiple" in images.d.error("bdev_uring_create", -22, {"name": "Raw", "filename": raw})["message"])
                continue
            images.d.call(f"bdev_{method}_create", name="Raw", filename=raw, block_size=512, **params)
            images.d.call("berth_nbd_export_create", bdev_name="Raw", name="raw", server="unix", readonly=True)
            t.run(["qemu-img", "convert", "-f", "raw", "-O", "raw", f"nbd+unix:///raw?socket={images.d.path('nbd.sock')}", out])
            with open(out, "rb") as f:
                equal(f.read(), data + bytes(-size % 512), f"{method} {size}")
            images.d.call("berth_nbd_export_delete", name="raw")
            images.d.call(f"bdev_{method}_delete", name="Raw")


def test_restart(t):
    """It comes again, whichever is there first."""
    image = t.path("r.qcow2")
    t.run(["qemu-img", "create", "-f", "qcow2", image, "4M"])
    d = t.daemon("--state-dir", t.path("state"))
    equal(d.call("bdev_qcow2_create", name="Image", base_bdev_name="File"), "Image")
    d.call("bdev_aio_create", name="File", filename=image, block_size=512, readonly=True)
    before = d.call("bdev_get_bdevs", name="Image", timeout=5000)[0]
    equal((before["num_blocks"], before["product_name"]), (8192, "qcow2"))
    equal(before["driver_specific"]["qcow2"], {"base_bdev_name": "File", "version": 3, "cluster_size": 65536,
                                              "subclusters": False, "compression": "deflate"})
    check(not before["supported_io_types"]["write"], "it is read-only")
    d.kill()
    d = t.daemon("--state-dir", t.path("state"))
    equal(d.call("bdev_get_bdevs", name="Image", timeout=5000)[0]["uuid"], before["uuid"])
    d.call("bdev_aio_delete", name="File")
    d.call("bdev_qcow2_delete", name="Image")
    d.error("bdev_qcow2_delete", -19, {"name": "Image"})


harness.main(globals())
