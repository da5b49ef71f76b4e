"""A small network for tests of devices: a few ops, a few kilobytes, exported in seconds."""

from test_firmware import network

from bitship.graph import Graph


def small_net() -> Graph:
    """Conv, depthwise, residual add, concat, pool, fully connected; four outputs."""
    return network()[0]
