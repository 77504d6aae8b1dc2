"""The folders of a store, relative to it.

| | |
|---|---|
| objects/DIGEST | a file output |
| layers/DIGEST | a layer: what one rule adds to a tree, as overlayfs keeps it |
| staging/FORGE/N | a job's folder, while it runs; the process that has FORGE has it locked |
| staging/shell-… | a shell's folder, locked while it is open; `uses` names the outputs that it shows |
| failed/TARGET | what a target that failed had made: `out`, `tmp`, the folder that its steps shared, and `scratch-N` |
| failed/TARGET%%PROJECT | likewise, of a project that is not the usual one, the Forgefile.py beside the store |
| stopped/TARGET, … | what such a target was to do, and at which step it failed |
| cache/NAME | what steps share to save work, never to decide a result |
| logs/FINGERPRINT | what the steps of a target printed |
| snapshots/… | what a run knew that left nothing to do |
| empty | the layer below the lowest |
| records.sqlite | records and the stat cache |
| key | what digests of secrets are made with, so that nobody else can tell a guess from a secret |
| lock | held alone by the forge that removes results, whose time it then has; shared by those that build |
| locks/PROJECT | held by the forge that builds a project; its text is new each time |
| running | its first byte is locked by each forge that has `lock`, of the others each by who builds a manifest |
| CACHEDIR.TAG | tells backup programs to leave it out (https://bford.info/cachedir) |
"""

import os

OBJECTS = "objects"
LAYERS = "layers"
STAGING = "staging"
FAILED = "failed"
STOPPED = "stopped"
CACHE = "cache"
LOGS = "logs"
SNAPSHOTS = "snapshots"
EMPTY = "empty"
RECORDS = "records.sqlite"
KEY = "key"
LOCK = "lock"
LOCKS = "locks"
RUNNING = "running"
CACHEDIR_TAG = "CACHEDIR.TAG"
NAMES = {
    OBJECTS, LAYERS, STAGING, CACHE, LOGS, EMPTY, RECORDS, f"{RECORDS}-wal", f"{RECORDS}-shm", f"{RECORDS}-journal",
    LOCK, LOCKS, RUNNING, CACHEDIR_TAG, FAILED, STOPPED, SNAPSHOTS, KEY,
}  # fmt: skip
"""All that forge puts into the folder of a store."""


def store_in(folder: str, file: str, named: str | None) -> str:
    """Return the absolute path of the store of the Forgefile at an absolute path.

    That is the one that `named` or else FORGE_STORE names, seen from `folder`, or else .forge beside the Forgefile.
    """
    beside = os.path.join(os.path.dirname(file), ".forge")
    return os.path.normpath(os.path.join(folder, named or os.environ.get("FORGE_STORE") or beside))
