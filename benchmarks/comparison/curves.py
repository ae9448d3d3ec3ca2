"""Draws what `compare.py` found: the best validation score so far against seconds."""

from pathlib import Path
from typing import Any

# name -> (what it is called, its colour); told apart without colour vision too, and by labels at the lines
CONTESTANTS = {
    "kerastuner": ("KerasTuner", "#D55E00"),
    "optuna": ("Optuna + Keras", "#0072B2"),
    "wastetune": ("wastetune", "#009E73"),
}
GREY = "0.45"
BOX = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}
SPAN = 0.35  # of scores shown below the best


def draw_curves(record: dict[str, Any], path: Path) -> None:
    """A PNG for a page of 800 px: a line for each contestant, and where each has done all trials."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = {name: record["contestants"][name] for name in CONTESTANTS if name in record["contestants"]}
    shown = {name: row for name, row in shown.items() if row["curve"]}
    if not shown:
        return
    figure = Figure(figsize=(8, 4.4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    first = min(row["curve"][0][0] for row in shown.values())
    last = max(max(row["seconds_all_trials"] or 0, row["search_ended"]) for row in shown.values())
    axes.set_xscale("log")
    low = first / 1.25
    # As far right as it takes for each label to stand between its line's end and the edge.
    room = (
        low * (row["search_ended"] / low) ** (1 / (1 - label_width(_label(name, row)))) for name, row in shown.items()
    )
    axes.set_xlim(low, max(last * 1.5, *room))
    best = max(row["curve"][-1][1] for row in shown.values())
    # First epochs may be near chance, and would press what matters into a strip: they rise from below.
    lowest = max(best - SPAN, min(row["curve"][0][1] for row in shown.values()))
    axes.set_ylim(lowest - 0.3 * (best - lowest), best + 0.12 * (best - lowest))
    for name, row in shown.items():
        _draw_line(axes, CONTESTANTS[name][1], row)
    _draw_labels(axes, shown)
    _draw_ends(axes, shown)
    _label_axes(axes, record)
    canvas.print_figure(path, dpi=200, format="png")


def _draw_line(axes: Any, colour: str, row: dict[str, Any]) -> None:
    """The best score so far, held until the search ended."""
    seconds, scores = zip(*[*row["curve"], [row["search_ended"], row["curve"][-1][1]]], strict=True)
    axes.plot(seconds, scores, drawstyle="steps-post", color=colour, linewidth=2.2, solid_capstyle="round")
    axes.plot(seconds[-1:], scores[-1:], "o", color=colour, markersize=6)


def _label(name: str, row: dict[str, Any]) -> str:
    trials, ended = row["trials"], duration(row["search_ended"])
    text = (
        f"{CONTESTANTS[name][0]}: {row['curve'][-1][1]:.3f}, {trials['run']} trial{'' if trials['run'] == 1 else 's'}"
    )
    if trials.get("cut short"):
        return f"{text}, cut short"
    return f"{text} in {ended}" if trials["run"] == trials["asked"] else text


def label_width(text: str) -> float:
    """Roughly the share of the axes that a label takes."""
    return 0.03 + 0.0115 * len(text)


def _draw_labels(axes: Any, shown: dict[str, Any]) -> None:
    """What each line is and how high it came, right of its end and clear of the label above."""
    low, high = axes.get_ylim()
    above = float("inf")
    for name, row in sorted(shown.items(), key=lambda item: -item[1]["curve"][-1][1]):
        colour = CONTESTANTS[name][1]
        above = min(row["curve"][-1][1], above - 0.075 * (high - low))
        axes.annotate(
            _label(name, row),
            (row["search_ended"], above),
            xytext=(9, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight="bold",
            fontsize=10.5,
            bbox=BOX,
            zorder=5,
        )


def _draw_ends(axes: Any, shown: dict[str, Any]) -> None:
    """A vertical line where each has done all trials; the labels of those that only would have stand below."""
    place = 0
    for name, row in shown.items():
        label, colour = CONTESTANTS[name]
        moment, asked = row["seconds_all_trials"], row["trials"]["asked"]
        if moment is None:
            continue
        axes.axvline(moment, color=colour, linewidth=1.2, linestyle=(0, (4, 3)), zorder=0)
        if row["trials"]["run"] == asked and not row["trials"].get("cut short"):  # then the line's own label says so
            continue
        axes.annotate(
            f"{label}: {asked} trials in {duration(moment)}, projected",
            (moment, 0.06 + 0.08 * place),
            xycoords=("data", "axes fraction"),
            xytext=(-7, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            color=colour,
            fontsize=10,
            bbox=BOX,
            zorder=5,
        )
        place += 1


def _label_axes(axes: Any, record: dict[str, Any]) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    low, high = axes.get_xlim()
    steps = (1, 10, 30, 60, 120, 300, 600, 1800, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 72 * 3600, 240 * 3600)
    axes.xaxis.set_major_locator(FixedLocator([step for step in steps if low <= step <= high]))
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


def duration(seconds: float) -> str:
    """Seconds as a person says them, with two figures that matter."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size or (unit != "d" and seconds >= size):
            return f"{seconds / size:.{1 if seconds / size < 10 else 0}f}".removesuffix(".0") + f" {unit}"
    return f"{seconds:.0f} s"
