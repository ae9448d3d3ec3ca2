"""Draws what `compare.py` found: the best validation score so far against seconds."""

from pathlib import Path
from typing import Any

# name -> (label, colour); told apart without colour vision too
CONTESTANTS = {
    "kerastuner": ("KerasTuner", "#D55E00"),
    "optuna": ("Optuna + Keras", "#0072B2"),
    "wastetune": ("wastetune", "#009E73"),
}
GREY = "0.45"
SPAN = 0.35  # of scores shown below the best
STEPS = (1, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600, 240 * 3600)


def draw_curves(record: dict[str, Any], path: Path) -> None:
    """A PNG for a page of 800 px: a solid line for each contestant, a dashed one where it has done all trials."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    shown = {name: found for name, found in record["contestants"].items() if found.get("curve")}
    if not shown:
        return
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.set_xscale("log")
    for name, found in sorted(shown.items(), key=lambda item: -item[1]["curve"][-1][1]):
        draw_contestant(axes, *CONTESTANTS[name], found)
    best = max(found["curve"][-1][1] for found in shown.values())
    # First epochs may be near chance: they rise from below the figure, so that the differences at the top are seen.
    lowest = max(best - SPAN, min(found["curve"][0][1] for found in shown.values()))
    margin = 0.1 * max(best - lowest, 0.01)
    axes.set_ylim(lowest - margin, best + margin)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(FixedLocator([step for step in STEPS if low <= step <= high]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, place: duration(seconds)))
    axes.set_xlabel("time since the program was started (log scale)", color=GREY)
    axes.set_title("Best validation macro F1 so far", loc="left", fontsize=12)
    question = record["question"]
    what = f"{question['backbone']} on {Path(question['dataset']).name}, space {Path(question['space']).stem}"
    axes.set_title(what, loc="right", fontsize=10, color=GREY)
    axes.tick_params(colors=GREY, labelsize=10)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, fontsize=10, labelcolor="linecolor")
    canvas.print_figure(path, dpi=200, format="png")


def draw_contestant(axes: Any, label: str, colour: str, found: dict[str, Any]) -> None:
    """The best score so far, held until the search ended, and the moment of all trials where it is projected."""
    trials, ended, whole = found["trials"], found["search_ended"], found["seconds_all_trials"]
    seconds, scores = zip(*[*found["curve"], [ended, found["curve"][-1][1]]], strict=True)
    text = f"{label}: {scores[-1]:.3f}, trials: {trials['run']} in {duration(ended)}"
    text += ", cut short" if trials.get("cut short") else ""
    axes.plot(
        seconds, scores, drawstyle="steps-post", color=colour, linewidth=2.2, marker="o", markevery=[-1], label=text
    )
    if whole is not None and (trials["run"] < trials["asked"] or trials.get("cut short")):
        text = f"{label}: {trials['asked']} trials in {duration(whole)}, projected"
        axes.axvline(whole, color=colour, linewidth=1.2, linestyle="--", label=text)


def duration(seconds: float) -> str:
    """Seconds in the largest fitting unit, with two significant digits."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size or (unit != "d" and seconds >= size):
            return f"{seconds / size:.{1 if seconds / size < 10 else 0}f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.0f} s"
