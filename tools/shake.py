#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Runs tests as a busy machine would: with delays at random, chosen by a seed, before system calls, locks and starts of threads
(tests/shake/shake.c). Finds tests, and code, that only work because something is usually fast.

    tools/shake.py                          every unit test of build/, seed 1
    tools/shake.py -s 1-20 event_ vhost_    those whose name contains one of the words, twenty times
    tools/shake.py --e2e daemon             an end-to-end test: the daemons that it starts are shaken
    tools/shake.py --stall 5000             besides, everything stands still once for 5 s
    tools/shake.py --one-cpu                all on one processor

The build folder must be one with tests (meson setup DIR -Dtests=true) and without a sanitizer, which would have to be loaded first.
What fails leaves its output in DIR/meson-logs/shake/, and the command that runs it again is printed; a run that takes longer than
--timeout has failed, and what its threads did then is in its output where gdb is installed. Exit code: 0, 1 something failed,
2 nothing could be run.
"""
import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
LIBRARY = os.path.join("tests", "shake", "shake.so")
SKIPPED = 77


def introspect(build):
    with open(os.path.join(build, "meson-info", "intro-tests.json")) as f:
        return json.load(f)


def wanted(build, suite, words):
    """Words that are the whole name of a test mean that test alone."""
    tests = [t for t in introspect(build) if suite in (s.split(":")[-1] for s in t["suite"])]
    names = {t["name"] for t in tests}
    return [t for t in tests if not words or any(w == t["name"] or (w not in names and w in t["name"]) for w in words)]


def stacks(pid):
    """What the threads of a process and its children do, for a reader."""
    children = subprocess.run(["pgrep", "-P", str(pid)], stdout=subprocess.PIPE, text=True).stdout.split()
    seen = b""
    if shutil.which("gdb"):
        done = subprocess.run(["gdb", "-p", str(pid), "-batch", "-ex", "thread apply all bt 30"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        seen = b"\n---- process %d\n" % pid + done.stdout
    return seen + b"".join(stacks(int(child)) for child in children)


def environment(args, build, seed):
    """What a run has besides its usual environment."""
    library = os.path.join(build, LIBRARY)
    return {"BERTH_PRELOAD" if args.e2e else "LD_PRELOAD": library, "SHAKE_SEED": str(seed), "SHAKE_RATE": str(args.rate),
            "SHAKE_US": str(args.us), "SHAKE_STALL_MS": str(args.stall)}


def command(args, test):
    return (["taskset", "-c", "0"] if args.one_cpu else []) + test["cmd"]


def run(args, build, test, seed):
    """Result (0, an exit code, or a word), seconds, output."""
    env = {**os.environ, **environment(args, build, seed), **test["env"]}
    start = time.monotonic()
    if not os.path.exists(test["cmd"][0]):
        return "was not built", 0, b""
    p = subprocess.Popen(command(args, test), env=env, cwd=test["workdir"] or build, stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        output, _ = p.communicate(timeout=args.timeout)
        code = p.returncode
    except subprocess.TimeoutExpired:
        seen = stacks(p.pid)
        # An end-to-end test ends its daemons when it is told so.
        os.killpg(p.pid, signal.SIGTERM)
        try:
            output, _ = p.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(p.pid, signal.SIGKILL)
            output, _ = p.communicate()
        output, code = output + seen, "hangs"
    return code, time.monotonic() - start, output


def again(args, test, seed):
    """The command that runs it once more."""
    argv = ["tools/shake.py", "-C", args.build, "-s", str(seed), "--rate", str(args.rate), "--us", str(args.us)]
    argv += ["--stall", str(args.stall)] if args.stall else []
    argv += ["--one-cpu"] * args.one_cpu + ["--e2e"] * args.e2e + [test["name"]]
    return shlex.join(argv)


def telling(output):
    """The lines that say what failed."""
    lines = output.decode(errors="replace").splitlines()
    marked = [line for line in lines if re.search(r"error: |FAILED  \]|_test\.py:\d+: |CHECK|nothing came", line)]
    return (marked or lines)[-4:]


def report(args, build, test, seed, code, output):
    folder = os.path.join(build, "meson-logs", "shake")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{test['name']}-{seed}.txt")
    with open(path, "wb") as f:
        f.write(output)
    print(f"FAILED: {test['name']}, seed {seed}: {code}")
    for line in telling(output):
        print(f"    {line.strip()}")
    print(f"    output: {path}\n    again:  {again(args, test, seed)}", flush=True)


def seeds(text):
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def arguments():
    p = argparse.ArgumentParser(prog="shake.py", description="Run tests with delays at random.")
    p.add_argument("-C", dest="build", default="build", metavar="DIR", help="the build folder (build)")
    p.add_argument("-s", "--seeds", type=seeds, default=range(1, 2), metavar="N[-M]", help="one run of each test a seed (1)")
    p.add_argument("--rate", type=int, default=64, metavar="N", help="one call in N is delayed (64)")
    p.add_argument("--us", type=int, default=3000, metavar="US", help="the longest delay (3000)")
    p.add_argument("--stall", type=int, default=0, metavar="MS", help="once, all stands still for so long (0)")
    p.add_argument("--one-cpu", action="store_true", help="all on one processor")
    p.add_argument("--e2e", action="store_true", help="end-to-end tests instead of unit tests")
    p.add_argument("-j", dest="jobs", type=int, default=2 * os.cpu_count(), metavar="N", help="so many at once")
    p.add_argument("--timeout", type=int, default=240, metavar="S", help="a run that takes longer hangs (240)")
    p.add_argument("name", nargs="*", help="those only whose name is this, or contains it when none has that name")
    return p.parse_args()


def main():
    args = arguments()
    build = os.path.abspath(os.path.join(ROOT, args.build))
    if not os.path.exists(os.path.join(build, LIBRARY)):
        print(f"{build}/{LIBRARY} is not there: build it with tests and without a sanitizer", file=sys.stderr)
        return 2
    jobs = [(test, seed) for seed in args.seeds for test in wanted(build, "e2e" if args.e2e else "unit", args.name)]
    if not jobs:
        print("no such test", file=sys.stderr)
        return 2
    failed = skipped = 0
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = {pool.submit(run, args, build, *job): job for job in jobs}
        for done in as_completed(runs):
            code, seconds, output = done.result()
            skipped += code == SKIPPED
            if code not in (0, SKIPPED):
                failed += 1
                report(args, build, *runs[done], code, output)
            elif seconds > 30:
                print(f"slow: {runs[done][0]['name']}, seed {runs[done][1]}: {seconds:.0f} s", flush=True)
    print(f"{len(jobs) - failed - skipped} clean, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
