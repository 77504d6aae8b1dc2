"""Bring a Debian tree into the state that is the same whenever it is made. Runs inside the tree.

What two installations of the same packages differ in, as measured for mmdebstrap, debootstrap and apt in bookworm and
trixie: logs, caches, the machine's identity and the keys that packages make for it.
"""

import glob
import os
from contextlib import suppress

from forgefile.files import remove_tree

_MACHINE_ID = "/etc/machine-id"
_IDENTITY = ("/etc/ssh/ssh_host_*_key", "/etc/ssh/ssh_host_*_key.pub", "/var/lib/dbus/machine-id")
"""What belongs to one machine only, and packages make where it is missing."""
_REMOVED = (
    *_IDENTITY,
    "/var/cache/apt/*.bin",
    "/var/cache/apt/archives/*.deb",
    "/var/cache/apt/archives/lock",
    "/var/cache/apt/archives/partial",
    "/var/cache/debconf/*-old",
    "/var/cache/ldconfig/aux-cache",
    "/var/lib/apt/lists/*",
    "/var/lib/dpkg/*-old",
    "/var/lib/systemd/catalog/database.new",
    "/var/lib/systemd/random-seed",
    "/var/log/alternatives.log",
    "/var/log/apt/*",
    "/var/log/bootstrap.log",
    "/var/log/dpkg.log",
)
_EMPTIED = ("/dev", "/tmp", "/var/tmp")

# An initial ram disk is made once for each kernel, when all packages are there. dpkg would make it when the kernel is
# configured and again for a trigger: half of the time that a kernel's installation takes. First in dpkg's PATH,
# DEFER_INITRAMFS stands in for mkinitramfs(8) where update-initramfs(8) calls it; MAKE_INITRAMFS, run in the tree,
# makes what is still a placeholder then, and boot loaders' hooks run again with the real one.
DEFER_INITRAMFS = """\
#!/bin/sh
case "$*" in
    *"-o /boot/initrd.img-"*.new\\ *)
        while [ "$1" != -o ]; do shift; done
        echo forge: deferred >"$2"
        ;;
    *) exec /usr/sbin/mkinitramfs "$@" ;;
esac
"""
MAKE_INITRAMFS = """\
for initrd in /boot/initrd.img-*; do
    if [ -f "$initrd" ] && [ "$(head --bytes=15 "$initrd" | tr -d '\\0')" = 'forge: deferred' ]; then
        update-initramfs -c -k "${initrd#/boot/initrd.img-}"
    fi
done
"""


def note_identity(file: str) -> None:
    """Write to a file the paths of the keys and the machine id that are in the tree already, for `settle` to keep."""
    there = [path for pattern in (*_IDENTITY, _MACHINE_ID) for path in glob.glob(pattern)]
    with open(file, "w", encoding="utf-8", errors="surrogateescape") as stream:
        stream.writelines(f"{path}\n" for path in there if os.lstat(path).st_size)


def settle(noted: str | None) -> None:
    """Remove what differs from run to run or belongs to one machine only, but for what `note_identity` has noted.

    The machine id becomes an empty file, which systemd fills on the first boot (machine-id(5)). SSH host keys are
    removed: an image must not give the same key to every machine, unless somebody laid it there on purpose.
    """
    kept: set[str] = set()
    if noted is not None:
        with open(noted, encoding="utf-8", errors="surrogateescape") as stream:
            kept.update(stream.read().splitlines())
    for pattern in _REMOVED:
        for path in set(glob.glob(pattern)) - kept:
            remove_tree(path)
    for folder in _EMPTIED:
        with suppress(FileNotFoundError, NotADirectoryError):
            empty(folder)
    if _MACHINE_ID not in kept and (os.path.lexists(_MACHINE_ID) or os.path.isdir("/etc/systemd")):
        with open(_MACHINE_ID, "w", encoding="ascii"):
            pass


def empty(folder: str) -> None:
    """Remove what a folder holds."""
    for name in os.listdir(folder):
        remove_tree(f"{folder}/{name}")


def forget_host(_: object) -> None:
    """Remove what a bootstrap tool took from the host or was told for itself: resolver, name, apt's options."""
    for path in ("/etc/resolv.conf", "/etc/apt/apt.conf.d/99mmdebstrap"):
        with suppress(FileNotFoundError):
            os.unlink(path)
    with open("/etc/hostname", "w", encoding="ascii") as stream:
        stream.write("localhost\n")
