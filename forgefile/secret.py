"""Secrets: how they are read, and that nothing that forge writes has them.

A program that has read a secret can do with it what it likes. What is looked for in what it prints and makes is the
content as it stands, without blanks around it, and the base64 of that; in what it prints, each longer line, too. What
was compressed, encrypted or put together otherwise looks like anything else. Unaware of steps and of the store.
"""

import os
import stat
from binascii import b2a_base64
from collections.abc import Iterable, Iterator
from contextlib import suppress

from forgefile.errors import UsageError
from forgefile.job import SecretFile
from forgefile.location import Location
from forgefile.model import Secret

LEAST_BYTES, MOST_BYTES = 8, 1 << 16
"""What a secret has, blanks around it aside: fewer would be found by chance everywhere, and more is no password or key.

The least is that of a password in NIST SP 800-63B, 5.1.1.
"""
_LIMITS = f"expected {LEAST_BYTES} to {MOST_BYTES} bytes"
_WHO = "only targets that take it, and those that need these, are built with it"
HIDDEN = b"***"
_LINE_BYTES = 8
"""Lines of fewer bytes could be anyone's."""
_CHUNK = 1 << 20


def read(secret: Secret, root: str, location: Location | None) -> bytes:
    """Return the content of a secret of the project at `root`.

    Raises `UsageError`, which names `location`, when there is none or it is too short or too long.
    """
    content, problem = b"", ""
    try:
        content = _content(secret, root)
    except OSError as error:
        problem = error.strerror or "it cannot be read"
    if not problem and not LEAST_BYTES <= len(content.strip()) <= len(content) <= MOST_BYTES:
        problem = f"it is too {'short' if len(content) < MOST_BYTES else 'long'}; {_LIMITS}"
    if problem:
        where = f"the file {secret.file}" if secret.file is not None else f"the variable {secret.env}"
        raise UsageError(f"{where} gives no secret '{secret.name}': {problem}", location=location, hint=_WHO)
    return content


def is_still(secret: Secret, root: str, content: bytes) -> bool:
    """Tell whether a secret has the content that it had."""
    with suppress(OSError):
        return _content(secret, root) == content
    return False


def _content(secret: Secret, root: str) -> bytes:
    """Return what a secret has, and no more than is needed to see that it is too large."""
    if secret.file is None:
        value = os.environb.get(os.fsencode(secret.env or ""))
        if value is None:
            raise OSError(0, "it is not set")
        return value
    path = os.path.join(root, secret.file)
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(0, "it is no regular file")
    with open(path, "rb") as stream:
        return stream.read(MOST_BYTES + 1)


# What is looked for --------------------------------------------------------------------------------------------------


def forms(content: bytes) -> tuple[bytes, ...]:
    """Return what tells of a secret: itself, and its base64 after any number of other bytes, as in `USER:PASSWORD`."""
    bare = content.strip()
    found = [bare]
    for before, unsure in ((0, 0), (1, 2), (2, 3)):
        whole = bytes(before) + bare
        found.append(b2a_base64(whole[: len(whole) // 3 * 3], newline=False)[unsure:])
    return tuple(found)


def _lines(content: bytes) -> Iterator[bytes]:
    for line in map(bytes.strip, content.splitlines()):
        if len(line) >= _LINE_BYTES:
            yield line


class Hider:
    """Puts `***` in place of secrets in what is fed to it in pieces, wherever the pieces end.

    What may be the beginning of a secret is held back until more is known.
    """

    def __init__(self, secrets: Iterable[SecretFile]) -> None:
        import re  # noqa: PLC0415  a shell has no use for it

        contents = [secret.content for secret in secrets]
        patterns = {pattern for content in contents for pattern in (*forms(content), *_lines(content))}
        self._patterns = sorted(patterns, key=lambda pattern: (-len(pattern), pattern))
        self._any = re.compile(b"|".join(map(re.escape, self._patterns)))
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """Return what can be told now that a piece has come."""
        if not self._patterns:
            return piece
        data, at = self._held + piece, 0
        told: list[bytes] = []
        while True:
            begun = min(_begun(data, at, pattern) for pattern in self._patterns)
            match = self._any.search(data, at)
            if match is None or match.start() >= begun:
                break
            told += data[at : match.start()], HIDDEN
            at = match.end()
        self._held = data[begun:]
        return b"".join((*told, data[at:begun]))

    def rest(self) -> bytes:
        """Return what was held back, now that nothing more comes."""
        held, self._held = self._held, b""
        return self.whole(held)

    def whole(self, data: bytes) -> bytes:
        """Return what comes in one piece, without secrets."""
        return self._any.sub(HIDDEN, data) if self._patterns else data

    def text(self, text: str) -> str:
        """Return a text without secrets."""
        return self.whole(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


def _begun(data: bytes, at: int, pattern: bytes) -> int:
    """Return where from `at` on a pattern begins whose end is not there yet; the end of the data when it does not."""
    begun = data.find(pattern[:1], max(at, len(data) - len(pattern) + 1))
    while begun >= 0 and not pattern.startswith(data[begun:]):
        begun = data.find(pattern[:1], begun + 1)
    return len(data) if begun < 0 else begun


def find(path: str, secrets: Iterable[SecretFile]) -> tuple[str, str] | None:
    """Return the name of a secret that a file or folder holds and where below it, or None when there is none.

    Looks at names, contents, targets of links and extended attributes.
    """
    patterns = [(form, secret.name) for secret in secrets for form in forms(secret.content)]
    left = [b""] if patterns and os.path.lexists(path) else []
    while left:
        name = left.pop()
        at = os.fsencode(path) + name
        for data in _data(at, name, max(len(form) for form, _ in patterns)):
            for form, secret in patterns:
                if form in data:
                    return secret, os.fsdecode(name[1:])
        if os.path.isdir(at) and not os.path.islink(at):
            left += [name + b"/" + each for each in os.listdir(at)]
    return None


def _data(path: bytes, name: bytes, overlap: int) -> Iterator[bytes]:
    """Yield what there is at a path, in pieces that overlap by so many bytes."""
    yield name
    for attribute in os.listxattr(path, follow_symlinks=False):
        yield os.fsencode(attribute)
        yield os.getxattr(path, attribute, follow_symlinks=False)
    status = os.lstat(path)
    if stat.S_ISLNK(status.st_mode):
        yield os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb", buffering=0) as stream:
            rest = b""
            while piece := stream.read(_CHUNK):
                yield rest + piece
                rest = piece[-overlap:]
