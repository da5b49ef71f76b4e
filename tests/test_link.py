"""The link: only replies that hold count, whatever the line does; the application as a process, fuzzed and damaged."""

import random
import shutil
import subprocess
import time
import zlib
from pathlib import Path

import pytest
from benchmarks.serial_faults import CALL_S, run, small_graph
from hypothesis import given
from hypothesis import strategies as st

from bitship import targets
from bitship.converters.firmware import FirmwareConverter
from bitship.converters.firmware.host_board import build_board
from bitship.device.board_session import Info
from bitship.device.console.program import Program
from bitship.device.link import Kind, Line, Link, LinkError, parse, seal
from bitship.errors import DeviceError

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler is installed")
TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="%"), max_size=60)


def frame(sequence: int, number: int, kind: Kind, text: str) -> bytes:
    """A line as the application sends it."""
    body = f"{sequence:08X}-{number}-{kind.value}-[{text}]"
    return f"m-x-{body}-{zlib.crc32(body.encode()):08X}".encode()


@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6), st.sampled_from(Kind), TEXT)
def test_a_line_is_read_as_it_was_sent(sequence: int, number: int, kind: Kind, text: str) -> None:
    assert parse(frame(sequence, number, kind, text)) == (sequence, number, Line(kind, text))


@given(TEXT, st.data())
def test_no_damaged_line_is_read(text: str, data: st.DataObject) -> None:
    raw = frame(17, 3, Kind.DATA, text)
    at = data.draw(st.integers(0, len(raw) - 1))
    change = data.draw(st.sampled_from(["flip", "drop", "insert"]))
    byte = bytes([data.draw(st.integers(0, 255))])
    damaged = {
        "flip": raw[:at] + bytes([raw[at] ^ (byte[0] or 1)]) + raw[at + 1 :],
        "drop": raw[:at] + raw[at + 1 :],
        "insert": raw[:at] + byte + raw[at:],
    }[change]
    assert damaged == raw or parse(damaged) is None


@given(st.integers(0, 2**32 - 1), TEXT)
def test_a_command_is_sealed_with_its_crc(sequence: int, text: str) -> None:
    sent = seal(sequence, text)
    assert sent.startswith(b"x ")
    assert sent.endswith(b"%")
    body, _, crc = sent[2:-1].rpartition(b" ")
    assert zlib.crc32(body) == int(crc, 16)
    assert body == f"{sequence:08X} {text}".encode()


class Scripted:
    """A device that answers every command by what the script says for it; bytes wait until they are read."""

    def __init__(self, *replies: list[bytes]) -> None:
        self.replies = list(replies)
        self.waiting = b""
        self.sent: list[bytes] = []
        self.resets = 0

    def write(self, data: bytes) -> None:
        self.sent.append(data)
        if data == b"%":
            self.waiting += b"m-ready\r\n"
        elif self.replies:
            sequence = int(data.split()[1], 16)
            lines = [line.replace(b"SEQ", b"%d" % sequence) for line in self.replies.pop(0)]
            self.waiting += b"".join(self._framed(sequence, line) + b"\r\n" for line in lines)

    @staticmethod
    def _framed(sequence: int, line: bytes) -> bytes:
        if not line.startswith(b"!"):
            return line
        number, kind, text, shift = line[1:].decode().split("|")
        return frame(sequence + int(shift), int(number), Kind(kind), text)

    def read(self, deadline_s: float) -> bytes:
        found, self.waiting = self.waiting[:7], self.waiting[7:]
        return found

    def reset(self) -> None:
        self.resets += 1


GOOD = [b"!0|data|7|0", b"!1|end|ok|0", b"m-ready"]


def test_a_whole_reply_counts() -> None:
    lines = Link(Scripted(GOOD), "fake", 0.01).ask("info")
    assert lines == (Line(Kind.DATA, "7"), Line(Kind.END, "ok"))


@pytest.mark.parametrize(
    "reply",
    [
        [],
        [b"m-ready"],
        [b"e-[crc]", b"m-ready"],
        [b"!1|end|ok|0", b"m-ready"],  # the first line is lost
        [b"!0|data|7|0", b"m-ready"],  # the last line is lost
        [b"!0|data|7|0", b"!0|data|7|0", b"!1|end|ok|0", b"m-ready"],  # a line came twice
        [b"!0|data|7|-1", b"!1|end|ok|-1", b"m-ready"],  # of an earlier attempt
        [b"!0|data|7|0", b"noise", b"!1|end|ok|0", b"m-ready"],
        [b"!0|data|7|0", b"!1|end|ok|0", b"m-readym-ready"],
        [b"m-timestamp-mode-performance", b"m-init-done", b"m-ready"],  # it has restarted
    ],
)
def test_a_reply_that_does_not_hold_is_asked_for_again(reply: list[bytes]) -> None:
    device = Scripted(reply, GOOD)
    assert Link(device, "fake", 0.01).ask("info")[0].text == "7"
    numbers = [int(sent.split()[1], 16) for sent in device.sent if sent != b"%"]
    assert len(set(numbers)) == 2


def test_an_error_shows_the_raw_exchange() -> None:
    device = Scripted(*[[b"hello from another firmware", b"m-ready"]] * 9)
    with pytest.raises(LinkError, match=r"in 6 attempts.*hello from another firmware"):
        Link(device, "fake", 0.01).ask("info")
    with pytest.raises(LinkError, match=r"was expected within 0 s.*hello from another firmware"):
        Link(Scripted(*[[b"hello from another firmware"]] * 9), "fake", 0.01).handshake(0)


def test_a_refusal_is_not_tried_again() -> None:
    device = Scripted([b"!0|err|there is no such step|0", b"m-ready"], GOOD)
    with pytest.raises(DeviceError, match="there is no such step"):
        Link(device, "fake", 0.01).ask("prefix 99")


class Mute(Scripted):
    def write(self, data: bytes) -> None:
        self.sent.append(data)


class Talker(Scripted):
    """Another firmware that never stops talking, whatever it is sent."""

    def __init__(self, text: bytes) -> None:
        super().__init__()
        self.text = text

    def read(self, deadline_s: float) -> bytes:
        return self.text


@pytest.mark.parametrize("text", [b"log: all is well\r\n" * 50, b"\x00\xff" * 50])
def test_a_device_that_never_stops_talking_is_given_up_within_a_deadline(text: bytes) -> None:
    link = Link(Talker(text), "fake", 0.05, attempts=2)
    start = time.monotonic()
    with pytest.raises(LinkError, match="in 2 attempts"):
        link.ask("info")
    with pytest.raises(LinkError, match="not a bitship application"):
        link.handshake(1.0)
    assert time.monotonic() - start < 60


def test_a_silent_device_is_restarted_and_then_given_up() -> None:
    device = Mute()
    with pytest.raises(LinkError, match="no reply"):
        Link(device, "fake", 0.01, reset=device.reset).ask("info")
    assert device.resets == 5


@needs_cc
@pytest.mark.parametrize("streamed", [False, True])
def test_hundreds_of_corruptions_let_no_wrong_result_through(streamed: bool) -> None:
    outcome = run(300, 7, streamed)
    assert outcome.corruptions >= 300
    assert outcome.right > 10
    assert (outcome.wrong, outcome.lost) == (0, 0)
    assert outcome.slowest_s < CALL_S


@needs_cc
@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True])
def test_ten_thousand_corruptions_let_no_wrong_result_through(streamed: bool) -> None:
    outcome = run(10_000, 3, streamed)
    assert (outcome.wrong, outcome.lost) == (0, 0)
    assert outcome.slowest_s < CALL_S


def noise(rng: random.Random, count: int) -> bytes:
    """Bytes of all kinds, and commands with something wrong in them."""
    out = bytearray()
    words = [
        b"infer 1 0",
        b"db load 9",
        b"db 0G",
        b"db load 99999999999",
        b"x",
        b"x 1 run 1 00000000",
        b"results",
        b"db print",
    ]
    while len(out) < count:
        match rng.randrange(4):
            case 0:
                out += rng.randbytes(rng.randrange(400))
            case 1:
                out += b"A" * rng.randrange(3000) + b"%"
            case 2:
                word = bytearray(rng.choice(words))
                word[rng.randrange(len(word))] ^= 1 << rng.randrange(8)
                out += word + b"%"
            case _:
                sent = bytearray(
                    seal(rng.randrange(1 << 32), rng.choice(["load 0 00", "look 0 0 9", "run 0", "out 9 0 1"]))
                )
                sent[rng.randrange(len(sent))] ^= 1 << rng.randrange(8)
                out += sent
    return bytes(out)


@needs_cc
def test_garbage_neither_crashes_the_application_nor_is_taken_for_a_command(tmp_path: Path) -> None:
    target = targets.load("microbit")
    sanitizers = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-g")
    board = build_board(FirmwareConverter().lower(small_graph(), target), target, tmp_path, flags=sanitizers)
    sent = noise(random.Random(11), 300_000)
    done = subprocess.run([str(board)], input=sent, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    replies = [parse(line.rstrip(b"\r")) for line in done.stdout.split(b"\n")]
    assert not [r for r in replies if r is not None]  # no damaged command was run
    assert done.stdout.count(b"m-ready") >= sent.count(b"%")

    program = Program([str(board)])
    try:
        link = Link(program, "sanitized", 5.0)
        program.write(noise(random.Random(12), 5_000))
        assert not Info.of(link.handshake(10), "sanitized").streamed
    finally:
        program.stop()
