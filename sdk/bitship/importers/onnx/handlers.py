"""The one table of ONNX ops that are taken."""

from bitship.importers.onnx.compute import COMPUTE, Handler
from bitship.importers.onnx.moving import MOVING
from bitship.importers.onnx.qoperator import QOPERATOR

HANDLERS: dict[str, Handler] = {**COMPUTE, **MOVING, **QOPERATOR}
