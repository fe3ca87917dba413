#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Builds and tests berth in every way that is promised to work; ./check calls it. Counted are cases: those that a test program
names in its output (cmocka's and the end-to-end harness's `[       OK ] name` lines), or the program as one case when it names
none. A build that fails, a program that crashes or hangs, and a run without any test count as failed. Skipped is not passed.
Which tests run in which build is said by their suites: see tests/meson.build.
"""
import argparse
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
FUZZ_SECONDS = 40 # at most; fuzz/runs says how much
FUZZ_SECONDS_LONG = 600
FUZZ_SEED = 1
SANITIZER_ENV = {
    "ASAN_OPTIONS": "detect_stack_use_after_return=1:strict_string_checks=1:abort_on_error=0",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1:die_after_fork=0",
}


class Build(NamedTuple):
    folder: str
    title: str
    options: list  # of meson
    env: dict  # of meson
    suites: list  # of tests
    left_out: str  # a suite, but for --all
    patience: int  # multiplies time-outs


# gcc first. Then clang: what gcc lets through is a warning, and so an error, there; and it has the fuzzer.
BUILDS = [
    Build("build", "release", ["--buildtype=release", "-Dtests=true"], {}, ["static", "unit", "e2e"], "", 4),
    Build("build-clang", "clang, ASan + UBSan, fuzz targets",
          ["--buildtype=debugoptimized", "-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dtests=true", "-Dfuzz=true",
           "-Dwerror=true"], {"CC": "clang"}, ["compiler", "unit", "e2e"], "no-asan", 6),
    Build("build-tsan", "TSan", ["--buildtype=debugoptimized", "-Db_sanitize=thread", "-Dtests=true", "-Dc_args=-Wno-tsan"], {},
          ["unit", "e2e"], "no-tsan", 6),
]
# Tests wait more than they compute.
TESTS_AT_ONCE = 2 * os.cpu_count()
OK = re.compile(r"^\[ +OK \] (.+)$", re.M)
# cmocka names what failed or was skipped once when it happens and once in a list at the end, below "N test(s), listed below:".
FAILED = re.compile(r"^\[ +FAILED +\] (?!\d+ test)(.+?)(?: \(\d+\.\d s\))?$", re.M)
SKIPPED = re.compile(r"^\[ +SKIPPED +\] (?!\d+ test)(.+)$", re.M)


class Tally:
    def __init__(self):
        self.passed = 0
        self.failed = []
        self.skipped = []

    def add_failure(self, what):
        self.failed.append(what)
        say(f"FAILED: {what}")


def say(text):
    print(text, flush=True)


def end_with_parent():
    """For preexec_fn: a run that is interrupted leaves no tests behind."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def tail(text, lines=60):
    return "\n".join("    " + line for line in text.rstrip().split("\n")[-lines:])


def run_logged(argv, env=None):
    done = subprocess.run(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", env={**os.environ, **(env or {})})
    return done.returncode, done.stdout


def same_addresses():
    """Before a command: the same in each run, where this machine lets one have it so."""
    return ["setarch", "-R"] if run_logged(["setarch", "-R", "true"])[0] == 0 else []


def build(spec, tally):
    folder = spec.folder
    start = time.monotonic()
    say(f"==> building {folder}/ ({spec.title})")
    fresh = not os.path.exists(os.path.join(ROOT, folder, "build.ninja"))
    setup = ["meson", "setup", folder] if fresh else ["meson", "configure", folder]
    code, output = run_logged(setup + spec.options, spec.env)
    if code == 0:
        # Tests of another build go first.
        code, output = run_logged(["nice", "ninja", "-C", folder])
    if code != 0:
        say(tail(output))
        tally.add_failure(f"{folder}: build")
        return False
    warnings = len(re.findall(r"warning:", output))
    if warnings:
        say(tail("\n".join(line for line in output.split("\n") if "warning:" in line), 20))
        tally.add_failure(f"{folder}: {warnings} warnings")
    say(f"    {folder}/ is built, in {time.monotonic() - start:.0f} s")
    return True


def introspect(folder, what):
    code, output = run_logged(["meson", "introspect", folder, what])
    return json.loads(output) if code == 0 else []


def wanted_tests(folder, suites, left_out, words):
    """Names of the tests to run, as meson knows them."""
    names = []
    for test in introspect(folder, "--tests"):
        # meson says "project:suite"
        suite = {s.split(":")[-1] for s in test["suite"]}
        if suite & set(suites) and left_out not in suite and (not words or any(w in test["name"] for w in words)):
            names.append(test["name"])
    return names


def count(test, folder, tally):
    output = test.get("stdout", "") + "\n" + test.get("stderr", "")
    name = f"{folder}: {test['name'].split(' / ')[-1]}"
    result = test["result"]
    skipped = sorted(set(SKIPPED.findall(output)))
    if result == "SKIP":
        tally.skipped += [f"{name} {case}" for case in skipped] or [name]
        return
    passed = OK.findall(output)
    failed = sorted(set(FAILED.findall(output)))
    tally.skipped += [f"{name} {case}" for case in skipped]
    tally.passed += len(passed)
    if result in ("OK", "EXPECTEDFAIL") and not failed:
        if not passed and not skipped:
            tally.passed += 1
        return
    say(f"---- {name}: {result}\n{tail(output)}")
    for case in failed or [result.lower()]:
        tally.add_failure(f"{name} {case}")


def run_tests(folder, names, patience, tally):
    if not names:
        return
    # TSan of gcc 12 does not start where addresses are randomised by more bits than it knows.
    before = same_addresses() if folder == "build-tsan" else []
    argv = before + ["meson", "test", "-C", folder, "--no-rebuild", f"--timeout-multiplier={patience}",
                     f"--num-processes={TESTS_AT_ONCE}"] + names
    log = os.path.join(ROOT, folder, "meson-logs", "testlog.json")
    if os.path.exists(log):
        os.unlink(log)
    p = subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                         env={**os.environ, **SANITIZER_ENV}, preexec_fn=end_with_parent)
    for line in p.stdout:
        if re.match(r"\s*\d+/\d+ ", line):
            say("    " + line.strip())
    p.wait()
    done = []
    if os.path.exists(log):
        with open(log, errors="replace") as f:
            done = [json.loads(line) for line in f if line.strip()]
    for test in done:
        count(test, folder, tally)
    if len(done) < len(names):
        tally.add_failure(f"{folder}: {len(names) - len(done)} of {len(names)} tests did not run")


def fuzz_runs():
    """How many inputs each target tries when it is not to find something new."""
    with open(os.path.join(ROOT, "fuzz", "runs")) as f:
        return {words[0]: int(words[1]) for words in (line.split() for line in f) if words and words[0] != "#"}


def fuzz_one(target, seconds, seed, inputs):
    """seed None: another one each time. With the same seed, addresses, committed corpus and number of inputs a run tries the same in
    the same order on every machine, but for targets with threads, which vary a little, and where a slow one runs out of time."""
    name = os.path.basename(target)
    seeds = [d for d in (os.path.join(ROOT, "fuzz", "corpus", name),) if os.path.isdir(d)]
    with tempfile.TemporaryDirectory(prefix="berth-fuzz-") as tmp:
        corpus = os.path.join(tmp, "corpus")
        os.mkdir(corpus)
        # One input takes milliseconds: what is still at it after so long hangs, also where the machine itself stops for a while.
        argv = same_addresses() + [target, f"-max_total_time={seconds}", "-timeout=25", "-rss_limit_mb=2048", "-reload=0",
                                   "-print_final_stats=1", f"-artifact_prefix={tmp}/"]
        argv += [f"-seed={seed}"] if seed is not None else []
        argv += [f"-runs={inputs}"] if inputs is not None else []
        code, output = run_logged(argv + [corpus] + seeds, SANITIZER_ENV)
        crashes = []
        for found in sorted(os.listdir(tmp)):
            if found != "corpus":
                with open(os.path.join(tmp, found), "rb") as f:
                    crashes.append(f"input {found}: {f.read(2048).hex()}")
    runs = re.search(r"number_of_executed_units: (\d+)", output)
    return name, code, output + "\n".join(crashes), int(runs.group(1)) if runs else 0


def run_fuzz(folder, seconds, seed, tally):
    targets = [t["filename"][0] for t in introspect(folder, "--targets")
               if t["type"] == "executable" and t["defined_in"].endswith("fuzz/meson.build")]
    built = {os.path.basename(t) for t in targets}
    inputs = fuzz_runs() if seed is not None else {}
    for name in sorted(built - inputs.keys() if inputs else []):
        tally.add_failure(f"fuzz: {name} is not in fuzz/runs")
    for source in sorted(os.listdir(os.path.join(ROOT, "fuzz"))):
        if source.endswith("_fuzz.c") and source[:-2] not in built:
            tally.add_failure(f"fuzz: {source[:-2]} was not built")
        if source.endswith("_fuzz.c") and not os.path.isdir(os.path.join(ROOT, "fuzz", "corpus", source[:-2])):
            tally.add_failure(f"fuzz: {source[:-2]} has no seeds (fuzz/seeds.py)")
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, code, output, runs in pool.map(lambda t: fuzz_one(t, seconds, seed, inputs.get(os.path.basename(t))), targets):
            say(f"    fuzz {name}: {'no fault' if code == 0 else 'FAULT'} in {runs} runs")
            if code != 0 or runs == 0:
                say(tail(output))
                tally.add_failure(f"fuzz: {name}")
            else:
                tally.passed += 1


def run_shaken(folder, tally):
    """One round of the unit tests with delays at random: see tools/shake.py, which says what failed."""
    code, output = run_logged([os.path.join(ROOT, "tools", "shake.py"), "-C", folder])
    runs = re.search(r"^(\d+) clean, (\d+) failed", output, re.M)
    tally.passed += int(runs.group(1)) if runs else 0
    if code != 0:
        say(tail(output))
    for name in re.findall(r"^FAILED: (\S+),", output, re.M) or ["no round"] * (code != 0):
        tally.add_failure(f"shaken: {name}")


def test_build(spec, everything, tally):
    """All that is to be run of one build; everything: the long tests too, and what others have shown already."""
    suites, left_out = (spec.suites + ["long"] * (spec is BUILDS[0]), "") if everything else (spec.suites, spec.left_out)
    names = wanted_tests(spec.folder, suites, left_out, [])
    if not names:
        tally.add_failure(f"{spec.folder}: no tests")
    say(f"==> testing {spec.folder}/ ({spec.title}): {len(names)} test programs")
    run_tests(spec.folder, names, spec.patience, tally)
    if everything and spec is BUILDS[0]:
        say("==> unit tests with delays at random")
        run_shaken(spec.folder, tally)
    if "-Dfuzz=true" in spec.options:
        seconds, seed = (FUZZ_SECONDS_LONG, None) if everything else (FUZZ_SECONDS, FUZZ_SEED)
        say(f"==> fuzzing, at most {seconds} s each")
        run_fuzz(spec.folder, seconds, seed, tally)


def finish(tally, start):
    for what in tally.skipped:
        say(f"skipped: {what}")
    for what in tally.failed:
        say(f"failed: {what}")
    if tally.passed + len(tally.failed) == 0:
        tally.add_failure("no test ran")
    say(f"{len(tally.skipped)} skipped, in {time.monotonic() - start:.0f} s")
    say(f"{tally.passed} passed, {len(tally.failed)} failed")
    sys.exit(1 if tally.failed else 0)


def main():
    p = argparse.ArgumentParser(prog="check", description="Build and run berth's tests; the last line is 'N passed, N failed'.")
    p.add_argument("--all", action="store_true", help="the long tests too")
    p.add_argument("--list", action="store_true", help="names of the tests")
    p.add_argument("name", nargs="*", help="run those only whose name contains it, in the release build")
    args = p.parse_args()
    start = time.monotonic()
    tally = Tally()
    if args.list or args.name:
        spec = BUILDS[0]
        if build(spec, tally):
            names = wanted_tests(spec.folder, spec.suites + ["long"], "", args.name)
            if args.list:
                print("\n".join(names))
                return
            if not names:
                tally.add_failure(f"no test has {' or '.join(args.name)} in its name (./check --list)")
            run_tests(spec.folder, names, spec.patience, tally)
        finish(tally, start)
    # One is built while the tests of the one before wait.
    builder = ThreadPoolExecutor(1)
    try:
        for spec, built in [(spec, builder.submit(build, spec, tally)) for spec in BUILDS]:
            if built.result():
                test_build(spec, args.all, tally)
    finally:
        builder.shutdown(cancel_futures=True)
    finish(tally, start)


if __name__ == "__main__":
    main()
