"""`OstreeCommit`: what is refused, the exact step, and repositories that the real ostree accepts and deploys."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from forgefile.errors import BuildError, ForgefileError
from forgefile.model import Cache, Call, Rule, Sandbox, Target
from forgefile.programs.ostree import ZLIB, Commit, commit
from forgefile.rules import OstreeCommit

BRANCH = "debian/bookworm/amd64"
KERNEL = "6.1.0-18-amd64"
ACL = bytes.fromhex("0200000001000600ffffffff02000400e903000004000400ffffffff10000400ffffffff20000400ffffffff")
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


class Root(Rule):
    output = "tree"


TREE = Target("root", Root(), None)
needs_ostree = pytest.mark.skipif(
    (not shutil.which("ostree") or os.geteuid() != 0) and "CI" not in os.environ, reason="needs ostree and root"
)


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"branch": "a b"}, "field 'branch': 'a b' is no name of a branch"),
        ({"branch": "/a"}, "field 'branch': '/a' is no name of a branch"),
        ({"branch": "a/../b"}, "field 'branch': 'a/../b' is no name of a branch"),
        ({"bind_refs": ("a//b",)}, "field 'bind_refs': 'a//b' is no name of a branch"),
        ({"collection_id": "x"}, "field 'collection_id': 'x' is no id"),
        ({"subject": "a\nb"}, "field 'subject': is more than one line"),
        ({"metadata": {"ostree.linux": "6"}}, "field 'metadata': 'ostree.linux' is made by forge"),
        ({"convert": False, "kernel": "6"}, "field 'kernel': nothing is done with it when convert=False"),
        ({"compression_level": 0}, "field 'compression_level': zlib has 1 to 9, not 0"),
    ],
)
def test_refuses(fields, message):
    with pytest.raises(ForgefileError) as caught:
        OstreeCommit(tree=TREE, **{"branch": BRANCH, **fields})
    assert caught.value.message == f"OstreeCommit {message}"


def test_refuses_metadata_that_is_no_text():
    with pytest.raises(ForgefileError, match="field 'metadata'"):
        OstreeCommit(tree=TREE, branch=BRANCH, metadata={"version": 12})


# The step ------------------------------------------------------------------------------------------------------------


def test_steps():
    assert Target("x", OstreeCommit(tree=TREE, branch=BRANCH), None).output == "tree"
    fields = {
        "subject": "s", "body": "b", "metadata": {"version": "1"}, "bind_refs": ("a",), "collection_id": "org.a",
        "kernel": "6",
    }  # fmt: skip
    assert list(OstreeCommit(tree=TREE, branch=BRANCH, compression_level=9, **fields).steps(Sandbox())) == [
        Call(
            commit,
            Commit(
                tree="/run/forge/in/root",
                repository="/run/forge/out",
                cache="/run/forge/tmp/ostree",
                branch=BRANCH,
                level=9,
                zlib=ZLIB,
                **fields,
            ),
            caches=(Cache(name="ostree", path="/run/forge/tmp/ostree"),),
        )
    ]


# The real tool -------------------------------------------------------------------------------------------------------


def write(path: Path, text: str = "", mode: int = 0o644, owner: tuple[int, int] = (0, 0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.chown(path, *owner)
    path.chmod(mode)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A small tree with all that a Debian system has of oddities."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1750000000")
    root = tmp_path / "tree"
    for name in ("proc", "sys", "run/lock", "tmp/x", "media", "mnt", "srv", "home/me", "boot/grub", "dev"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib"):
        (root / "usr" / name).mkdir(parents=True)
        (root / name).symlink_to(f"usr/{name}")
    for name in ("vmlinuz", "initrd.img"):
        (root / name).symlink_to(f"boot/{name}-{KERNEL}")
    write(root / f"boot/vmlinuz-{KERNEL}", "the kernel")
    write(root / f"boot/initrd.img-{KERNEL}", "the initramfs", 0o600)
    write(root / f"boot/System.map-{KERNEL}", "map")
    write(root / "boot/grub/grub.cfg")
    write(root / f"usr/lib/modules/{KERNEL}/modules.dep", "dep")
    write(root / "usr/lib/os-release", "ID=debian\nNAME=Debian\nPRETTY_NAME=Debian\nVERSION_ID=12\n")
    write(root / "usr/lib/tmpfiles.d/var.conf", "d /var/log 0755 - - -\nq /var/tmp 1777 root root 30d\n")
    write(root / "usr/bin/ping", "ping", 0o755)
    os.setxattr(root / "usr/bin/ping", "security.capability", CAPABILITY)
    os.setxattr(root / "usr/bin/ping", "user.bytes", bytes(range(256)))
    os.setxattr(root / "usr/bin/ping", "user.empty", b"")
    os.link(root / "usr/bin/ping", root / "usr/bin/ping6")
    write(root / "usr/bin/su", "su", 0o4755)
    write(root / "usr/bin/other", "su", 0o2755, (70000, 70001))
    write(root / "usr/share/big", "0123456789" * 500_000)
    write(root / "usr/share/ünï 'quoted' \\ \n", "odd")
    (root / "usr/share/wide").mkdir(mode=0o1777)
    os.chmod(root / "usr/share/wide", 0o3777)
    os.setxattr(root / "usr/share/wide", "system.posix_acl_access", ACL)
    write(root / "etc/passwd", "root:x:0:0::/root:/bin/sh\n")
    write(root / "etc/shadow", "root:*\n", 0o640, (0, 42))
    write(root / "root/.bashrc", "rc")
    os.chmod(root / "root", 0o700)
    write(root / "opt/app/run", "app", 0o755)
    write(root / "var/lib/dpkg/status", "Package: x\n")
    write(root / 'var/lib/x/a "b" %', "odd", 0o640, (7, 8))
    write(root / "var/lib/x/ü", "odd")
    (root / "var/lib/x/link").symlink_to("/etc/a b%")
    write(root / "var/log/apt/term.log", "log")
    write(root / "var/cache/man/index", "index")
    (root / "var/mail").mkdir()
    os.chown(root / "var/mail", 0, 8)
    os.chmod(root / "var/mail", 0o2775)
    os.mkfifo(root / "var/lib/x/pipe", 0o600)
    os.mknod(root / "dev/null", 0o20666, os.makedev(1, 3))
    return root


def make(tree: Path, out: Path, cache: Path, **fields: object) -> Path:
    out.mkdir()
    words = {"branch": BRANCH, "level": 6, "zlib": ZLIB, **fields}
    commit(Commit(tree=str(tree), repository=str(out), cache=str(cache), **words))
    return out


def ostree(*words: object) -> str:
    return subprocess.run(["ostree", *map(str, words)], check=True, capture_output=True, text=True).stdout


def listed(repo: Path, *words: str) -> dict[str, str]:
    """Return what `ostree ls` says of each path: mode, owner and link target."""
    lines = ostree("ls", f"--repo={repo}", "-R", *words, BRANCH).replace(" \\ \n", " NL").splitlines()
    parts = [line.split(None, 4) for line in lines]
    names = [part[4].partition(" -> ") for part in parts]
    return {name: " ".join(part[:3]) + arrow + link for part, (name, arrow, link) in zip(parts, names, strict=True)}


@needs_ostree
def test_a_debian_tree_is_made_fit(tree, tmp_path):
    repo = make(tree, tmp_path / "repo", tmp_path / "cache")
    ostree("fsck", f"--repo={repo}")
    assert ostree("refs", f"--repo={repo}") == f"{BRANCH}\n"
    found = listed(repo)
    assert [name for name in found if name.count("/") == 1 and found[name].startswith("l")] == [
        "/bin", "/home", "/lib", "/media", "/mnt", "/opt", "/ostree", "/root", "/srv", "/tmp",
    ]  # fmt: skip
    assert found["/home"] == "l00777 0 0 -> var/home"
    assert found["/root"] == "l00777 0 0 -> var/roothome"
    assert found["/ostree"] == "l00777 0 0 -> sysroot/ostree"
    for empty in ("/boot", "/dev", "/proc", "/run", "/sys", "/sysroot", "/var"):
        assert found[empty] == "d00755 0 0"
        assert not [name for name in found if name.startswith(f"{empty}/")]
    assert found["/usr/etc/shadow"] == "-00640 0 42"
    assert "/etc" not in found
    assert found[f"/usr/lib/modules/{KERNEL}/vmlinuz"] == "-00644 0 0"
    assert found[f"/usr/lib/modules/{KERNEL}/initramfs.img"] == "-00600 0 0"
    assert f"/usr/lib/modules/{KERNEL}/modules.dep" in found
    assert "/usr/share/dpkg/database/status" in found
    assert found["/usr/share/factory/var/roothome"] == "d00700 0 0"
    assert "/usr/share/factory/var/opt/app/run" in found
    assert not [name for name in found if "term.log" in name or "man/index" in name or "grub.cfg" in name]
    assert found["/usr/bin/su"] == "-04755 0 0"
    assert found["/usr/bin/other"] == "-02755 70000 70001"
    assert found["/usr/share/wide"] == "d03644 0 0"
    assert ostree("cat", f"--repo={repo}", BRANCH, f"/usr/lib/modules/{KERNEL}/vmlinuz") == "the kernel"


TMPFILES = """\
d /run/media 0755 0 0 -
d /var/cache 0755 0 0 -
d /var/cache/man 0755 0 0 -
d /var/home 0755 0 0 -
d /var/home/me 0755 0 0 -
d /var/lib 0755 0 0 -
L /var/lib/dpkg - - - - ../../usr/share/dpkg/database
d /var/lib/x 0755 0 0 -
C "/var/lib/x/a \\"b\\" %%" 0640 7 8 -
L /var/lib/x/link - - - - /etc/a b%%
p /var/lib/x/pipe 0600 0 0 -
C /var/lib/x/ü 0644 0 0 -
d /var/log/apt 0755 0 0 -
d /var/mail 2775 0 8 -
d /var/mnt 0755 0 0 -
d /var/opt 0755 0 0 -
d /var/opt/app 0755 0 0 -
C /var/opt/app/run 0755 0 0 -
d /var/roothome 0700 0 0 -
C /var/roothome/.bashrc 0644 0 0 -
d /var/srv 0755 0 0 -
"""


@needs_ostree
def test_systemd_makes_var_again(tree, tmp_path):
    repo = make(tree, tmp_path / "repo", tmp_path / "cache")
    text = ostree("cat", f"--repo={repo}", BRANCH, "/usr/lib/tmpfiles.d/ostree-var.conf")
    assert text.partition("\n")[2] == TMPFILES
    if not shutil.which("systemd-tmpfiles") and "CI" not in os.environ:
        pytest.skip("needs systemd-tmpfiles")
    made = tmp_path / "made"
    ostree("checkout", f"--repo={repo}", BRANCH, made)
    (made / "usr/etc").rename(made / "etc")  # as a deployment has it
    subprocess.run(["systemd-tmpfiles", f"--root={made}", "--create"], check=True, capture_output=True)
    odd = made / 'var/lib/x/a "b" %'
    assert odd.read_text() == "odd"
    status = odd.stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o640, 7, 8)
    assert (made / "var/lib/x/ü").read_text() == "odd"
    assert os.readlink(made / "var/lib/x/link") == "/etc/a b%"
    assert (made / "var/lib/x/pipe").is_fifo()
    assert (made / "root/.bashrc").read_text() == "rc"
    assert (made / "var/lib/dpkg/status").read_text() == "Package: x\n"
    assert (made / "var/mail").stat().st_mode & 0o7777 == 0o2775


@needs_ostree
@pytest.mark.parametrize("convert", [True, False])
def test_the_content_is_what_ostree_itself_would_commit(tree, tmp_path, convert):
    (tree / "var/lib/x/pipe").unlink()
    repo = make(tree, tmp_path / "repo", tmp_path / "cache", convert=convert)
    copy, own = tmp_path / "copy", tmp_path / "own"
    if convert:
        ostree("checkout", f"--repo={repo}", BRANCH, copy)
    else:
        copy = tree
        (tree / "dev/null").unlink()
    ostree("init", f"--repo={own}", "--mode=archive")
    ostree("commit", f"--repo={own}", f"--branch={BRANCH}", f"--tree=dir={copy}")
    assert listed(repo, "-C", "-X") == listed(own, "-C", "-X")
    checksums = [
        next(line for line in ostree("show", f"--repo={each}", BRANCH).splitlines() if line.startswith("Content"))
        for each in (repo, own)
    ]
    assert checksums[0] == checksums[1]


@needs_ostree
def test_what_the_commit_says(tree, tmp_path):
    repo = make(
        tree, tmp_path / "repo", tmp_path / "cache", subject="Sübject", body="One\ntwo", collection_id="org.example.Os",
        metadata={"version": "12.1", "a.key": "ä" * 300}, bind_refs=("debian/stable",),
    )  # fmt: skip
    said = ostree("show", f"--repo={repo}", BRANCH)
    assert "Date:  2025-06-15 15:06:40 +0000" in said
    assert "Version: 12.1" in said
    assert "    Sübject\n\n    One\n    two" in said

    def metadata(key: str) -> str:
        return ostree("show", f"--repo={repo}", f"--print-metadata-key={key}", BRANCH).strip()

    assert metadata("ostree.ref-binding") == "['debian/bookworm/amd64', 'debian/stable']"
    assert metadata("ostree.collection-binding") == "'org.example.Os'"
    assert metadata("ostree.bootable") == "true"
    assert metadata("ostree.linux") == f"'{KERNEL}'"
    assert metadata("a.key") == f"'{'ä' * 300}'"
    ostree("fsck", f"--repo={repo}")
    public = tmp_path / "public"
    ostree("init", f"--repo={public}", "--mode=bare")
    ostree("pull-local", f"--repo={public}", "--untrusted", repo, BRANCH)


@needs_ostree
def test_it_deploys(tree, tmp_path):
    repo = make(tree, tmp_path / "repo", tmp_path / "cache")
    sysroot = tmp_path / "sysroot"
    sysroot.mkdir()
    try:
        ostree("admin", "init-fs", sysroot)
        ostree("admin", f"--sysroot={sysroot}", "os-init", "debian")
        ostree("pull-local", f"--repo={sysroot}/ostree/repo", "--disable-fsync", repo, BRANCH)
        ostree("admin", f"--sysroot={sysroot}", "deploy", "--os=debian", "--karg=root=LABEL=root", BRANCH)
        (entry,) = (sysroot / "boot/loader/entries").iterdir()
        text = entry.read_text()
        assert "options root=LABEL=root ostree=/ostree/boot." in text
        assert f"/vmlinuz-{KERNEL}\n" in text
        assert f"/initramfs-{KERNEL}.img\n" in text
        (deployed,) = (sysroot / "ostree/deploy/debian/deploy").glob("*.0")
        assert (deployed / "etc/shadow").read_text() == "root:*\n"
        assert os.getxattr(deployed / "usr/bin/ping", "security.capability") == CAPABILITY
        assert os.getxattr(deployed / "usr/bin/ping", "user.bytes") == bytes(range(256))
        assert (deployed / "usr/bin/ping").samefile(deployed / "usr/bin/ping6")
    finally:
        subprocess.run(["chattr", "-R", "-i", sysroot / "ostree"], check=False, capture_output=True)


# The cache -----------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


@needs_ostree
def test_the_same_tree_is_the_same_repository(tree, tmp_path):
    first = contents(make(tree, tmp_path / "1", tmp_path / "cache"))
    assert first == contents(make(tree, tmp_path / "2", tmp_path / "cache"))
    copy = tmp_path / "copy"  # other inodes, other change times
    subprocess.run(["cp", "-a", tree, copy], check=True)
    assert first == contents(make(copy, tmp_path / "3", tmp_path / "another cache"))
    assert not [name for name in first if name.startswith("tmp/") and name != "tmp/cache"]
    assert all(mode & 0o777 in (0o644, 0o755) for mode, _ in first.values())


@needs_ostree
def test_a_second_commit_adds_what_changed(tree, tmp_path):
    first = make(tree, tmp_path / "1", tmp_path / "cache")
    before = {path.stat().st_ino for path in first.rglob("*")}
    write(tree / "etc/motd", "hello")
    second = make(tree, tmp_path / "2", tmp_path / "cache")
    new = [path for path in (second / "objects").rglob("*.*") if path.stat().st_ino not in before]
    # The file, the folders /usr/etc, /usr and / that hold it, the commit.
    assert sorted(path.suffix for path in new) == [".commit", ".dirtree", ".dirtree", ".dirtree", ".filez"]
    ostree("fsck", f"--repo={second}")
    ostree("fsck", f"--repo={first}")


@needs_ostree
def test_a_cache_that_cannot_be_linked_still_saves_work(tree, tmp_path, capfd):
    elsewhere = Path("/dev/shm") / f"forge-test-{os.getpid()}"
    if os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("needs a second file system")
    try:
        shutil.copytree(make(tree, tmp_path / "1", tmp_path / "cache") / "objects", elsewhere / f"{ZLIB}-6")
        capfd.readouterr()
        second = make(tree, tmp_path / "2", elsewhere)
        assert ": 0 of " in capfd.readouterr().out
        assert contents(second) == contents(tmp_path / "1")
        write(tree / "etc/motd", "hello")
        ostree("fsck", f"--repo={make(tree, tmp_path / '3', elsewhere)}")
    finally:
        shutil.rmtree(elsewhere)


# What a commit cannot hold -------------------------------------------------------------------------------------------


@needs_ostree
def test_several_kernels(tree, tmp_path):
    write(tree / "boot/vmlinuz-6.5", "another")
    with pytest.raises(BuildError, match=rf"the tree has several kernels: {KERNEL}, 6\.5") as caught:
        make(tree, tmp_path / "1", tmp_path / "cache")
    assert caught.value.hint == "choose: kernel='6.5'"
    with pytest.raises(BuildError, match=r"the tree has no /boot/vmlinuz-6\.6"):
        make(tree, tmp_path / "2", tmp_path / "cache", kernel="6.6")
    repo = make(tree, tmp_path / "3", tmp_path / "cache", kernel="6.5")
    assert ostree("cat", f"--repo={repo}", BRANCH, "/usr/lib/modules/6.5/vmlinuz") == "another"


@needs_ostree
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda tree: os.mkfifo(tree / "usr/pipe"), "/usr/pipe: OSTree holds files, folders and symbolic links only"),
        (lambda tree: write(tree / "usr/etc/x"), "the tree has both /etc and /usr/etc"),
        (
            lambda tree: write(tree / "var/opt/app/run"),
            "the tree has both /opt/app/run and /var/opt/app/run, which would lie at one place",
        ),
        (
            lambda tree: (tree / "var/srv").symlink_to("/srv"),
            "the tree has both /srv and /var/srv, which would lie at one place",
        ),
        (
            lambda tree: os.close(os.open(os.fsencode(tree) + b"/usr/\xff", os.O_CREAT)),
            "b'/usr/\\xff': OSTree holds names and links in UTF-8 only",
        ),
        (
            lambda tree: os.symlink(b"\xff", os.fsencode(tree) + b"/usr/l"),
            "b'/usr/l': OSTree holds names and links in UTF-8 only",
        ),
    ],
)
def test_what_cannot_be_committed(tree, tmp_path, spoil, message):
    spoil(tree)
    with pytest.raises(BuildError) as caught:
        make(tree, tmp_path / "1", tmp_path / "cache")
    assert caught.value.message == message
    assert caught.value.hint


@needs_ostree
def test_what_var_holds_already_stays(tree, tmp_path):
    write(tree / "var/opt/app/data", "data")
    write(tree / "var/opt/old/run", "old", 0o755)
    write(tree / "var/roothome/.profile", "profile")
    write(tree / "var/home/me/notes", "notes")
    os.chmod(tree / "var/home/me", 0o700)
    shutil.rmtree(tree / "home")
    found = listed(make(tree, tmp_path / "repo", tmp_path / "cache"))
    factory = {name.removeprefix("/usr/share/factory"): found[name] for name in found}
    for name in ("opt/app/run", "opt/app/data", "opt/old/run", "roothome/.bashrc", "roothome/.profile"):
        assert factory[f"/var/{name}"].startswith("-")
    assert factory["/var/roothome"] == "d00700 0 0"
    assert factory["/var/home/me"] == "d00700 0 0"
    assert "/var/home/me/notes" in factory
    assert found["/home"] == "l00777 0 0 -> var/home"


@needs_ostree
def test_a_tree_that_is_in_the_form_already_and_an_empty_one(tree, tmp_path):
    first = make(tree, tmp_path / "1", tmp_path / "cache")
    copy = tmp_path / "copy"
    ostree("checkout", f"--repo={first}", BRANCH, copy)
    second = make(copy, tmp_path / "2", tmp_path / "cache")
    assert listed(first, "-C") == listed(second, "-C")
    (tmp_path / "empty").mkdir()
    ostree("fsck", f"--repo={make(tmp_path / 'empty', tmp_path / '3', tmp_path / 'cache')}")
