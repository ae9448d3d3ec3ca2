"""Activations that are made without pictures."""

import numpy as np

from wastetune.backbones.activation_store import Activations
from wastetune.training.fit import TrainingSet


def separable_set(classes):
    """Sixteen activations (1, 1, 96) of each class; every class has a channel of its own."""
    labels = np.repeat(np.arange(classes), 16)
    noise = np.random.default_rng(1).normal(0, 1, (len(labels), 1, 1, 96))
    inputs = (noise + 4 * np.eye(96)[labels][:, None, None]).astype(np.float32)
    return TrainingSet((Activations((inputs,)),), labels, classes)
