# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""`forge clean`: what is cleaned is built again, and what others need stays."""

import os

TARGETS = (
    'root = forge.target("root", Root(extra=forge.option("n", "0")))',
    'forge.target("t", Shell(line="cat $1/etc/extra; echo " + forge.option("w", "w"), inputs=(root, forge.source("s"))))',
    'forge.target("same", Shell(line="echo same"))',
)


def test_clean_of_equal_targets(project):
    """The one that stays needs what both had, and the one that is cleaned runs."""
    project.forgefile(*(f'forge.target("{name}", Shell(line="echo equal"))' for name in "ab"))
    project.ran("a")
    assert project.json("b").targets("restored") == ["b"]
    project.forge("clean", "a")
    project.nothing_runs("b")
    assert project.ran("a") == ["a"]
    project.nothing_runs()


def test_clean_of_a_layer_that_others_stand_on(project):
    project.forgefile(
        'base = forge.target("base", Root())', 'forge.target("above", Change(base=base, line="echo x >$OUT/etc/x"))'
    )
    project.ran()
    assert "removed 1 result" in project.forge("clean", "base").out
    assert project.ran("above") == ["base"]
    assert (project.exported("above") / "etc/x").read_text() == "x\n"
    project.nothing_runs()


def test_clean_of_targets_that_are_declared_no_more(project):
    project.forgefile(*(f'forge.target("{name}", Shell(line="echo {name}"))' for name in "ab"))
    project.ran()
    project.forgefile('forge.target("a", Shell(line="echo a"))')
    assert "there is no target 'b'" in project.forge("clean", "b", status=2).err
    assert "removed 2 results and 2 placed files" in project.forge("clean").out
    assert os.listdir(project / ".forge/objects") == []
    assert sorted(os.listdir(project.root)) == [".forge", "Forgefile.py"]


def test_what_lies_where_a_cleaned_file_lay_is_not_replaced(project):
    project.forgefile('forge.target("a", Shell(line="echo a"))')
    project.ran()
    project.forge("clean")
    project.write("a", "mine")
    assert "forge did not put it there" in project.forge(status=2).err
    assert project.read("a") == "mine"


def test_clean_keeps_the_log_of_a_failure_elsewhere(project):
    project.forgefile('forge.target("a", Shell(line="echo a"))', 'forge.target("b", Noisy(line="echo why; exit 1"))')
    project.json("-k", status=1)
    project.forge("clean", "a")
    assert project.forge("log", "b").out.endswith("\nwhy\n")
    project.forge("clean", "b")
    assert "there is no log" in project.forge("log", "b", status=2).err


def test_clean_of_nothing_makes_no_store(project):
    project.forgefile(*TARGETS)
    project.write("s")
    for words in ((), ("--all",), ("t",)):
        assert project.forge("clean", *words).out == "there is no store, so nothing to remove\n"
    assert not (project / ".forge").exists()
