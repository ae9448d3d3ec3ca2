"""Labels and probabilities in, scores out: what a study maximises and what its report states."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The study's metric -> (how it is called in a sentence, its key in the scores).
METRICS = {
    "macro_f1": ("macro F1", "f1_macro"),
    "accuracy": ("accuracy", "accuracy"),
    "balanced_accuracy": ("balanced accuracy", "balanced_accuracy"),
}

# Confusion matrices (..., c, c): row = true class, column = predicted class. All scores follow from them, so
# a bootstrap over pictures is a draw from a multinomial over their cells, and a thousand take milliseconds.
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def metric_value(metric: str, labels: NDArray[Any], probabilities: NDArray[Any]) -> float:
    """The one number a study maximises, by its name in the study file; cheap enough for every epoch.

    labels: (n,) int; probabilities: (n, c). Raises ValueError for an unknown name, or where
    `score_predictions` would: a trial that diverged has no score.
    """
    counts = confusion_counts(labels, probabilities)
    match metric:
        case "macro_f1":
            return float(macro_f1(counts))
        case "accuracy":
            return float(accuracy(counts))
        case "balanced_accuracy":
            return float(balanced_accuracy(counts))
        case _:
            raise ValueError(f"unknown metric {metric!r}")


def confusion_counts(labels: NDArray[Any], probabilities: NDArray[Any]) -> Counts:
    """How often each class (row) was taken for each class (column): (c, c) int."""
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1] or not len(labels):
        raise ValueError(f"labels {labels.shape} and probabilities {probabilities.shape} must be (n,) and (n, c)")
    if not np.isfinite(probabilities).all():
        raise ValueError("some probabilities are not numbers: training diverged")
    size = probabilities.shape[1]
    if labels.min() < 0 or labels.max() >= size:
        raise ValueError(f"labels run from {labels.min()} to {labels.max()}, but there are {size} classes")
    cells = labels.astype(np.int64) * size + probabilities.argmax(axis=1)
    return np.bincount(cells, minlength=size * size).reshape(size, size).astype(np.int64)


def per_class(counts: Counts) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 of each class, each (..., c)."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    true, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    return _ratio(hits, predicted), _ratio(hits, true), _ratio(2 * hits, true + predicted)


def accuracy(counts: Counts) -> Floats:
    """The share of right predictions, (...)."""
    return _ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def macro_f1(counts: Counts) -> Floats:
    """The mean F1 of all classes, (...)."""
    f1: Floats = per_class(counts)[2].mean(axis=-1)
    return f1


def balanced_accuracy(counts: Counts) -> Floats:
    """The mean recall of the classes that have pictures, (...)."""
    present = counts.sum(axis=-1) > 0
    return _ratio(per_class(counts)[1].sum(axis=-1), present.sum(axis=-1))


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """part / whole, and 0 where whole is 0."""
    quotient: Floats = np.divide(part, whole, out=np.zeros(np.shape(whole), np.float64), where=np.asarray(whole) > 0)
    return quotient
