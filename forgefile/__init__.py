"""Forge: make for operating system images. What a Forgefile imports beside its rules."""

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
    Source,
    Step,
    Target,
    Tree,
    Value,
    Write,
    field,
)

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
    "Source",
    "Step",
    "Target",
    "Tree",
    "Value",
    "Write",
    "field",
]
__version__ = "0.1.0"
