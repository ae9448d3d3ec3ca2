"""Saliency maps: how much each place of a picture contributes to a model's prediction.

Every backbone of the catalog ends in global average pooling; whether one of the user's own does, is looked at. So a
model is features (h, w, c), their mean (c,), the picture's embedding, and a head; the mean of several models has
features and a head of each. The contribution of a place is the change in the output when the place is left out of the
mean, or of all of them. For one linear head this is exactly Grad-CAM (Selvaraju et al. 2017); for others, it is a
difference that Grad-CAM approximates by a gradient.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wastetune.backbones.catalog import BACKBONES
from wastetune.errors import UserError
from wastetune.models.bundle import load_centres, load_description, load_model
from wastetune.models.loading import keras_outputs
from wastetune.training.assembly import BRANCH, BRANCHES, SMALLEST, WEIGHT, average_probabilities

_TOLERANCE = 1e-3  # in a probability, between the model and its parts


@dataclass(frozen=True)
class Saliency:
    """A model's prediction for one picture and its explanation."""

    probabilities: NDArray[np.float32]  # (classes,)
    heatmap: NDArray[np.float32]  # (h, w) in 0..1: the contribution of each place to the predicted class
    embedding: NDArray[np.float32]  # (c,) the mean of the features; of all members, one after the other
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
    if about.backbone in BACKBONES:
        parts, scale = split_at_pooling(model)
    else:
        parts, scale = _split_if_possible(model, about.input_size, bundle)
    outputs = keras_outputs(model, centres)
    lock = threading.Lock()  # Keras is not thread-safe

    def features(pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        return [np.asarray(part.features_of.predict_on_batch(pixels.astype(np.float32))) for part in parts]

    def explain(pixels: NDArray[np.uint8]) -> Saliency:
        embeddings, answers = [], []
        with lock:
            grids = [each[0] for each in features(pixels[None])]
            for grid, part in zip(grids, parts, strict=True):
                places = grid.reshape(-1, grid.shape[-1])
                embeddings.append(places.mean(axis=0))
                without_each = embeddings[-1] - places / len(places)
                answers += part.logits_of(np.vstack([embeddings[-1], without_each]))
            like = None if centres is None else outputs(pixels[None])[1]
        logits = _average(answers, parts, scale)
        return Saliency(
            probabilities=_softmax(logits[0]),
            heatmap=_contributions(logits).reshape(grids[0].shape[:2]),
            embedding=np.concatenate(embeddings),
            likeness=None if like is None else float(like[0]),
        )

    def embed(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        with lock:
            return np.concatenate([each.mean(axis=(1, 2)) for each in features(pixels)], axis=1)

    return SaliencyModel(about.classes, about.input_size, explain, embed)


def _split_if_possible(model: Any, size: int, bundle: Path) -> "tuple[tuple[Part, ...], float]":
    """`split_at_pooling` of a model whose backbone is the user's own. UserError where it is not the mean of a map."""
    pixels = np.random.default_rng(0).uniform(0, 255, (1, size, size, 3)).astype(np.float32)
    try:
        parts, scale = split_at_pooling(model)
        answers = []
        for part in parts:
            answers += part.logits_of(np.asarray(part.features_of.predict_on_batch(pixels)).mean(axis=(1, 2)))
        difference = np.abs(
            _softmax(_average(answers, parts, scale)) - np.asarray(model.predict_on_batch(pixels))
        ).max()
    except Exception:  # there is no pooling, or it is inside of a block
        difference = 1.0
    if not difference <= _TOLERANCE:
        raise UserError(
            f"the backbone of {bundle} does not end in the mean of a map of places, so the app cannot show where in a "
            "picture a class is seen; `wastetune predict` and `wastetune serve` have its answers"
        )
    return parts, scale


@dataclass(frozen=True)
class Part:
    """The features of one or several members of a model, and their heads, as Keras models."""

    features_of: Any  # pixels (n, size, size, 3) -> features (n, h, w, c)
    heads: tuple[Any, ...]  # each: the mean of the features (n, c) -> logits (n, classes)
    weights: tuple[float, ...]  # of each head in the mean over all parts

    def logits_of(self, embeddings: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """The logits of each head."""
        return [np.asarray(head.predict_on_batch(embeddings)) for head in self.heads]


def split_at_pooling(model: Any) -> tuple[tuple[Part, ...], float]:
    """A bundle's model at its poolings, and the factor by which the logits of the heads' mean are scaled at the end.

    Heads that share the trunk's pooling are one part, each tail is a part of its own.
    """
    import keras

    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    assert isinstance(layers[-1], keras.layers.Softmax)
    trunk, joined = layers[:2]
    if joined.name != BRANCHES:  # of an earlier version
        features_of, head, _ = _split(model, layers[:-1])
        return (Part(features_of, (head,), (1.0,)),), 1.0
    parts: dict[Any, Part] = {}
    named = {layer.name: layer for layer in joined.layers}
    branches = [found for name in named if (found := re.fullmatch(BRANCH, name))]
    for branch in branches:
        features_of, head, pooling = _split(model, [*_steps_to(trunk, int(branch[2])), named[branch[0]]])
        weight = named.get(WEIGHT.format(branch[1]))
        share = 1 / len(branches) if weight is None else float(weight.scale)
        before = parts.get(pooling, Part(features_of, (), ()))
        parts[pooling] = Part(features_of, (*before.heads, head), (*before.weights, share))
    return tuple(parts.values()), joined.get_layer("temperature").scale


def _steps_to(trunk: Any, place: int) -> list[Any]:
    """The layers of the trunk in order, up to one of its outputs."""
    import keras

    steps = [layer for layer in trunk.layers if not isinstance(layer, keras.layers.InputLayer)]
    if len(trunk.outputs) == 1:
        return steps
    computed = [layer for layer in steps if not isinstance(layer, keras.layers.Identity)]  # the pixels' own output
    place -= len(computed) < len(steps)
    if place < 0:
        return []
    if len(computed[-1].outputs) > 1:
        computed[-1] = keras.Model(computed[-1].input, computed[-1].outputs[place])
    return computed


def _split(model: Any, layers: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Layers of a model in a row as a model up to the last global pooling, one of what follows, and the pooling."""
    import keras

    pooling = [each for each in _all_layers(layers) if isinstance(each, keras.layers.GlobalAveragePooling2D)][-1]
    steps = list(_steps(layers, pooling))
    middle = steps.index(pooling)
    return _chain(model.input, steps[:middle]), _chain(pooling.output, steps[middle + 1 :]), pooling


def _average(answers: list[NDArray[np.float32]], parts: Sequence[Part], scale: float) -> NDArray[np.float32]:
    """Logits of the mean of several models' probabilities, as in `training.assembly.average_logits`."""
    mean = average_probabilities(
        [_softmax(each) for each in answers], [each for part in parts for each in part.weights]
    )
    return np.asarray(np.log(np.maximum(mean, SMALLEST)) * scale if len(answers) > 1 else answers[0] * scale)


def _contributions(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The contribution of each place: (places,) in 0..1, scaled so that the largest is 1.

    It is the decrease in the log-odds of the predicted class from row 0, the logits with all places, to the row of the
    logits without that place.
    """
    predicted = int(logits[0].argmax())
    log_odds = logits[:, predicted] - _log_sum_exp(np.delete(logits, predicted, axis=1))
    decrease = np.maximum(log_odds[0] - log_odds[1:], 0.0)
    return np.asarray(decrease / max(float(decrease.max()), 1e-12))


def _steps(layers: Iterable[Any], pooling: Any) -> Iterator[Any]:
    """The layers in order. Nested models are single steps, except those that contain the pooling."""
    import keras

    for layer in layers:
        if isinstance(layer, keras.layers.InputLayer):
            continue
        if layer is pooling or not any(each is pooling for each in _all_layers(_inside(layer))):
            yield layer
        elif any(each is pooling for each in layer.layers):
            yield keras.Model(layer.input, pooling.input)
            yield pooling
            if layer.output is not pooling.output:  # ConvNeXt normalizes the mean
                yield keras.Model(pooling.output, layer.output)
        else:
            yield from _steps(layer.layers, pooling)


def _all_layers(layers: Iterable[Any]) -> Iterator[Any]:
    for layer in layers:
        yield layer
        yield from _all_layers(_inside(layer))


def _inside(layer: Any) -> Iterable[Any]:
    return getattr(layer, "layers", ())


def _chain(like: Any, steps: list[Any]) -> Any:
    import keras

    first = keras.Input(like.shape[1:])
    # A pipeline, because layers of different nested models may have the same name, which a model does not allow.
    return keras.Model(first, keras.layers.Pipeline(steps)(first, training=False))


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.exp(logits - _log_sum_exp(logits)[..., None]))


def _log_sum_exp(values: NDArray[np.float32]) -> Any:
    """Over the last axis."""
    most = values.max(axis=-1)
    return most + np.log(np.exp(values - most[..., None]).sum(axis=-1))
