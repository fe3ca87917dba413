#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""
One small virtual machine on vhost-user-blk sockets: starts QEMU with the guest of image.py, feeds it a script, talks with
it over its serial port.

Both sides speak lines. The guest says `@@ word ...`; the host waits for such a line with Guest.wait(), or sends one, which
the script takes with `read`. The last line is `@@ exit CODE`.

KVM is used where it boots this very guest (tried once a boot of the host, remembered in the image folder), else TCG.
"""
import argparse
import ctypes
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import image  # noqa: E402

MACHINES = {
    "x86_64": {"qemu": "qemu-system-x86_64", "machine": "q35", "console": "ttyS0", "cpu": {"kvm": "host", "tcg": "max"}},
    "aarch64": {"qemu": "qemu-system-aarch64", "machine": "virt", "console": "ttyAMA0", "cpu": {"kvm": "host", "tcg": "cortex-a72"}},
}
MEMORY_MIB = 512
PROBE_SECONDS = 10


class GuestError(Exception):
    pass


def die_with_parent():
    """For preexec_fn: nothing that was started outlives who started it, not even one that was killed."""
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Guest:
    def __init__(self, script, sockets=(), *, image_dir=image.DEFAULT_DIR, accel=None, fio=False, queues=2, reconnect=False,
                 smp=2, log=None, device_options=(), extra_args=(), reboots=False, programs=()):
        """sockets: of vhost-user-blk, in order vda, vdb, ...; log: a path that gets all serial output; programs: of this machine,
        to be in the guest's /bin."""
        self.machine = MACHINES[platform.machine()]
        self.buffer = b""
        self.lines = []
        self.log = open(log, "ab") if log else None
        kernel, layers = image.build(image_dir, fio)
        self.tmp = tempfile.TemporaryDirectory(prefix="berth-guest-")
        if programs:
            layers.append(self.write_programs(programs))
        initrd = self.write_initrd(layers, script)
        accel = accel or find_accel(image_dir)
        args = [
            self.machine["qemu"], "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
            "-machine", f"{self.machine['machine']},accel={accel},memory-backend=mem",
            "-cpu", self.machine["cpu"][accel], "-smp", str(smp), "-m", f"{MEMORY_MIB}M",
            "-object", f"memory-backend-memfd,id=mem,size={MEMORY_MIB}M,share=on",
            "-kernel", kernel, "-initrd", initrd,
            "-append", f"console={self.machine['console']} quiet panic=-1 rdinit=/init mitigations=off"
            # Of a machine so busy that the timer seems not to tick in time, the kernel would give up.
            " no_timer_check",
        ]
        if not reboots:
            args.append("-no-reboot")
        for i, path in enumerate(sockets):
            options = device_options[i] if i < len(device_options) else ""
            args += ["-chardev", f"socket,id=c{i},path={path}" + (",reconnect=1" if reconnect else ""),
                     "-device", f"vhost-user-blk-pci,chardev=c{i},num-queues={queues}" + options]
        self.args = args + list(extra_args)
        try:
            self.process = subprocess.Popen(self.args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                            preexec_fn=die_with_parent)
        except OSError as e:
            self.tmp.cleanup()
            raise GuestError(f"{args[0]}: {e.strerror}") from None

    def write_programs(self, programs):
        path = os.path.join(self.tmp.name, "programs")
        cpio = image.Cpio(path)
        for program in programs:
            image.add_program(cpio, program, os.path.basename(program))
        cpio.close()
        return path

    def write_initrd(self, layers, script):
        path = os.path.join(self.tmp.name, "initrd")
        job = os.path.join(self.tmp.name, "job")
        image.write_job(job, script)
        with open(path, "wb") as out:
            for part in layers + [job]:
                with open(part, "rb") as f:
                    out.write(f.read())
        return path

    def read_lines(self, seconds):
        """Waits up to that long for output; False at its end."""
        fd = self.process.stdout.fileno()
        if not select.select([fd], [], [], max(0, seconds))[0]:
            return True
        data = os.read(fd, 65536)
        if self.log:
            self.log.write(data)
            self.log.flush()
        # Serial lines end with carriage returns, some with several.
        self.buffer += data.replace(b"\r", b"")
        *whole, self.buffer = self.buffer.split(b"\n")
        self.lines += [line.decode(errors="replace") for line in whole]
        return bool(data)

    def wait(self, word, seconds=60):
        """The rest of the first line not yet seen that is `@@ word ...`. An exit of the guest before it is an error."""
        deadline = time.monotonic() + seconds
        seen = 0
        alive = True
        while True:
            while seen < len(self.lines):
                line = self.lines[seen]
                seen += 1
                at = line.find("@@ ")
                if at < 0:
                    continue
                said, _, rest = line[at + 3:].partition(" ")
                if said == word:
                    del self.lines[:seen]
                    return rest.strip()
                if said == "exit":
                    raise GuestError(f"the guest ended (exit {rest}) before it said '{word}'\n{self.tail()}")
            left = deadline - time.monotonic()
            if not alive:
                self.process.wait(10)
                raise GuestError(f"QEMU ended (exit code {self.process.returncode}) before the guest said '{word}'\n{self.tail()}")
            if left <= 0:
                raise GuestError(f"the guest did not say '{word}' in {seconds} s\n{self.tail()}")
            alive = self.read_lines(left)

    def send(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def finish(self, seconds=120):
        """Waits for the script's end and the machine's; the script's exit code must be 0."""
        code = self.wait("exit", seconds)
        if code != "0":
            raise GuestError(f"the guest's script ended with exit code {code}\n{self.tail()}")
        deadline = time.monotonic() + 20
        while self.read_lines(deadline - time.monotonic()):
            if time.monotonic() > deadline:
                raise GuestError("the guest did not power off")
        if self.process.wait(60) != 0:
            raise GuestError(f"QEMU ended with exit code {self.process.returncode}\n{self.tail()}")

    def tail(self, count=40):
        return "\n".join("    | " + line for line in self.lines[-count:])

    def kill(self):
        self.process.kill()
        self.close()

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        if self.log:
            self.log.close()
            self.log = None
        self.tmp.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def host_boot():
    with open("/proc/sys/kernel/random/boot_id") as f:
        return f.read().strip()


def find_accel(image_dir):
    """"kvm" when this guest boots with it, else "tcg"."""
    if os.environ.get("BERTH_ACCEL"):
        return os.environ["BERTH_ACCEL"]
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    memo = os.path.join(image_dir, f"accel-{os.getuid()}")
    try:
        with open(memo) as f:
            boot, accel = f.read().split()
        if boot == host_boot():
            return accel
    except (OSError, ValueError):
        pass
    print(f"guest: trying KVM (at most {PROBE_SECONDS} s)", file=sys.stderr, flush=True)
    accel = "tcg"
    try:
        with Guest("exit 0", image_dir=image_dir, accel="kvm", smp=1) as guest:
            guest.wait("up", PROBE_SECONDS)
            accel = "kvm"
    except GuestError:
        pass
    print(f"guest: {'KVM works' if accel == 'kvm' else 'KVM does not boot a guest here, using TCG'}", file=sys.stderr, flush=True)
    with open(memo + f".{os.getpid()}", "w") as f:
        f.write(f"{host_boot()} {accel}\n")
    os.rename(f.name, memo)
    return accel


def main():
    p = argparse.ArgumentParser(description="Run a script in a small guest on vhost-user-blk sockets.")
    p.add_argument("--dir", default=image.DEFAULT_DIR, help="folder of the guest image")
    p.add_argument("--fio", action="store_true", help="with fio in the guest")
    p.add_argument("--queues", type=int, default=2)
    p.add_argument("--timeout", type=int, default=120, help="seconds")
    p.add_argument("--log", help="file that gets the serial output")
    p.add_argument("script", help="shell script to run in the guest")
    p.add_argument("socket", nargs="*", help="vhost-user-blk socket")
    args = p.parse_args()
    with open(args.script) as f:
        script = f.read()
    try:
        with Guest(script, args.socket, image_dir=args.dir, fio=args.fio, queues=args.queues, log=args.log) as guest:
            accel = "KVM" if "accel=kvm" in " ".join(guest.args) else "TCG"
            guest.wait("up", args.timeout)
            print(f"guest is up ({accel})", flush=True)
            while True:
                try:
                    print(f"guest: {guest.wait('say', args.timeout)}", flush=True)
                except GuestError:
                    break
            guest.finish(args.timeout)
    except (GuestError, image.ImageError, OSError) as e:
        sys.exit(f"guest: {e}")


if __name__ == "__main__":
    main()
