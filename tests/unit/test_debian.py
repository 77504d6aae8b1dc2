"""What is done about initial ram disks while packages are installed, with folders instead of a machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from forgefile.programs.debian import DEFER_INITRAMFS, MAKE_INITRAMFS

REAL = """#!/bin/sh
echo "$0 $*" >>{tmp}/calls
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Make a /boot and real tools that write down how they are called."""
    for name in ("boot", "bin", "usr/sbin"):
        (tmp_path / name).mkdir(parents=True)
    programs = {"bin/mkinitramfs": here(DEFER_INITRAMFS, tmp_path)}
    programs |= {name: REAL.format(tmp=tmp_path) for name in ("usr/sbin/mkinitramfs", "bin/update-initramfs")}
    for name, text in programs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def here(text: str, tmp: Path) -> str:
    return text.replace("/boot/", f"{tmp}/boot/").replace("/usr/sbin/", f"{tmp}/usr/sbin/")


def make_deferred(machine: Path) -> list[str]:
    argv = ("sh", "-euc", here(MAKE_INITRAMFS, machine))
    subprocess.run(argv, check=True, env={"PATH": f"{machine}/bin:/usr/bin:/bin"})
    return calls(machine)


def calls(machine: Path) -> list[str]:
    log = machine / "calls"
    return [line.replace(f"{machine}/", "") for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.parametrize("options", [("-o",), ("-v", "-o")])
def test_it_is_made_once_in_the_end(machine: Path, options: tuple[str, ...]) -> None:
    for version in ("6.1.0-50-amd64", "6.1.0-50-amd64", "6.12 odd"):
        new = machine / f"boot/initrd.img-{version}.new"
        subprocess.run((machine / "bin/mkinitramfs", *options, new, version), check=True)
        new.rename(new.with_suffix(""))  # as update-initramfs does
    assert calls(machine) == []
    assert make_deferred(machine) == [
        "bin/update-initramfs -c -k 6.1.0-50-amd64",
        "bin/update-initramfs -c -k 6.12 odd",
    ]


@pytest.mark.parametrize(
    "words",
    [("--version",), ("-o", "/elsewhere/initrd.img-6.1.new", "6.1"), ("-o", "/x.new", "6.1"), ("-c", "xz", "-o", "f")],
)
def test_every_other_call_reaches_the_real_one(machine: Path, words: tuple[str, ...]) -> None:
    subprocess.run((machine / "bin/mkinitramfs", *words), check=True)
    assert calls(machine) == [f"usr/sbin/mkinitramfs {' '.join(words)}"]


def test_what_is_no_placeholder_stays(machine: Path) -> None:
    for name, content in (("initrd.img-1", b""), ("initrd.img-2", b"\x1f\x8b\0\0forge: deferred"), ("other", b"x")):
        (machine / "boot" / name).write_bytes(content)
    (machine / "boot/initrd.img-3").mkdir()
    assert make_deferred(machine) == []


def test_no_kernel_no_disk(machine: Path) -> None:
    assert make_deferred(machine) == []


# What belongs to one machine


SETTLES = """
import encodings.ascii, os, sys
from forgefile.programs.debian import note_identity, settle
tree, base = sys.argv[1:]
os.chroot(tree)
os.chdir("/")
if base:
    note_identity("/noted")
key = "/etc/ssh/ssh_host_rsa_key"
for path in (key, key + ".pub", "/etc/machine-id", "/var/lib/dbus/machine-id"):
    if not os.path.exists(path) or not os.path.getsize(path):
        with open(path, "w") as file:
            file.write("made by a package")
settle("/noted" if base else None)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="chroot(2) needs root")
@pytest.mark.parametrize(
    ("base", "laid", "left"),
    [
        (False, {}, {"machine-id": ""}),
        (False, {"ssh/ssh_host_ed25519_key": "x"}, {"machine-id": ""}),
        (True, {"machine-id": ""}, {"machine-id": ""}),
        (True, {"ssh/ssh_host_ed25519_key": "x"}, {"ssh/ssh_host_ed25519_key": "x", "machine-id": ""}),
        (True, {"ssh/ssh_host_rsa_key": "x"}, {"ssh/ssh_host_rsa_key": "x", "machine-id": ""}),
        (True, {"machine-id": "laid"}, {"machine-id": "laid"}),
    ],
)
def test_what_belongs_to_one_machine_is_removed_unless_it_was_laid(tmp_path, base, laid, left):
    for folder in ("etc/ssh", "etc/systemd", "var/lib/dbus", "dev", "tmp"):
        (tmp_path / folder).mkdir(parents=True)
    for name, text in laid.items():
        (tmp_path / "etc" / name).write_text(text)
    subprocess.run((sys.executable, "-c", SETTLES, tmp_path, "yes" if base else ""), check=True)
    etc = tmp_path / "etc"
    assert {str(path.relative_to(etc)): path.read_text() for path in etc.rglob("*") if path.is_file()} == left
    assert not list((tmp_path / "var/lib/dbus").iterdir())
