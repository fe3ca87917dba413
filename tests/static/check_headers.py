#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Every header of src/ compiles alone, without warnings: check_headers.py SOURCE_ROOT BUILD_ROOT COMPILER..."""
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

FLAGS = ["-std=gnu17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Wshadow", "-Wmissing-prototypes", "-Wstrict-prototypes",
         "-Wno-unused-parameter", "-Werror", "-fsyntax-only"]


def compile_alone(source, build, compiler, header):
    # Included twice: that its guard works is a part of the promise.
    text = f'#include "{header}"\n#include "{header}"\nextern int translation_unit_is_not_empty;\n'
    argv = compiler + FLAGS + ["-I", os.path.join(source, "src"), "-I", os.path.join(build, "src"), "-x", "c", "-"]
    done = subprocess.run(argv, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return header, done.returncode, done.stdout


def main(source, build, *compiler):
    headers = []
    for folder, _, names in os.walk(os.path.join(source, "src")):
        headers += [os.path.relpath(os.path.join(folder, n), os.path.join(source, "src")) for n in names if n.endswith(".h")]
    if not headers:
        sys.exit("no headers found")
    bad = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for header, code, output in pool.map(lambda h: compile_alone(source, build, list(compiler), h), sorted(headers)):
            if code:
                bad += 1
                print(f"src/{header} does not compile alone:\n{output}")
    print(f"{len(headers)} headers, {bad} bad")
    sys.exit(bad != 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
