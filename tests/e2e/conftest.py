# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""A scratch project and the real command in it; small rules that need no distribution's packages."""

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.conftest import ordinary_user, python_of

REPOSITORY = Path(__file__).resolve().parents[2]
COMMAND = (sys.executable, "-m", "forgefile")
USER = f"forge-e2e-{os.getpid()}"

PREAMBLE = '''\
from collections.abc import Iterable
from typing import Any
from forgefile import Copy, File, Forge, Rule, Run, Sandbox, Source, Step, Target, Tree, Write
from forgefile.rules import OUT, Command, Overlay, Script

PROGRAMS = ("sh", "cat", "ls", "cp", "ln", "id", "stat", "chmod", "mkdir", "rm", "sleep", "touch", "mknod", "chown")


class Root(Rule):
    """A tree with a shell and a few programs, and the libraries that they need."""

    output = "tree"

    extra: str = ""

    def steps(self, box: Sandbox) -> Iterable[Step]:
        yield Run(("sh", "-ec", """
            out=$1; shift
            mkdir -p "$out/usr/bin" "$out/usr/sbin" "$out/etc" "$out/tmp" "$out/var/tmp" "$out/root"
            for folder in bin sbin lib lib64; do
                if [ -L /$folder ]; then ln -s "usr/$folder" "$out/$folder"; else mkdir -p "$out/$folder"; fi
                mkdir -p "$out/usr/$folder"
            done
            for program; do
                path=$(command -v "$program")
                cp -L "$path" "$out/usr/bin/$program"
                [ -e "$out/bin/$program" ] || cp -L "$path" "$out/bin/$program"
                needed=$(ldd "$path")  # no pipe: of what is killed in one, only the last is missed
                for library in $needed; do
                    case $library in /*) mkdir -p "$out${library%/*}"; cp -Ln "$library" "$out$library" ;; esac
                done
            done
            chmod 1777 "$out/tmp" "$out/var/tmp"
        """, "root", box.out, *PROGRAMS), tools=PROGRAMS)
        if self.extra:
            yield Write("/etc/extra", text=self.extra, root=box.out)


class Empty(Rule):
    """A tree of nothing but a file that says a word."""

    output = "tree"

    word: str = "empty"

    def steps(self, box: Sandbox) -> Iterable[Step]:
        yield Write("/etc/word", text=self.word, root=box.out)


class Shell(Rule):
    """A file that a line of shell writes to its standard output; inputs are $1, $2, …"""

    line: str
    inputs: tuple[Any, ...] = ()
    network: bool = False

    def steps(self, box: Sandbox) -> Iterable[Step]:
        words = ("sh", "-ec", self.line, "sh", *(box.path(each) for each in self.inputs))
        yield Run(words, stdout=box.out, network=self.network)


class Noisy(Rule):
    """A file that a line of shell writes to $OUT; what it prints is output."""

    line: str
    inputs: tuple[Any, ...] = ()

    def steps(self, box: Sandbox) -> Iterable[Step]:
        yield Run(("sh", "-ec", self.line, "sh", *(box.path(each) for each in self.inputs)), env={"OUT": box.out})


class Change(Rule):
    """A layer that a line of shell makes on a tree: with the host's programs, or in the tree."""

    output = "tree"

    base: Tree
    line: str
    inside: bool = False
    network: bool = False

    def steps(self, box: Sandbox) -> Iterable[Step]:
        root = box.out if self.inside else None
        yield Run(("sh", "-ec", self.line), root=root, env={"OUT": box.out}, network=self.network)


'''


class Ended(NamedTuple):
    """What a run of forge left."""

    status: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def targets(self, event: str) -> list[str]:
        """Return the targets of the events of one name, sorted."""
        return sorted(each["target"] for each in self.events if each["event"] == event)

    def only(self, event: str, target: str | None = None) -> dict[str, Any]:
        found = [e for e in self.events if e["event"] == event and target in (None, e.get("target"))]
        assert len(found) == 1, found
        return found[0]


class Project:
    """A folder with a Forgefile, and forge in it."""

    def __init__(self, root: Path, command: tuple[str, ...] = COMMAND) -> None:
        self.root = root
        self.env: dict[str, str] = {}
        self._command = command
        root.mkdir(parents=True, exist_ok=True)

    def __truediv__(self, name: str) -> Path:
        return self.root / name

    def forgefile(self, *lines: str, preamble: str = PREAMBLE) -> int:
        """Write the Forgefile; return the line number at which the body of `build` begins."""
        head = preamble + "def build(forge: Forge) -> None:\n"
        body = "".join(f"    {line}\n" for each in lines for line in each.splitlines())
        self.write("Forgefile.py", head + body)
        return head.count("\n") + 1

    def write(self, name: str, text: str | bytes = "", mode: int | None = None) -> Path:
        """Write a file; wait out the clock's tick, so that what comes later is later."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        if mode is not None:
            path.chmod(mode)
        return path

    def read(self, name: str) -> str:
        return (self.root / name).read_text()

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "LANG", "TMPDIR")}
        return {**kept, "PYTHONPATH": str(REPOSITORY), **self.env}

    def start(self, *words: str, prefix: tuple[str, ...] = (), **keywords: Any) -> subprocess.Popen[str]:
        """Start forge in a process group of its own."""
        return subprocess.Popen(
            (*prefix, *self._command, *words), cwd=self.root, env=self.environment(), text=True, errors="surrogateescape",
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, **keywords,
        )  # fmt: skip

    def forge(self, *words: str, status: int | None = 0, prefix: tuple[str, ...] = (), **keywords: Any) -> Ended:
        """Run forge and expect an exit status (None: any)."""
        process = self.start(*words, prefix=prefix, **keywords)
        try:
            out, err = process.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert status is None or process.returncode == status, f"status {process.returncode}\n{out[-4000:]}\n{err[-4000:]}"
        assert status == 3 or "bug in forge" not in err, err
        return Ended(process.returncode, out, err)

    def json(self, *words: str, status: int = 0) -> Ended:
        """Run a build with --json, each line of which has to parse."""
        ended = self.forge("--json", *words, status=status)
        assert ended.events[-1]["event"] == ("finished" if "-n" not in words else "predicted")
        return ended

    def ran(self, *words: str) -> list[str]:
        """Build and return the targets that ran."""
        return self.json(*words).targets("built")

    def planned(self, *words: str) -> dict[str, tuple[str, list[str]]]:
        """Return action and reasons of a dry run, by target."""
        return {e["target"]: (e["action"], e["reasons"]) for e in self.json("-n", *words).events if e["event"] == "planned"}

    def store(self) -> dict[str, tuple[int, int]]:
        """Return what lies in the store: name → (time, size); but for what SQLite does while it reads."""
        found: dict[str, tuple[int, int]] = {}
        left = [str(self.root / ".forge")]
        while left and os.path.isdir(left[0]):
            with os.scandir(left.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    found[entry.path.removeprefix(f"{self.root}/")] = (status.st_mtime_ns, status.st_size)
                    if entry.is_dir(follow_symlinks=False):
                        left.append(entry.path)
        return found

    def exported(self, target: str) -> Path:
        """Export a tree to a fresh folder beside the project and return it."""
        number = 0
        while (to := self.root.parent / f"exported-{number}").exists():
            number += 1
        self.forge("export", target, str(to))
        return to

    def nothing_runs(self, *words: str) -> None:
        """A build runs nothing and writes nothing."""
        settle()
        self.json(*words)
        before = self.store()
        ended = self.json(*words)
        assert {e["event"] for e in ended.events} <= {"planned", "current", "finished"}, ended.out
        assert self.store() == before


def settle() -> None:
    """Wait until a file's time tells that it is older than what is done next."""
    time.sleep(0.06)


def listing(folder: Path) -> dict[str, tuple[Any, ...]]:
    """Return all that can be told of a tree: path → type, mode, owner, time, links, attributes, content."""
    found: dict[str, tuple[Any, ...]] = {}
    inodes: dict[int, str] = {}
    for path in sorted([folder, *folder.rglob("*")]):
        status = path.lstat()
        name = str(path.relative_to(folder))
        content: Any = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            content = status.st_rdev
        attributes = tuple((n, os.getxattr(path, n, follow_symlinks=False)) for n in sorted(os.listxattr(path, follow_symlinks=False)))
        same = inodes.setdefault(status.st_ino, name) if not stat.S_ISDIR(status.st_mode) else name
        times = status.st_mtime_ns
        found[name] = (oct(status.st_mode), status.st_uid, status.st_gid, times, same, attributes, content)
    return found


def mounts(project: "Project") -> list[str]:
    """Return what is mounted on the host in a project, or by forge anywhere; other programs' mounts come and go."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
        return sorted(line for line in stream if str(project.root) in line or line.rsplit(" ", 2)[1] == "forge")


def processes_of(root: Path) -> list[str]:
    """Return the command lines of processes whose working folder, or a word of whose command, lies in a project."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        if int(pid) == os.getpid():
            continue
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            place = os.readlink(f"/proc/{pid}/cwd")
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z" and (place.startswith(str(root)) or str(root) in command or "forge-e2e-sleep" in command):
            found.append(f"{pid} {state} {command}")
    return found


def until(condition: Any, seconds: float = 20.0) -> Any:
    """Wait for a condition to hold and return its value."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)
    return value


@contextmanager
def nothing_left(project: Project) -> Iterator[None]:
    """What is mounted and what runs is the same before and after."""
    before = mounts(project)
    yield
    until(lambda: not processes_of(project.root), 5)
    assert mounts(project) == before


def first_lines(process: subprocess.Popen[str], wanted: Iterable[str]) -> list[str]:
    """Read a running forge's output until each wanted text stood in a line."""
    left, read = set(wanted), []
    while left:
        line = process.stdout.readline() if process.stdout else ""
        assert line, f"ended before it said {left}: {read}"
        read.append(line)
        left -= {text for text in left if text in line}
    return read


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """An empty project folder."""
    if os.geteuid():
        pytest.skip("forge needs root for now")
    return Project(tmp_path / "project")


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """The home of an ordinary user."""
    with ordinary_user(USER) as made:
        yield made


@pytest.fixture
def users(home: Path, request: pytest.FixtureRequest) -> Project:
    """An empty project folder of an ordinary user, who runs forge in it."""
    return own_project(home, re.sub(r"\W+", "-", request.node.name))


def own_project(home: Path, name: str) -> Project:
    """Return an empty project folder in the home of an ordinary user, who runs forge in it."""
    own = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", python_of(USER), "-m", "forgefile")
    project = Project(home / name, own)
    project.env = {"HOME": str(home), "PYTHONPATH": str(home / "lib"), "PYTHONDONTWRITEBYTECODE": "1"}
    shutil.chown(project.root, USER, USER)
    return project


@pytest.fixture(params=["root", "user"])
def anyone(request: pytest.FixtureRequest) -> Any:
    """Return an empty project folder, of root or of an ordinary user, at whose end nothing may be left."""
    project = request.getfixturevalue("project" if request.param == "root" else "users")
    with nothing_left(project):
        yield project


@pytest.fixture
def machine(project: Project) -> Iterator[Project]:
    """A project at whose end nothing may be left on the machine."""
    with nothing_left(project):
        yield project


@pytest.fixture
def small_disk(project: Project) -> Any:
    """Return a prefix that runs a command on a private tmpfs of some size over the project's folder."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is missing: package util-linux")

    def prefix(script: str) -> tuple[str, ...]:
        return ("unshare", "-m", "sh", "-ec", f'{script}\nexec "$@"', "sh")

    return prefix
