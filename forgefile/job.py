"""What crosses to a worker, and what it says: plain data."""

import signal
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from forgefile.model import Output, Step, Value

if TYPE_CHECKING:
    from forgefile.cache.seal import Committed

NO_MEMORY = "if memory ran out (dmesg tells), memory=… where targets are declared keeps some from running at once"
"""The hint for what was killed by someone else."""


class View(NamedTuple):
    """An input as the steps see it. `layers` (digests, lowest first) for a tree, `host` for anything else."""

    at: str
    host: str = ""
    layers: tuple[str, ...] = ()
    writable: bool = False


class SecretFile(Value):
    """A secret as the steps see it: a file at `at`. Its content is in no text of this value."""

    name: str
    at: str
    content: bytes

    def __repr__(self) -> str:
        return f"SecretFile(name={self.name!r}, at={self.at!r})"


class Job(NamedTuple):
    """All that a worker needs to make one target: plain data."""

    target: str
    store: str
    staging: str
    """A folder that exists and lies on the store's file system; what an earlier job left in it goes."""
    log: str
    """The file that receives what the steps print."""
    failed_as: str
    """The name by which what it has made is kept when it fails."""
    steps: tuple[Step, ...]
    views: tuple[View, ...]
    output: Output
    epoch: int
    secrets: tuple[SecretFile, ...] = ()
    programs: tuple[tuple[str, str], ...] = ()
    """(name, path) of the host programs that the usual PATH would not find."""
    base: tuple[str, ...] | None = None
    """The layers that the output tree builds on, or None when it builds on nothing."""
    every_line: bool = True
    """Whether every line that the steps print is wanted, or the latest is enough."""
    shuffled: bool = False
    """Whether the folders of inputs list what they hold in another order than their file system does."""
    timeout_s: float | None = None
    """After how many seconds what the job runs is ended."""
    hidden: tuple[str, ...] = ()
    """Folders of the host that steps do not see, also where they lie among its programs."""
    resumed: int | None = None
    """The step to go on from, with what the store keeps of the failure there: programs before it are not run again."""


class StepFailed(NamedTuple):
    """How a step ended when it did not end well."""

    command: str
    message: str
    hint: str | None = None


class Stopped(NamedTuple):
    """What is kept of a job that failed, beside what it had made."""

    job: Job
    """Without the contents of secrets."""
    step: int
    failed: StepFailed


class StepBegan(NamedTuple):
    """A step of a job begins."""

    number: int
    command: str


class Printed(NamedTuple):
    """Lines that a step printed."""

    lines: tuple[str, ...]


class Fetched(NamedTuple):
    """So many more bytes came into the folders of downloads."""

    octets: int


class Again(NamedTuple):
    """A step failed that may succeed at another time: in `wait_s`, the job begins again, for the `number`th time."""

    failed: StepFailed
    number: int
    tries: int
    wait_s: float


class JobResult(NamedTuple):
    """How a job ended: `committed`, or why not."""

    seconds: float
    committed: "Committed | None" = None
    failed: StepFailed | None = None
    tail: tuple[str, ...] = ()
    kept: str | None = None
    """Where what a failed job had made can be looked at."""
    downloads: dict[str, int] | None = None
    """What a job that succeeded downloaded, see `lend.downloads`."""


Message = StepBegan | Printed | Fetched | Again | JobResult


def ended(status: int) -> str:
    """Return how a program ended in words; `status` is its exit status, or minus the signal's number."""
    if status < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
        return f"killed by signal {-status}"
    return f"exit status {status}"
