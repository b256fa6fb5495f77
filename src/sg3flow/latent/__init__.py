"""Latent space of a trained generator: projection of images into it."""
