"""Scores agree with scikit-learn where both are defined, and stay defined where it warns."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score, precision_recall_fscore_support

from wastetune.evaluation.metrics import metric_value
from wastetune.evaluation.scores import gain_intervals, score_predictions

CLASSES = ["card board", "glass", "metal", "paper"]


def predictions(n=200, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    probabilities = rng.random((n, classes)) + 0.6 * np.eye(classes)[labels]
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


def test_agrees_with_scikit_learn():
    labels, probabilities = predictions()
    predicted = probabilities.argmax(axis=1)
    scores = score_predictions(labels, probabilities, CLASSES)
    assert scores.accuracy == pytest.approx(accuracy_score(labels, predicted))
    assert scores.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = precision_recall_fscore_support(labels, predicted, average=average)
        assert getattr(scores, f"precision_{average}") == pytest.approx(precision)
        assert getattr(scores, f"recall_{average}") == pytest.approx(recall)
        assert getattr(scores, f"f1_{average}") == pytest.approx(f1)
    by_class = precision_recall_fscore_support(labels, predicted)
    for name, precision, recall, f1, support in zip(CLASSES, *by_class, strict=True):
        own = scores.per_class[name]
        assert (own.precision, own.recall, own.f1, own.support) == pytest.approx((precision, recall, f1, support))


def test_rows_of_the_confusion_matrix_are_the_true_classes():
    labels = np.array([0, 0, 0, 1])
    probabilities = np.eye(2)[[0, 1, 1, 1]]
    assert score_predictions(labels, probabilities, ["a", "b"]).confusion_matrix == ((1, 2), (0, 1))


@pytest.mark.parametrize(
    ("metric", "field"),
    [("macro_f1", "f1_macro"), ("accuracy", "accuracy"), ("balanced_accuracy", "balanced_accuracy")],
)
def test_the_metric_of_a_study_is_the_score_in_its_report(metric, field):
    labels, probabilities = predictions(seed=3)
    assert metric_value(metric, labels, probabilities) == getattr(
        score_predictions(labels, probabilities, CLASSES), field
    )


def test_an_absent_class_counts_in_macro_f1_but_not_in_balanced_accuracy():
    labels = np.array([0, 0, 1, 1])  # no picture of class 2, and warnings are errors in this suite
    probabilities = np.eye(3)[[0, 0, 1, 1]]
    assert metric_value("macro_f1", labels, probabilities) == pytest.approx(2 / 3)
    assert metric_value("balanced_accuracy", labels, probabilities) == 1.0


def test_intervals_hold_the_score_narrow_with_pictures_and_repeat():
    few, many = (score_predictions(*predictions(n, seed=1), CLASSES) for n in (60, 6000))
    for scores in (few, many):
        for name, (low, high) in scores.intervals.items():
            assert low < getattr(scores, name) < high
    widths = [high - low for low, high in (few.intervals["accuracy"], many.intervals["accuracy"])]
    assert widths[1] < widths[0] / 5
    assert score_predictions(*predictions(60, seed=1), CLASSES).intervals == few.intervals


def test_interval_is_about_the_binomial_one():
    labels = np.zeros(400, int)
    probabilities = np.eye(2)[[0] * 320 + [1] * 80]
    low, high = score_predictions(labels, probabilities, ["a", "b"]).intervals["accuracy"]
    error = 1.96 * np.sqrt(0.8 * 0.2 / 400)
    assert (low, high) == pytest.approx((0.8 - error, 0.8 + error), abs=0.006)


@pytest.mark.parametrize(
    ("labels", "probabilities", "complaint"),
    [
        ([0, 1], [[0.5, 0.5]], "must be"),
        ([], np.zeros((0, 2)), "must be"),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], "2 classes"),
        ([0, 1], [[0.5, 0.5], [np.nan, np.nan]], "diverged"),
    ],
)
def test_what_has_no_score_gets_none(labels, probabilities, complaint):
    with pytest.raises(ValueError, match=complaint):
        metric_value("accuracy", np.array(labels, int), np.array(probabilities))


def test_the_interval_of_a_gain_is_that_of_pictures_only_one_of_two_knows():
    # Of 400 pictures, 300 are easy for both, 60 known to the first alone, 40 to the second alone.
    labels = np.zeros(400, int)
    ours = np.eye(2)[[0] * 360 + [1] * 40]
    theirs = np.eye(2)[[0] * 300 + [1] * 60 + [0] * 40]
    low, high = gain_intervals(labels, [(ours, theirs)])["accuracy"]
    error = 1.96 * np.sqrt((0.25 - 0.05**2) / 400)  # of a difference that is 1, 0 or -1
    assert (low, high) == pytest.approx((0.05 - error, 0.05 + error), abs=0.008)
    assert gain_intervals(labels, [(ours, ours)])["accuracy"] == (0, 0)


def test_the_gain_of_macro_f1_covers_the_difference_and_turns_with_the_sides():
    (labels, ours), (_, theirs) = predictions(300), predictions(300, seed=0)
    theirs = theirs[:, [1, 0, 2, 3]]
    low, high = gain_intervals(labels, [(ours, theirs)])["f1_macro"]
    scored = [score_predictions(labels, one, CLASSES).f1_macro for one in (ours, theirs)]
    assert 0 < low < scored[0] - scored[1] < high
    assert gain_intervals(labels, [(theirs, ours)])["f1_macro"] == pytest.approx((-high, -low), abs=0.02)


def test_intervals_over_seeds_reach_from_the_worst_fit_to_the_best():
    labels, good = predictions(600, seed=1)
    bad = good[::-1]  # right by chance only
    alone = score_predictions(labels, good, CLASSES)
    both = score_predictions(labels, good, CLASSES, repeats=[bad])
    assert both.f1_macro == alone.f1_macro
    for key, (low, high) in alone.intervals.items():
        assert both.intervals[key][0] < getattr(score_predictions(labels, bad, CLASSES), key) + 0.05 < low
        assert both.intervals[key][1] == pytest.approx(high, abs=0.01)
    low, high = gain_intervals(labels, [(good, bad), (bad, good)])["accuracy"]
    assert low < -0.2 < 0.2 < high
    assert low == pytest.approx(-high, abs=0.05)
