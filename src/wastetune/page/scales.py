"""Values -> places on an axis, with ticks at round numbers."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """An axis from low to high; ticks are values with their labels."""

    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float) -> float:
        """Where a value lies, from 0 to 1; what is beyond the axis lies at its end."""
        low, high, at = (math.log10(max(x, 1e-300)) if self.log else x for x in (self.low, self.high, value))
        return min(max((at - low) / (high - low), 0.0), 1.0)


def number_scale(values: Iterable[float], *, log: bool = False, whole: bool = False, most: int = 5) -> Scale:
    """An axis that shows all values, with a little room beside them. Values of a log scale are above 0."""
    finite = [float(value) for value in values if math.isfinite(value)] or [1.0]
    low, high = min(finite), max(finite)
    if log:
        room = max((high / low) ** 0.05, 1.1 if high > 1.5 * low else 2.0)
        low, high = low / room, high * room
        return Scale(low, high, log, _labelled(_round_log(low, high, most)))
    room = max((high - low) * 0.05, abs(high) * 1e-3, 0.25 if whole else 1e-3)
    low, high = low - room, high + room
    return Scale(low, high, log, _labelled(_round_numbers(low, high, most, whole)))


def score_scale(scores: Iterable[float]) -> Scale:
    """An axis for scores that a few hopeless ones do not stretch: these lie at its lower end."""
    known = sorted(score for score in scores if math.isfinite(score)) or [0.0]
    middle, best = known[len(known) // 2], known[-1]
    lowest = max(known[0], middle - 4 * max(best - middle, 0.02))
    return number_scale([min(lowest, best - 0.02), best])  # a difference in the third digit is none


def option_scale(options: Sequence[object]) -> Scale:
    """An axis of options side by side: the first at 0, the second at 1, and so on."""
    return Scale(-0.5, len(options) - 0.5, False, tuple((float(i), str(option)) for i, option in enumerate(options)))


def short_number(value: float) -> str:
    """A round number in few characters: 0.0003, 12k, 3.4M."""
    for size, sign in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size and (sign == "M" or abs(value) >= 1e4):
            return f"{value / size:.10g}{sign}"
    return f"{value:.10g}".replace("e-0", "e-")


def _labelled(values: Iterable[float]) -> tuple[tuple[float, str], ...]:
    return tuple((value, short_number(value)) for value in values)


def _round_numbers(low: float, high: float, most: int, whole: bool) -> list[float]:
    power = 10.0 ** math.floor(math.log10((high - low) / most))
    steps = [step * power for step in (1, 2, 5, 10, 20)]
    step = next(step for step in steps if (high - low) / step <= most)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _round_log(low: float, high: float, most: int) -> list[float]:
    start, end = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for factors, every in (((1, 2, 5), 1), ((1, 3), 1), ((1,), 1), ((1,), 2), ((1,), 3), ((1,), 6)):
        ticks = [f * 10.0**power for power in range(start, end + 1) if power % every == 0 for f in factors]
        shown = [tick for tick in ticks if low <= tick <= high]
        if 2 <= len(shown) <= most:
            return shown
    return _round_numbers(low, high, most, whole=False)
