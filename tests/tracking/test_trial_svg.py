"""The pictures of a trial: whole SVG files with what a reader looks for, whatever the classes are called."""

import re
from xml.etree import ElementTree

import pytest

from wastetune.tracking.trial_svg import draw_confusion, draw_learning_curve

HISTORY = [{"number": n, "loss": 1 / n, "score": 0.5 + n / 100, "accuracy": 0.6 + n / 100} for n in range(1, 13)]
SVG = "{http://www.w3.org/2000/svg}"


def words(picture):
    return [text.text for text in ElementTree.fromstring(picture).iter(f"{SVG}text")]


def test_the_curve_names_its_lines_and_marks_the_best_epoch_on_each():
    picture = draw_learning_curve(HISTORY, 7, "macro F1")
    assert {"training", "loss", "validation", "macro F1", "accuracy", "epoch", "1", "12"} <= set(words(picture))
    root = ElementTree.fromstring(picture)
    marks = [float(circle.get("cx")) for circle in root.iter(f"{SVG}circle")]
    assert len(marks) == 3
    ends = [(46 + 6 / 11 * 266), (376 + 6 / 11 * 266)]
    assert sorted({round(x) for x in marks}) == sorted(round(x) for x in ends)


def test_accuracy_is_drawn_once_where_it_is_the_metric():
    assert words(draw_learning_curve(HISTORY, 1, "accuracy")).count("accuracy") == 1


@pytest.mark.parametrize(
    "history", [HISTORY[:1], [epoch | {"loss": 0.0, "score": 0.0, "accuracy": 0.0} for epoch in HISTORY]]
)
def test_one_epoch_or_a_flat_line_is_drawn_inside_the_picture(history):
    picture = draw_learning_curve(history, 1, "macro F1")
    for path in ElementTree.fromstring(picture).iter(f"{SVG}path"):
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", path.get("d"))]
        assert all(0 <= number <= 660 for number in numbers), path.get("d")


def test_each_count_of_the_matrix_stands_in_its_row_and_column():
    picture = draw_confusion([[11, 2], [3, 14]], ("box", "leaf & <twig>"))
    at = {
        text.text: (float(text.get("x")), float(text.get("y")))
        for text in ElementTree.fromstring(picture).iter(f"{SVG}text")
    }
    assert at["11"][1] == at["2"][1] < at["3"][1] == at["14"][1]
    assert at["11"][0] == at["3"][0] < at["2"][0] == at["14"][0]
    assert words(picture).count("box") == words(picture).count("leaf & <twig>") == 2


def test_a_hundred_classes_are_a_small_picture_of_bounded_width():
    count = 100
    matrix = [[50 if row == column else int(column == row + 1) for column in range(count)] for row in range(count)]
    picture = draw_confusion(matrix, [f"a class with a rather long name {n}" for n in range(count)])
    root = ElementTree.fromstring(picture)
    assert float(root.get("width")) < 800
    assert len(picture) < 60_000
    assert len(list(root.iter(f"{SVG}rect"))) == 2 + 100 + 99  # the grounds, and the cells that hold something
