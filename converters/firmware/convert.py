"""From a graph to a folder of C that anyone can build, and the image built from it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from bitship.converters.base import Artifact, Conversion, Footprint
from bitship.converters.firmware import build, emit, hosted, idf, serial, split
from bitship.converters.firmware.application import SPLIT_FILES, app_files, app_text, application_for
from bitship.converters.firmware.cores import core_of
from bitship.converters.firmware.fit import choose, title
from bitship.converters.firmware.npu import NpuPort
from bitship.converters.firmware.program import Lowered, assemble, lower_calls
from bitship.converters.firmware.serial import SerialOptions
from bitship.converters.firmware.split import SplitOptions
from bitship.errors import DoesNotFitError, TargetError
from bitship.graph import Graph, verify
from bitship.graph.store import write_atomic
from bitship.passes import picture
from bitship.passes.stage import Stage
from bitship.targets import Application, Target, TargetKind
from bitship.version import VERSION

Options = SerialOptions | SplitOptions

PLAN = "plan.json"
PICTURE = picture.FILE
STACK_ALLOWANCE = 2048  # bytes kept for the stack while a schedule is chosen; the image tells what it is


class FirmwareConverter:
    """Lowers a graph to C for a microcontroller, or for the machine it runs on.

    stage     how the first nodes run by tiles; None: chosen, the whole graph where it fits
    ram       bytes of RAM that arena, stack and static data may take together; None: what the target has
    streamed  whether the image arrives by rows while the model runs (``model_run_rows``), and is never whole in RAM;
              None: where that is the cheapest way into a given ``ram``
    application  the program around the model; None: FILES where the target is emulated, else SERIAL
    options      what a serial application, or a split one, has beside the model
    """

    def __init__(
        self,
        stage: Stage | None = None,
        ram: int | None = None,
        streamed: bool | None = None,
        application: Application | None = None,
        options: Options | None = None,
    ) -> None:
        self._stage = stage
        self._ram = ram
        self._streamed = streamed
        self._application = application
        self._options = options

    def convert(self, graph: Graph, target: Target, out: Path) -> Conversion:
        """Write sources, build the image (or shared library) and measure it.

        Raises DoesNotFitError before the compiler runs when constants or arena alone are too large, and after it
        when the image is; MissingDependencyError without the target's compiler.
        """
        return write_package(
            self.lower(graph, target), target, out, self._ram, application=self._application, options=self._options
        )

    def lower(self, graph: Graph, target: Target) -> emit.Program:
        """Return the calls and the memory plan that ``convert`` writes out, with no compiler at work."""
        verify(graph)
        lowered = lower_calls(graph, core_of(target))
        return assemble(graph, lowered, self._schedule(lowered, target), build.regions(target))

    def _schedule(self, lowered: Lowered, target: Target) -> Stage | None:
        """Return the stage: the given one, or the cheapest that fits."""
        most = [m for m in (self._ram, target.ram.nbytes if target.ram else None) if m is not None]
        if self._stage is not None or (not most and not self._streamed):
            return self._stage
        if target.memories and self._ram is None and not self._streamed:
            return None
        streamed = bool(self._streamed) if self._ram is None else self._streamed
        taken = STACK_ALLOWANCE + self._application_bytes(lowered.graph, target, bool(streamed))
        budget = max(min(most) - taken, 0) if most else None
        try:
            return choose(lowered, budget, streamed)
        except DoesNotFitError as e:
            raise DoesNotFitError(f"{target.name}: {e}") from None

    def _application_bytes(self, graph: Graph, target: Target, streamed: bool) -> int:
        """Return the RAM that the program around the model takes, about."""
        if target.kind is not TargetKind.MCU or application_for(target, self._application) is Application.FILES:
            return 0
        if self._application is Application.SPLIT:
            return split.static_bytes(graph)
        inputs = 0 if streamed else sum(port.type.nbytes for port in graph.inputs)
        return inputs + serial.static_bytes(target)


def write_package(
    program: emit.Program,
    target: Target,
    out: Path,
    most: int | None = None,
    objects: Mapping[str, bytes] | None = None,
    application: Application | None = None,
    options: Options | None = None,
    npu: NpuPort | None = None,
) -> Conversion:
    """Write a program's sources, build and measure them.

    most     bytes of RAM that arena, stack and static data may take together
    objects  object files by name, of functions that another tool compiled; with them the stack has no proven bound
    application  the program around the model in an image; None: the target's
    options  what a serial application, or a split one, has beside the model
    npu      how an image reaches the NPU whose command streams the program runs; with a driver as with ``objects``
    """
    image, extra = target.kind is TargetKind.MCU, dict(objects or {})
    build.check_memories(target, len(program.weights), program.plan.peak, "constants and tensors alone")
    build.check_regions(target, program.plan.elsewhere)
    build.check_described(target)
    if not image and (application is not None or options is not None):
        raise TargetError(f"{target.name}: applications are for microcontrollers; leave the option out")
    app = application_for(target, application) if image else Application.FILES
    if app is Application.FILES and options is not None:
        raise TargetError(
            f"{target.name}: MLPerf Tiny's host and a self-test need a serial port; use application 'serial' or "
            "'energy'"
        )
    options = options or SerialOptions()
    _check_options(target, app, options)
    if idf.is_project(target):
        return _write_project(program, target, out, app, options)
    recipe = build.recipe(target, program.functions, bool(program.weights), app, npu)
    golden = [serial.GOLDEN_SOURCE] if isinstance(options, SerialOptions) and options.vectors[0] else []
    recipe = replace(recipe, sources=(*recipe.sources, *golden, *extra))
    beside = build.program_beside(recipe) if target.kind is TargetKind.HOST else None
    texts = _texts(program, target, app, options) | {"Makefile": recipe.makefile(beside).encode()} | extra
    texts |= npu.texts() if npu else {}
    for name, text in texts.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out / name, text)
    proven = image and not extra and not (npu and npu.driver)
    entry = build.ENTRY if proven else None
    version, stack = build.compile_package(recipe, out, target.name, entry)
    if beside is not None:
        build.compile_package(beside, out, target.name)
    outputs = [recipe.output, *([beside.output] if beside else [])]
    sections = build.section_bytes(recipe, out)
    flash, ram, code = _usage(sections)
    if image:
        build.check_memories(target, flash, ram, "image and stack")
        _check_stack(target, stack or 0, sections.get(".stack", 0))
        _check_budget(target, ram - sections.get(".stack", 0) + (stack or 0), most)
    write_atomic(out / PLAN, _report(program, sections, flash, ram, stack))
    write_atomic(out / PICTURE, draw_plan(program).encode())
    return Conversion(
        files=tuple(sorted((*texts, PLAN, PICTURE, *outputs))),
        artifacts=tuple(Artifact(name, name if name == build.RUNNER else app.role) for name in outputs),
        footprint=Footprint(len(program.weights), program.plan.total, code, stack),
        tools={recipe.compiler: version, "bitship": VERSION},
        schedule="" if program.stage is None else title(program.stage.stage),
    )


def _write_project(
    program: emit.Program, target: Target, out: Path, application: Application, options: Options
) -> Conversion:
    """Write a project that its vendor's tool builds; only constants and tensors are known to fit."""
    if application is Application.FILES:
        raise TargetError(f"{target.name}: files need semihosting, which ESP-IDF has not; use application 'serial'")
    if isinstance(options, SerialOptions) and options.vectors[0]:
        raise TargetError(f"{target.name}: a self-test is for images built here, not for a project; leave it out")
    texts = _texts(program, target, application, options)
    for name, text in texts.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(out / name, text)
    write_atomic(out / PLAN, _report(program, {}, None, None, None))
    write_atomic(out / PICTURE, draw_plan(program).encode())
    return Conversion(
        files=tuple(sorted((*texts, PLAN, PICTURE))),
        artifacts=(Artifact(idf.PROJECT, application.role),),
        footprint=Footprint(len(program.weights), program.plan.total),
        tools={"bitship": VERSION},
        schedule="" if program.stage is None else title(program.stage.stage),
    )


def _check_options(target: Target, application: Application, options: Options) -> None:
    if isinstance(options, SplitOptions) != (application is Application.SPLIT):
        raise TargetError(f"{target.name}: application 'split' is for the head of a split package")
    if application is Application.SPLIT and idf.is_project(target):
        raise TargetError(f"{target.name}: a split head is for images built here, not for a vendor's project")


def _check_stack(target: Target, deepest: int, given: int) -> None:
    if deepest > given:
        raise DoesNotFitError(
            f"{target.name}: the stack gets {deepest} B deep, link.ld gives it {given} B, {deepest - given} B too few; "
            f"raise STACK_BYTES in {target.folder / 'link.ld'}"
        )


def _check_budget(target: Target, ram: int, most: int | None) -> None:
    if most is not None and ram > most:
        raise DoesNotFitError(
            f"{target.name}: arena, stack and static data take {ram} B of RAM, {most} B are allowed, "
            f"{ram - most} B too many; allow more, or use a smaller model"
        )


def _texts(program: emit.Program, target: Target, application: Application, options: Options) -> dict[str, bytes]:
    """Return every source file of the package by its name."""
    hosted_too = target.kind is not TargetKind.MCU
    files = {
        "model.h": emit.header(program).encode(),
        "model.c": emit.source(program, hosted_too or application.speaks).encode(),
    }
    if program.weights:
        files["weights.S"] = emit.weights_source(program).encode()
        files["weights.bin"] = program.weights
    if hosted_too:
        files |= hosted.texts(program) | {serial.STEPS: serial.steps_text(program)}
    sources = build.kernel_files(program.functions)
    for name in (*build.header_files(sources), *(f"src/{f}" for f in sources)):
        files[f"kernels/{name}"] = (build.FIRMWARE / name).read_bytes()
    if idf.is_project(target):
        files |= idf.texts(target, tuple(program.functions), bool(program.weights), application)
    elif target.kind is TargetKind.MCU and target.flash is not None and target.ram is not None:
        for name in app_files(target, application):
            files[f"app/{name}"] = app_text(target, name)
        files["app/link.ld"] = (target.folder / "link.ld").read_bytes()
        files["app/memory.ld"] = build.memory_script(target.flash, target.ram, target.memories).encode()
        files["app/arenas.ld"] = build.arenas_script(target.memories).encode()
    if isinstance(options, SplitOptions):
        files |= {f"split/{name}": (build.FIRMWARE / "split" / name).read_bytes() for name in SPLIT_FILES}
        files[split.CONFIG] = split.config(program, options).encode()
    elif application is not Application.FILES:
        files[serial.CONFIG] = serial.config(program, target, options).encode()
        files[serial.STEPS] = serial.steps_text(program)
        if options.vectors[0]:
            files[serial.GOLDEN] = serial.golden(options.vectors)
            files[serial.GOLDEN_SOURCE] = serial.golden_source().encode()
    return files


def _usage(sections: dict[str, int]) -> tuple[int, int, int]:
    """Return (flash, RAM, code) in bytes; code is everything in flash but the weights."""
    data = sections.get(".data", 0)
    ram = data + sum(sections.get(s, 0) for s in (".bss", ".arena", ".stack"))
    code = data + sum(sections.get(s, 0) for s in (".boot", ".vectors", ".text", ".rodata", ".ARM.exidx"))
    return code + sections.get(".weights", 0), ram, code


def plan_rows(program: emit.Program) -> list[picture.Row]:
    """Return the buffers of a program's plan, by the step they begin with."""
    g = program.graph
    return picture.rows(program.plan, [p.name for p in g.inputs], [p.name for p in g.outputs])


def draw_plan(program: emit.Program) -> str:
    """Return a program's plan as SVG."""
    steps = [node.op.name for node, _ in program.calls]
    return picture.draw(program.plan, plan_rows(program), steps, program.graph.name)


def _report(
    program: emit.Program, sections: dict[str, int], flash: int | None, ram: int | None, stack: int | None
) -> bytes:
    """Return plan.json: where every tensor lies, and what the built file occupies; None where nothing was built."""
    plan = program.plan
    body = {
        "arena_bytes": plan.total,
        "elsewhere_bytes": dict(plan.elsewhere),
        "live_bytes": plan.bound,
        "optimal": plan.optimal,
        "stack_bytes": stack,
        "schedule": None if program.stage is None else program.stage.stage,
        "weights_bytes": len(program.weights),
        "flash_bytes": flash,
        "ram_bytes": ram,
        "sections": dict(sorted(sections.items())),
        "slots": {name: vars(slot) for name, slot in plan.slots.items()},
        "views": {name: view._asdict() for name, view in plan.views.items()},
    }
    return msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"
