"""What others have published for the known data sets, each with its source, and a result beside it on one axis."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from wastetune.datasets.catalog import KNOWN_DATASETS
from wastetune.evaluation.scores import Scores
from wastetune.report.results import Report
from wastetune.report.svg import Scale, mark, number_scale


@dataclass(frozen=True)
class Published:
    """One published result; None where the publication does not say. Precision, recall and F1 are macro averages."""

    dataset: str
    model: str
    accuracy: float
    source: str
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    spread: float | None = None  # what stands behind the accuracy's plus-minus sign
    note: str = ""


_ORIGINAL = "the study that wastetune comes from"
_PMC = "PubMed Central, PMC11479324"
_IRE = "IRE Journals, paper 1704821"
_VK = "GitHub, VK4041/TrashNet_Image_Classification"

PUBLISHED: tuple[Published, ...] = (
    # Its precision, recall and F1 fit each other as macro averages; its accuracy does not fit them, so show all four.
    Published("wid", "InceptionV3", 0.9546, _ORIGINAL, 0.8906, 0.8897, 0.8901),
    Published("wcd", "InceptionV3", 0.9351, _ORIGINAL, 0.9636, 0.9234, 0.9430),
    Published("trashnet", "ResNeXt50 + IPAM", 0.9605, _PMC, spread=0.0014),
    Published("trashnet", "DenseNet169", 0.9575, _PMC, spread=0.0029),
    Published("trashnet", "EfficientNet-B2", 0.9413, _PMC),
    Published("trashnet", "ResNet101", 0.9238, _IRE, note="10 epochs, 75/25 split"),
    Published("trashnet", "ResNet50", 0.9202, _IRE, note="10 epochs, 75/25 split"),
    Published("trashnet", "InceptionV3", 0.9143, _IRE, note="10 epochs, 75/25 split"),
    Published("trashnet", "ResNet50", 0.9105, _VK, note="last block trained"),
    Published("trashnet", "ResNet50", 0.8395, _VK, note="frozen"),
    Published("trashnet", "ResNet50", 0.7526, _VK, note="whole network trained"),
    Published("trashnet", "MobileNetV3-Large", 0.768, "MMU Press, IJORAS 1958", note="untuned, 5-fold"),
)


def published_for(report: Report) -> tuple[Published, ...]:
    """The rows for a report's data set; none for a folder of a known name that has other classes."""
    known = {source.name: set(source.classes) for source in KNOWN_DATASETS}
    if known.get(report.dataset) != set(report.classes):
        return ()
    return tuple(row for row in PUBLISHED if row.dataset == report.dataset)


@dataclass(frozen=True)
class ScoreLane:
    """One result: what it is, its score as text, and a lane of the common axis with its mark and interval."""

    label: str
    note: str
    value: str
    kind: str  # winner, default or published
    lane: Markup


def draw_score_lanes(report: Report, key: str, published: Sequence[Published]) -> tuple[list[ScoreLane], Markup]:
    """The final model, the default and what was published, the best first, on one axis; and that axis's labels."""
    name = "default, this study" if report.is_default else "tuned, this study"
    rows = [_measured_row("winner", name, report.test, key)]
    if not report.is_default:
        rows.append(_measured_row("default", "default configuration", report.default_test, key))
    rows += sorted(filter(None, (_published_row(one, key) for one in published)), key=lambda row: -row.value)
    scale = number_scale(end for row in rows for end in (row.low, row.value, row.high))
    grid = Markup("").join(
        Markup('<line class="grid" x1="{0:.2f}%" x2="{0:.2f}%" y1="0" y2="100%"/>').format(100 * scale.place(tick))
        for tick, _ in scale.ticks
    )
    labels = Markup("").join(
        Markup('<text x="{:.2f}%" y="14">{}</text>').format(100 * scale.place(tick), label)
        for tick, label in scale.ticks
    )
    return [ScoreLane(row.label, row.note, row.text, row.kind, grid + _lane(scale, row)) for row in rows], labels


@dataclass(frozen=True)
class _Row:
    kind: str
    label: str
    note: str
    value: float
    low: float
    high: float
    text: str


def _measured_row(kind: str, label: str, scores: Scores, key: str) -> _Row:
    value = getattr(scores, key)
    low, high = scores.intervals.get(key, (value, value))
    text = f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low < high else "")
    return _Row(kind, label, "", value, low, high, text)


def _published_row(one: Published, key: str) -> _Row | None:
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
