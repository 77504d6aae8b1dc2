"""Digests, records and stored outputs: all that outlives a run."""
