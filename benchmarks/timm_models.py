"""timm's architectures with seeded random weights of sane statistics, and images to calibrate and judge them with.

Nothing is downloaded. What timm draws at random is made for training, not for judging a quantizer: layer scales of 1e-6
hide every branch, batch norms without statistics let activations grow or die with depth, zero biases and unit gains
leave nothing to get wrong. ``create`` therefore redraws the weights: unit variance kept by every matrix, norms' gains
and offsets with spread, layer scales of 0.1 to 1, and batch statistics taken from one pass over images. Offsets of
batch norms are drawn around 1: with centred activations a deep random ReLU network is chaotic (noise of 1 % added to
every layer of MobileNetV2 left 4 dB of the logits, 21 dB with the offsets), which a trained one is not.
"""

import sys
from collections.abc import Sequence
from typing import Any

from bitship.extras import quiet, require

STATISTICS = 32  # images that give batch norms their statistics
_kept: list[Any] = []  # a torch Library unregisters its schemas when it is dropped


def timm() -> Any:
    """Import timm; MissingDependencyError without it.

    PyPI's torchvision brings operators built for CUDA. Beside a CPU build of torch they do not load, and its import
    stops at the first operator it describes without asking whether it exists. No timm model calls one, so then their
    schemas are declared here, without kernels.
    """
    torch = require("torch", "zoo", "timm models")
    try:
        require("torchvision", "zoo", "timm models")
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _kept.append(library)
        for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
            del sys.modules[module]
    return require("timm", "zoo", "timm models")


def images(count: int, side: int, seed: int) -> Any:
    """Return [count, 3, side, side] float32 of about zero mean and unit variance: random fields of several scales.

    Every image has its own brightness, contrast, colour and sharpness, so that activations differ between images as
    photographs make them differ.
    """
    import torch

    draw = torch.Generator().manual_seed(seed)
    total = torch.zeros(count, 3, side, side)
    for cells in (2, 4, 8, 16, side):
        field = torch.randn(count, 3, cells, cells, generator=draw)
        grown = torch.nn.functional.interpolate(field, size=(side, side), mode="bilinear", align_corners=False)
        total += grown * torch.rand(count, 1, 1, 1, generator=draw)
    contrast = 0.4 + 1.2 * torch.rand(count, 1, 1, 1, generator=draw)
    offset = 0.5 * torch.randn(count, 3, 1, 1, generator=draw)
    return total / total.std() * contrast + offset


def create(name: str, side: int, seed: int = 0, **options: Any) -> Any:
    """Return a timm model in eval mode, as the module's docstring says, for square images of ``side`` pixels."""
    library = timm()
    import torch

    torch.manual_seed(seed)
    with quiet():
        model = library.create_model(name, pretrained=False, **options)
    return redraw(model, images(STATISTICS, side, seed + 1))


def micro_mobilenetv5(side: int, seed: int = 0) -> Any:
    """Return a small MobileNetV5 of timm's parts: edge residuals, inverted bottlenecks, multi-query attention."""
    timm()
    import torch
    from timm.models._efficientnet_builder import decode_arch_def
    from timm.models.mobilenetv5 import MobileNetV5

    torch.manual_seed(seed)
    stages = [
        ["er_r1_k3_s2_e2_c24"],
        ["uir_r1_a3_k5_s2_e3_c32", "uir_r1_a5_k0_s1_e2_c32"],
        ["uir_r1_a5_k5_s2_e3_c64", "mqa_r1_k3_h4_v2_s1_d16_c64", "uir_r1_a0_k0_s1_e2_c64"],
        ["uir_r1_a5_k5_s2_e3_c96", "mqa_r1_k3_h4_s1_d16_c96", "uir_r1_a0_k0_s1_e2_c96"],
    ]
    model = MobileNetV5(
        decode_arch_def(stages),
        num_classes=100,
        num_features=128,
        msfa_output_resolution=max(side // 32, 1),
        layer_scale_init_value=1e-5,
    )
    return redraw(model, images(STATISTICS, side, seed + 1))


def redraw(model: Any, batch: Any) -> Any:
    """Redraw a model's weights in place from torch's global generator and return it in eval mode."""
    import torch

    model.eval()
    with torch.no_grad():
        norms = {id(p) for m in model.modules() if _is_norm(m) for p in m.parameters(recurse=False)}
        for module in model.modules():
            if _is_norm(module):
                _redraw_norm(module)
        for name, parameter in model.named_parameters():
            if id(parameter) not in norms and parameter.is_floating_point():
                _redraw_parameter(name, parameter)
        _batch_statistics(model, batch)
    return model


def _is_norm(module: Any) -> bool:
    return "norm" in type(module).__name__.lower() and bool(list(module.parameters(recurse=False)))


def _redraw_norm(module: Any) -> None:
    import torch

    for name, parameter in module.named_parameters(recurse=False):
        if name in ("weight", "gamma", "scale"):
            parameter.copy_((1 + 0.25 * torch.randn_like(parameter)).abs().clamp(min=0.2))
        else:
            centre = 1.0 if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) else 0.0
            parameter.copy_(centre + 0.2 * torch.randn_like(parameter))


def _redraw_parameter(name: str, parameter: Any) -> None:
    """Matrices and kernels keep variance; constants near zero are layer scales, zeros are biases and embeddings."""
    import torch

    first = float(parameter.flatten()[0])
    constant = bool((parameter == first).all())
    if constant and 0 < abs(first) <= 0.05:
        parameter.copy_(0.1 + 0.9 * torch.rand_like(parameter))
    elif constant and first == 0:
        parameter.copy_(0.1 * torch.randn_like(parameter))
    elif name.endswith("weight") and parameter.dim() >= 2:
        fan_in = parameter[0].numel()
        parameter.copy_(torch.randn_like(parameter) * (1.3 / fan_in**0.5))


def _batch_statistics(model: Any, batch: Any) -> None:
    """Fill the running statistics of batch norms from one pass, and keep channels that were silent from exploding."""
    import torch

    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in norms]
    for m in norms:
        m.train()
        m.momentum = 1.0
    model(batch)
    for m, momentum in zip(norms, momenta, strict=True):
        m.eval()
        m.momentum = momentum
        m.running_var.clamp_(min=0.05 * float(m.running_var.mean()))


def batches(count: int, side: int, seed: int) -> Sequence[Any]:
    """Return ``count`` images of batch 1."""
    return list(images(count, side, seed).split(1))
