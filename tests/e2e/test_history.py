# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""`forge history`: what the last builds did and how they ended, whatever ended them."""

import json
import os
import shutil
import signal

from tests.e2e.conftest import Project, until

LINES = (
    'suite = forge.option("suite", "one")',
    'a = forge.target("a", Shell(line=f"cat $1; echo {suite}", inputs=(forge.source("words.txt"),)))',
    'b = forge.target("b", Shell(line="cat $1", inputs=(a,)))',
    'tree = forge.target("tree", Empty())',
    'forge.target("bad", Noisy(line="exit 3", inputs=(b,)))',
    'forge.target("above", Noisy(line="echo > $OUT", inputs=(b,)))',
    'forge.target("beyond", Shell(line="cat $1", inputs=(forge.target("slow", Shell(line="echo begun >&2; sleep 60", inputs=(b,))),)))',
    "forge.default(b, tree)",
)


def prepared(project: Project) -> Project:
    project.forgefile(*LINES)
    project.write("words.txt", "words\n")
    return project


def history(project: Project, *words: str) -> list[dict]:
    return [json.loads(line) for line in project.forge("history", "--json", *words).out.splitlines()]


def test_it_tells_what_each_build_did(project):
    prepared(project)
    assert project.forge("history").out == "no build was noted yet\n"
    assert not (project / ".forge").exists()
    project.forge()
    project.write("words.txt", "other words\n")
    project.forge("-q", "b")
    project.forge("-D", "suite=two", "b")
    project.forge("b")
    project.forge("-k", "bad", "above", status=1)
    told = history(project)
    assert [each["build"] for each in told] == [5, 4, 3, 2, 1]
    assert [each["arguments"] for each in told] == [["-k", "bad", "above"], ["b"], ["-D", "suite=two", "b"], ["-q", "b"], []]
    assert [(each["ended"], each["status"]) for each in told] == [("failed", 1), *[("done", 0)] * 4]
    assert told[0]["targets"] == {"failed": ["bad"], "built": ["above"]}
    assert told[1]["targets"] == {"restored": ["a", "b"]}
    assert {name: told[3][name] for name in ("built", "restored", "failed", "skipped")} == {"built": 2, "restored": 0, "failed": 0, "skipped": 0}
    assert sorted(told[4]["targets"]["built"]) == ["a", "b", "tree"]
    assert all(each["wall_s"] > 0 for each in told)
    assert [each["began"] for each in told] == sorted((each["began"] for each in told), reverse=True)
    assert history(project, "-n", "2") == told[:2]
    first, second, *_ = project.forge("history").out.splitlines()
    assert first.split()[0] == "5"
    assert "failed bad; built above" in first
    assert first.endswith("forge -k bad above")
    assert "restored a and b" in second


def test_what_does_nothing_is_not_noted(project):
    prepared(project)
    project.forge()
    project.nothing_runs()
    project.forge("-D", "suite=one")
    project.forge("-n", "bad")
    assert len(history(project)) == 1


def test_a_build_that_runs_and_one_that_was_killed(machine):
    prepared(machine)
    machine.forge("b")
    process = machine.start("--json", "beyond")
    until(lambda: "begun" in process.stdout.readline())
    assert [each["ended"] for each in history(machine)] == ["running", "done"]
    assert "running" in machine.forge("history").out.splitlines()[0]
    assert "build 2 is not over" in machine.forge("report", "--build", "2", status=2).err
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    told = history(machine)[0]
    assert told["ended"] == "killed"
    assert "status" not in told
    assert "wall_s" not in told


def test_a_killed_build_tells_what_it_had_built(machine):
    prepared(machine)
    process = machine.start("--json", "beyond")
    until(lambda: "begun" in process.stdout.readline())
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    machine.forge("tree")
    assert [(each["ended"], each["targets"]) for each in history(machine)] == [
        ("done", {"built": ["tree"]}), ("killed", {"built": ["a", "b"]}),
    ]  # fmt: skip


def test_a_build_that_was_interrupted(machine):
    prepared(machine)
    process = machine.start("--json", "beyond")
    until(lambda: "begun" in process.stdout.readline())
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    told = history(machine)[0]
    assert (told["ended"], told["status"]) == ("interrupted", 130)
    assert sorted(told["targets"]["skipped"]) == ["beyond", "slow"]
    assert "failed" not in told["targets"]


def test_an_edit_is_told_of_targets_that_no_forgefile_was_read_for(project):
    prepared(project)
    project.forge()
    project.write("words.txt", "other words\n")
    project.forge()
    assert history(project)[0]["targets"] == {"built": ["a", "b"]}
    assert history(project)[0]["current"] == 1


def test_it_outlives_gc_and_clean_and_a_broken_forgefile(project):
    prepared(project)
    project.forge()
    project.write("words.txt", "other words\n")
    project.forge()
    before = history(project)
    project.forge("gc")
    project.forge("clean")
    assert history(project) == before
    project.write("Forgefile.py", "def build(forge:\n")
    assert history(project) == before


def test_projects_with_one_store_have_a_history_each(project, tmp_path):
    other = prepared(Project(tmp_path / "other project"))
    for each in (prepared(project), other):
        each.env["FORGE_STORE"] = str(tmp_path / "store")
    project.forge()
    other.forge("tree")
    other.write("words.txt", "other words\n")
    other.forge("b")
    assert [each["arguments"] for each in history(project)] == [[]]
    assert [each["arguments"] for each in history(other)] == [["b"], ["tree"]]
    assert [each["build"] for each in history(other)] == [2, 1]
    shutil.rmtree(other.root)
    project.forge("gc")
    assert not prepared(other).forge("history").out.startswith(" ")
    assert len(history(project)) == 1


def test_a_secret_on_the_command_line_is_hidden(project):
    project.forgefile(
        'forge.option("token", "none")',
        'token = forge.secret("token", env="TOKEN")',
        'forge.target("a", Shell(line="sha256sum $1", inputs=(token,)))',
    )
    project.env["TOKEN"] = "correct horse battery"
    project.forge("-D", "token=correct horse battery", status=None)
    assert history(project)[0]["arguments"] == ["-D", "token=***"]
    assert "correct horse" not in project.forge("history").out
    project.forge("report")
    assert "correct horse" not in project.read("forge-report.html")
    assert "***" in project.read("forge-report.html")


def test_odd_command_lines_are_told_as_they_can_be_pasted(project):
    prepared(project)
    project.forge("-D", "suite=a b\x1b[2J\udcff", "b")
    assert history(project)[0]["arguments"] == ["-D", "suite=a b\x1b[2J\udcff", "b"]
    assert "'suite=a b" in project.forge("history").out
    assert "\x1b" not in project.forge("history").out


def test_it_is_read_where_nothing_can_be_written_and_refuses_what_makes_no_sense(users):
    prepared(users)
    users.forge()
    before = users.store()
    users.forge("history")
    assert users.store() == before
    for words, said in (
        (("history", "-n", "0"), "expected a number from 1, got '0'"),
        (("history", "-n", "x"), "expected a number from 1, got 'x'"),
        (("history", "x"), "unrecognized arguments: x"),
        (("history", "-f", "none.py", "--store", "nowhere"), "there is no none.py"),
    ):
        ended = users.forge(*words, status=2)
        assert said in ended.err
        assert not ended.out
