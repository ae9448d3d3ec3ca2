"""Fits tail and head on stored activations."""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wastetune.backbones.activation_store import Activations
from wastetune.backbones.live_views import LiveViews
from wastetune.evaluation.metrics import metric_value
from wastetune.training.config import TrialConfig
from wastetune.training.learner import FloatArray, Learner

LabelArray = npt.NDArray[np.int64]

Batch = tuple[FloatArray, FloatArray, FloatArray]  # inputs, targets (n, classes), weights (n,)

_PREDICT_BATCH = 128
_SEEDS = 2**62  # of live views
_CHUNK = 64_000_000  # bytes of activations in memory at once


class TrainingFailed(Exception):
    """Training cannot give a model, for example because the loss is not finite; the message is the reason."""


@dataclass(frozen=True)
class TrainingSet:
    """The activations of n pictures in each view to train on, their labels (n,), and the number of all classes.

    The first view is the original pictures. Where there are `live` views of the same pictures, those are trained on.
    """

    views: tuple[Activations, ...]
    labels: LabelArray
    classes: int
    live: LiveViews | None = None

    def __add__(self, other: "TrainingSet") -> "TrainingSet":
        views = tuple(a + b for a, b in zip(self.views, other.views, strict=True))
        live = None if self.live is None or other.live is None else self.live + other.live
        return replace(self, views=views, labels=np.concatenate([self.labels, other.labels]), live=live)

    def select(self, rows: LabelArray) -> "TrainingSet":
        """These pictures alone."""
        live = None if self.live is None else self.live.select(rows)
        return replace(self, views=tuple(view.select(rows) for view in self.views), labels=self.labels[rows], live=live)


@dataclass(frozen=True)
class ValidationSet:
    """The activations of n pictures without augmentation, and their labels (n,)."""

    activations: Activations
    labels: LabelArray


@dataclass(frozen=True)
class Epoch:
    """Losses and scores of one pass over the training pictures. Epochs are numbered from 1."""

    number: int
    loss: float
    score: float
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class FitResult:
    """A finished fit: its best epoch by validation score, and all epochs."""

    best: Epoch
    history: tuple[Epoch, ...]
    probabilities: FloatArray  # (n, classes) of the validation pictures after the best epoch
    last: FloatArray  # likewise, after the last epoch


def fit(
    learner: Learner,
    train: TrainingSet,
    validation: ValidationSet,
    *,
    config: TrialConfig,
    metric: str,
    seed: int,
    on_epoch: Callable[[Epoch], object] = lambda epoch: None,
) -> FitResult:
    """Trains for `config.epochs`, or until the score has not improved for `config.patience` epochs.

    `on_epoch` is called after each epoch; training stops if it returns a true value.
    Raises TrainingFailed if the loss is not finite.
    """
    steps = steps_per_epoch(len(train.labels), config)
    rng = np.random.default_rng(seed)
    history: list[Epoch] = []
    best: Epoch | None = None
    best_probabilities = np.empty((0, 0), np.float32)
    for number in range(1, config.epochs + 1):
        started = time.perf_counter()
        loss = _train_epoch(learner, train, config, steps, rng)
        probabilities = predict_probabilities(learner, validation.activations)
        epoch = Epoch(
            number,
            loss,
            metric_value(metric, validation.labels, probabilities),
            metric_value("accuracy", validation.labels, probabilities),
            time.perf_counter() - started,
        )
        history.append(epoch)
        if best is None or epoch.score > best.score:
            best, best_probabilities = epoch, probabilities
        if on_epoch(epoch) or number - best.number >= config.patience:
            break
    if best is None:
        raise TrainingFailed("no epoch was trained: epochs is 0")
    return FitResult(best, tuple(history), best_probabilities, probabilities)


def fit_final(learner: Learner, train: TrainingSet, *, config: TrialConfig, steps: int, seed: int) -> None:
    """Trains for a number of steps, without validation."""
    rng = np.random.default_rng(seed)
    per_epoch = steps_per_epoch(len(train.labels), config)
    while steps > 0:
        _train_epoch(learner, train, config, min(steps, per_epoch), rng)
        steps -= per_epoch


def predict_probabilities(learner: Learner, activations: Activations) -> FloatArray:
    """Class probabilities (n, classes) of these activations."""
    batches = []
    for made in predict_outputs(learner, activations):
        logits = np.asarray(made, np.float64)
        exponent = np.exp(logits - logits.max(axis=1, keepdims=True))
        batches.append(exponent / exponent.sum(axis=1, keepdims=True))
    return np.concatenate(batches).astype(np.float32)


def predict_outputs(model: Learner, activations: Activations) -> Iterator[FloatArray]:
    """What a model makes of these activations, in batches."""
    for start in range(0, len(activations), _PREDICT_BATCH):
        rows = np.arange(start, min(start + _PREDICT_BATCH, len(activations)))
        padded = np.resize(rows, _PREDICT_BATCH)  # Keras compiles once for each shape
        yield np.asarray(model.predict_on_batch(activations.take(padded)))[: len(rows)]


def steps_per_epoch(pictures: int, config: TrialConfig) -> int:
    """The number of full batches in one epoch; at least one."""
    return max(1, pictures // config.batch_size)


def _train_epoch(
    learner: Learner, train: TrainingSet, config: TrialConfig, steps: int, rng: np.random.Generator
) -> float:
    batches = _batches(train, config, steps, rng)
    losses = [
        float(learner.train_on_batch(inputs, targets, sample_weight=weights))
        for inputs, targets, weights in (batches if train.live is None else _one_ahead(batches))
    ]
    loss = float(np.mean(losses))
    if not math.isfinite(loss):
        raise TrainingFailed(f"the loss became {loss}; a learning rate of {config.learning_rate:g} may be too high")
    return loss


def _batches(train: TrainingSet, config: TrialConfig, steps: int, rng: np.random.Generator) -> Iterator[Batch]:
    """Batches of one size, each picture in a random view; pictures that do not fill a batch are left out this time."""
    count = len(train.labels)
    order = rng.permutation(count)
    view_of = rng.integers(0, len(train.views) if train.live is None else _SEEDS, count)
    class_weights = _class_weights(train, config)
    one_hot = np.eye(train.classes, dtype=np.float32)
    batches = np.array_split(order[: steps * config.batch_size], steps)
    at_once = max(1, _CHUNK // (4 * math.prod(train.views[0].shape) * len(batches[0])))
    if train.live is not None:
        at_once = 1  # so that one batch is made while the optimizer works on the one before
    for start in range(0, steps, at_once):
        chunk = batches[start : start + at_once]
        rows = np.concatenate(chunk)
        inputs, targets, weights = (
            _gather(train, rows, view_of),
            one_hot[train.labels[rows]],
            class_weights[train.labels[rows]],
        )
        end = 0
        for batch in chunk:
            here = slice(end, end := end + len(batch))
            yield inputs[here], targets[here], weights[here]


def _one_ahead(batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches, each of which a thread makes while the one before is in use."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch


def _gather(train: TrainingSet, rows: npt.NDArray[np.int64], view_of: npt.NDArray[np.int64]) -> FloatArray:
    """The activations of these rows, each in its view, in the given order; they are read in the order on the disk.

    view_of: (n,) of all rows, the number of a stored view, or the seed of a live one.
    """
    if train.live is not None:
        return train.live.take(rows, view_of[rows].tolist())
    inputs = np.empty((len(rows), *train.views[0].shape), np.float32)
    reading = np.argsort(rows)
    for view, activations in enumerate(train.views):
        chosen = reading[view_of[rows[reading]] == view]
        if chosen.size:
            inputs[chosen] = activations.take(rows[chosen])
    return inputs


def _class_weights(train: TrainingSet, config: TrialConfig) -> FloatArray:
    if config.class_weighting == "none":
        return np.ones(train.classes, np.float32)
    counts = np.bincount(train.labels, minlength=train.classes).astype(np.float32)
    return np.asarray(len(train.labels) / (train.classes * np.maximum(counts, 1)), np.float32)
