"""What a data set is called, and that it is known again by its pictures."""

import hashlib
from pathlib import Path

import pytest

from wastetune.datasets.identity import are_same, content_digest, content_sketch, name_dataset


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/x/wcd/data", "wcd"),
        ("/x/wcd/DATASET/TRAIN", "wcd"),
        ("/x/bottles_2/Images-resized", "bottles_2"),
        ("/x/wid", "wid"),
        ("/x/my photos", "my photos"),
        ("/x/training data of bottles", "training data of bottles"),
        ("/x/bottles/2026-05", "bottles"),
        ("/data/images", "images"),  # no folder says anything
    ],
)
def test_the_innermost_folder_that_says_something_gives_the_name(folder, name):
    assert name_dataset(Path(folder)) == name
    assert name_dataset(Path(folder), "mine") == "mine"


def test_no_name_is_taken_from_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/people/anna")
    assert name_dataset(Path("/people/anna/data")) == "data"
    assert name_dataset(Path("/people/anna/cans/data")) == "cans"


def pixels(start, end):
    return [hashlib.sha256(str(number).encode()).hexdigest() for number in range(start, end)]


def test_a_digest_is_of_the_pictures_alone():
    some = pixels(0, 50)
    assert content_digest(some) == content_digest(reversed(some + some))
    assert content_digest(some) != content_digest(some[1:])


@pytest.mark.parametrize("many", [20, 3000])
def test_a_data_set_is_known_again_after_pictures_came_or_went(many):
    whole = content_sketch(pixels(0, many))
    assert len(whole) < 1000
    assert are_same(whole, whole)
    assert are_same(whole, content_sketch(pixels(0, many * 4 // 3)))
    assert are_same(whole, content_sketch(pixels(many // 5, many)))
    assert not are_same(whole, content_sketch(pixels(many, 2 * many)))
    assert not are_same(whole, content_sketch(pixels(many * 3 // 4, 2 * many)))
    assert not are_same(whole, "")
