"""TVM back end: integer graph to TIR kernels to one shared library that needs no TVM where it runs."""

from bitship.converters.tvm.convert import TvmConverter
from bitship.converters.tvm.session import TvmSession, open_session

__all__ = ["TvmConverter", "TvmSession", "open_session"]
