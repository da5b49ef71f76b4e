"""Fixtures that several test modules use."""

import sys

import pytest
from flash_fakes import fake

__all__ = ["fake"]


@pytest.fixture(autouse=True)
def torch_seed() -> None:
    """Let no test's random weights depend on the tests that ran before it in the same process."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
