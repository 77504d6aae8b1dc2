"""Folders as a whole: removed whatever is in them and whoever still writes to them."""

import os
import threading
from contextlib import suppress

import pytest

from forgefile.files import remove_tree


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
