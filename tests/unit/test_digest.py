"""Digests: what they cover, what they do not, and when a file is read again."""

import os
import stat
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import xxhash

from forgefile.cache import digest
from forgefile.cache.digest import file_digest, layer_summary, scan, seal_file, seal_layer
from forgefile.errors import StoreError

MIB = 1 << 20
EPOCH = 1_735_689_600
OLD = (EPOCH, EPOCH)
ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="makes device nodes and gives files away")


@pytest.fixture
def folder(tmp_path):
    """Return a folder whose files changed long ago, as far as their own times tell."""
    (tmp_path / "overlay/etc").mkdir(parents=True)
    (tmp_path / "overlay/etc/motd").write_text("hello")
    (tmp_path / "overlay/etc/hosts").write_text("local")
    (tmp_path / "overlay/link").symlink_to("etc/motd")
    return tmp_path / "overlay"


@pytest.fixture
def later(monkeypatch):
    """Scan as a run some seconds after the last change would: nothing counts as just changed."""
    monkeypatch.setattr(digest, "_RACY_NS", -(1 << 62))


# Files


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 17])
def test_a_files_digest_is_that_of_its_content(tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "x").write_bytes(content)
    digest = file_digest(str(tmp_path / "x"))
    if size <= MIB:
        assert digest == xxhash.xxh3_128_hexdigest(content)
    flipped = content[:-1] + bytes(255 - byte for byte in content[-1:])
    for other in (content + b"\0", content[:-1], flipped):
        (tmp_path / "y").write_bytes(other)
        assert (file_digest(str(tmp_path / "y")) == digest) == (other == content)
    (tmp_path / "x").write_bytes(content)
    assert file_digest(str(tmp_path / "x")) == digest


def test_where_the_data_of_a_big_file_lies_counts(tmp_path):
    digests = set()
    for at in range(5):
        with (tmp_path / "x").open("wb") as stream:
            stream.truncate(5 * MIB)
            stream.seek(at * MIB)
            stream.write(b"data")
        digests.add(file_digest(str(tmp_path / "x")))
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("size", "data"),
    [
        (5 * MIB, ()),
        (5 * MIB, ((0, 4096),)),
        (5 * MIB, ((5 * MIB - 100, 100),)),
        (5 * MIB + 5, ((MIB, 4096), (3 * MIB + 4096, 2 * MIB - 4096))),
        (2 * MIB + 1, ((MIB - 4096, 8192),)),
        (MIB, ((4096, 4096),)),
    ],
)
def test_holes_are_zeros(tmp_path, size, data):
    sparse, plain = tmp_path / "sparse", tmp_path / "plain"
    content = bytearray(size)
    with sparse.open("wb") as stream:
        stream.truncate(size)
        for at, length in data:
            content[at : at + length] = os.urandom(length)
            stream.seek(at)
            stream.write(content[at : at + length])
    plain.write_bytes(content)
    assert file_digest(str(sparse)) == file_digest(str(plain))


# Sources


def test_a_second_scan_is_the_same_and_has_nothing_to_keep(folder, later):
    first = scan(str(folder), {})
    assert first.changed
    second = scan(str(folder), first.seen)
    assert second == (first.digest, first.seen, False)


def test_what_is_unchanged_is_not_read_again(folder, later):
    seen = scan(str(folder), {}).seen
    key, (kind, mode, _) = seen["etc/motd"]
    marked = {**seen, "etc/motd": (key, (kind, mode, "as seen"))}
    assert scan(str(folder), marked).seen["etc/motd"][1][2] == "as seen"


@pytest.mark.parametrize(("ctime_ms", "age_ms"), [(5000, 2000), (5004, 50)])
def test_where_the_clock_of_a_file_system_has_only_seconds_a_file_is_fresh_for_longer(ctime_ms, age_ms):
    status = SimpleNamespace(st_ctime_ns=ctime_ms * 1_000_000, st_mtime_ns=0)
    assert digest.is_fresh(status, (ctime_ms + age_ms - 1) * 1_000_000)
    assert not digest.is_fresh(status, (ctime_ms + age_ms) * 1_000_000)


def test_a_file_in_proc_has_all_of_its_content_in_its_digest():
    assert file_digest("/proc/version") == xxhash.xxh3_128_hexdigest(Path("/proc/version").read_bytes())


def test_a_file_that_has_just_changed_is_read_again(folder):
    seen = scan(str(folder), {}).seen
    assert seen["etc/motd"][0] is None
    marked = {**seen, "etc/motd": (None, ("f", 0o644, "as seen"))}
    again = scan(str(folder), marked)
    assert again.seen["etc/motd"][1][2] == xxhash.xxh3_128_hexdigest(b"hello")
    assert again.changed


def test_a_write_within_the_clocks_tick_is_seen(folder):
    path = folder / "etc/motd"
    seen = {}
    digests = set()
    for number in range(50):
        path.write_text(f"{number:05}")
        found = scan(str(folder), seen)
        seen = found.seen
        digests.add(found.digest)
    assert len(digests) == 50


def swap(folder):
    """Exchange two files of the same size, mode and time."""
    one, two = folder / "etc/motd", folder / "etc/hosts"
    os.utime(one, OLD)
    os.utime(two, OLD)
    one.rename(folder / "tmp")
    two.rename(one)
    (folder / "tmp").rename(two)


def keep_times(path, edit):
    status = path.stat()
    edit(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path, make):
    path.unlink()
    make(path)


EDITS = {
    "content": lambda f: (f / "etc/motd").write_text("other text"),
    "content of the same size and time": lambda f: keep_times(f / "etc/motd", lambda p: p.write_text("HELLO")),
    "swap": swap,
    "mode": lambda f: (f / "etc/motd").chmod(0o600),
    "set-user-id": lambda f: (f / "etc/motd").chmod(0o4755),
    "added": lambda f: (f / "etc/new").touch(),
    "added folder": lambda f: (f / "empty").mkdir(),
    "added link": lambda f: (f / "l").symlink_to("x"),
    "removed": lambda f: (f / "etc/motd").unlink(),
    "renamed": lambda f: (f / "etc/motd").rename(f / "etc/motd2"),
    "moved": lambda f: (f / "etc/motd").rename(f / "motd"),
    "link": lambda f: replace(f / "link", lambda p: p.symlink_to("etc/host")),
    "link to file": lambda f: replace(f / "link", lambda p: p.write_text("etc/motd")),
    "file to folder": lambda f: replace(f / "etc/motd", lambda p: p.mkdir()),
    "file to fifo": lambda f: replace(f / "etc/motd", os.mkfifo),
    "folder's mode": lambda f: (f / "etc").chmod(0o700),
    "its own mode": lambda f: f.chmod(0o700),
    "name that is no UTF-8": lambda f: (f / "caf\udce9").touch(),
}


@pytest.mark.parametrize("edit", EDITS)
def test_every_edit_changes_the_digest(folder, later, edit):
    before = scan(str(folder), {})
    EDITS[edit](folder)
    after = scan(str(folder), before.seen)
    assert after.digest != before.digest
    assert after.changed
    assert after.digest == scan(str(folder), {}).digest


SAME = {
    "touch": lambda f: os.utime(f / "etc/motd"),
    "touch of a folder": lambda f: os.utime(f / "etc"),
    "the same content again": lambda f: (f / "etc/motd").write_text("hello"),
    "another inode": lambda f: replace(f / "etc/motd", lambda p: p.write_text("hello")),
    "mode there and back": lambda f: [(f / "etc/motd").chmod(mode) for mode in (0o600, 0o644)],
    "a file that comes and goes": lambda f: [(f / "x").touch(), (f / "x").unlink()],
}


@pytest.mark.parametrize("edit", SAME)
def test_what_is_no_edit_does_not(folder, later, edit):
    (folder / "etc/motd").chmod(0o644)
    before = scan(str(folder), {})
    SAME[edit](folder)
    assert scan(str(folder), before.seen).digest == before.digest


@needs_root
def test_the_owner_of_a_source_does_not_count(folder):
    before = scan(str(folder), {})
    os.chown(folder / "etc/motd", 12, 34)
    assert scan(str(folder), before.seen).digest == before.digest


def test_a_copy_has_the_same_digest(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    assert scan(str(tmp_path / "copy"), {}).digest == scan(str(folder), {}).digest


def test_a_source_file(tmp_path, later):
    path = tmp_path / "tune.sh"
    path.write_text("a")
    path.chmod(0o755)
    first = scan(str(path), {})
    assert first.seen[""][1] == ("f", 0o755, xxhash.xxh3_128_hexdigest(b"a"))
    path.chmod(0o644)
    second = scan(str(path), first.seen)
    assert second.digest != first.digest
    path.write_text("b")
    assert scan(str(path), second.seen).digest not in (first.digest, second.digest)


def test_a_source_that_is_gone(tmp_path):
    with pytest.raises(FileNotFoundError):
        scan(str(tmp_path / "x"), {})


def test_names_and_contents_do_not_run_into_each_other(tmp_path):
    for name, files in {"a": {"x": "1", "y": ""}, "b": {"x": "", "y": "1"}, "c": {"x1": "", "y": ""}}.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(content)
    assert len({scan(str(tmp_path / name), {}).digest for name in "abc"}) == 3


# File outputs


def test_seal_file(tmp_path):
    path = tmp_path / "out"
    path.write_text("content")
    path.chmod(0o600)
    sealed = seal_file(str(path), EPOCH)
    assert sealed == (xxhash.xxh3_128_hexdigest(b"content"), 7, path.stat().st_blocks * 512)
    status = path.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o644, EPOCH)


def test_a_file_takes_what_it_alone_has_on_the_disk(tmp_path):
    path, other = tmp_path / "out", tmp_path / "other"
    with path.open("wb") as stream:
        stream.write(b"x" * 8192)
        stream.truncate(1 << 30)
    assert 8192 <= seal_file(str(path), EPOCH).disk_bytes < 1 << 20
    other.hardlink_to(path)
    assert seal_file(str(path), EPOCH).disk_bytes == 0


def test_a_layer_takes_what_it_alone_has_on_the_disk(tmp_path):
    tree = layer(tmp_path / "tree")
    alone = [path for path in (tree, *tree.rglob("*")) if path.is_dir() or path.lstat().st_nlink == 1]
    assert seal_layer(str(tree), EPOCH).disk_bytes == sum(path.lstat().st_blocks for path in alone) * 512


def test_seal_file_tells_executables_apart(tmp_path):
    path = tmp_path / "out"
    path.write_text("content")
    path.chmod(0o700)
    assert seal_file(str(path), EPOCH).digest == xxhash.xxh3_128_hexdigest(b"content") + "x"
    assert stat.S_IMODE(path.stat().st_mode) == 0o755


def test_seal_file_refuses_what_is_no_file(tmp_path):
    with pytest.raises(StoreError, match="its steps made no output") as caught:
        seal_file(str(tmp_path / "out"), EPOCH)
    assert caught.value.hint == "a step must write to box.out, or to OUT"
    (tmp_path / "link").symlink_to("x")
    for name in (".", "link"):
        with pytest.raises(StoreError, match="its steps made something else than a file"):
            seal_file(str(tmp_path / name), EPOCH)


# Layers


def layer(path):
    """Make a small tree."""
    (path / "usr/bin").mkdir(parents=True)
    (path / "usr/bin/tool").write_text("tool")
    (path / "usr/bin/tool").chmod(0o755)
    (path / "usr/bin/same").hardlink_to(path / "usr/bin/tool")
    (path / "usr/bin/other").write_text("other")
    (path / "bin").symlink_to("usr/bin")
    os.mkfifo(path / "pipe")
    for found in (path, *path.rglob("*")):
        os.utime(found, OLD, follow_symlinks=False)
    return path


def unlink_and_copy(path):
    content = path.read_text()
    path.unlink()
    path.write_text(content)
    path.chmod(0o755)
    os.utime(path, OLD)


CHANGES = {
    "content": lambda t: keep_times(t / "usr/bin/tool", lambda p: p.write_text("TOOL")),
    "mode": lambda t: (t / "usr/bin/tool").chmod(0o4755),
    "folder's mode": lambda t: (t / "usr").chmod(0o700),
    "root's mode": lambda t: t.chmod(0o700),
    "an earlier time": lambda t: os.utime(t / "usr/bin/tool", (EPOCH - 9, EPOCH - 9)),
    "a folder's earlier time": lambda t: os.utime(t / "usr", (EPOCH - 9, EPOCH - 9)),
    "a link's earlier time": lambda t: os.utime(t / "bin", (EPOCH - 9, EPOCH - 9), follow_symlinks=False),
    "a hard link becomes a copy": lambda t: unlink_and_copy(t / "usr/bin/same"),
    "added": lambda t: (t / "new").touch(),
    "removed": lambda t: (t / "pipe").unlink(),
    "renamed": lambda t: (t / "pipe").rename(t / "pipe2"),
    "xattr": lambda t: os.setxattr(t / "usr/bin/tool", "user.a", b"1"),
    "folder's xattr": lambda t: os.setxattr(t / "usr", "user.a", b"1"),
    "opaque": lambda t: os.setxattr(t / "usr", "user.overlay.opaque", b"y"),
}
ROOT_CHANGES = {
    "owner": lambda t: os.chown(t / "usr/bin/other", 12, 0),
    "group": lambda t: os.chown(t / "usr/bin/other", 0, 12),
    "link's owner": lambda t: os.chown(t / "bin", 12, 0, follow_symlinks=False),
    "folder's owner": lambda t: os.chown(t / "usr", 12, 0),
    "capability": lambda t: os.setxattr(
        t / "usr/bin/other", "security.capability", bytes.fromhex("0100000200200000000000000000000000000000")
    ),
    "device": lambda t: os.mknod(t / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3)),
    "whiteout": lambda t: os.mknod(t / "gone", stat.S_IFCHR, os.makedev(0, 0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_layer_counts(tmp_path, change):
    before, after = layer(tmp_path / "a"), layer(tmp_path / "b")
    CHANGES[change](after)
    assert seal_layer(str(before), EPOCH).digest != seal_layer(str(after), EPOCH).digest


@needs_root
@pytest.mark.parametrize("change", ROOT_CHANGES)
def test_what_only_root_can_change_counts_too(tmp_path, change):
    before, after = layer(tmp_path / "a"), layer(tmp_path / "b")
    ROOT_CHANGES[change](after)
    assert seal_layer(str(before), EPOCH).digest != seal_layer(str(after), EPOCH).digest


@needs_root
def test_devices_are_told_apart(tmp_path):
    digests = set()
    for number, (kind, device) in enumerate(
        [(stat.S_IFCHR, (1, 3)), (stat.S_IFCHR, (1, 5)), (stat.S_IFBLK, (1, 3)), (stat.S_IFCHR, (0, 0))]
    ):
        path = tmp_path / str(number)
        path.mkdir()
        os.mknod(path / "x", 0o600 | kind, os.makedev(*device))
        for found in (path, path / "x"):
            os.utime(found, OLD)
        digests.add(seal_layer(str(path), EPOCH).digest)
    assert len(digests) == 4


def test_the_same_layer_made_again_has_the_same_digest(tmp_path):
    first, second = (seal_layer(str(layer(tmp_path / name)), EPOCH) for name in "ab")
    assert first == second
    assert first.size == len("tool") + len("other")


def test_sealing_again_changes_nothing(tmp_path):
    path = layer(tmp_path / "a")
    (path / "new").touch()
    assert seal_layer(str(path), EPOCH) == seal_layer(str(path), EPOCH)


def test_times_are_cut_at_the_epoch(tmp_path):
    path = layer(tmp_path / "a")
    os.utime(path / "usr/bin/other", (EPOCH - 7, EPOCH - 7))
    for name in (".", "usr", "usr/bin", "usr/bin/tool", "bin", "pipe"):
        os.utime(path / name, (EPOCH + 5, EPOCH + 5.5), follow_symlinks=False)
    seal_layer(str(path), EPOCH)
    times = {os.lstat(found).st_mtime_ns for found in (path, *path.rglob("*"))}
    assert times == {(EPOCH - 7) * 10**9, EPOCH * 10**9}


def test_times_after_the_epoch_do_not_count(tmp_path):
    one, two = layer(tmp_path / "a"), layer(tmp_path / "b")
    for path, more in ((one, 1), (two, 2)):
        for found in (path, *path.rglob("*")):
            os.utime(found, (EPOCH + more, EPOCH + more), follow_symlinks=False)
    assert seal_layer(str(one), EPOCH) == seal_layer(str(two), EPOCH)


def test_the_order_in_which_files_were_made_does_not_count(tmp_path):
    digests = set()
    for name, order in (("a", "xyz"), ("b", "zyx")):
        (tmp_path / name).mkdir()
        for each in order:
            (tmp_path / name / each).write_text(each)
        digests.add(seal_layer(str(tmp_path / name), EPOCH).digest)
    assert len(digests) == 1


def test_what_overlayfs_notes_for_itself_is_taken_away(tmp_path):
    one, two = layer(tmp_path / "a"), layer(tmp_path / "b")
    os.setxattr(two / "usr", "user.overlay.origin", b"x")
    os.setxattr(two / "usr", "user.overlay.impure", b"y")
    assert seal_layer(str(one), EPOCH) == seal_layer(str(two), EPOCH)
    assert os.listxattr(two / "usr") == []


@needs_root
def test_the_mark_of_a_replaced_folder_is_the_same_in_both_spellings(tmp_path):
    one, two = layer(tmp_path / "a"), layer(tmp_path / "b")
    os.setxattr(one / "usr", "user.overlay.opaque", b"y")
    os.setxattr(two / "usr", "trusted.overlay.opaque", b"y")
    assert seal_layer(str(one), EPOCH) == seal_layer(str(two), EPOCH)
    assert os.listxattr(two / "usr") == ["trusted.overlay.opaque"]


def test_names_that_are_no_utf8(tmp_path):
    digests = set()
    for number, name in enumerate((b"caf\xe9", b"caf\xe8")):
        path = os.fsencode(tmp_path / str(number))
        os.mkdir(path)
        with open(path + b"/" + name, "wb"):
            pass
        digests.add(seal_layer(os.fsdecode(path), EPOCH).digest)
    assert len(digests) == 2


# Summaries


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_a_layer_changes_its_summary(tmp_path, change):
    path = layer(tmp_path / "layer")
    before = layer_summary(str(path))
    time.sleep(0.02)  # the clock's tick
    CHANGES[change](path)
    assert layer_summary(str(path)) != before


def test_a_summary_is_the_same_until_something_changes(tmp_path):
    path = layer(tmp_path / "layer")
    before = layer_summary(str(path))
    assert 0 < before < 1 << 63
    for each in path.rglob("*"):
        if each.is_file():
            each.read_bytes()
    assert layer_summary(str(path)) == before
    os.setxattr(path, "user.mine", b"mine")
    assert layer_summary(str(path)) != before, "the folder itself counts, too"
    with pytest.raises(FileNotFoundError):
        layer_summary(str(tmp_path / "none"))


def test_names_in_a_shared_cache_do_not_count(tmp_path):
    """A file may get and lose names elsewhere; all other changes of it count."""
    path, cache = tmp_path / "layer", tmp_path / "cache"
    for folder in (path, cache):
        folder.mkdir()
    (path / "alone").write_text("alone")
    (path / "object").write_text("object")
    os.link(path / "object", path / "again")
    os.link(path / "object", cache / "object")
    before = layer_summary(str(path))
    os.link(path / "object", cache / "more")
    assert layer_summary(str(path)) == before
    (cache / "more").unlink()
    assert layer_summary(str(path)) == before
    os.link(path / "alone", cache / "alone")
    assert layer_summary(str(path)) != before
    (cache / "alone").unlink()
    before = layer_summary(str(path))
    (path / "object").write_text("OBJECT")
    assert layer_summary(str(path)) != before


def test_the_change_time_of_a_file_with_all_its_names_in_the_layer_counts(tmp_path):
    (tmp_path / "one").write_text("content")
    os.link(tmp_path / "one", tmp_path / "two")
    before, status = layer_summary(str(tmp_path)), os.stat(tmp_path / "one")
    time.sleep(0.02)
    (tmp_path / "one").write_text("CONTENT")
    os.utime(tmp_path / "two", ns=(1, status.st_mtime_ns))
    assert layer_summary(str(tmp_path)) != before
