# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""Forges of several projects at work in one store at the same time."""

import fcntl
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
from conftest import Project, first_lines, nothing_left, until

SLOW = 'forge.target("{0}", Noisy(line="echo {0}-begun; date +%s.%N >$OUT; sleep {1}; date +%s.%N >>$OUT"))'
TURN_S = 0.3
"""Longer than a forge that waits takes to look again."""


def pair(like: Project) -> tuple[Project, Project]:
    """Return two projects beside one, with a store in common."""
    found = [type(like)(like.root.parent / name, like._command) for name in ("one", "two")]
    for each in found:
        each.env = {**like.env, "FORGE_STORE": str(like.root.parent / "store")}
        if like.root.stat().st_uid:
            os.chown(each.root, like.root.stat().st_uid, like.root.stat().st_gid)
    return found[0], found[1]


@pytest.fixture
def two(project):
    return pair(project)


@pytest.fixture
def users_two(users):
    return pair(users)


def ended(process, status=0):
    """Wait for a forge that was started, and return what it printed."""
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (status, ""), (out, err)
    return out


def interrupt(process):
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)


def staging(project):
    return os.listdir(f"{project.env['FORGE_STORE']}/staging")


@pytest.mark.parametrize("whose", ["two", "users_two"])
def test_projects_build_at_the_same_time(request, whose):
    """Neither waits, nor removes what the other's jobs have."""
    one, other = request.getfixturevalue(whose)
    tree = 'base = forge.target("base", Empty(word="{}"))\nforge.target("tree", Change(base=base, line="mkdir $OUT/x; chown -R 5:6 $OUT/x"))'
    one.forgefile(SLOW.format("slow", 600), tree.format("one"))
    other.forgefile(SLOW.format("quick", 0), tree.format("two"))
    first = one.start("--json", "slow")
    first_lines(first, ["slow-begun"])
    second = other.json()
    assert second.targets("built") == ["base", "quick", "tree"]
    assert "note" not in {event["event"] for event in second.events}
    assert first.poll() is None
    (left,) = staging(one)
    begun, done = Path(one.env["FORGE_STORE"], "staging", left, "0/run/out").read_text(), other.read("quick").split()[1]
    assert float(begun) < float(done), "the one that began first has not ended yet"
    interrupt(first)
    assert staging(one) == []
    assert one.ran("tree") == ["base", "tree"]
    one.nothing_runs("tree")
    other.nothing_runs()


@pytest.mark.parametrize("whose", ["two", "users_two"])
def test_one_runs_what_both_want(request, whose):
    """The other says for whom it waits, goes on with what is its own, and takes over what was made."""
    one, other = request.getfixturevalue(whose)
    one.forgefile(SLOW.format("slow", 2))
    other.forgefile(SLOW.format("slow", 2), 'forge.target("mine", Shell(line="echo mine"))')
    first = one.start("--json")
    first_lines(first, ["slow-begun"])
    second = other.json("-j1")
    assert second.only("note")["message"] == f"waiting for the forge that builds here (process {first.pid})"
    assert [(e["event"], e["target"]) for e in second.events if e["event"] in ("started", "built", "restored")] == [
        ("started", "mine"), ("built", "mine"), ("restored", "slow"),
    ]  # fmt: skip
    ended(first)
    assert one.read("slow") == other.read("slow")
    for project in (one, other):
        project.nothing_runs()


def test_what_failed_for_the_other_is_tried(two):
    one, other = two
    for project in two:
        project.forgefile('forge.target("bad", Noisy(line="echo bad-begun; sleep 1; echo half >$OUT; exit 3"))')
    first = one.start("--json")
    first_lines(first, ["bad-begun"])
    second = other.json(status=1)
    ended(first, 1)
    assert "restored" not in {e["event"] for e in second.events}
    kept = {second.only("failed")["kept"]}
    kept.add(one.json(status=1).only("failed")["kept"])
    assert len(kept) == 2
    assert {each.partition("/failed/")[2].partition("%%")[0] for each in kept} == {"bad"}
    for each in kept:
        with open(f"{each}/out", encoding="ascii") as stream:
            assert stream.read() == "half\n"
    shutil.rmtree(other.root)
    one.forge("gc")
    assert [os.path.exists(each) for each in sorted(kept)].count(True) == 1


@pytest.mark.parametrize("whose", ["two", "users_two"])
def test_the_other_takes_over_from_one_that_is_killed(request, whose):
    one, other = request.getfixturevalue(whose)
    for project in (one, other):
        project.forgefile('forge.target("a", Noisy(line="echo a-begun; sleep %s; echo a >$OUT" % forge.option("s", "2")))')
    with nothing_left(one), nothing_left(other):
        first = one.start("--json")
        first_lines(first, ["a-begun"])
        second = other.start("--json")
        first_lines(second, [f"waiting for the forge that builds here (process {first.pid})"])
        first.kill()
        first.communicate()
        out = ended(second)
        assert (out.count('"event": "built"'), out.count('"event": "restored"')) == (1, 0)
    assert staging(other) == []
    assert one.json().targets("restored") == ["a"]


def test_the_one_that_waits_can_be_interrupted(two):
    one, other = two
    for project in two:
        project.forgefile(SLOW.format("slow", 600), 'forge.target("above", Shell(line="cat $1", inputs=(forge.target("x", Shell(line="echo x")),)))')
    first = one.start("--json", "slow")
    first_lines(first, ["slow-begun"])
    second = other.start("--json")
    first_lines(second, ["waiting for the forge", '"target": "above", "wall_s"'])
    os.killpg(second.pid, signal.SIGINT)
    out, err = second.communicate(timeout=20)
    assert (second.returncode, err) == (130, "")
    assert out.count('"event": "skipped"') == 1
    interrupt(first)


def test_a_failure_ends_the_wait(two):
    """Without -k nothing else is begun, and so nothing is waited for."""
    one, other = two
    one.forgefile(SLOW.format("slow", 600))
    other.forgefile(SLOW.format("slow", 600), 'forge.target("bad", Shell(line="exit 3"))')
    first = one.start("--json")
    first_lines(first, ["slow-begun"])
    second = other.json("-j1", status=1)
    assert (second.targets("failed"), second.targets("skipped")) == (["bad"], ["slow"])
    assert first.poll() is None
    interrupt(first)


def test_two_that_want_the_same_in_another_order(two):
    """Each holds only what it runs, so none waits for ever."""
    one, other = two
    targets = [SLOW.format(name, 1) for name in "abcd"]
    one.forgefile(*targets)
    other.forgefile(*targets[::-1])
    running = [project.start("--json", "-j1") for project in two]
    out = "".join(map(ended, running))
    assert (out.count('"event": "built"'), out.count('"event": "restored"')) == (4, 4)
    for project in two:
        project.nothing_runs()


def test_gc_waits_for_all_who_build_and_names_one(two):
    one, _ = two
    for project in two:
        project.forgefile(SLOW.format(project.root.name, 600))
    building = [project.start("--json") for project in two]
    for process, project in zip(building, two, strict=True):
        first_lines(process, [f"{project.root.name}-begun"])
    collecting = one.start("gc")
    said = first_lines(collecting, ["waiting"])[-1]
    assert said in [f"waiting for the forge that builds here (process {process.pid})\n" for process in building]
    interrupt(building[0])
    with pytest.raises(subprocess.TimeoutExpired):
        collecting.wait(timeout=TURN_S)
    interrupt(building[1])
    assert "removed" in ended(collecting)


def test_who_builds_waits_for_gc(two):
    """The test takes the place of `gc`, and holds the same locks for as long as it wants."""
    one, other = two
    for project in two:
        project.forgefile('forge.target("a", Shell(line="echo a"))')
    one.ran()
    with open(f"{one.env['FORGE_STORE']}/lock", encoding="ascii") as lock, open(f"{one.env['FORGE_STORE']}/running", encoding="ascii") as running:
        fcntl.flock(lock, fcntl.LOCK_EX)
        fcntl.lockf(running, fcntl.LOCK_SH, 1, 0)
        process = other.start("--json")
        first_lines(process, [f"waiting for the forge that builds here (process {os.getpid()})"])
        assert one.json().targets("current") == ["a"], "who has nothing to do waits for nobody"
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=TURN_S)
    assert '"event": "restored"' in ended(process)


def test_a_killed_forge_leaves_its_project_to_the_next(two):
    one, _ = two
    one.forgefile(SLOW.format("slow", 600))
    first = one.start("--json")
    first_lines(first, ["slow-begun"])
    second = one.start("--json")
    first_lines(second, [f"waiting for the forge that builds here (process {first.pid})"])
    first.kill()
    first.communicate()
    first_lines(second, ["slow-begun"])
    until(lambda: len(staging(one)) == 1)
    interrupt(second)


def test_clean_and_gc_make_a_snapshot_void(two):
    one, other = two
    for project in two:
        project.forgefile('forge.target("a", Shell(line="echo a"))', f'forge.target("b", Shell(line="echo {project.root.name}"))')
        project.json()
    one.nothing_runs()
    other.forge("clean", "b")
    one.nothing_runs()
    one.forge("gc")
    one.nothing_runs()
    one.forge("clean")
    assert one.ran() == ["a", "b"]
    other.ran()
    other.nothing_runs()
