"""Prediction sets hold the true class as often as promised."""

import numpy as np
import pytest

from wastetune.evaluation.conformal import SetThreshold, apply_set_threshold, fit_set_thresholds, prediction_sets


def drawn(count, seed):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 5)) * 1.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.array([rng.choice(5, p=row) for row in probabilities]), probabilities


def test_the_promise_is_kept_on_average_and_not_by_naming_every_class():
    kept = {0.9: [], 0.95: [], 0.99: []}
    for seed in range(30):
        for threshold in fit_set_thresholds(*drawn(200, seed)):
            kept[threshold.coverage].append(apply_set_threshold(*drawn(2000, 100 + seed), threshold))
    for promised, measured in kept.items():
        # Split conformal prediction promises between 1 - a and 1 - a + 1 / (n + 1).
        assert np.mean([each.coverage for each in measured]) == pytest.approx(promised + 0.0025, abs=0.009)
    assert np.mean([each.size for each in kept[0.9]]) < 3.5


def test_it_is_the_threshold_of_the_formula_and_is_left_out_where_pictures_are_few():
    labels, probabilities = drawn(25, 0)
    of_true = np.sort(probabilities[np.arange(25), labels])
    found = {each.coverage: each.probability for each in fit_set_thresholds(labels, probabilities)}
    assert found == {0.9: of_true[1], 0.95: of_true[0]}  # ranks 0.1 * 26 and 0.05 * 26, rounded down; 0.01 * 26 is none


def test_the_most_probable_class_is_always_in_the_set():
    probabilities = np.array([[0.4, 0.35, 0.25], [0.8, 0.15, 0.05]])
    inside = prediction_sets(probabilities, SetThreshold(coverage=0.9, probability=0.5))
    assert inside.tolist() == [[True, False, False], [True, False, False]]
    inside = prediction_sets(probabilities, SetThreshold(coverage=0.9, probability=0.3))
    assert inside.tolist() == [[True, True, False], [True, False, False]]
