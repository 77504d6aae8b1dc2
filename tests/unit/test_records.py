"""Records: what is remembered comes back, all or nothing, and looking leaves no trace."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from forgefile.cache.records import BUILDS_KEPT, Record, Records
from forgefile.cache.seal import Result
from forgefile.errors import StoreError
from forgefile.fingerprint import Manifest, encode

MANIFEST = Manifest(output="file", epoch=1, steps=(), inputs=(("words.txt", "1"),), tools=())
FILE = Result("file", "d1", (), 7)
TREE = Result("tree", "d2", ("l1", "l2"), 0)
KEY = (0o100644, 7, 1_735_689_600_000_000_000, (1 << 62) + 1, (1 << 63) - 1)


def record(fingerprint, target="a", result=FILE, seconds=1.5, reasons=("never built",)):
    return Record(fingerprint, target, encode(MANIFEST), result, seconds, reasons)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "records.sqlite")


@pytest.fixture
def records():
    found = Records(None)
    yield found
    found.close()


def opened(path, **how):
    return Records(path, **how)


def test_a_record_comes_back(path):
    tree = record("f2", "b", TREE, reasons=("x: a → b", "tool x: changed"))
    for one in (record("f1"), tree, record("f3", "c", reasons=())):
        records = opened(path)
        records.remember(one)
        records.close()
        records = opened(path)
        assert records.find(one.fingerprint, one.target) == records.current(one.target) == one
        assert records.find(one.fingerprint, one.target).manifest == MANIFEST
        records.close()


def test_what_was_never_remembered_is_none(records):
    assert records.find("f1", "a") is records.current("a") is records.seconds("a") is records.log("a") is None
    assert records.listing("d") is records.object_key("d") is records.placed("/x") is None
    assert records.seen("/x") == ("", {})
    assert list(records.held()) == []


def test_the_latest_is_current_and_an_earlier_one_can_be_again(records):
    first, second = record("f1", seconds=1.0), record("f2", seconds=2.0)
    records.remember(first)
    records.remember(second)
    assert records.current("a") == second
    records.make_current("a", "f1")
    assert records.current("a") == first
    assert records.seconds("a") == 2.0


def test_remembering_again_replaces(records):
    records.remember(record("f1", seconds=1.0))
    records.remember(record("f2", seconds=2.0))
    records.remember(record("f1", seconds=3.0))
    assert records.find("f1", "a").seconds == records.seconds("a") == 3.0
    assert len(list(records.held())) == 2


def test_two_targets_with_one_fingerprint_are_both_current(records):
    records.remember(record("f1", "a"))
    records.make_current("b", "f1")
    assert records.current("b") == records.current("a")._replace(target="b")
    assert records.seconds("b") == 1.5


def test_a_forgotten_record_is_not_current_any_more(records):
    records.remember(record("f1"))
    records.keep_log("a", "f1")
    assert records.forget(["a", "b"]) == 1
    assert records.find("f1", "a") is records.current("a") is records.log("a") is None


def test_what_one_target_shares_with_another_outlives_it(records):
    records.remember(record("f1", "a"))
    records.make_current("b", "f1")
    records.forget(["a"])
    assert records.current("b").result == FILE
    assert records.find("f1", "c").result == FILE


def test_a_forgotten_target_is_built_again_though_an_equal_one_is_known(records):
    records.remember(record("f1", "a"))
    records.remember(record("f1", "b"))
    records.forget(["a"])
    assert records.find("f1", "a") is None
    assert records.find("f1", "b") == records.current("b")
    again = record("f1", "a", FILE._replace(digest="d9"))
    records.remember(again)
    assert records.find("f1", "a") == again


def test_a_target_s_own_record_comes_before_a_later_one_of_another(records):
    first, later = record("f1", "a"), record("f1", "b", FILE._replace(digest="d9"))
    records.remember(first)
    records.remember(later)
    assert records.find("f1", "a") == first
    assert records.find("f1", "c") == later
    records.remember(record("f2", "a"))
    records.make_current("a", "f1")
    assert records.current("a") == first


def test_logs(records):
    records.keep_log("a", "f1")
    records.keep_log("a", "f2")
    assert records.log("a") == "f2"


def test_what_was_seen_of_files(records):
    seen = {"": (None, ("d", 0o755, "")), "caf\udce9": (KEY, ("f", 0o644, "aa")), "l": (KEY, ("l", 0, "t"))}
    records.keep_seen("/p/overlay", "d1", seen)
    assert records.seen("/p/overlay") == ("d1", seen)
    listing = {name: entry for name, (_, entry) in seen.items()}
    records.keep_listing("d1", listing)
    records.keep_listing("d1", {})
    assert records.listing("d1") == listing


def test_keys_of_objects_and_of_placed_files(records):
    records.keep_object_key("d1", KEY)
    assert records.object_key("d1") == KEY
    records.keep_object_key("d1", None)
    assert records.object_key("d1") is None
    records.keep_placed("/p/disk.img", "d1", KEY)
    records.keep_placed("/p/disk.img", "d2", KEY)
    assert records.placed("/p/disk.img") == ("d2", KEY)
    records.keep_placed("/p/disk.img", "", None)
    assert records.placed("/p/disk.img") is None


# Several projects


def test_projects_share_results_and_nothing_else(path):
    one, two = opened(path, project="/one/Forgefile.py"), opened(path, project="/tw\udce9/Forgefile.py")
    one.remember(record("f1", seconds=1.0))
    one.keep_log("a", "f1")
    assert two.current("a") is two.seconds("a") is two.log("a") is None
    assert two.targets() == set()
    assert two.find("f1", "a") == record("f1", seconds=1.0)
    two.make_current("a", "f1")
    one.remember(record("f2", seconds=2.0))
    assert (one.current("a").fingerprint, two.current("a").fingerprint) == ("f2", "f1")
    assert (one.seconds("a"), two.seconds("a")) == (2.0, 1.0)
    one.forget(["a"])
    assert two.current("a") == record("f1", seconds=1.0)
    assert [(h.project, h.target, h.fingerprint, h.current) for h in two.held()] == [
        ("/tw\udce9/Forgefile.py", "a", "f1", True)
    ]
    one.close()
    two.close()


def test_what_another_forge_writes_is_noticed(path):
    one, two = opened(path), opened(path)
    one.remember(record("f1"))
    assert (one.changed_by_others, two.changed_by_others) == (False, True)
    one.close()
    two.close()


# Use


def used(records):
    return {held.fingerprint: held.used for held in records.held()}


def test_results_are_held_in_the_order_of_their_last_use(records):
    for name in ("f1", "f2", "f3"):
        records.remember(record(name, name))
    records.make_current("f1", "f1")
    assert [held.fingerprint for held in records.held()] == ["f2", "f3", "f1"]
    assert used(records)["f2"] < used(records)["f3"] < used(records)["f1"]


def test_use_is_noted_once_a_day_and_of_latest_results_alone(records):
    for name in ("f1", "f2"):
        records.remember(record(name, "a"))
    records.remember(record("f3", "b"))
    before = used(records)
    records.use({"a", "b"})
    assert used(records) == before
    records._db.execute("UPDATE record SET used=used-90000")
    records.use({"a"})
    after = used(records)
    assert (after["f1"], after["f3"]) == (before["f1"] - 90000, before["f3"] - 90000)
    assert after["f2"] > before["f2"]


# Dropping


def test_what_is_of_use_to_no_record_is_dropped(records, tmp_path):
    source = tmp_path / "words.txt"
    source.touch()
    for path in (str(source), str(tmp_path / "gone")):
        records.keep_seen(path, "d", {})
    for digest in ("1", "2"):
        records.keep_listing(digest, {})
    for name, result in (("f1", FILE), ("f2", FILE._replace(digest="d9")), ("f3", TREE)):
        records.remember(record(name, name, result))
        records.keep_log(name, name)
    for digest in ("d1", "d9"):
        records.keep_object_key(digest, KEY)
    for layer in ("l1", "l2", "l3"):
        records.keep_layer(layer, 7)
    records.drop([held for held in records.held() if held.fingerprint == "f2"], [])
    assert records.find("f2", "f2") is records.current("f2") is None
    assert (records.object_key("d1"), records.object_key("d9")) == (KEY, None)
    assert [records.layer_summary(layer) for layer in ("l1", "l2", "l3")] == [7, 7, None]
    assert (records.listing("1"), records.listing("2")) == ({}, None)
    assert (records.seen(str(source))[0], records.seen(str(tmp_path / "gone"))[0]) == ("d", "")


def test_of_an_abandoned_project_nothing_stays_but_its_records(path):
    one, two = opened(path, project="one"), opened(path, project="two")
    for records in (one, two):
        records.remember(record("f1"))
        records.keep_log("a", "f1")
    two.drop([held for held in two.held() if held.project == "one"], ["one", "two"])
    assert one.current("a") is one.log("a") is None
    assert two.current("a") == record("f1")
    assert two.log("a") == "f1"
    one.close()
    two.close()


def test_together_is_all_or_nothing(records):
    with records.together():
        records.remember(record("f1"))
        records.keep_log("a", "f1")

    def fail():
        with records.together():
            records.remember(record("f2"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert records.find("f2", "a") is None
    assert records.current("a") == record("f1")


@pytest.mark.parametrize("name", ["with blank", "100%", "a?b#c", "ä", "caf\udce9"])
def test_any_folder_will_do(tmp_path, name):
    (tmp_path / name).mkdir()
    path = str(tmp_path / name / "records.sqlite")
    records = opened(path)
    records.remember(record("f1"))
    records.close()
    assert os.path.exists(path)
    records = opened(path, read_only=True)
    assert records.find("f1", "a") == record("f1")
    records.close()


# Read-only


def traces(folder):
    return {name: os.stat(f"{folder}/{name}") for name in os.listdir(folder)}


def look(path):
    records = opened(path, read_only=True)
    found = records.find("f1", "a")
    records.remember(record("f9", "z"))
    records.keep_seen("/x", "d", {})
    with records.together():
        records.forget(["a"])
    records.close()
    return found


def test_looking_writes_nothing(path, tmp_path):
    records = opened(path)
    records.remember(record("f1"))
    records.close()
    before = traces(tmp_path)
    assert list(before) == ["records.sqlite"]
    assert look(path) == record("f1")
    after = traces(tmp_path)
    assert after.keys() == before.keys()
    assert after["records.sqlite"].st_mtime_ns == before["records.sqlite"].st_mtime_ns
    records = opened(path)
    assert records.find("f1", "a") == record("f1")
    assert records.find("f9", "a") is None
    records.close()


def test_looking_while_another_writes(path, tmp_path):
    writer = opened(path)
    writer.remember(record("f1"))
    before = {name: status.st_size for name, status in traces(tmp_path).items()}
    assert look(path) == record("f1")
    assert {name: status.st_size for name, status in traces(tmp_path).items()} == before
    writer.close()


KILLED = """
import os, sys
sys.path[:0] = {paths!r}
from forgefile.cache.records import Records, Record
from forgefile.cache.seal import Result
records = Records({path!r})
records.remember(Record("f1", "a", {text!r}, Result("file", "d1", (), 7), 1.5, ("never built",)))
os._exit(9)
"""


def test_what_a_killed_run_had_remembered_is_there(path, tmp_path):
    code = KILLED.format(paths=sys.path, path=path, text=encode(MANIFEST))
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert os.path.exists(f"{path}-wal")
    before = set(traces(tmp_path))
    assert look(path) == record("f1")
    assert set(traces(tmp_path)) == before
    records = opened(path)
    assert records.find("f1", "a") == record("f1")
    records.close()


def test_what_a_failed_opening_leaves_is_no_writer(path, tmp_path):
    records = opened(path)
    records.remember(record("f1"))
    records.close()
    Path(f"{path}-wal").touch()
    assert look(path) == record("f1")
    assert set(traces(tmp_path)) == {"records.sqlite", "records.sqlite-wal"}


# What cannot be used


@pytest.mark.parametrize("read_only", [True, False])
def test_a_file_that_is_no_database(path, read_only):
    with open(path, "w") as stream:
        stream.write("this is no database, but long enough to be looked at " * 20)
    with pytest.raises(StoreError, match=r"the store's records \(.*\) cannot be used") as caught:
        opened(path, read_only=read_only)
    assert caught.value.hint == "forge clean --all starts a new store"


def test_pages_that_are_damaged(path):
    before = opened(path)
    for number in range(200):
        before.remember(record(f"f{number}", f"t{number}"))
    before.close()
    size = os.path.getsize(path)
    with open(path, "r+b") as stream:  # the first page says what tables there are
        stream.seek(4096)
        stream.write(b"\xff" * (size - 4096))
    records = opened(path)
    for use in (lambda: records.current("t7"), lambda: records.find("f7", "t7"), lambda: records.remember(record("g"))):
        with pytest.raises(StoreError, match="the store's records are damaged") as caught:
            use()
        assert caught.value.hint == "forge clean --all starts a new store"
    records.close()


def other_version(path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE IF NOT EXISTS record (other TEXT)")
    database.execute("PRAGMA user_version=99")
    database.commit()
    database.close()


def test_records_of_another_version_are_not_read(path):
    other_version(path)
    before = Path(path).read_bytes()
    records = opened(path, read_only=True)
    assert records.fresh
    assert list(records.held()) == []
    records.close()
    assert Path(path).read_bytes() == before


def test_what_was_placed_outlives_another_version(path):
    records = opened(path)
    records.keep_placed("/p/disk.img", "digest", (1, 2, 3, 4, 5))
    records.close()
    other_version(path)
    records = opened(path)
    assert records.placed("/p/disk.img") == ("digest", (1, 2, 3, 4, 5))
    records.close()


def test_records_of_another_version_are_dropped_by_a_build(path):
    other_version(path)
    records = opened(path)
    records.remember(record("f1"))
    assert records.find("f1", "a") == record("f1")
    records.close()


def test_what_a_run_took_comes_back(records):
    took = record("f1")._replace(disk_bytes=8192, downloads={"deb/a_1_amd64.deb": 7})
    records.remember(took)
    assert records.current("a") == took
    records.make_current("b", "f1")
    assert records.current("b")[-2:] == took[-2:], "also by another target that has the result"
    records.remember(record("f2"))
    assert records.current("a")[-2:] == (0, None)


# The history of builds


def test_a_build_comes_back(path):
    records = opened(path)
    first = records.begin_build(1.5, ("-j", "2", "\udcff"))
    second = records.begin_build(2.5, ())
    records.end_build(first, 0.25, 1, {"counts": {"built": 1}}, b"details")
    records.close()
    records = opened(path)
    later, earlier = records.builds()
    assert (earlier.number, earlier.began, earlier.arguments) == (first, 1.5, ("-j", "2", "\udcff"))
    assert (earlier.wall_s, earlier.status, earlier.summary) == (0.25, 1, {"counts": {"built": 1}})
    assert (later.number, later.process, later.wall_s, later.status) == (second, os.getpid(), None, None)
    assert [records.build_details(number) for number in (first, second, 9)] == [b"details", b"", b""]
    records.close()


def test_the_history_is_bounded_and_its_numbers_go_on(records):
    for number in range(BUILDS_KEPT + 5):
        assert records.begin_build(float(number), ()) == number + 1
    assert [note.number for note in records.builds()] == list(range(BUILDS_KEPT + 5, 5, -1))


def test_a_history_is_the_projects_own(path):
    for project in ("one", "other"):
        records = opened(path, project=project)
        assert records.begin_build(1.0, (project,)) == 1
        records.close()
    records = opened(path, project="one")
    assert [note.arguments for note in records.builds()] == [("one",)]
    records.drop((), ("other",))
    records.close()
    records = opened(path, project="other")
    assert records.builds() == []
    records.close()


def test_records_without_a_history_have_none(path):
    opened(path).close()
    records = opened(path, read_only=True)
    assert records.builds() == []
    records.close()


def test_what_was_built_in_a_build_is_told_by_the_records(records):
    records.remember(record("f0", "before"))
    first = records.begin_build(1.0, ())
    records.remember(record("f1", "a", seconds=2.0, reasons=("x: changed",)))
    records.remember(record("f2", "b"))
    second = records.begin_build(2.0, ())
    third = records.begin_build(3.0, ())
    records.remember(record("f3", "c"))
    assert records.built_in(first) == [("a", 2.0, ("x: changed",), 7), ("b", 1.5, ("never built",), 7)]
    assert records.built_in(third)[0][0] == "c"
    assert records.built_in(second) == []
