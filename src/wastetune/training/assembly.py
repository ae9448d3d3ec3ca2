"""Assembles the whole model, from pixels to probabilities, out of one or several fitted members."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wastetune.backbones.backbone import Backbone, build_trunk
from wastetune.backbones.cuts import Cut
from wastetune.backbones.own.onnx_trunk import append_head

BRANCHES = "branches"  # the layer that maps the trunk's activations to logits; it holds a model for each member
BRANCH = r"branch_\d+_at_(\d+)"  # the name of one, with the number of the output of the trunk that it is for
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


def assemble_model(backbone: Backbone, branches: Sequence[Branch], temperature: float = 1.0) -> Any:
    """The whole model: pixels (n, size, size, 3) in 0..255 to class probabilities (n, classes).

    It is a layer `trunk`, whose outputs are the activations at each cut of the branches from the lowest to the
    highest, a layer `branches`, which maps them to logits at the temperature, and a softmax. The trunk runs once for
    all branches. Where the trunk is an ONNX file, so is the whole model, an `OnnxModel`, with the features as a second
    output.
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
    joined = keras.Model(inputs if len(inputs) > 1 else inputs[0], average_logits(logits, temperature), name=BRANCHES)
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


def average_logits(logits: Sequence[Any], temperature: float) -> Any:
    """Logits (n, classes) of the mean of several models' probabilities, at a temperature; of one model, scaled."""
    import keras

    layers = keras.layers
    if len(logits) == 1:
        return layers.Rescaling(1 / temperature, name="temperature")(logits[0])
    mean = layers.Average(name="mean")([layers.Softmax()(each) for each in logits])
    return layers.Rescaling(1 / temperature, name="temperature")(keras.ops.log(keras.ops.maximum(mean, SMALLEST)))
