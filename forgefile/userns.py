"""Root without root: a user namespace in which this user is root and 65,536 ids exist.

Root needs none for that, so everything below is the same for both. `confine` is for root as well: a user namespace that
gives nothing and takes much away. Facts: user_namespaces(7), mount_namespaces(7), newuidmap(1), subuid(5).
"""

import marshal
import os
import pwd
from collections.abc import Callable
from errno import ENOSPC, EPERM, EUSERS
from typing import TypeVar

from forgefile import host, linux
from forgefile.errors import UsageError

_T = TypeVar("_T")
_IDS = 65_536
_SWITCHES = (
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
)
"""(sysctl, the value that forbids user namespaces to ordinary users, the one that allows them). The first is Debian's,
the second Ubuntu's."""
_FALSE = 3


def needed() -> bool:
    """Tell whether this process must enter a user namespace to handle trees."""
    return os.geteuid() != 0


def enter() -> None:
    """Become root of a new user namespace, for good. Does nothing for root.

    Call in a process that has one thread. Raises `UsageError` when the machine does not allow it.
    """
    if not needed():
        return
    maps = [("newuidmap", os.geteuid(), _range("/etc/subuid")), ("newgidmap", os.getegid(), _range("/etc/subgid"))]
    if missing := [program for program, *_ in maps if host.find(program) is None]:
        raise UsageError(f"an ordinary user needs {' and '.join(missing)}", hint="as root: apt-get install uidmap")
    process = os.getpid()
    try:
        status = _unshare(linux.CLONE_NEWUSER, lambda: max(_map(process, *each) for each in maps))
        if status:
            raise UsageError(
                "newuidmap and newgidmap cannot map this user's ids: they have to be installed setuid, on a file system"
                " and in a container that let them be",
                hint="as root: apt-get install --reinstall uidmap",
            )
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
        os.setgroups([])
    except OSError as error:
        raise _forbidden(error) from error


def confine() -> None:
    """Leave for a user namespace in which every id is what it was, and for a mount namespace of it, for good.

    There, all that is mounted now is locked as it is (mount_namespaces(7)), and nothing can be done with capabilities
    to what else the kernel has. Call with /proc mounted. Raises `UsageError` when the machine does not allow it.
    """
    try:
        _keep_ids(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
    except OSError as error:
        raise _forbidden(error) from error


def leave_root() -> None:
    """Be no more than an ordinary user is after `enter`: root of a new user namespace, with the ids that root has.

    For root, in a process that has one thread. Raises OSError when the machine does not allow it.
    """
    _keep_ids(linux.CLONE_NEWUSER)


def _keep_ids(namespaces: int) -> None:
    """Leave for new namespaces, one of users among them, in which every id is what it was."""
    process = os.getpid()
    if _unshare(namespaces, lambda: _give_ids(process)):
        raise PermissionError(EPERM, os.strerror(EPERM))


def _forbidden(error: OSError) -> UsageError:
    """Return the error that says what forbids user namespaces here, and how to allow them."""
    if error.errno in (ENOSPC, EUSERS):
        name, value = "user.max_user_namespaces", "10000"
        return UsageError(f"{name} allows no further user namespace", hint=f"as root: sysctl {name}={value}")
    for name, forbids, allows in _SWITCHES if needed() else ():
        if host.setting(name) == forbids:
            message = f"{name}={forbids} forbids ordinary users to make user namespaces"
            return UsageError(message, hint=f"run forge as root, or as root: sysctl {name}={allows}")
    return UsageError(
        f"this kernel, or the container or chroot that forge runs in, allows no user namespace: {error.strerror}",
        hint="run forge outside of it, or allow unshare(2) and mount(2) there",
    )


def _unshare(namespaces: int, mapper: Callable[[], int]) -> int:
    """Leave for new namespaces; have `mapper` called by a child that stays, and return what it returns."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        os.close(write)
        status = 1
        try:
            if os.read(read, 1):
                status = mapper()
        finally:
            os._exit(status)
    os.close(read)
    try:
        linux.unshare(namespaces)
        os.write(write, b"!")
    finally:
        os.close(write)
        status = os.waitpid(child, 0)[1]
    return status


def _map(process: int, program: str, own: int, below: tuple[int, int]) -> int:
    numbers = (0, own, 1, 1, *below)
    return os.spawnv(os.P_WAIT, host.find(program) or "", [program, str(process), *map(str, numbers)])  # noqa: S606


def _give_ids(process: int) -> int:
    """Give a process that has left for a new user namespace the ids of this one, each the same."""
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/self/{name}", encoding="ascii") as stream:
            ranges = [line.split() for line in stream]
        with open(f"/proc/{process}/{name}", "w", encoding="ascii") as stream:
            stream.write("".join(f"{first} {first} {count}\n" for first, _, count in ranges))
    return 0


def _range(path: str) -> tuple[int, int]:
    """Return (first id, count) of the ids that this user may map, from /etc/subuid or /etc/subgid."""
    user = pwd.getpwuid(os.geteuid()).pw_name
    try:
        with open(path, encoding="utf-8") as stream:
            lines = [line.strip().split(":") for line in stream]
    except OSError:
        lines = []
    for name, first, count in (line for line in lines if len(line) == 3):  # noqa: PLR2004  NAME:FIRST:COUNT
        if name in (user, str(os.geteuid())) and int(count) >= _IDS - 1:
            return int(first), min(int(count), _IDS - 1)
    raise UsageError(
        f"{path} gives the user {user} no {_IDS - 1} ids, which the files of a tree need",
        hint=f"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
    )


def call(function: Callable[[], bool | None]) -> bool:
    """Call a function where files of mapped ids can be handled: here for root, else in a child in a user namespace.

    Returns whether it returned true. Raises OSError when it failed in the child.
    """
    if not needed():
        return bool(function())
    child = os.fork()
    if not child:
        status = 1
        try:
            enter()
            status = 0 if function() else _FALSE
        except (OSError, UsageError) as error:
            os.write(2, f"forge: {error}\n".encode("utf-8", "replace"))
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, _FALSE):
        raise OSError("files of mapped ids could not be handled; see above")
    return status == 0


def ask(function: Callable[[], _T]) -> _T:
    """Call a function as `call` does and return what it returns, which has to be plain data (see marshal)."""
    if not needed():
        return function()
    with open(os.memfd_create("answer"), "w+b") as stream:

        def answer() -> None:
            marshal.dump(function(), stream)  # type: ignore[arg-type]  # as the caller has promised
            stream.flush()

        call(answer)
        stream.seek(0)
        return marshal.load(stream)  # type: ignore[no-any-return]  # noqa: S302  written by our own child
