"""A shell, or one command, where a target's steps were: in its tree, or with the host's programs beside it.

What is changed there is on a layer of its own, which is thrown away or kept for an `Overlay`. Unaware of targets and
records, and quick to import.
"""

import os
from collections.abc import Sequence
from itertools import starmap
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from forgefile import linux, roots, userns
from forgefile.attended import attend
from forgefile.cache.layout import LAYERS, OBJECTS, STAGING
from forgefile.cache.lodging import lodging
from forgefile.errors import UsageError
from forgefile.job import Job, View
from forgefile.lend import resolve
from forgefile.model import Cache, Run, Sandbox
from forgefile.sandbox import apart, furnished

if TYPE_CHECKING:
    from forgefile.changes import Changes

SHELLS = "/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh"
_TAKEN = "TERM", "COLORTERM"
"""What a program that is on a terminal has to know of it."""


class Place(NamedTuple):
    """Where a shell can be."""

    job: Job
    """Its only step is the shell."""
    step: Run
    """That step."""

    def plain(self) -> tuple[Any, ...]:
        """Return this as marshal takes it. The job has no secrets."""
        bare, views = self.job._replace(steps=(), views=()), [tuple(view) for view in self.job.views]
        caches = [cache.__dict__ for cache in self.step.caches]
        return tuple(bare), views, {**self.step.__dict__, "env": dict(self.step.env), "caches": ()}, caches

    @classmethod
    def of(cls, plain: tuple[Any, ...]) -> Self:
        """Return what `plain` returned as it was."""
        bare, views, fields, caches = plain
        step = Run.known({**fields, "caches": tuple(map(Cache.known, caches))})
        return cls(Job(*bare)._replace(steps=(step,), views=tuple(starmap(View, views))), step)


def enter(place: Place, command: Sequence[str], keep_at: str | None = None) -> "tuple[int, Changes | None]":
    """Run a command at a place, or a shell if it is empty; return its exit status and what was kept.

    `keep_at`: the absolute path of the folder in which changes are to be kept. For good, this process leaves the host's
    mounts, and an ordinary user becomes root of a user namespace. Raises `UsageError` when the tree has no shell,
    `BuildError` when the sandbox cannot be made or nothing can be kept.
    """
    store, step = place.job.store, place.step
    userns.enter()
    apart()
    os.umask(0o022)
    if not os.access(f"{store}/{STAGING}", os.W_OK):
        linux.mount("forge", f"{store}/{STAGING}", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=700")
    with lodging(store, _uses(place.job)) as staging, linux.more_mounts():
        job = place.job._replace(staging=staging)
        with furnished(job, host=step.root is None):
            status = attend(job, _for_person(step, tuple(command) or (_shell(job, step),)))
            return status, _kept(job, keep_at) if keep_at else None


def _for_person(step: Run, argv: tuple[str, ...]) -> Run:
    """Return a step that runs a program for a person."""
    taken = {name: os.environ[name] for name in _TAKEN if name in os.environ}
    shown = {"debian_chroot": step.env["FORGE_TARGET"], "PS1": "($FORGE_TARGET) $PWD # ", "HISTFILE": "/dev/null"}
    return Run.known({**step.__dict__, "argv": argv, "env": {**step.env, **taken, **shown}})


def _uses(job: Job) -> list[str]:
    layers = {*(job.base or ()), *(layer for view in job.views for layer in view.layers)}
    objects = f"{job.store}/{OBJECTS}/"
    files = [view.host.removeprefix(objects) for view in job.views if view.host.startswith(objects)]
    return [*(f"{LAYERS}/{layer}" for layer in sorted(layers)), *(f"{OBJECTS}/{name}" for name in files)]


def _shell(job: Job, step: Run) -> str:
    """Return the shell that there is. Raises `UsageError` when there is none."""
    root = f"{job.staging}/root" if step.root is None else f"{job.staging}/run{step.root.removeprefix(Sandbox.prefix)}"
    for shell in SHELLS:
        if os.access(resolve(root, shell), os.X_OK):
            return shell
    raise UsageError(
        f"the tree of '{job.target}' has no shell", hint="forge shell --host … shows it to the shell of the host"
    )


def _kept(job: Job, to: str) -> "Changes":
    """Keep what was changed in the tree."""
    from forgefile.cache.seal import made_in  # noqa: PLC0415  only --keep needs it
    from forgefile.changes import keep  # noqa: PLC0415  only --keep needs it

    below = f"{job.staging}/below"
    os.mkdir(below)
    roots.overlay(job.base or (), below, upper=None)
    return keep(made_in(job.staging, job.base), below, to, job.secrets)
