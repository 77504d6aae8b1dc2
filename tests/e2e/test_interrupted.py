# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""However forge ends, nothing of it is left behind, and the next run is right."""

import os
import random
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import first_lines, nothing_left, processes_of, until

SLOW = (
    'forge.target("quick", Noisy(line="echo quick >$OUT"))',
    'root = forge.target("root", Root())',
    'forge.target("host", Noisy(line="echo host-begun; sleep ${FORGE_E2E:-600} >&2 & wait; echo slow >$OUT"))',
    ('tree = forge.target("tree", Change(base=root, line="echo tree-begun; sleep %s; echo x >/etc/x" % forge.option("s", "600"), '
    "inside=True, network=True))"),
)


def _children(pid):
    """Return all descendants of a process."""
    found = []
    with suppress(OSError):
        direct = [each for task in Path(f"/proc/{pid}/task").iterdir() for each in (task / "children").read_text().split()]
        for child in direct:
            found += [int(child), *_children(child)]
    return found


def _sleeping(pids):
    """Return those that are the steps' own sleep."""
    found = []
    for pid in pids:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(b"sleep\x00600"):
            found.append(pid)
    return found


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture
def begun(project):
    """A build whose targets sleep, its descendants, at whose end nothing may be left."""
    project.forgefile(*SLOW)
    project.forge("quick", "root")
    with nothing_left(project):
        process = project.start("--json", "-j", "2")
        first_lines(process, ["host-begun", "tree-begun"])
        try:
            children = until(lambda: (c := _children(process.pid), len(_sleeping(c)) == 2)[1] and c)
            yield project, process, children
            process.communicate(timeout=30)
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()
        until(lambda: not [pid for pid in children if _alive(pid)], 5)
        until(lambda: not processes_of(project.root), 5)
    _next_run_is_right(project)


def _next_run_is_right(project):
    text = project.read("Forgefile.py").replace("${FORGE_E2E:-600}", "0").replace('"600"', '"0"')
    project.write("Forgefile.py", text)
    ended = project.json()
    assert ended.targets("built") == ["host", "tree"]
    assert os.listdir(project / ".forge/staging") == []
    tree = project.exported("tree")
    assert (tree / "etc/x").read_text() == "x\n"
    assert not (tree / "etc/resolv.conf").exists()
    assert not (tree / "usr/sbin/policy-rc.d").exists()
    project.nothing_runs()


def test_interrupt_of_the_group(begun):
    project, process, _ = begun
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert '"status": 130' in out
    assert "Traceback" not in err
    assert os.listdir(project / ".forge/staging") == []


def test_interrupt_of_forge_alone(begun):
    _, process, _ = begun
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    assert process.returncode == 130


def test_two_interrupts(begun):
    _, process, _ = begun
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode in (130, -signal.SIGINT)
    assert "bug in forge" not in err


def test_a_second_interrupt_at_any_time_is_no_bug(project):
    project.forgefile(*SLOW)
    project.forge("quick", "root")
    with nothing_left(project):
        for milliseconds in range(30):
            process = project.start("--json", "-j", "2")
            first_lines(process, ["host-begun", "tree-begun"])
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(milliseconds / 1000)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=30)
            assert process.returncode in (130, -signal.SIGINT), err
            assert "bug in forge" not in err
            until(lambda: not processes_of(project.root), 10)
    _next_run_is_right(project)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL])
def test_a_signal_to_forge(begun, number):
    _, process, _ = begun
    process.send_signal(number)
    process.communicate(timeout=20)
    assert process.returncode != 0


def test_the_kill_of_a_worker(begun):
    _, process, _ = begun
    _, worker, _ = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(worker), signal.SIGKILL)
    _end_the_other(process, worker)
    out, err = process.communicate(timeout=30)
    assert out.count("its worker ended unexpectedly (killed by SIGKILL)") == 2, out
    assert "bug in forge" not in err


def test_the_kill_of_the_nursery(begun):
    """The next worker that is needed comes from another."""
    _, process, _ = begun
    nursery, worker, _ = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(nursery), signal.SIGKILL)
    os.kill(int(worker), signal.SIGKILL)
    _end_the_other(process, worker)
    out, err = process.communicate(timeout=30)
    assert out.count("its worker ended unexpectedly (killed by SIGKILL)") == 2, out
    assert "bug in forge" not in err


def _end_the_other(process, worker):
    """Kill the worker of the other step, too, which would sleep on."""
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    until(lambda: len(workers.read_text().split()) == 3 and worker not in workers.read_text().split())
    for each in workers.read_text().split():
        if _sleeping(_children(int(each))):
            os.kill(int(each), signal.SIGKILL)


def test_the_kill_of_a_step(begun):
    """Killing PID 1 of one sandbox, or the process around it, fails that target alone."""
    project, process, children = begun
    for pid in _sleeping(children):
        parent = int(re.search(r"PPid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])
        os.kill(parent, signal.SIGKILL)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "SIGKILL" in out
    assert "bug in forge" not in err
    assert os.listdir(project / ".forge/staging") == []


def test_an_interrupt_at_any_time(project):
    """Interrupted or killed at arbitrary moments, the store is always fit for the next run."""
    project.forgefile(
        'root = forge.target("root", Root(extra=forge.option("n", "0")))',
        *(f'forge.target("t{n}", Shell(line="cat $1/etc/extra; echo {n}", inputs=(root,)))' for n in range(3)),
    )
    project.forge("-D", "n=first")
    with nothing_left(project):
        for number in range(14):
            process = project.start("-D", f"n={number}")
            time.sleep(0.03 + number * 0.02)
            os.killpg(process.pid, signal.SIGKILL if number % 2 else signal.SIGINT)
            _, err = process.communicate(timeout=30)
            assert "bug in forge" not in err, err
            assert ", in run\n" not in err, err  # while Python starts, before forge's first line, it tells itself
    project.forge("-D", "n=5")
    assert project.read("t1") == "51\n"
    project.forge("-D", "n=6")
    assert project.read("t2") == "62\n"
    project.nothing_runs("-D", "n=6")


IMAGE = (
    "from forgefile.rules import DiskImage, Ext4, Pack, Partition, Vfat",
    'root = forge.target("root", Root(extra=forge.option("n", "0")))',
    'laid = forge.target("laid", Overlay(base=root, source=forge.source("overlay")))',
    'tuned = forge.target("tuned", Script(base=laid, script=forge.source("tune.sh")))',
    'packed = forge.target("tuned.tar.gz", Pack(tree=tuned, compression="gzip"))',
    """disk = forge.target("disk.img", DiskImage(partitions=(
        Partition("esp", type="esp", size="2MiB", filesystem=Vfat(label="ESP")),
        Partition("root", type="root", filesystem=Ext4(label="root"), tree=tuned),
    )))""",
    "forge.default(packed, disk)",
)


@pytest.fixture
def images(project):
    """Two projects of a whole image: one that is to suffer, and its like."""
    both = project, type(project)(project.root.parent / "like")
    for each in both:
        each.forgefile(*IMAGE)
        each.write("overlay/etc/motd", "welcome\n")
        each.write("tune.sh", "#!/bin/sh\ncp /etc/motd /etc/issue\nln /etc/issue /root/issue\nchmod 600 /etc/issue\n", 0o755)
        (each.root.parent / f"tmp-{each.root.name}").mkdir()
        each.env["TMPDIR"] = str(each.root.parent / f"tmp-{each.root.name}")
    return both


@pytest.mark.parametrize("whom", ["forge", "a worker", "any of its processes", "all"])
def test_a_kill_at_any_moment_of_a_real_build(images, whom):
    """It leaves no process, mount, loop device or file, and the next run makes what one makes that nobody disturbed."""
    project, like = images
    began = time.monotonic()
    like.forge("-j2")
    took_s = time.monotonic() - began
    chance = random.Random(whom)
    loops = sorted(path.name for path in Path("/sys/block").glob("loop*/loop"))
    hits = 0
    with nothing_left(project):
        for number in range(6):
            process = project.start("-j2", "-D", f"n={number}")
            time.sleep(chance.uniform(0.05, took_s))
            for pid in _chosen(whom, process.pid, chance):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            out, err = process.communicate(timeout=60)
            assert "Traceback" not in out + err, out + err
            hits += process.returncode != 0
            until(lambda: not processes_of(project.root), 10)
            project.forge("-j2", "-D", f"n={number}")
            like.forge("-j2", "-D", f"n={number}")
            for name in ("tuned.tar.gz", "disk.img"):
                assert (project / name).read_bytes() == (like / name).read_bytes()
            assert os.listdir(project / ".forge/staging") == []
            assert os.listdir(project.env["TMPDIR"]) == []
            assert sorted(os.listdir(project.root)) == sorted(os.listdir(like.root))
    assert hits > 1
    assert loops == sorted(path.name for path in Path("/sys/block").glob("loop*/loop"))
    project.nothing_runs("-D", "n=5")


def _chosen(whom, forge, chance):
    """Return the processes of a running forge that are to be killed."""
    below = _children(forge)
    match whom:
        case "forge":
            return [forge]
        case "a worker":
            direct = [pid for pid in below if _parent(pid) == forge]
            return [chance.choice(direct)] if direct else [forge]
        case "any of its processes":
            return [chance.choice([forge, *below])]
    return [*below, forge]


def _parent(pid):
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def test_a_dry_run_beside_a_build(begun):
    """Reading verbs do not wait for the forge that builds, and do not disturb it."""
    project, process, _ = begun
    assert project.planned()["host"][0] == "run"
    project.forge("list")
    project.forge("why", "tree")
    assert "host-begun" in project.forge("log", "host").out
    assert project.json("quick").targets("built") == []
    assert process.poll() is None
    process.terminate()


# Two at once ---------------------------------------------------------------------------------------------------------


def test_two_at_once(project):
    project.forgefile(
        'forge.target("a", Noisy(line="echo a-begun; sleep 1; echo a >$OUT"))',
        'forge.target("b", Shell(line="echo b"))',
    )
    first = project.start("--json", "a")
    first_lines(first, ["a-begun"])
    second = project.json("a", "b")
    out, err = first.communicate(timeout=30)
    assert first.returncode == 0, err
    assert second.only("note")["message"] == f"waiting for the forge that builds here (process {first.pid})"
    assert second.targets("built") == ["b"], "what the first built is not built again"
    assert second.targets("current") == ["a"]
    assert '"built"' in out
    project.nothing_runs()


def test_the_one_that_waits_can_be_interrupted(project):
    project.forgefile('forge.target("a", Noisy(line="echo a-begun; sleep 2; echo a >$OUT"))', 'forge.target("b", Shell(line="echo b"))')
    first = project.start("--json", "a")
    first_lines(first, ["a-begun"])
    second = project.start("--json", "b")
    first_lines(second, ["waiting for the forge"])
    os.killpg(second.pid, signal.SIGINT)
    _, err = second.communicate(timeout=5)
    assert second.returncode == 130
    assert "Traceback" not in err
    first.communicate(timeout=30)
    assert first.returncode == 0
    assert project.ran() == ["b"]


@pytest.mark.parametrize("attempt", range(4))
def test_many_begin_at_once_in_a_fresh_folder(project, attempt):
    project.forgefile(*(f'forge.target("t{n}", Shell(line="echo {n}"))' for n in range(3)))
    running = [project.start("--json") for _ in range(4)]
    ended = [(*process.communicate(timeout=60), process.returncode) for process in running]
    assert [status for *_, status in ended] == [0, 0, 0, 0], ended
    assert "".join(err for _, err, _ in ended) == ""
    built = re.findall('"event": "built"[^}]*"target": "([^"]*)"', "".join(out for out, *_ in ended))
    assert sorted(built) == ["t0", "t1", "t2"]
    project.nothing_runs()


def test_a_terminal_that_is_hung_up(project):
    """With its terminal gone, forge ends and leaves nothing."""
    project.forgefile('forge.target("a", Noisy(line="sleep 600 & wait"))')
    with nothing_left(project):
        master, slave = os.openpty()
        process = subprocess.Popen(
            ("setsid", "--ctty", "--wait", *_command()), cwd=project.root, env={**project.environment(), "TERM": "xterm"},
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
        )  # fmt: skip
        os.close(slave)
        until(lambda: b"a" in os.read(master, 4096))
        time.sleep(0.5)
        os.close(master)
        process.wait(20)


def _command():
    from conftest import COMMAND

    return COMMAND
