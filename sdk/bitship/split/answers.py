"""From logits to an answer: the class, and how sure the one who answers is."""

import numpy as np

from bitship.graph.base import Array
from bitship.graph.ir import Quant
from bitship.split.frame import Answer, Source
from bitship.split.package import Exit, margins_of

FULL = 65535


def tail_answer(logits: Array, quant: Quant | None) -> Answer:
    """Return the tail's answer: the first of the largest logits, softmax of what the codes mean as confidence."""
    scale = quant.scale if quant else 1.0
    real = (logits.astype(np.float64) - logits.max()) * scale
    p = np.exp(real)
    label = int(logits.argmax())
    return Answer(label, round(float(p[label] / p.sum()) * FULL), Source.TAIL)


def local_answer(logits: Array, local: Exit) -> Answer:
    """Return the exit's answer to int8 logits [classes]: its calibrated confidence by the margin of its codes."""
    codes = logits.reshape(1, -1)
    return Answer(int(codes.argmax()), local.confidence[int(margins_of(codes)[0])], Source.LOCAL_EXIT)
