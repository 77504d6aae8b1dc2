"""The schedule: every way through its states, and every way that is none."""

import pytest

from forgefile.graph import remaining
from forgefile.model import CORES, MEMORY, Pool, Target
from forgefile.schedule import Schedule, State, simulated
from tests.conftest import Needs, make

LOW = make("low")
LEFT = make("left", LOW)
RIGHT = make("right", LOW)
TOP = make("top", LEFT, RIGHT)
ALONE = make("alone")
ALL = (LOW, LEFT, RIGHT, TOP, ALONE)


def schedule_of(targets, cores=4, memory=8):
    return Schedule(targets, {CORES: cores, MEMORY: memory})


def flat():
    return dict.fromkeys(ALL, 0.0)


def states(schedule):
    return {target.name: schedule.state(target).name for target in ALL}


def ready(schedule):
    return list(schedule.ready())


def run(schedule, target):
    """Queue and start one target of a schedule with nothing else in its queue."""
    schedule.queue(target)
    assert schedule.start(flat) == [target]


def test_at_first_what_needs_nothing_is_ready():
    schedule = schedule_of(ALL)
    assert ready(schedule) == [LOW, ALONE]
    assert ready(schedule) == []
    assert states(schedule) == {"low": "READY", "left": "WANT", "right": "WANT", "top": "WANT", "alone": "READY"}
    assert not schedule.busy


def test_what_waited_for_a_target_is_ready_when_it_is_done():
    schedule = schedule_of(ALL)
    ready(schedule)
    schedule.done(LOW)
    assert ready(schedule) == [LEFT, RIGHT]
    schedule.done(RIGHT)
    assert ready(schedule) == []
    schedule.done(LEFT)
    assert ready(schedule) == [TOP]


def test_what_becomes_ready_meanwhile_is_yielded_too():
    schedule, order = schedule_of(ALL), []
    for target in schedule.ready():
        order.append(target)
        schedule.done(target)
    assert order == [LOW, ALONE, LEFT, RIGHT, TOP]
    assert set(states(schedule).values()) == {"DONE"}


def test_an_input_that_is_not_part_of_the_build_is_not_waited_for():
    schedule = schedule_of((LEFT, RIGHT))
    assert list(schedule.ready()) == [LEFT, RIGHT]


def test_a_target_that_takes_the_same_input_twice_waits_once():
    twice = make("twice", LOW, LOW)
    schedule = schedule_of((LOW, twice))
    assert list(schedule.ready()) == [LOW]
    schedule.done(LOW)
    assert list(schedule.ready()) == [twice]


def test_running_takes_cores_and_busy_tells_of_it():
    schedule = schedule_of(ALL, cores=1)
    ready(schedule)
    assert not schedule.busy
    schedule.queue(LOW)
    assert schedule.busy
    assert schedule.start(flat) == [LOW]
    assert schedule.running == {LOW}
    schedule.queue(ALONE)
    assert schedule.start(flat) == []
    schedule.done(LOW)
    assert schedule.busy
    assert schedule.start(flat) == [ALONE]
    schedule.done(ALONE)
    assert not schedule.busy


def test_the_longest_remaining_path_starts_first_and_ties_keep_their_order():
    targets = tuple(make(name) for name in "abcd")
    a, b, c, d = targets
    schedule = schedule_of(targets, cores=2)
    for target in schedule.ready():
        schedule.queue(target)
    rank = {a: 1.0, b: 5.0, c: 5.0, d: 9.0}
    assert schedule.start(lambda: rank) == [d, b]
    schedule.done(b)
    assert schedule.start(lambda: rank) == [c]
    schedule.done(d)
    assert schedule.start(lambda: rank) == [a]


def never():
    raise AssertionError


def test_priorities_are_asked_for_only_when_there_is_a_choice():
    schedule = schedule_of(ALL, cores=2)
    ready(schedule)
    assert schedule.start(never) == []
    schedule.queue(LOW)
    schedule.queue(ALONE)
    assert schedule.start(never) == [LOW, ALONE]


# Pools


NETWORK, LINKS = Pool("network", 2), Pool("links", 1)


def holding(name, **pools):
    """Return a target that holds some of its pools."""
    named = {"network": NETWORK, "links": LINKS, "cores": CORES, "memory": MEMORY}
    return Target(name, Needs(), None, pools={named[pool]: amount for pool, amount in pools.items()})


def queued(*targets, cores=4, memory=8):
    """Return a schedule whose targets all wait, and their priorities: the first most."""
    schedule = schedule_of(targets, cores, memory)
    for target in schedule.ready():
        schedule.queue(target)
    return schedule, lambda: {target: float(-number) for number, target in enumerate(targets)}


def test_what_finds_its_pool_full_waits_and_others_go_ahead():
    a, b, c, d = (holding(name, network=1) for name in "abcd")
    other = holding("other")
    schedule, rank = queued(a, b, c, d, other)
    assert schedule.start(rank) == [a, b, other]
    assert schedule.start(never) == []
    schedule.done(b)
    assert schedule.start(rank) == [c]
    assert schedule.fail(a) == []
    assert schedule.start(never) == [d]


def test_of_equals_that_wait_the_first_speaks_for_all():
    """What waits for a full pool anyway keeps no cores free."""
    first, one, large, again, small = (
        holding("first", links=1), holding("one"), holding("large", links=1, cores=3),
        holding("again", links=1, cores=3), holding("small"),
    )  # fmt: skip
    schedule, rank = queued(first, large, one, again, small, cores=4)
    assert schedule.start(rank) == [first, one, small]


def test_priorities_are_asked_for_once():
    targets = tuple(holding(name) for name in "abcd")
    schedule, rank = queued(*targets, cores=1)
    for target in targets:
        assert schedule.start(rank) == [target]
        schedule.done(target)
        rank = never


def test_an_amount_is_taken_whole_and_given_back_whole():
    both, one = holding("both", network=2), holding("one", network=1)
    schedule, rank = queued(both, one)
    assert schedule.start(rank) == [both]
    assert schedule.start(never) == []
    schedule.done(both)
    assert schedule.start(never) == [one]


def test_what_waits_for_a_pool_is_not_overtaken_in_it():
    first, large, small = holding("first", network=1), holding("large", network=2), holding("small", network=1)
    schedule, rank = queued(first, large, small)
    assert schedule.start(rank) == [first]
    schedule.done(first)
    assert schedule.start(rank) == [large]
    schedule.done(large)
    assert schedule.start(never) == [small]


def test_what_waits_takes_none_of_its_pools():
    first, both, other = holding("first", network=2), holding("both", network=1, links=1), holding("other", links=1)
    schedule, rank = queued(first, both, other)
    assert schedule.start(rank) == [first, other]


def test_of_the_machine_it_takes_at_most_all_there_is():
    large, small = holding("large", cores=64, memory=64), holding("small")
    schedule, rank = queued(large, small, cores=2)
    assert schedule.start(rank) == [large]
    assert schedule.start(never) == []
    schedule.done(large)
    assert schedule.start(never) == [small]


def test_memory_holds_back_what_wants_more_than_is_left():
    half, most, none = holding("half", memory=4), holding("most", memory=5), holding("none")
    schedule, rank = queued(half, most, none)
    assert schedule.start(rank) == [half, none]


def test_cores_that_are_lent_are_taken():
    a, b = holding("a"), holding("b", cores=2)
    schedule, rank = queued(a, b, cores=3)
    assert schedule.start(never, lent=3) == []
    assert schedule.start(rank, lent=1) == [a]
    assert schedule.start(never, lent=1) == []
    assert schedule.start(never, lent=0) == [b]


def test_cores_are_spare_when_no_target_waits_for_one():
    a, b, c = holding("a", links=1), holding("b", links=1), holding("c", cores=3)
    schedule, rank = queued(a, b, cores=3)
    schedule.start(rank)
    assert [schedule.spare(lent) for lent in (0, 1, 2)] == [2, 1, 0]
    schedule, rank = queued(a, c, cores=3)
    schedule.start(rank)
    assert schedule.spare(0) == 0


# Failures


def test_a_failure_skips_all_that_needs_it_nearest_first():
    schedule = schedule_of(ALL)
    ready(schedule)
    run(schedule, LOW)
    assert schedule.fail(LOW) == [LEFT, RIGHT, TOP]
    assert states(schedule) == {
        "low": "FAILED", "left": "SKIPPED", "right": "SKIPPED", "top": "SKIPPED", "alone": "READY",
    }  # fmt: skip
    assert not schedule.busy


def test_what_has_another_input_left_is_skipped_only_once():
    schedule = schedule_of(ALL)
    ready(schedule)
    schedule.done(LOW)
    ready(schedule)
    for target in (LEFT, RIGHT):
        schedule.queue(target)
    schedule.start(flat)
    assert schedule.fail(LEFT) == [TOP]
    assert schedule.fail(RIGHT) == []


def test_an_input_done_late_does_not_wake_what_was_skipped():
    schedule = schedule_of(ALL)
    ready(schedule)
    schedule.done(LOW)
    ready(schedule)
    for target in (LEFT, RIGHT):
        schedule.queue(target)
    schedule.start(flat)
    schedule.fail(LEFT)
    schedule.done(RIGHT)
    assert ready(schedule) == []
    assert schedule.state(TOP) is State.SKIPPED


def test_a_ready_target_may_fail_before_it_runs():
    schedule = schedule_of(ALL)
    ready(schedule)
    assert schedule.fail(LOW) == [LEFT, RIGHT, TOP]


def test_stop_gives_up_what_does_not_run():
    schedule = schedule_of(ALL)
    ready(schedule)
    run(schedule, LOW)
    schedule.queue(ALONE)
    assert schedule.stop() == [LEFT, RIGHT, TOP, ALONE]
    assert schedule.start(flat) == []
    assert schedule.busy
    schedule.done(LOW)
    assert ready(schedule) == []
    assert not schedule.busy
    assert schedule.stop() == []


def test_what_is_withdrawn_holds_nothing_and_can_be_queued_again():
    schedule = schedule_of(ALL)
    ready(schedule)
    run(schedule, LOW)
    schedule.withdraw(LOW)
    assert (schedule.state(LOW), schedule.busy, ready(schedule)) == (State.READY, False, [])
    run(schedule, LOW)
    schedule.withdraw(LOW)
    schedule.done(LOW)
    assert ready(schedule) == [LEFT, RIGHT]


def test_what_is_withdrawn_is_given_up_with_the_rest():
    schedule = schedule_of(ALL)
    ready(schedule)
    run(schedule, LOW)
    schedule.withdraw(LOW)
    assert LOW in schedule.stop()


MOVES = {
    "queue": Schedule.queue,
    "done": Schedule.done,
    "fail": Schedule.fail,
    "withdraw": Schedule.withdraw,
}
LEGAL = {
    State.WANT: (),
    State.READY: ("queue", "done", "fail"),
    State.QUEUED: (),
    State.RUNNING: ("done", "fail", "withdraw"),
    State.DONE: (),
    State.FAILED: (),
    State.SKIPPED: (),
}


def in_state(state):
    schedule, target = schedule_of(ALL), ALONE
    if state is State.WANT:
        return schedule, TOP
    if state in (State.QUEUED, State.RUNNING):
        schedule.queue(target)
    if state is State.RUNNING:
        schedule.start(flat)
    if state is State.DONE:
        schedule.done(target)
    if state is State.FAILED:
        schedule.fail(target)
    if state is State.SKIPPED:
        schedule.stop()
    return schedule, target


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("state", State)
def test_transitions(state, move):
    schedule, target = in_state(state)
    assert schedule.state(target) is state
    if move in LEGAL[state]:
        MOVES[move](schedule, target)
        assert schedule.state(target) is not state
        return
    with pytest.raises(ValueError, match=f"{target.name} cannot go from {state.name} to "):
        MOVES[move](schedule, target)
    assert schedule.state(target) is state


# Simulated


MIRROR = Pool("mirror", 1)
FIRST = Target("first", Needs(), None, pools={MIRROR: 1})
SECOND = Target("second", Needs(), None, pools={MIRROR: 1})
WIDE = Target("wide", Needs(), None, pools={CORES: 9})


@pytest.mark.parametrize(
    ("seconds", "cores", "took"),
    [
        ({}, 2, 0.0),
        ({LOW: 1.0, LEFT: 2.0, RIGHT: 3.0, TOP: 4.0}, 1, 10.0),
        ({LOW: 1.0, LEFT: 2.0, RIGHT: 3.0, TOP: 4.0}, 2, 8.0),
        ({LOW: 1.0, LEFT: 2.0, RIGHT: 3.0, TOP: 4.0, ALONE: 8.0}, 2, 10.0),
        ({LEFT: 2.0, RIGHT: 3.0}, 9, 3.0),
        ({LOW: 1.0, TOP: 4.0}, 9, 5.0),
        ({FIRST: 2.0, SECOND: 3.0}, 9, 5.0),
        ({FIRST: 2.0, WIDE: 3.0}, 9, 5.0),
    ],
    ids=["nothing", "one core", "two cores", "the longest way first", "not low", "not between", "a pool", "all cores"],
)  # fmt: skip
def test_a_simulated_build(seconds, cores, took):
    targets = (*ALL, FIRST, SECOND, WIDE)
    length = remaining(targets, lambda target: seconds.get(target, 0.0))
    assert simulated(targets, seconds, {CORES: cores, MEMORY: 8}, lambda: length) == took
