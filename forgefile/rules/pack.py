"""`Pack`: a tree as one archive."""

import posixpath
from collections.abc import Iterable
from typing import Literal

from forgefile.model import Rule, Run, Sandbox, Step, Tree

_COMPRESSORS = {
    "bzip2": (("bzip2",), 1, 9),
    "gzip": (("gzip", "-n"), 1, 9),
    "lz4": (("lz4", "-q"), 1, 12),
    # With "+", blocks are cut the same way on one core.
    "xz": (("xz", "-T+0"), 0, 9),
    "zstd": (("zstd", "-q", "-T0"), 1, 22),
}
_ULTRA = 20


class Pack(Rule):
    """Pack a tree into a tar archive in the PAX format of POSIX.1-2001, with GNU tar.

    It holds numeric owners, modes, hard links, devices, extended attributes with capabilities (as SCHILY.xattr) and
    ACLs (as SCHILY.acl). The same tree gives the same bits on any number of cores: names are sorted, access and change
    times left out. Sockets are left out. Unpack it with
    `tar --extract --numeric-owner --xattrs --xattrs-include='*' --acls`.

    ```python
    Pack(tree=system, compression="zstd", level=19, exclude=("var/cache/*",))
    ```
    """

    tree: Tree
    """The tree. Required."""
    format: Literal["tar"] = "tar"
    """Default: tar, the only one so far."""
    compression: Literal["none", "bzip2", "gzip", "lz4", "xz", "zstd"] = "none"
    """`zstd` and `xz` work on all cores, the others on one. Default: none."""
    level: int | None = None
    """Trades time for size: bzip2 and gzip 1 to 9, lz4 1 to 12, xz 0 to 9, zstd 1 to 22. Default: the program's own
    (9, 6, 1, 6, 3)."""
    subdir: str | None = None
    """The folder of the tree whose content is packed, as in `usr/share`. Default: the whole tree."""
    prefix: str | None = None
    """What stands before every name in the archive, as in `debian-12`: a relative path. Default: `.`."""
    exclude: tuple[str, ...] = ()
    """Globs of what is left out, from the packed folder on, as in `var/cache/*`; `*` and `?` match slashes also, and
    what lies in a folder that matches is left out with it. Default: nothing."""
    sparse: bool = True
    """Whether the holes of files are kept as holes (GNU.sparse 1.0). Default: yes."""

    def check(self) -> None:
        """Refuse a level that the compressor lacks and paths that lead out of the tree."""
        if self.level is not None:
            if self.compression == "none":
                raise self.refuse("level", "nothing is compressed", hint="set compression='zstd'")
            _, low, high = _COMPRESSORS[self.compression]
            if not low <= self.level <= high:
                raise self.refuse("level", f"{self.compression} has {low} to {high}, not {self.level}")
        for name in ("subdir", "prefix"):
            path = getattr(self, name)
            if path is not None and (path != posixpath.normpath(path) or path.startswith(("/", "..")) or "\n" in path):
                raise self.refuse(name, f"{path!r} is no plain relative path", hint="as in 'usr/share'")
        for pattern in self.exclude:
            if not pattern.strip("/"):
                raise self.refuse("exclude", f"{pattern!r} matches nothing or all")

    def steps(self, box: Sandbox) -> Iterable[Step]:
        """Return the one step that runs tar."""
        folder = box.path(self.tree)
        yield Run(
            (
                "tar", "--create", "--file", box.out, *self._compressor(),
                "--format=posix", "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
                "--sort=name", "--numeric-owner", "--acls",
                # ACLs come once, in their own records.
                "--xattrs", "--xattrs-include=*", "--xattrs-exclude=system.posix_acl_*",
                *(("--sparse", "--hole-detection=raw") if self.sparse else ()),
                *self._names(),
                "--directory", f"{folder}/{self.subdir}" if self.subdir else folder,
                ".",
            ),
            tools=() if self.compression == "none" else (self.compression,),
        )  # fmt: skip

    def _compressor(self) -> tuple[str, ...]:
        if self.compression == "none":
            return ()
        program, _, _ = _COMPRESSORS[self.compression]
        level = () if self.level is None else (f"-{self.level}",)
        ultra = ("--ultra",) if self.compression == "zstd" and (self.level or 0) >= _ULTRA else ()
        return "--use-compress-program", " ".join((*program, *ultra, *level))

    def _names(self) -> tuple[str, ...]:
        """Return the options that leave names out and put a prefix before the others, not before links' targets."""
        options = tuple(f"--exclude=./{pattern.lstrip('/')}" for pattern in self.exclude)
        if options:
            options = ("--anchored", "--wildcards", "--wildcards-match-slash", *options)
        if self.prefix and self.prefix != ".":
            escaped = "".join(f"\\{letter}" if letter in "\\&," else letter for letter in self.prefix)
            options += (f"--transform=s,^\\.,{escaped},rSh",)
        return options
