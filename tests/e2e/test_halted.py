# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""Where a target failed: `forge shell --failed` looks there, `forge build --resume` goes on from there."""

import json
import os

import pytest
from conftest import PREAMBLE

MULTI = PREAMBLE + '''
class Multi(Rule):
    """Three programs, of which the second is a script, on a tree or on nothing."""

    output = "tree"

    base: Tree | None = None
    script: Source
    last: str = "echo last >>$OUT/last"

    def steps(self, box: Sandbox) -> Iterable[Step]:
        yield Copy(box.path(self.script), f"{box.tmp}/script", mode=0o755)
        yield Run(("sh", "-ec", "echo first >>$OUT/first; echo t >/run/forge/tmp/t"), env={"OUT": box.out})
        yield Run((f"{box.tmp}/script",), env={"OUT": box.out, "WHO": "me"})
        yield Run(("sh", "-ec", self.last), env={"OUT": box.out})


'''
DECLARED = (
    'root = forge.target("root", Root())',
    'script, last = forge.source("s.sh"), forge.option("last", "echo last >>$OUT/last")',
    'made = forge.target("d/made", Multi(base=root, script=script, last=last))',
    'top = forge.target("top", Change(base=made, line="cat /first >/top", inside=True))',
    'forge.target("file", Shell(line="cat $1/top $1/second $1/last", inputs=(top,)))',
    'forge.target("new", Multi(script=script))',
    'forge.target("small", Noisy(line="echo half >$OUT; exit 3", inputs=(root,)))',
)
BAD = "#!/bin/sh\necho bad >>$OUT/second\nexit 7\n"
GOOD = "#!/bin/sh\necho good >>$OUT/second\n"
FORGE = ("shell", "--failed")


@pytest.fixture
def broken(anyone):
    """A project, of root or of an ordinary user, in which a target has failed at its third step of four."""
    anyone.write("s.sh", BAD)
    anyone.forgefile(*DECLARED, preamble=MULTI)
    ended = anyone.json("file", status=1)
    assert ended.only("failed")["hint"] == "forge shell --failed shows what it had made, where it failed"
    anyone.write("s.sh", GOOD)
    return anyone


def unclean(project):
    """Return the targets that the list says are not clean."""
    rows = [json.loads(line) for line in project.forge("list", "--json").out.splitlines()]
    shown = project.forge("list").out.splitlines()
    found = [row["target"] for row in rows if row.get("clean") is False]
    assert [line.lstrip(" *").split()[0] for line in shown if " not clean " in line] == found
    return found


def test_a_failure_is_looked_at_and_gone_on_from(broken):
    look = "cat $OUT/first $OUT/second; echo $WHO $FORGE_TARGET; ls /run/forge/tmp; echo mine >>$OUT/first"
    for _ in range(2):
        assert broken.forge(*FORGE, "--", "sh", "-c", look).out == "first\nbad\nme d/made\nscript\nt\n"
    broken.forge(*FORGE, "d/made", "--keep", "kept", "--", "sh", "-c", "echo kept >$OUT/kept; rm $OUT/second")
    assert os.listdir(broken / "kept") == ["kept"]

    assert broken.planned("--resume", "d/made")["d/made"][1][-1] == "goes on from step 3"
    ended = broken.json("--resume", "file")
    assert [each["command"].split()[0] for each in ended.events if each.get("target") == "d/made" and each["event"] == "step"] == ["copy", "/run/forge/tmp/script", "sh"]
    assert ended.only("note")["message"] == "d/made goes on from step 3"
    assert {each["target"]: each.get("clean") for each in ended.events if each["event"] in ("built", "current")} == {
        "root": None, "d/made": False, "top": False, "file": False,
    }  # fmt: skip
    assert ended.only("finished")["unclean"] == ["d/made", "top", "file"]
    assert broken.read("file") == "first\nbad\ngood\nlast\n"
    assert unclean(broken) == ["d/made", "top", "file"]
    assert "no target has failed" in broken.forge(*FORGE, status=2).err

    again = broken.forge("--resume", "file").out
    assert again.splitlines()[-1] == "not clean, since a build was resumed: d/made, top and file; forge without --resume builds them whole"
    assert broken.planned("file")["d/made"] == ("run", ["it was resumed after a failure, and so is not clean"])
    ended = broken.json("file")
    assert ended.targets("built") == ["d/made", "file", "top"]
    assert broken.read("file") == "first\ngood\nlast\n"
    assert unclean(broken) == []
    assert "unclean" not in broken.json("--resume", "file").only("finished")
    broken.nothing_runs("file")


def test_a_step_before_it_has_changed(project):
    """It goes on from there; a resumed build that fails can be resumed again, and what is the same is clean."""
    project.write("s.sh", GOOD)
    project.forgefile(*DECLARED, preamble=MULTI)
    project.forge("d/made", "-D", "last=exit 1", status=1)
    project.write("Forgefile.py", project.read("Forgefile.py").replace("echo first >>", "echo FIRST >"))
    ended = project.json("d/made", "-D", "last=exit 2", "--resume", status=1)
    assert ended.only("note")["message"] == "d/made goes on from step 2"
    ended = project.json("top", "--resume")
    assert ended.only("note")["message"] == "d/made goes on from step 4"
    assert unclean(project) == ["d/made", "top"]
    project.write("s.sh", "#!/bin/sh\necho good >>$OUT/second\necho good >>$OUT/second\n")
    ended = project.json("top")
    assert ended.targets("built") == ["d/made"], "built whole, it is as it was, and so is what was made of it"
    assert unclean(project) == []


def test_what_cannot_be_resumed_is_built_whole(project):
    project.write("s.sh", BAD)
    project.forgefile(*DECLARED, preamble=MULTI)
    for target in ("small", "d/made"):
        project.forge(target, status=1)
        if target == "small":
            assert project.forge(*FORGE, "--", "cat", "/run/forge/out").out == "half\n"
    project.forge("small", status=1)
    assert "small is built whole: no step of it would be spared" in project.forge("small", "--resume", status=1).out
    project.forge("d/made", status=1)
    project.write("s.sh", GOOD)
    project.write("Forgefile.py", project.read("Forgefile.py").replace("Root()", 'Root(extra="x")'))
    ended = project.json("d/made", "--resume")
    assert ended.only("note")["message"] == "d/made is built whole: the tree that it builds on is another one"
    assert unclean(project) == []
    assert "note" not in {each["event"] for each in project.json("new", "--resume").events}


def test_a_tree_on_nothing(project):
    project.write("s.sh", BAD)
    project.forgefile(*DECLARED, preamble=MULTI)
    project.forge("new", status=1)
    assert project.forge(*FORGE, "--", "sh", "-c", "cat $OUT/first; echo x >>$OUT/first").out == "first\n"
    project.write("s.sh", GOOD)
    assert project.json("new", "--resume").only("built")["clean"] is False
    tree = project.root / ".forge/layers"
    assert [(path / "first").read_text() for path in tree.iterdir() if (path / "second").exists()] == ["first\n"]


def test_secrets_are_there_and_not_kept(project):
    project.write("token", "very-secret-token")
    project.write("s.sh", "#!/bin/sh\nexit 5\n")
    project.forgefile(
        'root = forge.target("root", Root())', 'token = forge.secret("token", file="token")',
        'forge.target("tree", Script(base=root, script=forge.source("s.sh"), inputs=(token,)))',
    )  # fmt: skip
    project.forge("tree", status=1)
    assert project.forge(*FORGE, "--", "sh", "-c", "cat $FORGE_SECRETS/token").out == "very-secret-token"
    assert b"very-secret-token" not in b"".join(path.read_bytes() for path in (project / ".forge").rglob("*") if path.is_file())


def test_what_it_was_made_from_is_gone(project):
    project.write("s.sh", BAD)
    project.forgefile(*DECLARED, preamble=MULTI)
    project.forge("d/made", status=1)
    os.unlink(project / "s.sh")
    project.write("Forgefile.py", project.read("Forgefile.py").replace('forge.source("s.sh")', 'forge.source("Forgefile.py")'))
    error = project.forge(*FORGE, status=2).err
    assert "what 'd/made' was made from is not there any more" in error
    assert error.count("forge:") == 1
