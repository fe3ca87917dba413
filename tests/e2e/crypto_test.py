#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Crypto bdevs as users have them: what is on the disk, keys that are nowhere else, restarts."""
import json
import os

import harness
from harness import check, contains, equal

MIB = 1 << 20
KEY = "00112233445566778899aabbccddeeff"
KEY2 = "f0e1d2c3b4a5968778695a4b3c2d1e0f"


def key_file(t, text=KEY + KEY2 + "\n", mode=0o600, name="key"):
    path = t.path(name)
    with open(path, "w") as f:
        f.write(text)
    os.chmod(path, mode)
    return path


def make_disk(d, image, key):
    d.call("bdev_aio_create", name="base", filename=image, block_size=512)
    return d.call("bdev_crypto_create", base_bdev_name="base", name="c0", key_name=key)


def bdev(d, name):
    return d.call("bdev_get_bdevs", name=name)[0]


def errors(d, *calls):
    for method, params, code, words in calls:
        contains(d.error(method, code, params)["message"], words, f"{method} {params}")


def test_encrypts_what_is_on_the_disk(t):
    """Data written through a controller: none of it is in the file, and a daemon with the same key reads it again."""
    image = t.file("disk.img", 16 * MIB)
    d = t.daemon()
    d.call("accel_crypto_key_create", name="k", cipher="AES_XTS", key=KEY, key2=KEY2)
    equal(make_disk(d, image, "k"), "c0")
    b = bdev(d, "c0")
    equal(b["product_name"], "crypto")
    equal(b["driver_specific"], {"crypto": {"base_bdev_name": "base", "name": "c0", "key_name": "k"}})
    equal(b["supported_io_types"]["write_zeroes"], True)
    d.controller("vm0", "c0")
    t.berth("perf", "--socket", d.path("vm0"), "--workload", "verify", "--depth", "8", "--time", "0.5", "--quiet")
    d.stop()
    with open(image, "rb") as f:
        data = f.read()
    used = [data[i:i + 512] for i in range(0, len(data), 512) if data[i:i + 512] != bytes(512)]
    check(len(used) > 100, "hardly anything was written")
    # Encrypted, no two blocks are alike, whatever was written.
    equal(len(set(used)), len(used), "blocks that differ")


def test_methods_say_what_is_wrong(t):
    d = t.daemon()
    good = {"name": "k", "cipher": "AES_XTS", "key": KEY, "key2": KEY2}
    d.call("bdev_malloc_create", name="base", num_blocks=2048, block_size=512)
    errors(d,
           ("accel_crypto_key_create", {**good, "cipher": "AES_CBC"}, -22, "AES_CBC is not offered"),
           ("accel_crypto_key_create", {**good, "key2": KEY}, -22, "the same"),
           ("accel_crypto_key_create", {**good, "key2": KEY2 + "00"}, -22, "key2 is not 32"),
           ("accel_crypto_key_create", {"name": "k", "cipher": "AES_XTS"}, -22, "needs key and key2"),
           ("accel_crypto_key_create", {**good, "key_file": "/x"}, -22, "two ways"),
           ("accel_crypto_key_create", {"name": "k", "cipher": "AES_XTS", "key_file": "/nonexistent"}, -2, "/nonexistent"),
           ("accel_crypto_key_create", {"name": "k", "cipher": "AES_XTS", "key_file": key_file(t, mode=0o644)}, -1, "0644"),
           ("accel_crypto_key_create", {"name": "k", "cipher": "AES_XTS", "key_credential": "k"}, -2, "no credentials"),
           ("accel_crypto_key_destroy", {"key_name": "k"}, -2, "there is no key 'k'"),
           ("accel_crypto_keys_get", {"key_name": "k"}, -2, "there is no key 'k'"),
           ("bdev_crypto_create", {"base_bdev_name": "base", "name": "c", "key_name": "k"}, -126, "there is no key 'k'"),
           ("bdev_crypto_create", {"base_bdev_name": "base", "name": "c", "key": KEY}, -22, "AES_CBC"),
           ("bdev_crypto_delete", {"name": "c"}, -19, "there is no crypto bdev 'c'"))
    d.call("accel_crypto_key_create", **good)
    errors(d, ("accel_crypto_key_create", good, -17, "exists already"))
    d.call("bdev_crypto_create", base_bdev_name="base", name="c", key_name="k")
    errors(d,
           ("accel_crypto_key_destroy", {"key_name": "k"}, -16, "used by 1 crypto bdev"),
           ("bdev_crypto_create", {"base_bdev_name": "base", "name": "c2", "key_name": "k"}, -1, "claimed"))
    d.call("bdev_crypto_delete", name="c")
    # The older way: a key that ends with the bdev.
    d.call("bdev_crypto_create", base_bdev_name="base", name="c", key=KEY, key2=KEY2, cipher="AES_XTS", crypto_pmd="x")
    equal([k["name"] for k in d.call("accel_crypto_keys_get")], ["k", "c_AES_XTS"])
    d.call("bdev_crypto_delete", name="c")
    equal([k["name"] for k in d.call("accel_crypto_keys_get")], ["k"])


def test_keys_are_nowhere_else(t):
    """Neither answers, nor configuration, state, log or a core dump's memory have a key."""
    state = t.path("state")
    d = t.daemon("--state-dir", state)
    d.call("log_set_print_level", level="DEBUG")
    path = key_file(t)
    with d.rpc() as rpc:
        rpc.call("accel_crypto_key_create", name="given", cipher="AES_XTS", key=KEY, key2=KEY2)
        expect_not_dumped(d)
        rpc.call("accel_crypto_key_create", name="file", cipher="AES_XTS", key_file=path)
        rpc.call("bdev_malloc_create", name="base", num_blocks=2048, block_size=512)
        rpc.call("bdev_crypto_create", base_bdev_name="base", name="c", key_name="given")
        d.error("accel_crypto_key_create", -22, {"name": "bad", "cipher": "AES_XTS", "key": KEY, "key2": KEY})
        shown = json.dumps([rpc.call("accel_crypto_keys_get"), rpc.call("bdev_get_bdevs")])
    for s in d.call("framework_get_subsystems"):
        shown += json.dumps(d.call("framework_get_config", name=s["subsystem"]))
    contains(shown, path)
    d.controller("vm0", "c")
    t.berth("perf", "--socket", d.path("vm0"), "--workload", "verify", "--time", "0.2", "--quiet")
    for name in os.listdir(state):
        with open(os.path.join(state, name), errors="replace") as f:
            shown += f.read()
    shown += d.output()
    for secret in (KEY, KEY2):
        check(secret not in shown, "a key is shown")
    expect_not_dumped(d)


def expect_not_dumped(d):
    """Also not parts of the texts that came over the socket."""
    if not harness.SANITIZED:
        parts = [p for k in (KEY, KEY2) for p in (bytes.fromhex(k), k[16:].encode(), k[8:24].encode())]
        equal(dumped(d.pid, parts), [])


def dumped(pid, secrets):
    """Which of the secrets are in memory that a core dump would have."""
    found, region, flags = [], None, {}
    with open(f"/proc/{pid}/smaps") as f:
        for line in f:
            words = line.split()
            if "-" in words[0] and not words[0].endswith(":"):
                region = (words[0], words[1], words[5] if len(words) > 5 else "")
            elif words[0] == "VmFlags:":
                flags[region] = words[1:]
    with open(f"/proc/{pid}/mem", "rb", 0) as mem:
        for (place, mode, name), words in flags.items():
            if "w" not in mode or "dd" in words or name.startswith("[v"):
                continue
            start, end = (int(x, 16) for x in place.split("-"))
            if end - start > 256 * MIB:
                continue
            try:
                mem.seek(start)
                data = mem.read(end - start)
            except OSError:
                continue
            found += [f"{place} {name}" for s in secrets if s in data]
    return found


def test_restarts(t):
    """A key from a file is there again after kill -9. One that was given is not: its bdev comes when it is given again."""
    state, path = t.path("state"), key_file(t)
    images = [t.file(f"{i}.img", 16 * MIB) for i in range(2)]
    d = t.daemon("--state-dir", state)
    d.call("accel_crypto_key_create", name="file", cipher="AES_XTS", key_file=path, tweak_mode="INCR_512_FULL_LBA")
    d.call("accel_crypto_key_create", name="given", cipher="AES_XTS", key=KEY, key2=KEY2)
    for i, key in enumerate(("file", "given")):
        d.call("bdev_aio_create", name=f"b{i}", filename=images[i], block_size=512)
        d.call("bdev_crypto_create", base_bdev_name=f"b{i}", name=f"c{i}", key_name=key)
    uuids = [bdev(d, f"c{i}")["uuid"] for i in range(2)]
    config = d.call("framework_get_config", name="bdev")
    d.kill()
    d = t.daemon("--state-dir", state, folder="d2")
    equal(bdev(d, "c0")["uuid"], uuids[0])
    d.error("bdev_get_bdevs", -19, {"name": "c1"})
    contains(d.output(), "c1: waits for its key 'given'")
    keys = d.call("accel_crypto_keys_get")
    equal([(k["name"], k.get("tweak_mode"), k.get("users")) for k in keys],
          [("file", "INCR_512_FULL_LBA", 1), ("given", None, None)])
    equal(keys[1], {"name": "given", "missing": True, "bdevs": ["c1"]})

    def crypto_calls(calls):
        return [c for c in calls if c["method"] == "bdev_crypto_create"]
    equal(sorted(crypto_calls(d.call("framework_get_config", name="bdev")), key=str), sorted(crypto_calls(config), key=str))
    d.call("accel_crypto_key_create", name="given", cipher="AES_XTS", key=KEY, key2=KEY2)
    equal(bdev(d, "c1")["uuid"], uuids[1])
    d.call("bdev_crypto_delete", name="c1")
    d.call("bdev_crypto_delete", name="c0")
    d.call("accel_crypto_key_destroy", key_name="file")
    d.stop()
    d = t.daemon("--state-dir", state, folder="d3")
    equal(d.call("accel_crypto_keys_get"), [])
    equal([b["name"] for b in d.call("bdev_get_bdevs")], ["b0", "b1"])


def test_credential(t):
    """As systemd passes it."""
    folder = t.path("credentials")
    os.mkdir(folder, 0o700)
    key_file(t, name="credentials/disk-key", mode=0o400)
    d = t.daemon(env={"CREDENTIALS_DIRECTORY": folder})
    d.call("accel_crypto_key_create", name="k", cipher="AES_XTS", key_credential="disk-key")
    equal(d.call("accel_crypto_keys_get", key_name="k"),
          [{"name": "k", "cipher": "AES_XTS", "tweak_mode": "SIMPLE_LBA", "key_bits": 128, "source": "credential",
            "from": "disk-key", "users": 0}])


if __name__ == "__main__":
    harness.main(globals())
