"""Thresholds of confidence: what they answer, and what they may promise."""

import numpy as np
import pytest
from scipy.stats import beta

from wastetune.evaluation.selective import Threshold, accuracy_by_coverage, apply_threshold, fit_thresholds


def drawn(count, seed=0):
    """Predictions of two classes that are right as often as they say."""
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.5, 1.0, count)
    right = rng.random(count) < sure
    return np.where(right, 0, 1), np.stack([sure, 1 - sure], axis=1)


def test_the_threshold_is_the_lowest_one_whose_bound_on_mistakes_is_low_enough():
    sure = np.linspace(0.99, 0.6, 100)
    wrong = np.array([n in (60, 80, 90) for n in range(100)])
    labels, probabilities = wrong.astype(int), np.stack([sure, 1 - sure], axis=1)
    found = {each.precision: each for each in fit_thresholds(labels, probabilities)}

    def bound(answers):
        return beta.ppf(0.9, wrong[:answers].sum() + 1, answers - wrong[:answers].sum())

    assert bound(80) < 0.05 < bound(81)
    assert (found[0.95].confidence, found[0.95].coverage) == (sure[79], 0.8)
    assert bound(100) < 0.1
    assert (found[0.9].confidence, found[0.9].coverage) == (0.0, 1.0)
    assert found.keys() == {0.9, 0.95}  # without a mistake, 98 % needs 114 answers


def test_on_other_pictures_nine_of_ten_keep_the_promise():
    kept = []
    for seed in range(100):
        promised = (each for each in fit_thresholds(*drawn(1000, seed)) if each.precision == 0.9)
        kept += [apply_threshold(*drawn(20_000, 1000 + seed), threshold) for threshold in promised]
    assert len(kept) > 90
    assert np.mean([each.accuracy >= 0.9 for each in kept]) > 0.8
    assert 0.15 < np.mean([each.coverage for each in kept]) < 0.4


def test_equal_confidences_are_answered_together():
    labels, probabilities = np.array([0] * 40 + [1]), np.tile([0.8, 0.2], (41, 1))
    assert [each.precision for each in fit_thresholds(labels, probabilities)] == [0.9]
    assert fit_thresholds(np.array([0] * 30 + [1]), np.tile([0.8, 0.2], (31, 1))) == ()


def test_a_model_that_is_always_wrong_promises_nothing():
    assert fit_thresholds(np.ones(300, int), np.tile([0.8, 0.2], (300, 1))) == ()


def test_a_threshold_that_nothing_reaches_has_no_accuracy():
    threshold = Threshold(precision=0.99, confidence=0.999, coverage=0.1)
    found = apply_threshold(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]]), threshold)
    assert (found.coverage, found.accuracy) == (0.0, None)


def test_the_curve_ends_with_the_accuracy_of_all_pictures():
    labels, probabilities = drawn(333)
    curve = accuracy_by_coverage(labels, probabilities)
    assert len(curve) <= 50
    assert curve[-1] == (1.0, pytest.approx((labels == 0).mean()))
    sure = np.argsort(-probabilities[:, 0])[: round(curve[10][0] * 333)]
    assert curve[10][1] == pytest.approx((labels[sure] == 0).mean())
