"""An NPU's part of an image: the port, and Arm's driver where ETHOS_U_DRIVER_DIR has it built."""

import os
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from bitship.targets.base import Npu

PORT = Path(__file__).resolve().parents[2] / "firmware" / "npu"
VARIABLE = "ETHOS_U_DRIVER_DIR"
LIBRARY, HEADER = "libethosu_core_driver.a", "ethosu_driver.h"
FUNCTIONS = {
    **dict.fromkeys(("bitship_npu_put", "bitship_npu_take", "bitship_npu_stream"), ()),
    **dict.fromkeys(("bitship_npu_codes", "bitship_npu_finish"), ("attention.c",)),
}
STEP, PRODUCT = "npu_step.c", "npu_product.c"
HEADERS = ("npu.h", "npu_board.h", "npu_step.h")
DRIVEN, ABSENT = ("npu_ethosu.c", "npu_board.c"), ("npu_absent.c",)
_WHERE = (".", "lib", "build", "build/lib", "include", "src/include", "..", "../include")


@dataclass(frozen=True)
class NpuPort:
    """How an image reaches its NPU.

    npu      the target's: address and interrupt
    product  whether a step is the product of a softmax_matmul
    driver   Arm's driver: its library and headers by name, taken into the package; {}: none, every step is refused
    missing  why there is none
    """

    npu: Npu
    product: bool = False
    driver: dict[str, bytes] = field(default_factory=dict)
    missing: str = ""

    @property
    def sources(self) -> tuple[str, ...]:
        """C sources of the port, of ``firmware/npu``."""
        return (STEP, *((PRODUCT,) if self.product else ()), *(DRIVEN if self.driver else ABSENT))

    @property
    def flags(self) -> tuple[str, ...]:
        """Flags that its sources, and the start-up code, are compiled with."""
        if not self.driver:
            return ("-Iport",)
        board = (f"-DBITSHIP_NPU={self.npu.address:#x}u", f"-DBITSHIP_NPU_IRQ={self.npu.interrupt}u")
        return ("-Iport", "-Iport/driver", *board, "--specs=nosys.specs", "-Wl,--defsym=end=__bss_end")

    @property
    def inputs(self) -> tuple[str, ...]:
        """What is compiled and linked beside the model, in the package's folder."""
        linked = (f"port/driver/{LIBRARY}",) if self.driver else ()
        return (*(f"port/{name}" for name in self.sources), *linked)

    def texts(self) -> dict[str, bytes]:
        """Return the port's files by their names in the package's folder."""
        more = ("ethosu_api.h",) if self.driver else ()
        files = {f"port/{name}": (PORT / name).read_bytes() for name in (*self.sources, *HEADERS, *more)}
        return files | {f"port/driver/{name}": body for name, body in self.driver.items()}


def find_port(npu: Npu, functions: Collection[str]) -> NpuPort:
    """Return the port of a target's NPU for a program's functions, with ETHOS_U_DRIVER_DIR's driver where it is."""
    product = "bitship_npu_finish" in functions
    given = os.environ.get(VARIABLE)
    if not given:
        return NpuPort(npu, product, missing=f"{VARIABLE} is not set: no driver is linked, and {_refused(npu)}")
    folder = Path(given)
    found = {
        name: next((folder / w / name for w in _WHERE if (folder / w / name).is_file()), None)
        for name in (LIBRARY, HEADER)
    }
    lacking = [name for name, path in found.items() if path is None]
    library, header = found[LIBRARY], found[HEADER]
    if library is None or header is None:
        return NpuPort(npu, product, missing=f"{VARIABLE}={given} has no {' and no '.join(lacking)}: {_refused(npu)}")
    headers = {path.name: path.read_bytes() for path in sorted(header.parent.glob("*.h"))}
    return NpuPort(npu, product, {LIBRARY: library.read_bytes(), **headers})


def _refused(npu: Npu) -> str:
    return (
        f"the image's NPU steps are refused; build Arm's ethos-u-core-driver for {npu.accelerator}, name its folder in "
        f"{VARIABLE} and export again"
    )
