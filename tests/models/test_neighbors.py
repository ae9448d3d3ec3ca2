"""The training pictures that a model finds most like one: which they may be, and that they are looked at once."""

import csv
import shutil

import numpy as np
import pytest

from wastetune.data.image import pixels_hash, read_picture, resize_picture
from wastetune.errors import UserError
from wastetune.models.neighbors import nearest_neighbors, open_neighbor_index
from wastetune.models.saliency import open_saliency_model


@pytest.fixture(scope="module")
def onlooker(finished):
    return open_saliency_model(finished / "results" / "colours" / "bundle")


@pytest.fixture(scope="module")
def places(finished):
    return finished / "results" / "colours", finished / "data" / "drawn"


def sides(results):
    with (results / "split.csv").open(encoding="utf-8", newline="") as file:
        return {row["path"]: row["split"] for row in csv.DictReader(file)}


def test_only_training_pictures_are_shown(places, onlooker, tmp_path):
    results, pictures = places
    gallery = open_neighbor_index(results, pictures, onlooker, tmp_path)
    side = sides(results)
    assert {"train", "val", "test"} <= set(side.values())
    shown = [path.relative_to(pictures).as_posix() for path in gallery.paths]
    assert shown == [path for path, which in side.items() if which == "train"]
    assert [path.split("/")[0] for path in shown] == list(gallery.classes)


def test_a_picture_that_the_model_has_learnt_is_known_again_whatever_its_file(places, onlooker, tmp_path):
    results, pictures = places
    learnt = open_neighbor_index(results, pictures, onlooker, tmp_path).trained_on
    for path, side in sides(results).items():
        read_picture(pictures / path).save(tmp_path / "again.png")
        assert (pixels_hash(read_picture(tmp_path / "again.png")) in learnt) == (side in ("train", "val"))


def test_a_training_picture_is_most_like_itself_and_then_its_own_kind(places, onlooker, tmp_path):
    gallery = open_neighbor_index(*places, onlooker, tmp_path)
    for position in (0, len(gallery.paths) - 1):
        picture = read_picture(gallery.paths[position])
        found = nearest_neighbors(gallery, onlooker.explain(resize_picture(picture, onlooker.size)).embedding, 5)
        assert (found[0].path, found[0].class_name) == (gallery.paths[position], gallery.classes[position])
        assert found[0].similarity == pytest.approx(1)
        likeness = [each.similarity for each in found]
        assert likeness == sorted(likeness, reverse=True)
        assert likeness[-1] < likeness[0]


def test_they_are_looked_at_once_for_each_model(places, onlooker, tmp_path):
    results, pictures = places
    told = []
    first = open_neighbor_index(results, pictures, onlooker, tmp_path, lambda done, total: told.append((done, total)))
    assert told[0] == (0, len(first.paths))
    again = open_neighbor_index(results, pictures, onlooker, tmp_path, lambda done, total: pytest.fail("looked again"))
    np.testing.assert_array_equal(again.embeddings, first.embeddings)
    other = tmp_path / "other"
    shutil.copytree(results, other)
    (other / "bundle" / "model.keras").write_bytes(b"another model")
    told.clear()
    open_neighbor_index(other, pictures, onlooker, tmp_path, lambda done, total: told.append(done))
    assert told
    assert len(list(tmp_path.glob("*.npy"))) == len(list(tmp_path.glob("*vectors*"))) == 2


def test_what_is_gone_is_told(places, onlooker, tmp_path):
    results, pictures = places
    with pytest.raises(UserError, match=r"Cannot read .*nowhere.* No such file"):
        open_neighbor_index(results, tmp_path / "nowhere", onlooker, tmp_path)
    shutil.copytree(results, tmp_path / "copy")
    (tmp_path / "copy" / "split.csv").unlink()
    with pytest.raises(UserError, match=r"split.csv cannot be read .* run the study again"):
        open_neighbor_index(tmp_path / "copy", pictures, onlooker, tmp_path)
    assert not list(tmp_path.glob("*vectors*"))
