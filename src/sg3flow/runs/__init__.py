"""Run folders: their schema, provenance, best snapshot, and the reproduction of a training."""
