#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Holds every #include "folder/file.h" of src/ to the table tools/layers.txt, and that table to having no cycle.

    check_layers.py SOURCE_ROOT
    check_layers.py --self-test    breaks the rules in a made-up tree and expects to be told
"""
import fnmatch
import os
import re
import sys
import tempfile

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')
JSON_FOLDERS = ("rpc", "methods", "app", "testkit")


def load(path):
    table = {}
    with open(path) as f:
        for number, line in enumerate(f, 1):
            line = line.split("#")[0].strip()
            if not line:
                continue
            folder, colon, allowed = line.partition(":")
            if not colon or folder in table:
                raise SystemExit(f"{path}:{number}: expected one 'folder: folders' line a folder")
            table[folder.strip()] = allowed.split()
    return table


def row(table, folder):
    """The key of the table that speaks for the folder, or None."""
    if folder in table:
        return folder
    for key in table:
        if "*" in key and fnmatch.fnmatch(folder, key):
            return key
    return None


def cycles(table):
    """One message for each folder that reaches itself."""
    def reach(key, seen):
        for to in table.get(key, []):
            if to != "*" and to not in seen:
                seen.add(to)
                reach(to, seen)
        return seen
    return [f"tools/layers.txt: {key} reaches itself" for key in table if key in reach(key, set())]


def allowed(table, folder, target, is_test):
    if folder == target:
        return True
    key = row(table, folder)
    rights = table[key] + (["testkit"] if is_test else [])
    return any(r == "*" or fnmatch.fnmatch(target, r) for r in rights)


def folder_of(path, table):
    """The longest folder of the path that the table knows: virtio/driver before virtio."""
    folder = os.path.dirname(path)
    while folder and row(table, folder) is None:
        folder = os.path.dirname(folder)
    return folder


def check_file(root, path, table):
    folder = folder_of(path, table)
    if not folder:
        yield f"src/{path}: its folder is not in tools/layers.txt"
        return
    is_test = path.endswith("_test.c") or os.path.basename(path).startswith("harness")
    with open(os.path.join(root, "src", path)) as f:
        for number, line in enumerate(f, 1):
            where = f"src/{path}:{number}"
            if "<jansson.h>" in line and folder.split("/")[0] not in JSON_FOLDERS and not is_test:
                yield f"{where}: JSON belongs to {', '.join(JSON_FOLDERS)} alone"
            m = INCLUDE.match(line)
            if not m:
                continue
            target = m.group(1)
            if "/" not in target or target.startswith("."):
                yield f'{where}: "{target}": an include is named from src/, like "base/list.h"'
                continue
            to = folder_of(target, table)
            if not to:
                yield f"{where}: {target}: its folder is not in tools/layers.txt"
            elif not allowed(table, folder, to, is_test):
                yield f"{where}: {folder} may not include {target} (tools/layers.txt)"
            elif os.path.basename(target) == "internal.h" and to != folder and not is_test:
                yield f"{where}: {target} never leaves its folder"


def check(root):
    table = load(os.path.join(root, "tools/layers.txt"))
    wrong = cycles(table)
    files = 0
    for folder, _, names in os.walk(os.path.join(root, "src")):
        for name in sorted(names):
            if name.endswith((".c", ".h")):
                files += 1
                wrong += check_file(root, os.path.relpath(os.path.join(folder, name), os.path.join(root, "src")), table)
    if not files:
        wrong.append(f"{root}/src: no source files")
    return wrong, files


def self_test():
    cases = [
        ("base: \nevent: base\n", {"base/a.h": '#include "event/b.h"\n', "event/b.h": ""}, "base may not include event/b.h"),
        ("a: b\nb: c\nc: a\n", {"a/x.c": ""}, "reaches itself"),
        ("a:\n", {"a/x.c": '#include "y.h"\n'}, "named from src/"),
        ("a:\n", {"b/x.c": ""}, "not in tools/layers.txt"),
        ("d/*:\n", {"d/x/x.c": '#include "d/y/y.h"\n'}, "d/x may not include d/y/y.h"),
        ("a:\nb: a\n", {"b/x.c": '#include "a/internal.h"\n'}, "never leaves its folder"),
        ("a:\n", {"a/x.c": "#include <jansson.h>\n"}, "JSON belongs to"),
        ("a:\nb: a\n", {"b/x.c": '#include "a/y.h"\n#include "b/internal.h"\n'}, None),
        ("a:\ntestkit: a\n", {"a/x_test.c": '#include "testkit/y.h"\n'}, None),
    ]
    for layers, files, expected in cases:
        with tempfile.TemporaryDirectory() as root:
            for path, text in [("tools/layers.txt", layers)] + [("src/" + p, t) for p, t in files.items()]:
                os.makedirs(os.path.dirname(os.path.join(root, path)), exist_ok=True)
                with open(os.path.join(root, path), "w") as f:
                    f.write(text)
            wrong, _ = check(root)
            found = any(expected in w for w in wrong) if expected else not wrong
            if not found:
                sys.exit(f"self-test: {files}: expected {expected!r}, got {wrong}")
    print(f"{len(cases)} cases")


if __name__ == "__main__":
    if sys.argv[1] == "--self-test":
        self_test()
    else:
        wrong, files = check(sys.argv[1])
        print("\n".join(wrong) or f"{files} files keep to tools/layers.txt")
        sys.exit(bool(wrong))
