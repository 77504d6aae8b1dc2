# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""Faults: kills at traced points, full, failing and foreign disks, damaged stores, clocks that jump.

After each of them nothing that lies in the store is other than its name says, the next run is right, and nothing is
left: no process, mount or temporary file.
"""

import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from conftest import PREAMBLE, Project, first_lines, nothing_left, settle, until

from forgefile.cache.digest import file_digest, seal_layer

RULES = (
    PREAMBLE
    + '''
from forgefile.model import Cache


class Fetch(Rule):
    """A tree of what a shared folder has; what it has not is made there."""

    output = "tree"

    word: str

    def steps(self, box: Sandbox) -> Iterable[Step]:
        line = """cd /var/cache/test
            [ -e "$1" ] || echo "$1" >"$1"
            mkdir "$2/etc"; cp "$1" "$2/etc/word"; mknod "$2/null" c 1 3; ln "$2/etc/word" "$2/same"; chown 5:6 "$2/same"
        """
        yield Run(("sh", "-ec", line, "sh", self.word, box.out), caches=(Cache(name="test", path="/var/cache/test"),))


'''
)
TARGETS = (
    'word = forge.option("word", "0")',
    'wait = "echo begun >&2; sleep 1; " if word == "slow" else ""',
    'text = forge.target("text", Shell(line=f"{wait}echo {word}; cat $1", inputs=(forge.source("source"),)))',
    'tree = forge.target("tree", Fetch(word=word))',
    'laid = forge.target("laid", Change(base=tree, line="rm $OUT/same; echo more >>$OUT/etc/word"))',
    'both = forge.target("sub/all", Shell(line="cat $1 $2/etc/word; ls $2", inputs=(text, laid)))',
    "forge.default(text, both)",
)


@pytest.fixture
def fetched(project: Project) -> Project:
    """A project with files, layers, a shared folder and places, built with the word 0."""
    project.forgefile(*TARGETS, preamble=RULES)
    project.write("source", "source\n")
    project.forge()
    return project


def is_right(project: Project, word: str) -> None:
    """Build, and expect what a build from nothing gives; then nothing is left to do, and nothing lies about."""
    project.forge("-D", f"word={word}")
    assert project.read("text") == f"{word}\nsource\n"
    assert project.read("sub/all") == f"{word}\nsource\n{word}\nmore\netc\nnull\n"
    assert "built" not in project.forge("-D", f"word={word}", "laid").out
    is_sound(project)
    assert os.listdir(project / ".forge/staging") == []
    assert sorted(os.listdir(project.root)) == [".forge", "Forgefile.py", "source", "sub", "text"]
    assert os.listdir(project / "sub") == ["all"]
    assert not [name for name in os.listdir(project / ".forge/cache/test") if "." in name]


def is_sound(project: Project) -> None:
    """What lies in the store under a digest has that digest."""
    store = project / ".forge"
    for path in (store / "objects").iterdir():
        assert file_digest(str(path)) == path.name.rstrip("x")
    for path in (store / "layers").iterdir():
        assert seal_layer(str(path), 1 << 33).digest == path.name


def as_built_from_nothing(project: Project, word: str) -> None:
    """The store has, under the same names, all that the store of a build from nothing has."""
    fresh = Project(project.root.parent / "fresh")
    shutil.copy(project / "Forgefile.py", fresh / "Forgefile.py")
    shutil.copy(project / "source", fresh / "source")
    fresh.forge("-D", f"word={word}")
    for folder in ("objects", "layers"):
        assert set(os.listdir(fresh / ".forge" / folder)) <= set(os.listdir(project / ".forge" / folder))


# Kills ---------------------------------------------------------------------------------------------------------------


def injected(calls: str, fault: str, *, path: Path | None = None) -> tuple[str, ...]:
    """Return a prefix with which a fault is injected at system calls of a command and of all that it starts.

    A fault's `when=N` counts the calls of each process for itself. A killed process never enters the call.
    """
    only = () if path is None else ("-P", str(path))
    return ("strace", "-f", "-qq", "-o", os.devnull, *only, "-e", f"trace={calls}", "-e", f"inject={calls}:{fault}")


FEW = (1, 2, 3, 5, 8, 13, 21, 34, 55)
POINTS = {
    "rename": range(1, 9),  # an output into the store, a placed file to its place, what a step adds to a shared folder
    "link,ioctl": range(1, 9),  # placing; of a shared folder what a step is lent and what it gives
    "unlink,rmdir": FEW,  # tidying up
    "mkdir": FEW,  # staging, and what the sandbox is made of
    "chmod,utimensat,setxattr": (1, 2, 3, 4, 5),  # sealing
    "mount,pivot_root": FEW,  # entering the sandbox
    "pwrite64,fdatasync": FEW,  # records
    "fork,vfork,clone,clone3,execve": (2, 3, 4),  # workers, jobs, steps and programs
}


@pytest.mark.parametrize("calls", POINTS)
def test_a_kill_at_every_point(fetched, calls):
    """Whichever of forge's processes is killed before whichever call, the next run is right."""
    with nothing_left(fetched):
        for number in POINTS[calls]:
            word = str(number)
            ended = fetched.forge(
                "-j1", "-D", f"word={word}", prefix=injected(calls, f"signal=KILL:when={number}"), status=None
            )
            assert ended.status in (0, 1, -signal.SIGKILL), ended
            assert "Traceback" not in ended.err
            is_sound(fetched)
            is_right(fetched, word)
            if not ended.status and not ended.err:
                break
    as_built_from_nothing(fetched, word)


@pytest.mark.parametrize("whom", ["forge", "workers"])
def test_a_kill_at_any_moment(fetched, whom):
    with nothing_left(fetched):
        for number in range(12):
            process = fetched.start("-D", f"word={number}")
            time.sleep(0.05 + number * 0.02)
            for pid in [process.pid] if whom == "forge" else children(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            _, err = process.communicate(timeout=30)
            assert "Traceback" not in err, err
            is_sound(fetched)
    is_right(fetched, "11")
    is_right(fetched, "3")
    as_built_from_nothing(fetched, "3")


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    with suppress(OSError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def test_one_waits_for_another_that_is_killed(fetched):
    """It goes on when all of the other has ended."""
    with nothing_left(fetched):
        first = fetched.start("--json", "-D", "word=slow")
        first_lines(first, ["begun"])
        second = fetched.start("--json", "-D", "word=slow")
        assert f"waiting for the forge that builds here (process {first.pid})" in first_lines(second, ["waiting"])[-1]
        first.kill()
        out, err = second.communicate(timeout=30)
        first.communicate()
        assert (second.returncode, err) == (0, "")
        assert '"built"' in out
    is_right(fetched, "slow")


# Disks ---------------------------------------------------------------------------------------------------------------


class Apart(Project):
    """A project in a mount namespace of its own: what is mounted there is there for it alone."""

    def __init__(self, root: Path, pid: int) -> None:
        super().__init__(Path(f"/proc/{pid}/root{root}"))
        self.real = root
        self._enter = ("nsenter", "--mount", f"--target={pid}", f"--wdns={root}")

    def start(self, *words: str, prefix: tuple[str, ...] = (), **keywords: Any) -> subprocess.Popen[str]:
        return super().start(*words, prefix=(*self._enter, *prefix), **keywords)

    def mount(self, *words: str) -> None:
        subprocess.run((*self._enter, "mount", *words), check=True)

    def unmount(self, at: Path) -> None:
        subprocess.run((*self._enter, "umount", at), check=True)


@pytest.fixture
def apart(project: Project) -> Iterator[Apart]:
    """A project with sources, not built, in a mount namespace of its own."""
    with subprocess.Popen(("unshare", "--mount", "sleep", "600")) as holder:
        until(lambda: os.readlink(f"/proc/{holder.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt"))
        apart = Apart(project.root, holder.pid)
        apart.forgefile(*TARGETS, preamble=RULES)
        apart.write("source", "source\n")
        yield apart
        mounted = Path(f"/proc/{holder.pid}/mountinfo").read_text()
        holder.kill()
    assert " - overlay forge " not in mounted


@pytest.mark.parametrize("left_kib", [0, 4, 8, 16, 32, 64, 128, 512])
def test_a_disk_that_fills_at_any_write(apart, left_kib):
    """The disk fills while a step runs: its output, what is placed and the records have no room."""
    apart.mount("-t", "tmpfs", "-o", "size=80m", "small", str(apart.real))
    apart.forgefile(*TARGETS, preamble=RULES)
    apart.write("source", "source\n")
    apart.forge("tree")
    process = apart.start("--json", "-j1", "-D", "word=slow")
    first_lines(process, ["begun"])
    ballast = apart / ".forge/ballast"
    status = os.statvfs(apart.root)
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, max(status.f_bfree * status.f_bsize - left_kib * 1024, 1))
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in out + err, out + err
    assert process.returncode in (0, 1, 2), out
    is_sound(apart)
    ballast.unlink()
    is_right(apart, "slow")


@pytest.fixture
def large(apart: Apart) -> Apart:
    """A project on a small disk with a target of 100 MB, built, and one above it; `leave` fills the disk but for some MiB."""
    apart.mount("-t", "tmpfs", "-o", "size=300m", "small", str(apart.real))
    apart.forgefile(
        'size = forge.option("size", "100000000")',
        'large = forge.target("large", Shell(line=f"head -c {size} /dev/zero; cat $1", inputs=(forge.source("source"),)))',
        'forge.target("above", Shell(line="head -c 100000000 $1", inputs=(large,)))',
    )
    apart.write("source", "source\n")
    apart.forge("large")
    return apart


def leave(project: Project, mib: int) -> None:
    """Fill the disk of a project but for some MiB."""
    ballast = project / "ballast"
    ballast.unlink(missing_ok=True)
    status = os.statvfs(project.root)
    with ballast.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, status.f_bfree * status.f_bsize - (mib << 20))


def lose(project: Project) -> None:
    """Remove the one result and where it was placed."""
    for path in (*(project / ".forge/objects").iterdir(), project / "large"):
        path.unlink()


def test_a_disk_that_cannot_hold_what_was_lost(large):
    """It is refused before anything runs, by the dry run, too; with enough room it is built."""
    lose(large)
    leave(large, 90)
    for words in (("large",), ("-n", "large"), ("--json", "large")):
        ended = large.forge(*words, status=2)
        assert "the disk cannot hold this: 100003840 bytes are needed at " in ended.err
        assert f"{large.real}/.forge, " in ended.err
        assert "hint: make room there; 'forge gc' removes" in ended.err
        assert ("would run" in ended.out) == ("-n" in words)
        assert "building" not in ended.out
    assert os.listdir(large / ".forge/staging") == []
    leave(large, 97)
    large.forge("large")
    assert (large / "large").stat().st_size == 100_000_007


def test_a_disk_that_may_hold_it_is_not_refused(large):
    """What becomes smaller, what may not run, what is there already and what failed targets left is not held against it."""
    leave(large, 70)
    large.write("source", "other\n")
    assert "note: what runs took 95 MiB on the disk when last built, and 70 MiB are free at " in large.forge("-D", "size=9", "large").out
    large.write("source", "source\n")
    lose(large)
    large.forge("-n")
    (large / "ballast").unlink()
    large.forge()
    (large / "above").unlink()
    leave(large, 70)
    large.forge()


@pytest.mark.parametrize("folder", ["failed", "staging"])
def test_what_a_build_removes_makes_room(large, folder):
    lose(large)
    left = large.write(f".forge/{folder}/left", bytes(20_000_000))
    leave(large, 90)
    large.forge("-n", "large")
    left.unlink()
    leave(large, 90)
    large.forge("-n", "large", status=2)


REFUSED = {
    "mkdir": FEW,  # staging, shared folders, the sandbox, places
    "link": range(1, 5),  # shared folders
    "rename": range(1, 9),  # into the store, to a place
    "pwrite64": FEW,  # records
    "ftruncate,fallocate,copy_file_range": (1, 2, 3),
    "chmod,utimensat,setxattr": (1, 2, 3, 4, 5),  # sealing
}


@pytest.mark.parametrize("error", ["EDQUOT", "EIO"])
@pytest.mark.parametrize("calls", REFUSED)
def test_a_disk_that_refuses_a_call(fetched, calls, error):
    """Beyond its quota, or failing: forge says what it was told, and nothing half-written is used."""
    statuses = set()
    with nothing_left(fetched):
        for number in REFUSED[calls]:
            word = str(number)
            ended = fetched.forge(
                "-j1", "-D", f"word={word}", prefix=injected(calls, f"error={error}:when={number}"), status=None
            )
            assert ended.status in (0, 1, 2), ended
            statuses.add(ended.status)
            assert "Traceback" not in ended.err, ended.err
            is_sound(fetched)
            is_right(fetched, word)
    assert statuses != {0}
    as_built_from_nothing(fetched, word)


def test_records_that_cannot_be_read(fetched):
    statuses = set()
    for number in range(1, 14):
        path = fetched / ".forge/records.sqlite"
        prefix = injected("pread64", f"error=EIO:when={number}", path=path)
        ended = fetched.forge("-D", f"word={number}", prefix=prefix, status=None)
        statuses.add(ended.status)
        assert ended.status == 0 or "the store's records" in ended.err
        is_right(fetched, str(number))
    assert 1 in statuses <= {0, 1}


def test_a_read_only_store(apart):
    """All that is up to date is; what would have to be built is refused."""
    apart.forge()
    store = str(apart.real / ".forge")
    apart.mount("--bind", store, store)
    apart.mount("-o", "remount,bind,ro", store)
    apart.forge()
    ended = apart.forge("-D", "word=1", status=2)
    assert "writable" in ended.err
    assert apart.read("text") == "0\nsource\n"
    apart.unmount(apart.real / ".forge")
    is_right(apart, "1")


def test_a_store_on_another_file_system(apart):
    """Outputs are placed by copying, and a person's edit of one stays out of the store."""
    store = apart / ".forge"
    store.mkdir()
    apart.mount("-t", "tmpfs", "other", str(apart.real / ".forge"))
    apart.forge("text")
    assert apart.read("text") == "0\nsource\n"
    with (apart / "text").open("a") as stream:
        stream.write("mine\n")
    apart.forge("-D", "word=1", "text")
    apart.forge("text")
    assert apart.read("text") == "0\nsource\n"
    is_sound(apart)
    apart.nothing_runs("text")


# Damage --------------------------------------------------------------------------------------------------------------


def truncate(path: Path) -> None:
    os.truncate(path, 1)


def flip(path: Path) -> None:
    """Flip a bit, and leave size and time as they were."""
    status = path.stat()
    content = path.read_bytes()
    with path.open("r+b") as stream:
        stream.write(bytes([content[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def replace_by_link(path: Path) -> None:
    path.rename(path.parent.parent / "moved")
    path.symlink_to("../moved")


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink, replace_by_folder, replace_by_link])
def test_damaged_objects(fetched, damage):
    """They are neither restored nor used as inputs."""
    objects = [fetched / ".forge/objects" / name for name in os.listdir(fetched / ".forge/objects")]
    fetched.forge("-D", "word=1")
    for path in objects:
        damage(path)
    is_right(fetched, "0")
    is_right(fetched, "1")


def add(path: Path) -> None:
    (path.parent / "mine").write_text("mine")


def swap(path: Path) -> None:
    """Put another file of the same size and time there."""
    status = path.stat()
    path.unlink()
    path.write_bytes(b"x" * status.st_size)
    os.chmod(path, stat.S_IMODE(status.st_mode))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def rename(path: Path) -> None:
    path.rename(path.with_name("renamed"))


def set_attribute(path: Path) -> None:
    os.setxattr(path, "user.mine", b"mine")


EDITS = {
    "content": truncate,
    "bits": flip,
    "another file": swap,
    "removed": Path.unlink,
    "added": add,
    "renamed": rename,
    "a link": lambda path: (path.unlink(), path.symlink_to("word")),
    "mode": lambda path: path.chmod(0o600),
    "time": lambda path: os.utime(path, (1, 1)),
    "owner": lambda path: os.chown(path, 7, 7),
    "attribute": set_attribute,
    "the folder's mode": lambda path: path.parent.parent.chmod(0o700),
    "the folder's attribute": lambda path: set_attribute(path.parent.parent),
    "all of it": lambda path: shutil.rmtree(path.parent.parent),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_edited_layers(fetched, edit):
    """They are neither used as inputs nor restored, and what is built instead says why."""
    fetched.forge("clean", "sub/all")
    edit_layers(list((fetched / ".forge/layers").iterdir()), edit)
    how = "is missing" if edit is EDITS["all of it"] else "was changed since it was built"
    before = fetched.store()
    planned = fetched.planned()
    assert (planned["tree"], planned["sub/all"][0]) == (("run", [f"its output {how}"]), "maybe")
    assert f"tree would run\n      its output {how}\n" in fetched.forge("why", "sub/all").out
    assert fetched.store() == before
    out = fetched.forge().out
    assert f"building tree (its output {how})\n" in out
    assert f"building laid (its output {how})\n" in out
    is_right(fetched, "0")
    layers = list((fetched / ".forge/layers").iterdir())
    fetched.forge("-D", "word=1")
    edit_layers(layers, edit)
    is_right(fetched, "0")
    is_right(fetched, "1")


def edit_layers(layers: Iterable[Path], edit: Callable[[Path], object]) -> None:
    """Do something to a file of each layer."""
    settle()
    for layer in layers:
        edit(next(path for path in layer.glob("etc/*") if path.is_file()))


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_an_edited_layer_is_not_exported(fetched, edit, tmp_path):
    """Who asks for it is told to build it again, and then it is."""
    (layer,) = [each for each in (fetched / ".forge/layers").iterdir() if (each / "null").exists()]
    settle()
    edit(layer / "etc/word")
    ended = fetched.forge("export", "laid", str(tmp_path / "laid"), status=2)
    assert "not up to date" in ended.err or "the output of target 'laid' was changed since it was built" in ended.err
    assert "hint: forge laid" in ended.err
    assert not (tmp_path / "laid").exists()
    fetched.forge("laid")
    fetched.forge("export", "laid", str(tmp_path / "laid"))
    assert (tmp_path / "laid/etc/word").read_text() == "0\nmore\n"
    is_right(fetched, "0")


def test_a_layer_that_is_as_good_as_before_stays(fetched):
    """Who copies the store, or has another name for a file of it, has changed nothing."""
    subprocess.run(("cp", "--archive", fetched / ".forge/layers", fetched / ".forge/copied"), check=True)
    shutil.rmtree(fetched / ".forge/layers")
    (fetched / ".forge/copied").rename(fetched / ".forge/layers")
    fetched.write("source", "source\n!")
    assert fetched.ran() == ["sub/all", "text"]


def test_a_layer_that_cannot_be_read(fetched):
    """One whose status changed is not trusted until it is read; what cannot be read is built again."""
    for layer in list((fetched / ".forge/layers").iterdir()):
        path = next(layer.glob("etc/*"))
        os.chmod(path, 0o600)
        os.chmod(path, 0o644)
        fetched.forge("clean", "sub/all")
        fetched.forge(prefix=injected("read,pread64,preadv", "error=EIO", path=path))
        is_right(fetched, "0")


def test_objects_that_cannot_be_read(fetched):
    """One whose status changed is not trusted until it is read; what cannot be read is built again."""
    fetched.forge("-D", "word=1")
    for name in os.listdir(fetched / ".forge/objects"):
        path = fetched / ".forge/objects" / name
        os.utime(path)
        fetched.forge(prefix=injected("read,pread64,preadv", "error=EIO", path=path))
        is_right(fetched, "0")
        is_right(fetched, "1")


def test_an_input_that_cannot_be_read(fetched):
    """The step that reads it fails, and says what it was told."""
    (path,) = [p for p in (fetched / ".forge/objects").iterdir() if p.read_text() == "0\nsource\n"]
    fetched.forge("clean", "sub/all")
    ended = fetched.forge(
        prefix=injected("read,copy_file_range", "error=EIO", path=Path("/run/forge/in/text")), status=1
    )
    assert "Input/output error" in ended.out + ended.err
    assert path.exists()
    is_right(fetched, "0")


# Clocks --------------------------------------------------------------------------------------------------------------


DAY_S = 86_400


@pytest.mark.parametrize("days", [-1000, -1, 1, 1000])
def test_a_clock_that_jumps(fetched, days):
    """Whatever forge's clock says, and whatever time a source has, its content counts."""
    fetched.env["NO_FAKE_STAT"] = "1"  # files keep their times: it is the clock that was put right
    jump = ("faketime", "-f", f"{days:+}d")
    source = fetched / "source"
    for number, offset_s in enumerate((0, DAY_S, -DAY_S, 2000 * DAY_S, -2000 * DAY_S)):
        text = f"turn {number}\n"
        source.write_text(text)
        os.utime(source, (time.time() + offset_s,) * 2)
        fetched.forge(prefix=jump if number % 2 else ())
        assert fetched.read("text") == f"0\n{text}"
        again = fetched.forge("--json", prefix=() if number % 2 else jump)
        assert again.targets("built") == []
        assert fetched.read("sub/all").startswith(f"0\n{text}")
    source.write_text("source\n")
    is_right(fetched, "0")


def test_an_edit_that_keeps_size_and_time(fetched):
    """What restores a backup, or unpacks an archive, sets times."""
    source = fetched / "source"
    status = source.stat()
    settle()
    source.write_text("SOURCE\n")
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))
    fetched.forge()
    assert fetched.read("text") == "0\nSOURCE\n"
