"""The files of a new project: a Forgefile that builds and boots, with comments that teach, and what it needs.

`files` has the texts, `write` puts them where nothing is yet. Unaware of who asks for them, and of how anything is
built.
"""

import os
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from forgefile.errors import UsageError

SUITES = ("bookworm", "trixie")
OUTPUTS = {"disk": "disk.img", "qcow2": "disk.qcow2", "tar": "system.tar.zst"}
"""What a new project can make, and the name of the target."""


class Answers(NamedTuple):
    """What a new project is to be."""

    name: str
    """The host's name; see `name_problem`."""
    suite: str = SUITES[0]
    output: str = "disk"
    """One of `OUTPUTS`."""


def name_problem(name: str) -> str | None:
    """Return why a text cannot be the name of a host (hostname(7)), or None."""
    if re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name):
        return None
    return f"{name!r} cannot be a host's name: it has 1 to 63 of a-z, 0-9 and '-', which is neither first nor last"


def name_of(folder: str) -> str:
    """Return the name of a host that is nearest to that of a folder."""
    plain = re.sub(r"[^a-z0-9]+", "-", os.path.basename(os.path.abspath(folder)).lower())
    return plain[:63].strip("-") or "debian"


# Texts ---------------------------------------------------------------------------------------------------------------

_HEAD = '''\
"""{name}: {what}.

forge reads this file, builds what it declares, and after a change only what the change reaches:

    forge --dry-run    what would be built, why, and how long that takes
    forge              build it
    forge list         the targets and options that are declared here
"""

from forgefile import Forge
from forgefile.rules import (
    {rules},
)


def build(forge: Forge) -> None:
    # What `forge -D suite={other}` sets. It rebuilds what it is put into, and nothing else.
    suite = forge.option("suite", "{suite}", choices={suites})

    # A target has a name and a rule. What is returned is a handle, which the next rule takes.
    # This one is a tree: the root file system of a small Debian.
    rootfs = forge.target("rootfs", Mmdebstrap(suite=suite, variant="minbase"))

    # A layer of packages on that tree. Add names here: rootfs is not built again for it.
    packages = forge.target("packages", Apt(
        base=rootfs,
        packages={packages},
    ))

    # Your own files: what lies in overlay/ comes into the tree, with its modes, as root's.
    overlay = forge.source("overlay")
    system = forge.target("system", Overlay(base=packages, source=overlay))

    # A script that runs in the tree, without a network: for what files alone cannot say.
    script = forge.source("tune.sh")
    tuned = forge.target("tuned", Script(base=system, script=script))
'''
_DISK = """
    # The disk: a partition for BIOS, one for UEFI, and one that has the tree.
    root = Ext4(label="root")
    {disk}forge.target("disk.img", DiskImage(
        partitions=(
            Partition("bios", type="bios-boot", size="1MiB"),
            Partition("esp", type="esp", size="48MiB", filesystem=Vfat(label="ESP")),
            Partition("root", type="root", filesystem=root, tree=tuned, minimum_free="256MiB"),
        ),
        bootloader=Grub(bios=True, uefi=True, cmdline="console=ttyS0 rw"),
    ))
"""
_QCOW2 = """
    # The same disk for a virtual machine. `forge` alone builds the default, and what that needs.
    qcow2 = forge.target("disk.qcow2", QemuImage(disk=disk, format="qcow2"))
    forge.default(qcow2)
"""
_TAR = """
    # The tree in one file, with its owners and modes.
    forge.target("system.tar.zst", Pack(tree=tuned, compression="zstd"))
"""
_TUNE = """\
#!/bin/sh
# Runs in the tree, after the packages and the overlay. Given the same tree, it has to leave the same.
set -eu

# Log in as root, with no password. That is for trying out: take it away before this comes near a network.
passwd --quiet --delete root
"""
_BOOTABLE = ("systemd-sysv", "udev", "linux-image-cloud-amd64", "initramfs-tools")
_TREE_RULES = ("Apt", "Mmdebstrap", "Overlay", "Script")
_DISK_RULES = ("DiskImage", "Ext4", "Grub", "Partition", "Vfat")


def files(answers: Answers) -> dict[str, str]:
    """Return the files of a new project, beside the Forgefile's own "": path → text."""
    rules = {"disk": _DISK_RULES, "qcow2": (*_DISK_RULES, "QemuImage"), "tar": ("Pack",)}[answers.output]
    text = _HEAD.format(
        name=answers.name,
        what="a Debian system in an archive" if answers.output == "tar" else "a Debian system on a disk that boots",
        rules=", ".join(sorted((*_TREE_RULES, *rules))),
        suite=answers.suite,
        suites=_literal(SUITES),
        other=next(suite for suite in SUITES if suite != answers.suite),
        packages=_literal(("systemd-sysv", "iproute2") if answers.output == "tar" else _BOOTABLE),
    )
    disk = _DISK.format(disk="disk = " if answers.output == "qcow2" else "")
    return {
        "overlay/etc/hostname": f"{answers.name}\n",
        "overlay/etc/motd": f"Welcome to {answers.name}, made by forge.\n",
        "tune.sh": _TUNE,
        "": text + {"disk": disk, "qcow2": disk + _QCOW2, "tar": _TAR}[answers.output],
    }


def _literal(words: tuple[str, ...]) -> str:
    """Return a tuple of at least two words as Python writes it with double quotes."""
    return "({})".format(", ".join(f'"{word}"' for word in words))


# Writing -------------------------------------------------------------------------------------------------------------


def refuse_overwriting(file: str, texts: Mapping[str, str]) -> None:
    """Raise `UsageError` when something lies where a new project's Forgefile `file` and its other files would."""
    folder = os.path.dirname(file)
    tops = sorted({name.partition("/")[0] for name in texts if name})
    there = [path for path in (file, *(os.path.join(folder, top) for top in tops)) if os.path.lexists(path)]
    if there:
        names = ", ".join(os.path.relpath(path) for path in there)
        raise UsageError(
            f"{names} {'is' if len(there) == 1 else 'are'} there already, and forge init overwrites nothing",
            hint="name a new folder: forge init DIR",
        )


def write(file: str, texts: Mapping[str, str], ignored: tuple[str, ...]) -> None:
    """Write the Forgefile `file`, an absolute path, and the files beside it; add lines to .gitignore.

    Raises `UsageError` when something is there, or cannot be written; then, and at an interrupt, all is as it was.
    """
    refuse_overwriting(file, texts)
    folder, undo = os.path.dirname(file), list[Callable[[], object]]()
    try:
        for name, text in texts.items():
            path = os.path.join(folder, name) if name else file
            _make_folders(os.path.dirname(path), undo)
            with open(path, "x", encoding="utf-8") as stream:
                undo.append(partial(os.unlink, path))
                stream.write(text)
            os.chmod(path, 0o755 if text.startswith("#!") else 0o644)  # images get these modes, whatever the umask
        _ignore(os.path.join(folder, ".gitignore"), ignored, undo)
    except BaseException as error:
        for each in reversed(undo):
            with suppress(OSError):
                each()
        if isinstance(error, OSError):
            where = os.path.relpath(error.filename or folder)
            raise UsageError(f"{where}: {error.strerror}", hint="nothing was written") from None
        raise


def _make_folders(path: str, undo: list[Callable[[], object]]) -> None:
    """Make a folder and those that it lies in, as far as they are missing."""
    if os.path.isdir(path):
        return
    _make_folders(os.path.dirname(path), undo)
    os.mkdir(path)
    undo.append(partial(os.rmdir, path))
    os.chmod(path, 0o755)


def _ignore(path: str, names: tuple[str, ...], undo: list[Callable[[], object]]) -> None:
    """Add to a .gitignore those names that it has not."""
    text = b""
    if os.path.lexists(path):
        if os.path.islink(path) or not os.path.isfile(path):
            raise UsageError(f"{os.path.relpath(path)} is no plain file", hint="move it away, or name a new folder")
        with open(path, "rb") as stream:
            text = stream.read()
        undo.append(partial(os.truncate, path, len(text)))
    else:
        undo.append(partial(os.unlink, path))
    has = {line.strip().strip(b"/") for line in text.splitlines()}
    new = [name for name in names if name.strip("/").encode() not in has]
    if new:
        head = "\n" if text and not text.endswith(b"\n") else ""
        with open(path, "a", encoding="utf-8") as stream:
            stream.write(head + "".join(f"{name}\n" for name in new))
