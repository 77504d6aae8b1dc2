"""A build of a watch, in a process of its own that is forked from the one that watches; and the plan of a change.

Owns those processes and what is said between them. Unaware of what is watched, of when a build begins, and of what it
leads to.
"""

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, NamedTuple

from forgefile import engine, events, linux
from forgefile.cache.layout import SNAPSHOTS
from forgefile.cache.snapshot import Snapshot, boot, generation, key_of, load
from forgefile.channel import Channel, readable
from forgefile.errors import ForgeError, OvertakenError
from forgefile.fingerprint import fingerprint
from forgefile.model import Secret, Source, Target
from forgefile.nursery import Nursery
from forgefile.reads import Reads
from forgefile.report import EVERY_LINE, Form, Verbosity, form_for, reporter

if TYPE_CHECKING:
    from forgefile.watch import Roots

INTERRUPTED = 130
_PATIENCE_S = 10
"""How long to wait for the plan of a change, and for the end of a build that was interrupted."""
Guarded = Callable[[Callable[[], int]], int]
"""What runs an action, prints what goes wrong, and returns the exit status."""


class Looked(NamedTuple):
    """What a build looked at."""

    roots: "Roots"
    is_whole: bool
    """Whether the Forgefile could be evaluated."""


class Refused(NamedTuple):
    """A build did not begin."""

    is_located: bool
    """Whether something in the Forgefile is wrong, and not how forge was called."""


class Busy(NamedTuple):
    """A build has something to do."""


class Build:
    """A build in a process of its own, with the options of `forge watch`; `unwatch` is called there first.

    `evaluates`: it evaluates the Forgefile, whatever snapshot there is, and says what that looked at.
    """

    def __init__(
        self, options: argparse.Namespace, unwatch: Callable[[], None], guarded: Guarded, *, evaluates: bool
    ) -> None:
        self.channel, theirs = _channels()
        self._has_said_all = False
        sys.stdout.flush()

        def action() -> int:
            self.channel.close()
            unwatch()
            return _build(options, theirs, evaluates=evaluates)

        self.process = _forked(action, guarded)
        theirs.close()
        self.ending = os.pidfd_open(self.process)

    @property
    def speaking(self) -> list[int]:
        """What can be read when it says something."""
        return [] if self._has_said_all else [self.channel.fileno()]

    def said(self) -> Iterator[Looked | Refused | Busy]:
        """Yield what it has said."""
        try:
            while not self._has_said_all and readable([self.channel.fileno()], 0):
                yield self.channel.receive()
        except (EOFError, OSError):
            self._has_said_all = True

    def tell(self, newer: engine.Newer) -> None:
        """Tell it what has changed."""
        with suppress(OSError):
            self.channel.send(newer)

    def wait(self) -> int:
        """Return its exit status, when it has ended."""
        os.close(self.ending)
        self.channel.close()
        status = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        return status if status >= 0 else INTERRUPTED

    def end(self) -> None:
        """Interrupt it, if nobody has, and wait for its end."""
        self.channel.close()
        with suppress(KeyboardInterrupt):
            readable([self.ending], _PATIENCE_S)
        with suppress(ProcessLookupError):
            os.kill(self.process, signal.SIGKILL)
        os.close(self.ending)
        os.waitpid(self.process, 0)


def _channels() -> tuple[Channel, Channel]:
    """Return the two ends of a way between two processes."""
    ours, theirs = socket.socketpair()
    return Channel(ours.detach()), Channel(theirs.detach())


def _forked(action: Callable[[], int], guarded: Guarded) -> int:
    """Have a process of its own do something; return its id. It ends with this one, and with the action's status."""
    if process := os.fork():
        return process
    status = INTERRUPTED
    try:
        linux.die_with_parent()
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        status = guarded(action)
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
    finally:
        os._exit(status)


def _build(options: argparse.Namespace, channel: Channel, *, evaluates: bool) -> int:
    """Build and say what was looked at; return the exit status."""
    began_ns = time.time_ns()
    with ExitStack() as stack:
        nursery = stack.enter_context(closing(Nursery()))
        snapshot = None if evaluates else _snapshot(options)
        try:
            return _build_with(nursery, options, channel, snapshot, began_ns)
        except OvertakenError:
            return _build_with(nursery, options, channel, None, began_ns)
        except ForgeError as error:
            _say(channel, Refused(error.location is not None))
            raise


def _say(channel: Channel, what: Looked | Refused | Busy) -> None:
    """Tell the process that watches; when it is gone, the build is interrupted."""
    try:
        channel.send(what)
    except OSError:
        raise KeyboardInterrupt from None


def _snapshot(options: argparse.Namespace) -> Snapshot | None:
    """Return the snapshot of what is built, compared with what is there now, if there is one and it is not void."""
    store = engine.store_of(options.file, options.store)
    found = load(os.path.join(store, SNAPSHOTS), key_of(options.file, options.define, options.words))
    now = generation(store, found.facts.lock) if found else None
    return found if found is not None and now is not None and found.look(now, boot()) else None


def _build_with(
    nursery: Nursery, options: argparse.Namespace, channel: Channel, snapshot: Snapshot | None, began_ns: int
) -> int:
    began, reads = time.monotonic(), Reads()
    try:
        project = engine.Project.open(
            options.file, options.define, read_only=False, stand=options.stand, store=options.store,
            snapshot=snapshot, reads=reads,
        )  # fmt: skip
        wanted = project.wanted(options.words)
    except ForgeError:
        _say(channel, _looked(options, reads, None, ()))
        raise
    if project.part is None:
        _say(channel, _looked(options, reads, project, project.graph.closure(wanted)))
    display, has_begun = display_of(options), False

    def tell(event: events.Event) -> None:
        nonlocal has_begun
        if not has_begun and isinstance(event, events.Started | events.Restored):
            has_begun = True
            _say(channel, Busy())
        display.report(event)

    settings = engine.Settings(
        options.jobs or len(os.sched_getaffinity(0)), options.keep_going,
        every_line=options.verbose or _form(options) in EVERY_LINE, began_ns=began_ns,
        key=key_of(options.file, options.define, options.words), newer=channel,
    )  # fmt: skip
    try:
        status = engine.build(
            project, wanted, settings, tell=tell, clock=lambda: time.monotonic() - began, nursery=nursery
        )
        project.use(wanted)
        return status
    finally:
        display.close()
        project.close()


def _looked(
    options: argparse.Namespace, reads: Reads, project: engine.Project | None, targets: Iterable[Target]
) -> Looked:
    """Return what has to be watched for targets and for what evaluating the Forgefile has read."""
    from forgefile.watch import Roots  # noqa: PLC0415  not where only its help is asked for

    trees: dict[str, None] = {}
    secrets: dict[str, None] = {}
    ours: tuple[str, ...] = ()
    if project is not None:
        planner = project.planner
        taken = [artifact for target in targets for artifact in target.inputs]
        trees = {planner.source_path(each): None for each in taken if isinstance(each, Source)}
        secrets = {os.path.join(project.root, each.file): None for each in taken
                   if isinstance(each, Secret) and each.file}  # fmt: skip
        files = [target for target in project.graph.targets.values() if target.output == "file"]
        ours = project.store.root, *map(planner.place_of, files)
    else:
        ours = (engine.store_of(options.file, options.store),)
    paths = tuple(dict.fromkeys((*reads.paths, *secrets)))
    return Looked(Roots(tuple(trees), paths, tuple(reads.folders), ours), project is not None)


def foreseen(options: argparse.Namespace, guarded: Guarded) -> Mapping[str, str] | None:
    """Return the fingerprints of what would be built now, as far as they are known; None when nothing can be said."""
    ours, theirs = _channels()
    process = _forked(lambda: _foresee(options, theirs), guarded)
    theirs.close()
    try:
        found: Mapping[str, str] | None = ours.receive() if readable([ours.fileno()], _PATIENCE_S) else None
    except EOFError:
        found = None
    finally:
        ours.close()
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    return found


def _foresee(options: argparse.Namespace, channel: Channel) -> int:
    """Send what would be built now. What is wrong is told by the next build, and nothing by this."""
    for number in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), number)
    project = engine.Project.open(
        options.file, options.define, read_only=True, stand=options.stand, store=options.store
    )
    project.planner.plan(project.wanted(options.words))
    channel.send({target.name: fingerprint(manifest) for target, manifest in project.planner.manifests.items()})
    return 0


def _form(options: argparse.Namespace) -> Form:
    return "json" if options.json else form_for(sys.stdout)


def display_of(options: argparse.Namespace) -> events.Reporter:
    """Return the display that the options of `forge watch` ask for."""
    verbosity: Verbosity = "quiet" if options.quiet else "verbose" if options.verbose else "normal"
    return reporter(_form(options), sys.stdout, verbosity=verbosity, explain=options.explain)
