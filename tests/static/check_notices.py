#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Every type of notice that src/ sends is in the table of src/methods/notify.c, and the other way round: berthd has no use for one
that it cannot tell its clients about. All of the table are named where notify_get_types is described.

    check_notices.py SOURCE
"""
import json
import os
import re
import sys

# notice_send() with a name or a choice of two, a step of a job, or a table of names by event.
SENT = re.compile(r'\bnotice_send\(\s*"([a-z_]+)"|\bnotice_send\([^;"]*\? "([a-z_]+)" : "([a-z_]+)"|\btell\(job, "([a-z_]+)"\)'
                  r'|\[BDEV_[A-Z_]+\] = "(bdev_[a-z_]+)"|\[BLOB_STORE_[A-Z_]+\] = "(lvol_[a-z_]+)"')
TABLE = re.compile(r"^static const struct \{.*?\} types\[\] = \{(.*?)^\};", re.S | re.M)
ROW = re.compile(r'\{"([a-z_]+)",')


def sent_types(source):
    types = {}
    for folder, _, names in os.walk(os.path.join(source, "src")):
        for name in names:
            path = os.path.relpath(os.path.join(folder, name), source)
            if not name.endswith(".c") or name.endswith("_test.c"):
                continue
            with open(os.path.join(source, path)) as f:
                for groups in SENT.findall(f.read()):
                    for name in filter(None, groups):
                        types.setdefault(name, path)
    return types


def main(source):
    with open(os.path.join(source, "src", "methods", "notify.c")) as f:
        table = TABLE.search(f.read())
    known = set(ROW.findall(table.group(1))) if table else set()
    sent = sent_types(source)
    faults = [f"{path}: notice '{name}' is not in the table of src/methods/notify.c"
              for name, path in sorted(sent.items()) if name not in known]
    faults += [f"src/methods/notify.c: nobody sends '{name}'" for name in sorted(known - set(sent))]
    with open(os.path.join(source, "src", "rpc", "schema", "notify.json")) as f:
        documented = next(m["result"] for m in json.load(f)["methods"] if m["name"] == "notify_get_types")
    faults += [f"src/rpc/schema/notify.json: notify_get_types does not name '{name}'" for name in sorted(known)
               if not re.search(rf"\b{name}\b", documented)]
    if len(sent) < 6:
        faults.append(f"only {len(sent)} types were found")
    print("\n".join(faults) or f"{len(sent)} types of notices")
    sys.exit(bool(faults))


main(sys.argv[1])
