"""ExecuTorch's delegates in one table: how each is asked, what it needs, and whether it runs on this machine.

A delegate gets the float form of the graph (``floating``) with the graph's own quantization parameters. What it took
and what it left is read off the lowered program, node by node.
"""

import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from bitship.converters.executorch.floating import NAME, build_module
from bitship.converters.executorch.program import example, require
from bitship.converters.executorch.session import silent
from bitship.converters.placement import Place, Placed, Placement, placed
from bitship.errors import BitshipError, MissingDependencyError, UnsupportedError
from bitship.extras import quiet
from bitship.graph import Graph
from bitship.targets import Delegate


@dataclass(frozen=True)
class Entry:
    """One delegate.

    partitioners  makes what ``to_edge_transform_and_lower`` is given
    modules   what must be installed besides executorch; variable  an environment variable that must be set
    get       how to get what is missing
    runs      whether executorch's wheel for this machine can run it
    untested  why not, where it cannot
    program   lowers a graph for a core in a way of its own, with no partitioner
    float_borders  whether int8 must not pass between what it takes and what it leaves
    """

    partitioners: Callable[[], list[Any]]
    modules: tuple[str, ...] = ()
    variable: str = ""
    get: str = ""
    runs: bool = False
    untested: str = ""
    program: Callable[[Graph, str], "Lowered"] | None = None
    float_borders: bool = False


def _xnnpack() -> list[Any]:
    module = require("executorch.backends.xnnpack.partition.xnnpack_partitioner")
    return [module.XnnpackPartitioner()]


def _coreml() -> list[Any]:
    partition = require("executorch.backends.apple.coreml.partition")
    compiler = require("executorch.backends.apple.coreml.compiler")
    tools = require("coremltools")
    specs = compiler.CoreMLBackend.generate_compile_specs(minimum_deployment_target=tools.target.iOS17)
    # Core ML has no int8 at its borders: the casts there, and what surrounds them, stay outside.
    outside = ["dim_order_ops._to_dim_order_copy.default", "aten.permute_copy.default", "aten.clamp.default"]
    return [partition.CoreMLPartitioner(compile_specs=specs, skip_ops_for_coreml_delegation=outside)]


def _vulkan() -> list[Any]:
    module = require("executorch.backends.vulkan.partitioner.vulkan_partitioner")
    return [module.VulkanPartitioner()]


def _qnn() -> list[Any]:
    partition = require("executorch.backends.qualcomm.partition.qnn_partitioner")
    utils = require("executorch.backends.qualcomm.utils.utils")
    schema = require("executorch.backends.qualcomm.serialization.qc_schema")
    specs = utils.generate_qnn_executorch_compiler_spec(
        soc_model=schema.QcomChipset.SM8650,
        backend_options=utils.generate_htp_compiler_spec(use_fp16=False),
    )
    return [partition.QnnPartitioner(specs)]


def _openvino() -> list[Any]:
    module = require("executorch.backends.openvino.partitioner")
    backend = require("executorch.exir.backend.backend_details")
    return [module.OpenvinoPartitioner([backend.CompileSpec("device", b"CPU")])]


def _neutron() -> list[Any]:
    partition = require("executorch.backends.nxp.neutron_partitioner")
    backend = require("executorch.backends.nxp.nxp_backend")
    target = require("executorch.backends.nxp.backend.neutron_target_spec")
    specs = backend.generate_neutron_compile_spec("imxrt700")
    return [partition.NeutronPartitioner(specs, target.NeutronTargetSpec("imxrt700"))]


def _cortex_m(graph: Graph, cpu: str) -> "Lowered":
    from bitship.converters.executorch import cortex_m

    made = cortex_m.lower(graph, cpu)
    untested = DELEGATES[Delegate.CORTEX_M].untested
    return Lowered(
        made.buffer, Placement(Delegate.CORTEX_M.value, made.nodes, 1, difference=made.difference, untested=untested)
    )


DELEGATES: dict[Delegate, Entry] = {
    Delegate.XNNPACK: Entry(_xnnpack, runs=True),
    Delegate.COREML: Entry(
        _coreml,
        modules=("coremltools",),
        get="pip install coremltools==9.0",
        untested="Core ML runs on Apple's systems alone",
        float_borders=True,
    ),
    Delegate.VULKAN: Entry(_vulkan, untested="executorch's wheel has no Vulkan runtime"),
    Delegate.QNN: Entry(
        _qnn,
        variable="QNN_SDK_ROOT",
        get="Qualcomm AI Runtime from https://softwarecenter.qualcomm.com, unpacked, its folder in QNN_SDK_ROOT",
        untested="a Qualcomm NPU runs it",
    ),
    Delegate.OPENVINO: Entry(
        _openvino,
        modules=("openvino", "nncf"),
        get="pip install 'executorch[openvino]' nncf, which want openvino below 2026",
        untested="executorch's wheel loads OpenVINO below 2026 alone",
    ),
    Delegate.NEUTRON: Entry(
        _neutron,
        modules=("eiq_neutron_sdk",),
        get="pip install --index-url https://eiq.nxp.com/repository eiq-neutron-sdk",
        untested="an NXP i.MX runs it",
    ),
    Delegate.CORTEX_M: Entry(
        list,
        untested="a device built with CMSIS-NN runs it; the difference is of executorch's Python reference of its ops",
        program=_cortex_m,
    ),
}


@dataclass(frozen=True)
class Lowered:
    """A delegated program: its bytes, and where its nodes run."""

    buffer: bytes
    placement: Placement


def check(delegate: Delegate) -> Entry:
    """Return a delegate's entry; MissingDependencyError naming what is missing and how to get it."""
    entry = DELEGATES[delegate]
    for name in entry.modules:
        if importlib.util.find_spec(name) is None:
            raise MissingDependencyError(f"delegate '{delegate.value}': package '{name}' is not installed; {entry.get}")
    if entry.variable and not os.environ.get(entry.variable):
        raise MissingDependencyError(f"delegate '{delegate.value}': {entry.variable} is not set; {entry.get}")
    return entry


def lower(graph: Graph, delegate: Delegate, cpu: str = "") -> Lowered:
    """Lower the graph's float form for a delegate; ``cpu`` is the target's core.

    Raises MissingDependencyError (what to install), UnsupportedError (an op without a float form, or a delegate whose
    own lowering stopped: it raises whatever it likes on a graph it cannot take).
    """
    entry = check(delegate)
    require("torch")
    exir = require("executorch.exir")
    with quiet(), silent():  # Core ML's tools draw progress bars
        try:
            if entry.program is not None:
                return entry.program(graph, cpu)
            module = build_module(graph, entry.float_borders)
            edge = exir.to_edge_transform_and_lower(_exported(module, graph), partitioner=entry.partitioners())
            nodes, parts = _read(graph, edge.exported_program())
            buffer = bytes(edge.to_executorch().buffer)
        except BitshipError:
            raise
        except Exception as e:
            said = str(e).strip().splitlines() or [""]
            raise UnsupportedError(f"{delegate.value}'s lowering stopped: {type(e).__name__}: {said[0][:160]}") from e
    if not parts:
        raise UnsupportedError(f"{delegate.value} takes no part of this graph")
    return Lowered(buffer, Placement(delegate.value, nodes, parts, untested=entry.untested))


def _exported(module: Any, graph: Graph) -> Any:
    import torch
    from torch.fx.traceback import preserve_node_meta

    with preserve_node_meta():
        return torch.export.export(module, tuple(example(p.type) for p in graph.inputs), strict=False)


def _origin(node: Any) -> str | None:
    """Return the graph's node that a node of the program was made for."""
    name: str | None = (node.meta.get("custom") or {}).get(NAME)
    return name


# What may lie around an op without being it.
_PLUMBING = ("quantize_per", "getitem", "_to_dim_order_copy", "permute_copy", "view_copy", "clone")


def _ops(nodes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Yield (the graph's node, the op's name) of every node that computes something for one."""
    for node in nodes:
        name = _origin(node) if node.op == "call_function" else None
        if name is not None:
            yield name, str(getattr(node.target, "__name__", node.target)).removeprefix("aten.")


def _read(graph: Graph, program: Any) -> tuple[tuple[Placed, ...], int]:
    """Return where every node of the graph runs, and how many parts are delegated."""
    top = program.graph_module
    taken: set[str] = set()
    parts = 0
    for _, part in top.named_children():
        inner = getattr(part, "original_module", None)
        if inner is not None:
            parts += 1
            taken |= {name for name, _ in _ops(inner.graph_module.graph.nodes)}
    left: dict[str, list[str]] = {}
    for name, op in _ops(top.graph.nodes):
        if not any(word in op for word in _PLUMBING):
            left.setdefault(name, []).append(op)
    nodes = []
    for node in graph.nodes:
        if node.output in left:
            said = f"the delegate leaves {', '.join(dict.fromkeys(left[node.output]))}"
            nodes.append(placed(graph, node, Place.CPU, said))
        else:
            nodes.append(placed(graph, node, Place.DELEGATE if node.output in taken else Place.FOLDED))
    return tuple(nodes), parts
