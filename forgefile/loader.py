"""From a Forgefile and options to a graph.

The Forgefile is run as the module `Forgefile`; its one function `build` receives a `Forge`. Whatever goes wrong in it
is told with the Forgefile's line and without forge's own frames.
"""

import os
import sys
import types
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import cast

from forgefile.errors import ForgeError, ForgefileError, UsageError
from forgefile.forge import Forge
from forgefile.graph import Graph
from forgefile.location import Location
from forgefile.reads import Reads


def missing(path: str) -> UsageError:
    """Return the error that there is no Forgefile at a path."""
    hint = "forge init writes a Forgefile.py here; -f FILE names another one, -C DIR its folder"
    return UsageError(f"there is no {os.path.relpath(path)}", hint=hint)


def load(path: str, settings: Mapping[str, str], reads: Reads) -> Graph:
    """Evaluate the Forgefile at an absolute path with the `-D` settings; `reads` notes what it looks at.

    Raises `UsageError` when it is not there, `ForgefileError` when it is wrong.
    """
    reads.paths[path] = True
    try:
        with open(path, "rb") as stream:
            text = stream.read()
    except IsADirectoryError:
        raise UsageError(f"{os.path.relpath(path)} is a folder, not a Forgefile") from None
    except FileNotFoundError:
        raise missing(path) from None
    except OSError as error:
        raise UsageError(f"{os.path.relpath(path)} cannot be read: {error.strerror}") from None
    root = os.path.dirname(path)
    module = types.ModuleType("Forgefile")
    module.__file__ = path
    sys.modules["Forgefile"] = module
    if root not in sys.path:
        sys.path.insert(0, root)
    _compile_always(root)
    forge = Forge(root, settings)
    try:
        with reads, redirect_stdout(sys.stderr):  # standard output is for what forge was asked
            exec(compile(text, path, "exec"), module.__dict__)  # noqa: S102  the Forgefile is Python
            _build_function(module, path)(forge)
        return forge.graph()
    except ForgeError:
        raise
    except SyntaxError as error:
        where = Location(((error.filename or path, error.lineno or 1),))
        shown = f"\n    {error.text.rstrip()}" if error.text and not os.path.exists(where.file) else ""
        raise ForgefileError(f"{error.msg}{shown}", location=where) from error
    except (Exception, SystemExit) as error:
        if _is_ours(error):
            raise
        raise ForgefileError(f"{type(error).__name__}: {error}", location=_place(error, path)) from error


def _compile_always(root: str) -> None:
    """Have modules below a folder compiled each time that they are imported.

    Python goes by the time of a module in whole seconds and its size to tell whether the bytecode that it kept is that
    of the module (PEP 3147): two edits in one second would be one. What was installed there is kept as always.
    """
    from importlib import machinery  # noqa: PLC0415  not where there is a snapshot

    class Compiling(machinery.SourceFileLoader):
        def get_code(self, fullname: str) -> types.CodeType:
            file = self.get_filename(fullname)
            return self.source_to_code(self.get_data(file), file)

    def finder(folder: str) -> machinery.FileFinder:
        installed = "-packages" in folder or f"{folder}{os.sep}".startswith(_PACKAGE)
        if installed or not f"{folder}{os.sep}".startswith(f"{root}{os.sep}"):
            raise ImportError(path=folder)
        extensions = machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES
        return machinery.FileFinder(folder, extensions, (Compiling, machinery.SOURCE_SUFFIXES))

    sys.path_hooks.insert(0, finder)
    if sys.path_importer_cache.pop(root, None) is not None:  # what has listed the folder before shall have done so now
        machinery.PathFinder.find_spec("Forgefile", [root])


def _build_function(module: types.ModuleType, path: str) -> Callable[[Forge], None]:
    build = getattr(module, "build", None)
    if not callable(build):
        raise ForgefileError(
            "it defines no function build(forge)",
            location=Location(((path, 1),)),
            hint="def build(forge: Forge) -> None: …",
        )
    return cast("Callable[[Forge], None]", build)


_PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def _frames(error: BaseException) -> list[tuple[str, int]]:
    """Return the (file, line) of each frame that an exception passed, the outermost first."""
    import traceback  # noqa: PLC0415  only an error needs it

    return [(frame.filename, frame.lineno or 1) for frame in traceback.extract_tb(error.__traceback__)]


def _is_ours(error: BaseException) -> bool:
    """Tell whether an exception was raised by forge's own code, and so is a bug of forge."""
    frames = _frames(error)
    return frames[-1][0].startswith(_PACKAGE) and len(frames) > 1


def _place(error: BaseException, path: str) -> Location:
    """Return where in the project an exception came from; libraries that it passed are left out."""
    theirs = [frame for frame in _frames(error) if frame[0].startswith(os.path.dirname(path) + os.sep)]
    return Location(tuple(reversed(theirs)) or ((path, 1),))
