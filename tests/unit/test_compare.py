"""What two outputs differ in, in words."""

import os

import pytest

from forgefile import compare

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes device nodes and gives files away")
TIME = (1_735_689_600, 1_735_689_600)


@pytest.fixture
def two(tmp_path):
    """Return two folders that are the same."""
    for folder in (tmp_path / "first", tmp_path / "second"):
        (folder / "etc").mkdir(parents=True)
        (folder / "etc/motd").write_text("hello")
        (folder / "etc/link").symlink_to("motd")
        for path in (folder / "etc/motd", folder / "etc/link", folder / "etc", folder):
            os.utime(path, TIME, follow_symlinks=False)
    return tmp_path / "first", tmp_path / "second"


def words(two):
    """Return the differences, the times of folders restored, which every change of what they hold changes."""
    for folder in two:
        for path in (folder / "etc", folder):
            os.utime(path, TIME)
    return compare.differences(*map(str, two))


def test_the_same(two):
    assert words(two) == ([], None)


def add_link(folder):
    os.link(folder / "etc/motd", folder / "etc/same")


def replace(path, make):
    path.unlink()
    make(path)
    os.utime(path, TIME, follow_symlinks=False)


CHANGES = {
    "mode": (lambda f: (f / "etc/motd").chmod(0o600), ["etc/motd: mode 0644 → 0600"]),
    "time": (lambda f: os.utime(f / "etc/motd", ns=(0, 1_500_000_000)),
             ["etc/motd: time 2025-01-01 00:00:00 → 1970-01-01 00:00:01.500000000"]),
    "link": (lambda f: replace(f / "etc/link", lambda p: p.symlink_to("other")), ["etc/link: leads to motd → other"]),
    "type": (lambda f: replace(f / "etc/motd", lambda p: p.mkdir()), ["etc/motd: file → folder"]),
    "hard link": (add_link, ["etc/same: only the second time"]),
    "attribute": (lambda f: os.setxattr(f / "etc/motd", "user.x", b"1"), ["etc/motd: attribute user.x"]),
    "missing": (lambda f: (f / "etc/motd").unlink(), ["etc/motd: only the first time"]),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_one_difference(two, change):
    make, expected = CHANGES[change]
    make(two[1])
    assert words(two) == (expected, None)


@needs_root
def test_differences_that_root_makes(two):
    for number, folder in enumerate(two):
        os.mknod(folder / "device", 0o020644, os.makedev(1, 3 + 2 * number))
        os.mknod(folder / "gone", 0o020644, os.makedev(0, number))
        os.chown(folder / "etc/motd", 0, number)
        for name in ("device", "gone"):
            os.utime(folder / name, TIME)
    assert words(two)[0] == [
        "device: device 1:3 → 1:5", "etc/motd: owner 0:0 → 0:1", "gone: removed file → character device",
        "gone: device 0:0 → 0:1",
    ]  # fmt: skip


def test_names_of_one_file(two):
    add_link(two[0])
    (two[1] / "etc/same").write_text("hello")
    os.utime(two[1] / "etc/same", TIME)
    assert words(two) == (["etc/same: hard link to etc/motd → etc/same"], None)


def test_contents(two):
    for number, folder in enumerate(two):
        (folder / "etc/motd").write_text(f"line one\nline {number}\n")
        (folder / "zeros").write_bytes(bytes(3 << 20) + b"\x01" * number)
        for name in ("etc/motd", "zeros"):
            os.utime(folder / name, TIME)
    told, file = words(two)
    zeros = 16 * r"\x00"
    assert told == [
        r"etc/motd: content from byte 14: 'line one\nline 0\n' → 'line one\nline 1\n'",
        f"zeros: content from byte {3 << 20}: '{zeros}' → '{zeros}\\x01'",
    ]
    assert file == "etc/motd"


def test_two_files(tmp_path):
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    for name in "ab":
        os.utime(tmp_path / name, TIME)
    os.link(tmp_path / "a", tmp_path / "placed")
    assert compare.differences(str(tmp_path / "a"), str(tmp_path / "b")) == (["content from byte 0: 'a' → 'b'"], "")


def test_a_report_is_cut(tmp_path):
    """diffoscope's own words, and no more of them than a person reads."""
    if compare.host.find("diffoscope") is None:
        pytest.skip("diffoscope is missing: package diffoscope-minimal")
    for name in "ab":
        (tmp_path / name).write_text("".join(f"{name}{n}\n" for n in range(100)))
    told = compare.report(str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path))
    assert "-a0" in told
    assert told[-1] == "and 143 more lines"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_report_that_takes_too_long(tmp_path, monkeypatch):
    if compare.host.find("diffoscope") is None:
        pytest.skip("diffoscope is missing: package diffoscope-minimal")
    monkeypatch.setattr(compare, "_PATIENCE_S", 0.001)
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    assert compare.report(str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path)) == ["took longer than 0.001 s"]
