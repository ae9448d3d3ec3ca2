"""Selective classification: a model that answers "unsure" rather than be wrong too often."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wastetune.record import Record

PRECISIONS = (0.9, 0.95, 0.98, 0.99)
UNSURE = "unsure"
_CERTAINTY = 0.9  # that the promise is kept
_POINTS = 50  # of a curve


class Threshold(Record):
    """Below this confidence a model is unsure, so that enough of its other answers are right."""

    precision: float  # the wanted share of right answers
    confidence: float  # the lowest probability of the predicted class that is an answer
    coverage: float  # the share of held-out pictures that were answered


class Answered(Record):
    """What a threshold did to other pictures."""

    precision: float  # the wanted share of right answers
    coverage: float  # the share of pictures that were answered
    accuracy: float | None  # the share of these answers that are right; None without answers


def fit_thresholds(labels: NDArray[Any], probabilities: NDArray[Any]) -> tuple[Threshold, ...]:
    """For each wanted precision the threshold that answers most held-out pictures; left out where none can promise it.

    labels: (n,) int; probabilities: (n, c). Not the share of wrong answers but its upper bound at 90 % is at most
    1 - precision, so some nine of ten such models keep the promise on other pictures of the same kind; by the share
    alone half of them do (docs/log.md). A precision of 99 % needs 230 answers without a mistake.
    Source: Geifman and El-Yaniv 2017, "Selective classification for deep neural networks".
    """
    from scipy.special import betaincinv

    sure, right = _ranked(labels, probabilities)
    answered, wrong = np.arange(1, len(sure) + 1), np.cumsum(~right)
    rights = np.maximum(answered - wrong, 1e-9)
    most_wrong = betaincinv(wrong + 1, rights, _CERTAINTY)  # Clopper and Pearson's bound
    ends = np.append(sure[1:] < sure[:-1], True)  # equal confidences are answered together
    found = []
    for precision in PRECISIONS:
        allowed = np.flatnonzero(ends & (most_wrong <= 1 - precision))
        if len(allowed):
            last = int(allowed[-1])
            confidence = 0.0 if last + 1 == len(labels) else float(sure[last])  # 0: all of them may be answered
            found.append(Threshold(precision=precision, confidence=confidence, coverage=(last + 1) / len(labels)))
    return tuple(found)


def apply_threshold(labels: NDArray[Any], probabilities: NDArray[Any], threshold: Threshold) -> Answered:
    """The coverage and accuracy of the answers at a threshold. labels: (n,) int; probabilities: (n, c)."""
    answers = probabilities.max(axis=1) >= threshold.confidence
    right = probabilities.argmax(axis=1) == labels
    return Answered(
        precision=threshold.precision,
        coverage=float(answers.mean()),
        accuracy=float(right[answers].mean()) if answers.any() else None,
    )


def accuracy_by_coverage(labels: NDArray[Any], probabilities: NDArray[Any]) -> tuple[tuple[float, float], ...]:
    """(share of pictures answered, share of these answers that are right), the surest answers first; some 50 points."""
    _, right = _ranked(labels, probabilities)
    share = np.cumsum(right) / np.arange(1, len(right) + 1)
    ends = np.unique(np.linspace(1, len(right), _POINTS).round().astype(int))
    return tuple((float(end / len(right)), float(share[end - 1])) for end in ends)


def _ranked(labels: NDArray[Any], probabilities: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Confidences in descending order, and whether each of these answers is right."""
    sure = probabilities.max(axis=1)
    order = np.argsort(-sure, kind="stable")
    return sure[order], (probabilities.argmax(axis=1) == labels)[order]
