"""Shift: pictures of the same kind are not told apart, others are, and the strangest ones are named."""

import numpy as np
import pytest

from wastetune.evaluation.shift import TOLD_APART, measure_shift

CLASSES = ("box", "leaf")


def clouds(count, seed, offset=0.0):
    """Features of two classes, and their labels; `offset` moves the pictures of the second class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    features = rng.normal(size=(count, 20)) + 2 * labels[:, None]
    features[labels == 1, 0] += offset
    return features.astype(np.float32), labels


def measured(offset, strangest=0.0):
    training, other = clouds(300, 1), clouds(200, 2, offset)
    other[0][7, 0] += strangest
    paths = [f"{number}.jpg" for number in range(200)]
    return measure_shift(training[0], other[0], (training[1], other[1]), CLASSES, paths, seed=0)


def test_pictures_of_the_same_kind_are_not_told_apart():
    shift = measured(0.0)
    assert shift.auroc == pytest.approx(0.5, abs=0.08)
    assert shift.auroc < TOLD_APART


def test_other_pictures_are_told_apart_in_the_class_that_differs():
    shift = measured(6.0)
    assert shift.per_class["leaf"] > 0.95
    assert shift.per_class["box"] < 0.7
    assert all(int(path.removesuffix(".jpg")) % 2 for path in shift.least_alike)


def test_the_strangest_picture_comes_first_and_a_seed_gives_one_answer():
    assert measured(6.0, strangest=50.0).least_alike[0] == "7.jpg"
    assert measured(6.0) == measured(6.0)


def test_too_few_pictures_tell_nothing():
    few = clouds(19, 1)
    training = clouds(300, 2)
    paths = [f"{number}.jpg" for number in range(19)]
    assert measure_shift(training[0], few[0], (training[1], few[1]), CLASSES, paths, seed=0) is None
