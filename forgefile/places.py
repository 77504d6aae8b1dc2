"""Where a shell can be: where a target's steps were, in what they made, or where they failed.

Unaware of how a shell is opened.
"""

import os
from collections.abc import Sequence

from forgefile.engine import Project, job_of
from forgefile.errors import UsageError
from forgefile.halted import halted, job_there
from forgefile.job import Job, SecretFile, View
from forgefile.model import Call, Run, Sandbox, Step, Target, uses_network
from forgefile.shell import SHELLS, Place


def in_target(project: Project, target: Target, *, host: bool, network: bool) -> Place:
    """Return the place where the steps of a target that is up to date see what they have made."""
    planner, store = project.planner, project.store
    result = planner.results[target]
    job = job_of(planner, store, target, staging="", log=os.devnull)
    views, base = job.views, None
    if result.kind == "tree":
        base = result.layers
    else:
        views = (*views, View(at=Sandbox.out, host=store.object_path(result.digest)))
    root = None if host or base is None else Sandbox.out
    steps = [step for step in job.steps if isinstance(step, Run | Call)]
    runs = [step for step in steps if isinstance(step, Run)]
    inside = [step for step in steps if step.root == root]
    last = next((step for step in reversed(inside) if isinstance(step, Run)), runs[-1] if runs else None)
    step = _step(job, root=root, like=last, also=inside, network=network or any(map(uses_network, steps)))
    return Place(job._replace(views=views, base=base, steps=(step,)), step)


def in_failed(project: Project, target: str, *, host: bool, network: bool) -> Place:
    """Return the place at which the last build of a target failed, with what it had made until then.

    Raises `UsageError` when that is not known.
    """
    stopped = halted(project.store.root, project.store.failed_name(target))
    if stopped is None:
        raise UsageError(f"nothing is kept of a failure of '{target}'", hint=f"forge {target} builds it")
    secrets: tuple[SecretFile, ...] = ()
    if stopped.job.secrets and target in project.graph.targets:
        contents = project.planner.secrets(project.graph.targets[target])
        at = Sandbox()
        secrets = tuple(SecretFile(name=s.name, at=at.path(s), content=content) for s, content in contents.items())
    job = job_there(stopped, store=project.store.root, staging="", secrets=secrets)
    failed = job.steps[stopped.step]
    root = None if host else failed.root
    like = failed if isinstance(failed, Run) else None
    step = _step(job, root=root, like=like, also=[failed], network=network or uses_network(failed))
    return Place(job._replace(steps=(step,)), step)


def _step(job: Job, *, root: str | None, like: Run | None, also: Sequence[Step], network: bool) -> Run:
    """Return the step that is a shell, with what another one had, and the caches of still others."""
    caches = {cache.path: cache for step in also for cache in getattr(step, "caches", ())}
    return Run(
        (SHELLS[0],),
        root=root,
        env={**(like.env if like else {}), "FORGE_TARGET": job.target},
        cwd=like.cwd if like and like.root == root else None,
        network=network,
        mounts=like.mounts if like and like.root == root else False,
        caches=tuple(caches.values()),
    )
