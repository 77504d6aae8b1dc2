"""`Pack`: what is refused, the exact argv, and archives by the real tar that hold everything and repeat."""

import os
import shutil
import subprocess
import tarfile

import pytest

from forgefile.errors import ForgefileError
from forgefile.model import Rule, Run, Sandbox, Target
from forgefile.rules import Pack


class Root(Rule):
    output = "tree"


TREE = Target("root", Root(), None)
ACL = bytes.fromhex("0200000001000600ffffffff02000400e903000004000400ffffffff10000400ffffffff20000400ffffffff")
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"level": 3}, "field 'level': nothing is compressed"),
        ({"compression": "gzip", "level": 10}, "field 'level': gzip has 1 to 9, not 10"),
        ({"compression": "zstd", "level": 0}, "field 'level': zstd has 1 to 22, not 0"),
        ({"subdir": "/usr"}, "field 'subdir': '/usr' is no plain relative path"),
        ({"subdir": "usr/../.."}, "field 'subdir': 'usr/../..' is no plain relative path"),
        ({"prefix": "../x"}, "field 'prefix': '../x' is no plain relative path"),
        ({"exclude": ("/",)}, "field 'exclude': '/' matches nothing or all"),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ForgefileError) as caught:
        Pack(tree=TREE, **fields)
    assert caught.value.message == f"Pack {message}"


def test_refuses_an_unknown_compression():
    with pytest.raises(ForgefileError, match=r"field 'compression': .*, got the string 'zip'"):
        Pack(tree=TREE, compression="zip")


FORM = (
    "--format=posix", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime", "--sort=name",
    "--numeric-owner", "--acls", "--xattrs", "--xattrs-include=*", "--xattrs-exclude=system.posix_acl_*",
)  # fmt: skip
HEAD = ("tar", "--create", "--file", "/run/forge/out")
HOLES = ("--sparse", "--hole-detection=raw")


def test_steps():
    (step,) = Pack(tree=TREE).steps(Sandbox())
    assert step == Run((*HEAD, *FORM, *HOLES, "--directory", "/run/forge/in/root", "."))
    (step,) = Pack(
        tree=TREE, compression="zstd", level=20, subdir="usr/share", prefix="a&b,c", sparse=False,
        exclude=("/doc/*", "x"),
    ).steps(Sandbox())  # fmt: skip
    assert step == Run(
        (
            *HEAD, "--use-compress-program", "zstd -q -T0 --ultra -20", *FORM,
            "--anchored", "--wildcards", "--wildcards-match-slash", "--exclude=./doc/*", "--exclude=./x",
            "--transform=s,^\\.,a\\&b\\,c,rSh", "--directory", "/run/forge/in/root/usr/share", ".",
        ),
        tools=("zstd",),
    )  # fmt: skip


@pytest.fixture
def tree(tmp_path):
    """A tree with one of everything."""
    root = tmp_path / "tree"
    (root / "usr/bin").mkdir(parents=True)
    (root / "var/cache/x").mkdir(parents=True)
    (root / "var/cache/x/y").touch()
    (root / "usr/bin/ping").write_text("ping")
    os.link(root / "usr/bin/ping", root / "usr/bin/ping6")
    (root / "usr/bin/su").write_text("su")
    os.chown(root / "usr/bin/su", 70000, 70001)
    os.chmod(root / "usr/bin/su", 0o6755)
    os.symlink("./bin/su", root / "usr/link")
    (root / "blank and\nline").touch()
    open(os.fsencode(root) + b"/\xff", "w").close()
    (root / ("l" * 200)).touch()
    with open(root / "holes", "wb") as file:
        file.seek(3 << 20)
        file.write(b"end")
    os.mkfifo(root / "pipe")
    if os.geteuid() == 0:
        os.mknod(root / "null", 0o20666, os.makedev(1, 3))
        os.setxattr(root / "usr/bin/ping", "security.capability", CAPABILITY)
    os.setxattr(root / "usr/bin/ping", "user.bytes", bytes(range(256)))
    os.setxattr(root / "usr/bin/su", "system.posix_acl_access", ACL)
    for path in (root, *root.rglob("*")):
        os.utime(path, (1_750_000_000, 1_750_000_000), follow_symlinks=False)
    return root


def pack(tree, out, cores=None, **fields):
    """Do the rule's step with paths of this test, as the first program of a PID namespace, as in the sandbox."""
    (step,) = Pack(tree=TREE, **fields).steps(Sandbox())
    argv = [word.replace("/run/forge/in/root", str(tree)).replace("/run/forge/out", str(out)) for word in step.argv]
    limit = ["taskset", "-c", "0"] if cores == 1 else []
    subprocess.run([*limit, "unshare", "--pid", "--fork", *argv], check=True, env={**os.environ, "LC_ALL": "C.UTF-8"})


def unpack(archive, to, *options):
    to.mkdir()
    words = ["tar", "-xf", archive, "-C", to, "--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls", *options]
    subprocess.run(words, check=True)


needs_root = pytest.mark.skipif(os.geteuid() != 0 and "CI" not in os.environ, reason="needs root")


@needs_root
def test_everything_comes_back(tree, tmp_path):
    pack(tree, tmp_path / "one.tar")
    back = tmp_path / "back"
    unpack(tmp_path / "one.tar", back)
    for path in (tree, *tree.rglob("*")):
        there = back / path.relative_to(tree)
        one, two = os.lstat(path), os.lstat(there)
        for name in ("st_mode", "st_uid", "st_gid", "st_rdev", "st_nlink", "st_mtime"):
            assert getattr(one, name) == getattr(two, name), (path, name)
        xattrs = [
            {name: os.getxattr(each, name, follow_symlinks=False) for name in os.listxattr(each, follow_symlinks=False)}
            for each in (path, there)
        ]
        assert xattrs[0] == xattrs[1]
        if path.is_file():
            assert path.read_bytes() == there.read_bytes()
    assert (back / "usr/bin/ping").samefile(back / "usr/bin/ping6")
    assert os.stat(back / "holes").st_blocks < 1000
    assert len(list(back.rglob("*"))) == len(list(tree.rglob("*")))


@needs_root
@pytest.mark.parametrize("compression", ["none", "bzip2", "gzip", "lz4", "xz", "zstd"])
def test_the_same_tree_is_the_same_archive(tree, tmp_path, compression):
    if not shutil.which(compression) and compression != "none" and "CI" not in os.environ:
        pytest.skip(f"needs {compression}")
    (tree / "big").write_bytes(b"".join(number.to_bytes(4, "big") for number in range(1 << 20)))
    for path in (tree / "big", tree):
        os.utime(path, (1_750_000_000, 1_750_000_000))
    pack(tree, tmp_path / "one", compression=compression)
    copy = tmp_path / "copy"  # made in another order, with other inodes and change times
    subprocess.run(["cp", "-a", tree, copy], check=True)
    (copy / "z").touch()
    (copy / "z").unlink()
    os.utime(copy, (1_750_000_000, 1_750_000_000))
    pack(copy, tmp_path / "two", compression=compression, cores=1)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


@needs_root
def test_names(tree, tmp_path):
    fields = {"subdir": "usr", "prefix": "a&b,c/d", "exclude": ("bin/su", "nothing/*")}
    pack(tree, tmp_path / "one.tar", **fields)
    with tarfile.open(tmp_path / "one.tar") as archive:
        found = {member.name: member.linkname for member in archive}
    start = "a&b,c/d"
    assert found == {
        start: "", f"{start}/bin": "", f"{start}/bin/ping": "", f"{start}/bin/ping6": f"{start}/bin/ping",
        f"{start}/link": "./bin/su",
    }  # fmt: skip
    pack(tree, tmp_path / "two.tar", exclude=("var/*", "/usr/bin"))
    with tarfile.open(tmp_path / "two.tar") as archive:
        names = archive.getnames()
    assert "./var" in names
    assert "./usr/link" in names
    assert not [name for name in names if name.startswith(("./var/", "./usr/bin"))]
