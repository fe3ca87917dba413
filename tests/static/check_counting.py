#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""How ./check counts what test programs say: nothing that failed, crashed or was skipped may look like a pass."""
import contextlib
import io
import os
import sys

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
sys.path.insert(0, os.path.join(ROOT, "tools"))
sys.dont_write_bytecode = True
import check  # noqa: E402

# What meson says of a program, what the program said, and what that counts: passed, failed, skipped.
CASES = [
    ("OK", "[       OK ] a\n[       OK ] b\n", (2, 0, 0)),
    ("OK", "", (1, 0, 0)),
    ("OK", "[       OK ] a (poll)\n[       OK ] a (interrupt)\n", (2, 0, 0)),
    ("OK", "[       OK ] a\n[  SKIPPED ] b\n[  SKIPPED ] 1 test(s), listed below:\n[  SKIPPED ] b\n", (1, 0, 1)),
    ("OK", "[  SKIPPED ] only\n", (0, 0, 1)),
    ("SKIP", "[  SKIPPED ] a: no io_uring\n[  SKIPPED ] b: no io_uring\n", (0, 0, 2)),
    ("SKIP", "", (0, 0, 1)),
    ("FAIL", "[       OK ] a\n[  FAILED  ] b\n[  FAILED  ] 1 test(s), listed below:\n[  FAILED  ] b\n", (1, 1, 0)),
    ("FAIL", "[       OK ] a\n", (1, 1, 0)),
    ("FAIL", "", (0, 1, 0)),
    ("OK", "[       OK ] a\n[  FAILED  ] b\n", (1, 1, 0)),
    ("TIMEOUT", "[       OK ] a\n[ RUN      ] b\n", (1, 1, 0)),
    ("ERROR", "", (0, 1, 0)),
    ("UNEXPECTEDPASS", "", (0, 1, 0)),
]


def main():
    wrong = 0
    for result, output, expected in CASES:
        tally = check.Tally()
        with contextlib.redirect_stdout(io.StringIO()):
            check.count({"name": "p:unit / t", "result": result, "stdout": output}, "build", tally)
        got = (tally.passed, len(tally.failed), len(tally.skipped))
        if got != expected:
            wrong += 1
            print(f"{result} {output!r}: counted {got}, expected {expected}")
    for tally, code in [((1, []), 0), ((1, ["x"]), 1), ((0, []), 1), ((0, ["x"]), 1)]:
        out = io.StringIO()
        t = check.Tally()
        t.passed, t.failed = tally[0], list(tally[1])
        try:
            with contextlib.redirect_stdout(out):
                check.finish(t, 0)
        except SystemExit as e:
            last = out.getvalue().strip().split("\n")[-1]
            if e.code != code or last != f"{t.passed} passed, {len(t.failed)} failed":
                wrong += 1
                print(f"{tally}: exit code {e.code}, last line {last!r}")
    print(f"{len(CASES) + 4} cases, {wrong} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
