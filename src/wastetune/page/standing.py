"""How a result stands: the final model, the default and what was published, each with its interval on one axis."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from wastetune.page.charts import mark
from wastetune.page.scales import Scale, number_scale
from wastetune.published import Published


@dataclass(frozen=True)
class Standing:
    """One result on the scale of a score: what it is, its value in words, and a lane with its mark and interval."""

    label: str
    note: str
    value: str
    kind: str  # winner, default or published
    lane: Markup


def draw_standing(report: Mapping[str, Any], key: str, published: Sequence[Published]) -> tuple[list[Standing], Markup]:
    """The final model, the default and what was published, the best first, on one axis; and that axis's labels."""
    tuned = report["best"]["number"] != report.get("default_number", 0)
    rows = [_of_scores("winner", "tuned, this study" if tuned else "default, this study", report["test"], key)]
    if tuned:
        rows.append(_of_scores("default", "default configuration", report["default_test"], key))
    rows += sorted(filter(None, (_of_publication(one, key) for one in published)), key=lambda row: -row.value)
    scale = number_scale(end for row in rows for end in (row.low, row.value, row.high))
    grid = Markup("").join(
        Markup('<line class="grid" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="100%"/>').format(100 * scale.place(tick))
        for tick, _ in scale.ticks
    )
    labels = Markup("").join(
        Markup('<text x="{:.2f}%" y="14">{}</text>').format(100 * scale.place(tick), label)
        for tick, label in scale.ticks
    )
    return [Standing(row.label, row.note, row.text, row.kind, grid + _lane(scale, row)) for row in rows], labels


@dataclass(frozen=True)
class _Row:
    kind: str
    label: str
    note: str
    value: float
    low: float
    high: float
    text: str


def _of_scores(kind: str, label: str, scores: Mapping[str, Any], key: str) -> _Row:
    value = scores[key]
    low, high = scores["intervals"].get(key, (value, value))
    text = f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low < high else "")
    return _Row(kind, label, "", value, low, high, text)


def _of_publication(one: Published, key: str) -> _Row | None:
    value = {"accuracy": one.accuracy, "f1_macro": one.f1}.get(key)
    if value is None:
        return None
    spread = one.spread or 0.0 if key == "accuracy" else 0.0
    text = f"{value:.4f}" + (f" ± {spread:.4f}" if spread else "")
    note = "published" + (f"; {one.note}" if one.note else "")
    return _Row("published", one.model, note, value, value - spread, value + spread, text)


def _lane(scale: Scale, row: _Row) -> Markup:
    low, at, high = (100 * scale.place(value) for value in (row.low, row.value, row.high))
    whisker = Markup('<line class="{} whisker" x1="{:.2f}%" x2="{:.2f}%" y1="50%" y2="50%"/>').format(
        row.kind, low, high
    )
    title = f"{row.label}{', ' + row.note if row.note else ''}: {row.text}"
    return whisker + mark(f"{at:.2f}%", "50%", "circle" if row.kind == "winner" else "diamond", row.kind, title)
