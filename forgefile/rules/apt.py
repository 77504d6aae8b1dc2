"""The rule `Apt`: Debian packages installed into a tree."""

import re
from collections.abc import Iterable, Mapping

from forgefile.mirror import RETRIES, TROUBLE
from forgefile.model import (
    Cache,
    Call,
    Copy,
    Rule,
    Run,
    Sandbox,
    Secret,
    Source,
    Step,
    Target,
    Tree,
    Value,
    Write,
    field,
)  # fmt: skip
from forgefile.programs.debian import DEFER_INITRAMFS, MAKE_INITRAMFS, note_identity, settle

_PACKAGE = re.compile(r"[a-z0-9][a-z0-9.+-]*(:[a-z0-9-]+)?([=/][A-Za-z0-9.+:~-]+)?[+-]?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_LINE = re.compile(r"""([^\s=]+)\s+(["']?)(.*?)\2\s*;?\s*""")
"""A line of apt.conf(5): a key and a value."""
_QUIET = ("-o", "Dpkg::Use-Pty=0", "-o", "Dpkg::Progress-Fancy=0")
_LEAN = ("-o", "Acquire::Languages=none", "-o", "Dir::Cache::srcpkgcache=")
_ROBUST = ("-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3")


class AptSource(Value):
    """An archive of packages beside the tree's own, in the form of sources.list(5), DEB822 style. It stays in the tree.

    - first: its name; becomes /etc/apt/sources.list.d/NAME.sources.
    - `url`, `suites`, `components`: where the packages are; a suite that ends with `/` needs no components.
    - `key`: a source with the archive's keys (.asc or .gpg); becomes /etc/apt/keyrings/NAME.asc or .gpg. Without it
      the keys must be in the tree already, as Debian's own are.
    - `architectures`: default the tree's.
    """

    name: str = field(kw_only=False)
    url: str
    suites: tuple[str, ...]
    components: tuple[str, ...] = ("main",)
    key: Source | None = None
    architectures: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse names that are no file names and texts that would break the file."""
        if not _NAME.fullmatch(self.name):
            raise self.refuse("name", f"{self.name!r} is no file name")
        for name, words in (("url", (self.url,)), ("suites", self.suites), ("components", self.components)):
            if not words or any(not word or word.split() != [word] for word in words):
                raise self.refuse(name, f"{words!r} are no words without blanks")

    def text(self) -> str:
        """Return the content of the .sources file."""
        lines = ["Types: deb", f"URIs: {self.url}", f"Suites: {' '.join(self.suites)}"]
        if not self.suites[0].endswith("/"):
            lines.append(f"Components: {' '.join(self.components)}")
        if self.architectures:
            lines.append(f"Architectures: {' '.join(self.architectures)}")
        if self.key:
            lines.append(f"Signed-By: {self.key_path}")
        return "\n".join(lines) + "\n"

    @property
    def key_path(self) -> str:
        """Where the key lies in the tree."""
        armoured = self.key is None or not self.key.path.endswith((".gpg", ".pgp"))
        return f"/etc/apt/keyrings/{self.name}.{'asc' if armoured else 'gpg'}"


class Apt(Rule):
    """Install packages into a tree with its own apt-get(8).

    - `base`: the tree; it needs apt and sources, as every tree of `Mmdebstrap` and `Debootstrap` has.
    - `packages`: what to install, in apt-get's words: `name`, `name:arch`, `name=version`, `name/suite`, and `name-`
      to remove.
    - `debs`: local `.deb` files: sources or file targets. Their dependencies come from the tree's sources.
    - `recommends`: whether recommended packages are installed, too; default no.
    - `sources`: further archives, see `AptSource`.
    - `auth`: a secret with the names and passwords of archives, in the form of apt_auth.conf(5); for these steps only.
    - `upgrade`: whether to upgrade what is installed, first; default no.
    - `options`: apt configuration such as `APT::Default-Release=bookworm-backports`, as after apt-get's `-o`; for this
      step only.
    - `environment`: variables for maintainer scripts; DEBIAN_FRONTEND is noninteractive.

    Services do not start, /etc/resolv.conf is lent, signatures are always checked. Packages and lists are downloaded
    once for all targets of a store. Configuration files that a package and the tree both have stay as they are. An
    initial ram disk is made once for each kernel, in the end. When an archive does not answer, or is being updated, all
    is tried again, twice.

    No SSH host keys and no machine id that packages make stay in the tree, or all machines would share them; those that
    `base` has are left. systemd makes an id on the first boot. Nothing in Debian makes keys, and sshd does not start
    without: see [keys of its own](../host-keys.md).
    """

    output = "tree"

    base: Tree
    packages: tuple[str, ...] = ()
    debs: tuple[Source | Target, ...] = ()
    recommends: bool = False
    sources: tuple[AptSource, ...] = ()
    auth: Secret | None = None
    upgrade: bool = False
    options: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}

    def check(self) -> None:
        """Refuse an empty list and names that are none."""
        if not (self.packages or self.debs or self.upgrade):
            raise self.refuse("packages", "is empty, and there are no debs and no upgrade either")
        for package in self.packages:
            if not _PACKAGE.fullmatch(package):
                raise self.refuse("packages", f"{package!r} is no name of a package")
        for option in self.options:
            if not re.match(r"[^\s=]+=", option):
                line = _LINE.fullmatch(option)
                hint = f"write '{line[1]}={line[3]}'" if line else "write 'Key=value'"
                raise self.refuse("options", f"{option!r} has no '=' after its key", hint=hint)
        for deb in self.debs:
            if isinstance(deb, Target) and deb.output != "file":
                raise self.refuse("debs", f"'{deb.name}' is a tree, not a .deb file")

    def steps(self, box: Sandbox) -> Iterable[Step]:
        """Add the sources, update, install, and settle what apt leaves."""
        noted = f"{box.tmp}/identity"
        yield Call(note_identity, noted, root=box.out)
        for source in self.sources:
            if source.key:
                yield Copy(box.path(source.key), source.key_path, root=box.out, mode=0o644)
            yield Write(f"/etc/apt/sources.list.d/{source.name}.sources", root=box.out, text=source.text())
        yield Write(f"{box.tmp}/bin/mkinitramfs", text=DEFER_INITRAMFS, mode=0o755)
        yield self._apt(box, "update", "-o", "APT::Update::Error-Mode=any")
        if self.upgrade:
            yield self._apt(box, "--yes", "dist-upgrade")
        debs = tuple(f"{box.tmp}/{number}.deb" for number, _ in enumerate(self.debs))
        for deb, path in zip(self.debs, debs, strict=True):
            yield Copy(box.path(deb), path, mode=0o644)
        if self.packages or debs:
            recommends = "--install-recommends" if self.recommends else "--no-install-recommends"
            yield self._apt(box, "--yes", recommends, "install", *self.packages, *debs)
        yield Run(("sh", "-euc", MAKE_INITRAMFS), root=box.out, env=self._environment())
        yield Call(settle, noted, root=box.out)

    def _environment(self) -> Mapping[str, str]:
        return {"DEBIAN_FRONTEND": "noninteractive", "DEBCONF_NONINTERACTIVE_SEEN": "true", **self.environment}

    def _apt(self, box: Sandbox, *words: str) -> Run:
        auth = (f"Dir::Etc::netrc={box.path(self.auth)}",) if self.auth else ()
        configuration = tuple(word for option in (*auth, *self.options) for word in ("-o", option))
        keep = ("-o", "Dpkg::Options::=--force-confold", "-o", "Dpkg::Options::=--force-confdef")
        path = ("-o", f"DPkg::Path={box.tmp}/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        return Run(
            ("apt-get", "-q", *_QUIET, *_LEAN, *_ROBUST, *keep, *path, *configuration, *words),
            root=box.out,
            network=True,
            env=self._environment(),
            caches=(
                Cache(name="deb", path="/var/cache/apt/archives", downloads=True),
                Cache(name="lists", path="/var/lib/apt/lists"),
            ),
            retries=RETRIES,
            flaky=TROUBLE,
        )
