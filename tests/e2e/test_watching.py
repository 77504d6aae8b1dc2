"""forge watch: what begins a build and what does not, what becomes of one that runs, and how it ends."""

import json
import os
import select
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.conftest import nothing_left, processes_of, settle, until


class Watching:
    """A `forge watch --json` that runs, and what it has said."""

    def __init__(self, process):
        self.process = process
        self._rest = b""
        self.events = []

    def event(self, seconds=20.0):
        """Return the next event, or None when none comes in time."""
        end = time.monotonic() + seconds
        while b"\n" not in self._rest:
            ready, _, _ = select.select([self.process.stdout], [], [], max(end - time.monotonic(), 0))
            chunk = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
            if not chunk:
                return None
            self._rest += chunk
        line, _, self._rest = self._rest.partition(b"\n")
        self.events.append(json.loads(line))
        return self.events[-1]

    def until(self, name, **fields):
        """Return the events up to the next of that name and those fields."""
        found = []
        while not found or found[-1]["event"] != name or any(found[-1].get(k) != v for k, v in fields.items()):
            event = self.event()
            assert event is not None, (name, self.events)
            found.append(event)
        return found

    def waits(self):
        """Return the events up to the one that says that changes are waited for."""
        found = self.until("waiting")
        return found if "unfinished" not in found[-1] or not found[-1]["unfinished"] else found + self.waits()

    def built(self):
        return sorted(each["target"] for each in self.waits() if each["event"] == "built")

    def says_nothing(self, seconds=0.4):
        event = self.event(seconds)
        assert event is None, event


@contextmanager
def watching(project, *words, **keywords):
    settle()
    with nothing_left(project):
        process = project.start("watch", "--json", *words, **keywords)
        try:
            yield Watching(process)
            process.send_signal(signal.SIGINT)
            assert process.wait(20) == 130
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            rest = process.communicate()
            assert "bug in forge" not in rest[1], rest[1]


@pytest.fixture
def two(project):
    """A file made of a file, one made of a folder, and one of both."""
    project.write("a.txt", "a")
    project.write("tree/one", "1")
    project.forgefile(
        "a = forge.target('a', Shell(line='cat $1', inputs=(forge.source('a.txt'),)))",
        "b = forge.target('b', Shell(line='find $1 -type f | sort | xargs cat', inputs=(forge.source('tree'),)))",
        "forge.target('out/c', Shell(line='cat $1 $2', inputs=(a, b)))",
    )
    return project


def test_what_is_saved_is_built(two):
    with watching(two, "out/c") as watch:
        assert watch.built() == ["a", "b", "out/c"]
        assert watch.events[-1]["sources"] == ["Forgefile.py", "a.txt", "tree"]
        two.write("a.txt", "A")
        assert watch.until("changed")[-1]["paths"] == ["a.txt"]
        assert watch.built() == ["a", "out/c"]
        assert two.read("out/c") == "A1"
        two.write("tree/deep/deeper/two", "2")  # of folders that nobody has watched yet
        assert watch.built() == ["b", "out/c"]
        two.write("tree/deep/deeper/two", "3")
        assert watch.built() == ["b", "out/c"]
        assert two.read("out/c") == "A31"
        (two / "tree/one").chmod(0o600)
        assert watch.waits()[0]["paths"] == ["tree/one"]
        watch.says_nothing()
    assert two.json("out/c").targets("built") == []


def test_what_forge_places_begins_nothing(two):
    two.forgefile(
        "import glob, os",
        "os.listdir('.'), glob.glob('*.conf')",
        "forge.target('a.img', Shell(line='cat $1', inputs=(forge.source('a.txt'),)))",
        "forge.target('out/b.img', Shell(line='cat <$1', inputs=(forge.source('a.txt'),)))",
    )
    with watching(two) as watch:
        watch.waits()
        watch.says_nothing()
        two.write("a.txt", "A")
        assert watch.built() == ["a.img", "out/b.img"]
        watch.says_nothing()
        two.write("tree/.one.swp", "an editor's")
        watch.says_nothing()
        two.write("new.conf", "")
        assert watch.until("changed")[-1]["paths"] == ["new.conf"]
        assert watch.built() == []


def test_a_burst_is_one_build(two):
    def git(*words):
        subprocess.run(("git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words), cwd=two.root, check=True,
                       capture_output=True)  # fmt: skip

    git("init", "-b", "few")
    git("add", "tree")
    git("commit", "-m", "few")
    git("checkout", "-b", "many")
    for number in range(1000):
        two.write(f"tree/{number % 7}/{number}", "x")
    git("add", "tree")
    git("commit", "-m", "many")
    git("checkout", "few")
    with watching(two, "out/c") as watch:
        watch.waits()
        git("checkout", "many")
        assert watch.built() == ["b", "out/c"]
        watch.says_nothing()
        assert two.read("out/c") == "a" + 1000 * "x" + "1"
        git("checkout", "few")
        assert [event["event"] for event in watch.waits()].count("finished") == 1
        assert two.read("out/c") == "a1"


def test_editors_that_rename(two):
    with watching(two, "out/c") as watch:
        watch.waits()
        two.write("a.txt.new", "B")
        os.rename(two / "a.txt.new", two / "a.txt")
        assert watch.built() == ["a", "out/c"]
        os.rename(two / "a.txt", two / "a.txt~")  # vi, with a backup
        two.write("4913")
        (two / "4913").unlink()
        two.write("a.txt", "C")
        (two / "a.txt~").unlink()
        assert watch.built() == ["a", "out/c"]
        assert two.read("out/c") == "C1"
        watch.says_nothing()


def test_a_file_is_built_from_when_it_is_written(two):
    with watching(two, "out/c") as watch:
        watch.waits()
        for path in (two / "a.txt", two / "tree/new/part"):
            path.parent.mkdir(exist_ok=True)
            with path.open("w") as stream:
                stream.write("half")
                stream.flush()
                told = watch.until("waiting")[-1]["unfinished"]
                assert told[0].startswith(f"{path.relative_to(two.root)} (")
                assert f"process {os.getpid()})" in told[0]
                stream.write("whole")
            assert watch.until("built")[-1]["event"] == "built"
            watch.waits()
        assert two.read("out/c") == "halfwholehalfwhole1"


def test_a_forgefile_that_is_wrong(two):
    text = two.read("Forgefile.py")
    two.write("words.py", "WORD = 'x'\n")
    with watching(two, "out/c") as watch:
        watch.waits()
        for wrong in ("def build(:", "raise SystemExit", text + "    forge.source('absent')\n"):
            two.write("Forgefile.py", wrong)
            assert [event["event"] for event in watch.waits()] == ["changed", "waiting"]
        two.write("absent")
        assert watch.waits()[0]["paths"] == ["absent"]
        two.write("Forgefile.py", "import words\n" + text.replace("'cat $1 $2", "f'cat $1 $2; echo {words.WORD}"))
        assert watch.built() == ["out/c"]
        two.write("words.py", "WORD = 'y'\n")
        assert watch.until("changed")[-1]["paths"] == ["words.py"]
        assert watch.built() == ["out/c"]
        assert two.read("out/c").endswith("1y\n")
        two.write("words.py", "WORD = (\n")
        assert [event["event"] for event in watch.waits()] == ["changed", "waiting"]
        two.write("words.py", "WORD = 'z'\n")
        assert watch.built() == ["out/c"]


def test_a_forgefile_that_is_wrong_from_the_start(two):
    text = two.read("Forgefile.py")
    two.write("Forgefile.py", "import absent\n" + text)
    with watching(two, "out/c") as watch:
        assert [event["event"] for event in watch.waits()] == ["waiting"]
        two.write("absent.py")
        assert watch.built() == ["a", "b", "out/c"]


def test_folders_that_are_removed_and_made_again(two):
    with watching(two, "out/c") as watch:
        watch.waits()
        shutil.rmtree(two / "tree")
        assert watch.waits()[0]["paths"][0].startswith("tree")
        two.write("tree/one", "new")
        assert watch.built() == ["b", "out/c"]
        os.rename(two / "tree", two / "away")
        watch.waits()
        two.write("away/one", "not seen")
        watch.says_nothing()
        shutil.copytree(two / "away", two / "tree")
        assert watch.built() == ["b", "out/c"]
        two.write("tree/one", "seen")
        assert watch.built() == ["b", "out/c"]
        assert two.read("out/c") == "aseen"


def test_links(two, tmp_path):
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "elsewhere/deep/one").write_text("far")
    (tmp_path / "other/one").write_text("other")
    shutil.rmtree(two / "tree")
    (two / "middle").symlink_to(tmp_path / "elsewhere")
    (two / "tree").symlink_to("middle/deep")
    with watching(two, "out/c") as watch:
        watch.waits()
        (tmp_path / "elsewhere/deep/one").write_text("FAR")
        assert watch.built() == ["b", "out/c"]
        (two / "tree.new").symlink_to(tmp_path / "other")
        os.rename(two / "tree.new", two / "tree")
        assert watch.built() == ["b", "out/c"]
        (tmp_path / "other/one").write_text("OTHER")
        assert watch.built() == ["b", "out/c"]
        assert two.read("out/c") == "aOTHER"
        (tmp_path / "elsewhere/deep/one").write_text("nobody looks")
        watch.says_nothing()


def test_odd_names(project):
    name = os.fsdecode(b"a \xff\n'\"$")
    project.write(f"{name}/one", "1")
    project.forgefile(f"forge.target('a', Shell(line='cat \"$1\"/*', inputs=(forge.source({name!r}),)))")
    with watching(project) as watch:
        assert watch.built() == ["a"]
        project.write(f"{name}/one", "2")
        assert watch.until("changed")[-1]["paths"] == [f"{name}/one"]
        assert watch.built() == ["a"]


# During a build


@pytest.fixture
def slow(two):
    """The first of two takes a while."""
    two.forgefile(
        "a = forge.target('a', Shell(line='cat $1; sleep 1.5', inputs=(forge.source('a.txt'),)))",
        "b = forge.target('b', Shell(line='cat $1/*', inputs=(forge.source('tree'),)))",
        "forge.target('c', Shell(line='cat $1 $2', inputs=(a, b)))",
    )
    settle()
    return two


def test_what_is_still_right_is_built_on(slow):
    with watching(slow, "-j1", "c") as watch:
        watch.until("started", target="a")
        settle()
        slow.write("tree/one", "2")
        events = watch.until("finished")
        assert [e["target"] for e in events if e["event"] == "built"] == ["a"]
        assert {e["target"]: e["outdated"] for e in events if e["event"] == "skipped"} == {"b": True, "c": True}
        assert events[-1]["status"] == 130
        assert watch.until("changed")[-1]["paths"] == ["tree/one"]
        assert watch.built() == ["b", "c"]
        assert slow.read("c") == "a2"


def test_what_is_outdated_ends_at_once(slow):
    with watching(slow, "-j1", "c") as watch:
        watch.until("started", target="a")
        settle()
        slow.write("Forgefile.py", slow.read("Forgefile.py").replace("sleep 1.5", "sleep 0"))
        events = watch.until("finished")
        assert "a" in [e["target"] for e in events if e["event"] == "skipped"]
        assert events[-1]["wall_s"] < 1.4
        assert watch.built() == ["a", "b", "c"]


def test_no_target_fails_of_a_change(two):
    two.forgefile("forge.target('a', Shell(line='sleep 0.1; cat $1', inputs=(forge.source('a.txt'),)))")
    with watching(two, "a") as watch:
        watch.waits()
        for number in range(4):
            two.write("a.txt", str(number))
            watch.until("started")
            two.write("a.txt", f"{number} again")
            assert not [e for e in watch.until("built") if e["event"] == "failed"]
            watch.waits()
            assert two.read("a") == f"{number} again"


# --then


def test_a_command_follows_each_good_build(two):
    two.forgefile("forge.target('a', Shell(line='grep -v bad $1', inputs=(forge.source('a.txt'),)))")
    then = "cp a seen; (trap '' INT; sleep 1000 & echo $! > pid; wait) & wait"
    with watching(two, "a", "--then", then) as watch:
        watch.until("then")
        first = until(lambda: (two / "pid").exists() and two.read("pid").strip())
        assert two.read("seen") == "a\n"
        two.write("a.txt", "b\n")
        assert watch.until("then", stopped=True)[-1]["command"] == then
        assert not Path(f"/proc/{first}").exists()
        watch.until("then")
        second = until(lambda: two.read("pid").strip() != first and two.read("pid").strip())
        assert two.read("seen") == "b\n"
        two.write("a.txt", "bad")
        watch.until("finished", status=1)
        assert watch.until("waiting")[-1]["sources"]
        assert not Path(f"/proc/{second}").exists()


def test_a_command_that_fails(two):
    with watching(two, "a", "--then", "cat a.txt; echo told; exit 3") as watch:
        watch.until("waiting")
        assert watch.until("then", status=3)[-1]["stopped"] is False
    process = two.start("watch", "a", "--then", "cat a.txt; exit 3")
    for line in process.stdout:
        if "failed cat a.txt; exit 3: ended with status 3" in line:
            break
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 130


def test_a_command_goes_on_when_nothing_is_built(two):
    two.forgefile(
        "import os",
        "os.listdir('.')",
        "forge.target('a', Shell(line='grep -v bad $1', inputs=(forge.source('a.txt'),)))",
    )
    with watching(two, "a", "--then", "echo $$ > pid.new; mv pid.new pid; exec sleep 1000") as watch:
        watch.until("waiting")
        watch.until("waiting")  # for the command's own file has come into a folder that was listed
        first = two.read("pid")
        two.write("a.txt", "a")
        assert "then" not in [event["event"] for event in watch.waits()]
        two.write("a.txt", "bad")
        watch.until("then", stopped=True)
        watch.until("finished", status=1)
        watch.waits()
        two.write("a.txt", "a")
        watch.until("then")
        until(lambda: two.read("pid") != first)


# How it ends


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left(slow, how):
    with nothing_left(slow):
        process = slow.start("watch", "--json", "-j1", "c")
        Watching(process).until("started", target="a")
        process.send_signal(how)
        process.communicate(timeout=20)
        assert process.returncode == (-9 if how == signal.SIGKILL else 130)
    assert until(lambda: not processes_of(slow.root), 5)
    assert slow.json("c").targets("built")


def test_nobody_reads(two):
    with two.start("watch", "a") as process:
        process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read()
    assert (process.returncode, told) == (1, "")


def test_refused(two):
    for words, message in (
        (("watch", "nowhere"), "there is no target 'nowhere'"),
        (("watch", "-D", "x=1"), "there is no option 'x'"),
        (("watch", "-f", "no.py"), "there is no no.py"),
        (("watch", "--then"), "expected one argument"),
    ):
        ended = two.forge(*words, status=2)
        assert message in ended.err
    assert not (two / "a").exists()


@pytest.mark.parametrize(("limit", "number", "setting"), [
    ("max_inotify_watches", 2, "fs.inotify.max_user_watches"),
    ("max_inotify_instances", 0, "fs.inotify.max_user_instances"),
])  # fmt: skip
def test_the_limits_of_the_kernel(two, limit, number, setting):
    prefix = ("unshare", "--user", "--map-root-user", "sh", "-c",
              f'echo {number} > /proc/sys/user/{limit}; exec "$@"', "sh")  # fmt: skip
    ended = two.forge("watch", "a", prefix=prefix, status=2)
    assert f"{setting} is " in ended.err
    assert f"sudo sysctl {setting}=" in ended.err
