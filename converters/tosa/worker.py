"""TOSA's reference model in a process of its own: a damaged program ends that process, not the caller's.

``python worker.py MODEL`` reads requests from stdin and answers on stdout; a message is its length (8 bytes, little
endian) and an .npz: inputs ``a0``, ``a1``, ...; outputs likewise as raw bytes, or ``error`` alone, a text.
"""

import io
import os
import sys
from typing import Any, BinaryIO

import numpy as np


def pack(arrays: dict[str, Any]) -> bytes:
    """Return a message."""
    body = io.BytesIO()
    np.savez(body, **arrays)
    return len(body.getbuffer()).to_bytes(8, "little") + body.getvalue()


def unpack(body: bytes) -> dict[str, Any]:
    """Return a message's arrays."""
    with np.load(io.BytesIO(body), allow_pickle=False) as found:
        return dict(found)


def _serve(program: bytes, requests: BinaryIO, answers: BinaryIO) -> None:
    import tosa_reference_model as model

    while head := requests.read(8):
        inputs = unpack(requests.read(int.from_bytes(head, "little")))
        try:
            found, status = model.run(program, [inputs[f"a{i}"] for i in range(len(inputs))])
            answer = {f"a{i}": a for i, a in enumerate(found)}
            if status != model.GraphStatus.TOSA_VALID:
                answer = {"error": np.array(f"calls this run {status.name}")}
        except (ValueError, RuntimeError) as e:
            answer = {"error": np.array(f"stopped: {e}")}
        answers.write(pack(answer))
        answers.flush()


def main() -> None:
    """Serve until stdin ends; what the model prints goes nowhere."""
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    with open(sys.argv[1], "rb") as f:
        program = f.read()
    _serve(program, sys.stdin.buffer, answers)


if __name__ == "__main__":
    main()
