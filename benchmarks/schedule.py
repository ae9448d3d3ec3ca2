"""A configuration fitted up to its trial's best epoch against all of its epochs, out of fold; no test picture is used.

    python benchmarks/schedule.py --study mobilenet_small_trashnet --storage sqlite:///wastetune.db --trials 8

Prints macro F1 and log loss of the best complete trials of a study that has been run, and the mean difference.
"""

import argparse
from pathlib import Path

import numpy as np

from wastetune.console import open_console
from wastetune.data.splits import draw_folds
from wastetune.evaluation.calibration import log_loss
from wastetune.evaluation.metrics import metric_value
from wastetune.storage.database import open_storage
from wastetune.storage.records import read_attrs
from wastetune.storage.study import find_study, read_trials
from wastetune.training.config import TrialConfig
from wastetune.tuning.objective import cross_predict
from wastetune.tuning.prepare import prepare_study
from wastetune.tuning.spec import load_study


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--study", required=True)
    parser.add_argument("--storage", default="sqlite:///wastetune.db")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("--folds", type=int, default=5)
    asked = parser.parse_args()
    console, spec = open_console(quiet=True), load_study(asked.study)
    prepared = prepare_study(spec, data=asked.data, weights=asked.weights, console=console)
    index, splits = prepared.index, prepared.splits
    rows = (*splits.train, *splits.val)
    labels = np.array([index.pictures[row].label for row in rows])
    folds = draw_folds(index, rows, asked.folds, seed=0)
    trials = read_trials(find_study(open_storage(asked.storage), spec.name))
    complete = sorted((each for each in trials if each.state.name == "COMPLETE"), key=lambda each: -each.value)
    gains = []
    for trial in complete[: asked.trials]:
        attrs = read_attrs(trial)
        config = TrialConfig.model_validate(attrs.config)
        scores = {}
        for epochs in (attrs.best_epoch, config.epochs):
            made = cross_predict(prepared.context, config, folds, number=trial.number, epochs=epochs, bar=console.bar)
            loss = log_loss(labels, made)
            scores[epochs] = metric_value("macro_f1", labels, made)
            print(
                f"trial {trial.number}, {epochs} epochs: macro F1 {scores[epochs]:.4f}, log loss {loss:.4f}", flush=True
            )
        gains.append(scores[config.epochs] - scores[attrs.best_epoch])
    print(f"all epochs minus best epoch, mean of {len(gains)} trials: {np.mean(gains):+.4f}")


if __name__ == "__main__":
    main()
