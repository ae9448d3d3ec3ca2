"""The generated sample: the same every time, and honest about its classes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wastetune.data.index import contradictions, index_folder
from wastetune.datasets.synthetic import write_sample
from wastetune.errors import UserError


def test_a_sample_is_a_data_set_with_something_to_find(tmp_path: Path) -> None:
    index = index_folder(write_sample(tmp_path / "sample", per_class=10))
    assert index.classes == ("bottle", "box", "can", "leaf")
    assert len(index.pictures) == 42
    assert {(p.width, p.height) for p in index.pictures} == {(128, 128)}
    assert [problem.path for problem in index.problems] == ["leaf/broken.jpg"]
    ((one, other),) = contradictions(index)
    assert (one.path, other.path) == ("bottle/bottle000.jpg", "leaf/also_elsewhere.jpg")
    with Image.open(tmp_path / "sample" / "bottle" / "really_a_png.jpg") as picture:
        assert picture.format == "PNG"


def test_the_same_arguments_draw_the_same_pictures(tmp_path: Path) -> None:
    one, same, other = (
        index_folder(write_sample(tmp_path / name, per_class=3, size=32, seed=seed))
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    assert one.pictures == same.pictures
    assert not {p.pixels_sha256 for p in one.pictures} & {p.pixels_sha256 for p in other.pictures}


def test_colour_helps_but_does_not_give_the_class_away(tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    folder = write_sample(tmp_path / "sample", per_class=40, size=64, odd_files=False)
    index = index_folder(folder)
    colours = []
    for picture in index.pictures:
        with Image.open(folder / picture.path) as opened:
            counts, _ = np.histogramdd(np.asarray(opened).reshape(-1, 3), bins=4, range=[(0, 256)] * 3)
        colours.append(np.sqrt(counts.ravel() / counts.sum()))
    labels = [picture.label for picture in index.pictures]
    assert 0.4 < cross_val_score(LogisticRegression(max_iter=500), np.array(colours), labels).mean() < 0.9


def test_what_it_cannot_do_it_says(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No drawing of spoon: choose from bottle, box, can, leaf"):
        write_sample(tmp_path / "sample", classes=("box", "spoon"))
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(UserError, match="is not empty"):
        write_sample(tmp_path / "used")
