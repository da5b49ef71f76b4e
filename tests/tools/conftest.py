"""Fixtures of the tests with other people's programs."""

import pytest
from tools.flashing import Images


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Images of boards."""
    return Images(tmp_path_factory.mktemp("images"))
