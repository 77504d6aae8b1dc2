# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""Secrets: steps read them as files, and nothing that forge writes has them."""

import os
import sqlite3
from base64 import b64encode
from contextlib import closing

import pytest
import xxhash
from conftest import PREAMBLE, first_lines, settle
from test_snapshot import HEAD, check, known

TOKEN = "tok-5f3a9c0e71"
KEY = "-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA7vO\nq8Zr2Lw0cXk4u1aB\n-----END KEY-----\n"
DECLARED = ('token = forge.secret("token", env="TOKEN")', 'key = forge.secret("key", file="../keys/key.pem")')


@pytest.fixture
def holder(machine):
    """A project whose secrets are there."""
    machine.env["TOKEN"] = TOKEN
    machine.write("../keys/key.pem", KEY)
    return machine


def written(project, *ended):
    """Return all that forge wrote, by name: the store, the project, and what runs of it printed."""
    found = {f"{number}.{name}": text.encode("utf-8", "surrogateescape") for number, each in enumerate(ended)
             for name, text in (("out", each.out), ("err", each.err))}  # fmt: skip
    for path in [*project.root.rglob("*"), *(project / ".forge").rglob("*")]:
        found[f"name of {path}"] = os.fsencode(path)
        if path.is_symlink():
            found[str(path)] = os.fsencode(os.readlink(path))
        elif path.is_file():
            found[str(path)] = path.read_bytes()
    with closing(sqlite3.connect(project / ".forge/records.sqlite")) as records:
        found["records"] = "\n".join(records.iterdump()).encode()
    return found


def nowhere(project, *ended):
    """Assert that secrets, also as base64 or by a digest that anybody can compute, are nowhere."""
    wanted = {line.encode() for line in (TOKEN, *KEY.split("\n")) if line}
    wanted |= {b64encode(text.encode()).rstrip(b"=")[:-2] for text in (TOKEN, KEY)}
    wanted |= {xxhash.xxh3_128_hexdigest(text.encode()).encode() for text in (TOKEN, KEY)}
    for name, content in written(project, *ended).items():
        for secret in wanted:
            assert secret not in content, f"{name} has {secret!r}"


PRINTS = """
cat $1; cat $1 >&2; cat $2; cat $2 >&2; echo
head -c 5 $1; sleep 0.2; tail -c +6 $1; echo
for at in 1 20 21 40; do head -c $at $2; sleep 0.05; tail -c +$((at + 1)) $2; done
while read -r line; do echo "<$line>"; cat "/nowhere/$line" || true; done <$2
base64 -w 0 $1; echo; (printf user:; cat $1) | base64 -w 0; echo; (printf x:; cat $1) | base64 -w 0; echo
"$(cat $1)" || true
ls "$(cat $1)" || true
for i in 1 2 3 4 5 6 7 8 9 10; do cat $1 $2 $1 $1; done
printf '\\r%s\\r%s\\n' "$(cat $1)" "$(cat $1)"
sh -xc 'x=$(cat $1)' sh $1
"""


@pytest.mark.parametrize("form", [(), ("-v",), ("-q",), ("--json",), ("--explain",)])
@pytest.mark.parametrize("end", ["echo done >$3", "exit 3"])
def test_what_a_step_prints(holder, form, end):
    holder.forgefile(*DECLARED, f'forge.target("made", Command(argv=("sh", "-c", {PRINTS + end!r}, "sh", token, key, OUT)))')
    ended = holder.forge(*form, "--trace", "trace", status=1 if "exit" in end else 0)
    log = holder.forge("log", "made")
    assert log.out.count("***") > 40
    assert "not found" in log.out
    nowhere(holder, ended, log, holder.forge("why", "made"), holder.forge("list", "--json"))


def test_what_a_failing_program_of_forge_says(holder):
    holder.write("mine.py", "def leak(path):\n    raise RuntimeError(open(path).read())\n")
    rule = "import mine\nfrom forgefile import Call\n\n\nclass Leaks(Rule):\n    secret: Any\n\n    def steps(self, box):\n        yield Call(mine.leak, box.path(self.secret))\n\n\n"
    holder.forgefile(*DECLARED, 'forge.target("a", Leaks(secret=token))', 'forge.target("b", Leaks(secret=key))', preamble=PREAMBLE + rule)
    ended = holder.forge("-k", status=1)
    assert ended.out.count("RuntimeError: ***") >= 4
    nowhere(holder, ended, holder.forge("log", "a"))


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("cat $1 >$OUT/etc/x", "etc/x"),
        ("mkdir $OUT/$(cat $1)", "***"),
        ("ln -s /$(cat $1) $OUT/etc/link", "etc/link"),
        ("head -c 3000000 /dev/zero >$OUT/etc/x; cat $1 >>$OUT/etc/x", "etc/x"),
        ("(printf user:; cat $1) | base64 >$OUT/etc/x", "etc/x"),
        ("cp -r /run/forge/secret $OUT/etc", "etc/secret/token"),
    ],
)
@pytest.mark.parametrize("based", [True, False])
def test_a_tree_that_has_a_secret(holder, line, where, based):
    rule = 'class Lays(Rule):\n    output = "tree"\n    line: str\n    secret: Any\n    base: Tree | None = None\n\n    def steps(self, box):\n        yield Run(("sh", "-ec", "mkdir -p $OUT/etc; " + self.line, "sh", box.path(self.secret)), env={"OUT": box.out})\n\n\n'
    base = ', base=forge.target("base", Empty())' if based else ""
    holder.forgefile(*DECLARED, f'forge.target("laid", Lays(line={line!r}, secret=token{base}))', preamble=PREAMBLE + rule)
    ended = holder.json(status=1)
    failed = ended.only("failed")
    assert failed["message"] == f"its output has the secret 'token' in {where}"
    assert "kept" not in failed
    nowhere(holder, ended)


def test_a_file_that_is_a_secret(holder):
    holder.forgefile(*DECLARED, 'forge.target("made", Command(argv=("cat", key), stdout=True))')
    ended = holder.json(status=1)
    assert ended.only("failed")["message"] == "its output has the secret 'key'"
    assert not (holder / "made").exists()
    nowhere(holder, ended)


def test_what_is_kept_of_a_failure(holder):
    holder.forgefile(
        *DECLARED,
        'forge.target("a", Command(argv=("sh", "-c", "cat $1 >$2; exit 1", "sh", token, OUT)))',
        'forge.target("b", Command(argv=("sh", "-c", "cp $1 /run/forge/tmp/x; echo made >$2; exit 1", "sh", token, OUT)))',
        'forge.target("c", Command(argv=("sh", "-c", "cat $1; echo made >$2; exit 1", "sh", token, OUT)))',
    )
    ended = holder.json("-k", status=1)
    assert [each["target"] for each in ended.events if each["event"] == "failed" and "kept" in each] == ["c"]
    nowhere(holder, ended)


def test_what_a_step_leaves_in_a_shared_folder(holder):
    rule = 'from forgefile import Cache\n\n\nclass Caches(Rule):\n    secret: Any\n\n    def steps(self, box):\n        yield Run(("sh", "-c", "cd /var/c; cp $1 x; echo y >y; echo >$2", "sh", box.path(self.secret), box.out), caches=(Cache(name="c", path="/var/c"),))\n\n\n'
    holder.forgefile(*DECLARED, 'forge.target("a", Caches(secret=key))', preamble=PREAMBLE + rule)
    nowhere(holder, holder.forge())
    assert os.listdir(holder / ".forge/cache/c") == ["y"]


LOOKS = "stat -c %A /run/forge/secret /run/forge/secret/*; stat -f -c %T $1; cat $1 >&2; (echo x >$1) 2>/dev/null || echo read-only"
SEEN = ["drwxr-xr-x", "-r--------", "tmpfs", "read-only"]


def test_how_a_step_sees_it(holder):
    holder.write("look.sh", f"#!/bin/sh\nset -e $FORGE_SECRETS/key\nexec >/seen\n{LOOKS}\n")
    holder.forgefile(
        *DECLARED,
        f'forge.target("host", Shell(line={LOOKS!r}, inputs=(key,)))',
        'root = forge.target("root", Root())',
        'inside = forge.target("inside", Script(base=root, script=forge.source("look.sh"), inputs=(key,)))',
        'forge.target("tree", Shell(line="cat $1/seen", inputs=(inside,)))',
    )
    nowhere(holder, holder.forge())
    assert holder.read("host").splitlines() == holder.read("tree").splitlines() == SEEN


def test_who_does_not_take_it_does_not_see_it(holder):
    look = "env; cat /proc/*/environ /proc/1/mem || true; ls -d /run/forge/secret/* 2>&1 || true; find / -xdev -name 'key*.pem' 2>/dev/null || true"
    holder.forgefile(
        *DECLARED,
        'made = forge.target("made", Shell(line="wc -c <$1; ls /run/forge/secret", inputs=(token,)))',
        f'forge.target("other", Shell(line={look!r}, inputs=(made,), network=True))',
    )
    ended = holder.forge()
    assert holder.read("made") == f"{len(TOKEN)}\ntoken\n"
    assert "secret/*': No such file" in holder.read("other")
    nowhere(holder, ended)


def test_a_change_runs_who_takes_it_and_no_other(holder):
    line = "sha256sum <$1 | cut -c1-8 >&2; echo fetched"
    holder.forgefile(
        *DECLARED,
        f'a = forge.target("a", Shell(line={line!r}, inputs=(token,)))',
        f'forge.target("b", Shell(line={line!r}, inputs=(key,)))',
        'forge.target("c", Shell(line="cat $1", inputs=(a,)))',
        'forge.target("d", Shell(line="echo d"))',
    )
    assert holder.ran() == ["a", "b", "c", "d"]
    assert holder.ran() == []
    holder.env["TOKEN"] = "tok-another-one"
    assert holder.planned()["a"] == ("run", ["secret 'token': content changed"])
    assert "secret 'token': content changed" in holder.forge("why", "a").out
    assert holder.ran() == ["a"]
    assert holder.ran() == []
    holder.write("../keys/key.pem", KEY + "more")
    assert holder.ran() == ["b"]
    holder.env["TOKEN"] = TOKEN
    holder.write("../keys/key.pem", KEY)
    assert holder.json().targets("restored") == ["a", "b"]
    assert holder.ran() == []
    nowhere(holder)


def test_a_source_beside_it_changes(holder):
    """The order of inputs stays what it was, also when the Forgefile is not evaluated again."""
    holder.write("s", "one")
    holder.forgefile(
        *DECLARED, 's = forge.source("s")', 'base = forge.target("base", Shell(line="echo"))',
        'forge.target("a", Shell(line="cat $3; wc -c <$1", inputs=(token, base, s, key)))',
        preamble=HEAD + PREAMBLE,
    )  # fmt: skip
    holder.forge()
    known(holder)
    holder.write("s", "two")
    settle()
    ended = holder.forge()
    assert ended.err == ""
    assert "building a (s: content changed)\n" in ended.out
    known(holder)


def test_where_it_comes_from_decides_nothing(holder):
    holder.env["PEM"] = KEY
    made = 'forge.target("a", Shell(line="wc -c <$1", inputs=(key,)))'
    holder.forgefile(*DECLARED, made)
    assert holder.ran() == ["a"]
    holder.forgefile('key = forge.secret("key", env="PEM")', made)
    assert holder.ran() == []


def test_nothing_changed(holder):
    """A run that finds nothing changed sees it without evaluating, and any change of a secret."""
    lines = (
        'os.environ.get("TOKEN"), "SPARE" in os.environ',
        *DECLARED,
        'forge.secret("spare", env="SPARE")',
        'forge.target("a", Shell(line="wc -c <$1", inputs=(token,)))',
        'forge.target("b", Shell(line="wc -c <$1; cat $2", inputs=(key, forge.source("words"))))',
    )
    holder.env["SPARE"] = TOKEN + " "
    holder.write("words", "one")
    holder.forgefile(*lines, preamble=HEAD + PREAMBLE)
    known(holder)
    holder.write("words", "two")
    check(holder, evaluates=False, runs=("b",))
    os.utime(holder / "../keys/key.pem")
    check(holder, evaluates=True, runs=())
    holder.write("../keys/key.pem", KEY + "\n")
    check(holder, evaluates=True, runs=("b",))
    holder.env["TOKEN"] = TOKEN + "+"
    check(holder, evaluates=True, runs=("a",))
    holder.env["SPARE"] = KEY
    check(holder, evaluates=True, runs=())
    (holder / ".forge/key").unlink()
    check(holder, evaluates=True, runs=("a", "b"))
    nowhere(holder)
    del holder.env["TOKEN"]
    holder.forge(status=2)


def test_a_second_build_with_the_same_secrets_is_not_made_otherwise(holder):
    holder.forgefile(*DECLARED, 'forge.target("a", Shell(line="wc -c <$1; date +%N", inputs=(key, token)))')
    ended = holder.forge("verify", "--json", status=1)
    (difference,) = ended.only("differs")["differences"]
    assert "content from byte " in difference
    nowhere(holder, ended)
    holder.forgefile(*DECLARED, 'forge.target("a", Shell(line="wc -c <$1", inputs=(key, token)))')
    assert holder.forge("verify", "--json").targets("same") == ["a"]


def test_who_has_no_secret_can_build_the_rest(holder):
    del holder.env["TOKEN"]
    (holder / "../keys/key.pem").unlink()
    first = holder.forgefile(
        *DECLARED,
        'a = forge.target("a", Shell(line="wc -c <$1", inputs=(token,)))',
        'forge.target("b", Shell(line="cat $1", inputs=(a,)))',
        'forge.target("c", Shell(line="echo c"))',
        'forge.target("d", Shell(line="wc -c <$1", inputs=(key,)))',
    )
    holder.forge("c")
    assert "c is up to date" in holder.forge("c").out
    for word, line in (("a", 2), ("b", 2), ("d", 5)):
        ended = holder.forge(word, status=2)
        what = "the file ../keys/key.pem gives no secret 'key': No such file" if word == "d" else "the variable TOKEN gives no secret 'token': it is not set"
        assert f"Forgefile.py:{first + line}: {what}" in ended.err
        assert "hint: " in ended.err
    assert "Forgefile.py" in holder.forge("-n", status=2).err
    holder.forge("list")


def test_a_dry_run_writes_no_key(holder):
    holder.forgefile(*DECLARED, 'forge.target("a", Shell(line="wc -c <$1", inputs=(token,)))')
    assert holder.planned()["a"][0] == "run"
    assert not (holder / ".forge").exists()
    holder.forge()
    assert (holder / ".forge/key").stat().st_mode & 0o777 == 0o600
    before = (holder / ".forge/key").read_bytes()
    holder.forge("clean")
    holder.forge()
    holder.forge("gc")
    assert (holder / ".forge/key").read_bytes() == before
    assert holder.ran() == []
    holder.forge("clean", "--all")
    assert not (holder / ".forge").exists()


@pytest.mark.parametrize("damage", [b"", b"short", b"x" * 33])
def test_a_damaged_key_is_made_anew(holder, damage):
    holder.forgefile(*DECLARED, 'forge.target("a", Shell(line="wc -c <$1", inputs=(token,)))')
    holder.forge()
    holder.write(".forge/key", damage)
    assert holder.ran() == ["a"]
    assert holder.ran() == []
    assert (holder / ".forge/key").stat().st_mode & 0o777 == 0o600


def test_a_secret_that_changes_while_it_is_used(holder):
    line = "echo ready >&2; while [ -e $2 ]; do sleep 0.02; done; wc -c <$1"
    holder.write("wait/flag", "")
    holder.forgefile(*DECLARED, f'forge.target("a", Shell(line={line.replace("$2", "$2/flag")!r}, inputs=(key, forge.source("wait"))))')
    process = holder.start("--json")
    first_lines(process, ("ready",))
    holder.write("../keys/key.pem", KEY + "more")
    (holder / "wait/flag").unlink()
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the secret 'key' changed while it was used" in out


@pytest.mark.parametrize("source", ["../keys", "../keys/key.pem", "link"])
def test_a_source_that_shows_the_file(holder, source):
    (holder / "link").symlink_to("../keys")
    line = holder.forgefile(
        *DECLARED, 'forge.target("b", Shell(line="echo"))', f'forge.target("a", Shell(line="ls $1", inputs=(forge.source({source!r}),)))'
    )
    ended = holder.forge("b", status=2)
    assert f"Forgefile.py:{line + 3}: the source '{source}' shows the file of the secret 'key'" in ended.err
    assert not (holder / ".forge").exists()


@pytest.mark.parametrize("step", ['Shell(line="curl -u me:" + os.environ["TOKEN"])', 'Overlay(base=forge.target("t", Empty(word=open("../keys/key.pem").read())), source=forge.source("words"))'])
def test_a_step_with_a_secret_in_it(holder, step):
    holder.write("words")
    holder.forgefile("import os", *DECLARED, f'forge.target("a", {step})', 'forge.target("b", Shell(line="cat $1 $2 | wc -c", inputs=(token, key)))')
    ended = holder.forge(status=2)
    assert "its steps have the secret" in ended.err
    assert "forge.secret returned" in ended.err
    assert not (holder / "a").exists()


def test_a_second_project_in_the_store(holder, tmp_path):
    """Two projects of one store that have the same secret share what was made with it."""
    lines = (*DECLARED, 'forge.target("a", Shell(line="wc -c <$1", inputs=(token,)))')
    holder.forgefile(*lines)
    store = str(tmp_path / "store")
    assert holder.ran("--store", store) == ["a"]
    other = type(holder)(tmp_path / "other")
    other.env["TOKEN"] = TOKEN
    other.forgefile(*lines)
    assert other.json("--store", store).targets("restored") == ["a"]
    settle()
    assert other.ran("--store", store) == []
