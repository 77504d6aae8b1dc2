# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""Names and sizes that break what is careless."""

import os
import subprocess
from pathlib import Path

import pytest
from conftest import PREAMBLE, Project, listing

FOLDERS = ["with space", "comma,colon:equals=", "quote'double\"", "new\nline", "ünïcødé-日本", "back\\slash", "-dash", "star*[x]?", "%41#frag?x=1"]


@pytest.mark.parametrize("name", FOLDERS, ids=range(len(FOLDERS)))
def test_the_projects_folder(project, name):
    project = Project(project.root / name)
    project.forgefile(
        'base = forge.target("base", Empty())',
        'laid = forge.target("laid", Overlay(base=base, source=forge.source("over lay")))',
        'tuned = forge.target("tuned", Script(base=laid, script=forge.source("tune.sh"), where="host"))',
        'forge.target("made.txt", Shell(line="cat $1/etc/a", inputs=(tuned,)))',
    )
    project.write("over lay/etc/a", "a\n")
    project.write("tune.sh", '#!/bin/sh\necho tuned >>"$TREE/etc/a"\n')
    project.forge()
    assert project.read("made.txt") == "a\ntuned\n"
    assert (project.exported("tuned") / "etc/a").read_text() == "a\ntuned\n"
    project.forge("export", "tuned", "tree.tar")
    project.nothing_runs()
    project.write("over lay/etc/a", "b\n")
    assert project.planned()["laid"] == ("run", ["over lay/etc/a: content changed"])
    assert "made.txt" in project.ran()
    project.write("Forgefile.py", project.read("Forgefile.py") + "    1 / 0\n")
    assert "ZeroDivisionError" in project.forge(status=2).err


def test_a_folder_whose_name_is_no_utf8(project):
    project = Project(Path(os.fsdecode(os.fsencode(project.root) + b"/latin-\xe9")))
    project.forgefile('forge.target("a", Command(argv=("cat", forge.source("s")), stdout=True))')
    project.write("s", "s")
    project.forge()
    assert project.read("a") == "s"
    project.nothing_runs()
    project.write("s", "t")
    project.ran()
    assert project.read("a") == "t"


ODD = ["with space", "comma,colon:equals=", "quote'double\"", "new\nline", "ünïcødé", "back\\slash", "-dash", "star*", "$HOME", "a b/c d"]


def test_names_of_sources(project):
    """Whatever a source is called, its content comes through, and an edit is explained."""
    lines = []
    for number, name in enumerate(ODD):
        project.write(name, f"{number}\n")
        lines.append(f'forge.target("t{number}", Command(argv=("cat", forge.source({name!r})), stdout=True))')
    project.forgefile(*lines)
    project.forge()
    assert [project.read(f"t{n}") for n in range(len(ODD))] == [f"{n}\n" for n in range(len(ODD))]
    project.nothing_runs()
    for name in ODD:
        project.write(name, "edited\n")
    plan = project.planned()
    assert [plan[f"t{n}"] for n in range(len(ODD))] == [("run", [f"{name}: content changed"]) for name in ODD]
    assert len(project.ran()) == len(ODD)
    assert "built last because" in project.forge("why", "t3").out
    project.nothing_runs()


def test_names_in_an_overlay(project):
    project.forgefile('forge.target("t", Overlay(base=forge.target("base", Empty()), source=forge.source("o")))')
    names = [name for name in ODD if "/" not in name]
    for name in names:
        project.write(f"o/{name}/{name}", name)
    project.forge()
    tree = project.exported("t")
    assert sorted(os.listdir(tree)) == sorted([*names, "etc"])
    assert all((tree / name / name).read_text() == name for name in names)
    project.write("o/new\nline/new\nline", "edited")
    project.ran()
    out = project.forge("why", "t").out.splitlines()
    assert len(out) == 2, "one reason stays one reason"
    project.nothing_runs()


def test_names_that_are_no_utf8(project):
    project.forgefile('forge.target("t", Overlay(base=forge.target("base", Empty()), source=forge.source("o")))')
    project.write("o/a", "a")
    project.forge()
    odd = os.fsencode(project / "o") + b"/caf\xe9"
    Path(os.fsdecode(odd)).write_text("x")
    assert project.planned()["t"][0] == "run"
    assert project.ran() == ["t"]
    project.forge("why", "t")
    assert os.path.exists(os.fsencode(project.exported("t")) + b"/caf\xe9")
    project.nothing_runs()
    os.unlink(odd)
    assert project.json().targets("restored") == ["t"]


TARGETS = ["with space", "comma,colon:", "quote'double\"", "ünïcødé-日本", "back\\slash", "star*[x]", "$HOME", "a b/c d/e", "....", "x.forge-arriving"]


def test_names_of_targets(project):
    project.forgefile(*(f'forge.target({name!r}, Shell(line="echo {n}"))' for n, name in enumerate(TARGETS)),
                      "inputs = tuple(forge._targets.values())",
                      'forge.target("all", Shell(line=\'for f; do cat "$f"; done\', inputs=inputs))',
                      'forge.target("tree x,y:z", Change(base=forge.target("ba,se", Empty()), line="echo >$OUT/x"))')  # fmt: skip
    project.forge()
    assert [project.read(name) for name in TARGETS] == [f"{n}\n" for n in range(len(TARGETS))]
    assert project.read("all") == "".join(f"{n}\n" for n in range(len(TARGETS)))
    project.nothing_runs()
    for name in TARGETS:
        assert project.json(name).targets("current") == [name]
        project.forge("why", name)
        project.forge("log", name)
    assert (project.exported("tree x,y:z") / "x").exists()


# Sizes ---------------------------------------------------------------------------------------------------------------


def test_many_layers(project):
    count = 105  # more than fit into the options of one mount(2) by their digests
    project.forgefile(
        'tree = forge.target("base", Empty())',
        f"for n in range({count}):",
        '    tree = forge.target(f"layer-{n}", Overlay(base=tree, source=forge.source("s"), destination=f"/etc/{n}"))',
        'forge.default(forge.target("count", Shell(line="ls $1/etc | wc -l", inputs=(tree,))))',
    )
    project.write("s", "s")
    project.forge()
    assert project.read("count") == f"{count + 1}\n"
    assert len(os.listdir(project.exported(f"layer-{count - 1}") / "etc")) == count + 1
    project.nothing_runs()


def test_a_big_sparse_file(project):
    """Holes cost nothing, neither time nor room."""
    project.forgefile(
        'big = forge.target("big.img", Noisy(line="truncate -s 1T $OUT; echo middle | dd of=$OUT bs=1M seek=500000 conv=notrunc status=none"))',
        'forge.target("told", Shell(line="stat -c %s $1; dd if=$1 bs=1M skip=500000 count=1 status=none | head -c 6", inputs=(big,)))',
    )
    project.forge()
    assert project.read("told") == f"{1 << 40}\nmiddle"
    assert (project / "big.img").stat().st_blocks * 512 < 1 << 20
    (project / "big.img").unlink()
    assert project.json("big.img").targets("restored") == ["big.img"]
    os.truncate(project / "big.img", 1 << 39)
    project.ran("big.img")
    assert (project / "big.img").stat().st_size == 1 << 40


@pytest.fixture
def deep(project):
    """A project that is removed by rm, which no depth troubles."""
    yield project
    subprocess.run(["rm", "-rf", project.root.parent / "deep", project.root], check=True)


@pytest.mark.parametrize("depth", [300, 1200])
def test_a_deep_source_folder(deep, depth):
    project = deep
    here = os.getcwd()
    (project / "deep").mkdir()
    try:
        os.chdir(project / "deep")
        for _ in range(depth):
            os.mkdir("d")
            os.chdir("d")
        Path("bottom").write_text("bottom")
    finally:
        os.chdir(here)
    project.forgefile('forge.target("a", Shell(line="find $1 -name bottom | wc -l", inputs=(forge.source("deep"),)))',
                      'forge.target("t", Overlay(base=forge.target("base", Empty()), source=forge.source("deep")))')  # fmt: skip
    project.forge()
    assert project.read("a") == "1\n"
    project.nothing_runs()
    project.forge("clean", "--all")


def test_a_deep_output(deep):
    """A step may make what is deeper than any path can say, and forge can still throw it away."""
    project = deep
    line = "perl -e 'for (1..900) { mkdir qq(dddddddd); chdir qq(dddddddd) or die }'"  # sh's cd wants a whole path
    project.forgefile(f'forge.target("t", Noisy(line="cd /run/forge/tmp; {line}; echo >$OUT"))')
    project.forge()
    assert os.listdir(project / ".forge/staging") == []
    project.nothing_runs()


def test_many_files(project):
    for number in range(3000):
        project.write(f"o/{number % 50}/{number}", str(number))
    project.forgefile('forge.target("t", Overlay(base=forge.target("base", Empty()), source=forge.source("o")))')
    project.forge()
    project.nothing_runs()
    project.write("o/7/7", "seven")
    assert project.planned()["t"] == ("run", ["o/7/7: content changed"])


def test_many_targets(project):
    project.forgefile(
        'top = tuple(forge.target(f"t/{n}", Shell(line=f"echo {n}")) for n in range(60))',
        'forge.default(forge.target("sum", Shell(line="cat \\"$@\\" | wc -l", inputs=top)))',
    )
    project.forge()
    assert project.read("sum") == "60\n"
    project.nothing_runs()


def test_a_tree_of_odd_modes(project):
    """Folders that forbid entry, and files without any permission, are sealed, exported and removed."""
    project.forgefile(
        'base = forge.target("base", Empty())',
        'forge.target("t", Change(base=base, line="mkdir $OUT/d; echo x >$OUT/d/f; chmod 0 $OUT/d/f $OUT/d"))',
        preamble=PREAMBLE,
    )
    project.forge()
    tree = listing(project.exported("t"))
    assert (tree["d"][0], tree["d/f"][0]) == ("0o40000", "0o100000")
    project.nothing_runs()
    project.forge("clean", "--all")
