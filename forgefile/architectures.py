"""Debian's names of architectures, what others call them, and what emulates them. Unaware of rules and machines."""

from collections.abc import Sequence

from forgefile.errors import did_you_mean

NAMES = (
    *("alpha", "amd64", "arc", "arm64", "armel", "armhf", "hppa", "hurd-amd64", "hurd-i386", "i386", "ia64", "loong64"),
    *("m68k", "mips", "mips64", "mips64el", "mips64r6el", "mipsel", "powerpc", "ppc64", "ppc64el", "riscv64", "s390x"),
    *("sh4", "sparc", "sparc64", "x32"),
)
"""Those of Debian's releases and ports (dpkg-architecture(1))."""
_OTHERS = {
    "aarch64": "arm64", "armv6l": "armel", "armv7": "armhf", "armv7l": "armhf", "i486": "i386", "i586": "i386",
    "i686": "i386", "loongarch64": "loong64", "ppc64le": "ppc64el", "x64": "amd64", "x86": "i386", "x86-64": "amd64",
    "x86_64": "amd64",
}  # fmt: skip
"""What kernels, compilers and other systems say → what Debian says."""
_QEMU = {
    "amd64": "x86_64", "arm64": "aarch64", "armel": "arm", "armhf": "arm", "loong64": "loongarch64", "powerpc": "ppc",
    "ppc64el": "ppc64le",
}  # fmt: skip


def debian(name: str) -> str:
    """Return Debian's name of an architecture that the kernel names (uname(2))."""
    return _OTHERS.get(name, name)


def meant(word: str, choices: Sequence[str] = NAMES) -> str | None:
    """Return a hint at the name that was probably meant by a word that is none."""
    known = debian(word.lower())
    return f"did you mean '{known}'?" if known in choices else did_you_mean(word, choices)


def emulator(name: str) -> str:
    """Return the name of the program of QEMU that runs an architecture's programs in any tree."""
    return f"qemu-{_QEMU.get(name, name)}-static"
