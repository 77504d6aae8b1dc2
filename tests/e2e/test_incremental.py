# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""What runs after which edit, and how it is explained."""

import os
import shutil
import sqlite3

import pytest
from conftest import PREAMBLE, listing, settle

IMAGE = (
    'level = forge.option("level", "1")',
    'base = forge.target("base", Empty())',
    'laid = forge.target("laid", Overlay(base=base, source=forge.source("overlay")))',
    'other = forge.target("other", Overlay(base=base, source=forge.source("motd"), destination="/etc/motd"))',
    'scripted = forge.target("scripted", Script(base=laid, script=forge.source("tune.sh"), where="host"))',
    'made = forge.target("made.txt", Shell(line="find $1 | sort; echo %s" % level, inputs=(scripted,)))',
    'words = forge.target("words.txt", Command(argv=("sort", forge.source("words")), stdout=True))',
)


@pytest.fixture
def image(project):
    """A base with an overlay, a script on it, a file made of that, and two targets that share nothing with it."""
    project.forgefile(*IMAGE)
    project.write("overlay/etc/a", "a\n", 0o644)
    project.write("overlay/etc/deep/b", "b\n", 0o600)
    (project / "overlay/link").symlink_to("etc/a")
    project.write("motd", "hello\n")
    project.write("tune.sh", '#!/bin/sh\necho tuned >"$TREE/etc/tuned"\n', 0o755)
    project.write("words", "b\na\n")
    assert project.ran() == ["base", "laid", "made.txt", "other", "scripted", "words.txt"]
    project.nothing_runs()
    return project


def test_the_first_build(image):
    assert image.read("words.txt") == "a\nb\n"
    assert image.read("made.txt").endswith("\n1\n")
    tree = image.exported("scripted")
    assert (tree / "etc/tuned").read_text() == "tuned\n"
    assert (tree / "etc/deep/b").stat().st_mode & 0o7777 == 0o600
    assert os.readlink(tree / "link") == "etc/a"
    assert (tree / "etc/word").read_text() == "empty"


def _remove(project):
    (project / "overlay/etc/a").unlink()


def _rename(project):
    (project / "overlay/etc/a").rename(project / "overlay/etc/z")


def _relink(project):
    (project / "overlay/link").unlink()
    (project / "overlay/link").symlink_to("etc/deep")


def _file_to_folder(project):
    (project / "overlay/etc/a").unlink()
    (project / "overlay/etc/a").mkdir()


def _folder_mode(project):
    (project / "overlay/etc/deep").chmod(0o700)


def _same_size_and_time(project):
    path = project / "overlay/etc/a"
    status = path.stat()
    path.write_text("c\n")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


ABOVE_LAID = ("laid", "made.txt", "scripted")


@pytest.mark.parametrize(
    ("edit", "first", "reasons", "ran"),
    [
        (lambda p: p.write("overlay/etc/a", "c\n"), "laid", ["overlay/etc/a: content changed"], ABOVE_LAID),
        (_same_size_and_time, "laid", ["overlay/etc/a: content changed"], ABOVE_LAID),
        (lambda p: (p / "overlay/etc/a").chmod(0o755), "laid", ["overlay/etc/a: mode 0644 → 0755"], ABOVE_LAID),
        (lambda p: p.write("overlay/etc/new", ""), "laid", ["overlay/etc/new: added"], ABOVE_LAID),
        (_remove, "laid", ["overlay/etc/a: removed"], ABOVE_LAID),
        (_rename, "laid", ["overlay/etc/a: removed", "overlay/etc/z: added"], ABOVE_LAID),
        (_relink, "laid", ["overlay/link: link etc/a → etc/deep"], ABOVE_LAID),
        (_file_to_folder, "laid", ["overlay/etc/a: file → folder"], ABOVE_LAID),
        (_folder_mode, "laid", ["overlay/etc/deep: mode 0755 → 0700"], ABOVE_LAID),
        (lambda p: (p / "overlay/empty").mkdir(), "laid", ["overlay/empty: added"], ABOVE_LAID),
        (lambda p: p.write("motd", "bye\n"), "other", ["motd: content changed"], ("other",)),
        (lambda p: p.write("words", "z\n"), "words.txt", ["words: content changed"], ("words.txt",)),
        (
            lambda p: p.write("tune.sh", '#!/bin/sh\necho more >"$TREE/etc/tuned"\n'),
            "scripted", ["tune.sh: content changed"], ("made.txt", "scripted"),
        ),
    ],
    ids=lambda value: value[0].replace("/", "-") if isinstance(value, list) else "",
)  # fmt: skip
def test_an_edit_runs_what_it_must(image, edit, first, reasons, ran):
    settle()
    edit(image)
    before = image.store()
    plan = image.planned()
    assert image.store() == before, "a dry run writes nothing"
    assert plan[first] == ("run", reasons)
    assert {name for name, (action, _) in plan.items() if action != "none"} == set(ran)
    assert all(plan[name][0] == "maybe" for name in ran if name != first)
    why = image.forge("why", first).out.splitlines()
    assert why == [f"{first} would run", *(f"  {reason}" for reason in reasons)]

    ended = image.json()
    assert set(ended.targets("built")) <= set(ran)
    assert first in ended.targets("built")
    assert ended.only("started", first)["reasons"] == reasons
    assert image.forge("why", first).out.splitlines() == [
        f"{first} is up to date", *(f"  built last because: {reason}" for reason in reasons)
    ]  # fmt: skip
    image.nothing_runs()
    clean = _clean_build(image)
    assert image.read("made.txt") == (clean / "made.txt").read_text()
    assert listing(image.exported("scripted")) == listing(clean.exported("scripted"))


def _clean_build(project):
    """Build the same sources in another folder."""
    other = type(project)(project.root.parent / "clean")
    shutil.rmtree(other.root)
    shutil.copytree(project.root, other.root, symlinks=True, ignore=shutil.ignore_patterns(".forge", "*.txt"))
    other.forge()
    return other


def test_only_a_time_or_an_owner_of_a_source_changes_nothing(image):
    os.utime(image / "words")
    os.utime(image / "overlay/etc/a", (1, 1))
    os.chown(image / "overlay/etc/a", 12, 34)
    assert image.ran() == []
    image.nothing_runs()


def test_a_rules_field(image):
    image.forgefile(*(line.replace("Empty()", 'Empty(word="full")') for line in IMAGE))
    assert image.planned()["base"] == ("run", ["write /etc/word: content changed"])
    ran = image.ran()
    assert ran == ["base", "laid", "made.txt", "other", "scripted"] or set(ran) >= {"base", "laid", "other", "scripted"}
    assert (image.exported("other") / "etc/word").read_text() == "full"


def test_a_rules_code(image):
    """A change to a rule rebuilds exactly the targets whose steps it changes, though they list nothing."""
    changed = PREAMBLE.replace('yield Write("/etc/word", text=self.word, root=box.out)',
                               'yield Write("/etc/word", text=self.word, root=box.out, mode=0o600)')  # fmt: skip
    assert changed != PREAMBLE
    image.forgefile(*IMAGE, preamble=changed)
    assert image.planned()["base"] == ("run", ["write /etc/word: mode: default → 384"])
    assert "words.txt" not in image.ran()
    same = changed.replace("word: str", "# a remark\n    word: str")
    image.forgefile(*IMAGE, preamble=same)
    image.nothing_runs()


MARKED = PREAMBLE + """
class Mark(Rule):
    output = "tree"
    tree: Tree

    def steps(self, box: Sandbox) -> Iterable[Step]:
        yield Run(("sh", "-ec", "echo new >$0/new", box.out))


class Layer(Mark):
    tree: Tree | None = None
    base: Tree


"""


def test_a_tree_that_is_added_to_is_another_input_than_one_that_is_read(project):
    read, added = 'forge.target("made", Mark(tree=root))', 'forge.target("made", Layer(base=root))'
    for made, names in ((read, "new\n"), (added, "etc\nnew\n"), (read, "new\n")):
        project.forgefile(
            'root = forge.target("root", Empty())', f"made = {made}",
            'forge.target("names", Shell(line="ls -A $1", inputs=(made,)))', preamble=MARKED,
        )  # fmt: skip
        reasons = project.planned("made")["made"][1]
        project.forge("names")
        assert project.read("names") == names
    assert reasons == ["which of its trees it may change"]


def test_early_cutoff(project):
    """A target that is rebuilt to what it was before stops the rebuild there."""
    project.forgefile(
        'words = forge.target("words", Command(argv=("sort", forge.source("in")), stdout=True))',
        'forge.target("above", Shell(line="cat $1; date >&2", inputs=(words,)))',
        'tree = forge.target("tree", Overlay(base=forge.target("empty", Empty()), source=words, destination="/w"))',
        'forge.target("top", Overlay(base=tree, source=words, destination="/v"))',
    )
    project.write("in", "a\nb\n")
    project.ran()
    project.write("in", "b\na\n")
    assert project.planned()["above"] == ("maybe", ["words may change"])
    assert project.forge("why", "above").out.splitlines() == [
        "above may run", "  words would run", "    in: content changed",
    ]  # fmt: skip
    ended = project.json()
    assert ended.targets("built") == ["words"]
    assert ended.only("built")["changed"] is False
    assert ended.targets("current") == ["above", "empty", "top", "tree"]
    project.nothing_runs()


def test_an_option_there_and_back(image):
    assert image.planned("-D", "level=2")["made.txt"] == ("run", ["sh: find $1 | sort; echo 1 → find $1 | sort; echo 2"])
    assert image.ran("-D", "level=2") == ["made.txt"]
    assert image.read("made.txt").endswith("\n2\n")
    assert image.planned()["made.txt"] == ("restore", ["sh: find $1 | sort; echo 2 → find $1 | sort; echo 1"])
    ended = image.json()
    assert (ended.targets("built"), ended.targets("restored")) == ([], ["made.txt"])
    assert image.read("made.txt").endswith("\n1\n")
    image.nothing_runs()
    assert image.json("-D", "level=2").targets("built") == []
    assert image.read("made.txt").endswith("\n2\n")


def test_an_edit_and_back_restores_the_whole_stack(image):
    before = image.read("made.txt")
    image.write("overlay/etc/new", "")
    assert image.ran() == ["laid", "made.txt", "scripted"]
    assert image.read("made.txt") != before
    (image / "overlay/etc/new").unlink()
    ended = image.json()
    assert (ended.targets("built"), ended.targets("restored")) == ([], ["laid", "made.txt", "scripted"])
    assert image.read("made.txt") == before
    image.nothing_runs()


def test_a_tool_on_path(project):
    """A program of the user's on PATH is seen by the step that names it, and a change to it rebuilds just that."""
    project.env["PATH"] = f"{project / 'tools'}:{os.environ['PATH']}"
    project.write("tools/greet", "#!/bin/sh\necho hello\n", 0o755)
    project.forgefile(
        'forge.target("greeting", Command(argv=("greet",), stdout=True))',
        'forge.target("other", Command(argv=("echo", "x"), stdout=True))',
    )
    assert project.ran() == ["greeting", "other"]
    assert project.read("greeting") == "hello\n"
    project.nothing_runs()
    project.write("tools/greet", "#!/bin/sh\necho bye\n")
    assert project.planned()["greeting"] == ("run", ["tool greet: changed"])
    assert project.ran() == ["greeting"]
    assert project.read("greeting") == "bye\n"
    project.nothing_runs()


def test_a_module_beside_the_forgefile(project):
    """Rules may live in the project's own modules; what they say counts, not where it stands."""
    project.write("house.py", PREAMBLE)
    project.forgefile('forge.target("a", Shell(line="echo a"))', preamble="from house import Forge, Shell\n")
    assert project.ran() == ["a"]
    project.write("house.py", PREAMBLE.replace('("sh", "-ec", self.line', '("sh", "-exc", self.line'))
    assert project.planned()["a"] == ("run", ["sh: -ec → -exc"])
    assert project.ran() == ["a"]


def test_the_epoch_is_an_input(project):
    project.forgefile('forge.target("a", Shell(line="echo $SOURCE_DATE_EPOCH"))')
    project.ran()
    assert project.read("a") == "1735689600\n"
    project.env["SOURCE_DATE_EPOCH"] = "1000"
    assert project.planned()["a"] == ("run", ["SOURCE_DATE_EPOCH: 1735689600 → 1000"])
    project.ran()
    assert project.read("a") == "1000\n"
    assert (project / "a").stat().st_mtime == 1000
    project.env["SOURCE_DATE_EPOCH"] = "soon"
    assert "SOURCE_DATE_EPOCH is 'soon'" in project.forge(status=2).err


# Outputs that a person touches ---------------------------------------------------------------------------------------

DISK = (
    'disk = forge.target("disk.img", Shell(line="echo disk"))',
    'forge.target("copy", Shell(line="cat $1; echo copied", inputs=(disk,)))',
    "forge.default(disk)",
)


def _truncate(path):
    os.truncate(path, 2)


def _append(path):
    with open(path, "ab") as stream:
        stream.write(b"more")


def _poke(path):
    status = path.stat()
    with open(path, "r+b") as stream:
        stream.write(b"D")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def _replace(path):
    path.unlink()
    path.write_text("mine\n")


@pytest.mark.parametrize("edit", [_truncate, _append, _poke, _replace])
def test_an_edited_output(project, edit):
    """It is noticed, said, put right, and never fed to another target."""
    project.forgefile(*DISK)
    project.ran()
    edit(project / "disk.img")
    action, reasons = project.planned()["disk.img"]
    assert action in ("run", "restore")
    assert len(reasons) == 1
    assert reasons[0].endswith("was changed since it was built")
    assert project.forge("why").out.splitlines()[1] == f"  {reasons[0]}"
    project.ran("copy")
    assert project.read("copy") == "disk\ncopied\n"
    project.ran()
    assert project.read("disk.img") == "disk\n"
    project.nothing_runs()


@pytest.mark.parametrize("mode", [0o600, 0o755, 0o444])
def test_an_output_whose_mode_was_changed(project, mode):
    project.forgefile(*DISK, 'forge.target("mode", Shell(line="stat -c %a $1", inputs=(disk,)))')
    project.ran()
    (project / "disk.img").chmod(mode)
    project.ran("mode")
    assert project.read("mode") == "644\n"
    project.ran()
    assert (project / "disk.img").stat().st_mode & 0o7777 == 0o644
    project.nothing_runs()


def test_an_earlier_result_at_its_place_is_told_from_a_changed_one(project):
    project.forgefile(
        'one = forge.target("one", Shell(line="cat $1", inputs=(forge.source("word"),)))',
        'forge.target("two", Shell(line="cat $1", inputs=(one,)))',
    )
    project.write("word", "1\n")
    project.ran()
    project.write("word", "2\n")
    assert project.ran("two") == ["one", "two"]
    assert project.read("one") == "1\n"
    assert project.planned()["one"] == ("restore", ["one is an earlier result"])
    project.ran()
    assert project.read("one") == "2\n"


def test_an_output_whose_mode_and_time_were_changed_before_the_machine_was_started_anew(project):
    project.forgefile(
        'tool = forge.target("tool", Noisy(line="echo >$OUT; chmod 755 $OUT"))',
        'forge.target("seen", Shell(line="stat -c \'%a %Y\' $1; cat $2", inputs=(tool, forge.source("salt"))))',
    )
    project.write("salt", "1\n")
    project.ran()
    seen = project.read("seen")
    (project / "tool").chmod(0o600)
    os.utime(project / "tool", (1, 1))
    project.write("salt", "2\n")
    with sqlite3.connect(project / ".forge/records.sqlite") as records:
        records.execute("UPDATE boot SET id='an earlier one'")
    records.close()
    project.ran()
    assert project.read("seen") == seen.replace("1\n", "2\n")
    assert (project / "tool").stat().st_mode & 0o7777 == 0o755
    project.nothing_runs()


def test_a_touched_output(project):
    project.forgefile(*DISK)
    project.ran()
    os.utime(project / "disk.img", (5, 5))
    assert project.ran() == []
    assert (project / "disk.img").stat().st_mtime == 1735689600
    project.nothing_runs()


def test_an_output_that_is_edited_while_another_target_reads_it(project):
    """The user's edit must not get into a recorded result."""
    project.forgefile(
        'disk = forge.target("disk.img", Shell(line="echo disk"))',
        'forge.target("copy", Noisy(line="echo begun; sleep 1; cat $1 >$OUT", inputs=(disk,)))',
    )
    project.ran("disk.img")
    process = project.start("--json", "copy")
    for line in process.stdout:
        if '"begun"' in line:
            _append(project / "disk.img")
            break
    process.communicate(timeout=60)
    project.forge("copy", status=None)
    assert project.forge("copy").status == 0
    assert project.read("copy") == "disk\n"


def test_a_deleted_output_is_placed_again_without_a_run(project):
    project.forgefile(*DISK)
    project.ran()
    (project / "disk.img").unlink()
    assert project.planned()["disk.img"] == ("restore", ["disk.img is not there"])
    ended = project.json()
    assert (ended.targets("built"), ended.targets("restored")) == ([], ["disk.img"])
    assert project.read("disk.img") == "disk\n"
    project.nothing_runs()


def test_a_deleted_layer_or_object_is_built_again(project):
    project.forgefile(*IMAGE[1:2], 'forge.target("a", Shell(line="cat $1/etc/word", inputs=(base,)))')
    project.ran()
    shutil.rmtree(project / ".forge/layers")
    (project / ".forge/layers").mkdir()
    assert project.planned()["base"] == ("run", ["its output is missing"])
    assert project.ran() == ["base"]
    (project / "a").unlink()
    shutil.rmtree(project / ".forge/objects")
    (project / ".forge/objects").mkdir()
    assert project.ran() == ["a"]
    assert project.read("a") == "empty"
    project.nothing_runs()


def test_a_removed_store_costs_time_only(image):
    shutil.rmtree(image / ".forge")
    assert image.ran() == ["base", "laid", "made.txt", "other", "scripted", "words.txt"]
    image.nothing_runs()


def test_a_source_that_changes_while_its_target_builds(project):
    """It is not recorded as built, and the next run makes it right."""
    project.forgefile(
        'a = forge.target("a", Noisy(line="cat $1 >$OUT; echo begun; sleep 1; cat $1 >>$OUT", inputs=(forge.source("s"),)))',
        'forge.target("b", Shell(line="cat $1", inputs=(a,)))',
    )
    project.write("s", "old\n")
    settle()
    process = project.start("--json")
    for line in process.stdout:
        if '"begun"' in line:
            project.write("s", "new\n")
            break
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "s changed while it was used" in out
    assert not (project / "b").exists()
    assert project.planned()["a"][0] == "run"
    assert project.ran() == ["a", "b"]
    assert project.read("b") == "new\nnew\n"
    project.nothing_runs()
    project.write("s", "old\n")
    assert project.ran() == ["a", "b"]
    assert project.read("b") == "old\nold\n"


def test_a_changed_executable_bit_is_a_change(project):
    project.forgefile(
        'tool = forge.target("tool", Noisy(line="echo \'echo hi\' >$OUT; chmod %s $OUT" % forge.option("mode", "755")))',
        'forge.target("mode", Shell(line="stat -c %a $1", inputs=(tool,)))',
    )
    project.ran()
    assert project.read("mode") == "755\n"
    assert os.access(project / "tool", os.X_OK)
    assert project.ran("-D", "mode=644") == ["mode", "tool"]
    assert project.read("mode") == "644\n"
    assert not os.access(project / "tool", os.X_OK)


def test_one_layer_twice_in_a_tree(project):
    """The same overlay laid again, and steps that change nothing, give layers with the same digest."""
    project.forgefile(
        'a = forge.target("a", Overlay(base=forge.target("base", Empty()), source=forge.source("s"), destination="/s"))',
        'b = forge.target("b", Change(base=a, line="rm $OUT/s; mkdir $OUT/s; echo b >$OUT/s/b"))',
        'c = forge.target("c", Change(base=b, line="rm -r $OUT/s"))',
        'd = forge.target("d", Overlay(base=c, source=forge.source("s"), destination="/s"))',
        'e = forge.target("e", Change(base=d, line="true"))',
        'f = forge.target("f", Change(base=e, line="true"))',
        'g = forge.target("g", Change(base=f, line="cat $OUT/s >$OUT/t"))',
        'forge.target("told", Shell(line="cat $1/s $2/s/b $3/t; ls $4", inputs=(d, b, g, c)))',
    )
    project.write("s", "s\n")
    project.forge()
    assert project.read("told") == "s\nb\ns\netc\n"
    project.nothing_runs()
