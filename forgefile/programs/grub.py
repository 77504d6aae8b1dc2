"""GRUB's parts of a disk: the texts of its configuration, its images, its boot code.

GRUB's own tools make all of it: grub-mkimage and grub-bios-setup. Unaware of how partitions are laid out and of the
rest of the tree.
"""

import os

from forgefile.errors import BuildError
from forgefile.model import Value
from forgefile.programs.process import Job, Process

LIBRARY = "/usr/lib/grub"
"""Where Debian's packages grub-pc-bin and grub-efi-*-bin put GRUB's modules."""

EFI_NAMES = {"x86_64-efi": "BOOTX64.EFI", "i386-efi": "BOOTIA32.EFI", "arm64-efi": "BOOTAA64.EFI"}
"""The file that firmware starts from a disk without a boot entry (UEFI 2.10, section 3.5.1.1)."""

ESP_TYPES = ("C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "ef")
"""The type of an EFI system partition in a GPT and in an MBR."""

MODULES = (
    *("normal", "configfile", "linux", "search", "search_fs_uuid", "search_label", "echo", "test", "boot", "regexp"),
    *("serial", "terminal", "sleep", "halt", "reboot", "gzio", "minicmd", "ls", "cat", "help", "loadenv", "probe"),
)
_NOT_HELD = "\"'\\"
"""What GRUB's loader puts a backslash before, which the kernel keeps (grub-core/lib/cmdline.c)."""
_MODULES_OF = {"gpt": "part_gpt", "mbr": "part_msdos", "ext4": "ext2", "vfat": "fat", "btrfs": "btrfs", "xfs": "xfs"}
_MODULES_FOR = {"i386-pc": ("biosdisk",)}


class Boot(Value):
    """What of GRUB is put on a disk, as plain data. `platforms` are names such as `i386-pc`."""

    platforms: tuple[str, ...]
    cmdline: str = ""
    timeout: int = 0
    modules: tuple[str, ...] = ()


def early_config(uuid: str, prefix: str) -> str:
    """Return the configuration inside GRUB's image: where its real one lies."""
    return f"search.fs_uuid {uuid} root\nset prefix=($root){prefix}\nconfigfile $prefix/grub.cfg\n"


def config(boot: Boot, versions: tuple[tuple[str, bool], ...], folder: str, roots: tuple[str, str]) -> str:
    """Return grub.cfg: an entry for each kernel version (with or without initrd) that lies in `folder`.

    `roots` is the kernel's `root=` parameter, for an initrd to read and for the kernel itself, which knows the ids of
    partitions only. A serial console that the kernel is given is GRUB's console too.
    """
    words = split(boot.cmdline)
    lines = ["set default=0", f"set timeout={boot.timeout}", *_serial(words)]
    for version, initrd in versions:
        linux = (f"{folder}/vmlinuz-{version}", roots[not initrd], *words)
        lines += [
            f"menuentry 'Linux {version}' {{",
            f"\tlinux {' '.join(map(_quoted, linux))}",
            *((f"\tinitrd {_quoted(f'{folder}/initrd.img-{version}')}",) if initrd else ()),
            "}",
        ]
    return "\n".join((*lines, ""))


def split(cmdline: str) -> tuple[str, ...]:
    """Return the words of a kernel's command line, without their double quotes, in which a blank belongs to the word.

    So the kernel reads it (Linux, lib/cmdline.c, next_arg). GRUB's loader itself puts a word with blanks in quotes
    (grub-core/lib/cmdline.c), and a backslash before any quote that it is given.
    """
    words = [""]
    for index, piece in enumerate(cmdline.split('"')):
        first, *more = piece.split(" ") if index % 2 == 0 else (piece,)
        words[-1] += first
        words += more
    return tuple(word for word in words if word)


def _serial(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the lines that make GRUB use the last serial console of a command line (`console=ttyS0,115200n8`)."""
    for word in reversed(words):
        name, _, mode = word.removeprefix("console=ttyS").partition(",")
        if word.startswith("console=ttyS") and name.isdigit():
            speed = "".join(digit for digit in mode.split("n")[0] if digit.isdigit()) or "115200"
            return (
                f"if serial --unit={name} --speed={speed}; then",
                "\tterminal_input console serial",
                "\tterminal_output console serial",
                "fi",
            )
    return ()


def _quoted(word: str) -> str:
    """Return a word as GRUB's shell must read it (GRUB manual, section 6.1 Quoting)."""
    plain = all(character.isalnum() or character in "_=,.:/-+@%" for character in word)
    return word if plain else f"'{word}'"


def kernels(folder: str) -> tuple[tuple[str, bool], ...]:
    """Return the versions of the kernels `vmlinuz-*` in a folder, newest first, and whether each has an initrd.

    Raises `BuildError` for a name that GRUB's configuration or the kernel's command line cannot hold.
    """
    try:
        names = set(os.listdir(folder))
    except FileNotFoundError:
        names = set()
    found = sorted((name.removeprefix("vmlinuz-") for name in names if name.startswith("vmlinuz-")), key=_version)
    for version in found:
        if not version.isprintable() or set(version) & set(_NOT_HELD):
            name = f"vmlinuz-{version}"
            raise BuildError(f"GRUB cannot start a kernel by the name {name!r}", hint="rename it, or remove it")
    return tuple((version, f"initrd.img-{version}" in names) for version in reversed(found))


def _version(text: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that puts version numbers in their order: 6.1.0-9 before 6.1.0-10."""
    parts: list[str] = []
    for character in text:
        if parts and parts[-1][-1].isdecimal() == character.isdecimal():
            parts[-1] += character
        else:
            parts.append(character)
    return tuple((1, int(part), "") if part.isdecimal() else (0, 0, part) for part in parts)


def mkimage(boot: Boot, platform: str, reads: tuple[str, str], early: str, image: str) -> tuple[str, ...]:
    """Return the command that makes GRUB's image for a platform.

    `reads` is the partition table and the file system that its configuration lies on.
    """
    own = _MODULES_FOR.get(platform, ("fat", "all_video", "gfxterm", "font"))
    modules = dict.fromkeys((*own, *(_MODULES_OF[kind] for kind in reads), *MODULES, *boot.modules))
    where = f"{LIBRARY}/{platform}"
    return ("grub-mkimage", "-d", where, "-O", platform, "-p", "/boot/grub", "-c", early, "-o", image, *modules)


def install_bios(image: str, core: str, tmp: str) -> Job:
    """Put boot.img and a core image on a disk's image file, where its partition table says.

    grub-bios-setup looks for the disk that its folder lies on: a mountinfo of our own tells it that this is the
    image file, and `--skip-fs-probe` that it need not look there. The file is bound over this one process's.
    """
    boot, mountinfo = f"{LIBRARY}/i386-pc/boot.img", f"{tmp}/mountinfo"
    folder = os.path.dirname(core)
    with open(boot, "rb") as source, open(f"{folder}/boot.img", "wb") as copy:
        copy.write(source.read())
    with open(mountinfo, "w") as file:
        escaped = image.replace("\\", "\\134").replace(" ", "\\040")
        file.write(f"1 0 1:1 / / - fat {escaped}\n")
    setup = f"{LIBRARY}/i386-pc/grub-bios-setup"
    if not os.path.exists(setup):
        raise BuildError(f"the host has no {setup}", hint="apt-get install grub-pc-bin")
    yield Process(
        (
            *("sh", "-ec", 'mount --bind "$0" /proc/$$/mountinfo; exec "$@"', mountinfo),
            *(setup, "--device-map=/dev/null", "--skip-fs-probe", f"--directory={folder}", image),
        ),
        env={"LC_ALL": "C"},
    )
