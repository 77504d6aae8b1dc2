"""The schedule: every way through its states, and every way that is none."""

import pytest

from forgefile.schedule import Schedule, State
from tests.conftest import make

LOW = make("low")
LEFT = make("left", LOW)
RIGHT = make("right", LOW)
TOP = make("top", LEFT, RIGHT)
ALONE = make("alone")
ALL = (LOW, LEFT, RIGHT, TOP, ALONE)


def flat(_):
    return dict.fromkeys(ALL, 0.0)


def states(schedule):
    return {target.name: schedule.state(target).name for target in ALL}


def ready(schedule):
    return list(schedule.ready())


def run(schedule, target):
    """Queue and start one target of a schedule with nothing else in its queue."""
    schedule.queue(target)
    assert schedule.start(flat, 1) == [target]


def test_at_first_what_needs_nothing_is_ready():
    schedule = Schedule(ALL)
    assert ready(schedule) == [LOW, ALONE]
    assert ready(schedule) == []
    assert states(schedule) == {"low": "READY", "left": "WANT", "right": "WANT", "top": "WANT", "alone": "READY"}
    assert not schedule.busy


def test_what_waited_for_a_target_is_ready_when_it_is_done():
    schedule = Schedule(ALL)
    ready(schedule)
    schedule.done(LOW)
    assert ready(schedule) == [LEFT, RIGHT]
    schedule.done(RIGHT)
    assert ready(schedule) == []
    schedule.done(LEFT)
    assert ready(schedule) == [TOP]


def test_what_becomes_ready_meanwhile_is_yielded_too():
    schedule, order = Schedule(ALL), []
    for target in schedule.ready():
        order.append(target)
        schedule.done(target)
    assert order == [LOW, ALONE, LEFT, RIGHT, TOP]
    assert set(states(schedule).values()) == {"DONE"}


def test_an_input_that_is_not_part_of_the_build_is_not_waited_for():
    schedule = Schedule((LEFT, RIGHT))
    assert list(schedule.ready()) == [LEFT, RIGHT]


def test_a_target_that_takes_the_same_input_twice_waits_once():
    twice = make("twice", LOW, LOW)
    schedule = Schedule((LOW, twice))
    assert list(schedule.ready()) == [LOW]
    schedule.done(LOW)
    assert list(schedule.ready()) == [twice]


def test_running_takes_slots_and_busy_tells_of_it():
    schedule = Schedule(ALL)
    ready(schedule)
    schedule.queue(LOW)
    assert schedule.busy
    assert schedule.start(flat, 0) == []
    assert schedule.start(flat, 2) == [LOW]
    assert schedule.running == {LOW}
    schedule.queue(ALONE)
    schedule.done(LOW)
    assert schedule.busy
    schedule.start(flat, 1)
    schedule.done(ALONE)
    assert not schedule.busy


def test_the_longest_remaining_path_starts_first_and_ties_keep_their_order():
    targets = tuple(make(name) for name in "abcd")
    a, b, c, d = targets
    schedule = Schedule(targets)
    for target in schedule.ready():
        schedule.queue(target)
    rank = {a: 1.0, b: 5.0, c: 5.0, d: 9.0}
    assert schedule.start(lambda _: rank, 2) == [d, b]
    assert schedule.start(lambda _: rank, 1) == [c]
    assert schedule.start(lambda _: rank, 1) == [a]


def test_priorities_are_asked_for_only_when_there_is_a_choice():
    schedule = Schedule(ALL)
    ready(schedule)
    schedule.queue(LOW)
    schedule.queue(ALONE)

    def never(_):
        raise AssertionError

    assert schedule.start(never, 0) == []
    assert schedule.start(never, 2) == [LOW, ALONE]


def test_a_failure_skips_all_that_needs_it_nearest_first():
    schedule = Schedule(ALL)
    ready(schedule)
    run(schedule, LOW)
    assert schedule.fail(LOW) == [LEFT, RIGHT, TOP]
    assert states(schedule) == {
        "low": "FAILED", "left": "SKIPPED", "right": "SKIPPED", "top": "SKIPPED", "alone": "READY",
    }  # fmt: skip
    assert not schedule.busy


def test_what_has_another_input_left_is_skipped_only_once():
    schedule = Schedule(ALL)
    ready(schedule)
    schedule.done(LOW)
    ready(schedule)
    for target in (LEFT, RIGHT):
        schedule.queue(target)
    schedule.start(flat, 2)
    assert schedule.fail(LEFT) == [TOP]
    assert schedule.fail(RIGHT) == []


def test_an_input_done_late_does_not_wake_what_was_skipped():
    schedule = Schedule(ALL)
    ready(schedule)
    schedule.done(LOW)
    ready(schedule)
    for target in (LEFT, RIGHT):
        schedule.queue(target)
    schedule.start(flat, 2)
    schedule.fail(LEFT)
    schedule.done(RIGHT)
    assert ready(schedule) == []
    assert schedule.state(TOP) is State.SKIPPED


def test_a_ready_target_may_fail_before_it_runs():
    schedule = Schedule(ALL)
    ready(schedule)
    assert schedule.fail(LOW) == [LEFT, RIGHT, TOP]


def test_stop_gives_up_what_does_not_run():
    schedule = Schedule(ALL)
    ready(schedule)
    run(schedule, LOW)
    schedule.queue(ALONE)
    assert schedule.stop() == [LEFT, RIGHT, TOP, ALONE]
    assert schedule.start(flat, 4) == []
    assert schedule.busy
    schedule.done(LOW)
    assert ready(schedule) == []
    assert not schedule.busy
    assert schedule.stop() == []


MOVES = {
    "queue": Schedule.queue,
    "done": Schedule.done,
    "fail": Schedule.fail,
}
LEGAL = {
    State.WANT: (),
    State.READY: ("queue", "done", "fail"),
    State.QUEUED: (),
    State.RUNNING: ("done", "fail"),
    State.DONE: (),
    State.FAILED: (),
    State.SKIPPED: (),
}


def in_state(state):
    schedule, target = Schedule(ALL), ALONE
    if state is State.WANT:
        return schedule, TOP
    if state in (State.QUEUED, State.RUNNING):
        schedule.queue(target)
    if state is State.RUNNING:
        schedule.start(flat, 1)
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
