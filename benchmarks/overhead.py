"""What does a trial cost besides training, and how much of that is its note in the Optuna dashboard?

trial: milliseconds of each part of a trial on SQLite, median over the trials of one study
notes: milliseconds of a trial's note and pictures on SQLite and PostgreSQL, and of drawing them with matplotlib
"""

import argparse
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import Row, milliseconds, open_postgres, options, prepare_trashnet, print_table, temporary_folder

from wastetune.console import open_console
from wastetune.report.figures import draw_confusion_matrix
from wastetune.storage.database import open_storage
from wastetune.storage.records import TrialAttrs
from wastetune.storage.study import open_study
from wastetune.storage.trials import begin_trial, complete_trial, set_trial_attrs
from wastetune.tracking.artifacts import draw_pictures
from wastetune.tracking.dashboard import Notes
from wastetune.tuning import objective
from wastetune.tuning.workers import worker

EPOCHS = 30
# Each name is replaced where its caller looks it up.
PARTS = (
    ("sampler", worker, "_choose"),
    ("SQL: trial created", worker, "begin_trial"),
    ("SQL: scores reported", worker, "report_score"),
    ("pruner", worker, "is_hopeless"),
    ("SQL: attributes stored", worker, "set_trial_attrs"),
    ("note for the dashboard", Notes, "write"),
    ("SQL: trial finished", worker, "complete_trial"),
    ("SQL: trial finished", worker, "prune_trial"),
    ("stored activations opened", objective, "tuning_sets"),
)


def main() -> None:
    parser = options(__doc__, "trial", "notes")
    parser.add_argument("--trials", type=int, help="trials to take the median of; by default 50, with --quick 10")
    parser.add_argument("--classes", type=int, default=6, help="classes of the trials of `notes`")
    parser.add_argument("--before", type=int, default=0, help="trials that the study of `notes` has at the start")
    asked = parser.parse_args()
    asked.trials = asked.trials or (10 if asked.quick else 50)
    parts = {"trial": measure_trial, "notes": measure_notes}
    with temporary_folder():
        print_table((row for name in parts if asked.part in (name, "all") for row in parts[name](asked)), asked.json)


def measure_trial(asked: argparse.Namespace) -> Iterator[Row]:
    prepared = prepare_trashnet(quick=asked.quick)
    study = open_study(open_storage("sqlite:///overhead.db"), "overhead", prepared.fingerprint)
    spent: dict[str, float] = defaultdict(float)
    rows: list[dict[str, float]] = []
    last = time.perf_counter()

    def on_trial(trial: Any) -> None:
        nonlocal last
        training = sum(epoch["seconds"] for epoch in trial.user_attrs["history"])
        rows.append({**spent, "besides training": time.perf_counter() - last - training, "training": training})
        spent.clear()
        last = time.perf_counter()

    bar = open_console(quiet=True).bar
    with ExitStack() as stack:
        for part, owner, name in PARTS:
            stack.enter_context(patch.object(owner, name, added_up(getattr(owner, name), part, spent)))
        worker.run_worker(study, prepared.context, trials=asked.trials, timeout=None, bar=bar, on_trial=on_trial)
    names = dict.fromkeys([*(part for part, _, _ in PARTS), "besides training", "training"])
    unused = [name for name in names if not any(name in row for row in rows)]
    assert not unused, f"never called: {unused}"
    medians = {name: statistics.median(row.get(name, 0.0) for row in rows[1:]) for name in names}
    whole = medians["besides training"] + medians["training"]
    for name, seconds in medians.items():
        yield {"part of a trial": name, "ms": 1000 * seconds, "share": seconds / whole}


def added_up(function: Callable[..., Any], part: str, spent: dict[str, float]) -> Callable[..., Any]:
    """The function, whose seconds are added to its part."""

    def call(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            spent[part] += time.perf_counter() - started

    return call


def measure_notes(asked: argparse.Namespace) -> Iterator[Row]:
    classes, attrs = [f"class {number}" for number in range(asked.classes)], record(asked.classes)
    with open_postgres() as new_database:
        medians = {
            "both pictures as SVG": milliseconds(lambda: list(draw_pictures(attrs, "macro_f1", classes)), asked.trials),
            "the same, matplotlib": milliseconds(lambda: draw_with_matplotlib(attrs, classes), 3),
            "note and pictures, SQLite": write_notes("sqlite:///notes.db", asked, attrs, classes),
            "note and pictures, PostgreSQL": write_notes(new_database(), asked, attrs, classes),
        }
    for name, value in medians.items():
        yield {"what": name, "ms": value, "times": value / medians["both pictures as SVG"]}


def write_notes(url: str, asked: argparse.Namespace, attrs: TrialAttrs, classes: list[str]) -> float:
    """Milliseconds of a note in a study that has `--before` trials with notes, median of `--trials`."""
    study = open_study(open_storage(url), "notes", {})
    notes = Notes(study, "macro_f1", classes)
    spent = []
    for _ in range(asked.before + asked.trials):
        trial = begin_trial(study, {}, {}, TrialAttrs(config=attrs.config))
        set_trial_attrs(trial, attrs)
        started = time.perf_counter()
        notes.write(trial, attrs.config, attrs, pruned=False)
        spent.append(time.perf_counter() - started)
        complete_trial(trial, 0.5)
    return 1000 * statistics.median(spent[asked.before :])


def record(classes: int) -> TrialAttrs:
    """The attributes of a trial of EPOCHS epochs with so many classes."""
    return TrialAttrs(
        config={"head_layers": 1, "head_units": 256, "dropout": 0.3, "learning_rate": 1e-3, "batch_size": 64},
        history=[
            {"number": n, "loss": 2 / n, "score": 0.9 - 0.5 / n, "accuracy": 0.92 - 0.5 / n}
            for n in range(1, EPOCHS + 1)
        ],
        best_epoch=EPOCHS,
        confusion_matrix=[[50 if i == j else i * j % 3 for j in range(classes)] for i in range(classes)],
        trainable_parameters=100_000,
    )


def draw_with_matplotlib(attrs: TrialAttrs, classes: list[str]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    draw_confusion_matrix(attrs.confusion_matrix, classes, Path("matrix.png"))
    figure = Figure(figsize=(6.6, 2.5), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, key in zip(figure.subplots(1, 2), ("loss", "score"), strict=True):
        axes.plot([epoch["number"] for epoch in attrs.history], [epoch[key] for epoch in attrs.history])
    canvas.print_figure("curve.png", dpi=100)


if __name__ == "__main__":
    main()
