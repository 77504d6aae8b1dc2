# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""What a step sees and may do: what was declared, and nothing else."""

import os
import socket
from pathlib import Path

import pytest
from conftest import listing, until


def shown(project, line, *, inputs="", network=False):
    """Return what a line of shell prints in a step on the host's programs."""
    project.forgefile(f'forge.target("seen", Shell(line={line!r}, inputs=({inputs}), network={network}))')
    project.forge()
    return project.read("seen")


def shown_inside(project, line, *, network=False):
    """Return what a line of shell prints in a step in a tree."""
    project.forgefile(
        'root = forge.target("root", Root())',
        f'seen = forge.target("seen", Change(base=root, line={"exec >/seen; " + line!r}, inside=True, network={network}))',
        'forge.target("seen.txt", Shell(line="cat $1/seen", inputs=(seen,)))',
    )
    project.forge()
    return project.read("seen.txt")


def test_only_declared_inputs_are_there(machine):
    machine.write("declared", "yes")
    machine.write("hidden", "no")
    machine.write("folder/a", "a")
    out = shown(machine, "cd /run/forge; find . | sort; cat src/declared",
                inputs='forge.source("declared"), forge.source("folder")')  # fmt: skip
    names = out.splitlines()
    assert names[-1] == "yes"
    assert [n for n in names if n.startswith("./src")] == ["./src", "./src/declared", "./src/folder", "./src/folder/a"]
    assert not [n for n in names if "hidden" in n]


@pytest.mark.parametrize("path", ["/home", "/root/.", "/etc/shadow", "/etc/fstab", "/work", "/srv", "/boot", "/var/log", "/var/lib/apt", "/tmp/."])
def test_the_host_is_not_there(project, path):
    out = shown(project, f"if [ -d {path} ]; then ls -A {path} | wc -l; elif [ -e {path} ]; then echo there; else echo 0; fi")
    assert out.strip() == "0"


def test_the_project_and_the_store_are_not_there(machine):
    machine.write("hidden", "no")
    secret = Path.home() / f".forge-e2e-secret-{os.getpid()}"
    secret.write_text("secret")
    try:
        out = shown(machine, f"ls -d {machine.root} {machine.root}/.forge {secret} ~/{secret.name} 2>/dev/null | wc -l; "
                             "cat /proc/self/mountinfo; find / -xdev -name 'hidden' 2>/dev/null | wc -l")  # fmt: skip
    finally:
        secret.unlink()
    lines = out.splitlines()
    assert lines[0] == lines[-1] == "0"


def test_the_store_and_the_project_cannot_be_written_through_an_input(machine):
    machine.write("declared", "yes")
    machine.write("folder/a", "a")
    out = shown(
        machine,
        "for p in $1 $2/a $2/new $3 $4/etc/word $4/new /usr/bin/new /bin/sh /etc/x/y /usr/local/new; do "
        "(: >$p) 2>/dev/null && echo wrote $p; done; chmod 777 $1 2>/dev/null && echo chmod; rm -f $2/a 2>/dev/null && echo rm; true",
        inputs='forge.source("declared"), forge.source("folder"), forge.target("f", Shell(line="echo f")), forge.target("t", Empty())',
    )
    assert out == ""
    assert machine.read("declared") == "yes"
    machine.nothing_runs()


def test_the_environment(project):
    project.env.update(SECRET="secret", http_proxy="http://proxy", LANG="de_DE.UTF-8", PYTHONPATH_EXTRA="x", TZ="Asia/Tokyo")
    names = dict(line.split("=", 1) for line in shown(project, "env").splitlines())
    for name in ("PWD", "SHLVL", "_", "OLDPWD"):
        names.pop(name, None)
    assert names == {
        "PATH": "/run/forge/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root",
        "LC_ALL": "C.UTF-8", "TZ": "UTC", "TERM": "dumb", "SOURCE_DATE_EPOCH": "1735689600",
    }  # fmt: skip
    assert "http_proxy=http://proxy" in shown(project, "env | sort", network=True)


@pytest.mark.parametrize("inside", [False, True])
def test_the_small_things(project, inside):
    os.umask(0o077)
    try:
        out = (shown_inside if inside else shown)(
            project, "umask; id -u; cat /proc/sys/kernel/hostname; cat; echo end; "
            "stat -c %a /tmp /dev/shm; ls -A /tmp; date +%Z 2>/dev/null || echo UTC; [ -w /dev/null ] && echo null"
        )  # fmt: skip
    finally:
        os.umask(0o022)
    assert out.splitlines() == ["0022", "0", "forge", "end", "1777", "1777", "UTC", "null"]


def test_temporary_files_are_private(project):
    project.forgefile(
        'a = forge.target("a", Shell(line="echo x >/tmp/forge-e2e-a; echo x >/var/tmp/forge-e2e-a; echo x >/dev/shm/forge-e2e-a; ls /tmp"))',
        'forge.target("b", Shell(line="ls -A /tmp /var/tmp /dev/shm | grep forge-e2e || echo none", inputs=(a,)))',
    )
    project.forge()
    assert project.read("b") == "none\n"
    assert not any(os.path.exists(f"{folder}/forge-e2e-a") for folder in ("/tmp", "/var/tmp", "/dev/shm"))


def test_what_is_left_in_tmp_is_no_part_of_a_tree(project):
    project.forgefile(
        'root = forge.target("root", Root())',
        'forge.target("t", Change(base=root, line="echo x >/tmp/left; echo x >/run/left; mkdir -p /run/forge/tmp/x; echo y >/etc/y", inside=True))',
    )
    project.forge()
    base, tree = listing(project.exported("root")), listing(project.exported("t"))
    assert {name for name in tree if tree[name] != base.get(name)} == {"etc/y", "etc"} or \
        {name for name in tree if name not in base} == {"etc/y"}  # fmt: skip
    assert not set(base) - set(tree)


def test_no_network_unless_asked_for(project):
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    connect = f"(exec 3<>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && echo reached || echo refused"
    try:
        project.forgefile(
            *(f'forge.target("net-{network}", Command(argv=("bash", "-c", {connect!r}), stdout=True, network={network}))'
              for network in (False, True)),
            'forge.target("devices", Command(argv=("ls", "/proc/self/net/dev_snmp6", "/sys/class/net"), stdout=True))',
            'forge.target("lo", Shell(line="tail -n +3 /proc/net/dev"))',
        )  # fmt: skip
        project.forge("-k", status=None)
    finally:
        listener.close()
    assert project.read("net-False") == "refused\n"
    assert project.read("net-True") == "reached\n"
    assert [line.split(":")[0].strip() for line in project.read("lo").splitlines()] == ["lo"]


def test_loopback_is_up(project):
    program = "import socket; s = socket.create_server(('127.0.0.1', 0)); socket.create_connection(s.getsockname()); print('up')"
    project.write("up.py", program)
    project.forgefile('forge.target("up", Command(argv=("/usr/bin/python3", forge.source("up.py")), stdout=True))')
    project.forge()
    assert project.read("up") == "up\n"


def test_a_process_left_behind_ends_with_its_step(machine):
    machine.forgefile(
        'forge.target("a", Noisy(line="(setsid sleep 1234 & ) ; sleep 1235 & echo a >$OUT"))',
        'forge.target("b", Noisy(line="sleep 1236 & false"))',
    )
    ended = machine.json("-k", status=1)
    assert ended.targets("built") == ["a"]
    sleeping = [pid for pid in os.listdir("/proc") if pid.isdecimal() and _command(pid).startswith(b"sleep\x00123")]
    assert sleeping == []


def _command(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_only_its_own_processes(project):
    lines = shown(project, "ls -d /proc/[0-9]* | wc -l; cat /proc/1/comm; kill -9 1 2>/dev/null; echo alive").splitlines()
    assert int(lines[0]) < 6
    assert lines[-1] == "alive"


def test_what_it_may_not_do(project):
    """Capabilities that reach the host: modules, the clock, the kernel's log."""
    out = shown(project, "grep CapBnd /proc/self/status")
    bounded = int(out.split()[1], 16)
    assert not bounded & (1 << 16 | 1 << 17 | 1 << 22 | 1 << 25 | 1 << 34)
    assert shown(project, "date -s @0 >/dev/null 2>&1 && echo set || echo refused") == "refused\n"
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/kernel/mm/ksm/run", "/sys/power/state"):
        assert shown(project, f"[ -w {path} ] && echo writable || echo refused") == "refused\n", path


def test_sync_costs_nothing(project):
    project.forgefile(
        'forge.target("a", Shell(line="dd if=/dev/zero of=/run/forge/tmp/x bs=4k count=2000 oflag=sync status=none; sync; echo done"))',
        'forge.target("b", Noisy(line="head -c 100m /dev/zero >$OUT; sync $OUT"))',
    )
    project.forge("a")
    assert project.read("a") == "done\n"


# What is lent to a tree ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["true", "false", "kill -9 $$"])
@pytest.mark.parametrize("before", ["none", "file", "link", "dangling"])
def test_resolver_and_policy_are_put_back(project, end, before):
    make = {
        "none": "true",
        "file": "echo mine >$OUT/etc/resolv.conf; chmod 600 $OUT/etc/resolv.conf; echo p >$OUT/usr/sbin/policy-rc.d",
        "link": "echo mine >$OUT/etc/other; ln -s other $OUT/etc/resolv.conf",
        "dangling": "ln -s ../run/systemd/resolve/stub-resolv.conf $OUT/etc/resolv.conf",
    }[before]
    line = f"cat /etc/resolv.conf >/seen; cat /usr/sbin/policy-rc.d >/policy; {end}"
    project.forgefile(
        'root = forge.target("root", Root())',
        f'made = forge.target("made", Change(base=root, line={make!r}))',
        f'forge.target("after", Change(base=made, line={line!r}, inside=True, network=True))',
    )
    status = 0 if end == "true" else 1
    project.forge(status=status)
    if status:
        project.forgefile(
            'root = forge.target("root", Root())',
            f'made = forge.target("made", Change(base=root, line={make!r}))',
            f'forge.target("after", Change(base=made, line={line.removesuffix(end) + "true"!r}, inside=True, network=True))',
        )
        project.forge()
    made, after = listing(project.exported("made")), listing(project.exported("after"))
    assert (project.root.parent / "exported-1/seen").read_text() == Path("/etc/resolv.conf").read_text()
    assert "exit 101" in (project.root.parent / "exported-1/policy").read_text()
    for name in ("seen", "policy", "."):
        after.pop(name, None)
        made.pop(name, None)
    assert after == made


def test_without_network_the_resolver_is_the_trees_own(project):
    assert shown_inside(project, "cat /etc/resolv.conf 2>/dev/null || echo none") == "none\n"


def test_a_step_may_write_its_own_resolver(project):
    project.forgefile(
        'root = forge.target("root", Root())',
        'forge.target("t", Change(base=root, line="rm /etc/resolv.conf; echo own >/etc/resolv.conf", inside=True, network=True))',
    )
    project.forge()
    assert (project.exported("t") / "etc/resolv.conf").read_text() == "own\n"


@pytest.mark.parametrize("removed", ["/etc/resolv.conf*", "/usr/sbin/*", "/usr/sbin"])
def test_a_step_may_remove_what_it_sees_of_what_is_lent(project, removed):
    make = "for each in etc/resolv.conf usr/sbin/policy-rc.d usr/sbin/other; do echo mine >$OUT/$each; done"
    project.forgefile(
        'root = forge.target("root", Root())',
        f'made = forge.target("made", Change(base=root, line="{make}"))',
        f'forge.target("t", Change(base=made, line="rm -r {removed}", inside=True, network=True))',
    )
    project.forge()
    tree = project.exported("t")
    assert (tree / "etc/resolv.conf").exists() == ("etc" not in removed)
    assert (tree / "usr/sbin/policy-rc.d").exists() == ("sbin" not in removed)
    assert not [*(tree / "etc").glob("*forge*")]


def test_a_tree_cannot_lead_out(machine):
    """Links in a tree lead nowhere on the host."""
    outside = machine.root.parent / "outside"
    outside.mkdir()
    machine.write("overlay/escape/file", "x")
    machine.forgefile(
        'base = forge.target("base", Empty())',
        f'evil = forge.target("evil", Change(base=base, line="ln -s {outside} $OUT/escape; ln -s /etc/passwd $OUT/etc/file"))',
        'forge.target("a", Overlay(base=evil, source=forge.source("overlay/escape/file"), destination="/escape/file"))',
        'forge.target("b", Overlay(base=evil, source=forge.source("overlay/escape/file"), destination="/etc/file"))',
        'forge.target("c", Script(base=evil, script=forge.source("s"), where="host"))',
        'forge.target("d", Overlay(base=evil, source=forge.source("overlay")))',
    )
    machine.write("s", '#!/bin/sh\necho x >"$TREE/escape/file"\n', 0o755)
    passwd = Path("/etc/passwd").read_bytes()
    machine.forge("-k", status=None)
    assert list(outside.iterdir()) == []
    assert Path("/etc/passwd").read_bytes() == passwd
    assert (machine.exported("b") / "etc/file").read_text() == "x"


# What a step prints --------------------------------------------------------------------------------------------------


def test_odd_output(project):
    project.forgefile(
        'forge.target("binary", Noisy(line="head -c 300000 /dev/urandom; echo >$OUT"))',
        'forge.target("zeros", Noisy(line="head -c 300000 /dev/zero; echo >$OUT"))',
        'forge.target("long", Noisy(line="head -c 3000000 /dev/zero | tr \'\\\\0\' x; echo >$OUT"))',
        'forge.target("no-newline", Noisy(line="printf \'a\\\\nno end\'; echo >$OUT"))',
        'forge.target("meter", Noisy(line="for i in 1 2 3; do printf \'%s%%\\\\r\' $i; done; echo done; echo >$OUT"))',
        'forge.target("escape", Noisy(line="printf \'\\\\033[31mred\\\\033[0m\\\\n\\\\033]0;title\\\\007\'; echo >$OUT"))',
    )
    ended = project.json("-j2")
    lines = {n: [e["line"] for e in ended.events if e["event"] == "output" and e["target"] == n] for n in ended.targets("built")}
    assert lines["no-newline"] == ["a", "no end"]
    assert lines["meter"][-1] == "done"
    assert sum(map(len, lines["long"])) <= 3_000_000
    assert project.forge("log", "long").out.count("x") >= 3_000_000
    assert project.forge("log", "no-newline").out.endswith("a\nno end")
    assert os.path.getsize(next(p for p in (project / ".forge/logs").iterdir() if b"urandom" in p.read_bytes()[:99])) > 300_000
    project.nothing_runs()
    for name in lines:
        project.forge("clean", name)
    out = project.forge("-v").out
    assert "\x1b" not in out
    assert "escape | red" in out


def test_a_lot_of_output(project):
    project.forgefile('forge.target("much", Noisy(line="yes some words that fill a line of the log | head -c 20000000; echo >$OUT"))')
    project.forge()
    assert len(project.forge("log", "much").out) > 20_000_000


def test_a_step_that_closes_its_output(project):
    project.forgefile('forge.target("a", Noisy(line="exec >&- 2>&-; sleep 0.2; echo a >$OUT"))')
    project.forge()
    assert project.read("a") == "a\n"


def test_output_comes_while_the_step_runs(project):
    project.forgefile('forge.target("a", Noisy(line="echo early; sleep 5; echo >$OUT"))')
    process = project.start("--json")
    for line in process.stdout:
        if '"early"' in line:
            break
    assert process.poll() is None
    process.terminate()
    process.communicate(timeout=20)
    until(lambda: process.poll() is not None)


def test_no_signal_is_ignored(project):
    """What a shell pipes into `head` ends without an error message, also when forge was started by nohup(1)."""
    glibcs = 0b11 << 31  # signals 32 and 33, which posix_spawn(3) leaves ignored and no program may use
    inside = "sed -n /SigIgn/p /proc/self/status; yes | head -n1"
    project.forgefile(f'forge.target("a", Noisy(line="{inside} >&2; echo >$OUT"))')
    for prefix in ((), ("nohup",)):
        project.forge("clean", status=None)
        events = project.forge("--json", prefix=prefix).events
        ignored, yes = [event["line"] for event in events if event["event"] == "output"]
        assert int(ignored.split()[1], 16) & ~glibcs == 0
        assert yes == "y"


def test_a_script_without_a_first_line(project):
    """It is sh's, as in a shell."""
    project.write("script", 'echo "$0 $1" >"$2"\n').chmod(0o755)
    project.forgefile('forge.target("made", Command(argv=(forge.source("script"), "word", OUT)))')
    project.forge()
    assert project.read("made") == "/run/forge/src/script word\n"
