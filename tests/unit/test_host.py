"""Host tools: where they are found, and what to install for one that is missing."""

import pytest

from forgefile import host
from forgefile.errors import UsageError
from forgefile.location import Location


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Return a folder with a program, alone on PATH."""
    (tmp_path / "mine").write_text("#!/bin/sh\n")
    (tmp_path / "mine").chmod(0o755)
    (tmp_path / "data").write_text("")
    (tmp_path / "folder").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_memory_is_that_of_a_machine():
    assert host.memory_bytes() > 64 << 20


def test_find_by_path(tools):
    assert host.find("mine") == f"{tools}/mine"
    assert host.find("sh") in ("/usr/bin/sh", "/bin/sh", "/usr/local/bin/sh")
    assert host.find("no-such-program") is None


def test_what_cannot_be_executed_is_no_program(tools):
    assert host.find("data") is None
    assert host.find("folder") is None


def test_data_files_are_named_by_their_path(tools):
    assert host.find(f"{tools}/data") == f"{tools}/data"
    assert host.find(f"{tools}/none") is None


@pytest.mark.parametrize("path", [None, "", ".", "relative:also"])
def test_a_path_that_is_missing_or_relative(monkeypatch, tmp_path, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").touch(0o755)
    if path is None:
        monkeypatch.delenv("PATH")
    else:
        monkeypatch.setenv("PATH", path)
    assert host.find("mine") is None
    assert host.find("sh") is not None


def test_unusual_is_what_steps_would_not_find(tools):
    found = [(name, host.find(name)) for name in ("sh", "mine", f"{tools}/data")]
    assert host.unusual(found) == (("mine", f"{tools}/mine"),)


@pytest.mark.parametrize(
    ("tool", "package"),
    [
        ("mke2fs", "e2fsprogs"),
        ("/usr/lib/grub/i386-pc/boot.img", "grub-pc-bin"),
        ("/usr/lib/grub/i386-efi/kernel.img", "grub-efi-ia32-bin"),
        ("/usr/lib/grub/arm64-efi/kernel.img", "grub-efi-arm64-bin:arm64"),
        ("/usr/share/keyrings/debian-archive-keyring.gpg", "debian-archive-keyring"),
        ("qemu-aarch64-static", "qemu-user-static"),
        ("no-such-program", None),
        ("/etc/x", None),
    ],
)
def test_package(tool, package):
    assert host.package(tool) == package


def test_install_line():
    assert host.install_line(["sfdisk", "mke2fs", "debugfs", "unknown"]) == "apt-get install e2fsprogs fdisk"
    assert host.install_line(["unknown"]) is host.install_line([]) is None


def test_missing_error():
    place = Location((("/p/Forgefile.py", 3),))
    error = host.missing_error(["mmd", "mcopy", "mmd"], "disk.img", place)
    assert isinstance(error, UsageError)
    assert error.message == "target 'disk.img' needs mcopy, mmd, which this machine does not have"
    assert (error.hint, error.location, error.status) == ("apt-get install mtools", place, 2)
    assert host.missing_error(["x"], "a", None).hint == "install what provides it, or put it on PATH"
