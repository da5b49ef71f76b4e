"""Split computing: an integer head on the device, the tail on a server, and an answer always (docs/split.md)."""
