"""The tokens of make's jobserver: lent, taken back, and never lost, whatever the programs do with them."""

import os

import pytest

from forgefile.jobserver import NAME, Jobserver


class Make:
    """A program that takes tokens from the pipe in a folder and puts them back."""

    def __init__(self, folder):
        self.pipe = os.open(folder / NAME, os.O_RDWR | os.O_NONBLOCK)

    def take(self, most=99):
        """Take as many tokens as there are, or fewer; return how many."""
        try:
            return len(os.read(self.pipe, most))
        except BlockingIOError:
            return 0

    def put(self, number):
        os.write(self.pipe, b"+" * number)


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a program in a slot."""
    jobserver = Jobserver()

    def start(slot, own=0):
        folder = tmp_path / str(slot)
        folder.mkdir()
        jobserver.open(slot, str(folder), own)
        return Make(folder)

    start.jobserver = jobserver
    return start


def test_tokens_go_there_and_back(start):
    jobserver, make = start.jobserver, start(0)
    assert make.take() == 0
    jobserver.share(3)
    assert jobserver.lent == 3
    assert make.take(2) == 2
    jobserver.take_back()
    assert jobserver.lent == 2
    assert make.take() == 0
    make.put(1)
    jobserver.take_back()
    assert jobserver.lent == 1


def test_a_job_keeps_its_own(start):
    jobserver, make = start.jobserver, start(0, own=2)
    jobserver.share(1)
    assert make.take() == 3
    make.put(3)
    jobserver.take_back()
    assert jobserver.lent == 0
    jobserver.take_back()
    assert make.take() == 2


def test_what_a_killed_program_held_is_back_when_its_job_ends(start):
    jobserver, make = start.jobserver, start(0)
    jobserver.share(3)
    assert make.take() == 3
    jobserver.close(0)
    assert jobserver.lent == 0
    jobserver.close(0)
    jobserver.share(3)
    assert jobserver.lent == 0


def test_tokens_that_a_program_makes_up_are_no_ones_else(start):
    jobserver, liar, honest = start.jobserver, start(0), start(1)
    liar.put(50)
    jobserver.take_back()
    assert jobserver.lent == 0
    assert honest.take() == 0


def test_tokens_are_shared_evenly(start):
    jobserver, one, other = start.jobserver, start(0), start(1)
    jobserver.share(4)
    assert (one.take(), other.take()) == (2, 2)


def test_tokens_go_where_none_were_left(start):
    jobserver, idle, busy = start.jobserver, start(0), start(1)
    jobserver.share(4)
    assert busy.take() == 2
    jobserver.take_back()
    jobserver.share(4 - jobserver.lent)
    assert (idle.take(), busy.take()) == (0, 2)


def test_a_pipe_to_wait_for_has_nothing_in_it(start):
    jobserver, make = start.jobserver, start(0, own=1)
    start(1)
    jobserver.share(1)
    assert make.take() == 2
    jobserver.take_back()
    (pipe,) = jobserver.pipes
    with pytest.raises(BlockingIOError):
        os.read(pipe, 1)
