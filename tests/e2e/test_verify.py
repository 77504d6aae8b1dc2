# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""What is built again, under other conditions, is the same; what is not is named, with what differs."""

import os
import re
import shutil
import signal

import pytest
from conftest import COMMAND, first_lines, listing, nothing_left, processes_of, settle, until

FIRST = "mknod /root/node c 1 3 2>/dev/null"
"""Is true in root's first build only: in the second, root is so in a user namespace."""


def verdict(project, *words, status):
    """Verify and return the events."""
    ended = project.forge("verify", "--json", *words, status=status)
    told = ended.only("verified")
    assert ended.events[-1] == told
    assert told["status"] == status
    assert os.listdir(project / ".forge/staging") == []
    return ended


def sources(project):
    for name in "abcdef":
        project.write(f"src/{name}/{name}{name}", name)
        project.write(f"src/{name}{name}", name)


GOOD = (
    'root = forge.target("root", Root(extra="x"))',
    'tree = forge.target("tree", Change(base=root, line="echo y >/etc/y; rm /etc/extra; rm -r /root; mkdir /root", inside=True))',
    'linked = forge.target("linked", Change(base=tree, line="for each in /usr/bin/s*; do ln $each /etc; done; chown 1:1 /etc/y", inside=True))',
    'forge.target("over", Overlay(base=linked, source=forge.source("src")))',
    'forge.target("sorted", Shell(line="cd $1; ls -R; umask; hostname; pwd; id; locale; env | sort; date +%Z", inputs=(forge.source("src"),)))',
    'forge.target("disk.txt", Shell(line="cd $1; find . -exec stat -c \'%n %a %u %g %s %Y\' {} + | sort", inputs=(tree,)))',
)


def test_what_is_the_same(machine):
    """Trees of all kinds pass; the project and its store are as a build leaves them."""
    sources(machine)
    machine.forgefile(*GOOD)
    machine.forge()
    before = listing(machine.root / ".forge/layers"), os.stat(machine / "disk.txt")
    ended = verdict(machine, status=0)
    assert ended.targets("same") == ["disk.txt", "linked", "over", "root", "sorted", "tree"]
    assert set(ended.only("verifying")["varied"]) >= {"user", "time zone", "locale", "umask", "folder", "directory order"}
    assert ended.targets("started") == ended.targets("same")
    assert (listing(machine.root / ".forge/layers"), os.stat(machine / "disk.txt")) == before
    machine.nothing_runs()


def test_what_is_not_promised_to_repeat_is_made_again_and_not_compared(project):
    project.forgefile("class Clock(Shell):", "    repeats = False", 'forge.target("a", Clock(line="date +%N"))')
    ended = verdict(project, "a", status=0)
    assert ended.only("same")["compared"] is False
    assert "; its rule does not promise the same bits" in project.forge("verify", "a").out
    project.forgefile("class Clock(Shell):", "    repeats = False", 'forge.target("a", Clock(line="date +%N; {FIRST} || exit 3"))'.replace("{FIRST}", FIRST))
    assert verdict(project, "a", status=1).targets("failed") == ["a"]


def test_what_is_not_built_is_built_first(project):
    project.forgefile('forge.target("a", Shell(line="echo a"))', 'forge.target("b", Shell(line="date +%N"))')
    ended = verdict(project, "a", status=0)
    assert ended.targets("built") == ended.targets("same") == ["a"]
    assert project.read("a") == "a\n"
    assert not (project / "b").exists()
    told = project.forge("verify", "b", status=1).out
    assert "building b (never built)" in told
    assert told.splitlines()[-1].startswith("not the same after ")


def test_a_first_build_that_fails(project):
    project.forgefile('forge.target("a", Noisy(line="exit 3"))')
    ended = project.forge("verify", "--json", status=1)
    assert ended.events[-1]["event"] == "finished"
    assert not ended.targets("same")


CONDITIONS = {
    "clock": 'forge.target("a", Shell(line="date +%N"))',
    "chance": 'forge.target("a", Shell(line="head -c 20 /dev/urandom"))',
    "user": f'forge.target("a", Shell(line="{FIRST} && echo root || echo user"))',
    "number of cores": 'forge.target("a", Shell(line="nproc"))',
    "order of a source": 'forge.target("a", Shell(line="ls -U $1", inputs=(forge.source("src"),)))',
    "order below": 'forge.target("a", Shell(line="ls -U $1/one/two", inputs=(forge.source("deep"),)))',
    "order of a tree": 'forge.target("a", Shell(line="ls -U $1/usr/bin", inputs=(forge.target("root", Root()),)))',
    "order of a base": 'forge.target("a", Change(base=forge.target("root", Root()), line="ls -U /usr/bin >/etc/order", inside=True))',
    "time zone": 'import time; forge.target("a", Shell(line=f"echo {time.timezone}"))',
    "locale": 'import os; forge.target("a", Shell(line="echo " + os.environ.get("LC_ALL", "none")))',
    "umask": 'import os; mask = os.umask(0); os.umask(mask); forge.target("a", Shell(line=f"echo {mask}"))',
    "folder": 'forge.target("a", Shell(line=f"echo {__file__}"))',
    "current folder": 'import os; forge.target("a", Shell(line=f"echo {os.getcwd()}"))',
    "hashes": 'forge.target("a", Shell(line="echo " + str(hash("a"))))',
}


@pytest.mark.parametrize("condition", CONDITIONS)
def test_what_depends_on_a_condition(project, condition):
    if condition == "number of cores" and len(os.sched_getaffinity(0)) == 1:
        pytest.skip("this machine has one core")
    sources(project)
    for name in "abcdef":
        project.write(f"deep/one/two/{name}")
    project.forgefile(CONDITIONS[condition])
    differs = verdict(project, "a", status=1).only("differs")
    assert differs["target"] == "a"
    assert any("content from byte " in words for words in differs["differences"])
    assert differs["location"].startswith("Forgefile.py:")
    by_forgefile = condition in ("time zone", "locale", "umask", "folder", "current folder", "hashes")
    assert any(words.startswith("made otherwise: ") for words in differs["differences"]) == by_forgefile


def test_the_first_that_differs_is_named_and_what_is_above_is_not(project):
    project.forgefile(
        'root = forge.target("root", Root())',
        'bad = forge.target("bad", Change(base=root, line="echo x >$OUT/etc/same; mkdir $OUT/new; date +%N >$OUT/new/when"))',
        'forge.target("above", Change(base=bad, line="echo x >/etc/x", inside=True))',
    )
    ended = verdict(project, "above", status=1)
    assert ended.targets("same") == ["root"]
    assert ended.targets("skipped") == ["above"]
    differs = ended.only("differs")
    (words,) = differs["differences"]
    assert re.match(r"new/when: content from byte \d: '", words)
    assert (project.root / differs["first"] / "new/when").read_text() != (project.root / differs["second"] / "new/when").read_text()
    told = project.forge("verify", "above", status=1).out
    assert "differs bad after " in told
    assert f"  {words[:20]}" in told
    assert "skipped above: bad differs\n" in told
    assert "1 same, 1 differs, 1 not compared\n" in told
    project.nothing_runs("above")
    assert os.path.exists(differs["second"]), "kept until it is built again"
    project.forge("clean")
    assert not os.path.exists(differs["second"])


def test_diffoscope_tells_more(project):
    if shutil.which("diffoscope") is None:
        pytest.skip("diffoscope is missing: package diffoscope-minimal")
    project.forgefile('forge.target("a.gz", Shell(line="{ echo one; date +%N; } | gzip"))')
    report = verdict(project, status=1).only("differs")["report"]
    assert any(line.endswith(" one") for line in report), "it looks into the archive"


def test_a_target_that_cannot_be_built_again(project):
    project.forgefile(f'forge.target("a", Noisy(line="{FIRST} && echo >$OUT"))', 'forge.target("b", Shell(line="echo b"))')
    ended = verdict(project, "-j1", status=1)
    failed = ended.only("failed")
    assert failed["target"] == "a"
    assert "user" in failed["hint"]
    assert "log" not in failed, "it is gone by now"
    assert ended.targets("same") + ended.targets("skipped") == ["b"]


def test_only_what_was_fetched_is_shared(project):
    """What steps without network keep in a cache is made again; downloads are not."""
    project.write("Forgefile.py", (
        "from forgefile import Cache, Forge, Rule, Run\n"
        "class Cached(Rule):\n"
        "    network: bool\n"
        "    def steps(self, box):\n"
        "        line = 'cd $1; [ -e word ] || date +%N >word; cat word'\n"
        "        cache = Cache(name=f'words-{self.network}', path=f'{box.tmp}/cache')\n"
        "        yield Run(('sh', '-ec', line, 'sh', cache.path), stdout=box.out, caches=(cache,), network=self.network)\n"
        "def build(forge: Forge) -> None:\n"
        "    forge.target('fetched', Cached(network=True))\n"
        "    forge.target('made', Cached(network=False))\n"
    ))  # fmt: skip
    ended = verdict(project, "-j1", status=1)
    assert ended.targets("same") == ["fetched"]
    assert ended.only("differs")["target"] == "made"


def test_what_is_fetched_may_have_changed(project):
    project.forgefile('forge.target("a", Shell(line="date +%N", network=True))')
    assert "may have changed" in verdict(project, status=1).only("differs")["hint"]


def test_the_options_of_other_verbs(project):
    project.write("sub/common/word", "word")
    project.write("sub/p/other.py", (
        "from forgefile import Forge\nfrom forgefile.rules import Command\n"
        "def build(forge: Forge) -> None:\n"
        "    forge.target('a', Command(argv=('cat', forge.source('../common/word')), stdout=True))\n"
        "    forge.target(forge.option('n', 'b'), Command(argv=('date', '+%N'), stdout=True))\n"
    ))  # fmt: skip
    words = ("verify", "-C", "sub/p", "-f", "other.py", "--store", "../store", "-D", "n=c", "-j", "2")
    assert "same a in " in project.forge(*words, "a").out
    assert "differs c after " in project.forge(*words, "c", status=1).out
    assert "there is no target 'b'" in project.forge(*words, "b", status=2).err
    assert not (project / "sub/p/.forge").exists()


def test_a_forgefile_that_is_another_when_it_is_read_again(project):
    project.forgefile('import os; forge.target(os.environ.get("TZ", "none").strip("<>"), Shell(line="echo"))')
    assert "there is no target 'none'" in project.forge("verify", status=2).err
    assert os.listdir(project / ".forge/staging") == []


def test_no_targets_are_the_same(project):
    project.forgefile("pass")
    assert project.forge("verify").out.splitlines()[-1].endswith(": nothing to build")


def test_a_disk_that_fills(project, small_disk):
    """The second build fails; what the first made stays, and the next forge has room."""
    project.forgefile('forge.target("big", Shell(line="head -c 100000000 /dev/zero | tr \\\\0 x"))')
    settle()
    kept = shutil.copy(project / "Forgefile.py", project.root.parent)
    script = f"mount -t tmpfs -o size=180m forge-test {project.root}; cd {project.root}; cp {kept} .; forge() {{ {' '.join(COMMAND)} \"$@\"; }}"
    checks = 'if forge verify; then exit 9; fi; [ -z "$(ls .forge/staging)" ]; forge; wc -c <big; exit'
    ended = project.forge(prefix=small_disk(f"{script}; {checks}"))
    assert "failed big after " in ended.out
    assert "not the same after " in ended.out
    assert ended.out.endswith("big is up to date\n100000000\n")
    assert ended.err == ""


# Interruptions -------------------------------------------------------------------------------------------------------


@pytest.fixture
def begun(project):
    """A second build whose one target sleeps; afterwards nothing is left, and the first is as it was."""
    project.forgefile(
        'root = forge.target("root", Root())',
        f'forge.target("slow", Noisy(line="{FIRST} || {{ echo begun-again; sleep 600 & wait; }}; echo slow >$OUT"))',
        'forge.target("new", Shell(line="echo new"))',
    )
    project.forge("root", "slow")
    with nothing_left(project):
        process = project.start("verify", "--json", "root", "slow", "-j2")
        read = first_lines(process, ["begun-again"])
        yield project, process, read
        if process.poll() is None:
            process.kill()
            process.communicate()
        until(lambda: not processes_of(project.root), 5)
    settle()
    assert project.json("root", "slow").targets("current") == ["root", "slow"]
    project.forge("new")
    assert os.listdir(project / ".forge/staging") == []
    assert project.read("slow") == "slow\n"


@pytest.mark.parametrize("whole_group", [True, False])
def test_an_interrupt(begun, whole_group):
    project, process, _ = begun
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert '"status": 130' in out.splitlines()[-1]
    assert os.listdir(project / ".forge/staging") == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_signal(begun, number):
    _, process, _ = begun
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode == -number


def test_the_end_of_the_second_build(begun):
    """Killed by someone else, it is told."""
    project, process, _ = begun
    with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as stream:
        (second,) = map(int, stream.read().split())
    os.kill(second, signal.SIGKILL)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "the second build ended unexpectedly" in err
    assert os.listdir(project / ".forge/staging") == []


def test_another_forge_waits(begun):
    """The store is locked meanwhile; who has nothing to run need not wait."""
    project, process, _ = begun
    assert project.json("root").targets("current") == ["root"]
    other = project.start("--json", "new")
    first_lines(other, [f"process {process.pid}"])
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    other.communicate(timeout=20)
    assert other.returncode == 0
