"""What the displays for people say: the wording of every event, of durations and of sizes.

An `Account` turns events into lines of spans, each with a tone. Unaware of streams, colours and terminals, so that a
terminal and a log say the same words.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from forgefile.events import (
    Action,
    Built,
    Changed,
    Current,
    Differs,
    Downloading,
    Event,
    Failed,
    Finished,
    Note,
    Output,
    Planned,
    Predicted,
    Restored,
    Retrying,
    Same,
    Skipped,
    Started,
    StepStarted,
    TargetEvent,
    Then,
    Verified,
    Verifying,
    Waiting,
)
from forgefile.report import Verbosity

Tone = Literal["text", "name", "good", "kept", "bad", "warning", "aside", "reason"]


class Span(NamedTuple):
    """A piece of a line, and how it is meant."""

    text: str
    tone: Tone = "text"


Line = tuple[Span, ...]


def _line(text: str, tone: Tone = "text") -> Line:
    return (Span(text, tone),)


REASONS_SHOWN = 10
"""How many reasons of one target a table shows before it says how many more there are."""

PLACES_SHOWN = 20
"""Of how many files the end of a run says where they are."""

ACTIONS: dict[Action, Span] = {
    "run": Span("would run", "good"),
    "maybe": Span("may run", "warning"),
    "restore": Span("would be restored", "kept"),
    "fail": Span("would fail", "bad"),
    "none": Span("up to date", "aside"),
}

_LACKING = {"failed": " failed", "skipped": " was skipped", "differs": " differs"}
_INTERRUPTED = 130
_MINUTE, _HOUR = 60, 3600
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor movements (ECMA-48, 5.4)
    r"|\x1b[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\|$)"  # OSC, DCS, SOS, PM, APC: titles, links
    r"|\x1b[ -/]*[0-~]"  # other escapes
)
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")


def duration(seconds: float) -> str:
    """Return a duration in words: `1.9 s`, `2 min 3 s`, `1 h 2 min`."""
    if round(seconds, 1) < _MINUTE:
        return f"{max(seconds, 0):.1f} s"
    return clock(seconds)


def clock(seconds: float) -> str:
    """Return a duration in words and whole units, for a display that counts."""
    whole = max(round(seconds), 0)
    if whole < _MINUTE:
        return f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"


def stopwatch(seconds: float) -> str:
    """Return a duration in digits, of which the last alone moves: `0:04`, `12:31`, `1:02:31`."""
    whole = max(int(seconds), 0)
    minutes = f"{whole % _HOUR // _MINUTE}:{whole % _MINUTE:02}"
    return minutes if whole < _HOUR else f"{whole // _HOUR}:{minutes:>05}"


def size(octets: int) -> str:
    """Return a size in bytes in words: `812 B`, `3.1 KiB`, `412 MiB`."""
    if octets < 1024:  # noqa: PLR2004  the unit's definition
        return f"{octets} B"
    amount, *larger = (octets / 1024**power for power in (1, 2, 3, 4))
    units = ["KiB", "MiB", "GiB", "TiB"]
    while round(amount) >= 1024 and larger:  # noqa: PLR2004  the unit's definition
        amount, *larger = larger
    unit = units[-1 - len(larger)]
    return f"{amount:.1f} {unit}" if round(amount, 1) < 10 else f"{amount:.0f} {unit}"  # noqa: PLR2004  two digits


def printable(text: str) -> str:
    """Return what a line of a program's output would show, without what would move a cursor or hide text.

    Of a line that was overwritten in place (a progress meter's carriage returns), the last state is shown.
    """
    text = _ESCAPES.sub("", text.rstrip("\r\n")).rpartition("\r")[2]
    return _CONTROLS.sub("", text.replace("\n", " ")).expandtabs()


def escaped(name: str) -> str:
    """Return a name of a file with all that does not show as itself in Python's escapes: two names stay two."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in name)


def pasteable(command: str) -> str:
    """Return a command for display with its line ends, which are part of what a shell reads."""
    return _CONTROLS.sub("", _ESCAPES.sub("", command))


def names(words: Sequence[str], shown: int = 3) -> str:
    """Return an enumeration: `a`, `a and b`, `a, b, c and 4 more`."""
    listed = list(words) if len(words) <= shown + 1 else [*words[:shown], f"{len(words) - shown} more"]
    return " and ".join((", ".join(listed[:-1]), listed[-1]) if len(listed) > 1 else listed)


def text(line: Line) -> str:
    """Return the words of a line."""
    return "".join(span.text for span in line)


class Account:
    """Tells a run in lines.

    `starts` gives each target a line when it begins, with its reason; without them the reason stands where it ends.
    `explain` does so, too, and tells every reason. `quiet` tells of failures only, `verbose` adds steps, output, every
    reason and what was up to date.
    """

    def __init__(
        self, *, verbosity: Verbosity = "normal", dry_run: bool = False, explain: bool = False, starts: bool = True
    ) -> None:
        self._quiet = verbosity == "quiet"
        self._verbose = verbosity == "verbose"
        self._dry_run = dry_run
        self._starts = starts or explain
        self._all_reasons = explain or self._verbose
        self._plans: list[Planned] = []
        self._prediction: Predicted | None = None
        self._reasons: dict[str, tuple[str, ...]] = {}
        self._fetched: dict[str, int] = {}
        self._ended: dict[str, str] = {}
        self._places: dict[str, str] = {}

    def lines(self, event: Event) -> tuple[Line, ...]:
        """Return what there is to say of an event."""
        if isinstance(event, Planned):
            self._ended[event.target] = ""
        elif isinstance(event, Predicted):
            self._prediction = event
        told = tuple(self._tell(event))
        is_bad = isinstance(event, Failed) or (isinstance(event, Then) and event.status is not None)
        return told if is_bad or not self._quiet else ()

    def rest(self) -> tuple[Line, ...]:
        """Return what is still to be said when the events end: the table of a dry run that was cut short."""
        plans, self._plans = self._plans, []
        return () if self._quiet else tuple(plan_table(plans, self._prediction, everything=self._all_reasons))

    def _tell(self, event: Event) -> Iterator[Line]:
        match event:
            case Planned() if self._dry_run:
                self._plans.append(event)
            case Started():
                self._reasons[event.target] = event.reasons
                if self._starts:
                    yield from self._with_reasons((Span("building "), Span(event.target, "name")), event.reasons)
            case Downloading():
                self._fetched[event.target] = event.download_bytes
            case StepStarted() | Output() if self._verbose:
                yield _detail(event)
            case Retrying() | Note() | Verifying() | Verified() | Waiting() | Changed() | Then():
                yield from _remark(event)
            case Finished() if self._dry_run:
                yield from self.rest()
            case Finished():
                yield from self._summary(event)
            case Built() | Restored() | Current() | Skipped() | Failed() | Same() | Differs():
                yield from self._end(event)

    def _with_reasons(self, head: Line, reasons: Sequence[str]) -> Iterator[Line]:
        if self._all_reasons and len(reasons) > 1:
            yield *head, Span(":")
            yield from (_line(f"  {printable(reason)}", "aside") for reason in reasons)
        else:
            yield *head, *_because(reasons)

    def _end(self, event: Built | Restored | Current | Skipped | Failed | Same | Differs) -> Iterator[Line]:
        self._ended[event.target] = event.event
        if isinstance(event, Built | Restored | Current) and event.path is not None:
            self._places[event.target] = event.path
        name = Span(event.target, "name")
        match event:
            case Built():
                fetched = self._fetched.get(event.target)
                words = f" in {duration(event.wall_s)}, {size(event.size)}"
                words += f", {size(fetched)} downloaded" if fetched else ""
                words += "" if event.changed else ", same as before"
                reasons = () if self._starts else self._reasons.get(event.target, ())
                yield Span("built ", "good"), name, Span(words), *_because(reasons)
            case Restored():
                yield from self._with_reasons((Span("restored ", "kept"), name), event.reasons)
            case Current() if self._verbose:
                yield name, Span(" is up to date", "aside")
            case Skipped():
                yield from self._skipped(event)
            case Failed():
                yield from failure(event)
            case Same():
                aside = "" if event.compared else "; its rule does not promise the same bits"
                yield Span("same ", "good"), name, Span(f" in {duration(event.wall_s)}{aside}", "aside")
            case Differs():
                yield from _difference(event)

    def _skipped(self, event: Skipped) -> Iterator[Line]:
        name = Span(event.target, "name")
        if event.because is None:
            if event.target in self._reasons:
                yield Span("interrupted ", "warning"), name
        elif not event.outdated:
            why = _LACKING.get(self._ended.get(event.because, ""), "")
            yield Span("skipped ", "warning"), name, Span(f": {printable(event.because)}{why}")

    def _summary(self, event: Finished) -> Iterator[Line]:
        counted = ("failed", "skipped", "built", "restored", "current")
        told = ((getattr(event, word), "up to date" if word == "current" else word) for word in counted)
        counts = ", ".join(f"{count} {word}" for count, word in told if count)
        if event.status == _INTERRUPTED:
            head = Span("interrupted", "bad")
        elif event.status:
            head = Span("failed", "bad")
        elif event.built or event.restored:
            head = Span("done", "good")
        else:
            placed = [target for target in self._ended if target in self._places]
            yield _line(nothing_done(placed or list(self._ended), event.current), "aside")
            yield from _unclean(event)
            return
        yield head, Span(f" {'after' if event.status else 'in'} {duration(event.wall_s)}: {counts or 'nothing built'}")
        failed = [target for target, end in self._ended.items() if end == "failed"]
        if len(failed) > 1:
            yield _line(f"failed: {names(failed, shown=20)}", "bad")
        placed = [target for target in self._places if self._ended[target] != "current"]
        for target in placed[:PLACES_SHOWN]:
            yield Span(target, "name"), Span(f" is at {self._places[target]}")
        if len(placed) > PLACES_SHOWN:
            yield _line(f"and {len(placed) - PLACES_SHOWN} more, each at its name", "aside")
        yield from _unclean(event)


def _unclean(event: Finished) -> Iterator[Line]:
    """Yield what is not clean after a build that was resumed."""
    if event.unclean:
        told = f"not clean, since a build was resumed: {names(event.unclean, shown=20)}; forge without --resume"
        yield _line(f"{told} builds {'it' if len(event.unclean) == 1 else 'them'} whole", "warning")


def _remark(event: Retrying | Note | Verifying | Verified | Waiting | Changed | Then) -> Iterator[Line]:
    """Yield what is said in one line, of a target or of all."""
    match event:
        case Retrying():
            first = printable(event.message.partition("\n")[0])
            yield Span("retrying ", "warning"), Span(event.target, "name"), Span(f": {first}; {next_try(event)}")
        case Note():
            yield Span("note: ", "warning"), Span(printable(event.message))
        case Verifying():
            varied = names([each for each in event.varied if each != "clock"], shown=20)
            kept = f"; the same {names(event.kept)}" if event.kept else ""
            yield Span(f"building again, later and with another {varied}"), Span(kept, "aside")
        case Verified():
            yield _verdict(event)
        case Waiting() if event.unfinished:
            yield _line(f"waiting until {printable(names(event.unfinished))} is written", "aside")
        case Waiting():
            yield _line(f"waiting for changes of {printable(names(event.sources, shown=8))}; Ctrl-C ends", "aside")
        case Changed():
            yield Span("changed ", "kept"), Span(printable(names(event.paths)))
        case Then():
            yield from _following(event)


def _following(event: Then) -> Iterator[Line]:
    """Yield that the command after a build begins, or that it failed."""
    command = Span(printable(event.command), "name")
    if event.status is None:
        yield Span("$ ", "aside"), command
    elif event.status and not event.stopped:
        how = f"signal {-event.status}" if event.status < 0 else f"status {event.status}"
        yield Span("failed ", "bad"), command, Span(f": ended with {how}")


def _difference(event: Differs) -> Iterator[Line]:
    """Yield the block that tells of a target that came out otherwise."""
    yield Span("differs ", "bad"), Span(event.target, "name"), Span(f" after {duration(event.wall_s)}")
    yield from (_line(f"  {printable(words)}") for words in event.differences)
    if event.more:
        yield _line(f"  and {event.more} more", "aside")
    if event.report:
        yield _line("  diffoscope", "aside")
        yield from ((Span("    | ", "aside"), Span(printable(line))) for line in event.report)
    if event.location:
        yield Span("  declared at  ", "aside"), Span(event.location)
    yield Span("  first        ", "aside"), Span(event.first)
    yield Span("  second       ", "aside"), Span(event.second)
    if event.hint:
        yield Span("  hint         ", "aside"), Span(printable(event.hint), "warning")


def _verdict(event: Verified) -> Line:
    """Return the end of a verification in one line."""
    counted = (("same", event.same), ("differs" if event.differs == 1 else "differ", event.differs),
               ("failed", event.failed), ("not compared", event.skipped))  # fmt: skip
    counts = ", ".join(f"{number} {word}" for word, number in counted if number)
    if event.status == _INTERRUPTED:
        head = Span("interrupted", "bad")
    elif event.status:
        head = Span("not the same", "bad")
    else:
        head = Span("the same", "good")
    return head, Span(f" {'after' if event.status else 'in'} {duration(event.wall_s)}: {counts or 'nothing to build'}")


def nothing_done(wanted: Sequence[str], current: int) -> str:
    """Return what is said of a run that had nothing to do: which targets it was for, or how many are current."""
    if not wanted:
        return f"nothing to do: {count(current, 'target')} up to date" if current else "nothing to do"
    return f"{names(wanted)} {'is' if len(wanted) == 1 else 'are'} up to date"


def next_try(event: Retrying) -> str:
    """Return when a target is tried again, and how often it may be: `try 2 of 3 in 4 s`."""
    return f"try {event.number} of {event.tries} in {clock(event.wait_s)}"


def failure(event: Failed) -> Iterator[Line]:
    """Yield the block that tells of a failure: what, where, the command, its last words, where to look and a hint."""
    after = f" after {duration(event.wall_s)}" if event.wall_s else ""
    first, *more = event.message.splitlines() or [""]
    yield Span("failed ", "bad"), Span(event.target, "name"), Span(f"{after}: {printable(first)}")
    for line in more:
        yield _line(f"  {printable(line)}")
    if event.location:
        yield Span("  declared at  ", "aside"), Span(event.location)
    if event.command:
        head, *rest = pasteable(event.command).split("\n")
        yield Span("  command      ", "aside"), Span(head)
        yield from (_line(line) for line in rest)
    if event.tail:
        yield _line("  last output", "aside")
        yield from ((Span("    | ", "aside"), Span(printable(line))) for line in event.tail)
    if event.log:
        yield Span("  log          ", "aside"), Span(event.log)
    if event.kept:
        yield Span("  kept         ", "aside"), Span(event.kept)
    if event.hint:
        yield Span("  hint         ", "aside"), Span(printable(event.hint), "warning")


def columns(text: str) -> int:
    """Return how many columns of a terminal a printable text takes (Unicode Standard Annex 11)."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415  for what is not ASCII

    return cell_len(text)


def ljust(text: str, width: int) -> str:
    """Return a text with blanks after it, so that it takes at least so many columns."""
    return text + " " * (width - columns(text))


def plan_table(plans: Sequence[Planned], prediction: Predicted | None, *, everything: bool) -> Iterator[Line]:
    """Yield a dry run: target, action, how long it took last, and the reasons; then the totals and the prediction.

    A long list of reasons is cut unless `everything` is asked for.
    """
    if not plans:
        return
    times = [duration(plan.expected_s) if plan.expected_s is not None else "" for plan in plans]
    names_width = max(columns(plan.target) for plan in plans)
    actions_width = max(len(ACTIONS[plan.action].text) for plan in plans)
    longest = max(map(len, times))
    for plan, time in zip(plans, times, strict=True):
        action, tone = ACTIONS[plan.action]
        head = (
            Span(ljust(plan.target, names_width), "name"),
            Span(f"  {action.ljust(actions_width)}", tone),
            *((Span(f"  {time.rjust(longest)}"),) if longest else ()),
        )
        if len(plan.reasons) == 1:
            yield *head, Span(f"  {printable(plan.reasons[0])}")
            continue
        yield _trimmed(head)
        for reason in plan.reasons if everything else plan.reasons[:REASONS_SHOWN]:
            yield _line(f"    {printable(reason)}")
        if len(plan.reasons) > REASONS_SHOWN and not everything:
            yield _line(f"    and {len(plan.reasons) - REASONS_SHOWN} more", "aside")
    counts = [(sum(plan.action == action for plan in plans), words.text) for action, words in ACTIONS.items()]
    told = ", ".join(f"{count} {words}" for count, words in counts if count)
    if prediction is None or not any(plan.action in ("run", "maybe") for plan in plans):
        yield _line(told, "aside")
        return
    yield _line(f"{told}; {_time(prediction)}", "aside")
    if room := "; ".join(_room(prediction)):
        short = (prediction.disk_bytes or 0) > prediction.free_bytes
        yield _line(room, "warning" if short else "aside")


def _time(prediction: Predicted) -> str:
    """Return how long a build takes: `about 9.0 s with -j2`, `at least 0.1 s to 1.4 s with -j2, 3 never timed`."""
    if prediction.least_s is None or prediction.most_s is None:
        return "never timed yet"
    span = list(dict.fromkeys((duration(prediction.least_s), duration(prediction.most_s))))
    head = "at least " if prediction.unknown else "about " if len(span) == 1 else ""
    tail = f", {prediction.unknown} never timed" if prediction.unknown else ""
    return f"{head}{' to '.join(span)} with -j{prediction.jobs}{tail}"


def _room(prediction: Predicted) -> Iterator[str]:
    """Yield what a build downloads and what it takes on the disk: `442 KiB to download again`, `up to 9 B of disk`."""
    if prediction.downloads_unknown:
        yield f"downloads unknown for {names(prediction.downloads_unknown)}"
    elif prediction.download_bytes:
        yield f"{size(prediction.download_bytes)} to download again"
    if prediction.disk_bytes is not None:
        head = "at least" if prediction.unknown else "about" if prediction.least_s == prediction.most_s else "up to"
        yield f"{head} {size(prediction.disk_bytes)} of disk, {size(prediction.free_bytes)} free"


def _trimmed(line: Line) -> Line:
    """Return a line without blanks at its end."""
    *kept, last = line
    trimmed = Span(last.text.rstrip(), last.tone)
    return (*kept, trimmed) if trimmed.text or not kept else _trimmed(tuple(kept))


def _detail(event: TargetEvent) -> Line:
    """Return a line that a step printed, or the command of a step, with its target before it."""
    head = Span(f"{event.target} | ", "aside")
    if isinstance(event, Output):
        return head, Span(printable(event.line))
    return head, Span(f"$ {printable(event.command) if isinstance(event, StepStarted) else ''}", "name")


def _because(reasons: Sequence[str]) -> Line:
    """Return the first reason and how many more there are, to stand at the end of a line."""
    if not reasons:
        return ()
    more = f"; {count(len(reasons) - 1, 'more reason')}" if len(reasons) > 1 else ""
    return _line(f" ({printable(reasons[0])}{more})", "reason")


def count(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless it is one."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
