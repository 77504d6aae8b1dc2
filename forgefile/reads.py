"""What evaluating a Forgefile read beside its arguments, so that it need not be evaluated again.

A Forgefile is Python and may look at anything. While `Reads` watches, it notes the files and folders that are opened,
listed or asked for, the modules that are imported and the environment's variables. What cannot be noted (the clock,
random numbers, other programs, the network) makes the evaluation *unsteady*: it has to be done every time.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from stat import S_ISDIR, S_ISREG
from types import CodeType
from typing import Any, AnyStr, Self

_OUTSIDE = (
    "subprocess.", "socket.", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "urllib.", "sqlite3.",
    "ctypes.", "os.getxattr", "os.listxattr",
)  # fmt: skip
"""How the audit events begin that tell of something that leaves no file to look at (docs.python.org, audit events)."""
_FICKLE = frozenset((
    "time", "datetime", "random", "uuid", "secrets", "urandom", "platform", "uname", "socket", "gethostname", "getpid",
    "getppid", "getuid", "geteuid", "getresuid", "getgid", "getegid", "getresgid", "getgroups", "getlogin", "getcwd",
    "times", "localtime", "formatdate", "cpu_count", "sched_getaffinity", "getloadavg", "sysconf", "statvfs",
    "disk_usage", "pwd", "grp", "spwd", "getpass", "dbm", "ssl", "locale", "input", "stdin", "hash",
))  # fmt: skip
"""Names of what may be otherwise the next time, with nothing to note. Whoever uses a name is taken at his word."""
_ASKING = ("stat", "lstat", "access", "readlink")
"""Functions of `os` that look at a path and are not audited."""
_LIBRARY = os.path.dirname(os.__file__) + os.sep
_SITE = (f"{_LIBRARY}site-packages{os.sep}", f"{_LIBRARY}dist-packages{os.sep}")
_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def _is_ours(file: str) -> bool:
    """Tell whether a file is Python's or forge's own, which change with their versions."""
    return file.startswith((_PACKAGE, "<frozen ")) or (file.startswith(_LIBRARY) and not file.startswith(_SITE))


class Reads:
    """Watches code in `with` blocks. What it noted is complete while `steady`."""

    def __init__(self) -> None:
        self.steady = True
        self.paths: dict[str, bool] = {}
        """Absolute paths of what was opened or asked for, and whether it was there."""
        self.folders: dict[str, bool] = {}
        """Absolute paths of folders that were listed, likewise."""
        self.variables: dict[str, str | None] = {}
        """The environment's variables that were asked for, and their values."""
        self._imports: set[str] = set()
        self._modules: set[str] = set()
        self._folder = ""
        self._real: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._modules, self._folder = set(sys.modules), os.getcwd()
        self._real = {name: getattr(os, name) for name in (*_ASKING, "environ", "environb")}
        for name in _ASKING:
            setattr(os, name, self._asking(self._real[name]))
        os.environ = _Environment(self._real["environ"], self)  # noqa: B003  it has the same variables
        os.environb = _Environment(self._real["environb"], self)
        _watch(self)
        return self

    def __exit__(self, *_: object) -> None:
        _watch(None)
        for name, real in self._real.items():
            setattr(os, name, real)
        self._take_modules()

    def audited(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Note an audit event."""
        if event == "open":
            self._opened(arguments[0])
        elif event in ("os.listdir", "os.scandir"):
            self._noted(arguments[0] if arguments[0] is not None else ".", self.folders)
            if event == "os.scandir" and not _is_ours(_caller()):  # its entries know sizes and times
                self.steady = False
        elif event == "exec":
            self._executed(arguments[0])
        elif event == "import":
            if not _is_ours(_caller()):
                self._imported(arguments[0])
        elif event.startswith(_OUTSIDE):
            self.steady = False

    def _opened(self, path: Any) -> None:
        if not (isinstance(path, str) and path.endswith(".pyc")):  # its module's source counts
            self._noted(path, self.paths)

    def _noted(self, path: Any, among: dict[str, bool]) -> None:
        if isinstance(path, int):  # a descriptor: what it leads to was opened before, or is a pipe
            self.steady = False
            return
        absolute = os.path.normpath(os.path.join(self._folder, os.fsdecode(path)))
        if absolute not in among and not _is_ours(absolute):
            among[absolute] = is_there(absolute)

    def _asking(self, real: Any) -> Any:
        def asked(path: Any, *arguments: Any, **keywords: Any) -> Any:
            if keywords.get("dir_fd") is not None:
                self.steady = False
            self._noted(path, self.paths)
            return real(path, *arguments, **keywords)

        return asked

    def _imported(self, name: str) -> None:
        """Note a module that is looked for, and that none of its name lies beside the Forgefile, if so."""
        self._imports.add(name)
        for ending in ("", ".py"):
            self._noted(f"{sys.path[0]}/{name.replace('.', '/')}{ending}", self.paths)

    def _executed(self, code: CodeType) -> None:
        """Note whether code of the project, or what it defines, uses a name that is fickle."""
        if _is_ours(code.co_filename):
            return
        if not _FICKLE.isdisjoint(code.co_names):
            self.steady = False
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                self._executed(constant)

    def _take_modules(self) -> None:
        """Note the files of the modules that were loaded."""
        if self._imports - set(sys.modules):  # what is not there today may be tomorrow
            self.steady = False
        for name in set(sys.modules) - self._modules:
            file = getattr(sys.modules[name], "__file__", None)
            if file is not None and not _is_ours(file):
                self.paths[os.path.abspath(file)] = True
                self.steady = self.steady and file.endswith(".py")  # who knows what else reads


class _Environment(type(os.environ)):  # type: ignore[misc]  # so that it is one for all who ask
    """The environment, of which is noted what was asked for."""

    def __init__(self, real: Any, reads: Reads) -> None:
        self.__dict__.update(real.__dict__)
        self._reads = reads

    def __getitem__(self, name: AnyStr) -> AnyStr:
        value = self._data.get(os.fsencode(name))
        self._reads.variables.setdefault(os.fsdecode(name), None if value is None else os.fsdecode(value))
        found: AnyStr = super().__getitem__(name)
        return found

    def __setitem__(self, name: AnyStr, value: AnyStr) -> None:
        self._reads.steady = False
        super().__setitem__(name, value)

    def __delitem__(self, name: AnyStr) -> None:
        self._reads.steady = False
        super().__delitem__(name)

    def __iter__(self) -> Iterator[Any]:
        self._reads.steady = False
        return iter(super().__iter__())


def refusal(path: str, root: str, stat: Callable[[str], os.stat_result] = os.stat) -> str | None:
    """Return why a path that is there can be no source of the project at `root`, or None; unwatched."""
    try:
        status = stat(path)
    except OSError as error:
        return "is a link that leads back to itself" if error.errno == errno.ELOOP else None
    if os.path.samestat(status, stat(root)):
        return "is the project folder, which holds forge's store"
    if not (S_ISREG(status.st_mode) or S_ISDIR(status.st_mode)):
        return "is neither a file nor a folder"
    return None


def is_there(path: str, lstat: Callable[[str], object] = os.lstat) -> bool:
    """Tell whether something lies at a path, unwatched."""
    try:
        lstat(path)
    except OSError:
        return False
    return True


def _caller() -> str:
    """Return the file of the code that does what is audited."""
    frame = sys._getframe(2)  # noqa: SLF001  the audit hook's arguments do not tell it
    while frame is not None and frame.f_code.co_filename.startswith(("<frozen importlib", __file__)):
        frame = frame.f_back  # type: ignore[assignment]  # None ends the loop
    return frame.f_code.co_filename if frame is not None else ""


_watching: list[Reads] = []
_hooked: list[bool] = []


def _watch(reads: Reads | None) -> None:
    """Hand audit events to `reads` from now on, or to nobody. A hook cannot be taken away, so there is one for all."""
    _watching[:] = [] if reads is None else [reads]
    if not _hooked:
        _hooked.append(True)

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            if _watching:
                _watching[0].audited(event, arguments)

        sys.addaudithook(hook)
