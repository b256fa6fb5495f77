"""Training: assembly, losses, steps, the loop, exact resume."""
