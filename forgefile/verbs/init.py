"""forge init: write a Forgefile that builds and boots, and what it needs, into a folder that has none.

On a terminal it asks what the image is to be. What an option says is not asked, and with `--yes`, or elsewhere than on
a terminal, nothing is. A file that is there is never overwritten.
"""

import argparse
import os
import shlex
import sys
from collections.abc import Callable

from forgefile import starter
from forgefile.errors import UsageError
from forgefile.verbs import aligned, say

SYNOPSIS = "init [DIR]"
SUMMARY = "write a Forgefile to begin with, which builds and boots"
EXAMPLES = (("forge init", "in this folder; ask what the image is to be"),
            ("forge init --yes server", "in a new folder, asking nothing"),
            ("forge init --suite trixie --output qcow2 server", "say it instead of being asked"))  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    add = parser.add_argument
    add("folder", nargs="?", metavar="DIR", default="", help="where to write; made if need be (default: here)")
    add("-y", "--yes", action="store_true", help="ask nothing")
    add("--name", metavar="NAME", help="the name of the host (default: the folder's)")
    add("--suite", choices=starter.SUITES, help=f"the Debian release (default: {starter.SUITES[0]})")
    add("--output", choices=starter.OUTPUTS, help="what to make (default: disk)")


def run(options: argparse.Namespace) -> int:
    """Write a project; return the exit status."""
    file = os.path.abspath(os.path.join(options.folder, options.file))
    if options.name is not None and (problem := starter.name_problem(options.name)):
        raise UsageError(problem)
    starter.refuse_overwriting(file, starter.files(starter.Answers("any")))
    asking = not options.yes and sys.stdin.isatty() and sys.stdout.isatty()
    answers = _answers(options, os.path.dirname(file), asking=asking)
    texts, output = starter.files(answers), starter.OUTPUTS[answers.output]
    starter.write(file, texts, (".forge/", f"/{output}", *(("/disk.img",) if answers.output == "qcow2" else ())))
    folder = os.path.relpath(os.path.dirname(file))
    for name in texts:
        say(f"wrote {os.path.relpath(os.path.join(os.path.dirname(file), name) if name else file)}")
    there = "" if folder == "." else f"cd {shlex.quote(folder)}"
    command = "forge" if options.file == "Forgefile.py" else f"forge -f {shlex.quote(os.path.basename(file))}"
    rows = [(there, "where they are"), (f"{command} doctor", "says what this machine lacks"),
            (command, f"builds {output}; the first time it downloads, and takes some minutes")]  # fmt: skip
    if answers.output != "tar":
        rows.append((f"{command} boot {output}", "starts it in a virtual machine: log in as root, with no password"))
    rows.append((f"{command} --dry-run", "says what a change costs: edit overlay/etc/motd first"))
    say("\nnext:")
    for line in aligned([row for row in rows if row[0]]):
        say(f"  {line}")
    return 0


def _answers(options: argparse.Namespace, folder: str, *, asking: bool) -> starter.Answers:
    """Return what the options say, what the user answers to the rest, and what is usual when nobody is asked."""
    def answer(said: str | None, what: str, usual: str, problem: Callable[[str], str | None]) -> str:
        if said is not None:
            return said
        return _asked(what, usual, problem) if asking else usual

    name = answer(options.name, "name of the host", starter.name_of(folder), starter.name_problem)
    suites, outputs = starter.SUITES, tuple(starter.OUTPUTS)
    suite = answer(options.suite, f"Debian release: {', '.join(suites)}", suites[0], _among(suites))
    output = answer(options.output, f"what to make: {', '.join(outputs)}", outputs[0], _among(outputs))
    return starter.Answers(name, suite, output)


def _among(choices: tuple[str, ...]) -> Callable[[str], str | None]:
    def problem(word: str) -> str | None:
        return None if word in choices else f"{word!r} is none of {', '.join(choices)}"

    return problem


def _asked(what: str, usual: str, problem: Callable[[str], str | None]) -> str:
    """Ask until there is an answer that has no problem; raise `UsageError` when there will be none."""
    while True:
        sys.stdout.write(f"{what} [{usual}] ")
        sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            say()
            raise UsageError("the questions were not answered, and nothing was written", hint="--yes asks none")
        word = line.strip() or usual
        if (wrong := problem(word)) is None:
            return word
        say(f"  {wrong}")
