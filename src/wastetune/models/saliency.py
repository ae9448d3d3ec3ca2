"""Where a model looked on a picture, and the vector that it saw of it.

Every backbone here ends in a mean over space. So a model is features (h, w, c), their mean (c,), and a head, and what
a place did for an answer is told by leaving it out of the mean and asking the head again. Where the head is linear
this is Grad-CAM (Selvaraju et al. 2017) exactly; where it is not, no gradient has to stand for a difference.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wastetune.models.bundle import load_description, load_model


@dataclass(frozen=True)
class Look:
    """What a model made of one picture."""

    probabilities: NDArray[np.float32]  # (classes,)
    heat: NDArray[np.float32]  # (h, w) in 0..1: how much each place spoke for the answer
    vector: NDArray[np.float32]  # (c,) the mean of its features, which is all that its head sees


@dataclass(frozen=True)
class SaliencyModel:
    """A bundle's model, open to questions; one at a time, from any thread."""

    classes: tuple[str, ...]
    size: int  # pixels a side
    look: Callable[[NDArray[np.uint8]], Look]  # one picture (size, size, 3)
    vectors: Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # (n, size, size, 3) -> (n, c)


def open_saliency_model(bundle: Path) -> SaliencyModel:
    """The model in a bundle's folder. UserError where the folder is no bundle."""
    about = load_description(bundle)
    features_of, logits_of = split_at_pooling(load_model(bundle))
    turn = threading.Lock()  # Keras is not made for several threads

    def features(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(features_of.predict_on_batch(pixels.astype(np.float32)))

    def look(pixels: NDArray[np.uint8]) -> Look:
        with turn:
            seen = features(pixels[None])[0]
            places = seen.reshape(-1, seen.shape[-1])
            vector = places.mean(axis=0)
            logits = np.asarray(logits_of.predict_on_batch(np.vstack([vector, vector - places / len(places)])))
        return Look(_softmax(logits[0]), _heat(logits).reshape(seen.shape[:2]), vector)

    def vectors(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with turn:
            return np.asarray(features(pixels).mean(axis=(1, 2)))

    return SaliencyModel(about.classes, about.input_size, look, vectors)


def split_at_pooling(model: Any) -> tuple[Any, Any]:
    """A bundle's model as two: pixels (n, size, size, 3) to features (n, h, w, c), and their mean (n, c) to logits."""
    import keras

    pooling = [each for each in _all_layers(model) if isinstance(each, keras.layers.GlobalAveragePooling2D)][-1]
    steps = list(_steps(model, pooling))
    middle = steps.index(pooling)
    assert isinstance(steps[-1], keras.layers.Softmax)
    return _chain(model.input, steps[:middle]), _chain(pooling.output, steps[middle + 1 : -1])


def _heat(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """How much the odds of the answer, that of row 0, fall in each other row: (places,) in 0..1, 1 the most."""
    answer = int(logits[0].argmax())
    odds = logits[:, answer] - _log_sum_exp(np.delete(logits, answer, axis=1))
    fall = np.maximum(odds[0] - odds[1:], 0.0)
    return np.asarray(fall / max(float(fall.max()), 1e-12))


def _steps(model: Any, pooling: Any) -> Iterator[Any]:
    """What the model does, one after another: models within models are chains, but for the one that pools."""
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if not any(each is pooling for each in _all_layers(layer)):
            yield layer
        elif any(each is pooling for each in layer.layers):
            yield keras.Model(layer.input, pooling.input)
            yield pooling
            if layer.output is not pooling.output:  # ConvNeXt normalises the mean
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
    # A pipeline, because steps that lay at different depths may bear the same name, which a model does not allow.
    return keras.Model(first, keras.layers.Pipeline(steps)(first, training=False))


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.exp(logits - _log_sum_exp(logits)))


def _log_sum_exp(values: NDArray[np.float32]) -> Any:
    """Over the last axis."""
    most = values.max(axis=-1)
    return most + np.log(np.exp(values - most[..., None]).sum(axis=-1))
