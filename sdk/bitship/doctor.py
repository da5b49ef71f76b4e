"""Look at this machine: which packages and programs are there, and what the missing ones disable."""

import importlib.metadata
import os
import shutil
import subprocess

import msgspec

from bitship import targets
from bitship.errors import BitshipError


class Check(msgspec.Struct, frozen=True):
    """One thing looked for: its version or path when found, else what is disabled and how to install it."""

    name: str
    found: str | None
    disables: str
    install: str


_PACKAGES = (
    ("tflite", "importing .tflite", "pip install 'bitship[tflite]'"),
    (
        "ai-edge-litert",
        "the tflite converter; judging imports by LiteRT's reference kernels",
        "pip install 'bitship[litert]'",
    ),
    ("onnx", "importing .onnx", "pip install 'bitship[onnx]'"),
    ("onnxruntime", "running .onnx packages", "pip install 'bitship[onnx]'"),
    ("torch", "quantizing torch modules, the executorch converter", "pip install 'bitship[torch]'"),
    ("torchao", "quantizing torch modules", "pip install 'bitship[torch]'"),
    ("apache-tvm", "the tvm converter", "pip install 'bitship[tvm]'"),
    ("executorch", "the executorch converter", "pip install 'bitship[executorch]'"),
    ("tosa-tools", "the tosa converter and its reference model", "pip install 'bitship[tosa]'"),
    ("ethos-u-vela", "the ethos-u converter", "pip install 'bitship[ethos-u]'"),
    ("openvino", "the openvino converter", "pip install 'bitship[openvino]'"),
    ("grpcio", "split computing: server and client", "pip install 'bitship[split]'"),
    ("scikit-learn", "the demo", "pip install 'bitship[demo]'"),
)
_PROGRAMS = (
    ("cc", "the firmware converter for the host", "apt-get install gcc"),
    ("arm-none-eabi-gcc", "firmware images for Cortex-M", "apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi"),
    ("qemu-system-arm", "running Cortex-M packages", "apt-get install qemu-system-arm"),
    (
        "riscv64-unknown-elf-gcc",
        "firmware images for RISC-V",
        "apt-get install gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf",
    ),
    ("qemu-system-riscv32", "running RISC-V packages", "apt-get install qemu-system-misc"),
    ("aarch64-linux-gnu-gcc", "packages for aarch64 Linux", "apt-get install gcc-aarch64-linux-gnu"),
    ("qemu-aarch64", "running aarch64 packages", "apt-get install qemu-user"),
    ("arm-linux-gnueabihf-gcc", "packages for armv7 Linux", "apt-get install gcc-arm-linux-gnueabihf"),
    ("riscv64-linux-gnu-gcc", "packages for riscv64 Linux", "apt-get install gcc-riscv64-linux-gnu"),
    ("clang", "TVM packages for Hexagon", "apt-get install clang"),
    ("ld.lld", "TVM packages for Hexagon", "apt-get install lld"),
    ("qemu-hexagon", "running Hexagon packages", "apt-get install qemu-user"),
    ("dot", "drawing graphs", "apt-get install graphviz"),
    ("ssh", "devices reached over ssh", "apt-get install openssh-client"),
    ("adb", "phones", "apt-get install adb"),
    ("pyocd", "flashing with a debug probe", "pip install 'bitship[flash]'"),
    ("openocd", "flashing with a debug adapter", "apt-get install openocd"),
    ("gdb-multiarch", "flashing through a gdb server", "apt-get install gdb-multiarch"),
    ("esptool", "flashing Espressif's chips", "pip install 'bitship[flash]'"),
    ("stm32flash", "flashing STM32 through their serial loader", "apt-get install stm32flash"),
    ("bossac", "flashing Arduino's SAM-BA loader", "arduino-cli core install arduino:mbed_nano"),
    ("smpmgr", "flashing through MCUboot", "pip install smpmgr"),
    ("uhubctl", "switching a board's power at its USB hub", "apt-get install uhubctl"),
    ("labgrid-client", "devices of a farm", "pip install labgrid, in an environment of its own"),
    ("qai-hub", "hosted devices", "pip install qai-hub, in an environment of its own"),
)
_ASK_VERSION = {"dot": "-V", "ssh": "-V", "uhubctl": "-v", "bossac": "-h", "esptool": "version"}
_QUICK = frozenset({"qai-hub", "labgrid-client", "stm32flash"})  # slow, or cannot say: presence is enough


def _package(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _program(name: str) -> str | None:
    path = shutil.which(name)
    if path is None:
        return None
    if name in _QUICK:
        return path
    flag = _ASK_VERSION.get(name, "--version")
    try:
        done = subprocess.run([path, flag], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return path
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[0] if lines else path


def _kernels() -> str | None:
    from bitship import kernels

    try:
        return str(kernels.find())
    except BitshipError:
        return None


def _opencl() -> str | None:
    """Return the name of the device that runs OpenCL packages."""
    from bitship.converters.tvm.opencl import device_name

    try:
        return device_name()
    except BitshipError:
        return None


def examine() -> list[Check]:
    """Return one check per optional package and program."""
    found = [Check("C kernels", _kernels(), "the fast path of graph.run", "pip install -e . (needs cmake and gcc)")]
    found += [Check(n, _package(n), disables, install) for n, disables, install in _PACKAGES]
    found += [Check(n, _program(n), disables, install) for n, disables, install in _PROGRAMS]
    found.append(Check("OpenCL device", _opencl(), "running OpenCL packages", "apt-get install pocl-opencl-icd"))
    data = os.environ.get("BITSHIP_DATA")
    found.append(Check("BITSHIP_DATA", data, "tests and benchmarks on real models", "set it to the data folder"))
    return found


def emulated_targets() -> list[tuple[str, str]]:
    """Return (target, emulator program) for every emulated target whose emulator is installed."""
    result = []
    for name in targets.names():
        emulator = targets.load(name).emulator
        if emulator is not None and shutil.which(emulator.program):
            result.append((name, emulator.program))
    return result
