"""`Copy` as it is carried out: owners, modes, links, and what is in the way."""

import os
import stat
from pathlib import Path

import pytest

from forgefile.errors import BuildError
from forgefile.model import Copy
from forgefile.programs.copy import copy

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")


@pytest.fixture
def source(tmp_path):
    """Return a folder of somebody else's files."""
    root = tmp_path / "source"
    (root / "etc/sudoers.d").mkdir(parents=True)
    (root / "etc/sudoers.d").chmod(0o750)
    (root / "etc/motd").write_text("hello\n")
    (root / "etc/motd").chmod(0o640)
    (root / "etc/sudoers.d/admin").write_text("ALL\n")
    (root / "etc/sudoers.d/admin").chmod(0o644)
    (root / "etc/link").symlink_to("../nowhere")
    (root / "etc/there").symlink_to("/etc")
    for path in (root, *root.rglob("*")):
        os.chown(path, 1000, 1000, follow_symlinks=False)
    return root


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    root.mkdir()
    return root


def look(path):
    status = os.lstat(path)
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid


def do(source, destination, **how):
    copy(Copy(os.fspath(source), os.fspath(destination), **how))


def test_a_folder_lays_what_it_holds(source, tree):
    do(source, tree)
    assert (tree / "etc/motd").read_text() == "hello\n"
    assert look(tree / "etc/motd") == (0o640, 0, 0)
    assert look(tree / "etc/sudoers.d") == (0o750, 0, 0)
    assert os.readlink(tree / "etc/link") == "../nowhere"
    assert os.readlink(tree / "etc/there") == "/etc"
    assert look(tree / "etc/link")[1:] == (0, 0)
    assert sorted(os.listdir(tree / "etc")) == ["link", "motd", "sudoers.d", "there"]


def test_missing_folders_on_the_way_are_made(source, tree):
    do(source / "etc", tree / "srv/a/etc")
    assert look(tree / "srv/a") == (0o755, 0, 0)
    assert (tree / "srv/a/etc/motd").exists()
    do(source / "etc/motd", tree / "opt/b/motd")
    assert look(tree / "opt/b/motd") == (0o640, 0, 0)


def test_owner_and_owners(source, tree):
    do(source, tree, owner=(5, 6), owners=(("etc/sudoers.d*", 7, 8), ("*/admin", 9, 10)))
    paths = ("etc", "etc/motd", "etc/link", "etc/sudoers.d", "etc/sudoers.d/admin")
    owners = {path: look(tree / path)[1:] for path in paths}
    assert owners == {
        "etc": (5, 6), "etc/motd": (5, 6), "etc/link": (5, 6), "etc/sudoers.d": (7, 8), "etc/sudoers.d/admin": (9, 10),
    }  # fmt: skip


def test_modes_the_last_that_fits_counts(source, tree):
    do(source, tree, modes=(("*", 0o600), ("etc", 0o711), ("etc/sudoers.d/*", 0o440)))
    modes = {path: look(tree / path)[0] for path in ("etc", "etc/motd", "etc/sudoers.d", "etc/sudoers.d/admin")}
    assert modes == {"etc": 0o711, "etc/motd": 0o600, "etc/sudoers.d": 0o600, "etc/sudoers.d/admin": 0o440}
    assert os.path.islink(tree / "etc/link")


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o1777])
def test_special_bits_survive_the_change_of_owner(source, tree, mode):
    do(source, tree, owner=(5, 6), modes=(("etc/motd", mode),))
    assert look(tree / "etc/motd") == (mode, 5, 6)


def test_an_existing_folder_keeps_its_mode_and_owner(source, tree):
    (tree / "etc").mkdir(mode=0o701)
    os.chown(tree / "etc", 3, 4)
    do(source, tree, owner=(5, 6))
    assert look(tree / "etc") == (0o701, 3, 4)


def test_an_existing_folder_that_a_glob_names_does_not(source, tree):
    (tree / "etc").mkdir(mode=0o701)
    do(source, tree, modes=(("etc", 0o711),))
    assert look(tree / "etc") == (0o711, 0, 0)


def test_existing_files_and_links_are_replaced_and_not_followed(source, tree):
    (tree / "etc").mkdir()
    (tree / "etc/motd").symlink_to("../precious")
    (tree / "precious").write_text("precious")
    (tree / "etc/link").write_text("a file")
    do(source, tree)
    assert (tree / "precious").read_text() == "precious"
    assert (tree / "etc/motd").read_text() == "hello\n"
    assert os.readlink(tree / "etc/link") == "../nowhere"


def test_a_hard_link_in_the_tree_is_not_written_through(source, tree):
    (tree / "etc").mkdir()
    (tree / "etc/motd").write_text("old")
    (tree / "same").hardlink_to(tree / "etc/motd")
    do(source, tree)
    assert (tree / "same").read_text() == "old"


def test_a_link_to_a_folder_stands_for_the_folder(source, tree):
    (tree / "usr/etc").mkdir(parents=True)
    (tree / "etc").symlink_to("usr/etc")
    do(source, tree)
    assert (tree / "etc").is_symlink()
    assert (tree / "usr/etc/motd").exists()


def test_a_file_becomes_the_destination(source, tree):
    do(source / "etc/motd", tree / "motd", mode=0o4700, owner=(5, 6))
    assert look(tree / "motd") == (0o4700, 5, 6)


def test_a_file_lies_in_a_destination_that_ends_with_a_slash(source, tree):
    do(source / "etc/motd", f"{tree}/a/b/")
    assert look(tree / "a/b/motd") == (0o640, 0, 0)


def test_a_link_as_the_source_is_copied_as_one(source, tree):
    do(source / "etc/there", tree / "there")
    assert os.readlink(tree / "there") == "/etc"


def test_a_pipe_is_copied(source, tree):
    os.mkfifo(source / "pipe", 0o620)
    do(source, tree)
    assert stat.S_ISFIFO(os.lstat(tree / "pipe").st_mode)


def test_an_empty_folder_is_copied(tmp_path, tree):
    (tmp_path / "source/empty").mkdir(parents=True, mode=0o700)
    do(tmp_path / "source", tree)
    assert (tree / "empty").is_dir()


def test_the_source_is_left_as_it_is(source, tree):
    before = {path: look(path) for path in (source, *source.rglob("*"))}
    do(source, tree, owner=(5, 6), modes=(("*", 0o600),))
    assert {path: look(path) for path in (source, *source.rglob("*"))} == before


# Refused


def test_a_file_onto_a_folder(source, tree):
    with pytest.raises(BuildError, match=f"{tree} is a folder") as caught:
        do(source / "etc/motd", tree)
    assert caught.value.hint == "end the destination with '/' to copy into the folder"


def test_a_folder_over_a_file(source, tree):
    (tree / "etc").write_text("a file")
    with pytest.raises(BuildError, match=r"etc is no folder in the tree, but etc is one in the source"):
        do(source, tree)


def test_a_file_over_a_folder(source, tree):
    (tree / "etc/motd").mkdir(parents=True)
    with pytest.raises(BuildError, match=r"etc/motd is a folder in the tree, but etc/motd is none in the source"):
        do(source, tree)


def test_a_device(source, tree):
    os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with pytest.raises(BuildError, match="null is a device or a socket, which is not copied"):
        do(source, tree)


def test_paths_with_odd_names(tmp_path, tree):
    (tmp_path / "source").mkdir()
    names = ["with blank", "new\nline", "caf\udce9", "[a]", "*"]
    for name in names:
        Path(tmp_path, "source", name).write_text(name, errors="surrogateescape")
    do(tmp_path / "source", tree)
    assert sorted(os.listdir(tree)) == sorted(names)
