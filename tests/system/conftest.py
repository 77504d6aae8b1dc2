"""A copy of the example that is built once for all system tests, and means to run forge on it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

REPO = Path(__file__).parents[2]


class Run(NamedTuple):
    """One run of forge."""

    status: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def targets(self, event: str) -> set[str]:
        return {e["target"] for e in self.events if e["event"] == event}

    def planned(self) -> dict[str, tuple[str, tuple[str, ...]]]:
        return {e["target"]: (e["action"], tuple(e["reasons"])) for e in self.events if e["event"] == "planned"}


class Project(NamedTuple):
    """A folder with a Forgefile."""

    root: Path

    def forge(self, *words: str, env: dict[str, str] | None = None) -> Run:
        done = subprocess.run(
            [sys.executable, "-m", "forgefile", "-C", str(self.root), *words],
            env={**os.environ, "PYTHONPATH": str(REPO), **(env or {})},
            capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return Run(done.returncode, done.stdout, done.stderr)

    def build(self, *words: str, env: dict[str, str] | None = None) -> Run:
        run = self.forge("--json", *words, env=env)
        assert run.status == 0, run.err + run.out[-3000:]
        return run


def new_project(root: Path, cache: Path | None) -> Project:
    """Return a copy of the example whose store has the packages that `cache`, another store's, has."""
    shutil.copytree(REPO / "examples", root, symlinks=True, ignore=shutil.ignore_patterns(".forge", "*.img", "*.qcow2"))
    if cache is not None and cache.is_dir():
        shutil.copytree(cache, root / ".forge" / "cache", copy_function=os.link)
    return Project(root)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose trees are removed afterwards: they take gigabytes."""
    folder = tmp_path_factory.mktemp("system")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def example(scratch: Path) -> Project:
    """The example with everything built: disk.img, disk.qcow2 and the OSTree repository."""
    project = new_project(scratch / "first example", None)
    project.build("disk.img", "disk.qcow2", "ostree")
    return project


@pytest.fixture
def debs(example: Project) -> Path:
    """The packages that the example's store holds."""
    return example.root / ".forge" / "cache"
