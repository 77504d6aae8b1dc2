# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""Writing a tree to where a person wants it, with everything that belongs to it."""

import os
import shutil
import stat
import subprocess
import tarfile

import pytest
from conftest import listing, until

MAKE = r"""
cd "$OUT"
mkdir -p dir/sub "odd name" empty
echo one >file; ln file dir/hard; ln -s ../file dir/sub/soft; ln -s /absolute/nowhere dangling
echo x >"odd name/new
line"; echo y >"odd name/qu'ote\"s"; echo z >"odd name/ünï,co:de"
echo s >setuid; chmod 4755 setuid
mkdir sticky; chmod 1777 sticky
echo g >setgid; chown 12:34 setgid; chmod 2750 setgid
mknod null c 1 3; mknod block b 7 0; mkfifo pipe
echo attr >attr
touch -d @1000000000 old
"""
ATTRIBUTES = """
import os, sys
os.setxattr(sys.argv[1] + "/attr", "user.word", b"value")
os.setxattr(sys.argv[1] + "/attr", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000"))
os.setxattr(sys.argv[1] + "/dir", "user.folder", b"")
"""


@pytest.fixture
def odd(project):
    project.write("attributes.py", ATTRIBUTES)
    project.forgefile(
        'base = forge.target("base", Empty())',
        f'made = forge.target("made", Change(base=base, line={MAKE!r}))',
        'odd = forge.target("odd", Script(base=made, script=forge.source("xattr.sh"), where="host", inputs=(forge.source("attributes.py"),)))',
        'forge.target("less", Change(base=odd, line="cd $OUT; rm -r dir etc/word; rm null; mkdir dir; echo new >dir/new"))',
        'forge.target("file.txt", Shell(line="echo file"))',
    )
    shebang = '#!/bin/sh\nexec python3 "$FORGE_SOURCES/attributes.py" "$TREE"\n'
    if not os.path.exists("/usr/bin/python3"):
        pytest.skip("python3 is not among the host's programs")
    project.write("xattr.sh", shebang, 0o755)
    project.forge()
    return project


def _check(tree):
    found = listing(tree)
    assert found["file"][4] == found["dir/hard"][4] or (tree / "file").stat().st_ino == (tree / "dir/hard").stat().st_ino
    assert (tree / "file").stat().st_nlink == 2
    assert os.readlink(tree / "dir/sub/soft") == "../file"
    assert os.readlink(tree / "dangling") == "/absolute/nowhere"
    assert (tree / "odd name/new\nline").read_text() == "x\n"
    assert (tree / "odd name/qu'ote\"s").exists()
    assert (tree / "odd name/ünï,co:de").exists()
    assert stat.S_IMODE((tree / "setuid").stat().st_mode) == 0o4755
    assert stat.S_IMODE((tree / "sticky").stat().st_mode) == 0o1777
    status = (tree / "setgid").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (0o2750, 12, 34)
    assert stat.S_ISCHR((tree / "null").stat().st_mode)
    assert (tree / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_ISBLK((tree / "block").stat().st_mode)
    assert stat.S_ISFIFO((tree / "pipe").stat().st_mode)
    assert (tree / "old").stat().st_mtime == 1_000_000_000
    assert (tree / "file").stat().st_mtime == 1_735_689_600
    assert os.getxattr(tree / "attr", "user.word") == b"value"
    assert os.getxattr(tree / "attr", "security.capability")
    assert os.listxattr(tree / "dir") == ["user.folder"]
    assert os.listdir(tree / "empty") == []
    assert not any("overlay" in name for _, (*_, attributes, _) in found.items() for name, _ in attributes)


def test_to_a_folder(odd):
    _check(odd.exported("odd"))


def test_to_an_archive(odd, tmp_path):
    odd.forge("export", "odd", "odd.tar")
    (tmp_path / "out").mkdir()
    subprocess.run(["tar", "--extract", f"--file={odd / 'odd.tar'}", "--xattrs", "--xattrs-include=*", "--same-owner",
                    "--same-permissions", f"--directory={tmp_path / 'out'}"], check=True)  # fmt: skip
    _check(tmp_path / "out")
    with tarfile.open(odd / "odd.tar") as archive:
        names = archive.getnames()
    assert names == sorted(names)
    odd.forge("export", "odd", str(tmp_path / "again.tar"))
    assert (tmp_path / "again.tar").read_bytes() == (odd / "odd.tar").read_bytes()


def test_what_a_layer_removes_is_gone(odd):
    tree = odd.exported("less")
    assert os.listdir(tree / "dir") == ["new"]
    assert os.listdir(tree / "etc") == []
    assert not (tree / "null").exists()
    assert (tree / "block").exists()


def test_a_file(odd, tmp_path):
    odd.forge("export", "file.txt", str(tmp_path / "copy"))
    assert (tmp_path / "copy").read_text() == "file\n"
    with open(tmp_path / "copy", "a") as stream:
        stream.write("mine")
    odd.nothing_runs()


def test_it_never_writes_over_anything(odd, tmp_path):
    odd.write("there/file")
    for name in ("there", "there/file", "Forgefile.py"):
        assert "exists already" in odd.forge("export", "odd", name, status=2).err
    error = odd.forge("export", "odd", "no/such/folder/x.tar", status=None)
    assert error.status in (1, 2)
    assert "no/such/folder" in error.err
    assert not list(odd.root.rglob("*.forge-arriving"))


def test_to_where_nothing_can_be_written(odd, tmp_path):
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0o500)
    prefix = () if os.geteuid() else ("setpriv", "--bounding-set", "-dac_override")
    for to in ("closed/folder", "closed/tree.tar"):
        ended = odd.forge("export", "odd", str(tmp_path / to), status=1, prefix=prefix)
        assert "Permission denied" in ended.err
        assert "Traceback" not in ended.err
    assert os.listdir(tmp_path / "closed") == []


def test_a_dash_is_no_folder(odd):
    assert "does not write to standard output" in odd.forge("export", "odd", "-", status=2).err
    assert not (odd / "-").exists()


def test_only_what_is_up_to_date(odd):
    odd.write("xattr.sh", "#!/bin/sh\n")
    ended = odd.forge("export", "odd", "x", status=2)
    assert "'odd' is not up to date" in ended.err
    assert "forge odd" in ended.err
    assert "there is no target 'ood'" in odd.forge("export", "ood", "x", status=2).err
    assert not (odd / "x").exists()


def test_a_store_that_cannot_be_written(odd, small_disk):
    read_only = small_disk(f"mount --bind {odd.root}/.forge {odd.root}/.forge; mount -o remount,bind,ro {odd.root}/.forge")
    to = odd.root.parent / "from-read-only"
    odd.forge("export", "odd", str(to), prefix=read_only)
    assert listing(to) == listing(odd.exported("odd"))


WAITING = """#!/bin/sh
touch "$BEGUN"
while [ ! -e "$GO" ]; do sleep 0.01; done
exec {program} "$@"
"""


def clean_and_build(odd, layer):
    odd.forge("clean")
    odd.forge()


MEANWHILE = {
    "clean": lambda odd, _: odd.forge("clean"),
    "clean, and a build": clean_and_build,
    "the store's removal": lambda odd, _: odd.forge("clean", "--all"),
    "an edit": lambda _, layer: (layer / "file").write_text("mine"),
    "a removal": lambda _, layer: (layer / "file").unlink(),
}


@pytest.mark.parametrize("to", ["folder", "archive.tar"])
@pytest.mark.parametrize("meanwhile", MEANWHILE.values(), ids=MEANWHILE)
def test_what_leaves_the_store_while_it_is_exported(odd, tmp_path, to, meanwhile):
    """Nobody waits for an export, and half a tree is none."""
    (layer,) = [each for each in (odd / ".forge/layers").iterdir() if (each / "pipe").exists()]
    export = waiting_export(odd, tmp_path, to)
    meanwhile(odd, layer)
    (tmp_path / "go").touch()
    _, err = export.communicate(timeout=60)
    assert export.returncode == 1, err
    assert "forge: the output left the store, or was changed there, while it was exported\n" in err
    assert os.listdir(tmp_path / "to") == []


def test_others_build_and_collect_while_a_tree_is_exported(odd, tmp_path):
    export = waiting_export(odd, tmp_path, "folder")
    odd.write("attributes.py", ATTRIBUTES + "#")
    assert odd.json().targets("built") == ["odd"]
    odd.forge("gc")
    (tmp_path / "go").touch()
    _, err = export.communicate(timeout=60)
    assert export.returncode == 0, err
    _check(tmp_path / "to/folder")


def waiting_export(project, tmp_path, to):
    """Start an export, and return it when it has everything before it to copy."""
    (tmp_path / "to").mkdir()
    for name in ("cp", "tar"):
        project.write(f"bin/{name}", WAITING.format(program=shutil.which(name)), 0o755)
    project.env |= {"BEGUN": str(tmp_path / "begun"), "GO": str(tmp_path / "go")}
    path, project.env["PATH"] = os.environ["PATH"], f"{project.root}/bin:{os.environ['PATH']}"
    export = project.start("export", "odd", str(tmp_path / "to" / to))
    until((tmp_path / "begun").exists)
    project.env["PATH"] = path
    return export


def test_the_store_is_left_as_it_was(odd, tmp_path):
    """Changing an exported tree changes nothing in the store."""
    tree = odd.exported("odd")
    (tree / "file").write_text("mine")
    os.chmod(tree / "setuid", 0o600)
    shutil.rmtree(tree / "dir")
    _check(odd.exported("odd"))
    odd.nothing_runs()
