"""A trial's learning curve and confusion matrix as SVG, drawn in a millisecond."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from wastetune.formatting import shortened

_FONT = "system-ui,-apple-system,'Segoe UI',Roboto,Ubuntu,sans-serif"
_INK, _FAINT, _GRID = "#24292f", "#6e7781", "#e3e6ea"
_BLUE, _ORANGE, _GREEN = "#1668b3", "#c2570c", "#1a7f5a"
_NAME = 18  # characters of a class's name


def draw_learning_curve(history: Sequence[Mapping[str, Any]], best_epoch: int, metric: str) -> str:
    """Two panels over the epochs: training loss; the metric and accuracy on the validation pictures.

    history: one mapping per epoch with number, loss, score, accuracy.
    """
    numbers = [int(epoch["number"]) for epoch in history]
    loss = [float(epoch["loss"]) for epoch in history]
    score, accuracy = ([float(epoch[key]) for epoch in history] for key in ("score", "accuracy"))
    right = [(metric, _BLUE, score)]
    if metric != "accuracy":
        right.append(("accuracy", _GREEN, accuracy))
    panels = [
        _panel(0, "training", numbers, [("loss", _ORANGE, loss)], best_epoch, floor=0.0),
        _panel(330, "validation", numbers, right, best_epoch),
    ]
    return _svg(660, 308, "".join(panels))


def draw_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """The matrix with counts in its cells: a row is a true class, a column a predicted one.

    Cells are shaded by the square root of their share of the true class, so that rare confusions are visible.
    """
    count = len(classes)
    cell = max(5.0, min(46.0, 560 / count))
    size, named = min(13.0, cell * 0.72), cell >= 8
    names = [shortened(name, _NAME) for name in classes]
    margin = 34 + (max(map(len, names)) * size * 0.6 if named else 0)
    side = cell * count
    parts = [f'<rect x="{margin:g}" y="24" width="{side:g}" height="{side:g}" fill="#f6f8fa"/>']
    for row, line in enumerate(matrix):
        total = max(sum(line), 1)
        for column, number in enumerate(line):
            if not number and cell < 16:
                continue
            x, y, shade = margin + column * cell, 24 + row * cell, (number / total) ** 0.5
            colour = _BLUE if row == column else _ORANGE
            if number:
                parts.append(_rect(x, y, cell, colour, shade))
            if cell >= 16:
                ink = "#fff" if shade > 0.62 else _INK if number else "#b6bdc5"
                parts.append(_text(x + cell / 2, y + cell / 2 + size * 0.36, str(number), size, ink, "middle"))
    middle = margin + side / 2
    parts.append(_text(middle, 14, "predicted class", 12, _FAINT, "middle"))
    parts.append(_text(0, 0, "true class", 12, _FAINT, "middle", f"translate(14 {24 + side / 2:g}) rotate(-90)"))
    if named:
        for place, name in enumerate(names):
            at = (place + 0.5) * cell
            parts.append(_text(margin - 6, 24 + at + size * 0.36, name, size, _INK, "end"))
            turned = f"translate({margin + at + size * 0.3:g} {30 + side + size * 0.5:g}) rotate(-40)"
            parts.append(_text(0, 0, name, size, _INK, "end", turned))
    below = 20 + (max(map(len, names)) * size * 0.42 if named else 0)
    return _svg(margin + side + 12, 24 + side + below, "".join(parts))


def _panel(
    left: float,
    title: str,
    numbers: Sequence[int],
    lines: Sequence[tuple[str, str, Sequence[float]]],
    best_epoch: int,
    floor: float | None = None,
) -> str:
    """One chart, 330 wide and 308 high, with its title and the names of its lines above."""
    x0, y0, width, height = left + 46, 36.0, 266.0, 230.0
    values = [value for _, _, line in lines for value in line]
    low, high = min(values) if floor is None else floor, max(values)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    last = max(max(numbers, default=1), 2)

    def at(number: float, value: float) -> tuple[float, float]:
        return x0 + (number - 1) / (last - 1) * width, y0 + (1 - (value - low) / (high - low)) * height

    parts = [_text(x0, 18, title, 13, _INK, "start", weight="600")]
    for step in range(5):
        value = low + (high - low) * step / 4
        y = at(1, value)[1]
        parts.append(f'<path d="M{x0:g} {y:.1f}h{width:g}" stroke="{_GRID}"/>')
        parts.append(_text(x0 - 6, y + 4, f"{value:.2f}", 11, _FAINT, "end"))
    for number in sorted({1, (1 + last) // 2, last}):
        parts.append(_text(at(number, low)[0], y0 + height + 17, str(number), 11, _FAINT, "middle"))
    parts.append(_text(x0 + width / 2, y0 + height + 33, "epoch", 11, _FAINT, "middle"))
    best = at(best_epoch, low)[0]
    parts.append(f'<path d="M{best:.1f} {y0:g}v{height:g}" stroke="{_FAINT}" stroke-dasharray="3 3"/>')
    legend = x0 + width
    for name, colour, line in reversed(lines):
        parts.append(_text(legend, 18, name, 12, colour, "end", weight="600"))
        legend -= 8 * len(name) + 10
        points = [at(number, value) for number, value in zip(numbers, line, strict=True)]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>')
        for number, (x, y) in zip(numbers, points, strict=True):
            if number == best_epoch or len(points) == 1:
                parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>')
    return "".join(parts)


def _svg(width: float, height: float, inside: str) -> str:
    # A white background, because the dashboard may be dark.
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="{_FONT}">'
        f'<rect width="100%" height="100%" rx="6" fill="#fff"/>{inside}</svg>'
    )


def _rect(x: float, y: float, side: float, colour: str, shade: float) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{side:g}" height="{side:g}" fill="{colour}" fill-opacity="{shade:.2f}"/>'
    )


def _text(
    x: float, y: float, words: str, size: float, colour: str, anchor: str, transform: str = "", weight: str = ""
) -> str:
    more = (f' transform="{transform}"' if transform else "") + (f' font-weight="{weight}"' if weight else "")
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}"{more}>'
        f"{escape(words)}</text>"
    )
