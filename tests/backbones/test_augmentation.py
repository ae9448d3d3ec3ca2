"""Views: the plain picture first, then ones that differ more and more, each picture on its own."""

import numpy as np
import pytest

from wastetune.backbones.augmentation import build_views, snap_strength, usable_views, view_magnitude

KEYS = [f"key {i}" for i in range(24)]


@pytest.fixture(scope="module")
def pixels():
    smooth = np.add.outer(np.linspace(0, 120, 48), np.linspace(0, 120, 48))[..., None] * [1.0, 0.6, 0.3]
    return np.stack([np.roll(smooth, i, axis=1) for i in range(24)]).astype(np.uint8)


def test_view_0_is_the_plain_picture(pixels):
    assert view_magnitude(0, 4) == 0
    np.testing.assert_array_equal(build_views(pixels, KEYS, 0, 0.0), pixels)


def test_pictures_differ_more_with_the_magnitude(pixels):
    differences = [
        np.abs(build_views(pixels, KEYS, view, view_magnitude(view, 5)).astype(int) - pixels).mean()
        for view in range(5)
    ]
    # A mirrored picture is already far away, so the first step is the largest; each further one still adds.
    assert differences == sorted(differences)
    assert differences[1] > 0


def test_a_view_depends_on_its_picture_alone(pixels):
    together = build_views(pixels, KEYS, 2, 0.5)
    alone = build_views(pixels[7:8], KEYS[7:8], 2, 0.5)
    np.testing.assert_array_equal(together[7:8], alone)
    assert (build_views(pixels[7:8], KEYS[7:8], 3, 0.5) != alone).any()
    assert (build_views(pixels[7:8], ["another key"], 2, 0.5) != alone).any()


def test_the_pictures_given_are_left_as_they_are(pixels):
    before = pixels.copy()
    views = build_views(pixels, KEYS, 1, 1.0)
    np.testing.assert_array_equal(pixels, before)
    assert views.dtype == np.uint8
    assert views.shape == pixels.shape


@pytest.mark.parametrize(
    ("strength", "views", "used"), [(0, 4, 1), (0.3, 4, 2), (1, 4, 4), (0.49, 2, 1), (0.5, 2, 2), (1, 1, 1)]
)
def test_strength_chooses_views_up_to_the_nearest_magnitude(strength, views, used):
    assert usable_views(strength, views) == used
    assert usable_views(snap_strength(strength, views), views) == used
