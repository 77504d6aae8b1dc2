# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""What a dry run predicts: time, downloads and room, from what ran before. It writes and runs nothing."""

import re
from typing import Any

import pytest
from conftest import PREAMBLE, Project, nothing_left, settle

RULES = (
    PREAMBLE
    + '''
from forgefile.model import Cache


class Fetch(Rule):
    """A file made of one that is downloaded into a shared folder unless it is there; the network is a lent one."""

    size: int
    inputs: tuple[Any, ...] = ()
    downloads: bool = True
    word: str = ""

    def steps(self, box: Sandbox) -> Iterable[Step]:
        line = """cd /run/forge/tmp/fetched
            [ -e "$1" ] || head -c "$1" /dev/zero >"$1"
            head -c 1 "$1" | od
        """
        caches = (Cache(name="fetched", path=f"{box.tmp}/fetched", downloads=self.downloads),)
        words = ("sh", "-ec", line, "sh", str(self.size), *(box.path(each) for each in self.inputs))
        yield Run(words, stdout=box.out, env={"WORD": self.word}, network=True, caches=caches)


'''
)


def predicted(project: Project, *words: str) -> dict[str, Any]:
    """Return what a dry run predicts, which leaves all as it is."""
    settle()
    before = project.store()
    with nothing_left(project):
        found = project.json("-n", *words).only("predicted")
    assert project.store() == before
    return found


CHAIN = (
    'low = forge.target("low", Shell(line="sleep 0.2; cat $1", inputs=(forge.source("source"),)))',
    'left = forge.target("left", Shell(line="sleep 0.3; cat $1", inputs=(low,)))',
    'right = forge.target("right", Shell(line="sleep 0.3; cat $1", inputs=(low,)))',
    'forge.target("top", Shell(line="cat $1 $2", inputs=(left, right)))',
)


@pytest.fixture
def chain(project: Project) -> Project:
    """A project with four targets of known durations, in which the lowest is dirty."""
    project.forgefile(*CHAIN)
    project.write("source", "one")
    project.forge()
    project.write("source", "two")
    return project


def test_time_is_that_of_the_schedule(chain):
    seconds = {e["target"]: e["expected_s"] for e in chain.json("-n").events if e["event"] == "planned"}
    alone, two = predicted(chain, "-j1"), predicted(chain, "-j2")
    assert alone["least_s"] == two["least_s"] == seconds["low"]
    assert alone["most_s"] == pytest.approx(sum(seconds.values()))
    path = seconds["low"] + max(seconds["left"], seconds["right"]) + seconds["top"]
    assert two["most_s"] == pytest.approx(path)
    assert (alone["jobs"], two["jobs"], two["unknown"]) == (1, 2, 0)


def test_time_counts_pools(chain):
    pool, low, left, right, top = ('net = forge.pool("net", 1)', *CHAIN)
    chain.forgefile(pool, low, left[:-1] + ", pools=(net,))", right[:-1] + ", pools=(net,))", top)
    assert predicted(chain, "-j2")["most_s"] == pytest.approx(predicted(chain, "-j1")["most_s"])


def test_what_never_ran_is_not_counted(chain):
    chain.forgefile(*CHAIN, 'forge.target("new", Shell(line="echo"))')
    found = predicted(chain)
    assert found["unknown"] == 1
    assert found["least_s"] > 0
    assert "1 never timed" in chain.forge("-n").out
    fresh = predicted(chain, "new")
    assert fresh["unknown"] == 1
    assert not fresh.keys() & {"least_s", "most_s", "disk_bytes"}
    assert chain.forge("-n", "new").out.splitlines()[-1] == "1 would run; never timed yet"


def test_nothing_to_do_takes_nothing(chain):
    chain.forge()
    found = predicted(chain)
    assert [found[name] for name in ("least_s", "most_s", "unknown", "download_bytes", "disk_bytes")] == [0, 0, 0, 0, 0]
    assert chain.forge("-n").out.splitlines()[-1] == "4 up to date"


def test_a_project_without_a_store(project):
    project.forgefile('forge.target("a", Shell(line="echo"))')
    assert predicted(project)["free_bytes"] > 0
    assert not (project / ".forge").exists()


def test_disk_is_what_the_results_took(project):
    project.forgefile(
        'size = forge.option("size", "3000000")',
        'file = forge.target("file", Shell(line=f"head -c {size} /dev/zero"))',
        'tree = forge.target("tree", Empty(word="x" * int(size)))',
        'forge.target("top", Change(base=tree, line="head -c 500000 /dev/zero >$OUT/etc/more"))',
    )
    project.forge()
    found = predicted(project, "-D", "size=1000")
    assert 6_500_000 < found["disk_bytes"] < 6_700_000
    assert predicted(project, "-D", "size=1000", "file")["disk_bytes"] < 3_100_000
    assert re.search(r"\n(about|up to) 6\.\d MiB of disk, .* free\n", project.forge("-n", "-D", "size=1000").out)


FETCH = (
    'base = forge.target("base", Shell(line="cat $1", inputs=(forge.source("source"),)))',
    'forge.target("a", Fetch(size=3000, inputs=(base,)))',
    'forge.target("b", Fetch(size=5000, inputs=(base,)))',
    'forge.target("c", Fetch(size=5000, inputs=(base,), word="not equal to b"))',
)


@pytest.fixture
def fetched(project: Project) -> Project:
    """A project with downloads, in which what is below those that download is dirty."""
    project.forgefile(*FETCH, preamble=RULES)
    project.write("source", "one")
    project.forge("-j", "1")  # what another target reads in the same moment may be taken for one's own
    project.write("source", "two")
    return project


def test_downloads_are_those_that_the_caches_have_no_more(fetched):
    assert predicted(fetched)["download_bytes"] == 0
    (fetched / ".forge/cache/fetched/3000").unlink()
    assert predicted(fetched)["download_bytes"] == 3000
    (fetched / ".forge/cache/fetched/5000").unlink()
    assert predicted(fetched)["download_bytes"] == 8000, "what two need is downloaded once"
    assert predicted(fetched, "c")["download_bytes"] == 5000, "also what another target had downloaded"
    assert "7.8 KiB to download again; " in fetched.forge("-n").out
    fetched.forge()
    fetched.write("source", "three")
    assert predicted(fetched)["download_bytes"] == 0


def test_downloads_of_other_steps_are_unknown(fetched):
    fetched.forgefile(*FETCH, 'forge.target("d", Fetch(size=7000))', preamble=RULES)
    found = predicted(fetched)
    assert found["downloads_unknown"] == ["d"]
    assert "download_bytes" not in found
    assert "downloads unknown for d; " in fetched.forge("-n").out
    base, *_ = FETCH
    fetched.forgefile(base, 'forge.target("a", Fetch(size=3001, inputs=(base,)))', preamble=RULES)
    assert predicted(fetched)["downloads_unknown"] == ["a"]


@pytest.mark.parametrize("rule", ['Shell(line="cat $1", inputs=(base,), network=True)', "Fetch(size=9, inputs=(base,), downloads=False)"])
def test_downloads_that_no_cache_shows_are_unknown(fetched, rule):
    base, *_ = FETCH
    fetched.forgefile(base, f'forge.target("a", {rule})', preamble=RULES)
    fetched.forge()
    fetched.write("source", "three")
    assert predicted(fetched)["downloads_unknown"] == ["a"]


def test_downloads_on_a_disk_that_notes_no_reads_are_unknown(fetched, small_disk):
    mount = f'mount -t tmpfs -o noatime,size=80m none "{fetched.root}/.forge"; cd "{fetched.root}"'
    ended = fetched.forge(prefix=small_disk(f'{mount}; "$@" -q; echo three >source; exec "$@" -n --json'))
    assert ended.events[-1]["downloads_unknown"] == ["a", "b", "c"]
