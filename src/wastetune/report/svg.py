"""Charts as SVG: axes with ticks at round numbers, marks and lines."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup


@dataclass(frozen=True)
class Scale:
    """An axis from low to high; ticks are values with their labels."""

    low: float
    high: float
    log: bool
    ticks: tuple[tuple[float, str], ...]

    def place(self, value: float) -> float:
        """The position of a value from 0 to 1; values beyond the axis are at its end."""
        low, high, at = (math.log10(max(x, 1e-300)) if self.log else x for x in (self.low, self.high, value))
        return min(max((at - low) / (high - low), 0.0), 1.0)


def number_scale(values: Iterable[float], *, log: bool = False, whole: bool = False, most: int = 5) -> Scale:
    """An axis that contains all values, with a margin. Values of a log scale are above 0."""
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
    """An axis for scores. A few very low ones do not stretch it: they are at its lower end."""
    known = sorted(score for score in scores if math.isfinite(score)) or [0.0]
    middle, best = known[len(known) // 2], known[-1]
    lowest = max(known[0], middle - 4 * max(best - middle, 0.02))
    return number_scale([min(lowest, best - 0.02), best])  # differences in the third digit are noise


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


# Shapes around their own middle.
_SHAPES = {
    "circle": "M-6 0A6 6 0 1 1 6 0A6 6 0 1 1-6 0Z",
    "diamond": "M0-6L6 0 0 6-6 0Z",
    "cross": "M-4-4L4 4M-4 4L4-4",
}

Point = tuple[float, float]


@dataclass(frozen=True)
class Plot:
    """Two axes, and the height of the space between them in pixels."""

    x: Scale
    y: Scale
    height: int = 220

    def at(self, point: Point) -> tuple[float, float]:
        """The position of a point: percent from the left, pixels from the top."""
        return 100 * self.x.place(point[0]), self.height * (1 - self.y.place(point[1]))


def dot(plot: Plot, point: Point, kind: str, title: str = "", radius: float = 4) -> Markup:
    """A circle."""
    left, top = plot.at(point)
    return Markup('<circle class="{}" cx="{:.2f}%" cy="{:.1f}" r="{:g}"><title>{}</title></circle>').format(
        kind, left, top, radius, title
    )


def shape(plot: Plot, point: Point, name: str, kind: str, title: str = "") -> Markup:
    """A circle, diamond or cross."""
    left, top = plot.at(point)
    return mark(f"{left:.2f}%", f"{top:.1f}", name, kind, title)


def mark(left: str, top: str, name: str, kind: str, title: str) -> Markup:
    """The same at a position in SVG units."""
    return Markup('<svg class="at" x="{}" y="{}"><path class="{}" d="{}"><title>{}</title></path></svg>').format(
        left, top, kind, _SHAPES[name], title
    )


def line(plot: Plot, points: Iterable[Point], kind: str) -> Markup:
    """Straight lines from point to point."""
    return Markup("").join(
        Markup('<line class="{}" x1="{:.2f}%" y1="{:.1f}" x2="{:.2f}%" y2="{:.1f}"/>').format(
            kind, *plot.at(start), *plot.at(end)
        )
        for start, end in pairwise(points)
        if start != end
    )


def steps(plot: Plot, points: Sequence[Point], kind: str) -> Markup:
    """A step line: each height lasts until the next point."""
    corners = [corner for (x, y), (after, _) in pairwise(points) for corner in ((x, y), (after, y))]
    return line(plot, [*corners, *points[-1:]], kind)


def framed(plot: Plot, marks: Iterable[Markup], *, x_label: str, y_label: str, what: str) -> Markup:
    """The marks between their axes; `what` is the label for screen readers."""
    bottom = plot.height
    grid = Markup("").join(
        Markup('<line class="grid" x1="0" x2="100%" y1="{0:.1f}" y2="{0:.1f}"/>').format(plot.at((0, value))[1])
        for value, _ in plot.y.ticks
    )
    left = Markup("").join(
        Markup('<text x="100%" dx="-8" y="{:.1f}" dy="4">{}</text>').format(plot.at((0, value))[1], label)
        for value, label in plot.y.ticks
    )
    below = Markup("").join(
        Markup('<text x="{:.2f}%" y="{}">{}</text>').format(plot.at((value, 0))[0], bottom + 18, label)
        for value, label in plot.x.ticks
    )
    return Markup(
        '<div class="chart"><div class="y-label">{y_label}</div>'
        '<svg class="y" height="{height}" aria-hidden="true">{left}</svg>'
        '<svg class="plot" height="{height}" role="img" aria-label="{what}">{grid}'
        '<line class="axis" x1="0" x2="100%" y1="{bottom}" y2="{bottom}"/>{below}{marks}</svg>'
        '<div class="x-label">{x_label}</div></div>'
    ).format(
        y_label=y_label,
        x_label=x_label,
        what=what,
        height=bottom + 24,
        bottom=bottom,
        grid=grid,
        left=left,
        below=below,
        marks=Markup("").join(marks),
    )
