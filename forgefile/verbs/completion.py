"""forge completion: print a script that teaches a shell to complete forge's command line.

It completes verbs, options, targets, and with `-D` the options of the Forgefile and their values. What the Forgefile
declares is kept in the store, so that it is not evaluated again while it is as it was.
"""

import argparse
import os

from forgefile.verbs import say

SYNOPSIS = "completion SHELL"
SUMMARY = "print a script that completes forge's command line"
EXAMPLES = (("source <(forge completion bash)", "in ~/.bashrc"),
            ("source <(forge completion zsh)", "in ~/.zshrc, after compinit"),
            ("forge completion fish | source", "in ~/.config/fish/config.fish"))  # fmt: skip

_SCRIPTS = {"bash": "forge.bash", "zsh": "_forge", "fish": "forge.fish"}


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's own arguments to its parser."""
    parser.add_argument("shell", choices=_SCRIPTS, metavar="SHELL", help="bash, zsh or fish")


def run(options: argparse.Namespace) -> int:
    """Print the script; return the exit status."""
    folder = os.path.join(os.path.dirname(os.path.dirname(__file__)), "completions")
    with open(os.path.join(folder, _SCRIPTS[options.shell]), encoding="utf-8") as stream:
        say(stream.read().rstrip("\n"))
    return 0
