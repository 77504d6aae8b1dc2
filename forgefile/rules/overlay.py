"""The rule `Overlay`: files that people write, laid into a tree."""

from collections.abc import Iterable

from forgefile.model import Copy, Rule, Sandbox, Source, Step, Target, Tree


class Overlay(Rule):
    """Lay a folder or a file into a tree.

    - `base`: the tree that gets the files.
    - `source`: a source, or a file target. What a folder holds is laid below `destination`; a file becomes
      `destination`, or lies in it when that ends with `/`. Symbolic links are laid as links.
    - `destination`: an absolute path in the tree; default `/`. Links in the tree are followed inside the tree.
      Missing folders are made (mode 755, root).
    - `owner`: numeric user and group of everything that is laid; default root, (0, 0).
    - `owners`: (glob, user, group) for paths below the source, the last that fits counts; `*` matches `/` too.
    - `mode`: mode of the file when the source is one; default the source's own.
    - `modes`: (glob, mode) likewise, for example `("etc/sudoers.d/*", 0o440)`. Anything else keeps the source's mode.

    An existing folder keeps its mode and owner unless a glob names it; an existing file is replaced. Times are
    SOURCE_DATE_EPOCH, so that a fresh checkout makes the same image.
    """

    output = "tree"

    base: Tree
    source: Source | Target
    destination: str = "/"
    owner: tuple[int, int] = (0, 0)
    owners: tuple[tuple[str, int, int], ...] = ()
    mode: int | None = None
    modes: tuple[tuple[str, int], ...] = ()

    def check(self) -> None:
        """Refuse destinations outside the tree and modes and owners that cannot be."""
        if not self.destination.startswith("/") or ".." in self.destination.split("/"):
            raise self.refuse("destination", f"{self.destination!r} is no absolute path in the tree")
        if isinstance(self.source, Target) and self.source.output != "file":
            raise self.refuse("source", f"'{self.source.name}' is a tree; build on it with base=")
        for name, mode in (("mode", self.mode or 0), *(("modes", mode) for _, mode in self.modes)):
            if not 0 <= mode <= 0o7777 or (mode & 0o1000 and mode != 0o1777):  # noqa: PLR2004  chmod(2)
                raise self.refuse(name, f"{mode} is {mode:#o}, no mode of a file", hint="write it in octal: 0o644")
        for name, user, group in (("owner", *self.owner), *(("owners", user, group) for _, user, group in self.owners)):
            if not (0 <= user < 1 << 32 and 0 <= group < 1 << 32):
                raise self.refuse(name, f"({user}, {group}) are no numeric user and group")

    def steps(self, box: Sandbox) -> Iterable[Step]:
        """Copy it."""
        yield Copy(
            box.path(self.source),
            self.destination,
            root=box.out,
            owner=self.owner,
            owners=self.owners,
            mode=self.mode,
            modes=self.modes,
        )
