"""The few system calls that Python lacks, as functions that raise OSError. Unaware of what they are used for.

Facts: mount(2), mount_setattr(2), unshare(2), clone(2), pivot_root(2), prctl(2), seccomp(2), capabilities(7),
netdevice(7). Numbers are those of the x86-64, arm64 and riscv64 ABIs, checked against asm/unistd.h.
"""

import ctypes
import fcntl
import os
import platform
import socket
import struct
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000

_GENERIC = {"clone": 220, "pivot_root": 41, "sync": 81, "fsync": 82, "fdatasync": 83, "sync_file_range": 84,
            "syncfs": 267, "msync": 227}  # fmt: skip
_SYSCALLS = {
    "x86_64": {"clone": 56, "pivot_root": 155, "sync": 162, "fsync": 74, "fdatasync": 75, "sync_file_range": 277,
               "syncfs": 306, "msync": 26},
    "aarch64": _GENERIC,
    "riscv64": _GENERIC,
}  # fmt: skip
_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7, "riscv64": 0xC00000F3}
_MOUNT_SETATTR = 442
_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_CAPBSET_DROP = 1, 22, 24
_PR_SET_CHILD_SUBREAPER, _PR_SET_NO_NEW_PRIVS, _PR_GET_TID_ADDRESS = 36, 38, 40
_CLONE_CHILD_CLEARTID, _CLONE_CHILD_SETTID, _SIGCHLD = 0x200000, 0x1000000, 17
_python = ctypes.PyDLL(None, use_errno=True)
"""Calls that keep the interpreter to themselves."""


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result


def mount(source: str | None, target: str, kind: str | None = None, flags: int = 0, data: str | None = None) -> None:
    """Attach a file system, as the manual page says."""
    raw: list[Any] = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    _checked(_libc.mount(raw[0], raw[1], raw[2], ctypes.c_ulong(flags), raw[3]), target)


def bind(source: str, target: str, *, read_only: bool = False) -> None:
    """Show what is at `source`, with all mounts below it, also at `target`."""
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        make_read_only(target)


def make_read_only(target: str) -> None:
    """Make a mount and all mounts below it read-only (needs Linux 5.12)."""
    attributes = struct.pack("QQQQ", MS_RDONLY, 0, 0, 0)
    call = _libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, os.fsencode(target), _AT_RECURSIVE, attributes, len(attributes))
    _checked(call, target)


def unmount(target: str) -> None:
    """Take a mount away, at the latest when nothing uses it."""
    _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), target)


def unshare(flags: int) -> None:
    """Leave the namespaces that `flags` names for new ones."""
    _checked(_libc.unshare(flags), "unshare")


def fork(flags: int) -> int:
    """Fork as os.fork does, with the child in the new namespaces that `flags` names.

    unshare(2) would take another fork for a new PID namespace, and to fork is most of what a small step costs.
    """
    thread = ctypes.c_void_p()  # where libc has this thread's id, as it hands it to the kernel in fork(3)
    _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(thread), 0, 0, 0)
    flags |= _CLONE_CHILD_SETTID | _CLONE_CHILD_CLEARTID | _SIGCHLD
    number = _SYSCALLS[platform.machine()]["clone"]
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


def pivot_root(root: str) -> None:
    """Make the mount `root` the root of this mount namespace and let go of all others."""
    os.chdir(root)
    _checked(_libc.syscall(_SYSCALLS[platform.machine()]["pivot_root"], b".", b"."), root)
    unmount(".")
    os.chdir("/")


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that made it ends."""
    _checked(_libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0), "prctl")


def adopt_orphans() -> None:
    """Become the parent of what this process's children leave behind, so that it can be waited for."""
    _checked(_libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl")


def drop_capabilities(numbers: tuple[int, ...]) -> None:
    """Take capabilities from all programs that this process and its children will execute."""
    for number in numbers:
        _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)


def loopback_up() -> None:
    """Bring up the loopback device of this network namespace."""
    siocsifflags, iff_up = 0x8914, 1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, siocsifflags, struct.pack("16sH14x", b"lo", iff_up))


def ignore_sync() -> None:
    """Make fsync(2) and its relatives succeed at once for this process and its children.

    What a step writes is staged: after a crash of the machine it is thrown away or digested anew, so waiting for the
    disk wins nothing. Does nothing on machines whose system calls are not known here.
    """
    machine = platform.machine()
    if machine not in _SYSCALLS:
        return
    numbers = [n for name, n in _SYSCALLS[machine].items() if name not in ("clone", "pivot_root")]
    load, equal, answer = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    allow, succeed = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with errno 0
    code = [(load, 0, 0, 4), (equal, 0, len(numbers) + 1, _AUDIT_ARCH[machine]), (load, 0, 0, 0)]
    code += [(equal, len(numbers) - i, 0, number) for i, number in enumerate(numbers)]
    code += [(answer, 0, 0, allow), (answer, 0, 0, succeed)]
    block = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code), ctypes.addressof(block)))
    if _libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0) < 0:
        _checked(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
        _checked(_libc.prctl(_PR_SET_SECCOMP, 2, program, 0, 0), "prctl")
