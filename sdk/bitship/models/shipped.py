"""The models bitship ships: one explicit table, float weights as safetensors, integer graphs as .bitship files."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bitship.errors import FormatError
from bitship.extras import require
from bitship.graph import Graph, store
from bitship.models.untrained import UNTRAINED

CHECKPOINTS = Path(__file__).parent / "checkpoints"
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def _vit_micro() -> Any:
    from bitship.models.vit import VitConfig, vit

    return vit(VitConfig())


def _mobilenet_micro() -> Any:
    from bitship.models.mobilenet import MobileNetConfig, mobilenet

    return mobilenet(MobileNetConfig())


@dataclass(frozen=True)
class ShippedModel:
    """One architecture with trained weights.

    factory      returns the torch module with fresh random weights
    weights      file of the trained float weights, in the folder ``checkpoints``
    graphs       name ``load`` takes -> file of the integer graph, in the same folder
    input_shape  [C, H, W] of one image
    offset       a pixel in [0, 255] enters the network as ``(pixel - offset) / divisor``: the int8 code of a pixel
    divisor      is then ``pixel - 128`` exactly, since min-max calibration finds scale 1 / 64 and zero point 0
    labels       one per logit
    """

    factory: Callable[[], Any]
    weights: str
    graphs: dict[str, str]
    input_shape: tuple[int, int, int] = (3, 32, 32)
    offset: float = 128.0
    divisor: float = 64.0
    labels: tuple[str, ...] = CIFAR10

    def normalise(self, pixels: Any) -> Any:
        """Return what the network takes for pixels in [0, 255], floats of torch or NumPy, of any shape."""
        return (pixels - self.offset) / self.divisor


MODELS: dict[str, ShippedModel] = {
    "vit_micro": ShippedModel(
        _vit_micro,
        "vit_micro.safetensors",
        {name: f"{name}.bitship" for name in ("vit_micro", "vit_micro-ivit", "vit_micro-w4a8")},
    ),
    "mobilenet_micro": ShippedModel(
        _mobilenet_micro, "mobilenet_micro.safetensors", {"mobilenet_micro": "mobilenet_micro.bitship"}
    ),
}


def graph_names() -> list[str]:
    """Return every name ``load_graph`` takes."""
    return [name for shipped in MODELS.values() for name in shipped.graphs]


def _choices(name: str, allowed: list[str]) -> str:
    near = difflib.get_close_matches(name, allowed, 1)
    return f"{', '.join(allowed) or 'none'} are shipped" + (f"; did you mean {near[0]}?" if near else "")


def shipped(name: str) -> ShippedModel:
    """Return the table's entry; FormatError lists the names there are."""
    if name not in MODELS:
        raise FormatError(f"model '{name}': {_choices(name, list(MODELS))}")
    return MODELS[name]


def fresh(name: str) -> Any:
    """Return a shipped model's torch module with random weights; MissingDependencyError without torch."""
    entry = shipped(name)
    require("torch", "torch", f"model '{name}'")
    return entry.factory()


def load_module(name: str, weights: Path | None = None) -> Any:
    """Return a shipped model's torch module in eval mode with its trained weights, or with those of another file."""
    entry, module = shipped(name), fresh(name)
    load_weights(module, weights or CHECKPOINTS / entry.weights)
    return module.eval()


def load_graph(name: str) -> Graph:
    """Return a shipped integer graph, or an untrained one by its name; FormatError lists the names there are."""
    if name in UNTRAINED:
        return UNTRAINED[name]()
    files = {n: file for entry in MODELS.values() for n, file in entry.graphs.items()}
    if name not in files:
        raise FormatError(f"{name}: neither a file nor a shipped model: {_choices(name, [*files, *UNTRAINED])}")
    return store.load(CHECKPOINTS / files[name])


def load_weights(module: Any, path: Path) -> None:
    """Fill a torch module's parameters and buffers from a safetensors file of float16 or float32.

    Raises FormatError when the file is damaged, or its tensors are not the module's in name, shape and dtype.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors import numpy as st

    try:
        found = st.load(path.read_bytes())
    except OSError as e:
        raise FormatError(f"{path}: cannot be read: {e.strerror}") from None
    except (SafetensorError, ValueError, KeyError, TypeError) as e:
        raise FormatError(f"{path}: not a readable safetensors file: {e}") from None
    state = module.state_dict()
    missing, odd = sorted(set(state) - set(found)), sorted(set(found) - set(state))
    if missing or odd:
        first = f"'{missing[0]}' is missing" if missing else f"'{odd[0]}' is not the model's"
        raise FormatError(f"{path}: {len(missing)} tensors missing, {len(odd)} unknown; {first}")
    for name, value in state.items():
        array = found[name]
        exact = not value.is_floating_point()
        allowed = (np.int64,) if exact else (np.float16, np.float32)
        if array.shape != tuple(value.shape) or array.dtype not in allowed:
            raise FormatError(
                f"{path}: tensor '{name}' is {array.dtype}{list(array.shape)}; "
                f"{' or '.join(np.dtype(d).name for d in allowed)} of {list(value.shape)} is needed"
            )
        if not exact and not np.isfinite(array).all():
            raise FormatError(f"{path}: tensor '{name}' holds values that are not finite")
    module.load_state_dict({k: torch.from_numpy(v.copy()).to(state[k].dtype) for k, v in found.items()})


def save_weights(state: dict[str, Any], path: Path) -> None:
    """Write a torch state dict as safetensors, under a temporary name first."""
    from safetensors import numpy as st

    store.write_atomic(path, st.save({k: v.detach().cpu().contiguous().numpy() for k, v in state.items()}))
