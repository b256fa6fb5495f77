"""Validation of a packed set with Great Expectations."""
