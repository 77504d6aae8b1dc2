#!/usr/bin/env python3
"""Measure forge beside a hand-written script and a Makefile that make the same image with the same tools.

    sudo .venv/bin/python benchmarks/images.py [--case NAME]… [--runs N] [--scratch DIR] [--json FILE]

Run it as root on a quiet machine with mmdebstrap, GNU make and what `forge doctor` names. What is compared lies in
benchmarks/images/: script.sh (every run does everything), a Makefile of it with archives and file systems between
its stages, and a Forgefile. All take the example's overlay and script and their packages from one mirror.

Every case has its own folder. Its contenders take turns, as often as --runs says; before each the disk's queue is
emptied with sync(2), and what it has to rebuild is put in place, neither of which is timed. The numbers are medians,
and what has to be reached are their ratios. All packages have been downloaded once before. The *physical part* of a
disk is `script.sh disk` of a finished tree: sfdisk, mke2fs -d, the ESP and the boot code.

What a contender made earlier is moved aside, not deleted, until the case is over: an ext4 without a journal passes
over inodes that were deleted within the last minute, which makes the next thousands of new files several times as
slow, and is nobody's merit or fault here.

Exit status: 0 every ratio was reached; 1 one was missed, or a contender failed; 2 this machine lacks something.
"""

import os
import pty
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from statistics import median

import harness
from harness import MIB, Failed, Row, measure, put_aside, run, take_turns

HERE = Path(__file__).resolve().parent
KIT = HERE / "images"
EXAMPLE = HERE.parent / "examples"
NEEDED = ("mmdebstrap", "make", "sfdisk", "mke2fs", "mkfs.vfat", "mcopy", "grub-mkimage", "qemu-img")
NAMESPACES = ("unshare", "--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "--mount-proc")
EXTRA = "tmux"
EDITS = 10
REPEATS = 10  # of what takes milliseconds, in one sample
PAUSE_S = 60  # between cases, for the reason that is given above


class Bench(harness.Bench):
    """Where the measuring is done, and what the cases leave to one another."""

    @property
    def downloads(self) -> Path:
        """Packages that the script and the Makefile have downloaded."""
        return self.scratch / "downloads"

    @property
    def forge_cache(self) -> Path:
        """What forge keeps of downloads, from the case before."""
        return self.scratch / "forge-cache"


# Running contenders --------------------------------------------------------------------------------------------------


def job(folder: Path) -> Path:
    """Make a folder with what people write: overlay/ and scripts/tune.sh."""
    shutil.copytree(EXAMPLE / "overlay", folder / "overlay", symlinks=True)
    shutil.copytree(EXAMPLE / "scripts", folder / "scripts")
    return folder


def edit(folder: Path, number: int) -> None:
    """Change one file of the overlay so that it was never so before."""
    with (folder / "overlay/etc/motd").open("a") as stream:
        stream.write(f"edit {number} {time.time_ns()}\n")


class Script:
    """The hand-written script."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.job = job(folder)
        self.out = folder / "out"
        self._run = partial(run, folder, JOB=self.job, CACHE=bench.downloads)

    def image(self, *, qcow2: bool) -> float:
        """Make everything."""
        put_aside(self.job, self.out)
        return self._run((KIT / "script.sh", "image", self.out), QCOW2="yes" if qcow2 else "no")

    def packages(self, tree: Path) -> float:
        """Make a tree of the packages alone."""
        return self._run((KIT / "script.sh", "packages", tree))

    def disk(self, tree: Path) -> float:
        """Make a disk of a finished tree: the physical part. The one before stays, as forge's does."""
        put_aside(self.job, self.job / "disk.img")
        return self._run((KIT / "script.sh", "disk", tree, self.job / "disk.img"))

    def install(self, tree: Path) -> float:
        """Install the extra package in a tree."""
        return self._run((KIT / "script.sh", "install", tree, EXTRA))


class Make:
    """The Makefile."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.job = job(folder)
        self.out = folder / "out"
        self._run = partial(run, folder)
        self._variables = (f"OUT={self.out}", f"JOB={self.job}", f"CACHE={bench.downloads}")

    def build(self, target: str, extra: str = "") -> float:
        """Make a file in `out`."""
        put_aside(self.job, self.out / "tree", self.out / "with-extra")  # both are made anew from archives
        argv = ("make", "--makefile", KIT / "Makefile", *self._variables, f"EXTRA={extra}", self.out / target)
        return self._run(argv)


class Forge:
    """The forge command on the benchmark's Forgefile."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self._bench = bench
        self.job = job(folder)
        self.store = folder / ".forge"
        self.argv = (*bench.forge, "-C", str(folder))
        shutil.copyfile(KIT / "Forgefile.py", folder / "Forgefile.py")
        if bench.forge_cache.exists():
            shutil.copytree(bench.forge_cache, self.store / "cache")

    def build(self, *words: str) -> float:
        """Build targets."""
        return run(self.job, (*self.argv, *words))

    def keep_downloads(self) -> None:
        """Leave the downloads to the cases that follow."""
        shutil.rmtree(self._bench.forge_cache, ignore_errors=True)
        shutil.copytree(self.store / "cache", self._bench.forge_cache)

    def forget(self) -> None:
        """Put everything aside that was built, and keep the downloads."""
        outputs = [self.job / name for name in ("disk.img", "disk.qcow2", "shell", "web")]
        put_aside(self.job, *outputs, *(path for path in self.store.iterdir() if path.name != "cache"))


# Cases ---------------------------------------------------------------------------------------------------------------


def cold(bench: Bench, folder: Path) -> Iterator[Row]:
    """Measure a build from nothing to disk.qcow2, with the packages already downloaded."""
    script, make, forge = Script(bench, folder / "script"), Make(bench, folder / "make"), Forge(bench, folder / "forge")
    script.image(qcow2=True)
    forge.build("disk.qcow2")
    forge.keep_downloads()

    def by_make() -> float:
        put_aside(make.job, make.out)
        return make.build("disk.qcow2")

    def by_forge() -> float:
        forge.forget()
        return forge.build("disk.qcow2")

    took = take_turns(bench.runs, {"script": lambda: script.image(qcow2=True), "make": by_make, "forge": by_forge})
    yield Row(case="cold", what="cold build", against="script", ours=took["forge"], theirs=took["script"], limit=0.85)
    yield Row(case="cold", what="cold build", against="Makefile", ours=took["forge"], theirs=took["make"])


def nothing(bench: Bench, folder: Path) -> Iterator[Row]:
    """Measure a run with nothing to do beside the start of the same Python."""
    forge = Forge(bench, folder / "forge")
    forge.build()

    def often(argv: Sequence[str]) -> float:
        return sum(run(folder, argv) for _ in range(REPEATS)) / REPEATS

    python = (sys.executable, "-c", "pass")
    took = take_turns(bench.runs, {"python": partial(often, python), "forge": partial(often, forge.argv)})
    ours, theirs = (tuple(seconds * 1000 for seconds in took[name]) for name in ("forge", "python"))
    yield Row(
        case="nothing", what="nothing changed", against="python3 -c pass", ours=ours, theirs=theirs, limit=6, unit="ms"
    )


def shell(bench: Bench, folder: Path) -> Iterator[Row]:
    """Measure the way to the prompt of a shell in a tree, beside bash in bare namespaces without and with one."""
    forge = Forge(bench, folder / "forge")
    forge.build("base")

    def often(way: Callable[[Sequence[str]], float], argv: Sequence[str]) -> float:
        return median(way(argv) for _ in range(REPEATS))

    took = take_turns(bench.runs, {
        "bare": partial(often, partial(run, folder), (*NAMESPACES, "bash", "-c", ":")),
        "bare prompt": partial(often, prompted, (*NAMESPACES, "bash", "--norc")),
        "forge": partial(often, prompted, (*forge.argv, "shell", "base")),
    })  # fmt: skip
    ours, bare, prompt = (tuple(s * 1000 for s in took[name]) for name in ("forge", "bare", "bare prompt"))
    row = partial(Row, case="shell", what="the prompt of forge shell", ours=ours, unit="ms")
    yield row(against="bash -c : in namespaces", theirs=bare, limit=5)
    yield row(against="the prompt of bash there", theirs=prompt)


def prompted(argv: Sequence[str]) -> float:
    """Start a shell on a terminal, end it at its prompt, and return the seconds until that came."""
    began = time.perf_counter()
    process, terminal = pty.fork()
    if not process:
        os.execvp(argv[0], list(argv))
    shown = b""
    while not shown.endswith(b"# "):
        shown += os.read(terminal, 1 << 16)
    seconds = time.perf_counter() - began
    os.write(terminal, b"exit\n")
    with suppress(OSError):  # which tells the end
        while os.read(terminal, 1 << 16):
            pass
    os.waitpid(process, 0)
    os.close(terminal)
    return seconds


def overlay(bench: Bench, folder: Path) -> Iterator[Row]:
    """Measure the way from one changed overlay file to a new disk.img."""
    script, make, forge = Script(bench, folder / "script"), Make(bench, folder / "make"), Forge(bench, folder / "forge")
    physical = Script(bench, folder / "physical")
    physical.image(qcow2=False)
    make.build("disk.img")
    forge.build("disk.img")

    def edited(where: Path, build: Callable[[], float]) -> float:
        edit(where, 0)
        return build()

    took = take_turns(bench.runs, {
        "physical": lambda: physical.disk(physical.out / "tree"),
        "forge": lambda: edited(forge.job, lambda: forge.build("disk.img")),
        "make": lambda: edited(make.job, lambda: make.build("disk.img")),
        "script": lambda: edited(script.job, lambda: script.image(qcow2=False)),
    })  # fmt: skip
    row = partial(Row, case="overlay", what="one overlay file → disk.img", ours=took["forge"])
    yield row(against="physical part", theirs=took["physical"], limit=1.25)
    yield row(against="Makefile", theirs=took["make"], limit=1 / 2)
    yield row(against="script", theirs=took["script"], limit=1 / 12)


def package(bench: Bench, folder: Path) -> Iterator[Row]:
    """Measure the way from one package more to a new disk.img; forge's store never had it."""
    make, forge = Make(bench, folder / "make"), Forge(bench, folder / "forge")
    physical = Script(bench, folder / "physical")
    physical.image(qcow2=False)
    copy = folder / "tree"

    def by_hand() -> float:
        put_aside(copy, copy)
        run(folder, ("cp", "--archive", "--reflink=auto", physical.out / "tree", copy))
        return physical.install(copy) + physical.disk(copy)

    def by_make() -> float:
        make.build("disk.img")
        return make.build("disk.img", extra=EXTRA)

    def by_forge() -> float:
        forge.forget()
        forge.build("disk.img")
        return forge.build("-D", f"extra={EXTRA}", "disk.img")

    by_hand()
    forge.build("-D", f"extra={EXTRA}", "disk.img")
    took = take_turns(bench.runs, {"by hand": by_hand, "forge": by_forge, "make": by_make})
    row = partial(Row, case="package", what="one package more → disk.img", ours=took["forge"])
    yield row(against="apt-get + physical part", theirs=took["by hand"], limit=1.25)
    yield row(against="Makefile", theirs=took["make"], limit=1 / 1.5)


def two(bench: Bench, folder: Path) -> Iterator[Row]:
    """Measure two disks on one base from nothing, two jobs at a time and one after the other."""
    forge = Forge(bench, folder / "forge")
    disks = ("shell/disk.img", "web/disk.img")
    forge.build(*disks)

    def from_nothing(jobs: str) -> float:
        forge.forget()
        return forge.build(jobs, *disks)

    took = take_turns(bench.runs, {jobs: partial(from_nothing, jobs) for jobs in ("-j1", "-j2")})
    yield Row(case="two", what="two images, -j2", against="-j1", ours=took["-j2"], theirs=took["-j1"], limit=0.8)


def store(bench: Bench, folder: Path) -> Iterator[Row]:
    """Measure what the store takes after ten edits, without the downloads.

    Beside it: the base tree once, and for each of the eleven builds the image and two layers, that of the overlay and
    that of the script, each taken to be as large as the overlay's folder.
    """
    script, forge = Script(bench, folder / "script"), Forge(bench, folder / "forge")
    script.packages(folder / "tree")
    expected = allocated(folder / "tree")
    for number in range(EDITS + 1):
        if number:
            edit(forge.job, number)
        forge.build("disk.img")
        expected += allocated(forge.job / "disk.img") + 2 * allocated(forge.job / "overlay")
    used = sum(allocated(path) for path in forge.store.iterdir() if path.name != "cache")
    yield Row(
        case="store", what=f"store after {EDITS} edits", against="base + layers + images",
        ours=(used / MIB,), theirs=(expected / MIB,), limit=1, unit="MiB",
    )  # fmt: skip


def allocated(top: Path) -> int:
    """Return the bytes that a file or a folder takes on the disk; hard links count once."""
    found = {}
    for path in (top, *(top.rglob("*") if top.is_dir() and not top.is_symlink() else ())):
        status = path.lstat()
        found[status.st_dev, status.st_ino] = status.st_blocks * 512
    return sum(found.values())


def memory(bench: Bench, folder: Path) -> Iterator[Row]:
    """Measure the memory of forge's main process (VmHWM in /proc), in a cold build and with nothing to do.

    The tools that it runs do not count. Its workers, which are forge too, are shown beside: the largest sum of the
    proportional set sizes (Pss) of all of forge's processes at one moment.
    """
    forge = Forge(bench, folder / "forge")
    forge.build("disk.qcow2")
    forge.forget()
    peak, together = watched(forge, ("disk.qcow2",))
    idle, _ = watched(forge, ("disk.qcow2",))
    row = partial(Row, case="memory", against="", unit="MiB")
    yield row(what="peak memory, cold build", ours=(peak,), limit=80)
    yield row(what="peak memory, nothing changed", ours=(idle,), limit=80)
    yield row(what="forge and its workers together", ours=(together,))


def watched(forge: Forge, words: Sequence[str]) -> tuple[float, float]:
    """Build, and return the main process's peak memory and the peak of forge's processes together, in MiB."""
    peak = together = 0
    interpreter = os.path.realpath(sys.executable)
    with (forge.job / "log").open("ab") as log:
        process = subprocess.Popen((*forge.argv, *words), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        while process.poll() is None:
            peak = max(peak, kilobytes(f"/proc/{process.pid}/status", "VmHWM:"))
            ours = [pid for pid in family(process.pid) if executable(pid) == interpreter]
            together = max(together, sum(kilobytes(f"/proc/{pid}/smaps_rollup", "Pss:") for pid in ours))
            time.sleep(0.002)
    if process.returncode:
        raise Failed(f"forge {' '.join(words)}: exit status {process.returncode}; see {forge.job / 'log'}")
    return peak / 1024, together / 1024


def family(pid: int) -> Iterator[int]:
    """Yield a process and all below it."""
    yield pid
    try:
        children = [child for task in Path(f"/proc/{pid}/task").iterdir()
                    for child in (task / "children").read_text().split()]  # fmt: skip
    except OSError:
        return
    for child in children:
        yield from family(int(child))


def executable(pid: int) -> str:
    """Return what a process runs, or nothing when it has ended."""
    try:
        return str(Path(f"/proc/{pid}/exe").readlink())
    except OSError:
        return ""


def kilobytes(file: str, name: str) -> int:
    """Return a number of a file in /proc, or 0 when the process has ended."""
    try:
        return next((int(line.split()[1]) for line in Path(file).read_text().splitlines() if line.startswith(name)), 0)
    except OSError:
        return 0


def lacks() -> str:
    """Say what this machine or this user has not, or nothing."""
    missing = [tool for tool in NEEDED if not shutil.which(tool)]
    return f"missing: {' '.join(missing)}" if missing else "this has to run as root" if os.geteuid() else ""


CASES: dict[str, Callable[[Bench, Path], Iterator[Row]]] = {
    case.__name__: case for case in (cold, nothing, shell, overlay, package, two, store, memory)
}

if __name__ == "__main__":
    sys.exit(measure(__doc__ or "", Bench, CASES, lacks=lacks, room="30 GiB", pause_s=PAUSE_S))
