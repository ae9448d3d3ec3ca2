"""Activations to a fitted, scored head or tail."""
