# ruff: noqa: E501  what stands side by side is easier to read on one line
"""What an output holds: file systems read out of images, stacks of layers, partition tables, dpkg's notes."""

import os
import shutil
import struct
import subprocess

import pytest

from forgefile.compare import Extent, changes
from forgefile.contents import packages, sizes
from forgefile.contents.ext4 import Ext4
from forgefile.contents.image import open_image, trees_of
from forgefile.contents.output import Place
from forgefile.contents.tree import Path, content, find, stacked, walk
from forgefile.errors import UsageError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes device nodes and gives files away")
ALL = 0xFFFFFFFF
ACL = ((1, 7, ALL), (2, 5, 5), (4, 5, ALL), (16, 5, ALL), (32, 5, ALL))
"""Tag, permissions and id of the entries of acl(5)."""


def tool(*argv, **keywords):
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is missing")
    return subprocess.run(tuple(map(str, argv)), check=True, capture_output=True, **keywords)


@pytest.fixture
def tree(tmp_path):
    """Return a folder with all that a tree may hold."""
    root = tmp_path / "tree"
    (root / "etc").mkdir(parents=True)
    (root / "many").mkdir()
    (root / "etc/motd").write_text("hello\n")
    (root / "etc/odd\nname").write_text("x")
    with open(os.fsencode(root) + b"/etc/\xff", "wb") as stream:
        stream.write(b"y")
    (root / "etc/link").symlink_to("motd")
    (root / "etc/long").symlink_to("x" * 100)
    os.link(root / "etc/motd", root / "etc/same")
    os.mkfifo(root / "etc/pipe")
    os.mknod(root / "null", 0o020666, os.makedev(1, 3))
    os.mknod(root / "disk", 0o060640, os.makedev(300, 70000))
    os.chown(root / "etc/motd", 70000, 100)
    (root / "etc/odd\nname").chmod(0o4711)
    for number in range(600):
        (root / f"many/{number} with a long name so that there are several blocks of them").touch()
    (root / "large").write_bytes(os.urandom(5 << 20))
    with open(root / "sparse", "wb") as stream:
        stream.write(b"begin")
        stream.seek(20 << 20)
        stream.write(b"end")
    os.setxattr(root / "etc/motd", "user.note", b"short")
    os.setxattr(root / "etc/long", "trusted.note", b"l" * 300, follow_symlinks=False)
    os.setxattr(root / "etc", "system.posix_acl_access", struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *e) for e in ACL))
    return root


def differences(first, second):
    return [(change.path, [detail.what for detail in change.details]) for change in changes(first, second, Extent())]


FILE_SYSTEMS = {
    "ext2": ("-t", "ext2"), "ext3": ("-t", "ext3"), "ext4": ("-t", "ext4"), "small blocks": ("-t", "ext4", "-b", "1024", "-O", "^64bit"),
    "small inodes": ("-t", "ext4", "-I", "128"), "inline": ("-t", "ext4", "-O", "inline_data"), "large blocks": ("-F", "-t", "ext4", "-b", "65536"),
}  # fmt: skip


@needs_root
@pytest.mark.parametrize("kind", FILE_SYSTEMS)
def test_ext4_is_read_as_it_was_made(tree, tmp_path, kind):
    """Every name, owner, mode, attribute, link, device and byte."""
    image = tmp_path / "image"
    with open(image, "wb") as stream:
        stream.truncate(128 << 20)
    tool("mke2fs", "-q", *FILE_SYSTEMS[kind], "-d", tree, image)
    with open(image, "rb") as stream:
        system = Ext4(lambda at, length: os.pread(stream.fileno(), length, at))
        assert differences(Path([str(tree)]), system.root) == []
        (tree / "etc/motd").write_text("hallo\n")
        os.setxattr(tree / "etc/long", "trusted.note", b"m" * 300, follow_symlinks=False)
        (tree / "etc/same").unlink()
        found = dict(differences(system.root, Path([str(tree)])))
        assert found == {"etc/motd": ["content"], "etc/same": [], "etc/long": ["xattr"]}


@needs_root
@pytest.mark.parametrize(("kind", "lost"), [("squashfs", set()), ("erofs", {"etc", "etc/long", "etc/motd", "etc/odd\nname", "etc/same"})])
def test_other_file_systems(tree, tmp_path, kind, lost):
    """By their tools, also from within a partition. What fsck.erofs leaves out is told."""
    made, image = tmp_path / kind, tmp_path / "image"
    os.removexattr(tree / "etc", "system.posix_acl_access")  # neither can store it
    os.removexattr(tree / "etc/long", "trusted.note", follow_symlinks=False)
    if kind == "squashfs":
        tool("mksquashfs", tree, made, "-quiet", "-no-progress")
    else:
        tool("mkfs.erofs", made, tree)
    with open(image, "wb") as stream:
        stream.truncate(64 << 20)
    tool("sfdisk", "--quiet", image, input=b"label: gpt\nstart=2048, size=100000, name=one\n")
    with open(image, "r+b") as stream:
        stream.seek(2048 * 512)
        stream.write(made.read_bytes())
    for file in (made, image):
        folder = tmp_path / f"unpacked {file.name}"
        folder.mkdir()
        ((part, root),) = trees_of(open_image(str(file), str(folder)), str(folder))
        assert part.filesystem == kind
        assert {path for path, _ in differences(Path([str(tree)]), root)} <= lost


def test_layers_hide_what_is_below(tmp_path):
    """Files, whiteouts and opaque folders; the mount that it has to be like is compared in tests/e2e."""
    for name in ("low/a/x", "low/a/y", "low/b/x", "low/c/x", "high/a/x", "high/b/z", "high/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    os.setxattr(tmp_path / "high/b", "user.overlay.opaque", b"y")
    low, both = stacked([str(tmp_path / "low")]), stacked([str(tmp_path / "low"), str(tmp_path / "high")])
    assert [name for name, _ in walk(both)] == ["", "a", "a/x", "a/y", "b", "b/z", "c"]
    assert content(both, "a/x") == b"high/a/x"
    assert both.children()["b"].attributes() == {}
    assert differences(low, both) == [("a/x", ["content"]), ("b/x", []), ("b/z", []), ("c", ["type"]), ("c/x", [])]
    assert set(both.children()["a"].children(low.children()["a"])) == {"x"}, "what both have is not looked at"
    assert differences(both, both) == []
    taken = sizes.rows(Place(layers=(str(tmp_path / "low"), str(tmp_path / "high"))), ())
    assert taken[0] == {"size": len("high/a/xlow/a/yhigh/b/zhigh/c"), "files": 4}


@needs_root
def test_a_whiteout_hides(tmp_path):
    (tmp_path / "low/a").mkdir(parents=True)
    (tmp_path / "low/a/x").write_text("x")
    (tmp_path / "high").mkdir()
    os.mknod(tmp_path / "high/a", 0o020000, 0)
    both = stacked([str(tmp_path / "low"), str(tmp_path / "high")])
    assert both.children() == {}
    assert find(both, "a/x") is None
    assert differences(stacked([str(tmp_path / "low")]), both) == [("a", []), ("a/x", [])]


def test_links_on_the_way(tmp_path):
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/tool").write_text("tool")
    (tmp_path / "bin").symlink_to("usr/bin")
    (tmp_path / "absolute").symlink_to("/usr")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "out").symlink_to("../..")
    root = Path([str(tmp_path)])
    assert content(root, "bin/tool") == content(root, "absolute/bin/tool") == b"tool"
    assert [find(root, path) for path in ("circle/x", "out/x", "usr/bin/tool/x", "nothing")] == [None] * 4


TABLES = {
    "gpt": (("label: gpt\nlabel-id: 00000000-1111-2222-3333-444444444444\n"
            "start=2048, size=2048, name=a, type=U, uuid=00000000-0000-0000-0000-000000000001\nstart=8192, size=2048\n"),
            [("a", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", 1 << 20, 1 << 20), ("", "0FC63DAF-8483-4772-8E79-3D69D8477DE4", 4 << 20, 1 << 20)]),
    "mbr": (("label: dos\nlabel-id: 0x12345678\n1: start=2048, size=2048, type=83, bootable\n2: start=8192, size=50000, type=5\n"
            "5: start=10240, size=2048, type=82\n6: start=14336, size=2048, type=83\n"),
            [("", "83", 1 << 20, 1 << 20), ("", "82", 5 << 20, 1 << 20), ("", "83", 7 << 20, 1 << 20)]),
}  # fmt: skip


@pytest.mark.parametrize("table", TABLES)
def test_partition_tables(tmp_path, table):
    script, expected = TABLES[table]
    image = tmp_path / "image"
    with open(image, "wb") as stream:
        stream.truncate(40 << 20)
    tool("sfdisk", "--quiet", image, input=script.encode())
    found = open_image(str(image), str(tmp_path))
    assert (found.table, found.id) == (table, "00000000-1111-2222-3333-444444444444" if table == "gpt" else "12345678")
    assert [(part.name, part.type, part.start, part.size) for part in found.partitions] == expected
    assert [part.number for part in found.partitions] == ([1, 2] if table == "gpt" else [1, 5, 6])


def test_what_is_no_image(tmp_path):
    for number, data in enumerate((b"", b"text", bytes(512 * 40), b"\0" * 510 + b"\x55\xaa" + bytes(512))):
        (tmp_path / f"{number}").write_bytes(data)
        assert open_image(str(tmp_path / f"{number}"), str(tmp_path)) is None
    (tmp_path / "vmdk").write_bytes(b"KDMV" + bytes(600))
    with pytest.raises(UsageError, match="cannot be read as vmdk"):
        open_image(str(tmp_path / "vmdk"), str(tmp_path))


def test_several_architectures():
    text = "".join(f"Package: {name}\nStatus: install ok installed\nArchitecture: {arch}\nVersion: 1\n\n"
                   for name, arch in (("libc6", "amd64"), ("libc6", "i386"), ("vim", "amd64")))  # fmt: skip
    assert list(packages.parse(text.encode())) == ["libc6:amd64", "libc6:i386", "vim"]
    assert packages.parse(b"\xff\n\nnonsense\n\nPackage: half\nStatus: install ok half-installed\n\nPackage: x\n") == {}
    assert packages.parse(b"", b"Package: x\n") == {"x": packages.Package("", 0, "")}


def test_what_grew():
    """The packages, and the folders that have it themselves."""
    old = [{"package": "a", "size": 5}, {"folder": "/usr", "size": 10}, {"folder": "/usr/lib", "size": 10}]
    new = [{"package": "a", "size": 9}, {"package": "b", "size": 1}, {"folder": "/usr", "size": 15}, {"folder": "/usr/lib", "size": 15}]
    assert [(row.get("package") or row["folder"], row["size"]) for row in sizes.grown(old, new)] == [("a", 4), ("b", 1), ("/usr/lib", 5)]
    assert sizes.grown(new, old) == []
