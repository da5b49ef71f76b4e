"""The firmware's NPU port: over a stand-in of Arm's driver on this machine, without one, and built for Cortex-M55."""

import ctypes
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from op_cases import CASES

from bitship import targets
from bitship.converters.ethosu import EthosUConverter, plan

ROOT = Path(__file__).resolve().parents[1]
NPU = ROOT / "firmware" / "npu"
STANDIN = ROOT / "tests" / "standins" / "ethosu_driver.c"
FLAGS = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wsign-conversion", "-Werror", f"-I{NPU}"]
OK, RUNNING, ABSENT, BAD, BUSY, FAILED = 0, 1, -1, -2, -3, -4


class Npu(ctypes.Structure):
    _fields_ = (
        ("device", ctypes.c_void_p),
        ("running", ctypes.c_int),
        ("driver_status", ctypes.c_int),
        ("bases", ctypes.c_uint64 * 8),
        ("sizes", ctypes.c_size_t * 8),
    )


class Base(ctypes.Structure):
    _fields_ = (("address", ctypes.c_void_p), ("bytes", ctypes.c_size_t))


def library(folder: Path, *sources: Path) -> Any:
    cc = shutil.which("cc")
    if cc is None:
        pytest.skip("no C compiler")
    out = folder / "libnpu.so"
    subprocess.run([cc, *FLAGS, "-shared", "-fPIC", "-o", out, *sources], check=True, timeout=60)
    found = ctypes.CDLL(str(out))
    found.bitship_npu_text.restype = ctypes.c_char_p
    return found


@pytest.fixture
def port(tmp_path: Path) -> Any:
    found = library(tmp_path, NPU / "npu_ethosu.c", STANDIN)
    found.device = ctypes.create_string_buffer(64)
    assert found.ethosu_init(found.device, None, None, ctypes.c_size_t(0), 1, 1) == 0
    return found


def aligned(body: bytes) -> tuple[Any, ctypes.c_void_p]:
    buffer = ctypes.create_string_buffer(len(body) + 16)
    start = -ctypes.addressof(buffer) % 16
    ctypes.memmove(ctypes.addressof(buffer) + start, body, len(body))
    return buffer, ctypes.c_void_p(ctypes.addressof(buffer) + start)


def test_a_stream_runs_over_its_regions_and_ends(port: Any) -> None:
    npu, (_keep, commands), (_room, arena) = Npu(), aligned(b"COP1" + bytes(28)), aligned(bytes(64))
    bases = (Base * 2)(Base(None, 0), Base(arena, 64))
    assert port.bitship_npu_open(ctypes.byref(npu)) == OK
    assert port.bitship_npu_poll(ctypes.byref(npu)) == BUSY
    assert port.bitship_npu_run(ctypes.byref(npu), commands, ctypes.c_size_t(32), bases, ctypes.c_size_t(2)) == OK
    assert ctypes.c_int.in_dll(port, "standin_size").value == 32
    assert list((ctypes.c_uint64 * 8).in_dll(port, "standin_base"))[:2] == [0, arena.value]
    assert port.bitship_npu_run(ctypes.byref(npu), commands, ctypes.c_size_t(32), bases, ctypes.c_size_t(2)) == BUSY
    assert port.bitship_npu_close(ctypes.byref(npu)) == BUSY
    assert port.bitship_npu_wait(ctypes.byref(npu), 2) == RUNNING
    assert port.bitship_npu_wait(ctypes.byref(npu), 100) == OK
    assert port.bitship_npu_close(ctypes.byref(npu)) == OK
    assert port.bitship_npu_open(ctypes.byref(npu)) == OK


def test_what_the_driver_refuses_or_fails_in_is_said(port: Any) -> None:
    npu, other = Npu(), Npu()
    (_keep, commands), (_room, wrong) = aligned(b"COP1" + bytes(28)), aligned(bytes(32))
    bases = (Base * 1)(Base(None, 0))
    assert port.bitship_npu_open(ctypes.byref(npu)) == OK
    assert port.bitship_npu_open(ctypes.byref(other)) == ABSENT
    assert port.bitship_npu_run(ctypes.byref(npu), wrong, ctypes.c_size_t(32), bases, ctypes.c_size_t(1)) == FAILED
    assert npu.driver_status == -1
    assert port.bitship_npu_run(ctypes.byref(npu), commands, ctypes.c_size_t(32), bases, ctypes.c_size_t(1)) == OK
    ctypes.c_int.in_dll(port, "standin_fails").value = 1
    assert port.bitship_npu_wait(ctypes.byref(npu), 100) == FAILED
    assert npu.driver_status == -2
    assert b"driver_status" in port.bitship_npu_text(FAILED)


@pytest.mark.parametrize(("shift", "size", "count"), [(4, 32, 1), (0, 0, 1), (0, 32, 0), (0, 32, 9)])
def test_a_wrong_argument_starts_nothing(port: Any, shift: int, size: int, count: int) -> None:
    npu, (_keep, commands) = Npu(), aligned(b"COP1" + bytes(60))
    bases = (Base * 9)()
    assert port.bitship_npu_open(ctypes.byref(npu)) == OK
    at = ctypes.c_void_p((commands.value or 0) + shift)
    assert port.bitship_npu_run(ctypes.byref(npu), at, ctypes.c_size_t(size), bases, ctypes.c_size_t(count)) == BAD
    assert ctypes.c_int.in_dll(port, "standin_size").value == 0


def test_a_base_that_is_not_aligned_or_is_null_with_bytes_is_refused(port: Any) -> None:
    npu, (_keep, commands) = Npu(), aligned(b"COP1" + bytes(60))
    assert port.bitship_npu_open(ctypes.byref(npu)) == OK
    for base in (Base((commands.value or 0) + 8, 8), Base(None, 8)):
        bases = (Base * 1)(base)
        assert port.bitship_npu_run(ctypes.byref(npu), commands, ctypes.c_size_t(32), bases, ctypes.c_size_t(1)) == BAD


def test_without_a_driver_every_call_refuses_and_says_what_to_link(tmp_path: Path) -> None:
    port, npu = library(tmp_path, NPU / "npu_absent.c"), Npu()
    assert port.bitship_npu_open(ctypes.byref(npu)) == ABSENT
    assert port.bitship_npu_poll(ctypes.byref(npu)) == ABSENT
    assert b"ETHOS_U_DRIVER_DIR" in port.bitship_npu_text(ABSENT)


IMAGE = """
#include "npu.h"
#include "package/npu.h"
extern const uint8_t stream[], stream_end[], weights[];
static uint8_t scratch[NPU0_SCRATCH_BYTES] __attribute__((aligned(16)));
int main(void) {
    struct bitship_npu npu = {0};
    struct bitship_npu_base bases[BITSHIP_NPU_BASES] = {{0}};
    bases[NPU0_SCRATCH_REGION] = (struct bitship_npu_base){scratch, sizeof scratch};
    bases[NPU0_WEIGHTS_REGION] = (struct bitship_npu_base){(void *)(uintptr_t)weights, 0};
    if (bitship_npu_open(&npu) != BITSHIP_NPU_OK) {
        return 1;
    }
    return bitship_npu_run(&npu, stream, (size_t)(stream_end - stream), bases, 3);
}
"""
DATA = """
.section .rodata
.balign 16
.global stream, stream_end, weights
stream: .incbin "package/npu0.commands.bin"
stream_end:
.balign 16
weights: .incbin "package/npu0.weights.bin"
"""


@pytest.mark.target
@pytest.mark.parametrize("implementation", [("npu_ethosu.c", STANDIN), ("npu_absent.c",)])
def test_an_image_for_cortex_m55_links_with_a_package_s_command_stream(
    implementation: tuple[Any, ...], tmp_path: Path
) -> None:
    pytest.importorskip("ethosu.vela")
    cc = shutil.which("arm-none-eabi-gcc")
    if cc is None:
        pytest.skip("arm-none-eabi-gcc not installed")
    graph, _ = CASES["conv_3x3"]()
    EthosUConverter().convert(graph, targets.load("ethos-u55-128"), tmp_path / "package")
    (tmp_path / "image.c").write_text(IMAGE)
    (tmp_path / "data.S").write_text(DATA)
    sources = [NPU / s for s in implementation] + ["image.c", "data.S"]
    core = ["-mcpu=cortex-m55", "-mthumb", "-mfloat-abi=hard", "--specs=nosys.specs", f"-I{tmp_path}", "-Os"]
    command = [cc, *FLAGS, *core, "-Wno-conversion", "-o", "image.elf", *sources]
    subprocess.run(command, check=True, timeout=120, cwd=tmp_path, capture_output=True)
    stream = (tmp_path / "package" / plan.read(tmp_path / "package" / plan.FILE).runs[0].commands).read_bytes()
    assert stream in (tmp_path / "image.elf").read_bytes()
