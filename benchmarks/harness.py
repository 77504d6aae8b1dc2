"""How the benchmarks measure: contenders that take turns, comparisons with limits, the table and the exit status.

Unaware of what is measured. A case is a generator of `Row`s that gets the benchmark's `Bench` and a folder of its own.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

MIB = 1 << 20


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
    """Where the measuring is done, how often, and with which forge."""

    scratch: Path
    runs: int
    forge: tuple[str, ...]


B = TypeVar("B", bound=Bench)


# Running contenders --------------------------------------------------------------------------------------------------


def run(folder: Path, argv: Sequence[str | Path], *, cwd: Path | None = None, **environment: str | Path) -> float:
    """Run a program to its end and return the seconds that it took. What it says goes to a file in `folder`."""
    log = folder / "log"
    env = {**os.environ, **{name: str(value) for name, value in environment.items()}}
    os.sync()
    with log.open("ab") as stream:
        began = time.perf_counter()
        status = subprocess.run(
            argv, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, env=env, cwd=cwd, check=False
        )
        seconds = time.perf_counter() - began
    if status.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-30:])
        raise Failed(f"{' '.join(map(str, argv))}: exit status {status.returncode}\n{tail}")
    return seconds


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


def measure(
    what: str, kind: type[B], cases: Mapping[str, Callable[[B, Path], Iterator[Row]]], *,
    lacks: Callable[[], str], room: str, pause_s: float = 0,
) -> int:  # fmt: skip
    """Measure the cases that the command line asks for, print the table and return the exit status.

    `kind` is the class of the benchmark's `Bench`. `lacks` says what this machine has not, or nothing; `room` how
    much the disk needs. Between two cases there are `pause_s` seconds.
    """
    parser = argparse.ArgumentParser(description=what.splitlines()[0])
    parser.add_argument("--case", action="append", choices=cases, help="only this case; may be repeated")
    parser.add_argument("--runs", type=positive, default=5, metavar="N", help="turns of each (default: %(default)s)")
    parser.add_argument("--scratch", type=Path, metavar="DIR", help=f"a folder on a disk with {room} free")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    options = parser.parse_args()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if lacking := lacks():
        print(lacking, file=sys.stderr)
        return 2
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="forge-benchmark-", dir=options.scratch) as scratch:
        bench = kind(scratch=Path(scratch), runs=options.runs, forge=find_forge())
        for case in options.case or cases:
            print(f"{case}:", file=sys.stderr, flush=True)
            if rows:
                os.sync()
                time.sleep(pause_s)
            try:
                with folder_of(bench, case) as folder:
                    rows += cases[case](bench, folder)
            except Failed as failure:
                print(failure, file=sys.stderr)
                return 1
    about = {**machine(), "runs": options.runs}
    print(", ".join(f"{name} {value}" for name, value in about.items()) + "\n\n" + table(rows))
    if options.json:
        data = {**about, "rows": [{**asdict(row), "ratio": row.ratio, "reached": row.reached} for row in rows]}
        options.json.write_text(json.dumps(data, indent=2) + "\n")
    return int(any(row.reached is False for row in rows))
