"""Optional packages: imported on first use, their chatter kept away, a missing one said in one line."""

import importlib
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bitship.errors import MissingDependencyError


def require(package: str, extra: str, what: str) -> Any:
    """Import and return a module; MissingDependencyError naming ``what`` needs it and the extra that installs it."""
    try:
        with quiet():
            return importlib.import_module(package)
    except ImportError as e:
        raise MissingDependencyError(
            f"{what}: package '{package}' cannot be imported ({e}); pip install 'bitship[{extra}]'"
        ) from None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep libraries' warnings and log lines to themselves."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
