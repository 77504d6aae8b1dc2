"""Whatever hangs on what and whatever goes wrong: a build ends, in order, and leaves no target between states."""

from hypothesis import given
from hypothesis import strategies as st

from forgefile.graph import Graph, inputs, remaining
from forgefile.model import CORES, MEMORY, Pool, Target
from forgefile.schedule import Schedule, State, simulated
from tests.conftest import Needs

ENDS = (State.DONE, State.FAILED, State.SKIPPED)
POOLS = (Pool("one", 1), Pool("two", 2), Pool("five", 5))
MEMORY_BYTES = 4


@st.composite
def pools(draw):
    """Return what a target holds: of declared pools no more than there is, of the machine's perhaps more."""
    held = {pool: draw(st.integers(1, pool.capacity)) for pool in draw(st.sets(st.sampled_from(POOLS)))}
    if draw(st.booleans()):
        held |= {CORES: draw(st.integers(1, 5)), MEMORY: draw(st.integers(1, 9))}
    return held


@st.composite
def graphs(draw):
    targets = []
    for number in range(draw(st.integers(1, 9))):
        below = draw(st.lists(st.sampled_from(targets), max_size=3)) if targets else []
        targets.append(Target(f"t{number}", Needs(inputs=tuple(below)), None, pools=draw(pools())))
    return tuple(targets)


def needs(target):
    """Return all that a target needs, however indirectly."""
    return {below for needed in inputs(target) for below in (needed, *needs(needed))}


class Build:
    """The engine's loop with drawn outcomes in place of decisions and workers."""

    def __init__(self, targets, data, cores, keep_going):
        self.data, self.keep_going = data, keep_going
        self.capacity = {CORES: cores, MEMORY: MEMORY_BYTES, **{pool: pool.capacity for pool in POOLS}}
        self.schedule = Schedule(targets, {CORES: cores, MEMORY: MEMORY_BYTES})
        length = remaining(targets, lambda _: 1.0)
        self.rank = {target: length[target] - number / 100 for number, target in enumerate(targets)}
        self.started = []
        self.told = []

    def draw(self, *outcomes):
        return self.data.draw(st.sampled_from(outcomes))

    def run(self):
        self.advance()
        while self.schedule.busy:
            self.start()
            ended = self.data.draw(st.sampled_from(sorted(self.schedule.running, key=lambda t: t.name)))
            if self.draw("done", "done", "failed") == "done":
                self.schedule.done(ended)
            else:
                self.fail(ended)
            self.advance()

    def start(self):
        before = set(self.schedule.running)
        started = self.schedule.start(lambda: self.rank)
        self.started += started
        running = self.schedule.running
        assert running, "whatever waits for whatever, something runs"
        assert running == before | set(started)
        assert all(self.held(pool, running) <= capacity for pool, capacity in self.capacity.items())
        for target in started:
            assert all(self.schedule.state(needed) is State.DONE for needed in inputs(target))
        self.check_order(before, started)

    def check_order(self, before, started):
        """Who waits finds a pool full, or kept free for one before it; who comes after it does not take from it.

        Of those that want the same, the first keeps what it lacks free.
        """
        kept, waiting = set(), set()
        for target in sorted(self.rank, key=self.rank.get, reverse=True):
            if self.schedule.state(target) is State.QUEUED:
                above = before | {other for other in started if self.rank[other] > self.rank[target]}
                lacking = {p for p in target.pools if self.held(p, {*above, target}) > self.capacity[p]}
                assert lacking or kept & target.pools.keys()
                demand = frozenset((p, self.held(p, {target})) for p in target.pools)
                kept |= lacking if demand not in waiting else set()
                waiting.add(demand)
            elif target in started:
                assert not kept & target.pools.keys()

    def held(self, pool, targets):
        return sum(min(target.pools.get(pool, 0), self.capacity[pool]) for target in targets)

    def advance(self):
        for target in self.schedule.ready():
            assert all(self.schedule.state(needed) is State.DONE for needed in inputs(target))
            match self.draw("run", "run", "current", "failed"):
                case "run":
                    self.schedule.queue(target)
                case "current":
                    self.schedule.done(target)
                case "failed":
                    self.fail(target)

    def fail(self, target):
        self.told += self.schedule.fail(target)
        if not self.keep_going:
            self.told += self.schedule.stop()


@given(graphs(), st.data(), st.integers(1, 3), st.booleans())
def test_every_build_ends_in_order(targets, data, cores, keep_going):
    build = Build(targets, data, cores, keep_going)
    build.run()
    state = {target: build.schedule.state(target) for target in targets}
    assert all(end in ENDS for end in state.values())
    assert len(build.started) == len(set(build.started))
    for target in targets:
        below = {state[needed] for needed in needs(target)}
        if State.FAILED in below or State.SKIPPED in below:
            assert state[target] is State.SKIPPED
        elif keep_going:
            assert state[target] is not State.SKIPPED
    skipped = [target for target in targets if state[target] is State.SKIPPED]
    assert sorted(build.told, key=targets.index) == skipped


@given(graphs())
def test_declaration_order_has_the_inputs_first(targets):
    graph = Graph({target.name: target for target in targets}, (), ())
    for target in targets:
        closure = graph.closure((target,))
        assert set(closure) == {target, *needs(target)}
        assert all(closure.index(below) < closure.index(above) for above in closure for below in inputs(above))


@given(graphs(), st.lists(st.integers(0, 9), min_size=9, max_size=9))
def test_remaining_is_never_shorter_than_that_of_what_stands_above(targets, durations):
    seconds = dict(zip(targets, map(float, durations), strict=False))
    length = remaining(targets, seconds.__getitem__)
    for target in targets:
        above = [length[other] for other in targets if target in inputs(other)]
        assert length[target] == seconds[target] + max(above, default=0.0)


@given(graphs(), st.dictionaries(st.integers(0, 8), st.floats(0, 9)), st.integers(1, 3))
def test_a_simulated_build_takes_no_less_than_its_longest_path_and_its_work_on_all_cores(targets, durations, cores):
    seconds = {target: durations[number] for number, target in enumerate(targets) if number in durations}
    length = remaining(targets, lambda target: seconds.get(target, 0.0))
    took = simulated(targets, seconds, {CORES: cores, MEMORY: MEMORY_BYTES}, lambda: length)
    work = sum(alone * min(target.pools[CORES], cores) for target, alone in seconds.items())
    assert took >= max(length.values()) - 1e-9
    assert took >= work / cores - 1e-9
    assert took <= sum(seconds.values()) + 1e-9
