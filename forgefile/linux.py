"""The few system calls that Python lacks, as functions that raise OSError. Unaware of what they are used for.

Facts: mount(2), mount_setattr(2), unshare(2), setns(2), clone(2), pivot_root(2), prctl(2), seccomp(2), capabilities(7),
netdevice(7). Numbers are those of the x86-64, i386, arm64 and riscv64 ABIs, checked against asm/unistd.h.
"""

import ctypes
import fcntl
import os
import stat
import struct
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

CLONE_PARENT = 0x8000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

_SYNC = ("sync", "fsync", "fdatasync", "sync_file_range", "syncfs", "msync")
_KEYS = ("add_key", "request_key", "keyctl")
_GENERIC = {"clone": 220, "pivot_root": 41, "sync": 81, "fsync": 82, "fdatasync": 83, "sync_file_range": 84,
            "syncfs": 267, "msync": 227, "add_key": 217, "request_key": 218, "keyctl": 219}  # fmt: skip
_SYSCALLS = {
    "x86_64": {"clone": 56, "pivot_root": 155, "sync": 162, "fsync": 74, "fdatasync": 75, "sync_file_range": 277,
               "syncfs": 306, "msync": 26, "add_key": 248, "request_key": 249, "keyctl": 250},
    "i386": {"sync": 36, "fsync": 118, "fdatasync": 148, "sync_file_range": 314, "syncfs": 344, "msync": 144,
             "add_key": 286, "request_key": 287, "keyctl": 288},
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
}  # fmt: skip
_ALSO = {"x86_64": ("i386",)}
"""The ABIs that a machine's programs can use beside its own."""
_AUDIT_ARCH = {"x86_64": 0xC000003E, "i386": 0x40000003, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}
_MOUNT_SETATTR = 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_CAPBSET_READ, _PR_CAPBSET_DROP = 1, 4, 22, 23, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_GET_TID_ADDRESS, _PR_CAP_AMBIENT = 36, 38, 40, 47
_PR_CAP_AMBIENT_CLEAR_ALL, _CAPABILITY_VERSION_3 = 4, 0x20080522
_CLONE_CHILD_CLEARTID, _CLONE_CHILD_SETTID, _SIGCHLD = 0x200000, 0x1000000, 17
_python = ctypes.PyDLL(None, use_errno=True)
"""Calls that keep the interpreter to themselves."""


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


Prepared = tuple[Any, ...]
"""A system call to be made: a function of libc, its arguments, and what an error is about.

A process that was just forked copies each page of memory that it touches, and Python touches many. What can be prepared
is therefore prepared before the fork, and `make` does the rest.
"""


def make(calls: Iterable[Prepared]) -> None:
    """Make system calls, one after another; raise OSError for the first that fails."""
    for function, *arguments, what in calls:
        if function(*arguments) < 0:
            _checked(-1, what)


def mounting(
    source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str | None = None
) -> Prepared:
    """Return the call that attaches a file system, as the manual page says."""
    raw: list[Any] = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    return _libc.mount, *raw[:3], ctypes.c_ulong(flags), raw[3], target


def binding(source: str, target: str, *, read_only: bool = False) -> tuple[Prepared, ...]:
    """Return the calls that show what is at `source`, with all mounts below it, also at `target`."""
    bound = mounting(source, target, flags=MS_BIND | MS_REC)
    return (bound, making_read_only(target)) if read_only else (bound,)


def entering(root: str) -> tuple[Prepared, ...]:
    """Return the calls that make the mount `root` the root of this mount namespace and let go of all others."""
    here = b"."
    return (
        (_libc.chdir, os.fsencode(root), root),
        (_libc.syscall, _SYSCALLS[os.uname().machine]["pivot_root"], here, here, root),
        (_libc.umount2, here, MNT_DETACH, root),
        (_libc.chdir, b"/", "/"),
    )


def making_folder(path: str, mode: int) -> Prepared:
    """Return the call that makes a folder."""
    return _libc.mkdir, os.fsencode(path), mode, path


def making_file(path: str, mode: int) -> Prepared:
    """Return the call that makes an empty file."""
    return _libc.mknod, os.fsencode(path), stat.S_IFREG | mode, ctypes.c_ulong(0), path


def linking(to: str, path: str) -> Prepared:
    """Return the call that makes a symbolic link."""
    return _libc.symlink, os.fsencode(to), os.fsencode(path), path


def forbidding_devices(target: str) -> Prepared:
    """Return the call of `forbid_devices`."""
    return _attributes(target, _AT_RECURSIVE, MS_NODEV, 0)


def naming_host(name: str) -> Prepared:
    """Return the call that names this UTS namespace's host."""
    return _libc.sethostname, name.encode(), len(name), "sethostname"


def joining(namespace: int, kind: int) -> Prepared:
    """Return the call by which this process enters a namespace, given as a file descriptor, of a kind CLONE_NEW…."""
    return _libc.setns, namespace, kind, "setns"


def mount(source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """Attach a file system, as the manual page says."""
    make((mounting(source, target, kind, flags, data),))


def file_system(path: str) -> int:
    """Return the type of the file system that holds a path, by its number in statfs(2)."""
    buffer = ctypes.create_string_buffer(256)
    _checked(_libc.statfs(os.fsencode(path), buffer), path)
    return ctypes.c_long.from_buffer(buffer).value


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Show what is at `source`, with all mounts below it, also at `target`."""
    make(binding(source, target, read_only=read_only))


def make_read_only(target: str) -> None:
    """Make a mount and all mounts below it read-only (needs Linux 5.12)."""
    make((making_read_only(target),))


def making_read_only(target: str) -> Prepared:
    """Return the call of `make_read_only`."""
    return _attributes(target, _AT_RECURSIVE, MS_RDONLY, 0)


def make_writable(target: str) -> None:
    """Make a mount writable, but none below it."""
    make((making_writable(target),))


def making_writable(target: str) -> Prepared:
    """Return the call of `make_writable`."""
    return _attributes(target, 0, 0, MS_RDONLY)


def forbid_devices(target: str) -> None:
    """Let no device be opened by a node in a mount and in all mounts below it (needs Linux 5.12)."""
    make((forbidding_devices(target),))


def _attributes(target: str, flags: int, on: int, off: int) -> Prepared:
    attributes = struct.pack("QQQQ", on, off, 0, 0)  # of these, MOUNT_ATTR_ has the numbers of MS_
    return _libc.syscall, _MOUNT_SETATTR, _AT_FDCWD, os.fsencode(target), flags, attributes, len(attributes), target


def unmount(target: str) -> None:
    """Take a mount away, at the latest when nothing uses it."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), target)


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` names for new ones."""
    _checked(_libc.unshare(flags), "unshare")


def leave_mounts() -> None:
    """Leave the mount namespace of the host for one that nobody else sees, for good."""
    unshare(CLONE_NEWNS)
    mount(None, "/", flags=MS_REC | MS_PRIVATE)


@contextmanager
def more_mounts() -> Iterator[None]:
    """Work where mounts can be added to those that this process has. They are gone afterwards.

    Call in a process that has one thread and has left the host's mounts; its current folder is / afterwards.
    """
    before = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        unshare(CLONE_NEWNS)
        try:
            yield
        finally:
            _checked(_libc.setns(before, CLONE_NEWNS), "setns")
    finally:
        os.close(before)


def fork(flags: int) -> int:
    """Fork as os.fork does, with the child in the new namespaces that `flags` names, or a child of this one's parent.

    unshare(2) would take another fork for a new PID namespace, and to fork is most of what a small step costs.
    """
    thread = ctypes.c_void_p()  # where libc has this thread's id, as it hands it to the kernel in fork(3)
    _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(thread), 0, 0, 0)
    flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID | _SIGCHLD
    number = _SYSCALLS[os.uname().machine]["clone"]
    _python.PyOS_BeforeFork()
    # Of the last two, x86-64 takes the first for the child's thread and the others the second.
    child = int(_python.syscall(number, ctypes.c_ulong(flags), None, None, thread, thread))
    error = ctypes.get_errno()
    if child:
        _python.PyOS_AfterFork_Parent()
    else:
        _python.PyOS_AfterFork_Child()
    ctypes.set_errno(error)
    return _checked(child, "clone")


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that made it ends."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl")


def adopt_orphans() -> None:
    """Become the parent of what this process's children leave behind, so that it can be waited for."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def hide_memory() -> None:
    """Keep other processes out of what /proc shows of this one and from tracing it, until it executes a program."""
    _checked(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl")


def bound_capabilities(numbers: Collection[int]) -> None:
    """Let this process and its children get no capabilities but these by executing a program; what it has, it keeps."""
    for number in range(_capabilities()):
        if number not in numbers:
            _checked(_libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), "prctl")


@cache
def _capabilities() -> int:
    """Return how many capabilities the kernel has."""
    number = 0
    while _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) >= 0:
        number += 1
    return number


def keep_capabilities(numbers: Collection[int]) -> None:
    """Take all capabilities but these from this process, and those that a program would get without asking."""
    _checked(_libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "prctl")
    header, sets = struct.pack("Ii", _CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
    _checked(_libc.capget(header, sets), "capget")
    kept = sum(1 << number for number in numbers)
    words = struct.unpack("6I", sets)  # effective, permitted, inheritable: the lower halves, then the upper
    low, high = words[1] & kept, words[4] & kept >> 32
    _checked(_libc.capset(header, struct.pack("6I", low, low, 0, high, high, 0)), "capset")


def loopback_up() -> None:
    """Bring up the loopback device of this network namespace."""
    af_inet, sock_dgram, siocsifflags, iff_up = 2, 2, 0x8914, 1
    control = _checked(_libc.socket(af_inet, sock_dgram, 0), "socket")
    try:
        fcntl.ioctl(control, siocsifflags, struct.pack("16sH14x", b"lo", iff_up))
    finally:
        os.close(control)


def filter_calls() -> None:
    """Let fsync(2) and its relatives succeed at once, and keyrings(7) be missing, for this process and its children.

    What a step writes is staged: after a crash of the machine it is thrown away or digested anew, so waiting for the
    disk wins nothing. Keyrings are the one thing that no namespace parts from those of the host. Does nothing on
    machines whose system calls are not known here.
    """
    machine = os.uname().machine
    if machine not in _SYSCALLS:
        return
    allow, succeed, missing = 0x7FFF0000, 0x00050000, 0x00050026  # SECCOMP_RET_ALLOW, _ERRNO with 0 and with ENOSYS
    load, mask, equal, answer = 0x20, 0x54, 0x15, 0x06  # BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_JMP|JEQ|K, BPF_RET|K
    code = [(load, 0, 0, 4)]
    for abi in (machine, *_ALSO.get(machine, ())):
        calls = [(load, 0, 0, 0), (mask, 0, 0, 0xBFFFFFFF)]  # x32 sets one bit in the numbers of x86-64
        for name in (*_SYNC, *_KEYS):
            calls += [(equal, 0, 1, _SYSCALLS[abi][name]), (answer, 0, 0, succeed if name in _SYNC else missing)]
        calls.append((answer, 0, 0, allow))
        code += [(equal, 0, len(calls), _AUDIT_ARCH[abi]), *calls]
    code.append((answer, 0, 0, allow))
    block = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(block)))
    if _libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0) < 0:
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
        _checked(_libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0), "prctl")
