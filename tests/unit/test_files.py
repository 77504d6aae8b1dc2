"""Files and folders as a whole: copied with their holes; removed whatever is in them and whoever still writes."""

import os
import stat
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from forgefile.files import copy_file, remove_tree


def test_what_is_not_there(tmp_path):
    remove_tree(str(tmp_path / "nothing"))


def test_folders_whose_modes_forbid_it(tmp_path):
    (tmp_path / "a/locked").mkdir(parents=True)
    (tmp_path / "a/locked/file").touch()
    (tmp_path / "a/locked").chmod(0o000)
    (tmp_path / "a/link").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "a/pipe")
    remove_tree(str(tmp_path / "a"))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("attempt", range(5))
def test_while_something_is_still_written(tmp_path, attempt):
    """A process that is being killed may add and remove a file or two; it never makes the folder anew."""
    folder = tmp_path / "a"
    folder.mkdir()
    for number in range(200):
        (folder / str(number)).touch()

    def write():
        for number in range(300):
            with suppress(FileNotFoundError):
                (folder / f"late-{number}").touch()
                (folder / str(number)).unlink()

    writer = threading.Thread(target=write)
    writer.start()
    remove_tree(str(folder))
    writer.join()
    assert os.listdir(tmp_path) == []


@pytest.fixture
def other():
    """A folder in another file system."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["here", "in another file system"])
def test_a_copy(tmp_path, other, elsewhere):
    source, to = tmp_path / "a", (other if elsewhere else tmp_path) / "b"
    assert (other.stat().st_dev != tmp_path.stat().st_dev) or not elsewhere
    with source.open("wb") as stream:
        stream.write(b"begin" * 100_000)
        stream.seek(64 << 20)
        stream.write(b"end")
    source.chmod(0o750)
    os.utime(source, (5, 5))
    copy_file(str(source), str(to))
    assert to.read_bytes() == source.read_bytes()
    status = to.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o750, 5)
    assert status.st_blocks * 512 < 2 << 20


def test_a_copy_replaces_nothing(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    with pytest.raises(FileExistsError):
        copy_file(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").read_text() == "b"
