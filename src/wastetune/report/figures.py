"""A search as charts: how the winner learned, how the scores rose, what mattered, what it cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from wastetune.formatting import render_value
from wastetune.report.published import Published
from wastetune.report.svg import (
    Plot,
    Point,
    Scale,
    dot,
    framed,
    line,
    mark,
    number_scale,
    option_scale,
    score_scale,
    shape,
    steps,
)
from wastetune.search.history import History, Searched
from wastetune.storage.records import TrialRecord
from wastetune.training.metrics import METRICS

_MANY = 150  # trials; more are drawn smaller


def draw_curves(report: Mapping[str, Any], history: History) -> list[Markup]:
    """Validation score and training loss by epoch, of the winner and of the default."""
    name = METRICS[report["metric"]][0]
    shown = [("winner", _of(history, report["best"]["number"])), ("default", _default(history))]
    curves = [(kind, trial) for kind, trial in shown if trial and trial.epochs]
    if len(curves) == 2 and curves[0][1].number == curves[1][1].number:
        del curves[1]
    if not curves:
        return []
    epochs = number_scale((epoch["number"] for _, trial in curves for epoch in trial.epochs), whole=True)
    charts = []
    for key, label in (("score", f"validation {name}"), ("loss", "training loss")):
        values = [epoch[key] for _, trial in curves for epoch in trial.epochs]
        plot = Plot(epochs, number_scale(values))
        marks = []
        for kind, trial in reversed(curves):
            points = [(epoch["number"], epoch[key]) for epoch in trial.epochs]
            marks.append(line(plot, points, f"{kind} line"))
            for number, value in points:
                best = number == trial.best_epoch
                when = f"epoch {number:g}{' (its best)' if best else ''}"
                title = f"trial {trial.number} ({kind}), {when}: {label} {value:.4f}"
                marks.append(
                    dot(plot, (number, value), kind if best else f"{kind} small", title, radius=5 if best else 2)
                )
        charts.append(framed(plot, marks, x_label="epoch", y_label=label, what=f"{label} by epoch"))
    return charts


def draw_search(report: Mapping[str, Any], history: History) -> Markup:
    """Each trial's score in the order of the trials, and the best so far."""
    complete = [trial for trial in history.trials if trial.state == "complete"]
    plot = Plot(
        number_scale((trial.number for trial in history.trials), whole=True, most=8), _score_scale(history), height=260
    )
    best: list[Point] = []
    for trial in complete:
        if trial.score is not None and (not best or trial.score > best[-1][1]):
            best.append((trial.number, trial.score))
    if best:
        best.append((history.trials[-1].number, best[-1][1]))
    marks = [steps(plot, best, "best line"), *_trial_marks(plot, report, history, lambda trial: trial.number)]
    return framed(plot, marks, x_label="trial", y_label=_score_name(report), what="scores of all trials in order")


def draw_slices(report: Mapping[str, Any], history: History) -> list[Markup]:
    """For each searched parameter, the important first, the scores of the trials against its values."""
    order = [*history.importance, *(key for key in history.searched if key not in history.importance)]
    charts = []
    for key in order:
        searched = history.searched[key]
        having = [trial for trial in history.trials if key in trial.drawn and trial.config.get(key) is not None]
        if not having:
            continue
        at = {trial.number: _position(searched, trial, key) for trial in having}
        values = list(at.values())
        if searched.options:
            x = option_scale(searched.options)
        else:
            x = number_scale(values, log=searched.log and min(values) > 0, whole=searched.whole)
        plot = Plot(x, _score_scale(history), height=170)
        if (searched.options or searched.whole) and len(set(values)) <= 8 < len(values):
            # Many trials at few values would hide each other.
            at = {number: value + 0.5 * _sideways(number) for number, value in at.items()}
        marks = _trial_marks(
            plot,
            report,
            History(tuple(having), history.searched, history.importance),
            lambda trial, at=at: at[trial.number],
            lambda trial, key=key: f"{key} {render_value(trial.config[key])}",
        )
        charts.append(framed(plot, marks, x_label="", y_label=key, what=f"scores against {key}"))
    return charts


def draw_frontier(report: Mapping[str, Any], history: History, cost: str, label: str) -> Markup | None:
    """Score against a cost, `seconds` or `parameters`, under the line of the best; None where no cost is known."""
    known = [trial for trial in history.trials if trial.state == "complete" and (getattr(trial, cost) or 0) > 0]
    if not known:
        return None
    plot = Plot(number_scale((getattr(trial, cost) for trial in known), log=True), _score_scale(history))
    frontier: list[Point] = []
    for trial in sorted(known, key=lambda trial: (getattr(trial, cost), -(trial.score or 0.0))):
        if trial.score is not None and (not frontier or trial.score > frontier[-1][1]):
            frontier.append((getattr(trial, cost), trial.score))
    frontier.append((plot.x.high, frontier[-1][1]))
    part = History(tuple(known), history.searched, history.importance)
    marks = _trial_marks(
        plot, report, part, lambda trial: getattr(trial, cost), lambda trial: f"{label} {getattr(trial, cost):,.5g}"
    )
    marks.insert(0, steps(plot, frontier, "best line"))
    return framed(plot, marks, x_label=label, y_label=_score_name(report), what=f"scores against {label}")


def _trial_marks(plot: Plot, report: Mapping[str, Any], history: History, x_of: Any, more: Any = None) -> list[Markup]:
    """A mark per trial, the default and the winner last, so that they lie on top."""
    winner = report["best"]["number"]

    def rank(trial: TrialRecord) -> int:
        return 2 if trial.number == winner else 1 if trial.default else 0

    marks = []
    for trial in sorted(history.trials, key=rank):
        title = f"trial {trial.number}{', the winner' if trial.number == winner else ''}: {_told(trial)}"
        title += ", the default configuration" if trial.default else ""
        title += f"; {more(trial)}" if more else ""
        point = (x_of(trial), plot.y.low if trial.score is None else trial.score)
        if trial.state == "failed":
            marks.append(shape(plot, point, "cross", "failed", title))
        elif trial.number == winner:
            marks.append(dot(plot, point, "winner", title, radius=6))
        elif trial.default:
            marks.append(shape(plot, point, "diamond", "default", title))
        else:
            marks.append(dot(plot, point, trial.state, title, radius=4 if len(history.trials) <= _MANY else 2.5))
    return marks


def _told(trial: TrialRecord) -> str:
    if trial.state == "failed":
        return f"failed, {trial.failure[:200]}"
    score = "" if trial.score is None else f"{trial.score:.4f}"
    return score if trial.state == "complete" else f"pruned at {score}" if score else "pruned"


def _sideways(number: int) -> float:
    """From -0.5 to 0.5, evenly spread over the trials."""
    return number * 0.6180339887 % 1 - 0.5


def _position(searched: Searched, trial: TrialRecord, key: str) -> float:
    # Of a range, what acted; an option that was snapped would be none of the options.
    return float(searched.options.index(trial.drawn[key])) if searched.options else float(trial.config[key])


def _score_scale(history: History) -> Scale:
    return score_scale(trial.score for trial in history.trials if trial.score is not None)


def _score_name(report: Mapping[str, Any]) -> str:
    return f"validation {METRICS[report['metric']][0]}"


def _of(history: History, number: int) -> TrialRecord | None:
    return next((trial for trial in history.trials if trial.number == number), None)


def _default(history: History) -> TrialRecord | None:
    return next((trial for trial in history.trials if trial.default and trial.state == "complete"), None)


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
