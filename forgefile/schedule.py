"""Which target is in which state, and which comes next.

WANT → READY → (DONE | QUEUED → RUNNING → DONE | FAILED), and SKIPPED from any state before RUNNING; back from RUNNING
to READY goes what cannot begin after all. Every transition
goes through `Schedule._move`, where a target also takes its pools and gives them back. It takes them all at once, so
no two targets can wait for each other. Pure bookkeeping: no clock, no process, no file; who decides, runs and records
is told what is ready and says what became of it.
"""

from collections import Counter, deque
from collections.abc import Callable, Collection, Iterator, Mapping
from enum import Enum
from heapq import heapify, heappop, heappush
from itertools import count

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
    State.RUNNING: (State.DONE, State.FAILED, State.READY),
}


Demand = tuple[tuple[Pool, int], ...]
"""What a target takes of which pool. Of equal demands that wait, the first speaks for all."""
Rank = Mapping[Target, float]
"""Targets' priorities: the greatest goes first, and of equals the one that was queued first."""


class Schedule:
    """The state of every target of one build. `targets` holds all that is needed, inputs first.

    `machine` is the capacity of the pools whose capacity is the machine's. Of these a target that wants more than
    there is gets all there is; of others the Forgefile says how much there is.
    """

    def __init__(self, targets: Collection[Target], machine: Mapping[Pool, int]) -> None:
        self._machine = machine
        self._held: Counter[Pool] = Counter()
        self._demand: dict[Target, Demand] = {}
        self._state = dict.fromkeys(targets, State.WANT)
        self._waits = {target: sum(1 for i in inputs(target) if i in self._state) for target in targets}
        self._above: dict[Target, list[Target]] = {target: [] for target in targets}
        for target in targets:
            for needed in inputs(target):
                if needed in self._above:
                    self._above[needed].append(target)
        self._ready = deque(target for target in targets if not self._waits[target])
        for target in self._ready:
            self._move(target, State.READY)
        self._queues: dict[Demand, list[tuple[float, int, Target]]] = {}
        self._rank: Rank | None = None
        self._numbers = count()
        self.running: set[Target] = set()

    @property
    def busy(self) -> bool:
        """Something runs or waits to."""
        return bool(self._queues or self.running)

    def state(self, target: Target) -> State:
        """Return where a target stands."""
        return self._state[target]

    def ready(self) -> Iterator[Target]:
        """Yield the targets that can be decided, also those that become ready meanwhile, each once."""
        while self._ready:
            yield self._ready.popleft()

    def queue(self, target: Target) -> None:
        """Note that a ready target has to run."""
        self._move(target, State.QUEUED)
        demand = tuple((pool, min(amount, self._capacity(pool))) for pool, amount in target.pools.items())
        self._demand[target] = demand
        self._put(target, next(self._numbers))

    def _put(self, target: Target, number: int) -> None:
        """Put a target into the queue of its demand; `number` counts what was queued."""
        rank = 0.0 if self._rank is None else -self._rank[target]
        heappush(self._queues.setdefault(self._demand[target], []), (rank, number, target))

    def start(self, priority: Callable[[], Rank], lent: int = 0) -> list[Target]:
        """Start what has room in all its pools and return it; asks for priorities once, when there is a choice.

        `lent` cores are taken beside those that targets hold.
        A target that finds a pool full keeps those of lower priority out of that pool, so that small ones do not
        overtake a large one for ever; those that need other pools go ahead.
        """
        if self._free_cores(lent) <= 0:
            return []
        if self._rank is None and self._has_choice(lent):
            self._rank = priority()
            queued = [(number, target) for queue in self._queues.values() for _, number, target in queue]
            self._queues.clear()
            for number, target in queued:
                self._put(target, number)
        chosen = self._take(lent)
        for target in chosen:
            self._move(target, State.RUNNING)
        return chosen

    def _has_choice(self, lent: int) -> bool:
        """Tell whether some of the queued targets can run, but not all of them together."""
        held = self._taken(lent)
        some = any(not self._lacking(demand, held) for demand in self._queues)
        for demand, queue in self._queues.items():
            held.update({pool: amount * len(queue) for pool, amount in demand})
        return some and any(amount > self._capacity(pool) for pool, amount in held.items())

    def _taken(self, lent: int) -> Counter[Pool]:
        """Return what is taken of each pool, with the cores that are lent."""
        return self._held + Counter({CORES: lent})

    def _lacking(self, demand: Demand, held: Counter[Pool]) -> list[Pool]:
        """Return the pools that have no room for a demand beside what is held."""
        return [pool for pool, amount in demand if held[pool] + amount > self._capacity(pool)]

    def _take(self, lent: int) -> list[Target]:
        """Take from the queue what can run together beside what runs, by priority."""
        held, full, chosen = self._taken(lent), set[Pool](), list[Target]()
        heads = [(*queue[0][:2], demand) for demand, queue in self._queues.items()]
        heapify(heads)
        while heads and CORES not in full:  # which all need
            *_, demand = heappop(heads)
            lacking = self._lacking(demand, held)
            if lacking or any(pool in full for pool, _ in demand):
                full.update(lacking)
                continue
            held.update(dict(demand))
            queue = self._queues[demand]
            chosen.append(heappop(queue)[2])
            if queue:
                heappush(heads, (*queue[0][:2], demand))
            else:
                del self._queues[demand]
        return chosen

    def spare(self, lent: int) -> int:
        """Return how many cores can be lent beside `lent`: those that are free, unless a target waits for a core."""
        free = self._free_cores(lent)
        return 0 if any(dict(demand)[CORES] > free for demand in self._queues) else free

    def _free_cores(self, lent: int) -> int:
        return self._capacity(CORES) - self._held[CORES] - lent

    def _capacity(self, pool: Pool) -> int:
        return self._machine[pool] if pool.capacity is None else pool.capacity

    def withdraw(self, target: Target) -> None:
        """Note that a target that was started has not begun: it is to be decided anew, and holds nothing until then."""
        if target not in self.running:
            raise ValueError(f"{target.name} cannot go from {self._state[target].name} to READY again")
        self._move(target, State.READY)

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
        wanted = deque(self._above[target])
        while wanted:
            above = wanted.popleft()
            if self._state[above] is State.WANT:
                self._move(above, State.SKIPPED)
                skipped.append(above)
                wanted += self._above[above]
        return skipped

    def stop(self) -> list[Target]:
        """Give up all that does not run yet; return it."""
        self._queues.clear()
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
            self._held.update(dict(self._demand[target]))
        elif before is State.RUNNING:
            self.running.discard(target)
            self._held.subtract(dict(self._demand[target]))


def simulated(
    targets: Collection[Target], seconds: Mapping[Target, float], machine: Mapping[Pool, int],
    priority: Callable[[], Rank],
) -> float:  # fmt: skip
    """Return after how many seconds a build is done in which targets run for `seconds`; the others do not run.

    `targets` and `machine` are those of `Schedule`, `priority` is that of `Schedule.start`.
    """
    schedule, now = Schedule(targets, machine), 0.0
    ends: dict[Target, float] = {}
    while True:
        for target in schedule.ready():
            if target in seconds:
                schedule.queue(target)
            else:
                schedule.done(target)
        ends |= {target: now + seconds[target] for target in schedule.start(priority)}
        if not ends:
            return now
        first = min(ends, key=ends.__getitem__)
        now = ends.pop(first)
        schedule.done(first)
