#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""berth, the command line: what people and programs see, exit codes, completion."""
import json
import os
import re
import socket
import subprocess

import harness
from harness import check, contains, equal

MIB = 1 << 20


def berth(t, d, *args, code=0, **kw):
    p = t.run([os.path.join(harness.BUILD, "berth"), "-s", d.socket, *args], code=None, **kw)
    equal(p.returncode, code, f"exit code of berth {' '.join(args)} ({p.stderr.strip()})")
    return p.stdout if code == 0 else p.stderr


def test_disks(t):
    d = t.daemon("--state-dir", t.path("state"))
    out = berth(t, d, "disk", "create", "demo", "1G")
    contains(out, "demo")
    disk = json.loads(berth(t, d, "disk", "list", "--json"))[0]
    equal((disk["name"], disk["size"], disk["connected"], disk["volume"]), ("demo", 1 << 30, False, "disks/demo"))
    check(os.stat(t.path("state/disks/store.img")).st_blocks * 512 < 4 * MIB, "the store's file is sparse")
    berth(t, d, "disk", "resize", "demo", "2G")
    equal(json.loads(berth(t, d, "disk", "list", "--json"))[0]["size"], 2 << 30)
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(disk["socket"])
    for word in ("demo", "2 GiB", disk["socket"]):
        contains(berth(t, d, "disk", "list"), word)
    contains(berth(t, d, "disk", "create", "demo", "1G", code=1), "demo")
    contains(berth(t, d, "disk", "create", "x", "12parsecs", code=2), "12parsecs")
    contains(berth(t, d, "disk", "create", "x", "8E", code=2), "'8E' is no size")
    contains(berth(t, d, "disk", "create", "a/b", "1G", code=1), "a/b")
    contains(berth(t, d, "disk", "create", "..", "1G", code=1), "..")
    contains(berth(t, d, "disk", "delete", "none", code=1), "none")
    berth(t, d, "disk", "create", "ro", "8M", "--readonly", "--block-size", "4096", "--backend", "aio")
    disk = json.loads(berth(t, d, "disk", "list", "ro", "--json"))[0]
    equal((disk["block_size"], disk["readonly"], disk["backend"]), (4096, True, "aio"))
    berth(t, d, "disk", "delete", "demo")
    berth(t, d, "disk", "delete", "ro", "--keep-file")
    # An empty file would be taken for what a kill -9 left of a creation.
    with open(disk["file"], "rb+") as f:
        f.write(b"data")
    equal(json.loads(berth(t, d, "disk", "list", "--json")), [])
    contains(berth(t, d, "disk", "create", "ro", "8M", "--backend", "file", code=1), "ro")
    berth(t, d, "disk", "create", "ro", "8M", "--existing")
    equal(json.loads(berth(t, d, "disk", "list", "--json"))[0]["file"], disk["file"], "the file that is there")
    contains(berth(t, d, "disk", "resize", "ro", "4M", code=1), "larger")
    berth(t, d, "disk", "resize", "ro", "12M")
    equal(json.loads(berth(t, d, "disk", "list", "--json"))[0]["size"], 12 * MIB)


def test_nobody_at_a_tcp_address(t):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
        p = t.run([os.path.join(harness.BUILD, "berth"), "-s", address, "status"], code=None)
    equal(p.returncode, 3, "exit code")
    contains(p.stderr, f"cannot connect to {address}: Connection refused (is berthd running?")


def test_names_of_others_in_tables(t):
    d = t.daemon("--state-dir", t.path("state"))
    berth(t, d, "disk", "create", "demo", "1M", "--store-size", "64M")
    d.call("bdev_lvol_create", lvs_name="disks", lvol_name="a\n\033[31mb", size_in_mib=1, thin_provision=True)
    lines = berth(t, d, "volume", "list").splitlines()
    equal((len(lines), lines[2].split()[0]), (3, "disks/a??[31mb"), lines)


def test_disks_need_a_state_dir(t):
    d = t.daemon()
    contains(berth(t, d, "disk", "create", "demo", "1G", code=1), "state")


def test_mode(t):
    d = t.daemon()
    contains(berth(t, d, "mode"), "adaptive")
    berth(t, d, "mode", "poll")
    modes = {x["lcore"]: x["mode"] for x in json.loads(berth(t, d, "mode", "--json"))}
    equal(set(modes.values()), {"poll"})
    equal(json.loads(berth(t, d, "status", "--json"))["mode"], "poll", "status follows")
    first = min(modes)
    berth(t, d, "mode", "interrupt", "--core", str(first))
    equal(json.loads(berth(t, d, "status", "--json"))["mode"], "mixed" if len(modes) > 1 else "interrupt")
    modes = {x["lcore"]: x["mode"] for x in json.loads(berth(t, d, "mode", "--json"))}
    equal([x for x in modes if modes[x] == "interrupt"], [first])
    contains(berth(t, d, "mode", "best", code=1), "mode")
    contains(berth(t, d, "mode", "poll", "--core", "x", code=2), "--core is 'x', but must be the number of a reactor")
    contains(berth(t, d, "mode", "poll", "--core", "900", code=1), "900")
    equal([x["lcore"] for x in json.loads(berth(t, d, "mode", "--core", str(first), "--json"))], [first])
    equal(len(berth(t, d, "mode", "--core", str(first)).split("\n")), 3, "a heading, a row")
    contains(berth(t, d, "mode", "--core", "900", code=1), "there is no reactor 900")
    berth(t, d, "mode", "POLL")
    contains(berth(t, d, "-s", "other", "mode", code=2), "-s is given twice")
    contains(berth(t, d, "--socket", "other", "mode", code=2), "-s and --socket")


def test_status(t):
    d = t.daemon()
    contains(berth(t, d, "status"), str(d.pid))
    status = json.loads(berth(t, d, "status", "--json"))
    equal((status["pid"], status["state"]), (d.pid, "runtime"))


def test_rpc(t):
    d = t.daemon()
    equal(json.loads(berth(t, d, "rpc", "bdev_null_create", "name=n", "num_blocks=0x800", "block_size=512")), "n")
    bdev = json.loads(berth(t, d, "rpc", "bdev_get_bdevs", "name=n"))[0]
    equal(bdev["num_blocks"], 2048)
    contains(berth(t, d, "rpc", "bdev_get_bdevs", "name=none", code=1), "none")
    contains(berth(t, d, "rpc", "bdev_get_bdevs", "colour=red", code=2), "colour")
    contains(berth(t, d, "rpc", "bdev_null_create", "name=n", "num_blocks=many", "block_size=512", code=2), "num_blocks")
    contains(berth(t, d, "rpc", "no_such_method", code=2), "no_such_method")
    contains(berth(t, d, "rpc", "bdev_null_create", "--help"), "num_blocks")
    contains(berth(t, d, "rpc", "--list"), "vhost_create_blk_controller")
    equal(json.loads(berth(t, d, "rpc", "bdev_get_iostat", "names=n"))["bdevs"][0]["name"], "n")


def test_exit_codes(t):
    t.run([os.path.join(harness.BUILD, "berth"), "-s", t.path("nobody"), "status"], code=3)
    # Somebody who listens and never answers.
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(t.path("mute"))
        s.listen()
        t.run([os.path.join(harness.BUILD, "berth"), "-s", t.path("mute"), "--timeout", "1", "status"], code=4)
    for args in (["dance"], ["disk"], ["disk", "create", "x"], ["--colour"], []):
        t.run([os.path.join(harness.BUILD, "berth"), *args], code=2)
    if os.path.exists("/dev/full"):
        d = t.daemon()
        with open("/dev/full", "w") as full:
            argv = [os.path.join(harness.BUILD, "berth"), "-s", d.socket, "status"]
            equal(subprocess.run(argv, stdout=full, stderr=subprocess.DEVNULL).returncode, 4, "output that cannot be written")


def test_help_and_completion(t):
    out = t.run([os.path.join(harness.BUILD, "berth"), "--help"])
    for word in ("disk", "status", "rpc", "perf", "Exit code"):
        contains(out, word)
    script = t.run([os.path.join(harness.BUILD, "berth"), "completion", "bash"])
    t.run(["bash", "-n"], input=script)
    out = t.run(["bash", "-c", f"PATH={harness.BUILD}:$PATH; {script}\nCOMP_WORDS=(berth di); COMP_CWORD=1; COMP_LINE='berth di'; "
                 "COMP_POINT=8; f=$(complete -p berth | sed 's/.*-F \\([^ ]*\\).*/\\1/'); $f; printf '%s\\n' \"${COMPREPLY[@]}\""])
    contains(out, "disk")


def test_completion_words(t):
    d = t.daemon()

    def words(*typed, **kw):
        return t.run([os.path.join(harness.BUILD, "berth"), "completion", "words", *typed], **kw).split()
    lcores = [str(r["lcore"]) for r in d.call("framework_get_reactors")["reactors"]]
    equal(words("-s", d.socket, "mode", "--core"), lcores)
    equal(words("--socket", "=", d.socket, "mode", "--core"), lcores, "as bash splits it")
    equal(words("mode", "--core", env={**os.environ, "BERTH_SOCKET": d.socket}), lcores)
    equal(words("-s", t.path("nobody"), "mode", "--core"), [], "nobody to ask")
    check("poll" in words("-s", d.socket, "mode"), "after a global option")
    check("poll" in words("--timeout", "3", "--json", "mode"))
    check("status" in words("--json"))
    equal(words("-s"), ["<file>"])
    equal(words("status", "--timeout"), [])
    check("read_iops" in words("top", "--sort") and "--sort" not in words("top", "--sort"))
    check("wakeups" in words("top", "--view", "cores", "--sort"), "columns of the view")
    equal(words("top", "--filter"), [])
    check("--sort" in words("top", "--once"))
    for command in ("volume", "store"):
        usage = t.run([os.path.join(harness.BUILD, "berth"), command, "--help"])
        actions = re.findall(rf"^(?:usage:|      ) berth {command} (\w+)", usage, re.M)
        check(len(actions) >= 6, usage)
        equal(words(command), actions, "every action of its usage")
    equal(words("volume", "import"), ["<file>"])
    equal(words("volume", "import", "x", "--format"), ["raw", "qcow2"])
    equal(words("store", "salvage", "x"), ["<file>"])
    check("--repair" in words("store", "check", "x"))


def test_documented_errors(t):
    """docs/rpc.md says with which code each method answers a parameter that it does not know."""
    d = t.daemon()
    with open(os.path.join(harness.ROOT, "docs", "rpc.md"), encoding="utf-8") as f:
        parts = re.split(r"^### (\w+)$", f.read(), flags=re.M)[1:]
    checked = set()
    for method, text in zip(parts[::2], parts[1::2], strict=True):
        m = re.search(r"^Error (-\d+): .*(?:unknown|none is wanted)", text, re.M)
        check(m, f"{method}: no word about its errors")
        if "only before framework_start_init" not in text:
            d.error(method, int(m.group(1)), {"no_such_parameter": 1})
            checked.add(m.group(1))
    equal(checked, {"-32602", "-32603"})


def test_version(t):
    contains(t.run([os.path.join(harness.BUILD, "berth"), "--version"]), "berth")


harness.main(globals())
