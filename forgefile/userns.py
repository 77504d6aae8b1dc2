"""Root without root: a user namespace in which this user is root and 65,536 ids exist.

Root needs none and gets none, so everything below is the same for both. Facts: user_namespaces(7), newuidmap(1),
subuid(5).
"""

import marshal
import os
import pwd
from collections.abc import Callable
from typing import TypeVar

from forgefile import host, linux
from forgefile.errors import UsageError

_T = TypeVar("_T")
_IDS = 65_536
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
    process = os.getpid()
    read, write = os.pipe()
    mapper = os.fork()
    if not mapper:
        os.close(write)
        os.read(read, 1)
        os._exit(max(_map(process, *each) for each in maps))
    os.close(read)
    try:
        linux.unshare(linux.CLONE_NEWUSER)
    except OSError as error:
        raise UsageError(
            f"this kernel lets no ordinary user make a user namespace: {error.strerror}",
            hint="run forge as root, or allow it: sysctl kernel.unprivileged_userns_clone=1",
        ) from error
    finally:
        os.close(write)
        status = os.waitpid(mapper, 0)[1]
    if status:
        raise UsageError("newuidmap and newgidmap could not map this user's ids", hint="apt-get install uidmap")
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.setgroups([])


def _map(process: int, program: str, own: int, below: tuple[int, int]) -> int:
    path = host.find(program)
    if path is None:
        return 127
    numbers = (0, own, 1, 1, *below)
    return os.spawnv(os.P_WAIT, path, [program, str(process), *map(str, numbers)])  # noqa: S606


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
