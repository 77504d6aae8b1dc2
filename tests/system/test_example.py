"""The example, built with the real tools: accepted by those who check such things, booted, edited, built again."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.system.conftest import REPO, Project

pytestmark = pytest.mark.system

ALL = ("disk.img", "disk.qcow2", "ostree")
CHAIN = ("rootfs", "packages", "system", "tuned")


def run(*argv: str | Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def partitions(disk: Path) -> dict[str, tuple[int, int]]:
    """Return (start, size) in bytes of each partition, by name."""
    table = json.loads(run("sfdisk", "--json", disk))["partitiontable"]
    sector = table.get("sectorsize", 512)
    return {p["name"]: (p["start"] * sector, p["size"] * sector) for p in table["partitions"]}


def sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def test_the_partition_table_and_the_file_systems_are_sound(example: Project, tmp_path: Path) -> None:
    disk = example.root / "disk.img"
    assert "No errors detected" in run("sfdisk", "--verify", disk)
    where = partitions(disk)
    assert list(where) == ["bios", "esp", "root"]
    run("e2fsck", "-fn", f"{disk}?offset={where['root'][0]}")
    with disk.open("rb") as stream:
        stream.seek(where["esp"][0])
        (tmp_path / "esp").write_bytes(stream.read(where["esp"][1]))
    run("fsck.fat", "-n", tmp_path / "esp")
    run("qemu-img", "check", example.root / "disk.qcow2")
    run("qemu-img", "compare", disk, example.root / "disk.qcow2")


def test_the_ostree_repository_is_sound_and_holds_the_commit(example: Project, tmp_path: Path) -> None:
    repo = tmp_path / "repo"
    assert example.forge("export", "ostree", str(repo)).status == 0
    assert run("ostree", "refs", f"--repo={repo}").split() == ["debian/bookworm/amd64"]
    run("ostree", "fsck", f"--repo={repo}")
    listing = run("ostree", "ls", f"--repo={repo}", "debian/bookworm/amd64", "/usr/etc/motd", "/usr/lib/modules")
    assert "/usr/etc/motd" in listing


@pytest.mark.parametrize(("firmware", "image"), [("bios", "disk.img"), ("uefi", "disk.qcow2")])
def test_it_boots(example: Project, firmware: str, image: str) -> None:
    before = sha256(example.root / image)
    said = run(sys.executable, REPO / "scripts" / "boot-test", firmware, example.root / image)
    assert "FORGE-BOOT-OK" in said
    assert sha256(example.root / image) == before


def test_it_boots_as_a_target(example: Project) -> None:
    """In a Forgefile of its own beside the example's, in whose store all but the boot is there."""
    text = (example.root / "Forgefile.py").read_text()
    text = text.replace("from forgefile.rules import (", "from forgefile.rules import (\n    BootTest,")
    test = 'forge.target("boot.log", BootTest(disk=disk, firmware="uefi", expect="FORGE-BOOT-OK", cpus=2), cores=2)\n'
    (example.root / "Boot.py").write_text(text.replace("    forge.default(disk)\n", f"    {test}"))
    before = sha256(example.root / "disk.img")
    assert example.build("-f", "Boot.py", "boot.log").targets("started") == {"boot.log"}
    console = (example.root / "boot.log").read_text().splitlines()
    assert console[-1].startswith("FORGE-BOOT-OK Debian GNU/Linux 12 (bookworm)")
    assert any(line.startswith("Linux version ") for line in console), "without the kernel's times"
    assert sha256(example.root / "disk.img") == before
    assert example.build("-f", "Boot.py", "boot.log").targets("started") == set()
    for name in ("Boot.py", "boot.log"):
        (example.root / name).unlink()


def test_a_second_run_runs_nothing(example: Project) -> None:
    again = example.build(*ALL)
    assert again.targets("started") == again.targets("restored") == set()
    assert {action for action, _ in again.planned().values()} == {"none"}


def test_built_again_it_is_the_same(example: Project) -> None:
    again = example.forge("verify", "--json", *ALL)
    assert again.status == 0, again.err + again.out[-3000:]
    assert again.targets("same") == {*CHAIN, *ALL}
    (varied,) = (e["varied"] for e in again.events if e["event"] == "verifying")
    assert "user" in varied


def append(path: str, text: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        with (root / path).open("a") as stream:
            stream.write(text)

    return edit


def replace(old: str, new: str) -> Callable[[Path], None]:
    def edit(root: Path) -> None:
        forgefile = root / "Forgefile.py"
        text = forgefile.read_text()
        assert old in text
        forgefile.write_text(text.replace(old, new))

    return edit


EDITS = {
    "overlay file": (
        append("overlay/etc/motd", "hello\n"),
        ("system", "tuned", *ALL),
        {"system": "overlay/etc/motd: content changed"},
    ),
    "overlay mode": (
        lambda root: (root / "overlay/etc/motd").chmod(0o600),
        ("system", "tuned", *ALL),
        {"system": "overlay/etc/motd: mode 0644 → 0600"},
    ),
    "script": (
        append("scripts/tune.sh", "touch /etc/edited\n"),
        ("tuned", *ALL),
        {"tuned": "scripts/tune.sh: content changed"},
    ),
    "package list": (
        replace('"openssh-server")', '"openssh-server", "less")'),
        ("packages", "system", "tuned", *ALL),
        {"packages": "apt-get: less added"},
    ),
    "partition size": (
        replace('size="48MiB"', 'size="64MiB"'),
        ("disk.img", "disk.qcow2"),
        {"disk.img": "parts.esp.size: 48MiB → 64MiB"},
    ),
    "option of the boot loader": (
        replace("console=ttyS0 rw", "console=ttyS0 rw quiet"),
        ("disk.img", "disk.qcow2"),
        {"disk.img": "quiet"},
    ),
}


@pytest.fixture
def edited(example: Project) -> Iterator[Project]:
    """The example, to be changed; its files are put back, and the results of before restored, afterwards."""
    kept = example.root.with_name("kept")
    shutil.copytree(example.root, kept, symlinks=True, ignore=shutil.ignore_patterns(".forge", "*.img", "*.qcow2"))
    yield example
    for name in ("Forgefile.py", "overlay", "scripts"):
        path = example.root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.move(kept / name, path)
    kept.rmdir()
    restored = example.build(*ALL)
    assert restored.targets("started") == set(), "what was built before the edit is built again after taking it back"


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit_runs_exactly_what_it_must_and_says_why(edited: Project, kind: str) -> None:
    edit, runs, reasons = EDITS[kind]
    edit(edited.root)
    plan = edited.forge("--json", "--dry-run", *ALL).planned()
    assert {name for name, (action, _) in plan.items() if action in ("run", "maybe")} == set(runs)
    assert {name for name, (action, _) in plan.items() if action == "run"} == set(reasons)
    why = edited.forge("why", *ALL).out
    for name, words in reasons.items():
        assert any(words in reason for reason in plan[name][1]), plan[name]
        assert all(reason in why for reason in plan[name][1])
    assert edited.build(*ALL).targets("started") == set(runs)
    assert edited.build(*ALL).targets("started") == set()


def test_a_changed_tool_runs_exactly_what_uses_it(edited: Project, tmp_path: Path) -> None:
    tool = tmp_path / "qemu-img"
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    tool.write_text('#!/bin/sh\nexec /usr/bin/qemu-img "$@"\n')
    tool.chmod(0o755)
    plan = edited.forge("--json", "-n", *ALL, env=env).planned()
    assert {name: reasons for name, (action, reasons) in plan.items() if action != "none"} == {
        "disk.qcow2": ("tool qemu-img: changed",)
    }
    assert "tool qemu-img: changed" in edited.forge("why", "disk.qcow2", env=env).out
    built = edited.build(*ALL, env=env)
    assert built.targets("started") == {"disk.qcow2"}
    assert [e["changed"] for e in built.events if e["event"] == "built"] == [False]


def test_early_cutoff_an_edit_without_effect_stops_at_its_layer(edited: Project) -> None:
    append("scripts/tune.sh", "# a comment\n")(edited.root)
    built = edited.build(*ALL)
    assert built.targets("started") == {"tuned"}
    assert built.targets("current") == {*CHAIN, *ALL} - {"tuned"}


def test_an_option_switched_there_and_back_runs_nothing_the_second_time(example: Project) -> None:
    there = ("-D", "suite=trixie", "rootfs")
    plan = example.forge("--json", "-n", *there).planned()
    assert plan["rootfs"] == ("run", ("mmdebstrap: bookworm → trixie (option suite)",))
    assert example.build(*there).targets("started") == {"rootfs"}
    assert example.build("rootfs").targets("restored") == {"rootfs"}
    assert example.build(*there).targets("restored") == {"rootfs"}
    assert example.build("rootfs").targets("started") == set()


def test_an_edited_image_is_noticed_and_never_used(example: Project) -> None:
    disk = example.root / "disk.img"
    right = sha256(disk)
    with disk.open("r+b") as stream:
        stream.seek(100 << 20)
        stream.write(b"scribble")
    plan = example.forge("--json", "-n", *ALL).planned()
    assert "changed since it was built" in plan["disk.img"][1][0]
    rebuilt = example.build(*ALL)
    assert rebuilt.targets("started") == {"disk.img"}
    assert sha256(disk) == right


def test_the_ostree_repository_grows_by_the_change_only(edited: Project) -> None:
    def used() -> int:
        return int(run("du", "-sk", edited.root / ".forge").split()[0])

    before = used()
    append("overlay/etc/motd", "one more line\n")(edited.root)
    edited.build("ostree")
    assert used() - before < 5_000, "KiB"
