"""Targets: one folder each, described by a target.toml."""

from bitship.targets.base import (
    Application,
    ConverterName,
    Emulator,
    Memory,
    Target,
    TargetKind,
    TinyModel,
    load,
    names,
)

__all__ = [
    "Application",
    "ConverterName",
    "Emulator",
    "Memory",
    "Target",
    "TargetKind",
    "TinyModel",
    "load",
    "names",
]
