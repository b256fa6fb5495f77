"""A registered generator behind HTTP."""
