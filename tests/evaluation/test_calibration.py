"""Calibration against scikit-learn, and a temperature that is found again."""

import numpy as np
import pytest
from sklearn.metrics import log_loss as sklearn_log_loss

from wastetune.evaluation.calibration import fit_temperature, log_loss, measure_calibration, scale_probabilities


@pytest.fixture
def drawn():
    """Labels drawn from probabilities, which are calibrated therefore."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5000, 4)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return np.array([rng.choice(4, p=row) for row in probabilities]), probabilities


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_is_found_again_and_mends_the_probabilities(drawn, temperature):
    labels, probabilities = drawn
    spoiled = scale_probabilities(probabilities, temperature)
    found = fit_temperature(labels, spoiled)
    assert found == pytest.approx(1 / temperature, rel=0.06)
    mended = measure_calibration(labels, scale_probabilities(spoiled, found))
    assert mended.error < 0.02
    if temperature != 1:
        assert measure_calibration(labels, spoiled).error > 0.08
    np.testing.assert_array_equal(scale_probabilities(spoiled, found).argmax(1), probabilities.argmax(1))


def test_the_figures_are_those_of_scikit_learn_and_of_the_formula(drawn):
    labels, probabilities = drawn
    assert log_loss(labels, probabilities) == pytest.approx(sklearn_log_loss(labels, probabilities))
    measured = measure_calibration(labels, probabilities)
    assert measured.brier == pytest.approx(np.square(probabilities - np.eye(4)[labels]).sum(axis=1).mean())
    assert sum(each.count for each in measured.bins) == len(labels)


def test_the_error_is_the_distance_of_confidence_and_accuracy():
    sure = np.tile([0.9, 0.1], (10, 1))
    labels = np.array([0] * 6 + [1] * 4)
    measured = measure_calibration(labels, sure)
    assert measured.error == pytest.approx(0.3)
    (used,) = (each for each in measured.bins if each.count)
    assert (used.confidence, used.accuracy) == (pytest.approx(0.9), pytest.approx(0.6))


def test_a_probability_of_one_that_was_wrong_is_no_infinite_loss():
    assert np.isfinite(measure_calibration(np.array([1]), np.array([[1.0, 0.0]])).log_loss)


def test_a_few_predictions_that_are_all_right_make_the_model_not_certain():
    labels = np.array([0, 1] * 5)
    right = np.where(np.eye(2)[labels], 0.7, 0.3)
    assert 0.7 < scale_probabilities(right, fit_temperature(labels, right)).max() < 0.9
