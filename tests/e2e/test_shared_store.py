# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""A store elsewhere than beside the Forgefile, alone or with other projects."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from conftest import first_lines

TARGETS = (
    'root = forge.target("root", Root(extra=forge.option("n", "0")))',
    'forge.target("t", Shell(line="cat $1/etc/extra; echo " + forge.option("w", "w"), inputs=(root, forge.source("s"))))',
    'forge.target("same", Shell(line="echo same"))',
)


@pytest.fixture
def two(project):
    """Two projects with targets of the same names, and one store."""
    projects = [type(project)(project.root.parent / name) for name in ("one", "two")]
    for each in projects:
        each.env["FORGE_STORE"] = str(project.root.parent / "store")
        each.forgefile(*TARGETS)
        each.write("s", "source")
    return projects


def listed(project, target):
    """Return what `list --json` says of a target."""
    (found,) = [json.loads(line) for line in project.forge("list", "--json", target).out.splitlines()]
    return found


# Where it lies


@pytest.mark.parametrize("words", [("--store", "elsewhere"), ("--store=elsewhere",)])
def test_the_option_names_the_store(project, words):
    project.forgefile(*TARGETS)
    project.write("s")
    assert project.ran(*words) == ["root", "same", "t"]
    assert sorted(os.listdir(project.root)) == ["Forgefile.py", "elsewhere", "s", "same", "t"]
    assert project.json(*words).targets("current") == ["root", "same", "t"]
    for verb in (("list",), ("why",), ("log", "t"), ("doctor",), ("gc", "-n")):
        project.forge(*verb, *words)
        project.forge(*words, *verb)
    project.forge("export", "root", str(project.root / "tree"), *words)
    assert "elsewhere/logs" in project.json(*words, "-D", "w=; exit 1", "t", status=1).only("failed")["log"]
    project.forge("clean", "--all", *words)
    assert sorted(os.listdir(project.root)) == ["Forgefile.py", "s", "tree"]


def test_the_option_comes_before_the_environment_and_is_where_the_user_goes(project):
    project.forgefile(*TARGETS)
    project.write("s")
    project.env["FORGE_STORE"] = "from-environment"
    project.ran("same")
    below = type(project)(project / "below")
    below.env["FORGE_STORE"] = "nowhere"
    below.forge("-C", "..", "--store", "from-option", "same")
    below.forge("-f", "../Forgefile.py", "--store", "../from-environment", "same")
    assert {"from-environment", "from-option"} < set(os.listdir(project.root))
    assert os.listdir(below.root) == []
    project.env["FORGE_STORE"] = ""
    assert project.ran("same") == ["same"]
    assert (project / ".forge").is_dir()


REFUSED = {
    "the project's folder": (".", "lies in the store"),
    "in a source": ("s/store", "the source 's' holds the store"),
    "a folder of other things": ("s", "the source 's' holds the store"),
    "where a target is placed": ("images", "'images/a' lies in the store"),
    "a folder of someone else's": ("other", "holds 'thesis.tex' and is no store of forge's"),
    "below a file": ("Forgefile.py/x", "cannot be made: Not a directory"),
    "nothing": ("", "--store names no folder"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_places_that_are_refused(project, name):
    store, says = REFUSED[name]
    project.forgefile('forge.target("images/a", Shell(line="ls $1", inputs=(forge.source("s"),)))')
    project.write("s/file")
    project.write("other/thesis.tex", "precious")
    before = sorted(project.root.rglob("*"))
    for words in (("list",), ("clean", "--all"), ("gc",), ("gc", "-n")):
        project.forge(*words, "--store", store, status=None)
    assert says in project.forge("--store", store, status=2).err
    assert [path for path in sorted(project.root.rglob("*")) if "__pycache__" not in str(path)] == before


def test_a_store_on_another_file_system(project):
    """Nothing can be linked or cloned there: what is placed is copied, holes and all."""
    project.forgefile(*TARGETS, 'forge.target("holes", Noisy(line="echo x >$OUT; truncate -s 100M $OUT"))')
    project.write("s")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        assert os.stat(folder).st_dev != os.stat(project.root).st_dev, "this machine's /dev/shm is where tests run"
        project.env["FORGE_STORE"] = f"{folder}/store"
        project.ran()
        assert project.read("t") == "0w\n"
        assert (project / "holes").stat().st_blocks < 100
        assert project.read("holes")[:3] == "x\n\0"
        project.nothing_runs()
        project.write("t", "mine")
        assert project.json().targets("restored") == ["t"]
        (project / "t").unlink()
        assert project.json().targets("restored") == ["t"]
        assert (project.exported("root") / "etc/extra").read_text() == "0"
        project.forge("export", "holes", str(project.root / "copy"))
        assert (project / "copy").stat().st_blocks < 100
        project.forge("gc")
        project.nothing_runs()


def test_a_store_that_can_only_be_read(two, small_disk):
    one, other = two
    store = one.env["FORGE_STORE"]
    one.ran()
    read_only = small_disk(f"mount --bind {store} {store}; mount -o remount,bind,ro {store}")
    for project in two:
        project.forge("-n", prefix=read_only)
        project.forge("list", "--json", prefix=read_only)
        project.forge("why", prefix=read_only)
        project.forge("export", "root", str(project.root / "tree"), prefix=read_only)
        assert (project / "tree/etc/extra").read_text() == "0"
    assert one.forge(prefix=read_only).out == "t and same are up to date\n"
    one.forge("log", "t", prefix=read_only)
    one.forge("gc", "-n", prefix=read_only)
    for words in (("-D", "w=x"), ("clean",), ("clean", "--all"), ("gc",)):
        ended = one.forge(*words, status=2, prefix=read_only)
        assert f"{store} cannot be written" in ended.err
    assert "cannot be written" in other.forge(status=2, prefix=read_only).err
    one.nothing_runs()


# What is shared, and what is not


def test_results_are_shared_and_the_rest_is_not(two):
    one, other = two
    assert one.ran() == ["root", "same", "t"]
    assert other.planned()["root"] == ("restore", ["an equal target was built before"])
    assert "never ran" in other.forge("log", "t", status=2).err
    assert "last_s" not in listed(other, "t")
    assert other.json().targets("restored") == ["root", "same", "t"]
    assert other.read("t") == "0w\n"
    assert listed(other, "t")["last_s"] == listed(one, "t")["last_s"]
    other.nothing_runs()
    assert other.ran("-D", "w=x") == ["t"]
    assert "echo x" in other.forge("log", "t").out
    assert "echo w" in one.forge("log", "t").out
    assert one.read("t") == "0w\n"
    assert one.json().targets("current") == ["root", "same", "t"], "the other's latest result is the other's"
    assert one.forge("why", "t").out.splitlines() == [
        "t is up to date",
        "  built last because: it had never been built",
    ]
    assert other.forge("why", "t").out.splitlines()[0] == "t would be restored"
    assert one.json("-D", "w=x").targets("restored") == ["t"]
    assert one.read("t") == "0x\n"


def test_what_a_user_does_to_one_projects_file_does_not_reach_the_other(two):
    one, other = two
    one.ran()
    other.json()
    inodes = {(each / "same").stat().st_ino for each in two}
    assert len(inodes) == 2
    for mine, theirs in (two, two[::-1]):
        mine.write("same", "mine")
        assert theirs.read("same") == "same\n"
        theirs.json()
        assert theirs.read("same") == "same\n"
        mine.json()
        assert mine.read("same") == "same\n"


def test_two_that_build_at_once(two):
    one, other = two
    for project in two:
        project.forgefile(
            f'forge.target("slow", Noisy(line="echo slow-begun; sleep 1; echo {project.root.name} >$OUT"))'
        )
    running = [project.start("--json") for project in two]
    ended = [(*process.communicate(timeout=60), process.returncode) for process in running]
    assert [status for *_, status in ended] == [0, 0], ended
    assert (one.read("slow"), other.read("slow")) == ("one\n", "two\n")
    for project in two:
        project.nothing_runs()


def test_two_that_build_the_same_at_once(two):
    """Each target is built by one of them, and the other takes it over."""
    for project in two:
        project.forgefile(
            'a = forge.target("a", Noisy(line="echo a-begun; sleep 0.5; echo a >$OUT"))',
            'b = forge.target("b", Noisy(line="sleep 0.5; cat $1 >$OUT", inputs=(a,)))',
            f'forge.target("c", Noisy(line="cat $1 >$OUT; echo {project.root.name} >>$OUT", inputs=(b,)))',
        )
    one, other = two
    first = one.start("--json")
    first_lines(first, ["a-begun"])
    second = other.json()
    out, err = first.communicate(timeout=60)
    assert (first.returncode, err) == (0, "")
    assert out.count('"event": "built"') == 3
    assert second.only("note")["message"] == f"waiting for the forge that builds here (process {first.pid})"
    assert (second.targets("restored"), second.targets("built")) == (["a", "b"], ["c"])
    assert (one.read("c"), other.read("c")) == ("a\none\n", "a\ntwo\n")
    for project in two:
        project.nothing_runs()


def test_who_has_nothing_to_build_waits_for_nobody(two):
    one, other = two
    for project in two:
        project.forgefile('forge.target("a", Noisy(line="echo a-begun; sleep %s; echo a >$OUT" % forge.option("s", "0")))')
    other.ran()
    first = one.start("--json", "-D", "s=600")
    first_lines(first, ["a-begun"])
    assert other.json().targets("current") == ["a"]
    other.forge("list")
    other.forge("export", "a", str(other.root / "copy"))
    assert first.poll() is None
    first.terminate()
    first.communicate(timeout=60)


@pytest.mark.parametrize("attempt", range(3))
def test_many_projects_at_once(two, attempt):
    """They begin in a store that is not there yet, and each step runs once."""
    one, _ = two
    many = [type(one)(one.root.parent / f"p{number}") for number in range(4)]
    for project in many:
        project.env = one.env
        project.forgefile(*TARGETS)
        project.write("s", "source")
    running = [project.start("--json") for project in many]
    ended = [(*process.communicate(timeout=120), process.returncode) for process in running]
    assert [(err, status) for _, err, status in ended] == [("", 0)] * 4, ended
    assert "".join(out for out, *_ in ended).count('"event": "built"') == 3
    assert {project.read("t") for project in many} == {"0w\n"}
    for project in many:
        project.nothing_runs()


def test_a_project_with_its_store_can_be_moved(project):
    project.forgefile(*TARGETS)
    project.write("s")
    project.ran()
    moved = type(project)(project.root.parent / "moved")
    shutil.rmtree(moved.root)
    project.root.rename(moved.root)
    assert moved.planned()["root"] == ("none", [])
    assert moved.json().targets("built") == []
    assert moved.planned("-D", "n=1")["root"] == ("run", ["write /etc/extra: content changed"])
    moved.forge("gc")
    moved.nothing_runs()


# clean


def test_clean_leaves_what_the_other_project_needs(two):
    one, other = two
    one.ran()
    other.json()
    assert "removed 3 results and 2 placed files" in one.forge("clean").out
    other.nothing_runs()
    assert sorted(os.listdir(one.root)) == ["Forgefile.py", "s"]
    assert "never built" in one.forge("why", "t").out
    assert one.ran() == ["root", "same", "t"], "cleaned means built again, not fetched from the other"
    other.nothing_runs()


def test_clean_of_one_target(two):
    one, other = two
    one.ran()
    other.json()
    assert "removed 1 result and 0 placed files" in other.forge("clean", "ro*").out
    assert other.ran() == ["root"]
    one.nothing_runs()
    ended = one.forge("clean", "root", "rot", status=2)
    assert "there is no target 'rot'" in ended.err
    assert "did you mean 'root'?" in ended.err
    one.nothing_runs()


def test_clean_all_of_a_shared_store(two):
    one, other = two
    one.ran()
    other.ran("-D", "w=x")
    ended = one.forge("clean", "--all", status=2)
    assert f"has results of other projects: {other.root}" in ended.err
    assert "hint: forge clean, without --all" in ended.err
    one.nothing_runs()
    other.forge("clean")
    one.forge("clean", "--all")
    assert not Path(one.env["FORGE_STORE"]).exists()
    one.ran()
    other.ran("-D", "w=x")
    shutil.rmtree(other.root)
    one.forge("clean", "--all")
    assert not Path(one.env["FORGE_STORE"]).exists()
