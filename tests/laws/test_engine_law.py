# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""Law 1 in small: an incremental build equals a clean one, for every sequence of edits, options and restores.

Random graphs of file and tree targets in the real store, run by the real executor, a process for each run. After each
step the outputs are those of a clean build in another folder, bit for bit, and a second build runs nothing. A
neighbour, a project with targets of the same names, builds, cleans and collects in the same store.
"""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

REPOSITORY = Path(__file__).resolve().parents[2]

FORGEFILE = '''\
import json
import os
from collections.abc import Iterable
from typing import Any

from forgefile import Forge, Rule, Run, Sandbox, Step, Tree, Write
from forgefile.rules import Overlay


class Join(Rule):
    """A file of its inputs' content; `fold` makes different inputs give the same output."""

    word: str
    fold: bool
    inputs: tuple[Any, ...]

    def steps(self, box: Sandbox) -> Iterable[Step]:
        script = """for input; do
            if [ -d "$input" ]; then
                cd "$input"
                case "$input" in */in/*) times=%T@;; *) times=;; esac
                find . -printf "%p %y %m %U %G %l %n $times\\n" | sort
                find . -type f | sort | xargs -r cat
            else cat "$input"; fi
        done"""
        end = " | wc -c | cut -c1" if self.fold else ""
        yield Run(("sh", "-ec", f"{{ echo {self.word}; {script}; }}{end}", "sh", *map(box.path, self.inputs)), stdout=box.out)


class Layer(Rule):
    """A layer that removes, renames, replaces and adds."""

    output = "tree"

    base: Tree
    lines: str

    def steps(self, box: Sandbox) -> Iterable[Step]:
        yield Run(("sh", "-c", 'cd "$1" && ' + self.lines + "; true", "sh", box.out))


class Bottom(Rule):
    output = "tree"

    word: str

    def steps(self, box: Sandbox) -> Iterable[Step]:
        yield Write("/a/word", text=self.word, root=box.out)
        yield Write("/b", text="b", mode=0o4755, root=box.out)


def build(forge: Forge) -> None:
    word = forge.option("word", "x")
    made: dict[str, Any] = {}
    with open(os.path.join(os.path.dirname(__file__), "graph.json"), encoding="utf-8") as stream:
        graph = json.load(stream)
    for name, kind, parameter, below in graph:
        word_here = word if "word" in parameter else "w"
        inputs = tuple(made[each] if each in made else forge.source(each) for each in below)
        match kind:
            case "join":
                rule: Rule = Join(word=word_here, fold="fold" in parameter, inputs=inputs)
            case "bottom":
                rule = Bottom(word=word_here)
            case "layer":
                rule = Layer(base=inputs[0], lines=parameter.replace("$WORD", word))
            case "overlay":
                rule = Overlay(base=inputs[0], source=inputs[1], destination=parameter)
        made[name] = forge.target(name, rule)
'''

SOURCES = ("s0", "s1", "folder")
LAYERS = (
    "echo $WORD >a/new",
    "rm -rf a",
    "rm -rf a && mkdir a && echo again >a/x",
    "mv b moved",
    "ln b hard",
    "chmod 700 a",
    "chown 5:6 b",
    "rm -f b && ln -s a/word b",
    "echo more >>a/word",
    "mkdir -p deep/er && mknod deep/null c 1 3",
    "true",
)


@st.composite
def graphs(draw: Any) -> list[tuple[str, str, str, list[str]]]:
    """Draw targets, inputs first: (name, kind, parameter, names of inputs)."""
    graph: list[tuple[str, str, str, list[str]]] = [("tree0", "bottom", draw(st.sampled_from(["", "word"])), [])]
    files: list[str] = []
    trees = ["tree0"]
    for number in range(draw(st.integers(2, 5))):
        kind = draw(st.sampled_from(["join", "join", "layer", "overlay"]))
        if kind == "join":
            below = draw(st.lists(st.sampled_from([*SOURCES, *files, *trees]), min_size=1, max_size=3, unique=True))
            files.append(f"file{number}")
            graph.append((files[-1], kind, draw(st.sampled_from(["", "word", "fold", "word fold"])), below))
            continue
        below = [draw(st.sampled_from(trees))]
        if kind == "overlay":
            source = draw(st.sampled_from([*SOURCES, *files]))
            below.append(source)
            parameter = draw(st.sampled_from(["/", "/a", "/o"])) if source == "folder" else "/c/file"
        else:
            parameter = draw(st.sampled_from(LAYERS))
        trees.append(f"tree{number + 1}")
        graph.append((trees[-1], kind, parameter, below))
    graph.append(("all", "join", "", [*files, trees[-1]]))
    return graph


CONTENTS = st.sampled_from(["", "one\n", "two\n", "three\n"])
MOVES = st.one_of(
    st.tuples(st.just("write"), st.sampled_from(["s0", "s1", "folder/f", "folder/g", "folder/sub/h"]), CONTENTS),
    st.tuples(st.just("mode"), st.sampled_from(["s0", "folder/f", "folder/sub"]), st.sampled_from([0o644, 0o755, 0o700])),
    st.tuples(st.just("remove"), st.sampled_from(["folder/f", "folder/g", "folder/sub"]), st.none()),
    st.tuples(st.just("link"), st.sampled_from(["folder/f", "folder/l"]), st.sampled_from(["a", "b"])),
    st.tuples(st.just("option"), st.just("word"), st.sampled_from(["x", "y", "z"])),
    st.tuples(st.just("output"), st.sampled_from(["edit", "delete", "touch", "chmod"]), st.integers(0, 9)),
    st.tuples(st.just("layer"), st.sampled_from(["edit", "add", "remove", "chmod"]), st.integers(0, 99)),
    st.tuples(st.just("back"), st.none(), st.none()),
    st.tuples(st.just("part"), st.integers(0, 9), st.none()),
    st.tuples(st.just("clean"), st.integers(0, 9), st.none()),
    st.tuples(st.just("gc"), st.sampled_from(["1T", "1G"]) | st.none(), st.none()),
    st.tuples(st.just("neighbour"), st.sampled_from(["build", "clean", "gc"]), st.sampled_from(["x", "y", "z"])),
)


class World:
    """A project that is edited and built again and again, beside which each state is built afresh."""

    def __init__(self, root: Path, graph: list[tuple[str, str, str, list[str]]]) -> None:
        self.root = root / "project"
        self.fresh = root / "fresh"
        self.neighbour = root / "neighbour"
        self.store = root / "store"
        self.word = "x"
        self.files = [name for name, kind, *_ in graph if kind == "join"]
        self.trees = [name for name, kind, *_ in graph if kind != "join"]
        self.names = [name for name, *_ in graph]
        self.root.mkdir()
        (self.root / "Forgefile.py").write_text(FORGEFILE)
        (self.root / "graph.json").write_text(json.dumps(graph))
        (self.root / "folder").mkdir()
        for name in ("s0", "s1", "folder/f"):
            (self.root / name).write_text(name)
        self.earlier: list[dict[str, tuple[int, str]]] = [self.sources()]

    def sources(self) -> dict[str, tuple[int, str]]:
        """Return the state of the sources."""
        found = {}
        for path in sorted([self.root / "s0", self.root / "s1", *(self.root / "folder").rglob("*")]):
            mode = path.lstat().st_mode
            text = os.readlink(path) if stat.S_ISLNK(mode) else "" if stat.S_ISDIR(mode) else path.read_text()
            found[str(path.relative_to(self.root))] = (mode, text)
        return found

    def go_back(self, number: int) -> None:
        """Make the sources what they were once, as a switch of branches does."""
        shutil.rmtree(self.root / "folder")
        (self.root / "folder").mkdir()
        for name, (mode, text) in self.earlier[number % len(self.earlier)].items():
            path = self.root / name
            if stat.S_ISLNK(mode):
                path.symlink_to(text)
                continue
            if stat.S_ISDIR(mode):
                path.mkdir()
            else:
                path.write_text(text)
            path.chmod(stat.S_IMODE(mode))

    def move(self, what: str, where: Any, how: Any) -> None:  # noqa: C901, PLR0912  a case for each kind of move
        """Do what a person may do between two builds."""
        path = self.root / str(where)
        match what:
            case "write":
                path.parent.mkdir(exist_ok=True)
                if path.is_symlink():
                    path.unlink()
                path.write_text(how)
            case "mode" if path.exists() and not path.is_symlink():
                path.chmod(how)
            case "remove" if path.is_dir():
                shutil.rmtree(path)
            case "remove":
                path.unlink(missing_ok=True)
            case "link":
                path.unlink(missing_ok=True)
                path.symlink_to(how)
            case "option":
                self.word = how
            case "output":
                self._touch_output(where, self.root / self.files[how % len(self.files)])
            case "layer":
                self._edit_layer(where, how)
            case "back":
                self.go_back(len(self.earlier) // 2)
            case "part":
                self.build(self.names[where % len(self.names)])
            case "clean":
                self.verb("clean", self.names[where % len(self.names)])
            case "gc":
                self.verb("gc", *(["--max-size", where] if where else []))
            case "neighbour":
                self.copy(self.neighbour)
                self.verb("-D", f"word={how}", "-q", root=self.neighbour)
                if where != "build":
                    self.verb(where, root=self.neighbour)
        self.earlier.append(self.sources())

    @staticmethod
    def _touch_output(how: str, path: Path) -> None:
        if not path.exists():
            return
        match how:
            case "edit":
                with path.open("a") as stream:
                    stream.write("mine")
            case "delete":
                path.unlink()
            case "touch":
                os.utime(path)
            case "chmod":
                path.chmod(0o700)

    def _edit_layer(self, how: str, number: int) -> None:
        """Change something in a layer that a tree has or had, without a trace in sizes and times of files."""
        found = sorted(path for path in (self.store / "layers").rglob("*") if path.is_file() and not path.is_symlink())
        if not found:
            return
        path = found[number % len(found)]
        status = path.stat()
        match how:
            case "edit":
                path.write_bytes(b"m" * status.st_size)
            case "add":
                (path.parent / "mine").write_text("mine")
            case "remove":
                path.unlink()
            case "chmod":
                path.chmod(0o666)
        if path.exists():
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    def verb(self, *words: str, root: Path | None = None) -> str:
        """Run forge and expect it to end well."""
        store = {} if root == self.fresh else {"FORGE_STORE": str(self.store)}
        run = subprocess.run(
            (sys.executable, "-m", "forgefile", *words), cwd=root or self.root, capture_output=True, text=True,
            env={"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY), **store}, timeout=60, check=False,
        )  # fmt: skip
        assert run.returncode == 0, f"{words}: {run.stdout}{run.stderr}"
        return run.stdout

    def forge(self, *words: str, root: Path | None = None) -> list[dict[str, Any]]:
        """Build and return the events."""
        out = self.verb("--json", "-D", f"word={self.word}", "-j2", *words, root=root)
        return [json.loads(line) for line in out.splitlines()]

    def build(self, *words: str) -> str:
        """Build as a person does, which may use what the last such run knew; return what is said."""
        return self.verb("-D", f"word={self.word}", *words)

    def outputs(self, root: Path) -> dict[str, Any]:
        """Return all that can be told of the outputs that a build left in a folder."""
        found: dict[str, Any] = {}
        for name in self.files:
            status = (root / name).stat()
            found[name] = (status.st_mode, status.st_mtime_ns, (root / name).read_bytes())
        for name in self.trees:
            self.export(root, name)
            found[name] = (root / "exported.tar").read_bytes()
            (root / "exported.tar").unlink()
        return found

    def export(self, root: Path, name: str) -> None:
        """Export a tree. A layer that was changed is noticed at the latest here, and then built again."""
        words = "export", "-D", f"word={self.word}", name, str(root / "exported.tar")
        try:
            self.verb(*words, root=root)
        except AssertionError as error:
            if root != self.root or "was changed since it was built\n" not in str(error):
                raise
            self.build(name)
            self.verb(*words, root=root)

    def copy(self, to: Path) -> None:
        """Make another project with the same sources."""
        shutil.rmtree(to, ignore_errors=True)
        to.mkdir()
        for name in ("Forgefile.py", "graph.json", "s0", "s1"):
            shutil.copy(self.root / name, to / name)
        shutil.copytree(self.root / "folder", to / "folder", symlinks=True)

    def check(self) -> None:
        """The incremental build equals the clean one, and a second runs nothing."""
        self.build()
        said = self.build()
        assert "up to date" in said, said
        assert "building" not in said, said
        again = self.forge()
        assert {event["event"] for event in again} <= {"planned", "current", "finished"}, again
        self.copy(self.fresh)
        self.forge(root=self.fresh)
        mine, clean = self.outputs(self.root), self.outputs(self.fresh)
        assert {n for n in mine if mine[n] != clean[n]} == set()


@pytest.fixture(scope="module")
def scratch() -> Iterator[Callable[[], Path]]:
    """Return a maker of folders, removed at the end."""
    if os.geteuid():
        pytest.skip("forge needs root for now")
    with tempfile.TemporaryDirectory() as folder:
        yield lambda: Path(tempfile.mkdtemp(dir=folder))


@settings(
    max_examples=8, deadline=None, phases=(Phase.explicit, Phase.generate), derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(graph=graphs(), moves=st.lists(st.lists(MOVES, min_size=1, max_size=3), min_size=2, max_size=4))
def test_an_incremental_build_equals_a_clean_one(scratch, graph, moves):
    root = scratch()
    world = World(root, graph)
    world.check()
    for each in moves:
        for move in each:
            world.move(*move)
        world.check()
    shutil.rmtree(root)
