"""Shift: whether other pictures are like the training pictures, as features of the trunk show them."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TOLD_APART = 0.75  # AUROC; a random split of TrashNet or WID stays below 0.6
_MOST, _FEWEST = 2000, 20  # pictures of each set that the classifier learns from
_FOLDS = 5
_LEAST_ALIKE = 12


@dataclass(frozen=True)
class Shift:
    """How well a classifier tells other pictures from the training pictures."""

    auroc: float  # 0.5: not at all; 1: every time
    per_class: dict[str, float]  # likewise, among the pictures of each class
    least_alike: tuple[str, ...]  # the paths of the other pictures that are least like the training pictures


def measure_shift(
    training: NDArray[np.float32],
    others: NDArray[np.float32],
    labels: tuple[NDArray[np.int64], NDArray[np.int64]],
    classes: Sequence[str],
    paths: Sequence[str],
    *,
    seed: int,
) -> Shift | None:
    """The shift between training pictures (n, f) and others (m, f), whose paths are given; labels of both.

    None with fewer than 20 pictures in a set.

    A logistic regression between the two, its scores out of fold. Sets of more than 2,000 pictures are sampled, seeded.
    Source: Lopez-Paz and Oquab 2017, "Revisiting classifier two-sample tests".
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if min(len(training), len(others)) < _FEWEST:
        return None
    rng = np.random.default_rng(seed)
    rows = [np.sort(rng.permutation(len(each))[:_MOST]) for each in (training, others)]
    features = np.concatenate([training[rows[0]], others[rows[1]]])
    is_other = np.repeat([False, True], [len(rows[0]), len(rows[1])])
    label = np.concatenate([labels[0][rows[0]], labels[1][rows[1]]])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200, class_weight="balanced"))
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        score = cross_val_predict(model, features, is_other, cv=folds, method="decision_function")
    per_class = {}
    for number, name in enumerate(classes):
        inside = label == number
        if 0 < is_other[inside].sum() < inside.sum():
            per_class[name] = round(float(roc_auc_score(is_other[inside], score[inside])), 4)
    order = np.argsort(-score[is_other], kind="stable")[:_LEAST_ALIKE]
    return Shift(
        auroc=round(float(roc_auc_score(is_other, score)), 4),
        per_class=per_class,
        least_alike=tuple(paths[rows[1][position]] for position in order),
    )
