"""What a target was to do when it failed, and how to be there again: to look, or to go on.

Beside what it had made the store keeps its job, which is plain data. Unaware of plans and of who asks.
"""

import os
import pickle

from forgefile.cache.layout import LAYERS
from forgefile.cache.seal import failed_place, stopped
from forgefile.errors import UsageError
from forgefile.job import Job, SecretFile, Stopped, View
from forgefile.model import Call, Run, Sandbox


def halted(store: str, name: str) -> Stopped | None:
    """Return what a target was to do when it failed last, if that is known and not of another forge.

    `name` is what it goes by in `store`: see `Store.failed_name`.
    """
    kept = stopped(store, name)
    if kept is None:
        return None
    try:
        found = pickle.loads(kept)  # noqa: S301  written by this user's forge alone
    except Exception:  # noqa: BLE001  there is no end to what an older form of it may lack
        return None
    return found if isinstance(found, Stopped) else None


def resumed_at(stopped: Stopped, job: Job) -> int | str:
    """Return the step from which a job can go on that almost did so before, or why it cannot.

    That is the step that failed, or the first that has changed. Files are copied and written anew before it, so that an
    edited script is the one that runs.
    """
    before, at = stopped.job, stopped.step
    if (before.output, before.base) != (job.output, job.base):
        return "the tree that it builds on is another one"
    if [view for view in before.views if view.writable] != [view for view in job.views if view.writable]:
        return "a tree that it changes for itself is another one"
    if not os.path.isdir(os.path.join(job.store, failed_place(job.failed_as))):
        return "it had made nothing"
    while before.steps[:at] != job.steps[:at]:
        at -= 1
    if job.base is None and not any(isinstance(step, Run | Call) for step in job.steps[:at]):
        return "no step of it would be spared"
    return min(at, len(job.steps) - 1)


def job_there(stopped: Stopped, *, store: str, staging: str, secrets: tuple[SecretFile, ...]) -> Job:
    """Return the job of a failed target as it was when its step failed; what it had made is below, to be changed above.

    Raises `UsageError` when something that its steps saw is gone.
    """
    job, kept = stopped.job, failed_place(stopped.job.failed_as)
    _refuse_gone(store, job)

    def also(name: str) -> tuple[str, ...]:
        """Return what was made on top of a tree, as if that were a layer."""
        path = f"{kept}/{name}"
        return (os.path.relpath(path, LAYERS),) if os.path.isdir(f"{store}/{path}") else ()

    views = [
        view._replace(layers=(*view.layers, *also(f"scratch-{number}"))) if view.writable else view
        for number, view in enumerate(job.views)
    ]
    if tmp := also("tmp"):
        views.append(View(at=Sandbox.tmp, layers=tmp, writable=True))
    if os.path.isfile(f"{store}/{kept}/out"):
        views.append(View(at=Sandbox.out, host=f"{store}/{kept}/out"))
    known = {secret.name: secret for secret in secrets}
    base = (*(job.base or ()), *also("out")) if job.output == "tree" else None
    return job._replace(
        store=store, staging=staging, views=tuple(views), base=base, shuffled=False, resumed=None,
        secrets=tuple(known[secret.name] for secret in job.secrets if secret.name in known),
    )  # fmt: skip


def _refuse_gone(store: str, job: Job) -> None:
    layers = [*(job.base or ()), *(layer for view in job.views for layer in view.layers)]
    paths = [*(f"{store}/{LAYERS}/{layer}" for layer in layers), *(view.host for view in job.views if view.host)]
    if gone := [path for path in paths if not os.path.lexists(path)]:
        raise UsageError(
            f"what '{job.target}' was made from is not there any more: {gone[0]}", hint=f"forge {job.target} builds it"
        )
