"""What a build would take: time, downloads and room on the disk, foretold from what its targets took last.

Of what never ran nothing is known, and no number is made up for it. Unaware of how anything is built.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress

from forgefile import host
from forgefile.cache.layout import CACHE
from forgefile.cache.store import Store
from forgefile.events import Predicted
from forgefile.fingerprint import fingerprint
from forgefile.model import CORES, MEMORY, Target, uses_network
from forgefile.plan import Decision
from forgefile.planner import Planner
from forgefile.schedule import simulated

Decisions = Mapping[Target, Decision]


def predicted(planner: Planner, store: Store, decisions: Decisions, *, jobs: int, now: float) -> Predicted:
    """Return the event that tells what a plan takes when at most `jobs` targets run at once."""
    chosen = [target for target, decision in decisions.items() if decision.action in ("run", "maybe")]
    seconds = {target: known for target in chosen if (known := planner.expected(target)) is not None}
    is_known = bool(seconds) or not chosen
    least_s, most_s = _wall_s(planner, decisions, seconds, jobs)
    files = {target.name: _to_fetch(planner, store, target) for target in chosen}
    unknown = tuple(name for name, fetched in files.items() if fetched is None)
    again = {path: size for fetched in files.values() for path, size in (fetched or {}).items()}
    return Predicted(
        t=now, jobs=jobs, unknown=len(chosen) - len(seconds),
        least_s=least_s if is_known else None, most_s=most_s if is_known else None,
        download_bytes=None if unknown else sum(again.values()), downloads_unknown=unknown,
        disk_bytes=sum(_disk_bytes(store, target) for target in chosen) if is_known else None,
        free_bytes=store.free_bytes(),
    )  # fmt: skip


def _wall_s(
    planner: Planner, decisions: Decisions, seconds: Mapping[Target, float], jobs: int
) -> tuple[float, float]:
    """Return how long a plan takes if of those that may run none does, and if all do."""
    machine = {CORES: jobs, MEMORY: host.memory_bytes()}

    def last(*actions: str) -> float:
        running = {target: known for target, known in seconds.items() if decisions[target].action in actions}
        return simulated(decisions, running, machine, lambda: planner.remaining(decisions)) if running else 0.0

    least_s = last("run")
    if all(decisions[target].action == "run" for target in seconds):
        return least_s, least_s
    return least_s, max(least_s, last("run", "maybe"))  # on several cores, less work can take longer


def _to_fetch(planner: Planner, store: Store, target: Target) -> dict[str, int] | None:
    """Return what a target downloaded last and the shared caches have no more: path below them → bytes.

    None: that is not known of the steps that it has now. What a mirror has new is known of none.
    """
    described = planner.describe(target)
    if not _uses_network(planner, target):
        return {}
    record = store.records.current(target.name)
    if record is None or record.downloads is None or record.manifest.steps != described.texts:
        return None
    return {path: size for path, size in record.downloads.items() if not _is_cached(store, path, size)}


def _uses_network(planner: Planner, target: Target) -> bool:
    return any(map(uses_network, planner.describe(target).steps))


def _is_cached(store: Store, path: str, size: int) -> bool:
    with suppress(OSError):
        return os.stat(os.path.join(store.root, CACHE, path)).st_size == size
    return False


def _disk_bytes(store: Store, target: Target) -> int:
    """Return what the latest result of a target took on the disk."""
    record = store.records.current(target.name)
    return record.disk_bytes if record else 0


def refuse_small_disk(planner: Planner, store: Store, decisions: Decisions) -> None:
    """Raise `UsageError` when the disk has not the room for what a plan is sure to write.

    Sure is the size of a result that was lost and is built from the very same manifest, unless mirrors have a say in
    it. What else runs may become smaller than it was: its user may have made it so because the disk is full.
    """
    sure: dict[str, int] = {}
    for target, decision in decisions.items():
        if decision.action == "run" and not _uses_network(planner, target):
            record = store.records.find(fingerprint(planner.manifests[target]), target.name)
            if record is not None and not store.holds(record.result):
                sure[record.result.digest] = record.disk_bytes
    store.refuse_small_disk(sum(sure.values()))


def doubts(store: Store, decisions: Decisions) -> Iterator[str]:
    """Yield in words that the disk may not have the room for what a plan runs, going by what that took last."""
    last = sum(_disk_bytes(store, target) for target, decision in decisions.items() if decision.action == "run")
    free = store.free_bytes()
    if last <= free:
        return
    from forgefile.report.words import size  # noqa: PLC0415  hardly ever

    yield f"what runs took {size(last)} on the disk when last built, and {size(free)} are free at {store.root}"
