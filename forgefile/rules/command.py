"""`Command`: a program of the host, with its inputs named where they are used."""

from collections.abc import Iterable, Mapping
from typing import NoReturn

from forgefile.errors import ForgefileError
from forgefile.location import caller
from forgefile.model import Artifact, Output, Rule, Run, Sandbox, Step, Value


class Out(Value):
    """The place of the output in a `Command`'s argv; use the constant `OUT`."""

    def __str__(self) -> NoReturn:
        """Refuse to become a part of a text, in which the path could not be put."""
        raise ForgefileError(
            "OUT cannot stand inside a text", location=caller(), hint="write the parts as a tuple: ('of=', OUT)"
        )

    def __format__(self, specification: str) -> NoReturn:
        """Refuse likewise."""
        str(self)
        raise AssertionError


OUT = Out()
"""Stands in a `Command`'s argv for the path of the output."""

Word = str | Artifact | Out


class Command(Rule):
    """Run a program of the host that makes one file or one tree.

    The program sees the host's programs and libraries, the artifacts that stand in `argv`, and nothing else of the
    project. It starts in `/`, with an environment of PATH, HOME=/root, LC_ALL=C.UTF-8, TZ=UTC and SOURCE_DATE_EPOCH. It
    can write to its output and to /root and /tmp, which are its own; all else is read-only.

    ```python
    Command(argv=("sort", forge.source("words.txt")), stdout=True)
    Command(argv=("xz", "-k", "--stdout", tarball), stdout=True)
    Command(argv=("dd", ("if=", disk), ("of=", OUT), "bs=1M", "count=1"))
    Command(argv=("cp", "-a", (tree, "/etc/."), OUT), output="tree")
    Command(argv=("curl", "--netrc-file", token, "-o", OUT, "https://example.org/a.tar"), network=True)
    ```
    """

    argv: tuple[Word | tuple[Word, ...], ...]
    """The program, found by PATH or itself an artifact, and its arguments; no shell reads them. An artifact is replaced
    by its path (a tree's is a folder, a secret's a file), `OUT` by the path of the output. A tuple is joined to one
    argument. Required."""
    stdout: bool = False
    """Whether the output is what the program writes to its standard output. Default: no, it writes to `OUT`."""
    output: Output = "file"  # type: ignore[misc]  # for this rule alone, each value says what it makes
    """`file`: `OUT` is not there yet and has to be a file in the end. `tree`: it is an empty folder. Default: file."""
    env: Mapping[str, str] = {}
    """Variables beside those that every step has. Default: none."""
    network: bool = False
    """Whether the program may use the network; what it fetches then decides the output unseen. Default: no."""
    mounts: bool = False
    """Whether the program may mount, seen by nobody else; then it can make no device nodes. Default: no."""
    jobserver: bool = False
    """Whether make(1), run by or as the program without a `-j` of its own, uses the idle cores. Default: no."""
    retries: int = 0
    """How often it is tried again, after some seconds and from nothing, when it fails. Default: never."""
    tools: tuple[str, ...] = ()
    """Other host programs that the program runs, and data files of the host that it reads (absolute paths), so that a
    change to one rebuilds the target. `argv[0]` is one always. Default: none."""

    def check(self) -> None:
        """Refuse an empty argv, and a command that makes nothing or makes it in two places."""
        if not self.argv:
            raise self.refuse("argv", "is empty", hint="the first item is the program")
        if self.retries < 0:
            raise self.refuse("retries", f"is {self.retries}; expected a number from 0")
        words = [word for item in self.argv for word in (item if isinstance(item, tuple) else (item,))]
        has_out = any(isinstance(word, Out) for word in words)
        if self.stdout and self.output == "tree":
            raise self.refuse("stdout", "a tree cannot come from standard output", hint="let the program fill OUT")
        if self.stdout and has_out:
            raise self.refuse("argv", "has OUT, and stdout=True", hint="the output comes from one of them: drop one")
        if not self.stdout and not has_out:
            raise self.refuse(
                "argv", "nothing would be made", hint="put OUT where the output's path belongs, or set stdout=True"
            )

    def steps(self, box: Sandbox) -> Iterable[Step]:
        """Return the one step that runs the program."""
        argv = tuple(
            "".join(_text(word, box) for word in (item if isinstance(item, tuple) else (item,))) for item in self.argv
        )
        yield Run(
            argv,
            stdout=box.out if self.stdout else None,
            env=self.env,
            network=self.network,
            mounts=self.mounts,
            tools=self.tools,
            jobserver=self.jobserver,
            retries=self.retries,
        )


def _text(word: Word, box: Sandbox) -> str:
    match word:
        case str():
            return word
        case Out():
            return box.out
    return box.path(word)
