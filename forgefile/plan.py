"""What is to be done about one target, decided from values alone.

Pure: a manifest and what is recorded go in, a decision comes out. The reasons are the difference of two manifests.
"""

from typing import NamedTuple

from forgefile.events import Action
from forgefile.fingerprint import Listings, Manifest, difference


class Known(NamedTuple):
    """What the store knows of a target when its manifest is decided upon."""

    last: Manifest | None
    """The manifest of the target's latest result, or None when it was never built."""
    current: bool
    """The latest result has just this manifest."""
    available: bool
    """A result of just this manifest lies undamaged in the store."""
    lost: str | None = None
    """Why the result that was there cannot be used, when it cannot: `is missing`, `was changed since it was built`."""


class Decision(NamedTuple):
    """What to do and why, in words. `fail`: its result, or one that it needs, may not be used."""

    action: Action
    reasons: tuple[str, ...] = ()


def decide(manifest: Manifest, known: Known, listings: Listings = lambda _: None) -> Decision:
    """Decide about a target whose inputs are all known."""
    if known.current and known.available:
        return Decision("none")
    reasons: tuple[str, ...]
    if known.last is None:
        reasons = ("an equal target was built before",) if known.available else ("never built",)
    elif known.current:
        reasons = (f"its output {known.lost or 'is missing'}",)
    else:
        reasons = difference(known.last, manifest, listings) or ("its output is wanted again",)
    return Decision("restore" if known.available else "run", reasons)


def undecided(dirty_inputs: tuple[str, ...]) -> Decision:
    """Return the decision about a target of whose inputs some have yet to run."""
    return Decision("maybe", tuple(f"{name} may change" for name in dirty_inputs))
