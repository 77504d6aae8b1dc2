"""Steps that do not behave: each gives the right result or failure, and leaves nothing behind."""

import os

import pytest


def failed(project, target="bad"):
    """Build what fails; return how."""
    return project.json("-k", status=1).only("failed", target)


# Too long ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["", "tree"])
def test_what_takes_too_long_is_ended(machine, base):
    slow = "echo begun; sleep 600 & sleep 600; echo no"
    bad = {
        "": f'forge.target("bad", Noisy(line="{slow}"), timeout=0.5)',
        "tree": f'forge.target("bad", Change(base=root, line="{slow}", inside=True), timeout="0.5s")',
    }[base]
    machine.forgefile('root = forge.target("root", Root())', bad, 'forge.target("good", Shell(line="echo good"))')
    told = failed(machine)
    assert told["message"] == "took longer than 0.5 s"
    assert told["hint"] == "timeout=… where it is declared sets the limit"
    assert told["tail"] == ["begun"]
    assert told["location"].startswith("Forgefile.py:")
    assert machine.read("good") == "good\n"
    assert os.listdir(machine / ".forge/staging") == []


def test_what_takes_too_long_may_tidy_up_first(machine):
    line = "trap 'echo tidied >&2; exit 0' TERM; echo begun; sleep 600 & wait"
    machine.forgefile(f'forge.target("bad", Noisy(line="{line}"), timeout=0.5)')
    told = failed(machine)
    assert (told["message"], told["tail"]) == ("took longer than 0.5 s", ["begun", "tidied"])


def test_what_ignores_sigterm_is_killed(machine):
    line = "trap '' TERM; echo begun; sleep 600 & while :; do sleep 600; done"
    machine.forgefile(f'forge.target("bad", Noisy(line="{line}"), timeout=0.5)')
    assert failed(machine)["message"] == "took longer than 0.5 s"


def test_what_prints_for_ever_is_ended(machine):
    machine.forgefile('forge.target("bad", Noisy(line="yes"), timeout=0.5)')
    told = failed(machine)
    assert told["message"] == "took longer than 0.5 s"
    assert set(told["tail"]) == {"y"}


def test_all_steps_of_a_target_share_its_time(machine):
    machine.write(
        "slow.py",
        """\
from forgefile import Rule, Run, Sandbox


class Slow(Rule):
    def steps(self, box: Sandbox):
        for number in range(100):
            yield Run(("sleep", "0.1"))
            yield Run(("sh", "-c", f"echo {number}"))
""",
    )
    machine.forgefile("from slow import Slow", 'forge.target("bad", Slow(), timeout=1)')
    ended = machine.json(status=1)
    assert ended.only("failed")["message"] == "took longer than 1 s"
    assert 0 < sum(event["event"] == "output" for event in ended.events) < 20


def test_a_limit_that_is_kept_changes_nothing(machine):
    machine.forgefile('forge.target("a", Shell(line="echo a"))')
    machine.ran()
    machine.forgefile('forge.target("a", Shell(line="echo a"), timeout="1h")')
    machine.nothing_runs()
