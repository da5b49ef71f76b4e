"""A tail in Seldon's MLServer: name ``bitship.split.mlserver.SplitRuntime`` as a model's implementation.

    {"name": NAME OF THE PACKAGE, "implementation": "bitship.split.mlserver.SplitRuntime",
     "parameters": {"uri": FOLDER OF THE PACKAGE}}

Requests are those of ``bitship split serve``, refusals too, as far as MLServer passes them on.
"""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np
from mlserver import MLModel
from mlserver.errors import MLServerError
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput

from bitship.graph.base import Array
from bitship.split import package
from bitship.split.answers import tail_answer
from bitship.split.frame import Frame, Kind, Refusal, RefusedError, unpack
from bitship.split.identity import check_identity
from bitship.split.oip.service import ANSWER, FRAME, LOGITS
from bitship.split.tails import GraphTail
from bitship.split.wire import Wire


class SplitRuntime(MLModel):  # type: ignore[misc]
    """Decodes a frame, runs the integer tail through this machine's kernels, packs the answer."""

    async def load(self) -> bool:
        """Open the package that the model's settings name."""
        made = package.read(Path(self.settings.parameters.uri))
        self._wire, self._tail = Wire(made), GraphTail.on_host(made.tail)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        start = time.monotonic()
        try:
            frame, codes = self._codes(payload)
        except RefusedError as e:
            raise MLServerError(str(e), 400) from None
        logits = (await asyncio.get_running_loop().run_in_executor(None, self._tail.run, codes))[0]
        answer = tail_answer(logits, self._tail.quant)
        reply = Frame(Kind.ANSWER, answer.pack(), 0, frame.rung, frame.sequence, frame.model, frame.table).pack()
        return InferenceResponse(
            id=payload.id,
            model_name=self.name,
            parameters={"inference_us": round((time.monotonic() - start) * 1e6)},
            outputs=[
                ResponseOutput(name=LOGITS, shape=[1, logits.size], datatype=self._tail.datatype, data=logits.tolist()),
                ResponseOutput(name=ANSWER, shape=[len(reply)], datatype="UINT8", data=list(reply)),
            ],
        )

    def _codes(self, payload: InferenceRequest) -> tuple[Frame, Array]:
        if len(payload.inputs) != 1 or payload.inputs[0].name != FRAME:
            raise RefusedError(Refusal.DAMAGED, f"inputs: one tensor '{FRAME}' of UINT8 is needed")
        data: Any = payload.inputs[0].data.root
        frame = unpack(data if isinstance(data, bytes) else np.array(data, np.uint8).tobytes())
        given = payload.parameters.model_dump() if payload.parameters else {}
        check_identity(self._wire, frame, given)
        return frame, self._wire.unpack(frame)
