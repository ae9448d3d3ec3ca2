"""Starts a tail with a head that is fitted already.

The gradients of a random head distort pretrained features before it has learned anything. So the head can be fitted
alone first, on the features as they are (linear probing, then fine-tuning: Kumar et al. 2022, arXiv 2202.10054).
"""

from typing import Any

import numpy as np

from wastetune.backbones.activation_store import Activations
from wastetune.training.config import TrialConfig
from wastetune.training.fit import TrainingSet, fit_final, predict_outputs, steps_per_epoch
from wastetune.training.head import BuildHead, build_head
from wastetune.training.learner import compile_model
from wastetune.training.numpy_mlp import NumpyMLP

_EPOCHS = 12
_LEARNING_RATE = 1e-3


def fit_head_first(
    learner: Any, train: TrainingSet, config: TrialConfig, *, seed: int, build: BuildHead = build_head
) -> None:
    """Gives a tail's head the weights of a fit of the head alone, if the configuration says so.

    The features are those of the original pictures, from one pass through the tail.
    """
    if config.head_start == "random" or isinstance(learner, NumpyMLP):
        return
    tail = learner.get_layer("tail")
    if not tail.weights:  # a head of the user's own, alone
        return
    features = np.concatenate(list(predict_outputs(tail, train.views[0])))
    alone = config.model_copy(update={"learning_rate": _LEARNING_RATE})
    steps = _EPOCHS * steps_per_epoch(len(features), alone)
    stored = TrainingSet((Activations((features,)),), train.labels, train.classes)
    if config.head is None:
        mlp = NumpyMLP(features.shape[1], alone, train.classes, horizon=steps, seed=seed)
        fit_final(mlp, stored, config=alone, steps=steps, seed=seed)
        weights = mlp.weights()
    else:
        model = _own_head(features.shape[1], alone, train.classes, steps, build)
        fit_final(model, stored, config=alone, steps=steps, seed=seed)
        weights = model.get_weights()
    learner.set_weights([*tail.get_weights(), *weights])


def _own_head(features: int, config: TrialConfig, classes: int, steps: int, build: BuildHead) -> Any:
    import keras

    inputs = keras.Input((features,))
    model = keras.Model(inputs, build(inputs, config, classes))
    compile_model(model, config, horizon=steps, xla=False)
    return model
