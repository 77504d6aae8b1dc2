"""The rule `Debootstrap`: a Debian root file system by the classic tool."""

import re
from collections.abc import Iterable, Mapping

from forgefile import architectures
from forgefile.errors import did_you_mean
from forgefile.mirror import RETRIES, TROUBLE
from forgefile.model import Cache, Call, Rule, Run, Sandbox, Source, Step
from forgefile.programs.debian import empty, forget_host, settle

_VARIANTS = ("minbase", "buildd", "fakechroot")
_SYSTEM = 'for name in dev proc sys; do mkdir -p "$0/$name"; mount --rbind "/$name" "$0/$name"; done; exec "$@"'
"""Has a program find the sandbox's own devices, /proc and /sys in the tree. debootstrap(8) would make nodes, which open
nothing here, and mount. It keeps what is there, when it takes this for a container of LXC."""
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class Debootstrap(Rule):
    """Make a root file system of a Debian suite with debootstrap(8).

    - `suite`, `arch`: as of `Mmdebstrap`.
    - `mirror`: one URL; default http://deb.debian.org/debian.
    - `components`: default `("main",)`.
    - `variant`: `minbase`, `buildd`, or None (default) for the standard set.
    - `include`, `exclude`: packages to add and to leave out.
    - `keyring`: a source with the mirror's keys; default the host's debian-archive-keyring.
    - `merged_usr`: whether /bin is a link to /usr/bin; default as the suite has it.
    - `environment`: variables for maintainer scripts.

    debootstrap takes packages from one mirror only: add security and updates with `Apt(sources=…)` above it.
    Signatures are always checked. Packages are downloaded once for all targets of a store. When the mirror does not
    answer, all is tried again, twice.

    The tree has no machine id, which systemd makes on the first boot, and no SSH host keys, which all machines would
    share. Nothing in Debian makes those then, and sshd does not start without: see [keys of its own](../host-keys.md).
    """

    output = "tree"

    suite: str
    arch: str | None = None
    mirror: str = "http://deb.debian.org/debian"
    components: tuple[str, ...] = ("main",)
    variant: str | None = "minbase"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    keyring: Source | None = None
    merged_usr: bool | None = None
    environment: Mapping[str, str] = {}

    def check(self) -> None:
        """Refuse names that are none."""
        if not re.fullmatch(r"[a-z0-9][a-z0-9./+-]*", self.suite):
            raise self.refuse("suite", f"{self.suite!r} is no name of a Debian suite")
        if self.arch not in (None, *architectures.NAMES):
            hint = architectures.meant(str(self.arch))
            raise self.refuse("arch", f"Debian has no architecture {self.arch!r}", hint)
        if self.variant not in (None, *_VARIANTS):
            hint = did_you_mean(str(self.variant), _VARIANTS)
            raise self.refuse("variant", f"there is no variant {self.variant!r}", hint)
        for name, packages in (("include", self.include), ("exclude", self.exclude)):
            for package in packages:
                if not re.fullmatch(r"[a-z0-9][a-z0-9.+:-]*", package):
                    raise self.refuse(name, f"{package!r} is no name of a package")

    def steps(self, box: Sandbox) -> Iterable[Step]:
        """Run debootstrap with the shared folder of packages and settle what it leaves."""
        keyring = box.path(self.keyring) if self.keyring else _KEYRING
        debs = f"{box.tmp}/deb"
        argv = ["debootstrap", "--force-check-gpg", f"--keyring={keyring}", f"--components={','.join(self.components)}"]
        argv += [f"--cache-dir={debs}"]
        argv += [f"--variant={self.variant}"] if self.variant else []
        argv += [f"--arch={self.arch}"] if self.arch else []
        argv += [f"--include={','.join(self.include)}"] if self.include else []
        argv += [f"--exclude={','.join(self.exclude)}"] if self.exclude else []
        if self.merged_usr is not None:
            argv.append("--merged-usr" if self.merged_usr else "--no-merged-usr")
        yield Run(
            ("sh", "-ec", _SYSTEM, box.out, *argv, self.suite, box.out, self.mirror),
            network=True,
            mounts=True,
            env={"DEBIAN_FRONTEND": "noninteractive", "container": "lxc", **self.environment},
            tools=("debootstrap", *(() if self.keyring else (_KEYRING,))),
            caches=(Cache(name="deb", path=debs, downloads=True),),
            retries=RETRIES,
            flaky=TROUBLE,
        )
        yield Call(empty, f"{box.out}/run")  # in the tree itself /run is the sandbox's
        yield Call(forget_host, root=box.out)
        yield Call(settle, root=box.out)
