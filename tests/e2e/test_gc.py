# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""`forge gc`: the store becomes smaller, what is needed stays, and a kill at any moment leaves a store to build with."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
from conftest import first_lines, nothing_left

MIB = 1 << 20


@pytest.fixture
def image(project):
    """A project of a tree, a layer on it and a file of 1 MiB, with an option for each."""
    project.forgefile(
        'root = forge.target("root", Root(extra=forge.option("n", "0")))',
        'above = forge.target("above", Change(base=root, line="echo %s >$OUT/etc/x" % forge.option("x", "0")))',
        'forge.target("file", Shell(line="head -c 1048576 /dev/zero | tr 0-9\\\\\\\\0 %s" % forge.option("f", "a"), inputs=(above,)))',
    )
    return project


def size(project, store=".forge"):
    """Return what du says of the store: allocated bytes, hard links once."""
    out = subprocess.run(("du", "-s", "-B1", project / store), stdout=subprocess.PIPE, check=True).stdout
    return int(out.split()[0])


def there(project, store=".forge"):
    return {name: sorted(os.listdir(project / store / name)) for name in ("objects", "layers", "logs", "staging")}


def gc(project, *words, **keywords):
    """Collect; return what was removed and the rest of what was said."""
    lines = project.forge("gc", *words, **keywords).out.splitlines()
    rows = [re.fullmatch(r"(\S+) +(\S+ \S+) +last used \d{4}-\d\d-\d\d(?: +(\S+))?", line) for line in lines]
    return [row[1] for row in rows if row], [line for line, row in zip(lines, rows, strict=True) if not row]


def test_what_no_target_needs_goes(image):
    image.ran()
    needed = there(image)
    image.ran("-D", "f=b")
    image.ran("-D", "n=1", "-D", "x=1")
    assert image.json().targets("restored") == ["above", "file", "root"]
    before, full = there(image), size(image)
    removed, said = gc(image, "-n")
    assert sorted(removed) == ["above", "file", "file", "root"]
    assert said[0].startswith("would remove 4 results, ")
    assert said[1].startswith("kept 3 results that targets need; the store takes ")
    assert there(image) == before
    again, done = gc(image)
    assert sorted(again) == sorted(removed)
    assert done[0] == said[0].replace("would remove", "removed")
    assert {**there(image), "logs": 0} == {**needed, "logs": 0}
    assert image.forge("log", "file").out.startswith("+ "), "of the latest run, though its result is gone"
    assert size(image) < full - 2 * MIB
    image.nothing_runs()
    assert gc(image)[1][0] == "removed nothing, 0 B"
    assert image.ran("-D", "f=b") == ["file"]


def test_the_least_recently_used_goes_first(image):
    for letter in "abcd":
        image.json("-D", f"f={letter}")
    image.json("-D", "f=b")
    assert gc(image, "--max-size", "1T")[0] == []
    removed, said = gc(image, "--max-size", f"{size(image) - 1}B")
    assert removed == ["file"]
    assert "and 2 earlier ones" in said[1]
    planned = {letter: image.planned("-D", f"f={letter}")["file"][0] for letter in "abcd"}
    assert planned == {"a": "run", "b": "none", "c": "restore", "d": "restore"}
    removed, said = gc(image, "--max-size", f"{size(image) - 3 * MIB // 2}B")
    assert removed == ["file", "file"]
    image.nothing_runs("-D", "f=b")


def test_a_limit_that_cannot_be_met(image):
    image.ran()
    image.ran("-D", "f=b")
    removed, said = gc(image, "--max-size", "1K", status=1)
    assert removed == ["file"]
    assert said[-1] == "that is more than 1.0 KiB: nothing else can be removed"
    image.nothing_runs("-D", "f=b")


def test_what_it_says_is_what_du_says(image):
    image.ran()
    image.ran("-D", "n=1")
    (image / ".forge/objects/stray").write_bytes(b"x" * 5000)
    gc(image)
    shown = re.search(r"the store takes (\S+) MiB", gc(image)[1][1])[1]
    assert float(shown) == pytest.approx(size(image) / MIB, abs=0.1)


def test_downloads_go_last_and_only_under_a_limit(image):
    image.ran()
    image.ran("-D", "f=b")
    for number, name in enumerate(("deb/new.deb", "deb/old.deb", "lists/x")):
        file = image.write(f".forge/cache/{name}", b"x" * MIB)
        os.utime(file, (1_000_000_000 - number, 1_500_000_000))
    (layer, *_) = there(image)["layers"]
    image.write(f".forge/layers/{layer}/linked", b"x" * MIB)
    os.link(image / f".forge/layers/{layer}/linked", image / ".forge/cache/deb/linked")
    assert gc(image)[0] == ["file"]
    caches = [image / ".forge/cache" / name for name in ("deb/linked", "deb/new.deb", "deb/old.deb", "lists/x")]
    assert all(path.exists() for path in caches)
    _, said = gc(image, "--max-size", f"{size(image) - MIB - 1}B")
    assert said[0] == "removed 2 cached files, 2.0 MiB"
    assert [path.exists() for path in caches] == [True, True, False, False]
    _, said = gc(image, "--max-size", "0", status=1)
    assert [path.exists() for path in caches] == [True, False, False, False]
    image.nothing_runs("-D", "f=b")


def test_what_belongs_to_nothing_goes(image):
    image.ran()
    before = there(image)
    for name in ("objects/stray", "logs/stray", "layers/stray/file", "staging/7/run/out"):
        image.write(f".forge/{name}", "x")
    (image / ".forge/layers/stray/locked").mkdir(mode=0)
    _, said = gc(image, "--max-size", "1G")
    assert said[0].startswith("removed 3 stray files, ")
    assert there(image) == before
    image.nothing_runs()


def test_targets_that_are_declared_no_more(image):
    image.ran()
    text = image.read("Forgefile.py")
    image.write("Forgefile.py", text.replace('"file", Shell', '"renamed", Shell'))
    assert image.json().targets("restored") == ["renamed"]
    assert gc(image)[0] == [], "what had another name is the same result"
    image.write("Forgefile.py", text.replace('"file", Shell(line="', '"another", Shell(line="true; '))
    assert image.json().targets("built") == ["another"]
    assert gc(image)[0] == ["renamed"]
    assert len(there(image)["objects"]) == 1, "of another fingerprint, but the same output"
    image.nothing_runs()


# Several projects


@pytest.fixture
def two(image):
    """Two projects of one store, which have built different things."""
    other = type(image)(image.root.parent / "other")
    shutil.copy(image / "Forgefile.py", other / "Forgefile.py")
    for each in (image, other):
        each.env["FORGE_STORE"] = str(image.root.parent / "store")
    image.ran()
    other.ran("-D", "f=b")
    return image, other


def test_what_another_project_needs_stays(two):
    one, other = two
    one.ran("-D", "n=1")
    removed, said = gc(one)
    assert removed == ["file"], "the other has root and above"
    assert "kept 6 results" in said[1]
    one.nothing_runs("-D", "n=1")
    other.nothing_runs("-D", "f=b")


def test_a_project_whose_folder_is_gone_needs_nothing(two):
    one, other = two
    shutil.rmtree(other.root)
    assert gc(one, "-n")[0] == ["file"], "one has the same root and the same layer above it"
    assert one.forge("gc").out.splitlines()[0].endswith(f"  {other.root}")
    one.nothing_runs()


def test_no_forgefile_is_needed_where_a_store_is_named(two, tmp_path):
    one, other = two
    one.ran("-D", "n=1")
    elsewhere = type(one)(tmp_path / "elsewhere")
    assert "there is no Forgefile.py" in elsewhere.forge("gc", status=2).err
    elsewhere.env["FORGE_STORE"] = one.env["FORGE_STORE"]
    assert gc(elsewhere)[0] == ["file"]
    assert os.listdir(elsewhere.root) == []
    for words in (("--store", "none"), ("--store", "none", "-n"), ("--store", "/usr")):
        assert "there is no store" in elsewhere.forge("gc", *words, status=2).err
    for project, word in ((one, "n=1"), (other, "f=b")):
        project.nothing_runs("-D", word)


def test_a_project_that_is_built_every_day_is_used_every_day(two):
    """What is up to date in a build counts as used then, so that it outlives the project's folder."""
    one, other = two
    database = sqlite3.connect(f"{one.env['FORGE_STORE']}/records.sqlite", isolation_level=None)
    database.execute("UPDATE record SET used=used-1000000")
    database.close()
    one.json()
    for project in two:
        shutil.rmtree(project.root)
    elsewhere = type(one)(one.root.parent / "elsewhere")
    elsewhere.env = one.env
    out = elsewhere.forge("gc", "--max-size", f"{size(one, one.env['FORGE_STORE']) - 1}B").out
    assert re.fullmatch(rf"file +1\.0 MiB +last used \S+ +{re.escape(str(other.root))}", out.splitlines()[0]), out
    assert "removed 1 result," in out
    assert "and 3 earlier ones" in out


# Beside others


def test_it_waits_for_a_build(project):
    project.forgefile('forge.target("a", Noisy(line="echo a-begun; sleep 1; echo %s >$OUT" % forge.option("w", "a")))')
    project.ran("-D", "w=b")
    building = project.start("--json", "a")
    first_lines(building, ["a-begun"])
    collecting = project.start("gc")
    first_lines(collecting, [f"waiting for the forge that builds here (process {building.pid})"])
    out, err = collecting.communicate(timeout=30)
    assert (collecting.returncode, err) == (0, "")
    assert "removed 1 result" in out, "what was current before that build"
    building.communicate(timeout=30)
    project.nothing_runs()


def test_a_dry_run_waits_for_nobody(project):
    project.forgefile('forge.target("a", Noisy(line="echo a-begun; sleep 600 & wait"))')
    with nothing_left(project):
        building = project.start("--json", "a")
        first_lines(building, ["a-begun"])
        assert gc(project, "-n")[1][0] == "removed nothing, 0 B".replace("removed", "would remove")
        assert building.poll() is None
        building.terminate()
        building.communicate(timeout=30)


def test_nothing_to_collect_makes_no_store(image):
    assert gc(image)[1] == ["removed nothing, 0 B", "kept 0 results that targets need; the store takes 0 B"]
    assert not (image / ".forge").exists()


@pytest.mark.parametrize("line", ["def", 'forge.source("nowhere")'])
def test_with_an_error_in_the_forgefile_no_target_is_taken_for_gone(project, line):
    one = 'forge.target("a", Shell(line="echo %d" % 1))'
    project.forgefile(one)
    project.forge()
    project.forgefile(one.replace("% 1", "% 2"))
    project.forge()
    project.forgefile(one, line)
    ended = project.forge("gc")
    assert "forge: note: the Forgefile has an error (Forgefile.py:" in ended.err
    assert "removed 1 result" in ended.out
    project.forgefile(one.replace("% 1", "% 2"))
    project.nothing_runs()


@pytest.mark.parametrize("words", [("--max-size", "20"), ("--max-size", "20X"), ("--max-size", "-1"), ("--max-size",), ("root",), ("--all",)])
def test_bad_command_lines(image, words):
    image.ran("root")
    ended = image.forge("gc", *words, status=2)
    assert ended.out == ""
    assert "hint: forge gc --help" in ended.err


# Crashes


KILLED = """
import os, signal, sys
left = [int(sys.argv[1])]
def hook(event, arguments):
    if event in ("os.remove", "os.rename", "os.rmdir"):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
from forgefile import cli
sys.addaudithook(hook)
sys.exit(cli.main(["gc"]))
"""


def test_a_kill_before_each_removal(project):
    """What is needed is there, what is not is built again whole, and the next one collects the rest."""
    project.forgefile(
        'tree = forge.target("tree", Empty(word=forge.option("w", "current")))',
        'above = forge.target("above", Change(base=tree, line="mkdir $OUT/etc/d; cp $OUT/etc/word $OUT/etc/d"))',
        'forge.target("file", Shell(line="cat $1/etc/d/word", inputs=(above,)))',
    )
    project.ran()
    needed = there(project)
    environment, moments = project.environment(), 0
    while True:
        assert project.json("-D", "w=other").targets("failed") == []
        assert project.read("file") == "other"
        project.forge("export", "above", str(project.root / "tree"), "-D", "w=other")
        assert (project / "tree/etc/d/word").read_text() == (project / "tree/etc/word").read_text() == "other"
        shutil.rmtree(project / "tree")
        assert project.json().targets("restored") == ["above", "file", "tree"]
        moments += 1
        command = (sys.executable, "-c", KILLED, str(moments))
        ended = subprocess.run(command, cwd=project.root, env=environment, stdout=subprocess.PIPE, check=False)
        project.nothing_runs()
        if not ended.returncode:
            break
        assert ended.returncode == -signal.SIGKILL
    assert moments > 10
    assert {**there(project), "logs": 0} == {**needed, "logs": 0}


def test_a_kill_at_any_time(image):
    """As the one above, with larger trees, at moments that the clock chooses."""
    image.json("-D", "n=current")
    with nothing_left(image):
        for number in range(8):
            image.json("-D", f"n={number % 2}")
            image.json("-D", "n=current")
            process = image.start("gc")
            time.sleep(0.05 + number * 0.01)
            process.send_signal(signal.SIGKILL)
            process.communicate()
            image.nothing_runs("-D", "n=current")
    gc(image, "-D", "n=current")
    found = there(image)
    assert [len(found[name]) for name in ("objects", "layers", "staging")] == [1, 2, 0]
    image.nothing_runs("-D", "n=current")


def test_a_full_disk(image, small_disk):
    """Where not even the records can be opened to write, it makes room."""
    (image / ".forge").mkdir()
    script = f"""
        mount -t tmpfs -o size=100m none {image.root}/.forge
        forge() {{ (cd {image.root}; "$@"); }}
        forge "$@"; forge "$@" -D n=1; forge "$@"
        dd if=/dev/zero of={image.root}/.forge/staging/fill bs=4k 2>/dev/null || true
        mv {image.root}/.forge/staging/fill {image.root}/.forge/cache/fill
        forge "$@" -D n=2 2>&1 && exit 9
        forge "$@" gc
        df --output=avail {image.root}/.forge
        forge "$@" gc
    """
    ended = image.forge(prefix=small_disk(script), status=None)
    assert "is the disk full? 'forge gc' makes room" in ended.out
    assert "removed 3 results, " in ended.out
    assert "removed nothing" in ended.out
