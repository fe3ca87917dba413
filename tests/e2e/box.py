#!/usr/bin/env python3
# SPDX-License-Identifier: BSD-3-Clause
"""
Runs a program as a container engine would, with what the kernel has and no engine: name spaces of its own (process, mount,
network, IPC, host name, and user where this is not root), a root that cannot be written, an ordinary user, no capability and no
way to one, 64 KiB that may be locked, the system calls that engines filter. The program is process 1 in there.

    box.py --dir DIR [--bind FROM:TO[:ro]]... [--root TREE] [--uid N] [--deny CALL=ERROR]... [--cgroup DIR] -- PROGRAM ARGS

Without --root the root is made of this machine's /usr. In DIR, which is the caller's, are the mount point `root` and `pid`, the
program's number outside. SIGTERM and SIGINT are passed on; the end is the program's own, by code or by signal. Exit code 77: this
machine does not allow boxes to be made.

Order matters: each step takes away what the one before still needed.
"""
import argparse
import ctypes
import errno
import os
import resource
import signal
import sys

UID = 10001
MEMLOCK = 65536
NOT_HERE = 77

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = \
    0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18
MNT_DETACH = 2
# glibc has no function of this name.
PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
CAPABILITY_VERSION_3 = 0x20080522
SCMP_ACT_ALLOW, SCMP_ACT_ERRNO = 0x7fff0000, 0x00050000

# What the default profiles of engines forbid to a process without capabilities. clone3 is "not there", for its flags are behind a
# pointer, where a filter cannot look.
FORBIDDEN = {name: errno.EPERM for name in (
    "io_uring_setup io_uring_enter io_uring_register "
    "acct add_key bpf chroot clock_adjtime clock_settime delete_module fanotify_init finit_module fsconfig fsmount fsopen "
    "fspick init_module kcmp kexec_file_load kexec_load keyctl lookup_dcookie mbind mount mount_setattr "
    "move_mount move_pages nfsservctl open_by_handle_at open_tree perf_event_open personality pivot_root process_madvise "
    "process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot request_key set_mempolicy get_mempolicy "
    "setns sethostname setdomainname settimeofday swapoff swapon syslog umount2 unshare userfaultfd vhangup").split()}
FORBIDDEN["clone3"] = errno.ENOSYS

libc = ctypes.CDLL(None, use_errno=True)


def checked(result, what):
    if result != 0:
        e = ctypes.get_errno()
        raise OSError(e, f"{what}: {os.strerror(e)}")


def unshare(flags):
    checked(libc.unshare(flags), "unshare")


def mount(source, target, kind=None, flags=0, data=None):
    args = [a.encode() if a is not None else None for a in (source, target, kind, data)]
    checked(libc.mount(args[0], args[1], args[2], ctypes.c_ulong(flags), args[3]), f"mounting {source} on {target}")


def write(path, text):
    with open(path, "w") as f:
        f.write(text)


# ---- The root ----

def make_mount_point(source, target):
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.makedirs(os.path.dirname(target), exist_ok=True)
        write(target, "")


def locked_flags(path):
    """Of a mount those flags that one who is root only in here may not take away."""
    flags = os.statvfs(path).f_flag
    return sum(ours for theirs, ours in ((os.ST_NOSUID, MS_NOSUID), (os.ST_NODEV, MS_NODEV), (os.ST_NOEXEC, MS_NOEXEC))
               if flags & theirs)


def bind(source, target, read_only=False):
    make_mount_point(source, target)
    mount(source, target, None, MS_BIND | MS_REC)
    if read_only:
        mount(None, target, None, MS_REMOUNT | MS_BIND | MS_RDONLY | locked_flags(target))


def machine_root(root):
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    bind("/usr", f"{root}/usr", True)
    for name in ("bin", "sbin", "lib", "lib64"):
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{root}/{name}")
        elif os.path.isdir(f"/{name}"):
            bind(f"/{name}", f"{root}/{name}", True)
    if os.path.exists("/etc/ld.so.cache"):
        bind("/etc/ld.so.cache", f"{root}/etc/ld.so.cache", True)


def make_dev(root):
    os.makedirs(f"{root}/dev", exist_ok=True)
    mount("tmpfs", f"{root}/dev", "tmpfs", MS_NOSUID, "mode=755")
    for name in ("null", "zero", "full", "random", "urandom"):
        bind(f"/dev/{name}", f"{root}/dev/{name}")
    os.mkdir(f"{root}/dev/shm")
    mount("tmpfs", f"{root}/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=64m")


def make_root(args, root):
    # Nothing mounted from here on is seen outside.
    mount(None, "/", None, MS_REC | MS_PRIVATE)
    if args.root:
        bind(os.path.realpath(args.root), root)
    else:
        machine_root(root)
    make_dev(root)
    for kind, flags in (("proc", 0), ("sysfs", MS_RDONLY)):
        target = f"{root}/{kind[:4].rstrip('f')}"
        os.makedirs(target, exist_ok=True)
        mount(kind, target, kind, flags | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for source, target, *how in (b.split(":") for b in args.bind):
        bind(source, root + target, how == ["ro"])
    mount(None, root, None, MS_REMOUNT | MS_BIND | MS_RDONLY | locked_flags(root))
    # Not chroot: who is in one gets no user name space any more. The old root is below the new one, and goes.
    os.chdir(root)
    checked(libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    checked(libc.umount2(b".", MNT_DETACH), "umount")
    os.chdir("/")


# ---- The process ----

def map_ids(inside, uid, gid):
    write("/proc/self/setgroups", "deny")
    write("/proc/self/uid_map", f"{inside} {uid} 1")
    write("/proc/self/gid_map", f"{inside} {gid} 1")


def become(uid, own_user_space):
    if own_user_space:
        # Root of the name space that was made for the mounts is to be an ordinary user: in one more, that it is.
        unshare(CLONE_NEWUSER)
        map_ids(uid, 0, 0)
    for capability in range(64):
        if libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 and ctypes.get_errno() != errno.EINVAL:
            checked(-1, f"dropping capability {capability}")
    if not own_user_space:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    checked(libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")


def load_filter(scmp, forbidden):
    scmp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(scmp.seccomp_init(ctypes.c_uint32(SCMP_ACT_ALLOW)))
    for name, error in forbidden.items():
        number = scmp.seccomp_syscall_resolve_name(name.encode())
        # -1: a call that libseccomp does not know; other negative numbers: one that this processor does not have.
        if number == -1:
            raise OSError(errno.EINVAL, f"{name}: no such system call")
        if number >= 0:
            rc = scmp.seccomp_rule_add_array(context, ctypes.c_uint32(SCMP_ACT_ERRNO | error), number, 0, None)
            if rc != 0:
                raise OSError(-rc, f"{name}: no rule for it: {os.strerror(-rc)}")
    rc = scmp.seccomp_load(context)
    if rc != 0:
        raise OSError(-rc, f"seccomp: {os.strerror(-rc)}")


def inside(args, own_user_space):
    scmp = ctypes.CDLL("libseccomp.so.2")
    unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)
    make_root(args, os.path.join(args.dir, "root"))
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (MEMLOCK, MEMLOCK))
    become(args.uid, own_user_space)
    # Not before: a change of user resets it.
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    load_filter(scmp, {**FORBIDDEN, **{name: getattr(errno, error) for name, error in (d.split("=") for d in args.deny)}})
    os.execv(args.program[0], args.program)


def enter(own_user_space):
    uid, gid = os.getuid(), os.getgid()
    if own_user_space:
        unshare(CLONE_NEWUSER)
        map_ids(0, uid, gid)
    unshare(CLONE_NEWPID)


def wait(pid):
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: os.kill(pid, n))
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if os.WTERMSIG(status) != signal.SIGKILL:
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    sys.exit(os.WEXITSTATUS(status))


def main():
    p = argparse.ArgumentParser(prog="box.py")
    p.add_argument("--dir", required=True)
    p.add_argument("--root")
    p.add_argument("--bind", action="append", default=[])
    p.add_argument("--uid", type=int, default=UID)
    p.add_argument("--deny", action="append", default=[])
    p.add_argument("--cgroup")
    p.add_argument("program", nargs="+")
    args = p.parse_args()
    if args.cgroup:
        write(os.path.join(args.cgroup, "cgroup.procs"), str(os.getpid()))
    own_user_space = os.getuid() != 0
    os.makedirs(os.path.join(args.dir, "root"), exist_ok=True)
    try:
        enter(own_user_space)
    except OSError as e:
        print(f"box.py: {e}", file=sys.stderr)
        sys.exit(NOT_HERE)
    pid = os.fork()
    if pid == 0:
        try:
            inside(args, own_user_space)
        except BaseException as e:
            print(f"box.py: {e}", file=sys.stderr, flush=True)
            os._exit(NOT_HERE if isinstance(e, PermissionError) else 1)
    write(os.path.join(args.dir, "pid"), str(pid))
    wait(pid)


if __name__ == "__main__":
    main()
