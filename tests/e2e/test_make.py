"""GNU make in a step: as many processes at once as forge has idle cores, over all targets together."""

import shutil

import pytest

MAKEFILE = """\
JOBS := 1 2 3 4 5 6 7 8
all: $(JOBS)
$(JOBS):
\t@echo begin $$(date +%s%N); sleep 0.15; echo end $$(date +%s%N)
sub:
\t@$(MAKE) --no-print-directory -f $(firstword $(MAKEFILE_LIST)) all
killed: $(JOBS) kill
kill:
\t@sleep 0.1; kill -KILL $$PPID; sleep 1
"""
TIMED = "echo begin $(date +%s%N); sleep 0.1; echo end $(date +%s%N)"
STEPS = {"begin": 1, "end": -1}
RULES = '''\
from forgefile import Rule, Run, Sandbox, Source


class Make(Rule):
    """What make prints goes to the log; the output is an empty file."""

    makefile: Source
    goal: str = "all"
    jobserver: bool = True
    words: tuple[str, ...] = ()

    def steps(self, box: Sandbox):
        argv = ("make", *self.words, "-f", box.path(self.makefile), self.goal)
        yield Run(argv, jobserver=self.jobserver)
        yield Run(("touch", box.out))
'''
BEGIN = ("from made import Make", 'm = forge.source("Makefile")', 'link = forge.pool("link", 1)')


@pytest.fixture
def makes(machine):
    if shutil.which("make") is None:
        pytest.skip("make is missing: package make")
    machine.write("Makefile", MAKEFILE)
    machine.write("made.py", RULES)
    return machine


def most(ended, *targets):
    """Return how many recipes ran at once at most, and how many in all, by the times that they print."""
    lines = [event["line"] for event in ended.events if event["event"] == "output" and event["target"] in targets]
    times = sorted((int(at), word) for word, _, at in (line.partition(" ") for line in lines) if word in STEPS)
    now, found = 0, 0
    for _, word in times:
        now += STEPS[word]
        found = max(found, now)
    return found, sum(word == "begin" for _, word in times)


@pytest.mark.parametrize("goal", ["all", "sub"])
@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_make_uses_the_idle_cores(makes, jobs, goal):
    makes.forgefile(*BEGIN, f'forge.target("a", Make(makefile=m, goal="{goal}"))')
    ended = makes.json("-j", str(jobs))
    assert most(ended, "a") == (jobs, 8)
    assert "warning" not in ended.out


def test_without_it_make_runs_one_at_a_time(makes):
    makes.forgefile(*BEGIN, 'forge.target("a", Make(makefile=m, jobserver=False))')
    assert most(makes.json("-j", "4"), "a") == (1, 8)


def test_two_makes_share_the_cores(makes):
    makes.forgefile(*BEGIN, *(f'forge.target("{name}", Make(makefile=m, words=("NAME={name}",)))' for name in "ab"))
    ended = makes.json("-j", "4")
    found, count = most(ended, "a", "b")
    assert count == 16
    assert 2 < found <= 4


def test_a_target_takes_its_core_from_make(makes):
    """A target that becomes ready while make uses all cores waits for one of them, not for make's end."""
    makes.forgefile(
        *BEGIN,
        'first = forge.target("first", Noisy(line="sleep 0.1; echo >$OUT"))',
        *(
            f'forge.target("t{n}", Noisy(line="{TIMED}; echo >$OUT", inputs=(first,)))'
            for n in "12"
        ),
        'forge.target("a", Make(makefile=m))',
    )
    ended = makes.json("-j", "2")
    found, _ = most(ended, "a", "t1", "t2")
    assert found == 2
    order = [event["target"] for event in ended.events if event["event"] == "built"]
    assert order.index("t1") < order.index("a")


def test_the_cores_of_a_target_are_its_makes(makes):
    makes.forgefile(*BEGIN, 'forge.target("a", Make(makefile=m), cores=3)')
    assert most(makes.json("-j", "3"), "a") == (3, 8)
    makes.forgefile(*BEGIN, 'forge.target("b", Make(makefile=m, words=("-k",)), cores=9)')
    assert most(makes.json("-j", "2"), "b") == (2, 8)


def test_a_killed_make_takes_no_core_with_it(makes):
    makes.forgefile(
        *BEGIN,
        'forge.target("bad", Make(makefile=m, goal="killed"), pools=(link,))',
        'forge.target("good", Make(makefile=m), pools=(link,))',
    )
    ended = makes.json("-k", "-j", "4", status=1)
    assert "SIGKILL" in ended.only("failed", "bad")["message"]
    assert most(ended, "good") == (4, 8)


def test_make_in_a_tree_and_in_a_script(makes):
    makes.write("run.sh", "#!/bin/sh\nexec make -f $FORGE_SOURCES/Makefile\n")
    makes.forgefile(
        *BEGIN,
        'root = forge.target("root", Root())',
        'script = forge.source("run.sh")',
        'forge.target("a", Script(base=root, script=script, inputs=(m,), where="host", jobserver=True))',
        'forge.target("b", Command(argv=("make", "-f", m), stdout=True, jobserver=True))',
    )
    assert most(makes.json("-j", "3", "a"), "a") == (3, 8)
    makes.json("-j", "3", "b")
    assert makes.read("b").count("begin") == 8
