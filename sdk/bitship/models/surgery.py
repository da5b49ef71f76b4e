"""Receptive-field redistribution: smaller kernels where a network runs by patches, larger ones behind.

A patch of the first layers is computed with its halo, and the halo grows with every kernel there. Kernels made smaller
in that stage, and larger in later ones, keep the receptive field and shrink the halo (Lin et al. 2021, "MCUNetV2",
arXiv 2110.15352, section 3.2). The result has to be trained further: a smaller kernel has lost its outer taps.
"""

import copy
from collections.abc import Iterable
from typing import Any

from bitship.errors import UnsupportedError


def redistribute(module: Any, smaller: Iterable[str] = (), larger: Iterable[str] = ()) -> Any:
    """Return a copy of a torch module with convolutions changed by one tap on every side.

    smaller  dotted names of Conv2d modules that lose their outer taps: k x k to (k - 2) x (k - 2)
    larger   those that gain outer taps of zero, which changes no output: k x k to (k + 2) x (k + 2)

    Padding follows, so that outputs keep their size. Weights are kept where taps stay.
    Raises UnsupportedError for a name that is no Conv2d of the module, or a kernel too small.
    """
    made = copy.deepcopy(module)
    for names, change in ((smaller, -2), (larger, 2)):
        for name in names:
            _resize(made, name, change)
    return made


def _resize(module: Any, name: str, change: int) -> None:
    import torch

    known = {n: m for n, m in module.named_modules() if isinstance(m, torch.nn.Conv2d)}
    if name not in known:
        raise UnsupportedError(f"redistribute: '{name}' is no Conv2d of the module; there are: {', '.join(known)}")
    conv = known[name]
    kernel = tuple(k + change for k in conv.kernel_size)
    padding = tuple(p + change // 2 * d for p, d in zip(conv.padding, conv.dilation, strict=True))
    if min(kernel) < 1 or min(padding) < 0:
        raise UnsupportedError(
            f"redistribute: '{name}' has a {conv.kernel_size} kernel with padding {conv.padding}, "
            "too small to lose its outer taps; leave it out"
        )
    weight = conv.weight.data
    weight = weight[:, :, 1:-1, 1:-1].clone() if change < 0 else torch.nn.functional.pad(weight, (1, 1, 1, 1))
    conv.weight = torch.nn.Parameter(weight)
    conv.kernel_size, conv.padding = kernel, padding
