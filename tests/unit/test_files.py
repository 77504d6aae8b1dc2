"""Files as a whole: a copy has the content, the mode, the time and the holes."""

import os
import stat
import tempfile
from pathlib import Path

import pytest

from forgefile.files import copy_file


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
