"""forge doctor: say what this machine lacks for the Forgefile (or, without one, for all rules), and how to mend it."""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress

from forgefile import architectures, engine, host, linux, loader, userns
from forgefile.errors import UsageError
from forgefile.graph import Graph
from forgefile.model import Sandbox, tools
from forgefile.reads import Reads
from forgefile.rules import Debootstrap, Mmdebstrap

SYNOPSIS = "doctor"
SUMMARY = "say what this machine lacks, and the line that mends it"
EXAMPLES = (("forge doctor", "run it first on a new machine"),)

_RULES_TOOLS = ("mmdebstrap", "debootstrap", "sfdisk", "mke2fs", "debugfs", "mkfs.vfat", "mcopy", "grub-mkimage",
                "/usr/lib/grub/i386-pc/kernel.img", "/usr/lib/grub/x86_64-efi/kernel.img", "qemu-img", "ostree", "tar",
                "/usr/share/keyrings/debian-archive-keyring.gpg")  # fmt: skip


def arguments(_parser: argparse.ArgumentParser) -> None:
    """Add nothing: what is looked at follows from the Forgefile."""


def run(options: argparse.Namespace) -> int:
    """Print a line for each thing that is looked at; return 0 when nothing is missing."""
    path = os.path.abspath(options.file)
    foreign: tuple[str, ...] = ()
    if os.path.exists(path):
        graph = loader.load(path, engine.settings(options.define), Reads())
        needed, foreign = _needed(graph), _foreign(graph)
        sys.stdout.write(f"host tools that {os.path.relpath(path)} needs\n")
    else:
        needed = dict.fromkeys(_RULES_TOOLS)
        sys.stdout.write("host tools of the rules that come with forge (there is no Forgefile here)\n")
    missing = [tool for tool in needed if host.find(tool) is None]
    for tool in needed:
        _line(tool not in missing, tool, host.find(tool) or f"missing: package {host.package(tool) or 'unknown'}")
    sys.stdout.write("this machine\n")
    store = _existing(engine.store_of(path, options.store))
    checks = _user(), _namespaces(), _confined(), _store(store), _overlay(store), _disk(store)
    well = [_line(*check) for check in checks]
    for arch in foreign:
        lacking = _lacking(arch)
        well.append(_line(*_programs(arch, lacking)))
        missing += () if well[-1] else lacking
    if line := host.install_line(missing):
        sys.stdout.write(f"\nto mend it:\n  {line}\n")
    sys.stdout.write("\nall is well\n" if all(well) and not missing else "")
    return 0 if all(well) and not missing else 1


def _line(well: bool, what: str, words: str) -> bool:
    sys.stdout.write(f"  {'ok ' if well else 'NO '} {what:<44} {words}\n")
    return well


def _needed(graph: Graph) -> dict[str, None]:
    """Return the host tools that the targets of a Forgefile use."""
    found: dict[str, None] = {}
    for target in graph.targets.values():
        for step in target.rule.steps(Sandbox()):
            found.update(dict.fromkeys(tool for tool in tools(step) if not tool.endswith(".py")))
    return found


def _foreign(graph: Graph) -> tuple[str, ...]:
    """Return the architectures of trees whose programs are not of the machine's own."""
    rules = (target.rule for target in graph.targets.values())
    named = (rule.arch.split(",")[0] for rule in rules if isinstance(rule, (Debootstrap, Mmdebstrap)) and rule.arch)
    return tuple(sorted(set(named) - {architectures.debian(os.uname().machine)}))


def _lacking(arch: str) -> tuple[str, ...]:
    """Return the host tools that are missing to run an architecture's programs."""
    wanted = ("arch-test", "update-binfmts", architectures.emulator(arch))
    return tuple(tool for tool in wanted if host.find(tool) is None)


def _programs(arch: str, lacking: tuple[str, ...]) -> tuple[bool, str, str]:
    """Try a program of an architecture."""
    test = host.find("arch-test")
    well = test is not None and not subprocess.run((test, arch), capture_output=True, check=False).returncode
    packages = " and ".join(sorted({str(host.package(tool)) for tool in lacking}))
    problem = f"missing: {packages}" if lacking else "not registered: update-binfmts --enable; in a container, outside"
    return well, f"programs of {arch}", "run here" if well else problem


def _user() -> tuple[bool, str, str]:
    if not userns.needed():
        return True, "user", "root, who owns what trees hold"
    problem = _tried(userns.enter)
    return not problem, "user", problem or "an ordinary user, who is root in a user namespace with 65,536 ids"


def _confined() -> tuple[bool, str, str]:
    def attempt() -> None:
        userns.enter()
        userns.confine()

    problem = _tried(attempt)
    return not problem, "steps that mount", problem or "a user namespace of their own confines them"


def _namespaces() -> tuple[bool, str, str]:
    everything = linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS

    def attempt() -> None:
        userns.enter()
        linux.unshare(everything)

    problem = _tried(attempt)
    return not problem, "namespaces", problem or "mount, PID, network, IPC and UTS namespaces can be made"


def _existing(path: str) -> str:
    """Return the nearest folder of a path that is there."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _store(store: str) -> tuple[bool, str, str]:
    well = os.access(store, os.R_OK | os.W_OK | os.X_OK)
    return well, "store", "can be written" if well else f"{store} cannot be written: be its owner, or name --store"


def _overlay(store: str) -> tuple[bool, str, str]:
    with tempfile.TemporaryDirectory(dir=store if os.access(store, os.W_OK) else None) as folder:
        for name in ("lower", "empty", "upper", "work", "at"):
            os.mkdir(os.path.join(folder, name))

        def attempt() -> None:
            userns.enter()
            linux.unshare(linux.CLONE_NEWNS)
            linux.mount(None, "/", flags=linux.MS_REC | linux.MS_PRIVATE)
            os.chdir(folder)
            linux.mount("forge", "at", "overlay", 0, "userxattr,lowerdir=lower:empty,upperdir=upper,workdir=work")
            linux.make_read_only("at")

        problem = _tried(attempt)
    words = "trees can be stacked in the store's file system"
    return not problem, "overlayfs", f"{problem}: put the store on ext4, xfs or btrfs (--store)" if problem else words


def _disk(store: str) -> tuple[bool, str, str]:
    status = os.statvfs(store)
    free = status.f_bavail * status.f_frsize
    return free > 4 << 30, "disk", f"{free >> 30} GiB are free for it; a Debian image with its layers takes 2 to 4"


def _tried(attempt: Callable[[], None]) -> str | None:
    """Try something in a process of its own; return what went wrong."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with suppress(OSError):
            try:
                attempt()
            except OSError as error:
                os.write(write, (error.strerror or str(error)).encode())
            except UsageError as error:
                os.write(write, f"{error.message} ({error.hint})".encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with open(read, "rb") as stream:
        return stream.read().decode() or None
