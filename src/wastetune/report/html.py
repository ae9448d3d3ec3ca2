"""A report, its search and its mistakes -> report.html: one file that needs no network and harms nobody."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from wastetune.data.image import draw_thumbnail
from wastetune.files import write_whole
from wastetune.formatting import render_count, render_duration, render_value, shortened
from wastetune.report.confusion_matrix import SHADE
from wastetune.report.figures import draw_curves, draw_frontier, draw_search, draw_slices, draw_standing
from wastetune.report.predictions import Mistake
from wastetune.report.published import published_for
from wastetune.report.text import best_line, class_rows, data_facts, findings, openings, problem_lines, render_title
from wastetune.search.history import History
from wastetune.training.metrics import METRICS

if TYPE_CHECKING:
    from jinja2 import Environment

FILE = "report.html"
MISTAKES = 24  # thumbnails: some 5 KB each

SECTIONS = (
    ("answer", "The answer"),
    ("classes", "Classes"),
    ("confusion", "Confusion matrix"),
    ("curves", "Learning curves"),
    ("search", "Search history"),
    ("mattered", "What mattered"),
    ("frontier", "What it costs"),
    ("mistakes", "Mistakes"),
    ("data", "Data"),
    ("again", "How to have it again"),
)


def write_page(
    report: Mapping[str, Any],
    history: History,
    mistakes: Sequence[Mistake] | None,
    pictures: Path,
    folder: Path,
) -> None:
    """Writes report.html into the folder; `pictures` is where the paths of the mistakes begin.

    `mistakes` is None where it is not known what the model says of each picture.
    """
    shown = None if mistakes is None else [(one, draw_thumbnail(pictures / one.path)) for one in mistakes]
    text = render_page(report, history, shown)
    folder.mkdir(parents=True, exist_ok=True)
    # A file name that is not valid text becomes question marks here, and is whole in predictions.csv.
    write_whole(folder / FILE, lambda path: path.write_bytes(text.encode("utf-8", "replace")))


def render_page(
    report: Mapping[str, Any], history: History, mistakes: Sequence[tuple[Mistake, str | None]] | None
) -> str:
    """The page as text; with each mistake a data URI of its picture, or None where that is gone."""
    published = published_for(report)
    default = next((trial.config for trial in history.trials if trial.default and trial.state == "complete"), {})
    default = {} if report["best"]["number"] == report.get("default_number", 0) else default
    keys = dict.fromkeys([METRICS[report["metric"]], METRICS["macro_f1"], METRICS["accuracy"]])
    frontiers = (
        draw_frontier(report, history, "seconds", "seconds of training"),
        draw_frontier(report, history, "parameters", "trainable parameters"),
    )
    return render_template(
        "report.html",
        title=render_title(report),
        report=report,
        sections=SECTIONS,
        tiles=_tiles(report),
        findings=findings(report),
        standings=[(_capital(name), *draw_standing(report, key, published)) for name, key in keys],
        published=published,
        best_line=best_line(report),
        default_config=default,
        config=_config(report, default),
        class_rows=class_rows(report["test"]),
        short_names=[shortened(name, 24) for name in report["classes"]],
        matrix=_matrix(report),
        confusions=_confusions(report),
        curves=draw_curves(report, history),
        search=draw_search(report, history),
        search_note=_search_note(report),
        score_name=f"Validation {METRICS[report['metric']][0]}",
        failures=_failures(history),
        importance=list(history.importance.items()),
        slices=draw_slices(report, history),
        frontiers=[chart for chart in frontiers if chart],
        mistakes=None if mistakes is None else [_mistake(one, image) for one, image in mistakes],
        mistakes_note=_mistakes_note(report, len(mistakes or ())),
        class_counts=_class_counts(report),
        data_lines=_data_lines(report),
        problems=problem_lines(report, most=50),
        seconds=[(name, render_duration(spent)) for name, spent in report["seconds"].items()],
    )


def render_template(name: str, **values: Any) -> str:
    """One of this package's templates with its values, all of them escaped, and style and script in it."""
    script = _asset("hover.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    inside = {"style": Markup(_asset("style.css")), "script": Markup(script), "script_hash": f"sha256-{digest}"}
    return _templates().get_template(name).render(**inside, **values)


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    # Strict: a misspelt name is an error, not a blank. What may be missing in an old report is asked for by `if`.
    return Environment(
        loader=PackageLoader("wastetune.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )


def _asset(name: str) -> str:
    return (files("wastetune.report") / name).read_text(encoding="utf-8")


def _tiles(report: Mapping[str, Any]) -> list[dict[str, str]]:
    test, default, trials = report["test"], report["default_test"], report["trials"]
    metric = METRICS[report["metric"]]
    tiles = []
    for name, key in dict.fromkeys([metric, METRICS["accuracy"]]):
        span = test["intervals"].get(key)
        sure = f"95 % interval {span[0]:.3f} to {span[1]:.3f}" if span else f"{report['counts']['test']} test pictures"
        tiles.append({"name": _capital(name), "value": f"{test[key]:.3f}", "note": sure})
    name, key = metric
    span = report.get("gain", {}).get(key)
    if report["best"]["number"] == report.get("default_number", 0):
        value, note = "none", "no trial was better"
    else:
        value = f"{test[key] - default[key]:+.3f}"
        note = f"{name}, {span[0]:+.3f} to {span[1]:+.3f}" if span else f"{name}, {default[key]:.3f} before"
    tiles.append({"name": "Gain over the default", "value": value, "note": note})
    told = ", ".join(f"{trials[state]} {state}" for state in ("complete", "pruned", "failed") if trials[state])
    note = f"{told}; {render_duration(report['seconds']['total'])} in all"
    tiles.append({"name": "Trials", "value": str(sum(trials.values())), "note": note})
    return tiles


def _config(report: Mapping[str, Any], default: Mapping[str, Any]) -> list[dict[str, str]]:
    bounds = {edge["parameter"]: edge["bound"] for edge in report.get("edges", [])}
    return [
        {
            "key": key,
            "value": render_value(value),
            "default": render_value(default.get(key)),
            "note": f"at its bound {render_value(bounds[key])}" if key in bounds else "",
        }
        for key, value in report["best"]["config"].items()
    ]


def _matrix(report: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    classes = report["classes"]
    rows = []
    for i, row in enumerate(report["test"]["confusion_matrix"]):
        total = max(sum(row), 1)
        cells = []
        for j, count in enumerate(row):
            shade = (count / total) ** SHADE
            kind = "hit" if i == j else ""
            kind += " none" if not count else " deep" if shade > 0.75 else ""
            title = f"{classes[i]} taken for {classes[j]}: {count} of {sum(row)} ({100 * count / total:.0f} %)"
            cells.append({"count": count, "shade": shade, "kind": kind.strip(), "title": title})
        rows.append(cells)
    return rows


def _confusions(report: Mapping[str, Any], most: int = 3) -> list[str]:
    """The confusions that cost most, in words."""
    names, matrix = report["classes"], report["test"]["confusion_matrix"]
    pairs = [(n, i, j) for i, row in enumerate(matrix) for j, n in enumerate(row) if i != j and n]
    worst = sorted(pairs, key=lambda pair: -pair[0])[:most]
    return [f"{names[i]} taken for {names[j]}, {n} of {sum(matrix[i])}" for n, i, j in worst]


def _search_note(report: Mapping[str, Any]) -> str:
    trials = report["trials"]
    told = ", ".join(f"{trials[state]} {state}" for state in ("complete", "pruned", "failed") if trials[state])
    return f"{told}. Scores are on validation pictures; trials far below the others lie at the lower edge."


def _failures(history: History, most: int = 5) -> list[str]:
    failed = [f"trial {trial.number}, {trial.failure}" for trial in history.trials if trial.state == "failed"]
    return failed[:most] + ([f"{len(failed) - most} more"] if len(failed) > most else [])


def _mistake(one: Mistake, image: str | None) -> dict[str, Any]:
    return {
        "path": one.path.encode("utf-8", "replace").decode(),
        "true": one.true,
        "predicted": one.predicted,
        "probability": f"{100 * one.probability:.0f} %",
        "image": image,
    }


def _mistakes_note(report: Mapping[str, Any], shown: int) -> str:
    matrix, total = report["test"]["confusion_matrix"], report["counts"]["test"]
    wrong = total - sum(row[i] for i, row in enumerate(matrix))
    told = f"{wrong} of {total} test pictures were taken for another class"
    return f"{told}." if shown == wrong else f"{told}; these are the {shown} that the model was surest of."


def _data_lines(report: Mapping[str, Any]) -> list[str]:
    lines = [*data_facts(report), "Pictures that look alike, pixel for pixel or nearly, are on one side of the split."]
    if left_out := report.get("left_out"):
        lines.append(f"{render_count(left_out, 'training picture')} left out for looking like a test picture.")
    return [*lines, *openings(report.get("test_opened_for", []))]


def _class_counts(report: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    counts = report.get("class_counts", {})
    sides = ("train", "val", "test")
    rows = [(name, *(one[side] for side in sides), sum(one.values())) for name, one in counts.items()]
    return [*rows, ("all", *(sum(row[i] for row in rows) for i in range(1, 5)))] if rows else []


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
