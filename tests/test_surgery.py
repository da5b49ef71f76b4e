"""Receptive-field redistribution: what it changes in a module, and what that saves a stage run by patches."""

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import bitship  # noqa: E402 - needs torch
from bitship.errors import UnsupportedError  # noqa: E402
from bitship.graph import Graph  # noqa: E402
from bitship.models import fresh, redistribute  # noqa: E402
from bitship.passes.stage import Halo, Stage, geometry, splits  # noqa: E402

EARLY = ("blocks.0.depthwise.conv", "blocks.1.depthwise.conv")
LATE = ("blocks.5.depthwise.conv", "blocks.6.depthwise.conv")


def module() -> Any:
    torch.manual_seed(0)
    return fresh("mobilenet_micro").eval()


def test_larger_kernels_change_no_output() -> None:
    before = module()
    after = redistribute(before, larger=LATE)
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(after(x), before(x))
    assert after.blocks[5].depthwise.conv.kernel_size == (5, 5)
    assert before.blocks[5].depthwise.conv.kernel_size == (3, 3)


def test_smaller_kernels_keep_their_inner_taps() -> None:
    before = module()
    after = redistribute(before, smaller=EARLY)
    conv = after.blocks[1].depthwise.conv
    assert conv.kernel_size == (1, 1)
    assert conv.padding == (0, 0)
    torch.testing.assert_close(conv.weight, before.blocks[1].depthwise.conv.weight[:, :, 1:-1, 1:-1])
    assert after(torch.randn(1, 3, 32, 32)).shape == (1, 10)


def graph_of(m: Any) -> Graph:
    rng = np.random.default_rng(0)
    return bitship.quantize(m, [torch.from_numpy(rng.standard_normal((8, 3, 32, 32)).astype(np.float32))])


def patch_share(graph: Graph, size: int) -> float:
    """How much more a stage that ends at ``size`` x ``size`` computes by 4 x 4 patches."""
    nodes = max(n for n in splits(graph) if graph.types[graph.nodes[n - 1].output].shape[1] == size)
    g = geometry(graph, Stage(nodes, size // 4, size // 4, Halo.RECOMPUTED))
    return g.macs / sum(graph.node_macs(n) for n in g.nodes) - 1


def test_patches_recompute_less_after_it() -> None:
    before, after = graph_of(module()), graph_of(redistribute(module(), EARLY, LATE))
    assert patch_share(after, 16) < patch_share(before, 16) / 2


@pytest.mark.parametrize(
    ("smaller", "message"), [("no.such", "is no Conv2d"), ("blocks.0.expand.conv", "too small to lose its outer taps")]
)
def test_what_cannot_be_changed_is_named(smaller: str, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        redistribute(module(), smaller=[smaller])
