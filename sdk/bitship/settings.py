"""Settings files: TOML into frozen structs; an unknown key is an error that names the nearest right one."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from bitship.errors import FormatError

T = TypeVar("T")

_UNKNOWN = re.compile(r"unknown field `([^`]*)`(?: - at `(.*)`)?")
_INVALID = re.compile(r"Invalid (?:enum )?value '([^']*)'(?: - at `(.*)`)?")
_STEP = re.compile(r"\.([\w-]+)|(\[)")


def read_toml(path: Path, kind: type[T], error: type[Exception] = FormatError) -> T:
    """Return a TOML file as ``kind``, a struct; ``error`` names the file, the key, and what is allowed."""
    try:
        data = path.read_bytes()
    except OSError as e:
        raise error(f"{path}: cannot be read: {e.strerror}") from None
    return parse_toml(data, str(path), kind, error)


def parse_toml(data: bytes, where: str, kind: type[T], error: type[Exception] = FormatError) -> T:
    """Return TOML text as ``kind``; ``error`` names ``where`` it is from, the key, and what is allowed."""
    try:
        return msgspec.toml.decode(data, type=kind)
    except msgspec.MsgspecError as e:
        raise error(f"{where}: {_explain(str(e), kind)}") from None
    except UnicodeDecodeError:
        raise error(f"{where}: is not UTF-8 text") from None


def _explain(message: str, kind: type) -> str:
    """Return msgspec's message, with the names that are allowed at its place."""
    unknown, invalid = _UNKNOWN.search(message), _INVALID.search(message)
    if unknown:
        allowed = sorted({f.encode_name for s in _structs(kind, unknown[2] or "$") for f in s.fields})
        return f"{message}; {_nearest(unknown[1], allowed)}"
    if invalid:
        place = invalid[2] or "$"
        parent, _, key = place.rpartition(".")
        tags = {str(s.tag) for s in _structs(kind, parent or "$") if s.tag_field == key}
        allowed = sorted(tags | {str(v) for t in _types(kind, place) for v in _values(t)})
        return f"{message}; {_nearest(invalid[1], allowed)}"
    return message


def _nearest(name: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(name, allowed, 1, 0.5)
    meant = f"did you mean '{near[0]}'? " if near else ""
    return f"{meant}allowed: {', '.join(allowed)}"


def _values(found: inspect.Type) -> Iterator[object]:
    if isinstance(found, inspect.EnumType):
        yield from (m.value for m in found.cls)
    elif isinstance(found, inspect.LiteralType):
        yield from found.values


def _structs(kind: type, place: str) -> list[inspect.StructType]:
    return [t for t in _types(kind, place) if isinstance(t, inspect.StructType)]


def _types(kind: type, place: str) -> list[inspect.Type]:
    """Return what may stand at a place such as ``$.device[0].console``: every member of a union."""
    found = _members(inspect.type_info(kind))
    for name, _ in _STEP.findall(place):
        inner: list[Any] = []
        for t in found:
            if name and isinstance(t, inspect.StructType):
                inner += [f.type for f in t.fields if f.encode_name == name]
            elif not name and isinstance(t, inspect.DictType):
                inner.append(t.value_type)
            elif not name and isinstance(t, inspect.CollectionType | inspect.VarTupleType):
                inner.append(t.item_type)
        found = [m for t in inner for m in _members(t)]
    return found


def _members(found: inspect.Type) -> list[inspect.Type]:
    return [m for t in found.types for m in _members(t)] if isinstance(found, inspect.UnionType) else [found]
