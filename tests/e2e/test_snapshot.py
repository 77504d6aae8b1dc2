# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""A run that finds nothing changed evaluates nothing; whatever could matter makes the next one evaluate again."""

import os
import re
import shutil
import subprocess
import sys
import time

import pytest
from conftest import PREAMBLE, settle

HEAD = 'import os, sys\nsys.stderr.write("evaluated\\n")\n'
TARGETS = (
    'word = forge.option("word", "x")',
    'laid = forge.target("laid", Overlay(base=forge.target("base", Empty()), source=forge.source("overlay")))',
    'listed = forge.target("listed.txt", Shell(line="cd $1 && find . -type f -o -type l | sort | while read f; do echo $f $(cat $f 2>&1); done; echo %s" % word, inputs=(laid,)))',
    'forge.target("sorted.txt", Command(argv=("sort", forge.source("words")), stdout=True))',
    'forge.target("joined.txt", Shell(line="cat $1 $2", inputs=(listed, forge.source("end"))))',
)


@pytest.fixture
def image(project):
    """A project that is built, and of which a snapshot is known."""
    project.forgefile(*TARGETS, preamble=HEAD + PREAMBLE)
    project.write("overlay/etc/a", "a\n")
    project.write("overlay/etc/b", "b\n")
    (project / "overlay/link").symlink_to("etc/a")
    project.write("words", "b\na\n")
    project.write("end", "end\n")
    known(project)
    return project


def known(project, *words):
    """Build until a run evaluates nothing."""
    project.forge(*words)
    settle()
    for _ in range(3):
        ended = project.forge(*words)
        if not ended.err:
            assert "up to date" in ended.out
            return
        time.sleep(0.1)
    raise AssertionError(ended)


def check(project, *words, evaluates, runs):
    """One run does all there is to do, and whether it evaluates the Forgefile is as said."""
    ended = project.forge(*words)
    assert ended.err == ("evaluated\n" if evaluates else ""), ended
    built = sorted(line.split()[1] for line in ended.out.splitlines() if line.startswith("built "))
    assert built == sorted(runs), ended.out
    after = project.json(*words)
    assert {e["event"] for e in after.events} <= {"planned", "current", "finished"}, after.out
    settle()
    known(project, *words)


def test_nothing(image):
    for words in ((), ("-k",), ("-j", "1"), ("-j2",), ("--jobs=2", "--keep-going"), ("build",)):
        ended = image.forge(*words)
        assert (ended.out, ended.err) == ("joined.txt, listed.txt and sorted.txt are up to date\n", "") or (
            "up to date\n" in ended.out and not ended.err
        )
    assert image.forge("-q").out == ""
    assert image.forge("-kq").out == ""
    assert "expected a number" in image.forge("-j0", status=2).err
    assert image.forge("-C", str(image.root)).err == ""
    assert image.forge("-f", "Forgefile.py").err == ""


def test_the_words_are_those_of_a_run_that_evaluates(image):
    quick = image.forge()
    shutil.rmtree(image / ".forge/snapshots")
    full = image.forge()
    assert (quick.err, full.err, quick.out) == ("", "evaluated\n", full.out)


def test_a_dry_run(image):
    """What a dry run says, it says with a snapshot as without one; nothing is written."""
    for change in (lambda: None, lambda: image.write("end", "END\n"), lambda: image.write("overlay/etc/more", "m")):
        change()
        settle()
        for words in (("-n",), ("--dry-run", "-j2"), ("-n", "sorted.txt"), ("-n", "--json")):
            quick = image.forge(*words)
            (image / ".forge/snapshots").rename(image / "aside")
            full = image.forge(*words)
            (image / "aside").rename(image / ".forge/snapshots")
            assert full.err == "evaluated\n"
            assert shape(quick.out) == shape(full.out)
            if words in (("-n",), ("--dry-run", "-j2")):
                assert quick.err == ""


def shape(text):
    """Return what was said without the seconds since the start and what is free on the disk."""
    return re.sub(r'"(t|free_bytes)": ?[0-9.e-]+', "", text)


def test_the_words_of_a_part_are_those_of_a_run_that_evaluates(image):
    image.write("end", "one\n")
    part = image.forge()
    known(image)
    shutil.rmtree(image / ".forge/snapshots")
    image.write("end", "two\n")
    full = image.forge()
    assert (part.err, full.err) == ("", "evaluated\n")
    assert re.sub(r"[0-9.]+ s", "", part.out) == re.sub(r"[0-9.]+ s", "", full.out)
    assert part.out.endswith(": 1 built, 4 up to date\njoined.txt is at joined.txt\n")


def test_a_touch(image):
    for name in ("overlay/etc/a", "overlay/etc", "overlay", "words", "end"):
        os.utime(image / name)
    check(image, evaluates=False, runs=())


def test_a_file_that_came_and_went(image):
    image.write("overlay/etc/.a.swp")
    (image / "overlay/etc/.a.swp").unlink()
    check(image, evaluates=False, runs=())


def _swap(project):
    a, b = project / "overlay/etc/a", project / "overlay/etc/b"
    a.rename(project / "overlay/etc/c")
    b.rename(a)
    (project / "overlay/etc/c").rename(b)
    os.utime(a, ns=(1, 1))
    os.utime(b, ns=(1, 1))


def _relink(project):
    (project / "overlay/link").unlink()
    (project / "overlay/link").symlink_to("etc/b")


@pytest.mark.parametrize(
    "edit",
    [
        lambda p: p.write("overlay/etc/a", "other\n"),
        lambda p: p.write("overlay/etc/new", "new\n"),
        lambda p: p.write("overlay/deep/er/new", "new\n"),
        lambda p: (p / "overlay/etc/a").unlink(),
        lambda p: (p / "overlay/etc/a").rename(p / "overlay/etc/z"),
        lambda p: shutil.rmtree(p / "overlay/etc"),
        _swap,
        _relink,
    ],
)
def test_an_edit_of_a_folder(image, edit):
    edit(image)
    check(image, evaluates=False, runs=("laid", "listed.txt", "joined.txt"))
    names = sorted(str(p.relative_to(image / "overlay")) for p in (image / "overlay").rglob("*") if not p.is_dir())
    said = image.read("joined.txt")
    assert sorted(line.split()[0][2:] for line in said.splitlines()[:-2]) == sorted([*names, "etc/word"]), said


def test_a_mode(image):
    (image / "overlay/etc/a").chmod(0o700)
    check(image, evaluates=False, runs=("laid", "listed.txt"))  # which stays as it was


def test_an_edit_of_a_file(image):
    image.write("words", "c\nb\n")
    check(image, evaluates=False, runs=("sorted.txt",))
    assert image.read("sorted.txt") == "b\nc\n"


def test_edits_there_and_back(image):
    image.write("words", "c\n")
    image.forge()
    image.write("words", "b\na\n")
    check(image, evaluates=False, runs=())
    assert image.read("sorted.txt") == "a\nb\n"


def test_edits_of_both_ends(image):
    image.write("overlay/etc/a", "other\n")
    image.write("end", "END\n")
    check(image, "joined.txt", evaluates=True, runs=("laid", "listed.txt", "joined.txt"))  # never asked so before
    image.write("overlay/etc/a", "more\n")
    image.write("end", "!\n")
    check(image, "joined.txt", evaluates=False, runs=("laid", "listed.txt", "joined.txt"))
    assert image.read("joined.txt").endswith("x\n!\n")


def test_a_failure_and_its_mending(image):
    image.forgefile(
        *TARGETS,
        'forge.target("picky.txt", Shell(line="grep good $1", inputs=(forge.source("end"),)))',
        preamble=HEAD + PREAMBLE,
    )
    image.forge(status=1)
    image.write("end", "good\n")
    known(image)
    image.write("end", "bad\n")
    assert image.forge(status=1).err == ""
    assert image.forge(status=1).out.count("failed picky.txt") == 1
    image.write("end", "good again\n")
    check(image, evaluates=True, runs=("joined.txt", "picky.txt"))  # the failed run wrote to the store


@pytest.mark.parametrize(
    ("touch", "runs"),
    [
        (lambda p: p.unlink(), ()),
        (lambda p: p.write_text("mine"), ("sorted.txt",)),  # it is a link to the store's own
        (lambda p: p.chmod(0o600), ()),
    ],
)
def test_an_output(image, touch, runs):
    before = image.read("sorted.txt")
    touch(image / "sorted.txt")
    check(image, evaluates=True, runs=runs)
    assert image.read("sorted.txt") == before


def test_what_the_store_lost(image):
    for layer in (image / ".forge/layers").iterdir():
        shutil.rmtree(layer)
    check(image, evaluates=True, runs=("base", "laid"))


def test_a_damaged_object_below_a_change(image):
    known(image, "joined.txt")
    (image / ".forge/objects").joinpath(object_of(image, b"x\n")).write_text("not what was built")
    image.write("end", "END\n")
    check(image, "joined.txt", evaluates=True, runs=("listed.txt", "joined.txt"))
    assert "not what was built" not in image.read("joined.txt")


def test_a_changed_layer_below_a_change(image):
    """It is not looked at while nothing has to be done, and not used when something has."""
    (layer,) = [each for each in (image / ".forge/layers").iterdir() if (each / "etc/word").exists()]
    (layer / "etc/word").write_text("mine")
    assert "up to date" in image.forge().out
    image.write("overlay/etc/a", "other\n")
    ended = image.forge()
    assert ended.err == "evaluated\n"
    assert "building base (its output was changed since it was built)\n" in ended.out
    assert "mine" not in image.read("listed.txt")
    known(image)


BETWEEN = """
import subprocess, sys, time
from forgefile import cli
from forgefile.start import find
start = find([], time.time_ns())
assert start.snapshot.changed
subprocess.run((sys.executable, "-m", "forgefile", "clean", "sorted.txt"), check=True, stdout=2)
sys.exit(cli.main([], start=start))
"""


def test_another_forge_between_the_look_and_the_build(image):
    """What a snapshot told of the store is not used once another forge has changed it."""
    image.write("end", "END\n")
    argv = (sys.executable, "-c", BETWEEN)
    done = subprocess.run(argv, cwd=image.root, env=image.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "built joined.txt" in done.stdout
    assert "built sorted.txt" in done.stdout
    assert image.read("joined.txt").endswith("END\n")
    assert image.json().targets("built") == []
    known(image)


WAITING = """
import subprocess, sys, time
from forgefile import cli
from forgefile.start import find
start = find([], time.time_ns())
assert start.snapshot.changed
other = subprocess.Popen((sys.executable, "-m", "forgefile", "--json"), stdout=subprocess.PIPE, text=True)
while "slow-begun" not in other.stdout.readline():
    pass
status = cli.main([], start=start)
assert other.wait() == 0
assert other.stdout.read().count('"event": "built"') == 1
print("other", other.pid)
sys.exit(status)
"""


def test_another_forge_that_builds_the_same_part(image):
    """The one that waits knows a part by a snapshot; then it looks anew, and finds what the other built."""
    slow = 'forge.target("slow.txt", Noisy(line="echo slow-begun; sleep 1; cat $1 >$OUT", inputs=(forge.source("late"),)))'
    image.write("late", "late\n")
    image.forgefile(*TARGETS, slow, preamble=HEAD + PREAMBLE)
    known(image)
    image.write("late", "later\n")
    argv = (sys.executable, "-c", WAITING)
    done = subprocess.run(argv, cwd=image.root, env=image.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "evaluated\n" * 2, "the other, which asks in JSON, and this one, once it has waited"
    waited, *told, other = done.stdout.splitlines()
    assert waited == f"note: waiting for the forge that builds here (process {other.split()[1]})"
    assert told == ["listed.txt, sorted.txt, joined.txt and slow.txt are up to date"]
    assert image.read("slow.txt") == "later\n"
    known(image)


def object_of(project, end):
    """Return the name of the object whose content ends so."""
    folder = project / ".forge/objects"
    return next(path.name for path in folder.iterdir() if path.read_bytes().endswith(end))


def test_another_run_between(image):
    assert "listed.txt" in image.forge("-D", "word=y").out
    check(image, evaluates=True, runs=())
    assert image.read("listed.txt").endswith("x\n")
    image.forge("clean", "sorted.txt")
    check(image, evaluates=True, runs=("sorted.txt",))


def test_the_clock_of_the_build(image):
    image.env["SOURCE_DATE_EPOCH"] = "1"
    check(image, evaluates=True, runs=("base", "laid", "listed.txt", "sorted.txt", "joined.txt"))
    del image.env["SOURCE_DATE_EPOCH"]
    check(image, evaluates=True, runs=())


def test_an_edit_of_the_forgefile(image):
    text = image.read("Forgefile.py")
    image.write("Forgefile.py", text.replace('"x")', '"z")'))
    check(image, evaluates=True, runs=("listed.txt", "joined.txt"))


def test_a_tool(image, tmp_path):
    own = image.write("bin/sort", '#!/bin/sh\nexec /usr/bin/sort -r "$@"\n', 0o755).parent
    image.env["PATH"] = f"{tmp_path / 'none'}:{own}:{os.environ['PATH']}"
    check(image, evaluates=True, runs=("sorted.txt",))
    image.write("bin/sort", '#!/bin/sh\nexec /usr/bin/sort -u "$@"\n', 0o755)
    check(image, evaluates=False, runs=("sorted.txt",))
    (tmp_path / "none").mkdir()
    (tmp_path / "none/sort").symlink_to("/usr/bin/sort")
    check(image, evaluates=True, runs=())  # it was so at first
    assert image.read("sorted.txt") == "a\nb\n"


def reading(project, *lines):
    """Make a project whose one target has what `lines` of the Forgefile leave in `found`."""
    body = (*lines, 'forge.target("found.txt", Shell(line="echo %s" % found))')
    project.forgefile(*body, preamble=HEAD + PREAMBLE)
    return project


@pytest.mark.parametrize(
    ("lines", "change"),
    [
        (('found = open("note").read().strip()',), lambda p: p.write("note", "other")),
        (("import mine", "found = mine.WORD"), lambda p: p.write("mine.py", "WORD = 'other'")),
        (('found = "other" if os.path.exists("flag") else "none"',), lambda p: p.write("flag", "")),
        (("from pathlib import Path", 'found = "other" if Path("flag").exists() else "none"'), lambda p: p.write("flag", "")),
        (('found = "-".join(sorted(os.listdir("parts")))',), lambda p: p.write("parts/other", "")),
        (('found = "-".join(s.path for s in forge.sources("parts/*"))',), lambda p: p.write("parts/other", "")),
        (('found = os.environ.get("WORD", "none")',), lambda p: p.env.update(WORD="other")),
        (('found = os.getenv("HOME")',), lambda p: p.env.update(HOME="/other")),
        (('found = os.getenvb(b"WORD", b"none").decode()',), lambda p: p.env.update(WORD="other")),
        (('found = os.path.expandvars(b"$WORD").decode()',), lambda p: p.env.update(WORD="other")),
        (('found = "-".join(s.path for s in forge.sources("kinds/*/k"))',), lambda p: ((p / "kinds/other").unlink(), p.write("kinds/other/k"))),
        (('found = "-".join(s.path for s in forge.sources("kinds/*/k"))',), lambda p: (p / "aside").rename(p / "target-of-other")),
        (("try:\n    from late import WORD as found\nexcept ImportError:\n    found = 'none'",), lambda p: p.write("late.py", "WORD = 'other'")),
        (("import subprocess", 'found = subprocess.run(("cat", "note"), capture_output=True, text=True).stdout.strip()'), lambda p: p.write("note", "other")),
        (('found = os.popen("cat note").read().strip()',), lambda p: p.write("note", "other")),
        (('found = "-".join(str(e.stat().st_size) for e in os.scandir("parts"))[:0] + open("note").read().strip()',), lambda p: p.write("note", "other")),
        (('found = str(sum(e.stat().st_size for e in os.scandir("parts"))) + "other"',), lambda p: p.write("parts/a", "longer")),
        (('found = "-".join(f for _, _, files in os.walk("parts") for f in sorted(files))',), lambda p: p.write("parts/other", "")),
        (("import colorsys", 'found = getattr(colorsys, "WORD", "none")'), lambda p: p.write("colorsys.py", "WORD = 'other'")),
        (("space = {}", 'exec(open("code").read(), space)', 'found = space["found"]'), lambda p: p.write("code", "found = 'other'")),
        (('found = os.readlink("link")',), lambda p: ((p / "link").unlink(), (p / "link").symlink_to("other"))),
    ],
)  # fmt: skip
def test_what_the_forgefile_looks_at(project, lines, change):
    project.write("note", "one")
    project.write("code", "found = 'one'")
    project.write("mine.py", "WORD = 'one'")
    project.write("parts/a")
    project.write("kinds/one/k")
    project.write("kinds/other")
    project.write("aside/k")
    (project / "kinds/other-link").symlink_to("../target-of-other")
    (project / "link").symlink_to("one")
    reading(project, *lines)
    project.forge()
    settle()
    project.forge()
    assert "up to date" in project.forge().out
    change(project)
    assert "built found.txt" in project.forge().out
    assert "other" in project.read("found.txt")
    assert "up to date" in project.forge().out


def test_what_a_rule_looks_at(project):
    rule = 'class Peek(Rule):\n    def steps(self, box):\n        yield Write(box.out, text=open("note").read())\n\n\n'
    project.write("note", "one")
    project.forgefile('forge.target("found.txt", Peek())', preamble=HEAD + PREAMBLE + rule)
    known(project)
    project.write("note", "other")
    check(project, evaluates=True, runs=("found.txt",))
    assert project.read("found.txt") == "other"


@pytest.mark.parametrize(
    "lines",
    [
        ("from email.utils import formatdate", "found = formatdate(), os.times().elapsed", "found = found[1]"),
        ("import time", "found = time.time_ns()"),
        ("from datetime import datetime", "found = datetime.now().timestamp()"),
        ("import random", "found = random.random()"),
        ("found = int.from_bytes(os.urandom(4))",),
        ('exec("import time\\nfound = time.time_ns()", globals())', "found = globals()['found']"),
    ],
)
def test_a_forgefile_that_is_never_the_same(project, lines):
    reading(project, *lines)
    for _ in range(3):
        assert "built found.txt" in project.forge().out


@pytest.mark.parametrize("damage", [b"", b"\0" * 4000, b"hello", None])
def test_a_damaged_snapshot(image, damage):
    for path in (image / ".forge/snapshots").iterdir():
        path.write_bytes(path.read_bytes()[:100] if damage is None else damage)
    check(image, evaluates=True, runs=())


def test_a_lost_graph(image):
    for path in (image / ".forge/snapshots").glob("*.graph"):
        path.unlink()
    image.write("words", "z\n")
    check(image, evaluates=True, runs=("sorted.txt",))


def test_a_source_that_is_a_link(project):
    project.write("one", "1\n")
    project.write("two", "2\n")
    (project / "words").symlink_to("one")
    project.forgefile(
        'forge.target("sorted.txt", Command(argv=("sort", forge.source("words")), stdout=True))',
        preamble=HEAD + PREAMBLE,
    )
    known(project)
    project.write("one", "3\n")
    check(project, evaluates=False, runs=("sorted.txt",))
    (project / "words").unlink()
    (project / "words").symlink_to("two")
    check(project, evaluates=True, runs=("sorted.txt",))
    assert project.read("sorted.txt") == "2\n"


def test_a_folder_that_a_link_takes_the_place_of(project):
    project.forgefile('forge.target("found.txt", Shell(line="cd $1; find . | sort", inputs=(forge.source("made"),)))')
    project.write("made/d/x")
    known(project)
    (project / "made/d").rename(project / "d")
    (project / "made/d").symlink_to("../d")
    assert project.ran() == ["found.txt"]
    assert project.read("found.txt") == ".\n./d\n"
    project.write("Forgefile.py", project.read("Forgefile.py") + "# another one\n")
    assert project.ran() == []


def test_a_forgefile_that_goes_by_where_forge_is(project):
    body = 'found = open("note").read().strip()', 'forge.target("found.txt", Write_(text=found))'
    rule = "class Write_(Rule):\n    text: str\n\n    def steps(self, box):\n        yield Write(box.out, text=self.text)\n\n\n"
    project.forgefile(*body, preamble=PREAMBLE + rule)
    for folder in ("a", "b"):
        project.write(f"{folder}/note", folder)
    for folder in ("a", "a", "b", "b", "a"):
        project.forge("-f", str(project / "Forgefile.py"), prefix=("env", "-C", folder))
        assert project.read("found.txt") == folder


def test_a_lost_source(image):
    (image / "end").unlink()
    ended = image.forge(status=2)
    assert "the source 'end' does not exist" in ended.err


def test_many_command_lines(image):
    for number in range(40):
        image.forge("-D", f"word={number}")
    assert len(list((image / ".forge/snapshots").iterdir())) <= 32
