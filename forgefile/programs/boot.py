"""Boot a disk image in a machine that QEMU emulates, until its console shows what was waited for.

Runs in a sandbox, so the machine reaches no network and no file but its disk, and what it writes there is thrown
away. Its serial console is the output: as lines, without what moves a terminal's cursor and without the kernel's times,
up to what was waited for. All of it, with the times, is printed as it comes.

Unaware of the Forgefile.
"""

import codecs
import math
import os
import re
import select
import subprocess
import time
from collections.abc import Callable

from forgefile.errors import BuildError
from forgefile.model import Value
from forgefile.programs.machine import Machine, command, explained, look
from forgefile.units import duration_text

_PLACED = re.compile(r"\x1b\[[0-9;]*[HJf]")
"""What moves the cursor elsewhere or clears the screen (ECMA-48, 8.3): where another line begins."""
_SEQUENCES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # ECMA-48, 5.4: a control sequence
    r"|[\]P^_][^\x07\x1b]*(?:\x07|\x1b\\)"  # 5.6: a control string, which xterm lets BEL end as well
    r"|[ -/]*[0-~])"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_TIME = re.compile(r"^\[ *\d+\.\d{6}\](?:\[ *[TC]\d+\])? ?")
_PANIC = "---[ end Kernel panic"
"""What Linux ends its report with (kernel/panic.c), when nothing will happen any more."""
_PROMPT_S = 0.5
"""How long a line that has what is waited for may stand there without an end before it is taken for a prompt."""
_POLL_LIMIT_S = 86_400
"""How long poll(2), whose limit is that of an int, is let wait at once."""
_LONGEST_LINE = 64 << 10
_LONGEST_LOG = 64 << 20
_SILENT = "nothing came from the serial port: does the kernel's command line have console=ttyS0 (arm64: ttyAMA0)?"


class Boot(Value):
    """What `boot` is told."""

    UNDECIDING = ("timeout_s",)

    disk: str
    out: str
    tmp: str
    arch: str
    firmware: str
    expect: str
    flags: int | None = None
    """Those of a regular expression; None: `expect` is a text."""
    timeout_s: float
    memory: int
    cpus: int


class Lines:
    """Makes lines of what a console writes: a line's end is any mix of CR and LF; blank lines are left out."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._begun = ""

    @property
    def begun(self) -> str:
        """The line that has not ended yet, as a prompt."""
        return _clean(_SEQUENCES.sub("", self._begun).partition("\x1b")[0])

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that have ended with what was written now."""
        text = _PLACED.sub("\n", self._begun + self._decoder.decode(data))
        *ended, self._begun = re.split(r"[\r\n]+", text)
        if len(self._begun) > _LONGEST_LINE:
            ended.append(self._begun)
            self._begun = ""
        return [line for line in map(_clean, ended) if line.strip()]


def _clean(line: str) -> str:
    return _CONTROLS.sub("", _SEQUENCES.sub("", line))


def boot(argument: Boot) -> None:
    """Boot a disk and write what its console showed. Raises `BuildError` when that is not what was waited for."""
    image = look(argument.disk, f"{argument.tmp}/head")
    if problem := image.problem(argument.firmware):
        raise BuildError(f"the disk {problem}", hint="firmware=… says what is to start it")
    machine = Machine(argument.arch, argument.firmware, "tcg", argument.memory, argument.cpus, argument.disk, image)
    begins = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(int(os.environ["SOURCE_DATE_EPOCH"])))
    words = (
        *command(machine), "-no-reboot", "-nic", "none", "-monitor", "none", "-serial", "stdio",
        "-rtc", f"clock=vm,base={begins}", "-seed", "1",
    )  # fmt: skip
    errors = os.memfd_create("errors")
    with open(argument.out, "w", encoding="utf-8", errors="replace") as log, open(errors, "w+b") as said:
        environment = {**os.environ, "TMPDIR": argument.tmp}
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=environment
        ) as process:
            assert process.stdout is not None  # noqa: S101  for mypy
            try:
                failed = _follow(process.stdout.fileno(), argument, log.write)
            finally:
                process.kill()
        said.seek(0)
        if failed:
            told = explained(words[0], said.read().decode("utf-8", "replace"))
            raise BuildError(f"{failed}{told and f' ({told})'}", hint=_SILENT if not log.tell() else None)


def _follow(console: int, argument: Boot, keep: Callable[[str], object]) -> str | None:
    """Follow a console until it shows what is waited for; return what went wrong."""
    deadline = time.monotonic() + argument.timeout_s
    pattern = re.escape(argument.expect) if argument.flags is None else argument.expect
    find = re.compile(pattern, argument.flags or 0).search
    wanted = repr(argument.expect) if argument.flags is None else f"/{argument.expect}/"
    lines = Lines()
    ready = select.poll()
    ready.register(console, select.POLLIN)
    found, read = False, 0
    while True:
        left_s = deadline - time.monotonic()
        wait_s = min(left_s, _PROMPT_S) if found else left_s
        in_time = _readable(ready, wait_s)
        data = os.read(console, 1 << 16) if in_time else b""
        for line in lines.feed(data):
            shown = _print(line)
            keep(f"{shown}\n")
            if find(shown):
                return None
            if _PANIC in shown:
                return f"the kernel panicked before the console showed {wanted}"
        read += len(data)
        if not data or read > _LONGEST_LOG:
            break
        found = bool(find(_TIME.sub("", lines.begun)))
    if lines.begun:
        keep(f"{_print(lines.begun)}\n")
    if found:
        return None
    if data:
        return f"the console showed {read >> 20} MiB before {wanted}, and no end"
    if in_time:
        return f"the machine ended before its console showed {wanted}"
    return f"the console did not show {wanted} within {duration_text(argument.timeout_s)}"


def _readable(ready: select.poll, wait_s: float) -> bool:
    """Wait until there is something to read, at most so long; return whether there is."""
    while wait_s > 0:
        now_s = min(wait_s, _POLL_LIMIT_S)
        if ready.poll(math.ceil(now_s * 1000)):
            return True
        wait_s -= now_s
    return False


def _print(line: str) -> str:
    """Print a line; return it without the kernel's time."""
    os.write(1, f"{line}\n".encode("utf-8", "replace"))
    return _TIME.sub("", line)
