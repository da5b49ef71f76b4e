"""Formats we write ourselves, read by programs that others wrote: UF2 by uf2utils, MCUboot's image by imgtool."""

import hashlib
import subprocess
from pathlib import Path

import pytest
from tool_install import environment
from tools.flashing import Images

from bitship import targets
from bitship.device.flash.elf import read_image
from bitship.device.flash.smp import wrap
from bitship.device.flash.uf2 import encode
from bitship.targets.flashers import Uf2Tool

pytestmark = [pytest.mark.tools, pytest.mark.slow]


def ask(program: str, *words: str | Path) -> str:
    folder = environment("formats", "uf2utils==0.9.8", "imgtool==2.5.0")
    return subprocess.run(
        [folder / program, *words], check=True, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL
    ).stdout


@pytest.mark.parametrize(("board", "family"), [("rp2040", "Raspberry Pi RP2040"), ("rp2350", "rp2350 ARM S")])
def test_a_uf2_file_spans_the_image_for_its_family(board: str, family: str, images: Images, tmp_path: Path) -> None:
    elf, _ = images(board)
    image = read_image(elf)
    fact = next(f for f in targets.load(board).flashers if isinstance(f, Uf2Tool))
    (tmp_path / "a.uf2").write_bytes(encode(image, fact.family))
    said = ask("uf2info", tmp_path / "a.uf2")
    size = len(image.flat("", 256).data)
    assert f"spanning 0x10000000 - 0x{0x10000000 + size - 256:x} in {size // 256} blocks" in said
    assert "Contains NO gaps" in said
    assert "All blocks have board family value" in said
    assert family in said


def test_imgtool_accepts_the_header_and_the_hash(images: Images, tmp_path: Path) -> None:
    elf, _ = images("nrf52840-dk-mcuboot")
    data = wrap(read_image(elf).flat("", 4).data)
    file = tmp_path / "image.bin"
    file.write_bytes(data)
    said = ask("imgtool", "verify", file)
    assert "Image was correctly validated" in said
    assert hashlib.sha256(data[:-40]).hexdigest() in said
    file.write_bytes(data[:600] + bytes([data[600] ^ 1]) + data[601:])
    with pytest.raises(subprocess.CalledProcessError):
        ask("imgtool", "verify", file)
