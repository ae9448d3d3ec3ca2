"""Where a model looked on a picture (Grad-CAM), and the vector that it saw of it.

Every backbone here ends in a mean over space, so a model is features (n, h, w, c), their mean (n, c), and a head. The
gradient of an answer by a feature is then the same at every place, and Grad-CAM (Selvaraju et al. 2017) weighs the
features exactly as the head does.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wastetune.bundle import load_description, load_model


@dataclass(frozen=True)
class Look:
    """What a model made of one picture."""

    probabilities: NDArray[np.float32]  # (classes,)
    heat: NDArray[np.float32]  # (h, w) in 0..1: how much each place spoke for the answer
    vector: NDArray[np.float32]  # (c,) what its head got


@dataclass(frozen=True)
class Onlooker:
    """A bundle's model, open to questions."""

    classes: tuple[str, ...]
    size: int  # pixels a side
    look: Callable[[NDArray[np.uint8]], Look]  # one picture (size, size, 3)
    vectors: Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # (n, size, size, 3) -> (n, c)


def open_onlooker(bundle: Path) -> Onlooker:
    """The model in a bundle's folder. UserError where the folder is no bundle."""
    import keras
    import tensorflow as tf

    about = load_description(bundle)
    before, after = split_at_pooling(load_model(bundle))
    # Of the model, whatever lies before the pooling as one graph: a picture at a time would be bound by Python else.
    features = tf.function(lambda pixels: _through(before, pixels), reduce_retracing=True)

    def look(pixels: NDArray[np.uint8]) -> Look:
        seen = features(tf.constant(pixels[None].astype(np.float32)))
        vector = keras.ops.mean(seen, axis=(1, 2))
        with tf.GradientTape() as tape:
            tape.watch(vector)
            probabilities = _through(after, vector)
            answer = tf.math.log(tf.reduce_max(probabilities, axis=-1) + 1e-12)
        weights = tape.gradient(answer, vector)
        heat = np.maximum(np.asarray(seen[0]) @ np.asarray(weights[0]), 0.0)
        return Look(np.asarray(probabilities[0]), heat / max(float(heat.max()), 1e-12), np.asarray(vector[0]))

    def vectors(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(keras.ops.mean(features(tf.constant(pixels.astype(np.float32))), axis=(1, 2)))

    return Onlooker(tuple(about["classes"]), int(about["input_size"]), look, vectors)


def split_at_pooling(model: Any) -> tuple[list[Any], list[Any]]:
    """The steps of a bundle's model before and after its last mean over space, each a Keras layer or model.

    Before: pixels to features (n, h, w, c); after: their mean (n, c) to probabilities.
    """
    import keras

    pooling = [layer for layer in _all_layers(model) if isinstance(layer, keras.layers.GlobalAveragePooling2D)][-1]
    before: list[Any] = []
    after: list[Any] = []
    for step in _steps(model, pooling):
        if step is pooling:
            before, after = after, []
        else:
            after.append(step)
    return before, after


def _steps(model: Any, pooling: Any) -> Iterator[Any]:
    """One after another; of what holds the pooling, its parts, for models within models are chains."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if layer is pooling or not any(each is pooling for each in _all_layers(layer)):
            yield layer
        elif any(each is pooling for each in layer.layers):
            yield keras.Model(layer.input, pooling.input)
            yield pooling
        else:
            yield from _steps(layer, pooling)


def _all_layers(model: Any) -> Iterator[Any]:
    for layer in getattr(model, "layers", ()):
        yield layer
        yield from _all_layers(layer)


def _through(steps: list[Any], x: Any) -> Any:
    for step in steps:
        x = step(x, training=False)
    return x
