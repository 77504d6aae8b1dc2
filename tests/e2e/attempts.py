"""Try to reach what no step may reach, and print what came of each attempt. Runs in a step; outside with --harmless.

Arguments: a file of the project, the store, a file of the home, a socket's path, an abstract socket's name, a port.
"""

import ctypes
import os
import socket
import stat
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
INTEL = os.uname().machine == "x86_64"  # other machines have the numbers of asm-generic/unistd.h
ADD_KEY, KEYCTL, BPF, INIT_MODULE = (248, 250, 321, 175) if INTEL else (217, 219, 280, 105)
NAME_TO_HANDLE, OPEN_BY_HANDLE = (303, 304) if INTEL else (264, 265)
AT_FDCWD, MS_REMOUNT_BIND, MNT_DETACH = -100, 0x1020, 2


def checked(result):
    """Raise the error of a call of libc."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def attempt(name, call, *arguments):
    """Try a call and print whether it did what it should not."""
    try:
        call(*arguments)
    except OSError as error:
        outcome = error.strerror
    else:
        outcome = "reached"
    sys.stdout.write(f"{name}: {outcome}\n")


def read(path):
    """Read a byte of a file, or a name of a folder."""
    if os.path.isdir(path):
        if not os.listdir(path):
            raise FileNotFoundError(2, "empty")
        return
    with open(path, "rb") as stream:
        stream.read(1)


def write(path):
    """Open a file for writing without making one."""
    os.close(os.open(path, os.O_WRONLY))


def make(folder):
    """Make a file in a folder."""
    path = f"{folder}/forge-e2e-made-{os.getpid()}"
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    os.unlink(path)


def connect(family, address):
    """Connect to a socket."""
    with socket.socket(family) as client:
        client.connect(address)


def other_process():
    """Find a process that is neither this one nor above it in the sandbox."""
    if not any(int(pid) not in (1, os.getpid(), os.getppid()) for pid in os.listdir("/proc") if pid.isdecimal()):
        raise ProcessLookupError(3, "none is seen")


def trace(pid):
    """Attach to a process and let go of it."""
    attach, detach = 0x4206, 17  # PTRACE_SEIZE
    checked(libc.ptrace(attach, pid, None, None))
    libc.ptrace(detach, pid, None, None)


def descriptors_of(pid):
    """Open what another process has open."""
    for number in os.listdir(f"/proc/{pid}/fd"):
        os.stat(f"/proc/{pid}/fd/{number}")
        return
    raise FileNotFoundError(2, "none")


def by_handle(path):
    """Open the root of a file system by its handle, as if nothing were mounted over the rest of it."""
    handle, mount_id = ctypes.create_string_buffer(struct.pack("Ii", 128, 0), 136), ctypes.c_int()
    checked(libc.syscall(NAME_TO_HANDLE, AT_FDCWD, os.fsencode(path), handle, ctypes.byref(mount_id), 0))
    place = os.open(path, os.O_RDONLY)
    checked(libc.syscall(OPEN_BY_HANDLE, place, handle, os.O_RDONLY))


def node(kind, major, minor):
    """Make a device node and open it."""
    path = f"/tmp/forge-e2e-node-{os.getpid()}"
    os.mknod(path, kind | 0o600, os.makedev(major, minor))
    try:
        os.close(os.open(path, os.O_RDONLY))
    finally:
        os.unlink(path)


def mount(source, target, kind, flags=0):
    """Mount something."""
    words = [None if text is None else text.encode() for text in (source, target, kind)]
    checked(libc.mount(*words, ctypes.c_ulong(flags), None))


def keyring():
    """Ask for the keyring of this user."""
    get, user, create = 0, -4, 1
    checked(libc.syscall(KEYCTL, get, user, create, 0, 0))


def clock():
    """Set the clock to what it is."""
    checked(libc.clock_settime(0, struct.pack("qq", *divmod(time.time_ns(), 10**9))))


def harmless(words):
    """Try what does no harm where nothing is in the way."""
    project, store, credentials, path, name, port = words
    attempt("read a file of the project", read, project)
    attempt("list the project's folder", read, os.path.dirname(project))
    attempt("list the store", read, store)
    attempt("read a file of the home", read, credentials)
    attempt("read the passwords", read, "/etc/shadow")
    attempt("read the environment of process 1", read, "/proc/1/environ")
    attempt("connect to a socket of the host", connect, socket.AF_UNIX, path)
    attempt("connect to an abstract socket of the host", connect, socket.AF_UNIX, f"\0{name}")
    attempt("connect to a port of the host", connect, socket.AF_INET, ("127.0.0.1", int(port)))
    attempt("see another process", other_process)
    attempt("see what process 1 has open", descriptors_of, 1)
    attempt("open a file by its handle", by_handle, "/usr")
    attempt("make a file in /usr", make, "/usr")
    attempt("ask for the user's keyring", keyring)
    attempt("write to /sys", write, "/sys/module/kernel/parameters/panic")
    attempt("write to /proc/sys", write, "/proc/sys/kernel/panic")
    disk = os.stat("/usr").st_dev
    attempt("read the host's disk", node, stat.S_IFBLK, os.major(disk), os.minor(disk))
    attempt("read a device by a node", node, stat.S_IFCHR, 1, 5)  # zero


def harmful():
    """Try what would change the host."""
    attempt("trace process 1", trace, 1)
    attempt("write to /etc/hosts", write, "/etc/hosts")
    attempt("write to a program", write, "/usr/bin/env")
    attempt("make a file in /etc/ssl/certs", make, "/etc/ssl/certs")
    attempt("read the disk's device", read, "/dev/vda" if os.path.exists("/dev/vda") else "/dev/sda")
    attempt("read the memory", node, stat.S_IFCHR, 1, 1)
    attempt("read the kernel's messages", node, stat.S_IFCHR, 1, 11)
    attempt("mount a file system", mount, "none", "/mnt", "tmpfs")
    attempt("mount /proc anew", mount, "proc", "/mnt", "proc")
    attempt("mount /sys anew", mount, "sysfs", "/mnt", "sysfs")
    attempt("mount the host's disk", mount, "/dev/vda", "/mnt", "ext4")
    for path in ("/usr", "/sys", "/proc/sys", "/run/forge/src/attempts.py"):
        attempt(f"make {path} writable", mount, None, path, None, MS_REMOUNT_BIND)
    attempt("let devices be opened", mount, None, "/run/forge", None, MS_REMOUNT_BIND)
    attempt("see what lies below a mount", lambda: checked(libc.umount2(b"/usr", MNT_DETACH)))
    attempt("load a module", lambda: checked(libc.syscall(INIT_MODULE, b"x", 1, b"")))
    attempt("load a BPF program", lambda: checked(libc.syscall(BPF, 0, struct.pack("IIIII", 1, 4, 4, 1, 0), 20)))
    attempt("add a key", lambda: checked(libc.syscall(ADD_KEY, b"user", b"forge-e2e", b"x", 1, -4)))
    attempt("set the clock", clock)
    attempt("restart the machine", lambda: checked(libc.reboot(0)))
    attempt("read the kernel's log", lambda: checked(libc.klogctl(3, ctypes.create_string_buffer(64), 64)))
    attempt("write to the kernel's log", write, "/dev/kmsg")
    attempt("raise the priority", os.setpriority, os.PRIO_PROCESS, 0, -5)
    os.kill(1, 9)


if sys.argv[1] == "--harmless":
    harmless(sys.argv[2:])
else:
    harmless(sys.argv[1:])
    harmful()
