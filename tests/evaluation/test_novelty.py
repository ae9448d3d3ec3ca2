"""What is like the training pictures, by centres of their features."""

import numpy as np
import pytest

from wastetune.evaluation.novelty import fit_centres, fit_lowest, likeness

RNG = np.random.default_rng(0)
DIRECTIONS = np.eye(4, 30)


def drawn(labels):
    """Features around a direction of each class, of any length."""
    vectors = DIRECTIONS[labels] + RNG.normal(scale=0.1, size=(len(labels), 30))
    return (vectors * RNG.uniform(0.5, 2, (len(labels), 1))).astype(np.float32)


def test_a_class_that_it_does_not_know_is_below_the_limit_and_known_ones_are_not():
    labels = np.repeat([0, 1, 2], 100)
    centres = fit_centres(drawn(labels), labels, seed=0)
    assert centres.shape == (60, 30)
    np.testing.assert_allclose(np.linalg.norm(centres, axis=1), 1, atol=1e-6)
    lowest = fit_lowest(likeness(drawn(labels), centres))
    known, unknown = (likeness(drawn(np.full(400, label)), centres) for label in (1, 3))
    assert (known < lowest).mean() == pytest.approx(0.05, abs=0.06)
    assert (unknown < lowest).mean() == 1
    assert fit_centres(drawn(labels), labels, seed=-1).shape == (60, 30)


def test_fewer_pictures_than_centres_are_centres_themselves():
    features = np.repeat(drawn(np.array([0, 0, 1])), 2, axis=0)
    centres = fit_centres(features, np.repeat([0, 0, 1], 2), seed=0)
    assert centres.shape == (3, 30)
    np.testing.assert_allclose(likeness(features, centres), 1, atol=1e-6)


def test_a_picture_without_any_feature_is_like_nothing():
    assert likeness(np.zeros((1, 4), np.float32), np.eye(4, dtype=np.float32)).tolist() == [0.0]
