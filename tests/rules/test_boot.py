"""`BootTest`: what is refused, the exact steps, and disks by the real QEMU whose first sector speaks."""

import os
import re
import shutil
import subprocess
import time

import pytest

from forgefile import units
from forgefile.errors import BuildError, ForgefileError
from forgefile.model import Call, Sandbox
from forgefile.programs import machine
from forgefile.programs.boot import Boot, Lines, boot
from forgefile.programs.machine import Image, look
from forgefile.rules import BootTest
from tests.boot_sector import gpt, image, sector
from tests.conftest import make, make_tree

DISK = make("disk.img")
OVMF = ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd")
AAVMF = ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd")
needs_qemu = pytest.mark.skipif(
    not (shutil.which("qemu-system-x86_64") and shutil.which("qemu-img")) and "CI" not in os.environ,
    reason="needs qemu-system-x86_64 and qemu-img",
)


# What is refused


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"expect": " "}, "field 'expect': is empty, which every line has"),
        ({"expect": re.compile("")}, "field 'expect': is empty, which every line has"),
        ({"expect": "two\nlines"}, r"field 'expect': 'two\nlines': lines hold printable characters only"),
        ({"expect": re.compile(b"x")}, "field 'expect': is an expression for bytes"),
        ({"expect": 1}, "field 'expect': expected str | Pattern[str], got int 1"),
        ({"expect": "x", "arch": "arm64"}, "field 'firmware': arm64 has no BIOS"),
        ({"expect": "x", "cpus": 0}, "field 'cpus': 0: from 1 to 64"),
        ({"expect": "x", "memory": "1MiB"}, "field 'memory': '1MiB' is too little"),
        ({"expect": "x", "memory": "much"},
         "field 'memory': 'much' is no size; write a number and a unit, such as '48MiB' or '1.5GiB'"),
        ({"expect": "x", "timeout": "0s"}, "field 'timeout': leaves no time"),
        ({"expect": "x", "timeout": "soon"},
         "field 'timeout': 'soon' is no duration; write numbers and units, such as '90s', '10min' or '1h 30min'"),
    ],
)  # fmt: skip
def test_refuses(fields, message):
    with pytest.raises(ForgefileError) as caught:
        BootTest(disk=DISK, **fields)
    assert caught.value.message == f"BootTest {message}"


def test_refuses_what_is_no_file():
    with pytest.raises(ForgefileError, match="expected the handle of a file target"):
        BootTest(disk=make_tree("root"), expect="x")


# The steps


def told(**fields):
    return Boot(disk="/run/forge/in/disk.img", out="/run/forge/out", tmp="/run/forge/tmp", **fields)


def call(argument, *tools):
    return Call(boot, argument, tools=(str(machine.__file__), str(units.__file__), *tools))


PLAIN = {"arch": "amd64", "firmware": "bios", "expect": "login:", "timeout_s": 300.0, "memory": 1 << 30, "cpus": 1}


@pytest.mark.parametrize(
    ("fields", "argument", "tools"),
    [
        ({}, {}, ("qemu-system-x86_64", "qemu-img")),
        ({"firmware": "uefi"}, {"firmware": "uefi"}, ("qemu-system-x86_64", "qemu-img", *OVMF)),
        ({"firmware": "uefi", "arch": "arm64"}, {"firmware": "uefi", "arch": "arm64"},
         ("qemu-system-aarch64", "qemu-img", *AAVMF)),
        ({"expect": re.compile("a.c", re.IGNORECASE)}, {"expect": "a.c", "flags": int(re.IGNORECASE | re.UNICODE)},
         ("qemu-system-x86_64", "qemu-img")),
        ({"timeout": "1min 30s", "memory": "256MiB", "cpus": 2}, {"timeout_s": 90.0, "memory": 256 << 20, "cpus": 2},
         ("qemu-system-x86_64", "qemu-img")),
    ],
)  # fmt: skip
def test_steps(fields, argument, tools):
    rule = BootTest(disk=DISK, **{"expect": "login:", **fields})
    assert list(rule.steps(Sandbox())) == [call(told(**{**PLAIN, **argument}), *tools)]


def test_the_limit_decides_nothing_of_the_output():
    assert Boot.UNDECIDING == ("timeout_s",)


# The console


@pytest.mark.parametrize(
    ("written", "lines", "begun"),
    [
        (b"one\r\ntwo\n\n\rthree\r", ["one", "two", "three"], ""),
        (b"[\x1b[0;32m  OK  \x1b[0m] Reached \x1b]0;title\x07x\x1b(B\n", ["[  OK  ] Reached x"], ""),
        (b"\x1b[2J\x1b[1;1Hmenu\x1b[2;1Hentry\x1b[", ["menu"], "entry"),
        (b"\xc3\xa4\xff\x00\x07\tlogin: ", [], "ä�\tlogin: "),
        (b"x" * 70_000, ["x" * 70_000], ""),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_lines_of_a_console(written, lines, begun, size):
    if len(written) > 1000 and size < 1000:
        size = 70_000
    found = Lines()
    ended = [line for at in range(0, len(written), size) for line in found.feed(written[at : at + size])]
    assert (ended, found.begun) == (lines, begun)


# The image


ROOT, ROOT_ARM, ESP = (
    "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
    "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
)  # fmt: skip


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (sector("x"), Image("raw", 512, True, False, "amd64")),
        (b"", Image("raw", 512, False, False, None)),
        (b"\0" * 510 + b"\x55\xaa", Image("raw", 512, False, False, None)),
        (gpt(ESP, ROOT), Image("raw", 512, False, True, "amd64")),
        (gpt(ESP, ROOT_ARM), Image("raw", 512, False, True, "arm64")),
        (gpt(ESP, ROOT_ARM, sector_size=4096), Image("raw", 4096, False, True, "arm64")),
        (gpt(ROOT, code=b"code"), Image("raw", 512, True, False, "amd64")),
        (gpt(*["0FC63DAF-8483-4772-8E79-3D69D8477DE4"] * 100, ESP), Image("raw", 512, False, True, None)),
        (bytes(446) + b"\0\0\0\0\xef".ljust(16, b"\1") + bytes(48) + b"\x55\xaa",
         Image("raw", 512, False, True, None)),
    ],
)  # fmt: skip
def test_what_an_image_says_of_itself(tmp_path, head, found):
    (tmp_path / "disk").write_bytes(head)
    assert look(str(tmp_path / "disk"), str(tmp_path / "scratch")) == found


@needs_qemu
@pytest.mark.parametrize("form", ["qcow2", "vmdk", "vdi", "vhdx", "vpc"])
def test_an_image_of_another_format(tmp_path, form):
    disk, made = tmp_path / "disk", tmp_path / "a, b:c"
    disk.write_bytes(gpt(ESP, ROOT_ARM).ljust(1 << 20, b"\0"))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, disk, made], check=True)
    assert look(str(made), str(tmp_path / "scratch")) == Image(form, 512, False, True, "arm64")
    assert not (tmp_path / "scratch").exists()


@needs_qemu
def test_an_image_that_is_damaged(tmp_path):
    (tmp_path / "disk").write_bytes(b"QFI\xfb".ljust(512, b"\xff"))
    with pytest.raises(BuildError, match="qemu-img cannot read the image: "):
        look(str(tmp_path / "disk"), str(tmp_path / "scratch"))


# By QEMU


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Boot an image as the rule's step does; return the log and what was printed."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1750000000")

    def run_(disk, **fields):
        rule = BootTest(disk=DISK, **{"memory": "64MiB", "timeout": "60s", **fields})
        (step,) = rule.steps(Sandbox())
        places = {"disk": str(disk), "out": str(tmp_path / "out"), "tmp": str(tmp_path)}
        before = disk.read_bytes()
        boot(Boot(**{**step.argument.__dict__, **places}))
        assert disk.read_bytes() == before
        return (tmp_path / "out").read_text(), capfd.readouterr().out

    return run_


TIMED = "\x1b[2J[    1.250000] Linux\r\n\r\n[    2.000000][    T1] [\x1b[32m OK \x1b[0m] up\r\nhost login: "


@needs_qemu
@pytest.mark.parametrize(
    ("expect", "log"),
    [
        ("login:", "Linux\n[ OK ] up\nhost login: \n"),
        ("[ OK ]", "Linux\n[ OK ] up\n"),
        (re.compile("^linux$", re.IGNORECASE), "Linux\n"),
    ],
)
def test_what_was_waited_for_ends_the_machine(tmp_path, run, expect, log):
    disk = image(tmp_path / "disk", TIMED)
    began = time.monotonic()
    made, printed = run(disk, expect=expect)
    assert made == log
    assert printed.startswith("[    1.250000] Linux\n")
    assert time.monotonic() - began < 30, "it does not wait for the limit"


@needs_qemu
def test_a_limit_beyond_that_of_poll(tmp_path, run):
    assert run(image(tmp_path / "disk", "up\n"), expect="up", timeout="1000h")[0] == "up\n"


@needs_qemu
def test_what_it_writes_is_thrown_away_whatever_the_format(tmp_path, run):
    disk = image(tmp_path / "disk", "", "write")
    with pytest.raises(BuildError, match="the machine ended before its console showed 'x'"):
        run(disk, expect="x")
    image(disk, "hi\n")
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, tmp_path / "q,2"], check=True)
    assert run(tmp_path / "q,2", expect="hi")[0] == "hi\n"


@needs_qemu
@pytest.mark.parametrize(
    ("wrote", "fields", "message", "hint"),
    [
        (("up\n", "off"), {"expect": "login:"}, "the machine ended before its console showed 'login:'", None),
        (("", "off"), {"expect": "login:"}, "the machine ended before its console showed 'login:'",
         "nothing came from the serial port: does the kernel's command line have console=ttyS0 (arm64: ttyAMA0)?"),
        (("logi", "halt"), {"expect": re.compile("log.n"), "timeout": "1.5s"},
         "the console did not show /log.n/ within 1.5 s", None),
        (("much ", "again"), {"expect": "login:", "timeout": "1.5s"},
         "the console did not show 'login:' within 1.5 s", None),
        (("x\n---[ end Kernel panic - not syncing: x ]---\n", "halt"), {"expect": "login:"},
         "the kernel panicked before the console showed 'login:'", None),
        (("x", "halt"), {"expect": "x", "firmware": "uefi"},
         "the disk has nothing that UEFI could start: no EFI system partition", "firmware=… says what is to start it"),
    ],
)  # fmt: skip
def test_how_it_fails(tmp_path, run, wrote, fields, message, hint):  # noqa: PLR0917  a table's columns
    disk = image(tmp_path / "disk", *wrote)
    with pytest.raises(BuildError) as caught:
        run(disk, **fields)
    assert (caught.value.message, caught.value.hint) == (message, hint)


@needs_qemu
def test_a_disk_that_qemu_cannot_open(tmp_path, run):
    disk = image(tmp_path / "disk", "x")
    with disk.open("r+b") as stream:
        stream.truncate(700)
    with pytest.raises(BuildError) as caught:
        run(disk, expect="never", cpus=64, memory="100TiB")
    assert caught.value.message.startswith("the machine ended before its console showed 'never' (cannot")
