"""Instruction-set levels: what the vector unit of a target offers to the integer kernels."""

import platform
from pathlib import Path
from typing import Any

import msgspec

from bitship.errors import TargetError
from bitship.targets import Target, TargetKind

X86_TRIPLE = "x86_64-linux-gnu"
ARM_TRIPLE = "aarch64-linux-gnu"
RISCV_TRIPLE = "riscv64-linux-gnu"
HEXAGON_TRIPLE = "hexagon-unknown-linux-musl"


class Isa(msgspec.Struct, frozen=True):
    """One level. The kernels are one source; these numbers and names are all that differs.

    machine     as the operating system names the core family: x86_64, aarch64, riscv64 or hexagon
    cpu, attrs  what LLVM is told
    flags       names that must all appear in /proc/cpuinfo
    lanes       int32 elements of a vector
    k_step      products one dot instruction adds into an int32 lane; 0: no dot kernel, loops only
    dot         the dot instruction: vpdpbusd, vpmaddwd, sdot, smmla, smull, widen (products and sums that LLVM is left
                to find instructions for) or none
    element     dtype of the activations the dot instruction reads
    table       how 256 entries are looked up in registers: vbmi, pshufb, tbl or none (see lookup.py)
    registers   vector registers a micro-kernel may fill with accumulators
    float_abi   soft or hard, where object files say which
    abi         LLVM's name of the calling convention, where there are several
    llvm        further options of LLVM's code generator
    single      whether LLVM takes vectors apart in reasonable time; kernels that do so are loops otherwise
    """

    name: str
    machine: str
    triple: str
    cpu: str
    attrs: tuple[str, ...]
    flags: tuple[str, ...]
    lanes: int
    dot: str = ""
    k_step: int = 0
    element: str = "int8"
    registers: int = 12
    table: str = ""
    float_abi: str = ""
    abi: str = ""
    llvm: tuple[str, ...] = ()
    single: bool = True

    @property
    def offset(self) -> int:
        """What the dot instruction adds to every activation: 128 where it takes them unsigned."""
        return 128 if self.dot == "vpdpbusd" else 0

    @property
    def x86(self) -> bool:
        """Whether the level belongs to x86-64."""
        return self.machine == "x86_64"

    def target(self) -> Any:
        """Return the TVM target."""
        import tvm

        if self.name in GPU:
            return tvm.target.Target({"kind": self.name, **({"arch": "sm_50"} if self.name == "cuda" else {})})
        options: dict[str, Any] = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu}
        if self.attrs:
            options["mattr"] = list(self.attrs)
        if self.float_abi:
            options["mfloat-abi"] = self.float_abi
        if self.abi:
            options["mabi"] = self.abi
        if self.llvm:
            options["cl-opt"] = list(self.llvm)
        return tvm.target.Target(options)


_AVX512 = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni")
_NEON = ("asimd",)

LEVELS: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        Isa(
            "avx512vbmi",
            "x86_64",
            X86_TRIPLE,
            "x86-64-v4",
            ("+avx512vnni", "+avx512vbmi", "-prefer-256-bit"),
            (*_AVX512, "avx512vbmi"),
            16,
            "vpdpbusd",
            4,
            registers=24,
            table="vbmi",
        ),
        Isa(
            "avx512vnni",
            "x86_64",
            X86_TRIPLE,
            "x86-64-v4",
            ("+avx512vnni", "-prefer-256-bit"),
            _AVX512,
            16,
            "vpdpbusd",
            4,
            registers=24,
            table="pshufb",
        ),
        Isa(
            "avxvnni",
            "x86_64",
            X86_TRIPLE,
            "x86-64-v3",
            ("+avxvnni",),
            ("avx2", "avx_vnni"),
            8,
            "vpdpbusd",
            4,
            table="pshufb",
        ),
        Isa(
            "avx2",
            "x86_64",
            X86_TRIPLE,
            "x86-64-v3",
            (),
            ("avx2", "fma", "bmi2"),
            8,
            "vpmaddwd",
            2,
            "int16",
            table="pshufb",
        ),
        Isa("x86-64", "x86_64", X86_TRIPLE, "x86-64", (), (), 4),
        Isa(
            "i8mm",
            "aarch64",
            ARM_TRIPLE,
            "cortex-a510",
            ("+neon", "+dotprod", "+i8mm", "-sve", "-sve2"),
            (*_NEON, "asimddp", "i8mm"),
            4,
            "smmla",
            8,
            registers=16,
            table="tbl",
        ),
        Isa(
            "dotprod",
            "aarch64",
            ARM_TRIPLE,
            "cortex-a76",
            ("+neon", "+dotprod"),
            (*_NEON, "asimddp"),
            4,
            "sdot",
            4,
            registers=24,
            table="tbl",
        ),
        Isa("neon", "aarch64", ARM_TRIPLE, "cortex-a53", ("+neon",), _NEON, 4, "smull", 2, registers=24, table="tbl"),
        Isa(
            "sve256",
            "aarch64",
            ARM_TRIPLE,
            "neoverse-v1",
            ("+sve",),
            (*_NEON, "sve"),
            8,
            "widen",
            2,
            registers=16,
            llvm=("-aarch64-sve-vector-bits-min:uint=256",),
        ),
        Isa(
            "rvv",
            "riscv64",
            RISCV_TRIPLE,
            "generic-rv64",
            ("+m", "+a", "+f", "+d", "+c", "+v", "+zvl128b"),
            (),
            4,
            "widen",
            2,
            registers=16,
            abi="lp64d",
        ),
        Isa(
            "hvx",
            "hexagon",
            HEXAGON_TRIPLE,
            "hexagonv67",
            ("+hvxv67", "+hvx-length128b"),
            (),
            32,
            "widen",
            2,
            registers=8,
            single=False,
        ),
    )
}


def _bare(name: str, triple: str, attrs: tuple[str, ...], lanes: int, dot: str, step: int, element: str) -> Isa:
    abi = "hard" if triple.endswith("hf") else "soft"
    return Isa(name, "arm", triple, name, attrs, (), lanes, dot, step, element, registers=4, float_abi=abi)


_M, _HELIUM = "thumbv7em-none-eabi", ("thumbv8.1m.main-none-eabihf", ("+mve",))

# Levels of bare Cortex-M cores. A dot instruction there adds into one register of the core, so products have one lane;
# everything else on a Cortex-M55 has the four of its vectors.
BARE: dict[str, Isa] = {
    isa.name: isa
    for isa in (
        _bare("cortex-m4", _M, (), 1, "smlad", 2, "int16"),
        _bare("cortex-m7", _M, (), 1, "smlad", 2, "int16"),
        _bare("cortex-m55", *_HELIUM, 4, "", 0, "int8"),
    )
}
BARE_PRODUCTS: dict[str, Isa] = {"cortex-m55": _bare("cortex-m55", *_HELIUM, 1, "vmladava", 16, "int8")}

# Languages of graphics processors: one work item has one lane, and there are no vectors to fill.
GPU: dict[str, Isa] = {name: Isa(name, "gpu", "", "", (), (), 1) for name in ("opencl", "cuda", "metal")}


def of_target(target: Target) -> Isa:
    """Return the level of a target: the one its features name, or the best of this machine for a host target."""
    if target.kind is TargetKind.HOST and not target.features:
        return host_levels()[0]
    if target.kind is TargetKind.MCU and target.cpu in BARE:
        return BARE[target.cpu]
    for feature in target.features:
        if feature in LEVELS or feature in GPU:
            return LEVELS.get(feature) or GPU[feature]
    found = ", ".join(target.features) or "none"
    raise TargetError(f"target '{target.name}': features are {found}; tvm needs one of: {', '.join((*LEVELS, *GPU))}")


def host_levels() -> list[Isa]:
    """Return the levels this machine can run, best first; TargetError when there is none."""
    machine = platform.machine()
    flags = _cpu_flags()
    levels = [i for i in LEVELS.values() if i.machine == machine and flags.issuperset(i.flags)]
    if not levels:
        families = ", ".join(sorted({i.machine for i in LEVELS.values()}))
        raise TargetError(f"tvm: this machine is {machine}; code is generated for {families}")
    return levels


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return set(value.split())
    return set()
