#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""What a person sees of a running daemon: the accounting methods, berth top as text and on a terminal, berth doctor."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import harness
from harness import Skip, check, contains, equal, until

BERTH = os.path.join(harness.BUILD, "berth")


def load(t, socket_path, *args):
    """Keeps a controller busy until the test ends."""
    return t.spawn([BERTH, "perf", "--socket", socket_path, "--time", "600", "--depth", "2", *args],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def stop_load(p):
    p.terminate()
    p.wait(30 * harness.PATIENCE)


def three(t, *args):
    """A daemon with controllers vm1, vm2 and web; vm2 is busy."""
    d = t.daemon(*args)
    for name in ("vm1", "vm2", "web"):
        d.call("bdev_null_create", name=f"n-{name}", num_blocks=65536, block_size=512)
        d.controller(name, f"n-{name}")
    return d


def busy(d, name="vm2"):
    return d.call("vhost_get_stats", ctrlr=name)[0]["read_ops"] > 0


# ---- Methods ----

def test_members(t):
    """spdk_top refuses an object with a member that it does not know, or without one that it wants."""
    d = three(t)
    p = load(t, d.path("vm2"))
    until(lambda: busy(d), "requests arrive")
    r = d.call("framework_get_reactors")
    equal(set(r), {"tick_rate", "pid", "reactors", "details"})
    equal(r["pid"], d.pid)
    for reactor, details in zip(r["reactors"], r["details"], strict=True):
        equal(set(reactor), {"lcore", "numa_id", "tid", "busy", "idle", "in_interrupt", "irq", "sys", "usr", "lw_threads"})
        for thread in reactor["lw_threads"]:
            equal(set(thread), {"name", "id", "cpumask", "elapsed"})
        equal(details["lcore"], reactor["lcore"])
        equal(details["mode"], "adaptive")
        check(isinstance(details["wakeups"], int))
    s = d.call("thread_get_stats")
    for thread in s["threads"]:
        equal(set(thread), {"name", "id", "cpumask", "busy", "idle", "active_pollers_count", "timed_pollers_count",
                            "paused_pollers_count"})
    names = []
    for thread in d.call("thread_get_pollers")["threads"]:
        equal(set(thread), {"name", "id", "active_pollers", "timed_pollers", "paused_pollers"})
        for poller in thread["active_pollers"] + thread["paused_pollers"]:
            equal(set(poller), {"name", "id", "state", "run_count", "busy_count"})
            names.append(poller["name"])
        for poller in thread["timed_pollers"]:
            equal(set(poller) - {"period_ticks"}, {"name", "id", "state", "run_count", "busy_count"})
    check("vhost_queue_poll vm2 queue 0" in names, names)
    for thread in d.call("thread_get_io_channels")["threads"]:
        equal(set(thread), {"name", "io_channels"})
        for channel in thread["io_channels"]:
            equal(set(channel), {"name", "ref"})
    stop_load(p)


def test_times_add_up(t):
    """Busy and idle time of a reactor are all of its time, a sleep that is under way included, and never go down."""
    d = t.daemon()
    start = time.monotonic()
    before = d.call("framework_get_reactors")["reactors"]
    time.sleep(1)
    after = d.call("framework_get_reactors")["reactors"]
    passed = (time.monotonic() - start) * 1e9
    for old, new in zip(before, after, strict=True):
        check(new["busy"] >= old["busy"] and new["idle"] >= old["idle"], f"{old} {new}")
        spent = new["busy"] + new["idle"] - old["busy"] - old["idle"]
        check(0.9e9 < spent <= passed, f"{spent} ns of {passed}")


# ---- Text ----

def rows(t, d, *args):
    shown = json.loads(t.berth("top", "--once", "--json", *args, daemon=d))
    return shown, {row[next(iter(row))]: row for row in shown["rows"]}


def test_text(t):
    d = three(t)
    equal(t.berth("top", "--once", "-d", "0.1", daemon=d).split("\n")[4].split()[0], "CONTROLLER")
    p = load(t, d.path("vm2"))
    until(lambda: busy(d), "requests arrive")
    # Half a second and more: a rate is that of a whole interval.
    shown, by_name = rows(t, d, "-d", "0.5")
    equal(list(by_name)[0], "vm2", "the busiest first")
    vm2 = by_name["vm2"]
    check(vm2["iops"] > 100 and vm2["read_iops"] == vm2["iops"] and vm2["write_iops"] == 0, vm2)
    check(abs(vm2["read_mb_s"] - vm2["read_iops"] * 4096 / 1e6) < 0.02 * vm2["read_mb_s"], vm2)
    check(vm2["latency_us"] > 0 and vm2["session"] == "yes" and vm2["queues"] >= 1, vm2)
    check(re.fullmatch(r"[\dx ]+", vm2["cores"]), vm2)
    equal((by_name["vm1"]["iops"], by_name["vm1"]["latency_us"], by_name["vm1"]["session"]), (0, None, "-"))
    check(abs(shown["totals"]["iops"] - vm2["iops"]) < 1, "the total is that of the one that is busy")
    check(0 < shown["totals"]["cpu_percent"] < 1000, shown["totals"])
    check(shown["totals"]["seconds"] >= 0.5, shown["totals"])
    # What was counted is what the daemon counted.
    out = t.berth("top", "--filter", "vm", "--sort", "ctrlr", "--reverse", "-d", "0.2", "-n", "2", daemon=d)
    equal([line.split()[0] for line in out.split("\n") if line.startswith(("vm", "web"))], ["vm2", "vm1"] * 2)
    out = t.berth("top", "--view", "threads", "-d", "0.2", daemon=d)
    for word in ("app_thread", "io_", "BUSY %"):
        contains(out, word)
    out = t.berth("top", "--view", "cores", "-d", "0.2", daemon=d)
    for word in ("adaptive", "WAKE/s", "io_"):
        contains(out, word)
    stop_load(p)
    contains(t.run([BERTH, "-s", t.path("nobody"), "top"], code=None).stderr, "cannot connect")


def test_idle_ones_appear(t):
    """Between two whole lists only busy controllers are asked for: one that wakes, one that is made and one that goes show."""
    d = three(t)
    out = t.path("out")
    with open(out, "wb") as f:
        p = t.spawn([BERTH, "-s", d.socket, "top", "--json", "-d", "0.3", "-n", "1000"], stdout=f, stdin=subprocess.DEVNULL)

    def last():
        with open(out) as f:
            lines = f.read().split("\n")[:-1]
        return {row["ctrlr"]: row for row in json.loads(lines[-1])["rows"]} if lines else {}
    until(lambda: "vm1" in last(), "a first picture")
    w = load(t, d.path("vm1"))
    until(lambda: (last()["vm1"]["iops"] or 0) > 0 and last()["vm1"]["session"] == "yes", "vm1 is busy", 30)
    stop_load(w)
    until(lambda: last()["vm1"]["iops"] == 0 and last()["vm1"]["session"] == "-", "vm1 is idle", 30)
    # Longer than an idle one is in the shorter lists.
    time.sleep(3)
    with open(out) as f:
        for line in f.read().split("\n")[:-1]:
            equal({row["ctrlr"] for row in json.loads(line)["rows"]}, {"vm1", "vm2", "web"}, "idle ones stay")
    d.call("vhost_delete_controller", ctrlr="web")
    until(lambda: "web" not in last(), "web goes", 30)
    p.send_signal(signal.SIGTERM)
    equal(p.wait(20 * harness.PATIENCE), 0, "exit code")


# ---- Terminal ----

class Terminal:
    """A real one, of 130 by 30, by tmux: a shell in it, keys sent, the picture read."""

    def __init__(self, t, width=130, height=30):
        if not shutil.which("tmux"):
            raise Skip("tmux is not installed")
        self.t = t
        self.tmux = ["tmux", "-S", t.path("tmux"), "-f", "/dev/null"]
        t.run([*self.tmux, "new-session", "-d", "-x", str(width), "-y", str(height), "env PS1='$ ' bash --norc --noprofile"],
              env={**os.environ, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}, cwd=t.dir)
        t.stack.append(lambda: subprocess.run([*self.tmux, "kill-server"], stderr=subprocess.DEVNULL))

    def keys(self, *keys):
        self.t.run([*self.tmux, "send-keys", *keys])

    def type(self, text):
        self.t.run([*self.tmux, "send-keys", "-l", text])

    def run(self, command):
        self.type(command)
        self.keys("Enter")

    def screen(self):
        return self.t.run([*self.tmux, "capture-pane", "-p"])

    def ask(self, what):
        return self.t.run([*self.tmux, "display-message", "-p", what]).strip()

    def resize(self, width, height):
        self.t.run([*self.tmux, "resize-window", "-x", str(width), "-y", str(height)])

    def shows(self, word, what=None):
        try:
            until(lambda: word in self.screen(), what or f"the screen shows {word!r}", 15)
        except harness.Failure as e:
            raise harness.Failure(f"{e}\n{self.screen()}") from None

    def names(self):
        """First words of the table's rows."""
        lines = self.screen().split("\n")
        start = next((i for i, line in enumerate(lines) if line.startswith(("CONTROLLER", "THREAD ", "CORE "))), None)
        return [] if start is None else [line.split()[0] for line in lines[start + 1:-2] if line.strip()]


def test_terminal(t):
    d = three(t)
    p = load(t, d.path("vm2"))
    until(lambda: busy(d), "requests arrive")
    term = Terminal(t)
    term.run("stty -g > before")
    until(lambda: os.path.exists(t.path("before")) and os.path.getsize(t.path("before")), "the shell is there")
    term.run(f"{BERTH} -s {d.socket} top -d 0.3")
    term.shows("IOPSv")
    equal(term.ask("#{alternate_on}"), "1", "a screen of its own")
    for word in ("CONTROLLER", "adaptive mode", "controllers 3", "in flight", "q quit"):
        term.shows(word)
    until(lambda: re.search(r"^vm2 .*\d+us ", term.screen(), re.M), "vm2 has a latency")
    equal(term.names(), ["vm2", "vm1", "web"], "by IOPS")
    # Order: twice around to the name, and back.
    for _ in range(7):
        term.keys("Left")
    term.shows("CONTROLLER^")
    until(lambda: term.names() == ["vm1", "vm2", "web"], "in order of name")
    term.keys("r")
    term.shows("CONTROLLERv")
    until(lambda: term.names() == ["web", "vm2", "vm1"], "the other way round")
    # Filter.
    term.type("/VM")
    term.shows("filter: VM_")
    until(lambda: term.names() == ["vm2", "vm1"], "only those with vm")
    term.keys("Enter")
    term.shows('filter "VM": 2 of 3')
    term.type("/nothing")
    term.shows("nothing has that in it")
    term.keys("Escape")
    term.shows('filter "VM": 2 of 3')
    term.keys("Escape")
    until(lambda: len(term.names()) == 3, "all again")
    # Views.
    term.keys("2")
    term.shows("THREAD ")
    until(lambda: "app_thread" in term.names(), "threads")
    term.keys("Tab")
    term.shows("WAKE/s")
    term.shows("[")
    term.keys("h")
    term.shows("returns from sleep a second")
    term.keys("x")
    term.shows("WAKE/s")
    term.keys("1")
    term.shows("CONTROLLERv")
    # Sizes: what matters least is left out; nothing is written beyond the edge, nothing is too small.
    term.resize(60, 12)
    until(lambda: "KICK/s" not in term.screen() and "LATENCY" in term.screen(), "narrow")
    check(max(len(line) for line in term.screen().split("\n")) <= 60)
    for width, height in ((20, 5), (3, 2), (1, 1)):
        term.resize(width, height)
        time.sleep(0.2)
    term.resize(160, 40)
    term.shows("KICK/s")
    until(lambda: term.names() == ["web", "vm2", "vm1"], "wide again")
    term.keys("q")
    until(lambda: term.ask("#{alternate_on}") == "0", "the shell's screen is back")
    term.run("stty -g > after; echo code=$?")
    until(lambda: os.path.exists(t.path("after")) and os.path.getsize(t.path("after")), "the shell is back")
    with open(t.path("before")) as a, open(t.path("after")) as b:
        equal(b.read(), a.read(), "the terminal's settings")
    stop_load(p)


def test_terminal_help(t):
    """Help of more lines than the terminal has; the mark of the order where the title fills its column."""
    d = three(t)
    term = Terminal(t, 120, 24)
    term.run(f"{BERTH} -s {d.socket} top -d 0.3")
    term.shows("IOPSv")
    term.keys("Right")
    term.shows("RD MB/sv")
    term.keys("Left", "Left")
    term.shows("WRITE/sv")
    term.keys("h")
    term.shows("any other key goes back")
    check("failed requests and broken" not in term.screen(), "help fits, so this tests nothing")
    term.keys("End")
    term.shows("failed requests and broken")
    term.keys("Up")
    term.keys("x")
    term.shows("WRITE/sv")
    term.keys("h")
    term.resize(120, 40)
    term.shows("any key goes back")
    term.keys("x", "q")
    until(lambda: term.ask("#{alternate_on}") == "0", "the shell's screen is back")


def test_terminal_hang(t):
    """berthd stands still: that is said within two seconds, keys are heard, and all is well when it goes on."""
    d = three(t)
    term = Terminal(t, 120, 24)
    term.run(f"{BERTH} -s {d.socket} top -d 0.3; echo ended=$?")
    term.shows("IOPSv")
    os.kill(d.pid, signal.SIGSTOP)
    try:
        term.shows("berthd has not answered for 1 s")
        term.keys("2")
        term.shows("THREAD ", "another view while it hangs")
        # Longer than the time for one answer.
        term.shows("berthd has not answered for 7 s")
        os.kill(d.pid, signal.SIGCONT)
        until(lambda: "not answered" not in term.screen() and "q quit" in term.screen(), "it goes on", 15)
        os.kill(d.pid, signal.SIGSTOP)
        term.shows("berthd has not answered for 1 s")
        term.keys("q")
        term.shows("ended=0")
    finally:
        os.kill(d.pid, signal.SIGCONT)


def test_wide_names(t):
    """Columns stand below each other whatever the names are made of, whatever the locale of the script is."""
    d = three(t)
    for name in ("\u4e2d\u6587\u540d", "e\u0301e\u0301"):
        d.controller(name, "n-vm1")
    for locale in ("C", "C.UTF-8"):
        out = t.berth("top", "--once", "-d", "0.1", daemon=d, env={**os.environ, "LC_ALL": locale}, encoding="utf-8")
        at = {line.split()[0]: line.index("n-vm1") for line in out.split("\n") if " n-vm1 " in line}
        equal(at["\u4e2d\u6587\u540d"], at["vm1"] - 3, "three characters of two columns each")
        equal(at["e\u0301e\u0301"], at["vm1"] + 2, "two that take none")


@harness.each(how=["ctrl-C", "SIGTERM", "-n"])
def test_terminal_ends(t, how):
    d = three(t)
    term = Terminal(t, 100, 20)
    term.run("stty -g > before; echo $$ > shell")
    until(lambda: os.path.exists(t.path("shell")), "the shell is there")
    term.run(f"{BERTH} -s {d.socket} top -d 0.2 {'-n 3' if how == '-n' else ''}; code=$?; stty -g > after; echo ended=$code")
    if how != "-n":
        term.shows("q quit")
    if how == "ctrl-C":
        term.keys("C-c")
    elif how == "SIGTERM":
        with open(t.path("shell")) as f:
            shell = f.read().strip()
        with open(f"/proc/{shell}/task/{shell}/children") as f:
            os.kill(int(f.read().split()[0]), signal.SIGTERM)
    term.shows("ended=0")
    equal(term.ask("#{alternate_on}"), "0")
    with open(t.path("before")) as a, open(t.path("after")) as b:
        equal(b.read(), a.read(), "the terminal's settings")


def test_terminal_without_daemon(t):
    """The daemon ends under it: it says so, and goes on when there is one again."""
    d = t.daemon()
    term = Terminal(t, 100, 20)
    term.run(f"{BERTH} -s {d.socket} top -d 0.2")
    term.shows(f"pid {d.pid},")
    d.stop()
    term.shows("cannot connect")
    term.shows("controllers 0", "what was known stays")
    d = t.daemon()
    term.shows(f"pid {d.pid},")
    until(lambda: "cannot connect" not in term.screen(), "no complaint any more")
    term.keys("q")
    term.run("exec true")
    term = None
    # No terminal type that curses knows: said, not drawn.
    script = f"TERM=nonsense {BERTH} -s {d.socket} top"
    contains(t.run(["script", "-qec", script, "/dev/null"], code=None).stdout, "the terminal type 'nonsense'")


# ---- Doctor ----

def findings(t, *args, code=0, daemon=None):
    result = json.loads(t.berth("doctor", "--json", "--sample", "0.3", *args, daemon=daemon, code=code))
    counts = {"ok": 0, "note": 0, "warn": 0, "bad": 0}
    by_subject = {}
    for f in result["findings"]:
        counts[f["level"].lower()] += 1
        check(f["level"] not in ("WARN", "BAD") or f["advice"], f"advice for {f}")
        by_subject.setdefault(f["subject"], []).append((f["level"], f["text"]))
    equal(result["counts"], counts)
    return result, by_subject


def test_doctor(t):
    # A mask of the first CPU there is: reactors are pinned then.
    cpu = min(os.sched_getaffinity(0))
    d = three(t, "-m", f"[{cpu}]", "--state-dir", t.path("state"))
    result, found = findings(t, daemon=d)
    equal(result["socket"], d.socket)
    contains(found["berthd"][0][1], "3 controllers, 0 connected VMs")
    contains(found["reactors"][0][1], "1 reactors, each on the CPU it was asked to run on")
    contains(found["cpus"][0][1], f"pinned to {cpu}")
    equal(found["pollers"], [("OK", "no poller keeps a core awake without work")])
    # The doctor's own connection is one of them, and one of before may still have been open.
    counted = int(re.search(r"has (\d+) open", found["descriptors"][0][1]).group(1))
    check(abs(counted - d.fd_count()) <= 3, f"{counted} descriptors, then {d.fd_count()}")
    contains(found["sockets"][0][1], d.folder)
    equal(found["left behind"][0][0], "OK")
    equal(found["io_uring"][0][1] == "io_uring works", harness.has_uring())
    # What is not as it should be.
    d.call("vhost_controller_set_coalescing", ctrlr="vm1", delay_base_us=10, iops_threshold=1000)
    d.call("bdev_null_delete", name="n-vm2")
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(d.path("left"))
    _, found = findings(t, daemon=d, code=1)
    equal(found["controllers"][0], ("BAD", "the block device of 1 controllers is gone, so no VM can use them: vm2"))
    equal(found["coalescing"][0][0], "NOTE")
    contains(found["left behind"][0][1], f"1 sockets in {d.folder} on which nobody listens, such as {d.path('left')}")
    out = t.berth("doctor", "--sample", "0.1", daemon=d, code=1)
    contains(out, "BAD   controllers   the block device of 1 controllers is gone")
    contains(out, "                 -> delete them")
    check(re.search(r"^\d+ OK, \d+ NOTE, \d+ WARN, 1 BAD$", out, re.M), out)


def test_moved(t):
    """Who takes a polling reactor from its CPU sees that it does not poll there."""
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        raise Skip("one CPU")
    d = t.daemon("-m", f"[{cpus[0]}]", "--mode", "poll")
    contains(t.berth("mode", daemon=d), "poll ")
    os.sched_setaffinity(d.call("framework_get_reactors")["reactors"][0]["tid"], {cpus[1]})
    until(lambda: "poll (as adaptive)" in t.berth("mode", daemon=d), "berth mode says so")
    out = t.berth("top", "--once", "--view", "cores", "-d", "0.1", daemon=d)
    contains(out.split("\n")[0], "poll (as adaptive) mode")
    check(re.search(r"moved +poll \(as adaptive\) ", out), out)
    if shutil.which("tmux"):
        term = Terminal(t, 80, 24)
        term.run(f"{BERTH} -s {d.socket} top --view cores -d 0.3")
        until(lambda: re.search(r"moved +poll \(as adaptive\) ", term.screen()), "the whole mode on a narrow screen")
    _, found = findings(t, daemon=d)
    contains(found["reactors"][0][1], "it waits as in adaptive mode")
    check(not any("are in poll mode" in text for _, text in found["reactors"]), found["reactors"])


def test_doctor_of_another_mount_namespace(t):
    """As in a container: berthd's folders are where it sees them, not where the doctor would."""
    space = ["unshare", "-m" if os.geteuid() == 0 else "-rm"]
    if not shutil.which("unshare") or subprocess.run([*space, "true"], stderr=subprocess.DEVNULL).returncode != 0:
        raise Skip("no mount namespaces here")
    inner = t.path("inner")
    os.mkdir(inner)
    # An absolute link means what berthd takes it for.
    script = f'mount -t tmpfs none {inner} && mkdir {inner}/state && ln -s {inner}/state {inner}/link && exec "$@"'
    d = t.daemon("--state-dir", f"{inner}/link", prefix=[*space, "sh", "-c", script, "sh"])
    equal(os.listdir(inner), [], "it cannot be seen from here")
    _, found = findings(t, daemon=d)
    equal([level for level, _ in found["sockets"]], ["OK"])
    check(any("is in memory (tmpfs)" in text for _, text in found["state"]), found["state"])
    equal(found["left behind"][0][0], "OK")


def test_doctor_alone(t):
    """Without a berthd: the host, and folders it is to be started with."""
    result, found = findings(t, "-s", t.path("nobody"), "--state-dir", t.dir)
    equal(result["socket"], None)
    equal(found["berthd"][0][0], "NOTE")
    check(not {"reactors", "pollers", "controllers", "sockets"} & set(found), sorted(found))
    check({"cpus", "quota", "steal", "memory", "descriptors", "io_uring", "aio", "kernel", "kvm", "state"} <= set(found))
    contains(found["descriptors"][0][1], "a berthd started here")
    # Fewer files: prlimit(1) lowers the limit of the one that asks.
    p = t.run(["prlimit", "--nofile=64", BERTH, "-s", t.path("nobody"), "doctor", "--json", "--sample", "0.1"])
    contains(p, "may open 64 files: room for about 6 VMs")


def test_doctor_busy(t):
    """Work is not burning: a busy ring is not blamed."""
    d = three(t)
    p = load(t, d.path("vm2"))
    until(lambda: busy(d), "requests arrive")
    _, found = findings(t, daemon=d)
    equal(found["pollers"], [("OK", "no poller keeps a core awake without work")])
    stop_load(p)


harness.main(globals())
