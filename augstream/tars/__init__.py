"""Tar shards as files: their headers, their indexes, and the side files of other readers."""
