"""Exactly repeatable, resumable, unkillable augmented streams from webdataset tar shards."""
