"""`forge init`: what it writes can be built, nothing is overwritten or left half-written, and few questions."""

import os
import pty
import signal
import stat
import subprocess

import pytest

from tests.e2e.conftest import COMMAND, Project, until


def tree(project):
    """Return what lies in a project, but for the store: path → content."""
    found = {}
    for folder, folders, names in os.walk(project.root):
        if ".forge" in folders:
            folders.remove(".forge")
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as stream:
                found[os.path.relpath(path, project.root)] = stream.read()
    return found


WRITTEN = {"Forgefile.py", "overlay/etc/hostname", "overlay/etc/motd", "tune.sh", ".gitignore"}


@pytest.mark.parametrize(("output", "places"), [
    ("disk", ["/disk.img"]), ("qcow2", ["/disk.qcow2", "/disk.img"]), ("tar", ["/system.tar.zst"]),
])  # fmt: skip
def test_what_it_writes_is_read_and_planned(project, output, places):
    said = project.forge("init", "--yes", "--output", output, "--suite", "trixie").out
    assert set(tree(project)) == WRITTEN
    assert project.read(".gitignore").splitlines() == [".forge/", *places]
    planned = project.planned()
    assert list(planned)[:4] == ["rootfs", "packages", "system", "tuned"]
    assert planned["rootfs"] == ("run", ["never built"])
    assert places[0].strip("/") in planned
    assert ("boot" in said) == (output != "tar")
    options = [e for e in project.forge("list", "--json").events if "option" in e]
    assert [option["value"] for option in options] == ["trixie"]


def test_a_new_folder_with_an_odd_name(project):
    said = project.forge("init", "--yes", "My server, 2/deep").out
    assert "cd 'My server, 2/deep'" in said
    assert project.read("My server, 2/deep/overlay/etc/hostname") == "deep\n"
    assert "rootfs" in project.forge("-C", "My server, 2/deep", "list").out
    project.forge("init", "--yes", "--name", "web-1", "-f", "Other.py", "Ünïcode §")
    assert project.read("Ünïcode §/overlay/etc/hostname") == "web-1\n"
    assert "rootfs" in project.forge("-f", "Ünïcode §/Other.py", "list").out


@pytest.mark.parametrize("there", ["Forgefile.py", "tune.sh", "overlay/own"])
def test_nothing_is_overwritten(project, there):
    project.write(there, "mine")
    project.write(".gitignore", "mine")
    err = project.forge("init", "--yes", status=2).err
    assert f"{there.split('/')[0]} is there already, and forge init overwrites nothing" in err
    assert tree(project) == {there: b"mine", ".gitignore": b"mine"}
    (project / there).unlink()
    (project / "Forgefile.py").symlink_to("nowhere")
    assert "Forgefile.py" in project.forge("init", "--yes", status=2).err
    assert not (project / "nowhere").exists()


def test_the_ignored_are_added_to_what_is_ignored(project):
    project.write(".gitignore", "/.forge\n*.o")
    project.forge("init", "--yes")
    assert project.read(".gitignore") == "/.forge\n*.o\n/disk.img\n"


def test_nothing_is_left_half_written(project):
    (project / ".gitignore").mkdir()
    assert ".gitignore is no plain file" in project.forge("init", "--yes", status=2).err
    assert os.listdir(project.root) == [".gitignore"]
    project.write("file")
    assert "file: File exists" in project.forge("init", "--yes", "file/new", status=2).err
    assert sorted(os.listdir(project.root)) == [".gitignore", "file"]

def test_a_full_disk_is_left_as_it_was(project, small_disk):
    mounted = small_disk(f"mount -t tmpfs -o nr_inodes=5 full '{project.root}'; cd '{project.root}'")
    shown = ("sh", "-c", '"$@"; echo status $?; ls -A', "sh")
    ended = project.forge("init", "--yes", "a", prefix=(*mounted, *shown))
    assert ended.out == "status 2\n"
    assert ended.err.count("forge:") == 1


def test_modes_are_not_those_of_the_umask(project):
    project.forge("init", "--yes", prefix=("sh", "-c", 'umask 077; exec "$@"', "sh"))
    for name, mode in (("overlay/etc", 0o755), ("overlay/etc/motd", 0o644), ("tune.sh", 0o755)):
        assert stat.S_IMODE((project / name).stat().st_mode) == mode


@pytest.mark.parametrize("words", [
    ("--name", "A_b"), ("--suite", "sid"), ("--output", "iso"), ("a", "b"), ("--name", ""),
])  # fmt: skip
def test_what_cannot_be_is_refused(project, words):
    project.forge("init", "--yes", *words, status=2)
    assert tree(project) == {}


class Terminal:
    """forge init on a terminal, which sees what it says and types answers."""

    def __init__(self, project: Project, *words: str) -> None:
        self.said = ""
        self.main, other = pty.openpty()
        self.process = subprocess.Popen(
            (*COMMAND, "init", *words), cwd=project.root, env=project.environment(), stdin=other, stdout=other,
            stderr=other, start_new_session=True,
        )  # fmt: skip
        os.close(other)

    def waits_for(self, text: str) -> None:
        def seen() -> bool:
            self.said += os.read(self.main, 4096).decode()
            return text in self.said

        until(seen)
        self.said = ""

    def type(self, text: str) -> None:
        os.write(self.main, text.encode())

    def ended(self) -> int:
        status = self.process.wait(20)
        os.close(self.main)
        return status


def test_it_asks_on_a_terminal(project):
    terminal = Terminal(project, "--suite", "trixie")
    terminal.waits_for("name of the host [project] ")
    terminal.type("not a name\n")
    terminal.waits_for("name of the host [project] ")
    terminal.type("web\n")
    terminal.waits_for("what to make: disk, qcow2, tar [disk] ")
    terminal.type("\n")
    terminal.waits_for("next:")
    assert terminal.ended() == 0
    assert project.read("overlay/etc/hostname") == "web\n"
    assert 'forge.option("suite", "trixie"' in project.read("Forgefile.py")


@pytest.mark.parametrize(("end", "status"), [("\x04", 2), (signal.SIGINT, 130)])
def test_no_answer_writes_nothing(project, end, status):
    terminal = Terminal(project)
    terminal.waits_for("name of the host [project] ")
    terminal.type(end) if isinstance(end, str) else terminal.process.send_signal(end)
    assert terminal.ended() == status
    assert tree(project) == {}
