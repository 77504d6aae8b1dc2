#!/usr/bin/env python3
"""Measure forge's engine beside ninja, GNU make, doit and SCons on the same graph, git on the same folder, and xxhsum.

    .venv/bin/python benchmarks/engine.py [--case NAME]… [--runs N] [--scratch DIR] [--json FILE]

Run it on a quiet machine with ninja, make, git and xxhsum (Debian: ninja-build make git xxhash). doit and SCons are
those of the PATH, else they are fetched from PyPI into a virtual environment in the scratch folder.

The graph has N targets in ten layers. Each is made by `cat` of a source of its own and two targets of the layer below
it; those of the last layer are asked for. Each contender has a folder of its own, in which all was really built once,
by forge each command in its sandbox, and before anything is measured all have the same content in the last layer.
To prepare 100,000 targets takes a quarter of an hour, which --case can spare.

Contenders take turns, as often as --runs says; before each run the disk's queue is emptied with sync(2), and what it
has to do is put in place, neither of which is timed. What takes less than a fifth of a second is repeated until as
much has passed, and the mean is one sample. The numbers are medians, and what has to be reached are their ratios.
Peak memory is what wait4(2) says of the process.

Exit status: 0 every ratio was reached; 1 one was missed, or a contender failed; 2 this machine lacks something.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import harness
from harness import MIB, Failed, Row, measure, put_aside, run, take_turns

NEEDED = {"ninja": "ninja-build", "make": "make", "git": "git", "xxhsum": "xxhash"}
LAYERS = 10
JOBS = 2
SAMPLE_S = 0.2
FILES = 100_000
SETTLED_S = 0.1
"""Until a file's time tells that it is older than what is done next."""


# The graph -----------------------------------------------------------------------------------------------------------


def width_of(size: int) -> int:
    """Return how many of `size` targets are in a layer. Target n is number n % width of layer n // width."""
    return size // LAYERS


def inputs_of(target: int, width: int) -> list[str]:
    """Return the paths of a target's inputs."""
    first = target - target % width - width
    below = [target - width, first + (target + 1) % width] if first >= 0 else []
    return [*(f"out/{each}" for each in below), f"src/{target}"]


def ninja_file(size: int) -> str:
    """Return the graph for ninja."""
    width = width_of(size)
    lines = ["rule cat", "  command = cat $in > $out"]
    lines += [f"build out/{n}: cat {' '.join(inputs_of(n, width))}" for n in range(size)]
    last = " ".join(f"out/{n}" for n in range(size - width, size))
    return "\n".join((*lines, f"build all: phony {last}", "default all", ""))


def makefile(size: int) -> str:
    """Return the graph for make."""
    width = width_of(size)
    last = " ".join(f"out/{n}" for n in range(size - width, size))
    lines = [f"out/{n}: {' '.join(inputs_of(n, width))}\n\tcat $^ >$@" for n in range(size)]
    return "\n".join((".PHONY: all", f"all: {last}", *lines, ""))


FORGEFILE = """\
from forgefile import Forge, Target
from forgefile.rules import Command

LAYERS, WIDTH = {layers}, {width}


def build(forge: Forge) -> None:
    below: list[Target] = []
    for layer in range(LAYERS):
        made = []
        for column in range(WIDTH):
            number = layer * WIDTH + column
            inputs = (below[column], below[(column + 1) % WIDTH]) if below else ()
            argv = ("cat", *inputs, forge.source(f"src/{{number}}"))
            made.append(forge.target(f"out/{{number}}", Command(argv=argv, stdout=True)))
        below = made
    forge.default(*below)
"""

DODO = """\
LAYERS, WIDTH = {layers}, {width}
LAST = (LAYERS - 1) * WIDTH
DOIT_CONFIG = {{"verbosity": 0, "reporter": "zero", "default_tasks": ["last"]}}


def task_cat():
    for number in range(LAYERS * WIDTH):
        first = number - number % WIDTH - WIDTH
        below = (number - WIDTH, first + (number + 1) % WIDTH) if first >= 0 else ()
        inputs = [*(f"out/{{each}}" for each in below), f"src/{{number}}"]
        target = f"out/{{number}}"
        yield {{
            "name": str(number),
            "file_dep": inputs,
            "targets": [target],
            "actions": [f"cat {{' '.join(inputs)}} >{{target}}"],
        }}


def task_last():
    return {{"actions": None, "task_dep": [f"cat:{{n}}" for n in range(LAST, LAST + WIDTH)]}}
"""

SCONSTRUCT = """\
import os

LAYERS, WIDTH = {layers}, {width}
environment = Environment(ENV=os.environ, tools=[])
below = []
for layer in range(LAYERS):
    made = []
    for column in range(WIDTH):
        number = layer * WIDTH + column
        inputs = [below[column], below[(column + 1) % WIDTH]] if below else []
        made += environment.Command(f"out/{{number}}", [*inputs, f"src/{{number}}"], "cat $SOURCES > $TARGET")
    below = made
Default(below)
"""


def filled(template: str, size: int) -> str:
    """Return a build file that has the graph as a loop."""
    return template.format(layers=LAYERS, width=width_of(size))


# Contenders ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tool:
    """A build tool: its command, the name of its build file, and the text of that for a number of targets."""

    argv: tuple[str, ...]
    file: str
    text: Callable[[int], str]


@dataclass(kw_only=True)
class Bench(harness.Bench):
    """Where the measuring is done, and the projects that the cases share."""

    projects: dict[tuple[str, int], "Project"] = field(default_factory=dict)

    def project(self, name: str, size: int) -> "Project":
        """Return a tool's project of `size` targets, all built; made once."""
        if (name, size) not in self.projects:
            self.projects[name, size] = Project(self.scratch / f"{name}-{size}", self._tool(name), size)
        return self.projects[name, size]

    def _tool(self, name: str) -> Tool:
        match name:
            case "forge":
                return Tool((*self.forge, "-q", f"-j{JOBS}"), "Forgefile.py", partial(filled, FORGEFILE))
            case "ninja":
                return Tool(("ninja", "--quiet", f"-j{JOBS}"), "build.ninja", ninja_file)
            case "make":
                return Tool(("make", "-rRs", f"-j{JOBS}"), "Makefile", makefile)
            case "doit":
                return Tool((self._python_tool("doit"), "-n", str(JOBS)), "dodo.py", partial(filled, DODO))
        return Tool((self._python_tool("scons"), "-Qs", f"-j{JOBS}"), "SConstruct", partial(filled, SCONSTRUCT))

    def _python_tool(self, name: str) -> str:
        """Return the path of a tool that is written in Python."""
        if found := shutil.which(name):
            return found
        folder = self.scratch / name
        run(self.scratch, (sys.executable, "-m", "venv", folder))
        run(self.scratch, (folder / "bin/python", "-m", "pip", "install", "--quiet", name))
        return str(folder / "bin" / name)


Case = Callable[[Bench, Path], Iterator[Row]]


class Project:
    """The graph for one tool in a folder, built."""

    def __init__(self, folder: Path, tool: Tool, size: int) -> None:
        self.folder = folder
        self.size = size
        self._tool = tool
        for name in ("src", "out"):
            (folder / name).mkdir(parents=True)
        for number in range(size):
            self.source(number).write_text(f"{number}\n")
        (folder / tool.file).write_text(tool.text(size))
        self.build()
        self._check()
        time.sleep(SETTLED_S)
        self.build()

    def source(self, number: int) -> Path:
        """Return the path of a target's own source."""
        return self.folder / f"src/{number}"

    def build(self) -> float:
        """Build; return the seconds."""
        return run(self.folder, self._tool.argv, cwd=self.folder)

    def _check(self) -> None:
        """Raise `Failed` when the last layer is not what it has to be."""
        width = width_of(self.size)
        texts: list[str] = []
        for first in range(0, self.size, width):
            below = [texts[n] + texts[(n + 1) % width] for n in range(width)] if texts else [""] * width
            texts = [f"{below[n]}{first + n}\n" for n in range(width)]
        for number, text in enumerate(texts, self.size - width):
            if (self.folder / f"out/{number}").read_text() != text:
                raise Failed(f"{self._tool.argv[0]} made something else of out/{number}")

    def forget(self) -> None:
        """Put all aside that people did not write."""
        kept = ("src", "log", self._tool.file)
        put_aside(self.folder, *(path for path in self.folder.iterdir() if path.name not in kept))
        (self.folder / "out").mkdir()

    def touch(self) -> None:
        """Give every source a new time."""
        for number in range(self.size):
            os.utime(self.source(number))
        time.sleep(SETTLED_S)

    def rebuilt(self) -> float:
        """Change the source of one target of the last layer and build; return the seconds."""
        text = f"{time.time_ns()}\n"
        self.source(self.size - 1).write_text(text)
        time.sleep(SETTLED_S)
        seconds = self.build()
        if not (self.folder / f"out/{self.size - 1}").read_text().endswith(text):
            raise Failed(f"{self._tool.argv[0]} did not see that a source changed")
        return seconds

    def peak(self) -> float:
        """Build and return the peak memory of the tool's process in MiB."""
        argv = (sys.executable, "-I", "-S", "-c", PEAK, *self._tool.argv)
        said = subprocess.run(argv, cwd=self.folder, stdout=subprocess.PIPE, text=True, check=True).stdout
        return int(said.split()[-1]) / 1024


PEAK = """\
import os, sys
child = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
status, usage = os.wait4(child, 0)[1:]
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Starts a program and prints its peak. In a process of its own, since the peak counts who forked the program."""


def often(run_once: Callable[[], float]) -> float:
    """Return the mean of as many runs as a sample needs."""
    seconds = [run_once()]
    while sum(seconds) < SAMPLE_S:
        seconds.append(run_once())
    return sum(seconds) / len(seconds)


# Cases ---------------------------------------------------------------------------------------------------------------


def against(case: str, what: str, took: dict[str, tuple[float, ...]], limits: dict[str, float]) -> Iterator[Row]:
    """Yield a row for each contender but forge."""
    for name, theirs in took.items():
        if name != "forge":
            yield Row(case=case, what=what, against=name, ours=took["forge"], theirs=theirs, limit=limits.get(name))


def nothing(size: int, peers: Sequence[str], limits: dict[str, float], peak_mib: float | None = None) -> Case:
    """Return the case of a graph in which nothing changed."""

    def measured(bench: Bench, _: Path) -> Iterator[Row]:
        what = f"nothing changed, {size:,} targets"
        projects = {name: bench.project(name, size) for name in ("forge", *peers)}
        took = take_turns(bench.runs, {name: partial(often, each.build) for name, each in projects.items()})
        yield from against(f"nothing-{size}", what, took, limits)
        if peak_mib is not None:
            peaks = tuple(projects["forge"].peak() for _ in range(bench.runs))
            yield Row(case=f"nothing-{size}", what=f"peak memory, {size:,} targets", against="", ours=peaks,
                      limit=peak_mib, unit="MiB")  # fmt: skip

    return measured


def growth(bench: Bench, _: Path) -> Iterator[Row]:
    """Measure how the time grows from 10,000 to 100,000 targets: in proportion, with some room for caches."""
    small, large = (bench.project("forge", size) for size in (10_000, 100_000))
    took = take_turns(bench.runs, {"small": partial(often, small.build), "large": large.build})
    yield Row(case="growth", what="nothing changed, 100,000 targets", against="forge, 10,000 targets",
              ours=took["large"], theirs=took["small"], limit=11)  # fmt: skip


def touched(bench: Bench, _: Path) -> Iterator[Row]:
    """Measure a run after all sources got new times and the contents that they had."""
    names = ("forge", "doit", "scons")
    projects = {name: bench.project(name, 10_000) for name in (*names, "ninja")}

    def after_touch(project: Project) -> float:
        project.touch()
        return project.build()

    took = take_turns(bench.runs, {
        **{name: partial(after_touch, projects[name]) for name in names},
        "ninja, nothing changed": partial(often, projects["ninja"].build),
    })  # fmt: skip
    yield from against("touched", "all 10,000 sources touched", took, {"ninja, nothing changed": 4})


def one(bench: Bench, _: Path) -> Iterator[Row]:
    """Measure the way from one changed source to its one target of 10,000."""
    names = ("forge", "ninja", "make", "doit", "scons")
    took = take_turns(bench.runs, {name: bench.project(name, 10_000).rebuilt for name in names})
    yield from against("one", "one source of 10,000 changed", took, {"ninja": 3})


def cold(bench: Bench, _: Path) -> Iterator[Row]:
    """Measure 1,000 commands, forge's each in its sandbox."""

    def from_nothing(project: Project) -> float:
        project.forget()
        return project.build()

    names = ("forge", "ninja", "make", "doit", "scons")
    took = take_turns(bench.runs, {name: partial(from_nothing, bench.project(name, 1_000)) for name in names})
    yield from against("cold", f"1,000 commands from nothing, -j{JOBS}", took, {"ninja": 5})


MANY_STEPS = """from collections.abc import Iterable
from forgefile import Forge, Rule, Run, Sandbox, Step


class Steps(Rule):
    number: int

    def steps(self, box: Sandbox) -> Iterable[Step]:
        yield from [Run(("true",))] * self.number
        yield Run(("true",), stdout=box.out)


def build(forge: Forge) -> None:
    forge.target("few", Steps(number=0))
    forge.target("many", Steps(number={steps}))
"""
STEPS = 200


def sandbox(bench: Bench, where: Path) -> Iterator[Row]:
    """Measure what a step costs beside its program: steps that run `true`, less the time that `true` takes alone."""
    (where / "Forgefile.py").write_text(MANY_STEPS.format(steps=STEPS))

    def built(name: str) -> float:
        run(where, (*bench.forge, "clean"), cwd=where)
        return run(where, (*bench.forge, "-q", name), cwd=where)

    def alone() -> float:
        began = time.perf_counter()
        for _ in range(STEPS):
            os.waitpid(os.posix_spawnp("true", ("true",), os.environ), 0)
        return time.perf_counter() - began

    took = take_turns(bench.runs, {"few": partial(built, "few"), "many": partial(built, "many"), "alone": alone})
    turns = zip(took["many"], took["few"], took["alone"], strict=True)
    each = tuple((many - few - program) / STEPS * 1000 for many, few, program in turns)
    yield Row(case="sandbox", what="a step's sandbox, made and taken down", against="", ours=each, limit=10, unit="ms")


LISTING = """from forgefile import Forge
from forgefile.rules import Command


def build(forge: Forge) -> None:
    forge.target("names", Command(argv=("ls", forge.source("files")), stdout=True))
"""
GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.c",
    "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b.c",
}  # fmt: skip


LOOK = """import os, time
os.chdir({where!r})
from forgefile.start import find
from forgefile.cache import digest
began = time.perf_counter()
start = find([], time.time_ns())
print(time.perf_counter() - began)
assert start.snapshot and bool(start.snapshot.deltas) == {changed}
"""
"""Prints the seconds that it takes to read a snapshot and to compare, with the digests of what changed."""


def folder(bench: Bench, where: Path) -> Iterator[Row]:
    """Measure one target whose source is a folder of 100,000 files: nothing changed, and one of the files."""
    for number in range(FILES):
        path = where / f"files/{number // 1000}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n")
    (where / "Forgefile.py").write_text(LISTING)
    (where / ".gitignore").write_text("/.forge/\n/names\n/log\n")
    for words in (("init", "-q"), ("config", "gc.auto", "0"), ("add", "."), ("commit", "-qm", "all")):
        run(where, ("git", *words), cwd=where, **GIT)
    forge = partial(run, where, cwd=where)
    edited = where / "files/50/50000"

    def unchanged() -> float:
        forge((*bench.forge, "-q"))
        time.sleep(SETTLED_S)
        return often(lambda: forge((*bench.forge, "-q")))

    def edit() -> None:
        edited.write_text(f"{time.time_ns()}\n")
        time.sleep(SETTLED_S)

    def planned() -> float:
        edit()
        return forge((*bench.forge, "-q", "--dry-run"))

    def digest(*, changed: bool) -> float:
        if changed:
            edit()
        code = LOOK.format(where=str(where), changed=changed)
        return float(subprocess.run((sys.executable, "-c", code), stdout=subprocess.PIPE, check=True).stdout)

    def status() -> float:
        return often(lambda: run(where, ("git", "status"), cwd=where, **GIT))

    took = take_turns(bench.runs, {
        "unchanged": unchanged, "git": status, "its digest": partial(digest, changed=False),
        "digest of a change": partial(digest, changed=True), "planned": planned,
    })  # fmt: skip
    yield Row(case="folder", what=f"a folder of {FILES:,} files, unchanged", against="git status",
              ours=took["unchanged"], theirs=took["git"], limit=1.5)  # fmt: skip
    yield Row(case="folder", what="its digest, one of the files changed", against="none changed",
              ours=took["digest of a change"], theirs=took["its digest"], limit=1.2)  # fmt: skip
    yield Row(case="folder", what="one of the files changed, --dry-run", against="unchanged",
              ours=took["planned"], theirs=took["unchanged"])  # fmt: skip


def content(bench: Bench, where: Path) -> Iterator[Row]:
    """Measure the digest of 1 GiB of new content that the page cache has; 0.8 of the speed is 1.25 of the time."""
    from forgefile.cache.digest import file_digest  # noqa: PLC0415  only this case needs to be run by forge's Python

    path = where / "content"
    with path.open("wb") as stream:
        for _ in range(1024):
            stream.write(os.urandom(MIB))

    def digest() -> float:
        began = time.perf_counter()
        file_digest(str(path))
        return time.perf_counter() - began

    took = take_turns(bench.runs, {"forge": digest, "xxhsum -H2": lambda: run(where, ("xxhsum", "-H2", path))})
    yield from against("content", "1 GiB of new content", took, {"xxhsum -H2": 1 / 0.8})


CASES: dict[str, Case] = {
    "nothing-1000": nothing(1_000, ("ninja", "make", "doit", "scons"), {"ninja": 6, "doit": 0.4}),
    "nothing-10000": nothing(10_000, ("ninja", "make", "doit", "scons"), {"ninja": 2.5, "doit": 0.15}, peak_mib=45),
    "touched": touched,
    "one": one,
    "cold": cold,
    "sandbox": sandbox,
    "folder": folder,
    "content": content,
    "nothing-100000": nothing(100_000, ("ninja", "make"), {"ninja": 2}, peak_mib=300),
    "growth": growth,
}


def lacks() -> str:
    """Say which Debian packages this machine has not, or nothing."""
    missing = [package for tool, package in NEEDED.items() if not shutil.which(tool)]
    return f"missing: apt-get install {' '.join(missing)}" if missing else ""


if __name__ == "__main__":
    sys.exit(measure(__doc__ or "", Bench, CASES, lacks=lacks, room="10 GiB"))
