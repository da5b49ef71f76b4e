"""Targets: one folder each, described by a target.toml."""

from bitship.targets.base import ConverterName, Emulator, Memory, Target, TargetKind, load, names

__all__ = ["ConverterName", "Emulator", "Memory", "Target", "TargetKind", "load", "names"]
