"""An ESP-IDF project in place of an image: for chips whose compiler comes with ESP-IDF alone. Nothing is built here."""

from bitship.converters.firmware import build
from bitship.converters.firmware.application import (
    APP,
    BOARD,
    BOARD_SOURCE,
    SERIAL_HEADERS,
    SERIAL_SOURCES,
    app_flags,
)
from bitship.targets import Application, Target

STARTUP = "idf"
PROJECT = "CMakeLists.txt"
CHIPS = {"esp32-s3": "esp32s3"}
SHARED = ("arena.c", "crc.c", "arena.h", "crc.h", "port.h")
STACK_BYTES = 8192


def is_project(target: Target) -> bool:
    """Return whether a package for the target is a project of ESP-IDF."""
    return target.toolchain is not None and target.toolchain.startup == STARTUP


def texts(target: Target, functions: tuple[str, ...], weights: bool, application: Application) -> dict[str, bytes]:
    """Return the project's files around the model and the kernels."""
    files = {f"app/{name}": (APP / name).read_bytes() for name in (*SERIAL_SOURCES, *SERIAL_HEADERS, *SHARED)}
    files[f"app/{BOARD}"] = (target.folder / BOARD_SOURCE).read_bytes()
    sources = ["model.c", *(["weights.S"] if weights else []), *(f for f in sorted(files) if f.endswith(".c"))]
    sources += [f"kernels/src/{f}" for f in build.kernel_files(functions)]
    return files | {
        PROJECT: _project(target).encode(),
        "main/CMakeLists.txt": _component(sources, app_flags(target, application)).encode(),
        "sdkconfig.defaults": _settings(target).encode(),
    }


def _project(target: Target) -> str:
    return f"""# A project of ESP-IDF 5: idf.py -p PORT build flash
cmake_minimum_required(VERSION 3.16)
set(IDF_TARGET {CHIPS[target.name]})
include($ENV{{IDF_PATH}}/tools/cmake/project.cmake)
project(bitship_model)
"""


def _component(sources: list[str], flags: list[str]) -> str:
    listed = "\n         ".join(f'"../{s}"' for s in sources)
    macros = " ".join(f.removeprefix("-D") for f in flags)
    return f"""idf_component_register(
    SRCS {listed}
    INCLUDE_DIRS ".." "../app" "../kernels/include" "../kernels/src"
    PRIV_REQUIRES driver)
target_compile_definitions(${{COMPONENT_LIB}} PRIVATE {macros})
target_compile_options(${{COMPONENT_LIB}} PRIVATE -O2 "-Wa,-I${{CMAKE_CURRENT_LIST_DIR}}/..")
"""


def _settings(target: Target) -> str:
    """Return sdkconfig.defaults: the port is the application's alone, and no watchdog ends a long inference."""
    assert target.clock_hz is not None
    assert target.flash is not None
    return f"""CONFIG_IDF_TARGET="{CHIPS[target.name]}"
CONFIG_ESP_DEFAULT_CPU_FREQ_MHZ_{target.clock_hz // 1_000_000}=y
CONFIG_ESPTOOLPY_FLASHSIZE_{target.flash.nbytes >> 20}MB=y
CONFIG_PARTITION_TABLE_SINGLE_APP_LARGE=y
CONFIG_COMPILER_OPTIMIZATION_PERF=y
CONFIG_FREERTOS_UNICORE=y
CONFIG_ESP_MAIN_TASK_STACK_SIZE={STACK_BYTES}
CONFIG_ESP_CONSOLE_NONE=y
CONFIG_BOOTLOADER_LOG_LEVEL_NONE=y
CONFIG_LOG_DEFAULT_LEVEL_NONE=y
CONFIG_ESP_TASK_WDT_EN=n
CONFIG_ESP_INT_WDT=n
"""
