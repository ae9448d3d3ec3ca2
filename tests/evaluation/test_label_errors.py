"""Label errors: the order of self-confidence, and the classes of confident learning, by hand and on drawn errors."""

import numpy as np

from wastetune.evaluation.label_errors import confident_classes, self_confidence

LABELS = np.array([0, 0, 0, 1, 1, 1])
# Means of self-confidence: 0.6 for class 0, 0.7 for class 1.
PROBABILITIES = np.array([[0.9, 0.1], [0.7, 0.3], [0.2, 0.8], [0.1, 0.9], [0.2, 0.8], [0.6, 0.4]], np.float32)


def test_self_confidence_is_the_probability_of_the_label():
    np.testing.assert_allclose(self_confidence(LABELS, PROBABILITIES), [0.9, 0.7, 0.2, 0.9, 0.8, 0.4])


def test_a_picture_belongs_to_a_class_in_which_it_is_as_probable_as_its_pictures_are_on_average():
    assert confident_classes(LABELS, PROBABILITIES).tolist() == [0, 0, 1, 1, 1, 0]


def test_a_picture_that_belongs_to_no_class_keeps_its_label():
    unsure = np.array([[0.9, 0.1], [0.55, 0.45], [0.45, 0.55], [0.1, 0.9]], np.float32)
    assert confident_classes(np.array([0, 1, 0, 1]), unsure).tolist() == [0, 1, 0, 1]


def test_of_several_classes_the_most_probable_counts():
    labels = np.array([0, 1, 2, 0])
    several = np.array([[0.3, 0.3, 0.4], [0.4, 0.3, 0.3], [0.2, 0.6, 0.2], [0.1, 0.5, 0.4]], np.float32)
    assert confident_classes(labels, several).tolist() == [2, 0, 1, 1]


def test_nothing_belongs_to_a_class_without_pictures():
    three = np.array([[0.2, 0.1, 0.7], [0.1, 0.2, 0.7]], np.float32)
    assert confident_classes(np.array([0, 1]), three).tolist() == [0, 1]


def test_drawn_errors_come_first():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 4, 1000)
    logits = rng.normal(size=(1000, 4)) + 4 * np.eye(4)[true]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    given = true.copy()
    given[:50] = (true[:50] + 1) % 4
    first = np.argsort(self_confidence(given, probabilities))[:80]
    assert (first < 50).sum() >= 48
    wrong = np.flatnonzero(confident_classes(given, probabilities) != given)
    assert (wrong < 50).sum() >= 35
    assert (wrong >= 50).sum() <= 20
