"""forge watch: build targets, and again whenever a source, the Forgefile or what it looked at has changed.

Files are waited for that are still being written. A change during a build ends what it makes wrong, and what is still
right is built to its end.
"""

import argparse
import os
import signal
import stat
import sys
import time
from collections.abc import Collection, Iterable
from contextlib import closing
from typing import TYPE_CHECKING

from forgefile import engine, events, rebuild
from forgefile.channel import readable
from forgefile.report.words import names

if TYPE_CHECKING:
    from forgefile.following import Following
    from forgefile.watch import Roots, Watch

SYNOPSIS = "watch [TARGET…]"
SUMMARY = "build, and again whenever something changes"
EXAMPLES = (("forge watch disk.img", "save a file, and the image is built"),
            ("forge watch disk.img --then 'forge boot disk.img'", "and booted"))  # fmt: skip
_QUIET_S = 0.05
"""How long nothing may have changed before a build begins: so one save, or one checkout, is one build."""
_AGAIN_S = 1.0
"""After what time it is looked again who has a file open that nobody closes."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    add = parser.add_argument
    add("words", nargs="*", metavar="TARGET", help="names or globs (default: the Forgefile's default ones)")
    add("--then", metavar="CMD", help="run a shell command after each build that went well; it is ended with all that "
        "it started when something changes")  # fmt: skip
    add("-k", "--keep-going", action="store_true", help="after a failure build what does not need it")
    add("--explain", action="store_true", help="say before each target for which reasons it runs")
    add("-q", "--quiet", action="store_true", help="print failures only")
    add("-v", "--verbose", action="store_true", help="print what the steps print")


def run(options: argparse.Namespace) -> int:
    """Build and watch until something is fundamentally wrong, or for ever; return the exit status."""
    from forgefile.cli import guarded  # noqa: PLC0415  it imports this module
    from forgefile.watch import Watch  # noqa: PLC0415  inotify is needed for nothing else

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # and not nohup(1) has it ignored
            signal.signal(number, signal.default_int_handler)
    with closing(Watch()) as watch:
        session = _Session(options, watch, guarded)
        try:
            return session.run()
        finally:
            session.close()


class _Session:
    """What is built and waited for."""

    def __init__(self, options: argparse.Namespace, watch: "Watch", guarded: rebuild.Guarded) -> None:
        self._options = options
        self._watch = watch
        self._guarded = guarded
        self._build: rebuild.Build | None = None
        self._command: Following | None = None
        self._is_command_due = True
        """Whether the command is to run after the next build that goes well."""
        self._paths: dict[str, None] = {}
        """What changed since the latest build began."""
        self._roots: Roots | None = None
        self._began = time.monotonic()
        self._display = rebuild.display_of(options)
        self._reader = [1] if stat.S_ISFIFO(os.fstat(1).st_mode) else []
        """Where it shows that nobody reads what is printed any more."""

    def run(self) -> int:
        """Build and wait by turns; return the exit status of a first build that shows that forge was called wrong."""
        is_first = True
        while True:
            status, refused = self._build_once(evaluates=is_first or not self._are_in_sources(self._paths))
            if is_first and status not in (0, 1, rebuild.INTERRUPTED) and not (refused and refused.is_located):
                return status
            is_first = False
            if not (status == rebuild.INTERRUPTED or self._paths or self._watch.changed):
                self._tell(events.Waiting(t=self._clock(), sources=self._sources()))
                if status == 0 and self._options.then is not None and self._is_command_due:
                    self._follow()
            self._wait_for_change(is_due=status == rebuild.INTERRUPTED)
            self._began = time.monotonic()
            if self._paths:
                self._tell(events.Changed(t=0.0, paths=tuple(map(self._shown, self._paths))))

    def close(self) -> None:
        """End what runs."""
        if self._build is not None:
            self._build.end()
        self._end_command(is_stopped=True)
        self._display.close()

    def _tell(self, event: events.Event) -> None:
        self._display.report(event)

    def _refuse_left(self, ready: Collection[int]) -> None:
        """Raise BrokenPipeError when nobody reads what is printed any more."""
        if any(each in ready for each in self._reader):
            raise BrokenPipeError

    def _clock(self) -> float:
        return time.monotonic() - self._began

    def _shown(self, path: str) -> str:
        return os.path.relpath(path, self._options.stand)

    def _are_in_sources(self, paths: Iterable[str]) -> bool:
        """Tell whether all of some paths are sources, or lie in some."""
        trees = tuple(os.path.realpath(tree) for tree in self._roots.trees) if self._roots else ()
        return all(any(f"{path}/".startswith(f"{tree}/") for tree in trees) for path in paths)

    # Building

    def _build_once(self, *, evaluates: bool) -> tuple[int, rebuild.Refused | None]:
        """Build; return the exit status, and what says that it did not begin. `paths` has then what changed since."""
        self._paths.clear()
        began_ns, refused = time.time_ns(), None
        build = self._build = rebuild.Build(self._options, self._watch.close, self._guarded, evaluates=evaluates)
        _prepare()
        deadline: float | None = None
        while True:
            timeout = None if deadline is None else max(deadline - time.monotonic(), 0)
            ready = readable([build.ending, *build.speaking, self._watch.fileno(), *self._reader], timeout)
            self._refuse_left(ready)
            for message in build.said():
                if isinstance(message, rebuild.Looked):
                    self._place(message, began_ns)
                elif isinstance(message, rebuild.Busy):
                    self._end_command()
                    self._is_command_due = True
                else:
                    refused = message
            if build.ending in ready:
                status, self._build = build.wait(), None
                self._watch.read()
                return status, refused
            if self._watch.read() and self._watch.changed:
                deadline = time.monotonic() + _QUIET_S
            elif deadline is not None and time.monotonic() >= deadline:
                deadline = self._tell_build(build)

    def _tell_build(self, build: rebuild.Build) -> float | None:
        """Tell a build what changed; return when to look again if that is not whole by now."""
        if self._watch.unfinished():
            return time.monotonic() + _AGAIN_S
        new = dict(self._watch.changed)
        self._watch.changed.clear()
        self._paths.update(new)
        what = names([self._shown(path) for path in new])
        build.tell(engine.Newer(what, rebuild.foreseen(self._options, self._guarded)))
        return None

    def _place(self, looked: rebuild.Looked, began_ns: int) -> None:
        roots = looked.roots
        if not looked.is_whole and self._roots is not None:
            roots = roots._replace(trees=self._roots.trees, ours=self._roots.ours)
        if roots != self._roots:
            self._roots = roots
            self._watch.place(roots, began_ns)

    # Waiting

    def _wait_for_change(self, *, is_due: bool) -> None:
        """Wait until something has changed, unless that is known, and nobody is writing any more.

        `paths` has then what changed.
        """
        deadline = time.monotonic() + _QUIET_S if is_due or self._paths or self._watch.changed else None
        unfinished: dict[str, str] = {}
        while True:
            timeout = None if deadline is None else max(deadline - time.monotonic(), 0)
            ending = [self._command.ending] if self._command else []
            ready = readable([self._watch.fileno(), *ending, *self._reader], timeout)
            self._refuse_left(ready)
            if self._command and self._command.ending in ready:
                self._end_command()
            elif ready:
                if self._watch.read() and self._watch.changed:
                    deadline = time.monotonic() + _QUIET_S
            elif now := self._watch.unfinished():
                if now.keys() != unfinished.keys():
                    told = tuple(f"{self._shown(path)} ({who})" for path, who in now.items())
                    self._tell(events.Waiting(t=self._clock(), unfinished=told))
                unfinished, deadline = now, time.monotonic() + _AGAIN_S
            else:
                self._paths.update(self._watch.changed)
                self._watch.changed.clear()
                return

    def _sources(self) -> tuple[str, ...]:
        """Return what is waited for, as the user would write it."""
        if self._roots is None:
            return (self._options.file,)
        root = os.path.dirname(os.path.abspath(self._options.file))
        read = [path for path in self._roots.paths if path.startswith(f"{root}/") and os.path.isfile(path)]
        return tuple(dict.fromkeys(map(self._shown, (*read, *self._roots.trees))))

    # The command

    def _follow(self) -> None:
        from forgefile.following import Following  # noqa: PLC0415  only --then needs it

        self._tell(events.Then(t=self._clock(), command=self._options.then))
        self._command = Following(self._options.then, self._options.stand, aside=self._options.json)
        self._is_command_due = False

    def _end_command(self, *, is_stopped: bool = False) -> None:
        if self._command is not None:
            command, self._command = self._command, None
            is_stopped = is_stopped or not readable([command.ending], 0)
            status = command.end(but=self._build.process if self._build else None)
            self._tell(events.Then(t=self._clock(), command=self._options.then, status=status, stopped=is_stopped))


def _prepare() -> None:
    """Import, while the first build runs, what it and those that follow need; their processes have it from here."""
    from forgefile import executor, history, loader, resume, rules  # noqa: F401, PLC0415

    if sys.stdout.isatty():
        from forgefile.report import foot, terminal  # noqa: F401, PLC0415
    else:
        from forgefile.report import plain  # noqa: F401, PLC0415
