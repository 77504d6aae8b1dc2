# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""What cannot be: exit status 2, one clear error with the Forgefile's line, nothing run, nothing lost."""

import os
import re
import subprocess

import pytest

from tests.e2e.conftest import COMMAND


def refused(project, *words, line=None, says=(), hint=None, prefix=()):
    """A run is refused as it should be; return what it said."""
    before = {k: v for k, v in project.store().items() if "records" not in k and k != ".forge/lock"}
    ended = project.forge(*words, status=2, prefix=prefix)
    assert ended.err.startswith("forge: "), ended.err
    assert "Traceback" not in ended.err
    assert len(re.findall("^forge: ", ended.err, re.MULTILINE)) == 1
    if line is not None:
        assert ended.err.startswith(f"forge: Forgefile.py:{line}: "), ended.err
        assert f"{line} | " in ended.err.splitlines()[1]
    for text in (says,) if isinstance(says, str) else says:
        assert text in ended.err
    if hint:
        assert f"hint: {hint}" in ended.err
    assert "building" not in ended.out
    assert not (project / "ran").exists()
    after = {k: v for k, v in project.store().items() if "records" not in k and k != ".forge/lock"}
    assert {k: v for k, v in after.items() if "/objects/" in k or "/layers/" in k or "/logs/" in k} == {
        k: v for k, v in before.items() if "/objects/" in k or "/layers/" in k or "/logs/" in k
    }
    return ended.err


RAN = 'forge.target("ran", Shell(line="echo"))'


def test_an_unknown_target(project):
    project.forgefile(RAN, 'forge.target("disk.img", Shell(line="echo"))')
    refused(project, "disk.imq", says="there is no target 'disk.imq'", hint="did you mean 'disk.img'?")
    refused(project, "ran", "nothing/*", says="there is no target 'nothing/*'")
    refused(project, "why", "disk.imq", hint="did you mean 'disk.img'?")
    refused(project, "-n", "disk.imq", hint="did you mean 'disk.img'?")


@pytest.mark.parametrize("word", ["graf", "lsit", "shel", "cleen", "Build", "build.", ""])
def test_a_word_like_a_command(project, word):
    project.forgefile(RAN)
    refused(project, word, says="no target" if word else "")


def test_unknown_options(project):
    line = project.forgefile('forge.option("suite", "a", choices=("a", "beta"))', RAN)
    refused(project, "-D", "siute=a", says="there is no option 'siute'", hint="did you mean 'suite'?")
    refused(project, "-D", "suite=bate", line=line, says="'suite' cannot be 'bate'", hint="did you mean 'beta'?")
    refused(project, "-D", "suite", says="expected NAME=VALUE")
    refused(project, "-D", "=x", says="expected NAME=VALUE")
    refused(project, "-D", "suite=", line=line)


@pytest.mark.parametrize("jobs", ["0", "-1", "x", "1.5", "", "²"])
def test_bad_jobs(project, jobs):
    project.forgefile(RAN)
    refused(project, f"--jobs={jobs}", says="expected a number from 1")


@pytest.mark.parametrize("words", [("--nope",), ("-j",), ("--trace",), ("log",), ("export", "ran"), ("list", "--nope"), ("-x", "ran")])
def test_bad_command_lines(project, words):
    project.forgefile(RAN)
    refused(project, *words)


CASES = {
    "two targets of one name": (RAN, "there are two targets 'ran'", None),
    "a name that leaves": ('forge.target("../out", Shell(line="echo"))', "leads out of the project folder", None),
    "a name that leaves inside": ('forge.target("a/../../out", Shell(line="echo"))', "leads out", None),
    "an absolute name": ('forge.target("/tmp/out", Shell(line="echo"))', "leads out of the project folder", None),
    "an option's name": ('forge.target("-k", Shell(line="echo"))', "looks like an option", None),
    "a name that is no path": ('forge.target("a//b", Shell(line="echo"))', "plain relative path", None),
    "a dot": ('forge.target(".", Shell(line="echo"))', "plain relative path", None),
    "a name in the store": ('forge.target(".forge/objects/x", Shell(line="echo"))', "plain relative path", None),
    "a newline in a name": ('forge.target("a\\nb", Shell(line="echo"))', "plain relative path", None),
    "the name of a command": ('forge.target("list", Shell(line="echo"))', "forge has a command of that name", None),
    "the name of a later command": ('forge.target("gc", Shell(line="echo"))', "forge has a command of that name", None),
    "a name below a target": ('forge.target("ran/below", Shell(line="echo"))', "it lies in 'ran', which is a target", None),
    "no name": ('forge.target("", Shell(line="echo"))', "cannot be a target's name", None),
    "no rule": ('forge.target("a", "echo")', "needs a rule, not str", None),
    "a rule's class": ('forge.target("a", Shell)', "needs a rule", None),
    "a missing source": ('forge.source("mising.txt")', "the source 'mising.txt' does not exist", "did you mean 'missing.txt'?"),
    "no source of a glob": ('forge.sources("*.nope")', "no source matches '*.nope'", None),
    "a source that is no text": ("forge.source(3)", "a source is named by a path", None),
    "an unknown field": ('forge.target("a", Shell(lien="echo"))', "Shell has no field 'lien'", "did you mean 'line'?"),
    "a missing field": ('forge.target("a", Shell())', "Shell needs the field 'line'", None),
    "a wrong type": ('forge.target("a", Shell(line=3))', "Shell field 'line': expected str, got int 3", None),
    "a text for a tuple": ('Command(argv="sort x", stdout=True)', "got the string 'sort x'", "write a tuple: ('sort', 'x')"),
    "a text for a handle": ('forge.target("a", Overlay(base="ran", source=forge.source("missing.txt")))', "field 'base'", None),
    "a file for a tree": (
        'forge.target("a", Change(base=forge.target("b", Shell(line="echo")), line=""))',
        "expected the handle of a tree target, got the handle of the file target 'b'", None,
    ),
    "a positional argument": ('forge.target("a", Shell("echo"))', "positional", None),
    "an exception": ("1 / 0", "ZeroDivisionError: division by zero", None),
    "a name that is not defined": ("Shel(line='echo')", "NameError: name 'Shel' is not defined", None),
    "setting a field": ('Shell(line="a").line = "b"', "frozen", None),
    "a default that is a text": ('forge.default("ran")', "takes handles of targets", None),
    "an option twice": ('forge.option("o", "a"); forge.option("o", "a")', "declared twice", None),
    "a default that is no choice": ('forge.option("o", "a", choices=("b",))', "'o' cannot be 'a'", None),
    "a missing tool": ('forge.target("a", Command(argv=("mkfs.nope",), stdout=True))', "needs mkfs.nope", "install what provides it, or put it on PATH"),
    "a missing tool of a package": (
        'forge.target("a", Command(argv=("sh", OUT), tools=("/usr/lib/grub/i386-pc/nope",)))', "grub", "apt-get install grub-pc-bin",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.replace(" ", "-"))
def test_a_forgefile_that_is_wrong(project, case):
    text, says, hint = CASES[case]
    project.write("missing.txt")
    line = project.forgefile(RAN, text) + 1
    refused(project, line=line, says=says, hint=hint)


def test_wrong_in_a_helper_function_names_both_lines(project):
    line = project.forgefile("def helper(name):", "    forge.target(name, Shell(line=4))", 'helper("a")', RAN)
    said = refused(project, says="expected str, got int 4")
    assert f"Forgefile.py:{line + 1} (called from Forgefile.py:{line + 2}" in said


def test_words_that_no_program_can_be_given(project):
    line = project.forgefile('forge.target("ran", Command(argv=("echo", "\\ud800"), stdout=True))')
    refused(project, line=line, says=("target 'ran'", "UnicodeEncodeError"))


def test_a_rule_whose_steps_fail(project):
    line = project.forgefile(
        "class Bad(Rule):", "    def steps(self, box):", "        raise KeyError('x')", RAN, 'forge.target("bad", Bad())'
    )
    refused(project, line=line + 4, says=("target 'bad'", "KeyError"))
    line = project.forgefile("class Bad(Rule):", "    pass", RAN, 'forge.target("bad", Bad())')
    refused(project, line=line + 3, says="target 'bad'")
    line = project.forgefile(
        "class Bad(Rule):", "    def steps(self, box):", "        return ['sort']", RAN, 'forge.target("bad", Bad())'
    )
    refused(project, line=line + 4, says="target 'bad'")
    line = project.forgefile(
        "class Bad(Rule):", "    def steps(self, box):", "        return None", RAN, 'forge.target("bad", Bad())'
    )
    refused(project, line=line + 4, says="target 'bad'")


def test_a_syntax_error(project):
    project.write("Forgefile.py", "def build(forge):\n    forge.target('ran'\n")
    refused(project, says=("'(' was never closed", "Forgefile.py:2"))
    project.write("Forgefile.py", "def build(forge):\n\tx = 1\n        y = 2\n")
    refused(project, says="Forgefile.py:3")
    project.write("Forgefile.py", b"# \xff\n")
    refused(project)
    project.write("Forgefile.py", b"x = 1\0\n")
    refused(project)


def test_a_module_with_a_syntax_error(project):
    project.write("house.py", "def f(:\n")
    project.forgefile("import house", RAN)
    refused(project, says="house.py:1")
    project.forgefile("import no_such_module", RAN)
    refused(project, says="No module named 'no_such_module'", line=None)


def test_no_build_function(project):
    project.write("Forgefile.py", "x = 1\n")
    refused(project, says="it defines no function build(forge)")
    project.write("Forgefile.py", "def build():\n    pass\n")
    refused(project, says="build()")


def test_no_forgefile(project):
    refused(project, says="there is no Forgefile.py", hint="forge init writes a Forgefile.py here")
    (project / "Forgefile.py").mkdir()
    refused(project, says="is a folder")
    refused(project, "-C", "nowhere", says="nowhere: No such file or directory")
    refused(project, "-f", "x.py", says="x.py")
    assert not (project / ".forge").exists()


def test_a_forgefile_that_exits(project):
    project.forgefile("import sys", "sys.exit(0)", RAN)
    refused(project)


def test_a_source_that_goes_away_or_cannot_be_read(project):
    project.forgefile('s = forge.source("s")', "import os", 'os.unlink("s")', 'forge.target("ran", Command(argv=("cat", s), stdout=True))')
    project.write("s")
    refused(project, says="'s'")
    project.forgefile('forge.target("ran", Command(argv=("cat", forge.source("s")), stdout=True))')
    (project / "s").symlink_to("nowhere")
    ended = project.forge(status=None)
    assert ended.status in (1, 2)


def test_a_source_that_is_also_a_target(project):
    project.write("ran")
    project.forgefile(RAN, 'forge.target("b", Command(argv=("cat", forge.source("ran")), stdout=True))')
    ended = project.forge(status=2)
    assert "both a source and a target" in ended.err
    assert project.read("ran") == ""


def test_a_folder_at_the_place_of_a_file_target(project):
    """It is refused before anything runs, and the folder is as it was."""
    project.forgefile(RAN, 'forge.target("out", Shell(line="echo"))')
    project.write("out/mine", "mine")
    refused(project, "out", says=("out", "is a folder"))
    refused(project, says=("out", "is a folder"))
    assert project.read("out/mine") == "mine"


def test_a_file_where_a_targets_folder_belongs(project):
    project.forgefile('forge.target("out/x", Shell(line="echo"))')
    project.write("out", "mine")
    refused(project, says="out")
    assert project.read("out") == "mine"
    assert not [name for name in project.store() if "/objects/" in name]


def test_a_file_of_the_users_at_the_place_of_a_target(project):
    """forge never placed it, so it is not forge's to replace without a word."""
    project.forgefile('forge.target("out", Shell(line="echo forge"))')
    project.write("out", "mine")
    ended = project.forge("--json", status=None)
    kept = project.read("out") == "mine"
    told = "out" in ended.out + ended.err and ("was changed" in ended.out or "not placed" in ended.out + ended.err)
    assert kept or told or ended.status == 0


def test_a_file_of_the_users_is_foreseen(project):
    project.forgefile(RAN)
    project.write("ran", "mine")
    for words in (("ran",), ("-n", "ran")):
        ended = project.forge(*words, status=2)
        assert "ran is there, but forge did not put it there" in ended.err
    assert project.read("ran") == "mine"


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (os.mkfifo, "is neither a file nor a folder"),
        (lambda path: path.symlink_to(path.name), "is a link that leads back to itself"),
        (lambda path: path.symlink_to("."), "is the project folder"),
        (lambda path: path.symlink_to("/dev/null"), "is neither a file nor a folder"),
    ],
)
def test_what_can_be_no_source(project, make, problem):
    line = project.forgefile('forge.target("ran", Shell(line="cat $1", inputs=(forge.source("odd"),)))')
    make(project / "odd")
    refused(project, line=line, says=f"the source 'odd' {problem}")


def test_a_store_that_cannot_be_read(machine):
    machine.forgefile(RAN)
    machine.forge()
    (machine / ".forge").chmod(0)
    prefix = () if os.geteuid() else ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
    for words in (("-n",), ("list",), ("history",), ("log", "ran"), ("ran",)):
        assert "the store" in (ended := machine.forge(*words, status=2, prefix=prefix)).err
        assert "cannot be read" in ended.err
    (machine / ".forge").chmod(0o700)
    assert "is no folder" in machine.forge("--store", "Forgefile.py", "-n", status=2).err


def test_a_folder_that_was_removed(project):
    ended = project.forge("list", status=2, prefix=("sh", "-c", 'mkdir gone; cd gone; rmdir ../gone; exec "$@"', "sh"))
    assert ended.err == "forge: the current folder was removed\n  hint: cd to another one\n"


def test_an_unwritable_folder(project, small_disk):
    project.forgefile(RAN)
    mount = f"mount --bind '{project.root}' '{project.root}'; mount -o remount,bind,ro '{project.root}'; cd '{project.root}'"
    refused(project, prefix=small_disk(mount), says=("Read-only file system", "make that place writable"))
    assert sorted(os.listdir(project.root)) == ["Forgefile.py"]
    project.forge("-n", prefix=small_disk(mount))
    project.forge("list", prefix=small_disk(mount))
    project.forge()
    (project / "ran").unlink()
    refused(project, prefix=small_disk(mount))
    project.forge("-n", prefix=small_disk(mount))
    project.forge("why", prefix=small_disk(mount))
    project.forge()
    project.nothing_runs()


def test_a_read_only_folder_in_which_all_is_up_to_date(project, small_disk):
    project.forgefile(RAN)
    project.forge()
    mount = f"mount --bind '{project.root}' '{project.root}'; mount -o remount,bind,ro '{project.root}'; cd '{project.root}'"
    assert project.forge(prefix=small_disk(mount), status=None).status in (0, 2)


def _tmpfs(project, options, then=""):
    """Copy the project to a small tmpfs in a private namespace and go there."""
    at = project.root.parent / "small"
    at.mkdir(exist_ok=True)
    return f"mount -t tmpfs -o {options} small '{at}'; cp -a '{project.root}/.' '{at}'; cd '{at}'; {then}"


def test_a_full_disk(project, small_disk):
    project.forgefile(RAN)
    refused(project, prefix=small_disk(_tmpfs(project, "size=1m")), says="the disk is full")
    fill = "head -c 100m /dev/zero >filler 2>/dev/null || true"
    refused(project, prefix=small_disk(_tmpfs(project, "size=1m", fill)), says="full")
    refused(project, prefix=small_disk(_tmpfs(project, "nr_inodes=8")))


def test_a_disk_that_fills_while_a_target_builds(project, small_disk):
    """The target fails and says why; what was built before stays; with room again, the next run is right."""
    project.forgefile(
        'forge.target("a", Shell(line="echo a"))',
        'forge.target("big", Shell(line="head -c 200m /dev/zero"))',
    )
    again = 'cd "$PWD"; "$@" && exit 9; mount -o remount,size=1g small .; "$@"; test -s big; cat a'
    script = _tmpfs(project, "size=80m", again + "; exit 0 #")
    ended = project.forge("-j1", prefix=small_disk(script))
    assert "No space left on device" in ended.out + ended.err
    assert "built a" in ended.out
    assert "failed big" in ended.out
    assert "built big" in ended.out
    assert ended.out.endswith("a\n")


def test_a_damaged_store_is_told(project):
    project.forgefile(RAN)
    project.forge()
    (project / ".forge/records.sqlite").write_bytes(b"nonsense" * 1000)
    ended = project.forge("--json", status=None)  # which looks into the records, though nothing changed
    assert ended.status in (1, 2)
    assert "forge clean --all" in ended.err
    project.forge("clean", "--all")
    project.forge()
    project.nothing_runs()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_a_closed_standard_file_is_as_good_as_an_empty_one(project, closed):
    project.forgefile('forge.target("a", Shell(line="echo a"))')
    for words in ("a", "a", "list", "why a", "log a", "shell a -- true", "none"):
        line = f"{' '.join(COMMAND)} {words} {closed}"
        ended = subprocess.run(line, shell=True, cwd=project.root, env=project.environment(), check=False)
        assert ended.returncode == (2 if words == "none" else 0), words
    assert project.read("a") == "a\n"


def test_help_is_a_word_too(project):
    assert project.forge("help").out == project.forge("--help").out
    assert project.forge("help", "size").out == project.forge("size", "--help").out
    refused(project, "help", "sise", says="there is no command 'sise'", hint="did you mean 'size'?")


def test_what_follows_two_dashes_is_no_option(project):
    project.forgefile(RAN)
    for words in (("--", "-x"), ("build", "--", "-x"), ("why", "--", "-x"), ("list", "--", "-x")):
        refused(project, *words, says="there is no target '-x'")
    assert "ran is at ran" in project.forge("build", "-k", "--", "ran").out


def test_a_command_that_is_misspelt(project):
    project.forgefile(RAN)
    refused(project, "bulid", hint="did you mean the command 'build'?")
