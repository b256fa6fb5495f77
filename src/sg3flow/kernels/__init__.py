"""Compiled kernels for the ops: their declarations, how they are built, found and explained."""
