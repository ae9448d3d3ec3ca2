"""Assembles the whole model, from pixels to probabilities, out of one or several fitted members."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wastetune.backbones.backbone import Backbone, build_trunk
from wastetune.backbones.cuts import Cut
from wastetune.backbones.own.onnx_trunk import append_head

BRANCHES = "branches"  # the layer that maps the trunk's activations to logits; it holds a model for each member
BRANCH = r"branch_(\d+)_at_(\d+)"  # the name of one, with the number of the output of the trunk that it is for
WEIGHT = "weight_{}"  # the name of the layer that multiplies a branch's probabilities, where weights are not all alike
SMALLEST = 1e-7  # of a probability whose logarithm is taken in single precision


@dataclass(frozen=True)
class Branch:
    """A fitted tail and head: a Keras model from activations at a cut to logits (n, classes)."""

    cut: Cut
    model: Any


def copy_branch(cut: Cut, model: Any) -> Branch:
    """A branch with weights of its own, because all tails of a backbone share theirs."""
    import keras

    copied = keras.models.clone_model(keras.Model(model.input, model.output))  # without its optimizer
    copied.set_weights(model.get_weights())
    return Branch(cut, copied)


def assemble_model(
    backbone: Backbone, branches: Sequence[Branch], temperature: float = 1.0, weights: Sequence[float] = ()
) -> Any:
    """The whole model: pixels (n, size, size, 3) in 0..255 to class probabilities (n, classes).

    It is a layer `trunk`, whose outputs are the activations at each cut of the branches from the lowest to the
    highest, a layer `branches`, which maps them to logits at the temperature, and a softmax. The trunk runs once for
    all branches. `weights`: of each branch in the mean; none: all alike. Where the trunk is an ONNX file, so is the
    whole model, an `OnnxModel`, with the features as a second output.
    """
    import keras

    cuts = tuple(sorted({branch.cut for branch in branches}, key=lambda cut: cut.frozen_depth))
    onnx = backbone.onnx
    trunk = build_trunk(backbone, cuts) if onnx is None else None
    shapes = [(onnx.features,)] if onnx is not None else [each.shape[1:] for each in trunk.outputs]  # type: ignore[union-attr]
    inputs = [keras.Input(shape) for shape in shapes]
    logits = []
    for number, branch in enumerate(branches):
        place = cuts.index(branch.cut)
        # The names tell which output of the trunk a branch is for, also after the model was saved and loaded.
        named = keras.Model(branch.model.input, branch.model.output, name=f"branch_{number}_at_{place}")
        logits.append(named(inputs[place]))
    averaged = average_logits(logits, temperature, weights)
    joined = keras.Model(inputs if len(inputs) > 1 else inputs[0], averaged, name=BRANCHES)
    if onnx is not None:
        features = joined.input
        return append_head(onnx, keras.Model(features, keras.layers.Softmax()(joined(features))))
    pixels = keras.Input((backbone.size, backbone.size, 3), name="pixels")
    assert trunk is not None
    probabilities = keras.layers.Softmax(name="probabilities")(joined(trunk(pixels)))
    return keras.Model(pixels, probabilities, name="wastetune")


def with_softmax(model: Any) -> Any:
    """A branch at the top alone as `assemble_model` has it above the trunk: activations to probabilities."""
    import keras

    return keras.Model(model.input, keras.layers.Softmax(name="probabilities")(average_logits([model.output], 1.0)))


def average_probabilities(
    predictions: Sequence[NDArray[np.float32]], weights: Sequence[float] = ()
) -> NDArray[np.float32]:
    """The mean of several models' probabilities (n, classes), with these weights, whose sum is 1; none: all alike."""
    return np.average(predictions, axis=0, weights=weights or None).astype(np.float32)


def average_logits(logits: Sequence[Any], temperature: float, weights: Sequence[float] = ()) -> Any:
    """Logits (n, classes) of the mean of several models' probabilities, at a temperature; of one model, scaled.

    `weights` as in `average_probabilities`.
    """
    import keras

    layers = keras.layers
    if len(logits) == 1:
        return layers.Rescaling(1 / temperature, name="temperature")(logits[0])
    probabilities = [layers.Softmax()(each) for each in logits]
    if weights:
        scales = [layers.Rescaling(weight, name=WEIGHT.format(number)) for number, weight in enumerate(weights)]
        mean = layers.Add(name="mean")([scale(each) for scale, each in zip(scales, probabilities, strict=True)])
    else:
        mean = layers.Average(name="mean")(probabilities)
    return layers.Rescaling(1 / temperature, name="temperature")(keras.ops.log(keras.ops.maximum(mean, SMALLEST)))
