"""Make a training again, from what its run holds, and say whether it came out the same."""
