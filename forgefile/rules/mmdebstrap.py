"""The rule `Mmdebstrap`: a Debian root file system from a mirror."""

import re
from collections.abc import Iterable, Mapping

from forgefile import architectures
from forgefile.errors import did_you_mean
from forgefile.mirror import RETRIES, TROUBLE
from forgefile.model import Cache, Call, Rule, Run, Sandbox, Secret, Source, Step, Write
from forgefile.programs.debian import DEFER_INITRAMFS, MAKE_INITRAMFS, empty, forget_host, settle

_VARIANTS = ("extract", "custom", "essential", "apt", "required", "minbase", "buildd", "important", "standard")
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_OPTION = re.compile(r'([A-Za-z][A-Za-z0-9_:/.+-]*)=([^"\n]*)')
_WORD = re.compile(r"[A-Za-z0-9?~][A-Za-z0-9.+:~=/_*?!()|-]*")


class Mmdebstrap(Rule):
    """Make a root file system of a Debian suite with mmdebstrap(1).

    - `suite`: a release by name (`bookworm`) or class (`stable`).
    - `arch`: Debian's name of the architecture, `arm64`; default the host's. A foreign one needs the packages
      arch-test, binfmt-support and qemu-user-static on the host; `forge doctor` says what is missing. More than one
      (`amd64,i386`): that of the tree, and others that it may have packages of.
    - `mirrors`: URLs, or whole lines as in sources.list(5); default what mmdebstrap knows for the suite:
      deb.debian.org, with updates and security for a stable release.
    - `components`: default `("main",)`. Only for mirrors that are URLs.
    - `variant`: what is installed beside what is named: `apt` (default), `minbase`, `important`, `standard`, …
    - `include`: packages, in mmdebstrap's words.
    - `keyring`: a source with the mirror's keys; default the host's debian-archive-keyring.
    - `auth`: a secret with the names and passwords of mirrors, in the form of apt_auth.conf(5).
    - `apt_options`: apt configuration such as `Acquire::Check-Valid-Until=false`, as `Apt` takes it, or lines as in
      apt.conf(5): `Acquire::Check-Valid-Until "false";`; for this step and not kept in the tree.
    - `dpkg_options`: the same for dpkg, such as `path-exclude=/usr/share/man/*`, kept in the tree.
    - `environment`: variables for maintainer scripts.

    Signatures are always checked. Packages are downloaded once for all targets of a store. An initial ram disk is made
    once for each kernel, in the end. The tree has no logs, no package lists, no device nodes and no machine id. When a
    mirror does not answer, or is being updated, all is tried again, twice.

    Nor has it SSH host keys, which all machines would share. Nothing in Debian makes them when a machine first boots,
    and sshd does not start without: see [keys of its own](../host-keys.md).
    """

    output = "tree"

    suite: str
    arch: str | None = None
    mirrors: tuple[str, ...] = ()
    components: tuple[str, ...] = ("main",)
    variant: str = "apt"
    include: tuple[str, ...] = ()
    keyring: Source | None = None
    auth: Secret | None = None
    apt_options: tuple[str, ...] = ()
    dpkg_options: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}

    def check(self) -> None:
        """Refuse names that are none."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9./+-]*", self.suite):
            raise self.refuse("suite", f"{self.suite!r} is no name of a Debian suite")
        for arch in [] if self.arch is None else self.arch.split(","):
            if arch not in architectures.NAMES:
                raise self.refuse("arch", f"Debian has no architecture {arch!r}", architectures.meant(arch))
        if self.variant not in _VARIANTS:
            hint = did_you_mean(str(self.variant), _VARIANTS)
            raise self.refuse("variant", f"there is no variant {self.variant!r}", hint)
        for package in self.include:
            if not _WORD.fullmatch(package):
                raise self.refuse("include", f"{package!r} is no name of a package")
        for option in self.apt_options:
            if re.match(r'[^\s"{]+=', option) and not _OPTION.fullmatch(option):
                hint = "write 'Key=value' without quotes, or as in apt.conf: 'Key \"value\";'"
                raise self.refuse("apt_options", f"{option!r} is no configuration of apt", hint=hint)

    def steps(self, box: Sandbox) -> Iterable[Step]:
        """Run mmdebstrap with the shared folders of packages and lists, and settle what it leaves."""
        debs, lists = f"{box.tmp}/deb", f"{box.tmp}/lists"
        lend = (
            'mkdir -p "$1/var/cache/apt/archives" "$1/var/lib/apt/lists"'
            f' && mount --bind {debs} "$1/var/cache/apt/archives" && mount --bind {lists} "$1/var/lib/apt/lists"'
        )
        argv = ["mmdebstrap", "--mode=root", f"--variant={self.variant}", f"--components={','.join(self.components)}"]
        argv += [f"--skip={what}" for what in ("download/empty", "essential/unlink", "cleanup/apt", "output/dev")]
        argv += [f"--setup-hook={lend}", '--aptopt=APT::Sandbox::User "root"', '--aptopt=Acquire::Retries "3"']
        kernel_may_come = bool(self.include) and self.variant not in ("extract", "custom")
        if kernel_may_come:
            yield Write(f"{box.tmp}/bin/mkinitramfs", text=DEFER_INITRAMFS, mode=0o755)
            argv += [f'--essential-hook=cp -r {box.tmp}/bin "$1/run"']
            argv += ['--aptopt=DPkg::Path "/run/bin:/usr/sbin:/usr/bin:/sbin:/bin"']
        argv += [f"--include={','.join(self.include)}"] if self.include else []
        argv += [f"--architectures={self.arch}"] if self.arch else []
        argv += [f"--keyring={box.path(self.keyring)}"] if self.keyring else []
        argv += [f'--aptopt=Dir::Etc::netrc "{box.path(self.auth)}"'] if self.auth else []
        argv += [f"--aptopt={_line(option)}" for option in self.apt_options]
        argv += [f"--dpkgopt={line}" for line in self.dpkg_options]
        environment = {"DEBIAN_FRONTEND": "noninteractive", **self.environment}
        yield Run(
            (*argv, self.suite, box.out, *self.mirrors),
            network=True,
            mounts=True,
            env=environment,
            tools=() if self.keyring else (_KEYRING,),
            caches=(Cache(name="deb", path=debs, downloads=True), Cache(name="lists", path=lists)),
            retries=RETRIES,
            flaky=TROUBLE,
        )
        yield Call(empty, f"{box.out}/run")  # in the tree itself /run is the sandbox's
        if kernel_may_come:
            yield Run(("sh", "-euc", MAKE_INITRAMFS), root=box.out, env=environment)
        yield Call(forget_host, root=box.out)
        yield Call(settle, root=box.out)


def _line(option: str) -> str:
    """Return what apt-get(8) takes after `-o` as apt.conf(5) has it; what is no `Key=value` stays as it is."""
    found = _OPTION.fullmatch(option)
    return f'{found[1]} "{found[2]}";' if found else option
