"""Readers of the sources of images: folders, archives, tables, arrays."""
