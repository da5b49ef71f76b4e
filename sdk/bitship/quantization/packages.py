"""The optional packages quantization needs: imported on first use, their chatter kept away."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bitship.errors import MissingDependencyError


def require(package: str) -> Any:
    """Import and return a package; MissingDependencyError when it is absent."""
    try:
        with quiet():
            return importlib.import_module(package)
    except ImportError as e:
        raise MissingDependencyError(
            f"quantize: package '{package}' cannot be imported ({e}); pip install 'bitship[torch]'"
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries' warnings and log lines to themselves."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
