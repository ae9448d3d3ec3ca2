"""Scores of a set of predictions, with bootstrap confidence intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wastetune.evaluation.metrics import Counts, accuracy, balanced_accuracy, confusion_counts, macro_f1, per_class
from wastetune.seeding import seed_for

RESAMPLES = 1000


@dataclass(frozen=True)
class ClassScores:
    """Scores of one class; `support` is the number of its pictures."""

    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """The scores of a set of predictions, all in [0, 1]. The macro F1 is the mean of the classes' F1 scores."""

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


def score_predictions(
    labels: NDArray[Any],
    probabilities: NDArray[Any],
    classes: Sequence[str],
    *,
    repeats: Sequence[NDArray[Any]] = (),
    only_present: bool = False,
) -> Scores:
    """All scores of a set of predictions, with 95 % intervals for accuracy and macro F1.

    labels: (n,) int, indices into classes; probabilities: (n, c). Averages are over all c classes, and undefined
    scores (the precision of a class that is never predicted) are 0; only balanced accuracy leaves out classes
    without pictures. With `only_present`, all averages and `per_class` leave them out; to predict one of them is still
    wrong, and the confusion matrix keeps its shape. Intervals: percentile bootstrap over pictures, seeded; with
    `repeats`, the probabilities of the same model fitted with other seeds, over pictures and seeds.
    Raises ValueError if shapes or labels do not fit, or a probability is not finite.
    """
    counts = confusion_counts(labels, probabilities)
    if len(classes) != len(counts):
        raise ValueError(f"{len(classes)} class names for {len(counts)} columns of probabilities")
    precision, recall, f1 = per_class(counts)
    support = counts.sum(axis=-1)
    share = support / support.sum()
    counted = support > 0 if only_present else np.full(len(counts), True)
    return Scores(
        accuracy=float(accuracy(counts)),
        balanced_accuracy=float(balanced_accuracy(counts)),
        precision_macro=float(precision[counted].mean()),
        recall_macro=float(recall[counted].mean()),
        f1_macro=float(f1[counted].mean()),
        precision_weighted=float(precision @ share),
        recall_weighted=float(recall @ share),
        f1_weighted=float(f1 @ share),
        per_class={
            name: ClassScores(float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(classes)
            if counted[i]
        },
        confusion_matrix=tuple(map(tuple, counts.tolist())),
        intervals=_intervals([counts, *(confusion_counts(labels, each) for each in repeats)], counted),
    )


def gain_intervals(
    labels: NDArray[Any], fits: Sequence[tuple[NDArray[Any], NDArray[Any]]]
) -> dict[str, tuple[float, float]]:
    """95 % intervals of the score of one model minus that of another on the same pictures, for accuracy and macro F1.

    labels: (n,) int; fits: the (n, c) probabilities of both models, for each seed that they were fitted with. Paired
    percentile bootstrap over pictures and seeds, seeded: pictures that are hard for both do not widen the interval.
    """
    rng = np.random.default_rng(seed_for("gain", len(labels)))
    pairs = [_paired_resamples(labels, ours, theirs, RESAMPLES // len(fits), rng) for ours, theirs in fits]
    first, second = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return {
        name: (float(low), float(high))
        for name, score in (("accuracy", accuracy), ("f1_macro", macro_f1))
        for low, high in [np.percentile(score(first) - score(second), [2.5, 97.5])]
    }


def _paired_resamples(
    labels: NDArray[Any], ours: NDArray[Any], theirs: NDArray[Any], resamples: int, rng: np.random.Generator
) -> tuple[Counts, Counts]:
    """Confusion counts (resamples, c, c) of two models on the same drawn pictures."""
    for probabilities in (ours, theirs):
        confusion_counts(labels, probabilities)  # raises if something does not fit
    size, total = ours.shape[1], len(labels)
    answers = (labels * size + ours.argmax(axis=1)) * size + theirs.argmax(axis=1)
    cells, counts = np.unique(answers, return_counts=True)
    drawn = rng.multinomial(total, counts / total, size=resamples)

    def matrices(predicted: NDArray[Any]) -> Counts:
        table = np.zeros((resamples, size * size), np.int64)
        for column, cell in enumerate(cells // size**2 * size + predicted):
            table[:, cell] += drawn[:, column]
        return table.reshape(-1, size, size)

    return matrices(cells // size % size), matrices(cells % size)


def _intervals(fits: Sequence[Counts], counted: NDArray[np.bool_]) -> dict[str, tuple[float, float]]:
    """Resamples of each fit, as many of one as of another."""
    total = int(fits[0].sum())
    rng = np.random.default_rng(seed_for("bootstrap", total))
    drawn = np.concatenate(
        [
            rng.multinomial(total, counts.ravel() / total, size=RESAMPLES // len(fits)).reshape(-1, *counts.shape)
            for counts in fits
        ]
    )
    return {
        name: (float(low), float(high))
        for name, values in (
            ("accuracy", accuracy(drawn)),
            ("f1_macro", per_class(drawn)[2][:, counted].mean(axis=-1)),
        )
        for low, high in [np.percentile(values, [2.5, 97.5])]
    }
