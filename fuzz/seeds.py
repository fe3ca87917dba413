#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Writes the seeds of the fuzz targets: corpus/TARGET/NAME, a few inputs each that get far, for the fuzzer to begin with.

The inputs are kept beside this program, so that what a run begins with is seen in the tree; inputs that once found a fault are
among them, named after it. After a change here run it, and commit what it writes.
"""
import os
import struct
import sys
import zlib

CORPUS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "corpus")


def le(form, *values):
    return struct.pack("<" + form, *values)


def be(form, *values):
    return struct.pack(">" + form, *values)


def at(size, *parts):
    """Bytes of that size: zeroes, with (offset, bytes) put in."""
    out = bytearray(size)
    for offset, part in parts:
        out[offset:offset + len(part)] = part
    return bytes(out[:size])


# ---- blob_format ----

def descriptor(kind, payload):
    return le("BI", kind, len(payload)) + payload


def runs(*pairs):
    return b"".join(le("II", *pair) for pair in pairs)


def rle(*pairs):
    return descriptor(1, runs(*pairs))


def xattr(name, value, internal=False):
    return descriptor(4 if internal else 2, le("HH", len(name), len(value)) + name + value)


def flags(invalid=0, data_ro=0, md_ro=0):
    return descriptor(3, le("QQQ", invalid, data_ro, md_ro))


def table(clusters, *pairs):
    return descriptor(5, le("Q", clusters) + runs(*pairs))


def extents(start, *clusters):
    return descriptor(6, le(f"I{len(clusters)}I", start, *clusters))


def ident(blob):
    return le("Q", (1 << 32) + blob)


def page(contents, blob=None, sequence=0, more=False):
    """A metadata page of a store, as the target takes it: of the blob that begins there, unless another is named."""
    contents += bytes(-len(contents) % 4)
    assert len(contents) <= 1020
    how = (0x80 if blob is None else blob) | sequence << 4 | (0x40 if more else 0)
    return bytes((len(contents) // 4, how)) + contents


def store(*pages):
    return b"\3" + b"".join(pages)


THIN, INTERNAL, TABLE = 1, 2, 4


def named(name):
    return xattr(b"name", name + b"\0") + xattr(b"uuid", b"u-" + name + b"\0")


def blob_format():
    # Clusters: 96 pages of two; the first ones are the metadata's.
    sound = store(
        page(flags() + named(b"store") + bytes(8)),
        page(flags(THIN | INTERNAL | TABLE) + named(b"volume") + xattr(b"SNAP", ident(2), True) + table(5, (8, 1))),
        page(flags(THIN | TABLE, 1) + named(b"snapshot") + table(600, (9, 1), (10, 1))),
        page(flags() + named(b"thick") + rle((20, 2), (30, 2)), more=True),
        page(rle((40, 3)), blob=3, sequence=1),
        page(b""), page(b""), page(b""),
        page(extents(0, 12, 0, 13, 0, 14), blob=1),
        page(extents(0, 0, 15, 16, 17), blob=2),
        page(extents(512, *([0] * 80 + [18])), blob=2))
    pending = store(
        page(flags(THIN | INTERNAL) + xattr(b"SNAPRM", ident(1), True) + rle((12, 8))),
        page(flags(THIN | INTERNAL) + xattr(b"SNAP", ident(0), True) + rle((12, 2), (30, 2), (16, 9))),
        page(flags(THIN | INTERNAL) + xattr(b"SNAPTMP", ident(3), True) + rle((35, 1))),
        page(flags(THIN | INTERNAL) + xattr(b"BERTHGROUP", ident(3) + ident(2), True) + rle((35, 1))),
        page(flags(THIN | INTERNAL) + xattr(b"BERTHDEL", b"", True)),
        page(flags(THIN | INTERNAL) + xattr(b"SNAP", ident(6), True)),
        page(flags(THIN | INTERNAL) + xattr(b"SNAP", ident(5), True)))
    whole = (1, 0xfffffff0)
    claims = store(
        page(flags(md_ro=1 << 40) + rle(whole)),
        page(flags(THIN) + rle(*[(1, 48)] * 100)),
        page(flags(THIN | INTERNAL) + xattr(b"SNAPRM", ident(3), True) + rle((12, 0xf0000000))),
        page(flags(THIN | INTERNAL) + xattr(b"SNAP", ident(2), True) + rle((12, 0x80000000), (11, 0x40000000))),
        page(flags(THIN | TABLE) + table(0xffffffff, (9, 1), (0, 0x7fffff))))
    return {
        "store": sound,
        "store-pending": pending,
        "store-claims": claims,
        # It was walked through, cluster by cluster, for a minute.
        "sealed-run": bytes.fromhex("0ffe00210000000001400000000f0f00000b0001170200"),
        "page": b"\2" + at(40, (16, flags(THIN)), (0, ident(1))) + named(b"a") + rle((1, 2)),
        "mask": b"\1\2" + le("I", 40) + bytes(8),
        "super": b"\0" + at(128, (8, le("II", 3, 4096)), (24, le("QI", 1 << 32, 8192)), (36, le("IIIIII", 1, 1, 2, 1, 4, 16)),
                            (60, b"LVOLSTORE"), (76, le("II", 3, 1)), (84, le("I", 512)), (88, le("I", 4096))),
    }


# ---- Disks ----

def gpt():
    def entry(first, last):
        return at(128, (0, b"TYPE" * 4), (16, le("Q", first) * 2), (32, le("QQ", first, last)), (56, "p".encode("utf-16-le")))

    def header(block, other, entries, usable):
        return at(92, (0, b"EFI PART"), (8, le("II", 0x10000, 92)), (24, le("QQQQ", block, other, *usable)), (56, b"D" * 16),
                  (72, le("QII", entries, 4, 128)))

    table_of = entry(40, 79) + entry(80, 120) + bytes(128) + entry(121, 160)
    primary = at(1024 + 512, (512, header(1, 199, 2, (34, 166))), (1024, table_of))
    # The end of a small disk is all of it; its header is in the last block.
    backup = at(12 * 512, (7 * 512, entry(2, 3) + entry(5, 5)), (11 * 512, header(11, 1, 7, (2, 6))))
    large = at(8192 + 512, (4096, header(1, 199, 2, (6, 190))), (8192, entry(7, 20)))
    return {
        "primary": b"\x0c" + le("H", 198) + primary,
        "backup": b"\x0e" + le("H", 10) + backup,
        "primary-4096": b"\x0d" + le("H", 198) + large,
    }


def qcow2():
    def image(how, incompatible, compression, data):
        l2 = be("QQ", 1 << 63 | 2048, 1 << 62 | 2560) + be("Q", 1)
        return bytes((how,)) + at(3584, (0, b"QFI\xfb"), (24, bytes((7,))), (72, bytes((incompatible,))),
                                  (104, bytes((compression,))), (512, be("QQ", 1 << 63 | 1536, 0)), (1536, l2),
                                  (2048, b"data" * 128), (2560, data))

    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    packed = packer.compress(b"berth" * 102 + b"be") + packer.flush()
    return {
        "version2": image(0x01, 0, 0, packed),
        "version3": image(0x81, 0, 0, packed),
        "zstd": image(0x81, 0x08, 1, bytes.fromhex("28b52ffd2000010000")),
        "subclusters": image(0x81, 0x10, 0, packed),
    }


def raid_sb():
    def superblock(level, strip, count, size):
        head = at(256, (0, b"SPDKRAID"), (8, le("HHI", 1, 0, 256 + 64 * count)), (24, b"U" * 16), (40, b"array"),
                  (104, le("QIIII", size, 512, level, strip, 1)), (128, le("QB", 7, count)), (232, b"BRTHSYNC" + le("Q", 7)),
                  (255, bytes((count,))))
        bases = b"".join(at(64, (0, bytes((i + 1,)) * 16), (16, le("QQIIB", 2048, 8192, 1, 0, i))) for i in range(count))
        return head + bases + b"\1"

    return {"raid0": superblock(0, 128, 2, 16384), "raid1": superblock(1, 0, 2, 8192), "raid5f": superblock(0x5f, 128, 3, 16384),
            "concat": superblock(99, 128, 4, 32768)}


def sbc():
    inquiry = at(96, (0, bytes((0, 0, 7, 2, 91))), (8, b"VENDOR  PRODUCT         1.0 "))
    status = be("II", 4 + 32, 0) + be("QIBxxx", 0, 8, 0) + be("QIBxxx", 8, 300, 1)
    return {
        "extents": b"\0" + status,
        "inquiry": b"\1" + inquiry,
        "serial": b"\1" + be("BBH", 0, 0x80, 8) + b"serial01",
        "identification": b"\1" + be("BBH", 0, 0x83, 24) + bytes((1, 3, 0, 8)) + b"\x60" + bytes(7) + bytes((2, 1, 0, 8)) + b"VENDOR-1",
        "limits": b"\1" + be("BBH", 0, 0xb0, 60) + be("BBHII", 0, 8, 8, 4096, 512) + be("IIIIIQ", 0, 4096, 64, 1, 0, 65535),
        "provisioning": b"\1" + be("BBH", 0, 0xb2, 4) + bytes((0, 0xe0, 2, 0)),
        "capacity": b"\1" + be("QII", 262143, 512, 0x000340c0) + bytes(16),
        "sense-fixed": b"\x08" + at(18, (0, b"\xf0\0\5"), (3, be("I", 77)), (7, b"\x0a"), (12, b"\x21\0")),
        "sense-descriptors": b"\x08" + bytes((0x72, 3, 0x11, 0, 0, 0, 0, 12, 0, 10, 0x80, 0)) + be("Q", 77),
    }


# ---- Rings ----

READ_ON, WRITE, INDIRECT = 1, 2, 4


def split():
    def ring(head, descriptors, heads, memory=1400, extra=()):
        table_of = b"".join(le("QIHH", *d) for d in descriptors)
        return bytes(head) + at(memory, (0, table_of), (1024, le(f"HH{len(heads)}H", 0, len(heads), *heads)), *extra)

    plain = [(2048, 16, READ_ON, 1), (3000, 2000, READ_ON | WRITE, 2), (4095, 2, WRITE, 0)]
    indirect = b"".join(le("QIHH", *d) for d in plain)
    return {
        "chain": ring((3, 0, 0, 0), plain, [0]),
        "chains": ring((4, 0, 1, 0), plain + [(5000, 8, 0, 0), (100, 8, WRITE, 0)], [0, 3, 4]),
        "indirect": ring((4, 0, 2, 0), [(1300, 48, INDIRECT, 0)], [0], extra=((1300, indirect),)),
        "loop": ring((2, 0, 0, 0), [(2048, 16, READ_ON, 1), (2048, 16, READ_ON, 0)], [0]),
    }


def vhost_msg():
    """Steps: see the target. Messages: 10, the type, how, and what fill() takes."""
    def message(kind, *parts, how=0):
        return bytes((0x1a, kind, how)) + b"".join(parts)

    def region(first, eighths):
        return bytes((first, eighths - 1, 0))

    features = message(2, le("Q", 1 << 32 | 1 << 30))
    protocol = message(16, le("Q", 0x1ffff))
    memory = message(5, b"\1" + region(0, 8), b"\0")
    ring = b"\x16"
    return {
        "start": message(3) + message(1) + features + protocol + memory + ring + b"\x17\0\1\0\0\0\x08" + b"\x19",
        "held": features + memory + ring + b"\x03" + b"\x17\1\1\0\0\0\x08" * 3 + message(11, b"\0\0") + b"\x14",
        "regions": features + protocol + message(37, region(0, 4)) + message(37, region(4, 4)) + b"\0" + ring
        + b"\x17\0\2\0\0\1\x04" + message(38, region(4, 4)),
        "truncated": features + memory + ring + b"\x12\0\0" + b"\x17\0\1\0\0\0\x08" + b"\x92",
        "again": features + memory + ring + b"\x15" + features + memory + ring + b"\x15\x15",
        "config": message(24, le("HH", 0, 60)) + message(25, le("HH", 0, 8)) + message(24, le("HH", 200, 100)),
        "spoiled": features + message(5, b"\1" + region(0, 8), how=0xc0) + b"\x10\x20" + bytes(range(33)) + b"\1\0",
    }


# ---- NBD ----

def option(number, data=b""):
    return be("QII", 0x49484156454f5054, number, len(data)) + data


def text(name):
    return be("I", len(name)) + name


def nbd_negotiate():
    ours = be("I", 3)
    go = text(b"disk") + be("HH", 1, 3)
    contexts = text(b"disk") + be("I", 2) + text(b"base:allocation") + text(b"berth:changed")
    return {
        "name": b"\0" + ours + option(1, b"disk"),
        "go": b"\0" + ours + option(8) + option(10, contexts) + option(7, go),
        "pieces": b"\x1c" + ours + option(11) + option(3) + option(9, text(b"b") + be("I", 0)) + option(6, go) + option(2),
        "tls": b"\3" + ours + option(3) + option(5) + option(8) + option(7, go),
        "unknown": b"\1" + ours + option(77, b"x" * 40) + option(7, text(b"none") + be("H", 0)),
    }


def nbd_session():
    """The style, from 128 on of a disk that lends its memory; then steps: 6, kind, flags, offset and length in blocks."""
    def request(kind, offset=0, length=8, flags=0):
        return bytes((6, kind, flags)) + le("HH", offset, length)

    read, write, bye, flush, trim, zero, status = 0, 1, 2, 3, 4, 6, 7
    mixed = request(write, 8, 16) + request(read, 8, 16) + request(flush, 0, 0) + request(trim, 0, 64) + request(zero, 4, 4)
    lent = request(write, 8, 200) + request(read, 8, 200) * 2
    return {
        "lent-simple": bytes((129,)) + lent + b"\1" + mixed + request(bye),
        "lent-structured": bytes((130,)) + lent + request(zero, 9, 3) + request(read, 0, 300) + b"\1\1",
        "lent-extended": bytes((128,)) + b"\2" + lent + request(read, 0, 2000) * 4 + b"\2\x13" + mixed + b"\x15",
        "simple": b"\0" + mixed + b"\1" + request(bye),
        "structured": b"\1" + mixed + request(status, 0, 100) + b"\1\1",
        "extended": b"\2" + mixed + request(write, 0, 8, 0x20) + request(status, 0, 9, 0x28) + b"\1",
        "held": b"\1\2" + mixed * 3 + b"\x74" + mixed + b"\2\1" + b"\x13" + mixed + b"\3" + request(read),
        "beyond": b"\0" + request(read, 65535, 65535) + request(write, 65535, 1) + request(8) + bytes((6, 240, 0)) + le("QQ", 1 << 62, 1),
        "cut": b"\1" + request(write, 0, 8, 255) + le("H", 100) + b"\x15\5" + request(read),
    }


# ---- JSON-RPC ----

def calls():
    name = '{"jsonrpc":"2.0","id":%s,"method":"%s"%s}'
    version = name % (1, "spdk_get_version", "")
    make = name % ('"a"', "bdev_malloc_create", ',"params":{"name":"m\\u0030","num_blocks":64,"block_size":512}')
    odd = name % ("null", "bdev_get_bdevs", ',"params":[1,2.5e3,true,null,"\\ud83d\\ude00",{"a":{}}]')
    return version, make, odd, name % (3, "berth_subscribe", ',"params":{"events":["bdev"]}')


def rpc():
    version, make, odd, _ = calls()
    return {
        "calls": b"\0" + (version + make + "\n" + odd).encode(),
        "pieces": b"\7" + (make + " " + version).encode(),
        "batch": b"\0" + f"[{version},{make},1,[],{odd}]".encode(),
        "notification": b"\0" + b'{"jsonrpc":"2.0","method":"spdk_get_version"}' + b'{"method":1}{"id":{}}',
        "broken": b"\3" + b'{"jsonrpc":"2.0","id":1,"method":"a}]\\"',
        "zero-in-id": b"\0" + b'{"jsonrpc":"2.0","id":"m\\u0000","method":"a"}',
    }


def rpc_conn():
    version, make, odd, subscribe = calls()
    shown = '{"jsonrpc":"2.0","id":0,"method":"berth_authenticate","params":{"token":"%s"}}'
    return {
        "calls": b"\0\0" + (version + make + odd).encode(),
        "token": b"\1\0" + (shown % "0123456789abcdef" + version).encode(),
        "wrong-token": b"\1\5" + (shown % "0123456789abcdeg" + version).encode(),
        "no-token": b"\1\0" + version.encode(),
        "events": b"\4\x10" + (subscribe + version + make).encode(),
        "late": b"\x0c\x20" + (subscribe + f"[{version},{odd}]" * 4).encode(),
        "unwelcome": b"\2\0" + version.encode(),
    }


# ---- Streams of volumes ----

def crc32c(data, crc=0):
    crc ^= 0xffffffff
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82f63b78 if crc & 1 else 0)
    return crc ^ 0xffffffff


def volume_stream():
    def stream(since, size, parts, ended=True):
        names = b"volumesnap"
        head = at(80, (0, b"BERTH-VOLUME\r\n\x1a"), (16, le("IIIIQ", 1, 84 + len(names), since, 512, size)),
                  (40, bytes((since,)) * 16), (56, b"T" * 16), (72, le("HH", 6, 4))) + names
        out = head + le("I", crc32c(head))
        chain, total = crc32c(out[-4:]), 0
        for number, (kind, offset, length, data) in enumerate(parts + [(3, None, None, b"")] * ended):
            if kind == 3:
                offset, length = total, chain
            record = le("IIQQQ", kind, 0, number, offset, length)
            crc = le("I", crc32c(data, crc32c(record)))
            out += record[:4] + crc + record[8:] + data
            chain, total = crc32c(crc, chain), total + len(data)
        return out

    data = (1, 512, 1024, bytes(range(256)) * 4)
    return {
        "full": stream(0, 1 << 20, [data, (2, 4096, 8192, b""), (1, 65536, 512, b"x" * 512)]),
        "difference": stream(1, 1 << 30, [(2, 0, 512, b""), data]),
        "empty": stream(0, 512, []),
        "beyond": stream(0, 4096, [(2, 3584, 1024, b"")], False),
        "back": stream(0, 1 << 20, [data, (2, 512, 512, b"")], False),
    }


TARGETS = (blob_format, gpt, nbd_negotiate, nbd_session, qcow2, raid_sb, rpc, rpc_conn, sbc, split, vhost_msg, volume_stream)


def main():
    if len(sys.argv) > 1:
        sys.exit("usage: seeds.py")
    for target in TARGETS:
        folder = os.path.join(CORPUS, target.__name__ + "_fuzz")
        os.makedirs(folder, exist_ok=True)
        for name, data in target().items():
            with open(os.path.join(folder, name), "wb") as f:
                f.write(data)


if __name__ == "__main__":
    main()
