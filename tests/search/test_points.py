"""The grid and the Sobol sequence: every point once, whichever worker comes for it."""

from collections import Counter
from itertools import islice

import pytest

from wastetune.errors import UserError
from wastetune.search.points import grid_limit, make_grid, sobol_points, walk_grid
from wastetune.search.space import load_space, sample

SPACE = """\
head_layers = { int = [0, 1], default = 0 }
head_units = { int = [10, 1000], log = true, default = 10, when = "head_layers > 0" }
dropout = { float = [0.0, 0.5], default = 0.3 }
learning_rate = 1e-2
batch_size = 8
optimizer = { choice = ["adam", "sgd"], default = "adam" }
epochs = 8
"""


@pytest.fixture
def space(write_space):
    return write_space(SPACE)


def test_the_grid_has_every_configuration_once_and_conditional_keys_where_they_act(space):
    grid = make_grid(space, 3)
    assert len(grid) == 3 * 2 + 3 * 3 * 2
    assert len({str(point) for point in grid}) == len(grid)
    assert all(("head_units" in point) == (point["head_layers"] > 0) for point in grid)
    assert {point["head_units"] for point in grid if "head_units" in point} == {10, 100, 1000}
    assert {point["dropout"] for point in grid} == {0.0, 0.25, 0.5}
    assert grid_limit(space, 3) == len(grid) + 1  # the default's dropout is no point


def test_from_any_place_the_grid_is_walked_to_its_end_and_on_from_its_beginning(space):
    whole = list(walk_grid(space, 3, seed=1, place=0))
    assert sorted(map(str, whole)) == sorted(map(str, make_grid(space, 3)))
    assert list(walk_grid(space, 3, seed=1, place=5)) == whole[5:] + whole[:5]
    assert list(walk_grid(space, 3, seed=1, place=5 + len(whole))) == whole[5:] + whole[:5]
    assert list(walk_grid(space, 3, seed=2, place=0)) != whole


def test_a_grid_that_no_study_could_try_is_refused():
    with pytest.raises(UserError, match="has more than 100,000 configurations"):
        make_grid(load_space("head"), 5)


def test_the_sequence_goes_on_where_it_was_and_covers_the_space_evenly(space):
    first = list(islice(sobol_points(space, seed=1, place=0), 64))
    assert [next(sobol_points(space, seed=1, place=place)) for place in (0, 1, 40)] == [first[0], first[1], first[40]]
    assert next(sobol_points(space, seed=2, place=0)) != first[0]
    assert Counter(point["optimizer"] for point in first) == {"adam": 32, "sgd": 32}
    assert Counter(point["head_layers"] for point in first) == {0: 32, 1: 32}
    assert Counter(int(point["dropout"] / 0.5 * 16) for point in first) == dict.fromkeys(range(16), 4)
    assert {point["head_units"] < 100 for point in first} == {True, False}
    low, high = min(point["head_units"] for point in first), max(point["head_units"] for point in first)
    assert (10 <= low < 12, 850 < high <= 1000) == (True, True)
    from optuna.trial import FixedTrial

    for point in first:
        assert (sample(space, FixedTrial(point)).head_units is None) == (point["head_layers"] == 0)
