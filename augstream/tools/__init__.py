"""Tools around a stream: looking at it, explaining it, proving it."""
