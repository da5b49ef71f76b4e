"""Fixtures that several test modules use."""

from flash_fakes import fake

__all__ = ["fake"]
