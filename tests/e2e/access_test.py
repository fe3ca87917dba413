#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""Who may call: RPC over TCP with a token or in TLS, peers of the unix socket; and events for those who are in."""
import json
import os
import re
import shutil
import socket
import ssl
import stat
import subprocess
import time

import harness
from harness import Failure, Rpc, Skip, check, contains, equal, until

TOKEN = "4c41e1f6d0a94bb3a9f0c5d7b2e81f60"
NOBODY = 65534


def token_file(t, text=TOKEN, name="token", mode=0o600):
    path = t.path(name)
    with open(path, "w") as f:
        f.write(text + "\n")
    os.chmod(path, mode)
    return path


def tcp_address(d):
    """Of a daemon that listens on a port it chose itself."""
    return until(lambda: re.search(r"RPC over TCP at (\S+),", d.output()), "berthd says its address").group(1)


class TcpRpc(Rpc):
    def __init__(self, address, wrap=lambda s: s, timeout=30.0):
        host, port = address.rsplit(":", 1)
        self.sock = wrap(socket.create_connection((host, int(port)), timeout=timeout * harness.PATIENCE))
        self.buffer = ""
        self.id = 0


def start_fails(t, *args):
    p = t.run([os.path.join(harness.BUILD, "berthd"), "-S", t.dir, *args], code=None, timeout=60)
    check(p.returncode not in (0, None), f"berthd started with {args}")
    return p.stderr


def test_no_tcp_without_authentication(t):
    contains(start_fails(t, "-r", "127.0.0.1:0"), "needs authentication")
    contains(start_fails(t, "-r", "127.0.0.1:0", "--rpc-token-file", t.path("none")), "none")
    contains(start_fails(t, "-r", "127.0.0.1:0", "--rpc-token-file", token_file(t, mode=0o644)), "token")
    contains(start_fails(t, "-r", "127.0.0.1:0", "--rpc-token-file", token_file(t, "short")), "5 characters")
    contains(start_fails(t, "-r", "127.0.0.1:0", "--rpc-tls", t.path("none")), "none")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        contains(start_fails(t, "-r", address, "--rpc-token-file", token_file(t)), "in use")


def test_token(t):
    d = t.daemon("-r", "127.0.0.1:0", "--rpc-token-file", token_file(t))
    address = tcp_address(d)
    contains(d.output(), "in plain text", "log")
    check(TOKEN not in d.output(), "the token is in the log")
    with TcpRpc(address) as rpc:
        equal(rpc.call("berth_authenticate", token=TOKEN), True, "berth_authenticate")
        rpc.call("bdev_null_create", name="n0", num_blocks=100, block_size=512)
        equal([b["name"] for b in rpc.call("bdev_get_bdevs")], ["n0"], "bdevs")
    for first in ({"method": "spdk_get_version"}, {"method": "berth_authenticate", "params": {"token": TOKEN[:-1] + "x"}}):
        with TcpRpc(address) as rpc:
            began = time.monotonic()
            answer = rpc.answer(first["method"], first.get("params"))
            if "error" not in answer:
                raise Failure(f"{first} was answered {answer}")
            equal(answer["error"]["code"], -13, "code")
            check(time.monotonic() - began > 0.9, "a refusal came at once")
            try:
                rpc.answer("spdk_get_version")
                raise Failure("the connection goes on after a refusal")
            except (EOFError, ConnectionError):
                pass
    # On the unix socket nothing of this is needed.
    equal(d.call("berth_authenticate", token="whatever"), True, "over the unix socket")
    berth = ["-s", address, "--token-file", t.path("token")]
    contains(t.berth(*berth, "rpc", "bdev_get_bdevs"), '"n0"')
    t.berth("-s", address, "status", code=1)
    t.berth("-s", address, "--token-file", token_file(t, "x" * 32, "wrong"), "status", code=1)
    t.berth("-s", address, "--token-file", t.path("none"), "status", code=3)


def certificates(t):
    """A folder as GnuTLS's and QEMU's users have it, and one of a stranger."""
    if not shutil.which("openssl"):
        raise Skip("openssl is not installed")

    def openssl(*args, cwd):
        t.run(["openssl", *args], cwd=cwd)
    for folder in ("pki", "stranger"):
        path = t.path(folder)
        os.makedirs(path)
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "ca-key.pem",
                "-out", "ca-cert.pem", "-days", "2", "-subj", f"/CN={folder} CA", cwd=path)
        for who, extension in (("server", "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth"),
                               ("client", "extendedKeyUsage=clientAuth")):
            with open(os.path.join(path, f"{who}.ext"), "w") as f:
                f.write(extension + "\n")
            openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", f"{who}-key.pem",
                    "-out", f"{who}.csr", "-subj", f"/CN={who}", cwd=path)
            openssl("x509", "-req", "-in", f"{who}.csr", "-CA", "ca-cert.pem", "-CAkey", "ca-key.pem", "-CAcreateserial",
                    "-days", "2", "-extfile", f"{who}.ext", "-out", f"{who}-cert.pem", cwd=path)
            os.chmod(os.path.join(path, f"{who}-key.pem"), 0o600)
    return t.path("pki")


def in_tls(folder, with_certificate=True):
    context = ssl.create_default_context(cafile=os.path.join(folder, "ca-cert.pem"))
    context.check_hostname = False
    if with_certificate:
        context.load_cert_chain(os.path.join(folder, "client-cert.pem"), os.path.join(folder, "client-key.pem"))
    return lambda s: context.wrap_socket(s)


def test_tls(t):
    pki = certificates(t)
    d = t.daemon("-r", "127.0.0.1:0", "--rpc-tls", pki)
    address = tcp_address(d)
    with TcpRpc(address, in_tls(pki)) as rpc:
        rpc.call("bdev_null_create", name="n0", num_blocks=100, block_size=512)
        # Long in both directions.
        rpc.send(json.dumps([rpc.request("bdev_get_bdevs", {"name": "n0"}) for _ in range(2000)]))
        equal(len(rpc.receive()), 2000, "answers to a batch")
    contains(t.berth("-s", address, "--tls", pki, "rpc", "bdev_get_bdevs"), '"n0"')
    contains(t.run([os.path.join(harness.BUILD, "berth"), "rpc", "bdev_get_bdevs"],
                   env={**os.environ, "BERTH_SOCKET": address, "BERTH_TLS_DIR": pki}), '"n0"')

    def refused(wrap):
        try:
            with TcpRpc(address, wrap, timeout=5) as rpc:
                rpc.call("spdk_get_version")
        except (OSError, EOFError):
            return
        raise Failure("a stranger was served")
    refused(lambda s: s)
    refused(in_tls(pki, with_certificate=False))
    stranger = ssl._create_unverified_context()
    stranger.load_cert_chain(t.path("stranger/client-cert.pem"), t.path("stranger/client-key.pem"))
    refused(stranger.wrap_socket)
    t.berth("-s", address, "--tls", t.path("stranger"), "status", code=3)
    equal(d.call("bdev_get_bdevs")[0]["name"], "n0", "after all that")


def test_tls_and_token(t):
    pki = certificates(t)
    d = t.daemon("-r", "127.0.0.1:0", "--rpc-tls", pki, "--rpc-token-file", token_file(t))
    address = tcp_address(d)
    with TcpRpc(address, in_tls(pki, with_certificate=False)) as rpc:
        equal(rpc.call("berth_authenticate", token=TOKEN), True, "berth_authenticate")
        contains(rpc.call("spdk_get_version")["version"], "berth")
    with TcpRpc(address, in_tls(pki, with_certificate=False)) as rpc:
        equal(rpc.answer("spdk_get_version")["error"]["code"], -13, "code without the token")
    contains(t.berth("-s", address, "--tls", pki, "--token-file", t.path("token"), "status"), "berth v")


def test_tcp_alone(t):
    """No unix socket; a second one with another socket dir may not have the address."""
    token = token_file(t)
    log = open(t.path("log"), "wb")
    p = t.spawn([os.path.join(harness.BUILD, "berthd"), "-r", "127.0.0.1:0", "-S", t.path("s"), "--rpc-token-file", token],
                stderr=log)

    def address():
        with open(t.path("log")) as f:
            m = re.search(r"RPC over TCP at (\S+),", f.read())
        return m and m.group(1)
    at = until(address, "berthd says its address")
    contains(t.berth("-s", at, "--token-file", token, "status"), "berth v")
    contains(start_fails(t, "-r", at, "--rpc-token-file", token), "in use")
    p.terminate()
    equal(p.wait(60), 0, "exit code")
    log.close()


def as_nobody(t, d, groups=()):
    """What a process of user nobody hears from the socket."""
    code = ("import socket,sys\n"
            "s=socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1])\n"
            "s.sendall(b'{\"id\":1,\"method\":\"spdk_get_version\"}')\n"
            "print(s.recv(4096).decode())\n")

    def become():
        os.setgroups(list(groups))
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    p = subprocess.run(["python3", "-c", code, d.socket], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       preexec_fn=become, timeout=60, cwd="/")
    return p.stdout + p.stderr


def mode(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def test_peers(t):
    if os.geteuid() != 0:
        raise Skip("only root can be somebody else")
    os.chmod(t.dir, 0o755)
    d = t.daemon(folder="plain")
    equal(mode(d.socket), 0o600, "mode")
    contains(as_nobody(t, d), "Permission")
    os.chmod(d.socket, 0o666)
    contains(as_nobody(t, d), "user 65534 (group 65534) may not use this socket")
    contains(d.output(), "user 65534", "log")
    d = t.daemon("--rpc-user", "65534", folder="user")
    equal(mode(d.socket), 0o666, "mode with --rpc-user")
    contains(as_nobody(t, d), "berth v")
    d = t.daemon("--rpc-group", "4711", folder="group")
    equal((mode(d.socket), os.stat(d.socket).st_gid), (0o660, 4711), "mode with --rpc-group")
    contains(as_nobody(t, d), "Permission")
    contains(as_nobody(t, d, groups=[4711]), "berth v")
    d = t.daemon("--rpc-mode", "0666", folder="mode")
    equal(mode(d.socket), 0o666, "mode with --rpc-mode")
    contains(as_nobody(t, d), "may not use this socket")


def test_silent_clients(t):
    """They lock nobody out."""
    d = t.daemon()
    silent = []
    for _ in range(200):
        s = socket.socket(socket.AF_UNIX)
        s.connect(d.socket)
        silent.append(s)
    began = time.monotonic()
    contains(d.call("spdk_get_version")["version"], "berth")
    check(time.monotonic() - began < 10 * harness.PATIENCE, "a client waited for long")
    for s in silent:
        s.close()


def test_events(t):
    d = t.daemon()
    equal(sorted(set(d.call("notify_get_types")) & {"bdev_register", "job_ended"}), ["bdev_register", "job_ended"], "types")
    d.error("berth_subscribe", -32602, {"types": ["bdev_register", "none"]})
    with d.rpc() as rpc:
        equal(rpc.call("berth_subscribe", types=["bdev_unregister", "bdev_register"]), ["bdev_register", "bdev_unregister"],
              "subscribed")
        d.call("bdev_null_create", name="n0", num_blocks=2048, block_size=512)
        d.call("bdev_null_resize", name="n0", new_size=4)
        d.call("bdev_null_delete", name="n0")
        first, second = rpc.receive(), rpc.receive()
        equal((first["method"], first["params"]["type"], first["params"]["name"]), ("berth_event", "bdev_register", "n0"), "1st")
        equal(second["params"]["type"], "bdev_unregister", "2nd")
        check("id" not in first and abs(first["params"]["time"] - time.time()) < 60, f"an odd event: {first}")
        kept = d.call("notify_get_notifications", id=first["params"]["id"], max=1)
        equal((kept[0]["type"], kept[0]["ctx"]), ("bdev_register", "n0"), "what is kept of it")
        equal(rpc.call("berth_unsubscribe"), True, "berth_unsubscribe")
        d.call("bdev_null_create", name="n1", num_blocks=100, block_size=512)
        contains(rpc.call("spdk_get_version")["version"], "berth")
    follow = t.spawn([os.path.join(harness.BUILD, "berth"), "-s", d.socket, "events", "--count", "2"], stdout=subprocess.PIPE,
                     text=True)
    lines = t.spawn([os.path.join(harness.BUILD, "berth"), "-s", d.socket, "--json", "events", "bdev_unregister", "--count", "1"],
                    stdout=subprocess.PIPE, text=True)
    # Made and deleted until both have subscribed and heard.
    for _ in range(600 * harness.PATIENCE):
        if follow.poll() is not None and lines.poll() is not None:
            break
        d.call("bdev_null_create", name="n2", num_blocks=100, block_size=512)
        d.call("bdev_null_delete", name="n2")
        time.sleep(0.1)
    equal((follow.wait(60), lines.wait(60)), (0, 0), "exit codes of berth events")
    text = follow.stdout.read()
    check(re.match(r"^\d\d:\d\d:\d\d\.\d{3} bdev_(un)?register n2\n", text), f"berth events printed {text!r}")
    equal(json.loads(lines.stdout.read())["type"], "bdev_unregister", "a line of JSON")
    t.berth("events", "none", daemon=d, code=1)
    t.berth("events", "--count", "x", daemon=d, code=2)


def test_slow_subscriber(t):
    """Who does not read makes berthd keep little, and is told what it has missed."""
    d = t.daemon()
    with d.rpc() as rpc:
        rpc.call("berth_subscribe")
        with d.rpc() as maker:
            batch = []
            for i in range(2000):
                name = f"n{i}-" + "x" * 100
                batch += [maker.request("bdev_null_create", {"name": name, "num_blocks": 100, "block_size": 512}),
                          maker.request("bdev_null_delete", {"name": name})]
            maker.send(json.dumps(batch))
            equal(len([a for a in maker.receive() if "result" in a]), 4000, "answers")
        got, lost = 0, 0
        while got + lost < 4000:
            event = rpc.receive()["params"]
            if event["type"] == "lost":
                lost += event["count"]
            else:
                got += 1
        equal(got + lost, 4000, "events and what was lost")
        check(lost > 0, "nothing was lost: the test makes too few")
        d.call("bdev_null_create", name="last", num_blocks=100, block_size=512)
        equal(rpc.receive()["params"]["name"], "last", "the event after that")


def test_jobs(t):
    d = t.daemon()
    equal(d.call("berth_get_jobs"), [], "jobs")
    d.error("berth_get_jobs", -2, {"id": 7})
    d.error("berth_cancel_job", -2, {"id": 7})
    contains(t.berth("jobs", daemon=d), "DESCRIPTION")
    t.berth("jobs", "cancel", "7", daemon=d, code=1)
    t.berth("jobs", "wait", "7", daemon=d, code=1)
    t.berth("jobs", "wait", daemon=d, code=2)
    t.berth("jobs", "x", daemon=d, code=2)


harness.main(globals())
