"""The depthwise encoder and the backbone as torch modules: shapes, causality, and that the encoder becomes integers."""

import numpy as np
import pytest
from needs import skip_without_kernels

from bitship import quantize
from bitship.errors import UnsupportedError
from bitship.graph import spec
from bitship.graph.ops import RmsNorm, SoftmaxMatMul
from bitship.models.npu import BackboneConfig, EncoderConfig, LayerKind

torch = pytest.importorskip("torch")
skip_without_kernels()

SMALL = EncoderConfig(image=16, stem=8, fine=(8, 1), coarse=(16, 1), attention=1, heads=2, head_dim=8, tokens=12)


def test_the_encoder_gives_a_grid_of_tokens_and_becomes_integers() -> None:
    from bitship.models.npu.encoder import DepthwiseEncoder

    torch.manual_seed(0)
    module = DepthwiseEncoder(SMALL).eval()
    images = torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        wanted = module(images)
    assert wanted.shape == (8, 12, 4, 4)
    graph = quantize(module, [images], "int8")
    kinds = [type(n.op) for n in graph.nodes]
    assert kinds.count(SoftmaxMatMul) == 1
    assert kinds.count(RmsNorm) > 8
    given, out = graph.inputs[0].quant, graph.outputs[0].quant
    assert given is not None
    assert out is not None
    x = np.clip(np.rint(images[:1].numpy() / given.scale) + given.zero_point, -128, 127).astype(np.int8)
    (found,) = graph.run(x.transpose(0, 2, 3, 1).copy())
    np.testing.assert_array_equal(found, spec.run(graph, x.transpose(0, 2, 3, 1).copy())[0])
    real = (found.astype(float) - out.zero_point) * out.scale
    target = wanted[:1].numpy().transpose(0, 2, 3, 1)
    assert np.sqrt(((real - target) ** 2).mean() / (target**2).mean()) < 0.1


def test_one_key_and_value_serve_all_heads() -> None:
    from bitship.models.npu.encoder import MultiQueryAttention

    torch.manual_seed(0)
    part = MultiQueryAttention(6, 2, 4).eval()
    x = torch.randn(1, 6, 3, 3)
    with torch.no_grad():
        y = part.norm(x)
        q = part.query(y).reshape(2, 4, 9).transpose(1, 2)
        k, v = (f(y).reshape(4, 9).T for f in (part.key, part.value))
        heads = [torch.softmax(q[i] @ k.T / 2, -1) @ v for i in range(2)]
        wanted = x + part.proj(torch.cat(heads, 1).T.reshape(1, 8, 3, 3))
        torch.testing.assert_close(part(x), wanted)


def test_the_backbone_reads_no_later_token_and_nothing_beyond_its_window() -> None:
    from bitship.models.npu.backbone import Backbone

    config = BackboneConfig(vocabulary=50, dim=16, layers="A", hidden=16, heads=4, kv_heads=2, window=3)
    module = Backbone(config).eval()
    tokens = torch.arange(10)
    later, older = tokens.clone(), tokens.clone()
    later[-1], older[0] = 40, 41
    with torch.no_grad():
        whole = module(tokens)
        torch.testing.assert_close(module(later)[:-1], whole[:-1])
        assert not torch.allclose(module(older)[2], whole[2])
        torch.testing.assert_close(module(older)[3:], whole[3:])


def test_a_short_convolution_reads_three_tokens() -> None:
    from bitship.models.npu.backbone import Backbone

    config = BackboneConfig(vocabulary=50, dim=16, layers="c", hidden=16, heads=4, kv_heads=2)
    assert config.kinds == (LayerKind.CONV,)
    module = Backbone(config).eval()
    tokens = torch.arange(8)
    changed = tokens.clone()
    changed[2] = 30
    with torch.no_grad():
        off = (module(changed) - module(tokens)).abs().sum(1) > 1e-6
    assert off.tolist() == [False, False, True, True, True, False, False, False]


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="vision encoder"):
        EncoderConfig(image=30)
    with pytest.raises(UnsupportedError, match="vision encoder"):
        EncoderConfig(heads=0)
