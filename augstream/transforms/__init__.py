"""Transforms: pure functions on arrays, classes that draw their parameters, and `Compose`."""
