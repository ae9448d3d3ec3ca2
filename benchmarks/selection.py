"""Which rule picks the final model best? Studies of heads on several data sets, every rule on the same trials.

    python benchmarks/selection.py collect --case trashnet --seed 0 --folder selection
    python benchmarks/selection.py compare --folder selection

`collect` runs a study and keeps what rules may see (validation scores, out-of-fold probabilities of the best trials)
and what they are judged by (each trial's probabilities of the test pictures after refitting). `compare` applies the
rules. It reads the test set for every trial, as no study may; rules are developed on DEVELOPED and confirmed on the
others.
"""

import argparse
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from common import folders, prepare, temporary_folder, write_study

from wastetune.console import open_console, silence_tensorflow
from wastetune.data.splits import draw_folds
from wastetune.evaluation.calibration import fit_temperature, log_loss, measure_calibration, scale_probabilities
from wastetune.evaluation.metrics import metric_value
from wastetune.formatting import markdown_table
from wastetune.storage.records import read_attrs
from wastetune.storage.study import default_trial, read_trials
from wastetune.study.refit import refit
from wastetune.training.config import TrialConfig
from wastetune.tuning import worker
from wastetune.tuning.objective import cross_predict
from wastetune.tuning.prepare import join_study

BACKBONE = {"backbone": "mobilenet_v3_small_075", "weights": "imagenet", "space": "head"}
DEVELOPED = ("trashnet", "wid_to_trashnet", "small")
CONFIRMED = ("wid", "trashnet_to_wid", "wid_by_source")
FOLDS, CANDIDATES, REFITTED = 5, 10, 20  # trials with out-of-fold probabilities; trials that are refitted
# WID holds TrashNet: its files are numbered without a space, those of the other collections are `name (number)`.
OTHER = re.compile(r" \(\d+\)\.")
COMMON = {  # class of both -> class folders of TrashNet, of WID's other collections
    "glass": (("glass",), ("Glass",)),
    "metal": (("metal",), ("Aluminium",)),
    "paper": (("paper", "cardboard"), ("Paper and Cardboard",)),
    "plastic": (("plastic",), ("Other Plastics",)),
}


def link_case(case: str, seed: int, data: Path, folder: Path) -> Path:
    """The folder of a case's pictures, as links into the data sets."""
    if case in ("trashnet", "wid"):
        return data / case
    rng = np.random.default_rng(seed)
    for side, name, file in _files(case, data, rng):
        (folder / case / side / name).mkdir(parents=True, exist_ok=True)
        (folder / case / side / name / f"{file.parent.name}-{file.name}").symlink_to(file)
    return folder / case


def _files(case: str, data: Path, rng: np.random.Generator) -> Any:
    if case == "small":  # twenty pictures of a class to learn from, all others to test
        for name in sorted((data / "trashnet").iterdir()):
            files = sorted(name.iterdir())
            chosen = set(rng.choice(len(files), 20, replace=False))
            yield from (("train" if i in chosen else "test", name.name, file) for i, file in enumerate(files))
    elif case == "wid_by_source":
        for name in sorted((data / "wid").iterdir()):
            files = sorted(name.iterdir())
            others = [bool(OTHER.search(file.name)) for file in files]
            if 0 < sum(others) < len(files):
                # Glass is learned from the other collections, the rest from TrashNet's.
                yield from (
                    ("train" if other == (name.name == "Glass") else "test", name.name, file)
                    for file, other in zip(files, others, strict=True)
                )
            else:
                tested = rng.random(len(files)) < 0.3
                yield from (("test" if t else "train", name.name, file) for t, file in zip(tested, files, strict=True))
    else:
        sides = ("train", "test") if case == "trashnet_to_wid" else ("test", "train")
        for name, (ours, theirs) in COMMON.items():
            for part in ours:
                yield from ((sides[0], name, file) for file in sorted((data / "trashnet" / part).iterdir()))
            for part in theirs:
                files = sorted((data / "wid" / part).iterdir())
                yield from ((sides[1], name, file) for file in files if OTHER.search(file.name))


def collect(case: str, seed: int, trials: int, folder: Path) -> None:
    """Runs the study of a case and writes what the rules need."""
    data, _ = folders()
    assert data is not None, "name the folder of data sets: WASTETUNE_DATA"
    folder = folder.resolve()
    folder.mkdir(exist_ok=True)
    console = open_console(quiet=True)
    with temporary_folder() as here:
        pictures = link_case(case, seed, data.resolve(), here)
        started = time.perf_counter()
        prepared = prepare(write_study("study", dataset=str(pictures), trials=trials, seed=seed, views=4, **BACKBONE))
        context, kept = prepared.context, {}
        study = join_study(prepared, f"sqlite:///{here}/study.db", console)

        def run_trial(config: TrialConfig, number: int, *rest: Any) -> Any:
            kept[number] = ran = original(config, number, *rest)
            return ran

        original, worker.run_trial = worker.run_trial, run_trial
        worker.run_worker(study, context, trials=trials, timeout=None, bar=console.bar, on_trial=lambda trial: None)
        searched = time.perf_counter() - started

        default = default_trial(study)
        complete = sorted((t for t in read_trials(study) if t.state.name == "COMPLETE"), key=lambda t: -t.value)
        chosen = complete[:REFITTED]
        chosen += [default] if default.number not in [t.number for t in chosen] else []
        rows = (*prepared.splits.train, *prepared.splits.val)
        folds = draw_folds(prepared.index, rows, FOLDS, seed=seed)
        configs = [TrialConfig.model_validate(read_attrs(t).config) for t in chosen]
        cross, test = [], []
        started = time.perf_counter()
        for place, (trial, config) in enumerate(zip(chosen, configs, strict=True)):
            if place < CANDIDATES or trial.number == default.number:
                epochs = read_attrs(trial).best_epoch
                cross.append(cross_predict(context, config, folds, number=trial.number, epochs=epochs, bar=console.bar))
            else:
                cross.append(np.full_like(cross[0], np.nan))
        crossed = time.perf_counter() - started
        for trial in chosen:
            again = refit(context, prepared.test, {trial.number: read_attrs(trial)}, bar=console.bar)
            test.append(again.probabilities)
        part = folder / f"{case}-{seed}.part.npz"
        np.savez_compressed(
            part,
            numbers=[t.number for t in chosen],
            scores=[t.value for t in chosen],
            default=default.number,
            val=np.stack([kept[t.number].fit.probabilities for t in chosen]),
            cross=np.stack(cross),
            test=np.stack(test),
            val_labels=context.data.val.labels,
            labels=np.concatenate([context.data.train.labels, context.data.val.labels]),
            test_labels=prepared.test.labels,
            seconds=[searched, crossed],
        )
        shutil.move(part, folder / f"{case}-{seed}.npz")
        print(case, seed, f"search {searched:.0f} s, folds {crossed:.0f} s", flush=True)


def compare(folder: Path) -> None:
    """Prints the scores of every rule, a column per case: the mean over its seeds."""
    scores: dict[str, dict[tuple[str, int], float]] = defaultdict(dict)
    for file in sorted(folder.glob("*.npz")):
        case, _, seed = file.stem.rpartition("-")
        with np.load(file) as kept:
            for name, value in apply_rules(dict(kept)).items():
                scores[name][case, int(seed)] = value
    runs = sorted(scores["default"])
    for part in (DEVELOPED, CONFIRMED):
        here = [run for run in runs if run[0] in part]
        rows = []
        for name, values in scores.items():
            means = [np.mean([values[run] for run in here if run[0] == case]) for case in part]
            gains = [values[run] - scores["default"][run] for run in here]
            against = [values[run] - scores["winner"][run] for run in here]
            summary = () if name.startswith("ECE") else (np.mean(gains), min(gains), np.mean(against))
            rows.append((name, *(f"{mean:.4f}" for mean in means), *(f"{value:+.4f}" for value in summary)))
        header = ("rule", *part, "minus default", "worst run", "minus winner")
        print("\n".join(markdown_table(header, [(*row, *[""] * (len(header) - len(row))) for row in rows])), "\n")


def apply_rules(kept: dict[str, Any]) -> dict[str, float]:
    """Rule -> macro F1 on the test set; and calibration errors of the mean of five."""
    numbers, test, labels = list(kept["numbers"]), kept["test"], kept["test_labels"]
    default = numbers.index(int(kept["default"]))
    crossed = [place for place in range(len(numbers)) if np.isfinite(kept["cross"][place]).all()]

    def best_and_default(most: int) -> list[int]:
        return list(dict.fromkeys([*range(min(most, len(numbers))), default]))

    def highest(places: Iterable[int], score: Callable[[int], float]) -> int:
        return max(places, key=score)

    cross_score = {place: metric_value("macro_f1", kept["labels"], kept["cross"][place]) for place in crossed}
    cross_loss = {place: log_loss(kept["labels"], kept["cross"][place]) for place in crossed}
    greedy = {
        "greedy, out of fold": [crossed[i] for i in pick_greedily(kept["labels"], kept["cross"][crossed])],
        "greedy, validation": pick_greedily(kept["val_labels"], kept["val"]),
    }
    rules = {
        "default": [default],
        "winner": [0],
        "best of five folds": [highest(crossed, lambda place: cross_score[place])],
        "lowest log loss of five folds": [highest(crossed, lambda place: -cross_loss[place])],
        **{f"mean of {most} and default": best_and_default(most) for most in (3, 5, 10, 20)},
        **greedy,
    }
    found = {name: metric_value("macro_f1", labels, test[places].mean(axis=0)) for name, places in rules.items()}
    five = best_and_default(5)
    raw = test[five].mean(axis=0)
    for name, held_out, true in (("folds", "cross", "labels"), ("validation", "val", "val_labels")):
        temperature = fit_temperature(kept[true], kept[held_out][five].mean(axis=0))
        calibrated = scale_probabilities(raw, temperature)
        found[f"ECE, temperature from {name}"] = measure_calibration(labels, calibrated).error
    # What the bins and the number of pictures alone make of an error of 0: labels drawn from the probabilities.
    rng = np.random.default_rng(0)
    drawn = (rng.random((50, len(calibrated), 1)) > calibrated.cumsum(axis=1)).sum(axis=2)
    drawn = np.minimum(drawn, calibrated.shape[1] - 1)  # the sum of rounded probabilities may stay below 1
    found["ECE of a perfect model, simulated"] = float(
        np.mean([measure_calibration(each, calibrated).error for each in drawn])
    )
    found["ECE, not calibrated"] = measure_calibration(labels, raw).error
    found["ECE, winner"] = measure_calibration(labels, test[0]).error
    return found


def pick_greedily(labels: Any, probabilities: Any, rounds: int = 15) -> list[int]:
    """Caruana et al. 2004, "Ensemble selection from libraries of models": with replacement, by log loss."""
    total, picked, best = np.zeros_like(probabilities[0]), [], (np.inf, 0)
    for size in range(1, rounds + 1):
        losses = [log_loss(labels, (total + each) / size) for each in probabilities]
        picked.append(int(np.argmin(losses)))
        total = total + probabilities[picked[-1]]
        best = min(best, (min(losses), size))
    return picked[: best[1]]


if __name__ == "__main__":
    silence_tensorflow()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["collect", "compare"])
    parser.add_argument("--case", choices=[*DEVELOPED, *CONFIRMED])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--folder", type=Path, default=Path("selection"))
    asked = parser.parse_args()
    if asked.part == "collect":
        collect(asked.case, asked.seed, asked.trials, asked.folder)
    else:
        compare(asked.folder)
