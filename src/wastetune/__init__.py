"""Hyperparameter-optimisation studies of transfer learning on image folders."""

__version__ = "0.1.0"
