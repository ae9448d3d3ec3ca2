"""Mirrors of a study: MLflow and the Optuna dashboard."""
