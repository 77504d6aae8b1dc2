# ruff: noqa: E501  what stands in a Forgefile is easier to read on one line
"""An ordinary user: what of forge's needs a machine can lack, and files of ids that are not the user's own."""

import os
import sys

import pytest
from conftest import USER, listing

NEWUIDMAP = "an ordinary user needs newuidmap"
SETUID = "newuidmap and newgidmap cannot map this user's ids"
APART = ("unshare", "--mount", "sh", "-ec")
SETTINGS = 'mkdir -p $D/kernel/random; cat /proc/sys/kernel/random/boot_id >$D/kernel/random/boot_id; {}; mount --bind $D/kernel /proc/sys/kernel; mount --rbind / $D/root; exec chroot $D/root sh -c "cd \\"\\$0\\"; exec \\"\\$@\\"" "$PWD" "$@"'
"""A chroot forbids user namespaces, as do the settings; in a kernel that has not got them, they are made up."""
LACKS = {
    "no newuidmap": ("mount --bind /dev/null /usr/bin/newuidmap", NEWUIDMAP, "apt-get install uidmap"),
    "no setuid": ("cp /usr/bin/newuidmap $D/copy; chmod 755 $D/copy; mount --bind $D/copy /usr/bin/newuidmap", SETUID, "--reinstall uidmap"),
    "no subordinate users": ("mount --bind /dev/null /etc/subuid", f"/etc/subuid gives the user {USER} no 65535 ids", "usermod --add-subuids"),
    "no subordinate groups": ("mount --bind /dev/null /etc/subgid", f"/etc/subgid gives the user {USER} no 65535 ids", "usermod --add-subuids"),
    "a setting of Debian": (SETTINGS.format("echo 0 >$D/kernel/unprivileged_userns_clone"), "kernel.unprivileged_userns_clone=0 forbids ordinary users", "sysctl kernel.unprivileged_userns_clone=1"),
    "a setting of Ubuntu": (SETTINGS.format("echo 1 >$D/kernel/apparmor_restrict_unprivileged_userns"), "kernel.apparmor_restrict_unprivileged_userns=1 forbids ordinary users", "sysctl kernel.apparmor_restrict_unprivileged_userns=0"),
    "a chroot": (SETTINGS.format("true"), "this kernel, or the container or chroot that forge runs in, allows no user namespace", "run forge outside of it"),
}  # fmt: skip


@pytest.mark.parametrize("what", LACKS)
def test_what_a_machine_lacks_is_told_in_one_sentence(users, what, tmp_path):
    """By the build and by `forge doctor`, with what to do; nothing has run then."""
    script, message, hint = LACKS[what]
    (tmp_path / "root").mkdir()
    prefix = (*APART, f'D={tmp_path}; {script}; exec "$@"', "sh")
    users.forgefile('forge.target("a", Shell(line="echo a"))')
    ended = users.forge("a", status=2, prefix=prefix)
    said, told = [line for line in ended.err.splitlines() if not line.startswith("newuidmap: ")]
    assert said.startswith(f"forge: {message}")
    assert hint in told
    assert not (users / "a").exists()
    doctor = users.forge("doctor", status=1, prefix=prefix).out
    assert f"NO  {'user':<44} {message}" in doctor
    assert hint in doctor


def limited(number):
    """Return a prefix below which at most so many user namespaces are made; ids are what they are."""
    return (sys.executable, "-c", f"""
import os, sys
from forgefile import userns
userns.confine()
with open("/proc/sys/user/max_user_namespaces", "w") as stream:
    stream.write("{number}")
os.execvp(sys.argv[1], sys.argv[1:])
""")  # fmt: skip


def test_a_limit_of_user_namespaces_forbids_root_only_to_mount(project):
    project.forgefile(
        'forge.target("a", Shell(line="echo a"))', 'forge.target("b", Command(argv=("echo", "b"), stdout=True, mounts=True))'
    )
    project.forge("a", prefix=limited(0))
    failed = project.forge("--json", "b", prefix=limited(0), status=1).only("failed")
    assert failed["message"] == "user.max_user_namespaces allows no further user namespace"
    assert failed["hint"] == "as root: sysctl user.max_user_namespaces=10000"
    doctor = project.forge("doctor", status=1, prefix=limited(0)).out
    assert f"NO  {'steps that mount':<44} user.max_user_namespaces allows no further user namespace" in doctor


MANY_IDS = "cd $OUT; echo {} >a; mkdir -p b/c; echo x >b/c/d; chown -R 5:6 b; chmod 000 b/c; chown 65534:1000 a; chmod 400 a"


def test_files_of_mapped_ids_are_removed(users):
    """`gc` and `clean` leave none: of a result that was replaced, of one that failed, of the shared folders."""
    users.write("step", "first")

    def declare(word, fails="true"):
        users.forgefile(
            'base = forge.target("base", Empty())',
            f'tree = forge.target("tree", Change(base=base, line={MANY_IDS.format(word)!r}))',
            f'forge.target("bad", Change(base=tree, line={MANY_IDS.format(word) + "; " + fails!r}))',
        )

    declare("first")
    users.forge("bad")
    declare("second", "false")
    users.forge("bad", status=1)
    store = users / ".forge"
    assert {os.stat(path).st_uid for path in (store / "failed/bad").rglob("*")} - {os.stat(store).st_uid}
    assert len(os.listdir(store / "layers")) == 3
    users.forge("clean", "bad")
    users.forge("gc")
    assert len(os.listdir(store / "layers")) == 2
    assert listing(users.exported("tree"))["b"][0] == "0o40755"
    users.forge("clean")
    assert os.listdir(store / "layers") == os.listdir(store / "staging") == os.listdir(store / "objects") == []
    users.forge("bad", status=1)
    users.forge("clean", "--all")
    assert sorted(path.name for path in users.root.iterdir()) == ["Forgefile.py", "step"]
