"""Which target is in which state, and which comes next.

WANT → READY → (DONE | QUEUED → RUNNING → DONE | FAILED), and SKIPPED from any state before RUNNING. Every transition
goes through `Schedule._move`, where a target also takes its pools and gives them back. It takes them all at once, so
no two targets can wait for each other. Pure bookkeeping: no clock, no process, no file; who decides, runs and records
is told what is ready and says what became of it.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from enum import Enum

from forgefile.graph import inputs
from forgefile.model import CORES, Pool, Target


class State(Enum):
    """Where a target stands."""

    WANT = "wanted; some input is not done"
    READY = "all inputs are done; to be decided"
    QUEUED = "has to run; waits for a place in its pools"
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
    """The state of every target of one build. `targets` holds all that is needed, inputs first.

    `machine` is the capacity of the pools whose capacity is the machine's. Of these a target that wants more than
    there is gets all there is; of others the Forgefile says how much there is.
    """

    def __init__(self, targets: Collection[Target], machine: Mapping[Pool, int]) -> None:
        self._machine = machine
        self._held: Counter[Pool] = Counter()
        self._wanted: dict[Target, dict[Pool, int]] = {}
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
        """Something runs or waits to."""
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
        self._wanted[target] = {pool: min(amount, self._capacity(pool)) for pool, amount in target.pools.items()}
        self._queue.append(target)

    def start(self, priority: Callable[[Collection[Target]], Mapping[Target, float]], lent: int = 0) -> list[Target]:
        """Start what has room in all its pools and return it; asks for priorities only when there is a choice.

        `lent` cores are taken beside those that targets hold.
        A target that finds a pool full keeps those of lower priority out of that pool, so that small ones do not
        overtake a large one for ever; those that need other pools go ahead.
        """
        if self._free_cores(lent) <= 0:
            return []
        chosen = self._that_fit(self._queue, lent)
        if len(chosen) < len(self._queue) and (chosen or any(self._that_fit([t], lent) for t in self._queue)):
            rank = priority(tuple(self._queue))
            self._queue.sort(key=lambda target: -rank[target])
            chosen = self._that_fit(self._queue, lent)
        for target in chosen:
            self._queue.remove(target)
            self._move(target, State.RUNNING)
        return chosen

    def spare(self, lent: int) -> int:
        """Return how many cores can be lent beside `lent`: those that are free, unless a target waits for a core."""
        free = self._free_cores(lent)
        return 0 if any(self._wanted[target][CORES] > free for target in self._queue) else free

    def _free_cores(self, lent: int) -> int:
        return self._capacity(CORES) - self._held[CORES] - lent

    def _that_fit(self, targets: Iterable[Target], lent: int) -> list[Target]:
        """Return those that can run together beside what runs, the first of them first."""
        held, full, chosen = self._held.copy(), set[Pool](), []
        held[CORES] += lent
        for target in targets:
            waits = False
            for pool, amount in self._wanted[target].items():
                if held[pool] + amount > self._capacity(pool):
                    full.add(pool)
                    waits = True
                elif pool in full:
                    waits = True
            if not waits:
                held.update(self._wanted[target])
                chosen.append(target)
            elif CORES in full:  # which all need
                break
        return chosen

    def _capacity(self, pool: Pool) -> int:
        return self._machine[pool] if pool.capacity is None else pool.capacity

    def done(self, target: Target) -> None:
        """Note that a target's output is right; what waited only for it becomes ready."""
        self._move(target, State.DONE)
        for above in self._above[target]:
            self._waits[above] -= 1
            if not self._waits[above] and self._state[above] is State.WANT:
                self._move(above, State.READY)
                self._ready.append(above)

    def fail(self, target: Target) -> list[Target]:
        """Note that a target failed; return what is skipped because it needs it, nearest first."""
        self._move(target, State.FAILED)
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
        if state is State.RUNNING:
            self.running.add(target)
            self._held.update(self._wanted[target])
        elif before is State.RUNNING:
            self.running.discard(target)
            self._held.subtract(self._wanted[target])
