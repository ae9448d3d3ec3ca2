"""Fits tail and head on stored activations."""
