# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""A disk image in a machine: `forge boot` on a terminal and off it, and `BootTest`. The disks are a sector of code."""

import os
import pty
import shutil
import signal
import socket
import subprocess
import termios
from pathlib import Path

import pytest
from conftest import COMMAND, first_lines, nothing_left, settle, until

from forgefile import cli
from tests.boot_sector import gpt, image

needs_qemu = pytest.mark.skipif(not shutil.which("qemu-system-x86_64"), reason="qemu-system-x86_64 is missing: package qemu-system-x86")
pytestmark = needs_qemu

RULES = "from forgefile.rules import BootTest, QemuImage"
DISK = 'disk = forge.target("disk.img", Command(argv=("cp", forge.source("disk, first.bin"), OUT)))'
BOOT = ("boot", "--accel", "tcg", "--memory", "64MiB", "--cpus", "1")


def disk(project, text, then="halt", *lines):
    """Make a project whose disk.img prints a text and then does something."""
    image(project.root / "disk, first.bin", text, then)
    project.forgefile(RULES, DISK, *lines)


def machines(marker):
    """Return the running QEMUs in whose command line some words stand."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"qemu-system-x86_64") and marker.encode() in b" ".join(words):
            found.append(int(path.parent.name))
    return found


# forge boot


def test_a_machine_until_it_ends(machine):
    """Standard output has the console and nothing else, the image stays as it was, the store is free meanwhile."""
    disk(machine, "hello\n", "write")
    ended = machine.forge(*BOOT, "disk.img")
    assert ended.out == "hello\n"
    assert "built disk.img" in ended.err
    assert "forge: disk.img boots through BIOS, emulated (TCG)\n" in ended.err
    assert "Ctrl-A X ends the machine" in ended.err
    assert (machine / "disk.img").read_bytes() == (machine / "disk, first.bin").read_bytes()
    settle()
    before = machine.store()
    assert machine.forge(*BOOT).out == "hello\n", "the default target, which is up to date"
    assert machine.store() == before


def test_a_qcow2_image(machine):
    disk(machine, "hello\n", "write", 'forge.target("disk.qcow2", QemuImage(disk=disk))')
    ended = machine.forge(*BOOT, "*.qcow2")
    assert ended.out == "hello\n"
    machine.json("disk.qcow2").only("current", "disk.qcow2")


def test_two_machines_and_a_build_at_once(machine):
    disk(machine, "hello\n")
    running = [machine.start(*BOOT, "disk.img") for _ in range(2)]
    for each in running:
        first_lines(each, ["hello"])
    image(machine.root / "disk, first.bin", "changed\n", "off")
    assert machine.ran("disk.img") == ["disk.img"]
    assert machine.forge(*BOOT, "disk.img").out == "changed\n"
    for each in running:
        each.send_signal(signal.SIGINT)
        each.communicate(timeout=20)
        assert each.returncode == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_the_machine(machine, number):
    disk(machine, "hello\n")
    process = machine.start(*BOOT, "disk.img")
    first_lines(process, ["hello"])
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    until(lambda: not machines(str(machine.root)), 5)


def test_a_reader_that_leaves_ends_the_machine(machine):
    disk(machine, "hello\n")
    process = machine.start(*BOOT, "disk.img")
    first_lines(process, ["hello"])
    process.stdout.close()
    assert process.wait(20) == 1
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    until(lambda: not machines(str(machine.root)), 5)


def test_the_end_of_qemu_is_told(machine):
    disk(machine, "hello\n")
    process = machine.start(*BOOT, "disk.img")
    first_lines(process, ["hello"])
    (qemu,) = machines(str(machine.root))
    os.kill(qemu, signal.SIGKILL)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert err.endswith("forge: QEMU was ended by signal 9\n")


def test_a_terminal(machine):
    """What is typed reaches the machine, Ctrl-C too; Ctrl-A X ends it, and the terminal is as it was."""
    disk(machine, "hello\n", "echo")
    for typed, echoed in ((b"\x03", b"\x03"), (b"\x01x", b"Terminated")):
        ours, theirs = pty.openpty()
        before = termios.tcgetattr(theirs)
        process = subprocess.Popen(
            (*COMMAND, *BOOT, "disk.img"), cwd=machine.root, env=machine.environment(), stdin=theirs, stdout=theirs,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        said = b""
        while b"hello" not in said:
            said += os.read(ours, 1 << 16)
        os.write(ours, typed)
        assert process.wait(timeout=20) == 0
        assert echoed in said.partition(b"hello")[2] + os.read(ours, 1 << 16)
        assert termios.tcgetattr(theirs) == before
        os.close(ours)
        os.close(theirs)


def test_write(machine):
    """What it writes goes into the project's image, not into the store; the next build makes that anew."""
    disk(machine, "hello\n", "write", 'forge.target("copy.img", Command(argv=("cp", disk, OUT)))')
    made = (machine / "disk, first.bin").read_bytes()
    written = made[:512] * 2 + made[1024:]
    ended = machine.forge(*BOOT, "--write", "disk.img")
    assert "what it writes to its disk goes into disk.img" in ended.err
    assert (machine / "disk.img").read_bytes() == written
    assert machine.ran("copy.img") == ["copy.img"]
    assert (machine / "copy.img").read_bytes() == made
    ended = machine.forge(*BOOT, "--write", "disk.img")
    assert "forge: disk.img is booted as a machine left it; 'forge disk.img' makes it anew\n" in ended.err
    assert (machine / "disk.img").read_bytes() == written
    assert machine.json("disk.img").targets("built") == []
    assert (machine / "disk.img").read_bytes() == made


def test_one_machine_at_a_time_writes(machine):
    disk(machine, "hello\n")
    process = machine.start(*BOOT, "--write", "disk.img")
    first_lines(process, ["hello"])
    ended = machine.forge(*BOOT, "--write", "disk.img", status=2)
    assert 'Failed to get "write" lock' in ended.err
    for words in ((), ("-n",)):
        ended = machine.forge(*words, "disk.img", status=2)
        assert "a virtual machine runs that writes into" in ended.err
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)


def test_ssh_leads_a_port_of_this_machine_to_it(machine):
    disk(machine, "hello\n")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
        ended = machine.forge(*BOOT, "--ssh", port, "disk.img", status=2)
        assert f"port {port} cannot be used: another program has it\n  hint: --ssh alone finds one that is free\n" in ended.err
    process = machine.start(*BOOT, "--ssh", port, "disk.img")
    first_lines(process, ["hello"])
    socket.create_connection(("127.0.0.1", int(port)), 10).close()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert f"\nforge: ssh -p {port} -o " in err
    process = machine.start(*BOOT, "--ssh", "disk.img")
    first_lines(process, ["hello"])
    process.send_signal(signal.SIGINT)
    assert "\nforge: ssh -p " in process.communicate(timeout=20)[1]


def test_qemu_gets_what_follows(machine):
    disk(machine, "hello\n")
    assert "QEMU emulator version" in machine.forge(*BOOT, "disk.img", "--", "-version").out
    ended = machine.forge(*BOOT, "--", "--nonsense", status=2)
    assert ended.err.endswith("forge: QEMU: --nonsense: invalid option\n")


REFUSED = {
    "a tree": (("tree",), "target 'tree' is a tree, which cannot be booted\n  hint: a DiskImage of it can\n"),
    "no such target": (("disk.imge",), "did you mean 'disk.img'?"),
    "two targets": (("d*",), "'d*' matches 3 targets; name one\n"),
    "no target named": ((), "3 of the Forgefile's default targets are files\n  hint: name the one to boot\n"),
    "no disk": (("data",), "data cannot be booted: there is no code in its first sector and no EFI system partition\n  hint: is it a disk image?\n"),
    "the other firmware": (("disk.img", "--firmware", "uefi"), "disk.img has nothing that UEFI could start: no EFI system partition\n  hint: --firmware bios\n"),
    "a BIOS where there is none": (("disk.img", "--arch", "arm64", "--firmware", "bios"), "disk.img is for arm64, which has no BIOS\n"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(machine, case):
    words, message = REFUSED[case]
    disk(machine, "hello\n", "off", 'forge.target("data", Shell(line="echo data"))', 'forge.target("tree", Empty())', 'forge.target("disk.txt", Shell(line="echo x"))')
    ended = machine.forge("boot", *words, status=2)
    assert message in ended.err
    assert "hello" not in ended.out
    assert len([line for line in ended.err.splitlines() if line.startswith("forge: ")]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--firmware", "grub"), "argument --firmware: invalid choice: 'grub'"),
        (("--memory", "much"), "argument --memory: 'much' is no size"),
        (("--memory", "1KiB"), "argument --memory: 1KiB is less than 1MiB\n"),
        (("--cpus", "0"), "argument --cpus: expected a number from 1, got '0'\n"),
        (("--ssh", "99999"), "--ssh takes a port from 1 to 65535, not '99999'\n"),
        (("--ssh", "data"), "--ssh takes a port from 1 to 65535, not 'data'\n"),
        (("data",), "unrecognized arguments: data\n"),
    ],
)
def test_options_that_are_refused(capsys, words, message):
    assert cli.main(["boot", "disk.img", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("forge: ")
    assert message in err


def test_a_machine_whose_emulator_is_missing(machine):
    if shutil.which("qemu-system-aarch64") and os.path.exists("/usr/share/AAVMF/AAVMF_CODE.fd"):
        pytest.skip("this machine has all that it takes")
    arm = gpt("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "B921B045-1DF0-41C3-AF44-4C6F280D3FAE")
    machine.write("arm.bin", arm)
    machine.forgefile('forge.target("arm.img", Command(argv=("cp", forge.source("arm.bin"), OUT)))')
    ended = machine.forge("boot", status=2)
    assert "forge: to boot arm.img takes " in ended.err
    assert "which this machine does not have\n  hint: apt-get install qemu-" in ended.err


def test_a_build_that_fails_boots_nothing(machine):
    machine.forgefile('forge.target("disk.img", Shell(line="echo no; exit 3"))')
    assert "failed disk.img" in machine.forge(*BOOT, status=1).err


def test_kvm_is_tried_once(machine, tmp_path):
    """Whether it works here or not, the answer is kept for the next time, and a wrong one is not believed."""
    disk(machine, "hello\n", "off")
    machine.env["XDG_CACHE_HOME"] = str(tmp_path / "cache")
    first = machine.forge("boot", "disk.img")
    assert first.out == "hello\n"
    (how,) = [line for line in first.err.splitlines() if "boots through" in line]
    assert how.endswith(("with KVM", "emulated (TCG): a guest that was tried did not run")) or "/dev/kvm" in how
    if "/dev/kvm" in how:
        return
    noted = tmp_path / "cache/forge/kvm"
    text = noted.read_text()
    assert text.endswith("1" if "KVM" in how else "0")
    status = noted.stat()
    assert how in machine.forge("boot", "disk.img").err
    assert noted.stat() == status
    noted.write_text(f"another boot {text[-1]}")
    assert how in machine.forge("boot", "disk.img").err
    assert noted.read_text() == text


# BootTest


def test_a_boot_is_a_target(anyone):
    """It is done when the text is seen, its log is its output, and it runs again when the disk is another."""
    anyone.env["FORGE_TEST"] = "1"
    log = 'forge.target("boot.log", BootTest(disk=disk, expect="login:", memory="64MiB", timeout="1min"))'
    disk(anyone, "[    0.100000] Linux\r\nlogin: ", "halt", log)
    assert anyone.ran("boot.log") == ["boot.log", "disk.img"]
    assert anyone.read("boot.log") == "Linux\nlogin: \n"
    assert "[    0.100000] Linux\nlogin: \n" in anyone.forge("log", "boot.log").out
    anyone.nothing_runs("boot.log")
    disk(anyone, "[    0.100000] Linux\r\nlogin: ", "halt", log.replace("1min", "2min"))
    anyone.nothing_runs("boot.log")
    disk(anyone, "Linux 2\r\nlogin: ", "off", log)
    assert anyone.ran("boot.log") == ["boot.log", "disk.img"]


def test_a_boot_that_fails_tells_the_consoles_last_lines(machine):
    lines = "".join(f"{number}\n" for number in range(40))
    disk(machine, lines, "halt", 'forge.target("boot.log", BootTest(disk=disk, expect="login:", memory="64MiB", timeout="1s"))')
    ended = machine.forge("boot.log", status=1)
    assert "failed boot.log after " in ended.out
    assert "the console did not show 'login:' within 1 s\n" in ended.out
    assert "    | 38\n    | 39\n" in ended.out
    assert machine.json("boot.log", status=1).only("failed")["tail"][-1] == "39", "a failure is not remembered"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_boot_that_is_interrupted_leaves_no_machine(machine, number):
    disk(machine, "hello\n", "halt", 'forge.target("boot.log", BootTest(disk=disk, expect="login:", memory="67MiB"))')
    process = machine.start("--json", "boot.log")
    first_lines(process, ["hello"])
    assert machines("-m 67M")
    process.send_signal(number)
    process.communicate(timeout=20)
    until(lambda: not machines("-m 67M"), 5)


def test_it_is_verified_by_another_boot_and_not_compared(project):
    disk(project, "hello\n", "off", 'forge.target("boot.log", BootTest(disk=disk, expect="hello", memory="64MiB"))')
    with nothing_left(project):
        ended = project.forge("verify", "--json", "boot.log")
    assert ended.only("same", "boot.log")["compared"] is False
    assert ended.only("same", "disk.img")["compared"] is True
