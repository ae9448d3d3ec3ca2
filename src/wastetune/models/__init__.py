"""Trained models as files: run, export, explain."""
