"""Forge: make for operating system images. What a Forgefile imports beside its rules."""

TYPE_CHECKING = False  # to import the real one takes long, and every run would
if TYPE_CHECKING:
    from forgefile.forge import Forge
    from forgefile.model import (
        Cache,
        Call,
        Copy,
        File,
        Pool,
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

__all__ = [
    "Cache",
    "Call",
    "Copy",
    "File",
    "Forge",
    "Pool",
    "Rule",
    "Run",
    "Sandbox",
    "Secret",
    "Source",
    "Step",
    "Target",
    "Tree",
    "Value",
    "Write",
    "field",
]
__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"forgefile has no '{name}'")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module("forgefile.forge" if name == "Forge" else "forgefile.model"), name)
