"""Read a .pt2 file of a program that PT2E has already quantized, without running anything the file brings along.

``torch.export.load`` unpickles sample inputs, pickled weights and custom objects, and evaluates symbolic sizes. So the
archive is checked first and written anew in memory with what a static program needs alone: its JSON and raw weights.
"""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from bitship.errors import BitshipError, FormatError, UnsupportedError
from bitship.extras import quiet
from bitship.graph import Graph
from bitship.quantization.packages import require

MAX_BYTES = 1 << 31
_MODEL = "models/model.json"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_SAMPLE = "data/sample_inputs/model.pt"
_PLAIN = re.compile(r"(archive_format|archive_version|byteorder|\.data/(version|serialization_id))")
_PAYLOAD = re.compile(r"data/(weights/weight_\d+|constants/tensor_\d+)")
_TARGET = re.compile(r"torch\.ops\.(aten|quantized_decomposed)\.[A-Za-z0-9_.]+")
_CONTAINERS = {"builtins.tuple", "builtins.list", "builtins.dict", None}
_DANGEROUS_KEYS = {"as_expr", "expr_str", "as_custom_obj", "as_graph", "as_operator", "as_opaque_obj"}


def load_pt2(path: str | Path) -> Graph:
    """Read a PT2E-quantized program saved by ``torch.export.save`` into a verified integer graph.

    Raises FormatError for a damaged file, UnsupportedError for dynamic shapes, pickled or custom content,
    QuantizationError naming what stays in float, MissingDependencyError without torch and torchao.
    """
    path = Path(path)
    torch = require("torch")
    require("torchao.quantization.pt2e.quantize_pt2e")
    require("torch.ao.quantization.fx._decomposed")
    safe = rebuild(path)
    from bitship.quantization.capture import normalise
    from bitship.quantization.pairs import PairWalk

    with quiet():
        try:
            module = torch.export.load(safe).module(check_guards=False)
        except Exception as e:
            raise FormatError(f"{path}: torch.export cannot read it ({type(e).__name__})") from None
        try:
            return PairWalk(normalise(module), path.stem).run()
        except BitshipError as e:
            raise type(e)(f"{path}: {e}") from None
        except Exception as e:
            raise FormatError(
                f"{path}: damaged program ({type(e).__name__}: {' '.join(str(e).split())[:160]})"
            ) from None


def rebuild(path: Path) -> io.BytesIO:
    """Return the archive with its checked JSON and raw tensors, and nothing that would be unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, path)
    except OSError as e:
        raise FormatError(f"{path}: {e.strerror or e}") from None
    except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, EOFError, ValueError, RuntimeError) as e:
        raise FormatError(f"{path}: not a .pt2 archive ({e})") from None
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w", zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)
        archive.writestr(f"archive/{_SAMPLE}", b"")
    result.seek(0)
    return result


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, bytes]:
    infos = archive.infolist()
    if sum(i.file_size for i in infos) >= MAX_BYTES:
        raise FormatError(f"{path}: unpacks to 2 GiB or more")
    found: dict[str, bytes] = {}
    for info in infos:
        name = info.filename.partition("/")[2]
        if name in (_MODEL, *_CONFIGS) or _PLAIN.fullmatch(name) or _PAYLOAD.fullmatch(name):
            if name in found:
                raise FormatError(f"{path}: '{name}' is there twice")
            found[name] = archive.read(info)
        elif name != _SAMPLE and not name.startswith("extra/"):
            raise UnsupportedError(f"{path}: it holds '{info.filename[:80]}'; a plain torch.export.save file is needed")
    for name in (_MODEL, *_CONFIGS):
        if name not in found:
            raise FormatError(f"{path}: no '{name}' in it; a torch.export.save file of torch 2.9 or later is needed")
    for name in _CONFIGS:
        _check_config(_json(found[name], path), path)
    _check(_json(found[_MODEL], path), path)
    return found


def _json(data: bytes, path: Path) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as e:
        raise FormatError(f"{path}: damaged JSON ({type(e).__name__})") from None


def _check_config(config: Any, path: Path) -> None:
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise FormatError(f"{path}: damaged table of tensors")
    for name, entry in entries.items():
        if not isinstance(entry, dict) or entry.get("use_pickle") is not False:
            raise UnsupportedError(f"{path}: tensor '{name[:80]}' is pickled; only raw tensors are read")
        if not _PAYLOAD.fullmatch(f"data/weights/{entry.get('path_name')}") and not _PAYLOAD.fullmatch(
            f"data/constants/{entry.get('path_name')}"
        ):
            raise UnsupportedError(f"{path}: '{name[:80]}' is no raw tensor")


def _check(program: Any, path: Path) -> None:
    """Refuse symbolic sizes, custom objects, foreign operators and containers anywhere in the program's JSON."""
    stack = [program]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            odd = _DANGEROUS_KEYS.intersection(k for k, v in item.items() if v is not None)
            if odd:
                raise UnsupportedError(f"{path}: it has dynamic shapes, subgraphs or custom objects ({min(odd)})")
            target = item.get("target")
            if "inputs" in item and isinstance(target, str) and not _TARGET.fullmatch(target):
                raise UnsupportedError(f"{path}: operator '{target[:80]}'; aten and quantized_decomposed are allowed")
            stack.extend(item.values())
        elif isinstance(item, str) and item.startswith("[") and '"type"' in item:
            _check_spec(_json(item.encode(), path), path)


def _check_spec(spec: Any, path: Path) -> None:
    stack = [spec]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            if item.get("type") not in _CONTAINERS:
                raise UnsupportedError(
                    f"{path}: container '{str(item.get('type'))[:80]}'; tuple, list, dict are allowed"
                )
            stack.extend(item.values())
