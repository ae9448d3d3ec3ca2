"""Wrong labels, found by predictions that were made without them.

Source: Northcutt, Jiang and Chuang 2021, "Confident learning: estimating uncertainty in dataset labels"; the order is
that of self-confidence in Kuan and Mueller 2022, "Model-agnostic label quality scoring to detect real-world label
errors".
"""

import numpy as np
from numpy.typing import NDArray


def self_confidence(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
    """The probability of each picture's own label, (n,): the lower, the more likely the label is wrong.

    labels: (n,); probabilities: (n, classes), out of fold.
    """
    return probabilities[np.arange(len(labels)), labels]


def confident_classes(labels: NDArray[np.int64], probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
    """The class to which each picture confidently belongs, (n,); its own label where it belongs to none.

    A picture belongs to a class if its probability is at least the mean self-confidence of the pictures with that
    label; to the most probable one, if there are several. Where the class is not the label, the label is probably
    wrong. Arguments as in `self_confidence`.
    """
    own = self_confidence(labels, probabilities)
    classes = probabilities.shape[1]
    # No picture belongs to a class without pictures.
    means = [own[labels == label].mean() if (labels == label).any() else np.inf for label in range(classes)]
    belongs = probabilities >= np.array(means)
    best = np.where(belongs, probabilities, -1.0).argmax(axis=1)
    return np.where(belongs.any(axis=1), best, labels)
