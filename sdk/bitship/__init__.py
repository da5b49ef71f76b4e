"""bitship: ship the same bits to every device.

graph = bitship.load("model.tflite")                       # or bitship.quantize(module, calibration)
y = graph.run(x)                                           # exact, on this machine
package = bitship.export(graph, target="mps2-an386", out="pkg")
report = bitship.bench(package)                            # refuses to time what is not bit-exact
"""

from bitship.benchmarking import bench
from bitship.errors import BitshipError
from bitship.exporting import export
from bitship.graph import Graph, save, verify
from bitship.loading import load
from bitship.package import Package
from bitship.quantization import quantize
from bitship.report import Report
from bitship.version import VERSION

__version__ = VERSION

__all__ = [
    "BitshipError",
    "Graph",
    "Package",
    "Report",
    "__version__",
    "bench",
    "export",
    "load",
    "quantize",
    "save",
    "verify",
]
