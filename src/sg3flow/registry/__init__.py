"""Versions of a registered model: registration, aliases, the gate, history."""
