"""ViT and DeiT in I-ViT's released format."""

from fractions import Fraction

from bitship.errors import FormatError
from bitship.graph import Graph, Quant, verify
from bitship.importers import attention, shapes
from bitship.importers.integerize import QuantizedTensor
from bitship.importers.ivit.state import Layers, State

HEAD = 64  # channels of an attention head in every ViT and DeiT


def attend(w: Layers, module: str, qkv: QuantizedTensor, heads: int, out: str) -> QuantizedTensor:
    """Self-attention of one sequence [1, N, 3 C] without bias or mask, to ``out``'s scale; [1, N, C]."""
    n, width = qkv.shape[1], qkv.shape[2] // 3
    depth = width // heads
    q, k, v = split(w, module, qkv, heads)
    turned = shapes.permute(w.g, f"{module}.k", k, (0, 1, 3, 2))
    factor = root_factor(depth)
    logits = w.g.matmul(f"{module}.matmul_1", q, turned, w.state.scale(f"{module}.qact_attn1"), factor)
    p = attention.shiftmax(w.g, attention.Probabilities(f"{module}.int_softmax", logits))
    y = w.g.matmul(f"{module}.matmul_2", p, v, w.state.scale(out))
    y = shapes.permute(w.g, f"{module}.merge", y, (0, 2, 1, 3))
    return shapes.reshape(w.g, f"{module}.merge", y, (1, n, width))


def root_factor(depth: int) -> Fraction:
    """``depth^-0.5`` as the float the release multiplies with."""
    return Fraction(float(depth) ** -0.5)


def split(w: Layers, module: str, qkv: QuantizedTensor, heads: int) -> tuple[QuantizedTensor, ...]:
    """[B, N, 3 C] to queries, keys and values [B, heads, N, C / heads]."""
    b, n, width = qkv.shape
    parts = shapes.reshape(w.g, f"{module}.qkv", qkv, (b, n, 3, heads, width // 3 // heads))
    found = []
    for i, name in enumerate(("q", "k", "v")):
        part = shapes.take(w.g, f"{module}.{name}", parts, 2, i, i + 1)
        part = shapes.reshape(w.g, f"{module}.{name}", part, (b, n, heads, width // 3 // heads))
        found.append(shapes.permute(w.g, f"{module}.{name}", part, (0, 2, 1, 3)))
    return tuple(found)


def load(state: State, name: str, image: int, heads: int | None) -> Graph:
    """Return the verified graph of a ViT or DeiT; int8 image [1, H, W, 3] in, int32 logits [1, classes] out."""
    w = Layers(state, name)
    width = int(state.array("cls_token", 1, 1, None).shape[2])
    if heads is None and width % HEAD:
        raise FormatError(f"{state.source}: width {width} is no multiple of {HEAD}; say how many heads there are")
    heads = heads or width // HEAD
    if heads < 1 or width % heads:
        raise FormatError(f"{state.source}: {heads} heads do not divide width {width}")
    embedded = state.scale("patch_embed.qact", 16)
    channels = int(state.array("patch_embed.proj.weight", None, None, None, None).shape[1])
    x = w.g.input("image", (1, channels, image, image), state.scale("qact_input"))
    x = w.patches("patch_embed.proj", x, embedded)
    token = w.constant("cls_token", embedded)
    x = shapes.concat(w.g, "tokens", (token, x), 1, embedded)
    position = w.constant("pos_embed", state.scale("qact_pos", 16))
    if position.shape != x.shape:
        raise FormatError(
            f"{state.source}: pos_embed has {position.shape[1]} tokens, images of {image} x {image} give {x.shape[1]}"
        )
    x = w.residual("embedded", x, position, state.scale("qact1", 16))
    for i in range(state.count("blocks")):
        x = block(w, f"blocks.{i}", x, heads)
    first = shapes.take(w.g, "class", x, 1, 0, 1)
    y = w.norm("norm", first, state.scale("qact2"))
    logits, q = w.head(y)
    graph = w.builder.finish([(logits, Quant(q.scale, 0))])
    verify(graph)
    return graph


def block(w: Layers, module: str, x: QuantizedTensor, heads: int) -> QuantizedTensor:
    """One pre-norm block on the int16 residual stream."""
    s = w.state
    y = w.norm(f"{module}.norm1", x, s.scale(f"{module}.qact1"))
    y = w.linear(f"{module}.attn.qkv", y, s.scale(f"{module}.attn.qact1"))
    y = attend(w, f"{module}.attn", y, heads, f"{module}.attn.qact2")
    y = w.linear(f"{module}.attn.proj", y, s.scale(f"{module}.attn.qact3", 16))
    x = w.residual(f"{module}.qact2", y, x, s.scale(f"{module}.qact2", 16))
    y = w.norm(f"{module}.norm2", x, s.scale(f"{module}.qact3"))
    return w.residual(f"{module}.qact4", w.mlp(f"{module}.mlp", y), x, s.scale(f"{module}.qact4", 16))
