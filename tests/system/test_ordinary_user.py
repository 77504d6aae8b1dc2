"""An ordinary user runs what root runs, with the same command, and gets the same bits."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ordinary_user, python_of
from tests.system.conftest import Project, new_project
from tests.system.test_example import sha256

pytestmark = pytest.mark.system

USER = f"forge-test-{os.getpid()}"
Forge = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home() -> Iterator[Path]:
    """The home of a user."""
    with ordinary_user(USER) as made:
        yield made


@pytest.fixture
def project(home: Path, debs: Path) -> Project:
    """The example in the user's home, with the packages downloaded."""
    made = new_project(home / "example", None)
    shutil.copytree(debs, made.root / ".forge" / "cache")
    subprocess.run(["chown", "-R", f"{USER}:", made.root], check=True)
    return made


@pytest.fixture
def forge(home: Path, project: Project) -> Forge:
    """Run forge as the user."""
    environment = f"PYTHONPATH={home / 'lib'} PYTHONDONTWRITEBYTECODE=1"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        line = f"cd '{project.root}' && {environment} exec {python_of(USER)} -m forgefile {' '.join(words)}"
        return subprocess.run(["su", USER, "-c", line], capture_output=True, text=True, check=False)

    return run


def test_the_same_bits_and_nothing_left(example: Project, project: Project, forge: Forge) -> None:
    doctor = forge("doctor")
    assert doctor.returncode == 0, doctor.stdout
    verified = forge("verify", "disk.img", "disk.qcow2", "ostree")
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert verified.stdout.splitlines()[-1].endswith(": 7 same")
    for name in ("disk.img", "disk.qcow2"):
        assert sha256(project.root / name) == sha256(example.root / name), name
        assert (project.root / name).owner() == USER
    assert "up to date" in forge("disk.img", "disk.qcow2", "ostree").stdout
    layers = {name: os.listdir(p.root / ".forge" / "layers") for name, p in (("root", example), ("user", project))}
    assert set(layers["user"]) <= set(layers["root"])
    assert forge("export", "tuned", "tree").returncode == 0
    assert (project.root / "tree/etc/motd").exists()
    text = (project.root / "overlay/etc/motd").read_text()
    (motd,) = [path for path in (project.root / ".forge/layers").glob("*/etc/motd") if path.read_text() == text]
    motd.write_text("changed in the store\n")
    assert forge("export", "tuned", "other").returncode == 2
    assert forge("tuned").returncode == 0
    assert motd.read_text() == text
    assert not subprocess.run(["findmnt", "--noheadings", "-t", "overlay"], capture_output=True, check=False).stdout
    cleaned = forge("clean", "--all")
    assert cleaned.returncode == 0, cleaned.stderr
    assert sorted(p.name for p in project.root.iterdir()) == ["Forgefile.py", "overlay", "scripts", "tree"]


def test_a_user_without_ids_is_told_what_to_do(home: Path, forge: Forge) -> None:
    for path in (Path("/etc/subuid"), Path("/etc/subgid")):
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(line for line in lines if not line.startswith(f"{USER}:")))
    refused = forge("rootfs")
    assert refused.returncode == 2
    assert f"/etc/subuid gives the user {USER} no" in refused.stderr
    assert "usermod --add-subuids" in refused.stderr
