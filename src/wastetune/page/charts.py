"""Points, lines and axes as SVG that keeps its text size at every width: across in percent, down in pixels.

Each mark carries its text in a <title>: it shows on hover, and is read aloud.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from wastetune.page.scales import Scale

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
        """A point's place: percent from the left, pixels from the top."""
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
    """The same at a place in SVG's own words."""
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
    """A line that keeps its height until the next point."""
    corners = [corner for (x, y), (after, _) in pairwise(points) for corner in ((x, y), (after, y))]
    return line(plot, [*corners, *points[-1:]], kind)


def framed(plot: Plot, marks: Iterable[Markup], *, x_label: str, y_label: str, what: str) -> Markup:
    """The marks between their axes; `what` says the whole to those who cannot see it."""
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
