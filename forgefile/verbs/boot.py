"""forge boot: build a disk image if need be, and run it in QEMU with its serial console on the terminal.

What forge says goes to standard error, so that standard output has the console and nothing else. The store's lock is
not held while the machine runs. QEMU keeps what the machine writes in a file without a name, so nothing is left behind
however it ends, and any number of machines may run one image.
"""

import argparse
import os
import socket
import sys
import tempfile
import time
from contextlib import suppress
from typing import NamedTuple

from forgefile import engine, foreground, host, kvm, units
from forgefile.errors import BuildError, UsageError
from forgefile.files import copy_file
from forgefile.model import Target
from forgefile.programs.machine import KINDS, Image, Machine, command, explained, look, tools
from forgefile.report import EVERY_LINE, form_for, reporter
from forgefile.verbs import one

SYNOPSIS = "boot [DISK] [-- …]"
SUMMARY = "build a disk image if need be, and run it in QEMU"
EXAMPLES = (
    ("forge boot disk.img", "the console is on the terminal; Ctrl-A X ends the machine"),
    ("forge boot --ssh 2222 disk.img", "and ssh -p 2222 root@127.0.0.1 reaches it"),
    ("forge boot disk.img -- -vnc :1", "QEMU gets what follows --"),
)
_BEGAN = time.monotonic()
_SSH_PORT = 2222
_MEMORY = 2 << 30
_CPUS = 4
_NAMES = {"bios": "BIOS", "uefi": "UEFI"}
_WAY_OUT = "Ctrl-A X ends the machine, Ctrl-A C is QEMU's monitor and back, Ctrl-A H tells more"


def _clock() -> float:
    return time.monotonic() - _BEGAN


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    add = parser.add_argument
    parser.usage = "forge boot [OPTION…] [DISK] [-- OPTION OF QEMU…]"
    parser.set_defaults(passed=())
    add("word", nargs="?", metavar="DISK", help="a file target (default: the Forgefile's default one)")
    add("--firmware", choices=("bios", "uefi"), help="what starts it (default: bios if the image can, else uefi)")
    add("--arch", choices=tuple(KINDS), help="the machine's architecture (default: as the image says)")
    add("--accel", choices=("kvm", "tcg"), help="who runs its code (default: kvm if a guest that is tried runs)")
    add("--memory", type=_size, metavar="SIZE", help="default: 2GiB, or half of what this machine has")
    add("--cpus", type=_count, metavar="N", help=f"default: all cores, but at most {_CPUS}")
    help_ = f"lead PORT of this machine to its port 22 (default: {_SSH_PORT}, or one that is free)"
    add("--ssh", nargs="?", const="", metavar="PORT", help=help_)
    add("--write", action="store_true", help="let it write into the image, which the next build makes anew")


def _size(text: str) -> int:
    try:
        size = units.size_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if size < 1 << 20:
        raise argparse.ArgumentTypeError(f"{text} is less than 1MiB")
    return size


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


def run(options: argparse.Namespace) -> int:
    """Boot an image; return the exit status."""
    if options.ssh and not options.ssh.isdecimal() and options.word is None:  # `--ssh DISK`
        options.word, options.ssh = options.ssh, ""
    port = None if options.ssh is None else _port(options.ssh)
    built = _built(options)
    if isinstance(built, int):
        return built
    with tempfile.TemporaryDirectory(prefix="forge-boot-") as folder:
        image = look(built.path, f"{folder}/head")
    machine, why = _machine(built, image, options)
    program = _program(built, machine)
    name = built.target.name
    how = f"with KVM{why}" if machine.accel == "kvm" else f"emulated (TCG){why}"
    _tell(f"{name} boots through {_NAMES[machine.firmware]}, {how}")
    kept = f"goes into {name}, which is then no longer what was built" if options.write else "is thrown away"
    _tell(f"{_WAY_OUT}; what it writes to its disk {kept}")
    forward = ""
    if port:
        forward = f",hostfwd=tcp:127.0.0.1:{port}-:22"
        _tell(f"ssh -p {port} -o UserKnownHostsFile=/dev/null -o StrictHostKeyChecking=no root@127.0.0.1")
    network = ("-netdev", f"user,id=net{forward}", "-device", "virtio-net-pci,netdev=net,romfile=")
    console = ("-chardev", "stdio,id=console,mux=on,signal=off", "-serial", "chardev:console", "-mon", "console")
    return _run(program, (*command(machine), *network, *console, *options.passed))


def _tell(line: str) -> None:
    sys.stderr.write(f"forge: {line}\n")
    sys.stderr.flush()


def _port(text: str) -> int:
    """Return the port that leads to the machine's ssh, which nobody listens to."""
    if text and not (text.isdecimal() and 0 < int(text) < 1 << 16):
        raise UsageError(f"--ssh takes a port from 1 to 65535, not '{text}'")
    for port in (int(text or _SSH_PORT), *(() if text else (0,))):
        with socket.socket() as listener, suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", port))
            return int(listener.getsockname()[1])
    raise UsageError(f"port {text} cannot be used: another program has it", hint="--ssh alone finds one that is free")


# The image -----------------------------------------------------------------------------------------------------------


class _Built(NamedTuple):
    """An image that is to be booted."""

    target: Target
    path: str


def _built(options: argparse.Namespace) -> _Built | int:
    """Build the image if need be; return it, or the exit status of a build that failed."""
    project = engine.Project.open(
        options.file, options.define, read_only=False, stand=options.stand, store=options.store
    )
    display = reporter("auto", sys.stderr)
    try:
        target = _target(project, options.word)
        place = project.planner.place_of(target)
        if options.write and _was_written(project, place):
            _tell(f"{target.name} is booted as a machine left it; 'forge {target.name}' makes it anew")
            return _Built(target, place)
        settings = engine.Settings(
            len(os.sched_getaffinity(0)), every_line=form_for(sys.stderr) in EVERY_LINE, tolerant=True
        )
        status = engine.build(project, (target,), settings, tell=display.report, clock=_clock)
        if status:
            return status
        if options.write:
            _make_own(place)
            return _Built(target, place)
        return _Built(target, project.store.object_path(project.planner.results[target].digest))
    finally:
        display.close()
        project.close()


def _target(project: engine.Project, word: str | None) -> Target:
    if word is not None:
        target = one(project, word)
    else:
        files = [target for target in project.graph.select([]) if target.output == "file"]
        if len(files) != 1:
            problem = f"{len(files)} of the Forgefile's default targets are files"
            raise UsageError(problem, hint="name the one to boot")
        target = files[0]
    if target.output != "file":
        hint = "a DiskImage of it can"
        raise UsageError(f"target '{target.name}' is a tree, which cannot be booted", hint=hint)
    return target


def _was_written(project: engine.Project, place: str) -> bool:
    """Tell whether a file that forge put at a place was changed there, as by a machine that wrote."""
    placed = project.store.records.placed(place)
    return placed is not None and os.path.isfile(place) and not project.store.is_as_placed(place)


def _make_own(place: str) -> None:
    """Make a placed file one that shares nothing with the store's, and that may be written."""
    try:
        if os.stat(place).st_nlink > 1:
            arriving = f"{place}.forge-arriving"
            with suppress(FileNotFoundError):
                os.unlink(arriving)
            try:
                copy_file(place, arriving)
                os.replace(arriving, place)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(arriving)
        os.utime(place)  # from here on it is not as it was placed, whatever the machine does
        os.chmod(place, os.stat(place).st_mode | 0o600)
    except OSError as error:
        raise UsageError(f"{place} cannot be written: {error.strerror}") from error


# The machine ---------------------------------------------------------------------------------------------------------


def _machine(built: _Built, image: Image, options: argparse.Namespace) -> tuple[Machine, str]:
    """Return the machine for an image, and in words why KVM does not run it."""
    name = built.target.name
    native = next((arch for arch, kind in KINDS.items() if kind.host == os.uname().machine), "amd64")
    arch = options.arch or image.arch or native
    possible = [each for each in ("bios", "uefi") if not image.problem(each) and (each == "uefi" or arch == "amd64")]
    firmware = options.firmware or next(iter(possible), None)
    if firmware is None:
        raise UsageError(
            f"{name} cannot be booted: there is no code in its first sector and no EFI system partition",
            hint="is it a disk image?",
        )
    if firmware not in possible:
        problem = image.problem(firmware) or f"is for {arch}, which has no BIOS"
        hint = f"--firmware {possible[0]}" if possible else None
        raise UsageError(f"{name} {problem}", hint=hint)
    memory = options.memory or min(_MEMORY, host.memory_bytes() // 2)
    cpus = options.cpus or min(_CPUS, len(os.sched_getaffinity(0)))
    machine = Machine(arch, firmware, "tcg", memory, cpus, built.path, image, write=options.write)
    if options.accel:
        return machine._replace(accel=options.accel), ""
    why = kvm.problem(arch, _program(built, machine))
    return (machine, f": {why}") if why else (machine._replace(accel="kvm"), "")


def _program(built: _Built, machine: Machine) -> str:
    """Return where QEMU is; raise `UsageError` when it or the firmware is not there."""
    needed = [tool for tool in tools(machine.arch, machine.firmware) if tool != "qemu-img"]
    missing = [tool for tool in needed if not host.find(tool)]
    if missing:
        raise UsageError(
            f"to boot {built.target.name} takes {', '.join(missing)}, which this machine does not have",
            hint=host.install_line(missing),
        )
    return str(host.find(needed[0]))


def _run(program: str, words: tuple[str, ...]) -> int:
    """Run QEMU on this terminal until it ends; return the exit status."""
    with open(os.memfd_create("said"), "w+b") as said:
        status = foreground.run(program, words, said)
        said.seek(0)
        text = said.read().decode("utf-8", "replace")
    if status < 0:
        raise BuildError(f"QEMU was ended by signal {-status}{text and f': {explained(words[0], text)}'}")
    if status:
        raise UsageError(f"QEMU: {explained(words[0], text) or f'exit status {status}'}")
    sys.stderr.write(text)
    return 0
