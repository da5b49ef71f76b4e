"""Every target.toml, and the images of the boards: vector tables, entries, sections, and what a ROM wants to see."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import msgspec
import pytest
from op_cases import CASES

from bitship import export, targets
from bitship.converters.firmware import FirmwareConverter
from bitship.device.flash.elf import Image, read_image
from bitship.errors import DoesNotFitError, TargetError
from bitship.targets import TargetKind

README = Path(targets.__file__).parent / "README.md"
BOARDS = [
    n
    for n in targets.names()
    if targets.load(n).kind is TargetKind.MCU
    and not targets.load(n).emulator
    and (targets.load(n).folder / "link.ld").is_file()
]
BOOT = {"corstone-320-u85-256": 0x11000000}  # where a board without flash fetches its vectors


def test_there_are_boards() -> None:
    assert {"nucleo-l4r5zi", "stm32f746g-disco", "stm32h743", "nrf52840-dk", "rp2040", "rp2350", "esp32-c3"} <= {
        *BOARDS
    }


@pytest.mark.parametrize("name", targets.names())
def test_every_target_loads_and_says_what_its_kind_needs(name: str) -> None:
    target = targets.load(name)
    assert target.title
    assert target.converters or target.kind is TargetKind.CLOUD
    if target.kind is TargetKind.MCU and target.emulator is None:
        assert not target.verified
        assert target.clock_hz
        assert target.uart
        assert target.timer
        assert target.flashers or name == "esp32-s3"
        assert target.notes
    if target.toolchain is not None and target.kind is TargetKind.MCU:
        assert (target.folder / "link.ld").is_file() or target.toolchain.startup == "idf"
    assert all(re.fullmatch(r"[0-9a-f]{4}:[0-9a-f]{4}", u) for u in target.usb)


def test_the_readme_lists_every_target_and_whether_it_is_verified() -> None:
    rows = dict(re.findall(r"^\| `([\w-]+)` \|.*\| (yes|no) \|$", README.read_text(), re.MULTILINE))
    assert rows == {n: "yes" if targets.load(n).verified else "no" for n in targets.names()}


def test_a_target_without_a_converter_says_what_to_do(tmp_path: Path) -> None:
    bare = msgspec.structs.replace(targets.load("qualcomm-x-elite"), converters=())
    with pytest.raises(TargetError, match=r"qualcomm-x-elite': no converter makes packages for hosted devices; export"):
        export(CASES["conv_3x3"]()[0], bare, tmp_path / "pkg")
    assert not (tmp_path / "pkg").exists()


def test_titles_differ() -> None:
    titles = [targets.load(n).title for n in targets.names()]
    assert len({*titles}) == len(titles)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("clock = 1", r"unknown field `clock`.*did you mean 'clock_hz'\?"),
        ('[[flashers]]\ntool = "pyocdd"', r"did you mean 'pyocd'\?"),
        ('[[flashers]]\ntool = "pyocd"\ntargt = "x"', r"did you mean 'target'\?"),
        ('[[flashers]]\ntool = "esptool"', r"missing required field `chip`"),
    ],
)
def test_a_wrong_key_names_the_nearest_right_one(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bitship.targets import base

    head = 'name = "x"\ntitle = "X"\nkind = "mcu"\ncpu = "cortex-m4"\nconverters = []\n'
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "target.toml").write_text(head + line + "\n")
    monkeypatch.setattr(base, "ROOT", tmp_path)
    with pytest.raises(TargetError, match=r"target\.toml: .*" + said):
        targets.load("x")


def crc32_rom(data: bytes) -> int:
    """CRC-32 as the RP2040's ROM takes it: 04C11DB7, all ones first, most significant bit first, no inversion."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return crc


def built(name: str, folder: Path) -> Image:
    """Build a small package for a board; return its image."""
    target = targets.load(name)
    assert target.toolchain is not None
    if shutil.which(f"{target.toolchain.prefix}gcc") is None:
        pytest.skip(f"{target.toolchain.prefix}gcc not installed")
    conversion = FirmwareConverter().convert(CASES["conv_3x3"]()[0], target, folder)
    assert conversion.artifacts[0].role == "serial"
    return read_image(folder / "model.elf")


def word(image: Image, address: int) -> int:
    """Return the word an image puts at a load address."""
    for s in image.segments:
        if s.address <= address and address + 4 <= s.address + len(s.data):
            return int(struct.unpack_from("<I", s.data, address - s.address)[0])
    raise AssertionError(hex(address))


@pytest.mark.target
@pytest.mark.parametrize("name", BOARDS)
def test_an_image_is_where_the_board_starts_and_fits(name: str, tmp_path: Path) -> None:
    target, image = targets.load(name), built(name, tmp_path)
    assert target.flash is not None
    assert target.ram is not None
    flash, ram = target.flash, target.ram
    total = sum(len(s.data) for s in image.segments)
    if target.cpu.startswith("cortex-m"):
        first = BOOT.get(name, flash.origin)
        table = first + (256 if name == "rp2040" else 0)
        assert image.segments[0].address == first
        assert image.segments[-1].address + len(image.segments[-1].data) <= flash.origin + flash.nbytes
        stack, reset = word(image, table), word(image, table + 4)
        assert ram.origin < stack <= ram.origin + ram.nbytes
        assert stack % 8 == 0
        assert reset & 1
        assert flash.origin + table - first < reset & ~1 < flash.origin + total
        handlers = [word(image, table + 4 * i) for i in range(1, 16)]
        assert all(h & 1 and flash.origin < h < flash.origin + total for h in handlers)
    else:
        assert image.segments[0].address == 0
        assert flash.origin < image.entry < flash.origin + flash.nbytes
    assert 8000 < total < 64000


@pytest.mark.target
def test_rp2040_has_a_second_stage_whose_crc_the_rom_accepts(tmp_path: Path) -> None:
    image = built("rp2040", tmp_path)
    stage = image.segments[0].data[:256]
    assert struct.unpack("<I", stage[252:])[0] == crc32_rom(stage[:252])
    constants = struct.unpack_from("<6I", stage, 0x38)
    assert constants == (0x18000000, 0x001F0300, 0x03000218, 0x180000F4, 0x10000100, 0xE000ED08)
    assert stage[0x50:252] == bytes(252 - 0x50)
    # every load from the constants hits its word
    loads = {i: struct.unpack_from("<H", stage, i)[0] for i in range(0, 0x38, 2)}
    hit = [((i + 4) & ~3) + 4 * (h & 0xFF) for i, h in loads.items() if h >> 11 == 0b01001]
    assert sorted(hit) == [0x38, 0x3C, 0x40, 0x44, 0x48, 0x4C]


@pytest.mark.target
def test_rp2350_has_the_block_by_which_the_rom_knows_an_image(tmp_path: Path) -> None:
    image = built("rp2350", tmp_path)
    block = struct.pack("<5I", 0xFFFFDED3, 0x10210142, 0x000001FF, 0, 0xAB123579)
    at = image.segments[0].data[:4096].find(block)
    assert at == 64
    assert image.segments[0].data.count(block[:4]) == 1


@pytest.mark.target
def test_esp32_c3_begins_with_the_magic_of_direct_boot_and_reads_constants_as_data(tmp_path: Path) -> None:
    image = built("esp32-c3", tmp_path)
    data = image.flat("").data
    assert data[:8] == struct.pack("<II", 0xAEDB041D, 0xAEDB041D)
    assert data[8:12] != bytes(4)
    raw = (tmp_path / "model.elf").read_bytes()
    at, count = struct.unpack_from("<I", raw, 28)[0], struct.unpack_from("<H", raw, 44)[0]
    for i in range(count):
        kind, _, virtual, physical, size = struct.unpack_from("<5I", raw, at + 32 * i)
        if kind == 1 and size and virtual < 0x3FC00000:
            window = 0x42000000 if virtual >> 24 == 0x42 else 0x3C000000
            assert virtual - window == physical


@pytest.mark.target
@pytest.mark.parametrize("name", ["rp2040", "nrf52840-dk"])
def test_a_board_that_is_too_small_is_said_so(name: str, tmp_path: Path) -> None:
    target = targets.load(name)
    assert target.flash is not None
    assert target.ram is not None
    little = msgspec.structs.replace(target, flash=msgspec.structs.replace(target.flash, nbytes=8192))
    with pytest.raises(DoesNotFitError, match=rf"{name}: .* of flash"):
        FirmwareConverter().convert(CASES["conv_3x3"]()[0], little, tmp_path)
    little = msgspec.structs.replace(target, ram=msgspec.structs.replace(target.ram, nbytes=4500))
    with pytest.raises(DoesNotFitError, match=rf"{name}: .* of RAM"):
        FirmwareConverter().convert(CASES["conv_3x3"]()[0], little, tmp_path)


STUBS = {
    "driver/gpio.h": """int gpio_reset_pin(int); int gpio_set_level(int, unsigned); int gpio_set_direction(int, int);
enum { GPIO_MODE_OUTPUT = 2 };""",
    "driver/uart.h": """#include <stddef.h>
#include <stdint.h>
typedef struct { int baud_rate, data_bits, parity, stop_bits, flow_ctrl; uint8_t rx_flow_ctrl_thresh; int source_clk; }
    uart_config_t;
enum { UART_NUM_0, UART_DATA_8_BITS = 3, UART_PARITY_DISABLE = 0, UART_STOP_BITS_1 = 1, UART_HW_FLOWCTRL_DISABLE = 0,
       UART_SCLK_XTAL = 10 };
int uart_driver_install(int, int, int, int, void *, int); int uart_param_config(int, const uart_config_t *);
int uart_read_bytes(int, void *, uint32_t, uint32_t); int uart_write_bytes(int, const void *, size_t);
int uart_wait_tx_done(int, uint32_t);""",
    "esp_cpu.h": "#include <stdint.h>\nuint32_t esp_cpu_get_cycle_count(void);",
    "esp_system.h": "void esp_restart(void);",
    "freertos/FreeRTOS.h": "#define portMAX_DELAY 0xFFFFFFFFu",
    "freertos/task.h": "unsigned uxTaskGetStackHighWaterMark(void *);",
    "sdkconfig.h": "#define CONFIG_ESP_MAIN_TASK_STACK_SIZE 8192",
}


@pytest.mark.target
def test_esp32_s3_is_a_project_whose_sources_compile_against_the_declared_interface(tmp_path: Path) -> None:
    """ESP-IDF is not here: its headers are replaced by declarations of what the port uses, nothing is linked."""
    cc = shutil.which("riscv64-unknown-elf-gcc")
    if cc is None:
        pytest.skip("riscv64-unknown-elf-gcc not installed")
    conversion = FirmwareConverter().convert(CASES["conv_3x3"]()[0], targets.load("esp32-s3"), tmp_path)
    assert conversion.artifacts[0].path == "CMakeLists.txt"
    assert conversion.artifacts[0].role == "serial"
    assert conversion.footprint.code_bytes is None
    text = (tmp_path / "main" / "CMakeLists.txt").read_text()
    sources = [tmp_path / "main" / s for s in re.findall(r'"(\.\./[\w./]+\.[cS])"', text)]
    assert {"model.c", "weights.S", "board.c", "serial.c"} <= {s.name for s in sources}
    assert {str(s.resolve().relative_to(tmp_path)) for s in sources} <= {*conversion.files}
    macros = re.search(r"target_compile_definitions\(\S+ PRIVATE (.*)\)", text)
    assert macros
    for name, body in STUBS.items():
        (tmp_path / "stubs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "stubs" / name).write_text(body)
    flags = [f"-D{m}" for m in macros[1].split()] + [f"-I{tmp_path / d}" for d in (".", "app", "kernels/include")]
    flags += [f"-I{tmp_path / d}" for d in ("kernels/src", "stubs")] + ["-DESP_PLATFORM", "-Wall", "-Werror", "-c"]
    flags += ["-march=rv32imc", "-mabi=ilp32", "--specs=picolibc.specs", f"-Wa,-I{tmp_path}"]
    for source in sources:
        subprocess.run([cc, *flags, "-o", str(tmp_path / "x.o"), str(source)], check=True, timeout=60)


def second_stage(code: bytes, memory: dict[int, int]) -> tuple[list[tuple[int, int]], int, int]:
    """Run the RP2040's second stage, the few Thumb instructions it is made of; return (writes, MSP, where it goes)."""
    r, writes, stack, pc = [0] * 16, list[tuple[int, int]](), 0, 0
    for _ in range(100):
        (op,) = struct.unpack_from("<H", code, pc)
        if op >> 11 == 0b01001:  # ldr Rt, [pc, #imm]
            at = ((pc + 4) & ~3) + 4 * (op & 0xFF)
            r[op >> 8 & 7] = struct.unpack_from("<I", code, at)[0]
        elif op >> 11 == 0b00100:  # movs Rd, #imm
            r[op >> 8 & 7] = op & 0xFF
        elif op >> 11 == 0b01100:  # str Rt, [Rn, #imm]
            writes.append((r[op >> 3 & 7] + 4 * (op >> 6 & 31), r[op & 7]))
        elif op >> 11 == 0b11001:  # ldmia Rn!, {...}
            base = r[op >> 8 & 7]
            for i in (i for i in range(8) if op >> i & 1):
                r[i], base = memory[base], base + 4
        elif op == 0xF381 and struct.unpack_from("<H", code, pc + 2)[0] == 0x8808:  # msr MSP, r1
            stack, pc = r[1], pc + 2
        elif op >> 7 == 0b010001110:  # bx Rm
            return writes, stack, r[op >> 3 & 15]
        else:
            raise AssertionError(f"{pc:#x}: {op:#06x}")
        pc += 2
    raise AssertionError("no end")


@pytest.mark.target
def test_rp2040_second_stage_sets_the_flash_up_and_enters_the_image(tmp_path: Path) -> None:
    image = built("rp2040", tmp_path)
    table = 0x10000100
    writes, stack, start = second_stage(
        image.segments[0].data[:256], {table: word(image, table), table + 4: word(image, table + 4)}
    )
    ssi = 0x18000000
    assert writes == [
        (ssi + 0x08, 0),  # off, for the others can be written only then
        (ssi + 0x14, 4),
        (ssi + 0x00, 31 << 16 | 3 << 8),
        (ssi + 0xF4, 0x03 << 24 | 2 << 8 | 6 << 2),
        (ssi + 0x04, 0),
        (ssi + 0x08, 1),
        (0xE000ED08, table),
    ]
    assert stack == word(image, table)
    assert start == word(image, table + 4)
    assert start & 1
