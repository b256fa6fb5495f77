"""Writes generators in the formats of other programs: ``sg3flow export``."""
