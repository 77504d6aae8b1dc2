"""Lines to look through: in a pager and in colour on a terminal, plain elsewhere."""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress

from forgefile import host
from forgefile.report.ink import ink, painted
from forgefile.report.words import Line


def show(lines: Iterable[Line], environ: Mapping[str, str] = os.environ) -> None:
    """Print lines: through $PAGER, or less(1), when a terminal takes them, which then shows them as they come."""
    able = sys.stdout.isatty() and environ.get("TERM", "dumb") not in ("", "dumb", "unknown")
    style = ink(environ, terminal=able)
    written = (f"{painted(line, style)}\n" for line in lines)
    pager = _words(environ.get("PAGER", "less")) if able else []
    program = host.find(pager[0]) if pager and pager != ["cat"] else None
    if program is None:
        sys.stdout.writelines(written)
        return
    sys.stdout.flush()
    process = subprocess.Popen((program, *pager[1:]), stdin=subprocess.PIPE, env={"LESS": "FRX", **environ})
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is the pager's as long as that runs
    try:
        assert process.stdin  # noqa: S101  it is a pipe
        for line in written:
            process.stdin.write(line.encode("utf-8", "backslashreplace"))
        process.stdin.close()
    except BrokenPipeError:
        pass
    finally:
        process.wait()
        signal.signal(signal.SIGINT, before)


def _words(command: str) -> list[str]:
    """Return the words of a command; none of one that no shell would understand."""
    with suppress(ValueError):
        return shlex.split(command)
    return []
