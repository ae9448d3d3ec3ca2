"""Novelty: whether a picture is like those that a model learned from, by features of its trunk.

The probabilities of a classifier do not tell: they say how its classes compare, and a picture of none of them may be
near one of them all the same (AUROC .69 where these features have .98: docs/log.md).
"""

import numpy as np
from numpy.typing import NDArray

PER_CLASS = 20
KNOWN = 0.95  # the share of pictures like the training pictures that are taken for such


def fit_centres(features: NDArray[np.float32], labels: NDArray[np.int64], *, seed: int) -> NDArray[np.float32]:
    """Up to 20 k-means centres a class of feature vectors (n, f): (k, f), each of length 1. labels: (n,)."""
    from sklearn.cluster import KMeans

    unit = _unit(features)
    centres = []
    for label in np.unique(labels):
        rows = unit[labels == label]
        means = KMeans(min(PER_CLASS, len(np.unique(rows, axis=0))), n_init=1, random_state=seed % 2**32).fit(rows)
        centres.append(means.cluster_centers_)
    return _unit(np.concatenate(centres))


def likeness(features: NDArray[np.float32], centres: NDArray[np.float32]) -> NDArray[np.float32]:
    """The cosine of each feature vector (n, f) to the nearest of the centres (k, f), which have length 1: (n,)."""
    return np.asarray((_unit(features) @ centres.T).max(axis=1))


def fit_lowest(known: NDArray[np.float32]) -> float:
    """The likeness below which 5 % of pictures lie that are like the training pictures, from that of held-out ones."""
    return float(np.quantile(known, 1 - KNOWN))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), np.float32)
