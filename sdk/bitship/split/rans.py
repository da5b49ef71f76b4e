"""rANS with integer tables: the specification in Python, and the same in C where the kernels are built.

32-bit state, L = 2^23, byte renormalisation, 12-bit probabilities; symbols in (C, H, W) order, encoded last to first.
"""

from collections.abc import Iterator
from enum import IntEnum
from functools import cache

import numpy as np

from bitship import kernels
from bitship.errors import FormatError, MissingDependencyError
from bitship.graph.base import Array
from bitship.kernels import Kernels
from bitship.split.tables import ESCAPE, Tables

LOWEST = 1 << 23
_SYMBOL_BYTES, _STATE_BYTES = 3, 7  # the most of a symbol; the state, and what the encoder wants free before it


class Fault(IntEnum):
    """Why a stream is refused: the negative results of firmware/split/rans.h."""

    SHORT = -3
    STATE = -4
    END = -5
    FINAL = -6
    LEFT_OVER = -7
    ESCAPE = -8


_SAID = {
    Fault.SHORT: "fewer than 4 bytes",
    Fault.STATE: "the first state is out of its range",
    Fault.END: "the stream ends before its symbols do",
    Fault.FINAL: "the last state is not the first of the encoder",
    Fault.LEFT_OVER: "bytes are left behind the last symbol",
    Fault.ESCAPE: "a code that no encoder writes there",
}


class StreamError(FormatError):
    """A stream is damaged, truncated, or was coded with other tables; ``fault`` says how that was noticed."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(f"rANS stream: {_SAID[fault]}; it is damaged or of other tables")
        self.fault = fault


def encode(tables: Tables, symbols: Array) -> bytes:
    """Return the stream of symbols [C, H, W] int8."""
    flat = _flat(tables, symbols)
    return encode_spec(tables, flat) if (k := _kernels()) is None else _encode_c(k, tables, flat)


def decode(tables: Tables, stream: bytes, shape: tuple[int, int, int]) -> Array:
    """Return the symbols [C, H, W] int8 of a whole stream; StreamError refuses any other bytes."""
    if shape[0] != tables.channels:
        raise FormatError(f"rANS: {shape[0]} channels: the tables have {tables.channels}")
    pixels = shape[1] * shape[2]
    k = _kernels()
    found = decode_spec(tables, stream, pixels) if k is None else _decode_c(k, tables, stream, pixels)
    return found.reshape(shape)


def encode_spec(tables: Tables, symbols: Array) -> bytes:
    """Encode symbols [C, pixels] as the specification says it."""
    state, emitted = LOWEST, bytearray()
    for c in reversed(range(tables.channels)):
        offset, row = int(tables.offsets[c]), [int(n) for n in tables.cumulative[c]]
        for symbol in reversed(symbols[c].tolist()):
            code = symbol - offset
            if not 0 <= code < ESCAPE:
                code = ESCAPE
                while state >= LOWEST:
                    emitted.append(state & 255)
                    state >>= 8
                state = state << 8 | symbol & 255
            start, frequency = row[code], row[code + 1] - row[code]
            while state >= frequency << 19:
                emitted.append(state & 255)
                state >>= 8
            state = (state // frequency << 12) + state % frequency + start
    return state.to_bytes(4, "little") + bytes(reversed(emitted))


def decode_spec(tables: Tables, stream: bytes, pixels: int) -> Array:
    """Decode a stream into symbols [C, pixels] as the specification says it."""
    state, left = _first(stream), iter(stream[4:])
    result = np.empty((tables.channels, pixels), np.int8)
    for c in range(tables.channels):
        offset, row = int(tables.offsets[c]), tables.cumulative[c]
        for p in range(pixels):
            part = state & 4095
            code = int(np.searchsorted(row, part, side="right")) - 1
            symbol = offset + code
            state = (state >> 12) * int(row[code + 1] - row[code]) + part - int(row[code])
            while state < LOWEST:
                state = state << 8 | _next(left)
            if code == ESCAPE:
                symbol = (state & 255 ^ 128) - 128
                state = state & ~255 | _next(left)
                if 0 <= symbol - offset < ESCAPE:
                    raise StreamError(Fault.ESCAPE)
            if symbol > 127:
                raise StreamError(Fault.ESCAPE)
            result[c, p] = symbol
    if state != LOWEST:
        raise StreamError(Fault.FINAL)
    if next(left, None) is not None:
        raise StreamError(Fault.LEFT_OVER)
    return result


def _first(stream: bytes) -> int:
    if len(stream) < 4:
        raise StreamError(Fault.SHORT)
    state = int.from_bytes(stream[:4], "little")
    if not LOWEST <= state < 1 << 31:
        raise StreamError(Fault.STATE)
    return state


def _next(left: Iterator[int]) -> int:
    byte = next(left, None)
    if byte is None:
        raise StreamError(Fault.END)
    return byte


def _flat(tables: Tables, symbols: Array) -> Array:
    if symbols.dtype != np.int8 or symbols.ndim < 2 or symbols.shape[0] != tables.channels or symbols.size == 0:
        raise FormatError(
            f"rANS: symbols {symbols.dtype} {list(symbols.shape)}: int8 [{tables.channels}, H, W] are needed"
        )
    return np.ascontiguousarray(symbols.reshape(tables.channels, -1))


@cache
def _kernels() -> Kernels | None:
    try:
        found = kernels.load()
    except MissingDependencyError:
        return None
    return found if hasattr(found.lib, "bitship_rans_encode") else None


def _tables_c(k: Kernels, tables: Tables) -> object:
    made = k.ffi.new("struct bitship_rans_tables *")
    made.offset = k.ffi.cast("int8_t *", tables.offsets.ctypes.data)
    made.cumulative = k.ffi.cast("uint16_t *", tables.cumulative.ctypes.data)
    made.channels = tables.channels
    return made


def _encode_c(k: Kernels, tables: Tables, symbols: Array) -> bytes:
    capacity = _SYMBOL_BYTES * symbols.size + _STATE_BYTES
    out = np.empty(capacity, np.uint8)
    nbytes = k.lib.bitship_rans_encode(
        _tables_c(k, tables),
        k.ffi.cast("int8_t *", symbols.ctypes.data),
        symbols.shape[1],
        k.ffi.cast("uint8_t *", out.ctypes.data),
        capacity,
    )
    if nbytes < 0:
        raise FormatError(f"rANS: the encoder returned {nbytes}")
    return out[capacity - nbytes :].tobytes()


def _decode_c(k: Kernels, tables: Tables, stream: bytes, pixels: int) -> Array:
    result = np.empty((tables.channels, pixels), np.int8)
    error = k.lib.bitship_rans_decode(
        _tables_c(k, tables), stream, len(stream), k.ffi.cast("int8_t *", result.ctypes.data), pixels
    )
    if error != 0:
        raise StreamError(Fault(error))
    return result
