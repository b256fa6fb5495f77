"""Uploads run folders to MLflow, and finds runs and registered versions there."""
