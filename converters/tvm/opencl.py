"""Run an OpenCL package on this machine, through the system's OpenCL loader: whatever device it has, pocl's CPU too."""

import ctypes
import ctypes.util
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from bitship.converters.tvm.gpu import CONSTANTS, LaunchPlan, Place
from bitship.converters.tvm.session import TvmSession
from bitship.errors import DeviceError, FormatError, MissingDependencyError, PackageError
from bitship.graph import Graph
from bitship.graph.base import Array

_ANY, _READ_WRITE, _REGION, _TRUE = 0xFFFFFFFF, 1, 0x1220, 1
_BUILD_LOG, _NAME = 0x1183, 0x102B
_SCALARS = {"int32": ctypes.c_int32, "int64": ctypes.c_int64}
_MISSING = "opencl: no OpenCL loader or device here; on Debian: apt install ocl-icd-libopencl1 pocl-opencl-icd"


def _first_device(cl: Any) -> int:
    """Return the first device of the first platform that has one."""
    count = ctypes.c_uint32(0)
    if cl.clGetPlatformIDs(0, None, ctypes.byref(count)) == 0 and count.value:
        platforms = (ctypes.c_void_p * count.value)()
        for platform in platforms if cl.clGetPlatformIDs(count.value, platforms, None) == 0 else ():
            device = ctypes.c_void_p()
            if cl.clGetDeviceIDs(platform, _ANY, 1, ctypes.byref(device), None) == 0 and device.value:
                return device.value
    raise MissingDependencyError(_MISSING)


def _name_of(cl: Any, device: int) -> str:
    text = ctypes.create_string_buffer(256)
    if cl.clGetDeviceInfo(device, _NAME, len(text), text, None) != 0:
        return "unnamed"
    return text.value.decode(errors="replace")


def device_name() -> str:
    """Return the name of the device that a session would take; MissingDependencyError when there is none."""
    cl = _library()
    return _name_of(cl, _first_device(cl))


class _Region(ctypes.Structure):
    _fields_ = (("origin", ctypes.c_size_t), ("size", ctypes.c_size_t))


def _library() -> Any:
    name = ctypes.util.find_library("OpenCL")
    if name is None:
        raise MissingDependencyError(_MISSING)
    cl = ctypes.CDLL(name)
    pointer, size, wide, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint64, ctypes.c_uint32
    made: dict[str, list[Any]] = {
        "clCreateContext": [pointer, ctypes.c_uint32, pointer, pointer, pointer, pointer],
        "clCreateCommandQueue": [pointer, pointer, wide, pointer],
        "clCreateProgramWithSource": [pointer, ctypes.c_uint32, pointer, pointer, pointer],
        "clCreateBuffer": [pointer, wide, size, pointer, pointer],
        "clCreateSubBuffer": [pointer, wide, ctypes.c_uint32, pointer, pointer],
        "clCreateKernel": [pointer, ctypes.c_char_p, pointer],
    }
    for function, arguments in made.items():
        getattr(cl, function).argtypes, getattr(cl, function).restype = arguments, pointer
    copies: list[Any] = [pointer, pointer, number, size, size, pointer, number, pointer, pointer]
    cl.clEnqueueReadBuffer.argtypes = cl.clEnqueueWriteBuffer.argtypes = copies
    cl.clSetKernelArg.argtypes = [pointer, ctypes.c_uint32, size, pointer]
    cl.clEnqueueNDRangeKernel.argtypes = [pointer, pointer, number, *[pointer] * 3, number, pointer, pointer]
    cl.clBuildProgram.argtypes = [pointer, ctypes.c_uint32, pointer, ctypes.c_char_p, pointer, pointer]
    cl.clGetProgramBuildInfo.argtypes = [pointer, pointer, ctypes.c_uint32, size, pointer, pointer]
    cl.clGetPlatformIDs.argtypes = [ctypes.c_uint32, pointer, pointer]
    cl.clGetDeviceIDs.argtypes = [pointer, wide, ctypes.c_uint32, pointer, pointer]
    cl.clGetDeviceInfo.argtypes = [pointer, ctypes.c_uint32, size, pointer, pointer]
    for function in ("MemObject", "Kernel", "Program", "CommandQueue", "Context"):
        getattr(cl, f"clRelease{function}").argtypes = [pointer]
    cl.clFinish.argtypes = [pointer]
    return cl


class OpenClSession(TvmSession):
    """A package's kernels on the first device there is; its buffers live as long as the session.

    device  the device's name
    """

    def __init__(self, path: Path, graph: Graph, threads: int = 1) -> None:
        self.threads = 1
        self._graph = graph
        self.set_threads(threads)
        try:
            self._plan = msgspec.json.decode(path.read_bytes(), type=LaunchPlan)
            source = (path.parent / self._plan.source).read_bytes()
            constants = (path.parent / CONSTANTS).read_bytes()
        except (OSError, msgspec.DecodeError) as e:
            raise FormatError(f"{path}: not a plan of launches ({e})") from None
        if self._plan.graph != graph.digest:
            raise PackageError(f"{path}: made from another graph")
        if self._plan.language != "opencl":
            raise DeviceError(f"{path}: {self._plan.language} kernels; only opencl ones run here")
        self._cl = _library()
        self._held: list[tuple[str, int]] = []
        self._device = _first_device(self._cl)
        self.device = _name_of(self._cl, self._device)
        self._context = self._made("Context", "clCreateContext", None, 1, self._ref(self._device), None, None)
        self._queue = self._made("CommandQueue", "clCreateCommandQueue", self._context, self._device, 0)
        self._program = self._build(source)
        self._buffers = {
            "arena": self._buffer(self._plan.arena_bytes),
            "constants": self._buffer(max(len(constants), 1)),
        }
        self._sizes = {"arena": self._plan.arena_bytes, "constants": max(len(constants), 1)}
        if constants:
            self._write("constants", 0, np.frombuffer(constants, np.uint8))
        self._parts: dict[Place, int] = {}
        self._kernels = [self._kernel(i) for i in range(len(self._plan.launches))]

    @staticmethod
    def _ref(value: int) -> Any:
        return ctypes.byref(ctypes.c_void_p(value))

    def _check(self, status: int, what: str) -> None:
        if status != 0:
            raise DeviceError(f"{self._graph.name}: OpenCL's {what} gave {status}")

    def _made(self, kind: str, function: str, *arguments: Any) -> int:
        """Call a function that makes an object; the session releases it."""
        status = ctypes.c_int32(0)
        made = getattr(self._cl, function)(*arguments, ctypes.byref(status))
        self._check(status.value, function)
        self._held.append((kind, made))
        return int(made)

    def _build(self, source: bytes) -> int:
        text = ctypes.c_char_p(source)
        program = self._made("Program", "clCreateProgramWithSource", self._context, 1, ctypes.byref(text), None)
        if self._cl.clBuildProgram(program, 1, self._ref(self._device), None, None, None) != 0:
            log = ctypes.create_string_buffer(1 << 14)
            self._cl.clGetProgramBuildInfo(program, self._device, _BUILD_LOG, len(log), log, None)
            first = log.value.decode(errors="replace").strip().split("\n")[0]
            raise DeviceError(f"{self._graph.name}: {self.device} does not compile the kernels: {first}")
        return program

    def _buffer(self, nbytes: int) -> int:
        return self._made("MemObject", "clCreateBuffer", self._context, _READ_WRITE, nbytes, None)

    def _part(self, place: Place) -> int:
        """Return the part of a buffer that a parameter points to."""
        if place not in self._parts:
            size = min(place.nbytes, self._sizes[place.buffer] - place.offset)
            region = _Region(place.offset, max(size, 1))
            whole = self._buffers[place.buffer]
            arguments = (whole, _READ_WRITE, _REGION, ctypes.byref(region))
            self._parts[place] = self._made("MemObject", "clCreateSubBuffer", *arguments)
        return self._parts[place]

    def _kernel(self, index: int) -> int:
        launch = self._plan.launches[index]
        kernel = self._made("Kernel", "clCreateKernel", self._program, launch.kernel.encode())
        for i, place in launch.places.items():
            self._check(self._cl.clSetKernelArg(kernel, i, 8, self._ref(self._part(place))), "clSetKernelArg")
        for i, number in launch.numbers.items():
            value = _SCALARS[number.dtype](number.value)
            self._check(self._cl.clSetKernelArg(kernel, i, ctypes.sizeof(value), ctypes.byref(value)), "clSetKernelArg")
        return kernel

    def _write(self, buffer: str, offset: int, data: Array) -> None:
        arguments = (self._queue, self._buffers[buffer], _TRUE, offset, data.nbytes, data.ctypes.data, 0, None, None)
        self._check(self._cl.clEnqueueWriteBuffer(*arguments), "clEnqueueWriteBuffer")

    def run(self, *inputs: Array) -> tuple[Array, ...]:
        """Return the outputs for inputs of the graph's shapes and dtypes."""
        if not self._held:
            raise PackageError(f"{self._graph.name}: the session is closed; open another")
        self._graph.check_inputs(inputs)
        for place, value in zip(self._plan.inputs, inputs, strict=True):
            self._write(place.buffer, place.offset, np.ascontiguousarray(value))
        local = ctypes.c_size_t(self._plan.block)
        for kernel, launch in zip(self._kernels, self._plan.launches, strict=True):
            items = ctypes.c_size_t(launch.groups * self._plan.block)
            sizes = (ctypes.byref(items), ctypes.byref(local))
            status = self._cl.clEnqueueNDRangeKernel(self._queue, kernel, 1, None, *sizes, 0, None, None)
            self._check(status, f"launch of {launch.kernel}")
        outputs = tuple(np.empty(p.type.shape, p.type.dtype.numpy) for p in self._graph.outputs)
        for place, value in zip(self._plan.outputs, outputs, strict=True):
            buffer = self._buffers[place.buffer]
            status = self._cl.clEnqueueReadBuffer(
                self._queue, buffer, _TRUE, place.offset, value.nbytes, value.ctypes.data, 0, None, None
            )
            self._check(status, "clEnqueueReadBuffer")
        return outputs

    def set_threads(self, threads: int) -> None:
        """Refuse anything but 1: how many work items run at once is the device's affair."""
        if threads != 1:
            raise PackageError(f"{self._graph.name}: {threads} threads; an OpenCL device has its own, 1 is allowed")

    def close(self) -> None:
        """Release every object."""
        for kind, made in reversed(self._held):
            getattr(self._cl, f"clRelease{kind}")(made)
        self._held = []
