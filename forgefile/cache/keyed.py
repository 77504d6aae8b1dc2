"""Digests of secrets, by the key of a store: only who has the key can tell whether a guess is right.

Elsewhere digests are fast (`digest`), which would make a password easy to find from what a manifest or a snapshot has
of it. BLAKE2b with a random key (RFC 7693) says no more than whether two contents are the same.
"""

import os
from contextlib import suppress
from hashlib import blake2b

from forgefile.cache.layout import KEY, STAGING
from forgefile.errors import StoreError

KEY_BYTES = 32
_DIGEST_BYTES = 16


def digest(key: bytes, content: bytes) -> str:
    """Return the digest of a secret: 32 hexadecimal digits."""
    return blake2b(content, key=key, digest_size=_DIGEST_BYTES).hexdigest()


def key_of(store: str) -> bytes | None:
    """Return the key of the store at a path, or None when it has none that can be used."""
    with suppress(OSError), open(os.path.join(store, KEY), "rb") as stream:
        key = stream.read()
        return key if len(key) == KEY_BYTES else None
    return None


def make_key(store: str) -> bytes:
    """Return the key of the store at a path, made at random when there is none. Only its owner may read it.

    Of two forges that make one at the same time, both use the first. Raises `StoreError` when it cannot be written.
    """
    path, arriving = os.path.join(store, KEY), os.path.join(store, STAGING, f"{KEY}-{os.getpid()}")
    was_there = os.path.lexists(path)
    if (key := key_of(store)) is not None:
        return key
    try:
        if was_there:  # then it is none; else it may be another forge's by now
            with suppress(FileNotFoundError):
                os.unlink(path)
        with open(os.open(arriving, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
            stream.write(os.urandom(KEY_BYTES))
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError, FileNotFoundError):  # swept by a forge that builds
            os.link(arriving, path)
        with suppress(FileNotFoundError):
            os.unlink(arriving)
    except OSError as error:
        raise StoreError(f"the store's key ({path}) cannot be written: {error.strerror}") from error
    return make_key(store)
