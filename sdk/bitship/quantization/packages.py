"""The optional packages quantization needs."""

from functools import partial

from bitship import extras

require = partial(extras.require, extra="torch", what="quantize")
