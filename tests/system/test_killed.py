"""The example is killed at random moments of all its targets: nothing is left, and what it becomes is the same."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.system.conftest import REPO, Project, new_project
from tests.system.test_example import ALL, sha256

pytestmark = pytest.mark.system

MARK = "FORGE_KILLED_TEST"
WHOM = ("all", "forge", "one")
"""Who is killed: all processes, forge alone, or any one of those that it started."""


def tables() -> tuple[str, ...]:
    """Return what is mounted on the host, and the loop devices that are used."""
    commands = (("findmnt", "--noheadings", "--list", "--output=TARGET,SOURCE,OPTIONS"), ("losetup", "--all"))
    return tuple(subprocess.run(argv, capture_output=True, text=True, check=False).stdout for argv in commands)


def processes(mark: str, namespaces: set[str]) -> dict[int, str]:
    """Return the processes that forge's environment or a mount namespace tells, with their mount namespaces."""
    found = {}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError):
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")
            if f"{MARK}={mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes() or namespace in namespaces:
                found[int(pid)] = namespace
    return found


def wait_until_all_have_ended(mark: str, namespaces: set[str]) -> None:
    end = time.monotonic() + 20
    while left := processes(mark, namespaces):
        assert time.monotonic() < end, left
        time.sleep(0.05)


def kill(forge: subprocess.Popen[str], mark: str, whom: str, choice: random.Random) -> None:
    """Kill what runs for forge, see all of it end and the host be as before."""
    running = processes(mark, set())
    theirs = set(running.values()) - {os.readlink("/proc/self/ns/mnt")}
    below = sorted(processes(mark, theirs).keys() - {forge.pid})
    victims = {"all": [forge.pid, *below], "forge": [forge.pid], "one": [choice.choice(below)] if below else []}
    for pid in victims[whom]:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    if whom == "one":
        forge.send_signal(signal.SIGTERM)
    _, err = forge.communicate(timeout=120)
    assert "Traceback" not in err, err
    wait_until_all_have_ended(mark, theirs)


@pytest.fixture
def project(scratch: Path, debs: Path) -> Iterator[Project]:
    """A copy of the example with its packages downloaded."""
    made = new_project(scratch / "killed", debs)
    yield made
    shutil.rmtree(made.root)


def test_kills_at_random_moments_of_every_target(example: Project, project: Project) -> None:
    seed = random.randrange(1 << 32)
    sys.stdout.write(f"seed {seed}\n")  # pytest shows it when the test fails
    choice = random.Random(seed)
    listed = [json.loads(line) for line in example.forge("list", "--json").out.splitlines()]
    seconds = {entry["target"]: entry.get("last_s", 1.0) for entry in listed if "target" in entry}
    before = tables()
    for number, target in enumerate([*seconds, "packages", *seconds]):
        mark = f"{seed}-{number}"
        forge = subprocess.Popen(
            [sys.executable, "-m", "forgefile", "-C", str(project.root), "--json", "-j1", target],
            env={**os.environ, "PYTHONPATH": str(REPO), MARK: mark}, text=True, errors="replace",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert forge.stdout is not None
        for line in forge.stdout:
            event = json.loads(line)
            if event["event"] == "started" and event["target"] == target:
                break
        time.sleep(choice.uniform(0, 0.9) * min(seconds[target], 20))
        kill(forge, mark, WHOM[number % len(WHOM)], choice)
        assert tables() == before
    project.build(*ALL)
    for name in ("disk.img", "disk.qcow2"):
        assert sha256(project.root / name) == sha256(example.root / name), name
    layers, others = (set(os.listdir(each.root / ".forge/layers")) for each in (project, example))
    assert layers <= others
    assert os.listdir(project.root / ".forge/staging") == []
    assert project.build(*ALL).targets("started") == set()
