"""Steps that do not behave: each gives the right result or failure, and leaves nothing behind."""

import os
from pathlib import Path

import pytest


def failed(project, target="bad"):
    """Build what fails; return how."""
    return project.json("-k", status=1).only("failed", target)


# Too long ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["", "tree"])
def test_what_takes_too_long_is_ended(machine, base):
    slow = "echo begun; sleep 600 & sleep 600; echo no"
    bad = {
        "": f'forge.target("bad", Noisy(line="{slow}"), timeout=0.5)',
        "tree": f'forge.target("bad", Change(base=root, line="{slow}", inside=True), timeout="0.5s")',
    }[base]
    machine.forgefile('root = forge.target("root", Root())', bad, 'forge.target("good", Shell(line="echo good"))')
    told = failed(machine)
    assert told["message"] == "took longer than 0.5 s"
    assert told["hint"] == "timeout=… where it is declared sets the limit"
    assert told["tail"] == ["begun"]
    assert told["location"].startswith("Forgefile.py:")
    assert machine.read("good") == "good\n"
    assert os.listdir(machine / ".forge/staging") == []


def test_what_takes_too_long_may_tidy_up_first(machine):
    line = "trap 'echo tidied >&2; exit 0' TERM; echo begun; sleep 600 & wait"
    machine.forgefile(f'forge.target("bad", Noisy(line="{line}"), timeout=0.5)')
    told = failed(machine)
    assert (told["message"], told["tail"]) == ("took longer than 0.5 s", ["begun", "tidied"])


def test_what_ignores_sigterm_is_killed(machine):
    line = "trap '' TERM; echo begun; sleep 600 & while :; do sleep 600; done"
    machine.forgefile(f'forge.target("bad", Noisy(line="{line}"), timeout=0.5)')
    assert failed(machine)["message"] == "took longer than 0.5 s"


def test_what_prints_for_ever_is_ended(machine):
    machine.forgefile('forge.target("bad", Noisy(line="yes"), timeout=0.5)')
    told = failed(machine)
    assert told["message"] == "took longer than 0.5 s"
    assert set(told["tail"]) == {"y"}


def test_all_steps_of_a_target_share_its_time(machine):
    machine.write(
        "slow.py",
        """\
from forgefile import Rule, Run, Sandbox


class Slow(Rule):
    def steps(self, box: Sandbox):
        for number in range(100):
            yield Run(("sleep", "0.1"))
            yield Run(("sh", "-c", f"echo {number}"))
""",
    )
    machine.forgefile("from slow import Slow", 'forge.target("bad", Slow(), timeout=1)')
    ended = machine.json(status=1)
    assert ended.only("failed")["message"] == "took longer than 1 s"
    assert 0 < sum(event["event"] == "output" for event in ended.events) < 20


def test_a_limit_that_is_kept_changes_nothing(machine):
    machine.forgefile('forge.target("a", Shell(line="echo a"))')
    machine.ran()
    machine.forgefile('forge.target("a", Shell(line="echo a"), timeout="1h")')
    machine.nothing_runs()


# Sometimes -----------------------------------------------------------------------------------------------------------

FLAKY = '''\
from forgefile import Cache, Rule, Run, Sandbox, Tree, Write


class Flaky(Rule):
    """A tree that is made at a later try: each leaves a file in a folder that outlives it, and one in the tree."""

    output = "tree"

    base: Tree | None = None
    succeeds: int = 2
    retries: int = 2
    flaky: tuple[str, ...] = ()
    says: str = "the mirror hiccups"

    def steps(self, box: Sandbox):
        line = f"""
            ls {box.out}/made {box.tmp}/made 2>/dev/null && exit 9
            echo >{box.out}/made; echo >{box.tmp}/made
            touch {box.tmp}/tries/$(ls {box.tmp}/tries | grep -c try)-try
            [ $(ls {box.tmp}/tries | grep -c try) = {self.succeeds} ] && exit 0
            echo {self.says}
            exit 7
        """
        yield Write("/before", root=box.out, text="before")
        caches = (Cache(name="tries", path=f"{box.tmp}/tries"),)
        yield Run(("sh", "-c", line), caches=caches, retries=self.retries, flaky=self.flaky)
'''


@pytest.fixture
def flaky(machine):
    machine.write("flaky.py", FLAKY)
    return machine


@pytest.mark.parametrize("base", ["", ", base=root"])
def test_what_fails_once_is_tried_again_from_nothing(flaky, base):
    target = 'forge.target("a", Flaky(flaky=("mirror",)%s))'
    flaky.forgefile("from flaky import Flaky", 'root = forge.target("root", Root())', target % base)
    ended = flaky.json()
    assert ended.targets("built") == ["a", "root"]
    told = ended.only("retrying")
    assert (told["target"], told["message"]) == ("a", "exit status 7")
    assert (told["number"], told["tries"], told["wait_s"]) == (2, 3, 2)
    tree = flaky.exported("a")
    assert (tree / "made").exists()
    assert (tree / "before").read_text() == "before"
    log = flaky.forge("log", "a").out
    assert "the mirror hiccups\nforge: exit status 7; try 2 of 3 in 2 s\n+ write /before\n" in log
    flaky.nothing_runs()


def test_every_try_is_told(flaky):
    flaky.forgefile("from flaky import Flaky", 'forge.target("a", Flaky(succeeds=9, retries=1))')
    out = flaky.forge(status=1).out
    assert "retrying a: exit status 7; try 2 of 2 in 2 s\n" in out
    assert ": exit status 7, after 2 tries\n" in out
    assert os.listdir(flaky / ".forge/staging") == []


def test_what_no_try_will_mend_is_not_tried_again(flaky):
    flaky.forgefile("from flaky import Flaky", 'forge.target("bad", Flaky(flaky=("mirror",), says="no such package"))')
    ended = flaky.json(status=1)
    assert ended.targets("retrying") == []
    assert ended.only("failed")["message"] == "exit status 7"


def test_the_time_of_a_target_is_that_of_all_its_tries(flaky):
    flaky.forgefile("from flaky import Flaky", 'forge.target("bad", Flaky(succeeds=9), timeout=1)')
    ended = flaky.json(status=1)
    assert ended.targets("retrying") == []
    assert ended.only("failed")["message"] == "exit status 7"


def test_retries_decide_no_content(flaky):
    flaky.forgefile("from flaky import Flaky", 'forge.target("a", Flaky(succeeds=1))')
    flaky.ran()
    flaky.forgefile("from flaky import Flaky", 'forge.target("a", Flaky(succeeds=1, retries=5, flaky=("mirror",)))')
    flaky.nothing_runs()


def test_a_command_that_is_tried_again(flaky):
    line = flaky.forgefile('forge.target("a", Command(argv=("false",), stdout=True, retries=-1))')
    assert f"Forgefile.py:{line}: Command field 'retries': is -1" in flaky.forge(status=2).err
    flaky.forgefile('forge.target("bad", Command(argv=("false",), stdout=True, retries=1))')
    assert failed(flaky)["message"] == "exit status 1, after 2 tries"


# What is kept of a failure -------------------------------------------------------------------------------------------

HALF = (
    'root = forge.target("root", Root())',
    'forge.target("d/file", Noisy(line="echo half >$OUT; exit %s" % forge.option("file", "1")))',
    'line = "echo half >/etc/half; exit %s" % forge.option("tree", "1")',
    'forge.target("tree", Change(base=root, line=line, inside=True))',
    'forge.target("new", Noisy(line="false"))',
)


def kept(project):
    """Return what is kept: the names of targets, as the store writes them."""
    return sorted(os.listdir(project / ".forge/failed"))


def test_what_a_failed_target_made_is_kept(machine):
    machine.forgefile(*HALF)
    file, tree = (Path(failed(machine, name)["kept"]) for name in ("d/file", "tree"))
    assert file == machine / ".forge/failed/d%2Ffile"
    assert (file / "out").read_text() == "half\n"
    assert (tree / "out/etc/half").read_text() == "half\n"
    assert not (tree / "out/usr/bin").exists(), "of a tree on another, what was changed"
    assert failed(machine, "new").get("kept") is None
    assert f"  kept         {file}\n" in machine.forge("d/file", status=1).out


def test_what_is_kept_goes_when_it_is_replaced_or_built(machine):
    machine.forgefile(*HALF)
    machine.json("-k", status=1)
    assert kept(machine) == ["d%2Ffile", "tree"], "all that failed in one build"
    machine.json("tree", status=1)
    assert kept(machine) == ["tree"], "and nothing of an earlier one"
    machine.json("d/file", "-D", "file=0")
    assert kept(machine) == ["tree"]
    machine.json("tree", "-D", "tree=0")
    assert kept(machine) == []
    machine.json("tree", "-D", "tree=0 || true")
    machine.json("-k", status=1)
    assert kept(machine) == ["d%2Ffile", "tree"]
    assert machine.json("tree", "-D", "tree=0").targets("restored") == ["tree"]
    assert kept(machine) == ["d%2Ffile"], "restored is as good as built"
    machine.forge("clean", "d/file")
    assert kept(machine) == []
    machine.json("tree", status=1)
    machine.forge("clean")
    assert kept(machine) == []


def test_what_is_kept_is_no_result(machine):
    """It is never served, and a target begins from nothing after it."""
    machine.forgefile(*HALF)
    machine.json("-k", status=1)
    line = machine.read("Forgefile.py").replace("echo half >$OUT; exit", "cat $OUT || true; echo whole >$OUT; exit")
    machine.write("Forgefile.py", line)
    ended = machine.json("d/file", "-D", "file=0")
    assert machine.read("d/file") == "whole\n"
    assert [event["line"] for event in ended.events if event["event"] == "output"] == [
        "cat: /run/forge/out: No such file or directory"
    ]
