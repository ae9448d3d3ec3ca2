"""Fits tail and head on stored activations, and scores the predictions."""
