#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""The programs are built with what makes a fault harder to use: at any address (PIE), all symbols bound before main and then
read-only (RELRO, BIND_NOW), no memory that is both writable and executable, stacks with canaries, fortified functions.

    check_hardening.py [--fortified] PROGRAM...
    check_hardening.py --self-test

--fortified: the build is optimised and has no sanitizer, so functions are fortified.
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile


def read(program, *options):
    return subprocess.run(["readelf", "--wide", *options, program], check=True, capture_output=True, text=True,
                          env=dict(os.environ, LC_ALL="C")).stdout


def faults_of(program, fortified):
    header, segments = read(program, "--file-header"), read(program, "--program-headers")
    dynamic, symbols = read(program, "--dynamic"), read(program, "--dyn-syms")
    flags = {m[1]: m[2] for m in re.finditer(r"^\s+(\w+)(?:\s+0x[0-9a-f]+){5}\s+([RWE ]{3})\s", segments, re.M)}
    found = []
    if not re.search(r"Type:\s+DYN", header) or "INTERP" not in flags:
        found.append("not position independent (-pie)")
    if "GNU_RELRO" not in flags:
        found.append("no RELRO segment (-z relro)")
    if not re.search(r"\(FLAGS\).*\bBIND_NOW\b|\(FLAGS_1\).*\bNOW\b|\(BIND_NOW\)", dynamic):
        found.append("symbols are bound late (-z now)")
    if "E" in flags.get("GNU_STACK", "E"):
        found.append("an executable stack (-z noexecstack)")
    if re.search(r"^\s+LOAD(?:\s+0x[0-9a-f]+){5}\s+RWE", segments, re.M):
        found.append("memory to write to and to execute")
    if "(TEXTREL)" in dynamic:
        found.append("code that is written to (text relocations)")
    if "__stack_chk_fail" not in symbols:
        found.append("no canaries on stacks (-fstack-protector-strong)")
    if fortified and not re.search(r"\b__\w+_chk\b", symbols.replace("__stack_chk_fail", "")):
        found.append("no fortified functions (-D_FORTIFY_SOURCE)")
    return found


PROGRAM = r"""
#include <stdio.h>
#include <string.h>
int main(int argc, char **argv) { char text[8]; snprintf(text, argc, "%s", argv[0]); strcpy(text, argv[1]); return text[0]; }
"""
GOOD = ["-O2", "-fPIE", "-pie", "-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE=2",
        "-Wl,-z,relro,-z,now,-z,noexecstack"]
# What is added to it, and a word of the fault that is seen.
WORSE = (
    (["-fno-PIE", "-no-pie"], "position"),
    (["-Wl,-z,norelro"], "RELRO"),
    (["-Wl,-z,lazy"], "late"),
    (["-Wl,-z,execstack"], "stack"),
    (["-fno-stack-protector"], "canaries"),
    (["-U_FORTIFY_SOURCE"], "fortified"),
)


def self_test(cc):
    with tempfile.TemporaryDirectory(prefix="berth-hardening-") as tmp:
        source, program = os.path.join(tmp, "a.c"), os.path.join(tmp, "a")
        with open(source, "w") as f:
            f.write(PROGRAM)
        for added, word in (([], None), *WORSE):
            subprocess.run([*cc, *GOOD, *added, "-w", "-o", program, source], check=True)
            found = faults_of(program, True)
            if word is None and found or word is not None and not any(word in fault for fault in found):
                sys.exit(f"{' '.join(added)}: {found}")


def main():
    args = sys.argv[1:]
    if shutil.which("readelf") is None:
        sys.exit("readelf (binutils) is missing")
    if args[:1] == ["--self-test"]:
        self_test(args[1:])
        return
    fortified = args[:1] == ["--fortified"]
    found = [f"{p}: {fault}" for p in args[fortified:] for fault in faults_of(p, fortified)]
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
