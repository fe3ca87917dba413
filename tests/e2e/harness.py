# SPDX-License-Identifier: BSD-3-Clause
"""
What the end-to-end tests share. A test file holds functions test_NAME(t) and ends with harness.main(globals()). Each gets
a Test: a folder of its own, daemons and guests in it that end with the test however it ends, RPC, assertions.

    BERTH_BUILD=DIR        folder with berthd and berth (default: build/)
    BERTH_SANITIZED=1      they are slow: more patience
    BERTH_LONG=1           runs the long cases, test_long_NAME, and no others
    BERTH_PRELOAD=LIBRARY  daemons have it loaded before them (tools/shake.py)
    x_test.py [NAME ...]   runs those only whose name contains one of the words
"""
import contextlib
import glob
import inspect
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

ROOT = os.path.abspath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
BUILD = os.path.abspath(os.environ.get("BERTH_BUILD") or os.path.join(ROOT, "build"))
sys.path.insert(0, os.path.join(ROOT, "tools", "guest"))
import image  # noqa: E402
import vm  # noqa: E402

SANITIZER = re.compile(r"ERROR: \w+Sanitizer|runtime error:|WARNING: ThreadSanitizer|LeakSanitizer")
LONG = os.environ.get("BERTH_LONG") == "1"
SANITIZED = os.environ.get("BERTH_SANITIZED") == "1"
PRELOAD = os.environ.get("BERTH_PRELOAD")
# A daemon that is sanitized, or delayed, is several times slower on a busy machine.
PATIENCE = 4 if SANITIZED or PRELOAD else 1


class Skip(Exception):
    pass


class Failure(AssertionError):
    pass


class RpcError(Exception):
    def __init__(self, method, error):
        super().__init__(f"{method}: {error.get('code')} {error.get('message')}")
        self.code = error.get("code")
        self.message = error.get("message", "")
        self.error = error


def check(condition, message="condition is false"):
    if not condition:
        raise Failure(message)


def equal(got, expected, what=""):
    if got != expected:
        raise Failure(f"{what}{': ' if what else ''}got {got!r}, expected {expected!r}")


def contains(text, part, what=""):
    if part not in text:
        raise Failure(f"{what}{': ' if what else ''}{part!r} is not in {text!r}")


def until(condition, what, seconds=60.0):
    """Waits for condition() to be true; its value. So long that a machine which stands still for some seconds is none that fails."""
    deadline = time.monotonic() + seconds * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"not within {seconds * PATIENCE:g} s: {what}")
        time.sleep(0.02)


def activity(pid):
    """Of each thread of a process: its name, how often it went to sleep by itself, its CPU time in ticks. Without the kernel's own
    workers for io_uring (iou-wrk-...), the last of which looks every 5 s whether there is something to do."""
    seen = {}
    for folder in glob.glob(f"/proc/{pid}/task/*"):
        try:
            with open(f"{folder}/status") as f:
                status = dict(line.split(":", 1) for line in f if ":" in line)
            with open(f"{folder}/stat") as f:
                fields = f.read().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ends just now
        name = status["Name"].strip()
        if not name.startswith("iou-wrk-"):
            seen[folder] = (name, int(status["voluntary_ctxt_switches"]), int(fields[11]) + int(fields[12]))
    return seen


def stays_asleep(d, what, seconds=3.0):
    """
    For so many seconds on end no thread of a daemon wakes up, comes or goes, and that before long: after work reactors poll for a
    moment, the log is synced, its worker ends, and the scheduler looks a few times more. Whatever else the machine is doing: what
    sleeps is left asleep.
    """
    if SANITIZED:
        return  # its own thread wakes now and then
    seen, since = activity(d.pid), time.monotonic()
    check(seen, f"{what}: no threads seen")
    deadline = since + 60 + seconds
    while time.monotonic() < since + seconds:
        time.sleep(0.2)
        now = activity(d.pid)
        if now != seen:
            woken = [f"{new[0]}: {new[1] - old[1]} wake-ups, {new[2] - old[2]} ticks" for k in sorted(now.keys() | seen.keys())
                     for old, new in [(seen.get(k, ("new", 0, 0)), now.get(k, ("gone", 0, 0)))] if new != old]
            check(time.monotonic() < deadline, f"{what}: not asleep for {seconds} s: {'; '.join(woken)}")
            seen, since = now, time.monotonic()


class Rpc:
    """One connection to a daemon. Answers are told apart by JSON alone, as the protocol has no other framing."""

    def __init__(self, path, timeout=60.0):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout * PATIENCE)
        self.sock.connect(path)
        self.buffer = ""
        self.id = 0

    def close(self):
        self.sock.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def send(self, data):
        self.sock.sendall(data if isinstance(data, bytes) else data.encode())

    def receive(self):
        decoder = json.JSONDecoder()
        while True:
            text = self.buffer.lstrip()
            if text:
                with contextlib.suppress(json.JSONDecodeError):
                    value, end = decoder.raw_decode(text)
                    self.buffer = text[end:]
                    return value
            data = self.sock.recv(1 << 16)
            if not data:
                raise EOFError("the daemon closed the connection")
            self.buffer += data.decode()

    def request(self, method, params=None):
        self.id += 1
        req = {"jsonrpc": "2.0", "id": self.id, "method": method}
        if params is not None:
            req["params"] = params
        return req

    def answer(self, method, params=None):
        """The whole answer object."""
        req = self.request(method, params)
        self.send(json.dumps(req))
        answer = self.receive()
        equal(answer.get("id"), req["id"], f"id of the answer to {method}")
        equal(answer.get("jsonrpc"), "2.0", f"version of the answer to {method}")
        return answer

    def call(self, method, **params):
        answer = self.answer(method, params or None)
        if "error" in answer:
            raise RpcError(method, answer["error"])
        return answer["result"]


class Daemon:
    """A berthd with its RPC socket and its controllers' sockets in one folder."""

    def __init__(self, test, folder, args=(), env=None, ready=True, prefix=(), program=None):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)
        self.socket = os.path.join(folder, "rpc.sock")
        self.log_path = os.path.join(folder, "berthd.log")
        self.log = open(self.log_path, "ab")
        argv = [*prefix, program or os.path.join(BUILD, "berthd"), "-r", self.socket, "-S", folder, *args]
        self.argv = argv
        preload = {"LD_PRELOAD": PRELOAD} if PRELOAD else {}
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, cwd=folder,
                                        env={**os.environ, **preload, **(env or {})}, preexec_fn=vm.die_with_parent)
        self.pid = self.process.pid
        self.told_to_end = False
        if ready:
            self.wait_ready()

    def wait_ready(self):
        def answers():
            if self.process.poll() is not None:
                raise Failure(f"berthd ended at its start with code {self.process.returncode}\n{self.tail()}")
            try:
                with Rpc(self.socket) as rpc:
                    rpc.call("spdk_get_version")
                return True
            except (FileNotFoundError, ConnectionRefusedError, EOFError):
                return False
        until(answers, "berthd answers on its socket")

    def tail(self, count=30):
        with open(self.log_path, errors="replace") as f:
            return "\n".join("    > " + line.rstrip() for line in f.readlines()[-count:])

    def output(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def rpc(self):
        return Rpc(self.socket)

    def call(self, method, **params):
        with self.rpc() as rpc:
            return rpc.call(method, **params)

    def error(self, method, code=None, params=None):
        """The error of a call that must fail."""
        with self.rpc() as rpc:
            answer = rpc.answer(method, params)
        if "error" not in answer:
            raise Failure(f"{method} {params}: expected an error, got {answer.get('result')!r}")
        if code is not None:
            equal(answer["error"]["code"], code, f"code of {method} {params} ({answer['error'].get('message')})")
        return answer["error"]

    def path(self, name):
        return os.path.join(self.folder, name)

    def controller(self, name, dev_name, **params):
        self.call("vhost_create_blk_controller", ctrlr=name, dev_name=dev_name, **params)
        return self.path(name)

    def fd_count(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def tell_to_end(self, sig=signal.SIGTERM):
        self.told_to_end = True
        self.process.send_signal(sig)

    def stop(self, seconds=60):
        """A clean end: SIGTERM, exit code 0, no complaint of a sanitizer, no socket left. Not told twice: a second signal
        ends berthd at once."""
        if self.process.poll() is None and not self.told_to_end:
            self.tell_to_end()
        try:
            code = self.process.wait(seconds * PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise Failure(f"berthd did not end within {seconds * PATIENCE} s of SIGTERM\n{self.tail()}") from None
        self.log.close()
        if code != 0:
            raise Failure(f"berthd ended with code {code}\n{self.tail()}")
        self.check_log()

    def check_log(self):
        m = SANITIZER.search(self.output())
        if m:
            raise Failure(f"a sanitizer complained ({m.group(0)})\n{self.tail(80)}")

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def cleanup(self):
        """At the end of a test that left it running."""
        if self.process.poll() is None:
            self.stop()
        else:
            self.log.close()
            if self.process.returncode not in (0, -signal.SIGKILL):
                raise Failure(f"berthd ended by itself with code {self.process.returncode}\n{self.tail()}")
            self.check_log()


class Test:
    def __init__(self, name):
        self.name = name
        # Short, for a socket's path has 107 bytes.
        self.dir = tempfile.mkdtemp(prefix="be-")
        self.stack = []

    def path(self, name):
        return os.path.join(self.dir, name)

    def daemon(self, *args, folder="d", **kw):
        d = Daemon(self, self.path(folder), args, **kw)
        self.stack.append(d.cleanup)
        return d

    def file(self, name, size):
        path = self.path(name)
        with open(path, "wb") as f:
            f.truncate(size)
        return path

    def guest(self, script, sockets, **kw):
        if not shutil.which(vm.MACHINES[os.uname().machine]["qemu"]):
            raise Skip("QEMU is not installed")
        g = vm.Guest("set -e\n" + script, sockets, log=self.path("serial.log"), **kw)
        self.stack.append(g.close)
        return g

    def spawn(self, argv, **kw):
        p = subprocess.Popen(argv, preexec_fn=vm.die_with_parent, **kw)

        def end():
            if p.poll() is None:
                p.kill()
            p.wait()
        self.stack.append(end)
        return p

    def run(self, argv, code=0, timeout=120, **kw):
        """Runs a program to its end; its standard output. code None: any exit code (then the whole result)."""
        p = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=timeout * PATIENCE, **kw)
        if SANITIZER.search(p.stderr):
            raise Failure(f"{' '.join(argv)}: a sanitizer complained\n{p.stderr[-4000:]}")
        if code is None:
            return p
        if p.returncode != code:
            raise Failure(f"{' '.join(argv)}: exit code {p.returncode}, expected {code}\n{p.stdout[-2000:]}{p.stderr[-2000:]}")
        return p.stdout

    def berth(self, *args, daemon=None, **kw):
        argv = [os.path.join(BUILD, "berth")] + (["-s", daemon.socket] if daemon else []) + list(args)
        return self.run(argv, **kw)

    def show_logs(self):
        """What the daemons said last."""
        for path in sorted(glob.glob(os.path.join(self.dir, "**", "berthd.log"), recursive=True)):
            with open(path, errors="replace") as f:
                lines = f.readlines()[-20:]
            print(f"{os.path.relpath(path, self.dir)}:")
            print("\n".join("    > " + line.rstrip() for line in lines), flush=True)

    def cleanup(self, failed):
        errors = []
        for end in reversed(self.stack):
            try:
                end()
            except Exception as e:  # the others still have to end
                errors.append(e)
        if failed:
            self.show_logs()
        shutil.rmtree(self.dir, ignore_errors=True)
        if errors and not failed:
            raise errors[0]


def has_uring():
    """Whether this kernel lets us make an io_uring."""
    import ctypes
    libc = ctypes.CDLL(None, use_errno=True)
    params = ctypes.create_string_buffer(120)
    fd = libc.syscall(425, 4, params)
    if fd < 0:
        return False
    os.close(fd)
    return True


def run_one(name, function, arguments):
    start = time.monotonic()
    print(f"[ RUN      ] {name}", flush=True)
    t = Test(name)
    failed = True
    try:
        try:
            function(t, *arguments)
            failed = False
        finally:
            t.cleanup(failed)
    except Skip as e:
        print(f"[  SKIPPED ] {name}: {e}", flush=True)
        return "skipped"
    except Exception as e:
        if isinstance(e, Failure):
            at = next((f for f in reversed(traceback.extract_tb(e.__traceback__)) if "harness" not in f.filename), None)
            print((f"{os.path.basename(at.filename)}:{at.lineno}: " if at else "") + str(e))
        else:
            traceback.print_exc(file=sys.stdout)
        print(f"[  FAILED  ] {name} ({time.monotonic() - start:.1f} s)", flush=True)
        return "failed"
    print(f"[       OK ] {name} ({time.monotonic() - start:.1f} s)", flush=True)
    return "passed"


def each(**parameters):
    """Decorator: one case for each value of the one parameter given, named after it."""
    (values,) = parameters.values()

    def mark(function):
        function.values = values
        return function
    return mark


def main(names):
    vm.die_with_parent()
    # What meson sends when time is up: a test's daemons and folder still go away.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))
    for program in ("berthd", "berth"):
        if not os.access(os.path.join(BUILD, program), os.X_OK):
            sys.exit(f"{os.path.join(BUILD, program)}: not built")
    words = sys.argv[1:]
    results = []
    for name, function in list(names.items()):
        if not name.startswith("test_") or not inspect.isfunction(function) or name.startswith("test_long_") != LONG:
            continue
        for value in getattr(function, "values", [None]):
            case = name[5:] if value is None else f"{name[5:]}[{value}]"
            if words and not any(w in case for w in words):
                continue
            results.append(run_one(case, function, [] if value is None else [value]))
    print(f"{results.count('passed')} passed, {results.count('failed')} failed, {results.count('skipped')} skipped")
    if "failed" in results or not results:
        sys.exit(1)
    sys.exit(0 if "passed" in results else 77)
