"""What a test module needs of the machine: without it the whole module is skipped, with the reason."""

import shutil

import pytest

from bitship import kernels
from bitship.errors import MissingDependencyError


def kernels_built() -> bool:
    """Whether the host's C kernels can be loaded."""
    try:
        kernels.load()
    except MissingDependencyError:
        return False
    return True


def skip_without_kernels() -> None:
    """Skip the calling module where graph.run would only run the specification against itself."""
    if not kernels_built():
        pytest.skip("the C kernels are not built", allow_module_level=True)


def skip_without_compiler() -> None:
    """Skip the calling module where no C compiler is installed."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler is installed", allow_module_level=True)
