#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Makes an OCI image layout of one layer, without a container engine: the tree from a tar archive, all else from a Containerfile.

    layout.py --containerfile FILE --tree TAR --arch ARCH --version V --epoch SECONDS OUT     writes the folder OUT
    layout.py --containerfile FILE --base                                                     prints the image it is from
    layout.py --containerfile FILE --context                                                  prints what it copies into the build

What RUN and COPY do is the caller's business, the tree is their result. An instruction that is not known here is an error, not
something left out. The same input gives the same bytes: no times but --epoch, and later ones of files are set to that.
"""
import argparse
import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import sys
import tarfile
import tempfile
import time

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
UNITS_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


class Error(Exception):
    pass


# ---- The Containerfile ----

def instructions(path):
    """(NAME, rest) of each, comments out and continued lines joined."""
    with open(path) as f:
        lines = [line for line in f.read().split("\n") if line.strip() and not line.lstrip().startswith("#")]
    for text in re.sub(r"\\\n\s*", "", "\n".join(lines)).split("\n"):
        name, _, rest = text.strip().partition(" ")
        yield name.upper(), rest.strip()


def stages(path):
    """Of each stage its instructions, FROM first."""
    found = []
    for name, rest in instructions(path):
        if name == "FROM":
            found.append([])
        if not found:
            raise Error(f"{path}: {name} before the first FROM")
        found[-1].append((name, rest))
    return found


def base(path):
    images = {rest.split()[0] for stage in stages(path) for name, rest in stage if name == "FROM"}
    if len(images) != 1:
        raise Error(f"{path}: stages are from different images: {', '.join(sorted(images))}")
    return images.pop()


def context(path):
    """What of the source the first stage copies: the source of its build, and no more."""
    return [word for name, rest in stages(path)[0] if name == "COPY" for word in rest.split()[:-1]]


def words(rest, what):
    try:
        value = json.loads(rest)
    except json.JSONDecodeError as e:
        raise Error(f"{what} {rest}: not a JSON array, and so the work of a shell: {e}") from None
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise Error(f"{what} {rest}: not an array of strings")
    return value


def pair(rest, what):
    parts = shlex.split(rest)
    if len(parts) != 1 or "=" not in parts[0]:
        raise Error(f"{what} {rest}: one NAME=VALUE is expected")
    return parts[0].split("=", 1)


def duration_ns(text):
    m = re.fullmatch(r"(\d+)(ms|s|m|h)", text)
    if not m:
        raise Error(f"{text}: not a duration")
    return int(m.group(1)) * UNITS_NS[m.group(2)]


def healthcheck(rest):
    """As engines write it into the config, beside what OCI names."""
    options, _, command = rest.partition("CMD")
    check = {"Test": ["CMD"] + words(command.strip(), "HEALTHCHECK CMD")}
    names = {"interval": "Interval", "timeout": "Timeout", "start-period": "StartPeriod", "retries": "Retries"}
    for option in options.split():
        m = re.fullmatch(r"--([a-z-]+)=(\S+)", option)
        if not m or m.group(1) not in names:
            raise Error(f"HEALTHCHECK {option}: not known")
        check[names[m.group(1)]] = int(m.group(2)) if m.group(1) == "retries" else duration_ns(m.group(2))
    return check


def image_config(path):
    config = {"Env": [], "Labels": {}, "Volumes": {}}
    for name, rest in stages(path)[-1]:
        if name in ("FROM", "RUN", "COPY"):
            continue
        if name == "LABEL":
            key, value = pair(rest, name)
            config["Labels"][key] = value
        elif name == "ENV":
            config["Env"].append("=".join(pair(rest, name)))
        elif name == "VOLUME":
            config["Volumes"].update({folder: {} for folder in words(rest, name)})
        elif name == "ENTRYPOINT":
            config["Entrypoint"] = words(rest, name)
        elif name == "USER":
            config["User"] = rest
        elif name == "WORKDIR":
            config["WorkingDir"] = rest
        elif name == "STOPSIGNAL":
            config["StopSignal"] = rest
        elif name == "HEALTHCHECK":
            config["Healthcheck"] = healthcheck(rest)
        else:
            raise Error(f"{path}: {name} is not known here")
    return config


# ---- Blobs ----

class Layout:
    def __init__(self, folder):
        self.folder = folder
        self.blobs = os.path.join(folder, "blobs", "sha256")
        os.makedirs(self.blobs)

    def add_file(self, path, media_type):
        """Takes the file; its descriptor."""
        digest = hashlib.sha256()
        with open(path, "rb") as f:
            for block in iter(lambda: f.read(1 << 20), b""):
                digest.update(block)
        size = os.stat(path).st_size
        os.chmod(path, 0o644)
        os.rename(path, os.path.join(self.blobs, digest.hexdigest()))
        return {"mediaType": media_type, "digest": "sha256:" + digest.hexdigest(), "size": size}

    def add_json(self, value, media_type):
        path = os.path.join(self.folder, "new")
        write_json(path, value)
        return self.add_file(path, media_type)


def write_json(path, value):
    with open(path, "w") as f:
        json.dump(value, f, sort_keys=True, separators=(",", ":"))


class Hashing:
    """A file to write to that knows the digest of what went through."""

    def __init__(self, out):
        self.out = out
        self.digest = hashlib.sha256()

    def write(self, data):
        self.digest.update(data)
        return self.out.write(data)


def write_layer(tree, path, epoch):
    """The tree as a layer; the digest of it uncompressed. Devices and what stands in for mounts stay out: an engine makes them."""
    with open(path, "wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
        out = Hashing(packed)
        with tarfile.open(tree) as source, tarfile.open(mode="w|", fileobj=out, format=tarfile.PAX_FORMAT) as layer:
            for member in source:
                name = re.sub(r"^(\./+)+|^\.$", "", member.name).rstrip("/")
                if not name or re.match(r"(dev|proc|sys)/", name):
                    continue
                member.name = name
                if member.islnk():
                    member.linkname = re.sub(r"^\./+", "", member.linkname)
                member.mtime = min(int(member.mtime), epoch)
                # Numbers alone count: names would be looked up where the image is unpacked.
                member.uname = member.gname = ""
                member.pax_headers = {k: v for k, v in member.pax_headers.items() if k.startswith("SCHILY.xattr.")}
                layer.addfile(member, source.extractfile(member) if member.isreg() else None)
    return "sha256:" + out.digest.hexdigest()


def write_layout(folder, args):
    layout = Layout(folder)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(args.epoch))
    layer_path = os.path.join(folder, "layer")
    diff_id = write_layer(args.tree, layer_path, args.epoch)
    layer = layout.add_file(layer_path, LAYER)
    platform = {"architecture": args.arch, "os": "linux"}
    config = layout.add_json({
        **platform, "created": created, "config": image_config(args.containerfile),
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": created, "created_by": "deploy/oci/build-layout"}],
    }, CONFIG)
    manifest = layout.add_json({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}, MANIFEST)
    manifest["platform"] = platform
    manifest["annotations"] = {"org.opencontainers.image.ref.name": args.version}
    write_json(os.path.join(folder, "index.json"), {"schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest]})
    write_json(os.path.join(folder, "oci-layout"), {"imageLayoutVersion": "1.0.0"})


def make(args):
    """All or nothing: OUT appears when it is whole."""
    if os.path.lexists(args.out):
        raise Error(f"{args.out}: exists already")
    out = os.path.abspath(args.out)
    folder = tempfile.mkdtemp(prefix=".layout-", dir=os.path.dirname(out))
    try:
        write_layout(folder, args)
        os.chmod(folder, 0o755)
        os.rename(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main():
    p = argparse.ArgumentParser(prog="layout.py")
    p.add_argument("--containerfile", required=True)
    p.add_argument("--base", action="store_true")
    p.add_argument("--context", action="store_true")
    p.add_argument("--tree")
    p.add_argument("--arch")
    p.add_argument("--version")
    p.add_argument("--epoch", type=int)
    p.add_argument("out", nargs="?")
    args = p.parse_args()
    try:
        if args.base:
            print(base(args.containerfile))
        elif args.context:
            print("\n".join(context(args.containerfile)))
        elif None in (args.tree, args.arch, args.version, args.epoch, args.out):
            p.error("--tree, --arch, --version, --epoch and OUT belong together")
        else:
            make(args)
    except (Error, OSError, tarfile.TarError) as e:
        sys.exit(f"layout.py: {e}")


if __name__ == "__main__":
    main()
