"""Calibration of class probabilities: temperature scaling, and how far probabilities are from frequencies."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 15
_SMALLEST = 1e-12  # of a probability, in a logarithm
_PRIOR = 0.2  # standard deviation of the logarithm of a temperature
_RANGE = (np.log(0.05), np.log(20.0))  # of the logarithm of a temperature


@dataclass(frozen=True)
class CalibrationBin:
    """The predictions whose confidence lies between two bounds."""

    low: float
    high: float
    count: int
    confidence: float  # mean probability of the predicted class; 0 without predictions
    accuracy: float  # share that is right


@dataclass(frozen=True)
class Calibration:
    """How well probabilities fit what happens; all but `bins` are lower for better ones."""

    error: float  # expected calibration error of the predicted class
    log_loss: float
    brier: float  # mean of the squared distance to the one-hot class, in [0, 2]
    bins: tuple[CalibrationBin, ...]


def fit_temperature(labels: NDArray[Any], probabilities: NDArray[Any]) -> float:
    """The temperature with the lowest log loss on held-out predictions, in [0.05, 20].

    labels: (n,) int; probabilities: (n, c). Above 1 it makes predictions less confident. A normal prior on its
    logarithm keeps it near 1 where there are few predictions.
    Source: Guo et al. 2017, "On calibration of modern neural networks".
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        scaled = scale_probabilities(probabilities, float(np.exp(log_temperature)))
        return log_loss(labels, scaled) + (log_temperature / _PRIOR) ** 2 / (2 * len(labels))

    return float(np.exp(minimize_scalar(loss, bounds=_RANGE, method="bounded").x))


def scale_probabilities(probabilities: NDArray[Any], temperature: float) -> NDArray[np.float64]:
    """The probabilities (n, c) at a temperature: softmax(log(p) / temperature). Their order stays the same."""
    scaled = _log(probabilities) / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return np.asarray(scaled / scaled.sum(axis=1, keepdims=True))


def log_loss(labels: NDArray[Any], probabilities: NDArray[Any]) -> float:
    """The mean of -log p of the true class."""
    return float(-_log(probabilities)[np.arange(len(labels)), labels].mean())


def measure_calibration(labels: NDArray[Any], probabilities: NDArray[Any]) -> Calibration:
    """Calibration error, log loss and Brier score of predictions.

    labels: (n,) int; probabilities: (n, c). The error is the mean distance of confidence and accuracy over 15 bins of
    equal width, weighted with their predictions.
    """
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    bin_of = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins = []
    for number in range(BINS):
        inside = bin_of == number
        count = int(inside.sum())
        confidence, accuracy = (float(each[inside].mean()) if count else 0.0 for each in (sure, right))
        bins.append(CalibrationBin(number / BINS, (number + 1) / BINS, count, confidence, accuracy))
    one_hot = np.eye(probabilities.shape[1])[labels]
    return Calibration(
        error=float(sum(each.count * abs(each.confidence - each.accuracy) for each in bins) / len(labels)),
        log_loss=log_loss(labels, probabilities),
        brier=float(((probabilities - one_hot) ** 2).sum(axis=1).mean()),
        bins=tuple(bins),
    )


def _log(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    return np.log(np.maximum(np.asarray(probabilities, np.float64), _SMALLEST))
