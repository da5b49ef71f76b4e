"""Import of checkpoints in the format of I-ViT's release (arXiv 2207.01405): ViT, DeiT and Swin.

The file is a safetensors file of the state dictionary, names as in the release. The README beside this file lists the
defects of the release and which reading is taken.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bitship.errors import FormatError
from bitship.graph import Graph
from bitship.importers.ivit import swin, vit
from bitship.importers.ivit.state import State, read

__all__ = ["load", "load_state"]


def load(path: str | Path, image: int = 224, heads: int | None = None) -> Graph:
    """Read a checkpoint file into a verified integer graph; arguments as ``load_state``."""
    path = Path(path)
    return _load(read(path), path.stem, image, heads)


def load_state(state: Mapping[str, Any], image: int = 224, heads: int | None = None, name: str = "ivit") -> Graph:
    """Make the verified integer graph of a state dictionary (name to NumPy array or CPU torch tensor).

    image  side of the square input in pixels
    heads  attention heads of a ViT or DeiT; width / 64 when not given. A Swin's tables tell

    The input is int8 [1, image, image, 3] at the scale of ``qact_input``, the output int32 logits [1, classes].
    Raises FormatError naming a tensor that is missing or misshapen, and a scale that was never calibrated.
    """
    return _load(State(state, name), name, image, heads)


def _load(state: State, name: str, image: int, heads: int | None) -> Graph:
    if image < 1:
        raise FormatError(f"{state.source}: image side {image}; 1 or more is needed")
    if state.has("cls_token"):
        return vit.load(state, name, image, heads)
    if state.count("layers"):
        return swin.load(state, name, image)
    raise FormatError(f"{state.source}: neither 'cls_token' (ViT, DeiT) nor 'layers.0' (Swin) is in it")
