"""Which target is in which state, and which comes next.

WANT → READY → (DONE | QUEUED → RUNNING → DONE | FAILED), and SKIPPED from any state before RUNNING. Every transition
goes through `Schedule._move`. Pure bookkeeping: no clock, no process, no file; who decides, runs and records is told
what is ready and says what became of it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum

from forgefile.graph import inputs
from forgefile.model import Target


class State(Enum):
    """Where a target stands."""

    WANT = "wanted; some input is not done"
    READY = "all inputs are done; to be decided"
    QUEUED = "has to run; waits for a worker"
    RUNNING = "a worker has it"
    DONE = "its output is right"
    FAILED = "it ran and failed"
    SKIPPED = "an input failed, or the build was stopped"


_ALLOWED: Mapping[State, Collection[State]] = {
    State.WANT: (State.READY, State.SKIPPED),
    State.READY: (State.DONE, State.QUEUED, State.FAILED, State.SKIPPED),
    State.QUEUED: (State.RUNNING, State.SKIPPED),
    State.RUNNING: (State.DONE, State.FAILED),
}


class Schedule:
    """The state of every target of one build. `targets` holds all that is needed, inputs first."""

    def __init__(self, targets: Collection[Target]) -> None:
        self._state = dict.fromkeys(targets, State.WANT)
        self._waits = {target: sum(1 for i in inputs(target) if i in self._state) for target in targets}
        self._above: dict[Target, list[Target]] = {target: [] for target in targets}
        for target in targets:
            for needed in inputs(target):
                if needed in self._above:
                    self._above[needed].append(target)
        self._ready = [target for target in targets if not self._waits[target]]
        for target in self._ready:
            self._move(target, State.READY)
        self._queue: list[Target] = []
        self.running: set[Target] = set()

    @property
    def busy(self) -> bool:
        """Something runs or waits for a worker."""
        return bool(self._queue or self.running)

    def state(self, target: Target) -> State:
        """Return where a target stands."""
        return self._state[target]

    def ready(self) -> Iterator[Target]:
        """Yield the targets that can be decided, also those that become ready meanwhile, each once."""
        while self._ready:
            yield self._ready.pop(0)

    def queue(self, target: Target) -> None:
        """Note that a ready target has to run."""
        self._move(target, State.QUEUED)
        self._queue.append(target)

    def start(self, priority: Callable[[Collection[Target]], Mapping[Target, float]], slots: int) -> list[Target]:
        """Return the targets to start on `slots` free workers; asks for priorities only when there is a choice."""
        if len(self._queue) > slots > 0:
            rank = priority(tuple(self._queue))
            self._queue.sort(key=lambda target: -rank[target])
        chosen, self._queue = self._queue[:slots], self._queue[slots:]
        for target in chosen:
            self._move(target, State.RUNNING)
            self.running.add(target)
        return chosen

    def done(self, target: Target) -> None:
        """Note that a target's output is right; what waited only for it becomes ready."""
        self._move(target, State.DONE)
        self.running.discard(target)
        for above in self._above[target]:
            self._waits[above] -= 1
            if not self._waits[above] and self._state[above] is State.WANT:
                self._move(above, State.READY)
                self._ready.append(above)

    def fail(self, target: Target) -> list[Target]:
        """Note that a target failed; return what is skipped because it needs it, nearest first."""
        self._move(target, State.FAILED)
        self.running.discard(target)
        skipped: list[Target] = []
        wanted = list(self._above[target])
        while wanted:
            above = wanted.pop(0)
            if self._state[above] is State.WANT:
                self._move(above, State.SKIPPED)
                skipped.append(above)
                wanted += self._above[above]
        return skipped

    def stop(self) -> list[Target]:
        """Give up all that does not run yet; return it."""
        self._queue.clear()
        self._ready.clear()
        left = [t for t, s in self._state.items() if s in (State.WANT, State.READY, State.QUEUED)]
        for target in left:
            self._move(target, State.SKIPPED)
        return left

    def _move(self, target: Target, state: State) -> None:
        before = self._state[target]
        if state not in _ALLOWED.get(before, ()):
            raise ValueError(f"{target.name} cannot go from {before.name} to {state.name}")
        self._state[target] = state
