"""What a target is: a type of board, phone or computer, as ``targets/<id>/target.toml`` describes it."""

import difflib
import enum
from pathlib import Path

import msgspec

from bitship.errors import TargetError
from bitship.settings import read_toml
from bitship.targets.flashers import FlashTool

ROOT = Path(__file__).resolve().parent
ON_NPU = "npu-"  # begins the role of an image whose steps an NPU runs


class TargetKind(enum.Enum):
    """The family a target belongs to; decides which devices can run its packages."""

    HOST = "host"
    LINUX = "linux"
    MCU = "mcu"
    ANDROID = "android"
    CLOUD = "cloud"
    NPU = "npu"


class ConverterName(enum.Enum):
    """A back end; the value is its name on the command line and in manifests."""

    FIRMWARE = "firmware"
    TVM = "tvm"
    EXECUTORCH = "executorch"
    TOSA = "tosa"
    ETHOS_U = "ethos-u"
    TFLITE = "tflite"
    ONNX = "onnx"
    OPENVINO = "openvino"
    QAI_HUB = "qai-hub"


class Delegate(enum.Enum):
    """A back end of ExecuTorch with arithmetic of its own; the value is its name in packages."""

    XNNPACK = "xnnpack"
    COREML = "coreml"
    VULKAN = "vulkan"
    QNN = "qnn"
    NEUTRON = "neutron"
    OPENVINO = "openvino"
    CORTEX_M = "cortex-m"


class Application(enum.Enum):
    """The program around the model.

    FILES   reads records from files by semihosting, for an emulator or a debugger
    SERIAL  speaks firmware/PROTOCOL.md on a serial port: MLPerf Tiny's performance mode and this project's commands
    ENERGY  the same in MLPerf Tiny's energy mode: a slower line, and timestamps that are pulses of the marker
    SPLIT   the head of a split model: images come in frames, answers and features go out in frames (docs/split.md)
    """

    FILES = "files"
    SERIAL = "serial"
    ENERGY = "energy"
    SPLIT = "split"

    @property
    def role(self) -> str:
        """The role of the image in a package's manifest."""
        return "firmware" if self is Application.FILES else self.value

    @property
    def speaks(self) -> bool:
        """Whether it speaks firmware/PROTOCOL.md."""
        return self in (Application.SERIAL, Application.ENERGY)


class TinyModel(enum.Enum):
    """A model of MLPerf Tiny, which decides what its host sends and reads; NONE: a model of one's own."""

    NONE = "none"
    IC01 = "ic01"
    KWS01 = "kws01"
    VWW01 = "vww01"
    AD01 = "ad01"


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"nbytes": "bytes"}):
    """One linear memory region."""

    origin: int
    nbytes: int


class Region(Memory, frozen=True, forbid_unknown_fields=True, rename={"nbytes": "bytes"}):
    """RAM beside ``ram`` that tensors may lie in: faster than it, or slower. ``name`` is an identifier of C."""

    name: str
    slower: bool = False


class Toolchain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The C compiler of a firmware target: program prefix (``arm-none-eabi-``) and the flags that select the core.

    startup  which of ``firmware/app``'s folders has the reset code: ``arm`` or ``riscv``
    """

    prefix: str
    flags: tuple[str, ...] = ()
    startup: str = "arm"


class Counter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A free-running counter that QEMU's icount advances: ``instructions = ticks * numerator / denominator``.

    driver  ``firmware/app/counter_<driver>.c``; address and hz as it needs them
    """

    numerator: int
    denominator: int
    driver: str
    address: int = 0
    hz: int = 0


class Timer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A free-running counter of a board: ``firmware/app/counter_<driver>.c``, ``hz`` ticks a second.

    address  of its register, where the driver needs one
    """

    driver: str
    hz: int
    address: int = 0


class Uart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The serial port a board talks through: ``firmware/app/uart_<driver>.c``.

    address  of its registers; hz  the clock its divider starts from
    baud     8N1, as MLPerf Tiny's performance mode has it; energy_baud in its energy mode
    """

    driver: str
    address: int
    hz: int = 0
    baud: int = 115200
    energy_baud: int = 9600


class Marker(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An output that pulses low at the edges of a measured window: ``firmware/app/marker_<driver>.c``.

    address  of the register that drives it; bit  in it; pin  what is printed on the board
    """

    driver: str
    address: int
    bit: int
    pin: str


class Emulator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How an emulated target is started; ``machine`` is None in user mode; ``options`` are the program's."""

    program: str
    machine: str | None = None
    icount_shift: int | None = None
    counter: Counter | None = None
    options: tuple[str, ...] = ()


class Npu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A neural accelerator as its vendor's compiler names it.

    accelerator    what the compiler is told: ``ethos-u55-128``, ``imxrt700``, ``rk3588``, ``NPU``
    system_config  clocks and bandwidths of the system around it, where the compiler wants a name for them
    memory_mode    where tensors lie, likewise
    address        of its registers, and interrupt, its number: where an image runs it through the vendor's driver
    """

    accelerator: str
    system_config: str = ""
    memory_mode: str = ""
    address: int = 0
    interrupt: int = 0


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A type of device. ``name`` is the folder's name; sizes in bytes; ``memories`` in order of speed.

    verified  whether someone here has run packages on it; an emulator or this machine counts
    clock_hz  of the core, as the start-up code sets it
    usb       vendor:product ids of the board's own serial port or probe, lower-case hexadecimal
    flashers  what each tool that can flash it needs to know of the type, the best first
    hub_device  a hosted device's name, where the kind is cloud
    npu       the accelerator that the vendor's compiler lowers for
    delegates  which of ExecuTorch's delegates get a program of their own beside the exact one
    notes     what a user must know before the first image: wiring, jumpers, limits
    """

    name: str
    title: str
    kind: TargetKind
    cpu: str
    converters: tuple[ConverterName, ...]
    features: tuple[str, ...] = ()
    triple: str | None = None
    flash: Memory | None = None
    ram: Memory | None = None
    memories: tuple[Region, ...] = ()
    toolchain: Toolchain | None = None
    emulator: Emulator | None = None
    verified: bool = True
    clock_hz: int | None = None
    uart: Uart | None = None
    timer: Timer | None = None
    marker: Marker | None = None
    usb: tuple[str, ...] = ()
    flashers: tuple[FlashTool, ...] = ()
    hub_device: str | None = None
    npu: Npu | None = None
    delegates: tuple[Delegate, ...] = ()
    notes: str = ""

    @property
    def folder(self) -> Path:
        """Where the target's own files (linker script, start-up code) are."""
        return ROOT / self.name


def names() -> list[str]:
    """Return the names of all targets, sorted."""
    return sorted(p.parent.name for p in ROOT.glob("*/target.toml"))


def load(name: str) -> Target:
    """Read one target; TargetError when it is unknown (with the nearest names) or its file is wrong."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), 3, 0.4) or names()
        raise TargetError(f"target '{name}': unknown; nearest: {', '.join(near)}; 'bitship targets' lists all")
    path = ROOT / name / "target.toml"
    target = read_toml(path, Target, TargetError)
    known = [m.name for m in target.memories]
    if len({*known, "ram", "flash"}) != len(known) + 2 or not all(n.isidentifier() and n.islower() for n in known):
        raise TargetError(f"{path}: memories are named {known}; lower-case names other than ram and flash are needed")
    if target.name != name:
        raise TargetError(f"{path}: name is '{target.name}', the folder's name '{name}' is needed")
    return target
