"""Ledgers: what a run delivered, in one line a batch, to be compared with another run, or with its own repeat."""
