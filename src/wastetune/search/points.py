"""The points that do not depend on scores: a grid, and a low-discrepancy sequence.

A trial's place among them is the number of trials before it, so any worker goes on where another one stopped.
"""

import math
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import islice

import numpy as np

from wastetune.errors import UserError
from wastetune.search.choice import Named
from wastetune.search.distributions import Choice, Fixed, FloatRange, IntRange, Param, Value
from wastetune.search.space import SearchSpace, default_params, enqueued_params, searched_backbones, without_effect

_GRID_POINTS = 3  # of a range, if the study does not say
_MOST = 100_000  # configurations of a grid


def grid_points(choice: Named) -> int:
    """The number of points of a range that the sampler `grid` was given."""
    return _GRID_POINTS if isinstance(choice, str) else int(choice.get("points", _GRID_POINTS))


@lru_cache(maxsize=1)
def make_grid(space: SearchSpace, points: int) -> tuple[dict[str, Value], ...]:
    """Every configuration of the grid, as sampled parameters; a parameter without effect has no place in it.

    UserError where there are more than 100,000.
    """
    grid = tuple(islice(_walk(space.params, {}, points), _MOST + 1))
    if len(grid) > _MOST:
        raise UserError(
            f"the grid of {space.source} has more than {_MOST:,} configurations, which no study could try; give fewer "
            'points, fix some keys, or choose sampler = "random"'
        )
    return grid


def walk_grid(space: SearchSpace, points: int, *, seed: int, place: int) -> Iterator[dict[str, Value]]:
    """The whole grid once, in an order drawn with the seed, from a place on."""
    grid = make_grid(space, points)
    order = np.random.default_rng(seed).permutation(len(grid))
    return (grid[i] for i in np.roll(order, -(place % len(grid))))


def grid_limit(space: SearchSpace, points: int) -> int:
    """The most trials that a study of this grid can have: its configurations, and those that run before and are none.

    These are the default of each backbone, and what the space enqueues.
    """
    grid = make_grid(space, points)
    before: list[dict[str, Value]] = []
    for params in (*(default_params(space, each) for each in searched_backbones(space)), *enqueued_params(space)):
        if params not in before and params not in grid:
            before.append(params)
    return len(grid) + len(before)


def _walk(
    params: Sequence[tuple[str, Param]], config: dict[str, Value | None], points: int
) -> Iterator[dict[str, Value]]:
    """The sampled parameters of every combination of these, after those in `config`."""
    if not params:
        yield {}
        return
    (key, param), rest = params[0], params[1:]
    if param.when is not None and not param.when.holds(config):
        yield from _walk(rest, config | {key: without_effect(key, param)}, points)
        return
    for value in _values(param, points):
        searched: dict[str, Value] = {} if isinstance(param, Fixed) else {key: value}
        for others in _walk(rest, config | {key: value}, points):
            yield searched | others


def _values(param: Param, points: int) -> Sequence[Value]:
    """The values of a parameter in the grid: all of a choice or a short range, else evenly spaced, bounds included."""
    match param:
        case Fixed(value):
            return (value,)
        case Choice(options):
            return options
        case IntRange(low, high, log):
            if high - low < points:
                return range(low, high + 1)
            spaced = np.geomspace(low, high, points) if log else np.linspace(low, high, points)
            return sorted({int(value) for value in np.rint(spaced)})
        case FloatRange(low, high, log):
            spaced = np.geomspace(low, high, points) if log else np.linspace(low, high, points)
            return [min(max(float(value), low), high) for value in spaced]


def sobol_points(space: SearchSpace, *, seed: int, place: int) -> Iterator[dict[str, Value]]:
    """The points of a scrambled Sobol sequence from a place on, without end.

    Every searched key has a coordinate of its own, which is not used where the key has no effect.
    Owen 1998, "Scrambling Sobol' and Niederreiter-Xing points".
    """
    from scipy.stats import qmc

    searched = [(key, param) for key, param in space.params if not isinstance(param, Fixed)]
    if not searched:
        return
    sequence = qmc.Sobol(len(searched), scramble=True, seed=seed)
    if place:
        sequence.fast_forward(place)
    while True:
        (point,) = sequence.random(1)
        yield {key: _at(param, float(share)) for (key, param), share in zip(searched, point, strict=True)}


def _at(param: IntRange | FloatRange | Choice, share: float) -> Value:
    """The value at a share, in [0, 1), of the range; a whole number has as much of it as its neighbours."""
    if isinstance(param, Choice):
        return param.options[int(share * len(param.options))]
    half = 0.5 if isinstance(param, IntRange) else 0.0
    low, high = param.low - half, param.high + half
    value = math.exp(math.log(low) + share * math.log(high / low)) if param.log else low + share * (high - low)
    value = min(max(value, param.low), param.high)
    return round(value) if isinstance(param, IntRange) else value
