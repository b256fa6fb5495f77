"""Images, grids and videos of a generator."""
