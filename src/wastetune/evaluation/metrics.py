"""Scores of confusion matrices, of one or of a thousand bootstrap resamples at once.

The tests compare them with scikit-learn's, which are equal but have no way to score many resamples at once
(docs/log.md has the times of both).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

# The study's metric -> (its name in a sentence, its key in the scores).
METRICS = {
    "macro_f1": ("macro F1", "f1_macro"),
    "accuracy": ("accuracy", "accuracy"),
    "balanced_accuracy": ("balanced accuracy", "balanced_accuracy"),
}

# Confusion matrices (..., c, c): row = true class, column = predicted class. All scores depend on them alone, so
# a bootstrap resample of the pictures is a draw from a multinomial distribution over the cells.
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


def metric_value(metric: str, labels: NDArray[Any], probabilities: NDArray[Any]) -> float:
    """The score that a study maximizes, by its name in the study file.

    labels: (n,) int; probabilities: (n, c). Raises ValueError for an unknown name, and as `confusion_counts`.
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
    """The confusion matrix of labels (n,) int and probabilities (n, c): (c, c) int, rows are the true classes.

    Raises ValueError if shapes or labels do not fit, or a probability is not finite: training diverged.
    """
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
    correct = np.diagonal(counts, axis1=-2, axis2=-1)
    true, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    return _ratio(correct, predicted), _ratio(correct, true), _ratio(2 * correct, true + predicted)


def accuracy(counts: Counts) -> Floats:
    """The share of correct predictions, (...)."""
    return _ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def macro_f1(counts: Counts) -> Floats:
    """The mean F1 of all classes, (...)."""
    return np.asarray(per_class(counts)[2].mean(axis=-1))


def balanced_accuracy(counts: Counts) -> Floats:
    """The mean recall of the classes that have pictures, (...)."""
    present = counts.sum(axis=-1) > 0
    return _ratio(per_class(counts)[1].sum(axis=-1), present.sum(axis=-1))


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """part / whole, or 0 where whole is 0."""
    quotient: Floats = np.divide(part, whole, out=np.zeros(np.shape(whole), np.float64), where=np.asarray(whole) > 0)
    return quotient
