#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""
The container image: what its recipe says, what deploy/oci/layout.py makes of it, and (a long case, for it takes packages from a
mirror) the image itself: held against the OCI image specification, unpacked, and started as its own description says.
"""
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tarfile

import box
import harness
from harness import Failure, Skip, check, contains, equal, until

MIB = 1 << 20
OCI = os.path.join(harness.ROOT, "deploy", "oci")
RECIPE = os.path.join(OCI, "Containerfile")
EPOCH = 1700000000
TYPES = {kind: f"application/vnd.oci.image.{kind}" for kind in
         ("index.v1+json", "manifest.v1+json", "config.v1+json", "layer.v1.tar+gzip")}


# ---- The layout, as the specification has it ----

def load(path):
    with open(path) as f:
        return json.load(f)


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def blob(layout, descriptor, kind):
    """The bytes that a descriptor describes, all three of its statements checked."""
    equal(descriptor["mediaType"], TYPES[kind], "media type")
    m = re.fullmatch(r"sha256:([0-9a-f]{64})", descriptor["digest"])
    check(m, f"digest {descriptor['digest']}")
    with open(os.path.join(layout, "blobs", "sha256", m.group(1)), "rb") as f:
        data = f.read()
    equal(len(data), descriptor["size"], f"size of {kind}")
    equal(sha256(data), descriptor["digest"], f"digest of {kind}")
    return data


def read_layout(layout):
    """(config, the uncompressed layer) of a layout in which everything agrees."""
    equal(load(os.path.join(layout, "oci-layout")), {"imageLayoutVersion": "1.0.0"})
    index = load(os.path.join(layout, "index.json"))
    equal((index["schemaVersion"], index["mediaType"], len(index["manifests"])), (2, TYPES["index.v1+json"], 1), "index")
    top = index["manifests"][0]
    manifest = json.loads(blob(layout, top, "manifest.v1+json"))
    equal((manifest["schemaVersion"], manifest["mediaType"]), (2, TYPES["manifest.v1+json"]), "manifest")
    config = json.loads(blob(layout, manifest["config"], "config.v1+json"))
    layers = [gzip.decompress(blob(layout, layer, "layer.v1.tar+gzip")) for layer in manifest["layers"]]
    equal(len(layers), 1, "layers")
    equal(config["rootfs"], {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]}, "diff_ids")
    equal({k: config[k] for k in ("architecture", "os")}, top["platform"], "platform of index and config")
    check(config["architecture"] in ("amd64", "arm64") and config["os"] == "linux", f"platform: {top['platform']}")
    equal(len([h for h in config["history"] if not h.get("empty_layer")]), len(layers), "layers in the history")
    named = {d["digest"].split(":")[1] for d in [top, manifest["config"], *manifest["layers"]]}
    equal(set(os.listdir(os.path.join(layout, "blobs", "sha256"))), named, "blobs, and none that nobody names")
    return config, layers[0]


def check_config(config):
    """What somebody relies on who starts it without looking."""
    c = config["config"]
    check(re.fullmatch(r"[1-9]\d*:[1-9]\d*", c["User"]), f"a numeric user that is not root: {c['User']}")
    check(os.path.isabs(c["Entrypoint"][0]), "the entry point needs no search")
    equal(c["StopSignal"], "SIGTERM")
    equal(set(c["Volumes"]), {"/var/lib/berth", "/run/berth"})
    env = dict(e.split("=", 1) for e in c["Env"])
    options = dict(zip(c["Entrypoint"][1::2], c["Entrypoint"][2::2]))
    equal(options["--state-dir"], "/var/lib/berth")
    equal(env["BERTH_SOCKET"], options["-r"], "berth in the container finds berthd")
    for option in ("-r", "-S"):
        check(options[option].startswith("/run/berth/"), f"{option} {options[option]} is in a volume")
    check(os.path.dirname(options["-r"]) != options["-S"], "who is given the controllers' sockets is not given that of RPC")
    equal(c["Healthcheck"]["Test"], ["CMD", "/usr/bin/berth", "status"])
    for key in ("title", "description", "licenses"):
        check(c["Labels"].get(f"org.opencontainers.image.{key}"), f"label {key}")


# ---- A tiny tree instead of Debian ----

def tree(t):
    """An archive as mmdebstrap writes one: names with ./, devices, times of today."""
    path = t.path("tree.tar")
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        def add(name, kind=tarfile.REGTYPE, data=b"", mode=0o755, uid=0, link="", mtime=EPOCH + 1000.5):
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mode, info.uid, info.gid, info.linkname, info.mtime = kind, len(data), mode, uid, uid, link, mtime
            info.uname = "somebody"
            tar.addfile(info, io.BytesIO(data))
        for folder in ("./", "./dev/", "./proc/", "./usr/", "./usr/bin/", "./run/", "./var/", "./var/lib/"):
            add(folder, tarfile.DIRTYPE)
        add("./dev/null", tarfile.CHRTYPE, mode=0o666)
        add("./usr/bin/berthd", data=b"#!/bin/sh\n")
        add("./usr/bin/hard", tarfile.LNKTYPE, link="./usr/bin/berthd")
        add("./bin", tarfile.SYMTYPE, link="usr/bin")
        add("./usr/old", data=b"old", mode=0o644, mtime=1000)
        add("./run/berth/", tarfile.DIRTYPE, uid=box.UID)
        add("./var/lib/berth/", tarfile.DIRTYPE, mode=0o700, uid=box.UID)
    return path


def layout(t, out, *args, recipe=RECIPE, code=0):
    argv = [sys.executable, os.path.join(OCI, "layout.py"), "--containerfile", recipe]
    return t.run(argv + (list(args) or ["--tree", tree(t), "--arch", "amd64", "--version", "1.2", "--epoch", str(EPOCH), out]), code=code)


def test_layout(t):
    out = t.path("image")
    layout(t, out)
    config, layer = read_layout(out)
    check_config(config)
    equal(config["created"], "2023-11-14T22:13:20Z")
    equal(load(os.path.join(out, "index.json"))["manifests"][0]["annotations"], {"org.opencontainers.image.ref.name": "1.2"})
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        members = {m.name: m for m in tar}
    equal(list(members), ["dev", "proc", "usr", "usr/bin", "run", "var", "var/lib", "usr/bin/berthd", "usr/bin/hard", "bin", "usr/old",
                          "run/berth", "var/lib/berth"], "without the root itself and devices, parents first")
    equal({n: m.mtime for n, m in members.items() if m.mtime != EPOCH}, {"usr/old": 1000}, "times later than the epoch")
    equal({m.uname for m in members.values()}, {""}, "names of users")
    equal((members["usr/bin/hard"].linkname, members["bin"].linkname), ("usr/bin/berthd", "usr/bin"))
    equal([(m.uid, m.mode) for m in (members["var/lib/berth"], members["usr/bin/berthd"])], [(box.UID, 0o700), (0, 0o755)])


def test_same_bytes(t):
    """Whenever and wherever it is made."""
    for name in ("a", "b"):
        layout(t, t.path(name))
        os.utime(t.path("tree.tar"), (1, 1))
    with open(t.path("a/index.json"), "rb") as a, open(t.path("b/index.json"), "rb") as b:
        equal(a.read(), b.read())


def test_damage_is_seen(t):
    """The checks of this file find what they look for: one byte of each blob changed, one left over."""
    out = t.path("image")
    layout(t, out)
    blobs = os.path.join(out, "blobs", "sha256")
    for name in sorted(os.listdir(blobs)):
        path = os.path.join(blobs, name)
        with open(path, "r+b") as f:
            f.seek(40)
            byte = f.read(1)
            f.seek(40)
            f.write(bytes([byte[0] ^ 1]))
        try:
            read_layout(out)
        except (Failure, ValueError):
            pass
        else:
            raise Failure(f"a damaged blob {name} was not seen")
        with open(path, "r+b") as f:
            f.seek(40)
            f.write(byte)
    read_layout(out)
    box.write(os.path.join(blobs, "0" * 64), "")
    try:
        read_layout(out)
    except Failure:
        return
    raise Failure("a blob too many was not seen")


def test_layout_refuses(t):
    """Nothing is left out silently, nothing overwritten, nothing left half made."""
    out = t.path("image")
    for line, word in [("EXPOSE 80", "EXPOSE"), ("ENTRYPOINT berthd", "not a JSON array"), ("ENV A", "NAME=VALUE"),
                       ("HEALTHCHECK --colour=red CMD [\"a\"]", "colour"), ("FROM other", "different images")]:
        recipe = t.path("Containerfile")
        box.write(recipe, f"FROM debian:12-slim\n{line}\n")
        how = ["--base"] if line.startswith("FROM") else []
        p = layout(t, out, *how, recipe=recipe, code=None)
        check(p.returncode == 1 and word in p.stderr, f"{line}: {p.returncode} {p.stderr}")
    layout(t, out)
    p = layout(t, out, code=None)
    check(p.returncode == 1 and "exists already" in p.stderr, p.stderr)
    equal(sorted(os.listdir(t.dir)), ["Containerfile", "image", "tree.tar"], "nothing else is left")


# ---- The recipe ----

def recipe_text():
    with open(RECIPE) as f:
        return re.sub(r"\\\n\s*", "", f.read())


def test_recipe(t):
    """What an engine is told and what build-layout does are one thing: packages, steps, sources."""
    text = recipe_text()
    installs = re.findall(r"apt-get install [^&\n]*", text)
    equal(installs, ["apt-get install -y --no-install-recommends $(grep -v '^#' /tmp/oci/packages) "], "packages come from the list alone")
    with open(os.path.join(OCI, "build-layout")) as f:
        script = f.read()
    contains(script, "$(grep -v '^#' \"$here/packages\"", "so they do in build-layout")
    for step in ("compile", "finish"):
        contains(text, f"oci/{step}")
        contains(script, f"/{step}")
    contains(text, "packages_install $packages_build")
    with open(os.path.join(harness.ROOT, "docs", "container.md")) as f:
        page = f.read()
    entry, user = (re.search(rf"^{name} (.*)$", text, re.M).group(1) for name in ("ENTRYPOINT", "USER"))
    contains(page, " ".join(os.path.basename(w) if w.startswith("/usr") else w for w in json.loads(entry)), "docs/container.md")
    uid, gid = user.split(":")
    equal((uid, gid), (str(box.UID), str(box.UID)))
    for what in (f"{user};", f"-o {uid} -g {gid}", f"runAsUser: {uid}", f"runAsGroup: {gid}", f"fsGroup: {gid}", f"uid={uid},gid={gid}"):
        contains(page, what, "docs/container.md")
    for name in os.listdir(OCI):
        with open(os.path.join(OCI, name)) as f:
            equal(re.findall(r"\w+://[\w.]+|\b[\w-]+\.(?:debian\.org|docker\.io|io/)", f.read()), [], f"{name} names a host")


def test_sources(t):
    """What the recipe copies is all that the build needs."""
    copied = layout(t, None, "--context").split()
    for path in copied:
        source, target = os.path.join(harness.ROOT, path), t.path(os.path.join("src", path))
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.isdir(source):
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__", "results"))
        else:
            shutil.copy(source, target)
    t.run(["meson", "setup", "--prefix=/usr", "-Dtests=false", t.path("build"), t.path("src")])


def test_runtime_packages(t):
    """The list is that of the libraries which berthd and berth ask for: none is missing, none is for nothing."""
    needed = set()
    for program in ("berthd", "berth"):
        out = t.run(["ldd", os.path.join(harness.BUILD, program)])
        direct = re.findall(r"NEEDED\s+(\S+)", t.run(["objdump", "-p", os.path.join(harness.BUILD, program)]))
        for library in (name for name in direct if not name.startswith("ld-linux")):
            path = re.search(rf"{re.escape(library)} => (\S+)", out)
            check(path, f"{program}: {library} is not found here")
            # dpkg knows a file by the path it was packed with, which /usr's merger has not changed.
            merged = os.path.join("/", path.group(1).removeprefix("/usr/"))
            p = t.run(["dpkg", "-S", merged], code=None)
            if p.returncode != 0:
                p = t.run(["dpkg", "-S", "/usr" + merged], code=None)
            if p.returncode != 0:
                raise Skip(f"{library} is from no Debian package")
            needed.add(p.stdout.split(":")[0])
    needed -= {"libc6"}
    needed = {n for n in needed if not re.match(r"lib(a|t|ub)san|libgcc", n)}
    with open(os.path.join(OCI, "packages")) as f:
        listed = [line.strip() for line in f if not line.startswith("#")]
    equal(sorted(listed), sorted(needed), "deploy/oci/packages")


def small_root(t):
    """A root with copies of the few programs that finish uses, and of their libraries: nothing in it is this machine's own."""
    root = t.path("root")
    for folder in ("etc", "tmp", "var/log", "var/cache/apt", "opt"):
        os.makedirs(os.path.join(root, folder))
    for name in ("sh", "grep", "install", "find", "chmod", "rm"):
        path = os.path.realpath(shutil.which(name))
        for source in [path, *re.findall(r"(/\S+) \(0x", t.run(["ldd", path]))]:
            target = root + (os.path.join("/bin", name) if source == path else source)
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(source, target)
            os.chmod(target, 0o755)
    for name, text in (("etc/passwd", "root:x:0:0::/:/bin/sh\n"), ("etc/group", "root:x:0:\n"), ("var/log/dpkg.log", "x"), ("opt/su", "x")):
        box.write(os.path.join(root, name), text)
    os.chmod(os.path.join(root, "opt/su"), 0o6755)
    return root


def test_finish(t):
    """User and folders are made, set-uid files are none any more, and all that once more changes nothing."""
    if os.getuid() != 0:
        raise Skip("needs root, to give away folders")
    root = small_root(t)

    def finish(*args):
        with open(os.path.join(OCI, "finish")) as script:
            return t.run([shutil.which("chroot"), root, "/bin/sh", "-s", "--", *args], code=None, stdin=script, env={"PATH": "/bin"})
    # Started by mistake it does nothing. Tried in here, and not on the machine, which it would otherwise be that suffers.
    p = finish()
    check(p.returncode == 1 and "only for the inside of an image" in p.stderr, f"without --in-image: {p.returncode} {p.stderr}")
    equal(os.listdir(os.path.join(root, "var/log")), ["dpkg.log"], "nothing is done without --in-image")
    for _ in range(2):
        p = finish("--in-image")
        equal((p.returncode, p.stderr), (0, ""))
    for name in ("passwd", "group"):
        with open(os.path.join(root, "etc", name)) as f:
            lines = [line for line in f if line.startswith("berth:")]
        equal(len(lines), 1, f"lines of berth in /etc/{name}")
        equal(lines[0].split(":")[2], str(box.UID))
    for path, mode in (("var/lib/berth", 0o700), ("run/berth", 0o755)):
        st = os.stat(os.path.join(root, path))
        equal((st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)), (box.UID, box.UID, mode), path)
    equal(stat.S_IMODE(os.stat(os.path.join(root, "opt/su")).st_mode), 0o755, "a set-uid file")
    equal(os.listdir(os.path.join(root, "var/log")), [], "logs")


def test_installed(t):
    """What `meson install` puts where: all that a package or an image needs."""
    out = t.path("out")
    t.run(["meson", "install", "-C", harness.BUILD, "--no-rebuild", "--quiet", "--destdir", out])
    found = {os.path.relpath(os.path.join(folder, name), out) for folder, _, names in os.walk(out) for name in names}
    for name in ("bin/berthd", "bin/berth", "share/man/man1/berth.1", "share/man/man1/berth-perf.1", "share/man/man8/berthd.8",
                 "share/man/man7/berth-rpc.7", "share/bash-completion/completions/berth", "share/doc/berth/LICENSE",
                 "lib/systemd/system/berthd.service", "lib/sysusers.d/berth.conf"):
        check(any(f.endswith("/" + name) for f in found), f"{name} is not installed: {sorted(found)}")
    unit = next(f for f in found if f.endswith("berthd.service"))
    with open(os.path.join(out, unit)) as f:
        program = re.search(r"^ExecStart=(\S+)", f.read(), re.M).group(1)
    check(os.access(out + program, os.X_OK), f"ExecStart names {program}, and it is there")


# ---- The image itself ----

def rpc(socket, *args):
    argv = [os.path.join(harness.BUILD, "berth"), "-s", socket, *args]
    return subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def check_tree(layer):
    """What the layer holds, by its archive: no need to be root."""
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        members = {m.name: m for m in tar}
    equal([n for n, m in members.items() if m.isreg() and m.mode & 0o6000], [], "set-uid and set-gid files")
    equal([n for n, m in members.items() if m.isdev()], [], "devices")
    for name in ("usr/share/doc/berth/LICENSE", "usr/share/doc/libjansson4/copyright", "usr/bin/berthd", "usr/bin/berth"):
        check(name in members, f"{name} is not in the layer")
    equal({n for n in members if n.startswith("run/")} - {"run/lock"}, {"run/berth"}, "what is in /run")
    for name in ("var/lib/berth", "run/berth"):
        equal(members[name].uid, box.UID, f"owner of {name}")
    for name in ("etc/resolv.conf", "etc/hostname", "etc/apt/sources.list", "root/.bash_history"):
        check(name not in members, f"{name} of the machine that made it")
    for n, m in members.items():
        if re.match(r"var/(lib/apt/lists|cache|log)/", n) and m.isreg() and m.size > 0:
            raise Failure(f"{n}: nobody needs it")
    return members


def check_programs(t, root, config):
    """In the tree: the entry point can be run, every library it asks for is there, the licences too."""
    entry = config["config"]["Entrypoint"][0]
    for program in (entry, "/usr/bin/berth"):
        path = root + program
        check(os.path.isfile(path) and os.stat(path).st_mode & 0o111 == 0o111, f"{program} can be run by everybody")
        out = t.run(["chroot", root, "ldd", program])
        check("not found" not in out and "libjansson" in out, f"libraries of {program}:\n{out}")
    contains(t.run(["chroot", f"--userspec={config['config']['User']}", root, entry, "--version"]), "berth")


def start_image(t, root, config):
    """As an engine would: its user, its entry point, its volumes, and no other place to write to."""
    uid = int(config["config"]["User"].split(":")[0])
    binds = []
    for volume in config["config"]["Volumes"]:
        # A new volume is a copy of what the image has there.
        folder = t.path(os.path.basename(volume) + "-" + volume.split("/")[1])
        st = os.stat(root + volume)
        os.mkdir(folder)
        os.chmod(folder, stat.S_IMODE(st.st_mode))
        os.chown(folder, st.st_uid, st.st_gid)
        binds += ["--bind", f"{folder}:{volume}"]
    box_dir = t.path("box")
    os.mkdir(box_dir)
    log = open(t.path("log"), "wb")
    return t.spawn([sys.executable, box.__file__, "--dir", box_dir, "--root", root, "--uid", str(uid), *binds, "--",
                    *config["config"]["Entrypoint"], "--mode", "interrupt"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def test_long_image(t):
    if os.getuid() != 0:
        raise Skip("needs root, to unpack what belongs to others")
    image = t.path("image")
    t.run([os.path.join(OCI, "build-layout"), image], timeout=1000)
    config, layer = read_layout(image)
    check_config(config)
    check_tree(layer)
    root = t.path("root")
    os.mkdir(root)
    subprocess.run(["tar", "-C", root, "--numeric-owner", "-xpf", "-"], input=layer, check=True)
    check_programs(t, root, config)
    p = start_image(t, root, config)
    socket = t.path("berth-run/berth.sock")

    def log():
        with open(t.path("log"), errors="replace") as f:
            return f.read()

    def answers():
        check(p.poll() is None, f"berthd ended: {log()}")
        return rpc(socket, "status").returncode == 0
    until(answers, "berthd of the image answers", 20)
    # What follows an image's entry point is added to it.
    contains(rpc(socket, "status").stdout, "interrupt mode")
    contains(rpc(socket, "disk", "create", "disk0", "16M").stdout, "aio")
    disk = t.path("berth-run/vhost/disk0")
    equal(os.stat(disk).st_uid, box.UID)
    t.run([os.path.join(harness.BUILD, "berth"), "perf", "-s", disk, "-w", "verify", "-q", "8", "-t", "0.5", "--quiet"])
    p.send_signal(getattr(signal, config["config"]["StopSignal"]))
    equal(p.wait(60), 0, f"how it ended: {log()}")
    check(os.path.exists(t.path("berth-var/disks/disk0.img")), "the disk is in its volume")


harness.main(globals())
