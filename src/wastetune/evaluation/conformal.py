"""Prediction sets: classes among which the true one is, as often as promised."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wastetune.record import Record

COVERAGES = (0.9, 0.95, 0.99)


class SetThreshold(Record):
    """The classes of at least this probability, and always the most probable one, are the prediction set."""

    coverage: float  # the promised share of pictures whose true class is in the set
    probability: float


class Covered(Record):
    """What prediction sets did on other pictures."""

    promised: float
    coverage: float  # the share of pictures whose true class is in the set
    size: float  # the mean number of classes in a set


def fit_set_thresholds(labels: NDArray[Any], probabilities: NDArray[Any]) -> tuple[SetThreshold, ...]:
    """The threshold of each promised coverage; left out where there are too few held-out pictures to promise it.

    labels: (n,) int; probabilities: (n, c). The promise holds on average over pictures like the held-out ones.
    Source: split conformal prediction with the score 1 - p (Sadinle et al. 2019).
    """
    of_true = np.sort(probabilities[np.arange(len(labels)), labels])
    found = []
    for coverage in COVERAGES:
        rank = int(np.floor((1 - coverage) * (len(labels) + 1) + 1e-9))
        if rank >= 1:
            found.append(SetThreshold(coverage=coverage, probability=float(of_true[rank - 1])))
    return tuple(found)


def prediction_sets(probabilities: NDArray[Any], threshold: SetThreshold) -> NDArray[np.bool_]:
    """Which classes are in the set of each picture, (n, c), for probabilities of that shape."""
    inside = probabilities >= threshold.probability
    inside[np.arange(len(inside)), probabilities.argmax(axis=1)] = True
    return np.asarray(inside)


def apply_set_threshold(labels: NDArray[Any], probabilities: NDArray[Any], threshold: SetThreshold) -> Covered:
    """The coverage and size of prediction sets. labels: (n,) int; probabilities: (n, c)."""
    inside = prediction_sets(probabilities, threshold)
    return Covered(
        promised=threshold.coverage,
        coverage=float(inside[np.arange(len(labels)), labels].mean()),
        size=float(inside.sum(axis=1).mean()),
    )
