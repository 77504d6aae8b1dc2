"""An output, wherever it lies: the layers of a tree, a folder, an image, or a file that is none."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from forgefile.cache.seal import Result
from forgefile.cache.store import Store
from forgefile.contents.image import Image, open_image
from forgefile.contents.tree import Node, Path, stacked
from forgefile.errors import UsageError


class Place(NamedTuple):
    """Where an output lies: a tree's layers, lowest first, or the path of a file or folder."""

    path: str = ""
    layers: tuple[str, ...] = ()


def place_of(store: Store, result: Result) -> Place:
    """Return where a result lies in the store."""
    if result.kind == "tree":
        return Place(layers=tuple(map(store.layer_path, result.layers)))
    return Place(store.object_path(result.digest))


class Opened(NamedTuple):
    """What lies at a place. A file that is no image is neither."""

    tree: Node | None = None
    image: Image | None = None


def opened(place: Place, folder: str) -> Opened:
    """Return what lies at a place; `folder` is one to unpack images in. Raises OSError and `UsageError`."""
    if place.layers:
        return Opened(stacked(place.layers))
    if os.path.isdir(place.path):
        return Opened(Path([place.path]))
    return Opened(image=open_image(place.path, folder))


@contextmanager
def unpacking(*places: Place) -> Iterator[str]:
    """Work with a folder on the disk, to unpack images in, that is removed at the end; with none where trees lie.

    Raises `UsageError` when it cannot be made.
    """
    if not any(os.path.isfile(place.path) for place in places):
        yield ""
        return
    where = os.environ.get("TMPDIR") or "/var/tmp"
    try:
        folder = tempfile.TemporaryDirectory(prefix="forge-", dir=where)
    except OSError as error:
        hint = "set TMPDIR to a folder that can be written"
        raise UsageError(f"{where} cannot be written: {error.strerror}", hint=hint) from None
    with folder as path:
        yield path
