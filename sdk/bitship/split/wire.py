"""Between codes and frames: what a device sends for a package's features, and what a server makes of it."""

import hmac

import numpy as np

from bitship.errors import FormatError, MissingDependencyError
from bitship.extras import require
from bitship.graph.base import Array
from bitship.split import package, rans, tables
from bitship.split.frame import HASH_BYTES, MAX_PAYLOAD, Codec, Frame, Kind, Refusal, RefusedError
from bitship.split.package import SplitPackage

ZSTD_LEVEL = 19


class Wire:
    """A package's rungs, tables and hashes, ready for use.

    model, tables  the whole hashes, 16 hexadecimal digits, which an OIP request carries; split  names the cut
    """

    def __init__(self, made: SplitPackage) -> None:
        m = made.manifest
        self.manifest = m
        self.model = m.model_hash
        self.tables = tuple(r.table_hash for r in m.rungs)
        self.split = f"{m.features[0]}x{m.features[1]}x{m.features[2]}:{m.zero_point}"
        self._tables = tuple(tables.parse(made.tables(r), m.features[2]) for r in range(len(m.rungs)))
        self._model4 = bytes.fromhex(self.model)[:HASH_BYTES]
        self._table4 = tuple(bytes.fromhex(t)[:HASH_BYTES] for t in self.tables)

    @property
    def symbols(self) -> int:
        """How many symbols a frame holds; a raw payload has as many bytes."""
        height, width, channels = self.manifest.features
        return height * width * channels

    @property
    def shape(self) -> tuple[int, int, int]:
        """Symbols are [C, H, W]."""
        height, width, channels = self.manifest.features
        return channels, height, width

    def pack(self, codes: Array, rung: int, sequence: int, zstd: bool = False) -> Frame:
        """Return the frame of a head's features [1, H, W, C] int8: the smallest payload of the codecs there are."""
        self.check_rung(rung)
        m = self.manifest
        if codes.shape != (1, *m.features) or codes.dtype != np.int8:
            raise FormatError(f"features {codes.dtype} {list(codes.shape)}: int8 {[1, *m.features]} is needed")
        symbols = package.symbols_of(codes, m.zero_point, m.rungs[rung].shift)[0].transpose(2, 0, 1)
        symbols = np.ascontiguousarray(symbols)
        found = [(Codec.RAW, symbols.tobytes()), (Codec.RANS, rans.encode(self._tables[rung], symbols))]
        if zstd:
            library = require("zstandard", "split", "codec zstd")
            compressor = library.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=False, write_checksum=False)
            found.append((Codec.ZSTD, compressor.compress(symbols.tobytes())))
        codec, payload = min(found, key=lambda pair: len(pair[1]))
        if len(payload) > MAX_PAYLOAD:
            raise FormatError(
                f"features of {self.symbols} symbols: {len(payload)} B do not fit a frame, {MAX_PAYLOAD} B do"
            )
        return Frame(Kind.FEATURES, payload, codec, rung, sequence & 0xFFFF, self._model4, self._table4[rung])

    def hello(self, rung: int = 0) -> Frame:
        """Return the frame that a device begins with: its hashes, nothing else."""
        self.check_rung(rung)
        return Frame(Kind.HELLO, b"", Codec.RAW, rung, 0, self._model4, self._table4[rung])

    def check_rung(self, rung: int) -> None:
        """Raise RefusedError for a rung that the package has not."""
        if not 0 <= rung < len(self._tables):
            raise RefusedError(Refusal.UNKNOWN_RUNG, f"rung {rung}: the package has 0 to {len(self._tables) - 1}")

    def check(self, frame: Frame) -> None:
        """Raise RefusedError unless the frame is of this package and of a rung's tables."""
        if not hmac.compare_digest(frame.model, self._model4):
            raise RefusedError(
                Refusal.WRONG_MODEL, f"model_hash {frame.model.hex()}: {self._model4.hex()} is served here"
            )
        self.check_rung(frame.rung)
        wanted = self._table4[frame.rung]
        if not hmac.compare_digest(frame.table, wanted):
            raise RefusedError(
                Refusal.STALE_TABLE,
                f"table_hash {frame.table.hex()} of rung {frame.rung}: {wanted.hex()} is served here",
            )

    def unpack(self, frame: Frame) -> Array:
        """Return the codes [1, H, W, C] int8 that the tail is given; RefusedError names what is wrong."""
        if frame.kind != Kind.FEATURES:
            raise RefusedError(Refusal.WRONG_KIND, f"kind {frame.kind}: {Kind.FEATURES} (features) is needed")
        self.check(frame)
        symbols = self._symbols(frame)
        m = self.manifest
        codes = package.codes_of(symbols.transpose(1, 2, 0)[None], m.zero_point, m.rungs[frame.rung].shift)
        return np.ascontiguousarray(codes)

    def _symbols(self, frame: Frame) -> Array:
        payload = frame.payload
        match frame.codec:
            case Codec.RANS:
                try:
                    return rans.decode(self._tables[frame.rung], payload, self.shape)
                except FormatError as e:
                    raise RefusedError(Refusal.DAMAGED, str(e)) from None
            case Codec.ZSTD:
                payload = self._unzstd(payload)
            case Codec.RAW:
                pass
            case other:
                raise RefusedError(Refusal.UNKNOWN_CODEC, f"codec {other}: {[int(c) for c in Codec]} are known")
        if len(payload) != self.symbols:
            raise RefusedError(Refusal.DAMAGED, f"{len(payload)} symbols: {self.symbols} are needed")
        return np.frombuffer(payload, np.int8).reshape(self.shape)

    def _unzstd(self, payload: bytes) -> bytes:
        try:
            library = require("zstandard", "split", "codec zstd")
        except MissingDependencyError:
            raise RefusedError(Refusal.UNKNOWN_CODEC, "codec zstd: not installed here; use rans or raw") from None
        try:
            with library.ZstdDecompressor(max_window_size=1 << 20).stream_reader(payload) as stream:
                found: bytes = stream.read(self.symbols + 1)
        except library.ZstdError as e:
            raise RefusedError(Refusal.DAMAGED, f"zstd: {e}") from None
        return found
