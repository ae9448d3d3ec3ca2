"""predictions.csv: written and read back whole, and not believed where it belongs to another model."""

import csv

import numpy as np
import pytest

from wastetune.evaluation.metrics import confusion_counts
from wastetune.report.predictions import Mistake, Predictions, confident_mistakes, read_predictions, write_predictions

CLASSES = ("glass, green", "metal")


@pytest.fixture
def predictions():
    return Predictions(
        CLASSES,
        ("a/1.jpg", 'a/"2",\n.jpg', "b/\udcff.jpg", "b/4.jpg"),
        np.array([0, 0, 1, 1]),
        np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [1 / 3, 2 / 3]], np.float32),
        np.array([0, 1, 1, 1]),
    )


def matrix(predictions):
    return confusion_counts(predictions.labels, predictions.probabilities).tolist()


def test_it_reads_back_what_was_written_to_the_last_bit(tmp_path, predictions):
    write_predictions(predictions, tmp_path)
    again = read_predictions(tmp_path, CLASSES, matrix(predictions))
    assert again.paths == predictions.paths
    for key in ("labels", "probabilities", "default_predicted"):
        np.testing.assert_array_equal(getattr(again, key), getattr(predictions, key))
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def test_a_line_has_path_split_classes_and_the_probability_of_each(tmp_path, predictions):
    write_predictions(predictions, tmp_path)
    with (tmp_path / "predictions.csv").open(newline="", errors="surrogateescape") as file:
        row = list(csv.DictReader(file))[1]
    assert row == {
        "path": 'a/"2",\n.jpg',
        "split": "test",
        "true": "glass, green",
        "predicted": "metal",
        "predicted by default": "metal",
        "probability of glass, green": "0.200000003",
        "probability of metal": "0.800000012",
    }


def test_another_models_predictions_are_not_believed(tmp_path, predictions):
    assert read_predictions(tmp_path, CLASSES, matrix(predictions)) is None
    write_predictions(predictions, tmp_path)
    assert read_predictions(tmp_path, CLASSES, [[2, 0], [0, 2]]) is None
    assert read_predictions(tmp_path, ("glass", "metal"), matrix(predictions)) is None
    (tmp_path / "predictions.csv").write_text("path,true\nx,glass\n")
    assert read_predictions(tmp_path, CLASSES, matrix(predictions)) is None


def test_the_surest_mistake_comes_first(predictions):
    first, second = confident_mistakes(predictions, 5)
    assert first == Mistake('a/"2",\n.jpg', "glass, green", "metal", pytest.approx(0.8))
    assert second == Mistake("b/\udcff.jpg", "metal", "glass, green", pytest.approx(0.7))
    assert confident_mistakes(predictions, 1) == (first,)
