"""forge log: print what the last run of a target printed, whether it succeeded or not."""

import argparse
import sys

from forgefile import engine
from forgefile.errors import UsageError
from forgefile.model import Target
from forgefile.verbs import one, opened

SYNOPSIS = "log TARGET"
SUMMARY = "print what the last run of a target printed"
EXAMPLES = (("forge log rootfs", "what mmdebstrap said"),)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    parser.add_argument("word", metavar="TARGET", help="a name, or a glob that matches one")


def run(options: argparse.Namespace) -> int:
    """Print a log; return the exit status."""
    with opened(options) as project:
        _log(project, one(project, options.word))
    return 0


def _log(project: engine.Project, target: Target) -> None:
    fingerprint = project.store.records.log(target.name)
    if fingerprint is None:
        raise UsageError(
            f"target '{target.name}' never ran, or was cleaned since, so there is no log", hint=f"forge {target.name}"
        )
    try:
        with open(project.store.log_path(fingerprint), "rb") as stream:
            sys.stdout.flush()
            while chunk := stream.read(1 << 16):
                sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
    except FileNotFoundError:
        raise UsageError(f"the log of '{target.name}' is no longer there") from None
