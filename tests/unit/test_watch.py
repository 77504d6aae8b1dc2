"""What is watched: the way to a path, what counts as a change, and who is writing."""

import os
import time
from pathlib import Path

import pytest

from forgefile.watch import Roots, Watch, way, writers

FAR = 1 << 62
"""A time, in nanoseconds, since which nothing has changed."""


@pytest.fixture
def watch():
    made = Watch()
    yield made
    made.close()


def changed(watch, root):
    """Return what changed by now, relative to a folder."""
    watch.read()
    found = sorted(os.path.relpath(path, root) for path in watch.changed)
    watch.changed.clear()
    return found


def test_the_way_to_a_path(tmp_path):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a/../a")
    (tmp_path / "loop").symlink_to("loop")
    above = list(way(str(tmp_path)))
    here = str(tmp_path)
    assert list(way(f"{here}/link/b/c"))[len(above) :] == [
        (here, "link"), (here, "a"), (here, "a"), (f"{here}/a", "b"), (f"{here}/a/b", "c"),
    ]  # fmt: skip
    assert list(way(f"{here}/absent/b"))[len(above) :] == [(here, "absent")]
    assert set(list(way(f"{here}/loop/b"))[len(above) :]) == {(here, "loop")}


def test_what_counts(watch, tmp_path):
    for name in ("tree/deep", "listed", "out", "store"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "read.py").touch()
    root = str(tmp_path)
    watch.place(Roots((f"{root}/tree",), (f"{root}/read.py", f"{root}/absent/x"), (root,),
                      (f"{root}/out/disk.img", f"{root}/store")), FAR)  # fmt: skip
    (tmp_path / "tree/deep/new").touch()
    (tmp_path / "read.py").write_text("x")
    assert changed(watch, root) == ["read.py", "tree/deep/new"]
    (tmp_path / "store/x").touch()
    (tmp_path / "out/disk.img").touch()
    (tmp_path / "listed/x").touch()
    (tmp_path / "tree/.new.swp").touch()
    (tmp_path / "tree/new~").touch()
    assert changed(watch, root) == []
    (tmp_path / "absent").mkdir()
    assert changed(watch, root) == ["absent"]
    (tmp_path / "absent/y").touch()
    assert changed(watch, root) == []
    (tmp_path / "absent/x").touch()
    assert changed(watch, root) == ["absent/x"]


def test_what_changed_before_it_was_watched(watch, tmp_path):
    (tmp_path / "tree/deep").mkdir(parents=True)
    (tmp_path / "tree/deep/one").touch()
    since = time.time_ns()
    watch.place(Roots((f"{tmp_path}/tree",)), since + 10**10)
    assert changed(watch, tmp_path) == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other/one").touch()
    watch.place(Roots((f"{tmp_path}/tree", f"{tmp_path}/other")), since)
    assert "other/one" in changed(watch, tmp_path)
    (tmp_path / "listed/.forge").mkdir(parents=True)
    (tmp_path / "read").mkdir()
    watch.read()
    watch.place(Roots((), (f"{tmp_path}/read",), (f"{tmp_path}/listed",), (f"{tmp_path}/listed/.forge",)), since)
    assert changed(watch, tmp_path) == []


def test_who_writes(watch, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    me = Path("/proc/self/comm").read_text().rstrip()
    one.touch()
    watch.place(Roots((f"{tmp_path}",)), FAR)
    with one.open(), two.open("w"):
        watch.read()
        assert writers([str(one), str(two)]).keys() == {str(two)}
        assert watch.unfinished() == {str(two): f"{me}, process {os.getpid()}"}
    watch.read()
    assert watch.unfinished() == {}


def test_git_is_at_work(watch, tmp_path):
    (tmp_path / ".git").mkdir()
    (tmp_path / "tree").mkdir()
    watch.place(Roots((f"{tmp_path}/tree",)), FAR)
    lock = tmp_path / ".git/index.lock"
    with lock.open("w"):
        assert watch.unfinished().keys() == {str(lock)}
    assert watch.unfinished() == {}  # a git that was killed has left it
    assert changed(watch, tmp_path) == []
