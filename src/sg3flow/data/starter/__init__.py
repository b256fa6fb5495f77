"""The starter set: animal faces drawn by this project."""
