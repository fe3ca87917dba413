#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""quickstart, twice: the second run finds what the first one left, and none leaves a process behind."""
import os

import harness
from harness import check, contains


def test_twice(t):
    if harness.BUILD != os.path.join(harness.ROOT, "build"):
        raise harness.Skip("quickstart builds in build/, this is the test of another folder")
    env = {**os.environ, "BERTH_STATE_DIR": t.path("state")}
    for expected in ("made an ext4 file system", "its data is as it was written"):
        out = t.run([os.path.join(harness.ROOT, "quickstart")], env=env, timeout=240)
        contains(out, expected)
        contains(out, "checksums agree")
        contains(out, "vhost-user-blk-pci")
        check(not os.path.exists(t.path("state/berth.sock")), "berthd ended")


def test_refuses(t):
    p = t.run([os.path.join(harness.ROOT, "quickstart"), "--dance"], code=None)
    check(p.returncode == 1 and "--dance" in p.stderr, p.stderr)


harness.main(globals())
