"""`OstreeCommit`: a Debian tree as a commit in an OSTree repository."""

import re
from collections.abc import Iterable, Mapping
from typing import ClassVar

from forgefile.model import Cache, Call, Output, Rule, Sandbox, Step, Tree
from forgefile.programs.ostree import ZLIB, Commit, commit

_BRANCH = re.compile(r"[A-Za-z0-9_][-.\w]*(/[A-Za-z0-9_][-.\w]*)*", re.ASCII)
_COLLECTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", re.ASCII)
_OURS = {
    "ostree.bootable": "it is set when the tree has a kernel",
    "ostree.collection-binding": "set collection_id",
    "ostree.linux": "it is set when the tree has a kernel",
    "ostree.ref-binding": "set branch and bind_refs",
}


class OstreeCommit(Rule):
    """Make a Debian tree fit for OSTree and commit it. The output is a repository in archive mode, as a tree.

    The repository holds this one commit, without a parent, under the name `branch`. Publish it by
    `ostree pull-local --repo=PUBLIC REPOSITORY BRANCH`, where history grows, or serve the folder over HTTP. The same
    tree gives the same bits. Objects are shared by hard links with earlier commits of all targets of the store, so a
    commit adds to the disk only what changed, and only that is compressed.

    With `convert`, the tree is committed as OSTree deploys it (https://ostreedev.github.io/ostree/adapting-existing/):

    - `/etc` becomes `/usr/etc`.
    - `/boot/vmlinuz-VERSION`, `initrd.img-`, `config-` and `System.map-` become `vmlinuz`, `initramfs.img`, `config`
      and `System.map` in `/usr/lib/modules/VERSION`; the rest of `/boot` and the links to it in `/` are left out. To
      boot by OSTree the initramfs must know it. Debian's `ostree-boot` has that for dracut alone: install it and
      `dracut`, which takes the place of `initramfs-tools`.
    - `/home`, `/mnt`, `/opt`, `/root`, `/srv` become links to `/var/home`, `/var/mnt`, `/var/opt`, `/var/roothome`,
      `/var/srv`; `/media` to `/run/media`, `/tmp` to `/sysroot/tmp`, `/ostree` to `/sysroot/ostree`.
      `/usr/local` stays. What such a folder of `/var` holds already is kept beside the rest; a file that both hold
      fails the target.
    - `/var` is empty. What it and those folders held, systemd-tmpfiles makes at boot where it is missing, by
      `/usr/lib/tmpfiles.d/ostree-var.conf`, with files from `/usr/share/factory`. Files in `/var/cache`, `/var/log`,
      `/var/tmp` and `/var/lib/apt/lists` are left out, folders are kept.
    - dpkg's database is in `/usr/share/dpkg/database`, to which `/var/lib/dpkg` is a link.
    - `/dev`, `/proc`, `/run` and `/sys` are empty.

    Hard links become files of their own, which a checkout links again; empty extended attributes and SELinux labels
    are left out. Devices, pipes and sockets elsewhere than in `/dev` and `/var` fail the target, as do names that are
    not UTF-8.

    ```python
    OstreeCommit(tree=system, branch="debian/bookworm/amd64", metadata={"version": "12.1"})
    ```
    """

    output: ClassVar[Output] = "tree"

    tree: Tree
    """The tree. Required."""
    branch: str
    """The name of the commit: words of letters, digits, `-`, `_` and `.`, parted by slashes. Required."""
    subject: str = ""
    """One line that describes the commit. Default: empty."""
    body: str = ""
    """More text that describes it. Default: empty."""
    metadata: Mapping[str, str] = {}
    """Further metadata of the commit, as texts; `version` is what `ostree admin status` and boot menus show. Default:
    none beside `ostree.ref-binding` and, with a kernel, `ostree.bootable` and `ostree.linux`."""
    bind_refs: tuple[str, ...] = ()
    """Other branches under which the commit may be published (`ostree.ref-binding`). Default: `branch` alone."""
    collection_id: str | None = None
    """The repository's collection, a reversed domain name as in `org.example.Os`. Default: none."""
    convert: bool = True
    """Whether to make the tree fit for OSTree as told above. If not, it is committed as it is, but for the content of
    `/dev`. Default: yes."""
    kernel: str | None = None
    """The version of the kernel that boots, as in `6.1.0-18-amd64`, when the tree has several. Default: the one."""
    compression_level: int = 6
    """How hard zlib tries, 1 to 9. Default: 6, as ostree's."""

    def check(self) -> None:
        """Refuse names that ostree would refuse, and metadata that other fields make."""
        for name, branches in (("branch", (self.branch,)), ("bind_refs", self.bind_refs)):
            for branch in branches:
                if not _BRANCH.fullmatch(branch):
                    raise self.refuse(name, f"{branch!r} is no name of a branch", hint="as in 'debian/bookworm/amd64'")
        if self.collection_id is not None and not _COLLECTION.fullmatch(self.collection_id):
            raise self.refuse("collection_id", f"{self.collection_id!r} is no id", hint="as in 'org.example.Os'")
        if "\n" in self.subject:
            raise self.refuse("subject", "is more than one line", hint="put the rest into body")
        for key in self.metadata:
            if key in _OURS:
                raise self.refuse("metadata", f"'{key}' is made by forge", hint=_OURS[key])
        if self.kernel is not None and not self.convert:
            raise self.refuse("kernel", "nothing is done with it when convert=False")
        if not 1 <= self.compression_level <= 9:  # noqa: PLR2004  zlib's
            raise self.refuse("compression_level", f"zlib has 1 to 9, not {self.compression_level}")

    def steps(self, box: Sandbox) -> Iterable[Step]:
        """Return the one step that writes the repository."""
        cache = f"{box.tmp}/ostree"  # below tmp, where files can be linked to the output
        yield Call(
            commit,
            Commit(
                tree=box.path(self.tree),
                repository=box.out,
                cache=cache,
                branch=self.branch,
                bind_refs=self.bind_refs,
                collection_id=self.collection_id,
                subject=self.subject,
                body=self.body,
                metadata=self.metadata,
                convert=self.convert,
                kernel=self.kernel,
                level=self.compression_level,
                zlib=ZLIB,
            ),
            caches=(Cache(name="ostree", path=cache),),
        )
