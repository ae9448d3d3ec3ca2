"""What test score is there after 1, 3, 10 and 30 minutes: wastetune, the whole network by hand, KerasTuner?

    python benchmarks/comparison/anytime.py --datasets trashnet wid --seeds 0 1 2 --seconds 60 180 600 1800

Each runs alone, with an empty cache, and everything counts from the start of its process: decoding, activations,
retraining, the test set. wastetune searches the space `full` with `--time-limit`. All of it takes 13 hours, so each
figure is written as soon as it is there, and what the file has already is not measured again. Writes NAME.json and
NAME.png.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))  # for common.py

from common import Row, options, print_table, temporary_folder
from compare import describe_machine, run_contestant
from curves import CONTESTANTS, GREY, STEPS, duration
from question import question_options, small_question, to_words, write_question

NAMES = ("wastetune", "by_hand", "kerastuner")
LABELS = {**CONTESTANTS, "by_hand": ("whole network by hand", "#0072B2")}
VIEWS, MOST_TRIALS = 8, 1000
SHOWN = (0.65, 0.95)  # macro F1 in the picture: what is near chance would flatten all else
KEY = ("contestant", "dataset", "seed", "seconds")


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--datasets", nargs="+", default=["trashnet", "wid"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", nargs="+", type=int, default=[60, 180, 600, 1800])
    parser.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--file", type=Path, default=HERE.parent / "results" / "anytime.json")
    asked = parser.parse_args()
    file = asked.file.resolve()
    with temporary_folder() as folder:
        if asked.quick:
            file, asked.datasets, asked.seeds, asked.seconds = folder / "anytime.json", ["small"], [0], [30]
        file.parent.mkdir(parents=True, exist_ok=True)
        runs = json.loads(file.read_text()) if file.exists() else []
        done = {tuple(run[key] for key in KEY) for run in runs}
        for seed in asked.seeds:
            for seconds in asked.seconds:
                for dataset in asked.datasets:
                    for name in asked.only:
                        if (name, dataset, seed, seconds) not in done:
                            runs.append(measure(name, dataset, seed, seconds, quick=asked.quick))
                            file.write_text(json.dumps(runs, indent=1))
        draw(runs, file.with_suffix(".png"))
        print_table(rows(runs), asked.json)


def measure(name: str, dataset: str, seed: int, seconds: int, *, quick: bool) -> dict[str, Any]:
    question = question_options("").parse_args([])
    vars(question).update(dataset=dataset, space="full", seed=seed, views=VIEWS, seconds=seconds, trials=MOST_TRIALS)
    if quick:
        vars(question).update(small_question())
    with tempfile.TemporaryDirectory() as folder:
        run = run_wastetune if name == "wastetune" else run_script
        found = run(question, Path(folder), name)
    return {"contestant": name, "dataset": dataset, "seed": seed, "seconds": seconds} | found | describe_machine()


def run_wastetune(question: argparse.Namespace, folder: Path, name: str) -> dict[str, Any]:
    study = write_question(question, MOST_TRIALS)
    command = [sys.executable, "-m", "wastetune", "run", "--study", str(study), "--time-limit", str(question.seconds)]
    run = run_contestant(command, folder)
    report = json.loads((folder / "results" / study.stem / "report.json").read_text())
    keys = ("default_test", "trials", "best", "final")
    return {"took": run["wall_seconds"], "test": scores(report["test"])} | {key: report.get(key) for key in keys}


def run_script(question: argparse.Namespace, folder: Path, name: str) -> dict[str, Any]:
    file = folder / "record.json"
    script = ["by_hand.py"] if name == "by_hand" else ["everyday.py", name]
    command = [sys.executable, str(HERE / script[0]), *script[1:], "--json", str(file), *to_words(question)]
    run = run_contestant(command, folder)
    found = json.loads(file.read_text())
    return {"took": run["wall_seconds"], "test": found["test"], "epochs": found.get("epochs")}


def scores(test: dict[str, Any]) -> dict[str, float]:
    return {"accuracy": test["accuracy"], "macro_f1": test["f1_macro"]}


def rows(runs: Sequence[dict[str, Any]]) -> Iterator[Row]:
    """A row for each data set, seed and time, with the test macro F1 of each contestant; the differences last."""
    scored = {tuple(run[key] for key in KEY): run for run in runs}
    questions = sorted({key[1:] for key in scored}, key=lambda each: (each[2], each[0], each[1]))
    for question in questions:
        found = {name: scored.get((name, *question)) for name in NAMES}
        cells = {name: run["test"]["macro_f1"] if run and run["test"] else None for name, run in found.items()}
        both = cells["wastetune"] is not None and cells["by_hand"] is not None
        gain = cells["wastetune"] - cells["by_hand"] if both else None  # type: ignore[operator]
        took = {f"{name} took": run["took"] if run else None for name, run in found.items()}
        yield dict(zip(KEY[1:], question, strict=True)) | cells | {"gain": gain} | took


def draw(runs: Sequence[dict[str, Any]], path: Path) -> None:
    """A PNG for a page of 800 px: the mean test macro F1 of each contestant after each time, a dot for each run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    datasets = sorted({run["dataset"] for run in runs})
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, dataset in zip(figure.subplots(1, len(datasets), squeeze=False)[0], datasets, strict=True):
        for name in NAMES:
            label, colour = LABELS[name]
            points = [
                (run["seconds"], run["test"]["macro_f1"])
                for run in runs
                if (run["contestant"], run["dataset"]) == (name, dataset) and run["test"]
            ]
            if points:
                times = sorted({seconds for seconds, _ in points})
                means = [statistics.mean(score for seconds, score in points if seconds == time) for time in times]
                axes.plot(*zip(*points, strict=True), "o", color=colour, markersize=4, alpha=0.5)
                axes.plot(times, means, color=colour, linewidth=2.2, label=label)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sorted({run["seconds"] for run in runs} & {*STEPS, 180, 600})))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, place: duration(seconds)))
        axes.set_title(f"{dataset}: test macro F1", loc="left", fontsize=12)
        axes.set_xlabel("time for everything (log scale)", color=GREY)
        axes.tick_params(colors=GREY, labelsize=10)
        if any(SHOWN[0] < run["test"]["macro_f1"] < SHOWN[1] for run in runs if run["test"]):
            axes.set_ylim(*SHOWN)
        axes.grid(axis="y", color="0.9")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.legend(loc="lower right", frameon=False, fontsize=10, labelcolor="linecolor")
    canvas.print_figure(path, dpi=200, format="png")


if __name__ == "__main__":
    main()
