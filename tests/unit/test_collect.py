"""Collection: what goes, in which order, how large it is, and that what is needed stays."""

import os
from pathlib import Path

import pytest

from forgefile.cache.collect import Extent, carry_out, choose, measure, plan, total_bytes
from forgefile.cache.records import Held
from forgefile.cache.seal import Result
from forgefile.cache.store import Store, project_of
from tests.unit.test_store import built, built_tree

SIZES = {"old": 10, "other": 20, "new": 40}


def held(name, *, current=False, layers=(), used=0.0, log=None):
    result = Result("tree", "t", layers, 1) if layers else Result("file", name, (), 1)
    return Held("p", name, log or name, result, used, current)


def extents(**sizes):
    """Return what takes how much: o_x is an object, l_x a layer, g_x a log, c_x a cached file."""
    rooms = {"o": "objects", "l": "layers", "g": "logs", "c": "cache/deb"}
    return {f"{rooms[name[0]]}/{name[2:]}": Extent(size) for name, size in sizes.items()}


def chosen(results, there, *, limit=None, logs=(), rest=0):
    return choose(results, lambda each: each.current, logs, extents=there, rest=rest, limit=limit)


def gone(choice):
    return [each.held[-1].target for each in choice.results]


# Choosing

THREE = [held("old"), held("other"), held("new", current=True)]
THERE = extents(o_old=10, o_other=20, o_new=40, g_old=1)


@pytest.mark.parametrize(
    ("limit", "targets", "left"),
    [
        (None, ["old", "other"], 45),
        (0, ["old", "other"], 45),
        (45, ["old", "other"], 45),
        (64, ["old", "other"], 45),
        (65, ["old"], 65),
        (75, ["old"], 65),
        (76, [], 76),
        (1000, [], 76),
    ],
)
def test_the_least_recently_used_goes_first_until_the_limit_is_met(limit, targets, left):
    choice = chosen(THREE, THERE, limit=limit, rest=5)
    assert gone(choice) == targets
    assert (choice.left, choice.freed) == (left, 76 - left)
    assert (choice.needed, choice.spare) == (1, 2 - len(targets))
    assert sum(each.freed for each in choice.results) == choice.freed
    assert "objects/new" not in choice.names


def test_a_layer_goes_with_the_last_result_that_has_it():
    trees = [held("a", layers=("1", "2")), held("b", layers=("1",)), held("c", layers=("1", "3"), current=True)]
    choice = chosen(trees, extents(l_1=100, l_2=10, l_3=1))
    assert gone(choice) == ["a", "b"]
    assert choice.names == ("layers/2",)
    assert [each.freed for each in choice.results] == [10, 0]
    choice = chosen(trees[:2], extents(l_1=100, l_2=10))
    assert [each.freed for each in choice.results] == [10, 100]


def test_a_result_whose_output_is_gone_can_go():
    choice = chosen([held("a")], {})
    assert (gone(choice), choice.names, choice.freed) == (["a"], (), 0)


def test_what_belongs_to_no_result_goes_under_any_limit():
    there = extents(o_new=40, o_stray=7, l_stray=5, g_stray=3, g_failed=2)
    choice = chosen(THREE[2:], there, limit=1000, logs=["logs/failed"])
    assert set(choice.names) == {"objects/stray", "layers/stray", "logs/stray"}
    assert (choice.strays, choice.freed, choice.left) == (3, 15, 42)


def test_two_records_of_one_output_keep_it_while_one_is_needed():
    twice = [held("new", log="f1"), held("new", log="f2", current=True)]
    choice = chosen(twice, extents(o_new=40, g_f1=1, g_f2=1))
    assert choice.names == ("logs/f1",)


def test_a_result_that_two_targets_have_is_one():
    twice = [held("new", log="f1")._replace(target="a"), held("old"), held("new", log="f1")._replace(target="b")]
    choice = chosen(twice, extents(o_new=40, o_old=1))
    assert gone(choice) == ["old", "b"]
    assert [len(each.held) for each in choice.results] == [1, 2]
    choice = chosen([*twice, twice[0]._replace(current=True)], extents(o_new=40, o_old=1))
    assert gone(choice) == ["old"]
    assert choice.needed == 1
    assert list(choice.redundant) == [twice[0], twice[2]]


def cached(size, used, *inodes):
    return Extent(0 if inodes else size, dict.fromkeys(inodes, size), used)


def test_cached_files_go_after_results_and_only_under_a_limit():
    there = {"objects/old": Extent(10), "objects/new": Extent(40), "cache/deb/x": cached(5, 2.0),
             "cache/deb/y": cached(5, 1.0), "cache/lists/z": cached(5, 3.0)}  # fmt: skip
    results = [held("old"), held("new", current=True)]
    assert chosen(results, there).names == ("objects/old",)
    assert chosen(results, there, limit=55).names == ("objects/old",)
    assert chosen(results, there, limit=54).names == ("objects/old", "cache/deb/y")
    assert chosen(results, there, limit=0).names == ("objects/old", "cache/deb/y", "cache/deb/x", "cache/lists/z")
    assert chosen(results, there, limit=0).cached == 3


def test_a_cached_file_that_a_layer_has_takes_no_room_of_its_own():
    there = {"layers/1": Extent(1, {7: 100}), "layers/2": Extent(1, {8: 100}), "cache/ostree/7": cached(100, 1.0, 7),
             "cache/ostree/8": cached(100, 2.0, 8)}  # fmt: skip
    trees = [held("a", layers=("1",)), held("b", layers=("2",), current=True)]
    choice = chosen(trees, there, limit=150)
    assert choice.names == ("layers/1", "cache/ostree/7")
    assert [each.freed for each in choice.results] == [1]
    assert (choice.freed, choice.left) == (101, 101)
    assert chosen(trees, there, limit=0).names == ("layers/1", "cache/ostree/7")


# Measuring


def blocks(*paths):
    return sum(os.lstat(path).st_blocks * 512 for path in paths)


@pytest.fixture
def project(tmp_path):
    (tmp_path / "p").mkdir()
    root = str(tmp_path / "p/.forge")
    found = Store.open(root, project=project_of(root, str(tmp_path / "p/Forgefile.py")))
    yield found
    found.records.close()


def test_what_is_measured_is_what_du_measures(project):
    result, tree = built(project, "x" * 10_000), built_tree(project, content="y" * 5_000)
    layer = project.layer_path(tree.layers[0])
    os.link(f"{layer}/file", f"{layer}/again")
    os.makedirs(f"{project.root}/cache/deb/partial")
    os.link(f"{layer}/file", f"{project.root}/cache/deb/file")
    Path(project.root, "cache/deb/own").write_bytes(b"z" * 9_000)
    with open(project.object_path("holes"), "wb") as stream:
        stream.truncate(1 << 30)
    found, rest = measure(project.root)
    assert set(found) == {f"objects/{result.digest}", "objects/holes", f"layers/{tree.layers[0]}", "cache/deb/file",
                          "cache/deb/own"}  # fmt: skip
    assert found["objects/holes"].own == 0
    assert found[f"objects/{result.digest}"].own == blocks(project.object_path(result.digest))
    assert found[f"layers/{tree.layers[0]}"].own == blocks(layer, f"{layer}/locked")
    assert found[f"layers/{tree.layers[0]}"].linked == found["cache/deb/file"].linked
    seen = {}
    for folder, folders, files in os.walk(project.root):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(folder, name))
            seen[status.st_ino] = status.st_blocks * 512
    assert choose([], lambda _: True, [], extents=found, rest=rest, limit=1 << 40).freed < sum(seen.values())
    assert chosen([], found, rest=rest).freed + chosen([], found, rest=rest).left == sum(seen.values())


def test_nothing_takes_nothing(tmp_path):
    assert measure(str(tmp_path / "none")) == ({}, 0)


# Planning and carrying out


def left(store):
    return {name: sorted(os.listdir(f"{store.root}/{name}")) for name in ("objects", "layers", "logs", "staging")}


def test_what_is_carried_out_is_what_was_planned(project):
    first, second = built(project, "1", fingerprint="f1"), built(project, "2", fingerprint="f2")
    base = built_tree(project, fingerprint="t1")
    above = built_tree(project, base.layers, fingerprint="t2", content="y")
    project.sweep()
    for name in ("f1", "f2", "t1", "t2"):
        Path(project.log_path(name)).touch()
    choice = plan(project, None, None)
    assert gone(choice) == ["a", "tree"]
    carry_out(project, choice)
    assert left(project) == {"objects": [second.digest], "layers": sorted(above.layers), "logs": ["f2", "t2"],
                             "staging": []}  # fmt: skip
    assert project.problem(first) == "is missing"
    assert project.problem(second) is project.problem(above) is None
    assert project.records.find("f1", "a") is project.records.find("t1", "tree") is None
    again = plan(project, None, None)
    assert (again.results, again.names) == ((), ())


def test_a_target_that_is_declared_no_more_needs_nothing(project):
    built(project, "1", target="a")
    built(project, "2", target="b")
    assert gone(plan(project, None, None)) == []
    assert gone(plan(project, None, {"b": 1}.keys())) == ["a"]


def test_a_project_that_is_gone_needs_nothing(project, tmp_path):
    result = built(project, "1")
    (tmp_path / "q").mkdir()
    other = Store.open(project.root, project=str(tmp_path / "q/Forgefile.py"))
    other.records.make_current("a", "1")
    built(other, "2", target="b")
    other.records.keep_log("failed", "f9")
    Path(project.log_path("f9")).touch()
    assert plan(project, None, None).names == ()
    (tmp_path / "q").rmdir()
    choice = plan(project, None, None)
    assert gone(choice) == ["b"], "the other result is needed here"
    assert f"objects/{result.digest}" not in choice.names
    carry_out(project, choice)
    assert left(project)["objects"] == [result.digest]
    assert left(project)["logs"] == []
    assert other.records.targets() == set()
    other.records.close()


def test_what_was_removed_but_not_forgotten_is_built_again(project):
    """As a kill between the two leaves it."""
    first, second = built(project, "1", fingerprint="f1"), built(project, "2", fingerprint="f2")
    project.remove(plan(project, None, None).names)
    assert project.problem(project.records.find("f1", "a").result) == "is missing"
    assert project.problem(second) is None
    assert built(project, "1", fingerprint="f1") == first
    assert project.problem(first) is None


def test_a_folder_takes_its_files_once_and_one_that_is_not_there_nothing(tmp_path):
    (tmp_path / "folder/below").mkdir(parents=True)
    (tmp_path / "folder/below/file").write_bytes(b"x" * 10_000)
    (tmp_path / "folder/same").hardlink_to(tmp_path / "folder/below/file")
    blocks = [(tmp_path / name).stat().st_blocks for name in ("folder/below", "folder/same")]
    assert total_bytes(str(tmp_path / "folder")) == 512 * sum(blocks)
    assert total_bytes(str(tmp_path / "none")) == 0
