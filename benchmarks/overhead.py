"""What does a trial cost besides training? Milliseconds of each part, on SQLite, over the trials of one study.

python benchmarks/overhead.py [--trials 50] [--json FILE]
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from wastetune.console import open_console
from wastetune.storage.database import open_storage
from wastetune.storage.study import open_study
from wastetune.study import objective, worker
from wastetune.study.prepare import prepare_study
from wastetune.study.spec import load_study
from wastetune.study.worker import run_worker
from wastetune.tracking.dashboard import Notes

PARTS = {
    "sampler proposes": (worker, "_choose"),
    "SQL: trial begun": (worker, "begin_trial"),
    "SQL: scores told": (worker, "report_score"),
    "pruner": (worker, "is_hopeless"),
    "SQL: record left": (worker, "set_trial_attrs"),
    "note for the dashboard": (Notes, "write"),
    "SQL: trial ended": (worker, "complete_trial"),
    "stored activations opened": (objective, "tuning_sets"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--json", type=lambda name: Path(name).resolve(), help="where to write the figures")
    arguments = parser.parse_args()
    data, weights = (Path(os.environ[name]) for name in ("WASTETUNE_DATA", "WASTETUNE_WEIGHTS"))
    os.chdir(tempfile.mkdtemp())
    console = open_console()
    spec = load_study("mobilenet_small_trashnet").model_copy(update={"space": "head", "views": 4})
    prepared = prepare_study(spec, data=data, weights=weights, console=console)
    study = open_study(open_storage("sqlite:///overhead.db"), "overhead", prepared.fingerprint)
    spent: dict[str, float] = defaultdict(float)
    for name, (module, function) in PARTS.items():
        setattr(module, function, timed(getattr(module, function), name, spent))
    rows: list[dict[str, float]] = []
    last = time.perf_counter()

    def on_trial(trial: Any) -> None:
        nonlocal last
        now = time.perf_counter()
        epochs = sum(epoch["seconds"] for epoch in trial.user_attrs["history"])
        rows.append({**spent, "besides training": now - last - epochs, "training": epochs})
        spent.clear()
        last = time.perf_counter()

    run_worker(study, prepared.context, trials=arguments.trials, timeout=None, bar=console.bar, on_trial=on_trial)
    medians = {name: statistics.median(row.get(name, 0.0) for row in rows[1:]) * 1000 for name in rows[-1]}
    for name, value in medians.items():
        print(f"{name:32} {value:8.1f} ms")
    if arguments.json:
        arguments.json.write_text(json.dumps(medians, indent=2))


def timed(function: Callable[..., Any], name: str, spent: dict[str, float]) -> Callable[..., Any]:
    def call(*given: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            spent[name] += time.perf_counter() - started

    return call


if __name__ == "__main__":
    main()
