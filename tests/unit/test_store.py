"""The store: outputs appear whole, are placed safely, and are noticed when they were changed or are gone."""

import fcntl
import multiprocessing
import os
import stat
from pathlib import Path

import pytest

from forgefile.cache.records import Record
from forgefile.cache.seal import Result, commit, keep_failed, tree_digest
from forgefile.cache.store import Store, folder_of, project_of, remove_store
from forgefile.errors import StoreError, UsageError
from forgefile.fingerprint import Manifest, encode

EPOCH = 1_735_689_600
MANIFEST = encode(Manifest(output="file", epoch=1, steps=(), inputs=(), tools=()))


@pytest.fixture
def store(tmp_path):
    found = Store.open(str(tmp_path / ".forge"))
    yield found
    found.records.close()


def built(store, content="content", mode=0o644, *, fingerprint=None, target="a"):
    """Commit a file output and record it; return the result."""
    staging = store.stage(1)
    os.mkdir(f"{staging}/run")
    out = Path(staging, "run/out")
    out.write_text(content)
    out.chmod(mode)
    made = commit(store.root, staging, "file", None, EPOCH)
    store.records.keep_object_key(made.result.digest, made.key)
    store.records.remember(Record(fingerprint or content, target, MANIFEST, made.result, 1.0))
    os.rmdir(f"{staging}/run")
    os.rmdir(staging)
    store.sweep()
    return made.result


def built_tree(store, base=None, *, fingerprint="t", target="tree", content="x"):
    staging = store.stage(1)
    out = Path(staging, "upper" if base is not None else "run/out")
    out.mkdir(parents=True)
    (out / "file").write_text(content)
    (out / "locked").mkdir(mode=0o000)
    result = commit(store.root, staging, "tree", base, EPOCH).result
    store.records.remember(Record(fingerprint, target, MANIFEST, result, 1.0))
    return result


def inode(path):
    return os.lstat(path).st_ino


# Opening


def test_looking_at_a_store_that_is_not_there_makes_none(tmp_path):
    store = Store.open(str(tmp_path / ".forge"), read_only=True)
    assert store.records.current("a") is None
    assert store.problem(Result("file", "aa", (), 1)) == "is missing"
    store.records.close()
    assert os.listdir(tmp_path) == []


def test_a_new_store(store):
    assert {"objects", "layers", "staging", "cache", "logs", "empty", "records.sqlite"} <= set(os.listdir(store.root))
    assert stat.S_IMODE(os.stat(store.root).st_mode) == 0o700
    assert Path(store.root, "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55\n")


def test_a_store_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"the store .*/file/\.forge cannot be made: Not a directory") as caught:
        Store.open(str(tmp_path / "file/.forge"))
    assert caught.value.hint == "make that place writable, or name another with --store"


@pytest.mark.parametrize("name", ["lock", "records.sqlite-journal", "cache"])
def test_a_store_is_made_where_one_was_to_be_made(tmp_path, name):
    (tmp_path / name).mkdir() if name == "cache" else (tmp_path / name).touch()
    Store.open(str(tmp_path)).records.close()
    assert (tmp_path / "objects").is_dir()


def test_a_folder_with_other_things_is_no_store(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match=r"holds 'thesis\.tex' and is no store of forge's") as caught:
        Store.open(str(tmp_path))
    assert caught.value.hint == "name a folder for the store that is empty, or not there yet"
    assert os.listdir(tmp_path) == ["thesis.tex"]


def test_a_removed_store_leaves_what_is_not_forges(tmp_path):
    for name in ("mine", "empty"):
        Store.open(str(tmp_path / name)).records.close()
    (tmp_path / "mine/thesis.tex").touch()
    for name in ("mine", "empty"):
        remove_store(str(tmp_path / name))
    assert os.listdir(tmp_path) == ["mine"]
    assert os.listdir(tmp_path / "mine") == ["thesis.tex"]


def test_a_project_is_named_by_its_path_or_from_a_store_of_its_own(tmp_path):
    root, file = str(tmp_path / "p"), str(tmp_path / "p/Forgefile.py")
    (tmp_path / "p").mkdir()
    (tmp_path / "link").symlink_to("p")
    assert project_of(f"{root}/.forge", file) == "../Forgefile.py"
    assert project_of(f"{root}/.forge", str(tmp_path / "link/Forgefile.py")) == "../Forgefile.py"
    assert project_of(f"{root}/a/b", f"{root}/other.py") == "../../other.py"
    assert project_of(str(tmp_path / "store"), str(tmp_path / "link/Forgefile.py")) == file
    assert project_of(str(tmp_path / "p-store"), file) == file
    for store in (f"{root}/.forge", f"{root}/a/b", str(tmp_path / "store")):
        assert folder_of(store, project_of(store, file)) == root


# Committing


def test_a_file_comes_in_whole(store):
    result = built(store)
    path = Path(store.object_path(result.digest))
    assert path.read_text() == "content"
    assert (stat.S_IMODE(path.stat().st_mode), path.stat().st_mtime) == (0o644, EPOCH)
    assert result == Result("file", result.digest, (), 7)
    assert store.problem(result) is None
    assert os.listdir(f"{store.root}/staging") == []


def test_the_same_content_comes_in_twice(store):
    first, second = built(store, fingerprint="1"), built(store, fingerprint="2")
    assert first == second
    assert os.listdir(f"{store.root}/objects") == [first.digest]
    assert store.problem(first) is None


def test_an_executable_is_another_object(store):
    plain, program = built(store), built(store, mode=0o755, fingerprint="2")
    assert program.digest == plain.digest + "x"
    assert store.problem(plain) is store.problem(program) is None


def test_a_job_that_made_nothing(store):
    staging = store.stage(1)
    os.mkdir(f"{staging}/run")
    with pytest.raises(StoreError, match="its steps made no output"):
        commit(store.root, staging, "file", None, EPOCH)
    assert os.listdir(f"{store.root}/objects") == []


def test_a_tree_is_a_stack_of_layers(store):
    base = built_tree(store)
    above = built_tree(store, base.layers, fingerprint="t2", content="y")
    assert above.layers == (*base.layers, above.layers[-1])
    assert base.digest == tree_digest(base.layers)
    assert above.digest == tree_digest(above.layers) != base.digest
    assert above.size == 1
    assert store.problem(base) is store.problem(above) is None
    assert Path(store.layer_path(above.layers[-1]), "file").read_text() == "y"


def test_the_same_layer_comes_in_twice(store):
    assert built_tree(store, fingerprint="1") == built_tree(store, fingerprint="2")
    assert len(os.listdir(f"{store.root}/layers")) == 1


def test_a_torn_layer_is_replaced_when_it_comes_in_again(store):
    (layer,) = built_tree(store, fingerprint="1").layers
    Path(store.layer_path(layer), "file").unlink()
    built_tree(store, fingerprint="2")
    assert Path(store.layer_path(layer), "file").read_text() == "x"
    assert os.listdir(f"{store.root}/layers") == [layer]


def test_the_order_of_layers_counts():
    assert len({tree_digest(layers) for layers in (("a", "b"), ("b", "a"), ("a",), ("ab",), ())}) == 5


# Noticing


def test_an_object_that_is_gone(store):
    result = built(store)
    os.unlink(store.object_path(result.digest))
    assert store.problem(result) == "is missing"


@pytest.mark.parametrize("content", ["CONTENT", "longer content", ""])
def test_an_object_that_was_changed_leaves_the_store(store, content):
    result = built(store)
    Path(store.object_path(result.digest)).write_text(content)
    assert store.problem(result) == "was changed since it was built"
    assert not os.path.exists(store.object_path(result.digest))
    assert store.problem(result) == "is missing"


def test_looking_at_a_changed_object_leaves_it(store):
    result = built(store)
    path = store.object_path(result.digest)
    Path(path).write_text("other")
    store.records.close()
    looking = Store.open(store.root, read_only=True)
    assert looking.problem(result) == "was changed since it was built"
    assert os.path.exists(path)
    looking.records.close()


def test_an_object_that_was_only_touched_is_read_and_good(store):
    result = built(store)
    path = store.object_path(result.digest)
    os.utime(path, (EPOCH, EPOCH))
    assert store.problem(result) is None
    assert store.records.object_key(result.digest)[3] == os.lstat(path).st_ctime_ns


def test_a_layer_that_is_gone(store):
    base = built_tree(store)
    above = built_tree(store, base.layers, fingerprint="t2", content="y")
    os.rename(store.layer_path(base.layers[0]), f"{store.root}/elsewhere")
    assert store.problem(above) == store.problem(base) == "is missing"


# Placing


def test_a_placed_file(store, tmp_path):
    result = built(store)
    place = tmp_path / "images/arm64/disk.img"
    assert not store.is_placed(result, str(place))
    store.place(result, str(place))
    assert place.read_text() == "content"
    assert (stat.S_IMODE(place.stat().st_mode), place.stat().st_mtime) == (0o644, EPOCH)
    assert store.is_placed(result, str(place))
    assert store.is_as_placed(str(place))
    assert store.problem(result) is None
    assert os.listdir(place.parent) == ["disk.img"]


def overwrite(path):
    path.write_text("CONTENT")


def overwrite_and_hide(path):
    path.write_text("CONTENT")
    os.utime(path, (EPOCH, EPOCH))


def replace(path):
    path.rename(path.with_suffix(".old"))
    path.write_text("content")
    os.utime(path, (EPOCH, EPOCH))


def append(path):
    with path.open("a") as stream:
        stream.write("!")


CHANGES = [overwrite, overwrite_and_hide, replace, append, Path.unlink, os.utime, lambda p: p.chmod(0o600)]


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_user_does_to_a_placed_file_is_noticed(store, tmp_path, change):
    result, place = built(store), tmp_path / "disk.img"
    store.place(result, str(place))
    change(place)
    assert not store.is_placed(result, str(place))
    assert not store.is_as_placed(str(place))


@pytest.mark.parametrize("change", [overwrite, overwrite_and_hide, append])
def test_what_a_user_writes_is_never_served(store, tmp_path, change):
    result, place = built(store), tmp_path / "disk.img"
    store.place(result, str(place))
    change(place)
    if store.problem(result) is None:
        store.place(result, str(place))
        assert place.read_text() == "content"
    else:
        assert not os.path.exists(store.object_path(result.digest))
    assert place.exists()


def test_an_earlier_result_is_not_what_is_placed(store, tmp_path):
    first, second = built(store, "1"), built(store, "2")
    store.place(first, str(tmp_path / "a"))
    assert not store.is_placed(second, str(tmp_path / "a"))
    store.place(second, str(tmp_path / "a"))
    assert store.is_placed(second, str(tmp_path / "a"))
    assert not store.is_placed(first, str(tmp_path / "a"))


def test_two_places_never_share_an_inode(store, tmp_path):
    result = built(store)
    places = [str(tmp_path / name) for name in "abc"]
    for _ in range(2):
        for place in places:
            store.place(result, place)
        assert len({inode(place) for place in places}) == len(places)
    Path(places[0]).write_text("mine")
    assert [Path(place).read_text() for place in places[1:]] == ["content", "content"]


def test_two_targets_with_the_same_content_never_share_an_inode(store, tmp_path):
    first = built(store, fingerprint="1", target="a")
    store.place(first, str(tmp_path / "a"))
    second = built(store, fingerprint="2", target="b")
    store.place(second, str(tmp_path / "b"))
    assert inode(tmp_path / "a") != inode(tmp_path / "b")
    assert store.is_placed(first, str(tmp_path / "a"))
    assert store.is_placed(second, str(tmp_path / "b"))


@pytest.mark.parametrize("again", [False, True], ids=["noticed", "built again"])
def test_a_mode_and_time_that_a_user_gave_are_not_served(store, tmp_path, again):
    result, place = built(store), tmp_path / "a"
    store.place(result, str(place))
    place.chmod(0o600)
    os.utime(place, (5, 5))
    if again:
        assert built(store, fingerprint="2") == result
    assert store.problem(result) is None
    for name in ("a", "b"):
        store.place(result, str(tmp_path / name))
        status = (tmp_path / name).stat()
        assert (stat.S_IMODE(status.st_mode), status.st_mtime) == (0o644, EPOCH)


def test_an_executable_is_placed_as_one(store, tmp_path):
    store.place(built(store, mode=0o711), str(tmp_path / "run"))
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o755


def test_a_placed_file_keeps_its_holes(store, tmp_path):
    staging = store.stage(1)
    os.mkdir(f"{staging}/run")
    with open(f"{staging}/run/out", "wb") as stream:
        stream.truncate(64 << 20)
    result = commit(store.root, staging, "file", None, EPOCH).result
    for name in "ab":
        store.place(result, str(tmp_path / name))
        status = (tmp_path / name).stat()
        assert (status.st_size, status.st_blocks) == (64 << 20, 0)


@pytest.mark.parametrize("way", ["link", "file"])
def test_what_forge_did_not_place_is_not_replaced(store, tmp_path, way):
    result = built(store)
    (tmp_path / "target").write_text("precious")
    (tmp_path / "a").symlink_to("target") if way == "link" else (tmp_path / "a").write_text("precious")
    with pytest.raises(UsageError, match="forge did not put it there"):
        store.place(result, str(tmp_path / "a"))
    assert (tmp_path / "a").read_text() == "precious"


def test_a_link_at_the_place_of_a_placed_file_is_replaced(store, tmp_path):
    result = built(store)
    store.place(result, str(tmp_path / "a"))
    (tmp_path / "target").write_text("precious")
    (tmp_path / "a").unlink()
    (tmp_path / "a").symlink_to("target")
    (tmp_path / "a.forge-arriving").write_text("left by a kill")
    store.place(result, str(tmp_path / "a"))
    assert (tmp_path / "a").read_text() == "content"
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "target").read_text() == "precious"
    assert not (tmp_path / "a.forge-arriving").exists()


def test_a_folder_in_the_way_is_refused(store, tmp_path):
    result = built(store)
    (tmp_path / "a").mkdir()
    with pytest.raises(UsageError, match="is a folder; the target of that name cannot be placed there"):
        store.place(result, str(tmp_path / "a"))
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        store.place(result, str(tmp_path / "file/a"))


# Discarding and sweeping


def left(store):
    return {name: sorted(os.listdir(f"{store.root}/{name}")) for name in ("objects", "layers", "logs")}


def test_discard_forgets_targets_and_what_only_they_need(store):
    kept, gone = built(store, "kept", target="kept"), built(store, "gone", target="gone")
    base = built_tree(store, fingerprint="base", target="base")
    above = built_tree(store, base.layers, fingerprint="above", target="above", content="y")
    for name in ("kept", "gone", "base"):
        Path(store.log_path(name)).touch()
    store.discard({"gone", "base"})
    assert left(store) == {"objects": [kept.digest], "layers": sorted(above.layers), "logs": ["kept"]}
    assert store.records.current("gone") is None
    assert store.problem(above) is store.problem(kept) is None
    assert store.problem(gone) == "is missing"


def test_discard_all(store):
    built(store)
    built_tree(store)
    assert store.discard(["a", "tree", "no such"]) == 2
    assert left(store) == {"objects": [], "layers": [], "logs": []}
    assert list(store.records.held()) == []


def test_discard_leaves_what_other_projects_have(store):
    mine, shared = built(store, "mine"), built(store, "shared", target="b")
    other = Store.open(store.root, project="/other/Forgefile.py")
    other.records.make_current("a", "shared")
    other.records.keep_log("failed", "f9")
    for name in ("mine", "shared", "f9"):
        Path(store.log_path(name)).touch()
    assert store.discard(["a", "b"]) == 2
    assert left(store) == {"objects": [shared.digest], "layers": [], "logs": ["f9", "shared"]}
    assert other.records.current("a").result == shared
    assert store.problem(mine) == "is missing"
    other.records.close()


def test_a_layer_leaves_the_store_at_once(store):
    (layer,) = built_tree(store).layers
    store.remove([f"layers/{layer}"])
    assert left(store)["layers"] == []
    assert layer not in os.listdir(f"{store.root}/staging")
    assert store.problem(Result("tree", tree_digest((layer,)), (layer,), 1)) == "is missing"


def test_discard_leaves_what_was_placed(store, tmp_path):
    store.place(built(store), str(tmp_path / "a"))
    store.discard(["a"])
    assert (tmp_path / "a").read_text() == "content"


def test_staging_folders_are_new_and_swept(store):
    folders = [store.stage(number) for number in range(3)]
    assert len(set(folders)) == 3
    os.makedirs(f"{folders[0]}/upper/locked/deep")
    os.chmod(f"{folders[0]}/upper/locked", 0)
    os.symlink("/etc", f"{folders[1]}/link")
    store.sweep()
    assert os.listdir(f"{store.root}/staging") == []
    assert os.path.exists("/etc/passwd")


def test_a_disk_with_room_is_not_refused(store):
    store.refuse_full_disk()


# The lock


def hold(root, held, let_go):
    store = Store.open(root)
    with store.lock(lambda _: None):
        held.set()
        let_go.wait(20)


def elsewhere(what, store):
    """Have another process do something with a store, and wait until it holds it; return it and its two events."""
    context = multiprocessing.get_context("spawn")
    held, let_go = context.Event(), context.Event()
    other = context.Process(target=what, args=(store.root, held, let_go))
    other.start()
    assert held.wait(20)
    return other, held, let_go


def test_a_free_lock_is_not_waited_for(store):
    waits = []
    for _ in range(2):
        with store.lock(waits.append) as waited:
            assert waited is False
            with open(f"{store.root}/lock") as stream, pytest.raises(BlockingIOError):
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert Path(store.root, store.lock_name).read_text().partition(" ")[0] == f"{os.getpid()}"
    assert waits == []


def test_the_second_forge_waits_and_says_for_whom(store):
    other, _, let_go = elsewhere(hold, store)
    waits = []

    def told(holder):
        waits.append(holder)
        let_go.set()

    with store.lock(told) as waited:
        assert waited is True
    assert waits == [str(other.pid)]
    other.join(20)
    assert other.exitcode == 0


def test_a_store_that_changed_before_the_lock_was_taken(store):
    other = Store.open(store.root)
    with store.lock(lambda _: None) as changed:
        assert changed is False
        built(other)
    with store.lock(lambda _: None) as changed:
        assert changed is True
    other.records.close()


def test_a_store_that_is_removed_while_another_waits(store):
    other, _, let_go = elsewhere(hold, store)

    def told(holder):
        remove_store(store.root)
        let_go.set()

    with pytest.raises(StoreError, match="another forge removed the store"), store.lock(told):
        pass
    other.join(20)


def test_a_killed_forge_leaves_no_lock(store):
    other, _, _ = elsewhere(hold, store)
    other.kill()
    other.join(20)
    with store.lock(lambda _: None) as waited:
        assert waited is False


def test_projects_do_not_wait_for_each_other_but_for_who_is_alone(store):
    """flock(2) tells two openings of one process apart."""
    other = Store.open(store.root, project="/other/Forgefile.py")
    waits = []
    with store.lock(waits.append), other.lock(waits.append):
        with open(f"{store.root}/lock") as stream, pytest.raises(BlockingIOError):
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert (store.builder(), other.builder()) == (str(os.getpid()),) * 2
    assert waits == []
    assert (store.builder(), other.builder()) == ("", "")
    other.records.close()


def test_who_is_to_be_alone_waits_for_a_builder_and_says_for_whom(store):
    other, _, let_go = elsewhere(hold, store)
    waits = []

    def told(holder):
        waits.append(holder)
        let_go.set()

    with store.lock(told, alone=True) as waited:
        assert waited is True
        assert store.builder() == ""
    assert waits == [str(other.pid)]
    other.join(20)


def claim(root, held, let_go):
    store = Store.open(root, project="/other/Forgefile.py")
    with store.lock(lambda _: None):
        assert store.claim(FINGERPRINT) is None
        held.set()
        let_go.wait(20)
        store.unclaim(FINGERPRINT)
        held.clear()
        let_go.clear()
        let_go.wait(20)


FINGERPRINT = "f" * 32


@pytest.mark.parametrize("end", ["killed", "done"])
def test_what_one_forge_builds_another_cannot_claim(store, end):
    other, held, let_go = elsewhere(claim, store)
    with store.lock(lambda _: None):
        assert store.claim(FINGERPRINT) == str(other.pid)
        assert store.claim("0" * 32) is None
        if end == "killed":
            other.kill()
            other.join(20)
        else:
            let_go.set()
            while held.is_set():
                pass
        assert store.claim(FINGERPRINT) is None
        assert store.claim(FINGERPRINT) is None, "another target of this forge"
    other.kill()
    other.join(20)


def test_nothing_is_claimed_without_the_lock(store):
    with pytest.raises(ValueError, match="the lock is not held"):
        store.claim(FINGERPRINT)


def test_what_a_living_forge_has_in_staging_is_not_swept(store):
    other = Store.open(store.root, project="/other/Forgefile.py")
    folder = other.stage(1)
    Path(store.root, "staging/1").mkdir()
    Path(store.root, "staging/1-1/2").mkdir(parents=True)
    Path(store.root, "staging/link").symlink_to(folder)
    store.stage(1)
    store.sweep()
    assert os.listdir(f"{store.root}/staging") == [os.path.basename(os.path.dirname(folder))]
    other.sweep()
    assert os.listdir(f"{store.root}/staging") == []
    other.records.close()


# What failed


def test_targets_of_one_name_are_kept_for_each_project(store):
    stores = [store, *(Store.open(store.root, project=f"/{name}/Forgefile.py") for name in "xy")]
    kept = [failed(each, "a%%b") for each in stores]
    assert len(set(kept)) == 3
    for number, each in enumerate(stores):
        assert [path.exists() for path in kept] == [False] * number + [True] * (3 - number)
        each.discard_failed(None)
    for each in stores[1:]:
        each.records.close()


def failed(store, target, base=None):
    """Keep what a failed job made: an output and something in the folder of its steps; return where it is."""
    staging = store.stage(1)
    out = Path(staging, "run/out" if base is None else "upper")
    out.mkdir(parents=True)
    (out / "half").write_text(target)
    Path(staging, "run/tmp").mkdir(parents=True, exist_ok=True)
    Path(staging, "run/tmp/note").touch()
    return Path(keep_failed(store.root, staging, store.failed_name(target), base))


@pytest.mark.parametrize("base", [None, ("layer",)])
def test_what_failed_is_kept(store, base):
    kept = failed(store, "a", base)
    assert kept == Path(store.root, "failed/a")
    assert (kept / "out/half").read_text() == "a"
    assert (kept / "tmp/note").exists()
    (kept / "old").touch()
    assert sorted(os.listdir(failed(store, "a", base))) == ["out", "tmp"]


def test_nothing_is_kept_of_what_made_nothing(store):
    staging = store.stage(1)
    os.makedirs(f"{staging}/run/tmp")
    assert keep_failed(store.root, staging, "a", None) is None
    assert os.listdir(f"{store.root}/failed") == []


def test_names_of_failed_targets_do_not_clash(store):
    names = ["a/b", "a%2Fb", "a"]
    assert len({failed(store, name) for name in names}) == 3
    store.discard_failed(["a/b"])
    assert sorted(os.listdir(f"{store.root}/failed")) == ["a", "a%252Fb"]
    store.discard_failed(None, but=["a"])
    assert os.listdir(f"{store.root}/failed") == ["a"]
    store.discard_failed(None)
    assert os.listdir(f"{store.root}/failed") == []


def test_a_store_in_which_nothing_failed(store):
    store.discard_failed(None)
    store.discard_failed(["a"])


# Room


def test_a_disk_that_holds_it_is_not_refused(store):
    store.refuse_small_disk(store.free_bytes() // 2)


def test_a_disk_that_cannot_hold_it_is_refused(store):
    needed = 1 << 60
    with pytest.raises(UsageError, match=f"cannot hold this: {needed} bytes are needed at {store.root}, ") as caught:
        store.refuse_small_disk(needed)
    assert "forge gc" in caught.value.hint


def test_free_bytes_are_those_of_the_disk_of_a_store_that_is_not_there(tmp_path):
    store = Store.open(str(tmp_path / "not/yet"), read_only=True)
    assert store.free_bytes() > 0
    store.records.close()
    assert not (tmp_path / "not").exists()


def test_a_store_holds_a_result_of_which_the_last_part_is_there(store):
    file, tree = built(store), built_tree(store)
    top = built_tree(store, tree.layers, fingerprint="top", content="y")
    assert [store.holds(result) for result in (file, tree, top)] == [True, True, True]
    store.remove([f"objects/{file.digest}", f"layers/{top.layers[-1]}"])
    assert [store.holds(result) for result in (file, tree, top)] == [False, True, False]
