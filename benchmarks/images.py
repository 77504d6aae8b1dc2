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

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
KIT = HERE / "images"
EXAMPLE = HERE.parent / "examples"
MIB = 1 << 20
NEEDED = ("mmdebstrap", "make", "sfdisk", "mke2fs", "mkfs.vfat", "mcopy", "grub-mkimage", "qemu-img")
EXTRA = "tmux"
EDITS = 10
REPEATS = 10  # of what takes milliseconds, in one sample
PAUSE_S = 60  # between cases, for the reason that is given above


class Failed(Exception):  # noqa: N818  it is what happened
    """A contender did not do its job."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One comparison. `ours` and `theirs` are samples in `unit`; `limit` is for the ratio, or for `ours` alone."""

    case: str
    what: str
    against: str
    ours: tuple[float, ...]
    theirs: tuple[float, ...] = ()
    limit: float | None = None
    unit: str = "s"

    @property
    def ratio(self) -> float | None:
        """Our median in their medians."""
        return median(self.ours) / median(self.theirs) if self.theirs else None

    @property
    def reached(self) -> bool | None:
        """Whether the limit was kept, if there is one."""
        if self.limit is None:
            return None
        return (median(self.ours) if self.ratio is None else self.ratio) <= self.limit


@dataclass(kw_only=True)
class Bench:
    """Where the measuring is done, and with what."""

    scratch: Path
    runs: int
    forge: tuple[str, ...]

    @property
    def downloads(self) -> Path:
        """Packages that the script and the Makefile have downloaded."""
        return self.scratch / "downloads"

    @property
    def forge_cache(self) -> Path:
        """What forge keeps of downloads, from the case before."""
        return self.scratch / "forge-cache"


# Running contenders --------------------------------------------------------------------------------------------------


def run(folder: Path, argv: Sequence[str | Path], **environment: str | Path) -> float:
    """Run a program to its end and return the seconds that it took. What it says goes to a file."""
    log = folder / "log"
    env = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    os.sync()
    with log.open("ab") as stream:
        began = time.perf_counter()
        status = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=env, check=False)
        seconds = time.perf_counter() - began
    if status.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise Failed(f"{' '.join(map(str, argv))}: exit status {status.returncode}\n{tail}")
    return seconds


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
        """Make a disk of a finished tree: the physical part."""
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


def put_aside(folder: Path, *paths: Path) -> None:
    """Move files and folders, if they are there, to a new place beside `folder`."""
    for path in filter(os.path.lexists, paths):
        path.rename(Path(tempfile.mkdtemp(prefix="aside-", dir=folder.parent)) / path.name)


@contextmanager
def folder_of(bench: Bench, case: str) -> Iterator[Path]:
    """Give a case a folder of its own, and remove it in the end."""
    folder = bench.scratch / case
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def take_turns(runs: int, contenders: dict[str, Callable[[], float]]) -> dict[str, tuple[float, ...]]:
    """Let each contender run in turn and return the seconds that each took."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(runs):
        for name, contender in contenders.items():
            samples[name].append(contender())
            print(f"  {number + 1}/{runs} {name}: {samples[name][-1]:.3f} s", file=sys.stderr, flush=True)
    return {name: tuple(seconds) for name, seconds in samples.items()}


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


CASES: dict[str, Callable[[Bench, Path], Iterator[Row]]] = {
    case.__name__: case for case in (cold, nothing, overlay, package, two, store, memory)
}


# Result --------------------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a table."""
    head = ("case", "forge", "", "against", "", "", "ratio", "limit", "")
    lines = [head, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join((text[0], "-" * len(max(text, key=len)), *text[1:]))


def cells(row: Row) -> tuple[str, ...]:
    """Return a row as texts."""
    limit = "" if row.limit is None else f"≤ {row.limit:.3g}" + ("" if row.theirs else f" {row.unit}")
    return (
        row.what, *samples(row.ours, row.unit), row.against, *samples(row.theirs, row.unit),
        "" if row.ratio is None else f"{row.ratio:.3f}", limit,
        {None: "", True: "reached", False: "MISSED"}[row.reached],
    )  # fmt: skip


def samples(values: Sequence[float], unit: str) -> tuple[str, str]:
    """Return a median and the range as texts."""
    if not values:
        return "", ""
    return f"{number(median(values))} {unit}", f"({number(min(values))}–{number(max(values))})" if values[1:] else ""


def number(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"  # noqa: PLR2004


def machine() -> dict[str, str | int | None]:
    """Say where this was measured."""
    return {
        "cores": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def find_forge() -> tuple[str, ...]:
    """Return the forge command of this Python, else the one on the PATH, else the module."""
    beside = Path(sys.executable).with_name("forge")
    found = str(beside) if beside.exists() else shutil.which("forge")
    return (found,) if found else (sys.executable, "-m", "forgefile")


def positive(text: str) -> int:
    """Return a number of at least 1."""
    if (value := int(text)) < 1:
        raise ValueError(text)
    return value


def main() -> int:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", action="append", choices=CASES, help="only this case; may be repeated")
    parser.add_argument("--runs", type=positive, default=5, metavar="N", help="turns of each (default: %(default)s)")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help="a folder on a disk with 30 GiB free")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    options = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [tool for tool in NEEDED if not shutil.which(tool)]
    if os.geteuid() or missing:
        print(f"missing: {' '.join(missing)}" if missing else "this has to run as root", file=sys.stderr)
        return 2
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="forge-benchmark-", dir=options.scratch) as scratch:
        bench = Bench(scratch=Path(scratch), runs=options.runs, forge=find_forge())
        for case in options.case or CASES:
            print(f"{case}:", file=sys.stderr, flush=True)
            if rows:
                os.sync()
                time.sleep(PAUSE_S)
            try:
                with folder_of(bench, case) as folder:
                    rows += CASES[case](bench, folder)
            except Failed as failure:
                print(failure, file=sys.stderr)
                return 1
    about = {**machine(), "runs": options.runs}
    print(", ".join(f"{name} {value}" for name, value in about.items()) + "\n\n" + table(rows))
    if options.json:
        data = {**about, "rows": [{**asdict(row), "ratio": row.ratio, "reached": row.reached} for row in rows]}
        options.json.write_text(json.dumps(data, indent=2) + "\n")
    return int(any(row.reached is False for row in rows))


if __name__ == "__main__":
    sys.exit(main())
