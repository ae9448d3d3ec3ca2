"""Labels and probabilities in, scores out: what a study maximises and what its report states."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wastetune.seeding import seed_for

# The study's metric -> (how it is called in a sentence, its key in the scores).
METRICS = {
    "macro_f1": ("macro F1", "f1_macro"),
    "accuracy": ("accuracy", "accuracy"),
    "balanced_accuracy": ("balanced accuracy", "balanced_accuracy"),
}

RESAMPLES = 1000

# Confusion matrices (..., c, c): row = true class, column = predicted class. All scores follow from them, so
# a bootstrap over pictures is a draw from a multinomial over their cells, and a thousand take milliseconds.
Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class ClassScores:
    """How well one class was found; `support` is the number of its pictures."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """Everything a report says about one set of predictions; all fractions in [0, 1]."""

    accuracy: float
    balanced_accuracy: float
    precision_macro: float
    recall_macro: float
    f1_macro: float
    precision_weighted: float
    recall_weighted: float
    f1_weighted: float
    per_class: dict[str, ClassScores]
    confusion_matrix: tuple[tuple[int, ...], ...]
    intervals: dict[str, tuple[float, float]]


def score_predictions(labels: NDArray[Any], probabilities: NDArray[Any], classes: Sequence[str]) -> Scores:
    """All scores of a set of predictions, with 95 % intervals for accuracy and macro F1.

    labels: (n,) int, indices into classes; probabilities: (n, c). The means run over all c classes, and what
    is undefined (the precision of a class never predicted) counts as 0; only balanced accuracy leaves out
    classes without a picture. Weighted means weigh by support. Intervals: percentile bootstrap over pictures,
    seeded.
    Raises ValueError where shapes or labels do not fit, or a probability is not a number.
    """
    counts = confusion_counts(labels, probabilities)
    if len(classes) != len(counts):
        raise ValueError(f"{len(classes)} class names for {len(counts)} columns of probabilities")
    precision, recall, f1 = _per_class(counts)
    support = counts.sum(axis=-1)
    share = support / support.sum()
    return Scores(
        accuracy=float(_accuracy(counts)),
        balanced_accuracy=float(_balanced_accuracy(counts)),
        precision_macro=float(precision.mean()),
        recall_macro=float(recall.mean()),
        f1_macro=float(_macro_f1(counts)),
        precision_weighted=float(precision @ share),
        recall_weighted=float(recall @ share),
        f1_weighted=float(f1 @ share),
        per_class={
            name: ClassScores(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(classes)
        },
        confusion_matrix=tuple(tuple(int(cell) for cell in row) for row in counts),
        intervals=_intervals(counts),
    )


def gain_intervals(labels: NDArray[Any], ours: NDArray[Any], theirs: NDArray[Any]) -> dict[str, tuple[float, float]]:
    """95 % intervals of how much better `ours` is than `theirs` on the same pictures, for accuracy and macro F1.

    labels: (n,) int; ours, theirs: (n, c) probabilities. Paired percentile bootstrap over pictures, seeded: what is
    hard for both does not blur the difference.
    """
    for probabilities in (ours, theirs):
        confusion_counts(labels, probabilities)  # says what does not fit
    size, total = ours.shape[1], len(labels)
    answers = (labels * size + ours.argmax(axis=1)) * size + theirs.argmax(axis=1)
    cells, counts = np.unique(answers, return_counts=True)
    drawn = np.random.default_rng(seed_for("gain", total)).multinomial(total, counts / total, size=RESAMPLES)

    def matrices(predicted: NDArray[Any]) -> Counts:
        table = np.zeros((RESAMPLES, size * size), np.int64)
        for column, cell in enumerate(cells // size**2 * size + predicted):
            table[:, cell] += drawn[:, column]
        return table.reshape(-1, size, size)

    first, second = matrices(cells // size % size), matrices(cells % size)
    return {
        name: (float(low), float(high))
        for name, score in (("accuracy", _accuracy), ("f1_macro", _macro_f1))
        for low, high in [np.percentile(score(first) - score(second), [2.5, 97.5])]
    }


def metric_value(metric: str, labels: NDArray[Any], probabilities: NDArray[Any]) -> float:
    """The one number a study maximises, by its name in the study file; cheap enough for every epoch.

    labels: (n,) int; probabilities: (n, c). Raises ValueError for an unknown name, or where
    `score_predictions` would: a trial that diverged has no score.
    """
    counts = confusion_counts(labels, probabilities)
    match metric:
        case "macro_f1":
            return float(_macro_f1(counts))
        case "accuracy":
            return float(_accuracy(counts))
        case "balanced_accuracy":
            return float(_balanced_accuracy(counts))
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


def scores_dict(scores: Scores) -> dict[str, Any]:
    """The scores as plain JSON types: dictionaries, lists, numbers."""
    return asdict(scores) | {
        "confusion_matrix": [list(row) for row in scores.confusion_matrix],
        "intervals": {name: list(interval) for name, interval in scores.intervals.items()},
    }


def _per_class(counts: Counts) -> tuple[Floats, Floats, Floats]:
    """Precision, recall and F1 of each class, each (..., c)."""
    hits = np.diagonal(counts, axis1=-2, axis2=-1)
    true, predicted = counts.sum(axis=-1), counts.sum(axis=-2)
    return _ratio(hits, predicted), _ratio(hits, true), _ratio(2 * hits, true + predicted)


def _accuracy(counts: Counts) -> Floats:
    return _ratio(np.trace(counts, axis1=-2, axis2=-1), counts.sum(axis=(-2, -1)))


def _macro_f1(counts: Counts) -> Floats:
    f1: Floats = _per_class(counts)[2].mean(axis=-1)
    return f1


def _balanced_accuracy(counts: Counts) -> Floats:
    present = counts.sum(axis=-1) > 0
    return _ratio(_per_class(counts)[1].sum(axis=-1), present.sum(axis=-1))


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """part / whole, and 0 where whole is 0."""
    quotient: Floats = np.divide(part, whole, out=np.zeros(np.shape(whole), np.float64), where=np.asarray(whole) > 0)
    return quotient


def _intervals(counts: Counts) -> dict[str, tuple[float, float]]:
    total = int(counts.sum())
    rng = np.random.default_rng(seed_for("bootstrap", total))
    drawn = rng.multinomial(total, counts.ravel() / total, size=RESAMPLES).reshape(-1, *counts.shape)
    return {
        name: (float(low), float(high))
        for name, values in (("accuracy", _accuracy(drawn)), ("f1_macro", _macro_f1(drawn)))
        for low, high in [np.percentile(values, [2.5, 97.5])]
    }
