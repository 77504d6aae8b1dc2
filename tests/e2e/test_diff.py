# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""What differs between outputs: trees, images and files, as text and as JSON, for root and for ordinary users."""

import json
import os
import pty
import shutil
import subprocess
import sys

from conftest import REPOSITORY, settle

BASE = 'base = forge.target("base", Root(extra="one"))'
STATUS = """\
Package: same
Status: install ok installed
Installed-Size: 1
Architecture: all
Version: 1

Package: {name}
Status: install ok installed
Installed-Size: {kib}
Architecture: amd64
Version: {version}

Package: removed
Status: deinstall ok config-files
Version: 1
"""


def rows(ended):
    """Return what a comparison told: by path, and the summary."""
    *found, summary = ended.events
    assert summary.keys() == {"same", "partitions", "packages", "paths"}
    assert summary["same"] == (not found) == (ended.status == 0)
    return {row.get("path") or row.get("package") or row.get("partition"): row for row in found}


def whats(row):
    return {detail["what"]: (detail.get("before"), detail.get("after")) for detail in row["details"]}


CHANGES = (
    "echo two >$OUT/etc/extra", "chmod 700 $OUT/usr/bin/ls", "rm $OUT/usr/bin/cat", "mkdir -p $OUT/new/deep",
    "echo x >$OUT/new/deep/file", "ln -s extra $OUT/etc/link", "rm -r $OUT/root; mkdir $OUT/root",
    "chown 7:8 $OUT/usr/bin/sh", "mv $OUT/tmp $OUT/etc/moved",
)  # fmt: skip


def test_two_trees(anyone):
    """Only what the layer above has is told, with all that is different of it; in both directions."""
    anyone.forgefile(BASE, f'forge.target("over", Change(base=base, line={"; ".join(CHANGES)!r}))')
    anyone.forge("over")
    found = rows(anyone.forge("diff", "base", "over", "--json", status=1))
    assert {path: row["change"] for path, row in found.items() if row["change"] != "changed"} == {
        "/etc/link": "added", "/etc/moved": "added", "/new": "added", "/new/deep": "added", "/new/deep/file": "added",
        "/tmp": "removed", "/usr/bin/cat": "removed",
    }  # fmt: skip
    assert found["/etc/extra"]["diff"] == ["@@ -1 +1 @@", "-one", "\\ No newline at end of file", "+two"]
    assert (found["/etc/extra"]["size_before"], found["/etc/extra"]["size"]) == (3, 4)
    assert whats(found["/usr/bin/ls"]) == {"mode": ("0755", "0700")}
    assert whats(found["/usr/bin/sh"]) == {"owner": ("0:0", "7:8")}
    assert whats(found["/etc/link"]) == {"link": (None, "extra")}
    assert "/root" not in found, "it was removed and made again as it was"
    back = rows(anyone.forge("diff", "over", "base", "--json", status=1))
    assert back.keys() == found.keys()
    assert back["/usr/bin/cat"]["change"] == "added"
    told = anyone.forge("diff", "base", "over", status=1).out.splitlines()
    assert told[:2] == ["--- base", "+++ over"]
    assert "+ /new/  1 file, 2 B" in told
    assert not [line for line in told if "deep" in line], "a folder that is new as a whole is one line"
    assert "~ /usr/bin/ls  mode 0755 → 0700" in told
    assert "    +two" in told
    assert "+ /new/deep/file  2 B" in anyone.forge("diff", "base", "over", "--all", status=1).out.splitlines()


def test_a_tree_and_its_export(anyone):
    """The stack of layers is read as the kernel shows it."""
    line = "; ".join((*CHANGES, "ln $OUT/usr/bin/ls $OUT/etc/ls; mkdir $OUT/many; touch $OUT/many/1 $OUT/many/2"))
    anyone.forgefile(
        BASE, f'over = forge.target("over", Change(base=base, line={line!r}))',
        'forge.target("third", Change(base=over, line="rm -r $OUT/many; mkdir $OUT/many; echo >$OUT/many/3; rm $OUT/etc/link; echo >$OUT/etc/link", inside=False))',
    )  # fmt: skip
    anyone.forge("third")
    folder = anyone.root / "a folder"
    anyone.forge("export", "third", str(folder))
    assert anyone.forge("diff", "third", "a folder", "--times").out == "no difference\n"
    assert rows(anyone.forge("diff", "over", str(folder), "--json", status=1)).keys() >= {"/many/1", "/many/3", "/etc/link"}


def test_packages(project):
    for name, text in (("old", STATUS.format(name="vim", version="1:9", kib=10)), ("new", STATUS.format(name="vim", version="1:10", kib=20))):
        project.write(f"{name}/var/lib/dpkg/status", text)
    project.write("new/var/lib/dpkg/status.d/nano", "Package: nano\nVersion: 7\nInstalled-Size: 5\nArchitecture: amd64\n")
    project.write("new/var/lib/dpkg/status.d/nano.md5sums", "0  usr/bin/nano\n")
    project.forgefile(
        'empty = forge.target("empty", Empty())',
        *(f'forge.target("{name}-tree", Overlay(base=empty, source=forge.source("{name}")))' for name in ("old", "new")),
    )
    project.forge()
    found = rows(project.forge("diff", "old-tree", "new-tree", "--json", status=1))
    assert found["vim"] == {
        "package": "vim", "change": "changed", "version_before": "1:9", "size_before": 10240, "arch_before": "amd64",
        "version": "1:10", "size": 20480, "arch": "amd64",
    }  # fmt: skip
    assert (found["nano"]["change"], found["nano"]["version"]) == ("added", "7")
    assert "same" not in found
    told = project.forge("diff", "old-tree", "new-tree", status=1).out.splitlines()
    assert told[2:4] == ["+ nano  7           5.0 KiB", "~ vim   1:9 → 1:10  10 KiB → 20 KiB"]
    assert "~ /var/lib/dpkg/status  content" in "".join(told)
    assert not [line for line in told if line.startswith("    ")], "packages are told already"


def test_the_result_before(project):
    """Of a file, of a tree, after a restore, and when it is gone."""
    project.write("word", "one\n")
    project.forgefile(
        'word = forge.source("word")', 'forge.target("out.txt", Shell(line="cat $1", inputs=(word,)))',
        'empty = forge.target("empty", Empty())', 'forge.target("tree", Overlay(base=empty, source=word, destination="/etc/"))',
    )  # fmt: skip
    project.forge()
    refused = project.forge("diff", "out.txt", "--last", status=2).err
    assert refused.startswith("forge: the store has no result of 'out.txt' before this one\n")
    settle()
    project.write("word", "two\n")
    early = project.forge("diff", "out.txt", status=2)
    assert "not up to date" in early.err
    project.forge()
    assert project.forge("diff", "out.txt", status=1).out.splitlines()[2:] == ["~ content", "    @@ -1 +1 @@", "    -one", "    +two", "1 file differs"]
    assert rows(project.forge("diff", "tree", "--last", "--json", status=1)).keys() == {"/etc/word"}
    settle()
    project.write("word", "one\n")
    assert "restored out.txt" in project.forge().out
    assert "    -two" in project.forge("diff", "out.txt", status=1).out.splitlines()
    project.forge("gc")
    gone = project.forge("diff", "tree", "--last", status=2).err
    assert "forge gc" in gone
    assert gone.count("\n") == 2


def test_files_and_folders(project):
    project.forgefile('forge.target("out.txt", Shell(line="echo one; echo two"))')
    project.forge()
    shutil.copy(project / "out.txt", project / "copy")
    assert project.forge("diff", "out.txt", "copy").out == "no difference\n"
    (project / "copy").write_bytes(b"\0binary")
    ended = project.forge("diff", "out.txt", "copy", "--json", status=1)
    assert ended.events[0] == {"path": "", "change": "changed", "type": "file", "size_before": 8, "size": 7, "details": [{"what": "content"}]}
    os.makedirs(project / "a/x")
    shutil.copytree(project / "a", project / "b")
    odd = "odd\nname \x1b[31m" + os.fsdecode(b"\xff")
    (project / "b/x" / odd).write_text("x")
    assert project.forge("diff", "a", "b", status=1).out.splitlines()[2] == "+ /x/odd\\nname \\x1b[31m\\udcff  1 B"
    assert list(rows(project.forge("diff", "a", "b", "--json", status=1))) == [f"/x/{odd}"]
    os.setxattr(project / "b/x", "user.note", b"\1")
    assert "~ /x/  xattr user.note none → '\\x01'" in project.forge("diff", "a", "b", status=1).out


REFUSED = {
    ("diff",): "the following arguments are required: TARGET",
    ("diff", "nothing", "out.txt"): "there is no target, file or folder 'nothing'",
    ("diff", "nothing"): "there is no target 'nothing'",
    ("diff", "out.txt", "other.txt"): "target 'other.txt' was never built, or its result was cleaned",
    ("diff", "out.txt", "tree"): "one of both is a tree, the other is a file",
    ("diff", "out.txt", "out.txt", "--last"): "--last compares a target with itself",
    ("diff", "out.txt", "/dev/null"): "/dev/null is neither a file nor a folder",
    ("diff", "*", "out.txt"): "'*' matches 3 targets; name one",
    ("diff", "out.txt", "damaged.qcow2"): "cannot be read as qcow2",
    ("diff", "damaged.img", "image.img"): "a file system in the image is damaged",
    ("diff", "empty.img", "image.img"): "a file system in the image is damaged",
    ("diff", "endless.img", "image.img"): "the folder of inode 2 lies in two folders",
    ("size", "endless.img"): "the folder of inode 2 lies in two folders",
}  # fmt: skip


def test_what_is_refused(project):
    project.forgefile(
        'forge.target("out.txt", Shell(line="echo one"))', 'forge.target("other.txt", Shell(line="echo two"))',
        'forge.target("tree", Empty())',
    )  # fmt: skip
    project.forge("out.txt", "tree")
    project.write("damaged.qcow2", b"QFI\xfb" + bytes(1000))
    for name in ("image", "damaged", "empty", "endless"):
        project.write(f"{name}.img", bytes(4 << 20))
        subprocess.run(("mke2fs", "-q", "-t", "ext4", project / f"{name}.img"), check=True)
    with open(project / "damaged.img", "r+b") as image:
        image.seek(2048)
        image.write(b"\xff" * 1024)
    with open(project / "empty.img", "r+b") as image:
        image.seek(1024 + 0x28)  # inodes per group
        image.write(bytes(4))
    for command in ("mkdir a", "ln / /a/b"):
        subprocess.run(("debugfs", "-w", "-R", command, project / "endless.img"), check=True, capture_output=True)
    for words, said in REFUSED.items():
        ended = project.forge(*words, status=2)
        assert said in ended.err
        assert ended.err.count("forge: ") == 1
        assert not ended.out


DISK = """
disk = forge.target("disk.img", DiskImage(partitions=(
    Partition("esp", type="esp", size="2MiB", filesystem=Vfat(label=label), tree=other),
    Partition("root", type="root", filesystem=Ext4(), tree=tree, size=size),
    Partition("raw", filesystem=Raw(content=forge.source("content"))),
)))
"""


def test_images(anyone):
    """By partition, then by what each holds; those of virtual machines as well; nothing is left behind."""
    anyone.write("content", b"one" * 1000)
    anyone.write("word", "one\n")
    anyone.forgefile(
        "from forgefile.rules import DiskImage, Ext4, Partition, QemuImage, Raw, Vfat",
        'label = forge.option("label", "ONE")', 'size = forge.option("size", "8MiB")',
        'empty = forge.target("empty", Empty())', 'tree = forge.target("tree", Overlay(base=empty, source=forge.source("word"), destination="/etc/"))',
        'other = forge.target("other", Overlay(base=empty, source=forge.source("word"), destination="/etc/word", mode=0o600))',
        DISK, 'forge.target("disk.qcow2", QemuImage(disk=disk))',
    )  # fmt: skip
    anyone.env["TMPDIR"] = str(anyone.root)
    anyone.forge()
    assert anyone.forge("diff", "disk.img", "disk.qcow2").out == "no difference\n"
    shutil.copy(anyone / "disk.img", anyone / "old.img")
    settle()
    anyone.write("word", "two\n")
    anyone.write("content", b"one" * 999 + b"two")
    before = set(os.listdir(anyone.root))
    anyone.forge("-D", "label=TWO", "-D", "size=16MiB")
    told = anyone.forge("-D", "label=TWO", "-D", "size=16MiB", "diff", "disk.qcow2", status=1).out.splitlines()
    assert told[2].startswith("~ size ")
    assert "~ partition esp  label ONE → TWO" in told
    assert "~ partition root  size 8.0 MiB → 16 MiB" in told
    assert told[told.index("in root") :][:5] == ["in root", "~ /etc/word  content", "    @@ -1 +1 @@", "    -one", "    +two"]
    assert told[told.index("in raw") + 1] == "~ content from byte 2997 on"
    ended = anyone.forge("-D", "label=TWO", "-D", "size=16MiB", "diff", "old.img", "disk.img", "--json", status=1)
    assert [(row.get("in"), row["path"]) for row in ended.events if "path" in row] == [("esp", "/etc/word"), ("root", "/etc/word"), ("raw", "")]
    shutil.copy(anyone / "disk.img", anyone / "booted.img")
    with open(anyone / "booted.img", "r+b") as image:
        image.seek(100)
        image.write(b"boot")
        image.seek(445)
        image.write(b"\1")
    told = anyone.forge("-D", "label=TWO", "-D", "size=16MiB", "diff", "disk.img", "booted.img", status=1).out.splitlines()
    assert told[2:] == ["in no partition", "~ content from byte 100 on", "1 file differs"]
    os.unlink(anyone / "booted.img")
    assert "+ /etc/fstab  107 B" in anyone.forge("-D", "label=TWO", "-D", "size=16MiB", "diff", "tree", "disk.img", status=1).out
    assert set(os.listdir(anyone.root)) == before


def test_a_terminal(project):
    """Colours and a pager are for terminals alone."""
    project.forgefile('forge.target("a", Empty())', 'forge.target("b", Empty(word="other"))')
    project.forge()
    command = (sys.executable, "-m", "forgefile", "diff", "a", "b")
    for more, expected in (({"PAGER": "cat"}, "\x1b[1;31m--- a"), ({"PAGER": "sed s/^/paged:/"}, "paged:\x1b[1;31m--- a"),
                           ({"PAGER": "odd'", "NO_COLOR": "1"}, "\x1b[1m--- a"), ({"TERM": "dumb"}, "--- a"), ({"PAGER": "false"}, "")):  # fmt: skip
        parent, child = pty.openpty()
        environment = {**project.environment(), "TERM": "xterm", "PYTHONPATH": str(REPOSITORY), **more}
        process = subprocess.Popen(command, cwd=project.root, env=environment, stdin=child, stdout=child, stderr=subprocess.PIPE)
        os.close(child)
        shown = b""
        while True:
            try:
                shown += os.read(parent, 4096)
            except OSError:
                break
        os.close(parent)
        assert process.communicate()[1] == b""
        assert process.returncode == 1
        assert shown.decode().startswith(expected)
    piped = project.forge("diff", "a", "b", status=1)
    assert "\x1b" not in piped.out
    assert json.loads(project.forge("diff", "a", "b", "--json", status=1).out.splitlines()[-1])["paths"] == 1


def test_a_store_that_is_only_read(project):
    """Comparing writes nothing."""
    project.forgefile(BASE, 'forge.target("over", Change(base=base, line="echo >$OUT/etc/new"))')
    project.forge("over")
    settle()
    before = project.store()
    project.forge("diff", "base", "over", status=1)
    assert project.store() == before
