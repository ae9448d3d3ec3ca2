"""Saliency maps: how much each place of a picture contributes to a model's prediction.

Every backbone of the catalog ends in global average pooling. So a model is features (h, w, c), their mean (c,), the
picture's embedding, and a head. The contribution of a place is the change in the head's output when the place is left
out of the mean. For a linear head this is exactly Grad-CAM (Selvaraju et al. 2017); for others, it is a difference that
Grad-CAM approximates by a gradient.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wastetune.models.bundle import load_centres, load_description, load_model
from wastetune.models.loading import keras_outputs


@dataclass(frozen=True)
class Saliency:
    """A model's prediction for one picture and its explanation."""

    probabilities: NDArray[np.float32]  # (classes,)
    heatmap: NDArray[np.float32]  # (h, w) in 0..1: the contribution of each place to the predicted class
    embedding: NDArray[np.float32]  # (c,) the mean of the features, the head's only input
    likeness: float | None = None  # to the training pictures; None where the model does not know


@dataclass(frozen=True)
class SaliencyModel:
    """A bundle's model. Its functions may be called from any thread; they run one at a time."""

    classes: tuple[str, ...]
    size: int  # pixels a side
    explain: Callable[[NDArray[np.uint8]], Saliency]  # one picture (size, size, 3)
    embed: Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # (n, size, size, 3) -> (n, c)


def open_saliency_model(bundle: Path) -> SaliencyModel:
    """The model in a bundle's folder. Raises UserError if the folder is not a bundle."""
    about = load_description(bundle)
    model, centres = load_model(bundle), load_centres(bundle)
    features_of, logits_of = split_at_pooling(model)
    outputs = keras_outputs(model, centres)
    lock = threading.Lock()  # Keras is not thread-safe

    def features(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(features_of.predict_on_batch(pixels.astype(np.float32)))

    def explain(pixels: NDArray[np.uint8]) -> Saliency:
        with lock:
            grid = features(pixels[None])[0]
            places = grid.reshape(-1, grid.shape[-1])
            embedding = places.mean(axis=0)
            without_each = embedding - places / len(places)
            logits = np.asarray(logits_of.predict_on_batch(np.vstack([embedding, without_each])))
            like = None if centres is None else outputs(pixels[None])[1]
        return Saliency(
            probabilities=_softmax(logits[0]),
            heatmap=_contributions(logits).reshape(grid.shape[:2]),
            embedding=embedding,
            likeness=None if like is None else float(like[0]),
        )

    def embed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with lock:
            return np.asarray(features(pixels).mean(axis=(1, 2)))

    return SaliencyModel(about.classes, about.input_size, explain, embed)


def split_at_pooling(model: Any) -> tuple[Any, Any]:
    """A bundle's model in two: pixels (n, size, size, 3) to features (n, h, w, c), and their mean (n, c) to logits."""
    import keras

    pooling = [each for each in _all_layers(model) if isinstance(each, keras.layers.GlobalAveragePooling2D)][-1]
    steps = list(_steps(model, pooling))
    middle = steps.index(pooling)
    assert isinstance(steps[-1], keras.layers.Softmax)
    return _chain(model.input, steps[:middle]), _chain(pooling.output, steps[middle + 1 : -1])


def _contributions(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The contribution of each place: (places,) in 0..1, scaled so that the largest is 1.

    It is the decrease in the log-odds of the predicted class from row 0, the logits with all places, to the row of the
    logits without that place.
    """
    predicted = int(logits[0].argmax())
    log_odds = logits[:, predicted] - _log_sum_exp(np.delete(logits, predicted, axis=1))
    decrease = np.maximum(log_odds[0] - log_odds[1:], 0.0)
    return np.asarray(decrease / max(float(decrease.max()), 1e-12))


def _steps(model: Any, pooling: Any) -> Iterator[Any]:
    """The layers of the model in order. Nested models are single steps, except those that contain the pooling."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if not any(each is pooling for each in _all_layers(layer)):
            yield layer
        elif any(each is pooling for each in layer.layers):
            yield keras.Model(layer.input, pooling.input)
            yield pooling
            if layer.output is not pooling.output:  # ConvNeXt normalizes the mean
                yield keras.Model(pooling.output, layer.output)
        else:
            yield from _steps(layer, pooling)


def _all_layers(model: Any) -> Iterator[Any]:
    for layer in getattr(model, "layers", ()):
        yield layer
        yield from _all_layers(layer)


def _chain(like: Any, steps: list[Any]) -> Any:
    import keras

    first = keras.Input(like.shape[1:])
    # A pipeline, because layers of different nested models may have the same name, which a model does not allow.
    return keras.Model(first, keras.layers.Pipeline(steps)(first, training=False))


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.exp(logits - _log_sum_exp(logits)))


def _log_sum_exp(values: NDArray[np.float32]) -> Any:
    """Over the last axis."""
    most = values.max(axis=-1)
    return most + np.log(np.exp(values - most[..., None]).sum(axis=-1))
