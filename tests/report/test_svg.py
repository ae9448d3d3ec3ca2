"""Axes: every value has a place, and the ticks are few and round."""

import math

import pytest

from wastetune.report.svg import number_scale, option_scale, score_scale, short_number

RANGES = [[0.5], [0, 0], [0.81, 0.8102], [1, 2], [0, 500], [1e-4, 3e-2], [-5, 5], [2.5e6, 1e7], []]


@pytest.mark.parametrize("values", RANGES)
@pytest.mark.parametrize("whole", [False, True])
def test_values_lie_inside_and_ticks_are_few_rising_and_inside(values, whole):
    scale = number_scale(values, whole=whole)
    assert all(0 < scale.place(value) < 1 for value in values)
    ticks = [value for value, _ in scale.ticks]
    assert ticks == sorted(set(ticks))
    assert len(ticks) <= 6
    assert all(scale.low <= tick <= scale.high for tick in ticks)
    assert len({label for _, label in scale.ticks}) == len(ticks)
    if whole:
        assert all(tick == int(tick) for tick in ticks)


@pytest.mark.parametrize("values", [[1e-4, 1e-2], [3e-4, 4e-4], [1, 1e9], [0.5], [60, 250]])
def test_a_log_axis_puts_equal_factors_at_equal_distances(values):
    scale = number_scale(values, log=True)
    low, high = min(values), max(values)
    middle = math.sqrt(low * high)
    assert scale.place(middle) == pytest.approx((scale.place(low) + scale.place(high)) / 2)
    assert 2 <= len(scale.ticks) <= 6
    assert len({label for _, label in scale.ticks}) == len(scale.ticks)


def test_hopeless_scores_do_not_stretch_the_axis():
    scale = score_scale([0.02, *(0.8 + i / 100 for i in range(10))])
    assert scale.low > 0.5
    assert scale.place(0.02) == 0
    assert score_scale([0.5]).place(0.5) < 1


def test_options_stand_side_by_side():
    scale = option_scale(["adamw", "adam"])
    assert [scale.place(value) for value, _ in scale.ticks] == [0.25, 0.75]


def test_numbers_are_short():
    values = (0.0003, 3e-5, 0.8125, 1200, 12000, 3.4e6, 0)
    assert [short_number(value) for value in values] == ["0.0003", "3e-5", "0.8125", "1200", "12k", "3.4M", "0"]
