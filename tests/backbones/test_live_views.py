"""Live views: those of the pixels, through the trunk where something is frozen."""

import numpy as np
import pytest

from wastetune.backbones.backbone import nearest_cut, split
from wastetune.backbones.cuts import PIXELS
from wastetune.backbones.live_views import open_live_views

SEEDS = [5, 6, 7, 8, 9]


def views_of(context, cut, rows, seeds):
    train = open_live_views(context.backbone, cut, context.data.train, 0.8)
    val = open_live_views(context.backbone, cut, context.data.val, 0.8)
    return (train + val).take(np.array(rows), seeds)


@pytest.mark.parametrize("frozen_depth", [0.0, 0.6, 1.0])
def test_they_are_what_the_trunk_makes_of_the_views_of_pixels(prepared, frozen_depth):
    context = prepared.context
    cut, count = nearest_cut(context.backbone, frozen_depth), len(context.data.train)
    rows = [3, 0, count + 1, count, 2]  # more than a batch of OpenVINO
    pixels = views_of(context, PIXELS, rows, SEEDS)
    made = views_of(context, cut, rows, SEEDS)
    trunk, _ = split(context.backbone, cut)
    np.testing.assert_allclose(made, np.asarray(trunk(pixels)), rtol=1e-4, atol=1e-4)
    assert made.dtype == np.float32
    for place, (row, seed) in enumerate(zip(rows, SEEDS, strict=True)):
        np.testing.assert_allclose(made[place], views_of(context, cut, [row], [seed])[0], atol=1e-4)
    assert np.abs(made - views_of(context, cut, rows, SEEDS[::-1])).max() > 0.01


def test_selected_pictures_keep_their_views(prepared):
    context = prepared.context
    views = open_live_views(context.backbone, PIXELS, context.data.train, 1.0)
    chosen = views.select(np.array([4, 2]))
    np.testing.assert_array_equal(chosen.take(np.array([1]), [7]), views.take(np.array([2]), [7]))
