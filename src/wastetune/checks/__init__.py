"""Checks of a data set, of a finished study and of a model: audit, reproduce, evaluate."""
