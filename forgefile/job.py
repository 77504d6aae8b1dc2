"""What crosses to a worker and how a step ends: plain data, made by the engine, carried out by the sandbox."""

from typing import NamedTuple

from forgefile.model import Output, Step, Value


class View(Value):
    """An input as the steps see it. `layers` (digests, lowest first) for a tree, `host` for anything else."""

    at: str
    host: str = ""
    layers: tuple[str, ...] = ()
    writable: bool = False


class Job(Value):
    """All that a worker needs to make one target: plain data."""

    target: str
    store: str
    staging: str
    """A folder that exists, is empty and lies on the store's file system."""
    log: str
    """The file that receives what the steps print."""
    steps: tuple[Step, ...]
    views: tuple[View, ...]
    programs: tuple[tuple[str, str], ...] = ()
    """(name, path) of the host programs that the usual PATH would not find."""
    output: Output
    base: tuple[str, ...] | None = None
    """The layers that the output tree builds on, or None when it builds on nothing."""
    epoch: int
    every_line: bool = True
    """Whether every line that the steps print is wanted, or the latest is enough."""
    timeout_s: float | None = None
    """After how many seconds what the job runs is ended."""


class StepFailed(NamedTuple):
    """How a step ended when it did not end well."""

    command: str
    message: str
    hint: str | None = None
