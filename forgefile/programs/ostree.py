"""Write a tree as one commit into an OSTree archive repository.

The tree is only read: where OSTree wants a file elsewhere, that is decided on a picture of the tree in memory, so
nothing is copied, renamed or mounted, and no privilege is needed. Each object is named by the SHA-256 of its content,
so what an earlier commit left in the cache is hard-linked and never compressed again; `ostree commit` compresses every
file before it knows its name. The formats are those of ostree's repository documentation and of the GVariant
specification. Unaware of rules and of the store.

Sources: https://ostreedev.github.io/ostree/repo/, https://ostreedev.github.io/ostree/adapting-existing/,
ostree-core.h, GLib's GVariant serialisation format, tmpfiles.d(5).
"""

import errno
import hashlib
import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping

from forgefile.errors import BuildError
from forgefile.model import Value

ZLIB = zlib.ZLIB_RUNTIME_VERSION
"""The library that decides how an object is compressed."""

_CHUNK = 1 << 20
_SMALL = 4 << 20


class Commit(Value):
    """What `commit` is told."""

    tree: str
    repository: str
    """An empty folder that becomes the repository."""
    cache: str
    """A folder that keeps objects from commit to commit; it may be missing or empty."""
    branch: str
    bind_refs: tuple[str, ...] = ()
    collection_id: str | None = None
    subject: str = ""
    body: str = ""
    metadata: Mapping[str, str] = {}
    convert: bool = True
    kernel: str | None = None
    level: int
    zlib: str
    """The version of zlib: another may compress another way, so it has objects of its own in the cache."""


class Node:
    """A file, a symbolic link, a folder or a special file, as it will be in the commit."""

    __slots__ = ("children", "data", "device", "gid", "mode", "path", "size", "uid", "xattrs")

    def __init__(self, mode: int, uid: int = 0, gid: int = 0, *, data: bytes = b"") -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.data = data
        """A link's target, or the content of a file that has no `path`."""
        self.path: bytes | None = None
        """Where a file's content is read."""
        self.size = len(data)
        self.device = 0
        self.xattrs: tuple[tuple[bytes, bytes], ...] = ()
        self.children: dict[bytes, Node] = {}

    @property
    def is_folder(self) -> bool:
        """Whether it may have children."""
        return stat.S_ISDIR(self.mode)


def commit(argument: Commit) -> None:
    """Make the repository with its one commit. Raises `BuildError` for what a commit cannot hold."""
    root = scan(os.fsencode(argument.tree), skip=_EMPTIED if argument.convert else (b"dev",))
    kernel = convert(root, argument.kernel) if argument.convert else None
    repository = _Repository(argument)
    tree, meta = repository.write_tree(root)
    metadata = {
        "ostree.ref-binding": _strings(sorted({argument.branch, *argument.bind_refs})),
        **{key: _string(value) for key, value in argument.metadata.items()},
    }
    if argument.collection_id is not None:
        metadata["ostree.collection-binding"] = _string(argument.collection_id)
    if kernel is not None:
        metadata["ostree.bootable"] = b"\x01\0b"
        metadata["ostree.linux"] = _string(kernel)
    checksum = repository.write_metadata(_commit_object(argument, metadata, tree, meta), "commit")
    repository.finish(argument, checksum.hex())
    said = f"{argument.branch} {checksum.hex()}: {repository.written} of {len(repository.names)} objects are new\n"
    os.write(1, said.encode())


# The tree as it is ---------------------------------------------------------------------------------------------------


def scan(path: bytes, skip: Iterable[bytes] = ()) -> Node:
    """Return the folder at `path` with all that it holds; of its entries named in `skip`, only the folders."""
    node = _node(path)
    for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False) and entry.name not in skip:
            node.children[entry.name] = scan(entry.path)
        elif entry.name not in skip or entry.is_dir(follow_symlinks=False):
            node.children[entry.name] = _node(entry.path)
    return node


def _node(path: bytes) -> Node:
    status = os.lstat(path)
    node = Node(status.st_mode, status.st_uid, status.st_gid)
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        value = os.getxattr(path, name, follow_symlinks=False)
        if value and name != "security.selinux":  # ostree knows no empty ones; labels are the host's, not the tree's
            node.xattrs += ((os.fsencode(name), value),)
    if stat.S_ISLNK(status.st_mode):
        node.data = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        node.path, node.size = path, status.st_size
    else:
        node.device = status.st_rdev
    return node


# The tree as OSTree wants it -----------------------------------------------------------------------------------------

_EMPTIED = (b"dev", b"proc", b"run", b"sys", b"tmp")
_TO_VAR = {b"home": b"home", b"mnt": b"mnt", b"opt": b"opt", b"root": b"roothome", b"srv": b"srv"}
_BOOT_FILES = {
    b"System.map-": b"System.map",
    b"config-": b"config",
    b"initrd.img-": b"initramfs.img",
    b"vmlinuz-": b"vmlinuz",
}
_BOOT_LINKS = (b"initrd.img", b"initrd.img.old", b"vmlinuz", b"vmlinuz.old")
_NOT_KEPT = (b"var/cache", b"var/lib/apt/lists", b"var/log", b"var/tmp")
_DPKG = b"usr/share/dpkg/database"
_TMPFILES = b"usr/lib/tmpfiles.d"
_OURS = b"usr/lib/tmpfiles.d/ostree-var.conf"
_FACTORY = b"usr/share/factory"


def convert(root: Node, kernel: str | None = None) -> str | None:
    """Change the picture of a Debian tree into what OSTree deploys, and return the version of its kernel, if any.

    Raises `BuildError` when it holds both /etc and /usr/etc, two files that would lie at one place of /var, or several
    kernels and none is chosen.
    """
    version = _move_kernel(root, kernel)
    if etc := root.children.pop(b"etc", None):
        if _find(root, b"usr/etc"):
            raise BuildError("the tree has both /etc and /usr/etc", hint="commit a tree that is not in OSTree's form")
        _place(root, b"usr/etc", etc)
    var = root.children.get(b"var") or Node(stat.S_IFDIR | 0o755)
    for name, new in _TO_VAR.items():
        _move_to_var(root, var, name, new)
    lib = var.children.get(b"lib")
    if lib and (dpkg := lib.children.get(b"dpkg")) and dpkg.is_folder:
        _place(root, _DPKG, dpkg)
        lib.children[b"dpkg"] = Node(stat.S_IFLNK | 0o777, data=b"../../" + _DPKG)
    _write_tmpfiles(root, var)
    root.children[b"var"] = _bare(var)
    for name in (*_EMPTIED, b"boot", b"sysroot"):
        root.children[name] = Node(stat.S_IFDIR | 0o755)
    for name, target in ((b"media", b"run/media"), (b"ostree", b"sysroot/ostree"), (b"tmp", b"sysroot/tmp")):
        root.children[name] = Node(stat.S_IFLNK | 0o777, data=target)
    for name in _BOOT_LINKS:
        root.children.pop(name, None)
    return version


def _move_kernel(root: Node, kernel: str | None) -> str | None:
    boot = root.children.get(b"boot") or Node(stat.S_IFDIR)
    there = sorted(os.fsdecode(name[8:]) for name in boot.children if name.startswith(b"vmlinuz-"))
    if kernel is None and len(there) > 1:
        raise BuildError(f"the tree has several kernels: {', '.join(there)}", hint=f"choose: kernel={there[-1]!r}")
    if kernel is not None and kernel not in there:
        raise BuildError(f"the tree has no /boot/vmlinuz-{kernel}", hint=f"it has: {', '.join(there) or 'none'}")
    if not there:
        return None
    version = kernel or there[0]
    for prefix, name in _BOOT_FILES.items():
        if file := boot.children.get(prefix + os.fsencode(version)):
            _place(root, b"usr/lib/modules/" + os.fsencode(version) + b"/" + name, file)
    return version


def _move_to_var(root: Node, var: Node, name: bytes, new: bytes) -> None:
    """Make a folder of the root a link to one of /var that holds what lay in either; what is no folder stays."""
    folder, there = root.children.get(name), var.children.get(new)
    if folder and not folder.is_folder:
        return
    if folder and there:
        _merge(folder, there, b"/" + name, b"/var/" + new)
    var.children[new] = folder or there or Node(stat.S_IFDIR | (0o700 if name == b"root" else 0o755))
    root.children[name] = Node(stat.S_IFLNK | 0o777, data=b"var/" + new)


def _merge(folder: Node, other: Node, path: bytes, other_path: bytes) -> None:
    """Add to a folder what another holds; folders that both have keep the owner, mode and attributes of the first."""
    if not (folder.is_folder and other.is_folder):
        raise BuildError(
            f"the tree has both {os.fsdecode(path)} and {os.fsdecode(other_path)}, which would lie at one place",
            hint="remove one of them",
        )
    for name, node in other.children.items():
        if there := folder.children.get(name):
            _merge(there, node, path + b"/" + name, other_path + b"/" + name)
        else:
            folder.children[name] = node


def _find(root: Node, path: bytes) -> Node | None:
    node: Node | None = root
    for name in path.split(b"/"):
        node = node.children.get(name) if node else None
    return node


def _place(root: Node, path: bytes, node: Node) -> None:
    *folders, last = path.split(b"/")
    for name in folders:
        root = root.children.setdefault(name, Node(stat.S_IFDIR | 0o755))
    root.children[last] = node


def _bare(folder: Node) -> Node:
    """Return a folder's owner, mode and attributes without what it holds."""
    bare = Node(folder.mode, folder.uid, folder.gid)
    bare.xattrs = folder.xattrs
    return bare


def _write_tmpfiles(root: Node, var: Node) -> None:
    """Have systemd-tmpfiles make at boot what /var held; the content of its files goes to /usr/share/factory."""
    declared = _declared(root)
    old = _find(root, _OURS)
    lines = _read(old).splitlines() if old else ["# What /var held when this was built; made where it is missing."]
    if b"run/media" not in declared:
        lines.append("d /run/media 0755 0 0 -")
    for path, node in _entries(b"var", var):
        kept = not any(path.startswith(folder + b"/") for folder in _NOT_KEPT)
        if stat.S_ISREG(node.mode) and kept:
            parts = path.split(b"/")
            for depth in range(1, len(parts)):
                folder = b"/".join(parts[:depth])
                if not _find(root, _FACTORY + b"/" + folder):
                    _place(root, _FACTORY + b"/" + folder, _bare(_find_var(var, parts[1:depth])))
            _place(root, _FACTORY + b"/" + path, node)
        if path not in declared and (kept or node.is_folder) and (line := _line(path, node)):
            lines.append(line)
    text = "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")
    _place(root, _OURS, Node(stat.S_IFREG | 0o644, data=text))


def _find_var(var: Node, names: list[bytes]) -> Node:
    for name in names:
        var = var.children[name]
    return var


def _entries(path: bytes, folder: Node) -> Iterator[tuple[bytes, Node]]:
    for name in sorted(folder.children):
        yield path + b"/" + name, folder.children[name]
        yield from _entries(path + b"/" + name, folder.children[name])


def _declared(root: Node) -> set[bytes]:
    """Return the paths, without the first slash, that the tree's own tmpfiles.d files make."""
    paths: set[bytes] = set()
    folder = _find(root, _TMPFILES)
    for node in folder.children.values() if folder else ():
        for words in map(str.split, _read(node).splitlines()):
            if len(words) > 1 and words[0][0] in "dDvqQLCfFpcb" and words[1].startswith("/"):
                paths.add(os.fsencode(words[1].strip("/")))
    return paths


def _read(node: Node) -> str:
    if node.path is None:
        return ""
    with open(node.path, encoding="utf-8", errors="surrogateescape") as file:
        return file.read()


def _line(path: bytes, node: Node) -> str | None:  # noqa: PLR0911  one return for each type
    """Return the line of tmpfiles.d(5) that makes a node; None for a socket, which is nothing without its server."""
    device = f"{os.major(node.device)}:{os.minor(node.device)}"
    owned = f"{_quoted(path)} {stat.S_IMODE(node.mode):04o} {node.uid} {node.gid} -"
    match stat.S_IFMT(node.mode):
        case stat.S_IFDIR:
            return f"d {owned}"
        case stat.S_IFREG:
            return f"C {owned}"  # from the same path below /usr/share/factory
        case stat.S_IFLNK:
            return f"L {_quoted(path)} - - - - {os.fsdecode(node.data).replace('%', '%%')}"
        case stat.S_IFIFO:
            return f"p {owned}"
        case stat.S_IFCHR:
            return f"c {owned} {device}"
        case stat.S_IFBLK:
            return f"b {owned} {device}"
    return None


def _quoted(path: bytes) -> str:
    """Return a path as tmpfiles.d reads it: specifiers doubled; in quotes, with escapes, where it needs them."""
    text = "/" + os.fsdecode(path).replace("%", "%%")
    if text.isprintable() and not any(letter in text for letter in " \"'\\"):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(f"\\x{ord(letter):02x}" if letter < " " else letter for letter in escaped) + '"'


# GVariant ------------------------------------------------------------------------------------------------------------


def _framed(body: bytes, ends: Iterable[int]) -> bytes:
    """Return a container's body with the ends of its items, in the smallest integers that can count the whole."""
    ends = tuple(ends)
    for width, letter in ((1, "B"), (2, "H"), (4, "I")):
        if len(body) + width * len(ends) < 1 << (8 * width):
            return body + struct.pack(f"<{len(ends)}{letter}", *ends)
    raise BuildError("the tree has a folder with too many entries for OSTree")


def _padded(body: bytes, alignment: int) -> bytes:
    return body + bytes(-len(body) % alignment)


def _tuple(*items: tuple[bytes, int, bool]) -> bytes:
    """Return a tuple of (bytes, alignment, whether its type has a fixed size) items."""
    body, ends = b"", []
    for data, alignment, fixed in items:
        body = _padded(body, alignment) + data
        if not fixed:
            ends.append(len(body))
    if not items[-1][2]:
        ends.pop()
    return _framed(body, reversed(ends))


def _array(items: Iterable[bytes], alignment: int = 1) -> bytes:
    """Return an array of items whose type has no fixed size."""
    body, ends = bytearray(), []
    for item in items:
        body += bytes(-len(body) % alignment) + item
        ends.append(len(body))
    return _framed(bytes(body), ends)


def _bytes(data: bytes) -> tuple[bytes, int, bool]:
    return data, 1, False


def _text(text: bytes) -> tuple[bytes, int, bool]:
    return text + b"\0", 1, False


def _fixed(data: bytes) -> tuple[bytes, int, bool]:
    return data, len(data), True


def _u32(number: int) -> tuple[bytes, int, bool]:
    return _fixed(struct.pack(">I", number))


def _u64(number: int) -> tuple[bytes, int, bool]:
    return _fixed(struct.pack(">Q", number))


def _string(text: str) -> bytes:
    return text.encode() + b"\0\0s"


def _strings(texts: Iterable[str]) -> bytes:
    return _array(text.encode() + b"\0" for text in texts) + b"\0as"


def _xattrs(node: Node) -> tuple[bytes, int, bool]:
    return _bytes(_array(_tuple(_bytes(name + b"\0"), _bytes(value)) for name, value in node.xattrs))


def _owner(node: Node) -> tuple[tuple[bytes, int, bool], ...]:
    return _u32(node.uid), _u32(node.gid), _u32(node.mode)


def _file_header(node: Node, *first: tuple[bytes, int, bool]) -> bytes:
    """Return the head of a file's content stream: its length, padded, and (…, uid, gid, mode, device, link, xattrs)."""
    link = node.data if stat.S_ISLNK(node.mode) else b""
    header = _tuple(*first, *_owner(node), _u32(0), _text(link), _xattrs(node))
    return struct.pack(">II", len(header), 0) + header


def _folder_meta(node: Node) -> bytes:
    return _tuple(*_owner(node), _xattrs(node))


def _folder_tree(files: Mapping[bytes, bytes], folders: Mapping[bytes, tuple[bytes, bytes]]) -> bytes:
    return _tuple(
        _bytes(_array(_tuple(_text(name), _bytes(files[name])) for name in sorted(files))),
        _bytes(_array(_tuple(_text(name), *map(_bytes, folders[name])) for name in sorted(folders))),
    )


def _commit_object(argument: Commit, metadata: Mapping[str, bytes], tree: bytes, meta: bytes) -> bytes:
    entries = (_tuple(_text(key.encode()), (metadata[key], 8, False)) for key in sorted(metadata))
    return _tuple(
        (_array(entries, 8), 8, False),
        _bytes(b""),
        _bytes(b""),
        _text(argument.subject.encode()),
        _text(argument.body.encode()),
        _u64(int(os.environ["SOURCE_DATE_EPOCH"])),
        _bytes(tree),
        _bytes(meta),
    )


# The repository ------------------------------------------------------------------------------------------------------


class _Repository:
    """An archive repository that is being written, beside the cache of objects."""

    def __init__(self, argument: Commit) -> None:
        self.level = argument.level
        self.objects = os.path.join(argument.repository, "objects")
        self.cache = os.path.join(argument.cache, f"{argument.zlib}-{argument.level}")
        self.names: set[str] = set()
        self.written = 0
        self.lock = threading.Lock()
        for folder in ("extensions", "objects", "refs/heads", "refs/mirrors", "refs/remotes", "state", "tmp/cache"):
            os.makedirs(os.path.join(argument.repository, folder), 0o755, exist_ok=True)
        os.makedirs(self.cache, 0o755, exist_ok=True)

    def write_tree(self, root: Node) -> tuple[bytes, bytes]:
        """Write all that a folder holds and return the checksums of its content and of itself."""
        files: list[tuple[bytes, Node]] = []
        for path, node in _entries(b"", root):
            if stat.S_IFMT(node.mode) not in (stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR):
                shown = os.fsdecode(path)
                raise BuildError(f"{shown}: OSTree holds files, folders and symbolic links only", hint="remove it")
            _check_text(path, path)
            if stat.S_ISLNK(node.mode):
                _check_text(path, node.data)
            if not node.is_folder:
                files.append((path, node))
        files.sort(key=lambda item: -item[1].size)
        return self._write_folder(b"", root, self._write_files(files))

    def _write_folder(self, path: bytes, folder: Node, checksums: Mapping[bytes, bytes]) -> tuple[bytes, bytes]:
        files: dict[bytes, bytes] = {}
        folders: dict[bytes, tuple[bytes, bytes]] = {}
        for name, node in folder.children.items():
            below = path + b"/" + name
            if node.is_folder:
                folders[name] = self._write_folder(below, node, checksums)
            else:
                files[name] = checksums[below]
        tree = self.write_metadata(_folder_tree(files, folders), "dirtree")
        return tree, self.write_metadata(_folder_meta(folder), "dirmeta")

    def write_metadata(self, data: bytes, kind: str) -> bytes:
        """Write an object that is not a file and return its checksum."""
        checksum = hashlib.sha256(data).digest()
        name = self._claim(checksum, kind)
        if name and not self._restore(name):
            self._write(name, (data,))
        return checksum

    def _write_files(self, files: list[tuple[bytes, Node]]) -> dict[bytes, bytes]:
        """Write the objects of all files, on all cores, and return their checksums by path."""
        checksums: dict[bytes, bytes] = {}
        failures: list[BaseException] = []
        todo = iter(files)

        def work() -> None:
            try:
                for path, node in todo:
                    checksums[path] = self._write_file(path, node)
                    if failures:
                        return
            except BaseException as error:  # noqa: BLE001  raised again where the threads were started
                failures.append(error)

        workers = [threading.Thread(target=work) for _ in os.sched_getaffinity(0)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        for failure in failures:
            raise failure
        return checksums

    def _write_file(self, path: bytes, node: Node) -> bytes:
        content: Iterable[bytes] = (node.data,) if stat.S_ISREG(node.mode) else ()
        if node.path is not None and node.size <= _SMALL:
            with open(node.path, "rb", buffering=0) as file:
                content = (file.read(node.size + 1),)
        elif node.path is not None:
            content = _Chunks(node.path)
        digest, size = hashlib.sha256(_file_header(node)), 0
        for chunk in content:
            digest.update(chunk)
            size += len(chunk)
        if size != (node.size if stat.S_ISREG(node.mode) else 0):
            raise BuildError(f"{os.fsdecode(path)} changed while it was read")
        checksum = digest.digest()
        name = self._claim(checksum, "filez")
        if name and not self._restore(name):
            self._write(name, self._compressed(_file_header(node, _u64(size)), content, stat.S_ISREG(node.mode)))
        return checksum

    def _compressed(self, header: bytes, content: Iterable[bytes], regular: bool) -> Iterator[bytes]:
        yield header
        if regular:
            compressor = zlib.compressobj(self.level, zlib.DEFLATED, -zlib.MAX_WBITS)
            for chunk in content:
                yield compressor.compress(chunk)
            yield compressor.flush()

    def _claim(self, checksum: bytes, kind: str) -> str | None:
        """Return the path of an object below `objects`, or None when it is being written already."""
        text = checksum.hex()
        name = f"{text[:2]}/{text[2:]}.{kind}"
        with self.lock:
            if name in self.names:
                return None
            self.names.add(name)
            os.makedirs(os.path.join(self.objects, text[:2]), 0o755, exist_ok=True)
        return name

    def _restore(self, name: str) -> bool:
        """Link an object from the cache, if it is there."""
        cached, made = os.path.join(self.cache, name), os.path.join(self.objects, name)
        try:
            os.link(cached, made)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM):
                raise
            with open(cached, "rb") as file:
                _write_file(made, (file.read(),))
        return True

    def _write(self, name: str, chunks: Iterable[bytes]) -> None:
        """Write an object and keep it in the cache."""
        made, cached = os.path.join(self.objects, name), os.path.join(self.cache, name)
        _write_file(made, chunks)
        with self.lock:
            self.written += 1
            os.makedirs(os.path.dirname(cached), 0o755, exist_ok=True)
        try:
            os.link(made, cached)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EMLINK, errno.EPERM):
                raise

    def finish(self, argument: Commit, checksum: str) -> None:
        """Write the configuration and the ref, which make the folder a repository."""
        config = "[core]\nrepo_version=1\nmode=archive-z2\n"
        if argument.collection_id is not None:
            config += f"collection-id={argument.collection_id}\n"
        ref = os.path.join(argument.repository, "refs/heads", argument.branch)
        os.makedirs(os.path.dirname(ref), 0o755, exist_ok=True)
        _write_file(ref, (f"{checksum}\n".encode(),))
        _write_file(os.path.join(argument.repository, "config"), (config.encode(),))


class _Chunks:
    """The content of a big file; can be gone through more than once."""

    def __init__(self, path: bytes) -> None:
        self.path = path

    def __iter__(self) -> Iterator[bytes]:
        with open(self.path, "rb", buffering=0) as file:
            while chunk := file.read(_CHUNK):
                yield chunk


def _write_file(path: str, chunks: Iterable[bytes]) -> None:
    """Write a file of mode 0644 whose times tell nothing: a cached object is shared by commits of any date."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    with open(descriptor, "wb", buffering=_CHUNK) as file:
        file.writelines(chunks)
        file.flush()
        os.fchmod(descriptor, 0o644)
        os.utime(descriptor, (0, 0))


def _check_text(path: bytes, text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise BuildError(f"{path!r}: OSTree holds names and links in UTF-8 only", hint="rename it") from None
