#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""
What a machine can hold of CONTRIBUTING.md: a licence line in every source file, no trailing blanks, tabs in C, line and
file lengths, no unfinished work, no paths of somebody's own machine. check_style.py SOURCE_ROOT
"""
import os
import re
import subprocess
import sys

CODE = (".c", ".h", ".py", ".sh")
SOURCES = ("src/", "fuzz/", "tests/", "tools/", "bench/", ".ci/", "deploy/", "quickstart", "check")
LINE_MAX = {".c": 130, ".h": 130, ".py": 140}
FILE_MAX_LINES = 1000
# Written in pieces, so that this file passes its own check.
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X", "HA" + "CK"]) + r")\b")
OWN_PATHS = re.compile(r"(?<![\w.])(/wo" + r"rk/|/ho" + r"me/\w|/tmp/b" + r"-)")


def files(root):
    # Tracked ones, and those that are about to be; a tree without git (an unpacked archive) is walked.
    try:
        done = subprocess.run(["git", "-C", root, "ls-files", "-co", "--exclude-standard", "-z"], stdout=subprocess.PIPE,
                              stderr=subprocess.DEVNULL, check=True)
        names = [n for n in done.stdout.decode().split("\0") if n]
    except (OSError, subprocess.CalledProcessError):
        names = []
        for folder, dirs, found in os.walk(root):
            dirs[:] = [d for d in dirs if d != ".git" and not d.startswith("build")]
            names += [os.path.relpath(os.path.join(folder, n), root) for n in found]
    return sorted({n for n in names if os.path.isfile(os.path.join(root, n))})


def is_source(name, text):
    return name.startswith(SOURCES) and (name.endswith(CODE) or text.startswith("#!") or name.endswith("meson.build"))


def check_text(name, text):
    lines = text.split("\n")
    ext = os.path.splitext(name)[1]
    if is_source(name, text):
        if sum("SPDX-License-Identifier" in line for line in lines[:3]) != 1:
            yield f"{name}: one SPDX-License-Identifier line belongs at its top"
        if len(lines) > FILE_MAX_LINES:
            yield f"{name}: {len(lines)} lines; what second thing is in there?"
        if text and not text.endswith("\n"):
            yield f"{name}: no newline at its end"
    for number, line in enumerate(lines, 1):
        where = f"{name}:{number}"
        if OWN_PATHS.search(line):
            yield f"{where}: a path of one machine"
        if not is_source(name, text):
            continue
        if line != line.rstrip():
            yield f"{where}: blanks at the end"
        if UNFINISHED.search(line):
            yield f"{where}: unfinished work"
        if ext in (".c", ".h") and re.match(r"\t* {8}", line):
            yield f"{where}: indented with blanks instead of tabs"
        if len(line.expandtabs(8)) > LINE_MAX.get(ext, 1000):
            yield f"{where}: {len(line.expandtabs(8))} columns"


def main(root):
    wrong = []
    count = 0
    for name in files(root):
        try:
            with open(os.path.join(root, name), encoding="utf-8") as f:
                text = f.read()
        except UnicodeDecodeError:
            continue
        count += 1
        wrong += check_text(name, text)
    print("\n".join(wrong) or f"{count} files")
    if not count:
        sys.exit(f"{root}: no files found")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main(sys.argv[1])
