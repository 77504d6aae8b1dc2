"""Steps that do not behave: each gives the right result or failure, and leaves nothing behind."""

import os
import re
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import first_lines, until


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


# Sometimes -----------------------------------------------------------------------------------------------------------

FLAKY = '''\
from forgefile import Cache, Rule, Run, Sandbox, Tree, Write


class Flaky(Rule):
    """A tree that is made at a later try: each leaves a file in a folder that outlives it, and one in the tree."""

    output = "tree"

    base: Tree | None = None
    succeeds: int = 2
    retries: int = 2
    flaky: tuple[str, ...] = ()
    says: str = "the mirror hiccups"

    def steps(self, box: Sandbox):
        line = f"""
            ls {box.out}/made {box.tmp}/made 2>/dev/null && exit 9
            echo >{box.out}/made; echo >{box.tmp}/made
            touch {box.tmp}/tries/$(ls {box.tmp}/tries | grep -c try)-try
            [ $(ls {box.tmp}/tries | grep -c try) = {self.succeeds} ] && exit 0
            echo {self.says}
            exit 7
        """
        yield Write("/before", root=box.out, text="before")
        caches = (Cache(name="tries", path=f"{box.tmp}/tries"),)
        yield Run(("sh", "-c", line), caches=caches, retries=self.retries, flaky=self.flaky)
'''


@pytest.fixture
def flaky(machine):
    machine.write("flaky.py", FLAKY)
    return machine


@pytest.mark.parametrize("base", ["", ", base=root"])
def test_what_fails_once_is_tried_again_from_nothing(flaky, base):
    target = 'forge.target("a", Flaky(flaky=("mirror",)%s))'
    flaky.forgefile("from flaky import Flaky", 'root = forge.target("root", Root())', target % base)
    ended = flaky.json()
    assert ended.targets("built") == ["a", "root"]
    told = ended.only("retrying")
    assert (told["target"], told["message"]) == ("a", "exit status 7")
    assert (told["number"], told["tries"], told["wait_s"]) == (2, 3, 2)
    tree = flaky.exported("a")
    assert (tree / "made").exists()
    assert (tree / "before").read_text() == "before"
    log = flaky.forge("log", "a").out
    assert "the mirror hiccups\nforge: exit status 7; try 2 of 3 in 2 s\n+ write /before\n" in log
    flaky.nothing_runs()


def test_every_try_is_told(flaky):
    flaky.forgefile("from flaky import Flaky", 'forge.target("a", Flaky(succeeds=9, retries=1))')
    out = flaky.forge(status=1).out
    assert "retrying a: exit status 7; try 2 of 2 in 2 s\n" in out
    assert ": exit status 7, after 2 tries\n" in out
    assert os.listdir(flaky / ".forge/staging") == []


def test_what_no_try_will_mend_is_not_tried_again(flaky):
    flaky.forgefile("from flaky import Flaky", 'forge.target("bad", Flaky(flaky=("mirror",), says="no such package"))')
    ended = flaky.json(status=1)
    assert ended.targets("retrying") == []
    assert ended.only("failed")["message"] == "exit status 7"


def test_the_time_of_a_target_is_that_of_all_its_tries(flaky):
    flaky.forgefile("from flaky import Flaky", 'forge.target("bad", Flaky(succeeds=9), timeout=1)')
    ended = flaky.json(status=1)
    assert ended.targets("retrying") == []
    assert ended.only("failed")["message"] == "exit status 7"


def test_retries_decide_no_content(flaky):
    flaky.forgefile("from flaky import Flaky", 'forge.target("a", Flaky(succeeds=1))')
    flaky.ran()
    flaky.forgefile("from flaky import Flaky", 'forge.target("a", Flaky(succeeds=1, retries=5, flaky=("mirror",)))')
    flaky.nothing_runs()


def test_a_command_that_is_tried_again(flaky):
    line = flaky.forgefile('forge.target("a", Command(argv=("false",), stdout=True, retries=-1))')
    assert f"Forgefile.py:{line}: Command field 'retries': is -1" in flaky.forge(status=2).err
    flaky.forgefile('forge.target("bad", Command(argv=("false",), stdout=True, retries=1))')
    assert failed(flaky)["message"] == "exit status 1, after 2 tries"


# What is kept of a failure -------------------------------------------------------------------------------------------

HALF = (
    'root = forge.target("root", Root())',
    'forge.target("d/file", Noisy(line="echo half >$OUT; exit %s" % forge.option("file", "1")))',
    'line = "echo half >/etc/half; exit %s" % forge.option("tree", "1")',
    'forge.target("tree", Change(base=root, line=line, inside=True))',
    'forge.target("new", Noisy(line="false"))',
)


def kept(project):
    """Return what is kept: the names of targets, as the store writes them."""
    return sorted(os.listdir(project / ".forge/failed"))


def test_what_a_failed_target_made_is_kept(machine):
    machine.forgefile(*HALF)
    file, tree = (Path(failed(machine, name)["kept"]) for name in ("d/file", "tree"))
    assert file == machine / ".forge/failed/d%2Ffile"
    assert (file / "out").read_text() == "half\n"
    assert (tree / "out/etc/half").read_text() == "half\n"
    assert not (tree / "out/usr/bin").exists(), "of a tree on another, what was changed"
    assert failed(machine, "new").get("kept") is None
    assert f"  kept         {file}\n" in machine.forge("d/file", status=1).out


def test_what_is_kept_goes_when_it_is_replaced_or_built(machine):
    machine.forgefile(*HALF)
    machine.json("-k", status=1)
    assert kept(machine) == ["d%2Ffile", "tree"], "all that failed in one build"
    machine.json("tree", status=1)
    assert kept(machine) == ["tree"], "and nothing of an earlier one"
    machine.json("d/file", "-D", "file=0")
    assert kept(machine) == ["tree"]
    machine.json("tree", "-D", "tree=0")
    assert kept(machine) == []
    machine.json("tree", "-D", "tree=0 || true")
    machine.json("-k", status=1)
    assert kept(machine) == ["d%2Ffile", "tree"]
    assert machine.json("tree", "-D", "tree=0").targets("restored") == ["tree"]
    assert kept(machine) == ["d%2Ffile"], "restored is as good as built"
    machine.forge("clean", "d/file")
    assert kept(machine) == []
    machine.json("tree", status=1)
    machine.forge("clean")
    assert kept(machine) == []


def test_what_is_kept_is_no_result(machine):
    """It is never served, and a target begins from nothing after it."""
    machine.forgefile(*HALF)
    machine.json("-k", status=1)
    line = machine.read("Forgefile.py").replace("echo half >$OUT; exit", "cat $OUT || true; echo whole >$OUT; exit")
    machine.write("Forgefile.py", line)
    ended = machine.json("d/file", "-D", "file=0")
    assert machine.read("d/file") == "whole\n"
    assert [event["line"] for event in ended.events if event["event"] == "output"] == [
        "cat: /run/forge/out: No such file or directory"
    ]


# What is left behind -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("status", [0, 1])
def test_background_processes_end_with_their_step(machine, inside, status):
    """Also when they hold the step's output, have a session of their own, ignore signals, or wait to write."""
    line = """
        trap '' HUP TERM
        sleep 600 &
        (sleep 600 & exec sleep 600) >/dev/null 2>&1 &
        (sleep 0.1; echo late >>$OUT/late) &
        mkdir -p $OUT/made; exit """
    machine.forgefile(
        'root = forge.target("root", Root())',
        f'line = """{line.replace("$OUT", "") if inside else line}{status}"""',
        f'forge.target("a", Change(base=root, line=line, inside={inside}))',
    )
    ended = machine.json(status=status)
    assert ended.targets("failed" if status else "built")[0] == "a"
    if not status:
        tree = machine.exported("a")
        assert (tree / "made").is_dir()
        assert not (tree / "late").exists()


def test_a_step_that_ends_all_processes(machine):
    machine.forgefile(
        'forge.target("bad", Noisy(line="sleep 600 & kill -KILL -1; wait $!"))',
        'forge.target("good", Noisy(line="kill -KILL 1; echo good >$OUT"))',
    )
    told = failed(machine)
    assert told["message"] == "exit status 137"
    assert "if memory ran out" in told["hint"]
    assert machine.read("good") == "good\n"


def test_a_step_that_closes_its_output(machine):
    machine.forgefile('forge.target("a", Noisy(line="exec >&- 2>&-; sleep 0.2; echo made >$OUT"))')
    machine.forge()
    assert machine.read("a") == "made\n"


def test_an_interrupt_of_what_ignores_signals(machine):
    line = "trap '' INT TERM HUP QUIT; echo begun; while :; do sleep 600; done"
    machine.forgefile(f'forge.target("a", Noisy(line="{line}"))')
    process = machine.start("--json")
    first_lines(process, ['"begun"'])
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert '"skipped"' in out
    assert '"because"' not in out
    assert err == ""
    assert os.listdir(machine / ".forge/staging") == []


# What is printed -----------------------------------------------------------------------------------------------------


def test_a_line_without_an_end(machine):
    machine.forgefile('forge.target("a", Noisy(line="head -c 3000000 /dev/zero | base64 -w0; echo made >$OUT"))')
    ended = machine.json()
    lines = [event["line"] for event in ended.events if event["event"] == "output"]
    assert lines
    assert set("".join(lines)) == {"A"}
    assert max(map(len, lines)) == 2000
    assert Path(machine / ".forge/logs", *os.listdir(machine / ".forge/logs")).read_bytes().endswith(b"A" * 4_000_000)


def test_output_that_is_no_text(machine):
    data = bytes(range(256)) * 40 + b"\xff\xfe\n\r\n\x1b[31m\x00" * 100
    machine.write("data", data)
    machine.forgefile('forge.target("bad", Noisy(line="cat $1; exit 3", inputs=(forge.source("data"),)))')
    told = failed(machine)
    assert told["message"] == "exit status 3"
    assert told["tail"]
    ended = machine.forge(status=1)
    assert "\x1b" not in ended.out
    assert "\x00" not in ended.out
    log = Path(told["log"]).read_bytes()
    assert log.partition(b"\n")[2] == data


PEAK = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[2:])
_, status, usage = os.wait4(process.pid, 0)
open(sys.argv[1], "w").write(str(usage.ru_maxrss))
os._exit(os.waitstatus_to_exitcode(status))
"""
"""Run a command and write to a file how much memory it had at most, and each process that it waited for, in KiB."""


def log_of(out):
    """Return the log that a failure names."""
    return Path(re.search(r"^  log +(.*)$", out, re.MULTILINE)[1])


def test_a_hundred_megabytes(machine):
    """Neither forge's memory nor the log grows with it, and what it ends with is told."""
    machine.forgefile(
        'forge.target("bad", Noisy(line="echo first; yes some words | head -c 100000000; echo; echo last; exit 3"))'
    )
    peak = machine.root.parent / "peak"
    out = machine.forge(prefix=(sys.executable, "-c", PEAK, str(peak)), status=1).out
    assert out.count("    | some words\n") > 10
    assert "    | last\n" in out
    assert int(peak.read_text()) < 100 << 10
    log = log_of(out)
    assert log.stat().st_size < 65 << 20
    text = log.read_bytes()
    assert text.partition(b"\n")[2].startswith(b"first\nsome words\n")
    assert text.endswith(b"\nlast\n")
    assert int(re.search(rb"\nforge: (\d+) bytes are left out here\n", text)[1]) > 30_000_000


def test_a_log_has_every_step_and_try(flaky):
    """The end of a step is kept when there is no more room, and then comes the next one."""
    flaky.write(
        "loud.py",
        """\
from forgefile import Rule, Run, Sandbox


class Loud(Rule):
    def steps(self, box: Sandbox):
        yield Run(("sh", "-c", "yes one | head -c 80000000; echo end of one"))
        yield Run(("sh", "-c", "echo two; exit 1"), retries=1)
""",
    )
    flaky.forgefile("from loud import Loud", 'forge.target("bad", Loud())')
    text = log_of(flaky.forge(status=1).out).read_bytes()
    assert len(text) < 65 << 20
    assert text.count(b"end of one\n+ sh -c 'echo two; exit 1'\n") == 2
    assert text.count(b"try 2 of 2") == 1
    assert text.endswith(b"\ntwo\n")


# Killed --------------------------------------------------------------------------------------------------------------


def parent(pid):
    return int(re.search(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def sleeping(forge):
    """Return the process of a step that sleeps, or None."""
    for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x00599.5\x00":
                above = [pid]
                while above[-1] > 1:
                    above.append(parent(above[-1]))
                if forge in above:
                    return pid
        except OSError:
            continue
    return None


@pytest.mark.parametrize("up", range(3), ids=["the program", "its PID 1", "the worker"])
def test_what_the_kernel_kills(machine, up):
    """Whichever process of a target is killed, that target alone has failed."""
    machine.forgefile(
        'root = forge.target("root", Root())',
        'line = "echo half >/etc/half; exec sleep %s" % forge.option("s", "599.5")',
        'forge.target("bad", Change(base=root, line=line, inside=True))',
        'forge.target("good", Noisy(line="sleep 0.5; echo good >$OUT"))',
        'forge.target("after", Noisy(line="echo after >$OUT"))',
    )
    process = machine.start("--json", "-k", "-j2")
    pid = until(lambda: sleeping(process.pid))
    for _ in range(up):
        pid = parent(pid)
    os.kill(pid, signal.SIGKILL)
    out, err = process.communicate(timeout=60)
    assert err == ""
    assert process.returncode == 1
    told = type(machine.forge("list"))(1, out, err)
    assert told.targets("failed") == ["bad"]
    assert told.targets("built") == ["after", "good", "root"]
    assert "killed by SIGKILL" in told.only("failed")["message"]
    assert "if memory ran out" in told.only("failed")["hint"]
    assert os.listdir(machine / ".forge/staging") == []
    assert machine.ran("-D", "s=0") == ["bad"]


@contextmanager
def little_memory(octets):
    """Yield a prefix that runs a command in a control group with so much memory, under version 1 or 2."""
    old, new = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
    root, limit = (old, "memory.limit_in_bytes") if old.is_dir() else (new, "memory.max")
    group = root / f"forge-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / limit).write_text(str(octets))
    except OSError as error:
        pytest.skip(f"this machine lets nobody limit memory: {error}")
    try:
        yield ("sh", "-c", f'echo $$ >{group}/cgroup.procs; exec "$@"', "sh")
    finally:
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def test_what_takes_all_memory(machine):
    machine.forgefile(
        'forge.target("bad", Noisy(line="echo begun; exec tail /dev/zero"))',
        'forge.target("good", Noisy(line="sleep 0.5; echo good >$OUT"))',
    )
    with little_memory(200 << 20) as prefix:
        told = machine.forge("--json", "-k", "-j2", prefix=prefix, status=1).only("failed")
    assert (told["target"], told["message"], told["tail"]) == ("bad", "killed by SIGKILL", ["begun"])
    assert "if memory ran out" in told["hint"]
    assert machine.read("good") == "good\n"
