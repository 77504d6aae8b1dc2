# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""Building: choice of targets, failures, what runs at once, and the displays."""

import itertools
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import settle

from forgefile import architectures
from forgefile.forge import VERBS

THREE = (
    'a = forge.target("a", Shell(line="echo a"))',
    'b = forge.target("b", Shell(line="echo b >&2; exit 3"))',
    'forge.target("above-b", Shell(line="cat $1", inputs=(b,)))',
    'forge.target("above-above", Shell(line="cat $1", inputs=(a, b)))',
    'forge.target("c", Shell(line="echo c"))',
)


def test_keep_going(project):
    project.forgefile(*THREE)
    ended = project.json("-k", status=1)
    assert ended.targets("built") == ["a", "c"]
    assert ended.targets("failed") == ["b"]
    assert ended.targets("skipped") == ["above-above", "above-b"]
    assert all(e["because"] == "b" for e in ended.events if e["event"] == "skipped")
    assert ended.only("finished")["status"] == 1
    assert (project / "a").exists()
    assert not (project / "b").exists()
    ended = project.json("-k", status=1)
    assert (ended.targets("built"), ended.targets("current")) == ([], ["a", "c"])


def test_the_first_failure_stops_new_work_and_keeps_what_succeeded(project):
    project.forgefile(
        'forge.target("slow", Noisy(line="sleep 1; echo slow >$OUT"))',
        'bad = forge.target("bad", Noisy(line="sleep 0.3; echo oh no; false"))',
        *(f'forge.target("later-{n}", Noisy(line="echo {n} >$OUT"))' for n in range(3)),
    )
    ended = project.json("-j", "2", status=1)
    assert ended.targets("failed") == ["bad"]
    assert ended.targets("built") == ["slow"], "what ran when it failed is let end"
    assert ended.targets("skipped") == ["later-0", "later-1", "later-2"]
    assert project.read("slow") == "slow\n"
    assert project.planned("slow")["slow"][0] == "none"


def test_a_failure_says_everything_that_is_needed(project):
    line = project.forgefile('forge.target("bad", Noisy(line="echo first; echo second >&2; exit 7"))')
    ended = project.forge(status=1)
    text = ended.out + ended.err
    assert "failed bad" in text
    assert "exit status 7" in text
    assert f"Forgefile.py:{line}" in text
    assert "sh -ec 'echo first; echo second >&2; exit 7'" in text
    assert "| first" in text
    assert "| second" in text
    log = next(word for word in text.split() if "/.forge/logs/" in word)
    assert "second" in Path(log).read_text()
    assert project.forge("log", "bad").out == "+ sh -ec 'echo first; echo second >&2; exit 7' sh\nfirst\nsecond\n"
    failed = project.json(status=1).only("failed")
    assert failed["command"] == "sh -ec 'echo first; echo second >&2; exit 7' sh"
    assert failed["tail"] == ["first", "second"]
    assert failed["location"] == f"Forgefile.py:{line}"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("exit 1", "exit status 1"),
        ("exit 128", "exit status 128"),
        ("exit 255", "exit status 255"),
        ("kill -9 $$", "SIGKILL"),
        ("kill -TERM $$", "SIGTERM"),
        ("kill -SEGV $$", "SIGSEGV"),
    ],
)
def test_how_a_step_ended_is_told(project, line, words):
    project.forgefile(f'forge.target("bad", Noisy(line={line!r}))')
    assert words in project.json(status=1).only("failed")["message"]


def test_a_program_that_the_tree_does_not_have(project):
    project.forgefile(
        'root = forge.target("root", Root())',
        'forge.target("bad", Script(base=root, script=forge.source("s")))',
    )
    project.write("s", "#!/usr/bin/no-such-shell\n")
    failed = project.json(status=1).only("failed")
    assert "127" in failed["message"] or "not found" in failed["message"]


def test_a_step_that_makes_no_output(project):
    project.forgefile('forge.target("bad", Noisy(line="echo nothing"))')
    failed = project.json(status=1).only("failed")
    assert failed["message"] == "its steps made no output"
    project.forgefile('forge.target("bad", Noisy(line="mkdir $OUT"))')
    assert "something else than a file" in project.json(status=1).only("failed")["message"]


def _span(ended, target):
    times = {e["event"]: e["t"] for e in ended.events if e.get("target") == target and e["event"] in ("started", "built")}
    return times["started"], times["built"]


def test_independent_targets_overlap(project):
    project.forgefile(*(f'forge.target("t{n}", Noisy(line="sleep 0.5; echo {n} >$OUT"))' for n in range(3)))
    ended = project.json("-j", "3")
    spans = [_span(ended, f"t{n}") for n in range(3)]
    assert max(begin for begin, _ in spans) < min(end for _, end in spans)
    assert {e["worker"] for e in ended.events if e["event"] == "started"} == {0, 1, 2}


def test_equal_targets_are_built_once(project):
    line = "echo start; sleep 0.5; echo >$OUT; echo end"
    project.forgefile(*(f'forge.target("a{number}", Noisy(line="{line}"))' for number in range(3)),
                      'forge.target("b", Shell(line="cat $1 $2", inputs=tuple(forge._targets.values())[:2]))')  # fmt: skip
    ended = project.json("-j", "4")
    assert len(ended.targets("built")) == 2
    assert len(ended.targets("restored")) == 2
    assert project.forge("log", "a0").out.splitlines()[1:] == ["start", "end"]
    project.nothing_runs()


def test_equal_targets_that_fail(project):
    project.forgefile(*(f'forge.target("a{number}", Noisy(line="sleep 0.3; exit 3"))' for number in range(3)))
    assert project.json("-k", "-j", "4", status=1).targets("failed") == ["a0", "a1", "a2"]
    assert project.json("-j", "4", status=1).targets("failed") == ["a0"]


def test_more_at_once_than_may_be_open(project):
    project.forgefile(*(f'forge.target("t{n}", Noisy(line="sleep 0.5; echo {n} >$OUT"))' for n in range(40)))
    ended = project.forge("-j", "40", status=1, prefix=("sh", "-c", 'ulimit -n 40; exec "$@"', "sh"))
    assert "Too many open files\n  hint: run fewer targets at once (-j)" in ended.err
    assert "Traceback" not in ended.err
    project.forge("-j", "4", prefix=("sh", "-c", 'ulimit -n 40; exec "$@"', "sh"))


def test_one_job_at_a_time(project):
    project.forgefile(*(f'forge.target("t{n}", Noisy(line="sleep 0.1; echo {n} >$OUT"))' for n in range(3)))
    ended = project.json("-j1")
    spans = sorted(_span(ended, f"t{n}") for n in range(3))
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))


def _overlap(ended, *targets):
    """Return how many of some targets ran at once at most."""
    spans = [_span(ended, target) for target in targets]
    return max(sum(begin <= t < end for begin, end in spans) for t, _ in spans)


def test_what_shares_a_pool_waits_and_others_go_ahead(project):
    project.forgefile(
        'link = forge.pool("link", 1)',
        *(f'forge.target("t{n}", Noisy(line="sleep 0.2; echo {n} >$OUT"), pools=(link,))' for n in range(3)),
        *(f'forge.target("free-{n}", Noisy(line="sleep 0.2; echo free {n} >$OUT"))' for n in range(2)),
    )
    ended = project.json("-j", "3")
    assert _overlap(ended, "t0", "t1", "t2") == 1
    assert _overlap(ended, "t0", "t1", "t2", "free-0", "free-1") > 1


def test_cores_and_memory_of_the_machine(project):
    project.forgefile(
        'forge.target("all", Noisy(line="sleep 0.2; echo >$OUT"), cores=64)',
        *(f'forge.target("t{n}", Noisy(line="sleep 0.2; echo >$OUT"), memory="1TiB")' for n in range(2)),
    )
    ended = project.json("-j", "3")
    assert _overlap(ended, "all", "t0", "t1") == 1


def test_a_pool_decides_no_content(project):
    line = 'forge.target("a", Shell(line="echo a")%s)'
    project.forgefile(line % "")
    project.ran()
    project.forgefile('link = forge.pool("link", 1)', line % ', pools=(link,), cores=2, memory="1MiB"')
    project.nothing_runs()


def test_more_of_a_pool_than_there_is(project):
    line = project.forgefile('p = forge.pool("link", 2)', 'forge.target("a", Shell(line="echo"), pools={p: 3})')
    err = project.forge(status=2).err
    assert f"Forgefile.py:{line + 1}: target 'a' needs 3 of the pool 'link', which has 2" in err
    assert f"hint: the pool is declared at Forgefile.py:{line}" in err


def test_the_longest_way_goes_first(project):
    text = (
        *(f'forge.target("short-{n}", Noisy(line="echo {n} >$OUT", inputs=(forge.source("s"),)))' for n in range(3)),
        'forge.target("zlong", Noisy(line="sleep 0.6; echo >$OUT", inputs=(forge.source("s"),)))',
    )  # fmt: skip
    project.forgefile(*text)
    project.write("s", "1")
    project.json("-j1")
    project.write("s", "2")
    started = [e["target"] for e in project.json("-j1").events if e["event"] == "started"]
    assert started[0] == "zlong"


MATRIX = (
    'for arch in ("amd64", "arm64"):',
    '    image = forge.target(f"{arch}/disk.img", Shell(line=f"echo {arch}"))',
    '    forge.target(f"{arch}/sums/disk.sum", Command(argv=("sha256sum", image), stdout=True))',
    'forge.target("top", Shell(line="echo top"))',
)


def test_a_matrix_and_globs(project):
    project.forgefile(*MATRIX)
    assert project.ran("arm64/*") == ["arm64/disk.img", "arm64/sums/disk.sum"]
    assert project.read("arm64/disk.img") == "arm64\n"
    assert "/in/arm64/disk.img" in project.read("arm64/sums/disk.sum")
    assert not (project / "amd64").exists()
    assert project.ran("*/disk.img") == ["amd64/disk.img"]
    assert project.ran("t?p", "amd64/[a-z]*") == ["amd64/sums/disk.sum", "top"]
    project.nothing_runs()


def test_what_is_not_asked_for_stays_in_the_store(project):
    project.forgefile(
        'a = forge.target("a", Shell(line="echo a"))',
        'b = forge.target("b", Shell(line="cat $1", inputs=(a,)))',
        'forge.target("c", Shell(line="echo c"))',
        "forge.default(b)",
    )
    ended = project.json()
    assert ended.targets("built") == ["a", "b"]
    assert sorted(os.listdir(project.root)) == [".forge", "Forgefile.py", "b"]
    assert ended.only("built", "b")["path"] == "b"
    assert "path" not in ended.only("built", "a")
    ended = project.json("a")
    assert ended.targets("restored") == ["a"]
    assert project.read("a") == "a\n"


def test_list(project):
    project.forgefile(
        'forge.option("suite", "one", choices=("one", "two"), help="which one")',
        'forge.target("tree", Empty())', 'forge.default(forge.target("x/y", Shell(line="echo")))',
    )  # fmt: skip
    lines = project.forge("list", "-D", "suite=two").out.splitlines()
    assert lines[0].split() == ["tree", "tree", "Empty", *["A", "tree", "of", "nothing", "but", "a", "file", "that", "says", "a", "word."]]
    assert lines[1].startswith("* x/y")
    assert any(line.split()[:2] == ["suite", "two"] and "default one" in line and "which one" in line for line in lines)
    assert not (project / ".forge").exists()
    assert project.forge("list", "x/*").out.splitlines()[0].split()[1] == "x/y"


def test_list_for_programs(project):
    line = project.forgefile(
        'suite = forge.option("suite", "one", choices=("one", "two"), help="which one")',
        'tree = forge.target("tree", Empty(word=suite))',
        'forge.default(forge.target("x/y", Shell(line="echo", inputs=(tree, forge.source("caf\\udce9")))))',
    )
    project.write("caf\udce9")
    tree, file, option = (json.loads(line) for line in project.forge("list", "--json", "-D", "suite=two").out.splitlines())
    assert tree == {
        "target": "tree", "rule": "Empty", "output": "tree", "targets": [], "sources": [], "secrets": [], "default": False,
        "about": "A tree of nothing but a file that says a word.", "location": f"Forgefile.py:{line + 1}",
    }  # fmt: skip
    assert (file["targets"], file["sources"], file["default"]) == (["tree"], ["caf\udce9"], True)
    assert option == {"option": "suite", "value": "two", "default": "one", "choices": ["one", "two"], "help": "which one"}
    assert not (project / ".forge").exists()
    project.ran()
    (only,) = (json.loads(line) for line in project.forge("list", "--json", "x/*").out.splitlines())
    assert only["size"] == 1
    assert only["last_s"] > 0
    project.forgefile("pass")
    assert project.forge("list", "--json").out == ""


def test_what_an_encoding_lacks_is_written_as_an_escape(project):
    project.forgefile(
        "class Über(Rule):", "    'Ein Maß.'", "    def steps(self, box):", "        yield Write(box.out, text='x')",
        'forge.target("a", Über())',
    )  # fmt: skip
    project.env.update(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert project.forge("list").out == "  a  file  \\xdcber  Ein Ma\\xdf.\n"


def test_why_and_log_of_what_never_ran(project):
    project.forgefile('forge.target("a", Noisy(line="echo said; echo >$OUT"))')
    assert project.forge("why").out.splitlines() == ["a would run", "  never built"]
    assert "never ran" in project.forge("log", "a", status=2).err
    assert not (project / ".forge").exists()
    project.ran()
    assert project.forge("log", "a").out.endswith("\nsaid\n")
    assert project.forge("why", "a").out.splitlines() == ["a is up to date", "  built last because: it had never been built"]


def test_clean(project):
    project.forgefile(*THREE[:1], 'forge.target("d", Shell(line="cat $1", inputs=(a,)))', THREE[4])
    project.ran()
    project.forge("clean", "d")
    assert not (project / "d").exists()
    assert (project / "a").exists()
    assert project.ran() == ["d"]
    project.write("c", "mine")
    out = project.forge("clean").out
    assert "c was changed since it was built and is left alone" in out
    assert project.read("c") == "mine"
    assert not (project / "a").exists()
    assert project.ran() == ["a", "c", "d"]
    project.forge("clean", "--all")
    assert not (project / ".forge").exists()
    assert sorted(os.listdir(project.root)) == ["Forgefile.py"]
    assert project.ran() == ["a", "c", "d"]
    assert "name no targets" in project.forge("clean", "--all", "a", status=2).err


def test_doctor(project):
    project.forgefile('forge.target("a", Shell(line="echo"))')
    ended = project.forge("doctor", status=None)
    assert "ok  sh" in ended.out
    assert "ok  namespaces" in ended.out
    assert "ok  overlayfs" in ended.out
    assert not (project / ".forge").exists()
    project.forgefile('forge.target("a", Command(argv=("mkfs.nope",), stdout=True, tools=("/usr/lib/grub/i386-pc/nope",)))')
    ended = project.forge("doctor", status=1)
    assert "NO  mkfs.nope" in ended.out
    assert "apt-get install grub-pc-bin" in ended.out


def test_doctor_and_a_store_that_cannot_be_written(machine):
    machine.forgefile(*THREE[:1])
    machine.root.chmod(0o555)
    prefix = () if os.geteuid() else ("setpriv", "--bounding-set", "-dac_override")
    ended = machine.forge("doctor", status=1, prefix=prefix)
    assert f"NO  {'store':<44} {machine.root} cannot be written" in ended.out
    machine.root.chmod(0o755)


def test_doctor_and_another_architecture(project):
    """Of the machine's own nothing is said."""
    own = architectures.debian(os.uname().machine)
    other = "s390x" if own != "s390x" else "amd64"
    rules = (f'Mmdebstrap(suite="sid", arch="{other},{own}")', f'Debootstrap(suite="sid", arch="{own}")')
    project.forgefile(
        "from forgefile.rules import Debootstrap, Mmdebstrap",
        *(f'forge.target("{number}", {rule})' for number, rule in enumerate(rules)),
    )
    ended = project.forge("doctor", status=None)
    assert f"programs of {own}" not in ended.out
    runs = shutil.which("arch-test") and not subprocess.run(("arch-test", other), check=False).returncode
    assert f"{'ok ' if runs else 'NO '} programs of {other}" in ended.out
    emulators = f"qemu-{other.replace('amd64', 'x86_64')}-static", "update-binfmts"
    if not runs and not any(map(shutil.which, emulators)):
        assert "binfmt-support" in ended.out.splitlines()[-1]
        assert "qemu-user-static" in ended.out.splitlines()[-1]


# The displays --------------------------------------------------------------------------------------------------------

TIMES = {"t", "wall_s", "expected_s"}


def test_json_is_a_contract(project):
    project.forgefile(
        'a = forge.target("a", Noisy(line="echo words; echo a >$OUT"))',
        'b = forge.target("b", Shell(line="exit 1", inputs=(a,)))',
        'forge.target("c", Shell(line="echo", inputs=(b,)))',
    )
    ended = project.json(status=1)
    assert ended.err == ""
    keys = {}
    for event in ended.events:
        assert isinstance(event["t"], float)
        keys.setdefault(event["event"], set()).update(event)
    assert keys["planned"] >= {"event", "target", "action", "reasons"}
    assert keys["started"] >= {"event", "target", "t", "reasons", "worker"}
    assert keys["output"] >= {"event", "target", "t", "line"}
    assert keys["built"] >= {"event", "target", "t", "wall_s", "size", "changed"}
    assert keys["failed"] >= {"event", "target", "t", "message", "command", "tail", "log", "location"}
    assert keys["skipped"] >= {"event", "target", "t", "because"}
    assert keys["finished"] >= {"event", "status", "built", "restored", "current", "failed", "skipped", "wall_s"}
    times = [event["t"] for event in ended.events]
    assert times == sorted(times)
    assert [e["target"] for e in ended.events if e["event"] == "planned"] == ["a", "b", "c"]
    (project / "a").unlink()
    restored = project.json("a")
    assert restored.only("restored")["path"] == "a"
    assert project.json("a").only("current")["path"] == "a"
    assert project.json("-n", "a").events[0]["expected_s"] > 0


def test_trace(project):
    project.forgefile(*THREE)
    project.forge("-k", "--trace", "run.json", status=1)
    trace = json.loads(project.read("run.json"))
    events = trace["traceEvents"] if isinstance(trace, dict) else trace
    assert {"a", "b", "c"} <= {event["name"] for event in events}
    assert "cannot write the trace file" in project.forge("--trace", "no/such/folder", status=2).err
    project.forge("-k", "--trace", "run.json", status=1)
    for taken in ("Forgefile.py", "/dev/null"):
        assert f"{taken} exists and is no trace of forge's" in project.forge("--trace", taken, status=2).err
    assert "def build" in project.read("Forgefile.py")


def test_quiet_and_verbose(project):
    project.forgefile('forge.target("a", Noisy(line="echo said; echo >$OUT"))')
    assert project.forge("-q") == (0, "", "")
    project.forgefile('forge.target("a", Noisy(line="echo said >&2; echo . >$OUT"))')
    out = project.forge("-v").out
    assert "a | said" in out
    assert "building a" in out
    assert "a is up to date" in project.forge("-v").out
    assert project.forge("-q").out == ""
    project.forgefile('forge.target("a", Noisy(line="echo said; false"))')
    assert "failed a" in project.forge("-q", status=1).out


@pytest.mark.parametrize("how", [(), ("-v",)])
def test_explain(project, how):
    """What runs has before it the reasons that a dry run gives; what does not has none."""
    project.write("s", "1")
    target = 'Shell(line="cat $1; echo %s" % forge.option("word", "one"), inputs=(s,))'
    project.forgefile('s = forge.source("s")', f'a = forge.target("a", {target})', 'forge.target("b", Shell(line="cat $1", inputs=(a,)))')
    assert "building a (never built)\n" in project.forge("--explain", *how).out
    project.write("s", "2")
    ((_, reasons), _) = project.planned("-D", "word=two").values()
    assert len(reasons) == 2
    told = project.forge("--explain", *how, "-D", "word=two").out.splitlines()
    begin = told.index("building a:")
    assert told[begin + 1 : begin + 3] == [f"  {reason}" for reason in reasons]
    assert begin < told.index("building b (a: content changed)")
    project.write("s", "1")
    ((_, reasons), _) = project.planned().values()
    told = project.forge("--explain", *how).out.splitlines()
    begin = told.index("restored a:")
    assert told[begin + 1 : begin + 3] == [f"  {reason}" for reason in reasons]
    assert not any(line.startswith("building") for line in project.forge("--explain", *how).out.splitlines())
    assert project.forge("--explain", "-q").out == ""


def test_another_file_and_folder(project):
    project.forgefile('forge.target("a", Shell(line="echo %s" % forge.option("word", "none")))')
    (project / "Forgefile.py").rename(project / "other.py")
    project.forge("-f", "other.py", "-D", "word=yes", "a", "-j2")
    assert project.read("a") == "yes\n"
    (project / "below").mkdir()
    below = type(project)(project / "below")
    below.forge("-C", "..", "-f", "other.py", "--define", "word=there")
    assert project.read("a") == "there\n"
    assert os.listdir(below.root) == []
    below.forge("-f", "../other.py", "-D", "word=a=b")
    assert project.read("a") == "a=b\n"


def test_no_targets_at_all(project):
    project.forgefile("pass")
    assert project.json().only("finished")["status"] == 0
    assert project.forge("list").status == 0


def test_a_reader_that_leaves(project):
    """`forge | head -1` neither fails nor complains."""
    project.forgefile(*(f'forge.target("t{n}", Noisy(line="echo {n} >$OUT"))' for n in range(5)))
    process = project.start("-v")
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    process.wait(60)
    assert error == ""
    settle()
    assert project.json().targets("built") == []


def test_help_and_version(project):
    assert "forge disk.img" in project.forge("--help").out
    assert project.forge("--version").out.startswith("forge ")
    for verb in VERBS[1:]:
        out = project.forge(verb, "--help").out
        assert f"forge {verb}" in out
        assert "\nexamples:\n" in out
