"""Comparison of runs, wherever they were recorded."""
