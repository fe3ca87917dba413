#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""
The guest of quickstart and of the end-to-end tests: a Debian kernel and an initial RAM file system of layers.

    debian/           kernel, its modules, busybox: from Debian's packages, downloaded and unpacked, never installed
    base-HASH.cpio    busybox, modules, mkfs.ext4, fsck.ext4, our init
    fio-HASH.cpio     fio and its libraries
    (per run)         /job, the script that init runs

A layer's HASH covers this recipe and the versions of what it is made of, so a change makes a new one. Layers are written
as newc archives by hand: that needs neither root nor the cpio program, and the kernel unpacks them one after another.
"""
import argparse
import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
DEFAULT_DIR = os.environ.get("BERTH_GUEST_DIR") or os.path.join(HERE, "..", "..", "build-guest")
KERNEL_PACKAGE = {"x86_64": "linux-image-cloud-amd64", "aarch64": "linux-image-cloud-arm64"}
MODULES = ["virtio_pci", "virtio_blk", "ext4", "crc32c_generic"]
BASE_PACKAGES = ["e2fsprogs", "libc6"]
BASE_PROGRAMS = {"mke2fs": "mkfs.ext4", "e2fsck": "fsck.ext4"}
FIO_PACKAGES = ["fio", "libc6"]


class ImageError(Exception):
    pass


def run(argv, **kw):
    try:
        return subprocess.run(argv, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kw).stdout
    except FileNotFoundError:
        raise ImageError(f"{argv[0]}: program not found") from None
    except subprocess.CalledProcessError as e:
        raise ImageError(f"{' '.join(argv)}: {e.stderr.strip() or 'failed'}") from None


class Cpio:
    """Writes a newc archive (Documentation/driver-api/early-userspace/buffer-format.rst of Linux)."""

    def __init__(self, path):
        self.out = open(path, "wb")
        self.inode = 0
        self.seen = set()

    def entry(self, name, mode, data=b""):
        name = name.lstrip("/")
        parent = os.path.dirname(name)
        if parent and parent not in self.seen:
            self.entry(parent, 0o040755)
        if name in self.seen:
            return
        self.seen.add(name)
        self.inode += 1
        self.record(name, mode, data)

    def record(self, name, mode, data):
        raw = name.encode() + b"\0"
        fields = [self.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0]
        head = b"070701" + b"".join(b"%08X" % f for f in fields) + raw
        self.out.write(head + b"\0" * (-len(head) % 4))
        self.out.write(data)
        self.out.write(b"\0" * (-len(data) % 4))

    def file(self, name, source, mode=0o755):
        with open(source, "rb") as f:
            self.entry(name, 0o100000 | mode, f.read())

    def link(self, name, target):
        self.entry(name, 0o120777, target.encode())

    def close(self):
        self.record("TRAILER!!!", 0, b"")
        self.out.write(b"\0" * (-self.out.tell() % 512))
        self.out.close()


def find_program(name):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin")
    if not path:
        raise ImageError(f"{name}: program not found; install its package")
    return os.path.realpath(path)


def libraries(program):
    for line in run(["ldd", program]).splitlines():
        m = re.search(r"(?:=>\s*)?(/\S+)\s+\(0x", line)
        if m:
            yield m.group(1)
        elif "not found" in line:
            raise ImageError(f"{program}: {line.strip()}")


def add_program(cpio, program, name):
    cpio.file(f"bin/{name}", program)
    for lib in libraries(program):
        # The loader is named by absolute path; the others are found in the default folders, and some
        # (a private folder of their package) only where they were.
        cpio.file(lib, os.path.realpath(lib))


def package_versions(packages):
    return run(["dpkg-query", "-W", "-f", "${Package} ${Version}\n"] + packages)


def recipe_hash(packages, extra=""):
    h = hashlib.sha256((package_versions(packages) + extra).encode())
    for name in ("image.py", "init"):
        with open(os.path.join(HERE, name), "rb") as f:
            h.update(f.read())
    return h.hexdigest()[:12]


def modinfo(path):
    with open(path, "rb") as f:
        m = re.search(rb"\0depends=([^\0]*)\0", f.read())
    return m.group(1).decode().split(",") if m and m.group(1) else []


def module_order(root):
    """Paths below root of the modules we want and what they need, in order of loading; built-in ones left out."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            if name.endswith(".ko"):
                found[name[:-3].replace("-", "_")] = os.path.join(folder, name)
    order = []

    def visit(name):
        path = found.get(name.replace("-", "_"))
        if path and path not in order:
            for need in modinfo(path):
                visit(need)
            order.append(path)

    for name in MODULES:
        visit(name)
    return order


def kernel_package():
    """The package behind the one that always depends on the newest kernel."""
    machine = platform.machine()
    if machine not in KERNEL_PACKAGE:
        raise ImageError(f"{machine}: no guest kernel is known for this processor")
    package = KERNEL_PACKAGE[machine]
    for line in run(["apt-cache", "show", package]).splitlines():
        m = re.match(r"Depends:.*?(linux-image-[0-9]\S+)", line)
        if m:
            return m.group(1)
    raise ImageError(f"{package}: apt knows no such package (is the package list empty? try apt-get update)")


def fetch_package(name, folder):
    """Downloads and unpacks one package below folder, as any user; the path of its tree."""
    print(f"guest: downloading Debian's {name}", file=sys.stderr, flush=True)
    tree = os.path.join(folder, "tree-" + name)
    where = os.path.join(folder, "deb-" + name)
    os.makedirs(where)
    run(["apt-get", "download", name], cwd=where)
    (deb,) = [n for n in os.listdir(where) if n.endswith(".deb")]
    run(["dpkg-deb", "-x", os.path.join(where, deb), tree])
    return tree


def fill_debian(out, tmp):
    os.makedirs(os.path.join(out, "modules"))
    shutil.copy(os.path.join(fetch_package("busybox-static", tmp), "bin/busybox"), out)
    tree = fetch_package(kernel_package(), tmp)
    (kernel,) = [n for n in os.listdir(os.path.join(tree, "boot")) if n.startswith("vmlinu")]
    shutil.copy(os.path.join(tree, "boot", kernel), os.path.join(out, "vmlinuz"))
    with open(os.path.join(out, "modules", "order"), "w") as order:
        for path in module_order(os.path.join(tree, "lib/modules")):
            shutil.copy(path, os.path.join(out, "modules"))
            order.write(os.path.basename(path) + "\n")


def build_debian(top):
    final = os.path.join(top, "debian")
    if not os.path.exists(final):
        with tempfile.TemporaryDirectory(dir=top) as tmp:
            out = os.path.join(tmp, "debian")
            fill_debian(out, tmp)
            os.rename(out, final)
    return final


def write_layer(top, kind, key, fill):
    path = os.path.join(top, f"{kind}-{key}.cpio")
    if not os.path.exists(path):
        for name in os.listdir(top):
            if name.startswith(kind + "-"):
                os.unlink(os.path.join(top, name))
        cpio = Cpio(path + ".new")
        fill(cpio)
        cpio.close()
        os.rename(path + ".new", path)
    return path


def build_base(top, debian):
    modules = os.path.join(debian, "modules")

    def fill(cpio):
        cpio.file("init", os.path.join(HERE, "init"))
        cpio.file("bin/busybox", os.path.join(debian, "busybox"))
        for program, name in BASE_PROGRAMS.items():
            add_program(cpio, find_program(program), name)
        for name in sorted(os.listdir(modules)):
            cpio.file(f"modules/{name}", os.path.join(modules, name), 0o644)
        for folder in ("dev", "proc", "sys"):
            cpio.entry(folder, 0o040755)

    parts = "".join(f"{n} {os.path.getsize(os.path.join(modules, n))}\n" for n in sorted(os.listdir(modules)))
    return write_layer(top, "base", recipe_hash(BASE_PACKAGES, parts), fill)


def build_fio(top):
    return write_layer(top, "fio", recipe_hash(FIO_PACKAGES), lambda cpio: add_program(cpio, find_program("fio"), "fio"))


def write_job(path, script):
    cpio = Cpio(path)
    cpio.entry("job", 0o100755, script.encode())
    cpio.close()


def build(top=DEFAULT_DIR, with_fio=False):
    """Builds what is missing; returns (path of the kernel, [paths of the layers])."""
    top = os.path.abspath(top)
    os.makedirs(top, exist_ok=True)
    with open(os.path.join(top, ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        debian = build_debian(top)
        layers = [build_base(top, debian)]
        if with_fio:
            layers.append(build_fio(top))
        return os.path.join(debian, "vmlinuz"), layers


def main():
    p = argparse.ArgumentParser(description="Build the guest image and print the paths of its files.")
    p.add_argument("--dir", default=DEFAULT_DIR)
    p.add_argument("--fio", action="store_true", help="with fio")
    args = p.parse_args()
    try:
        kernel, layers = build(args.dir, args.fio)
    except (ImageError, OSError) as e:
        sys.exit(f"guest image: {e}")
    print("\n".join([kernel] + layers))


if __name__ == "__main__":
    main()
