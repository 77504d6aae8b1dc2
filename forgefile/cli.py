"""From argv to the engine. The only place that prints errors and decides the exit status.

Status: 0 done; 1 a target failed; 2 usage or Forgefile; 3 a bug in forge; 130 interrupted. Everything that a build
with nothing to do does not need is imported where it is used.
"""

import argparse
import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, Any, NoReturn

from forgefile.errors import ForgeError, OvertakenError, StoreError, UsageError, did_you_mean, nearest
from forgefile.forge import VERBS

if TYPE_CHECKING:
    from forgefile.engine import Project
    from forgefile.model import Target
    from forgefile.nursery import Nursery
    from forgefile.start import Start

_BEGAN = time.monotonic()
_EXAMPLES = (
    ("forge", "build what the Forgefile calls its default"),
    ("forge disk.img", "build one target and all that it needs"),
    ("forge 'arm64/*'", "build all targets whose name matches"),
    ("forge -n disk.img", "say what would be built, why, and how long that takes"),
    ("forge -D suite=trixie disk.img", "set an option of the Forgefile"),
)
_ROOM = "'forge gc' removes the results of earlier builds"
_FEWER = "run fewer targets at once (-j), or allow more open files (ulimit -n)"
_GAVE_UP = {errno.ENOSPC: _ROOM, errno.EDQUOT: _ROOM, errno.EIO: "the kernel's log (dmesg) may say why",
            errno.EMFILE: _FEWER, errno.ENFILE: _FEWER}  # fmt: skip
"""What a disk and the kernel may answer to any call, and a hint."""
_VALUED = ("-j", "--jobs", "-D", "--define", "-f", "--file", "-C", "--directory", "--trace", "--store", "--max-size",
           "--keep", "--then", "--format")  # fmt: skip


def run(start: "Start") -> NoReturn:
    """Be the command `forge` and end the process; `start` is what is known of it already."""
    status = main(start=start)
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def main(argv: Sequence[str] | None = None, *, start: "Start | None" = None) -> int:
    """Run forge with an argument list (that of the process by default) and return the exit status."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    return guarded(lambda: _main(arguments, start))


def guarded(action: Callable[[], int]) -> int:
    """Return the exit status that an action returns; or print what went wrong, and return the status of that."""
    try:
        return action()
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001  that is sorted out there
        return told(error)


def told(error: Exception) -> int:
    """Print what is to be said of what ended forge; return the exit status."""
    if isinstance(error, ForgeError):
        _flush()
        sys.stderr.write(described(error))
        if os.environ.get("GITHUB_ACTIONS") == "true":
            from forgefile.report.github import annotation  # noqa: PLC0415

            sys.stderr.write(annotation("error", error.message, location=str(error.location or "")) + "\n")
        return error.status
    if isinstance(error, BrokenPipeError):
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    _flush()
    if isinstance(error, OSError) and error.errno in _GAVE_UP:
        where = f"{error.filename}: " if error.filename else ""
        return told(StoreError(f"{where}{error.strerror}", hint=_GAVE_UP[error.errno]))
    import traceback  # noqa: PLC0415

    # what gets here is our fault
    sys.stderr.write("".join(traceback.format_exception(error)))
    sys.stderr.write("forge: this is a bug in forge, not in your Forgefile. Please report it.\n")
    return 3


def _flush() -> None:
    with suppress(OSError, ValueError):
        sys.stdout.flush()


def described(error: ForgeError) -> str:
    """Return an error as text: where, what, the Forgefile's own line, and the hint."""
    where = f"{error.location}: " if error.location else ""
    text = f"forge: {where}{error.message}\n"
    if error.location:
        with suppress(OSError, IndexError), open(error.location.file, encoding="utf-8", errors="replace") as stream:
            text += f"  {error.location.line:>4} | {stream.readlines()[error.location.line - 1].rstrip()}\n"
    if error.hint:
        text += f"  hint: {error.hint}\n"
    return text


def _main(arguments: list[str], start: "Start | None") -> int:
    if arguments[:1] == ["help"]:
        if arguments[1:] and arguments[1] not in VERBS:
            raise UsageError(f"there is no command '{arguments[1]}'", hint=did_you_mean(arguments[1], VERBS))
        arguments = [*arguments[1:], "--help"]
    verb, rest = _verb(arguments)
    options = _parser(verb).parse_intermixed_args(rest)
    try:
        options.stand = os.getcwd()
    except OSError:
        raise UsageError("the current folder was removed", hint="cd to another one") from None
    if options.directory:
        try:
            os.chdir(options.directory)
        except OSError as error:
            raise UsageError(f"{options.directory}: {error.strerror}") from None
    if verb == "build":
        try:
            return _build(options, start)
        except OvertakenError:
            return _build(options, start._replace(snapshot=None) if start else None)
    from forgefile import verbs  # noqa: PLC0415

    return verbs.run(verb, options)


def _verb(arguments: list[str]) -> tuple[str, list[str]]:
    """Take the verb out of the arguments: the first word that is neither an option nor its value."""
    skip = False
    for index, word in enumerate(arguments):
        if skip:
            skip = False
        elif word == "--":
            break
        elif word.startswith("-") and word != "-":
            skip = word in _VALUED
        elif word in VERBS:
            return word, arguments[:index] + arguments[index + 1 :]
        else:
            break
    return "build", arguments


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Lays out help in the width of the terminal, which argparse asks `shutil` for, at every start.

    To import that takes 2 ms, and each process that is forked later carries the libraries that it loads.
    """

    def __init__(self, prog: str) -> None:
        columns = os.environ.get("COLUMNS", "")
        if not columns.isdecimal() or not int(columns):
            columns = "80"
            with suppress(OSError, ValueError, AttributeError):
                columns = str(os.get_terminal_size(sys.stdout.fileno()).columns or columns)
        super().__init__(prog, width=int(columns) - 2)


class _Parser(argparse.ArgumentParser):
    def parse_known_intermixed_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Take off what follows `--`: no options, or what a verb passes on, one with a default for `passed`."""
        words = list(args or ())
        passes = self.get_default("passed") is not None
        takes = any(action.dest == "words" for action in self._actions)
        cut = words.index("--") if "--" in words and (passes or takes) else len(words)
        options, unknown = super().parse_known_intermixed_args(words[:cut], namespace)
        if passes and cut < len(words):
            options.passed = tuple(words[cut + 1 :])
        elif cut < len(words):
            options.words += words[cut + 1 :]
        return options, unknown

    def format_help(self) -> str:
        if self.epilog is None:
            self.epilog = _commands()
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"{self.prog} --help")


def _wanted(project: "Project", words: list[str]) -> "Sequence[Target]":
    """Return the targets that are named; a command whose name is near the first word may have been meant."""
    try:
        return project.wanted(words)
    except UsageError as error:
        near = nearest(words[0], VERBS, 0.75)
        if near is None or words[0] in project.graph.targets:
            raise
        raise UsageError(error.message, hint=f"did you mean the command '{near}'?") from None


def _commands() -> str:
    """Return what `forge --help` ends with."""
    from forgefile import verbs  # noqa: PLC0415

    build = "build [TARGET…]", "build targets and what they need (the default command)"
    rows = [build, *verbs.summaries(), ("help [COMMAND]", "say what a command does and takes")]
    lines = [f"  {line}" for line in verbs.aligned(rows)]
    return "\n".join(["commands:", *lines, "", verbs.examples(_EXAMPLES)])


def _parser(verb: str) -> argparse.ArgumentParser:
    """Return the parser of one verb's arguments."""
    parser = _Parser(
        prog="forge" if verb == "build" else f"forge {verb}",
        formatter_class=_Formatter,
        allow_abbrev=False,
        add_help=True,
    )
    add = parser.add_argument
    add("-C", "--directory", metavar="DIR", help="change to DIR first")
    add("-f", "--file", metavar="FILE", default="Forgefile.py", help="read FILE instead of Forgefile.py")
    add("--store", metavar="DIR", help="keep results in DIR; several projects may (default: $FORGE_STORE, or .forge)")
    add("-D", "--define", metavar="NAME=VALUE", action="append", default=[], help="set an option of the Forgefile")
    if verb in ("build", "verify", "watch"):
        add("-j", "--jobs", type=_jobs, metavar="N", help="run at most N targets at once (default: all cores)")
        add("--json", action="store_true", help="print one JSON object for each event")
    if verb == "build":
        parser.description = "Build operating system images: only what changed, and say why."
        parser.usage = "forge [OPTION…] [COMMAND] [TARGET…]"
        add("words", nargs="*", metavar="TARGET", help="names or globs; the Forgefile's default ones if none")
        add("-n", "--dry-run", action="store_true", help="say what would be done, why, and what that takes; do nothing")
        add("--resume", action="store_true", help="go on from the step that failed; what that makes is not clean")
        add("-k", "--keep-going", action="store_true", help="after a failure build what does not need it")
        add("--explain", action="store_true", help="say before each target for which reasons it runs")
        add("-q", "--quiet", action="store_true", help="print failures only")
        add("-v", "--verbose", action="store_true", help="print what the steps print")
        add("--trace", metavar="FILE", help="write a timeline that Perfetto (ui.perfetto.dev) opens")
        from forgefile import __version__  # noqa: PLC0415

        add("--version", action="version", version=f"forge {__version__}")
        return parser
    from forgefile import verbs  # noqa: PLC0415

    verbs.describe(verb, parser)
    return parser


def _jobs(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1, got {text!r}")
    return int(text)


def _build(options: argparse.Namespace, start: "Start | None") -> int:
    """Build, or say what would be built."""
    from forgefile.nursery import Nursery  # noqa: PLC0415

    with ExitStack() as stack:
        nursery = None if options.dry_run else stack.enter_context(closing(Nursery()))
        return _build_with(nursery, options, start)


def _build_with(nursery: "Nursery | None", options: argparse.Namespace, start: "Start | None") -> int:
    from forgefile import engine  # noqa: PLC0415
    from forgefile.report import EVERY_LINE, Verbosity, form_for, reporter  # noqa: PLC0415

    snapshot = start.snapshot if start else None
    project = engine.Project.open(
        options.file, options.define, read_only=options.dry_run, stand=options.stand, store=options.store,
        snapshot=snapshot,
    )  # fmt: skip
    wanted = _wanted(project, options.words)
    form = "json" if options.json else form_for(sys.stdout)
    verbosity: Verbosity = "quiet" if options.quiet else "verbose" if options.verbose else "normal"
    display = reporter(
        form, sys.stdout, verbosity=verbosity, dry_run=options.dry_run, explain=options.explain, trace=options.trace
    )

    def clock() -> float:
        return time.monotonic() - _BEGAN

    settings = engine.Settings(
        options.jobs or len(os.sched_getaffinity(0)),
        options.keep_going,
        every_line=options.verbose or form in EVERY_LINE,
        began_ns=start.began_ns if start else 0,
        key=start.key if start else None,
        resume=options.resume,
    )
    try:
        project.planner.resumes = options.resume
        if options.dry_run:
            engine.foretell(project, wanted, settings, tell=display.report, clock=clock)
            return 0
        status = engine.build(project, wanted, settings, tell=display.report, clock=clock, nursery=nursery)
        project.use(wanted)
        return status
    finally:
        display.close()
        project.close()
