"""What a failed step reached for and was not shown, told from what it said: the line to add to the Forgefile.

Or that the machine does not run programs of the architecture that the step is for.

All steps have one locale, so that programs say what is missing in the same words. Unaware of how steps are run.
"""

import os
import re
from collections.abc import Iterable, Iterator

from forgefile.model import Sandbox, Source, Step, Target

_MISSING = ("No such file or directory", "not found", "does not exist", "No rule to make target")
_NO_NETWORK = (
    "Could not resolve", "Name or service not known", "Network is unreachable", "Temporary failure in name resolution",
    "Temporary failure resolving", "unable to resolve host address",
)  # fmt: skip
_NO_MOUNT = re.compile(r"u?n?mount: .*(permission denied|must be superuser)|unshare failed: Operation not permitted")
_NO_EMULATION = (
    "can neither be executed natively nor via qemu", "install arch-test for foreign architecture support",
    "Unable to execute target architecture",
)  # fmt: skip
"""What mmdebstrap(1) and debootstrap(8) say."""
_WORD = re.compile(r"'([^']+)'|\"([^\"]+)\"|[‘`]([^’']+)[’']|([^\s'\"`‘’<>()\[\]|;,=]+)")
_OF_THE_MACHINE = ("/dev", "/proc", "/run", "/sys")
"""What no source is of."""


def hint(target: Target, steps: Iterable[Step], lines: Iterable[str], root: str, files: Iterable[str]) -> str | None:
    """Return what to add where a target is declared, or None when nothing tells that it was something undeclared.

    `lines` are the last that it printed, `root` is the project folder, `files` are the names of file targets.
    """
    steps, lines = tuple(steps), tuple(lines)
    declared = tuple(artifact.path for artifact in target.inputs if isinstance(artifact, Source))
    field = "argv" if "argv" in type(target.rule).__fields__ else "inputs"
    for path in _missing(lines, root, on_host=all(step.root is None for step in steps)):
        if path in files:
            return f"steps see declared inputs alone: add the handle of the target '{path}' to its {field}"
        if not any(f"{path}/".startswith(f"{source}/") for source in declared):
            return f'steps see declared inputs alone: add forge.source("{path}") to its {field}'
    for name, said in (("network", _says_no_network), ("mounts", _NO_MOUNT.search)):
        if not any(getattr(step, name, False) for step in steps) and any(map(said, lines)):
            return f"steps have no such right unless the rule asks: add {name}=True"
    if any(text in line for text in _NO_EMULATION for line in lines):
        emulation = "apt-get install arch-test binfmt-support qemu-user-static"
        return f"this machine does not run programs of that architecture: {emulation}, and see forge doctor"
    return None


def _says_no_network(line: str) -> bool:
    return any(text in line for text in _NO_NETWORK)


def _missing(lines: Iterable[str], root: str, *, on_host: bool) -> Iterator[str]:
    """Yield the paths that a program did not find and that are there, as a Forgefile names them.

    What lies outside of the project counts `on_host` alone: in a tree, the same path is another file.
    """
    for line in lines:
        if not any(text in line for text in _MISSING):
            continue
        for found in _WORD.finditer(line):
            word = os.path.normpath(str(found[found.lastindex or 0]).rstrip(":."))
            path = os.path.join(root, word.removeprefix(f"{Sandbox.prefix}/src/"))
            below = os.path.relpath(path, root)
            if below.partition("/")[0] in (".", ".forge") or not os.path.lexists(path):
                continue
            if not below.startswith("../"):
                yield below
            elif on_host and not path.startswith(_OF_THE_MACHINE) and not f"{root}/".startswith(f"{path}/"):
                yield path
