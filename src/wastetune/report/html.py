"""A report, its search and its mistakes as report.html: one file that needs no network and escapes all values."""

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup

from wastetune.data.image import draw_thumbnail
from wastetune.evaluation.calibration import Calibration
from wastetune.evaluation.conformal import Covered
from wastetune.evaluation.metrics import METRICS
from wastetune.evaluation.objectives import COSTS
from wastetune.evaluation.scores import Scores
from wastetune.evaluation.selective import Answered, Threshold
from wastetune.files import write_whole
from wastetune.formatting import load_templates, render_count, render_duration, render_value, shortened
from wastetune.report.figures import (
    SHADE,
    draw_coverage,
    draw_curves,
    draw_frontier,
    draw_reliability,
    draw_search,
    draw_slices,
    is_its_default,
)
from wastetune.report.predictions import Mistake
from wastetune.report.published import draw_score_lanes, published_for
from wastetune.report.results import Report
from wastetune.report.text import (
    BACKBONE_COLUMNS,
    backbone_name,
    backbone_rows,
    best_line,
    class_rows,
    cost_line,
    data_facts,
    findings,
    front_rows,
    leak_line,
    objectives_line,
    problem_lines,
    render_states,
    render_title,
    warm_start_lines,
    warn_of_reuse,
    worse_line,
    worst_confusions,
)
from wastetune.search.choice import describe_search
from wastetune.search.history import ENOUGH_TRIALS, History
from wastetune.storage.records import render_interruption

FILE = "report.html"
MISTAKES = 24  # thumbnails: some 5 KB each
_DEEP = 0.76  # a shade under white text; black on it and white on it both have a contrast of at least 4.5
_FEW = 12  # classes whose names fit above the columns of a confusion matrix

SECTIONS = (
    ("answer", "The answer"),
    ("backbones", "Backbones"),
    ("classes", "Classes"),
    ("confusion", "Confusion matrix"),
    ("confidence", "Confidence"),
    ("curves", "Learning curves"),
    ("search", "Search history"),
    ("mattered", "What mattered"),
    ("frontier", "What it costs"),
    ("mistakes", "Mistakes"),
    ("data", "Data"),
    ("again", "How to have it again"),
)


def write_page(
    report: Report, history: History, mistakes: Sequence[Mistake] | None, pictures: Path, folder: Path
) -> None:
    """Writes report.html into the folder. The paths of the mistakes are relative to `pictures`.

    `mistakes` is None where the predictions are not known.
    """
    write_text(render_page(report, history, None if mistakes is None else with_images(mistakes, pictures)), folder)


def write_text(page: str, folder: Path, name: str = FILE) -> None:
    """Writes a page's text into the folder, by default as report.html."""
    folder.mkdir(parents=True, exist_ok=True)
    # A file name that is not valid text becomes question marks here, and is whole in predictions.csv.
    write_whole(folder / name, lambda path: path.write_bytes(page.encode("utf-8", "replace")))


def with_images(mistakes: Sequence[Mistake], pictures: Path) -> list[tuple[Mistake, str | None]]:
    """Each mistake with the data URI of its picture; None where the file is gone. Paths are relative to `pictures`."""
    return [(one, draw_thumbnail(pictures / one.path)) for one in mistakes]


def render_page(report: Report, history: History, mistakes: Sequence[tuple[Mistake, str | None]] | None) -> str:
    """The page as text. Each mistake comes with a data URI of its picture, or None where the file is gone."""
    published = published_for(report)
    default = next((trial.config for trial in history.trials if is_its_default(report, trial)), {})
    default = {} if report.default_won else default
    keys = dict.fromkeys([METRICS[report.metric], METRICS["macro_f1"], METRICS["accuracy"]])
    objectives = list(report.front[0].costs) if report.front else []
    frontiers = (
        *(draw_frontier(report, history, f"objective {key}", COSTS[key].label) for key in objectives),
        draw_frontier(report, history, "seconds", "seconds of training"),
        draw_frontier(report, history, "parameters", "trainable parameters"),
    )
    return render_template(
        "report.html",
        title=render_title(report),
        report=report,
        sections=[
            each
            for each in SECTIONS
            if (each[0] != "confidence" or report.calibration) and (each[0] != "backbones" or report.backbones)
        ],
        backbone=backbone_name(report),
        backbones=backbone_rows(report),
        backbone_columns=BACKBONE_COLUMNS,
        tiles=_tiles(report),
        findings=findings(report),
        warnings=[*leak_line(report), *worse_line(report)],
        standings=[(_capital(name), *draw_score_lanes(report, key, published)) for name, key in keys],
        published=published,
        best_line=best_line(report),
        default_config=default,
        config=_config(report, default),
        scores=score_tables(report.test, report.classes),
        reliability=_reliability(report),
        calibration=_calibration(report),
        coverage=draw_coverage(report.accuracy_by_coverage, report.answered),
        answered=answered_rows(report.final.thresholds if report.final else (), report.answered),
        covered=covered_rows(report.covered),
        curves=draw_curves(report, history),
        search=draw_search(report, history),
        search_note=_search_note(report),
        score_name=f"Validation {METRICS[report.metric][0]}",
        failures=_failures(history),
        interruptions=[_capital(text) for text in _interruptions(history)],
        importance=list(history.importance.items()),
        spread=history.importance_spread,
        enough=ENOUGH_TRIALS,
        slices=draw_slices(report, history),
        frontiers=[chart for chart in frontiers if chart],
        front=front_rows(report) if report.front else [],
        front_note=cost_line(report),
        mistakes=None if mistakes is None else mistake_figures(mistakes),
        mistakes_note=mistakes_note(report.test, len(mistakes or ()), "test pictures"),
        class_counts=_class_counts(report),
        data_lines=_data_lines(report),
        problems=problem_lines(report.problems, most=50),
        seconds=[(name, render_duration(spent)) for name, spent in report.seconds.to_dict().items()],
    )


def render_template(template: str, **values: Any) -> str:
    """One of this package's templates with these values, and with the style and script of all pages."""
    script = _asset("hover.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    inside = {"style": Markup(_asset("style.css")), "script": Markup(script), "script_hash": f"sha256-{digest}"}
    return load_templates("wastetune.report").get_template(template).render(**inside, **values)


def _asset(name: str) -> str:
    return (files("wastetune.report") / name).read_text(encoding="utf-8")


def _tiles(report: Report) -> list[dict[str, Any]]:
    test = report.test
    metric = METRICS[report.metric]
    tiles = []
    for name, key in dict.fromkeys([metric, METRICS["accuracy"]]):
        span = test.intervals.get(key)
        note = f"95 % interval {span[0]:.3f} to {span[1]:.3f}" if span else f"{report.counts.test} test pictures"
        tiles.append({"name": _capital(name), "value": f"{getattr(test, key):.3f}", "note": note})
    tiles.append(_gain_tile(report))
    note = f"{render_states(report.trials)}; {render_duration(report.seconds.total)} in all"
    tiles.append({"name": "Trials", "value": str(report.trials.total), "note": note})
    return tiles


def _gain_tile(report: Report) -> dict[str, Any]:
    """The difference to the default; a loss says that it is one, and looks like one."""
    if report.is_default:
        return {"name": "Gain over the default", "value": "none", "note": "nothing better was found"}
    name, key = METRICS[report.metric]
    before, span = getattr(report.default_test, key), report.gain.get(key)
    value = f"{getattr(report.test, key) - before:+.3f}"
    note = f"{name}, {span[0]:+.3f} to {span[1]:+.3f}" if span else f"{name}, {before:.3f} before"
    if not value.startswith("-"):
        return {"name": "Gain over the default", "value": value, "note": note}
    return {"name": "Loss against the default", "value": value, "note": note, "loss": True}


def _config(report: Report, default: Mapping[str, Any]) -> list[dict[str, str]]:
    bounds = {edge.parameter: edge.bound for edge in report.edges}
    return [
        {
            "key": key,
            "value": render_value(value),
            "default": render_value(default.get(key)),
            "note": f"at its bound {render_value(bounds[key])}" if key in bounds else "",
        }
        for key, value in report.best.config.items()
    ]


def score_tables(scores: Scores, classes: Sequence[str]) -> dict[str, Any]:
    """What the macro `score_sections` of sections.html shows."""
    return {
        "few": len(classes) <= _FEW,
        "class_rows": class_rows(scores),
        "names": [shortened(name, 24) for name in classes],
        "matrix": _matrix(scores, classes),
        "confusions": _confusions(scores, classes),
    }


def _matrix(scores: Scores, classes: Sequence[str]) -> list[list[dict[str, Any]]]:
    rows = []
    for i, row in enumerate(scores.confusion_matrix):
        total = max(sum(row), 1)
        cells = []
        for j, count in enumerate(row):
            shade = (count / total) ** SHADE
            kind = "hit" if i == j else ""
            kind += " none" if not count else " deep" if shade > _DEEP else ""
            title = f"{classes[i]} taken for {classes[j]}: {count} of {sum(row)} ({100 * count / total:.0f} %)"
            cells.append({"count": count, "shade": shade, "kind": kind.strip(), "title": title})
        rows.append(cells)
    return rows


def _reliability(report: Report) -> Markup | None:
    if report.calibration is None or report.uncalibrated is None:
        return None
    measured = (
        ("complete", "before calibration", report.uncalibrated),
        ("winner", "calibrated", report.calibration),
    )
    return draw_reliability(measured, report.counts.test)


def _calibration(report: Report) -> list[tuple[str, ...]]:
    """Rows of figures that are lower for better probabilities: name, before and after calibration."""
    if report.calibration is None or report.uncalibrated is None:
        return []
    return calibration_rows(report.uncalibrated, report.calibration)


def calibration_rows(*measured: Calibration) -> list[tuple[str, ...]]:
    """Rows of figures that are lower for better probabilities: name, then the figure of each calibration."""
    names = {"error": "calibration error", "log_loss": "log loss", "brier": "Brier score"}
    return [(name, *(f"{getattr(each, key):.3f}" for each in measured)) for key, name in names.items()]


def answered_rows(thresholds: Sequence[Threshold], answered: Sequence[Answered]) -> list[tuple[str, ...]]:
    """Rows of the thresholds: wanted precision, the confidence that it asks for, share answered, share right."""
    return [
        (
            f"{100 * asked.precision:.0f} %",
            f"{100 * asked.confidence:.0f} %",
            f"{100 * found.coverage:.0f} %",
            "none" if found.accuracy is None else f"{100 * found.accuracy:.1f} %",
        )
        for asked, found in zip(thresholds, answered, strict=True)
    ]


def covered_rows(covered: Sequence[Covered]) -> list[tuple[str, ...]]:
    """Rows of the prediction sets: promised coverage, measured coverage, mean number of classes."""
    return [(f"{100 * one.promised:.0f} %", f"{100 * one.coverage:.1f} %", f"{one.size:.2f}") for one in covered]


def _confusions(scores: Scores, names: Sequence[str], most: int = 3) -> list[str]:
    """The most frequent confusions, in words."""
    matrix = scores.confusion_matrix
    return [
        f"{names[i]} taken for {names[j]}, {count} of {sum(matrix[i])}"
        for count, i, j in worst_confusions(matrix, most)
    ]


def _search_note(report: Report) -> str:
    states = render_states(report.trials)
    if search := describe_search(report.begun_with):
        states += f"; {search}"
    note = f"{states}. Scores are on validation pictures; trials far below the others lie at the lower edge."
    return " ".join([note, *objectives_line(report), *warm_start_lines(report.warm_starts)])


def _failures(history: History, most: int = 5) -> list[str]:
    failed = [f"trial {trial.number}, {trial.failure}" for trial in history.trials if trial.state == "failed"]
    return _first(failed, most)


def _interruptions(history: History, most: int = 5) -> list[str]:
    interrupted = [trial for trial in history.trials if trial.state == "interrupted"]
    return _first([render_interruption(trial.number, trial.failure, trial.again) for trial in interrupted], most)


def _first(texts: Sequence[str], most: int) -> list[str]:
    return [*texts[:most], *([f"{len(texts) - most} more"] if len(texts) > most else [])]


def mistake_figures(mistakes: Sequence[tuple[Mistake, str | None]]) -> list[dict[str, Any]]:
    """What the macro `mistake_figures` of sections.html shows of each mistake and the data URI of its picture."""
    return [
        {
            "path": one.path.encode("utf-8", "replace").decode(),
            "true": one.true,
            "predicted": one.predicted,
            "probability": render_sure(one.probability),
            "image": image,
        }
        for one, image in mistakes
    ]


def render_sure(probability: float) -> str:
    """A probability in percent with two digits of what is missing to 100: 87 %, 98.7 %, 99.957 %."""
    missing = 1 - probability
    if missing < 1e-7:  # less than single precision knows
        return "over 99.99999 %"
    return f"{100 * probability:.{max(math.ceil(-math.log10(missing)) - 1, 0)}f} %"


def mistakes_note(scores: Scores, shown: int, pictures: str) -> str:
    """How many pictures were taken for another class, and how many of them are shown."""
    total = sum(map(sum, scores.confusion_matrix))
    wrong = total - sum(row[i] for i, row in enumerate(scores.confusion_matrix))
    sentence = f"{wrong} of {total} {pictures} were taken for another class"
    return f"{sentence}." if shown == wrong else f"{sentence}; these are the {shown} that the model was surest of."


def _data_lines(report: Report) -> list[str]:
    lines = [*data_facts(report), _split_line(report)]
    if report.left_out:
        lines.append(f"{render_count(report.left_out, 'training picture')} left out for looking like a test picture.")
    return [*lines, *warn_of_reuse(report)]


def _split_line(report: Report) -> str:
    if report.leaked:
        return "Each picture was drawn alone, so pictures that look alike are on both sides of the split."
    return "Pictures that look alike, pixel for pixel or nearly, are on one side of the split."


def _class_counts(report: Report) -> list[tuple[Any, ...]]:
    rows = [(name, one.train, one.val, one.test, one.total) for name, one in report.class_counts.items()]
    return [*rows, ("all", *(sum(row[i] for row in rows) for i in range(1, 5)))] if rows else []  # type: ignore[misc]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
