"""What happens in a run, as frozen values; every display, log and trace is drawn from this one stream.

`t` is in seconds since forge started. Unaware of who looks.
"""

from typing import Any, ClassVar, Literal, Protocol

from forgefile.model import Value

Action = Literal["run", "maybe", "restore", "fail", "none"]


class Event(Value):
    """Something that happened."""

    event: ClassVar[str] = "event"
    t: float

    def plain(self) -> dict[str, Any]:
        """Return the event as JSON data."""
        return {"event": self.event, **{k: v for k, v in self.__dict__.items() if v is not None}}


class TargetEvent(Event):
    """Something that happened to one target."""

    target: str


class Planned(TargetEvent):
    """What will be done about a target and why; `maybe`: something below it will run, and may spare it."""

    event = "planned"
    action: Action
    reasons: tuple[str, ...] = ()
    expected_s: float | None = None


class Predicted(Event):
    """What all that was planned takes, from what it took last; `least` if of what may run nothing does, `most` if all.

    What is not known is None. Sizes are in bytes.
    """

    event = "predicted"
    jobs: int
    unknown: int = 0
    """How many of the targets that run, or may, never ran: they count nothing."""
    least_s: float | None = None
    most_s: float | None = None
    download_bytes: int | None = None
    """What was downloaded before and the shared caches have no more."""
    downloads_unknown: tuple[str, ...] = ()
    """The targets of which nobody knows what they download."""
    disk_bytes: int | None = None
    """What the last results of all that runs, or may, took on the disk."""
    free_bytes: int


class Started(TargetEvent):
    """A worker took the target up."""

    event = "started"
    reasons: tuple[str, ...] = ()
    expected_s: float | None = None
    worker: int = 0


class StepStarted(TargetEvent):
    """A step of the target began; `command` is its title in one line."""

    event = "step"
    command: str


class Output(TargetEvent):
    """A line that a step printed, without its end."""

    event = "output"
    line: str


class Downloading(TargetEvent):
    """What the target has downloaded so far into a folder that targets share; told while it grows."""

    event = "downloading"
    download_bytes: int


class Retrying(TargetEvent):
    """A step failed that may succeed at another time: in `wait_s`, the target begins again, for the `number`th time."""

    event = "retrying"
    message: str
    command: str
    number: int
    tries: int
    wait_s: float


class Built(TargetEvent):
    """The target ran and its output is in the store; `changed`: it is not what it was before."""

    event = "built"
    wall_s: float
    size: int
    changed: bool = True
    path: str | None = None
    clean: bool | None = None
    """False: it was resumed after a failure, or made from what was; see `--resume`."""


class Restored(TargetEvent):
    """An earlier result of the target was taken from the store."""

    event = "restored"
    path: str | None = None
    clean: bool | None = None
    reasons: tuple[str, ...] = ()


class Current(TargetEvent):
    """The target was up to date."""

    event = "current"
    path: str | None = None
    clean: bool | None = None


class Failed(TargetEvent):
    """The target failed; the rest of the message says how."""

    event = "failed"
    message: str
    location: str | None = None
    command: str | None = None
    tail: tuple[str, ...] = ()
    log: str | None = None
    kept: str | None = None
    """The folder with what it had made so far."""
    hint: str | None = None
    wall_s: float = 0.0


class Skipped(TargetEvent):
    """The target was not tried or not ended, because `because` failed or the build was interrupted."""

    event = "skipped"
    because: str | None = None
    """What failed; None: the build was interrupted."""
    outdated: bool | None = None
    """Whether that is because a watch saw a change, so that it is built next."""


class Verifying(Event):
    """All is built, and is now built again where `varied` is not what it was; in `kept` it could not be varied."""

    event = "verifying"
    varied: tuple[str, ...]
    kept: tuple[str, ...] = ()


class Same(TargetEvent):
    """The target was built again, and its output is the same; if not `compared`, it may be another by its rule."""

    event = "same"
    wall_s: float
    compared: bool = True


class Differs(TargetEvent):
    """The target was built again from the same inputs, and its output is another one."""

    event = "differs"
    wall_s: float
    differences: tuple[str, ...]
    """The first of them, in words."""
    more: int = 0
    """How many more there are."""
    report: tuple[str, ...] = ()
    """What diffoscope says of the first file that differs, a line each."""
    first: str
    second: str
    """Where the two outputs lie; of trees what the target adds to the tree below it."""
    location: str | None = None
    hint: str | None = None


class Note(Event):
    """Something that the user should know, once."""

    event = "note"
    message: str


class Finished(Event):
    """The run ended."""

    event = "finished"
    status: int
    built: int
    restored: int
    current: int
    failed: int
    skipped: int
    wall_s: float
    unclean: tuple[str, ...] | None = None
    """The targets that are not clean, if any."""


class Verified(Event):
    """A verification ended; `skipped` targets were not built again, or not to their end."""

    event = "verified"
    status: int
    same: int
    differs: int
    failed: int
    skipped: int
    wall_s: float


class Waiting(Event):
    """A watch waits: for changes of `sources`, or until `unfinished` are written, each with who writes it."""

    event = "waiting"
    sources: tuple[str, ...] = ()
    unfinished: tuple[str, ...] = ()


class Changed(Event):
    """What a watch waited for has changed, and is built from now; `t` begins anew."""

    event = "changed"
    paths: tuple[str, ...]


class Then(Event):
    """The command that follows a good build began; or ended, with an exit status, by itself or by a change."""

    event = "then"
    command: str
    status: int | None = None
    """That of the command's shell; of a signal, the negative number."""
    stopped: bool | None = None
    """Whether forge ended it, for a change."""


class Reporter(Protocol):
    """Draws events. `report` is called from one thread, in order."""

    def report(self, event: Event) -> None:
        """Take note of an event."""

    def close(self) -> None:
        """Leave the terminal or the file as it should be, also after an interruption."""
