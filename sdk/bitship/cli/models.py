"""Commands on models: quantize, inspect; and how MODEL on the command line is read."""

from pathlib import Path
from typing import Annotated, Any

import typer

from bitship.cli.output import console, emit_json, short, table, working
from bitship.errors import FormatError, QuantizationError
from bitship.graph import Graph
from bitship.quantization.recipe import RECIPES

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A .tflite, .onnx, .pt2 or .bitship file, the name of a shipped model such as vit_micro, or "
        "package.module:factory that returns a torch module, (module, calibration batches), or a Graph.",
    ),
]
Calibration = Annotated[
    Path | None,
    typer.Option(help="An .npz whose arrays hold the module's inputs, samples along the first axis."),
]
Outputs = Annotated[
    list[str] | None, typer.Option("--output", help="Cut a .tflite or .onnx model at this tensor; may be repeated.")
]
RecipeName = Annotated[str, typer.Option("--recipe", help=f"How a torch module is quantized: {', '.join(RECIPES)}.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]


def read_model(
    model: str, calibration: Path | None = None, outputs: list[str] | None = None, recipe: str = "int8"
) -> Graph:
    """Return the graph MODEL names: a file, or what a factory gives, quantized when it is a module."""
    from bitship.loading import load

    if ":" not in model or Path(model).exists():
        if calibration is not None:
            raise FormatError(f"{model}: --calibration is for package.module:factory; a file is quantized already")
        return load(model, outputs or ())
    made = _call_factory(model)
    if isinstance(made, Graph):
        return made
    from bitship.quantization import quantize as run

    return run(*_module(model, made, calibration), recipe)


def _module(model: str, made: Any, calibration: Path | None) -> tuple[Any, Any]:
    """Return (module, calibration batches) of what a factory gave."""
    module, batches = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if calibration is not None:
        batches = _read_calibration(calibration)
    if batches is None:
        raise QuantizationError(
            f"{model}: calibration is missing; return (module, batches) from the factory or give --calibration FILE.npz"
        )
    return module, batches


def _call_factory(model: str) -> Any:
    import importlib
    import sys

    name, _, attribute = model.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(name)
    except ImportError as e:
        raise FormatError(f"{model}: module '{name}' cannot be imported: {e}") from None
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise FormatError(f"{model}: module '{name}' has no callable '{attribute}'")
    return factory()


def _read_calibration(path: Path) -> list[Any]:
    from bitship.arrays import load_npz
    from bitship.extras import require

    torch = require("torch", "torch", "--calibration")
    try:
        arrays = list(load_npz(path).values())
    except (OSError, ValueError, KeyError) as e:
        raise FormatError(f"{path}: not a readable .npz: {e}") from None
    if not arrays or len({len(a) for a in arrays}) != 1 or len(arrays[0]) == 0:
        raise FormatError(f"{path}: the arrays must have the same, positive number of samples along the first axis")
    return [tuple(torch.from_numpy(a[i : i + 1]) for a in arrays) for i in range(len(arrays[0]))]


def quantize(
    model: Model,
    out: Annotated[Path, typer.Option("-o", "--out", help="The .bitship file to write.")],
    calibration: Calibration = None,
    recipe: RecipeName = "int8",
    output: Outputs = None,
    json: Json = False,
) -> None:
    """Make an integer graph from a torch module (or import a quantized file) and save it."""
    from bitship.graph import save

    if out.suffix != ".bitship":
        raise FormatError(f"{out}: the file must end in .bitship")
    if out.exists():
        raise FormatError(f"{out}: already exists; remove it or choose another name")
    with working(f"reading {model}", json):
        graph = read_model(model, calibration, output, recipe)
    save(graph, out)
    if json:
        emit_json({"graph": str(out), "digest": graph.digest, "nodes": len(graph.nodes), "macs": graph.macs})
    else:
        console().print(
            f"{out}: {len(graph.nodes)} nodes, {graph.macs:,} MACs, {graph.constant_bytes:,} B of constants"
        )


def inspect(
    model: Model,
    calibration: Calibration = None,
    recipe: RecipeName = "int8",
    output: Outputs = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the table and the drawing.")] = None,
    svg: Annotated[Path | None, typer.Option(help="Write the drawing alone.")] = None,
    json: Json = False,
) -> None:
    """Show a model as an integer graph: op, shapes, MACs, weights, bytes of every node, and totals."""
    from bitship import inspection

    with working(f"reading {model}", json):
        graph = read_model(model, calibration, output, recipe)
    rows = inspection.rows(graph)
    if svg is not None:
        inspection.write_svg(graph, svg)
    if html is not None:
        inspection.write_html(graph, html)
    if json:
        emit_json({"name": graph.name, "digest": graph.digest, "macs": graph.macs, "nodes": rows})
        return
    table(
        f"{graph.name}  {graph.digest[:12]}",
        ["#", "node", "op", "output", "requantize", "MACs", "weights B", "output B"],
        [
            (str(i), short(r.name), r.op, r.type, r.rounding, r.macs, r.weight_bytes, r.output_bytes)
            for i, r in enumerate(rows)
        ],
        left=5,
    )
    c = console()
    for what, ports in (("input", graph.inputs), ("output", graph.outputs)):
        for p in ports:
            meaning = f"scale {p.quant.scale:.6g}, zero point {p.quant.zero_point}" if p.quant else "plain integers"
            c.print(f"  {what:6} {p.name}  {p.type}  {meaning}")
    c.print(
        f"  total  {len(graph.nodes)} nodes, {graph.macs:,} MACs, {graph.constant_bytes:,} B of constants; "
        "no accumulator can overflow (proven)"
    )
    for path in (svg, html):
        if path is not None:
            c.print(f"  wrote  {path}")


def sensitivity(
    model: Model,
    calibration: Calibration = None,
    recipe: RecipeName = "int8",
    plot: Annotated[Path | None, typer.Option(help="Draw the ratios along the network (.svg, .png or .pdf).")] = None,
    json: Json = False,
) -> None:
    """Find the layer to blame: the signal-to-noise ratio of every tensor, float module against integer graph."""
    from bitship.quantization import prepare

    if ":" not in model or Path(model).exists():
        raise FormatError(
            f"{model}: a float torch module is needed, package.module:factory; files are integers already"
        )
    made = _call_factory(model)
    if isinstance(made, Graph):
        raise FormatError(f"{model}: the factory returns a Graph; a float torch module is needed")
    module, batches = _module(model, made, calibration)
    with working(f"quantizing {model}", json):
        report = prepare(module, batches, recipe).sensitivity()
    if plot is not None:
        report.plot(plot)
    if json:
        emit_json({"recipe": recipe, "worst": report.worst.name, "tensors": report.tensors})
        return
    console().print(report.table())
    worst = report.worst
    console().print(f"  least of its own signal is left by {worst.op} '{worst.name}' (module '{worst.module}')")
    if plot is not None:
        console().print(f"  wrote  {plot}")
