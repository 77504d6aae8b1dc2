"""forge verify: build targets, and again from nothing under other conditions; name the first that differs."""

import argparse
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, NamedTuple

from forgefile import compare, engine, events, linux, userns
from forgefile.cache.keyed import key_of
from forgefile.cache.layout import CACHE, KEY, LAYERS, OBJECTS
from forgefile.cache.seal import Result
from forgefile.errors import BuildError, ForgeError, UsageError
from forgefile.fingerprint import Manifest, difference
from forgefile.model import Target, uses_network
from forgefile.report import EVERY_LINE, form_for, reporter

SYNOPSIS = "verify [TARGET…]"
SUMMARY = "build again from nothing, with another clock, user, folder …, and compare"
EXAMPLES = (("forge verify disk.img", "is it, and all that it is made of, the same when it is built again?"),)
_ABOUT = """\
The second build is later, and has another time zone, locale, umask, user (for root), number of cores, folder and
directory order. What was downloaded is not downloaded again.
"""
_BEGAN = time.monotonic()
_SHOWN = 20
"""How many differences of a target are told."""
_NETWORK = "its steps use the network: what is fetched may have changed since the first build"
_DIFFOSCOPE = "diffoscope says more of such files: apt-get install diffoscope-minimal"
_USER = "the second build was an ordinary user's, so to speak: some things root alone can do"
_UMASKS = 0o077, 0o022
_ALWAYS = ("clock", "time zone", "locale", "umask", "folder", "directory order")
_PARENT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _clock() -> float:
    return time.monotonic() - _BEGAN


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    help_ = "names or globs (default: the Forgefile's default ones)"
    parser.add_argument("words", nargs="*", metavar="TARGET", help=help_)
    parser.epilog = f"{_ABOUT}\n{parser.epilog}"


def run(options: argparse.Namespace) -> int:
    """Build and verify; return the exit status."""
    project = engine.Project.open(
        options.file, options.define, read_only=False, stand=options.stand, store=options.store
    )
    form = "json" if options.json else form_for(sys.stdout)
    options.every_line = form in EVERY_LINE
    display = reporter(form, sys.stdout)
    try:
        return _Verification(project, options, display.report).run()
    finally:
        display.close()
        project.close()


# The first build, and the comparison ---------------------------------------------------------------------------------

# The first build is any build's, in the project's store. The second is another forge, `again`, a process of its own
# with another environment. Its store is a folder in the first one's staging, so that nothing of it is left behind. It
# sees the project in another folder, since all of the host is shown a second time, read-only, in its mount namespace.
#
# What it makes is compared as it comes. A target is built when all below it came out the same, so the first that does
# not is what differs, and the second build ends there.


class _Orders(NamedTuple):
    """What the second build has to know."""

    parent: int
    folder: str
    """An empty folder of the first store."""
    shared: tuple[str, ...]
    """The cache folders of the first store that hold what was fetched."""
    key: bytes | None
    """The first store's key, if it has one, so that a secret has the same digest in both."""
    file: str
    definitions: tuple[str, ...]
    targets: tuple[str, ...]
    jobs: int | None
    every_line: bool
    began: float
    """When forge began, in seconds of the monotonic clock."""


class _Made(NamedTuple):
    """A target that the second build has made."""

    target: str
    wall_s: float
    result: Result
    manifest: Manifest


class _Verification:
    def __init__(self, project: engine.Project, options: argparse.Namespace, tell: engine.Tell) -> None:
        self._project = project
        self._options = options
        self._tell = tell
        self._wanted = project.graph.select(options.words)
        self._left = {target.name: target for target in project.graph.closure(self._wanted)}
        self._expected = {name: project.planner.expected(target) for name, target in self._left.items()}
        self._count = dict.fromkeys(("same", "differs", "failed", "skipped"), 0)
        self._as_user = False

    def run(self) -> int:
        """Build what is not up to date, then all of it again, and compare; return the exit status."""
        store, options = self._project.store, self._options
        if store.records.read_only:
            raise UsageError(f"{store.root} cannot be written", hint="name another store with --store")
        jobs = options.jobs or len(os.sched_getaffinity(0))
        settings = engine.Settings(jobs, every_line=options.every_line)
        status = engine.build(self._project, self._wanted, settings, tell=self._tell_first, clock=_clock)
        if status:
            return status
        with store.lock(self._waits):
            store.sweep()
            store.refuse_full_disk()
            self._refuse_stale()
            try:
                status = self._compare(self._orders(store.stage(0)))
            finally:
                store.sweep()
        now = _clock()
        self._tell(events.Verified(t=now, status=status, wall_s=now, **self._count))
        return status

    def _tell_first(self, event: events.Event) -> None:
        """Tell of the first build, whose end is not that of the run when it went well."""
        if not isinstance(event, events.Finished) or event.status:
            self._tell(event)

    def _waits(self, holder: str) -> None:
        self._tell(engine.waiting(holder, _clock()))

    def _refuse_stale(self) -> None:
        """Raise `UsageError` when something changed since the first build."""
        decisions = self._project.planner.plan(self._wanted)
        for target, decision in decisions.items():
            if target not in self._project.planner.results or decision.action not in ("none", "restore"):
                raise UsageError(f"{target.name} changed while it was to be verified", hint="run forge verify again")

    def _orders(self, folder: str) -> _Orders:
        planner, options = self._project.planner, self._options
        steps = [step for target in self._left.values() for step in planner.describe(target).steps]
        fetched = {cache.name for step in filter(uses_network, steps) for cache in getattr(step, "caches", ())}
        file = os.path.join(os.path.realpath(self._project.root), os.path.basename(options.file))
        return _Orders(
            parent=os.getpid(),
            folder=folder,
            shared=tuple(os.path.join(self._project.store.root, CACHE, name) for name in sorted(fetched)),
            key=key_of(self._project.store.root),
            file=file,
            definitions=tuple(options.define),
            targets=tuple(target.name for target in self._wanted),
            jobs=options.jobs,
            every_line=options.every_line,
            began=_BEGAN,
        )

    def _compare(self, orders: _Orders) -> int:
        """Have all built again and compare until something differs; return the exit status."""
        because = "the second build"
        try:
            with _second_build(orders) as messages:
                for message in messages:
                    self._hear(message, orders.folder)
                    if self._count["differs"]:
                        because = message.target
                        break
        except KeyboardInterrupt:
            self._skip()
            return 130
        if self._left and not (self._count["differs"] or self._count["failed"]):
            raise BuildError("the second build ended unexpectedly")
        self._skip(because)
        return 1 if self._count["differs"] or self._count["failed"] else 0

    def _skip(self, because: str | None = None) -> None:
        for name in tuple(self._left):
            self._ended(name, "skipped", events.Skipped(t=_clock(), target=name, because=because))

    def _ended(self, name: str, how: str, event: events.Event) -> None:
        self._left.pop(name, None)
        self._count[how] += 1
        self._tell(event)

    def _hear(self, message: Any, folder: str) -> None:
        """Take up what the second build says."""
        match message:
            case ForgeError():
                raise message
            case _Made():
                self._made(message, folder)
            case events.Verifying():
                self._as_user = "user" in message.varied
                self._tell(message)
            case events.Planned() | events.Started():
                known = self._expected.get(message.target)
                self._tell(_changed(message, reasons=(), expected_s=known))
            case events.Failed():
                hint = None if message.kept else message.hint  # what it had made is gone soon
                hint = hint or (_USER if self._as_user else None)
                self._ended(message.target, "failed", _changed(message, log=None, kept=None, hint=hint))
            case events.Skipped():
                self._ended(message.target, "skipped", message)
            case events.Event():
                self._tell(message)

    def _made(self, made: _Made, folder: str) -> None:
        target = self._left.get(made.target)
        if target is None:
            raise UsageError(
                f"the Forgefile declares '{made.target}' only when it is evaluated again",
                hint="it has to declare the same whenever and wherever it is read",
            )
        result = self._project.planner.results[target]
        self._project.store.discard_failed((made.target,))
        repeats = target.rule.repeats
        if result.digest == made.result.digest or not repeats:
            told = events.Same(t=_clock(), target=made.target, wall_s=made.wall_s, compared=repeats)
            self._ended(made.target, "same", told)
        else:
            self._ended(made.target, "differs", self._difference(target, result, made, folder))

    def _difference(self, target: Target, result: Result, made: _Made, folder: str) -> events.Differs:
        """Keep what the second build made of a target, and return how it differs from the first."""
        store = self._project.store
        first = _output(store.root, result)
        second = store.keep_aside(_output(_store_in(folder), made.result), target.name)
        words, file = userns.ask(lambda: compare.differences(first, second))
        said: list[str] = []
        if file is not None:
            paths = (f"{first}/{file}", f"{second}/{file}") if file else (first, second)
            said = userns.ask(lambda: compare.report(*paths, folder))
        manifest = self._project.planner.manifests[target]
        reasons = [f"made otherwise: {words}" for words in difference(manifest, made.manifest)]
        words = [*reasons, *words]
        fetches = any(map(uses_network, self._project.planner.describe(target).steps))
        hint = _NETWORK if fetches else _DIFFOSCOPE if file is not None and not said else None
        return events.Differs(
            t=_clock(), target=target.name, wall_s=made.wall_s, differences=tuple(words[:_SHOWN]),
            more=max(len(words) - _SHOWN, 0), report=tuple(said), first=first, second=second,
            location=str(target.location) if target.location else None, hint=hint,
        )  # fmt: skip


def _changed(event: events.Event, **fields: Any) -> events.Event:
    """Return an event with some fields changed."""
    return type(event)(**{**event.__dict__, **fields})


def _output(store: str, result: Result) -> str:
    """Return where a target's output lies in a store; of a tree what the target adds to the one below it."""
    return f"{store}/{OBJECTS}/{result.digest}" if result.kind == "file" else f"{store}/{LAYERS}/{result.layers[-1]}"


def _store_in(folder: str) -> str:
    return f"{folder}/store"


@contextmanager
def _second_build(orders: _Orders) -> Iterator[Iterator[Any]]:
    """Run the second build and yield what it says, as it does; end it, and wait until all of it has ended."""
    read, write = os.pipe()
    code = f"import sys; sys.path[:0] = [{_PARENT!r}]; from forgefile.verbs import verify; verify.again({write})"
    with open(read, "rb") as stream, open(os.memfd_create("orders"), "w+b") as given:
        pickle.dump(orders, given)
        given.seek(0)
        try:
            process = subprocess.Popen(
                (sys.executable, "-c", code), stdin=given, env=_environment(), pass_fds=(write,), start_new_session=True
            )
        finally:
            os.close(write)
        try:
            yield _messages(stream)
        finally:
            process.terminate()
            while stream.read(1 << 16):  # until the last of its processes has ended
                pass
            process.wait()


def _messages(stream: BinaryIO) -> Iterator[Any]:
    with suppress(EOFError):
        while True:
            yield pickle.load(stream)  # noqa: S301  from our own child


def _environment() -> dict[str, str]:
    """Return the environment, with another time zone and locale."""
    zone = "<+14>-14" if time.localtime().tm_gmtoff != 14 * 3600 else "<-12>12"
    locale = "C.UTF-8" if os.environ.get("LC_ALL") == "C" else "C"
    return {**os.environ, "TZ": zone, "LC_ALL": locale, "LANG": locale}


# The second build ----------------------------------------------------------------------------------------------------


def again(write: int) -> None:
    """Be the second build: read orders from standard input, and say through a pipe what comes of them."""
    orders: _Orders = pickle.load(sys.stdin.buffer)  # noqa: S301  from our own parent
    with open(write, "wb", buffering=0) as stream:

        def say(message: Any) -> None:
            stream.write(pickle.dumps(message))

        try:
            _build_again(orders, say)
        except ForgeError as error:
            say(error)
        except OSError as error:
            say(BuildError(f"the second build cannot be made: {error}"))


def _build_again(orders: _Orders, say: Any) -> None:
    varied, kept = _vary(orders)
    say(events.Verifying(t=time.monotonic() - orders.began, varied=varied, kept=kept))
    store = _store_in(orders.folder)
    project = engine.Project.open(
        _elsewhere(orders, orders.file), orders.definitions, read_only=False, store=store
    )
    if orders.key is not None:
        with open(os.open(os.path.join(store, KEY), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(orders.key)
    for shared in filter(os.path.isdir, orders.shared):
        shutil.copytree(shared, os.path.join(store, CACHE, os.path.basename(shared)), copy_function=os.link)

    def tell(event: events.Event) -> None:
        match event:
            case events.Built() | events.Restored():
                target = project.graph.targets[event.target]
                known = project.planner
                wall_s = event.wall_s if isinstance(event, events.Built) else 0.0
                say(_Made(target.name, wall_s, known.results[target], known.manifests[target]))
            case events.Finished():
                pass
            case _:
                say(event)

    settings = engine.Settings(
        orders.jobs or len(os.sched_getaffinity(0)), every_line=orders.every_line, place=False, shuffled=True
    )
    wanted = project.graph.select(orders.targets)
    engine.build(project, wanted, settings, tell=tell, clock=lambda: time.monotonic() - orders.began)


def _vary(orders: _Orders) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Make as much another as this machine allows; return in words what is, and what is not.

    The environment is another already. Raises OSError and `UsageError`.
    """
    varied, kept = list(_ALWAYS), list[str]()
    cores = sorted(os.sched_getaffinity(0))
    (varied if cores[1:] else kept).append("number of cores")
    os.sched_setaffinity(0, cores[:1])
    (varied if _change_user() else kept).append("user")
    linux.die_with_parent()  # what a new user namespace undoes
    if os.getppid() != orders.parent:
        sys.exit(1)
    linux.leave_mounts()
    here = os.getcwd()
    os.mkdir(_elsewhere(orders, ""))
    linux.bind("/", _elsewhere(orders, ""), read_only=True)
    os.chdir(_elsewhere(orders, here))
    if os.umask(_UMASKS[0]) == _UMASKS[0]:
        os.umask(_UMASKS[1])
    return tuple(varied), tuple(kept)


def _change_user() -> bool:
    """Become root of a user namespace; return whether steps have another user by that."""
    if userns.needed():
        userns.enter()
        return False
    with suppress(OSError):
        userns.leave_root()
        return True
    return False


def _elsewhere(orders: _Orders, path: str) -> str:
    """Return where the second build sees an absolute path of the host."""
    return f"{orders.folder}/host{path}"
