"""The MLflow mirror of run folders."""
