"""Targets: one folder each, described by a target.toml."""

from bitship.targets.base import (
    Application,
    ConverterName,
    Delegate,
    Emulator,
    Memory,
    Npu,
    Target,
    TargetKind,
    TinyModel,
    load,
    names,
)

__all__ = [
    "Application",
    "ConverterName",
    "Delegate",
    "Emulator",
    "Memory",
    "Npu",
    "Target",
    "TargetKind",
    "TinyModel",
    "load",
    "names",
]
