# SPDX-License-Identifier: BSD-3-Clause
"""What tests of volumes share: a store, and what is in it."""
import hashlib
import os

import harness
from harness import equal
from nbd_client import Nbd

MIB = 1 << 20
CLUSTER = 65536
NO_UUID = "b0000000-0000-4000-8000-000000000000"


def berth(t, d, *args, code=0, **kw):
    p = t.run([os.path.join(harness.BUILD, "berth"), "-s", d.socket, *args], code=None, **kw)
    equal(p.returncode, code, f"exit code of berth {' '.join(args)} ({p.stderr.strip()})")
    return p.stdout if code == 0 else p.stderr


def with_store(t, *args, folder="d", mib=128, name="lvs0", **kw):
    """A daemon with a store on a file."""
    d = t.daemon(*args, folder=folder, **kw)
    file = t.path(f"{folder}.img")
    if not os.path.exists(file):
        t.file(f"{folder}.img", mib * MIB)
    d.call("bdev_aio_create", name="base", filename=file, block_size=512)
    d.call("bdev_lvol_create_lvstore", bdev_name="base", lvs_name=name)
    return d


def lent(d, name, readonly=False):
    loan = d.call("berth_nbd_lend", bdev_name=name, readonly=readonly)
    return Nbd(loan["path"], loan["export"])


def write(d, name, offset, data):
    n = lent(d, name)
    n.write(offset, data)
    n.flush()
    n.close()


def read(d, name, offset=0, length=None):
    n = lent(d, name, True)
    length = n.size - offset if length is None else length
    data = b"".join(n.read(offset + at, min(MIB, length - at)) for at in range(0, length, MIB))
    n.close()
    return data


def digest(d, name):
    return hashlib.sha256(read(d, name)).hexdigest()


def volume(d, alias):
    found = [v for v in d.call("bdev_lvol_get_lvols") if v["alias"] == alias]
    equal(len(found), 1, f"volumes called {alias}")
    return found[0]


def aliases(d):
    return sorted(v["alias"] for v in d.call("bdev_lvol_get_lvols"))
