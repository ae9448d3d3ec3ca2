"""The figures of a report: learning curves, search, parameters and cost as SVG; the confusion matrix as PNG."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from markupsafe import Markup

from wastetune.evaluation.calibration import Calibration
from wastetune.evaluation.metrics import METRICS
from wastetune.evaluation.selective import Answered
from wastetune.formatting import render_value, shortened
from wastetune.report.results import Report
from wastetune.report.svg import (
    Plot,
    Point,
    Scale,
    dot,
    framed,
    line,
    number_scale,
    option_scale,
    score_scale,
    shape,
    steps,
)
from wastetune.search.history import History, Searched
from wastetune.storage.records import TrialRecord
from wastetune.training.config import BACKBONE

_MANY = 150  # trials; more are drawn smaller
_OBJECTIVE = "objective "  # before the name of a cost that is an objective of the study
# Shades grow with the square root of the share, so that a confusion of 5 % is visible.
SHADE = 0.5


def draw_curves(report: Report, history: History) -> list[Markup]:
    """Validation score and training loss by epoch, of the winner and of the default."""
    name = METRICS[report.metric][0]
    shown = [("winner", _find(history, report.best.number)), ("default", _default(report, history))]
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


def draw_reliability(measured: Sequence[tuple[str, str, Calibration]], pictures: int) -> Markup:
    """Accuracy by confidence on so many pictures. measured: (kind of mark, name, calibration), the topmost last."""
    scale = Scale(0.0, 1.0, False, tuple((tick / 5, f"{20 * tick} %") for tick in range(6)))
    plot = Plot(scale, scale)
    marks = [line(plot, [(0, 0), (1, 1)], "best line")]
    for kind, name, calibration in measured:
        for each in filter(lambda bin: bin.count, calibration.bins):
            title = (
                f"{name}: {each.count} pictures, {100 * each.confidence:.0f} % sure, {100 * each.accuracy:.0f} % right"
            )
            radius = 2 + 6 * (each.count / pictures) ** 0.5
            marks.append(dot(plot, (each.confidence, each.accuracy), kind, title, radius=radius))
    return framed(plot, marks, x_label="confidence", y_label="share that is right", what="accuracy by confidence")


def draw_coverage(curve: Sequence[tuple[float, float]], answered: Sequence[Answered]) -> Markup | None:
    """The share of right answers by the share of pictures answered, and the thresholds; None where it is not known."""
    if not curve:
        return None
    across = Scale(0.0, 1.0, False, tuple((tick / 5, f"{20 * tick} %") for tick in range(6)))
    up = number_scale([*(accuracy for _, accuracy in curve), 1.0])
    plot = Plot(across, Scale(up.low, 1.0, False, tuple((at, f"{100 * at:.3g} %") for at, _ in up.ticks if at <= 1)))
    marks = [line(plot, curve, "winner line")]
    for each in answered:
        if each.accuracy is not None:
            title = (
                f"wanted {100 * each.precision:.0f} %: {100 * each.coverage:.0f} % of the pictures answered, "
                f"{100 * each.accuracy:.1f} % right"
            )
            marks.append(dot(plot, (each.coverage, each.accuracy), "winner", title))
    return framed(plot, marks, x_label="share answered", y_label="share that is right", what="accuracy by coverage")


def draw_search(report: Report, history: History) -> Markup:
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


def draw_slices(report: Report, history: History) -> list[Markup]:
    """For each searched parameter, the important first, the scores of the trials against its values."""
    order = [*history.importance, *(key for key in history.searched if key not in history.importance)]
    return [chart for key in order if (chart := _draw_slice(report, history, key)) is not None]


def _draw_slice(report: Report, history: History, key: str) -> Markup | None:
    searched = history.searched[key]
    trials = [trial for trial in history.trials if key in trial.drawn and trial.config.get(key) is not None]
    if not trials:
        return None
    at = {trial.number: _position(searched, trial, key) for trial in trials}
    values = list(at.values())
    if searched.options:
        x = option_scale(searched.options)
    else:
        x = number_scale(values, log=searched.log and min(values) > 0, whole=searched.whole)
    plot = Plot(x, _score_scale(history), height=170)
    if (searched.options or searched.whole) and len(set(values)) <= 8 < len(values):
        # Many trials at few values would hide each other.
        at = {number: value + 0.5 * _jitter(number) for number, value in at.items()}
    marks = _trial_marks(
        plot,
        report,
        replace(history, trials=tuple(trials)),
        lambda trial: at[trial.number],
        lambda trial: f"{key} {render_value(trial.config[key])}",
    )
    return framed(plot, marks, x_label="", y_label=key, what=f"scores against {key}")


def draw_frontier(report: Report, history: History, cost: str, label: str) -> Markup | None:
    """Score against `seconds`, the trained `parameters` or an objective, with the Pareto front; None where it is not
    known. A limit of an objective is a line.
    """

    def cost_of(trial: TrialRecord) -> float:
        return trial.costs.get(cost.removeprefix(_OBJECTIVE), 0.0) if is_objective else getattr(trial, cost) or 0.0

    is_objective = cost.startswith(_OBJECTIVE)
    limit = report.limits.get(cost.removeprefix(_OBJECTIVE)) if is_objective else None
    known = [trial for trial in history.trials if trial.state == "complete" and cost_of(trial) > 0]
    if not known:
        return None
    across = [cost_of(trial) for trial in known] + ([limit] if limit else [])
    plot = Plot(number_scale(across, log=True), _score_scale(history))
    frontier: list[Point] = []
    for trial in sorted(known, key=lambda trial: (cost_of(trial), -(trial.score or 0.0))):
        if trial.score is not None and (not frontier or trial.score > frontier[-1][1]):
            frontier.append((cost_of(trial), trial.score))
    frontier.append((plot.x.high, frontier[-1][1]))
    part = replace(history, trials=tuple(known))
    marks = _trial_marks(plot, report, part, cost_of, lambda trial: f"{label} {cost_of(trial):,.5g}")
    if limit:
        marks.insert(0, line(plot, [(limit, plot.y.low), (limit, plot.y.high)], "grid limit"))
    marks.insert(0, steps(plot, frontier, "best line"))
    return framed(plot, marks, x_label=label, y_label=_score_name(report), what=f"scores against {label}")


def _trial_marks(
    plot: Plot,
    report: Report,
    history: History,
    x_of: Callable[[TrialRecord], float],
    more: Callable[[TrialRecord], str] | None = None,
) -> list[Markup]:
    """A mark per trial, the default and the winner last, so that they lie on top."""
    winner = report.best.number

    def rank(trial: TrialRecord) -> int:
        return 2 if trial.number == winner else 1 if trial.default else 0

    marks = []
    ran = [trial for trial in history.trials if trial.state != "interrupted"]  # those have no outcome
    for trial in sorted(ran, key=rank):
        title = f"trial {trial.number}{', the winner' if trial.number == winner else ''}: {_outcome(trial)}"
        title += ", the default configuration" if trial.default else ""
        title += f", from {trial.origin}" if trial.origin else ""
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


def _outcome(trial: TrialRecord) -> str:
    if trial.state == "failed":
        return f"failed, {trial.failure[:200]}"
    score = "" if trial.score is None else f"{trial.score:.4f}"
    return score if trial.state == "complete" else f"pruned at {score}" if score else "pruned"


def _jitter(number: int) -> float:
    """A number from -0.5 to 0.5, evenly spread over the trials."""
    return number * 0.6180339887 % 1 - 0.5


def _position(searched: Searched, trial: TrialRecord, key: str) -> float:
    # Of a range the value that took effect; a snapped option would be none of the options.
    return float(searched.options.index(trial.drawn[key])) if searched.options else float(trial.config[key])


def _score_scale(history: History) -> Scale:
    return score_scale(trial.score for trial in history.trials if trial.score is not None)


def _score_name(report: Report) -> str:
    return f"validation {METRICS[report.metric][0]}"


def _find(history: History, number: int) -> TrialRecord | None:
    return next((trial for trial in history.trials if trial.number == number), None)


def _default(report: Report, history: History) -> TrialRecord | None:
    return next((trial for trial in history.trials if is_its_default(report, trial)), None)


def is_its_default(report: Report, trial: TrialRecord) -> bool:
    """Whether this is the default trial that the final model is compared with: of several, that of its backbone."""
    its = trial.config.get(BACKBONE) == report.best.config.get(BACKBONE)
    return trial.default and trial.state == "complete" and its


def text_colour(red: float, green: float, blue: float) -> str:
    """White on a colour (channels from 0 to 1) where its contrast is at least 4.5, as WCAG 2 counts it; else black."""
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in (red, green, blue)]
    luminance = sum(part * each for part, each in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
    return "white" if 1.05 / (luminance + 0.05) >= 4.5 else "black"


def draw_confusion_matrix(matrix: Sequence[Sequence[int]], classes: Sequence[str], path: Path) -> None:
    """A PNG of the matrix: counts in the cells, shaded by the share of the true class; also fit for print."""
    # The object interface: pyplot would pick a window system and keep every figure alive.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    totals = [max(sum(row), 1) for row in matrix]
    shares = [[count / total for count in row] for row, total in zip(matrix, totals, strict=True)]
    side = 1.2 + 0.55 * len(classes)
    figure = Figure(figsize=(side + 2.2, side + 1.2), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    image = axes.imshow(shares, cmap="Blues", norm=PowerNorm(SHADE, vmin=0, vmax=1))
    shades = image.to_rgba(np.array(shares))
    for row, counts in enumerate(matrix):
        for column, count in enumerate(counts):
            # Empty cells step back but stay legible (contrast 4.5), so that the confusions stand out.
            colour = text_colour(*shades[row, column, :3]) if count else "0.45"
            weight = "bold" if row == column else "normal"
            axes.text(column, row, str(count), ha="center", va="center", color=colour, weight=weight, size=10)
    names = [shortened(name, 30) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks([i - 0.5 for i in range(1, len(names))], minor=True)
    axes.set_yticks([i - 0.5 for i in range(1, len(names))], minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[0, 0.05, 0.25, 0.5, 1])
    bar.ax.set_yticklabels(["0 %", "5 %", "25 %", "50 %", "100 %"])
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    canvas.print_figure(path, dpi=200, format="png", bbox_inches="tight", pad_inches=0.1)
